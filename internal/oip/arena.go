package oip

import "strings"

// arena hands out slices of one block of memory, which a reset takes back. A
// block that is too small is left to its tenants, and the next one is large
// enough for all that was asked for since the reset; so after a few requests of
// one kind nothing is allocated any more.
type arena[T any] struct {
	block []T
	asked int
}

// mostKept is the largest block, in elements, that outlives a reset: one huge
// request should not cost its memory for ever.
const mostKept = 1 << 20

func (a *arena[T]) reset() {
	a.asked = 0
	a.block = a.block[:0]
	if cap(a.block) > mostKept {
		a.block = nil
	}
}

// take gives n elements, with any content.
func (a *arena[T]) take(n int) []T {
	a.asked += n
	from := len(a.block)
	if n > cap(a.block)-from {
		from = 0
		a.block = make([]T, 0, max(a.asked, 64))
	}
	a.block = a.block[:from+n]
	return a.block[from : from+n : from+n]
}

// charsBlock is how many bytes of short strings share one allocation.
const charsBlock = 1 << 10

// keep copies text into a string that stays valid for ever. Short ones share
// blocks; a block is only ever appended to, so strings in it never change.
func (r *Request) keep(text []byte) string {
	if len(text) > charsBlock/4 {
		return string(text)
	}
	if len(text) > r.chars.Cap()-r.chars.Len() {
		r.chars = strings.Builder{}
		r.chars.Grow(charsBlock)
	}
	from := r.chars.Len()
	r.chars.Write(text)
	return r.chars.String()[from:]
}

package oip

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

// Package jsonwire reads and writes JSON for those who speak of tensors in it:
// a Scanner goes over foreign text strictly by RFC 8259 and reads elements
// straight into typed memory, and the Append functions write them.
//
// It knows the grammar and the types of elements, and no protocol: which members
// there are, and how elements nest, is its callers' affair. What is no JSON ends
// in a fault of kind Invalid that tells the byte. Values are plain data: a
// Scanner serves one goroutine at a time.
package jsonwire

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// maxDepth bounds how deep a skipped value may nest. It is also the number of
// bits in the stack that Skip keeps instead of recursing.
const maxDepth = 64

// Scanner walks once over JSON text, strictly by RFC 8259. It hands out strings
// as slices of the text, and builds no values.
type Scanner struct {
	Text []byte
	Pos  int    // of the next byte to read
	What string // the text is, for errors; "": the body

	scratch []byte          // holds the last string that had escapes
	chars   strings.Builder // of strings that are kept
}

// Broken reports text that is not JSON, at the current position.
func (s *Scanner) Broken(format string, args ...any) error {
	return fault.New(fault.Invalid, "%s is not valid JSON at byte %d: %s", cmp.Or(s.What, "the body"), s.Pos, fmt.Sprintf(format, args...))
}

// Expected reports that what stands at the current position is not what should.
func (s *Scanner) Expected(what string) error {
	if s.Pos >= len(s.Text) {
		return s.Broken("it ends where %s is expected", what)
	}
	if c := s.Text[s.Pos]; c > ' ' && c < utf8.RuneSelf {
		return s.Broken("%q stands where %s is expected", c, what)
	}
	return s.Broken("byte 0x%02x stands where %s is expected", s.Text[s.Pos], what)
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// Peek skips white space and gives the byte behind it, 0 at the end.
func (s *Scanner) Peek() byte {
	if s.Pos < len(s.Text) && s.Text[s.Pos] > ' ' {
		return s.Text[s.Pos]
	}
	return s.skipSpace()
}

func (s *Scanner) skipSpace() byte {
	for ; s.Pos < len(s.Text); s.Pos++ {
		if c := s.Text[s.Pos]; !isSpace(c) {
			return c
		}
	}
	return 0
}

// Take consumes c if it comes next.
func (s *Scanner) Take(c byte) bool {
	if s.Peek() != c {
		return false
	}
	s.Pos++
	return true
}

// Word consumes a literal such as null if it comes next.
func (s *Scanner) Word(w string) bool {
	s.Peek()
	if end := s.Pos + len(w); end <= len(s.Text) && string(s.Text[s.Pos:end]) == w {
		s.Pos = end
		return true
	}
	return false
}

// Member steps to the i-th member of an object whose brace is consumed, and
// gives its key, which is valid until the next string is read; nil: the object
// has ended. The value comes next.
func (s *Scanner) Member(i int) ([]byte, error) {
	if s.Take('}') {
		return nil, nil
	}
	if i > 0 && !s.Take(',') {
		return nil, s.Expected("a comma or }")
	}
	return s.AnyKey()
}

// AnyKey reads a key and its colon.
func (s *Scanner) AnyKey() ([]byte, error) {
	if s.Peek() != '"' {
		return nil, s.Expected("a key in quotes")
	}
	key, err := s.Quoted()
	if err == nil && !s.Take(':') {
		err = s.Expected("a colon")
	}
	return key, err
}

// Key consumes the given key and its colon if they come next as they mostly do:
// without escapes and without a space between.
func (s *Scanner) Key(name string) bool {
	if s.Peek() != '"' {
		return false
	}
	from := s.Pos + 1
	end := from + len(name)
	if end+2 > len(s.Text) || string(s.Text[from:end]) != name || s.Text[end] != '"' || s.Text[end+1] != ':' {
		return false
	}
	s.Pos = end + 2
	return true
}

// Element steps to the i-th element of an array whose bracket is consumed, and
// tells whether there is one; its value comes next.
func (s *Scanner) Element(i int) (bool, error) {
	if s.Take(']') {
		return false, nil
	}
	if i > 0 && !s.Take(',') {
		return false, s.Expected("a comma or ]")
	}
	return true, nil
}

const (
	eachByte = 0x0101010101010101
	eachHigh = 0x80 * eachByte
)

// Quoted reads the string that starts here, checks its encoding and resolves
// its escapes. The slice is valid until the next call.
func (s *Scanner) Quoted() ([]byte, error) {
	b, start := s.Text, s.Pos+1
	escaped, ascii := false, true
	i := start
	for {
		if i+8 <= len(b) {
			// Look at eight bytes at once: the lowest high bit in special is exact,
			// because borrows only run upwards from a byte that is special itself.
			w := binary.LittleEndian.Uint64(b[i:])
			special := (w | (w - 0x20*eachByte) | ((w ^ '"'*eachByte) - eachByte) | ((w ^ '\\'*eachByte) - eachByte)) & eachHigh
			if special == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(special) / 8
		}
		if i >= len(b) {
			s.Pos = len(b)
			return nil, s.Expected("a closing quote")
		}
		switch c := b[i]; {
		case c == '"':
			s.Pos = i + 1
			raw := b[start:i]
			if !ascii && !utf8.Valid(raw) {
				s.Pos = start
				return nil, s.Broken("a string is not valid UTF-8")
			}
			if escaped {
				return s.unescape(start, i)
			}
			return raw, nil
		case c == '\\':
			escaped = true
			i += 2
		case c < ' ':
			s.Pos = i
			return nil, s.Broken("a control character in a string must be escaped")
		case c >= utf8.RuneSelf:
			ascii = false
			for i < len(b) && b[i] >= utf8.RuneSelf {
				i++
			}
		default:
			i++
		}
	}
}

// unescape resolves the escapes of text[i:end] into the scratch buffer.
func (s *Scanner) unescape(i, end int) ([]byte, error) {
	out := s.scratch[:0]
	after := s.Pos
	for i < end {
		c := s.Text[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		s.Pos = i // where an error would be
		i += 2
		switch c := s.Text[i-1]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex4(s.Text[i:end])
			i += 4
			if ok && utf16.IsSurrogate(r) {
				// Only a high surrogate and its low one make a character.
				var low rune
				if i+2 <= end && s.Text[i] == '\\' && s.Text[i+1] == 'u' {
					low, ok = hex4(s.Text[i+2 : end])
				}
				r = utf16.DecodeRune(r, low)
				ok = ok && r != utf8.RuneError
				i += 6
			}
			if !ok {
				return nil, s.Broken("an escape does not name a character")
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, s.Broken("an unknown escape in a string")
		}
	}
	s.Pos, s.scratch = after, out
	return out, nil
}

// hex4 reads the four hexadecimal digits that b starts with.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// Number reads a number's literal. integer tells that it has neither a fraction
// nor an exponent.
func (s *Scanner) Number() (literal []byte, integer bool, err error) {
	b, start := s.Text, s.Pos
	digits := func() bool {
		from := s.Pos
		for s.Pos < len(b) && '0' <= b[s.Pos] && b[s.Pos] <= '9' {
			s.Pos++
		}
		return s.Pos > from
	}
	if s.Pos < len(b) && b[s.Pos] == '-' {
		s.Pos++
	}
	if s.Pos < len(b) && b[s.Pos] == '0' {
		s.Pos++
	} else if !digits() {
		if s.Pos == start {
			return nil, false, s.Expected("a value")
		}
		return nil, false, s.Expected("a digit")
	}
	integer = true
	if s.Pos < len(b) && b[s.Pos] == '.' {
		integer = false
		s.Pos++
		if !digits() {
			return nil, false, s.Expected("a digit")
		}
	}
	if s.Pos < len(b) && b[s.Pos]|' ' == 'e' {
		integer = false
		s.Pos++
		if s.Pos < len(b) && (b[s.Pos] == '+' || b[s.Pos] == '-') {
			s.Pos++
		}
		if !digits() {
			return nil, false, s.Expected("a digit")
		}
	}
	return b[start:s.Pos], integer, nil
}

// Skip passes over one value of any kind, checking it.
func (s *Scanner) Skip() error {
	var objects uint64 // one bit for each open container, the innermost lowest: is it an object?
	for depth := 0; ; {
		var err error
		i := 1 // elements seen in the innermost container: none, or some
		switch c := s.Peek(); c {
		case '{', '[':
			if depth == maxDepth {
				return s.Broken("values nest deeper than %d", maxDepth)
			}
			s.Pos++
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			i = 0
		case '"':
			_, err = s.Quoted()
		case 't', 'f', 'n':
			if !s.Word("true") && !s.Word("false") && !s.Word("null") {
				err = s.Expected("a value")
			}
		default:
			_, _, err = s.Number()
		}
		for err == nil && depth > 0 {
			var more bool
			if objects&1 == 1 {
				var key []byte
				key, err = s.Member(i)
				more = key != nil
			} else {
				more, err = s.Element(i)
			}
			if more {
				break
			}
			depth--
			objects >>= 1
			i = 1
		}
		if err != nil || depth == 0 {
			return err
		}
	}
}

// Members is which known members of one object were seen, a bit each.
type Members uint8

// Has tells whether the i-th of the known members was seen.
func (m Members) Has(i int) bool { return m>>i&1 == 1 }

// Object reads an object whose brace is consumed. For each of the known members
// (eight at most) that it has, read gets the position in names and what was seen
// before, with the value next in the text; others are checked to be JSON and
// passed over. where names the object in errors.
func (s *Scanner) Object(names []string, where func() string, read func(m int, seen Members) error) (seen Members, err error) {
	guess := 0 // clients write members in the usual order, the one of names
	for i := 0; ; i++ {
		if s.Take('}') {
			return seen, nil
		}
		if i > 0 && !s.Take(',') {
			return seen, s.Expected("a comma or }")
		}
		m := guess
		if guess >= len(names) || !s.Key(names[guess]) {
			key, err := s.AnyKey()
			if err != nil {
				return seen, err
			}
			m = slices.IndexFunc(names, func(name string) bool { return name == string(key) })
		}
		if m < 0 {
			err = s.Skip()
		} else if guess = m + 1; seen.Has(m) {
			return seen, fault.New(fault.Invalid, "%s: %s is given twice", where(), names[m])
		} else {
			err = read(m, seen)
			seen |= 1 << m
		}
		if err != nil {
			return seen, err
		}
	}
}

// charsBlock is how many bytes of short strings share one allocation.
const charsBlock = 1 << 10

// Keep copies text into a string that stays valid for ever. Short ones share
// blocks; a block is only ever appended to, so strings in it never change.
func (s *Scanner) Keep(text []byte) string {
	if len(text) > charsBlock/4 {
		return string(text)
	}
	if len(text) > s.chars.Cap()-s.chars.Len() {
		s.chars = strings.Builder{}
		s.chars.Grow(charsBlock)
	}
	from := s.chars.Len()
	s.chars.Write(text)
	return s.chars.String()[from:]
}

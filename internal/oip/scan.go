package oip

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep a skipped value may nest. It is also the number of
// bits in the stack that skip keeps instead of recursing.
const maxDepth = 64

// scanner walks once over JSON text, strictly by RFC 8259. It hands out strings
// as slices of the text, and builds no values.
type scanner struct {
	text    []byte
	pos     int
	scratch []byte // holds the last string that had escapes
}

// broken reports text that is not JSON, at the current position.
func (s *scanner) broken(format string, args ...any) error {
	return invalid("the body is not valid JSON at byte %d: %s", s.pos, fmt.Sprintf(format, args...))
}

// expected reports that what stands at the current position is not what should.
func (s *scanner) expected(what string) error {
	if s.pos >= len(s.text) {
		return s.broken("it ends where %s is expected", what)
	}
	if c := s.text[s.pos]; c > ' ' && c < utf8.RuneSelf {
		return s.broken("%q stands where %s is expected", c, what)
	}
	return s.broken("byte 0x%02x stands where %s is expected", s.text[s.pos], what)
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// peek skips white space and gives the byte behind it, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.text) && s.text[s.pos] > ' ' {
		return s.text[s.pos]
	}
	return s.skipSpace()
}

func (s *scanner) skipSpace() byte {
	for ; s.pos < len(s.text); s.pos++ {
		if c := s.text[s.pos]; !isSpace(c) {
			return c
		}
	}
	return 0
}

// take consumes c if it comes next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

// word consumes a literal such as null if it comes next.
func (s *scanner) word(w string) bool {
	s.peek()
	if end := s.pos + len(w); end <= len(s.text) && string(s.text[s.pos:end]) == w {
		s.pos = end
		return true
	}
	return false
}

// member steps to the i-th member of an object whose brace is consumed, and
// gives its key, which is valid until the next string is read; nil: the object
// has ended. The value comes next.
func (s *scanner) member(i int) ([]byte, error) {
	if s.take('}') {
		return nil, nil
	}
	if i > 0 && !s.take(',') {
		return nil, s.expected("a comma or }")
	}
	return s.anyKey()
}

// anyKey reads a key and its colon.
func (s *scanner) anyKey() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.expected("a key in quotes")
	}
	key, err := s.string()
	if err == nil && !s.take(':') {
		err = s.expected("a colon")
	}
	return key, err
}

// key consumes the given key and its colon if they come next as they mostly do:
// without escapes and without a space between.
func (s *scanner) key(name string) bool {
	if s.peek() != '"' {
		return false
	}
	from := s.pos + 1
	end := from + len(name)
	if end+2 > len(s.text) || string(s.text[from:end]) != name || s.text[end] != '"' || s.text[end+1] != ':' {
		return false
	}
	s.pos = end + 2
	return true
}

// element steps to the i-th element of an array whose bracket is consumed, and
// tells whether there is one; its value comes next.
func (s *scanner) element(i int) (bool, error) {
	if s.take(']') {
		return false, nil
	}
	if i > 0 && !s.take(',') {
		return false, s.expected("a comma or ]")
	}
	return true, nil
}

const (
	eachByte = 0x0101010101010101
	eachHigh = 0x80 * eachByte
)

// string reads the string that starts here, checks its encoding and resolves
// its escapes. The slice is valid until the next call.
func (s *scanner) string() ([]byte, error) {
	b, start := s.text, s.pos+1
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
			s.pos = len(b)
			return nil, s.expected("a closing quote")
		}
		switch c := b[i]; {
		case c == '"':
			s.pos = i + 1
			raw := b[start:i]
			if !ascii && !utf8.Valid(raw) {
				s.pos = start
				return nil, s.broken("a string is not valid UTF-8")
			}
			if escaped {
				return s.unescape(start, i)
			}
			return raw, nil
		case c == '\\':
			escaped = true
			i += 2
		case c < ' ':
			s.pos = i
			return nil, s.broken("a control character in a string must be escaped")
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
func (s *scanner) unescape(i, end int) ([]byte, error) {
	out := s.scratch[:0]
	after := s.pos
	for i < end {
		c := s.text[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		s.pos = i // where an error would be
		i += 2
		switch c := s.text[i-1]; c {
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
			r, ok := hex4(s.text[i:end])
			i += 4
			if ok && utf16.IsSurrogate(r) {
				// Only a high surrogate and its low one make a character.
				var low rune
				if i+2 <= end && s.text[i] == '\\' && s.text[i+1] == 'u' {
					low, ok = hex4(s.text[i+2 : end])
				}
				r = utf16.DecodeRune(r, low)
				ok = ok && r != utf8.RuneError
				i += 6
			}
			if !ok {
				return nil, s.broken("an escape does not name a character")
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, s.broken("an unknown escape in a string")
		}
	}
	s.pos, s.scratch = after, out
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

// number reads a number's literal. integer tells that it has neither a fraction
// nor an exponent.
func (s *scanner) number() (literal []byte, integer bool, err error) {
	b, start := s.text, s.pos
	digits := func() bool {
		from := s.pos
		for s.pos < len(b) && '0' <= b[s.pos] && b[s.pos] <= '9' {
			s.pos++
		}
		return s.pos > from
	}
	if s.pos < len(b) && b[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(b) && b[s.pos] == '0' {
		s.pos++
	} else if !digits() {
		if s.pos == start {
			return nil, false, s.expected("a value")
		}
		return nil, false, s.expected("a digit")
	}
	integer = true
	if s.pos < len(b) && b[s.pos] == '.' {
		integer = false
		s.pos++
		if !digits() {
			return nil, false, s.expected("a digit")
		}
	}
	if s.pos < len(b) && b[s.pos]|' ' == 'e' {
		integer = false
		s.pos++
		if s.pos < len(b) && (b[s.pos] == '+' || b[s.pos] == '-') {
			s.pos++
		}
		if !digits() {
			return nil, false, s.expected("a digit")
		}
	}
	return b[start:s.pos], integer, nil
}

// skip passes over one value of any kind, checking it.
func (s *scanner) skip() error {
	var objects uint64 // one bit for each open container, the innermost lowest: is it an object?
	for depth := 0; ; {
		var err error
		i := 1 // elements seen in the innermost container: none, or some
		switch c := s.peek(); c {
		case '{', '[':
			if depth == maxDepth {
				return s.broken("values nest deeper than %d", maxDepth)
			}
			s.pos++
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			i = 0
		case '"':
			_, err = s.string()
		case 't', 'f', 'n':
			if !s.word("true") && !s.word("false") && !s.word("null") {
				err = s.expected("a value")
			}
		default:
			_, _, err = s.number()
		}
		for err == nil && depth > 0 {
			var more bool
			if objects&1 == 1 {
				var key []byte
				key, err = s.member(i)
				more = key != nil
			} else {
				more, err = s.element(i)
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

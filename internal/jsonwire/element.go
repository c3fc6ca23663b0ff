package jsonwire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Run reads elements i to end of t, which has memory for them, as they stand in
// an array with commas between; or fewer, if the array ends before. It gives the
// number behind the last one. What comes next is then a comma, bracket or brace,
// which the caller checks. So it also reads a single element that stands alone.
//
// Each element is first tried by a reader that is fast and takes only what is
// usual; what that leaves goes to other, which reads one element or says what is
// wrong with it, mostly by Value.
func (s *Scanner) Run(t *tensor.Tensor, i, end int, other func(t *tensor.Tensor, i int) error) (int, error) {
	if i == end {
		return i, nil
	}
	b, p, first := s.Text, s.Pos, i
	kind, size, data := t.Type, t.Type.Size(), t.Data
	most, least := limits(kind)
	for ; ; i++ {
		for p < len(b) && isSpace(b[p]) {
			p++
		}
		start := p
		switch kind {
		case tensor.FP32:
			var bits uint32
			if bits, p = float32At(b, p); p >= 0 {
				binary.LittleEndian.PutUint32(data[4*i:], bits)
			}
		case tensor.FP64:
			var bits uint64
			if bits, p = float64At(b, p); p >= 0 {
				binary.LittleEndian.PutUint64(data[8*i:], bits)
			}
		case tensor.Bool, tensor.Bytes:
			p = -1
		default:
			var magnitude uint64
			var negative bool
			if magnitude, negative, p = integerAt(b, p); p >= 0 {
				if magnitude <= most || negative && magnitude <= least {
					putInteger(data[size*i:], size, magnitude, negative)
				} else {
					p = -1
				}
			}
		}
		if p < 0 {
			s.Pos = start
			if i == first && s.Peek() == ']' {
				return i, nil
			}
			if err := other(t, i); err != nil {
				return i, err
			}
			p = s.Pos
		}
		if p < len(b) && b[p] == ',' && i+1 < end {
			p++
			continue
		}
		s.Pos = p
		switch c := s.Peek(); {
		case c == ',' && i+1 < end:
			p = s.Pos + 1
		case c == ',' || c == ']' || c == '}':
			return i + 1, nil
		default:
			// The fast readers stop at the first byte they don't know, as in 1.5 for
			// an integer: the complete one tells what is wrong with it.
			s.Pos = start
			if err := other(t, i); err != nil {
				return i, err
			}
			return i, s.Expected("a comma or ]")
		}
	}
}

// limits gives the greatest magnitudes of an integer type, above and below zero.
func limits(t tensor.Type) (most, least uint64) {
	bits := 8 * t.Size()
	switch t {
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64:
		return math.MaxUint64 >> (64 - bits), 0
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64:
		return 1<<(bits-1) - 1, 1 << (bits - 1)
	}
	return 0, 0
}

func putInteger(data []byte, size int, magnitude uint64, negative bool) {
	if negative {
		magnitude = -magnitude
	}
	switch size {
	case 1:
		data[0] = byte(magnitude)
	case 2:
		binary.LittleEndian.PutUint16(data, uint16(magnitude))
	case 4:
		binary.LittleEndian.PutUint32(data, uint32(magnitude))
	case 8:
		binary.LittleEndian.PutUint64(data, magnitude)
	}
}

// what an element of each type must be, for errors.
var takes = [...]string{
	tensor.Bool:  "true or false",
	tensor.Uint8: "an integer", tensor.Uint16: "an integer", tensor.Uint32: "an integer", tensor.Uint64: "an integer",
	tensor.Int8: "an integer", tensor.Int16: "an integer", tensor.Int32: "an integer", tensor.Int64: "an integer",
	tensor.FP32: "a number", tensor.FP64: "a number",
	tensor.Bytes: "a string",
}

// Value reads element i of t, whatever it looks like. What is JSON and no element
// of t's type gives a misfit: the words to follow the name of its place.
func (s *Scanner) Value(t *tensor.Tensor, i int) (misfit string, err error) {
	c := s.Peek()
	switch {
	case c == '"' && t.Type == tensor.Bytes:
		text, err := s.Quoted()
		t.Strings[i] = s.Keep(text)
		return "", err
	case c == 't' && t.Type == tensor.Bool && s.Word("true"):
		t.Data[i] = 1
		return "", nil
	case c == 'f' && t.Type == tensor.Bool && s.Word("false"):
		t.Data[i] = 0
		return "", nil
	case c == 'n' && s.Word("null"):
		return "is null, but every element of a tensor must have a value", nil
	}
	if kind := kindAt(c); kind != "" {
		return fmt.Sprintf("is %s, but %s takes %s", kind, t.Type, takes[t.Type]), nil
	}
	literal, integer, err := s.Number()
	if err != nil {
		return "", err
	}
	size := t.Type.Size()
	unfit := func() (string, error) {
		return fmt.Sprintf("is %s, which does not fit %s", tensor.Clip(string(literal)), t.Type), nil
	}
	switch {
	case t.Type == tensor.FP32 || t.Type == tensor.FP64:
		f, err := strconv.ParseFloat(string(literal), 8*size)
		if err != nil {
			return unfit()
		}
		if t.Type == tensor.FP32 {
			binary.LittleEndian.PutUint32(t.Data[4*i:], math.Float32bits(float32(f)))
		} else {
			binary.LittleEndian.PutUint64(t.Data[8*i:], math.Float64bits(f))
		}
	case t.Type == tensor.Bool || t.Type == tensor.Bytes:
		return fmt.Sprintf("is a number, but %s takes %s", t.Type, takes[t.Type]), nil
	case !integer:
		return fmt.Sprintf("is %s, but %s takes %s without fraction and exponent", tensor.Clip(string(literal)), t.Type, takes[t.Type]), nil
	default:
		digits, negative := bytes.CutPrefix(literal, []byte("-"))
		magnitude, err := strconv.ParseUint(string(digits), 10, 64)
		most, least := limits(t.Type)
		if negative {
			most = least
		}
		if err != nil || magnitude > most {
			return unfit()
		}
		putInteger(t.Data[size*i:], size, magnitude, negative)
	}
	return "", nil
}

// NotANumber consumes NaN or an infinity if one comes next, and gives its name:
// clients in Python write these as if they were JSON.
func (s *Scanner) NotANumber() string {
	for _, word := range [...]string{"NaN", "Infinity", "-Infinity"} {
		if s.Word(word) {
			return word
		}
	}
	return ""
}

// Count reads an integer that is not negative.
func (s *Scanner) Count() (int64, error) {
	s.Peek()
	n, negative, end := integerAt(s.Text, s.Pos)
	if end >= 0 && !negative && n <= math.MaxInt64 && (s.Text[end] == ',' || s.Text[end] == ']' || s.Text[end] == '}') {
		s.Pos = end
		return int64(n), nil
	}
	literal, _, err := s.Number()
	if err != nil {
		return 0, err
	}
	n, err = strconv.ParseUint(string(literal), 10, 63)
	return int64(n), err
}

// kindAt names the value that starts with c, unless it is a number.
func kindAt(c byte) string {
	switch c {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	}
	return ""
}

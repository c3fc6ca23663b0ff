package oip

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// readData reads a tensor's elements, whose type and shape are known, from JSON
// straight into typed memory.
func (r *Request) readData(t *tensor.Tensor) error {
	s := &r.scan
	if t.Type == tensor.FP16 || t.Type == tensor.BF16 {
		return invalid("%s: JSON can't carry %s, send the tensor as binary data", r.where(), t.Type)
	}
	elements, err := tensor.Elements(t.Shape)
	if err != nil {
		return invalid("%s: %s", r.where(), fault.Message(err))
	}
	scalar := len(t.Shape) == 0
	if !s.take('[') {
		if scalar {
			r.makeRoom(t, 1)
			return r.readElement(t, 0)
		}
		if s.word("null") {
			return invalid("%s: data is null, but must be an array", r.where())
		}
		return invalid("%s: data must be an array", r.where())
	}
	nested := len(t.Shape) > 1 && s.peek() == '['

	// An element takes two bytes at least, with the comma or bracket behind it,
	// and a string three; memory is taken only for elements that can be there.
	least := 2
	if t.Type == tensor.Bytes {
		least = 3
	}
	if elements > int64((len(s.text)-s.pos)/least) {
		if nested {
			return invalid("%s: data is too short for shape %s", r.where(), tensor.FormatShape(t.Shape))
		}
		return r.miscounted(t, 0, elements, false)
	}
	r.makeRoom(t, int(elements))
	if nested {
		_, err := r.readRows(t, 0, 0)
		return err
	}
	return r.readRun(t, 0, int(elements), false)
}

// makeRoom gives t memory for n elements.
func (r *Request) makeRoom(t *tensor.Tensor, n int) {
	if t.Type == tensor.Bytes {
		t.Strings = r.strings.take(n)
		return
	}
	n *= t.Type.Size()
	t.Data = tensor.Raw(r.words.take((n + 7) / 8))[:n:n]
}

// miscounted reports an array whose number of elements is not what it must be;
// the first have of them are consumed, the others are counted here.
func (r *Request) miscounted(t *tensor.Tensor, have int, want int64, nested bool) error {
	for {
		more, err := r.scan.element(have)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := r.scan.skip(); err != nil {
			return err
		}
		have++
	}
	if nested {
		return invalid("%s: data is nested otherwise than shape %s: there is a row of %d elements in place of %d", r.where(), tensor.FormatShape(t.Shape), have, want)
	}
	return invalid("%s: data has %d elements, shape %s takes %d", r.where(), have, tensor.FormatShape(t.Shape), want)
}

// readRows reads the array of one dimension, whose bracket is consumed, from
// element i on, and gives the element behind it. It recurses once for each
// dimension, never deeper than the shape.
func (r *Request) readRows(t *tensor.Tensor, dimension, i int) (int, error) {
	s := &r.scan
	rows := t.Shape[dimension]
	if dimension == len(t.Shape)-1 {
		end := i + int(rows)
		return end, r.readRun(t, i, end, true)
	}
	for row := 0; ; row++ {
		at := s.pos
		more, err := s.element(row)
		if err != nil {
			return 0, err
		}
		if more != (int64(row) < rows) {
			s.pos = at
			return 0, r.miscounted(t, row, rows, true)
		}
		if !more {
			return i, nil
		}
		if !s.take('[') {
			return 0, invalid("%s: data is nested otherwise than shape %s: an array is missing at data[%d]", r.where(), tensor.FormatShape(t.Shape), i)
		}
		if i, err = r.readRows(t, dimension+1, i); err != nil {
			return 0, err
		}
	}
}

// readRun reads elements i to end and the closing bracket. nested tells that
// they are one row of many.
//
// Each element is first tried by a reader that is fast and takes only what is
// usual; what that leaves goes to readElement.
func (r *Request) readRun(t *tensor.Tensor, i, end int, nested bool) error {
	s := &r.scan
	if i == end {
		if s.take(']') {
			return nil
		}
		return r.miscounted(t, 0, 0, nested)
	}
	b, p, first := s.text, s.pos, i
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
			s.pos = start
			if i == first && s.peek() == ']' {
				return r.miscounted(t, 0, int64(end-first), nested)
			}
			if err := r.readElement(t, i); err != nil {
				return err
			}
			p = s.pos
		}
		if p < len(b) && b[p] == ',' && i+1 < end {
			p++
			continue
		}
		s.pos = p
		switch c := s.peek(); {
		case c == ',' && i+1 < end:
			p = s.pos + 1
		case c == ']' && i+1 == end:
			s.pos++
			return nil
		case c == ',' || c == ']':
			return r.miscounted(t, i+1-first, int64(end-first), nested)
		default:
			// The fast readers stop at the first byte they don't know, as in 1.5 for
			// an integer: the complete one tells what is wrong with it.
			s.pos = start
			if err := r.readElement(t, i); err != nil {
				return err
			}
			return s.expected("a comma or ]")
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

// readElement reads element i, whatever it looks like, and tells what is wrong
// with one that does not fit.
func (r *Request) readElement(t *tensor.Tensor, i int) error {
	s := &r.scan
	c := s.peek()
	switch {
	case c == '"' && t.Type == tensor.Bytes:
		text, err := s.string()
		t.Strings[i] = r.keep(text)
		return err
	case c == 't' && t.Type == tensor.Bool && s.word("true"):
		t.Data[i] = 1
		return nil
	case c == 'f' && t.Type == tensor.Bool && s.word("false"):
		t.Data[i] = 0
		return nil
	case c == 'n' && s.word("null"):
		return invalid("%s: data[%d] is null, but every element of a tensor must have a value", r.where(), i)
	case c == '[':
		return invalid("%s: data[%d] is an array: data must be flat, or nested to shape %s", r.where(), i, tensor.FormatShape(t.Shape))
	}
	if t.Type == tensor.FP32 || t.Type == tensor.FP64 {
		// Clients in Python write these as if they were JSON.
		for _, word := range [...]string{"NaN", "Infinity", "-Infinity"} {
			if s.word(word) {
				return invalid("%s: data[%d] is %s, which JSON can't carry, send the tensor as binary data", r.where(), i, word)
			}
		}
	}
	if kind := kindAt(c); kind != "" {
		return invalid("%s: data[%d] is %s, but %s takes %s", r.where(), i, kind, t.Type, takes[t.Type])
	}
	literal, integer, err := s.number()
	if err != nil {
		return err
	}
	switch size := t.Type.Size(); {
	case t.Type == tensor.FP32 || t.Type == tensor.FP64:
		f, err := strconv.ParseFloat(string(literal), 8*size)
		if err != nil {
			return invalid("%s: data[%d] is %s, which does not fit %s", r.where(), i, tensor.Clip(string(literal)), t.Type)
		}
		if t.Type == tensor.FP32 {
			binary.LittleEndian.PutUint32(t.Data[4*i:], math.Float32bits(float32(f)))
		} else {
			binary.LittleEndian.PutUint64(t.Data[8*i:], math.Float64bits(f))
		}
	case t.Type == tensor.Bool || t.Type == tensor.Bytes:
		return invalid("%s: data[%d] is a number, but %s takes %s", r.where(), i, t.Type, takes[t.Type])
	case !integer:
		return invalid("%s: data[%d] is %s, but %s takes %s without fraction and exponent", r.where(), i, tensor.Clip(string(literal)), t.Type, takes[t.Type])
	default:
		digits, negative := bytes.CutPrefix(literal, []byte("-"))
		magnitude, err := strconv.ParseUint(string(digits), 10, 64)
		most, least := limits(t.Type)
		if negative {
			most = least
		}
		if err != nil || magnitude > most {
			return invalid("%s: data[%d] is %s, which does not fit %s", r.where(), i, tensor.Clip(string(literal)), t.Type)
		}
		putInteger(t.Data[size*i:], size, magnitude, negative)
	}
	return nil
}

// kindAt names the value that starts with c, unless it is a number.
func kindAt(c byte) string {
	switch c {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case 't', 'f':
		return "a boolean"
	}
	return ""
}

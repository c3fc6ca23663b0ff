package oip

import (
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
	if !s.Take('[') {
		if scalar {
			r.makeRoom(t, 1)
			return r.readElement(t, 0)
		}
		if s.Word("null") {
			return invalid("%s: data is null, but must be an array", r.where())
		}
		return invalid("%s: data must be an array", r.where())
	}
	nested := len(t.Shape) > 1 && s.Peek() == '['

	// An element takes two bytes at least, with the comma or bracket behind it,
	// and a string three; memory is taken only for elements that can be there.
	least := 2
	if t.Type == tensor.Bytes {
		least = 3
	}
	if elements > int64((len(s.Text)-s.Pos)/least) {
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
		more, err := r.scan.Element(have)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := r.scan.Skip(); err != nil {
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
		at := s.Pos
		more, err := s.Element(row)
		if err != nil {
			return 0, err
		}
		if more != (int64(row) < rows) {
			s.Pos = at
			return 0, r.miscounted(t, row, rows, true)
		}
		if !more {
			return i, nil
		}
		if !s.Take('[') {
			return 0, invalid("%s: data is nested otherwise than shape %s: an array is missing at data[%d]", r.where(), tensor.FormatShape(t.Shape), i)
		}
		if i, err = r.readRows(t, dimension+1, i); err != nil {
			return 0, err
		}
	}
}

// readRun reads elements i to end and the closing bracket. nested tells that
// they are one row of many.
func (r *Request) readRun(t *tensor.Tensor, i, end int, nested bool) error {
	next, err := r.scan.Run(t, i, end, r.readElement)
	if err != nil {
		return err
	}
	if next == end && r.scan.Take(']') {
		return nil
	}
	return r.miscounted(t, next-i, int64(end-i), nested)
}

// readElement reads element i, whatever it looks like, and tells what is wrong
// with one that does not fit.
func (r *Request) readElement(t *tensor.Tensor, i int) error {
	s := &r.scan
	if s.Peek() == '[' {
		return invalid("%s: data[%d] is an array: data must be flat, or nested to shape %s", r.where(), i, tensor.FormatShape(t.Shape))
	}
	if t.Type == tensor.FP32 || t.Type == tensor.FP64 {
		if word := s.NotANumber(); word != "" {
			return invalid("%s: data[%d] is %s, which JSON can't carry, send the tensor as binary data", r.where(), i, word)
		}
	}
	misfit, err := s.Value(t, i)
	if misfit != "" {
		return invalid("%s: data[%d] %s", r.where(), i, misfit)
	}
	return err
}

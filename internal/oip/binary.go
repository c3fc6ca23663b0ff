package oip

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// takeBinary gives the inputs that are not JSON their part of raw, the bytes
// behind the JSON. split tells that there was a header which marks that border.
func (r *Request) takeBinary(raw []byte, split bool) error {
	for i := range r.Inputs {
		t, size := &r.Inputs[i], r.sizes[i]
		if size < 0 {
			continue
		}
		if !split {
			return invalid("input %s: binary_data_size needs the HTTP header %s", quote(t.Name), HeaderLength)
		}
		if size > int64(len(raw)) {
			return invalid("input %s: binary_data_size is %d, but only %d bytes are left in the body", quote(t.Name), size, len(raw))
		}
		if err := r.takeBytes(t, raw[:size:size], "binary_data_size"); err != nil {
			return invalid("input %s: %s", quote(t.Name), fault.Message(err))
		}
		raw = raw[size:]
	}
	if len(raw) > 0 {
		return invalid("the body has %d bytes more than its binary_data_size parameters tell", len(raw))
	}
	return nil
}

// takeBytes gives t, whose type and shape are known, its elements in binary
// form; size is what the length of chunk is called in errors.
func (r *Request) takeBytes(t *tensor.Tensor, chunk []byte, size string) error {
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return err
	}
	if t.Type == tensor.Bytes {
		return r.takeStrings(t, n, chunk, size)
	}
	if width := t.Type.Size(); len(chunk)%width != 0 || int64(len(chunk)/width) != n {
		return invalid("%s is %d, but shape %s of %s takes %d elements of %d bytes", size, len(chunk), tensor.FormatShape(t.Shape), t.Type, n, width)
	}
	if err := checkBools(t.Type, chunk); err != nil {
		return err
	}
	t.Data = chunk
	if !tensor.Aligned(chunk, t.Type) {
		r.makeRoom(t, int(n))
		copy(t.Data, chunk)
	}
	return nil
}

// takeStrings cuts chunk into n elements, each behind its length in four bytes.
func (r *Request) takeStrings(t *tensor.Tensor, n int64, chunk []byte, size string) error {
	if n > int64(len(chunk)/4) {
		return invalid("%s is %d, too few for the %d strings of shape %s and their lengths of 4 bytes", size, len(chunk), n, tensor.FormatShape(t.Shape))
	}
	t.Strings = r.strings.take(int(n))
	text := string(chunk) // one copy for all
	for i := range t.Strings {
		if len(chunk) < 4 {
			return invalid("binary data ends before the length of element %d", i)
		}
		length := int(binary.LittleEndian.Uint32(chunk))
		chunk, text = chunk[4:], text[4:]
		if length > len(chunk) {
			return invalid("element %d has a length of %d, but only %d bytes are left of its binary data", i, length, len(chunk))
		}
		t.Strings[i] = text[:length]
		chunk, text = chunk[length:], text[length:]
	}
	if len(chunk) > 0 {
		return invalid("binary data has %d bytes more than the %d strings of shape %s", len(chunk), n, tensor.FormatShape(t.Shape))
	}
	return nil
}

// checkBools makes sure that chunk can be seen as booleans: any other byte in a
// bool is undefined to Go and to engines alike.
func checkBools(t tensor.Type, chunk []byte) error {
	if t != tensor.Bool {
		return nil
	}
	for i, c := range chunk {
		if c > 1 {
			return invalid("element %d is byte %d, but BOOL takes 0 or 1", i, c)
		}
	}
	return nil
}

// RawInput makes a tensor of a body that is nothing but the elements of a
// model's only input: the form of requests whose HeaderLength is 0. One variable
// dimension of spec gets its size from the body; with more of them the first is
// the batch and becomes 1. For type BYTES the body is one element.
//
// The tensor shares memory with body where that is aligned to its elements.
func RawInput(spec tensor.Spec, body []byte) (tensor.Tensor, error) {
	t := tensor.Tensor{Name: spec.Name, Type: spec.Type, Shape: slices.Clone(spec.Shape)}
	refuse := func(format string, args ...any) (tensor.Tensor, error) {
		return tensor.Tensor{}, invalid("input %s: %s", quote(spec.Name), fmt.Sprintf(format, args...))
	}
	if spec.Type == tensor.Bytes {
		for i, d := range t.Shape {
			if d != 1 && d != -1 {
				return refuse("a raw body is one element, the model expects shape %s", tensor.FormatShape(spec.Shape))
			}
			t.Shape[i] = 1
		}
		t.Strings = []string{string(body)}
		return t, nil
	}
	variable := -1
	for i, d := range t.Shape {
		switch {
		case d >= 0:
		case variable < 0:
			variable = i
		case variable == 0 && t.Shape[0] < 0:
			t.Shape[0], variable = 1, i
		default:
			return refuse("a raw body can't tell the variable dimensions of shape %s", tensor.FormatShape(spec.Shape))
		}
	}
	if variable >= 0 {
		t.Shape[variable] = 1
	}
	fixed, err := tensor.Elements(t.Shape)
	if err != nil {
		return refuse("%s", fault.Message(err))
	}
	width := int64(t.Type.Size())
	n := int64(len(body)) / width
	if variable >= 0 && fixed > 0 {
		t.Shape[variable] = n / fixed
		fixed *= n / fixed
	}
	if n != fixed || int64(len(body))%width != 0 {
		return refuse("the raw body has %d bytes, which does not fit shape %s of %s", len(body), tensor.FormatShape(spec.Shape), spec.Type)
	}
	if err := checkBools(t.Type, body); err != nil {
		return refuse("%s", fault.Message(err))
	}
	t.Data = body
	if !tensor.Aligned(body, t.Type) {
		t.Data = slices.Clone(body)
	}
	return t, nil
}

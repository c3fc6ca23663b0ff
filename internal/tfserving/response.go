package tfserving

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Append adds the answer to a request to dst: in row form where it had rows,
// else in column form.
//
// NaN and the infinities become null. TensorFlow Serving writes them as bare
// words, which is no JSON, and which most clients other than Python's refuse.
// Strings that are not UTF-8, and those of outputs whose name ends in _bytes, are
// written as {"b64": "..."}. What the form can't hold is Invalid: types FP16 and
// BF16, and in row form an output that has not a row for each instance.
func Append(dst []byte, rows int, outputs []tensor.Tensor) ([]byte, error) {
	room := 64
	for i := range outputs {
		t := &outputs[i]
		if t.Type == tensor.FP16 || t.Type == tensor.BF16 {
			return nil, invalid("output %q: JSON can't carry %s, ask for it as binary data, by the V2 protocol", tensor.Clip(t.Name), t.Type)
		}
		if rows > 0 && (len(t.Shape) == 0 || t.Shape[0] != int64(rows)) {
			return nil, invalid("output %q has shape %s and not a row for each of the %d instances: send inputs in place of instances", tensor.Clip(t.Name), tensor.FormatShape(t.Shape), rows)
		}
		n := lists(t.Shape)
		if n > mostLists {
			return nil, invalid("output %q has shape %s, of which nested arrays would hold nothing: ask for it by the V2 protocol", tensor.Clip(t.Name), tensor.FormatShape(t.Shape))
		}
		room += len(t.Name) + 8 + jsonwire.Room(t) + 2*len("[],")*n // the innermost arrays and those around them
		if rows > 0 && len(outputs) > 1 {
			room += rows * (len(t.Name) + 6)
		}
	}
	dst = slices.Grow(dst, room)
	switch {
	case rows == 0 && len(outputs) == 1:
		dst = append(dst, `{"outputs":`...)
		dst = appendValue(dst, &outputs[0], 0, 0)
	case rows == 0:
		dst = append(dst, `{"outputs":`...)
		dst = appendObject(dst, outputs, 0, 0)
	case len(outputs) == 1:
		dst = append(dst, `{"predictions":`...)
		dst = appendValue(dst, &outputs[0], 0, 0)
	default:
		dst = append(dst, `{"predictions":[`...)
		for row := range rows {
			dst = append(appendObject(dst, outputs, 1, row), ',')
		}
		dst = endList(dst, ']')
	}
	return append(dst, '}'), nil
}

// mostLists is how many innermost arrays an answer may have of one output. With
// elements in them they are far fewer; without any, a few bytes of shape could
// ask for more of them than memory holds.
const mostLists = 1 << 27

// lists counts the innermost arrays of a shape, up to a little more than mostLists.
func lists(shape []int64) int {
	n := int64(1)
	for _, d := range shape[:max(len(shape)-1, 0)] {
		if d == 0 || n > mostLists {
			break
		}
		n *= min(d, mostLists+1)
	}
	return int(n)
}

// endList closes a list behind whose last element, if there is one, is a comma.
func endList(dst []byte, bracket byte) []byte {
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	return append(dst, bracket)
}

// appendObject writes of each output by its name what appendValue writes of it.
func appendObject(dst []byte, outputs []tensor.Tensor, dimension, at int) []byte {
	dst = append(dst, '{')
	for i := range outputs {
		dst = jsonwire.AppendString(dst, outputs[i].Name)
		dst = append(dst, ':')
		dst = append(appendValue(dst, &outputs[i], dimension, at), ',')
	}
	return endList(dst, '}')
}

// appendValue writes what stands at place at among the parts of t that begin
// with a dimension: all of t for dimension 0, a row of it for 1.
func appendValue(dst []byte, t *tensor.Tensor, dimension, at int) []byte {
	rest := t.Shape[dimension:]
	if len(rest) == 0 {
		dst = appendElements(dst, t, at, at+1)
		return dst[:len(dst)-1] // its comma
	}
	dst = append(dst, '[')
	size := int(rest[0])
	if len(rest) == 1 {
		dst = appendElements(dst, t, at*size, (at+1)*size)
		return endList(dst, ']')
	}
	for i := range size {
		dst = append(appendValue(dst, t, dimension+1, at*size+i), ',')
	}
	return endList(dst, ']')
}

// appendElements writes elements from one to another, a comma behind each.
func appendElements(dst []byte, t *tensor.Tensor, from, to int) []byte {
	if t.Type != tensor.Bytes {
		size := t.Type.Size()
		return jsonwire.AppendElements(dst, t.Type, t.Data[from*size:to*size])
	}
	binary := strings.HasSuffix(t.Name, "_bytes")
	for _, text := range t.Strings[from:to] {
		if binary || !utf8.ValidString(text) {
			dst = append(dst, `{"`+base64Member+`":"`...)
			dst = base64.StdEncoding.AppendEncode(dst, []byte(text))
			dst = append(dst, `"},`...)
		} else {
			dst = append(jsonwire.AppendString(dst, text), ',')
		}
	}
	return dst
}

package oip

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Response is the answer to an inference request.
type Response struct {
	ModelName    string
	ModelVersion string // left out when empty, as is ID
	ID           string
	Parameters   Parameters
	Outputs      []tensor.Tensor
	Binary       []bool // for each output: whether to send it as bytes; nil: none
}

// Append adds the response's body to dst. header is how many bytes of it are
// JSON, the value for HeaderLength; -1: all of it is, and the header must be
// left out.
//
// JSON has no NaN and no infinities: there they become null, while binary
// outputs carry them as they are. Types FP16 and BF16, and strings that are not
// UTF-8, can only be sent binary: asking for them as JSON is Invalid.
//
// dst is grown at most once, unless strings need many escapes.
func (r *Response) Append(dst []byte) (body []byte, header int, err error) {
	dst = slices.Grow(dst, r.room())
	start := len(dst)
	dst = append(dst, `{"model_name":`...)
	dst = jsonwire.AppendString(dst, r.ModelName)
	if r.ModelVersion != "" {
		dst = append(dst, `,"model_version":`...)
		dst = jsonwire.AppendString(dst, r.ModelVersion)
	}
	if r.ID != "" {
		dst = append(dst, `,"id":`...)
		dst = jsonwire.AppendString(dst, r.ID)
	}
	if len(r.Parameters) > 0 {
		dst = append(dst, `,"parameters":`...)
		dst = appendParameters(dst, r.Parameters)
	}
	dst = append(dst, `,"outputs":[`...)
	header = -1
	for i := range r.Outputs {
		t := &r.Outputs[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = jsonwire.AppendString(dst, t.Name)
		dst = append(dst, `,"datatype":"`...)
		dst = append(dst, t.Type.String()...)
		dst = append(dst, `","shape":[`...)
		for j, d := range t.Shape {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(dst, d, 10)
		}
		if r.binary(i) {
			header = 0 // known when the JSON is done
			dst = append(dst, `],"parameters":{"binary_data_size":`...)
			dst = strconv.AppendInt(dst, int64(binarySize(t)), 10)
			dst = append(dst, "}}"...)
			continue
		}
		dst = append(dst, `],"data":[`...)
		if dst, err = appendData(dst, t); err != nil {
			return nil, 0, err
		}
		dst = append(dst, "]}"...)
	}
	dst = append(dst, "]}"...)
	if header < 0 {
		return dst, -1, nil
	}
	header = len(dst) - start
	for i := range r.Outputs {
		t := &r.Outputs[i]
		if !r.binary(i) {
			continue
		}
		for j, text := range t.Strings {
			if len(text) > math.MaxUint32 {
				return nil, 0, invalid("output %s: element %d is longer than 4 GiB", quote(t.Name), j)
			}
		}
		dst = appendBinary(dst, t)
	}
	return dst, header, nil
}

// appendBinary writes a tensor in binary form.
func appendBinary(dst []byte, t *tensor.Tensor) []byte {
	dst = append(dst, t.Data...)
	for _, text := range t.Strings {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(text)))
		dst = append(dst, text...)
	}
	return dst
}

func (r *Response) binary(i int) bool { return i < len(r.Binary) && r.Binary[i] }

// binarySize is how many bytes a tensor takes in binary form.
func binarySize(t *tensor.Tensor) int {
	n := len(t.Data)
	for _, text := range t.Strings {
		n += 4 + len(text)
	}
	return n
}

// room is how many bytes the response takes at most, but for escapes.
func (r *Response) room() int {
	const punctuation, number, setting = 128, 21, 64
	n := punctuation + len(r.ModelName) + len(r.ModelVersion) + len(r.ID)
	for name, value := range r.Parameters {
		n += setting + len(name)
		if text, ok := value.(string); ok {
			n += len(text)
		}
	}
	for i := range r.Outputs {
		t := &r.Outputs[i]
		n += punctuation + len(t.Name) + number*len(t.Shape)
		if r.binary(i) {
			n += binarySize(t)
		} else {
			n += jsonwire.Room(t)
		}
	}
	return n
}

// appendData writes the elements of t, flat.
func appendData(dst []byte, t *tensor.Tensor) ([]byte, error) {
	start := len(dst)
	switch t.Type {
	case tensor.FP16, tensor.BF16:
		return nil, invalid("output %s: JSON can't carry %s, ask for it with binary_data", quote(t.Name), t.Type)
	case tensor.Bytes:
		for i, text := range t.Strings {
			if !utf8.ValidString(text) {
				return nil, invalid("output %s: element %d is not valid UTF-8, ask for it with binary_data", quote(t.Name), i)
			}
			dst = append(jsonwire.AppendString(dst, text), ',')
		}
	default:
		dst = jsonwire.AppendElements(dst, t.Type, t.Data)
	}
	if len(dst) > start {
		dst = dst[:len(dst)-1] // the last comma
	}
	return dst, nil
}

// appendParameters writes settings in the order of their names.
func appendParameters(dst []byte, p Parameters) []byte {
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(p)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonwire.AppendString(dst, name)
		dst = append(dst, ':')
		switch v := p[name].(type) {
		case string:
			dst = jsonwire.AppendString(dst, v)
		case bool:
			dst = strconv.AppendBool(dst, v)
		case int64:
			dst = strconv.AppendInt(dst, v, 10)
		case uint64:
			dst = strconv.AppendUint(dst, v, 10)
		case float64:
			dst = jsonwire.AppendFloat(dst, v, 64)
		default:
			dst = append(dst, "null"...)
		}
	}
	return append(dst, '}')
}

// AppendError adds the body of every answer that is not a success.
func AppendError(dst []byte, message string) []byte {
	dst = append(dst, `{"error":`...)
	dst = jsonwire.AppendString(dst, message)
	return append(dst, '}')
}

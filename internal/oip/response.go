package oip

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

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
	dst = appendString(dst, r.ModelName)
	if r.ModelVersion != "" {
		dst = append(dst, `,"model_version":`...)
		dst = appendString(dst, r.ModelVersion)
	}
	if r.ID != "" {
		dst = append(dst, `,"id":`...)
		dst = appendString(dst, r.ID)
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
		dst = appendString(dst, t.Name)
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
		dst = append(dst, t.Data...)
		for j, text := range t.Strings {
			if len(text) > math.MaxUint32 {
				return nil, 0, invalid("output %s: element %d is longer than 4 GiB", quote(t.Name), j)
			}
			dst = binary.LittleEndian.AppendUint32(dst, uint32(len(text)))
			dst = append(dst, text...)
		}
	}
	return dst, header, nil
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

// widest is how many bytes an element of each type takes in JSON at most, with
// its comma.
var widest = [...]int{
	tensor.Bool:  len("false,"),
	tensor.Uint8: len("255,"), tensor.Uint16: len("65535,"), tensor.Uint32: len("4294967295,"), tensor.Uint64: len("18446744073709551615,"),
	tensor.Int8: len("-128,"), tensor.Int16: len("-32768,"), tensor.Int32: len("-2147483648,"), tensor.Int64: len("-9223372036854775808,"),
	tensor.FP16: 0, tensor.BF16: 0,
	tensor.FP32: len("-1234567890000000,"), tensor.FP64: len("-2.2250738585072014e-308,"),
	tensor.Bytes: len(`"",`),
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
		switch {
		case r.binary(i):
			n += binarySize(t)
		case t.Type == tensor.Bytes:
			n += widest[t.Type] * len(t.Strings)
			for _, text := range t.Strings {
				n += len(text)
			}
		default:
			n += len(t.Data) / t.Type.Size() * widest[t.Type]
		}
	}
	return n
}

// appendData writes the elements of t, flat.
func appendData(dst []byte, t *tensor.Tensor) ([]byte, error) {
	start := len(dst)
	switch t.Type {
	case tensor.Bool:
		for _, v := range t.Data {
			dst = append(strconv.AppendBool(dst, v != 0), ',')
		}
	case tensor.Uint8:
		dst = appendUnsigned(dst, tensor.View[uint8](t.Data))
	case tensor.Uint16:
		dst = appendUnsigned(dst, tensor.View[uint16](t.Data))
	case tensor.Uint32:
		dst = appendUnsigned(dst, tensor.View[uint32](t.Data))
	case tensor.Uint64:
		dst = appendUnsigned(dst, tensor.View[uint64](t.Data))
	case tensor.Int8:
		dst = appendSigned(dst, tensor.View[int8](t.Data))
	case tensor.Int16:
		dst = appendSigned(dst, tensor.View[int16](t.Data))
	case tensor.Int32:
		dst = appendSigned(dst, tensor.View[int32](t.Data))
	case tensor.Int64:
		dst = appendSigned(dst, tensor.View[int64](t.Data))
	case tensor.FP32:
		for _, v := range tensor.View[float32](t.Data) {
			dst = append(appendFloat(dst, float64(v), 32), ',')
		}
	case tensor.FP64:
		for _, v := range tensor.View[float64](t.Data) {
			dst = append(appendFloat(dst, v, 64), ',')
		}
	case tensor.Bytes:
		for i, text := range t.Strings {
			if !utf8.ValidString(text) {
				return nil, invalid("output %s: element %d is not valid UTF-8, ask for it with binary_data", quote(t.Name), i)
			}
			dst = append(appendString(dst, text), ',')
		}
	default:
		return nil, invalid("output %s: JSON can't carry %s, ask for it with binary_data", quote(t.Name), t.Type)
	}
	if len(dst) > start {
		dst = dst[:len(dst)-1] // the last comma
	}
	return dst, nil
}

func appendUnsigned[T uint8 | uint16 | uint32 | uint64](dst []byte, elements []T) []byte {
	for _, v := range elements {
		dst = append(strconv.AppendUint(dst, uint64(v), 10), ',')
	}
	return dst
}

func appendSigned[T int8 | int16 | int32 | int64](dst []byte, elements []T) []byte {
	for _, v := range elements {
		dst = append(strconv.AppendInt(dst, int64(v), 10), ',')
	}
	return dst
}

// appendFloat writes the shortest number that reads back as f, in a float of
// that many bits; with an exponent where Python would write one.
func appendFloat(dst []byte, f float64, size int) []byte {
	if i := int64(f); float64(i) == f && -1<<24 < i && i < 1<<24 && (i != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(dst, i, 10)
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	switch a := math.Abs(f); {
	case a == 0:
	case a < 1e-4 || a >= 1e16:
		format = 'e'
	case size == 32 && a < 1<<24:
		if f < 0 {
			dst = append(dst, '-')
		}
		return appendFraction(dst, float32(a))
	}
	return strconv.AppendFloat(dst, f, format, -1, size)
}

// fives holds the powers of five that appendFraction needs.
var fives = [13]uint64{1, 5, 25, 125, 625, 3125, 15625, 78125, 390625, 1953125, 9765625, 48828125, 244140625}

// appendFraction writes the shortest decimal that reads back as f, which lies
// from 1e-4 to 2^24 and is no integer: the range of most results, in which 64
// bits hold all that is computed exactly. Of several decimals as short it
// writes the nearest, and of two as near the even one.
func appendFraction(dst []byte, f float32) []byte {
	bits := math.Float32bits(f)
	m := uint64(bits&(1<<23-1) | 1<<23)
	shift := int(150 - bits>>23) // f is m / 2^shift

	// Everything between low and high reads back as f: half the way to the floats
	// next to it, which below a power of two are closer. With k decimals, where
	// 10^k > 2^shift, there is a decimal between them.
	low, high := 4*m-2, 4*m+2
	if m == 1<<23 {
		low++
	}
	k := shift*1233>>12 + 1
	first, last := low*fives[k]>>(shift+2-k)+1, high*fives[k]>>(shift+2-k)
	for (first+9)/10 <= last/10 {
		first, last = (first+9)/10, last/10
		k--
	}
	unit := shift + 2 - k
	d := (4*m*fives[k] + 1<<(unit-1)) >> unit
	if 4*m*fives[k]<<(64-unit) == 1<<63 {
		d &^= 1 // halfway between two decimals: the even one
	}
	d = min(max(d, first), last)

	dst = strconv.AppendUint(dst, d/tens[k], 10)
	dst = append(dst, '.')
	dst = append(dst, "000000000000"[:k]...)
	for i, rest := len(dst)-1, d%tens[k]; rest > 0; i-- {
		dst[i] = '0' + byte(rest%10)
		rest /= 10
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendString writes text as a JSON string. Only what must be escaped is;
// bytes that are not UTF-8 become the replacement character.
func appendString(dst []byte, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	dst = append(dst, '"')
	done := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, text[done:]...)
	return append(dst, '"')
}

// appendParameters writes settings in the order of their names.
func appendParameters(dst []byte, p Parameters) []byte {
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(p)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, name)
		dst = append(dst, ':')
		switch v := p[name].(type) {
		case string:
			dst = appendString(dst, v)
		case bool:
			dst = strconv.AppendBool(dst, v)
		case int64:
			dst = strconv.AppendInt(dst, v, 10)
		case uint64:
			dst = strconv.AppendUint(dst, v, 10)
		case float64:
			dst = appendFloat(dst, v, 64)
		default:
			dst = append(dst, "null"...)
		}
	}
	return append(dst, '}')
}

// AppendError adds the body of every answer that is not a success.
func AppendError(dst []byte, message string) []byte {
	dst = append(dst, `{"error":`...)
	dst = appendString(dst, message)
	return append(dst, '}')
}

package jsonwire

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

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

// Room is how many bytes the elements of t take at most with a comma each, but
// for escapes in strings.
func Room(t *tensor.Tensor) int {
	if t.Type != tensor.Bytes {
		return len(t.Data) / t.Type.Size() * widest[t.Type]
	}
	n := widest[t.Type] * len(t.Strings)
	for _, text := range t.Strings {
		n += len(text)
	}
	return n
}

// AppendElements writes data as elements of a type, with a comma behind each. The
// type is one of booleans or numbers that JSON can carry: not BYTES, FP16 or BF16.
func AppendElements(dst []byte, kind tensor.Type, data []byte) []byte {
	switch kind {
	case tensor.Bool:
		for _, v := range data {
			dst = append(strconv.AppendBool(dst, v != 0), ',')
		}
	case tensor.Uint8:
		dst = appendUnsigned(dst, tensor.View[uint8](data))
	case tensor.Uint16:
		dst = appendUnsigned(dst, tensor.View[uint16](data))
	case tensor.Uint32:
		dst = appendUnsigned(dst, tensor.View[uint32](data))
	case tensor.Uint64:
		dst = appendUnsigned(dst, tensor.View[uint64](data))
	case tensor.Int8:
		dst = appendSigned(dst, tensor.View[int8](data))
	case tensor.Int16:
		dst = appendSigned(dst, tensor.View[int16](data))
	case tensor.Int32:
		dst = appendSigned(dst, tensor.View[int32](data))
	case tensor.Int64:
		dst = appendSigned(dst, tensor.View[int64](data))
	case tensor.FP32:
		for _, v := range tensor.View[float32](data) {
			dst = append(AppendFloat(dst, float64(v), 32), ',')
		}
	case tensor.FP64:
		for _, v := range tensor.View[float64](data) {
			dst = append(AppendFloat(dst, v, 64), ',')
		}
	}
	return dst
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

// AppendFloat writes the shortest number that reads back as f, in a float of
// that many bits; with an exponent where Python would write one. JSON has no NaN and
// no infinities: they become null.
func AppendFloat(dst []byte, f float64, size int) []byte {
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

// AppendString writes text as a JSON string. Only what must be escaped is;
// bytes that are not UTF-8 become the replacement character.
func AppendString(dst []byte, text string) []byte {
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

// Package tensor holds typed arrays in memory: what protocols decode into and
// engines compute on.
//
// A tensor's elements lie row-major and little-endian in one byte slice, so a
// binary request becomes a tensor without a copy and a tensor becomes an
// engine's input without another. The package knows no protocol and no engine.
// Values are plain data: safe to read concurrently, not to write.
package tensor

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unsafe"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Type is an element type, named as in the Open Inference Protocol.
type Type uint8

// The element types. Bytes elements are strings of any bytes and any length.
const (
	Invalid Type = iota
	Bool
	Uint8
	Uint16
	Uint32
	Uint64
	Int8
	Int16
	Int32
	Int64
	FP16
	BF16
	FP32
	FP64
	Bytes
)

var types = [...]struct {
	name string
	size int
}{
	{"INVALID", 0},
	{"BOOL", 1},
	{"UINT8", 1},
	{"UINT16", 2},
	{"UINT32", 4},
	{"UINT64", 8},
	{"INT8", 1},
	{"INT16", 2},
	{"INT32", 4},
	{"INT64", 8},
	{"FP16", 2},
	{"BF16", 2},
	{"FP32", 4},
	{"FP64", 8},
	{"BYTES", 0},
}

// ParseType finds the type by its protocol name, such as "FP32".
func ParseType(name string) (Type, error) {
	for i := Bool; i <= Bytes; i++ {
		if types[i].name == name {
			return i, nil
		}
	}
	return Invalid, fault.New(fault.Invalid, "datatype %s is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES", strconv.Quote(Clip(name)))
}

// String gives the protocol name.
func (t Type) String() string { return types[t].name }

// Size is the width of one element in bytes, 0 for Bytes.
func (t Type) Size() int { return types[t].size }

// MarshalText writes the protocol name.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the protocol name.
func (t *Type) UnmarshalText(b []byte) (err error) {
	*t, err = ParseType(string(b))
	return err
}

// MaxRank is the most dimensions a tensor may have.
const MaxRank = 32

// Tensor is a named array of one type.
type Tensor struct {
	Name  string
	Type  Type
	Shape []int64 // no dimensions: a scalar; a zero among them: no elements

	// Data holds the elements of every type but Bytes: row-major, little-endian,
	// aligned to the element's size.
	Data []byte
	// Strings holds the elements of type Bytes, row-major.
	Strings []string
}

// Elements counts the elements of a shape. It refuses negative dimensions, more
// than MaxRank of them, and products that do not fit an int64.
func Elements(shape []int64) (int64, error) {
	if len(shape) > MaxRank {
		return 0, fault.New(fault.Invalid, "shape has %d dimensions, the limit is %d", len(shape), MaxRank)
	}
	n, zero := int64(1), false
	for _, d := range shape {
		if d < 0 {
			return 0, fault.New(fault.Invalid, "shape %s has a negative dimension", FormatShape(shape))
		}
		zero = zero || d == 0
	}
	if zero {
		return 0, nil
	}
	for _, d := range shape {
		if n > math.MaxInt64/d {
			return 0, fault.New(fault.Invalid, "shape %s has more elements than 64 bits can count", FormatShape(shape))
		}
		n *= d
	}
	return n, nil
}

// Number is the set of Go types whose slices a tensor's data can be seen as.
type Number interface {
	~bool | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int8 | ~int16 | ~int32 | ~int64 | ~float32 | ~float64
}

// View sees data as elements of T, without a copy. data must be aligned to T
// (Aligned tells), as the Data of every Tensor is; bytes beyond the last whole
// element are left out.
func View[T Number](data []byte) []T {
	var z T
	n := len(data) / int(unsafe.Sizeof(z))
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(data))), n)
}

// Raw sees elements as their bytes, without a copy: the inverse of View.
func Raw[T Number](elements []T) []byte {
	var z T
	if len(elements) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(elements))), len(elements)*int(unsafe.Sizeof(z)))
}

// Aligned reports whether data lies so in memory that View may see it as elements of t.
func Aligned(data []byte, t Type) bool {
	return t.Size() <= 1 || uintptr(unsafe.Pointer(unsafe.SliceData(data)))%uintptr(t.Size()) == 0
}

// Of makes a tensor over elements, without a copy. It serves tests and callers
// that compute tensors themselves; FP16 and BF16 have no Go type and are made by hand.
func Of[T Number](name string, shape []int64, elements []T) Tensor {
	var t Type
	switch any(elements).(type) {
	case []bool:
		t = Bool
	case []uint8:
		t = Uint8
	case []uint16:
		t = Uint16
	case []uint32:
		t = Uint32
	case []uint64:
		t = Uint64
	case []int8:
		t = Int8
	case []int16:
		t = Int16
	case []int32:
		t = Int32
	case []int64:
		t = Int64
	case []float32:
		t = FP32
	case []float64:
		t = FP64
	}
	return Tensor{Name: name, Type: t, Shape: shape, Data: Raw(elements)}
}

// OfStrings makes a tensor of type Bytes.
func OfStrings(name string, shape []int64, elements []string) Tensor {
	return Tensor{Name: name, Type: Bytes, Shape: shape, Strings: elements}
}

// Spec describes a model's input or output.
type Spec struct {
	Name  string  `json:"name"`
	Type  Type    `json:"datatype"`
	Shape []int64 `json:"shape"` // -1: any size
	// Labels names the columns of the last dimension, where the model tells them
	// (the classes of a classifier).
	Labels []string `json:"labels,omitempty"`
}

// Accepts checks that t fits the spec: same type, same rank, same size in every
// fixed dimension. The error names the input and both sides.
func (s Spec) Accepts(t *Tensor) error {
	if t.Type != s.Type {
		return fault.New(fault.Invalid, "input %q: datatype is %s, the model expects %s", s.Name, t.Type, s.Type)
	}
	ok := len(t.Shape) == len(s.Shape)
	for i := 0; ok && i < len(s.Shape); i++ {
		ok = s.Shape[i] < 0 || s.Shape[i] == t.Shape[i]
	}
	if !ok {
		return fault.New(fault.Invalid, "input %q: shape is %s, the model expects %s", s.Name, FormatShape(t.Shape), FormatShape(s.Shape))
	}
	return nil
}

// FormatShape writes a shape as [1,3,224,224].
func FormatShape(shape []int64) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, d := range shape {
		if i > 0 {
			b.WriteByte(',')
		}
		if i == MaxRank {
			fmt.Fprintf(&b, "… %d more", len(shape)-i)
			break
		}
		b.WriteString(strconv.FormatInt(d, 10))
	}
	b.WriteByte(']')
	return b.String()
}

// Clip shortens foreign text so that an error message can quote it.
func Clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Package row has the values of features: their types, one value, and how rows
// of them are written down.
//
// A Value is typed and may be null; it is never changed. The encoding is small
// and forgives change: each column goes by a number that its definition keeps
// for ever, nulls take no bytes, and a reader skips what it does not know. The
// package knows nothing of entities, views or stores.
package row

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Type is the type of a value. The zero Type is no type.
type Type uint8

// The types. Each of them also has lists, see ListOf.
const (
	Bool Type = iota + 1
	Int32
	Int64
	Float32
	Float64
	String
	Bytes
	Timestamp // microseconds since 1970 in UTC

	list Type = 0x40
)

var names = map[Type]string{
	Bool: "bool", Int32: "int32", Int64: "int64", Float32: "float32", Float64: "float64",
	String: "string", Bytes: "bytes", Timestamp: "timestamp",
}

// ListOf is the type of lists of t, which is no list itself.
func ListOf(t Type) Type { return t | list }

// IsList tells whether values of the type are lists.
func (t Type) IsList() bool { return t&list != 0 }

// Elem is the type of a list's elements, or t itself.
func (t Type) Elem() Type { return t &^ list }

// Numeric tells whether values of the type count: integers, floats and bools.
func (t Type) Numeric() bool { return t >= Bool && t <= Float64 }

// Integer tells whether values of the type are whole numbers.
func (t Type) Integer() bool { return t == Int32 || t == Int64 }

// Float tells whether values of the type are floating point numbers.
func (t Type) Float() bool { return t == Float32 || t == Float64 }

// Valid tells whether t is one of the types.
func (t Type) Valid() bool { return names[t.Elem()] != "" }

// String is the type's name: "int64", "list(string)".
func (t Type) String() string {
	name := names[t.Elem()]
	switch {
	case name == "":
		return fmt.Sprintf("type %d", uint8(t))
	case t.IsList():
		return "list(" + name + ")"
	}
	return name
}

// ParseType reads a type's name.
func ParseType(s string) (Type, error) {
	name, isList := s, false
	if inner, ok := strings.CutPrefix(s, "list("); ok && strings.HasSuffix(inner, ")") {
		name, isList = strings.TrimSuffix(inner, ")"), true
	}
	for t, n := range names {
		if n == name {
			if isList {
				t = ListOf(t)
			}
			return t, nil
		}
	}
	return 0, fault.New(fault.Invalid, "type %.50q is not one of bool, int32, int64, float32, float64, string, bytes, timestamp, or list(...) of one of them", s)
}

// MarshalText writes the type's name.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the type's name.
func (t *Type) UnmarshalText(b []byte) (err error) {
	*t, err = ParseType(string(b))
	return err
}

// Value is one value of a feature. The zero Value is null.
type Value struct {
	typ  Type
	bits uint64
	text string
	list []Value
}

// OfBool is a value of type Bool.
func OfBool(b bool) Value {
	v := Value{typ: Bool}
	if b {
		v.bits = 1
	}
	return v
}

// OfInt32 is a value of type Int32.
func OfInt32(i int32) Value { return Value{typ: Int32, bits: uint64(i)} }

// OfInt64 is a value of type Int64.
func OfInt64(i int64) Value { return Value{typ: Int64, bits: uint64(i)} }

// OfFloat32 is a value of type Float32.
func OfFloat32(f float32) Value { return Value{typ: Float32, bits: math.Float64bits(float64(f))} }

// OfFloat64 is a value of type Float64.
func OfFloat64(f float64) Value { return Value{typ: Float64, bits: math.Float64bits(f)} }

// OfString is a value of type String.
func OfString(s string) Value { return Value{typ: String, text: s} }

// OfBytes is a value of type Bytes.
func OfBytes(b []byte) Value { return Value{typ: Bytes, text: string(b)} }

// OfTime is a value of type Timestamp; what is below a microsecond is cut off.
func OfTime(t time.Time) Value { return OfMicros(t.UnixMicro()) }

// OfMicros is a value of type Timestamp, in microseconds since 1970.
func OfMicros(us int64) Value { return Value{typ: Timestamp, bits: uint64(us)} }

// OfList is a list of values, each of type elem and not null.
func OfList(elem Type, values ...Value) Value { return Value{typ: ListOf(elem), list: values} }

// Null tells whether there is no value.
func (v Value) Null() bool { return v.typ == 0 }

// Type is the value's type; 0 for null.
func (v Value) Type() Type { return v.typ }

// Bool is the value of a Bool.
func (v Value) Bool() bool { return v.bits != 0 }

// Int is the value of a Bool, Int32, Int64 or Timestamp.
func (v Value) Int() int64 { return int64(v.bits) }

// Float is the value of any numeric type as a float64.
func (v Value) Float() float64 {
	if v.typ.Float() {
		return math.Float64frombits(v.bits)
	}
	return float64(int64(v.bits))
}

// Text is the value of a String or Bytes.
func (v Value) Text() string { return v.text }

// Time is the value of a Timestamp.
func (v Value) Time() time.Time { return time.UnixMicro(int64(v.bits)).UTC() }

// List has the elements of a list; nobody writes to it.
func (v Value) List() []Value { return v.list }

// Equal tells whether two values are the same, types included: NaN is itself, 0 is not -0.
func (v Value) Equal(o Value) bool {
	if v.typ != o.typ || v.text != o.text || !slices.EqualFunc(v.list, o.list, Value.Equal) {
		return false
	}
	return v.bits == o.bits || v.typ.Float() && math.IsNaN(v.Float()) && math.IsNaN(o.Float())
}

// String shows the value for people.
func (v Value) String() string { return string(v.AppendJSON(nil)) }

// Field is a column: a name, a type, and the number that it goes by in encoded
// rows, which it keeps for ever.
type Field struct {
	Name string
	Type Type
	ID   uint32 // 1 to MaxID
}

// MaxID is the largest number of a field.
const MaxID = 1<<20 - 1

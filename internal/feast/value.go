package feast

import (
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// The numbers of types: as ValueType has them and as fields of a Value. That of a
// list is listOf higher than its elements'.
const (
	typeBytes     = 1
	typeString    = 2
	typeInt32     = 3
	typeInt64     = 4
	typeDouble    = 5
	typeFloat     = 6
	typeBool      = 7
	typeTimestamp = 8
	typeNull      = 19

	listOf = 10
)

var numbers = [...]protowire.Number{
	row.Bool: typeBool, row.Int32: typeInt32, row.Int64: typeInt64, row.Float32: typeFloat, row.Float64: typeDouble,
	row.String: typeString, row.Bytes: typeBytes, row.Timestamp: typeTimestamp,
}

var types = [...]row.Type{
	typeBool: row.Bool, typeInt32: row.Int32, typeInt64: row.Int64, typeFloat: row.Float32, typeDouble: row.Float64,
	typeString: row.String, typeBytes: row.Bytes, typeTimestamp: row.Timestamp,
}

func numberOf(t row.Type) protowire.Number {
	if t.IsList() {
		return numbers[t.Elem()] + listOf
	}
	return numbers[t]
}

// TypeOf gives the type that holds values of Feast's type of this number
// (ValueType.Enum): sets become lists, and what Feast keeps as text is a string.
// The zero Type says that there is none, as of maps.
func TypeOf(number int) row.Type {
	switch {
	case number >= typeBytes && number <= typeTimestamp:
		return types[number]
	case number >= typeBytes+listOf && number <= typeTimestamp+listOf:
		return row.ListOf(types[number-listOf])
	case number >= 22 && number <= 29: // sets, in the order of the types
		return row.ListOf(types[number-21])
	}
	switch number {
	case 32, 36, 37, 44: // JSON, UUID, TIME_UUID, DECIMAL
		return row.String
	case 33, 38, 39, 40, 41, 45, 46: // lists and sets of them
		return row.ListOf(row.String)
	}
	return 0
}

// seconds gives a timestamp as Feast has them, cut to whole seconds.
func seconds(v row.Value) int64 {
	s := v.Int() / 1e6
	if v.Int() < s*1e6 {
		s--
	}
	return s
}

const secondsMost = math.MaxInt64 / 1_000_000

// AppendValue writes a value as a feast.types.Value. Timestamps lose what is below
// a second. Null, which has no type, takes no bytes.
func AppendValue(dst []byte, v row.Value) []byte {
	if v.Null() {
		return dst
	}
	number := numberOf(v.Type())
	if !v.Type().IsList() {
		switch v.Type() {
		case row.Float64:
			return protowire.AppendFixed64(protowire.AppendTag(dst, number, protowire.Fixed64Type), math.Float64bits(v.Float()))
		case row.Float32:
			return protowire.AppendFixed32(protowire.AppendTag(dst, number, protowire.Fixed32Type), math.Float32bits(float32(v.Float())))
		case row.String, row.Bytes:
			return appendText(dst, number, v.Text())
		}
		return appendWord(protowire.AppendTag(dst, number, protowire.VarintType), v)
	}
	dst = protowire.AppendTag(dst, number, protowire.BytesType)
	start := len(dst)
	dst = append(dst, 0)
	switch list := v.List(); {
	case len(list) == 0:
	case v.Type().Elem() == row.String || v.Type().Elem() == row.Bytes:
		for _, e := range list {
			dst = appendText(dst, 1, e.Text())
		}
	default: // numbers are packed
		dst = protowire.AppendTag(dst, 1, protowire.BytesType)
		packed := len(dst)
		dst = append(dst, 0)
		for _, e := range list {
			switch e.Type() {
			case row.Float64:
				dst = protowire.AppendFixed64(dst, math.Float64bits(e.Float()))
			case row.Float32:
				dst = protowire.AppendFixed32(dst, math.Float32bits(float32(e.Float())))
			default:
				dst = appendWord(dst, e)
			}
		}
		dst = putLength(dst, packed)
	}
	return putLength(dst, start)
}

func appendWord(dst []byte, v row.Value) []byte {
	if v.Type() == row.Timestamp {
		return protowire.AppendVarint(dst, uint64(seconds(v)))
	}
	return protowire.AppendVarint(dst, uint64(v.Int()))
}

// DecodeValue reads a feast.types.Value. One that holds nothing, or what no row.Type
// can hold (maps, lists of lists), is null. The value does not share memory with b.
func DecodeValue(b []byte) (v row.Value, err error) {
	err = each(b, func(f *field) error {
		number := int(f.number)
		if number == typeNull {
			v = row.Value{}
			return nil
		}
		t := TypeOf(number)
		if t == 0 {
			v = row.Value{}
			return nil
		}
		if t.IsList() {
			if f.kind != protowire.BytesType {
				return nil
			}
			v, err = decodeList(f.bytes, t.Elem())
			return err
		}
		if f.kind == wireOf(t) {
			v, err = decodeScalar(f, t)
		}
		return err
	})
	if err != nil {
		return row.Value{}, err
	}
	return v, nil
}

func wireOf(t row.Type) protowire.Type {
	switch t {
	case row.Float64:
		return protowire.Fixed64Type
	case row.Float32:
		return protowire.Fixed32Type
	case row.String, row.Bytes:
		return protowire.BytesType
	}
	return protowire.VarintType
}

func decodeScalar(f *field, t row.Type) (row.Value, error) {
	switch t {
	case row.String:
		s, err := f.text("a string")
		return row.OfString(s), err
	case row.Bytes:
		return row.OfBytes(f.bytes), nil
	}
	return ofWord(f.word, t)
}

func ofWord(word uint64, t row.Type) (row.Value, error) {
	switch t {
	case row.Bool:
		return row.OfBool(word != 0), nil
	case row.Int32:
		return row.OfInt32(int32(word)), nil
	case row.Int64:
		return row.OfInt64(int64(word)), nil
	case row.Float32:
		return row.OfFloat32(math.Float32frombits(uint32(word))), nil
	case row.Float64:
		return row.OfFloat64(math.Float64frombits(word)), nil
	}
	return ofSeconds(int64(word))
}

// ofSeconds reads a timestamp. Feast writes a missing one as the least int64.
func ofSeconds(s int64) (row.Value, error) {
	switch {
	case s == math.MinInt64:
		return row.Value{}, nil
	case s > secondsMost || s < -secondsMost:
		return row.Value{}, invalid("%d seconds since 1970 is no time", s)
	}
	return row.OfMicros(s * 1e6), nil
}

func decodeList(b []byte, elem row.Type) (row.Value, error) {
	list := []row.Value{}
	add := func(v row.Value, err error) error {
		if err == nil && v.Null() {
			err = invalid("a list has no null elements")
		}
		list = append(list, v)
		return err
	}
	err := each(b, func(f *field) error {
		wire := wireOf(elem)
		switch {
		case f.number != 1:
		case f.kind == wire: // one element; numbers need not be packed
			return add(decodeScalar(f, elem))
		case f.kind == protowire.BytesType:
			for packed := f.bytes; len(packed) > 0; {
				one, n := field{}, 0
				switch wire {
				case protowire.Fixed64Type:
					one.word, n = protowire.ConsumeFixed64(packed)
				case protowire.Fixed32Type:
					var word uint32
					word, n = protowire.ConsumeFixed32(packed)
					one.word = uint64(word)
				default:
					one.word, n = protowire.ConsumeVarint(packed)
				}
				if n < 0 {
					return errBroken
				}
				packed = packed[n:]
				if err := add(ofWord(one.word, elem)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return row.Value{}, err
	}
	return row.OfList(elem, list...), nil
}

// DecodeTime reads a google.protobuf.Timestamp as microseconds since 1970, cut to them.
func DecodeTime(b []byte) (int64, error) {
	var s, nanos int64
	err := each(b, func(f *field) error {
		switch {
		case f.is(1, protowire.VarintType):
			s = int64(f.word)
		case f.is(2, protowire.VarintType):
			nanos = int64(int32(f.word))
		}
		return nil
	})
	if err == nil && (s < -secondsMost+1 || s > secondsMost-1 || nanos < 0 || nanos >= 1e9) {
		err = invalid("a timestamp of %d seconds and %d nanoseconds is no time", s, nanos)
	}
	if err != nil {
		return 0, err
	}
	return s*1e6 + nanos/1e3, nil
}

// appendTime writes microseconds since 1970 as a google.protobuf.Timestamp.
func appendTime(dst []byte, us int64) []byte {
	s := seconds(row.OfMicros(us))
	if s != 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.VarintType), uint64(s))
	}
	if nanos := (us - s*1e6) * 1e3; nanos != 0 {
		dst = protowire.AppendVarint(protowire.AppendTag(dst, 2, protowire.VarintType), uint64(nanos))
	}
	return dst
}

// fromJSON reads a value of type t from the JSON of a request. Beyond
// row.ParseJSON it takes the words for floats that JSON lacks.
func fromJSON(t row.Type, raw []byte) (row.Value, error) {
	if len(raw) >= 2 && raw[0] == '"' {
		switch inner := raw[1 : len(raw)-1]; {
		case t == row.String && !strings.Contains(string(inner), `\`):
			return row.OfString(string(inner)), nil
		case t.Float():
			if f, ok := unwritable[string(inner)]; ok {
				return row.Convert(row.OfFloat64(f), t)
			}
		}
	}
	return row.ParseJSON(t, raw)
}

var unwritable = map[string]float64{"NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}

// clock writes times as they stand in a response: RFC 3339 in UTC, with three or six
// digits behind the second where there are any.
type clock struct {
	day  int64 // since 1970, that date is of
	date [10]byte
	made bool
}

const (
	perSecond = 1_000_000
	perDay    = 24 * 60 * 60 * perSecond
)

// append writes microseconds since 1970.
func (c *clock) append(dst []byte, us int64) []byte {
	day := us / perDay
	if us < day*perDay {
		day--
	}
	if !c.made || day != c.day {
		date := time.UnixMicro(us).UTC().AppendFormat(nil, time.DateOnly)
		if len(date) != len(c.date) { // a year of five digits, or before Christ
			return time.UnixMicro(us).UTC().AppendFormat(dst, time.RFC3339Nano)
		}
		copy(c.date[:], date)
		c.day, c.made = day, true
	}
	us -= day * perDay
	s := us / perSecond
	us -= s * perSecond
	dst = append(dst, c.date[:]...)
	dst = append(dst, 'T')
	dst = two(append(two(append(two(dst, s/3600), ':'), s/60%60), ':'), s%60)
	switch {
	case us == 0:
	case us%1000 == 0:
		dst = append(dst, '.', byte('0'+us/100_000), byte('0'+us/10_000%10), byte('0'+us/1000%10))
	default:
		dst = append(dst, '.', byte('0'+us/100_000), byte('0'+us/10_000%10), byte('0'+us/1000%10), byte('0'+us/100%10), byte('0'+us/10%10), byte('0'+us%10))
	}
	return append(dst, 'Z')
}

func two(dst []byte, n int64) []byte { return append(dst, byte('0'+n/10), byte('0'+n%10)) }

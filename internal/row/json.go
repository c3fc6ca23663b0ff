package row

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
)

// AppendJSON writes the value as JSON: timestamps as RFC 3339 in UTC, bytes in
// base64, and NaN and the infinities, which JSON lacks, as null.
func (v Value) AppendJSON(dst []byte) []byte {
	switch {
	case v.Null():
		return append(dst, "null"...)
	case v.typ.IsList():
		dst = append(dst, '[')
		for i, e := range v.list {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = e.AppendJSON(dst)
		}
		return append(dst, ']')
	}
	switch v.typ {
	case Bool:
		return strconv.AppendBool(dst, v.Bool())
	case Float32:
		return jsonwire.AppendFloat(dst, v.Float(), 32)
	case Float64:
		return jsonwire.AppendFloat(dst, v.Float(), 64)
	case String:
		return jsonwire.AppendString(dst, v.text)
	case Bytes:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, []byte(v.text))
		return append(dst, '"')
	case Timestamp:
		dst = append(dst, '"')
		dst = v.Time().AppendFormat(dst, time.RFC3339Nano)
		return append(dst, '"')
	}
	return strconv.AppendInt(dst, v.Int(), 10)
}

// MarshalJSON is AppendJSON.
func (v Value) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil), nil }

// ParseJSON reads a value of type t from JSON. Numbers must fit the type: 1.0 is
// an integer and 1.5 is none; timestamps are RFC 3339, or a number of seconds
// since 1970; bytes are base64.
func ParseJSON(t Type, raw []byte) (Value, error) {
	raw = bytes.TrimSpace(raw)
	if string(raw) == "null" {
		return Value{}, nil
	}
	if t.IsList() {
		var elements []json.RawMessage
		if err := json.Unmarshal(raw, &elements); err != nil {
			return Value{}, misfit(t, raw)
		}
		v := Value{typ: t, list: make([]Value, len(elements))}
		for i, e := range elements {
			var err error
			if v.list[i], err = ParseJSON(t.Elem(), e); err != nil {
				return Value{}, err
			}
			if v.list[i].Null() {
				return Value{}, fault.New(fault.Invalid, "a %s has no null elements", t)
			}
		}
		return v, nil
	}
	if len(raw) > 0 && raw[0] == '"' {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return Value{}, misfit(t, raw)
		}
		switch t {
		case String:
			return OfString(s), nil
		case Bytes:
			if b, err := base64.StdEncoding.DecodeString(s); err == nil {
				return OfBytes(b), nil
			}
		case Timestamp:
			if at, err := ParseTime(s); err == nil {
				return OfTime(at), nil
			}
		}
		return Value{}, misfit(t, raw)
	}
	switch string(raw) {
	case "true", "false":
		if t == Bool {
			return OfBool(raw[0] == 't'), nil
		}
		return Value{}, misfit(t, raw)
	}
	if t == Int64 || t == Int32 {
		if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
			return Convert(OfInt64(i), t)
		}
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !json.Valid(raw) {
		return Value{}, misfit(t, raw)
	}
	if t == Timestamp {
		if us := f * 1e6; math.Abs(us) < 1<<53 {
			return OfMicros(int64(math.Round(us))), nil
		}
		return Value{}, misfit(t, raw)
	}
	v, err := Convert(OfFloat64(f), t)
	if err != nil {
		return Value{}, misfit(t, raw)
	}
	return v, nil
}

// ParseTime reads RFC 3339, also with a space for the T, and without a zone, which then is UTC. What
// RFC 3339 could not write in UTC, since its year has not four digits there, is refused.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", time.DateOnly} {
		if at, err := time.Parse(layout, s); err == nil {
			if at = at.UTC(); at.Year() >= 0 && at.Year() <= 9999 {
				return at, nil
			}
		}
	}
	return time.Time{}, fault.New(fault.Invalid, "%.50q is not a time such as 2026-11-25T09:30:00Z", s)
}

func misfit(t Type, raw []byte) error {
	return fault.New(fault.Invalid, "%.80s is not a value of type %s", raw, t)
}

// Convert gives v as type t, if nothing is lost but precision of floats: numbers
// become other numbers that can hold them, and null is null of every type.
func Convert(v Value, t Type) (Value, error) {
	if v.typ == t || v.Null() {
		return v, nil
	}
	lost := func() error { return fault.New(fault.Invalid, "%.80s (%s) is not a value of type %s", v, v.typ, t) }
	if v.typ.IsList() && t.IsList() {
		c := Value{typ: t, list: make([]Value, len(v.list))}
		for i, e := range v.list {
			var err error
			if c.list[i], err = Convert(e, t.Elem()); err != nil {
				return Value{}, err
			}
		}
		return c, nil
	}
	switch {
	case !v.typ.Numeric() || !t.Numeric():
		return Value{}, lost()
	case t.Float():
		if t == Float32 {
			return OfFloat32(float32(v.Float())), nil
		}
		return OfFloat64(v.Float()), nil
	}
	i := v.Int()
	if v.typ.Float() {
		f := v.Float()
		if f != math.Trunc(f) || math.Abs(f) >= 1<<63 {
			return Value{}, lost()
		}
		i = int64(f)
	}
	switch {
	case t == Bool && (i == 0 || i == 1):
		return OfBool(i == 1), nil
	case t == Int32 && int64(int32(i)) == i:
		return OfInt32(int32(i)), nil
	case t == Int64:
		return OfInt64(i), nil
	}
	return Value{}, lost()
}

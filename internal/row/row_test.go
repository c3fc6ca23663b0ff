package row

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

var fields = []Field{
	{"b", Bool, 1},
	{"i", Int32, 2},
	{"l", Int64, 3},
	{"f", Float32, 4},
	{"d", Float64, 5},
	{"s", String, 6},
	{"y", Bytes, 7},
	{"t", Timestamp, 8},
	{"lf", ListOf(Float32), 9},
	{"ls", ListOf(String), 100},
	{"ll", ListOf(Int64), MaxID},
}

func values() []Value {
	return []Value{
		OfBool(true), OfInt32(math.MinInt32), OfInt64(math.MaxInt64), OfFloat32(1.5), OfFloat64(math.NaN()), OfString("é\x00"), OfBytes([]byte{0, 255}),
		OfTime(time.Date(2013, 1, 2, 3, 4, 5, 6000, time.UTC)),
		OfList(Float32, OfFloat32(1), OfFloat32(float32(math.Inf(1)))), OfList(String, OfString(""), OfString(strings.Repeat("x", 300))), OfList(Int64),
	}
}

func TestRoundTrip(t *testing.T) {
	want := values()
	data := Append(nil, fields, want)
	got := make([]Value, len(fields))
	if err := Decode(data, fields, got); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, Value.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range want {
		want[i] = Value{}
	}
	if data := Append(nil, fields, want); len(data) != 0 {
		t.Errorf("nulls take %d bytes, want none", len(data))
	}
}

// A definition may have gained, lost and moved columns since a row was written.
func TestDecodeForgivesChange(t *testing.T) {
	data := Append(nil, fields, values())
	now := []Field{{"new", Int64, 50}, {"s", String, 6}, {"i", Float64, 2}, {"b", Bool, 1}}
	got := make([]Value, len(now))
	if err := Decode(data, now, got); err != nil {
		t.Fatal(err)
	}
	want := []Value{{}, OfString("é\x00"), {}, OfBool(true)}
	if !slices.EqualFunc(got, want, Value.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Append(nil, fields, values()))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		got := make([]Value, len(fields))
		if Decode(data, fields, got) != nil {
			return
		}
		again := make([]Value, len(fields))
		if err := Decode(Append(nil, fields, got), fields, again); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(again, got, Value.Equal) {
			t.Errorf("got %v, want %v", again, got)
		}
	})
}

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		t        Type
		in, want string // want "" for a refusal
	}{
		{Bool, `true`, `true`},
		{Bool, `1`, `true`},
		{Bool, `2`, ``},
		{Bool, `"true"`, ``},
		{Int64, `9223372036854775807`, `9223372036854775807`},
		{Int64, `9223372036854775808`, ``},
		{Int64, `1.0`, `1`},
		{Int64, `1.5`, ``},
		{Int64, `true`, ``},
		{Int32, `2147483648`, ``},
		{Int32, `-7`, `-7`},
		{Float32, `0.1`, `0.1`},
		{Float64, `3`, `3`},
		{Float64, `1e400`, ``},
		{Float64, `0x10`, ``},
		{Float64, `1_0`, ``},
		{Float64, `Infinity`, ``},
		{String, `"a\u00e9"`, `"aé"`},
		{String, `5`, ``},
		{Bytes, `"AP8="`, `"AP8="`},
		{Bytes, `"?"`, ``},
		{Timestamp, `"2013-01-02T03:04:05.5Z"`, `"2013-01-02T03:04:05.5Z"`},
		{Timestamp, `"2013-01-02T03:04:05+02:00"`, `"2013-01-02T01:04:05Z"`},
		{Timestamp, `"2013-01-02 03:04:05"`, `"2013-01-02T03:04:05Z"`},
		{Timestamp, `1.5`, `"1970-01-01T00:00:01.5Z"`},
		{Timestamp, `"soon"`, ``},
		{Timestamp, `1e300`, ``},
		{ListOf(Int64), `[1,2]`, `[1,2]`},
		{ListOf(Int64), `[]`, `[]`},
		{ListOf(Int64), `[1,null]`, ``},
		{ListOf(String), `["a"]`, `["a"]`},
		{ListOf(Int64), `1`, ``},
		{String, `null`, `null`},
		{Int64, ``, ``},
	} {
		v, err := ParseJSON(c.t, []byte(c.in))
		if got := string(v.AppendJSON(nil)); err == nil && got != c.want {
			t.Errorf("%s of type %s: got %s, want %s", c.in, c.t, got, c.want)
		}
		if (err == nil) != (c.want != "") {
			t.Errorf("%s of type %s: got error %v, want one: %t", c.in, c.t, err, c.want == "")
		}
		if err == nil && !v.Null() && v.Type() != c.t {
			t.Errorf("%s: got type %s, want %s", c.in, v.Type(), c.t)
		}
	}
}

func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{`"x"`, `1e5`, `[1,[2]]`, `"2013-01-02T03:04:05Z"`, `null`} {
		f.Add(uint8(Int64), []byte(s))
		f.Add(uint8(ListOf(String)), []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		typ := Type(kind)
		if !typ.Valid() {
			return
		}
		v, err := ParseJSON(typ, raw)
		if err != nil {
			return
		}
		b := v.AppendJSON(nil)
		if !json.Valid(b) {
			t.Fatalf("%q of type %s is written as %q, which is no JSON", raw, typ, b)
		}
		again, err := ParseJSON(typ, b)
		if err != nil && !bytes.Contains(b, []byte("null")) {
			t.Fatalf("%q of type %s is written as %s, which reads as %v", raw, typ, b, err)
		}
		if err == nil && typ != Timestamp && typ != ListOf(Timestamp) && !again.Equal(v) {
			t.Errorf("got %v, want %v", again, v)
		}
	})
}

func TestTypeNames(t *testing.T) {
	for typ := range names {
		for _, want := range []Type{typ, ListOf(typ)} {
			got, err := ParseType(want.String())
			if err != nil || got != want {
				t.Errorf("ParseType(%s): got %s, %v", want, got, err)
			}
		}
	}
	for _, bad := range []string{"", "int", "list(", "list()", "list(list(int64))", "INT64"} {
		if got, err := ParseType(bad); err == nil {
			t.Errorf("ParseType(%q): got %s, want an error", bad, got)
		}
	}
}

func TestKeysAreEqualForEqualValuesOnly(t *testing.T) {
	keys := [][]Value{
		{OfString("a"), OfString("b")}, {OfString("ab"), OfString("")}, {OfString("ab")}, {OfInt64(1)}, {OfInt32(1)}, {OfTime(time.UnixMicro(1))}, {OfBytes([]byte("ab"))}, {OfBool(true)},
	}
	seen := map[string][]Value{}
	for _, k := range keys {
		b := string(AppendKey(nil, k...))
		if other, ok := seen[b]; ok {
			t.Errorf("%v and %v have the same key", k, other)
		}
		seen[b] = k
		if again := string(AppendKey(nil, k...)); again != b {
			t.Errorf("%v has two keys", k)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	f := make([]Field, 10)
	v := make([]Value, 10)
	for i := range f {
		f[i] = Field{ID: uint32(i + 1), Type: Float64}
		v[i] = OfFloat64(float64(i))
	}
	data := Append(nil, f, v)
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(data, f, v); err != nil {
			b.Fatal(err)
		}
	}
}

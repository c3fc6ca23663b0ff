package feast

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// golden is what testdata/golden.py has Feast's own package write.
type golden struct {
	Values [][3]string
	Keys   []struct {
		Project string
		Keys    []string
		Values  [][2]string
		Hash    string
	}
	Fields   [][2]string
	Times    [][2]any
	Request  string
	Cells    [][2]json.RawMessage
	Response string
	Answer   any
}

func readGolden(t testing.TB) (g golden) {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, typ, text string) row.Value {
	t.Helper()
	kind, err := row.ParseType(typ)
	if err != nil {
		t.Fatal(err)
	}
	v, err := row.ParseJSON(kind, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestValuesAreFeasts(t *testing.T) {
	for _, c := range readGolden(t).Values {
		want := parse(t, c[0], c[1])
		if got := hex.EncodeToString(AppendValue(nil, want)); got != c[2] {
			t.Errorf("%s %s: got %s, want %s", c[0], c[1], got, c[2])
		}
		got, err := DecodeValue(unhex(t, c[2]))
		if err != nil || !got.Equal(want) {
			t.Errorf("%s: got %s %s (%v), want %s %s", c[2], got.Type(), got, err, want.Type(), want)
		}
	}
}

func TestNamesInRedisAreFeasts(t *testing.T) {
	g := readGolden(t)
	for _, c := range g.Keys {
		var join []row.Field
		var values []row.Value
		for i, v := range c.Values {
			values = append(values, parse(t, v[0], v[1]))
			join = append(join, row.Field{Name: c.Keys[i], Type: values[i].Type()})
		}
		k, err := NewKeys(c.Project, join)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.Append(nil, values)); got != c.Hash {
			t.Errorf("%v: got %s, want %s", c.Values, got, c.Hash)
		}
	}
	for _, c := range g.Fields {
		got := hex.EncodeToString([]byte{byte(murmur3(c[0])), byte(murmur3(c[0]) >> 8), byte(murmur3(c[0]) >> 16), byte(murmur3(c[0]) >> 24)})
		if got != c[1] {
			t.Errorf("%q: got %s, want %s", c[0], got, c[1])
		}
		if c[0] == "driver_stats:rate" && hex.EncodeToString([]byte(FeatureField("driver_stats", "rate"))) != c[1] {
			t.Errorf("FeatureField: got %x, want %s", FeatureField("driver_stats", "rate"), c[1])
		}
	}
	for _, c := range g.Times {
		us := int64(c[0].(float64)) // none of them needs more than 53 bits but the first year, which is whole seconds
		if got := hex.EncodeToString(appendTime(nil, us)); got != c[1] {
			t.Errorf("%d: got %s, want %s", us, got, c[1])
		}
		if got, err := DecodeTime(unhex(t, c[1].(string))); err != nil || got != us {
			t.Errorf("%s: got %d (%v), want %d", c[1], got, err, us)
		}
	}
	for _, bad := range []row.Type{row.Bool, row.Float32, row.ListOf(row.Int64)} {
		if _, err := NewKeys("p", []row.Field{{Name: "k", Type: bad}}); err == nil {
			t.Errorf("a key of type %s was taken", bad)
		}
	}
}

func TestResponseIsFeasts(t *testing.T) {
	g := readGolden(t)
	r := Response{Rows: 2, Views: []View{{"stats", 3}}}
	var cells [][]Cell
	for _, c := range g.Cells {
		var name string
		var column [][3]any
		if err := errors.Join(json.Unmarshal(c[0], &name), json.Unmarshal(c[1], &column)); err != nil {
			t.Fatal(err)
		}
		r.Names = append(r.Names, name)
		var list []Cell
		for _, cell := range column {
			v, err := DecodeValue(unhex(t, cell[0].(string)))
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, Cell{v, Status(cell[1].(float64)), int64(cell[2].(float64))})
		}
		cells = append(cells, list)
	}
	r.At = func(column, i int, c *Cell) { *c = cells[column][i] }
	if got := hex.EncodeToString(r.AppendProto(nil)); got != g.Response {
		t.Errorf("got  %s\nwant %s", got, g.Response)
	}
	text := r.AppendJSON(nil)
	var got any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	want := g.Answer.(map[string]any)
	delete(want, "status") // of no use to anyone: an answer is one
	if !reflect.DeepEqual(got, g.Answer) {
		w, _ := json.Marshal(want)
		t.Errorf("got  %s\nwant %s", text, w)
	}
}

func TestRequestIsFeasts(t *testing.T) {
	var r Request
	if err := r.DecodeProto(unhex(t, readGolden(t).Request)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"stats:rate", "stats:trips"}; !slices.Equal(r.Features, want) || !r.FullNames || !r.Versions || r.Rows != 2 || len(r.Columns) != 2 {
		t.Fatalf("got %+v, want %v, both switches, and two columns of two rows", r, want)
	}
	for _, want := range []struct {
		column string
		row    int
		value  row.Value
	}{{"driver_id", 0, row.OfInt64(1001)}, {"driver_id", 1, row.OfInt64(1002)}, {"amount", 0, row.OfFloat64(1.5)}, {"amount", 1, row.Value{}}} {
		c, ok := r.Column(want.column)
		if !ok {
			t.Fatalf("there is no column %s", want.column)
		}
		typ := want.value.Type()
		if want.value.Null() {
			typ = row.Float64
		}
		if got, err := c.Value(want.row, typ); err != nil || !got.Equal(want.value) {
			t.Errorf("%s, row %d: got %s (%v), want %s", want.column, want.row, got, err, want.value)
		}
	}
}

func FuzzDecodeValue(f *testing.F) {
	for _, c := range readGolden(f).Values {
		f.Add(unhex(f, c[2]))
	}
	f.Add(protowire.AppendVarint(protowire.AppendTag(nil, typeTimestamp, protowire.VarintType), 1<<63)) // Feast's null
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeValue(b)
		if err != nil {
			return
		}
		again, err := DecodeValue(AppendValue(nil, v))
		if err != nil || !again.Equal(v) {
			t.Fatalf("%x: got %s, and written and read again %s (%v)", b, v, again, err)
		}
		if text := appendValue(nil, v); !json.Valid(text) {
			t.Fatalf("%x: written as %s, which is not JSON", b, text)
		}
		_, _ = DecodeTime(b)
	})
}

func FuzzDecodeTime(f *testing.F) {
	for _, us := range []int64{0, 1, -1, 1357095845123456, math.MaxInt64, math.MinInt64} {
		f.Add(us)
	}
	f.Fuzz(func(t *testing.T, us int64) {
		got, err := DecodeTime(appendTime(nil, us))
		if err != nil || got != us {
			if us/1e6 < secondsMost-1 && us/1e6 > 1-secondsMost {
				t.Fatalf("got %d (%v), want %d", got, err, us)
			}
		}
	})
}

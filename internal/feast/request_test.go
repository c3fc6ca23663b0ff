package feast

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

var update = flag.Bool("update", false, "write the compiled .proto file")

func TestDescriptorIsThatOfTheProto(t *testing.T) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	files, err := compiler.Compile(t.Context(), "serving.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := protodesc.ToFileDescriptorProto(files[0])
	if *update {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err == nil {
			err = os.WriteFile("serving.binpb", b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var got descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(Descriptor, &got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&got, want) {
		t.Error("serving.binpb is not serving.proto compiled: run the test with -update")
	}
}

const usual = `{"features": ["stats:rate", "stats:trips"], "entities": {"driver_id": [1001, 1002], "name": ["a", "b\u00e9"]}, "full_feature_names": true,
	"include_feature_view_version_metadata": false, "request_context": {"amount": [1.5, null], "odd": ["NaN", "-Infinity"]}, "other": [{}]}`

func TestDecode(t *testing.T) {
	var r Request
	for range 2 { // the second time in the memory of the first
		if err := r.Decode([]byte(usual)); err != nil {
			t.Fatal(err)
		}
		if want := []string{"stats:rate", "stats:trips"}; !slices.Equal(r.Features, want) || !r.FullNames || r.Versions || r.Rows != 2 || len(r.Columns) != 4 {
			t.Fatalf("got %+v", r)
		}
		var got []string
		for i := range r.Columns {
			c := &r.Columns[i]
			for j := range r.Rows {
				v, err := c.Value(j, map[string]row.Type{"driver_id": row.Int64, "name": row.String, "amount": row.Float32, "odd": row.Float64}[c.Name])
				if err != nil {
					t.Fatal(err)
				}
				text := v.String()
				if v.Type() == row.Float64 {
					text = fmt.Sprint(v.Float())
				}
				got = append(got, text)
			}
		}
		if want := []string{"1001", "1002", `"a"`, `"bé"`, "1.5", "null", "NaN", "-Inf"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := r.Decode([]byte(`{"feature_service":"eta","features":[],"entities":{"driver_id":[]}}`)); err != nil || r.Service != "eta" || r.Rows != 0 || r.FullNames {
		t.Errorf("got %+v, %v", r, err)
	}
	allocs := testing.AllocsPerRun(100, func() {
		if err := r.Decode([]byte(usual)); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 8 {
		t.Errorf("a request like the last takes %v allocations", allocs)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{``, "must be a JSON object"},
		{`[]`, "must be a JSON object"},
		{`{`, "key in quotes"},
		{`{}`, "neither features nor feature_service"},
		{`{"features":["a:b"]}`, "entities has no columns"},
		{`{"features":["a:b"],"entities":{}}`, "entities has no columns"},
		{`{"features":["a:b"],"entities":null}`, "entities has no columns"},
		{`{"features":["a:b"],"entities":[]}`, "entities must be an object"},
		{`{"features":["a:b"],"entities":{"k":1}}`, `entities: column "k" must be an array`},
		{`{"features":["a:b"],"entities":{"k":[1],"l":[1,2]}}`, `column "k" has 1 values and column "l" has 2`},
		{`{"features":["a:b"],"entities":{"k":[1]},"request_context":{"x":[]}}`, `column "k" has 1 values and column "x" has 0`},
		{`{"features":["a:b"],"entities":{"k":[1],"k":[2]}}`, `column "k" is given twice`},
		{`{"features":["a:b"],"entities":{"k":[1]},"request_context":{"k":[1]}}`, `column "k" is given twice`},
		{`{"features":["a:b"],"features":["a:b"]}`, "features is given twice"},
		{`{"features":"a:b","entities":{"k":[1]}}`, "features must be an array"},
		{`{"features":[1],"entities":{"k":[1]}}`, "features[0] must be a string"},
		{`{"features":["a:b"],"feature_service":"s","entities":{"k":[1]}}`, "exclude each other"},
		{`{"feature_service":5,"entities":{"k":[1]}}`, "feature_service must be a string"},
		{`{"features":["a:b"],"full_feature_names":1,"entities":{"k":[1]}}`, "full_feature_names must be true or false"},
		{`{"features":["a:b"],"entities":{"k":[1]}} x`, "the end of the request"},
		{`{"features":["a:b"],"entities":{"k":[NaN]}}`, "not valid JSON"},
		{`{"features":["a:b"],"entities":{"k":["` + "\xff" + `"]}}`, "UTF-8"},
		{`{"features":["a:b"],"entities":{"k":[` + strings.Repeat("[", 100) + `]}}`, "nest deeper"},
	} {
		var r Request
		err := r.Decode([]byte(c.body))
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Message(err), c.want) {
			t.Errorf("%.80s: got %v, want %q", c.body, err, c.want)
		}
	}
	for _, c := range []struct{ body, want string }{
		{`{"df":{"a":[1]}}`, "push_source_name is missing"},
		{`{"push_source_name":"p"}`, "df has no columns"},
		{`{"push_source_name":"p","df":{"a":[1],"b":[]}}`, `column "a" has 1 values and column "b" has 0`},
		{`{"push_source_name":"p","df":{"a":[1]},"to":"nowhere"}`, `to is "nowhere"`},
		{`{"push_source_name":"p","df":[]}`, "df must be an object"},
	} {
		var p Push
		err := p.DecodePush([]byte(c.body))
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Message(err), c.want) {
			t.Errorf("%s: got %v, want %q", c.body, err, c.want)
		}
	}
	var r Request
	if err := r.Decode([]byte(`{"features":["a:b"],"entities":{"k":[1,"x"]}}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Columns[0].Value(1, row.Int64); fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Message(err), `column "k", row 1`) {
		t.Errorf("got %v, want the column and the row", err)
	}
}

func TestPush(t *testing.T) {
	var p Push
	if err := p.DecodePush([]byte(`{"push_source_name":"rides","df":{"driver_id":[1],"event_timestamp":["2013-01-02T03:04:05"]},"allow_registry_cache":true,"to":"online_and_offline"}`)); err != nil {
		t.Fatal(err)
	}
	if p.Name != "rides" || p.To != ToBoth || p.Rows != 1 || len(p.Columns) != 2 {
		t.Errorf("got %+v", p)
	}
	if err := p.DecodeWrite([]byte(`{"feature_view_name":"stats","df":{"driver_id":[1,2]},"to":7}`)); err != nil {
		t.Fatal(err)
	}
	if p.Name != "stats" || p.To != ToOnline || p.Rows != 2 {
		t.Errorf("got %+v", p)
	}
}

func TestTimes(t *testing.T) {
	var c clock
	for us, want := range map[int64]string{
		0: "1970-01-01T00:00:00Z", -1: "1969-12-31T23:59:59.999999Z", 1357095845120000: "2013-01-02T03:04:05.120Z", 1357095845120001: "2013-01-02T03:04:05.120001Z",
		1357095845000000: "2013-01-02T03:04:05Z", math.MinInt64: time.UnixMicro(math.MinInt64).UTC().Format(time.RFC3339Nano),
	} {
		for range 2 {
			if got := string(c.append(nil, us)); got != want {
				t.Errorf("%d: got %s, want %s", us, got, want)
			}
		}
	}
}

// What is taken is JSON, and has the columns that encoding/json finds.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(usual))
	f.Add([]byte(`{"feature_service":"eta","entities":{"a":[1,[2],{"b":null}]}}`))
	f.Add([]byte(`{"push_source_name":"p","feature_view_name":"v","df":{"a":[1]},"to":"offline"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var p Push
		for _, decode := range []func([]byte) error{p.DecodePush, p.DecodeWrite} {
			if err := decode(body); err == nil && !json.Valid(body) {
				t.Fatalf("took %q, which is not JSON", body)
			}
		}
		var r Request
		if err := r.Decode(body); err != nil {
			if fault.KindOf(err) != fault.Invalid || len(fault.Message(err)) > 2000 {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("took %q: %v", body, err)
		}
		found := 0
		for _, member := range []string{"entities", "request_context"} {
			var columns map[string][]json.RawMessage
			if want[member] == nil {
				continue
			}
			if err := json.Unmarshal(want[member], &columns); err != nil {
				t.Fatalf("took %q: %v", body, err)
			}
			found += len(columns)
			for name, values := range columns {
				if c, ok := r.Column(name); !ok || len(values) != r.Rows || len(c.raw) != r.Rows {
					t.Fatalf("%q: column %q has %d values, want %d", body, name, r.Rows, len(values))
				}
			}
		}
		if found != len(r.Columns) {
			t.Fatalf("%q: got %d columns, want %d", body, len(r.Columns), found)
		}
		for i := range r.Columns {
			c := &r.Columns[i]
			for j := range r.Rows {
				for _, typ := range []row.Type{row.Int64, row.String, row.Float64, row.ListOf(row.Timestamp)} {
					if v, err := c.Value(j, typ); err == nil && !v.Null() && v.Type() != typ {
						t.Fatalf("%q: row %d of %s is a %s, want %s", body, j, c.Name, v.Type(), typ)
					}
				}
			}
		}
	})
}

func FuzzDecodeProto(f *testing.F) {
	f.Add(unhex(f, readGolden(f).Request))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if err := r.DecodeProto(b); err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%x: %v", b, err)
			}
			return
		}
		for i := range r.Columns {
			for j := range r.Rows {
				_, _ = r.Columns[i].Value(j, row.Int64)
			}
		}
	})
}

func FuzzRegistry(f *testing.F) {
	b, err := os.ReadFile("testdata/registry.db")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Registry
		if err := r.Decode(b); err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatalf("%x: %v", b, err)
		}
	})
}

func bigAnswer() *Response {
	names := make([]string, 11)
	for i := range names {
		names[i] = fmt.Sprintf("feature_%d", i)
	}
	return &Response{Names: names, Rows: 50, At: func(column, i int, c *Cell) {
		*c = Cell{row.OfFloat64(float64(column*1000+i) / 7), Present, 1357095845123456 + int64(i)*1e9}
	}}
}

func BenchmarkResponse(b *testing.B) {
	r := bigAnswer()
	dst := r.AppendJSON(nil)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = r.AppendJSON(dst[:0])
	}
}

func BenchmarkRequest(b *testing.B) {
	var body strings.Builder
	body.WriteString(`{"features":[`)
	for i := range 10 {
		fmt.Fprintf(&body, `"driver_stats:feature_%d", `, i)
	}
	text := strings.TrimSuffix(body.String(), ", ") + `], "entities":{"driver_id":[1001` + strings.Repeat(", 1002", 49) + `]}}`
	var r Request
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Decode([]byte(text)); err != nil {
			b.Fatal(err)
		}
		for i := range r.Rows {
			if _, err := r.Columns[0].Value(i, row.Int64); err != nil {
				b.Fatal(err)
			}
		}
	}
}

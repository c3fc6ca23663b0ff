package drift

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

var update = flag.Bool("update", false, "rewrite testdata")

// sound tells of what no report may have: what JSON can't say, and shares and chances that are none.
func sound(t testing.TB, r *Report) {
	t.Helper()
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	for _, c := range r.Columns {
		for _, share := range []float64{c.Missing.Current, c.Missing.Reference, c.Unseen.Current, c.Unseen.Reference, c.Below, c.Above} {
			if !(share >= 0 && share <= 1) {
				t.Errorf("%s: a share of %v", c.Name, share)
			}
		}
		for _, test := range c.Tests {
			if !(test.P >= 0 && test.P <= 1 && test.Adjusted >= test.P && test.Adjusted <= 1 && test.Effect >= 0) {
				t.Errorf("%s: test %+v", c.Name, test)
			}
		}
		if c.String() == "" {
			t.Errorf("%s has nothing to say", c.Name)
		}
	}
}

func TestProfileGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	p := reference(t, r, []source{
		{"normal", false, func(r *rand.Rand) Value { return Number(math.Round(100*r.NormFloat64()) / 10) }},
		{"discrete", false, func(r *rand.Rand) Value { return Number(float64(r.IntN(3))) }},
		{"text", true, func(r *rand.Rand) Value { return Text(string(rune('a' + r.IntN(4)))) }},
		{"missing", false, func(*rand.Rand) Value { return Value{} }},
	}, 40)
	got, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/profile.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %s, want what is in %s", got, file)
	}
	parsed, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Digest() != p.Digest() || parsed.Rows() != 40 {
		t.Errorf("got the digest %s and %d rows, want %s and 40", parsed.Digest(), parsed.Rows(), p.Digest())
	}
}

// TestProfileIsStable wants the same rows to give the same profile, and it to survive its encoding.
func TestProfileIsStable(t *testing.T) {
	make := func() *Profile { return reference(t, rand.New(rand.NewPCG(1, 1)), sources(), 3000) }
	a, b := make(), make()
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest() != b.Digest() || a.Digest() != c.Digest() || len(a.Digest()) != 64 {
		t.Errorf("got digests %s, %s, %s", a.Digest(), b.Digest(), c.Digest())
	}
	for i, col := range a.Columns() {
		if n := len(col.Edges); n > MaxBins || len(col.Categories) > MaxCategories {
			t.Errorf("%s has %d bins and %d categories", col.Name, n, len(col.Categories))
		}
		if got, ok := c.Column(col.Name); !ok || got != i {
			t.Errorf("%s lies at %d, want %d", col.Name, got, i)
		}
	}
	for name, want := range map[string]int{"normal": 250, "lognormal": 250, "bool": 2, "discrete": 8, "few": 3, "tail": 200, "constant": 1} {
		i, _ := a.Column(name)
		if got := len(a.Columns()[i].Counts); got > want+6 || got < want*9/10 {
			t.Errorf("%s has %d bins or categories, want some %d", name, got, want)
		}
	}
}

// TestSample takes more rows than are kept.
func TestSample(t *testing.T) {
	const rows = 3*SampleRows + 1
	b := NewBuilder([]Field{{"i", false}, {"text", true}})
	for i := range rows {
		text := Text("b")
		if i%3 == 0 {
			text = Text("a")
		}
		n := Number(float64(i))
		if i%10 == 0 {
			n = Value{}
		}
		if err := b.Add([]Value{n, text}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	c := &p.Columns()[0]
	if c.Missing != rows/10+1 || c.Min != 1 || c.Max() != rows-2 {
		t.Errorf("got %d missing from %v to %v, want those of all rows", c.Missing, c.Min, c.Max())
	}
	// Standard errors of the counts are some 95 to 150.
	if got := p.Columns()[1]; got.Sampled() != SampleRows || math.Abs(float64(got.Counts[1])-SampleRows/3.) > 600 {
		t.Errorf("got %d of %d in the sample, want a third", got.Counts[1], got.Sampled())
	}
	if got := c.Sampled(); math.Abs(float64(got)-.9*SampleRows) > 400 {
		t.Errorf("got %d numbers in the sample, want nine tenths", got)
	}
	var at uint64
	for i, n := range c.Counts {
		at += n
		if want := float64(at) / float64(c.Sampled()) * rows; math.Abs(c.Edges[i]-want) > 0.01*rows {
			t.Errorf("edge %d is at %v, want some %v", i, c.Edges[i], want)
		}
	}
}

// TestAtoms wants a value that many rows have to be alone in its bin.
func TestAtoms(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	p := reference(t, r, []source{{"x", false, func(r *rand.Rand) Value {
		if f := r.NormFloat64(); math.Abs(f) > 0.3 {
			return Number(f)
		}
		return Number(0)
	}}}, 10_000)
	c := &p.Columns()[0]
	i := search(c.bounds, 0)
	if share := float64(c.Counts[i-1]) / float64(c.Sampled()); c.Edges[i-1] != 0 || c.Edges[i-2] > -0.3 || share < 0.2 || share > 0.27 {
		t.Errorf("got a bin from %v to %v with %v of all, want zeros alone", c.Edges[i-2], c.Edges[i-1], share)
	}
}

func TestParseRefuses(t *testing.T) {
	column := func(s string) string { return `{"version":1,"rows":10,"columns":[` + s + `]}` }
	good := `{"name":"x","kind":"numeric","missing":2,"min":1,"edges":[1,2],"counts":[3,5]}`
	if _, err := Parse([]byte(column(good))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":           ``,
		"no object":         `[]`,
		"another version":   strings.Replace(column(good), `"version":1`, `"version":2`, 1),
		"unknown fields":    strings.Replace(column(good), `"missing"`, `"mising"`, 1),
		"something behind":  column(good) + "{}",
		"no columns":        column(""),
		"a column twice":    column(good + "," + good),
		"no name":           column(strings.Replace(good, `"x"`, `""`, 1)),
		"no kind":           column(strings.Replace(good, `numeric`, `n`, 1)),
		"too many counts":   column(strings.Replace(good, `[3,5]`, `[3,4,1]`, 1)),
		"too many rows":     column(strings.Replace(good, `[3,5]`, `[3,6]`, 1)),
		"an empty bin":      column(strings.Replace(good, `[3,5]`, `[3,0]`, 1)),
		"missing rows":      column(strings.Replace(good, `"missing":2`, `"missing":11`, 1)),
		"edges that fall":   column(strings.Replace(good, `[1,2]`, `[2,1]`, 1)),
		"below the least":   column(strings.Replace(good, `[1,2]`, `[0,2]`, 1)),
		"no number":         column(strings.Replace(good, `[1,2]`, `[1,1e999]`, 1)),
		"a negative count":  column(strings.Replace(good, `[3,5]`, `[3,-5]`, 1)),
		"other numbers":     column(strings.Replace(good, `"counts"`, `"other":1,"counts"`, 1)),
		"single numbers":    column(strings.Replace(good, `"counts"`, `"single":1,"counts"`, 1)),
		"categories too":    column(strings.Replace(good, `"counts"`, `"categories":["a","b"],"counts"`, 1)),
		"a category twice":  column(`{"name":"x","kind":"categorical","missing":2,"categories":["a","a"],"counts":[3,5]}`),
		"a long category":   column(`{"name":"x","kind":"categorical","missing":2,"categories":["` + strings.Repeat("a", 65) + `"],"counts":[8]}`),
		"many discrete":     column(`{"name":"x","kind":"discrete","missing":2,"min":1,"edges":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21],"counts":[]}`),
		"no value":          column(`{"name":"x","kind":"numeric","missing":2}`),
		"the smallest":      column(strings.Replace(good, `"min":1`, `"min":-1.7976931348623157e308`, 1)),
		"values that stand": column(`{"name":"x","kind":"categorical","missing":2,"categories":["a"],"counts":[3],"single":4}`),
	} {
		if _, err := Parse([]byte(text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	if _, err := NewBuilder([]Field{{"x", true}, {"x", true}}).Profile(); !fault.Is(err, fault.Invalid) {
		t.Errorf("building a column twice: got %v, want invalid", err)
	}
	if err := NewBuilder([]Field{{"x", true}}).Add(nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a row without values: got %v, want invalid", err)
	}
}

func FuzzParse(f *testing.F) {
	data, err := json.Marshal(reference(f, rand.New(rand.NewPCG(1, 1)), sources(), 30))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, 1.5, "c1")
	golden, err := os.ReadFile("testdata/profile.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden, 0.0, "a")
	f.Fuzz(func(t *testing.T, data []byte, number float64, text string) {
		p, err := Parse(data)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v, want it to be invalid", err)
			}
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := Parse(again); err != nil || q.Digest() != p.Digest() {
			t.Fatalf("parsing what was written: got %v", err)
		}
		s := NewState(p)
		for range 200 {
			for i := range p.Columns() {
				s.AddNumber(i, number)
				s.AddText(i, text)
				s.AddMissing(i)
			}
		}
		other := NewState(p)
		if err := other.Decode(encode(t, s)); err != nil {
			t.Fatal(err)
		}
		report, err := Compare(s, Default)
		if err != nil {
			t.Fatal(err)
		}
		sound(t, report)
	})
}

type flat struct {
	Bool    bool      `parquet:"bool"`
	I32     int32     `parquet:"i32"`
	I64     *int64    `parquet:"i64,optional"`
	U64     uint64    `parquet:"u64"`
	F32     float32   `parquet:"f32"`
	F64     *float64  `parquet:"f64,optional"`
	Text    *string   `parquet:"text,optional,dict"`
	Time    time.Time `parquet:"time,timestamp(microsecond)"`
	List    []string  `parquet:"list,list"`
	Nothing *float64  `parquet:"nothing,optional"`
}

// shortest is the number that JSON has of a float32.
func shortest(t *testing.T, f float32) (v float64) {
	t.Helper()
	text, err := json.Marshal(f)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestFromParquet(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	fields := []Field{{"bool", false}, {"i32", false}, {"i64", false}, {"u64", false}, {"f32", false}, {"f64", false}, {"text", true}, {"nothing", false}}
	b := NewBuilder(fields)
	var data bytes.Buffer
	w := parquet.NewGenericWriter[flat](&data, parquet.PageBufferSize(5000))
	for i := range 10_000 {
		row := flat{Bool: r.IntN(2) == 0, I32: int32(r.IntN(1000)) - 500, U64: math.MaxUint64 - uint64(r.IntN(30))<<40, F32: float32(r.NormFloat64()), Time: time.Now(), List: []string{"a", "b"}}
		values := []Value{Number(0), Number(float64(row.I32)), {}, Number(float64(row.U64)), Number(shortest(t, row.F32)), {}, {}, {}}
		if row.Bool {
			values[0] = Number(1)
		}
		if r.IntN(4) > 0 {
			n, f, s := r.Int64()-1<<62, r.ExpFloat64(), fmt.Sprint("c", r.IntN(300))
			row.I64, row.F64, row.Text = &n, &f, &s
			values[2], values[5], values[6] = Number(float64(n)), Number(f), Text(s)
		}
		if _, err := w.Write([]flat{row}); err != nil {
			t.Fatal(err)
		}
		if i%3000 == 2999 {
			if err := w.Flush(); err != nil { // a row group
				t.Fatal(err)
			}
		}
		if err := b.Add(values); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	file, size := bytes.NewReader(data.Bytes()), int64(data.Len())
	var names []string
	for _, f := range fields {
		names = append(names, f.Name)
	}
	got, err := FromParquet(file, size, names)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest() != want.Digest() {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Errorf("got %.3000s, want %.3000s", g, w)
	}
	all, err := FromParquet(file, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Columns()) != len(names) {
		t.Errorf("got %d columns, want the %d that can be read", len(all.Columns()), len(names))
	}
	for _, name := range []string{"time", "list", "none"} {
		if _, err := FromParquet(file, size, []string{"i32", name}); !fault.Is(err, fault.Invalid) {
			t.Errorf("column %s: got %v, want invalid", name, err)
		}
	}
	if _, err := FromParquet(file, size-1, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a file that is cut: got %v, want invalid", err)
	}
}

// A profile of two samples keeps of how many rows each column is, and judges each by its own.
func TestWith(t *testing.T) {
	build := func(name string, rows int) *Profile {
		b := NewBuilder([]Field{{Name: name}})
		for i := range rows {
			if err := b.Add([]Value{Number(float64(i))}); err != nil {
				t.Fatal(err)
			}
		}
		p, err := b.Profile()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	a, b := build("a", 1000), build("b", 400)
	both, err := a.With(b)
	if err != nil {
		t.Fatal(err)
	}
	data, err := both.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(data)
	if err != nil || again.Digest() != both.Digest() {
		t.Fatalf("got %v", err)
	}
	c := again.Columns()
	if again.Rows() != 1000 || c[0].Rows != 0 || c[1].Rows != 400 || c[1].Sampled() != 400 || b.Columns()[0].Rows != 0 {
		t.Errorf("got %d rows, columns of %d and %d", again.Rows(), c[0].Rows, c[1].Rows)
	}
	s, alone := NewState(again), NewState(b)
	for i := range 300 {
		s.AddNumber(0, float64(i))
		s.AddNumber(1, float64(i*2))
		alone.AddNumber(0, float64(i*2))
	}
	got, err := Compare(s, Default)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Compare(alone, Default)
	if err != nil {
		t.Fatal(err)
	}
	for i, test := range got.Columns[1].Tests {
		if test.P != want.Columns[0].Tests[i].P {
			t.Errorf("%s: got p %g, want that of the column alone, %g", test.Name, test.P, want.Columns[0].Tests[i].P)
		}
	}
	if _, err := a.With(a); !fault.Is(err, fault.Invalid) {
		t.Errorf("a column twice: got %v", err)
	}
	data = bytes.Replace(data, []byte(`"rows":400`), []byte(`"rows":399`), 1)
	if _, err := Parse(data); !fault.Is(err, fault.Invalid) {
		t.Errorf("more values than rows: got %v", err)
	}
}

package drift

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// What training knew less surprises more, and nothing surprises without bound, or as a number that is none.
func TestSurprise(t *testing.T) {
	b := NewBuilder([]Field{{Name: "number"}, {Name: "few"}, {Name: "word", Text: true}})
	for i := range 1000 {
		word := "usual"
		if i%100 == 0 {
			word = "rare"
		}
		row := []Value{Number(float64(i)), Number(float64(i % 10 / 9)), Text(word)} // of few a tenth is 1
		if i%50 == 0 {
			row[0] = Value{}
		}
		if err := b.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	if p.columns[0].Kind != Numeric || p.columns[1].Kind != Discrete || p.columns[2].Kind != Categorical {
		t.Fatalf("got %+v", p.columns)
	}
	for column, order := range [][]Value{
		{Number(500), Number(250), Number(900), Number(990), Number(-1), Number(5000), Number(1e6), Number(-math.MaxFloat64)},
		{Number(0), Number(1), Number(0.5)},
		{Text("usual"), Text("rare"), Text("new")},
	} {
		before := -1.
		for _, v := range order {
			got := p.Surprise(column, v)
			if !(got > before) || math.IsInf(got, 0) {
				t.Errorf("column %d: %+v surprises by %g, want a number above %g", column, v, got, before)
			}
			before = got
		}
	}
	for _, c := range []struct {
		column int
		value  Value
		share  float64
	}{
		{0, Number(500), 1}, // in the middle
		{0, Number(100), 2 * .1},
		{0, Value{}, .02},
		{0, Text("x"), .02}, // missing, as when it is counted
		{0, Number(math.NaN()), .02},
		{1, Number(1), .1},
		{2, Text("rare"), .01},
		{2, Number(7), .001},
		{2, Text(strings.Repeat("long", 100)), .001},
	} {
		if got, want := p.Surprise(c.column, c.value), -math.Log(c.share); math.Abs(got-want) > .1 {
			t.Errorf("column %d: %.20s surprises by %.3g, want %.3g", c.column, fmt.Sprint(c.value), got, want)
		}
	}
}

func BenchmarkSurprise(b *testing.B) {
	builder := NewBuilder([]Field{{Name: "number"}})
	for i := range 1000 {
		if err := builder.Add([]Value{Number(float64(i * i % 997))}); err != nil {
			b.Fatal(err)
		}
	}
	p, err := builder.Profile()
	if err != nil {
		b.Fatal(err)
	}
	at := 0.
	for b.Loop() {
		at = math.Mod(at+617, 1100)
		p.Surprise(0, Number(at))
	}
}

package chart

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

// element is one of a picture, with its text.
type element struct {
	name, text string
	attrs      map[string]string
}

func (e *element) number(t *testing.T, name string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(e.attrs[name], 64)
	if err != nil {
		t.Errorf("%s of %+v: %v", name, e, err)
	}
	return f
}

// read takes a picture apart; it is well-formed, or the test fails.
func read(t *testing.T, svg []byte) (all []*element) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	var open []*element
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			e := &element{name: token.Name.Local, attrs: map[string]string{}}
			for _, a := range token.Attr {
				e.attrs[a.Name.Local] = a.Value
			}
			all, open = append(all, e), append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].text += string(token)
			}
		}
	}
}

func find(all []*element, name, text string) *element {
	for _, e := range all {
		if e.name == name && strings.Contains(e.text, text) {
			return e
		}
	}
	return nil
}

func count(all []*element, name, attr, value string) (n int) {
	for _, e := range all {
		if e.name == name && strings.Contains(e.attrs[attr], value) {
			n++
		}
	}
	return n
}

func at(s string) float64 {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return float64(t.Unix())
}

func exact(x, y float64) Point { return Point{x, y, y, y} }

// strange is what a name may be, at worst.
const strange = "<script>alert('&\"')</script>\x00\x1b[31m\u202egnp.exe"

func TestFigure(t *testing.T) {
	f := &Figure{Title: "m: auc", Under: "2013", Description: "It rose.", Plots: []Plot{{
		Title: "auc", Width: 1, X: Axis{Time: true}, Y: Axis{Label: "a chance"}, Series: []Series{
			{Name: "version 1", Points: []Point{{at("2013-01-01"), .7, .68, .72}, {at("2013-01-08"), .8, .78, .82}, {X: at("2013-01-15"), Y: math.NaN()}, exact(at("2013-01-22"), .75)}},
			{Name: "version 1, estimated", Dashed: true, Points: []Point{exact(at("2013-01-01"), .71), exact(at("2013-01-22"), .76)}},
		},
	}, {Title: "calibration", Width: .5, X: Axis{To: 1}, Y: Axis{To: 1}, Series: []Series{{Name: "version 1", Bars: true, Points: []Point{{.1, .1, .05, .2}, {.9, .8, .7, .9}}}}}}}
	all := read(t, f.SVG())
	if all[0].name != "svg" || all[0].attrs["role"] != "img" || all[1].name != "title" || all[1].text != "m: auc" || all[2].name != "desc" || all[2].text != "It rose." {
		t.Errorf("it begins with %+v %+v %+v", all[0], all[1], all[2])
	}
	for _, want := range []string{"m: auc", "2013", "auc", "a chance", "calibration", "0.70", "0.80", "7 Jan", "1.0"} {
		if find(all, "text", want) == nil {
			t.Errorf("%q is not written", want)
		}
	}
	names := 0
	for _, e := range all {
		if e.name == "text" && e.text == "version 1" {
			names++
		}
	}
	if names != 1 {
		t.Errorf("version 1 is in the legend %d times, want once", names)
	}
	if got := count(all, "path", "stroke-dasharray", " "); got != 2 { // and in the legend
		t.Errorf("%d lines are dashed, want 2", got)
	}
	// Marks in the order of points, the first of which is in the legend.
	var x, y []float64
	for _, e := range all {
		if e.name == "circle" {
			x, y = append(x, e.number(t, "cx")), append(y, e.number(t, "cy"))
		}
	}
	if len(x) != 6 {
		t.Fatalf("there are %d marks, want 6", len(x))
	}
	x, y = x[1:], y[1:]
	if !(x[0] < x[1] && x[1] < x[2] && x[2] < x[3] && x[3] < x[4]) || math.Abs((x[1]-x[0])*2-(x[2]-x[1])) > .3 {
		t.Errorf("marks are at x of %v: later ones stand further right, by the time between them", x)
	}
	if !(y[1] < y[2] && y[2] < y[0]) || math.Abs((y[0]-y[1])/2-(y[0]-y[2])) > .2 || !(y[4] < y[3]) {
		t.Errorf("marks are at y of %v: what is more stands higher, by how much more it is", y)
	}
	tick := find(all, "text", "0.80")
	if got := tick.number(t, "y"); math.Abs(got-4-y[1]) > .2 {
		t.Errorf("0.80 is written at %v, and drawn at %v", got-4, y[1])
	}
}

func TestFigureOfNothing(t *testing.T) {
	for name, points := range map[string][]Point{
		"none": nil, "unknown": {{X: 1, Y: math.NaN()}}, "one": {exact(1, 1)}, "same": {exact(1, 0), exact(2, 0)},
		"huge": {exact(0, -math.MaxFloat64), exact(1, math.MaxFloat64)}, "endless": {exact(0, math.Inf(-1)), exact(1, math.Inf(1))},
		"late": {exact(0, 1), exact(1e300, 2)}, "near": {exact(1, 1), exact(1, 1+1e-15)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, x := range []Axis{{}, {Time: true}} {
				svg := (&Figure{Plots: []Plot{{Width: 1, X: x, Series: []Series{{Name: "a", Points: points}, {Name: "b", Dashed: true, Points: points}, {Name: "c", Bars: true, Points: points}}}}}).SVG()
				read(t, svg)
				if strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
					t.Errorf("got\n%s", svg)
				}
			}
		})
	}
}

// One window of few points has an interval that would flatten all others.
func TestWideIntervals(t *testing.T) {
	var points []Point
	for i := range 40 {
		v := .7 + float64(i%5)/100
		points = append(points, Point{float64(i), v, v - .01, v + .01})
	}
	points[7].Low, points[7].High = 0, 1
	_, _, low, high := (&Plot{Series: []Series{{Points: points}}}).ends()
	if low < .65 || high > .8 {
		t.Errorf("the axis is from %v to %v", low, high)
	}
	f := frame{top: 10, bottom: 110, y0: low, y1: high}
	if f.y(1) != 10 || f.y(0) != 110 {
		t.Errorf("what is beyond is drawn at %v and %v", f.y(1), f.y(0))
	}
}

// An interval that is not known is none of no width.
func TestUnknownIntervals(t *testing.T) {
	known := func(x float64) Point { return Point{x, 1, .5, 1.5} }
	all := read(t, (&Figure{Plots: []Plot{{Width: 1, Series: []Series{{Points: []Point{known(0), known(1), exact(2, 1), known(3), known(4)}}}}}}).SVG())
	for _, e := range all {
		if e.name == "path" && e.attrs["fill-opacity"] != "" {
			if got := strings.Count(e.attrs["d"], "M"); got != 2 {
				t.Errorf("the band is %s, in %d parts, want 2", e.attrs["d"], got)
			}
			return
		}
	}
	t.Error("there is no band")
}

func heatOf(spans int, name string) *Heat {
	h := &Heat{Title: "m: drift", Under: "2013", Description: "It drifted.", Measure: "PSI", Steps: []float64{.1, .5, 1}, Marked: "has drifted", Blank: "too few", Blocks: []Block{{Title: "version 1"}}}
	b := &h.Blocks[0]
	row, other := Row{Name: name}, Row{Name: "other"}
	for i := range spans {
		from := time.Date(2013, time.January, 1+i, 0, 0, 0, 0, time.UTC)
		b.Spans = append(b.Spans, Span{from, from.AddDate(0, 0, 1)})
		row.Cells = append(row.Cells, Cell{Value: float64(i) / 4, Marked: i > 2, Tip: "tip of " + name})
		other.Cells = append(other.Cells, Cell{Blank: true})
	}
	b.Rows = []Row{row, other}
	return h
}

func TestHeat(t *testing.T) {
	all := read(t, heatOf(6, "dewp").SVG())
	for _, want := range []string{"m: drift", "PSI", "below 0.1", "0.1 to 0.5", "from 1", "underlined: has drifted", "too few", "version 1", "dewp", "1.25", "1 Jan", "6 Jan"} {
		if find(all, "text", want) == nil {
			t.Errorf("%q is not written", want)
		}
	}
	if find(all, "title", "tip of dewp") == nil {
		t.Error("there are no tips")
	}
	// The cells of the first row: to the right as time goes, the stronger the more their value is.
	var x, strength []float64
	inRow := false
	marks := 0
	for _, e := range all {
		switch {
		case e.name == "text" && strings.Contains(e.text, "dewp"):
			inRow = true
		case e.name == "text" && strings.Contains(e.text, "other"):
			inRow = false
		case inRow && e.name == "rect" && e.attrs["fill-opacity"] != "":
			x, strength = append(x, e.number(t, "x")), append(strength, e.number(t, "fill-opacity"))
		case inRow && e.name == "path":
			marks += strings.Count(e.attrs["d"], "M")
		}
	}
	if len(x) != 6 || marks != 3 {
		t.Fatalf("the row has %d cells, of which %d are underlined; want 6 and 3", len(x), marks)
	}
	for i := 1; i < len(x); i++ {
		if x[i] <= x[i-1] || strength[i] < strength[i-1] {
			t.Errorf("cells are at x of %v, with strengths %v", x, strength)
		}
	}
	if !(strength[0] < strength[1] && strength[1] < strength[2] && strength[2] < strength[4]) {
		t.Errorf("strengths are %v for steps 0, 1, 2, 2, 3, 3", strength)
	}
	// Where cells are narrow, there are round times and no numbers.
	many := read(t, heatOf(365, "dewp").SVG())
	if find(many, "text", "Jul") == nil || find(many, "text", "1.25") != nil {
		t.Error("a year of days has no months below it, or numbers in its cells")
	}
	for _, h := range []*Heat{{Steps: []float64{1}}, {Steps: []float64{1}, Blocks: []Block{{Rows: []Row{{Name: "a", Cells: []Cell{{}}}}}}}, heatOf(1, "")} {
		if svg := h.SVG(); strings.Contains(string(svg), "NaN") {
			t.Errorf("got\n%s", svg)
		} else {
			read(t, svg)
		}
	}
}

func TestStrangeTexts(t *testing.T) {
	h := heatOf(3, strange)
	h.Title, h.Under, h.Description, h.Measure, h.Marked, h.Blank, h.Blocks[0].Title = strange, strange, strange, strange, strange, strange, strange
	f := &Figure{Title: strange, Under: strange, Description: strange, Plots: []Plot{{Title: strange, Width: 1, X: Axis{Label: strange}, Y: Axis{Label: strange}, Series: []Series{{Name: strange, Points: []Point{exact(1, 1)}}}}}}
	for _, svg := range [][]byte{h.SVG(), f.SVG()} {
		all := read(t, svg)
		if find(all, "script", "") != nil || find(all, "title", "<script>alert('&\"')</script>") == nil {
			t.Errorf("a text became an element, or is not there:\n%s", svg)
		}
		if strings.ContainsAny(string(svg), "\x00\x1b\u202e") {
			t.Error("control characters are left")
		}
	}
	long := read(t, heatOf(3, strings.Repeat("long", 100)).SVG())
	for _, e := range long {
		if e.name == "text" && len(e.text) > 100 {
			t.Errorf("a name of %d letters is written as %q", 400, e.text)
		}
	}
}

func labels(ticks []tick) string {
	var all []string
	for _, k := range ticks {
		s := k.label
		if k.under != "" {
			s += "/" + k.under
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestNumberTicks(t *testing.T) {
	for _, test := range []struct {
		lo, hi float64
		most   int
		want   string
	}{
		{0, 1, 6, "0.0 0.2 0.4 0.6 0.8 1.0"},
		{0, 1, 7, "0.0 0.2 0.4 0.6 0.8 1.0"},
		{0, 1, 3, "0.0 0.5 1.0"},
		{0, 1, 2, "0 1"},
		{.703, .8024, 7, "0.72 0.74 0.76 0.78 0.80"},
		{-3, 12, 5, "0 5 10"},
		{-.02, .011, 7, "-0.020 -0.015 -0.010 -0.005 0.000 0.005 0.010"},
		{0, 1.2e9, 4, "0 5e+08 1e+09"},
		{1e-7, 9e-7, 5, "2e-07 4e-07 6e-07 8e-07"},
		{99.9, 100.1, 3, "99.9 100.0 100.1"},
		{1, 1, 7, ""},
		{2, 1, 7, ""},
		{1, 1 + 1e-12, 7, ""},
		{math.NaN(), 1, 7, ""},
		{0, math.Inf(1), 7, ""},
	} {
		if got := labels(numberTicks(test.lo, test.hi, test.most)); got != test.want {
			t.Errorf("from %v to %v, at most %d: got %s, want %s", test.lo, test.hi, test.most, got, test.want)
		}
	}
}

func TestTimeTicks(t *testing.T) {
	for _, test := range []struct {
		from, until string
		most        int
		want        string
	}{
		{"2013-01-01T00:00:00Z", "2014-01-01T00:00:00Z", 12, "Jan/2013 Mar May Jul Sep Nov Jan/2014"},
		{"2013-01-01T00:00:00Z", "2014-01-01T00:00:00Z", 13, "Jan/2013 Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec Jan/2014"},
		{"2013-11-20T00:00:00Z", "2014-02-01T00:00:00Z", 4, "Dec/2013 Jan/2014 Feb"},
		{"2013-12-23T00:00:00Z", "2014-01-13T00:00:00Z", 6, "23 Dec/2013 30 Dec 6 Jan/2014 13 Jan"}, // Mondays
		{"2013-12-30T05:00:00Z", "2014-01-02T05:00:00Z", 5, "31 Dec/2013 1 Jan/2014 2 Jan"},
		{"2013-12-31T10:30:00Z", "2014-01-01T10:30:00Z", 5, "12:00/31 Dec 2013 18:00 00:00/1 Jan 2014 06:00"},
		{"2013-12-31T10:30:00Z", "2013-12-31T11:30:00Z", 5, "10:30/31 Dec 2013 10:45 11:00 11:15 11:30"},
		{"1990-06-01T00:00:00Z", "2026-06-01T00:00:00Z", 8, "1995 2000 2005 2010 2015 2020 2025"},
		{"2013-01-01T00:00:00Z", "2013-01-01T00:00:00Z", 8, ""},
	} {
		from, err := time.Parse(time.RFC3339, test.from)
		if err != nil {
			t.Fatal(err)
		}
		until, err := time.Parse(time.RFC3339, test.until)
		if err != nil {
			t.Fatal(err)
		}
		ticks := timeTicks(float64(from.Unix()), float64(until.Unix()), test.most)
		if got := labels(ticks); got != test.want {
			t.Errorf("from %s until %s, at most %d: got %s, want %s", test.from, test.until, test.most, got, test.want)
		}
		for _, k := range ticks {
			if k.at < float64(from.Unix()) || k.at > float64(until.Unix()) {
				t.Errorf("the tick %s is not between %s and %s", k.label, test.from, test.until)
			}
		}
	}
}

// Whatever ends an axis has, its ticks are few, in order and within.
func FuzzTicks(f *testing.F) {
	f.Add(0.0, 1.0, 5)
	f.Add(1.3569e9, 1.3885e9, 12)
	f.Add(-1e300, 1e300, 3)
	f.Fuzz(func(t *testing.T, lo, hi float64, most int) {
		most = 2 + int(uint(most)%50)
		for name, ticks := range map[string][]tick{"numbers": numberTicks(lo, hi, most), "times": timeTicks(lo, hi, most)} {
			if len(ticks) > most {
				t.Errorf("%s from %v to %v: %d ticks, want at most %d", name, lo, hi, len(ticks), most)
			}
			slack := (hi - lo) * 1e-6
			for i, k := range ticks {
				if k.at < lo-slack || k.at > hi+slack || i > 0 && !(k.at > ticks[i-1].at) {
					t.Errorf("%s from %v to %v: tick %d is %v", name, lo, hi, i, fmt.Sprint(k))
				}
			}
		}
	})
}

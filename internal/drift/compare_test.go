package drift

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// source draws values of a column.
type source struct {
	name string
	text bool
	draw func(r *rand.Rand) Value
}

// cumulative draws an index by weights.
func cumulative(weights []float64) func(*rand.Rand) int {
	ends := make([]float64, len(weights))
	var all float64
	for i, w := range weights {
		all += w
		ends[i] = all
	}
	return func(r *rand.Rand) int {
		return min(sort.SearchFloat64s(ends, r.Float64()*all), len(ends)-1)
	}
}

// zipf gives weights that fall as 1/i: with many of them, most are rare.
func zipf(n int) []float64 {
	w := make([]float64, n)
	for i := range w {
		w[i] = 1 / float64(i+1)
	}
	return w
}

func texts(names int) []string {
	s := make([]string, names)
	for i := range s {
		s[i] = fmt.Sprintf("c%d", i)
	}
	return s
}

// sources are of many kinds; each second one lacks 5 % of its values.
func sources() []source {
	categories := func(weights []float64) func(*rand.Rand) Value {
		pick, names := cumulative(weights), texts(len(weights))
		return func(r *rand.Rand) Value { return Text(names[pick(r)]) }
	}
	coarse := cumulative([]float64{.5, .3, .1, .05, .03, .01, .005, .005})
	all := []source{
		{"normal", false, func(r *rand.Rand) Value { return Number(r.NormFloat64()) }},
		{"lognormal", false, func(r *rand.Rand) Value { return Number(math.Exp(1.5 * r.NormFloat64())) }},
		{"uniform", false, func(r *rand.Rand) Value { return Number(r.Float64()) }},
		{"zeros", false, func(r *rand.Rand) Value { return Number(max(0, r.NormFloat64())) }},
		{"integers", false, func(r *rand.Rand) Value { return Number(math.Round(20 * r.NormFloat64())) }},
		{"cauchy", false, func(r *rand.Rand) Value { return Number(r.NormFloat64() / r.NormFloat64()) }},
		{"bool", false, func(r *rand.Rand) Value { return Number(float64(r.IntN(2))) }},
		{"discrete", false, func(r *rand.Rand) Value { return Number(float64(coarse(r))) }},
		{"few", true, categories([]float64{.6, .3, .1})},
		{"rare", true, categories([]float64{.5, .3, .15, .04, .005, .002, .001, .0005, .0003, .0002})},
		{"zipf", true, categories(zipf(150))},
		{"tail", true, categories(zipf(2000))},
		{"flat", true, categories(even(600))},
		{"constant", true, categories([]float64{1})},
	}
	for i := 1; i < len(all); i += 2 {
		draw := all[i].draw
		all[i].draw = func(r *rand.Rand) Value {
			if r.IntN(20) == 0 {
				return Value{}
			}
			return draw(r)
		}
	}
	return all
}

func even(n int) []float64 {
	w := make([]float64, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

func fields(sources []source) (f []Field) {
	for _, s := range sources {
		f = append(f, Field{s.name, s.text})
	}
	return f
}

func reference(t testing.TB, r *rand.Rand, sources []source, rows int) *Profile {
	t.Helper()
	b := NewBuilder(fields(sources))
	values := make([]Value, len(sources))
	for range rows {
		for i, s := range sources {
			values[i] = s.draw(r)
		}
		if err := b.Add(values); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFalseAlarms looks at 10,000 windows without drift, of 14 columns each, with nothing
// but significance to keep an alarm from being raised: no more of them may raise one than
// was promised, give or take three standard errors.
func TestFalseAlarms(t *testing.T) {
	const windows, perReference = 10_000, 25
	r := rand.New(rand.NewPCG(7, 1))
	all := sources()
	o := Options{Alpha: 0.05, Windows: 1, MinRows: 100}
	sizes := []struct{ reference, window int }{{2000, 200}, {2000, 500}, {4000, 200}, {500, 200}, {500, 500}, {1000, 200}, {500, 2000}, {1000, 300}}
	alarms, of := 0, map[string]int{}
	for i := range windows / perReference {
		size := sizes[i%len(sizes)]
		p := reference(t, r, all, size.reference)
		s := NewState(p)
		for range perReference {
			s.Reset()
			for range size.window {
				for j := range all {
					s.Add(j, all[j].draw(r))
				}
			}
			report, err := Compare(s, o)
			if err != nil {
				t.Fatal(err)
			}
			if report.Verdict == Drifted {
				alarms++
			}
			for _, c := range report.Columns {
				for _, test := range c.Tests {
					if test.Alarm {
						of[fmt.Sprintf("%s %s %v", c.Name, test.Name, size)]++
					}
				}
			}
		}
	}
	rate := float64(alarms) / windows
	t.Logf("%d of %d windows raised an alarm: %.4f; by test: %v", alarms, windows, rate, of)
	if most := o.Alpha + 3*math.Sqrt(o.Alpha*(1-o.Alpha)/windows); rate > most {
		t.Errorf("got a false alarm in %.4f of the windows, want at most %.4f", rate, most)
	}
}

// TestPower wants changes of a size that matters to be found, each by the test it is for.
func TestPower(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	all := sources()
	p := reference(t, r, all, 5000)
	for _, c := range []struct {
		column string
		by     TestName
		change func(Value) Value
	}{
		{"normal", KS, func(v Value) Value { return Number(v.number + 0.5) }},
		{"normal", KS, func(v Value) Value { return Number(v.number * 1.8) }},
		{"uniform", OutOfRange, func(v Value) Value { return Number(v.number * 1.1) }},
		{"integers", KS, func(v Value) Value { return Number(v.number + 10) }},
		{"discrete", ChiSquare, func(v Value) Value {
			if v.number == 0 && r.IntN(3) == 0 {
				return Number(1)
			}
			return v
		}},
		{"few", ChiSquare, func(v Value) Value {
			if v.text == "c0" && r.IntN(3) == 0 {
				return Text("c2")
			}
			return v
		}},
		{"few", UnseenShare, func(v Value) Value {
			if r.IntN(20) == 0 {
				return Text("new")
			}
			return v
		}},
		{"few", MissingShare, func(v Value) Value {
			if r.IntN(10) == 0 {
				return Value{}
			}
			return v
		}},
	} {
		found := 0
		const windows = 40
		for range windows {
			s := NewState(p)
			for range 500 {
				for i := range all {
					v := all[i].draw(r)
					if all[i].name == c.column {
						v = c.change(v)
					}
					s.Add(i, v)
				}
			}
			report, err := Compare(s, Default)
			if err != nil {
				t.Fatal(err)
			}
			sound(t, report)
			i, _ := p.Column(c.column)
			for _, test := range report.Columns[i].Tests {
				if test.Name == c.by && test.Alarm && report.Verdict == Drifted {
					found++
				}
			}
		}
		if found < windows*9/10 {
			t.Errorf("%s by %s: found in %d of %d windows", c.column, c.by, found, windows)
		}
	}
}

func TestReport(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	all := sources()
	p := reference(t, r, all, 5000)
	i, _ := p.Column("normal")
	few, _ := p.Column("few")
	window := func(rows int) *State {
		s := NewState(p)
		for range rows {
			for j := range all {
				v := all[j].draw(r)
				switch {
				case j == i:
					v = Number(v.number + 2)
				case j == few && r.IntN(4) == 0:
					v = Text("new")
				}
				s.Add(j, v)
			}
		}
		return s
	}
	report, err := Compare(window(2000), Default)
	if err != nil {
		t.Fatal(err)
	}
	c := report.Columns[i]
	if report.Verdict != Drifted || c.Verdict != Drifted || c.Cause != KS {
		t.Errorf("got %s, %s by %q, want drifted by ks", report.Verdict, c.Verdict, c.Cause)
	}
	if math.Abs(c.Reference.P50) > 0.1 || math.Abs(c.Current.P50-2) > 0.2 || c.Above < 0.01 || c.Below != 0 {
		t.Errorf("got medians %v and %v, %v above and %v below", c.Reference.P50, c.Current.P50, c.Above, c.Below)
	}
	if m := c.Moves[0]; !strings.HasSuffix(m.Of, ", inf)") || math.Abs(m.Reference-0.1) > 0.01 || m.Current < 0.7 {
		t.Errorf("got the move %+v, want the uppermost decile first", m)
	}
	if got := c.String(); !strings.HasPrefix(got, "normal: drifted (ks); median ") || !strings.Contains(got, " above the reference's range; PSI ") {
		t.Errorf("got %q", got)
	}
	c = report.Columns[few]
	if c.Verdict != Drifted || c.Names[0].Name != "new" || math.Abs(c.Unseen.Current-0.25) > 0.05 || c.Moves[0].Of != "(unseen)" {
		t.Errorf("got %+v", c)
	}
	var drifted []string
	for _, c := range report.Columns {
		if c.Verdict == Drifted {
			drifted = append(drifted, c.Name)
		}
	}
	if len(drifted) != 2 {
		t.Errorf("got drift in %q, want it in two columns", drifted)
	}
	if report, err = Compare(window(99), Default); err != nil || report.Verdict != TooFew || report.Columns[i].Verdict != TooFew {
		t.Errorf("of 99 rows: got %s, %v", report.Verdict, err)
	}
	// Where a column comes no more, what is left can't be judged, but that can.
	gone := window(200)
	gone.columns[i] = tally{missing: 200, cells: make([]uint64, len(gone.columns[i].cells)), min: math.Inf(1), max: math.Inf(-1)}
	report, err = Compare(gone, Default)
	if err != nil {
		t.Fatal(err)
	}
	if c := report.Columns[i]; c.Verdict != Drifted || c.Cause != MissingShare || c.Missing.Current != 1 {
		t.Errorf("without its values: got %s", c)
	}
	// What is significant in one window is not where a great many are looked at.
	slight := NewState(p)
	for range 1000 {
		slight.AddNumber(i, all[i].draw(r).number+0.2)
	}
	for o, want := range map[Options]Verdict{Default: Steady, {Alpha: 0.05, Windows: 1}: Drifted, {Alpha: 0.05, Windows: 1e12}: Steady} {
		if report, err = Compare(slight, o); err != nil || report.Verdict != want {
			t.Errorf("with %+v: got %s, %v, want %s (%s)", o, report.Verdict, err, want, report.Columns[i])
		}
	}
	// A change that is significant, but too small to matter.
	s := NewState(p)
	for range 100_000 {
		for j := range all {
			v := all[j].draw(r)
			if j == i {
				v = Number(v.number + 0.1)
			}
			s.Add(j, v)
		}
	}
	report, err = Compare(s, Default)
	if err != nil {
		t.Fatal(err)
	}
	if test := report.Columns[i].Tests[0]; test.Adjusted > report.Level || test.Alarm || report.Columns[i].Verdict != Steady {
		t.Errorf("got %+v, want it significant and no alarm", test)
	}
	if _, err := Compare(s, Options{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("without an alpha: got %v, want invalid", err)
	}
	if report, err = Compare(NewState(p), Default); err != nil || report.Verdict != TooFew {
		t.Errorf("of nothing: got %s, %v", report.Verdict, err)
	}
	sound(t, report)
}

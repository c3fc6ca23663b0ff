package drift

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"
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

func (s *State) add(column int, v Value) {
	switch v.is {
	case isNumber:
		s.AddNumber(column, v.number)
	case isText:
		s.AddText(column, v.text)
	default:
		s.AddMissing(column)
	}
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
					s.add(j, all[j].draw(r))
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

package quality

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Of 2,000 seeded samples, the intervals hold what the metric is of very many outcomes
// nearly as often as they say. Were it 95 %, chance alone would give 94 to 96 %.
func TestIntervalsHold(t *testing.T) {
	const runs, size, many = 2000, 400, 500_000
	for _, spec := range []Spec{{Task: Binary}, {Task: Binary, Threshold: 0.3}, {Task: Multiclass}, {Task: Regression, Quantile: 0.9}} {
		t.Run(spec.String(), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(10, 10))
			fill := func(n int) *State {
				s := fresh(t, spec)
				for range n {
					o := draw(r, spec)
					must(t, s.Predicted(o.a))
					if r.IntN(10) < 7 {
						must(t, s.Add(o.a, o.t, o.delay))
					}
				}
				return s
			}
			truth := fill(many).Report()
			held, told := map[string]float64{}, map[string]float64{}
			for range runs {
				for name, m := range fill(size).Report().Metrics {
					if m.Interval == nil {
						continue
					}
					told[name]++
					if want := truth.Metrics[name].Value; m.Interval.Low <= want && want <= m.Interval.High {
						held[name]++
					}
				}
			}
			for _, a := range Metrics(spec.Task) {
				if slices.Contains([]string{"calibration_error", "label_delay_max"}, a.Name) {
					if told[a.Name] > 0 {
						t.Errorf("%s has an interval", a.Name)
					}
					continue
				}
				got := held[a.Name] / told[a.Name]
				t.Logf("%-22s %.3f", a.Name, got)
				if !(got >= 0.93 && got <= 0.975) || told[a.Name] < runs*0.99 {
					t.Errorf("%s: %.3f of %v intervals hold, want 0.93 to 0.975", a.Name, got, told[a.Name])
				}
			}
		})
	}
}

// Where all is right there is no spread to see, and yet chance.
func TestIntervalsAtTheEnds(t *testing.T) {
	s := fresh(t, Spec{Task: Binary})
	for range 20 {
		must(t, s.Add(Answer{Number: 0.9}, Truth{Yes: true}, 0))
		must(t, s.Add(Answer{Number: 0.1}, Truth{}, 0))
	}
	for _, name := range []string{"accuracy", "precision", "recall", "f1", "auc"} {
		m := s.Report().Metrics[name]
		if i := m.Interval; m.Value != 1 || i.High != 1 || i.Low < 0.8 || i.Low > 0.98 {
			t.Errorf("%s: got %v in %v, want 1 with room below", name, m.Value, *i)
		}
	}
}

func TestStudent(t *testing.T) {
	for freedom, want := range map[int64]float64{2: 4.3027, 5: 2.5706, 30: 2.0423, 1000: 1.9623} {
		if got := student(freedom); math.Abs(got/want-1) > 0.035 || freedom > 4 && math.Abs(got/want-1) > 2e-3 {
			t.Errorf("%d: got %v, want %v", freedom, got, want)
		}
	}
}

// worlds are chances of yes at scores of logistic(x): as said, too timid, too bold, and rare.
var worlds = []struct {
	name       string
	a, b       float64
	calibrated bool
}{
	{name: "calibrated", a: 0, b: 1, calibrated: true},
	{name: "timid", a: 0.3, b: 1.6},
	{name: "bold", a: -0.5, b: 0.6},
	{name: "rare", a: -3, b: 1.2},
}

// The outcomes, once they are in, lie within what was foretold without them: in
// a window whose scores have moved since those that taught what scores mean.
func TestEstimateHolds(t *testing.T) {
	const runs, taught, size = 600, 3000, 1000
	for _, w := range worlds {
		for _, learn := range []bool{false, true} {
			if !learn && !w.calibrated {
				continue // scores at their word are wrong
			}
			name := w.name
			if learn {
				name += ", learnt"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(11, 11))
				one := func(shift float64) (Answer, Truth) {
					x := r.NormFloat64()*1.5 + shift
					return Answer{Number: logistic(x)}, Truth{Yes: r.Float64() < logistic(w.a+w.b*x)}
				}
				held, off := map[string]float64{}, map[string]float64{}
				for range runs {
					labelled, s := fresh(t, Spec{Task: Binary}), fresh(t, Spec{Task: Binary})
					for range taught {
						a, truth := one(0)
						must(t, labelled.Add(a, truth, 0))
					}
					if !learn {
						labelled = nil
					}
					for range size {
						a, truth := one(0.4)
						must(t, s.Predicted(a))
						must(t, s.Add(a, truth, 0))
					}
					e, err := s.Estimate(labelled)
					must(t, err)
					report := s.Report()
					for name, m := range e.Metrics {
						want := report.Metrics[name].Value
						off[name] += (m.Value - want) / runs
						if m.Interval.Low <= want && want <= m.Interval.High {
							held[name] += 1.0 / runs
						}
					}
				}
				if len(held) != 8 {
					t.Errorf("got %d metrics, want 8", len(held))
				}
				for name, got := range held {
					t.Logf("%-10s %.3f of intervals hold, off by %+.4f", name, got, off[name])
					if got < 0.93 || got > 0.985 || math.Abs(off[name]) > 0.02 {
						t.Errorf("%s: %.3f of intervals hold, off by %+.4f", name, got, off[name])
					}
				}
			})
		}
	}
}

// Scores mean what outcomes taught, and are taken at their word where too few did.
func TestEstimateLearns(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 12))
	s, labelled := fresh(t, Spec{Task: Binary}), fresh(t, Spec{Task: Binary})
	for range 20_000 {
		p := r.Float64()
		must(t, s.Predicted(Answer{Number: p}))
		must(t, labelled.Add(Answer{Number: p}, Truth{Yes: r.Float64() < p/2}, 0))
	}
	few := fresh(t, Spec{Task: Binary})
	must(t, few.Add(Answer{Number: 0.5}, Truth{Yes: true}, 0))
	for _, c := range []struct {
		from    *State
		want    float64
		learned int64
	}{{nil, 0.5, 0}, {few, 0.5, 0}, {labelled, 0.25, 20_000}} {
		e, err := s.Estimate(c.from)
		must(t, err)
		if got := e.Metrics["base_rate"].Value; math.Abs(got-c.want) > 0.01 || e.Calibrated != c.learned || e.Predicted != 20_000 {
			t.Errorf("got a base rate of %v by %d, want %v by %d", got, e.Calibrated, c.want, c.learned)
		}
	}
	empty, err := few.Estimate(labelled)
	if err != nil || len(empty.Metrics) > 0 {
		t.Errorf("of no answers: got %v, %v", empty, err)
	}
	if _, err := fresh(t, Spec{Task: Regression}).Estimate(nil); err == nil {
		t.Error("regression was estimated")
	}
}

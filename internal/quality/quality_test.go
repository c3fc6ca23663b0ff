package quality

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// outcome is an answer with what came true.
type outcome struct {
	a     Answer
	t     Truth
	delay time.Duration
}

var specs = []Spec{{Task: Binary}, {Task: Binary, Threshold: 0.3}, {Task: Multiclass}, {Task: Regression}, {Task: Regression, Quantile: 0.9}}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// draw makes an answer of a model that is somewhat wrong.
func draw(r *rand.Rand, spec Spec) outcome {
	o := outcome{delay: time.Duration(math.Exp(r.NormFloat64()*2+8) * float64(time.Second))}
	switch spec.Task {
	case Binary:
		x := r.NormFloat64() * 1.5
		o.a.Number = float64(float32(logistic(x)))
		o.t.Yes = r.Float64() < logistic(0.3+0.8*x)
		if r.IntN(5) == 0 {
			o.a.Decision = Decision(1 + r.IntN(2))
		}
	case Multiclass:
		names := []string{"cat", "dog", "eel", "fox"}
		rest, best := 1.0, 0.0
		for i, name := range names {
			p := rest
			if i < len(names)-1 {
				p *= r.Float64()
			}
			rest -= p
			if p > best {
				best, o.a.Class = p, name
			}
			o.a.Probabilities = append(o.a.Probabilities, Probability{name, p})
		}
		o.t.Class = o.a.Class
		if at := r.IntN(9); at < len(names) {
			o.t.Class = names[at]
		}
		switch r.IntN(6) {
		case 0:
			o.a.Probabilities, o.a.Number = nil, best
		case 1:
			o.a.Probabilities = nil
		}
	case Regression:
		o.t.Number = 40 + 10*r.NormFloat64()
		o.a.Number = o.t.Number + r.NormFloat64() + 0.2*math.Abs(r.NormFloat64())
		if r.IntN(20) == 0 {
			o.t.Number = 0
		}
	}
	return o
}

func sample(r *rand.Rand, spec Spec, n int) []outcome {
	all := make([]outcome, n)
	for i := range all {
		all[i] = draw(r, spec)
	}
	return all
}

func fresh(t testing.TB, spec Spec) *State {
	t.Helper()
	s, err := NewState(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func filled(t testing.TB, spec Spec, all []outcome) *State {
	s := fresh(t, spec)
	for _, o := range all {
		must(t, s.Predicted(o.a))
		must(t, s.Add(o.a, o.t, o.delay))
	}
	return s
}

func near(t *testing.T, r *Report, want map[string]float64, within float64) {
	t.Helper()
	for name, w := range want {
		got, ok := r.Metrics[name]
		if !ok || math.Abs(got.Value-w) > within*max(1, math.Abs(w)) {
			t.Errorf("%s: got %v, %v, want %.12g", name, got.Value, ok, w)
		}
	}
}

// The constants are what scikit-learn 1.9.1 says of the same lists: accuracy_score,
// precision_score and so on, with zero_division=0 and labels=[cat dog eel fox].
func TestReportAgreesWithScikitLearn(t *testing.T) {
	s := fresh(t, Spec{Task: Binary})
	truths := []bool{false, false, true, false, false, true, false, true, true, false, true, true}
	for i, p := range []float64{0.05, 0.12, 0.2, 0.33, 0.41, 0.47, 0.5, 0.58, 0.66, 0.71, 0.83, 0.97} {
		must(t, s.Add(Answer{Number: p}, Truth{Yes: truths[i]}, 0))
	}
	near(t, s.Report(), map[string]float64{
		"accuracy": 0.6666666666666666, "precision": 0.6666666666666666, "recall": 0.6666666666666666, "f1": 0.6666666666666666,
		"auc": 0.7777777777777778, "log_loss": 0.5483125344108474, "brier": 0.19089166666666668, "base_rate": 0.5,
	}, 1e-12)

	s = fresh(t, Spec{Task: Multiclass})
	names := []string{"cat", "dog", "eel", "fox"}
	said := []string{"cat", "dog", "cat", "eel", "dog", "dog", "dog", "cat", "eel", "fox"}
	was := []string{"cat", "dog", "dog", "eel", "cat", "eel", "dog", "cat", "eel", "dog"}
	for i, ps := range [][]float64{
		{0.7, 0.2, 0.05, 0.05},
		{0.1, 0.8, 0.05, 0.05},
		{0.5, 0.4, 0.05, 0.05},
		{0.1, 0.2, 0.6, 0.1},
		{0.3, 0.5, 0.1, 0.1},
		{0.05, 0.5, 0.4, 0.05},
		{0.2, 0.6, 0.1, 0.1},
		{0.9, 0.05, 0.03, 0.02},
		{0.1, 0.1, 0.7, 0.1},
		{0.1, 0.3, 0.1, 0.5},
	} {
		a := Answer{Class: said[i]}
		for j, p := range ps {
			a.Probabilities = append(a.Probabilities, Probability{names[j], p})
		}
		must(t, s.Add(a, Truth{Class: was[i]}, 0))
	}
	near(t, s.Report(), map[string]float64{
		"accuracy": 0.6, "macro_precision": 0.5416666666666666, "macro_recall": 0.45833333333333326, "macro_f1": 0.49166666666666664,
		"weighted_precision": 0.7, "weighted_f1": 0.64, "log_loss": 0.6304032274781665, "brier": 0.35138,
	}, 1e-12)

	s = fresh(t, Spec{Task: Regression, Quantile: 0.9})
	outcomes := []float64{3, -0.5, 2, 7, 4.2, 0, -1.5, 8.25}
	for i, v := range []float64{2.5, 0, 2, 8, 4, 0.3, -1, 7.5} {
		must(t, s.Add(Answer{Number: v}, Truth{Number: outcomes[i]}, 0))
	}
	near(t, s.Report(), map[string]float64{
		"mae": 0.46875, "rmse": 0.5525509026325086, "mape": 0.25448361162646876, "quantile_loss": 0.191875, "r2": 0.971990381548628,
	}, 1e-12)
	near(t, s.Report(), map[string]float64{"median_absolute_error": 0.5}, 0.04) // to within a bin
	if got, want := s.Report().Metrics["mape"].N, int64(7); got != want {
		t.Errorf("outcomes with a relative error: got %d, want %d", got, want)
	}
}

func TestReportAgreesWithBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, spec := range specs {
		for _, n := range []int{7, 300, 3000} {
			t.Run(fmt.Sprintf("%s %d", spec, n), func(t *testing.T) {
				all := sample(r, spec, n)
				report := filled(t, spec, all).Report()
				near(t, report, bruteForce(spec, all), 1e-9)
				abs, delays := make([]float64, n), make([]float64, n)
				for i, o := range all {
					abs[i], delays[i] = math.Abs(o.a.Number-o.t.Number), o.delay.Seconds()
				}
				sort.Float64s(abs)
				sort.Float64s(delays)
				binned := map[string]float64{"label_delay_max": delays[n-1]}
				if n > 1000 {
					binned["label_delay_p50"], binned["label_delay_p90"] = delays[n/2], delays[n*9/10]
				}
				if spec.Task == Regression && n > 1000 {
					binned["median_absolute_error"], binned["absolute_error_p90"] = abs[n/2], abs[n*9/10]
				}
				for name, want := range binned {
					if got := report.Metrics[name].Value; math.Abs(got/want-1) > 0.035 {
						t.Errorf("%s: got %v, want %v", name, got, want)
					}
				}
				if spec.Task == Binary {
					if got, want := report.Metrics["auc"].Value, rawAUC(all); math.Abs(got-want) > 0.001 {
						t.Errorf("auc: got %v, want %v", got, want)
					}
				}
			})
		}
	}
}

// Scores of a model of rare events lie near 0, where bins must be narrow.
func TestAUCOfRareEvents(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	var all []outcome
	for range 100_000 {
		p := logistic(r.NormFloat64()*1.5 - 8)
		all = append(all, outcome{a: Answer{Number: p}, t: Truth{Yes: r.Float64() < p}})
	}
	got, want := filled(t, Spec{Task: Binary}, all).Report().Metrics["auc"].Value, rawAUC(all)
	if math.Abs(got-want) > 0.001 {
		t.Errorf("auc: got %v, want %v", got, want)
	}
}

func rawAUC(all []outcome) float64 {
	sorted := slices.Clone(all)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].a.Number < sorted[j].a.Number })
	var ranks, yes, no float64
	for i := 0; i < len(sorted); {
		j := i
		for j < len(sorted) && sorted[j].a.Number == sorted[i].a.Number {
			j++
		}
		for _, o := range sorted[i:j] {
			if o.t.Yes {
				ranks += float64(i+j+1) / 2
				yes++
			} else {
				no++
			}
		}
		i = j
	}
	return (ranks - yes*(yes+1)/2) / (yes * no)
}

func bruteForce(spec Spec, all []outcome) map[string]float64 {
	spec = spec.whole()
	n := float64(len(all))
	m := map[string]float64{"coverage": 1}
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	var ece [10][3]float64
	calibrate := func(p float64, hit bool) {
		b := &ece[min(int(p*10), 9)]
		b[0]++
		b[1] += p
		if hit {
			b[2]++
		}
	}
	switch spec.Task {
	case Binary:
		var tp, fp, fn, tn float64
		for _, o := range all {
			p, yes := o.a.Number, o.a.Decision == Yes || o.a.Decision == ByThreshold && o.a.Number >= spec.Threshold
			y := 0.0
			switch {
			case yes && o.t.Yes:
				tp++
			case yes:
				fp++
			case o.t.Yes:
				fn++
			default:
				tn++
			}
			if o.t.Yes {
				y = 1
			}
			m["log_loss"] -= (y*math.Log(p) + (1-y)*math.Log(1-p)) / n
			m["brier"] += (p - y) * (p - y) / n
			m["bias"] += (p - y) / n
			calibrate(p, o.t.Yes)
		}
		m["accuracy"], m["precision"], m["recall"] = (tp+tn)/n, tp/(tp+fp), tp/(tp+fn)
		m["f1"], m["base_rate"] = 2*tp/(2*tp+fp+fn), (tp+fn)/n
	case Multiclass:
		hits, said, was := map[string]float64{}, map[string]float64{}, map[string]float64{}
		full := 0.0
		classes := map[string]bool{}
		for _, o := range all {
			classes[o.a.Class], classes[o.t.Class] = true, true
			said[o.a.Class]++
			was[o.t.Class]++
			if o.a.Class == o.t.Class {
				hits[o.a.Class]++
				m["accuracy"] += 1 / n
			}
			if o.a.Number > 0 {
				calibrate(o.a.Number, o.a.Class == o.t.Class)
			}
			if o.a.Probabilities != nil {
				full++
			}
			for _, p := range o.a.Probabilities {
				y := 0.0
				if p.Class == o.t.Class {
					y = 1
					m["log_loss"] -= math.Log(p.P)
				}
				if p.Class == o.a.Class {
					calibrate(p.P, o.a.Class == o.t.Class)
				}
				m["brier"] += (p.P - y) * (p.P - y)
			}
		}
		m["log_loss"] /= full
		m["brier"] /= full
		for c := range classes {
			k := float64(len(classes))
			p, rec, f := ratio(hits[c], said[c]), ratio(hits[c], was[c]), 2*hits[c]/(said[c]+was[c])
			m["macro_precision"] += p / k
			m["macro_recall"] += rec / k
			m["macro_f1"] += f / k
			m["weighted_precision"] += p * was[c] / n
			m["weighted_f1"] += f * was[c] / n
		}
	case Regression:
		var y, yy, nonzero float64
		for _, o := range all {
			y += o.t.Number / n
		}
		for _, o := range all {
			e := o.a.Number - o.t.Number
			yy += (o.t.Number - y) * (o.t.Number - y) / n
			m["mae"] += math.Abs(e) / n
			m["rmse"] += e * e / n
			m["bias"] += e / n
			m["quantile_loss"] += max(-e*spec.Quantile, e*(1-spec.Quantile)) / n
			if o.t.Number != 0 {
				nonzero++
				m["mape"] += math.Abs(e / o.t.Number)
			}
		}
		m["mape"] /= nonzero
		m["r2"] = 1 - m["rmse"]/yy
		m["rmse"] = math.Sqrt(m["rmse"])
		return m
	}
	of := 0.0
	for _, b := range ece {
		of += b[0]
		m["calibration_error"] += math.Abs(b[1] - b[2])
	}
	m["calibration_error"] /= of
	return m
}

// R² is of what nearly cancels where outcomes lie far from 0, such as times. Its interval has
// fourth powers, and is absent where their digits don't last.
func TestR2OfOutcomesFarFromZero(t *testing.T) {
	for _, c := range []struct {
		far      float64
		interval bool
	}{{1 << 20, true}, {1 << 31, true}, {1 << 40, false}} {
		r := rand.New(rand.NewPCG(3, 3))
		here, far := fresh(t, Spec{Task: Regression}), fresh(t, Spec{Task: Regression})
		for range 500 {
			y := math.Round(r.NormFloat64() * 1024)
			a := y + math.Round(r.NormFloat64()*512)
			must(t, here.Add(Answer{Number: a}, Truth{Number: y}, 0))
			must(t, far.Add(Answer{Number: a + c.far}, Truth{Number: y + c.far}, 0))
		}
		got, want := far.Report().Metrics["r2"], here.Report().Metrics["r2"]
		if math.Abs(got.Value-want.Value) > 1e-12 {
			t.Errorf("%v away: got %v, want %v", c.far, got.Value, want.Value)
		}
		if (got.Interval != nil) != c.interval {
			t.Fatalf("%v away: got %v, want an interval: %v", c.far, got.Interval, c.interval)
		}
		if c.interval && (math.Abs(got.Interval.Low-want.Interval.Low) > 1e-6 || math.Abs(got.Interval.High-want.Interval.High) > 1e-6) {
			t.Errorf("%v away: got %v, want %v", c.far, *got.Interval, *want.Interval)
		}
	}
}

// What has no meaning is absent, and nothing that is there is no number.
func TestReportWithoutMeaning(t *testing.T) {
	yes, no := Truth{Yes: true}, Truth{}
	for _, c := range []struct {
		name   string
		spec   Spec
		fill   func(*State) error
		absent []string
		there  []string
	}{
		{"nothing", Spec{Task: Binary}, func(*State) error { return nil }, []string{"accuracy", "auc", "coverage", "label_delay_p50"}, nil},
		{"no outcomes", Spec{Task: Binary}, func(s *State) error { return s.Predicted(Answer{}) }, []string{"accuracy"}, []string{"coverage"}},
		{"no yes", Spec{Task: Binary}, func(s *State) error { return s.Add(Answer{Number: 0.1}, no, 0) }, []string{"precision", "recall", "f1", "auc", "coverage"}, []string{"accuracy", "log_loss"}},
		{"only yes", Spec{Task: Binary}, func(s *State) error { return s.Add(Answer{Number: 1}, yes, 0) }, []string{"auc"}, []string{"precision", "recall", "f1"}},
		{"less than nothing", Spec{Task: Binary}, func(s *State) error { return s.Remove(Answer{Number: 1}, yes, 0) }, []string{"accuracy", "log_loss", "label_delay_p50", "f1"}, nil},
		{"less than nothing of classes", Spec{Task: Multiclass}, func(s *State) error { return s.Remove(Answer{Class: "a"}, Truth{Class: "b"}, 0) }, []string{"accuracy", "macro_f1"}, nil},
		{"no probabilities", Spec{Task: Multiclass}, func(s *State) error { return s.Add(Answer{Class: "a"}, Truth{Class: "b"}, 0) }, []string{"log_loss", "calibration_error"}, []string{"accuracy", "macro_f1"}},
		{"equal outcomes", Spec{Task: Regression}, func(s *State) error {
			return cmpOr(s.Add(Answer{Number: 1}, Truth{Number: 0.1}, 0), s.Add(Answer{Number: 2}, Truth{Number: 0.1}, 0), s.Add(Answer{Number: 2}, Truth{Number: 0.1}, 0))
		}, []string{"r2"}, []string{"mae", "mape"}},
		{"outcomes of 0", Spec{Task: Regression}, func(s *State) error { return s.Add(Answer{Number: 1}, Truth{}, 0) }, []string{"mape", "r2"}, []string{"mae", "rmse"}},
		{"less than nothing of numbers", Spec{Task: Regression}, func(s *State) error { return s.Remove(Answer{Number: 1}, Truth{}, 0) }, []string{"mae", "rmse", "r2"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fresh(t, c.spec)
			must(t, c.fill(s))
			report := s.Report()
			for _, name := range c.absent {
				if m, ok := report.Metrics[name]; ok {
					t.Errorf("%s: got %v, want none", name, m)
				}
			}
			for _, name := range c.there {
				if _, ok := report.Metrics[name]; !ok {
					t.Errorf("%s: got none, want one", name)
				}
			}
			if _, err := json.Marshal(report); err != nil {
				t.Error(err)
			}
		})
	}
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Others read reports by these names.
func TestReportAsJSON(t *testing.T) {
	s := fresh(t, Spec{Task: Binary})
	must(t, s.Predicted(Answer{Number: 0.25}))
	must(t, s.Add(Answer{Number: 0.25}, Truth{}, 0))
	report := s.Report()
	for name := range report.Metrics {
		if name != "accuracy" && name != "calibration_error" {
			delete(report.Metrics, name)
		}
	}
	report.Metrics["accuracy"].Interval.Low = 0.2
	report.Calibration[0].Actual.Interval.High = 0.8
	got, err := json.Marshal(report)
	must(t, err)
	want := `{"task":"binary","threshold":0.5,"predicted":1,"outcomes":1,` +
		`"metrics":{"accuracy":{"value":1,"n":1,"interval":{"low":0.2,"high":1}},"calibration_error":{"value":0.25,"n":1}},` +
		`"confusion":[{"outcome":"false","said":"false","n":1},{"outcome":"false","said":"true","n":0},{"outcome":"true","said":"false","n":0},{"outcome":"true","said":"true","n":0}],` +
		`"calibration":[{"from":0.2,"to":0.3,"predicted":0.25,"actual":{"value":0,"n":1,"interval":{"low":0,"high":0.8}}}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Every metric of a full report is described, for its task.
func TestMetricsListsWhatReportsHave(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, spec := range specs {
		report := filled(t, spec, sample(r, spec, 500)).Report()
		listed := Metrics(spec.Task)
		for _, a := range listed {
			if _, ok := report.Metrics[a.Name]; !ok {
				t.Errorf("%s: %s is listed, and not reported", spec, a.Name)
			}
		}
		if got, want := len(report.Metrics), len(listed); got != want {
			t.Errorf("%s: got %d metrics, want %d", spec, got, want)
		}
	}
}

func TestStatesMergeInAnyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, spec := range specs {
		for round := range 20 {
			all := sample(r, spec, 200)
			if spec.Task == Regression { // what exact sums are for
				all[7].a.Number, all[8].t.Number = 1e60, -1e-60
			}
			if spec.Task == Multiclass && round > 10 { // more than are told apart
				for i := range all {
					all[i].t.Class = fmt.Sprint("class", r.IntN(300))
				}
			}
			whole := filled(t, spec, all)
			want := whole.Append(nil)

			// The same in other states, in another order, with outcomes that are corrected.
			parts := make([]*State, 1+r.IntN(8))
			for i := range parts {
				parts[i] = fresh(t, spec)
			}
			any := func() *State { return parts[r.IntN(len(parts))] }
			for _, i := range r.Perm(len(all)) {
				o, wrong := all[i], all[r.IntN(len(all))]
				must(t, any().Predicted(o.a))
				must(t, any().Remove(o.a, wrong.t, wrong.delay))
				must(t, any().Add(o.a, o.t, o.delay))
				must(t, any().Add(o.a, wrong.t, wrong.delay))
			}
			for len(parts) > 1 {
				i := r.IntN(len(parts) - 1)
				from, err := Decode(parts[i].Append(nil))
				must(t, err)
				must(t, parts[i+1].Merge(from))
				parts = slices.Delete(parts, i, i+1)
			}
			if got := parts[0].Append(nil); !bytes.Equal(got, want) {
				t.Fatalf("%s: merged states differ", spec)
			}
			for _, o := range all {
				must(t, parts[0].Remove(o.a, o.t, o.delay))
			}
			report := parts[0].Report()
			delete(report.Metrics, "coverage")
			if len(report.Metrics) > 0 || report.Outcomes != 0 || len(parts[0].delays.append(nil)) != 1 {
				t.Fatalf("%s: all was removed, and there is %v", spec, report.Metrics)
			}
			for i := range parts[0].sums {
				if got := parts[0].sums[i].float(); got != 0 {
					t.Fatalf("%s: all was removed, and sum %d is %v", spec, i, got)
				}
			}
		}
	}
}

func TestMergeOfOtherSpecs(t *testing.T) {
	s := fresh(t, Spec{Task: Binary})
	err := s.Merge(fresh(t, Spec{Task: Binary, Threshold: 0.3}))
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	must(t, s.Merge(fresh(t, Spec{Task: Binary, Threshold: 0.5})))
}

// Of too many classes the first by name are told apart; accuracy knows all of them.
func TestManyClasses(t *testing.T) {
	s := fresh(t, Spec{Task: Multiclass})
	for i := 299; i >= 0; i-- {
		name := fmt.Sprintf("%03d", i)
		must(t, s.Add(Answer{Class: name}, Truth{Class: name}, 0))
		must(t, s.Add(Answer{Class: name}, Truth{Class: fmt.Sprintf("%03d", (i+200)%300)}, 0))
	}
	report := s.Report()
	if got, want := report.Metrics["accuracy"].Value, 0.5; got != want {
		t.Errorf("accuracy: got %v, want %v", got, want)
	}
	if got, want := report.Metrics["macro_f1"].Value, 0.5; math.Abs(got-want) > 1e-12 {
		t.Errorf("macro F1: got %v, want %v", got, want)
	}
	if got := report.Classes; len(got) != MaxClasses || got[99].Class != "099" {
		t.Errorf("got %d classes to %v, want 100 to 099", len(got), got[len(got)-1].Class)
	}
}

func TestSumIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for range 300 {
		var a, b sum
		exact := new(big.Float).SetPrec(4000)
		for range r.IntN(40) {
			f := math.Ldexp(r.NormFloat64(), r.IntN(1+r.IntN(1800))-900)
			if r.IntN(9) == 0 {
				f = math.Ldexp(1-2*float64(r.IntN(2)), r.IntN(200)-100)
			}
			exact.Add(exact, new(big.Float).SetFloat64(f))
			if r.IntN(2) == 0 {
				a.add(f)
			} else {
				b.add(f)
			}
			if r.IntN(5) == 0 {
				a.carry()
			}
		}
		a.merge(&b)
		want, _ := exact.Float64()
		if got := a.float(); math.Abs(got-want) > 1e-15*math.Abs(want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		reread := reader{data: a.append(nil)}
		again := reread.sum()
		if again.float() != a.float() || reread.failed {
			t.Fatalf("read again: got %v, want %v", again.float(), a.float())
		}
	}
}

func TestSumCarriesInTime(t *testing.T) {
	s := sum{words: []int64{1 << 60}, low: unit, adds: maxAdds - 1}
	o := sum{words: []int64{1 << 60}, low: unit, adds: maxAdds - 1}
	s.merge(&o)
	s.add(1)
	if got, want := s.float(), math.Ldexp(1, 61)+1; got != want || s.words[0] > math.MaxUint32 {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBinsHoldTheirValues(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	last := -1.0
	for at := range scoreBins {
		if m := scoreMiddle(at); scoreBin(m) != uint16(at) || m <= last {
			t.Fatalf("bin %d: its middle %v is in bin %d", at, m, scoreBin(m))
		} else {
			last = m
		}
	}
	for range 10_000 {
		p := logistic(r.NormFloat64() * 5)
		if d := math.Abs(scoreMiddle(int(scoreBin(p))) - p); d > 0.5/1024 || p > 1e-6 && p < 0.5 && d > p/60 {
			t.Fatalf("score %v is taken as %v", p, scoreMiddle(int(scoreBin(p))))
		}
		v := math.Exp(r.NormFloat64() * 10)
		if low, high := logEdges(logBin(v)); v < low || v >= high || high/low > 1.04 {
			t.Fatalf("%v is in a bin from %v to %v", v, low, high)
		}
	}
	for _, p := range []float64{0, 0.5, 1, 5e-324, 1 - 1e-16, 0x1p-20} {
		if at := scoreBin(p); at >= scoreBins {
			t.Errorf("score %v is in bin %d", p, at)
		}
	}
	for _, v := range []float64{0, -1, 5e-324, math.MaxFloat64, math.Inf(1), 0x1p-64, 0x1p64} {
		if at := logBin(v); at >= logBins {
			t.Errorf("%v is in bin %d", v, at)
		}
	}
}

func TestSpecValidate(t *testing.T) {
	for _, c := range []struct{ json, want string }{
		{`{"task":"binary"}`, ""},
		{`{"task":"binary","threshold":0.3}`, ""},
		{`{"task":"regression","quantile":0.9}`, ""},
		{`{}`, "the task is missing, expected binary, multiclass or regression"},
		{`{"task":"ranking"}`, `the task is "ranking", expected binary, multiclass or regression`},
		{`{"task":"binary","threshold":1}`, "the threshold is 1, expected a number between 0 and 1"},
		{`{"task":"multiclass","threshold":0.5}`, "the task multiclass has no threshold, only binary has one"},
		{`{"task":"regression","quantile":-0.1}`, "the quantile is -0.1, expected a number between 0 and 1"},
		{`{"task":"binary","quantile":0.5}`, "the task binary has no quantile, only regression has one"},
	} {
		var s Spec
		must(t, json.Unmarshal([]byte(c.json), &s))
		_, err := NewState(s)
		if got := fault.Message(err); err == nil && c.want != "" || err != nil && (got != c.want || !fault.Is(err, fault.Invalid)) {
			t.Errorf("%s: got %v, want %q", c.json, err, c.want)
		}
	}
}

func TestParseTruth(t *testing.T) {
	for _, c := range []struct {
		task Task
		json string
		want Truth
		err  string
	}{
		{Binary, `true`, Truth{Yes: true}, ""},
		{Binary, ` 0 `, Truth{}, ""},
		{Binary, `1.0`, Truth{Yes: true}, ""},
		{Binary, `"false"`, Truth{}, ""},
		{Binary, `"maybe"`, Truth{}, `the outcome is "maybe", expected true, false, 0 or 1`},
		{Binary, `2`, Truth{}, `the outcome is 2, expected true, false, 0 or 1`},
		{Binary, `null`, Truth{}, `the outcome is null, expected true, false, 0 or 1`},
		{Binary, `{"a":1}`, Truth{}, `the outcome is {"a":1}, expected true, false, 0 or 1`},
		{Binary, `tru`, Truth{}, `the outcome is not a JSON value: tru`},
		{Binary, `1 1`, Truth{}, `the outcome is not a JSON value: 1 1`},
		{Binary, ``, Truth{}, `the outcome is not a JSON value: `},
		{Multiclass, `"cat"`, Truth{Class: "cat"}, ""},
		{Multiclass, `3`, Truth{Class: "3"}, ""},
		{Multiclass, `3.0`, Truth{Class: "3"}, ""},
		{Multiclass, `3.5`, Truth{}, `the outcome is 3.5, expected a class's name`},
		{Multiclass, `true`, Truth{}, `the outcome is true, expected a class's name`},
		{Multiclass, `""`, Truth{}, `the outcome's class is empty, expected a name`},
		{Regression, `-2.5e3`, Truth{Number: -2500}, ""},
		{Regression, `"12"`, Truth{}, `the outcome is "12", expected a number`},
		{Regression, `1e99`, Truth{}, `the outcome is 1e+99, expected a number of at most 1e+70`},
		{Regression, `1e999`, Truth{}, `the outcome is 1e999, expected a number of at most 1e+70`},
	} {
		got, err := Spec{Task: c.task}.ParseTruth([]byte(c.json))
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("%s %s: got %v, %v, want %v", c.task, c.json, got, err, c.want)
		case c.err != "" && (fault.Message(err) != c.err || !fault.Is(err, fault.Invalid)):
			t.Errorf("%s %s: got %v, want %q", c.task, c.json, err, c.err)
		}
	}
}

// What is refused changes nothing.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		a    Answer
		t    Truth
		want string
	}{
		{Spec{Task: Binary}, Answer{Number: 1.5}, Truth{}, "the answer is 1.5, expected a probability from 0 to 1"},
		{Spec{Task: Binary}, Answer{Number: math.NaN()}, Truth{}, "the answer is NaN, expected a probability from 0 to 1"},
		{Spec{Task: Binary}, Answer{Decision: 3}, Truth{}, "the answer's decision is 3, expected none, no or yes"},
		{Spec{Task: Multiclass}, Answer{}, Truth{Class: "a"}, "the answer's class is empty, expected a name"},
		{Spec{Task: Multiclass}, Answer{Class: "a"}, Truth{}, "the outcome's class is empty, expected a name"},
		{Spec{Task: Multiclass}, Answer{Class: "a", Number: -1}, Truth{Class: "a"}, "the answer's probability is -1, expected a number from 0 to 1"},
		{Spec{Task: Multiclass}, Answer{Class: "a", Probabilities: []Probability{{"a", 2}}}, Truth{Class: "a"}, `the probability of class "a" is 2, expected a number from 0 to 1`},
		{Spec{Task: Multiclass}, Answer{Class: "a", Probabilities: []Probability{{"a", 0.9}, {"b", 0.9}}}, Truth{Class: "a"}, "the answer's probabilities add up to 1.8, expected 1"},
		{Spec{Task: Multiclass}, Answer{Class: string(make([]byte, 300))}, Truth{Class: "a"}, "the answer's class has 300 bytes, expected 256 at most"},
		{Spec{Task: Regression}, Answer{Number: math.Inf(1)}, Truth{}, "the answer is +Inf, expected a number of at most 1e+70"},
		{Spec{Task: Regression}, Answer{}, Truth{Number: math.NaN()}, "the outcome is NaN, expected a number of at most 1e+70"},
	} {
		s := fresh(t, c.spec)
		before := s.Append(nil)
		if err := s.Add(c.a, c.t, time.Second); fault.Message(err) != c.want || !fault.Is(err, fault.Invalid) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if !bytes.Equal(s.Append(nil), before) {
			t.Errorf("%s: the state changed", c.want)
		}
	}
	// Numbers that models compute in float32 are a little more than 1.
	s := fresh(t, Spec{Task: Binary})
	must(t, s.Add(Answer{Number: 1.0000001}, Truth{}, 0))
	if got := s.Report().Metrics["log_loss"].Value; math.Abs(got-52*math.Ln2) > 1e-9 {
		t.Errorf("log loss of what was sure and wrong: got %v, want %v", got, 52*math.Ln2)
	}
}

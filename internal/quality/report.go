package quality

import (
	"math"
	"math/big"
	"slices"
)

// Better says which way a metric is better.
type Better string

// The ways.
const (
	Higher  Better = "higher"
	Lower   Better = "lower"
	Zero    Better = "zero"    // the nearer to 0, from either side
	Neither Better = "neither" // it tells what answers are about, not how good they are
)

// About describes a metric to those who write rules for alerts.
type About struct {
	Name   string `json:"name"`
	Better Better `json:"better"`
	Means  string `json:"means"`
	tasks  []Task // all, if empty
}

var abouts = []About{
	{"accuracy", Higher, "share of answers that came true", []Task{Binary, Multiclass}},
	{"precision", Higher, "share of yes among outcomes where yes was said", []Task{Binary}},
	{"recall", Higher, "share where yes was said among outcomes that were yes", []Task{Binary}},
	{"f1", Higher, "harmonic mean of precision and recall", []Task{Binary}},
	{"auc", Higher, "chance that a yes was scored above a no", []Task{Binary}},
	{"macro_precision", Higher, "mean over classes of precision, 0 where a class was never said", []Task{Multiclass}},
	{"macro_recall", Higher, "mean over classes of recall, 0 where a class never came true", []Task{Multiclass}},
	{"macro_f1", Higher, "mean over classes of F1", []Task{Multiclass}},
	{"weighted_precision", Higher, "mean over outcomes of their class's precision", []Task{Multiclass}},
	{"weighted_f1", Higher, "mean over outcomes of their class's F1", []Task{Multiclass}},
	{"log_loss", Lower, "mean of -ln of the probability given to what came true", []Task{Binary, Multiclass}},
	{"brier", Lower, "mean square of how far probabilities were off; over all classes, if there are more than two", []Task{Binary, Multiclass}},
	{"calibration_error", Lower, "mean distance between probability and share that came true, in ten bins", []Task{Binary, Multiclass}},
	{"base_rate", Neither, "share of outcomes that were yes", []Task{Binary}},
	{"mae", Lower, "mean of the error without its sign", []Task{Regression}},
	{"rmse", Lower, "root of the mean squared error", []Task{Regression}},
	{"mape", Lower, "mean of the error without its sign, as a share of the outcome; outcomes of 0 are left out", []Task{Regression}},
	{"quantile_loss", Lower, "mean pinball loss of the quantile that is foretold", []Task{Regression}},
	{"bias", Zero, "mean of answers less outcomes", []Task{Binary, Regression}},
	{"r2", Higher, "share of the outcomes' variance that answers explain", []Task{Regression}},
	{"median_absolute_error", Lower, "median of the error without its sign", []Task{Regression}},
	{"absolute_error_p90", Lower, "90 % of errors are smaller, without their sign", []Task{Regression}},
	{"coverage", Higher, "share of answers whose outcome has come", nil},
	{"label_delay_p50", Lower, "half of outcomes came sooner; seconds", nil},
	{"label_delay_p90", Lower, "90 % of outcomes came sooner; seconds", nil},
	{"label_delay_max", Lower, "no outcome took longer, to within 3 %; seconds", nil},
}

// Metrics lists what a Report of a task may have, in the order to show it in.
func Metrics(task Task) []About {
	var of []About
	for _, a := range abouts {
		if len(a.tasks) == 0 || slices.Contains(a.tasks, task) {
			of = append(of, a)
		}
	}
	return of
}

// Report tells how right answers were. What has no meaning, such as the precision of
// answers that never said yes, is absent.
type Report struct {
	Spec
	Predicted int64             `json:"predicted"`
	Outcomes  int64             `json:"outcomes"`
	Metrics   map[string]Metric `json:"metrics"` // by the names that Metrics lists
	// Confusion has how often what was said for what came true, of classifiers; classes
	// that are not told apart are under "".
	Confusion   []Cell        `json:"confusion,omitempty"`
	Calibration []Calibration `json:"calibration,omitempty"`
	Classes     []Class       `json:"classes,omitempty"` // of multiclass
}

// Cell is one cell of a confusion matrix.
type Cell struct {
	Outcome string `json:"outcome"`
	Said    string `json:"said"`
	N       int64  `json:"n"`
}

// Calibration compares probabilities between From and To (the last includes it) with what
// came true: of yes, or of multiclass of the class that was said.
type Calibration struct {
	From      float64 `json:"from"`
	To        float64 `json:"to"`
	Predicted float64 `json:"predicted"` // the mean probability
	Actual    Metric  `json:"actual"`    // the share that came true, with Wilson's interval
}

// Class tells how right answers were about one class.
type Class struct {
	Class     string  `json:"class"`
	Outcomes  int64   `json:"outcomes"` // that were of the class
	Said      int64   `json:"said"`     // how often the class was predicted
	Precision *Metric `json:"precision,omitempty"`
	Recall    *Metric `json:"recall,omitempty"`
	F1        *Metric `json:"f1,omitempty"`
}

// Report tells what the state has. It takes memory of its own and changes nothing that shows,
// but may not run beside other uses of the state.
func (s *State) Report() *Report {
	r := &Report{Spec: s.spec, Predicted: s.made, Outcomes: s.n, Metrics: map[string]Metric{}}
	r.put("coverage")(share(s.n, s.made))
	r.put("label_delay_p50")(rank(s.delays, 0.5))
	r.put("label_delay_p90")(rank(s.delays, 0.9))
	if n := s.delays.total(); n > 0 {
		r.Metrics["label_delay_max"] = Metric{Value: s.delays.quantile(1), N: n}
	}
	switch s.spec.Task {
	case Binary:
		s.reportBinary(r)
	case Multiclass:
		s.reportMulticlass(r)
	case Regression:
		s.reportRegression(r)
	}
	return r
}

// put takes a metric that has a meaning under a name.
func (r *Report) put(name string) func(Metric, bool) {
	return func(m Metric, ok bool) { put(r.Metrics, name, m, ok) }
}

func put(metrics map[string]Metric, name string, m Metric, ok bool) {
	if !ok || math.IsNaN(m.Value) || math.IsInf(m.Value, 0) {
		return
	}
	if i := m.Interval; i != nil && (math.IsNaN(i.High-i.Low) || math.IsInf(i.High-i.Low, 0)) {
		m.Interval = nil
	}
	metrics[name] = m
}

func (s *State) reportBinary(r *Report) {
	noNo, noYes := s.scores[0][wasNo].total(), s.scores[0][wasYes].total() // said, was
	yesNo, yesYes := s.scores[1][wasNo].total(), s.scores[1][wasYes].total()
	r.Confusion = []Cell{{"false", "false", noNo}, {"false", "true", yesNo}, {"true", "false", noYes}, {"true", "true", yesYes}}
	r.put("accuracy")(share(noNo+yesYes, s.n))
	r.put("precision")(share(yesYes, yesNo+yesYes))
	r.put("recall")(share(yesYes, noYes+yesYes))
	r.put("f1")(f1(yesYes, noYes+yesNo))
	r.put("base_rate")(share(noYes+yesYes, s.n))
	r.put("auc")(auc(s.dense(wasYes), s.dense(wasNo)))
	r.put("bias")(mean(s.sums[difference].float(), s.sums[brier].float(), s.n)) // (p-y)² is the Brier score
	s.reportProbabilities(r, s.n)
}

// dense is one kind of scores in all bins, whatever was said.
func (s *State) dense(kind int) []float64 {
	d := make([]float64, scoreBins)
	for said := range s.scores {
		for _, b := range s.scores[said][kind] {
			d[b.at] += float64(b.n)
		}
	}
	return d
}

func (s *State) reportProbabilities(r *Report, n int64) {
	r.put("log_loss")(mean(s.sums[logLoss].float(), s.sums[logLoss2].float(), n))
	r.put("brier")(mean(s.sums[brier].float(), s.sums[brier2].float(), n))
	gap, of := 0.0, int64(0)
	for i := range s.calibration {
		c := &s.calibration[i]
		actual, ok := share(c.hits, c.n)
		p := c.p.float() / float64(c.n)
		if !ok || !isProbability(p) { // as in a state that takes back what another has
			continue
		}
		r.Calibration = append(r.Calibration, Calibration{
			From: float64(i) / calibrationBins, To: float64(i+1) / calibrationBins, Predicted: p, Actual: actual,
		})
		gap += float64(c.n) * math.Abs(p-actual.Value)
		of += c.n
	}
	r.put("calibration_error")(Metric{Value: gap / float64(of), N: of}, of > 0)
}

// reportMulticlass has macro and weighted means over the classes that were said or came true, a
// metric of a class counting 0 where it has no meaning, as scikit-learn has it. Their
// variances are by the delta method over the cells of the confusion matrix, which
// are multinomial (Takahashi, Yamamoto, Kuchiba and Koyama 2022).
func (s *State) reportMulticlass(r *Report) {
	r.put("accuracy")(share(s.right, s.n))
	s.reportProbabilities(r, s.full)
	hits, was, said := map[string]float64{}, map[string]float64{}, map[string]float64{}
	keys := s.pairs()
	for _, key := range keys {
		n := s.confusion[key]
		r.Confusion = append(r.Confusion, Cell{key.truth, key.said, n})
		was[key.truth] += float64(n)
		said[key.said] += float64(n)
		if key.truth == key.said {
			hits[key.truth] = float64(n)
		}
	}
	var precision, recall, f, weightedPrecision, weightedF, k, apart float64
	for _, class := range s.classes {
		c := Class{Class: class, Outcomes: int64(was[class]), Said: int64(said[class])}
		h := int64(hits[class])
		keep := func(to **Metric, m Metric, ok bool) float64 {
			if !ok {
				return 0
			}
			*to = &m
			return m.Value
		}
		m, ok := share(h, c.Said)
		p := keep(&c.Precision, m, ok)
		m, ok = share(h, c.Outcomes)
		rec := keep(&c.Recall, m, ok)
		m, ok = f1(h, c.Said+c.Outcomes-2*h)
		one := keep(&c.F1, m, ok)
		if c.F1 == nil {
			continue // never met, or taken back
		}
		r.Classes = append(r.Classes, c)
		k++
		apart += was[class]
		precision, recall, f = precision+p, recall+rec, f+one
		weightedPrecision, weightedF = weightedPrecision+was[class]*p, weightedF+was[class]*one
	}
	n := float64(s.n)
	if k == 0 || n <= 0 {
		return
	}
	ratio := func(a, b float64) float64 {
		if b <= 0 {
			return 0
		}
		return a / b
	}
	precisionOf := func(class string) float64 { return ratio(hits[class], said[class]) }
	recallOf := func(class string) float64 { return ratio(hits[class], was[class]) }
	f1Of := func(class string) float64 { return ratio(2*hits[class], was[class]+said[class]) }
	told := func(class string) float64 { // 1 if the class is one of the k
		if class == "" {
			return 0
		}
		return 1
	}
	// Each slope is how the metric changes with the share of one cell, for k classes.
	slope := func(value float64, of func(key pair, hit float64) float64) Metric {
		var first, second float64
		for _, key := range keys {
			hit := 0.0
			if key.truth == key.said && key.truth != "" {
				hit = 1
			}
			g, p := of(key, hit), float64(s.confusion[key])/n
			first += p * g
			second += p * g * g
		}
		return Metric{value, s.n, between0and1(value, math.Sqrt(max(0, second-first*first)/n), n)}
	}
	r.put("macro_precision")(slope(precision/k, func(key pair, hit float64) float64 {
		return told(key.said) * ratio(n, said[key.said]) * (hit - precisionOf(key.said)) / k
	}), true)
	r.put("macro_recall")(slope(recall/k, func(key pair, hit float64) float64 {
		return told(key.truth) * ratio(n, was[key.truth]) * (hit - recallOf(key.truth)) / k
	}), true)
	f1Slope := func(key pair, hit float64, weight func(string) float64) float64 {
		of := func(class string) float64 {
			return told(class) * weight(class) * ratio(n, was[class]+said[class]) * (hit - f1Of(class))
		}
		return of(key.truth) + of(key.said)
	}
	r.put("macro_f1")(slope(f/k, func(key pair, hit float64) float64 {
		return f1Slope(key, hit, func(string) float64 { return 1 / k })
	}), true)
	if apart <= 0 {
		return
	}
	// What is weighted also changes with the weights, which are shares of those told apart.
	r.put("weighted_precision")(slope(weightedPrecision/apart, func(key pair, hit float64) float64 {
		return told(key.truth)*(precisionOf(key.truth)-weightedPrecision/apart)*n/apart +
			told(key.said)*was[key.said]/apart*ratio(n, said[key.said])*(hit-precisionOf(key.said))
	}), true)
	r.put("weighted_f1")(slope(weightedF/apart, func(key pair, hit float64) float64 {
		return told(key.truth)*(f1Of(key.truth)-weightedF/apart)*n/apart +
			f1Slope(key, hit, func(class string) float64 { return was[class] / apart })
	}), true)
}

func (s *State) reportRegression(r *Report) {
	at := func(i int) float64 { return s.sums[i].float() }
	r.put("mae")(mean(at(absolute), at(difference2), s.n))
	r.put("bias")(mean(at(difference), at(difference2), s.n))
	r.put("mape")(mean(at(relative), at(relative2), s.nonzero))
	r.put("quantile_loss")(mean(at(pinball), at(pinball2), s.n))
	r.put("rmse")(rmse(at(difference2), at(squared2), s.n))
	r.put("r2")(s.r2())
	r.put("median_absolute_error")(rank(s.errors, 0.5))
	r.put("absolute_error_p90")(rank(s.errors, 0.9))
}

// rmse has the interval of the mean squared error's logarithm by the delta method: its
// root is skewed, and never below 0.
func rmse(squares, fourths float64, n int64) (Metric, bool) {
	m, ok := mean(squares, fourths, n)
	if !ok || m.Value < 0 {
		return m, false
	}
	if m.Value > 0 && m.Interval != nil {
		half := (m.Interval.High - m.Value) / m.Value / 2
		root := math.Sqrt(m.Value)
		m.Interval = &Interval{root * math.Exp(-half), root * math.Exp(half)}
	}
	m.Value = math.Sqrt(m.Value)
	return m, true
}

// r2 is 1 less u, the mean squared error over the outcomes' variance. The variance of ln u is by
// the delta method, of the errors' and outcomes' moments as they are and not as if
// they were normal.
func (s *State) r2() (Metric, bool) {
	if s.n < 2 {
		return Metric{}, false
	}
	n := wide(float64(s.n))
	average := func(i int) *big.Float { x := s.sums[i].number(); return x.Quo(x, n) }
	times := func(x ...*big.Float) *big.Float {
		p := wide(1)
		for _, f := range x {
			p.Mul(p, f)
		}
		return p
	}
	plus := func(x ...*big.Float) float64 {
		t := wide(0)
		for _, f := range x {
			t.Add(t, f)
		}
		f, _ := t.Float64()
		return f
	}
	m1, m2, m3, m4 := average(y1), average(y2), average(y3), average(y4)
	e2, e2y, e2yy := average(difference2), average(squaredY1), average(squaredY2)
	spread := plus(times(n, s.sums[y2].number()), times(wide(-1), s.sums[y1].number(), s.sums[y1].number())) // n²E(y-m)², and 0 if it is
	spread /= float64(s.n) * float64(s.n)
	fourth := plus(m4, times(wide(-4), m3, m1), times(wide(6), m2, m1, m1), times(wide(-3), m1, m1, m1, m1)) // E(y-m)⁴
	cross := plus(e2yy, times(wide(-2), e2y, m1), times(e2, m1, m1))                                         // E e²(y-m)²
	mse, _ := e2.Float64()
	e4 := s.sums[squared2].float() / float64(s.n)
	if !(spread > 0) || mse < 0 {
		return Metric{}, false
	}
	u := mse / spread
	m := Metric{Value: 1 - u, N: s.n}
	m1f, _ := m1.Float64()
	if tooFar := math.Abs(m1f) > math.Sqrt(spread)*(1<<22); u > 0 && s.n >= few && !tooFar { // else the digits of two are not enough
		v := (e4 - 2*u*cross + u*u*fourth) / (spread * spread) / float64(s.n)
		half := student(s.n-1) * math.Sqrt(max(0, v)) / u
		m.Interval = &Interval{1 - u*math.Exp(half), 1 - u*math.Exp(-half)}
	}
	return m, true
}

package quality

import "math"

// z is the quantile of the normal distribution that leaves 2.5 % on either side.
const z = 1.959963984540054

// Interval is a 95 % confidence interval: of a hundred such, some 95 hold what the metric would
// be of endlessly many answers from where these came from. It takes answers as independent
// of each other.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Metric is a number that tells how right answers were.
type Metric struct {
	Value float64 `json:"value"`
	// N is how many outcomes it was told from: for precision those of answers that said yes.
	N int64 `json:"n"`
	// Interval is absent where it can't be told: of too few outcomes, of label_delay_max, and of
	// calibration_error, which is never below 0 and so is overrated by chance.
	Interval *Interval `json:"interval,omitempty"`
}

// share is a proportion with the interval of Wilson (1927), which holds near 0 and 1 and for few as well.
func share(k, n int64) (Metric, bool) {
	if n <= 0 || k < 0 || k > n {
		return Metric{}, false
	}
	p := float64(k) / float64(n)
	return Metric{p, n, wilson(p, float64(n))}, true
}

func wilson(p, n float64) *Interval {
	middle := (p + z*z/(2*n)) / (1 + z*z/n)
	half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return &Interval{max(0, middle-half), min(1, middle+half)}
}

// f1 is the harmonic mean of precision and recall. It grows with the share of hits among
// hits and errors (F1 = 2q/(1+q), as Dice's index does with Jaccard's), and that is a
// proportion: its interval follows from Wilson's, and needs no delta method.
func f1(hits, errors int64) (Metric, bool) {
	m, ok := share(hits, hits+errors)
	if !ok {
		return m, false
	}
	of := func(q float64) float64 { return 2 * q / (1 + q) }
	return Metric{of(m.Value), m.N, &Interval{of(m.Interval.Low), of(m.Interval.High)}}, true
}

// mean is an average with the interval of Student (1908), by the sample's variance.
func mean(total, squares float64, n int64) (Metric, bool) {
	if n <= 0 {
		return Metric{}, false
	}
	v := total / float64(n)
	m := Metric{Value: v, N: n}
	if n >= few {
		half := student(n-1) * math.Sqrt(variance(total, squares, n)/float64(n))
		m.Interval = &Interval{v - half, v + half}
	}
	return m, true
}

// few is the least number of outcomes whose spread tells anything.
const few = 3

func variance(total, squares float64, n int64) float64 {
	return max(0, (squares-total*(total/float64(n)))/float64(n-1))
}

// student is Student's t for z, of 2 or more degrees of freedom (Abramowitz and Stegun
// 26.7.5; within 3 % at 2, better above).
func student(freedom int64) float64 {
	v := float64(freedom)
	const z3, z5, z7 = z * z * z, z * z * z * z * z, z * z * z * z * z * z * z
	return z + (z3+z)/4/v + (5*z5+16*z3+3*z)/96/(v*v) + (3*z7+19*z5+17*z3-15*z)/384/(v*v*v)
}

// between0and1 is a value with the interval of a standard error on the logit scale, where
// what lies near 0 or 1 is nearly normal. At 0 and 1 themselves, where no spread is
// seen, it is Wilson's of as many trials as few says.
func between0and1(value, deviation, fewest float64) *Interval {
	v := value * (1 - value)
	switch {
	case fewest < few:
		return nil
	case v <= 0 || deviation <= 0:
		return wilson(min(max(value, 0), 1), fewest)
	}
	l := math.Log(value / (1 - value))
	logistic := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	return &Interval{logistic(l - z*deviation/v), logistic(l + z*deviation/v)}
}

// auc is the chance that a yes has a higher score than a no, equal ones counting half, with
// the variance of DeLong, DeLong and Clarke-Pearson (1988) and the logit interval (Pepe
// 2003). Scores of one bin count as equal.
func auc(yes, no []float64) (Metric, bool) {
	positives, negatives := total(yes), total(no)
	if positives <= 0 || negatives <= 0 {
		return Metric{}, false
	}
	below, area, squareYes := 0.0, 0.0, 0.0
	for i := range yes {
		place := (below + no[i]/2) / negatives // of a yes in this bin among the noes
		area += yes[i] * place
		squareYes += yes[i] * place * place
		below += no[i]
	}
	area /= positives
	above, squareNo := positives, 0.0
	for i := range no {
		above -= yes[i]
		place := (above + yes[i]/2) / positives
		squareNo += no[i] * place * place
	}
	m := Metric{Value: area, N: int64(positives + negatives)}
	if fewest := min(positives, negatives); fewest > 1 {
		v := (squareYes/positives-area*area)/(positives-1) + (squareNo/negatives-area*area)/(negatives-1)
		m.Interval = between0and1(area, math.Sqrt(max(0, v)), fewest)
	}
	return m, true
}

func total(of []float64) (t float64) {
	for _, v := range of {
		t += v
	}
	return t
}

// rank is a quantile, with the interval that the ranks of a sample have (Conover 1999):
// how many values lie below the quantile is binomial.
func rank(h histogram, q float64) (Metric, bool) {
	n := h.total()
	if n <= 0 {
		return Metric{}, false
	}
	m := Metric{Value: h.quantile(q), N: n}
	if half := z * math.Sqrt(q*(1-q)/float64(n)); q-half > 0 && q+half < 1 {
		m.Interval = &Interval{h.quantile(q - half), h.quantile(q + half)}
	}
	return m, true
}

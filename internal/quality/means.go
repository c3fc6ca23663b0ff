package quality

import "slices"

// Moments are those of a mean over outcomes, for whoever compares two of them.
type Moments struct {
	N        int64
	Mean     float64
	Variance float64 // of a single outcome's, by the sample
}

// means are the metrics that are means over outcomes, for which Moments are known.
var means = []string{"accuracy", "log_loss", "brier", "mae", "mape", "quantile_loss"}

// IsMean tells whether a metric is one that Moments are known of.
func IsMean(metric string) bool { return slices.Contains(means, metric) }

// HigherIsBetter tells whether a metric is the better the greater it is.
func HigherIsBetter(metric string) bool {
	return slices.ContainsFunc(abouts, func(a About) bool { return a.Name == metric && a.Better == Higher })
}

// Moments gives those of a metric that IsMean; without outcomes, or for a task that does not have it, they are zero.
func (s *State) Moments(metric string) Moments {
	at := func(i, squares int, n int64) Moments {
		if n <= 0 {
			return Moments{}
		}
		m := Moments{N: n, Mean: s.sums[i].float() / float64(n)}
		if n > 1 {
			m.Variance = variance(s.sums[i].float(), s.sums[squares].float(), n)
		}
		return m
	}
	switch metric {
	case "accuracy":
		return s.accuracy()
	case "log_loss":
		return at(logLoss, logLoss2, s.scored())
	case "brier":
		return at(brier, brier2, s.scored())
	case "mae":
		return at(absolute, difference2, s.of(Regression))
	case "mape":
		return at(relative, relative2, s.nonzero)
	case "quantile_loss":
		return at(pinball, pinball2, s.of(Regression))
	}
	return Moments{}
}

// of is how many outcomes there are, if the task is one.
func (s *State) of(task Task) int64 {
	if s.spec.Task != task {
		return 0
	}
	return s.n
}

// scored is how many outcomes had a probability.
func (s *State) scored() int64 {
	if s.spec.Task == Multiclass {
		return s.full
	}
	return s.of(Binary)
}

func (s *State) accuracy() Moments {
	right := s.right
	switch s.spec.Task {
	case Binary:
		right = s.scores[0][wasNo].total() + s.scores[1][wasYes].total()
	case Regression:
		return Moments{}
	}
	if s.n <= 0 {
		return Moments{}
	}
	p := float64(right) / float64(s.n)
	return Moments{N: s.n, Mean: p, Variance: p * (1 - p)}
}

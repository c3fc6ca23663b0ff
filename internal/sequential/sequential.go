// Package sequential compares two arms again and again while data comes in, with an
// answer that holds at all looks together: with a chance of at least 1-alpha the
// intervals of all looks, however many and whenever somebody chooses to stop, hold the
// true difference. A fixed-size test that is looked at again and again has no such chance.
//
// Compare is for means, by large numbers; CompareShares is for shares of yes and no, by any numbers.
// Both are functions of sums, so that nothing but sums must be kept. They take
// observations as independent, and each arm as the same over the time of a pair: where that
// changes, or the arms' shares of the traffic do, the time is cut into several pairs, within each of which arms are compared
// like with like. All functions are pure; what is no number, or no data, gives the interval that holds everything.
package sequential

import "math"

// Interval bounds the difference b - a.
type Interval struct{ Low, High float64 }

// Sums are what is known of the observations of an arm.
type Sums struct {
	N        int64
	Mean     float64
	Variance float64
}

// Pair is two arms over the same time.
type Pair struct{ A, B Sums }

// bestAt is for how many observations intervals are narrowest beside those of a single look, counted as na*nb/(na+nb): much as
// those of the smaller arm. Much fewer make them wide, so that nothing is decided before the mean of what is skewed is near
// enough to normal; a hundred times more make them a fifth wider.
const bestAt = 1000

// Compare bounds the difference of two means, b's minus a's, over all pairs. alpha is the chance that it is wrong at some
// look, for many observations; where they are yes and no, and one of them is rare, CompareShares is right for few, too.
//
// It is the confidence sequence of a mixture over normal effects (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970;
// Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", 2021), with variances that are
// estimated (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", 2021).
// Its clock is the information on the difference, 1/variance, in which the estimates of
// two-armed trials are a Brownian motion whatever the arms' sizes (Jennison and Turnbull, "Group sequential methods", 2000), so that the
// information of pairs adds up. As variance it takes the larger one of two: that of both arms together, which is right where
// an arm has seen nothing of what is rare yet, and that of each by itself, which is right where they differ.
func Compare(alpha float64, pairs ...Pair) Interval {
	all := Interval{math.Inf(-1), math.Inf(1)}
	if !(alpha > 0 && alpha < 1) {
		return all
	}
	var n, na, nb, together, va, vb float64
	for _, p := range pairs {
		if !p.A.sound() || !p.B.sound() {
			return all
		}
		a, b := float64(p.A.N), float64(p.B.N)
		if a == 0 || b == 0 {
			continue // it compares nothing
		}
		d := p.B.Mean - p.A.Mean
		n, na, nb = n+a+b, na+a, nb+b
		va, vb = va+a*p.A.Variance, vb+b*p.B.Variance
		together += a*p.A.Variance + b*p.B.Variance + a*b/(a+b)*d*d
	}
	if na < 2 || nb < 2 || !(together > 0) {
		return all
	}
	together, va, vb = together/n, va/na, vb/nb
	var information, score float64
	for _, p := range pairs {
		a, b := float64(p.A.N), float64(p.B.N)
		if a == 0 || b == 0 {
			continue
		}
		i := 1 / max(together/a+together/b, va/a+vb/b)
		information += i
		score += i * (p.B.Mean - p.A.Mean)
	}
	best := 2*math.Log(1/alpha) + math.Log1p(2*math.Log(1/alpha))
	t := information * max(together, va, vb) * best / bestAt
	half := math.Sqrt((t + 1) / t / information * (math.Log1p(t) - 2*math.Log(alpha)))
	middle := score / information
	if i := (Interval{middle - half, middle + half}); i.Low <= i.High && half > 0 {
		return i
	}
	return all
}

func (s *Sums) sound() bool {
	return s.N >= 0 && s.Variance >= 0 && !math.IsInf(s.Variance, 0) && !math.IsNaN(s.Mean) && !math.IsInf(s.Mean, 0)
}

// Counts are how many of the observations of an arm are yes.
type Counts struct{ N, Yes int64 }

// CountPair is two arms over the same time.
type CountPair struct{ A, B Counts }

// CompareShares bounds the difference of two shares, b's minus a's, which is the same in all pairs; the shares need not be. It holds for few observations as for
// many, and also if how many an arm gets is decided by what was seen.
//
// It has the differences for which the data's likelihood, at the shares that suit them best, is not less by more than alpha than what a bet on
// both arms has earned that spreads each over all shares: Jeffreys' mixture. Under each difference that ratio is
// at most a martingale with mean 1, so that by Ville's inequality it exceeds 1/alpha at any time with a chance of at most alpha (Wasserman,
// Ramdas, Balakrishnan, "Universal inference", 2020; Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests", 2021).
func CompareShares(alpha float64, pairs ...CountPair) Interval {
	all := Interval{-1, 1}
	if !(alpha > 0 && alpha < 1) {
		return all
	}
	some := false
	for _, p := range pairs {
		if !p.A.sound() || !p.B.sound() {
			return all
		}
		some = some || p.A.N > 0 && p.B.N > 0
	}
	if !some {
		return all
	}
	most := -math.Log(alpha)
	inside := func(d float64) bool { return evidence(d, pairs) < most }
	// The evidence is convex in the difference: least at some middle, and rising on both sides.
	low, high := -1.0, 1.0
	for range 100 {
		x, y := low+(high-low)/3, high-(high-low)/3
		if evidence(x, pairs) < evidence(y, pairs) {
			high = y
		} else {
			low = x
		}
	}
	middle := (low + high) / 2
	if !inside(middle) { // pairs contradict each other: there is no one difference
		return Interval{middle, middle}
	}
	return Interval{edge(middle, -1, inside), edge(middle, 1, inside)}
}

// edge finds where inside ends between two places, of which it holds at the first; it gives the one beyond.
func edge(in, out float64, inside func(float64) bool) float64 {
	if inside(out) {
		return out
	}
	for range 60 {
		if m := (in + out) / 2; inside(m) {
			in = m
		} else {
			out = m
		}
	}
	return out
}

func (c *Counts) sound() bool { return c.N >= 0 && c.Yes >= 0 && c.Yes <= c.N }

// evidence is the logarithm of what was earned by betting against a difference d.
func evidence(d float64, pairs []CountPair) (e float64) {
	for _, p := range pairs {
		if p.A.N > 0 && p.B.N > 0 {
			e += p.A.mixture() + p.B.mixture() - p.likelihood(d)
		}
	}
	return e
}

// mixture is the logarithm of the data's likelihood, averaged over all shares.
func (c *Counts) mixture() float64 {
	yes, no := float64(c.Yes)+.5, float64(c.N-c.Yes)+.5
	y, _ := math.Lgamma(yes)
	n, _ := math.Lgamma(no)
	all, _ := math.Lgamma(yes + no)
	return y + n - all - math.Log(math.Pi)
}

// likelihood is the logarithm of the largest likelihood of shares s of a and s+d of b.
func (p *CountPair) likelihood(d float64) float64 {
	aYes, aNo, bYes, bNo := float64(p.A.Yes), float64(p.A.N-p.A.Yes), float64(p.B.Yes), float64(p.B.N-p.B.Yes)
	low, high := max(0, -d), min(1, 1-d)
	for range 60 { // where the slope, which only falls, is zero
		s := (low + high) / 2
		if ratio(aYes, s)-ratio(aNo, 1-s)+ratio(bYes, s+d)-ratio(bNo, 1-s-d) > 0 {
			low = s
		} else {
			high = s
		}
	}
	best := math.Inf(-1)
	for _, s := range [...]float64{low, high} {
		best = max(best, power(aYes, s)+power(aNo, 1-s)+power(bYes, s+d)+power(bNo, 1-s-d))
	}
	return best
}

// ratio is n/x, and nothing of nothing.
func ratio(n, x float64) float64 {
	if n == 0 {
		return 0
	}
	return n / max(x, 0)
}

// power is the logarithm of x^n.
func power(n, x float64) float64 {
	if n == 0 {
		return 0
	}
	return n * math.Log(max(x, 0))
}

package sequential

import (
	"math"
	"math/rand/v2"
	"testing"
)

// tally gathers the sums of an arm.
type tally struct {
	n          int64
	mean, more float64
	yes        int64
}

func (t *tally) add(x float64) {
	t.n++
	d := x - t.mean
	t.mean += d / float64(t.n)
	t.more += d * (x - t.mean)
	if x != 0 {
		t.yes++
	}
}

func (t *tally) sums() Sums {
	return Sums{t.n, t.mean, t.more / float64(max(t.n, 1))}
}

func (t *tally) counts() Counts { return Counts{t.n, t.yes} }

// trial is two arms whose traffic comes in steps, within each of which they are the same.
type trial struct {
	name string
	a, b func(r *rand.Rand, step int) float64
	// share of arm b, by steps of so many observations
	shares []float64
	size   int
	merged bool // all steps are one pair
}

// looks runs a trial and looks after every twentieth observation; it tells when look said that it is decided, 0: never.
func (x *trial) looks(seed uint64, look func(pairs []Pair, counts []CountPair) bool) int {
	r := rand.New(rand.NewPCG(seed, 99))
	var pairs []Pair
	var counts []CountPair
	var a, b tally
	n := 0
	for step, share := range x.shares {
		if step == 0 || !x.merged {
			a, b = tally{}, tally{}
			pairs, counts = append(pairs, Pair{}), append(counts, CountPair{})
		}
		for range x.size {
			n++
			if r.Float64() < share {
				b.add(x.b(r, step))
			} else {
				a.add(x.a(r, step))
			}
			if n%20 != 0 {
				continue
			}
			last := len(pairs) - 1
			pairs[last], counts[last] = Pair{a.sums(), b.sums()}, CountPair{a.counts(), b.counts()}
			if look(pairs, counts) {
				return n
			}
		}
	}
	return 0
}

func normal(mean, sd float64) func(*rand.Rand, int) float64 {
	return func(r *rand.Rand, _ int) float64 { return mean + sd*r.NormFloat64() }
}

func yes(p float64) func(*rand.Rand, int) float64 {
	return func(r *rand.Rand, _ int) float64 {
		if r.Float64() < p {
			return 1
		}
		return 0
	}
}

// drifting is better at each step, as the hours of a day are.
func drifting(p ...float64) func(*rand.Rand, int) float64 {
	return func(r *rand.Rand, step int) float64 { return yes(p[step])(r, step) }
}

func exponential(r *rand.Rand, _ int) float64 { return r.ExpFloat64() }

var (
	growing = []float64{.01, .05, .1, .25, .5}
	half    = []float64{.5}
)

const (
	runs  = 2000
	alpha = .05
)

// most is what a chance of alpha comes to at most, but for three standard errors.
var most = runs*alpha + 3*math.Sqrt(runs*alpha*(1-alpha))

// crossed counts the runs of a trial in which a look, at any time, says that it is decided.
func crossed(x *trial, look func(pairs []Pair, counts []CountPair) bool) (n int) {
	for seed := range uint64(runs) {
		if x.looks(seed, look) > 0 {
			n++
		}
	}
	return n
}

func meansDiffer(pairs []Pair, _ []CountPair) bool {
	i := Compare(alpha, pairs...)
	return i.Low > 0 || i.High < 0
}

// sharesDiffer is whether 0 is outside the interval of CompareShares, found faster.
func sharesDiffer(_ []Pair, counts []CountPair) bool {
	return evidence(0, counts) >= -math.Log(alpha)
}

// Where there is no difference, no more than alpha of all runs ever say that there is one, at any of hundreds of looks.
func TestNoDifference(t *testing.T) {
	for _, x := range []trial{
		{name: "normal", a: normal(5, 2), b: normal(5, 2), shares: half, size: 2500},
		{name: "normal, growing shares", a: normal(0, 1), b: normal(0, 1), shares: growing, size: 600},
		{name: "the small arm varies more", a: normal(0, 1), b: normal(0, 4), shares: []float64{.05}, size: 4000},
		{name: "the small arm varies less", a: normal(0, 4), b: normal(0, 1), shares: []float64{.05}, size: 4000},
		{name: "skewed", a: exponential, b: exponential, shares: []float64{.1}, size: 2500},
		{name: "yes and no", a: yes(.3), b: yes(.3), shares: []float64{.1}, size: 2500},
		{name: "days that differ", a: drifting(.1, .2, .4, .6, .3), b: drifting(.1, .2, .4, .6, .3), shares: growing, size: 600},
	} {
		n := crossed(&x, meansDiffer)
		t.Logf("%s: %d of %d", x.name, n, runs)
		if float64(n) > most {
			t.Errorf("%s: %d of %d runs found a difference at some time, expected %g at most", x.name, n, runs, most)
		}
	}
	for _, x := range []trial{
		{name: "yes and no", a: yes(.3), b: yes(.3), shares: half, size: 2500},
		{name: "rare", a: yes(.01), b: yes(.01), shares: []float64{.1}, size: 4000},
		{name: "very rare, in a small arm", a: yes(.001), b: yes(.001), shares: []float64{.01}, size: 5000},
		{name: "mostly", a: yes(.99), b: yes(.99), shares: growing, size: 600},
		{name: "days that differ", a: drifting(.1, .2, .4, .6, .3), b: drifting(.1, .2, .4, .6, .3), shares: growing, size: 600},
	} {
		n := crossed(&x, sharesDiffer)
		t.Logf("shares, %s: %d of %d", x.name, n, runs)
		if float64(n) > most {
			t.Errorf("shares, %s: %d of %d runs found a difference at some time, expected %g at most", x.name, n, runs, most)
		}
	}
}

// What the package is for: a test of a fixed size that is looked at again and again finds what is not there, and so does one that takes
// days that differ for one while shares grow. Both are no functions of the package.
func TestWhatItIsFor(t *testing.T) {
	x := trial{a: normal(0, 1), b: normal(0, 1), shares: half, size: 3000}
	n := crossed(&x, func(pairs []Pair, _ []CountPair) bool {
		a, b := pairs[0].A, pairs[0].B
		return a.N > 10 && b.N > 10 && math.Abs(a.Mean-b.Mean) > 1.96*math.Sqrt(a.Variance/float64(a.N)+b.Variance/float64(b.N))
	})
	if n < runs/5 {
		t.Errorf("%d of %d runs of a t-test found a difference at some time", n, runs)
	}
	x = trial{a: drifting(.1, .2, .4, .6, .3), b: drifting(.1, .2, .4, .6, .3), shares: growing, size: 600, merged: true}
	if n := crossed(&x, meansDiffer); n < runs/4 {
		t.Errorf("%d of %d runs found a difference where days were mixed", n, runs)
	}
}

// A real difference is found, on its side, and about as soon as can be; and intervals hold it at all looks.
func TestARealDifference(t *testing.T) {
	for _, x := range []struct {
		trial
		difference float64
		within     int // observations, for nine runs in ten
		look       func(pairs []Pair, counts []CountPair) Interval
	}{
		{trial{name: "normal", a: normal(0, 1), b: normal(.3, 1), shares: half, size: 5000}, .3, 1100, nil},
		{trial{name: "lower, growing shares", a: normal(0, 1), b: normal(-.3, 1), shares: growing, size: 4000}, -.3, 16_000, nil},
		{trial{name: "accuracy", a: yes(.8), b: yes(.7), shares: []float64{.1}, size: 20_000}, -.1, 7000, nil},
		{trial{name: "errors", a: yes(.001), b: yes(.05), shares: []float64{.1}, size: 20_000}, .049, 3500, shares},
		{trial{name: "accuracy by shares", a: yes(.8), b: yes(.7), shares: []float64{.1}, size: 20_000}, -.1, 9500, shares},
	} {
		look := x.look
		if look == nil {
			look = func(pairs []Pair, _ []CountPair) Interval { return Compare(alpha, pairs...) }
		}
		const some = 200
		found, wrong, missed := []int{}, 0, 0
		for seed := range uint64(some) {
			n := 0
			at := x.looks(seed, func(pairs []Pair, counts []CountPair) bool {
				if n++; n%5 != 0 {
					return false
				}
				i := look(pairs, counts)
				if i.Low > x.difference || i.High < x.difference {
					missed++
					return true
				}
				if x.difference > 0 && i.High < 0 || x.difference < 0 && i.Low > 0 {
					wrong++
				}
				return i.Low > 0 || i.High < 0
			})
			if at > 0 {
				found = append(found, at)
			}
		}
		in := 0
		for _, at := range found {
			if at <= x.within {
				in++
			}
		}
		t.Logf("%s: %d of %d found, %d of them within %d; %d intervals missed", x.name, len(found), some, in, x.within, missed)
		if in < some*9/10 || wrong > 0 || missed > some/10 {
			t.Errorf("%s: %d of %d found within %d observations, %d on the wrong side, %d intervals without the difference", x.name, in, some, x.within, wrong, missed)
		}
	}
}

func shares(_ []Pair, counts []CountPair) Interval {
	// The whole interval takes 0.1 ms: where it would hold 0, its sides say nothing here.
	if evidence(0, counts) < -math.Log(alpha) {
		return Interval{-1, 1}
	}
	return CompareShares(alpha, counts...)
}

// Intervals are as the formulas have them, by hand.
func TestIntervals(t *testing.T) {
	near := func(got, want Interval) {
		t.Helper()
		if math.Abs(got.Low-want.Low) > 1e-6*math.Abs(want.Low) || math.Abs(got.High-want.High) > 1e-6*math.Abs(want.High) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	// Two arms of 2000 with mean 0 and variance 1: na*nb/(na+nb) = 1000, information 1000, rho² of it 2*ln(20)+ln(1+2*ln(20)) = 7.937...
	r := 2*math.Log(20) + math.Log(1+2*math.Log(20))
	h := math.Sqrt((r + 1) / r / 1000 * math.Log((r+1)/.0025))
	same := Sums{2000, 0, 1}
	near(Compare(.05, Pair{same, same}), Interval{-h, h})
	// The same in two parts is the same.
	part := Sums{1000, 0, 1}
	near(Compare(.05, Pair{part, part}, Pair{part, part}), Interval{-h, h})
	// What has one arm only says nothing.
	near(Compare(.05, Pair{same, same}, Pair{A: same}), Interval{-h, h})
	// With more looks' worth of certainty it is wider.
	if wide := Compare(.001, Pair{same, same}); !(wide.High > h) {
		t.Errorf("got %+v", wide)
	}

	// One observation of each: the bet earns 1/2*1/2 of a likelihood of 1 at most.
	near(CompareShares(.05, CountPair{Counts{1, 0}, Counts{1, 1}}), Interval{edgeOf(.0125), 1})
	if i := CompareShares(.05, CountPair{Counts{1000, 100}, Counts{1000, 200}}); !(i.Low > 0 && i.Low < .1 && i.High > .1 && i.High < .2) {
		t.Errorf("got %+v", i)
	}
	if i := CompareShares(.05, CountPair{Counts{1000, 1}, Counts{1000, 999}}, CountPair{Counts{1000, 999}, Counts{1000, 1}}); i.Low != i.High {
		t.Errorf("got %+v of pairs that contradict each other", i)
	}
}

// edgeOf is the difference d at which the likelihood of a no and a yes, at most ((1+d)/2)², is what alpha leaves of 1/4.
func edgeOf(leaves float64) float64 { return 2*math.Sqrt(leaves) - 1 }

func FuzzCompare(f *testing.F) {
	f.Add(.05, int64(10), 1.0, 2.0, int64(20), 1.5, 2.5)
	f.Add(.05, int64(0), 0.0, 0.0, int64(0), 0.0, 0.0)
	f.Add(.05, int64(5), 1.0, 0.0, int64(5), 1.0, 0.0)
	f.Add(math.NaN(), int64(-1), math.NaN(), math.Inf(1), int64(math.MaxInt64), math.Inf(-1), -1.0)
	f.Add(1e-300, int64(math.MaxInt64), math.MaxFloat64, math.MaxFloat64, int64(math.MaxInt64), -math.MaxFloat64, math.MaxFloat64)
	f.Fuzz(func(t *testing.T, alpha float64, na int64, ma, va float64, nb int64, mb, vb float64) {
		a, b := Sums{na, ma, va}, Sums{nb, mb, vb}
		i, j := Compare(alpha, Pair{a, b}), Compare(alpha, Pair{b, a})
		if !(i.Low <= i.High) || i.Low != -j.High || i.High != -j.Low {
			t.Errorf("got %+v, and %+v the other way round", i, j)
		}
		if d := mb - ma; !(i.Low <= d && d <= i.High) && a.sound() && b.sound() {
			t.Errorf("%+v does not hold what was seen, %g", i, d)
		}
		c, d := Counts{na, int64(ma)}, Counts{nb, int64(mb)}
		if k := CompareShares(alpha, CountPair{c, d}); !(k.Low <= k.High && k.Low >= -1 && k.High <= 1) {
			t.Errorf("got %+v", k)
		}
	})
}

func BenchmarkCompare(b *testing.B) {
	p := Pair{Sums{9000, .2, .16}, Sums{1000, .21, .17}}
	for b.Loop() {
		Compare(.05, p, p, p, p, p)
	}
}

func BenchmarkCompareShares(b *testing.B) {
	p := CountPair{Counts{9000, 90}, Counts{1000, 12}}
	for b.Loop() {
		CompareShares(.05, p, p, p, p, p)
	}
}

package drift

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func near(got, want, relative float64) bool {
	return math.Abs(got-want) <= relative*math.Abs(want)
}

// What SciPy 1.17.1 says: scipy.stats.chi2.sf, scipy.special.kolmogorov, scipy.stats.hypergeom.sf.
func TestChances(t *testing.T) {
	for _, c := range []struct{ x, freedom, want float64 }{
		{3.84, 1, 0.0500435212487052},
		{0.1, 1, 0.751829634045849},
		{30, 10, 0.000856641210775301},
		{5, 10, 0.891178018914151},
		{250, 200, 0.0093791316688261},
		{150, 200, 0.996647558501813},
		{100, 3, 1.5541594313896e-21},
		{0.001, 7, 0.99999999999976},
	} {
		if got := gammaQ(c.freedom/2, c.x/2); !near(got, c.want, 1e-10) {
			t.Errorf("chi-square of %v with %v degrees: got %v, want %v", c.x, c.freedom, got, c.want)
		}
	}
	for _, c := range []struct{ x, want float64 }{
		{0.1, 1},
		{0.3, 0.999990694198665},
		{0.5, 0.963945243664875},
		{0.9, 0.392730707940654},
		{1.0, 0.269999671677355},
		{1.1, 0.177718192606401},
		{1.3581, 0.0499996304316674},
		{2, 0.000670925255779695},
		{4, 2.53283310981884e-14},
	} {
		if got := kolmogorov(c.x, 2, 2); !near(got, c.want, 1e-10) {
			t.Errorf("Kolmogorov of %v: got %v, want %v", c.x, got, c.want)
		}
	}
	for _, c := range []struct {
		a, n, x, m uint64
		want       float64
	}{
		{5, 1000, 7, 200, 0.00121102179913},
		{0, 500, 3, 200, 0.023073720308},
		{100, 1000, 10, 200, 0.994168719781},
		{100, 1000, 25, 200, 0.175338046291},
		{1, 10, 9, 10, 0.000546666955336},
		{5000, 100000, 700, 10000, 1.0731104937e-16},
		{20000, 1000000, 2300, 100000, 1.58799402999e-10},
		{0, 100000, 1, 10, 9.99900009999e-05},
		{50, 100, 0, 30, 1},
		{50, 100, 30, 30, 3.39596611812e-08},
	} {
		if got := fisher(c.a, c.n, c.x, c.m); !near(got, c.want, 1e-6) {
			t.Errorf("Fisher of %d of %d and %d of %d: got %v, want %v", c.a, c.n, c.x, c.m, got, c.want)
		}
	}
	// Where the normal distribution takes over it says the same, and no count takes long.
	if got, want := fisher(100_000_000, 1_000_000_000, 10_010_000, 100_000_000), 0.0007426033937106019; !near(got, want, 0.01) {
		t.Errorf("Fisher of many: got %v, want %v", got, want)
	}
	if got := fisher(1<<50, 1<<53, 1<<49, 1<<52); !near(got, 0.5, 1e-3) {
		t.Errorf("Fisher of equal shares of a great many: got %v, want a half", got)
	}
}

func TestHolm(t *testing.T) {
	got := holm([]float64{0.04, 0.01, 0.03, 0.005})
	want := []float64{0.06, 0.03, 0.06, 0.02}
	for i := range want {
		if !near(got[i], want[i], 1e-12) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// TestDistances compares with what the formulas give for shares that are easy to see through.
func TestDistances(t *testing.T) {
	p, q := []uint64{10, 20, 30, 0}, []uint64{1, 5, 0, 4}
	if got, want := js(p, q), 0.5696641298914863; !near(got, want, 1e-12) { // scipy.spatial.distance.jensenshannon
		t.Errorf("Jensen–Shannon: got %v, want %v", got, want)
	}
	want := (.1-1./6)*math.Log(.6) + (.5-1./3)*math.Log(1.5) + (1e-4-.5)*math.Log(2e-4) + (.4-1e-4)*math.Log(4000)
	if got := psi(p, q); !near(got, want, 1e-12) {
		t.Errorf("PSI: got %v, want %v", got, want)
	}
	if psi, js, ks := psi(p, p), js(p, p), ks(p, p); psi != 0 || js != 0 || ks != 0 {
		t.Errorf("got distances %v, %v, %v of the same, want 0", psi, js, ks)
	}
	if got, want := ks(p, q), 0.4; !near(got, want, 1e-12) {
		t.Errorf("Kolmogorov–Smirnov: got %v, want %v", got, want)
	}
}

func TestChiSquare(t *testing.T) {
	// scipy.stats.chi2_contingency([[50, 30, 20], [20, 20, 20]], correction=False): the last cell
	// is of what is not listed, and stays as it is large enough.
	x, p := chiSquare([]uint64{50, 30, 20}, []uint64{20, 20, 20})
	if !near(x, 5.180952380952381, 1e-12) || !near(p, 0.07498432476103843, 1e-12) {
		t.Errorf("got %v, %v", x, p)
	}
	// Small cells are joined: as if they had been one.
	x, _ = chiSquare([]uint64{500, 300, 2, 3, 4, 5, 1}, []uint64{200, 200, 4, 3, 2, 1, 5})
	if want, _ := chiSquare([]uint64{500, 300, 15}, []uint64{200, 200, 15}); !near(x, want, 1e-12) {
		t.Errorf("got %v of joined cells, want %v", x, want)
	}
	if x, p := chiSquare([]uint64{100, 0}, []uint64{30, 0}); x != 0 || p != 1 {
		t.Errorf("of one cell: got %v, %v", x, p)
	}
}

// TestBinsAgainstRows compares what comes of bins with what comes of the rows themselves.
func TestBinsAgainstRows(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, shift := range []float64{0, 0.1, 0.5, 3} {
		for _, rounded := range []float64{0, 0.1} {
			draw := func(by float64) float64 {
				f := r.NormFloat64() + by
				if rounded > 0 {
					f = math.Round(f/rounded) * rounded
				}
				return f
			}
			b := NewBuilder([]Field{{"x", false}})
			var reference, current []float64
			for range 5000 {
				f := draw(0)
				reference = append(reference, f)
				if err := b.Add([]Value{Number(f)}); err != nil {
					t.Fatal(err)
				}
			}
			p, err := b.Profile()
			if err != nil {
				t.Fatal(err)
			}
			s := NewState(p)
			for range 1500 {
				f := draw(shift)
				current = append(current, f)
				s.AddNumber(0, f)
			}
			report, err := Compare(s, Default)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(reference)
			slices.Sort(current)
			below := func(sorted []float64, f float64) float64 { // share up to and with f
				i, _ := slices.BinarySearchFunc(sorted, f, func(a, b float64) int {
					if a <= b {
						return -1
					}
					return 1
				})
				return float64(i) / float64(len(sorted))
			}
			var want float64
			for _, f := range slices.Concat(reference, current) {
				want = max(want, math.Abs(below(reference, f)-below(current, f)))
			}
			c := report.Columns[0]
			got := c.Tests[0].Statistic
			slack := 0.02 // some bins' mass
			if rounded > 0 {
				slack = 1e-12 // each number is a bin
			}
			if got > want+1e-12 || got < want-slack {
				t.Errorf("shift %v, rounded %v: got a KS statistic of %v, want %v or a little less", shift, rounded, got, want)
			}
			// The shares of the deciles, by the rows.
			var index float64
			last := [2]float64{}
			for d := 1; d <= 10; d++ {
				f := math.Inf(1)
				if d < 10 {
					f = reference[d*len(reference)/10-1]
				}
				now := [2]float64{below(reference, f), below(current, f)}
				a, b := max(now[0]-last[0], 1e-4), max(now[1]-last[1], 1e-4)
				index += (b - a) * math.Log(b/a)
				last = now
			}
			if math.Abs(c.PSI-index) > 0.01+0.05*index {
				t.Errorf("shift %v, rounded %v: got a PSI of %v, want some %v", shift, rounded, c.PSI, index)
			}
			for _, q := range []struct{ got, at float64 }{{c.Current.P5, .05}, {c.Current.P50, .5}, {c.Current.P95, .95}} {
				// What lies above the reference has no bins, and its quantiles are guesses.
				if want := current[int(q.at*float64(len(current)))]; want <= p.columns[0].Max() && math.Abs(q.got-want) > 0.12 {
					t.Errorf("shift %v, rounded %v: got the quantile %v as %v, want some %v", shift, rounded, q.at, q.got, want)
				}
			}
			outside := 0.0
			for _, f := range current {
				if f > reference[len(reference)-1] {
					outside++
				}
			}
			if want := outside / float64(len(current)); c.Above != want {
				t.Errorf("shift %v: got %v above the range, want %v", shift, c.Above, want)
			}
		}
	}
}

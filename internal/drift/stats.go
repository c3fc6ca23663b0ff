package drift

import (
	"cmp"
	"math"
	"slices"
)

// psi is the population stability index of two sets of counts, sum((q-p)·ln(q/p)): the
// divergence of Jeffreys (Siddiqi, "Credit Risk Scorecards", 2006; its 0.1 and 0.25 are
// where the usual "some" and "much" come from). A share of 0, whose logarithm is infinite,
// counts as 0.0001. By chance alone it is some (cells-1)·(1/n+1/m) (Yurdakul, "Statistical
// Properties of Population Stability Index", 2018).
func psi(reference, current []uint64) (index float64) {
	n, m := float64(sum(reference)), float64(sum(current))
	const least = 1e-4
	for i := range reference {
		p, q := float64(reference[i])/n, float64(current[i])/m
		if p == 0 && q == 0 {
			continue
		}
		if p == 0 {
			p = least
		}
		if q == 0 {
			q = least
		}
		index += (q - p) * math.Log(q/p)
	}
	return index
}

// js is the Jensen–Shannon distance of two sets of counts: the root of the divergence (Lin,
// "Divergence measures based on the Shannon entropy", 1991), which is a metric (Endres and
// Schindelin, 2003). With natural logarithms it is at most 0.83.
func js(reference, current []uint64) float64 {
	n, m := float64(sum(reference)), float64(sum(current))
	part := func(p, mean float64) float64 {
		if p == 0 {
			return 0
		}
		return p * math.Log(p/mean)
	}
	var d float64
	for i := range reference {
		p, q := float64(reference[i])/n, float64(current[i])/m
		d += part(p, (p+q)/2) + part(q, (p+q)/2)
	}
	return math.Sqrt(max(d/2, 0))
}

// ks is the two-sample statistic of Kolmogorov and Smirnov, the greatest distance of the two
// distribution functions, at the ends of cells. It is at most what it is at all numbers.
func ks(reference, current []uint64) (d float64) {
	n, m := float64(sum(reference)), float64(sum(current))
	var p, q uint64
	for i := range reference {
		p, q = p+reference[i], q+current[i]
		d = max(d, math.Abs(float64(p)/n-float64(q)/m))
	}
	return d
}

// kolmogorov gives the chance that the statistic ks of n and m values is at least d, by its
// limit (Kolmogorov, 1933; Smirnov, 1948). In samples that are not infinite, of values in bins
// or with ties, the chance is less: the error is on the side of no alarm.
func kolmogorov(d, n, m float64) float64 {
	x := d * math.Sqrt(n*m/(n+m))
	if x < 0.2 {
		return 1 // to 12 digits
	}
	if x < 1 { // the series that converges here
		var s float64
		for k := 1.0; k < 20; k += 2 {
			s += math.Exp(-k * k * math.Pi * math.Pi / (8 * x * x))
		}
		return 1 - s*math.Sqrt(2*math.Pi)/x
	}
	var s float64
	for k := 1.0; k < 20; k++ {
		s += math.Exp(-2*k*k*x*x) * (1 - 2*math.Mod(k+1, 2))
	}
	return min(2*s, 1)
}

// chiSquare is Pearson's test of homogeneity of two sets of counts (Pearson, 1900; Cochran,
// "Some methods for strengthening the common χ² tests", 1954). Cells of which less than
// least are expected in either set become one, together with the last cell, of values that
// are not listed: so which cells are joined depends on both sets alike, and not on what was
// seen first.
func chiSquare(reference, current []uint64) (x, p float64) {
	const least = 5
	n, m := float64(sum(reference)), float64(sum(current))
	type cell struct{ p, q float64 }
	var cells []cell
	var rest cell
	last := len(reference) - 1
	for i := range reference {
		c := cell{float64(reference[i]), float64(current[i])}
		if i == last || (c.p+c.q)*min(n, m)/(n+m) < least {
			rest = cell{rest.p + c.p, rest.q + c.q}
		} else {
			cells = append(cells, c)
		}
	}
	if both := rest.p + rest.q; both*min(n, m)/(n+m) >= least {
		cells = append(cells, rest)
	} else if both > 0 && len(cells) > 0 {
		i := 0
		for j, c := range cells {
			if c.p+c.q < cells[i].p+cells[i].q {
				i = j
			}
		}
		cells[i] = cell{cells[i].p + rest.p, cells[i].q + rest.q}
	}
	if len(cells) < 2 {
		return 0, 1
	}
	for _, c := range cells {
		d := c.p*m - c.q*n
		x += d * d / (n * m * (c.p + c.q))
	}
	return x, gammaQ(float64(len(cells)-1)/2, x/2)
}

// gammaQ is the regularized upper incomplete gamma function: by its series below a+1, by its
// continued fraction above (Abramowitz and Stegun, 6.5.29 and 6.5.31, the latter evaluated
// as Lentz does).
func gammaQ(a, x float64) float64 {
	if x <= 0 {
		return 1
	}
	l, _ := math.Lgamma(a)
	front := math.Exp(a*math.Log(x) - x - l)
	const digits = 1e-15
	if x < a+1 {
		term := 1 / a
		s := term
		for k := a + 1; term > s*digits; k++ {
			term *= x / k
			s += term
		}
		return max(1-front*s, 0)
	}
	const tiny = 1e-300
	b := x + 1 - a
	c, d := 1/tiny, 1/b
	f := d
	for k := 1.0; k < 1e6; k++ {
		an := k * (a - k)
		b += 2
		d, c = an*d+b, b+an/c
		if math.Abs(d) < tiny {
			d = tiny
		}
		if math.Abs(c) < tiny {
			c = tiny
		}
		d = 1 / d
		f *= c * d
		if math.Abs(c*d-1) < digits {
			break
		}
	}
	return front * f
}

// fisher gives the chance that of a+x marked rows among n+m at least x are among the m, when
// they lie at random: the one-sided exact test (Fisher, 1935).
func fisher(a, n, x, m uint64) float64 {
	if x == 0 {
		return 1
	}
	// The tail of the hypergeometric distribution from x up. Where it begins below the
	// mean, it is what is left of the tail below.
	k, all := float64(a)+float64(x), float64(n)+float64(m)
	mean := k * float64(m) / all
	if v := mean * float64(n) / all * (all - k) / (all - 1); v > 1e6 { // then it is as good as normal
		return math.Erfc((float64(x)-0.5-mean)/math.Sqrt(2*v)) / 2
	}
	if float64(x) <= mean {
		return max(1-hypergeometric(float64(x)-1, k, float64(m), all, -1), 0)
	}
	return min(hypergeometric(float64(x), k, float64(m), all, 1), 1)
}

// hypergeometric sums the chances of x, and of what is beyond it in that direction, of k
// marked ones among all when m are drawn.
func hypergeometric(x, k, m, all, direction float64) float64 {
	choose := func(n, k float64) float64 {
		a, _ := math.Lgamma(n + 1)
		b, _ := math.Lgamma(k + 1)
		c, _ := math.Lgamma(n - k + 1)
		return a - b - c
	}
	low, high := max(0, k+m-all), min(k, m)
	if x < low || x > high {
		return 0
	}
	term := math.Exp(choose(k, x) + choose(all-k, m-x) - choose(all, m))
	s := term
	for ; term > s*1e-16; s += term {
		if direction > 0 {
			term *= (k - x) * (m - x) / ((x + 1) * (all - k - m + x + 1))
		} else {
			term *= x * (all - k - m + x) / ((k - x + 1) * (m - x + 1))
		}
		x += direction
	}
	return s
}

// fisherEither tests in both directions, as twice the smaller chance.
func fisherEither(a, n, x, m uint64) float64 {
	return min(2*min(fisher(a, n, x, m), fisher(x, m, a, n)), 1)
}

// holm adjusts p-values: those that come out at most alpha can all be called significant, and
// the chance that any of them is wrong is at most alpha, however they depend on each other
// (Holm, "A simple sequentially rejective multiple test procedure", 1979).
func holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	adjusted := make([]float64, len(p))
	var most float64
	for i, at := range order {
		most = max(most, min(p[at]*float64(len(p)-i), 1))
		adjusted[at] = most
	}
	return adjusted
}

package evaluation

import (
	"math"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// blocksMost is how many blocks are told apart: neighbours are joined until there are no more. More tell hardly more.
const blocksMost = 60

// blocksOf tells for each row which block of time it is of, numbered from 0 in the order of time, and how wide they are.
func blocksOf(micros []int64, width time.Duration) (block []int, n int, as time.Duration) {
	if len(micros) == 0 {
		return nil, 0, width
	}
	for {
		number := map[int64]int{}
		var starts []int64
		for _, t := range micros {
			start := floor(t, width.Microseconds())
			if _, known := number[start]; !known {
				number[start] = 0
				starts = append(starts, start)
			}
		}
		if len(starts) > blocksMost {
			width *= 2
			continue
		}
		slices.Sort(starts)
		for i, start := range starts {
			number[start] = i
		}
		block = make([]int, len(micros))
		for i, t := range micros {
			block[i] = number[floor(t, width.Microseconds())]
		}
		return block, len(starts), width
	}
}

func floor(t, by int64) int64 {
	n := t / by
	if t%by < 0 {
		n--
	}
	return n
}

// comparison is two arms over the same rows.
type comparison struct {
	spec                quality.Spec
	truths              []quality.Truth
	candidate, champion []quality.Answer // nil: there is no such arm
	block               []int            // of each row
	blocks              int
}

// unsmooth are the metrics whose spread can't be told by leaving blocks out: quantiles, and what is overrated by chance.
var unsmooth = []string{"median_absolute_error", "absolute_error_p90", "calibration_error"}

// measure gives metrics of some rows. Spreads are those of the jackknife that leaves out one block of time after the other: rows of a
// day share its weather, and as many as they are, they tell less than as many days would. It takes blocks as independent of each
// other, and rows within a block as anything (clusters, as in MacKinnon, Nielsen, Webb, "Fast and reliable jackknife and bootstrap
// methods for cluster-robust inference", 2023, their CV3; Tukey 1958). An interval is Student's with one degree of freedom less than there are blocks. A
// difference is taken of both arms with the same blocks left out, which makes it paired, of any metric.
//
// chance is that of each side of an interval. only names the metric that is wanted; "": all.
func (c *comparison) measure(rows []int, only string, chance float64) ([]modelcard.Measured, int, error) {
	a, used, err := c.arm(c.candidate, rows)
	if err != nil {
		return nil, 0, err
	}
	b, _, err := c.arm(c.champion, rows)
	if err != nil {
		return nil, 0, err
	}
	var all []modelcard.Measured
	for _, about := range quality.Metrics(c.spec.Task) {
		if only != "" && about.Name != only || about.Name == "coverage" || about.Better == quality.Neither || delays(about.Name) {
			continue
		}
		m := modelcard.Measured{Metric: about.Name, Better: about.Better}
		smooth := !slices.Contains(unsmooth, about.Name)
		of := func(value func(i int) (float64, bool)) *quality.Metric { // of arms with block i left out; -1: with none
			whole, ok := value(-1)
			if !ok {
				return nil
			}
			metric := &quality.Metric{Value: whole, N: int64(len(rows))}
			if metric.Interval = jackknife(whole, used, chance, value); !smooth {
				metric.Interval = nil
			}
			return metric
		}
		candidate := of(func(i int) (float64, bool) { return a.value(about.Name, i) })
		if candidate == nil {
			continue
		}
		m.Candidate = *candidate
		m.Champion = of(func(i int) (float64, bool) { return b.value(about.Name, i) })
		if m.Champion != nil && (about.Better == quality.Higher || about.Better == quality.Lower) {
			sign := 1.0
			if about.Better == quality.Higher {
				sign = -1
			}
			m.Worse = of(func(i int) (float64, bool) {
				x, ok := a.value(about.Name, i)
				y, too := b.value(about.Name, i)
				return sign * (x - y), ok && too
			})
		}
		all = append(all, m)
	}
	return all, used, nil
}

// delays tells whether a metric is of how late outcomes came, of which a holdout says nothing.
func delays(name string) bool { return len(name) > 6 && name[:6] == "label_" }

// reports are those of an arm: of all blocks, and without each of them.
type reports struct {
	whole   *quality.Report
	without []*quality.Report
}

func (r *reports) value(metric string, without int) (float64, bool) {
	if r == nil {
		return 0, false
	}
	of := r.whole
	if without >= 0 {
		of = r.without[without]
	}
	m, ok := of.Metrics[metric]
	return m.Value, ok
}

// arm counts the answers of an arm to rows, and tells how many blocks they are of.
func (c *comparison) arm(answers []quality.Answer, rows []int) (*reports, int, error) {
	if answers == nil {
		return nil, 0, nil
	}
	states := make([]*quality.State, c.blocks)
	for _, row := range rows {
		s := &states[c.block[row]]
		if *s == nil {
			var err error
			if *s, err = quality.NewState(c.spec); err != nil {
				return nil, 0, err
			}
		}
		if err := (*s).Add(answers[row], c.truths[row], 0); err != nil {
			return nil, 0, err
		}
	}
	states = slices.DeleteFunc(states, func(s *quality.State) bool { return s == nil })
	n := len(states)
	// before[i] has what is before block i, after[i] what is from it on.
	before, after := make([]*quality.State, n+1), make([]*quality.State, n+1)
	join := func(parts ...*quality.State) (*quality.State, error) {
		sum, err := quality.NewState(c.spec)
		for _, p := range parts {
			if err == nil {
				err = sum.Merge(p)
			}
		}
		return sum, err
	}
	var err error
	if before[0], err = join(); err != nil {
		return nil, 0, err
	}
	after[n] = before[0]
	for i := range n {
		if before[i+1], err = join(before[i], states[i]); err != nil {
			return nil, 0, err
		}
		if after[n-1-i], err = join(after[n-i], states[n-1-i]); err != nil {
			return nil, 0, err
		}
	}
	r := &reports{whole: before[n].Report(), without: make([]*quality.Report, n)}
	for i := range n {
		without, err := join(before[i], after[i+1])
		if err != nil {
			return nil, 0, err
		}
		r.without[i] = without.Report()
	}
	return r, n, nil
}

// blocksLeast is how few blocks tell a spread.
const blocksLeast = 5

// jackknife gives the interval of a value of n blocks; nil: there is none.
func jackknife(whole float64, n int, chance float64, value func(without int) (float64, bool)) *quality.Interval {
	if n < blocksLeast {
		return nil
	}
	sum := 0.0
	for i := range n {
		v, ok := value(i)
		if !ok {
			return nil
		}
		sum += (v - whole) * (v - whole)
	}
	half := student(chance, float64(n-1)) * math.Sqrt(sum*float64(n-1)/float64(n))
	if math.IsNaN(half) || math.IsInf(half, 0) {
		return nil
	}
	return &quality.Interval{Low: whole - half, High: whole + half}
}

// student is the value that Student's t with 4 degrees of freedom or more exceeds with a chance, by the expansion of Abramowitz and Stegun
// 26.7.5: within 2 % for 4 degrees and a chance of 0.001, and better for more.
func student(chance, freedom float64) float64 {
	z := math.Sqrt2 * math.Erfinv(1-2*chance)
	z2 := z * z
	g1 := (z2 + 1) / 4
	g2 := ((5*z2+16)*z2 + 3) / 96
	g3 := (((3*z2+19)*z2+17)*z2 - 15) / 384
	g4 := ((((79*z2+776)*z2+1482)*z2-1920)*z2 - 945) / 92160
	return z * (1 + (g1+(g2+(g3+g4/freedom)/freedom)/freedom)/freedom)
}

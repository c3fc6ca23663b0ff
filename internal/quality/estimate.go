package quality

import (
	"math"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Estimate tells how right answers probably are, while their outcomes are not known.
type Estimate struct {
	Predicted int64 `json:"predicted"` // answers that it is about
	// Calibrated is how many outcomes taught what scores mean; 0 where there were too few, and
	// scores were taken at their word.
	Calibrated int64             `json:"calibrated"`
	Metrics    map[string]Metric `json:"metrics"` // by the names of a Report; N is how many answers
}

// The least that scores are calibrated from.
const (
	minOutcomes = 100
	minEach     = 10 // of yes, and of no
)

// Estimate foretells the Report of the answers that s was told of by Predicted, from their scores
// alone, once all their outcomes are in. It is the idea of NannyML's confidence-based
// performance estimation: if a score, calibrated, is the chance of yes, then scores tell how
// many answers of each kind are right (docs of NannyML, "How it works: Performance
// Estimation"; Kivimäki, Białek, Nurminen and Kuberski 2024, arXiv 2407.08649).
//
// What scores mean is learnt from the outcomes of the state labelled, which may be nil or s
// itself: by isotonic regression (pool adjacent violators) over groups of scores.
//
// An interval holds what the Report will say with 95 %, by the delta method: outcomes
// are random given their chances, and chances are known only as well as the outcomes
// that taught them tell. It does not know of a change in what scores mean (concept drift):
// that only outcomes tell. Only binary answers are estimated; others are Invalid.
func (s *State) Estimate(labelled *State) (*Estimate, error) {
	if s.spec.Task != Binary || labelled != nil && labelled.spec.Task != Binary {
		return nil, fault.New(fault.Invalid, "quality without outcomes is estimated of binary answers only, not of %s", s.spec)
	}
	c := &calibrator{}
	if labelled != nil {
		c.learn(labelled.dense(wasYes), labelled.dense(wasNo))
	}
	e := &Estimate{Calibrated: int64(c.outcomes), Metrics: map[string]Metric{}}

	// p[said][i] is how many answers are in bin i; chance[i] that one of them is yes.
	var n [2][scoreBins]float64
	var chance, all, yes, no [scoreBins]float64
	var size, said, rate, hits float64
	for i := range chance {
		chance[i] = c.chance(i)
	}
	for k := range n {
		for _, b := range s.scores[k][made] {
			if b.n <= 0 {
				continue
			}
			v := float64(b.n)
			n[k][b.at] = v
			all[b.at] += v
			yes[b.at] += v * chance[b.at]
			no[b.at] += v * (1 - chance[b.at])
			rate += v * chance[b.at]
			size += v
			if k == 1 {
				said += v
				hits += v * chance[b.at]
			}
		}
	}
	if e.Predicted = int64(size); size == 0 {
		return e, nil
	}

	// deviation is that of a metric whose slope tells how it changes with one more yes
	// among the answers of bin i that said k.
	deviation := func(slope func(i, k int) float64) float64 {
		v := 0.0
		shift := make([]float64, len(c.blocks))
		for k := range n {
			for i, m := range n[k] {
				if m == 0 {
					continue
				}
				g := slope(i, k)
				v += g * g * m * chance[i] * (1 - chance[i])
				for _, w := range c.weights(i) {
					if w.part > 0 {
						shift[w.block] += g * m * w.part
					}
				}
			}
		}
		for i, b := range c.blocks {
			v += shift[i] * shift[i] * b.careful * (1 - b.careful) / b.n
		}
		return math.Sqrt(v)
	}
	// share is a metric between 0 and 1, a share of so many answers. These come whole, which
	// matters where few of them are expected: the interval is half a step wider.
	share := func(name string, value, of float64, slope func(i, k int) float64) {
		i := between0and1(value, deviation(slope), size)
		if step := 0.5 / of; i != nil {
			i = &Interval{max(0, i.Low-step), min(1, i.High+step)}
		}
		put(e.Metrics, name, Metric{value, int64(size), i}, true)
	}
	loss := func(name string, value float64, slope func(i, k int) float64) {
		half := z * deviation(slope)
		put(e.Metrics, name, Metric{value, int64(size), &Interval{max(0, value-half), value + half}}, true)
	}

	share("accuracy", (hits+(size-said)-(rate-hits))/size, size, func(_, k int) float64 { return float64(2*k-1) / size })
	share("base_rate", rate/size, size, func(_, _ int) float64 { return 1 / size })
	if said > 0 {
		share("precision", hits/said, said, func(_, k int) float64 { return float64(k) / said })
	}
	if rate > 0 {
		share("recall", hits/rate, rate, func(_, k int) float64 { return (float64(k) - hits/rate) / rate })
	}
	if f := 2 * hits / (rate + said); rate+said > 0 {
		share("f1", f, (rate+said)/2, func(_, k int) float64 { return (2*float64(k) - f) / (rate + said) })
	}
	if a, ok := auc(yes[:], no[:]); ok {
		var places [scoreBins]float64 // noes below less yeses above, halves of the bin counting
		below, above := 0.0, rate
		for i := range places {
			above -= yes[i]
			places[i] = below + no[i]/2 - above - yes[i]/2
			below += no[i]
		}
		rest := size - rate
		share("auc", a.Value, rate*rest, func(i, _ int) float64 {
			return places[i]/(rate*rest) - a.Value*(1/rate-1/rest)
		})
	}
	var log, square float64
	for i, v := range all {
		p, q := scoreMiddle(i), chance[i]
		log -= v * (q*math.Log(p) + (1-q)*math.Log1p(-p))
		square += v * (q*(1-p)*(1-p) + (1-q)*p*p)
	}
	loss("log_loss", log/size, func(i, _ int) float64 {
		p := scoreMiddle(i)
		return (math.Log1p(-p) - math.Log(p)) / size
	})
	loss("brier", square/size, func(i, _ int) float64 { return (1 - 2*scoreMiddle(i)) / size })
	return e, nil
}

// calibrator tells the chance of yes for a bin of scores. With no blocks it is the score.
type calibrator struct {
	blocks   []block // from low scores to high, their chances never falling
	outcomes float64
}

// block is neighbouring bins, and the share of yes among their outcomes.
type block struct {
	middle float64 // the mean bin of its outcomes
	n, yes float64
	chance float64
	// careful is the chance that tells how sure it is: never 0 or 1, of which few outcomes are no proof.
	careful float64
}

// weight is the part that a block has in the chance of a bin.
type weight struct {
	block int
	part  float64
}

func (c *calibrator) learn(yes, no []float64) {
	positives, negatives := total(yes), total(no)
	if positives < minEach || negatives < minEach || positives+negatives < minOutcomes {
		return
	}
	c.outcomes = positives + negatives

	// Groups of scores keep isotonic regression from following each outcome, which would have scores
	// tell yes from no better than they do.
	least := max(5, math.Sqrt(c.outcomes)/4)
	var groups []block
	open := block{}
	for i := range yes {
		n := yes[i] + no[i]
		open.middle, open.n, open.yes = open.middle+n*float64(i), open.n+n, open.yes+yes[i]
		if open.n >= least {
			groups = append(groups, open)
			open = block{}
		}
	}
	if last := len(groups) - 1; last >= 0 {
		groups[last] = groups[last].with(open)
	}
	for _, g := range groups {
		for last := len(c.blocks) - 1; last >= 0 && c.blocks[last].yes*g.n >= g.yes*c.blocks[last].n; last-- {
			g = c.blocks[last].with(g)
			c.blocks = c.blocks[:last]
		}
		c.blocks = append(c.blocks, g)
	}
	for i := range c.blocks {
		b := &c.blocks[i]
		b.middle /= b.n
		b.chance, b.careful = b.yes/b.n, (b.yes+0.5)/(b.n+1)
	}
}

func (b block) with(o block) block {
	return block{middle: b.middle + o.middle, n: b.n + o.n, yes: b.yes + o.yes}
}

func (c *calibrator) chance(at int) float64 {
	if len(c.blocks) == 0 {
		return scoreMiddle(at)
	}
	p := 0.0
	for _, w := range c.weights(at) {
		p += w.part * c.blocks[w.block].chance
	}
	return p
}

// weights are those of the blocks around a bin: between their middles, chances are on a line.
func (c *calibrator) weights(at int) [2]weight {
	if len(c.blocks) == 0 {
		return [2]weight{}
	}
	i := 0
	for i < len(c.blocks) && c.blocks[i].middle <= float64(at) {
		i++
	}
	if i == 0 || i == len(c.blocks) {
		return [2]weight{{max(i-1, 0), 1}}
	}
	low, high := c.blocks[i-1].middle, c.blocks[i].middle
	part := (float64(at) - low) / (high - low)
	return [2]weight{{i - 1, 1 - part}, {i, part}}
}

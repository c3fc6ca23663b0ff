package train

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/gonum/optimize"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// linear is a model whose answer is made of sums of weights: of the logistic function of one sum (binary), of the softmax of
// one for each class, or the sum itself (regression).
type linear struct {
	task    quality.Task
	e       *encoding
	sums    int       // how many
	weights []float64 // of sum k: weights[k*(e.width+1):], the one of all rows last
	l2      float64
	loss    float64 // on the newest rows to learn from, without having learnt from them
}

// options are what a definition may say about a built-in trainer.
type options struct {
	below float64   // numbers below it are missing
	least int       // how often a word has to be there to have a weight of its own
	l2    []float64 // what weights' squares may cost, to choose from, from much to little
}

// l2s are for standardised numbers: at the first hardly anything is learnt, at the last nothing is held back.
var l2s = []float64{1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6}

// tryMost is how many rows are learnt from to choose one of l2s.
const tryMost = 50_000

// weightsMost is how many weights a model may have.
const weightsMost = 2_000_000

// fit learns from rows that are in the order of time. How much weights may cost is chosen by the newest fifth of them, by how well what is
// learnt from the others does there; then all of them teach.
func fit(ctx context.Context, task quality.Task, classes int, t *table, o *options, progress func(done, total int)) (*linear, error) {
	m := &linear{task: task, sums: 1}
	if task == quality.Multiclass {
		m.sums = classes
	}
	older := t.n - max(1, t.n/5)
	if older < 1 {
		return nil, fault.New(fault.Invalid, "there are %d rows to learn from, too few", t.n)
	}
	y := number{scale: 1}
	if task == quality.Regression { // or steps would be of any length
		y = measure(t.labels, math.Inf(-1))
		scaled := *t
		scaled.labels = make([]float64, t.n)
		for i, label := range t.labels {
			scaled.labels[i] = (label - y.mean) / y.scale
		}
		t = &scaled
	}
	m.e = t.learn(o.below, o.least)
	all := m.e.encode(t)
	m.weights = make([]float64, m.sums*(m.e.width+1))
	if len(m.weights) > weightsMost {
		return nil, fault.New(fault.Invalid, "a model of %d classes and %d different inputs has more than %d weights", m.sums, m.e.width, weightsMost)
	}
	// Some of the rows tell as well as all what weights may cost, which is so much together, and less of each the more rows there are.
	teach, check := all.part(0, older).some(tryMost), all.part(older, t.n).some(tryMost)
	var best []float64
	m.loss = math.Inf(1)
	for i, l2 := range o.l2 {
		progress(i, len(o.l2)+1)
		if err := m.descend(ctx, teach, l2); err != nil {
			return nil, err
		}
		loss, err := m.lossOf(ctx, check, nil)
		if err != nil {
			return nil, err
		}
		if loss > m.loss*(1+1e-3) { // it only becomes worse
			break
		}
		if loss < m.loss {
			m.loss, m.l2, best = loss, l2*float64(teach.n)/float64(t.n), slices.Clone(m.weights)
		}
	}
	progress(len(o.l2), len(o.l2)+1)
	if best != nil {
		m.weights = best
	}
	if err := m.descend(ctx, all, m.l2); err != nil {
		return nil, err
	}
	if task == quality.Regression {
		for i := range m.weights {
			m.weights[i] *= y.scale
		}
		m.weights[len(m.weights)-1] += y.mean
		m.loss *= y.scale * y.scale
	}
	return m, nil
}

// descend finds the weights with the least loss by L-BFGS (Liu and Nocedal, 1989), from those that there are on.
func (m *linear) descend(ctx context.Context, d *encoded, l2 float64) error {
	var at, gradient []float64 // of the last place that was looked at
	var loss float64
	var failed error
	look := func(x []float64) {
		if at != nil && equal(at, x) {
			return
		}
		at, gradient = append(at[:0], x...), append(gradient[:0], x...)
		clear(gradient)
		m.weights = at
		loss, failed = m.lossOf(ctx, d, gradient)
		for k := range m.sums {
			for i := range m.e.width { // not the one of all rows
				i += k * (m.e.width + 1)
				loss += l2 / 2 * x[i] * x[i]
				gradient[i] += l2 * x[i]
			}
		}
	}
	problem := optimize.Problem{
		Func: func(x []float64) float64 { look(x); return loss },
		Grad: func(to, x []float64) { look(x); copy(to, gradient) },
		Status: func() (optimize.Status, error) {
			if failed != nil {
				return optimize.Failure, failed
			}
			return optimize.NotTerminated, nil
		},
	}
	settings := &optimize.Settings{
		GradientThreshold: 1e-6, MajorIterations: 1000,
		Converger: &optimize.FunctionConverge{Absolute: 1e-10, Relative: 1e-8, Iterations: 8},
	}
	result, err := optimize.Minimize(problem, append([]float64(nil), m.weights...), settings, &optimize.LBFGS{Store: 10})
	if failed != nil {
		return failed
	}
	if result == nil || err != nil && !stalled(err) {
		return fault.Wrap(fault.Internal, err, "the weights can't be found")
	}
	for _, x := range result.X {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fault.New(fault.Invalid, "the rows have numbers that can't be reckoned with")
		}
	}
	m.weights = append([]float64(nil), result.X...)
	return nil
}

// stalled tells whether a search ended since no step is small enough to be one: the place is as good as any can be found.
func stalled(err error) bool {
	return errors.Is(err, optimize.ErrLinesearcherFailure) || errors.Is(err, optimize.ErrNoProgress) || errors.Is(err, optimize.ErrLinesearcherBound)
}

func equal(a, b []float64) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// chunks is into how many parts rows are cut, always the same ones, so that sums are the same on any machine.
const chunks = 16

// lossOf is the mean loss of rows, without what weights cost; its slope is added to gradient, unless that is nil.
func (m *linear) lossOf(ctx context.Context, d *encoded, gradient []float64) (float64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var losses [chunks]float64
	var slopes [chunks][]float64
	group := errgroup.Group{}
	group.SetLimit(runtime.GOMAXPROCS(0))
	for c := range chunks {
		group.Go(fault.Guard(func() error {
			if gradient != nil {
				slopes[c] = make([]float64, len(gradient))
			}
			losses[c] = m.chunk(d.part(c*d.n/chunks, (c+1)*d.n/chunks), slopes[c])
			return nil
		}))
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	loss, n := 0.0, float64(max(d.n, 1))
	for c := range chunks {
		loss += losses[c] / n
		for i, s := range slopes[c] {
			gradient[i] += s / n
		}
	}
	return loss, nil
}

// chunk is the loss of rows, summed up.
func (m *linear) chunk(d *encoded, slope []float64) (loss float64) {
	sums := make([]float64, m.sums)
	for i := range d.n {
		m.add(d, i, sums)
		y := d.labels[i]
		// From here on sums are the slope of the loss by each of them.
		switch m.task {
		case quality.Binary:
			s := sums[0]
			loss += max(s, 0) - s*y + math.Log1p(math.Exp(-math.Abs(s)))
			sums[0] = sigmoid(s) - y
		case quality.Multiclass:
			softmax(sums)
			if y < 0 {
				continue
			}
			loss -= math.Log(max(sums[int(y)], 1e-300))
			sums[int(y)]--
		default:
			sums[0] -= y
			loss += sums[0] * sums[0] / 2
		}
		if slope != nil {
			m.spread(d, i, sums, slope)
		}
	}
	return loss
}

// add sums up the weights of a row.
func (m *linear) add(d *encoded, i int, sums []float64) {
	w, v, width := len(d.e.numbers), len(d.e.texts), d.e.width
	for k := range sums {
		weights := m.weights[k*(width+1) : (k+1)*(width+1)]
		sum := weights[width]
		for j, z := range d.numbers[i*w : (i+1)*w] {
			if math.IsNaN(z) {
				sum += weights[w+j]
			} else {
				sum += weights[j] * z
			}
		}
		for _, place := range d.places[i*v : (i+1)*v] {
			sum += weights[place]
		}
		sums[k] = sum
	}
}

// spread adds what a row does to the slope by each weight.
func (m *linear) spread(d *encoded, i int, by, slope []float64) {
	w, v, width := len(d.e.numbers), len(d.e.texts), d.e.width
	for k, s := range by {
		slope := slope[k*(width+1) : (k+1)*(width+1)]
		slope[width] += s
		for j, z := range d.numbers[i*w : (i+1)*w] {
			if math.IsNaN(z) {
				slope[w+j] += s
			} else {
				slope[j] += s * z
			}
		}
		for _, place := range d.places[i*v : (i+1)*v] {
			slope[place] += s
		}
	}
}

func sigmoid(s float64) float64 {
	if s >= 0 {
		return 1 / (1 + math.Exp(-s))
	}
	e := math.Exp(s)
	return e / (1 + e)
}

// softmax makes probabilities of sums.
func softmax(sums []float64) {
	most := math.Inf(-1)
	for _, s := range sums {
		most = max(most, s)
	}
	total := 0.0
	for k, s := range sums {
		sums[k] = math.Exp(s - most)
		total += sums[k]
	}
	for k := range sums {
		sums[k] /= total
	}
}

// answers gives what the model says of each row: a probability, the probabilities of classes, or an amount. They are valid until the next one.
func (m *linear) answers(d *encoded, each func(i int, answer []float64) error) error {
	sums := make([]float64, m.sums)
	for i := range d.n {
		m.add(d, i, sums)
		switch m.task {
		case quality.Binary:
			sums[0] = sigmoid(sums[0])
		case quality.Multiclass:
			softmax(sums)
		}
		if err := each(i, sums); err != nil {
			return err
		}
	}
	return nil
}

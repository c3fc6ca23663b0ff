package quality

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// State is what is kept of answers and outcomes. Some 1,900 bins of scores, 4,100 of
// errors and of delays, and 101² pairs of classes at most are in it, so that it never
// grows beyond some 1 MB (a State of scores takes 200 KB); one in use is much smaller.
type State struct {
	spec Spec
	made int64 // answers told by Predicted
	n    int64 // outcomes

	delays histogram // seconds from answer to outcome
	sums   [sumCount]sum

	// Binary: scores by what was said (no, yes), and of them all that were made, those
	// whose outcome was no, and those where it was yes.
	scores [2][3]histogram

	// Classifiers: how sure answers were, in ten bins, and how often they were right.
	calibration [calibrationBins]calibrationBin

	// Multiclass.
	classes   []string       // those told apart, in order
	confusion map[pair]int64 // outcomes, by what came true and what was said
	right     int64
	full      int64 // of n, those with the probability of what came true

	// Regression.
	errors  histogram // without sign
	nonzero int64     // of n, those that a relative error can be told of
}

// What a state has of scores.
const (
	made = iota
	wasNo
	wasYes
)

const calibrationBins = 10

type calibrationBin struct {
	n, hits int64
	p       sum
}

// pair is two classes; "" stands for all that are not told apart.
type pair struct{ truth, said string }

// The sums, over outcomes. A classifier has the first four, and difference if it is binary.
const (
	logLoss = iota
	logLoss2
	brier
	brier2
	difference // said - came true
	difference2
	absolute
	squared2
	relative
	relative2
	pinball
	pinball2
	y1
	y2
	y3
	y4
	squaredY1
	squaredY2
	sumCount
)

// epsilon is how near to 0 a probability may come in the log loss: float64's
// resolution, as scikit-learn's log_loss has it.
const epsilon = 0x1p-52

// NewState makes an empty state, of a spec that is valid.
func NewState(spec Spec) (*State, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return &State{spec: spec.whole()}, nil
}

// Spec is how the state judges, with all defaults told.
func (s *State) Spec() Spec { return s.spec }

// Counts tells how many answers Predicted was told of, and how many outcomes there are.
// Either may be negative, in a state that takes back what another has.
func (s *State) Counts() (predicted, outcomes int64) { return s.made, s.n }

// Predicted takes an answer as made, once, whether or not its outcome comes later. An answer
// that Check refuses changes nothing.
func (s *State) Predicted(a Answer) error {
	if err := s.spec.Check(a); err != nil {
		return err
	}
	s.made++
	if s.spec.Task == Binary {
		said, p := s.say(&a)
		s.scores[said][made].add(scoreBin(p), 1)
	}
	return nil
}

// Add takes the outcome of an answer, and how long it took to come (less than nothing is
// nothing). What Check or ParseTruth would refuse changes nothing.
func (s *State) Add(a Answer, t Truth, delay time.Duration) error { return s.change(&a, &t, delay, 1) }

// Remove takes back what Add did with the same arguments, here or in a state that
// this one will merge with.
func (s *State) Remove(a Answer, t Truth, delay time.Duration) error {
	return s.change(&a, &t, delay, -1)
}

func (s *State) change(a *Answer, t *Truth, delay time.Duration, by int64) error {
	if err := s.spec.Check(*a); err != nil {
		return err
	}
	if err := s.spec.checkTruth(*t); err != nil {
		return err
	}
	s.n += by
	s.delays.add(logBin(delay.Seconds()), by)
	switch s.spec.Task {
	case Binary:
		s.changeBinary(a, t.Yes, by)
	case Multiclass:
		s.changeMulticlass(a, t.Class, by)
	case Regression:
		s.changeRegression(a.Number, t.Number, by)
	}
	return nil
}

// say is what a binary answer says, and its probability.
func (s *State) say(a *Answer) (said int, p float64) {
	p = unit01(a.Number)
	if a.Decision == Yes || a.Decision == ByThreshold && p >= s.spec.Threshold {
		said = 1
	}
	return said, p
}

func (s *State) changeBinary(a *Answer, yes bool, by int64) {
	said, p := s.say(a)
	y, was, likely := 0.0, wasNo, 1-p
	if yes {
		y, was, likely = 1, wasYes, p
	}
	s.scores[said][was].add(scoreBin(p), by)
	s.calibrate(p, yes, by)
	s.lose(likely, (p-y)*(p-y), by)
	s.sums[difference].add(float64(by) * (p - y))
}

func (s *State) changeMulticlass(a *Answer, truth string, by int64) {
	if a.Class == truth {
		s.right += by
	}
	key := pair{s.known(truth), s.known(a.Class)}
	if s.confusion[key] += by; s.confusion[key] == 0 {
		delete(s.confusion, key)
	}
	if p, known := a.probabilityOf(a.Class); known {
		s.calibrate(p, a.Class == truth, by)
	}
	if len(a.Probabilities) == 0 {
		return
	}
	likely, _ := a.probabilityOf(truth)
	square := (1-likely)*(1-likely) - likely*likely
	for i := range a.Probabilities {
		p := unit01(a.Probabilities[i].P)
		square += p * p
	}
	s.full += by
	s.lose(likely, square, by)
}

func (s *State) lose(likely, square float64, by int64) {
	loss := logLossOf(likely)
	b := float64(by)
	s.sums[logLoss].add(b * loss)
	s.sums[logLoss2].add(b * loss * loss)
	s.sums[brier].add(b * square)
	s.sums[brier2].add(b * square * square)
}

// logLossOf is that of an answer that gave a probability to what came true.
func logLossOf(likely float64) float64 { return -math.Log(min(max(likely, epsilon), 1-epsilon)) }

func (s *State) calibrate(p float64, hit bool, by int64) {
	c := &s.calibration[min(int(p*calibrationBins), calibrationBins-1)]
	c.n += by
	if hit {
		c.hits += by
	}
	c.p.add(float64(by) * p)
}

func (s *State) changeRegression(said, truth float64, by int64) {
	b := float64(by)
	e := said - truth
	size := math.Abs(e)
	add := func(i int, v float64) { s.sums[i].add(b * v) }
	add(difference, e)
	add(absolute, size)
	add(difference2, e*e)
	add(squared2, e*e*e*e)
	loss := s.spec.Quantile * -e
	if e > 0 {
		loss = (1 - s.spec.Quantile) * e
	}
	add(pinball, loss)
	add(pinball2, loss*loss)
	if r := math.Abs(e / truth); r <= MaxNumber { // else truth is 0, or too near to it
		s.nonzero += by
		add(relative, r)
		add(relative2, r*r)
	}
	s.errors.add(logBin(size), by)

	// The moments of the outcomes about their mean are told by these, which nearly cancel where
	// outcomes lie far from 0.
	y, square := two{truth, 0}, two{b * e * e, 0}
	yy := y.times(y)
	add(y1, truth)
	s.sums[y2].addTwo(two{b, 0}.times(yy))
	s.sums[y3].addTwo(two{b, 0}.times(yy.times(y)))
	s.sums[y4].addTwo(two{b, 0}.times(yy.times(yy)))
	s.sums[squaredY1].addTwo(square.times(y))
	s.sums[squaredY2].addTwo(square.times(yy))
}

// known gives the class itself if it is told apart. Of more than MaxClasses, those
// whose names come first are: which is the same in whatever order they were met, as
// one that was ever pushed out never comes back.
func (s *State) known(class string) string {
	i, found := slices.BinarySearch(s.classes, class)
	switch {
	case found:
		return class
	case i == MaxClasses || class == "":
		return ""
	}
	s.classes = slices.Insert(s.classes, i, class)
	if s.confusion == nil {
		s.confusion = map[pair]int64{}
	}
	if len(s.classes) > MaxClasses {
		last := s.classes[MaxClasses]
		s.classes = s.classes[:MaxClasses]
		for key, n := range s.confusion {
			if key.truth == last || key.said == last {
				delete(s.confusion, key)
				s.confusion[pair{s.known(key.truth), s.known(key.said)}] += n
			}
		}
	}
	return class
}

// Merge adds what o has, and leaves o as it is. States of different specs don't merge:
// that is a Conflict, and changes nothing.
func (s *State) Merge(o *State) error {
	if s.spec != o.spec {
		return fault.New(fault.Conflict, "a state of %s does not merge with one of %s", s.spec, o.spec)
	}
	s.made += o.made
	s.n += o.n
	s.right += o.right
	s.full += o.full
	s.nonzero += o.nonzero
	s.delays.merge(o.delays)
	s.errors.merge(o.errors)
	for i := range s.sums {
		s.sums[i].merge(&o.sums[i])
	}
	for said := range s.scores {
		for i := range s.scores[said] {
			s.scores[said][i].merge(o.scores[said][i])
		}
	}
	for i := range s.calibration {
		c, from := &s.calibration[i], &o.calibration[i]
		c.n += from.n
		c.hits += from.hits
		c.p.merge(&from.p)
	}
	for _, class := range o.classes {
		s.known(class) // so that all that o has seen decides which are told apart
	}
	for key, n := range o.confusion {
		key = pair{s.known(key.truth), s.known(key.said)}
		if s.confusion[key] += n; s.confusion[key] == 0 {
			delete(s.confusion, key)
		}
	}
	return nil
}

// pairs are what is in the confusion matrix, in order.
func (s *State) pairs() []pair {
	keys := make([]pair, 0, len(s.confusion))
	for key, n := range s.confusion {
		if n != 0 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.truth, b.truth), cmp.Compare(a.said, b.said))
	})
	return keys
}

// Package quality tells how right a model's answers were, and how right they probably
// are while their outcomes are not yet known.
//
// A State takes answers and outcomes, of one window, version or slice, and is of
// bounded memory however many it takes. States merge: what they say is the same to
// the last byte in whatever order they were filled and merged, and what is removed
// leaves nothing behind, because sums are exact until they are read. So any instance
// may add to any window, and a corrected outcome takes its earlier contribution
// back: also in a State of its own, which then holds less than nothing.
//
// A Report makes metrics with 95 % confidence intervals of a State. An Estimate makes
// them of answers without outcomes. The package does no I/O and knows nothing of
// models, windows and stores. A State is not safe for concurrent use; all else is.
package quality

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Task is the kind of question that a model answers.
type Task string

// The tasks.
const (
	Binary     Task = "binary"     // is it so? answered by the probability that it is
	Multiclass Task = "multiclass" // which class is it?
	Regression Task = "regression" // how much is it?
)

// The bounds of what a State takes.
const (
	MaxNumber        = 1e70    // of a number and its outcome, so that sums of fourth powers are finite
	MaxClassName     = 256     // bytes of a class's name
	MaxProbabilities = 1 << 12 // of one answer
	MaxClasses       = 100     // told apart by one State
)

// maxOutcome is enough bytes for a class's name, each of its bytes escaped.
const maxOutcome = 2048

// Spec says how answers are judged. What is absent, or 0, has its default.
type Spec struct {
	Task Task `json:"task"`
	// Threshold is the least probability that says yes, of binary answers that don't say it themselves; 0.5.
	Threshold float64 `json:"threshold,omitempty"`
	// Quantile is what a regression foretells, for the quantile loss; 0.5, the median.
	Quantile float64 `json:"quantile,omitempty"`
}

// Validate tells what is wrong with the spec, in one sentence of kind Invalid.
func (s Spec) Validate() error {
	switch {
	case s.Task == "":
		return fault.New(fault.Invalid, "the task is missing, expected binary, multiclass or regression")
	case s.Task != Binary && s.Task != Multiclass && s.Task != Regression:
		return fault.New(fault.Invalid, "the task is %q, expected binary, multiclass or regression", clip(string(s.Task)))
	case s.Threshold != 0 && s.Task != Binary:
		return fault.New(fault.Invalid, "the task %s has no threshold, only binary has one", s.Task)
	case s.Quantile != 0 && s.Task != Regression:
		return fault.New(fault.Invalid, "the task %s has no quantile, only regression has one", s.Task)
	case s.Threshold != 0 && !(s.Threshold > 0 && s.Threshold < 1):
		return fault.New(fault.Invalid, "the threshold is %v, expected a number between 0 and 1", s.Threshold)
	case s.Quantile != 0 && !(s.Quantile > 0 && s.Quantile < 1):
		return fault.New(fault.Invalid, "the quantile is %v, expected a number between 0 and 1", s.Quantile)
	}
	return nil
}

// whole is the spec with its defaults.
func (s Spec) whole() Spec {
	if s.Task == Binary && s.Threshold == 0 {
		s.Threshold = 0.5
	}
	if s.Task == Regression && s.Quantile == 0 {
		s.Quantile = 0.5
	}
	return s
}

// String tells the spec as messages do.
func (s Spec) String() string {
	switch s = s.whole(); s.Task {
	case Binary:
		return "binary answers with threshold " + strconv.FormatFloat(s.Threshold, 'g', -1, 64)
	case Regression:
		return "regression of quantile " + strconv.FormatFloat(s.Quantile, 'g', -1, 64)
	}
	return string(s.Task) + " answers"
}

// Decision is what a binary answer says beside its probability.
type Decision uint8

// The decisions.
const (
	ByThreshold Decision = iota // yes from the spec's threshold on
	No
	Yes
)

// Probability is that of one class.
type Probability struct {
	Class string  `json:"class"`
	P     float64 `json:"p"`
}

// Answer is what a model predicted.
type Answer struct {
	// Number is the probability of yes (binary), what was predicted (regression), or the
	// probability of Class, 0 where that is not known or is among Probabilities (multiclass).
	Number   float64
	Decision Decision // binary
	Class    string   // multiclass: the one that was predicted
	// Probabilities are those of the classes, in any order, where the model gives them; what
	// is not among them has 0.
	Probabilities []Probability
}

// Truth is what came true.
type Truth struct {
	Yes    bool    // binary
	Class  string  // multiclass
	Number float64 // regression
}

// slack is what probabilities may be wrong by: models compute in float32.
const slack = 1e-4

// Check tells what keeps the answer from being judged, in one sentence of kind Invalid.
func (s Spec) Check(a Answer) error {
	switch s.Task {
	case Binary:
		if !isProbability(a.Number) {
			return fault.New(fault.Invalid, "the answer is %v, expected a probability from 0 to 1", a.Number)
		}
		if a.Decision > Yes {
			return fault.New(fault.Invalid, "the answer's decision is %d, expected none, no or yes", a.Decision)
		}
	case Multiclass:
		if err := checkClass("answer", a.Class); err != nil {
			return err
		}
		if !isProbability(a.Number) {
			return fault.New(fault.Invalid, "the answer's probability is %v, expected a number from 0 to 1", a.Number)
		}
		if len(a.Probabilities) > MaxProbabilities {
			return fault.New(fault.Invalid, "the answer gives %d probabilities, expected %d at most", len(a.Probabilities), MaxProbabilities)
		}
		total := 0.0
		for _, p := range a.Probabilities {
			if !isProbability(p.P) {
				return fault.New(fault.Invalid, "the probability of class %q is %v, expected a number from 0 to 1", clip(p.Class), p.P)
			}
			total += p.P
		}
		if total > 1.01 {
			return fault.New(fault.Invalid, "the answer's probabilities add up to %.4g, expected 1", total)
		}
	case Regression:
		return checkNumber("answer", a.Number)
	default:
		return s.Validate()
	}
	return nil
}

func isProbability(p float64) bool { return p >= -slack && p <= 1+slack }

func checkNumber(what string, n float64) error {
	if !(math.Abs(n) <= MaxNumber) {
		return fault.New(fault.Invalid, "the %s is %v, expected a number of at most %v", what, n, float64(MaxNumber))
	}
	return nil
}

func checkClass(what, name string) error {
	switch {
	case name == "":
		return fault.New(fault.Invalid, "the %s's class is empty, expected a name", what)
	case len(name) > MaxClassName:
		return fault.New(fault.Invalid, "the %s's class has %d bytes, expected %d at most", what, len(name), MaxClassName)
	}
	return nil
}

// ParseTruth reads an outcome from a JSON value: of binary tasks true, false, 0, 1 or one of
// these two words in quotes; of multiclass the class's name, or a whole number that is one;
// of regression a number. What it can't read is Invalid.
func (s Spec) ParseTruth(value []byte) (Truth, error) {
	if len(value) > maxOutcome {
		return Truth{}, fault.New(fault.Invalid, "the outcome has %d bytes, expected %d at most", len(value), maxOutcome)
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.InputOffset() < int64(len(bytes.TrimRight(value, " \t\r\n"))) {
		return Truth{}, fault.Wrap(fault.Invalid, err, "the outcome is not a JSON value: %s", clip(string(value)))
	}
	expected := ""
	switch s.Task {
	case Binary:
		switch v := v.(type) {
		case bool:
			return Truth{Yes: v}, nil
		case string:
			if v == "true" || v == "false" {
				return Truth{Yes: v == "true"}, nil
			}
		case json.Number:
			if f, err := v.Float64(); err == nil && (f == 0 || f == 1) {
				return Truth{Yes: f == 1}, nil
			}
		}
		expected = "true, false, 0 or 1"
	case Multiclass:
		switch v := v.(type) {
		case string:
			return Truth{Class: v}, checkClass("outcome", v)
		case json.Number:
			if f, err := v.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
				return Truth{Class: strconv.FormatInt(int64(f), 10)}, nil // 1.0 is class 1 as well
			}
		}
		expected = "a class's name"
	case Regression:
		if n, ok := v.(json.Number); ok {
			f, err := n.Float64()
			if err != nil {
				return Truth{}, fault.New(fault.Invalid, "the outcome is %s, expected a number of at most %v", clip(string(n)), float64(MaxNumber))
			}
			return Truth{Number: f}, checkNumber("outcome", f)
		}
		expected = "a number"
	default:
		return Truth{}, s.Validate()
	}
	return Truth{}, fault.New(fault.Invalid, "the outcome is %s, expected %s", clip(string(bytes.TrimSpace(value))), expected)
}

// Loss tells how far an answer is from what came true: by its log loss where it is told by probabilities, else by its absolute
// error, or as 1 if it is the wrong class. Both are as Check and ParseTruth let them be.
func (s Spec) Loss(a Answer, t Truth) float64 {
	likely := 0.0
	switch {
	case s.Task == Regression:
		return math.Abs(a.Number - t.Number)
	case s.Task == Binary && t.Yes:
		likely = a.Number
	case s.Task == Binary:
		likely = 1 - a.Number
	case len(a.Probabilities) > 0:
		likely, _ = a.probabilityOf(t.Class)
	case a.Class != t.Class:
		return 1
	default:
		return 0
	}
	return logLossOf(likely)
}

// checkTruth tells what keeps an outcome from being taken.
func (s Spec) checkTruth(t Truth) error {
	switch s.Task {
	case Multiclass:
		return checkClass("outcome", t.Class)
	case Regression:
		return checkNumber("outcome", t.Number)
	}
	return nil
}

// clip keeps what a stranger sent from filling a message.
func clip(text string) string {
	if r := []rune(text); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return text
}

// probabilityOf is that of one class; known is false where the answer doesn't tell.
func (a *Answer) probabilityOf(class string) (p float64, known bool) {
	for i := range a.Probabilities {
		if a.Probabilities[i].Class == class {
			return unit01(a.Probabilities[i].P), true
		}
	}
	if class == a.Class && a.Number > 0 {
		return unit01(a.Number), true
	}
	return 0, len(a.Probabilities) > 0
}

func unit01(p float64) float64 { return min(max(p, 0), 1) }

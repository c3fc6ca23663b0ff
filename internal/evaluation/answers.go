package evaluation

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// batch is how many rows a run takes, of a model that takes any number.
const batch = 1024

// player is a model that is asked.
type player struct {
	what    string // for messages
	session engine.Session
	quality model.Quality // with its task and output told
	labels  []string      // of the output, if it is probabilities
	output  int           // that says the answer
	batch   int
	columns []*column // of its inputs
}

// newPlayer finds out how a model is asked for the rows of a frame, and how its answers are read.
func newPlayer(what string, session engine.Session, settings *model.Settings, f *frame) (*player, error) {
	s := session.Signature()
	p := &player{what: what, session: session, batch: batch}
	q, err := feedback.QualityOf(&model.Manifest{Name: "the " + what, Settings: *settings, Signature: s})
	if err != nil {
		return nil, err
	}
	p.quality = q
	p.output = slices.IndexFunc(s.Outputs, func(o tensor.Spec) bool { return o.Name == q.Output })
	for _, i := range s.Inputs {
		c, err := f.get(i.Name, fmt.Sprintf("which the %s takes as an input", what))
		if err != nil {
			return nil, err
		}
		p.columns = append(p.columns, c)
		if len(i.Shape) > 0 && i.Shape[0] > 0 {
			p.batch = min(p.batch, int(i.Shape[0]))
		}
	}
	return p, nil
}

// canTake tells whether a row can be asked about: a missing value has no word but in floating point.
func (p *player) canTake(row int) bool {
	for i, spec := range p.session.Signature().Inputs {
		if p.columns[i].null[row] && !hasNaN(spec.Type) {
			return false
		}
	}
	return true
}

// inputs makes those of a run.
func (p *player) inputs(rows []int) ([]tensor.Tensor, error) {
	specs := p.session.Signature().Inputs
	in := make([]tensor.Tensor, len(specs))
	for i, spec := range specs {
		var err error
		if in[i], err = p.columns[i].tensor(spec, rows); err != nil {
			return nil, fmt.Errorf("ask the %s: %w", p.what, err)
		}
		if err := spec.Accepts(&in[i]); err != nil {
			return nil, fmt.Errorf("ask the %s: %w", p.what, err)
		}
	}
	return in, nil
}

// ask gives the answers to rows. What is no answer of the task is a *strange.
func (p *player) ask(ctx context.Context, rows []int, each func(done int)) ([]quality.Answer, error) {
	all := make([]quality.Answer, 0, len(rows))
	for from := 0; from < len(rows); from += p.batch {
		part := rows[from:min(from+p.batch, len(rows))]
		in, err := p.inputs(part)
		if err != nil {
			return nil, err
		}
		out, err := p.session.Run(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("ask the %s about rows %d to %d: %w", p.what, part[0], part[len(part)-1], err)
		}
		if p.labels == nil {
			p.labels = p.session.Signature().Outputs[p.output].Labels // a run may have taught it
		}
		if all, err = p.answers(all, &out[p.output], part); err != nil {
			return nil, err
		}
		each(len(all))
	}
	return all, nil
}

// strange is an answer that is none.
type strange struct{ error }

func (s *strange) Unwrap() error { return s.error }

// answers reads an output.
func (p *player) answers(all []quality.Answer, t *tensor.Tensor, rows []int) ([]quality.Answer, error) {
	odd := func(format string, args ...any) error {
		return &strange{fault.New(fault.Invalid, "the %s's output %s "+format, append([]any{p.what, p.quality.Output}, args...)...)}
	}
	n := len(rows)
	wide := 0
	var numbers []float64
	if t.Type == tensor.Bytes {
		wide = len(t.Strings) / n
	} else {
		var ok bool
		if numbers, ok = widen(t); !ok {
			return nil, odd("is of type %s, which says no answer", t.Type)
		}
		wide = len(numbers) / n
	}
	if len(t.Shape) == 0 || t.Shape[0] != int64(n) || wide == 0 {
		return nil, odd("has the shape %s for %d rows", tensor.FormatShape(t.Shape), n)
	}
	for i, row := range rows {
		var a quality.Answer
		switch task := p.quality.Task; {
		case t.Type == tensor.Bytes && (task != quality.Multiclass || wide != 1):
			return nil, odd("is %d texts a row, which is no answer of a task that is %s", wide, task)
		case t.Type == tensor.Bytes:
			a.Class = t.Strings[i]
		case task == quality.Multiclass && wide == 1:
			a.Class = strconv.FormatFloat(numbers[i], 'f', -1, 64)
		case task == quality.Multiclass:
			of := numbers[i*wide : (i+1)*wide]
			most := 0
			for k, v := range of {
				if v > of[most] || math.IsNaN(of[most]) {
					most = k
				}
				a.Probabilities = append(a.Probabilities, quality.Probability{Class: p.class(k), P: v})
			}
			a.Class = p.class(most)
		case wide == 1:
			a.Number = numbers[i]
		case task == quality.Binary && wide == 2:
			a.Number = numbers[2*i+1]
		default:
			return nil, odd("is %d numbers a row, which is no answer of a task that is %s", wide, task)
		}
		if err := p.quality.Check(a); err != nil {
			return nil, odd("is no answer for row %d: %s", row, fault.Message(err))
		}
		all = append(all, a)
	}
	return all, nil
}

func (p *player) class(i int) string {
	if i < len(p.labels) {
		return p.labels[i]
	}
	return strconv.Itoa(i)
}

// widen gives the elements of a tensor of numbers.
func widen(t *tensor.Tensor) ([]float64, bool) {
	switch t.Type {
	case tensor.FP32:
		return wider[float32](t), true
	case tensor.FP64:
		return wider[float64](t), true
	case tensor.Int64:
		return wider[int64](t), true
	case tensor.Int32:
		return wider[int32](t), true
	case tensor.Int16:
		return wider[int16](t), true
	case tensor.Int8, tensor.Bool:
		return wider[int8](t), true
	case tensor.Uint64:
		return wider[uint64](t), true
	case tensor.Uint32:
		return wider[uint32](t), true
	case tensor.Uint16:
		return wider[uint16](t), true
	case tensor.Uint8:
		return wider[uint8](t), true
	}
	return nil, false
}

func wider[T float32 | float64 | int64 | int32 | int16 | int8 | uint64 | uint32 | uint16 | uint8](t *tensor.Tensor) []float64 {
	from := tensor.View[T](t.Data)
	to := make([]float64, len(from))
	for i, v := range from {
		to[i] = float64(v)
	}
	return to
}

// truths reads what came true of rows.
func truths(f *frame, label string, spec quality.Spec, rows []int) ([]quality.Truth, error) {
	c, err := f.get(label, "which says what came true")
	if err != nil {
		return nil, err
	}
	all := make([]quality.Truth, len(rows))
	for i, row := range rows {
		var value []byte
		n, number := c.number(row)
		switch {
		case c.null[row]:
			return nil, fault.New(fault.Invalid, "row %d of the file %s has no label", row, f.what)
		case c.texts != nil:
			if value, err = json.Marshal(c.texts[row]); err != nil {
				return nil, err
			}
		case number && !math.IsNaN(n) && !math.IsInf(n, 0):
			value = strconv.AppendFloat(nil, n, 'g', -1, 64)
		default:
			return nil, fault.New(fault.Invalid, "the label of row %d of the file %s is %v", row, f.what, n)
		}
		if all[i], err = spec.ParseTruth(value); err != nil {
			return nil, fault.New(fault.Invalid, "the label of row %d of the file %s: %s", row, f.what, fault.Message(err))
		}
	}
	return all, nil
}

// constant is what somebody would say who knows of nothing but how labels are spread: what a first model is compared with.
func constant(train *frame, label string, spec quality.Spec, squares bool) (quality.Answer, error) {
	rows := make([]int, train.rows)
	for i := range rows {
		rows[i] = i
	}
	all, err := truths(train, label, spec, rows)
	var a quality.Answer
	if err != nil || len(all) == 0 {
		return a, errOr(err, fault.New(fault.Invalid, "the file %s has no rows", train.what))
	}
	switch spec.Task {
	case quality.Binary:
		for _, t := range all {
			if t.Yes {
				a.Number += 1 / float64(len(all))
			}
		}
	case quality.Multiclass:
		share := map[string]float64{}
		for _, t := range all {
			share[t.Class] += 1 / float64(len(all))
		}
		for class, p := range share {
			a.Probabilities = append(a.Probabilities, quality.Probability{Class: class, P: p})
			if best := share[a.Class]; p > best || p == best && class < a.Class {
				a.Class = class
			}
		}
		if len(a.Probabilities) > quality.MaxProbabilities {
			a.Probabilities = nil
		}
	default:
		numbers := make([]float64, len(all))
		for i, t := range all {
			numbers[i] = t.Number
			a.Number += t.Number / float64(len(all))
		}
		if !squares { // the quantile is what loses least
			slices.Sort(numbers)
			q := spec.Quantile
			if q == 0 {
				q = .5
			}
			a.Number = numbers[min(int(q*float64(len(numbers))), len(numbers)-1)]
		}
	}
	return a, nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

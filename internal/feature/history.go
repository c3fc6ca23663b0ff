package feature

import (
	"context"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Read is a column of a view that a plan's answers are made of.
type Read struct {
	View *CompiledView
	At   int // among the view's columns
}

// Reads gives what the plan's answers are made of, each once: first, and in the order
// of Columns, what is answered as it is.
func (p *Plan) Reads() []Read {
	reads, _ := p.reads()
	return reads
}

// Computes tells whether the plan has expressions, so that its answers are more than its Reads.
func (p *Plan) Computes() bool { return len(p.steps) > 0 }

func (p *Plan) reads() (reads []Read, at map[place]int) {
	at = map[place]int{}
	add := func(from place) {
		if _, ok := at[from]; !ok && from.kind == viewPlace {
			at[from] = len(reads)
			reads = append(reads, Read{p.views[from.view].CompiledView, from.at})
		}
	}
	for _, from := range p.from {
		add(from)
	}
	for _, s := range p.steps {
		for _, from := range s.touches {
			add(from)
		}
	}
	return reads, at
}

// Traced is the plan with each of its Reads as a further column, behind all others and
// named "view:feature", so that an answer tells also what it was computed of.
func (p *Plan) Traced() *Plan {
	t := *p
	reads, at := p.reads()
	t.Columns, t.from = slices.Clone(p.Columns), slices.Clone(p.from)
	from := make([]place, len(reads))
	for place, i := range at {
		from[i] = place
	}
	for i, r := range reads {
		c := r.View.column(r.At)
		c.Name = c.View + ":" + c.Feature
		t.Columns, t.from = append(t.Columns, c), append(t.from, from[i])
	}
	return &t
}

// Evaluator answers a plan from values of the past, one entity row after another, by the
// code that answers in Table.Read. It is not for concurrent use.
type Evaluator struct {
	r     reading
	reads []int // for each of the plan's Reads: where it goes in stored
}

// Evaluator makes an Evaluator of the plan.
func (p *Plan) Evaluator() *Evaluator {
	e := &Evaluator{r: reading{plan: p, n: 1, given: Given{}}}
	for _, v := range p.views {
		e.r.at = append(e.r.at, int32(v.first))
	}
	_, at := p.reads()
	e.reads = make([]int, len(at))
	for from, i := range at {
		e.reads[i] = p.views[from.view].first + from.at
	}
	e.r.stored = make([]Answer, p.width)
	for _, k := range p.Keys {
		e.r.given[k.Name] = make([]row.Value, 1)
	}
	for _, in := range p.Inputs {
		e.r.given[in.Name] = make([]row.Value, 1)
	}
	return e
}

// Answer gives dst one value for each of the plan's Columns, or null, without defaults. Given
// are values of the plan's Keys and then of its Inputs, read those of its Reads.
func (e *Evaluator) Answer(ctx context.Context, given, read, dst []row.Value) error {
	p := e.r.plan
	for i, k := range p.Keys {
		e.r.given[k.Name][0] = given[i]
	}
	for i, in := range p.Inputs {
		e.r.given[in.Name][0] = given[len(p.Keys)+i]
	}
	for i, at := range e.reads {
		e.r.stored[at] = Answer{Value: read[i]}
	}
	if err := e.r.compute(ctx); err != nil {
		return err
	}
	for i, from := range p.from {
		dst[i] = e.r.answer(from, 0).Value
	}
	return nil
}

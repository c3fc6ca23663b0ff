package feature

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Table reads features of the online store. It is safe for concurrent use.
type Table struct {
	online   store.Online
	near     *store.Near // online, if it keeps rows in the process
	defined  func(context.Context) (*Compiled, error)
	reads    sync.Pool // of *reading
	measured *reads    // nil: they are not
}

// NewTable makes a table of what lies in online, by the definitions that defined gives (Catalog.Current).
func NewTable(online store.Online, defined func(context.Context) (*Compiled, error)) *Table {
	near, _ := online.(*store.Near)
	return &Table{online: online, near: near, defined: defined, reads: sync.Pool{New: func() any {
		return &reading{seen: map[string]int32{}}
	}}}
}

// Defined gives the definitions as they are now, for plans.
func (t *Table) Defined(ctx context.Context) (*Compiled, error) { return t.defined(ctx) }

// Given are the values that a caller brings, by name, one for each entity row: join keys
// and inputs of expressions.
type Given map[string][]row.Value

// Answer is one feature of one entity.
type Answer struct {
	Value  row.Value
	Status Status
	Event  int64 // the time that the value is of, in microseconds since 1970; 0 where there is none
}

// Answers are what a plan's columns are for some entity rows. The zero Answers is ready;
// one that is used again keeps its memory.
type Answers struct {
	rows  int
	cells []Answer // column by column
}

// Rows is the number of entity rows.
func (a *Answers) Rows() int { return a.rows }

// At is what a column of the plan is for an entity row.
func (a *Answers) At(column, entity int) *Answer { return &a.cells[column*a.rows+entity] }

// Column is what a column of the plan is for each entity row.
func (a *Answers) Column(column int) []Answer { return a.cells[column*a.rows:][:a.rows] }

// Read answers the plan's columns for n entity rows as of a moment, with one read of the
// store. What the caller brings has to have n values for each of the plan's Keys and Inputs,
// of their types or null; else the error is Invalid and names it. Other names are ignored.
//
// A feature that a view has no value for is null, and its status tells why; so it is with
// all of a view whose key is null (NotFound). An expression is null where it touches a null
// (NullValue), and where it can't be computed, takes too long or has a result that
// is not of its type (Invalid); it is of no time. Defaults of a service are not put
// in the place of nulls: that is for those who feed a model (Column.Default).
//
// After an error dst holds nothing of use.
func (t *Table) Read(ctx context.Context, p *Plan, given Given, n int, at time.Time, dst *Answers) error {
	begin := time.Now()
	err := t.read(ctx, p, given, n, at, dst)
	t.measured.count(ctx, p, dst, at, time.Since(begin), err)
	return err
}

func (t *Table) read(ctx context.Context, p *Plan, given Given, n int, at time.Time, dst *Answers) error {
	if n < 0 {
		return fault.New(fault.Invalid, "%d entity rows are asked for", n)
	}
	if err := p.check(given, n); err != nil {
		return err
	}
	r := t.reads.Get().(*reading)
	defer func() {
		r.forget()
		t.reads.Put(r)
	}()
	r.plan, r.given, r.n = p, given, n
	if err := r.keys(); err != nil {
		return err
	}
	if err := t.fetch(ctx, r, at.UnixMicro()); err != nil {
		return err
	}
	if err := r.compute(ctx); err != nil {
		return err
	}
	dst.rows = n
	dst.cells = resize(dst.cells, len(p.Columns)*n)
	for c, from := range p.from {
		column := dst.cells[c*n:][:n]
		for e := range column {
			column[e] = r.answer(from, e)
		}
	}
	return nil
}

// check compares what the caller brings with what the plan needs.
func (p *Plan) check(given Given, n int) error {
	for _, k := range p.Keys {
		values, err := given.column("join key", k.Name, n)
		if err != nil {
			return err
		}
		for e, v := range values {
			if !v.Null() && v.Type() != k.Type {
				return fault.New(fault.Invalid, "join key %q, entity row %d: %.100s is a %s, expected %s", k.Name, e, v, v.Type(), k.Type)
			}
		}
	}
	for i := range p.demands { // which may be several of one input
		f := &p.demands[i]
		values, err := given.column("input", f.Name, n)
		if err != nil {
			return err
		}
		for e, v := range values {
			if reason, detail := checkValue("input", f, v); reason != "" {
				return fault.New(fault.Invalid, "entity row %d: %s", e, detail)
			}
		}
	}
	return nil
}

func (g Given) column(what, name string, n int) ([]row.Value, error) {
	values, ok := g[name]
	switch {
	case !ok:
		return nil, fault.New(fault.Invalid, "%s %q is missing", what, name)
	case len(values) != n:
		return nil, fault.New(fault.Invalid, "%s %q has %d values for %d entity rows", what, name, len(values), n)
	}
	return values, nil
}

// reading is the memory of one Read.
type reading struct {
	plan     *Plan
	given    Given
	n        int              // entity rows
	text     []byte           // of all keys
	ends     []int            // of each key in text; the start again where there is none
	seen     map[string]int32 // keys that were met, and where they lie in wanted
	wanted   []string         // each key once
	views    []int32          // of each of wanted, in the plan
	at       []int32          // for each view and entity row: where its answers begin in stored; -1: it has no key
	rows     []store.OnlineRow
	stored   []Answer
	computed []Answer // step by step
	touched  []row.Value
	eval     evaluation
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

const keptMost = 1 << 14 // answers and keys of a read, whose memory is kept for others

// forget lets go of what was read.
func (r *reading) forget() {
	if len(r.stored)+len(r.computed)+len(r.at) > keptMost {
		*r = reading{seen: map[string]int32{}}
		return
	}
	r.plan, r.given = nil, nil
	clear(r.seen)
	clear(r.wanted)
	clear(r.rows)
	clear(r.stored)
	clear(r.computed)
	clear(r.touched)
	clear(r.eval.values)
}

// keys finds the keys that have to be read, each once.
func (r *reading) keys() error {
	p, n := r.plan, r.n
	r.text, r.ends = r.text[:0], r.ends[:0]
	for _, v := range p.views {
		for e := range n {
			begin := len(r.text)
			r.text = v.keyPrefix(r.text)
			for _, k := range v.Keys {
				key := r.given[k.Name][e]
				if key.Null() {
					r.text = r.text[:begin]
					break
				}
				r.text = row.AppendKey(r.text, key)
				if len(r.text)-begin > store.OnlineKeyMost {
					return fault.New(fault.Invalid, "join key %q, entity row %d: with it the key of view %q has more than %d bytes", k.Name, e, v.Name, store.OnlineKeyMost)
				}
			}
			r.ends = append(r.ends, len(r.text))
		}
	}
	text, begin := string(r.text), 0
	r.wanted, r.views, r.at = r.wanted[:0], r.views[:0], r.at[:0]
	size := int32(0)
	for i, end := range r.ends {
		key := text[begin:end]
		begin = end
		if key == "" {
			r.at = append(r.at, -1)
			continue
		}
		if at, ok := r.seen[key]; ok && n > 1 {
			r.at = append(r.at, at)
			continue
		}
		if n > 1 {
			r.seen[key] = size
		}
		r.at = append(r.at, size)
		r.wanted = append(r.wanted, key)
		r.views = append(r.views, int32(i/n))
		size += int32(len(p.views[i/n].Columns))
	}
	r.stored = resize(r.stored, int(size))
	return nil
}

// fetch puts what the store has of all wanted keys into stored.
func (t *Table) fetch(ctx context.Context, r *reading, at int64) (err error) {
	if len(r.wanted) == 0 {
		return nil
	}
	if r.rows, err = t.lookUp(ctx, r.wanted, r.rows[:0]); err != nil {
		return fmt.Errorf("read features: %w", err)
	}
	rest := r.stored
	for i := range r.rows {
		v := r.plan.views[r.views[i]]
		if err := v.Values(r.rows[i].Value, r.rows[i].Stamp, at, rest[:len(v.Columns)]); err != nil {
			return fmt.Errorf("read features: %w", err)
		}
		rest = rest[len(v.Columns):]
	}
	return nil
}

// lookUp reads rows, from the process's memory if they are there.
func (t *Table) lookUp(ctx context.Context, keys []string, dst []store.OnlineRow) (rows []store.OnlineRow, err error) {
	had := 0
	if t.near == nil {
		rows, err = t.online.Read(ctx, keys, dst)
	} else {
		rows, had, err = t.near.ReadNear(ctx, keys, dst)
	}
	if err == nil && t.measured != nil {
		t.measured.inMemory.Add(int64(had))
		t.measured.inStore.Add(int64(len(keys) - had))
	}
	return rows, err
}

// answer finds what is at a place for an entity row.
func (r *reading) answer(at place, e int) Answer {
	switch at.kind {
	case viewPlace:
		if first := r.at[at.view*r.n+e]; first >= 0 {
			return r.stored[int(first)+at.at]
		}
		return Answer{Status: NotFound}
	case givenPlace:
		return Answer{Value: r.given[at.name][e], Status: Present}
	}
	return r.computed[at.at*r.n+e]
}

// compute evaluates the plan's expressions for all entity rows.
func (r *reading) compute(ctx context.Context) error {
	r.computed = resize(r.computed, len(r.plan.steps)*r.n)
	for s := range r.plan.steps {
		k := &r.plan.steps[s]
		for e := range r.n {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("compute features: %w", err)
			}
			r.computed[s*r.n+e] = r.step(k, e)
		}
	}
	return nil
}

func (r *reading) step(k *step, e int) Answer {
	r.touched = r.touched[:0]
	for _, t := range k.touches {
		v := r.answer(t, e).Value
		if v.Null() {
			return Answer{Status: NullValue}
		}
		r.touched = append(r.touched, v)
	}
	v, err := r.eval.evaluate(k.computed, r.touched)
	if err != nil {
		return Answer{Status: Invalid}
	}
	return Answer{Value: v, Status: Present}
}

package feature

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Plan is how a list of features is answered: what the caller brings, what is
// read, what is computed. Plans are made by Compiled.Service and
// Compiled.Features, and are kept for reuse: nobody changes one.
type Plan struct {
	Keys    []row.Field // join keys that the caller gives, each once
	Inputs  []Field     // values that the caller gives for expressions, each once; none of them is a key
	Columns []Column    // what is answered, in order

	views   []planView
	width   int     // of the columns of all views
	demands []Field // that the caller's values must meet
	steps   []step  // what is computed, in an order that has what each needs before it
	from    []place // for each of Columns
}

// Column is one feature of a plan.
type Column struct {
	Name    string // as the service or the caller calls it
	View    string // or the expression
	Feature string
	Type    row.Type
	Default row.Value // instead of null; null: none
	Version int       // of the view or expression
}

// planView is a view that is read, all of its columns at once.
type planView struct {
	*CompiledView
	first int // of its columns among those of all views
}

// step is an expression's feature that is computed.
type step struct {
	*computed
	touches []place
}

// place says where a value is found while a plan is answered.
type place struct {
	kind placeKind
	view int    // of viewPlace: among the plan's views
	at   int    // column of the view, or step
	name string // of givenPlace
}

type placeKind uint8

const (
	viewPlace placeKind = iota
	givenPlace
	stepPlace
)

// Service plans the features of a service; one that is not defined is NotFound.
func (c *Compiled) Service(name string) (*Plan, error) {
	return c.plan(request{refs: []string{name}, service: true})
}

// Features plans features that are named "view:feature". In the answer they go by
// their own names, or with fullNames as "view__feature". Those that are not defined are
// NotFound, and two of one name Invalid.
func (c *Compiled) Features(refs []string, fullNames bool) (*Plan, error) {
	return c.plan(request{refs: refs, full: fullNames})
}

// request is what a plan is asked for by.
type request struct {
	refs          []string
	full, service bool
}

func (r request) equal(o request) bool {
	return r.full == o.full && r.service == o.service && slices.Equal(r.refs, o.refs)
}

// plans are those made so far, by the hashes of what they were asked for by.
type plans struct {
	known   map[uint64]plannedRequest
	columns int // of all of them
}

type plannedRequest struct {
	request
	plan *Plan
}

const plannedMost = 100_000 // columns of the plans that are kept

var planSeed = maphash.MakeSeed()

func (r request) hash() uint64 {
	var h maphash.Hash
	h.SetSeed(planSeed)
	for _, s := range r.refs {
		h.WriteString(s)
		h.WriteByte(0)
	}
	return h.Sum64()
}

func (c *Compiled) plan(r request) (*Plan, error) {
	h := r.hash()
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.plans.known[h]; ok && k.equal(r) {
		return k.plan, nil
	}
	columns, err := c.wanted(r)
	if err != nil {
		return nil, err
	}
	p, err := c.newPlan(columns)
	if err != nil {
		return nil, err
	}
	// Callers may ask for anything; what was kept is let go when it becomes much.
	size := len(p.Columns) + p.width
	if c.plans.columns += size; c.plans.columns > plannedMost || c.plans.known == nil {
		c.plans.known, c.plans.columns = map[uint64]plannedRequest{}, size
	}
	r.refs = slices.Clone(r.refs)
	c.plans.known[h] = plannedRequest{r, p}
	return p, nil
}

// wanted gives the columns that are asked for.
func (c *Compiled) wanted(r request) ([]Column, error) {
	if r.service {
		s, err := lookup(c.services, "Feature service", r.refs[0])
		if err != nil {
			return nil, err
		}
		return s.Columns, nil
	}
	if len(r.refs) == 0 || len(r.refs) > columnsMost {
		return nil, invalid("%d features are asked for, expected 1 to %d", len(r.refs), columnsMost)
	}
	columns := make([]Column, 0, len(r.refs))
	named := make(map[string]string, len(r.refs))
	var unknown []string
	for _, ref := range r.refs {
		view, feature, ok := strings.Cut(ref, ":")
		if !ok {
			return nil, invalid(`feature %.100q is not named "view:feature"`, ref)
		}
		column, err := c.column(view, feature)
		if err != nil {
			if c.views[view] == nil && c.expressions[view] == nil {
				_, err = c.View(view)
			}
			if m := fault.Message(err); !slices.Contains(unknown, m) && len(unknown) < 10 {
				unknown = append(unknown, m)
			}
			continue
		}
		if r.full {
			column.Name = view + "__" + feature
		}
		if other, ok := named[column.Name]; ok {
			if other == ref {
				return nil, invalid("feature %q is asked for twice", ref)
			}
			return nil, invalid("features %q and %q are both called %q; ask for full feature names", other, ref, column.Name)
		}
		named[column.Name] = ref
		columns = append(columns, column)
	}
	if len(unknown) > 0 {
		return nil, fault.New(fault.NotFound, "%s", strings.Join(unknown, "; "))
	}
	return columns, nil
}

// planning is a plan in the making.
type planning struct {
	*Plan
	set   *Compiled
	views map[string]int     // by name, in Plan.views
	steps map[*computed]int  // in Plan.steps
	given map[string]givenBy // keys and inputs
}

// givenBy says who wants a value of the caller's.
type givenBy struct {
	typ row.Type
	who string
	key bool
}

func (c *Compiled) newPlan(columns []Column) (*Plan, error) {
	b := &planning{Plan: &Plan{Columns: columns, from: make([]place, len(columns))}, set: c, views: map[string]int{}, steps: map[*computed]int{}, given: map[string]givenBy{}}
	for i, k := range columns {
		var err error
		if b.from[i], err = b.place(k.View, k.Feature); err != nil {
			return nil, err
		}
	}
	return b.Plan, b.finish()
}

// place sees to it that a feature is read or computed.
func (b *planning) place(view, feature string) (place, error) {
	if v := b.set.views[view]; v != nil {
		at, ok := b.views[view]
		if !ok {
			at = len(b.Plan.views)
			b.views[view] = at
			b.Plan.views = append(b.Plan.views, planView{v, b.width})
			b.width += len(v.Columns)
			for _, k := range v.Keys {
				if err := b.give(k.Name, givenBy{k.Type, "view " + view, true}); err != nil {
					return place{}, err
				}
			}
		}
		return place{kind: viewPlace, view: at, at: v.At[feature]}, nil
	}
	e := b.set.expressions[view]
	k, err := b.set.computed(e, e.index(feature), nil)
	if err != nil {
		return place{}, err
	}
	at, err := b.step(k)
	return place{kind: stepPlace, at: at}, err
}

// step sees to it that an expression is computed, behind all that it needs.
func (b *planning) step(k *computed) (int, error) {
	if at, ok := b.steps[k]; ok {
		return at, nil
	}
	s := step{computed: k, touches: make([]place, len(k.touches))}
	for i, t := range k.touches {
		var err error
		if t.view != "" {
			s.touches[i], err = b.place(t.view, t.feature)
		} else {
			s.touches[i] = place{kind: givenPlace, name: t.name}
			err = b.give(t.name, givenBy{t.typ, "expression " + k.of.Name, false})
			b.demand(k.of, t.name)
		}
		if err != nil {
			return 0, err
		}
	}
	at := len(b.Plan.steps)
	b.steps[k] = at
	b.Plan.steps = append(b.Plan.steps, s)
	return at, nil
}

// give notes that the caller has to bring a value.
func (b *planning) give(name string, by givenBy) error {
	other, ok := b.given[name]
	if ok && other.typ != by.typ {
		return invalid("%s takes %q as a %s and %s takes it as a %s; they can't be asked for together", other.who, name, other.typ, by.who, by.typ)
	}
	if !ok || by.key {
		b.given[name] = by
	}
	return nil
}

func (b *planning) demand(e *Expression, input string) {
	at := slices.IndexFunc(e.Inputs, func(f Field) bool { return f.Name == input })
	b.demands = append(b.demands, e.Inputs[at])
}

// finish lists what the caller brings: keys in the order of the views, then inputs by name.
func (b *planning) finish() error {
	for _, v := range b.Plan.views {
		for _, k := range v.Keys {
			if !slices.ContainsFunc(b.Keys, func(o row.Field) bool { return o.Name == k.Name }) {
				b.Keys = append(b.Keys, row.Field{Name: k.Name, Type: k.Type, ID: uint32(len(b.Keys) + 1)})
			}
		}
	}
	for _, f := range b.demands {
		if !b.given[f.Name].key && !slices.ContainsFunc(b.Inputs, func(o Field) bool { return o.Name == f.Name }) {
			b.Inputs = append(b.Inputs, f)
		}
	}
	slices.SortFunc(b.Inputs, func(x, y Field) int { return cmp.Compare(x.Name, y.Name) })
	return nil
}

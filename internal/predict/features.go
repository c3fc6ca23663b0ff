package predict

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// join is how the inputs of a version come of what callers bring: by the feature
// service that its manifest names. It is made anew when the definitions change.
type join struct {
	defined *feature.Compiled
	plan    *feature.Plan
	traced  *feature.Plan // the same, for what is written down
	sources []source      // for each of the model's inputs
	asks    []tensor.Spec // what a caller has to bring
	keys    []string      // of them, the join keys
	given   map[string]given
	fields  []row.Field // the plan's columns, for the payload log
}

// source is where one of the model's inputs comes from.
type source struct {
	column int  // of the plan; -1: the caller brings it
	matrix bool // it is all columns of the plan side by side
}

// given is what a caller may bring by one name. It can be several things at once.
type given struct {
	typed bool // a join key or a value for expressions, of this type
	kind  row.Type
	input bool // an input of the model as it is
}

// newJoin finds out where a model's inputs come from. An input is the feature of
// its name; or, where none has its name and there is one such input, the matrix
// [rows, features]; or else it is the caller's.
func newJoin(c *feature.Compiled, m *model.Manifest) (*join, error) {
	plan, err := c.Service(m.Features)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "model %q takes the features of service %q: %s", m.Name, m.Features, fault.Message(err))
	}
	j := &join{defined: c, plan: plan, traced: plan.Traced(), sources: make([]source, len(m.Signature.Inputs)), given: map[string]given{}}
	column := map[string]int{}
	for i, c := range plan.Columns {
		column[c.Name] = i
		j.fields = append(j.fields, row.Field{Name: c.Name, Type: c.Type, ID: uint32(i + 1)})
	}
	for _, k := range plan.Keys {
		j.keys = append(j.keys, k.Name)
		j.ask(k.Name, k.Type)
	}
	for _, f := range plan.Inputs {
		j.ask(f.Name, f.Type)
	}
	used := make([]bool, len(plan.Columns))
	open := -1
	for i, spec := range m.Signature.Inputs {
		g := j.given[spec.Name]
		g.input = true
		j.given[spec.Name] = g
		at, ok := column[spec.Name]
		switch {
		case ok:
			j.sources[i], used[at] = source{column: at}, true
		case g.typed:
			j.sources[i] = source{column: -1}
		case open < 0 && len(spec.Shape) == 2 && (spec.Shape[1] == int64(len(plan.Columns)) || spec.Shape[1] < 0) && spec.Type != tensor.Bytes:
			j.sources[i], open = source{column: -1, matrix: true}, i
		default:
			j.sources[i] = source{column: -1}
			j.asks = append(j.asks, spec)
		}
	}
	if some := slices.Contains(used, true); some && open >= 0 { // then the features have inputs of their own
		j.sources[open].matrix = false
		j.asks = append(j.asks, m.Signature.Inputs[open])
	} else if !some && open < 0 {
		return nil, fault.New(fault.Invalid, "model %q has no input that takes a feature of service %q: expected inputs named like features (%s), or one of shape [rows, %d]",
			m.Name, m.Features, columnNames(plan), len(plan.Columns))
	}
	return j, nil
}

func columnNames(p *feature.Plan) string {
	names := make([]string, len(p.Columns))
	for i, c := range p.Columns {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

// ask notes a value a row that a caller has to bring.
func (j *join) ask(name string, kind row.Type) {
	j.given[name] = given{typed: true, kind: kind}
	spec := tensor.Spec{Name: name, Shape: []int64{-1, 1}}
	switch kind {
	case row.Bool:
		spec.Type = tensor.Bool
	case row.Int32:
		spec.Type = tensor.Int32
	case row.Int64:
		spec.Type = tensor.Int64
	case row.Float32:
		spec.Type = tensor.FP32
	case row.Float64:
		spec.Type = tensor.FP64
	default:
		spec.Type = tensor.Bytes
	}
	j.asks = append(j.asks, spec)
}

// joining is the memory of one join, reused by later ones.
type joining struct {
	given   feature.Given
	answers feature.Answers
}

var joinings = sync.Pool{New: func() any { return &joining{given: feature.Given{}} }}

// apply makes a model's inputs of what a caller brought, with the features as of a moment, as they are known now.
func (j *join) apply(ctx context.Context, f *Flow, m *model.Manifest, brought []tensor.Tensor, keep *keeping, t *timings, known, at time.Time) ([]tensor.Tensor, error) {
	direct := make(map[string]*tensor.Tensor, len(brought))
	for i := range brought {
		t := &brought[i]
		g, known := j.given[t.Name]
		if !known {
			return nil, j.unknown(m, t.Name)
		}
		if g.typed || g.input {
			direct[t.Name] = t
		}
	}
	if whole(m, direct) {
		return brought, nil // nothing is left to fetch
	}
	g := joinings.Get().(*joining)
	defer joinings.Put(g)
	clear(g.given)
	n := int64(-1)
	for _, spec := range j.asks {
		t, ok := direct[spec.Name]
		if !ok {
			return nil, fault.New(fault.Invalid, "input %q is missing; with the features of service %q model %q expects %s", spec.Name, m.Features, m.Name, j.wanted())
		}
		if !j.given[spec.Name].typed {
			continue
		}
		rows, err := rowsOf(t)
		if err != nil {
			return nil, err
		}
		if n >= 0 && rows != n {
			return nil, fault.New(fault.Invalid, "input %q has %d rows, others have %d", spec.Name, rows, n)
		}
		n = rows
		if g.given[spec.Name], err = columnOf(t, j.given[spec.Name].kind, g.given[spec.Name][:0]); err != nil {
			return nil, err
		}
	}
	if n < 0 {
		n = 1 // the service has neither keys nor inputs
	}
	plan, sampled := j.plan, f.recorder.Wants()
	if sampled {
		plan = j.traced
	}
	t.asked = time.Now()
	if err := f.features.Read(ctx, plan, g.given, int(n), at, &g.answers); err != nil {
		return nil, err
	}
	t.online = time.Since(t.asked)
	if sampled {
		f.recorder.Record(&feature.Reading{
			Model: m.Name, Version: m.Version, Service: m.Features, Definitions: j.defined.Version,
			Plan: j.plan, Traced: j.traced, Known: known, At: at, Given: g.given, Answers: &g.answers,
		})
	}
	if keep != nil {
		keep.take(j.fields, &g.answers)
	}
	inputs := make([]tensor.Tensor, len(m.Signature.Inputs))
	for i, spec := range m.Signature.Inputs {
		t, ok := direct[spec.Name]
		if !ok {
			made, err := j.fill(&spec, j.sources[i], int(n), &g.answers)
			if err != nil {
				return nil, err
			}
			t = &made
		}
		inputs[i] = shaped(*t, &spec)
	}
	return inputs, nil
}

// fill makes an input of columns.
func (j *join) fill(spec *tensor.Spec, from source, n int, answers *feature.Answers) (tensor.Tensor, error) {
	first, width := from.column, 1
	if from.matrix {
		first, width = 0, len(j.plan.Columns)
	}
	shape := []int64{int64(n), int64(width)}
	if !from.matrix && len(spec.Shape) == 1 {
		shape = shape[:1]
	}
	t := newColumns(spec.Name, spec.Type, shape)
	for c := range width {
		column := &j.plan.Columns[first+c]
		for r := range n {
			v := answers.At(first+c, r).Value
			if v.Null() {
				v = column.Default
			}
			if err := put(&t, r*width+c, v); err != nil {
				return t, fault.New(fault.Invalid, "feature %s:%s for input %q, row %d: %s", column.View, column.Feature, spec.Name, r, fault.Message(err))
			}
		}
	}
	return t, nil
}

// shaped sees one value a row as [n] or [n,1], whichever the model has.
func shaped(t tensor.Tensor, spec *tensor.Spec) tensor.Tensor {
	t.Name = spec.Name
	switch {
	case len(spec.Shape) == 1 && len(t.Shape) == 2 && t.Shape[1] == 1:
		t.Shape = t.Shape[:1]
	case len(spec.Shape) == 2 && len(t.Shape) == 1:
		t.Shape = []int64{t.Shape[0], 1}
	}
	return t
}

// whole tells whether a caller brought all inputs.
func whole(m *model.Manifest, direct map[string]*tensor.Tensor) bool {
	for _, spec := range m.Signature.Inputs {
		if direct[spec.Name] == nil {
			return false
		}
	}
	return len(direct) == len(m.Signature.Inputs)
}

func (j *join) unknown(m *model.Manifest, name string) error {
	return fault.New(fault.Invalid, "input %q is not one that model %q knows; with the features of service %q it expects %s", tensor.Clip(name), m.Name, m.Features, j.wanted())
}

func (j *join) wanted() string {
	names := make([]string, len(j.asks))
	for i, s := range j.asks {
		names[i] = `"` + s.Name + `"`
	}
	return strings.Join(names, ", ")
}

// asks are the tensors that callers bring for a version: its inputs or, where it
// takes features, join keys and what else is not fetched.
func (f *Flow) asks(ctx context.Context, m *model.Manifest) ([]tensor.Spec, error) {
	if m.Features == "" {
		return m.Signature.Inputs, nil
	}
	j, err := f.joinOf(ctx, m, f.of(m))
	if err != nil {
		return nil, err
	}
	return j.asks, nil
}

// join puts a version's inputs in the place of what the caller of r brought.
func (f *Flow) join(ctx context.Context, m *model.Manifest, s *served, r *Request, t *timings) error {
	begin := time.Now()
	j, err := f.joinOf(ctx, m, s)
	if err != nil {
		return err
	}
	at := r.FeatureTime
	if at.IsZero() {
		at = begin
	}
	if r.Inputs, err = j.apply(ctx, f, m, r.Inputs, r.keep, t, begin, at); err != nil {
		return err
	}
	t.rows, t.features = rows(m, r.Inputs), time.Since(begin)
	return nil
}

func (f *Flow) joinOf(ctx context.Context, m *model.Manifest, s *served) (*join, error) {
	if f.features == nil {
		return nil, fault.New(fault.Unavailable, "model %q takes the features of service %q, and this server has no feature store: set ONLINE_URL", m.Name, m.Features)
	}
	c, err := f.features.Defined(ctx)
	if err != nil {
		return nil, err
	}
	if j := s.join.Load(); j != nil && j.defined == c {
		return j, nil
	}
	j, err := newJoin(c, m)
	if err != nil {
		return nil, err
	}
	s.join.Store(j)
	return j, nil
}

// featureTime reads the request parameter feature_time, which says as of when
// features are read: RFC 3339, for replays of the past. It does not bring back
// what has been replaced since.
func featureTime(p oip.Parameters) (time.Time, error) {
	v, ok := p["feature_time"]
	if !ok {
		return time.Time{}, nil
	}
	s, ok := v.(string)
	if !ok {
		return time.Time{}, fault.New(fault.Invalid, "parameter feature_time must be a string such as 2026-11-25T09:30:00Z")
	}
	at, err := row.ParseTime(s)
	if err != nil {
		return time.Time{}, fault.New(fault.Invalid, "parameter feature_time: %s", fault.Message(err))
	}
	return at, nil
}

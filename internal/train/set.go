package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// setWith is what a definition says of a training set.
type setWith struct {
	Model string `yaml:"model"`
	// Last is how far it reaches back from the newest labelled row; From and Until say it instead, or Until and
	// Last. With Until, outcomes count only if they were known by then.
	Last  yamlwire.Duration `yaml:"last"`
	From  moment            `yaml:"from"`
	Until moment            `yaml:"until"`
	// Holdout is how long before the newest row the rows begin that are held out; by default a fifth of all the time.
	Holdout yamlwire.Duration `yaml:"holdout"`
	Least   int               `yaml:"least"`  // rows there must be; by default leastRows
	Sample  int               `yaml:"sample"` // rows there are at most, always the same ones; 0: all
	Slices  []string          `yaml:"slices"` // columns to pass on; by default those of the model's quality
	Task    quality.Task      `yaml:"task"`   // by default what the model's quality says, or its outputs

	// What the version says where there is one already:
	Features string   `yaml:"features"` // the service
	Inputs   []string `yaml:"inputs"`   // by name, of a model without a version
	Label    string   `yaml:"label"`    // the column of examples that says what came true; by default "label"
}

const leastRows = 100

// moment is a time in a definition.
type moment time.Time

// UnmarshalText reads a time as RFC 3339 has it.
func (m *moment) UnmarshalText(b []byte) error {
	at, err := row.ParseTime(string(b))
	*m = moment(at)
	return err
}

// set makes a training set.
type set struct {
	Deps
	setWith
}

func (d *Deps) newSet(with yamlwire.Node) (pipeline.Step, error) {
	s := &set{Deps: *d, setWith: setWith{Least: leastRows, Label: LabelColumn}}
	if err := with.Into(&s.setWith, "with"); err != nil {
		return nil, err
	}
	from, until := time.Time(s.From), time.Time(s.Until)
	switch {
	case s.Model == "":
		return nil, with.Fail("with.model is missing: whose training set is it?")
	case model.CheckName(s.Model) != nil:
		return nil, with.Fail("with.model: %s", fault.Message(model.CheckName(s.Model)))
	case s.Last < 0 || s.Holdout < 0:
		return nil, with.Fail("with.last and with.holdout must not be negative")
	case s.Last > 0 && !from.IsZero():
		return nil, with.Fail("with.last and with.from both say where the rows begin; expected one of them")
	case !from.IsZero() && !until.IsZero() && !from.Before(until):
		return nil, with.Fail("with.from must be before with.until")
	case s.Last > 0 && s.Holdout >= s.Last:
		return nil, with.Fail("with.holdout is %s of %s: nothing is left to learn from", s.Holdout, s.Last)
	case s.Least < 2:
		return nil, with.Fail("with.least is %d, expected 2 or more", s.Least)
	case s.Sample < 0 || s.Sample > 0 && s.Sample < s.Least:
		return nil, with.Fail("with.sample is %d, expected at least with.least, which is %d, or 0 for all rows", s.Sample, s.Least)
	}
	if s.Task != "" {
		if err := (quality.Spec{Task: s.Task}).Validate(); err != nil {
			return nil, with.Fail("with.task: %s", fault.Message(err))
		}
	}
	return s, nil
}

// Run implements pipeline.Step.
func (s *set) Run(ctx context.Context, t *pipeline.Task) error {
	p, err := s.plan(ctx, t)
	if err != nil {
		return err
	}
	path := filepath.Join(t.Dir, "rows.parquet")
	if p.data.Source == FromExamples {
		if path, err = t.Fetch(ctx, "examples"); err != nil {
			return err
		}
	} else if err := p.labelled(ctx, t, path); err != nil {
		return err
	}
	t.Log.InfoContext(ctx, "joining rows with features", "service", p.service, "columns", len(p.division.Columns))
	told, err := p.divide(ctx, t, path)
	if err != nil {
		return err
	}
	if err := p.tell(told); err != nil {
		return err
	}
	t.Log.InfoContext(ctx, "made a training set", "train", told.Train, "holdout", told.Holdout, "unlabelled", told.Unlabelled, "from", told.From, "cut", told.Cut, "until", told.Until)
	for _, name := range [...]string{"train", "holdout"} {
		if err := t.Keep(ctx, name, filepath.Join(t.Dir, name+".parquet")); err != nil {
			return err
		}
	}
	return t.Tell("dataset", &p.data)
}

// planned is a training set of which it is known what it has.
type planned struct {
	*set
	data     Dataset
	service  string
	plan     *feature.Plan
	given    []row.Field // what callers gave, that is read of the log
	division offline.Division
}

// types are those that columns have for inputs.
var types = map[tensor.Type]row.Type{
	tensor.Bool: row.Bool, tensor.Bytes: row.String, tensor.Int32: row.Int32, tensor.Int64: row.Int64, tensor.Int16: row.Int32, tensor.Int8: row.Int32,
	tensor.Uint8: row.Int32, tensor.Uint16: row.Int32, tensor.Uint32: row.Int64, tensor.Uint64: row.Int64,
	tensor.FP16: row.Float32, tensor.BF16: row.Float32, tensor.FP32: row.Float32, tensor.FP64: row.Float64,
}

// datatypes are those of inputs that are made of columns.
var datatypes = map[row.Type]tensor.Type{
	row.Bool: tensor.Bool, row.String: tensor.Bytes, row.Bytes: tensor.Bytes, row.Int32: tensor.Int32, row.Int64: tensor.Int64, row.Timestamp: tensor.Int64,
	row.Float32: tensor.FP32, row.Float64: tensor.FP64,
}

// plan finds out what the model takes, and where each of it comes from.
func (s *set) plan(ctx context.Context, t *pipeline.Task) (*planned, error) {
	p := &planned{set: s, plan: &feature.Plan{}, service: s.setWith.Features}
	p.data = Dataset{Model: s.Model, Label: LabelColumn, Time: TimeColumn, Source: FromFeedback}
	if t.Has("examples") {
		p.data.Source = FromExamples
	}
	if err := s.Models.Reread(ctx, s.Model); err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	m, err := s.Models.Resolve(ctx, model.Ref{Name: s.Model})
	switch {
	case fault.Is(err, fault.NotFound) && p.data.Source == FromExamples:
		if s.Task == "" || len(s.Inputs) == 0 {
			return nil, fault.New(fault.Invalid, "model %q has no version yet, which would say its task and inputs: with.task and with.inputs are needed", s.Model)
		}
		p.data.Quality = newQuality(s.Task)
	case err != nil:
		return nil, fmt.Errorf("make a training set: %w", err)
	case len(s.Inputs) > 0:
		return nil, fault.New(fault.Invalid, "with.inputs is for models without a version; %s has its inputs", m.Name)
	default:
		if p.data.Quality, err = feedback.QualityOf(m); err != nil {
			return nil, err
		}
		if s.Task != "" && s.Task != p.data.Quality.Task {
			return nil, fault.New(fault.Invalid, "with.task is %s, and version %d of model %q says %s", s.Task, m.Version, m.Name, p.data.Quality.Task)
		}
		p.data.Version, p.data.Inputs, p.data.Outputs = m.Version, m.Signature.Inputs, m.Signature.Outputs
		if p.service == "" {
			p.service = m.Features
		}
	}
	p.data.Task = p.data.Quality.Task
	if p.service != "" {
		if err := p.features(ctx); err != nil {
			return nil, err
		}
	}
	return p, p.columns()
}

// newQuality is how answers of a model are judged that has no version yet, by a task.
func newQuality(task quality.Task) model.Quality {
	output := map[quality.Task]string{quality.Binary: "probability", quality.Multiclass: "probabilities", quality.Regression: "value"}[task]
	return model.Quality{Spec: quality.Spec{Task: task}, Output: output}
}

// features plans those of the service, as it is defined now.
func (p *planned) features(ctx context.Context) error {
	if err := p.Deps.Features.Reread(ctx); err != nil {
		return err
	}
	defined, err := p.Deps.Features.Current(ctx)
	if err != nil {
		return err
	}
	if p.plan, err = defined.Service(p.service); err != nil {
		return fault.Wrap(fault.Invalid, err, "model %q takes the features of service %q: %s", p.Model, p.service, fault.Message(err))
	}
	p.data.Features = &Features{Service: p.service, Version: defined.Version, Views: map[string]int{}}
	for _, c := range p.plan.Columns {
		p.data.Features.Views[c.View] = c.Version
	}
	return nil
}

// columns sorts out what is read of the log, what is joined, and what is written.
func (p *planned) columns() error {
	for _, k := range p.plan.Keys {
		p.given = append(p.given, row.Field{Name: k.Name, Type: k.Type})
	}
	for _, in := range p.plan.Inputs {
		p.given = append(p.given, row.Field{Name: in.Name, Type: in.Type})
	}
	d := &p.division
	inputs := p.data.Inputs
	for _, name := range p.Inputs {
		inputs = append(inputs, tensor.Spec{Name: name})
	}
	for _, in := range inputs {
		f := row.Field{Name: in.Name, Type: types[in.Type]} // without a type: as it is
		one := len(in.Shape) == 0 && in.Type == 0 || len(in.Shape) == 1 || len(in.Shape) == 2 && in.Shape[1] == 1
		if !one {
			return fault.New(fault.Invalid, "input %q of model %q has the shape %s; a training set is of models whose inputs have one value a row each, such as [-1, 1]", in.Name, p.Model, tensor.FormatShape(in.Shape))
		}
		if err := p.write(f); err != nil {
			return err
		}
		if !p.joined(in.Name) && !has(p.given, in.Name) {
			p.given = append(p.given, f)
		}
	}
	slicing := p.Slices
	if len(slicing) == 0 {
		slicing = p.data.Quality.Slices
	}
	for _, name := range slicing {
		if !slices.Contains(p.data.Slices, name) {
			p.data.Slices = append(p.data.Slices, name)
		}
		if has(d.Columns, name) {
			continue
		}
		if p.data.Source == FromFeedback && !p.joined(name) && !has(p.given, name) {
			return fault.New(fault.Invalid, "the slice %q is no input of model %q, no join key and no feature of its service", name, p.Model)
		}
		if err := p.write(row.Field{Name: name}); err != nil {
			return err
		}
	}
	d.From, d.Until, d.Last, d.Holdout = time.Time(p.From), time.Time(p.Until), time.Duration(p.Last), time.Duration(p.Holdout)
	d.Sample = int64(p.Sample)
	d.Label = row.Field{Name: LabelColumn, Type: row.Float64}
	if p.data.Task == quality.Multiclass {
		d.Label.Type = row.String
	}
	d.ID = []string{segment.ID}
	if p.data.Source == FromExamples {
		d.Label.Name, d.ID = p.Label, nil
		for _, f := range p.given {
			d.ID = append(d.ID, f.Name)
		}
		d.ID = append(d.ID, offline.Moment)
	}
	return nil
}

// write has a column written.
func (p *planned) write(f row.Field) error {
	for _, reserved := range [...]string{LabelColumn, TimeColumn, segment.ID, segment.Event, segment.Created} {
		if strings.EqualFold(f.Name, reserved) {
			return fault.New(fault.Invalid, "model %q has an input or slice %q, and a training set has a column of that name already", p.Model, f.Name)
		}
	}
	for _, c := range p.division.Columns {
		if strings.EqualFold(f.Name, c.Name) {
			return fault.New(fault.Invalid, "model %q has inputs %q and %q, which a training set can't tell apart", p.Model, c.Name, f.Name)
		}
	}
	p.division.Columns = append(p.division.Columns, f)
	return nil
}

// joined tells whether a column is a feature.
func (p *planned) joined(name string) bool {
	return slices.ContainsFunc(p.plan.Columns, func(c feature.Column) bool { return c.Name == name })
}

func has(fields []row.Field, name string) bool {
	return slices.ContainsFunc(fields, func(f row.Field) bool { return f.Name == name })
}

// labelled writes what was asked and what came true, as rows that can be joined with features.
func (p *planned) labelled(ctx context.Context, t *pipeline.Task, path string) error {
	t.Log.InfoContext(ctx, "reading outcomes")
	wanted := &feedback.Wanted{Model: p.Model, From: time.Time(p.From), Until: time.Time(p.Until), Known: time.Time(p.Until), Spec: p.data.Quality.Spec}
	labels, err := feedback.OpenLabels(ctx, t.Blob, wanted)
	if err != nil {
		return err
	}
	from := int64(0)
	if p.Last > 0 {
		from = labels.Newest.Add(-time.Duration(p.Last)).UnixMicro() + 1
	}
	out, err := p.open(path)
	if err != nil {
		return err
	}
	defer func() { _ = out.file.Close() }()
	var keyless, unfit int
	var why string
	for l, err := range labels.Rows(ctx) {
		if err != nil {
			return err
		}
		if l.At < from {
			continue
		}
		switch err := out.add(l); {
		case errors.Is(err, errKeyless):
			keyless++
		case fault.Is(err, fault.Invalid):
			unfit, why = unfit+1, fault.Message(err)
		case err != nil:
			return err
		}
		if out.n%10_000 == 0 {
			t.Progress(int64(out.n), 0, "rows")
		}
	}
	if err := out.close(); err != nil {
		return err
	}
	t.Progress(int64(out.n), int64(out.n), "rows")
	p.data.Outcomes = &labels.Outcomes
	level := slog.LevelInfo
	if keyless+unfit+len(labels.Damaged) > 0 {
		level = slog.LevelWarn
	}
	t.Log.Log(ctx, level, "joined outcomes with predictions", "rows", out.n, "outcomes", labels.Outcomes, "without_keys", keyless, "unfit", unfit, "why", why, "damaged", labels.Damaged[:min(len(labels.Damaged), 10)])
	if out.n == 0 && keyless+unfit > 0 {
		return fault.New(fault.Invalid, "of %d labelled rows none can be used: %d lack a join key of the service %q, and %d have a value that does not fit: %s", keyless+unfit, keyless, p.service, unfit, why)
	}
	return p.enough(int64(out.n))
}

// enough refuses a set that is too small to learn from.
func (p *planned) enough(rows int64) error {
	if rows >= int64(p.Least) {
		return nil
	}
	span := ""
	if p.Last > 0 {
		span = fmt.Sprintf(" in the last %s", p.Last)
	}
	if from := time.Time(p.From); !from.IsZero() {
		span += " from " + from.Format(time.RFC3339)
	}
	if until := time.Time(p.Until); !until.IsZero() {
		span += " that were known by " + until.Format(time.RFC3339)
	}
	return pipeline.Refused("there are %d labelled rows of model %q%s, and at least %d are needed", rows, p.Model, span, p.Least)
}

// rowsOut writes labelled rows.
type rowsOut struct {
	p     *planned
	file  *os.File
	to    *segment.Writer
	label quality.Task
	batch []segment.Row
	n     int
}

// open makes the file of rows: what callers gave, Moment and the label.
func (p *planned) open(path string) (*rowsOut, error) {
	shape, err := segment.NewShape(append(slices.Clone(p.given), row.Field{Name: offline.Moment, Type: row.Timestamp}, p.division.Label))
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &rowsOut{p: p, file: f, to: shape.Writer(f), label: p.data.Task}, nil
}

var errKeyless = errors.New("a join key is missing")

func (o *rowsOut) add(l *feedback.Labelled) error {
	keys := len(o.p.plan.Keys)
	values := make([]row.Value, 0, len(o.p.given)+2)
	for i, f := range o.p.given {
		raw, ok := l.Input(f.Name)
		if !ok {
			if i < keys {
				return errKeyless
			}
			values = append(values, row.Value{})
			continue
		}
		v, err := row.ParseJSON(f.Type, raw)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "prediction %q: %s: %s", l.ID, f.Name, fault.Message(err))
		}
		values = append(values, v)
	}
	values = append(values, row.OfMicros(l.At))
	switch o.label {
	case quality.Multiclass:
		values = append(values, row.OfString(l.Truth.Class))
	case quality.Binary:
		yes := 0.0
		if l.Truth.Yes {
			yes = 1
		}
		values = append(values, row.OfFloat64(yes))
	default:
		values = append(values, row.OfFloat64(l.Truth.Number))
	}
	o.n++
	o.batch = append(o.batch, segment.Row{Values: values, Event: l.At, ID: payload.Hash(l.ID, int(l.Row))})
	if len(o.batch) < 1024 {
		return nil
	}
	return o.flush()
}

func (o *rowsOut) flush() error {
	err := o.to.Write(o.batch)
	o.batch = o.batch[:0]
	return err
}

func (o *rowsOut) close() error { return errors.Join(o.flush(), o.to.Close(), o.file.Close()) }

// divide joins the rows of a file with features, and writes both parts.
func (p *planned) divide(ctx context.Context, t *pipeline.Task, path string) (_ *offline.Divided, err error) {
	rows, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var parts [2]io.Writer
	for i, name := range [...]string{"train", "holdout"} {
		f, err := os.Create(filepath.Join(t.Dir, name+".parquet"))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		parts[i] = f
	}
	return p.Offline.Divide(ctx, p.plan, rows, offline.Parquet, &p.division, parts[0], parts[1])
}

// tell completes the dataset by what was divided, and refuses one that nothing can be learnt from.
func (p *planned) tell(told *offline.Divided) error {
	if err := p.enough(told.Train + told.Holdout); err != nil {
		return err
	}
	d := &p.data
	if told.Train == 0 {
		return pipeline.Refused("all %d labelled rows of model %q are in the holdout, which begins at %s: nothing is left to learn from", told.Holdout, p.Model, told.Cut.Format(time.RFC3339))
	}
	d.From, d.Until, d.Cut, d.Rows = told.From, told.Until, told.Cut, Counts{told.Train, told.Holdout}
	if d.Version == 0 {
		d.Inputs = nil
		for i, name := range p.Inputs {
			datatype, ok := datatypes[told.Columns[i].Type]
			if !ok {
				return fault.New(fault.Invalid, "the column %q is of %s, which no input can be", name, told.Columns[i].Type)
			}
			d.Inputs = append(d.Inputs, tensor.Spec{Name: name, Type: datatype, Shape: []int64{-1, 1}})
		}
	}
	if d.Task == quality.Regression {
		return nil
	}
	if len(told.Labels) == 1 {
		return pipeline.Refused("all %d rows of model %q before the holdout have the label %s: there is nothing to tell apart", told.Train, p.Model, tensor.Clip(told.Labels[0].Value))
	}
	for _, l := range told.Labels {
		if d.Task == quality.Binary {
			if l.Value != "0.0" && l.Value != "1.0" {
				return fault.New(fault.Invalid, "%d rows have the label %s; of a binary task it is 0 or 1", l.Rows, tensor.Clip(l.Value))
			}
			continue
		}
		if len(l.Value) > quality.MaxClassName || l.Value == "" {
			return fault.New(fault.Invalid, "%d rows have the label %q; a class has 1 to %d bytes", l.Rows, tensor.Clip(l.Value), quality.MaxClassName)
		}
		d.Classes = append(d.Classes, l.Value)
	}
	if len(d.Classes) > quality.MaxClasses {
		return fault.New(fault.Invalid, "there are more than %d classes", quality.MaxClasses)
	}
	slices.Sort(d.Classes)
	return nil
}

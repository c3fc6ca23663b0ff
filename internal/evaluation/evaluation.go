// Package evaluation decides whether a candidate is good enough to be brought to anybody: it asks it and the version that there is
// about the same rows, of which neither has learnt and of which it is known what came true, and compares.
//
// It has one kind of step for pipelines, "evaluate". What it found is a modelcard.Card; docs/evaluation.md tells
// how to read one, and where the formulas are from.
package evaluation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/train"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Deps are what the step is made of.
type Deps struct {
	Registry *model.Registry // has the versions to compare with, and the runtimes
}

// Kinds gives what pipelines can do by this package.
func Kinds(d Deps) []pipeline.Kind {
	return []pipeline.Kind{{
		Name: "evaluate", About: "compares a candidate with the version that there is, on rows that were held out, and refuses one that is not better",
		In: []pipeline.Port{
			{Name: "data", About: "a training set's dataset"},
			{Name: "train", About: "Parquet: its train"},
			{Name: "holdout", About: "Parquet: its holdout"},
			{Name: "model", About: "the candidate: an ONNX file"},
			{Name: "predictions", About: "Parquet: the trainer's own answer to each row of the holdout; the file has to give the same", Optional: true},
			{Name: "settings", About: "value: settings of the version that the trainer asks for", Optional: true},
			{Name: "metrics", About: "value: numbers by name, as the trainer measured them", Optional: true},
		},
		Out: []pipeline.Port{
			{Name: "verdict", About: "value: a modelcard.Verdict"},
			{Name: "card", About: "JSON: a modelcard.Card"},
			{Name: "reference", About: "JSON: the drift.Profile that live data is to be compared with"},
		},
		// In a process of its own: what a trainer wrote runs here for the first time, and a runtime that dies of it takes nobody along.
		Heavy: true, Timeout: 30 * time.Minute, New: d.newStep,
	}}
}

// settings are what a definition may say.
type settings struct {
	// Against is an alias, the number of a version, or Constant. An alias of a model that has no version yet is Constant.
	Against word `yaml:"against"`
	// Metric decides: log_loss of binary tasks, accuracy of classes, mae of numbers, unless it says another.
	Metric string `yaml:"metric"`
	// BetterBy is by how much the candidate has to be better in the mean, and WorseBy by how much it may be worse at the far end of
	// the interval: shares of the other's value. 0 and 0: it is surely better.
	BetterBy float64 `yaml:"better_by"`
	WorseBy  float64 `yaml:"may_be_worse_by"`

	Slices    []string `yaml:"slices"`     // columns, beside those of the settings and of the dataset
	SliceBy   float64  `yaml:"slice_by"`   // by how much it may be worse in a slice: a share of the other's value; 0.1
	SliceRows int      `yaml:"slice_rows"` // of which slices are judged; 100

	Rows   int               `yaml:"rows"`  // that the holdout has at least; 200
	Block  yamlwire.Duration `yaml:"block"` // of time, in which rows depend on each other; a day
	Size   env.Size          `yaml:"max_size"`
	Slower float64           `yaml:"max_latency_ratio"` // of the middle row's time to the other's; 10
	// SlowFrom is below what time the ratio does not matter, as a caller sees nothing of it beside the request itself; a millisecond.
	SlowFrom yamlwire.Duration `yaml:"latency_from"`
	Parity   float64           `yaml:"parity"` // by how much an answer may differ from the trainer's, as a share of it where it is above 1; 0.001
}

// word is a text that may look like a number.
type word string

// UnmarshalText takes any.
func (w *word) UnmarshalText(b []byte) error {
	*w = word(b)
	return nil
}

// Constant is what says the same of every row, by how labels are spread in the training part.
const Constant = "constant"

type step struct {
	deps Deps
	settings
}

func (d *Deps) newStep(with yamlwire.Node) (pipeline.Step, error) {
	s := &step{*d, settings{
		Against: model.Champion, SliceBy: .1, SliceRows: 100, Rows: 200, Block: yamlwire.Duration(24 * time.Hour), Slower: 10, SlowFrom: yamlwire.Duration(time.Millisecond), Parity: 1e-3,
	}}
	if err := with.Into(&s.settings, "evaluate"); err != nil {
		return nil, err
	}
	known := s.Metric == "" || slices.ContainsFunc([]quality.Task{quality.Binary, quality.Multiclass, quality.Regression}, func(t quality.Task) bool { return decides(s.Metric, t) })
	_, numbered := strconv.Atoi(string(s.Against))
	switch {
	case !known:
		return nil, with.Fail("metric: %.60q is none that can decide", s.Metric)
	case numbered != nil && model.CheckAlias(string(s.Against)) != nil:
		return nil, with.Fail("against is %.60q, expected an alias, the number of a version or %s", s.Against, Constant)
	case s.Rows < 1 || s.SliceRows < 1:
		return nil, with.Fail("rows is %d and slice_rows %d, expected positive numbers", s.Rows, s.SliceRows)
	case s.Block < yamlwire.Duration(time.Minute):
		return nil, with.Fail("block is %s, expected a minute or more", s.Block)
	case s.Size < 0 || s.SlowFrom < 0:
		return nil, with.Fail("max_size and latency_from may not be negative")
	}
	for name, share := range map[string]float64{"better_by": s.BetterBy, "may_be_worse_by": s.WorseBy, "slice_by": s.SliceBy, "max_latency_ratio": s.Slower, "parity": s.Parity} {
		if !(share >= 0) || math.IsInf(share, 0) {
			return nil, with.Fail("%s is %g, expected 0 or more", name, share)
		}
	}
	return s, nil
}

// decides tells whether a metric may decide of a task.
func decides(metric string, task quality.Task) bool {
	return !slices.Contains(unsmooth, metric) && !delays(metric) && metric != "coverage" && slices.ContainsFunc(quality.Metrics(task), func(a quality.About) bool {
		return a.Name == metric && (a.Better == quality.Higher || a.Better == quality.Lower)
	})
}

// Run implements pipeline.Step.
func (s *step) Run(ctx context.Context, t *pipeline.Task) error {
	e := &evaluation{step: *s, task: t}
	defer e.close()
	if err := e.prepare(ctx); err != nil {
		return err
	}
	err := e.judge(ctx)
	odd := (*strange)(nil)
	if errors.As(err, &odd) {
		e.fail("answers", fault.Message(odd))
	} else if err != nil {
		return err
	}
	return e.conclude(ctx)
}

// evaluation is one run of the step.
type evaluation struct {
	step
	task    *pipeline.Task
	data    train.Dataset
	holdout *frame
	learnt  *frame // the training part's labels
	files   map[string]string

	candidate   *player
	champion    *player   // nil: the opponent is a constant
	learntUntil time.Time // by the champion's card
	open        []func()
	effective   model.Settings // of the candidate

	card    modelcard.Card
	answers []quality.Answer // of the candidate to all rows that were asked
}

func (e *evaluation) close() {
	for _, f := range slices.Backward(e.open) {
		f()
	}
}

// prepare reads all that there is, and opens both models.
func (e *evaluation) prepare(ctx context.Context) error {
	t := e.task
	if err := t.Read("data", &e.data); err != nil {
		return err
	}
	e.files = map[string]string{}
	for _, input := range []string{"train", "holdout", "model", "predictions"} {
		if input == "predictions" && !t.Has(input) {
			continue
		}
		var err error
		if e.files[input], err = t.Fetch(ctx, input); err != nil {
			return err
		}
	}
	var err error
	if e.holdout, err = readFrame("holdout", e.files["holdout"], nil); err != nil {
		return err
	}
	champion, err := e.opponent(ctx)
	if err != nil {
		return err
	}
	if err := e.inherit(champion); err != nil {
		return err
	}
	d := &e.data
	e.card = modelcard.Card{
		Model: d.Model, Pipeline: t.Pipeline, Run: t.Run, At: t.Started, Digest: "sha256:" + t.Inputs["model"].SHA256, Size: t.Inputs["model"].Size, Settings: e.effective,
		Data: modelcard.Data{From: d.From, Cut: d.Cut, Until: d.Until, Train: d.Rows.Train, Holdout: int64(e.holdout.rows), Labels: d.Source, Inputs: d.Inputs},
	}
	if d.Features != nil {
		e.card.Data.Service, e.card.Data.Features, e.card.Data.Views = d.Features.Service, d.Features.Version, d.Features.Views
	}
	if t.Has("metrics") {
		if err := t.Read("metrics", &e.card.Trainer); err != nil {
			return err
		}
	}
	if champion != nil {
		e.card.Verdict.Against = champion.Version
		file, release, err := e.deps.Registry.Artifact(ctx, champion)
		if err != nil {
			return fmt.Errorf("get version %d: %w", champion.Version, err)
		}
		defer release()
		if err := e.taught(ctx, champion); err != nil {
			return err
		}
		if e.champion, err = e.player(ctx, fmt.Sprintf("version %d", champion.Version), champion.Runtime, file, &champion.Settings); err != nil {
			return err
		}
	} else if e.learnt, err = readFrame("train", e.files["train"], []string{d.Label}); err != nil {
		return err
	}
	file, err := os.ReadFile(e.files["model"])
	if err != nil {
		return err
	}
	if e.candidate, err = e.player(ctx, "candidate", "", file, &e.effective); err != nil {
		return err
	}
	if e.champion != nil && e.champion.quality.Task != e.candidate.quality.Task {
		return fault.New(fault.Invalid, "the candidate's answers are %s and those of version %d %s: they can't be compared", e.candidate.quality.Task, champion.Version, e.champion.quality.Task)
	}
	return nil
}

// opponent finds what the candidate is compared with; nil: a constant.
func (e *evaluation) opponent(ctx context.Context) (*model.Manifest, error) {
	if e.Against == Constant {
		return nil, nil //nolint:nilnil // there is none
	}
	ref := model.Ref{Name: e.data.Model, Version: string(e.Against)}
	if e.Against == model.Champion {
		ref.Version = "" // or, without one, the newest, which answers then
	}
	m, err := e.deps.Registry.Resolve(ctx, ref)
	if !fault.Is(err, fault.NotFound) {
		return m, err
	}
	if versions, none := e.deps.Registry.Versions(ctx, e.data.Model); fault.Is(none, fault.NotFound) || none == nil && len(versions) == 0 {
		return nil, nil //nolint:nilnil // it is the first
	}
	return nil, err
}

// taught finds out by its card until when the rows are that a version has learnt from: what nobody tells can't be said.
func (e *evaluation) taught(ctx context.Context, champion *model.Manifest) error {
	e.learntUntil = time.UnixMicro(math.MinInt64)
	raw, err := e.deps.Registry.Card(ctx, champion.Name, champion.Version)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	var card modelcard.Card
	if err == nil {
		err = json.Unmarshal(raw, &card)
	}
	switch kind := fault.KindOf(err); {
	case err == nil:
		e.learntUntil = card.Data.Cut
	case kind == fault.Unavailable, kind == fault.Overloaded, kind == fault.Deadline:
		return err
	default: // its card is damaged, which is no reason against the candidate
		e.task.Log.WarnContext(ctx, "nobody knows what the other has learnt from", "version", champion.Version, "error", err)
	}
	return nil
}

// inherit makes the settings of the candidate: those of the version before it, what the dataset says, and on top what the trainer asks for.
func (e *evaluation) inherit(champion *model.Manifest) error {
	if champion != nil {
		b, err := json.Marshal(champion.Settings) // a copy that shares nothing with what is warm
		if err == nil {
			err = json.Unmarshal(b, &e.effective)
		}
		if err != nil {
			return fmt.Errorf("copy the settings of version %d: %w", champion.Version, err)
		}
		e.effective.Labels = nil // they were the publisher's words about that one
		if !slices.EqualFunc(champion.Signature.Inputs, e.data.Inputs, sameInput) {
			e.effective.Warmup.Sample = nil // it may not be a request that this one can answer
		}
	} else {
		e.effective.Quality = e.data.Quality
	}
	if e.data.Features != nil {
		e.effective.Features = e.data.Features.Service
	}
	if e.task.Has("settings") {
		d := json.NewDecoder(bytes.NewReader(e.task.Inputs["settings"].Value))
		d.DisallowUnknownFields()
		if err := d.Decode(&e.effective); err != nil {
			return fault.Wrap(fault.Invalid, err, "the trainer's settings are none of a version: %s", err)
		}
	}
	if e.effective.Quality.Task == "" {
		e.effective.Quality.Task = e.data.Task
	}
	return nil
}

// player opens a model.
func (e *evaluation) player(ctx context.Context, what, runtime string, file []byte, s *model.Settings) (*player, error) {
	f, err := e.deps.Registry.Format(runtime)
	if err != nil {
		return nil, err
	}
	session, err := f.Open(ctx, file, engine.Options{Threads: s.Threads})
	if err != nil {
		return nil, fmt.Errorf("open the %s: %w", what, err)
	}
	e.open = append(e.open, func() { _ = session.Close() }) // which loses nothing
	return newPlayer(what, session, s, e.holdout)
}

// check notes what a check came to.
func (e *evaluation) check(name string, passed bool, format string, args ...any) {
	e.card.Verdict.Checks = append(e.card.Verdict.Checks, modelcard.Check{Name: name, Passed: passed, Why: fmt.Sprintf(format, args...)})
}

func (e *evaluation) fail(name, why string) { e.check(name, false, "%s", why) }

// judge makes all checks. A *strange is an answer of the candidate that is none.
func (e *evaluation) judge(ctx context.Context) error {
	rows := make([]int, 0, e.holdout.rows) // that both can be asked about
	for i := range e.holdout.rows {
		if e.candidate.canTake(i) && (e.champion == nil || e.champion.canTake(i)) {
			rows = append(rows, i)
		}
	}
	e.card.Data.LeftOut = int64(e.holdout.rows - len(rows))
	if len(rows) < e.Rows {
		return fault.New(fault.Invalid, "the holdout has %d rows that both can be asked about, and %d are the least", len(rows), e.Rows)
	}
	c, err := e.play(ctx, rows)
	if err != nil {
		return err
	}
	if err := e.sameAsTrainer(rows); err != nil {
		return err
	}
	if err := e.decide(c, len(rows)); err != nil {
		return err
	}
	if err := e.slices(c, rows); err != nil {
		return err
	}
	e.size()
	return e.latency(ctx, rows)
}

// play asks both.
func (e *evaluation) play(ctx context.Context, rows []int) (*comparison, error) {
	when, err := e.holdout.get(e.data.Time, "which says when a row was asked about")
	if err != nil {
		return nil, err
	}
	if when.whole == nil {
		return nil, fault.New(fault.Invalid, "the column %q of the holdout is no time", e.data.Time)
	}
	c := &comparison{spec: e.candidate.quality.Spec}
	micros := make([]int64, len(rows))
	for i, row := range rows {
		micros[i] = when.whole[row]
	}
	var width time.Duration
	for _, at := range micros {
		if at < e.learntUntil.UnixMicro() {
			e.card.Data.Learnt++
		}
	}
	if e.card.Data.Learnt > 0 {
		e.task.Log.WarnContext(ctx, "the other has learnt from some rows of the holdout, and looks better by them than it is", "version", e.card.Verdict.Against, "rows", e.card.Data.Learnt)
	}
	c.block, c.blocks, width = blocksOf(micros, time.Duration(e.Block))
	e.card.Data.Blocks, e.card.Data.Block = c.blocks, yamlwire.Duration(width).String()
	if c.blocks < blocksLeast {
		return nil, fault.New(fault.Invalid, "the holdout's rows are of %d blocks of %s, and %d are the least that tell by how much such rows differ: hold out a longer time, or say a shorter block", c.blocks, yamlwire.Duration(width), blocksLeast)
	}
	if c.truths, err = truths(e.holdout, e.data.Label, c.spec, rows); err != nil {
		return nil, err
	}
	done := func(n int) { e.task.Progress(int64(n), int64(len(rows)), "rows") }
	if e.champion != nil {
		if c.champion, err = e.champion.ask(ctx, rows, done); err != nil {
			if odd := (*strange)(nil); errors.As(err, &odd) { // which is not the candidate's
				return nil, fault.New(fault.Invalid, "%s", fault.Message(odd))
			}
			return nil, err
		}
	} else {
		a, err := constant(e.learnt, e.data.Label, c.spec, e.Metric == "rmse" || e.Metric == "r2")
		if err != nil {
			return nil, err
		}
		c.champion = slices.Repeat([]quality.Answer{a}, len(rows))
	}
	if c.candidate, err = e.candidate.ask(ctx, rows, done); err != nil {
		return nil, err
	}
	e.answers = c.candidate
	e.check("answers", true, "all %d are finite and what answers of the task can be", len(rows))
	return c, nil
}

// metric is the one that decides.
func (e *evaluation) metric(spec quality.Spec, of []modelcard.Measured) (string, error) {
	metric := e.Metric
	if metric == "" {
		switch spec.Task {
		case quality.Binary:
			metric = "log_loss"
		case quality.Multiclass:
			metric = "accuracy"
		default:
			metric = "mae"
		}
	}
	if !slices.ContainsFunc(of, func(m modelcard.Measured) bool { return m.Metric == metric }) {
		return "", fault.New(fault.Invalid, "%s can't decide: the candidate's answers are %s and do not tell it", metric, spec)
	}
	return metric, nil
}

// side is the chance of each side of an interval of 95 %.
const side = .025

// decide compares by the metric that decides.
func (e *evaluation) decide(c *comparison, rows int) error {
	all := make([]int, rows)
	for i := range all {
		all[i] = i
	}
	measured, _, err := c.measure(all, "", side)
	if err != nil {
		return err
	}
	metric, err := e.metric(c.spec, measured)
	if err != nil {
		return err
	}
	e.Metric = metric
	slices.SortStableFunc(measured, func(a, b modelcard.Measured) int { return order(b.Metric == metric) - order(a.Metric == metric) })
	e.card.Metrics = measured
	m := measured[0]
	e.card.Verdict.Deciding = m
	switch against := e.against(); {
	case m.Worse == nil: // which says nothing for the candidate
		e.fail("better", fmt.Sprintf("%s is %.4g, and there is none of %s to compare with: let another metric decide", metric, m.Candidate.Value, against))
	case m.Worse.Interval == nil:
		e.fail("better", fmt.Sprintf("%s is %.4g, and of %s %.4g; how sure that is can't be told", metric, m.Candidate.Value, against, m.Champion.Value))
	default:
		scale := math.Abs(m.Champion.Value)
		low, better, high := 0-m.Worse.Interval.High, 0-m.Worse.Value, 0-m.Worse.Interval.Low // 0-, for -0 is no number to show
		found := fmt.Sprintf("%s is %.4g, and %.4g of %s: better by %.3g, which lies between %.3g and %.3g", metric, m.Candidate.Value, m.Champion.Value, against, better, low, high)
		switch least := 0 - e.WorseBy*scale; {
		case better <= e.BetterBy*scale:
			e.fail("better", fmt.Sprintf("%s, and has to be more than %.3g", found, e.BetterBy*scale))
		case low < least:
			e.fail("better", fmt.Sprintf("%s, and has to be surely %.3g or more", found, least))
		default:
			e.check("better", true, "%s", found)
		}
	}
	return nil
}

func order(first bool) int {
	if first {
		return 1
	}
	return 0
}

func (e *evaluation) against() string {
	if e.champion == nil {
		return "a constant"
	}
	return e.champion.what
}

// The bounds of slices.
const (
	sliceValuesMost = 20 // of a column that are judged: the most frequent ones
	sliceShown      = 40
)

// slices looks for parts in which the candidate is surely worse, and by more than it may be. Surely is of all of them together.
func (e *evaluation) slices(c *comparison, rows []int) error {
	names := slices.Concat(e.Slices, e.effective.Quality.Slices, e.data.Slices)
	slices.Sort(names)
	type part struct {
		column, value string
		rows          []int
	}
	var parts []part
	for _, name := range slices.Compact(names) {
		column, err := e.holdout.get(name, "by which answers are to be told apart")
		if err != nil {
			return err
		}
		by := map[string][]int{}
		for i, row := range rows {
			text := column.text(row)
			by[text] = append(by[text], i)
		}
		var of []part
		for value, in := range by {
			if len(in) >= e.SliceRows {
				of = append(of, part{name, value, in})
			}
		}
		slices.SortFunc(of, func(a, b part) int {
			if d := len(b.rows) - len(a.rows); d != 0 {
				return d
			}
			return strings.Compare(a.value, b.value)
		})
		parts = append(parts, of[:min(len(of), sliceValuesMost)]...)
	}
	var behind []string
	for _, p := range parts {
		measured, _, err := c.measure(p.rows, e.Metric, side/float64(len(parts)))
		if err != nil {
			return err
		}
		if len(measured) == 0 {
			continue
		}
		s := modelcard.Slice{Column: p.column, Value: p.value, Rows: int64(len(p.rows)), Metric: measured[0]}
		if w := s.Metric.Worse; w != nil {
			s.Allowed = e.SliceBy * math.Abs(s.Metric.Champion.Value)
			s.Behind = w.Value > s.Allowed && w.Interval != nil && w.Interval.Low > 0
		}
		if s.Behind {
			behind = append(behind, fmt.Sprintf("%s=%s, where %s is %.4g and was %.4g", p.column, p.value, e.Metric, s.Metric.Candidate.Value, s.Metric.Champion.Value))
		}
		e.card.Slices = append(e.card.Slices, s)
	}
	if len(parts) == 0 {
		return nil
	}
	slices.SortStableFunc(e.card.Slices, func(a, b modelcard.Slice) int { return compareWorse(b.Metric.Worse, a.Metric.Worse) })
	e.card.Slices = e.card.Slices[:min(len(e.card.Slices), sliceShown)]
	if len(behind) > 0 {
		e.fail("slices", fmt.Sprintf("surely worse, and by more than %.3g of what it was, in %d of %d: %s", e.SliceBy, len(behind), len(parts), strings.Join(behind[:min(len(behind), 3)], "; ")))
		return nil
	}
	e.check("slices", true, "surely worse by more than %.3g of what it was in none of %d", e.SliceBy, len(parts))
	return nil
}

func compareWorse(a, b *quality.Metric) int {
	of := func(m *quality.Metric) float64 {
		if m == nil {
			return math.Inf(-1)
		}
		return m.Value
	}
	switch x, y := of(a), of(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func (e *evaluation) size() {
	if most := int64(e.Size); most > 0 {
		e.check("size", e.card.Size <= most, "it has %d bytes, of %d at most", e.card.Size, most)
	}
}

// beyondMost is the share of rows whose answers may differ from the trainer's by more than the tolerance: a tree that splits
// between two neighbours of single precision sends such a row another way.
const beyondMost = .001

// sameAsTrainer holds the file's answers against what its trainer says of the same rows.
func (e *evaluation) sameAsTrainer(rows []int) error {
	if e.files["predictions"] == "" {
		return nil
	}
	f, err := readFrame("predictions", e.files["predictions"], []string{train.PredictionColumn})
	if err != nil {
		return err
	}
	if f.rows != e.holdout.rows {
		e.fail("parity", fmt.Sprintf("the trainer tells %d predictions of %d rows", f.rows, e.holdout.rows))
		return nil
	}
	said := f.columns[train.PredictionColumn]
	p := &modelcard.Parity{Rows: int64(len(rows)), Tolerance: e.Parity}
	for i, row := range rows {
		a := &e.answers[i]
		if e.candidate.quality.Task == quality.Multiclass {
			if said.text(row) != a.Class {
				p.Beyond++
			}
			continue
		}
		n, ok := said.number(row)
		d := math.Abs(n - a.Number)
		if !ok || math.IsNaN(d) || d > e.Parity*max(1, math.Abs(n)) {
			p.Beyond++
		}
		if ok && !math.IsNaN(d) && !math.IsInf(d, 0) {
			p.Largest = max(p.Largest, d)
		}
	}
	e.card.Parity = p
	e.check("parity", float64(p.Beyond) <= beyondMost*float64(p.Rows), "%d of %d answers of the file differ from the trainer's own by more than %g, at most %.3g", p.Beyond, p.Rows, e.Parity, p.Largest)
	return nil
}

// conclude writes what was found, and refuses a candidate that did not pass.
func (e *evaluation) conclude(ctx context.Context) error {
	v := &e.card.Verdict
	v.Passed = true
	for _, c := range v.Checks {
		if !c.Passed {
			if v.Passed {
				v.Why = fmt.Sprintf("the candidate does not pass the check %s: %s", c.Name, c.Why)
			}
			v.Passed = false
		}
	}
	if v.Passed {
		for _, c := range v.Checks {
			if c.Name == "better" {
				v.Why = c.Why
			}
		}
		reference, err := e.reference()
		if err != nil {
			return err
		}
		e.card.Reference = modelcard.Refer(reference)
		if err := e.keep(ctx, "reference", reference); err != nil {
			return err
		}
	}
	if err := e.keep(ctx, "card", &e.card); err != nil {
		return err
	}
	told := *v
	if err := e.task.Tell("verdict", &told); err != nil {
		return err
	}
	for _, c := range v.Checks {
		e.task.Log.InfoContext(ctx, c.Name, "passed", c.Passed, "why", c.Why)
	}
	if !v.Passed {
		return pipeline.Refused("%s", v.Why)
	}
	return nil
}

// keep makes an output of JSON.
func (e *evaluation) keep(ctx context.Context, output string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write the %s: %w", output, err)
	}
	path := filepath.Join(e.task.Dir, output+".json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return e.task.Keep(ctx, output, path)
}

// reference is what the training part was like, and what the candidate said of the holdout.
func (e *evaluation) reference() (*drift.Profile, error) {
	var names []string
	for _, i := range e.data.Inputs {
		names = append(names, i.Name)
	}
	f, err := os.Open(e.files["train"])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	inputs, err := drift.FromParquet(f, info.Size(), names)
	if err != nil {
		return nil, fmt.Errorf("make a reference of the file train: %w", err)
	}
	text := e.candidate.quality.Task == quality.Multiclass
	spec := e.candidate.session.Signature().Outputs[e.candidate.output]
	if len(spec.Shape) > 1 && spec.Shape[1] != 1 || slices.Contains(names, spec.Name) {
		return inputs, nil // a list is nothing to compare, and an input of the name is what live data has under it
	}
	b := drift.NewBuilder([]drift.Field{{Name: spec.Name, Text: text}})
	for _, a := range e.answers {
		v := drift.Number(a.Number)
		if text {
			v = drift.Text(a.Class)
		}
		if err := b.Add([]drift.Value{v}); err != nil {
			return nil, err
		}
	}
	said, err := b.Profile()
	if err != nil {
		return nil, err
	}
	return inputs.With(said)
}

// sameInput tells whether two inputs take the same.
func sameInput(a, b tensor.Spec) bool { return a.Name == b.Name && a.Type == b.Type }

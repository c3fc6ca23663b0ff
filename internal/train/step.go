package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/train/command"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Config says which trainers there are beside the built-in ones. A definition names them only: else whoever may write a
// pipeline could run anything.
type Config struct {
	Trainers []string `env:"TRAINERS" help:"Programs that pipelines may train models by, as name=program: lightgbm=/opt/trainer.py,other=/usr/bin/python3 /opt/other.py,third=unix:/socket for one in another container. Whoever may write pipelines may run them."`
	Most     env.Size `env:"TRAINER_DISK" default:"2GiB" help:"How much a trainer may write to the disk."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Most <= 0 {
		return fault.New(fault.Invalid, "TRAINER_DISK must be positive")
	}
	_, err := c.commands()
	return err
}

// The trainers that are built in.
const (
	logistic = "logistic" // binary and multiclass
	straight = "linear"   // regression
)

// commands gives the words of each trainer that is a program.
func (c *Config) commands() (map[string][]string, error) {
	all := map[string][]string{}
	for _, t := range c.Trainers {
		name, line, _ := strings.Cut(strings.TrimSpace(t), "=")
		words := strings.Fields(line)
		switch {
		case model.CheckName(name) != nil || len(words) == 0:
			return nil, fault.New(fault.Invalid, "TRAINERS has %.100q, expected name=program", t)
		case name == logistic || name == straight || all[name] != nil:
			return nil, fault.New(fault.Invalid, "TRAINERS has %q, and there is a trainer of that name already", name)
		}
		all[name] = words
	}
	return all, nil
}

// trainWith is what a definition says of training.
type trainWith struct {
	Trainer string `yaml:"trainer"`
	// Options are for a trainer that is a program, which finds them in dataset.json.
	Options map[string]any `yaml:"options"`

	// Of the built-in trainers:
	MissingBelow *float64 `yaml:"missing_below"` // numbers below it are missing, as NaN is
	Words        int      `yaml:"words"`         // how often a text must be there to count as itself; by default 20 times
	Threshold    float64  `yaml:"threshold"`     // the label is 1 from this probability on; by default what quality says, or 0.5
}

const leastWords = 20

// trainer is the step.
type trainer struct {
	Deps
	trainWith
	words []string // of the program; nil: it is built in
}

func (d *Deps) newTrain(with yamlwire.Node) (pipeline.Step, error) {
	t := &trainer{Deps: *d, trainWith: trainWith{Words: leastWords}}
	if err := with.Into(&t.trainWith, "with"); err != nil {
		return nil, err
	}
	programs, err := d.Config.commands()
	if err != nil {
		return nil, err
	}
	names := slices.Concat([]string{logistic, straight}, slices.Sorted(maps.Keys(programs)))
	if t.words = programs[t.Trainer]; !slices.Contains(names, t.Trainer) {
		return nil, with.Fail("with.trainer is %.50q, expected one of %s; an operator names more of them in TRAINERS", t.Trainer, strings.Join(names, ", "))
	}
	switch {
	case t.words != nil && (t.MissingBelow != nil || t.Words != leastWords || t.Threshold != 0):
		return nil, with.Fail("with.missing_below, with.words and with.threshold are of the built-in trainers; what %s is to know stands in with.options", t.Trainer)
	case t.words == nil && len(t.Options) > 0:
		return nil, with.Fail("with.options is for trainers that are programs, and %s is built in", t.Trainer)
	case t.Words < 1:
		return nil, with.Fail("with.words is %d, expected 1 or more", t.Words)
	case !(t.Threshold >= 0 && t.Threshold <= 1):
		return nil, with.Fail("with.threshold is %v, expected a probability", t.Threshold)
	}
	return t, nil
}

// made is where the files are that a trainer wrote.
type made struct{ dir string }

func (m made) path(name string) string { return filepath.Join(m.dir, name) }

// The files that a trainer writes.
const (
	modelFile       = "model.onnx"
	metricsFile     = "metrics.json"
	predictionsFile = "predictions.parquet"
	settingsFile    = "settings.json"
)

// Run implements pipeline.Step.
func (s *trainer) Run(ctx context.Context, t *pipeline.Task) error {
	var d Dataset
	if err := t.Read("data", &d); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	rows, err := t.Fetch(ctx, "rows")
	if err != nil {
		return err
	}
	holdout, err := t.Fetch(ctx, "holdout")
	if err != nil {
		return err
	}
	out := made{filepath.Join(t.Dir, "output")}
	if err := os.Mkdir(out.dir, 0o700); err != nil {
		return err
	}
	begun := time.Now()
	if s.words != nil {
		err = s.run(ctx, t, &d, rows, holdout, out)
	} else {
		err = s.fit(ctx, t, &d, rows, holdout, out)
	}
	if err != nil {
		return err
	}
	t.Log.InfoContext(ctx, "trained", "trainer", s.Trainer, "took", time.Since(begun).Round(time.Millisecond))
	return s.take(ctx, t, &d, out)
}

// check refuses a dataset that no trainer can read.
func (d *Dataset) check() error {
	if err := (quality.Spec{Task: d.Task}).Validate(); err != nil {
		return fmt.Errorf("the dataset: %w", err)
	}
	if len(d.Inputs) == 0 || d.Label == "" || d.Task == quality.Multiclass && len(d.Classes) < 2 || !slices.IsSorted(d.Classes) {
		return fault.New(fault.Invalid, "the dataset says no inputs, no label or no classes")
	}
	for _, in := range d.Inputs {
		if types[in.Type] == 0 || len(in.Shape) != 1 && (len(in.Shape) != 2 || in.Shape[1] != 1) {
			return fault.New(fault.Invalid, "the dataset's input %q is of type %s and shape %s, expected one value a row", in.Name, in.Type, tensor.FormatShape(in.Shape))
		}
	}
	return nil
}

// run has a program train.
func (s *trainer) run(ctx context.Context, t *pipeline.Task, d *Dataset, rows, holdout string, out made) error {
	folder := filepath.Join(t.Dir, "dataset")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	said, err := json.Marshal(struct {
		*Dataset
		Options map[string]any `json:"options,omitempty"`
	}{d, s.Options})
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(folder, "dataset.json"), said, 0o600),
			os.Rename(rows, filepath.Join(folder, "train.parquet")), os.Rename(holdout, filepath.Join(folder, "holdout.parquet")))
	}
	if err != nil {
		return err
	}
	c := command.Command{
		Name: s.Trainer, Words: s.words, Dataset: folder, Output: out.dir, Scratch: filepath.Join(t.Dir, "scratch"), Most: int64(s.Config.Most), Log: t.Log,
	}
	return c.Run(ctx)
}

// fit trains what is built in.
func (s *trainer) fit(ctx context.Context, t *pipeline.Task, d *Dataset, rows, holdout string, out made) error {
	if (s.Trainer == straight) != (d.Task == quality.Regression) {
		return fault.New(fault.Invalid, "trainer %s is not for a %s task: %s is for amounts, %s for what is so or not, and for classes", s.Trainer, d.Task, straight, logistic)
	}
	learn, err := read(ctx, d, rows, d.Rows.Train)
	if err != nil {
		return err
	}
	if err := various(d, learn); err != nil {
		return err
	}
	o := &options{below: math.Inf(-1), least: s.Words, l2: l2s}
	if s.MissingBelow != nil {
		o.below = *s.MissingBelow
	}
	m, err := fit(ctx, d.Task, len(d.Classes), learn, o, func(done, total int) { t.Progress(int64(done), int64(total), "fits") })
	if err != nil {
		return err
	}
	f, same := faceOf(d)
	if !same {
		t.Log.WarnContext(ctx, "the model answers by other outputs than the version before it, as a linear model has not the same", "answer", f.answer.Name)
	}
	threshold := s.Threshold
	if threshold == 0 {
		threshold = d.Quality.Threshold
	}
	if threshold == 0 {
		threshold = 0.5
	}
	if err := os.WriteFile(out.path(modelFile), m.onnx(d, f, threshold), 0o600); err != nil {
		return err
	}
	check, err := read(ctx, d, holdout, d.Rows.Holdout)
	if err != nil {
		return err
	}
	spec := quality.Spec{Task: d.Task, Quantile: d.Quality.Quantile}
	settings := model.Settings{Quality: model.Quality{Spec: spec, Output: f.answer.Name}}
	if d.Task == quality.Binary {
		settings.Quality.Threshold = threshold
	}
	metrics, err := m.answer(d, settings.Quality.Spec, check, out.path(predictionsFile))
	if err != nil {
		return err
	}
	metrics["l2"], metrics["weights"], metrics["rows"] = m.l2, float64(len(m.weights)), float64(learn.n)
	t.Log.InfoContext(ctx, "fitted", "weights", len(m.weights), "l2", m.l2, "loss", m.loss)
	return errors.Join(writeJSON(out.path(metricsFile), metrics), writeJSON(out.path(settingsFile), settings))
}

// various refuses labels that are all alike.
func various(d *Dataset, t *table) error {
	for i, y := range t.labels {
		switch {
		case d.Task == quality.Regression && !(math.Abs(y) <= quality.MaxNumber):
			return fault.New(fault.Invalid, "row %d has the label %v, which can't be reckoned with", i, y)
		case d.Task == quality.Binary && y != 0 && y != 1:
			return fault.New(fault.Invalid, "row %d has the label %v; of a binary task it is 0 or 1", i, y)
		}
	}
	if d.Task == quality.Regression {
		return nil
	}
	for _, y := range t.labels {
		if y != t.labels[0] {
			return nil
		}
	}
	return fault.New(fault.Invalid, "all %d rows have the same label: there is nothing to tell apart", t.n)
}

// answer writes what the model says of rows, and measures it.
func (m *linear) answer(d *Dataset, spec quality.Spec, t *table, path string) (metrics map[string]float64, err error) {
	state, err := quality.NewState(spec)
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := parquet.NewGenericWriter[any](f, predictionSchema(d.Task), parquet.MaxRowsPerRowGroup(1<<16))
	err = m.answers(m.e.encode(t), func(i int, answer []float64) error {
		a, truth, y := quality.Answer{Number: answer[0]}, quality.Truth{}, t.labels[i]
		value := parquet.DoubleValue(answer[0])
		switch m.task {
		case quality.Binary:
			truth.Yes = y == 1
		case quality.Multiclass:
			best := 0
			a = quality.Answer{}
			for k, p := range answer {
				if p > answer[best] {
					best = k
				}
				a.Probabilities = append(a.Probabilities, quality.Probability{Class: d.Classes[k], P: p})
			}
			a.Class, truth.Class = d.Classes[best], "(another)"
			if y >= 0 {
				truth.Class = d.Classes[int(y)]
			}
			value = parquet.ByteArrayValue([]byte(a.Class))
		default:
			truth.Number = y
		}
		if _, err := out.WriteRows([]parquet.Row{{value.Level(0, 0, 0)}}); err != nil {
			return err
		}
		if err := state.Predicted(a); err != nil {
			return err
		}
		return state.Add(a, truth, 0)
	})
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	metrics = map[string]float64{}
	for name, metric := range state.Report().Metrics {
		told := name == "coverage" || strings.HasPrefix(name, "label_delay") // of outcomes, and not of the model
		if !told && !math.IsNaN(metric.Value) && !math.IsInf(metric.Value, 0) {
			metrics[name] = metric.Value
		}
	}
	return metrics, nil
}

func predictionSchema(task quality.Task) *parquet.Schema {
	node := parquet.Leaf(parquet.DoubleType)
	if task == quality.Multiclass {
		node = parquet.String()
	}
	return parquet.NewSchema("predictions", parquet.Group{PredictionColumn: node})
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// take checks what a trainer wrote, and makes it the step's outputs.
func (s *trainer) take(ctx context.Context, t *pipeline.Task, d *Dataset, out made) error {
	settings, err := s.settings(out)
	if err != nil {
		return err
	}
	answer := d.Quality.Output
	if settings != nil && settings.Quality.Output != "" {
		answer = settings.Quality.Output
	}
	if err := s.try(ctx, d, out, answer); err != nil {
		return err
	}
	metrics, err := s.metrics(out)
	if err != nil {
		return err
	}
	if settings != nil {
		if err := t.Tell("settings", settings); err != nil {
			return err
		}
	}
	if err := t.Tell("metrics", metrics); err != nil {
		return err
	}
	if _, err := regular(out.path(predictionsFile)); err == nil {
		if err := t.Keep(ctx, "predictions", out.path(predictionsFile)); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return t.Keep(ctx, "model", out.path(modelFile))
}

// regular gives the size of a file, which must be one: a trainer could name any other by a link.
func regular(path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fault.New(fault.Invalid, "the trainer's %s is no regular file", filepath.Base(path))
	}
	return info.Size(), nil
}

// jsonMost is how many bytes metrics and settings may have.
const jsonMost = 64 << 10

// small reads a small file that a trainer wrote; there is none where b is nil.
func small(path string) (b []byte, err error) {
	size, err := regular(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case size > jsonMost:
		return nil, fault.New(fault.Invalid, "the trainer's %s has %d bytes, more than %d", filepath.Base(path), size, jsonMost)
	}
	return os.ReadFile(path)
}

// metrics reads numbers by name.
func (s *trainer) metrics(out made) (map[string]float64, error) {
	b, err := small(out.path(metricsFile))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fault.New(fault.Invalid, "trainer %s wrote no %s", s.Trainer, metricsFile)
	}
	var told map[string]*float64 // null is no number
	err = json.Unmarshal(b, &told)
	metrics := map[string]float64{}
	for name, value := range told {
		if value == nil {
			err = fault.New(fault.Invalid, "%q is null", name)
			break
		}
		metrics[name] = *value
	}
	if err != nil || told == nil {
		return nil, fault.Wrap(fault.Invalid, err, "%s of trainer %s is not one object of numbers, such as {\"log_loss\": 0.4}; JSON has no NaN", metricsFile, s.Trainer)
	}
	return metrics, nil
}

// settings reads what a trainer asks for of the version; nil: nothing.
func (s *trainer) settings(out made) (*model.Settings, error) {
	b, err := small(out.path(settingsFile))
	if err != nil || b == nil {
		return nil, err
	}
	settings := &model.Settings{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(settings); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "%s of trainer %s is not settings of a version: %s", settingsFile, s.Trainer, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Invalid, "%s of trainer %s has more than one object", settingsFile, s.Trainer)
	}
	return settings, nil
}

// try opens the model and runs it once, so that what can't be served goes no further.
func (s *trainer) try(ctx context.Context, d *Dataset, out made, answer string) error {
	size, err := regular(out.path(modelFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Invalid, "trainer %s wrote no %s", s.Trainer, modelFile)
	}
	if err != nil {
		return err
	}
	if size > int64(s.Config.Most) {
		return fault.New(fault.Invalid, "the model of trainer %s has %d bytes, more than %d", s.Trainer, size, s.Config.Most)
	}
	artifact, err := os.ReadFile(out.path(modelFile))
	if err != nil {
		return err
	}
	session, err := s.Format.Open(ctx, artifact, engine.Options{Threads: 1})
	if err != nil {
		return fmt.Errorf("open the model of trainer %s: %w", s.Trainer, err)
	}
	defer func() { _ = session.Close() }()
	signature := session.Signature()
	if err := d.fits(&signature, answer); err != nil {
		return fault.Wrap(fault.Invalid, err, "the model of trainer %s can't take the place of %s: %s", s.Trainer, d.Model, fault.Message(err))
	}
	var inputs []tensor.Tensor
	for _, spec := range signature.Inputs {
		t := tensor.Tensor{Name: spec.Name, Type: spec.Type, Shape: []int64{1, 1}[:len(spec.Shape)], Strings: []string{""}}
		if spec.Type != tensor.Bytes {
			t.Strings, t.Data = nil, make([]byte, spec.Type.Size())
		}
		inputs = append(inputs, t)
	}
	if _, err := session.Run(ctx, inputs); err != nil {
		return fmt.Errorf("run the model of trainer %s: %w", s.Trainer, err)
	}
	return nil
}

// fits compares what a model takes and gives with what it is to.
func (d *Dataset) fits(s *engine.Signature, answer string) error {
	one := func(shape []int64) bool {
		return len(shape) > 0 && shape[0] < 0 && (len(shape) == 1 || len(shape) == 2 && (shape[1] == 1 || shape[1] < 0))
	}
	for _, want := range d.Inputs {
		at := slices.IndexFunc(s.Inputs, func(in tensor.Spec) bool { return in.Name == want.Name })
		switch {
		case at < 0:
			return fault.New(fault.Invalid, "it has no input %q", want.Name)
		case s.Inputs[at].Type != want.Type || !one(s.Inputs[at].Shape):
			return fault.New(fault.Invalid, "its input %q is %s %s, expected %s %s", want.Name, s.Inputs[at].Type, tensor.FormatShape(s.Inputs[at].Shape), want.Type, tensor.FormatShape(want.Shape))
		}
	}
	for _, in := range s.Inputs {
		if !slices.ContainsFunc(d.Inputs, func(want tensor.Spec) bool { return want.Name == in.Name }) {
			return fault.New(fault.Invalid, "it has an input %q, which is no column of the dataset", in.Name)
		}
	}
	if !slices.ContainsFunc(s.Outputs, func(o tensor.Spec) bool { return o.Name == answer }) {
		return fault.New(fault.Invalid, "it has no output %q, which is to be the answer; quality.output of %s names another", answer, settingsFile)
	}
	return nil
}

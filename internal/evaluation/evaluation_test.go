package evaluation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/train"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// flight is a row. Each of its numbers is what a model makes its answer of, so that which of them it reads says how good it is.
type flight struct {
	Near    float32  `parquet:"near"`    // nearly what the chance of yes is, as a logit
	Far     float32  `parquet:"far"`     // with more noise
	Other   float32  `parquet:"other"`   // with as much, of its own
	Uneven  float32  `parquet:"uneven"`  // as near, but for one carrier
	Holes   *float32 `parquet:"holes"`   // as near, and missing now and then
	Amount  float32  `parquet:"amount"`  // beyond 1
	Hour    *int64   `parquet:"hour"`    // missing now and then
	Carrier string   `parquet:"carrier"` // by which answers are told apart
	Label   float64  `parquet:"label"`
	Time    int64    `parquet:"event_timestamp,timestamp(microsecond)"`
}

const perDay = 150

var begun = time.Date(2013, 10, 1, 0, 0, 0, 0, time.UTC)

func flights(days int, seed uint64) (rows []flight) {
	random := rand.New(rand.NewPCG(seed, 8))
	for day := range days {
		weather := .5 * random.NormFloat64()
		for i := range perDay {
			truth := 1.5*random.NormFloat64() + weather
			near := float32(truth + .2*random.NormFloat64())
			f := flight{
				Near: near, Far: float32(truth + 1.2*random.NormFloat64()), Other: float32(truth + 1.2*random.NormFloat64()), Uneven: near, Holes: &near, Amount: float32(2 + truth*truth),
				Hour: new(int64(i % 24)), Carrier: []string{"AA", "B6", "DL", "UA", "WN"}[random.IntN(5)],
				Time: begun.AddDate(0, 0, day).Add(time.Duration(i) * time.Minute).UnixMicro(),
			}
			if random.Float64() < sigmoid(truth) {
				f.Label = 1
			}
			if f.Carrier == "WN" {
				f.Uneven = -near / 2
			}
			if i%50 == 7 {
				f.Holes, f.Hour = nil, nil
			}
			rows = append(rows, f)
		}
	}
	return rows
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// reads is a model that makes the probability of one column.
func reads(column string) []byte {
	return onnxtest.Apply("Sigmoid", []onnxwire.Value{onnxwire.Tensor(column, tensor.FP32, -1, 1)}, []onnxwire.Value{onnxwire.Tensor("probability", tensor.FP32, -1, 1)}).Bytes()
}

// slow gives the same after it has multiplied large matrices, the more of them the slower.
func slow(column string, layers int) []byte {
	const width = 512
	m := onnxwire.Model{Graph: onnxwire.Graph{
		Inputs: []onnxwire.Value{onnxwire.Tensor(column, tensor.FP32, -1, 1)}, Outputs: []onnxwire.Value{onnxwire.Tensor("probability", tensor.FP32, -1, 1)},
		Constants: []tensor.Tensor{tensor.Of("zero", []int64{1, 1}, []float32{0})},
		Weights:   []tensor.Spec{{Name: "in", Shape: []int64{1, width}}, {Name: "w", Shape: []int64{width, width}}, {Name: "out", Shape: []int64{width, 1}}},
		Nodes:     []onnxwire.Node{{Op: "MatMul", In: []string{column, "in"}, Out: []string{"h0"}}},
	}}
	last := "h0"
	for i := range layers {
		next := "h" + string(rune('a'+i))
		m.Nodes = append(m.Nodes, onnxwire.Node{Op: "MatMul", In: []string{last, "w"}, Out: []string{next}})
		last = next
	}
	m.Nodes = append(m.Nodes,
		onnxwire.Node{Op: "MatMul", In: []string{last, "out"}, Out: []string{"y"}}, onnxwire.Node{Op: "Mul", In: []string{"y", "zero"}, Out: []string{"nothing"}},
		onnxwire.Node{Op: "Add", In: []string{column, "nothing"}, Out: []string{"logit"}}, onnxwire.Node{Op: "Sigmoid", In: []string{"logit"}, Out: []string{"probability"}})
	return m.Bytes()
}

// world is a bucket, and what is evaluated in it.
type world struct {
	t        *testing.T
	blob     store.Blob
	registry *model.Registry
	data     train.Dataset
	train    []flight
	holdout  []flight
}

func newWorld(t *testing.T, days int) *world {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Level: slog.LevelError, Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, train: flights(20, 1), holdout: flights(days, 2)}
	if w.blob, err = memstore.OpenBlob(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	c := &model.Config{CacheDir: t.TempDir(), CacheSize: 64 << 20, Memory: 1 << 30, Refresh: time.Hour, Fetch: 1, Load: time.Minute}
	if w.registry, err = model.Open(c, w.blob, nil, []engine.Format{onnxtest.Format(t)}, nil, tel); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.registry.Close() })
	w.data = train.Dataset{
		Model: "late", Task: quality.Binary, Label: train.LabelColumn, Time: train.TimeColumn, Inputs: []tensor.Spec{{Name: "near", Type: tensor.FP32, Shape: []int64{-1, 1}}},
		Slices: []string{"carrier"}, From: begun, Cut: begun, Until: begun.AddDate(0, 0, days), Rows: train.Counts{Train: int64(len(w.train)), Holdout: int64(len(w.holdout))}, Source: train.FromFeedback,
		Features: &train.Features{Service: "flights", Version: 3, Views: map[string]int{"weather": 2}},
	}
	return w
}

// champion publishes a version.
func (w *world) champion(file []byte) {
	w.t.Helper()
	if _, err := w.registry.Push(w.t.Context(), model.Push{Name: "late", Settings: model.Settings{Threads: 1, Labels: map[string]string{"who": "me"}}}, bytes.NewReader(file)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) task(file []byte) *pipeline.Task {
	w.t.Helper()
	t := &pipeline.Task{
		Pipeline: "flights", Run: "7", Step: "judge", Attempt: 1, Started: begun, Dir: w.t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Blob: w.blob, Inputs: map[string]pipeline.Artifact{}, Outputs: map[string]pipeline.Artifact{}, Progress: func(int64, int64, string) {},
	}
	value, err := json.Marshal(w.data)
	if err != nil {
		w.t.Fatal(err)
	}
	t.Inputs["data"] = pipeline.Artifact{Value: value}
	put(w, t, "train", parquetOf(w.t, w.train))
	put(w, t, "holdout", parquetOf(w.t, w.holdout))
	put(w, t, "model", file)
	return t
}

func put(w *world, t *pipeline.Task, input string, b []byte) {
	w.t.Helper()
	path := filepath.Join(t.Dir, input+map[bool]string{true: ".onnx", false: ".parquet"}[input == "model"])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := t.Keep(w.t.Context(), input, path); err != nil {
		w.t.Fatal(err)
	}
	t.Inputs[input] = t.Outputs[input]
	delete(t.Outputs, input)
}

func parquetOf[T any](t *testing.T, rows []T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := parquet.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type prediction struct {
	Prediction float64 `parquet:"prediction"`
}

func (w *world) evaluate(t *pipeline.Task, with string) (*modelcard.Card, error) {
	w.t.Helper()
	kind := Kinds(Deps{w.registry})[0]
	step, err := kind.New(node(w.t, with))
	if err != nil {
		return nil, err
	}
	failed := step.Run(w.t.Context(), t)
	if _, told := t.Outputs["card"]; !told {
		return nil, failed
	}
	b, _, err := store.ReadAll(w.t.Context(), w.blob, t.Outputs["card"].Key)
	if err != nil {
		w.t.Fatal(err)
	}
	card := &modelcard.Card{}
	if err := json.Unmarshal(b, card); err != nil {
		w.t.Fatal(err)
	}
	return card, failed
}

func node(t *testing.T, text string) yamlwire.Node {
	t.Helper()
	docs, err := yamlwire.Read[struct {
		With yamlwire.Node `yaml:"with"`
	}]("test", []byte("with: "+text))
	if err != nil {
		t.Fatal(err)
	}
	return docs[0].With
}

// TestCandidates has candidates of each kind judged by their numbers.
func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		name      string
		champion  string // the column that it reads
		candidate []byte
		with      string
		check     string // that it does not pass; "": it passes
		why       string
	}{
		{"better", "far", reads("near"), `{}`, "", "log_loss is 0.5213, and 0.6207 of version 1: better by 0.0993"},
		{"better by auc", "far", reads("near"), `{metric: auc}`, "", "auc is 0.8"},
		{"worse", "near", reads("far"), `{}`, "better", "log_loss is 0.6"},
		{"worse by auc", "near", reads("far"), `{metric: auc}`, "better", "auc is 0.7"},
		{"as good", "far", reads("other"), `{}`, "better", "which lies between"},
		{"the same", "far", reads("far"), `{may_be_worse_by: 0.5}`, "better", "better by 0, which lies between 0 and 0, and has to be more than 0"},
		{"not better enough", "far", reads("near"), `{better_by: 0.9}`, "better", "and has to be more than 0.5"},
		{"one bad slice", "far", reads("uneven"), `{may_be_worse_by: 1}`, "slices", "carrier=WN, where log_loss is"},
		{"a slice that may be bad", "far", reads("uneven"), `{may_be_worse_by: 1, better_by: 0, slice_by: 20}`, "", "log_loss"},
		{"too large", "far", slow("near", 1), `{max_size: 1MiB, max_latency_ratio: 1000000}`, "size", "bytes, of 1048576 at most"},
		{"too slow", "far", slow("near", 20), `{max_latency_ratio: 2, latency_from: 0s}`, "latency", "times, of 2 at most"},
		{"slow, and fast enough", "far", slow("near", 1), `{max_latency_ratio: 0.001, latency_from: 1h}`, "", "log_loss"},
		{"says nothing", "far", reads("holes"), `{}`, "answers", "is no answer for row 7: the answer is NaN, expected a probability"},
		{"no probability", "far", onnxtest.Apply("Exp", []onnxwire.Value{onnxwire.Tensor("amount", tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("probability", tensor.FP32, -1)}).Bytes(), `{}`, "answers", "expected a probability from 0 to 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 14)
			w.champion(reads(c.champion))
			task := w.task(c.candidate)
			card, err := w.evaluate(task, c.with)
			if card == nil {
				t.Fatal(err)
			}
			t.Log(card.Verdict.Why)
			var verdict modelcard.Verdict
			if err := json.Unmarshal(task.Outputs["verdict"].Value, &verdict); err != nil {
				t.Fatal(err)
			}
			failed := ""
			for _, k := range card.Verdict.Checks {
				if !k.Passed {
					failed += k.Name
				}
			}
			if !strings.HasPrefix(failed, c.check) || c.check == "" && failed != "" || card.Verdict.Passed != (c.check == "") || verdict.Passed != card.Verdict.Passed || !strings.Contains(card.Verdict.Why, c.why) {
				t.Errorf("got %q: %s", failed, card.Verdict.Why)
			}
			if card.Verdict.Passed != (err == nil) || err != nil && (!fault.Is(err, fault.Conflict) || err.Error() != card.Verdict.Why) {
				t.Errorf("got %v", err)
			}
			if _, told := task.Outputs["reference"]; told != card.Verdict.Passed {
				t.Errorf("the reference is there: %t", told)
			}
		})
	}
}

// TestCard looks at all that a card says.
func TestCard(t *testing.T) {
	w := newWorld(t, 14)
	w.champion(reads("far"))
	task := w.task(reads("near"))
	put(w, task, "predictions", parquetOf(t, predictions(w.holdout, 0)))
	task.Inputs["settings"] = pipeline.Artifact{Value: []byte(`{"labels":{"trainer":"logistic"},"cache":{"ttl":"1m"}}`)}
	task.Inputs["metrics"] = pipeline.Artifact{Value: []byte(`{"loss":0.5}`)}
	card, err := w.evaluate(task, `{slices: [hour]}`)
	if err != nil {
		t.Fatal(err)
	}
	if s := card.Settings; s.Threads != 1 || s.Labels["trainer"] != "logistic" || s.Labels["who"] != "" || s.Features != "flights" || s.Cache.TTL != model.Duration(time.Minute) || s.Quality.Task != quality.Binary {
		t.Errorf("the settings are the champion's with the trainer's on top: got %+v", s)
	}
	if card.Model != "late" || card.Run != "7" || card.Verdict.Against != 1 || card.Trainer["loss"] != .5 || card.Data.Blocks != 14 || card.Data.Holdout != 14*perDay || card.Data.LeftOut != 0 || card.Data.Views["weather"] != 2 {
		t.Errorf("got %+v", card)
	}
	if p := card.Parity; p == nil || p.Rows != 14*perDay || p.Beyond != 0 || p.Largest > 1e-6 {
		t.Errorf("got %+v", p)
	}
	m := card.Metrics[0]
	if m.Metric != "log_loss" || m.Candidate.Interval == nil || m.Champion == nil || m.Worse == nil || math.Abs(m.Candidate.Value-m.Champion.Value-m.Worse.Value) > 1e-12 || m.Worse.Interval.High >= 0 || len(card.Metrics) < 8 {
		t.Errorf("got %+v", card.Metrics)
	}
	if len(card.Slices) != 5 || card.Latency.Champion == nil || card.Latency.Candidate.P50 <= 0 || card.Latency.Rows != latencyRows {
		t.Errorf("got %d slices, latency %+v", len(card.Slices), card.Latency)
	}
	b, _, err := store.ReadAll(t.Context(), w.blob, task.Outputs["reference"].Key)
	if err != nil {
		t.Fatal(err)
	}
	p, err := drift.Parse(b)
	if err != nil || len(p.Columns()) != 2 || p.Rows() != 20*perDay || p.Columns()[1].Name != "probability" || p.Columns()[1].Rows != 14*perDay || card.Reference.Digest != p.Digest() {
		t.Errorf("got %v, %+v", err, card.Reference)
	}
	text := card.Markdown()
	for _, want := range []string{
		"# late\n", "**Passed**: log_loss is", "- 2100 rows held out", "14 blocks of 1d", "weather@2", "- trainer: logistic", "| log_loss | 0.", "| carrier=WN |", "- [x] parity: 0 of 2100", "| near | numeric | 0 |", "- loss: 0.5",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the card does not say %q:\n%s", want, text)
		}
	}
}

// A metric that the other does not have decides nothing for the candidate.
func TestNothingToCompareWith(t *testing.T) {
	w := newWorld(t, 14)
	for i := range w.holdout {
		w.holdout[i].Far = -3 // never yes, so that there is no precision
	}
	w.champion(reads("far"))
	if card, err := w.evaluate(w.task(reads("near")), `{metric: precision}`); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "there is none of version 1 to compare with") || card.Verdict.Passed {
		t.Errorf("got %v", err)
	}
}

// Of a champion that has learnt from rows of the holdout the card tells how many.
func TestWhatTheChampionHasLearntFrom(t *testing.T) {
	for content, want := range map[string]int64{
		`{"data":{"cut":"2013-10-03T00:00:00Z"}}`: 2 * perDay, `{"data":{"cut":"2013-10-01T00:00:00Z"}}`: 0, `{"data":7}`: 0, "": 0,
	} {
		w := newWorld(t, 14)
		w.champion(reads("far"))
		if content != "" {
			if err := w.registry.PutCard(t.Context(), "late", 1, []byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		card, err := w.evaluate(w.task(reads("near")), `{}`)
		if err != nil || card.Data.Learnt != want || strings.Contains(card.Markdown(), "from 300 of them version 1 has learnt") != (want > 0) {
			t.Errorf("%s: got %v, %+v", content, err, card)
		}
	}
}

func predictions(rows []flight, wrong int) (all []prediction) {
	for i := range rows {
		p := prediction{sigmoid(float64(rows[i].Near))}
		if i < wrong {
			p.Prediction = 1 - p.Prediction
		}
		all = append(all, p)
	}
	return all
}

// A file that says something else than its trainer is refused, however well it does.
func TestParity(t *testing.T) {
	w := newWorld(t, 14)
	w.champion(reads("far"))
	for wrong, passes := range map[int]bool{0: true, 2: true, 3: false, 2100: false} {
		task := w.task(reads("near"))
		put(w, task, "predictions", parquetOf(t, predictions(w.holdout, wrong)))
		card, err := w.evaluate(task, `{}`)
		if card == nil || (err == nil) != passes || !passes && !strings.Contains(err.Error(), "the check parity") || card.Parity.Beyond > int64(wrong) {
			t.Errorf("%d wrong: got %v", wrong, err)
		}
	}
	task := w.task(reads("near"))
	put(w, task, "predictions", parquetOf(t, predictions(w.holdout[1:], 0)))
	if _, err := w.evaluate(task, `{}`); err == nil || !strings.Contains(err.Error(), "the trainer tells 2099 predictions of 2100 rows") {
		t.Errorf("got %v", err)
	}
}

// The first version of a model has to be better than a constant.
func TestTheFirstOfAModel(t *testing.T) {
	for _, c := range []struct {
		column string
		passes bool
	}{{"near", true}, {"constant", false}} {
		w := newWorld(t, 14)
		for _, rows := range [][]flight{w.train, w.holdout} {
			for i := range rows {
				if c.column == "constant" {
					rows[i].Far = float32(i%7) - 3 // which knows nothing
				}
			}
		}
		file := reads(map[bool]string{true: "near", false: "far"}[c.passes])
		w.data.Inputs[0].Name = map[bool]string{true: "near", false: "far"}[c.passes]
		card, err := w.evaluate(w.task(file), `{}`)
		if card == nil || (err == nil) != c.passes || card.Verdict.Against != 0 || !strings.Contains(card.Verdict.Why, "of a constant") || card.Metrics[0].Champion == nil {
			t.Errorf("%s: got %v", c.column, err)
		}
	}
}

// Rows that nobody could have asked about, because a value is missing that has no word, are left out, and counted.
func TestRowsThatNobodyCouldAsk(t *testing.T) {
	w := newWorld(t, 14)
	w.champion(reads("far"))
	m := onnxwire.Model{Graph: onnxwire.Graph{
		Inputs:    []onnxwire.Value{onnxwire.Tensor("near", tensor.FP32, -1), onnxwire.Tensor("hour", tensor.Int64, -1)},
		Outputs:   []onnxwire.Value{onnxwire.Tensor("probability", tensor.FP32, -1)},
		Constants: []tensor.Tensor{tensor.Of("zero", []int64{1}, []float32{0})},
		Nodes: []onnxwire.Node{
			{Op: "Cast", In: []string{"hour"}, Out: []string{"h"}, Attributes: []onnxwire.Attribute{{Name: "to", Value: int64(1)}}},
			{Op: "Mul", In: []string{"h", "zero"}, Out: []string{"z"}},
			{Op: "Add", In: []string{"near", "z"}, Out: []string{"logit"}},
			{Op: "Sigmoid", In: []string{"logit"}, Out: []string{"probability"}},
		},
	}}
	task := w.task(m.Bytes())
	put(w, task, "predictions", parquetOf(t, predictions(w.holdout, 0)))
	card, err := w.evaluate(task, `{}`)
	if err != nil || card.Data.LeftOut != 14*3 || card.Parity.Rows != 14*(perDay-3) || card.Parity.Beyond != 0 {
		t.Errorf("got %v, %+v", err, card)
	}
}

// What can't be compared ends the run with a sentence that says why, and is no verdict.
func TestWhatCantBeJudged(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(w *world, t *pipeline.Task)
		with  string
		want  string
	}{
		{"a broken model", func(w *world, t *pipeline.Task) { put(w, t, "model", []byte("no model")) }, `{}`, "open the candidate"},
		{"no file", func(w *world, t *pipeline.Task) { put(w, t, "holdout", []byte("no parquet")) }, `{}`, "the file holdout can't be read as Parquet"},
		{"half a file", func(w *world, t *pipeline.Task) {
			b := parquetOf(w.t, w.holdout)
			put(w, t, "holdout", b[:len(b)/2])
		}, `{}`, "the file holdout can't be read as Parquet"},
		{"another input", func(w *world, t *pipeline.Task) { put(w, t, "model", reads("nowhere")) }, `{}`, `the file holdout has no column "nowhere", which the candidate takes as an input`},
		{"too few rows", func(w *world, t *pipeline.Task) {}, `{rows: 5000}`, "the holdout has 2100 rows that both can be asked about, and 5000 are the least"},
		{"too few days", func(w *world, t *pipeline.Task) { put(w, t, "holdout", parquetOf(w.t, w.holdout[:4*perDay])) }, `{}`, "of 4 blocks of 1d, and 5 are the least"},
		{"no such slice", func(w *world, t *pipeline.Task) {}, `{slices: [nowhere]}`, `no column "nowhere", by which answers are to be told apart`},
		{"no such version", func(w *world, t *pipeline.Task) {}, `{against: 9}`, `model "late" has no version 9`},
		{"no such alias", func(w *world, t *pipeline.Task) {}, `{against: best}`, `has no version or alias "best"`},
		{"no such metric", func(w *world, t *pipeline.Task) {}, `{metric: mae}`, "mae can't decide: the candidate's answers are binary"},
		{"odd settings", func(w *world, t *pipeline.Task) {
			t.Inputs["settings"] = pipeline.Artifact{Value: []byte(`{"thread":1}`)}
		}, `{}`, `the trainer's settings are none of a version`},
		{"labels of another task", func(w *world, t *pipeline.Task) {
			for i := range w.holdout {
				w.holdout[i].Label = 7
			}
			put(w, t, "holdout", parquetOf(w.t, w.holdout))
		}, `{}`, "the label of row 0 of the file holdout: the outcome is 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 14)
			w.champion(reads("far"))
			task := w.task(reads("near"))
			c.alter(w, task)
			_, err := w.evaluate(task, c.with)
			if (!fault.Is(err, fault.Invalid) && !fault.Is(err, fault.NotFound)) || !strings.Contains(err.Error(), c.want) || len(task.Outputs) > 0 {
				t.Errorf("got %v, outputs %v", err, task.Outputs)
			}
		})
	}
	kind := Kinds(Deps{})[0]
	for with, want := range map[string]string{
		`{metric: coverage}`: "metric", `{against: "a b"}`: "against", `{rows: 0}`: "rows is 0", `{block: 1s}`: "block is 1s", `{slice_by: -1}`: "slice_by is -1", `{max_latency_ratio: -3}`: "max_latency_ratio", `{nothing: 1}`: "no field",
	} {
		if _, err := kind.New(node(t, with)); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", with, err)
		}
	}
}

// Numbers are judged like probabilities.
func TestNumbers(t *testing.T) {
	w := newWorld(t, 14)
	w.data.Task = quality.Regression
	for i := range w.holdout {
		w.holdout[i].Label = float64(w.holdout[i].Near) + .1*float64(i%3)
	}
	same := func(column string) []byte {
		return onnxtest.Apply("Neg", []onnxwire.Value{onnxwire.Tensor(column, tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("minutes", tensor.FP32, -1)}).Bytes()
	}
	negate := func() {
		for i := range w.holdout {
			w.holdout[i].Label *= -1
		}
	}
	negate()
	w.champion(same("far"))
	for _, metric := range []string{"mae", "rmse", "r2", "quantile_loss"} {
		card, err := w.evaluate(w.task(same("near")), `{metric: `+metric+`}`)
		if err != nil || card.Metrics[0].Metric != metric {
			t.Errorf("%s: got %v", metric, err)
		}
	}
	if card, err := w.evaluate(w.task(same("other")), `{}`); card == nil || card.Metrics[0].Metric != "mae" || err == nil {
		t.Errorf("as good: got %v", err)
	}
}

// A run that is stopped stops.
func TestStop(t *testing.T) {
	w := newWorld(t, 14)
	w.champion(reads("far"))
	step, err := Kinds(Deps{w.registry})[0].New(node(t, `{}`))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	task := w.task(reads("near"))
	task.Progress = func(int64, int64, string) { cancel() }
	if err := step.Run(ctx, task); !errors.Is(err, context.Canceled) || len(task.Outputs) > 0 {
		t.Errorf("got %v", err)
	}
}

// What the trainer that is built in makes is evaluated as it is: its file says what it says itself.
func TestWhatTheTrainerMakes(t *testing.T) {
	w := newWorld(t, 14)
	w.champion(reads("far"))
	w.data.Inputs = []tensor.Spec{{Name: "near", Type: tensor.FP32, Shape: []int64{-1, 1}}, {Name: "carrier", Type: tensor.Bytes, Shape: []int64{-1, 1}}, {Name: "holes", Type: tensor.FP32, Shape: []int64{-1, 1}}}
	w.data.Slices = nil
	task := w.task(reads("near"))
	of := func(kinds []pipeline.Kind, name string) pipeline.Kind {
		return kinds[slices.IndexFunc(kinds, func(k pipeline.Kind) bool { return k.Name == name })]
	}
	step, err := of(train.Kinds(train.Deps{Format: onnxtest.Format(t), Config: train.Config{Most: 1 << 20}}), "train").New(node(t, `{trainer: logistic}`))
	if err != nil {
		t.Fatal(err)
	}
	fit := w.task(nil)
	fit.Inputs["rows"] = fit.Inputs["train"]
	if err := step.Run(t.Context(), fit); err != nil {
		t.Fatal(err)
	}
	for name, a := range fit.Outputs {
		task.Inputs[name] = a
	}
	card, err := w.evaluate(task, `{slices: [carrier]}`)
	if err != nil || card.Parity == nil || card.Parity.Beyond != 0 || card.Parity.Largest > 1e-4 || len(card.Slices) != 5 || len(card.Trainer) == 0 || card.Data.LeftOut != 0 {
		t.Fatalf("got %v, %+v", err, card)
	}
	t.Log(card.Verdict.Why, card.Parity)
}

// Classes are, too, by what a model says of each of them.
func TestClasses(t *testing.T) {
	chances := func(column string) []byte {
		return onnxwire.Model{Graph: onnxwire.Graph{
			Inputs:  []onnxwire.Value{onnxwire.Tensor(column, tensor.FP32, -1, 1), onnxwire.Tensor("amount", tensor.FP32, -1, 1)},
			Outputs: []onnxwire.Value{onnxwire.Tensor("probabilities", tensor.FP32, -1, 2)},
			Nodes: []onnxwire.Node{
				{Op: "Concat", In: []string{column, "amount"}, Out: []string{"both"}, Attributes: []onnxwire.Attribute{{Name: "axis", Value: int64(1)}}},
				{Op: "Softmax", In: []string{"both"}, Out: []string{"probabilities"}},
			},
		}}.Bytes()
	}
	w := newWorld(t, 14)
	w.data.Task = quality.Multiclass
	random := rand.New(rand.NewPCG(4, 4))
	for i := range w.holdout {
		f := &w.holdout[i]
		f.Amount -= 3
		f.Label = 0
		if random.Float64() > sigmoid(float64(f.Near)-float64(f.Amount)) {
			f.Label = 1
		}
	}
	settings := model.Settings{Quality: model.Quality{Spec: quality.Spec{Task: quality.Multiclass}}}
	if _, err := w.registry.Push(t.Context(), model.Push{Name: "late", Settings: settings}, bytes.NewReader(chances("far"))); err != nil {
		t.Fatal(err)
	}
	for metric, want := range map[string]string{"": "accuracy", "log_loss": "log_loss", "macro_f1": "macro_f1"} {
		task := w.task(chances("near"))
		card, err := w.evaluate(task, `{metric: "`+metric+`"}`)
		if err != nil || card.Metrics[0].Metric != want {
			t.Fatalf("%s: got %v", want, err)
		}
		b, _, err := store.ReadAll(t.Context(), w.blob, task.Outputs["reference"].Key)
		if err != nil || strings.Contains(string(b), `"probabilities"`) { // a list, with which nothing live can be compared
			t.Errorf("got %v, %s", err, b)
		}
	}
	if _, err := w.evaluate(w.task(chances("other")), `{}`); !fault.Is(err, fault.Conflict) {
		t.Errorf("as good: got %v", err)
	}
	w.data.Task = quality.Binary
	task := w.task(reads("near"))
	task.Inputs["settings"] = pipeline.Artifact{Value: []byte(`{"quality":{"task":"binary","output":"probability"}}`)}
	if _, err := w.evaluate(task, `{}`); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "the candidate's answers are binary and those of version 1 multiclass") {
		t.Errorf("got %v", err)
	}
}

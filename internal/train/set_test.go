package train

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
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
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// past is a bucket with predictions of the model m, whose inputs are what its callers bring, and with what came true of them.
type past struct {
	t    testing.TB
	blob store.Blob
	tel  *telemetry.Telemetry
	deps *Deps
}

var monday = time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC)

func newPast(t testing.TB, output tensor.Spec) *past {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	p := &past{t, newBlob(t), tel, nil}
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	history, err := offline.Open(t.Context(), &offline.Config{Memory: 256 << 20, Dir: t.TempDir(), Cache: 1 << 30, Vectors: 1, Keep: time.Hour}, offline.Deps{Blob: p.blob, KV: kv, Online: online})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := history.Close(); err != nil {
			t.Error(err)
		}
	})
	p.deps = &Deps{
		Models: model.NewCatalog(p.blob, time.Minute, nil), Features: feature.NewCatalog(&feature.Config{Refresh: time.Second}, p.blob, nil, slog.New(slog.DiscardHandler)), Offline: history,
	}
	_, err = p.deps.Models.Publish(t.Context(), model.Manifest{
		Name: "m", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1},
		Signature: engine.Signature{
			Inputs:  []tensor.Spec{{Name: "carrier", Type: tensor.Bytes, Shape: []int64{-1, 1}}, {Name: "gate", Type: tensor.Int64, Shape: []int64{-1, 1}}, {Name: "x", Type: tensor.FP32, Shape: []int64{-1}}},
			Outputs: []tensor.Spec{output},
		},
		Settings: model.Settings{Quality: model.Quality{Slices: []string{"carrier"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var yes = tensor.Spec{Name: "probability", Type: tensor.FP32, Shape: []int64{-1, 1}}

// predict logs predictions of the model, a minute each from monday on, as of then; their ids are their numbers.
func (p *past) predict(n int) {
	p.t.Helper()
	log, err := payload.Open(&payload.Config{On: "on", Memory: 256 << 20, Every: time.Hour}, p.blob, nil, p.tel)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range n {
		log.Add(&payload.Origin{Model: "m", Version: 1, Sample: 1}, &payload.Prediction{
			ID: fmt.Sprint(i), Asked: time.Now(), At: monday.Add(time.Duration(i) * time.Minute), Rows: 1,
			Given: []tensor.Tensor{
				tensor.OfStrings("carrier", []int64{1, 1}, []string{[]string{"AA", "B6"}[i%2]}), tensor.Of("gate", []int64{1, 1}, []int64{int64(i % 5)}),
				tensor.Of("x", []int64{1}, []float32{float32(i) / 8}),
			},
			Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float32{.5})},
		})
	}
	if err := log.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// tell gives what came true of predictions, an hour after each.
func (p *past) tell(n int, value func(i int) string) {
	p.t.Helper()
	in, err := feedback.NewIntake(&feedback.IntakeConfig{Rows: 200_000, Bytes: 64 * env.Size(1<<20), Write: time.Minute, Ahead: time.Hour, Request: 200_000}, p.blob, p.tel)
	if err != nil {
		p.t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	var lines strings.Builder
	send := func() {
		r := httptest.NewRequestWithContext(p.t.Context(), "POST", "/feedback", strings.NewReader(lines.String()))
		r.Header.Set("Content-Type", "application/x-ndjson")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted || !strings.Contains(w.Body.String(), `"rejected":0`) {
			p.t.Fatalf("got %d %s", w.Code, w.Body)
		}
		lines.Reset()
	}
	for i := range n {
		fmt.Fprintf(&lines, `{"prediction":"%d","value":%s,"time":%q}`+"\n", i, value(i), monday.Add(time.Duration(i)*time.Minute+time.Hour).Format(time.RFC3339))
		if i%10_000 == 9999 {
			send()
		}
	}
	if lines.Len() > 0 {
		send()
	}
	if err := in.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// set runs the step, and gives the dataset.
func (p *past) set(with string, examples ...string) (*Dataset, *pipeline.Task, error) {
	p.t.Helper()
	s, err := step(p.t, p.deps, "training-set", with)
	if err != nil {
		return nil, nil, err
	}
	task, log := newTask(p.t, p.blob)
	for _, path := range examples {
		give(p.t, task, "examples", path)
	}
	if err := s.Run(p.t.Context(), task); err != nil {
		return nil, nil, err
	}
	var d Dataset
	if err := json.Unmarshal(task.Outputs["dataset"].Value, &d); err != nil {
		p.t.Fatalf("%v\n%s", err, log)
	}
	return &d, task, nil
}

// lines gives the rows of a file, each as a line.
func (p *past) lines(d *Dataset, task *pipeline.Task, name string) (all []string) {
	p.t.Helper()
	fields := []row.Field{{Name: "carrier", Type: row.String}, {Name: "gate", Type: row.Int64}, {Name: "x", Type: row.Float32}, {Name: d.Label, Type: row.Float64}}
	if d.Task == quality.Multiclass {
		fields[3].Type = row.String
	}
	for values, err := range offline.Rows(output(p.t, task, name), fields) {
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, fmt.Sprint(values))
	}
	return all
}

func TestSetOfLoggedInputs(t *testing.T) {
	p := newPast(t, yes)
	p.predict(600)
	p.tell(500, func(i int) string { return fmt.Sprint(i%3 == 0) })
	d, task, err := p.set("{model: m, last: 300m, holdout: 100m}")
	if err != nil {
		t.Fatal(err)
	}
	if d.Rows != (Counts{200, 100}) || d.Task != quality.Binary || d.Quality.Output != "probability" || d.Version != 1 || len(d.Inputs) != 3 || fmt.Sprint(d.Slices) != "[carrier]" || d.Outcomes.Joined != 500 {
		t.Errorf("got %+v", d)
	}
	// The newest labelled one is 499; those without an outcome are not there, however new.
	if !d.Until.Equal(monday.Add(499*time.Minute+time.Microsecond)) || !d.From.Equal(monday.Add(200*time.Minute)) || !d.Cut.Equal(d.Until.Add(-100*time.Minute)) {
		t.Errorf("got from %v until %v, cut at %v", d.From, d.Until, d.Cut)
	}
	for name, first := range map[string]int{"train": 200, "holdout": 400} {
		for k, got := range p.lines(d, task, name) {
			i := first + k
			label := 0.0
			if i%3 == 0 {
				label = 1
			}
			want := fmt.Sprint([]row.Value{row.OfString([]string{"AA", "B6"}[i%2]), row.OfInt64(int64(i % 5)), row.OfFloat32(float32(i) / 8), row.OfFloat64(label)})
			if got != want {
				t.Fatalf("%s: row %d is %s, want %s", name, k, got, want)
			}
		}
	}
	// What came true within an hour was not known by then.
	for with, want := range map[string]Counts{
		"{model: m, until: 2024-07-01T05:00:00Z}":                       {193, 48}, // those of four hours: the last was told an hour later
		"{model: m, from: 2024-07-01T02:00:00Z, holdout: 50m}":          {330, 50},
		"{model: m, last: 100m, until: 2024-07-01T05:00:00Z, least: 9}": {80, 20},
		"{model: m, sample: 150}":                                       {121, 29},
	} {
		d, _, err := p.set(with)
		if err != nil || d.Rows.Train+d.Rows.Holdout != want.Train+want.Holdout || !strings.Contains(with, "sample") && absolute(d.Rows.Train-want.Train) > 1 {
			t.Errorf("%s: got %+v, %v, want %v", with, d, err, want)
		}
	}
}

func absolute(n int64) int64 { return max(n, -n) }

func TestSetRefuses(t *testing.T) {
	p := newPast(t, yes)
	p.predict(200)
	p.tell(150, func(int) string { return "true" })
	for with, want := range map[string]string{
		"{model: m, least: 1000}":                          `there are 150 labelled rows of model "m", and at least 1000 are needed`,
		"{model: m, last: 10m, least: 50}":                 `there are 10 labelled rows of model "m" in the last 10m, and at least 50 are needed`,
		"{model: m, until: 2024-07-01T00:30:00Z}":          `there are 0 labelled rows of model "m" that were known by 2024-07-01T00:30:00Z`,
		"{model: m, holdout: 7d}":                          "all 150 labelled rows of model \"m\" are in the holdout",
		"{model: m}":                                       "before the holdout have the label 1.0: there is nothing to tell apart",
		"{model: m, slices: [weather]}":                    `the slice "weather" is no input of model "m"`,
		"{model: other}":                                   `"other"`,
		"{model: m, features: flights}":                    `the features of service "flights"`,
		"{model: m, task: regression}":                     "with.task is regression, and version 1 of model \"m\" says binary",
		"{model: m, inputs: [x]}":                          "with.inputs is for models without a version",
		"{}":                                               "with.model is missing",
		"{model: a b}":                                     "with.model",
		"{model: m, last: 7d, holdout: 7d}":                "nothing is left to learn from",
		"{model: m, last: 7d, from: 2024-01-01}":           "with.from",
		"{model: m, last: 7d, from: 2024-01-01T00:00:00Z}": "both say where the rows begin",
		"{model: m, from: 2025-01-01T00:00:00Z, until: 2024-01-01T00:00:00Z}": "must be before",
		"{model: m, sample: 5}":    "with.sample is 5, expected at least with.least",
		"{model: m, task: guess}":  "with.task",
		"{model: m, holdout: -1h}": "negative",
		"{model: m, count: 7}":     "count",
	} {
		_, _, err := p.set(with)
		if kind := fault.KindOf(err); err == nil || kind != fault.Invalid && kind != fault.Conflict && kind != fault.NotFound || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%s: got %v (%v), want %s", with, err, fault.KindOf(err), want)
		}
	}
}

func TestSetOfClassesAndAmounts(t *testing.T) {
	p := newPast(t, tensor.Spec{Name: "class", Type: tensor.Bytes, Shape: []int64{-1}})
	p.predict(300)
	p.tell(300, func(i int) string { return []string{`"late"`, `"soon"`, `7`}[i%3] })
	d, task, err := p.set("{model: m, holdout: 30m}")
	if err != nil || d.Task != quality.Multiclass || fmt.Sprint(d.Classes) != "[7 late soon]" || d.Quality.Output != "class" {
		t.Fatalf("got %+v, %v", d, err)
	}
	if lines := p.lines(d, task, "holdout"); len(lines) != 30 || !strings.Contains(lines[0], `"late"`) || !strings.Contains(lines[2], `"7"`) {
		t.Errorf("got %v", lines)
	}
	p = newPast(t, tensor.Spec{Name: "minutes", Type: tensor.FP32, Shape: []int64{-1}})
	p.predict(300)
	p.tell(300, func(i int) string { return fmt.Sprint(float64(i) / 4) })
	if d, task, err = p.set("{model: m, holdout: 30m}"); err != nil || d.Task != quality.Regression {
		t.Fatalf("got %+v, %v", d, err)
	}
	if lines := p.lines(d, task, "holdout"); len(lines) != 30 || !strings.Contains(lines[1], " 67.75]") {
		t.Errorf("got %v", lines)
	}
}

// A model without a version is taught by examples, and one with a version by more of them than it was ever asked.
func TestSetOfExamples(t *testing.T) {
	p := newPast(t, yes)
	path := filepath.Join(t.TempDir(), "examples.parquet")
	shape, err := segment.NewShape([]row.Field{
		{Name: "carrier", Type: row.String}, {Name: "gate", Type: row.Int64}, {Name: "x", Type: row.Float64}, {Name: "late", Type: row.Bool}, {Name: offline.Moment, Type: row.Timestamp},
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out := shape.Writer(f)
	draw := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		late := row.OfBool(draw.IntN(2) == 1)
		if i%10 == 9 {
			late = row.Value{}
		}
		values := []row.Value{row.OfString("AA"), row.OfInt64(int64(i)), row.OfFloat64(float64(i)), late, row.OfTime(monday.Add(time.Duration(i) * time.Minute))}
		if err := out.Write([]segment.Row{{Values: values}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for with, version := range map[string]int{
		"{model: m, label: late, holdout: 100m}":                                               1,
		"{model: fresh, task: binary, label: late, holdout: 100m, inputs: [gate, carrier, x]}": 0,
	} {
		d, task, err := p.set(with, path)
		if err != nil || d.Version != version || d.Rows.Train+d.Rows.Holdout != 360 || d.Source != FromExamples || d.Outcomes != nil || len(d.Inputs) != 3 || d.Label != LabelColumn {
			t.Errorf("%s: got %+v, %v", with, d, err)
			continue
		}
		if version == 0 && (d.Inputs[0].Name != "gate" || d.Inputs[0].Type != tensor.Int64 || d.Inputs[2].Type != tensor.FP32 || d.Quality.Output != "probability") {
			t.Errorf("got %+v", d)
		}
		if lines := p.lines(d, task, "train"); int64(len(lines)) != d.Rows.Train || !strings.HasPrefix(lines[0], `["AA" 0 0 `) {
			t.Errorf("%s: got %.200v", with, lines)
		}
	}
	text := filepath.Join(t.TempDir(), "text.parquet")
	if err := os.WriteFile(text, []byte("carrier,late\nAA,true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short.parquet")
	if err := os.WriteFile(short, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ with, path, want string }{
		{"{model: m}", path, `the rows have no column "label"`},
		{"{model: m, label: late}", text, "the rows can't be read as parquet"},
		{"{model: m, label: late}", short, "the rows can't be read as parquet"},
		{"{model: m, label: carrier}", path, "the rows are not what they should be"},
		{"{model: m, label: gate}", path, "of a binary task it is 0 or 1"},
		{"{model: fresh, task: binary, label: late}", path, "with.task and with.inputs are needed"},
		{"{model: fresh, task: binary, label: late, inputs: [speed]}", path, `the rows have no column "speed"`},
		{"{model: fresh, task: binary, label: late, inputs: [x, X]}", path, "can't tell apart"},
		{"{model: fresh, task: binary, label: late, inputs: [x, Label]}", path, "has a column of that name already"},
	} {
		if _, _, err := p.set(test.with, test.path); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), test.want) {
			t.Errorf("%s: got %v, want %s", test.with, err, test.want)
		}
	}
}

// Beside the step itself: BenchmarkSet has 100,000 predictions that are told of, BenchmarkLogistic as many rows.
func BenchmarkSet(b *testing.B) {
	p := newPast(b, yes)
	p.predict(100_000)
	p.tell(100_000, func(i int) string { return fmt.Sprint(i%3 == 0) })
	for b.Loop() {
		if _, _, err := p.set("{model: m}"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLogistic(b *testing.B) {
	w := &world{quality.Binary, rand.New(rand.NewPCG(1, 2))}
	d := w.dataset(100_000, 10_000)
	rows, held, deps := write(b, &d, "train", w.rows(100_000)), write(b, &d, "holdout", w.rows(10_000)), deps(b)
	for b.Loop() {
		if _, log, err := trained(b, b.Context(), deps, "{trainer: logistic, missing_below: -99}", d, rows, held); err != nil {
			b.Fatalf("%v\n%s", err, log)
		}
	}
}

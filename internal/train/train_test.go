package train

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// newTask makes a task on a bucket, with a log that can be read.
func newTask(t testing.TB, blob store.Blob) (*pipeline.Task, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	return &pipeline.Task{
		Pipeline: "p", Run: "r", Step: "s", Attempt: 1, Started: time.Now(), Dir: t.TempDir(), Log: slog.New(slog.NewJSONHandler(&log, nil)), Blob: blob,
		Inputs: map[string]pipeline.Artifact{}, Outputs: map[string]pipeline.Artifact{}, Progress: func(int64, int64, string) {},
	}, &log
}

func newBlob(t testing.TB) store.Blob {
	t.Helper()
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// give makes a file or a value an input.
func give(t testing.TB, task *pipeline.Task, input string, v any) {
	t.Helper()
	if path, ok := v.(string); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := task.Blob.Put(t.Context(), "in/"+filepath.Base(path), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		task.Inputs[input] = pipeline.Artifact{Key: "in/" + filepath.Base(path), Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	task.Inputs[input] = pipeline.Artifact{Value: b}
}

// output gives the path of a copy of a file that a step gave.
func output(t testing.TB, task *pipeline.Task, name string) string {
	t.Helper()
	a, ok := task.Outputs[name]
	if !ok {
		t.Fatalf("there is no output %q", name)
	}
	b, _, err := store.ReadAll(t.Context(), task.Blob, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// step makes a step of a kind.
func step(t testing.TB, d *Deps, kind, with string) (pipeline.Step, error) {
	t.Helper()
	type document struct {
		With yamlwire.Node `yaml:"with"`
	}
	docs, err := yamlwire.Read[document]("pipeline.yaml", []byte("with: "+with+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds(*d) {
		if k.Name == kind {
			return k.New(docs[0].With)
		}
	}
	t.Fatalf("there is no kind %q", kind)
	return nil, nil
}

// world makes rows whose truth is known: two numbers, one of which is often missing, a whole number, a column that is the same everywhere, one
// that is always missing, and two texts.
type world struct {
	task quality.Task
	rand *rand.Rand
}

var worldInputs = []tensor.Spec{
	{Name: "carrier", Type: tensor.Bytes, Shape: []int64{-1, 1}},
	{Name: "a", Type: tensor.FP32, Shape: []int64{-1, 1}},
	{Name: "b", Type: tensor.FP64, Shape: []int64{-1}},
	{Name: "n", Type: tensor.Int64, Shape: []int64{-1, 1}},
	{Name: "same", Type: tensor.FP32, Shape: []int64{-1, 1}},
	{Name: "void", Type: tensor.FP32, Shape: []int64{-1, 1}},
	{Name: "gate", Type: tensor.Bytes, Shape: []int64{-1}},
	{Name: "open", Type: tensor.Bool, Shape: []int64{-1, 1}},
}

func (w *world) dataset(n, held int) Dataset {
	d := Dataset{
		Model: "m", Task: w.task, Quality: newQuality(w.task), Label: LabelColumn, Time: TimeColumn, Inputs: worldInputs,
		Rows: Counts{int64(n), int64(held)}, Source: FromExamples,
	}
	if w.task == quality.Multiclass {
		d.Classes = []string{"late", "lost", "soon"}
	}
	return d
}

func (w *world) row() []row.Value {
	carriers := []string{"AA", "B6", "DL", "UA", "Zürich 東京", ""}
	c, gate := w.rand.IntN(len(carriers)), w.rand.IntN(3)
	a, b, n, open := w.rand.NormFloat64()*20+5, w.rand.NormFloat64(), w.rand.IntN(24), w.rand.IntN(2)
	missing := w.rand.IntN(4) == 0
	score := a/20 - 1.5*b + .3*float64(c) + float64(gate)/2 - float64(n)/12 + float64(open)
	values := []row.Value{
		row.OfString(carriers[c]), row.OfFloat32(float32(a)), row.OfFloat64(b), row.OfInt64(int64(n)), row.OfFloat32(3), {}, row.OfString(fmt.Sprint("g", gate)), row.OfBool(open == 1),
	}
	if missing {
		values[2], score = row.Value{}, score+1.5*b+.7
		switch w.rand.IntN(3) {
		case 0:
			values[2] = row.OfFloat64(-999)
		case 1:
			values[2] = row.OfFloat64(math.NaN())
		}
	}
	noise := w.rand.NormFloat64()
	switch w.task {
	case quality.Binary:
		yes := 0.0
		if score+noise > 0 {
			yes = 1
		}
		return append(values, row.OfFloat64(yes))
	case quality.Multiclass:
		return append(values, row.OfString([]string{"soon", "late", "lost"}[min(2, max(0, int(score+noise+1)))]))
	}
	return append(values, row.OfFloat64(1000+50*(score+noise)))
}

// write makes a file of rows.
func write(t testing.TB, d *Dataset, name string, rows [][]row.Value) string {
	t.Helper()
	var fields []row.Field
	for _, in := range d.Inputs {
		fields = append(fields, row.Field{Name: in.Name, Type: types[in.Type]})
	}
	label := row.Field{Name: LabelColumn, Type: row.Float64}
	if d.Task == quality.Multiclass {
		label.Type = row.String
	}
	shape, err := segment.NewShape(append(fields, label))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+".parquet")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out := shape.Writer(f)
	for _, values := range rows {
		if err := out.Write([]segment.Row{{Values: values}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *world) rows(n int) (all [][]row.Value) {
	for range n {
		all = append(all, w.row())
	}
	return all
}

// ask runs a model on rows, so many at once, and gives its outputs as numbers or texts, by name.
func ask(t testing.TB, s engine.Session, rows [][]row.Value, batch int) map[string][]any {
	t.Helper()
	all := map[string][]any{}
	for some := range slices.Chunk(rows, batch) {
		var inputs []tensor.Tensor
		for i, in := range s.Signature().Inputs {
			shape := []int64{int64(len(some)), 1}[:len(in.Shape)]
			at := slices.IndexFunc(worldInputs, func(w tensor.Spec) bool { return w.Name == in.Name })
			if at != i {
				t.Fatalf("input %d is %q, want %q", i, in.Name, worldInputs[i].Name)
			}
			number := func(r []row.Value) float64 {
				if r[at].Null() {
					return math.NaN()
				}
				return r[at].Float()
			}
			switch in.Type {
			case tensor.Bytes:
				var texts []string
				for _, r := range some {
					texts = append(texts, r[at].Text())
				}
				inputs = append(inputs, tensor.OfStrings(in.Name, shape, texts))
			case tensor.FP32:
				inputs = append(inputs, tensor.Of(in.Name, shape, column(some, func(r []row.Value) float32 { return float32(number(r)) })))
			case tensor.FP64:
				inputs = append(inputs, tensor.Of(in.Name, shape, column(some, number)))
			case tensor.Int64:
				inputs = append(inputs, tensor.Of(in.Name, shape, column(some, func(r []row.Value) int64 { return r[at].Int() })))
			case tensor.Bool:
				inputs = append(inputs, tensor.Tensor{Name: in.Name, Type: in.Type, Shape: shape, Data: column(some, func(r []row.Value) byte { return byte(r[at].Int()) })})
			}
		}
		outputs, err := s.Run(t.Context(), inputs)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range outputs {
			for i := range max(len(o.Strings), len(o.Data)/max(1, o.Type.Size())) {
				switch o.Type {
				case tensor.Bytes:
					all[o.Name] = append(all[o.Name], o.Strings[i])
				case tensor.FP32:
					all[o.Name] = append(all[o.Name], float64(tensor.View[float32](o.Data)[i]))
				case tensor.Int64:
					all[o.Name] = append(all[o.Name], tensor.View[int64](o.Data)[i])
				}
			}
		}
	}
	return all
}

func column[T any](rows [][]row.Value, of func([]row.Value) T) (all []T) {
	for _, r := range rows {
		all = append(all, of(r))
	}
	return all
}

// What a file of ONNX answers in the runtime is what the trainer says itself, also of what it never saw.
func TestAnswersAreTheTrainersOwn(t *testing.T) {
	format := onnxtest.Format(t)
	for _, task := range []quality.Task{quality.Binary, quality.Multiclass, quality.Regression} {
		t.Run(string(task), func(t *testing.T) {
			w := &world{task, rand.New(rand.NewPCG(1, 2))}
			d := w.dataset(3000, 500)
			learn, err := read(t.Context(), &d, write(t, &d, "train", w.rows(3000)), 3000)
			if err != nil {
				t.Fatal(err)
			}
			m, err := fit(t.Context(), task, len(d.Classes), learn, &options{below: -99, least: 20, l2: l2s}, func(int, int) {})
			if err != nil {
				t.Fatal(err)
			}
			odd := w.rows(300)
			for i := range odd {
				switch i % 6 {
				case 0:
					odd[i][0], odd[i][6] = row.OfString("ZZ"), row.OfString("")
				case 1:
					odd[i][1], odd[i][5] = row.OfFloat32(float32(math.Inf(1))), row.OfFloat32(7)
				case 2:
					odd[i][1], odd[i][2], odd[i][4] = row.Value{}, row.OfFloat64(1e300), row.OfFloat32(-1e30)
				case 3:
					odd[i][3], odd[i][1] = row.OfInt64(math.MaxInt64), row.OfFloat32(-99.5)
				}
			}
			table, err := read(t.Context(), &d, write(t, &d, "odd", odd), 300)
			if err != nil {
				t.Fatal(err)
			}
			f, _ := faceOf(&d)
			session, err := format.Open(t.Context(), m.onnx(&d, f, .3), engine.Options{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			for _, batch := range []int{1, 100, 300} {
				got := ask(t, session, odd, batch)
				err := m.answers(m.e.encode(table), func(i int, want []float64) error {
					for k := range want {
						if g := got[f.answer.Name][i*len(want)+k].(float64); math.Abs(g-want[k]) > 1e-5*max(1, math.Abs(want[k])) {
							t.Fatalf("batch %d, row %d %v: got %v, want %v", batch, i, odd[i], g, want[k])
						}
					}
					switch task {
					case quality.Binary:
						if g := got[label][i].(int64) == 1; math.Abs(want[0]-.3) > 1e-6 && g != (want[0] >= .3) {
							t.Fatalf("row %d: got the label %t of %v", i, g, want[0])
						}
					case quality.Multiclass:
						best := slices.Index(want, slices.Max(want))
						if got[label][i] != d.Classes[best] {
							t.Fatalf("row %d: got the class %v of %v", i, got[label][i], want)
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// The weights are those with the least loss: no other ones near them have less, and a plain problem has the solution that is known of it.
func TestWeightsAreTheBest(t *testing.T) {
	for _, task := range []quality.Task{quality.Binary, quality.Multiclass, quality.Regression} {
		w := &world{task, rand.New(rand.NewPCG(3, 4))}
		d := w.dataset(2000, 1)
		learn, err := read(t.Context(), &d, write(t, &d, "train", w.rows(2000)), 2000)
		if err != nil {
			t.Fatal(err)
		}
		if task == quality.Regression {
			for i := range learn.labels {
				learn.labels[i] = (learn.labels[i] - 1000) / 50
			}
		}
		m := &linear{task: task, sums: max(1, len(d.Classes)), e: learn.learn(math.Inf(-1), 20)}
		m.weights = make([]float64, m.sums*(m.e.width+1))
		all := m.e.encode(learn)
		const l2 = 1e-3
		if err := m.descend(t.Context(), all, l2); err != nil {
			t.Fatal(err)
		}
		total := func() float64 {
			loss, err := m.lossOf(t.Context(), all, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range m.weights {
				if i%(m.e.width+1) < m.e.width {
					loss += l2 / 2 * x * x
				}
			}
			return loss
		}
		best := total()
		for i := range m.weights {
			for _, by := range []float64{-.01, .01} {
				m.weights[i] += by
				if loss := total(); loss < best-1e-9 {
					t.Errorf("%s: with weight %d changed by %v the loss is %v, less than %v", task, i, by, loss, best)
				}
				m.weights[i] -= by
			}
		}
		// The slope is that of the loss.
		slope := make([]float64, len(m.weights))
		for i := range m.weights {
			m.weights[i] = w.rand.NormFloat64()
		}
		if _, err := m.lossOf(t.Context(), all, slope); err != nil {
			t.Fatal(err)
		}
		for i := range m.weights {
			const h = 1e-5
			x := m.weights[i]
			m.weights[i] = x + h
			up, _ := m.lossOf(t.Context(), all, nil)
			m.weights[i] = x - h
			down, _ := m.lossOf(t.Context(), all, nil)
			m.weights[i] = x
			if want := (up - down) / 2 / h; math.Abs(slope[i]-want) > 1e-4*max(1, math.Abs(want)) {
				t.Errorf("%s: the slope by weight %d is %v, want %v", task, i, slope[i], want)
			}
		}
	}
}

// trained runs the step on files.
func trained(t testing.TB, ctx context.Context, d *Deps, with string, data any, rows, holdout string) (*pipeline.Task, *bytes.Buffer, error) {
	t.Helper()
	s, err := step(t, d, "train", with)
	if err != nil {
		t.Fatal(err)
	}
	task, log := newTask(t, newBlob(t))
	give(t, task, "data", data)
	give(t, task, "rows", rows)
	give(t, task, "holdout", holdout)
	return task, log, s.Run(ctx, task)
}

func deps(t testing.TB, trainers ...string) *Deps {
	t.Helper()
	return &Deps{Format: onnxtest.Format(t), Config: Config{Trainers: trainers, Most: 64 << 20}}
}

func TestBuiltIn(t *testing.T) {
	for task, test := range map[quality.Task]struct{ trainer, metric string }{
		quality.Binary: {"logistic", "log_loss"}, quality.Multiclass: {"logistic", "accuracy"}, quality.Regression: {"linear", "mae"},
	} {
		w := &world{task, rand.New(rand.NewPCG(5, 6))}
		d := w.dataset(4000, 1000)
		held := w.rows(1000)
		task1, log, err := trained(t, t.Context(), deps(t), "{trainer: "+test.trainer+", missing_below: -99}", d, write(t, &d, "train", w.rows(4000)), write(t, &d, "holdout", held))
		if err != nil {
			t.Fatalf("%s: %v\n%s", task, err, log)
		}
		var metrics map[string]float64
		var settings model.Settings
		for name, v := range map[string]any{"metrics": &metrics, "settings": &settings} {
			if err := json.Unmarshal(task1.Outputs[name].Value, v); err != nil {
				t.Fatal(err)
			}
		}
		// What no model can know is a noise of 1: of 50 in amounts, and of a fifth of the answers else.
		if good := map[quality.Task]bool{quality.Binary: metrics["log_loss"] < .45, quality.Multiclass: metrics["accuracy"] > .6, quality.Regression: metrics["mae"] < 45}[task]; !good {
			t.Errorf("%s: got %v", task, metrics)
		}
		if settings.Quality.Task != task || settings.Quality.Output == "" {
			t.Errorf("%s: got the settings %+v", task, settings)
		}
		b, err := os.ReadFile(output(t, task1, "model"))
		if err != nil {
			t.Fatal(err)
		}
		session, err := onnxtest.Format(t).Open(t.Context(), b, engine.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		got := ask(t, session, held, 100)
		field := row.Field{Name: PredictionColumn, Type: row.Float64}
		answer := got[settings.Quality.Output]
		if task == quality.Multiclass {
			field.Type, answer = row.String, got[label]
		}
		n := 0
		for values, err := range offline.Rows(output(t, task1, "predictions"), []row.Field{field}) {
			if err != nil {
				t.Fatal(err)
			}
			if own := values[0]; task == quality.Multiclass && own.Text() != answer[n] || task != quality.Multiclass && math.Abs(own.Float()-answer[n].(float64)) > 1e-5*max(1, math.Abs(own.Float())) {
				t.Fatalf("%s: row %d: the runtime says %v, the trainer %v", task, n, answer[n], own)
			}
			n++
		}
		if n != len(held) {
			t.Errorf("%s: got %d predictions of %d rows", task, n, len(held))
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A new version answers by the outputs that the one before it has.
func TestOutputsStayAsTheyAre(t *testing.T) {
	column := []int64{-1, 1}
	for _, test := range []struct {
		task    quality.Task
		answer  string
		outputs []tensor.Spec
		want    string
	}{
		{quality.Binary, "p", []tensor.Spec{{Name: "late", Type: tensor.Int64, Shape: []int64{-1}}, {Name: "p", Type: tensor.FP64, Shape: []int64{-1}}}, "late INT64 [-1], p FP64 [-1]"},
		{quality.Binary, "probability", []tensor.Spec{{Name: "probability", Type: tensor.FP32, Shape: column}, {Name: "label", Type: tensor.Int64, Shape: column}}, "probability FP32 [-1,1], label INT64 [-1,1]"},
		{quality.Binary, "p", []tensor.Spec{{Name: "p", Type: tensor.FP32, Shape: column}}, "p FP32 [-1,1]"},
		{quality.Binary, "p", []tensor.Spec{{Name: "p", Type: tensor.FP32, Shape: []int64{-1, 2}}}, "probability FP32 [-1,1], label INT64 [-1,1]"},
		{quality.Binary, "p", []tensor.Spec{{Name: "p", Type: tensor.FP32, Shape: column}, {Name: "why", Type: tensor.Bytes, Shape: column}}, "probability FP32 [-1,1], label INT64 [-1,1]"},
		{quality.Regression, "minutes", []tensor.Spec{{Name: "minutes", Type: tensor.FP32, Shape: []int64{-1}}}, "minutes FP32 [-1]"},
		{quality.Multiclass, "scores", []tensor.Spec{{Name: "scores", Type: tensor.FP32, Shape: []int64{-1, 3}, Labels: []string{"a", "b", "c"}}, {Name: "class", Type: tensor.Bytes, Shape: column}}, "scores FP32 [-1,-1], class BYTES [-1,1]"},
	} {
		w := &world{test.task, rand.New(rand.NewPCG(7, 8))}
		d := w.dataset(300, 50)
		d.Quality.Output, d.Outputs = test.answer, test.outputs
		task, _, err := trained(t, t.Context(), deps(t), "{trainer: "+map[bool]string{true: "linear", false: "logistic"}[test.task == quality.Regression]+"}", d, write(t, &d, "train", w.rows(300)), write(t, &d, "holdout", w.rows(50)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(output(t, task, "model"))
		if err != nil {
			t.Fatal(err)
		}
		session, err := onnxtest.Format(t).Open(t.Context(), b, engine.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range session.Signature().Outputs {
			got = append(got, fmt.Sprintf("%s %s %s", o.Name, o.Type, tensor.FormatShape(o.Shape)))
		}
		if fmt.Sprint(got) != "["+strings.ReplaceAll(test.want, ", ", " ")+"]" {
			t.Errorf("%v: got %v, want %s", test.outputs, got, test.want)
		}
		_ = session.Close()
	}
}

func TestBadRows(t *testing.T) {
	w := &world{quality.Binary, rand.New(rand.NewPCG(9, 10))}
	d := w.dataset(200, 20)
	good, held := w.rows(200), w.rows(20)
	alter := func(f func(i int, r []row.Value)) [][]row.Value {
		var all [][]row.Value
		for i, r := range good {
			r = slices.Clone(r)
			f(i, r)
			all = append(all, r)
		}
		return all
	}
	label := len(worldInputs)
	for name, test := range map[string]struct {
		rows [][]row.Value
		want string // "": it works
	}{
		"one class":       {alter(func(_ int, r []row.Value) { r[label] = row.OfFloat64(1) }), "all 200 rows have the same label"},
		"other labels":    {alter(func(_ int, r []row.Value) { r[label] = row.OfFloat64(2) }), "row 0 has the label 2; of a binary task it is 0 or 1"},
		"no label":        {alter(func(_ int, r []row.Value) { r[label] = row.Value{} }), "row 1 has no label"},
		"one row":         {good[:1], ""},
		"no rows":         {nil, ""},
		"all is missing":  {alter(func(_ int, r []row.Value) { clear(r[:label]) }), ""},
		"all is the same": {alter(func(_ int, r []row.Value) { copy(r[:label], good[0][:label]) }), ""},
		"huge numbers": {alter(func(i int, r []row.Value) {
			r[2], r[1] = row.OfFloat64(math.MaxFloat64*float64(i%3-1)), row.OfFloat32(float32(math.Inf(i%2*2-1)))
		}), ""},
		"words without end": {alter(func(i int, r []row.Value) { r[0] = row.OfString(fmt.Sprint(i)) }), ""},
	} {
		_, log, err := trained(t, t.Context(), deps(t), "{trainer: logistic}", d, write(t, &d, "train", test.rows), write(t, &d, "holdout", held))
		switch {
		case name == "one row" || name == "no rows":
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: got %v", name, err)
			}
		case test.want == "" && err != nil:
			t.Errorf("%s: got %v\n%s", name, err, log)
		case test.want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), test.want)):
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
	// Not Parquet, and other columns.
	path := filepath.Join(t.TempDir(), "train.parquet")
	if err := os.WriteFile(path, []byte("PAR1 nothing of it PAR1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := trained(t, t.Context(), deps(t), "{trainer: logistic}", d, path, path); !fault.Is(err, fault.Invalid) {
		t.Errorf("no Parquet: got %v", err)
	}
	other := d
	other.Inputs = append(slices.Clone(d.Inputs), tensor.Spec{Name: "more", Type: tensor.FP32, Shape: []int64{-1, 1}})
	if _, _, err := trained(t, t.Context(), deps(t), "{trainer: logistic}", other, write(t, &d, "train", good), write(t, &d, "holdout", held)); !fault.Is(err, fault.Invalid) {
		t.Errorf("a column that is not there: got %v", err)
	}
	for _, bad := range []any{"text", map[string]any{"task": "binary"}, map[string]any{"task": "guess"}, []int{1}} {
		if bad == "text" {
			bad = json.RawMessage(`"text"`)
		}
		if _, _, err := trained(t, t.Context(), deps(t), "{trainer: logistic}", bad, write(t, &d, "train", good), write(t, &d, "holdout", held)); !fault.Is(err, fault.Invalid) {
			t.Errorf("the dataset %v: got %v", bad, err)
		}
	}
	if _, _, err := trained(t, t.Context(), deps(t), "{trainer: linear}", d, write(t, &d, "train", good), write(t, &d, "holdout", held)); !fault.Is(err, fault.Invalid) {
		t.Errorf("linear for a binary task: got %v", err)
	}
}

func TestManyWords(t *testing.T) {
	w := &world{quality.Binary, rand.New(rand.NewPCG(11, 12))}
	d := w.dataset(100_000, 100)
	rows := w.rows(100_000)
	for i := range rows {
		rows[i][6] = row.OfString(fmt.Sprint("gate ", i))
	}
	task, log, err := trained(t, t.Context(), deps(t), "{trainer: logistic, words: 1}", d, write(t, &d, "train", rows), write(t, &d, "holdout", w.rows(100)))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if size := task.Outputs["model"].Size; size > 1<<20 {
		t.Errorf("the model has %d bytes", size)
	}
}

func TestTrainRefuses(t *testing.T) {
	d := &Deps{Config: Config{Trainers: []string{"mine=/bin/true"}, Most: 1 << 20}}
	for with, want := range map[string]string{
		"{}":                                    `with.trainer is "", expected one of logistic, linear, mine`,
		"{trainer: /bin/sh}":                    `with.trainer is "/bin/sh"`,
		"{trainer: logistic, options: {a: 1}}":  "with.options is for trainers that are programs",
		"{trainer: mine, threshold: 0.3}":       "are of the built-in trainers",
		"{trainer: logistic, words: 0}":         "with.words is 0",
		"{trainer: logistic, threshold: 1.5}":   "with.threshold is 1.5",
		"{trainer: logistic, command: [rm, x]}": "command",
	} {
		if _, err := step(t, d, "train", with); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%s: got %v, want %s", with, err, want)
		}
	}
	for _, trainers := range [][]string{{"mine"}, {"=x"}, {"logistic=/bin/true"}, {"a=x", "a=y"}, {"a b=x"}} {
		c := Config{Trainers: trainers, Most: 1}
		if err := c.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v", trainers, err)
		}
	}
}

package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/sequential"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// world is a bucket with what an evaluation has left in it.
type world struct {
	t      *testing.T
	blob   store.Blob
	inputs map[string]pipeline.Artifact
}

func file(op string) []byte {
	return onnxtest.Apply(op, []onnxwire.Value{onnxwire.Tensor("x", tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("probability", tensor.FP32, -1)}).Bytes()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, blob: blob, inputs: map[string]pipeline.Artifact{}}
	b := drift.NewBuilder([]drift.Field{{Name: "x"}})
	for i := range 100 {
		if err := b.Add([]drift.Value{drift.Number(float64(i))}); err != nil {
			t.Fatal(err)
		}
	}
	profile, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	task := w.task(blob)
	keep := func(name, ext string, content []byte) {
		path := filepath.Join(task.Dir, name+ext)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := task.Keep(t.Context(), name, path); err != nil {
			t.Fatal(err)
		}
		w.inputs[name] = task.Outputs[name]
	}
	keep("model", ".onnx", file("Sigmoid"))
	card, err := json.Marshal(&modelcard.Card{Model: "late", Run: "7", Digest: "sha256:" + w.inputs["model"].SHA256, Settings: model.Settings{Threads: 1, Features: "flights"}})
	if err != nil {
		t.Fatal(err)
	}
	keep("card", ".json", card)
	reference, err := json.Marshal(profile)
	if err != nil {
		t.Fatal(err)
	}
	keep("reference", ".json", reference)
	w.inputs["verdict"] = pipeline.Artifact{Value: []byte(`{"passed":true,"why":"it is better"}`)}
	return w
}

func (w *world) task(blob store.Blob) *pipeline.Task {
	return &pipeline.Task{
		Pipeline: "flights", Run: "7", Step: "publish", Attempt: 1, Cause: "flights:7", Dir: w.t.TempDir(), Log: slog.New(slog.DiscardHandler), Blob: blob,
		Inputs: w.inputs, Outputs: map[string]pipeline.Artifact{}, Progress: func(int64, int64, string) {},
	}
}

func (w *world) deps(blob store.Blob) Deps {
	w.t.Helper()
	tel, err := telemetry.Start(w.t.Context(), &telemetry.Config{Level: slog.LevelError, Output: io.Discard}, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	c := &model.Config{CacheDir: w.t.TempDir(), CacheSize: 64 << 20, Memory: 1 << 30, Refresh: time.Hour, Fetch: 1, Load: time.Minute}
	registry, err := model.Open(c, blob, nil, []engine.Format{onnxtest.Format(w.t)}, nil, tel)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = registry.Close() })
	return Deps{registry, rollout.New(blob, registry.Catalog, nil, func(*model.Manifest) string { return "" }, slog.New(slog.DiscardHandler))}
}

// run does a step with a bucket that may die, and gives what it told.
func (w *world) run(kind int, blob store.Blob, with string) (*pipeline.Task, error) {
	w.t.Helper()
	step, err := Kinds(w.deps(blob))[kind].New(node(w.t, with))
	if err != nil {
		return nil, err
	}
	task := w.task(blob)
	return task, step.Run(w.t.Context(), task)
}

const (
	publishing = iota
	rollingOut
)

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

// before has a bucket tell of each alias that is about to name a version.
type before struct {
	store.Blob
	alias func()
}

func (b *before) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if strings.HasSuffix(key, "/aliases") {
		b.alias()
	}
	return b.Blob.Put(ctx, key, body, size, c)
}

// TestPublishKilledAtAnyWrite publishes, dies at each write in turn, and is repeated: there is one version, with its card and its reference before
// any alias names it.
func TestPublishKilledAtAnyWrite(t *testing.T) {
	for write := range 9 {
		for _, first := range []bool{true, false} {
			w := newWorld(t)
			deps := w.deps(w.blob)
			want := 1
			if !first {
				want = 2
				if _, err := deps.Registry.Push(t.Context(), model.Push{Name: "late"}, bytes.NewReader(file("Tanh"))); err != nil {
					t.Fatal(err)
				}
			}
			complete := &before{w.blob, func() {
				if _, err := deps.Registry.Card(t.Context(), "late", want); err != nil {
					t.Errorf("an alias is moved, and %v", err)
				}
				if _, _, err := store.ReadAll(t.Context(), w.blob, fmt.Sprintf("%slate/%010d", feedback.ReferencePrefix, want)); err != nil {
					t.Errorf("an alias is moved, and %v", err)
				}
			}}
			_, err := w.run(publishing, storetest.NewMortal(complete, write), "{}")
			if err != nil && !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
			var told Version
			for range 2 {
				task, err := w.run(publishing, complete, "{}")
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(task.Outputs["version"].Value, &told); err != nil || told != (Version{"late", want}) {
					t.Errorf("got %+v, %v", told, err)
				}
			}
			catalog := model.NewCatalog(w.blob, time.Minute, nil)
			versions, err := catalog.Versions(t.Context(), "late")
			if err != nil || len(versions) != want {
				t.Errorf("killed at write %d: got versions %v, %v", write, versions, err)
			}
			m, err := catalog.Manifest(t.Context(), "late", want)
			if err != nil || m.Cause != "flights:7" || m.CreatedBy != "pipeline flights" || m.Features != "flights" {
				t.Errorf("got %+v, %v", m, err)
			}
			var card modelcard.Card
			if raw, err := catalog.Card(t.Context(), "late", want); err != nil || json.Unmarshal(raw, &card) != nil || card.Version != want {
				t.Errorf("got %s, %v", raw, err)
			}
			a, err := catalog.Aliases(t.Context(), "late")
			if err != nil || a.Current["champion"] != 1 || len(a.History) != 1 {
				t.Errorf("got %+v, %v", a, err)
			}
		}
	}
}

// What did not pass, or is not what was evaluated, is not published.
func TestPublishRefuses(t *testing.T) {
	for _, c := range []struct {
		alter func(w *world)
		want  string
	}{
		{func(w *world) {
			w.inputs["verdict"] = pipeline.Artifact{Value: []byte(`{"passed":false,"why":"it is worse"}`)}
		}, "it is worse"},
		{func(w *world) { w.inputs["model"] = w.inputs["reference"] }, "the card is of the file sha256:"},
		{func(w *world) { w.inputs["reference"] = w.inputs["card"] }, "read the reference"},
		{func(w *world) { w.inputs["card"] = w.inputs["model"] }, "the input card is not what it takes"},
		{func(w *world) {
			damaged := w.inputs["model"]
			damaged.Key = w.inputs["card"].Key
			w.inputs["model"] = damaged
		}, "is damaged"},
	} {
		w := newWorld(t)
		c.alter(w)
		if _, err := w.run(publishing, w.blob, "{}"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if names, err := model.NewCatalog(w.blob, time.Minute, nil).Models(t.Context()); err != nil || len(names) > 0 {
			t.Errorf("%s: got models %v, %v", c.want, names, err)
		}
	}
}

// rows says that both versions answer equally well, or that the candidate fails.
type rows struct{ fails float64 }

func (r rows) Evidence(context.Context, *rollout.Query) (*rollout.Evidence, error) {
	const n = 100_000
	bad := int64(n * (.01 + r.fails))
	return &rollout.Evidence{Answers: 1000, Shadow: &rollout.Shadowed{}, Metrics: map[string]rollout.Compared{
		rollout.ErrorRate: {Counts: countPair(n, n/100, bad)},
	}}, nil
}

// two publishes a second version, whose rollout is to come.
func (w *world) two() Deps {
	w.t.Helper()
	deps := w.deps(w.blob)
	for _, op := range []string{"Tanh", "Sigmoid"} {
		if _, err := deps.Registry.Push(w.t.Context(), model.Push{Name: "late"}, bytes.NewReader(file(op))); err != nil {
			w.t.Fatal(err)
		}
	}
	w.inputs = map[string]pipeline.Artifact{"version": {Value: []byte(`{"model":"late","version":2}`)}}
	return deps
}

const quick = `{shares: [0.1, 0.5], hold: 1us, least: 10, guards: {error_rate: 0.01}}`

func isLater(err error) bool {
	return fmt.Sprintf("%T", err) == fmt.Sprintf("%T", pipeline.Later(0, ""))
}

// TestRolloutKilledAtAnyWrite has the step and the ticks die anywhere, in any order: each move is made once, and says the run as its cause.
func TestRolloutKilledAtAnyWrite(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	for i := range 30 {
		w := newWorld(t)
		deps := w.two()
		with := quick
		if i%2 == 1 {
			with = strings.Replace(quick, "{", "{shadow: 1us, ", 1)
		}
		done := false
		for range 100 {
			blob := w.blob
			if random.IntN(2) == 0 {
				blob = storetest.NewMortal(w.blob, random.IntN(4))
			}
			manager := rollout.New(blob, model.NewCatalog(blob, time.Minute, nil), nil, func(*model.Manifest) string { return "" }, slog.New(slog.DiscardHandler))
			if err := manager.Tick(t.Context(), rows{}); err != nil && !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
			task, err := w.run(rollingOut, blob, with)
			switch {
			case err == nil:
				var o Outcome
				if err := json.Unmarshal(task.Outputs["outcome"].Value, &o); err != nil || o.End != rollout.Promoted {
					t.Errorf("got %+v, %v", o, err)
				}
				done = true
			case !isLater(err) && !errors.Is(err, storetest.ErrKilled):
				t.Fatal(err)
			}
			if done {
				break
			}
		}
		a, err := deps.Registry.Aliases(t.Context(), "late")
		if err != nil || !done {
			t.Fatal(done, err)
		}
		if moves := a.History[1:]; len(moves) != 3+i%2 || a.Current["champion"] != 2 {
			t.Errorf("got moves %+v", moves)
		}
		for _, m := range a.History[1:] {
			if m.Cause != "flights:7" {
				t.Errorf("the move %+v does not say its cause", m)
			}
		}
		// One command takes it back, and the step, should it be asked again, does not begin anew.
		if m, err := deps.Registry.Rollback(t.Context(), "late", "champion", model.Change{By: "me"}); err != nil || m.To != 1 || m.After != nil {
			t.Errorf("got %+v, %v", m, err)
		}
		if _, err := w.run(rollingOut, w.blob, with); err != nil {
			t.Errorf("what it has told stays so: got %v", err)
		}
		if a, err = deps.Registry.Aliases(t.Context(), "late"); err != nil || a.Current["champion"] != 1 || a.Splits["champion"] != nil {
			t.Errorf("got %+v, %v", a, err)
		}
	}
}

// TestHowRolloutsEnd follows those that do not end well.
func TestHowRolloutsEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(d Deps) error
		want string
	}{
		{"worse", func(d Deps) error { return d.Rollouts.Tick(t.Context(), rows{fails: .1}) }, "version 2 was taken back: error_rate is 0.11"},
		{"cancelled", func(d Deps) error { _, err := d.Rollouts.Cancel(t.Context(), "late", "champion", "ann"); return err }, "version 2 was cancelled: by ann"},
		{"rolled back", func(d Deps) error {
			_, err := d.Registry.Rollback(t.Context(), "late", "champion", model.Change{By: "ann", Why: "no"})
			return errors.Join(err, d.Rollouts.Tick(t.Context(), rows{}))
		}, "version 2 was taken back: no"},
		{"given another share", func(d Deps) error {
			_, err := d.Registry.Canary(t.Context(), "late", "champion", .33, model.Change{To: 2, By: "ann"})
			return errors.Join(err, d.Rollouts.Tick(t.Context(), rows{}))
		}, "version 2 was taken over: ann gave it a share of 0.33"},
		{"forgotten", func(d Deps) error {
			_, err := d.Rollouts.Cancel(t.Context(), "late", "champion", "ann")
			_, second := d.Registry.Push(t.Context(), model.Push{Name: "late"}, bytes.NewReader(file("Tanh")))
			_, third := d.Rollouts.Start(t.Context(), rollout.Plan{Model: "late", Version: 3})
			return errors.Join(err, second, third)
		}, "version 2 was taken back from alias \"champion\", and another was brought out since"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			deps := w.two()
			if _, err := w.run(rollingOut, w.blob, quick); !isLater(err) || !strings.Contains(err.Error(), "it has begun") {
				t.Fatal(err)
			}
			if err := c.do(deps); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := w.run(rollingOut, w.blob, quick); !fault.Is(err, fault.Conflict) || err.Error() != c.want && !strings.HasPrefix(err.Error(), c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
			}
		})
	}
}

// Whoever cancels a run takes its candidate back, whatever was killed meanwhile, and no rollout but its own.
func TestCanceledWithItsRun(t *testing.T) {
	stop := func(w *world, blob store.Blob) error {
		t.Helper()
		step, err := Kinds(w.deps(blob))[rollingOut].New(node(t, quick))
		if err != nil {
			t.Fatal(err)
		}
		return step.(pipeline.Stopper).Stop(t.Context(), w.task(blob), "ann")
	}
	for write := range 4 {
		w := newWorld(t)
		deps := w.two()
		if err := stop(w, w.blob); err != nil { // it has not begun
			t.Errorf("got %v", err)
		}
		if _, err := w.run(rollingOut, w.blob, quick); !isLater(err) {
			t.Fatal(err)
		}
		if err := stop(w, storetest.NewMortal(w.blob, write)); err != nil && !errors.Is(err, storetest.ErrKilled) {
			t.Errorf("got %v", err)
		}
		for range 2 {
			if err := stop(w, w.blob); err != nil {
				t.Errorf("killed at write %d: got %v", write, err)
			}
		}
		r, err := deps.Rollouts.Get(t.Context(), "late", "champion")
		if err != nil || r.End == "" || r.End == rollout.Promoted {
			t.Errorf("killed at write %d: got %+v, %v", write, r, err)
		}
		a, err := deps.Registry.Aliases(t.Context(), "late")
		if err != nil || a.Current["champion"] != 1 || a.Splits["champion"] != nil || len(a.History) != 3 || a.History[2].By != "ann" {
			t.Errorf("killed at write %d: got %+v, %v", write, a, err)
		}
		if _, err := deps.Rollouts.Start(t.Context(), rollout.Plan{Model: "late", Version: 2}); err != nil { // a person's
			t.Fatal(err)
		}
		if err := stop(w, w.blob); err != nil {
			t.Errorf("got %v", err)
		}
		if r, err := deps.Rollouts.Get(t.Context(), "late", "champion"); err != nil || r.End != "" {
			t.Errorf("that of a person: got %+v, %v", r, err)
		}
	}
}

// A record that is damaged blocks no rollout but the one that it was of, and one that was promoted stays so, whatever came since.
func TestTheRecordIsNotItsOwn(t *testing.T) {
	w := newWorld(t)
	deps := w.two()
	junk := func() {
		t.Helper()
		if _, err := w.blob.Put(t.Context(), rollout.Prefix+"late/champion", strings.NewReader("junk"), 4, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	junk()
	if _, err := w.run(rollingOut, w.blob, quick); !isLater(err) || !strings.Contains(err.Error(), "it has begun") {
		t.Fatalf("got %v", err)
	}
	record, _, err := store.ReadAll(t.Context(), w.blob, rollout.Prefix+"late/champion")
	if err != nil {
		t.Fatal(err)
	}
	junk()
	if _, err := w.run(rollingOut, w.blob, quick); !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("under way: got %v", err)
	}
	if _, err := w.blob.Put(t.Context(), rollout.Prefix+"late/champion", bytes.NewReader(record), int64(len(record)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := deps.Rollouts.Tick(t.Context(), rows{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := deps.Registry.Push(t.Context(), model.Push{Name: "late"}, bytes.NewReader(file("Tanh"))); err != nil {
		t.Fatal(err)
	}
	if _, err := deps.Registry.Move(t.Context(), "late", "champion", model.Change{To: 3, By: "ann"}); err != nil {
		t.Fatal(err)
	}
	junk()
	if _, err := deps.Rollouts.Start(t.Context(), rollout.Plan{Model: "late", Version: 1}); err != nil {
		t.Fatal(err)
	}
	task, err := w.run(rollingOut, w.blob, quick)
	if err != nil || !strings.Contains(string(task.Outputs["outcome"].Value), "it was promoted, and another was brought out since") {
		t.Errorf("got %v, %+v", err, task)
	}
}

// A rollout waits while another one is under way; what the alias names already is done, and an alias that is not there yet is made.
func TestRolloutsOfOthers(t *testing.T) {
	w := newWorld(t)
	deps := w.two()
	if _, err := deps.Registry.Push(t.Context(), model.Push{Name: "late"}, bytes.NewReader(file("Tanh"))); err != nil {
		t.Fatal(err)
	}
	if _, err := deps.Rollouts.Start(t.Context(), rollout.Plan{Model: "late", Version: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.run(rollingOut, w.blob, quick); !isLater(err) {
		t.Errorf("got %v", err)
	}
	if _, err := w.run(rollingOut, w.blob, `{alias: other}`); err != nil {
		t.Errorf("got %v", err)
	}
	a, err := deps.Registry.Aliases(t.Context(), "late")
	if err != nil || a.Current["other"] != 2 || a.Current["champion"] != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := w.run(rollingOut, w.blob, `{alias: other}`); err != nil {
		t.Errorf("again: got %v", err)
	}
	for with, want := range map[string]string{
		`{shares: [0.5, 0.1]}`: "shares are", `{guards: {auc: 0.1}}`: `there is no guard "auc"`, `{guards: {brier: x}}`: "the guard brier allows", `{alias: "7"}`: "alias", `{shadow: 100d}`: "patience to be the longer", `{nothing: 1}`: "no field",
	} {
		if _, err := w.run(rollingOut, w.blob, with); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", with, err)
		}
	}
}

func countPair(n, a, b int64) []sequential.CountPair {
	return []sequential.CountPair{{A: sequential.Counts{N: n, Yes: a}, B: sequential.Counts{N: n, Yes: b}}}
}

// heard is who takes events.
type heard struct {
	mu  sync.Mutex
	all []event.Event
}

func (h *heard) Send(_ context.Context, events ...event.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, events...)
	return nil
}

// From the run on each event says what caused it.
func TestCauses(t *testing.T) {
	w := newWorld(t)
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Level: slog.LevelError, Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	h := &heard{}
	outbox, err := event.NewOutbox(h, tel)
	if err != nil {
		t.Fatal(err)
	}
	c := &model.Config{CacheDir: t.TempDir(), CacheSize: 64 << 20, Memory: 1 << 30, Refresh: time.Hour, Fetch: 1, Load: time.Minute}
	registry, err := model.Open(c, w.blob, nil, []engine.Format{onnxtest.Format(t)}, outbox, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	if _, err := registry.Push(t.Context(), model.Push{Name: "late"}, bytes.NewReader(file("Tanh"))); err != nil { // a person's, for no cause
		t.Fatal(err)
	}
	d := Deps{registry, rollout.New(w.blob, registry.Catalog, nil, func(*model.Manifest) string { return "" }, slog.New(slog.DiscardHandler))}
	for i, with := range []string{"{}", quick} {
		step, err := Kinds(d)[i].New(node(t, with))
		if err != nil {
			t.Fatal(err)
		}
		task := w.task(w.blob)
		if err := step.Run(t.Context(), task); err != nil && !isLater(err) {
			t.Fatal(err)
		}
		w.inputs = task.Outputs
	}
	for range 3 {
		if err := d.Rollouts.Tick(t.Context(), rows{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := outbox.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range h.all {
		e := &h.all[i]
		got = append(got, e.ID()+" "+event.Cause(e))
	}
	if want := "late:1 |late:champion:1 |late:2 flights:7|late:champion:2 flights:7|late:champion:3 flights:7|late:champion:4 flights:7"; strings.Join(got, "|") != want {
		t.Errorf("got %s, want %s", strings.Join(got, "|"), want)
	}
}

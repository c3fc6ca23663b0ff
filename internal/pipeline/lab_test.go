package pipeline

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// lab is a world in which steps have effects that tests look at.
type lab struct {
	kinds []Kind

	mu      sync.Mutex
	tries   map[string]int // by step
	effects map[string]int // by Task.ID: of those that know their own again
	behave  map[string]func(ctx context.Context, t *Task) error
	sent    []event.Event
}

// recipe is what steps of the kind "do" read.
type recipe struct {
	Text string `yaml:"text"`
}

// newLab makes one with the kinds "do" and "heavy": they read a file and a value where they get them, and give both.
func newLab() *lab {
	l := &lab{tries: map[string]int{}, effects: map[string]int{}, behave: map[string]func(context.Context, *Task) error{}}
	for _, name := range []string{"do", "heavy"} {
		l.kinds = append(l.kinds, Kind{
			Name: name, About: "does what the test says", Heavy: name == "heavy",
			In:  []Port{{Name: "file", Optional: true}, {Name: "value", Optional: true}, {Name: "more", Optional: true}},
			Out: []Port{{Name: "file"}, {Name: "value"}, {Name: "extra", Optional: true}},
			New: func(with yamlwire.Node) (Step, error) {
				var r recipe
				if err := with.Into(&r, "with"); err != nil {
					return nil, err
				}
				return &labStep{l, r}, nil
			},
		})
	}
	l.kinds = append(l.kinds, Kind{
		Name: "needs", In: []Port{{Name: "value"}}, New: func(yamlwire.Node) (Step, error) { return &labStep{l, recipe{}}, nil },
	})
	return l
}

// labStep is a step of a lab.
type labStep struct {
	*lab
	recipe
}

func (s *labStep) Run(ctx context.Context, t *Task) error {
	s.mu.Lock()
	s.tries[t.Step]++
	f := s.behave[t.Step]
	s.mu.Unlock()
	if f != nil {
		if err := f(ctx, t); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.effects[t.ID()] = 1 // as a put-if-absent by the id
	s.mu.Unlock()
	return s.produce(ctx, t)
}

// Stop implements Stopper: the behaviour "stop <step>" says how.
func (s *labStep) Stop(ctx context.Context, t *Task, by string) error {
	s.mu.Lock()
	s.tries["stop "+t.Step+" by "+by]++
	f := s.behave["stop "+t.Step]
	s.mu.Unlock()
	if f != nil {
		return f(ctx, t)
	}
	return nil
}

// produce gives what a step of the kind "do" gives: what it read, and itself.
func (r *recipe) produce(ctx context.Context, t *Task) error {
	text := t.Step + r.Text
	if t.Has("value") {
		var before string
		if err := t.Read("value", &before); err != nil {
			return err
		}
		text = before + ">" + text
	}
	if t.Has("file") {
		path, err := t.Fetch(ctx, "file")
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text += "(" + string(b) + ")"
	}
	t.Log.InfoContext(ctx, "did it", "text", text)
	t.Progress(1, 2, "rows")
	path := filepath.Join(t.Dir, "out.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if err := t.Keep(ctx, "file", path); err != nil {
		return err
	}
	return t.Tell("value", text)
}

// Send implements event.Sink.
func (l *lab) Send(_ context.Context, events ...event.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, events...)
	return nil
}

// types lists what was sent.
func (l *lab) types() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, e := range l.sent {
		all = append(all, e.Type()[len("dev.pilotlight."):])
	}
	return all
}

// on says what a step does before it gives its outputs.
func (l *lab) on(step string, f func(ctx context.Context, t *Task) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behave[step] = f
}

func (l *lab) tried(step string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tries[step]
}

func bucket(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mute(t testing.TB) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// manager makes an instance on a bucket.
func (l *lab) manager(t testing.TB, b store.Blob) *Manager {
	t.Helper()
	m, err := New(&Config{Steps: "process", Lease: 30 * time.Second, Turn: time.Minute, Keep: 48 * time.Hour}, Deps{Blob: b, Sink: l, Kinds: l.kinds}, mute(t))
	if err != nil {
		t.Fatal(err)
	}
	m.pause = time.Millisecond
	return m
}

// chain is three steps, of which each reads the one before.
const chain = `
pipeline: chain
about: does three things
on:
  - {event: dev.pilotlight.alert.raised.v1, where: {model: flights, severity: ticket}}
steps:
  - {name: one, use: do, with: {text: "!"}}
  - {name: two, use: do, in: {value: one.value, file: one.file}}
  - {name: three, use: do, in: {value: two.value, file: one.file}}
`

// done is what the last step of chain says.
const done = "one!>two(one!)>three(one!)"

func apply(t testing.TB, m *Manager, text string) {
	t.Helper()
	all, err := Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if _, err := m.Apply(t.Context(), &all[i], "tester", false); err != nil {
			t.Fatal(err)
		}
	}
}

func begin(t testing.TB, m *Manager, name string) *Run {
	t.Helper()
	run, err := m.Start(t.Context(), name, "tester", "")
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// work works on a pipeline until nothing is left to be done at once.
func work(t testing.TB, m *Manager, name string) {
	t.Helper()
	for range 1000 {
		again, err := m.Work(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if again.IsZero() || again.After(m.now()) {
			return
		}
	}
	t.Fatal("there is no end of it")
}

func get(t testing.TB, m *Manager, run *Run) *Run {
	t.Helper()
	run, err := m.Get(t.Context(), run.Pipeline, run.ID)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func (r *Run) step(name string) *StepState {
	return &r.Steps[slices.IndexFunc(r.Steps, func(s StepState) bool { return s.Name == name })]
}

// raised is the event of an alert.
func raised(id, model string) *event.Event {
	e := event.AlertRaised.New(event.Raised{ID: id, Rule: "r", Model: model, Severity: "ticket", At: time.Now()})
	return &e
}

func isKind(t *testing.T, err error, kind fault.Kind, message string) {
	t.Helper()
	if !fault.Is(err, kind) || fault.Message(err) != message {
		t.Errorf("got %v, want %s: %s", err, kind, message)
	}
}

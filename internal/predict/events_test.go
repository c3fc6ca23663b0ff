package predict_test

import (
	"bytes"
	"context"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// heard is a sink that hands events on.
type heard chan event.Event

func (h heard) Send(_ context.Context, events ...event.Event) error {
	for _, e := range events {
		h <- e
	}
	return nil
}

// process is one of several on a bucket, which looks there by itself once an hour.
type process struct {
	*model.Registry
	events *event.Mux
	api    http.Handler
}

func member(t *testing.T, blob store.Blob, sink event.Sink) *process {
	t.Helper()
	var pc predict.Config
	if _, err := env.Load(map[string]string{"MODEL_CACHE_DIR": t.TempDir(), "MODEL_REFRESH": "1h"}, pc.Parts()...); err != nil {
		t.Fatal(err)
	}
	m := &process{}
	wire := func(ctx context.Context, p *serve.Process) (err error) {
		if m.events, err = event.NewMux(p.Tel); err != nil {
			return err
		}
		m.api = p.Mux
		m.Registry, err = predict.Open(ctx, p, &pc, predict.Deps{Blob: blob, Formats: []engine.Format{onnxtest.Format(t)}, Sink: sink, Events: m.events})
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := (&serve.Function{Name: "member", Wire: wire}).Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestAHintReachesAnotherProcessAtOnce(t *testing.T) {
	blob := newBlob(t)
	events := make(heard, 100)
	here, there := member(t, blob, events), member(t, blob, nil)
	push := func(dim int64) {
		t.Helper()
		spec := tensor.Spec{Name: "x", Type: tensor.FP32, Shape: []int64{dim}}
		if _, err := here.Push(t.Context(), model.Push{Name: "m"}, bytes.NewReader(onnxtest.Identity(spec).Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	// tell hands over the next events and gives their types.
	tell := func(n int) (types []string) {
		t.Helper()
		for range n {
			select {
			case e := <-events:
				types = append(types, e.Type())
				if err := there.events.Handle(t.Context(), &e); err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no event came")
			}
		}
		return types
	}
	version := func() int {
		t.Helper()
		m, err := there.Resolve(t.Context(), model.Ref{Name: "m"})
		if err != nil {
			return 0
		}
		return m.Version
	}
	if version() != 0 {
		t.Fatal("the model is there before it was pushed")
	}
	push(1)
	if types := tell(2); types[0] != event.ModelPublished.Name || types[1] != event.AliasMoved.Name {
		t.Errorf("got %q", types)
	}
	if v := version(); v != 1 {
		t.Errorf("got version %d after the first push, want 1", v)
	}
	push(2)
	tell(1)
	if _, err := here.Move(t.Context(), "m", model.Champion, model.Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	if v := version(); v != 1 {
		t.Errorf("got version %d before the hint, want 1", v)
	}
	tell(1)
	if v := version(); v != 2 {
		t.Errorf("got version %d after the hint, want 2", v)
	}
	if _, err := here.Rollback(t.Context(), "m", model.Champion, model.Change{By: "me", Why: "worse"}); err != nil {
		t.Fatal(err)
	}
	tell(1)
	if v := version(); v != 1 {
		t.Errorf("got version %d after the rollback, want 1", v)
	}
}

func TestHintsThatSayNothing(t *testing.T) {
	mux := member(t, newBlob(t), nil).events
	for _, test := range []struct {
		data   event.Published
		status int
	}{
		{event.Published{Model: "never/heard", Version: 1}, http.StatusBadRequest},
		{event.Published{Model: "unknown", Version: 1}, http.StatusAccepted}, // nobody asked for it here
	} {
		e := event.ModelPublished.New(test.data)
		r, err := event.Request(t.Context(), "/events", &e)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%+v: got %d %s, want %d", test.data, w.Code, w.Body, test.status)
		}
	}
}

func (m *process) push(t *testing.T, values ...int64) {
	t.Helper()
	for _, dim := range values {
		spec := tensor.Spec{Name: "x", Type: tensor.FP32, Shape: []int64{dim}}
		if _, err := m.Push(t.Context(), model.Push{Name: "m"}, bytes.NewReader(onnxtest.Identity(spec).Bytes())); err != nil {
			t.Fatal(err)
		}
	}
}

// hint posts an event as a broker does and gives the status.
func (m *process) hint(t *testing.T, e event.Event) int {
	t.Helper()
	r, err := event.Request(t.Context(), "/events", &e)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.events.ServeHTTP(w, r)
	return w.Code
}

func TestAnAliasThatIsInUseIsLoadedWhenItMoves(t *testing.T) {
	blob := newBlob(t)
	here, there := member(t, blob, nil), member(t, blob, nil)
	here.push(t, 1, 2)
	two, err := there.Resolve(t.Context(), model.Ref{Name: "m", Version: "2"})
	if err != nil {
		t.Fatal(err)
	}
	move := func(to int) {
		t.Helper()
		if _, err := here.Move(t.Context(), "m", model.Champion, model.Change{To: to}); err != nil {
			t.Fatal(err)
		}
		moved := event.AliasMoved.New(event.Moved{Model: "m", Alias: model.Champion, Seq: to, To: to, At: time.Now()})
		if status := there.hint(t, moved); status != http.StatusAccepted {
			t.Fatalf("got %d", status)
		}
	}
	move(2)
	if state, _ := there.Warm.State(two); state != model.Cold {
		t.Errorf("got state %v of a model that nobody used here, want cold", state)
	}
	move(1)
	w := httptest.NewRecorder()
	body := `{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1]}]}`
	there.api.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v2/models/m/infer", strings.NewReader(body)))
	if w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	move(2)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		state, err := there.Warm.State(two)
		if state == model.Ready {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("got state %v %v of what the alias names now, want ready without a request", state, err)
		}
	}
}

// outage is a bucket that can be away.
type outage struct {
	store.Blob
	away atomic.Bool
}

func (o *outage) Get(ctx context.Context, key string, from, n int64) (io.ReadCloser, store.Object, error) {
	if o.away.Load() {
		return nil, store.Object{}, fault.New(fault.Unavailable, "the object store cannot be reached")
	}
	return o.Blob.Get(ctx, key, from, n)
}

func (o *outage) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	if o.away.Load() {
		return func(yield func(store.Object, error) bool) {
			yield(store.Object{}, fault.New(fault.Unavailable, "the object store cannot be reached"))
		}
	}
	return o.Blob.List(ctx, prefix, after)
}

func TestAHintIsTriedAgainWhileTheBucketIsAway(t *testing.T) {
	blob := &outage{Blob: newBlob(t)}
	m := member(t, blob, nil)
	m.push(t, 1)
	if _, err := m.Resolve(t.Context(), model.Ref{Name: "m"}); err != nil {
		t.Fatal(err)
	}
	published := event.ModelPublished.New(event.Published{Model: "m", Version: 1, At: time.Now()})
	blob.away.Store(true)
	if status := m.hint(t, published); !event.Retried(status) {
		t.Errorf("got %d, which no broker tries again", status)
	}
	if _, err := m.Resolve(t.Context(), model.Ref{Name: "m"}); err != nil {
		t.Errorf("what was known is lost: %v", err)
	}
	blob.away.Store(false)
	if status := m.hint(t, published); status != http.StatusAccepted {
		t.Errorf("got %d once the bucket is back", status)
	}
}

package predict_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
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

// member is one process of several on a bucket, which looks there by itself once an hour.
func member(t *testing.T, blob store.Blob, sink event.Sink) (*model.Registry, *event.Mux) {
	t.Helper()
	var mc model.Config
	if _, err := env.Load(map[string]string{"MODEL_CACHE_DIR": t.TempDir(), "MODEL_REFRESH": "1h"}, &mc); err != nil {
		t.Fatal(err)
	}
	var registry *model.Registry
	var mux *event.Mux
	wire := func(ctx context.Context, p *serve.Process) (err error) {
		if mux, err = event.NewMux(p.Tel); err != nil {
			return err
		}
		registry, err = predict.Open(ctx, p, &mc, predict.Deps{Blob: blob, Formats: []engine.Format{onnxtest.Format(t)}, Sink: sink, Events: mux})
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
	return registry, mux
}

func TestAHintReachesAnotherProcessAtOnce(t *testing.T) {
	blob := newBlob(t)
	events := make(heard, 100)
	here, _ := member(t, blob, events)
	there, mux := member(t, blob, nil)
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
				if err := mux.Handle(t.Context(), &e); err != nil {
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
	if _, err := here.Rollback(t.Context(), "m", model.Champion, "me", "worse"); err != nil {
		t.Fatal(err)
	}
	tell(1)
	if v := version(); v != 1 {
		t.Errorf("got version %d after the rollback, want 1", v)
	}
}

func TestHintsThatSayNothing(t *testing.T) {
	_, mux := member(t, newBlob(t), nil)
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

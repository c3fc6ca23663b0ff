package serve

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// leaving is a response that, like net/http's, must not be touched once its handler has returned.
type leaving struct {
	http.ResponseWriter
	left    atomic.Bool
	touched atomic.Bool
}

func (w *leaving) SetWriteDeadline(time.Time) error { return nil }

func (w *leaving) SetReadDeadline(time.Time) error {
	time.Sleep(time.Millisecond)
	if w.left.Load() {
		w.touched.Store(true)
	}
	return nil
}

// A process that is told to end just when a stream ends leaves the response alone.
func TestStreamEndsWhileDraining(t *testing.T) {
	for range 50 {
		draining, drain := context.WithCancel(context.Background())
		w := &leaving{ResponseWriter: httptest.NewRecorder()}
		x := &exchange{ResponseWriter: w, server: &Server{draining: draining, config: Config{IdleTimeout: time.Minute}}, base: context.Background(), body: http.NoBody}
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), exchangeKey{}, x), http.MethodPost, "/", nil)
		s := OpenStream(r)
		s.Await()
		drain()
		x.release()
		w.left.Store(true)
		time.Sleep(2 * time.Millisecond)
		if w.touched.Load() {
			t.Fatal("the response was touched after the handler had returned")
		}
	}
}

package serve_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// A process that asks itself is answered as a caller is: by the guard, with a context and a log line of its own.
func TestInward(t *testing.T) {
	type keyOf struct{}
	released := make(chan struct{})
	var p *serve.Process
	f := &serve.Function{Name: "inward", Wire: func(_ context.Context, process *serve.Process) error {
		p = process
		p.Guard(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "" {
					serve.Error(w, r, fault.New(fault.Unauthenticated, "who are you?"))
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		p.Mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
			if r.RemoteAddr != "192.0.2.1:7" {
				t.Errorf("the request comes from %s", r.RemoteAddr)
			}
			if r.Context().Value(keyOf{}) != nil {
				t.Error("values of the caller's context came along")
			}
			if _, ok := r.Context().Deadline(); !ok || serve.RequestID(r) == "" {
				t.Error("the request has no deadline or no id")
			}
			_, _ = io.Copy(w, r.Body)
		})
		p.Mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "first\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(released)
		})
		p.Mux.HandleFunc("GET /aborts", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		})
		return nil
	}}
	if _, err := f.Start(t.Context(), map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	client := p.Client()
	ask := func(ctx context.Context, method, path, body string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, method, "http://self"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer me")
		r.RemoteAddr = "192.0.2.1:7"
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	answer := ask(context.WithValue(t.Context(), keyOf{}, 1), http.MethodPost, "/echo", "hello")
	if b, err := io.ReadAll(answer.Body); err != nil || string(b) != "hello" || answer.StatusCode != http.StatusOK || answer.Header.Get("X-Request-Id") == "" {
		t.Errorf("got %d %q, %v", answer.StatusCode, b, err)
	}
	_ = answer.Body.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://self/echo", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := client.Do(r)
	if err != nil || stranger.StatusCode != http.StatusUnauthorized {
		t.Errorf("a stranger: got %v, %v", stranger, err)
	}
	_ = stranger.Body.Close()

	slow := ask(t.Context(), http.MethodGet, "/slow", "")
	if line, err := bufio.NewReader(slow.Body).ReadString('\n'); err != nil || line != "first\n" {
		t.Errorf("of an answer that goes on: got %q, %v", line, err)
	}
	_ = slow.Body.Close()
	<-released // the request ends with whoever reads its answer

	aborted := ask(t.Context(), http.MethodGet, "/aborts", "")
	if b, err := io.ReadAll(aborted.Body); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("an answer that was broken off: got %q as the whole", b)
	}
	_ = aborted.Body.Close()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r, err = http.NewRequestWithContext(gone, http.MethodGet, "http://self/echo", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if late, err := client.Do(r); !errors.Is(err, context.Canceled) { //nolint:bodyclose // there is none
		t.Errorf("a caller that is gone: got %v, %v", late, err)
	}
}

// Of a process that never answers the cold start is told while those who take spans are open: they are opened last.
func TestColdStartWithoutAnAnswerIsTaken(t *testing.T) {
	var names []string
	f := &serve.Function{Name: "idle", Wire: func(_ context.Context, p *serve.Process) error {
		end := p.Tel.TakeSpans(func(part []telemetry.Span) {
			for _, s := range part {
				names = append(names, s.Name)
			}
		})
		p.Defer(func() error { end(); return nil })
		return nil
	}}
	p, err := f.Start(t.Context(), map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, "cold start") || !slices.Contains(names, "listener") {
		t.Errorf("got %v, want the cold start and its stages", names)
	}
}

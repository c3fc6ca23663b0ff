// Package predicttest runs a prediction server for tests: the real parts on a
// bucket in memory, on a loopback port.
package predicttest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// Server is a running server and its registry.
type Server struct {
	URL      string
	Registry *model.Registry
}

// Start runs a server until the test ends. environ sets variables besides those
// that keep it to itself; blob is its bucket, nil for a new one in memory.
func Start(t testing.TB, blob store.Blob, environ map[string]string) *Server {
	t.Helper()
	return StartOn(t, predict.Deps{Blob: blob}, environ)
}

// StartOn is Start with more than a bucket; the engine is added.
func StartOn(t testing.TB, d predict.Deps, environ map[string]string) *Server {
	t.Helper()
	if d.Blob == nil {
		var err error
		if d.Blob, err = memstore.OpenBlob(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	d.Formats = []engine.Format{onnxtest.Format(t)}
	env := map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "MODEL_CACHE_DIR": t.TempDir()}
	for k, v := range environ {
		env[k] = v
	}
	s := &Server{}
	var pc predict.Config
	var tc span.Config
	f := &serve.Function{Name: "test", Configs: append(pc.Parts(), &tc), Wire: func(ctx context.Context, p *serve.Process) (err error) {
		if err := span.Open(p, &tc, d.Blob); err != nil {
			return err
		}
		s.Registry, err = predict.Open(ctx, p, &pc, d)
		return err
	}}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := f.Start(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	s.URL = p.Server().URL()
	return s
}

// Push publishes a model's file.
func (s *Server) Push(t testing.TB, name string, file []byte, settings model.Settings) *model.Manifest {
	t.Helper()
	m, err := s.Registry.Push(t.Context(), model.Push{Name: name, Settings: settings}, bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// PushFile publishes the file at path.
func (s *Server) PushFile(t testing.TB, name, path string) *model.Manifest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return s.Push(t, name, b, model.Settings{})
}

// Answer is what came back for a request.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Do sends a request; headers are "Name: value".
func (s *Server) Do(t testing.TB, method, path, body string, headers ...string) Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	// No transparent compression: tests see what was sent. And no "Connection:
	// close", to which net/http gives no time to read the answer before the rest
	// of a refused body makes it break the connection off.
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return Answer{resp.StatusCode, resp.Header, string(b)}
}

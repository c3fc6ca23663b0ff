package serve_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// BenchmarkOverhead says what the server adds to a request: the log line, the
// metrics, the deadline, the id. The writer and the request are the test's own,
// so that no socket drowns the difference.
func BenchmarkOverhead(b *testing.B) {
	mux := http.NewServeMux()
	hello := []byte(`{"hello":"world"}`)
	mux.HandleFunc("GET /hello/{name}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(hello) })
	var c serve.Config
	if _, err := env.Load(map[string]string{"PORT": "0"}, &c); err != nil {
		b.Fatal(err)
	}
	tel, err := telemetry.Start(b.Context(), &telemetry.Config{Output: io.Discard}, "bench")
	if err != nil {
		b.Fatal(err)
	}
	server, err := serve.Open(b.Context(), &c, tel, mux)
	if err != nil {
		b.Fatal(err)
	}
	for _, handler := range []struct {
		name string
		http.Handler
	}{{"bare", mux}, {"ours", server}} {
		b.Run(handler.name, func(b *testing.B) {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/hello/you", nil)
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(w, r)
			}
		})
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

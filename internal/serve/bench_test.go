package serve_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/serve/servetest"
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

// BenchmarkRequests says what a request costs, caller and socket included, without TLS and with it; handshakes are of
// connections that are made for one request, without and with a session to take up again.
func BenchmarkRequests(b *testing.B) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", echo)
	ca := servetest.NewAuthority(b, "ca")
	plain := run(b, map[string]string{"LOG_LEVEL": "ERROR"}, mux)
	cert, key := pemFiles(b, ca)
	secure := run(b, map[string]string{"LOG_LEVEL": "ERROR", "TLS_CERT": cert, "TLS_KEY": key}, mux)
	resumed := &tls.Config{RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	for _, way := range []struct {
		name      string
		url       string
		transport *http.Transport
	}{
		{"plain", plain.url, &http.Transport{}},
		{"tls", secure.url, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}}},
		{"tls h2", secure.url, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, ForceAttemptHTTP2: true}},
		{"handshake", secure.url, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, DisableKeepAlives: true}},
		{"handshake resumed", secure.url, &http.Transport{TLSClientConfig: resumed, DisableKeepAlives: true}},
	} {
		b.Run(way.name, func(b *testing.B) {
			defer way.transport.CloseIdleConnections()
			body := bytes.Repeat([]byte("x"), 500)
			for b.Loop() {
				r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, way.url+"/echo", bytes.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				w, err := way.transport.RoundTrip(r)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, w.Body); n != 500 || err != nil {
					b.Fatalf("got %d bytes, %v", n, err)
				}
				w.Body.Close()
			}
		})
	}
}

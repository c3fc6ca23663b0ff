package serve_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

// output is a log that a test reads while it grows.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// line waits for a line of the log that has all parts.
func (o *output) line(t *testing.T, parts ...string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		o.mu.Lock()
		all := o.b.String()
		o.mu.Unlock()
	lines:
		for line := range strings.Lines(all) {
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			return line
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line with all of %q in\n%s", parts, all)
		}
	}
}

// running is a server that runs until the test ends or stop is called.
type running struct {
	url, addr string
	server    *serve.Server
	log       *output
	tel       *telemetry.Telemetry
	stop      func() error // ends Run, gives what it returned
}

func run(t testing.TB, environ map[string]string, handler http.Handler, ready ...func() error) *running {
	t.Helper()
	all := map[string]string{"PORT": "0"}
	if overTLS != nil {
		all["TLS_CERT"], all["TLS_KEY"] = pemFiles(t, overTLS)
	}
	for k, v := range environ {
		all[k] = v
	}
	x := &running{log: &output{}}
	var c serve.Config
	tc := telemetry.Config{Output: x.log}
	if _, err := env.Load(all, &c, &tc); err != nil {
		t.Fatal(err)
	}
	var err error
	if x.tel, err = telemetry.Start(t.Context(), &tc, "test"); err != nil {
		t.Fatal(err)
	}
	s, err := serve.Open(t.Context(), &c, x.tel, handler, ready...)
	if err != nil {
		t.Fatal(err)
	}
	x.server = s
	x.addr = s.Addr().String()
	x.url = s.URL()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	x.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, x.tel.Shutdown(context.WithoutCancel(t.Context())))
	})
	t.Cleanup(func() { _ = x.stop() })
	return x
}

// client makes a client that speaks HTTP/1.1, or HTTP/2 with prior knowledge.
func client(t *testing.T, h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{Protocols: protocols}
	if overTLS != nil {
		protocols.SetHTTP2(h2)
		transport.TLSClientConfig = overTLS.Client(t)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// both runs a test over each protocol.
func both(t *testing.T, test func(t *testing.T, c *http.Client, proto string)) {
	t.Helper()
	t.Run("http1", func(t *testing.T) { test(t, client(t, false), "HTTP/1.1") })
	t.Run("h2c", func(t *testing.T) { test(t, client(t, true), "HTTP/2.0") })
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
	proto  string
	err    error
}

func ask(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		return answer{err: err}
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w, err := c.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	return answer{w.StatusCode, w.Header, string(b), w.Proto, err}
}

func (a answer) check(t *testing.T, status int, body string) {
	t.Helper()
	if a.err != nil || a.status != status || a.body != body {
		t.Errorf("got %d %s and error %v, want %d %s", a.status, a.body, a.err, status, body)
	}
	if ct := a.header.Get("Content-Type"); strings.HasPrefix(body, "{") && ct != "application/json" {
		t.Errorf("got content type %q, want application/json", ct)
	}
}

// echo answers with what it was sent.
func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		serve.Error(w, r, err)
		return
	}
	_, _ = w.Write(b)
}

func routes(handlers map[string]http.HandlerFunc) *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range handlers {
		mux.HandleFunc(pattern, h)
	}
	return mux
}

func TestBothProtocolsOnOnePort(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{"POST /echo": echo}))
	both(t, func(t *testing.T, c *http.Client, proto string) {
		got := ask(t, c, http.MethodPost, s.url+"/echo", strings.NewReader("hello"))
		got.check(t, http.StatusOK, "hello")
		if got.proto != proto {
			t.Errorf("got protocol %s, want %s", got.proto, proto)
		}
	})
}

// Many requests at once on one connection, with answers of all sizes.
func TestHTTP2Answers(t *testing.T) {
	s := run(t, nil, http.HandlerFunc(echo))
	c := client(t, true)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			body := strings.Repeat(fmt.Sprint(i%10), i*i*100)
			resp, err := c.Post(s.url+"/", "text/plain", strings.NewReader(body)) //nolint:noctx // ends with the server
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != body {
				t.Errorf("got %d bytes of %d, %v", len(got), len(body), err)
			}
		})
	}
	wg.Wait()
}

func TestErrorsAreJSON(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{
		"POST /echo": echo,
		"GET /{$}":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "my own", http.StatusNotFound) },
		"GET /missing": func(w http.ResponseWriter, r *http.Request) {
			serve.Error(w, r, fault.New(fault.NotFound, "no <model>"))
		},
		"GET /busy": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			serve.Error(w, r, fmt.Errorf("ask: %w", fault.New(fault.Overloaded, "too much")))
		},
		"GET /secret": func(w http.ResponseWriter, r *http.Request) { serve.Error(w, r, errors.New("password is sesame")) },
		"GET /called-off": func(w http.ResponseWriter, r *http.Request) {
			serve.Error(w, r, fmt.Errorf("another's work: %w", context.Canceled))
		},
	}))
	both(t, func(t *testing.T, c *http.Client, _ string) {
		for _, test := range []struct {
			method, path string
			status       int
			body         string
			header, want string
		}{
			{"GET", "/nothing", 404, `{"error":"there is nothing at /nothing"}`, "X-Content-Type-Options", "nosniff"},
			{"GET", "/echo", 405, `{"error":"GET is not a method of /echo"}`, "Allow", "POST"},
			{"GET", "/", 404, "my own\n", "Content-Type", "text/plain; charset=utf-8"},
			{"GET", "/missing", 404, `{"error":"no \u003cmodel\u003e"}`, "Retry-After", ""},
			{"GET", "/busy", 429, `{"error":"too much"}`, "Retry-After", "1"},
			{"GET", "/busy", 429, `{"error":"too much"}`, "Content-Encoding", ""},
			{"GET", "/secret", 500, `{"error":"internal error"}`, "Retry-After", ""},
			{"GET", "/called-off", 503, `{"error":"the work was called off on the way"}`, "Retry-After", "1"},
			{"POST", "/healthz", 405, `{"error":"POST is not a method of /healthz"}`, "Allow", "GET, HEAD"},
		} {
			got := ask(t, c, test.method, s.url+test.path, nil)
			got.check(t, test.status, test.body)
			if got := got.header.Get(test.header); got != test.want {
				t.Errorf("%s: got %s %q, want %q", test.path, test.header, got, test.want)
			}
		}
	})
	s.log.line(t, `"path":"/nothing"`, `"route":""`, `"status":404`)
	s.log.line(t, `"level":"ERROR"`, `"kind":"internal"`, `"error":"password is sesame"`)
	s.log.line(t, `"level":"INFO"`, `"kind":"overloaded"`, `"error":"ask: too much"`)
}

func TestBodyTooLarge(t *testing.T) {
	s := run(t, map[string]string{"MAX_BODY": "1KiB", "MAX_UPLOAD": "4KiB"}, routes(map[string]http.HandlerFunc{
		"POST /echo": echo,
		"POST /upload": func(w http.ResponseWriter, r *http.Request) {
			serve.Long(w, r)
			if got := serve.BodyLimit(r); got != 4<<10 {
				t.Errorf("limit of a long request: got %d, want 4096", got)
			}
			echo(w, r)
		},
	}))
	chunked := func(n int) io.Reader { return io.LimitReader(zeros{}, int64(n)) }
	known := func(n int) io.Reader { return bytes.NewReader(make([]byte, n)) }
	both(t, func(t *testing.T, c *http.Client, _ string) {
		for name, body := range map[string]func(int) io.Reader{"known": known, "chunked": chunked} {
			t.Run(name, func(t *testing.T) {
				ask(t, c, http.MethodPost, s.url+"/echo", body(1<<10)).check(t, 200, string(make([]byte, 1<<10)))
				ask(t, c, http.MethodPost, s.url+"/echo", body(1<<10+1)).check(t, 413, `{"error":"the body is larger than the limit of 1024 bytes"}`)
				ask(t, c, http.MethodPost, s.url+"/upload", body(4<<10)).check(t, 200, string(make([]byte, 4<<10)))
				ask(t, c, http.MethodPost, s.url+"/upload", body(4<<10+1)).check(t, 413, `{"error":"the body is larger than the limit of 4096 bytes"}`)
			})
		}
	})
}

func TestBodySaidToBeTooLargeIsNotAwaited(t *testing.T) {
	s := run(t, map[string]string{"MAX_BODY": "1KiB"}, routes(map[string]http.HandlerFunc{"POST /echo": echo}))
	conn := dial(t, s.addr)
	begin := time.Now()
	fmt.Fprint(conn, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	w, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if took := time.Since(begin); w.StatusCode != 413 || took > 5*time.Second {
		t.Errorf("got %d after %s, want 413 at once", w.StatusCode, took)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSlowHeaderIsCutOff(t *testing.T) {
	s := run(t, map[string]string{"HEADER_TIMEOUT": "100ms"}, http.NotFoundHandler())
	for _, start := range []string{"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", "PRI * HTTP/2.0\r\n\r\n", ""} {
		conn := dial(t, s.addr)
		fmt.Fprint(conn, start)
		begin := time.Now()
		_, _ = io.Copy(io.Discard, conn)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("after %q the connection was open for %s", start, took)
		}
	}
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// drip is a body that comes piece by piece.
type drip struct {
	t     *testing.T
	piece int
	every time.Duration
	left  int
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.every):
	case <-d.t.Context().Done():
		return 0, d.t.Context().Err()
	}
	n := min(len(p), d.piece, d.left)
	d.left -= n
	return n, nil
}

func TestSlowBodyIsCutOff(t *testing.T) {
	s := run(t, map[string]string{"STALL_TIMEOUT": "300ms", "MIN_PACE": "16KiB"}, routes(map[string]http.HandlerFunc{"POST /echo": echo}))
	both(t, func(t *testing.T, c *http.Client, _ string) {
		begin := time.Now()
		ask(t, c, http.MethodPost, s.url+"/echo", &drip{t, 1, 20 * time.Millisecond, 1 << 20}).
			check(t, 408, `{"error":"the body came too slowly: at least 16KiB a second is expected"}`)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("cut off after %s", took)
		}
		begin = time.Now()
		ask(t, c, http.MethodPost, s.url+"/echo", &drip{t, 2 << 10, 20 * time.Millisecond, 60 << 10}).check(t, 200, string(make([]byte, 60<<10)))
		if took := time.Since(begin); took < 2*300*time.Millisecond {
			t.Errorf("took %s, which proves nothing", took)
		}
	})
	s.log.line(t, `"status":408`, `"kind":"deadline"`)
}

func TestSlowBodyThatNobodyReads(t *testing.T) {
	s := run(t, map[string]string{"STALL_TIMEOUT": "100ms"}, http.NewServeMux())
	conn := dial(t, s.addr)
	fmt.Fprint(conn, "POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
	begin := time.Now()
	b, _ := io.ReadAll(conn)
	if took := time.Since(begin); took > 5*time.Second || !strings.HasPrefix(string(b), "HTTP/1.1 404 ") {
		t.Errorf("got %q after %s, want a 404 and a closed connection", b, took)
	}
}

func TestReadDeadlineEndsWithTheBody(t *testing.T) {
	s := run(t, map[string]string{"STALL_TIMEOUT": "100ms", "MIN_PACE": "4MiB"}, routes(map[string]http.HandlerFunc{"/think": func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond) // so that all of the body comes at once
		if _, err := io.ReadFull(r.Body, make([]byte, 2<<20)); fault.Is(err, fault.Deadline) {
			serve.Error(w, r, err)
			return
		}
		_, _ = r.Body.Read(make([]byte, 1)) // beyond the end
		select {
		case <-time.After(500 * time.Millisecond):
			fmt.Fprint(w, "done")
		case <-r.Context().Done():
			serve.Error(w, r, r.Context().Err())
		}
	}}))
	both(t, func(t *testing.T, c *http.Client, _ string) {
		ask(t, c, http.MethodPost, s.url+"/think", strings.NewReader("x")).check(t, 200, "done")
		ask(t, c, http.MethodPost, s.url+"/think", bytes.NewReader(make([]byte, 1<<20))).check(t, 200, "done")
		ask(t, c, http.MethodGet, s.url+"/think", nil).check(t, 200, "done")
	})
}

func TestSlowReaderIsCutOff(t *testing.T) {
	failed := make(chan error, 1)
	s := run(t, map[string]string{"STALL_TIMEOUT": "300ms", "MIN_PACE": "1GiB"}, routes(map[string]http.HandlerFunc{
		"GET /much": func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, 64<<20))
			failed <- err
		},
		"GET /drops": func(w http.ResponseWriter, r *http.Request) {
			serve.Long(w, r)
			var err error
			for err == nil && r.Context().Err() == nil {
				_, err = w.Write(make([]byte, 1<<10))
				w.(http.Flusher).Flush()
			}
			failed <- cmp.Or(err, r.Context().Err())
		},
	}))
	both(t, func(t *testing.T, c *http.Client, _ string) {
		for _, path := range []string{"/much", "/drops"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			w, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Body.Close()
			select {
			case err := <-failed:
				if err == nil {
					t.Errorf("%s: all of it was taken by a caller that reads nothing", path)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the handler still waits", path)
			}
		}
	})
}

func TestLongRequests(t *testing.T) {
	gone := make(chan error, 2)
	s := run(t, map[string]string{"REQUEST_TIMEOUT": "100ms", "STALL_TIMEOUT": "100ms", "UPLOAD_TIMEOUT": "1h"}, routes(map[string]http.HandlerFunc{
		"GET /short": func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			serve.Error(w, r, fmt.Errorf("wait: %w", r.Context().Err()))
		},
		"GET /long": func(w http.ResponseWriter, r *http.Request) {
			serve.Long(w, r)
			serve.Long(w, r) // once is enough, twice does no harm
			if deadline, _ := r.Context().Deadline(); time.Until(deadline) < 50*time.Minute {
				t.Errorf("got deadline %s, want one in an hour", deadline)
			}
			telemetry.LineFrom(r.Context()).SetID("long")
			for range 2 {
				time.Sleep(300 * time.Millisecond)
				fmt.Fprint(w, strings.Repeat("x", 8<<10))
				w.(http.Flusher).Flush()
			}
		},
		"GET /wait": func(w http.ResponseWriter, r *http.Request) {
			serve.Long(w, r)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			gone <- context.Cause(r.Context())
		},
	}))
	both(t, func(t *testing.T, c *http.Client, proto string) {
		ask(t, c, http.MethodGet, s.url+"/short", nil).check(t, 504, `{"error":"the request's time ran out"}`)
		ask(t, c, http.MethodGet, s.url+"/long", nil).check(t, 200, strings.Repeat("x", 16<<10))
		s.log.line(t, `"id":"long"`, `"protocol":"`+proto+`"`, `"out":16384`)

		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/wait", nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Body.Close()
		leave()
		select {
		case err := <-gone:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got cause %v, want %v", err, context.Canceled)
			}
		case <-time.After(10 * time.Second):
			t.Error("a long request goes on without its caller")
		}
	})
}

func TestCallerThatLeaves(t *testing.T) {
	started := make(chan struct{}, 2)
	s := run(t, nil, routes(map[string]http.HandlerFunc{"GET /wait": func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-r.Context().Done()
		serve.Error(w, r, fmt.Errorf("wait: %w", r.Context().Err()))
	}}))
	both(t, func(t *testing.T, c *http.Client, proto string) {
		ctx, leave := context.WithCancel(t.Context())
		go func() { <-started; leave() }()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/wait", nil)
		if err != nil {
			t.Fatal(err)
		}
		if w, err := c.Do(r); err == nil {
			w.Body.Close()
			t.Error("got an answer, want none")
		}
		s.log.line(t, `"status":499`, `"level":"INFO"`, `"protocol":"`+proto+`"`)
	})
}

func TestPanics(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{
		"GET /early": func(http.ResponseWriter, *http.Request) { panic("a bug") },
		"GET /late": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "half of it")
			w.(http.Flusher).Flush()
			panic("a late bug")
		},
		"GET /cut": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "half of it")
			w.(http.Flusher).Flush()
			serve.Error(w, r, fault.New(fault.Unavailable, "the rest is gone"))
		},
		"GET /abort": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "half of it")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	}))
	both(t, func(t *testing.T, c *http.Client, proto string) {
		ask(t, c, http.MethodGet, s.url+"/early", nil).check(t, 500, `{"error":"internal error"}`)
		for _, path := range []string{"/late", "/cut", "/abort"} {
			if got := ask(t, c, http.MethodGet, s.url+path, nil); got.err == nil {
				t.Errorf("%s: got %d %q as if it were whole", path, got.status, got.body)
			}
		}
		proto = `"protocol":"` + proto + `"`
		s.log.line(t, proto, `"level":"ERROR"`, `"route":"/early"`, `"error":"panic: a bug"`, "serve_test.go:")
		s.log.line(t, proto, `"level":"ERROR"`, `"route":"/late"`, `"error":"panic: a late bug"`)
		s.log.line(t, proto, `"route":"/cut"`, `"kind":"unavailable"`)
		s.log.line(t, proto, `"route":"/abort"`)
		ask(t, c, http.MethodGet, s.url+"/healthz", nil).check(t, 200, `{"alive":true}`)
	})
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{"/echo": echo}))
	both(t, func(t *testing.T, c *http.Client, _ string) {
		for _, test := range []struct {
			method, header, value string
			want                  int
		}{
			{"POST", "Sec-Fetch-Site", "cross-site", 403},
			{"POST", "Origin", "https://evil.example", 403},
			{"GET", "Sec-Fetch-Site", "cross-site", 200},
			{"POST", "Sec-Fetch-Site", "same-origin", 200},
			{"POST", "Origin", s.url, 200},
			{"POST", "X-Tool", "curl", 200},
		} {
			if got := ask(t, c, test.method, s.url+"/echo", nil, test.header, test.value); got.status != test.want {
				t.Errorf("%s with %s %s: got %d %s, want %d", test.method, test.header, test.value, got.status, got.body, test.want)
			}
		}
	})
}

func TestPagesOfNamedSites(t *testing.T) {
	const site = "https://console.example.com"
	s := run(t, map[string]string{"CORS_ORIGINS": site + ",http://127.0.0.1:3000"}, routes(map[string]http.HandlerFunc{"/echo": echo}))
	for _, test := range []struct {
		method, origin, asks string
		status               int
		allowed              bool
	}{
		{"OPTIONS", site, "POST", 204, true},
		{"POST", site, "", 200, true},
		{"GET", "http://127.0.0.1:3000", "", 200, true},
		{"POST", "https://evil.example", "", 403, false},
		{"POST", "https://console.example.com.evil.example", "", 403, false},
		{"POST", "null", "", 403, false},
		{"GET", "https://evil.example", "", 200, false},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, s.url+"/echo", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", test.origin)
		if test.asks != "" {
			r.Header.Set("Access-Control-Request-Method", test.asks)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		want := ""
		if test.allowed {
			want = test.origin
		}
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != test.status || got != want || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s from %s: got %d, allowed %q; want %d, %q", test.method, test.origin, resp.StatusCode, got, test.status, want)
		}
	}
	for _, bad := range []string{"*", "console.example.com", "https://console.example.com/", "https://x,ftp://y"} {
		if _, err := env.Load(map[string]string{"CORS_ORIGINS": bad}, &serve.Config{}); err == nil || !strings.Contains(err.Error(), "CORS_ORIGINS has") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

func TestOnlyLoopbackUnlessAuthIsOff(t *testing.T) {
	for _, test := range []struct{ host, auth, want string }{
		{"0.0.0.0", "", `HOST "0.0.0.0" can be reached from other machines and nothing checks who calls: set AUTH=on, or AUTH=off if that is meant`},
		{"::", "", `HOST "::" can be reached from other machines and nothing checks who calls: set AUTH=on, or AUTH=off if that is meant`},
		{"10.1.2.3", "", `HOST "10.1.2.3" can be reached from other machines and nothing checks who calls: set AUTH=on, or AUTH=off if that is meant`},
		{"127.0.0.1", "yes", `AUTH is "yes", expected 'on', 'off' or nothing`},
		{"0.0.0.0", "off", ""},
		{"127.0.0.2", "", ""},
		{"::1", "", ""},
		{"localhost", "", ""},
	} {
		got := ""
		if _, err := env.Load(map[string]string{"HOST": test.host, "AUTH": test.auth}, &serve.Config{}); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("HOST=%s AUTH=%s: got %q, want %q", test.host, test.auth, got, test.want)
		}
	}
	if _, err := serve.Open(t.Context(), &serve.Config{Host: "0.0.0.0"}, nil, nil); err == nil {
		t.Error("Open trusts a config that was never checked")
	}
	s := run(t, map[string]string{"HOST": "0.0.0.0", "AUTH": "off"}, http.NewServeMux())
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, client(t, false), http.MethodGet, "http://127.0.0.1:"+port+"/healthz", nil).check(t, 200, `{"alive":true}`)
}

func TestReadiness(t *testing.T) {
	var mu sync.Mutex
	reason := fault.New(fault.Unavailable, "model iris is loading")
	s := run(t, nil, http.NewServeMux(),
		func() error { mu.Lock(); defer mu.Unlock(); return reason }, func() error { return nil })
	c := client(t, false)
	ask(t, c, http.MethodGet, s.url+"/readyz", nil).check(t, 503, `{"ready":false,"reasons":["model iris is loading"]}`)
	mu.Lock()
	reason = nil
	mu.Unlock()
	ask(t, c, http.MethodGet, s.url+"/readyz", nil).check(t, 200, `{"ready":true}`)
	ask(t, c, http.MethodHead, s.url+"/readyz", nil).check(t, 200, "")
}

func TestRequestID(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{"/echo": echo}))
	c := client(t, false)
	get := func(header ...string) string {
		return ask(t, c, http.MethodGet, s.url+"/echo", nil, header...).header.Get("X-Request-Id")
	}
	if got := get("X-Request-Id", "abc-1"); got != "abc-1" {
		t.Errorf("got %q, want the caller's abc-1", got)
	}
	first, second := get(), get()
	if len(first) != 32 || first == second {
		t.Errorf("got ids %q and %q, want two of 32 digits", first, second)
	}
	for _, bad := range []string{strings.Repeat("x", 129), "a b", "ä"} {
		if got := get("X-Request-Id", bad); len(got) != 32 {
			t.Errorf("for %q got %q, want a new one", bad, got)
		}
	}
	s.log.line(t, `"request_id":"abc-1"`)
}

func TestLogLine(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{"POST /models/{model}/infer": func(w http.ResponseWriter, r *http.Request) {
		line := telemetry.LineFrom(r.Context())
		line.SetModel(r.PathValue("model"), "3")
		line.Timing("run", 1234*time.Microsecond)
		_, _ = io.Copy(io.Discard, r.Body)
		serve.Error(w, r, fmt.Errorf("run it: %w", fault.Wrap(fault.Unavailable, io.ErrUnexpectedEOF, "the store is away")))
	}}))
	ask(t, client(t, false), http.MethodPost, s.url+"/models/iris/infer", strings.NewReader("0123456789"),
		"X-Request-Id", "abc", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").check(t, 503, `{"error":"the store is away"}`)
	line := s.log.line(t, `"msg":"request"`)
	var varying struct {
		Time     time.Time
		Duration int64  `json:"duration_us"`
		Span     string `json:"span_id"`
	}
	if err := json.Unmarshal([]byte(line), &varying); err != nil || time.Since(varying.Time) > time.Minute || varying.Duration <= 0 {
		t.Errorf("got %+v and error %v, want a time and a duration", varying, err)
	}
	_, got, _ := strings.Cut(line, `,"level"`)
	got = strings.Replace(got, fmt.Sprintf(`"duration_us":%d`, varying.Duration), `"duration_us":N`, 1)
	got = strings.Replace(got, fmt.Sprintf(`"span_id":%q`, varying.Span), `"span_id":N`, 1)
	want := `:"WARN","msg":"request","method":"POST","route":"/models/{model}/infer","status":503,"duration_us":N,"in":10,"out":29,` +
		`"protocol":"HTTP/1.1","request_id":"abc","kind":"unavailable","model":"iris","version":"3","us":{"run":1234},` +
		`"error":"run it: the store is away: unexpected EOF","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":N}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// scrape reads metrics as Prometheus does; labels of a series are in one text.
func scrape(t *testing.T, url string) (families map[string]*dto.MetricFamily, series map[string]*dto.Metric) {
	t.Helper()
	got := ask(t, client(t, false), http.MethodGet, url+"/metrics", nil)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(got.body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, got.body)
	}
	series = map[string]*dto.Metric{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			key := name
			for _, l := range m.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			series[key] = m
		}
	}
	return families, series
}

func TestMetrics(t *testing.T) {
	busy, release := make(chan struct{}), make(chan struct{})
	s := run(t, nil, routes(map[string]http.HandlerFunc{
		"POST /models/{model}/infer": echo,
		"GET /wait":                  func(http.ResponseWriter, *http.Request) { close(busy); <-release },
		"GET /bad":                   func(w http.ResponseWriter, r *http.Request) { serve.Error(w, r, fault.New(fault.Invalid, "bad")) },
	}))
	c := client(t, false)
	for i := range 5 {
		ask(t, c, http.MethodPost, fmt.Sprintf("%s/models/m%d/infer", s.url, i), strings.NewReader("12345678"))
		ask(t, c, fmt.Sprintf("METHOD%d", i), fmt.Sprintf("%s/nothing/%d", s.url, i), nil)
	}
	ask(t, c, http.MethodGet, s.url+"/bad", nil)
	ask(t, c, http.MethodGet, s.url+"/healthz", nil)
	waited := make(chan struct{})
	go func() { defer close(waited); ask(t, client(t, true), http.MethodGet, s.url+"/wait", nil) }()
	<-busy
	families, series := scrape(t, s.url)
	close(release)
	<-waited

	const scheme = " url_scheme=http"
	for key, want := range map[string]uint64{
		"http_server_request_duration_seconds http_request_method=POST http_response_status_code=200 http_route=/models/{model}/infer network_protocol_version=1.1" + scheme:  5,
		"http_server_request_duration_seconds http_request_method=_OTHER http_response_status_code=404 network_protocol_version=1.1" + scheme:                                 5,
		"http_server_request_duration_seconds error_type=invalid http_request_method=GET http_response_status_code=400 http_route=/bad network_protocol_version=1.1" + scheme: 1,
		"http_server_request_body_size_bytes http_request_method=POST http_route=/models/{model}/infer" + scheme:                                                              5,
		"http_server_response_body_size_bytes http_request_method=POST http_route=/models/{model}/infer" + scheme:                                                             5,
	} {
		if got := series[key].GetHistogram().GetSampleCount(); got != want {
			t.Errorf("%s: got %d samples, want %d", key, got, want)
		}
	}
	if got := len(families["http_server_request_duration_seconds"].GetMetric()); got != 3 {
		t.Errorf("got %d series of durations, want 3: %v", got, families["http_server_request_duration_seconds"])
	}
	if got := series["http_server_request_body_size_bytes http_request_method=POST http_route=/models/{model}/infer"+scheme].GetHistogram().GetSampleSum(); got != 40 {
		t.Errorf("got %v bytes in, want 40", got)
	}
	if got := series["http_server_active_requests"+scheme].GetGauge().GetValue(); got != 1 {
		t.Errorf("got %v active requests, want 1", got)
	}
	for _, stage := range []string{"listener", "first_answer"} {
		if got := series["pilotlight_cold_start_duration_seconds stage="+stage].GetHistogram().GetSampleCount(); got != 1 {
			t.Errorf("cold start, %s: got %d samples, want 1", stage, got)
		}
	}
}

func TestTraces(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	var s *running
	s = run(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}, routes(map[string]http.HandlerFunc{
		"GET /models/{model}": func(w http.ResponseWriter, r *http.Request) {
			_, span := s.tel.Tracer.Start(r.Context(), "inner")
			span.End()
			serve.Error(w, r, fault.New(fault.Internal, "broken"))
		},
	}))
	ask(t, client(t, true), http.MethodGet, s.url+"/models/iris", nil, "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	span, inner := collector.Span("GET /models/{model}"), collector.Span("inner")
	if span == nil {
		t.Fatal("the request has no span")
	}
	if got, want := fmt.Sprintf("%x below %x", span.TraceId, span.ParentSpanId), "4bf92f3577b34da6a3ce929d0e0e4736 below 00f067aa0ba902b7"; got != want {
		t.Errorf("got span %s, want %s", got, want)
	}
	if inner == nil || !bytes.Equal(inner.ParentSpanId, span.SpanId) {
		t.Errorf("got %v, want it below the request's", inner)
	}
	got := map[string]string{}
	for _, a := range span.Attributes {
		got[a.Key] = a.Value.GetStringValue() + fmt.Sprint(a.Value.GetIntValue())
	}
	for key, want := range map[string]string{"http.route": "/models/{model}0", "http.response.status_code": "500", "http.request.method": "GET0", "error.type": "internal0", "url.path": "/models/iris0"} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	if span.Status.GetCode().String() != "STATUS_CODE_ERROR" || span.Kind.String() != "SPAN_KIND_SERVER" {
		t.Errorf("got %v of kind %v, want an error of a server", span.Status, span.Kind)
	}
	if collector.Metric("http.server.request.duration") == nil {
		t.Error("metrics were not sent")
	}
	s.log.line(t, `"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"`)
}

func TestDrain(t *testing.T) {
	both(t, func(t *testing.T, c *http.Client, _ string) {
		before := runtime.NumGoroutine()
		started, release := make(chan struct{}), make(chan struct{})
		s := run(t, nil, routes(map[string]http.HandlerFunc{"GET /slow": func(w http.ResponseWriter, _ *http.Request) {
			close(started)
			<-release
			fmt.Fprint(w, "whole")
		}}))
		answered := make(chan answer)
		go func() { answered <- ask(t, c, http.MethodGet, s.url+"/slow", nil) }()
		<-started
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil { // which Run catches, since a handler runs
			t.Fatal(err)
		}
		s.log.line(t, `"msg":"draining"`, `"requests":1`)
		for { // soon, new connections are refused
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
			if err != nil {
				break
			}
			conn.Close()
		}
		close(release)
		got := <-answered
		got.check(t, 200, "whole")
		if err := s.stop(); err != nil {
			t.Errorf("got %v, want a clean end", err)
		}
		c.CloseIdleConnections()
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines before and %d after\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
}

func TestDrainTakesOnlySoLong(t *testing.T) {
	both(t, func(t *testing.T, c *http.Client, _ string) {
		started := make(chan struct{}, 2)
		s := run(t, map[string]string{"DRAIN_TIMEOUT": "100ms"}, routes(map[string]http.HandlerFunc{
			"GET /polite": func(w http.ResponseWriter, r *http.Request) {
				started <- struct{}{}
				<-r.Context().Done()
				serve.Error(w, r, fmt.Errorf("wait: %w", r.Context().Err()))
			},
			"GET /deaf": func(http.ResponseWriter, *http.Request) {
				started <- struct{}{}
				time.Sleep(3 * time.Second)
			},
		}))
		polite, deaf := make(chan answer), make(chan answer)
		go func() { polite <- ask(t, c, http.MethodGet, s.url+"/polite", nil) }()
		go func() { deaf <- ask(t, c, http.MethodGet, s.url+"/deaf", nil) }()
		<-started
		<-started
		begin := time.Now()
		err := s.stop()
		if want := "drain: 2 requests took longer than 100ms and were cut off"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if took := time.Since(begin); took > 2500*time.Millisecond {
			t.Errorf("the end took %s", took)
		}
		got := <-polite
		got.check(t, 503, `{"error":"the server is shutting down"}`)
		if got := <-deaf; got.err == nil {
			t.Errorf("got %d, want the connection closed", got.status)
		}
	})
}

func TestReadinessWhileDraining(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s := run(t, nil, routes(map[string]http.HandlerFunc{"GET /slow": func(http.ResponseWriter, *http.Request) { close(started); <-release }}))
	conn := dial(t, s.addr)
	fmt.Fprint(conn, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-started
	stopped := make(chan error)
	go func() { stopped <- s.stop() }()
	s.log.line(t, `"msg":"draining"`)
	w := httptest.NewRecorder() // the port is closed by now
	s.server.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
	if got, want := fmt.Sprint(w.Code, w.Body), `503 {"ready":false,"reasons":["the server is shutting down"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	close(release)
	slow, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	if slow.StatusCode != 200 || !slow.Close {
		t.Errorf("got %d and close %t, want 200 and a connection that ends", slow.StatusCode, slow.Close)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	const child = "SERVE_TEST_CHILD"
	if os.Getenv(child) != "" {
		s := run(t, map[string]string{"DRAIN_TIMEOUT": "1h"}, routes(map[string]http.HandlerFunc{"GET /": func(http.ResponseWriter, *http.Request) { select {} }}))
		go ask(t, client(t, false), http.MethodGet, s.url+"/", nil)
		fmt.Println("ready", s.log.line(t, "listening"))
		s.log.line(t, "draining")
		fmt.Println("draining")
		select {}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecondSignalEndsAtOnce$") //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"ready", "draining"} {
		for lines.Scan() && !strings.HasPrefix(lines.Text(), want) {
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("got %v, want an end by SIGTERM", err)
	}
}

func TestPortInUse(t *testing.T) {
	s := run(t, nil, http.NewServeMux())
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	var c serve.Config
	if _, err := env.Load(map[string]string{"PORT": port}, &c); err != nil {
		t.Fatal(err)
	}
	if _, err := serve.Open(t.Context(), &c, s.tel, http.NewServeMux()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want %v", err, syscall.EADDRINUSE)
	}
}

// TestHelpersElsewhere runs a handler on a server that isn't this one, as the functions framework does.
func TestHelpersElsewhere(t *testing.T) {
	elsewhere := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve.Long(w, r)
		if serve.BodyLimit(r) <= 0 {
			t.Error("there is no limit of a body")
		}
		serve.Failed(r, io.EOF)
		serve.Error(w, r, fault.New(fault.Conflict, "taken"))
	})}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = elsewhere.Serve(l) }()
	defer elsewhere.Close()
	ask(t, client(t, false), http.MethodGet, "http://"+l.Addr().String()+"/", nil).check(t, 409, `{"error":"taken"}`)
}

// Of requests that go well a share has a line; of those that do not, each has one.
func TestLogSample(t *testing.T) {
	s := run(t, map[string]string{"LOG_SAMPLE": "0.3", "LOG_SLOW": "1m"}, routes(map[string]http.HandlerFunc{
		"GET /good": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") },
		"GET /bad": func(w http.ResponseWriter, r *http.Request) {
			serve.Error(w, r, fault.New(fault.Invalid, "no such thing"))
		},
	}))
	c := client(t, false)
	const each = 200
	for i := range each {
		ask(t, c, http.MethodGet, s.url+"/good", nil, "Traceparent", fmt.Sprintf("00-%032x-00f067aa0ba902b7-00", uint64(i)<<48|1)).check(t, 200, "ok")
		ask(t, c, http.MethodGet, s.url+"/bad", nil).check(t, 400, `{"error":"no such thing"}`)
	}
	_, series := scrape(t, s.url)
	omitted := int(series["pilotlight_log_omitted_total"].GetCounter().GetValue())
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	good, bad := 0, 0
	for line := range strings.Lines(s.log.b.String()) {
		switch {
		case strings.Contains(line, `"route":"/good"`) && strings.Contains(line, `"share":0.3`):
			good++
		case strings.Contains(line, `"route":"/bad"`) && !strings.Contains(line, `"share"`):
			bad++
		}
	}
	if bad != each || good+omitted != each || good < each/5 || good > each/2 {
		t.Errorf("%d lines of %d bad ones, %d of %d good ones, and %d counted as left out", bad, each, good, each, omitted)
	}
}

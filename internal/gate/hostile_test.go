package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
)

// raw sends bytes as they are, and gives all that comes back until the other side closes, or nothing comes for a while.
func (g *gateway) raw(text string) string {
	g.t.Helper()
	c, err := (&net.Dialer{}).DialContext(g.t.Context(), "tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	_, _ = io.WriteString(c, text) // it may be refused before its end
	b, _ := io.ReadAll(c)
	return string(b)
}

// TestSmuggling sends requests whose end two servers may see at different places. What is smuggled would be for a path that the key
// does not open, and would show in what reaches the function.
func TestSmuggling(t *testing.T) {
	var mu sync.Mutex
	var reached []string
	predict := function(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		reached = append(reached, r.Method+" "+r.URL.Path+" "+string(b))
	})
	g := start(t, map[string]string{"PREDICT_URL": predict, "FEEDBACK_URL": predict, "AUTH": "on", "IDLE_TIMEOUT": "1s"})
	key := g.key(auth.Grant{Scopes: []auth.Scope{"predict"}})
	const smuggled = "GET /admin/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
	head := "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n"
	for name, text := range map[string]string{
		"a length and chunks":            head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5+len(smuggled)) + smuggled,
		"chunks and a length":            head + fmt.Sprintf("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled),
		"two lengths":                    head + fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n", len(smuggled)) + smuggled,
		"two lengths in one":             head + fmt.Sprintf("Content-Length: 0, %d\r\n\r\n", len(smuggled)) + smuggled,
		"chunked with a space":           head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked in other letters":       head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked twice":                  head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
		"chunked behind a tab":           head + "Transfer-Encoding:\tchunked, identity\r\n\r\n0\r\n\r\n" + smuggled,
		"a folded header":                head + "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"a length with a sign":           head + "Content-Length: +0\r\n\r\n" + smuggled,
		"a length in hexadecimal":        head + "Content-Length: 0x0\r\n\r\n" + smuggled,
		"a negative length":              head + "Content-Length: -1\r\n\r\n" + smuggled,
		"a chunk with a sign":            head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + smuggled,
		"a chunk too large for a number": head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + smuggled,
		"an extension with a line's end": head + "Transfer-Encoding: chunked\r\n\r\n0;a=\n\r\n\r\n" + smuggled,
		"bare line ends":                 strings.ReplaceAll(head, "\r\n", "\n") + "Content-Length: 0\n\n" + smuggled,
		"a bare return":                  head + "X: y\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"a zero byte":                    head + "X: y\x00\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"two hosts":                      head + "Host: y\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"a request line with more":       "POST /v2/models/m/infer HTTP/1.1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\n\r\n" + smuggled,
		"an absolute target":             "GET http://169.254.169.254/v2/models/m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nConnection: close\r\n\r\n",
		"a proxy's request":              "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\nAuthorization: Bearer " + key + "\r\n\r\n" + smuggled,
		"an upgrade to h2c":              head + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 0\r\n\r\n" + smuggled,
		"an upgrade to a web socket":     "GET /v2/models/m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + smuggled,
		"an old protocol":                "POST /v2/models/m/infer HTTP/0.9\r\n\r\n" + smuggled,
		"a trailer that is a credential": strings.Replace(head, "Authorization", "X-Not", 1) + "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n0\r\nAuthorization: Bearer " + key + "\r\n\r\n",
		"hop-by-hop credential":          head + "Connection: Authorization\r\nContent-Length: 0\r\n\r\n",
	} {
		mu.Lock()
		reached = nil
		mu.Unlock()
		said := g.raw(text)
		mu.Lock()
		for _, r := range reached {
			if !strings.HasPrefix(r, "POST /v2/models/m/infer") && !strings.HasPrefix(r, "GET /v2/models/m ") {
				t.Errorf("%s: the function got %q", name, r)
			}
		}
		mu.Unlock()
		for _, line := range strings.Split(said, "\r\n") {
			if status, _, _ := strings.Cut(strings.TrimPrefix(line, "HTTP/1.1 "), " "); slices.Contains([]string{"101", "500", "502", "503", "504"}, status) {
				t.Errorf("%s: got %s", name, line)
			}
		}
		if said == "" && name != "an old protocol" {
			t.Errorf("%s: no answer", name)
		}
	}
}

func TestPathTricks(t *testing.T) {
	var reached atomic.Int64
	predict := function(t, func(w http.ResponseWriter, r *http.Request) { reached.Add(1) })
	g := start(t, map[string]string{"PREDICT_URL": predict, "FEATURES_URL": predict, "FEEDBACK_URL": predict, "DEADLETTER_URL": predict, "AUTH": "on"})
	key := g.key(auth.Grant{Scopes: []auth.Scope{"predict/m"}})
	for _, path := range []string{
		"/v2/models/m/../other/infer", "/v2/models/m/..%2fother/infer", "/v2/models/m%2f..%2fother/infer", "/v2/models/%2e%2e/repository/index", "/v2/models/./m/infer", "/v2//models/m/infer",
		"//evil.example/v2/models/m", "//evil.example/%2e%2e", "/\\evil.example", "/v2/models/m%5c..%5cother/infer", "/v2/models/m%00/infer", "/v2/models/m%0d%0aX:y/infer", "/v2/models/m%252f/infer",
		"/V2/MODELS/M/infer", "/v2/models/M/infer", "/v2/models/other/infer", "/v2/models/m;x=/../other/infer", "/v2/models/m/infer/../../../../admin/v1/keys", "/admin/v1/keys", "/admin/v1/models/m", "/events",
		"/v2/models/http:%2f%2f169.254.169.254%2f/infer", "/v2/models/169.254.169.254/infer", "/v2/models/localhost:6379/infer", "/v2/models/m@evil.example/infer", "/v1/models/other:predict",
		"/v2/models/%ef%bd%8d/infer", "/v2/models/" + strings.Repeat("m", 5000) + "/infer", "/v2/models//infer", "/v2/models/", "*", "/inference.GRPCInferenceService/../admin/v1/keys",
	} {
		said := g.raw("POST " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		status, _, _ := strings.Cut(strings.TrimPrefix(said, "HTTP/1.1 "), " ")
		if path == "/v2/models/" || path == "/v2/models//infer" {
			continue // no single model: what there are at all, or refused
		}
		if status != "400" && status != "403" && status != "404" {
			t.Errorf("%.80s: got %.200s", path, said)
		}
		if strings.Contains(said, "Location:") {
			t.Errorf("%.80s: got %.200s, want no redirect", path, said)
		}
	}
	if n := reached.Load(); n > 2 {
		t.Errorf("functions were reached %d times", n)
	}
}

func TestHeaderFloods(t *testing.T) {
	var reached atomic.Int64
	predict := function(t, func(w http.ResponseWriter, r *http.Request) { reached.Add(1) })
	g := start(t, map[string]string{"PREDICT_URL": predict, "MAX_HEADER": "16KiB", "HEADER_TIMEOUT": "500ms"})
	many := strings.Builder{}
	for i := range 20_000 {
		fmt.Fprintf(&many, "X-%d: y\r\n", i)
	}
	for name, text := range map[string]string{
		"many":          "GET /v2/models HTTP/1.1\r\nHost: x\r\n" + many.String() + "\r\n",
		"one large":     "GET /v2/models HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n",
		"a large token": "GET /v2/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat("y", 1<<20) + "\r\n\r\n",
		"a large path":  "GET /" + strings.Repeat("y", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"no end":        "GET /v2/models HTTP/1.1\r\nHost: x\r\nX: y",
	} {
		if said := g.raw(text); !strings.HasPrefix(said, "HTTP/1.1 431") && !strings.HasPrefix(said, "HTTP/1.1 400") && !strings.HasPrefix(said, "HTTP/1.1 408") && said != "" {
			t.Errorf("%s: got %.100s", name, said)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the function was reached %d times", n)
	}
	if a := g.ask("GET", "/v2/models", nil); a.status != 200 {
		t.Errorf("afterwards: got %d %s", a.status, a.body)
	}
}

func TestBodiesThatAreTooLargeOrTooSlow(t *testing.T) {
	var whole atomic.Int64
	predict := function(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			whole.Add(1)
		}
	})
	g := start(t, map[string]string{"PREDICT_URL": predict, "MAX_BODY": "100KiB", "STALL_TIMEOUT": "300ms"})
	if a := g.ask("POST", "/v2/models/m/infer", bytes.NewReader(make([]byte, 1<<20))); a.status != 413 {
		t.Errorf("too large by its length: got %d %s", a.status, a.body)
	}
	if a := g.ask("POST", "/v2/models/m/infer", io.MultiReader(bytes.NewReader(make([]byte, 1<<20)))); a.status != 413 { // in chunks
		t.Errorf("too large in chunks: got %d %s", a.status, a.body)
	}
	for _, length := range []string{"Content-Length: 10", "Content-Length: 90000", "Transfer-Encoding: chunked"} {
		if said := g.raw("POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n" + length + "\r\n\r\n1"); !strings.HasPrefix(said, "HTTP/1.1 408") {
			t.Errorf("%s: got %.100s, want that it is too slow", length, said)
		}
	}
	if n := whole.Load(); n != 0 {
		t.Errorf("the function took %d of them for whole", n)
	}
}

// TestRapidReset opens streams and takes them back at once, as fast as it can: what is begun must not pile up.
func TestRapidReset(t *testing.T) {
	var active, most, reached atomic.Int64
	predict := function(t, func(w http.ResponseWriter, r *http.Request) {
		n := active.Add(1)
		reached.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-r.Context().Done()
		active.Add(-1)
	})
	const concurrency = 50
	g := start(t, map[string]string{"PREDICT_URL": predict, "GATE_CONCURRENCY": fmt.Sprint(concurrency)})
	var all sync.WaitGroup
	var sent atomic.Int64
	for range 4 {
		all.Go(func() {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", g.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(3 * time.Second))
			if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
				return
			}
			all.Go(func() { // GOAWAY says why it ends
				r := http2.NewFramer(nil, c)
				for {
					frame, err := r.ReadFrame()
					if err != nil {
						return
					}
					if away, ok := frame.(*http2.GoAwayFrame); ok {
						t.Logf("after %d streams: %s %q", sent.Load(), away.ErrCode, away.DebugData())
					}
				}
			})
			buffered := bufio.NewWriter(c)
			f := http2.NewFramer(buffered, nil)
			if f.WriteSettings() != nil {
				return
			}
			var block bytes.Buffer
			h := hpack.NewEncoder(&block)
			for id := uint32(1); id < 40_000; id += 2 {
				block.Reset()
				for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/v2/models/m"}} {
					_ = h.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
				}
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
					f.WriteRSTStream(id, http2.ErrCodeCancel) != nil || buffered.Flush() != nil {
					return // it has had enough
				}
				sent.Add(1)
			}
		})
	}
	all.Wait()
	// The function hears a moment after the gateway, which has made room by then, that a stream is no more: so it sees some more than there
	// is room for, and nothing like the flood.
	if n := most.Load(); n > 5*concurrency {
		t.Errorf("%d requests were under way at once in the function, and there was room for %d", n, concurrency)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", g.url+"/healthz", nil)
	r.RequestURI = ""
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("afterwards: got %d", resp.StatusCode)
	}
	t.Logf("%d of %d streams reached the function, %d at once", reached.Load(), sent.Load(), most.Load())
}

// TestAMessageThatNamesTwoModels: the gateway looks at the first; see predict for what the function makes of the last.
func TestAMessageThatNamesTwoModels(t *testing.T) {
	if got := nameIn(append(naming(1, "cheap"), naming(1, "dear")...), 1); got != "cheap" {
		t.Errorf("got %q", got)
	}
}

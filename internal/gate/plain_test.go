package gate

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// odd is a header by which a request takes the way of httputil.ReverseProxy, and which no function sees.
const odd = "X-Odd"

// No function and no caller can tell by which way a request went.
func TestBothWaysAreOne(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	predict := function(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s %s %q\n", r.Method, r.RequestURI, r.Host, body)
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			fmt.Fprintf(&b, "%s: %q\n", name, r.Header[name])
		}
		mu.Lock()
		seen = append(seen, b.String())
		mu.Unlock()
		switch r.URL.Query().Get("as") {
		case "chunks":
			for i := range 3 {
				fmt.Fprintf(w, "part %d\n", i)
				_ = http.NewResponseController(w).Flush()
			}
		case "trailers":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "with a sum")
			w.Header().Set("X-Sum", "7")
		case "unannounced":
			_, _ = io.WriteString(w, "with a sum")
			w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
		case "large":
			_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 100_000))
		case "nothing":
			w.WriteHeader(http.StatusNoContent)
		case "same":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "close":
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "and no more")
		case "early":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.WriteHeader(http.StatusTeapot)
		case "hop":
			w.Header().Set("Connection", "X-Hop, x-other")
			w.Header().Set("X-Hop", "1")
			w.Header().Set("X-Other", "1")
			w.Header().Set("Server", "me")
			_, _ = io.WriteString(w, "x")
		default:
			_, _ = w.Write(body)
		}
	})
	g := start(t, map[string]string{"PREDICT_URL": predict})
	for _, test := range []struct{ method, path, body string }{
		{"POST", "/v2/models/m/infer", "question"},
		{"POST", "/v2/models/m/infer", ""},
		{"POST", "/v2/models/m/infer?as=chunks", "question"},
		{"GET", "/v2/models/m?as=trailers&x=a+b", ""},
		{"GET", "/v2/models/m?as=unannounced", ""},
		{"GET", "/v2/models/m?as=large", ""},
		{"HEAD", "/v2/models/m?as=large", ""},
		{"GET", "/v2/models/m?as=nothing", ""},
		{"GET", "/v2/models/m?as=same", ""},
		{"GET", "/v2/models/m?as=close", ""},
		{"GET", "/v2/models/m?as=early", ""},
		{"GET", "/v2/models/m?as=hop", ""},
		{"PUT", "/admin/v1/models/m/aliases/a", strings.Repeat("x", replayMost)},
		{"DELETE", "/admin/v1/models/m/aliases/a", ""},
		{"GET", "/v2/models/m%C3%BC", ""},
		{"GET", "/v2/models/m?a=%41;b", ""}, // the same way twice
	} {
		var answers []string
		seen = nil
		for _, way := range [][]string{nil, {"Connection", odd}} {
			var body io.Reader
			if test.body != "" {
				body = strings.NewReader(test.body)
			}
			r, err := http.NewRequestWithContext(t.Context(), test.method, g.url+test.path, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{
				"X-Request-Id": {"mine"}, "Accept": {"a", "b"}, "Cookie": {"c=1"}, "X-Forwarded-For": {"1.2.3.4"}, "Forwarded": {"for=1.2.3.4"}, "Origin": {g.url}, "Sec-Fetch-Site": {"same-origin"},
				"Knative-Serving-Revision": {"other"}, "K-Network-Probe": {"queue"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Accept-Encoding": {"gzip"},
			}
			if way != nil {
				r.Header.Set(way[0], way[1])
			}
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			resp.Header.Del("Date")
			if strings.HasSuffix(test.path, "early") { // when something comes before an answer, httputil.ReverseProxy forgets what the gateway has said by then
				resp.Header.Del("Link")
				resp.Header.Del("X-Request-Id")
			}
			answers = append(answers, fmt.Sprint(resp.StatusCode, resp.ContentLength, resp.TransferEncoding, resp.Header, resp.Trailer, len(b), string(b[:min(len(b), 100)])))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s %s: the answers are\n%s\n%s", test.method, test.path, answers[0], answers[1])
		}
		for i := range seen { // below the span of one call or of another
			if !strings.Contains(seen[i], `Traceparent: ["00-0af7651916cd43dd8448eb211c80319c-`) || strings.Contains(seen[i], "b7ad6b7169203331") {
				t.Errorf("the function is not asked below a span of the gateway's: %s", seen[i])
			}
			seen[i] = regexp.MustCompile(`319c-[0-9a-f]{16}-01`).ReplaceAllString(seen[i], "")
		}
		if len(seen) != 2 || seen[0] != seen[1] {
			t.Errorf("%s %s: the function saw\n%s", test.method, test.path, strings.Join(seen, "\n"))
		}
	}
}

// raw is a function that answers each connection as the test says.
func raw(t *testing.T, serve func(n int64, c net.Conn)) (url string, connections *atomic.Int64) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int64)
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := connections.Add(1)
			all.Go(func() {
				defer c.Close()
				serve(n, c)
			})
		}
	})
	return "http://" + l.Addr().String(), connections
}

// answers reads requests from a connection and answers each with the next text.
func answers(c net.Conn, texts ...string) {
	read := bufio.NewReader(c)
	for _, text := range texts {
		r, err := http.ReadRequest(read)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// Connections are used again, unless the function closed them meanwhile or said something that nobody asked for.
func TestConnectionsAreUsedAgain(t *testing.T) {
	var closed sync.WaitGroup
	closed.Add(1)
	url, connections := raw(t, func(n int64, c net.Conn) {
		switch n {
		case 1:
			answers(c, fine, fine, fine)
			_ = c.Close()
			closed.Done()
		case 2:
			answers(c, fine+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			_, _ = io.Copy(io.Discard, c)
		default:
			answers(c, fine, fine, fine)
			_, _ = io.Copy(io.Discard, c)
		}
	})
	g := start(t, map[string]string{"PREDICT_URL": url})
	for i := range 6 {
		if a := g.ask("POST", "/admin/v1/models/m/versions", strings.NewReader("x")); a.status != http.StatusOK || a.body != "ok" {
			t.Errorf("request %d: got %d %s", i, a.status, a.body)
		}
		if i == 2 {
			closed.Wait()
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want three: one that was closed, one that said too much, and one", n)
	}
}

// What a function says wrong is no answer, and what it breaks off is no whole one.
func TestFunctionsThatSpeakAmiss(t *testing.T) {
	for name, test := range map[string]struct {
		says string
		want int
	}{
		"nothing":             {"", http.StatusServiceUnavailable},
		"no HTTP":             {"hello\r\n\r\n", http.StatusServiceUnavailable},
		"another protocol":    {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", http.StatusServiceUnavailable},
		"a head without end":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", headMost) + "\r\n\r\n", http.StatusServiceUnavailable},
		"half a body":         {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 0},
		"half a chunk":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf", 0},
		"two lengths":         {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", http.StatusServiceUnavailable},
		"interim, then whole": {"HTTP/1.1 100 Continue\r\n\r\n" + fine, http.StatusOK},
	} {
		url, _ := raw(t, func(_ int64, c net.Conn) { answers(c, test.says) })
		g := start(t, map[string]string{"PREDICT_URL": url})
		resp, err := http.Get(g.url + "/v2/models/m") //nolint:noctx // a test's
		if err != nil {
			if test.want != 0 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if test.want == 0 && err == nil || test.want != 0 && (err != nil || resp.StatusCode != test.want) {
			t.Errorf("%s: got %d, %v, want %d", name, resp.StatusCode, err, test.want)
		}
	}
}

// What may be read in two ways takes the way of net/http.
func TestInDoubt(t *testing.T) {
	whole := func(change func(r *http.Request)) bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gateway/v2/models/m/infer?a=1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		return (&passage{to: &url.URL{Scheme: "http", Host: "predict"}}).plainly(r)
	}
	if !whole(func(*http.Request) {}) {
		t.Error("a plain request is not taken for one")
	}
	for name, change := range map[string]func(r *http.Request){
		"a second host, by HTTP/2":   func(r *http.Request) { r.Header["Host"] = []string{"other"} },
		"trailers, by HTTP/2":        func(r *http.Request) { r.Trailer = http.Header{"X": nil} },
		"a body that is not at hand": func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("x")) },
		"options of the connection":  func(r *http.Request) { r.Header["Connection"] = []string{"X-Gone"} },
		"a line's end in a value":    func(r *http.Request) { r.Header["X"] = []string{"a\r\nHost: b"} },
		"no name":                    func(r *http.Request) { r.Header["X: y\r\nHost"] = []string{"b"} },
		"a query of two readings":    func(r *http.Request) { r.URL.RawQuery = "a=1;b=2" },
		"a tunnel":                   func(r *http.Request) { r.Method = http.MethodConnect },
	} {
		if whole(change) {
			t.Errorf("%s: it is taken for a plain one", name)
		}
	}
}

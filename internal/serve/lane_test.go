package serve_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// toNetHTTP is a line that has net/http serve a connection.
const toNetHTTP = "Pragma: x\r\n"

// answers are the ways in which handlers answer.
var answers = map[string]http.HandlerFunc{
	"GET /nothing": func(http.ResponseWriter, *http.Request) {},
	"GET /status":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
	"GET /unknown": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(599) },
	"GET /204":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204); _, _ = w.Write([]byte("x")) },
	"GET /304":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304); _, _ = w.Write([]byte("x")) },
	"GET /twice":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(202) },
	"GET /html":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<!DOCTYPE html><p>x") },
	"GET /empty":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nil) },
	"GET /2048":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2048)) },
	"GET /2049":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 2049)) },
	"GET /2048and1": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("x", 2048))
		fmt.Fprint(w, "y")
	},
	"GET /much": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("much "), 200_000)) },
	"GET /manyparts": func(w http.ResponseWriter, _ *http.Request) {
		for i := range 3000 {
			fmt.Fprint(w, i, ",")
		}
	},
	"GET /typed": func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"text/x-a", "text/x-b"}
		fmt.Fprint(w, "x")
	},
	"GET /untyped": func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil; fmt.Fprint(w, "x") },
	"GET /encoded": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		fmt.Fprint(w, "x")
	},
	"GET /undated": func(w http.ResponseWriter, _ *http.Request) { w.Header()["Date"] = nil; fmt.Fprint(w, "x") },
	"GET /lines": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-A", "1\r\nX-B: 2")
		w.Header().Add("X-C", "1")
		w.Header().Add("X-C", "2")
		w.Header()["bad name"] = []string{"x"}
		fmt.Fprint(w, "x")
	},
	"GET /length": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5000")
		for range 5 {
			_, _ = w.Write(make([]byte, 1000))
		}
	},
	"GET /less": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		fmt.Fprint(w, "x")
	},
	"GET /more": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		fmt.Fprint(w, "xy")
		if _, err := fmt.Fprint(w, "z"); err == nil {
			panic("more than was promised")
		}
	},
	"GET /flushed": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "a")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Late", "x")
		fmt.Fprint(w, "b")
	},
	"GET /flushed/first": func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); fmt.Fprint(w, "<html>") },
	"GET /late":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); w.Header().Set("X-Late", "x") },
	"GET /close": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, "x")
	},
	"GET /panic": func(http.ResponseWriter, *http.Request) { panic("a bug") },
	"GET /abort": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"GET /abort/late": func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "x")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	},
	"GET /request": func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, r.URL, r.RequestURI, r.Host, r.ContentLength, r.Proto, r.Body == http.NoBody, r.Header["X-A"], r.Header["Host"])
		_, port, err := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, port != "", err, r.Context().Value(http.LocalAddrContextKey), r.Context().Value(http.ServerContextKey) != nil)
	},
	"POST /echo":   echo,
	"POST /unread": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") },
	"POST /part":   func(w http.ResponseWriter, r *http.Request) { _, err := io.CopyN(w, r.Body, 3); fmt.Fprint(w, err) },
}

// post gives a POST of a body.
func post(path, body, lines string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), lines, body)
}

// What is answered by a lane and what net/http answers are the same.
func TestLaneAnswersAsNetHTTP(t *testing.T) {
	s := run(t, nil, routes(answers))
	say := func(conn net.Conn, in *bufio.Reader, request string) string {
		fmt.Fprint(conn, request)
		w, err := http.ReadResponse(in, nil)
		if err != nil {
			return "no answer"
		}
		defer w.Body.Close()
		body, err := io.ReadAll(w.Body)
		if w.Header.Get("Date") != "" {
			w.Header.Set("Date", "today")
		}
		w.Header.Del("X-Request-Id")
		return fmt.Sprintf("%s %s %v %d %v %v %q %v", w.Proto, w.Status, w.Header, w.ContentLength, w.TransferEncoding, w.Close, body, err)
	}
	same := func(name string, request func(lines string) string) {
		t.Helper()
		var said [2][]string
		for i, lines := range []string{"X-A: b\r\n", "X-A: b\r\n" + toNetHTTP} {
			conn := dial(t, s.addr)
			in := bufio.NewReader(conn)
			said[i] = append(said[i], say(conn, in, request(lines)), say(conn, in, "GET /html HTTP/1.1\r\nHost: a\r\n"+lines+"\r\n"))
		}
		for i := range said[0] {
			if got, want := said[0][i], said[1][i]; got != want {
				t.Errorf("%s, answer %d: got %.500s, want %.500s", name, i, got, want)
			}
		}
	}
	for pattern := range answers {
		if path, isGet := strings.CutPrefix(pattern, "GET "); isGet {
			same(pattern, func(lines string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n" })
			continue
		}
		path := strings.TrimPrefix(pattern, "POST ")
		for _, size := range []int{0, 1, 3000, 5000, 60_000, 70_000, 300_000} {
			same(fmt.Sprint(pattern, size), func(lines string) string { return post(path, strings.Repeat("x", size), lines) })
		}
	}
	for _, path := range []string{"/none", "/request?a=b&c", "/%72equest", "/a/../request", "/html/", "/readyz"} {
		same(path, func(lines string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n" })
	}
	same("a method that is not taken", func(lines string) string { return post("/html", "x", lines) })
	same("the last request", func(lines string) string {
		return "GET /html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + "\r\n"
	})
}

// Requests come in any pieces, many at once, plain or not; each is answered, in order.
func TestLaneTakesAnyPieces(t *testing.T) {
	s := run(t, nil, routes(map[string]http.HandlerFunc{"POST /echo": echo, "POST /slow": func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(12 * time.Millisecond) // so that the caller is watched
		echo(w, r)
	}}))
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		var all bytes.Buffer
		var want []string
		for i := range 1 + rng.IntN(8) {
			body := fmt.Sprint(round, " ", i, strings.Repeat(" x", rng.IntN(9)*rng.IntN(1000)))
			want = append(want, body)
			path, lines := "/echo", ""
			if rng.IntN(3) == 0 {
				path = "/slow"
			}
			switch {
			case rng.IntN(20) == 0:
				lines = toNetHTTP
			case rng.IntN(20) == 0:
				fmt.Fprintf(&all, "POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", path, len(body), body)
				continue
			}
			all.WriteString(post(path, body, lines))
		}
		conn := dial(t, s.addr)
		go func() {
			rng := rand.New(rand.NewPCG(uint64(round), 3))
			for all.Len() > 0 {
				_, _ = conn.Write(all.Next(1 + rng.IntN(1+all.Len())))
				time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
			}
		}()
		in := bufio.NewReader(conn)
		for i, body := range want {
			w, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("round %d, answer %d: %v", round, i, err)
			}
			got, err := io.ReadAll(w.Body)
			if _ = w.Body.Close(); err != nil || string(got) != body {
				t.Fatalf("round %d, answer %d: got %.100q, %v, want %.100q", round, i, got, err, body)
			}
		}
		conn.Close()
	}
}

// Whoever goes on with a request after its handler returned does no harm to the next.
func TestLaneForgetsItsHandlers(t *testing.T) {
	keep := make(chan func() error, 1)
	s := run(t, nil, routes(map[string]http.HandlerFunc{
		"POST /keep": func(w http.ResponseWriter, r *http.Request) {
			keep <- func() error {
				if n, err := r.Body.Read(make([]byte, 10)); n > 0 || err == nil {
					return fmt.Errorf("%d bytes of a body that is over, %w", n, err)
				}
				if _, err := fmt.Fprint(w, strings.Repeat("late", 1000)); err == nil {
					return fmt.Errorf("an answer that is over goes on")
				}
				return nil
			}
		},
		"POST /echo": func(w http.ResponseWriter, r *http.Request) {
			if err := (<-keep)(); err != nil {
				serve.Error(w, r, err)
				return
			}
			echo(w, r)
		},
	}))
	conn := dial(t, s.addr)
	fmt.Fprint(conn, post("/keep", "first", ""), post("/echo", "second", "Connection: close\r\n"))
	got, err := io.ReadAll(conn)
	if text := string(got); err != nil || strings.Count(text, "HTTP/1.1 200 OK\r\n") != 2 || !strings.HasSuffix(text, "\r\n\r\nsecond") || strings.Contains(text, "late") {
		t.Errorf("got %q, %v", got, err)
	}
}

// A caller that ends its side within a request is answered, if net/http would.
func TestLaneRequestsThatBreakOff(t *testing.T) {
	s := run(t, nil, routes(answers))
	for in, want := range map[string]string{
		strings.TrimSuffix(post("/echo", "abc", ""), "c"): "HTTP/1.1 500 ",
		"POST /echo HTTP/1.1\r\nHos":                      "HTTP/1.1 400 ",
	} {
		conn := dial(t, s.addr)
		if _, err := io.WriteString(conn, in); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 {
			t.Errorf("to %q: got %q, want %q", in, got, want)
		}
	}
}

// Bytes that are no request get net/http's answer, or none.
func TestLaneRefusesAsNetHTTP(t *testing.T) {
	s := run(t, map[string]string{"MAX_HEADER": "16KiB", "HEADER_TIMEOUT": "300ms"}, routes(answers))
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                           "HTTP/1.1 400 Bad Request: missing required Host header",
		"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n":       "HTTP/1.1 400 Bad Request",
		"GET / HTTP/3.7\r\nHost: a\r\n\r\n":                "HTTP/1.1 505 ",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":     "HTTP/1.1 400 Bad Request",
		post("/echo", "", "Transfer-Encoding: zip\r\n"):    "HTTP/1.1 501 ",
		post("/echo", "ab", "Content-Length: 1\r\n"):       "HTTP/1.1 400 Bad Request",
		"GET /" + strings.Repeat("a", 40_000) + " ":        "HTTP/1.1 431 ",
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 9e4): "HTTP/1.1 431 ",
		"\x16\x03\x01\x02\x00\r\n\r\n":                     "HTTP/1.1 400 Bad Request",
		"GET /html HTTP/1.1\r\nHost: a\r\nX: ":             "", // and no more
		"":                                                 "",
	} {
		conn := dial(t, s.addr)
		go func() { _, _ = io.WriteString(conn, in) }()
		got, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 {
			t.Errorf("to %.60q: got %.100q, want %q", in, got, want)
		}
	}
}

// FuzzLane sends any bytes to a server and to net/http's with the same handler: both say the same.
func FuzzLane(f *testing.F) {
	get, last := "GET /request?a=b HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n", "GET /html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for _, s := range []string{
		post("/echo", "abc", "X-A: 1\r\n") + get + last,
		get + post("/unread", "abc", "") + post("/part", "abcdef", "") + last,
		"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + last,
		"GET /flushed HTTP/1.1\r\nHost: a\r\n\r\nGET /less HTTP/1.1\r\nHost: a\r\n\r\n" + last,
		"HEAD /html HTTP/1.1\r\nHost: a\r\n\r\nPUT /html HTTP/1.0\r\n\r\n",
		get + get + "\r\n" + get,
	} {
		f.Add([]byte(s))
	}
	mux := routes(answers)
	ours := run(f, map[string]string{"STALL_TIMEOUT": "1s"}, mux)
	theirs := httptest.NewServer(ours.server)
	f.Cleanup(theirs.Close)
	heads, own := regexp.MustCompile(`HTTP/1\.[01] \d{3}.*\r\n(?:[A-Z].*\r\n)*\r\n`), regexp.MustCompile(`(?m)^(Date|X-Request-Id): .*\r\n`)
	sorted := func(head string) string { // in which order lines stand is nobody's business
		lines := strings.Split(strings.TrimSuffix(own.ReplaceAllString(head, ""), "\r\n\r\n"), "\r\n")
		slices.Sort(lines[1:])
		return strings.Join(lines, "\r\n") + "\r\n\r\n"
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var said [2]string
		for i, addr := range []string{ours.addr, strings.TrimPrefix(theirs.URL, "http://")} {
			conn := dial(t, addr)
			_, _ = conn.Write(b)
			_ = conn.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(conn)
			said[i] = strings.ReplaceAll(heads.ReplaceAllStringFunc(string(got), sorted), addr, "addr")
		}
		if said[0] != said[1] {
			t.Errorf("to %q: got %q, want %q", b, said[0], said[1])
		}
	})
}

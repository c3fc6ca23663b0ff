package serve_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// h2Answers are ways of answering that HTTP/1 has not.
var h2Answers = map[string]http.HandlerFunc{
	"GET /trailers": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum, X-Other")
		fmt.Fprint(w, "x")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-More", "2")
	},
	"GET /trailers/alone": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(http.TrailerPrefix+"X-More", "2") },
	"GET /trailers/much": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("much "), 200_000))
		w.Header().Set(http.TrailerPrefix+"X-More", "2")
	},
	"GET /long/header": func(w http.ResponseWriter, _ *http.Request) {
		for i := range 100 {
			w.Header().Add("X-A", strings.Repeat("x", 1000+i))
		}
	},
	"GET /connection": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Transfer-Encoding", "chunked")
		fmt.Fprint(w, "x")
	},
	"POST /twoways": func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		b := make([]byte, 3)
		for {
			n, err := io.ReadFull(r.Body, b)
			_, _ = w.Write(bytes.ToUpper(b[:n]))
			if control.Flush() != nil || err != nil {
				return
			}
		}
	},
}

// TestH2AnswersAsNetHTTPDoes asks the same of our HTTP/2 and of net/http's, both before the same server.
func TestH2AnswersAsNetHTTPDoes(t *testing.T) {
	handlers := map[string]http.HandlerFunc{}
	for _, m := range []map[string]http.HandlerFunc{answers, h2Answers} {
		for pattern, h := range m {
			handlers[pattern] = h
		}
	}
	ours := run(t, map[string]string{"STALL_TIMEOUT": "1s"}, routes(handlers))
	theirs := httptest.NewUnstartedServer(ours.server)
	theirs.Config.Protocols = new(http.Protocols)
	theirs.Config.Protocols.SetUnencryptedHTTP2(true)
	theirs.Start()
	t.Cleanup(theirs.Close)
	c := client(t, true)
	say := func(base, method, path, body string, header ...string) string {
		var in io.Reader
		switch {
		case body == "chunked":
			in = io.MultiReader(strings.NewReader("abc"), strings.NewReader("defg")) // of no known length
		case body != "":
			in = strings.NewReader(body)
		}
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, in)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		w, err := c.Do(r)
		if err != nil {
			return "no answer"
		}
		defer w.Body.Close()
		got, err := io.ReadAll(w.Body)
		w.Header.Del("Date")
		w.Header.Del("X-Request-Id")
		if strings.HasPrefix(path, "/request") { // whether there is a body can be told at once here
			got = bytes.Replace(got, []byte("HTTP/2.0false"), []byte("HTTP/2.0true"), 1)
			w.ContentLength, w.Header["Content-Length"] = 0, nil
		}
		return strings.ReplaceAll(fmt.Sprint(w.Status, w.Proto, w.ContentLength, w.Header, w.Trailer, string(got[:min(len(got), 300)]), err != nil), strings.TrimPrefix(base, "http://"), "addr")
	}
	compare := func(method, path, body string, header ...string) {
		t.Helper()
		if got, want := say(ours.url, method, path, body, header...), say(theirs.URL, method, path, body, header...); got != want {
			t.Errorf("%s %s %.10q %.100q:\ngot  %.400s\nwant %.400s", method, path, body, header, got, want)
		}
	}
	delete(handlers, "GET /more") // net/http does not tell the handler in time
	for pattern := range handlers {
		method, path, _ := strings.Cut(pattern, " ")
		if method == http.MethodGet {
			compare(http.MethodGet, path, "")
			compare(http.MethodHead, path, "")
			continue
		}
		for _, body := range []string{"", "x", "abcdefg", "chunked", strings.Repeat("0123456789", 50_000)} {
			compare(method, path, body)
		}
	}
	compare(http.MethodGet, "/request?a=%20b&c", "", "X-A", " 1 ", "X-A", "2", "Cookie", "a=b", "Cookie", "c=d", "Te", "trailers")
	compare(http.MethodGet, "/nowhere", "")
	compare(http.MethodPut, "/html", "x")
	compare(http.MethodOptions, "/html", "")
	compare(http.MethodGet, "/healthz", "")
	compare(http.MethodPost, "/echo", strings.Repeat("x", 100), "Expect", "100-continue")
	compare(http.MethodGet, "/html", "", "X-Long", strings.Repeat("x", 60_000))
}

// The conformance tool of HTTP/2 finds nothing wrong but what is meant.
func TestH2Conforms(t *testing.T) {
	tool, err := filepath.Abs("../../.tools/h2spec")
	if err == nil {
		_, err = os.Stat(tool)
	}
	if err != nil {
		const how = "the conformance tool of HTTP/2 is not there: run `make h2spec`"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip("NOT TESTED: " + how)
	}
	meant := map[string]string{
		"Sends invalid connection preface":                                          "HTTP/1 is spoken on the same port, and says that it is no request of its own",
		"Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE": "the tool takes it for 16 KiB, whatever SETTINGS say",
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			serve.Error(w, r, serve.BodyError(err))
			return
		}
		fmt.Fprint(w, "hello")
	})
	s := run(t, map[string]string{"LOG_LEVEL": "ERROR"}, mux)
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	out, _ := exec.CommandContext(t.Context(), tool, "-h", host, "-p", port, "-o", "5", "-j", report).CombinedOutput() // it fails if one test does
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string `xml:"package,attr"`
				Name    string `xml:"classname,attr"`
				Failure *struct {
					Text string `xml:",innerxml"`
				} `xml:"failure"`
				Error *struct {
					Text string `xml:",innerxml"`
				} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &suites); err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			cases++
			if (c.Failure != nil || c.Error != nil) && meant[c.Name] == "" {
				t.Errorf("%s %s: %+v %+v", c.Package, c.Name, c.Failure, c.Error)
			}
		}
	}
	if cases < 140 {
		t.Errorf("the tool tried %d things, want 145 or so: %s", cases, out)
	}
}

// Many large bodies go both ways on one connection, and none gets what is another's.
func TestH2ManyStreamsOfAConnection(t *testing.T) {
	var mux http.ServeMux
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body) // while it comes
	})
	s := run(t, map[string]string{"LOG_LEVEL": "ERROR"}, &mux)
	var dialed atomic.Int32
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	if a := ask(t, c, http.MethodPost, s.url+"/echo", strings.NewReader("first")); a.err != nil {
		t.Fatal(a.err)
	}
	var asking sync.WaitGroup
	for i := range 60 {
		asking.Go(func() {
			random := rand.NewChaCha8([32]byte{byte(i)})
			for range 3 {
				size := rand.Int64N(3 << 20)
				if i%2 == 0 {
					size %= 2000
				}
				sum := sha256.New()
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/echo", io.TeeReader(io.LimitReader(random, size), sum))
				if err != nil {
					t.Error(err)
					return
				}
				w, err := c.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				back := sha256.New()
				n, err := io.Copy(back, w.Body)
				w.Body.Close()
				if err != nil || n != size || !bytes.Equal(back.Sum(nil), sum.Sum(nil)) {
					t.Errorf("got %d bytes, %v, want the %d that were sent", n, err, size)
				}
			}
		})
	}
	asking.Wait()
	if n := dialed.Load(); n > 2 {
		t.Errorf("it took %d connections", n)
	}
}

// h2peer speaks frames.
type h2peer struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
}

// newH2peer greets the server.
func newH2peer(t *testing.T, addr string, settings ...http2.Setting) *h2peer {
	t.Helper()
	p := &h2peer{t: t, conn: dial(t, addr)}
	p.framer = http2.NewFramer(p.conn, p.conn)
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.framer.AllowIllegalWrites = true
	p.hpack = hpack.NewEncoder(&p.block)
	if _, err := io.WriteString(p.conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	p.must(p.framer.WriteSettings(settings...))
	return p
}

func (p *h2peer) must(err error) {
	if err != nil {
		p.t.Fatal(err)
	}
}

// header gives that of a request.
func (p *h2peer) header(method, path string, more ...string) []byte {
	p.block.Reset()
	for i, all := 0, append([]string{":method", method, ":scheme", "http", ":path", path, ":authority", "a"}, more...); i < len(all); i += 2 {
		p.must(p.hpack.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}))
	}
	return bytes.Clone(p.block.Bytes())
}

// ask begins a request.
func (p *h2peer) ask(stream uint32, method, path string, end bool) {
	p.t.Helper()
	p.must(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.header(method, path), EndHeaders: true, EndStream: end}))
}

// until reads frames until one is as wanted; it gives what else came if the connection ends before.
func (p *h2peer) until(what string, wanted func(http2.Frame) bool) {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	seen := []string{}
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v, after %v", what, err, seen)
		}
		if wanted(f) {
			return
		}
		seen = append(seen, fmt.Sprint(f))
	}
}

func resets(stream uint32, code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		r, ok := f.(*http2.RSTStreamFrame)
		return ok && r.StreamID == stream && r.ErrCode == code
	}
}

func goesAway(code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		return ok && g.ErrCode == code
	}
}

func answered(stream uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		return f.Header().StreamID == stream && (f.Header().Type == http2.FrameHeaders || f.Header().Type == http2.FrameData) && f.Header().Flags.Has(http2.FlagDataEndStream)
	}
}

// ends waits until the server has closed the connection.
func (p *h2peer) ends() {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, p.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Error("the connection stays")
	}
}

// Peers that mean harm cost little and leave nothing behind.
func TestH2HostilePeers(t *testing.T) {
	var mux http.ServeMux
	release := make(chan struct{})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /much", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 8<<20)) })
	mux.HandleFunc("GET /some", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 32<<10)) })
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	mux.HandleFunc("POST /echo", echo)
	s := run(t, map[string]string{"LOG_LEVEL": "ERROR", "REQUEST_TIMEOUT": "2s", "STALL_TIMEOUT": "1s", "MAX_HEADER": "16KiB"}, &mux)
	good := client(t, true)
	ask(t, good, http.MethodGet, s.url+"/hello", nil).check(t, 200, "hello")
	before := runtime.NumGoroutine()

	for name, harm := range map[string]func(t *testing.T){
		"resets as fast as it opens": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			go func() { _, _ = io.Copy(io.Discard, p.conn) }()
			for i := range uint32(20_000) {
				if p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: p.header("GET", "/wait"), EndHeaders: true, EndStream: true}) != nil ||
					p.framer.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
					break // it was sent away
				}
			}
		},
		"opens more than it may": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			for i := range uint32(251) {
				p.ask(2*i+1, "GET", "/wait", true)
			}
			p.until("a refusal", resets(501, http2.ErrCodeRefusedStream))
		},
		"pings and does not listen": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			_ = p.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
			for n := 0; p.framer.WritePing(false, [8]byte{}) == nil; n++ {
				if n > 10_000_000 {
					t.Fatal("it goes on for ever")
				}
			}
		},
		"settings without end": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			_ = p.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
			for n := 0; p.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(n % 1000)}) == nil; n++ {
				if n > 10_000_000 {
					t.Fatal("it goes on for ever")
				}
			}
		},
		"too many settings": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.must(p.framer.WriteSettings(make([]http2.Setting, 101)...))
			p.until("the end", goesAway(http2.ErrCodeEnhanceYourCalm))
			p.ends()
		},
		"a header without end": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			block := p.header("GET", "/hello")
			p.must(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true}))
			for n := 0; ; n++ {
				p.block.Reset()
				p.must(p.hpack.WriteField(hpack.HeaderField{Name: fmt.Sprint("x-", n), Value: strings.Repeat("x", 1000), Sensitive: true}))
				if p.framer.WriteContinuation(1, false, p.block.Bytes()) != nil {
					break
				}
				if n > 100_000 {
					t.Fatal("it goes on for ever")
				}
			}
		},
		"a header that is too long": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.must(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.header("GET", "/hello", "x-a", strings.Repeat("x", 15<<10), "x-b", strings.Repeat("x", 5<<10)), EndHeaders: true, EndStream: true}))
			p.until("431", func(f http2.Frame) bool {
				h, ok := f.(*http2.MetaHeadersFrame)
				return ok && h.PseudoValue("status") == "431"
			})
		},
		"takes nothing of an answer": func(t *testing.T) {
			p := newH2peer(t, s.addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			p.ask(1, "GET", "/some", true)
			p.until("the end of the stream", resets(1, http2.ErrCodeInternal))
		},
		"reads nothing at all": func(t *testing.T) {
			p := newH2peer(t, s.addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
			p.must(p.framer.WriteWindowUpdate(0, 1<<30))
			p.ask(1, "GET", "/much", true)
			p.ask(3, "GET", "/much", true)
			time.Sleep(3 * time.Second)
		},
		"stops in the middle of a body": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.ask(1, "POST", "/echo", false)
			p.must(p.framer.WriteData(1, false, []byte("abc")))
			p.until("408", func(f http2.Frame) bool {
				h, ok := f.(*http2.MetaHeadersFrame)
				return ok && h.PseudoValue("status") == "408"
			})
			p.until("the end of the stream", resets(1, http2.ErrCodeNo))
			p.must(p.framer.WriteData(1, true, []byte("late"))) // which was on its way
			p.ask(3, "GET", "/hello", true)
			p.until("an answer", answered(3))
		},
		"leaves in the middle of a body": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.ask(1, "POST", "/echo", false)
			p.must(p.framer.WriteData(1, false, make([]byte, 10_000)))
			p.conn.Close()
		},
		"leaves in the middle of a frame": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.ask(1, "POST", "/echo", false)
			_, err := p.conn.Write([]byte{0, 16, 0, 0, 0, 0, 0, 0, 1, 'x'})
			p.must(err)
			p.conn.Close()
		},
		"sends more than it may": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.ask(1, "GET", "/wait", false)
			for range 10 {
				if p.framer.WriteData(1, false, make([]byte, 200<<10)) != nil {
					break
				}
			}
			p.until("the end", func(f http2.Frame) bool {
				return goesAway(http2.ErrCodeFlowControl)(f) || resets(1, http2.ErrCodeFlowControl)(f)
			})
		},
		"opens windows beyond all": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.must(p.framer.WriteWindowUpdate(0, 1<<31-1))
			p.until("the end", goesAway(http2.ErrCodeFlowControl))
			p.ends()
		},
		"other than it said": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			for i, header := range [][]string{{"content-length", "5"}, {"content-length", "x"}, {"content-length", "3", "content-length", "4"}, {"connection", "x"}, {"te", "gzip"}, {"host", "b"}, {"host", "b", "host", "c"}} {
				id := uint32(2*i + 1)
				p.must(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.header("POST", "/echo", header...), EndHeaders: true}))
				p.must(p.framer.WriteData(id, true, []byte("abc")))
				if header[0] == "host" && len(header) == 2 { // :authority counts
					p.until("an answer", answered(id))
					continue
				}
				p.until(fmt.Sprint("the end of the stream with ", header), resets(id, http2.ErrCodeProtocol))
			}
		},
		"frames of lying sizes": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			_, err := p.conn.Write(binary.BigEndian.AppendUint32([]byte{0xff, 0xff, 0xff, 0, 0}, 1))
			p.must(err)
			p.until("the end", goesAway(http2.ErrCodeFrameSize))
			p.ends()
		},
		"padding larger than its frame": func(t *testing.T) {
			p := newH2peer(t, s.addr)
			p.ask(1, "POST", "/echo", false)
			p.must(p.framer.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{9, 'x'}))
			p.until("the end", goesAway(http2.ErrCodeProtocol))
			p.ends()
		},
		"nothing after the preface": func(t *testing.T) {
			conn := dial(t, s.addr)
			_, _ = io.WriteString(conn, http2.ClientPreface[:20])
		},
		"no settings": func(t *testing.T) {
			conn := dial(t, s.addr)
			_, _ = io.WriteString(conn, http2.ClientPreface+"\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh")
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Contains(got, []byte{0, 0, 8, byte(http2.FrameGoAway)}) {
				t.Errorf("got %q, %v", got, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			harm(t)
			ask(t, good, http.MethodGet, s.url+"/hello", nil).check(t, 200, "hello")
		})
	}
	close(release)
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left of %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// Who has read a part of a body learns that the rest will not come, also if it had come already.
func TestH2ResetInTheMiddleOfABody(t *testing.T) {
	var mux http.ServeMux
	reading, reset, read := make(chan struct{}), make(chan struct{}), make(chan error)
	mux.HandleFunc("POST /read", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 3))
		close(reading)
		<-reset
		_, err := io.ReadAll(r.Body)
		read <- err
	})
	s := run(t, nil, &mux)
	p := newH2peer(t, s.addr)
	p.ask(1, "POST", "/read", false)
	p.must(p.framer.WriteData(1, true, []byte("abcdef")))
	<-reading
	p.must(p.framer.WriteRSTStream(1, http2.ErrCodeCancel))
	p.must(p.framer.WritePing(false, [8]byte{1}))
	p.until("that it has read the reset", func(f http2.Frame) bool { return f.Header().Type == http2.FramePing })
	close(reset)
	if err := <-read; err == nil {
		t.Error("a part of the body was taken for all of it")
	}
}

// A process that is told to end answers what it has begun, and has later requests asked elsewhere.
func TestH2Drains(t *testing.T) {
	var mux http.ServeMux
	begun, release := make(chan struct{}), make(chan struct{})
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		fmt.Fprint(w, "waited")
	})
	s := run(t, nil, &mux)
	idle, busy := newH2peer(t, s.addr), newH2peer(t, s.addr)
	busy.ask(1, "GET", "/wait", true)
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	idle.until("the end", goesAway(http2.ErrCodeNo))
	idle.ends()
	busy.until("the end", goesAway(http2.ErrCodeNo))
	for id := uint32(3); id < 9; id += 2 { // they are late, and are asked elsewhere
		busy.ask(id, "POST", "/echo", false)
		busy.must(busy.framer.WriteData(id, true, []byte("abc")))
	}
	time.Sleep(50 * time.Millisecond)
	close(release)
	busy.until("the answer", func(f http2.Frame) bool {
		if id := f.Header().StreamID; id > 1 {
			t.Errorf("got %v of a stream that is not answered", f)
		}
		return answered(1)(f)
	})
	busy.ends()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Whatever is said to it, it ends when its peer has left, and keeps nothing.
func FuzzH2(f *testing.F) {
	var mux http.ServeMux
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("GET /much", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 200_000)) })
	s := run(f, map[string]string{"LOG_LEVEL": "ERROR", "REQUEST_TIMEOUT": "1s", "STALL_TIMEOUT": "1s"}, &mux)
	var b bytes.Buffer
	p := &h2peer{framer: http2.NewFramer(&b, nil)}
	p.hpack = hpack.NewEncoder(&p.block)
	add := func(write func()) {
		b.Reset()
		_ = p.framer.WriteSettings()
		write()
		f.Add(bytes.Clone(b.Bytes()))
	}
	post, get := bytes.Clone(p.header("POST", "/echo", "content-length", "3")), bytes.Clone(p.header("GET", "/much"))
	add(func() {
		_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: post, EndHeaders: true})
		_ = p.framer.WriteData(1, true, []byte("abc"))
	})
	add(func() {
		_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: post[:5]})
		_ = p.framer.WriteContinuation(1, true, post[5:])
		_ = p.framer.WriteDataPadded(1, false, []byte("ab"), make([]byte, 5))
		_ = p.framer.WritePing(false, [8]byte{1})
		_ = p.framer.WriteRSTStream(1, http2.ErrCodeCancel)
	})
	add(func() {
		_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: get, EndHeaders: true, EndStream: true})
		_ = p.framer.WriteWindowUpdate(0, 100_000)
		_ = p.framer.WriteWindowUpdate(1, 100_000)
		_ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20}, http2.Setting{ID: http2.SettingHeaderTableSize})
		_ = p.framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := dial(t, s.addr)
		defer conn.Close()
		_, _ = io.WriteString(conn, http2.ClientPreface)
		_, _ = conn.Write(b)
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q it does not end", b)
		}
	})
}

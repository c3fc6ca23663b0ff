package predict_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// stream sends a body whose length nobody tells before.
func stream(t *testing.T, s *predicttest.Server, path string, body io.Reader, headers ...string) predicttest.Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+path, io.NopCloser(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	transport := &http.Transport{}
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
	return predicttest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}
}

// A body of MAX_BODY is taken, one byte more is not, packed or not.
func TestBodyLimit(t *testing.T) {
	const most = 64 << 10
	const sentence = "the body is larger than the limit of 65536 bytes"
	s := predicttest.Start(t, nil, map[string]string{"MAX_BODY": "64KiB"})
	s.Push(t, "m", same.Bytes(), model.Settings{})
	body := func(n int) string { return floats("1") + strings.Repeat(" ", n-len(floats("1"))) }
	for _, coding := range []string{"identity", "gzip", "deflate"} {
		squeeze := func(body string) string {
			if coding == "identity" {
				return body
			}
			return pack(t, coding, body)
		}
		header := "Content-Encoding: " + coding
		for name, do := range map[string]func(string) predicttest.Answer{
			"told": func(b string) predicttest.Answer { return s.Do(t, "POST", "/v2/models/m/infer", squeeze(b), header) },
			"untold": func(b string) predicttest.Answer {
				return stream(t, s, "/v2/models/m/infer", strings.NewReader(squeeze(b)), header)
			},
		} {
			t.Run(coding+" "+name, func(t *testing.T) {
				if a := do(body(most)); a.Status != 200 {
					t.Errorf("got %d %s for a body of the limit", a.Status, a.Body)
				}
				wantError(t, do(body(most+1)), 413, sentence)
				wantError(t, do(body(3*most)), 413, sentence)
			})
		}
	}
	for _, path := range []string{"/v2/repository/index", "/v2/repository/models/m/load", "/admin/v1/models/m/aliases/a/rollback"} {
		wantError(t, s.Do(t, "POST", path, strings.Repeat(" ", most+1)), 413, sentence)
	}
	answers(t, s, 1)
}

// A few bytes that unpack to very many cost no more than the limit, and not the
// time to unpack them.
func TestCompressedBombs(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"MAX_BODY": "1MiB"})
	s.Push(t, "m", same.Bytes(), model.Settings{})
	zeros := make([]byte, 1<<20)
	for coding, writer := range map[string]func(io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	} {
		var bomb bytes.Buffer
		z := writer(&bomb)
		for range 256 {
			if _, err := z.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		for _, header := range []string{"", headerLength(0), headerLength(1 << 27), headerLength(1 << 40)} {
			headers := []string{"Content-Encoding: " + coding}
			if header != "" {
				headers = append(headers, header)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a := s.Do(t, "POST", "/v2/models/m/infer", bomb.String(), headers...)
			runtime.ReadMemStats(&after)
			wantError(t, a, 413, "the body is larger than the limit of 1048576 bytes")
			if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
				t.Errorf("%s of %d bytes took %d bytes of memory", coding, bomb.Len(), got)
			}
		}
	}
	answers(t, s, 1)
}

func TestBodiesThatBreakOff(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", same.Bytes(), model.Settings{})
	body := floats("1")
	for _, coding := range []string{"gzip", "deflate"} {
		packed := pack(t, coding, body)
		for _, n := range []int{1, 2, 10, len(packed) / 2, len(packed) - 1} {
			wantError(t, s.Do(t, "POST", "/v2/models/m/infer", packed[:n], "Content-Encoding: "+coding), 400, "the body is not valid "+coding+", as its Content-Encoding says")
		}
		broken := []byte(packed)
		broken[len(broken)-5] ^= 1 // of the checksum, in both formats
		if a := s.Do(t, "POST", "/v2/models/m/infer", string(broken), "Content-Encoding: "+coding); a.Status != 400 {
			t.Errorf("%s with a wrong checksum: got %d %s", coding, a.Status, a.Body)
		}
	}
	// Less than Content-Length tells.
	answer := converse(t, s, fmt.Sprintf("POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body)+1, body), true)
	wantError(t, answer, 400, "the body could not be read to its end")
	// Chunks that are none.
	answer = converse(t, s, "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false)
	wantError(t, answer, 400, "the body could not be read to its end")
	answers(t, s, 1)
}

// converse sends text on a connection of its own and reads one answer; end says
// that no more will come.
func converse(t *testing.T, s *predicttest.Server, text string, end bool) predicttest.Answer {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil { // a server that hangs fails the test
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if end {
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return predicttest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}
}

// Who sends a body too slowly is told so, whatever it was to be.
func TestSlowCallers(t *testing.T) {
	blob, cache := newBlob(t), t.TempDir()
	s := predicttest.Start(t, blob, map[string]string{"STALL_TIMEOUT": "300ms", "MODEL_CACHE_DIR": cache})
	packed := pack(t, "gzip", floats("1"))
	deflated := pack(t, "deflate", floats("1"))
	body, kind := form(t, "settings", "{}", "model", string(same.Bytes()))
	for _, test := range []struct{ name, text string }{
		{"infer", "POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 1000\r\n" + "Host: x\r\n\r\n{"},
		{"nothing of it", "POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 1000\r\n" + "Host: x\r\n\r\n"},
		{"chunks", "POST /v2/models/m/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + "Host: x\r\n\r\n1\r\n{\r\n"},
		{"gzip", "POST /v2/models/m/infer HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n" + "Host: x\r\n\r\n" + packed[:20]},
		{"a byte of gzip", "POST /v2/models/m/infer HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n" + "Host: x\r\n\r\n" + packed[:1]},
		{"deflate", "POST /v2/models/m/infer HTTP/1.1\r\nContent-Encoding: deflate\r\nContent-Length: 1000\r\n" + "Host: x\r\n\r\n" + deflated[:20]},
		{"push", "POST /admin/v1/models/m/versions HTTP/1.1\r\nContent-Length: 100000\r\n" + "Host: x\r\n\r\n" + string(same.Bytes())},
		{"push of a form", "POST /admin/v1/models/m/versions HTTP/1.1\r\nContent-Length: 100000\r\n" + kind + "\r\n" + "Host: x\r\n\r\n" + body[:len(body)-80]},
		{"push of a form's settings", "POST /admin/v1/models/m/versions HTTP/1.1\r\nContent-Length: 100000\r\n" + kind + "\r\n" + "Host: x\r\n\r\n" + body[:150]},
		{"alias", "PUT /admin/v1/models/m/aliases/a HTTP/1.1\r\nContent-Length: 1000\r\n" + "Host: x\r\n\r\n{"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			wantError(t, converse(t, s, test.text, false), 408, "the body came too slowly: at least 16KiB a second is expected")
		})
	}
	t.Cleanup(func() { // when all of them are done
		if left := append(keys(t, blob), files(t, cache)...); len(left) > 0 {
			t.Errorf("they left %q", left)
		}
	})
}

// An upload that breaks off leaves nothing.
func TestAnUploadBreaksOff(t *testing.T) {
	blob, cache := newBlob(t), t.TempDir()
	s := predicttest.Start(t, blob, map[string]string{"MODEL_CACHE_DIR": cache})
	file := onnxtest.Dense(2, 512).Bytes()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	in, out := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/admin/v1/models/m/versions", in)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	transport := &http.Transport{}
	go func() {
		resp, err := transport.RoundTrip(r)
		if err == nil {
			err = resp.Body.Close()
		}
		gone <- err
	}()
	if _, err := out.Write(file[:len(file)/2]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a part of the file has come", func() bool {
		for _, path := range files(t, cache) {
			if info, err := os.Stat(path); err == nil && info.Size() > 0 {
				return true
			}
		}
		return false
	})
	leave()
	out.CloseWithError(context.Canceled) // the transport waits for what it reads
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the upload canceled", err)
	}
	eventually(t, "nothing of it is left", func() bool { return len(files(t, cache)) == 0 })
	if left := keys(t, blob); len(left) > 0 {
		t.Errorf("it left %q", left)
	}
}

// Thousands of requests, good, bad and abandoned, leave neither goroutines nor memory.
func TestNothingLeaks(t *testing.T) {
	s := startRefusing(t, map[string]string{"MAX_BODY": "1MiB"})
	s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{})
	endless, endlessHead := loop(forever)
	transport := &http.Transport{MaxIdleConnsPerHost: 8, DisableCompression: true}
	var statuses sync.Map // status -> *atomic.Int64
	do := func(ctx context.Context, path, body string, headers ...string) {
		r, err := http.NewRequestWithContext(ctx, "POST", s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		status := 0
		resp, err := transport.RoundTrip(r)
		switch {
		case err == nil:
			status = resp.StatusCode
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		case errors.Is(err, context.DeadlineExceeded):
			err = nil
		}
		if err != nil {
			t.Error(err)
		}
		n, _ := statuses.LoadOrStore(status, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
	const rounds = 500 // of four requests and more
	round := func(i int) {
		switch i % 5 {
		case 0:
			do(t.Context(), "/v2/models/simple/infer", simple(1+i%40), "Accept-Encoding: gzip")
		case 1:
			do(t.Context(), "/v2/models/x/infer", pack(t, "deflate", le(make([]float32, i))), "Content-Encoding: deflate", headerLength(0), "Accept-Encoding: deflate")
		case 2:
			do(t.Context(), fmt.Sprintf("/v2/models/nobody%d/infer", i), floats("1"))
		case 3:
			do(t.Context(), "/v2/models/x/infer", strings.Repeat("x", 1<<20+i), "Content-Type: text/plain")
		case 4:
			if i%50 == 4 { // a caller that leaves
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				do(ctx, "/v2/models/slow/infer", endless, endlessHead)
				cancel()
			}
		}
		for j := range 3 {
			test := refusals[(3*i+j)%len(refusals)]
			do(t.Context(), "/v2/models/"+test.path+"/infer", test.body, test.headers...)
		}
	}
	all := func(rounds int) {
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := w; i < rounds; i += 4 {
					round(i)
				}
			})
		}
		wg.Wait()
		transport.CloseIdleConnections()
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // the second empties what pools kept
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	all(60) // what stays for good
	eventually(t, "no request is under way", func() bool { return activeRequests(t, s) == 0 })
	transport.CloseIdleConnections()
	before, goroutines := heap(), runtime.NumGoroutine()
	all(rounds)
	eventually(t, fmt.Sprintf("%d goroutines are left", goroutines), func() bool {
		transport.CloseIdleConnections()
		return runtime.NumGoroutine() <= goroutines
	})
	if after := heap(); after > before+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	count := func(status int) int64 {
		n, _ := statuses.LoadOrStore(status, new(atomic.Int64))
		return n.(*atomic.Int64).Load()
	}
	// 0: the caller had left.
	if count(0) == 0 || count(200) < rounds/4 || count(400) < rounds || count(404) < rounds/4 || count(413) < rounds/6 {
		t.Errorf("got %d answers of status 200, %d of 400, %d of 404, %d of 413 and %d that nobody waited for", count(200), count(400), count(404), count(413), count(0))
	}
	statuses.Range(func(status, n any) bool {
		switch status {
		case 0, 200, 400, 404, 413:
		default:
			t.Errorf("got %d answers of status %d", n.(*atomic.Int64).Load(), status)
		}
		return true
	})
}

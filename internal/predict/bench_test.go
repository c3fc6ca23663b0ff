package predict_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// BenchmarkRequest asks a whole server for a prediction of the example's model over one connection; what it
// allocates is the server's. "remembered" is an answer from the cache; "traced" is "computed" with traces that go to a bucket, as
// in production, and "cpu-ns/op" what both sides together take of the CPUs, which tells them apart on a busy machine, too.
func BenchmarkRequest(b *testing.B) {
	const example = "../../examples/flights/"
	file, err := os.ReadFile(example + "flights.onnx")
	if err != nil {
		b.Fatal(err)
	}
	body, err := os.ReadFile(example + "complete.json")
	if err != nil {
		b.Fatal(err)
	}
	off := predicttest.Start(b, nil, map[string]string{"LOG_LEVEL": "INFO"})
	on := predicttest.Start(b, nil, map[string]string{"LOG_LEVEL": "INFO", "TRACES": "on"})
	off.Push(b, "computed", file, model.Settings{})
	off.Push(b, "remembered", file, model.Settings{Cache: model.Cache{TTL: 3600e9}})
	on.Push(b, "traced", file, model.Settings{})
	for _, of := range []struct {
		name string
		*predicttest.Server
	}{{"computed", off}, {"remembered", off}, {"traced", on}} {
		name, s := of.name, of.Server
		b.Run(name, func(b *testing.B) {
			conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			request := fmt.Appendf(nil, "POST /v2/models/%s/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", name, len(body), body)
			if _, err := conn.Write(request); err != nil {
				b.Fatal(err)
			}
			in := bufio.NewReader(conn)
			w, err := http.ReadResponse(in, nil)
			if err != nil {
				b.Fatal(err)
			}
			want, err := io.ReadAll(w.Body)
			if _ = w.Body.Close(); err != nil || w.StatusCode != http.StatusOK {
				b.Fatalf("%d %s %v", w.StatusCode, want, err)
			}
			got := make([]byte, 4096)
			b.ReportAllocs()
			begin := cpu(b)
			for b.Loop() {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				n, err := conn.Read(got)
				if err != nil || !bytes.HasSuffix(got[:n], want) {
					b.Fatalf("got %s, %v", got[:n], err)
				}
			}
			b.ReportMetric(float64(cpu(b)-begin)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu tells how long the process has had a CPU.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

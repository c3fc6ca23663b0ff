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
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// BenchmarkRequest asks a whole server for a prediction of the example's model over one connection; what it
// allocates is the server's. "remembered" is an answer from the cache.
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
	s := predicttest.Start(b, nil, map[string]string{"LOG_LEVEL": "INFO"})
	s.Push(b, "computed", file, model.Settings{})
	s.Push(b, "remembered", file, model.Settings{Cache: model.Cache{TTL: 3600e9}})
	for _, name := range []string{"computed", "remembered"} {
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
			for b.Loop() {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				n, err := conn.Read(got)
				if err != nil || !bytes.HasSuffix(got[:n], want) {
					b.Fatalf("got %s, %v", got[:n], err)
				}
			}
		})
	}
}

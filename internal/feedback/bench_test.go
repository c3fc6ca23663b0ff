package feedback

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// BenchmarkPost posts outcomes over the loopback until they are durable on the disk or on S3. Client, server
// and S3 share the CPUs.
func BenchmarkPost(b *testing.B) {
	for _, bucket := range []struct {
		name string
		url  func(b *testing.B) string
	}{
		{"disk", func(b *testing.B) string { return "file://" + b.TempDir() }},
		{"s3", func(b *testing.B) string { return storetest.S3URL(b) }},
	} {
		for _, c := range []struct{ outcomes, senders int }{{1, 256}, {100, 32}, {1000, 8}} { // in a request, at once
			b.Run(fmt.Sprintf("%s/batch=%d", bucket.name, c.outcomes), func(b *testing.B) {
				benchmarkPost(b, bucket.url(b), c.outcomes, c.senders)
			})
		}
	}
}

func benchmarkPost(b *testing.B, bucket string, outcomes, senders int) {
	var conf IntakeConfig
	var c serve.Config
	if _, err := env.Load(map[string]string{"PORT": "0"}, &c, &conf); err != nil {
		b.Fatal(err)
	}
	f := open(b, conf, at(b, bucket))
	f.now = time.Now
	url := listen(b, &c, f.mux, f.tel) + "/feedback"
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	b.Cleanup(client.CloseIdleConnections)
	var at atomic.Int64
	b.SetParallelism(max(1, senders/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		var body bytes.Buffer
		for p.Next() {
			body.Reset()
			for n := at.Add(int64(outcomes)) - int64(outcomes); body.Len() == 0 || n%int64(outcomes) != 0; n++ {
				fmt.Fprintf(&body, `{"prediction":"5f0c9a2e-%012d","value":%t,"time":"2026-11-25T11:00:00Z"}`+"\n", n, n%3 == 0)
			}
			r, err := http.NewRequestWithContext(b.Context(), "POST", url, &body)
			if err != nil {
				b.Error(err)
				return
			}
			r.Header.Set("Content-Type", nline)
			resp, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			said, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusAccepted {
				b.Errorf("%d %s", resp.StatusCode, said)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N*outcomes)/b.Elapsed().Seconds(), "outcomes/s")
}

// BenchmarkDecode reads outcomes out of a body.
func BenchmarkDecode(b *testing.B) {
	const n = 1000
	lines := strings.Repeat(`{"prediction":"5f0c9a2e-0b1d-4a6e-9c57-2f3b8d1e7a90","row":0,"value":true,"time":"2026-11-25T11:00:00Z"}`+"\n", n)
	f := open(b, ample, bucket(b))
	b.SetBytes(int64(len(lines)))
	b.ReportAllocs()
	for b.Loop() {
		batch, all := f.batch(), newElements(strings.NewReader(lines), true)
		for {
			raw, err := all.next()
			if err != nil {
				break
			}
			if err := batch.add(batch.size(), raw, "", 0); err != nil {
				b.Fatal(err)
			}
		}
		if len(batch.good) != n {
			b.Fatal(len(batch.good))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/outcome")
}

// BenchmarkInbox writes and reads an object.
func BenchmarkInbox(b *testing.B) {
	const n = 10_000
	one := open(b, IntakeConfig{Rows: n, Bytes: 1 << 30, Write: time.Minute, Ahead: time.Hour, Request: n}, bucket(b)).batch()
	for i := range n {
		if err := one.add(i, fmt.Appendf(nil, `{"prediction":"5f0c9a2e-%012d","value":%t,"time":"2026-11-25T11:00:00Z"}`, i, i%3 == 0), "", 0); err != nil {
			b.Fatal(err)
		}
	}
	group := []*batch{one}
	key, data, err := encode(group)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := encode(group); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/outcome")
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := readOutcomes(key, data); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/outcome")
		b.ReportMetric(float64(len(data))/n, "B/outcome")
	})
}

package predict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// A hundred thousand versions, asked by all protocols and failing in all ways, take as much of /metrics and of memory as some hundreds do; and none is uncounted.
func TestMetricsOfManyModelsAreBounded(t *testing.T) {
	c := telemetry.Config{Output: io.Discard}
	if _, err := env.Load(nil, &c); err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &c, "test")
	if err != nil {
		t.Fatal(err)
	}
	f := &Flow{}
	if f.tel, err = newInstruments(f, tel); err != nil {
		t.Fatal(err)
	}
	before := heap()
	const models, versions = 50_000, 2
	kinds := []error{nil, nil, nil, errors.New("x")}
	asked := 0
	for i := range models {
		for v := range versions {
			of := f.tel.labelsOf(&model.Manifest{Name: fmt.Sprintf("a-model-with-a-long-name-%d", i), Version: v + 1})
			for p := range protocolCount {
				err := kinds[(i+int(p))%len(kinds)]
				f.tel.request(t.Context(), of, p, time.Millisecond, err)
				f.tel.inference(t.Context(), of, nil, &timings{ran: true, run: time.Millisecond}, err)
				asked++
			}
		}
	}
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	size := w.Body.Len()
	if took := heap() - before - uint64(w.Body.Cap()); took > 50<<20 {
		t.Errorf("metrics take %d MiB, want 50 at most", took>>20)
	} else {
		t.Logf("%d MiB of memory, %d MiB of text", took>>20, size>>20)
	}
	if size > 20<<20 {
		t.Errorf("/metrics has %d bytes", size)
	}
	begin := time.Now()
	tel.Metrics().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	t.Logf("/metrics took %s", time.Since(begin))
	counted := 0.0
	names := map[string]bool{}
	for line := range bytes.Lines(w.Body.Bytes()) {
		if s, ok := strings.CutPrefix(string(line), "pilotlight_inference_request_duration_seconds_count{"); ok {
			var n float64
			if _, err := fmt.Sscan(s[strings.LastIndexByte(s, ' ')+1:], &n); err != nil {
				t.Fatal(err)
			}
			counted += n
			names[s[:strings.LastIndexByte(s, ' ')]] = true
		}
	}
	if int(counted) != asked || len(names) > 2000 || len(names) < 1000 {
		t.Errorf("got %d series that count %.0f requests, want some 2000 of %d", len(names), counted, asked)
	}
	runtime.KeepAlive(f)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMeasure is what metrics cost a request in this package.
func BenchmarkMeasure(b *testing.B) {
	c := telemetry.Config{Output: io.Discard}
	tel, err := telemetry.Start(b.Context(), &c, "test")
	if err != nil {
		b.Fatal(err)
	}
	f := &Flow{}
	if f.tel, err = newInstruments(f, tel); err != nil {
		b.Fatal(err)
	}
	of := f.tel.labelsOf(&model.Manifest{Name: "m", Version: 1})
	spent := timings{ran: true, run: time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		f.tel.inference(b.Context(), of, nil, &spent, nil)
		f.tel.request(b.Context(), of, byJSON, time.Millisecond, nil)
	}
}

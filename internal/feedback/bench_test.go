package feedback

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
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

// BenchmarkCatchUp takes predictions of a row with eight values each, with a reference of them all, and the outcome of
// each of them: all that it takes until both are in their windows.
func BenchmarkCatchUp(b *testing.B) {
	const n = 20_000
	for b.Loop() {
		b.StopTimer()
		blob := memory(b)
		fillBucket(b, blob, n)
		j := journalOf(b, blob)
		b.StartTimer()
		did, err := j.CatchUp(b.Context())
		if err != nil || did.Predictions != n || did.Joined != n {
			b.Fatalf("got %+v, %v", did, err)
		}
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "outcomes/s")
}

// fillBucket makes a bucket with a model, its reference, predictions and their outcomes.
func fillBucket(b *testing.B, blob store.Blob, n int) {
	b.Helper()
	tel, err := telemetry.Start(b.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		b.Fatal(err)
	}
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	var fields []drift.Field
	for _, name := range names {
		fields = append(fields, drift.Field{Name: name})
	}
	builder := drift.NewBuilder(fields)
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		row := make([]drift.Value, len(names))
		for i := range row {
			row[i] = drift.Number(random.NormFloat64())
		}
		if err := builder.Add(row); err != nil {
			b.Fatal(err)
		}
	}
	p, err := builder.Profile()
	if err != nil {
		b.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := blob.Put(b.Context(), referenceKey("m", 1), bytes.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
		b.Fatal(err)
	}
	_, err = model.NewCatalog(blob, time.Minute, nil).Publish(b.Context(), model.Manifest{
		Name: "m", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1},
		Signature: engine.Signature{Outputs: []tensor.Spec{{Name: "probability", Type: tensor.FP64, Shape: []int64{-1, 1}}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	log, err := payload.Open(&payload.Config{On: "on", Memory: 256 << 20, Every: time.Hour}, blob, nil, tel)
	if err != nil {
		b.Fatal(err)
	}
	in, err := NewIntake(&IntakeConfig{Rows: 1 << 20, Bytes: 256 * env.Size(1<<20), Write: time.Minute, Ahead: time.Hour, Request: n}, blob, tel)
	if err != nil {
		b.Fatal(err)
	}
	outcomes := in.batch()
	for i := range n {
		at := monday.Add(time.Duration(i) * 100 * time.Millisecond)
		prediction := &payload.Prediction{ID: fmt.Sprintf("9f0c2d7e-%08d", i), Asked: at, At: at, Rows: 1, Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{random.Float64()})}}
		for _, name := range names {
			prediction.Given = append(prediction.Given, tensor.Of(name, []int64{1}, []float64{random.NormFloat64()}))
		}
		log.Add(&payload.Origin{Model: "m", Version: 1, Sample: 1}, prediction)
		if err := outcomes.add(i, []byte(fmt.Sprintf(`{"prediction":"%s","value":true}`, prediction.ID)), "", 0); err != nil {
			b.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	if _, err := in.take(b.Context(), outcomes); err != nil {
		b.Fatal(err)
	}
	if err := in.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPrediction looks for predictions by ids of callers' own among a million, and for the newest, on the disk and on S3. Of the fresh ones no commit
// knows yet.
func BenchmarkPrediction(b *testing.B) {
	const n, fresh = 1_000_000, 20_000
	disk := at(b, "file://"+b.TempDir())
	fillLog(b, disk, 0, n)
	begin := time.Now()
	if did, err := journalOf(b, disk).CatchUp(b.Context()); err != nil || did.Predictions != n {
		b.Fatalf("got %+v, %v", did, err)
	}
	b.Logf("taken in %v", time.Since(begin))
	fillLog(b, disk, n, fresh)
	s3 := at(b, storetest.S3URL(b))
	objects := 0
	for o, err := range disk.List(b.Context(), "", "") {
		if err != nil {
			b.Fatal(err)
		}
		data, _, err := store.ReadAll(b.Context(), disk, o.Key)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s3.Put(b.Context(), o.Key, bytes.NewReader(data), int64(len(data)), store.Condition{}); err != nil {
			b.Fatal(err)
		}
		objects++
	}
	b.Logf("%d objects", objects)
	for name, blob := range map[string]store.Blob{"disk": disk, "s3": s3} {
		j := journalOf(b, blob)
		look := func(id func() int) func(b *testing.B) {
			return func(b *testing.B) {
				for b.Loop() {
					if p, err := j.Prediction(b.Context(), fmt.Sprint("order-", id())); err != nil || len(p.Answers) != 1 {
						b.Fatalf("got %+v, %v", p, err)
					}
				}
			}
		}
		b.Run(name+"/taken", look(func() int { return rand.IntN(n) }))
		b.Run(name+"/fresh", look(func() int { return n + rand.IntN(fresh) }))
		b.Run(name+"/none", func(b *testing.B) {
			for b.Loop() {
				if _, err := j.Prediction(b.Context(), "nobody"); !fault.Is(err, fault.NotFound) {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/newest", func(b *testing.B) {
			for b.Loop() {
				if l, err := payload.Newest(b.Context(), blob, &payload.Wanted{}, "", 100); err != nil || len(l.Predictions) != 100 {
					b.Fatal(l, err)
				}
			}
		})
	}
}

// fillLog writes predictions with ids of callers' own.
func fillLog(b *testing.B, blob store.Blob, first, n int) {
	b.Helper()
	log, err := payload.Open(&payload.Config{On: "on", Memory: 1 << 30, Every: time.Hour}, blob, nil, quietTelemetry(b))
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now().Add(-time.Hour)
	origin := &payload.Origin{Model: "m", Version: 1, Sample: 1}
	for i := first; i < first+n; i++ {
		at := begin.Add(time.Duration(i) * time.Millisecond)
		log.Add(origin, &payload.Prediction{
			ID: fmt.Sprint("order-", i), Asked: at, At: at, Rows: 1,
			Given:   []tensor.Tensor{tensor.OfStrings("carrier", []int64{1}, []string{"UA"}), tensor.Of("flight", []int64{1}, []int64{int64(i)})},
			Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{rand.Float64()})},
		})
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	if made, written, _ := log.Counts(); made != written {
		b.Fatalf("%d of %d are written", written, made)
	}
}

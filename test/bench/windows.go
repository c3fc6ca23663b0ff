package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// How many predictions windows are measured with: ten million values in all.
const (
	windowParts  = 10
	windowRows   = 125_000 // of each part
	windowValues = 8       // of a row
)

// windows measures what functions/feedback takes to join predictions and outcomes, and the memory that it holds meanwhile.
func (b *bench) windows(ctx context.Context) (err error) {
	binary := filepath.Join(b.dir, "feedback")
	if err := b.build(ctx, binary, "./functions/feedback"); err != nil {
		return err
	}
	bucket := &url.URL{Scheme: "file", Path: filepath.Join(b.dir, "windows")}
	blob, err := diskstore.OpenBlob(ctx, bucket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	predict, err := b.start(ctx, launch{args: []string{b.predict}, env: []string{"BLOB_URL=" + bucket.String(), "PAYLOAD_LOG=off", "LOG_LEVEL=ERROR"}, ready: "/readyz"})
	if err != nil {
		return err
	}
	sample, err := samples["flights"](b.root, b.dir)
	if err == nil {
		_, err = b.push(ctx, predict, &sample) // whose output is called probability
	}
	if err = errors.Join(err, predict.stop()); err != nil {
		return err
	}
	p, err := b.start(ctx, launch{args: []string{binary}, env: []string{"BLOB_URL=" + bucket.String(), "K_SINK=http://127.0.0.1:9", "LOG_LEVEL=ERROR"}, ready: "/readyz"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	w := &windowWork{b: b, blob: blob, p: p, random: rand.New(rand.NewPCG(1, 2))}
	if err := w.reference(ctx); err != nil {
		return err
	}
	b.report.section("Windows of quality and drift")
	b.report.add("`functions/feedback` on a folder. %d times %d predictions of %d numbers, in segments, and all their outcomes; then the tick that takes them.\n\n", windowParts, windowRows, windowValues)
	var rows [][]string
	for part := range windowParts {
		progress("windows: part %d of %d", part+1, windowParts)
		row, err := w.part(ctx, part)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	b.report.table([]string{"values so far", "tick", "CPU, a prediction with its outcome", "resident", "at most"}, rows)
	return nil
}

type windowWork struct {
	b      *bench
	blob   store.Blob
	p      *process
	random *rand.Rand
}

func valueName(i int) string { return fmt.Sprint("value", i) }

func (w *windowWork) reference(ctx context.Context) error {
	var fields []drift.Field
	for i := range windowValues {
		fields = append(fields, drift.Field{Name: valueName(i)})
	}
	builder := drift.NewBuilder(fields)
	for range 50_000 {
		row := make([]drift.Value, windowValues)
		for i := range row {
			row[i] = drift.Number(w.random.NormFloat64())
		}
		if err := builder.Add(row); err != nil {
			return err
		}
	}
	profile, err := builder.Profile()
	if err != nil {
		return err
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return err
	}
	_, err = call(ctx, http.DefaultClient, http.MethodPut, "http://"+w.p.addr+"/admin/v1/drift/flights/1/reference", bytes.NewReader(text), http.StatusOK)
	return err
}

// part logs some predictions, posts their outcomes and has them taken.
func (w *windowWork) part(ctx context.Context, part int) ([]string, error) {
	tel, err := telemetry.Start(ctx, &telemetry.Config{Output: io.Discard}, "bench")
	if err != nil {
		return nil, err
	}
	var outcomes bytes.Buffer
	post := func() error {
		_, err := call(ctx, http.DefaultClient, http.MethodPost, "http://"+w.p.addr+"/feedback", bytes.NewReader(outcomes.Bytes()), http.StatusAccepted)
		outcomes.Reset()
		return err
	}
	begin := time.Now().Add(-time.Hour)
	const together = 5000
	for first := 0; first < windowRows; first += together {
		log, err := payload.Open(&payload.Config{On: "on", Memory: 16 << 20, Every: time.Hour}, w.blob, nil, tel)
		if err != nil {
			return nil, err
		}
		outcomes.WriteByte('[')
		for i := first; i < first+together; i++ {
			at := begin.Add(time.Duration(i) * time.Millisecond)
			id := fmt.Sprintf("9f0c2d7e-%02d-%09d", part, i)
			p := &payload.Prediction{ID: id, Asked: at, At: at, Rows: 1, Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float32{w.random.Float32()})}}
			for i := range windowValues {
				p.Given = append(p.Given, tensor.Of(valueName(i), []int64{1, 1}, []float32{float32(w.random.NormFloat64())}))
			}
			log.Add(&payload.Origin{Model: "flights", Version: 1, Sample: 1}, p)
			if i > first {
				outcomes.WriteByte(',')
			}
			fmt.Fprintf(&outcomes, `{"prediction":%q,"value":%t}`, id, w.random.IntN(4) == 0)
		}
		outcomes.WriteByte(']')
		if err := errors.Join(log.Close(), post()); err != nil {
			return nil, err
		}
	}
	before, err := w.p.cpu()
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.p.addr+"/events", strings.NewReader(`{"job":"evaluate-alerts"}`))
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"Id": fmt.Sprint("tick-", part), "Source": "/bench", "Type": event.Tick.Name, "Specversion": "1.0"} {
		r.Header.Set("Ce-"+name, value)
	}
	r.Header.Set("Content-Type", "application/json")
	start := time.Now()
	if _, err := do(http.DefaultClient, r, http.StatusAccepted); err != nil {
		return nil, err
	}
	took := time.Since(start)
	after, err := w.p.cpu()
	if err != nil {
		return nil, err
	}
	now, err := w.p.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	most, err := w.p.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	values := (part + 1) * windowRows * windowValues
	return []string{fmt.Sprint(values), fmt.Sprintf("%.1f s", took.Seconds()), micros((after - before) / windowRows), megabytes(now), megabytes(most)}, w.check(ctx, (part+1)*windowRows)
}

// check fails unless everything counts.
func (w *windowWork) check(ctx context.Context, n int) error {
	answer, err := call(ctx, http.DefaultClient, http.MethodGet, "http://"+w.p.addr+"/admin/v1/quality/flights", nil, http.StatusOK)
	if err != nil {
		return err
	}
	var got struct {
		Versions []struct {
			Report struct{ Predicted, Outcomes int }
		}
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		return err
	}
	if len(got.Versions) != 1 || got.Versions[0].Report.Predicted != n || got.Versions[0].Report.Outcomes != n {
		return fmt.Errorf("%d predictions and outcomes were sent; %s", n, answer)
	}
	return nil
}

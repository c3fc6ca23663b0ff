package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	manyStarts   = 30 // of each kind
	manyFirsts   = 10
	startsWithin = 50 * time.Millisecond // what a start shall take, at most
)

// starts measures how long functions/predict takes to be ready with each kind
// of bucket, and how long a small model then takes to answer from nothing.
func (b *bench) starts(ctx context.Context) error {
	if err := b.needS3(ctx); err != nil {
		return err
	}
	kinds := []struct {
		name  string
		env   []string
		ready []time.Duration
	}{
		{name: "mem:", env: []string{"BLOB_URL=mem:"}},
		{name: "file://", env: []string{"BLOB_URL=file://" + filepath.Join(b.dir, "bucket")}},
		{name: "s3://", env: b.s3.environ("start")},
	}
	s, err := samples["flights"](b.root, b.dir)
	if err != nil {
		return err
	}
	for _, k := range kinds[1:] {
		if err := b.fill(ctx, k.env, s.name, s.path); err != nil {
			return err
		}
	}
	for i := range manyStarts {
		if i%10 == 0 {
			progress("start: %d of %d", i, manyStarts)
		}
		for j := range kinds {
			k := &kinds[j]
			p, err := b.startPredict(ctx, k.env)
			if err != nil {
				return err
			}
			k.ready = append(k.ready, p.ready)
			if err := p.stop(); err != nil {
				return err
			}
		}
	}
	b.report.section("From the start of the process to ready")
	var rows [][]string
	for _, k := range kinds {
		within := 0
		for _, d := range k.ready {
			if d <= startsWithin {
				within++
			}
		}
		rows = append(rows, []string{
			k.name, millis(quantile(k.ready, 0)), millis(median(k.ready)), millis(quantile(k.ready, 0.95)),
			fmt.Sprintf("%d of %d", within, len(k.ready)),
		})
	}
	b.report.table([]string{"bucket", "least", "median", "p95", "within " + startsWithin.String()}, rows)
	return b.firstAnswers(ctx, kinds[1].env, &s)
}

// firstAnswers measures the way from nothing to the first answer of a small model.
func (b *bench) firstAnswers(ctx context.Context, env []string, s *sample) error {
	var request, total []time.Duration
	var want string
	r := s.request()
	for range manyFirsts {
		p, err := b.startPredict(ctx, env)
		if err != nil {
			return err
		}
		begin := time.Now()
		body, err := p.answer(ctx, r)
		request, total = append(request, time.Since(begin)), append(total, time.Since(p.begun))
		if want == "" {
			want = string(body)
		}
		if err == nil && string(body) != want {
			err = errors.New("an answer differs")
		}
		if err := errors.Join(err, p.stop()); err != nil {
			return err
		}
	}
	b.report.add("The first answer of flights (178 KB) from a file:// bucket, with nothing in the disk cache, asked for as soon as the process is ready:\n\n")
	b.report.table([]string{"", "least", "median", "p95"}, [][]string{
		{"from the request", millis(quantile(request, 0)), millis(median(request)), millis(quantile(request, 0.95))},
		{"from the start of the process", millis(quantile(total, 0)), millis(median(total)), millis(quantile(total, 0.95))},
	})
	return nil
}

// startPredict starts functions/predict with an empty disk cache, which ends with it.
func (b *bench) startPredict(ctx context.Context, env []string) (*process, error) {
	cache, err := os.MkdirTemp(b.dir, "cache-*")
	if err != nil {
		return nil, err
	}
	p, err := b.start(ctx, launch{args: []string{b.predict}, env: append([]string{"MODEL_CACHE_DIR=" + cache}, env...), core: anyCore, ready: "/readyz"})
	if err == nil {
		p.cache = cache
	}
	return p, err
}

// fill pushes a model into the bucket that env names.
func (b *bench) fill(ctx context.Context, env []string, name, path string) error {
	p, err := b.startPredict(ctx, env)
	if err != nil {
		return err
	}
	return errors.Join(p.publish(ctx, name, path), p.stop())
}

// stages reads how long the parts of a cold start took from the server's metrics.
func stages(metrics string) map[string]time.Duration {
	found := map[string]time.Duration{}
	for line := range strings.SplitSeq(metrics, "\n") {
		labels, ok := strings.CutPrefix(line, "pilotlight_cold_start_duration_seconds_sum{")
		if !ok {
			continue
		}
		_, stage, _ := strings.Cut(labels, `stage="`)
		stage, _, _ = strings.Cut(stage, `"`)
		_, value, _ := strings.Cut(labels, "} ")
		var seconds float64
		if _, err := fmt.Sscan(value, &seconds); err == nil {
			found[stage] = time.Duration(seconds * float64(time.Second))
		}
	}
	return found
}

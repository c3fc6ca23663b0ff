package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// How a move of an alias is measured.
const (
	moveCallers = 8
	moveBefore  = 300 * time.Millisecond // load before each move
	moveAfter   = 300 * time.Millisecond // and after its first answer
	moveMost    = 20 * time.Second
)

// watched is a server whose callers see which version answers them.
type watched struct {
	name   string
	server *process
	body   []byte
	client *http.Client
	wanted atomic.Int64 // the version that is awaited
	failed atomic.Int64
	all    atomic.Int64

	mu    sync.Mutex
	first time.Time // the first answer of the version that is awaited
	late  time.Time // the last answer of another one
	err   error     // of the first request that failed

	took, mixed []time.Duration
}

// ask asks until stop is closed.
func (w *watched) ask(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		version, err := w.once(ctx)
		now := time.Now()
		w.all.Add(1)
		if err != nil {
			w.failed.Add(1)
			w.mu.Lock()
			if w.err == nil {
				w.err = err
			}
			w.mu.Unlock()
			continue
		}
		w.mu.Lock()
		if version != fmt.Sprint(w.wanted.Load()) {
			w.late = now
		} else if w.first.IsZero() {
			w.first = now
		}
		w.mu.Unlock()
	}
}

func (w *watched) once(ctx context.Context) (version string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.server.addr+"/v2/models/flights/infer", bytes.NewReader(w.body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", errors.Join(err, fmt.Errorf("got %d %.300q", resp.StatusCode, b))
	}
	var got struct {
		Version string            `json:"model_version"`
		Outputs []json.RawMessage `json:"outputs"`
	}
	if err := json.Unmarshal(b, &got); err != nil || len(got.Outputs) == 0 {
		return "", errors.Join(err, fmt.Errorf("no answer: %.300q", b))
	}
	return got.Version, nil
}

// expect begins to wait for a version.
func (w *watched) expect(version int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted.Store(int64(version))
	w.first, w.late = time.Time{}, time.Time{}
}

// await waits for the first answer of the version.
func (w *watched) await(ctx context.Context, since time.Time) error {
	for {
		w.mu.Lock()
		there := !w.first.IsZero()
		w.mu.Unlock()
		switch {
		case there:
			return nil
		case time.Since(since) > moveMost:
			return fmt.Errorf("%s: no answer of version %d in %s", w.name, w.wanted.Load(), moveMost)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		time.Sleep(time.Millisecond)
	}
}

// release measures how long it takes from a move of an alias until callers are answered by a version that no process has in memory yet, and
// that no request fails meanwhile.
func (b *bench) release(ctx context.Context) (err error) {
	sample, err := samples["flights"](b.root, b.dir)
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	bucket := "BLOB_URL=file://" + filepath.Join(b.dir, "release")
	var all []*watched
	for _, of := range []struct{ name, port, sink, cache string }{
		{"the instance that moved it", "", "http://127.0.0.1:" + port + "/events", "a"},
		{"another one, which hears alias.moved", port, "", "b"},
		{"another one, which hears nothing", "", "", "c"},
	} {
		if of.port == "" {
			if of.port, err = freePort(); err != nil {
				return err
			}
		}
		p, err := b.startAt(ctx, of.port, launch{core: anyCore, args: []string{b.predict}, env: []string{bucket, "MODEL_CACHE_DIR=" + filepath.Join(b.dir, "release-"+of.cache), "LOG_LEVEL=ERROR", "K_SINK=" + of.sink}, ready: "/readyz"})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		all = append(all, &watched{name: of.name, server: p, body: sample.body, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: moveCallers}, Timeout: moveMost}})
	}
	file, err := os.ReadFile(sample.path)
	if err != nil {
		return err
	}
	mover := all[0].server
	for round := range b.rounds + 1 {
		// A file of its own for each version: metadata at its end, field 14 of an ONNX file, that no runtime reads.
		said := fmt.Sprint(round)
		entry := append([]byte{0x0a, 1, 'n', 0x12, byte(len(said))}, said...)
		path := filepath.Join(b.dir, "release.onnx")
		if err := os.WriteFile(path, append(append(bytes.Clone(file), 0x72, byte(len(entry))), entry...), 0o600); err != nil {
			return err
		}
		if err := mover.publish(ctx, "flights", path); err != nil {
			return err
		}
		if round == 0 { // the first is the champion
			continue
		}
		if err := b.move(ctx, mover, all, round+1); err != nil {
			return err
		}
		progress("moves: %d of %d", round, b.rounds)
	}
	b.report.section("From a move of an alias to callers")
	b.report.add("Three processes `functions/predict` on one bucket (a folder), each asked for flights by %d callers one after the other's answer, on all cores; each time a version that none has in memory becomes the champion. From before the move is asked for until the first answer of the new version arrives, and from then until the last one of the old version has: a request that the old one had already begun to answer, or one that did not wait for the new one to load. Medians of %d moves (least to most).\n\n", moveCallers, b.rounds)
	var rows [][]string
	var failures error
	for _, w := range all {
		rows = append(rows, []string{w.name, spreadOf(w.took), spreadOf(w.mixed), count(float64(w.all.Load())), count(float64(w.failed.Load()))})
		if w.failed.Load() > 0 {
			failures = errors.Join(failures, fmt.Errorf("%s: %d requests failed, the first one: %w", w.name, w.failed.Load(), w.err))
		}
	}
	b.report.table([]string{"", "first answer", "until the last old one", "requests", "failed"}, rows)
	b.report.add("\nWho hears nothing looks at the bucket every MODEL_REFRESH (2 s).\n")
	return failures
}

// move moves the alias under load.
func (b *bench) move(ctx context.Context, mover *process, all []*watched, version int) error {
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for _, w := range all {
		w.expect(version)
		for range moveCallers {
			callers.Go(func() { w.ask(ctx, stop) })
		}
	}
	defer callers.Wait()
	defer close(stop)
	time.Sleep(moveBefore)
	begun := time.Now()
	if _, err := call(ctx, http.DefaultClient, http.MethodPut, "http://"+mover.addr+"/admin/v1/models/flights/aliases/champion", bytes.NewReader(fmt.Appendf(nil, `{"version":%d}`, version)), http.StatusOK); err != nil {
		return err
	}
	for _, w := range all {
		if err := w.await(ctx, begun); err != nil {
			return err
		}
	}
	time.Sleep(moveAfter)
	for _, w := range all {
		w.mu.Lock()
		w.took = append(w.took, w.first.Sub(begun))
		w.mixed = append(w.mixed, max(0, w.late.Sub(w.first)))
		w.mu.Unlock()
	}
	return nil
}

func spreadOf(all []time.Duration) string {
	return fmt.Sprintf("%s (%s to %s)", millis(median(all)), millis(quantile(all, 0)), millis(quantile(all, 1)))
}

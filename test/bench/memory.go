package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// memory measures what a warm session takes: the growth of a server's resident
// memory over several sessions of the same size, each of a file of its own.
func (b *bench) memory(ctx context.Context) error {
	kinds := []struct {
		name string
		n    int
		make func() (sample, error)
	}{
		{"flights: trees", 50, func() (sample, error) { return samples["flights"](b.root, b.dir) }},
		{"100 trees of depth 8", 10, func() (sample, error) { return forest{"forest1", 100, 8}.sample(b.dir) }},
		{"300 trees of depth 10", 3, func() (sample, error) { return forest{"forest2", 300, 10}.sample(b.dir) }},
		{"weights: 4 of 256²", 50, func() (sample, error) { return dense{"dense1", 4, 256}.sample(b.dir) }},
		{"5 of 1024²", 8, func() (sample, error) { return dense{"dense2", 5, 1024}.sample(b.dir) }},
		{"12 of 2048²", 2, func() (sample, error) { return large.sample(b.dir) }},
	}
	var rows [][]string
	for _, k := range kinds {
		progress("memory: %s", k.name)
		s, err := k.make()
		if err != nil {
			return err
		}
		m, err := b.sessionMemory(ctx, s, k.n)
		if err != nil {
			return err
		}
		each := (m.after - m.before) / int64(k.n)
		rows = append(rows, []string{
			k.name, fmt.Sprint(k.n), megabytes(m.size), megabytes(each), times(each, m.size),
			times(m.peak-m.before-each*int64(k.n-1), m.size),
		})
	}
	b.report.section("Memory of a warm session")
	b.report.table([]string{"model", "sessions", "file", "each takes", "× file", "at most while the last loads, × file"}, rows)
	return nil
}

func times(n, unit int64) string { return fmt.Sprintf("%.2f", float64(n)/float64(unit)) }

type sessionMemory struct{ size, before, after, peak int64 }

func (b *bench) sessionMemory(ctx context.Context, s sample, n int) (m sessionMemory, err error) {
	bucket := filepath.Join(b.dir, "memory-"+s.name)
	defer os.RemoveAll(bucket)
	env := []string{"BLOB_URL=file://" + bucket}
	file, err := os.ReadFile(s.path)
	if err != nil {
		return m, err
	}
	m.size = int64(len(file))
	pusher, err := b.startPredict(ctx, env)
	if err != nil {
		return m, err
	}
	for i := range n + 1 {
		// Another doc string, a field at the end of the file, makes another artifact.
		path := filepath.Join(b.dir, "other.onnx")
		err := os.WriteFile(path, append(file[:m.size:m.size], fmt.Sprintf("\x32\x04%04d", i)...), 0o644)
		if err == nil {
			err = pusher.publish(ctx, fmt.Sprint(s.name, i), path)
		}
		if err != nil {
			return m, errors.Join(err, pusher.stop())
		}
	}
	file = nil
	if err := pusher.stop(); err != nil {
		return m, err
	}

	p, err := b.startPredict(ctx, env)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	ask := func(i int) error {
		named := s
		named.name = fmt.Sprint(s.name, i)
		_, err := p.answer(ctx, named.request())
		return err
	}
	// The first brings what all of them share.
	if err := ask(n); err != nil {
		return m, err
	}
	settle := func() (int64, error) {
		time.Sleep(time.Second)
		return p.memory("VmRSS")
	}
	if m.before, err = settle(); err != nil {
		return m, err
	}
	for i := range n {
		if err := ask(i); err != nil {
			return m, err
		}
	}
	if m.after, err = settle(); err != nil {
		return m, err
	}
	m.peak, err = p.memory("VmHWM")
	return m, err
}

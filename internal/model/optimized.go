package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// optimized is a file that a runtime made of an artifact, for sessions to be there
// sooner. It is an artifact itself, named by its digest. The zero value says that
// it was tried, and did not pay.
type optimized struct {
	digest Digest
	size   int64
}

// attempt is of which artifact, for which kind of runtime and CPU.
type attempt struct {
	of   Digest
	kind string
}

// What was tried stands in the bucket, a key for each artifact and kind of runtime
// and CPU:
//
//	models/<name>/optimized/<hex of the artifact>@<kind>@<hex of the optimized>-<its size>
//	models/<name>/optimized/<hex of the artifact>@<kind>@none
//
// All that a load needs is in the key, and the catalog lists the keys of a model
// anyway. The object holds what was measured, for people.
func optimizedPrefix(name string) string { return "models/" + name + "/optimized/" }

func (o optimized) key(name string, a attempt) string {
	result := "none"
	if o.digest != "" {
		result = fmt.Sprintf("%s-%d", o.digest.Hex(), o.size)
	}
	return optimizedPrefix(name) + a.of.Hex() + "@" + a.kind + "@" + result
}

// parseOptimized reads what stands behind the prefix of a key.
func parseOptimized(rest string) (a attempt, o optimized, ok bool) {
	f := strings.Split(rest, "@")
	if len(f) != 3 {
		return a, o, false
	}
	a = attempt{Digest(digestPrefix + f[0]), f[1]}
	if f[2] == "none" {
		return a, o, a.of.valid()
	}
	hex, size, _ := strings.Cut(f[2], "-")
	n, err := strconv.ParseInt(size, 10, 64)
	o = optimized{Digest(digestPrefix + hex), n}
	return a, o, err == nil && n > 0 && a.of.valid() && o.digest.valid()
}

// optimizer makes such files, one at a time and while no caller waits for a load.
type optimizer struct {
	warm    *Warm
	catalog *Catalog
	format  engine.Format // that of tool
	tool    engine.Optimizer
	from    time.Duration // optimizeFrom
	queue   chan *Manifest
}

func newOptimizer(w *Warm, c *Catalog, formats []engine.Format) *optimizer {
	for _, f := range formats {
		if tool, ok := f.(engine.Optimizer); ok {
			return &optimizer{warm: w, catalog: c, format: f, tool: tool, from: optimizeFrom, queue: make(chan *Manifest, optimizeQueue)}
		}
	}
	return nil
}

const (
	// optimizeFrom is how long making a session has to take for a better one to be
	// worth looking for: below it nobody would feel the difference.
	optimizeFrom = 4 * time.Millisecond
	// optimizeTo is what part of the time the better one may take.
	optimizeTo = 0.8
	// optimizeRounds is how often both are tried.
	optimizeRounds = 3
	optimizeQueue  = 16 // what comes beyond it is thought of again at its next load
)

// offer thinks of a version whose session took so long to make.
func (o *optimizer) offer(m *Manifest, took time.Duration) {
	if o == nil || m.Runtime != o.format.Name() || took < o.from {
		return
	}
	select {
	case o.queue <- m:
	default:
	}
}

func (o *optimizer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-o.queue:
			if _, tried := o.catalog.optimized(m, o.tool.Kind); tried {
				continue
			}
			if err := o.try(ctx, m); err != nil && ctx.Err() == nil {
				o.warm.log.WarnContext(ctx, "model not optimized", "model", m.Name, "version", m.Version, "error", err)
			}
		}
	}
}

// optimizeResult is what stands in the object.
type optimizeResult struct {
	Original  Duration  `json:"original"`  // the least that a session took to be made
	Optimized Duration  `json:"optimized"` // the same
	Equal     bool      `json:"equal"`     // both answered the sample alike
	Reason    string    `json:"reason,omitempty"`
	At        time.Time `json:"at"`
}

// try makes the optimized file of a version, compares, and writes down the result.
func (o *optimizer) try(ctx context.Context, m *Manifest) error {
	kind, err := o.tool.Kind()
	if err != nil {
		return err
	}
	release, ok, err := o.warm.spare(ctx, m)
	if err != nil || !ok {
		return err // without room it is thought of again at the next load
	}
	defer release()
	artifact, done, err := o.warm.artifacts.Open(ctx, m.Digest, m.Size)
	if err != nil {
		return err
	}
	defer done()
	dir, err := os.MkdirTemp(o.warm.artifacts.tmp(), "optimize-*")
	if err != nil {
		return diskError(err)
	}
	defer os.RemoveAll(dir)

	r := optimizeResult{At: o.catalog.now().UTC()}
	path := filepath.Join(dir, "model")
	better, err := o.compare(ctx, m, artifact, path, &r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case fault.Is(err, fault.Invalid):
		r.Reason = fault.Message(err) // and so it is for everybody
	case err != nil:
		return err
	}
	var result optimized
	if better {
		file, err := os.Open(path)
		if err != nil {
			return diskError(err)
		}
		defer file.Close()
		u, err := o.warm.artifacts.Receive(file)
		if err != nil {
			return err
		}
		defer u.Close()
		if err := o.warm.artifacts.keep(ctx, u); err != nil {
			return err
		}
		result = optimized{u.Digest, u.Size}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if _, err := o.catalog.blob.Put(ctx, result.key(m.Name, attempt{m.Digest, kind}), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	o.catalog.forget(m.Name)
	o.warm.log.InfoContext(ctx, "model optimized", "model", m.Name, "version", m.Version, "better", better,
		"original", time.Duration(r.Original), "optimized", time.Duration(r.Optimized), "equal", r.Equal, "error", err)
	return nil
}

// compare writes the optimized file and tells whether it is to be used.
func (o *optimizer) compare(ctx context.Context, m *Manifest, artifact []byte, path string, r *optimizeResult) (bool, error) {
	options := engine.Options{Signature: &m.Signature, Threads: m.Threads}
	if err := o.tool.Optimize(ctx, artifact, path, options); err != nil {
		return false, err
	}
	made, err := mapFile(path)
	if err != nil {
		return false, diskError(err)
	}
	defer unmap(made)
	inputs, err := m.sample()
	if err != nil {
		return false, err
	}
	files := [2][]byte{artifact, made}
	var least [2]time.Duration
	for range optimizeRounds {
		var answers [2][]tensor.Tensor
		for i, file := range files {
			options.Optimized = i == 1
			begin := time.Now()
			session, err := o.format.Open(ctx, file, options)
			if err != nil {
				return false, err
			}
			if took := time.Since(begin); least[i] == 0 || took < least[i] {
				least[i] = took
			}
			answers[i], err = session.Run(ctx, inputs)
			if err := errors.Join(err, session.Close()); err != nil {
				return false, err
			}
		}
		r.Original, r.Optimized, r.Equal = Duration(least[0]), Duration(least[1]), slices.EqualFunc(answers[0], answers[1], alike)
		if !r.Equal {
			return false, nil
		}
	}
	return float64(least[1]) <= optimizeTo*float64(least[0]), nil
}

// alike tells whether two tensors are the same to the bit.
func alike(x, y tensor.Tensor) bool {
	return x.Name == y.Name && x.Type == y.Type && slices.Equal(x.Shape, y.Shape) && bytes.Equal(x.Data, y.Data) && slices.Equal(x.Strings, y.Strings)
}

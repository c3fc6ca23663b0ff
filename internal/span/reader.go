package span

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// KeepConfig says how long traces are kept.
type KeepConfig struct {
	Keep time.Duration `env:"TRACES_KEEP" default:"168h" help:"How long traces are kept in the bucket."`
}

// Validate refuses what can't work.
func (c *KeepConfig) Validate() error {
	if c.Keep <= 0 {
		return fault.New(fault.Invalid, "TRACES_KEEP must be positive")
	}
	return nil
}

const (
	sideBySide = 8        // objects that are read at once
	unpackMost = 64 << 20 // bytes of an object's lines
	knownMost  = 30_000   // heads that are remembered: some megabytes
	nearby     = time.Hour
)

// Reader finds traces in a bucket.
type Reader struct {
	blob   store.Blob
	log    *slog.Logger
	now    func() time.Time
	unpack *zstd.Decoder

	mu    sync.Mutex
	known map[string][]head // by key; objects never change
	size  int               // heads in known
}

// NewReader makes a reader.
func NewReader(blob store.Blob, log *slog.Logger) (*Reader, error) {
	unpack, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(sideBySide), zstd.WithDecoderMaxMemory(unpackMost), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	return &Reader{blob: blob, log: log, now: time.Now, unpack: unpack, known: map[string][]head{}}, nil
}

// lines gives the lines of an object; none, if it is damaged or gone, as what one object costs must not cost the others.
func (r *Reader) lines(ctx context.Context, key string) ([]byte, error) {
	data, _, err := store.ReadAll(ctx, r.blob, key)
	if fault.Is(err, fault.NotFound) { // it was joined to others, or swept
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read traces %q: %w", key, err)
	}
	lines, err := r.unpack.DecodeAll(data, nil)
	if err != nil {
		r.log.WarnContext(ctx, "traces are damaged", "key", key, "error", err)
		return nil, nil
	}
	return lines, nil
}

// keys lists objects under a prefix, the newest last, of which a part is in a span of time.
func (r *Reader) keys(ctx context.Context, prefix string, from, until int64) (keys []string, err error) {
	for o, err := range r.blob.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list traces: %w", err)
		}
		if a, b, ok := spanOf(o.Key); ok && a <= until && b >= from {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// Trace gives the spans of a trace in the order of their starts. If it is known about when one of them was, only those within an hour of
// that are looked for; a zero time means all that there are. None is NotFound.
func (r *Reader) Trace(ctx context.Context, id string, at time.Time) ([]Span, error) {
	if !isTrace(id) {
		return nil, fault.New(fault.Invalid, "%.100q is not the id of a trace: 32 hexadecimal digits in lower case", id)
	}
	var keys []string
	if at.IsZero() {
		var err error
		if keys, err = r.keys(ctx, Prefix, 0, 1<<62); err != nil {
			return nil, err
		}
	} else {
		from, until := at.Add(-nearby), at.Add(nearby)
		for day := from.UTC().Truncate(24 * time.Hour); !day.After(until.Add(24 * time.Hour)); day = day.Add(24 * time.Hour) { // named by when they ended
			some, err := r.keys(ctx, Prefix+day.Format(time.DateOnly)+"/", from.UnixMicro(), until.UnixMicro())
			if err != nil {
				return nil, err
			}
			keys = append(keys, some...)
		}
	}
	var mu sync.Mutex
	var all []Span
	var group errgroup.Group
	group.SetLimit(sideBySide)
	for _, key := range keys {
		group.Go(func() error {
			lines, err := r.lines(ctx, key)
			if err != nil {
				return err
			}
			if spans := spansOf(lines, id); len(spans) > 0 {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, spans...)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fault.New(fault.NotFound, "there is no trace %s: it was not kept, is not written yet, or is gone", id)
	}
	return sorted(all), nil
}

// heads gives those of an object, from memory if it was read before.
func (r *Reader) heads(ctx context.Context, key string) ([]head, error) {
	r.mu.Lock()
	all, ok := r.known[key]
	r.mu.Unlock()
	if ok {
		return all, nil
	}
	lines, err := r.lines(ctx, key)
	if err != nil {
		return nil, err
	}
	all = heads(lines)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size += len(all) + 1; r.size > knownMost {
		clear(r.known)
		r.size = len(all) + 1
	}
	r.known[key] = all
	return all, nil
}

const (
	joinAfter = 5 * time.Minute // an hour's objects are joined so long after its end
	joinMost  = 512 << 10       // bytes in the bucket, from which on an object is large enough: some megabytes of lines
	joinHours = 3               // that are looked back
)

// Join makes one object of those of each of the last hours, so that those who look need not open many. A crash in between
// leaves spans twice, which Trace tells once.
func (r *Reader) Join(ctx context.Context) (joined int, err error) {
	end := r.now().Add(-joinAfter).UTC().Truncate(time.Hour)
	for range joinHours {
		begin := end.Add(-time.Hour)
		n, err := r.join(ctx, begin.UnixMicro(), end.UnixMicro())
		if joined += n; err != nil {
			return joined, err
		}
		end = begin
	}
	return joined, nil
}

// join joins what ended in a span of time within a day.
func (r *Reader) join(ctx context.Context, begin, end int64) (joined int, err error) {
	var keys []string
	size := int64(0)
	flush := func() error {
		defer func() { keys, size = nil, 0 }()
		if len(keys) < 2 {
			return nil
		}
		n, err := r.merge(ctx, keys)
		joined += n
		return err
	}
	for o, err := range r.blob.List(ctx, Prefix+dayOf(begin)+"/", "") {
		if err != nil {
			return joined, fmt.Errorf("list traces: %w", err)
		}
		_, until, ok := spanOf(o.Key)
		if !ok || until < begin || until >= end || o.Size > joinMost { // that was joined, or need not be
			continue
		}
		keys, size = append(keys, o.Key), size+o.Size
		if size > joinMost {
			if err := flush(); err != nil {
				return joined, err
			}
		}
	}
	return joined, flush()
}

// merge makes one object of several, and deletes those.
func (r *Reader) merge(ctx context.Context, keys []string) (int, error) {
	var parts []part
	var merged []string
	for _, key := range keys {
		lines, err := r.lines(ctx, key)
		if err != nil {
			return 0, err
		}
		from, until, _ := spanOf(key)
		if n := len(lines); n == 0 || lines[n-1] != '\n' || bytes.Count(lines, []byte{'\n'})%2 != 0 {
			continue // it is gone or damaged, and would put the others out of step
		}
		merged = append(merged, key)
		parts = append(parts, part{line: lines, from: from, until: until})
	}
	if len(parts) < 2 {
		return 0, nil
	}
	key, data, err := object(parts)
	if err != nil {
		return 0, err
	}
	if err := keep(ctx, r.blob, key, data); err != nil {
		return 0, fmt.Errorf("join traces: %w", err)
	}
	for _, old := range merged {
		if old == key {
			continue
		}
		if err := r.blob.Delete(ctx, old); err != nil {
			return 0, fmt.Errorf("delete traces that were joined: %w", err)
		}
	}
	return len(merged), nil
}

// Sweep deletes what ended before a moment, and tells how many objects that were.
func (r *Reader) Sweep(ctx context.Context, before time.Time) (deleted int, err error) {
	end := before.UnixMicro()
	for o, err := range r.blob.List(ctx, Prefix, "") {
		if err != nil {
			return deleted, fmt.Errorf("list traces: %w", err)
		}
		_, until, ok := spanOf(o.Key)
		if !ok {
			continue
		}
		if until >= end {
			break // keys are in the order of time
		}
		if err := r.blob.Delete(ctx, o.Key); err != nil {
			return deleted, fmt.Errorf("delete %q: %w", o.Key, err)
		}
		deleted++
	}
	return deleted, nil
}

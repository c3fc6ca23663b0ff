// Package span keeps traces in the bucket, and finds them there again.
//
// Log takes the spans that a process keeps (telemetry decides which) and writes them behind everything else, in objects
// of what came within some seconds. Reader finds the spans of a trace, lists traces, joins small objects and
// deletes old ones; it serves GET /admin/v1/traces. All of it is safe for concurrent use.
//
// A log of what happened is no promise: what the memory for it can't hold while the bucket is slow or away is
// dropped and counted, and a killed process loses what was not yet written.
package span

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config bounds what a process writes.
type Config struct {
	On     string        `env:"TRACES" default:"auto" help:"Whether traces that are kept are written to the bucket, too, where the console finds them: on, off, or auto: unless the bucket is memory."`
	Memory env.Size      `env:"TRACES_MEMORY" default:"8MiB" help:"What spans may take while they wait to be written to the bucket; beyond it they are dropped, and counted."`
	Every  time.Duration `env:"TRACES_EVERY" default:"10s" help:"How long spans wait for others, so that they make one object in the bucket."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.On != "auto" && c.On != "on" && c.On != "off":
		return fault.New(fault.Invalid, "TRACES is %.20q, expected on, off or auto", c.On)
	case c.Memory < memoryLeast:
		return fault.New(fault.Invalid, "TRACES_MEMORY must be at least %dKiB", memoryLeast>>10)
	case c.Every <= 0:
		return fault.New(fault.Invalid, "TRACES_EVERY must be positive")
	}
	return nil
}

const (
	memoryLeast = 64 << 10
	objectMost  = 1 << 20          // bytes of lines, from which on they wait for no others
	closeMost   = 10 * time.Second // the end of a process may wait for a bucket
)

// Log writes the spans of a process to a bucket.
type Log struct {
	blob    store.Blob
	log     *slog.Logger
	most    int
	every   time.Duration
	service string

	mu    sync.Mutex
	parts []part
	bytes int

	due    chan struct{}
	quit   chan struct{}
	done   sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
	detach func()

	written, dropped, retries atomic.Int64 // spans, spans, attempts
}

// part is a line of an object that waits to be written.
type part struct {
	line        []byte
	from, until int64
	spans       int
}

// Open has a process write the traces that it keeps, if the config says so, until it ends; the bucket must be closed after that.
func Open(p *serve.Process, c *Config, blob store.Blob) error {
	l, err := New(c, blob, p.Tel)
	if l != nil {
		p.Defer(l.Close)
	}
	return err
}

// New starts a log; nil: the config says that there is none.
func New(c *Config, blob store.Blob, tel *telemetry.Telemetry) (*Log, error) {
	if volatile, ok := blob.(store.Volatile); c.On == "off" || c.On == "auto" && ok && volatile.Volatile() {
		return nil, nil //nolint:nilnil // nothing is written then
	}
	l := &Log{blob: blob, log: tel.Log, most: int(c.Memory), every: c.Every, service: tel.Service(), due: make(chan struct{}, 1), quit: make(chan struct{})}
	if err := l.measure(tel); err != nil {
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.detach = tel.TakeSpans(l.take)
	l.done.Go(l.run)
	return l, nil
}

func (l *Log) measure(tel *telemetry.Telemetry) error {
	spans, err1 := tel.Meter.Int64ObservableCounter("pilotlight.traces.spans",
		metric.WithDescription("Spans by what became of them in the bucket: written or dropped."))
	retries, err2 := tel.Meter.Int64ObservableCounter("pilotlight.traces.retries",
		metric.WithDescription("Attempts to write spans to the bucket that failed and were repeated."))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	written, dropped := metric.WithAttributes(attribute.String("result", "written")), metric.WithAttributes(attribute.String("result", "dropped"))
	_, err := tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(spans, l.written.Load(), written)
		o.ObserveInt64(spans, l.dropped.Load(), dropped)
		o.ObserveInt64(retries, l.retries.Load())
		return nil
	}, spans, retries)
	return err
}

// Counts tells how many spans are in the bucket, and how many were dropped.
func (l *Log) Counts() (written, dropped int64) { return l.written.Load(), l.dropped.Load() }

// take keeps the spans of a part to be written.
func (l *Log) take(spans []telemetry.Span) {
	p := part{spans: len(spans)}
	p.line, p.from, p.until = encode(nil, l.service, spans)
	l.mu.Lock()
	full := l.bytes+len(p.line) > l.most
	if !full {
		l.parts = append(l.parts, p)
		l.bytes += len(p.line)
	}
	enough := l.bytes >= objectMost
	l.mu.Unlock()
	if full {
		l.dropped.Add(int64(len(spans)))
	}
	if full || enough {
		select {
		case l.due <- struct{}{}:
		default:
		}
	}
}

// run writes until the log closes.
func (l *Log) run() {
	ticker := time.NewTicker(l.every)
	defer ticker.Stop()
	for open := true; open; {
		select {
		case <-ticker.C:
		case <-l.due:
		case <-l.quit:
			open = false
		}
		for l.write() {
		}
	}
}

// write writes one object of what waits, and tells whether there is more.
func (l *Log) write() (more bool) {
	l.mu.Lock()
	n, size := 0, 0
	for n < len(l.parts) && size < objectMost {
		size += len(l.parts[n].line)
		n++
	}
	parts := l.parts[:n:n]
	l.mu.Unlock()
	if n == 0 {
		return false
	}
	spans := 0
	for i := range parts {
		spans += parts[i].spans
	}
	err := l.put(parts)
	l.mu.Lock()
	l.parts = append([]part(nil), l.parts[n:]...)
	l.bytes -= size
	more = len(l.parts) > 0
	l.mu.Unlock()
	if err != nil {
		l.dropped.Add(int64(spans))
		l.log.WarnContext(l.ctx, "spans dropped", "spans", spans, "error", err)
		return more
	}
	l.written.Add(int64(spans))
	return more
}

// put stores an object, however long the bucket is away, until the log closes.
func (l *Log) put(parts []part) error {
	key, data, err := object(parts)
	if err != nil {
		return err
	}
	return store.Persist(l.ctx, func(ctx context.Context) error { return keep(ctx, l.blob, key, data) }, func() { l.retries.Add(1) })
}

// Close writes what waits, which may take some seconds; nothing is taken any more.
func (l *Log) Close() error {
	l.detach()
	stop := time.AfterFunc(closeMost, l.cancel)
	defer stop.Stop()
	close(l.quit)
	l.done.Wait()
	l.cancel()
	return nil
}

package telemetry

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// handler adds the id of the trace that a record belongs to, and has records
// that matter written at once.
type handler struct {
	slog.Handler
	out *buffer
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()))
	}
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.out.flush()
	}
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.out}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.out}
}

const (
	flushAfter = 200 * time.Millisecond // how long a line may wait
	bufferMost = 64 << 10               // bytes that may wait
)

// buffer gathers lines, so that not every request pays for a write. Whoever
// fills it beyond bufferMost writes it, and waits for a write under way.
type buffer struct {
	writing sync.Mutex // held while writing to out, which keeps the order; locked before mu
	out     io.Writer
	spare   []byte // the other of the two buffers, under writing

	mu     sync.Mutex
	lines  []byte
	timer  *time.Timer // runs while lines wait
	closed bool
}

func newBuffer(out io.Writer) *buffer {
	b := &buffer{out: out}
	b.timer = time.AfterFunc(flushAfter, b.flush)
	b.timer.Stop()
	return b
}

// Write takes one line.
func (b *buffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	if len(b.lines) == 0 && !b.closed {
		b.timer.Reset(flushAfter)
	}
	b.lines = append(b.lines, line...)
	full := len(b.lines) > bufferMost || b.closed
	b.mu.Unlock()
	if full {
		b.flush()
	}
	return len(line), nil
}

// flush writes what waits. A log that can't be written has no one to tell.
func (b *buffer) flush() {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	lines := b.lines
	b.lines = b.spare[:0]
	b.timer.Stop()
	b.mu.Unlock()
	if len(lines) > 0 {
		_, _ = b.out.Write(lines)
	}
	b.spare = lines
}

// close writes what waits, and from then on each line at once.
func (b *buffer) close(context.Context) error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.flush()
	return nil
}

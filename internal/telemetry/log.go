package telemetry

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// handler adds the ids of the trace and of the span of our own that a record belongs to, and has records
// that matter written at once.
type handler struct {
	slog.Handler
	out *buffer
	own bool // it adds nothing to records but the trace, so that write may take them
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	var room [2]slog.Attr
	r.AddAttrs(traced(ctx, room[:0])...)
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		h.out.flush()
	}
	return err
}

// traced adds the name of the trace that ctx belongs to, and of the span in it unless that is the caller's.
func traced(ctx context.Context, attrs []slog.Attr) []slog.Attr {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.HasTraceID() {
		return attrs
	}
	attrs = append(attrs, slog.String("trace_id", sc.TraceID().String()))
	if sc.HasSpanID() && !sc.IsRemote() {
		attrs = append(attrs, slog.String("span_id", sc.SpanID().String()))
	}
	return attrs
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{Handler: h.Handler.WithAttrs(attrs), out: h.out}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{Handler: h.Handler.WithGroup(name), out: h.out}
}

// write writes what Handle does of a record of a trace with these attributes, in a third of
// the time; false: it doesn't know how, and wrote nothing.
func (h *handler) write(of trace.SpanContext, at time.Time, level slog.Level, msg string, attrs []slog.Attr) bool {
	if !h.own {
		return false
	}
	var room [1 << 10]byte
	b := append(room[:0], `{"time":"`...)
	b = at.AppendFormat(b, time.RFC3339Nano)
	b = append(append(b, `","level":"`...), level.String()...)
	b, ok := appendAttrs(append(b, '"'), slog.String(slog.MessageKey, msg))
	if ok {
		b, ok = appendAttrs(b, attrs...)
	}
	if !ok {
		return false
	}
	if id, span := of.TraceID(), of.SpanID(); id.IsValid() {
		b = append(hex.AppendEncode(append(b, `,"trace_id":"`...), id[:]), '"')
		if span.IsValid() && !of.IsRemote() {
			b = append(hex.AppendEncode(append(b, `,"span_id":"`...), span[:]), '"')
		}
	}
	_, _ = h.out.Write(append(b, '}', '\n'))
	if level >= slog.LevelWarn {
		h.out.flush()
	}
	return true
}

// appendAttrs adds attributes as slog.JSONHandler writes them, each after a comma;
// false: one is of a kind, or in letters, that are left to it.
func appendAttrs(b []byte, attrs ...slog.Attr) ([]byte, bool) {
	for _, a := range attrs {
		b = append(append(append(b, ',', '"'), a.Key...), '"', ':')
		switch a.Value.Kind() {
		case slog.KindString:
			s := a.Value.String()
			for i := range len(s) {
				if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
					return b, false
				}
			}
			b = append(append(append(b, '"'), s...), '"')
		case slog.KindInt64:
			b = strconv.AppendInt(b, a.Value.Int64(), 10)
		case slog.KindFloat64:
			f := a.Value.Float64()
			if !(f == 0 || f >= 1e-6 && f < 1e21) { // where encoding/json has an exponent
				return b, false
			}
			b = strconv.AppendFloat(b, f, 'f', -1, 64)
		case slog.KindBool:
			b = strconv.AppendBool(b, a.Value.Bool())
		case slog.KindGroup:
			from, ok := len(b), false
			if b, ok = appendAttrs(b, a.Value.Group()...); !ok || len(b) == from {
				return b, false
			}
			b[from] = '{' // for the comma
			b = append(b, '}')
		default:
			return b, false
		}
	}
	return b, true
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
	b.mu.Lock() // which flush waits for, where this takes longer than flushAfter
	defer b.mu.Unlock()
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

package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Line is the one log line of a request or an event, filled along the way by
// whoever learns something worth telling, and written once at the end. All
// methods do nothing on a nil line.
type Line struct {
	mu      sync.Mutex
	attrs   []slog.Attr
	timings []slog.Attr
	err     error
	array   [10]slog.Attr // room for both, so that few lines need more
}

type lineKey struct{}

// lineContext is a line and the context that carries it, in one allocation.
type lineContext struct {
	context.Context
	line Line
}

func (c *lineContext) Value(key any) any {
	if key == (lineKey{}) {
		return &c.line
	}
	return c.Context.Value(key)
}

// WithLine gives a context that carries a new line.
func WithLine(ctx context.Context) (context.Context, *Line) {
	c := &lineContext{Context: ctx}
	l := &c.line
	l.attrs, l.timings = l.array[:0:6], l.array[6:6]
	return c, l
}

// LineFrom gives the line that ctx carries, or nil.
func LineFrom(ctx context.Context) *Line {
	l, _ := ctx.Value(lineKey{}).(*Line)
	return l
}

// Set notes attributes; one of a name that is there already takes its place.
func (l *Line) Set(attrs ...slog.Attr) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range attrs {
		l.attrs = set(l.attrs, a)
	}
}

func set(attrs []slog.Attr, a slog.Attr) []slog.Attr {
	if i := slices.IndexFunc(attrs, func(b slog.Attr) bool { return a.Key == b.Key }); i >= 0 {
		attrs[i] = a
		return attrs
	}
	return append(attrs, a)
}

// SetID notes the id that the caller gave what it asked for.
func (l *Line) SetID(id string) { l.Set(slog.String("id", id)) }

// SetModel notes which model was asked for, and later which version answered.
func (l *Line) SetModel(name, version string) {
	l.Set(slog.String("model", name), slog.String("version", version))
}

// Timing notes how long a step took; the last of a name counts.
func (l *Line) Timing(step string, d time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timings = set(l.timings, slog.Int64(step, d.Microseconds()))
}

// Fail notes the error that the request or event ended with; the first counts.
func (l *Line) Fail(err error) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// Err gives the noted error.
func (l *Line) Err() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Log writes the line: first attrs, then what was noted, the timings in
// microseconds under "us", and the whole chain of the error. It bears the time at.
func (l *Line) Log(ctx context.Context, log *slog.Logger, at time.Time, level slog.Level, msg string, attrs ...slog.Attr) {
	if l == nil || !log.Enabled(ctx, level) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var room [20]slog.Attr
	all := append(append(room[:0], attrs...), l.attrs...)
	if len(l.timings) > 0 {
		all = append(all, slog.Attr{Key: "us", Value: slog.GroupValue(l.timings...)})
	}
	if l.err != nil {
		all = append(all, slog.String("error", l.err.Error()))
	}
	if h, ok := log.Handler().(*handler); ok && h.write(ctx, at, level, msg, all) {
		return
	}
	// Straight to the handler: a logger would look up the line of code, which
	// is always this one.
	r := slog.NewRecord(at, level, msg, 0)
	r.AddAttrs(all...)               // at once, as each call of it may allocate
	_ = log.Handler().Handle(ctx, r) // a log that can't be written has no one to tell
}

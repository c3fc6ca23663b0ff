package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
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

	part  part // of the trace that the request or event belongs to
	pace  *Pace
	timed measurement
}

// measurement is one that waits until it is known whether its trace is kept, which then is its example.
type measurement struct {
	of      metric.Float64Histogram
	value   float64
	options []metric.RecordOption
}

func (m *measurement) record(ctx context.Context) {
	if m.of != nil {
		m.of.Record(ctx, m.value, m.options...)
	}
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

// WithLine gives a context that carries a new line, of no trace.
func WithLine(ctx context.Context) (context.Context, *Line) {
	c := &lineContext{Context: ctx}
	l := &c.line
	l.attrs, l.timings = l.array[:0:6], l.array[6:6]
	return c, l
}

// Begin gives a context that carries a new line and a span that began then, which stands for this process's part in a trace: that
// of the caller if it says one, else a new one with the id. Line.End ends it.
func (t *Telemetry) Begin(ctx context.Context, from trace.SpanContext, id trace.TraceID, begin time.Time) (context.Context, *Line) {
	return t.recorder.line(ctx, from, id, begin)
}

func (r *recorder) line(ctx context.Context, from trace.SpanContext, id trace.TraceID, begin time.Time) (context.Context, *Line) {
	c := &lineContext{}
	l := &c.line
	l.attrs, l.timings = l.array[:0:6], l.array[6:6]
	r.begin(&l.part, from, id, begin)
	c.Context = trace.ContextWithSpan(ctx, &l.part)
	return c, l
}

// Message gives a context that carries a line and a span of its own for one of many messages that come by one request; the
// context is the request's. EndMessage ends it.
func (l *Line) Message(ctx context.Context, begin time.Time) (context.Context, *Line) {
	if l == nil || l.part.recorder == nil {
		return WithLine(ctx)
	}
	return l.part.recorder.line(ctx, l.part.SpanContext(), NewTrace(), begin)
}

// EndMessage ends the line of a message and tells this one, its request's, what that has noted.
func (l *Line) EndMessage(ctx context.Context, m *Line, o *Outcome) {
	m.End(ctx, o)
	if l == nil {
		return
	}
	l.Set(m.attrs...)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range m.timings {
		l.timings = set(l.timings, t)
	}
}

// Outcome is how a request or event ended.
type Outcome struct {
	At         time.Time
	Name       string // of its span: one of few
	Kind       trace.SpanKind
	Attributes []attribute.KeyValue        // beside what the line has noted
	More       func() []attribute.KeyValue // others, which are asked for only if it is kept; may be nil
	Failed     string                      // one sentence, if it was not the caller's fault; empty: it did not fail
	Pace       *Pace                       // of others like it, unless the line was told another one
}

// End ends the part in the trace, which is kept if it was sampled, failed, or was slow; ctx is one that carries the line.
func (l *Line) End(ctx context.Context, o *Outcome) {
	if l == nil {
		return
	}
	if p := &l.part; p.recorder != nil && p.recorder.on() {
		pace := l.pace
		if pace == nil {
			pace = o.Pace
		}
		slow := pace != nil && pace.Slow(time.Duration(o.At.UnixNano()-p.begin))
		why := unkept
		switch {
		case p.sampled.Load():
			why = bySample
		case o.Failed != "":
			why = byError
		case slow:
			why = bySlowness
		}
		if why == unkept && p.failed() {
			why = byError
		}
		p.end(o.At, why, func(root *Span) { l.describe(root, o) })
	}
	l.timed.record(ctx)
}

// describe makes the span of a line.
func (l *Line) describe(root *Span, o *Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	root.Name, root.Kind = o.Name, trace.ValidateSpanKind(o.Kind)
	if o.Failed != "" {
		root.Error = clip(o.Failed)
	}
	root.Attributes = append(slices.Clone(o.Attributes), root.Attributes...)
	if o.More != nil {
		root.Attributes = append(root.Attributes, o.More()...)
	}
	for _, a := range l.attrs {
		root.Attributes = append(root.Attributes, attributeOf(a))
	}
}

// Trace gives the id of the trace that the line belongs to; zero: it belongs to none.
func (l *Line) Trace() trace.TraceID {
	if l == nil {
		return trace.TraceID{}
	}
	return l.part.trace
}

// Sampled tells whether the trace is kept whatever becomes of the request.
func (l *Line) Sampled() bool { return l != nil && l.part.sampled.Load() }

// SpanContext is how others know the span of the line.
func (l *Line) SpanContext() trace.SpanContext {
	if l == nil || l.part.recorder == nil {
		return trace.SpanContext{}
	}
	return l.part.SpanContext()
}

// StepContext is how others know the span of a step of the line, which may be still to come.
func (l *Line) StepContext(s Step) trace.SpanContext {
	if l == nil || l.part.recorder == nil {
		return trace.SpanContext{}
	}
	return l.part.context(s.of(l.part.id))
}

// Step notes when a step began and how long it took; the last counts. It is for the goroutine that ends the line.
func (l *Line) Step(s Step, begin time.Time, took time.Duration) {
	if l == nil || l.part.recorder == nil {
		return
	}
	l.part.steps[s] = interval{begin.UnixNano() - l.part.begin, int64(took)}
}

// SetPace says by what others it is told whether this was slow: by those that p has seen. It is for the goroutine that ends the line.
func (l *Line) SetPace(p *Pace) {
	if l != nil {
		l.pace = p
	}
}

// Measure records a measurement once the line ends, when it is known whether its trace is kept and may be given
// as an example. Only the last can wait for that: those before it are recorded without, and so is one that has no line. It is for the
// goroutine that ends the line.
func (l *Line) Measure(ctx context.Context, h metric.Float64Histogram, value float64, options []metric.RecordOption) {
	if l == nil || l.part.recorder == nil {
		h.Record(ctx, value, options...)
		return
	}
	l.timed.record(ctx)
	l.timed = measurement{h, value, options}
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
	of := l.SpanContext()
	if !of.IsValid() {
		of = trace.SpanContextFromContext(ctx)
	}
	if h, ok := log.Handler().(*handler); ok && h.write(of, at, level, msg, all) {
		return
	}
	// Straight to the handler: a logger would look up the line of code, which
	// is always this one.
	r := slog.NewRecord(at, level, msg, 0)
	r.AddAttrs(all...)               // at once, as each call of it may allocate
	_ = log.Handler().Handle(ctx, r) // a log that can't be written has no one to tell
}

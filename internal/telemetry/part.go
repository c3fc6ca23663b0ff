package telemetry

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// Span is one span that is kept.
type Span struct {
	Trace      trace.TraceID
	ID, Parent trace.SpanID
	State      trace.TraceState
	Name       string
	Kind       trace.SpanKind
	Start, End time.Time
	Error      string // one sentence; empty: it did not fail
	Attributes []attribute.KeyValue
	Links      []trace.Link
}

// Step is a step on the way of a request whose time is noted in room that each line has, so that noting
// it costs next to nothing. It becomes a span if its trace is kept.
type Step uint8

// The steps, in the order of the way.
const (
	StepDecode   Step = iota // a body becomes typed values
	StepFeatures             // features are fetched and computed
	StepOnline               // of that: the online store is read
	StepCache                // a remembered answer is looked for
	StepQueue                // a session and a turn are waited for
	StepRun                  // the model runs
	StepEncode               // the answer becomes a body
	StepCall                 // a function is asked
	steps
)

var stepNames = [steps]string{"decode", "features", "online", "cache", "queue", "run", "encode", "call"}

// interval is when a step began, from the beginning of its part on, and how long it took; zero: it was not taken.
type interval struct{ begin, took int64 }

// part is what this process does for one trace in one go: a request, an event, or something that it does by itself. It is
// a span, below which others stand, and it decides at its end whether all of them are kept.
type part struct {
	embedded.Span
	recorder *recorder // nil: there is no part
	trace    trace.TraceID
	id       trace.SpanID
	parent   trace.SpanID
	state    trace.TraceState // never changes, once it has begun
	begin    int64            // ns since 1970
	sampled  atomic.Bool      // it is kept, whatever becomes of it
	steps    [steps]interval

	mu    sync.Mutex
	ended bool
	kept  bool
	more  *more
}

// more is what few parts have.
type more struct {
	name       string
	kind       trace.SpanKind
	failed     string
	attributes []attribute.KeyValue
	links      []trace.Link
	children   []Span
	lost       int // children beyond childrenMost
}

const (
	childrenMost = 200 // spans below a part
	linksMost    = 100 // links and attributes of a span
	textMost     = 1 << 10
)

func clip(s string) string { return s[:min(len(s), textMost)] }

// newID makes an id that is not zero.
func newID() (id trace.SpanID) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}

// of gives the id of a span that a step becomes: always the same one, so that it can be told before it is.
func (s Step) of(id trace.SpanID) (step trace.SpanID) {
	n := binary.BigEndian.Uint64(id[:]) ^ (uint64(s)+1)*0x9e3779b97f4a7c15
	binary.BigEndian.PutUint64(step[:], max(n, 1))
	return step
}

// partOf finds the part that a context belongs to, and the span in it.
func partOf(ctx context.Context) (*part, trace.SpanID) {
	switch s := trace.SpanFromContext(ctx).(type) {
	case *part:
		return s, s.id
	case *child:
		return s.part, s.span.ID
	}
	return nil, trace.SpanID{}
}

// Keep has what this process does for the trace of a context be kept, and tells those that are asked or told meanwhile to do the same.
func Keep(ctx context.Context) {
	if p, _ := partOf(ctx); p != nil {
		p.sampled.Store(true)
	}
}

func (p *part) extra() *more {
	if p.more == nil {
		p.more = &more{}
	}
	return p.more
}

func (p *part) context(id trace.SpanID) trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: p.trace, SpanID: id, TraceState: p.state}
	if p.sampled.Load() {
		c.TraceFlags = trace.FlagsSampled
	}
	return trace.NewSpanContext(c)
}

// SpanContext implements trace.Span, as what follows does.
func (p *part) SpanContext() trace.SpanContext { return p.context(p.id) }

// IsRecording implements trace.Span.
func (p *part) IsRecording() bool { return p.recorder.on() }

// AddEvent implements trace.Span; events are what logs are for.
func (p *part) AddEvent(string, ...trace.EventOption) {}

// AddLink implements trace.Span.
func (p *part) AddLink(l trace.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.extra(); len(m.links) < linksMost {
		m.links = append(m.links, l)
	}
}

// RecordError implements trace.Span.
func (p *part) RecordError(err error, _ ...trace.EventOption) {
	if err != nil {
		p.SetStatus(codes.Error, err.Error())
	}
}

// SetStatus implements trace.Span.
func (p *part) SetStatus(code codes.Code, why string) {
	if code != codes.Error {
		return
	}
	if why == "" {
		why = "it failed"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.extra().failed = clip(why)
}

// SetName implements trace.Span.
func (p *part) SetName(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.extra().name = name
}

// SetAttributes implements trace.Span.
func (p *part) SetAttributes(kv ...attribute.KeyValue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.extra()
	m.attributes = append(m.attributes, kv[:min(len(kv), linksMost-min(len(m.attributes), linksMost))]...)
}

// TracerProvider implements trace.Span.
func (p *part) TracerProvider() trace.TracerProvider { return provider{recorder: p.recorder} }

// End implements trace.Span, for parts that are no line's.
func (p *part) End(options ...trace.SpanEndOption) {
	c := trace.NewSpanEndConfig(options...)
	at := c.Timestamp()
	if at.IsZero() {
		at = time.Now()
	}
	p.mu.Lock()
	why := unkept
	switch {
	case p.ended:
		p.mu.Unlock()
		return
	case p.sampled.Load():
		why = bySample
	case p.more != nil && p.more.failed != "":
		why = byError
	}
	p.mu.Unlock()
	p.end(at, why, func(root *Span) {})
}

// end decides by a reason what becomes of the part's spans. fill completes the first of them, if they are kept.
func (p *part) end(at time.Time, why reason, fill func(root *Span)) {
	keep := p.recorder.keeps(why, at)
	if keep {
		p.sampled.Store(true)
	}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended, p.kept = true, keep
	m := p.more
	if !keep {
		if m != nil {
			m.children = nil
		}
		p.mu.Unlock()
		return
	}
	root := Span{Trace: p.trace, ID: p.id, Parent: p.parent, State: p.state, Kind: trace.SpanKindInternal, Start: time.Unix(0, p.begin), End: at}
	var all []Span
	if m != nil {
		root.Name, root.Kind, root.Error, root.Attributes, root.Links = m.name, trace.ValidateSpanKind(m.kind), m.failed, m.attributes, m.links
		if m.lost > 0 {
			root.Attributes = append(root.Attributes, attribute.Int("spans_lost", m.lost))
		}
		all = m.children
		m.children = nil
	}
	p.mu.Unlock()
	fill(&root)
	all = append([]Span{root}, all...)
	for s := range steps {
		i := p.steps[s]
		if i == (interval{}) {
			continue
		}
		span := Span{Trace: p.trace, ID: s.of(p.id), Parent: p.id, State: root.State, Name: stepNames[s], Kind: trace.SpanKindInternal, Start: time.Unix(0, p.begin+i.begin)}
		span.End = span.Start.Add(time.Duration(i.took))
		switch s {
		case StepOnline:
			span.Parent = StepFeatures.of(p.id)
		case StepCall:
			span.Kind = trace.SpanKindClient
		}
		all = append(all, span)
	}
	p.recorder.offer(all, why)
}

// child is a span below a part's own.
type child struct {
	embedded.Span
	part *part

	mu    sync.Mutex
	span  Span
	ended bool
}

// SpanContext implements trace.Span, as what follows does.
func (c *child) SpanContext() trace.SpanContext { return c.part.context(c.span.ID) }

// IsRecording implements trace.Span.
func (c *child) IsRecording() bool { return true }

// AddEvent implements trace.Span; events are what logs are for.
func (c *child) AddEvent(string, ...trace.EventOption) {}

// AddLink implements trace.Span.
func (c *child) AddLink(l trace.Link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.span.Links) < linksMost {
		c.span.Links = append(c.span.Links, l)
	}
}

// RecordError implements trace.Span.
func (c *child) RecordError(err error, _ ...trace.EventOption) {
	if err != nil {
		c.SetStatus(codes.Error, err.Error())
	}
}

// SetStatus implements trace.Span. A part of which a span failed has failed.
func (c *child) SetStatus(code codes.Code, why string) {
	if code != codes.Error {
		return
	}
	if why == "" {
		why = "it failed"
	}
	c.mu.Lock()
	c.span.Error = clip(why)
	c.mu.Unlock()
	c.part.mu.Lock()
	defer c.part.mu.Unlock()
	if m := c.part.extra(); m.failed == "" {
		m.failed = clip(why)
	}
}

// SetName implements trace.Span.
func (c *child) SetName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.span.Name = name
}

// SetAttributes implements trace.Span.
func (c *child) SetAttributes(kv ...attribute.KeyValue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.span.Attributes = append(c.span.Attributes, kv[:min(len(kv), linksMost-min(len(c.span.Attributes), linksMost))]...)
}

// TracerProvider implements trace.Span.
func (c *child) TracerProvider() trace.TracerProvider { return provider{recorder: c.part.recorder} }

// End implements trace.Span. Where the part has ended before, what became of that is what becomes of the span.
func (c *child) End(options ...trace.SpanEndOption) {
	config := trace.NewSpanEndConfig(options...)
	at := config.Timestamp()
	if at.IsZero() {
		at = time.Now()
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended, c.span.End = true, at
	span := c.span
	c.mu.Unlock()
	c.part.take(span)
}

// take adds a span that has ended.
func (p *part) take(s Span) {
	p.mu.Lock()
	late := p.ended && p.kept
	if m := p.extra(); !p.ended {
		if len(m.children) < childrenMost {
			m.children = append(m.children, s)
		} else {
			m.lost++
		}
	}
	p.mu.Unlock()
	if late {
		p.recorder.offer([]Span{s}, unkept)
	}
}

// tracer makes parts, and spans below them.
type tracer struct {
	embedded.Tracer
	recorder *recorder
}

// provider gives tracers to those who have nothing but a span.
type provider struct {
	embedded.TracerProvider
	recorder *recorder
}

// Tracer implements trace.TracerProvider.
func (p provider) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return tracer{recorder: p.recorder}
}

// Start begins a span below that of the context, or a part where it belongs to none. While nobody takes spans it gives the one that the context has.
func (t tracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if !t.recorder.on() {
		return ctx, trace.SpanFromContext(ctx)
	}
	c := trace.NewSpanStartConfig(options...)
	begin := c.Timestamp()
	if begin.IsZero() {
		begin = time.Now()
	}
	p, id := partOf(ctx)
	if p == nil || c.NewRoot() {
		from := trace.SpanContextFromContext(ctx)
		if c.NewRoot() {
			from = trace.SpanContext{}
		}
		p = &part{}
		p.more = &more{name: name, kind: c.SpanKind(), attributes: c.Attributes(), links: c.Links()}
		t.recorder.begin(p, from, NewTrace(), begin)
		return trace.ContextWithSpan(ctx, p), p
	}
	s := &child{part: p, span: Span{
		Trace: p.trace, ID: newID(), Parent: id, Name: name, Kind: trace.ValidateSpanKind(c.SpanKind()), Start: begin,
		Attributes: c.Attributes(), Links: c.Links(),
	}}
	return trace.ContextWithSpan(ctx, s), s
}

// NewTrace makes the id of a trace.
func NewTrace() (id trace.TraceID) {
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()|1)
	return id
}

// Traceparent writes a span's context as W3C's header traceparent has it.
func Traceparent(c trace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	id, span := c.TraceID(), c.SpanID()
	b := append(make([]byte, 0, 55), "00-"...)
	b = append(hex.AppendEncode(b, id[:]), '-')
	b = append(hex.AppendEncode(b, span[:]), "-00"...)
	if c.IsSampled() {
		b[len(b)-1] = '1'
	}
	return string(b)
}

// ReadTraceparent reads what Traceparent wrote; what is not so gives a context that is not valid.
func ReadTraceparent(s string) trace.SpanContext {
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": s}))
}

// attributeOf is an attribute of a log line as one of a span.
func attributeOf(a slog.Attr) attribute.KeyValue {
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		return attribute.String(a.Key, clip(v.String()))
	case slog.KindInt64:
		return attribute.Int64(a.Key, v.Int64())
	case slog.KindBool:
		return attribute.Bool(a.Key, v.Bool())
	case slog.KindFloat64:
		return attribute.Float64(a.Key, v.Float64())
	default:
		return attribute.String(a.Key, clip(fmt.Sprint(v.Any())))
	}
}

// failed tells whether a span of the part has failed.
func (p *part) failed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.more != nil && p.more.failed != ""
}

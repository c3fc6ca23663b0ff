package telemetry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// reason is why spans are kept.
type reason uint8

const (
	unkept   reason = iota
	bySample        // by the id of the trace, or because the caller or the process itself wishes it
	byError
	bySlowness
	reasons
)

var reasonNames = [reasons]string{"", "sampled", "error", "slow"}

// recorder decides which traces are kept, and hands their spans to those who take them.
type recorder struct {
	share  float64 // of traces that are kept whatever they are like
	below  uint64  // the same, as what the last 7 bytes of a trace's id must lie below
	always bool    // share is 1
	heeds  bool    // a caller's flag counts
	asked  rate    // for callers who wish their traces to be kept
	rates  [reasons]rate

	queue chan offered
	taken atomic.Bool // somebody takes spans

	mu     sync.Mutex
	sinks  []*sink
	run    sync.Once
	closed chan struct{}
	done   chan struct{}

	kept, dropped metric.Int64Counter
	of            [reasons]metric.MeasurementOption
	full, wished  metric.MeasurementOption
}

type sink struct{ take func([]Span) }

// offered are the spans of a part; or nothing but a wish to hear when all before it were handed on.
type offered struct {
	spans []Span
	done  chan struct{}
}

// queueMost is how many parts wait for those who take spans.
const queueMost = 512

// shareOf gives the share of traces that is sampled, and whether a caller's flag counts.
func (c *Config) shareOf() (share float64, heeds bool, err error) {
	share, heeds = c.Sample, true
	ratio := func() error {
		share = 1
		if c.SamplerArg == "" {
			return nil
		}
		share, err = strconv.ParseFloat(c.SamplerArg, 64)
		if err != nil {
			return fmt.Errorf("OTEL_TRACES_SAMPLER_ARG is %.40q, expected a share from 0 to 1", c.SamplerArg)
		}
		return nil
	}
	switch c.Sampler {
	case "":
	case "always_on", "parentbased_always_on":
		share = 1
	case "always_off":
		share, heeds = 0, false
	case "parentbased_always_off":
		share = 0
	case "traceidratio":
		heeds = false
		err = ratio()
	case "parentbased_traceidratio":
		err = ratio()
	default:
		err = fmt.Errorf("OTEL_TRACES_SAMPLER is %.40q, expected always_on, always_off, traceidratio, or one of them behind parentbased_", c.Sampler)
	}
	if err == nil && (share < 0 || share > 1 || math.IsNaN(share)) {
		err = errors.New("TRACE_SAMPLE and OTEL_TRACES_SAMPLER_ARG are shares from 0 to 1")
	}
	return share, heeds, err
}

func newRecorder(c *Config, meter metric.Meter) (*recorder, error) {
	share, heeds, err := c.shareOf()
	if err != nil {
		return nil, err
	}
	r := &recorder{
		share: share, below: uint64(share * (1 << 56)), always: share >= 1, heeds: heeds, asked: rate{most: c.Rate},
		queue: make(chan offered, queueMost), closed: make(chan struct{}), done: make(chan struct{}),
	}
	var err1, err2 error
	r.kept, err1 = meter.Int64Counter("pilotlight.traces.kept",
		metric.WithDescription("Traces, as far as this process has a part in them, that were handed to those who take them, by reason: sampled (or asked for by the caller, or what is always kept: runs and steps of pipelines, cold starts), error, slow."))
	r.dropped, err2 = meter.Int64Counter("pilotlight.traces.dropped",
		metric.WithDescription("Traces that would have been kept, by reason: sampled, asked, error or slow beyond TRACE_RATE, or memory, where those who take them are behind."))
	for i := range r.rates {
		r.rates[i].most = c.Rate
		r.of[i] = metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", reasonNames[i])))
	}
	r.wished = metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", "asked")))
	r.full = metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", "memory")))
	return r, errors.Join(err1, err2)
}

// on tells whether anybody takes spans.
func (r *recorder) on() bool { return r.taken.Load() }

// begin begins a part, whose trace is that of a caller or else has the id.
func (r *recorder) begin(p *part, from trace.SpanContext, id trace.TraceID, begin time.Time) {
	p.recorder, p.trace, p.id, p.begin = r, id, newID(), begin.UnixNano()
	taken := r.on()
	if from.IsValid() {
		p.trace, p.parent, p.state = from.TraceID(), from.SpanID(), from.TraceState()
		if !taken { // others may keep what the caller wishes to be kept
			p.sampled.Store(from.IsSampled())
			return
		}
		if r.heeds && from.IsSampled() {
			if r.asked.take(begin) {
				p.sampled.Store(true)
			} else {
				r.dropped.Add(context.Background(), 1, r.wished)
			}
			return
		}
	}
	if !taken {
		return
	}
	// By the bytes that are random in any case (W3C Trace Context, level 2), as all processes with the same share have it.
	if r.always || binary.BigEndian.Uint64(p.trace[8:])&(1<<56-1) < r.below {
		if r.rates[bySample].take(begin) {
			p.sampled.Store(true)
		} else {
			r.dropped.Add(context.Background(), 1, r.of[bySample])
		}
	}
}

// keeps tells whether what has a reason to be kept is kept.
func (r *recorder) keeps(why reason, now time.Time) bool {
	if why == unkept || !r.on() {
		return false
	}
	if why != bySample && !r.rates[why].take(now) { // those that were sampled were bounded when they began
		r.dropped.Add(context.Background(), 1, r.of[why])
		return false
	}
	return true
}

// offer hands spans to those who take them, and does not wait. Those that are a part are kept for a reason; what comes after a part has none.
func (r *recorder) offer(spans []Span, why reason) {
	select {
	case r.queue <- offered{spans: spans}:
		if why != unkept {
			r.kept.Add(context.Background(), 1, r.of[why])
		}
	default:
		r.dropped.Add(context.Background(), 1, r.full)
	}
}

// attach has take be given the spans of each part, one after the other; the function that it gives ends that, once all that was offered before was given.
func (r *recorder) attach(take func([]Span)) (detach func()) {
	s := &sink{take}
	r.mu.Lock()
	r.sinks = append(r.sinks, s)
	r.mu.Unlock()
	r.taken.Store(true)
	r.run.Do(func() { go r.hand() })
	return func() {
		r.flush()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sinks = slices.DeleteFunc(slices.Clone(r.sinks), func(o *sink) bool { return o == s })
		r.taken.Store(len(r.sinks) > 0)
	}
}

// flush waits until what was offered so far was handed on.
func (r *recorder) flush() {
	done := make(chan struct{})
	select {
	case r.queue <- offered{done: done}:
		select {
		case <-done:
		case <-r.done:
		}
	case <-r.done:
	}
}

// hand hands on what is offered until the recorder closes.
func (r *recorder) hand() {
	defer close(r.done)
	for {
		select {
		case o := <-r.queue:
			r.give(o)
		case <-r.closed:
			return
		}
	}
}

func (r *recorder) give(o offered) {
	if o.done != nil {
		close(o.done)
		return
	}
	r.mu.Lock()
	sinks := r.sinks
	r.mu.Unlock()
	for _, s := range sinks {
		s.take(o.spans)
	}
}

// close hands on what waits.
func (r *recorder) close(context.Context) error {
	running := true
	r.run.Do(func() { running = false; close(r.done) }) // nobody ever took spans
	if running {
		r.flush()
		r.taken.Store(false)
		close(r.closed)
		<-r.done
	}
	return nil
}

// replay makes spans of the SDK from those that are kept, at the times and with the ids that they have, for its exporters.
type replay struct{ tracer trace.Tracer }

type replayed struct{}

// knownIDs gives the SDK the ids of the span that is replayed.
type knownIDs struct{}

// NewIDs implements sdktrace.IDGenerator.
func (knownIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if s, ok := ctx.Value(replayed{}).(*Span); ok {
		return s.Trace, s.ID
	}
	return NewTrace(), newID()
}

// NewSpanID implements sdktrace.IDGenerator.
func (k knownIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, id := k.NewIDs(ctx)
	return id
}

var _ sdktrace.IDGenerator = knownIDs{}

func (r replay) take(spans []Span) {
	for i := range spans {
		s := &spans[i]
		ctx := context.WithValue(context.Background(), replayed{}, s)
		if s.Parent.IsValid() {
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: s.Trace, SpanID: s.Parent, TraceFlags: trace.FlagsSampled, TraceState: s.State, Remote: i == 0,
			}))
		}
		_, span := r.tracer.Start(ctx, s.Name, trace.WithTimestamp(s.Start), trace.WithSpanKind(s.Kind), trace.WithAttributes(s.Attributes...), trace.WithLinks(s.Links...))
		if s.Error != "" { // the sentence as an attribute: what collectors redact are those, and not what a status says
			span.SetAttributes(attribute.String("error.message", s.Error))
			span.SetStatus(codes.Error, "")
		}
		span.End(trace.WithTimestamp(s.End))
	}
}

package pipeline

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// A run has a span, and so has each of its steps, though many processes may work on them and each may be killed: the ids
// of the spans follow from the record, so that whoever works on a step tells under which span it is done, and whoever writes
// down how it ended makes the span itself. The trace of a run is that of the event that started it, and it is always kept.

// tracing is the span of a run, in its record.
type tracing struct {
	Trace string `json:"trace,omitempty"` // traceparent of the run's own span
	Above string `json:"above,omitempty"` // traceparent of the span that it stands below; empty: none
}

// traced gives a run that begins now its span, below that of its cause or else of the context.
func (b *Beginning) traced(ctx context.Context) {
	above := trace.SpanContextFromContext(ctx)
	if b.Cause != nil && b.Cause.Trace != "" && b.Cause.Type != everyType {
		if of := telemetry.ReadTraceparent(b.Cause.Trace); above.TraceID() != of.TraceID() && of.IsValid() {
			above = of
		}
	}
	c := trace.SpanContextConfig{TraceFlags: trace.FlagsSampled, TraceID: above.TraceID()}
	if above.IsValid() {
		b.Above = telemetry.Traceparent(above)
	} else {
		_, _ = rand.Read(c.TraceID[:]) // which never fails
	}
	_, _ = rand.Read(c.SpanID[:])
	b.Trace = telemetry.Traceparent(trace.NewSpanContext(c))
}

// within gives a context in which what is done stands below the run's span.
func (r *Run) within(ctx context.Context) context.Context {
	if c := telemetry.ReadTraceparent(r.Trace); c.IsValid() {
		return trace.ContextWithRemoteSpanContext(ctx, c)
	}
	return ctx
}

// stepSpan is the span of a step's tries, up to one that fails.
func (r *Run) stepSpan(s *StepState) trace.SpanContext {
	c := telemetry.ReadTraceparent(r.Trace)
	if !c.IsValid() {
		return c
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %d", r.Trace, s.Name, s.Failures+s.Lost))
	return c.WithSpanID(trace.SpanID(sum[:8]))
}

// inStep gives a context in which what is done stands below a step's span.
func (r *Run) inStep(ctx context.Context, s *StepState) context.Context {
	if c := r.stepSpan(s); c.IsValid() {
		return trace.ContextWithRemoteSpanContext(ctx, c)
	}
	return ctx
}

// tellStep makes the span of a step that was as in s when its last try came to a result.
func (m *Manager) tellStep(r *Run, s *StepState, result *Result) {
	c := r.stepSpan(s)
	if !c.IsValid() || result.State == Waiting { // it goes on
		return
	}
	start := s.Tried
	if s.Failures+s.Lost == 0 {
		start = s.Began
	}
	if start.IsZero() { // it was never tried
		start = result.At
	}
	span := telemetry.Span{
		Trace: c.TraceID(), ID: c.SpanID(), Parent: telemetry.ReadTraceparent(r.Trace).SpanID(), Name: "step " + s.Name, Start: start, End: result.At,
		Attributes: []attribute.KeyValue{
			attribute.String("pipeline", r.Pipeline), attribute.String("run", r.ID), attribute.String("use", s.Use),
			attribute.Int("attempt", s.Attempt), attribute.String("state", string(result.State)),
		},
	}
	if s.Place != "" {
		span.Attributes = append(span.Attributes, attribute.String("place", s.Place))
	}
	switch result.State {
	case Failed:
		span.Error = result.Why
	case Succeeded:
	default:
		span.Attributes = append(span.Attributes, attribute.String("why", result.Why))
	}
	m.tel.Emit(span)
}

// tellRun makes the span of a run that has ended. Told twice, it is the same span.
func (m *Manager) tellRun(r *Run) {
	c := telemetry.ReadTraceparent(r.Trace)
	if !c.IsValid() {
		return
	}
	span := telemetry.Span{
		Trace: c.TraceID(), ID: c.SpanID(), Name: "pipeline " + r.Pipeline, Start: r.At, End: r.Ended,
		Attributes: []attribute.KeyValue{
			attribute.String("pipeline", r.Pipeline), attribute.String("run", r.ID), attribute.Int("version", r.Version), attribute.String("state", string(r.State)),
		},
	}
	if above := telemetry.ReadTraceparent(r.Above); above.IsValid() {
		span.Parent = above.SpanID()
	}
	if r.Cause != nil {
		span.Attributes = append(span.Attributes, attribute.String("cause", r.Cause.Type+" "+r.Cause.ID))
		if of := telemetry.ReadTraceparent(r.Cause.Trace); of.IsValid() {
			span.Links = []trace.Link{{SpanContext: of}}
		}
	}
	if r.State == Failed {
		span.Error = r.Reason
	} else if r.Reason != "" {
		span.Attributes = append(span.Attributes, attribute.String("why", r.Reason))
	}
	m.tel.Emit(span)
}

// joinTrace tells the span of an event that is no run's cause, as one waits or is under way already, which run that is.
func joinTrace(ctx context.Context, b *Beginning, said verdict) {
	span := trace.SpanFromContext(ctx)
	span.SetAttributes(attribute.String("verdict", string(said)))
	if b == nil {
		return
	}
	if c := telemetry.ReadTraceparent(b.Trace); c.IsValid() && c.TraceID() != span.SpanContext().TraceID() {
		span.AddLink(trace.Link{SpanContext: c})
	}
}

package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Mux takes events in at a function's POST /events and hands each to the
// handler of its type. Its answers speak to a broker, see Status. Handlers are
// added before it serves.
type Mux struct {
	tel      *telemetry.Telemetry
	metrics  *instruments
	handlers map[string]handler
	rest     func(context.Context, *Event) error
}

// handler is what takes the events of a type: one after the other, or at once.
type handler struct {
	one  func(context.Context, *Event) error
	many func(context.Context, []Event) []error
}

// NewMux makes a mux without handlers.
func NewMux(tel *telemetry.Telemetry) (*Mux, error) {
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	return &Mux{tel: tel, metrics: metrics, handlers: map[string]handler{}}, nil
}

// On has a mux hand events of a type to handle, which is idempotent by their
// source and id. An error's kind decides what the broker does, see Status.
func On[T any](m *Mux, t Type[T], handle func(ctx context.Context, e *Event, data T) error) {
	m.handlers[t.Name] = handler{one: func(ctx context.Context, e *Event) error {
		data, err := t.Decode(e)
		if err != nil {
			return err
		}
		return handle(ctx, e, data)
	}}
}

// Received is an event with its data.
type Received[T any] struct {
	*Event
	Data T
}

// OnBatch is On for a handler that does many events at once for less than one
// after the other: it gets those that stand side by side in a batch, or one that
// comes alone, and gives an error or nil for each.
func OnBatch[T any](m *Mux, t Type[T], handle func(ctx context.Context, events []Received[T]) []error) {
	m.handlers[t.Name] = handler{many: func(ctx context.Context, events []Event) []error {
		errs := make([]error, len(events))
		received, at := make([]Received[T], 0, len(events)), make([]int, 0, len(events))
		for i := range events {
			data, err := t.Decode(&events[i])
			if err != nil {
				errs[i] = err
				continue
			}
			received, at = append(received, Received[T]{&events[i], data}), append(at, i)
		}
		if len(received) > 0 {
			for i, err := range handle(ctx, received) {
				errs[at[i]] = err
			}
		}
		return errs
	}}
}

// Rest has the mux hand all other events to handle.
func (m *Mux) Rest(handle func(ctx context.Context, e *Event) error) { m.rest = handle }

// Types lists the types that have a handler of their own.
func (m *Mux) Types() []string { return slices.Sorted(maps.Keys(m.handlers)) }

// Takes tells whether events of a type have a handler.
func (m *Mux) Takes(name string) bool {
	_, ok := m.handlers[name]
	return ok || m.rest != nil
}

// Register mounts POST /events.
func (m *Mux) Register(mux *http.ServeMux) { mux.Handle("POST /events", m) }

// ServeHTTP answers with 202 once the request's events have been handled. Of a
// batch all are tried; its answer is that of the first event that should be
// tried again, or else of the first that failed.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events, err := Read(w, r)
	if err != nil {
		m.metrics.count(r.Context(), m.metrics.received, "", Status(err))
		Answer(w, r, err)
		return
	}
	var worst error
	for rest := events; len(rest) > 0; {
		run := m.run(rest)
		for i, err := range m.handle(r.Context(), rest[:run]) {
			if err != nil && len(events) > 1 {
				err = fmt.Errorf("event %d of %d: %w", len(events)-len(rest)+i+1, len(events), err)
			}
			if worst == nil || !Retried(Status(worst)) && Retried(Status(err)) {
				worst = err
			}
		}
		rest = rest[run:]
	}
	Answer(w, r, worst)
}

// run tells how many of the events at the start are handled at once.
func (m *Mux) run(events []Event) int {
	n := 1
	for m.handlers[events[0].Type()].many != nil && n < len(events) && events[n].Type() == events[0].Type() {
		n++
	}
	return n
}

// Handle hands one event to its handler.
func (m *Mux) Handle(ctx context.Context, e *Event) error {
	return m.handle(ctx, []Event{*e})[0]
}

// handle hands events of one type to its handler, more than one to one that takes many.
func (m *Mux) handle(ctx context.Context, events []Event) []error {
	first := &events[0]
	note(ctx, first)
	if len(events) > 1 {
		telemetry.LineFrom(ctx).Set(slog.Int("events", len(events)))
	}
	ctx, span := start(ctx, m.tel, events)
	var errs []error
	defer func() { finish(span, errs...) }()
	begin := time.Now()
	switch h := m.handlers[first.Type()]; {
	case h.many != nil:
		errs = h.many(ctx, events)
	case h.one != nil:
		errs = []error{h.one(ctx, first)}
	case m.rest != nil:
		errs = []error{m.rest(ctx, first)}
	default:
		errs = []error{fault.New(fault.NotFound, "nobody here takes events of type %.200q, but of %q", first.Type(), m.Types())}
	}
	telemetry.LineFrom(ctx).Timing("handle", time.Since(begin))
	for _, err := range errs {
		m.metrics.count(ctx, m.metrics.received, first.Type(), Status(err))
	}
	return errs
}

// note tells the request's log line what the event is.
func note(ctx context.Context, e *Event) {
	line := telemetry.LineFrom(ctx)
	line.SetID(e.ID())
	line.Set(slog.String("type", clip(e.Type())), slog.String("source", clip(e.Source())))
}

// linksMost is how many of the events handled at once a span is linked to.
const linksMost = 100

// start begins the span of handling events of one type, linked to the spans that the events themselves come from. It stands below that
// of an event which comes alone, so that it goes on with its trace, however the broker brought it; of many it stands below the request's.
func start(ctx context.Context, tel *telemetry.Telemetry, events []Event) (context.Context, trace.Span) {
	if !tel.Tracing() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	first := &events[0]
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(describe(first)...)}
	if len(events) > 1 {
		options = append(options, trace.WithAttributes(attribute.Int("messaging.batch.message_count", len(events))))
	}
	request := trace.SpanContextFromContext(ctx)
	for i := range events[:min(len(events), linksMost)] {
		origin := Origin(&events[i])
		if !origin.IsValid() {
			continue
		}
		options = append(options, trace.WithLinks(trace.Link{SpanContext: origin}))
		switch {
		case len(events) == 1 && request.TraceID() != origin.TraceID():
			if request.IsValid() {
				options = append(options, trace.WithLinks(trace.Link{SpanContext: request}))
			}
			ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
		case !request.IsValid():
			ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
			request = origin
		}
	}
	return tel.Tracer.Start(ctx, "process "+known(first.Type()), options...)
}

// Origin is the span in which an event was made, by its extension traceparent; one that is not valid: it does not say.
func Origin(e *Event) trace.SpanContext {
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), (*carrier)(e)))
}

// SetOrigin has an event say in which span it was made, unless it does already.
func SetOrigin(ctx context.Context, e *Event) {
	if e.Extensions()["traceparent"] == nil {
		propagation.TraceContext{}.Inject(ctx, (*carrier)(e))
	}
}

// finish ends the span that start began. An event that can't be handled is a fault, whoever made it.
func finish(span trace.Span, errs ...error) {
	for _, err := range errs {
		if err != nil {
			span.SetStatus(codes.Error, fault.Message(err))
			break
		}
	}
	span.End()
}

// carrier is an event as what carries the W3C trace context: the extensions
// traceparent and tracestate.
type carrier Event

var _ propagation.TextMapCarrier = (*carrier)(nil)

func (c *carrier) Get(key string) string {
	if key != "traceparent" && key != "tracestate" {
		return ""
	}
	s, _ := (*Event)(c).Extensions()[key].(string)
	return s
}

func (c *carrier) Set(key, value string) {
	if key == "traceparent" || key == "tracestate" {
		(*Event)(c).SetExtension(key, value)
	}
}

func (c *carrier) Keys() []string { return []string{"traceparent", "tracestate"} }

// Answer answers a request that brought events: with an empty 202, or by Status
// with one sentence as {"error": "..."}.
func Answer(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	telemetry.LineFrom(r.Context()).Fail(err)
	status := Status(err)
	if errors.Is(err, context.Canceled) {
		status = fault.StatusClientClosed
	}
	b, _ := json.Marshal(map[string]string{"error": fault.Message(err)}) // strings always do
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", fault.RetryHeader(err))
	}
	w.WriteHeader(status)
	_, _ = w.Write(b) // a sender that is gone needs no answer
}

func clip(s string) string { return s[:min(len(s), 200)] }

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
	handlers map[string]func(context.Context, *Event) error
	rest     func(context.Context, *Event) error
}

// NewMux makes a mux without handlers.
func NewMux(tel *telemetry.Telemetry) (*Mux, error) {
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	return &Mux{tel: tel, metrics: metrics, handlers: map[string]func(context.Context, *Event) error{}}, nil
}

// On has a mux hand events of a type to handle, which is idempotent by their
// source and id. An error's kind decides what the broker does, see Status.
func On[T any](m *Mux, t Type[T], handle func(ctx context.Context, e *Event, data T) error) {
	m.handlers[t.Name] = func(ctx context.Context, e *Event) error {
		data, err := t.Decode(e)
		if err != nil {
			return err
		}
		return handle(ctx, e, data)
	}
}

// Rest has the mux hand all other events to handle.
func (m *Mux) Rest(handle func(ctx context.Context, e *Event) error) { m.rest = handle }

// Types lists the types that have a handler of their own.
func (m *Mux) Types() []string { return slices.Sorted(maps.Keys(m.handlers)) }

// Takes tells whether events of a type have a handler.
func (m *Mux) Takes(name string) bool { return m.handlers[name] != nil || m.rest != nil }

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
	for i := range events {
		err := m.Handle(r.Context(), &events[i])
		if err != nil && len(events) > 1 {
			err = fmt.Errorf("event %d of %d: %w", i+1, len(events), err)
		}
		if worst == nil || !Retried(Status(worst)) && Retried(Status(err)) {
			worst = err
		}
	}
	Answer(w, r, worst)
}

// Handle hands one event to its handler.
func (m *Mux) Handle(ctx context.Context, e *Event) error {
	note(ctx, e)
	ctx, span := start(ctx, m.tel, e)
	defer span.End()
	begin := time.Now()
	handle := m.handlers[e.Type()]
	if handle == nil {
		handle = m.rest
	}
	var err error
	if handle == nil {
		err = fault.New(fault.NotFound, "nobody here takes events of type %.200q, but of %q", e.Type(), m.Types())
	} else {
		err = handle(ctx, e)
	}
	telemetry.LineFrom(ctx).Timing("handle", time.Since(begin))
	m.metrics.count(ctx, m.metrics.received, e.Type(), Status(err))
	return err
}

// note tells the request's log line what the event is.
func note(ctx context.Context, e *Event) {
	line := telemetry.LineFrom(ctx)
	line.SetID(e.ID())
	line.Set(slog.String("type", clip(e.Type())), slog.String("source", clip(e.Source())))
}

// start begins the span of handling an event: below that of the request, and
// linked to the span that the event itself comes from.
func start(ctx context.Context, tel *telemetry.Telemetry, e *Event) (context.Context, trace.Span) {
	if !tel.Tracing {
		return ctx, trace.SpanFromContext(context.Background())
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(describe(e)...)}
	origin := trace.SpanContextFromContext(tel.Context.Extract(context.Background(), (*carrier)(e)))
	if origin.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: origin}))
		if !trace.SpanContextFromContext(ctx).IsValid() {
			ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
		}
	}
	return tel.Tracer.Start(ctx, "process "+known(e.Type()), options...)
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

package event

import (
	"context"
	"errors"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the package measures.
type instruments struct {
	received metric.Int64Counter
	sent     metric.Int64Counter
	dropped  metric.Int64Counter
}

func newInstruments(tel *telemetry.Telemetry) (*instruments, error) {
	t := &instruments{}
	var errs [3]error
	t.received, errs[0] = tel.Meter.Int64Counter("pilotlight.events.received",
		metric.WithDescription("Events that came in, by type and by the status of the answer."))
	t.sent, errs[1] = tel.Meter.Int64Counter("pilotlight.events.sent",
		metric.WithDescription("Events that were sent to K_SINK, by type and by the status of its last answer; 0: none."))
	t.dropped, errs[2] = tel.Meter.Int64Counter("pilotlight.events.dropped",
		metric.WithDescription("Events that were never sent, by type: too many waited, or the process ended."))
	return t, errors.Join(errs[:]...)
}

func (t *instruments) count(ctx context.Context, c metric.Int64Counter, name string, status int) {
	c.Add(ctx, 1, metric.WithAttributes(attribute.String("type", known(name)), attribute.String("status", strconv.Itoa(status))))
}

// known bounds what may become a label.
func known(name string) string {
	if Lookup(name) == nil {
		return "other"
	}
	return name
}

// describe gives the attributes of a span about an event.
func describe(e *Event) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("cloudevents.event_id", clip(e.ID())),
		attribute.String("cloudevents.event_source", clip(e.Source())),
		attribute.String("cloudevents.event_type", clip(e.Type())),
		attribute.String("cloudevents.event_subject", clip(e.Subject())),
	}
}

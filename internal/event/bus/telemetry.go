package bus

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the package measures.
type instruments struct{ deliveries metric.Int64Counter }

func newInstruments(tel *telemetry.Telemetry, pending func() int64) (*instruments, error) {
	t := &instruments{}
	var errs [2]error
	t.deliveries, errs[0] = tel.Meter.Int64Counter("pilotlight.event.deliveries",
		metric.WithDescription("Deliveries of events by trigger and outcome: delivered, retried, junk (a success with a body that is no event), dead, lost; looped, before any trigger."))
	_, errs[1] = tel.Meter.Int64ObservableGauge("pilotlight.events.pending",
		metric.WithDescription("Events that were accepted and not delivered to all yet."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error { o.Observe(pending()); return nil }))
	return t, errors.Join(errs[:]...)
}

func (t *instruments) delivered(ctx context.Context, trigger, outcome string) {
	t.deliveries.Add(ctx, 1, metric.WithAttributes(attribute.String("trigger", trigger), attribute.String("outcome", outcome)))
}

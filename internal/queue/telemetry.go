package queue

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the queue measures.
type instruments struct {
	turnedAway metric.Int64Counter
	joined     metric.Int64Histogram

	full, gone metric.MeasurementOption
}

func newInstruments(tel *telemetry.Telemetry, q *Queue) (*instruments, error) {
	why := func(reason string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", reason)))
	}
	t := &instruments{full: why("overload"), gone: why("caller_gone")}
	var errs [3]error
	t.turnedAway, errs[0] = tel.Meter.Int64Counter("pilotlight.queue.unserved",
		metric.WithDescription("Requests that were not run: refused because too many waited, or left by their callers while they waited."))
	t.joined, errs[1] = tel.Meter.Int64Histogram("pilotlight.queue.joined",
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256),
		metric.WithDescription("Requests in a run of the model, where more than one waited."))
	_, errs[2] = tel.Meter.Int64ObservableGauge("pilotlight.queue.waiting",
		metric.WithDescription("Requests that wait for a run."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			q.mu.Lock()
			defer q.mu.Unlock()
			o.Observe(int64(q.waiting))
			return nil
		}))
	return t, errors.Join(errs[:]...)
}

func (t *instruments) refused() { t.turnedAway.Add(context.Background(), 1, t.full) }

func (t *instruments) abandoned() { t.turnedAway.Add(context.Background(), 1, t.gone) }

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
	waited     metric.Float64Histogram
	apart      *telemetry.Apart

	full, gone metric.MeasurementOption
}

func newInstruments(tel *telemetry.Telemetry, q *Queue) (*instruments, error) {
	why := func(reason string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("reason", reason)))
	}
	t := &instruments{full: why("overload"), gone: why("caller_gone"), apart: tel.Apart}
	var errs [4]error
	t.turnedAway, errs[0] = tel.Meter.Int64Counter("pilotlight.queue.unserved",
		metric.WithDescription("Requests that were not run, by reason: overload, refused because too many waited; caller_gone, left by their callers while they waited."))
	t.joined, errs[1] = tel.Meter.Int64Histogram("pilotlight.queue.joined",
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256),
		metric.WithDescription("Requests in a run of a model, where more than one waited, by model."))
	t.waited, errs[3] = tel.Meter.Float64Histogram("pilotlight.queue.wait", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5),
		metric.WithDescription("How long requests waited that had to wait for a run, by model. Those that ran at once are not in it."))
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

// labelsOf are those of a lane.
func (t *instruments) labelsOf(model string) []metric.RecordOption {
	return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("model", t.apart.Model(model))))}
}

func (t *instruments) refused() { t.turnedAway.Add(context.Background(), 1, t.full) }

func (t *instruments) abandoned() { t.turnedAway.Add(context.Background(), 1, t.gone) }

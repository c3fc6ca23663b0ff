package pipeline

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the package measures. Names of pipelines and steps are few enough for labels.
type instruments struct {
	events metric.Int64Counter
	runs   metric.Int64Counter
	active atomic.Int64 // runs that are worked on
	took   metric.Float64Histogram
	steps  metric.Float64Histogram
}

func newInstruments(tel *telemetry.Telemetry) (*instruments, error) {
	t := &instruments{}
	var errs [6]error
	t.events, errs[0] = tel.Meter.Int64Counter("pilotlight.pipeline.events",
		metric.WithDescription("Events that start a pipeline, by verdict: begins, pending, joined, paused, known."))
	t.runs, errs[1] = tel.Meter.Int64Counter("pilotlight.pipeline.runs",
		metric.WithDescription("Runs that ended, by pipeline and state."))
	var active metric.Int64ObservableGauge
	active, errs[2] = tel.Meter.Int64ObservableGauge("pilotlight.pipeline.active",
		metric.WithDescription("Runs that this instance works on."))
	_, errs[5] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(active, t.active.Load())
		return nil
	}, active)
	// From seconds to days.
	bounds := metric.WithExplicitBucketBoundaries(.1, 1, 5, 15, 60, 300, 900, 3600, 4*3600, 24*3600, 7*24*3600)
	t.took, errs[3] = tel.Meter.Float64Histogram("pilotlight.pipeline.run.duration", metric.WithUnit("s"), bounds,
		metric.WithDescription("From the start of runs to their end, by pipeline and state."))
	t.steps, errs[4] = tel.Meter.Float64Histogram("pilotlight.pipeline.step.duration", metric.WithUnit("s"), bounds,
		metric.WithDescription("Tries of steps, by pipeline, step and state."))
	return t, errors.Join(errs[:]...)
}

func (t *instruments) heard(ctx context.Context, pipeline string, v verdict) {
	t.events.Add(ctx, 1, metric.WithAttributes(attribute.String("pipeline", pipeline), attribute.String("verdict", string(v))))
}

func (t *instruments) ended(ctx context.Context, r *Run) {
	by := metric.WithAttributes(attribute.String("pipeline", r.Pipeline), attribute.String("state", string(r.State)))
	t.runs.Add(ctx, 1, by)
	t.took.Record(ctx, r.Ended.Sub(r.At).Seconds(), by)
}

func (t *instruments) tried(ctx context.Context, pipeline, step string, r *Result, took time.Duration) {
	t.steps.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("pipeline", pipeline), attribute.String("step", step), attribute.String("state", string(r.State))))
}

package model

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the package measures.
type instruments struct {
	cold      *telemetry.ColdStart
	tracer    trace.Tracer
	loads     metric.Float64Histogram
	stages    metric.Float64Histogram
	evictions metric.Int64Counter
	memory    metric.Int64Gauge
	resident  metric.Int64Gauge
	sessions  metric.Int64Gauge
	cache     metric.Int64Gauge
}

func newInstruments(tel *telemetry.Telemetry) (*instruments, error) {
	t := &instruments{cold: tel.ColdStart, tracer: tel.Tracer}
	seconds := metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)
	var errs [7]error
	t.loads, errs[0] = tel.Meter.Float64Histogram("pilotlight.model.load.duration", metric.WithUnit("s"), seconds,
		metric.WithDescription("How long it took to load a model, by outcome."))
	t.stages, errs[1] = tel.Meter.Float64Histogram("pilotlight.model.load.stage.duration", metric.WithUnit("s"), seconds,
		metric.WithDescription("How long a stage of loading a model took."))
	t.evictions, errs[2] = tel.Meter.Int64Counter("pilotlight.model.evictions",
		metric.WithDescription("Sessions that were closed, by reason: memory, idle, unload or shutdown."))
	t.memory, errs[3] = tel.Meter.Int64Gauge("pilotlight.model.memory", metric.WithUnit("By"),
		metric.WithDescription("Memory that sessions take, as measured where the runtime tells, and what is reserved for those in the making."))
	t.sessions, errs[4] = tel.Meter.Int64Gauge("pilotlight.model.sessions",
		metric.WithDescription("Sessions that are warm or in the making."))
	t.cache, errs[5] = tel.Meter.Int64Gauge("pilotlight.model.cache", metric.WithUnit("By"),
		metric.WithDescription("Bytes of artifacts in the disk cache."))
	t.resident, errs[6] = tel.Meter.Int64Gauge("pilotlight.model.memory.resident", metric.WithUnit("By"),
		metric.WithDescription("Memory that the runtimes keep from others, as measured."))
	return t, errors.Join(errs[:]...)
}

// stage starts the clock of a part of a load; the function it gives stops it.
func (t *instruments) stage(ctx context.Context, s telemetry.Stage) (end func()) {
	begin := time.Now()
	_, span := t.tracer.Start(ctx, "load."+string(s), trace.WithTimestamp(begin))
	return func() {
		now := time.Now()
		span.End(trace.WithTimestamp(now))
		t.cold.Record(s, begin, now)
		t.stages.Record(ctx, now.Sub(begin).Seconds(), metric.WithAttributes(attribute.String("stage", string(s))))
	}
}

func (t *instruments) loaded(ctx context.Context, outcome string, d time.Duration) {
	t.loads.Record(ctx, d.Seconds(), metric.WithAttributes(attribute.String("outcome", outcome)))
}

func (t *instruments) evicted(why string) {
	t.evictions.Add(context.Background(), 1, metric.WithAttributes(attribute.String("reason", why)))
}

func (t *instruments) residentBytes(n int64) { t.resident.Record(context.Background(), n) }

func (t *instruments) memoryBytes(bytes int64, sessions int) {
	t.memory.Record(context.Background(), bytes)
	t.sessions.Record(context.Background(), int64(sessions))
}

func (t *instruments) cacheBytes(n int64) { t.cache.Record(context.Background(), n) }

package payload

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// counts are what became of predictions: made = written + dropped, once nothing waits.
type counts struct {
	made, written, dropped, skipped atomic.Int64
	segments, bytes, retries        atomic.Int64
}

// Counts tells how many predictions were made to be kept, how many of them are in the bucket, and how many were dropped.
func (l *Log) Counts() (made, written, dropped int64) {
	return l.counts.made.Load(), l.counts.written.Load(), l.counts.dropped.Load()
}

// measure has the numbers read whenever somebody asks: counting a prediction is then one addition.
func (l *Log) measure(tel *telemetry.Telemetry) error {
	var errs [6]error
	var predictions, segments, bytes, retries metric.Int64ObservableCounter
	var waiting metric.Int64ObservableGauge
	predictions, errs[0] = tel.Meter.Int64ObservableCounter("pilotlight.payload.predictions",
		metric.WithDescription("Predictions by what became of them in the payload log: made (to be kept), and of those written and dropped; skipped were not to be kept."))
	segments, errs[1] = tel.Meter.Int64ObservableCounter("pilotlight.payload.segments",
		metric.WithDescription("Segments of the payload log that were written to the bucket."))
	bytes, errs[2] = tel.Meter.Int64ObservableCounter("pilotlight.payload.bytes", metric.WithUnit("By"),
		metric.WithDescription("Bytes of those segments."))
	retries, errs[3] = tel.Meter.Int64ObservableCounter("pilotlight.payload.retries",
		metric.WithDescription("Attempts to write a segment that failed and were repeated."))
	waiting, errs[4] = tel.Meter.Int64ObservableGauge("pilotlight.payload.memory", metric.WithUnit("By"),
		metric.WithDescription("Memory of the ring in which predictions wait to be written."))
	results := []struct {
		of   metric.MeasurementOption
		read *atomic.Int64
	}{
		{metric.WithAttributes(attribute.String("result", "made")), &l.counts.made},
		{metric.WithAttributes(attribute.String("result", "written")), &l.counts.written},
		{metric.WithAttributes(attribute.String("result", "dropped")), &l.counts.dropped},
		{metric.WithAttributes(attribute.String("result", "skipped")), &l.counts.skipped},
	}
	_, errs[5] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, r := range results {
			o.ObserveInt64(predictions, r.read.Load(), r.of)
		}
		o.ObserveInt64(segments, l.counts.segments.Load())
		o.ObserveInt64(bytes, l.counts.bytes.Load())
		o.ObserveInt64(retries, l.counts.retries.Load())
		l.mu.Lock()
		o.ObserveInt64(waiting, int64(l.made)*chunkSize)
		l.mu.Unlock()
		return nil
	}, predictions, segments, bytes, retries, waiting)
	return errors.Join(errs[:]...)
}

package feedback

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what is measured of outcomes that come in.
type instruments struct {
	outcomes metric.Int64Counter
	groups   metric.Int64Histogram
	took     metric.Float64Histogram
}

func newInstruments(tel *telemetry.Telemetry) (*instruments, error) {
	t := &instruments{}
	var errs [3]error
	t.outcomes, errs[0] = tel.Meter.Int64Counter("pilotlight.feedback.outcomes",
		metric.WithDescription("Outcomes that came, by result (accepted, rejected) and the reason of rejections."))
	t.groups, errs[1] = tel.Meter.Int64Histogram("pilotlight.feedback.group",
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000),
		metric.WithDescription("Outcomes that were written together."))
	t.took, errs[2] = tel.Meter.Float64Histogram("pilotlight.feedback.write.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		metric.WithDescription("How long it took to write outcomes to the bucket, by result (written, failed)."))
	return t, errors.Join(errs[:]...)
}

// count counts the outcomes of one call.
func (t *instruments) count(ctx context.Context, b *batch) {
	if len(b.good) > 0 {
		t.outcomes.Add(ctx, int64(len(b.good)), metric.WithAttributes(attribute.String("result", "accepted"), attribute.String("reason", "")))
	}
	for reason, n := range b.reasons {
		t.outcomes.Add(ctx, int64(n), metric.WithAttributes(attribute.String("result", "rejected"), attribute.String("reason", string(reason))))
	}
}

// group counts a write.
func (t *instruments) group(ctx context.Context, outcomes int, took time.Duration, err error) {
	result := "written"
	if err != nil {
		result = "failed"
	}
	t.groups.Record(ctx, int64(outcomes))
	t.took.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("result", result)))
}

// measure makes the counters of a journal.
func (j *Journal) measure(tel *telemetry.Telemetry) error {
	var errs [2]error
	j.joins, errs[0] = tel.Meter.Int64Counter("pilotlight.feedback.joins",
		metric.WithDescription("Outcomes that were looked up, by result: joined with their predictions, or unknown, as those did not come in time."))
	j.damaged, errs[1] = tel.Meter.Int64Counter("pilotlight.feedback.damaged",
		metric.WithDescription("Objects of the bucket that could not be read, by kind: log (segments and outcomes, which are left out), or window (which begins anew)."))
	return errors.Join(errs[:]...)
}

// count counts what a commit took.
func (j *Journal) count(ctx context.Context, did *Progress) {
	j.joins.Add(ctx, int64(did.Joined), metric.WithAttributes(attribute.String("result", "joined")))
	j.joins.Add(ctx, int64(did.Unknown), metric.WithAttributes(attribute.String("result", "unknown")))
	j.damaged.Add(ctx, int64(len(did.Damaged)), metric.WithAttributes(attribute.String("kind", "log")))
}

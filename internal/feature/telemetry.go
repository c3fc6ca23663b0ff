package feature

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// intake is what is measured of rows that come in. Sources are defined, so their
// names are few enough for labels.
type intake struct {
	rows      metric.Int64Counter
	rejected  metric.Int64Counter
	groups    metric.Int64Histogram
	took      metric.Float64Histogram
	freshness metric.Float64Histogram
	lost      metric.Int64Counter
}

func newIntake(tel *telemetry.Telemetry) (*intake, error) {
	t := &intake{}
	var errs [6]error
	t.rows, errs[0] = tel.Meter.Int64Counter("pilotlight.features.rows",
		metric.WithDescription("Rows that were accepted, by source and by what became of them online: applied, or in some view older than what is there, duplicate, late, or more than a state remembers (refused)."))
	t.rejected, errs[1] = tel.Meter.Int64Counter("pilotlight.features.rejected",
		metric.WithDescription("Rows that were rejected, by source and reason."))
	t.groups, errs[2] = tel.Meter.Int64Histogram("pilotlight.features.group",
		metric.WithExplicitBucketBoundaries(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000),
		metric.WithDescription("Rows that were written together, by source."))
	t.took, errs[3] = tel.Meter.Float64Histogram("pilotlight.features.write.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		metric.WithDescription("How long it took to write rows to the log and online, by source and outcome."))
	t.freshness, errs[4] = tel.Meter.Float64Histogram("pilotlight.features.freshness", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.01, .1, 1, 10, 60, 600, 3600, 6*3600, 24*3600, 7*24*3600, 30*24*3600),
		metric.WithDescription("How old accepted rows were, by the times they are of."))
	t.lost, errs[5] = tel.Meter.Int64Counter("pilotlight.features.races",
		metric.WithDescription("States that another instance had changed in the meantime, and that were computed anew."))
	return t, errors.Join(errs[:]...)
}

var outcomeNames = [...]string{Applied: "applied", Older: "older", Duplicate: "duplicate", Late: "late", Refused: "refused"}

// String gives the outcome's name in metrics.
func (o Outcome) String() string { return outcomeNames[o] }

// count counts the rows of one call.
func (t *intake) count(ctx context.Context, source string, now time.Time, rows []Row, outcomes []Outcome, rejected []Rejection) {
	of := metric.WithAttributeSet(attribute.NewSet(attribute.String("source", source)))
	for i := range rows {
		t.freshness.Record(ctx, now.Sub(time.UnixMicro(rows[i].Event)).Seconds(), of)
	}
	var n [len(outcomeNames)]int64
	for _, o := range outcomes {
		n[o]++
	}
	for o, n := range n {
		if n > 0 {
			t.rows.Add(ctx, n, metric.WithAttributes(attribute.String("source", source), attribute.String("outcome", outcomeNames[o])))
		}
	}
	for _, r := range rejected {
		t.rejected.Add(ctx, 1, metric.WithAttributes(attribute.String("source", source), attribute.String("reason", string(r.Reason))))
	}
}

// group counts a write.
func (t *intake) group(ctx context.Context, source string, rows int, took time.Duration, err error) {
	of := attribute.String("source", source)
	outcome := "written"
	if err != nil {
		outcome = "failed"
	}
	t.groups.Record(ctx, int64(rows), metric.WithAttributes(of))
	t.took.Record(ctx, took.Seconds(), metric.WithAttributes(of, attribute.String("outcome", outcome)))
}

package predict

import (
	"context"
	"errors"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the package measures, by model and version.
type instruments struct {
	duration metric.Float64Histogram
	rows     metric.Int64Counter
	failures metric.Int64Counter
	shadows  metric.Int64Counter
}

func newInstruments(tel *telemetry.Telemetry) (*instruments, error) {
	var t instruments
	var errs [4]error
	t.duration, errs[0] = tel.Meter.Float64Histogram("pilotlight.inference.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5),
		metric.WithDescription("How long a model ran for one request."))
	t.rows, errs[1] = tel.Meter.Int64Counter("pilotlight.inference.rows",
		metric.WithDescription("Rows that models answered."))
	t.failures, errs[2] = tel.Meter.Int64Counter("pilotlight.inference.failures",
		metric.WithDescription("Requests that a version could not answer, by kind of error."))
	t.shadows, errs[3] = tel.Meter.Int64Counter("pilotlight.shadow.requests",
		metric.WithDescription("Requests that shadows were to be asked, by result: asked; and dropped, as the shadow was not loaded yet or others waited already."))
	return &t, errors.Join(errs[:]...)
}

// labels are a version's, in the forms that instruments take: made once, as its
// numbers are recorded with every request.
type labels struct {
	all    metric.MeasurementOption
	add    []metric.AddOption
	record []metric.RecordOption
}

func labelsOf(m *model.Manifest) labels {
	all := metric.WithAttributeSet(attribute.NewSet(
		attribute.String("model", m.Name), attribute.String("version", strconv.Itoa(m.Version))))
	return labels{all, []metric.AddOption{all}, []metric.RecordOption{all}}
}

func (t *instruments) inference(ctx context.Context, labels *labels, spent *timings, err error) {
	if err != nil {
		t.failures.Add(ctx, 1, labels.all, metric.WithAttributes(attribute.String("kind", fault.KindOf(err).String())))
		return
	}
	if spent.ran {
		t.duration.Record(ctx, spent.run.Seconds(), labels.record...)
	}
	t.rows.Add(ctx, spent.rows, labels.add...)
}

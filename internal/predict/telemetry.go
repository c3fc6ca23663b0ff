package predict

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// protocol is how a request came.
type protocol uint8

const (
	byJSON protocol = iota
	byBinary
	byGRPC
	byRows
	byEvent
	protocolCount
)

var protocolNames = [protocolCount]string{"v2_json", "v2_binary", "v2_grpc", "v1", "event"}

// instruments are what the package measures, by model and version.
type instruments struct {
	requests metric.Float64Histogram
	duration metric.Float64Histogram
	failures metric.Int64Counter
	shadows  metric.Int64Counter

	apart  *telemetry.Apart
	mu     sync.Mutex
	labels map[[2]string]*labels // by model and version as metrics tell them
}

func newInstruments(f *Flow, tel *telemetry.Telemetry) (*instruments, error) {
	t := &instruments{apart: tel.Apart, labels: map[[2]string]*labels{}}
	var errs [8]error
	t.requests, errs[0] = tel.Meter.Float64Histogram("pilotlight.inference.request.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
		metric.WithDescription("How long versions took to answer requests, from their bodies' first bytes to the encoded answer, by model, version and protocol (v2_json, v2_binary, v2_grpc, v1, event); of those that were not answered also by error_type: the kind of error, or canceled, where the caller has left."))
	t.duration, errs[1] = tel.Meter.Float64Histogram("pilotlight.inference.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5),
		metric.WithDescription("How long a model ran for one request, by model and version."))
	t.failures, errs[2] = tel.Meter.Int64Counter("pilotlight.inference.failures",
		metric.WithDescription("Requests that a version could not answer, by model, version and kind of error; those of shadows too."))
	t.shadows, errs[3] = tel.Meter.Int64Counter("pilotlight.shadow.requests",
		metric.WithDescription("Requests that shadows were to be asked, by model, version and result: asked; and dropped, as the shadow was not loaded yet or others waited already."))
	// What the statistics of versions have already is read whenever somebody asks, and costs requests nothing.
	var rows, runs metric.Int64ObservableCounter
	var stages metric.Float64ObservableCounter
	rows, errs[4] = tel.Meter.Int64ObservableCounter("pilotlight.inference.rows",
		metric.WithDescription("Rows that models answered, by model, version and source: run, or cache (without a run of their own)."))
	runs, errs[5] = tel.Meter.Int64ObservableCounter("pilotlight.inference.runs",
		metric.WithDescription("Runs of models, by model and version; several requests may share one. Rows of the source run by runs is the size of batches."))
	stages, errs[6] = tel.Meter.Float64ObservableCounter("pilotlight.inference.stage", metric.WithUnit("s"),
		metric.WithDescription("Time that answered requests spent, all together, by model, version and stage: decode, queue (waiting for a session and a turn), run, encode."))
	_, errs[7] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for of, s := range f.sums() {
			o.ObserveInt64(rows, int64(s.rows), of.rowsRun)
			o.ObserveInt64(rows, int64(s.answered-s.rows), of.rowsCached)
			o.ObserveInt64(runs, int64(s.runs), of.all)
			for i, d := range [...]time.Duration{s.input, s.queue, s.infer, s.output} {
				o.ObserveFloat64(stages, d.Seconds(), of.stages[i])
			}
		}
		return nil
	}, rows, runs, stages)
	return t, errors.Join(errs[:]...)
}

// labels are a version's, in the forms that instruments take: made once, as its
// numbers are recorded with every request. Versions that are not told apart share one.
type labels struct {
	all                 metric.MeasurementOption
	record              []metric.RecordOption
	answered            [protocolCount][]metric.RecordOption
	rowsRun, rowsCached metric.MeasurementOption
	stages              [4]metric.MeasurementOption
}

func (t *instruments) labelsOf(m *model.Manifest) *labels {
	name, version := t.apart.Version(m.Name, strconv.Itoa(m.Version))
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.labels[[2]string{name, version}]; l != nil {
		return l
	}
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(more, attribute.String("model", name), attribute.String("version", version))...))
	}
	l := &labels{all: with(), rowsRun: with(attribute.String("source", "run")), rowsCached: with(attribute.String("source", "cache"))}
	l.record = []metric.RecordOption{l.all}
	for p, name := range protocolNames {
		l.answered[p] = []metric.RecordOption{with(attribute.String("protocol", name))}
	}
	for i, name := range [...]string{"decode", "queue", "run", "encode"} {
		l.stages[i] = with(attribute.String("stage", name))
	}
	t.labels[[2]string{name, version}] = l
	return l
}

func (t *instruments) inference(ctx context.Context, labels *labels, line *telemetry.Line, spent *timings, err error) {
	if err != nil {
		t.failures.Add(ctx, 1, labels.all, metric.WithAttributes(attribute.String("kind", fault.KindOf(err).String())))
		return
	}
	if spent.ran {
		line.Measure(ctx, t.duration, spent.run.Seconds(), labels.record)
	}
}

// request measures a caller's request.
func (t *instruments) request(ctx context.Context, labels *labels, by protocol, took time.Duration, err error) {
	if err == nil {
		t.requests.Record(ctx, took.Seconds(), labels.answered[by]...)
		return
	}
	kind := fault.KindOf(err).String()
	if errors.Is(err, context.Canceled) {
		kind = "canceled" // the caller has left, which is nobody's fault here
	}
	t.requests.Record(ctx, took.Seconds(), labels.all, metric.WithAttributes(attribute.String("protocol", protocolNames[by]), semconv.ErrorTypeKey.String(kind)))
}

// sums are of all versions with the same labels.
type sums struct {
	answered, rows, runs        uint64
	input, queue, infer, output time.Duration
}

func (f *Flow) sums() map[*labels]*sums {
	all := map[*labels]*sums{}
	f.served.Range(func(_, v any) bool {
		s := v.(*served)
		sum := all[s.labels]
		if sum == nil {
			sum = &sums{}
			all[s.labels] = sum
		}
		s.stats.mu.Lock()
		defer s.stats.mu.Unlock()
		sum.answered += s.stats.answered
		sum.rows += s.stats.rows
		sum.runs += s.stats.runs
		sum.input += s.stats.input.d
		sum.queue += s.stats.queue.d
		sum.infer += s.stats.infer.d
		sum.output += s.stats.output.d
		return true
	})
	return all
}

package telemetry

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

// meter makes the SDK's instruments, but for histograms: each request is recorded in half a dozen of them, and the SDK's took
// three to four times as long as these (docs/adr/0034). Readers get them from a Producer beside what the SDK has counted.
type meter struct {
	metric.Meter
	all *histograms
}

// Float64Histogram makes an instrument for values.
func (m meter) Float64Histogram(name string, options ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	c := metric.NewFloat64HistogramConfig(options...)
	return floatHistogram{histogram: m.all.open(name, c.Description(), c.Unit(), c.ExplicitBucketBoundaries())}, nil
}

// Int64Histogram makes an instrument for whole values.
func (m meter) Int64Histogram(name string, options ...metric.Int64HistogramOption) (metric.Int64Histogram, error) {
	c := metric.NewInt64HistogramConfig(options...)
	return intHistogram{histogram: m.all.open(name, c.Description(), c.Unit(), c.ExplicitBucketBoundaries())}, nil
}

type floatHistogram struct {
	embedded.Float64Histogram
	*histogram
}

// Record counts a value.
func (h floatHistogram) Record(ctx context.Context, value float64, options ...metric.RecordOption) {
	h.record(ctx, value, options)
}

type intHistogram struct {
	embedded.Int64Histogram
	*histogram
}

// Record counts a value.
func (h intHistogram) Record(ctx context.Context, value int64, options ...metric.RecordOption) {
	h.record(ctx, float64(value), options)
}

// histograms are all of a process.
type histograms struct {
	begun time.Time

	mu  sync.Mutex
	all []*histogram
}

// usualBounds are those of OpenTelemetry's specification, for who says none.
var usualBounds = []float64{0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000}

// open gives the histogram of a name, the same to all who ask for it: the first says what it is like.
func (hs *histograms) open(name, description, unit string, bounds []float64) *histogram {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if i := slices.IndexFunc(hs.all, func(h *histogram) bool { return h.name == name }); i >= 0 {
		return hs.all[i]
	}
	if len(bounds) == 0 {
		bounds = usualBounds
	}
	h := &histogram{name: name, description: description, unit: unit, bounds: bounds}
	hs.all = append(hs.all, h)
	return h
}

// histogram counts values in buckets, for each set of attributes apart.
type histogram struct {
	name, description, unit string
	bounds                  []float64 // a bucket takes values up to and with its bound; the last, all others

	sets sync.Map // *series by attribute.Distinct
	mu   sync.Mutex
	n    int // of sets
}

// setsMost is how many sets of attributes are told apart, as in the SDK; all others are one.
const setsMost = 2000

var others = attribute.NewSet(attribute.Bool("otel.metric.overflow", true))

// series is what was counted of a set of attributes.
type series struct {
	attributes attribute.Set
	sum        atomic.Uint64 // the bits of a float64
	buckets    []bucket
}

type bucket struct {
	n       atomic.Uint64
	example atomic.Pointer[metricdata.Exemplar[float64]] // the last value whose trace is kept
}

// Enabled is true: somebody may read it.
func (h *histogram) Enabled(context.Context) bool { return true }

func (h *histogram) record(ctx context.Context, value float64, options []metric.RecordOption) {
	if math.IsNaN(value) {
		return
	}
	c := metric.NewRecordConfig(options)
	of := c.Attributes()
	s := h.of(&of)
	at, _ := slices.BinarySearch(h.bounds, value)
	b := &s.buckets[at]
	for {
		old := s.sum.Load()
		if s.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value)) {
			break
		}
	}
	b.n.Add(1) // last: who sees the count sees the value in the sum
	if sampled(ctx) {
		sc := trace.SpanContextFromContext(ctx)
		id, span := sc.TraceID(), sc.SpanID()
		b.example.Store(&metricdata.Exemplar[float64]{Time: time.Now(), Value: value, TraceID: id[:], SpanID: span[:]})
	}
}

// sampled tells whether the trace that ctx belongs to is kept.
func sampled(ctx context.Context) bool {
	span := trace.SpanFromContext(ctx)
	if p, ok := span.(*part); ok {
		return p.sampled.Load()
	}
	return span.SpanContext().IsSampled()
}

func (h *histogram) of(attributes *attribute.Set) *series {
	if s, ok := h.sets.Load(attributes.Equivalent()); ok {
		return s.(*series)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n >= setsMost-1 {
		if s, ok := h.sets.Load(attributes.Equivalent()); ok {
			return s.(*series)
		}
		attributes = &others
	}
	s, known := h.sets.LoadOrStore(attributes.Equivalent(), &series{attributes: *attributes, buckets: make([]bucket, len(h.bounds)+1)})
	if !known {
		h.n++
	}
	return s.(*series)
}

// point gives what was counted since the beginning. What is recorded meanwhile may be in the sum and not yet in the count.
func (s *series) point(bounds []float64) metricdata.HistogramDataPoint[float64] {
	p := metricdata.HistogramDataPoint[float64]{
		Attributes: s.attributes, Bounds: bounds, BucketCounts: make([]uint64, len(s.buckets)),
	}
	for i := range s.buckets {
		p.BucketCounts[i] = s.buckets[i].n.Load()
		p.Count += p.BucketCounts[i]
		if e := s.buckets[i].example.Load(); e != nil {
			p.Exemplars = append(p.Exemplars, *e)
		}
	}
	p.Sum = math.Float64frombits(s.sum.Load()) // after the counts
	return p
}

var _ sdkmetric.Producer = (*histograms)(nil)

// Produce gives all that was counted since the beginning.
func (hs *histograms) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	return hs.produce(metricdata.CumulativeTemporality, func(_ *series, p *metricdata.HistogramDataPoint[float64], now time.Time) bool {
		p.StartTime, p.Time = hs.begun, now
		return true
	}), nil
}

// produce gives all histograms, their points as take leaves them; false: without this one.
func (hs *histograms) produce(as metricdata.Temporality, take func(*series, *metricdata.HistogramDataPoint[float64], time.Time) bool) []metricdata.ScopeMetrics {
	hs.mu.Lock()
	all := slices.Clone(hs.all)
	hs.mu.Unlock()
	now := time.Now()
	out := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: scope}}
	for _, h := range all {
		data := metricdata.Histogram[float64]{Temporality: as}
		h.sets.Range(func(_, v any) bool {
			s := v.(*series)
			if p := s.point(h.bounds); take(s, &p, now) {
				data.DataPoints = append(data.DataPoints, p)
			}
			return true
		})
		if len(data.DataPoints) > 0 {
			out.Metrics = append(out.Metrics, metricdata.Metrics{Name: h.name, Description: h.description, Unit: h.unit, Data: data})
		}
	}
	if len(out.Metrics) == 0 {
		return nil
	}
	return []metricdata.ScopeMetrics{out}
}

// differences give what was counted since they were asked the last time. They are for one reader, which asks once at a time.
type differences struct {
	of   *histograms
	last time.Time
	was  map[*series]metricdata.HistogramDataPoint[float64]
}

func (hs *histograms) differences() *differences {
	return &differences{of: hs, last: hs.begun, was: map[*series]metricdata.HistogramDataPoint[float64]{}}
}

// Produce implements sdkmetric.Producer.
func (d *differences) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	since := d.last
	return d.of.produce(metricdata.DeltaTemporality, func(s *series, p *metricdata.HistogramDataPoint[float64], now time.Time) bool {
		was := d.was[s]
		if d.last = now; p.Count == was.Count {
			return false // and what is in the sum already is for the next time
		}
		d.was[s] = *p
		p.BucketCounts = slices.Clone(p.BucketCounts)
		for i := range was.BucketCounts {
			p.BucketCounts[i] -= was.BucketCounts[i]
		}
		p.Count -= was.Count
		p.Sum -= was.Sum
		p.StartTime, p.Time = since, now
		p.Exemplars = slices.DeleteFunc(slices.Clone(p.Exemplars), func(e metricdata.Exemplar[float64]) bool { return e.Time.Before(since) })
		return true
	}), nil
}

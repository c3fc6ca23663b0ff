package telemetry

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// pair has everything recorded by the SDK and by us.
type pair struct {
	float [2]metric.Float64Histogram
	whole [2]metric.Int64Histogram
	read  func() (theirs, ours metricdata.ResourceMetrics)
}

// newPair makes both for a reader of that temporality. The second reader has none but ours.
func newPair(t testing.TB, as metricdata.Temporality) *pair {
	t.Helper()
	selector := sdkmetric.WithTemporalitySelector(func(sdkmetric.InstrumentKind) metricdata.Temporality { return as })
	all := &histograms{}
	var by sdkmetric.Producer = all
	if as == metricdata.DeltaTemporality {
		by = all.differences()
	}
	theirs, ours := sdkmetric.NewManualReader(selector), sdkmetric.NewManualReader(selector, sdkmetric.WithProducer(by))
	meters := []metric.Meter{
		sdkmetric.NewMeterProvider(sdkmetric.WithReader(theirs)).Meter(scope),
		meter{sdkmetric.NewMeterProvider(sdkmetric.WithReader(ours)).Meter(scope), all},
	}
	p := &pair{read: func() (a, b metricdata.ResourceMetrics) {
		for reader, into := range map[*sdkmetric.ManualReader]*metricdata.ResourceMetrics{theirs: &a, ours: &b} {
			if err := reader.Collect(t.Context(), into); err != nil {
				t.Fatal(err)
			}
		}
		return a, b
	}}
	for i, m := range meters {
		var err error
		if p.float[i], err = m.Float64Histogram("f", metric.WithUnit("s"), metric.WithDescription("d"), metric.WithExplicitBucketBoundaries(-1, 0, .5, 1, 10)); err != nil {
			t.Fatal(err)
		}
		if p.whole[i], err = m.Int64Histogram("w"); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// flat is what was counted, for comparing.
type flat struct {
	name, unit, description string
	as                      metricdata.Temporality
	attributes              attribute.Distinct
	count                   uint64
	sum                     float64
	bounds                  string
	buckets                 string
}

func flatten(t testing.TB, all *metricdata.ResourceMetrics) map[flat]bool {
	t.Helper()
	out := map[flat]bool{}
	for _, s := range all.ScopeMetrics {
		if s.Scope.Name != scope {
			t.Errorf("got scope %q", s.Scope.Name)
		}
		for _, m := range s.Metrics {
			f := flat{name: m.Name, unit: m.Unit, description: m.Description}
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for i := range d.DataPoints {
					p := &d.DataPoints[i]
					f.as, f.attributes, f.count, f.sum = d.Temporality, p.Attributes.Equivalent(), p.Count, math.Round(p.Sum*1e6)
					f.bounds, f.buckets = text(p.Bounds), text(p.BucketCounts)
					out[f] = true
				}
			case metricdata.Histogram[int64]:
				for i := range d.DataPoints {
					p := &d.DataPoints[i]
					f.as, f.attributes, f.count, f.sum = d.Temporality, p.Attributes.Equivalent(), p.Count, float64(p.Sum)*1e6
					f.bounds, f.buckets = text(p.Bounds), text(p.BucketCounts)
					out[f] = true
				}
			default:
				t.Errorf("got a %T", d)
			}
		}
	}
	return out
}

func text[T float64 | uint64](values []T) (s string) {
	for _, v := range values {
		s += strconv.FormatFloat(float64(v), 'g', -1, 64) + " "
	}
	return s
}

func TestHistogramsCountAsTheSDKDoes(t *testing.T) {
	for _, as := range []metricdata.Temporality{metricdata.CumulativeTemporality, metricdata.DeltaTemporality} {
		p := newPair(t, as)
		values := []float64{-2, -1, -.5, 0, .25, .5, .75, 1, 5, 10, 11, math.Inf(1)}
		for round := range 3 {
			for range 200 * (round % 2) { // nothing was counted in the first and since the last
				of := metric.WithAttributes(attribute.Int("a", rand.IntN(3)), attribute.String("b", "x"))
				v := values[rand.IntN(len(values)-1)]
				for i := range 2 {
					p.float[i].Record(t.Context(), v, of)
					p.whole[i].Record(t.Context(), int64(100*v))
				}
			}
			a, b := p.read()
			theirs, ours := flatten(t, &a), flatten(t, &b)
			if as == metricdata.DeltaTemporality && round == 2 { // the SDK tells of what was not counted, too
				theirs = map[flat]bool{}
			}
			for f := range theirs {
				if !ours[f] {
					t.Errorf("%v, round %d: the SDK has %+v, and we have %v", as, round, f, ours)
				}
			}
			if len(theirs) != len(ours) {
				t.Errorf("%v, round %d: %d points, and the SDK has %d", as, round, len(ours), len(theirs))
			}
		}
	}
}

func TestHistogramsTellSoManyApart(t *testing.T) {
	p := newPair(t, metricdata.CumulativeTemporality)
	for n := range 2 * setsMost {
		p.whole[1].Record(t.Context(), 1, metric.WithAttributes(attribute.Int("n", n)))
		p.whole[1].Record(t.Context(), 1, metric.WithAttributes(attribute.Int("n", 0)))
	}
	p.float[1].Record(t.Context(), math.NaN())
	_, all := p.read()
	points := all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints
	count, other := uint64(0), uint64(0)
	for i := range points {
		count += points[i].Count
		if points[i].Attributes.Equivalent() == others.Equivalent() {
			other = points[i].Count
		}
	}
	if len(points) != setsMost || count != 4*setsMost || other != setsMost+1 || len(all.ScopeMetrics[0].Metrics) != 1 {
		t.Errorf("got %d sets with %d values, %d of them of others, want %d with %d and %d", len(points), count, other, setsMost, 4*setsMost, setsMost+1)
	}
}

func TestHistogramsAtOnce(t *testing.T) {
	p := newPair(t, metricdata.DeltaTemporality)
	const each, writers = 2000, 4
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for range each {
				p.float[1].Record(t.Context(), .5, metric.WithAttributes(attribute.Int("w", w%2)))
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	count, sum := uint64(0), 0.0
	for more := true; more; {
		select {
		case <-done:
			more = false
		default:
		}
		_, b := p.read()
		for _, s := range b.ScopeMetrics {
			for _, point := range s.Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints {
				count += point.Count
				sum += point.Sum
				if !slices.Equal(point.BucketCounts, []uint64{0, 0, point.Count, 0, 0, 0}) {
					t.Errorf("got buckets %v of %d", point.BucketCounts, point.Count)
				}
			}
		}
	}
	if count != each*writers || sum != each*writers/2 {
		t.Errorf("got %d values, %v all together, want %d and %d", count, sum, each*writers, each*writers/2)
	}
}

// What a value costs, of the SDK's and of ours.
func BenchmarkHistogram(b *testing.B) {
	p := newPair(b, metricdata.CumulativeTemporality)
	of := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("model", "m"), attribute.String("version", "1")))}
	for i, name := range []string{"SDK", "ours"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p.float[i].Record(context.Background(), .25, of...)
			}
		})
	}
}

package feature

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// statusNames are what metrics call them.
var statusNames = [...]string{Invalid: "invalid", Present: "present", NullValue: "null_value", NotFound: "not_found", OutsideMaxAge: "outside_max_age"}

// agesEvery is of how many reads one has the ages of what it found measured.
const agesEvery = 16

// reads are what is measured of reads. Views are defined, so their names are few enough for labels. What
// a value was found to be is counted by one addition for each view of a read.
type reads struct {
	took  metric.Float64Histogram
	ages  metric.Float64Histogram
	asked atomic.Uint64
	rows  atomic.Int64 // of entities

	inMemory, inStore atomic.Int64 // rows of the online store that were looked up, by where they were

	read, failed []metric.RecordOption

	mu    sync.RWMutex
	views map[string]*viewReads
}

// viewReads is what was read of a view.
type viewReads struct {
	view     string
	labels   []metric.RecordOption
	statuses [len(statusNames)]atomic.Int64
	newest   atomic.Int64 // the time of the newest value that was read, in microseconds since 1970
}

// Measure has reads measured. It comes before the first.
func (t *Table) Measure(tel *telemetry.Telemetry) error {
	outcome := func(name string) []metric.RecordOption {
		return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", name)))}
	}
	r := &reads{views: map[string]*viewReads{}, read: outcome("read"), failed: outcome("failed")}
	var errs [7]error
	r.took, errs[0] = tel.Meter.Float64Histogram("pilotlight.features.read.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1),
		metric.WithDescription("How long it took to read and compute the features of a request, by outcome: read or failed."))
	var rows metric.Int64ObservableCounter
	rows, errs[1] = tel.Meter.Int64ObservableCounter("pilotlight.features.read.rows",
		metric.WithDescription("Entity rows that were read."))
	r.ages, errs[2] = tel.Meter.Float64Histogram("pilotlight.features.age", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.1, 1, 10, 60, 600, 3600, 6*3600, 24*3600, 7*24*3600, 30*24*3600),
		metric.WithDescription("How old the oldest value of a view was that a read found, by view; of one in 16 reads."))
	var values metric.Int64ObservableCounter
	var newest metric.Float64ObservableGauge
	values, errs[3] = tel.Meter.Int64ObservableCounter("pilotlight.features.values",
		metric.WithDescription("Values that were read, by view (or expression) and status: present, null_value, not_found, outside_max_age, invalid. The share of present ones is the hit rate."))
	newest, errs[4] = tel.Meter.Float64ObservableGauge("pilotlight.features.newest.age", metric.WithUnit("s"),
		metric.WithDescription("How old the newest value is that was read, by view."))
	var lookups metric.Int64ObservableCounter
	lookups, errs[5] = tel.Meter.Int64ObservableCounter("pilotlight.features.lookups",
		metric.WithDescription("Rows of the online store that reads needed, by where they came from: the process's memory (ONLINE_CACHE) or the store."))
	memory, online := metric.WithAttributes(attribute.String("from", "memory")), metric.WithAttributes(attribute.String("from", "store"))
	_, errs[6] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(rows, r.rows.Load())
		o.ObserveInt64(lookups, r.inMemory.Load(), memory)
		o.ObserveInt64(lookups, r.inStore.Load(), online)
		r.mu.RLock()
		views := maps.Clone(r.views)
		r.mu.RUnlock()
		for _, v := range views {
			view := attribute.String("view", v.view)
			for s := range v.statuses {
				if n := v.statuses[s].Load(); n > 0 {
					o.ObserveInt64(values, n, metric.WithAttributes(view, attribute.String("status", statusNames[s])))
				}
			}
			if at := v.newest.Load(); at > 0 {
				o.ObserveFloat64(newest, max(time.Since(time.UnixMicro(at)).Seconds(), 0), metric.WithAttributes(view))
			}
		}
		return nil
	}, rows, lookups, values, newest)
	t.measured = r
	return errors.Join(errs[:]...)
}

func (r *reads) of(view string) *viewReads {
	r.mu.RLock()
	v := r.views[view]
	r.mu.RUnlock()
	if v != nil {
		return v
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v = r.views[view]; v == nil {
		v = &viewReads{view: view, labels: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("view", view)))}}
		r.views[view] = v
	}
	return v
}

// count measures a read.
func (r *reads) count(ctx context.Context, p *Plan, a *Answers, at time.Time, took time.Duration, err error) {
	if r == nil {
		return
	}
	if err != nil {
		r.took.Record(ctx, took.Seconds(), r.failed...)
		return
	}
	r.took.Record(ctx, took.Seconds(), r.read...)
	r.rows.Add(int64(a.rows))
	ages := r.asked.Add(1)%agesEvery == 1
	for c := 0; c < len(p.Columns); {
		v := r.of(p.Columns[c].View)
		var statuses [len(statusNames)]int64
		oldest, newest := int64(0), int64(0)
		for ; c < len(p.Columns) && p.Columns[c].View == v.view; c++ {
			for _, answer := range a.Column(c) {
				statuses[answer.Status]++
				if answer.Status == Present && answer.Event > 0 {
					newest = max(newest, answer.Event)
					if oldest == 0 || answer.Event < oldest {
						oldest = answer.Event
					}
				}
			}
		}
		for s, n := range statuses {
			if n > 0 {
				v.statuses[s].Add(n)
			}
		}
		for old := v.newest.Load(); newest > old && !v.newest.CompareAndSwap(old, newest); old = v.newest.Load() {
		}
		if ages && oldest > 0 {
			r.ages.Record(ctx, max(at.Sub(time.UnixMicro(oldest)).Seconds(), 0), v.labels...)
		}
	}
}

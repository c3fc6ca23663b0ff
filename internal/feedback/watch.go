package feedback

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// watcher answers what rules ask, for one evaluation of them: what several ask of the same time is read once.
type watcher struct {
	*Windows
	catalog *model.Catalog
	spans   map[[2]int64]*window
}

var _ alert.Source = (*watcher)(nil)

// Samples implements alert.Source for what the payload log and the outcomes tell.
func (w *watcher) Samples(ctx context.Context, q *alert.Query) ([]alert.Sample, error) {
	if len(q.Slice) > 0 {
		return nil, fault.New(fault.Invalid, "%s is not counted by slices", q.Metric)
	}
	var value func(t *traffic) (alert.Sample, bool)
	switch q.Metric {
	case alert.ErrorRate:
		value = func(t *traffic) (alert.Sample, bool) { return errorRate(t), t.Kept > 0 }
	case "latency_p50", "latency_p95", "latency_p99":
		p, _ := strconv.ParseFloat(q.Metric[len("latency_p"):], 64) // one of the three
		value = func(t *traffic) (alert.Sample, bool) {
			v, ok := t.quantile(p / 100)
			return plain(v, t.Kept), ok
		}
	case "freshness_prediction":
		value = func(t *traffic) (alert.Sample, bool) {
			return plain(max(q.Until.Sub(time.UnixMicro(t.Last)).Seconds(), 0), t.Kept), t.Kept > 0
		}
	case "freshness_outcome":
		return w.outcomes(ctx, q)
	default:
		return nil, fault.New(fault.Invalid, "%s is not measured here", q.Metric)
	}
	version := q.Version
	if version != "" {
		m, err := w.catalog.Resolve(ctx, model.Ref{Name: q.Model, Version: version})
		if err != nil {
			return nil, err
		}
		version = strconv.Itoa(m.Version)
	}
	span := [2]int64{q.From.UnixMicro(), q.Until.UnixMicro()}
	all := w.spans[span]
	if all == nil {
		var err error
		if all, err = w.span(ctx, q.From, q.Until); err != nil {
			return nil, err
		}
		w.spans[span] = all
	}
	var samples []alert.Sample
	for _, name := range slices.Sorted(maps.Keys(all.Models)) {
		if q.Model != "*" && q.Model != name {
			continue
		}
		for _, v := range slices.Sorted(maps.Keys(all.Models[name])) {
			if version != "" && v != version {
				continue
			}
			if s, ok := value(all.Models[name][v]); ok {
				s.Model, s.Version = name, v
				samples = append(samples, s)
			}
		}
	}
	return samples, nil
}

// plain is a sample without an interval.
func plain(v float64, n int64) alert.Sample {
	return alert.Sample{Value: v, Low: math.NaN(), High: math.NaN(), Count: n}
}

// errorRate has the interval of Wilson (Journal of the American Statistical Association 22, 1927) at 95 %. Where
// only a share of predictions is kept, the rows that there are count for it, not those that they stand for.
func errorRate(t *traffic) alert.Sample {
	const z = 1.959964
	p, n := t.Failed/t.Made, float64(t.Kept)
	middle, spread := (p+z*z/(2*n))/(1+z*z/n), z/(1+z*z/n)*math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return alert.Sample{Value: p, Low: max(middle-spread, 0), High: min(middle+spread, 1), Count: t.Kept}
}

// outcomes tells how old the newest outcome is. Outcomes name predictions, and need not name models: so it is that of all.
func (w *watcher) outcomes(ctx context.Context, q *alert.Query) ([]alert.Sample, error) {
	newest, n := int64(0), int64(0)
	after := fmt.Sprintf("%s%016d", InboxPrefix, max(q.From.UnixMicro(), 1))
	for o, err := range w.blob.List(ctx, InboxPrefix, after) {
		if err != nil {
			return nil, fmt.Errorf("list outcomes: %w", err)
		}
		if len(o.Key) < len(after) {
			continue
		}
		if at, err := strconv.ParseInt(o.Key[len(InboxPrefix):len(after)], 10, 64); err == nil {
			newest = max(newest, at)
			n++
		}
	}
	if n == 0 {
		return nil, nil
	}
	s := plain(max(q.Until.Sub(time.UnixMicro(newest)).Seconds(), 0), n)
	s.Model = q.Model
	return []alert.Sample{s}, nil
}

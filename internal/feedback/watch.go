package feedback

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// watcher answers what rules ask, for one evaluation of them: what several ask of the same time is read once.
type watcher struct {
	*Journal
	spans map[[2]int64]*window
}

var _ alert.Source = (*watcher)(nil)

// Samples implements alert.Source for what the payload log and the outcomes tell.
func (w *watcher) Samples(ctx context.Context, q *alert.Query) ([]alert.Sample, error) {
	switch q.Metric {
	case "drift", "drift_share", "psi", "js", "ks":
		if len(q.Slice) > 0 {
			return nil, fault.New(fault.Invalid, "%s is not told by slices", q.Metric)
		}
		return w.each(ctx, q, w.drifted)
	}
	if isQuality(strings.TrimPrefix(q.Metric, estimated)) {
		return w.each(ctx, q, w.judged)
	}
	if len(q.Slice) > 0 {
		return nil, fault.New(fault.Invalid, "%s is not counted by slices", q.Metric)
	}
	var value func(t *traffic) (alert.Sample, bool)
	switch q.Metric {
	case alert.ErrorRate:
		value = func(t *traffic) (alert.Sample, bool) {
			s := errorRate(t)
			s.Examples = t.Faults.told()
			return s, t.Kept > 0
		}
	case "latency_p50", "latency_p95", "latency_p99":
		p, _ := strconv.ParseFloat(q.Metric[len("latency_p"):], 64) // one of the three
		value = func(t *traffic) (alert.Sample, bool) {
			v, ok := t.quantile(p / 100)
			s := plain(v, t.Kept)
			s.Examples = t.Slow.told()
			return s, ok
		}
	case "freshness_prediction":
		value = func(t *traffic) (alert.Sample, bool) { return age(q, t.Last, t.Kept), t.Kept > 0 }
	case "freshness_feature":
		value = func(t *traffic) (alert.Sample, bool) { return age(q, t.Feature, t.Kept), t.Feature > 0 }
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

// isQuality tells which metrics of quality rules may name.
func isQuality(metric string) bool {
	for _, task := range [...]quality.Task{quality.Binary, quality.Multiclass, quality.Regression} {
		if slices.ContainsFunc(quality.Metrics(task), func(a quality.About) bool { return a.Name == metric }) {
			return true
		}
	}
	return false
}

// each asks about the model of a query, or about each that there is.
func (w *watcher) each(ctx context.Context, q *alert.Query, ask func(context.Context, *Question, *alert.Query) ([]alert.Sample, error)) ([]alert.Sample, error) {
	if span := q.Until.Sub(q.From); span > spanMost {
		return nil, fault.New(fault.Invalid, "a window of %s is longer than the %s that are looked back at", span, spanMost)
	}
	names := []string{q.Model}
	if q.Model == "*" {
		var err error
		if names, err = w.catalog.Models(ctx); err != nil {
			return nil, err
		}
	}
	var all []alert.Sample
	for _, name := range names {
		question := &Question{Model: name, From: q.From, Until: q.Until}
		if q.Version != "" {
			m, err := w.catalog.Resolve(ctx, model.Ref{Name: name, Version: q.Version})
			if fault.Is(err, fault.NotFound) && q.Model == "*" {
				continue
			}
			if err != nil {
				return nil, err
			}
			question.Version = m.Version
		}
		samples, err := ask(ctx, question, q)
		if err != nil {
			return nil, err
		}
		for i := range samples {
			samples[i].Model = name
		}
		all = append(all, samples...)
	}
	return all, nil
}

// estimated is what metrics of quality are called by as long as there are no outcomes.
const estimated = "estimated_"

// judged tells a metric of quality.
func (w *watcher) judged(ctx context.Context, question *Question, q *alert.Query) ([]alert.Sample, error) {
	metric, estimate := strings.CutPrefix(q.Metric, estimated)
	slice := ""
	switch len(q.Slice) {
	case 0:
	case 1:
		for column, v := range q.Slice {
			question.Slice, slice = column, column+"="+v
		}
	default:
		return nil, fault.New(fault.Invalid, "quality is told by one column of a slice, not by %d together", len(q.Slice))
	}
	f, err := frameOf(question)
	if err != nil {
		return nil, err
	}
	learn := f
	if estimate { // what scores mean is learnt from all outcomes that there are
		learn.from = startOf(max(q.Until.Add(-spanMost).UnixMicro(), 0), wide)
	}
	all, err := w.look(ctx, question, f)
	if err != nil {
		return nil, err
	}
	if !all.sliced {
		return nil, fault.New(fault.Invalid, "answers of %s are not told apart by %s; name it in quality.slices when a version is pushed", question.Model, question.Slice)
	}
	labelled := all
	if estimate && learn != f {
		if labelled, err = w.look(ctx, question, learn); err != nil {
			return nil, err
		}
	}
	var samples []alert.Sample
	for p, state := range all.states {
		if p.slice != slice {
			continue
		}
		var metrics map[string]quality.Metric
		var worst []event.Example
		if !estimate {
			metrics, worst = state.Report().Metrics, all.wrong[p].told()
		} else if state.Spec().Task == quality.Binary {
			e, err := state.Estimate(labelled.states[p])
			if err != nil {
				return nil, err
			}
			metrics = e.Metrics
		}
		m, ok := metrics[metric]
		if !ok {
			continue
		}
		s := plain(m.Value, m.N)
		s.Version, s.Examples = strconv.Itoa(p.version), worst
		if m.Interval != nil {
			s.Low, s.High = m.Interval.Low, m.Interval.High
		}
		samples = append(samples, s)
	}
	slices.SortFunc(samples, func(a, b alert.Sample) int { return strings.Compare(a.Version, b.Version) })
	return samples, nil
}

// drifted tells how many columns have moved, or how far one has.
func (w *watcher) drifted(ctx context.Context, question *Question, q *alert.Query) ([]alert.Sample, error) {
	d, err := w.Moved(ctx, question, drift.Default)
	if err != nil {
		return nil, err
	}
	var samples []alert.Sample
	for _, v := range d.Versions {
		if v.Report == nil || v.Report.Verdict == drift.TooFew {
			continue
		}
		s := plain(0, int64(v.Report.Rows))
		moved := 0
		for i := range v.Report.Columns {
			if v.Report.Columns[i].Verdict == drift.Drifted {
				moved++
			}
		}
		switch q.Metric {
		case "drift":
			s.Value, s.Examples = float64(moved), v.oddest()
		case "drift_share":
			s.Value, s.Examples = float64(moved)/float64(len(v.Report.Columns)), v.oddest()
		default:
			at := slices.IndexFunc(v.Report.Columns, func(c drift.ColumnReport) bool { return c.Name == q.Column })
			if at < 0 {
				return nil, fault.New(fault.Invalid, "the training reference of %s:%d has no column %q", question.Model, v.Version, q.Column)
			}
			value, ok := distance(&v.Report.Columns[at], q.Metric)
			if !ok {
				return nil, fault.New(fault.Invalid, "%s is of numbers, which %q are not", q.Metric, q.Column)
			}
			s.Value, s.Count, s.Examples = value, int64(v.Report.Columns[at].Values), v.Examples[q.Column]
		}
		s.Version = strconv.Itoa(v.Version)
		samples = append(samples, s)
	}
	return samples, nil
}

// oddest names the oddest prediction of each column that has drifted, those first that have moved furthest.
func (d *Drifted) oddest() (all []event.Example) {
	columns := slices.Clone(d.Report.Columns)
	slices.SortStableFunc(columns, func(a, b drift.ColumnReport) int { return cmp.Compare(b.PSI, a.PSI) })
	for n := range examplesMost { // the oddest of each, then the second one
		for i := range columns {
			if own := d.Examples[columns[i].Name]; n < len(own) && len(all) < examplesMost && !slices.Contains(all, own[n]) {
				all = append(all, own[n])
			}
		}
	}
	return all
}

// distance is that of a column from its reference.
func distance(c *drift.ColumnReport, metric string) (float64, bool) {
	switch metric {
	case "psi":
		return c.PSI, true
	case "js":
		return c.JS, true
	}
	for _, t := range c.Tests {
		if t.Name == drift.KS {
			return t.Statistic, true
		}
	}
	return 0, false
}

// age is how old something was at the end of what is asked about.
func age(q *alert.Query, micros, count int64) alert.Sample {
	return plain(max(q.Until.Sub(time.UnixMicro(micros)).Seconds(), 0), count)
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
	for _, prefix := range [...]string{InboxPrefix, LogPrefix} { // the way that they go
		after := fmt.Sprintf("%s%016d", prefix, max(q.From.UnixMicro(), 1))
		for o, err := range w.blob.List(ctx, prefix, after) {
			if err != nil {
				return nil, fmt.Errorf("list outcomes: %w", err)
			}
			if len(o.Key) < len(after) {
				continue
			}
			if at, err := strconv.ParseInt(o.Key[len(prefix):len(after)], 10, 64); err == nil {
				newest = max(newest, at)
				n++
			}
		}
	}
	if n == 0 {
		return nil, nil
	}
	s := plain(max(q.Until.Sub(time.UnixMicro(newest)).Seconds(), 0), n)
	s.Model = q.Model
	return []alert.Sample{s}, nil
}

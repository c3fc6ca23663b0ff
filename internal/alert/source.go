package alert

import (
	"context"
	"math"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Query asks for one metric.
type Query struct {
	Model   string            // "*": every one
	Version string            // a number or an alias; "": those that were asked in the time, each by itself
	Metric  string            // a name of quality, "estimated_" and one, or one of the others that a rule may name, but never Burn
	Column  string            // of psi, js and ks
	Slice   map[string]string // values of columns; empty: everything
	From    time.Time
	Until   time.Time
}

// Sample is what a metric was for a version of a model.
type Sample struct {
	Model   string
	Version string // its number; "" where the metric is not of a version
	Value   float64
	Low     float64 // the bounds of its confidence interval; NaN: there is none
	High    float64
	Count   int64 // rows that it is of
	// Examples are rows of predictions that show the metric at its worst, that which shows it best first; none: there are none, or it is no metric of single ones.
	Examples []event.Example
}

// Source knows what metrics were.
type Source interface {
	// Samples answers a query with at most one sample for each version of a model;
	// no data is no samples. NotFound says that there is no such model or version, which is
	// no data either; Invalid that there can't be an answer: no such metric, column or slice.
	// Any other error says that it is not known for now.
	Samples(ctx context.Context, q *Query) ([]Sample, error)
}

// Reading is what a Source said to one rule.
type Reading struct {
	Samples []Sample
	Trouble string // why there are none, in a sentence; then nothing is concluded
}

// Read asks a source what a rule is about.
//
// The burn of an error budget is the share of requests that failed by that which the
// objective allows. It is that of the whole window or of the short one at its end, whichever is lower:
// so it is high only if much of the budget is gone and still goes. A version that nobody
// asked in the short window burns nothing there.
func Read(ctx context.Context, source Source, r *Rule, now time.Time) Reading {
	q := Query{Model: r.Model, Version: string(r.Version), Metric: r.Metric, Column: r.Column, Slice: r.Slice, From: now.Add(-time.Duration(r.Window)), Until: now}
	if r.Metric != Burn {
		return query(ctx, source, &q)
	}
	q.Metric = ErrorRate
	long := query(ctx, source, &q)
	if long.Trouble != "" || len(long.Samples) == 0 {
		return long
	}
	q.From = now.Add(-r.short())
	short := query(ctx, source, &q)
	if short.Trouble != "" {
		return short
	}
	recent := map[[2]string]Sample{}
	for _, s := range short.Samples {
		recent[[2]string{s.Model, s.Version}] = s
	}
	budget := 1 - r.Objective
	for i := range long.Samples {
		s := &long.Samples[i]
		now := recent[[2]string{s.Model, s.Version}] // none: zeros
		s.Value = min(s.Value, now.Value) / budget
		s.Low = min(s.Low, now.Low) / budget // NaN where either is
		s.High = min(s.High, now.High) / budget
	}
	return long
}

func query(ctx context.Context, source Source, q *Query) Reading {
	samples, err := source.Samples(ctx, q)
	switch {
	case fault.Is(err, fault.NotFound):
		return Reading{}
	case err != nil:
		return Reading{Trouble: fault.Message(err)}
	case len(samples) > samplesMost:
		return Reading{Trouble: "more versions of models answer it than one rule can watch"}
	}
	return Reading{Samples: samples}
}

// samplesMost is how many versions one rule watches.
const samplesMost = 1000

// bounded makes a number one that JSON has: no infinity.
func bounded(v float64) float64 { return min(max(v, -math.MaxFloat64), math.MaxFloat64) }

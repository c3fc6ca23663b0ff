package feedback

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

const (
	gaugedSpan  = 24 * time.Hour   // of which quality and drift are told
	gaugedMost  = 50               // models, those with the most predictions in that time
	gaugedAgain = 4 * time.Minute  // after which they are computed anew though nothing came; less than from one tick to the next
	gaugedFor   = 10 * time.Minute // for which an instance tells them: another may know better
)

// gauges tell metrics of quality and drift, of all rows of the last day's predictions, as of the last tick.
type gauges struct {
	journal *Journal
	log     *slog.Logger
	known   atomic.Pointer[gauged]
}

// gauged is what they were at a time.
type gauged struct {
	at     time.Time
	values []gaugedValue
}

type gaugedValue struct {
	of                     gauge
	model, version, metric string
	value                  float64
}

// gauge is what a value is of.
type gauge int

const (
	ofQuality gauge = iota
	ofOutcomes
	ofDrift
)

func newGauges(j *Journal, tel *telemetry.Telemetry) (*gauges, error) {
	g := &gauges{journal: j, log: tel.Log}
	var errs [4]error
	var is [3]metric.Float64ObservableGauge
	is[ofQuality], errs[0] = tel.Meter.Float64ObservableGauge("pilotlight.quality",
		metric.WithDescription("Quality of the last day's predictions, by model, version and metric (accuracy, auc, mae and the others of the model's task); of the 50 models that are asked most."))
	is[ofOutcomes], errs[1] = tel.Meter.Float64ObservableGauge("pilotlight.quality.outcomes",
		metric.WithDescription("Outcomes that quality is of, by model and version."))
	is[ofDrift], errs[2] = tel.Meter.Float64ObservableGauge("pilotlight.drift",
		metric.WithDescription("How far the last day's data has moved from the training reference, by model, version and metric: drifted (columns that have), drifted_share of all columns, psi_most (of the column that moved furthest)."))
	_, errs[3] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		k := g.known.Load()
		if k == nil || j.now().Sub(k.at) > gaugedFor {
			return nil
		}
		for _, v := range k.values {
			model, version := tel.Apart.Version(v.model, v.version)
			if model != v.model || version != v.version {
				continue // several would be one series, of which one value is as wrong as another
			}
			labels := []attribute.KeyValue{attribute.String("model", model), attribute.String("version", version)}
			if v.metric != "" {
				labels = append(labels, attribute.String("metric", v.metric))
			}
			o.ObserveFloat64(is[v.of], v.value, metric.WithAttributes(labels...))
		}
		return nil
	}, is[ofQuality], is[ofOutcomes], is[ofDrift])
	return g, errors.Join(errs[:]...)
}

// tick computes them anew if a commit took something, or it was long ago. As of is a replay's; zero: now. What can't be computed
// is of no metric, and fails no tick.
func (g *gauges) tick(ctx context.Context, did *Progress, asOf time.Time) {
	now := g.journal.now()
	if k := g.known.Load(); k != nil && did.Segments == 0 && did.Outcomes == 0 && now.Sub(k.at) < gaugedAgain {
		return
	}
	next := &gauged{at: now}
	names, err := g.asked(ctx, now)
	if err != nil {
		g.log.WarnContext(ctx, "metrics of quality and drift are not known", slog.String("error", err.Error()))
		return
	}
	until := now
	if !asOf.IsZero() {
		until = asOf
	}
	for _, name := range names {
		if err := g.compute(ctx, next, &Question{Model: name, From: until.Add(-gaugedSpan), Until: until}); err != nil {
			g.log.WarnContext(ctx, "metrics of quality and drift of a model are not known", slog.String("model", name), slog.String("error", err.Error()))
		}
	}
	g.known.Store(next)
}

// asked names the models that were asked most.
func (g *gauges) asked(ctx context.Context, now time.Time) ([]string, error) {
	w, err := g.journal.span(ctx, now.Add(-gaugedSpan), now)
	if err != nil {
		return nil, err
	}
	made := map[string]float64{}
	for name, versions := range w.Models {
		for _, t := range versions {
			made[name] += t.Made
		}
	}
	names := make([]string, 0, len(made))
	for name := range made {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(made[b], made[a]), cmp.Compare(a, b)) })
	return names[:min(len(names), gaugedMost)], nil
}

// compute adds the values of a model.
func (g *gauges) compute(ctx context.Context, to *gauged, q *Question) error {
	f, err := frameOf(q)
	if err != nil {
		return err
	}
	all, err := g.journal.look(ctx, q, f)
	if err != nil {
		return err
	}
	add := func(of gauge, version int, metric string, value float64) {
		to.values = append(to.values, gaugedValue{of, q.Model, strconv.Itoa(version), metric, value})
	}
	for p, state := range all.states {
		report := state.Report()
		add(ofOutcomes, p.version, "", float64(report.Outcomes))
		for _, about := range quality.Metrics(report.Task) {
			if m, ok := report.Metrics[about.Name]; ok {
				add(ofQuality, p.version, about.Name, m.Value)
			}
		}
	}
	moved, err := g.journal.Moved(ctx, q, drift.Default)
	if err != nil {
		return err
	}
	for _, v := range moved.Versions {
		if v.Report == nil || v.Report.Verdict == drift.TooFew || len(v.Report.Columns) == 0 {
			continue
		}
		drifted, most := 0, 0.0
		for i := range v.Report.Columns {
			if v.Report.Columns[i].Verdict == drift.Drifted {
				drifted++
			}
			most = max(most, v.Report.Columns[i].PSI)
		}
		add(ofDrift, v.Version, "drifted", float64(drifted))
		add(ofDrift, v.Version, "drifted_share", float64(drifted)/float64(len(v.Report.Columns)))
		add(ofDrift, v.Version, "psi_most", most)
	}
	return nil
}

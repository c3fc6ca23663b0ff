package feedback

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/sequential"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ rollout.Source = (*Journal)(nil)

// Rollouts makes the manager of a bucket's rollouts, with the guards of quality that feedback can look at. Traffic is as of rollout.New.
func Rollouts(blob store.Blob, catalog *model.Catalog, traffic *rollout.Traffic, log *slog.Logger) *rollout.Manager {
	return rollout.New(blob, catalog, traffic, primary, log)
}

// primary is the mean that tells most of how right a version is.
func primary(m *model.Manifest) string {
	j, err := judgingOf(m)
	if err != nil {
		return ""
	}
	switch j.spec.Task {
	case quality.Binary:
		return "log_loss"
	case quality.Multiclass:
		return "accuracy"
	}
	return "mae"
}

// Evidence implements rollout.Source by windows, which are as of the last CatchUp. Quality is compared hour by hour, by what the predictions
// of both are as of, of the hours to which anything was added since the candidate began.
func (j *Journal) Evidence(ctx context.Context, q *rollout.Query) (*rollout.Evidence, error) {
	e := &rollout.Evidence{Metrics: map[string]rollout.Compared{}}
	stages, err := j.stages(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(stages) > 0 {
		e.Answers = stages[len(stages)-1].find(q.Model, q.Candidate).Kept
	}
	all := &window{}
	for _, w := range stages {
		all.merge(w)
	}
	limit, some := all.find(q.Model, q.Version).quantile(.95)
	var hours []hourPair
	asked := false
	for _, metric := range q.Metrics {
		var c rollout.Compared
		switch metric {
		case rollout.ErrorRate:
			for _, w := range stages {
				c.Counts = append(c.Counts, sequential.CountPair{A: w.find(q.Model, q.Version).failures(), B: w.find(q.Model, q.Candidate).failures()})
			}
		case rollout.SlowRate:
			for _, w := range stages {
				if some {
					c.Counts = append(c.Counts, sequential.CountPair{A: w.find(q.Model, q.Version).slower(limit), B: w.find(q.Model, q.Candidate).slower(limit)})
				}
			}
		default:
			if !asked {
				hours, err = j.hourPairs(ctx, q)
				asked = true
			}
			if err != nil {
				return nil, err
			}
			for _, h := range hours {
				c.Means = append(c.Means, sequential.Pair{A: sequential.Sums(h.version.Moments(metric)), B: sequential.Sums(h.candidate.Moments(metric))})
			}
		}
		e.Metrics[metric] = c
	}
	if q.Shadow && len(q.Stages) > 0 {
		e.Shadow, err = j.shadowed(ctx, q)
	}
	return e, err
}

// stages merges the windows of each stage. One that a stage ends in is of the next one.
func (j *Journal) stages(ctx context.Context, q *rollout.Query) (all []*window, err error) {
	if len(q.Stages) == 0 {
		return nil, nil
	}
	first, width := q.Stages[0], narrow
	if oldest := q.Until.Add(-spanMost); first.Before(oldest) {
		first = oldest
	}
	if q.Until.Sub(first) >= 24*time.Hour {
		width = wide
	}
	for i, begun := range q.Stages {
		from, until := startOf(max(begun.UnixMicro(), first.UnixMicro()), width), q.Until.UnixMicro()
		if i+1 < len(q.Stages) {
			until = startOf(max(q.Stages[i+1].UnixMicro(), from), width)
		}
		if from >= until {
			continue
		}
		w, err := j.between(ctx, width, from, until)
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

// find is like of, and makes nothing.
func (w *window) find(model string, version int) *traffic {
	if t := w.Models[model][strconv.Itoa(version)]; t != nil {
		return t
	}
	return &traffic{}
}

// failures counts the predictions that failed. Where only a share is kept, those count that there are, in the proportion of what they stand for.
func (t *traffic) failures() sequential.Counts {
	if t.Kept == 0 || t.Made <= 0 {
		return sequential.Counts{}
	}
	return proportion(t.Kept, t.Failed/t.Made)
}

// slower counts the answers that took longer than a time.
func (t *traffic) slower(limit float64) sequential.Counts {
	slow, all := 0.0, 0.0
	for bin, n := range t.Latency {
		all += n
		if latencyOf(bin) > limit {
			slow += n
		}
	}
	if all <= 0 || t.Made <= 0 {
		return sequential.Counts{}
	}
	return proportion(int64(float64(t.Kept)*min(all/t.Made, 1)), slow/all)
}

func proportion(n int64, p float64) sequential.Counts {
	return sequential.Counts{N: n, Yes: min(int64(math.Round(float64(n)*p)), n)}
}

// hourPair is the states of an hour.
type hourPair struct{ version, candidate *quality.State }

// hourPairs gives the hours that both versions have, of those that were added to since the candidate began.
func (j *Journal) hourPairs(ctx context.Context, q *rollout.Query) (all []hourPair, err error) {
	h, _, err := j.head(ctx)
	if err != nil || len(q.Stages) == 0 {
		return nil, err
	}
	for o, err := range j.blob.List(ctx, hourPrefix(h.Generation, q.Model), "") {
		if err != nil {
			return nil, fmt.Errorf("list hours of %s: %w", q.Model, err)
		}
		if o.Modified.Before(q.Stages[0].Add(-time.Minute)) { // clocks may differ
			continue
		}
		at, _, err := readNumbered(ctx, j.blob, o.Key, func() *hour { return &hour{} })
		if fault.Is(err, fault.Internal) {
			continue // it begins anew when something is added
		}
		if err != nil {
			return nil, err
		}
		a, b := at.Versions[q.Version], at.Versions[q.Candidate]
		if a == nil || b == nil || a.Quality[""] == nil || b.Quality[""] == nil || a.Spec.Task != b.Spec.Task {
			continue
		}
		var pair hourPair
		if pair.version, err = quality.Decode(a.Quality[""]); err != nil {
			return nil, err
		}
		if pair.candidate, err = quality.Decode(b.Quality[""]); err != nil {
			return nil, err
		}
		all = append(all, pair)
	}
	return all, nil
}

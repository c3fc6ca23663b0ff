package feedback

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
)

// The widths of windows.
const (
	narrow = 5 * time.Minute
	wide   = time.Hour
	// wideFrom is the shortest span that is told by wide windows.
	wideFrom = 6 * time.Hour
	// spanMost is the longest span that is told.
	spanMost = 31 * 24 * time.Hour
)

// windowPrefix is where the windows of a generation lie.
func windowPrefix(generation int64) string { return WindowPrefix + micros(generation) + "/" }

// windowKey is where a window lies in its generation: by its width in seconds and its start.
func windowKey(width time.Duration, start int64) string {
	return fmt.Sprintf("%d/%s", int(width.Seconds()), micros(start))
}

// micros writes a time in microseconds since 1970 so that later ones come later.
func micros(t int64) string { return fmt.Sprintf("%016d", max(t, 0)) }

// window counts what the payload log tells of a span of time in which predictions were answered: how many they were, how many of them
// failed, and how long they took. There are windows of two widths, so that a short span is told exactly and a long one takes few reads.
type window struct {
	Commit int64                          `json:"commit,omitempty"` // the last that was added
	Models map[string]map[string]*traffic `json:"models"`           // by name and version
}

// traffic is of one version of a model. Counts are weighted by what a prediction of the log stands for.
type traffic struct {
	Kept    int64           `json:"kept"`              // predictions that the log has
	Made    float64         `json:"made"`              // that they stand for
	Failed  float64         `json:"failed,omitempty"`  // of those made
	Last    int64           `json:"last"`              // when the last was answered, in microseconds since 1970
	Feature int64           `json:"feature,omitempty"` // of when the newest feature was, likewise; 0: there was none
	Latency map[int]float64 `json:"latency,omitempty"` // of those that did not fail: how many, by latencyBin
	Faults  examples        `json:"faults,omitempty"`  // those that failed last
	Slow    examples        `json:"slow,omitempty"`    // those that did not fail and took longest
}

// latencyBins is how many bins an octave of latencies has: a quantile is right to 2.2 %.
const latencyBins = 16

func latencyBin(micros int64) int {
	return int(math.Floor(math.Log2(float64(max(micros, 1))) * latencyBins))
}

// latencyOf is the middle of a bin, in seconds.
func latencyOf(bin int) float64 { return math.Exp2((float64(bin)+.5)/latencyBins) / 1e6 }

// add counts a prediction whose newest feature is of a time.
func (t *traffic) add(r *payload.Row, feature int64) {
	t.Kept++
	t.Made += r.Weight
	t.Last = max(t.Last, r.Answered)
	t.Feature = max(t.Feature, feature)
	if r.Kind != "" {
		t.Failed += r.Weight
		t.Faults.add(example{r.ID, 0, float64(r.Answered), true})
		return
	}
	if t.Latency == nil {
		t.Latency = map[int]float64{}
	}
	t.Latency[latencyBin(r.Latency)] += r.Weight
	t.Slow.add(example{r.ID, 0, float64(r.Latency), r.Sampled})
}

func (t *traffic) merge(o *traffic) {
	t.Kept += o.Kept
	t.Made += o.Made
	t.Failed += o.Failed
	t.Last = max(t.Last, o.Last)
	t.Feature = max(t.Feature, o.Feature)
	t.Faults.merge(o.Faults)
	t.Slow.merge(o.Slow)
	if t.Latency == nil && len(o.Latency) > 0 {
		t.Latency = map[int]float64{}
	}
	for bin, n := range o.Latency {
		t.Latency[bin] += n
	}
}

// quantile is a latency that a share of predictions did not exceed, in seconds; false where there are none.
func (t *traffic) quantile(q float64) (float64, bool) {
	bins := make([]int, 0, len(t.Latency))
	all := 0.0
	for bin, n := range t.Latency {
		bins = append(bins, bin)
		all += n
	}
	slices.Sort(bins)
	sum := 0.0
	for _, bin := range bins {
		if sum += t.Latency[bin]; sum >= q*all {
			return latencyOf(bin), true
		}
	}
	return 0, false
}

// of gives the traffic of a version, which is made if need be.
func (w *window) of(model, version string) *traffic {
	if w.Models == nil {
		w.Models = map[string]map[string]*traffic{}
	}
	versions := w.Models[model]
	if versions == nil {
		versions = map[string]*traffic{}
		w.Models[model] = versions
	}
	t := versions[version]
	if t == nil {
		t = &traffic{}
		versions[version] = t
	}
	return t
}

func (w *window) merge(o *window) {
	for model, versions := range o.Models {
		for version, t := range versions {
			w.of(model, version).merge(t)
		}
	}
}

func startOf(micros int64, width time.Duration) int64 { return micros - micros%width.Microseconds() }

// span merges the windows that a span of time touches: those of five minutes, or of an hour
// where it is long.
func (j *Journal) span(ctx context.Context, from, until time.Time) (*window, error) {
	if until.Sub(from) > spanMost {
		return nil, fault.New(fault.Invalid, "a window of %s is longer than the %s that are looked back at", until.Sub(from), spanMost)
	}
	width := narrow
	if until.Sub(from) >= wideFrom {
		width = wide
	}
	return j.between(ctx, width, startOf(max(from.UnixMicro(), 0), width), until.UnixMicro())
}

// between merges the windows of a width that start in a span of time.
func (j *Journal) between(ctx context.Context, width time.Duration, from, until int64) (*window, error) {
	var starts []int64
	for start := from; start < until; start += width.Microseconds() {
		starts = append(starts, start)
	}
	h, _, err := j.head(ctx)
	if err != nil {
		return nil, err
	}
	parts := make([]*window, len(starts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, start := range starts {
		group.Go(fault.Guard(func() (err error) {
			parts[i], _, err = readNumbered(ctx, j.blob, windowPrefix(h.Generation)+windowKey(width, start), func() *window { return &window{} })
			return err
		}))
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := &window{}
	for _, p := range parts {
		all.merge(p)
	}
	return all, nil
}

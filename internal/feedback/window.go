package feedback

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Windows count what the payload log tells: how many predictions were made, how many of them
// failed, and how long they took. Each segment is added to the windows that its predictions were answered
// in, once, by whichever instance comes first: a window names the segments that it has. So any
// number of instances may add to any window, and end at any moment. There are windows of two
// widths, so that a short span is told exactly and a long one takes few reads.
type Windows struct {
	blob store.Blob
}

// The widths of windows.
const (
	narrow = 5 * time.Minute
	wide   = time.Hour
	// wideFrom is the shortest span that is told by wide windows.
	wideFrom = 6 * time.Hour
	// spanMost is the longest span that is told.
	spanMost = 31 * 24 * time.Hour
)

// WindowPrefix is where windows lie, by their width in seconds and their start in microseconds since 1970.
const WindowPrefix = "feedback/windows/"

func windowKey(width time.Duration, start int64) string {
	return fmt.Sprintf("%s%d/%016d", WindowPrefix, int(width.Seconds()), max(start, 0))
}

// window is what lies under a windowKey.
type window struct {
	Segments []string                       `json:"segments"` // that it has, by the hashes in their keys
	Models   map[string]map[string]*traffic `json:"models"`   // by name and version
}

// traffic is of one version of a model. Counts are weighted by what a prediction of the log stands for.
type traffic struct {
	Kept    int64           `json:"kept"`              // predictions that the log has
	Made    float64         `json:"made"`              // that they stand for
	Failed  float64         `json:"failed,omitempty"`  // of those made
	Last    int64           `json:"last"`              // when the last was answered, in microseconds since 1970
	Latency map[int]float64 `json:"latency,omitempty"` // of those that did not fail: how many, by latencyBin
}

// latencyBins is how many bins an octave of latencies has: a quantile is right to 2.2 %.
const latencyBins = 16

func latencyBin(micros int64) int {
	return int(math.Floor(math.Log2(float64(max(micros, 1))) * latencyBins))
}

// latencyOf is the middle of a bin, in seconds.
func latencyOf(bin int) float64 { return math.Exp2((float64(bin)+.5)/latencyBins) / 1e6 }

func (t *traffic) add(r *payload.Row) {
	t.Kept++
	t.Made += r.Weight
	t.Last = max(t.Last, r.Answered)
	if r.Kind != "" {
		t.Failed += r.Weight
		return
	}
	if t.Latency == nil {
		t.Latency = map[int]float64{}
	}
	t.Latency[latencyBin(r.Latency)] += r.Weight
}

func (t *traffic) merge(o *traffic) {
	t.Kept += o.Kept
	t.Made += o.Made
	t.Failed += o.Failed
	t.Last = max(t.Last, o.Last)
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

// segmentID is what windows know a segment by, and until when its last prediction was answered.
func segmentID(key string) (id string, until int64, ok bool) {
	micros, hash, found := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(key, payload.Inbox), ".parquet"), "-")
	until, err := strconv.ParseInt(micros, 10, 64)
	return hash[:min(len(hash), 16)], until, found && err == nil && len(hash) >= 16
}

// CatchUp adds the segments that are not yet in their windows, of those whose last prediction was answered
// since a moment, and tells how many they were. A segment that can't be read is left out, and
// is among damaged: it costs no other.
func (s *Windows) CatchUp(ctx context.Context, since time.Time) (added int, damaged []string, err error) {
	after := ""
	if since.UnixMicro() > 0 {
		after = fmt.Sprintf("%s%016d", payload.Inbox, since.UnixMicro())
	}
	known := map[int64][]string{} // the segments of wide windows
	for o, err := range s.blob.List(ctx, payload.Inbox, after) {
		if err != nil {
			return added, damaged, fmt.Errorf("list segments of predictions: %w", err)
		}
		id, until, ok := segmentID(o.Key)
		if !ok {
			damaged = append(damaged, o.Key)
			continue
		}
		start := startOf(until, wide)
		if _, read := known[start]; !read {
			w, _, err := s.read(ctx, windowKey(wide, start))
			if err != nil {
				return added, damaged, err
			}
			known[start] = w.Segments
		}
		if slices.Contains(known[start], id) {
			continue
		}
		err := s.add(ctx, o.Key, id, until)
		if fault.Is(err, fault.Invalid) {
			damaged = append(damaged, o.Key)
			continue
		}
		if err != nil {
			return added, damaged, err
		}
		added++
	}
	return added, damaged, nil
}

func startOf(micros int64, width time.Duration) int64 { return micros - micros%width.Microseconds() }

// add adds a segment to its windows: last to the wide one of its end, by which CatchUp knows that it was added to all.
func (s *Windows) add(ctx context.Context, key, id string, until int64) error {
	parts := map[string]*window{}
	err := payload.Load(ctx, s.blob, key, func(rows []payload.Row) error {
		for i := range rows {
			r := &rows[i]
			if r.Row != 0 { // a prediction is one, however many rows it has
				continue
			}
			for _, width := range [...]time.Duration{narrow, wide} {
				k := windowKey(width, startOf(r.Answered, width))
				if parts[k] == nil {
					parts[k] = &window{}
				}
				parts[k].of(strings.Clone(r.Model), strconv.Itoa(int(r.Version))).add(r)
			}
		}
		return nil
	})
	if fault.Is(err, fault.NotFound) { // it was swept meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	last := windowKey(wide, startOf(until, wide))
	if parts[last] == nil {
		parts[last] = &window{}
	}
	for k, part := range parts {
		if k == last {
			continue
		}
		if err := s.merge(ctx, k, id, part); err != nil {
			return err
		}
	}
	return s.merge(ctx, last, id, parts[last])
}

// merge adds what a segment has of a window to it, unless that was done.
func (s *Windows) merge(ctx context.Context, key, id string, part *window) error {
	for attempt := 0; ; attempt++ {
		w, version, err := s.read(ctx, key)
		if err != nil {
			return err
		}
		if slices.Contains(w.Segments, id) {
			return nil
		}
		w.Segments = append(w.Segments, id)
		w.merge(part)
		b, err := json.Marshal(w)
		if err != nil {
			return err
		}
		condition := store.IfAbsent()
		if version != "" {
			condition = store.IfVersion(version)
		}
		_, err = s.blob.Put(ctx, key, bytes.NewReader(b), int64(len(b)), condition)
		if !fault.Is(err, fault.Conflict) {
			return err
		}
		if attempt == 20 {
			return fault.Wrap(fault.Unavailable, err, "the window %q changes too often", key)
		}
		select { // somebody else was quicker
		case <-time.After(time.Duration(mathrand.Int64N(int64(5*time.Millisecond) << min(attempt, 6)))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read gives a window and its version; one that is not there is empty and has none.
func (s *Windows) read(ctx context.Context, key string) (*window, string, error) {
	b, o, err := store.ReadAll(ctx, s.blob, key)
	if fault.Is(err, fault.NotFound) {
		return &window{}, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read the window %q: %w", key, err)
	}
	w := &window{}
	if err := json.Unmarshal(b, w); err != nil {
		return nil, "", fault.Wrap(fault.Internal, err, "the window %q is damaged in the bucket", key)
	}
	return w, o.Version, nil
}

// span merges the windows that a span of time touches: those of five minutes, or of an hour
// where it is long.
func (s *Windows) span(ctx context.Context, from, until time.Time) (*window, error) {
	if until.Sub(from) > spanMost {
		return nil, fault.New(fault.Invalid, "a window of %s is longer than the %s that are looked back at", until.Sub(from), spanMost)
	}
	width := narrow
	if until.Sub(from) >= wideFrom {
		width = wide
	}
	var starts []int64
	for start := startOf(max(from.UnixMicro(), 0), width); start < until.UnixMicro(); start += width.Microseconds() {
		starts = append(starts, start)
	}
	parts := make([]*window, len(starts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, start := range starts {
		group.Go(fault.Guard(func() (err error) {
			parts[i], _, err = s.read(ctx, windowKey(width, start))
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

package feedback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// windowsMost is how many windows one question may ask for.
const windowsMost = 1000

// frame is a span of time in windows.
type frame struct{ from, until, every int64 } // in microseconds

// frameOf rounds the span of a question to whole hours.
func frameOf(q *Question) (frame, error) {
	f := frame{from: startOf(max(q.From.UnixMicro(), 0), wide), until: q.Until.UnixMicro(), every: q.Every.Microseconds()}
	if rest := f.until % wide.Microseconds(); rest != 0 {
		f.until += wide.Microseconds() - rest
	}
	switch {
	case q.Every < 0 || q.Every%wide != 0:
		return f, fault.New(fault.Invalid, "windows of %s were asked for, expected whole hours", q.Every)
	case f.every > 0 && (f.until-f.from)/f.every > windowsMost:
		return f, fault.New(fault.Invalid, "there are more than %d windows of %s from %s until %s", windowsMost, q.Every, q.From.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	}
	return f, nil
}

// at is the number of the window that a time lies in; only frames with windows have any.
func (f *frame) at(micros int64) int64 { return (micros - f.from) / f.every }

func (f *frame) window(n int64) (from, until time.Time) {
	return time.UnixMicro(f.from + n*f.every).UTC(), time.UnixMicro(min(f.from+(n+1)*f.every, f.until)).UTC()
}

// hours tells each of the hours of a model in a frame, in their order.
func (j *Journal) hours(ctx context.Context, model string, f frame, each func(start int64, h *hour) error) error {
	head, _, err := j.head(ctx)
	if err != nil {
		return err
	}
	prefix, after := hourPrefix(head.Generation, model), ""
	if f.from > 0 {
		after = prefix + micros(f.from-1)
	}
	var starts []int64
	for o, err := range j.blob.List(ctx, prefix, after) {
		if err != nil {
			return fmt.Errorf("list hours of %s: %w", model, err)
		}
		start, err := strconv.ParseInt(strings.TrimPrefix(o.Key, prefix), 10, 64)
		if err != nil {
			continue
		}
		if start >= f.until {
			break
		}
		starts = append(starts, start)
	}
	for some := range slices.Chunk(starts, 4*atOnce) {
		parts := make([]*hour, len(some))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(atOnce)
		for i, start := range some {
			group.Go(fault.Guard(func() (err error) {
				parts[i], _, err = readNumbered(ctx, j.blob, prefix+micros(start), func() *hour { return &hour{} })
				if fault.Is(err, fault.Internal) {
					err = damagedHour(err, prefix+micros(start))
				}
				return err
			}))
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for i, start := range some {
			maps.DeleteFunc(parts[i].Versions, func(_ int, t *tally) bool { return t == nil })
			err := each(start, parts[i])
			if errors.Is(err, errState) {
				err = damagedHour(err, prefix+micros(start))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// errState is of an hour whose states can't be read.
var errState = errors.New("a state can't be read")

func damagedHour(err error, key string) error {
	return fault.Wrap(fault.Internal, err, "%q is damaged in the bucket; delete it, and its hour is left out, or %q, and everything that is in the logs counts anew", key, HeadKey)
}

// whole is the number of what is of all windows.
const whole = -1

// place is one window of a version, or of a slice of it.
type place struct {
	window int64
	key
}

// found is what hours have of a question about quality.
type found struct {
	states   map[place]*quality.State
	wrong    map[place]examples
	unjudged map[int]*Judged // by version
	outcomes Settlement
	sliced   bool // there are the slices that were asked for, wherever there are rows
}

// look merges the hours that a question is about.
func (j *Journal) look(ctx context.Context, q *Question, f frame) (*found, error) {
	all := &found{states: map[place]*quality.State{}, wrong: map[place]examples{}, unjudged: map[int]*Judged{}, sliced: true}
	err := j.hours(ctx, q.Model, f, func(start int64, h *hour) error {
		for version, t := range h.Versions {
			if q.Version != 0 && version != q.Version {
				continue
			}
			all.outcomes.add(&t.Settlement, 1)
			if t.Unjudged > 0 {
				if all.unjudged[version] == nil {
					all.unjudged[version] = &Judged{Version: version}
				}
				all.unjudged[version].Unjudged += t.Unjudged
				all.unjudged[version].Why = t.Why
			}
			hasSlice := false
			for slice, b := range t.Quality {
				of := q.Slice != "" && strings.HasPrefix(slice, q.Slice+"=")
				hasSlice = hasSlice || of
				if slice != "" && !of {
					continue
				}
				state, err := quality.Decode(b)
				if err != nil {
					return fmt.Errorf("%w: %w", errState, err)
				}
				windows := []int64{whole}
				if f.every > 0 {
					windows = append(windows, f.at(start))
				}
				for _, n := range windows {
					p := place{n, key{version, slice}}
					wrong := all.wrong[p]
					wrong.merge(t.Wrong[slice])
					all.wrong[p] = wrong
					if old := all.states[p]; old != nil {
						if err := old.Merge(state); err != nil {
							return fmt.Errorf("%s of %s: %w", time.UnixMicro(start).UTC().Format(time.RFC3339), q.Model, err)
						}
					} else if all.states[p], err = quality.Decode(b); err != nil {
						return err
					}
				}
			}
			if q.Slice != "" && len(t.Quality) > 0 && !hasSlice {
				all.sliced = false
			}
		}
		return nil
	})
	return all, err
}

// Judge tells how right a model was: by windows, which are as of the last CatchUp and of whole hours or, if something else is asked than they
// have (a column that the manifest does not name as a slice, another task, output or threshold), by the logs.
func (j *Journal) Judge(ctx context.Context, q *Question) (*Judgement, error) {
	f, err := frameOf(q)
	if err != nil {
		return nil, err
	}
	all, err := j.look(ctx, q, f)
	if err != nil {
		return nil, err
	}
	if !all.sliced || q.Spec != (quality.Spec{}) || q.Output != "" || len(all.states) == 0 && len(all.unjudged) > 0 {
		if q.Every != 0 {
			return nil, fault.New(fault.Invalid, "windows are told of what the manifest says of quality only: of its task, output, threshold and slices, and of versions that the registry has")
		}
		newest := 0 // of the versions whose answers can be judged
		for p := range all.states {
			newest = max(newest, p.version)
		}
		if q, err = j.asManifest(ctx, q, newest); err != nil {
			return nil, err
		}
		return Judge(ctx, j.blob, q)
	}
	out := &Judgement{
		Model: q.Model, From: time.UnixMicro(f.from).UTC(), Until: time.UnixMicro(f.until).UTC(), By: ByWindows, Versions: []Judged{}, Outcomes: all.outcomes,
	}
	windows := map[int64][]Judged{}
	for p, state := range all.states {
		// What scores mean is learnt from all outcomes of the version, as few windows have enough.
		v := Judged{Version: p.version, Slice: p.slice, Report: state.Report(), Examples: all.wrong[p].told()}
		if state.Spec().Task == quality.Binary {
			if v.Estimate, err = state.Estimate(all.states[place{whole, p.key}]); err != nil {
				return nil, err
			}
		}
		if u := all.unjudged[p.version]; u != nil && p.slice == "" && p.window == whole {
			v.Unjudged, v.Why = u.Unjudged, u.Why
			delete(all.unjudged, p.version)
		}
		windows[p.window] = append(windows[p.window], v)
	}
	out.Versions = append(out.Versions, windows[whole]...)
	for _, u := range all.unjudged {
		out.Versions = append(out.Versions, *u)
	}
	sortJudged(out.Versions)
	delete(windows, whole)
	for _, n := range slices.Sorted(maps.Keys(windows)) {
		w := JudgedWindow{Versions: windows[n]}
		w.From, w.Until = f.window(n)
		sortJudged(w.Versions)
		out.Windows = append(out.Windows, w)
	}
	if len(out.Versions) == 0 {
		if out.Elsewhere, err = j.elsewhere(ctx, q.Model); err != nil {
			return nil, err
		}
	}
	out.Waiting, err = j.waitingOf(ctx, q.Model)
	return out, err
}

// asManifest completes a question by what the manifest of a version says of how answers are judged; of version 0 nothing does.
func (j *Journal) asManifest(ctx context.Context, q *Question, version int) (*Question, error) {
	if version == 0 {
		return q, nil
	}
	m, err := j.catalog.Manifest(ctx, q.Model, version)
	if fault.Is(err, fault.NotFound) {
		return q, nil
	}
	if err != nil {
		return nil, err
	}
	asked := *q
	if asked.Output != "" {
		m = &model.Manifest{Signature: m.Signature, Settings: m.Settings} // the catalog keeps its own
		m.Quality.Output = asked.Output
	}
	told, err := judgingOf(m)
	if err != nil { // it says nothing; the question and the outcomes may
		return q, nil //nolint:nilerr // as it says
	}
	asked.Output, asked.labels = told.output, told.labels
	if asked.Spec.Task == "" || asked.Spec.Task == told.spec.Task {
		asked.Spec.Task = told.spec.Task
		asked.Spec.Threshold = cmp.Or(asked.Spec.Threshold, told.spec.Threshold)
		asked.Spec.Quantile = cmp.Or(asked.Spec.Quantile, told.spec.Quantile)
	}
	return &asked, nil
}

// elsewhere finds when there are predictions of a model; nil: never.
func (j *Journal) elsewhere(ctx context.Context, model string) (*Elsewhere, error) {
	h, _, err := j.head(ctx)
	if err != nil {
		return nil, err
	}
	prefix := hourPrefix(h.Generation, model)
	var found *Elsewhere
	for o, err := range j.blob.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list hours of %s: %w", model, err)
		}
		start, err := strconv.ParseInt(strings.TrimPrefix(o.Key, prefix), 10, 64)
		if err != nil {
			continue
		}
		at := time.UnixMicro(start).UTC()
		if found == nil {
			found = &Elsewhere{From: at}
		}
		found.Until = at.Add(wide)
	}
	return found, nil
}

// waitingOf counts outcomes that may be of a model.
func (j *Journal) waitingOf(ctx context.Context, model string) (int, error) {
	_, c, err := j.newest(ctx)
	if err != nil {
		return 0, err
	}
	return c.Waiting[""] + c.Waiting[model], nil
}

// Moved tells how far the data of a model has moved: by windows, which are as of the last CatchUp and of whole hours or, where those lack a
// version that has a reference by now, by the log.
func (j *Journal) Moved(ctx context.Context, q *Question, o drift.Options) (*Drift, error) {
	f, err := frameOf(q)
	if err != nil {
		return nil, err
	}
	m := newMoving(j.blob, q, f)
	complete := true
	err = j.hours(ctx, q.Model, f, func(start int64, h *hour) error {
		for version, t := range h.Versions {
			if q.Version != 0 && version != q.Version || t.Rows == 0 || !complete {
				continue
			}
			reference, err := m.reference(ctx, version)
			if err != nil {
				return err
			}
			if reference == nil {
				continue
			}
			if t.Reference != reference.Digest() {
				complete = false
				continue
			}
			state := drift.NewState(reference)
			if err := state.Decode(t.Drift); err != nil {
				return fmt.Errorf("%w: %w", errState, err)
			}
			if int64(state.Rows()) < t.Rows { // the reference came within the hour
				complete = false
				continue
			}
			for _, to := range m.at(version, start) {
				if err := to.state.Merge(state); err != nil {
					return err
				}
				to.odd.merge(t.Odd)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !complete {
		return Moved(ctx, j.blob, q, o)
	}
	d, err := m.report(ByWindows, o)
	if err == nil && len(d.Versions) == 0 {
		d.Elsewhere, err = j.elsewhere(ctx, q.Model)
	}
	return d, err
}

package predict

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
)

// lookups is how many models are looked up in the bucket at once for a list.
const lookups = 16

// models lists the names of the models that the caller may ask: those of others are none of its business.
func (f *Flow) models(ctx context.Context) ([]string, error) {
	names, err := f.registry.Models(ctx)
	return slices.DeleteFunc(names, func(name string) bool { return !auth.Allows(ctx, auth.Predict, name) }), err
}

// index lists every model that the caller may ask with the version that answers for it and how
// that stands here, and the other versions that are warm; ready leaves out what is not.
func (f *Flow) index(ctx context.Context, ready bool) (oip.Index, error) {
	names, err := f.models(ctx)
	if err != nil {
		return nil, err
	}
	entries := make(oip.Index, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lookups)
	for i, name := range names {
		group.Go(func() error {
			m, err := f.Pick(ctx, model.Ref{Name: name})
			if err != nil {
				entries[i] = oip.IndexEntry{Name: name, State: oip.StateUnavailable, Reason: fault.Message(err)}
				return ctx.Err()
			}
			entries[i] = f.entry(m)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, l := range f.registry.Warm.Loaded() {
		version := strconv.Itoa(l.Version)
		listed := slices.ContainsFunc(entries, func(e oip.IndexEntry) bool { return e.Name == l.Model && e.Version == version })
		if !listed && auth.Allows(ctx, auth.Predict, l.Model) {
			entries = append(entries, oip.IndexEntry{Name: l.Model, Version: version, State: oip.StateReady})
		}
	}
	if ready {
		entries = slices.DeleteFunc(entries, func(e oip.IndexEntry) bool { return e.State != oip.StateReady })
	}
	slices.SortStableFunc(entries, func(a, b oip.IndexEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// load has a version loaded now. A most that is not nil is how many rows its runs may have
// here until it is loaded anew; else it is what the version's manifest says.
func (f *Flow) load(ctx context.Context, ref model.Ref, most *int) error {
	if err := auth.CheckModel(ctx, auth.ModelsWrite, ref.Name); err != nil {
		return err
	}
	m, err := f.registry.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	lease, err := f.registry.Warm.Acquire(ctx, m)
	if err != nil {
		return err
	}
	lease.Release()
	served := f.of(m)
	served.bound(*cmp.Or(most, &m.Batching.MaxRows))
	served.unloaded.Store(false)
	return nil
}

func (f *Flow) unload(ctx context.Context, ref model.Ref) error {
	if err := auth.CheckModel(ctx, auth.ModelsWrite, ref.Name); err != nil {
		return err
	}
	m, _, err := f.resolve(ctx, ref)
	if err != nil {
		return err
	}
	f.of(m).unloaded.Store(true)
	_, err = f.registry.Warm.Unload(ctx, m)
	return err
}

func (f *Flow) entry(m *model.Manifest) oip.IndexEntry {
	e := oip.IndexEntry{Name: m.Name, Version: strconv.Itoa(m.Version), State: oip.StateUnavailable}
	switch state, err := f.registry.Warm.State(m); {
	case state == model.Ready:
		e.State = oip.StateReady
	case state == model.Loading:
		e.State = oip.StateLoading
	case state == model.Failed:
		e.Reason = fault.Message(err)
	case f.of(m).unloaded.Load():
		e.Reason = "unloaded"
	default:
		e.Reason = "not loaded yet: the first request loads it"
	}
	return e
}

// ready tells whether a request would be answered. A model that is not warm is
// ready: its first request loads it. One that was unloaded by hand, or that
// failed to load just now, is not.
func (f *Flow) ready(m *model.Manifest) bool {
	state, _ := f.registry.Warm.State(m)
	return state != model.Failed && !f.of(m).unloaded.Load()
}

func (f *Flow) statistics(m *model.Manifest) oip.ModelStatistics {
	served := f.of(m)
	s := &served.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	out := oip.ModelStatistics{
		Name: m.Name, Version: served.version, InferenceCount: s.rows, ExecutionCount: s.runs,
		Inference: oip.InferenceStatistics{
			Success: s.success.stat(), Fail: s.fail.stat(), Queue: s.queue.stat(),
			ComputeInput: s.input.stat(), ComputeInfer: s.infer.stat(), ComputeOutput: s.output.stat(),
			CacheHit: s.hit.stat(), CacheMiss: s.miss.stat(),
		},
		Response: map[string]struct{}{}, Batches: []oip.BatchStatistics{}, Memory: []oip.MemoryUsage{},
	}
	if !s.last.IsZero() {
		out.LastInference = s.last.UnixMilli()
	}
	for size, b := range s.batches {
		out.Batches = append(out.Batches, oip.BatchStatistics{
			Size: uint64(size), ComputeInput: b.input.stat(), ComputeInfer: b.infer.stat(), ComputeOutput: b.output.stat(),
		})
	}
	slices.SortFunc(out.Batches, func(a, b oip.BatchStatistics) int { return cmp.Compare(a.Size, b.Size) })
	return out
}

func (f *Flow) allStatistics(ctx context.Context) []oip.ModelStatistics {
	all := []oip.ModelStatistics{}
	for k := range f.served.Range {
		if m := k.(*model.Manifest); auth.Allows(ctx, auth.Predict, m.Name) {
			all = append(all, f.statistics(m))
		}
	}
	slices.SortFunc(all, func(a, b oip.ModelStatistics) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return all
}

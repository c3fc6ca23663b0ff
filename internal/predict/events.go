package predict

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
)

// Hear adds the handlers of the events that the flow reacts to. All of them are
// hints to read the bucket now instead of after the refresh interval, so that
// repeated, late and reordered ones do no harm.
func (f *Flow) Hear(m *event.Mux) {
	event.On(m, event.ModelPublished, f.published)
	event.On(m, event.AliasMoved, f.moved)
}

func (f *Flow) published(ctx context.Context, _ *event.Event, p event.Published) error {
	return f.registry.Reread(ctx, p.Model)
}

// moved has the versions that the alias names loaded, where one that it named
// before is in use: they take over once they are warm.
func (f *Flow) moved(ctx context.Context, _ *event.Event, m event.Moved) error {
	if err := f.registry.Reread(ctx, m.Model); err != nil {
		return err
	}
	refs := []model.Ref{{Name: m.Model, Version: m.Alias}}
	if m.Alias == model.Champion {
		refs = append(refs, model.Ref{Name: m.Model})
	}
	for _, ref := range refs {
		if _, used := f.last.Load(ref); !used {
			continue
		}
		m, split, err := f.resolve(ctx, ref)
		if err != nil {
			if fault.Is(err, fault.NotFound) { // gone again since: nothing to load
				continue
			}
			return err
		}
		for _, version := range split.Versions() {
			if other := f.registry.Known(m.Name, version); other != nil {
				f.registry.Warm.Prefetch(ctx, other)
			}
		}
	}
	return nil
}

package offline

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Mount opens a Store, gives it, and mounts its Server on a process, which closes both;
// defined gives the definitions as they are now, events brings ticks.
func Mount(ctx context.Context, p *serve.Process, c *Config, d Deps, defined func(context.Context) (*feature.Compiled, error), events *event.Mux) (*Store, error) {
	store, err := Open(ctx, c, d)
	if err != nil {
		return nil, err
	}
	p.Defer(store.Close)
	s := NewServer(store, defined, p.Tel.Log)
	p.Defer(s.Close)
	s.Register(p.Mux)
	s.Hear(events)
	return store, nil
}

package offline

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Mount opens a Store, gives it, and mounts its Server on a process, which closes both;
// catalog has the definitions, events brings ticks, and alarms go to sink, which may be nil.
func Mount(ctx context.Context, p *serve.Process, c *Config, d Deps, catalog *feature.Catalog, events *event.Mux, sink event.Sink) (*Store, error) {
	store, err := Open(ctx, c, d)
	if err != nil {
		return nil, err
	}
	p.Defer(store.Close)
	s := NewServer(store, catalog, sink, p.Tel.Log)
	p.Defer(s.Close)
	s.Register(p.Mux)
	s.Hear(events)
	return store, nil
}

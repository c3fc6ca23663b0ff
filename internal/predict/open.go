package predict

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Open wires the flow of a bucket and mounts it on a process, which closes it.
func Open(ctx context.Context, p *serve.Process, c *model.Config, blob store.Blob, formats ...engine.Format) (*model.Registry, error) {
	registry, err := model.Open(c, blob, formats, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(registry.Close)
	flow, err := New(registry, p.Tel)
	if err != nil {
		return nil, err
	}
	ready := registry.Start(ctx)
	p.Ready(ready)
	NewHandler(flow, p.Tel.Version(), ready).Register(p.Mux)
	return registry, nil
}

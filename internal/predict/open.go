package predict

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/pulse"
	"github.com/pilotlight-ml/pilotlight/internal/queue"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Deps are what a flow is made of.
type Deps struct {
	Blob     store.Blob     // the bucket
	KV       store.KV       // what instances share, if it is a store.Shared also their answers and what they do now; nil: they share nothing
	Features *feature.Table // of what models' services name; nil: models that take features can't be asked
	Services []rpc.Service  // that are served by gRPC beside the own
	Formats  []engine.Format
	Sink     event.Sink // hears of changes to models; nil: nobody does
	Events   *event.Mux // takes what the flow wants to hear; nil: it hears nothing
}

// Config is what a flow reads from the environment.
type Config struct {
	Model  model.Config
	Queue  queue.Config
	Cache  cache.Config
	Record feature.RecordConfig
	Log    payload.Config
	Compat Compat
}

// Parts are the configurations that it is made of, for whoever loads them.
func (c *Config) Parts() []any {
	return []any{&c.Model, &c.Queue, &c.Cache, &c.Record, &c.Log, &c.Compat}
}

// Open wires the flow of a bucket and mounts it on a process, which closes it.
func Open(ctx context.Context, p *serve.Process, c *Config, d Deps) (*model.Registry, error) {
	outbox, err := event.NewOutbox(d.Sink, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(outbox.Close)
	registry, err := model.Open(&c.Model, d.Blob, d.KV, d.Formats, outbox, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(registry.Close)
	lanes, err := queue.New(&c.Queue, p.Tel)
	if err != nil {
		return nil, err
	}
	var shared store.KV
	if s, ok := d.KV.(store.Shared); ok && s.Shared() {
		shared = d.KV
	}
	answers, err := cache.Open(&c.Cache, shared, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(answers.Close)
	var recorder *feature.Recorder
	if d.Sink != nil {
		recorder = feature.NewRecorder(&c.Record, outbox)
		p.Defer(recorder.Close)
	}
	log, err := payload.Open(&c.Log, d.Blob, outbox, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(log.Close)
	board := pulse.NewBoard(shared, p.Tel.Log)
	p.Go(board.Run)
	view := pulse.NewView(shared, board)
	p.Defer(view.Close)
	view.Register(p.Mux)
	flow, err := New(registry, lanes, answers, d.Features, recorder, log, board, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(flow.Close)
	if d.Events != nil {
		flow.Hear(d.Events)
	}
	ready := registry.Start(ctx)
	p.Ready(ready)
	handler, err := NewHandler(flow, c.Compat, p.Tel, ready)
	if err != nil {
		return nil, err
	}
	handler.Register(p.Mux, d.Services...)
	return registry, nil
}

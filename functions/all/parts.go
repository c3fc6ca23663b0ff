package main

import (
	"context"
	"io"
	"net/http"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/event/bus"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/span"
	"github.com/pilotlight-ml/pilotlight/internal/step"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/triggers"
)

// stores opens the bucket, the small state, the newest values of features, and what counts against limits.
func (c *config) stores(ctx context.Context, p *serve.Process) (store.Blob, store.KV, store.Online, store.Meter, error) {
	defer p.Tel.ColdStart.Begin(telemetry.StageStore)()
	blob, err := open(ctx, c, p, blobs, c.Blob, "blob")
	if err != nil {
		return nil, nil, nil, nil, err
	}
	kv, err := open(ctx, c, p, kvs, c.KV, "kv")
	if err != nil {
		return nil, nil, nil, nil, err
	}
	online, err := open(ctx, c, p, rows, c.Online, "online")
	if err != nil {
		return nil, nil, nil, nil, err
	}
	counts, err := open(ctx, c, p, meters, c.KV, "kv")
	return blob, kv, online, counts, err
}

func open[T io.Closer](ctx context.Context, c *config, p *serve.Process, by store.Openers[T], set, place string) (T, error) {
	at, err := c.in(set, place)
	if err != nil {
		var none T
		return none, err
	}
	opened, err := by.Open(ctx, at)
	if err == nil {
		p.Defer(opened.Close)
	}
	return opened, err
}

// extra are kinds of steps that tests add.
var extra []pipeline.Kind

// environ tells a process that runs a step where the bucket is.
func (c *config) environ() ([]string, error) {
	at, err := c.in(c.Blob, "blob")
	return []string{"BLOB_URL=" + at}, err
}

// alone is the function as it is where the process is to run one step of a pipeline. Such steps work with the bucket alone: the
// other stores are files that the function itself has open.
//
//	DATA_DIR, BLOB_URL -> store.Blob -> step.Open -> pipeline.Manager -> the step
func alone() *serve.Function {
	var own config
	var oc onnx.Config
	var lc pipeline.Config
	var sc step.Alone
	var tc span.Config
	do := func(ctx context.Context, p *serve.Process) error {
		format, err := onnx.New(oc)
		if err != nil {
			return err
		}
		blob, err := open(ctx, &own, p, blobs, own.Blob, "blob")
		if err != nil {
			return err
		}
		if err := span.Open(p, &tc, blob); err != nil {
			return err
		}
		kinds, err := step.Open(ctx, p, &sc, step.Stores{Blob: blob}, format)
		if err != nil {
			return err
		}
		m, err := pipeline.New(&lc, pipeline.Deps{Blob: blob, Kinds: append(kinds, extra...)}, p.Tel)
		if err != nil {
			return err
		}
		return m.RunAsked(ctx)
	}
	return &serve.Function{Name: "step", Configs: append(sc.Parts(), &own, &oc, &lc, &tc), Do: do}
}

// edges are where each function takes its events.
type edges struct{ predict, features, feedback, deadletter, pipeline *event.Mux }

// broker makes the bus between the functions, and mounts where events come from outside.
func broker(c *bus.Config, kv store.KV, p *serve.Process) (*bus.Bus, *edges, error) {
	routes, err := bus.Load(c.Folders(triggers.Files)...)
	if err != nil {
		return nil, nil, err
	}
	takers, err := triggers.Takers(c.Folders(triggers.Files)...)
	if err != nil {
		return nil, nil, err
	}
	tally := event.NewTally()
	event.Show(p.Mux, takers, tally)
	f := &edges{}
	for _, mux := range []**event.Mux{&f.predict, &f.features, &f.feedback, &f.deadletter, &f.pipeline} {
		if *mux, err = event.NewMux(p.Tel); err != nil {
			return nil, nil, err
		}
	}
	b, err := bus.New(c, bus.Deps{
		Routes: routes, KV: kv, Tally: tally,
		Subscribers: map[string]http.Handler{
			"predict": newService(p, f.predict), "features": newService(p, f.features),
			"feedback": newService(p, f.feedback), "deadletter": newService(p, f.deadletter),
			"pipeline": newService(p, f.pipeline),
		},
	}, p.Tel)
	if err != nil {
		return nil, nil, err
	}
	p.Mux.Handle("POST /events", b)
	return b, f, nil
}

// service is a function as the triggers know it: with /events of its own beside
// the paths that all functions of the process share, such as /v2/models/m/infer.
type service struct {
	*http.ServeMux
	events *event.Mux
}

func newService(p *serve.Process, events *event.Mux) service {
	s := service{http.NewServeMux(), events}
	events.Register(s.ServeMux)
	s.Handle("/", p.Mux)
	return s
}

// Takes reports whether the function takes events of a type at /events.
func (s service) Takes(name string) bool { return s.events.Takes(name) }

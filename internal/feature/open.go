package feature

import (
	"context"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Deps are what the function is made of.
type Deps struct {
	Blob   store.Blob   // the bucket
	Online store.Online // the newest values
	Sink   event.Sink   // hears of changed definitions; nil: nobody does
	Events *event.Mux   // brings rows
}

// NearConfig says what is kept of the online store in the process.
type NearConfig struct {
	Size env.Size `env:"ONLINE_CACHE" default:"16MiB" help:"How much memory of the process rows of the online store may take, of a Redis that tells at once when they change; 0: each read asks Redis."`
}

// Open has rows kept in the process where the store tells what changes in it. The store is still to be closed by whoever opened it.
func (c *NearConfig) Open(p *serve.Process, online store.Online) store.Online {
	telling, ok := online.(store.Telling)
	if !ok || c.Size <= 0 {
		return online
	}
	near := store.NewNear(telling, keyRoot, int64(c.Size), p.Tel.Log)
	p.Defer(near.Stop)
	return near
}

// Options are what the function reads from the environment.
type Options struct {
	Catalog Config
	Ingest  IngestConfig
	Near    NearConfig
}

// Parts are the configurations that it is made of, for whoever loads them.
func (o *Options) Parts() []any { return []any{&o.Catalog, &o.Ingest, &o.Near} }

// Flow is the function: what is defined, what takes rows in, what answers.
type Flow struct {
	Catalog *Catalog
	Table   *Table
	Ingest  *Ingest
	feast   *Feast
	Ready   func() error // says what the function still waits for, or nil
}

// Open wires the function and mounts it on a process, which closes it. The process
// is ready once the definitions were read: before that it could answer nothing.
func Open(p *serve.Process, o *Options, d Deps) (*Flow, error) {
	outbox, err := event.NewOutbox(d.Sink, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(outbox.Close)
	f := &Flow{Catalog: NewCatalog(&o.Catalog, d.Blob, outbox, p.Tel.Log)}
	f.Table = NewTable(d.Online, f.Catalog.Current)
	if err := f.Table.Measure(p.Tel); err != nil {
		return nil, err
	}
	if f.Ingest, err = NewIngest(&o.Ingest, IngestDeps{Catalog: f.Catalog, Online: d.Online, Blob: d.Blob}, p.Tel); err != nil {
		return nil, err
	}
	p.Defer(f.Ingest.Close)
	f.Ingest.Hear(d.Events)
	f.Catalog.Register(p.Mux)
	f.feast = NewFeast(f.Table, f.Ingest, f.Catalog, p.Tel.Version())
	f.feast.Register(p.Mux)

	f.Ready = p.Await("read the definitions of features", "the definitions of features have not been read yet", func(ctx context.Context) error {
		_, err := f.Catalog.Current(ctx)
		return err
	})
	return f, nil
}

// Service is Feast's, by gRPC; who makes the server registers it.
func (f *Flow) Service() rpc.Service { return f.feast.Service() }

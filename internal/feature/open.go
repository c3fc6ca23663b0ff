package feature

import (
	"context"

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

// Options are what the function reads from the environment.
type Options struct {
	Catalog Config
	Ingest  IngestConfig
}

// Parts are the configurations that it is made of, for whoever loads them.
func (o *Options) Parts() []any { return []any{&o.Catalog, &o.Ingest} }

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

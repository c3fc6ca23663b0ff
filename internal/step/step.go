// Package step puts together all that steps of pipelines can do, for the mains that run them: where functions are together, of
// the parts that these have; where a process runs steps and nothing else, of stores alone.
package step

import (
	"context"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/etl"
	"github.com/pilotlight-ml/pilotlight/internal/evaluation"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/release"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/train"
)

// Config says what steps may do and cost.
type Config struct {
	ETL   etl.Config
	Train train.Config
}

// Parts are the configurations that it is made of, for whoever loads them.
func (c *Config) Parts() []any { return []any{&c.ETL, &c.Train} }

// Deps are the parts that steps use.
type Deps struct {
	Registry *model.Registry
	Features *feature.Catalog
	Offline  *offline.Store
	Format   engine.Format
	Blob     store.Blob
}

// Kinds gives all that steps can do.
func Kinds(c *Config, d Deps, tel *telemetry.Telemetry) []pipeline.Kind {
	return slices.Concat(
		etl.Kinds(&c.ETL, etl.Deps{Offline: d.Offline, Catalog: d.Features}),
		train.Kinds(train.Deps{Models: d.Registry.Catalog, Features: d.Features, Offline: d.Offline, Format: d.Format, Config: c.Train}),
		evaluation.Kinds(evaluation.Deps{Registry: d.Registry}),
		release.Kinds(release.Deps{Registry: d.Registry, Rollouts: feedback.Rollouts(d.Blob, d.Registry.Catalog, nil, tel.Log)}),
	)
}

// Alone is the configuration of a process that has no other functions.
type Alone struct {
	Config
	Model    model.Config
	Features feature.Config
	Offline  offline.Config
}

// Parts are the configurations that it is made of, for whoever loads them.
func (a *Alone) Parts() []any {
	return append(a.Config.Parts(), &a.Model, &a.Features, &a.Offline)
}

// Stores are all that a process needs that has no other functions.
type Stores struct {
	Blob   store.Blob
	KV     store.KV     // for leases of history that is brought online
	Online store.Online // where it is brought
	Sink   event.Sink   // hears of versions and aliases
}

// Open opens the parts that steps use, has the process close them, and gives all that steps can do.
func Open(ctx context.Context, p *serve.Process, a *Alone, s Stores, format engine.Format) ([]pipeline.Kind, error) {
	outbox, err := event.NewOutbox(s.Sink, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(outbox.Close)
	registry, err := model.Open(&a.Model, s.Blob, nil, []engine.Format{format}, outbox, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(registry.Close)
	history, err := offline.Open(ctx, &a.Offline, offline.Deps{Blob: s.Blob, KV: s.KV, Online: s.Online})
	if err != nil {
		return nil, err
	}
	p.Defer(history.Close)
	return Kinds(&a.Config, Deps{
		Registry: registry, Features: feature.NewCatalog(&a.Features, s.Blob, outbox, p.Tel.Log), Offline: history, Format: format, Blob: s.Blob,
	}, p.Tel), nil
}

package etl

import (
	"context"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
)

// Materialize is what a step of that kind says of itself: the views of a source, or some by their names, or all.
type Materialize struct {
	Source string   `yaml:"source"`
	Views  []string `yaml:"views"`
	Full   bool     `yaml:"full"` // all of history, and not what is new in it
}

type materialize struct {
	Materialize
	deps Deps
}

func newMaterialize(with node, d Deps) (pipeline.Step, error) {
	m := &materialize{deps: d}
	if err := with.Into(&m.Materialize, "with"); err != nil {
		return nil, err
	}
	if m.Source != "" && m.Views != nil {
		return nil, with.Fail("expected either source or views")
	}
	return m, nil
}

// materializeWait is how long to wait for somebody else who has a view in hand.
const materializeWait = 10 * time.Second

// Run implements pipeline.Step. What was brought online stays so; a run that goes on leaves it out.
func (m *materialize) Run(ctx context.Context, t *pipeline.Task) error {
	defs, err := m.deps.Catalog.Current(ctx)
	if err != nil {
		return err
	}
	names := m.Views
	if names == nil {
		if m.Source != "" {
			if _, err := defs.Source(m.Source); err != nil {
				return err
			}
		}
		for _, v := range defs.Views {
			if m.Source == "" || v.Source == m.Source {
				names = append(names, v.Name)
			}
		}
	}
	var views []*feature.CompiledView
	for _, name := range names {
		v, err := defs.View(name)
		if err != nil {
			return err
		}
		views = append(views, v)
	}
	report := []offline.Progress{}
	for _, v := range views {
		var last offline.Progress
		err := m.deps.Offline.Materialize(ctx, v, offline.Span{Incremental: !m.Full}, func(p offline.Progress) {
			last = p
			t.Progress(int64(p.Files), int64(p.Of), "files of "+p.View)
		})
		if fault.Is(err, fault.Conflict) {
			return pipeline.Later(materializeWait, fault.Message(err))
		}
		if err != nil {
			return err
		}
		t.Log.InfoContext(ctx, "a view is online", "view", v.Name, "files", last.Files, "rows", last.Rows)
		report = append(report, last)
	}
	return t.Tell(reportPort, report)
}

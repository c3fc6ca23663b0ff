package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Parts are what a function with pipelines is made of.
type Parts struct {
	Blob   store.Blob
	Sink   event.Sink // nil: runs go on by ticks alone
	Events *event.Mux
	Kinds  []Kind
	Place  Place // where heavy steps run; nil: where PIPELINE_STEPS says
	// Environ are variables beside those of this process, by which a process that runs a step finds the stores.
	Environ []string
}

// Open makes the pipelines of a bucket and mounts them on a process, which closes them. Runs that
// a process before it left are gone on with as soon as they may be.
func Open(p *serve.Process, c *Config, d Parts) (*Manager, error) {
	m, err := New(c, Deps{Blob: d.Blob, Sink: d.Sink, Kinds: d.Kinds, Place: d.Place}, p.Tel)
	if err != nil {
		return nil, err
	}
	volatile, ok := d.Blob.(store.Volatile)
	switch forgets := ok && volatile.Volatile(); {
	case d.Place == nil && c.Jobs != "":
		jobs, err := event.NewHTTP(&event.Config{Sink: c.Jobs, Timeout: sendMost}, p.Tel)
		if err != nil {
			return nil, fmt.Errorf("read PIPELINE_JOBS: %w", err)
		}
		m.place = NewJobs(jobs, c.Await)
	case d.Place != nil || c.Steps != "process":
	case forgets:
		for _, k := range d.Kinds {
			if k.Heavy {
				p.Tel.Log.InfoContext(context.Background(), "steps run in the function itself: no other process sees a bucket in memory", slog.String("kind", k.Name))
				break
			}
		}
	default:
		places := newProcesses(m, c.Memory, d.Environ)
		p.Defer(places.Close)
		m.place = places
	}
	if n := tidy(); n > 0 {
		p.Tel.Log.InfoContext(context.Background(), "deleted folders of steps whose processes were killed", slog.Int("folders", n))
	}
	m.Register(p.Mux)
	m.Hear(d.Events)
	ready := p.Await("look for the bucket", "the bucket has not answered yet", m.reach)
	p.Go(func(ctx context.Context) {
		defer m.stop() // so that nobody waits for steps when the process is to end
		m.takeUp(ctx, ready)
		<-ctx.Done()
	})
	return m, nil
}

// reach asks the bucket for anything.
func (m *Manager) reach(ctx context.Context) error {
	for _, err := range m.blob.List(ctx, Prefix, "") {
		return err
	}
	return nil
}

// takeUp goes on with what a process before this one left, once the leases of that are over. Later ticks do the same.
func (m *Manager) takeUp(ctx context.Context, ready func() error) {
	end := time.Now().Add(2*m.lease + time.Minute)
	for ctx.Err() == nil && time.Now().Before(end) {
		if ready() != nil {
			rest(ctx, 100*time.Millisecond)
			continue
		}
		again, err := m.Tick(ctx)
		if err != nil && ctx.Err() == nil {
			m.log.WarnContext(ctx, "look for runs that were left", slog.String("error", err.Error()))
			again = m.now().Add(time.Second)
		}
		if again.IsZero() || again.Sub(m.now()) > m.lease+time.Second {
			return
		}
		rest(ctx, max(again.Sub(m.now()), 100*time.Millisecond))
	}
}

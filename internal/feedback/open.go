package feedback

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// KeepConfig says how long what is known of predictions is kept.
type KeepConfig struct {
	Keep time.Duration `env:"FEEDBACK_KEEP" default:"720h" help:"How long predictions, outcomes and rejected outcomes are kept in the bucket."`
}

// Validate refuses what can't work.
func (c *KeepConfig) Validate() error {
	if c.Keep <= 0 {
		return fault.New(fault.Invalid, "FEEDBACK_KEEP must be positive")
	}
	return nil
}

// Config is what the function reads from the environment.
type Config struct {
	Intake IntakeConfig
	Keep   KeepConfig
}

// Parts are the configurations that it is made of, for whoever loads them.
func (c *Config) Parts() []any { return []any{&c.Intake, &c.Keep} }

// Deps are what the function is made of.
type Deps struct {
	Blob   store.Blob // the bucket
	Events *event.Mux // takes outcomes, and ticks
}

// Open wires what takes outcomes in and mounts it on a process, which closes it.
func Open(p *serve.Process, c *Config, d Deps) (*Intake, error) {
	in, err := NewIntake(&c.Intake, d.Blob, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(in.Close)
	in.Register(p.Mux)
	in.Hear(d.Events)
	event.On(d.Events, event.Tick, func(ctx context.Context, _ *event.Event, tick event.Ticked) error {
		if tick.Job != "sweep-feedback" {
			return fault.New(fault.Invalid, "nobody here does the job %.100q", tick.Job)
		}
		deleted, err := Sweep(ctx, d.Blob, time.Now().Add(-c.Keep.Keep))
		telemetry.LineFrom(ctx).Set(slog.Int("deleted", deleted))
		return err
	})
	var reached atomic.Bool
	p.Go(func(ctx context.Context) {
		for ctx.Err() == nil && !reached.Load() {
			err := in.reach(ctx)
			if reached.Store(err == nil); err == nil {
				return
			}
			p.Tel.Log.WarnContext(ctx, "look for the bucket", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	p.Ready(func() error {
		if !reached.Load() {
			return fault.New(fault.Unavailable, "the bucket has not answered yet")
		}
		return nil
	})
	return in, nil
}

// reach asks the bucket for anything.
func (in *Intake) reach(ctx context.Context) error {
	for _, err := range in.blob.List(ctx, InboxPrefix, "") {
		return err
	}
	return nil
}

// Sweep deletes segments of predictions and of outcomes, and rejected outcomes, that are from before a
// moment, and tells how many objects they were.
func Sweep(ctx context.Context, blob store.Blob, before time.Time) (deleted int, err error) {
	deleted, err = payload.Sweep(ctx, blob, before)
	if err != nil {
		return deleted, err
	}
	// The keys of both begin with a time, so that they come in its order.
	for prefix, until := range map[string]string{
		InboxPrefix:    fmt.Sprintf("%s%016d", InboxPrefix, max(before.UnixMicro(), 0)),
		RejectedPrefix: RejectedPrefix + before.UTC().Format(time.DateOnly),
	} {
		for o, err := range blob.List(ctx, prefix, "") {
			if err != nil {
				return deleted, fmt.Errorf("list %s: %w", prefix, err)
			}
			if o.Key >= until {
				break
			}
			if err := blob.Delete(ctx, o.Key); err != nil {
				return deleted, fmt.Errorf("delete %q: %w", o.Key, err)
			}
			deleted++
		}
	}
	return deleted, nil
}

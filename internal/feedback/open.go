package feedback

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
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
	Alert  alert.Config
}

// Parts are the configurations that it is made of, for whoever loads them.
func (c *Config) Parts() []any { return []any{&c.Intake, &c.Keep, &c.Alert} }

// catchUp is for how long a segment may have been overlooked, because nobody ticked, before it never counts.
const catchUp = 24 * time.Hour

// Deps are what the function is made of.
type Deps struct {
	Blob   store.Blob // the bucket
	Events *event.Mux // takes outcomes, and ticks
	Sink   event.Sink // hears of alerts
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
	alerts, err := alert.New(&c.Alert, alert.Deps{Blob: d.Blob, Sink: d.Sink, Quality: func(string) bool { return false }}, p.Tel)
	if err != nil {
		return nil, err
	}
	alerts.Register(p.Mux)
	registerAdmin(p.Mux, d.Blob)
	windows := &Windows{blob: d.Blob}
	catalog := model.NewCatalog(d.Blob, time.Minute, nil)
	event.On(d.Events, event.Tick, func(ctx context.Context, _ *event.Event, tick event.Ticked) error {
		line := telemetry.LineFrom(ctx)
		switch tick.Job {
		case "sweep-feedback":
			deleted, err := Sweep(ctx, d.Blob, time.Now().Add(-c.Keep.Keep))
			line.Set(slog.Int("deleted", deleted))
			return err
		case "evaluate-alerts":
			added, damaged, err := windows.CatchUp(ctx, time.Now().Add(-catchUp))
			line.Set(slog.Int("segments", added))
			if len(damaged) > 0 {
				line.Set(slog.Any("damaged", damaged[:min(len(damaged), 10)]))
			}
			if err != nil {
				return err
			}
			return alerts.Tick(ctx, &watcher{windows, catalog, map[[2]int64]*window{}})
		}
		return fault.New(fault.Invalid, "nobody here does the job %.100q", tick.Job)
	})
	p.Await("look for the bucket", "the bucket has not answered yet", in.reach)
	return in, nil
}

// reach asks the bucket for anything.
func (in *Intake) reach(ctx context.Context) error {
	for _, err := range in.blob.List(ctx, InboxPrefix, "") {
		return err
	}
	return nil
}

// Sweep deletes segments of predictions and of outcomes, rejected outcomes and windows, that are from before a
// moment, and tells how many objects they were.
func Sweep(ctx context.Context, blob store.Blob, before time.Time) (deleted int, err error) {
	deleted, err = payload.Sweep(ctx, blob, before)
	if err != nil {
		return deleted, err
	}
	// The keys of all begin with a time, so that they come in its order.
	for prefix, until := range map[string]string{
		InboxPrefix:    fmt.Sprintf("%s%016d", InboxPrefix, max(before.UnixMicro(), 0)),
		RejectedPrefix: RejectedPrefix + before.UTC().Format(time.DateOnly),
		windowKey(narrow, 0)[:len(windowKey(narrow, 0))-16]: windowKey(narrow, before.UnixMicro()),
		windowKey(wide, 0)[:len(windowKey(wide, 0))-16]:     windowKey(wide, before.UnixMicro()),
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

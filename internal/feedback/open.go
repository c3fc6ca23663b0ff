package feedback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	spans "github.com/pilotlight-ml/pilotlight/internal/span"
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
	Intake  IntakeConfig
	Journal JournalConfig
	Keep    KeepConfig
	Traces  spans.KeepConfig
	Alert   alert.Config
	Rollout rollout.Config
}

// Parts are the configurations that it is made of, for whoever loads them.
func (c *Config) Parts() []any {
	return []any{&c.Intake, &c.Journal, &c.Keep, &c.Traces, &c.Alert, &c.Rollout}
}

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
	alerts, err := alert.New(&c.Alert, alert.Deps{Blob: d.Blob, Sink: d.Sink, Quality: isQuality}, p.Tel)
	if err != nil {
		return nil, err
	}
	alerts.Register(p.Mux)
	outbox, err := event.NewOutbox(d.Sink, p.Tel)
	if err != nil {
		return nil, err
	}
	p.Defer(outbox.Close)
	catalog := model.NewCatalog(d.Blob, time.Minute, outbox)
	conf := c.Journal
	conf.Join = min(conf.Join, c.Keep.Keep) // a correction of what is swept would take back what is not there
	journal, err := NewJournal(&conf, d.Blob, catalog, p.Tel)
	if err != nil {
		return nil, err
	}
	registerAdmin(p.Mux, journal)
	traces, err := spans.NewReader(d.Blob, p.Tel.Log)
	if err != nil {
		return nil, err
	}
	traces.Register(p.Mux)
	traffic, err := rollout.OpenTraffic(&c.Rollout, catalog, outbox, p.Tel.Log)
	if err != nil {
		return nil, err
	}
	rollouts := Rollouts(d.Blob, catalog, traffic, p.Tel.Log)
	rollouts.Register(p.Mux)
	if err := rollouts.Measure(p.Tel); err != nil {
		return nil, err
	}
	told, err := newGauges(journal, p.Tel)
	if err != nil {
		return nil, err
	}
	if traffic != nil {
		event.On(d.Events, event.AliasMoved, func(ctx context.Context, _ *event.Event, moved event.Moved) error {
			return traffic.Follow(ctx, moved.Model, moved.Alias)
		})
	}
	event.On(d.Events, event.Tick, func(ctx context.Context, _ *event.Event, tick event.Ticked) error {
		line := telemetry.LineFrom(ctx)
		switch tick.Job {
		case "sweep-feedback":
			deleted, err1 := journal.Sweep(ctx, time.Now().Add(-c.Keep.Keep))
			swept, err2 := traces.Sweep(ctx, time.Now().Add(-c.Traces.Keep))
			line.Set(slog.Int("deleted", deleted+swept))
			return errors.Join(err1, err2)
		case "evaluate-alerts":
			did, err := journal.CatchUp(ctx)
			line.Set(slog.Int("segments", did.Segments), slog.Int("predictions", did.Predictions), slog.Int("outcomes", did.Outcomes),
				slog.Int("joined", did.Joined), slog.Int("unknown", did.Unknown), slog.Int("waiting", did.Waiting))
			if len(did.Damaged) > 0 {
				line.Set(slog.Any("damaged", did.Damaged[:min(len(did.Damaged), 10)]))
			}
			if err != nil {
				return err
			}
			err = errors.Join(rollouts.Tick(ctx, journal), alerts.Tick(ctx, &watcher{journal, map[[2]int64]*window{}}, tick.At))
			// The rest has the time that is left, and fails nothing: a tick that comes again would not make it better.
			told.tick(ctx, &did, tick.At)
			if _, err := traces.Join(ctx); err != nil {
				p.Tel.Log.WarnContext(ctx, "traces are not joined", slog.String("error", err.Error()))
			}
			return err
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
// moment, and what no commit needs, and tells how many objects they were.
func (j *Journal) Sweep(ctx context.Context, before time.Time) (deleted int, err error) {
	deleted, err = payload.Sweep(ctx, j.blob, before)
	if err != nil {
		return deleted, err
	}
	n, err := j.sweep(ctx, j.now().Add(-catchUp))
	deleted += n
	if err != nil {
		return deleted, err
	}
	for _, old := range []struct {
		prefix string
		gone   func(o *store.Object) (gone, last bool)
	}{
		// The keys of these begin with a time, so that they come in its order.
		{InboxPrefix, until(InboxPrefix + micros(before.UnixMicro()))},
		{LogPrefix, until(LogPrefix + micros(before.UnixMicro()))},
		{DamagedPrefix, until(DamagedPrefix + micros(before.UnixMicro()))},
		{RejectedPrefix, until(RejectedPrefix + before.UTC().Format(time.DateOnly))},
		// Predictions may be as of another time than that they were made at, and windows are then of that.
		{WindowPrefix, func(o *store.Object) (bool, bool) { return o.Modified.Before(before), false }},
	} {
		for o, err := range j.blob.List(ctx, old.prefix, "") {
			if err != nil {
				return deleted, fmt.Errorf("list %s: %w", old.prefix, err)
			}
			gone, last := old.gone(&o)
			if last {
				break
			}
			if !gone {
				continue
			}
			if err := j.blob.Delete(ctx, o.Key); err != nil {
				return deleted, fmt.Errorf("delete %q: %w", o.Key, err)
			}
			deleted++
		}
	}
	return deleted, nil
}

// until tells that all before a key is gone.
func until(key string) func(o *store.Object) (gone, last bool) {
	return func(o *store.Object) (bool, bool) { return o.Key < key, o.Key >= key }
}

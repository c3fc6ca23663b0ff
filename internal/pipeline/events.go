package pipeline

import (
	"context"
	"encoding/json"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// starter is a type of events by which pipelines are started.
type starter struct {
	*event.Declaration
	on func(m *event.Mux, handle func(ctx context.Context, e *event.Event) error)
}

func starts[T any](t event.Type[T]) starter {
	return starter{t.Declaration, func(m *event.Mux, handle func(ctx context.Context, e *event.Event) error) {
		event.On(m, t, func(ctx context.Context, e *event.Event, _ T) error { return handle(ctx, e) })
	}}
}

// starters are what definitions may name. The triggers bring exactly these: a pipeline that waits for
// what never comes would be a mistake that nobody sees.
var starters = []starter{starts(event.AlertRaised), starts(event.FeaturesSkewed), starts(event.FileLanded), starts(event.PipelineEnded)}

// fieldsIn gives the fields of an event's data that are single values, as text.
func fieldsIn(e *event.Event) map[string]string {
	var raw map[string]json.RawMessage
	if json.Unmarshal(e.Data(), &raw) != nil {
		return nil
	}
	fields := map[string]string{}
	for name, value := range raw {
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value)
		}
		fields[name] = text
	}
	return fields
}

// Hear has events start pipelines, and runs go on.
func (m *Manager) Hear(mux *event.Mux) {
	for _, s := range starters {
		s.on(mux, m.hear)
	}
	event.On(mux, event.PipelineStarted, func(ctx context.Context, _ *event.Event, b event.Begun) error {
		_, err := m.Work(ctx, b.Pipeline)
		return err
	})
	event.On(mux, event.StepFinished, func(ctx context.Context, _ *event.Event, t event.Try) error {
		_, err := m.Work(ctx, t.Pipeline)
		return err
	})
	event.On(mux, event.Tick, func(ctx context.Context, _ *event.Event, tick event.Ticked) error {
		if tick.Job != "tend-pipelines" {
			return fault.New(fault.Invalid, "nobody here does the job %.100q", tick.Job)
		}
		_, err := m.Tick(ctx)
		return err
	})
}

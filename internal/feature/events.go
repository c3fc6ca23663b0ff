package feature

import (
	"context"
	"encoding/json"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Hear has the mux bring rows in as events, and what models were given. An event is done once its rows
// are accepted or kept as rejected; one for a source that is not defined is refused for good.
func (in *Ingest) Hear(m *event.Mux) {
	event.OnBatch(m, event.FeaturesObserved, in.observed)
	event.OnBatch(m, event.FeaturesServed, in.served)
}

// arrived is the rows of one source in a batch of events.
type arrived struct {
	source   *CompiledSource
	err      error // why there is none
	events   []int // by their places in the batch
	rows     []Row
	rejected []Rejection
}

// observed takes the rows of each source in one call, whatever events they come by.
func (in *Ingest) observed(ctx context.Context, events []event.Received[event.Rows]) []error {
	errs := make([]error, len(events))
	var all []*arrived
	bySource := map[string]*arrived{}
	for i, e := range events {
		a := bySource[e.Data.Source]
		if a == nil {
			a = &arrived{}
			a.source, a.err = in.source(ctx, e.Data.Source)
			bySource[e.Data.Source] = a
			all = append(all, a)
		}
		a.events = append(a.events, i)
		if a.err == nil {
			a.read(e)
		}
	}
	var group errgroup.Group
	rows, rejected := 0, 0
	for _, a := range all {
		rows, rejected = rows+len(a.rows), rejected+len(a.rejected)
		group.Go(func() error {
			if a.err == nil {
				a.err = fault.Guard(func() error {
					_, err := in.accept(ctx, a.source, a.rows, a.rejected, Everywhere)
					return err
				})()
			}
			for _, i := range a.events {
				errs[i] = a.err
			}
			return nil
		})
	}
	_ = group.Wait() // each event has its error
	telemetry.LineFrom(ctx).Set(slog.Int("rows", rows), slog.Int("unread", rejected))
	return errs
}

// source finds a source. What is known of definitions may be some seconds old, so
// one that is not known is looked for in the bucket.
func (in *Ingest) source(ctx context.Context, name string) (*CompiledSource, error) {
	c, err := in.deps.Catalog.Current(ctx)
	if err != nil {
		return nil, err
	}
	if s, err := c.Source(name); err == nil {
		return s, nil
	}
	if err := in.deps.Catalog.Reread(ctx); err != nil {
		return nil, err
	}
	if c, err = in.deps.Catalog.Current(ctx); err != nil {
		return nil, err
	}
	return c.Source(name)
}

// read adds the rows of an event.
func (a *arrived) read(e event.Received[event.Rows]) {
	for i, fields := range e.Data.Rows {
		r := Row{ID: hash(e.Source(), e.ID(), i), Values: make([]row.Value, len(a.source.Fields))}
		if err := readRow(a.source, fields, r.Values); err != nil {
			raw, _ := json.Marshal(fields) // it was JSON
			a.rejected = append(a.rejected, Rejection{Index: i, Reason: BadType, Detail: fault.Message(err), row: raw})
			continue
		}
		a.rows = append(a.rows, r)
	}
}

// readRow reads the columns that the source has.
func readRow(s *CompiledSource, fields map[string]json.RawMessage, values []row.Value) error {
	if fields == nil {
		return fault.New(fault.Invalid, "the row is null, expected an object")
	}
	for name, raw := range fields {
		at, ok := s.At[name]
		if !ok {
			continue
		}
		v, err := row.ParseJSON(s.Fields[at].Type, raw)
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "column %q: %s", name, fault.Message(err))
		}
		values[at] = v
	}
	return nil
}

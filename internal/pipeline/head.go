package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Cause is the event, or the time, that started a run.
type Cause struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Source  string `json:"source"`
	Subject string `json:"subject,omitempty"`
	Trace   string `json:"trace,omitempty"` // traceparent of the span that it was made in
}

func causeOf(e *event.Event) *Cause {
	return &Cause{ID: e.ID(), Type: e.Type(), Source: e.Source(), Subject: e.Subject(), Trace: telemetry.Traceparent(event.Origin(e))}
}

// hash names a cause: the same event has the same one.
func (c *Cause) hash() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", c.Source, c.ID))
	return hex.EncodeToString(sum[:8])
}

// Beginning is how a run begins.
type Beginning struct {
	ID      string    `json:"id"` // of the run; runs of a pipeline sort by it in the order of time
	At      time.Time `json:"at"`
	Version int       `json:"version"`         // of the definition
	Cause   *Cause    `json:"cause,omitempty"` // absent: a person
	By      string    `json:"by,omitempty"`    // who
	Why     string    `json:"why,omitempty"`
	tracing
}

// head tells which run of a pipeline is under way: what is to be true of it for all instances is changed here, by
// compare-and-swap, before anything else is done.
type head struct {
	Active  *Beginning `json:"active,omitempty"`  // its record may not be written yet, or say already that it has ended
	Pending *Cause     `json:"pending,omitempty"` // an event that starts the next run
	Last    *Beginning `json:"last,omitempty"`    // the newest run, which may be the active one
	ByEvent time.Time  `json:"by_event,omitzero"` // when the last run began that an event started
	Causes  []string   `json:"causes,omitempty"`  // of the last events, oldest first: each counts once
	Joined  int        `json:"joined,omitempty"`  // events that came while one was pending already
	Paused  int        `json:"paused,omitempty"`  // events that came within the pause
	Untold  []string   `json:"untold,omitempty"`  // runs that have ended, and of which no event could be sent yet
}

const (
	headMost   = 1 << 20
	causesMost = 500
	untoldMost = 20
)

func headKey(name string) string { return Prefix + name + "/head" }

// change reads the head of a pipeline and, if f says so, writes what f made of it. f may be called again.
func (m *Manager) change(ctx context.Context, name string, f func(h *head) (write bool, err error)) (*head, error) {
	for {
		h := &head{}
		version, err := store.ReadJSON(ctx, m.blob, headKey(name), headMost, h)
		damaged := err != nil && version != ""
		if damaged { // it would block the pipeline for good
			m.log.ErrorContext(ctx, "the head of a pipeline is made anew of its runs", slog.String("pipeline", name), slog.String("error", err.Error()))
			h, err = m.rebuilt(ctx, name)
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		write, err := f(h)
		if err != nil || !write && !damaged {
			return h, err
		}
		_, err = store.WriteJSON(ctx, m.blob, headKey(name), h, store.IfStill(version))
		if !fault.Is(err, fault.Conflict) {
			return h, err
		}
	}
}

// rebuilt is a head by what the runs say: the newest that can be read is the last one, and the active one if it has not ended. What
// was pending is lost, and so are the causes of other runs.
func (m *Manager) rebuilt(ctx context.Context, name string) (*head, error) {
	var ids []string
	for o, err := range m.blob.List(ctx, runKey(name, ""), "") {
		if err != nil {
			return nil, fmt.Errorf("list runs of the pipeline %s: %w", name, err)
		}
		ids = append(ids, strings.TrimPrefix(o.Key, runKey(name, "")))
	}
	h := &head{}
	for _, id := range slices.Backward(ids) {
		run, err := m.Get(ctx, name, id)
		if fault.Is(err, fault.Invalid) || fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h.Last = &run.Beginning
		if run.Ended.IsZero() {
			h.Active = h.Last
		}
		if c := run.Cause; c != nil && c.Type != everyType {
			h.ByEvent, h.Causes = run.At, []string{c.hash()}
		}
		break
	}
	return h, nil
}

func (m *Manager) head(ctx context.Context, name string) (*head, error) {
	return m.change(ctx, name, func(*head) (bool, error) { return false, nil })
}

const idLayout = "20060102T150405.000"

// begin makes a run the active one.
func (h *head) begin(now time.Time, version int, cause *Cause, by, why string) {
	now = now.UTC().Truncate(time.Millisecond)
	order := now
	if h.Last != nil { // a clock that is behind, or was ahead, must not mix up the order
		if last, err := time.Parse(idLayout, h.Last.ID[:min(len(idLayout), len(h.Last.ID))]); err == nil && !order.After(last) {
			order = last.Add(time.Millisecond)
		}
	}
	salt := fmt.Sprintf("%q %q", by, why)
	if cause != nil {
		salt = cause.hash()
		if cause.Type != everyType {
			h.ByEvent = now
		}
	}
	sum := sha256.Sum256([]byte(salt))
	h.Active = &Beginning{ID: order.Format(idLayout) + "-" + hex.EncodeToString(sum[:4]), At: now, Version: version, Cause: cause, By: by, Why: why}
	h.Last = h.Active
}

// everyType is the type of a cause that is no event: the time of "every" has come.
const everyType = "every"

// verdict is what becomes of an event that is to start a run.
type verdict string

const (
	begins  verdict = "begins"
	pending verdict = "pending" // it starts a run when the active one has ended
	joined  verdict = "joined"  // another event is pending already
	paused  verdict = "paused"
	known   verdict = "known" // it has come before
)

// hear decides on an event.
func (h *head) hear(c *Cause, now time.Time, version int, pause time.Duration) verdict {
	hash := c.hash()
	if slices.Contains(h.Causes, hash) {
		return known
	}
	if h.Causes = append(h.Causes, hash); len(h.Causes) > causesMost {
		h.Causes = slices.Delete(h.Causes, 0, len(h.Causes)-causesMost)
	}
	switch {
	case h.Pending != nil:
		h.Joined++
		return joined
	// A clock that was wrong in the future must not end all runs: so both ways.
	case !h.ByEvent.IsZero() && now.Sub(h.ByEvent).Abs() < pause:
		h.Paused++
		return paused
	case h.Active != nil:
		h.Pending = c
		return pending
	}
	h.begin(now, version, c, "", "")
	return begins
}

// Start begins a run by hand, and tells the broker of it. While one is under way it is a Conflict.
func (m *Manager) Start(ctx context.Context, name, by, why string) (*Run, error) {
	if len(by) > byMost || len(why) > whyMost {
		return nil, fault.New(fault.Invalid, "by and why have at most %d and %d bytes", byMost, whyMost)
	}
	for {
		v, _, err := m.current(ctx, name)
		if err != nil {
			return nil, err
		}
		busy := ""
		h, err := m.change(ctx, name, func(h *head) (bool, error) {
			if h.Active != nil {
				busy = h.Active.ID
				return false, nil
			}
			busy = ""
			h.begin(m.now(), v.Version, nil, by, why)
			h.Active.traced(ctx)
			return true, nil
		})
		if err != nil {
			return nil, err
		}
		run, err := m.record(ctx, name, h.Active)
		switch {
		case err != nil:
			return nil, err
		case busy == "":
			telemetry.Keep(ctx) // what the run stands below
			m.tellStarted(ctx, run)
			return run, nil
		case run.Ended.IsZero():
			return nil, fault.New(fault.Conflict, "the run %s of the pipeline %s is under way; wait for its end, or cancel it", busy, name)
		}
		if err := m.finish(ctx, run); err != nil { // whoever ended it was killed before this
			return nil, err
		}
	}
}

// hear starts runs by an event. What goes wrong with one pipeline costs no other; the event comes again for it.
func (m *Manager) hear(ctx context.Context, e *event.Event) error {
	fields := fieldsIn(e)
	names, err := m.names(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		v, d, err := m.current(ctx, name)
		switch {
		case fault.Is(err, fault.NotFound):
		case fault.Is(err, fault.Invalid): // trying again helps nobody
			m.log.ErrorContext(ctx, "a pipeline can't be read", slog.String("pipeline", name), slog.String("error", err.Error()))
		case err != nil:
			errs = append(errs, err)
		case (&plan{Definition: d}).starts(e, fields):
			errs = append(errs, m.hearFor(ctx, name, v, d, causeOf(e)))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) hearFor(ctx context.Context, name string, v *Version, d *Definition, c *Cause) error {
	var said verdict
	h, err := m.change(ctx, name, func(h *head) (bool, error) {
		said = h.hear(c, m.now(), v.Version, time.Duration(d.Pause))
		if said == begins {
			h.Active.traced(ctx)
		}
		return said != known, nil
	})
	if err != nil {
		return err
	}
	telemetry.Keep(ctx)
	joinTrace(ctx, h.Active, said)
	m.metrics.heard(ctx, name, said)
	m.log.InfoContext(ctx, "an event for a pipeline", slog.String("pipeline", name), slog.String("type", c.Type), slog.String("event", c.ID), slog.String("verdict", string(said)))
	if h.Active == nil || h.Active.Cause == nil || h.Active.Cause.hash() != c.hash() {
		return nil
	}
	// Also where it is known: whoever heard it first may have been killed before this.
	run, err := m.record(ctx, name, h.Active)
	if err != nil {
		return err
	}
	if run.State == Queued {
		m.tellStarted(ctx, run)
	}
	return nil
}

// due begins the run that an event or the time has come for, where none is under way, and tells whether one did; or else when the time comes.
func (m *Manager) due(ctx context.Context, name string) (began bool, next time.Time, err error) {
	v, d, err := m.current(ctx, name)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) { // List shows which is broken
		return false, time.Time{}, nil
	}
	if err != nil {
		return false, time.Time{}, err
	}
	every := (&plan{Definition: d}).every()
	h, err := m.change(ctx, name, func(h *head) (bool, error) {
		now := m.now()
		began, next = false, time.Time{}
		if every > 0 {
			next = v.At // of a pipeline that never ran
			if h.Last != nil {
				next = h.Last.At
			}
			if next = next.Add(every); next.Sub(now) > 2*every { // a clock was ahead then, and must not end all runs
				next = now
			}
		}
		switch {
		case h.Active != nil:
			return false, nil
		case h.Pending != nil:
			h.begin(now, v.Version, h.Pending, "", "")
			h.Pending = nil
		case every > 0 && !next.After(now):
			h.begin(now, v.Version, &Cause{ID: next.UTC().Format(time.RFC3339), Type: everyType, Source: "/pilotlight/pipelines/" + name}, "", "")
		default:
			return false, nil
		}
		h.Active.traced(ctx)
		began = true
		return true, nil
	})
	if err != nil || !began {
		return false, next, err
	}
	telemetry.Keep(ctx) // what the run stands below
	run, err := m.record(ctx, name, h.Active)
	if err == nil {
		m.tellStarted(ctx, run)
	}
	return true, next, err
}

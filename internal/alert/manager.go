package alert

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says how often rules are evaluated, and who hears of alerts beside the broker.
type Config struct {
	Every   time.Duration `env:"ALERT_EVERY" default:"30s" help:"A tick that comes sooner than this after the last evaluation is taken for the same one, which several instances heard."`
	Webhook env.Secret    `env:"ALERT_WEBHOOK" help:"URL that alerts are posted to in the form of Alertmanager's webhook; empty: none."`
}

// Validate refuses what can't work. It does not repeat the webhook's URL, which may hold a secret.
func (c *Config) Validate() error {
	if c.Every <= 0 {
		return fault.New(fault.Invalid, "ALERT_EVERY must be positive")
	}
	if u, err := url.Parse(string(c.Webhook)); c.Webhook != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fault.New(fault.Invalid, "ALERT_WEBHOOK is not a URL such as https://alerts.example.com/hook")
	}
	return nil
}

// Deps are what a Manager works with.
type Deps struct {
	Blob    store.Blob
	Sink    event.Sink               // nil: no events are sent
	Quality func(metric string) bool // tells which metrics of quality rules may name; nil: any
}

// Manager keeps rules and the state of alerts in the bucket.
type Manager struct {
	blob    store.Blob
	sink    event.Sink
	hook    *webhook // nil: none
	quality func(string) bool
	every   time.Duration
	log     *slog.Logger
	metrics instruments
	now     func() time.Time

	cached atomic.Pointer[Rules] // the newest that was read
	known  atomic.Pointer[known]
}

// known is the state as it was last seen.
type known struct {
	*State
	read time.Time
}

// New makes a manager. It does nothing until its methods are called.
func New(c *Config, d Deps, tel *telemetry.Telemetry) (*Manager, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &Manager{blob: d.Blob, sink: d.Sink, hook: newWebhook(string(c.Webhook)), quality: d.Quality, every: c.Every, log: tel.Log, now: time.Now}
	return m, m.measure(tel)
}

// Tick evaluates the rules as of a moment (zero: now), unless that was just done, and tells what has changed. Any
// number of instances may tick at once: the state is then as if one of them had. What
// could not be told is tried again by a later tick, whoever takes it. The error says
// that the state could not be read or written, or that something was not told.
func (m *Manager) Tick(ctx context.Context, source Source, at time.Time) error {
	if at.IsZero() {
		at = m.now()
	}
	state, err := m.evaluate(ctx, source, at.UTC())
	switch {
	case err != nil:
		m.metrics.evaluated(ctx, "failed")
		return err
	case state == nil:
		m.metrics.evaluated(ctx, "late")
		return nil
	}
	m.metrics.evaluated(ctx, "evaluated")
	return m.tell(ctx, state.Unsent)
}

// evaluate takes one step and writes it down; it gives nil where another instance just has.
func (m *Manager) evaluate(ctx context.Context, source Source, now time.Time) (*State, error) {
	previous, version, err := m.state(ctx)
	if err != nil {
		return nil, err
	}
	// A clock that was wrong in the past must not end all evaluation: so both ways.
	if now.Sub(previous.At).Abs() < m.every {
		return nil, nil
	}
	rules, err := m.Rules(ctx, 0)
	if err != nil {
		return nil, err
	}
	readings := ask(ctx, source, rules.Rules, now)
	next, changes := Evaluate(rules.Rules, readings, previous, now)
	next.Rules = rules.Version
	err = m.put(ctx, stateKey, next, version)
	if fault.Is(err, fault.Conflict) { // another instance was quicker, and tells
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.known.Store(&known{next, m.now()})
	for i := range changes {
		m.metrics.changed(ctx, &changes[i])
		m.log.InfoContext(ctx, "alert", "summary", changes[i].Summary, "rule", changes[i].Rule, "model", changes[i].Model, "version", changes[i].Version, "id", changes[i].ID, "why", changes[i].Why)
	}
	for rule, trouble := range next.Troubles {
		if previous.Troubles[rule] != trouble {
			m.log.WarnContext(ctx, "alert rule without a verdict", "rule", rule, "trouble", trouble)
		}
	}
	return next, nil
}

// ask has a source read for all rules that it answers in time: a third of what the
// context allows is left, so that what is known is written down and told.
func ask(ctx context.Context, source Source, rules []Rule, now time.Time) map[string]Reading {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*2/3)
		defer cancel()
	}
	readings := map[string]Reading{}
	for i := range rules {
		if ctx.Err() != nil {
			break
		}
		readings[rules[i].Name] = Read(ctx, source, &rules[i], now)
	}
	return readings
}

// state reads the state, and gives the condition under which it may be replaced. One that is
// damaged counts as none: alerts that are raised twice are better than none at all.
func (m *Manager) state(ctx context.Context) (*State, store.Condition, error) {
	s := &State{}
	version, err := m.get(ctx, stateKey, s)
	switch {
	case fault.Is(err, fault.NotFound):
		return &State{}, store.IfAbsent(), nil
	case err != nil && version != "":
		m.log.ErrorContext(ctx, "the state of alerts begins anew", "error", err)
		return &State{}, store.IfVersion(version), nil
	case err != nil:
		return nil, store.Condition{}, err
	}
	m.known.Store(&known{s, m.now()})
	return s, store.IfVersion(version), nil
}

// tell sends changes that wait, and writes down which have been.
func (m *Manager) tell(ctx context.Context, unsent []Change) error {
	if len(unsent) == 0 {
		return nil
	}
	telemetry.Keep(ctx) // what comes of an alert is in the same trace
	left := slices.Clone(unsent)
	err := errors.Join(
		m.send(ctx, "event", left, func(c *Change) *bool { return &c.Event }, m.sendEvent),
		m.send(ctx, "webhook", left, func(c *Change) *bool { return &c.Webhook }, m.sendWebhook),
	)
	// What was told is remembered even if the tick's time is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetMost)
	defer cancel()
	return errors.Join(err, m.forget(ctx, left))
}

const forgetMost = 10 * time.Second

// send sends by one way what still has to go it, the oldest first, and stops at what may go later.
func (m *Manager) send(ctx context.Context, way string, changes []Change, waits func(*Change) *bool, send func(context.Context, *Change) error) error {
	for i := range changes {
		c := &changes[i]
		if !*waits(c) {
			continue
		}
		err := send(ctx, c)
		switch {
		case err == nil:
		case fault.Is(err, fault.Invalid): // it will never be taken
			m.metrics.failed(ctx, way, "dropped")
			m.log.ErrorContext(ctx, "alert not sent", "way", way, "rule", c.Rule, "id", c.ID, "error", err)
		default:
			m.metrics.failed(ctx, way, "retried")
			return err
		}
		*waits(c) = false
	}
	return nil
}

func (m *Manager) sendEvent(ctx context.Context, c *Change) error {
	if m.sink == nil {
		return nil
	}
	return m.sink.Send(ctx, c.event())
}

func (m *Manager) sendWebhook(ctx context.Context, c *Change) error {
	if m.hook == nil {
		return nil
	}
	return m.hook.send(ctx, c)
}

// event is what the broker hears of a change.
func (c *Change) event() event.Event {
	if c.Resolved.IsZero() {
		return event.AlertRaised.New(event.Raised{
			ID: c.ID, Rule: c.Rule, Model: c.Model, Version: c.Version, Slice: c.Slice, Metric: c.Metric, Column: c.Column,
			Value: c.Value, Low: c.Low, High: c.High, Count: c.Count, Side: c.Side, Threshold: c.Threshold, Window: c.Window.String(),
			Severity: string(c.Severity), Description: c.Description, Summary: c.Summary, Examples: c.Examples, Since: c.Since, At: c.Raised,
		})
	}
	return event.AlertResolved.New(event.Resolved{
		ID: c.ID, Rule: c.Rule, Model: c.Model, Version: c.Version, Slice: c.Slice, Metric: c.Metric, Column: c.Column, Why: string(c.Why),
		Value: c.Value, Low: c.Low, High: c.High, Count: c.Count, Side: c.Side, Threshold: c.Threshold, Window: c.Window.String(),
		Severity: string(c.Severity), Description: c.Description, Summary: c.Summary, Since: c.Since, At: c.Resolved,
	})
}

// forget takes what was sent off the list of what waits, however the state has changed meanwhile.
func (m *Manager) forget(ctx context.Context, told []Change) error {
	type change struct {
		id       string
		resolved bool
	}
	now := map[change]*Change{}
	for i := range told {
		now[change{told[i].ID, !told[i].Resolved.IsZero()}] = &told[i]
	}
	for {
		s, version, err := m.state(ctx)
		if err != nil {
			return err
		}
		next, differs := *s, false
		next.Unsent = nil
		for _, c := range s.Unsent {
			if t := now[change{c.ID, !c.Resolved.IsZero()}]; t != nil {
				differs = differs || c.Event != (c.Event && t.Event) || c.Webhook != (c.Webhook && t.Webhook)
				c.Event, c.Webhook = c.Event && t.Event, c.Webhook && t.Webhook
			}
			if c.Event || c.Webhook {
				next.Unsent = append(next.Unsent, c)
			}
		}
		if !differs {
			return nil
		}
		err = m.put(ctx, stateKey, &next, version)
		if !fault.Is(err, fault.Conflict) {
			return err
		}
	}
}

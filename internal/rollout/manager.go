package rollout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Prefix is where rollouts lie in the bucket, by model and alias: the newest of each.
const Prefix = "rollouts/"

// rolloutMost is how many bytes a rollout may have.
const rolloutMost = 1 << 20

func key(name, alias string) string { return Prefix + name + "/" + alias }

// Rollout is a plan and what became of it.
type Rollout struct {
	Plan
	Created time.Time `json:"created"`
	Seq     int       `json:"seq"` // of the alias's last move before it
	Ended   time.Time `json:"ended,omitzero"`
	End     End       `json:"end,omitempty"`
	Why     string    `json:"why,omitempty"`
	Looks   int       `json:"looks,omitempty"`
	Latest  *Look     `json:"latest,omitempty"`
	Steps   []Look    `json:"steps,omitempty"` // looks that led to a move, oldest first
	Trace   string    `json:"trace,omitempty"` // traceparent of the span that it was begun in
}

// End is how a rollout ended.
type End string

// The ends.
const (
	Promoted  End = "promoted"
	TakenBack End = "taken back" // by it, or by a person
	TakenOver End = "taken over" // somebody gave the candidate another share, and is in charge now
	Cancelled End = "cancelled"
)

// Look is what was seen at one time.
type Look struct {
	At       time.Time `json:"at"`
	Share    float64   `json:"share"`
	Answers  int64     `json:"answers"` // of the candidate, with this share
	Verdict  Verdict   `json:"verdict"`
	Why      string    `json:"why"`
	Findings []Finding `json:"findings"`
	Shadow   *Shadowed `json:"shadow,omitempty"` // while it is the shadow
}

// Shadowed compares answers to the same requests, of the alias's version and of its shadow.
type Shadowed struct {
	Answers int64 `json:"answers"` // compared: the newest, if they are many
	// Differ is the share of them that are not the same, numbers by more than a hundred-thousandth.
	Differ float64 `json:"differ"`
	// Difference is the mean of what numbers differ by, without its sign; 0 where they are none.
	Difference float64    `json:"difference"`
	Latency    [2]float64 `json:"latency"` // of the version and of the shadow, the middle one, in seconds
}

// Query asks for what was counted of two versions.
type Query struct {
	Model              string
	Version, Candidate int
	Stages             []time.Time // when the candidate got each of its shares, the last one being the one that it has
	Until              time.Time
	Metrics            []string // ErrorRate, SlowRate, means of quality
	Shadow             bool     // the candidate is the shadow: its answers are to be compared one by one, too
}

// Evidence is the answer.
type Evidence struct {
	Answers int64 // of the candidate, since the last stage began
	Metrics map[string]Compared
	Shadow  *Shadowed // if that was asked
}

// Source counts answers, failures, latencies and outcomes. An error says that they are not known for now.
type Source interface {
	Evidence(ctx context.Context, q *Query) (*Evidence, error)
}

// Manager carries rollouts out. It is safe for concurrent use, by any number of processes on one bucket.
type Manager struct {
	blob    store.Blob
	catalog *model.Catalog
	traffic *Traffic
	primary func(*model.Manifest) string
	log     *slog.Logger
	now     func() time.Time
	divided atomic.Pointer[divided]
}

// New makes a manager. Traffic is what moves that of pinned models. Primary names the mean of quality that is a guard of a version's where its plan names none; "": there is none.
func New(blob store.Blob, catalog *model.Catalog, traffic *Traffic, primary func(*model.Manifest) string, log *slog.Logger) *Manager {
	return &Manager{blob: blob, catalog: catalog, traffic: traffic, primary: primary, log: log, now: time.Now}
}

// by is who moves aliases.
const by = "rollout"

// Start begins a rollout, and gives the candidate its first share. It is a Conflict while the alias has one, or a canary.
func (m *Manager) Start(ctx context.Context, p Plan) (*Rollout, error) {
	plain := len(p.Guards) == 0
	p = p.whole()
	if err := p.validate(); err != nil {
		return nil, err
	}
	manifest, err := m.catalog.Manifest(ctx, p.Model, p.Version)
	if err != nil {
		return nil, err
	}
	if metric := m.primary(manifest); plain && metric != "" {
		p.Guards = append(p.Guards, Guard{metric, .05})
	}
	a, err := m.catalog.Aliases(ctx, p.Model)
	if err != nil {
		return nil, err
	}
	switch at := a.Current[p.Alias]; {
	case at == 0:
		return nil, fault.New(fault.NotFound, "model %q has no alias %q", p.Model, p.Alias)
	case at == p.Version:
		return nil, fault.New(fault.Conflict, "alias %q of model %q names version %d already", p.Alias, p.Model, at)
	case a.Splits[p.Alias] != nil && len(a.Splits[p.Alias].Canaries) > 0:
		return nil, fault.New(fault.Conflict, "alias %q of model %q has a canary; promote it or take it back first", p.Alias, p.Model)
	case p.Shadow > 0 && a.Splits[p.Alias] != nil:
		return nil, fault.New(fault.Conflict, "alias %q of model %q has a shadow, version %d; end that first", p.Alias, p.Model, a.Splits[p.Alias].Shadow)
	}
	if err := m.divisible(ctx, &p); err != nil {
		return nil, err
	}
	r := &Rollout{Plan: p, Created: m.now().UTC(), Seq: a.Last(p.Alias), Trace: telemetry.Traceparent(trace.SpanContextFromContext(ctx))}
	old, version, err := m.get(ctx, p.Model, p.Alias)
	switch {
	case fault.Is(err, fault.Internal) && version != "": // what the alias says is enough to know that none is under way
		m.log.ErrorContext(ctx, "a rollout that can't be read is replaced", slog.String("model", p.Model), slog.String("alias", p.Alias), slog.String("error", err.Error()))
	case err != nil && !fault.Is(err, fault.NotFound):
		return nil, err
	}
	if old != nil && old.End == "" {
		return nil, fault.New(fault.Conflict, "version %d is being brought to alias %q of model %q; cancel that first", old.Version, p.Alias, p.Model)
	}
	if version, err = m.put(ctx, r, version); err != nil {
		return nil, err
	}
	return r, m.step(ctx, r, version, nil)
}

// divisible refuses plans that the Knative service of a pinned model can't carry out.
func (m *Manager) divisible(ctx context.Context, p *Plan) error {
	service := m.traffic.service(p.Model, p.Alias)
	if service == "" {
		return nil
	}
	for _, s := range p.Shares {
		if percent := s * 100; math.Abs(percent-math.Round(percent)) > 1e-6 {
			return fault.New(fault.Invalid, "the traffic of the service %s is divided by whole percents, and a share is %g", service, s)
		}
	}
	c, err := m.traffic.follow(ctx, p.Model)
	if err == nil && c.foreign {
		err = fault.New(fault.Conflict, "%s", c.why)
	}
	return err
}

// Get gives the newest rollout of an alias.
func (m *Manager) Get(ctx context.Context, name, alias string) (*Rollout, error) {
	r, _, err := m.get(ctx, name, alias)
	return r, err
}

func (m *Manager) get(ctx context.Context, name, alias string) (*Rollout, string, error) {
	if err := model.CheckName(name); err != nil {
		return nil, "", err
	}
	r := &Rollout{}
	version, err := store.ReadJSON(ctx, m.blob, key(name, alias), rolloutMost, r)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, "", fault.New(fault.NotFound, "nothing was brought to alias %q of model %q", alias, name)
	case err == nil && (r.Model != name || r.Alias != alias || len(r.Shares) == 0):
		err = fault.New(fault.Internal, "the bucket's %s is damaged: it is no rollout of that alias", key(name, alias))
	}
	if err != nil {
		return nil, version, err
	}
	return r, version, nil
}

func (m *Manager) put(ctx context.Context, r *Rollout, version string) (string, error) {
	return store.WriteJSON(ctx, m.blob, key(r.Model, r.Alias), r, store.IfStill(version))
}

// List gives the newest rollout of each alias.
func (m *Manager) List(ctx context.Context) ([]*Rollout, error) {
	all := []*Rollout{}
	for o, err := range m.blob.List(ctx, Prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list rollouts: %w", err)
		}
		name, alias, _ := strings.Cut(strings.TrimPrefix(o.Key, Prefix), "/")
		r, err := m.Get(ctx, name, alias)
		if fault.Is(err, fault.Internal) || fault.Is(err, fault.Invalid) {
			m.log.ErrorContext(ctx, "a rollout can't be read", slog.String("key", o.Key), slog.String("error", err.Error()))
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Cancel takes a candidate back, and ends its rollout.
func (m *Manager) Cancel(ctx context.Context, name, alias, who string) (*Rollout, error) {
	r, version, err := m.get(ctx, name, alias)
	if err != nil {
		return nil, err
	}
	if r.End != "" {
		return nil, fault.New(fault.Conflict, "the rollout of version %d has ended already: %s", r.Version, r.End)
	}
	a, err := m.catalog.Aliases(ctx, name)
	if err != nil {
		return nil, err
	}
	if a.Splits[alias] != nil && a.Current[alias] != r.Version {
		if err := m.withdraw(ctx, r, a.Splits[alias], model.Change{Seen: new(a.Last(alias)), By: who, Why: "rollout: cancelled", Cause: r.Cause}); err != nil {
			return nil, err
		}
	}
	return r, m.end(ctx, r, version, Cancelled, "by "+who)
}

func (m *Manager) end(ctx context.Context, r *Rollout, version string, end End, why string) error {
	r.End, r.Ended, r.Why = end, m.now().UTC(), why
	m.log.InfoContext(ctx, "rollout ended", slog.String("model", r.Model), slog.String("alias", r.Alias), slog.Int("version", r.Version), slog.String("end", string(end)), slog.String("why", why))
	_, err := m.put(ctx, r, version)
	return err
}

// Tick looks at all rollouts that have not ended, and makes at most one move of each. What goes wrong with one costs no other.
func (m *Manager) Tick(ctx context.Context, source Source) error {
	all, err := m.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	seen := &divided{at: m.now()}
	for _, r := range all {
		if r.End != "" {
			continue
		}
		r, version, err := m.get(ctx, r.Model, r.Alias)
		if err == nil {
			err = m.look(ctx, r, version, source)
			if err := seen.look(ctx, m, r); err != nil { // which only metrics want to know
				m.log.WarnContext(ctx, "how the traffic of an alias is divided is not known", slog.String("model", r.Model), slog.String("alias", r.Alias), slog.String("error", err.Error()))
			}
		}
		if err != nil && !fault.Is(err, fault.Conflict) { // somebody else was quicker: the next tick sees what they did
			errs = append(errs, fmt.Errorf("rollout of %s:%d: %w", r.Model, r.Version, err))
		}
	}
	m.divided.Store(seen)
	return errors.Join(append(errs, m.traffic.Tick(ctx))...)
}

// look is step, in a span below that in which the rollout was begun, linked to the tick's.
func (m *Manager) look(ctx context.Context, r *Rollout, version string, source Source) error {
	tick := trace.SpanFromContext(ctx)
	if of := telemetry.ReadTraceparent(r.Trace); of.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, of)
	}
	ctx, span := tick.TracerProvider().Tracer("").Start(ctx, "look at rollout", trace.WithLinks(trace.Link{SpanContext: tick.SpanContext()}),
		trace.WithAttributes(attribute.String("model", r.Model), attribute.String("alias", r.Alias), attribute.Int("version", r.Version)))
	defer span.End()
	looks := r.Looks
	err := m.step(ctx, r, version, source)
	if r.Looks > looks {
		span.SetAttributes(attribute.Float64("share", r.Latest.Share), attribute.String("verdict", string(r.Latest.Verdict)), attribute.String("why", r.Latest.Why))
	}
	if r.End != "" {
		span.SetAttributes(attribute.String("end", string(r.End)))
	}
	if err != nil && !fault.Is(err, fault.Conflict) {
		span.SetStatus(codes.Error, fault.Message(err))
	}
	return err
}

// step does what is to be done next. Without a source it makes the first move only.
func (m *Manager) step(ctx context.Context, r *Rollout, version string, source Source) error {
	a, err := m.catalog.Aliases(ctx, r.Model)
	if err != nil {
		return err
	}
	var moves []model.Move // since the plan was made
	for _, move := range a.History {
		if move.Alias == r.Alias && move.Seq > r.Seq {
			moves = append(moves, move)
		}
	}
	current, split := a.Current[r.Alias], a.Splits[r.Alias]
	share := 0.0
	shadow := r.Shadow > 0 && split != nil && split.Shadow == r.Version && !slices.ContainsFunc(moves, r.answered)
	if split != nil {
		for _, c := range split.Canaries {
			if c.Version == r.Version {
				share = c.Share
			}
		}
	}
	switch {
	case current == r.Version:
		return m.end(ctx, r, version, Promoted, last(moves).Why)
	case len(moves) == 0:
		return m.begin(ctx, r)
	case share == 0 && !shadow:
		return m.end(ctx, r, version, TakenBack, last(moves).Why)
	case source == nil:
		return nil
	}
	stage := slices.Index(r.Shares, share)
	if stage < 0 && !shadow {
		return m.end(ctx, r, version, TakenOver, fmt.Sprintf("%s gave it a share of %g", last(moves).By, share))
	}
	var c carried
	if m.traffic.service(r.Model, r.Alias) != "" {
		if c, err = m.traffic.follow(ctx, r.Model); err != nil {
			return err
		}
		if c.foreign {
			return m.end(ctx, r, version, TakenOver, c.why)
		}
	}
	q := &Query{Model: r.Model, Version: current, Candidate: r.Version, Until: m.now(), Shadow: shadow}
	for _, move := range moves {
		q.Stages = append(q.Stages, move.At)
	}
	for _, g := range r.Guards {
		q.Metrics = append(q.Metrics, g.Metric)
	}
	evidence, err := source.Evidence(ctx, q)
	if err != nil {
		return err
	}
	look := Look{At: q.Until.UTC(), Share: share, Answers: evidence.Answers, Findings: []Finding{}, Shadow: evidence.Shadow}
	for _, g := range r.Guards {
		look.Findings = append(look.Findings, r.find(g, evidence.Metrics[g.Metric]))
	}
	look.Verdict, look.Why = r.decide(stage, q.Until.Sub(last(moves).At), evidence.Answers, look.Findings)
	switch {
	case c.failed && q.Until.Sub(last(moves).At) >= time.Duration(r.Hold): // until then it may be that no node has room yet
		look.Verdict, look.Why = Back, c.why
	case c.why != "" && look.Verdict != Back:
		look.Verdict, look.Why = Hold, c.why
	case c.moved && look.Verdict != Back:
		look.Verdict, look.Why = Hold, "the traffic of its service was given just now"
	}
	r.Latest = &look
	r.Looks++
	if n := len(r.Steps); n > 0 && r.Steps[n-1].Share == share && look.Verdict != Hold { // that move was not made
		r.Steps[n-1] = look
	} else if look.Verdict != Hold {
		r.Steps = append(r.Steps, look)
	}
	if version, err = m.put(ctx, r, version); err != nil || look.Verdict == Hold {
		return err
	}
	if shadow && look.Verdict == Back {
		err = m.withdraw(ctx, r, split, model.Change{Seen: new(last(moves).Seq), By: by, Why: "rollout: " + look.Why, Cause: r.Cause})
	} else {
		err = m.act(ctx, r, stage, last(moves).Seq, &look)
	}
	if err != nil {
		return err
	}
	switch look.Verdict {
	case Promote:
		return m.end(ctx, r, version, Promoted, look.Why)
	case Back:
		return m.end(ctx, r, version, TakenBack, look.Why)
	}
	return nil
}

// answered tells whether a move gave the candidate a share of traffic.
func (r *Rollout) answered(m model.Move) bool {
	return m.To == r.Version || m.After != nil && slices.ContainsFunc(m.After.Canaries, func(c model.Canary) bool { return c.Version == r.Version })
}

// begin makes the first move.
func (m *Manager) begin(ctx context.Context, r *Rollout) error {
	if r.Shadow == 0 {
		return m.act(ctx, r, -1, r.Seq, &Look{Verdict: Advance, Why: "it begins"})
	}
	_, err := m.catalog.Shadow(ctx, r.Model, r.Alias, model.Change{To: r.Version, Seen: &r.Seq, By: by, Why: "rollout: it begins as the shadow", Cause: r.Cause})
	return err
}

// withdraw has the candidate answer nothing and shadow nobody.
func (m *Manager) withdraw(ctx context.Context, r *Rollout, split *model.Split, ch model.Change) error {
	var err error
	if ch.To = r.Version; split != nil && split.Shadow == r.Version {
		ch.To = 0
		_, err = m.catalog.Shadow(ctx, r.Model, r.Alias, ch)
	} else {
		_, err = m.catalog.Canary(ctx, r.Model, r.Alias, 0, ch)
	}
	return err
}

// act makes the move that a look asks for at a stage (-1: before the first), unless somebody has moved the alias since.
func (m *Manager) act(ctx context.Context, r *Rollout, stage, seq int, look *Look) error {
	change := model.Change{To: r.Version, Seen: &seq, By: by, Why: "rollout: " + look.Why, Cause: r.Cause}
	var err error
	switch look.Verdict {
	case Advance:
		_, err = m.catalog.Canary(ctx, r.Model, r.Alias, r.Shares[stage+1], change)
	case Promote:
		_, err = m.catalog.Promote(ctx, r.Model, r.Alias, change)
	case Back:
		_, err = m.catalog.Canary(ctx, r.Model, r.Alias, 0, change)
	}
	if err == nil && m.traffic.service(r.Model, r.Alias) != "" {
		if _, err := m.traffic.follow(ctx, r.Model); err != nil { // the alias has moved; its event and each tick try again
			m.log.WarnContext(ctx, "the traffic of a pinned model does not follow its alias for now", slog.String("model", r.Model), slog.String("error", err.Error()))
		}
	}
	return err
}

func last(moves []model.Move) model.Move {
	if len(moves) == 0 {
		return model.Move{}
	}
	return moves[len(moves)-1]
}

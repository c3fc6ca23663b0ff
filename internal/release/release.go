// Package release brings a candidate to those who ask: as a new version of its model, with all that belongs to it, and then by a rollout.
//
// It has two kinds of steps for pipelines, "publish" and "rollout". What they do beyond a run says the run
// as its cause (model.Manifest, model.Move, rollout.Plan), by which a step that was killed finds it again: so each is done
// once.
package release

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Deps are what the steps are made of.
type Deps struct {
	Registry *model.Registry
	Rollouts *rollout.Manager // whose ticks somebody else makes
}

// Version is the value "version", which publish gives and rollout takes.
type Version struct {
	Model   string `json:"model"`
	Version int    `json:"version"`
}

// Outcome is the value "outcome" of rollout.
type Outcome struct {
	End rollout.End `json:"end"`
	Why string      `json:"why,omitempty"`
	At  time.Time   `json:"at"`
}

// Kinds gives what pipelines can do by this package.
func Kinds(d Deps) []pipeline.Kind {
	return []pipeline.Kind{
		{
			Name: "publish", About: "publishes a candidate that has passed as the next version of its model, with its card and its reference",
			In: []pipeline.Port{
				{Name: "model", About: "the candidate's file"},
				{Name: "verdict", About: "value: what its evaluation came to"},
				{Name: "card", About: "JSON: its card, whose settings it is published with"},
				{Name: "reference", About: "JSON: what live data is to be compared with"},
				{Name: "data", About: "its dataset; nothing is read of it", Optional: true},
			},
			Out:     []pipeline.Port{{Name: "version", About: "value: the model and the version's number"}},
			Timeout: 10 * time.Minute,
			New: func(with yamlwire.Node) (pipeline.Step, error) {
				return &publish{d}, with.Into(&struct{}{}, "publish")
			},
		},
		{
			Name: "rollout", About: "brings a version to the callers of an alias, step by step, and waits for how that ends",
			In:      []pipeline.Port{{Name: "version", About: "value: the model and the version's number"}},
			Out:     []pipeline.Port{{Name: "outcome", About: "value: how it ended, why and when"}},
			Timeout: 5 * time.Minute,
			New:     d.newRollout,
		},
	}
}

func by(t *pipeline.Task) string { return "pipeline " + t.Pipeline }

type publish struct{ deps Deps }

// Run implements pipeline.Step.
func (p *publish) Run(ctx context.Context, t *pipeline.Task) error {
	var verdict modelcard.Verdict
	if err := t.Read("verdict", &verdict); err != nil {
		return err
	}
	if !verdict.Passed {
		return pipeline.Refused("%s", verdict.Why)
	}
	var card modelcard.Card
	if err := readFile(ctx, t, "card", &card); err != nil {
		return err
	}
	if got := "sha256:" + t.Inputs["model"].SHA256; card.Digest != got {
		return fault.New(fault.Invalid, "the card is of the file %.20s, and the model is %.20s", card.Digest, got)
	}
	var raw json.RawMessage
	if err := readFile(ctx, t, "reference", &raw); err != nil {
		return err
	}
	reference, err := drift.Parse(raw)
	if err != nil {
		return fmt.Errorf("read the reference: %w", err)
	}
	path, err := t.Fetch(ctx, "model")
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	m, err := p.deps.Registry.Push(ctx, model.Push{
		Name: card.Model, Settings: card.Settings, By: by(t), Cause: t.Cause,
		Attach: func(ctx context.Context, m *model.Manifest) error {
			card.Version = m.Version
			b, err := json.Marshal(&card)
			if err != nil {
				return err
			}
			if err := p.deps.Registry.PutCard(ctx, m.Name, m.Version, b); err != nil {
				return err
			}
			return feedback.PutReference(ctx, t.Blob, m.Name, m.Version, reference)
		},
	}, file)
	if err != nil {
		return err
	}
	t.Log.InfoContext(ctx, "published", "model", m.Name, "version", m.Version)
	return t.Tell("version", Version{m.Name, m.Version})
}

func readFile(ctx context.Context, t *pipeline.Task, input string, v any) error {
	path, err := t.Fetch(ctx, input)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fault.Wrap(fault.Invalid, err, "the input %s is not what it takes", input)
	}
	return nil
}

// plan is what a definition may say of a rollout; what it does not say is as in rollout.Plan.
type plan struct {
	Alias    string            `yaml:"alias"`
	Shadow   yamlwire.Duration `yaml:"shadow"`
	Shares   []float64         `yaml:"shares"`
	Hold     yamlwire.Duration `yaml:"hold"`
	Patience yamlwire.Duration `yaml:"patience"`
	Least    int               `yaml:"least"`
	Guards   map[string]string `yaml:"guards"` // by how much what may be worse
}

type bring struct {
	deps Deps
	plan rollout.Plan
}

func (d *Deps) newRollout(with yamlwire.Node) (pipeline.Step, error) {
	p := plan{Alias: model.Champion}
	if err := with.Into(&p, "rollout"); err != nil {
		return nil, err
	}
	s := &bring{*d, rollout.Plan{Alias: p.Alias, Shadow: p.Shadow, Shares: p.Shares, Hold: p.Hold, Patience: p.Patience, Least: int64(p.Least)}}
	for _, metric := range slices.Sorted(maps.Keys(p.Guards)) {
		worse, err := strconv.ParseFloat(p.Guards[metric], 64)
		if err != nil {
			return nil, with.Fail("the guard %s allows %.40q, expected a number such as 0.05", metric, p.Guards[metric])
		}
		s.plan.Guards = append(s.plan.Guards, rollout.Guard{Metric: metric, Worse: worse})
	}
	if err := s.plan.Check(); err != nil {
		return nil, with.Fail("%s", fault.Message(err))
	}
	return s, nil
}

// The bounds of how often a rollout is looked at: often beside how long it holds a share.
const (
	lookOften  = 2 * time.Second
	lookSeldom = 5 * time.Minute
)

// Run implements pipeline.Step.
func (s *bring) Run(ctx context.Context, t *pipeline.Task) error {
	var v Version
	if err := t.Read("version", &v); err != nil {
		return err
	}
	p := s.plan
	p.Model, p.Version, p.By, p.Cause = v.Model, v.Version, by(t), t.Cause
	r, unread := s.deps.Rollouts.Get(ctx, p.Model, p.Alias)
	if unread != nil && !fault.Is(unread, fault.NotFound) && !fault.Is(unread, fault.Internal) {
		return unread
	}
	if unread == nil && r.Cause == p.Cause && r.Version == p.Version {
		return s.follow(t, r)
	}
	a, err := s.deps.Registry.Aliases(ctx, p.Model)
	if err != nil {
		return err
	}
	var moved, promoted bool // by its own rollout
	for _, m := range a.History {
		if m.Alias == p.Alias && m.Cause == p.Cause {
			moved, promoted = true, promoted || m.To == p.Version
		}
	}
	switch current := a.Current[p.Alias]; {
	case current == p.Version:
		return t.Tell("outcome", Outcome{rollout.Promoted, "it is what the alias names", time.Now().UTC()})
	case moved && fault.Is(unread, fault.Internal): // it may be under way
		return unread
	// Its rollout ended, and another one's record took the place of its own.
	case promoted:
		return t.Tell("outcome", Outcome{rollout.Promoted, "it was promoted, and another was brought out since", time.Now().UTC()})
	case moved:
		return pipeline.Refused("version %d was taken back from alias %q, and another was brought out since", p.Version, p.Alias)
	case current == 0:
		none := 0
		_, err := s.deps.Registry.Move(ctx, p.Model, p.Alias, model.Change{To: p.Version, Expect: &none, By: p.By, Why: "the first version that the alias names", Cause: p.Cause})
		if err != nil {
			return err
		}
		return t.Tell("outcome", Outcome{rollout.Promoted, "there was no other version", time.Now().UTC()})
	}
	r, err = s.deps.Rollouts.Start(ctx, p)
	if fault.Is(err, fault.Conflict) { // another one is on its way: it is its turn
		return pipeline.Later(lookSeldom, fault.Message(err))
	}
	if err != nil {
		return err
	}
	t.Log.InfoContext(ctx, "the rollout has begun", "model", p.Model, "alias", p.Alias, "version", p.Version)
	return s.follow(t, r)
}

var _ pipeline.Stopper = (*bring)(nil)

// stopTries is how often a rollout is looked at anew which somebody else, such as a tick, changes at the same time.
const stopTries = 5

// Stop implements pipeline.Stopper: whoever cancels a run wants no more of what it brings to callers, so its rollout is cancelled, too.
func (s *bring) Stop(ctx context.Context, t *pipeline.Task, by string) error {
	var v Version
	if err := t.Read("version", &v); err != nil {
		return err
	}
	for range stopTries {
		r, err := s.deps.Rollouts.Get(ctx, v.Model, s.plan.Alias)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil || r.Cause != t.Cause || r.End != "" {
			return err
		}
		if _, err = s.deps.Rollouts.Cancel(ctx, v.Model, s.plan.Alias, by); !fault.Is(err, fault.Conflict) {
			return err
		}
	}
	return fault.New(fault.Unavailable, "the rollout of version %d of model %q changes faster than it can be cancelled", v.Version, v.Model)
}

// follow tells how a rollout of its own stands.
func (s *bring) follow(t *pipeline.Task, r *rollout.Rollout) error {
	switch r.End {
	case "":
		why := "it has begun"
		if r.Latest != nil {
			why = fmt.Sprintf("%.3g %% of the traffic: %s", 100*r.Latest.Share, r.Latest.Why)
		}
		hold := time.Duration(r.Hold)
		if r.Shadow > 0 {
			hold = min(hold, time.Duration(r.Shadow))
		}
		return pipeline.Later(min(max(hold/4, lookOften), lookSeldom), why)
	case rollout.Promoted:
		return t.Tell("outcome", Outcome{r.End, r.Why, r.Ended})
	}
	return pipeline.Refused("version %d was %s: %s", r.Version, r.End, r.Why)
}

// Package auth knows who calls, and what they may do.
//
// A caller shows an API key or a token (JWT) of an identity provider, and becomes a
// Principal: somebody with scopes. Guard asks for one before a handler is reached; the
// gateway has the same guard as the functions behind it, which check again for
// themselves. Which action a path is, one table says (Needs); a path that is not in it
// is the business of administrators.
//
// Keys lie in the bucket, as hashes alone. What a process has read of them it keeps, and
// looks before a decision whether any has changed: at most a second ago, as long as the
// bucket answers. When it does not, what was known stays good for AUTH_STALE, and then
// nobody is let in. Secrets are in no error, log or metric. All of it is safe for
// concurrent use.
package auth

import (
	"context"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Action is what a caller wants to do.
type Action string

// The actions.
const (
	Predict       Action = "predict"        // ask models, and about them
	FeaturesRead  Action = "features:read"  // ask what features are
	FeaturesWrite Action = "features:write" // push rows, materialise
	Feedback      Action = "feedback"       // tell what came true
	Events        Action = "events"         // deliver events, as the broker does
	ModelsWrite   Action = "models:write"   // publish models, move aliases, load and unload
	AdminRead     Action = "admin:read"     // look at everything but keys
	Admin         Action = "admin"          // all of it, keys included

	// Anonymous is what needs no scope: to ask whether the server is well.
	Anonymous Action = ""
)

// Actions are those that a scope may name.
var Actions = []Action{Predict, FeaturesRead, FeaturesWrite, Feedback, Events, ModelsWrite, AdminRead, Admin}

// ofModels tells whether a scope for the action may be for some models alone.
func (a Action) ofModels() bool { return a == Predict || a == ModelsWrite }

// Scope is a right: an action or, for actions on models, "action/pattern" with the names of those that it
// is for, in which * stands for any characters.
type Scope string

func (s Scope) parts() (Action, string) {
	a, pattern, _ := strings.Cut(string(s), "/")
	return Action(a), pattern
}

// Check refuses what is no scope.
func (s Scope) Check() error {
	action, pattern := s.parts()
	restricted := strings.Contains(string(s), "/")
	switch {
	case !slices.Contains(Actions, action):
		return fault.New(fault.Invalid, "scope %.60q: expected one of %s", string(s), list(Actions))
	case restricted && !action.ofModels():
		return fault.New(fault.Invalid, "scope %.60q: %s is not about single models", string(s), action)
	case restricted && CheckPattern(pattern) != nil:
		return fault.New(fault.Invalid, "scope %.60q: behind the slash stands the name of a model, in which * stands for any characters", string(s))
	}
	return nil
}

func list[T ~string](of []T) string {
	words := make([]string, len(of))
	for i, w := range of {
		words[i] = string(w)
	}
	return strings.Join(words, ", ")
}

// Priority says who waits and who is refused when there is too much to do.
type Priority string

// The priorities.
const (
	Low    Priority = "low"
	Normal Priority = "normal"
	High   Priority = "high"
)

// Principal is a caller who is known. Nobody changes one.
type Principal struct {
	ID       string // "key:<id>" or "token:<issuer>#<subject>"
	Name     string // for people
	Tenant   string // "": of none
	Priority Priority
	Limits   Limits

	scopes []scope
}

type scope struct {
	action Action
	models string // a pattern; "": all
}

func newPrincipal(p Principal, scopes []Scope) *Principal {
	for _, s := range scopes {
		action, models := s.parts()
		p.scopes = append(p.scopes, scope{action, models})
	}
	return &p
}

// May tells whether the principal may do something to a model; of "", whether it may to any at all.
// Who may administer may do everything but deliver events: that is for the broker.
func (p *Principal) May(action Action, model string) bool {
	for i := range p.scopes {
		s := &p.scopes[i]
		switch {
		case s.action == action && (model == "" || s.models == "" || matches(s.models, model)),
			s.action == Admin && action != Events,
			action == Anonymous:
			return true
		}
	}
	return action == Anonymous
}

type principalKey struct{}

// With gives a context that says who calls.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// From gives who calls; nil: nobody asked, or the caller may stay unknown.
func From(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}

// ModelHeader tells a function for which model the gateway has let a request through, where the message alone names it. One that
// then names another has misled the gateway, whose limits and routes go by it.
const ModelHeader = "Pilotlight-Model"

// Allows tells whether the caller may do something to a model, for those who learn its name
// where no guard looks. Where nobody asked who calls, everyone may.
func Allows(ctx context.Context, action Action, model string) bool {
	p := From(ctx)
	return p == nil || p.May(action, model)
}

// CheckModel is Allows as an error: Denied.
func CheckModel(ctx context.Context, action Action, model string) error {
	if !Allows(ctx, action, model) {
		return denied(From(ctx), action, model)
	}
	return nil
}

func denied(p *Principal, action Action, model string) error {
	of := ""
	if model != "" && action.ofModels() {
		of = " of the model " + clip(model)
	}
	return fault.New(fault.Denied, "%s %.60q has no scope for %s%s", p.kind(), p.Name, action, of)
}

func (p *Principal) kind() string {
	if strings.HasPrefix(p.ID, "key:") {
		return "the API key"
	}
	return "the token's holder"
}

func clip(s string) string { return s[:min(len(s), 100)] }

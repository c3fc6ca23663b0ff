package limit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Policy is what holds beside the limits of keys. Of patterns, in which * stands for any characters, the longest that fits counts, and
// each tenant and model that fits has a limit of its own.
type Policy struct {
	Callers *auth.Limits           `json:"callers,omitempty"` // of each key and token that has none of its own
	Tenants map[string]auth.Limits `json:"tenants,omitempty"` // by name or pattern
	Models  map[string]auth.Limits `json:"models,omitempty"`  // by name or pattern
}

const (
	policyKey  = "auth/limits"
	policyMost = 1 << 20
	rulesMost  = 1000
)

// Check refuses what can't be meant.
func (p *Policy) Check() error {
	if p.Callers != nil {
		if err := p.Callers.Check(); err != nil {
			return fault.Wrap(fault.Invalid, err, "callers: %s", fault.Message(err))
		}
	}
	for what, rules := range map[string]map[string]auth.Limits{"tenants": p.Tenants, "models": p.Models} {
		if len(rules) > rulesMost {
			return fault.New(fault.Invalid, "%s has %d limits, expected %d at most", what, len(rules), rulesMost)
		}
		for pattern, l := range rules {
			if err := auth.CheckPattern(pattern); err != nil {
				return fault.New(fault.Invalid, "%s: %s", what, fault.Message(err))
			}
			if err := l.Check(); err != nil {
				return fault.Wrap(fault.Invalid, err, "%s: %s: %s", what, pattern, fault.Message(err))
			}
		}
	}
	return nil
}

// Policies are the policy of a bucket. It is safe for concurrent use.
type Policies struct {
	blob   store.Blob
	recent *store.Recent[*Policy]
}

// NewPolicies gives the policy of a bucket.
func NewPolicies(blob store.Blob) *Policies {
	p := &Policies{blob: blob}
	p.recent = store.NewRecent(p.Read)
	return p
}

// Close waits for what it does on its own.
func (p *Policies) Close() error { return p.recent.Close() }

// Read reads the policy; nobody has to have written one.
func (p *Policies) Read(ctx context.Context) (*Policy, error) {
	policy := &Policy{}
	_, err := store.ReadJSON(ctx, p.blob, policyKey, policyMost, policy)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	return policy, nil
}

// Current gives the policy as of at most a second ago or, while the bucket does not answer, as it was last known: limits are no
// reason to turn callers away.
func (p *Policies) Current(ctx context.Context) *Policy {
	policy, _, _ := p.recent.Get(ctx)
	if policy == nil {
		return &Policy{}
	}
	return policy
}

// Write puts a policy in place of the one that there is.
func (p *Policies) Write(ctx context.Context, policy *Policy) error {
	if err := policy.Check(); err != nil {
		return err
	}
	b, err := json.Marshal(policy)
	if err != nil {
		return err
	}
	if len(b) > policyMost {
		return fault.New(fault.Invalid, "the limits have %d bytes, expected %d at most", len(b), policyMost)
	}
	if _, err := p.blob.Put(ctx, policyKey, bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
		return fmt.Errorf("write %s: %w", policyKey, err)
	}
	p.recent.Changed()
	return nil
}

// Register mounts
//
//	GET /admin/v1/limits   Policy
//	PUT /admin/v1/limits   Policy, in place of the one that there is
func (p *Policies) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /admin/v1/limits", func(w http.ResponseWriter, r *http.Request) {
		policy, err := p.Read(r.Context())
		if err == nil {
			err = serve.WriteJSON(w, http.StatusOK, policy)
		}
		if err != nil {
			serve.Error(w, r, err)
		}
	})
	mux.HandleFunc("PUT /admin/v1/limits", func(w http.ResponseWriter, r *http.Request) {
		var policy *Policy
		err := serve.ReadJSON(r, &policy, serve.Strict)
		if err == nil && policy == nil {
			err = fault.New(fault.Invalid, "there are no limits in the body; {} has none of them any more")
		}
		if err == nil {
			err = p.Write(r.Context(), policy)
		}
		if err == nil {
			err = serve.WriteJSON(w, http.StatusOK, policy)
		}
		if err != nil {
			serve.Error(w, r, err)
		}
	})
}

// bounds are the limits of one request, in the order in which they are told of.
func (p *Policy) bounds(who *auth.Principal, model string) []bound {
	var all []bound
	add := func(scope, name, of string, l auth.Limits) {
		if l != (auth.Limits{}) {
			all = append(all, bound{scope, name, l, limitOf(scope+":"+of, &l)})
		}
	}
	if who != nil {
		own := who.Limits
		if own == (auth.Limits{}) && p.Callers != nil {
			own = *p.Callers
		}
		add("caller", who.Name, who.ID, own)
		tenant, _ := auth.Longest(p.Tenants, who.Tenant)
		add("tenant", who.Tenant, who.Tenant, tenant)
	}
	limits, _ := auth.Longest(p.Models, model)
	add("model", model, model, limits)
	return all
}

// bound is a limit that a request has to keep.
type bound struct {
	scope, name string
	limits      auth.Limits
	limit       store.Limit
}

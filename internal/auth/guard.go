package auth

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Guard stands before handlers and lets those through who may do what they ask for.
type Guard struct {
	ring      *Ring
	tokens    *Tokens
	anyEvents bool
	audit     *Audit
	decisions metric.Int64Counter
}

// Open puts a guard before all that a process serves, if AUTH is on, and mounts the administration of keys where admin says
// so: without AUTH, anybody could make a key for when it is on.
func Open(p *serve.Process, c *Config, blob store.Blob, admin bool) error {
	if c.Auth != "on" {
		return nil
	}
	if v, ok := blob.(store.Volatile); ok && v.Volatile() && c.Issuer == "" {
		return fault.New(fault.Invalid, "AUTH=on with a bucket in memory, where no key can be: set BLOB_URL, DATA_DIR or OIDC_ISSUER")
	}
	keys := NewKeys(blob)
	g, err := NewGuard(c, keys, p.Tel)
	if err != nil {
		return err
	}
	p.Defer(g.Close)
	p.Guard(g.Wrap)
	if admin {
		keys.Register(p.Mux)
	}
	return nil
}

// NewGuard makes a guard of keys and of the issuers that the config names.
func NewGuard(c *Config, keys *Keys, tel *telemetry.Telemetry) (*Guard, error) {
	decisions, err := tel.Meter.Int64Counter("pilotlight.auth.decisions",
		metric.WithDescription("Requests by what they wanted to do and whether they were let through: allowed, or the kind of error."))
	if err != nil {
		return nil, err
	}
	return &Guard{ring: NewRing(keys, c.Stale), tokens: NewTokens(c.issuers()...), anyEvents: c.Events == "anyone", audit: NewAudit(tel), decisions: decisions}, nil
}

// Close waits for what the guard does on its own.
func (g *Guard) Close() error { return g.ring.Close() }

// Wrap puts the guard before a handler.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		need, p, err := g.Admit(r)
		g.count(r.Context(), need.Action, err)
		if err != nil {
			g.audit.Refused(r, need, p, err)
			Refuse(w, r, err)
			return
		}
		if p != nil {
			*r = *r.WithContext(With(r.Context(), p)) // in place: whoever looks at the route later looks at this one
			telemetry.LineFrom(r.Context()).Set(slog.String("caller", p.ID))
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && (need.Action == Admin || need.Action == ModelsWrite) {
			returned := false
			defer func() { g.audit.Done(r, need, p, returned) }() // also of one that panics
			next.ServeHTTP(w, r)
			returned = true
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Refuse answers an error in the form of the protocol that was spoken.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		serve.ErrorsBy(r, rpc.Refuse)
	}
	serve.Error(w, r, err)
}

// Admit decides about a request: what it needs, who asks (nil: unknown, and that is fine or err says so), and why not.
func (g *Guard) Admit(r *http.Request) (Need, *Principal, error) {
	need, err := Needs(r)
	if err != nil || need.Action == Anonymous || need.Action == Events && g.anyEvents {
		return need, nil, err
	}
	credential, err := credentialOf(r)
	if err != nil {
		return need, nil, err
	}
	var p *Principal
	if isKey(credential) {
		p, err = g.ring.Check(r.Context(), credential)
	} else {
		p, err = g.tokens.Check(r.Context(), credential)
	}
	if err == nil && !p.May(need.Action, need.Model) {
		err = denied(p, need.Action, need.Model)
	}
	return need, p, err
}

// credentialOf finds what the caller shows: Authorization: Bearer, or X-Api-Key.
func credentialOf(r *http.Request) (string, error) {
	bearer, key := r.Header["Authorization"], r.Header["X-Api-Key"]
	switch {
	case len(bearer)+len(key) == 0:
		return "", fault.New(fault.Unauthenticated, "the request has no API key or token: send one as Authorization: Bearer ...")
	case len(bearer)+len(key) > 1:
		return "", fault.New(fault.Invalid, "the request has more than one API key or token")
	case len(key) == 1:
		if !isKey(key[0]) {
			return "", errNotValid
		}
		return key[0], nil
	}
	scheme, credential, _ := strings.Cut(bearer[0], " ")
	if !strings.EqualFold(scheme, "bearer") || credential == "" {
		return "", fault.New(fault.Unauthenticated, "the header Authorization is not of the form: Bearer ...")
	}
	return strings.TrimLeft(credential, " "), nil
}

func (g *Guard) count(ctx context.Context, a Action, err error) {
	outcome := "allowed"
	if err != nil {
		outcome = fault.KindOf(err).String()
	}
	g.decisions.Add(ctx, 1, decisionsOf(a, outcome))
}

// decided are the options of the counter, by action and outcome: made once, there are few.
var decided sync.Map

func decisionsOf(a Action, outcome string) metric.AddOption {
	key := [2]string{string(a), outcome}
	if o, ok := decided.Load(key); ok {
		return o.(metric.AddOption)
	}
	name := string(a)
	if a == Anonymous {
		name = "anonymous"
	}
	o := metric.WithAttributeSet(attribute.NewSet(attribute.String("action", name), attribute.String("outcome", outcome)))
	decided.Store(key, o)
	return o
}

// Audit writes down who changed what, and who was refused, as lines "audit" of the log. It is safe for concurrent use.
type Audit struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	second int64
	lines  int // of refusals in that second
	left   int // refusals that have no line
}

// refusalsMost is how many lines of refusals are written a second: an attacker must not fill the disk.
const refusalsMost = 50

// NewAudit makes one that writes to the log.
func NewAudit(tel *telemetry.Telemetry) *Audit { return &Audit{log: tel.Log, now: time.Now} }

// Done tells of a change that somebody who may has asked for, and how it ended; returned says that its handler did.
func (a *Audit) Done(r *http.Request, need Need, p *Principal, returned bool) {
	outcome := "done"
	if !returned || serve.Status(r) >= http.StatusBadRequest || telemetry.LineFrom(r.Context()).Err() != nil { // by gRPC, the status is none of HTTP
		outcome = "failed"
	}
	a.write(r, slog.LevelInfo, need, p, slog.String("outcome", outcome), slog.Int("status", serve.Status(r)))
}

// Refused tells of somebody who was not let through.
func (a *Audit) Refused(r *http.Request, need Need, p *Principal, err error) {
	a.mu.Lock()
	if now := a.now().Unix(); now != a.second {
		a.second, a.lines = now, 0
	}
	if a.lines >= refusalsMost {
		a.left++
		a.mu.Unlock()
		return
	}
	a.lines++
	left := a.left
	a.left = 0
	a.mu.Unlock()
	a.write(r, slog.LevelWarn, need, p, slog.String("outcome", "refused"), slog.String("kind", fault.KindOf(err).String()),
		slog.String("why", fault.Message(err)), slog.Int("refusals_left_out", left))
}

func (a *Audit) write(r *http.Request, level slog.Level, need Need, p *Principal, attrs ...slog.Attr) {
	if p != nil {
		attrs = append(attrs, slog.String("caller", p.ID), slog.String("name", p.Name), slog.String("tenant", p.Tenant))
	}
	attrs = append(attrs, slog.String("action", string(need.Action)), slog.String("method", r.Method[:min(len(r.Method), 20)]),
		slog.String("path", clip(r.URL.Path)), slog.String("from", r.RemoteAddr), slog.String("request_id", serve.RequestID(r)))
	a.log.LogAttrs(r.Context(), level, "audit", attrs...)
}

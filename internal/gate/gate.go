package gate

import (
	"context"
	"net/http"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/rpc"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Options are what a door reads from the environment.
type Options struct {
	Auth  auth.Config
	Limit limit.Config
	Gate  Config
}

// Parts are the configurations that it is made of, for whoever loads them.
func (o *Options) Parts() []any { return []any{&o.Auth, &o.Limit, &o.Gate} }

// Deps are what a door is made of.
type Deps struct {
	Blob   store.Blob         // the bucket
	Meter  store.Meter        // that gateways share
	Own    func() store.Meter // an empty one in memory, for when that is away
	Routes *RouteConfig       // where functions are found; nil: they are in this process
}

// Open puts the guard and the door before all that a process serves, and mounts their administration. Where functions are elsewhere, it
// mounts the way to them.
func Open(p *serve.Process, o *Options, d Deps) error {
	policies := limit.NewPolicies(d.Blob)
	limiter, err := limit.New(&o.Limit, policies, d.Meter, d.Own, p.Tel)
	if err != nil {
		return err
	}
	p.Defer(limiter.Close)
	door, err := NewDoor(&o.Gate, limiter, d.Routes != nil, p.Tel)
	if err != nil {
		return err
	}
	p.Guard(door.Wrap)
	policies.Register(p.Mux)
	if err := auth.Open(p, &o.Auth, d.Blob, true); err != nil || d.Routes == nil {
		return err
	}
	p.Await("read the bucket", "the bucket has not answered yet", func(ctx context.Context) error {
		_, err := policies.Read(ctx)
		return err
	})
	return openProxy(p, d.Routes, d.Blob)
}

// openProxy mounts the way to functions, and answers those who only ask whether the server is well: that must wake nobody.
func openProxy(p *serve.Process, c *RouteConfig, blob store.Blob) error {
	router, err := NewRouter(c, blob)
	if err != nil {
		return err
	}
	p.Defer(router.Close)
	proxy, err := NewProxy(c, router, p.Tel)
	if err != nil {
		return err
	}
	p.Defer(proxy.Close)
	router.Register(p.Mux)
	for path, answer := range map[string]any{
		"GET /{$}": map[string]string{"status": "alive"}, "GET /health": map[string]string{},
		"GET /v2/health/live": map[string]bool{"live": true}, "GET /v2/health/ready": map[string]bool{"ready": true},
	} {
		p.Mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if err := serve.WriteJSON(w, http.StatusOK, answer); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	ready := func() error { return nil }
	rpc.Mount(p.Mux, rpc.Health(ready))
	yes := rpc.Unary(func(_ context.Context, _, dst []byte) ([]byte, error) { return append(dst, 1<<3, 1), nil }) // the field 1 is true
	rpc.Mount(p.Mux, rpc.Service{Name: "inference.GRPCInferenceService", Methods: map[string]rpc.Method{"ServerLive": yes, "ServerReady": yes}})
	p.Mux.Handle("/", proxy)
	return nil
}

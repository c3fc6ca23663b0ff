package gate

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Routes say which predictions do not go to the shared pool: models that have a service of their own, and tenants that have one.
type Routes struct {
	Models  map[string]string `json:"models,omitempty"`  // by name, or a pattern in which * stands for any characters: the URL of a service
	Tenants map[string]string `json:"tenants,omitempty"` // the same; a model's route goes before a tenant's
}

const (
	routesKey  = "auth/routes"
	routesMost = 1 << 20
)

// table is Routes made ready.
type table struct{ models, tenants map[string]*url.URL }

// compile refuses routes to other places than services of ours.
func (r *Routes) compile(hosts []string) (*table, error) {
	t := &table{map[string]*url.URL{}, map[string]*url.URL{}}
	for _, of := range []struct {
		what string
		from map[string]string
		to   map[string]*url.URL
	}{{"models", r.Models, t.models}, {"tenants", r.Tenants, t.tenants}} {
		for pattern, raw := range of.from {
			if err := auth.CheckPattern(pattern); err != nil {
				return nil, fault.New(fault.Invalid, "%s: %s", of.what, fault.Message(err))
			}
			to, err := target(raw)
			if err != nil {
				return nil, fault.New(fault.Invalid, "%s: %s: %s", of.what, pattern, fault.Message(err))
			}
			if !ours(to.Hostname(), hosts) {
				return nil, fault.New(fault.Invalid, "%s: %s: %.100q is not a host that the gateway may route to; ROUTE_HOSTS says which are: %s", of.what, pattern, to.Host, strings.Join(hosts, ", "))
			}
			of.to[pattern] = to
		}
	}
	return t, nil
}

// ours tells whether a host is one of those: by its whole name, or by an ending that begins with a dot.
func ours(host string, those []string) bool {
	for _, h := range those {
		if host == h && !strings.HasPrefix(h, ".") || strings.HasPrefix(h, ".") && strings.HasSuffix(host, h) && len(host) > len(h) {
			return true
		}
	}
	return false
}

// Router knows where requests go. It is safe for concurrent use.
type Router struct {
	blob      store.Blob
	hosts     []string
	functions map[string]*url.URL
	recent    *store.Recent[*table]
}

// NewRouter makes a router of a bucket's routes.
func NewRouter(c *RouteConfig, blob store.Blob) (*Router, error) {
	r := &Router{blob: blob, hosts: c.Hosts, functions: map[string]*url.URL{}}
	for name, raw := range map[string]string{"predict": c.Predict, "features": c.Features, "feedback": c.Feedback, "deadletter": c.Deadletter, "pipeline": c.Pipeline} {
		to, err := target(raw)
		if err != nil {
			return nil, err
		}
		r.functions[name] = to
	}
	r.recent = store.NewRecent(func(ctx context.Context) (*table, error) {
		routes, err := r.read(ctx)
		if err != nil {
			return nil, err
		}
		return routes.compile(r.hosts)
	})
	return r, nil
}

// Close waits for what it does on its own.
func (r *Router) Close() error { return r.recent.Close() }

func (r *Router) read(ctx context.Context) (*Routes, error) {
	routes := &Routes{}
	_, err := store.ReadJSON(ctx, r.blob, routesKey, routesMost, routes)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	return routes, nil
}

// Find tells where a request goes; nil: nowhere. When the bucket does not answer, routes stay as they were.
func (r *Router) Find(req *http.Request, need auth.Need) *url.URL {
	function := functionOf(req.URL.Path)
	if function != "predict" || strings.HasPrefix(req.URL.Path, "/admin/") {
		return r.functions[function]
	}
	t, _, _ := r.recent.Get(req.Context())
	if t == nil {
		return r.functions[function]
	}
	to, _ := auth.Longest(t.models, need.Model)
	if p := auth.From(req.Context()); to == nil && p != nil {
		to, _ = auth.Longest(t.tenants, p.Tenant)
	}
	if to == nil {
		to = r.functions[function]
	}
	return to
}

// functionOf tells whose a path is; "": nobody's. Events are not here: the broker goes to functions by itself.
func functionOf(p string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	switch first {
	case "v1", "v2", "inference.GRPCInferenceService", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection":
		return "predict"
	case "get-online-features", "push", "write-to-online-store", "materialize", "materialize-incremental", "feast.serving.ServingService":
		return "features"
	case "feedback":
		return "feedback"
	case "landing":
		return "pipeline"
	case "admin":
		version, rest, _ := strings.Cut(rest, "/")
		what, _, _ := strings.Cut(rest, "/")
		if version == "v1" {
			return map[string]string{
				"models": "predict", "live": "predict", "features": "features", "quality": "feedback", "drift": "feedback", "predictions": "feedback", "alerts": "feedback", "rollouts": "feedback", "traces": "feedback", "deadletters": "deadletter", "events": "deadletter", "pipelines": "pipeline",
			}[what]
		}
	}
	return ""
}

// Register mounts
//
//	GET /admin/v1/routes   Routes
//	PUT /admin/v1/routes   Routes, in place of those that there are
func (r *Router) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /admin/v1/routes", func(w http.ResponseWriter, req *http.Request) {
		routes, err := r.read(req.Context())
		if err == nil {
			err = serve.WriteJSON(w, http.StatusOK, routes)
		}
		if err != nil {
			serve.Error(w, req, err)
		}
	})
	mux.HandleFunc("PUT /admin/v1/routes", func(w http.ResponseWriter, req *http.Request) {
		if err := r.put(w, req); err != nil {
			serve.Error(w, req, err)
		}
	})
}

func (r *Router) put(w http.ResponseWriter, req *http.Request) error {
	var routes *Routes
	if err := serve.ReadJSON(req, &routes, serve.Strict); err != nil {
		return err
	}
	if routes == nil {
		return fault.New(fault.Invalid, "there are no routes in the body; {} has none of them any more")
	}
	if _, err := routes.compile(r.hosts); err != nil {
		return err
	}
	if _, err := store.WriteJSON(req.Context(), r.blob, routesKey, routes, store.Condition{}); err != nil {
		return err
	}
	r.recent.Changed()
	return serve.WriteJSON(w, http.StatusOK, routes)
}

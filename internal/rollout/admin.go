package rollout

import (
	"net/http"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Register mounts what people ask:
//
//	GET    /admin/v1/rollouts                    the newest Rollout of each alias
//	GET    /admin/v1/rollouts/{model}/{alias}    one
//	PUT    /admin/v1/rollouts/{model}/{alias}    begins one by a Plan
//	DELETE /admin/v1/rollouts/{model}/{alias}    cancels it
func (m *Manager) Register(mux *http.ServeMux) {
	route := func(pattern string, status int, handle func(r *http.Request, name, alias string) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := handle(r, r.PathValue("model"), r.PathValue("alias"))
			if err == nil {
				err = serve.WriteJSON(w, status, v)
			}
			if err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("GET /admin/v1/rollouts", http.StatusOK, func(r *http.Request, _, _ string) (any, error) {
		all, err := m.List(r.Context())
		return map[string]any{"rollouts": all}, err
	})
	route("GET /admin/v1/rollouts/{model}/{alias}", http.StatusOK, func(r *http.Request, name, alias string) (any, error) {
		return m.Get(r.Context(), name, alias)
	})
	route("PUT /admin/v1/rollouts/{model}/{alias}", http.StatusCreated, func(r *http.Request, name, alias string) (any, error) {
		var p Plan
		if err := serve.ReadJSON(r, &p, serve.Strict); err != nil {
			return nil, err
		}
		if p.Model != "" && p.Model != name || p.Alias != "" && p.Alias != alias {
			return nil, fault.New(fault.Invalid, "the plan is of alias %q of model %q, and the path of %q of %q", p.Alias, p.Model, alias, name)
		}
		p.Model, p.Alias = name, alias
		return m.Start(r.Context(), p)
	})
	route("DELETE /admin/v1/rollouts/{model}/{alias}", http.StatusOK, func(r *http.Request, name, alias string) (any, error) {
		who := r.URL.Query().Get("by")
		if who == "" {
			who = "somebody"
		}
		return m.Cancel(r.Context(), name, alias, who)
	})
}

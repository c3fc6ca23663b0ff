package auth

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Issued answers a request for a key, or for another secret of one.
type Issued struct {
	Key
	Secret string `json:"secret"` // the whole key, as its holder shows it; it is told this once
}

// Issue asks for a key.
type Issue struct {
	Grant
	Lasts string `json:"lasts,omitempty"` // in place of expires: a duration from now on, such as 720h
}

// List answers with keys.
type List struct {
	Keys []Key `json:"keys"` // the newest first
}

// Rotation asks for another secret of a key.
type Rotation struct {
	Overlap string `json:"overlap,omitempty"` // how long the one before stays good, such as 1h; absent: not at all
}

// Register mounts the administration of keys:
//
//	GET    /admin/v1/keys               List
//	POST   /admin/v1/keys               Issue -> Issued
//	GET    /admin/v1/keys/{id}          Key
//	DELETE /admin/v1/keys/{id}          revoke it -> Key
//	POST   /admin/v1/keys/{id}/rotate   Rotation -> Issued
func (k *Keys) Register(mux *http.ServeMux) {
	const keys = "/admin/v1/keys"
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			if err := handle(w, r); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("GET "+keys, k.list)
	route("POST "+keys, k.issue)
	route("GET "+keys+"/{id}", func(w http.ResponseWriter, r *http.Request) error {
		key, err := k.Get(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		return serve.WriteJSON(w, http.StatusOK, key)
	})
	route("DELETE "+keys+"/{id}", func(w http.ResponseWriter, r *http.Request) error {
		key, err := k.Revoke(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		return serve.WriteJSON(w, http.StatusOK, key)
	})
	route("POST "+keys+"/{id}/rotate", k.rotate)
}

func (k *Keys) list(w http.ResponseWriter, r *http.Request) error {
	l := List{Keys: []Key{}}
	for key, err := range k.List(r.Context()) {
		if err != nil {
			return err
		}
		l.Keys = append(l.Keys, *key)
	}
	slices.SortFunc(l.Keys, func(a, b Key) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return serve.WriteJSON(w, http.StatusOK, l)
}

func (k *Keys) issue(w http.ResponseWriter, r *http.Request) error {
	var ask Issue
	if err := serve.ReadJSON(r, &ask, serve.Strict); err != nil {
		return err
	}
	if ask.Lasts != "" {
		d, err := duration("lasts", ask.Lasts)
		if err != nil {
			return err
		}
		if !ask.Expires.IsZero() {
			return fault.New(fault.Invalid, "lasts and expires are two ways to say one thing")
		}
		ask.Expires = k.now().UTC().Add(d).Truncate(time.Second)
	}
	key, secret, err := k.Create(r.Context(), ask.Grant, who(r))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusCreated, Issued{*key, secret})
}

func (k *Keys) rotate(w http.ResponseWriter, r *http.Request) error {
	var ask Rotation
	if err := serve.ReadJSON(r, &ask, serve.Strict); err != nil {
		return err
	}
	var overlap time.Duration
	if ask.Overlap != "" {
		var err error
		if overlap, err = duration("overlap", ask.Overlap); err != nil {
			return err
		}
	}
	key, secret, err := k.Rotate(r.Context(), r.PathValue("id"), overlap)
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, Issued{*key, secret})
}

func duration(what, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > 100*365*24*time.Hour {
		return 0, fault.New(fault.Invalid, "%s is %.60q, expected a duration such as 720h", what, text)
	}
	return d, nil
}

// who is what a change is recorded for.
func who(r *http.Request) string {
	if p := From(r.Context()); p != nil {
		return clip(p.ID)
	}
	return "unknown"
}

package feature

import (
	"io"
	"net/http"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Changed answers a change of the definitions.
type Changed struct {
	Version int      `json:"version"` // that is current now or, of a dry one, would be
	Changes []Change `json:"changes"` // none: the version was current before
	Dry     bool     `json:"dry,omitempty"`
}

// Register mounts the administration of definitions.
func (c *Catalog) Register(mux *http.ServeMux) {
	const features = "/admin/v1/features"
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("GET "+features, c.show)
	route("POST "+features, c.post)
	route("DELETE "+features+"/{kind}/{name}", c.remove)
}

func answer(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(append(encode(v), '\n'))
	return err
}

// show gives the newest set, or the one of ?version.
func (c *Catalog) show(w http.ResponseWriter, r *http.Request) error {
	var compiled *Compiled
	var err error
	if text := r.URL.Query().Get("version"); text != "" {
		version, bad := strconv.Atoi(text)
		if bad != nil || version < 1 {
			return fault.New(fault.Invalid, "version is %.20q, expected the number of a version", text)
		}
		compiled, err = c.Get(r.Context(), version)
	} else {
		compiled, err = c.read(r.Context()) // whoever has changed it elsewhere sees that here
	}
	if err != nil {
		return err
	}
	return answer(w, compiled.Set)
}

// post applies the body's definitions.
func (c *Catalog) post(w http.ResponseWriter, r *http.Request) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return serve.BodyError(err)
	}
	what, err := Parse("body", b)
	if err != nil {
		return err
	}
	if len(what.refs()) == 0 {
		return fault.New(fault.Invalid, "the body defines nothing")
	}
	return c.change(w, r, what)
}

func (c *Catalog) remove(w http.ResponseWriter, r *http.Request) error {
	ref, err := ParseRef(r.PathValue("kind") + "/" + r.PathValue("name"))
	if err != nil {
		return err
	}
	return c.change(w, r, &Set{}, ref)
}

func (c *Catalog) change(w http.ResponseWriter, r *http.Request, what *Set, remove ...Ref) error {
	q := r.URL.Query()
	dry := false
	if text := q.Get("dry"); text != "" {
		var err error
		if dry, err = strconv.ParseBool(text); err != nil {
			return fault.New(fault.Invalid, "dry is %.20q, expected true or false", text)
		}
	}
	s, changes, err := c.Apply(r.Context(), what, remove, q.Get("by"), dry)
	if err != nil {
		return err
	}
	return answer(w, Changed{Version: s.Version, Changes: append([]Change{}, changes...), Dry: dry})
}

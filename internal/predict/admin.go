package predict

import (
	"context"
	"errors"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func (h *Handler) registerAdmin(route func(string, func(http.ResponseWriter, *http.Request) error)) {
	const models = "/admin/v1/models"
	route("GET "+models, h.listModels)
	route("GET "+models+"/{model}", h.showModel)
	route("POST "+models+"/{model}/versions", h.push)
	route("GET "+models+"/{model}/versions/{version}", h.showVersion)
	route("GET "+models+"/{model}/versions/{version}/card", h.showCard)
	route("PUT "+models+"/{model}/aliases/{alias}", h.moveAlias)
	route("DELETE "+models+"/{model}/aliases/{alias}", h.moveAlias)
	route("POST "+models+"/{model}/aliases/{alias}/rollback", h.rollback)
	route("PUT "+models+"/{model}/aliases/{alias}/canaries/{version}", h.canary)
	route("DELETE "+models+"/{model}/aliases/{alias}/canaries/{version}", h.canary)
	route("PUT "+models+"/{model}/aliases/{alias}/shadow", h.shadow)
	route("DELETE "+models+"/{model}/aliases/{alias}/shadow", h.shadow)
	route("POST "+models+"/{model}/aliases/{alias}/promote", h.promote)
}

// ModelSummary is one line of the list of models.
type ModelSummary struct {
	Name     string                  `json:"name"`
	Versions int                     `json:"versions"`
	Newest   int                     `json:"newest"`
	Aliases  map[string]int          `json:"aliases"`
	Splits   map[string]*model.Split `json:"splits,omitempty"` // of those that name more than one version
}

// ModelList is the answer to GET /admin/v1/models.
type ModelList struct {
	Models []ModelSummary `json:"models"`
	Next   string         `json:"next,omitempty"` // what the next page is after; empty: there is none
}

// ModelDetail is the answer to GET /admin/v1/models/{model}.
type ModelDetail struct {
	Name     string            `json:"name"`
	All      int               `json:"all"`      // versions that there are
	Versions []*model.Manifest `json:"versions"` // oldest first
	model.Aliases
}

// AliasChange is the body of whatever changes an alias: PUT and DELETE of .../aliases/{alias}, of its
// .../canaries/{version} and its .../shadow, and POST .../rollback and .../promote.
type AliasChange struct {
	Version int     `json:"version,omitempty"` // that is meant, where the path does not say it
	Share   float64 `json:"share,omitempty"`   // of a canary
	Expect  *int    `json:"expect,omitempty"`  // the version that the alias must name now; 0: none
	Seen    *int    `json:"seen,omitempty"`    // the alias's last move that the caller knows of; 0: none
	By      string  `json:"by,omitempty"`
	Why     string  `json:"why,omitempty"`
}

func (c *AliasChange) change() model.Change {
	return model.Change{To: c.Version, Expect: c.Expect, Seen: c.Seen, By: c.By, Why: c.Why}
}

// PushSettings is the part "settings" of a push.
type PushSettings struct {
	model.Settings
	Runtime string `json:"runtime,omitempty"`
	Alias   string `json:"alias,omitempty"` // to point at the new version
	By      string `json:"by,omitempty"`
}

// listMost bounds a page of a list.
const listMost = 1000

// numberOf reads a number of a query; 0: it is not there.
func numberOf(r *http.Request, name string, most int) (int, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, fault.New(fault.Invalid, "%s is %.20q, expected 1 to %d", name, s, most)
	}
	return n, nil
}

// listModels gives all models, or a page of them by limit, prefix and after.
func (h *Handler) listModels(w http.ResponseWriter, r *http.Request) error {
	limit, err := numberOf(r, "limit", listMost)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	listed, more, err := h.flow.registry.List(r.Context(), q.Get("prefix"), q.Get("after"), limit)
	if err != nil {
		return err
	}
	list := ModelList{Models: make([]ModelSummary, len(listed))}
	for i, l := range listed {
		list.Models[i] = ModelSummary(*l)
	}
	if more {
		list.Next = listed[len(listed)-1].Name
	}
	return serve.WriteJSON(w, http.StatusOK, list)
}

// showModel gives a model with all of its versions and moves, or with the newest by limit, below (a version) and moves.
func (h *Handler) showModel(w http.ResponseWriter, r *http.Request) error {
	registry, name := h.flow.registry, r.PathValue("model")
	var asked [3]int
	for i, of := range []struct {
		name string
		most int
	}{{"limit", listMost}, {"below", math.MaxInt32}, {"moves", listMost}} {
		var err error
		if asked[i], err = numberOf(r, of.name, of.most); err != nil {
			return err
		}
	}
	versions, all, err := registry.Newest(r.Context(), name, asked[1], asked[0])
	if err != nil {
		return err
	}
	aliases, err := registry.Aliases(r.Context(), name)
	if err != nil {
		return err
	}
	detail := ModelDetail{Name: name, All: all, Versions: make([]*model.Manifest, len(versions)), Aliases: *aliases}
	if moves := asked[2]; moves > 0 {
		detail.History = detail.History[max(len(detail.History)-moves, 0):]
	}
	group, ctx := errgroup.WithContext(r.Context())
	group.SetLimit(lookups)
	for i, v := range versions {
		group.Go(func() (err error) {
			detail.Versions[i], err = registry.Manifest(ctx, name, v)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, detail)
}

func (h *Handler) showVersion(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.registry.Resolve(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, m)
}

// showCard gives the card of a version as whoever made it wrote it.
func (h *Handler) showCard(w http.ResponseWriter, r *http.Request) error {
	m, err := h.flow.registry.Resolve(r.Context(), refOf(r))
	if err != nil {
		return err
	}
	card, err := h.flow.registry.Card(r.Context(), m.Name, m.Version)
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, card)
}

// push takes a new version: a multipart form with an optional part "settings"
// (JSON) before the part "model" (the file), or the file alone as the body.
func (h *Handler) push(w http.ResponseWriter, r *http.Request) error {
	serve.Long(w, r)
	settings, file, err := pushParts(r)
	if err != nil {
		return err
	}
	if settings.Alias != "" {
		if err := model.CheckAlias(settings.Alias); err != nil {
			return err
		}
	}
	registry := h.flow.registry
	m, err := registry.Push(r.Context(), model.Push{
		Name: r.PathValue("model"), Runtime: settings.Runtime, Settings: settings.Settings, By: settings.By,
	}, file)
	if err != nil {
		return err
	}
	if settings.Alias != "" {
		if _, err := registry.Move(r.Context(), m.Name, settings.Alias, model.Change{To: m.Version, By: settings.By, Why: "pushed"}); err != nil {
			return err
		}
	}
	w.Header().Set("Location", "/admin/v1/models/"+m.Name+"/versions/"+strconv.Itoa(m.Version))
	return serve.WriteJSON(w, http.StatusCreated, m)
}

// settingsMost bounds the settings of a push; a sample request is the bulk of them.
const settingsMost = 8 << 20

func pushParts(r *http.Request) (*PushSettings, io.Reader, error) {
	settings := &PushSettings{}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "multipart/form-data" {
		return settings, &modelFile{Reader: r.Body}, nil
	}
	form := multipart.NewReader(r.Body, params["boundary"])
	for {
		part, err := form.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, fault.New(fault.Invalid, `the form has no part "model" that holds the model's file`)
		case err != nil:
			return nil, nil, serve.BodyError(err)
		case part.FormName() == "settings":
			b, err := io.ReadAll(http.MaxBytesReader(nil, part, settingsMost))
			if err != nil {
				return nil, nil, serve.BodyError(err)
			}
			if err := serve.Strict(b, settings); err != nil {
				return nil, nil, fault.Wrap(fault.Invalid, err, `the part "settings" is not the JSON expected there: %s`, serve.Misread(err))
			}
		case part.FormName() == "model":
			return settings, &modelFile{part, form}, nil
		default:
			return nil, nil, fault.New(fault.Invalid, `the form's part %q is not one of "settings" and "model"`, part.FormName())
		}
	}
}

// modelFile reads the file of a push. Nothing may follow it in a form, for
// settings that come too late must not be taken for absent ones.
type modelFile struct {
	io.Reader
	form *multipart.Reader // nil: the file is the whole body
}

func (f *modelFile) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if errors.Is(err, io.EOF) && f.form != nil {
		var part *multipart.Part
		if part, err = f.form.NextPart(); err == nil {
			err = fault.New(fault.Invalid, `the form's part %q stands behind the part "model", which must be the last`, part.FormName())
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = serve.BodyError(err)
	}
	return n, err
}

func (h *Handler) moveAlias(w http.ResponseWriter, r *http.Request) error {
	return change(w, r, toOrNone(r, h.flow.registry.Move))
}

func (h *Handler) rollback(w http.ResponseWriter, r *http.Request) error {
	return change(w, r, h.flow.registry.Rollback)
}

func (h *Handler) promote(w http.ResponseWriter, r *http.Request) error {
	return change(w, r, h.flow.registry.Promote)
}

// changing changes an alias of a model.
type changing func(ctx context.Context, name, alias string, ch model.Change) (model.Move, error)

// toOrNone has a PUT say which version is meant, and a DELETE mean none.
func toOrNone(r *http.Request, do changing) changing {
	return func(ctx context.Context, name, alias string, ch model.Change) (model.Move, error) {
		switch remove := r.Method == http.MethodDelete; {
		case remove:
			ch.To = 0
		case ch.To < 1:
			return model.Move{}, fault.New(fault.Invalid, "version is %d, expected the number of a version", ch.To)
		}
		return do(ctx, name, alias, ch)
	}
}

// change answers a request by a change of an alias.
func change(w http.ResponseWriter, r *http.Request, do changing) error {
	var ask AliasChange
	if err := serve.ReadJSON(r, &ask, serve.Strict); err != nil {
		return err
	}
	move, err := do(r.Context(), r.PathValue("model"), r.PathValue("alias"), ask.change())
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, move)
}

func (h *Handler) canary(w http.ResponseWriter, r *http.Request) error {
	var ask AliasChange
	if err := serve.ReadJSON(r, &ask, serve.Strict); err != nil {
		return err
	}
	version, err := strconv.Atoi(r.PathValue("version"))
	switch remove := r.Method == http.MethodDelete; {
	case err != nil || version < 1:
		return fault.New(fault.Invalid, "%q is not the number of a version", tensor.Clip(r.PathValue("version")))
	case ask.Version != 0 && ask.Version != version:
		return fault.New(fault.Invalid, "version is %d in the body and %d in the path", ask.Version, version)
	case remove:
		ask.Share = 0
	case ask.Share == 0:
		return fault.New(fault.Invalid, "the share is 0, expected one above 0 and below 1")
	}
	ask.Version = version
	move, err := h.flow.registry.Canary(r.Context(), r.PathValue("model"), r.PathValue("alias"), ask.Share, ask.change())
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, move)
}

func (h *Handler) shadow(w http.ResponseWriter, r *http.Request) error {
	return change(w, r, toOrNone(r, h.flow.registry.Shadow))
}

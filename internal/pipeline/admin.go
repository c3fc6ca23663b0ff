package pipeline

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Summary is a pipeline in a list.
type Summary struct {
	Name    string `json:"name"`
	About   string `json:"about,omitempty"`
	Version int    `json:"version"`
	Trouble string `json:"trouble,omitempty"` // why it can't be run
	Active  string `json:"active,omitempty"`  // the run that is under way
	Run     *Brief `json:"run,omitempty"`     // the newest
	Outline
}

// Outline is what a definition says, apart from what its steps are given. It is empty where the definition can't be read.
type Outline struct {
	On    []Starter `json:"on,omitempty"`
	Pause string    `json:"pause,omitempty"` // the least time between two runs that events start
	Steps []Wired   `json:"steps,omitempty"`
}

// Starter is something that starts runs: an event, or time.
type Starter struct {
	Event string            `json:"event,omitempty"` // its type
	Where map[string]string `json:"where,omitempty"` // what fields of its data have to be
	Every string            `json:"every,omitempty"`
}

// Wired is a step and what it is fed by.
type Wired struct {
	Name  string            `json:"name"`
	Use   string            `json:"use"`
	In    map[string]string `json:"in,omitempty"` // inputs by name, each "step.output"
	After []string          `json:"after,omitempty"`
}

func (d *Definition) outline() Outline {
	var o Outline
	for _, s := range d.On {
		starter := Starter{Event: s.Event, Where: s.Where}
		if s.Every > 0 {
			starter.Every = s.Every.String()
		}
		o.On = append(o.On, starter)
	}
	if d.Pause > 0 {
		o.Pause = d.Pause.String()
	}
	for i := range d.Steps {
		s := &d.Steps[i]
		o.Steps = append(o.Steps, Wired{s.Name, s.Use, s.In, s.After})
	}
	return o
}

// Brief is a run in a list.
type Brief struct {
	Beginning
	State  State  `json:"state"`
	Took   string `json:"took"`             // so far
	Reason string `json:"reason,omitempty"` // why it ended so, or what it waits for
}

// Detail is a pipeline.
type Detail struct {
	Name    string    `json:"name"`
	About   string    `json:"about,omitempty"`
	Version int       `json:"version"` // the newest
	At      time.Time `json:"at"`      // when that was applied
	By      string    `json:"by,omitempty"`
	Text    string    `json:"text"`              // YAML
	Trouble string    `json:"trouble,omitempty"` // why it can't be run
	Active  string    `json:"active,omitempty"`  // the run that is under way
	Pending *Cause    `json:"pending,omitempty"` // the event that starts the next
	Joined  int       `json:"joined"`            // events that came while one was pending
	Paused  int       `json:"paused"`            // events that came within the pause
	Page              // its newest runs
	Outline
}

// Page is a part of a pipeline's runs, newest first.
type Page struct {
	Runs []*Brief `json:"runs"`
	Next string   `json:"next,omitempty"` // for the query after of the next page; absent: there is none
}

// Shown is a run and how far it is.
type Shown struct {
	*Run
	Progress *Progress `json:"progress,omitempty"` // of the step that runs
}

const (
	runsUsual  = 20
	runsAtMost = 1000
)

// List tells of all pipelines.
func (m *Manager) List(ctx context.Context) ([]Summary, error) {
	names, err := m.names(ctx)
	if err != nil {
		return nil, err
	}
	all := []Summary{}
	for _, name := range names {
		s, err := m.summary(ctx, name)
		switch {
		case fault.Is(err, fault.NotFound):
			continue
		case fault.Is(err, fault.Internal), fault.Is(err, fault.Invalid): // it must not hide the others
			s.Trouble = fault.Message(err)
		case err != nil:
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (m *Manager) summary(ctx context.Context, name string) (s Summary, err error) {
	s.Name = name
	h, err := m.head(ctx, name)
	if err != nil {
		return s, err
	}
	if h.Last != nil {
		run, err := m.record(ctx, name, h.Last)
		if err != nil {
			return s, err
		}
		s.Run = m.brief(run)
	}
	if h.Active != nil {
		s.Active = h.Active.ID
	}
	v, d, err := m.current(ctx, name)
	if err != nil {
		return s, err
	}
	s.Version, s.About, s.Outline = v.Version, d.About, d.outline()
	_, err = d.compile(m.kinds)
	return s, err
}

func (m *Manager) brief(r *Run) *Brief {
	until := r.Ended
	if until.IsZero() {
		until = m.now()
	}
	return &Brief{r.Beginning, r.State, until.Sub(r.At).Round(1e6).String(), r.Reason}
}

// Show tells of a pipeline.
func (m *Manager) Show(ctx context.Context, name string) (*Detail, error) {
	v, err := m.newest(ctx, name)
	if err != nil {
		return nil, err
	}
	if v.Version == 0 {
		return nil, fault.New(fault.NotFound, "there is no pipeline %s", name)
	}
	h, err := m.head(ctx, name)
	if err != nil {
		return nil, err
	}
	d := &Detail{Name: name, Version: v.Version, At: v.At, By: v.By, Text: v.Text, Pending: h.Pending, Joined: h.Joined, Paused: h.Paused}
	if h.Active != nil {
		d.Active = h.Active.ID
	}
	if defined, err := v.definition(name); err != nil {
		d.Trouble = fault.Message(err)
	} else {
		d.About, d.Outline = defined.About, defined.outline()
		if _, err := defined.compile(m.kinds); err != nil {
			d.Trouble = fault.Message(err)
		}
	}
	d.Runs, d.Next, err = m.RunsBefore(ctx, name, "", runsUsual)
	return d, err
}

// Runs gives the newest runs of a pipeline, newest first.
func (m *Manager) Runs(ctx context.Context, name string, most int) ([]*Brief, error) {
	runs, _, err := m.RunsBefore(ctx, name, "", most)
	return runs, err
}

// RunsBefore gives the newest runs of a pipeline that began before the one with an id ("": of all), newest first, and the id by which to go on; "": there are no more.
func (m *Manager) RunsBefore(ctx context.Context, name, id string, most int) (_ []*Brief, next string, err error) {
	if err := checkName("pipeline's name", name); err != nil {
		return nil, "", err
	}
	line := store.Line{Prefix: runKey(name, ""), Key: func(at time.Time) string { return runKey(name, at.UTC().Format(idLayout)) }}
	end, until := "", time.Time{}
	if id != "" {
		if end = runKey(name, id); !runForm.MatchString(id) {
			return nil, "", fault.New(fault.Invalid, "%.100q is not the id of a run, such as 20261126T093000.000-0123abcd", id)
		}
		if until, err = time.Parse(idLayout, id[:len(idLayout)]); err != nil {
			return nil, "", fault.Wrap(fault.Invalid, err, "%.100q is not the id of a run", id)
		}
	}
	ids, err := line.Newest(ctx, m.blob, "", end, until, most+1)
	if err != nil {
		return nil, "", err
	}
	if len(ids) > most {
		ids = ids[:most]
		next = strings.TrimPrefix(ids[most-1], line.Prefix)
	}
	for i := range ids {
		ids[i] = strings.TrimPrefix(ids[i], line.Prefix)
	}
	runs, errs := make([]*Brief, len(ids)), make([]error, len(ids))
	var reading sync.WaitGroup
	slots := make(chan struct{}, sideBySide)
	for i, id := range ids {
		slots <- struct{}{}
		reading.Go(func() {
			defer func() { <-slots }()
			run, err := m.Get(ctx, name, id)
			if err == nil {
				runs[i] = m.brief(run)
			} else if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Internal) && !fault.Is(err, fault.Invalid) { // swept, or damaged, which must not hide the others
				errs[i] = err
			}
		})
	}
	reading.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, "", err
		}
	}
	return slices.DeleteFunc(runs, func(b *Brief) bool { return b == nil }), next, nil
}

// named finds the newest run, for callers who do not name one.
func (m *Manager) named(ctx context.Context, name, id string) (string, error) {
	if id != "latest" {
		return id, nil
	}
	if err := checkName("pipeline's name", name); err != nil {
		return "", err
	}
	h, err := m.head(ctx, name)
	if err == nil && h.Last == nil {
		err = fault.New(fault.NotFound, "the pipeline %s has no runs", name)
	}
	if err != nil {
		return "", err
	}
	_, err = m.record(ctx, name, h.Last)
	return h.Last.ID, err
}

// Register mounts what people ask:
//
//	GET    /admin/v1/pipelines                        Summary of each
//	GET    /admin/v1/pipelines/{name}                 Detail
//	PUT    /admin/v1/pipelines/{name}                 applies a definition, in YAML; ?dry=true only checks it
//	GET    /admin/v1/pipelines/{name}/versions/{n}    Version: a definition as it was applied
//	GET    /admin/v1/pipelines/{name}/runs            the newest, as Brief; ?limit, ?after
//	POST   /admin/v1/pipelines/{name}/runs            starts one: {"by": ..., "why": ...}
//	GET    /admin/v1/pipelines/{name}/runs/{id}       Shown; the id latest is that of the newest run
//	DELETE /admin/v1/pipelines/{name}/runs/{id}       cancels it
//	GET    /admin/v1/pipelines/{name}/runs/{id}/logs  Log of each step
func (m *Manager) Register(mux *http.ServeMux) {
	route := func(pattern string, status int, handle func(r *http.Request, name string) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := handle(r, r.PathValue("name"))
			if err == nil {
				err = serve.WriteJSON(w, status, v)
			}
			if err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	one := func(pattern string, handle func(r *http.Request, name, id string) (any, error)) {
		route(pattern, http.StatusOK, func(r *http.Request, name string) (any, error) {
			id, err := m.named(r.Context(), name, r.PathValue("id"))
			if err != nil {
				return nil, err
			}
			return handle(r, name, id)
		})
	}
	const path = "/admin/v1/pipelines"
	route("GET "+path, http.StatusOK, func(r *http.Request, _ string) (any, error) {
		all, err := m.List(r.Context())
		return map[string]any{"pipelines": all}, err
	})
	route("GET "+path+"/{name}", http.StatusOK, func(r *http.Request, name string) (any, error) { return m.Show(r.Context(), name) })
	route("PUT "+path+"/{name}", http.StatusOK, m.put)
	route("GET "+path+"/{name}/versions/{version}", http.StatusOK, func(r *http.Request, name string) (any, error) {
		if err := checkName("pipeline's name", name); err != nil {
			return nil, err
		}
		version, err := strconv.Atoi(r.PathValue("version"))
		if err != nil || version < 1 {
			return nil, fault.New(fault.Invalid, "%.20q is not the number of a version", r.PathValue("version"))
		}
		return m.version(r.Context(), name, version)
	})
	route("GET "+path+"/{name}/runs", http.StatusOK, func(r *http.Request, name string) (any, error) {
		most := runsUsual
		if text := r.URL.Query().Get("limit"); text != "" {
			var err error
			if most, err = strconv.Atoi(text); err != nil || most < 1 || most > runsAtMost {
				return nil, fault.New(fault.Invalid, "limit is %.20q, expected 1 to %d", text, runsAtMost)
			}
		}
		runs, next, err := m.RunsBefore(r.Context(), name, r.URL.Query().Get("after"), most)
		return Page{runs, next}, err
	})
	route("POST "+path+"/{name}/runs", http.StatusCreated, func(r *http.Request, name string) (any, error) {
		var asked struct{ By, Why string }
		if err := serve.ReadJSON(r, &asked, serve.Strict); err != nil {
			return nil, err
		}
		return m.Start(r.Context(), name, asked.By, asked.Why)
	})
	one("GET "+path+"/{name}/runs/{id}", func(r *http.Request, name, id string) (any, error) { return m.shown(r.Context(), name, id) })
	one("DELETE "+path+"/{name}/runs/{id}", func(r *http.Request, name, id string) (any, error) {
		return m.Cancel(r.Context(), name, id, r.URL.Query().Get("by"))
	})
	one("GET "+path+"/{name}/runs/{id}/logs", func(r *http.Request, name, id string) (any, error) {
		logs, err := m.Logs(r.Context(), name, id)
		return map[string]any{"logs": logs}, err
	})
}

func (m *Manager) put(r *http.Request, name string) (any, error) {
	q := r.URL.Query()
	dry := q.Has("dry")
	if text := q.Get("dry"); text != "" {
		var err error
		if dry, err = strconv.ParseBool(text); err != nil {
			return nil, fault.New(fault.Invalid, "dry is %.20q, expected true or false", text)
		}
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, serve.BodyError(err)
	}
	all, err := Parse("body", b)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 || all[0].Name != name {
		return nil, fault.New(fault.Invalid, "the body is not one definition of the pipeline %.100q", name)
	}
	return m.Apply(r.Context(), &all[0], q.Get("by"), dry)
}

// shown adds to a run how far it is.
func (m *Manager) shown(ctx context.Context, name, id string) (*Shown, error) {
	run, err := m.Get(ctx, name, id)
	if err != nil {
		return nil, err
	}
	s := &Shown{Run: run}
	for i := range run.Steps {
		if st := &run.Steps[i]; st.State == Running {
			l, err := m.readLog(ctx, name, id, st.Name)
			if err != nil && !fault.Is(err, fault.Internal) { // a damaged log hides no run
				return nil, err
			}
			if err == nil && l.Attempt == st.Attempt {
				s.Progress = l.Progress
			}
		}
	}
	return s, nil
}

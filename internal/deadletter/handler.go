package deadletter

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Deps are what the function is made of.
type Deps struct {
	Blob   store.Blob // the bucket
	Sink   event.Sink // where letters are put back; nil: nowhere
	Events *event.Mux // brings them
}

// Open wires the store of a bucket and mounts it on a process. The process is
// ready once the bucket has answered: before that it could keep nothing.
func Open(p *serve.Process, c *Config, d Deps) (*Store, error) {
	s, err := New(c, d.Blob, d.Sink, p.Tel)
	if err != nil {
		return nil, err
	}
	s.Hear(d.Events)
	s.Register(p.Mux)
	p.Await("look for the bucket", "the bucket has not answered yet", s.reach)
	return s, nil
}

// reach asks the bucket for anything.
func (s *Store) reach(ctx context.Context) error {
	for _, err := range s.blob.List(ctx, prefix, "") {
		return err
	}
	return nil
}

// List is the answer to GET /admin/v1/deadletters.
type List struct {
	Letters []Summary `json:"deadletters"`      // newest first
	Cursor  string    `json:"cursor,omitempty"` // for the query of the next page
}

// Replayed is the answer to POST /admin/v1/deadletters/replay.
type Replayed struct {
	Replayed int       `json:"replayed"`
	Failed   []Failure `json:"failed"`
}

// Register mounts the administration of letters.
func (s *Store) Register(mux *http.ServeMux) {
	const letters = "/admin/v1/deadletters"
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("GET "+letters, s.list)
	route("POST "+letters+"/replay", s.replayAll)
	route("GET "+letters+"/{id}", s.show)
	route("POST "+letters+"/{id}/replay", s.replay)
	route("DELETE "+letters+"/{id}", s.remove)
}

// listMost bounds a page.
const listMost = 1000

func (s *Store) list(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit := 50
	if v := q.Get("limit"); v != "" {
		var err error
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > listMost {
			return fault.New(fault.Invalid, "limit is %.20q, expected 1 to %d", v, listMost)
		}
	}
	f := Filter{Type: q.Get("type"), Cursor: q.Get("cursor")}
	if f.Cursor != "" {
		if err := checkCursor(f.Cursor); err != nil {
			return err
		}
	}
	for name, at := range map[string]*time.Time{"since": &f.Since, "before": &f.Before} {
		if v := q.Get(name); v != "" {
			var err error
			if *at, err = time.Parse(time.RFC3339, v); err != nil {
				return fault.New(fault.Invalid, "%s is %.50q, expected a time such as 2026-11-24T09:30:00Z", name, v)
			}
		}
	}
	letters, cursor, err := s.List(r.Context(), &f, limit)
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, List{append([]Summary{}, letters...), cursor})
}

func (s *Store) show(w http.ResponseWriter, r *http.Request) error {
	l, err := s.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, l)
}

func (s *Store) replay(w http.ResponseWriter, r *http.Request) error {
	if err := s.Replay(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return serve.WriteJSON(w, http.StatusOK, Replayed{Replayed: 1, Failed: []Failure{}})
}

// replayAll asks for a filter in the body, so that nobody replays everything by mistake.
func (s *Store) replayAll(w http.ResponseWriter, r *http.Request) error {
	serve.Long(w, r)
	ask := struct {
		Filter
		All bool `json:"all"`
	}{}
	if err := serve.ReadJSON(r, &ask, serve.Strict); err != nil {
		return err
	}
	if !ask.All && ask.Filter == (Filter{}) {
		return fault.New(fault.Invalid, `say which letters: "type", "since", "before" or "all", such as {"all":true}`)
	}
	n, failed, err := s.ReplayAll(r.Context(), &ask.Filter)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return serve.WriteJSON(w, http.StatusOK, Replayed{n, append([]Failure{}, failed...)})
}

func (s *Store) remove(w http.ResponseWriter, r *http.Request) error {
	if err := s.Delete(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

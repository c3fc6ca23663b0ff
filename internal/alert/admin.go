package alert

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// Status is what there is to know about alerts.
type Status struct {
	At       time.Time         `json:"at,omitzero"`        // of the last evaluation; absent: there was none
	Rules    int               `json:"rules"`              // the version of the rules that it went by
	Active   []Alert           `json:"active"`             // raised, and not resolved
	Pending  []Alert           `json:"pending"`            // beyond the threshold, but not often enough in a row
	Resolved []Alert           `json:"resolved"`           // up to 100 of the last seven days, the newest first
	Troubles map[string]string `json:"troubles,omitempty"` // by rule: why nothing can be concluded
	Unsent   int               `json:"unsent"`             // changes that wait to be sent
	Lost     int               `json:"lost,omitempty"`     // changes that were never sent, since too many waited
}

// Status gives the alerts as the bucket has them.
func (m *Manager) Status(ctx context.Context) (*Status, error) {
	s, _, err := m.state(ctx)
	if err != nil {
		return nil, err
	}
	status := &Status{At: s.At, Rules: s.Rules, Active: []Alert{}, Pending: []Alert{}, Resolved: append([]Alert{}, s.Resolved...), Troubles: s.Troubles, Unsent: len(s.Unsent), Lost: s.Lost}
	for _, a := range s.Alerts {
		if a.Raised.IsZero() {
			status.Pending = append(status.Pending, a)
		} else {
			status.Active = append(status.Active, a)
		}
	}
	return status, nil
}

// Applied answers a change of the rules.
type Applied struct {
	Version int          `json:"version"` // that is current now or, of a dry one, would be
	Changes []Difference `json:"changes"` // none: the version was current before
	Dry     bool         `json:"dry,omitempty"`
}

// Register mounts the administration of alerts:
//
//	GET /admin/v1/alerts               Status
//	GET /admin/v1/alerts/{id}          an Alert that Status has
//	GET /admin/v1/alerts/rules         Rules; ?version is one that is not the newest
//	PUT /admin/v1/alerts/rules         rules in YAML in place of all that there are; ?dry-run only tells what would differ
func (m *Manager) Register(mux *http.ServeMux) {
	route := func(pattern string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				serve.Error(w, r, err)
			}
		})
	}
	route("GET /admin/v1/alerts", func(w http.ResponseWriter, r *http.Request) error {
		status, err := m.Status(r.Context())
		return answer(w, status, err)
	})
	route("GET /admin/v1/alerts/{id}", func(w http.ResponseWriter, r *http.Request) error {
		status, err := m.Status(r.Context())
		if err != nil {
			return err
		}
		for _, all := range [][]Alert{status.Active, status.Pending, status.Resolved} {
			for i := range all {
				if all[i].ID == r.PathValue("id") {
					return answer(w, &all[i], nil)
				}
			}
		}
		return fault.New(fault.NotFound, "there is no alert %.100q, or it was resolved long ago: those of seven days are kept, %d at most", r.PathValue("id"), resolvedMost)
	})
	route("GET /admin/v1/alerts/rules", func(w http.ResponseWriter, r *http.Request) error {
		version := 0
		if text := r.URL.Query().Get("version"); text != "" {
			var err error
			if version, err = strconv.Atoi(text); err != nil || version < 1 {
				return fault.New(fault.Invalid, "version is %.20q, expected the number of a version", text)
			}
		}
		rules, err := m.Rules(r.Context(), version)
		return answer(w, rules, err)
	})
	route("PUT /admin/v1/alerts/rules", m.putRules)
}

func answer(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(encode(v), '\n'))
	return err
}

func (m *Manager) putRules(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	dry := q.Has("dry-run")
	if text := q.Get("dry-run"); text != "" {
		var err error
		if dry, err = strconv.ParseBool(text); err != nil {
			return fault.New(fault.Invalid, "dry-run is %.20q, expected true or false", text)
		}
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return serve.BodyError(err)
	}
	rules, err := Parse("body", b, m.quality)
	if err != nil {
		return err
	}
	applied, changes, err := m.Apply(r.Context(), rules, q.Get("by"), dry)
	if err != nil {
		return err
	}
	return answer(w, Applied{Version: applied.Version, Changes: changes, Dry: dry}, nil)
}

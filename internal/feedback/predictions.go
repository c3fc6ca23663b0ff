package feedback

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// PredictionList answers GET /admin/v1/predictions.
type PredictionList struct {
	Predictions []PredictionLine `json:"predictions"` // newest first
	Next        string           `json:"next,omitempty"`
	// Back is until when the log was looked through, if there is more of it and that has not filled the page; Next goes on there.
	Back    time.Time `json:"back,omitzero"`
	Damaged []string  `json:"damaged,omitempty"` // objects of the bucket that can't be read, and are left out
}

// PredictionLine is one prediction of a list: of several rows the first.
type PredictionLine struct {
	ID       string          `json:"id"`
	Time     time.Time       `json:"time"`
	AsOf     time.Time       `json:"as_of"`
	Model    string          `json:"model"`
	Version  int             `json:"version"`
	Rows     int             `json:"rows"`
	Duration int64           `json:"duration_us"`
	Cache    string          `json:"cache,omitempty"`
	Kind     string          `json:"kind,omitempty"`
	Error    string          `json:"error,omitempty"`
	Trace    string          `json:"trace,omitempty"`
	Inputs   json.RawMessage `json:"inputs,omitempty"` // absent where it is long, as the whole is asked for by id
	Outputs  json.RawMessage `json:"outputs,omitempty"`
}

// lineMost is how many bytes of inputs or outputs a line of a list has.
const lineMost = 4 << 10

func lineOf(l *payload.Listed) PredictionLine {
	p := PredictionLine{
		ID: l.ID, Time: time.UnixMicro(l.Answered).UTC(), AsOf: time.UnixMicro(l.At).UTC(), Model: l.Model, Version: int(l.Version), Rows: l.Rows,
		Duration: l.Latency, Cache: l.Cache, Kind: l.Kind, Error: l.Error, Trace: l.Trace,
	}
	if len(l.Inputs) <= lineMost {
		p.Inputs = object(l.Inputs)
	}
	if len(l.Outputs) <= lineMost {
		p.Outputs = object(l.Outputs)
	}
	return p
}

// The bounds of a page.
const (
	pageUsual = 50
	pageMost  = 500
	idMost    = 256 // bytes
)

// registerPredictions mounts
//
//	GET /admin/v1/predictions        a PredictionList, by model, version, entity, from, to, failed, limit and after
//	GET /admin/v1/predictions/{id}   a Prediction; an id that can't stand in a path as ~ and its base64url
//
// Few are worked on at a time, as each may read much.
func registerPredictions(route func(pattern string, handle func(r *http.Request) (any, error)), j *Journal) {
	const atOnce = 2
	turns := make(chan struct{}, atOnce)
	inTurn := func(r *http.Request, work func() (any, error)) (any, error) {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
			return work()
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	route("GET /admin/v1/predictions", func(r *http.Request) (any, error) {
		w, limit, err := wantedOf(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return inTurn(r, func() (any, error) {
			found, err := payload.Newest(r.Context(), j.blob, w, r.URL.Query().Get("after"), limit)
			if err != nil {
				return nil, err
			}
			list := &PredictionList{Predictions: make([]PredictionLine, len(found.Predictions)), Next: found.Next, Back: found.Back, Damaged: found.Damaged}
			for i := range found.Predictions {
				list.Predictions[i] = lineOf(&found.Predictions[i])
			}
			return list, nil
		})
	})
	route("GET /admin/v1/predictions/{id}", func(r *http.Request) (any, error) {
		id, err := idOf(r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return inTurn(r, func() (any, error) { return j.Prediction(r.Context(), id) })
	})
}

// idOf reads the id of a prediction in a path.
func idOf(s string) (string, error) {
	if coded, ok := strings.CutPrefix(s, "~"); ok {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(coded, "="))
		if err != nil {
			return "", fault.New(fault.Invalid, "the id %.80q begins with ~, and what follows is no base64url", s)
		}
		s = string(b)
	}
	if s == "" || len(s) > idMost {
		return "", fault.New(fault.Invalid, "an id has 1 to %d bytes, not %d", idMost, len(s))
	}
	return s, nil
}

func wantedOf(values url.Values) (w *payload.Wanted, limit int, err error) {
	known := []string{"model", "version", "entity", "from", "to", "failed", "limit", "after"}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, name) {
			return nil, 0, fault.New(fault.Invalid, "predictions can't be asked for by %.40q; expected %s", name, strings.Join(known, ", "))
		}
	}
	w, limit = &payload.Wanted{Model: values.Get("model")}, pageUsual
	if w.Model != "" {
		if err := model.CheckName(w.Model); err != nil {
			return nil, 0, err
		}
	}
	if w.Version, err = parseVersion(values.Get("version")); err != nil {
		return nil, 0, err
	}
	for _, t := range []struct {
		name string
		to   *time.Time
	}{{"from", &w.From}, {"to", &w.Until}} {
		if s := values.Get(t.name); s != "" {
			if *t.to, err = row.ParseTime(s); err != nil || t.to.Year() > 9998 || t.to.Year() < 1970 {
				return nil, 0, fault.New(fault.Invalid, "%s is %.40q, expected a time such as 2026-11-25T09:30:00Z, from 1970 on and before the year 9999", t.name, s)
			}
		}
	}
	if !w.Until.IsZero() && !w.From.Before(w.Until) {
		return nil, 0, fault.New(fault.Invalid, "from must lie before to")
	}
	if s := values.Get("failed"); s != "" {
		if w.Failed, err = strconv.ParseBool(s); err != nil {
			return nil, 0, fault.New(fault.Invalid, "failed is %.20q, expected true or false", s)
		}
	}
	if s := values.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > pageMost {
			return nil, 0, fault.New(fault.Invalid, "limit is %.20q, expected a number from 1 to %d", s, pageMost)
		}
	}
	if s := values.Get("entity"); s != "" {
		if w.Match, err = aboutEntity(s); err != nil {
			return nil, 0, err
		}
	}
	return w, limit, nil
}

// aboutEntity tells of rows whether their inputs have the values of an object, as outcomes name entities.
func aboutEntity(s string) (func(*payload.Row) bool, error) {
	entity, err := Entity([]byte(s))
	if err != nil {
		return nil, fault.New(fault.Invalid, "entity: %s", fault.Message(err))
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(entity), &fields); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "entity is not JSON")
	}
	keys := slices.Sorted(maps.Keys(fields))
	var values parsed
	return func(r *payload.Row) bool {
		inputs, err := values.object(nil, []byte(r.Inputs))
		return err == nil && entityOf(inputs, keys) == entity
	}, nil
}

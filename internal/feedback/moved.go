package feedback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// ReferencePrefix is where the training references of models lie, by model and version.
const ReferencePrefix = "feedback/references/"

func referenceKey(name string, version int) string {
	return fmt.Sprintf("%s%s/%010d", ReferencePrefix, name, version)
}

// Drift is how far what a model was asked, given and answered has moved from its training reference.
type Drift struct {
	Model    string    `json:"model"`
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Versions []Drifted `json:"versions"`
	Damaged  []string  `json:"damaged,omitempty"` // objects of the bucket that can't be read, and are left out
}

// Drifted is one version.
type Drifted struct {
	Version int           `json:"version"`
	Missing string        `json:"missing,omitempty"` // why there is no report
	Report  *drift.Report `json:"report,omitempty"`
}

// Moved compares the predictions of a model and time with the references of its versions. Of q it goes by
// Model, Version, From and Until. A column of a reference is the feature of its name or,
// where there is none, the input or the output; other columns are not compared.
func Moved(ctx context.Context, blob store.Blob, q *Question, o drift.Options) (*Drift, error) {
	j := &judge{Windows: Windows{blob}, q: q}
	states := map[int]*drift.State{}
	err := j.predictions(ctx, func(r *payload.Row) error {
		version := int(r.Version)
		s, known := states[version]
		if !known {
			reference, err := j.reference(ctx, version)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			if err == nil {
				s = drift.NewState(reference)
			}
			states[version] = s // nil: there is none
		}
		if s == nil {
			return nil
		}
		return observe(s, r)
	})
	if err != nil {
		return nil, err
	}
	d := &Drift{Model: q.Model, From: q.From.UTC(), Until: q.Until.UTC(), Versions: []Drifted{}, Damaged: j.count.Damaged}
	for _, version := range slices.Sorted(maps.Keys(states)) {
		v := Drifted{Version: version}
		if s := states[version]; s == nil {
			v.Missing = fmt.Sprintf("there is no training reference of %s:%d; pilotlight drift reference makes one", q.Model, version)
		} else if v.Report, err = drift.Compare(s, o); err != nil {
			return nil, err
		}
		d.Versions = append(d.Versions, v)
	}
	return d, nil
}

func (s *Windows) reference(ctx context.Context, name string, version int) (*drift.Profile, error) {
	data, err := s.get(ctx, referenceKey(name, version))
	if err != nil {
		return nil, err
	}
	return drift.Parse(data)
}

func (j *judge) reference(ctx context.Context, version int) (*drift.Profile, error) {
	return j.Windows.reference(ctx, j.q.Model, version)
}

// observe counts the columns of a reference in a row of a prediction.
func observe(s *drift.State, r *payload.Row) error {
	columns := s.Profile().Columns()
	seen := make([]bool, len(columns))
	for _, text := range [...]string{r.Features, r.Inputs, r.Outputs} {
		if text == "" {
			continue
		}
		var values map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &values); err != nil {
			return fault.Wrap(fault.Invalid, err, "its values are not a JSON object")
		}
		for name, v := range values {
			at, ok := s.Profile().Column(name)
			if !ok || seen[at] {
				continue
			}
			seen[at] = true
			switch v[0] {
			case '"':
				var t string
				if json.Unmarshal(v, &t) != nil {
					s.AddMissing(at)
					continue
				}
				s.AddText(at, t)
			case 't':
				s.AddNumber(at, 1)
			case 'f':
				s.AddNumber(at, 0)
			default:
				var f float64
				if string(v) == "null" || json.Unmarshal(v, &f) != nil { // an array, too
					s.AddMissing(at)
					continue
				}
				s.AddNumber(at, f)
			}
		}
	}
	for at := range columns {
		if !seen[at] {
			s.AddMissing(at)
		}
	}
	return nil
}

// registerDrift mounts GET /admin/v1/drift/{model}, a Drift by the query's version, from and until; and
// PUT and GET /admin/v1/drift/{model}/{version}/reference, a drift.Profile in JSON.
func registerDrift(mux *http.ServeMux, blob store.Blob) {
	route := func(pattern string, handle func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := handle(r)
			var b []byte
			if err == nil {
				b, err = json.Marshal(v)
			}
			if err != nil {
				serve.Error(w, r, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if _, err := w.Write(append(b, '\n')); err != nil {
				serve.Failed(r, err)
			}
		})
	}
	turn := make(chan struct{}, 1) // as of quality
	windows := &Windows{blob}
	route("GET /admin/v1/drift/{model}", func(r *http.Request) (any, error) {
		q, err := questionOf(r)
		if err != nil {
			return nil, err
		}
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		return Moved(r.Context(), blob, q, drift.Default)
	})
	route("GET /admin/v1/drift/{model}/{version}/reference", func(r *http.Request) (any, error) {
		name, version, err := versionOf(r)
		if err != nil {
			return nil, err
		}
		return windows.reference(r.Context(), name, version)
	})
	route("PUT /admin/v1/drift/{model}/{version}/reference", func(r *http.Request) (any, error) {
		name, version, err := versionOf(r)
		if err != nil {
			return nil, err
		}
		body, err := serve.Unpacked(r)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(body)
		if err != nil {
			return nil, bodyError(err)
		}
		p, err := drift.Parse(b)
		if err != nil {
			return nil, err
		}
		if b, err = json.Marshal(p); err != nil {
			return nil, err
		}
		if _, err := blob.Put(r.Context(), referenceKey(name, version), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
			return nil, fmt.Errorf("write the reference of %s:%d: %w", name, version, err)
		}
		return struct {
			Digest  string `json:"digest"`
			Rows    uint64 `json:"rows"`
			Columns int    `json:"columns"`
		}{p.Digest(), p.Rows(), len(p.Columns())}, nil
	})
}

func versionOf(r *http.Request) (string, int, error) {
	name := r.PathValue("model")
	version, err := parseVersion(r.PathValue("version"))
	return name, version, errors.Join(model.CheckName(name), err)
}

package feedback

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
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
	j := &judge{blob: blob, q: q}
	states := map[int]*drift.State{}
	err := j.predictions(ctx, func(r *payload.Row) error {
		version := int(r.Version)
		s, known := states[version]
		if !known {
			reference, err := readReference(ctx, blob, q.Model, version)
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

func readReference(ctx context.Context, blob store.Blob, name string, version int) (*drift.Profile, error) {
	data, _, err := store.ReadAll(ctx, blob, referenceKey(name, version))
	if err != nil {
		return nil, fmt.Errorf("read the reference of %s:%d: %w", name, version, err)
	}
	return drift.Parse(data)
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

package feedback

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// hourPrefix is where it lies how right a model was and how far its data had moved: by the start of the
// hour that its predictions are as of, as micros writes it.
func hourPrefix(generation int64, model string) string {
	return windowPrefix(generation) + "hours/" + model + "/"
}

// hour is a window of a model: one hour of what its predictions are as of, or what a commit adds to it.
type hour struct {
	Commit   int64          `json:"commit,omitempty"` // the last that was added
	Versions map[int]*tally `json:"versions"`
}

// tally is what an hour has of a version, with states written down.
type tally struct {
	Rows       int64             `json:"rows"`                // of predictions
	Spec       quality.Spec      `json:"spec,omitzero"`       // that its answers are judged by
	Quality    map[string][]byte `json:"quality,omitempty"`   // a quality.State of each slice, and of all as ""
	Unjudged   int64             `json:"unjudged,omitempty"`  // rows whose answer can't be judged
	Why        string            `json:"why,omitempty"`       // one of them can't be
	Settlement Settlement        `json:"settlement,omitzero"` // of outcomes
	Reference  string            `json:"reference,omitempty"` // digest of the training reference that Drift compares with
	Drift      []byte            `json:"drift,omitempty"`     // a drift.State
	Wrong      shown             `json:"wrong,omitempty"`     // by slice, those that are furthest from what came true; of all as ""
	Odd        shown             `json:"odd,omitempty"`       // by column, those with values that training had least
}

func (h *hour) of(version int) *tally {
	if h.Versions == nil {
		h.Versions = map[int]*tally{}
	}
	t := h.Versions[version]
	if t == nil {
		t = &tally{}
		h.Versions[version] = t
	}
	return t
}

// references gives the training reference of a version, nil: there is none.
type references func(ctx context.Context, model string, version int) (*drift.Profile, error)

// merge adds what another hour, or a commit, has. States that can't be merged, as their spec or reference is another one, replace what
// there is: the newer one is what is asked for.
func (h *hour) merge(ctx context.Context, model string, o *hour, reference references) error {
	for version, from := range o.Versions {
		t := h.of(version)
		t.Rows += from.Rows
		t.Unjudged += from.Unjudged
		if from.Why != "" {
			t.Why = from.Why
		}
		t.Settlement.add(&from.Settlement, 1)
		if from.Spec != t.Spec && len(from.Quality) > 0 {
			t.Spec, t.Quality, t.Wrong = from.Spec, nil, nil
		}
		t.Wrong.merge(from.Wrong)
		for slice, state := range from.Quality {
			if t.Quality == nil {
				t.Quality = map[string][]byte{}
			}
			merged, err := mergeQuality(t.Quality[slice], state)
			if err != nil {
				return err
			}
			t.Quality[slice] = merged
		}
		if from.Drift == nil {
			continue
		}
		if t.Reference != from.Reference {
			t.Reference, t.Drift, t.Odd = from.Reference, from.Drift, from.Odd
			continue
		}
		p, err := reference(ctx, model, version)
		if err != nil {
			return err
		}
		if p == nil || p.Digest() != t.Reference { // nobody can ask for it any more
			continue
		}
		if t.Drift, err = mergeDrift(p, t.Drift, from.Drift); err != nil {
			return err
		}
		t.Odd.merge(from.Odd)
	}
	return nil
}

func mergeQuality(a, b []byte) ([]byte, error) {
	if a == nil {
		return b, nil
	}
	to, err := quality.Decode(a)
	if err != nil {
		return nil, err
	}
	from, err := quality.Decode(b)
	if err != nil {
		return nil, err
	}
	if err := to.Merge(from); err != nil {
		return nil, err
	}
	return to.Append(nil), nil
}

func mergeDrift(p *drift.Profile, a, b []byte) ([]byte, error) {
	to, from := drift.NewState(p), drift.NewState(p)
	if err := to.Decode(a); err != nil {
		return nil, err
	}
	if err := from.Decode(b); err != nil {
		return nil, err
	}
	if err := to.Merge(from); err != nil {
		return nil, err
	}
	return to.AppendBinary(nil)
}

// numbered is an object that commits add to, each of them once.
type numbered interface {
	*hour | *window
	committed() *int64
}

func (h *hour) committed() *int64   { return &h.Commit }
func (w *window) committed() *int64 { return &w.Commit }

// applyTo adds what a commit has for an object to it, unless that was done. What is damaged there is replaced: it would be in the way for ever.
func applyTo[T numbered](ctx context.Context, j *Journal, key string, number int64, empty func() T, add func(T) error) error {
	for attempt := 0; ; attempt++ {
		at, version, err := readNumbered(ctx, j.blob, key, empty)
		if err != nil && !fault.Is(err, fault.Internal) {
			return err
		}
		damaged := err != nil
		if err == nil && *at.committed() >= number {
			return nil
		}
		if err := add(at); err != nil {
			if at = empty(); fault.Is(err, fault.Invalid) || fault.Is(err, fault.Conflict) {
				damaged = true
				err = add(at)
			}
			if err != nil {
				return fmt.Errorf("add to %q: %w", key, err)
			}
		}
		*at.committed() = number
		_, err = store.WriteJSON(ctx, j.blob, key, at, store.IfStill(version))
		if err == nil && damaged {
			j.damaged.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", "window")))
		}
		if !fault.Is(err, fault.Conflict) {
			return err
		}
		if err := pause(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// readNumbered gives an object and its version; one that is not there is empty and has none. One that is damaged is Internal, and has its version.
func readNumbered[T numbered](ctx context.Context, blob store.Blob, key string, empty func() T) (T, string, error) {
	at := empty()
	version, err := store.ReadJSON(ctx, blob, key, objectMost, at)
	switch {
	case fault.Is(err, fault.NotFound):
		return empty(), "", nil
	case err != nil:
		return empty(), version, err
	}
	return at, version, nil
}

// attemptsMost is how often somebody else may be quicker.
const attemptsMost = 20

// pause lets somebody else, who was quicker, go on.
func pause(ctx context.Context, attempt int, err error) error {
	if attempt == attemptsMost {
		return fault.Wrap(fault.Unavailable, err, "the bucket changes too often; come again")
	}
	select {
	case <-time.After(time.Duration(rand.Int64N(int64(5*time.Millisecond) << min(attempt, 6)))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

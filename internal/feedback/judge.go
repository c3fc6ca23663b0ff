package feedback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Question asks how right a model was.
type Question struct {
	Model   string
	Version int       // 0: each version that answered, by itself
	From    time.Time // of what the predictions are as of
	Until   time.Time
	Spec    quality.Spec // without a task it is told by most of the outcomes
	Output  string       // which says the answer; empty: the only one, or "probability"
	Slice   string       // an input or feature by whose values answers are told apart as well; empty: none
}

// Judgement is how right a model was, by the predictions and outcomes that are in the bucket now.
type Judgement struct {
	Model    string     `json:"model"`
	From     time.Time  `json:"from"`
	Until    time.Time  `json:"until"`
	Versions []Judged   `json:"versions"`
	Outcomes Settlement `json:"outcomes"`
}

// Judged is one version, or one slice of it.
type Judged struct {
	Version  int               `json:"version"`
	Slice    string            `json:"slice,omitempty"` // the value; empty: all rows
	Report   *quality.Report   `json:"report"`
	Estimate *quality.Estimate `json:"estimate,omitempty"` // of all its answers, with or without outcomes; of binary ones
}

// Settlement counts what became of outcomes.
type Settlement struct {
	Joined    int `json:"joined"`    // predictions that have one
	Repeated  int `json:"repeated"`  // that came again
	Corrected int `json:"corrected"` // that another of the same prediction replaced, taken in later
	Unsuited  int `json:"unsuited"`  // that can't be judged by the spec
	// Reason is that of the first that is unsuited.
	Reason string `json:"reason,omitempty"`
	// Waiting name no prediction of this model and time that is there yet. They may be of others, or come early.
	Waiting int `json:"waiting"`
	// Damaged are objects of the bucket that can't be read, and are left out.
	Damaged []string `json:"damaged,omitempty"`
}

// Bounds of what one Judge takes into memory.
const (
	outcomesMost = 5_000_000
	slicesMost   = 200
)

// settled is the outcome of a prediction that counts.
type settled struct {
	id      uint64
	created int64
	time    int64
	value   string
	used    bool
	before  *settled // what counts if this one is unsuited
}

// by is an entity as outcomes name it: the values of these keys.
type by struct {
	keys    []string
	entries map[string][]*atTime
}

// atTime is an outcome that means the last prediction of an entity at or before a time.
type atTime struct {
	*settled
	at   int64
	best int64 // the time of the prediction that it means, as far as is known; 0: none
	hash uint64
	row  int32
}

// Judge joins what was predicted with what came true, from the bucket as it is: so it does not matter in
// which order they came, how late, or how often. The outcome of a prediction that was taken in last counts.
// Memory grows with the outcomes, not with the predictions.
func Judge(ctx context.Context, blob store.Blob, q *Question) (*Judgement, error) {
	own := *q // whose task may be found out
	q = &own
	j := &judge{blob: blob, q: q, byID: map[predicted]*settled{}, states: map[key]*quality.State{}}
	if err := j.outcomes(ctx); err != nil {
		return nil, err
	}
	if len(j.entities) > 0 { // which prediction of an entity is meant shows when all have been seen
		if err := j.predictions(ctx, j.meet); err != nil {
			return nil, err
		}
	}
	if q.Spec.Task == "" {
		if err := j.predictions(ctx, j.kind); err != nil {
			return nil, err
		}
		q.Spec.Task = j.kinds.task()
	}
	if err := q.Spec.Validate(); err != nil {
		return nil, err
	}
	if err := j.predictions(ctx, j.take); err != nil {
		return nil, err
	}
	return j.judgement()
}

type predicted struct {
	id  string
	row int32
}

type key struct {
	version int
	slice   string
	all     bool
}

type judge struct {
	blob     store.Blob
	q        *Question
	byID     map[predicted]*settled
	entities []*by
	kinds    kinds
	states   map[key]*quality.State
	count    Settlement
}

// outcomes reads those that may be of the model.
func (j *judge) outcomes(ctx context.Context) error {
	n := 0
	for o, err := range j.blob.List(ctx, InboxPrefix, "") {
		if err != nil {
			return fmt.Errorf("list outcomes: %w", err)
		}
		data, _, err := store.ReadAll(ctx, j.blob, o.Key)
		if fault.Is(err, fault.NotFound) {
			continue // it was swept meanwhile
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", o.Key, err)
		}
		all, err := readOutcomes(o.Key, data)
		if err != nil {
			j.count.Damaged = append(j.count.Damaged, o.Key)
			continue
		}
		for i := range all {
			if o := &all[i]; o.Model == "" || o.Model == j.q.Model {
				if n++; n > outcomesMost {
					return fault.New(fault.Overloaded, "there are more than %d outcomes: more than can be joined at once", outcomesMost)
				}
				j.settle(o)
			}
		}
	}
	return nil
}

// settle has an outcome count for its prediction, unless one does that was taken in later.
func (j *judge) settle(o *Outcome) {
	s := &settled{id: o.ID, created: o.Created, time: o.Time, value: o.Value}
	if o.Prediction != "" {
		k := predicted{o.Prediction, o.Row}
		old := j.byID[k]
		if old == nil {
			j.byID[k] = s
		} else {
			*old = j.later(old, s)
		}
		return
	}
	var keys []string
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(o.Entity), &fields); err != nil {
		return // it was read when it was taken in
	}
	for name := range fields {
		keys = append(keys, name)
	}
	slices.Sort(keys)
	at := slices.IndexFunc(j.entities, func(b *by) bool { return slices.Equal(b.keys, keys) })
	if at < 0 {
		at = len(j.entities)
		j.entities = append(j.entities, &by{keys, map[string][]*atTime{}})
	}
	entries := j.entities[at].entries
	for _, e := range entries[o.Entity] {
		if e.at == o.At {
			*e.settled = j.later(e.settled, s)
			return
		}
	}
	entries[o.Entity] = append(entries[o.Entity], &atTime{settled: s, at: o.At})
}

func (j *judge) later(old, s *settled) settled {
	if old.id == s.id && old.value == s.value {
		j.count.Repeated++
		return *old
	}
	j.count.Corrected++
	last, first := *s, *old
	if s.created <= old.created {
		last, first = *old, *s
		first.before = old.before
	}
	last.before = &first
	return last
}

// kinds counts outcomes by what their values look like: true and false, 0 and 1, other numbers, texts.
type kinds struct{ words, bits, numbers, texts int }

// task is that of most outcomes: a strange one among them is unsuited, and no reason to take the others for something else. So a
// number among many 0 and 1 is strange, too, and one in ten makes them numbers.
func (k *kinds) task() quality.Task {
	yesNo, numbers := k.words+k.bits, k.numbers
	if k.numbers > 0 && 10*k.numbers >= k.bits {
		yesNo, numbers = k.words, k.numbers+k.bits
	}
	switch {
	case k.texts > max(yesNo, numbers):
		return quality.Multiclass
	case numbers > yesNo:
		return quality.Regression
	}
	return quality.Binary
}

// kind looks at the outcome of a prediction.
func (j *judge) kind(r *payload.Row) error {
	s := j.outcome(r)
	if s == nil {
		return nil
	}
	switch {
	case s.value == "true" || s.value == "false":
		j.kinds.words++
	case s.value == "0" || s.value == "1":
		j.kinds.bits++
	case s.value[0] == '"':
		j.kinds.texts++
	default:
		j.kinds.numbers++
	}
	return nil
}

// outcome is what came true of a prediction, or nil.
func (j *judge) outcome(r *payload.Row) *settled {
	if s := j.byID[predicted{r.ID, r.Row}]; s != nil || len(j.entities) == 0 {
		return s
	}
	var inputs map[string]json.RawMessage
	if json.Unmarshal([]byte(r.Inputs), &inputs) != nil {
		return nil
	}
	for _, b := range j.entities {
		for _, e := range b.of(inputs) {
			if e.best == r.At && e.hash == r.Hash && e.row == r.Row {
				return e.settled
			}
		}
	}
	return nil
}

// predictions reads those of the model and the time that were answered.
func (j *judge) predictions(ctx context.Context, each func(*payload.Row) error) error {
	from, until := j.q.From.UnixMicro(), j.q.Until.UnixMicro()
	for o, err := range j.blob.List(ctx, payload.Inbox, "") {
		if err != nil {
			return fmt.Errorf("list segments of predictions: %w", err)
		}
		err = payload.Load(ctx, j.blob, o.Key, func(rows []payload.Row) error {
			for i := range rows {
				r := &rows[i]
				if r.Model != j.q.Model || r.Kind != "" || r.At < from || r.At >= until || j.q.Version != 0 && int(r.Version) != j.q.Version {
					continue
				}
				if err := each(r); err != nil {
					return &unjudged{fmt.Errorf("prediction %q: %w", r.ID, err)}
				}
			}
			return nil
		})
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if unfit := (*unjudged)(nil); errors.As(err, &unfit) {
			return unfit.error
		}
		if fault.Is(err, fault.Invalid) {
			if !slices.Contains(j.count.Damaged, o.Key) {
				j.count.Damaged = append(j.count.Damaged, o.Key)
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unjudged is of a prediction that can't be judged as it was asked for; no segment is to blame.
type unjudged struct{ error }

// meet notes the predictions that outcomes about entities mean.
func (j *judge) meet(r *payload.Row) error {
	var inputs map[string]json.RawMessage
	if json.Unmarshal([]byte(r.Inputs), &inputs) != nil {
		return nil
	}
	for _, b := range j.entities {
		for _, e := range b.of(inputs) {
			if r.At <= e.at && r.At >= e.best {
				e.best, e.hash, e.row = r.At, r.Hash, r.Row
			}
		}
	}
	return nil
}

// of finds the outcomes that are about what a prediction was.
func (b *by) of(inputs map[string]json.RawMessage) []*atTime {
	object := make(map[string]json.RawMessage, len(b.keys))
	for _, k := range b.keys {
		v, ok := inputs[k]
		if !ok {
			return nil
		}
		object[k] = v
	}
	text, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	entity, err := Entity(text)
	if err != nil {
		return nil
	}
	return b.entries[entity]
}

// take counts a prediction, and its outcome if there is one.
func (j *judge) take(r *payload.Row) error {
	a, err := j.answer(r.Outputs)
	if err != nil {
		return err
	}
	keys := []key{{version: int(r.Version), all: true}}
	if j.q.Slice != "" {
		keys = append(keys, key{version: int(r.Version), slice: j.slice(r)})
	}
	s := j.outcome(r)
	var truth quality.Truth
	if s != nil {
		s.used = true
	}
	for ; s != nil; s = s.before { // a correction that can't be judged takes nothing away
		if truth, err = j.q.Spec.ParseTruth([]byte(s.value)); err == nil {
			j.count.Joined++
			break
		}
		j.unsuited(err)
	}
	for _, k := range keys {
		state := j.states[k]
		if state == nil {
			if len(j.states) >= slicesMost {
				return fault.New(fault.Invalid, "%q has more than %d values: too many to tell answers apart by", j.q.Slice, slicesMost)
			}
			if state, err = quality.NewState(j.q.Spec); err != nil {
				return err
			}
			j.states[k] = state
		}
		if err := state.Predicted(a); err != nil {
			return err
		}
		if s != nil {
			if err := state.Add(a, truth, time.Duration(s.time-r.At)*time.Microsecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *judge) unsuited(err error) {
	j.count.Unsuited++
	if j.count.Reason == "" {
		j.count.Reason = fault.Message(err)
	}
}

// slice is the value by which a row is told apart.
func (j *judge) slice(r *payload.Row) string {
	for _, text := range []string{r.Inputs, r.Features} {
		var values map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &values) != nil {
			continue
		}
		if v, ok := values[j.q.Slice]; ok {
			var s string
			if json.Unmarshal(v, &s) == nil {
				return s
			}
			return string(v)
		}
	}
	return "(none)"
}

// answer reads what was predicted out of the outputs.
func (j *judge) answer(outputs string) (a quality.Answer, err error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal([]byte(outputs), &values); err != nil {
		return a, fault.Wrap(fault.Invalid, err, "its outputs are not in the log")
	}
	name := j.q.Output
	if name == "" {
		if _, ok := values["probability"]; ok {
			name = "probability"
		}
		for only := range values {
			if len(values) == 1 {
				name = only
			}
		}
	}
	v, ok := values[name]
	if !ok {
		var names []string
		for n := range values {
			names = append(names, n)
		}
		slices.Sort(names)
		return a, fault.New(fault.Invalid, "which output is the answer? expected one of %s, not %q", strings.Join(names, ", "), name)
	}
	if j.q.Spec.Task == quality.Multiclass {
		if json.Unmarshal(v, &a.Class) != nil {
			a.Class = string(v)
		}
		return a, j.q.Spec.Check(a)
	}
	if err := json.Unmarshal(v, &a.Number); err != nil {
		return a, fault.Wrap(fault.Invalid, err, "the output %q is %.40s, expected a number", name, v)
	}
	return a, j.q.Spec.Check(a)
}

// judgement tells all that was counted.
func (j *judge) judgement() (*Judgement, error) {
	out := &Judgement{Model: j.q.Model, From: j.q.From.UTC(), Until: j.q.Until.UTC(), Versions: []Judged{}}
	for k, state := range j.states {
		v := Judged{Version: k.version, Slice: k.slice, Report: state.Report()}
		if j.q.Spec.Task == quality.Binary {
			estimate, err := state.Estimate(state)
			if err != nil {
				return nil, err
			}
			v.Estimate = estimate
		}
		out.Versions = append(out.Versions, v)
	}
	slices.SortFunc(out.Versions, func(a, b Judged) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), strings.Compare(a.Slice, b.Slice))
	})
	for _, s := range j.byID {
		if !s.used {
			j.count.Waiting++
		}
	}
	for _, b := range j.entities {
		for _, entries := range b.entries {
			for _, e := range entries {
				if !e.used {
					j.count.Waiting++
				}
			}
		}
	}
	out.Outcomes = j.count
	return out, nil
}

// parseVersion reads a version's number; empty: all.
func parseVersion(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fault.New(fault.Invalid, "version is %.20q, expected the number of a version", s)
	}
	return n, nil
}

package feedback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Question asks how right a model was, or how far its data has moved.
type Question struct {
	Model   string
	Version int       // 0: each version that answered, by itself
	From    time.Time // of what the predictions are as of
	Until   time.Time
	Every   time.Duration // tell windows of that length as well; 0: only the whole
	Spec    quality.Spec  // without a task it is told by the manifest or, in the log, by most of the outcomes
	Output  string        // which says the answer; empty: told by the manifest, or the only one, or "probability"
	Slice   string        // an input or feature by whose values answers are told apart as well; empty: none
	labels  []string      // of the classes of an output of probabilities
}

// Judgement is how right a model was.
type Judgement struct {
	Model string    `json:"model"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	// By is windows or, where those don't have what was asked for, log: of predictions and outcomes.
	By        string         `json:"by"`
	Versions  []Judged       `json:"versions"`
	Windows   []JudgedWindow `json:"windows,omitempty"`   // those with predictions, in their order
	Elsewhere *Elsewhere     `json:"elsewhere,omitempty"` // where there are none in the time that was asked about
	Outcomes  Settlement     `json:"outcomes"`
	Waiting   int            `json:"waiting"`           // outcomes whose prediction is not there yet: of any model, where they name none
	Damaged   []string       `json:"damaged,omitempty"` // objects of the bucket that can't be read, and are left out
}

// Elsewhere is of when there are predictions of a model.
type Elsewhere struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// JudgedWindow is how right it was for some of the time.
type JudgedWindow struct {
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Versions []Judged  `json:"versions"`
}

// Judged is one version, or one slice of it.
type Judged struct {
	Version  int               `json:"version"`
	Slice    string            `json:"slice,omitempty"` // column=value; empty: all rows
	Report   *quality.Report   `json:"report,omitempty"`
	Estimate *quality.Estimate `json:"estimate,omitempty"` // of all its answers, with or without outcomes; of binary ones
	Unjudged int64             `json:"unjudged,omitempty"` // answers that can't be judged
	Why      string            `json:"why,omitempty"`      // one of them can't be
	// Examples are the answers that were furthest from what came true, the worst first. Those whose outcomes were corrected since may be among them.
	Examples []event.Example `json:"examples,omitempty"`
}

// How a Judgement was come to.
const (
	ByWindows = "windows"
	ByLog     = "log"
)

// Bounds of what one Judge takes into memory.
const (
	outcomesMost = 1_000_000
	slicesMost   = 200
)

// settled is the outcomes of a prediction.
type settled struct {
	told []told
	used bool
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
	best int64      // the time of the prediction that it means, as far as is known; 0: none
	key  ledger.Key // of that
}

// Judge joins what was predicted with what came true, from the bucket as it is: so anything can be asked, of any time, and it takes as
// long as reading the logs takes. Memory grows with the outcomes, not with the predictions.
func Judge(ctx context.Context, blob store.Blob, q *Question) (*Judgement, error) {
	j := &judge{
		blob: blob, q: q, how: judging{spec: q.Spec, output: q.Output, labels: q.labels}, byID: map[predicted]*settled{},
		states: map[key]*quality.State{}, wrong: map[key]examples{}, out: &Judgement{Model: q.Model, From: q.From.UTC(), Until: q.Until.UTC(), By: ByLog, Versions: []Judged{}},
	}
	for _, prefix := range [...]string{InboxPrefix, LogPrefix} { // the way that outcomes go, so that none is missed
		if err := j.outcomes(ctx, prefix); err != nil {
			return nil, err
		}
	}
	if len(j.entities) > 0 { // which prediction of an entity is meant shows when all have been seen
		if err := j.predictions(ctx, j.meet); err != nil {
			return nil, err
		}
	}
	if j.how.spec.Task == "" {
		if err := j.predictions(ctx, j.kind); err != nil {
			return nil, err
		}
		j.how.spec.Task = j.kinds.task()
	}
	if err := j.how.spec.Validate(); err != nil {
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
}

type judge struct {
	blob     store.Blob
	q        *Question
	how      judging
	byID     map[predicted]*settled
	entities []*by
	kinds    kinds
	states   map[key]*quality.State
	wrong    map[key]examples
	parsed   parsed
	out      *Judgement
}

// outcomes reads those that may be of the model.
func (j *judge) outcomes(ctx context.Context, prefix string) error {
	n := 0
	for o, err := range j.blob.List(ctx, prefix, "") {
		if err != nil {
			return fmt.Errorf("list outcomes: %w", err)
		}
		data, _, err := store.ReadAll(ctx, j.blob, o.Key)
		if fault.Is(err, fault.NotFound) {
			continue // it was swept, or taken into the log, meanwhile
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", o.Key, err)
		}
		all, err := readOutcomes(o.Key, data)
		if err != nil {
			j.out.Damaged = append(j.out.Damaged, o.Key)
			continue
		}
		for i := range all {
			if o := &all[i]; o.Model == "" || o.Model == j.q.Model {
				if n++; n > outcomesMost {
					return fault.New(fault.Overloaded, "there are more than %d outcomes: more than can be joined at once; ask without slice, task, answer, threshold and quantile", outcomesMost)
				}
				j.hear(o)
			}
		}
	}
	return nil
}

// hear takes an outcome.
func (j *judge) hear(o *Outcome) {
	t := told{id: o.ID, created: o.Created, time: o.Time, value: o.Value}
	if o.Prediction != "" {
		k := predicted{o.Prediction, o.Row}
		if j.byID[k] == nil {
			j.byID[k] = &settled{}
		}
		j.byID[k].told = append(j.byID[k].told, t)
		return
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(o.Entity), &fields); err != nil {
		return // it was read when it was taken in
	}
	keys := slices.Sorted(maps.Keys(fields))
	at := slices.IndexFunc(j.entities, func(b *by) bool { return slices.Equal(b.keys, keys) })
	if at < 0 {
		at = len(j.entities)
		j.entities = append(j.entities, &by{keys, map[string][]*atTime{}})
	}
	entries := j.entities[at].entries
	for _, e := range entries[o.Entity] {
		if e.at == o.At {
			e.told = append(e.told, t)
			return
		}
	}
	entries[o.Entity] = append(entries[o.Entity], &atTime{settled: &settled{told: []told{t}}, at: o.At})
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

// kind looks at the outcome of a prediction that came last.
func (j *judge) kind(r *payload.Row) error {
	all := j.outcomesOf(r)
	if len(all) == 0 {
		return nil
	}
	last := slices.MaxFunc(all, func(a, b told) int { return cmp.Compare(a.created, b.created) })
	switch {
	case last.value == "true" || last.value == "false":
		j.kinds.words++
	case last.value == "0" || last.value == "1":
		j.kinds.bits++
	case last.value[0] == '"':
		j.kinds.texts++
	default:
		j.kinds.numbers++
	}
	return nil
}

// outcomesOf gives what came true of a prediction, as far as it was told.
func (j *judge) outcomesOf(r *payload.Row) (all []told) {
	if s := j.byID[predicted{r.ID, r.Row}]; s != nil {
		s.used = true
		all = s.told
	}
	for _, b := range j.entities {
		for _, e := range b.entries[entityOf(j.parsed.inputs, b.keys)] {
			if e.key == predictionKey(r.ID, r.Row) {
				e.used = true
				all = append(all[:len(all):len(all)], e.told...)
			}
		}
	}
	return all
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
				if j.parsed.read(r) != nil {
					j.parsed = parsed{} // its values are not known
				}
				if err := each(r); err != nil {
					return &blameless{fmt.Errorf("prediction %q: %w", r.ID, err)}
				}
			}
			return nil
		})
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if innocent := (*blameless)(nil); errors.As(err, &innocent) {
			return innocent.error
		}
		if fault.Is(err, fault.Invalid) {
			if !slices.Contains(j.out.Damaged, o.Key) {
				j.out.Damaged = append(j.out.Damaged, o.Key)
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blameless is an error that no segment is to blame for.
type blameless struct{ error }

// meet notes the predictions that outcomes about entities mean.
func (j *judge) meet(r *payload.Row) error {
	for _, b := range j.entities {
		for _, e := range b.entries[entityOf(j.parsed.inputs, b.keys)] {
			key := predictionKey(r.ID, r.Row)
			if r.At <= e.at && (r.At > e.best || r.At == e.best && key.Compare(e.key) > 0) {
				e.best, e.key = r.At, key
			}
		}
	}
	return nil
}

// take counts a prediction, and its outcome if there is one.
func (j *judge) take(r *payload.Row) error {
	a, err := j.how.answer(j.parsed.outputs)
	if err != nil {
		return err
	}
	keys := []key{{version: int(r.Version)}}
	if j.q.Slice != "" {
		text := "(none)"
		if v, ok := j.parsed.column(j.q.Slice); ok {
			text = v.text()
		}
		keys = append(keys, key{int(r.Version), j.q.Slice + "=" + text})
	}
	truth, counts, what := settle(&j.how.spec, j.outcomesOf(r))
	j.out.Outcomes.add(&what, 1)
	for _, k := range keys {
		state := j.states[k]
		if state == nil {
			if len(j.states) >= slicesMost {
				return fault.New(fault.Invalid, "%q has more than %d values: too many to tell answers apart by", j.q.Slice, slicesMost)
			}
			if state, err = quality.NewState(j.how.spec); err != nil {
				return err
			}
			j.states[k] = state
		}
		if err := state.Predicted(a); err != nil {
			return err
		}
		if counts != nil {
			if err := state.Add(a, truth, time.Duration(counts.time-r.At)*time.Microsecond); err != nil {
				return err
			}
			if loss := j.how.spec.Loss(a, truth); loss > 0 {
				worst := j.wrong[k]
				worst.add(example{r.ID, r.Row, loss, r.Sampled})
				j.wrong[k] = worst
			}
		}
	}
	return nil
}

// judgement tells all that was counted.
func (j *judge) judgement() (*Judgement, error) {
	for k, state := range j.states {
		v, err := judgedOf(k.version, k.slice, state)
		if err != nil {
			return nil, err
		}
		v.Examples = j.wrong[k].told()
		j.out.Versions = append(j.out.Versions, v)
	}
	sortJudged(j.out.Versions)
	for _, s := range j.byID {
		if !s.used {
			j.out.Waiting++
		}
	}
	for _, b := range j.entities {
		for _, entries := range b.entries {
			for _, e := range entries {
				if !e.used {
					j.out.Waiting++
				}
			}
		}
	}
	return j.out, nil
}

// judgedOf reports a state.
func judgedOf(version int, slice string, state *quality.State) (v Judged, err error) {
	v = Judged{Version: version, Slice: slice, Report: state.Report()}
	if state.Spec().Task == quality.Binary {
		v.Estimate, err = state.Estimate(state)
	}
	return v, err
}

func sortJudged(all []Judged) {
	slices.SortFunc(all, func(a, b Judged) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), strings.Compare(a.Slice, b.Slice))
	})
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

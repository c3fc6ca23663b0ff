package feedback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Prediction is all that is known of an id.
type Prediction struct {
	ID string `json:"id"`
	// Answers are what was said to it, the first one first: one, unless a shadow was asked as well, or the id came twice.
	Answers []Answered `json:"answers"`
	// Partial says that more outcomes wait to be taken in than were looked through, which are the newest: there may be more of what came true.
	Partial bool `json:"partial,omitempty"`
}

// Answered is one answer.
type Answered struct {
	Time     time.Time     `json:"time"`  // when it was answered
	AsOf     time.Time     `json:"as_of"` // the time that it is of: of its features, and of drift and quality
	Model    string        `json:"model"`
	Version  int           `json:"version"`
	Digest   string        `json:"digest,omitempty"`
	Caller   string        `json:"caller,omitempty"`
	Cache    string        `json:"cache,omitempty"`
	Duration int64         `json:"duration_us"`
	Kind     string        `json:"kind,omitempty"` // of the error that it ended with
	Error    string        `json:"error,omitempty"`
	Protocol string        `json:"protocol,omitempty"`
	Trace    string        `json:"trace,omitempty"`  // the id of its trace, which may not be kept
	Traced   bool          `json:"traced,omitempty"` // it is, whatever became of the request; those that failed or were slow are kept as well
	Weight   float64       `json:"weight"`           // how many predictions it stands for
	Rows     []AnsweredRow `json:"rows"`
	More     bool          `json:"more,omitempty"` // there are rows beyond those
}

// AnsweredRow is one row of an answer.
type AnsweredRow struct {
	Row      int32           `json:"row"`
	Inputs   json.RawMessage `json:"inputs,omitempty"`
	Features []Fetched       `json:"features,omitempty"`
	Outputs  json.RawMessage `json:"outputs,omitempty"`
	Outcomes []Came          `json:"outcomes,omitempty"` // in the order in which they were taken in
	Verdict  *Verdict        `json:"verdict,omitempty"`  // by the outcome that counts
}

// Fetched is a feature as the model was given it.
type Fetched struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
	Time  time.Time       `json:"time,omitzero"`
	Age   *float64        `json:"age_s,omitempty"` // of Time before AsOf
}

// Came is an outcome.
type Came struct {
	Value  json.RawMessage `json:"value"`
	Time   time.Time       `json:"time"`  // when it came true
	Taken  time.Time       `json:"taken"` // when it was taken in
	Counts bool            `json:"counts"`
	Joined bool            `json:"joined"` // it is in the windows of quality
}

// Verdict tells how right an answer was.
type Verdict struct {
	Task    quality.Task `json:"task"`
	Correct *bool        `json:"correct,omitempty"`  // of classifiers
	LogLoss *float64     `json:"log_loss,omitempty"` // of those that tell probabilities
	Error   *float64     `json:"error,omitempty"`    // of a regression: what it said, less what came true
}

// rowsMost is how many rows of an answer are told.
const rowsMost = 100

// Prediction finds a prediction by its id. Those that commits have taken are found by the ledger, as long as it keeps them; newer ones
// by looking through the segments that were not taken yet. It commits nothing.
func (j *Journal) Prediction(ctx context.Context, id string) (*Prediction, error) {
	f, err := j.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(f.rows) == 0 {
		if !f.all {
			return nil, fault.New(fault.NotFound, "no prediction %.200q was found in the newest part of the log, and the rest is not in the ledger yet: a tick takes it in", id)
		}
		return nil, fault.New(fault.NotFound, "no prediction %.200q is in the log; one appears there some seconds after its answer, unless its model keeps only a sample", id)
	}
	if err := f.recent(ctx); err != nil {
		return nil, err
	}
	return f.tell(ctx)
}

// finding is what was found of an id.
type finding struct {
	j        *Journal
	id       string
	rows     []payload.Row
	all      bool // there is nothing that was not looked at
	partial  bool // but for outcomes that were not taken in yet
	outcomes map[ledger.Key][]told
}

// find looks into the ledger and into the log.
func (j *Journal) find(ctx context.Context, id string) (*finding, error) {
	var keys []ledger.Key
	for n := range int32(rowsMost) {
		keys = append(keys, predictionKey(id, n))
	}
	for attempt := 0; ; attempt++ {
		_, c, err := j.newest(ctx)
		if err != nil {
			return nil, err
		}
		f := &finding{j: j, id: id, outcomes: map[ledger.Key][]told{}}
		places := map[int64]bool{}
		err = ledger.Find(ctx, j.blob, slices.Concat(c.Runs, c.Waits), keys, func(key ledger.Key, data []byte) error {
			return f.learn(key, data, places)
		})
		if fault.Is(err, fault.NotFound) && attempt < 3 {
			continue // it was joined with others by the next commit
		}
		if err != nil {
			return nil, anew(err)
		}
		for _, until := range slices.Sorted(maps.Keys(places)) {
			if until == 0 {
				continue
			}
			rows, err := payload.Find(ctx, j.blob, id, until)
			if err != nil {
				return nil, err
			}
			f.rows = append(f.rows, rows...)
		}
		if len(f.rows) > 0 {
			return f, nil
		}
		from, skip := c.Since, taken(c)
		if places[0] { // it is somewhere among those that were taken
			from, skip = 0, nil
		}
		f.rows, f.all, err = payload.Scan(ctx, j.blob, id, from, math.MaxInt64, skip)
		return f, err
	}
}

// taken tells of a segment whether a commit has taken it.
func taken(c *commit) func(key string) bool {
	return func(key string) bool {
		id, _, ok := segmentID(key)
		if !ok {
			return true
		}
		_, known := slices.BinarySearch(c.Segments, id)
		return known
	}
}

// learn takes what the ledger has under the key of one of its rows.
func (f *finding) learn(key ledger.Key, data []byte, places map[int64]bool) error {
	switch data[0] {
	case ofPrediction:
		p, err := readPrediction(data)
		if err != nil {
			return err
		}
		places[p.place] = true
	case ofFailed:
		place, err := readFailed(data)
		if err != nil {
			return err
		}
		places[place] = true
	case ofOutcome:
		o, err := readTold(data)
		if err != nil {
			return err
		}
		f.outcomes[key] = append(f.outcomes[key], o)
	case ofWaiting:
		o, err := readWaiting(data)
		if err != nil {
			return err
		}
		f.outcomes[key] = append(f.outcomes[key], o.told())
	}
	return nil
}

// told is what matters of an outcome that no commit has joined.
func (o *Outcome) told() told {
	return told{id: o.ID, created: o.Created, time: o.Time, value: o.Value, model: o.Model}
}

// inboxMost is how many objects of outcomes are looked through that were not taken yet.
const inboxMost = 100

// inboxLine is the inbox by the times at which its outcomes were taken in.
var inboxLine = store.Line{Prefix: InboxPrefix, Key: func(at time.Time) string { return InboxPrefix + micros(min(at.UnixMicro(), latest)) }}

// recent looks for outcomes that no commit has taken yet, among the newest of them.
func (f *finding) recent(ctx context.Context) error {
	keys, err := inboxLine.Newest(ctx, f.j.blob, "", "", time.Time{}, inboxMost+1)
	if err != nil {
		return err
	}
	f.partial = len(keys) > inboxMost
	for _, key := range slices.Backward(keys[:min(len(keys), inboxMost)]) {
		data, _, err := store.ReadAll(ctx, f.j.blob, key)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", key, err)
		}
		all, err := readOutcomes(key, data)
		if errors.Is(err, errDamaged) {
			continue
		}
		if err != nil {
			return err
		}
		for i := range all {
			if o := &all[i]; o.Prediction == f.id {
				key := predictionKey(o.Prediction, o.Row)
				f.outcomes[key] = append(f.outcomes[key], o.told())
			}
		}
	}
	return nil
}

// tell puts together what was found.
func (f *finding) tell(ctx context.Context) (*Prediction, error) {
	slices.SortFunc(f.rows, func(a, b payload.Row) int {
		return cmp.Or(cmp.Compare(a.Answered, b.Answered), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Row, b.Row))
	})
	p := &Prediction{ID: f.id, Partial: f.partial}
	var last *payload.Row
	for i := range f.rows {
		r := &f.rows[i]
		if last == nil || last.Answered != r.Answered || last.Model != r.Model || last.Version != r.Version {
			p.Answers = append(p.Answers, answeredOf(r))
		} else if last.Row == r.Row {
			continue // the segment is there twice
		}
		last = r
		a := &p.Answers[len(p.Answers)-1]
		if a.More = len(a.Rows) == rowsMost; a.More {
			continue
		}
		row, err := f.row(ctx, r)
		if err != nil {
			return nil, err
		}
		a.Rows = append(a.Rows, row)
	}
	return p, nil
}

func answeredOf(r *payload.Row) Answered {
	return Answered{
		Time: time.UnixMicro(r.Answered).UTC(), AsOf: time.UnixMicro(r.At).UTC(), Model: r.Model, Version: int(r.Version), Digest: r.Digest,
		Caller: r.Caller, Cache: r.Cache, Duration: r.Latency, Kind: r.Kind, Error: r.Error, Protocol: r.Protocol, Trace: r.Trace, Traced: r.Sampled, Weight: finite(r.Weight),
	}
}

// finite is a number that JSON has.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// row tells one row.
func (f *finding) row(ctx context.Context, r *payload.Row) (AnsweredRow, error) {
	a := AnsweredRow{Row: r.Row, Inputs: object(r.Inputs), Features: fetchedOf(r), Outputs: object(r.Outputs)}
	var own []told
	for _, o := range f.outcomes[predictionKey(r.ID, r.Row)] {
		if o.model == "" || o.model == r.Model {
			own = append(own, o)
		}
	}
	if len(own) == 0 {
		return a, nil
	}
	var how *judging
	m, err := f.j.catalog.Manifest(ctx, r.Model, int(r.Version))
	if err == nil {
		how, err = judgingOf(m)
	}
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid), fault.Is(err, fault.Internal): // as when it is counted
		how = &judging{}
	case err != nil:
		return a, err
	}
	truth, counts, _ := settle(&how.spec, own)
	for i := range own {
		o := &own[i]
		if i > 0 && own[i-1].id == o.id && own[i-1].created == o.created && own[i-1].value == o.value {
			a.Outcomes[len(a.Outcomes)-1].Joined = a.Outcomes[len(a.Outcomes)-1].Joined || o.commit > 0
			continue // it is in the bucket twice
		}
		a.Outcomes = append(a.Outcomes, Came{
			Value: object(o.value), Time: time.UnixMicro(o.time).UTC(), Taken: time.UnixMicro(o.created).UTC(), Counts: o == counts, Joined: o.commit > 0,
		})
	}
	if counts != nil {
		a.Verdict = verdictOf(how, r, truth)
	}
	return a, nil
}

// verdictOf judges an answer; nil where that can't be.
func verdictOf(how *judging, r *payload.Row, truth quality.Truth) *Verdict {
	var values parsed
	if values.read(r) != nil {
		return nil
	}
	answer, err := how.answer(values.outputs)
	if err != nil {
		return nil
	}
	state, err := quality.NewState(how.spec)
	if err != nil || state.Predicted(answer) != nil || state.Add(answer, truth, 0) != nil {
		return nil
	}
	v := &Verdict{Task: how.spec.Task}
	if how.spec.Task == quality.Regression {
		v.Error = new(answer.Number - truth.Number)
		return v
	}
	v.Correct = new(state.Moments("accuracy").Mean == 1)
	if loss := state.Moments("log_loss"); loss.N > 0 {
		v.LogLoss = &loss.Mean
	}
	return v
}

// object gives what the log has as JSON; nil where it has none.
func object(text string) json.RawMessage {
	if text == "" || !json.Valid([]byte(text)) {
		return nil
	}
	return json.RawMessage(text)
}

// fetchedOf gives the features of a row, in their order.
func fetchedOf(r *payload.Row) (all []Fetched) {
	var p parsed
	features, err := p.object(nil, []byte(r.Features))
	if err != nil {
		return nil
	}
	times, err := p.object(nil, []byte(r.FeatureTimes))
	if err != nil {
		times = nil
	}
	for _, m := range features {
		one := Fetched{Name: string(m.name), Value: object(string(m.value))}
		if text, known := times.get(one.Name); known {
			if us, err := strconv.ParseInt(string(text), 10, 64); err == nil && us > 0 && us < latest {
				one.Time = time.UnixMicro(us).UTC()
				one.Age = new(float64(r.At-us) / 1e6)
			}
		}
		all = append(all, one)
	}
	return all
}

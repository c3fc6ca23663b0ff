package feedback

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Wanted says which labelled rows are asked for.
type Wanted struct {
	Model string
	From  time.Time // of what the predictions are as of
	Until time.Time // zero: all there are
	// Known leaves out the outcomes that were not known by then: that had not come true, or had not been told. As a replay's predictions are as
	// of another time than that at which they are made, an outcome was told as long after what its prediction is as of
	// as it was taken in after the answer. Zero: all that there are count.
	Known time.Time
	Spec  quality.Spec // without a task it is that of most of the outcomes
}

// Labelled is one row of a prediction of which it is known what came true.
type Labelled struct {
	ID      string // of the prediction
	Row     int32
	Version int
	At      int64 // as of when it is, in microseconds since 1970
	Truth   quality.Truth
	inputs  members
}

// Input gives what the caller gave by a name, as JSON: of one element a number, text or boolean, of
// several an array, and an object where it was too large to be logged.
func (l *Labelled) Input(name string) (json []byte, ok bool) { return l.inputs.get(name) }

// Labels joins predictions with outcomes like Judge: from the bucket as it is, with memory that grows with the outcomes. Each row
// of a prediction is there once, however many versions were asked about it: as the first one did, which leaves out shadows, as
// they are asked behind the answer. It is for one goroutine.
type Labels struct {
	Spec     quality.Spec // with a task
	Newest   time.Time    // what the newest labelled row is as of; zero: there is none
	Outcomes Settlement   // what became of the outcomes; known once all Rows were given
	Damaged  []string     // objects of the bucket that can't be read, and are left out

	w     *Wanted
	judge *judge
	first map[predicted]*answered
	calls int32 // of Rows
	scrap []told
}

// answered tells the answers to the same question apart.
type answered struct {
	at      int64 // when it was answered, in microseconds since 1970
	version int32
	given   int32 // by which of the calls of Rows it was given last
}

// OpenLabels reads the outcomes of a model, and finds which predictions they are of. Those that are more than can be joined at once are Overloaded.
func OpenLabels(ctx context.Context, blob store.Blob, w *Wanted) (*Labels, error) {
	until := w.Until
	if until.IsZero() {
		until = time.UnixMicro(math.MaxInt64)
	}
	l := &Labels{Spec: w.Spec, w: w, first: map[predicted]*answered{}}
	l.judge = &judge{blob: blob, q: &Question{Model: w.Model, From: w.From, Until: until}, byID: map[predicted]*settled{}, out: &Judgement{}}
	for _, prefix := range [...]string{InboxPrefix, LogPrefix} { // the way that outcomes go, so that none is missed
		if err := l.judge.outcomes(ctx, prefix); err != nil {
			return nil, err
		}
	}
	if len(l.judge.entities) > 0 {
		if err := l.judge.predictions(ctx, l.judge.meet); err != nil {
			return nil, err
		}
	}
	if l.Spec.Task == "" {
		if err := l.judge.predictions(ctx, l.judge.kind); err != nil {
			return nil, err
		}
		l.Spec.Task = l.judge.kinds.task()
	}
	if err := l.Spec.Validate(); err != nil {
		return nil, err
	}
	newest := int64(0)
	err := l.judge.predictions(ctx, func(r *payload.Row) error {
		if _, counts, _ := settle(&l.Spec, l.known(r)); counts == nil {
			return nil
		}
		newest = max(newest, r.At)
		id, a := predicted{r.ID, r.Row}, &answered{at: r.Answered, version: r.Version}
		if other, known := l.first[id]; !known || a.compare(other) < 0 {
			l.first[id] = a
		}
		return nil
	})
	if newest > 0 {
		l.Newest = time.UnixMicro(newest).UTC()
	}
	l.Damaged = l.judge.out.Damaged
	return l, err
}

func (a *answered) compare(b *answered) int {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.version, b.version))
}

// known gives the outcomes of a prediction that were known by the time that is asked for.
func (l *Labels) known(r *payload.Row) []told {
	all := l.judge.outcomesOf(r)
	if l.w.Known.IsZero() || len(all) == 0 {
		return all
	}
	until := l.w.Known.UnixMicro()
	l.scrap = append(l.scrap[:0], all...)
	l.scrap = slices.DeleteFunc(l.scrap, func(o told) bool {
		return o.time > until || r.At+max(0, o.created-r.Answered) > until
	})
	return l.scrap
}

// Rows reads the log again and gives the labelled rows, in the order of the log; each is valid until the next one.
func (l *Labels) Rows(ctx context.Context) iter.Seq2[*Labelled, error] {
	return func(yield func(*Labelled, error) bool) {
		l.Outcomes = Settlement{}
		l.calls++
		var one Labelled
		err := l.judge.predictions(ctx, func(r *payload.Row) error {
			first := l.first[predicted{r.ID, r.Row}]
			if first == nil || first.at != r.Answered || first.version != r.Version || first.given == l.calls { // a segment may be there twice
				return nil
			}
			truth, counts, what := settle(&l.Spec, l.known(r))
			l.Outcomes.add(&what, 1)
			if counts == nil {
				return nil
			}
			first.given = l.calls
			one = Labelled{ID: r.ID, Row: r.Row, Version: int(r.Version), At: r.At, Truth: truth, inputs: l.judge.parsed.inputs}
			if !yield(&one, nil) {
				return errEnough
			}
			return nil
		})
		l.Damaged = l.judge.out.Damaged
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

var errEnough = errors.New("the caller has enough")

// QualityOf tells how answers of a version are judged: what its manifest says, with the task and the output that is the answer
// where it says nothing. That there is no way to judge them is Invalid.
func QualityOf(m *model.Manifest) (model.Quality, error) {
	j, err := judgingOf(m)
	if err != nil {
		return model.Quality{}, fault.Wrap(fault.Invalid, err, "%s: %s", versionID{m.Name, m.Version}, fault.Message(err))
	}
	q := m.Quality
	q.Spec, q.Output = j.spec, j.output
	return q, nil
}

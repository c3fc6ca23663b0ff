package feedback

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// say logs one prediction of one row, by itself.
func (w *world) say(id string, at time.Time, carrier string, p float64) {
	w.t.Helper()
	log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, w.blob, nil, w.tel)
	if err != nil {
		w.t.Fatal(err)
	}
	n := []int64{1}
	log.Add(&payload.Origin{Model: "m", Version: 1, Sample: 1}, &payload.Prediction{
		ID: id, Asked: time.Now().Add(w.ahead), At: at, Rows: 1,
		Given:   []tensor.Tensor{tensor.OfStrings("carrier", n, []string{carrier}), tensor.OfStrings("tail", n, []string{"N1"}), tensor.Of("distance", n, []float64{550})},
		Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{p}), tensor.Of("label", n, []int64{0})},
	})
	if err := log.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// hooked tells before it deletes, reads or lists.
type hooked struct {
	store.Blob
	onDelete, onGet, onList func(key string)
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if h.onDelete != nil {
		h.onDelete(key)
	}
	return h.Blob.Delete(ctx, key)
}

func (h *hooked) Get(ctx context.Context, key string, from, size int64) (io.ReadCloser, store.Object, error) {
	if h.onGet != nil {
		h.onGet(key)
	}
	return h.Blob.Get(ctx, key, from, size)
}

func (h *hooked) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	if h.onList != nil {
		h.onList(prefix)
	}
	return h.Blob.List(ctx, prefix, after)
}

func (w *world) judge(j *Journal, q Question) *Judgement {
	w.t.Helper()
	q.Model = "m"
	if q.Until.IsZero() {
		q.From, q.Until = monday.Truncate(time.Hour), monday.AddDate(0, 0, 30)
	}
	got, err := j.Judge(w.t.Context(), &q)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// What waits is what waited some commits ago, which somebody who is late still deletes.
func TestWaitingOutlivesStragglers(t *testing.T) {
	w := newWorld(t, 1)
	j := w.later(0)
	w.send(`{"prediction":"a","value":true}`)
	if _, err := j.step(t.Context()); err != nil { // {a} waits
		t.Fatal(err)
	}
	w.send(`{"prediction":"b","value":true}`)
	if _, err := j.step(t.Context()); err != nil { // {a, b} wait
		t.Fatal(err)
	}
	// A straggler begins to finish that, and is slow.
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := journalOf(t, &hooked{Blob: w.blob, onDelete: func(key string) {
		if strings.HasPrefix(key, InboxPrefix) {
			once.Do(func() { close(reached); <-goOn })
		}
	}})
	done := make(chan error, 1)
	go func() { _, err := slow.CatchUp(t.Context()); done <- err }()
	<-reached
	w.say("b", monday, "AA", .7)
	w.catchUp(j) // {a} waits again
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.say("a", monday, "AA", .7)
	if did := w.catchUp(w.later(0)); did.Joined != 1 {
		t.Errorf("got %+v", did)
	}
}

// The run that had an outcome is dropped before the one that has its prediction, which was merged meanwhile.
func TestCorrectionsOfForgottenOutcomes(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday, "AA", .7)
	w.catchUp(w.later(0))
	for i := range 5 {
		w.say(fmt.Sprint("x", i), monday, "AA", .7)
		w.catchUp(w.later(time.Hour))
	}
	// 6 runs of class 0; the outcome's run is of another class: many outcomes.
	var many []string
	for i := range 5 {
		many = append(many, fmt.Sprintf(`{"prediction":"x%d","value":true}`, i))
	}
	many = append(many, `{"prediction":"p","value":true}`)
	for i := range 5 {
		many = append(many, fmt.Sprintf(`{"prediction":"x%d","value":false}`, i))
	}
	w.send(many...)
	w.catchUp(w.later(2 * time.Hour))
	w.ahead = 20 * 24 * time.Hour
	for i := range 3 {
		w.say(fmt.Sprint("y", i), monday, "AA", .7)
		w.catchUp(w.later(20 * 24 * time.Hour))
	}
	w.ahead = 35 * 24 * time.Hour
	late := w.later(w.ahead)
	w.say("z", monday, "AA", .7)
	w.catchUp(late)
	w.send(`{"prediction":"p","value":false}`)
	w.catchUp(late)
	got := w.judge(late, Question{})
	if got.Outcomes.Joined != 6 || got.Versions[0].Report.Outcomes != 6 {
		t.Errorf("got %+v and %d outcomes, want 6", got.Outcomes, got.Versions[0].Report.Outcomes)
	}
}

// A value that is cut within a letter is the same one in the next commit.
func TestLongSliceValues(t *testing.T) {
	w := newWorld(t, 1)
	long := "x" + strings.Repeat("é", 200)
	for i := range 3 {
		w.say(fmt.Sprint("p", i), monday, long, .7)
		w.catchUp(w.later(0))
	}
	j := w.later(0)
	h, _, err := j.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := j.commit(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Slices["m:1"]["carrier"]; len(got) != 1 {
		t.Errorf("got %d values: %q", len(got), got)
	}
}

// Callers may say any time: the year 2538 lies among the hours of today, by the order of keys.
func TestFarFuture(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday.Add(26*time.Hour), "AA", .7)
	w.say("far", time.UnixMicro(10*monday.Add(-time.Hour).UnixMicro()), "AA", .7)
	j := w.later(0)
	w.catchUp(j)
	if got := w.judge(j, Question{From: monday.AddDate(0, -1, 0), Until: monday.AddDate(0, 1, 0)}); len(got.Versions) != 1 {
		t.Errorf("got %s", asJSON(t, got))
	}
}

// republish overwrites the manifest of version 1.
func (w *world) republish(change func(m *model.Manifest)) {
	w.t.Helper()
	for key, data := range objectsOf(w.t, w.blob, "models/") {
		if !strings.Contains(string(data), `"version":1,`) {
			continue
		}
		m := &model.Manifest{}
		if err := json.Unmarshal(data, m); err != nil {
			w.t.Fatal(err)
		}
		change(m)
		text := asJSON(w.t, m)
		if _, err := w.blob.Put(w.t.Context(), key, strings.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	w.t.Fatal("no manifest")
}

// A slice that the manifest does not name is judged as all else is.
func TestLogIsJudgedByTheManifest(t *testing.T) {
	w := newWorld(t, 1)
	w.republish(func(m *model.Manifest) { m.Quality.Spec = quality.Spec{Task: quality.Binary, Threshold: .8} })
	w.say("p", monday, "AA", .7)
	w.send(`{"prediction":"p","value":false}`)
	j := w.later(0)
	w.catchUp(j)
	byWindows, byLog := w.judge(j, Question{}), w.judge(j, Question{Slice: "tail"})
	if byLog.By != ByLog || byWindows.By != ByWindows {
		t.Fatal(byLog.By, byWindows.By)
	}
	if g, w := asJSON(t, byLog.Versions[0]), asJSON(t, byWindows.Versions[0]); g != w {
		t.Errorf("got\n%.400s\nwant\n%.400s", g, w)
	}
}

// A reference that comes within an hour knows only some of its rows by windows.
func TestReferenceAmongAnHour(t *testing.T) {
	w := newWorld(t, 1)
	j := w.later(0)
	for i := range 3 {
		w.say(fmt.Sprint("p", i), monday, "AA", .7)
	}
	w.catchUp(j)
	putReferenceOf(t, w, 1)
	for i := range 3 {
		w.say(fmt.Sprint("q", i), monday, "AA", .7)
	}
	w.catchUp(w.later(0))
	got, err := j.Moved(t.Context(), &Question{Model: "m", From: monday.Truncate(time.Hour), Until: monday.AddDate(0, 0, 1)}, drift.Default)
	if err != nil || got.Versions[0].Report.Rows != 6 {
		t.Errorf("got %s, %v, want 6 rows", asJSON(t, got), err)
	}
}

// A commit that somebody else replaces is not damaged.
func TestQuestionsAmongCommits(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday, "AA", .7)
	w.catchUp(w.later(0))
	n := 0
	j := journalOf(t, &hooked{Blob: w.blob, onGet: func(key string) {
		if strings.HasPrefix(key, CommitPrefix) && n == 0 {
			n++
			w.say("q", monday, "AA", .7)
			w.catchUp(w.later(0))
		}
	}})
	if _, err := j.Judge(t.Context(), &Question{Model: "m", From: monday, Until: monday.AddDate(0, 0, 1)}); err != nil {
		t.Error(err)
	}
	n = 0
	if _, err := j.Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Error(err)
	}
}

// Outcomes move from the inbox to the log while both are read.
func TestLogAmongCommits(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday, "AA", .7)
	w.send(`{"prediction":"p","value":false}`)
	n := 0
	blob := &hooked{Blob: w.blob}
	blob.onList = func(prefix string) {
		if n++; n == 2 {
			w.catchUp(w.later(0))
		}
	}
	got, err := Judge(t.Context(), blob, &Question{Model: "m", From: monday.Truncate(time.Hour), Until: monday.AddDate(0, 0, 1)})
	if err != nil || got.Outcomes.Joined != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A column that is named twice counts once.
func TestSliceTwice(t *testing.T) {
	w := newWorld(t, 1)
	w.republish(func(m *model.Manifest) { m.Quality.Slices = []string{"carrier", "carrier"} })
	w.say("p", monday, "AA", .7)
	j := w.later(0)
	w.catchUp(j)
	got := w.judge(j, Question{Slice: "carrier"})
	i := slices.IndexFunc(got.Versions, func(v Judged) bool { return v.Slice != "" })
	if got.Versions[i].Report.Predicted != 1 {
		t.Errorf("got %s", asJSON(t, got.Versions[i]))
	}
}

// Who is late with a commit of before deletes nothing of what was brought back to count anew.
func TestAnewAmongStragglers(t *testing.T) {
	w := newWorld(t, 1)
	j := w.later(0)
	w.say("p", monday, "AA", .7)
	w.send(`{"prediction":"p","value":true}`)
	if _, err := j.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := journalOf(t, &hooked{Blob: w.blob, onDelete: func(key string) {
		if strings.HasPrefix(key, InboxPrefix) {
			once.Do(func() { close(reached); <-goOn })
		}
	}})
	done := make(chan error, 1)
	go func() { _, err := slow.CatchUp(t.Context()); done <- err }()
	<-reached
	if err := w.blob.Delete(t.Context(), HeadKey); err != nil {
		t.Fatal(err)
	}
	again := w.later(0)
	if err := again.begin(t.Context()); err != nil { // and is slow then
		t.Fatal(err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.catchUp(again)
	if got := w.judge(again, Question{}); got.Outcomes.Joined != 1 {
		t.Errorf("got %+v", got.Outcomes)
	}
}

// Answers that are judged otherwise by now are not mixed with those before, nor taken out of what they are not in.
func TestSpecChanges(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday, "AA", .7)
	w.catchUp(w.later(0))
	w.republish(func(m *model.Manifest) { m.Quality.Spec = quality.Spec{Task: quality.Regression} })
	w.say("q", monday, "AA", .7)
	w.send(`{"prediction":"p","value":true}`, `{"prediction":"q","value":3}`)
	j := w.later(0)
	w.catchUp(j)
	if got := w.judge(j, Question{}).Versions[0].Report; got.Task != quality.Regression || got.Predicted != 1 || got.Outcomes != 1 {
		t.Errorf("got %s", asJSON(t, got))
	}
	w.send(`{"prediction":"p","value":false}`)
	w.catchUp(j)
	if got := w.judge(j, Question{}).Versions[0].Report; got.Task != quality.Regression || got.Predicted != 1 || got.Outcomes != 1 {
		t.Errorf("a correction: got %s", asJSON(t, got))
	}
}

// The clock of one instance is days ahead; what is answered later by the others' counts nevertheless.
func TestClockAhead(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday, "AA", .7)
	w.catchUp(w.later(48 * time.Hour))
	w.say("q", monday, "AA", .7)
	j := w.later(0)
	if did := w.catchUp(j); did.Predictions != 1 {
		t.Errorf("got %+v", did)
	}
	if got := w.judge(j, Question{}); got.Versions[0].Report.Predicted != 2 {
		t.Errorf("got %s", asJSON(t, got))
	}
}

// A weight that is no number is in the way of no commit.
func TestRowsThatNobodyWrote(t *testing.T) {
	w := newWorld(t, 1)
	s := newStep(w.later(0), &commit{}, 1, time.Now())
	for _, weight := range []float64{math.Inf(1), math.NaN(), -1, math.MaxFloat64} {
		if err := s.takeRow(t.Context(), &payload.Row{ID: "p", Model: "m", Version: 1, Weight: weight}); err != nil || len(s.traffic) > 0 {
			t.Errorf("%g: %d windows, %v", weight, len(s.traffic), err)
		}
	}
}

// Many outcomes of an entity that is often asked about find its last predictions, as looking at each pair does.
func TestEntities(t *testing.T) {
	w := newWorld(t, 1)
	s := newStep(w.later(0), &commit{}, 1, time.Now())
	s.all = true
	var all []Outcome
	for range 300 {
		tail := fmt.Sprintf(`{"tail":"N%d"}`, w.random.IntN(3))
		all = append(all, Outcome{Model: "m", Entity: tail, At: 1 + w.random.Int64N(100)})
		for range w.random.IntN(2) {
			k := entityKey("m", tail)
			s.abouts[k] = append(s.abouts[k], about{10 + w.random.Int64N(100), ledger.KeyOf(fmt.Sprint(w.random.Int()))})
		}
	}
	got, err := s.entities(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		var want about
		for _, a := range s.abouts[entityKey("m", all[i].Entity)] {
			if a.at <= all[i].At && (a.at > want.at || a.at == want.at && a.key.Compare(want.key) > 0) {
				want = a
			}
		}
		if key, ok := got[i]; ok != (want.at > 0) || key != want.key {
			t.Errorf("%+v: got %x, %t, want %+v", all[i], key, ok, want)
		}
	}
}

// An hour that can't be read says what to do.
func TestDamagedHours(t *testing.T) {
	w := newWorld(t, 1)
	w.say("p", monday, "AA", .7)
	j := w.later(0)
	w.catchUp(j)
	h, _, err := j.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := hourPrefix(h.Generation, "m") + micros(startOf(monday.UnixMicro(), wide))
	for _, text := range []string{"junk", `{"versions":{"1":{"rows":1,"spec":{"task":"binary"},"quality":{"":"AAAA"}}}}`} {
		if _, err := w.blob.Put(t.Context(), key, strings.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		_, err := j.Judge(t.Context(), &Question{Model: "m", From: monday.Truncate(time.Hour), Until: monday.AddDate(0, 0, 1)})
		if want := fmt.Sprintf("%q is damaged in the bucket; delete it, and its hour is left out, or %q, and everything that is in the logs counts anew", key, HeadKey); !fault.Is(err, fault.Internal) || fault.Message(err) != want {
			t.Errorf("%s: got %v", text, err)
		}
	}
	text := `{"versions":{"1":null}}`
	if _, err := w.blob.Put(t.Context(), key, strings.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	if got := w.judge(j, Question{}); len(got.Versions) != 0 {
		t.Errorf("a version that is null: got %+v", got)
	}
}

// Over windows of two versions false alarms are as rare as over those of one.
func TestAlarmsOfSeveralVersions(t *testing.T) {
	w := newWorld(t, 1)
	putReferenceOf(t, w, 1)
	putReferenceOf(t, w, 2)
	w.predict(300, 500)
	j := w.later(0)
	w.catchUp(j)
	got, err := j.Moved(t.Context(), &Question{Model: "m", From: monday.Truncate(time.Hour), Until: monday.AddDate(0, 0, 2), Every: 24 * time.Hour}, drift.Default)
	if err != nil || len(got.Windows) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	level := 0.0
	for _, window := range got.Windows {
		for _, v := range window.Versions {
			level += v.Report.Level
		}
	}
	if math.Abs(level-drift.Default.Alpha) > 1e-12 {
		t.Errorf("together the windows have a level of %g, want %g", level, drift.Default.Alpha)
	}
}

package feedback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// world is a bucket in which models predict and outcomes come.
type world struct {
	t      *testing.T
	blob   store.Blob
	tel    *telemetry.Telemetry
	random *rand.Rand
	n      int // predictions
	ids    []string
	ahead  time.Duration // of clocks that predictions are answered by
}

var carriers = []string{"AA", "B6", "DL", "UA"}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	tel, err := telemetry.Start(context.Background(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, blob: memory(t), tel: tel, random: rand.New(rand.NewPCG(seed, 7))}
	catalog := model.NewCatalog(w.blob, time.Minute, nil)
	for range 2 {
		_, err := catalog.Publish(t.Context(), model.Manifest{
			Name: "m", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1},
			Signature: engine.Signature{Outputs: []tensor.Spec{{Name: "probability", Type: tensor.FP64, Shape: []int64{-1, 1}}, {Name: "label", Type: tensor.Int64, Shape: []int64{-1}}}},
			Settings:  model.Settings{Quality: model.Quality{Entity: []string{"tail"}, Slices: []string{"carrier"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// predict logs a segment of predictions, of some rows each, as of some days.
func (w *world) predict(predictions int, distance float64) {
	w.t.Helper()
	log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, w.blob, nil, w.tel)
	if err != nil {
		w.t.Fatal(err)
	}
	for range predictions {
		rows := 1 + w.random.IntN(3)
		n := []int64{int64(rows)}
		var carrier, tail []string
		var p, distances []float64
		var label []int64
		for range rows {
			carrier = append(carrier, carriers[w.random.IntN(4)])
			tail = append(tail, fmt.Sprint("N", w.random.IntN(20)))
			distances = append(distances, distance+float64(w.random.IntN(100)))
			p, label = append(p, float64(w.random.IntN(1001))/1000), append(label, 0)
		}
		id := fmt.Sprint("p", w.n)
		at := monday.Add(time.Duration(w.n) * 7 * time.Minute)
		prediction := &payload.Prediction{
			ID: id, Asked: time.Now(), At: at, Rows: rows,
			Given:   []tensor.Tensor{tensor.OfStrings("carrier", n, carrier), tensor.OfStrings("tail", n, tail), tensor.Of("distance", n, distances)},
			Outputs: []tensor.Tensor{tensor.Of("probability", []int64{n[0], 1}, p), tensor.Of("label", n, label)},
		}
		if w.random.IntN(50) == 0 {
			prediction.Err = errors.New("failed")
		}
		log.Add(&payload.Origin{Model: "m", Version: 1 + w.random.IntN(2), Sample: 1}, prediction)
		w.ids = append(w.ids, id)
		w.n++
	}
	if err := log.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// outcome makes one, of a prediction that there is, was, will be, or never will be.
func (w *world) outcome() string {
	value := []string{"true", "false", "true", "false", `"maybe"`}[w.random.IntN(5)]
	row := w.random.IntN(3)
	switch w.random.IntN(10) {
	case 0:
		return fmt.Sprintf(`{"model":"m","entity":{"tail":"N%d"},"at":%q,"value":%s}`, w.random.IntN(22), monday.Add(time.Duration(w.random.IntN(100*max(w.n, 1)))*time.Minute/10).Format(time.RFC3339), value)
	case 1:
		return fmt.Sprintf(`{"prediction":"p%d","row":%d,"value":%s}`, w.n+w.random.IntN(30), row, value) // early, or never
	case 2:
		return fmt.Sprintf(`{"prediction":"p%d","row":%d,"model":"other","value":%s}`, w.random.IntN(max(w.n, 1)), row, value)
	case 3:
		return fmt.Sprintf(`{"prediction":"p%d","row":%d,"model":"m","value":%s,"id":"i%d"}`, w.random.IntN(max(w.n, 1)), row, value, w.random.IntN(9))
	default:
		return fmt.Sprintf(`{"prediction":"p%d","row":%d,"value":%s,"time":"2026-11-24T10:00:00Z"}`, w.random.IntN(max(w.n, 1)), row, value)
	}
}

// send has outcomes taken in.
func (w *world) send(outcomes ...string) {
	w.t.Helper()
	in, err := NewIntake(&IntakeConfig{Rows: 100_000, Bytes: 64 * env.Size(1<<20), Write: time.Minute, Ahead: 2000 * time.Hour, Request: 100_000}, w.blob, w.tel)
	if err != nil {
		w.t.Fatal(err)
	}
	b := in.batch()
	for i, o := range outcomes {
		if err := b.add(i, []byte(o), "", 0); err != nil {
			w.t.Fatal(err)
		}
	}
	if r, err := in.take(w.t.Context(), b); err != nil || r.Rejected > 0 {
		w.t.Fatalf("got %+v, %v", r, err)
	}
	if err := in.Close(); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Millisecond) // so that what is sent next was taken in later
}

// later makes a journal whose clock is ahead.
func (w *world) later(d time.Duration) *Journal {
	j := journalOf(w.t, w.blob)
	j.now = func() time.Time { return time.Now().Add(d) }
	return j
}

func (w *world) catchUp(j *Journal) Progress {
	w.t.Helper()
	did, err := j.CatchUp(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return did
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever comes in whatever order, is taken by whoever and is interrupted wherever: windows say what the logs say.
func TestWindowsSayWhatTheLogsSay(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			putReferenceOf(t, w, 1)
			for range 25 {
				if seed == 3 && w.random.IntN(8) == 0 { // everything counts anew
					if err := w.blob.Delete(t.Context(), HeadKey); err != nil {
						t.Fatal(err)
					}
				}
				w.predict(1+w.random.IntN(40), 500+float64(w.n/300*60))
				var outcomes []string
				for range w.random.IntN(60) {
					outcomes = append(outcomes, w.outcome())
				}
				w.send(outcomes...)
				var instances sync.WaitGroup
				for range w.random.IntN(3) {
					blob := storetest.NewMortal(w.blob, 1+w.random.IntN(40))
					instances.Go(func() {
						if _, err := journalOf(t, blob).CatchUp(t.Context()); err != nil && !errors.Is(err, storetest.ErrKilled) {
							t.Error(err)
						}
					})
				}
				instances.Wait()
			}
			w.catchUp(w.later(0))
			did := w.catchUp(w.later(2 * time.Hour))
			if did.Waiting != 0 || did.Unknown == 0 {
				t.Errorf("in the end: got %+v, want none that waits and some that are unknown", did)
			}
			j := w.later(2 * time.Hour)
			q := &Question{Model: "m", From: monday.Truncate(time.Hour), Until: monday.AddDate(0, 0, 30), Slice: "carrier"}
			got, err := j.Judge(t.Context(), q)
			if err != nil || got.By != ByWindows {
				t.Fatalf("got %+v, %v", got, err)
			}
			log := *q
			log.Spec, log.Output = quality.Spec{Task: quality.Binary}, "probability"
			want, err := Judge(t.Context(), w.blob, &log)
			if err != nil {
				t.Fatal(err)
			}
			for _, all := range [][]Judged{got.Versions, want.Versions} {
				for i := range all {
					if n := len(all[i].Examples); (n == 0) != (all[i].Report.Outcomes == 0) || n > examplesMost {
						t.Errorf("got %d examples of %d outcomes", n, all[i].Report.Outcomes)
					}
					all[i].Examples = nil // windows may name those that were corrected since
				}
			}
			if len(got.Versions) != 10 || asJSON(t, got.Versions) != asJSON(t, want.Versions) {
				for i := range min(len(got.Versions), len(want.Versions)) {
					if g, w := asJSON(t, got.Versions[i]), asJSON(t, want.Versions[i]); g != w {
						t.Errorf("%d: got\n%.300s\nwant\n%.300s", i, g, w)
					}
				}
			}
			got.Outcomes.Reason, want.Outcomes.Reason = "", ""
			if got.Outcomes != want.Outcomes || got.Outcomes.Joined < 100 || got.Outcomes.Corrected == 0 || got.Outcomes.Unsuited == 0 {
				t.Errorf("got %+v, want %+v", got.Outcomes, want.Outcomes)
			}

			q.Every = 24 * time.Hour
			if got, err = j.Judge(t.Context(), q); err != nil || len(got.Windows) < 3 {
				t.Fatalf("got %+v, %v", got, err)
			}
			sum := int64(0)
			for _, window := range got.Windows {
				for _, v := range window.Versions {
					if v.Slice == "" {
						sum += v.Report.Outcomes
					}
				}
			}
			if sum != got.Outcomes.Joined {
				t.Errorf("windows have %d outcomes, want %d", sum, got.Outcomes.Joined)
			}

			moved, err := j.Moved(t.Context(), q, drift.Default)
			if err != nil || moved.By != ByWindows || len(moved.Versions) != 2 || moved.Versions[1].Missing == "" {
				t.Fatalf("got %+v, %v", moved, err)
			}
			logged, err := Moved(t.Context(), w.blob, q, drift.Default)
			if err != nil || asJSON(t, moved.Versions) != asJSON(t, logged.Versions) || asJSON(t, moved.Windows) != asJSON(t, logged.Windows) {
				t.Errorf("%v: got\n%s\nwant\n%s", err, asJSON(t, moved), asJSON(t, logged))
			}
			first, last := moved.Windows[0].Versions[0].Report, moved.Windows[len(moved.Windows)-1].Versions[0].Report
			if first.Columns[0].PSI > 1 || last.Columns[0].PSI < 2 {
				t.Errorf("distances grow: got PSI %g at first, %g at last", first.Columns[0].PSI, last.Columns[0].PSI)
			}
		})
	}
}

// putReferenceOf says what distances a version learnt from.
func putReferenceOf(t *testing.T, w *world, version int) {
	t.Helper()
	b := drift.NewBuilder([]drift.Field{{Name: "distance"}})
	for i := range 2000 {
		if err := b.Add([]drift.Value{drift.Number(float64(500 + i%100))}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	text := asJSON(t, p)
	if _, err := w.blob.Put(t.Context(), referenceKey("m", version), strings.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
}

// Outcomes of predictions that never come wait, and are then kept with the reason, so that they can be sent again.
func TestUnknownOutcomes(t *testing.T) {
	w := newWorld(t, 1)
	w.predict(10, 500)
	w.send(`{"prediction":"p1","value":true}`, `{"prediction":"nobody","value":true,"time":"2026-11-24T10:00:00Z"}`, `{"prediction":"p1","model":"other","value":false}`,
		`{"model":"m","entity":{"tail":"nobody"},"at":"2026-11-24T10:00:00Z","value":"x"}`)
	if did := w.catchUp(w.later(0)); did.Joined != 1 || did.Waiting != 3 || did.Unknown != 0 {
		t.Fatalf("got %+v", did)
	}
	if did := w.catchUp(w.later(59 * time.Minute)); did.Commits != 0 || did.Waiting != 3 {
		t.Errorf("too early: got %+v", did)
	}
	if did := w.catchUp(w.later(61 * time.Minute)); did.Commits != 1 || did.Unknown != 3 || did.Waiting != 0 {
		t.Errorf("got %+v", did)
	}
	var lines []string
	for _, data := range objectsOf(t, w.blob, RejectedPrefix) {
		lines = append(lines, strings.Split(strings.TrimSpace(string(data)), "\n")...)
	}
	slices.Sort(lines)
	if len(lines) != 3 || !strings.Contains(lines[0]+lines[1]+lines[2], `"outcome":{"prediction":"nobody","value":true,"time":"2026-11-24T10:00:00Z"}`) {
		t.Errorf("got %q", lines)
	}
	for _, line := range lines {
		var rejected struct {
			Reason  Reason
			Outcome json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &rejected); err != nil || rejected.Reason != Unknown {
			t.Errorf("%s: %v", line, err)
		}
		w.send(string(rejected.Outcome)) // it can be sent again
	}
	if did := w.catchUp(w.later(0)); did.Outcomes != 3 {
		t.Errorf("got %+v", did)
	}
}

// However many outcomes wait for predictions that never come, those that came early are joined when theirs come; each of the others waits as long as it should.
func TestManyUnknownOutcomes(t *testing.T) {
	w := newWorld(t, 8)
	w.send(`{"prediction":"p0","value":true}`, `{"prediction":"p1","value":true}`)
	const n = 300_000
	for first := 0; first < n; first += 50_000 {
		var outcomes []string
		for i := first; i < first+50_000; i++ {
			outcomes = append(outcomes, fmt.Sprintf(`{"prediction":"unknown-%d","value":true}`, i))
		}
		w.send(outcomes...)
	}
	if did := w.catchUp(w.later(0)); did.Waiting != n+2 || did.Unknown != 0 {
		t.Fatalf("got %+v", did)
	}
	w.say("p0", monday, "AA", .7)
	w.say("p1", monday, "AA", .7)
	w.send(`{"prediction":"p1","value":false}`)
	if did := w.catchUp(w.later(0)); did.Joined != 3 || did.Waiting != n {
		t.Errorf("got %+v", did)
	}
	if did := w.catchUp(w.later(61 * time.Minute)); did.Unknown != n || did.Waiting != 0 || did.Joined != 0 {
		t.Errorf("got %+v", did)
	}
	if left := objectsOf(t, w.blob, WaitingPrefix); len(left) != 0 {
		// What the last commit lets go of is deleted by the next one.
		w.predict(1, 500)
		w.catchUp(w.later(61 * time.Minute))
		if left = objectsOf(t, w.blob, WaitingPrefix); len(left) != 0 {
			t.Errorf("%d objects of waiting outcomes are left", len(left))
		}
	}
}

// What is too old does not count any more, and takes no room.
func TestLedgerForgets(t *testing.T) {
	w := newWorld(t, 2)
	w.predict(10, 500)
	w.catchUp(w.later(0))
	if n := len(objectsOf(t, w.blob, LedgerPrefix)); n != 1 {
		t.Errorf("got %d runs", n)
	}
	w.send(`{"prediction":"p1","value":true}`)
	late := w.later(721 * time.Hour)
	w.predict(1, 500)
	w.catchUp(late)
	if n := len(objectsOf(t, w.blob, LedgerPrefix)); n != 1 {
		t.Errorf("got %d runs, want the newest only", n)
	}
	w.send(`{"prediction":"p2","value":true}`)
	if did := w.catchUp(late); did.Joined != 0 || did.Unknown != 1 {
		t.Errorf("got %+v", did)
	}
	if got, err := late.Judge(t.Context(), &Question{Model: "m", From: monday.AddDate(1, 0, 0), Until: monday.AddDate(1, 0, 1)}); err != nil || len(got.Versions) != 0 || got.Elsewhere == nil || !got.Elsewhere.From.Equal(monday.Truncate(time.Hour)) {
		t.Errorf("a year later: got %+v, %v", got, err)
	}
	if n, err := late.Sweep(t.Context(), late.now().Add(-time.Hour)); n == 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if left := objectsOf(t, w.blob, WindowPrefix); len(left) != 0 {
		t.Errorf("%d hours are left", len(left))
	}
	if did := w.catchUp(late); did.Commits != 0 {
		t.Errorf("after the sweep: got %+v", did)
	}
}

// Many commits leave few runs, and what is in them is still found.
func TestRunsAreMerged(t *testing.T) {
	w := newWorld(t, 3)
	j := w.later(0)
	for range 80 {
		w.predict(20, 500)
		w.catchUp(j)
	}
	if n := len(objectsOf(t, w.blob, LedgerPrefix)); n > 20 {
		t.Errorf("80 commits left %d runs", n)
	}
	var outcomes []string
	for _, id := range w.ids {
		outcomes = append(outcomes, fmt.Sprintf(`{"prediction":%q,"value":true}`, id))
	}
	w.send(outcomes...)
	did := w.catchUp(j)
	failed := len(w.ids) - did.Joined // those that failed have no answer
	if did.Joined < 1500 || did.Waiting != failed {
		t.Errorf("got %+v", did)
	}
}

// A run of the ledger that is damaged is said, with what to do; and doing that helps.
func TestDamagedLedger(t *testing.T) {
	w := newWorld(t, 5)
	w.predict(10, 500)
	w.catchUp(w.later(0))
	for key := range objectsOf(t, w.blob, LedgerPrefix) {
		if _, err := w.blob.Put(t.Context(), key, strings.NewReader("junk"), 4, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	w.send(`{"prediction":"p1","value":true}`)
	if _, err := w.later(0).CatchUp(t.Context()); !strings.Contains(fault.Message(err), `delete "feedback/head", and everything`) {
		t.Fatalf("got %v", err)
	}
	if err := w.blob.Delete(t.Context(), HeadKey); err != nil {
		t.Fatal(err)
	}
	if did := w.catchUp(w.later(0)); did.Joined != 1 {
		t.Errorf("got %+v", did)
	}
}

// A bucket that does not answer is no reason to delete anything.
func TestAwayIsNotDamaged(t *testing.T) {
	w := newWorld(t, 6)
	w.predict(10, 500)
	w.catchUp(w.later(0))
	for _, prefix := range []string{HeadKey, CommitPrefix, WaitingPrefix, LedgerPrefix} {
		w.send(`{"prediction":"p1","value":true}`, `{"prediction":"nobody","value":true}`)
		j := journalOf(t, &away{w.blob, prefix})
		_, err := j.CatchUp(t.Context())
		if prefix == WaitingPrefix { // the first commit has none
			w.catchUp(w.later(0))
			w.predict(1, 500) // which some may wait for
			_, err = j.CatchUp(t.Context())
		}
		if !fault.Is(err, fault.Unavailable) || strings.Contains(fault.Message(err), "delete") {
			t.Errorf("%s: got %v", prefix, err)
		}
	}
}

// away is a bucket that does not give what lies below a prefix.
type away struct {
	store.Blob
	prefix string
}

func (a *away) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	if strings.HasPrefix(key, a.prefix) {
		return nil, store.Object{}, fault.New(fault.Unavailable, "the bucket does not answer")
	}
	return a.Blob.Get(ctx, key, offset, length)
}

// What is damaged costs nobody else, and is kept.
func TestJournalOutlivesDamage(t *testing.T) {
	w := newWorld(t, 4)
	w.predict(10, 500)
	w.send(`{"prediction":"p1","value":true}`)
	poison := func(key string) {
		t.Helper()
		if _, err := w.blob.Put(t.Context(), key, strings.NewReader("junk"), 4, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	inbox := "0000000000000001-0123456789abcdef0123456789abcdef.parquet"
	poison(InboxPrefix + inbox)
	poison(payload.Inbox + inbox)
	j := w.later(0)
	if did := w.catchUp(j); did.Joined != 1 || len(did.Damaged) != 2 {
		t.Errorf("got %+v", did)
	}
	if kept := objectsOf(t, w.blob, DamagedPrefix); !bytes.Equal(kept[DamagedPrefix+inbox], []byte("junk")) {
		t.Errorf("got %q", kept)
	}
	if did := w.catchUp(j); did.Commits != 0 {
		t.Errorf("again: got %+v", did)
	}
	h, _, err := j.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	poison(hourPrefix(h.Generation, "m") + micros(startOf(monday.UnixMicro(), wide)))
	w.predict(5, 500) // of the same hours, or the next one
	w.send(`{"prediction":"p2","value":true}`)
	w.catchUp(j)
	if got, err := j.Judge(t.Context(), &Question{Model: "m", From: monday, Until: monday.AddDate(0, 0, 1)}); err != nil || got.Outcomes.Joined != 1 || got.By != ByWindows {
		t.Errorf("got %+v, %v", got, err) // the damaged hour has begun anew
	}

	// Without its head the journal counts everything anew.
	if err := w.blob.Delete(t.Context(), HeadKey); err != nil {
		t.Fatal(err)
	}
	again := w.later(0)
	w.catchUp(again)
	if got, err := again.Judge(t.Context(), &Question{Model: "m", From: monday, Until: monday.AddDate(0, 0, 1)}); err != nil || got.Outcomes.Joined != 2 || got.By != ByWindows {
		t.Errorf("anew: got %+v, %v", got, err)
	}
	if n, err := w.later(25*time.Hour).Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil || n == 0 {
		t.Errorf("the windows of before are swept: got %d, %v", n, err)
	}
	if got, err := again.Judge(t.Context(), &Question{Model: "m", From: monday, Until: monday.AddDate(0, 0, 1)}); err != nil || got.Outcomes.Joined != 2 {
		t.Errorf("after the sweep: got %+v, %v", got, err)
	}
	poison(HeadKey)
	if _, err := w.later(0).CatchUp(t.Context()); err == nil || !strings.Contains(fault.Message(err), `feedback/head is damaged; delete "feedback/head"`) {
		t.Errorf("got %v", err)
	}
}

// FuzzRecords reads any bytes as records of the ledger.
func FuzzRecords(f *testing.F) {
	p := &prediction{commit: 3, model: "m", version: 2, at: 5, spec: quality.Spec{Task: quality.Multiclass}, slices: []string{"a=b"}, answer: quality.Answer{Class: "x", Number: .5}}
	f.Add(p.append(nil))
	f.Add((&prediction{model: "m", why: "so"}).append(nil))
	f.Add((&told{id: 1, created: 2, time: 3, value: "true", model: "m", commit: 4}).append(nil))
	f.Add((&about{at: 7}).append(nil))
	f.Add((&Outcome{Prediction: "p", Row: 3, Value: "true", Time: 1, Created: 2, ID: 4}).waits(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		if p, err := readPrediction(data); err == nil {
			if again, err := readPrediction(p.append(nil)); err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", p) {
				t.Errorf("got %+v, %v, want %+v", again, err, p)
			}
		}
		if o, err := readTold(data); err == nil {
			if again, err := readTold(o.append(nil)); err != nil || again != o {
				t.Errorf("got %+v, %v, want %+v", again, err, o)
			}
		}
		if o, err := readWaiting(data); err == nil {
			if again, err := readWaiting(o.waits(nil)); err != nil || again != o {
				t.Errorf("got %+v, %v, want %+v", again, err, o)
			}
		}
		if a, err := readAbout(data); err == nil {
			if again, err := readAbout(a.append(nil)); err != nil || again != a {
				t.Errorf("got %+v, %v, want %+v", again, err, a)
			}
		}
	})
}

package feedback

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

var monday = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

func memory(t testing.TB) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// logPredictions writes segments of predictions, the i-th answered step after the one before. Every tenth fails.
func logPredictions(t testing.TB, b store.Blob, from time.Time, segments, each int, step time.Duration) {
	t.Helper()
	tel, err := telemetry.Start(context.Background(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range segments {
		l, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, b, nil, tel)
		if err != nil {
			t.Fatal(err)
		}
		for range each {
			p := &payload.Prediction{ID: fmt.Sprint(n), Asked: from.Add(time.Duration(n) * step), Latency: time.Duration(1+n%10) * time.Millisecond, Rows: 2}
			if p.At = p.Asked; n%10 == 9 {
				p.Err, p.Rows = fault.New(fault.Invalid, "wrong"), 1
			}
			l.Add(&payload.Origin{Model: "m", Version: 1 + n%2, Sample: 1}, p)
			n++
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// counted tells what windows have of a span.
func counted(t testing.TB, b store.Blob, from, until time.Time) string {
	t.Helper()
	w, err := journalOf(t, b).span(t.Context(), from, until)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(w.Models) // maps in the order of their keys
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whoever adds segments, how many at once, and however often they are killed: each prediction counts once.
func TestWindowsCountOnce(t *testing.T) {
	b := memory(t)
	logPredictions(t, b, monday, 12, 300, 5*time.Second) // five hours
	alone := memory(t)
	copyAll(t, b, alone)
	if did, err := journalOf(t, alone).CatchUp(t.Context()); did.Segments != 12 || did.Damaged != nil || err != nil {
		t.Fatalf("got %+v, %v", did, err)
	}
	if did, err := journalOf(t, alone).CatchUp(t.Context()); did.Commits != 0 || err != nil {
		t.Errorf("again: got %+v, %v", did, err)
	}

	random := rand.New(rand.NewPCG(1, 2))
	for done := 0; done < 3; {
		var instances sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			blob := storetest.NewMortal(b, 1+random.IntN(12))
			if done > 0 {
				blob = storetest.NewMortal(b, math.MaxInt)
			}
			instances.Go(func() { _, errs[i] = journalOf(t, blob).CatchUp(t.Context()) })
		}
		instances.Wait()
		for _, err := range errs {
			if err == nil {
				done++
			} else if !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
		}
	}
	for _, span := range []time.Duration{time.Hour, 5 * time.Hour, 24 * time.Hour} {
		got, want := counted(t, b, monday, monday.Add(span)), counted(t, alone, monday, monday.Add(span))
		if got != want {
			t.Errorf("%s: got\n%s, want\n%s", span, got, want)
		}
	}
	w, err := journalOf(t, b).span(t.Context(), monday, monday.Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	one, two := w.Models["m"]["1"], w.Models["m"]["2"]
	if one.Kept != 1800 || two.Kept != 1800 || one.Failed != 0 || two.Failed != 360 || two.Made != 1800 {
		t.Errorf("got %+v and %+v, want 1800 predictions each, of which 0 and 360 failed", one, two)
	}
	if _, err := journalOf(t, b).span(t.Context(), monday, monday.AddDate(0, 2, 0)); !fault.Is(err, fault.Invalid) {
		t.Errorf("two months: got %v", err)
	}
}

func copyAll(t *testing.T, from, to store.Blob) {
	t.Helper()
	for o, err := range from.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		data, _, err := store.ReadAll(t.Context(), from, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Put(t.Context(), o.Key, strings.NewReader(string(data)), int64(len(data)), store.IfAbsent()); err != nil {
			t.Fatal(err)
		}
	}
}

// A poisoned segment costs no other.
func TestWindowsLeaveOutWhatIsDamaged(t *testing.T) {
	b := memory(t)
	logPredictions(t, b, monday, 3, 10, time.Second)
	for _, name := range []string{"nonsense", fmt.Sprintf("%016d-0123456789abcdef0123456789abcdef.parquet", monday.UnixMicro()+5)} {
		if _, err := b.Put(t.Context(), payload.Inbox+name, strings.NewReader("junk"), 4, store.IfAbsent()); err != nil {
			t.Fatal(err)
		}
	}
	did, err := journalOf(t, b).CatchUp(t.Context())
	if did.Segments != 4 || len(did.Damaged) != 1 || did.Predictions != 3*9*2 || err != nil {
		t.Errorf("got %+v, %v", did, err)
	}
}

// What rules ask is answered as of the span that they name.
func TestWhatRulesAsk(t *testing.T) {
	b := memory(t)
	journal := journalOf(t, b)
	logPredictions(t, b, monday, 1, 1000, time.Second)
	if _, err := journal.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), fmt.Sprintf("%s%016d-a.parquet", InboxPrefix, monday.Add(time.Minute).UnixMicro()), strings.NewReader(""), 0, store.IfAbsent()); err != nil {
		t.Fatal(err)
	}
	until := monday.Add(20 * time.Minute)
	ask := func(metric, version string) ([]alert.Sample, error) {
		w := &watcher{journal, map[[2]int64]*window{}}
		return w.Samples(t.Context(), &alert.Query{Model: "*", Version: version, Metric: metric, From: monday, Until: until})
	}
	near := func(got, want, off float64) bool { return math.Abs(got-want) <= off*want }
	for _, c := range []struct {
		metric string
		one    float64
		two    float64
	}{{"error_rate", 0, .2}, {"latency_p50", .005, .004}, {"latency_p99", .009, .008}, {"freshness_prediction", 202, 201}} {
		got, err := ask(c.metric, "")
		if err != nil || len(got) != 2 || !near(got[0].Value, c.one, .03) || !near(got[1].Value, c.two, .03) || got[0].Version != "1" || got[1].Model != "m" || got[0].Count != 500 {
			t.Errorf("%s: got %+v, %v, want %g and %g", c.metric, got, err, c.one, c.two)
		}
	}
	// statsmodels 0.14: proportion_confint(100, 500, method="wilson") is 0.16737, 0.23720.
	if got, _ := ask("error_rate", ""); !near(got[1].Low, .16737, .001) || !near(got[1].High, .23720, .001) {
		t.Errorf("got %+v", got)
	}
	if got, err := ask("freshness_outcome", ""); err != nil || len(got) != 1 || !near(got[0].Value, 19*60, .001) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, metric := range []string{"nonsense", "drift_of"} {
		if _, err := ask(metric, ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v", metric, err)
		}
	}
	w := &watcher{journal, map[[2]int64]*window{}}
	if _, err := w.Samples(t.Context(), &alert.Query{Model: "m", Version: "champion", Metric: "error_rate", From: monday, Until: until}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a model that is not there: got %v", err)
	}
}

// heard remembers events.
type heard struct {
	mu     sync.Mutex
	events []event.Event
}

func (s *heard) Send(_ context.Context, events ...event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, events...)
	return nil
}

// From what was predicted to an alert: rules are evaluated on what the log tells.
func TestAlertOfErrors(t *testing.T) {
	b, sink := memory(t), &heard{}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	logPredictions(t, b, time.Now().Add(-5*time.Minute), 2, 100, time.Second)
	m, err := alert.New(&alert.Config{Every: time.Nanosecond}, alert.Deps{Blob: b, Sink: sink}, tel)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := alert.Parse("rules.yaml", []byte(`rules: [{name: errors, model: "*", metric: error_rate, window: 10m, above: 0.15, min: 50, confident: false}]`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Apply(t.Context(), rules, "test", false); err != nil {
		t.Fatal(err)
	}
	journal := journalOf(t, b)
	for range 3 {
		if _, err := journal.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Tick(t.Context(), &watcher{journal, map[[2]int64]*window{}}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(sink.events) != 1 || sink.events[0].Type() != event.AlertRaised.Name {
		t.Fatalf("got %v, want one alert", sink.events)
	}
	raised, err := event.AlertRaised.Decode(&sink.events[0])
	if err != nil || raised.Model != "m" || raised.Version != "2" || raised.Value != .2 {
		t.Errorf("got %+v, %v: version 2 fails one time in five", raised, err)
	}
}

// From outcomes and drift to alerts: rules name metrics of quality, of slices, estimates, and distances.
func TestRulesOnQualityAndDrift(t *testing.T) {
	w := newWorld(t, 9)
	putReferenceOf(t, w, 1)
	w.predict(400, 700)
	var outcomes []string
	for _, id := range w.ids {
		outcomes = append(outcomes, fmt.Sprintf(`{"prediction":%q,"value":%t}`, id, w.random.IntN(2) == 0)) // of the first row
	}
	w.send(outcomes...)
	j := w.later(0)
	w.catchUp(j)
	until := monday.AddDate(0, 0, 4)
	judged, err := j.Judge(t.Context(), &Question{Model: "m", From: monday, Until: until, Slice: "carrier"})
	if err != nil || len(judged.Versions) != 10 {
		t.Fatalf("got %+v, %v", judged, err)
	}
	ask := func(q alert.Query) ([]alert.Sample, error) {
		q.From, q.Until = monday, until
		return (&watcher{j, map[[2]int64]*window{}}).Samples(t.Context(), &q)
	}
	report := func(version int, slice string) *quality.Report {
		for _, v := range judged.Versions {
			if v.Version == version && v.Slice == slice {
				return v.Report
			}
		}
		t.Fatalf("there is no %d %s", version, slice)
		return nil
	}
	for _, c := range []struct {
		query alert.Query
		want  quality.Metric
	}{
		{alert.Query{Model: "m", Version: "2", Metric: "auc"}, report(2, "").Metrics["auc"]},
		{alert.Query{Model: "*", Version: "2", Metric: "coverage"}, report(2, "").Metrics["coverage"]},
		{alert.Query{Model: "m", Version: "1", Metric: "log_loss", Slice: map[string]string{"carrier": "B6"}}, report(1, "carrier=B6").Metrics["log_loss"]},
	} {
		got, err := ask(c.query)
		if err != nil || len(got) != 1 || got[0].Value != c.want.Value || got[0].Low != c.want.Interval.Low || got[0].Count != c.want.N || got[0].Model != "m" || got[0].Version != c.query.Version {
			t.Errorf("%+v: got %+v, %v, want %+v", c.query, got, err, c.want)
		}
	}
	if got, err := ask(alert.Query{Model: "m", Metric: "accuracy"}); err != nil || len(got) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := ask(alert.Query{Model: "m", Version: "1", Metric: "estimated_accuracy"}); err != nil || len(got) != 1 || got[0].Value != judged.Versions[0].Estimate.Metrics["accuracy"].Value {
		t.Errorf("got %+v, %v", got, err)
	}
	moved, err := j.Moved(t.Context(), &Question{Model: "m", From: monday, Until: until}, drift.Default)
	if err != nil {
		t.Fatal(err)
	}
	column := moved.Versions[0].Report.Columns[0]
	for metric, want := range map[string]float64{"drift": 1, "drift_share": 1, "psi": column.PSI, "js": column.JS, "ks": column.Tests[0].Statistic} {
		q := alert.Query{Model: "m", Metric: metric}
		if metric == "psi" || metric == "js" || metric == "ks" {
			q.Column = "distance"
		}
		if got, err := ask(q); err != nil || len(got) != 1 || got[0].Value != want || got[0].Version != "1" || got[0].Count < 300 || want == 0 {
			t.Errorf("%s: got %+v, %v, want %g", metric, got, err, want)
		}
	}
	for _, c := range []struct {
		query alert.Query
		want  string
	}{
		{alert.Query{Model: "m", Metric: "auc", Slice: map[string]string{"tail": "N1"}}, "answers of m are not told apart by tail; name it in quality.slices when a version is pushed"},
		{alert.Query{Model: "m", Metric: "auc", Slice: map[string]string{"tail": "N1", "carrier": "AA"}}, "quality is told by one column of a slice, not by 2 together"},
		{alert.Query{Model: "m", Metric: "psi", Column: "nonsense"}, `the training reference of m:1 has no column "nonsense"`},
		{alert.Query{Model: "m", Metric: "drift", Slice: map[string]string{"carrier": "AA"}}, "drift is not told by slices"},
		{alert.Query{Model: "m", Metric: "nonsense"}, "nonsense is not measured here"},
	} {
		if _, err := ask(c.query); !fault.Is(err, fault.Invalid) || fault.Message(err) != c.want {
			t.Errorf("%+v: got %v, want %s", c.query, err, c.want)
		}
	}
	if got, err := ask(alert.Query{Model: "nobody", Metric: "auc"}); err != nil || len(got) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

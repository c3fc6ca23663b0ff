package feedback

import (
	"fmt"
	"log/slog"
	"math"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// scraped gives the values of metrics whose names begin so.
func (w *world) scraped(prefix string) map[string]float64 {
	w.t.Helper()
	r := httptest.NewRecorder()
	w.tel.Metrics().ServeHTTP(r, httptest.NewRequestWithContext(w.t.Context(), "GET", "/metrics", nil))
	values := map[string]float64{}
	for line := range strings.Lines(r.Body.String()) {
		if at := strings.LastIndexByte(line, ' '); strings.HasPrefix(line, prefix) {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			values[line[:at]] = v
		}
	}
	return values
}

// Gauges say what is answered to those who ask about the same day.
func TestGaugesOfQualityAndDrift(t *testing.T) {
	w := newWorld(t, 9)
	putReferenceOf(t, w, 1)
	w.predict(400, 700)
	var outcomes []string
	for _, id := range w.ids {
		outcomes = append(outcomes, fmt.Sprintf(`{"prediction":%q,"value":%t}`, id, w.random.IntN(2) == 0))
	}
	w.send(outcomes...)
	j := w.later(0)
	did := w.catchUp(j)
	g, err := newGauges(j, w.tel)
	if err != nil {
		t.Fatal(err)
	}
	until := monday.AddDate(0, 0, 1)
	g.tick(t.Context(), &did, until)
	q := &Question{Model: "m", From: until.Add(-gaugedSpan), Until: until}
	judged, err := j.Judge(t.Context(), q)
	if err != nil || len(judged.Versions) != 2 {
		t.Fatalf("got %+v, %v", judged, err)
	}
	told := w.scraped("pilotlight_quality")
	for _, v := range judged.Versions {
		of := fmt.Sprintf(`model="m",version="%d"}`, v.Version)
		if got := told["pilotlight_quality_outcomes{"+of]; v.Report.Outcomes < 50 || got != float64(v.Report.Outcomes) {
			t.Errorf("version %d: got %g outcomes, want %d", v.Version, got, v.Report.Outcomes)
		}
		for metric, m := range v.Report.Metrics {
			if got, ok := told[fmt.Sprintf(`pilotlight_quality{metric=%q,`, metric)+of]; !ok || math.Abs(got-m.Value) > 1e-9 {
				t.Errorf("%s of version %d: got %g, want %g", metric, v.Version, got, m.Value)
			}
		}
	}
	moved, err := j.Moved(t.Context(), q, drift.Default)
	if err != nil {
		t.Fatal(err)
	}
	drifted, most := 0, 0.0
	for _, c := range moved.Versions[0].Report.Columns {
		if c.Verdict == drift.Drifted {
			drifted++
		}
		most = max(most, c.PSI)
	}
	for metric, want := range map[string]float64{"drifted": float64(drifted), "psi_most": most} {
		if got := w.scraped("pilotlight_drift")[fmt.Sprintf(`pilotlight_drift{metric=%q,model="m",version="1"}`, metric)]; want == 0 || math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: got %g, want %g", metric, got, want)
		}
	}

	// Nothing came: what is known is not computed again; what is old is not told.
	before := g.known.Load()
	g.tick(t.Context(), &Progress{}, until)
	if g.known.Load() != before {
		t.Error("it was computed though nothing came")
	}
	j.now = func() time.Time { return time.Now().Add(2 * gaugedFor) }
	if told := w.scraped("pilotlight_quality"); len(told) != 0 {
		t.Errorf("long afterwards %v is told", told)
	}
	g.tick(t.Context(), &Progress{}, until)
	if g.known.Load() == before {
		t.Error("it was not computed anew, long afterwards")
	}
}

func TestGaugesOfRollouts(t *testing.T) {
	w := newWorld(t, 11)
	catalog := model.NewCatalog(w.blob, time.Minute, nil)
	if _, err := catalog.Move(t.Context(), "m", "champion", model.Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	m := rollout.New(w.blob, catalog, nil, primary, slog.New(slog.DiscardHandler))
	if err := m.Measure(w.tel); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), rollout.Plan{Model: "m", Version: 2, Shares: []float64{.3}, Hold: yamlwire.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	share := func(version int) float64 {
		return w.scraped("pilotlight_rollout_share")[fmt.Sprintf(`pilotlight_rollout_share{alias="champion",model="m",version="%d"}`, version)]
	}
	if err := m.Tick(t.Context(), w.later(0)); err != nil {
		t.Fatal(err)
	}
	if share(2) != .3 || share(1) != .7 {
		t.Errorf("got %g and %g, want 0.3 and 0.7", share(2), share(1))
	}
	if _, err := m.Cancel(t.Context(), "m", "champion", "somebody"); err != nil {
		t.Fatal(err)
	}
	if err := m.Tick(t.Context(), w.later(0)); err != nil {
		t.Fatal(err)
	}
	if told := w.scraped("pilotlight_rollout_share"); len(told) != 0 {
		t.Errorf("once it is over %v is told", told)
	}
}

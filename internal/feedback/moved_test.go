package feedback

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
)

// do sends a request, and gives the status and the body.
func (l *loop) do(method, path string, body []byte) (int, string) {
	l.t.Helper()
	r, err := http.NewRequestWithContext(l.t.Context(), method, l.url+path, bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// What moved is found and named; what did not is steady.
func TestDriftOfPredictions(t *testing.T) {
	l := newLoop(t)
	random := rand.New(rand.NewPCG(1, 1))
	b := drift.NewBuilder([]drift.Field{{Name: "carrier", Text: true}, {Name: "gate"}, {Name: "probability"}, {Name: "elsewhere"}})
	for i := range 5000 {
		row := []drift.Value{drift.Text([]string{"AA", "B6"}[i%2]), drift.Number(float64(i % 5)), drift.Number(random.Float64() / 2), drift.Number(1)}
		if err := b.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	p, err := b.Profile()
	if err != nil {
		t.Fatal(err)
	}
	reference, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := l.do("PUT", "/admin/v1/drift/m/1/reference", reference); status != http.StatusOK || !strings.Contains(body, `"columns":4`) {
		t.Fatalf("got %d %s", status, body)
	}
	if status, body := l.do("GET", "/admin/v1/drift/m/1/reference", nil); status != http.StatusOK || strings.TrimSpace(body) != string(reference) {
		t.Errorf("got %d %s", status, body)
	}
	var moved []float64
	for range 1000 {
		moved = append(moved, .5+random.Float64()/2)
	}
	l.predict(1, 0, moved...)
	l.predict(2, 1000, .5)
	const span = "?from=2026-11-23T00:00:00Z&until=2026-11-30T00:00:00Z"
	status, body := l.do("GET", "/admin/v1/drift/m"+span, nil)
	var d Drift
	if err := json.Unmarshal([]byte(body), &d); status != http.StatusOK || err != nil || len(d.Versions) != 2 {
		t.Fatalf("got %d %s %v", status, body, err)
	}
	if v := d.Versions[1]; v.Report != nil || v.Missing != "there is no training reference of m:2; pilotlight drift reference makes one" {
		t.Errorf("got %+v", v)
	}
	r := d.Versions[0].Report
	verdicts := map[string]drift.Verdict{}
	for _, c := range r.Columns {
		verdicts[c.Name] = c.Verdict
	}
	if r.Rows != 1000 || r.Verdict != drift.Drifted || verdicts["carrier"] != drift.Steady || verdicts["gate"] != drift.Steady || verdicts["probability"] != drift.Drifted || verdicts["elsewhere"] != drift.Drifted {
		t.Errorf("got %d rows, %s, %v; want probability (moved) and elsewhere (missing) drifted", r.Rows, r.Verdict, verdicts)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/admin/v1/drift/m/1/reference", "{}", 400},
		{"PUT", "/admin/v1/drift/m/x/reference", string(reference), 400},
		{"PUT", "/admin/v1/drift/.m/1/reference", string(reference), 400},
		{"GET", "/admin/v1/drift/m/7/reference", "", 404},
		{"GET", "/admin/v1/drift/m?from=x", "", 400},
		{"GET", "/admin/v1/drift/m%2Fn", "", 400},
	} {
		if status, body := l.do(c.method, c.path, []byte(c.body)); status != c.status || !strings.Contains(body, `{"error":`) {
			t.Errorf("%s %s: got %d %s, want %d", c.method, c.path, status, body, c.status)
		}
	}
}

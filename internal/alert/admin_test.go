package alert

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// said makes a request and gives the status and the answer.
func said(t *testing.T, h http.Handler, method, target, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestAdmin(t *testing.T) {
	now, tel := noon, mute(t)
	m := manager(t, Deps{Blob: bucket(t)}, "", tel, &now)
	mux := http.NewServeMux()
	m.Register(mux)
	const rules = "rules: [" + auc + "}]"
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "", "", 200, `{"rules":0,"active":[],"pending":[],"resolved":[],"unsent":0}`},
		{"GET", "/rules", "", 200, `{"version":0,"rules":[]}`},
		{"PUT", "/rules?dry-run", rules, 200, `{"version":1,"changes":[{"change":"added","rule":"auc"}],"dry":true}`},
		{"PUT", "/rules?dry-run=true", rules, 200, `{"version":1,"changes":[{"change":"added","rule":"auc"}],"dry":true}`},
		{"GET", "/rules", "", 200, `{"version":0,"rules":[]}`},
		{"PUT", "/rules?by=me", rules, 200, `{"version":1,"changes":[{"change":"added","rule":"auc"}]}`},
		{"PUT", "/rules?by=you", rules, 200, `{"version":1,"changes":[]}`},
		{"GET", "/rules", "", 200, `{"version":1,"at":"2026-11-25T12:00:00Z","by":"me","rules":[{"name":"auc","model":"m","metric":"auc","window":"1h","below":0.7,"min":100}]}`},
		{"PUT", "/rules", "", 400, `{"error":"body has no rules`},
		{"PUT", "/rules", "rules:", 400, `{"error":"body has no rules`},
		{"PUT", "/rules", "rules: []", 200, `{"version":2,"changes":[{"change":"removed","rule":"auc"}]}`},
		{"PUT", "/rules", rules, 200, `{"version":3,"changes":[{"change":"added","rule":"auc"}]}`},
		{"GET", "/rules?version=2", "", 200, `{"version":2,"at":"2026-11-25T12:00:00Z","rules":[]}`},
		{"GET", "/rules?version=9", "", 404, `{"error":"the alert rules have no version 9"}`},
		{"GET", "/rules?version=one", "", 400, `{"error":"version is \"one\", expected the number of a version"}`},
		{"PUT", "/rules?dry-run=perhaps", rules, 400, `{"error":"dry-run is \"perhaps\", expected true or false"}`},
		{"PUT", "/rules", "rules: [{name: a}]", 400, `{"error":"body: rule \"a\": model is missing; \"*\" is every model"}`},
		{"PUT", "/rules", "rules: {", 400, `{"error":"body:1:8: `},
		{"PUT", "/rules?by=" + strings.Repeat("x", 201), rules, 400, `{"error":"by is longer than 200 bytes"}`},
	} {
		status, got := said(t, mux, test.method, "/admin/v1/alerts"+test.path, test.body)
		if status != test.status || got != test.want && (status == 200 || !strings.HasPrefix(got, test.want)) {
			t.Errorf("%s %s: got %d %s, want %d %s", test.method, test.path, status, got, test.status, test.want)
		}
	}
	now = noon.Add(2 * time.Minute)
	if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
		t.Fatal(err)
	}
	status, got := said(t, mux, "GET", "/admin/v1/alerts", "")
	if want := `{"at":"2026-11-25T12:02:00Z","rules":3,"active":[{"id":"`; status != 200 || !strings.HasPrefix(got, want) || !strings.Contains(got, `"pending":[]`) {
		t.Errorf("got %d %s, want %s", status, got, want)
	}
	var list Status
	if err := json.Unmarshal([]byte(got), &list); err != nil || len(list.Active) == 0 {
		t.Fatalf("got %s, %v", got, err)
	}
	status, got = said(t, mux, "GET", "/admin/v1/alerts/"+list.Active[0].ID, "")
	if want := string(encode(&list.Active[0])); status != 200 || got != want {
		t.Errorf("got %d %s, want %s", status, got, want)
	}
	if status, got = said(t, mux, "GET", "/admin/v1/alerts/nosuch", ""); status != 404 || !strings.Contains(got, "there is no alert") {
		t.Errorf("got %d %s", status, got)
	}
}

func TestMetrics(t *testing.T) {
	now, tel := noon, mute(t)
	m := manager(t, Deps{Blob: bucket(t)}, "", tel, &now)
	apply(t, m, waveRules)
	for range 4 { // of which every other one is too soon
		if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(20 * time.Second)
	}
	now = noon.Add(3 * time.Minute)
	if err := m.Tick(t.Context(), answers(waves), time.Time{}); err != nil {
		t.Fatal(err)
	}
	has := func(want string) bool {
		w := httptest.NewRecorder()
		tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		b, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(b), want)
	}
	for _, want := range []string{
		`pilotlight_alert_active{model="m",rule="auc",severity="ticket"} 2`,
		`pilotlight_alert_evaluations_total{outcome="evaluated"} 3`,
		`pilotlight_alert_evaluations_total{outcome="late"} 2`,
		`pilotlight_alert_changes_total{change="raised",rule="auc"} 2`,
	} {
		if !has(want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	now = now.Add(knownFor + time.Second)
	if has("pilotlight_alert_active{") {
		t.Error("an instance tells of a state that it saw long ago")
	}
}

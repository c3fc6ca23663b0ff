package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// worsening answers auc for two versions, and nothing else.
type worsening struct{}

func (worsening) Samples(_ context.Context, q *alert.Query) ([]alert.Sample, error) {
	if q.Metric != "auc" {
		return nil, fault.New(fault.Invalid, "%s is not known\x1b[2J of flights", q.Metric)
	}
	return []alert.Sample{{Model: "flights", Version: "1", Value: .9, Count: 10}, {Model: "flights", Version: "2", Value: .6, Low: .55, High: .65, Count: 10, Examples: []event.Example{{Prediction: "order-7", Row: 3}, {Prediction: "x\x1b[2J"}}}}, nil
}

func TestAlerts(t *testing.T) {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	m, err := alert.New(&alert.Config{Every: time.Nanosecond}, alert.Deps{Blob: blob, Quality: func(metric string) bool { return metric == "auc" || metric == "mae" }}, tel)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	m.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	do := func(in string, args ...string) (string, error) {
		out, err := run(t, in, append([]string{"alerts", "--server", server.URL}, args...)...)
		return gaps.ReplaceAllString(times.ReplaceAllString(out, "TIME"), "  "), err
	}
	prints := func(want, in string, args ...string) {
		t.Helper()
		if got, err := do(in, args...); err != nil || got != gaps.ReplaceAllString(want, "  ") {
			t.Errorf("%q: got\n%s%v, want\n%s", args, got, err, want)
		}
	}
	fails := func(want, in string, args ...string) {
		t.Helper()
		if got, err := do(in, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want the error %q", args, got, err, want)
		}
	}
	const rules = `rules:
  - name: auc
    model: flights
    metric: auc
    window: 7d
    below: 0.7
    severity: page
  - name: mae
    model: flights
    version: "2"
    metric: mae
    window: 7d
    above: 10.0
`
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	prints("no rules were evaluated yet\n", "")
	prints("rules: []\n", "", "rules")
	prints("+ auc\n+ mae\nthis would become version 1\n", "", "apply", "-f", file, "--dry-run")
	prints("+ auc\n+ mae\nthis is version 1\n", "", "apply", "-f", file)
	prints("nothing differs from version 1\n", rules, "apply", "-f", "-")
	prints(rules, "", "rules")
	if err := m.Tick(t.Context(), worsening{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	prints(`STATE  SEVERITY  SINCE  RULE  WHAT
active  page  TIME  auc  auc of flights version 2 is 0.6 (0.55 to 0.65) over 7d, below 0.7
auc is shown by the predictions order-7#3, x [2J
rule mae finds nothing out: mae is not known [2J of flights
`, "")
	var status alert.Status
	if out, err := run(t, "", "alerts", "-o", "json", "--server", server.URL); err != nil || json.Unmarshal([]byte(out), &status) != nil || len(status.Active) != 1 || status.Active[0].Version != "2" {
		t.Errorf("as JSON: got %s%v", out, err)
	}
	prints("- auc\n- mae\nthis is version 2\n", "rules: []", "apply", "-f", "-")
	if err := m.Tick(t.Context(), worsening{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	prints(`STATE  SEVERITY  SINCE  RULE  WHAT
resolved  page  TIME  auc  auc of flights version 2 is not watched any more: the rule is gone
`, "")
	prints(rules, "", "rules", "--version", "1")
	var got alert.Rules
	if out, err := run(t, "", "alerts", "rules", "--version", "1", "-o", "json", "--server", server.URL); err != nil || json.Unmarshal([]byte(out), &got) != nil || got.Version != 1 || len(got.Rules) != 2 {
		t.Errorf("rules as JSON: got %s%v", out, err)
	}
	fails(`standard input:1:10: an element of rules has no field "nam"`, "rules: [{nam: a}]", "apply", "-f", "-")
	fails(`rule "auc": metric "acu" is neither`, strings.Replace(rules, "metric: auc", "metric: acu", 1), "apply", "-f", "-")
	fails("two rules of that name", rules, "apply", "-f", "-", "-f", file)
	fails("no such file", "", "apply", "-f", "nowhere.yaml")
	fails("no version 9", "", "rules", "--version", "9")
}

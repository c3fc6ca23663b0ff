package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/rollout"
)

func TestRollout(t *testing.T) {
	at := time.Date(2026, 11, 26, 4, 0, 0, 0, time.UTC)
	look := rollout.Look{At: at, Share: .05, Answers: 300, Verdict: rollout.Hold, Why: "it has given 30 answers of 100", Findings: []rollout.Finding{
		{Guard: rollout.Guard{Metric: rollout.ErrorRate, Worse: .01}, Version: .01, Candidate: .02, Answers: [2]int64{5000, 300}, Difference: .01, Known: true, Low: -.03, High: .05, Allowed: .01, State: rollout.Open},
		{Guard: rollout.Guard{Metric: "log_loss", Worse: .05}, State: rollout.None},
	}}
	r := rollout.Rollout{Plan: rollout.Plan{Model: "flights", Alias: "champion", Version: 3, Shares: []float64{.01, .05}}, Created: at, Latest: &look}
	var asked, body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		asked, body = req.Method+" "+req.URL.Path, string(b)
		if req.URL.Path == "/admin/v1/rollouts" {
			_ = json.NewEncoder(w).Encode(map[string]any{"rollouts": []rollout.Rollout{r}})
			return
		}
		_ = json.NewEncoder(w).Encode(r)
	}))
	defer server.Close()
	for _, c := range []struct {
		args  []string
		asked string
		want  []string
	}{
		{[]string{"start", "flights", "3", "--shares", "1%,0.05", "--hold", "7d", "--patience", "7d", "--guard", "error_rate=0.01"}, "PUT /admin/v1/rollouts/flights/champion", []string{"flights:3 for alias champion: 5 % since 2026-11-26 04:00:00"}},
		{[]string{"show", "flights", "--alias", "next"}, "GET /admin/v1/rollouts/flights/next", []string{"it has given 30 answers of 100", "error_rate  0.02       300  0.01     5000  0.01      -0.03     0.05     0.01     open", "log_loss"}},
		{[]string{"list"}, "GET /admin/v1/rollouts", []string{"flights  champion  3        5 %    2026-11-26 04:00:00  it has given 30"}},
		{[]string{"cancel", "flights"}, "DELETE /admin/v1/rollouts/flights/champion", nil},
	} {
		out, err := run(t, "", append([]string{"rollout", "--server", server.URL}, c.args...)...)
		if err != nil || asked != c.asked {
			t.Errorf("%v: got %v, asked %s", c.args, err, asked)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: got\n%s\nwhich lacks %q", c.args, out, want)
			}
		}
		if c.args[0] == "start" {
			var p rollout.Plan
			if err := json.Unmarshal([]byte(body), &p); err != nil || p.Version != 3 || len(p.Shares) != 2 || p.Shares[0] != .01 || p.Shares[1] != .05 || p.Hold != p.Patience || time.Duration(p.Patience) != 7*24*time.Hour || p.Guards[0] != (rollout.Guard{Metric: "error_rate", Worse: .01}) {
				t.Errorf("got %s, %v", body, err)
			}
		}
	}
	for _, args := range [][]string{{"start", "flights", "x"}, {"start", "flights", "3", "--shares", "many"}, {"start", "flights", "3", "--hold", "long"}, {"start", "flights", "3", "--guard", "auc=low"}} {
		if _, err := run(t, "", append([]string{"rollout", "--server", server.URL}, args...)...); err == nil {
			t.Errorf("%v: there is no error", args)
		}
	}
}

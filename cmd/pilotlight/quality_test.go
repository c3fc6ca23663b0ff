package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

func TestQuality(t *testing.T) {
	spec := quality.Spec{Task: quality.Binary}
	state, err := quality.NewState(spec)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		a := quality.Answer{Number: float64(i%10)/10 + .05}
		if err := state.Predicted(a); err != nil {
			t.Fatal(err)
		}
		if err := state.Add(a, quality.Truth{Yes: i%7 < 3}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	estimate, err := state.Estimate(state)
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		j := feedback.Judgement{Model: "flights", Versions: []feedback.Judged{}, Outcomes: feedback.Settlement{Joined: 1000, Unsuited: 2, Reason: "the outcome is strange"}, Waiting: 3, Damaged: []string{"outcomes/inbox/x"}}
		j.Elsewhere = &feedback.Elsewhere{From: time.Date(2013, 12, 23, 19, 0, 0, 0, time.UTC), Until: time.Date(2013, 12, 23, 20, 0, 0, 0, time.UTC)}
		if !strings.HasPrefix(r.URL.Path, "/admin/v1/quality/none") {
			j.Elsewhere = nil
			j.Versions = append(j.Versions, feedback.Judged{Version: 3, Slice: "B6", Report: state.Report(), Estimate: estimate})
		}
		_ = json.NewEncoder(w).Encode(j) // the test sees what comes
	}))
	defer server.Close()
	out, err := run(t, "", "quality", "flights", "--server", server.URL, "--slice", "carrier", "--version", "3", "--from", "2026-11-01T00:00:00Z")
	if err != nil {
		t.Fatal(err)
	}
	if want := "/admin/v1/quality/flights?from=2026-11-01T00%3A00%3A00Z&slice=carrier&version=3"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	for _, want := range []string{
		"flights:3  B6  1000 predictions, 1000 outcomes", "accuracy", "auc", "ESTIMATED", "calibration: | predicted, * came true", "0.90 to 1.00  ",
		"outcomes: 1000 joined, 0 repeated, 0 corrected, 2 unsuited; 3 more wait for their predictions", "unsuited: the outcome is strange", "damaged, and left out: outcomes/inbox/x",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s, which lacks %q", out, want)
		}
	}
	if out, err := run(t, "", "quality", "none", "--server", server.URL); err != nil || !strings.Contains(out, "made no predictions") || !strings.Contains(out, "it made some that are as of 2013-12-23 19:00 until 2013-12-23 20:00: see --from and --until") {
		t.Errorf("got %s %v", out, err)
	}
	for seconds, want := range map[float64]string{0.004: "4ms", 75: "1m15s", 12700: "3h31m40s", 1e6: "277h47m0s"} {
		if got := amount("label_delay_p50", seconds); got != want {
			t.Errorf("%g s: got %s, want %s", seconds, got, want)
		}
	}
	if out, err := run(t, "", "quality", "flights", "--server", server.URL, "-o", "json"); err != nil || !json.Valid([]byte(out)) {
		t.Errorf("got %s %v", out, err)
	}
}

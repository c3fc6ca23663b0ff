package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// eventually calls until the answer is that of a status and holds some text: what is behind an answer comes later.
func eventually(t *testing.T, url string, status int, text string) string {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got, body := call(t, "GET", url, nil)
		if got == status && strings.Contains(body, text) {
			return body
		}
		if time.Now().After(until) {
			t.Fatalf("%s: got %d %s, want %d with %q", url, got, body, status, text)
		}
	}
}

// A prediction is looked up by the id that its caller gave it: what was asked, the features that were fetched, their ages, what came true and its trace, as
// JSON and as pages.
func TestLookUpAPrediction(t *testing.T) {
	url, _ := start(t, map[string]string{
		"SEED": filepath.Join(root, "examples/flights"), "DATA_DIR": t.TempDir(), "PAYLOAD_EVERY": "100ms", "TRACES_EVERY": "100ms", "TICKS": "off",
	})
	b, err := os.ReadFile(filepath.Join(root, "examples/flights/request.json"))
	if err != nil {
		t.Fatal(err)
	}
	const id, trace = "order/7", "0af7651916cd43dd8448eb211c80319c"
	r, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v2/models/flights/infer", strings.NewReader(`{"id":"`+id+`",`+string(b[1:])))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	answer, err := http.DefaultClient.Do(r)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", answer, err)
	}
	_ = answer.Body.Close()
	const path = "/predictions/~b3JkZXIvNw"
	eventually(t, url+"/admin/v1"+path, http.StatusOK, trace)
	if status, body := call(t, "POST", url+"/feedback", strings.NewReader(`{"prediction":"`+id+`","value":true}`)); status != http.StatusAccepted {
		t.Fatalf("got %d %s", status, body)
	}
	var p struct {
		Answers []struct {
			Model string
			Rows  []struct {
				Inputs   map[string]any
				Features []struct {
					Name string
					Age  *float64 `json:"age_s"`
				}
				Outcomes []struct{ Counts bool }
				Verdict  *struct{ Correct *bool }
			}
		}
	}
	if err := json.Unmarshal([]byte(eventually(t, url+"/admin/v1"+path, http.StatusOK, "verdict")), &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Answers) != 1 || p.Answers[0].Model != "flights" || len(p.Answers[0].Rows) != 1 {
		t.Fatalf("got %+v", p)
	}
	row, aged := p.Answers[0].Rows[0], 0
	for _, f := range row.Features {
		if f.Age != nil && *f.Age >= 0 {
			aged++
		}
	}
	if row.Inputs["carrier"] != "B6" || aged == 0 || len(row.Outcomes) != 1 || !row.Outcomes[0].Counts || row.Verdict == nil || row.Verdict.Correct == nil {
		t.Errorf("got %+v, %d features with an age", row, aged)
	}
	eventually(t, url+"/admin/v1/traces/"+trace, http.StatusOK, "b7ad6b7169203331")
	for page, texts := range map[string][]string{
		"/console" + path:                                         {"flights", "Came true", `id="waterfall"`, `class="fall"`, "tailnum", "N197JB"},
		"/console/predictions":                                    {"~b3JkZXIvNw"},
		"/console/traces":                                         {trace},
		"/console/traces/" + trace:                                {"predict", `class="fall"`},
		"/console/features":                                       {"aircraft_last", "weather", "flights"},
		"/console/features/views/weather?key.origin=JFK":          {"wind_speed", "OUTSIDE_MAX_AGE"},
		"/console/models/flights/try?prediction=order%2F7":        {"N197JB", "2013-12-24T00:25:00Z"},
		"/admin/v1/predictions?failed=true":                       {`"predictions":[]`},
		"/admin/v1/predictions?entity=%7B%22dest%22:%22BOS%22%7D": {id},
		"/admin/v1/features/freshness":                            {`"newest":"2013-`},
	} {
		body := eventually(t, url+page, http.StatusOK, texts[0])
		for _, text := range texts[1:] {
			if !strings.Contains(body, text) {
				t.Errorf("%s has no %q: %s", page, text, body)
			}
		}
	}
}

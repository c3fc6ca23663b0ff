package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestLookAtModels opens the console's pages of models on a whole system, asks a model in it, and changes who answers.
func TestLookAtModels(t *testing.T) {
	at, _ := start(t, map[string]string{"SEED": filepath.Join(root, "examples/flights"), "DATA_DIR": t.TempDir()}) // else no prediction is kept
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	ask := func(method, path string, form url.Values) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if method == http.MethodPost {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		answer, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d: %s", answer.Request.URL, answer.StatusCode, b)
		}
		return string(b)
	}
	open := func(path string) string { t.Helper(); return ask(http.MethodGet, path, nil) }
	send := func(path string, form url.Values) string { t.Helper(); return ask(http.MethodPost, path, form) }
	has := func(page string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("the page lacks %q", w)
			}
		}
	}

	// The form asks for what callers bring, and not for the features.
	page := open("/console/models/flights/try")
	fields := regexp.MustCompile(`<label>(\w+) <span class="mono">[^<]+</span>\s+<input id="input-\d+" name="(input-\d+)"`).FindAllStringSubmatch(page, -1)
	values := map[string]string{"carrier": "B6", "origin": "JFK", "dest": "BOS", "day_of_week": "1", "sched_dep_time": "2010", "tailnum": "N197JB"}
	form := url.Values{"time": {"2013-12-24T00:25:00Z"}}
	for _, f := range fields {
		form.Set(f[2], values[f[1]])
	}
	if len(fields) != len(values) {
		t.Fatalf("got the fields %q, want one for each of %v", fields, values)
	}
	page = send("/console/models/flights/try", form)
	has(page, "probability", `href="/console/models/flights/versions/1"`, `href="/console/predictions/`, "2013-12-24T00:25:00Z")
	form.Set(fields[0][2], "")
	form.Set("time", "tomorrow")
	has(send("/console/models/flights/try", form), `role="alert"`)

	has(open("/console/models?prefix=fl"), `href="/console/models/flights"`, "champion <b>1</b>")
	has(open("/console/models/flights"), "version 1: 100 %", "first version", "features flights")
	has(open("/console/models/flights/versions/1"), "Signature", "probability", "&#34;slices&#34;", "has no card", "pilotlight drift reference")
	has(open("/console/models/flights/quality.svg"), "No predictions are counted yet")
	has(open("/console/models/flights/over-time"), "No predictions are counted yet")

	// What was asked is seen, once its slot is over.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		page = open("/console")
		if strings.Contains(page, `id="busiest"`) && strings.Contains(page, `<a href="/console/models/flights">flights</a> <a class="soft" href="/console/models/flights/versions/1">1</a>`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("what was asked is never seen: %s", page)
		}
	}
	has(page, "None is raised.", "0</b>dead letters", "1</b>models", "first version")

	// A second version, its canary, and back.
	file, err := os.ReadFile(filepath.Join(root, "examples/flights/flights.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	upload(t, at, "flights", file)
	const aliases = "/console/models/flights/aliases"
	has(send(aliases, url.Values{"do": {"canary"}, "alias": {"champion"}, "version": {"2"}, "share": {"25"}, "saw": {"1"}, "why": {"try"}, "by": {"ann"}}), "canary 2: 25 %.", "version 2: 25 %", "ann")
	has(send(aliases, url.Values{"do": {"promote"}, "alias": {"champion"}, "version": {"2"}, "saw": {"1"}, "why": {"try"}}), "told bad", "champion was moved meanwhile, by move 2")
	has(send(aliases, url.Values{"do": {"promote"}, "alias": {"champion"}, "version": {"2"}, "saw": {"2"}, "why": {"good"}}), "from 1 to 2", "version 2: 100 %")
	has(send(aliases, url.Values{"do": {"rollback"}, "alias": {"champion"}, "saw": {"3"}, "why": {"bad"}}), "back to 1", "version 1: 100 %")
	has(send(aliases, url.Values{"do": {"move"}, "alias": {"champion"}, "version": {"9"}, "saw": {"4"}}), "told bad", "has no version 9")
}

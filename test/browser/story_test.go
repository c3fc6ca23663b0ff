package browser

import (
	"net/http"
	"strings"
	"testing"
)

// follow clicks on the first link in a part of the page whose address begins so.
func (b *tab) follow(part, prefix string) {
	b.t.Helper()
	href := asks[string](b, `(document.querySelector('`+part+` a[href^="`+prefix+`"]') || {getAttribute: () => ""}).getAttribute("href")`)
	if href == "" {
		b.t.Fatalf("%s: nothing in %s leads to %s: %.600s", b.where, part, prefix, asks[string](b, `document.querySelector("main").textContent`))
	}
	if status := b.click(href); status != http.StatusOK {
		b.t.Fatalf("%s leads to status %d", href, status)
	}
	b.check()
}

// reads is the text of a part of the page.
func (b *tab) reads(part string) string {
	return asks[string](b, `(document.querySelector('`+part+`') || {textContent: ""}).textContent`)
}

// TestTheStory follows one bad prediction with nothing but clicks: from the alert to its trace, to the feature that had drifted, to the version that was
// learnt because of it, and to who answers now.
func TestTheStory(t *testing.T) {
	s := start(t, "TRACE_SAMPLE=1")
	s.live()
	b := open(t, s.url)
	b.visit("/console")
	b.click("/console/alerts")
	b.follow("#live", "/console/alerts/")
	alert := b.here()
	for part, want := range map[string]string{"#examples": "wrong", "#moved": "dewp", "#led": "alert flights-wrong"} {
		if got := b.reads(part); !strings.Contains(got, want) {
			t.Errorf("the alert says in %s %q, want %q", part, got, want)
		}
	}

	// The worst prediction whose trace is kept: where its time went.
	b.follow("#examples", "/console/traces/")
	if got := b.reads("main"); !strings.Contains(got, "POST /v2/models") || !strings.Contains(got, "features") {
		t.Errorf("the trace says %q", got)
	}
	b.visit(alert)

	// A prediction, which the page says had features that have drifted, or are missing.
	b.follow("#examples", "/console/predictions/")
	if got := b.reads("main"); !strings.Contains(got, "wrong") || !strings.Contains(got, "flights-wrong names it") || !strings.Contains(got, "drifted: PSI") {
		t.Errorf("the prediction says %q", got)
	}
	b.follow("#live", "/console/models/flights/over-time")
	if got := b.reads("#drift"); !strings.Contains(got, "dewp drifted") {
		t.Errorf("drift over time says %q", got)
	}
	b.visit(alert)
	b.follow("#moved", "/console/features/views/weather")
	if got := b.reads("h1"); !strings.Contains(got, "weather") {
		t.Errorf("the feature's view is %q", got)
	}
	b.visit(alert)

	// What came of it.
	t.Logf("what it led to: %s", b.reads("#led"))
	b.follow("#led", "/console/models/flights/versions/2")
	if got := b.reads("main"); !strings.Contains(got, "learns") {
		t.Errorf("the version says %q", got)
	}
	b.visit(alert)
	b.follow("#led", "/console/pipelines/learns/runs/")
	if got := b.reads(".chain"); !strings.Contains(got, "alert flights-wrong") || !strings.Contains(got, "version 2 of flights published") || !strings.Contains(got, "rollout promoted") {
		t.Errorf("the run says %q", got)
	}
	b.follow(".chain", "/console/models/flights")
}

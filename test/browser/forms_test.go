package browser

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// submit presses the button of a form that stands in a page, and waits for the page that it leads to.
func (b *tab) submit(form, fill string) {
	b.t.Helper()
	if status := b.load(chromedp.Steps(ran(`const form = document.querySelector('` + form + `'); ` + fill + `; form.querySelector("button").click()`))); status != http.StatusOK {
		b.t.Errorf("%s: the form %s leads to status %d", b.where, form, status)
	}
	b.check()
}

// told is what a page says of what was done last.
func (b *tab) told() string {
	return asks[string](b, `document.querySelector(".told")?.textContent || ""`)
}

func (b *tab) here() string { return asks[string](b, "location.pathname + location.search") }

// TestForms does all that can be done on pages of pipelines and events, as a person does.
func TestForms(t *testing.T) {
	s := start(t)
	s.live()
	b := open(t, s.url)

	// One run by hand, which is followed to its end without a look at anything but the page.
	b.visit("/console/pipelines")
	b.click("/console/pipelines/learns")
	b.submit(`form[action$="/runs"]`, `form.why.value = "<b>to see</b>"`)
	if !strings.HasPrefix(b.here(), "/console/pipelines/learns/runs/") || b.told() != "The run has begun." {
		t.Fatalf("a run that was started: at %s, which says %q", b.here(), b.told())
	}
	s.until("the page tells that the run has ended", func() bool {
		return asks[bool](b, `["succeeded", "failed", "refused"].includes(document.querySelector(".tile b").textContent)`)
	})
	if chain := asks[string](b, `document.querySelector(".chain").textContent`); !strings.Contains(chain, "run started by hand") || !strings.Contains(chain, "<b>to see</b>") {
		t.Errorf("the chain of causes is %s", chain)
	}
	b.check()

	// One that is canceled.
	b.click("/console/pipelines/learns")
	b.submit(`form[action$="/runs"]`, "")
	if asks[bool](b, `document.querySelector('form[action$="/cancel"]') !== null`) {
		b.submit(`form[action$="/cancel"]`, "")
		if said := b.told(); !strings.Contains(said, "Asked to cancel it") && !strings.Contains(said, "has ended already") {
			t.Errorf("a run that is canceled: the page says %q", said)
		}
	}

	// A dead letter that is put back is dead again, for nothing was mended; one is deleted; then all are put back.
	letters := func() (n int) {
		t.Helper()
		var list struct{ Deadletters []struct{} }
		s.call("GET", "/admin/v1/deadletters", "", http.StatusOK, &list)
		return len(list.Deadletters)
	}
	b.visit("/console/events")
	letter := func() string {
		return asks[string](b, `document.querySelector('#live a[href^="/console/events/"]').getAttribute("href")`)
	}
	b.click(letter())
	b.submit(`form[action$="/replay"]`, "")
	if said := b.told(); !strings.Contains(said, "with the broker again") {
		t.Errorf("a letter that was put back: the page says %q", said)
	}
	s.until("the event is dead again", func() bool { return letters() == 3 })
	b.visit("/console/events")
	b.click(letter())
	b.submit(`form[action$="/delete"]`, "")
	if said := b.told(); said != "The letter is deleted." || letters() != 2 {
		t.Errorf("a letter that was deleted: the page says %q, and there are %d", said, letters())
	}
	if status := b.load(chromedp.Steps(ran(`const choose = document.querySelector("form.search"); choose.type.value = "dev.pilotlight.outcome.observed.v1"; choose.querySelector("button").click()`))); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	b.submit(`form[action="/console/events/replay"]`, `form.sure.checked = true`)
	if said := b.told(); said != "2 events are with the broker again." {
		t.Errorf("all of a type: the page says %q", said)
	}
}

// TestModelForms tries a model, moves an alias, and brings a version out and takes it back, by what their pages offer.
func TestModelForms(t *testing.T) {
	s := start(t)
	s.push("flights", filepath.Join(root, "examples/flights/loop/january.onnx"))
	b := open(t, s.url)
	b.visit("/console/models")
	b.click("/console/models/flights")
	b.submit("#move-alias form", `form.alias.value = "tried"; form.version.value = 1; form.why.value = "<i>to see</i>"`)
	var model struct{ Aliases map[string]int }
	s.call("GET", "/admin/v1/models/flights", "", http.StatusOK, &model)
	if model.Aliases["tried"] != 1 {
		t.Errorf("the alias names version %d, and the page says %q", model.Aliases["tried"], b.told())
	}
	b.click("/console/models/flights/try")
	b.submit("#try-form", `form.version.value = "tried"`)
	if answer := asks[string](b, `document.querySelector("main").textContent`); !strings.Contains(answer, "probability") || strings.Contains(b.told(), "expected") {
		t.Errorf("the model that was tried answers nothing: %.400s", answer)
	}

	// A canary of a quarter, another one that is promoted, and back.
	share := func() string {
		b.visit("/console/models/flights")
		return strings.Join(strings.Fields(b.reads("#answers")), " ")
	}
	s.call("PUT", "/admin/v1/models/flights/aliases/champion", `{"version": 1, "why": "to begin with"}`, http.StatusOK, nil, "Content-Type", "application/json")
	for _, c := range []struct{ form, fill, want string }{
		{"#start-canary form", `form.version.value = 2; form.share.value = 25; form.why.value = "to see"`, "version 1 75 % version 2 25 %"},
		{"#promote-champion-2 form", `form.why.value = "enough"; form.querySelector("button").value = "end"`, "version 1 100 %"},
		{"#start-canary form", `form.version.value = 2; form.share.value = 0.5; form.why.value = "again"`, "version 1 99.5 % version 2 0.5 %"},
		{"#promote-champion-2 form", `form.why.value = "it is well"`, "version 2 100 %"},
		{"#rollback-champion form", `form.why.value = "it is not"`, "version 1 100 %"},
	} {
		if share(); asks[bool](b, `document.querySelector('`+c.form+`') === null`) {
			t.Fatalf("there is no %s: %s", c.form, b.reads("main"))
		}
		b.submit(c.form, c.fill)
		if bad := asks[bool](b, `document.querySelector(".told.bad") !== null`); bad {
			t.Errorf("%s: the page says %q", c.form, b.told())
		}
		if got := share(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q answer, want %q", c.form, got, c.want)
		}
	}

	// What somebody else has changed meanwhile is not undone unseen.
	b.visit("/console/models/flights")
	s.call("PUT", "/admin/v1/models/flights/aliases/champion", `{"version": 2, "why": "by another"}`, http.StatusOK, nil, "Content-Type", "application/json")
	if b.load(chromedp.Steps(ran(`const form = document.querySelector("#move-alias form"); form.version.value = 1; form.why.value = "late"; form.querySelector("button").click()`))); !strings.Contains(share(), "version 2 100 %") {
		t.Errorf("a form that knew nothing of it took the move back: %s", share())
	}
	b.noted() // of the refusal
}

package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// hostile are texts of strangers that must come out as text.
const hostile = "<script>alert(1)</script>\"onmouseover=\"x\u202e\u2066\u200fevil\u0007\u001b[31m"

// long is one that must not be shown whole.
var long = strings.Repeat("long ", 30_000)

// harmless fails where a page holds what hostile texts would do.
func harmless(t *testing.T, path, page string, most int) {
	t.Helper()
	for _, bad := range []string{"<script>alert", `"onmouseover`, "\u202e", "\u2066", "\u200f", "\u0007", "\u001b", "javascript:"} {
		if strings.Contains(page, bad) {
			t.Errorf("%s holds %q", path, bad)
		}
	}
	if len(page) > most {
		t.Errorf("%s has %d bytes, want %d at most", path, len(page), most)
	}
	if !strings.Contains(page, "&lt;script&gt;alert(1)") {
		t.Errorf("%s does not show the text at all", path)
	}
}

// bounded are fields that are short, whoever writes them.
var bounded = []string{"id", "name", "model", "alias", "pipeline", "state", "severity", "rule", "window", "took", "step", "use", "subscriber", "trigger", "sha256", "every", "pause", "key", "active", "next", "cursor", "end", "verdict", "better", "side", "place", "level", "event", "prediction", "version"}

// spoilt puts hostile and long texts in place of all texts in an answer, apart from those that pages are found by.
func spoilt(t *testing.T, answer string, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatal(err)
	}
	var spoil func(v any, field string) any
	spoil = func(v any, field string) any {
		switch v := v.(type) {
		case string:
			if _, err := time.Parse(time.RFC3339, v); err == nil || field == "use" || field == "specversion" {
				return v
			}
			if slices.Contains(bounded, field) { // by the API
				return hostile
			}
			return text
		case []any:
			for i := range v {
				v[i] = spoil(v[i], field)
			}
		case map[string]any:
			for name := range v {
				v[name] = spoil(v[name], name)
			}
		}
		return v
	}
	b, err := json.Marshal(spoil(v, ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const (
	aPipeline = `{"name":"learns","about":"learns anew","version":3,"at":"2026-11-26T10:00:00Z","by":"ann","text":"pipeline: learns","active":"20261126T101409.843-3f9383d3","joined":1,"paused":2,
		"on":[{"event":"dev.pilotlight.alert.raised.v1","where":{"model":"flights"}},{"every":"30d"}],"pause":"1d",
		"steps":[{"name":"data","use":"training-set"},{"name":"fit","use":"train","in":{"rows":"data.train"}},{"name":"judge","use":"evaluate","in":{"model":"fit.model","holdout":"data.holdout"},"after":["fit"]}],
		"run":{"id":"20261126T101409.843-3f9383d3","at":"2026-11-26T10:14:09Z","version":3,"state":"running","took":"3s","cause":{"id":"a1","type":"dev.pilotlight.alert.raised.v1","source":"/pilotlight/alerts","subject":"auc:flights:1"}},
		"trouble":"none really","runs":[{"id":"` + someRun + `","at":"2026-11-26T10:14:09Z","version":3,"state":"failed","took":"3s","reason":"it broke","why":"to see","by":"ann","cause":{"id":"a1","type":"dev.pilotlight.alert.raised.v1","source":"/a","subject":"auc:flights:1"}}],"next":"` + someRun + `","pending":{"id":"x","type":"t","source":"s","subject":"u"}}`
	aRun = `{"pipeline":"learns","id":"20261126T101409.843-3f9383d3","at":"2026-11-26T10:14:09Z","version":3,"state":"succeeded","began":"2026-11-26T10:14:09Z","ended":"2026-11-26T10:15:09Z","reason":"all well","by":"ann","why":"to see",
		"cause":{"id":"a1","type":"dev.pilotlight.alert.raised.v1","source":"/pilotlight/alerts","subject":"auc:flights:1"},
		"steps":[{"name":"fit","use":"train","state":"succeeded","attempt":2,"failures":1,"place":"process","began":"2026-11-26T10:14:10Z","ended":"2026-11-26T10:14:40Z","why":"","outputs":{"model":{"key":"pipelines/x","size":70073,"sha256":"3b"}}},
			{"name":"judge","use":"evaluate","state":"succeeded","attempt":1,"began":"2026-11-26T10:14:40Z","ended":"2026-11-26T10:14:50Z","outputs":{"verdict":{"value":{"passed":true,"why":"it is better","against":1,
				"deciding":{"metric":"log_loss","better":"lower","candidate":{"value":0.5136,"n":5097,"interval":{"low":0.41,"high":0.61}},"champion":{"value":0.5188,"n":5097,"interval":{"low":0.42,"high":0.62}},"worse":{"value":-0.0052,"n":5097,"interval":{"low":-0.019,"high":0.0085}}},
				"checks":[{"name":"answers","passed":true,"why":"all are finite"}]}}}},
			{"name":"publish","use":"publish","state":"succeeded","attempt":1,"began":"2026-11-26T10:14:50Z","ended":"2026-11-26T10:14:51Z","outputs":{"version":{"value":{"model":"flights","version":2}}}}],
		"audit":[{"at":"2026-11-26T10:14:09Z","who":"an event","what":"started"}]}`
	rollouts = `{"rollouts":[{"model":"flights","alias":"champion","version":2,"shares":[0.1,0.5],"by":"pipeline learns","cause":"learns:20261126T101409.843-3f9383d3","created":"2026-11-26T10:14:52Z","ended":"2026-11-26T10:15:00Z","end":"promoted","why":"no guard is beyond",
		"latest":{"at":"2026-11-26T10:14:59Z","share":0.5,"answers":803,"verdict":"promote","why":"no guard is beyond","findings":[{"metric":"error_rate","version":0,"candidate":0.01,"answers":[1,2],"difference":0.01,"known":true,"low":-0.1,"high":0.1,"allowed":0.02,"state":"fine"}]},
		"steps":[{"at":"2026-11-26T10:14:55Z","share":0.1,"answers":113,"verdict":"advance","why":"well"}]}]}`
	someAlerts = `{"at":"2026-11-26T10:14:08Z","rules":1,"active":[{"id":"a1","rule":"auc","model":"flights","version":"1","slice":{"carrier":"B6"},"metric":"auc","value":0.6,"low":0.5,"high":0.7,"count":840,"side":"below","threshold":0.7,"window":"14d","severity":"page","description":"wrong too often","since":"2026-11-26T10:14:00Z","seen":"2026-11-26T10:14:08Z","raised":"2026-11-26T10:14:08Z","summary":"auc of flights version 1 is 0.6"}],
		"pending":[],"resolved":[{"id":"a0","rule":"auc","model":"flights","metric":"auc","value":0.6,"count":840,"side":"below","threshold":0.7,"window":"14d","severity":"ticket","since":"2026-11-25T10:14:00Z","raised":"2026-11-25T10:14:08Z","resolved":"2026-11-25T12:00:00Z","why":"recovered"}],"troubles":{"auc":"there is no reference"},"unsent":1}`
	anAlert     = `{"id":"a1","rule":"auc","model":"flights","version":"1","metric":"auc","value":0.6,"low":0.5,"high":0.7,"count":840,"examples":[{"prediction":"order-7","row":1},{"prediction":"swept/away"}],"side":"below","threshold":0.7,"window":"14d","severity":"page","description":"wrong too often","since":"2026-11-26T10:14:00Z","seen":"2026-11-26T10:14:08Z","raised":"2026-11-26T10:14:08Z","summary":"auc of flights version 1 is 0.6"}`
	aPrediction = `{"id":"order-7","answers":[{"time":"2026-11-26T09:00:00Z","as_of":"2026-11-26T09:00:00Z","model":"flights","version":1,"duration_us":812,"weight":1,"trace":"` + aTrace + `","traced":true,
		"rows":[{"row":0,"inputs":{"carrier":"AA"},"outputs":{"probability":0.5},"verdict":{"task":"binary","correct":true,"log_loss":0.7}},
			{"row":1,"inputs":{"carrier":"UA"},"outputs":{"probability":0.99},"outcomes":[{"value":false,"time":"2026-11-26T10:00:00Z","taken":"2026-11-26T10:05:00Z","counts":true,"joined":true}],"verdict":{"task":"binary","correct":false,"log_loss":4.61}}]}]}`
	moved     = `{"model":"flights","versions":[{"version":1,"examples":{"dewp":[{"prediction":"odd-1","row":3}]},"report":{"verdict":"drifted","columns":[{"name":"visib","kind":"numeric","verdict":"steady","psi":0.01},{"name":"dewp","kind":"numeric","verdict":"drifted","psi":1.5,"reference":{"p50":40},"current":{"p50":71}}]}}]}`
	someRules = `{"version":1,"rules":[{"name":"auc","model":"flights","version":"champion","metric":"auc","window":"14d","below":0.7,"min":500,"confident":true,"for":2,"severity":"page","description":"wrong too often"},{"name":"burns","model":"*","metric":"budget_burn","objective":0.999,"window":"1h","above":14.4}]}`
	aModel    = `{"name":"flights","versions":[],"aliases":{"champion":2},"history":[{"seq":2,"alias":"champion","from":1,"to":1,"after":{"canaries":[{"version":2,"share":0.1}]},"at":"2026-11-26T10:14:53Z","by":"rollout","why":"rollout: it begins","cause":"learns:20261126T101409.843-3f9383d3"},
		{"seq":3,"alias":"champion","from":1,"to":2,"at":"2026-11-26T10:15:00Z","by":"rollout","why":"rollout: no guard is beyond","cause":"learns:20261126T101409.843-3f9383d3"},{"seq":4,"alias":"champion","to":7,"at":"2026-11-26T10:16:00Z","why":"of another run","cause":"learns:other"}]}`
	aVersion = `{"name":"flights","version":2,"created_at":"2026-11-26T10:14:51Z","cause":"learns:20261126T101409.843-3f9383d3"}`
	letters  = `{"deadletters":[{"id":"20261126T101409.843Z-00000000000000000000000000000000","at":"2026-11-26T10:14:09.843Z","destination":"http://feedback/events","code":400,"reason":"it is no outcome","event_id":"e1","type":"dev.pilotlight.outcome.observed.v1","source":"/shop","subject":"s"}],"cursor":"20261126T101409.843Z-00000000000000000000000000000000"}`
	aLetter  = `{"id":"20261126T101409.843Z-00000000000000000000000000000000","at":"2026-11-26T10:14:09.843Z","destination":"http://feedback/events","code":503,"reason":"it was away","event_id":"e1","type":"dev.pilotlight.outcome.observed.v1","source":"/shop",
		"event":{"specversion":"1.0","id":"e1","type":"dev.pilotlight.outcome.observed.v1","source":"/shop","mine":"stays","data":{"outcomes":[{"value":12345678901234567890}]}}}`
	types   = `{"since":"2026-11-26T10:00:00Z","types":[{"type":"dev.pilotlight.outcome.observed.v1","summary":"It is known what came true.","source":"/pilotlight/outcomes","subject":"none","takers":[{"trigger":"outcomes-to-feedback","subscriber":"feedback/events","filter":"exact"}],"seen":12,"last":"2026-11-26T10:14:00Z"}]}`
	someLog = `{"logs":[{"step":"fit","attempt":2,"at":"2026-11-26T10:14:40Z","last":9,"lines":[{"number":9,"attempt":2,"at":"2026-11-26T10:14:40Z","level":"INFO","text":"trained 71 trees"}]}]}`
	letter  = "20261126T101409.843Z-00000000000000000000000000000000"
	someRun = "20261126T101409.843-3f9383d3"
)

// answers are those of an API, each changed by change.
func answers(change func(string) string) map[string]http.HandlerFunc {
	list := func(one string) string { return `{"pipelines":[` + one + `]}` }
	routes := map[string]http.HandlerFunc{}
	for pattern, answer := range map[string]string{
		"/admin/v1/pipelines":                              list(aPipeline),
		"/admin/v1/pipelines/{name}":                       aPipeline,
		"/admin/v1/pipelines/{name}/runs":                  `{"runs":[{"id":"` + someRun + `","at":"2026-11-26T10:14:09Z","version":3,"state":"failed","took":"3s","reason":"it broke","why":"to see","by":"ann","cause":{"id":"a1","type":"dev.pilotlight.alert.raised.v1","source":"/a","subject":"auc:flights:1"}}],"next":"` + someRun + `"}`,
		"/admin/v1/pipelines/{name}/versions/{v}":          `{"version":2,"at":"2026-11-25T10:00:00Z","by":"bob","text":"pipeline: older"}`,
		"/admin/v1/pipelines/{name}/runs/{id}":             aRun,
		"/admin/v1/pipelines/{name}/runs/{id}/logs":        someLog,
		"/admin/v1/rollouts":                               rollouts,
		"/admin/v1/alerts":                                 someAlerts,
		"/admin/v1/alerts/rules":                           someRules,
		"/admin/v1/alerts/{id}":                            anAlert,
		"/admin/v1/predictions/{id}":                       aPrediction,
		"/admin/v1/drift/{model}":                          moved,
		"/admin/v1/models/{model}":                         aModel,
		"/admin/v1/models/{model}/versions/{version}":      aVersion,
		"/admin/v1/models/{model}/versions/{version}/card": `{"metrics":[{"metric":"auc","better":"higher","candidate":{"value":0.7,"n":5},"champion":{"value":0.6,"n":5}}]}`,
		"/admin/v1/deadletters":                            letters,
		"/admin/v1/deadletters/{id}":                       aLetter,
		"/admin/v1/events":                                 types,
	} {
		routes["GET "+pattern] = says(change(answer))
	}
	routes["GET /admin/v1/predictions/"+idInPath("swept/away")] = fails(fault.New(fault.NotFound, "no such prediction is in the log"))
	return routes
}

var pages = []string{
	"/console/pipelines", "/console/pipelines/learns", "/console/pipelines/learns?version=2", "/console/pipelines/learns/runs/" + someRun,
	"/console/alerts", "/console/alerts/a1", "/console/events", "/console/events/" + letter,
}

// What the pages show of what the API says.
func TestRunsAlertsAndEvents(t *testing.T) {
	d := newDesk(t, false, answers(func(s string) string { return s }))
	for path, wants := range map[string][]string{
		"/console/pipelines":                                          {"learns anew", "alert.raised model=flights", "every 30d", "/console/pipelines/learns/runs/" + someRun, "promoted", "its run", "none really"},
		"/console/pipelines/learns":                                   {"Run now", "<svg class=\"graph\"", "rows ← data.train", "holdout ← data.holdout", "it broke", "?version=2", "after=" + someRun, "events start one in 1d at most", "pipeline: learns"},
		"/console/pipelines/learns?version=2":                         {"pipeline: older", "Version 2 of 3", "by bob"},
		"/console/pipelines/learns/runs/" + someRun:                   {"log_loss", "passed", "version 2 of flights published", "alias champion gives 10 % to version 2", "alias champion names version 2", "rollout promoted", "alert auc", "auc of flights version 1 is 0.6", "0.7", "error_rate", "step fit succeeded", "in a process", "/logs/fit"},
		"/console/pipelines/learns/runs/" + someRun + "/logs/fit":     {"trained 71 trees", "Older lines are left out"},
		"/console/pipelines/learns/runs/" + someRun + "/logs/nowhere": {"There is no log of such a step"},
		"/console/alerts":                                             {"0.6 (0.5 to 0.7)", "below 0.7", "version 1, carrier=B6", "/console/pipelines/learns/runs/" + someRun, "the value is back", "500 rows or more, the whole interval, 2 times in a row", "no verdict: there is no reference", "objective 99.9 %", "every one"},
		"/console/alerts/a1": {
			"auc of flights version 1 is 0.6", "below 0.7", "order-7", "0.99", "log loss 4.61", "wrong", "812 µs", "/console/traces/" + aTrace, "no such prediction is in the log", "its median went from 40 to 71", "/console/predictions/odd-1?row=3", "/console/predictions/order-7?row=1", "row 1",
			"quality.svg?span=30d&amp;until=2026-11-26", "run started", "version 2 of flights published", "names version 2", "/console/pipelines/learns/runs/" + someRun + "#rollout", "?model=flights&amp;version=1",
		},
		"/console/events": {"outcome.observed", "it is no outcome", "/console/events/" + letter, "feedback/events", "12", "after=" + letter},
		"/console/events?type=other&after=" + letter: {"every dead letter of the type other"},
		"/console/events/" + letter:                  {"as often as the broker", "it was away", "mine", "stays", "12345678901234567890", "It is known what came true."},
	} {
		_, page := d.open(path, http.StatusOK)
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
		if strings.Contains(page, "of another run") {
			t.Errorf("%s tells of a move that another run made", path)
		}
	}
	chain := []string{"alert auc", "run started", "step fit", "step judge", "version 2 of flights published", "gives 10 %", "names version 2", "rollout promoted", "run succeeded"}
	_, page := d.open("/console/pipelines/learns/runs/"+someRun, http.StatusOK)
	for _, link := range chain {
		at := strings.Index(page, link)
		if at < 0 {
			t.Fatalf("%q does not stand behind what led to it", link)
		}
		if strings.Contains(link, "alert") {
			page = page[strings.Index(page, `<ol class="chain">`):]
			at = strings.Index(page, link)
		}
		page = page[at:]
	}
}

// Whatever strangers name things, or say, it is text, and not more of it than a page can bear.
func TestHostileRunsAlertsAndEvents(t *testing.T) {
	for name, text := range map[string]string{"hostile": hostile, "long": hostile + long} {
		d := newDesk(t, false, answers(func(s string) string { return spoilt(t, s, text) }))
		for _, path := range append(pages, "/console/pipelines/learns/runs/"+someRun+"/logs/"+url.PathEscape("<x>")) {
			if strings.HasSuffix(path, "%3Cx%3E") {
				continue // a name that no guard lets through
			}
			_, page := d.open(path, http.StatusOK)
			harmless(t, name+" "+path, page, 120_000)
		}
	}
}

// Lists that have grown stay pages: what there is too much of is left for the next, and said.
func TestManyRunsAlertsAndEvents(t *testing.T) {
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	routes := answers(func(s string) string { return s })
	var status map[string]json.RawMessage
	if err := json.Unmarshal([]byte(someAlerts), &status); err != nil {
		t.Fatal(err)
	}
	alert := strings.TrimSuffix(strings.TrimPrefix(string(status["active"]), "["), "]")
	routes["GET /admin/v1/alerts"] = says(fmt.Sprintf(`{"active":[%s],"pending":[],"resolved":[]}`, many(5000, alert)))
	routes["GET /admin/v1/rollouts"] = says(`{"rollouts":[` + many(5000, strings.TrimSuffix(strings.TrimPrefix(rollouts, `{"rollouts":[`), `]}`)) + `]}`)
	d := newDesk(t, false, routes)
	for _, path := range []string{"/console/alerts", "/console/pipelines"} {
		if _, page := d.open(path, http.StatusOK); len(page) > 400_000 {
			t.Errorf("%s has %d bytes", path, len(page))
		}
	}
	if _, page := d.open("/console/alerts", http.StatusOK); !strings.Contains(page, "4,800 more are not shown") {
		t.Error("nothing tells that alerts are left out")
	}
}

// Forms ask what they say, in their reader's name, and tell what came of it.
func TestFormsOfRunsAndEvents(t *testing.T) {
	asked := make(chan string, 10)
	takes := func(status int, answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b := new(strings.Builder)
			if r.Body != nil {
				buf := make([]byte, 1000)
				n, _ := r.Body.Read(buf)
				b.Write(buf[:n])
			}
			asked <- r.Method + " " + r.URL.RequestURI() + " " + b.String()
			w.WriteHeader(status)
			_, _ = w.Write([]byte(answer))
		}
	}
	routes := answers(func(s string) string { return s })
	routes["POST /admin/v1/pipelines/{name}/runs"] = takes(http.StatusCreated, `{"id":"`+someRun+`"}`)
	routes["DELETE /admin/v1/pipelines/{name}/runs/{id}"] = takes(http.StatusConflict, `{"error":"the run has ended already"}`)
	routes["POST /admin/v1/deadletters/{id}/replay"] = takes(http.StatusOK, `{"replayed":1,"failed":[]}`)
	routes["DELETE /admin/v1/deadletters/{id}"] = takes(http.StatusNoContent, "")
	routes["POST /admin/v1/deadletters/replay"] = takes(http.StatusOK, `{"replayed":3,"failed":[{"id":"l1","error":"it went wrong"}]}`)
	d := newDesk(t, false, routes)
	for _, test := range []struct {
		path       string
		form       url.Values
		want, next string
		said       string
	}{
		{"/console/pipelines/learns/runs", url.Values{"why": {"to see"}}, `POST /admin/v1/pipelines/learns/runs {"by":"console","why":"to see"}`, "/console/pipelines/learns/runs/" + someRun, "The run has begun."},
		{"/console/pipelines/learns/runs/" + someRun + "/cancel", nil, "DELETE /admin/v1/pipelines/learns/runs/" + someRun + "?by=console ", "/console/pipelines/learns/runs/" + someRun, "the run has ended already"},
		{"/console/events/" + letter + "/replay", nil, "POST /admin/v1/deadletters/" + letter + "/replay ", "/console/events", "with the broker again"},
		{"/console/events/" + letter + "/delete", nil, "DELETE /admin/v1/deadletters/" + letter + " ", "/console/events", "deleted"},
		{"/console/events/replay", url.Values{"type": {"a b"}, "sure": {"yes"}}, `POST /admin/v1/deadletters/replay {"type":"a b"}`, "/console/events?type=a+b", "3 events are with the broker again, and 1 are not, such as l1: it went wrong"},
		{"/console/events/replay", url.Values{"sure": {"yes"}}, `POST /admin/v1/deadletters/replay {"all":true}`, "/console/events", "3 events"},
		{"/console/events/replay", nil, "", "/console/events", "tick the box"},
	} {
		answer, _ := d.send(test.path, test.form, http.StatusSeeOther)
		if next := answer.Get("Location"); next != test.next {
			t.Errorf("%s leads to %s, want %s", test.path, next, test.next)
		}
		got := ""
		select {
		case got = <-asked:
		default:
		}
		if got != test.want {
			t.Errorf("%s asks %q, want %q", test.path, got, test.want)
		}
		if _, page := d.open(test.next, http.StatusOK); !strings.Contains(page, test.said) {
			t.Errorf("%s: the next page does not say %q", test.path, test.said)
		}
	}
}

// What another function tells is an extra: where it is away a sentence says so, and the page stays.
func TestOthersAreAway(t *testing.T) {
	for away, pages := range map[string]map[string][]string{
		"GET /admin/v1/alerts":                                 {"/console/pipelines/learns/runs/" + someRun: {"alert auc:flights:1", "it is away", "version 2 of flights published"}},
		"GET /admin/v1/pipelines":                              {"/console/alerts": {"auc", "Which runs they led to can't be told: it is away"}},
		"GET /admin/v1/pipelines/{name}/runs":                  {"/console/alerts": {"auc", "Which runs they led to can't be told: it is away"}},
		"GET /admin/v1/rollouts":                               {"/console/pipelines": {"learns anew", "it is away", "!rollout start MODEL"}, "/console/pipelines/learns/runs/" + someRun: {"alert auc", "Not all that came of the version is told: it is away", "alias champion names version 2"}},
		"GET /admin/v1/models/{model}":                         {"/console/pipelines/learns/runs/" + someRun: {"Not all that came of the version is told: it is away", "rollout promoted", "!alias champion names"}},
		"GET /admin/v1/models/{model}/versions/{version}":      {"/console/pipelines/learns/runs/" + someRun: {"Not all that came of the version is told: it is away"}},
		"GET /admin/v1/models/{model}/versions/{version}/card": {"/console/pipelines/learns/runs/" + someRun: {"Not all that came of the version is told: it is away", "log_loss"}},
	} {
		routes := answers(func(s string) string { return s })
		routes[away] = refuses(fault.Unavailable, "it is away")
		d := newDesk(t, false, routes)
		for path, want := range pages {
			_, page := d.open(path, http.StatusOK)
			has(t, page, want...)
			if t.Failed() {
				t.Fatalf("%s without %s", path, away)
			}
		}
	}
}

package console

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

// refuses answers with a fault.
func refuses(kind fault.Kind, sentence string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { serve.Error(w, r, fault.New(kind, "%s", sentence)) }
}

// has fails where a page lacks one of these, or has one that begins with "!".
func has(t *testing.T, page string, want ...string) {
	t.Helper()
	for _, w := range want {
		if no, not := strings.CutPrefix(w, "!"); strings.Contains(page, strings.TrimPrefix(w, "!")) == not {
			t.Errorf("the page has %q: %t", no, not)
		}
	}
}

// sixty writes numbers of slots, the last of which are those.
func sixty(last ...float64) string {
	all := append(make([]float64, 60-len(last)), last...)
	b, _ := json.Marshal(all) // numbers always do
	return string(b)
}

func beatOf(last ...float64) string {
	return fmt.Sprintf(`"requests":%s,"failures":%s,"p50_us":%s,"p99_us":%s,"rate":12.5`, sixty(last...), sixty(1), sixty(300), sixty(0, 1234, 0))
}

const oneModel = `{"name":"flights","all":41,"versions":[
  {"version":2,"runtime":"onnx","size":2048,"created_at":"2026-11-01T00:00:00Z","created_by":"retrain","cause":"retrain:20261101T000000.000-0123abcd","features":"flights","signature":{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"probability","datatype":"FP32","shape":[-1]}]}},
  {"version":3,"runtime":"onnx","size":2048,"created_at":"2026-11-02T00:00:00Z","signature":{"inputs":[{"name":"a"},{"name":"b"},{"name":"c"},{"name":"d"},{"name":"e"}],"outputs":[]}}],
 "aliases":{"champion":2,"old":1},"splits":{"champion":{"canaries":[{"version":3,"share":0.25}],"shadow":4}},
 "history":[{"seq":1,"alias":"champion","to":1,"at":"2026-10-01T00:00:00Z","by":"ann","why":"first version"},
  {"seq":2,"alias":"champion","from":1,"to":2,"at":"2026-11-01T00:00:00Z","by":"retrain","cause":"retrain:20261101T000000.000-0123abcd"},
  {"seq":3,"alias":"champion","from":2,"to":2,"after":{"canaries":[{"version":3,"share":0.25}]},"at":"2026-11-02T00:00:00Z","by":"bob","why":"<b>try</b>","cause":"x:y"}]}`

const oneRollout = `{"rollouts":[{"model":"flights","alias":"champion","version":3,"created":"2026-11-02T00:00:00Z","latest":{"at":"2026-11-02T01:00:00Z","share":0.25,"answers":1200,"verdict":"hold","why":"nothing is worse so far","findings":[{"metric":"error_rate","version":0.01,"candidate":0.011,"state":"fine"}]}},
 {"model":"other","alias":"champion","version":9,"ended":"2026-11-02T00:00:00Z","end":"promoted","why":"it is as good"}]}`

func TestOverview(t *testing.T) {
	routes := map[string]http.HandlerFunc{
		"GET /admin/v1/live":           says(`{"at":"2026-11-26T00:00:00Z","every_s":2,"models":[{"model":"flights","version":2,` + beatOf(0, 20, 50) + `}],"total":{` + beatOf(0, 20, 50) + `}}`),
		"GET /admin/v1/models":         says(`{"models":[{"name":"flights"}],"next":"flights"}`),
		"GET /admin/v1/models/flights": says(oneModel),
		"GET /admin/v1/alerts":         says(`{"active":[{"id":"a1","rule":"drifted","model":"flights","version":"2","severity":"page","summary":"dewp of <i>flights</i> drifted","raised":"2026-11-26T00:00:00Z"}]}`),
		"GET /admin/v1/rollouts":       says(oneRollout),
		"GET /admin/v1/pipelines":      says(`{"pipelines":[{"name":"retrain","run":{"id":"20261101T000000.000-0123abcd","state":"running","took":"12s"}},{"name":"never"}]}`),
		"GET /admin/v1/deadletters":    says(`{"deadletters":[{},{}],"cursor":"x"}`),
	}
	_, page := newDesk(t, false, routes).open("/console", http.StatusOK)
	has(t, page, `id="tile-rate"><b>12.5</b>`, `<b>1&#43;</b>models`, `<b>1</b>alerts raised`, `<b>1</b>rollouts under way`, `<b>1</b>runs active`, `<b>2&#43;</b>dead letters`, `<b>1.23 ms</b>`,
		`href="/console/models/flights"`, `href="/console/alerts#a1"`, `<span class="tag bad">page</span>`, "dewp of &lt;i&gt;flights&lt;/i&gt; drifted", "nothing is worse so far", `href="/console/pipelines/retrain/runs/20261101T000000.000-0123abcd"`,
		"from 1 to 2", "canary 3: 25 %", "names 1", "12.5 requests a second now, and at most 25 in the last two minutes", "!other")

	// Each part is a sentence where its API is away, and the page stays.
	for pattern := range routes {
		routes[pattern] = refuses(fault.Unavailable, "it is away: "+pattern)
	}
	_, page = newDesk(t, false, routes).open("/console", http.StatusOK)
	has(t, page, "Live numbers: it is away: GET /admin/v1/live", "it is away: GET /admin/v1/models", "it is away: GET /admin/v1/alerts", "it is away: GET /admin/v1/rollouts", "it is away: GET /admin/v1/pipelines", `<b>?</b>dead letters`)

	// And there is a sentence where there is nothing yet.
	d := newDesk(t, false, map[string]http.HandlerFunc{
		"GET /admin/v1/live": says(`{"every_s":2,"models":[],"total":{"requests":` + sixty() + `,"failures":` + sixty() + `,"p50_us":` + sixty() + `,"p99_us":` + sixty() + `}}`), "GET /admin/v1/models": says(`{"models":[]}`),
		"GET /admin/v1/alerts": says(`{"active":[]}`), "GET /admin/v1/rollouts": says(`{"rollouts":[]}`), "GET /admin/v1/pipelines": says(`{"pipelines":[]}`), "GET /admin/v1/deadletters": says(`{"deadletters":[]}`),
	})
	_, page = d.open("/console", http.StatusOK)
	has(t, page, "Nobody has asked a model", "None is raised.", "pilotlight rollout start", "pilotlight pipeline apply", "pilotlight model push", "no answers in the last two minutes", "<b>0</b>dead letters", "!NaN", "!tile bad")
}

func TestModels(t *testing.T) {
	var asked string
	live := says(`{"every_s":2,"models":[{"model":"flights","version":2,"rate":1},{"model":"flights","version":3,"rate":0.5}]}`)
	d := newDesk(t, false, map[string]http.HandlerFunc{
		"GET /admin/v1/models": func(w http.ResponseWriter, r *http.Request) {
			if asked = r.URL.RawQuery; strings.Contains(asked, "prefix=none") {
				_, _ = io.WriteString(w, `{"models":[]}`)
				return
			}
			_, _ = io.WriteString(w, `{"models":[{"name":"flights","versions":3,"aliases":{"old":1,"champion":2},"splits":{"champion":{"canaries":[{"version":3,"share":0.25}],"shadow":4}}}],"next":"fl-x"}`)
		},
		"GET /admin/v1/live": func(w http.ResponseWriter, r *http.Request) { live(w, r) },
	})
	_, page := d.open("/console/models?prefix=fl&after=fa", http.StatusOK)
	if asked != "limit=100&prefix=fl&after=fa" {
		t.Errorf("asked for %s", asked)
	}
	has(t, page, `href="/console/models?prefix=fl&amp;after=fl-x"`, "champion <b>2</b> <i>25 % of 3</i> <i>shadow 4</i>", `<td class="num">1.5</td>`, `href="/console/models/flights/try"`)
	_, page = d.open("/console/models?prefix=none", http.StatusOK)
	has(t, page, "No model's name begins with “none”")
	live = refuses(fault.Unavailable, "away")
	_, page = d.open("/console/models", http.StatusOK)
	has(t, page, "flights", "!away")
}

func TestModel(t *testing.T) {
	var asked string
	var sent []string
	takes := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		sent = append(sent, r.Method+" "+r.URL.RequestURI()+" "+string(b))
		if strings.Contains(string(b), "refuse") {
			refuses(fault.Conflict, `alias "champion" was moved meanwhile`)(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"seq":4,"alias":"champion","from":2,"to":3}`)
	}
	d := newDesk(t, false, map[string]http.HandlerFunc{
		"GET /admin/v1/models/flights": func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.RawQuery
			_, _ = io.WriteString(w, oneModel)
		},
		"GET /admin/v1/models/none":         refuses(fault.NotFound, `model "none" does not exist`),
		"GET /admin/v1/live":                says(`{"every_s":2,"models":[{"model":"flights","version":2,` + beatOf(50) + `}],"total":{}}`),
		"GET /admin/v1/rollouts":            says(oneRollout),
		"/admin/v1/models/flights/aliases/": takes, "DELETE /admin/v1/rollouts/flights/champion": takes,
	})
	_, page := d.open("/console/models/flights", http.StatusOK)
	if asked != "limit=20&moves=30" {
		t.Errorf("asked for %s", asked)
	}
	const run = `href="/console/pipelines/retrain/runs/20261101T000000.000-0123abcd"`
	has(t, page, `aria-label="version 2: 75 %; version 3: 25 %; "`, "shadow: version 4", "canary of champion", run, "features flights", "a, b, c and 2 more", `href="/console/models/flights?below=2#versions"`,
		"&lt;b&gt;try&lt;/b&gt;", "x:y", "nothing is worse so far", "error_rate", "Cancel this rollout", `value="promote"`, "It is refused if somebody else has moved the alias meanwhile.", `src="/console/models/flights/quality.svg?span=90d"`, `<option value="90d" selected>`, "2.0 KiB", "12.5", "!other")
	if n := strings.Count(page, `name="saw" value="3"`); n != 5 { // a rollback of each of two aliases, the canary's form, a move, and a new canary
		t.Errorf("%d forms say what the page showed, want 5", n)
	}
	d.open("/console/models/none", http.StatusNotFound)
	d.open("/console/models/flights?span=1d", http.StatusBadRequest)
	d.open("/console/models/flights?until=tomorrow", http.StatusBadRequest)

	const path = "/console/models/flights/aliases"
	for _, test := range []struct{ form, sent, said string }{
		{"do=move&alias=champion&version=3&why=better&saw=3", `PUT /admin/v1/models/flights/aliases/champion {"version":3,"seen":3,"by":"console","why":"better"}`, "Done, as move 4: champion from 2 to 3."},
		{"do=rollback&alias=champion&saw=7&by=ann&why=worse", `POST /admin/v1/models/flights/aliases/champion/rollback {"seen":3,"by":"ann","why":"worse"}`, "Done, as move 4"},
		{"do=canary&alias=champion&version=3&share=12.5&saw=3", `PUT /admin/v1/models/flights/aliases/champion/canaries/3 {"share":0.125,"seen":3,"by":"console"}`, "Done"},
		{"do=promote&alias=champion&version=3&saw=3", `POST /admin/v1/models/flights/aliases/champion/promote {"version":3,"seen":3,"by":"console"}`, "Done"},
		{"do=end&alias=champion&version=3&saw=3", `DELETE /admin/v1/models/flights/aliases/champion/canaries/3 {"seen":3,"by":"console"}`, "Done"},
		{"do=cancel&alias=champion&by=ann", `DELETE /admin/v1/rollouts/flights/champion?by=ann `, "The rollout of champion is cancelled."},
		{"do=move&alias=new&version=3&saw=3", `PUT /admin/v1/models/flights/aliases/new {"version":3,"seen":0,"by":"console"}`, "Done"},
		{"do=move&alias=champion&version=3&saw=2", "", "champion was moved meanwhile, by move 3"},
		{"do=canary&alias=champion&version=3&share=5&saw=0", "", "champion was moved meanwhile, by move 3"},
		{"do=rollback&alias=champion", "", "expected the number of the newest move that the page showed"},
		{"do=move&alias=champion&version=3&why=refuse&saw=3", `PUT /admin/v1/models/flights/aliases/champion {"version":3,"seen":3,"by":"console","why":"refuse"}`, "was moved meanwhile"},
		{"do=move&alias=champion&version=x", "", "expected the number of a version"},
		{"do=move&version=3", "", "say which alias is meant"},
		{"do=canary&alias=a&version=3&share=some", "", "expected per cent such as 5"},
		{"do=rollback&alias=a&saw=x", "", "expected the number of the newest move"},
		{"do=nothing&alias=a&saw=3", "", "which is nothing that can be done"},
	} {
		sent = nil
		form, err := url.ParseQuery(test.form)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := d.send(path, form, http.StatusSeeOther)
		if got := strings.Join(sent, "; "); got != test.sent {
			t.Errorf("%s: sent %s, want %s", test.form, got, test.sent)
		}
		_, page := d.open(answer.Get("Location"), http.StatusOK)
		has(t, page, test.said)
	}
}

func TestVersion(t *testing.T) {
	const manifest = `{"name":"flights","version":3,"runtime":"onnx","digest":"sha256:ab","size":1000,"memory":{"session":2000,"loading":3000},"created_at":"2026-11-02T00:00:00Z","created_by":"ann",
	 "signature":{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"p","datatype":"FP32","shape":[-1,2],"labels":["late","<s>"]}]},"cache":{"ttl":"1h0m0s"},"labels":{"commit":"abc"}}`
	const made = `{"pipeline":"retrain","run":"20261101T000000.000-0123abcd","data":{"from":"2013-01-01T00:00:00Z","cut":"2013-02-01T00:00:00Z","until":"2013-03-01T00:00:00Z","train":12345,"holdout":678,"service":"flights","views":{"weather":2}},
	 "verdict":{"passed":true,"why":"it is better","against":2,"checks":[{"name":"slices","passed":false,"why":"B6 is worse"}]},
	 "metrics":[{"metric":"log_loss","candidate":{"value":0.3,"interval":{"low":0.29,"high":0.31}},"champion":{"value":0.35},"worse":{"value":-0.05,"interval":{"low":-0.06,"high":-0.04}}},{"metric":"auc","candidate":{"value":0.8}}],
	 "slices":[{"column":"carrier","value":"B6","rows":77,"metric":{"metric":"log_loss","candidate":{"value":0.5},"worse":{"value":0.1,"interval":{"low":0.05,"high":0.2}}},"behind":true}],
	 "latency":{"candidate":{"p50":12,"p99":34},"champion":{"p50":11,"p99":33}},"parity":{"rows":678,"beyond":2,"largest":0.01},
	 "reference":{"columns":[{"name":"dewp","kind":"numeric","missing":0.01,"low":1,"middle":2,"high":3},{"name":"carrier","kind":"categorical","most":["UA","B6"]}]}}`
	routes := map[string]http.HandlerFunc{
		"GET /admin/v1/models/flights/versions/3": says(manifest), "GET /admin/v1/models/flights/versions/3/card": says(made), "GET /admin/v1/drift/flights/3/reference": says(`{"rows":12345,"columns":[{},{}]}`),
		"GET /admin/v1/models/flights/versions/9": refuses(fault.NotFound, "there is no version 9"),
	}
	d := newDesk(t, false, routes)
	_, page := d.open("/console/models/flights/versions/3", http.StatusOK)
	has(t, page, "flights, version 3", "[*, 2]", "late, &lt;s&gt;", "commit", "&#34;ttl&#34;: &#34;1h0m0s&#34;", "2 columns of 12,345 rows", "0.3 (0.29 to 0.31)", `<td class="good">-0.05`, `<td class="bad">0.1`, "12,345 to learn from, 678 held out", "weather (version 2)",
		"2 of 678 rows differ", "UA, B6", "behind", "Beside version 2", `runs/20261101T000000.000-0123abcd">The run`, "34 µs the slowest", "<td>–</td>")
	d.open("/console/models/flights/versions/9", http.StatusNotFound)
	routes["GET /admin/v1/models/flights/versions/3/card"] = refuses(fault.NotFound, "version 3 has no card: no pipeline made it")
	routes["GET /admin/v1/drift/flights/3/reference"] = refuses(fault.NotFound, "there is no reference")
	_, page = newDesk(t, false, routes).open("/console/models/flights/versions/3", http.StatusOK)
	has(t, page, "version 3 has no card: no pipeline made it", "there is no reference. Make one: <code>pilotlight drift reference flights 3 FILE.parquet</code>")
}

func TestTry(t *testing.T) {
	var sent string
	d := newDesk(t, false, map[string]http.HandlerFunc{
		"GET /v2/models/m":                              says(`{"inputs":[{"name":"carrier","datatype":"BYTES","shape":[-1,1]},{"name":"day","datatype":"INT64","shape":[-1]},{"name":"late","datatype":"BOOL","shape":[]},{"name":"x","datatype":"FP32","shape":[-1,2,2]}]}`),
		"GET /admin/v1/models/m/versions/champion":      says(`{"features":"flights","warmup":{"sample":{"inputs":[{"name":"carrier","shape":[1,1],"datatype":"BYTES","data":[["it's"]]}]}}}`),
		"GET /admin/v1/models/m/versions/champion/card": says(`{"reference":{"columns":[{"name":"carrier","most":["UA"]},{"name":"day","middle":3.7},{"name":"x","middle":1}]}}`),
		"GET /v2/models/none":                           refuses(fault.NotFound, `model "none" does not exist`),
		"POST /v2/models/m/infer": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if sent = string(b); strings.Contains(sent, "XX") {
				refuses(fault.Invalid, "there is no such carrier")(w, r)
				return
			}
			w.Header().Set("Prediction-Id", "p-1")
			w.Header().Set("Cache-Status", "pilotlight; hit")
			_, _ = io.WriteString(w, `{"model_name":"m","model_version":"2","outputs":[{"name":"p","datatype":"FP32","shape":[1],"data":[0.25]}]}`)
		},
	})
	_, page := d.open("/console/models/m/try", http.StatusOK)
	has(t, page, `name="input-0" type="text" value="it&#39;s"`, ">sample<", `name="input-1" type="number" step="any" value="4"`, ">typical<", "<option selected>false", "[0, 0, 0, 0]</textarea>", "features of the service", `value="" placeholder="now`,
		"it&#39;\\&#39;&#39;s", "/v2/models/m/infer&#39; -H &#39;Content-Type", "Nothing yet", "!Authorization")
	form := url.Values{"input-0": {"B6"}, "input-1": {"7"}, "input-2": {"true"}, "input-3": {"[[[1,2],[3,4]]]"}, "time": {"2013-12-24T00:25:00Z"}}
	_, page = d.send("/console/models/m/try", form, http.StatusOK)
	const want = `{"parameters":{"feature_time":"2013-12-24T00:25:00Z"},"inputs":[{"name":"carrier","shape":[1,1],"datatype":"BYTES","data":["B6"]},{"name":"day","shape":[1],"datatype":"INT64","data":[7]},{"name":"late","shape":[],"datatype":"BOOL","data":[true]},{"name":"x","shape":[1,2,2],"datatype":"FP32","data":[[[1,2],[3,4]]]}]}`
	if got := strings.NewReplacer("\n", "", " ", "").Replace(sent); got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	has(t, page, `href="/console/predictions/p-1"`, "pilotlight; hit", "[0.25]", `href="/console/models/m/versions/2"`, `value="B6"`)
	for field, wrong := range map[string]string{"input-1": "seven", "input-3": "{}", "input-0": "XX"} {
		asked := url.Values{}
		for k, v := range form {
			asked[k] = v
		}
		asked.Set(field, wrong)
		_, page = d.send("/console/models/m/try", asked, http.StatusOK)
		has(t, page, `role="alert"`, map[string]string{"input-1": "day is &#34;seven&#34;, expected one INT64", "input-3": "x is no JSON array", "input-0": "there is no such carrier"}[field])
	}
	_, page = d.send("/console/models/m/try", url.Values{"raw": {`{"inputs":[]}`}}, http.StatusOK)
	if sent != `{"inputs":[]}` {
		t.Errorf("by hand: sent %s", sent)
	}
	has(t, page, "[0.25]")
	d.open("/console/models/none/try", http.StatusNotFound)
	for _, shape := range []string{"[3037000500,3037000500]", "[4294967296,4294967296]", "[9223372036854775807,3]"} {
		d = newDesk(t, false, map[string]http.HandlerFunc{"GET /v2/models/m": says(`{"inputs":[{"name":"x","datatype":"FP32","shape":` + shape + `}]}`)})
		if _, page := d.open("/console/models/m/try", http.StatusOK); strings.Count(page, "0, ") < tensorsMost-1 {
			t.Errorf("%s: the form is not filled", shape)
		}
	}
}

func TestOverTime(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	answer := func(with, without string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.RawQuery, never) {
				_, _ = io.WriteString(w, `{"versions":[],"elsewhere":{"from":"2013-01-01T05:00:00Z","until":"2013-12-31T20:00:00Z"}}`)
				return
			}
			mu.Lock()
			asked = append(asked, r.URL.RawQuery)
			mu.Unlock()
			if strings.Contains(r.URL.RawQuery, "2014-06") {
				_, _ = io.WriteString(w, without)
				return
			}
			_, _ = io.WriteString(w, with)
		}
	}
	report := func(predicted int) string {
		return fmt.Sprintf(`{"task":"binary","predicted":%d,"outcomes":90,"metrics":{"auc":{"value":0.75,"n":90,"interval":{"low":0.7,"high":0.8}}}}`, predicted)
	}
	d := newDesk(t, false, map[string]http.HandlerFunc{
		"GET /admin/v1/quality/flights": answer(`{"model":"flights","from":"2013-12-02T00:00:00Z","until":"2014-01-01T00:00:00Z","versions":[{"version":1,"report":`+report(100)+`},{"version":1,"slice":"carrier=<B6>","report":`+report(10)+`},{"version":2,"why":"there is no output"}],
		 "windows":[{"from":"2013-12-02T00:00:00Z","until":"2013-12-03T00:00:00Z","versions":[{"version":1,"report":`+report(5)+`}]}]}`, `{"versions":[]}`),
		"GET /admin/v1/drift/flights": answer(`{"model":"flights","from":"2013-12-02T00:00:00Z","until":"2014-01-01T00:00:00Z","versions":[{"version":1,"report":{"verdict":"drifted","columns":[]}},{"version":2,"missing":"there is no training reference"}],
		 "windows":[{"from":"2013-12-02T00:00:00Z","until":"2013-12-03T00:00:00Z","versions":[{"version":1,"report":{"columns":[{"name":"dewp","kind":"numeric","verdict":"drifted","psi":1.5}]}}]}]}`, `{"versions":[]}`),
		"GET /admin/v1/quality/new":  says(`{"versions":[]}`),
		"GET /admin/v1/quality/away": refuses(fault.Unavailable, "feedback is away"),
	})
	_, page := d.open("/console/models/flights/over-time?span=30d", http.StatusOK)
	has(t, page, "flights: auc over time", "flights: drift over time", "Version 1: dewp drifted", "Version 2: there is no training reference.", "carrier=&lt;B6&gt;", "0.75 (0.7 to 0.8)", "can't be judged: there is no output")
	for _, q := range asked {
		if q != "from=2013-12-02T00:00:00Z&until=2014-01-01T00:00:00Z&every=24h0m0s" {
			t.Errorf("30 days: asked %s", q)
		}
	}
	answered, svg := d.open("/console/models/flights/quality.svg?span=all", http.StatusOK)
	if asked[2] != "from=2013-01-01T00:00:00Z&until=2014-01-01T00:00:00Z&every=168h0m0s" || answered.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("all: asked %s", asked[2])
	}
	has(t, svg, "flights: auc over time", "!B6")
	_, svg = d.open("/console/models/flights/drift.svg?span=7d&until=2013-06-30", http.StatusOK)
	if asked[3] != "from=2013-06-24T00:00:00Z&until=2013-07-01T00:00:00Z&every=12h0m0s" {
		t.Errorf("7 days: asked %s", asked[3])
	}
	has(t, svg, "dewp")
	_, svg = d.open("/console/models/flights/quality.svg?span=7d&until=2014-06-07", http.StatusOK)
	has(t, svg, "There are no predictions in this time.")
	_, svg = d.open("/console/models/new/drift.svg", http.StatusOK)
	has(t, svg, "No predictions are counted yet")
	_, svg = d.open("/console/models/away/quality.svg", http.StatusOK)
	has(t, svg, "feedback is away")
	_, svg = d.open("/console/models/away/quality.svg?span=x", http.StatusOK)
	has(t, svg, "expected 7d, 30d, 90d or all")
	d.open("/console/models/away/over-time", http.StatusServiceUnavailable)
}

package console

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
)

const aTrace = "0af7651916cd43dd8448eb211c80319c"

// api is what the pages of predictions, traces and features ask for.
func api() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /admin/v1/predictions": says(`{"predictions":[{"id":"order-7","time":"2026-11-26T10:00:00Z","as_of":"2013-07-01T10:00:00Z","model":"flights","version":3,"rows":1,"duration_us":812,
			"inputs":{"carrier":"UA","flight":1545},"outputs":{"probability":0.82}},{"id":"a/b","time":"2026-11-26T09:59:00Z","model":"flights","version":3,"rows":2,"kind":"deadline","error":"it took too long","duration_us":30000000}],"next":"0001.5"}`),
		"GET /admin/v1/predictions/{id}": says(`{"id":"order-7","answers":[{"time":"2026-11-26T10:00:00Z","as_of":"2013-07-01T10:00:00Z","model":"flights","version":3,"duration_us":812,"weight":1,"trace":"` + aTrace + `",
			"rows":[{"row":0,"inputs":{"carrier":"UA","origin":"EWR","none":null},"outputs":{"probability":0.82},
			"features":[{"name":"wind_speed","value":12.5,"time":"2013-07-01T06:00:00Z","age_s":14400},{"name":"visib","value":null},{"name":"aircraft_arr_delay","value":3,"time":"2013-07-01T09:59:00Z","age_s":60}],
			"outcomes":[{"value":true,"time":"2013-07-01T12:00:00Z","taken":"2026-11-26T10:05:00Z","counts":true,"joined":true}],"verdict":{"task":"binary","correct":false,"log_loss":1.71}}]}]}`),
		"GET /admin/v1/models/flights":          says(`{"name":"flights","history":[{"seq":1,"alias":"champion","to":2,"at":"2026-11-20T00:00:00Z"},{"seq":2,"alias":"champion","to":2,"after":{"canaries":[{"version":3}]},"at":"2026-11-25T00:00:00Z"},{"seq":3,"alias":"champion","to":4,"at":"2026-11-27T00:00:00Z"}]}`),
		"GET /admin/v1/models/{m}/versions/{v}": says(`{"features":"flights"}`),
		"GET /admin/v1/models":                  says(`{"models":[{"name":"flights","aliases":{"champion":3}}]}`),
		"GET /admin/v1/features":                says(definedFeatures),
		"GET /admin/v1/features/freshness":      says(`{"sources":[{"name":"weather","newest":"2013-07-01T09:00:00Z","written":"2026-11-26T09:00:00Z"}],"views":[{"name":"weather","materialized":"2026-11-26T09:00:00Z"}]}`),
		"GET /admin/v1/features/skew":           says(`{"at":"2026-11-26T09:00:00Z","vectors":100,"features":[{"feature":"weather:visib","compared":100,"mismatched":7,"rate":0.07,"kinds":{"late":7}}],"alarm":["weather:visib"]}`),
		"POST /get-online-features":             online,
		"GET /admin/v1/traces":                  says(`{"traces":[{"trace":"` + aTrace + `","name":"POST /v2/models/flights/infer","service":"gateway","start":"2026-11-26T10:00:00Z","duration_us":1500,"spans":4,"error":"it took too long","model":"flights"}],"next":"x"}`),
		"GET /admin/v1/traces/" + aTrace:        says(`{"trace":"` + aTrace + `","spans":` + someSpans + `}`),
		"GET /admin/v1/traces/{trace}":          fails(fault.New(fault.NotFound, "no trace of that name is kept")),
	}
}

const definedFeatures = `{"version":4,"at":"2026-11-26T08:00:00Z","by":"ann","entities":[{"name":"airport","keys":[{"name":"origin","type":"string"}]},{"name":"number","keys":[{"name":"flight","type":"int64"}]}],
	"sources":[{"name":"weather","fields":[{"name":"observed_at","type":"timestamp"},{"name":"origin","type":"string"},{"name":"wind_speed","type":"float32"},{"name":"visib","type":"float32"}]}],
	"views":[{"name":"weather","entities":["airport"],"source":"weather","ttl":"3h","version":1,"ids":{"visib":1}},{"name":"delays","entities":["airport","number"],"source":"weather","windows":[{"name":"mean_1h","aggregate":"mean","of":"visib","size":"1h","slide":"5m"}]}],
	"expressions":[{"name":"made","inputs":[{"name":"x","type":"int64"}],"features":[{"name":"y","type":"bool","value":"x < 1"}]}],
	"services":[{"name":"flights","features":[{"feature":"weather:*"},{"feature":"delays:mean_1h","as":"aircraft_arr_delay"}]}]}`

const someSpans = `[
	{"span":"b7ad6b7169203331","name":"POST /v2/models/flights/infer","service":"gateway","kind":"server","start":"2026-11-26T10:00:00Z","duration_us":1500},
	{"span":"00f067aa0ba902b7","parent":"b7ad6b7169203331","name":"predict","service":"predict","kind":"client","start":"2026-11-26T10:00:00.0002Z","duration_us":1000,"attributes":{"model":"flights","rows":2,"hit":false}},
	{"span":"10f067aa0ba902b7","parent":"00f067aa0ba902b7","name":"features","service":"predict","kind":"internal","start":"2026-11-26T10:00:00.0003Z","duration_us":300,"error":"it took too long"},
	{"span":"20f067aa0ba902b7","parent":"ffffffffffffffff","name":"feedback","service":"feedback","kind":"consumer","start":"2026-11-26T10:00:01Z","duration_us":10,"links":[{"trace":"4bf92f3577b34da6a3ce929d0e0e4736","span":"30f067aa0ba902b7"}]}]`

func fails(err error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { serve.Error(w, r, err) }
}

// online is a store that has the weather of EWR.
func online(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Features []string                     `json:"features"`
		Entities map[string][]json.RawMessage `json:"entities"`
	}
	b, _ := io.ReadAll(r.Body)
	if json.Unmarshal(b, &ask) != nil || len(ask.Features) == 0 {
		serve.Error(w, r, fault.New(fault.Invalid, "what is asked?"))
		return
	}
	names, results := `"origin"`, fmt.Sprintf(`{"values":[%s],"statuses":["PRESENT"],"event_timestamps":["1970-01-01T00:00:00Z"]}`, ask.Entities["origin"][0])
	for _, f := range ask.Features {
		_, name, _ := strings.Cut(f, ":")
		value, status := `"<b>12"`, "PRESENT"
		if string(ask.Entities["origin"][0]) != `"EWR"` {
			value, status = "null", "NOT_FOUND"
		}
		names += `,"` + name + `"`
		results += fmt.Sprintf(`,{"values":[%s],"statuses":[%q],"event_timestamps":["2013-07-01T09:00:00Z"]}`, value, status)
	}
	_, _ = fmt.Fprintf(w, `{"metadata":{"feature_names":[%s]},"results":[%s]}`, names, results)
}

// Each page shows what a reader comes for.
func TestLookUpPages(t *testing.T) {
	d := newDesk(t, false, api())
	for path, want := range map[string][]string{
		"/console/predictions": {"/console/predictions/order-7", "/console/predictions/~YS9i", "carrier=UA, flight=1545", "probability=0.82", "deadline", "812 µs", "after=0001.5", "2 rows"},
		"/console/predictions?failed=true&model=flights&from=2026-11-26T10:00": {`value="flights"`, "checked"},
		"/console/predictions/order-7": {
			"champion (canary)", "2013-07-01 10:00:00", "wrong", "log loss 1.71", "older than 3h", "/console/features/views/weather?key.origin=EWR", "/console/features/views/delays", "1m 0s", "4h 0m",
			`class="odd"`, "2 null or old", "true", `id="waterfall"`, "00f067aa0ba902b7",
		},
		"/console/traces":                                            {aTrace, "POST /v2/models/flights/infer", "1.5 ms", "it took too long", "after=x"},
		"/console/traces/" + aTrace:                                  {"gateway", `class="name d2"`, "1s", `id="span-10f067aa0ba902b7"`, "/console/traces/4bf92f3577b34da6a3ce929d0e0e4736#span-30f067aa0ba902b7", "features", "its parent is not in the trace", "rows"},
		"/console/traces/" + strings.Repeat("0", 32):                 {"not kept"},
		"/console/features":                                          {"/console/features/views/weather", `id="service-flights"`, "champion", "mean_1h", "x &lt; 1", "2013-07-01 09:00:00", "7 %", "push and events", "Version 4"},
		"/console/features/views/weather":                            {"3h", `name="key.origin"`, "ttl: 3h", "7 %", "wind_speed"},
		"/console/features/views/weather?key.origin=EWR":             {"&lt;b&gt;12", "present", "2013-07-01 09:00:00", `class="odd"`},
		"/console/features/views/weather?key.origin=JFK":             {"NOT_FOUND", "null"},
		"/console/features/views/delays?key.origin=EWR&key.flight=7": {"mean of", "&lt;b&gt;12"},
	} {
		_, page := d.open(path, http.StatusOK)
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("%s: the page has no %q", path, w)
			}
		}
		if t.Failed() {
			t.Log(page)
			break
		}
	}
	if _, page := d.open("/console/features/views/weather", http.StatusOK); strings.Contains(page, "ids:") || strings.Contains(page, "version:") {
		t.Error("the definition as it is applied has what nobody applies")
	}
	d.open("/console/features/views/none", http.StatusNotFound)
	d.open("/console/traces/xyz", http.StatusBadRequest)
}

// A prediction can be asked again: the form has what it was asked then, as of then.
func TestTryAgain(t *testing.T) {
	routes := api()
	routes["GET /v2/models/{m}"] = says(`{"inputs":[{"name":"carrier","datatype":"BYTES","shape":[-1]},{"name":"origin","datatype":"BYTES","shape":[-1]},{"name":"none","datatype":"FP32","shape":[-1]},{"name":"more","datatype":"FP32","shape":[-1,2]}]}`)
	d := newDesk(t, false, routes)
	_, page := d.open("/console/predictions/order-7", http.StatusOK)
	const again = "/console/models/flights/try?prediction=order-7"
	if !strings.Contains(page, again) {
		t.Fatalf("the page has no %s: %s", again, page)
	}
	_, page = d.open(again, http.StatusOK)
	for _, w := range []string{`value="UA"`, `value="EWR"`, `value="2013-07-01T10:00:00Z"`, `value="0"`} {
		if !strings.Contains(page, w) {
			t.Errorf("the form has no %s: %s", w, page)
		}
	}
	d.open("/console/models/other/try?prediction=order-7", http.StatusNotFound)
}

// Whoever types an id is led to its page, whatever it is made of, and an empty one to the list.
func TestFindByID(t *testing.T) {
	d := newDesk(t, false, api())
	for id, want := range map[string]string{
		"order-7": "order-7", " order-7 ": "order-7", "a/b": "~YS9i", "find": "~ZmluZA", "..": "~Li4", "100%": "~MTAwJQ", "~x": "~fng", "ü": "~w7w", "a?b#c": "~YT9iI2M",
	} {
		answer, _ := d.open("/console/predictions/find?id="+url.QueryEscape(id), http.StatusSeeOther)
		if to := answer.Get("Location"); to != "/console/predictions/"+want {
			t.Errorf("%q leads to %s", id, to)
		}
		d.open(answer.Get("Location"), http.StatusOK)
	}
	if answer, _ := d.open("/console/predictions/find", http.StatusSeeOther); answer.Get("Location") != "/console/predictions" {
		t.Errorf("nothing leads to %s", answer.Get("Location"))
	}
}

// What is not there yet, is refused or can't be asked for is said in a sentence, with the form beside it.
func TestLookUpSays(t *testing.T) {
	routes := api()
	routes["GET /admin/v1/predictions"] = fails(fault.New(fault.Invalid, "version is no number"))
	routes["GET /admin/v1/predictions/{id}"] = fails(fault.New(fault.NotFound, "no such prediction is in the log"))
	routes["GET /admin/v1/traces"] = fails(fault.New(fault.Invalid, "slow is no time"))
	routes["POST /get-online-features"] = fails(fault.New(fault.Denied, "the key may not do that"))
	routes["GET /admin/v1/features/skew"] = fails(fault.New(fault.NotFound, "nothing was checked"))
	d := newDesk(t, false, routes)
	for path, want := range map[string][]string{
		"/console/predictions?version=x":                 {"version is no number", `value="x"`},
		"/console/predictions/order-7":                   {"no such prediction is in the log", "looks again", `id="live-state"`},
		"/console/traces?slow=x":                         {"slow is no time"},
		"/console/features/views/weather?key.origin=EWR": {"features:read", "the key may not do that"},
		"/console/features":                              {"weather"},
	} {
		_, page := d.open(path, http.StatusOK)
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("%s: the page has no %q: %s", path, w, page)
			}
		}
	}
	empty := map[string]http.HandlerFunc{}
	for pattern := range api() {
		empty[pattern] = says(`{}`)
	}
	d = newDesk(t, false, empty)
	for _, path := range []string{"/console/predictions", "/console/predictions?failed=true", "/console/predictions/x", "/console/traces", "/console/traces?errors=true", "/console/traces/" + aTrace, "/console/features"} {
		d.open(path, http.StatusOK)
	}
}

// unseen is what is long where it must be whole: links, and what forms send.
var unseen = regexp.MustCompile(` (href|name|value)="[^"]*"|(?s)<pre id="yaml">.*?</pre>`)

// Strangers' texts are text on all of these pages, too, and long ones are cut.
func TestHostileValues(t *testing.T) {
	const script = `<script>alert(1)</script>`
	nasty, err := json.Marshal(script + "\u202e\u0007\u001b[31m" + `" onmouseover="x` + "\x00" + strings.Repeat("m", 5000))
	if err != nil {
		t.Fatal(err)
	}
	routes := map[string]http.HandlerFunc{}
	for pattern := range api() {
		routes[pattern] = func(w http.ResponseWriter, _ *http.Request) {
			text := strings.ReplaceAll(`{"id":$,"predictions":[{"id":$,"time":"2026-11-26T10:00:00Z","model":$,"version":1,"rows":1,"kind":$,"error":$,"cache":$,"inputs":{$:$},"outputs":[$,null,1e999]}],
				"answers":[{"time":"2026-11-26T10:00:00Z","model":$,"caller":$,"cache":$,"kind":$,"error":$,"protocol":$,"trace":"`+aTrace+`","rows":[{"row":0,"inputs":{$:$,"n":null},"outputs":{$:[$]},"features":[{"name":$,"value":$}],"outcomes":[{"value":$}]}]}],
				"traces":[{"trace":$,"name":$,"service":$,"model":$,"error":$,"duration_us":-5}],"trace":$,
				"spans":[null,{"span":$,"parent":$,"name":$,"service":$,"kind":$,"error":$,"attributes":{$:$,"n":null,"deep":{"a":[{}]}},"links":[{"trace":$,"span":$}],"duration_us":1e300},{"span":"a","parent":"b","duration_us":-1},{"span":"b","parent":"a"}],
				"history":[{"alias":$,"to":1}],"features_":1,
				"entities":[{"name":$,"keys":[{"name":$,"type":$}]}],"sources":[{"name":$,"path":$,"fields":[{"name":$,"type":$}]}],"views":[{"name":"v","entities":[$],"source":$,"ttl":$,"lateness":$,"features":[$]},{"name":$,"windows":[{"name":$,"aggregate":$,"of":$,"size":$,"slide":$}]}],
				"expressions":[{"name":$,"inputs":[{"name":$,"type":$}],"features":[{"name":$,"type":$,"value":$}]}],"services":[{"name":$,"features":[{"feature":$,"as":$}]}],"by":$,"version":1,
				"models":[{"name":$,"aliases":{$:1}}],"metadata":{"feature_names":[$]},"results":[{"values":[$],"statuses":[$]}]}`, "$", string(nasty))
			_, _ = io.WriteString(w, text)
		}
	}
	d := newDesk(t, false, routes)
	for _, path := range []string{
		"/console/predictions", "/console/predictions?model=" + url.QueryEscape(script), "/console/predictions/x", "/console/predictions/~" + "PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg", "/console/traces", "/console/traces?service=" + url.QueryEscape(script), "/console/traces/" + aTrace,
		"/console/features", "/console/features/views/v", "/console/features/views/v?key." + url.QueryEscape(script) + "=" + url.QueryEscape(script),
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := d.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		page := string(b)
		if answer.StatusCode >= http.StatusInternalServerError {
			t.Errorf("%s: got %d: %.500s", path, answer.StatusCode, page)
		}
		for _, bad := range []string{"<script>alert", `" onmouseover="x`, "\u202e", "\u0007", "\u001b", "\x00"} {
			if strings.Contains(page, bad) {
				at := strings.Index(page, bad)
				t.Errorf("%s: the page holds %.40q: %q", path, bad, page[max(0, at-150):min(len(page), at+100)])
			}
		}
		if shown := unseen.ReplaceAllString(page, ""); strings.Contains(shown, strings.Repeat("m", 2500)) {
			t.Errorf("%s: a long text is not cut", path)
		}
	}
}

// A waterfall has each span once, below its parent, whatever the spans say.
func FuzzWaterfall(f *testing.F) {
	f.Add([]byte(someSpans))
	f.Add([]byte(`[{"span":"a","parent":"a"},{"span":"b","parent":"c"},{"span":"c","parent":"b"},{"span":"b"}]`))
	f.Add([]byte(`[{"start":"9999-12-31T23:59:59Z","duration_us":1e308},{"start":"0001-01-01T00:00:00Z","duration_us":-1e308,"attributes":{"a":[1]}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var spans []*spanLine
		if json.Unmarshal(b, &spans) != nil {
			return
		}
		for _, s := range spans {
			if s == nil {
				return
			}
		}
		w := waterfallOf("x", spans)
		if len(w.Spans)+w.Left != len(spans) {
			t.Fatalf("%d spans of %d", len(w.Spans)+w.Left, len(spans))
		}
		for _, s := range w.Spans {
			if !(s.From >= 0 && s.Width >= 0 && s.From+s.Width <= barWidth+1e-6) {
				t.Fatalf("a bar from %v, %v wide", s.From, s.Width)
			}
		}
		for _, s := range spans {
			_ = short(json.RawMessage(fmt.Sprint(s.Attributes)))
		}
	})
}

// An id that callers give again and again is a page still: of the newest answers, and with few questions to the API.
func TestRepeatedID(t *testing.T) {
	routes := api()
	var asked atomic.Int64
	counted := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { asked.Add(1); h(w, r) }
	}
	for _, pattern := range []string{"GET /admin/v1/models/flights", "GET /admin/v1/models/{m}/versions/{v}", "GET /admin/v1/features"} {
		routes[pattern] = counted(routes[pattern])
	}
	var all []string
	for i := range 300 {
		all = append(all, fmt.Sprintf(`{"time":"2026-11-26T10:%02d:%02dZ","model":"flights","version":3,"weight":1,"kind":"deadline","error":"answer %d.","rows":[{"row":0}]}`, i/60, i%60, i))
	}
	routes["GET /admin/v1/predictions/{id}"] = says(`{"id":"1","answers":[` + strings.Join(all, ",") + `],"partial":true}`)
	d := newDesk(t, false, routes)
	_, page := d.open("/console/predictions/1", http.StatusOK)
	has(t, page, "answer 299.", "answer 280.", "!answer 279.", `id="more-answers"`, `id="partial"`, "champion (canary)", `!id="live-state"`) // all failed: no outcome is awaited
	if n := asked.Load(); n != 3 {
		t.Errorf("the API was asked %d times, want 3", n)
	}
}

// Who uses a service is not known where models could not be asked.
func TestUsesAreAway(t *testing.T) {
	for _, away := range []string{"GET /admin/v1/models/{m}/versions/{v}", "GET /admin/v1/models"} {
		routes := api()
		routes[away] = refuses(fault.Overloaded, "too many requests")
		_, page := newDesk(t, false, routes).open("/console/features", http.StatusOK)
		has(t, page, "Not all models could be asked what they take: too many requests", "None of the models that were looked through takes it.", "!No model takes it")
	}
}

// A prediction says which alerts name it and which of its features had drifted, or why that is not known.
func TestWhatAPredictionShows(t *testing.T) {
	routes := api()
	routes["GET /admin/v1/alerts"] = says(`{"active":[{"id":"a1","rule":"auc","severity":"page","summary":"auc is 0.6","examples":[{"prediction":"order-7","row":3}]},{"id":"a2","rule":"other","examples":[{"prediction":"order-8"}]}],"resolved":[]}`)
	routes["GET /admin/v1/drift/flights"] = func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("version") != "3" || q.Get("from") != "2013-06-27T10:00:00Z" || q.Get("until") != "2013-07-04T10:00:00Z" {
			t.Errorf("asked %s", r.URL.RawQuery)
		}
		_, _ = io.WriteString(w, `{"versions":[{"version":3,"report":{"columns":[{"name":"wind_speed","verdict":"drifted","psi":1.25},{"name":"visib","verdict":"steady","psi":0.05}]}}]}`)
	}
	_, page := newDesk(t, false, routes).open("/console/predictions/order-7", http.StatusOK)
	has(t, page, `href="/console/alerts/a1"`, "auc is 0.6", "drifted: PSI 1.25", "over-time?span=7d&amp;until=2013-07-04#drift", "!/console/alerts/a2", "!PSI 0.05", "!can't be told")
	for _, away := range []string{"GET /admin/v1/alerts", "GET /admin/v1/drift/flights"} {
		routes[away] = refuses(fault.Unavailable, "feedback is away")
	}
	_, page = newDesk(t, false, routes).open("/console/predictions/order-7", http.StatusOK)
	has(t, page, "order-7", "Which alerts name it can't be told: feedback is away", "Which of its features had drifted can't be told: feedback is away")
}

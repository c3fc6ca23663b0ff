package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"sigs.k8s.io/yaml"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/knative/monitoring"
)

// TestDashboardsAndRulesFindData has the whole system asked for all that it does, a real Prometheus read its metrics, and each query of
// each panel, and each rule, evaluated by it. What finds nothing says why it may.
func TestDashboardsAndRulesFindData(t *testing.T) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		const how = "prometheus is not on the PATH: apt-get install prometheus"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip("NOT TESTED: " + how)
	}
	w := newWatched(t)
	prometheus := startPrometheus(t, program, strings.TrimPrefix(w.url, "http://"), w.key)
	w.prepare()

	left := map[string]string{} // queries, and why it is no fault if one finds nothing
	for _, b := range monitoring.Boards() {
		for _, row := range b.Rows {
			for _, p := range row.Panels {
				for _, s := range p.Series {
					left[strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$model", ".*", "$view", ".*", "$metric", ".*").Replace(s.Query)] = s.Rare
				}
			}
		}
	}
	for _, q := range ruleQueries(t) {
		left[q] = rareInRules[q]
	}
	all := len(left)
	for deadline := time.Now().Add(50 * time.Second); ; {
		w.round()
		for q := range maps.Clone(left) {
			if prometheus.finds(t, q) {
				delete(left, q)
			}
		}
		if time.Now().After(deadline) || !slices.Contains(slices.Collect(maps.Values(left)), "") {
			break
		}
	}
	for _, q := range slices.Sorted(maps.Keys(left)) {
		if why := left[q]; why != "" {
			t.Logf("no data, as %s: %s", why, q)
		} else {
			t.Errorf("no data: %s", q)
		}
	}
	if all < 120 || all-len(left) < 100 {
		t.Errorf("%d of %d queries found something: this test sees too little", all-len(left), all)
	}
	w.exportsOnlyWhatIsWritten()
}

// rareInRules are selectors of rules that find nothing while all is well.
var rareInRules = map[string]string{
	`pilotlight_model_load_duration_seconds_count{outcome="failed"}`: "no load fails",
	`pilotlight_queue_unserved_total{reason="overload"}`:             "nobody is refused before thousands wait",
	`pilotlight_cache_shared_up`:                                     "only with Redis are answers shared",
	`pilotlight_events_dropped_total`:                                "none is dropped while the broker is there",
	`pilotlight_events_sent_total{status!~"2.."}`:                    "a broker in the process needs no K_SINK",
	`pilotlight_events_sent_total`:                                   "a broker in the process needs no K_SINK",
	`pilotlight_alert_failures_total`:                                "all that are told get out",
	`pilotlight_alert_evaluations_total{outcome="failed"}`:           "no tick fails",
}

var selector = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})?`)

// ruleQueries gives what is recorded, and the selectors of what alerts, which is mostly nothing.
func ruleQueries(t *testing.T) (queries []string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(monitoring.Rules, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				queries = append(queries, r.Record)
				continue
			}
			for _, s := range selector.FindAllString(r.Expr, -1) {
				if strings.HasPrefix(s, "pilotlight_") || strings.HasPrefix(s, "http_server_") || strings.Contains(s, ":") {
					queries = append(queries, s)
				}
			}
		}
	}
	return queries
}

// prometheus is a server.
type prometheus struct{ url string }

func startPrometheus(t *testing.T, program, target, key string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: all
    authorization: {credentials: %s}
    static_configs: [{targets: [%q]}]
`, key, target)
	err := errors.Join(os.WriteFile(filepath.Join(dir, "prometheus.yaml"), []byte(config), 0o600), os.WriteFile(filepath.Join(dir, "rules.yaml"), monitoring.Rules, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	log := &strings.Builder{}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--log.level=warn")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "killed" is what it should say
		if t.Failed() {
			t.Logf("Prometheus: %s", log)
		}
	})
	p := &prometheus{"http://" + addr}
	for deadline := time.Now().Add(20 * time.Second); !p.finds(t, `up == 1`); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Prometheus does not read the metrics")
		}
	}
	return p
}

// finds tells whether a query gives any number.
func (p *prometheus) finds(t *testing.T, query string) bool {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false // it does not listen yet
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return false
	}
	if answer.Status != "success" && resp.StatusCode == http.StatusBadRequest {
		t.Fatalf("%s: %s", query, answer.Error)
	}
	for _, s := range answer.Data.Result {
		text, _ := s.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
			return true
		}
	}
	return false
}

// watched is the system under watch.
type watched struct {
	t     *testing.T
	url   string
	key   string
	conn  *grpc.ClientConn
	n     int    // rounds
	plain []byte // a request of flights with all inputs
	asks  []byte // one whose features are fetched
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	data := t.TempDir()
	blob, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(data, "blob")})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	grant := auth.Grant{Name: "test", Tenant: "shop", Scopes: []auth.Scope{"admin", "predict", "features:read", "features:write", "feedback", "events", "models:write"}}
	_, secret, err := auth.NewKeys(blob).Create(t.Context(), grant, "")
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, key: secret}
	w.url, _ = start(t, map[string]string{
		"DATA_DIR": data, "AUTH": "on", "SEED": filepath.Join(root, "examples/flights"), "LOG_LEVEL": "ERROR",
		"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "100ms", "QUEUE_RUNS": "1", "ALERT_EVERY": "100ms", "METRICS_TENANTS": "true",
	})
	for file, into := range map[string]*[]byte{"complete.json": &w.plain, "request.json": &w.asks} {
		if *into, err = os.ReadFile(filepath.Join(root, "examples/flights", file)); err != nil {
			t.Fatal(err)
		}
	}
	if w.conn, err = grpc.NewClient(strings.TrimPrefix(w.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close() })
	return w
}

// ask gives the answer, whose status has to be one of those, if there are any.
func (w *watched) ask(method, path, body string, header map[string]string, want ...int) string {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.key)
	r.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(want) > 0 && !slices.Contains(want, resp.StatusCode) {
		w.t.Fatalf("%s %s: got %d %.500s, want %d", method, path, resp.StatusCode, b, want)
	}
	return string(b)
}

// push pushes a version of a model.
func (w *watched) push(name string, file []byte, settings string) {
	w.t.Helper()
	const boundary = "a-line-that-is-in-no-model"
	body := "--" + boundary + "\r\nContent-Disposition: form-data; name=\"settings\"\r\n\r\n" + settings +
		"\r\n--" + boundary + "\r\nContent-Disposition: form-data; name=\"model\"; filename=\"m.onnx\"\r\n\r\n" + string(file) + "\r\n--" + boundary + "--\r\n"
	w.ask("POST", "/admin/v1/models/"+name+"/versions", body, map[string]string{"Content-Type": "multipart/form-data; boundary=" + boundary}, http.StatusCreated)
}

// prepare makes what rounds use.
func (w *watched) prepare() {
	echo := onnxtest.Identity(tensor.Spec{Type: tensor.FP64, Shape: []int64{-1}}).Bytes()
	w.push("echo", echo, `{"quality":{"task":"binary"}}`)
	w.push("echo", echo, `{"quality":{"task":"binary"},"labels":{"second":"yes"}}`)
	w.push("kept", echo, `{"cache":{"ttl":"1h"}}`)
	w.push("simple", onnxtest.Simple(-1).Bytes(), `{}`)
	reference, err := os.ReadFile(filepath.Join(root, "examples/flights/loop/january.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.ask("PUT", "/admin/v1/drift/flights/1/reference", string(reference), nil, 200, 201)
	w.ask("PUT", "/admin/v1/limits", `{"tenants": {"shop": {"daily": {"requests": 1000000}}}, "models": {"echo": {"monthly": {"rows": 1000000}}}}`, nil, 200)
	w.ask("PUT", "/admin/v1/alerts/rules", "rules:\n  - {name: watched, model: echo, metric: latency_p99, window: 10m, above: 0.0000001}\n", map[string]string{"Content-Type": "application/yaml"}, 200, 201)
	w.ask("PUT", "/admin/v1/pipelines/watched", "pipeline: watched\non:\n  - {event: dev.pilotlight.alert.raised.v1}\nsteps:\n  - {name: a, use: probe}\n", map[string]string{"Content-Type": "application/yaml"}, 200)
	w.ask("PUT", "/admin/v1/rollouts/echo/champion", `{"version": 2, "shadow": "1s", "shares": [0.5], "hold": "1h", "least": 1, "guards": [{"metric": "error_rate", "worse": 0.5}]}`, nil, 201)
}

// round does once everything that is measured.
func (w *watched) round() {
	w.t.Helper()
	w.n++
	infer := func(model, id string, x float64) string {
		return w.ask("POST", "/v2/models/"+model+"/infer", fmt.Sprintf(`{"id":%q,"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[%g]}]}`, id, x), nil, 200)
	}
	var outcomes []string
	for i := range 20 {
		id := fmt.Sprintf("order-%d-%d", w.n, i)
		infer("echo", id, float64(i)/20)
		outcomes = append(outcomes, fmt.Sprintf(`{"prediction":%q,"value":%t}`, id, i%3 == 0))
	}
	w.ask("POST", "/feedback", "["+strings.Join(outcomes, ",")+`,{"prediction":"","value":1}]`, nil)
	infer("kept", "", 1)
	infer("kept", "", 1)
	// Every protocol, and a request that nothing can be made of.
	w.ask("POST", "/v1/models/echo:predict", `{"instances":[0.5]}`, nil, 200)
	head := `{"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"parameters":{"binary_data_size":8}}]}`
	w.ask("POST", "/v2/models/echo/infer", head+"\x00\x00\x00\x00\x00\x00\xe0\x3f", map[string]string{"Inference-Header-Content-Length": strconv.Itoa(len(head))}, 200)
	w.ask("POST", "/v2/models/echo/infer", `{"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[0.5]}]}`, w.event("com.example.asked"), 200)
	w.ask("POST", "/v2/models/echo/infer", `{"inputs":[{"name":"WRONG","datatype":"FP64","shape":[1],"data":[0.5]}]}`, nil, 400)
	ctx := metadata.AppendToOutgoingContext(w.t.Context(), "authorization", "Bearer "+w.key)
	if _, err := predicttest.Sum(ctx, w.conn, "simple", 1, 2); err != nil {
		w.t.Fatal(err)
	}
	// Many at once, which wait and are joined; and features, by a model and by Feast's path.
	done := make(chan error)
	for range 120 {
		go func() {
			r, err := http.NewRequestWithContext(w.t.Context(), "POST", w.url+"/v2/models/flights/infer", strings.NewReader(string(w.plain)))
			if err == nil {
				r.Header.Set("Authorization", "Bearer "+w.key)
				var resp *http.Response
				if resp, err = http.DefaultClient.Do(r); err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
			done <- err
		}()
	}
	for range 120 {
		if err := <-done; err != nil {
			w.t.Fatal(err)
		}
	}
	w.ask("POST", "/v2/models/flights/infer", string(w.asks), nil, 200)
	w.ask("POST", "/get-online-features", `{"features":["airport_departures:nothing"],"entities":{"origin":["JFK"]}}`, nil)
	now := time.Now().UTC().Format(time.RFC3339)
	for _, origin := range []string{"JFK", "XXX"} {
		w.ask("POST", "/push", fmt.Sprintf(`{"push_source_name":"departures","to":"online","df":{"departed_at":[%q],"carrier":["B6"],"flight":[1],"origin":[%q],"dest":["BOS"],"tailnum":["N1"],"dep_delay":[1.5]}}`, now, origin), nil)
	}
	// A session that is closed is loaded anew by the next round.
	w.ask("POST", "/v2/repository/models/kept/unload", `{}`, nil, 200)
	w.ask("POST", "/admin/v1/pipelines/watched/runs", "", nil)
	// What nobody can make anything of becomes a dead letter.
	w.ask("POST", "/events", `"no object"`, w.event("dev.pilotlight.model.published.v1"), 202)
	w.ask("POST", "/events", `{"job":"evaluate-alerts"}`, w.tick(), 202)
}

func (w *watched) event(kind string) map[string]string {
	return map[string]string{"Ce-Id": time.Now().String(), "Ce-Source": "/test", "Ce-Type": kind, "Ce-Specversion": "1.0", "Ce-Subject": "echo"}
}

func (w *watched) tick() map[string]string {
	h := w.event("dev.knative.sources.ping")
	h["Ce-Tick"] = "alerts"
	return h
}

// exportsOnlyWhatIsWritten compares what the process has with docs/metrics.md.
func (w *watched) exportsOnlyWhatIsWritten() {
	w.t.Helper()
	table, err := os.ReadFile(filepath.Join(root, "docs/metrics.md"))
	if err != nil {
		w.t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(w.ask("GET", "/metrics", "", nil, 200)) {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "# TYPE "), " ")
		if !ok || !strings.HasPrefix(line, "# TYPE pilotlight_") {
			continue
		}
		seen++
		if !strings.Contains(string(table), "| `"+name+"` |") {
			w.t.Errorf("docs/metrics.md does not have %s", name)
		}
	}
	if seen < 60 {
		w.t.Errorf("/metrics has %d metrics: this test sees too little", seen)
	}
}

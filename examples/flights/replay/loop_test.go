package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
)

// TestTheLoop has the loop tend a model that knows nothing for nine days: what is wrong with it is found out, a better one is learnt, judged, published and brought
// to everybody. Then all of it happens again, with every event delivered twice and late, and the server killed in each step of the
// pipeline in turn: the same version is promoted, and there is no other.
func TestTheLoop(t *testing.T) {
	folder := part(t, "month = 1 AND day BETWEEN 2 AND 10")
	program := build(t)
	first := newMachine(t, program, "")
	want := first.tended(t, folder, nil)
	if len(want.versions) != 2 || want.champion != 2 || !strings.Contains(want.said, "alert     no-better-than-chance: auc of flights version 1 is 0.5") ||
		!strings.Contains(want.said, "resolved  no-better-than-chance") {
		t.Fatalf("got versions %v, champion %d: %s", want.versions, want.champion, want.said)
	}
	t.Logf("%s", want.said)
	first.followed(t)

	relay := &relay{t: t, seen: map[string]bool{}}
	server := httptest.NewServer(relay)
	defer server.Close()
	m := newMachine(t, program, server.URL)
	relay.to = m.url
	got := m.tended(t, folder, []string{"data", "fit", "judge", "publish", "rollout"})
	if got.champion != want.champion || fmt.Sprint(got.versions) != fmt.Sprint(want.versions) {
		t.Errorf("got versions %v, champion %d, want %v, %d: %s", got.versions, got.champion, want.versions, want.champion, got.said)
	}
	if len(m.killed) != 5 || relay.n() < 20 {
		t.Errorf("killed in %v, and %d events delivered again: the test proves little", m.killed, relay.n())
	}
	t.Logf("%s", got.said)
}

// outcome is what the loop came to.
type outcome struct {
	versions []string // digests
	champion int
	said     string
}

// machine is a server that can be killed, and comes back at the same address with what is on its disk.
type machine struct {
	t            *testing.T
	program, url string
	environ      []string
	cmd          *exec.Cmd
	killed       []string
	mu           sync.Mutex
}

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "all")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../../functions/all").CombinedOutput(); err != nil {
		t.Fatalf("build functions/all: %v %s", err, out)
	}
	return program
}

// newMachine starts a server that delivers every event to relay, too, if there is one.
func newMachine(t *testing.T, program, relay string) *machine {
	t.Helper()
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := &machine{t: t, program: program, url: fmt.Sprintf("http://127.0.0.1:%d", port), environ: append(
		os.Environ(), fmt.Sprintf("PORT=%d", port), "DATA_DIR="+dir, "TMPDIR="+t.TempDir(), "MODEL_CACHE_DIR="+filepath.Join(dir, "cache"), "ORT_LIB="+onnxtest.Library(t), "LOG_LEVEL=ERROR",
		"TICKS=off", "PAYLOAD_EVERY=50ms", "PIPELINE_LEASE=2s")}
	if relay != "" {
		const trigger = `{apiVersion: eventing.knative.dev/v1, kind: Trigger, metadata: {name: again}, spec: {broker: pilotlight, subscriber: {uri: %s}}}`
		triggers := t.TempDir()
		if err := os.WriteFile(filepath.Join(triggers, "again.yaml"), fmt.Appendf(nil, trigger, relay), 0o600); err != nil {
			t.Fatal(err)
		}
		m.environ = append(m.environ, "TRIGGERS_DIR="+triggers)
	}
	m.start()
	t.Cleanup(func() { m.kill("") })
	return m
}

func (m *machine) start() {
	m.cmd = exec.CommandContext(m.t.Context(), m.program)
	m.cmd.Env, m.cmd.Stderr = m.environ, m.t.Output()
	if err := m.cmd.Start(); err != nil {
		m.t.Error(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := attempt(m.t.Context(), http.MethodGet, m.url+"/readyz", "", nil); err == nil {
			return
		}
	}
	m.t.Error("the server is not ready")
}

func (m *machine) kill(in string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait() // "killed" is what it should say
	if in != "" {
		m.killed = append(m.killed, in)
		m.start()
	}
}

// tended replays the flights in a folder, and kills the server in each of some steps of the first run.
func (m *machine) tended(t *testing.T, folder string, kill []string) (o outcome) {
	t.Helper()
	features, err := os.ReadFile("../features.yaml")
	if err != nil {
		t.Fatal(err)
	}
	call(t, "POST", m.url+"/admin/v1/features", bytes.Replace(features, []byte("    path: landing/weather/\n"), nil, 1))
	for _, name := range []string{"flights", frozen} {
		pushModel(t, m.url, name, onnxtest.Flights(.5).Bytes(), `{"features":"flights"}`)
	}
	call(t, "PUT", m.url+"/admin/v1/alerts/rules", []byte(`rules: [{name: no-better-than-chance, model: flights, version: champion, metric: auc, window: 4d, below: 0.55, confident: true, min: 2500}]`))
	call(t, "PUT", m.url+"/admin/v1/pipelines/flights", []byte(`{pipeline: flights, on: [{event: dev.pilotlight.alert.raised.v1, where: {model: flights}}], steps: [
  {name: data, use: training-set, with: {model: flights, holdout: 1d}},
  {name: fit, use: train, in: {data: data.dataset, rows: data.train, holdout: data.holdout}, with: {trainer: logistic}},
  {name: judge, use: evaluate, in: {data: data.dataset, train: data.train, holdout: data.holdout, model: fit.model, predictions: fit.predictions, settings: fit.settings}, with: {block: 1h}},
  {name: publish, use: publish, in: {data: data.dataset, model: fit.model, verdict: judge.verdict, card: judge.card, reference: judge.reference}},
  {name: rollout, use: rollout, in: {version: publish.version}, with: {shares: [0.5], hold: 1ms, patience: 1h, least: 50, guards: {error_rate: 0.1, log_loss: 0.5}}}]}`))
	ctx, cancel := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	killer.Go(func() { m.killIn(ctx, kill) })
	var out bytes.Buffer
	err = run(t.Context(), []string{"-data", folder, "-ask", m.url, "-loop", "12h", "-since", "2013-01-02T05:00:00Z", "-until", "2013-01-12T00:00:00Z"}, &out)
	cancel()
	killer.Wait()
	if err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	var model struct {
		Versions []struct{ Digest string }
		Aliases  map[string]int
	}
	if err := json.Unmarshal(call(t, "GET", m.url+"/admin/v1/models/flights", nil), &model); err != nil {
		t.Fatal(err)
	}
	for _, v := range model.Versions {
		o.versions = append(o.versions, v.Digest)
	}
	o.champion, o.said = model.Aliases["champion"], out.String()
	return o
}

// followed goes from the alert to a prediction that it names, the trace of that, the run that the alert started, the version that came of it,
// and who answers now, each by what the one before says.
func (m *machine) followed(t *testing.T) {
	t.Helper()
	ask := func(path string, into any) {
		t.Helper()
		if err := json.Unmarshal(call(t, "GET", m.url+path, nil), into); err != nil {
			t.Fatal(err)
		}
	}
	type span struct{ Span, Parent, Name, Service, Start string }
	type trail struct{ Spans []span }
	names := func(tr trail) (all []string) {
		for _, s := range tr.Spans {
			all = append(all, s.Name)
		}
		return all
	}
	has := func(tr trail, want ...string) {
		t.Helper()
		for _, w := range want {
			if !slices.ContainsFunc(names(tr), func(n string) bool { return strings.HasPrefix(n, w) }) {
				t.Errorf("the trace has no span %q, but %q", w, names(tr))
			}
		}
	}
	var alerts struct {
		Resolved []struct {
			ID, Rule string
			Examples []struct {
				Prediction string
				Row        int
			}
		}
	}
	ask("/admin/v1/alerts", &alerts)
	if len(alerts.Resolved) == 0 || len(alerts.Resolved[len(alerts.Resolved)-1].Examples) == 0 {
		t.Fatalf("got %+v", alerts)
	}
	alert := alerts.Resolved[len(alerts.Resolved)-1]
	traced := 0
	for _, e := range alert.Examples {
		var p struct {
			Answers []struct {
				Model, Trace, Time string
				Traced             bool
				Rows               []struct {
					Row      int
					Features []struct{ Name string }
					Verdict  *struct {
						LogLoss float64 `json:"log_loss"`
					}
				}
			}
		}
		ask("/admin/v1/predictions/"+e.Prediction, &p)
		at := 0
		for at+1 < len(p.Answers) && p.Answers[at].Model != "flights" { // the frozen one was asked the same
			at++
		}
		a := p.Answers[at]
		if a.Model != "flights" || e.Row >= len(a.Rows) || a.Rows[e.Row].Row != e.Row || a.Rows[e.Row].Verdict == nil || a.Rows[e.Row].Verdict.LogLoss <= 0 || len(a.Rows[e.Row].Features) == 0 {
			t.Errorf("%+v of the alert %s: got %+v", e, alert.Rule, p)
		}
		if a.Traced {
			traced++
			var tr trail
			ask("/admin/v1/traces/"+a.Trace+"?at="+a.Time, &tr)
			has(tr, "POST /v2/models/", "features", "run")
			t.Logf("the trace of %+v: %q", e, names(tr))
		}
	}
	if traced == 0 {
		t.Errorf("none of %+v is traced", alert.Examples)
	}
	var run struct {
		ID, State, Trace string
		Cause            struct{ ID string }
		Steps            []struct {
			Name    string
			Outputs map[string]struct{ Value json.RawMessage }
		}
	}
	var runs struct{ Runs []struct{ ID string } }
	ask("/admin/v1/pipelines/flights/runs", &runs)
	ask("/admin/v1/pipelines/flights/runs/"+runs.Runs[len(runs.Runs)-1].ID, &run)
	if run.Cause.ID != alert.ID || run.State != "succeeded" || len(run.Trace) != 55 {
		t.Fatalf("got the run %+v of the alert %+v", run, alert)
	}
	var tr trail
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Second) { // spans are written within ten seconds
		if ask("/admin/v1/traces/"+run.Trace[3:35], &tr); slices.Contains(names(tr), "pipeline flights") || time.Now().After(end) {
			break
		}
	}
	t.Logf("the trace of the run: %q", names(tr))
	has(tr, "process dev.pilotlight.alert.raised", "pipeline flights", "step data", "step fit", "step judge", "step publish", "step rollout", "process dev.pilotlight.model.published", "process dev.pilotlight.alias.moved")
	var model struct {
		History []struct {
			To    int
			Cause string
		}
	}
	ask("/admin/v1/models/flights", &model)
	if last := model.History[len(model.History)-1]; last.To != 2 || last.Cause != "flights:"+run.ID {
		t.Errorf("got the last move %+v, want version 2 by the run %s", last, run.ID)
	}
}

// pushModel pushes a version of a model, with settings.
func pushModel(t *testing.T, url, name string, file []byte, settings string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	err := form.WriteField("settings", settings)
	part, err2 := form.CreateFormFile("model", name+".onnx")
	if err2 == nil {
		_, err2 = part.Write(file)
	}
	if err = errors.Join(err, err2, form.Close()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := post(t.Context(), url+"/admin/v1/models/"+name+"/versions", form.FormDataContentType(), body.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// killIn kills the server when a run is in a step, one after the other.
func (m *machine) killIn(ctx context.Context, steps []string) {
	for len(steps) > 0 && ctx.Err() == nil {
		var r lastRun
		if b, err := attempt(ctx, http.MethodGet, m.url+"/admin/v1/pipelines/flights/runs/latest", "", nil); err == nil {
			_ = json.Unmarshal(b, &r) // what is none has no steps
		}
		for _, s := range r.Steps {
			if s.Name == steps[0] && s.State != "queued" {
				m.kill(s.Name)
				steps = steps[1:]
				break
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// relay is a subscriber of all events that sends each of them again once, some time later.
type relay struct {
	t    *testing.T
	to   string
	mu   sync.Mutex
	seen map[string]bool
}

func (r *relay) n() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func (r *relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	id := q.Header.Get("Ce-Type") + q.Header.Get("Ce-Source") + q.Header.Get("Ce-Id")
	r.mu.Lock()
	known := r.seen[id]
	r.seen[id] = true
	r.mu.Unlock()
	if known {
		return
	}
	header := q.Header.Clone()
	time.AfterFunc(rand.N(time.Second), func() {
		for range 50 { // the server may be away
			again, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.to+"/events", bytes.NewReader(body))
			if err != nil {
				return
			}
			again.Header = header
			if resp, err := http.DefaultClient.Do(again); err == nil {
				_ = resp.Body.Close()
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// TestScores compares two models by what is computed the plain way.
func TestScores(t *testing.T) {
	since := time.Date(2013, 2, 1, 5, 0, 0, 0, time.UTC)
	s := newScores(since)
	random := rand.New(rand.NewPCG(1, 2))
	var n, with, without float64
	var said []judged
	for day := range 40 {
		at := since.AddDate(0, 0, day-5)
		id := at.Format(time.RFC3339)
		p, q, late := make([]float64, 20), make([]float64, 20), make([]bool, 20)
		rows := fmt.Sprintf(`[{"prediction":"never","row":0,"value":true},{"prediction":%q,"row":20,"value":true}`, id)
		for i := range p {
			p[i], q[i] = random.Float64(), .5
			late[i] = random.Float64() < p[i]
			rows += fmt.Sprintf(`,{"prediction":%q,"row":%d,"value":%t}`, id, i, late[i])
		}
		s.asked(at, p, q)
		if err := s.cameTrue(happening{at: at.Add(time.Hour), source: "outcomes", rows: json.RawMessage(rows + "]")}); err != nil {
			t.Fatal(err)
		}
		if day < 5 { // before it counts
			continue
		}
		for i := range p {
			n++
			without -= math.Log(.5)
			said = append(said, judged{p[i], late[i]})
			if with -= math.Log(1 - p[i]); late[i] {
				with += math.Log(1-p[i]) - math.Log(p[i])
			}
		}
	}
	c := s.compare(since, since.AddDate(0, 2, 0))
	if float64(c.n) != n || math.Abs(c.with-with/n) > 1e-12 || math.Abs(c.without-without/n) > 1e-12 || math.Abs(c.gain-(without-with)/n) > 1e-12 {
		t.Errorf("got %+v, want %g flights, %g and %g", c, n, with/n, without/n)
	}
	var above, pairs float64
	for _, a := range said {
		for _, b := range said {
			if a.late && !b.late {
				pairs++
				if a.probability > b.probability {
					above++
				}
			}
		}
	}
	if math.Abs(c.aucWith-above/pairs) > 1e-12 || c.aucWithout != .5 {
		t.Errorf("got AUC %g and %g, want %g and 0.5", c.aucWith, c.aucWithout, above/pairs)
	}
	if !(c.low < c.gain && c.gain < c.high) || c.high-c.low > .5 || c.low < 0 {
		t.Errorf("got a gain of %g in %g to %g, want it sure: the answers are right", c.gain, c.low, c.high)
	}
	if m := s.months(since.AddDate(0, 2, 0)); len(m) != 2 || m[0].n+m[1].n != c.n || m[0].n != 28*20 {
		t.Errorf("got %+v", m)
	}
}

// Package browser tries the console in a real browser, on the whole system as it starts on a laptop.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const root = "../.."

// missing ends a test for what the machine lacks: loudly, and as a failure where CI is to have it.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip("SKIPPED: " + what)
}

// folder is where the program is made, for all tests.
var folder string

var built = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "all")
	out, err := exec.CommandContext(context.Background(), "go", "build", "-o", path, "github.com/pilotlight-ml/pilotlight/functions/all").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build functions/all: %w: %s", err, out)
	}
	return path, err
})

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "pilotlight-browser-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(folder) // it is in the folder for such things
	os.Exit(code)
}

// server is the whole system in a process of its own.
type server struct {
	t   testing.TB
	url string
}

// start runs functions/all with the flights model in it, until the test ends.
func start(t testing.TB, environ ...string) *server {
	t.Helper()
	library := os.Getenv("ORT_LIB")
	if _, err := os.Stat(library); err != nil {
		missing(t, "no ONNX Runtime library at ORT_LIB: run `make ort`, and tests by `make test`")
	}
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	data, seed := t.TempDir(), filepath.Join(root, "examples/flights")
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Env = append(append(os.Environ(), "PORT=0", "DATA_DIR="+data, "TMPDIR="+t.TempDir(), "SEED="+seed, "MODEL_CACHE_DIR="+filepath.Join(data, "cache"),
		"LOG_LEVEL=INFO", "TICKS=off", "ALERT_EVERY=1ms", "PAYLOAD_EVERY=50ms", "TRACES_EVERY=50ms"), environ...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // what it does when it is asked to end is for others to try
		_ = cmd.Wait()
	})
	var said bytes.Buffer
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			go func() { _, _ = io.Copy(io.Discard, log) }() // so that its log never blocks it
			return &server{t: t, url: "http://" + line.Addr}
		}
		said.Write(append(lines.Bytes(), '\n'))
	}
	t.Fatalf("the server ended before it listened: %s", said.Bytes())
	return nil
}

// call asks the server, and fails the test where the answer is not as expected.
func (s *server) call(method, path, body string, want int, into any, header ...string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want {
		s.t.Fatalf("%s %s: got %d %.500s (%v), want %d", method, path, answer.StatusCode, b, err, want)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			s.t.Fatalf("%s %s: %v: %.500s", method, path, err, b)
		}
	}
}

// push makes a version of a model.
func (s *server) push(name, file string) {
	s.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("model", filepath.Base(file))
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	_, _ = part.Write(b) // it is memory
	if err := form.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.call("POST", "/admin/v1/models/"+name+"/versions", body.String(), http.StatusCreated, nil, "Content-Type", form.FormDataContentType())
}

// event sends one to the broker.
func (s *server) event(kind, id, data string, more ...string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/events", strings.NewReader(data))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range map[string]string{"Ce-Specversion": "1.0", "Ce-Type": kind, "Ce-Source": "/test", "Ce-Id": id, "Ce-Time": time.Now().UTC().Format(time.RFC3339Nano), "Content-Type": "application/json"} {
		r.Header.Set(name, value)
	}
	for i := 0; i < len(more); i += 2 {
		r.Header.Set(more[i], more[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	if b, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusAccepted {
		s.t.Fatalf("the broker answers %d %s", answer.StatusCode, b)
	}
}

// until waits for something that the system does by itself.
func (s *server) until(what string, done func() bool) {
	s.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%s: it does not come about", what)
		}
	}
}

const (
	rules = `rules:
  - {name: flights-wrong, model: flights, metric: accuracy, window: 7d, below: 1, severity: page, description: more flights than none are predicted wrong}
`
	learns = `pipeline: learns
about: learns the flights anew when too many are predicted wrong
on:
  - {event: dev.pilotlight.alert.raised.v1, where: {model: flights}}
  - {every: 30d}
steps:
  - {name: data, use: training-set, with: {model: flights, holdout: 12h}}
  - {name: fit, use: train, in: {data: data.dataset, rows: data.train, holdout: data.holdout}, with: {trainer: logistic}}
  - {name: judge, use: evaluate, in: {data: data.dataset, train: data.train, holdout: data.holdout, model: fit.model}, with: {against: champion, metric: log_loss, may_be_worse_by: 1, rows: 30, block: 1h}}
  - {name: publish, use: publish, in: {data: data.dataset, model: fit.model, verdict: judge.verdict, card: judge.card, reference: judge.reference}}
  - {name: rollout, use: rollout, in: {version: publish.version}, with: {shares: [0.5], hold: 1ms, patience: 1h, least: 1, guards: {error_rate: 0.9}}}
`
)

// live has the system do a bit of everything: predictions, what came true of them, an alert, the run that it starts, the version that this makes, and an
// event that nobody can take. The flights are asked about as of these days, for which the store has no weather, so that their features are missing.
func (s *server) live() {
	s.t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, "examples/flights", name))
		if err != nil {
			s.t.Fatal(err)
		}
		return string(b)
	}
	s.call("PUT", "/admin/v1/drift/flights/1/reference", read("loop/january.json"), http.StatusOK, nil)
	flight := read("request.json")
	fly := func(id string, at time.Time) {
		request := strings.Replace(strings.Replace(flight, "2013-12-24T00:25:00Z", at.UTC().Format(time.RFC3339), 1), "{", fmt.Sprintf(`{"id": %q, `, id), 1)
		s.call("POST", "/v2/models/flights/infer", request, http.StatusOK, nil)
	}
	const n = 120
	for i := range n {
		id := fmt.Sprintf("flight-%d", i)
		fly(id, time.Now().Add(-time.Duration(n-i)*20*time.Minute))
		s.call("POST", "/feedback", fmt.Sprintf(`{"prediction":%q,"value":%t}`, id, i%2 == 0), http.StatusAccepted, nil)
	}
	s.until("what came true is joined", func() bool {
		var judged struct{ Outcomes struct{ Joined int } }
		s.call("GET", "/admin/v1/quality/flights", "", http.StatusOK, &judged)
		return judged.Outcomes.Joined == n
	})
	s.call("PUT", "/admin/v1/pipelines/learns?by=test", learns, http.StatusOK, nil)
	s.call("PUT", "/admin/v1/alerts/rules?by=test", rules, http.StatusOK, nil)
	s.event("dev.knative.sources.ping", "tick-1", `{"job":"evaluate-alerts"}`, "Ce-Tick", "alerts")
	s.until("an alert is raised", func() bool {
		var alerts struct{ Active []struct{} }
		s.call("GET", "/admin/v1/alerts", "", http.StatusOK, &alerts)
		return len(alerts.Active) == 1
	})
	tries := 0
	s.until("the run that it starts has ended", func() bool {
		var run struct {
			State string
			Steps []struct{ State string }
		}
		var list struct{ Runs []struct{} }
		if s.call("GET", "/admin/v1/pipelines/learns/runs", "", http.StatusOK, &list); len(list.Runs) == 0 {
			return false
		}
		s.call("GET", "/admin/v1/pipelines/learns/runs/latest", "", http.StatusOK, &run)
		for _, step := range run.Steps {
			if step.State == "waiting" { // for answers of the new version, and the time to look at them
				tries++
				fly(fmt.Sprintf("later-%d", tries), time.Now())
				for job, tick := range map[string]string{"evaluate-alerts": "alerts", "tend-pipelines": "pipelines"} {
					s.event("dev.knative.sources.ping", fmt.Sprint(job, tries), fmt.Sprintf(`{"job":%q}`, job), "Ce-Tick", tick)
				}
			}
		}
		return run.State == "succeeded"
	})
	for i := range 3 {
		s.event("dev.pilotlight.outcome.observed.v1", fmt.Sprintf("broken-%d", i), `{"outcomes": "<script>alert(1)</script>"}`)
	}
	s.until("events are dead", func() bool {
		var list struct{ Deadletters []struct{} }
		s.call("GET", "/admin/v1/deadletters", "", http.StatusOK, &list)
		return len(list.Deadletters) == 3
	})
}

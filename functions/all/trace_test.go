package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// TestColdStartAndRequestAreTraced follows a process from its start to its first
// answer, by what it sends to a collector.
func TestColdStartAndRequestAreTraced(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	url, stop := start(t, map[string]string{
		"SEED": filepath.Join(root, "examples/flights"), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL,
	})
	request, err := os.Open(filepath.Join(root, "examples/flights/request.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v2/models/flights/infer", request)
	if err != nil {
		t.Fatal(err)
	}
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	r.Header.Set("Traceparent", "00-"+traceID+"-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
	resp.Body.Close()
	stop() // which sends what is left

	rootSpan := collector.Span("cold start")
	if rootSpan == nil {
		t.Fatal("no span of the cold start")
	}
	for _, stage := range []string{"process", "store", "listener", "fetch", "session", "warmup", "first_answer"} {
		span := collector.Span(stage)
		if span == nil {
			t.Errorf("no span of stage %q", stage)
			continue
		}
		if string(span.GetParentSpanId()) != string(rootSpan.GetSpanId()) {
			t.Errorf("stage %q does not stand below the cold start", stage)
		}
		if span.GetEndTimeUnixNano() < span.GetStartTimeUnixNano() || span.GetStartTimeUnixNano() < rootSpan.GetStartTimeUnixNano() {
			t.Errorf("stage %q lies outside of the cold start", stage)
		}
	}
	for _, name := range []string{"POST /v2/models/{model}/infer", "load.session", "decode", "run", "encode"} {
		if span := collector.Span(name); span == nil || hex.EncodeToString(span.GetTraceId()) != traceID {
			t.Errorf("span %q: got %v, want one of the caller's trace", name, span)
		}
	}
	for _, name := range []string{"pilotlight.cold_start.duration", "pilotlight.inference.duration", "pilotlight.model.load.duration", "http.server.request.duration"} {
		if collector.Metric(name) == nil {
			t.Errorf("no metric %q", name)
		}
	}
}

// traced starts the process with what is kept in a bucket on disk, soon.
func traced(t *testing.T, environ map[string]string) (url string) {
	t.Helper()
	all := map[string]string{"DATA_DIR": t.TempDir(), "TRACES_EVERY": "50ms", "PAYLOAD_EVERY": "50ms", "ALERT_EVERY": "1ms", "LOG_LEVEL": "ERROR"}
	maps.Copy(all, environ)
	url, _ = start(t, all)
	return url
}

// spanOf is a span of the API.
type spanOf struct {
	Span, Parent, Name, Service, Kind, Error string
	Start                                    time.Time
	Duration                                 int64 `json:"duration_us"`
	Attributes                               map[string]any
	Links                                    []struct{ Trace, Span string }
}

// awaitTrace asks for a trace until it is as it must be.
func awaitTrace(t *testing.T, url, id string, is func(map[string]spanOf) bool) map[string]spanOf {
	t.Helper()
	spans := map[string]spanOf{}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		status, body := call(t, "GET", url+"/admin/v1/traces/"+id, nil)
		if status == http.StatusNotFound {
			continue
		}
		var got struct{ Spans []spanOf }
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
			t.Fatalf("got %d %s", status, body)
		}
		clear(spans)
		for _, s := range got.Spans {
			spans[s.Name] = s
		}
		if is(spans) {
			return spans
		}
	}
	t.Fatalf("trace %s: got %v", id, slices.Sorted(maps.Keys(spans)))
	return nil
}

func has(names ...string) func(map[string]spanOf) bool {
	return func(spans map[string]spanOf) bool {
		return !slices.ContainsFunc(names, func(n string) bool { _, ok := spans[n]; return !ok })
	}
}

// askTraced asks for something with headers, and gives the status and the answer's headers.
func askTraced(t *testing.T, url, body string, headers ...string) (int, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header
}

// TestAPredictionsTraceHasItsStages asks a model with features and a cache, and looks for what came of it in the bucket.
func TestAPredictionsTraceHasItsStages(t *testing.T) {
	url := traced(t, map[string]string{"SEED": filepath.Join(root, "examples/flights"), "TRACE_SAMPLE": "0"})
	request, err := os.ReadFile(filepath.Join(root, "examples/flights/request.json"))
	if err != nil {
		t.Fatal(err)
	}
	const id, above = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	if status, _ := askTraced(t, url+"/v2/models/flights/infer", string(request), "Traceparent", "00-"+id+"-"+above+"-01"); status != 200 {
		t.Fatalf("got %d", status)
	}
	spans := awaitTrace(t, url, id, has("POST /v2/models/{model}/infer", "decode", "features", "online", "queue", "run", "encode"))
	server := spans["POST /v2/models/{model}/infer"]
	if server.Parent != above || server.Kind != "server" || server.Service != "all" || server.Attributes["model"] != "flights" || server.Attributes["http.response.status_code"] != 200.0 {
		t.Errorf("got %+v", server)
	}
	for _, name := range []string{"decode", "features", "queue", "run", "encode"} {
		s := spans[name]
		if s.Parent != server.Span || s.Start.Before(server.Start) || s.Start.Add(time.Duration(s.Duration)*time.Microsecond).After(server.Start.Add(time.Duration(server.Duration+1)*time.Microsecond)) {
			t.Errorf("%s: got %+v, want it within %+v", name, s, server)
		}
	}
	if spans["online"].Parent != spans["features"].Span {
		t.Errorf("got %+v", spans["online"])
	}
	status, body := call(t, "GET", url+"/admin/v1/traces?model=flights&service=all", nil)
	if status != 200 || !strings.Contains(body, id) {
		t.Errorf("got %d %s", status, body)
	}

	// One that nobody wants is not kept; that of an error is, and so is a slow one.
	status, head := askTraced(t, url+"/v2/models/flights/infer", string(request))
	plain := head.Get("X-Request-Id")
	if status != 200 || len(plain) != 32 || head.Get("Traceresponse") != "" {
		t.Fatalf("got %d %v", status, head)
	}
	_, head = askTraced(t, url+"/v2/models/flights/infer", string(request), "X-Request-Id", "mine")
	if got := head.Get("Traceresponse"); len(got) != 55 || head.Get("X-Request-Id") != "mine" {
		t.Errorf("got %v", head)
	}
	status, head = askTraced(t, url+"/v2/models/flights/infer", "not json")
	if status != 400 {
		t.Fatalf("got %d", status)
	}
	wrong := head.Get("X-Request-Id")
	// An event that can't be handled becomes a dead letter.
	event := func(body string) (int, http.Header) {
		return askTraced(t, url+"/events", body, "Ce-Id", "1", "Ce-Source", "/test", "Ce-Type", "dev.knative.sources.ping", "Ce-Specversion", "1.0", "Ce-Tick", "alerts", "Content-Type", "application/json")
	}
	if status, head = event(`{"job":"nonsense"}`); status != http.StatusAccepted {
		t.Fatalf("got %d", status)
	}
	failed := head.Get("X-Request-Id")
	spans = awaitTrace(t, url, failed, has("process dev.knative.sources.ping"))
	if s := spans["process dev.knative.sources.ping"]; s.Error == "" {
		t.Errorf("got %+v, want the reason why the event can't be handled", s)
	}
	for _, id := range []string{plain, wrong} {
		if status, body := call(t, "GET", url+"/admin/v1/traces/"+id, nil); status != http.StatusNotFound {
			t.Errorf("got %d %s, want nothing of a trace that nothing was wrong with", status, body)
		}
	}
}

// TestFromFeedbackToTheNewVersionIsOneTrace has a model be wrong, and follows what comes of it: the alert, the pipeline that it starts, its steps.
func TestFromFeedbackToTheNewVersionIsOneTrace(t *testing.T) {
	url := traced(t, map[string]string{"TRACE_SAMPLE": "0", "PAYLOAD_LOG": "on"})
	uploadAs(t, url, "echo", onnxtest.Identity(tensor.Spec{Type: tensor.FP64, Shape: []int64{-1}}).Bytes(), `{"quality":{"task":"binary"}}`)
	for path, text := range map[string]string{
		"/admin/v1/alerts/rules":   "rules:\n  - {name: wrong, model: echo, metric: accuracy, window: 6h, below: 0.9, min: 10}\n",
		"/admin/v1/pipelines/mend": "pipeline: mend\non:\n  - {event: dev.pilotlight.alert.raised.v1, where: {model: echo}}\nsteps:\n  - {name: a, use: probe}\n  - {name: b, use: probe-heavy, in: {pid: a.pid}}\n",
	} {
		if status, body := call(t, "PUT", url+path, strings.NewReader(text)); status != http.StatusOK {
			t.Fatalf("%s: got %d %s", path, status, body)
		}
	}
	var outcomes []string
	for i := range 20 {
		if status, _ := askTraced(t, url+"/v2/models/echo/infer", fmt.Sprintf(`{"id":"order-%d","inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[0.9]}]}`, i)); status != http.StatusOK {
			t.Fatalf("got %d", status)
		}
		outcomes = append(outcomes, fmt.Sprintf(`{"prediction":"order-%d","value":false}`, i))
	}
	if status, _ := askTraced(t, url+"/feedback", "["+strings.Join(outcomes, ",")+"]", "Content-Type", "application/json"); status != http.StatusAccepted {
		t.Fatalf("got %d", status)
	}
	var run struct {
		State string
		Trace string
	}
	for end := time.Now().Add(60 * time.Second); run.State != "succeeded"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got the run %+v", run)
		}
		tick(t, url, "alerts")
		if status, body := call(t, "GET", url+"/admin/v1/pipelines/mend/runs/latest", nil); status == http.StatusOK {
			if err := json.Unmarshal([]byte(body), &run); err != nil || run.State == "failed" {
				t.Fatalf("got %v, %s", err, body)
			}
		}
	}
	if len(run.Trace) != 55 {
		t.Fatalf("got the trace %q", run.Trace)
	}
	const raised, begun = "process dev.pilotlight.alert.raised.v1", "process dev.pilotlight.pipeline.started.v1"
	spans := awaitTrace(t, url, run.Trace[3:35], has("process dev.knative.sources.ping", raised, begun, "pipeline mend", "step a", "step b"))
	pipeline := spans["pipeline mend"]
	if pipeline.Span != run.Trace[36:52] || pipeline.Parent != spans[raised].Span || pipeline.Attributes["state"] != "succeeded" || len(pipeline.Links) != 1 {
		t.Errorf("got %+v, want it below %+v", pipeline, spans[raised])
	}
	for _, step := range []string{"step a", "step b"} {
		if spans[step].Parent != pipeline.Span || spans[step].Attributes["run"] == "" {
			t.Errorf("got %+v", spans[step])
		}
	}
	if tick := spans["process dev.knative.sources.ping"]; len(spans[raised].Links) == 0 || spans[raised].Links[0].Span != tick.Span {
		t.Errorf("got %+v, want it linked to %+v", spans[raised], tick)
	}
}

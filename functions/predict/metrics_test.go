package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

// What a process counted that nobody read from it, as it was there for a moment only, is sent before it ends. The interval of
// sending is a minute: nothing but its end can have sent it.
func TestNoMetricIsLostByAProcessThatEnds(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	p := spawn(t, "main", "listening", "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL)
	if status, body := call(t, "POST", p.url+"/admin/v1/models/m/versions", onnxtest.NonZero().Bytes()); status != http.StatusCreated {
		t.Fatalf("push: got %d %s", status, body)
	}
	const v2, v1, wrong, rows = 23, 7, 3, 4
	ask := func(n int, path, body string, want int) {
		t.Helper()
		for range n {
			if status, answer := call(t, "POST", p.url+path, []byte(body)); status != want {
				t.Fatalf("%s: got %d %s", path, status, answer)
			}
		}
	}
	ask(v2, "/v2/models/m/infer", request, 200)
	ask(v1, "/v1/models/m:predict", `{"inputs":[1,0,2,3]}`, 200)
	ask(wrong, "/v2/models/m/infer", `{"inputs":[]}`, 400)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(); err != nil {
		t.Fatalf("the process ended with %v: %s", err, p.lines())
	}
	for _, test := range []struct {
		metric, labels string
		want           int64
	}{
		{"http.server.request.duration", "http.route=/v2/models/{model}/infer", v2 + wrong},
		{"http.server.request.duration", "http.route=/v1/models/{model}", v1},
		{"pilotlight.inference.request.duration", "model=m protocol=v2_json version=1", v2 + wrong},
		{"pilotlight.inference.request.duration", "model=m protocol=v1 version=1", v1},
		{"pilotlight.inference.request.duration", "error.type=invalid", wrong},
		{"pilotlight.inference.rows", "source=run", rows * (v2 + v1)},
		{"pilotlight.inference.runs", "model=m", v2 + v1},
		{"pilotlight.model.load.duration", "outcome=loaded", 1},
	} {
		if got := countedIn(collector.Metric(test.metric), test.labels); got != test.want {
			t.Errorf("%s with %s: got %d, want %d", test.metric, test.labels, got, test.want)
		}
	}
}

// countedIn adds up what has the labels.
func countedIn(m *metrics.Metric, labels string) (n int64) {
	has := func(p interface{ String() string }) bool {
		for l := range strings.FieldsSeq(labels) {
			name, value, _ := strings.Cut(l, "=")
			if !strings.Contains(strings.ReplaceAll(p.String(), "  ", " "), `key:"`+name+`" value:{string_value:"`+value) {
				return false
			}
		}
		return true
	}
	for _, p := range m.GetHistogram().GetDataPoints() {
		if has(p) {
			n += int64(p.GetCount())
		}
	}
	for _, p := range m.GetSum().GetDataPoints() {
		if has(p) {
			n += p.GetAsInt()
		}
	}
	return n
}

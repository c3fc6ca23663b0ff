package main

import (
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
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
	for _, name := range []string{"POST /v2/models/{model}/infer", "load.session"} {
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

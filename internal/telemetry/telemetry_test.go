package telemetry_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

func start(t testing.TB, environ map[string]string) *telemetry.Telemetry {
	t.Helper()
	c := telemetry.Config{Output: io.Discard}
	if _, err := env.Load(environ, &c); err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &c, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// scrape reads metrics as Prometheus does.
func scrape(t testing.TB, h http.Handler) map[string]*dto.MetricFamily {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, w.Body)
	}
	return families
}

func TestMetrics(t *testing.T) {
	tel := start(t, map[string]string{"K_SERVICE": "predict", "K_REVISION": "predict-7", "HOSTNAME": "pod-1"})
	hits, err := tel.Meter.Int64Counter("pilotlight.cache.hits", metric.WithUnit("{hit}"), metric.WithDescription("Hits."))
	if err != nil {
		t.Fatal(err)
	}
	hits.Add(t.Context(), 3)
	families := scrape(t, tel.Metrics())
	if got := families["pilotlight_cache_hits_total"].GetMetric()[0].GetCounter().GetValue(); got != 3 {
		t.Errorf("pilotlight_cache_hits_total: got %v, want 3", got)
	}
	for _, name := range []string{"go_goroutines", "go_gc_duration_seconds", "target_info"} {
		if families[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if runtime.GOOS == "linux" {
		for _, name := range []string{"process_resident_memory_bytes", "process_start_time_seconds", "process_cpu_seconds_total"} {
			if families[name] == nil {
				t.Errorf("%s is missing", name)
			}
		}
	}
	info := map[string]string{}
	for _, l := range families["target_info"].GetMetric()[0].GetLabel() {
		info[l.GetName()] = l.GetValue()
	}
	for name, want := range map[string]string{
		"service_name": "predict", "service_instance_id": "pod-1", "faas_name": "predict", "faas_version": "predict-7", "service_version": tel.Version(),
	} {
		if info[name] != want {
			t.Errorf("target_info: got %s %q, want %q", name, info[name], want)
		}
	}
}

func TestServiceNameOfTheStandardWins(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "mine") // which the SDK reads
	tel := start(t, map[string]string{"K_SERVICE": "predict"})
	if got := fmt.Sprint(scrape(t, tel.Metrics())["target_info"]); !strings.Contains(got, `value:"mine"`) {
		t.Errorf("got %s, want the service mine", got)
	}
}

func TestColdStart(t *testing.T) {
	tel := start(t, nil)
	c := tel.ColdStart
	begin := time.Now()
	c.Record(telemetry.StageFetch, begin.Add(-2*time.Second), begin)
	c.Record(telemetry.StageFetch, begin.Add(-time.Hour), begin) // only the first counts
	c.Begin(telemetry.StageStore)()
	c.Begin(telemetry.StageSession) // which never ends
	c.Record(telemetry.StageFirstAnswer, begin, begin.Add(time.Millisecond))
	if !c.Over() {
		t.Error("the first answer did not end the cold start")
	}
	c.Record(telemetry.StageWarmup, begin, begin) // of a model that is loaded later on

	got := map[string]float64{}
	for _, m := range scrape(t, tel.Metrics())["pilotlight_cold_start_duration_seconds"].GetMetric() {
		if n := m.GetHistogram().GetSampleCount(); n != 1 {
			t.Errorf("%v: got %d samples, want 1", m.GetLabel(), n)
		}
		got[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleSum()
	}
	want := []string{"fetch", "first_answer", "store"}
	if runtime.GOOS == "linux" {
		want = []string{"fetch", "first_answer", "process", "store"}
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("got stages %v, want %v", names, want)
	}
	if got["fetch"] != 2 {
		t.Errorf("fetch: got %v s, want 2", got["fetch"])
	}
}

func TestProcessStart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux is asked")
	}
	const child = "TELEMETRY_TEST_CHILD"
	if os.Getenv(child) != "" {
		time.Sleep(50 * time.Millisecond)
		for _, m := range scrape(t, start(t, nil).Metrics())["pilotlight_cold_start_duration_seconds"].GetMetric() {
			fmt.Println("process took", m.GetHistogram().GetSampleSum())
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcessStart$", "-test.v") //nolint:gosec // this very test
	cmd.Env = append(os.Environ(), child+"=1")
	begin := time.Now()
	out, err := cmd.Output()
	longest := time.Since(begin) + 10*time.Millisecond // a tick of the kernel
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(out), "process took ")
	text, _, _ = strings.Cut(text, "\n")
	got, err := time.ParseDuration(text + "s")
	if err != nil || got < 50*time.Millisecond || got > longest {
		t.Errorf("got %s and error %v, want 50ms to %s, from\n%s", got, err, longest, out)
	}
}

func TestTracesAndMetricsAreSent(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	tel := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL + "/", "K_SERVICE": "predict", "TRACE_SAMPLE": "1"})
	if !tel.Tracing() {
		t.Error("there is an endpoint, but no tracing")
	}
	ctx, span := tel.Tracer.Start(t.Context(), "outer")
	_, inner := tel.Tracer.Start(ctx, "inner")
	inner.End()
	span.End()
	begin := time.Now()
	tel.ColdStart.Record(telemetry.StageStore, begin, begin.Add(time.Millisecond))
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	outer := collector.Span("outer")
	if outer == nil || !bytes.Equal(collector.Span("inner").GetParentSpanId(), outer.SpanId) {
		t.Fatalf("got %v and %v, want one below the other", outer, collector.Span("inner"))
	}
	if got := collector.Resource("service.name"); got != "predict" {
		t.Errorf("service.name: got %q, want predict", got)
	}
	cold, store := collector.Span("cold start"), collector.Span("store")
	if cold == nil || store == nil || !bytes.Equal(store.ParentSpanId, cold.SpanId) {
		t.Fatalf("got %v and %v, want the stage below the cold start, though nothing was answered", cold, store)
	}
	if got := fmt.Sprint(cold.Attributes); !strings.Contains(got, "faas.coldstart") {
		t.Errorf("got attributes %s, want faas.coldstart", got)
	}
	if got := time.Duration(store.EndTimeUnixNano - store.StartTimeUnixNano); got != time.Millisecond {
		t.Errorf("the span of the stage: got %s, want 1ms", got)
	}
	if collector.Metric("pilotlight.cold_start.duration").GetHistogram() == nil {
		t.Error("metrics were not sent")
	}
}

// What is sent is what /metrics has, once; or the differences, for who wants those.
func TestWhatIsCountedIsSent(t *testing.T) {
	for preference, want := range map[string]string{"": "AGGREGATION_TEMPORALITY_CUMULATIVE", "delta": "AGGREGATION_TEMPORALITY_DELTA"} {
		t.Run(preference, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
			t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
			collector := telemetrytest.NewCollector(t)
			tel := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
			asked, err := tel.Meter.Int64Counter("asked")
			if err != nil {
				t.Fatal(err)
			}
			asked.Add(t.Context(), 3)
			for end := time.Now().Add(10 * time.Second); collector.Metric("asked") == nil && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			asked.Add(t.Context(), 4)
			scraped := httptest.NewRecorder()
			tel.Metrics().ServeHTTP(scraped, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
			if !strings.Contains(scraped.Body.String(), "asked_total 7") {
				t.Errorf("got %s", scraped.Body)
			}
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			sum := collector.Metric("asked").GetSum()
			if sum == nil || sum.AggregationTemporality.String() != want || preference == "" && sum.DataPoints[0].GetAsInt() != 7 {
				t.Errorf("got %v, want %s", sum, want)
			}
		})
	}
}

func TestNothingIsSentWhenDisabled(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	tel := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_SDK_DISABLED": "true"})
	_, span := tel.Tracer.Start(t.Context(), "span")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if collector.Span("span") != nil || collector.Metric("pilotlight.cold_start.duration") != nil {
		t.Error("something was sent")
	}
}

func TestSamplerOfTheStandardCounts(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	tel := start(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.URL + "/v1/traces", "OTEL_TRACES_SAMPLER": "parentbased_always_off"})
	_, span := tel.Tracer.Start(t.Context(), "alone")
	span.End()
	parent := tel.Context.Extract(t.Context(), propagation.MapCarrier{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
	_, span = tel.Tracer.Start(parent, "asked for")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if collector.Span("alone") != nil || collector.Span("asked for") == nil {
		t.Error("the sampler is not the one of OTEL_TRACES_SAMPLER")
	}
}

func TestWithoutEndpointContextGoesOn(t *testing.T) {
	tel := start(t, nil)
	came := propagation.MapCarrier{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "baggage": "user=7"}
	ctx := tel.Context.Extract(t.Context(), came)
	ctx, span := tel.Tracer.Start(ctx, "nothing")
	span.End()
	goes := propagation.MapCarrier{}
	tel.Context.Inject(ctx, goes)
	if !maps.Equal(goes, came) {
		t.Errorf("got %v, want %v", goes, came)
	}
	if got := testing.AllocsPerRun(100, func() { tel.Tracer.Start(ctx, "nothing") }); got != 0 { //nolint:spancheck // there is none
		t.Errorf("a span that nobody gets: got %v allocations, want 0", got)
	}
}

func TestExportErrorsAreLogged(t *testing.T) {
	var log bytes.Buffer
	refuses := httptest.NewServer(http.NotFoundHandler())
	defer refuses.Close()
	c := telemetry.Config{Output: &log, TracesEndpoint: refuses.URL, Sample: 1}
	tel, err := telemetry.Start(t.Context(), &c, "test")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Tracer.Start(t.Context(), "lost")
	span.End()
	err = tel.Shutdown(t.Context())
	if got := fmt.Sprint(log.String(), err); !strings.Contains(got, "404") {
		t.Errorf("got %s, want the collector's status", got)
	}
}

func TestConfigRefuses(t *testing.T) {
	for variable, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_PROTOCOL":        "grpc",
		"OTEL_EXPORTER_OTLP_ENDPOINT":        "collector:4317",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://",
		"LOG_LEVEL":                          "chatty",
		"TRACE_SAMPLE":                       "1.5",
		"TRACE_RATE":                         "-1",
		"OTEL_TRACES_SAMPLER":                "jaeger_remote",
	} {
		if _, err := env.Load(map[string]string{variable: value}, &telemetry.Config{}); err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("%s=%s: got error %v, want one that names the variable", variable, value, err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	c := telemetry.Config{Output: io.Discard}
	for b.Loop() {
		if _, err := telemetry.Start(b.Context(), &c, "bench"); err != nil {
			b.Fatal(err)
		}
	}
}

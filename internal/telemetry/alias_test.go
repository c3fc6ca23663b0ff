package telemetry_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Aliases say what the own metrics say, with the labels that others have.
func TestAliases(t *testing.T) {
	tel := start(t, map[string]string{"METRICS_ALIASES": "triton,feast"})
	labels := func(of ...string) metric.MeasurementOption {
		var all []attribute.KeyValue
		for i := 0; i < len(of); i += 2 {
			all = append(all, attribute.String(of[i], of[i+1]))
		}
		return metric.WithAttributes(all...)
	}
	seconds := func(name string) metric.Float64Histogram {
		h, err := tel.Meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(.01, .1))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	counter := func(name string) metric.Int64Counter {
		c, err := tel.Meter.Int64Counter(name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx := t.Context()
	requests := seconds("pilotlight.inference.request.duration")
	requests.Record(ctx, .25, labels("model", "m", "version", "1", "protocol", "v1"))
	requests.Record(ctx, .5, labels("model", "m", "version", "1", "protocol", "v2_grpc"))
	requests.Record(ctx, 1, labels("model", "m", "version", "2", "protocol", "v1"))
	requests.Record(ctx, 1, labels("model", "m", "version", "1", "protocol", "v1", "error.type", "internal"))
	requests.Record(ctx, 1, labels("model", "m", "version", "1", "protocol", "v1", "error.type", "invalid"))
	requests.Record(ctx, 1, labels("model", "m", "version", "1", "protocol", "v1", "error.type", "not_found"))
	rows := counter("pilotlight.inference.rows")
	rows.Add(ctx, 7, labels("model", "m", "version", "1", "source", "run"))
	rows.Add(ctx, 100, labels("model", "m", "version", "1", "source", "cache"))
	counter("pilotlight.inference.runs").Add(ctx, 3, labels("model", "m", "version", "1"))
	stage, err := tel.Meter.Float64Counter("pilotlight.inference.stage", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"decode", "queue", "run", "encode"} {
		stage.Add(ctx, float64(i+1)/1000, labels("model", "m", "version", "1", "stage", name))
	}
	served := seconds("http.server.request.duration")
	for route, status := range map[string]string{"/get-online-features": "200", "/push": "422", "/v2/models/{model}/infer": "200"} {
		served.Record(ctx, .05, labels("http.route", route, "http.response.status_code", status, "http.request.method", "POST"))
	}
	served.Record(ctx, .005, labels("http.route", "/get-online-features", "http.response.status_code", "404", "http.request.method", "POST"))
	reads := seconds("pilotlight.features.read.duration")
	reads.Record(ctx, .05, labels("outcome", "read"))
	reads.Record(ctx, .05, labels("outcome", "failed"))
	values := counter("pilotlight.features.values")
	values.Add(ctx, 5, labels("view", "clicks", "status", "present"))
	values.Add(ctx, 2, labels("view", "clicks", "status", "not_found"))
	values.Add(ctx, 1, labels("view", "clicks", "status", "outside_max_age"))
	for accept, formatted := range map[string]string{
		"": "text/plain", "application/openmetrics-text; version=1.0.0": "", // whatever it is answered with, names stay
	} {
		r := httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		tel.Metrics().ServeHTTP(w, r)
		if !strings.HasPrefix(w.Header().Get("Content-Type"), formatted) {
			t.Errorf("got %s", w.Header().Get("Content-Type"))
		}
		for _, want := range []string{
			`nv_inference_request_success{model="m",version="1"} 2`,
			`nv_inference_request_success{model="m",version="2"} 1`,
			`nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1`,
			`nv_inference_request_failure{model="m",reason="OTHER",version="1"} 2`,
			`nv_inference_count{model="m",version="1"} 7`,
			`nv_inference_exec_count{model="m",version="1"} 3`,
			`nv_inference_request_duration_us{model="m",version="1"} 750000`,
			`nv_inference_compute_input_duration_us{model="m",version="1"} 1000`,
			`nv_inference_queue_duration_us{model="m",version="1"} 2000`,
			`nv_inference_compute_infer_duration_us{model="m",version="1"} 3000`,
			`nv_inference_compute_output_duration_us{model="m",version="1"} 4000`,
			`feast_feature_server_request_total{endpoint="/get-online-features",status="success"} 1`,
			`feast_feature_server_request_total{endpoint="/get-online-features",status="error"} 1`,
			`feast_feature_server_request_total{endpoint="/push",status="error"} 1`,
			`feast_feature_server_request_latency_seconds_bucket{endpoint="/get-online-features",le="0.01"} 1`,
			`feast_feature_server_request_latency_seconds_bucket{endpoint="/get-online-features",le="+Inf"} 2`,
			`feast_feature_server_request_latency_seconds_count{endpoint="/get-online-features"} 2`,
			`feast_online_features_request_total 2`,
			`feast_feature_server_online_store_read_duration_seconds_bucket{le="0.1"} 2`,
			`feast_online_features_status_total{feature_view="clicks",status="present"} 5`,
			`feast_online_features_status_total{feature_view="clicks",status="not_found"} 2`,
		} {
			if body := strings.ReplaceAll(strings.ReplaceAll(w.Body.String(), ".0\n", "\n"), "e+06", "000000"); !strings.Contains(body, want+"\n") {
				t.Errorf("%q: the metrics lack %s", accept, want)
			}
		}
		for _, not := range []string{"outside_max_age\",view=\"clicks\",feature_view", `endpoint="/v2`, `feast_online_features_status_total{feature_view="clicks",status="outside`} {
			if strings.Contains(w.Body.String(), not) {
				t.Errorf("the metrics have %s", not)
			}
		}
	}
	plain := httptest.NewRecorder()
	start(t, nil).Metrics().ServeHTTP(plain, httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil))
	if body := plain.Body.String(); strings.Contains(body, "nv_") || strings.Contains(body, "feast_") {
		t.Error("there are aliases that nobody asked for")
	}
}

func TestMetricsSettingsThatCantWork(t *testing.T) {
	for environ, want := range map[[2]string]string{
		{"METRICS_ALIASES", "triton,seldon"}: `METRICS_ALIASES has "seldon", expected triton, feast, or both`,
		{"METRICS_MODELS", "0"}:              `METRICS_MODELS is 0, expected 1 or more`,
	} {
		if _, err := env.Load(map[string]string{environ[0]: environ[1]}, &telemetry.Config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", environ, err, want)
		}
	}
}

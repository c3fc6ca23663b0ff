// Package telemetrytest is the other end of telemetry, for tests: a collector
// that takes what a process sends by OTLP over HTTP and keeps it in memory.
package telemetrytest

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector keeps what was sent to it. It is safe for concurrent use.
type Collector struct {
	URL string // what telemetry.Config.Endpoint has to be

	mu       sync.Mutex
	spans    []*trace.Span
	metrics  map[string]*metrics.Metric
	resource map[string]string
	records  []Record
}

// NewCollector starts a collector that ends with the test.
func NewCollector(t testing.TB) *Collector {
	c := &Collector{metrics: map[string]*metrics.Metric{}, resource: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", c.traces)
	mux.HandleFunc("POST /v1/metrics", c.measurements)
	mux.HandleFunc("POST /v1/logs", c.logs)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// Span gives a span by its name, or nil; of several, the last that was sent.
func (c *Collector) Span(name string) *trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.spans) - 1; i >= 0; i-- {
		if c.spans[i].Name == name {
			return c.spans[i]
		}
	}
	return nil
}

// Spans gives all spans that were sent, in their order.
func (c *Collector) Spans() []*trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Metric gives a metric by its OpenTelemetry name as it was last sent, or nil.
func (c *Collector) Metric(name string) *metrics.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics[name]
}

// Resource gives an attribute of the process that sent spans.
func (c *Collector) Resource(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resource[name]
}

func (c *Collector) traces(w http.ResponseWriter, r *http.Request) {
	var sent collectortrace.ExportTraceServiceRequest
	if !take(w, r, &sent) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceSpans {
		for _, a := range resource.Resource.GetAttributes() {
			c.resource[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

func (c *Collector) measurements(w http.ResponseWriter, r *http.Request) {
	var sent collectormetrics.ExportMetricsServiceRequest
	if !take(w, r, &sent) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.metrics[m.Name] = m
			}
		}
	}
}

// take decodes a request, or refuses it.
func take(w http.ResponseWriter, r *http.Request, into proto.Message) bool {
	b, err := read(r)
	if err == nil {
		err = proto.Unmarshal(b, into)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func read(r *http.Request) ([]byte, error) {
	if got, want := r.Header.Get("Content-Type"), "application/x-protobuf"; got != want {
		return nil, fmt.Errorf("the content type is %q, expected %q", got, want)
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		body = z
	}
	return io.ReadAll(body)
}

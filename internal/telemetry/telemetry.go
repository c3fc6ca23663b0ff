// Package telemetry owns what a process tells of itself: logs, metrics and
// traces, and how long it took to get going.
//
// Start builds all of it without a global: who measures gets a *Telemetry and
// makes its instruments from Meter and its spans from Tracer. Metrics are
// always there for Prometheus to read. Traces and metrics are also sent by
// OTLP when an endpoint is configured; without one no span is ever made, while
// the trace id that a caller sent still reaches the log and the next service.
//
// Logs are lines of JSON. A line below WARN may wait 200 ms in a buffer and is
// lost if the process is killed meanwhile; the order of lines is kept, and when
// the reader of the log is slower than the process, the process waits. All of
// it is safe for concurrent use. The package knows nothing of HTTP, and of models that there may be many.
package telemetry

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope names this module as the maker of its instruments and spans.
const scope = "github.com/pilotlight-ml/pilotlight"

// Config says what is told and to whom. The SDK itself reads the rest of the
// OTEL_* variables: headers, timeouts, sampler, intervals, resource attributes.
type Config struct {
	Level           slog.Level    `env:"LOG_LEVEL" default:"INFO" help:"The least level that is logged: DEBUG, INFO, WARN or ERROR."`
	LogSample       float64       `env:"LOG_SAMPLE" default:"1" help:"Share of requests that get a line in the log, of those that succeed and are not slow, from 0 to 1; the others are counted."`
	LogSlow         time.Duration `env:"LOG_SLOW" default:"1s" help:"How long a request takes that gets a line in any case."`
	Endpoint        string        `env:"OTEL_EXPORTER_OTLP_ENDPOINT" help:"URL that takes traces and metrics by OTLP over HTTP; empty: they are not sent."`
	TracesEndpoint  string        `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" help:"The same for traces alone."`
	MetricsEndpoint string        `env:"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" help:"The same for metrics alone."`
	Protocol        string        `env:"OTEL_EXPORTER_OTLP_PROTOCOL" default:"http/protobuf" help:"How OTLP is sent; http/protobuf is the one way."`
	Disabled        bool          `env:"OTEL_SDK_DISABLED" default:"false" help:"Send nothing by OTLP, whatever the endpoints say."`
	Service         string        `env:"K_SERVICE" help:"Name of the Knative service; Knative sets it."`
	Revision        string        `env:"K_REVISION" help:"Name of the Knative revision; Knative sets it."`
	Instance        string        `env:"HOSTNAME" help:"Name of this instance; Kubernetes sets it to the pod's name."`
	Models          int           `env:"METRICS_MODELS" default:"500" help:"How many models, and how many versions, metrics tell apart, the first that are asked; all others are 'other'."`
	Aliases         []string      `env:"METRICS_ALIASES" help:"Whose names /metrics has beside the own ones, for dashboards that there are: triton, feast, or both with a comma between them."`

	// Output takes the log, os.Stderr when nil: the place for logs of a
	// process whose stdout may be an answer, such as that of -config.
	Output io.Writer
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Protocol != "" && c.Protocol != "http/protobuf" {
		return fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q, expected http/protobuf: OTLP over gRPC is not supported", c.Protocol)
	}
	if !(c.LogSample >= 0 && c.LogSample <= 1) {
		return fmt.Errorf("LOG_SAMPLE is %v, expected a share from 0 to 1", c.LogSample)
	}
	if c.Models < 1 {
		return fmt.Errorf("METRICS_MODELS is %d, expected 1 or more", c.Models)
	}
	for _, name := range c.Aliases {
		if aliases[name] == nil {
			return fmt.Errorf("METRICS_ALIASES has %q, expected triton, feast, or both", name)
		}
	}
	for _, e := range [][2]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT", c.Endpoint},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.TracesEndpoint},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", c.MetricsEndpoint},
	} {
		if u, err := url.Parse(e[1]); e[1] != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return fmt.Errorf("%s is %q, expected a URL such as http://collector:4318", e[0], e[1])
		}
	}
	return nil
}

// target gives the URL to send a signal to, or nothing: one of its own, or the
// common one with the path that OTLP has for the signal.
func (c *Config) target(own, path string) string {
	switch {
	case c.Disabled:
		return ""
	case own != "" || c.Endpoint == "":
		return own
	}
	return strings.TrimSuffix(c.Endpoint, "/") + path
}

// Telemetry is where a process's parts log, count and trace.
type Telemetry struct {
	Log       *slog.Logger
	Meter     metric.Meter
	Tracer    trace.Tracer                  // makes spans that record nothing unless Tracing
	Tracing   bool                          // traces are sent somewhere
	Context   propagation.TextMapPropagator // carries trace context and baggage across processes
	ColdStart *ColdStart
	Lines     *Lines
	Apart     *Apart // which models and versions metrics tell apart

	version  string
	log      *buffer
	registry *prometheus.Registry
	aliases  []alias // of what is in the registry
	stops    []func(context.Context) error
}

// Start sets up telemetry for the process, whose service is named after
// Knative's, or as given. It makes no connection.
func Start(ctx context.Context, c *Config, service string) (*Telemetry, error) {
	output := c.Output
	if output == nil {
		output = os.Stderr
	}
	t := &Telemetry{
		log:      newBuffer(output),
		Context:  propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		registry: prometheus.NewRegistry(),
	}
	if c.Models > 0 {
		t.Apart = NewApart(c.Models)
	}
	for _, name := range c.Aliases {
		t.aliases = append(t.aliases, aliases[name]...)
	}
	t.Log = slog.New(&handler{Handler: slog.NewJSONHandler(t.log, &slog.HandlerOptions{Level: c.Level}), out: t.log, own: true})
	t.stops = append(t.stops, t.log.close)

	res, err := c.resource(ctx, service)
	if err != nil {
		return nil, fmt.Errorf("describe this process: %w", err)
	}
	if v, ok := res.Set().Value(semconv.ServiceVersionKey); ok {
		t.version = v.AsString()
	}
	if err := errors.Join(t.startMetrics(ctx, c, res), t.startTraces(ctx, c, res)); err != nil {
		return nil, err
	}
	if t.ColdStart, err = newColdStart(ctx, t.Meter, t.Tracer); err != nil {
		return nil, err
	}
	t.stops = append(t.stops, t.ColdStart.close)
	if t.Lines, err = newLines(c, t.Meter); err != nil {
		return nil, err
	}
	// What fails in the background, such as an export, has no other way to be
	// heard than this global of the library.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		t.Log.LogAttrs(context.Background(), slog.LevelWarn, "telemetry", slog.String("error", err.Error()))
	}))
	return t, nil
}

func (t *Telemetry) startMetrics(ctx context.Context, c *Config, res *resource.Resource) error {
	pull, err := otelprometheus.New(
		otelprometheus.WithRegisterer(t.registry),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		otelprometheus.WithoutScopeInfo(), // one scope, said on each series, tells nothing
	)
	if err != nil {
		return fmt.Errorf("prepare metrics for Prometheus: %w", err)
	}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(pull)}
	if target := c.target(c.MetricsEndpoint, "/v1/metrics"); target != "" {
		push, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(target))
		if err != nil {
			return fmt.Errorf("prepare sending metrics: %w", err)
		}
		options = append(options, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(push)))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.stops = append(t.stops, provider.Shutdown)
	t.Meter = provider.Meter(scope)
	return nil
}

func (t *Telemetry) startTraces(ctx context.Context, c *Config, res *resource.Resource) error {
	target := c.target(c.TracesEndpoint, "/v1/traces")
	if target == "" {
		t.Tracer = untraced{}
		return nil
	}
	push, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(target))
	if err != nil {
		return fmt.Errorf("prepare sending traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(push), sdktrace.WithResource(res))
	t.stops = append(t.stops, provider.Shutdown)
	t.Tracer, t.Tracing = provider.Tracer(scope), true
	return nil
}

// untraced makes no spans: what it gives instead is the one that came with the
// request, which records nothing.
type untraced struct{ noop.Tracer }

func (untraced) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	return ctx, trace.SpanFromContext(ctx)
}

// resource describes the process to whoever gathers telemetry of many.
func (c *Config) resource(ctx context.Context, service string) (*resource.Resource, error) {
	attributes := []resource.Option{
		resource.WithAttributes(
			semconv.ServiceName(cmp.Or(c.Service, service)),
			semconv.ServiceVersion(version()),
			semconv.ServiceInstanceID(cmp.Or(c.Instance, rand.Text())),
		),
		resource.WithTelemetrySDK(),
	}
	if c.Service != "" {
		attributes = append(attributes, resource.WithAttributes(
			semconv.FaaSName(c.Service), semconv.FaaSVersion(c.Revision), semconv.FaaSInstance(c.Instance)))
	}
	// Last, so that OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
	return resource.New(ctx, append(attributes, resource.WithFromEnv())...)
}

// version gives the module's version as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// Version gives the version of the running program.
func (t *Telemetry) Version() string { return t.version }

// Metrics answers with all metrics in the text format of Prometheus.
func (t *Telemetry) Metrics() http.Handler {
	var from prometheus.Gatherer = t.registry
	if len(t.aliases) > 0 {
		from = aliased{t.registry, t.aliases}
	}
	return promhttp.HandlerFor(from, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(t.Log.Handler(), slog.LevelWarn)})
}

// shutdownMost is how long the end of a process may wait for a collector.
const shutdownMost = 5 * time.Second

// Shutdown sends what is still to be sent, as long as ctx allows and 5 s at
// most, and writes what is left of the log, which from then on is written at once.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownMost)
	defer cancel()
	var errs []error
	for i := len(t.stops) - 1; i >= 0; i-- {
		errs = append(errs, t.stops[i](ctx))
	}
	return errors.Join(errs...)
}

// Package telemetry owns what a process tells of itself: logs, metrics and
// traces, and how long it took to get going.
//
// Start builds all of it without a global: who measures gets a *Telemetry and
// makes its instruments from Meter and its spans from Tracer. Metrics are
// always there for Prometheus to read. Traces and metrics are also sent by
// OTLP when an endpoint is configured, and TakeSpans gives traces to others in the process.
//
// Each request and event has a trace id: its caller's, or a new one. What this process does for it is noted as it
// happens, and only at its end is it decided whether it is kept: what failed is, what was slow, what its caller
// wishes to be kept, and a sample by the trace's id. Spans are made of nothing else (docs/adr/0026).
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
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
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
	Sample          float64       `env:"TRACE_SAMPLE" default:"0.01" help:"Share of traces that are kept although nothing was wrong with them, from 0 to 1; by the trace's id, so that all functions keep the same ones. Failed and slow ones are kept beside them, and those that come with the sampled flag of traceparent."`
	Rate            int           `env:"TRACE_RATE" default:"20" help:"Traces that a process keeps in a second for each reason at most: sampled, asked for by the caller, failed, slow; 0: any number. More are dropped, and counted."`
	Sampler         string        `env:"OTEL_TRACES_SAMPLER" help:"If set it says in the place of TRACE_SAMPLE which traces are sampled: always_on, always_off, traceidratio, and each of them behind parentbased_; without that the sampled flag of callers does not count. Failed and slow ones are kept in any case."`
	SamplerArg      string        `env:"OTEL_TRACES_SAMPLER_ARG" help:"The share for traceidratio, from 0 to 1."`
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
	if _, _, err := c.shareOf(); err != nil {
		return err
	}
	if c.Rate < 0 {
		return errors.New("TRACE_RATE must not be negative")
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
	Context   propagation.TextMapPropagator // carries trace context and baggage across processes
	ColdStart *ColdStart
	Lines     *Lines
	Apart     *Apart // which models and versions metrics tell apart

	version  string
	service  string
	recorder *recorder
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
	if v, ok := res.Set().Value(semconv.ServiceNameKey); ok {
		t.service = v.AsString()
	}
	if err := t.startMetrics(ctx, c, res); err != nil {
		return nil, err
	}
	if err := t.startTraces(ctx, c, res); err != nil {
		return nil, err
	}
	if t.ColdStart, err = newColdStart(ctx, t.Meter, t.recorder); err != nil {
		return nil, err
	}
	t.stops = append(t.stops, func(context.Context) error { t.ColdStart.End(); return nil })
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
	all := &histograms{begun: time.Now()}
	pull, err := otelprometheus.New(
		otelprometheus.WithProducer(all),
		otelprometheus.WithRegisterer(t.registry),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		otelprometheus.WithoutScopeInfo(), // one scope, said on each series, tells nothing
	)
	if err != nil {
		return fmt.Errorf("prepare metrics for Prometheus: %w", err)
	}
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	options := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(pull)}
	var sends *sdkmetric.MeterProvider
	if target := c.target(c.MetricsEndpoint, "/v1/metrics"); target != "" {
		push, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(target))
		if err != nil {
			return fmt.Errorf("prepare sending metrics: %w", err)
		}
		if cumulative(push) {
			sends = sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(sdkmetric.NewPeriodicReader(push, sdkmetric.WithProducer(pulled{pull}))))
		} else { // the differences that it wants are counted apart
			options = append(options, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(push, sdkmetric.WithProducer(all.differences()))))
		}
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.stops = append(t.stops, provider.Shutdown)
	if sends != nil {
		t.stops = append(t.stops, sends.Shutdown) // before the other, as it sends once more what that has
	}
	t.Meter = meter{provider.Meter(scope), all}
	return nil
}

// pulled gives what a reader has counted. The SDK counts everything once for each reader; this spares requests the second time.
type pulled struct{ reader sdkmetric.Reader }

// Produce implements sdkmetric.Producer.
func (p pulled) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	var all metricdata.ResourceMetrics
	err := p.reader.Collect(ctx, &all)
	return all.ScopeMetrics, err
}

// cumulative tells whether an exporter wants what Prometheus is told: sums since the beginning.
func cumulative(e sdkmetric.Exporter) bool {
	return e.Temporality(sdkmetric.InstrumentKindCounter) == metricdata.CumulativeTemporality && e.Temporality(sdkmetric.InstrumentKindHistogram) == metricdata.CumulativeTemporality
}

func (t *Telemetry) startTraces(ctx context.Context, c *Config, res *resource.Resource) error {
	var err error
	if t.recorder, err = newRecorder(c, t.Meter); err != nil {
		return err
	}
	t.Tracer = tracer{recorder: t.recorder}
	if target := c.target(c.TracesEndpoint, "/v1/traces"); target != "" {
		push, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(target))
		if err != nil {
			return fmt.Errorf("prepare sending traces: %w", err)
		}
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(push), sdktrace.WithResource(res),
			sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(knownIDs{})) // what comes to it was sampled
		t.stops = append(t.stops, provider.Shutdown)
		t.recorder.attach(replay{provider.Tracer(scope)}.take)
	}
	t.stops = append(t.stops, t.recorder.close)
	return nil
}

// Tracing tells whether anybody takes spans.
func (t *Telemetry) Tracing() bool { return t.recorder.on() }

// TakeSpans has take be given the spans of each part of a trace that is kept, the first of which stands for the part,
// in one goroutine and one after the other. It returns soon: while it is busy few parts wait, and others are dropped. The function that
// TakeSpans gives ends that, after what had been kept before.
func (t *Telemetry) TakeSpans(take func(part []Span)) (end func()) { return t.recorder.attach(take) }

// Emit keeps a span that has ended, which was made elsewhere than in a line or by Tracer, such as one that began in another process.
func (t *Telemetry) Emit(s Span) {
	if t.recorder.on() {
		t.recorder.offer([]Span{s}, bySample)
	}
}

// Waiting tells how many parts wait for those who take spans.
func (t *Telemetry) Waiting() int { return len(t.recorder.queue) }

// Service gives the name of the process's service.
func (t *Telemetry) Service() string { return t.service }

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

// Metrics answers with all metrics in the text format of Prometheus or, for who asks for that, of OpenMetrics, where latencies
// have traces that are kept as examples.
func (t *Telemetry) Metrics() http.Handler {
	var from prometheus.Gatherer = t.registry
	if len(t.aliases) > 0 {
		from = aliased{t.registry, t.aliases}
	}
	return promhttp.HandlerFor(from, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(t.Log.Handler(), slog.LevelWarn), EnableOpenMetrics: true})
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

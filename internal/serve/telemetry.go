package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments measure requests as OpenTelemetry's conventions for HTTP servers say.
type instruments struct {
	seconds metric.Float64Histogram
	in, out metric.Int64Histogram
	scheme  string
	shaken  metric.Int64Counter // handshakes of TLS that came to nothing

	mu     sync.RWMutex
	series map[seriesKey]*series
}

// seriesKey has few values: routes are the mux's, methods are known ones, and
// handlers choose between a handful of statuses.
type seriesKey struct {
	pattern, method string
	status, major   int
	failed          bool
	kind            fault.Kind
}

// series is what all requests of a key have in common, made once.
type series struct {
	route, span string
	attributes  []attribute.KeyValue
	outcome     []metric.RecordOption // all attributes
	sizes       []metric.RecordOption // those that sizes depend on
	pace        telemetry.Pace        // of those that are not told by another
}

func newInstruments(tel *telemetry.Telemetry, active func() int64, ids *identities) (*instruments, error) {
	i := &instruments{scheme: "http", series: map[seriesKey]*series{}}
	if ids != nil {
		i.scheme = "https"
	}
	// The conventions' bounds, and smaller ones: a cached prediction takes less than the least of theirs.
	seconds, err1 := httpconv.NewServerRequestDuration(tel.Meter, metric.WithExplicitBucketBoundaries(
		.0005, .001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	bytes := metric.WithExplicitBucketBoundaries(256, 1<<10, 4<<10, 16<<10, 64<<10, 256<<10, 1<<20, 4<<20, 16<<20, 64<<20)
	in, err2 := httpconv.NewServerRequestBodySize(tel.Meter, bytes)
	out, err3 := httpconv.NewServerResponseBodySize(tel.Meter, bytes)
	scheme := metric.WithAttributeSet(attribute.NewSet(semconv.URLScheme(i.scheme)))
	_, err4 := httpconv.NewServerActiveRequestsObservable(tel.Meter, metric.WithInt64Callback(
		func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(active(), scheme)
			return nil
		}))
	var err5 error
	if ids != nil {
		err5 = i.observe(tel.Meter, ids)
	}
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, fmt.Errorf("make the instruments of the HTTP server: %w", err)
	}
	i.seconds, i.in, i.out = seconds.Inst(), in.Inst(), out.Inst()
	return i, nil
}

// observe tells of the certificates.
func (i *instruments) observe(m metric.Meter, ids *identities) error {
	_, err1 := m.Float64ObservableGauge("pilotlight.tls.expiry.timestamp", metric.WithUnit("s"),
		metric.WithDescription("When the first of the certificates that the server shows ends, in seconds of Unix time."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(float64(ids.current.Load().until.Unix()))
			return nil
		}))
	_, err2 := m.Int64ObservableGauge("pilotlight.tls.refused",
		metric.WithDescription("1 while the files of TLS_CERT, TLS_KEY and TLS_CLIENT_CA hold what can't be taken over, and the last that could stays in force."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			refused := int64(0)
			if ids.refused.Load() {
				refused = 1
			}
			o.Observe(refused)
			return nil
		}))
	var err3 error
	i.shaken, err3 = m.Int64Counter("pilotlight.tls.handshake.failures",
		metric.WithDescription("Connections that ended before TLS was agreed on: callers with an old TLS, without a certificate that is asked for, or without TLS."))
	return errors.Join(err1, err2, err3)
}

// errorLog is where net/http tells of connections. Handshakes that fail are what strangers make of them as often as they
// like: they are counted, and of interest when one looks for them.
type errorLog struct {
	slog.Handler
	metrics *instruments
}

// Handle implements slog.Handler.
func (l errorLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "http: TLS handshake error") {
		l.metrics.shaken.Add(ctx, 1)
		if r.Level = slog.LevelDebug; !l.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return l.Handler.Handle(ctx, r)
}

// of gives what a finished exchange has in common with others.
func (i *instruments) of(x *exchange, err error) *series {
	key := seriesKey{pattern: x.r.Pattern, method: method(x.r), status: x.status, major: x.r.ProtoMajor, failed: err != nil}
	if err != nil {
		key.kind = fault.KindOf(err)
	}
	i.mu.RLock()
	s := i.series[key]
	i.mu.RUnlock()
	if s == nil {
		s = newSeries(key, i.scheme)
		i.mu.Lock()
		if there := i.series[key]; there != nil {
			s = there
		} else {
			i.series[key] = s
		}
		i.mu.Unlock()
	}
	return s
}

// record measures a finished exchange, whose trace is the measurement's example if it is kept.
func (i *instruments) record(ctx context.Context, x *exchange, s *series, took time.Duration) {
	i.seconds.Record(ctx, took.Seconds(), s.outcome...)
	i.in.Record(ctx, x.got, s.sizes...)
	i.out.Record(ctx, x.sent, s.sizes...)
}

func newSeries(key seriesKey, scheme string) *series {
	// A pattern is "[METHOD ][HOST]/PATH".
	route := key.pattern[strings.IndexByte(key.pattern, ' ')+1:]
	s := &series{route: route, span: strings.TrimSpace(key.method + " " + route)}
	protocol := "1.1"
	if key.major == 2 {
		protocol = "2"
	}
	s.attributes = []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(key.method), semconv.URLScheme(scheme)}
	if route != "" {
		s.attributes = append(s.attributes, semconv.HTTPRoute(route))
	}
	s.sizes = recordOptions(s.attributes)
	s.attributes = append(s.attributes, semconv.HTTPResponseStatusCode(key.status), semconv.NetworkProtocolVersion(protocol))
	if key.failed {
		s.attributes = append(s.attributes, semconv.ErrorTypeKey.String(key.kind.String()))
	}
	s.outcome = recordOptions(s.attributes)
	return s
}

func recordOptions(attributes []attribute.KeyValue) []metric.RecordOption {
	return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
}

// method gives the request's method as a label, of which a caller can't make any number.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return r.Method
	}
	return "_OTHER"
}

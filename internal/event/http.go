package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says where events go.
type Config struct {
	Sink      string        `env:"K_SINK" help:"URL that events are posted to; Knative's SinkBinding sets it to the broker's. Empty: no events are sent."`
	Overrides string        `env:"K_CE_OVERRIDES" help:"JSON with extensions to set on each event sent; Knative sets it: {\"extensions\":{\"name\":\"value\"}}."`
	Timeout   time.Duration `env:"SINK_TIMEOUT" default:"10s" help:"How long K_SINK may take to answer one attempt to send an event."`
}

// overrides is what K_CE_OVERRIDES holds.
type overrides struct {
	Extensions map[string]string `json:"extensions"`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if u, err := url.Parse(c.Sink); c.Sink != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fault.New(fault.Invalid, "K_SINK is %q, expected a URL such as http://broker-ingress/namespace/broker", c.Sink)
	}
	if c.Timeout <= 0 {
		return fault.New(fault.Invalid, "SINK_TIMEOUT must be positive")
	}
	_, err := c.overrides()
	return err
}

func (c *Config) overrides() (*overrides, error) {
	o := &overrides{}
	if c.Overrides == "" {
		return o, nil
	}
	if err := json.Unmarshal([]byte(c.Overrides), o); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, `K_CE_OVERRIDES is %q, expected JSON such as {"extensions":{"name":"value"}}`, c.Overrides)
	}
	return o, nil
}

// HTTP is a Sink that posts events to K_SINK. What is refused for now, or not
// answered, is sent again while the context lasts, up to five times.
type HTTP struct {
	target    string
	overrides *overrides
	timeout   time.Duration // of an attempt
	client    *http.Client
	tel       *telemetry.Telemetry
	metrics   *instruments
}

var _ Sink = (*HTTP)(nil)

// Open gives the sink that the config names, or nil where it names none. It makes no connection.
func Open(c *Config, tel *telemetry.Telemetry) (Sink, error) {
	if c.Sink == "" {
		return nil, nil
	}
	return NewHTTP(c, tel)
}

// NewHTTP makes the sink of a config that names one. It makes no connection.
func NewHTTP(c *Config, tel *telemetry.Telemetry) (*HTTP, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	o, err := c.overrides()
	if err != nil {
		return nil, err
	}
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	return &HTTP{
		target: c.Sink, overrides: o, timeout: c.Timeout, tel: tel, metrics: metrics,
		client: &http.Client{
			Transport:     http.DefaultTransport.(*http.Transport).Clone(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // which would turn the POST into a GET
		},
	}, nil
}

// Send posts events one by one, since brokers take no batches, and stops at the
// first that is not accepted: Unavailable where sending it later may help, else Invalid.
func (h *HTTP) Send(ctx context.Context, events ...Event) error {
	for i := range events {
		e := events[i].Clone()
		for name, value := range h.overrides.Extensions {
			e.SetExtension(name, value)
		}
		if err := Check(&e); err != nil {
			return err
		}
		if err := h.send(ctx, &e); err != nil {
			return fmt.Errorf("send event %s %s: %w", e.Type(), e.ID(), err)
		}
	}
	return nil
}

func (h *HTTP) send(ctx context.Context, e *Event) (err error) {
	if h.tel.Tracing() {
		var span trace.Span
		if origin := Origin(e); origin.IsValid() && !trace.SpanContextFromContext(ctx).IsValid() { // it comes from an outbox
			ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
		}
		ctx, span = h.tel.Tracer.Start(ctx, "send "+known(e.Type()), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(describe(e)...))
		defer func() { finish(span, err) }()
	}
	SetOrigin(ctx, e)                         // an event keeps the context that it was made in
	pauses := backoff.NewExponentialBackOff() // from half a second on, each time half as long again
	_, err = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, h.attempt(ctx, e) }, backoff.WithBackOff(pauses), backoff.WithMaxTries(6))
	return err
}

// attempt posts an event once. Its error tells backoff.Retry what to do.
func (h *HTTP) attempt(ctx context.Context, e *Event) error {
	limited, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	r, err := Request(limited, h.target, e)
	if err != nil {
		return backoff.Permanent(err)
	}
	h.tel.Context.Inject(ctx, propagation.HeaderCarrier(r.Header))
	resp, err := h.client.Do(r)
	if err != nil {
		h.metrics.count(ctx, h.metrics.sent, e.Type(), 0)
		if ctx.Err() != nil {
			return backoff.Permanent(context.Cause(ctx))
		}
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err // the URL is known
		}
		return fault.Wrap(fault.Unavailable, err, "the broker can't be reached")
	}
	defer resp.Body.Close()
	h.metrics.count(ctx, h.metrics.sent, e.Type(), resp.StatusCode)
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // it is only shown
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case !Retried(resp.StatusCode):
		return backoff.Permanent(fault.New(fault.Invalid, "the broker refuses the event with %d: %.200s", resp.StatusCode, said))
	}
	return fault.New(fault.Unavailable, "the broker answers %d: %.200s", resp.StatusCode, said)
}

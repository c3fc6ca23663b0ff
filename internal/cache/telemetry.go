package cache

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// measure has the cache's numbers read whenever somebody asks: counting an
// answer is then one addition.
func (c *Cache) measure(tel *telemetry.Telemetry) error {
	var errs [7]error
	var requests, checks, failures metric.Int64ObservableCounter
	var distrusted, size, up metric.Int64ObservableGauge
	requests, errs[0] = tel.Meter.Int64ObservableCounter("pilotlight.cache.requests",
		metric.WithDescription("Requests for models whose answers may be remembered, by model and by what the cache did."))
	checks, errs[1] = tel.Meter.Int64ObservableCounter("pilotlight.cache.checks",
		metric.WithDescription("Hits that were computed again, by model."))
	distrusted, errs[2] = tel.Meter.Int64ObservableGauge("pilotlight.cache.distrusted",
		metric.WithDescription("Versions of a model that answered a request differently when it was computed again: this process remembers their answers no more."))
	size, errs[3] = tel.Meter.Int64ObservableGauge("pilotlight.cache.memory", metric.WithUnit("By"),
		metric.WithDescription("Memory that remembered answers take."))
	up, errs[4] = tel.Meter.Int64ObservableGauge("pilotlight.cache.shared.up",
		metric.WithDescription("1 while the shared cache is in use, 0 while it is away."))
	failures, errs[5] = tel.Meter.Int64ObservableCounter("pilotlight.cache.shared.failures",
		metric.WithDescription("What went wrong with the shared cache: reads, writes, damaged entries, and entries dropped because too many waited to be written."))
	c.metrics, errs[6] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		type total struct {
			results            [statuses]int64
			checks, distrusted int64
		}
		totals := map[string]*total{}
		c.mu.Lock()
		for _, s := range c.scopes {
			name := tel.Apart.Model(s.spec.Model)
			t := totals[name]
			if t == nil {
				t = &total{}
				totals[name] = t
			}
			for i := range s.results {
				t.results[i] += s.results[i].Load()
			}
			t.checks += s.checks.Load()
			if s.distrusted.Load() {
				t.distrusted++
			}
		}
		c.mu.Unlock()
		for name, t := range totals {
			model := attribute.String("model", name)
			for status, n := range t.results {
				if n > 0 && Status(status) != Off {
					o.ObserveInt64(requests, n, metric.WithAttributes(model, attribute.String("result", Status(status).String())))
				}
			}
			o.ObserveInt64(checks, t.checks, metric.WithAttributes(model))
			o.ObserveInt64(distrusted, t.distrusted, metric.WithAttributes(model))
		}
		o.ObserveInt64(size, c.memory.bytes())
		if s := c.shared; s != nil {
			state := int64(0)
			if s.up.Load() {
				state = 1
			}
			o.ObserveInt64(up, state)
			for what, n := range map[string]int64{
				"read": s.readErrors.Load(), "write": s.writeErrors.Load(), "damaged": s.damaged.Load(), "dropped": s.dropped.Load(),
			} {
				o.ObserveInt64(failures, n, metric.WithAttributes(attribute.String("what", what)))
			}
		}
		return nil
	}, requests, checks, distrusted, size, up, failures)
	return errors.Join(errs[:]...)
}

package alert

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// knownFor is how long an instance tells which alerts are active by what it last saw of
// the state: others may have changed it since.
const knownFor = 10 * time.Minute

// instruments are what the package measures. Names of rules and models are few enough for labels.
type instruments struct {
	evaluations metric.Int64Counter
	changes     metric.Int64Counter
	failures    metric.Int64Counter
}

// measure makes the instruments of a manager.
func (m *Manager) measure(tel *telemetry.Telemetry) error {
	var errs [5]error
	var active metric.Int64ObservableGauge
	m.metrics.evaluations, errs[0] = tel.Meter.Int64Counter("pilotlight.alert.evaluations",
		metric.WithDescription("Ticks, by outcome: evaluated; late, where another instance had just done it; failed."))
	m.metrics.changes, errs[1] = tel.Meter.Int64Counter("pilotlight.alert.changes",
		metric.WithDescription("Alerts that were raised or resolved, by rule and change."))
	m.metrics.failures, errs[2] = tel.Meter.Int64Counter("pilotlight.alert.failures",
		metric.WithDescription("Changes that could not be sent, by way (event, webhook) and by what becomes of them: retried or dropped."))
	active, errs[3] = tel.Meter.Int64ObservableGauge("pilotlight.alert.active",
		metric.WithDescription("Alerts that are active, by rule, model and severity; told by instances that have seen the state within ten minutes."))
	_, errs[4] = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		k := m.known.Load()
		if k == nil || m.now().Sub(k.read) > knownFor {
			return nil
		}
		n := map[[3]string]int64{}
		for i := range k.Alerts {
			if a := &k.Alerts[i]; !a.Raised.IsZero() {
				n[[3]string{a.Rule, tel.Apart.Model(a.Model), string(a.Severity)}]++
			}
		}
		for of, n := range n {
			o.ObserveInt64(active, n, metric.WithAttributes(attribute.String("rule", of[0]), attribute.String("model", of[1]), attribute.String("severity", of[2])))
		}
		return nil
	}, active)
	return errors.Join(errs[:]...)
}

func (t *instruments) evaluated(ctx context.Context, outcome string) {
	t.evaluations.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}

func (t *instruments) changed(ctx context.Context, c *Change) {
	change := "raised"
	if !c.Resolved.IsZero() {
		change = "resolved"
	}
	t.changes.Add(ctx, 1, metric.WithAttributes(attribute.String("rule", c.Rule), attribute.String("change", change)))
}

func (t *instruments) failed(ctx context.Context, way, then string) {
	t.failures.Add(ctx, 1, metric.WithAttributes(attribute.String("way", way), attribute.String("then", then)))
}

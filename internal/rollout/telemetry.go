package rollout

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// knownFor is how long an instance tells how traffic is divided by what its last tick saw: others may have
// moved it since.
const knownFor = 10 * time.Minute

// divided is how the traffic of aliases was divided at a tick.
type divided struct {
	at     time.Time
	shares []share
}

// share is that of a version.
type share struct {
	model, alias, version string
	of                    float64
}

// Measure has told how the traffic of aliases with a rollout is divided, as of the last tick.
func (m *Manager) Measure(tel *telemetry.Telemetry) error {
	gauge, err1 := tel.Meter.Float64ObservableGauge("pilotlight.rollout.share",
		metric.WithDescription("Share of an alias's traffic that a version gets while a rollout is under way, by model, alias and version; told by instances that have looked within ten minutes."))
	_, err2 := tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		d := m.divided.Load()
		if d == nil || m.now().Sub(d.at) > knownFor {
			return nil
		}
		for _, s := range d.shares {
			model, version := tel.Apart.Version(s.model, s.version)
			if model != s.model || version != s.version {
				continue // several would be one series, of which one value is as wrong as another
			}
			o.ObserveFloat64(gauge, s.of, metric.WithAttributes(attribute.String("model", model), attribute.String("alias", s.alias), attribute.String("version", version)))
		}
		return nil
	}, gauge)
	return errors.Join(err1, err2)
}

// look notes how the traffic of an alias is divided.
func (d *divided) look(ctx context.Context, m *Manager, r *Rollout) error {
	a, err := m.catalog.Aliases(ctx, r.Model)
	if err != nil {
		return err
	}
	rest := 1.0
	if split := a.Splits[r.Alias]; split != nil {
		for _, c := range split.Canaries {
			rest -= c.Share
			d.shares = append(d.shares, share{r.Model, r.Alias, strconv.Itoa(c.Version), c.Share})
		}
		if split.Shadow != 0 {
			d.shares = append(d.shares, share{r.Model, r.Alias, strconv.Itoa(split.Shadow), 0})
		}
	}
	d.shares = append(d.shares, share{r.Model, r.Alias, strconv.Itoa(a.Current[r.Alias]), rest})
	return nil
}

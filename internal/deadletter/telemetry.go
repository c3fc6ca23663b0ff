package deadletter

import (
	"context"
	"errors"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// instruments are what the package measures.
type instruments struct {
	stored   metric.Int64Counter
	replayed metric.Int64Counter
}

func newInstruments(tel *telemetry.Telemetry) (*instruments, error) {
	t := &instruments{}
	var errs [2]error
	t.stored, errs[0] = tel.Meter.Int64Counter("pilotlight.deadletters.stored",
		metric.WithDescription("Events that could not be delivered and were kept, by type and by the last status of their destination."))
	t.replayed, errs[1] = tel.Meter.Int64Counter("pilotlight.deadletters.replayed",
		metric.WithDescription("Events that were put back to the broker."))
	return t, errors.Join(errs[:]...)
}

func (t *instruments) kept(ctx context.Context, l *Letter) {
	kind, code := "other", "other"
	if event.Lookup(l.Type) != nil {
		kind = l.Type
	}
	if l.Code >= -1 && l.Code < 600 {
		code = strconv.Itoa(l.Code)
	}
	t.stored.Add(ctx, 1, metric.WithAttributes(attribute.String("type", kind), attribute.String("code", code)))
}

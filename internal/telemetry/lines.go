package telemetry

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Lines says which requests that went well get a line in the log: those that were slow, and of the rest a share. It goes by the
// last 7 bytes of the trace's id, so that all processes that a request came through tell of it or none does, and
// whatever a smaller share keeps a larger one keeps, too. It is safe for concurrent use.
type Lines struct {
	share   float64
	below   uint64 // the share of 2^56
	slow    time.Duration
	omitted metric.Int64Counter
}

func newLines(c *Config, meter metric.Meter) (*Lines, error) {
	omitted, err := meter.Int64Counter("pilotlight.log.omitted", metric.WithUnit("{line}"),
		metric.WithDescription("Requests that went well and have no line in the log, because of LOG_SAMPLE."))
	if err != nil {
		return nil, fmt.Errorf("make the instruments of the log: %w", err)
	}
	return &Lines{share: c.LogSample, below: uint64(c.LogSample * (1 << 56)), slow: c.LogSlow, omitted: omitted}, nil
}

// Keeps tells whether a request that went well and took so long gets its line; one that does not is counted. Where there is no
// trace it goes by the request's id. A line that stands for others, too, says of what share it is.
func (l *Lines) Keeps(ctx context.Context, line *Line, took time.Duration, id string) bool {
	if l.share >= 1 || took >= l.slow {
		return true
	}
	if place(ctx, id) >= l.below {
		l.omitted.Add(ctx, 1)
		return false
	}
	line.Set(slog.Float64("share", l.share))
	return true
}

// place gives a request its own place among all, evenly in 56 bits.
func place(ctx context.Context, id string) uint64 {
	const bits = 1<<56 - 1
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		t := sc.TraceID()
		return binary.BigEndian.Uint64(t[8:]) & bits
	}
	h := uint64(14695981039346656037) // FNV-1a, by which ids that are nearly the same come close to each other; so it is stirred
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return (h ^ h>>33) & bits
}

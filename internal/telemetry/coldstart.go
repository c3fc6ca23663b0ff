package telemetry

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/telemetry/epoch"
)

// Stage is a part of the way from the start of a process to its first answer.
type Stage string

// The stages. Some overlap, and not every process has all of them.
const (
	StageProcess     Stage = "process"      // the operating system starts the program, the runtime starts main
	StageStore       Stage = "store"        // stores are opened
	StageListener    Stage = "listener"     // the port is opened
	StageFetch       Stage = "fetch"        // a model's artifact is brought here
	StageSession     Stage = "session"      // the engine opens the model
	StageWarmup      Stage = "warmup"       // the model runs for the first time
	StageFirstAnswer Stage = "first_answer" // the first request is answered
)

// ColdStart tells how long each stage took, once in the life of a process: as
// a histogram, and as spans below one that reaches from the start of the
// process to its first answer.
type ColdStart struct {
	seconds metric.Float64Histogram
	ctx     context.Context // carries the root span, not a deadline
	root    *part
	start   time.Time
	over    atomic.Bool

	mu   sync.Mutex
	seen map[Stage]bool
}

func newColdStart(ctx context.Context, meter metric.Meter, r *recorder) (*ColdStart, error) {
	seconds, err := meter.Float64Histogram("pilotlight.cold_start.duration",
		metric.WithUnit("s"), metric.WithDescription("How long a stage of the start of this process took."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	if err != nil {
		return nil, fmt.Errorf("make the histogram of cold starts: %w", err)
	}
	now := time.Now()
	start, err := processStart(now)
	if err != nil { // not on this system: main is the start then
		start = now
	}
	c := &ColdStart{seconds: seconds, start: start, seen: map[Stage]bool{}}
	c.root = &part{more: &more{name: "cold start", attributes: []attribute.KeyValue{semconv.FaaSColdstart(true)}}}
	r.begin(c.root, trace.SpanContext{}, NewTrace(), start)
	c.root.sampled.Store(true) // there is one in the life of a process
	c.ctx = trace.ContextWithSpan(context.WithoutCancel(ctx), c.root)
	if err == nil {
		c.Record(StageProcess, start, now)
	}
	return c, nil
}

// Begin starts the clock of a stage; the function it gives stops it. A stage
// that doesn't end is not told of.
func (c *ColdStart) Begin(s Stage) (end func()) {
	begin := time.Now()
	return func() { c.Record(s, begin, time.Now()) }
}

// Record tells of a stage, unless it was told of before. The first answer ends the cold start.
func (c *ColdStart) Record(s Stage, start, end time.Time) {
	if c.over.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[s] {
		return
	}
	c.seen[s] = true
	c.seconds.Record(c.ctx, end.Sub(start).Seconds(), metric.WithAttributes(attribute.String("stage", string(s))))
	c.root.take(Span{Trace: c.root.trace, ID: newID(), Parent: c.root.id, Name: string(s), Kind: trace.SpanKindInternal, Start: start, End: end})
	if s == StageFirstAnswer {
		c.over.Store(true)
		c.root.End(trace.WithTimestamp(end))
	}
}

// Running tells how long ago the program began to run, which in a container is
// later than the process was started.
func (c *ColdStart) Running() time.Duration { return time.Since(epoch.Begin) }

// Age tells how long ago the process was started.
func (c *ColdStart) Age() time.Duration { return time.Since(c.start) }

// Over reports whether the first answer was given.
func (c *ColdStart) Over() bool { return c.over.Load() }

// End ends the cold start of a process that may never have answered, so that its stages have a parent: while there are still those who take spans.
func (c *ColdStart) End() {
	if !c.over.Swap(true) {
		c.root.End()
	}
}

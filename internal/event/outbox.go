package event

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// outboxMost is how many events wait while a sink is away.
const outboxMost = 1000

// Outbox sends hints behind the back of whoever gives them: nobody waits for a
// broker, and a broker that is away for a while gets them later. They lie in
// memory: what a crash takes along, or what comes while outboxMost wait
// already, is never sent, which the metric pilotlight.events.dropped counts and the
// log tells. What must not be lost is sent to the sink itself.
type Outbox struct {
	sink    Sink
	log     *slog.Logger
	metrics *instruments
	queue   chan Event
	done    sync.WaitGroup
	pause   func(attempt int) time.Duration

	mu     sync.RWMutex
	closed bool
	quit   chan struct{} // closed when only what can be sent at once still is
	cancel context.CancelFunc
}

// NewOutbox makes an outbox that sends to a sink; a nil sink takes no events, and nor does the outbox.
func NewOutbox(sink Sink, tel *telemetry.Telemetry) (*Outbox, error) {
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &Outbox{
		sink: sink, log: tel.Log, metrics: metrics, queue: make(chan Event, outboxMost),
		pause: func(attempt int) time.Duration { return min(time.Second<<min(attempt, 6), time.Minute) },
		quit:  make(chan struct{}), cancel: cancel,
	}
	if sink != nil {
		o.done.Go(func() { o.run(ctx) })
	}
	return o, nil
}

// Give takes an event to be sent. It never blocks.
func (o *Outbox) Give(ctx context.Context, e Event) {
	if o == nil || o.sink == nil {
		return
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	SetOrigin(ctx, &e) // it is sent by others
	if !o.closed {
		select {
		case o.queue <- e:
			return
		default:
		}
	}
	o.drop(ctx, &e, fault.New(fault.Overloaded, "%d events wait to be sent already", outboxMost))
}

func (o *Outbox) drop(ctx context.Context, e *Event, err error) {
	o.metrics.count(ctx, o.metrics.dropped, e.Type(), Status(err))
	o.log.WarnContext(ctx, "event dropped", "type", e.Type(), "id", e.ID(), "error", err)
}

func (o *Outbox) run(ctx context.Context) {
	for e := range o.queue {
		o.send(ctx, e)
	}
}

// send sends one event, however long the sink is away, until the outbox closes.
func (o *Outbox) send(ctx context.Context, e Event) {
	for attempt := 0; ; attempt++ {
		err := o.sink.Send(ctx, e)
		if err == nil {
			return
		}
		if fault.KindOf(err) == fault.Invalid || ctx.Err() != nil {
			o.drop(ctx, &e, err)
			return
		}
		o.log.WarnContext(ctx, "event not sent yet", "type", e.Type(), "id", e.ID(), "attempt", attempt+1, "error", err)
		select {
		case <-o.quit:
			o.drop(ctx, &e, err)
			return
		case <-time.After(o.pause(attempt)):
		}
	}
}

// closeMost is how long the end of a process may wait for a broker.
const closeMost = 5 * time.Second

// Close sends what waits, which may take closeMost, and then takes no more.
func (o *Outbox) Close() error {
	o.mu.Lock()
	if !o.closed {
		o.closed = true
		close(o.queue)
		close(o.quit)
	}
	o.mu.Unlock()
	stop := time.AfterFunc(closeMost, o.cancel)
	defer stop.Stop()
	o.done.Wait()
	o.cancel()
	return nil
}

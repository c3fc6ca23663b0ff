// Package bus is the broker of a process that has none beside it. It reads the
// manifests that a cluster applies, and does with events what Knative's broker
// does: the same filters, retries, pauses and dead letters.
//
// An event that Send accepted has been written to the KV, and stays there until
// each trigger that wants it has delivered it or handed it to its dead-letter
// sink; what a crash interrupts is taken up at the next start, so subscribers
// may get an event twice. There is no order. The number of events under way is
// bounded, and what is beyond it is refused. The package knows subscribers as
// handlers by the name of their service, and no flow.
package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/types"
	"knative.dev/eventing/pkg/eventfilter"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config bounds a bus and adds to its routes.
type Config struct {
	Triggers string `env:"TRIGGERS_DIR" help:"Folder of further Triggers and PingSources (*.yaml), such as those for your own subscribers."`
	Ticks    string `env:"TICKS" default:"on" help:"Whether PingSources tick: on, or off where something else tells what time it is, such as a replay."`
	Queue    int    `env:"EVENT_QUEUE" default:"10000" help:"How many events may be under way; more are refused with 429."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Queue < 1 {
		return fault.New(fault.Invalid, "EVENT_QUEUE must be positive")
	}
	if c.Ticks != "" && c.Ticks != "on" && c.Ticks != "off" {
		return fault.New(fault.Invalid, "TICKS is %q, expected on or off", c.Ticks)
	}
	return nil
}

// Folders gives where manifests are: the built-in ones, and those of TRIGGERS_DIR.
func (c *Config) Folders(builtIn fs.FS) []fs.FS {
	if c.Triggers == "" {
		return []fs.FS{builtIn}
	}
	return []fs.FS{builtIn, os.DirFS(c.Triggers)}
}

// Deps are what a bus is made of.
type Deps struct {
	Routes      *Routes
	KV          store.KV                // keeps what is under way
	Subscribers map[string]http.Handler // by the name of the service that they are on a cluster
	Tally       *event.Tally            // counts what is accepted; nil: nobody wants to know
}

// Bus delivers events. It is an event.Sink, and an http.Handler for POST /events.
type Bus struct {
	routes      *Routes
	kv          store.KV
	subscribers map[string]http.Handler
	tally       *event.Tally
	queue       int64
	pings       []*ping // none: something else tells the time
	client      *http.Client
	tel         *telemetry.Telemetry
	metrics     *instruments

	pending atomic.Int64 // events under way
	calls   map[*trigger]chan struct{}

	mu     sync.RWMutex
	closed bool
	ctx    context.Context // of all deliveries
	cut    context.CancelFunc
	work   sync.WaitGroup

	calling context.Context // of calls, which Close lets end
	hangUp  context.CancelFunc
}

var _ event.Sink = (*Bus)(nil)

// callsMost is how many calls for one trigger are under way at once.
const callsMost = 16

// New makes a bus. Start must follow.
func New(c *Config, d Deps, tel *telemetry.Telemetry) (*Bus, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	b := &Bus{
		routes: d.Routes, kv: d.KV, subscribers: d.Subscribers, tally: d.Tally, queue: int64(c.Queue), tel: tel, calls: map[*trigger]chan struct{}{},
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	if c.Ticks != "off" {
		b.pings = d.Routes.pings
	}
	b.ctx, b.cut = context.WithCancel(context.Background())
	b.calling, b.hangUp = context.WithCancel(context.Background())
	for _, t := range d.Routes.triggers {
		b.calls[t] = make(chan struct{}, callsMost)
	}
	var err error
	b.metrics, err = newInstruments(tel, b.pending.Load)
	return b, err
}

// reachable refuses a trigger for a subscriber that is not here, or does not take what it is to get.
func (b *Bus) reachable(t *trigger) error {
	for _, to := range []*destination{&t.to, t.dead} {
		if to == nil || to.url != "" {
			continue
		}
		subscriber := b.subscribers[to.service]
		if subscriber == nil {
			return fault.New(fault.Invalid, "Trigger %s: there is no service %q in this process", t.name, to.service)
		}
		mux, ok := subscriber.(interface{ Takes(string) bool })
		for _, name := range t.types {
			if ok && to == &t.to && to.takesEvents() && !mux.Takes(name) {
				return fault.New(fault.Invalid, "Trigger %s: the service %q does not take events of type %q", t.name, to.service, name)
			}
		}
	}
	return nil
}

// record is an event under way as the KV holds it.
type record struct {
	Event    json.RawMessage `json:"event"`
	Triggers []string        `json:"triggers"` // that have not delivered it
}

const prefix = "events/"

// Start refuses routes that lead nowhere, takes up what was under way when the
// process ended, and begins to tick. All subscribers have their handlers by now.
func (b *Bus) Start(ctx context.Context) error {
	var errs []error
	for _, t := range b.routes.triggers {
		errs = append(errs, b.reachable(t))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for item, err := range b.kv.Scan(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("look for events under way: %w", err)
		}
		var r record
		e, err := (*event.Event)(nil), json.Unmarshal(item.Value, &r)
		if err == nil {
			e, err = event.Unmarshal(r.Event)
		}
		if err != nil {
			b.tel.Log.ErrorContext(ctx, "an event under way is damaged", "key", item.Key, "error", err)
			continue
		}
		var wanting []*trigger
		for _, t := range b.routes.triggers {
			if slices.Contains(r.Triggers, t.name) {
				wanting = append(wanting, t)
			}
		}
		if gone := len(r.Triggers) - len(wanting); gone > 0 {
			b.tel.Log.WarnContext(ctx, "event is not delivered for triggers that are gone", "type", e.Type(), "source", e.Source(), "id", e.ID(), "triggers", r.Triggers, "gone", gone)
		}
		b.pending.Add(1)
		b.deliver(item.Key, e, wanting)
	}
	for _, p := range b.pings {
		b.work.Go(func() { b.tick(p) })
	}
	return nil
}

// grace is how long Close waits for calls that run.
const grace = 5 * time.Second

// Close ends deliveries: calls that run may end, for a while. What is under way
// stays in the KV, and so does what is sent from now on.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cut()
	defer time.AfterFunc(grace, b.hangUp).Stop()
	b.work.Wait()
	b.hangUp()
	b.client.CloseIdleConnections()
	return nil
}

// The extensions that a broker adds.
const (
	arrival          = "knativearrivaltime"
	hops             = "knativebrokerttl"
	hopsMost         = 255
	errorDestination = "knativeerrordest"
	errorCode        = "knativeerrorcode"
	errorData        = "knativeerrordata"
)

// Send accepts events: once it returns nil, they are as durable as the KV. All
// are checked before any is accepted.
func (b *Bus) Send(ctx context.Context, events ...event.Event) error {
	for i := range events {
		if err := event.Check(&events[i]); err != nil {
			return err
		}
	}
	for i := range events {
		e := events[i].Clone()
		e.SetExtension(arrival, time.Now().UTC().Format(time.RFC3339Nano))
		left, limited := e.Extensions()[hops]
		n := int32(hopsMost)
		if was, err := types.ToInteger(left); limited && err == nil {
			n = was - 1
		}
		if n <= 0 {
			b.metrics.delivered(ctx, "", "looped")
			b.tel.Log.WarnContext(ctx, "event dropped: it went round too often", "type", e.Type(), "id", e.ID())
			continue
		}
		e.SetExtension(hops, n)
		event.SetOrigin(ctx, &e)
		if err := b.accept(ctx, &e); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bus) accept(ctx context.Context, e *event.Event) error {
	var wanting []*trigger
	r := record{}
	for _, t := range b.routes.triggers {
		if t.filter.Filter(ctx, *e) != eventfilter.FailFilter {
			wanting = append(wanting, t)
			r.Triggers = append(r.Triggers, t.name)
		}
	}
	if len(wanting) == 0 {
		b.count(e)
		return nil
	}
	if b.pending.Add(1) > b.queue {
		b.pending.Add(-1)
		return fault.New(fault.Overloaded, "%d events are under way already; try again later", b.queue)
	}
	key, err := prefix+strings.ToLower(rand.Text()), error(nil)
	if r.Event, err = event.Marshal(e); err == nil {
		var value []byte
		if value, err = json.Marshal(r); err == nil {
			_, err = b.kv.Put(ctx, key, value, 0, store.Condition{})
		}
	}
	if err != nil {
		b.pending.Add(-1)
		return fmt.Errorf("keep event: %w", err)
	}
	b.count(e)
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.closed {
		b.deliver(key, e, wanting)
	}
	return nil
}

func (b *Bus) count(e *event.Event) {
	if b.tally != nil {
		b.tally.Add(e)
	}
}

// deliver has triggers deliver an event, and forgets it when all of them have.
func (b *Bus) deliver(key string, e *event.Event, wanting []*trigger) {
	var left atomic.Int64
	left.Store(int64(len(wanting)))
	done := func() {
		b.pending.Add(-1)
		if err := b.kv.Delete(context.WithoutCancel(b.ctx), key, store.Condition{}); err != nil {
			b.tel.Log.WarnContext(b.ctx, "event was delivered, and will be again after a restart", "id", e.ID(), "error", err)
		}
	}
	if len(wanting) == 0 { // their triggers are gone
		done()
		return
	}
	for _, t := range wanting {
		b.work.Go(func() {
			if b.trigger(t, e) && left.Add(-1) == 0 {
				done()
			}
		})
	}
}

// ServeHTTP takes events in at POST /events.
func (b *Bus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events, err := event.Read(w, r)
	if err == nil {
		err = b.Send(r.Context(), events...)
	}
	event.Answer(w, r, err)
}

// tick sends a ping's event each time that its schedule says.
func (b *Bus) tick(p *ping) {
	for {
		next := time.NewTimer(time.Until(p.schedule.Next(time.Now())))
		select {
		case <-b.ctx.Done():
			next.Stop()
			return
		case <-next.C:
		}
		if err := b.Send(b.ctx, p.event()); err != nil {
			b.tel.Log.WarnContext(b.ctx, "tick", "name", p.name, "error", err)
		}
	}
}

// event makes the event of a tick as Knative's adapter does.
func (p *ping) event() event.Event {
	e := event.Event{}
	e.SetSpecVersion("1.0")
	e.SetID(rand.Text())
	e.SetSource("/apis/v1/namespaces/pilotlight/pingsources/" + p.name)
	e.SetType(event.Tick.Name)
	e.SetTime(time.Now())
	for k, v := range p.extensions {
		e.SetExtension(k, v)
	}
	if p.kind != "" {
		e.SetDataContentType(p.kind)
	}
	e.DataEncoded = p.data
	return e
}

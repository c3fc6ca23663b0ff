package bus

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// outcome is how a call ended.
type outcome struct {
	status int // as Knative's broker has it, which makes junk a 502, and no answer a 500
	said   []byte
	after  time.Duration // what Retry-After says
	junk   bool
	reply  *event.Event
}

func (o *outcome) delivered() bool { return o.status/100 == 2 }

// trigger delivers an event for a trigger, by retries and, when they are used
// up, as a dead letter. It gives false if the bus closed before.
func (b *Bus) trigger(t *trigger, e *event.Event) bool {
	for n := 0; ; n++ {
		o, open := b.call(t, &t.to, e, t.delivery.timeout)
		if !open {
			return false
		}
		if o.delivered() {
			b.metrics.delivered(b.ctx, t.name, "delivered")
			return b.reply(t, e, o.reply)
		}
		if o.junk {
			b.metrics.delivered(b.ctx, t.name, "junk")
		}
		if !event.Retried(o.status) || n == t.delivery.retries {
			return b.bury(t, e, o)
		}
		b.metrics.delivered(b.ctx, t.name, "retried")
		pause := t.delivery.pause(n)
		if most := t.delivery.retryAfterMax; most > 0 && (o.status == http.StatusTooManyRequests || o.status == http.StatusServiceUnavailable) {
			pause = max(pause, min(o.after, most))
		}
		if !b.wait(pause) {
			return false
		}
	}
}

// reply sends what a subscriber answered with, until it is accepted.
func (b *Bus) reply(t *trigger, e, reply *event.Event) bool {
	if reply == nil {
		return true
	}
	reply.SetExtension(hops, e.Extensions()[hops])
	for n := 0; ; n++ {
		err := b.Send(b.ctx, *reply)
		if err == nil || !event.Retried(event.Status(err)) {
			if err != nil {
				b.tel.Log.WarnContext(b.ctx, "reply refused", "trigger", t.name, "id", e.ID(), "error", err)
			}
			return true
		}
		if !b.wait(min(time.Second<<min(n, 6), longest)) {
			return false
		}
	}
}

// longest is the pause between attempts that have no last one.
const longest = time.Minute

// bury hands an event to the dead-letter sink, however long that is away.
func (b *Bus) bury(t *trigger, e *event.Event, o *outcome) bool {
	log := b.tel.Log.With("trigger", t.name, "type", e.Type(), "source", e.Source(), "id", e.ID(), "destination", t.to.String(), "code", o.status, "reason", string(o.said[:min(len(o.said), 300)]))
	lost := func(why string) bool {
		b.metrics.delivered(b.ctx, t.name, "lost")
		log.ErrorContext(b.ctx, "event lost", "because", why, "data", string(e.Data()[:min(len(e.Data()), 4<<10)]))
		return true
	}
	if t.dead == nil {
		return lost("there is no dead-letter sink")
	}
	letter := e.Clone()
	letter.SetExtension(errorDestination, t.to.String())
	letter.SetExtension(errorCode, o.status)
	if len(o.said) > 0 {
		const most = 1024 // of Knative, encoded
		letter.SetExtension(errorData, base64.StdEncoding.EncodeToString(o.said[:min(len(o.said), most/4*3)]))
	}
	for n := 0; ; n++ {
		o, open := b.call(t, t.dead, &letter, t.delivery.timeout)
		switch {
		case !open:
			return false
		case o.delivered():
			b.metrics.delivered(b.ctx, t.name, "dead")
			log.WarnContext(b.ctx, "dead letter")
			return true
		case !event.Retried(o.status):
			return lost(fmt.Sprintf("the dead-letter sink answers %d: %.200s", o.status, o.said))
		}
		log.Log(b.ctx, slog.LevelWarn, "dead letter not kept yet", "attempt", n+1, "answer", o.status)
		if !b.wait(min(time.Second<<min(n, 6), longest)) {
			return false
		}
	}
}

// wait gives false if the bus closes meanwhile.
func (b *Bus) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-b.ctx.Done():
		return false
	case <-timer.C:
		return b.ctx.Err() == nil // with both, select takes any
	}
}

// call posts an event once. It gives false if the bus closed before there was an answer.
func (b *Bus) call(t *trigger, to *destination, e *event.Event, timeout time.Duration) (*outcome, bool) {
	slots := b.calls[t]
	select {
	case <-b.ctx.Done():
		return nil, false
	case slots <- struct{}{}:
		defer func() { <-slots }()
	}
	if b.ctx.Err() != nil { // with both, select takes any
		return nil, false
	}
	ctx, cancel := context.WithTimeout(b.calling, timeout)
	defer cancel()
	r, err := event.Request(ctx, to.String(), e)
	if err != nil { // the address is a URL and the event was checked, so this is the end of it
		return &outcome{status: http.StatusBadRequest, said: []byte(err.Error())}, true
	}
	r.Header.Set("Prefer", "reply")
	o := &outcome{}
	ctx, span := b.span(ctx, t, e)
	defer func() {
		if o.status != 0 && !o.delivered() { // else the bus closed meanwhile, and it is delivered after the next start
			span.SetStatus(codes.Error, fmt.Sprintf("%s answers %d: %.200s", to, o.status, o.said))
		}
		span.End()
	}()
	r = r.WithContext(ctx)
	b.tel.Context.Inject(ctx, propagation.HeaderCarrier(r.Header))
	var resp *http.Response
	if to.url != "" {
		resp, err = b.client.Do(r)
	} else {
		resp, err = b.serve(ctx, b.subscribers[to.service], r)
	}
	if err != nil {
		if b.ctx.Err() != nil {
			return nil, false
		}
		o.status, o.said = http.StatusInternalServerError, []byte("dispatch error: "+err.Error())
		return o, true
	}
	defer resp.Body.Close()
	o.status = resp.StatusCode
	after := resp.Header.Get("Retry-After") // seconds or a date
	if seconds, err := strconv.Atoi(after); err == nil {
		o.after = time.Duration(min(seconds, int(math.MaxInt64/time.Second))) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		o.after = time.Until(at)
	}
	if !o.delivered() {
		o.said, _ = io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // it is only shown
		return o, true
	}
	if o.reply, err = event.ReadResponse(resp); err != nil {
		o.status, o.junk, o.said = http.StatusBadGateway, true, []byte(err.Error())
	}
	return o, true
}

// span begins the span of a delivery, below the one in which the event was made.
func (b *Bus) span(ctx context.Context, t *trigger, e *event.Event) (context.Context, trace.Span) {
	if origin := event.Origin(e); origin.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, origin)
	}
	if !b.tel.Tracing() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return b.tel.Tracer.Start(ctx, "deliver to "+t.name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("cloudevents.event_type", e.Type()), attribute.String("cloudevents.event_id", e.ID())))
}

// serve has a handler in this process answer, in its time, and even if it panics.
func (b *Bus) serve(ctx context.Context, h http.Handler, r *http.Request) (*http.Response, error) {
	w := &recorder{header: http.Header{}}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.RequestURI = r.URL.RequestURI()
	func() {
		defer func() {
			if p := recover(); p != nil {
				b.tel.Log.ErrorContext(ctx, "subscriber panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				*w = recorder{header: http.Header{}, status: http.StatusInternalServerError}
			}
		}()
		h.ServeHTTP(w, r)
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body)}, nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

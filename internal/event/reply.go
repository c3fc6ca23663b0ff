package event

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	sdk "github.com/cloudevents/sdk-go/v2/event"
	protocol "github.com/cloudevents/sdk-go/v2/protocol/http"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Reply is a declared type of event that answers another, which Knative's
// brokers take out of the answer to a delivery and send on.
type Reply struct{ *Declaration }

func declareReply(d *Declaration) Reply {
	declared = append(declared, d)
	return Reply{d}
}

// handedOn are the extensions that an answer has from its request: what ties a
// chain of events together.
var handedOn = [...]string{"traceparent", "tracestate", "correlationid"}

// To makes the answer to a request. asked is who was asked: several may be, by the
// same event. The same request to the same asked gives the same source and id.
func (y Reply) To(request *Event, asked, subject, contentType string, data []byte) Event {
	e := sdk.New(sdk.CloudEventsVersionV1)
	e.SetType(y.Name)
	e.SetSource(y.Source)
	e.SetID(y.ID(request, asked))
	e.SetSubject(subject)
	e.SetTime(time.Now())
	SetCause(&e, request.ID())
	for _, name := range handedOn {
		if value := request.Extensions()[name]; value != nil {
			e.SetExtension(name, value)
		}
	}
	e.SetDataContentType(contentType)
	e.DataEncoded = data
	e.DataBase64 = !holdsJSON(&e)
	return e
}

// ID is the id of the answer that To makes.
func (y Reply) ID(request *Event, asked string) string {
	sum := sha256.New()
	for _, part := range [...]string{y.Name, asked, request.Source(), request.ID()} {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// Responder answers requests that bring events by events, in the mode in which
// they came; but in structured mode, as Request, where a header could not hold
// an attribute as it is.
type Responder struct {
	tel     *telemetry.Telemetry
	metrics *instruments
}

// NewResponder makes a responder.
func NewResponder(tel *telemetry.Telemetry) (*Responder, error) {
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	return &Responder{tel: tel, metrics: metrics}, nil
}

// mostBatch is how many events of one request are answered: each answer waits in
// memory for the last.
const mostBatch = 1000

// Respond answers a request whose body was read. answer makes the answer to one
// event, or its error; failed makes one of an error, for a batch.
//
// An event that comes alone and can't be answered gets the status that tells a
// broker what to do, see Status. Of a batch each gets an answer of its own, in
// their order, unless time runs out.
func (p *Responder) Respond(w http.ResponseWriter, r *http.Request, body []byte, answer func(context.Context, *Event) (Event, error), failed func(*Event, error) Event) {
	events, err := decode(r.Context(), r.Header, io.NopCloser(bytes.NewReader(body)))
	if err == nil && len(events) > mostBatch {
		err = fault.New(fault.Invalid, "the batch has %d events, and at most %d are answered at once", len(events), mostBatch)
	}
	if err != nil {
		p.metrics.count(r.Context(), p.metrics.received, "", Status(err))
		Answer(w, r, err)
		return
	}
	kind := r.Header.Get("Content-Type")
	batch := strings.HasPrefix(kind, sdk.ApplicationCloudEventsBatchJSON)
	answers := make([]Event, len(events))
	for i := range events {
		e := &events[i]
		answers[i], err = p.one(r.Context(), e, answer)
		if err == nil {
			continue
		}
		if !batch || r.Context().Err() != nil {
			Answer(w, r, err)
			return
		}
		answers[i] = failed(e, err)
	}
	head := w.Header()
	switch {
	case batch:
		head.Set("Content-Type", sdk.ApplicationCloudEventsBatchJSON)
		err = write(w, answers)
	case strings.HasPrefix(kind, sdk.ApplicationCloudEventsJSON) || !plain(&answers[0]):
		head.Set("Content-Type", sdk.ApplicationCloudEventsJSON)
		err = write(w, answers[0])
	default:
		err = protocol.WriteResponseWriter(r.Context(), binding.ToMessage(&answers[0]), http.StatusOK, w)
	}
	telemetry.LineFrom(r.Context()).Fail(err)
}

// one has an event answered, which has a line and a span of its own, as others may have come with it: below the span that it was made
// in where it says one of another trace than the request's, and linked to that, else below the request's.
func (p *Responder) one(ctx context.Context, e *Event, answer func(context.Context, *Event) (Event, error)) (Event, error) {
	request, above, origin := telemetry.LineFrom(ctx), trace.SpanContextFromContext(ctx), Origin(e)
	from := above
	if origin.IsValid() && origin.TraceID() != above.TraceID() {
		from = origin
	}
	ctx, line := p.tel.Begin(ctx, from, telemetry.NewTrace(), time.Now())
	note(ctx, e)
	if p.tel.Tracing() && origin.IsValid() {
		span := trace.SpanFromContext(ctx)
		span.AddLink(trace.Link{SpanContext: origin})
		if above.IsValid() && line.Trace() != above.TraceID() {
			span.AddLink(trace.Link{SpanContext: above})
		}
	}
	end := telemetry.Outcome{
		Name: "process " + known(e.Type()), Kind: trace.SpanKindConsumer, More: func() []attribute.KeyValue { return describe(e) },
		Failed: "answering the event panicked", // until it is over
	}
	defer func() {
		end.At = time.Now()
		request.EndMessage(ctx, line, &end)
	}()
	a, err := answer(ctx, e)
	end.Failed = ""
	if err != nil { // an event that can't be handled is a fault, whoever made it
		end.Failed = fault.Message(err)
	}
	p.metrics.count(ctx, p.metrics.received, e.Type(), answerStatus(err))
	if err == nil {
		SetOrigin(ctx, &a)
	}
	return a, err
}

func answerStatus(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return Status(err)
}

func write(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err = w.Write(b)
	return err
}

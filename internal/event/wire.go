package event

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/binding"
	sdk "github.com/cloudevents/sdk-go/v2/event"
	protocol "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Most is how large an event may be with its attributes, in bytes. What is larger goes
// to a store, and the event says where.
const Most = 1 << 20

// Read takes the events out of a request in any of the modes of the HTTP
// binding: binary, structured, batch. Errors are Invalid.
func Read(w http.ResponseWriter, r *http.Request) ([]Event, error) {
	return decode(r.Context(), r.Header, http.MaxBytesReader(w, r.Body, Most))
}

// ReadResponse takes the event out of a response; nil where there is none,
// because its body is empty. A body that is no event is Invalid.
func ReadResponse(r *http.Response) (*Event, error) {
	body := http.MaxBytesReader(nil, r.Body, Most)
	if !Carries(r.Header) {
		rest, err := io.ReadAll(body)
		if err == nil && len(rest) > 0 {
			err = fault.New(fault.Invalid, "the answer is neither empty nor an event: %.100q", rest)
		}
		return nil, err
	}
	events, err := decode(context.Background(), r.Header, body)
	if err != nil || len(events) != 1 {
		return nil, errors.Join(err, fault.New(fault.Invalid, "the answer is no single event"))
	}
	return &events[0], nil
}

// Carries tells by its header whether a message is an event, or a batch of them.
func Carries(h http.Header) bool {
	return h.Get("Ce-Specversion") != "" || strings.HasPrefix(h.Get("Content-Type"), "application/cloudevents")
}

func decode(ctx context.Context, h http.Header, body io.ReadCloser) ([]Event, error) {
	if !Carries(h) {
		return nil, fault.New(fault.Invalid, "the request holds no event: it has neither the header ce-specversion nor the content type application/cloudevents+json")
	}
	message := protocol.NewMessage(h, body)
	encoding := message.ReadEncoding()
	var events []Event
	if encoding == binding.EncodingBatch {
		var err error
		if events, err = binding.ToEvents(ctx, message, message.BodyReader); err != nil {
			return nil, broken(err)
		}
		if events == nil { // which the SDK makes of null
			return nil, fault.New(fault.Invalid, "the batch is null, expected an array of events")
		}
	} else {
		e, err := binding.ToEvent(ctx, message)
		if err != nil {
			return nil, broken(err)
		}
		events = []Event{*e}
	}
	for i := range events {
		e := &events[i]
		e.Context = e.Context.AsV1()
		if encoding == binding.EncodingBinary {
			if err := unescapeAll(e); err != nil {
				return nil, err
			}
		}
		if err := Check(e); err != nil {
			return nil, err
		}
		// What JSON could not hold as it is would make an event that is accepted here and can't be kept: neither
		// on its way nor as a dead letter.
		if !utf8.Valid(e.DataEncoded) || holdsJSON(e) && !json.Valid(e.DataEncoded) {
			e.DataBase64 = true
		}
	}
	return events, nil
}

func broken(err error) error {
	if errors.As(err, new(*http.MaxBytesError)) {
		return err
	}
	if errors.Is(err, binding.ErrUnknownEncoding) {
		return fault.Wrap(fault.Invalid, err, "the event's specversion or content type is not one of CloudEvents")
	}
	return fault.Wrap(fault.Invalid, err, "the event is broken: %.300s", strings.TrimSpace(err.Error()))
}

// unescapeAll undoes what the HTTP binding (section 3.1.3.2) does to attributes
// in headers, and the SDK leaves to us: bytes that a header can't hold, and '%', are "%XX".
// A '%' that begins no such thing comes from senders that do not know of this
// either, as Knative's, and stays.
func unescapeAll(e *Event) error {
	set := func(value string, set func(string) error) error {
		plain, err := url.PathUnescape(value)
		if err != nil || plain == value {
			return nil
		}
		if err := set(plain); err != nil {
			return fault.Wrap(fault.Invalid, err, "the event is broken: %.300s", err)
		}
		return nil
	}
	c := e.Context
	errs := []error{
		set(c.GetID(), c.SetID), set(c.GetSource(), c.SetSource), set(c.GetType(), c.SetType),
		set(c.GetSubject(), c.SetSubject), set(c.GetDataSchema(), c.SetDataSchema),
	}
	for name, value := range c.GetExtensions() {
		if s, ok := value.(string); ok {
			errs = append(errs, set(s, func(s string) error { return c.SetExtension(name, s) }))
		}
	}
	return errors.Join(errs...)
}

// Request makes the request that posts an event, which must pass Check: in
// binary mode, or in structured mode where an attribute would have to be
// escaped in a header, since the brokers of Knative do not know of that.
func Request(ctx context.Context, target string, e *Event) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return nil, err
	}
	if !plain(e) {
		ctx = binding.WithForceStructured(ctx)
	}
	return r, protocol.WriteRequest(ctx, binding.ToMessage(e), r)
}

// plain tells whether headers can hold the attributes as they are.
func plain(e *Event) bool {
	values := []string{e.ID(), e.Source(), e.Type(), e.Subject(), e.DataSchema()}
	for _, v := range e.Extensions() {
		if s, ok := v.(string); ok {
			values = append(values, s)
		}
	}
	for _, v := range values {
		if strings.ContainsFunc(v, func(c rune) bool { return c < '!' || c > '~' || c == '"' || c == '%' }) {
			return false
		}
	}
	return true
}

// Marshal gives an event as JSON, and Unmarshal takes it back: the form in which it is kept.
func Marshal(e *Event) ([]byte, error) { return e.MarshalJSON() }

// Unmarshal reads what Marshal wrote.
func Unmarshal(b []byte) (*Event, error) {
	e := &sdk.Event{}
	if err := e.UnmarshalJSON(b); err != nil {
		return nil, err
	}
	return e, Check(e)
}

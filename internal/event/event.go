// Package event owns what Pilotlight's parts tell each other: every CloudEvent
// is declared once, in types.go, with its name, its Go struct and its schema.
//
// A Mux is where a function takes events in (POST /events), a Sink is where
// events go: HTTP posts them to the broker that K_SINK names, bus.Bus is the
// broker of a process that has none beside it. Events are hints: a consumer
// may get one twice, late, or never, so it is idempotent by source and id and
// finds out the truth from the stores. All types are safe for concurrent use.
// The package knows no flow, and nothing of how triggers are written.
package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	sdk "github.com/cloudevents/sdk-go/v2/event"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Event is a CloudEvent 1.0: its attributes and its data.
type Event = sdk.Event

// Sink takes events.
type Sink interface {
	// Send returns nil once all events have been accepted, in the sense of who
	// takes them: by a broker, or durably. After an error some may have been.
	Send(ctx context.Context, events ...Event) error
}

// Declaration is what is known of a type of event apart from its Go struct.
type Declaration struct {
	Name    string       // the attribute "type": dev.pilotlight.<noun>.<past verb>.v<n>
	Source  string       // the attribute "source"
	Subject string       // what the attribute "subject" says, in words
	ID      string       // what the attribute "id" says, in words
	Summary string       // when it is sent, and what it is good for
	Data    reflect.Type // the Go struct of its data, flat; a field without omitempty is required. nil: the data is of another's form, as Summary says
	// Foreign are events of others that we take, as Knative's; they have any source.
	Foreign bool
	// Outbound are events that no function of ours takes: sending them on to one
	// would wake it for nothing.
	Outbound bool

	required []string
}

// Type is a declared type of event with T as its data.
type Type[T any] struct {
	*Declaration
	id, subject func(*T) string
	at          func(*T) time.Time
	// cause gives the id of the event that caused it, "" where nobody knows; nil: nobody ever does.
	cause func(*T) string
}

// declared are all types, in the order of their declaration.
var declared []*Declaration

// Declared lists all declared types by name.
func Declared() []*Declaration {
	return slices.SortedFunc(slices.Values(declared), func(a, b *Declaration) int { return strings.Compare(a.Name, b.Name) })
}

// Lookup finds a declaration by its name, or nil.
func Lookup(name string) *Declaration {
	for _, d := range declared {
		if d.Name == name {
			return d
		}
	}
	return nil
}

func declare[T any](t Type[T]) Type[T] {
	t.Data = reflect.TypeFor[T]()
	for f := range t.Data.Fields() {
		if name, options, _ := strings.Cut(f.Tag.Get("json"), ","); !strings.Contains(options, "omit") {
			t.required = append(t.required, name)
		}
	}
	declared = append(declared, t.Declaration)
	return t
}

// New makes an event. The same data gives the same source and id.
func (t Type[T]) New(data T) Event {
	b, err := json.Marshal(data)
	if err != nil {
		panic(fmt.Errorf("event %s: %w", t.Name, err)) // all structs of types.go are plain data
	}
	e := sdk.New(sdk.CloudEventsVersionV1)
	e.SetType(t.Name)
	e.SetSource(t.Source)
	e.SetID(t.id(&data))
	e.SetSubject(t.subject(&data))
	e.SetTime(t.at(&data))
	if t.cause != nil {
		SetCause(&e, t.cause(&data))
	}
	e.SetDataContentType(sdk.ApplicationJSON)
	e.DataEncoded = b
	return e
}

// Decode reads an event's data, which must fit the schema. The error says where it does not.
func (t Type[T]) Decode(e *Event) (T, error) {
	var data T
	if !holdsJSON(e) {
		return data, fault.New(fault.Invalid, "the data of an event %s is JSON, not %.100q", t.Name, e.DataContentType())
	}
	unfit := func(err error, format string, args ...any) error {
		return fault.Wrap(fault.Invalid, err, "the data of the event %s does not fit its schema: %.300s", t.Name, fmt.Sprintf(format, args...))
	}
	var fields map[string]json.RawMessage
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(e.Data(), &fields); errors.As(err, &wrong) {
		return data, unfit(err, "expected an object, not %s", wrong.Value)
	} else if err != nil {
		return data, fault.Wrap(fault.Invalid, err, "the data of the event %s is not JSON: %s", t.Name, err)
	}
	for _, name := range t.required {
		if v := fields[name]; v == nil || string(v) == "null" {
			return data, unfit(nil, "%q is missing", name)
		}
	}
	if err := json.Unmarshal(e.Data(), &data); errors.As(err, &wrong) {
		return data, unfit(err, "%q is a %s, expected %s", wrong.Field, wrong.Value, wrong.Type)
	} else if err != nil {
		return data, unfit(err, "%s", err)
	}
	return data, nil
}

// PartitionKey is what an event is about, by the extension partitionkey of CloudEvents; "": it does not say.
func PartitionKey(e *Event) string {
	key, _ := e.Extensions()["partitionkey"].(string)
	return key
}

// The extension by which an event says what caused it, as in CloudEvents' correlation extension.
const causation = "causationid"

// SetCause says which event caused e, by its id; "": nothing is said.
func SetCause(e *Event, id string) {
	if id != "" {
		e.SetExtension(causation, id)
	}
}

// Cause is the id of the event that caused e; "": it does not say.
func Cause(e *Event) string {
	id, _ := e.Extensions()[causation].(string)
	return id
}

// holdsJSON tells whether an event says that its data is JSON, as the SDK reads it: by saying nothing, too.
func holdsJSON(e *Event) bool {
	kind, _, _ := strings.Cut(strings.ToLower(e.DataContentType()), ";")
	kind = strings.TrimSpace(kind)
	return kind == "" && e.DataContentType() == "" || kind == sdk.ApplicationJSON || kind == sdk.TextJSON || strings.HasSuffix(kind, "+json")
}

// Check tells what the envelope of an event lacks or has wrong.
func Check(e *Event) error {
	err := e.Validate()
	if err == nil {
		if at := e.Time().UTC(); at.Year() < 0 || at.Year() > 9999 { // by its zone; nobody could read the event again
			return fault.New(fault.Invalid, "the event is broken: time: its year in UTC has not four digits")
		}
		return nil
	}
	invalid, ok := err.(sdk.ValidationError) //nolint:errorlint // the SDK gives it as it is
	if !ok {
		return fault.Wrap(fault.Invalid, err, "the event is broken: %.300s", err)
	}
	var wrong []string
	for attribute, err := range invalid {
		wrong = append(wrong, attribute+": "+strings.TrimSpace(err.Error()))
	}
	slices.Sort(wrong)
	return fault.Wrap(fault.Invalid, err, "the event is broken: %.300s", strings.Join(wrong, "; "))
}

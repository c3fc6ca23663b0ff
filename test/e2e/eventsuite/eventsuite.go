// Package eventsuite is what a system of ours does with events, whether its
// broker is a cluster's or the one in the process of functions/all: the same
// tests run on both.
package eventsuite

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/event/eventtest"
)

// Triggers are those that the suite needs beside the system's own. SUBSCRIBER stands for the
// destination that is the receiver.
const Triggers = `
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: suite-exact}
spec:
  broker: pilotlight
  filters: [{exact: {type: suite.exact}}]
  subscriber: SUBSCRIBER
  delivery: {retry: 3, backoffPolicy: linear, backoffDelay: PT0.3S}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: suite-prefix}
spec:
  broker: pilotlight
  filters: [{prefix: {type: suite.prefix.}}, {suffix: {source: /wanted}}]
  subscriber: SUBSCRIBER
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: suite-cesql}
spec:
  broker: pilotlight
  filters: [{cesql: "type = 'suite.cesql' AND EXISTS size AND INT(size) > 5"}]
  subscriber: SUBSCRIBER
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: suite-models}
spec:
  broker: pilotlight
  filters: [{any: [{exact: {type: dev.pilotlight.model.published.v1}}, {exact: {type: dev.pilotlight.alias.moved.v1}}]}]
  subscriber: SUBSCRIBER
`

// Door sends a request to a part of the system.
type Door func(ctx context.Context, method, path string, header http.Header, body []byte) (status int, answer []byte, err error)

// System is what is tried.
type System struct {
	Receiver    Door // to an eventtest.Receiver with the broker as its Sink
	DeadLetters Door // to functions/deadletter
	Predict     Door
	Features    Door   // to functions/features
	Feedback    Door   // to functions/feedback
	Model       []byte // an ONNX file
	Echo        []byte // one of a model that answers with the FP64 that it is given
}

// Run tries a system to which Triggers have been applied.
func Run(t *testing.T, s *System) {
	t.Run("delivered and filtered", s.filtered)
	t.Run("replied", s.replied)
	t.Run("retried", s.retried)
	t.Run("dead-lettered and replayed", s.deadLettered)
	t.Run("junk", s.junk)
	t.Run("refused once", s.refusedOnce)
	t.Run("broken envelope", s.broken)
	t.Run("registry", s.registry)
	t.Run("features", s.features)
	t.Run("feedback", s.feedback)
}

// anEvent gives an event with an id of its own.
func anEvent(kind string, wish eventtest.Wish) event.Event {
	e := event.Event{}
	e.SetSpecVersion("1.0")
	e.SetID(strings.ToLower(rand.Text()))
	e.SetSource("/suite/wanted")
	e.SetType(kind)
	e.SetTime(time.Now().UTC().Truncate(time.Millisecond))
	if err := e.SetData("application/json", wish); err != nil {
		panic(err)
	}
	return e
}

// send gives an event to the broker.
func (s *System) send(t *testing.T, e event.Event) {
	t.Helper()
	r, err := event.Request(t.Context(), "http://broker", &e)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	status, answer, err := s.Receiver(t.Context(), http.MethodPost, "/send", r.Header, b)
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("send %s: %d %s %v", e.Type(), status, answer, err)
	}
}

// attempts lists the deliveries of an event.
func (s *System) attempts(t *testing.T, id string) (all []eventtest.Attempt) {
	t.Helper()
	call(t, s.Receiver, http.MethodGet, "/received?id="+id, nil, http.StatusOK, &all)
	return all
}

// arrived waits for so many deliveries.
func (s *System) arrived(t *testing.T, id string, n int) []eventtest.Attempt {
	t.Helper()
	var all []eventtest.Attempt
	within(t, "the event arrives", func() bool { all = s.attempts(t, id); return len(all) >= n })
	if len(all) > n {
		t.Errorf("got %d attempts, want %d", len(all), n)
	}
	return all
}

func call(t *testing.T, door Door, method, path string, body []byte, want int, into any) {
	t.Helper()
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	status, answer, err := door(t.Context(), method, path, header, body)
	if err != nil || status != want {
		t.Fatalf("%s %s: got %d %s %v, want %d", method, path, status, answer, err, want)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, answer)
		}
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const limit = 90 * time.Second
	for begin := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Since(begin) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

func (s *System) filtered(t *testing.T) {
	with := func(e event.Event, change func(*event.Event)) event.Event { change(&e); return e }
	none := eventtest.Wish{}
	unwanted := []event.Event{
		anEvent("suite.exac", none), anEvent("suite.exact.more", none),
		anEvent("suite.prefi", none), with(anEvent("suite.prefix.a", none), func(e *event.Event) { e.SetSource("/elsewhere") }),
		anEvent("suite.cesql", none), with(anEvent("suite.cesql", none), func(e *event.Event) { e.SetExtension("size", "5") }),
	}
	wanted := []event.Event{
		with(anEvent("suite.exact", none), func(e *event.Event) {
			e.SetSubject("Zürich 100% \"Wien\"")
			e.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		}),
		anEvent("suite.prefix.a", none),
		with(anEvent("suite.cesql", none), func(e *event.Event) { e.SetExtension("size", "6") }),
	}
	for _, e := range append(unwanted, wanted...) {
		s.send(t, e)
	}
	for _, want := range wanted {
		a := s.arrived(t, want.ID(), 1)[0]
		got, err := event.Unmarshal(a.Event)
		if err != nil {
			t.Fatal(err)
		}
		if got.Type() != want.Type() || got.Source() != want.Source() || got.Subject() != want.Subject() || !got.Time().Equal(want.Time()) || string(got.Data()) != string(want.Data()) {
			t.Errorf("got %s, want %s", got, want)
		}
		if trace, _ := want.Extensions()["traceparent"].(string); trace != "" {
			if got, _ := got.Extensions()["traceparent"].(string); !strings.HasPrefix(got, trace[:35]) {
				t.Errorf("got traceparent %q, want the trace of %q", got, trace)
			}
		}
	}
	time.Sleep(500 * time.Millisecond) // what came in before them had all the time
	for _, e := range unwanted {
		if n := len(s.attempts(t, e.ID())); n != 0 {
			t.Errorf("an event of type %s from %s was delivered", e.Type(), e.Source())
		}
	}
}

// replied: what a subscriber answers with goes through the broker again.
func (s *System) replied(t *testing.T) {
	e := anEvent("suite.exact", eventtest.Wish{Reply: "suite.exact"})
	s.send(t, e)
	s.arrived(t, e.ID(), 1)
	s.arrived(t, "reply-to-"+e.ID(), 1)
}

func (s *System) retried(t *testing.T) {
	e := anEvent("suite.exact", eventtest.Wish{Fail: 3, Status: 503})
	s.send(t, e)
	all := s.arrived(t, e.ID(), 4)
	// Linear: delay times the number of the retry, from 0 on.
	for i, least := range []time.Duration{0, 300 * time.Millisecond, 600 * time.Millisecond} {
		if pause := all[i+1].At.Sub(all[i].At); pause < least {
			t.Errorf("retry %d came after %s, before %s", i+1, pause, least)
		}
	}
	if l := s.letters(t, e.ID()); len(l) != 0 {
		t.Errorf("got %+v, want no dead letter of an event that was delivered", l)
	}
}

// letter is what the API of dead letters tells of one.
type letter struct {
	ID          string          `json:"id"`
	Destination string          `json:"destination"`
	Code        int             `json:"code"`
	Reason      string          `json:"reason"`
	Event       json.RawMessage `json:"event"`
}

// letters finds the dead letters of an event.
func (s *System) letters(t *testing.T, id string) (found []letter) {
	t.Helper()
	var list struct {
		Letters []struct {
			letter
			EventID string `json:"event_id"`
		} `json:"deadletters"`
	}
	call(t, s.DeadLetters, http.MethodGet, "/admin/v1/deadletters?limit=200", nil, http.StatusOK, &list)
	for _, l := range list.Letters {
		if l.EventID == id {
			found = append(found, l.letter)
		}
	}
	return found
}

// dead waits for the one dead letter of an event.
func (s *System) dead(t *testing.T, id string, code int) letter {
	t.Helper()
	var all []letter
	within(t, "a dead letter", func() bool { all = s.letters(t, id); return len(all) > 0 })
	if len(all) != 1 || all[0].Code != code || !strings.Contains(all[0].Destination, "://") {
		t.Fatalf("got %+v, want one with code %d and where it should have gone", all, code)
	}
	return all[0]
}

func (s *System) deadLettered(t *testing.T) {
	e := anEvent("suite.exact", eventtest.Wish{Fail: -1, Status: 503, Body: "the well is dry"})
	s.send(t, e)
	l := s.dead(t, e.ID(), 503)
	s.arrived(t, e.ID(), 4)
	if !strings.Contains(l.Reason, "the well is dry") {
		t.Errorf("got reason %q, want what the subscriber said", l.Reason)
	}
	var whole letter
	call(t, s.DeadLetters, http.MethodGet, "/admin/v1/deadletters/"+l.ID, nil, http.StatusOK, &whole)
	kept, err := event.Unmarshal(whole.Event)
	if err != nil || kept.ID() != e.ID() || string(kept.Data()) != string(e.Data()) {
		t.Errorf("got %s %v, want the event as it was sent", whole.Event, err)
	}
	for name := range kept.Extensions() {
		if strings.HasPrefix(name, "knative") {
			t.Errorf("the broker's extension %s is still on the event", name)
		}
	}
	call(t, s.Receiver, http.MethodPut, "/healed?id="+e.ID(), nil, http.StatusOK, nil)
	call(t, s.DeadLetters, http.MethodPost, "/admin/v1/deadletters/"+l.ID+"/replay", nil, http.StatusOK, nil)
	last := s.arrived(t, e.ID(), 5)[4]
	if last.Status != http.StatusAccepted {
		t.Errorf("the replayed event was answered with %d", last.Status)
	}
	if left := s.letters(t, e.ID()); len(left) != 0 {
		t.Errorf("got %+v, want no letter after its replay", left)
	}
}

// junk: an answer that is neither empty nor an event is a failure.
func (s *System) junk(t *testing.T) {
	e := anEvent("suite.exact", eventtest.Wish{Body: "thank you"})
	s.send(t, e)
	var all []letter
	within(t, "a dead letter", func() bool { all = s.letters(t, e.ID()); return len(all) > 0 })
	// The channel-based broker of Knative 1.20 says nothing of the reason here: its dispatcher finds none in its filter's 502.
	if len(all) != 1 || all[0].Code != 502 && all[0].Code != 0 {
		t.Errorf("got %+v, want one with code 502", all)
	}
	s.arrived(t, e.ID(), 4)
}

// refusedOnce: what can never succeed is not tried again.
func (s *System) refusedOnce(t *testing.T) {
	e := anEvent("suite.exact", eventtest.Wish{Fail: -1, Status: 400, Body: "no"})
	s.send(t, e)
	l := s.dead(t, e.ID(), 400)
	s.arrived(t, e.ID(), 1)
	call(t, s.DeadLetters, http.MethodDelete, "/admin/v1/deadletters/"+l.ID, nil, http.StatusNoContent, nil)

	// The same from a function of ours: data that does not fit its type.
	bad := anEvent(event.ModelPublished.Name, eventtest.Wish{})
	s.send(t, bad)
	l = s.dead(t, bad.ID(), 400)
	if !strings.Contains(l.Reason, "does not fit its schema") {
		t.Errorf("got reason %q, want what predict said", l.Reason)
	}
	time.Sleep(time.Second)
	if all := s.letters(t, bad.ID()); len(all) != 1 {
		t.Errorf("got %d dead letters, want one", len(all))
	}
}

func (s *System) broken(t *testing.T) {
	for _, h := range []http.Header{
		{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Type": {"suite.exact"}}, // no source
		{"Content-Type": {"application/json"}},
		{"Content-Type": {"application/cloudevents+json"}},
	} {
		status, answer, err := s.Receiver(t.Context(), http.MethodPost, "/send", h, []byte(`{"x":`))
		if err != nil || status != http.StatusBadRequest {
			t.Errorf("%v: got %d %s %v, want 400", h, status, answer, err)
		}
	}

	// A broker does not take those. It takes this one, of which only the function knows that its data must be JSON.
	e := anEvent(event.ModelPublished.Name, eventtest.Wish{})
	e.SetDataContentType("text/xml")
	s.send(t, e)
	if l := s.dead(t, e.ID(), 400); !strings.Contains(l.Reason, "is JSON, not") {
		t.Errorf("got reason %q, want what predict said", l.Reason)
	}
	time.Sleep(time.Second)
	if all := s.letters(t, e.ID()); len(all) != 1 {
		t.Errorf("got %d dead letters, want one", len(all))
	}
}

// registry: who publishes a model is heard of.
func (s *System) registry(t *testing.T) {
	name := "suite-" + strings.ToLower(rand.Text()[:6])
	status, answer, err := s.Predict(t.Context(), http.MethodPost, "/admin/v1/models/"+name+"/versions", http.Header{"Content-Type": {"application/octet-stream"}}, s.Model)
	if err != nil || status != http.StatusCreated {
		t.Fatalf("push: %d %s %v", status, answer, err)
	}
	for id, kind := range map[string]string{name + ":1": event.ModelPublished.Name, name + ":champion:1": event.AliasMoved.Name} {
		a := s.arrived(t, id, 1)[0]
		e, err := event.Unmarshal(a.Event)
		if err != nil || e.Type() != kind {
			t.Errorf("got %s %v, want type %s", a.Event, err, kind)
		}
	}
}

// feedback: outcomes come by the door and, as quality shows, through the broker. One that no outcome can be made of is kept by the function, and does not
// come back as a dead letter.
func (s *System) feedback(t *testing.T) {
	var got struct{ Accepted, Rejected int }
	call(t, s.Feedback, http.MethodPost, "/feedback", []byte(`[{"prediction":"order-7","value":true},{"prediction":"order-8"}]`), http.StatusAccepted, &got)
	if got.Accepted != 1 || got.Rejected != 1 {
		t.Errorf("got %+v, want one accepted and one rejected", got)
	}
	s.quality(t)
}

// quality: what was predicted meets what came true, which came earlier than the log, and each counts once.
func (s *System) quality(t *testing.T) {
	name := "suite-" + strings.ToLower(rand.Text()[:6])
	status, answer, err := s.Predict(t.Context(), http.MethodPost, "/admin/v1/models/"+name+"/versions", http.Header{"Content-Type": {"application/octet-stream"}}, s.Echo)
	if err != nil || status != http.StatusCreated {
		t.Fatalf("push: %d %s %v", status, answer, err)
	}
	for i := range 4 {
		id := fmt.Sprintf("%s-%d", name, i)
		s.send(t, event.OutcomeObserved.New(event.Outcomes{Outcomes: []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"prediction":%q,"model":%q,"value":%d}`, id, name, 2*i))}}))
		call(t, s.Predict, http.MethodPost, "/v2/models/"+name+"/infer", fmt.Appendf(nil, `{"id":%q,"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[%d]}]}`, id, i), http.StatusOK, nil)
	}
	var got struct {
		By       string
		Versions []struct {
			Report struct {
				Outcomes int
				Metrics  map[string]struct{ Value float64 }
			}
		}
	}
	within(t, "predictions and outcomes are joined", func() bool {
		call(t, s.Feedback, http.MethodGet, "/admin/v1/quality/"+name, nil, http.StatusOK, &got)
		return len(got.Versions) == 1 && got.Versions[0].Report.Outcomes == 4
	})
	if mae := got.Versions[0].Report.Metrics["mae"].Value; got.By != "windows" || mae != 1.5 {
		t.Errorf("got %+v, want errors of 0, 1, 2 and 3", got)
	}
}

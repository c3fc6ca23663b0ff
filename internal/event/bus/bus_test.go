package bus_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/event/bus"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// subscriber records what it gets and answers as told.
type subscriber struct {
	mu     sync.Mutex
	got    []event.Event
	answer func(n int, w http.ResponseWriter) // n: attempts so far
}

func (s *subscriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events, err := event.Read(w, r)
	if err != nil {
		event.Answer(w, r, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, events...)
	if s.answer != nil {
		s.answer(len(s.got), w)
	}
}

func (s *subscriber) events() []event.Event { s.mu.Lock(); defer s.mu.Unlock(); return s.got }

const routes = `
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: b}
spec: {delivery: {retry: 2, backoffPolicy: exponential, backoffDelay: PT0.01S, deadLetterSink: {ref: {kind: Service, name: dead, apiVersion: v1}, uri: /letters}}}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: t}
spec: {broker: b, filter: {attributes: {type: t}}, subscriber: {ref: {kind: Service, name: sub, apiVersion: v1}, uri: "/in?x=1"}}
`

type system struct {
	*bus.Bus
	tel       *telemetry.Telemetry
	sub, dead *subscriber
	kv        store.KV
}

func open(t *testing.T, manifests string, queue int, kv store.KV) *system {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := bus.Load(fstest.MapFS{"routes.yaml": {Data: []byte(manifests)}})
	if err != nil {
		t.Fatal(err)
	}
	if kv == nil {
		if kv, err = memstore.OpenKV(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	s := &system{tel: tel, sub: &subscriber{}, dead: &subscriber{}, kv: kv}
	s.Bus, err = bus.New(&bus.Config{Queue: queue}, bus.Deps{Routes: r, KV: kv, Subscribers: map[string]http.Handler{"sub": s.sub, "dead": s.dead}}, tel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *system) start(t *testing.T) *system {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func one(id, kind string) event.Event {
	e := event.Event{}
	e.SetSpecVersion("1.0")
	e.SetID(id)
	e.SetSource("/test")
	e.SetType(kind)
	return e
}

func (s *system) send(t *testing.T, events ...event.Event) {
	t.Helper()
	if err := s.Send(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// kept counts the events under way.
func kept(t *testing.T, kv store.KV) (n int) {
	t.Helper()
	for _, err := range kv.Scan(t.Context(), "events/") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestEachAnswerHasItsConsequence(t *testing.T) {
	for _, test := range []struct {
		name     string
		answer   func(n int, w http.ResponseWriter)
		attempts int
		code     int32 // of the dead letter; 0: none
		reason   string
	}{
		{"taken", func(_ int, w http.ResponseWriter) { w.WriteHeader(202) }, 1, 0, ""},
		{"taken at the last attempt", func(n int, w http.ResponseWriter) {
			if n < 3 {
				w.WriteHeader(503)
			}
		}, 3, 0, ""},
		{"never taken", func(_ int, w http.ResponseWriter) { w.WriteHeader(503); _, _ = io.WriteString(w, "full") }, 3, 503, "full"},
		{"refused", func(_ int, w http.ResponseWriter) { w.WriteHeader(400); _, _ = io.WriteString(w, "no") }, 1, 400, "no"},
		{"unprocessable", func(_ int, w http.ResponseWriter) { w.WriteHeader(422) }, 1, 422, ""},
		{"redirected", func(_ int, w http.ResponseWriter) { w.WriteHeader(302) }, 1, 302, ""},
		{"not there", func(_ int, w http.ResponseWriter) { w.WriteHeader(404) }, 3, 404, ""},
		{"junk", func(_ int, w http.ResponseWriter) { _, _ = io.WriteString(w, "hello") }, 3, 502, `the answer is neither empty nor an event: "hello"`},
		{"panic", func(int, http.ResponseWriter) { panic("ouch") }, 3, 500, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, routes, 100, nil).start(t)
			s.sub.answer = test.answer
			s.send(t, one("1", "t"), one("2", "other"))
			within(t, "delivery", func() bool { return kept(t, s.kv) == 0 })
			got, dead := s.sub.events(), s.dead.events()
			if len(got) != test.attempts || got[0].ID() != "1" {
				t.Fatalf("got %d attempts, want %d", len(got), test.attempts)
			}
			if test.code == 0 {
				if len(dead) != 0 {
					t.Errorf("got a dead letter: %s", dead[0])
				}
				return
			}
			if len(dead) != 1 {
				t.Fatalf("got %d dead letters, want one", len(dead))
			}
			x := dead[0].Extensions()
			reason, _ := base64.StdEncoding.DecodeString(fmt.Sprint(x["knativeerrordata"]))
			if x["knativeerrordest"] != "http://sub/in?x=1" || fmt.Sprint(x["knativeerrorcode"]) != fmt.Sprint(test.code) || x["knativeerrordata"] != nil && string(reason) != test.reason || x["knativeerrordata"] == nil && test.reason != "" {
				t.Errorf("got extensions %v (%s), want code %d and reason %q", x, reason, test.code, test.reason)
			}
		})
	}
}

func TestADeadLetterOutlastsItsSink(t *testing.T) {
	s := open(t, routes, 100, nil).start(t)
	s.sub.answer = func(_ int, w http.ResponseWriter) { w.WriteHeader(400) }
	s.dead.answer = func(n int, w http.ResponseWriter) {
		if n < 2 {
			w.WriteHeader(503)
		}
	}
	s.send(t, one("1", "t"))
	within(t, "the dead letter", func() bool { return kept(t, s.kv) == 0 })
	if n := len(s.dead.events()); n != 2 {
		t.Errorf("got %d attempts at the dead-letter sink, want 2", n)
	}
}

func TestRepliesGoRoundButNotForEver(t *testing.T) {
	s := open(t, routes, 1000, nil).start(t)
	s.sub.answer = func(n int, w http.ResponseWriter) {
		w.Header().Set("Ce-Specversion", "1.0")
		w.Header().Set("Ce-Id", fmt.Sprint(n))
		w.Header().Set("Ce-Source", "/sub")
		w.Header().Set("Ce-Type", "t")
	}
	s.send(t, one("0", "t"))
	within(t, "the end of the loop", func() bool { return kept(t, s.kv) == 0 && len(s.sub.events()) >= 255 })
	if n := len(s.sub.events()); n != 255 { // as Knative's ingress, which refuses what comes down to 0
		t.Errorf("it went round %d times, want 255", n)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	s := open(t, routes, 3, nil).start(t)
	var full atomic.Bool
	full.Store(true)
	s.sub.answer = func(_ int, w http.ResponseWriter) {
		for full.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	for i := range 3 {
		s.send(t, one(fmt.Sprint(i), "t"))
	}
	err := s.Send(t.Context(), one("4", "t"))
	if !fault.Is(err, fault.Overloaded) || fault.Message(err) != "3 events are under way already; try again later" {
		t.Errorf("got %v", err)
	}
	s.send(t, one("5", "nobody's")) // takes no room
	full.Store(false)
	within(t, "room", func() bool { return s.Send(t.Context(), one("6", "t")) == nil })
}

func TestARestartTakesUpWhatWasUnderWay(t *testing.T) {
	before := open(t, strings.Replace(routes, "PT0.01S", "PT1M", 1), 100, nil).start(t)
	before.sub.answer = func(_ int, w http.ResponseWriter) { w.WriteHeader(503) }
	before.send(t, one("1", "t"))
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	before.send(t, one("2", "t")) // accepted while the process ends
	if n := kept(t, before.kv); n != 2 {
		t.Fatalf("%d events are kept, want two", n)
	}
	after := open(t, routes, 100, before.kv).start(t)
	within(t, "delivery", func() bool { return kept(t, after.kv) == 0 })
	if got := after.sub.events(); len(got) != 2 {
		t.Errorf("got %d events, want two", len(got))
	}
}

// A delivery that the end of the process cuts off has not failed: it is made after the next start.
func TestADeliveryThatIsCutOffIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, routes, 100, nil)
		failed := 0
		s.tel.TakeSpans(func([]telemetry.Span) { failed++ }) // nothing is sampled
		s.sub.answer = func(int, http.ResponseWriter) { time.Sleep(20 * time.Second) }
		s.start(t).send(t, one("1", "t"))
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.sub.events(); len(got) != 1 || kept(t, s.kv) != 1 || failed != 1 {
			t.Errorf("%d deliveries, %d events kept, %d parts of traces; want one that was begun, one kept, and the cold start alone", len(got), kept(t, s.kv), failed)
		}
	})
}

// What is no JSON, though it says so, is an event like any other on its way.
func TestBrokenDataIsDeliveredAndDiesWhole(t *testing.T) {
	s := open(t, routes, 100, nil).start(t)
	s.sub.answer = func(_ int, w http.ResponseWriter) { w.WriteHeader(400) }
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/events", strings.NewReader(`{"x":`))
	for k, v := range map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "/s", "Ce-Type": "t", "Content-Type": "application/json"} {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusAccepted {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	within(t, "the dead letter", func() bool { return kept(t, s.kv) == 0 })
	if got := s.dead.events(); len(got) != 1 || string(got[0].Data()) != `{"x":` {
		t.Errorf("got dead letters %v", got)
	}
	if n := len(s.sub.events()); n != 1 {
		t.Errorf("got %d attempts, want one", n)
	}
}

func TestNothingOfABrokenBatchIsAccepted(t *testing.T) {
	s := open(t, routes, 100, nil).start(t)
	err := s.Send(t.Context(), one("1", "t"), one("", "t"))
	if !fault.Is(err, fault.Invalid) || kept(t, s.kv) != 0 {
		t.Errorf("got %v, and %d events are under way", err, kept(t, s.kv))
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/events", strings.NewReader(`[{"specversion":"1.0","id":"1","source":"/s","type":"t"},{}]`))
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	s.ServeHTTP(w, r)
	if w.Code != 400 || kept(t, s.kv) != 0 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestTicks(t *testing.T) {
	s := open(t, strings.ReplaceAll(routes, "{type: t}", "{type: dev.knative.sources.ping, tick: fast}")+`
---
apiVersion: sources.knative.dev/v1
kind: PingSource
metadata: {name: p}
spec: {schedule: "* * * * * *", contentType: application/json, data: '{"job":"x"}', ceOverrides: {extensions: {tick: fast}}, sink: {ref: {kind: Broker, name: b, apiVersion: eventing.knative.dev/v1}}}
`, 100, nil).start(t)
	within(t, "a tick", func() bool { return len(s.sub.events()) > 0 })
	e := s.sub.events()[0]
	if d, err := event.Tick.Decode(&e); err != nil || d.Job != "x" || e.Source() != "/apis/v1/namespaces/pilotlight/pingsources/p" {
		t.Errorf("got %s %v", e, err)
	}
}

// lame is a KV that refuses to be written.
type lame struct{ store.KV }

func (lame) Put(context.Context, string, []byte, time.Duration, store.Condition) (string, error) {
	return "", fault.New(fault.Unavailable, "the disk is full")
}

func TestNothingIsAcceptedThatIsNotKept(t *testing.T) {
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, routes, 1, lame{kv}).start(t)
	for range 3 { // and the room is given back
		if err := s.Send(t.Context(), one("1", "t")); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v", err)
		}
	}
	if n := len(s.sub.events()); n != 0 {
		t.Errorf("%d events were delivered that were refused", n)
	}
}

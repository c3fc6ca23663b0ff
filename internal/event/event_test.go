package event_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

var at = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)

func quiet(t testing.TB) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func TestTheSameDataIsTheSameEvent(t *testing.T) {
	data := event.Moved{Model: "flights", Alias: "champion", Seq: 3, From: 1, To: 2, At: at}
	a, b := event.AliasMoved.New(data), event.AliasMoved.New(data)
	if a.String() != b.String() || a.ID() != "flights:champion:3" || a.Source() != "/pilotlight/models" || a.Subject() != "flights:champion" || !a.Time().Equal(at) {
		t.Errorf("got %s and %s", a, b)
	}
	back, err := event.AliasMoved.Decode(&a)
	if err != nil || !reflect.DeepEqual(back, data) {
		t.Errorf("got %+v %v, want %+v", back, err, data)
	}
}

func TestDataMustFitItsType(t *testing.T) {
	for _, test := range []struct{ kind, data, err string }{
		{"application/json", `{"model":"m","version":1,"digest":"d","at":"2026-11-24T09:30:00Z","new":"field"}`, ""},
		{"application/vnd.x+json", `{"model":"m","version":1,"digest":"d","at":"2026-11-24T09:30:00Z"}`, ""},
		{"text/plain", `x`, `the data of an event dev.pilotlight.model.published.v1 is JSON, not "text/plain"`},
		{"application/json", `{"model":`, `is not JSON: unexpected end of JSON input`},
		{"application/json", ``, `is not JSON`},
		{"application/json", `[]`, `expected an object, not array`},
		{"application/json", `{"model":"m","digest":"d","at":"2026-11-24T09:30:00Z"}`, `does not fit its schema: "version" is missing`},
		{"application/json", `{"model":"m","version":"1","digest":"d","at":"2026-11-24T09:30:00Z"}`, `"version" is a string, expected int`},
		{"application/json", `{"model":"m","version":1.5,"digest":"d","at":"2026-11-24T09:30:00Z"}`, `does not fit its schema`},
		{"application/json", `{"model":"m","version":1,"digest":"d","at":"today"}`, `does not fit its schema`},
	} {
		e := event.ModelPublished.New(event.Published{})
		e.SetDataContentType(test.kind)
		e.DataEncoded = []byte(test.data)
		_, err := event.ModelPublished.Decode(&e)
		if test.err == "" && err != nil || test.err != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), test.err)) {
			t.Errorf("%s %s: got %v, want %q", test.kind, test.data, err, test.err)
		}
	}
}

// received makes a mux that keeps what it gets.
func received(t testing.TB, tel *telemetry.Telemetry) (*event.Mux, func() []event.Event) {
	t.Helper()
	m, err := event.NewMux(tel)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []event.Event
	m.Rest(func(_ context.Context, e *event.Event) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, e.Clone())
		return nil
	})
	return m, func() []event.Event { mu.Lock(); defer mu.Unlock(); return all }
}

func post(t testing.TB, h http.Handler, header http.Header, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/events", strings.NewReader(body))
	r.Header = header
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func binary(pairs ...string) http.Header {
	h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}}
	for i := 0; i < len(pairs); i += 2 {
		h.Del(pairs[i])
		if pairs[i+1] != "" {
			h.Set(pairs[i], pairs[i+1])
		}
	}
	return h
}

func TestBrokenEnvelopes(t *testing.T) {
	structured := func(kind string) http.Header { return http.Header{"Content-Type": {kind}} }
	for _, test := range []struct {
		name   string
		header http.Header
		body   string
		status int
		err    string
	}{
		{"no event", structured("application/json"), `{}`, 400, "the request holds no event: it has neither the header ce-specversion nor the content type application/cloudevents+json"},
		{"no id", binary("Ce-Id", ""), "", 400, "the event is broken: id: MUST be a non-empty string"},
		{"no source", binary("Ce-Source", ""), "", 400, "the event is broken: source: REQUIRED"},
		{"no type", binary("Ce-Type", ""), "", 400, "the event is broken: type: MUST be a non-empty string"},
		{"unknown version", binary("Ce-Specversion", "2.0"), "", 400, "specversion"},
		{"bad time", binary("Ce-Time", "yesterday"), "", 400, "the event is broken: "},
		{"time that can't be written", binary("Ce-Time", "9999-12-31T23:00:00-02:00"), "", 400, "the event is broken: time: its year in UTC has not four digits"},
		{"cut off", structured("application/cloudevents+json"), `{"specversion":"1.0","id":`, 400, "the event is broken: "},
		{"no object", structured("application/cloudevents+json"), `7`, 400, "the event is broken: "},
		{"nothing", structured("application/cloudevents+json"), ``, 400, "the event is broken: "},
		{"other format", structured("application/cloudevents+avro"), `x`, 400, "the event's specversion or content type is not one of CloudEvents"},
		{"broken one in a batch", structured("application/cloudevents-batch+json"), `[{"specversion":"1.0","id":"1","source":"/s","type":"t"},{"specversion":"1.0","id":"2","source":"/s"}]`, 400, "type: MUST be a non-empty string"},
		{"no batch", structured("application/cloudevents-batch+json"), `null`, 400, "the batch is null, expected an array of events"},
		{"too large", binary(), strings.Repeat("x", event.Most+1), 413, "the body is larger than the limit of 1048576 bytes"},
	} {
		m, got := received(t, quiet(t))
		status, body := post(t, m, test.header, test.body)
		var said struct{ Error string }
		if err := json.Unmarshal([]byte(body), &said); err != nil || status != test.status || !strings.Contains(said.Error, test.err) || strings.Contains(said.Error, "\n") {
			t.Errorf("%s: got %d %s, want %d %q", test.name, status, body, test.status, test.err)
		}
		if n := len(got()); n != 0 {
			t.Errorf("%s: %d events were handled", test.name, n)
		}
	}
}

func TestModes(t *testing.T) {
	const one = `{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"Z\u00fcrich 100%","data":{"a":1}}`
	for _, test := range []struct {
		name, body string
		header     http.Header
		n          int
	}{
		{"binary", `{"a":1}`, binary("Ce-Subject", "Z%C3%BCrich%20100%25", "Content-Type", "application/json"), 1},
		{"binary of a sender that escapes nothing", `{"a":1}`, binary("Ce-Subject", "Zürich 100%", "Content-Type", "application/json"), 1},
		{"structured", one, http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}, 1},
		{"batch", "[" + one + "," + one + "]", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, 2},
		{"empty batch", "[]", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, 0},
	} {
		m, got := received(t, quiet(t))
		if status, body := post(t, m, test.header, test.body); status != 202 || body != "" {
			t.Errorf("%s: got %d %s", test.name, status, body)
		}
		all := got()
		if len(all) != test.n {
			t.Fatalf("%s: got %d events, want %d", test.name, len(all), test.n)
		}
		for _, e := range all {
			if e.Subject() != "Zürich 100%" || string(e.Data()) != `{"a":1}` {
				t.Errorf("%s: got %s", test.name, e)
			}
		}
	}
}

func TestAnswersSpeakToABroker(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
		retry  bool
	}{
		{nil, 202, false},
		{fault.New(fault.Invalid, "x"), 400, false},
		{fault.New(fault.Denied, "x"), 403, false},
		{fault.New(fault.Unauthenticated, "x"), 401, false},
		{fault.New(fault.NotFound, "x"), 422, false},
		{fault.New(fault.Conflict, "x"), 422, false},
		{fault.New(fault.Overloaded, "x"), 429, true},
		{fault.New(fault.Unavailable, "x"), 503, true},
		{fault.New(fault.Deadline, "x"), 503, true},
		{errors.New("x"), 503, true},
	} {
		m, err := event.NewMux(quiet(t))
		if err != nil {
			t.Fatal(err)
		}
		m.Rest(func(context.Context, *event.Event) error { return test.err })
		status, _ := post(t, m, binary(), "")
		if status != test.status || event.Retried(status) != test.retry {
			t.Errorf("%v: got %d, retried %t; want %d, %t", test.err, status, event.Retried(status), test.status, test.retry)
		}
	}
	m, err := event.NewMux(quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	event.On(m, event.Tick, func(context.Context, *event.Event, event.Ticked) error { return nil })
	if status, body := post(t, m, binary(), ""); status != 422 || !strings.Contains(body, `nobody here takes events of type \"t\"`) {
		t.Errorf("unknown type: got %d %s", status, body)
	}
	// Of a batch, what should be tried again decides.
	tried := 0
	m.Rest(func(_ context.Context, e *event.Event) error {
		tried++
		return map[string]error{"1": fault.New(fault.Invalid, "never"), "2": fault.New(fault.Unavailable, "later")}[e.ID()]
	})
	var all []json.RawMessage
	for _, id := range []string{"1", "2", "3"} {
		e := event.Event{}
		e.SetSpecVersion("1.0")
		e.SetID(id)
		e.SetSource("/s")
		e.SetType("t")
		b, err := event.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	status, body := post(t, m, http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, string(b))
	if status != 503 || tried != 3 || !strings.Contains(body, "later") {
		t.Errorf("batch: got %d %s after %d", status, body, tried)
	}
}

func TestEventsOfABatchAreHandledAtOnce(t *testing.T) {
	m, err := event.NewMux(quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	var calls []string // the sources of features in each call
	event.OnBatch(m, event.FeaturesObserved, func(_ context.Context, events []event.Received[event.Rows]) []error {
		errs := make([]error, len(events))
		call := ""
		for i, e := range events {
			call += e.Data.Source
			if e.Data.Source == "x" {
				errs[i] = fault.New(fault.NotFound, "there is no source x")
			}
		}
		calls = append(calls, call)
		return errs
	})
	event.On(m, event.Tick, func(context.Context, *event.Event, event.Ticked) error { calls = append(calls, "tick"); return nil })
	batch := func(sources ...string) (int, string) {
		t.Helper()
		calls = nil
		var all []event.Event
		for _, s := range sources {
			e := event.FeaturesObserved.New(event.Rows{Source: s, Rows: []map[string]json.RawMessage{{"n": json.RawMessage("9007199254740993")}}})
			switch s {
			case "tick":
				e.SetType(event.Tick.Name)
				e.DataEncoded = []byte(`{"job":"j"}`)
			case "broken":
				e.DataEncoded = []byte(`{"rows":[]}`)
			}
			all = append(all, e)
		}
		b, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return post(t, m, http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, string(b))
	}
	for _, c := range []struct {
		sources, calls string
		status         int
	}{
		{"a", "a", 202},
		{"a b c", "abc", 202},
		{"a b tick c d", "ab tick cd", 202},
		{"tick tick", "tick tick", 202},
		{"a broken b", "ab", 400},
		{"a b x", "abx", 422},
		{"broken", "", 400},
	} {
		status, said := batch(strings.Fields(c.sources)...)
		if got := strings.Join(calls, " "); got != c.calls || status != c.status {
			t.Errorf("%s: got %q and %d %s, want %q and %d", c.sources, got, status, said, c.calls, c.status)
		}
	}
}

func sink(t *testing.T, c event.Config, tel *telemetry.Telemetry) event.Sink {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	s, err := event.Open(&c, tel)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheSinkTriesAgain(t *testing.T) {
	for _, test := range []struct {
		answers  []int
		attempts int
		kind     fault.Kind
		ok       bool
	}{
		{[]int{202}, 1, 0, true},
		{[]int{503, 404, 429, 200}, 4, 0, true},
		{[]int{400}, 1, fault.Invalid, false},
		{[]int{307}, 1, fault.Invalid, false},
	} {
		var n atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			i := int(n.Add(1)) - 1
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(test.answers[min(i, len(test.answers)-1)])
		}))
		err := sink(t, event.Config{Sink: server.URL}, quiet(t)).Send(t.Context(), event.ModelPublished.New(event.Published{Model: "m", Version: 1, At: at}))
		server.Close()
		if int(n.Load()) != test.attempts || test.ok != (err == nil) || err != nil && fault.KindOf(err) != test.kind {
			t.Errorf("%v: %d attempts, %v", test.answers, n.Load(), err)
		}
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := sink(t, event.Config{Sink: "http://127.0.0.1:1"}, quiet(t)).Send(ctx, event.ModelPublished.New(event.Published{Model: "m", Version: 1, At: at}))
	if err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("nobody listens: got %v after %s", err, time.Since(begin))
	}
}

func TestOverridesAndRoundTrip(t *testing.T) {
	m, got := received(t, quiet(t))
	server := httptest.NewServer(m)
	defer server.Close()
	s := sink(t, event.Config{Sink: server.URL, Overrides: `{"extensions":{"env":"test"}}`}, quiet(t))
	for _, model := range []string{"plain", "Zürich 100% \"x\""} {
		e := event.ModelPublished.New(event.Published{Model: model, Version: 1, At: at})
		if err := s.Send(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		all := got()
		back := all[len(all)-1]
		if back.Subject() != e.Subject() || back.ID() != e.ID() || back.Extensions()["env"] != "test" || string(back.Data()) != string(e.Data()) {
			t.Errorf("got %s, want %s", back, e)
		}
	}
	for _, c := range []event.Config{{Sink: "broker"}, {Sink: "http://x", Overrides: "{"}, {Sink: "http://x", Timeout: -1}} {
		if c.Timeout == 0 {
			c.Timeout = 1
		}
		if _, err := event.Open(&c, quiet(t)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want a refusal", c, err)
		}
	}
	if s, err := event.Open(&event.Config{}, quiet(t)); s != nil || err != nil {
		t.Errorf("without K_SINK: got %v %v, want no sink", s, err)
	}
}

// gate is a sink that waits until it is opened.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	ids  []string
}

func (g *gate) Send(ctx context.Context, events ...event.Event) error {
	select {
	case <-g.open:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range events {
		g.ids = append(g.ids, e.ID())
	}
	return nil
}

func TestOutbox(t *testing.T) {
	tel := quiet(t)
	g := &gate{open: make(chan struct{})}
	o, err := event.NewOutbox(g, tel)
	if err != nil {
		t.Fatal(err)
	}
	const more = 50
	for i := range 1000 + 1 + more { // one is in the sink's hands
		o.Give(t.Context(), event.ModelPublished.New(event.Published{Model: "m", Version: i, At: at}))
		if i == 0 {
			time.Sleep(50 * time.Millisecond) // until it is
		}
	}
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if want := fmt.Sprintf(`pilotlight_events_dropped_total{status="429",type="dev.pilotlight.model.published.v1"} %d`, more); !strings.Contains(w.Body.String(), want) {
		t.Errorf("the metrics lack %s", want)
	}
	close(g.open)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if len(g.ids) != 1001 || g.ids[0] != "m:0" || g.ids[1000] != "m:1000" {
		t.Errorf("got %d events, from %s on; want 1001 in order", len(g.ids), g.ids[0])
	}
	var none *event.Outbox
	none.Give(t.Context(), event.Event{}) // nobody listens
}

func TestTheOutboxEndsThoughTheSinkHangs(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	o, err := event.NewOutbox(g, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	o.Give(t.Context(), event.ModelPublished.New(event.Published{Model: "m", At: at}))
	begin := time.Now()
	if err := o.Close(); err != nil || time.Since(begin) > 8*time.Second {
		t.Errorf("Close took %s: %v", time.Since(begin), err)
	}
}

func TestOneTraceFromSenderToReceiver(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard, Endpoint: collector.URL, Sample: 1}, "test")
	if err != nil {
		t.Fatal(err)
	}
	m, got := received(t, tel)
	server := httptest.NewServer(m)
	defer server.Close()
	ctx, span := tel.Tracer.Start(t.Context(), "origin")
	if err := sink(t, event.Config{Sink: server.URL}, tel).Send(ctx, event.ModelPublished.New(event.Published{Model: "m", Version: 1, At: at})); err != nil {
		t.Fatal(err)
	}
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := span.SpanContext().TraceID()
	if s, _ := got()[0].Extensions()["traceparent"].(string); !strings.Contains(s, id.String()) {
		t.Errorf("got traceparent %q, want trace %s", s, id)
	}
	for _, name := range []string{"send dev.pilotlight.model.published.v1", "process dev.pilotlight.model.published.v1"} {
		if s := collector.Span(name); s == nil || !bytes.Equal(s.TraceId, id[:]) {
			t.Errorf("span %q: got %v, want trace %s", name, s, id)
		}
	}
}

// An answer goes on with the trace that its request belongs to, and begins one otherwise.
func TestAnswersStayInTheirTrace(t *testing.T) {
	collector := telemetrytest.NewCollector(t)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard, Endpoint: collector.URL, Sample: 1}, "test")
	if err != nil {
		t.Fatal(err)
	}
	responder, err := event.NewResponder(tel)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(more ...string) http.Header {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
		r.Header = binary(more...)
		w := httptest.NewRecorder()
		responder.Respond(w, r, []byte(`1`), func(_ context.Context, e *event.Event) (event.Event, error) {
			return event.PredictionMade.To(e, "m", "m:1", "application/json", []byte(`2`)), nil
		}, nil)
		if w.Code != http.StatusOK || w.Body.String() != `2` {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return w.Header()
	}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if got := ask("Ce-Traceparent", parent, "Ce-Tracestate", "a=b"); got.Get("Ce-Traceparent") != parent || got.Get("Ce-Tracestate") != "a=b" {
		t.Errorf("got %v", got)
	}
	if got := ask().Get("Ce-Traceparent"); len(got) != len(parent) || got == parent {
		t.Errorf("got traceparent %q, want one of a new trace", got)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := collector.Span("process other"); s == nil || len(s.TraceId) == 0 {
		t.Errorf("got span %v", s)
	}
}

// Each event of a batch is answered in the trace that it comes from, is measured by itself, and is kept by itself if it fails, even by a panic.
func TestEventsOfABatchHaveTracesOfTheirOwn(t *testing.T) {
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	var parts [][]telemetry.Span
	end := tel.TakeSpans(func(p []telemetry.Span) { parts = append(parts, p) })
	responder, err := event.NewResponder(tel)
	if err != nil {
		t.Fatal(err)
	}
	const own = "0af7651916cd43dd8448eb211c80319c"
	ctx, line := tel.Begin(t.Context(), trace.SpanContext{}, telemetry.NewTrace(), time.Now())
	r := httptest.NewRequestWithContext(ctx, "POST", "/", nil)
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	body := `[{"specversion":"1.0","id":"a","source":"/s","type":"t","traceparent":"00-` + own + `-b7ad6b7169203331-00"},
		{"specversion":"1.0","id":"b","source":"/s","type":"t"},{"specversion":"1.0","id":"c","source":"/s","type":"t"}]`
	var traces []string
	answer := func(ctx context.Context, e *event.Event) (event.Event, error) {
		traces = append(traces, telemetry.LineFrom(ctx).Trace().String())
		switch e.ID() {
		case "b":
			return event.Event{}, fault.New(fault.Invalid, "b can't be answered")
		case "c":
			panic("c")
		}
		return event.PredictionMade.To(e, "m", "m:1", "application/json", []byte(`2`)), nil
	}
	func() {
		defer func() { _ = recover() }()
		responder.Respond(httptest.NewRecorder(), r, []byte(body), answer, func(e *event.Event, _ error) event.Event { return *e })
	}()
	line.End(ctx, &telemetry.Outcome{Name: "request", At: time.Now()})
	end()
	if want := []string{own, line.Trace().String(), line.Trace().String()}; !slices.Equal(traces, want) {
		t.Errorf("got traces %v, want %v", traces, want)
	}
	if len(parts) != 2 || parts[0][0].Error != "b can't be answered" || parts[1][0].Error != "answering the event panicked" ||
		parts[0][0].Parent != line.SpanContext().SpanID() || parts[0][0].Kind != trace.SpanKindConsumer || len(parts[0][0].Attributes) < 4 {
		t.Errorf("got %+v", parts)
	}
}

// sameData compares data, but for the blanks of JSON.
func sameData(a, b []byte) bool {
	var x, y bytes.Buffer
	return bytes.Equal(a, b) || json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// FuzzRead: whatever is read from foreign bytes is an event that can be sent and kept.
func FuzzRead(f *testing.F) {
	f.Add("application/cloudevents+json", "", `{"specversion":"1.0","id":"1","source":"/s","type":"t","x":7,"data_base64":"AA=="}`)
	f.Add("application/cloudevents-batch+json", "", `[{"specversion":"0.3","id":"1","source":"/s","type":"t"}]`)
	f.Add("application/json", "Z%C3%BCrich%", `{"a":1}`)
	f.Add("", "0", "A") // no content type stands for JSON, and this is none
	f.Add("text/plain", "", "\xff")
	f.Fuzz(func(t *testing.T, kind, subject, body string) {
		h := http.Header{"Content-Type": {kind}}
		if !strings.HasPrefix(kind, "application/cloudevents") {
			h = binary("Content-Type", kind, "Ce-Subject", subject, "Ce-Ext", subject)
		}
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/events", strings.NewReader(body))
		r.Header = h
		events, err := event.Read(httptest.NewRecorder(), r)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid {
				t.Fatalf("got a %s: %v", k, err)
			}
			return
		}
		for i := range events {
			e := &events[i]
			b, err := event.Marshal(e)
			if err != nil {
				t.Fatalf("%s can't be kept: %v", e, err)
			}
			read, err := event.Unmarshal(b)
			if err != nil {
				t.Fatalf("%s can't be read back from %s: %v", e, b, err)
			}
			if !sameData(e.Data(), read.Data()) {
				t.Fatalf("%q was kept as %q", e.Data(), read.Data())
			}
			out, err := event.Request(t.Context(), "http://broker", e)
			if err != nil {
				t.Fatalf("%s can't be sent: %v", e, err)
			}
			if out.Body == nil {
				out.Body = http.NoBody
			}
			back, err := event.Read(httptest.NewRecorder(), out)
			if err != nil || len(back) != 1 || back[0].ID() != e.ID() || back[0].Source() != e.Source() || back[0].Type() != e.Type() || back[0].Subject() != e.Subject() || !sameData(e.Data(), back[0].Data()) {
				t.Fatalf("sent %s, got %v %v", e, back, err)
			}
		}
	})
}

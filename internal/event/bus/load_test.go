package bus_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event/bus"
)

const ref = `subscriber: {ref: {kind: Service, name: sub, apiVersion: v1}}`

func manifest(name, spec string) string {
	return "{apiVersion: eventing.knative.dev/v1, kind: Trigger, metadata: {name: " + name + "}, spec: {broker: b, " + spec + "}}"
}

func TestWhatCantWorkIsNamed(t *testing.T) {
	const ping = `{apiVersion: sources.knative.dev/v1, kind: PingSource, metadata: {name: p}, spec: {schedule: "* * * * *", sink: {ref: {kind: Broker, name: other, apiVersion: v1}}}}`
	for _, test := range []struct{ name, yaml, err string }{
		{"two of a name", manifest("t", ref), `more.yaml, Trigger t: there is another one of this name, in b.yaml`},
		{"behind dashes with a comment", "# nothing\n--- # second\n" + manifest("x", `subscribers: {}`), `more.yaml, object 2: `},
		{"ping for another broker", ping, `PingSource p: there is no Broker "other", but "b"`},
		{"backoff of no kind", manifest("x", ref+`, delivery: {retry: 1, backoffPolicy: quadratic}`), `more.yaml, Trigger x: delivery: backoffPolicy is "quadratic", expected linear or exponential`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := bus.Load(fstest.MapFS{"b.yaml": {Data: []byte(routes)}, "more.yaml": {Data: []byte(test.yaml)}})
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
	if _, err := bus.Load(os.DirFS(t.TempDir() + "/misspelt")); err == nil || !strings.Contains(err.Error(), "a folder of manifests can't be read") {
		t.Errorf("got %v for a folder that is not there", err)
	}
}

// picky takes one type of events, as an event.Mux does.
type picky struct{ http.Handler }

func (picky) Takes(name string) bool { return name == "t" }

func TestAFilterWithoutATypeSuitsAnySubscriber(t *testing.T) {
	s := open(t, strings.Replace(routes, "{type: t}", "{tick: x}", 1), 10, nil)
	r, err := bus.Load(fstest.MapFS{"r.yaml": {Data: []byte(strings.Replace(routes, "{type: t}", "{tick: x}", 1))}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bus.New(&bus.Config{Queue: 1}, bus.Deps{Routes: r, KV: s.kv, Subscribers: map[string]http.Handler{"sub": picky{s.sub}, "dead": s.dead}}, s.tel)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFilters(t *testing.T) {
	for _, test := range []struct {
		filter     string
		takes, not string // types
	}{
		{`filters: [{exact: {type: a.b}}]`, "a.b", "a.bc"},
		{`filters: [{prefix: {type: a.}}]`, "a.b", "b.a."},
		{`filters: [{suffix: {type: .b}}]`, "a.b", "a.bc"},
		{`filters: [{any: [{exact: {type: a}}, {exact: {type: b}}]}]`, "b", "c"},
		{`filters: [{all: [{prefix: {type: a}}, {suffix: {type: z}}]}]`, "abz", "abc"},
		{`filters: [{not: {exact: {type: a}}}]`, "b", "a"},
		{`filters: [{cesql: "type LIKE 'a%' AND source = '/test'"}]`, "ab", "b"},
		{`filter: {attributes: {type: a}}`, "a", "b"},
		{`filter: {attributes: {type: a}}, filters: [{exact: {type: b}}]`, "b", "a"},
	} {
		t.Run(test.filter, func(t *testing.T) {
			s := open(t, strings.Split(routes, "---")[0]+"---\n"+manifest("t", test.filter+", "+ref), 10, nil).start(t)
			s.send(t, one("no", test.not), one("yes", test.takes))
			within(t, "delivery", func() bool { return kept(t, s.kv) == 0 && len(s.sub.events()) > 0 })
			if got := s.sub.events(); len(got) != 1 || got[0].ID() != "yes" {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestCloseLetsACallEnd(t *testing.T) {
	s := open(t, routes, 10, nil).start(t)
	begun := make(chan struct{})
	s.sub.answer = func(int, http.ResponseWriter) { close(begun); time.Sleep(50 * time.Millisecond) }
	s.send(t, one("1", "t"))
	<-begun
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := kept(t, s.kv); n != 0 {
		t.Errorf("%d events are kept though their call ended well", n)
	}
}

func TestNoAttemptBeginsAfterClose(t *testing.T) {
	for range 20 {
		s := open(t, strings.Replace(routes, "PT0.01S", "PT0S", 1), 10, nil).start(t)
		begun, closing := make(chan struct{}), make(chan struct{})
		s.sub.answer = func(n int, w http.ResponseWriter) {
			if n == 1 {
				close(begun)
				<-closing
				time.Sleep(5 * time.Millisecond)
			}
			w.WriteHeader(503)
		}
		s.send(t, one("1", "t"))
		<-begun
		close(closing)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n := len(s.sub.events()); n != 1 || kept(t, s.kv) != 1 {
			t.Fatalf("got %d attempts and %d events kept, want one and one", n, kept(t, s.kv))
		}
	}
}

func TestNoAnswerIsKnatives500(t *testing.T) {
	s := open(t, strings.Replace(routes, `subscriber: {ref: {kind: Service, name: sub, apiVersion: v1}, uri: "/in?x=1"}`, `subscriber: {uri: "http://127.0.0.1:1/"}`, 1), 10, nil).start(t)
	s.send(t, one("1", "t"))
	within(t, "the dead letter", func() bool { return kept(t, s.kv) == 0 && len(s.dead.events()) == 1 })
	if code := fmt.Sprint(s.dead.events()[0].Extensions()["knativeerrorcode"]); code != "500" {
		t.Errorf("got code %s, want 500", code)
	}
}

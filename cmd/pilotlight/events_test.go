package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/deadletter"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// picky is a broker that refuses one event.
type picky struct{}

func (picky) Send(_ context.Context, events ...event.Event) error {
	if events[0].ID() == "bad" {
		return fault.New(fault.Invalid, "the broker refuses the event with 400: no")
	}
	return nil
}

// letters serves a store with dead letters of these events, and gives their ids.
func letters(t *testing.T, events ...string) (url string, ids []string) {
	t.Helper()
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	s, err := deadletter.New(&deadletter.Config{Keep: time.Hour}, blob, picky{}, tel)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range events {
		e := event.Event{}
		e.SetSpecVersion("1.0")
		e.SetID(id)
		e.SetSource("/s")
		e.SetType("my.type")
		e.SetTime(time.Date(2026, 11, 24, 9, 30, i, 0, time.UTC))
		e.SetExtension("knativeerrordest", "http://predict/events")
		e.SetExtension("knativeerrorcode", 503)
		e.SetExtension("knativeerrordata", "bm8Kcm9vbQ==")
		if err := e.SetData("application/json", map[string]int{"a": 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	all, _, err := s.List(t.Context(), &deadletter.Filter{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		ids = append(ids, l.ID)
	}
	mux := http.NewServeMux()
	s.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, ids
}

func TestEvents(t *testing.T) {
	url, ids := letters(t, "one", "bad", "two")
	try := func(want, wantErr string, args ...string) {
		t.Helper()
		out, err := run(t, "", append(args, "--server", url)...)
		if got := gaps.ReplaceAllString(regexp.MustCompile(`-[0-9a-f]{32}`).ReplaceAllString(out, "-SUM"), "  "); got != want {
			t.Errorf("%q prints\n%s\nwant\n%s", args, got, want)
		}
		if fmt.Sprint(err) != wantErr {
			t.Errorf("%q: got %v, want %s", args, err, wantErr)
		}
	}
	try("AT  TYPE  EVENT  DESTINATION  CODE  REASON  ID\n"+
		"2026-11-24 09:30:02  my.type  two  http://predict/events  503  no room  20261124T093002.000Z-SUM\n"+
		"2026-11-24 09:30:01  my.type  bad  http://predict/events  503  no room  20261124T093001.000Z-SUM\n"+
		"2026-11-24 09:30:00  my.type  one  http://predict/events  503  no room  20261124T093000.000Z-SUM\n", "<nil>", "events", "list")
	try("no dead letters\n", "<nil>", "events", "list", "--type", "other")
	out, err := run(t, "", "events", "show", ids[0], "--server", url)
	if err != nil || !strings.Contains(out, "http://predict/events") || !strings.Contains(out, `"id": "two"`) || !strings.Contains(out, `"a": 1`) {
		t.Errorf("show: got %s %v", out, err)
	}
	try("", "name the letters to replay, or say --all", "events", "replay")
	try("", "name either letters or --all and --type", "events", "replay", "x", "--all")
	try("replayed 1\n", ids[1]+": the broker refuses the event with 400: no", "events", "replay", ids[0], ids[1])
	try("replayed 1\n", ids[1]+": the broker refuses the event with 400: no", "events", "replay", "--all")
	try(`{"replayed":0,"failed":[{"id":"`+strings.ReplaceAll(ids[1], ids[1][20:], "-SUM")+`","error":"the broker refuses the event with 400: no"}]}`+"\n",
		ids[1]+": the broker refuses the event with 400: no", "events", "replay", "--all", "-o", "json")
	try("deleted 1\n", "<nil>", "events", "delete", ids[1])
	try("{\"deadletters\":[]}\n", "<nil>", "events", "list", "-o", "json")
	try("deleted 0\n", "x: \"x\" is not the id of a dead letter, such as 20261124T093000.000Z- and 32 hexadecimal digits", "events", "delete", "x")
}

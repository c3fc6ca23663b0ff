package feature

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

const departuresYAML = `
entities: [{name: carrier, keys: [{name: carrier, type: string}]}]
sources:
  - name: departures
    time: at
    fields:
      - {name: carrier, type: string}
      - {name: at, type: timestamp}
      - {name: delay, type: float64, max: 1440}
      - {name: number, type: int64}
`

// arrive posts events with rows, given as JSON, to what an Ingest hears.
func arrive(t *testing.T, m *event.Mux, events ...event.Event) (int, string) {
	t.Helper()
	b, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/events", strings.NewReader(string(b)))
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func observed(id, source, rows string) event.Event {
	e := event.FeaturesObserved.New(event.Rows{Source: source})
	e.SetID(id)
	e.DataEncoded = fmt.Appendf(nil, `{"source":%q,"rows":%s}`, source, rows)
	return e
}

func TestRowsComeByEvents(t *testing.T) {
	blob := bucket(t)
	catalog := newCatalog(blob)
	in := ingest(t, ample, IngestDeps{Blob: blob, Catalog: catalog})
	m, err := event.NewMux(mute(t))
	if err != nil {
		t.Fatal(err)
	}
	in.Hear(m)
	good := observed("1", "departures", `[{"carrier":"AA","at":"2026-11-25T11:00:00Z","delay":3,"number":9007199254740993,"unknown":[1]},{"carrier":"UA","at":1795604400.5}]`)
	if status, said := arrive(t, m, good); status != 422 || !strings.Contains(said, "source departures does not exist") {
		t.Errorf("before its source is defined: got %d %s, want 422", status, said)
	}
	apply(t, newCatalog(blob), departuresYAML) // elsewhere
	if status, said := arrive(t, m, good, observed("2", "departures", `[{"carrier":"AA","at":"2026-11-25T11:00:00Z"}]`), observed("3", "departures", `[]`)); status != http.StatusAccepted {
		t.Errorf("got %d %s, want 202", status, said)
	}
	if got := fmt.Sprint(logged(t, blob, "departures")); got != "[3]" {
		t.Errorf("the log has objects of %s rows, want one of 3", got)
	}
	for _, test := range []struct {
		name   string
		rows   string
		status int
		kept   string // of the row that is rejected
	}{
		{"a value of another type", `[{"carrier":"AA","at":"2026-11-25T11:00:00Z","number":1.5},{"carrier":"AA","at":"2026-11-25T11:00:00Z","number":2}]`, 202, `{"reason":"type","detail":"column \"number\": 1.5 is not a value of type int64","row":{"at":"2026-11-25T11:00:00Z","carrier":"AA","number":1.5}}`},
		{"out of range", `[{"carrier":"AA","at":"2026-11-25T11:00:00Z","delay":1441}]`, 202, `{"reason":"range","detail":"column \"delay\" is 1441, more than 1440","row":{"carrier":"AA","at":"2026-11-25T11:00:00Z","delay":1441}}`},
		{"no row", `[null]`, 202, `{"reason":"type","detail":"the row is null, expected an object","row":null}`},
		{"no time", `[{}]`, 202, `{"reason":"null","detail":"column \"at\" is null, and is a time of the row","row":{}}`},
		{"no rows", `null`, 400, ""},
		{"no object", `[7]`, 400, ""},
	} {
		if status, said := arrive(t, m, observed(test.name, "departures", test.rows)); status != test.status {
			t.Errorf("%s: got %d %s, want %d", test.name, status, said, test.status)
		}
		if test.kept != "" && !strings.Contains(rejectedLines(t, in), test.kept+"\n") {
			t.Errorf("%s: kept are\n%s\nwithout\n%s", test.name, rejectedLines(t, in), test.kept)
		}
	}
	// One for a source that does not exist does not hold up the others.
	if status, said := arrive(t, m, observed("8", "arrivals", `[]`), observed("9", "departures", `[{"carrier":"DL","at":"2026-11-25T11:00:00Z"}]`)); status != 422 || !strings.Contains(said, "event 1 of 2") && !strings.Contains(said, "arrivals") {
		t.Errorf("got %d %s, want 422", status, said)
	}
	if got := len(logged(t, blob, "departures")); got != 3 {
		t.Errorf("the log has %d objects, want 3", got)
	}
}

func rejectedLines(t *testing.T, in *Ingest) string {
	t.Helper()
	var all strings.Builder
	for o, err := range in.deps.Blob.List(t.Context(), RejectedPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		all.Write(read(t, in.deps.Blob, o.Key))
	}
	return all.String()
}

func TestTheSameEventHasTheSameIDs(t *testing.T) {
	s := plain(t)
	rows := func(e event.Event) []Row {
		t.Helper()
		data, err := event.FeaturesObserved.Decode(&e)
		if err != nil {
			t.Fatal(err)
		}
		a := arrived{source: s}
		a.read(event.Received[event.Rows]{Event: &e, Data: data})
		return a.rows
	}
	const two = `[{"carrier":"AA"},{"carrier":"AA"}]`
	a, again, other := rows(observed("1", "departures", two)), rows(observed("1", "departures", two)), rows(observed("2", "departures", two))
	if a[0].ID != again[0].ID || a[1].ID != again[1].ID {
		t.Error("the same event has other ids")
	}
	if a[0].ID == a[1].ID || a[0].ID == other[0].ID {
		t.Error("different rows have the same id")
	}
	// A row that can't be read does not change the ids of those behind it.
	if mixed := rows(observed("1", "departures", `[{"carrier":1},{"carrier":"AA"}]`)); len(mixed) != 1 || mixed[0].ID != a[1].ID {
		t.Errorf("got %+v, want the second row alone, with its id", mixed)
	}
}

func FuzzRow(f *testing.F) {
	f.Add(`{"carrier":"AA","at":"2026-11-25T11:00:00Z","delay":3,"number":1}`)
	f.Add(`{"at":1e300,"delay":"x","number":null}`)
	c, err := Compile(&Set{Sources: []Source{{Name: "s", Time: "at", Fields: []Field{
		{Name: "carrier", Type: row.String}, {Name: "at", Type: row.Timestamp}, {Name: "delay", Type: row.Float64, Max: number64(9)}, {Name: "number", Type: row.Int64, Required: true}, {Name: "list", Type: row.ListOf(row.Float64)},
	}}}})
	if err != nil {
		f.Fatal(err)
	}
	s, err := c.Source("s")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var fields map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &fields) != nil {
			return
		}
		r := Row{}
		r.Values = append(r.Values, make([]row.Value, len(s.Fields))...)
		if readRow(s, fields, r.Values) != nil {
			return
		}
		check := inspector{source: s, now: now.UnixMicro(), latest: now.UnixMicro()}
		reason, _ := check.fill(&r)
		if b := appendRow(nil, s, r.Values); !json.Valid(b) {
			t.Errorf("%s is kept as %s (%s), which is not JSON", text, b, reason)
		}
	})
}

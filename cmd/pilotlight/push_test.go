package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

func TestPush(t *testing.T) {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	catalog := feature.NewCatalog(&feature.Config{Refresh: time.Hour}, blob, nil, slog.New(slog.DiscardHandler))
	in, err := feature.NewIngest(&feature.IngestConfig{Rows: 1000, Bytes: 1 << 20, Write: time.Minute, Ahead: time.Hour}, feature.IngestDeps{Catalog: catalog, Online: online, Blob: blob}, tel)
	if err != nil {
		t.Fatal(err)
	}
	events, err := event.NewMux(tel)
	if err != nil {
		t.Fatal(err)
	}
	in.Hear(events)
	mux := http.NewServeMux()
	catalog.Register(mux)
	events.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	set, err := feature.Parse("set.yaml", []byte(ground+"views: [{name: last, entities: [carrier], source: arrivals}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := catalog.Apply(t.Context(), set, nil, "me", false); err != nil {
		t.Fatal(err)
	}
	compiled, err := catalog.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	view, err := compiled.View("last")
	if err != nil {
		t.Fatal(err)
	}
	delay := func(carrier string) string {
		t.Helper()
		there, err := online.Read(t.Context(), []string{view.Key(row.OfString(carrier))}, []store.OnlineRow{})
		if err != nil {
			t.Fatal(err)
		}
		answers := make([]feature.Answer, 1)
		if err := view.Values(there[0].Value, there[0].Stamp, 0, answers); err != nil {
			t.Fatal(err)
		}
		return answers[0].Value.String()
	}
	var many strings.Builder
	many.WriteString("carrier,event_timestamp,delay\n")
	for i := range 1234 {
		fmt.Fprintf(&many, "C%d,2013-01-01 05:00:00,%d\n", i, i)
	}
	for _, c := range []struct {
		name, text   string
		says, fails  string
		carrier, has string
	}{
		{"a.csv", "carrier,delay,event_timestamp\nAA,1.5,2013-01-01T05:00:00Z\n\"A,B\",,2013-01-01T05:00:00Z\n", "2 rows sent", "", "AA", "1.5"},
		{"empty.csv", "", "0 rows sent", "", "", ""},
		{"many.csv", many.String(), "1234 rows sent", "", "C1233", "1233"},
		{"wrong.csv", "carrier,tail\nAA,1\n", "", `source arrivals has no column "tail"`, "", ""},
		{"wrong.csv", "carrier,delay\nAA,1\nAA,late\n", "", `after 0 rows were sent: line 3, column "delay": late is not a value of type float32`, "", ""},
		{"wrong.csv", "carrier,delay\nAA\n", "", `wrong number of fields`, "", ""},
		{"a.json", `[{"carrier":"J1","event_timestamp":1356998400,"delay":7},{"carrier":"J2","event_timestamp":1356998400}]`, "2 rows sent", "", "J1", "7"},
		{"a.jsonl", `{"carrier":"J3","event_timestamp":1356998400,"delay":8}` + "\n" + `{"carrier":"J4","event_timestamp":1356998400,"delay":9}`, "2 rows sent", "", "J4", "9"},
		{"empty.json", `[]`, "0 rows sent", "", "", ""},
		{"wrong.json", `[{"carrier":"J5"`, "", "unexpected EOF", "", ""},
		{"wrong.json", `[{"carrier":"J5"}`, "", "EOF", "", ""},
		{"wrong.json", `[7]`, "", "cannot unmarshal number", "", ""},
		{"wrong.json", `{"tail":1}`, "", `source arrivals has no column "tail"`, "", ""},
		{"a.parquet", ``, "", "ends neither in .csv nor in .json", "", ""},
	} {
		path := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := run(t, "", "features", "push", "arrivals", path, "--server", server.URL)
		if c.fails == "" && (err != nil || !strings.Contains(out, c.says)) || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s %.60q: got %q, %v, want %q %q", c.name, c.text, out, err, c.says, c.fails)
		}
		if c.carrier != "" {
			if got := delay(c.carrier); got != c.has {
				t.Errorf("%s: the delay of %s is %s, want %s", c.name, c.carrier, got, c.has)
			}
		}
	}
	if _, err := run(t, "", "features", "push", "departures", "x.csv", "--server", server.URL); err == nil || err.Error() != "source departures does not exist" {
		t.Errorf("got %v, want that the source does not exist", err)
	}
}

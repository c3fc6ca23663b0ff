package feature

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
)

const flightsYAML = `
entities:
  - {name: carrier, keys: [{name: carrier, type: string}]}
  - {name: origin, keys: [{name: origin, type: string}]}
  - {name: aircraft, keys: [{name: tailnum, type: string}]}
sources:
  - name: flights
    time: time
    fields:
      - {name: carrier, type: string, required: true}
      - {name: origin, type: string, one_of: [EWR, JFK, LGA]}
      - {name: dest, type: string}
      - {name: tailnum, type: string}
      - {name: time, type: timestamp}
      - {name: flight, type: int32}
      - {name: delay, type: float64, min: -120, max: 1440}
      - {name: distance, type: float64}
`

// batches gives bodies of so many events each, of different flights, without an end.
func batches(b *testing.B, events int) func() string {
	b.Helper()
	n := atomic.Int64{}
	return func() string {
		var all []string
		for range events {
			i := n.Add(1)
			rows := fmt.Sprintf(`[{"carrier":"C%d","origin":%q,"dest":"D%d","tailnum":"N%d","time":%q,"flight":%d,"delay":%d,"distance":%d}]`,
				i%16, []string{"EWR", "JFK", "LGA"}[i%3], i%100, i%4000, now.Add(time.Duration(i)*50*time.Millisecond-time.Hour).Format(time.RFC3339Nano), i%5000, i%300, i%3000)
			e := observed(fmt.Sprint("flight-", i), "flights", rows)
			text, err := json.Marshal(e)
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, string(text))
		}
		return "[" + strings.Join(all, ",") + "]"
	}
}

// BenchmarkEvents posts batches of events, each with one row.
func BenchmarkEvents(b *testing.B) {
	const events = 1000
	blob, err := diskstore.OpenBlob(b.Context(), &url.URL{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	catalog := newCatalog(blob)
	set, err := Parse("flights.yaml", []byte(flightsYAML))
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := catalog.Apply(b.Context(), set, nil, "me", false); err != nil {
		b.Fatal(err)
	}
	in := ingest(b, IngestConfig{Rows: 50_000, Bytes: 64 << 20, Write: 20 * time.Second, Ahead: time.Hour}, IngestDeps{Blob: blob, Catalog: catalog})
	m, err := event.NewMux(mute(b))
	if err != nil {
		b.Fatal(err)
	}
	in.Hear(m)
	next := batches(b, events)
	var bodies []string
	for range 200 { // ids repeat after so many, which is beyond what a state remembers
		bodies = append(bodies, next())
	}
	var at atomic.Int64
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			r := httptest.NewRequestWithContext(b.Context(), "POST", "/events", strings.NewReader(bodies[at.Add(1)%int64(len(bodies))]))
			r.Header.Set("Content-Type", "application/cloudevents-batch+json")
			w := httptest.NewRecorder()
			m.ServeHTTP(w, r)
			if w.Code != http.StatusAccepted {
				b.Error(w.Code, w.Body)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
}

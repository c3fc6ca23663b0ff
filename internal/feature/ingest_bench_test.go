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
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
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
views:
  - {name: carrier_last, entities: [carrier], source: flights, features: [dest, delay]}
  - {name: aircraft_last, entities: [aircraft], source: flights, features: [carrier, origin, dest, delay], ttl: 7d}
  - name: carrier_delays
    entities: [carrier]
    source: flights
    lateness: 10m
    windows:
      - {name: n, aggregate: count, size: 1h, slide: 10m}
      - {name: mean, aggregate: mean, of: delay, size: 1h, slide: 10m}
      - {name: most, aggregate: max, of: delay, size: 1h, slide: 10m}
  - name: origin_delays
    entities: [origin]
    source: flights
    lateness: 10m
    windows:
      - {name: mean, aggregate: mean, of: delay, size: 1h, slide: 10m}
      - {name: aircraft, aggregate: distinct, of: tailnum, size: 1h, slide: 10m}
  - name: aircraft_delays
    entities: [aircraft]
    source: flights
    lateness: 10m
    windows:
      - {name: mean, aggregate: mean, of: delay, size: 1d, slide: 1h}
      - {name: last, aggregate: last, of: delay, size: 1d, slide: 1h}
`

// flight makes the body of a batch of so many events, the first of them number from. They are a tenth of a second apart.
func flight(b *testing.B, from, events int) string {
	b.Helper()
	var all []string
	for i := from; i < from+events; i++ {
		rows := fmt.Sprintf(`[{"carrier":"C%d","origin":%q,"dest":"D%d","tailnum":"N%d","time":%q,"flight":%d,"delay":%d,"distance":%d}]`,
			i%16, []string{"EWR", "JFK", "LGA"}[i%3], i%100, i%4000, now.Add(time.Duration(i)*100*time.Millisecond-48*time.Hour).Format(time.RFC3339Nano), i%5000, i%300, i%3000)
		text, err := json.Marshal(observed(fmt.Sprint("flight-", i), "flights", rows))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, string(text))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// BenchmarkEvents posts batches of a thousand events with a row each, from four
// senders, into five views in Redis and a log on disk or S3.
func BenchmarkEvents(b *testing.B) {
	b.Run("disk", func(b *testing.B) {
		blob, err := diskstore.OpenBlob(b.Context(), &url.URL{Path: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		benchmarkEvents(b, blob)
	})
	b.Run("s3", func(b *testing.B) {
		u, err := url.Parse(storetest.S3URL(b))
		if err != nil {
			b.Fatal(err)
		}
		blob, err := s3store.OpenBlob(b.Context(), u)
		if err != nil {
			b.Fatal(err)
		}
		benchmarkEvents(b, blob)
	})
}

func benchmarkEvents(b *testing.B, blob store.Blob) {
	const events = 1000
	catalog := newCatalog(blob)
	set, err := Parse("flights.yaml", []byte(flightsYAML))
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := catalog.Apply(b.Context(), set, nil, "me", false); err != nil {
		b.Fatal(err)
	}
	conf := IngestConfig{Rows: 50_000, Bytes: 64 << 20, Write: 20 * time.Second, Ahead: time.Hour}
	in := ingest(b, conf, IngestDeps{Blob: blob, Catalog: catalog, Online: redisOnline(b, storetest.RedisURL(b))})
	m, err := event.NewMux(mute(b))
	if err != nil {
		b.Fatal(err)
	}
	in.Hear(m)
	bodies := make([]string, b.N)
	for i := range bodies {
		bodies[i] = flight(b, i*events, events)
	}
	var at atomic.Int64
	b.SetParallelism(2)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			r := httptest.NewRequestWithContext(b.Context(), "POST", "/events", strings.NewReader(bodies[at.Add(1)-1]))
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

package feature

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// nowhere is an answer that nobody reads.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// BenchmarkFeastGet is /get-online-features without the HTTP server around it.
func BenchmarkFeastGet(b *testing.B) {
	const features = 10
	var columns, refs []string
	for j := range features {
		columns = append(columns, fmt.Sprintf("{name: f%d, type: float64}", j))
		refs = append(refs, fmt.Sprintf(`"stats:f%d"`, j))
	}
	catalog := newCatalog(bucket(b))
	set, err := Parse("bench.yaml", []byte(`
entities: [{name: driver, keys: [{name: driver_id, type: int64}]}]
sources: [{name: rows, fields: [{name: driver_id, type: int64}, {name: event_timestamp, type: timestamp}, `+strings.Join(columns, ", ")+`]}]
views: [{name: stats, entities: [driver], source: rows}]
`))
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := catalog.Apply(b.Context(), set, nil, "bench", false); err != nil {
		b.Fatal(err)
	}
	defined, err := catalog.Current(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, backend := range []struct {
		name   string
		online store.Online
	}{{"memory", memory(b)}, {"redis", redisOnline(b, storetest.RedisURL(b))}} {
		v := defined.views["stats"]
		for i := range 50 {
			r := map[string]row.Value{"driver_id": row.OfInt64(int64(i)), "event_timestamp": row.OfTime(noon)}
			for j := range features {
				r[fmt.Sprintf("f%d", j)] = row.OfFloat64(float64(i*features+j) / 7)
			}
			putRow(b, backend.online, v, r)
		}
		f := NewFeast(NewTable(backend.online, catalog.Current), nil, catalog, "")
		for _, n := range []int{1, 50} {
			ids := make([]string, n)
			for i := range ids {
				ids[i] = fmt.Sprint(i)
			}
			body := `{"features": [` + strings.Join(refs, ", ") + `], "entities": {"driver_id": [` + strings.Join(ids, ", ") + `]}}`
			b.Run(fmt.Sprintf("%s/entities=%d", backend.name, n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(all *testing.PB) {
					w := nowhere{http.Header{}}
					r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/get-online-features", nil)
					for all.Next() {
						r.Body = io.NopCloser(strings.NewReader(body))
						if err := f.get(w, r); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

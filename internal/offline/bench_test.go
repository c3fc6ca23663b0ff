package offline

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

const flightViews = `
entities:
- {name: carrier, keys: [{name: carrier, type: string}]}
- {name: origin, keys: [{name: origin, type: string}]}
- {name: plane, keys: [{name: plane, type: int64}]}
- {name: route, keys: [{name: origin, type: string}, {name: carrier, type: string}]}
sources:
- {name: flights, path: landing/flights/, time: at, fields: [{name: at, type: timestamp}, {name: carrier, type: string}, {name: origin, type: string}, {name: plane, type: int64}, {name: delay, type: float64}]}
views:
- {name: by_carrier, entities: [carrier], source: flights, lateness: 1h, windows: [{name: c_mean, aggregate: mean, of: delay, size: 6h, slide: 1h}, {name: c_n, aggregate: count, size: 1d, slide: 1h}]}
- {name: by_origin, entities: [origin], source: flights, lateness: 1h, windows: [{name: o_mean, aggregate: mean, of: delay, size: 3h, slide: 1h}, {name: o_max, aggregate: max, of: delay, size: 1d}]}
- {name: by_plane, entities: [plane], source: flights, windows: [{name: p_last, aggregate: last, of: delay, size: 2d, slide: 1h}]}
- {name: by_route, entities: [route], source: flights, windows: [{name: r_mean, aggregate: mean, of: delay, size: 7d, slide: 1d}]}
- {name: newest, entities: [plane], source: flights, ttl: 3d, features: [delay]}
services:
- {name: all, features: ["by_carrier:*", "by_origin:*", "by_plane:*", "by_route:*", {feature: "newest:delay", as: newest}]}
`

// flightWorld has as many flights as nycflights13, made up, and asks for each of them.
func flightWorld(b *testing.B) (defs *feature.Compiled, s *Store, rows []byte) {
	const n = 336_776
	set, err := feature.Parse("flights.yaml", []byte(flightViews))
	if err == nil {
		defs, err = feature.Compile(set)
	}
	if err != nil {
		b.Fatal(err)
	}
	src, err := defs.Source("flights")
	if err != nil {
		b.Fatal(err)
	}
	fields := append([]row.Field{{Name: Moment, Type: row.Timestamp}}, src.Columns[1:]...)
	var file, asked bytes.Buffer
	for buf, fields := range map[*bytes.Buffer][]row.Field{&file: src.Columns, &asked: fields} {
		shape, err := segment.NewShape(fields)
		if err != nil {
			b.Fatal(err)
		}
		w := shape.Writer(buf)
		for i := range int64(n) {
			values := []row.Value{row.OfMicros(epoch + i*90e6), row.OfString(fmt.Sprint("carrier ", i*7%16)), row.OfString(fmt.Sprint("airport ", i*5%3)), row.OfInt64(i * 31 % 4000), row.OfFloat64(float64(i % 90))}
			if err := w.Write([]segment.Row{{Values: values}}); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
	blob, err := memstore.OpenBlob(b.Context(), nil)
	if err == nil {
		_, err = blob.Put(b.Context(), "landing/flights/a.parquet", bytes.NewReader(file.Bytes()), int64(file.Len()), store.Condition{})
	}
	if err != nil {
		b.Fatal(err)
	}
	kv, err := memstore.OpenKV(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	online, err := memstore.OpenOnline(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	if s, err = Open(b.Context(), &Config{Memory: env.Size(512 << 20), Dir: b.TempDir(), Cache: 1 << 30}, Deps{Blob: blob, KV: kv, Online: online}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return defs, s, asked.Bytes()
}

// peak reports the most memory that the process ever had.
func peak(b *testing.B) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return // not Linux
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kb float64
	if _, err := fmt.Sscan(rest, &kb); err == nil {
		b.ReportMetric(kb/1024, "peak-MB")
	}
}

func BenchmarkTrainingSet(b *testing.B) {
	defs, s, rows := flightWorld(b)
	plan, err := defs.Service("all")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.TrainingSet(b.Context(), plan, bytes.NewReader(rows), Parquet, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	peak(b)
}

func BenchmarkMaterialize(b *testing.B) {
	defs, s, _ := flightWorld(b)
	for _, name := range []string{"newest", "by_plane"} {
		b.Run(name, func(b *testing.B) {
			view, err := defs.View(name)
			if err != nil {
				b.Fatal(err)
			}
			var rows int64
			for b.Loop() {
				if err := s.Materialize(b.Context(), view, Span{}, func(p Progress) { rows = p.Rows }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			peak(b)
		})
	}
}

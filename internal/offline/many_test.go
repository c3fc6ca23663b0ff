package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

const hopViews = `
entities: [{name: plane, keys: [{name: plane, type: int64}]}]
sources:
- {name: hops, time: at, fields: [{name: at, type: timestamp}, {name: carrier, type: string}, {name: plane, type: int64}, {name: delay, type: float64}]}
views:
- {name: by_plane, entities: [plane], source: hops, windows: [{name: mean, aggregate: mean, of: delay, size: 6h, slide: 1h}, {name: n, aggregate: count, size: 1d, slide: 1h}]}
- {name: newest, entities: [plane], source: hops, features: [delay, carrier]}
services:
- {name: all, features: ["by_plane:*", {feature: "newest:delay", as: newest}, "newest:carrier"]}
`

// hops are n rows of some planes within a span of microseconds, written so many at a time, and what is
// asked of every tenth.
func hops(tb testing.TB, blob store.Blob, n, planes, span int64, together int) (defs *feature.Compiled, asked []byte) {
	tb.Helper()
	set, err := feature.Parse("hops.yaml", []byte(hopViews))
	if err == nil {
		defs, err = feature.Compile(set)
	}
	if err != nil {
		tb.Fatal(err)
	}
	src, err := defs.Source("hops")
	if err != nil {
		tb.Fatal(err)
	}
	log, err := segment.NewLog(blob, src.Name, src.Columns)
	if err != nil {
		tb.Fatal(err)
	}
	var rows []segment.Row
	csv := bytes.NewBufferString("plane,label," + Moment + "\n")
	for i := range n {
		event := epoch + i*(span/n)
		values := []row.Value{row.OfMicros(event), row.OfString(fmt.Sprint("carrier ", i*7%16)), row.OfInt64(i * 31 % planes), row.OfFloat64(float64(i % 90))}
		if rows = append(rows, segment.Row{Values: values, Event: event, Created: event + 5, ID: uint64(i + 1)}); len(rows) == together || i == n-1 {
			if _, err := log.Append(tb.Context(), func(yield func(segment.Row) bool) {
				for _, r := range rows {
					if !yield(r) {
						return
					}
				}
			}); err != nil {
				tb.Fatal(err)
			}
			rows = rows[:0]
		}
		if i%10 == 0 {
			_, _ = fmt.Fprintf(csv, "%d,label %d,%s\n", i*31%planes, i, time.UnixMicro(event+60e6).UTC().Format(time.RFC3339Nano))
		}
	}
	return defs, csv.Bytes()
}

// A log of thousands of files of a row each is read like one file, in as little memory, and joined
// by one call.
func TestManySegments(t *testing.T) {
	const n, span = 3000, 12 * hour
	few, many := memBlob(t), memBlob(t)
	hops(t, few, n, 4000, span, n)
	defs, asked := hops(t, many, n, 4000, span, 1)
	src, err := defs.Source("hops")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := defs.Service("all")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{defs: defs, blob: many}
	want := w.train(t, open(t, few), plan, asked, CSV)
	s := open(t, many)
	train := func(when string) {
		t.Helper()
		got := w.train(t, s, plan, asked, CSV)
		if len(got) != n/10 {
			t.Fatalf("%s: got %d rows, want %d", when, len(got), n/10)
		}
		for i := range got {
			for c := range got[i] {
				if !got[i][c].Equal(want[i][c]) {
					t.Fatalf("%s: row %d is %v, want %v", when, i, got[i], want[i])
				}
			}
		}
	}
	train("before files are joined")
	if copies := len(s.files.have); copies > n/100 {
		t.Errorf("%d files are read at once, want them joined", copies)
	}
	objects, err := s.list(t.Context(), src)
	if err != nil || len(objects) != n {
		t.Fatalf("there are %d files, %v, want %d", len(objects), err, n)
	}

	hurt := objects[n/2].Key
	was := get(t, many, hurt)
	for _, b := range [][]byte{[]byte("no parquet"), was[:len(was)-9], append(append([]byte("PAR1"), make([]byte, 40)...), was[44:]...)} {
		put(t, many, hurt, b)
		err := s.TrainingSet(t.Context(), plan, bytes.NewReader(asked), CSV, io.Discard)
		if !fault.Is(err, fault.Internal) || !bytes.Contains([]byte(fault.Message(err)), []byte(hurt)) {
			t.Errorf("with a damaged file: got %v, want a fault that names %s", err, hurt)
		}
	}
	put(t, many, hurt, was)

	// It is stopped some times, and what is done by then stays done.
	left := n
	for range 3 {
		broken := open(t, stopAfter(many, 1200))
		if _, err := broken.Compact(t.Context(), src); !errors.Is(err, errBroken) {
			t.Fatalf("got %v, want the bucket's error", err)
		}
		objects, err := s.list(t.Context(), src)
		if err != nil || len(objects) > left-900 {
			t.Fatalf("%d files are left of %d, %v", len(objects), left, err)
		}
		left = len(objects)
		train("after a stop")
		if left < 1200 {
			break
		}
	}
	if _, err := s.Compact(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	if objects, err = s.list(t.Context(), src); err != nil || len(objects) >= compactFrom {
		t.Errorf("%d files are left, %v, want fewer than %d", len(objects), err, compactFrom)
	}
	train("after files were joined")
}

// quick writes files of a folder bucket without waiting for the disk.
type quick struct {
	store.Blob
	dir string
}

func (q quick) Put(_ context.Context, key string, body io.ReadSeeker, _ int64, _ store.Condition) (string, error) {
	path := filepath.Join(q.dir, filepath.FromSlash(key))
	b, err := io.ReadAll(body)
	if err == nil {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
	}
	return "", err
}

// BenchmarkManySegments is what a source costs that was fed event by event: 100,000 files of a row
// each, of ten days, in a folder. (HOPS is another number.)
func BenchmarkManySegments(b *testing.B) {
	n := int64(100_000)
	_, _ = fmt.Sscan(os.Getenv("HOPS"), &n)
	for _, what := range []string{"training", "materialize", "compact"} {
		b.Run(what, func(b *testing.B) {
			dir := b.TempDir()
			defs, asked := hops(b, quick{dir: dir}, n, 4000, 10*24*hour, 1)
			src, err := defs.Source("hops")
			if err != nil {
				b.Fatal(err)
			}
			plan, err := defs.Service("all")
			if err != nil {
				b.Fatal(err)
			}
			view, err := defs.View("by_plane")
			if err != nil {
				b.Fatal(err)
			}
			online, err := memstore.OpenOnline(b.Context(), nil)
			if err != nil {
				b.Fatal(err)
			}
			s := openFolder(b, dir, online)
			for b.Loop() {
				switch what {
				case "training":
					err = s.TrainingSet(b.Context(), plan, bytes.NewReader(asked), CSV, io.Discard)
				case "materialize":
					err = s.Materialize(b.Context(), view, Span{}, func(Progress) {})
				case "compact":
					_, err = s.Compact(b.Context(), src)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
			peak(b)
		})
	}
}

// BenchmarkMaterializeMillion brings a million rows of a log in a folder into a Redis: a newest row
// of a million planes, and windows of a hundred thousand. peak-MB is the process's, so each is
// to be run by itself; the server is another process.
func BenchmarkMaterializeMillion(b *testing.B) {
	for _, c := range []struct {
		view   string
		planes int64
	}{{"newest", 1_000_000}, {"by_plane", 100_000}} {
		b.Run(c.view, func(b *testing.B) {
			dir := b.TempDir()
			defs, _ := hops(b, quick{dir: dir}, 1_000_000, c.planes, 10*24*hour, 10_000)
			view, err := defs.View(c.view)
			if err != nil {
				b.Fatal(err)
			}
			address, err := url.Parse(storetest.RedisURL(b))
			if err != nil {
				b.Fatal(err)
			}
			online, err := redisstore.OpenOnline(b.Context(), address)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = online.Close() })
			s := openFolder(b, dir, online)
			var rows int64
			for b.Loop() {
				if err := s.Materialize(b.Context(), view, Span{}, func(p Progress) { rows = p.Rows }); err != nil {
					b.Fatal(err)
				}
			}
			if rows != 1_000_000 {
				b.Errorf("%d rows were read, want a million", rows)
			}
			there, err := online.Read(b.Context(), []string{view.Key(row.OfInt64(0)), view.Key(row.OfInt64(c.planes - 1))}, nil)
			if err != nil || there[0].Value == nil || there[1].Value == nil {
				b.Errorf("the first and the last plane are %v, %v, want them to be there", there, err)
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			peak(b)
		})
	}
}

// openFolder opens a Store on a folder, as large as it is by default.
func openFolder(b *testing.B, dir string, online store.Online) *Store {
	b.Helper()
	blob, err := diskstore.OpenBlob(b.Context(), &url.URL{Scheme: "file", Path: dir})
	if err != nil {
		b.Fatal(err)
	}
	kv, err := memstore.OpenKV(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), &Config{Memory: env.Size(512 << 20), Dir: b.TempDir(), Cache: 4 << 30}, Deps{Blob: blob, KV: kv, Online: online})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

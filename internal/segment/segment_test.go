package segment_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

var fields = []row.Field{
	{Name: "b", Type: row.Bool, ID: 1},
	{Name: "i", Type: row.Int32, ID: 2},
	{Name: "l", Type: row.Int64, ID: 3},
	{Name: "f", Type: row.Float32, ID: 4},
	{Name: "d", Type: row.Float64, ID: 5},
	{Name: "s", Type: row.String, ID: 6},
	{Name: "raw", Type: row.Bytes, ID: 7},
	{Name: "at", Type: row.Timestamp, ID: 8},
	{Name: "tags", Type: row.ListOf(row.String), ID: 9},
	{Name: "A", Type: row.ListOf(row.Float64), ID: 10},
}

var noon = time.Date(2013, 7, 4, 12, 0, 0, 0, time.UTC).UnixMicro()

const day = int64(24 * time.Hour / time.Microsecond)

// rowOf is the n-th of some rows; each third value is null.
func rowOf(n int) segment.Row {
	values := []row.Value{
		row.OfBool(n%2 == 0), row.OfInt32(int32(-n)), row.OfInt64(int64(n) << 40), row.OfFloat32(float32(n) / 3), row.OfFloat64(float64(n) / 7),
		row.OfString(fmt.Sprint("text ", n%50)), row.OfBytes([]byte{0, byte(n)}), row.OfMicros(noon + int64(n)),
		row.OfList(row.String, slices.Repeat([]row.Value{row.OfString("é")}, n%3)...),
		row.OfList(row.Float64, row.OfFloat64(math.Inf(1)), row.OfFloat64(float64(n))),
	}
	for i := range values {
		if (n+i)%3 == 2 {
			values[i] = row.Value{}
		}
	}
	return segment.Row{Values: values, Event: noon + int64(n)*1e6, Created: noon + int64(n)*1e6 + 5, ID: uint64(n) * 0x9e3779b97f4a7c15}
}

func rowsOf(n int) []segment.Row {
	rows := make([]segment.Row, n)
	for i := range rows {
		rows[i] = rowOf(i)
	}
	return rows
}

func TestAppend(t *testing.T) {
	blob := memBlob(t)
	log := newLog(t, blob)
	rows := rowsOf(3000)
	rows[7].Event += day
	rows[8].Event = -1 // 1969
	for range 2 {
		keys, err := log.Append(t.Context(), slices.Values(rows))
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) != 3 || !strings.HasPrefix(keys[0], "features/log/rows/date=1969-12-31/") ||
			!strings.HasPrefix(keys[1], fmt.Sprintf("features/log/rows/date=2013-07-04/%d-", rows[0].Created)) || !strings.HasPrefix(keys[2], "features/log/rows/date=2013-07-05/") {
			t.Fatalf("keys are %q, want one for each of three days", keys)
		}
		got := read(t, blob, keys)
		if want := shown(rows); !maps.Equal(got, want) {
			for id := range want {
				if got[id] != want[id] {
					t.Fatalf("row %x is\n%s, want\n%s", id, got[id], want[id])
				}
			}
			t.Fatalf("got %d rows, want %d", len(got), len(want))
		}
	}
	n := 0
	for _, err := range blob.List(t.Context(), segment.Prefix("rows"), "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("the same rows twice are %d objects, want 3", n)
	}
	if keys, err := log.Append(t.Context(), slices.Values([]segment.Row(nil))); len(keys) != 0 || err != nil {
		t.Errorf("no rows: got %q, %v, want nothing", keys, err)
	}
}

func TestIntact(t *testing.T) {
	blob := memBlob(t)
	keys, err := newLog(t, blob).Append(t.Context(), slices.Values(rowsOf(10)))
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	r, _, err := blob.Get(t.Context(), keys[0], 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(data)
	other[len(other)/2] ^= 1
	for name, c := range map[string]struct {
		key  string
		data []byte
		want bool
	}{
		"as written": {keys[0], data, true},
		"a bit":      {keys[0], other, false},
		"cut":        {keys[0], data[:len(data)-1], false},
		"nothing":    {keys[0], nil, false},
		"a stranger": {"features/log/rows/date=2013-07-04/part-0.parquet", data, false},
	} {
		if got := segment.Intact(c.key, c.data); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

func TestAppendManyRowGroups(t *testing.T) {
	blob := memBlob(t)
	log, err := segment.NewLog(blob, "rows", fields[:1])
	if err != nil {
		t.Fatal(err)
	}
	const n = 300_000
	keys, err := log.Append(t.Context(), func(yield func(segment.Row) bool) {
		for i := range n {
			if !yield(segment.Row{Values: []row.Value{row.OfBool(true)}, ID: uint64(i)}) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, blob, keys[0])
	if f.NumRows() != n || len(f.RowGroups()) != 3 {
		t.Errorf("got %d rows in %d groups, want %d in 3", f.NumRows(), len(f.RowGroups()), n)
	}
}

func TestAppendRefuses(t *testing.T) {
	log := newLog(t, memBlob(t))
	short, mistyped := rowOf(1), rowOf(1)
	short.Values = short.Values[1:]
	mistyped.Values[1] = row.OfInt64(1)
	for _, r := range []segment.Row{short, mistyped} {
		if _, err := log.Append(t.Context(), slices.Values([]segment.Row{r})); !fault.Is(err, fault.Internal) {
			t.Errorf("got %v, want an internal fault", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := log.Append(ctx, slices.Values(rowsOf(3))); err == nil {
		t.Error("a bucket that refuses gives no error")
	}
	if keys, err := log.Append(t.Context(), slices.Values(rowsOf(3))); err != nil || len(keys) != 1 {
		t.Errorf("after errors: got %q, %v", keys, err)
	}
}

func TestNewLogRefuses(t *testing.T) {
	for _, c := range []struct {
		source string
		fields []row.Field
	}{
		{"", nil},
		{"a/b", nil},
		{"ä", nil},
		{"a", []row.Field{{Name: segment.ID, Type: row.Int64}}},
		{"a", []row.Field{{Name: "x", Type: row.Int64}, {Name: "x", Type: row.Bool}}},
	} {
		if _, err := segment.NewLog(memBlob(t), c.source, c.fields); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q, %v: got %v, want an invalid fault", c.source, c.fields, err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			blob, err := memstore.OpenBlob(b.Context(), nil)
			if err != nil {
				b.Fatal(err)
			}
			log, err := segment.NewLog(blob, "rows", fields)
			if err != nil {
				b.Fatal(err)
			}
			rows := rowsOf(n)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := log.Append(b.Context(), slices.Values(rows)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/row")
		})
	}
}

func memBlob(t *testing.T) store.Blob {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func newLog(t *testing.T, blob store.Blob) *segment.Log {
	log, err := segment.NewLog(blob, "rows", fields)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func open(t *testing.T, blob store.Blob, key string) *parquet.File {
	r, o, err := blob.Get(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(data), o.Size)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// read shows all rows of objects by their ids, as parquet-go's own reader sees them.
func read(t *testing.T, blob store.Blob, keys []string) map[uint64]string {
	type shape struct {
		Event   time.Time  `parquet:"_event,timestamp(microsecond)"`
		Created time.Time  `parquet:"_created,timestamp(microsecond)"`
		ID      uint64     `parquet:"_id"`
		B       *bool      `parquet:"b,optional"`
		I       *int32     `parquet:"i,optional"`
		L       *int64     `parquet:"l,optional"`
		F       *float32   `parquet:"f,optional"`
		D       *float64   `parquet:"d,optional"`
		S       *string    `parquet:"s,optional"`
		Raw     *[]byte    `parquet:"raw,optional"`
		At      *time.Time `parquet:"at,optional,timestamp(microsecond)"`
		Tags    []string   `parquet:"tags,optional,list"`
		A       []float64  `parquet:"A,optional,list"`
	}
	got := map[uint64]string{}
	for _, key := range keys {
		f := open(t, blob, key)
		r := parquet.NewGenericReader[shape](f)
		rows := make([]shape, f.NumRows())
		if n, err := r.Read(rows); n != len(rows) {
			t.Fatalf("read %d of %d rows: %v", n, len(rows), err)
		}
		for _, x := range rows {
			s := fmt.Sprint(x.Event.UnixMicro(), x.Created.UnixMicro())
			for _, v := range []any{opt(x.B), opt(x.I), opt(x.L), opt(x.F), opt(x.D), opt(x.S), opt(x.Raw)} {
				s += fmt.Sprint(" ", v)
			}
			if x.At == nil {
				s += " null"
			} else {
				s += fmt.Sprint(" ", x.At.UnixMicro())
			}
			got[x.ID] = s + fmt.Sprint(" ", x.Tags, " ", x.A)
		}
	}
	return got
}

func opt[T any](p *T) any {
	if p == nil {
		return "null"
	}
	return *p
}

func shown(rows []segment.Row) map[uint64]string {
	want := map[uint64]string{}
	for _, r := range rows {
		s := fmt.Sprint(r.Event, r.Created)
		for i, v := range r.Values {
			s += " "
			switch {
			case v.Null() && v.Type().IsList(), fields[i].Type.IsList():
				var list []any
				for _, e := range v.List() {
					if e.Type() == row.Float64 {
						list = append(list, e.Float())
					} else {
						list = append(list, e.Text())
					}
				}
				s += fmt.Sprint(list)
			case v.Null():
				s += "null"
			case v.Type() == row.Bool:
				s += fmt.Sprint(v.Bool())
			case v.Type() == row.Float32:
				s += fmt.Sprint(float32(v.Float()))
			case v.Type() == row.Float64:
				s += fmt.Sprint(v.Float())
			case v.Type() == row.Bytes:
				s += fmt.Sprintf("%d", []byte(v.Text()))
			case v.Type() == row.String:
				s += v.Text()
			default:
				s += fmt.Sprint(v.Int())
			}
		}
		want[r.ID] = s
	}
	return want
}

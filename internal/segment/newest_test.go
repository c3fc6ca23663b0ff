package segment_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// The newest row is found however far back it lies, in whatever object of its day.
func TestFindNewest(t *testing.T) {
	blob := memBlob(t)
	now := time.UnixMicro(noon)
	if _, err := segment.FindNewest(t.Context(), blob, "x", now); !fault.Is(err, fault.NotFound) {
		t.Errorf("of nothing: got %v", err)
	}
	log := newLog(t, blob)
	rows := rowsOf(100)
	if _, err := log.Append(t.Context(), slices.Values(rows[:60])); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), slices.Values(rows[60:])); err != nil {
		t.Fatal(err)
	}
	late := rowOf(7) // which came last, and is old
	late.Event, late.Created = noon-3*day, noon+day
	if _, err := log.Append(t.Context(), slices.Values([]segment.Row{late})); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{now, now.AddDate(0, 0, 5), now.AddDate(13, 0, 0), now.AddDate(100, 0, 0), now.AddDate(-50, 0, 0)} {
		n, err := segment.FindNewest(t.Context(), blob, "rows", at)
		if err != nil || n.Event != rows[99].Event || n.Created != rows[99].Created || n.Written.IsZero() {
			t.Errorf("at %v: got %+v, %v, want %d and %d", at, n, err, rows[99].Event, rows[99].Created)
		}
	}
}

// Whatever lies there is read, or not, and costs no more than its size.
func FuzzFindNewest(f *testing.F) {
	blob, err := memstore.OpenBlob(context.Background(), nil)
	if err != nil {
		f.Fatal(err)
	}
	shape, err := segment.NewShape(fields)
	if err != nil {
		f.Fatal(err)
	}
	var out bytes.Buffer
	w := shape.Writer(&out)
	if err := w.Write(rowsOf(10)); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add(out.Bytes()[out.Len()-200:])
	f.Add([]byte("\xff\xff\xff\xffPAR1"))
	f.Add([]byte("PAR1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := blob.Put(t.Context(), segment.Prefix("x")+"date=2026-01-01/0-a.parquet", strings.NewReader(string(b)), int64(len(b)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		if n, err := segment.FindNewest(t.Context(), blob, "x", time.Now()); err != nil || n.Written.IsZero() {
			t.Fatalf("got %+v, %v", n, err)
		}
	})
}

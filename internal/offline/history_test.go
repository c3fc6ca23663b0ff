package offline

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// A source's history has each row once, whatever was written again or lies in two files, with the values that it was given.
func TestHistory(t *testing.T) {
	w := manyFiles(t)
	s := open(t, w.blob)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	price := src.At["price"]
	read := func(from time.Time) (prices []float64) {
		t.Helper()
		var b bytes.Buffer
		if err := s.History(t.Context(), src, from, &b); err != nil {
			t.Fatal(err)
		}
		type pushed struct {
			Price *float64 `parquet:"price,optional"`
		}
		rows, err := parquet.Read[pushed](bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Price == nil {
				prices = append(prices, -1)
			} else {
				prices = append(prices, *r.Price)
			}
		}
		slices.Sort(prices)
		return prices
	}
	want := func(from int64) (prices []float64) {
		seen := map[uint64]bool{}
		for _, r := range w.rows["pushed"] {
			if seen[r.ID] || r.Event < from {
				continue
			}
			seen[r.ID] = true
			if v := r.Values[price]; v.Null() {
				prices = append(prices, -1)
			} else {
				prices = append(prices, v.Float())
			}
		}
		slices.Sort(prices)
		return prices
	}
	all := want(earliest)
	if got := read(time.Time{}); !slices.Equal(got, all) || len(all) == 0 {
		t.Errorf("got %d rows, want %d", len(got), len(all))
	}
	middle := slices.SortedFunc(slices.Values(w.rows["pushed"]), func(a, b feature.Row) int { return int(a.Event/1e6 - b.Event/1e6) })[len(w.rows["pushed"])/2].Event
	if got, part := read(time.UnixMicro(middle)), want(middle); !slices.Equal(got, part) || len(part) == len(all) {
		t.Errorf("from the middle on: got %d rows, want %d of %d", len(got), len(part), len(all))
	}
	for _, o := range objectsOf(t, w.blob, segment.Prefix("pushed")) {
		if err := w.blob.Delete(t.Context(), o.Key); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(time.Time{}); len(got) != 0 {
		t.Errorf("of an empty log: got %d rows", len(got))
	}
}

func objectsOf(t *testing.T, blob store.Blob, prefix string) (all []store.Object) {
	t.Helper()
	for o, err := range blob.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

package store_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// counted counts the keys that are listed.
type counted struct {
	store.Blob
	listed, lists int
}

func (c *counted) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	c.lists++
	return func(yield func(store.Object, error) bool) {
		for o, err := range c.Blob.List(ctx, prefix, after) {
			c.listed++
			if !yield(o, err) {
				return
			}
		}
	}
}

const moment = "20060102T150405.000"

// Whatever times objects are of, the newest are found, page by page, without a look at all of them.
func TestNewest(t *testing.T) {
	now := time.Now().UTC()
	line := store.Line{Prefix: "x/", Key: func(at time.Time) string { return "x/" + at.UTC().Format(moment) }}
	for _, test := range []struct {
		name string
		n    int
		at   func(i int) time.Time
	}{
		{"none", 0, nil},
		{"few", 30, func(i int) time.Time { return now.Add(-time.Duration(i) * time.Hour) }},
		{"one a minute", 6_000, func(i int) time.Time { return now.Add(-time.Duration(i) * time.Minute) }},
		{"thousands a second", 6_000, func(i int) time.Time { return now.Add(-time.Duration(i) * 100 * time.Microsecond) }},
		{"a burst long ago", 6_000, func(i int) time.Time { return now.AddDate(-1, 0, 0).Add(time.Duration(i) * time.Millisecond) }},
		{"two bursts", 6_000, func(i int) time.Time { return now.AddDate(0, -i%2, 0).Add(-time.Duration(i) * time.Millisecond) }},
		{"the future", 6_000, func(i int) time.Time { return now.AddDate(30, 0, 0).Add(time.Duration(i) * time.Second) }},
		{"anywhere", 6_000, func(int) time.Time { return time.UnixMilli(rand.Int64N(250e12)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			memory, err := memstore.OpenBlob(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			b := &counted{Blob: memory}
			var want []string
			for i := range test.n {
				key := fmt.Sprintf("%s-%08x", line.Key(test.at(i)), rand.Uint32())
				want = append(want, key)
				if _, err := b.Put(t.Context(), key, bytes.NewReader(nil), 0, store.Condition{}); err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(want)
			slices.Reverse(want)
			const page, pages = 50, 6
			end, until := "", time.Time{}
			for p := range pages { // pages
				got, err := line.Newest(t.Context(), b, "", end, until, page)
				if err != nil {
					t.Fatal(err)
				}
				rest := want[min(len(want), p*page):]
				if rest = rest[:min(len(rest), page)]; !slices.Equal(got, rest) {
					t.Fatalf("page %d: got %d from %q on, want %d from %q on", p, len(got), first(got), len(rest), first(rest))
				}
				if len(got) == 0 {
					break
				}
				end = got[len(got)-1]
				if until, err = time.Parse(moment, end[2:2+len(moment)]); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d keys listed in %d lists", b.listed, b.lists)
			if b.lists > pages*40 {
				t.Errorf("%d lists for %d pages", b.lists, pages)
			}
		})
	}
	t.Run("within bounds", func(t *testing.T) {
		b, err := memstore.OpenBlob(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			if _, err := b.Put(t.Context(), line.Key(now.Add(-time.Duration(i)*time.Minute))+"-0", bytes.NewReader(nil), 0, store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		from := line.Key(now.Add(-10*time.Minute - time.Second))
		got, err := line.Newest(t.Context(), b, from, line.Key(now.Add(-5*time.Minute)), now, 50)
		if err != nil || len(got) != 5 || got[0] != line.Key(now.Add(-6*time.Minute))+"-0" {
			t.Errorf("got %v %v, want those of five minutes", got, err)
		}
	})
}

func first(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[0]
}

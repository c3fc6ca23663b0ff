package payload_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// stretch writes one segment: predictions of a model with ids from a number on, each answered a second after the one before.
func stretch(t testing.TB, b store.Blob, model string, version, first, n int, from time.Time) {
	t.Helper()
	log := open(t, b, &sink{}, payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour})
	for i := range n {
		rows := 1 + (first+i)%3
		p := &payload.Prediction{
			ID: fmt.Sprint("p", first+i), Asked: from.Add(time.Duration(i) * time.Second), At: asked, Rows: rows,
			Given: []tensor.Tensor{tensor.Of("x", []int64{int64(rows)}, make([]int64, rows))},
		}
		if (first+i)%5 == 0 {
			p.Err, p.Rows, p.Given = errors.New("it failed"), 1, nil
		}
		log.Add(&payload.Origin{Model: model, Version: version, Sample: 1}, p)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// pages reads all pages of a list, and gives the ids with how many rows they have.
func pages(t *testing.T, b store.Blob, w payload.Wanted, limit int) (ids []string) {
	t.Helper()
	next := ""
	for range 1000 {
		l, err := payload.Newest(t.Context(), b, &w, next, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Predictions) > limit {
			t.Fatalf("a page of %d has %d", limit, len(l.Predictions))
		}
		for i, p := range l.Predictions {
			if i > 0 && p.Answered > l.Predictions[i-1].Answered {
				t.Errorf("%s stands behind one that is older", p.ID)
			}
			ids = append(ids, fmt.Sprintf("%s/%d", p.ID, p.Rows))
		}
		if next = l.Next; next == "" {
			return ids
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

// Each prediction is on one page, whatever the size of pages, and however the segments lie in time.
func TestNewest(t *testing.T) {
	for _, raw := range []string{"file://" + t.TempDir(), "s3"} {
		t.Run(raw[:2], func(t *testing.T) {
			if raw == "s3" {
				raw = storetest.S3URL(t)
			}
			b := backend(t, raw)
			from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			for i, at := range []time.Duration{0, time.Minute, 2 * time.Minute, 3 * time.Hour, 40 * 24 * time.Hour, 41 * 24 * time.Hour} {
				stretch(t, b, []string{"a", "b"}[i%2], 1+i%3, 100*i, 20, from.Add(at))
			}
			want := func(keep func(segment, n int) bool) (ids []string) {
				for i := 5; i >= 0; i-- {
					for n := 19; n >= 0; n-- {
						if keep(i, n) {
							rows := 1 + (100*i+n)%3
							if n%5 == 0 {
								rows = 1
							}
							ids = append(ids, fmt.Sprintf("p%d/%d", 100*i+n, rows))
						}
					}
				}
				return ids
			}
			all := func(int, int) bool { return true }
			for _, c := range []struct {
				name string
				w    payload.Wanted
				keep func(segment, n int) bool
			}{
				{"all", payload.Wanted{}, all},
				{"model", payload.Wanted{Model: "b"}, func(s, _ int) bool { return s%2 == 1 }},
				{"none", payload.Wanted{Model: "c"}, func(int, int) bool { return false }},
				{"version", payload.Wanted{Version: 2}, func(s, _ int) bool { return s%3 == 1 }},
				{"failed", payload.Wanted{Failed: true}, func(_, n int) bool { return n%5 == 0 }},
				{"from", payload.Wanted{From: from.Add(3*time.Hour + 10*time.Second)}, func(s, n int) bool { return s > 3 || s == 3 && n >= 10 }},
				{"until", payload.Wanted{Until: from.Add(time.Minute + 10*time.Second)}, func(s, n int) bool { return s == 0 || s == 1 && n < 10 }},
				{"span", payload.Wanted{From: from.Add(time.Hour), Until: from.Add(4 * time.Hour), Model: "b"}, func(s, _ int) bool { return s == 3 }},
				{"match", payload.Wanted{Match: func(r *payload.Row) bool { return r.ID == "p207" }}, func(s, n int) bool { return s == 2 && n == 7 }},
			} {
				for _, limit := range []int{1, 7, 500} {
					if limit == 1 && c.name != "span" || limit == 500 && strings.HasPrefix(raw, "s3") {
						continue // which would take long
					}
					if got, want := pages(t, b, c.w, limit), want(c.keep); !slices.Equal(got, want) {
						t.Errorf("%s by %d: got %d: %.300v\nwant %d: %.300v", c.name, limit, len(got), got, len(want), want)
					}
				}
			}
		})
	}
}

func backend(t *testing.T, raw string) store.Blob {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	openers := store.Openers[store.Blob]{"file": diskstore.OpenBlob, "s3": s3store.OpenBlob}
	b, err := openers.Open(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// A damaged segment costs no other, and is told of.
func TestNewestDamaged(t *testing.T) {
	b := newBucket(t)
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	stretch(t, b, "a", 1, 0, 3, from)
	stretch(t, b, "a", 1, 10, 3, time.Now()) // clocks may be ahead
	keys := []string{}
	for o, err := range b.List(t.Context(), payload.Inbox, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	if _, err := b.Put(t.Context(), keys[1], strings.NewReader("PAR1 and no more"), 16, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	l, err := payload.Newest(t.Context(), b, &payload.Wanted{}, "", 10)
	if err != nil || len(l.Predictions) != 3 || !slices.Equal(l.Damaged, keys[1:]) {
		t.Errorf("got %+v, %v", l, err)
	}
	rows, all, err := payload.Scan(t.Context(), b, "p1", 0, 1e18, nil)
	if err != nil || !all || len(rows) != 2 {
		t.Errorf("p1: got %v, %v, %v", rows, all, err)
	}
}

// What is looked for by id is found in its segment, with all of its rows, and not where others are passed over.
func TestFind(t *testing.T) {
	b := newBucket(t)
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 20 {
		stretch(t, b, "a", 1, 10*i, 10, from.Add(time.Duration(i)*time.Hour))
	}
	until := from.Add(7*time.Hour + 9*time.Second).UnixMicro() // of the last one of the segment
	for id, want := range map[string]int{"p73": 2, "p71": 3, "p63": 0, "": 0} {
		rows, err := payload.Find(t.Context(), b, id, until)
		if err != nil || len(rows) != want {
			t.Errorf("%q: got %d rows, %v, want %d", id, len(rows), err, want)
		}
		for i, r := range rows {
			if r.ID != id || int(r.Row) != i || r.Answered > until {
				t.Errorf("%q: row %d is %+v", id, i, r)
			}
		}
	}
	for _, c := range []struct {
		id    string
		from  int64
		skip  string
		found int
	}{{"p73", 0, "", 2}, {"p73", until, "", 2}, {"p73", until + 1, "", 0}, {"p73", 0, fmt.Sprint(until), 0}, {"none", 0, "", 0}} {
		rows, all, err := payload.Scan(t.Context(), b, c.id, c.from, 1e18, func(key string) bool { return c.skip != "" && strings.Contains(key, c.skip) })
		if err != nil || !all || len(rows) != c.found {
			t.Errorf("%+v: got %d rows, %t, %v", c, len(rows), all, err)
		}
	}
}

// Looking ends with whoever looks, and an error of the bucket is one of the look.
func TestNewestFails(t *testing.T) {
	b := newBucket(t)
	stretch(t, b, "a", 1, 0, 3, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	broken := &unreadable{b}
	if _, err := payload.Newest(t.Context(), broken, &payload.Wanted{}, "", 10); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	if _, _, err := payload.Scan(t.Context(), broken, "p1", 0, 1e18, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := payload.Newest(ctx, broken, &payload.Wanted{}, "", 10); err == nil {
		t.Error("a look of nobody goes on")
	}
}

// unreadable is a bucket that lists and gives nothing.
type unreadable struct{ store.Blob }

func (u *unreadable) Get(ctx context.Context, _ string, _, _ int64) (io.ReadCloser, store.Object, error) {
	if ctx.Err() != nil {
		return nil, store.Object{}, ctx.Err()
	}
	return nil, store.Object{}, fault.New(fault.Unavailable, "the bucket is away")
}

// After a long silence no more is listed before the newest is there than one look takes.
func TestNewestAfterSilence(t *testing.T) {
	b := newBucket(t)
	last := time.Now().Add(-60 * 24 * time.Hour)
	for i := range 30_000 { // as of three instances in a day
		key := fmt.Sprintf("%s%016d-%064x.parquet", payload.Inbox, last.Add(-time.Duration(i)*3*time.Second).UnixMicro(), i)
		if _, err := b.Put(t.Context(), key, strings.NewReader(""), 0, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := &listing{Blob: b}
	if _, err := payload.Newest(t.Context(), seen, &payload.Wanted{}, "", 10); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	if seen.keys == 0 || seen.keys > 15_000 {
		t.Errorf("%d keys were listed before anything was read", seen.keys)
	}
}

// listing counts keys that are listed, and gives no object.
type listing struct {
	store.Blob
	keys int
}

func (l *listing) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		for o, err := range l.Blob.List(ctx, prefix, after) {
			if l.keys++; !yield(o, err) {
				return
			}
		}
	}
}

func (l *listing) Get(context.Context, string, int64, int64) (io.ReadCloser, store.Object, error) {
	return nil, store.Object{}, fault.New(fault.Unavailable, "the bucket is away")
}

// Callers may say anything for the place that a page begins at.
func FuzzNext(f *testing.F) {
	b := newBucket(f)
	stretch(f, b, "a", 1, 0, 5, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	l, err := payload.Newest(context.Background(), b, &payload.Wanted{}, "", 2)
	if err != nil || l.Next == "" {
		f.Fatal(l, err)
	}
	for _, seed := range []string{"", l.Next, "1767323049000000-abc.parquet.0", "../x.1", "1767323049000000-a/b.1", "1767323049000000-x.-1", "9999999999999999-x.99999999999999999999", "0-x.1", ".", "\x00.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, next string) {
		l, err := payload.Newest(context.Background(), b, &payload.Wanted{}, next, 10)
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Fatal(err)
		}
		if err == nil && len(l.Predictions) > 5 {
			t.Fatal(len(l.Predictions))
		}
	})
}

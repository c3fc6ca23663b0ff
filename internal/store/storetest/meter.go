package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Meter runs the contract of store.Meter against new ones that open gives.
func Meter(t *testing.T, open func(t *testing.T) store.Meter) {
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	take := func(t *testing.T, m store.Meter, now time.Time, limits ...store.Limit) store.Verdict {
		t.Helper()
		v, err := m.Take(t.Context(), now, limits)
		if err != nil || len(v.Used) != len(limits) {
			t.Fatalf("got %+v %v", v, err)
		}
		return v
	}
	t.Run("a burst and no more", func(t *testing.T) {
		m := open(t)
		l := store.Limit{Key: "k", Every: time.Hour, Burst: 3}
		for i := range 3 {
			if v := take(t, m, noon, l); v.Why != store.Granted || v.Used[0].Left != 2-i {
				t.Errorf("request %d: got %+v", i, v)
			}
		}
		v := take(t, m, noon, l)
		if v.Why != store.TooFast || v.Refused != 0 || v.After <= 59*time.Minute || v.After > time.Hour || v.Used[0].Left != 0 || v.Used[0].Full > 3*time.Hour || v.Used[0].Full <= 179*time.Minute {
			t.Errorf("got %+v, want that it may come in an hour", v)
		}
		if v := take(t, m, noon, store.Limit{Key: "other", Every: time.Hour, Burst: 3}); v.Why != store.Granted {
			t.Errorf("somebody else: got %+v", v)
		}
	})
	t.Run("a rate over time", func(t *testing.T) {
		m := open(t)
		l := store.Limit{Key: "k", Every: 5 * time.Millisecond, Burst: 1}
		granted, begin := 0, time.Now()
		for time.Since(begin) < 300*time.Millisecond {
			if v := take(t, m, noon, l); v.Why == store.Granted {
				granted++
			} else {
				time.Sleep(v.After)
			}
		}
		if most := int(time.Since(begin)/l.Every) + 2; granted > most || granted < 2 {
			t.Errorf("%d were granted in %s, want at most %d", granted, time.Since(begin), most)
		}
	})
	t.Run("all limits or none", func(t *testing.T) {
		m := open(t)
		a, b := store.Limit{Key: "a", Every: time.Hour, Burst: 5}, store.Limit{Key: "b", Every: time.Hour, Burst: 1}
		take(t, m, noon, a, b)
		for range 3 {
			if v := take(t, m, noon, a, b); v.Why != store.TooFast || v.Refused != 1 || v.Used[0].Left != 4 {
				t.Errorf("got %+v, want that b refuses and nothing is taken of a", v)
			}
		}
		if v := take(t, m, noon, a); v.Why != store.Granted || v.Used[0].Left != 3 {
			t.Errorf("got %+v", v)
		}
	})
	t.Run("quotas of requests", func(t *testing.T) {
		m := open(t)
		l := store.Limit{Key: "k", Day: store.Amount{Requests: 2}, Month: store.Amount{Requests: 3}}
		take(t, m, noon.Add(-24*time.Hour), l)
		take(t, m, noon.Add(-24*time.Hour), l)
		if v := take(t, m, noon.Add(-24*time.Hour), l); v.Why != store.DayUsed || v.After < 12*time.Hour || v.After > 12*time.Hour+time.Second {
			t.Errorf("got %+v, want that the day is used up", v)
		}
		if v := take(t, m, noon, l); v.Why != store.Granted || v.Used[0].Day.Requests != 1 || v.Used[0].Month.Requests != 3 {
			t.Errorf("a new day: got %+v", v)
		}
		if v := take(t, m, noon, l); v.Why != store.MonthUsed || v.After < 12*time.Hour || v.After > 12*time.Hour+time.Second {
			t.Errorf("got %+v, want that the month is used up", v)
		}
		if v := take(t, m, noon.Add(-24*time.Hour), l); v.Why != store.MonthUsed || v.Used[0].Day.Requests != 1 {
			t.Errorf("a clock that is behind: got %+v", v)
		}
		if v := take(t, m, noon.Add(24*time.Hour), l); v.Why != store.Granted || v.Used[0].Month.Requests != 1 {
			t.Errorf("a new month: got %+v", v)
		}
	})
	t.Run("quotas of rows", func(t *testing.T) {
		m := open(t)
		l := store.Limit{Key: "k", Day: store.Amount{Rows: 100}}
		take(t, m, noon, l)
		add := func(key string, requests, rows int64) {
			t.Helper()
			if err := m.Add(t.Context(), noon, []store.Charge{{Key: key, Amount: store.Amount{Requests: requests, Rows: rows}}, {Key: "other", Amount: store.Amount{Rows: 1}}}); err != nil {
				t.Fatal(err)
			}
		}
		add("k", 0, 99)
		if v := take(t, m, noon, l); v.Why != store.Granted || v.Used[0].Day != (store.Amount{Requests: 2, Rows: 99}) {
			t.Errorf("got %+v", v)
		}
		add("k", 5, 50)
		if v := take(t, m, noon, l); v.Why != store.DayUsed || v.Used[0].Day != (store.Amount{Requests: 7, Rows: 149}) {
			t.Errorf("got %+v", v)
		}
		if v := take(t, m, noon, store.Limit{Key: "other", Month: store.Amount{Rows: 2}}); v.Why != store.MonthUsed || v.Used[0].Month.Rows != 2 {
			t.Errorf("got %+v", v)
		}
		if v := take(t, m, noon.Add(12*time.Hour), l); v.Why != store.Granted {
			t.Errorf("a new day: got %+v", v)
		}
	})
	t.Run("nothing is granted twice", func(t *testing.T) {
		m := open(t)
		l := store.Limit{Key: "k", Every: time.Hour, Burst: 50, Day: store.Amount{Requests: 40}}
		var granted atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 20 {
					v, err := m.Take(context.WithoutCancel(t.Context()), noon, []store.Limit{l})
					if err != nil {
						t.Error(err)
					} else if v.Why == store.Granted {
						granted.Add(1)
					}
				}
			})
		}
		all.Wait()
		if got := granted.Load(); got != 40 {
			t.Errorf("%d were granted, want 40", got)
		}
	})
	t.Run("no limits", func(t *testing.T) {
		if v := take(t, open(t), noon); v.Why != store.Granted {
			t.Errorf("got %+v", v)
		}
	})
	t.Run("over", func(t *testing.T) {
		m := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Take(ctx, noon, []store.Limit{{Key: "k"}}); err == nil {
			t.Error("a caller that is gone is granted something")
		}
	})
}

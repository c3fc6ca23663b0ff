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
		v, err := m.Take(t.Context(), now, limits, 0)
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
					v, err := m.Take(context.WithoutCancel(t.Context()), noon, []store.Limit{l}, 0)
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
	t.Run("ahead", func(t *testing.T) {
		m := open(t)
		fast := store.Limit{Key: "fast", Every: time.Hour, Burst: 10*store.AheadOf + 1}
		quota := store.Limit{Key: "quota", Day: store.Amount{Requests: 3*store.AheadOf + 1}, Month: store.Amount{Requests: 1 << 40}}
		for _, c := range []struct {
			limits      []store.Limit
			want, ahead int
		}{
			{[]store.Limit{fast}, 4, 4},          // as many as are wanted
			{[]store.Limit{fast}, 100, 9},        // or as there may be: 636 are left
			{[]store.Limit{fast, quota}, 100, 3}, // of each
			{[]store.Limit{quota}, 100, 2},       // 188 are left
			{[]store.Limit{quota}, -5, 0},        // never fewer than none
			{[]store.Limit{{Key: "none"}}, 7, 7}, // what is not limited
			{[]store.Limit{{Key: "one", Every: 1e9, Burst: 1}}, 100, 0},
		} {
			v, err := m.Take(t.Context(), noon, c.limits, c.want)
			if err != nil || v.Why != store.Granted || v.Ahead != c.ahead {
				t.Errorf("%d ahead of %+v: got %+v, %v, want %d", c.want, c.limits, v, err, c.ahead)
			}
		}
		if v := take(t, m, noon, fast); v.Used[0].Left != 10*store.AheadOf+1-5-10-4-1 {
			t.Errorf("%d are left", v.Used[0].Left)
		}
		if v := take(t, m, noon, quota); v.Used[0].Day.Requests != 4+3+1+1 || v.Used[0].Month.Requests != 9 {
			t.Errorf("got %+v", v)
		}
		full := store.Limit{Key: "quota", Day: store.Amount{Requests: 9}}
		if v, err := m.Take(t.Context(), noon, []store.Limit{fast, full}, 5); err != nil || v.Why != store.DayUsed || v.Ahead != 0 || v.Used[0].Left != 10*store.AheadOf+1-20 {
			t.Errorf("what is refused takes nothing ahead: got %+v, %v", v, err)
		}
		// What was not needed is given back, and no more than there is.
		for _, c := range []struct{ back, used int64 }{{3, 7}, {99, 1}} {
			if err := m.Add(t.Context(), noon, []store.Charge{{Key: "quota", Amount: store.Amount{Requests: -c.back}}}); err != nil {
				t.Fatal(err)
			}
			if v := take(t, m, noon, quota); v.Used[0].Day.Requests != c.used || v.Used[0].Month.Requests != c.used {
				t.Errorf("with %d given back: got %+v, want %d used", c.back, v, c.used)
			}
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
		if _, err := m.Take(ctx, noon, []store.Limit{{Key: "k"}}, 0); err == nil {
			t.Error("a caller that is gone is granted something")
		}
	})
}

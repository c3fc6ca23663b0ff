package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, away, slow := 0, error(nil), time.Duration(0)
		r := NewRecent(func(ctx context.Context) (int, error) {
			select {
			case <-time.After(slow):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			reads++
			return reads, away
		})
		get := func(what string, want int, oldest time.Duration, fails bool) {
			t.Helper()
			got, age, err := r.Get(t.Context())
			if got != want || age > oldest || (err != nil) != fails {
				t.Errorf("%s: got %d, %s old, %v; want %d, at most %s old, an error: %t", what, got, age, err, want, oldest, fails)
			}
			synctest.Wait()
		}
		get("the first waits", 1, 0, false)
		get("at once", 1, 0, false)
		time.Sleep(499 * time.Millisecond)
		get("young", 1, 499*time.Millisecond, false)
		time.Sleep(time.Millisecond)
		get("behind the back", 1, 500*time.Millisecond, false)
		get("and it is there", 2, 0, false)
		time.Sleep(time.Hour)
		if reads != 2 {
			t.Errorf("nobody asked, and it was read %d times", reads)
		}
		get("old: waits", 3, 0, false)
		r.Changed()
		get("changed: waits", 4, 0, false)

		away = errors.New("away")
		time.Sleep(time.Second)
		get("away", 4, time.Second, true)
		tries := reads
		for range 9 {
			time.Sleep(50 * time.Millisecond)
			get("away, not tried again yet", 4, time.Minute, true)
		}
		if reads != tries {
			t.Errorf("a store that is away was tried %d times in half a second", reads-tries)
		}
		away, slow = nil, time.Hour // it hangs
		time.Sleep(time.Second)
		waited := func(what string, want time.Duration, get func()) {
			t.Helper()
			before := time.Now()
			get()
			if got := time.Since(before); got != want {
				t.Errorf("%s: waited %s, want %s", what, got, want)
			}
		}
		for range 20 { // once a try has failed, it costs callers nothing
			waited("hangs", 0, func() { get("hangs", 4, time.Minute, true) })
			time.Sleep(300 * time.Millisecond)
		}
		slow = 0
		time.Sleep(3 * time.Second)
		waited("back", 0, func() { get("back, and nobody has looked", 4, time.Minute, true) })
		get("back", reads, 0, false)
		slow = time.Hour
		time.Sleep(time.Second)
		waited("hangs for the first time", recentWait, func() { get("hangs", reads, time.Minute, true) })
		time.Sleep(time.Hour)
		waited("hung long ago", recentWait, func() { get("hangs", reads, 2*time.Hour, true) })
		slow = 0
		time.Sleep(time.Hour)
		get("an hour later", reads+1, 0, false)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(time.Second)
		slow = time.Second
		if _, _, err := r.Get(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that the caller went away", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

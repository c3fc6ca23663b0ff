package offline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
)

func TestForgetRejected(t *testing.T) {
	blob := memBlob(t)
	s := open(t, blob)
	s.conf.Rejected = 72 * time.Hour
	var want []string
	for _, source := range []string{"a", "a-b", "ab", "gone"} {
		for days := range 6 {
			for i := range 2 {
				day := time.Now().UTC().AddDate(0, 0, -days).Format(time.DateOnly)
				key := fmt.Sprintf("%s%s/%s/%032x", feature.RejectedPrefix, source, day, i)
				put(t, blob, key, []byte("{}\n"))
				if days <= 3 {
					want = append(want, key)
				}
			}
		}
	}
	for i := range forgetMost { // more than are listed at once
		put(t, blob, fmt.Sprintf("%sold/2026-01-01/%032x", feature.RejectedPrefix, i), nil)
		put(t, blob, fmt.Sprintf("%sold/2026-01-02/%032x", feature.RejectedPrefix, i), nil)
	}
	stopped := open(t, stopAfter(blob, 500))
	stopped.conf.Rejected = s.conf.Rejected
	if _, err := stopped.ForgetRejected(t.Context()); err == nil {
		t.Error("a bucket that fails: no error")
	}
	left := 0 // a deletion under way when another one fails may be one that the bucket never sees
	for _, err := range blob.List(t.Context(), feature.RejectedPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		left++
	}
	if most := 4*2*6 + 2*forgetMost; left < most-500 || left >= most {
		t.Errorf("the bucket that fails after 500 deletions left %d objects of %d", left, most)
	}
	if n, err := s.ForgetRejected(t.Context()); err != nil || n != left-len(want) {
		t.Errorf("forgot %d objects, %v, want what the first call left, %d", n, err, left-len(want))
	}
	var got []string
	for o, err := range blob.List(t.Context(), feature.RejectedPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, o.Key)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("left is %q, want %q", got, want)
	}
	if n, err := s.ForgetRejected(t.Context()); err != nil || n != 0 {
		t.Errorf("once more: forgot %d, %v, want none", n, err)
	}
}

// What goes in steps leaves time for the rest of a tick, and goes on at the next one.
func TestHalf(t *testing.T) {
	slow := half(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := slow(ctx); err != nil {
		t.Errorf("when its half is over: got %v, want no error", err)
	}
	<-ctx.Done()
	if err := slow(ctx); !fault.Is(err, fault.Deadline) {
		t.Errorf("when all time is over: got %v, want that", err)
	}
	want := fault.New(fault.Unavailable, "away")
	fails := half(func(context.Context) error { return want })
	if err := fails(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// A tick forgets what sources rejected.
func TestTendForgets(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	s.conf.Rejected = time.Hour
	key := feature.RejectedPrefix + "pushed/2026-01-01/0"
	put(t, w.blob, key, nil)
	server := NewServer(s, w.catalog(t, w.defs.Set), nil, slog.New(slog.DiscardHandler))
	if err := server.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	for o, err := range w.blob.List(t.Context(), feature.RejectedPrefix, "") {
		t.Errorf("left is %s, %v", o.Key, err)
	}
}

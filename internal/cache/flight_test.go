package cache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// crowd is requests that are the same, each with what became of it.
type crowd struct {
	flights flights
	runs    []context.Context
	all     sync.WaitGroup
}

// send starts a request whose work takes a second, or ends with its context.
func (c *crowd) send(ctx context.Context, fail error) *result {
	r := &result{}
	if c.flights.of == nil {
		c.flights.of = map[Key]*flight{}
	}
	c.all.Go(func() {
		begin := time.Now()
		r.outputs, _, r.joined, r.err = c.flights.do(ctx, Key{}, func(ctx context.Context) ([]tensor.Tensor, Outcome, error) {
			c.runs = append(c.runs, ctx)
			select {
			case <-time.After(time.Second):
				return []tensor.Tensor{{Name: "answer"}}, Outcome{Status: Miss}, fail
			case <-ctx.Done():
				return nil, Outcome{}, ctx.Err()
			}
		})
		r.took = time.Since(begin)
	})
	synctest.Wait() // so that they come in order
	return r
}

type result struct {
	outputs []tensor.Tensor
	joined  bool
	err     error
	took    time.Duration
}

func (r *result) check(t *testing.T, joined bool, err error, took time.Duration) {
	t.Helper()
	if r.joined != joined || !errors.Is(r.err, err) || r.took != took || err == nil && len(r.outputs) != 1 {
		t.Errorf("got %d outputs, joined %v, %v after %v, want joined %v, %v after %v", len(r.outputs), r.joined, r.err, r.took, joined, err, took)
	}
}

func (c *crowd) end(t *testing.T, runs int) {
	t.Helper()
	c.all.Wait()
	if len(c.runs) != runs {
		t.Errorf("got %d runs, want %d", len(c.runs), runs)
	}
	if len(c.flights.of) != 0 {
		t.Errorf("%d flights are left", len(c.flights.of))
	}
}

func TestSameRequestsShareARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		first := c.send(t.Context(), nil)
		time.Sleep(time.Second / 4)
		second, third := c.send(t.Context(), nil), c.send(t.Context(), nil)
		c.all.Wait()
		first.check(t, false, nil, time.Second)
		second.check(t, true, nil, 3*time.Second/4)
		third.check(t, true, nil, 3*time.Second/4)
		fourth := c.send(t.Context(), nil)
		c.end(t, 2)
		fourth.check(t, false, nil, time.Second)
	})
}

func TestErrorIsSharedByThoseThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		broken := errors.New("broken")
		first, second := c.send(t.Context(), broken), c.send(t.Context(), nil)
		c.end(t, 1)
		first.check(t, false, broken, time.Second)
		second.check(t, true, broken, time.Second)
	})
}

func TestOneThatWaitsLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		first, second := c.send(t.Context(), nil), c.send(short, nil)
		c.end(t, 1)
		first.check(t, false, nil, time.Second)
		second.check(t, true, context.DeadlineExceeded, time.Second/2)
	})
}

func TestRunGoesOnForThoseThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		gone, leave := context.WithCancel(t.Context())
		c.send(gone, nil)
		second := c.send(t.Context(), nil)
		time.Sleep(time.Second / 2)
		leave()
		third := c.send(t.Context(), nil)
		c.end(t, 1)
		second.check(t, true, nil, time.Second)
		third.check(t, true, nil, time.Second/2)
	})
}

func TestRunEndsWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		gone, leave := context.WithCancel(t.Context())
		goneToo, leaveToo := context.WithCancel(t.Context())
		first, second := c.send(gone, nil), c.send(goneToo, nil)
		leave()
		time.Sleep(time.Second / 2)
		if c.runs[0].Err() != nil {
			t.Error("the run ended though somebody waits")
		}
		leaveToo()
		c.end(t, 1)
		first.check(t, false, context.Canceled, time.Second/2)
		second.check(t, true, context.Canceled, time.Second/2)
	})
}

func TestDeadlineOfTheFirstIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crowd
		short, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		first, second, third := c.send(short, nil), c.send(t.Context(), nil), c.send(t.Context(), nil)
		c.end(t, 2)
		first.check(t, false, context.DeadlineExceeded, time.Second/2)
		for _, r := range []*result{second, third} {
			if r.err != nil || r.took != 3*time.Second/2 {
				t.Errorf("got %v after %v, want an answer after 1.5s", r.err, r.took)
			}
		}
	})
}

func TestPanicLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := crowd{flights: flights{of: map[Key]*flight{}}}
		c.all.Go(func() {
			defer func() { _ = recover() }()
			_, _, _, _ = c.flights.do(t.Context(), Key{}, func(context.Context) ([]tensor.Tensor, Outcome, error) {
				time.Sleep(time.Second / 2)
				panic("broken")
			})
		})
		synctest.Wait()
		second := c.send(t.Context(), nil)
		c.end(t, 1)
		second.check(t, false, nil, 3*time.Second/2)
	})
}

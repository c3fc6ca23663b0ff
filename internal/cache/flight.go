package cache

import (
	"context"
	"sync"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// flights lets identical requests share one piece of work.
//
// The first of them does it on its own goroutine, for what it works on is that
// request's memory; the others wait. When the first one's caller goes away, the
// work goes on as long as somebody waits and is cancelled when nobody does. When
// the first one's own time runs out, it leaves as every request does, and one of
// those that wait begins anew.
type flights struct {
	mu sync.Mutex
	of map[Key]*flight
}

type flight struct {
	cancel  context.CancelFunc
	waiting int  // others than the first
	left    bool // the first one's caller is gone

	// done is closed when the rest is set.
	done      chan struct{}
	outputs   []tensor.Tensor
	outcome   Outcome
	err       error
	abandoned bool // the end came from the first one, not from the work
}

type work func(ctx context.Context) ([]tensor.Tensor, Outcome, error)

// do does the work, or waits for the one that does it already.
func (g *flights) do(ctx context.Context, key Key, do work) (outputs []tensor.Tensor, o Outcome, joined bool, err error) {
	for {
		g.mu.Lock()
		f := g.of[key]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			ctx, f.cancel = detach(ctx, f, g)
			g.of[key] = f
			g.mu.Unlock()
			g.lead(ctx, key, f, do)
			return f.outputs, f.outcome, false, f.err
		}
		f.waiting++
		g.mu.Unlock()
		select {
		case <-f.done:
			if !f.abandoned {
				return f.outputs, f.outcome, true, f.err
			}
		case <-ctx.Done():
			g.leave(func() { f.waiting-- }, f)
			return nil, Outcome{}, true, ctx.Err()
		}
	}
}

// lead does the work and wakes those that wait, also when it panics.
func (g *flights) lead(ctx context.Context, key Key, f *flight, do work) {
	f.abandoned = true
	defer func() {
		g.mu.Lock()
		delete(g.of, key)
		g.mu.Unlock()
		close(f.done)
		f.cancel()
	}()
	f.outputs, f.outcome, f.err = do(ctx)
	// A refusal is for the first one's time and place in the queue, too.
	f.abandoned = f.err != nil && ctx.Err() != nil || fault.Is(f.err, fault.Unavailable)
}

// leave notes that one is gone, and ends the work if that was the last.
func (g *flights) leave(note func(), f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if note(); f.left && f.waiting == 0 {
		f.cancel()
	}
}

// detach gives the context of the work: that of the first request, but for the
// end of its caller.
func detach(ctx context.Context, f *flight, g *flights) (context.Context, context.CancelFunc) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if deadline, ok := ctx.Deadline(); ok {
		detached, cancel = context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	stop := context.AfterFunc(ctx, func() { g.leave(func() { f.left = true }, f) })
	return detached, func() { stop(); cancel() }
}

// busy reports whether somebody does the work now.
func (g *flights) busy(key Key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.of[key] != nil
}

package gate

import (
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

const (
	tripAfter = 5                // failures in a row
	openFirst = time.Second      // how long nobody is sent there
	openMost  = 30 * time.Second // each time twice as long
	idleAfter = 10 * time.Second // of silence, after which a function may be at zero
	wakeGuess = 5 * time.Second  // before it was ever seen to start
)

// backend is what the gateway knows of a function at a URL. It is safe for concurrent use.
type backend struct {
	name string
	now  func() time.Time

	mu       sync.Mutex
	failures int
	opened   time.Time     // when it was last found broken
	open     time.Duration // for how long; 0: it is not
	probing  bool          // one request tries whether it is well again
	answered time.Time     // when it last answered
	wake     time.Duration // how long its start takes, a moving average
}

// allow lets a request go there, or says how long the function is left alone.
func (b *backend) allow() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == 0 {
		return nil
	}
	left := b.opened.Add(b.open).Sub(b.now())
	if left > 0 || b.probing {
		return fault.Again(fault.New(fault.Unavailable, "the function %s does not work at the moment", b.name), max(left, time.Second))
	}
	b.probing = true
	return nil
}

// outcome notes how a request that was allowed ended: whether the function works, and whether it answered at all.
func (b *backend) outcome(began time.Time, works, answers bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	now := b.now()
	if answers {
		if took := now.Sub(began); b.answered.IsZero() || began.Sub(b.answered) > idleAfter {
			if b.wake == 0 {
				b.wake = took
			}
			b.wake += (took - b.wake) / 4
		}
		b.answered = now
	}
	if works {
		b.failures, b.open = 0, 0
		return
	}
	if b.failures++; b.failures >= tripAfter {
		b.opened, b.open = now, min(max(openFirst, 2*b.open), openMost)
	}
}

// gaveUp notes a request that was not waited for to its end, which tells nothing.
func (b *backend) gaveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

// starting tells whether the function has not answered anybody since a request began, after a silence, and if so how long it may still take.
func (b *backend) starting(began time.Time) (left time.Duration, yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.answered.IsZero() && began.Sub(b.answered) <= idleAfter {
		return 0, false
	}
	wake := b.wake
	if wake == 0 {
		wake = wakeGuess
	}
	return max(wake-b.now().Sub(began), time.Second), true
}

// budget bounds retries to a share of requests.
type budget struct {
	share float64

	mu   sync.Mutex
	left float64
}

const budgetMost = 10 // retries that may come at once

// request counts one in.
func (b *budget) request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.left+b.share, budgetMost)
}

// retry takes one, if there is one left.
func (b *budget) retry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

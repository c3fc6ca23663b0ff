package store

import (
	"context"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// How old what Recent gives may be, as long as the store answers.
const (
	recentSoon = 500 * time.Millisecond // it is read again behind the caller's back
	recentMost = time.Second            // the caller waits
	recentWait = 2 * time.Second        // for so long
	recentHold = 5 * time.Second        // after a try that failed nobody waits: it goes on behind the callers' backs
)

// Recent keeps a small thing of a store in memory and reads it again when it is asked for, not by
// a timer: a process that nobody asks reads nothing. What it gives is at most a second old, unless the store
// does not answer. It is safe for concurrent use.
type Recent[T any] struct {
	read func(context.Context) (T, error)

	mu      sync.Mutex
	value   T
	at      time.Time     // before it was last read; zero: never
	tried   time.Time     // before it was last tried to
	failed  error         // of the last try
	ended   time.Time     // when that was
	reading chan struct{} // closed when the read under way is over; nil: none is
	closed  bool
	now     func() time.Time
}

// NewRecent gives what read reads. Reads are never at the same time, and have a context of their own.
func NewRecent[T any](read func(context.Context) (T, error)) *Recent[T] {
	return &Recent[T]{read: read, now: time.Now}
}

// Get gives the thing and how old it is. Where the store does not answer, it gives the last that was read and the
// error of the try: whether that is good enough is for the caller to say. Before the first success there is only the error.
func (r *Recent[T]) Get(ctx context.Context) (value T, age time.Duration, err error) {
	r.mu.Lock()
	now := r.now()
	age = now.Sub(r.at)
	if age < recentSoon {
		value = r.value
		r.mu.Unlock()
		return value, age, nil
	}
	if r.reading == nil && !r.closed && now.Sub(r.tried) >= recentSoon {
		r.reading, r.tried = make(chan struct{}), now
		go r.refresh(r.reading, now)
	}
	waits := r.failed == nil || now.Sub(r.ended) >= recentHold
	if reading := r.reading; reading != nil && age >= recentMost && waits {
		r.mu.Unlock()
		select {
		case <-reading:
		case <-ctx.Done():
			return value, age, ctx.Err()
		}
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	age = r.now().Sub(r.at)
	if age >= recentMost {
		err = r.failed
	}
	return r.value, age, err
}

// Changed has the next Get read again.
func (r *Recent[T]) Changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.at.IsZero() {
		r.at = r.at.Add(-recentMost)
	}
	r.tried, r.failed = time.Time{}, nil
}

func (r *Recent[T]) refresh(done chan struct{}, at time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), recentWait)
	defer cancel()
	var value T
	err := fault.Guard(func() (err error) {
		value, err = r.read(ctx)
		return err
	})()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = r.now()
	if r.failed = err; err == nil {
		r.value, r.at = value, at
	}
	r.reading = nil
	close(done)
}

// Close waits for a read under way, and has no other begun.
func (r *Recent[T]) Close() error {
	r.mu.Lock()
	r.closed = true
	reading := r.reading
	r.mu.Unlock()
	if reading != nil {
		<-reading
	}
	return nil
}

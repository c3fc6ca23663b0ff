package telemetry

import (
	"sync"
	"sync/atomic"
	"time"
)

// Pace learns how long something takes that is done again and again, so as to tell the slowest hundredth of it. The
// zero value knows nothing yet, and calls nothing slow. It is safe for concurrent use; of two that come
// at the same moment it may forget one.
type Pace struct {
	bound atomic.Int64 // ns: about one in a hundred takes longer
	seen  atomic.Int32 // how often it was done, up to paceLeast
}

// paceLeast is how much has to be seen before anything is slow.
const paceLeast = 64

// Slow takes note of a duration, and tells whether it is one of the slowest.
func (p *Pace) Slow(d time.Duration) bool {
	bound, x := p.bound.Load(), int64(d)
	if n := p.seen.Load(); n < paceLeast {
		p.seen.Store(n + 1)
		p.bound.Store(max(bound, x))
		return false
	}
	// A step up for one that is slower is as large as ninety-nine steps down: so the bound comes to rest where one in a hundred is.
	step := max(bound>>5, 99)
	if x > bound {
		p.bound.Store(bound + step)
		return true
	}
	p.bound.Store(bound - step/99)
	return false
}

// rate bounds how often something is done in a second.
type rate struct {
	most int // 0: there is no bound

	mu     sync.Mutex
	second int64
	used   int
}

func (r *rate) take(now time.Time) bool {
	if r.most == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := now.Unix(); s != r.second {
		r.second, r.used = s, 0
	}
	if r.used >= r.most {
		return false
	}
	r.used++
	return true
}

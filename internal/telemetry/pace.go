package telemetry

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Pace learns how long something takes that is done again and again, so as to tell the slowest hundredth of it. The
// zero value knows nothing yet, and calls nothing slow. It is safe for concurrent use; of two that come
// at the same moment it may forget one.
type Pace struct {
	bound atomic.Int64 // ns: about one in a hundred takes longer
	seen  atomic.Int32 // how often it was done, up to paceSure
}

const (
	// paceCold are left out: those that come while something is loaded take as long as that, which tells nothing of others.
	paceCold = 32
	// paceLeast is how much has to be seen before anything is slow.
	paceLeast = 64
	// paceSure is how much has to be seen before the steps are small ones, as a few of the first tell little.
	paceSure = 4096
)

// Slow takes note of a duration, and tells whether it is one of the slowest.
func (p *Pace) Slow(d time.Duration) bool {
	bound, x := p.bound.Load(), int64(d)
	shift := 5
	if n := p.seen.Load(); n < paceSure {
		p.seen.Store(n + 1)
		if n < paceLeast {
			if n >= paceCold {
				p.bound.Store(max(bound, x))
			}
			return false
		}
		shift = max(bits.Len32(uint32(n))-8, 0) // from the whole bound on, halved whenever twice as much was seen
	}
	// A step up for one that is slower is as large as ninety-nine steps down: so the bound comes to rest where one in a hundred is.
	step := max(bound>>shift, 99)
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

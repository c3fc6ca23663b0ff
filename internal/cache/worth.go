package cache

import (
	"math"
	"sync/atomic"
	"time"
)

// average is a moving average that forgets soon: a model that was loaded on the
// way must not seem slow for long. Updates that race lose one of them.
type average struct{ bits atomic.Uint64 }

func (a *average) add(d time.Duration) {
	next := float64(d)
	if old := a.get(); old > 0 {
		next = old + (next-old)/8
	}
	a.bits.Store(math.Float64bits(next))
}

func (a *average) get() float64 { return math.Float64frombits(a.bits.Load()) }

const (
	// trial is after how many lookups it is decided anew whether they pay.
	trial = 64
	// pause is how many requests then go without, per lookup of a trial: what does
	// not pay costs a thirty-third of what it would.
	pause = 32
)

// level tells whether lookups at one level of the cache pay.
type level struct {
	asked  atomic.Int64
	skip   atomic.Int64 // requests still to go without
	before atomic.Int64 // hits up to the last decision
	cost   average      // for each request that looks here, beside what it finds
}

// wanted reports whether the next request should look here.
func (l *level) wanted() bool { return l.skip.Load() <= 0 || l.skip.Add(-1) < 0 }

// ask counts a lookup, and decides after each trial whether to go on. hits gives
// all hits so far; run is what a hit saves. A trial without a hit is no proof
// that there are none, so the rule of succession gives the benefit of the doubt.
func (l *level) ask(hits func() int64, run *average) (n int64) {
	n = l.asked.Add(1)
	if n%trial != 0 {
		return n
	}
	now := hits()
	ratio := min(1, float64(now-l.before.Swap(now)+1)/(trial+2))
	if saved := ratio * run.get(); saved > 0 && saved < l.cost.get() {
		l.skip.Store(trial * pause)
	}
	return n
}

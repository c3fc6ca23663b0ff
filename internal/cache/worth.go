package cache

import (
	"math"
	"sync/atomic"
	"time"
)

// average is a moving average that forgets soon, as a model that was loaded on
// the way must not seem slow for long, and takes nothing for more than four times
// what it knows, as one that lost the CPU for a while must not either. Updates
// that race lose one of them.
type average struct{ bits atomic.Uint64 }

func (a *average) add(d time.Duration) {
	next := float64(d)
	if old := a.get(); old > 0 {
		next = old + (min(next, 4*old)-old)/8
	}
	a.bits.Store(math.Float64bits(next))
}

func (a *average) get() float64 { return math.Float64frombits(a.bits.Load()) }

// pays reports whether asked lookups, hits of them good for a run, saved more
// than they cost. No hit is no proof that there are none: the rule of succession
// gives the benefit of the doubt. So does what was never measured.
func pays(hits, asked int64, run, cost *average) bool {
	saved := min(1, float64(hits+1)/float64(asked+2)) * run.get()
	return saved == 0 || saved >= cost.get()
}

// trials decide about the whole cache, key and all: where a trial does not pay,
// the requests after it go without, until the next one. What trials store stays,
// so that in time they see what all requests would.
type trials struct {
	asked  atomic.Int64
	skip   atomic.Int64 // requests still to go without
	before atomic.Int64 // hits up to the last decision
	cost   average      // of the cache for a request, beside what the run and the store take
}

const (
	trial = 1024 // requests
	pause = 16   // trials that a pause is long: what does not pay costs a seventeenth of what it would
)

func (t *trials) wanted() bool { return t.skip.Load() <= 0 || t.skip.Add(-1) < 0 }

// ask counts a request, and decides after each trial. hits gives all hits so far.
func (t *trials) ask(hits func() int64, run *average) (n int64) {
	if n = t.asked.Add(1); n%trial == 0 {
		now := hits()
		if !pays(now-t.before.Swap(now), trial, run, &t.cost) {
			t.skip.Store(trial * pause)
		}
	}
	return n
}

// sample decides about the store by a sixteenth of all keys, which always go
// there: so it sees the share of hits that all would have, whether they go or not.
type sample struct {
	asked, hits atomic.Int64 // since the last decision
	poor        atomic.Bool
	cost        average // of a lookup
}

const sampleLeast = 64 // lookups for a decision

func sampled(key Key) bool { return key[0]%16 == 0 }

func (s *sample) wanted(key Key) bool { return sampled(key) || !s.poor.Load() }

func (s *sample) saw(key Key, hit bool, run *average) {
	if !sampled(key) {
		return
	}
	if hit {
		s.hits.Add(1)
	}
	if n := s.asked.Add(1); n >= sampleLeast && s.asked.CompareAndSwap(n, 0) {
		s.poor.Store(!pays(s.hits.Swap(0), n, run, &s.cost))
	}
}

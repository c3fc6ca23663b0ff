// Package pulse is what models are doing right now: how many requests each version answered in the last two minutes, how many it
// could not, and how long answers took, over all instances.
//
// Each instance counts in memory, in slots of two seconds: an answer costs it an addition. While there is traffic it writes its slots
// every two seconds into a KV that instances share (Board); whoever wants to know adds them up (View). What is written is for looking
// at, and is forgotten within minutes: a KV that is away costs the view of others, and nothing else. An instance that nobody asks
// for a model writes nothing. All of it is safe for concurrent use.
package pulse

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Every is how long a slot is.
	Every = 2 * time.Second
	// Slots is how many are remembered.
	Slots = 60
)

// slotOf numbers the slot that a moment lies in.
func slotOf(t time.Time) int64 { return t.Unix() / int64(Every/time.Second) }

// endOf is when a slot is over.
func endOf(slot int64) time.Time { return time.Unix((slot+1)*int64(Every/time.Second), 0) }

// Answers are counted by how long they took: four bins for each power of two of microseconds, so that what is said of
// them is within a quarter.
const (
	binsOf = 4
	bins   = 27 * binsOf // the last of them from 235 s on
)

func binOf(took time.Duration) int {
	us := uint64(max(took, 0)) / 1000
	if us < binsOf {
		return int(us)
	}
	n := bits.Len64(us) - 3 // so that us>>n has three bits, the first of them set
	return min((n+1)*binsOf+int(us>>n)-binsOf, bins-1)
}

// edgeOf is the least number of microseconds in a bin.
func edgeOf(bin int) float64 {
	if bin < binsOf {
		return float64(bin)
	}
	return float64(uint64(binsOf+bin%binsOf) << (bin/binsOf - 1))
}

// tally is what happened in a slot.
type tally struct {
	failures uint64
	bins     [bins]uint64 // of answers
}

func (t *tally) add(o *tally) {
	if o == nil {
		return
	}
	t.failures += o.failures
	for i, n := range o.bins {
		t.bins[i] += n
	}
}

func (t *tally) answers() (n uint64) {
	for _, b := range t.bins {
		n += b
	}
	return n
}

// quantile gives the microseconds that a share of the answers did not take longer than, as near as bins tell; 0: there were none.
func (t *tally) quantile(q float64) float64 {
	rank := q * float64(t.answers())
	for i, n := range t.bins {
		if n == 0 {
			continue
		}
		if rank <= float64(n) {
			low := edgeOf(i)
			return low + (edgeOf(i+1)-low)*rank/float64(n)
		}
		rank -= float64(n)
	}
	return 0
}

// Counter counts what a version answers.
type Counter struct {
	now atomic.Pointer[counting]

	mu   sync.Mutex
	past []packed // of slots that are over and in which something happened, oldest first: Slots at most
}

// counting is a slot under way, or that was until just now.
type counting struct {
	slot     int64
	before   *counting // that nobody has packed yet; touched with Counter.mu alone
	failures atomic.Uint32
	bins     [bins]atomic.Uint32
}

// packed is a slot that is over.
type packed struct {
	slot     int64
	failures uint32
	bins     []packedBin
}

type packedBin struct {
	bin uint8
	n   uint32
}

// Answered counts an answer that was given at a moment.
func (c *Counter) Answered(at time.Time, took time.Duration) { c.at(at).bins[binOf(took)].Add(1) }

// Failed counts a request that could not be answered.
func (c *Counter) Failed(at time.Time) { c.at(at).failures.Add(1) }

// at gives the slot to count in. One who comes late counts in the next.
func (c *Counter) at(t time.Time) *counting {
	slot := slotOf(t)
	if s := c.now.Load(); s != nil && (s.slot == slot || s.slot == slot+1) {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.now.Load()
	if s != nil && (s.slot == slot || s.slot == slot+1) {
		return s
	}
	if s != nil && s.before != nil { // those who count in it have long done so
		if p := s.before.pack(); !p.empty() {
			c.past = append(c.past[max(len(c.past)-Slots+1, 0):], p)
		}
		s.before = nil
	}
	next := &counting{slot: slot, before: s}
	c.now.Store(next)
	return next
}

func (s *counting) pack() packed {
	p := packed{slot: s.slot, failures: s.failures.Load()}
	for i := range s.bins {
		if n := s.bins[i].Load(); n > 0 {
			p.bins = append(p.bins, packedBin{uint8(i), n})
		}
	}
	return p
}

func (p *packed) empty() bool { return p.failures == 0 && len(p.bins) == 0 }

// forget lets go of slots before a number: a version that nobody asks any more takes next to nothing.
func (c *Counter) forget(before int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past = slices.DeleteFunc(c.past, func(p packed) bool { return p.slot < before }); len(c.past) == 0 {
		c.past = nil
	}
	s := c.now.Load()
	switch {
	case s == nil:
	case s.slot < before:
		c.now.Store(nil)
	case s.before != nil && s.before.slot < before:
		s.before = nil
	}
}

// since gives the slots from a number on in which something happened.
func (c *Counter) since(first int64) (all []packed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.past {
		if p.slot >= first {
			all = append(all, p)
		}
	}
	s := c.now.Load()
	if s == nil {
		return all
	}
	for _, s := range []*counting{s.before, s} {
		if s == nil || s.slot < first {
			continue
		}
		if p := s.pack(); !p.empty() {
			all = append(all, p)
		}
	}
	return all
}

package queue

import (
	"math/bits"
	"time"
)

// average is a moving average.
type average struct {
	value float64
	n     int
}

const (
	recent  = 16 // samples that an average is about
	outlier = 8  // times the average that one sample counts for at most: the machine was elsewhere
)

func (a *average) add(v float64) {
	if a.n++; a.n > recent {
		v = min(v, outlier*a.value)
	}
	a.value += (v - a.value) / float64(min(a.n, recent))
}

// curve is what has been learned of how long a model takes for how many rows.
type curve struct {
	perRow [11]average // nanoseconds a row, of runs with 2^i to 2^(i+1)-1 rows; the last: and more
	asked  int
}

const (
	gain  = 0.95 // of the time of a row is little enough to join more
	first = 0.9  // and of that of a row alone to join at all: all of a joined run wait until its last row is done
	known = 3    // samples that an average must have to be believed
	// settled is how many it must have of rows alone: others are compared with it, and a model's first runs are slow.
	settled = 2 * recent
	// probe is how often, in decisions, more rows are tried than have been worth it.
	probe = 256
	// recheck is how often, in decisions, fewer rows are run than are thought to be best: what was learned of them would else stand for
	// ever where all that comes is joined. It costs little, as the others have theirs in the next run.
	recheck = 32
)

func bucket(rows int64) int {
	return min(bits.Len64(uint64(max(rows, 1)))-1, len(curve{}.perRow)-1)
}

func (c *curve) record(rows int64, took time.Duration) {
	if rows > 0 {
		c.perRow[bucket(rows)].add(float64(took) / float64(rows))
	}
}

// expect tells how long so many rows are going to take, by the runs of that size
// or else of the next smaller one that is known.
func (c *curve) expect(rows int64) (took time.Duration, ok bool) {
	for i := bucket(rows); i >= 0; i-- {
		if c.perRow[i].n >= known {
			return time.Duration(c.perRow[i].value * float64(max(rows, 1))), true
		}
	}
	return 0, false
}

// most gives up to how many rows a request of so many is worth joining with
// others: to the size at which a row is cheapest, of those that each make it cheaper
// than all smaller ones. The size behind it is tried if it is not known yet. Now and
// then two sizes more are: for joining two takes copies that only joining four may repay,
// and what was learned while the machine was elsewhere has to be forgotten.
func (c *curve) most(rows int64) int64 {
	c.asked++
	probing, checking := c.asked%probe == 0, c.asked%recheck == recheck/2
	least := bucket(rows)
	best := least
	if c.perRow[best].n < settled {
		return rows // alone first, to compare with
	}
	for i := best + 1; i < len(c.perRow); i++ {
		if c.perRow[i].n < known {
			if i == best+1 {
				best = i
			}
			break
		}
		enough := gain
		if best == least {
			enough = first
		}
		if c.perRow[i].value <= enough*c.perRow[best].value {
			best = i
		}
	}
	switch {
	case checking && best > least:
		if best = least + c.asked/recheck%(best-least); best == least {
			return rows
		}
	case probing:
		best = min(best+2, len(c.perRow)-1)
	}
	return 1<<(best+1) - 1
}

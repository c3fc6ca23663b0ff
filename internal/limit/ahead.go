package limit

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// A gateway of a caller who asks again and again takes requests of theirs ahead, so that not each of them waits for a round trip: twice as many each time
// that all were needed within a moment, and none where they were not. As they are taken before they are granted, no more is
// ever granted than the limits say; what is not needed is given back to quotas, and lost to rates, which make up for it.
const (
	aheadFor  = 100 * time.Millisecond
	aheadMost = 63     // at once
	whoMost   = 10_000 // take ahead at the same time
)

// ahead is what this gateway has taken ahead.
type ahead struct {
	mu  sync.Mutex
	all map[who]*advance
}

// who is whose limits they are: the keys of all that bound a request.
type who [3]string

func whoOf(limits []store.Limit) (w who, ok bool) {
	for i := range limits {
		if i == len(w) || limits[i].Day.Rows > 0 || limits[i].Month.Rows > 0 { // how many rows there will be nobody knows
			return w, false
		}
		w[i] = limits[i].Key
	}
	return w, true
}

// advance is one of somebody's.
type advance struct {
	limits []store.Limit
	used   []store.Used // when it was taken, with all of it
	size   int          // how many it was
	left   int
	until  time.Time
}

// take grants a request that was taken ahead. If there is none it says how many to take with this one.
func (a *ahead) take(limits []store.Limit, now time.Time) (v store.Verdict, granted bool, want int) {
	w, ok := whoOf(limits)
	if !ok {
		return v, false, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	had := a.all[w]
	if had == nil || !now.Before(had.until) || !slices.Equal(had.limits, limits) {
		return v, false, 0
	}
	if had.left == 0 {
		return v, false, min(2*had.size+1, aheadMost)
	}
	had.left--
	v.Used = lessOf(had.used, limits, had.left)
	return v, true, 0
}

// lessOf is what is used of limits without so many requests that were taken ahead.
func lessOf(used []store.Used, limits []store.Limit, n int) []store.Used {
	used = slices.Clone(used)
	for i := range used {
		u, l := &used[i], &limits[i]
		if l.Every > 0 {
			u.Left += n
			u.Full = max(0, u.Full-time.Duration(n)*l.Every)
		}
		if l.Day.Requests > 0 || l.Month.Requests > 0 {
			u.Day.Requests -= int64(n)
			u.Month.Requests -= int64(n)
		}
	}
	return used
}

// put keeps what was taken with a request, or only that there was one; back is called with what was not needed when its time is over, unless that is nothing.
func (a *ahead) put(limits []store.Limit, v *store.Verdict, now time.Time, back func(limits []store.Limit, n int)) {
	w, ok := whoOf(limits)
	if !ok {
		return
	}
	until := now.Add(aheadFor)
	if _, _, dayEnds, _ := store.Days(now); dayEnds.Before(until) {
		until = dayEnds
	}
	next := &advance{limits: limits, used: v.Used, size: v.Ahead, left: v.Ahead, until: until}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch had := a.all[w]; {
	case had == nil:
		if len(a.all) >= whoMost {
			maps.DeleteFunc(a.all, func(_ who, old *advance) bool { return !now.Before(old.until) })
		}
		if len(a.all) >= whoMost && next.left == 0 {
			return
		}
	case had.left > 0 && now.Before(had.until) && slices.Equal(had.limits, limits): // somebody else took some at the same time
		next.left, had.left = next.left+had.left, 0
	}
	a.all[w] = next
	if v.Ahead > 0 && slices.ContainsFunc(limits, func(l store.Limit) bool { return l.Day != (store.Amount{}) || l.Month != (store.Amount{}) }) {
		time.AfterFunc(until.Sub(now), func() { a.over(next, back) })
	}
}

// over ends an advance.
func (a *ahead) over(of *advance, back func(limits []store.Limit, n int)) {
	a.mu.Lock()
	n := of.left
	of.left = 0
	a.mu.Unlock()
	if n > 0 {
		back(of.limits, n)
	}
}

// close ends all of them.
func (a *ahead) close(back func(limits []store.Limit, n int)) {
	a.mu.Lock()
	all := a.all
	a.all = map[who]*advance{}
	a.mu.Unlock()
	for _, of := range all {
		a.over(of, back)
	}
}

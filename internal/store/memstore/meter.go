package memstore

import (
	"context"
	"math"
	"net/url"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Meter = (*Meter)(nil)

// Meter is a store.Meter in memory.
type Meter struct {
	clock   func() time.Time
	mu      sync.Mutex
	taken   map[string]*taken
	changed map[string]struct{} // whose counts Changed has not told yet
	sweepAt int
}

// taken is what somebody took.
type taken struct {
	full       time.Time // when a whole burst may come again
	day, month int64     // that the counts are of
	byDay      store.Amount
	byMonth    store.Amount
}

// OpenMeter gives a new Meter that has counted nothing; the URL means nothing to it.
func OpenMeter(context.Context, *url.URL) (store.Meter, error) { return NewMeter(), nil }

// NewMeter is OpenMeter.
func NewMeter() *Meter {
	return &Meter{clock: time.Now, taken: map[string]*taken{}, changed: map[string]struct{}{}, sweepAt: minSweep}
}

// of gives the counts of somebody, from anew where their time is over.
func (m *Meter) of(key string, day, month int64) *taken {
	t := m.taken[key]
	if t == nil {
		if len(m.taken) >= m.sweepAt {
			m.sweep(day, month)
		}
		t = &taken{}
		m.taken[key] = t
	}
	if t.day < day {
		t.day, t.byDay = day, store.Amount{}
	}
	if t.month < month {
		t.month, t.byMonth = month, store.Amount{}
	}
	return t
}

// sweep forgets those who have nothing left to remember.
func (m *Meter) sweep(day, month int64) {
	now := m.clock()
	for key, t := range m.taken {
		if t.full.Before(now) && (t.byDay == store.Amount{} || t.day < day) && (t.byMonth == store.Amount{} || t.month < month) {
			delete(m.taken, key)
			delete(m.changed, key)
		}
	}
	m.sweepAt = max(minSweep, 2*len(m.taken))
}

// Take takes requests.
func (m *Meter) Take(ctx context.Context, now time.Time, limits []store.Limit, ahead int) (store.Verdict, error) {
	if err := ctx.Err(); err != nil {
		return store.Verdict{}, err
	}
	day, month, dayEnds, monthEnds := store.Days(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	clock := m.clock()
	v := store.Verdict{Used: make([]store.Used, len(limits))}
	for i := range limits {
		l := &limits[i]
		t := m.of(l.Key, day, month)
		if v.Why != store.Granted {
			continue
		}
		late := later(t.full, clock).Add(l.Every).Sub(clock) - time.Duration(l.Burst)*l.Every
		ahead = min(ahead, roomOf(l, t, late)/store.AheadOf)
		switch {
		case l.Every > 0 && late > 0:
			v.Why, v.After = store.TooFast, late
		case used(t.byDay, l.Day):
			v.Why, v.After = store.DayUsed, dayEnds.Sub(now)
		case used(t.byMonth, l.Month):
			v.Why, v.After = store.MonthUsed, monthEnds.Sub(now)
		}
		v.Refused = i
	}
	if v.Why == store.Granted {
		v.Refused, v.Ahead = 0, max(0, ahead)
	}
	for i := range limits {
		l := &limits[i]
		t := m.taken[l.Key]
		if v.Why == store.Granted {
			if l.Day != (store.Amount{}) || l.Month != (store.Amount{}) {
				t.byDay.Requests += 1 + int64(v.Ahead)
				t.byMonth.Requests += 1 + int64(v.Ahead)
				m.changed[l.Key] = struct{}{}
			}
			if l.Every > 0 {
				t.full = later(t.full, clock).Add(l.Every * time.Duration(1+v.Ahead))
			}
		}
		v.Used[i] = store.Used{Day: t.byDay, Month: t.byMonth}
		if l.Every > 0 {
			full := max(0, t.full.Sub(clock))
			v.Used[i].Full, v.Used[i].Left = full, int(max(0, time.Duration(l.Burst)*l.Every-full)/l.Every)
		}
	}
	return v, nil
}

// roomOf is how many requests a limit leaves behind one more; late is by how much that one comes too early.
func roomOf(l *store.Limit, t *taken, late time.Duration) int {
	room := math.MaxInt
	if l.Every > 0 {
		room = int(-late / l.Every)
	}
	for _, c := range [...]struct{ quota, used int64 }{{l.Day.Requests, t.byDay.Requests}, {l.Month.Requests, t.byMonth.Requests}} {
		if c.quota > 0 {
			room = min(room, int(c.quota-c.used-1))
		}
	}
	return room
}

func used(a, of store.Amount) bool {
	return of.Requests > 0 && a.Requests >= of.Requests || of.Rows > 0 && a.Rows >= of.Rows
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Add adds to what was used.
func (m *Meter) Add(ctx context.Context, now time.Time, charges []store.Charge) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	day, month, _, _ := store.Days(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range charges {
		t := m.of(c.Key, day, month)
		for _, a := range []*store.Amount{&t.byDay, &t.byMonth} {
			a.Requests = max(0, a.Requests+c.Requests)
			a.Rows += c.Rows
		}
		m.changed[c.Key] = struct{}{}
	}
	return nil
}

// Changed tells what was counted of those whose counts have changed since it was last asked.
func (m *Meter) Changed() []store.Counted {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []store.Counted
	for key := range m.changed {
		if t := m.taken[key]; t != nil {
			all = append(all, store.Counted{Key: key, Day: t.day, Month: t.month, ByDay: t.byDay, ByMonth: t.byMonth})
		}
	}
	clear(m.changed)
	return all
}

// Restore has a new meter go on from what another one has told.
func (m *Meter) Restore(counted []store.Counted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range counted {
		m.taken[c.Key] = &taken{day: c.Day, month: c.Month, byDay: c.ByDay, byMonth: c.ByMonth}
	}
	m.sweepAt = max(minSweep, 2*len(m.taken))
}

// Close forgets all of it.
func (m *Meter) Close() error { return nil }

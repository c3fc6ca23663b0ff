package limit

import (
	"fmt"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// What is told of quotas is bounded, names nobody who is not to be named, and forgets a day that is over.
func TestQuotasAreToldOfTheFew(t *testing.T) {
	now := time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)
	l := &Limiter{now: func() time.Time { return now }, seen: otter.Must(&otter.Options[string, use]{MaximumSize: seenMost})}
	put := func(key string, used, daily, monthly int64, at time.Time) {
		amount := func(n int64) store.Amount { return store.Amount{Requests: n} }
		l.seen.Set(key, use{store.Used{Day: amount(used), Month: amount(used)}, store.Limit{Day: amount(daily), Month: amount(monthly)}, at})
	}
	for i := range 1000 {
		put(fmt.Sprintf("caller:key-%d", i), int64(i), 1000, 0, now)
		put(fmt.Sprintf("model:m-%d", i), int64(i), 1000, 0, now)
		put(fmt.Sprintf("tenant:t-%d", i), int64(i), 1000, 0, now)
	}
	put("tenant:shop", 300, 100, 600, now.Add(-24*time.Hour)) // who spent yesterday's quota, of which the month has a part
	tell := func() map[string]float64 {
		told := map[string]float64{}
		for _, s := range l.quotas() {
			told[s.scope+" "+s.name] = s.share
		}
		return told
	}
	told := tell()
	if len(told) != 23 || told["model m-999"] != .999 || told["model m-980"] != .98 || told["model other"] != .979 || told["caller other"] != .999 || told["tenant other"] != .999 {
		t.Errorf("got %v", told)
	}
	l.names = true
	if told = tell(); len(told) != 43 || told["tenant t-999"] != .999 || told["tenant other"] != .979 {
		t.Errorf("with names: got %v", told)
	}
	now = now.Add(30 * time.Minute)
	put("tenant:full", 700, 0, 700, now)
	if told = tell(); told["tenant full"] != 1 {
		t.Errorf("got %v", told)
	}
	now = now.Add(time.Hour) // another day, of another month
	for name, share := range tell() {
		if share != 0 {
			t.Errorf("of the next month %s has used %g", name, share)
		}
	}
}

package store

import (
	"context"
	"time"
)

// Meter counts what many take of limits that they share. All methods are safe for concurrent use, also by
// several processes where the backend is shared.
type Meter interface {
	// Take takes one request from all limits, or from none: then the verdict names the first that refuses. It is one round trip. Up to ahead further
	// ones are taken with it for a caller who wishes to grant them by itself: as many as are no more than one in AheadOf of what is left of each limit.
	// What is counted by the day and by the month is counted from anew when that is over, by the UTC of the caller's now; a caller whose clock is
	// behind others' counts for their day. What is metered by rate goes by the clock of the backend.
	Take(ctx context.Context, now time.Time, limits []Limit, ahead int) (Verdict, error)
	// Add adds to what was used of quotas, whether they allow it or not, or takes off what was taken ahead and not used, but no more than there is. Keys that nothing was taken of yet begin with it.
	Add(ctx context.Context, now time.Time, charges []Charge) error
	// Close lets go of connections. No call may be under way or follow.
	Close() error
}

// AheadOf is of how many requests that are left of a limit one may be taken ahead.
const AheadOf = 64

// Limit is how much may be taken by somebody.
type Limit struct {
	Key   string        // whose it is
	Every time.Duration // between two requests, over time; 0: as often as they like
	Burst int           // requests that may come at once beside a positive Every, at least 1
	Day   Amount        // 0: any
	Month Amount
}

// Amount is what quotas count.
type Amount struct{ Requests, Rows int64 }

// Charge is what somebody has used.
type Charge struct {
	Key string
	Amount
}

// Counted is what somebody has used of quotas, in the day and the month of these numbers.
type Counted struct {
	Key        string
	Day, Month int64
	ByDay      Amount
	ByMonth    Amount
}

// Used is how much of a limit is taken, this request included if it was granted.
type Used struct {
	Left  int           // requests that may come at once now; of limits without Every: 0
	Full  time.Duration // until Burst of them may
	Day   Amount
	Month Amount
}

// Why says what of a limit refuses a request.
type Why int

// The reasons.
const (
	Granted Why = iota
	TooFast
	DayUsed   // a daily quota is used up
	MonthUsed // a monthly one
)

// Verdict is the answer to a request.
type Verdict struct {
	Why     Why
	Refused int           // the limit that refuses, unless it is Granted
	After   time.Duration // until it may be granted
	Used    []Used        // by limit
	Ahead   int           // requests that were taken beside this one; they count in Used
}

// Days gives the numbers of a moment's day and month, in UTC, and when they are over.
func Days(now time.Time) (day, month int64, dayEnds, monthEnds time.Time) {
	now = now.UTC()
	y, m, d := now.Date()
	return now.Unix() / 86400, int64(y)*12 + int64(m), time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
}

package store

import (
	"cmp"
	"context"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Stamp orders the rows of one key: by the time that a row is of, then by the
// time it was made. Both are microseconds since 1970 and, so that every backend
// holds them exactly, smaller than 2^53. The zero Stamp stands for no row.
type Stamp struct{ Event, Created int64 }

// Compare is negative where s is before o, positive where it is after, else 0.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.Event, o.Event), cmp.Compare(s.Created, o.Created))
}

// OnlineRow is the newest that is known of one key.
type OnlineRow struct {
	Key   string // 1 to 1024 bytes, any
	Stamp Stamp
	Value []byte
	TTL   time.Duration // of a row that is written, from then on; 0: for ever
}

// OnlineKeyMost is how many bytes the key of an OnlineRow may have.
const OnlineKeyMost = 1024

// Check refuses a row that some backend could not hold, or could not compare.
func (r *OnlineRow) Check() error {
	const most = 1<<53 - 1
	switch {
	case r.Key == "" || len(r.Key) > OnlineKeyMost:
		return fault.New(fault.Invalid, "the key of a row has 1 to %d bytes, not %d", OnlineKeyMost, len(r.Key))
	case r.Stamp == Stamp{}:
		return fault.New(fault.Invalid, "row %.100q has no stamp", r.Key)
	case max(r.Stamp.Event, r.Stamp.Created) > most || min(r.Stamp.Event, r.Stamp.Created) < -most:
		return fault.New(fault.Invalid, "row %.100q: the stamp (%d, %d) has more than 53 bits", r.Key, r.Stamp.Event, r.Stamp.Created)
	case r.TTL < 0:
		return fault.New(fault.Invalid, "row %.100q: a time to live is not negative", r.Key)
	}
	return nil
}

// Online keeps one row for each key, the newest. Each row is put atomically, a
// batch is not: after an error some of it may have been stored, and the caller
// repeats it, which changes nothing that was done. All methods are safe for
// concurrent use, also by several processes where the backend is shared.
type Online interface {
	// Read puts the rows of keys behind dst, in their order and in one round trip.
	// A missing or expired one has its key alone. Values are the caller's.
	Read(ctx context.Context, keys []string, dst []OnlineRow) ([]OnlineRow, error)
	// Write puts each row unless its key has one with the same or a later stamp, and
	// tells which were put.
	Write(ctx context.Context, rows []OnlineRow) (stored []bool, err error)
	// Replace puts each row whose key still is as it was read: with the stamp was[i],
	// the zero one for none. It tells which were put; one that is there already, by
	// an attempt whose answer was lost, was.
	Replace(ctx context.Context, rows []OnlineRow, was []Stamp) (stored []bool, err error)
	// Delete removes keys; a missing one is no error.
	Delete(ctx context.Context, keys []string) error
	// Close lets go of connections and files. No call may be under way or follow.
	Close() error
}

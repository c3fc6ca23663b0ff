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

// After reports whether s is later than o.
func (s Stamp) After(o Stamp) bool { return s.Compare(o) > 0 }

// OnlineRow is the newest that is known of one key.
type OnlineRow struct {
	Key   string // 1 to 1024 bytes, any
	Stamp Stamp
	Value []byte
	TTL   time.Duration // of a row that is written, from then on; 0: for ever. Read does not give it
}

// OnlineKeyMost is how many bytes the key of an OnlineRow may have.
const OnlineKeyMost = 1024

// Check refuses a row that some backend could not hold, or could not compare.
func (r *OnlineRow) Check() error {
	const most = 1<<53 - 1
	if err := checkOnlineKey(r.Key); err != nil {
		return err
	}
	switch {
	case r.Stamp == Stamp{}:
		return fault.New(fault.Invalid, "row %.100q has no stamp", r.Key)
	case max(r.Stamp.Event, r.Stamp.Created) > most || min(r.Stamp.Event, r.Stamp.Created) < -most:
		return fault.New(fault.Invalid, "row %.100q: the stamp (%d, %d) has more than 53 bits", r.Key, r.Stamp.Event, r.Stamp.Created)
	case r.TTL < 0:
		return fault.New(fault.Invalid, "row %.100q: a time to live is not negative", r.Key)
	}
	return nil
}

func checkOnlineKey(key string) error {
	if key == "" || len(key) > OnlineKeyMost {
		return fault.New(fault.Invalid, "the key of a row has 1 to %d bytes, not %d", OnlineKeyMost, len(key))
	}
	return nil
}

// CheckOnlineKeys refuses keys under which no Online holds a row.
func CheckOnlineKeys(keys []string) error {
	for _, key := range keys {
		if err := checkOnlineKey(key); err != nil {
			return err
		}
	}
	return nil
}

// CheckWrite refuses rows that can't be written.
func CheckWrite(rows []OnlineRow) error {
	for i := range rows {
		if err := rows[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// CheckReplace refuses rows that can't take the place of those with the stamps was.
func CheckReplace(rows []OnlineRow, was []Stamp) error {
	if len(was) != len(rows) {
		return fault.New(fault.Invalid, "%d rows come with %d stamps of those that they replace", len(rows), len(was))
	}
	for i := range rows {
		if (was[i] != Stamp{}) && !rows[i].Stamp.After(was[i]) {
			return fault.New(fault.Invalid, "row %.100q: its stamp is not later than that of the row it replaces", rows[i].Key)
		}
	}
	return CheckWrite(rows)
}

// Online keeps one row for each key, the newest; an expired one is none. Each row
// is put atomically, a batch is not. One with a row or key that is not valid is
// Invalid and changes nothing; after any other error some of it may have been
// stored. All methods are safe for concurrent use, also by several processes
// where the backend is shared.
type Online interface {
	// Read puts the rows of keys behind dst, in their order and in one round trip.
	// A missing or expired one has its key alone. Values are the caller's; those of
	// one call may share memory.
	Read(ctx context.Context, keys []string, dst []OnlineRow) ([]OnlineRow, error)
	// Write puts each row unless its key has one with the same or a later stamp, and
	// tells which were put. A key may stand in a batch more than once. After an
	// error it can be repeated: that stores no row twice.
	Write(ctx context.Context, rows []OnlineRow) (stored []bool, err error)
	// Replace puts each row whose key still is as it was read: with the stamp was[i],
	// the zero one for none. A row's own stamp must be later (else Invalid), so that
	// the same stamp always means the same row. Of rivals that replace one row, be
	// they equal to the last byte, exactly one is told that its row was put. A key
	// stands in a batch once.
	//
	// After an error the caller can't know which rows were put, and reads them
	// again: a value that must count each event once has to hold what it counted.
	Replace(ctx context.Context, rows []OnlineRow, was []Stamp) (stored []bool, err error)
	// Delete removes keys; a missing one is no error.
	Delete(ctx context.Context, keys []string) error
	// Close lets go of connections and files. No call may be under way or follow.
	Close() error
}

// Hashes reads what others keep in hashes: named fields under each key. It is
// safe for concurrent use.
type Hashes interface {
	// Read gives in values[i][j] the field fields[i][j] of keys[i], nil where that is
	// missing, in one round trip. A key that holds something else is Internal.
	Read(ctx context.Context, keys []string, fields [][]string) (values [][][]byte, err error)
	// Close lets go of connections. No call may be under way or follow.
	Close() error
}

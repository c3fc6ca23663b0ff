package diskstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Online = (*Online)(nil)

// Online is a store.Online in one bbolt file. A batch is one transaction, and
// batches that come at the same time share one commit.
type Online struct {
	db    *bolt.DB
	swept []byte // the key that the search for expired rows goes on from; write transactions only
}

// rowHead is what lies before a row's value: its stamp, and when it expires in
// nanoseconds since 1970 (0: never), big-endian.
const rowHead = 24

// diskRow is a row as it lies in the file.
type diskRow []byte

func newDiskRow(r *store.OnlineRow, now time.Time) diskRow {
	d := make(diskRow, 0, rowHead+len(r.Value))
	d = binary.BigEndian.AppendUint64(d, uint64(r.Stamp.Event))
	d = binary.BigEndian.AppendUint64(d, uint64(r.Stamp.Created))
	expires := int64(0)
	if r.TTL > 0 {
		expires = now.Add(r.TTL).UnixNano()
	}
	d = binary.BigEndian.AppendUint64(d, uint64(expires))
	return append(d, r.Value...)
}

func (d diskRow) stamp() store.Stamp {
	return store.Stamp{Event: int64(binary.BigEndian.Uint64(d)), Created: int64(binary.BigEndian.Uint64(d[8:]))}
}

func (d diskRow) live(now time.Time) bool {
	if len(d) < rowHead {
		return false
	}
	expires := int64(binary.BigEndian.Uint64(d[16:]))
	return expires == 0 || now.UnixNano() < expires
}

// OpenOnline opens the rows in the folder that u names (file:///folder).
func OpenOnline(_ context.Context, u *url.URL) (store.Online, error) {
	dir, err := folder(u)
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(dir, onlineFile), 0o666, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fault.Wrap(fault.Unavailable, err, "store URL %q: another process holds the rows in this folder", u.Redacted())
	}
	if err != nil {
		return nil, diskFault(err)
	}
	db.MaxBatchDelay = batchWait
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(items)
		return err
	})
	if err != nil {
		return nil, errors.Join(diskFault(err), db.Close())
	}
	return &Online{db: db}, nil
}

// Read gives rows.
func (o *Online) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return dst, err
	}
	if err := store.CheckOnlineKeys(keys); err != nil {
		return dst, err
	}
	dst = slices.Grow(dst, len(keys))
	found := dst[len(dst) : len(dst)+len(keys)]
	err := o.db.View(func(tx *bolt.Tx) error {
		b, now, size := tx.Bucket(items), time.Now(), 0
		var name []byte
		for i, key := range keys {
			found[i] = store.OnlineRow{Key: key}
			name = append(name[:0], key...)
			if d := diskRow(b.Get(name)); d.live(now) {
				found[i].Stamp, found[i].Value = d.stamp(), d[rowHead:]
				size += len(d) - rowHead
			}
		}
		values := make([]byte, 0, size) // one piece of memory for all, that outlives the transaction
		for i := range found {
			if (found[i].Stamp != store.Stamp{}) {
				start := len(values)
				values = append(values, found[i].Value...)
				found[i].Value = values[start:len(values):len(values)]
			}
		}
		return nil
	})
	if err != nil {
		return dst, diskFault(err)
	}
	return dst[:len(dst)+len(keys)], nil
}

// Write puts rows that are newer.
func (o *Online) Write(ctx context.Context, rows []store.OnlineRow) ([]bool, error) {
	if err := store.CheckWrite(rows); err != nil {
		return nil, err
	}
	return o.put(ctx, rows, func(i int, there store.Stamp) bool {
		return there == store.Stamp{} || rows[i].Stamp.After(there)
	})
}

// Replace puts rows in the place of known ones.
func (o *Online) Replace(ctx context.Context, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	if err := store.CheckReplace(rows, was); err != nil {
		return nil, err
	}
	return o.put(ctx, rows, func(i int, there store.Stamp) bool { return there == was[i] })
}

func (o *Online) put(ctx context.Context, rows []store.OnlineRow, may func(i int, there store.Stamp) bool) ([]bool, error) {
	if err := ctx.Err(); err != nil || len(rows) == 0 {
		return nil, err
	}
	stored := make([]bool, len(rows))
	err := o.db.Batch(func(tx *bolt.Tx) error { // which may call this more than once
		b, now := tx.Bucket(items), time.Now()
		for i := range rows {
			there := store.Stamp{}
			if d := diskRow(b.Get([]byte(rows[i].Key))); d.live(now) {
				there = d.stamp()
			}
			if stored[i] = may(i, there); !stored[i] {
				continue
			}
			if err := b.Put([]byte(rows[i].Key), newDiskRow(&rows[i], now)); err != nil {
				return err
			}
		}
		return o.sweep(b, now, sweepStep*len(rows))
	})
	if err != nil {
		return nil, diskFault(err)
	}
	return stored, nil
}

// sweep drops those of the next rows that have expired.
func (o *Online) sweep(b *bolt.Bucket, now time.Time, steps int) error {
	var expired [][]byte
	c := b.Cursor()
	key, value := c.Seek(o.swept)
	for ; steps > 0 && key != nil; steps-- {
		if !diskRow(value).live(now) {
			expired = append(expired, bytes.Clone(key))
		}
		key, value = c.Next()
	}
	o.swept = bytes.Clone(key) // nil at the end: from the start again
	for _, key := range expired {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes rows.
func (o *Online) Delete(ctx context.Context, keys []string) error {
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return err
	}
	if err := store.CheckOnlineKeys(keys); err != nil {
		return err
	}
	err := o.db.Batch(func(tx *bolt.Tx) error {
		for _, key := range keys {
			if err := tx.Bucket(items).Delete([]byte(key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return diskFault(err)
	}
	return nil
}

// Close closes the file.
func (o *Online) Close() error { return o.db.Close() }

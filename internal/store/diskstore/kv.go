package diskstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.KV = (*KV)(nil)

// KV is a store.KV in one bbolt file. Writers that come at the same time share
// one commit.
type KV struct {
	db    *bolt.DB
	swept []byte // the key that the search for expired items goes on from; write transactions only
}

var items = []byte("items")

const (
	// lockWait is how long Open waits for another process to let go of the file:
	// enough for one that is just ending.
	lockWait = time.Second
	// batchWait is how long a writer waits for others to share its commit with;
	// small beside the commit itself.
	batchWait = 500 * time.Microsecond
	// sweepStep is how many items each Put looks at for expired ones. At 4, they
	// are never more than about a third of the live ones.
	sweepStep = 4
	// pageItems and pageBytes bound what Scan takes from one read transaction.
	pageItems = 256
	pageBytes = 1 << 20
)

// OpenKV opens the items in the folder that u names (file:///folder).
func OpenKV(_ context.Context, u *url.URL) (store.KV, error) {
	db, err := openFile(u, kvFile)
	if err != nil {
		return nil, err
	}
	return &KV{db: db}, nil
}

// openFile opens a bbolt file, with one bucket in it, in the folder that u names.
func openFile(u *url.URL, name string) (*bolt.DB, error) {
	dir, err := folder(u)
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(dir, name), 0o666, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fault.Wrap(fault.Unavailable, err, "store URL %q: another process holds the file %s in this folder", u.Redacted(), name)
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
	return db, nil
}

// Get reads one item.
func (k *KV) Get(ctx context.Context, key string) (store.Item, error) {
	if err := check(ctx, key); err != nil {
		return store.Item{}, err
	}
	var e entry
	err := k.db.View(func(tx *bolt.Tx) error {
		e = entry(bytes.Clone(tx.Bucket(items).Get([]byte(key))))
		return nil
	})
	if err != nil {
		return store.Item{}, diskFault(err)
	}
	if !e.live(time.Now()) {
		return store.Item{}, missing(key)
	}
	return e.item(key), nil
}

// Put writes one item.
func (k *KV) Put(ctx context.Context, key string, value []byte, ttl time.Duration, c store.Condition) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	if ttl < 0 {
		return "", fault.New(fault.Invalid, "key %q: a time to live is not negative", key)
	}
	var version string
	err := k.change(key, c, func(b *bolt.Bucket, now time.Time) error {
		if err := k.sweep(b, now); err != nil {
			return err
		}
		seq, err := b.NextSequence()
		if err != nil {
			return err
		}
		e := newEntry(value, seq, now, ttl)
		version = e.version()
		return b.Put([]byte(key), e)
	})
	return version, err
}

// Delete removes one item.
func (k *KV) Delete(ctx context.Context, key string, c store.Condition) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	return k.change(key, c, func(b *bolt.Bucket, _ time.Time) error { return b.Delete([]byte(key)) })
}

// change runs f in a write transaction that it shares with others, if c holds.
func (k *KV) change(key string, c store.Condition, f func(b *bolt.Bucket, now time.Time) error) error {
	var holds bool
	err := k.db.Batch(func(tx *bolt.Tx) error {
		// An error would undo what the others did and make them repeat it, so a
		// condition that does not hold is none.
		b, now := tx.Bucket(items), time.Now()
		var version string
		if e := entry(b.Get([]byte(key))); e.live(now) {
			version = e.version()
		}
		if holds = c.Holds(version); !holds {
			return nil
		}
		return f(b, now)
	})
	if err != nil {
		return diskFault(err)
	}
	if !holds {
		return conflict(key)
	}
	return nil
}

// sweep removes the expired ones of the next few items, round and round.
func (k *KV) sweep(b *bolt.Bucket, now time.Time) error {
	var expired [][]byte
	c := b.Cursor()
	key, value := c.Seek(k.swept)
	for range sweepStep {
		if key == nil {
			break
		}
		if !entry(value).live(now) {
			expired = append(expired, bytes.Clone(key))
		}
		key, value = c.Next()
	}
	k.swept = bytes.Clone(key) // nil at the end: from the start again
	for _, key := range expired {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// Scan visits the items in order of their keys.
func (k *KV) Scan(ctx context.Context, prefix string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		// A transaction must not stay open while the caller's loop runs: a Put in
		// there could wait for it for ever.
		for next := []byte(prefix); next != nil; {
			if err := ctx.Err(); err != nil {
				yield(store.Item{}, err)
				return
			}
			var page []store.Item
			err := k.db.View(func(tx *bolt.Tx) error {
				page, next = readPage(tx.Bucket(items).Cursor(), next, []byte(prefix))
				return nil
			})
			if err != nil {
				yield(store.Item{}, diskFault(err))
				return
			}
			for _, i := range page {
				if err := ctx.Err(); err != nil {
					yield(store.Item{}, err)
					return
				}
				if !yield(i, nil) {
					return
				}
			}
		}
	}
}

// readPage copies the live items from key start on, and gives the key that the
// next page starts with, or nil.
func readPage(c *bolt.Cursor, start, prefix []byte) (page []store.Item, next []byte) {
	now := time.Now()
	size := 0
	key, value := c.Seek(start)
	for ; key != nil && bytes.HasPrefix(key, prefix); key, value = c.Next() {
		if len(page) == pageItems || size > pageBytes {
			return page, bytes.Clone(key)
		}
		if entry(value).live(now) {
			page = append(page, entry(bytes.Clone(value)).item(string(key)))
			size += len(value)
		}
	}
	return page, nil
}

// Close closes the file.
func (k *KV) Close() error { return k.db.Close() }

// entry is an item as the file holds it: when it expires, in Unix nanoseconds or
// 0 for never; its version, counted through the whole file; the value.
type entry []byte

const entryHead = 16

func newEntry(value []byte, seq uint64, now time.Time, ttl time.Duration) entry {
	var expires int64
	if ttl > 0 {
		expires = now.Add(ttl).UnixNano()
	}
	e := make(entry, 0, entryHead+len(value))
	e = binary.BigEndian.AppendUint64(e, uint64(expires))
	e = binary.BigEndian.AppendUint64(e, seq)
	return append(e, value...)
}

func (e entry) live(now time.Time) bool {
	if len(e) < entryHead {
		return false // no entry
	}
	expires := int64(binary.BigEndian.Uint64(e))
	return expires == 0 || now.UnixNano() < expires
}

func (e entry) version() string { return strconv.FormatUint(binary.BigEndian.Uint64(e[8:]), 36) }

func (e entry) item(key string) store.Item {
	return store.Item{Key: key, Value: e[entryHead:], Version: e.version()}
}

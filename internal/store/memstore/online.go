package memstore

import (
	"bytes"
	"context"
	"hash/maphash"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Online = (*Online)(nil)

// shards is how many parts an Online has, each with a lock of its own.
const shards = 64

// Online is a store.Online in memory.
type Online struct {
	seed  maphash.Seed
	parts [shards]struct {
		sync.RWMutex
		rows   map[string]onlineRow
		writes int // since expired ones were looked for
	}
}

type onlineRow struct {
	stamp   store.Stamp
	value   []byte
	expires time.Time // zero: never
}

func (r onlineRow) live(now time.Time) bool { return r.expires.IsZero() || now.Before(r.expires) }

// OpenOnline makes an empty store.
func OpenOnline(context.Context, *url.URL) (store.Online, error) {
	o := &Online{seed: maphash.MakeSeed()}
	for i := range o.parts {
		o.parts[i].rows = map[string]onlineRow{}
	}
	return o, nil
}

func (o *Online) part(key string) int { return int(maphash.String(o.seed, key) % shards) }

// Read gives rows.
func (o *Online) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	if err := ctx.Err(); err != nil {
		return dst, err
	}
	if err := store.CheckOnlineKeys(keys); err != nil {
		return dst, err
	}
	now, size := time.Now(), 0
	dst = slices.Grow(dst, len(keys))
	found := dst[len(dst) : len(dst)+len(keys)]
	for i, key := range keys {
		found[i] = store.OnlineRow{Key: key}
		p := &o.parts[o.part(key)]
		p.RLock()
		r, ok := p.rows[key]
		p.RUnlock()
		if ok && r.live(now) {
			found[i].Stamp, found[i].Value = r.stamp, r.value
			size += len(r.value)
		}
	}
	values := make([]byte, 0, size) // one piece of memory for all
	for i := range found {
		if (found[i].Stamp != store.Stamp{}) {
			start := len(values)
			values = append(values, found[i].Value...)
			found[i].Value = values[start:len(values):len(values)]
		}
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := time.Now()
	stored := make([]bool, len(rows))
	for i := range rows {
		p := &o.parts[o.part(rows[i].Key)]
		p.Lock()
		there, ok := p.rows[rows[i].Key]
		if !ok || !there.live(now) {
			there = onlineRow{}
		}
		if stored[i] = may(i, there.stamp); stored[i] {
			r := onlineRow{stamp: rows[i].Stamp, value: bytes.Clone(rows[i].Value)}
			if rows[i].TTL > 0 {
				r.expires = now.Add(rows[i].TTL)
			}
			p.rows[rows[i].Key] = r
			if p.writes++; p.writes > len(p.rows) { // so that looking costs a write no more than a constant
				p.writes = 0
				for k, r := range p.rows {
					if !r.live(now) {
						delete(p.rows, k)
					}
				}
			}
		}
		p.Unlock()
	}
	return stored, nil
}

// Delete removes rows.
func (o *Online) Delete(ctx context.Context, keys []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckOnlineKeys(keys); err != nil {
		return err
	}
	for _, key := range keys {
		p := &o.parts[o.part(key)]
		p.Lock()
		delete(p.rows, key)
		p.Unlock()
	}
	return nil
}

// Close does nothing.
func (o *Online) Close() error { return nil }

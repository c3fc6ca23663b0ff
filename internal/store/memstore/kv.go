package memstore

import (
	"bytes"
	"context"
	"iter"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.KV = (*KV)(nil)

// KV is a store.KV in memory.
type KV struct {
	mu      sync.Mutex
	items   map[string]item
	sweepAt int // the number of items at which expired ones are looked for
}

// item is one entry; its value is never written to again, only replaced.
type item struct {
	value   []byte
	version string
	expires time.Time // zero for never
}

func (i item) live(now time.Time) bool { return i.expires.IsZero() || now.Before(i.expires) }

// minSweep is the size below which expired items may lie around.
const minSweep = 1024

// OpenKV gives a new, empty KV; of the URL only the scheme (mem:) means something.
func OpenKV(context.Context, *url.URL) (store.KV, error) {
	return &KV{items: map[string]item{}, sweepAt: minSweep}, nil
}

// Get reads one item.
func (k *KV) Get(ctx context.Context, key string) (store.Item, error) {
	if err := check(ctx, key); err != nil {
		return store.Item{}, err
	}
	k.mu.Lock()
	i, ok := k.items[key]
	k.mu.Unlock()
	if !ok || !i.live(time.Now()) {
		return store.Item{}, missing(key)
	}
	return store.Item{Key: key, Value: bytes.Clone(i.value), Version: i.version}, nil
}

// Put writes one item.
func (k *KV) Put(ctx context.Context, key string, value []byte, ttl time.Duration, c store.Condition) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	if ttl < 0 {
		return "", fault.New(fault.Invalid, "key %q: a time to live is not negative", key)
	}
	now := time.Now()
	next := item{value: bytes.Clone(value), version: newVersion()}
	if ttl > 0 {
		next.expires = now.Add(ttl)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !c.Holds(k.version(key, now)) {
		return "", conflict(key)
	}
	k.items[key] = next
	if len(k.items) >= k.sweepAt {
		k.sweep(now)
	}
	return next.version, nil
}

// Delete removes one item.
func (k *KV) Delete(ctx context.Context, key string, c store.Condition) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !c.Holds(k.version(key, time.Now())) {
		return conflict(key)
	}
	delete(k.items, key)
	return nil
}

// Scan visits the items as they were when it began.
func (k *KV) Scan(ctx context.Context, prefix string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		now := time.Now()
		var found []store.Item
		k.mu.Lock()
		for key, i := range k.items {
			if strings.HasPrefix(key, prefix) && i.live(now) {
				found = append(found, store.Item{Key: key, Value: i.value, Version: i.version})
			}
		}
		k.mu.Unlock()
		for _, i := range found {
			if err := ctx.Err(); err != nil {
				yield(store.Item{}, err)
				return
			}
			i.Value = bytes.Clone(i.Value)
			if !yield(i, nil) {
				return
			}
		}
	}
}

// Close forgets everything.
func (k *KV) Close() error {
	k.items = nil
	return nil
}

// version is that of the live item under key, or "". The caller holds the lock.
func (k *KV) version(key string, now time.Time) string {
	if i, ok := k.items[key]; ok && i.live(now) {
		return i.version
	}
	return ""
}

// sweep drops what has expired, and comes again when the rest has doubled: so
// each Put pays for a constant share of it. The caller holds the lock.
func (k *KV) sweep(now time.Time) {
	for key, i := range k.items {
		if !i.live(now) {
			delete(k.items, key)
		}
	}
	k.sweepAt = max(minSweep, 2*len(k.items))
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return store.CheckKey(key)
}

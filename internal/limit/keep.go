package limit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// counter is a meter that forgets with its process, and can tell what it has counted.
type counter interface {
	Changed() []store.Counted
	Restore(counted []store.Counted)
}

const (
	keptPrefix = "limit/"
	keepEvery  = 10 * time.Second
)

// Keep has what a meter in memory counts of quotas outlive the process, in the small state that does: it reads what was
// written before, and writes what has changed every ten seconds and at the end. A kill costs what was used in the last of them. Other meters keep by themselves.
func Keep(ctx context.Context, p *serve.Process, kv store.KV, meter store.Meter) error {
	m, ok := meter.(counter)
	if !ok {
		return nil
	}
	var all []store.Counted
	for item, err := range kv.Scan(ctx, keptPrefix) {
		if err != nil {
			return fmt.Errorf("read what was used of quotas: %w", err)
		}
		var one store.Counted
		if err := json.Unmarshal(item.Value, &one); err != nil {
			p.Tel.Log.WarnContext(ctx, "what was used of a quota can't be read, and begins anew", "key", item.Key, "error", err)
			continue
		}
		all = append(all, one)
	}
	m.Restore(all)
	var unsaved []store.Counted // when the store was away
	save := func(ctx context.Context) error {
		changed := append(unsaved, m.Changed()...)
		for i, one := range changed {
			if err := write(ctx, kv, one); err != nil {
				unsaved = changed[i:]
				return fmt.Errorf("write what was used of quotas: %w", err)
			}
		}
		unsaved = nil
		return nil
	}
	p.Go(func(ctx context.Context) {
		tick := time.NewTicker(keepEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := save(ctx); err != nil {
					p.Tel.Log.WarnContext(ctx, "quotas", "error", err)
				}
			}
		}
	})
	p.Defer(func() error { return save(context.WithoutCancel(ctx)) }) // which Go has ended before
	return nil
}

// write keeps a count as long as its month. Its key has characters that those of stores have not.
func write(ctx context.Context, kv store.KV, one store.Counted) error {
	b, err := json.Marshal(one)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(one.Key))
	_, err = kv.Put(ctx, keptPrefix+hex.EncodeToString(sum[:16]), b, 32*24*time.Hour, store.Condition{})
	return err
}

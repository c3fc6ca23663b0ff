package pulse

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Board has the counters of an instance, and tells others of them.
type Board struct {
	kv  store.KV // nil: there are no others
	id  string
	log *slog.Logger
	now func() time.Time

	mu       sync.Mutex
	counters map[named]*Counter

	told  time.Time // when the instance was last among those that are known; Run alone touches these
	last  uint64    // a sum of what was written last
	quiet bool      // that nothing can be written was said already
}

type named struct {
	model   string
	version int
}

// Where instances write. Who they are stands in one record: to look for their keys among all others would take a look at each of these.
const (
	instancesKey = "live/instances"
	keep         = 5 * time.Minute // of what is not written any more
	known        = time.Minute     // an instance says again that it is there
	timeout      = time.Second     // of a look at the KV
	versionsMost = 100             // that an instance tells apart: those with most requests
)

func instanceKey(id string) string { return "live/" + id }

// NewBoard makes a board. Its counters are told to others through a KV; nil: there are none.
func NewBoard(kv store.KV, log *slog.Logger) *Board {
	return &Board{kv: kv, id: rand.Text(), log: log, now: time.Now, counters: map[named]*Counter{}}
}

// Counter gives that of a version.
func (b *Board) Counter(model string, version int) *Counter {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.counters[named{model, version}]
	if c == nil {
		c = &Counter{}
		b.counters[named{model, version}] = c
	}
	return c
}

// record is what an instance writes.
type record struct {
	Versions []recorded `json:"versions"`
}

type recorded struct {
	Model   string `json:"model,omitempty"` // "": all others together
	Version int    `json:"version,omitempty"`
	// Slots are of each slot its number, its failures and, of each bin in which there are answers, its number and how many.
	Slots [][]int64 `json:"slots"`
}

// record gives what happened from a slot on, and a sum by which one sees whether anything has since.
func (b *Board) record(first int64) (r record, sum uint64) {
	type busy struct {
		named
		slots []packed
		n     uint64
	}
	var all []busy
	b.mu.Lock()
	for of, c := range b.counters {
		c.forget(first)
		v := busy{named: of, slots: c.since(first)}
		for _, s := range v.slots {
			n := uint64(s.failures)
			for _, bin := range s.bins {
				n += uint64(bin.n)
			}
			v.n += n
			sum += n * uint64(s.slot) // what goes out of sight must not make up for what comes
		}
		if v.n > 0 {
			all = append(all, v)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(all, func(x, y busy) int {
		return cmp.Or(cmp.Compare(y.n, x.n), cmp.Compare(x.model, y.model), cmp.Compare(x.version, y.version))
	})
	others := sums{}
	for i, v := range all {
		if i >= versionsMost {
			for _, s := range v.slots {
				others.add(named{}, &s)
			}
			continue
		}
		r.Versions = append(r.Versions, recorded{v.model, v.version, written(v.slots)})
	}
	if of := others[named{}]; of != nil {
		r.Versions = append(r.Versions, recorded{Slots: of.written()})
	}
	return r, sum
}

func written(slots []packed) (out [][]int64) {
	for _, s := range slots {
		line := []int64{s.slot, int64(s.failures)}
		for _, b := range s.bins {
			line = append(line, int64(b.bin), int64(b.n))
		}
		out = append(out, line)
	}
	return out
}

// Run tells others until ctx ends.
func (b *Board) Run(ctx context.Context) {
	if b.kv == nil {
		return
	}
	late := mathrand.N(200 * time.Millisecond) // behind the end of each slot: not all at once
	for {
		now := b.now()
		select {
		case <-time.After(endOf(slotOf(now)).Sub(now) + late):
			b.tell(ctx)
		case <-ctx.Done():
			b.tell(context.WithoutCancel(ctx))
			return
		}
	}
}

// tell writes what happened, if something did since that was last done.
func (b *Board) tell(ctx context.Context) {
	now := b.now()
	r, sum := b.record(slotOf(now) - Slots)
	if len(r.Versions) == 0 || sum == b.last {
		return
	}
	err := b.write(ctx, now, &r)
	switch {
	case err == nil:
		b.last, b.quiet = sum, false
	case !b.quiet:
		b.quiet = true
		b.log.WarnContext(ctx, "others do not see what models do here", "error", err)
	}
}

func (b *Board) write(ctx context.Context, now time.Time, r *record) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode what models do: %w", err)
	}
	if _, err := b.kv.Put(ctx, instanceKey(b.id), value, keep, store.Condition{}); err != nil {
		return fmt.Errorf("write what models do: %w", err)
	}
	if now.Sub(b.told) < known {
		return nil
	}
	if err := b.join(ctx, now); err != nil {
		return err
	}
	b.told = now
	return nil
}

// instances is when each was last there, in seconds since 1970.
type instances map[string]int64

// readInstances gives those that are known, and the version of the record.
func readInstances(ctx context.Context, kv store.KV) (instances, string, error) {
	item, err := kv.Get(ctx, instancesKey)
	if fault.Is(err, fault.NotFound) {
		return instances{}, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read which instances there are: %w", err)
	}
	all := instances{}
	if json.Unmarshal(item.Value, &all) != nil || all == nil {
		all = instances{} // it is damaged, and begun anew
	}
	return all, item.Version, nil
}

// join puts the instance among those that are known, by compare-and-swap.
func (b *Board) join(ctx context.Context, now time.Time) error {
	const attempts = 10
	for attempt := 1; ; attempt++ {
		all, version, err := readInstances(ctx, b.kv)
		if err != nil {
			return err
		}
		maps.DeleteFunc(all, func(_ string, at int64) bool { return now.Sub(time.Unix(at, 0)) > keep })
		all[b.id] = now.Unix()
		value, err := json.Marshal(all)
		if err != nil {
			return fmt.Errorf("encode which instances there are: %w", err)
		}
		condition := store.IfAbsent()
		if version != "" {
			condition = store.IfVersion(version)
		}
		_, err = b.kv.Put(ctx, instancesKey, value, 2*keep, condition)
		if err == nil || !fault.Is(err, fault.Conflict) || attempt == attempts {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mathrand.N(time.Duration(attempt) * 10 * time.Millisecond)):
		}
	}
}

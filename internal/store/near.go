package store

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// Telling is an Online that tells what is changed in it, whoever changes it.
type Telling interface {
	Online
	// ReadTTL is Read, and says of each row that ends how much of its TTL is left.
	ReadTTL(ctx context.Context, keys []string, dst []OnlineRow) ([]OnlineRow, error)
	// Watch calls begun as soon as it hears of every change of keys that begin with prefix, and from then on changed, with keys
	// whose rows are not what they were; they are valid until it returns. Both are called one after the other. Watch returns
	// when it can't be sure to hear of changes any more, with the reason, or when ctx ends.
	Watch(ctx context.Context, prefix string, begun func(), changed func(keys []string)) error
}

// Near is an Online that can also give rows from this process's memory (ReadNear), where those are kept that were
// read lately, for as long as the store behind it tells what changes. Where it does not, ReadNear is Read.
//
// What this process writes through the same Near, it reads at once. What others write it hears of as soon as the
// store's message arrives: a fraction of a millisecond on a network that works. If messages stop, that is noticed within
// the time that Watch takes for it, and nothing is given from memory any more (docs/adr/0033).
//
// It is safe for concurrent use.
type Near struct {
	Telling
	prefix string
	most   int64
	log    *slog.Logger

	kept  atomic.Pointer[kept] // nil: the store tells nothing
	used  atomic.Bool          // somebody has read since it was last looked
	awake atomic.Bool          // the store is being listened to, or tried
	ctx   context.Context
	stop  context.CancelFunc
	done  sync.WaitGroup
}

const (
	// nearMost is for how long a row is given from memory although nothing was heard of it: what was told must not be all that is relied on.
	nearMost = 30 * time.Second
	// nearIdle is after how long without a read nobody listens any more, nor keeps anything.
	nearIdle = 5 * time.Minute
	// nearSize is about what a row takes beside its key and value.
	nearSize = 200
	// nearWait is how long it takes at the most until it is tried again to listen.
	nearWait = 30 * time.Second
)

// NewNear keeps up to so many bytes of rows whose keys begin with prefix. It listens to the store once something is read.
func NewNear(t Telling, prefix string, most int64, log *slog.Logger) *Near {
	n := &Near{Telling: t, prefix: prefix, most: most, log: log}
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n
}

// ReadNear is Read that may give rows as they were a moment ago, and tells how many of them it had in memory. Their values must
// not be changed.
func (n *Near) ReadNear(ctx context.Context, keys []string, dst []OnlineRow) (rows []OnlineRow, had int, err error) {
	n.wake()
	k := n.kept.Load()
	if k == nil {
		rows, err = n.Read(ctx, keys, dst)
		return rows, 0, err
	}
	now := time.Now()
	rows = dst
	var missing []string
	var at []int
	for i, key := range keys {
		if r, ok := k.rows.GetIfPresent(key); ok && now.Before(r.until) {
			rows = append(rows, OnlineRow{Key: key, Stamp: r.stamp, Value: r.value})
			continue
		}
		rows = append(rows, OnlineRow{Key: key})
		missing, at = append(missing, key), append(at, len(dst)+i)
	}
	if len(missing) == 0 {
		return rows, len(keys), nil
	}
	turns := make([]uint32, len(missing))
	for i, key := range missing {
		turns[i] = k.begin(key)
	}
	found, err := n.ReadTTL(ctx, missing, make([]OnlineRow, 0, len(missing)))
	if err != nil {
		return dst, 0, err
	}
	for i := range found {
		k.keep(&found[i], now, turns[i])
		found[i].TTL = 0
		rows[at[i]] = found[i]
	}
	return rows, len(keys) - len(missing), nil
}

// Write is that of the store.
func (n *Near) Write(ctx context.Context, rows []OnlineRow) ([]bool, error) {
	defer n.forget(rows)
	return n.Telling.Write(ctx, rows)
}

// Replace is that of the store.
func (n *Near) Replace(ctx context.Context, rows []OnlineRow, was []Stamp) ([]bool, error) {
	defer n.forget(rows)
	return n.Telling.Replace(ctx, rows, was)
}

// Delete is that of the store.
func (n *Near) Delete(ctx context.Context, keys []string) error {
	defer func() {
		if k := n.kept.Load(); k != nil {
			k.forget(keys)
		}
	}()
	return n.Telling.Delete(ctx, keys)
}

func (n *Near) forget(rows []OnlineRow) {
	if k := n.kept.Load(); k != nil {
		for i := range rows {
			k.change(rows[i].Key)
		}
	}
}

// Stop ends listening: from then on ReadNear is Read.
func (n *Near) Stop() error {
	n.awake.Store(true) // nobody wakes it any more
	n.stop()
	n.done.Wait()
	return nil
}

// Close is Stop, and closes the store.
func (n *Near) Close() error { return errors.Join(n.Stop(), n.Telling.Close()) }

// wake has somebody listen, unless it is so.
func (n *Near) wake() {
	if !n.used.Load() {
		n.used.Store(true)
	}
	if !n.awake.Load() && n.awake.CompareAndSwap(false, true) {
		n.done.Go(n.listen)
	}
}

// listen keeps listening for as long as somebody reads.
func (n *Near) listen() {
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	idle := time.NewTicker(nearIdle)
	defer idle.Stop()
	n.done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-idle.C:
				if !n.used.Swap(false) {
					cancel()
				}
			}
		}
	})
	told := ""
	for wait := time.Duration(0); ctx.Err() == nil; {
		err := n.Watch(ctx, n.prefix, func() {
			n.kept.Store(newKept(n.most))
			wait, told = 0, ""
		}, func(keys []string) { n.kept.Load().forget(keys) })
		n.kept.Store(nil)
		if err == nil || ctx.Err() != nil {
			break
		}
		if text := err.Error(); text != told {
			n.log.WarnContext(ctx, "changes of the online store are not told: each read asks it", "error", text)
			told = text
		}
		wait = min(max(2*wait, 100*time.Millisecond), nearWait)
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
		}
	}
	if n.ctx.Err() == nil { // it is idle
		n.awake.Store(false)
	}
}

// kept are rows that are kept while the store is listened to without a break.
type kept struct {
	rows  *otter.Cache[string, *nearRow]
	seed  maphash.Seed
	turns [1 << 10]turn // by the hash of a key: now and then a row is not kept for nothing, as it shares one with a row that changes
}

// turn is the time between two changes of rows. Who reads a row from the store must not keep it if it may have changed since, nor
// if somebody has read a newer one by then, of which no change was heard yet: reads would go back in time.
type turn struct {
	mu     sync.Mutex
	number uint32
	key    string // of a row that was read in this turn, begun in one before it, and so not kept
	newest Stamp  // of it
}

// nearRow is a row in memory, or that there is none.
type nearRow struct {
	stamp Stamp
	value []byte
	until time.Time
}

func newKept(most int64) *kept {
	return &kept{seed: maphash.MakeSeed(), rows: otter.Must(&otter.Options[string, *nearRow]{ // the options are right
		MaximumWeight: uint64(most),
		Weigher:       func(key string, r *nearRow) uint32 { return uint32(nearSize + len(key) + len(r.value)) },
	})}
}

func (k *kept) turn(key string) *turn {
	return &k.turns[maphash.String(k.seed, key)%uint64(len(k.turns))]
}

// begin gives the number of the turn in which a row is going to be read.
func (k *kept) begin(key string) uint32 {
	t := k.turn(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.number
}

// keep keeps a row that was read since then, if that turn still is.
func (k *kept) keep(r *OnlineRow, since time.Time, number uint32) {
	t := k.turn(r.Key)
	t.mu.Lock()
	defer t.mu.Unlock()
	older := t.key == r.Key && t.newest.After(r.Stamp)
	switch {
	case older:
		return
	case t.number != number:
		t.key, t.newest = strings.Clone(r.Key), r.Stamp
		if old, ok := k.rows.GetIfPresent(r.Key); ok && r.Stamp.After(old.stamp) {
			k.rows.Invalidate(r.Key)
		}
		return
	}
	until := since.Add(nearMost)
	if r.TTL != 0 && r.TTL < nearMost {
		until = since.Add(r.TTL)
	}
	// The key and the value are parts of something larger.
	k.rows.Compute(strings.Clone(r.Key), func(old *nearRow, found bool) (*nearRow, otter.ComputeOp) {
		if found && old.stamp.After(r.Stamp) && time.Now().Before(old.until) {
			return old, otter.CancelOp
		}
		return &nearRow{r.Stamp, bytes.Clone(r.Value), until}, otter.WriteOp
	})
}

// change lets go of a row that is not what it was.
func (k *kept) change(key string) {
	t := k.turn(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.number++
	t.key = ""
	k.rows.Invalidate(key)
}

func (k *kept) forget(keys []string) {
	for _, key := range keys {
		k.change(key)
	}
}

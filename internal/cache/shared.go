package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// shared is the store that processes share answers through. It is used only
// while it is up: three failures in a row take it out of use, and a probe behind
// the callers' backs puts it back. So an outage costs the callers of one moment
// one budget each, and nobody anything after that.
type shared struct {
	kv       store.KV
	budget   time.Duration
	most     int  // bytes of an entry
	agreed   bool // the secret is configured, none lies in the store
	up       atomic.Bool
	failures atomic.Int32  // in a row
	down     chan struct{} // wakes the probe
	writes   chan write
	pending  atomic.Int64 // bytes in writes

	readErrors, writeErrors, damaged, dropped atomic.Int64
}

type write struct {
	key Key
	raw []byte
	ttl time.Duration
}

const (
	prefix     = "cache/"
	secretKey  = prefix + "secret"
	secretSize = 32

	failuresMost = 3
	probeLeast   = time.Second
	probeMost    = 30 * time.Second
	writers      = 2
	queueMost    = 1024     // entries that wait to be written
	pendingMost  = 16 << 20 // and their bytes
)

func (s *shared) name(key Key) string { return prefix + hex.EncodeToString(key[:]) }

// within gives a context for one operation on behalf of ctx: it ends after the
// budget, and leaves three quarters of the caller's time for the run.
func (s *shared) within(ctx context.Context) (context.Context, context.CancelFunc) {
	budget := s.budget
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(deadline)/4)
	}
	return context.WithTimeout(ctx, budget)
}

// get reads the entry of a key, nil where there is none; answered tells whether
// the store said so, or said nothing in time.
func (s *shared) get(ctx context.Context, k *keyer, key Key) (e *entry, answered bool) {
	limited, cancel := s.within(ctx)
	defer cancel()
	item, err := s.kv.Get(limited, s.name(key))
	if answered = s.answered(ctx, err, &s.readErrors); err != nil {
		return nil, answered
	}
	raw := item.Value
	if len(raw) >= entryStart && len(raw) <= s.most && Key(raw) == k.sign(key, raw[entryStart:]) {
		e = decode(raw)
	}
	if e == nil {
		s.damaged.Add(1)
	}
	return e, true
}

// answered notes whether the store did what was asked on behalf of ctx.
func (s *shared) answered(ctx context.Context, err error, errors *atomic.Int64) bool {
	if err == nil || fault.Is(err, fault.NotFound) {
		s.failures.Store(0)
		return true
	}
	if ctx.Err() != nil {
		return false // the caller went away
	}
	errors.Add(1)
	if s.failures.Add(1) >= failuresMost && s.up.Swap(false) {
		select {
		case s.down <- struct{}{}:
		default: // the probe is awake
		}
	}
	return false
}

// put has an entry written soon, or drops it.
func (s *shared) put(w write) {
	if s.pending.Add(int64(len(w.raw))) <= pendingMost {
		select {
		case s.writes <- w:
			return
		default:
		}
	}
	s.pending.Add(-int64(len(w.raw)))
	s.dropped.Add(1)
}

// write writes what is put, until ctx ends.
func (s *shared) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-s.writes:
			s.pending.Add(-int64(len(w.raw)))
			if !s.up.Load() {
				s.dropped.Add(1)
				continue
			}
			limited, cancel := s.within(ctx)
			_, err := s.kv.Put(limited, s.name(w.key), w.raw, w.ttl, store.Condition{})
			cancel()
			s.answered(ctx, err, &s.writeErrors)
		}
	}
}

// probe puts the store into use whenever it is well, and tells found the secret
// that lies in it, until ctx ends. One that fails again soon is tried less and
// less often.
func (s *shared) probe(ctx context.Context, secret []byte, found func(secret []byte)) {
	for wait := probeLeast; ; wait = min(2*wait, probeMost) {
		got, err := s.secret(ctx, secret)
		if err == nil {
			if !bytes.Equal(got, secret) {
				secret = got
				found(secret)
			}
			s.failures.Store(0)
			s.up.Store(true)
			select {
			case <-ctx.Done():
				return
			case <-time.After(probeMost): // Redis may have lost the secret
				wait = probeLeast / 2
				continue
			case <-s.down:
			}
		}
		s.up.Store(false)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// secret gives what all processes hash under: mine is put into the store if it
// has none.
func (s *shared) secret(ctx context.Context, mine []byte) ([]byte, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	item, err := s.kv.Get(ctx, secretKey)
	switch {
	case s.agreed && (err == nil || fault.Is(err, fault.NotFound)):
		return mine, nil
	case fault.Is(err, fault.NotFound):
		if _, err = s.kv.Put(ctx, secretKey, mine, 0, store.IfAbsent()); fault.Is(err, fault.Conflict) {
			item, err = s.kv.Get(ctx, secretKey)
		} else {
			item.Value = mine
		}
	}
	if err != nil {
		return nil, err
	}
	if len(item.Value) != secretSize {
		return nil, fault.New(fault.Invalid, "key %q of the store holds %d bytes, expected a secret of %d: delete it, and a new one is made", secretKey, len(item.Value), secretSize)
	}
	return item.Value, nil
}

// newSecret makes one that nobody knows.
func newSecret() []byte {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails
	return secret
}

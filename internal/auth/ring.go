package auth

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

const (
	ringMost    = 100_000         // keys that are remembered, those that do not exist included
	keptFor     = 5 * time.Minute // after which a key is read again, whether anybody told of a change or not
	lookupsMost = 32              // keys that are read at the same time
	lookupMost  = 5 * time.Second // that a read may take
)

// Ring is the keys of a bucket as a process remembers them.
type Ring struct {
	keys  *Keys
	stale time.Duration
	now   func() time.Time

	seen    *store.Recent[uint64] // the number of the last change that was heard of
	seq     atomic.Uint64         // the same, from when cached holds nothing older
	cached  *otter.Cache[string, *known]
	flight  singleflight.Group
	lookups chan struct{}
}

// NewRing remembers keys. What is known of them stays good for so long when the bucket does not answer.
func NewRing(keys *Keys, stale time.Duration) *Ring {
	r := &Ring{
		keys: keys, stale: stale, now: time.Now, lookups: make(chan struct{}, lookupsMost),
		cached: otter.Must(&otter.Options[string, *known]{MaximumSize: ringMost}), // the options are right
	}
	r.seen = store.NewRecent(r.look)
	return r
}

// Close waits for what the ring does on its own.
func (r *Ring) Close() error { return r.seen.Close() }

// look hears of changes.
func (r *Ring) look(ctx context.Context) (uint64, error) {
	c, _, err := r.keys.changes(ctx)
	if err != nil {
		return 0, err
	}
	before := r.seq.Load()
	if c.Seq == before {
		return before, nil
	}
	r.seq.Store(c.Seq) // first: what is read from here on may be kept, what was read before may not
	if c.Seq < before || len(c.Last) == 0 || c.Last[0].Seq > before+1 {
		r.cached.InvalidateAll() // more has happened than is told of
		return c.Seq, nil
	}
	for _, one := range c.Last {
		if one.Seq > before {
			r.cached.Invalidate(one.Of)
		}
	}
	return c.Seq, nil
}

// The same for an id that does not exist and a secret that is wrong: nobody learns which ids there are.
var errNotValid = fault.New(fault.Unauthenticated, "the API key is not valid")

var errLookups = fault.New(fault.Unavailable, "too many API keys that were not seen before are being looked up")

func unanswered(err error) error {
	return fault.Wrap(fault.Unavailable, err, "API keys can't be checked now: the bucket that holds them does not answer")
}

// Check finds out whose key it is. A key that is wrong, revoked or expired is Unauthenticated; when the
// bucket has not answered for too long, every key is Unavailable.
func (r *Ring) Check(ctx context.Context, whole string) (*Principal, error) {
	id, text, ok := splitKey(whole)
	if !ok {
		return nil, errNotValid
	}
	_, age, away := r.seen.Get(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case age > r.stale:
		return nil, unanswered(away)
	}
	now := r.now()
	k, found := r.cached.GetIfPresent(id)
	if !found || now.Sub(k.read) > keptFor && (away == nil || now.Sub(k.read) > keptFor+r.stale) {
		var err error
		if k, err = r.lookup(ctx, id, k); err != nil {
			return nil, err
		}
	}
	switch {
	case k.key == nil || !k.opens(text, now):
		return nil, errNotValid
	case !k.key.Revoked.IsZero():
		return nil, fault.New(fault.Unauthenticated, "the API key is revoked")
	case !k.key.Holds(now):
		return nil, fault.New(fault.Unauthenticated, "the API key is expired")
	}
	return k.principal, nil
}

// lookup reads a key. When the bucket does not answer, one that is known already stays good.
func (r *Ring) lookup(ctx context.Context, id string, old *known) (*known, error) {
	done := r.flight.DoChan(id, func() (any, error) {
		select {
		case r.lookups <- struct{}{}:
			defer func() { <-r.lookups }()
		default:
			return nil, errLookups
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupMost)
		defer cancel()
		return r.fetch(ctx, id)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case result := <-done:
		switch {
		case result.Err == nil:
			return result.Val.(*known), nil
		case old != nil && r.now().Sub(old.read) <= keptFor+r.stale:
			return old, nil
		case errors.Is(result.Err, errLookups):
			return nil, result.Err
		}
		return nil, unanswered(result.Err)
	}
}

func (r *Ring) fetch(ctx context.Context, id string) (*known, error) {
	for {
		before, at := r.seq.Load(), r.now()
		s, _, err := r.keys.get(ctx, id)
		k := &known{read: at}
		if err == nil {
			k, err = know(s, at)
		} else if fault.Is(err, fault.NotFound) {
			err = nil
		}
		if err != nil {
			return nil, err
		}
		r.cached.Set(id, k)
		if r.seq.Load() == before {
			return k, nil
		}
		r.cached.Invalidate(id) // something has changed meanwhile, perhaps this one
	}
}

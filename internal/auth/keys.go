package auth

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Keys are the API keys of a bucket:
//
//	auth/keys/<id>   a key, with the hashes of its secrets; revoked ones stay
//	auth/changes     the last changes of these, numbered
//
// Whoever changes a key writes it first and then tells of it in auth/changes. A process
// that dies in between has changed the key, and others learn that when they read it
// anew, within keptFor; who asked for the change was told of no success, and repeats it.
type Keys struct {
	blob store.Blob
	now  func() time.Time
}

// NewKeys gives the keys of a bucket.
func NewKeys(blob store.Blob) *Keys { return &Keys{blob: blob, now: time.Now} }

const (
	keysPrefix  = "auth/keys/"
	changesKey  = "auth/changes"
	objectMost  = 1 << 20
	changesKept = 64
	overlapMost = 30 * 24 * time.Hour
)

// changes is what auth/changes holds.
type changes struct {
	Seq  uint64   `json:"seq"`
	Last []change `json:"last"` // without gaps, up to Seq
}

type change struct {
	Seq uint64 `json:"seq"`
	Of  string `json:"of"` // a key's id
}

// Create makes a key, and gives with it what its holder has to show. Nobody can ever read that again.
func (k *Keys) Create(ctx context.Context, g Grant, by string) (_ *Key, whole string, err error) {
	now := k.now().UTC()
	if err := g.Check(now); err != nil {
		return nil, "", err
	}
	id := newID()
	whole, s := newSecret(id)
	made := &stored{Key: Key{ID: id, Grant: g, CreatedAt: now, CreatedBy: by}, Secrets: []secret{s}}
	if err := k.put(ctx, keysPrefix+id, made, store.IfAbsent()); err != nil {
		return nil, "", err
	}
	return &made.Key, whole, k.tell(ctx, id)
}

// Get gives a key.
func (k *Keys) Get(ctx context.Context, id string) (*Key, error) {
	s, _, err := k.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return &s.Key, nil
}

// List gives all keys, revoked ones too, in no order that means anything.
func (k *Keys) List(ctx context.Context) iter.Seq2[*Key, error] {
	return func(yield func(*Key, error) bool) {
		for o, err := range k.blob.List(ctx, keysPrefix, "") {
			if err != nil {
				yield(nil, fmt.Errorf("list keys: %w", err))
				return
			}
			id := strings.TrimPrefix(o.Key, keysPrefix)
			if !goodID(id) {
				continue
			}
			if !yield(k.Get(ctx, id)) {
				return
			}
		}
	}
}

// Revoke ends a key for good. One that is revoked already stays so, and the others are told once more.
func (k *Keys) Revoke(ctx context.Context, id string) (*Key, error) {
	return k.change(ctx, id, func(s *stored, now time.Time) error {
		if s.Revoked.IsZero() {
			s.Revoked = now
		}
		return nil
	})
}

// Rotate gives a key another secret. The one before opens it for as long as overlap says; those before that no longer do.
func (k *Keys) Rotate(ctx context.Context, id string, overlap time.Duration) (_ *Key, whole string, err error) {
	if overlap < 0 || overlap > overlapMost {
		return nil, "", fault.New(fault.Invalid, "overlap is %s, expected 0 to %s", overlap, overlapMost)
	}
	whole, fresh := newSecret(id)
	key, err := k.change(ctx, id, func(s *stored, now time.Time) error {
		if !s.Holds(now) {
			return fault.New(fault.Conflict, "key %s is revoked or expired: make another one", id)
		}
		old := s.Secrets
		s.Secrets, s.RotatedAt = []secret{fresh}, now
		if overlap > 0 && len(old) > 0 {
			s.Secrets = append(s.Secrets, secret{Hash: old[0].Hash, Until: now.Add(overlap)})
		}
		return nil
	})
	return key, whole, err
}

// change writes a key as f has it, and tells of it.
func (k *Keys) change(ctx context.Context, id string, f func(*stored, time.Time) error) (*Key, error) {
	for {
		s, version, err := k.get(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := f(s, k.now().UTC()); err != nil {
			return nil, err
		}
		err = k.put(ctx, keysPrefix+id, s, store.IfVersion(version))
		if fault.Is(err, fault.Conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &s.Key, k.tell(ctx, id)
	}
}

// tell has every process look at what has changed.
func (k *Keys) tell(ctx context.Context, of string) error {
	for {
		c, version, err := k.changes(ctx)
		if err != nil {
			return err
		}
		c.Seq++
		c.Last = append(c.Last, change{c.Seq, of})
		c.Last = c.Last[max(0, len(c.Last)-changesKept):]
		condition := store.IfAbsent()
		if version != "" {
			condition = store.IfVersion(version)
		}
		if err := k.put(ctx, changesKey, c, condition); !fault.Is(err, fault.Conflict) {
			return err
		}
	}
}

// changes reads the last changes; before the first there are none.
func (k *Keys) changes(ctx context.Context) (*changes, string, error) {
	c := &changes{}
	version, err := k.read(ctx, changesKey, c)
	if fault.Is(err, fault.NotFound) {
		return &changes{}, "", nil
	}
	return c, version, err
}

func (k *Keys) get(ctx context.Context, id string) (*stored, string, error) {
	none := fault.New(fault.NotFound, "there is no key %.20q", id)
	if !goodID(id) {
		return nil, "", none
	}
	s := &stored{}
	version, err := k.read(ctx, keysPrefix+id, s)
	if fault.Is(err, fault.NotFound) {
		return nil, "", none
	}
	if err == nil && s.ID != id {
		err = fault.New(fault.Internal, "the bucket's %s%s is damaged: it says that it is %.20q", keysPrefix, id, s.ID)
	}
	return s, version, err
}

func (k *Keys) read(ctx context.Context, key string, v any) (version string, err error) {
	return store.ReadJSON(ctx, k.blob, key, objectMost, v)
}

func (k *Keys) put(ctx context.Context, key string, v any, c store.Condition) error {
	_, err := store.WriteJSON(ctx, k.blob, key, v, c)
	return err
}

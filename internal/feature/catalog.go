package feature

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Config says how a process keeps to the definitions.
type Config struct {
	Refresh time.Duration `env:"FEATURE_REFRESH" default:"2s" help:"How long what is known of feature definitions may go unchecked."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Refresh <= 0 {
		return fault.New(fault.Invalid, "FEATURE_REFRESH must be positive")
	}
	return nil
}

// Catalog keeps the versions of the set of definitions in the bucket. The highest is
// the current one; none is ever changed, and each is there whole or not at all.
//
// Current answers from memory. What it knows is checked against the bucket behind
// the caller's back once it is older than the refresh interval; so a change by
// another process is seen that much later. While the bucket is away, or holds a
// version that can't be read, the last one goes on answering.
type Catalog struct {
	blob    store.Blob
	refresh time.Duration
	outbox  *event.Outbox // hears of each change made here; may be nil
	log     *slog.Logger
	now     func() time.Time

	flight singleflight.Group
	known  atomic.Pointer[known]

	mu       sync.Mutex
	versions map[int]*Compiled // that were asked for by number
	trouble  string            // what the last check found wrong, which is logged once
}

// known is what was last read; it is replaced, never changed.
type known struct {
	*Compiled
	at       time.Time
	checking atomic.Bool
}

const (
	versionsPrefix = "features/versions/"
	setMost        = 16 << 20         // bytes of a version
	byMost         = 200              // bytes of who made it
	readTimeout    = 30 * time.Second // bounds a read that several callers share
	versionsKept   = 16               // of those in memory that are not current
)

func versionKey(version int) string { return fmt.Sprintf("%s%010d", versionsPrefix, version) }

// NewCatalog makes a catalog on a bucket. Changes made here are told to outbox, unless it is nil.
func NewCatalog(c *Config, blob store.Blob, outbox *event.Outbox, log *slog.Logger) *Catalog {
	return &Catalog{blob: blob, refresh: c.Refresh, outbox: outbox, log: log, now: time.Now, versions: map[int]*Compiled{}}
}

// Current gives the definitions as they are now. Where none were ever applied it is the empty set, of version 0.
func (c *Catalog) Current(ctx context.Context) (*Compiled, error) {
	if k := c.known.Load(); k != nil {
		if c.now().Sub(k.at) > c.refresh && k.checking.CompareAndSwap(false, true) {
			go c.recheck(k)
		}
		return k.Compiled, nil
	}
	v, err, _ := c.flight.Do("current", func() (any, error) {
		// The read serves all who wait, so it must not end with the first of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return c.read(ctx)
	})
	if err != nil {
		return nil, err
	}
	return v.(*Compiled), nil
}

// Reread looks for a newer version now, instead of once the refresh interval is over.
func (c *Catalog) Reread(ctx context.Context) error {
	_, err := c.read(ctx)
	return err
}

// recheck brings what is known up to date; one runs at a time, and ends within readTimeout.
func (c *Catalog) recheck(k *known) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	trouble := ""
	_, err := c.read(ctx)
	if err != nil {
		trouble = err.Error()
		// Try again after another interval, not at every request.
		c.known.CompareAndSwap(k, &known{Compiled: k.Compiled, at: c.now()})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trouble != trouble && trouble != "" {
		c.log.WarnContext(ctx, "look for newer feature definitions", "error", err, "version", k.Version)
	}
	c.trouble = trouble
}

// read gives the newest version, and remembers it.
func (c *Catalog) read(ctx context.Context) (*Compiled, error) {
	k, at := c.known.Load(), c.now()
	after := ""
	if k != nil && k.Version > 0 {
		after = versionKey(k.Version)
	}
	newest, err := c.newest(ctx, after)
	switch {
	case err != nil:
		return nil, err
	case newest > 0:
	case k != nil:
		return c.learn(k.Compiled, at), nil
	default:
		none, err := Compile(&Set{})
		if err != nil {
			return nil, err
		}
		return c.learn(none, at), nil
	}
	compiled, err := c.get(ctx, newest)
	if err != nil {
		return nil, err
	}
	return c.learn(compiled, at), nil
}

// learn remembers what was current at a time, unless a newer one is known, and gives what is.
func (c *Catalog) learn(compiled *Compiled, at time.Time) *Compiled {
	for {
		k := c.known.Load()
		if k != nil && (k.Version > compiled.Version || k.Version == compiled.Version && k.at.After(at)) {
			return k.Compiled
		}
		if k != nil && k.Version == compiled.Version {
			compiled = k.Compiled // the plans that it keeps go on being used
		}
		if c.known.CompareAndSwap(k, &known{Compiled: compiled, at: at}) {
			return compiled
		}
	}
}

// newest finds the highest version behind a key; 0: none.
func (c *Catalog) newest(ctx context.Context, after string) (int, error) {
	newest := 0
	for o, err := range c.blob.List(ctx, versionsPrefix, after) {
		if err != nil {
			return 0, fmt.Errorf("list versions of feature definitions: %w", err)
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(o.Key, versionsPrefix)); err == nil && versionKey(n) == o.Key {
			newest = n
		}
	}
	return newest, nil
}

// Get gives one version, which may be the current one.
func (c *Catalog) Get(ctx context.Context, version int) (*Compiled, error) {
	if k := c.known.Load(); k != nil && k.Version == version {
		return k.Compiled, nil
	}
	c.mu.Lock()
	old := c.versions[version]
	c.mu.Unlock()
	if old != nil {
		return old, nil
	}
	compiled, err := c.get(ctx, version)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.versions) >= versionsKept {
		clear(c.versions)
	}
	c.versions[version] = compiled
	return compiled, nil
}

// get reads and compiles a version.
func (c *Catalog) get(ctx context.Context, version int) (*Compiled, error) {
	if version < 1 {
		return nil, fault.New(fault.NotFound, "the feature definitions have no version %d", version)
	}
	key := versionKey(version)
	r, _, err := c.blob.Get(ctx, key, 0, setMost+1)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "the feature definitions have no version %d", version)
	}
	if err != nil {
		return nil, fmt.Errorf("read feature definitions %s: %w", key, err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read feature definitions %s: %w", key, err)
	}
	damaged := func(err error) error {
		return fault.Wrap(fault.Internal, err, "version %d of the feature definitions is damaged in the bucket (%s)", version, key)
	}
	s := &Set{}
	if err := json.Unmarshal(b, s); err != nil || s.Version != version || len(b) > setMost {
		return nil, damaged(err)
	}
	compiled, err := compile(s)
	if err != nil {
		return nil, damaged(err)
	}
	return compiled, nil
}

// Apply makes the next version: what put over the current one by name, and then
// some removed (see Merge). It gives that version and what differs in it; where
// nothing does, it is the current one. A dry one is only checked. Whoever comes
// second of two at a time has his change made on top of the first's.
func (c *Catalog) Apply(ctx context.Context, what *Set, remove []Ref, by string, dry bool) (*Set, []Change, error) {
	if len(by) > byMost {
		return nil, nil, fault.New(fault.Invalid, "by is longer than %d bytes", byMost)
	}
	for {
		if _, err := c.read(ctx); err != nil {
			return nil, nil, err
		}
		current := c.known.Load().Set
		next, err := Merge(current, what, remove...)
		if err != nil {
			return nil, nil, err
		}
		changes := Diff(current, next)
		if len(changes) == 0 {
			return current, nil, nil
		}
		next.At, next.By = c.now().UTC(), by
		compiled, err := Compile(next)
		if err != nil {
			return nil, nil, err
		}
		b := encode(next)
		if len(b) > setMost {
			return nil, nil, fault.New(fault.Invalid, "all feature definitions together would have %d bytes, more than %d", len(b), setMost)
		}
		if dry {
			return next, changes, nil
		}
		_, err = c.blob.Put(ctx, versionKey(next.Version), bytes.NewReader(b), int64(len(b)), store.IfAbsent())
		if fault.Is(err, fault.Conflict) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("write feature definitions %s: %w", versionKey(next.Version), err)
		}
		c.learn(compiled, c.now())
		c.outbox.Give(ctx, event.FeaturesApplied.New(event.Applied{Version: next.Version, At: next.At, By: by}))
		return next, changes, nil
	}
}

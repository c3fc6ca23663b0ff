package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Catalog tells which versions a model has and which of them its aliases name.
//
// Resolve answers from memory. What it knows of a model is checked against the
// bucket behind the caller's back once it is older than the refresh interval;
// so a change by another process is seen that much later, and while the bucket
// is away the last known state goes on answering.
type Catalog struct {
	blob    store.Blob
	refresh time.Duration
	outbox  *event.Outbox // hears of each change made here; may be nil
	now     func() time.Time

	flight singleflight.Group
	known  sync.Map      // name -> *known
	checks chan struct{} // holds one for each recheck under way
	writes atomic.Uint64 // by this process: a read that one of them overtook is not remembered

	manifestMu sync.RWMutex
	manifests  map[versionID]*Manifest // one per version for good: they never change

	unknownMu sync.Mutex
	unknown   map[string]time.Time // names that did not exist, and when that was seen
}

// known is what was last read of one model; it is replaced, never changed.
type known struct {
	at        time.Time
	newest    int
	aliases   map[string]int
	splits    map[string]*Split // of aliases that name more than one version
	aliasesAt string            // version of the object that they were read from
	optimized map[attempt]optimized
	checking  atomic.Bool
}

type versionID struct {
	name    string
	version int
}

// unknownMost bounds how many unknown names are remembered: beyond it strangers
// pay a look into the bucket again, and memory stays flat.
const unknownMost = 4096

// checksMost is how many models are checked against the bucket at once: with
// thousands in use each would otherwise take a thread, and Go never gives one back.
const checksMost = 16

// NewCatalog makes a catalog on a bucket. refresh is how long what it read may
// go unchecked. Changes made here are told to outbox, unless it is nil.
func NewCatalog(blob store.Blob, refresh time.Duration, outbox *event.Outbox) *Catalog {
	return &Catalog{blob: blob, refresh: refresh, outbox: outbox, now: time.Now, checks: make(chan struct{}, checksMost), manifests: map[versionID]*Manifest{}, unknown: map[string]time.Time{}}
}

func versionPrefix(name string) string { return "models/" + name + "/versions/" }

func versionKey(name string, version int) string {
	return fmt.Sprintf("%s%010d", versionPrefix(name), version)
}

// Publish writes a manifest as the model's next version, which it fills in
// together with the time. Two racing publishers get two versions, unless both say the same cause: an artifact
// is published for a cause once, and whoever repeats it, having been killed, gets that version.
func (c *Catalog) Publish(ctx context.Context, m Manifest) (*Manifest, error) {
	if err := CheckName(m.Name); err != nil {
		return nil, err
	}
	versions, err := c.versions(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	if n := len(versions); n > 0 {
		m.Version = versions[n-1]
	}
	for _, v := range slices.Backward(versions) {
		if old, err := c.repeated(ctx, &m, v); old != nil || err != nil {
			return old, err
		}
	}
	m.CreatedAt = c.now().UTC()
	for {
		m.Version++
		b, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode manifest of %q: %w", m.Name, err)
		}
		_, err = c.blob.Put(ctx, versionKey(m.Name, m.Version), bytes.NewReader(b), int64(len(b)), store.IfAbsent())
		if fault.Is(err, fault.Conflict) {
			if old, err := c.repeated(ctx, &m, m.Version); old != nil || err != nil {
				return old, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("write manifest of %q: %w", m.Name, err)
		}
		c.forget(m.Name)
		c.tell(ctx, &m)
		return &m, nil
	}
}

// repeated gives a version, if it is what is about to be published for the same cause, and tells of it once more: who was killed may
// not have done so. nil: it is another.
func (c *Catalog) repeated(ctx context.Context, m *Manifest, version int) (*Manifest, error) {
	if m.Cause == "" {
		return nil, nil //nolint:nilnil // nobody can tell
	}
	old, err := c.Manifest(ctx, m.Name, version)
	if fault.Is(err, fault.Internal) { // a damaged one is another
		return nil, nil //nolint:nilnil // as above
	}
	if err != nil || old.Cause != m.Cause || old.Digest != m.Digest {
		return nil, err
	}
	c.forget(m.Name)
	c.tell(ctx, old)
	return old, nil
}

func (c *Catalog) tell(ctx context.Context, m *Manifest) {
	c.outbox.Give(ctx, event.ModelPublished.New(event.Published{Model: m.Name, Version: m.Version, Digest: string(m.Digest), At: m.CreatedAt, By: m.CreatedBy, Cause: m.Cause}))
}

// Models lists the names of all models, sorted.
func (c *Catalog) Models(ctx context.Context) ([]string, error) {
	var names []string
	for o, err := range c.blob.List(ctx, "models/", "") {
		if err != nil {
			return nil, fmt.Errorf("list models: %w", err)
		}
		name, rest, _ := strings.Cut(strings.TrimPrefix(o.Key, "models/"), "/")
		if strings.HasPrefix(rest, "versions/") && (len(names) == 0 || names[len(names)-1] != name) {
			names = append(names, name)
		}
	}
	slices.Sort(names) // keys sort by "name/", which differs from names around '-' and '.'
	return slices.Compact(names), nil
}

// Versions lists a model's versions, oldest first.
func (c *Catalog) Versions(ctx context.Context, name string) ([]int, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	versions, err := c.versions(ctx, name)
	if err == nil && len(versions) == 0 {
		err = notFound(name)
	}
	return versions, err
}

func notFound(name string) error {
	return fault.New(fault.NotFound, "model %q does not exist", tensor.Clip(name))
}

func (c *Catalog) exists(ctx context.Context, name string) error {
	_, err := c.Versions(ctx, name)
	return err
}

func (c *Catalog) versions(ctx context.Context, name string) ([]int, error) {
	var versions []int
	for o, err := range c.blob.List(ctx, versionPrefix(name), "") {
		if err != nil {
			return nil, fmt.Errorf("list versions of %q: %w", name, err)
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(o.Key, versionPrefix(name))); err == nil {
			versions = append(versions, n)
		}
	}
	return versions, nil
}

// Manifest reads one version. Calls for the same version give the same pointer.
func (c *Catalog) Manifest(ctx context.Context, name string, version int) (*Manifest, error) {
	if m := c.manifest(name, version); m != nil {
		return m, nil
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	v, err, _ := c.flight.Do(versionKey(name, version), func() (any, error) {
		// The read serves all who wait, so it must not end with the first of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return c.readManifest(ctx, name, version)
	})
	if err != nil {
		return nil, err
	}
	id := versionID{name, version}
	c.manifestMu.Lock()
	defer c.manifestMu.Unlock()
	if m := c.manifests[id]; m != nil {
		return m, nil
	}
	c.manifests[id] = v.(*Manifest)
	return v.(*Manifest), nil
}

// manifest gives a version that was read before, or nil.
func (c *Catalog) manifest(name string, version int) *Manifest {
	c.manifestMu.RLock()
	defer c.manifestMu.RUnlock()
	return c.manifests[versionID{name, version}]
}

// readTimeout bounds a read from the bucket that several callers share.
const readTimeout = 30 * time.Second

func (c *Catalog) readManifest(ctx context.Context, name string, version int) (*Manifest, error) {
	b, _, err := store.ReadAll(ctx, c.blob, versionKey(name, version))
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "model %q has no version %d", name, version)
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest %s:%d: %w", name, version, err)
	}
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil || m.Name != name || m.Version != version || !m.Digest.valid() || m.Size <= 0 || m.Memory.Session <= 0 || m.Memory.Loading < m.Memory.Session {
		return nil, fault.Wrap(fault.Internal, err, "the manifest of model %q, version %d is damaged in the bucket", name, version)
	}
	return m, nil
}

// Resolve finds the version that a ref means. Of an alias that names several it is
// the one that answers whatever canaries don't.
func (c *Catalog) Resolve(ctx context.Context, ref Ref) (*Manifest, error) {
	m, _, err := c.Route(ctx, ref)
	return m, err
}

// Route finds the version that a ref means, and what else its alias names; nil: nothing else.
func (c *Catalog) Route(ctx context.Context, ref Ref) (*Manifest, *Split, error) {
	number, numbered := ref.number()
	if numbered {
		if m := c.manifest(ref.Name, number); m != nil {
			return m, nil, nil
		}
	}
	k, err := c.look(ctx, ref.Name)
	if err != nil {
		return nil, nil, err
	}
	if numbered {
		m, err := c.Manifest(ctx, ref.Name, number)
		return m, nil, err
	}
	alias := ref.Version
	if alias == "" {
		alias = Champion
	}
	version, ok := k.aliases[alias]
	switch {
	case ok:
	case ref.Version == "":
		version = k.newest
	default:
		return nil, nil, fault.New(fault.NotFound, "model %q has no version or alias %q", ref.Name, tensor.Clip(ref.Version))
	}
	m, err := c.Manifest(ctx, ref.Name, version)
	return m, k.splits[alias], err
}

// look gives what is known of a model, reading it first where nothing is.
func (c *Catalog) look(ctx context.Context, name string) (*known, error) {
	if v, ok := c.known.Load(name); ok {
		k := v.(*known)
		if c.now().Sub(k.at) > c.refresh && k.checking.CompareAndSwap(false, true) {
			go c.recheck(name, k)
		}
		return k, nil
	}
	if CheckName(name) != nil || c.isUnknown(name) {
		return nil, notFound(name)
	}
	v, err, _ := c.flight.Do(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return c.read(ctx, name, nil)
	})
	if err != nil {
		return nil, err
	}
	return v.(*known), nil
}

// recheck brings what is known of a model up to date. One runs per model at a
// time; it ends within readTimeout of its turn. A bucket that is away changes
// nothing.
func (c *Catalog) recheck(name string, old *known) {
	c.checks <- struct{}{}
	defer func() { <-c.checks }()
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	if _, err := c.read(ctx, name, old); err != nil {
		// Try again after another interval, not at every request.
		again := &known{at: c.now(), newest: old.newest, aliases: old.aliases, splits: old.splits, aliasesAt: old.aliasesAt, optimized: old.optimized}
		c.known.CompareAndSwap(name, old, again)
	}
}

// read reads a model's state and remembers it. With old it asks for the aliases
// only when they changed, and leaves alone what was forgotten meanwhile.
func (c *Catalog) read(ctx context.Context, name string, old *known) (*known, error) {
	writes := c.writes.Load()
	k := &known{at: c.now()}
	found := ""
	prefix := "models/" + name + "/"
	for o, err := range c.blob.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("look up model %q: %w", name, err)
		}
		if rest, ok := strings.CutPrefix(o.Key, optimizedPrefix(name)); ok {
			if a, o, ok := parseOptimized(rest); ok {
				if k.optimized == nil {
					k.optimized = map[attempt]optimized{}
				}
				k.optimized[a] = o
			}
		} else if o.Key == aliasKey(name) {
			found = o.Version
		} else if n, err := strconv.Atoi(strings.TrimPrefix(o.Key, versionPrefix(name))); err == nil {
			k.newest = n
		}
	}
	if k.newest == 0 {
		c.rememberUnknown(name, writes)
		if old != nil {
			c.known.CompareAndDelete(name, old)
		}
		return nil, notFound(name)
	}
	if old != nil && old.aliasesAt == found {
		k.aliases, k.splits, k.aliasesAt = old.aliases, old.splits, old.aliasesAt
	} else if found != "" {
		a, at, err := c.readAliases(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := c.readSplits(ctx, name, a.Splits); err != nil {
			return nil, err
		}
		k.aliases, k.splits, k.aliasesAt = a.Current, a.Splits, at
	}
	switch {
	case old != nil:
		c.known.CompareAndSwap(name, old, k)
	case c.writes.Load() == writes:
		c.known.Store(name, k)
	}
	return k, nil
}

// readSplits reads the manifests of all that splits name, so that whoever chooses among
// them waits for none. A split with a version that can't be had is left out: its alias's version answers.
func (c *Catalog) readSplits(ctx context.Context, name string, splits map[string]*Split) error {
	for alias, s := range splits {
		for _, version := range s.Versions() {
			_, err := c.Manifest(ctx, name, version)
			if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Internal) {
				delete(splits, alias)
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Known gives a version that was read before, as those are that the splits of Route name; nil: it was not.
func (c *Catalog) Known(name string, version int) *Manifest { return c.manifest(name, version) }

// optimized gives the optimized file of a version for a kind, as far as is known
// here, and whether one was ever tried. The kind, which may take a while to find
// out, is asked for only where something was.
func (c *Catalog) optimized(m *Manifest, kind func() (string, error)) (o optimized, tried bool) {
	v, ok := c.known.Load(m.Name)
	if !ok || len(v.(*known).optimized) == 0 {
		return o, false
	}
	k, err := kind()
	if err != nil {
		return o, false // and the load will tell
	}
	o, tried = v.(*known).optimized[attempt{m.Digest, k}]
	return o, tried
}

// Reread reads what is known of a model anew, now instead of once it is older than
// the refresh interval. Of a model that nobody asked for nothing is known, and it
// only stops counting as one that does not exist.
func (c *Catalog) Reread(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	c.unknownMu.Lock()
	delete(c.unknown, name)
	c.unknownMu.Unlock()
	v, ok := c.known.Load(name)
	if !ok {
		return nil
	}
	_, err := c.read(ctx, name, v.(*known))
	return err
}

// forget drops what is known of a model, so that the next caller reads what
// this process has just written.
func (c *Catalog) forget(name string) {
	c.writes.Add(1)
	c.known.Delete(name)
	c.flight.Forget(name)
	c.unknownMu.Lock()
	delete(c.unknown, name)
	c.unknownMu.Unlock()
}

func (c *Catalog) isUnknown(name string) bool {
	c.unknownMu.Lock()
	defer c.unknownMu.Unlock()
	at, ok := c.unknown[name]
	return ok && c.now().Sub(at) <= c.refresh
}

func (c *Catalog) rememberUnknown(name string, writes uint64) {
	c.unknownMu.Lock()
	defer c.unknownMu.Unlock()
	if c.writes.Load() != writes {
		return
	}
	if len(c.unknown) >= unknownMost {
		clear(c.unknown)
	}
	c.unknown[name] = c.now()
}

package model

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Registry is a bucket of models as one process sees it: the catalog, the
// artifacts, and the sessions that are warm here.
type Registry struct {
	*Catalog
	Warm *Warm

	artifacts *Artifacts
	hot       *hot // nil: there is nobody to share it with
	formats   []engine.Format
	pinned    []Ref
	meant     map[Ref]Ref       // what refs mean here alone
	elsewhere bool              // canaries answer
	pins      map[Ref]*Manifest // what follow pinned last; it alone touches it
	log       *slog.Logger
	stop      context.CancelFunc
	loops     sync.WaitGroup
}

// Open makes a registry on a bucket. Nothing is read from the bucket yet. The
// first format is the one that a push means when it names none. Changes made
// through this registry, loads and evictions are told to outbox, unless it is
// nil. Through kv instances of a service tell each other which models are hot,
// unless it is nil.
func Open(c *Config, blob store.Blob, kv store.KV, formats []engine.Format, outbox *event.Outbox, tel *telemetry.Telemetry) (*Registry, error) {
	instruments, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	artifacts, err := openArtifacts(blob, c.cacheDir(), int64(c.CacheSize), c.Fetch, tel.Log, instruments)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		Catalog: NewCatalog(blob, c.Refresh, outbox), Warm: newWarm(c, artifacts, formats, outbox, tel.Log, instruments),
		artifacts: artifacts, formats: formats, pins: map[Ref]*Manifest{}, meant: map[Ref]Ref{}, elsewhere: c.Elsewhere, log: tel.Log, stop: func() {},
	}
	r.Warm.optimizer = newOptimizer(r.Warm, r.Catalog, formats)
	if kv != nil {
		r.hot = &hot{kv: kv, key: "hot/" + c.service(), catalog: r.Catalog, warm: r.Warm, log: tel.Log, now: time.Now, pending: map[versionID]uint64{}}
	}
	for _, p := range c.Pinned {
		ref, meant, err := parsePin(p)
		if err != nil {
			return nil, err
		}
		r.pinned = append(r.pinned, ref)
		if meant == ref {
			continue
		}
		r.meant[ref] = meant
		if ref.Version == Champion {
			r.meant[Ref{Name: ref.Name}] = meant
		}
	}
	return r, nil
}

// parsePin reads what is to be kept: a ref or, as "name:alias=7", one that means a version here, whatever the bucket says.
func parsePin(s string) (ref, meant Ref, err error) {
	text, version, fixed := strings.Cut(s, "=")
	ref, err = ParseRef(text)
	if err != nil || !fixed {
		return ref, ref, err
	}
	meant = Ref{Name: ref.Name, Version: version}
	if _, ok := meant.number(); !ok || CheckAlias(ref.Version) != nil {
		return ref, meant, fault.New(fault.Invalid, "%.100q is no name, name:version, name:alias or name:alias=version", s)
	}
	return ref, meant, nil
}

// Route is the catalog's, by what refs mean in this process.
func (r *Registry) Route(ctx context.Context, ref Ref) (*Manifest, *Split, error) {
	if meant, ok := r.meant[ref]; ok {
		ref = meant
	}
	m, split, err := r.Catalog.Route(ctx, ref)
	if err == nil && r.elsewhere && split.canaries() > 0 {
		split = split.alone(m.Version)
	}
	return m, split, err
}

// Resolve finds the version that a ref means in this process.
func (r *Registry) Resolve(ctx context.Context, ref Ref) (*Manifest, error) {
	m, _, err := r.Route(ctx, ref)
	return m, err
}

// Close ends what Start began and closes the warm sessions.
func (r *Registry) Close() error {
	r.stop()
	r.loops.Wait()
	return r.Warm.Close()
}

// Platform is the protocol's name for the runtime of a version.
func (r *Registry) Platform(m *Manifest) string {
	for _, f := range r.formats {
		if f.Name() == m.Runtime {
			return f.Platform()
		}
	}
	return m.Runtime
}

// Push describes a new version.
type Push struct {
	Name     string
	Runtime  string // "": the registry's first
	Settings Settings
	By       string
	// Cause is the id of the event that it is for; "": nobody says. The same file is pushed for a cause once: repeated, the
	// push goes on where it was killed, and gives the same version.
	Cause string
	// Attach, if it is not nil, puts what belongs to the version beside it, before any alias names it. It is called
	// again when the push is repeated.
	Attach func(ctx context.Context, m *Manifest) error
}

// Push takes in a new version: it streams the file to disk, opens it, runs its
// sample, stores it, and publishes the manifest. A file that can't run is
// Invalid and leaves nothing behind. The first version of a model also becomes
// its champion, so that the model answers.
func (r *Registry) Push(ctx context.Context, p Push, file io.Reader) (*Manifest, error) {
	if err := CheckName(p.Name); err != nil {
		return nil, err
	}
	if err := p.Settings.validate(); err != nil {
		return nil, err
	}
	format, err := r.Format(p.Runtime)
	if err != nil {
		return nil, err
	}
	u, err := r.artifacts.Receive(file)
	if err != nil {
		return nil, err
	}
	defer u.Close()
	if u.Size == 0 {
		return nil, fault.New(fault.Invalid, "the model file is empty")
	}
	release, err := r.Warm.hold(ctx, p.Name, u.Size)
	if err != nil {
		return nil, err
	}
	defer release()
	m := Manifest{Name: p.Name, Runtime: format.Name(), Digest: u.Digest, Size: u.Size, Settings: p.Settings, CreatedBy: p.By, Cause: p.Cause}
	artifact, err := u.read()
	if err != nil {
		return nil, diskError(err)
	}
	err = try(ctx, format, artifact, &m)
	unmap(artifact)
	if err != nil {
		return nil, err
	}
	if err := r.artifacts.keep(ctx, u); err != nil {
		return nil, err
	}
	published, err := r.Publish(ctx, m)
	if err != nil {
		return nil, err
	}
	if p.Attach != nil {
		if err := p.Attach(ctx, published); err != nil {
			return nil, err
		}
	}
	if published.Version == 1 {
		none := 0
		_, err := r.Move(ctx, m.Name, Champion, Change{To: 1, Expect: &none, By: p.By, Why: "first version", Cause: p.Cause})
		if err != nil && !fault.Is(err, fault.Conflict) { // somebody named a champion already
			return nil, err
		}
	}
	return published, nil
}

// Artifact gives the file of a version, as Artifacts.Open does: for whoever asks it beside those that are warm.
func (r *Registry) Artifact(ctx context.Context, m *Manifest) (data []byte, release func(), err error) {
	return r.artifacts.Open(ctx, m.Digest, m.Size)
}

// Format gives a runtime by its name; "": the registry's first.
func (r *Registry) Format(name string) (engine.Format, error) {
	if name == "" {
		return r.formats[0], nil
	}
	var known []string
	for _, f := range r.formats {
		if f.Name() == name {
			return f, nil
		}
		known = append(known, f.Name())
	}
	return nil, fault.New(fault.Invalid, "runtime %q is not one of %q", name, known)
}

// try opens a new file and runs its sample, and fills in what that tells.
func try(ctx context.Context, format engine.Format, artifact []byte, m *Manifest) error {
	session, err := format.Open(ctx, artifact, engine.Options{Threads: m.Threads})
	if err != nil {
		return err
	}
	defer session.Close()
	m.Signature, m.Memory = session.Signature(), session.Memory()
	if err := warmUp(ctx, session, m); err != nil {
		if fault.Is(err, fault.Invalid) && len(m.Warmup.Sample) == 0 {
			return fault.Wrap(fault.Invalid, err, "the model does not run on zeros (%s); give a sample request that it can answer as warmup.sample", fault.Message(err))
		}
		return fmt.Errorf("run the sample: %w", err)
	}
	m.Signature = session.Signature() // a run may have taught it labels
	return nil
}

// Start looks for the bucket and begins to load the pinned models, and then keeps
// to what their refs mean until Close. The function it gives tells what is still
// awaited. A process that has never seen its bucket can answer nothing: while it
// is not ready, requests go to those that have, and a deployment with a wrong
// address or key takes none from the one before. Once ready it stays so, since
// what is warm is answered without the bucket.
func (r *Registry) Start(ctx context.Context) (ready func() error) {
	ctx, r.stop = context.WithCancel(ctx)
	var awaited atomic.Pointer[error]
	first := fault.New(fault.Unavailable, "the bucket has not answered yet")
	if len(r.pinned) > 0 {
		first = fault.New(fault.Unavailable, "pinned models are being loaded: %s", r.pinned)
	}
	awaited.Store(&first)
	r.loops.Go(func() { r.Warm.tend(ctx) })
	if r.Warm.optimizer != nil {
		r.loops.Go(func() { r.Warm.optimizer.run(ctx) })
	}
	if r.hot != nil {
		r.loops.Go(func() { r.hot.run(ctx) })
	}
	r.loops.Go(func() {
		for {
			err := r.reach(ctx)
			if err == nil {
				err = r.follow(ctx)
			}
			wasReady := *awaited.Load() == nil
			if err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "look after the bucket and pinned models", "error", err, "ready", wasReady)
			}
			if !wasReady { // once ready, what is loaded goes on answering
				awaited.Store(&err)
			}
			if err == nil && len(r.pinned) == 0 {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(r.refresh):
			}
		}
	})
	return func() error { return *awaited.Load() }
}

// reach asks the bucket for anything, unless pinned models ask for enough.
func (r *Registry) reach(ctx context.Context) error {
	if len(r.pinned) > 0 {
		return nil
	}
	for _, err := range r.blob.List(ctx, "models/", "") {
		if err != nil {
			return fmt.Errorf("look into the bucket: %w", err)
		}
		break
	}
	return nil
}

// follow loads what the pinned refs mean now, and lets go of what they meant
// before once the new is there. It returns the first error after trying all.
func (r *Registry) follow(ctx context.Context) error {
	var first error
	for _, ref := range r.pinned {
		m, err := r.Resolve(ctx, ref)
		if err == nil {
			err = r.Warm.Pin(ctx, m)
		}
		if err != nil {
			if first == nil {
				first = fmt.Errorf("load pinned model %s: %w", ref, err)
			}
			continue
		}
		old := r.pins[ref]
		r.pins[ref] = m
		if old != nil && !slices.ContainsFunc(r.pinned, func(p Ref) bool { return r.pins[p] != nil && keyOf(r.pins[p]) == keyOf(old) }) {
			r.Warm.Unpin(old)
		}
	}
	return first
}

package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pilotlight-ml/pilotlight/internal/cgroup"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says how much a process may keep and which models it holds from the start.
type Config struct {
	CacheDir  string        `env:"MODEL_CACHE_DIR" help:"Folder of the disk cache of artifacts; empty: 'pilotlight' in the user's cache folder or, without one, in the temporary folder."`
	CacheSize env.Size      `env:"MODEL_CACHE_SIZE" default:"10GiB" help:"How much the disk cache may hold."`
	Memory    env.Size      `env:"MODEL_MEMORY" default:"0" help:"How much memory warm sessions may take by estimate; 0: 60% of the container's limit or, without one, of the machine."`
	Pinned    []string      `env:"MODEL_PINNED" help:"Models to load before the process is ready, and to keep: name, name:version or name:alias, separated by commas."`
	Refresh   time.Duration `env:"MODEL_REFRESH" default:"2s" help:"How long the registry's state may go unchecked: a change by another process is seen that much later."`
	Fetch     int           `env:"MODEL_FETCH_CONCURRENCY" default:"6" help:"Ranged reads under way at once while an artifact is fetched."`
	Load      time.Duration `env:"MODEL_LOAD_TIMEOUT" default:"10m" help:"How long fetching a model and making its session may take."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.CacheSize <= 0:
		return fault.New(fault.Invalid, "MODEL_CACHE_SIZE must be positive")
	case c.Memory < 0:
		return fault.New(fault.Invalid, "MODEL_MEMORY must not be negative")
	case c.Refresh <= 0:
		return fault.New(fault.Invalid, "MODEL_REFRESH must be positive")
	case c.Fetch < 1 || c.Fetch > 256:
		return fault.New(fault.Invalid, "MODEL_FETCH_CONCURRENCY must be 1 to 256")
	case c.Load <= 0:
		return fault.New(fault.Invalid, "MODEL_LOAD_TIMEOUT must be positive")
	}
	for _, p := range c.Pinned {
		if _, err := ParseRef(p); err != nil {
			return fmt.Errorf("read MODEL_PINNED: %w", err)
		}
	}
	return nil
}

func (c *Config) cacheDir() string {
	if c.CacheDir != "" {
		return c.CacheDir
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "pilotlight", "models")
	}
	return filepath.Join(os.TempDir(), "pilotlight", "models")
}

func (c *Config) memory() int64 {
	if c.Memory > 0 {
		return int64(c.Memory)
	}
	limit, ok := cgroup.Memory()
	if !ok {
		limit = machineMemory()
	}
	return limit / 10 * 6
}

// Warm holds sessions that are ready to run, at most a budget of memory.
//
// The first caller of a model has it loaded, once however many ask; later ones
// share its session. When memory runs short the session that was used longest
// ago is closed, never one in use and never a pinned one.
type Warm struct {
	artifacts *Artifacts
	formats   map[string]engine.Format
	budget    int64
	timeout   time.Duration
	log       *slog.Logger
	tel       *instruments

	mu     sync.Mutex
	slots  map[slotKey]*slot
	used   int64         // bytes, by estimate, of all sessions and those in the making
	ending int64         // those of them that are being closed
	freed  chan struct{} // closed and replaced when memory may have become free, if asked
	asked  bool          // somebody waits for freed
	closed bool
	loads  sync.WaitGroup
}

// slotKey tells sessions apart: versions with the same file and threads share one.
type slotKey struct {
	digest  Digest
	threads int
}

// slot is a session, or one in the making.
type slot struct {
	key      slotKey
	model    string // that had it loaded, for people
	version  int
	cost     int64
	ready    chan struct{} // closed when session or err is set
	session  engine.Session
	err      error
	failedAt time.Time
	users    int
	pinned   bool
	usedAt   time.Time
	gone     chan struct{} // set when the slot was unloaded; closed when its session is
}

// retryAfter is how long a failed load answers for itself, so that callers of a
// broken model don't fetch it over and over.
const retryAfter = 2 * time.Second

// reserveTimeout is how long a load waits for sessions in use to become idle.
const reserveTimeout = 10 * time.Second

func newWarm(c *Config, artifacts *Artifacts, formats []engine.Format, log *slog.Logger, tel *instruments) *Warm {
	w := &Warm{
		artifacts: artifacts, formats: map[string]engine.Format{}, budget: c.memory(), timeout: c.Load,
		log: log, tel: tel, slots: map[slotKey]*slot{}, freed: make(chan struct{}),
	}
	for _, f := range formats {
		w.formats[f.Name()] = f
	}
	return w
}

// Lease is the right to run a session. Release ends it.
type Lease struct {
	engine.Session
	warm *Warm
	slot *slot
}

// Release gives the session back.
func (l Lease) Release() { l.warm.leave(l.slot) }

func keyOf(m *Manifest) slotKey { return slotKey{m.Digest, m.Threads} }

// Acquire gives a session of the version, loading it first where it is not warm.
// A caller whose ctx ends while it waits gets that error; the load goes on for
// those that come after.
func (w *Warm) Acquire(ctx context.Context, m *Manifest) (Lease, error) {
	s, err := w.enter(ctx, m)
	if err != nil {
		return Lease{}, err
	}
	select {
	case <-s.ready:
	default:
		select {
		case <-s.ready:
		case <-ctx.Done():
			w.leave(s)
			return Lease{}, fault.Wrap(fault.Deadline, ctx.Err(), "model %q, version %d is still being loaded; try again", m.Name, m.Version)
		}
	}
	if s.err != nil {
		w.leave(s)
		return Lease{}, s.err
	}
	return Lease{s.session, w, s}, nil
}

// Pin loads a version and keeps it until Unpin, whatever else needs memory.
func (w *Warm) Pin(ctx context.Context, m *Manifest) error {
	l, err := w.Acquire(ctx, m)
	if err != nil {
		return err
	}
	w.mu.Lock()
	l.slot.pinned = true
	w.mu.Unlock()
	l.Release()
	return nil
}

// Unpin makes a version an ordinary one again.
func (w *Warm) Unpin(m *Manifest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.slots[keyOf(m)]; s != nil {
		s.pinned = false
		w.wake()
	}
}

// Prefetch begins to load a version, if nothing of it is there yet.
func (w *Warm) Prefetch(ctx context.Context, m *Manifest) {
	if s, err := w.enter(ctx, m); err == nil {
		w.leave(s)
	}
}

// State tells how a version stands in this process.
type State uint8

// The states of a version.
const (
	Cold State = iota
	Loading
	Ready
	Failed
)

// State tells how a version stands; the error is that of a load that failed lately.
func (w *Warm) State(m *Manifest) (State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.slots[keyOf(m)]
	if s == nil {
		return Cold, nil
	}
	select {
	case <-s.ready:
		if s.err != nil {
			return Failed, s.err
		}
		return Ready, nil
	default:
		return Loading, nil
	}
}

// Unload takes a version out of memory and reports whether it was there. Calls
// under way end first; those that come meanwhile load it anew.
func (w *Warm) Unload(ctx context.Context, m *Manifest) (bool, error) {
	w.mu.Lock()
	s := w.slots[keyOf(m)]
	if s == nil {
		w.mu.Unlock()
		return false, nil
	}
	delete(w.slots, s.key)
	s.gone = make(chan struct{})
	if s.users == 0 {
		w.end(s)
	}
	w.mu.Unlock()
	select {
	case <-s.gone:
		return true, nil
	case <-ctx.Done():
		return true, ctx.Err()
	}
}

// Close waits for loads and closes all sessions. Nobody may hold a lease.
func (w *Warm) Close() error {
	w.mu.Lock()
	w.closed = true
	w.wake()
	w.mu.Unlock()
	w.loads.Wait()
	w.mu.Lock()
	for _, s := range w.slots {
		w.end(s)
	}
	w.mu.Unlock()
	w.loads.Wait()
	w.artifacts.close()
	return nil
}

// enter finds or makes the version's slot and counts the caller in.
func (w *Warm) enter(ctx context.Context, m *Manifest) (*slot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fault.New(fault.Unavailable, "the server is shutting down")
	}
	key := keyOf(m)
	s := w.slots[key]
	if s != nil && s.err != nil && s.users == 0 && time.Since(s.failedAt) > retryAfter {
		delete(w.slots, key)
		s = nil
	}
	if s == nil {
		s = &slot{key: key, model: m.Name, version: m.Version, cost: m.Memory.Session, ready: make(chan struct{})}
		w.slots[key] = s
		s.users++ // the load itself: nobody closes what is in the making
		w.loads.Go(func() { w.load(ctx, s, m) })
	}
	s.users++
	s.usedAt = time.Now()
	return s, nil
}

func (w *Warm) leave(s *slot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.users--
	if s.users > 0 {
		return
	}
	w.wake()
	if s.gone != nil {
		w.end(s)
	}
}

// wake tells waiters that memory may be free; the caller holds mu.
func (w *Warm) wake() {
	if !w.asked {
		return
	}
	w.asked = false
	close(w.freed)
	w.freed = make(chan struct{})
}

// end closes a session nobody uses, outside the lock, since a large one takes
// its time; the caller holds mu. Its memory counts until it is free.
func (w *Warm) end(s *slot) {
	if w.slots[s.key] == s {
		delete(w.slots, s.key)
	}
	session := s.session
	s.session = nil
	w.loads.Go(func() {
		var err error
		if session != nil {
			err = session.Close()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if session != nil {
			w.used -= s.cost
			w.ending -= s.cost
			w.tel.memoryBytes(w.used, len(w.slots))
		}
		if s.gone != nil {
			close(s.gone)
		}
		w.wake()
		if err != nil {
			w.log.Error("close model", "model", s.model, "version", s.version, "error", err)
		}
	})
	if session != nil {
		w.ending += s.cost
	}
}

// load fills a slot.
func (w *Warm) load(ctx context.Context, s *slot, m *Manifest) {
	// It serves all who wait, so it does not end with the caller it began with.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.timeout)
	defer cancel()
	begin := time.Now()
	session, err := w.open(ctx, s, m)
	level, outcome := slog.LevelInfo, "loaded"
	if err != nil {
		level, outcome = slog.LevelError, "failed"
	}
	w.tel.loaded(ctx, outcome, time.Since(begin))
	w.log.LogAttrs(ctx, level, "model "+outcome, slog.String("model", m.Name), slog.Int("version", m.Version),
		slog.String("digest", string(m.Digest)), slog.Int64("size", m.Size),
		slog.Duration("duration", time.Since(begin)), slog.Any("error", err))

	defer w.leave(s)
	w.mu.Lock()
	defer w.mu.Unlock()
	s.session, s.err = session, err
	if err != nil {
		s.failedAt = time.Now()
	}
	close(s.ready)
	w.wake()
}

// open reserves memory, brings the artifact, makes the session and runs its sample.
func (w *Warm) open(ctx context.Context, s *slot, m *Manifest) (_ engine.Session, err error) {
	format := w.formats[m.Runtime]
	if format == nil {
		return nil, fault.New(fault.Unavailable, "model %q, version %d needs the runtime %q, which this server does not have", m.Name, m.Version, m.Runtime)
	}
	held := m.Memory.Loading
	if err := w.reserve(ctx, fmt.Sprintf("model %q, version %d", m.Name, m.Version), held); err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			held -= s.cost // what stays, until the session is closed
		}
		w.giveBack(held)
	}()

	end := w.tel.stage(ctx, telemetry.StageFetch)
	artifact, release, err := w.artifacts.Open(ctx, m.Digest, m.Size)
	if err != nil {
		return nil, err
	}
	defer release()
	end()

	end = w.tel.stage(ctx, telemetry.StageSession)
	session, err := format.Open(ctx, artifact, engine.Options{Signature: &m.Signature, Threads: m.Threads})
	if err != nil {
		return nil, fmt.Errorf("open session of %s:%d: %w", m.Name, m.Version, err)
	}
	end()

	end = w.tel.stage(ctx, telemetry.StageWarmup)
	if err := warmUp(ctx, session, m); err != nil {
		return nil, errors.Join(fmt.Errorf("warm up %s:%d: %w", m.Name, m.Version, err), session.Close())
	}
	end()
	return session, nil
}

func warmUp(ctx context.Context, session engine.Session, m *Manifest) error {
	inputs, err := m.sample()
	if err != nil {
		return err
	}
	for range max(m.Warmup.Runs, 1) {
		if _, err := session.Run(ctx, inputs); err != nil {
			return err
		}
	}
	return nil
}

// hold reserves the memory of a file on trial, of which only the size is known:
// what loading takes where most of it is weights.
func (w *Warm) hold(ctx context.Context, name string, size int64) (release func(), err error) {
	n := 4 * size
	if err := w.reserve(ctx, fmt.Sprintf("model %q", name), n); err != nil {
		return nil, err
	}
	return func() { w.giveBack(n) }, nil
}

func (w *Warm) giveBack(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used -= n
	w.tel.memoryBytes(w.used, len(w.slots))
	w.wake()
}

// reserve takes n bytes out of the budget, closing idle sessions, the longest
// unused first. While all are in use it waits for one to become idle.
func (w *Warm) reserve(ctx context.Context, what string, n int64) error {
	if n > w.budget {
		return fault.New(fault.Unavailable, "loading %s takes about %s of memory, more than the %s that models may take here (MODEL_MEMORY)",
			what, humanize.IBytes(uint64(n)), humanize.IBytes(uint64(w.budget)))
	}
	patience := time.NewTimer(min(reserveTimeout, w.timeout))
	defer patience.Stop()
	for {
		w.mu.Lock()
		w.evict(w.budget - n)
		if w.used+n <= w.budget {
			w.used += n
			w.tel.memoryBytes(w.used, len(w.slots))
			w.mu.Unlock()
			return nil
		}
		freed, used, closed := w.freed, w.used, w.closed
		w.asked = true
		w.mu.Unlock()
		if closed {
			return fault.New(fault.Unavailable, "the server is shutting down")
		}
		select {
		case <-freed:
		case <-patience.C:
			return fault.New(fault.Overloaded, "loading %s takes about %s of memory, and of the %s that models may take here (MODEL_MEMORY) %s are in use; try again",
				what, humanize.IBytes(uint64(n)), humanize.IBytes(uint64(w.budget)), humanize.IBytes(uint64(used)))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// evict closes idle sessions until at most target bytes are used, if it can; the
// caller holds mu.
func (w *Warm) evict(target int64) {
	if w.used-w.ending <= target {
		return
	}
	var idle []*slot
	for _, s := range w.slots {
		if s.session != nil && s.users == 0 && !s.pinned {
			idle = append(idle, s)
		}
	}
	slices.SortFunc(idle, func(x, y *slot) int { return x.usedAt.Compare(y.usedAt) })
	for _, s := range idle {
		if w.used-w.ending <= target {
			return
		}
		w.tel.evicted()
		w.end(s)
	}
}

// Loaded describes a warm session, for lists and metrics.
type Loaded struct {
	Model   string
	Version int
	Digest  Digest
	Bytes   int64
	Pinned  bool
}

// Loaded lists the sessions that are ready, by model and version.
func (w *Warm) Loaded() []Loaded {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Loaded
	for _, s := range w.slots {
		if s.session != nil {
			all = append(all, Loaded{s.model, s.version, s.key.digest, s.cost, s.pinned})
		}
	}
	slices.SortFunc(all, func(x, y Loaded) int {
		return cmp.Or(strings.Compare(x.Model, y.Model), cmp.Compare(x.Version, y.Version))
	})
	return all
}

package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pilotlight-ml/pilotlight/internal/cgroup"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says how much a process may keep and which models it holds from the start.
type Config struct {
	CacheDir  string        `env:"MODEL_CACHE_DIR" help:"Folder of the disk cache of artifacts, which stays empty while the bucket is a folder of the same file system; empty: 'pilotlight' in the user's cache folder or, without one, in the temporary folder."`
	CacheSize env.Size      `env:"MODEL_CACHE_SIZE" default:"10GiB" help:"How much the disk cache may hold."`
	Memory    env.Size      `env:"MODEL_MEMORY" default:"0" help:"How much memory warm sessions may take; 0: 60% of the container's limit or, without one, of the machine."`
	Idle      time.Duration `env:"MODEL_IDLE" default:"15m" help:"How long a model may go unused before its memory is given back; 0: until others need it."`
	Pinned    []string      `env:"MODEL_PINNED" help:"Models to load before the process is ready, and to keep: name, name:version or name:alias, separated by commas. With name:alias=version the alias means that version in this process, whatever the bucket says."`
	Elsewhere bool          `env:"MODEL_CANARIES_ELSEWHERE" default:"false" help:"Whether canaries of aliases never answer here: in Knative services whose traffic is split between revisions, one of which is the canary's."`
	Refresh   time.Duration `env:"MODEL_REFRESH" default:"2s" help:"How long the registry's state may go unchecked: a change by another process is seen that much later."`
	Fetch     int           `env:"MODEL_FETCH_CONCURRENCY" default:"6" help:"Ranged reads under way at once while an artifact is fetched."`
	Load      time.Duration `env:"MODEL_LOAD_TIMEOUT" default:"10m" help:"How long fetching a model and making its session may take."`
	Service   string        `env:"K_SERVICE" help:"Name of the Knative service; Knative sets it."`
	Instance  string        `env:"HOSTNAME" help:"Name of this instance; Kubernetes sets it to the pod's name."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.CacheSize <= 0:
		return fault.New(fault.Invalid, "MODEL_CACHE_SIZE must be positive")
	case c.Memory < 0:
		return fault.New(fault.Invalid, "MODEL_MEMORY must not be negative")
	case c.Idle < 0:
		return fault.New(fault.Invalid, "MODEL_IDLE must not be negative")
	case c.Refresh <= 0:
		return fault.New(fault.Invalid, "MODEL_REFRESH must be positive")
	case c.Fetch < 1 || c.Fetch > 256:
		return fault.New(fault.Invalid, "MODEL_FETCH_CONCURRENCY must be 1 to 256")
	case c.Load <= 0:
		return fault.New(fault.Invalid, "MODEL_LOAD_TIMEOUT must be positive")
	}
	for _, p := range c.Pinned {
		if _, _, err := parsePin(p); err != nil {
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

// instance is the process's name in events.
func (c *Config) instance() string {
	if c.Instance != "" {
		return c.Instance
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// service is the name that instances which do the same share.
func (c *Config) service() string { return cmp.Or(c.Service, "predict") }

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

// LimitHeap has Go's collector keep to what the container's limit leaves beside the
// models, unless GOMEMLIMIT says what it should keep to. A third of that is for
// what else is not Go's: the runtime's library, runs under way, stacks.
func (c *Config) LimitHeap() {
	limit, ok := cgroup.Memory()
	if !ok || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	debug.SetMemoryLimit(max((limit-c.memory())/3*2, 32<<20))
}

// Warm holds sessions that are ready to run, at most a budget of memory.
//
// The first caller of a model has it loaded, once however many ask; later ones
// share its session. When memory runs short the session that was used longest
// ago is closed, never one in use and never a pinned one. So are sessions that
// nobody used for long.
//
// What all sessions together take is measured, where the runtime can tell, and so
// is what is lost to them since freed memory lies in pieces: both count against
// the budget. What a single one takes is measured when nothing else is made or
// closed meanwhile, and estimated until then; it tells how many must go to make
// room, and whether that was enough is measured again.
type Warm struct {
	artifacts *Artifacts
	formats   map[string]engine.Format
	heap      engine.Heap // nil: nothing is measured
	budget    int64
	idle      time.Duration // 0: for ever
	timeout   time.Duration
	instance  string
	outbox    *event.Outbox
	log       *slog.Logger
	tel       *instruments
	optimizer *optimizer    // nil: no runtime here can
	closers   chan struct{} // holds one for each session that is being closed
	quiet     *time.Timer   // fires when none was made or closed for a while

	mu      sync.Mutex
	slots   map[slotKey]*slot
	costs   map[slotKey]int64 // as measured, also of sessions that are closed
	used    int64             // bytes of all sessions, the sum of their costs
	ending  int64             // those of used that are being closed
	making  int64             // bytes reserved for sessions in the making
	lost    int64             // bytes that were resident and of no use when last looked at
	changes uint64            // sessions that began or ended to be made or closed
	busy    int               // sessions that are being made or closed now
	called  int               // loads under way that a caller waits for
	uses    map[versionID]uint64
	freed   chan struct{} // closed and replaced when memory may have become free, if asked
	asked   bool          // somebody waits for freed
	closed  bool
	loads   sync.WaitGroup
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
	why      string
	cost     int64
	loadedAt time.Time
	uses     uint64        // by callers, since they were last counted
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

// closersMost is how many sessions are closed at once: one large model may need the
// room of a hundred small ones, and each would take a thread, which Go never gives back.
const closersMost = 4

// quietAfter is how long none was made or closed before what that left behind is
// given back: after a first small model 4 MB of 66. It takes some milliseconds, in
// which runs wait for memory.
const quietAfter = 100 * time.Millisecond

// costsMost bounds how many measured costs are remembered.
const costsMost = 10_000

// Why a session is made.
const (
	forCaller = "request" // somebody waits for it
	forAlias  = "alias"   // an alias moved to it
	forPin    = "pinned"
	forHeat   = "hot" // other instances were asked for it
)

// Why a session is closed.
const (
	toMakeRoom = "memory"
	toRest     = "idle"
	toObey     = "unload"
	toEnd      = "shutdown"
)

func newWarm(c *Config, artifacts *Artifacts, formats []engine.Format, outbox *event.Outbox, log *slog.Logger, tel *instruments) *Warm {
	w := &Warm{
		artifacts: artifacts, formats: map[string]engine.Format{}, budget: c.memory(), idle: c.Idle, timeout: c.Load,
		instance: c.instance(), outbox: outbox, log: log, tel: tel, closers: make(chan struct{}, closersMost),
		slots: map[slotKey]*slot{}, costs: map[slotKey]int64{}, uses: map[versionID]uint64{}, freed: make(chan struct{}),
	}
	for _, f := range formats {
		w.formats[f.Name()] = f
		if h, ok := f.(engine.Heap); ok && w.heap == nil {
			w.heap = h
		}
	}
	w.quiet = time.AfterFunc(time.Hour, w.settle)
	w.quiet.Stop()
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
	return w.acquire(ctx, m, forCaller)
}

func (w *Warm) acquire(ctx context.Context, m *Manifest, why string) (Lease, error) {
	s, err := w.enter(ctx, m, why)
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
	l, err := w.acquire(ctx, m, forPin)
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
	if s, err := w.enter(ctx, m, forAlias); err == nil {
		w.leave(s)
	}
}

// calm waits until no caller waits for a load: beside one it would only be in the way.
func (w *Warm) calm(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.called > 0 && !w.closed {
		freed := w.freed
		w.asked = true
		w.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		w.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// heat loads a version that callers are likely to ask for, as long as it fits into
// share bytes beside what is taken. It tells whether it did.
func (w *Warm) heat(ctx context.Context, m *Manifest, share int64) (bool, error) {
	if err := w.calm(ctx); err != nil {
		return false, err
	}
	measured := w.measured()
	w.mu.Lock()
	_, there := w.slots[keyOf(m)]
	room := there || w.taken(measured)+w.loading(m) <= share
	w.mu.Unlock()
	if !room {
		return false, nil
	}
	l, err := w.acquire(ctx, m, forHeat)
	if err == nil {
		l.Release()
	}
	return true, err
}

// spare reserves what it takes to make two sessions of a version, if that much is
// left over: nothing is closed for it.
func (w *Warm) spare(ctx context.Context, m *Manifest) (release func(), ok bool, err error) {
	if err := w.calm(ctx); err != nil {
		return nil, false, err
	}
	measured := w.measured()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 2 * w.loading(m)
	if w.closed || w.taken(measured)+w.lost+n > w.budget {
		return nil, false, nil
	}
	w.making += n
	w.begin()
	return func() {
		w.mu.Lock()
		w.done()
		w.mu.Unlock()
		w.giveBack(n)
	}, true, nil
}

// cost is what a session of the version takes, as far as is known; the caller holds mu.
func (w *Warm) cost(m *Manifest) int64 {
	if n, ok := w.costs[keyOf(m)]; ok {
		return n
	}
	return m.Memory.Session
}

// loading is what it takes while it is made; the caller holds mu.
func (w *Warm) loading(m *Manifest) int64 {
	return m.Memory.Loading - m.Memory.Session + w.cost(m)
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
		w.end(s, toObey)
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
		w.end(s, toEnd)
	}
	w.mu.Unlock()
	w.loads.Wait()
	w.quiet.Stop()
	w.artifacts.close()
	return nil
}

// enter finds or makes the version's slot and counts the caller in.
func (w *Warm) enter(ctx context.Context, m *Manifest, why string) (*slot, error) {
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
		s = &slot{key: key, model: m.Name, version: m.Version, why: why, cost: w.cost(m), ready: make(chan struct{})}
		w.slots[key] = s
		s.users++ // the load itself: nobody closes what is in the making
		if why == forCaller {
			w.called++
		}
		w.loads.Go(func() { w.load(ctx, s, m) })
	}
	s.users++
	s.usedAt = time.Now()
	if why == forCaller {
		s.uses++
	}
	return s, nil
}

func (w *Warm) leave(s *slot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left(s)
}

// left counts a user out; the caller holds mu.
func (w *Warm) left(s *slot) {
	s.users--
	if s.users > 0 {
		return
	}
	w.wake()
	if s.gone != nil {
		w.end(s, toObey)
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
func (w *Warm) end(s *slot, why string) {
	if w.slots[s.key] == s {
		delete(w.slots, s.key)
	}
	w.count(s)
	session := s.session
	if session == nil { // it was never made
		if s.gone != nil {
			close(s.gone)
		}
		return
	}
	s.session = nil
	w.ending += s.cost
	w.begin()
	w.loads.Go(func() {
		w.closers <- struct{}{}
		if err := session.Close(); err != nil {
			w.log.Error("close model", "model", s.model, "version", s.version, "error", err)
		}
		<-w.closers
		w.tel.evicted(why)
		w.outbox.Give(context.Background(), event.ModelEvicted.New(event.Evicted{
			Model: s.model, Version: s.version, Digest: string(s.key.digest), Instance: w.instance, Why: why,
			Bytes: s.cost, Milliseconds: time.Since(s.loadedAt).Milliseconds(), At: time.Now().UTC(),
		}))
		w.mu.Lock()
		w.used -= s.cost
		w.ending -= s.cost
		w.done()
		w.tell(0)
		if s.gone != nil {
			close(s.gone)
		}
		w.wake()
		w.mu.Unlock()
	})
}

// begin notes that a session begins to be made or closed, and tells when that was;
// the caller holds mu.
func (w *Warm) begin() uint64 {
	w.changes++
	w.busy++
	return w.changes
}

// done notes that it has ended; the caller holds mu.
func (w *Warm) done() {
	w.changes++
	w.busy--
	w.quiet.Reset(quietAfter)
}

// settle gives back what making and closing sessions has left behind, for which
// nobody is about to have a use.
func (w *Warm) settle() {
	w.mu.Lock()
	busy := w.busy > 0
	w.mu.Unlock()
	if !busy && w.heap != nil {
		w.heap.Trim()
	}
}

// count adds what callers used a slot to what is told to other instances; the
// caller holds mu.
func (w *Warm) count(s *slot) {
	if s.uses > 0 {
		w.uses[versionID{s.model, s.version}] += s.uses
		s.uses = 0
	}
}

// takeUses gives how often callers used which version since it was last asked.
func (w *Warm) takeUses() map[versionID]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.slots {
		w.count(s)
	}
	uses := w.uses
	w.uses = map[versionID]uint64{}
	return uses
}

// tend closes what nobody uses and sees to it that what is resident stays within
// the budget, until ctx ends.
func (w *Warm) tend(ctx context.Context) {
	tick := 10 * time.Second
	if w.idle > 0 {
		tick = max(min(tick, w.idle/10), time.Millisecond)
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.rest()
			w.look()
		}
	}
}

// rest closes sessions that nobody used for long, and forgets loads that failed.
func (w *Warm) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, s := range w.slots {
		switch {
		case s.users > 0:
		case s.err != nil && time.Since(s.failedAt) > retryAfter:
			delete(w.slots, key)
		case s.session != nil && !s.pinned && w.idle > 0 && time.Since(s.usedAt) > w.idle:
			w.end(s, toRest)
		}
	}
}

// measured is what sessions and runs hold, as the runtime tells; 0 where it does not.
func (w *Warm) measured() int64 {
	if w.heap == nil {
		return 0
	}
	return w.heap.InUse()
}

// taken is what of the budget is taken, given what was measured just before; the
// caller holds mu. What a session in the making has got already counts twice.
func (w *Warm) taken(measured int64) int64 {
	if measured == 0 {
		measured = w.used
	}
	return measured + w.making
}

// tell has the metrics say what is taken, unless that is to be measured and was
// not; the caller holds mu.
func (w *Warm) tell(measured int64) {
	if w.heap == nil || measured > 0 {
		w.tel.memoryBytes(w.taken(measured), len(w.slots))
	}
}

// look finds out how much memory is resident and of no use, has it given back
// where that is much, and makes room where the budget is exceeded. What stays
// lost counts at most for half of the budget, so that it can never keep all
// models from being warm.
func (w *Warm) look() {
	if w.heap == nil {
		return
	}
	inUse, resident := w.heap.InUse(), w.heap.Resident()
	if resident-inUse > w.budget/16 {
		w.heap.Trim()
		inUse, resident = w.heap.InUse(), w.heap.Resident()
	}
	w.tel.residentBytes(resident)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell(inUse)
	w.lost = min(max(0, resident-inUse), w.budget/2)
	w.evict(w.taken(inUse) + w.lost - w.budget)
}

// load fills a slot.
func (w *Warm) load(ctx context.Context, s *slot, m *Manifest) {
	// It serves all who wait, so it does not end with the caller it began with.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.timeout)
	defer cancel()
	begin := time.Now()
	session, cost, err := w.open(ctx, m)
	took := time.Since(begin)
	level, outcome := slog.LevelInfo, "loaded"
	if err != nil {
		level, outcome = slog.LevelError, "failed"
	}
	w.tel.loaded(ctx, outcome, took)
	w.log.LogAttrs(ctx, level, "model "+outcome, slog.String("model", m.Name), slog.Int("version", m.Version),
		slog.String("digest", string(m.Digest)), slog.Int64("size", m.Size), slog.String("why", s.why), slog.Int64("memory", cost),
		slog.Duration("duration", took), slog.Any("error", err))

	if err == nil {
		w.outbox.Give(ctx, event.ModelLoaded.New(event.Loaded{
			Model: m.Name, Version: m.Version, Digest: string(m.Digest), Instance: w.instance, Why: s.why,
			Bytes: cost, Milliseconds: took.Milliseconds(), At: time.Now().UTC(),
		}))
	}

	defer w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	s.session, s.err, s.cost, s.loadedAt = session, err, cost, time.Now()
	if err != nil {
		s.failedAt = s.loadedAt
	}
	if s.why == forCaller {
		w.called--
	}
	close(s.ready)
	w.wake()
	w.left(s) // not later: once its callers have left, it is idle
}

// open reserves memory, brings the artifact, makes the session and runs its
// sample. It tells what the session takes, which stays reserved.
func (w *Warm) open(ctx context.Context, m *Manifest) (_ engine.Session, cost int64, err error) {
	format := w.formats[m.Runtime]
	if format == nil {
		return nil, 0, fault.New(fault.Unavailable, "model %q, version %d needs the runtime %q, which this server does not have", m.Name, m.Version, m.Runtime)
	}
	w.mu.Lock()
	held := w.loading(m)
	w.mu.Unlock()
	if err := w.reserve(ctx, fmt.Sprintf("model %q, version %d", m.Name, m.Version), held); err != nil {
		return nil, 0, err
	}
	defer func() {
		w.mu.Lock()
		w.used += cost
		w.mu.Unlock()
		w.giveBack(held)
	}()

	if w.optimizer != nil && m.Runtime == w.optimizer.format.Name() {
		if o, _ := w.optimizer.catalog.optimized(m, w.optimizer.tool.Kind); o.digest != "" {
			session, cost, err := w.makeOf(ctx, format, m, o.digest, o.size, true)
			if err == nil || ctx.Err() != nil {
				return session, cost, err
			}
			// It is a convenience: whatever is wrong with it, there is the original.
			w.log.WarnContext(ctx, "optimized model not used", "model", m.Name, "version", m.Version, "error", err)
		}
	}
	return w.makeOf(ctx, format, m, m.Digest, m.Size, false)
}

// makeOf makes the session of a version's artifact, or of the optimized one.
func (w *Warm) makeOf(ctx context.Context, format engine.Format, m *Manifest, d Digest, size int64, optimized bool) (_ engine.Session, cost int64, err error) {
	end := w.tel.stage(ctx, telemetry.StageFetch)
	artifact, release, err := w.artifacts.Open(ctx, d, size)
	if err != nil {
		return nil, 0, err
	}
	defer release()
	end()

	measured := w.measure(m)
	begin := time.Now()
	end = w.tel.stage(ctx, telemetry.StageSession)
	session, err := format.Open(ctx, artifact, engine.Options{Signature: &m.Signature, Threads: m.Threads, Optimized: optimized})
	if err != nil {
		measured(nil)
		return nil, 0, fmt.Errorf("open session of %s:%d: %w", m.Name, m.Version, err)
	}
	end()
	took := time.Since(begin)

	end = w.tel.stage(ctx, telemetry.StageWarmup)
	if err := warmUp(ctx, session, m); err != nil {
		err = errors.Join(fmt.Errorf("warm up %s:%d: %w", m.Name, m.Version, err), session.Close())
		measured(nil)
		return nil, 0, err
	}
	end()
	if !optimized {
		w.optimizer.offer(m, took)
	}
	return session, measured(session), nil
}

// measure begins to measure what a session takes. The function that it gives ends
// that and tells the result, which is what was known before if anything else was
// made or closed meanwhile. Runs of other models may be under way and take or
// give back memory, so it is kept between bounds.
func (w *Warm) measure(m *Manifest) func(engine.Session) int64 {
	w.mu.Lock()
	alone := w.busy == 0
	at := w.begin()
	w.mu.Unlock()
	var before int64
	if w.heap != nil {
		before = w.heap.InUse()
	}
	return func(s engine.Session) int64 {
		var after int64
		if w.heap != nil {
			after = w.heap.InUse()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		alone = alone && w.changes == at
		w.done()
		if alone && s != nil && after > 0 {
			if len(w.costs) >= costsMost {
				clear(w.costs)
			}
			w.costs[keyOf(m)] = min(max(after-before, leastCost, m.Size/2), m.Memory.Loading)
		}
		return w.cost(m)
	}
}

// leastCost is what a session takes at least.
const leastCost = 32 << 10

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
	w.making -= n
	w.tell(0)
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
		measured := w.measured()
		w.mu.Lock()
		taken := w.taken(measured)
		w.evict(taken + w.lost + n - w.budget)
		if taken+n <= w.budget { // what is lost has others make room, and keeps nobody waiting
			w.making += n
			w.tell(measured)
			w.mu.Unlock()
			return nil
		}
		freed, closed := w.freed, w.closed
		w.asked = true
		w.mu.Unlock()
		if closed {
			return fault.New(fault.Unavailable, "the server is shutting down")
		}
		select {
		case <-freed:
		case <-patience.C:
			return fault.New(fault.Overloaded, "loading %s takes about %s of memory, and of the %s that models may take here (MODEL_MEMORY) %s are in use; try again",
				what, humanize.IBytes(uint64(n)), humanize.IBytes(uint64(w.budget)), humanize.IBytes(uint64(taken)))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// evict closes idle sessions, the longest unused first, until those that are being
// closed take so many bytes, if it can; the caller holds mu.
func (w *Warm) evict(bytes int64) {
	if w.ending >= bytes {
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
		if w.ending >= bytes {
			return
		}
		w.end(s, toMakeRoom)
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

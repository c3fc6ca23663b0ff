package model

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// weighed is a toy whose sessions really take what a test says.
type weighed struct {
	toy
	each  atomic.Int64 // bytes that a session takes
	lost  atomic.Int64 // bytes that were freed and lie in pieces
	trims atomic.Int64
}

func (f *weighed) InUse() int64    { return f.open.Load() * f.each.Load() }
func (f *weighed) Resident() int64 { return f.InUse() + f.lost.Load() }
func (f *weighed) Trim()           { f.trims.Add(1) }

// openWeighed makes a registry on a bucket with models m0, m1...
func openWeighed(t *testing.T, c *Config, models int) (*Registry, *weighed, []*Manifest) {
	t.Helper()
	blob := newMem()
	push := openTestRegistry(t, blob, testConfig(t))
	var all []*Manifest
	for i := range models {
		all = append(all, pushText(t, push, fmt.Sprint("m", i), fmt.Sprint("ok ", i)))
	}
	f := &weighed{}
	r, err := Open(c, blob, nil, []engine.Format{f}, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, f, all
}

// settled waits until nothing is made or closed.
func settled(t *testing.T, w *Warm) {
	t.Helper()
	eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.busy == 0 && w.making == 0
	})
}

func TestTheBudgetIsOfWhatSessionsReallyTake(t *testing.T) {
	c := testConfig(t)
	c.Memory = 10 << 20
	for _, test := range []struct {
		name string
		each int64 // the estimate is a little above 1 MiB
		want int64 // sessions
	}{
		{"less than estimated", 256 << 10, 20},
		{"as estimated", 1 << 20, 9},
		{"more than estimated", 3 << 20, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, f, all := openWeighed(t, c, 20)
			f.each.Store(test.each)
			for range 2 {
				for _, m := range all {
					use(t, r, m)
					settled(t, r.Warm)
				}
			}
			if got := f.open.Load(); got != test.want {
				t.Errorf("open sessions: got %d, want %d", got, test.want)
			}
			if inUse := f.InUse(); inUse > int64(c.Memory) {
				t.Errorf("%d bytes are in use, more than the budget of %d", inUse, c.Memory)
			}
			if got, most := r.Warm.Loaded()[0].Bytes, all[0].Memory.Loading+1<<10; got != test.each && (test.each < most || got > most) {
				t.Errorf("bytes of a session: got %d, want %d, but no more than loading takes", got, test.each)
			}
		})
	}
}

func TestWhatIsLostMakesRoom(t *testing.T) {
	c := testConfig(t)
	c.Memory = 16 << 20
	r, f, all := openWeighed(t, c, 12)
	f.each.Store(1 << 20)
	for _, m := range all {
		use(t, r, m)
	}
	settled(t, r.Warm)
	if got := f.open.Load(); got != 12 {
		t.Fatalf("open sessions: got %d, want all 12", got)
	}
	l, err := r.Warm.Acquire(t.Context(), all[0]) // the one unused for longest is in use
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Warm.Pin(t.Context(), all[1]); err != nil {
		t.Fatal(err)
	}
	f.lost.Store(7 << 20)
	r.Warm.look()
	settled(t, r.Warm)
	if got := f.open.Load(); got != 9 {
		t.Errorf("open sessions: got %d, want 9 beside 7 MiB that are lost of 16", got)
	}
	if f.trims.Load() == 0 {
		t.Error("nobody asked for what was lost")
	}
	f.lost.Store(1 << 40) // whatever is wrong there, half of the budget is left
	r.Warm.look()
	settled(t, r.Warm)
	if got := f.open.Load(); got != 8 {
		t.Errorf("open sessions: got %d, want 8 in half of the budget", got)
	}
	for i, want := range []State{Ready, Ready, Cold} {
		if got, _ := r.Warm.State(all[i]); got != want {
			t.Errorf("m%d: got state %d, want %d: in use, pinned, longest unused", i, got, want)
		}
	}
	l.Release()
}

func TestIdleModelsAreUnloaded(t *testing.T) {
	c := testConfig(t)
	c.Idle = 20 * time.Millisecond
	c.Pinned = []string{"m0"}
	r, f, all := openWeighed(t, c, 3)
	f.each.Store(1 << 20)
	r.Start(t.Context())
	use(t, r, all[0])
	l, err := r.Warm.Acquire(t.Context(), all[1])
	if err != nil {
		t.Fatal(err)
	}
	use(t, r, all[2])
	eventually(t, func() bool { s, _ := r.Warm.State(all[2]); return s == Cold })
	eventually(t, func() bool { return f.trims.Load() > 0 })
	time.Sleep(5 * c.Idle)
	for i, want := range []State{Ready, Ready, Cold} {
		if got, _ := r.Warm.State(all[i]); got != want {
			t.Errorf("m%d: got state %d, want %d: pinned, in use, idle", i, got, want)
		}
	}
	l.Release()
	eventually(t, func() bool { s, _ := r.Warm.State(all[1]); return s == Cold })
	use(t, r, all[1]) // and back
}

// sent is a sink that keeps what it gets.
type sent struct {
	mu     sync.Mutex
	events []event.Event
}

func (s *sent) Send(_ context.Context, events ...event.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, events...)
	return nil
}

func TestEachLoadAndEvictionIsOneEvent(t *testing.T) {
	blob := newMem()
	push := openTestRegistry(t, blob, testConfig(t))
	var all []*Manifest
	for i := range 4 {
		all = append(all, pushText(t, push, fmt.Sprint("m", i), fmt.Sprint("ok ", i)))
	}
	bad := pushText(t, push, "bad", "ok bad")
	sink := &sent{}
	outbox, err := event.NewOutbox(sink, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t)
	c.Memory = 2 * (1<<20 + 100)
	c.Idle = time.Hour
	c.Instance = "pod-1"
	r, err := Open(c, &damaged{blob, func(b []byte) []byte {
		if string(b) == "ok bad" {
			return []byte("damage")
		}
		return b
	}}, nil, []engine.Format{&toy{}}, outbox, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	use(t, r, all[0])
	use(t, r, all[0])
	if _, err := r.Warm.Acquire(t.Context(), bad); !fault.Is(err, fault.Internal) {
		t.Fatalf("got %v, want the refusal of a damaged artifact", err)
	}
	if err := r.Warm.Pin(t.Context(), all[1]); err != nil {
		t.Fatal(err)
	}
	use(t, r, all[2]) // evicts m0
	settled(t, r.Warm)
	if _, err := r.Warm.Unload(t.Context(), all[2]); err != nil {
		t.Fatal(err)
	}
	r.Warm.Prefetch(t.Context(), all[3])
	eventually(t, func() bool { s, _ := r.Warm.State(all[3]); return s == Ready })
	settled(t, r.Warm)
	r.Warm.mu.Lock()
	r.Warm.slots[keyOf(all[3])].usedAt = time.Now().Add(-2 * time.Hour)
	r.Warm.mu.Unlock()
	eventually(t, func() bool { r.Warm.rest(); s, _ := r.Warm.State(all[3]); return s == Cold })
	settled(t, r.Warm)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := outbox.Close(); err != nil {
		t.Fatal(err)
	}

	var got []string
	ids := map[string]bool{}
	for i := range sink.events {
		e := &sink.events[i]
		if ids[e.ID()] {
			t.Errorf("the id %s came twice", e.ID())
		}
		ids[e.ID()] = true
		switch e.Type() {
		case event.ModelLoaded.Name:
			l, err := event.ModelLoaded.Decode(e)
			if err != nil {
				t.Fatal(err)
			}
			if l.Instance != "pod-1" || l.Bytes < 1<<20 || l.Digest == "" || l.Version != 1 {
				t.Errorf("got %+v, want the instance, bytes, digest and version", l)
			}
			got = append(got, "+"+l.Model+" "+l.Why)
		case event.ModelEvicted.Name:
			v, err := event.ModelEvicted.Decode(e)
			if err != nil {
				t.Fatal(err)
			}
			if v.Instance != "pod-1" || v.Bytes < 1<<20 || v.Digest == "" || v.Version != 1 {
				t.Errorf("got %+v, want the instance, bytes, digest and version", v)
			}
			got = append(got, "-"+v.Model+" "+v.Why)
		}
	}
	want := []string{"+m0 request", "+m1 pinned", "-m0 memory", "+m2 request", "-m2 unload", "+m3 alias", "-m3 idle", "-m1 shutdown"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// slowly is a toy whose sessions take a while to be closed.
type slowly struct {
	toy
	closing, most atomic.Int64
}

func (f *slowly) Open(ctx context.Context, b []byte, o engine.Options) (engine.Session, error) {
	s, err := f.toy.Open(ctx, b, o)
	return slowSession{s, f}, err
}

type slowSession struct {
	engine.Session
	format *slowly
}

func (s slowSession) Close() error {
	n := s.format.closing.Add(1)
	for most := s.format.most.Load(); n > most && !s.format.most.CompareAndSwap(most, n); most = s.format.most.Load() {
	}
	time.Sleep(time.Millisecond)
	s.format.closing.Add(-1)
	return s.Session.Close()
}

func TestFewSessionsAreClosedAtOnce(t *testing.T) {
	blob := newMem()
	all := pushMany(t, openTestRegistry(t, blob, testConfig(t)), 100)
	f := &slowly{}
	r, err := Open(testConfig(t), blob, nil, []engine.Format{f}, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		use(t, r, m)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if most := f.most.Load(); most > closersMost || f.open.Load() != 0 {
		t.Errorf("%d were closed at once and %d not at all, want %d at most and 0", most, f.open.Load(), closersMost)
	}
}

func TestWhatLoadingLeftIsGivenBack(t *testing.T) {
	r, f, all := openWeighed(t, testConfig(t), 2)
	for i, m := range all {
		use(t, r, m)
		eventually(t, func() bool { return f.trims.Load() == int64(i+1) })
	}
	time.Sleep(3 * quietAfter)
	if n := f.trims.Load(); n != 2 {
		t.Errorf("it was asked for %d times by two loads", n)
	}
}

func TestASlowDiskHoldsLittleMemory(t *testing.T) {
	blob := newMem()
	push := openTestRegistry(t, blob, testConfig(t))
	r := openTestRegistry(t, blob, testConfig(t))
	for range writersMost { // as if the disk were at work for ever
		r.artifacts.writers <- struct{}{}
	}
	const size = writingMost / 8
	for i := range 12 {
		m := pushText(t, push, fmt.Sprint("m", i), fmt.Sprint("ok ", i, strings.Repeat(" ", size)))
		use(t, r, m)
	}
	settled(t, r.Warm)
	r.artifacts.mu.Lock()
	waiting, kept := r.artifacts.writing, len(r.artifacts.fetched)
	r.artifacts.mu.Unlock()
	if waiting > writingMost || kept != 7 {
		t.Errorf("%d artifacts of %d bytes wait for the disk, want 7 of %d at most", kept, waiting, writingMost)
	}
	for range writersMost {
		<-r.artifacts.writers
	}
	r.artifacts.writes.Wait()
	r.artifacts.mu.Lock()
	defer r.artifacts.mu.Unlock()
	if r.artifacts.writing != 0 || len(r.artifacts.fetched) != 0 || len(r.artifacts.files) != 7 {
		t.Errorf("%d bytes wait, %d artifacts are in memory, %d on disk, want 0, 0 and 7", r.artifacts.writing, len(r.artifacts.fetched), len(r.artifacts.files))
	}
}

package feature

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// forEachBucket runs a test on memory and on a real S3 server.
func forEachBucket(t *testing.T, test func(t *testing.T, blob store.Blob)) {
	t.Run("mem", func(t *testing.T) { test(t, memBlob(t)) })
	t.Run("s3", func(t *testing.T) {
		u, err := url.Parse(storetest.S3URL(t))
		if err != nil {
			t.Fatal(err)
		}
		b, err := s3store.OpenBlob(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		test(t, b)
	})
}

func memBlob(t *testing.T) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newCatalog makes a catalog whose knowledge never grows old by itself.
func newCatalog(blob store.Blob) *Catalog {
	return NewCatalog(&Config{Refresh: time.Hour}, blob, nil, slog.New(slog.DiscardHandler))
}

func apply(t *testing.T, c *Catalog, text string, remove ...Ref) *Set {
	t.Helper()
	s, _, err := c.Apply(t.Context(), parsed(t, text), remove, "me", false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestApply(t *testing.T) {
	forEachBucket(t, func(t *testing.T, blob store.Blob) {
		c := newCatalog(blob)
		none, err := c.Current(t.Context())
		if err != nil || none.Version != 0 {
			t.Fatalf("before anything: got %+v, %v, want version 0", none, err)
		}
		if s, changes, err := c.Apply(t.Context(), parsed(t, mergeYAML), nil, "me", true); err != nil || s.Version != 1 || len(changes) != 6 {
			t.Errorf("dry: got %+v, %v, %v, want version 1 with 6 changes", s, changes, err)
		}
		if s, err := newCatalog(blob).Current(t.Context()); err != nil || s.Version != 0 {
			t.Errorf("after a dry one: got %+v, %v, want version 0", s, err)
		}
		s := apply(t, c, mergeYAML)
		if s.Version != 1 || s.By != "me" || s.At.IsZero() || s.view("last").IDs["tail"] != 2 {
			t.Errorf("first: got %+v", s)
		}
		if again, changes, err := c.Apply(t.Context(), parsed(t, mergeYAML), nil, "you", false); err != nil || again.Version != 1 || again.By != "me" || len(changes) != 0 {
			t.Errorf("the same again: got %+v, %v, %v, want version 1 as it is", again, changes, err)
		}
		if s := apply(t, c, "entities: [{name: more, keys: [{name: more, type: int64}]}]", Ref{KindService, "model"}); s.Version != 2 {
			t.Errorf("next: got version %d, want 2", s.Version)
		}
		if _, _, err := c.Apply(t.Context(), parsed(t, "views: [{name: x, entities: [nobody], source: arrivals}]"), nil, "", false); !fault.Is(err, fault.Invalid) {
			t.Errorf("what does not compile: got %v, want Invalid", err)
		}
		if _, _, err := c.Apply(t.Context(), &Set{}, nil, strings.Repeat("x", 201), false); !fault.Is(err, fault.Invalid) {
			t.Errorf("by somebody with a long name: got %v, want Invalid", err)
		}

		other := newCatalog(blob)
		now, err := other.Current(t.Context())
		if err != nil || now.Version != 2 || len(now.Services) != 0 || len(now.Entities) != 3 {
			t.Fatalf("seen by others: got %+v, %v", now, err)
		}
		for range 2 { // from the bucket, then from memory
			before, err := other.Get(t.Context(), 1)
			if err != nil || before.Version != 1 || len(before.Services) != 1 {
				t.Errorf("version 1: got %+v, %v", before, err)
			}
		}
		for _, v := range []int{0, 3, -1} {
			if got, err := other.Get(t.Context(), v); !fault.Is(err, fault.NotFound) {
				t.Errorf("version %d: got %+v, %v, want NotFound", v, got, err)
			}
		}
	})
}

// However many apply at once, none's change is lost and each has a version of its own.
func TestRacingAppliers(t *testing.T) {
	forEachBucket(t, func(t *testing.T, blob store.Blob) {
		apply(t, newCatalog(blob), mergeYAML)
		const appliers, each = 6, 5
		var mu sync.Mutex
		seen := map[int]bool{}
		var wg sync.WaitGroup
		for i := range appliers {
			c := newCatalog(blob)
			wg.Go(func() {
				for j := range each {
					what, err := Parse("race", fmt.Appendf(nil, "views: [{name: v%d_%d, entities: [carrier], source: arrivals, features: [tail]}]", i, j))
					if err != nil {
						t.Error(err)
						return
					}
					s, changes, err := c.Apply(t.Context(), what, nil, "", false)
					if err != nil || len(changes) != 1 {
						t.Errorf("got %v, %v, want one change", changes, err)
						return
					}
					mu.Lock()
					if seen[s.Version] {
						t.Errorf("version %d was made twice", s.Version)
					}
					seen[s.Version] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		now, err := newCatalog(blob).Current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := now.Version, 1+appliers*each; got != want || len(now.Views) != 2+appliers*each {
			t.Errorf("got version %d with %d views, want %d with %d", got, len(now.Views), want, 2+appliers*each)
		}
		versions := map[int]bool{}
		for _, v := range now.Views[2:] {
			if versions[v.Version] || v.Version < 2 {
				t.Errorf("view %s is of version %d, want one of its own", v.Name, v.Version)
			}
			versions[v.Version] = true
		}
	})
}

// gate is a bucket that can be away, or that lets a write get lost on its way there or back.
type gate struct {
	store.Blob
	away, loseAnswer atomic.Bool
	gets             atomic.Int64
}

func (g *gate) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	if g.away.Load() {
		return func(yield func(store.Object, error) bool) {
			yield(store.Object{}, fault.New(fault.Unavailable, "the bucket is away"))
		}
	}
	return g.Blob.List(ctx, prefix, after)
}

func (g *gate) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	g.gets.Add(1)
	return g.Blob.Get(ctx, key, offset, length)
}

func (g *gate) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	version, err := g.Blob.Put(ctx, key, body, size, c)
	if err == nil && g.loseAnswer.CompareAndSwap(true, false) {
		return "", fault.New(fault.Unavailable, "the connection broke")
	}
	return version, err
}

// A process that dies, or loses the bucket, in the middle of it has applied all or nothing.
func TestApplyInTheMiddle(t *testing.T) {
	g := &gate{Blob: memBlob(t)}
	c := newCatalog(g)
	apply(t, c, mergeYAML)
	const more = "entities: [{name: more, keys: [{name: more, type: int64}]}]"
	g.loseAnswer.Store(true)
	if _, _, err := c.Apply(t.Context(), parsed(t, more), nil, "", false); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("an answer that got lost: got %v, want Unavailable", err)
	}
	s, changes, err := c.Apply(t.Context(), parsed(t, more), nil, "", false)
	if err != nil || s.Version != 2 || len(changes) != 0 || len(s.Entities) != 3 {
		t.Errorf("once more: got %+v, %v, %v, want version 2 as it was written", s, changes, err)
	}
	g.away.Store(true)
	if _, _, err := c.Apply(t.Context(), parsed(t, more), nil, "", false); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without the bucket: got %v, want Unavailable", err)
	}
}

// eventually waits for what happens behind the back.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestCurrentFollowsTheBucket(t *testing.T) {
	g := &gate{Blob: memBlob(t)}
	var log strings.Builder
	var mu sync.Mutex
	logged := func() string {
		mu.Lock()
		defer mu.Unlock()
		return log.String()
	}
	c := newCatalog(g)
	c.refresh = 0
	c.log = slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil))
	version := func() int {
		now, err := c.Current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return now.Version
	}
	if got := version(); got != 0 {
		t.Fatalf("before anything: got version %d", got)
	}
	other := newCatalog(g.Blob)
	apply(t, other, mergeYAML)
	eventually(t, "version 1 is seen", func() bool { return version() == 1 })

	g.away.Store(true)
	apply(t, other, "entities: [{name: more, keys: [{name: more, type: int64}]}]")
	eventually(t, "the log says that the bucket is away", func() bool { return version() == 1 && strings.Contains(logged(), "the bucket is away") })
	g.away.Store(false)
	eventually(t, "version 2 is seen", func() bool { return version() == 2 })

	first, err := c.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gets := g.gets.Load()
	if err := c.Reread(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, err := c.Current(t.Context()); err != nil || again != first || g.gets.Load() != gets {
		t.Errorf("nothing new: got %p, %v after %d reads, want %p as it was", again, err, g.gets.Load()-gets, first)
	}

	for name, bad := range map[string]string{
		"no JSON": "{", "another version": `{"version": 4}`, "what does not compile": `{"version": 3, "services": [{"name": "s", "features": ["a:b"]}]}`,
	} {
		put(t, g.Blob, versionKey(3), bad)
		const want = "version 3 of the feature definitions is damaged in the bucket (features/versions/0000000003)"
		if err := c.Reread(t.Context()); !fault.Is(err, fault.Internal) || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%s: got %v, want Internal with %s", name, err, want)
		}
		if got := version(); got != 2 {
			t.Errorf("%s: got version %d, want 2 to go on", name, got)
		}
		if _, err := newCatalog(g).Current(t.Context()); !fault.Is(err, fault.Internal) {
			t.Errorf("%s, to a process that knows none: got %v, want Internal", name, err)
		}
		if _, _, err := other.Apply(t.Context(), parsed(t, mergeYAML), nil, "", false); !fault.Is(err, fault.Internal) {
			t.Errorf("%s, to somebody who applies: got %v, want Internal", name, err)
		}
	}
	eventually(t, "the log names what is damaged", func() bool { return version() == 2 && strings.Contains(logged(), "0000000003") })
	put(t, g.Blob, versionsPrefix+"notes.txt", "x") // is none of ours
	if err := g.Delete(t.Context(), versionKey(3)); err != nil {
		t.Fatal(err)
	}
	if s := apply(t, other, "services: [{name: last, features: [\"last:*\"]}]"); s.Version != 3 {
		t.Errorf("after the repair: got version %d, want 3", s.Version)
	}
	eventually(t, "version 3 is seen", func() bool { return version() == 3 })
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func put(t *testing.T, b store.Blob, key, text string) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, strings.NewReader(text), int64(len(text)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
}

// heard keeps what is sent.
type heard chan event.Event

func (h heard) Send(_ context.Context, events ...event.Event) error {
	for _, e := range events {
		h <- e
	}
	return nil
}

func quiet(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func TestApplyTells(t *testing.T) {
	tel := quiet(t)
	sent := make(heard, 10)
	outbox, err := event.NewOutbox(sent, tel)
	if err != nil {
		t.Fatal(err)
	}
	blob := memBlob(t)
	c := NewCatalog(&Config{Refresh: time.Hour}, blob, outbox, tel.Log)
	apply(t, c, mergeYAML)
	apply(t, c, mergeYAML) // nothing to tell of
	if _, _, err := c.Apply(t.Context(), &Set{}, []Ref{{KindService, "model"}}, "", true); err != nil {
		t.Fatal(err)
	}
	apply(t, c, "", Ref{KindService, "model"})
	if err := outbox.Close(); err != nil {
		t.Fatal(err)
	}
	close(sent)
	var ids []string
	for e := range sent {
		ids = append(ids, e.Type()+" "+e.ID())
		if err := event.Check(&e); err != nil {
			t.Error(err)
		}
	}
	if want := []string{event.FeaturesApplied.Name + " 1", event.FeaturesApplied.Name + " 2"}; !slices.Equal(ids, want) {
		t.Errorf("told: got %v, want %v", ids, want)
	}
}

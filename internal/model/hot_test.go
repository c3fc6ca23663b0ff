package model

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

func newKV(t *testing.T) store.KV {
	t.Helper()
	kv, err := memstore.OpenKV(t.Context(), &url.URL{Scheme: "mem"})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// openSharing makes an instance that shares a bucket and a KV with others.
func openSharing(t *testing.T, c *Config, blob store.Blob, kv store.KV) (*Registry, *toy) {
	t.Helper()
	f := &toy{}
	r, err := Open(c, blob, kv, []engine.Format{f}, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, f
}

func pushMany(t *testing.T, r *Registry, n int) []*Manifest {
	t.Helper()
	var all []*Manifest
	for i := range n {
		all = append(all, pushText(t, r, fmt.Sprint("m", i), fmt.Sprint("ok ", i)))
	}
	return all
}

func states(r *Registry, all []*Manifest) []State {
	var s []State
	for _, m := range all {
		state, _ := r.Warm.State(m)
		s = append(s, state)
	}
	return s
}

func TestANewInstanceLoadsWhatIsHot(t *testing.T) {
	blob, kv := newMem(), newKV(t)
	old, _ := openSharing(t, testConfig(t), blob, kv)
	all := pushMany(t, old, 5)
	for i, uses := range []int{1, 0, 5, 3, 2} {
		for range uses {
			use(t, old, all[i])
		}
	}
	if err := old.Warm.Pin(t.Context(), all[1]); err != nil { // is no use
		t.Fatal(err)
	}
	old.hot.tell(t.Context())

	c := testConfig(t)
	c.Memory = 4*(1<<20+1<<10) + 1<<19 // half of it holds two
	fresh, f := openSharing(t, c, blob, kv)
	if ready := fresh.Start(t.Context()); ready == nil {
		t.Fatal("no readiness")
	}
	eventually(t, func() bool { return f.opened.Load() == 2 })
	time.Sleep(20 * time.Millisecond)
	if got, want := states(fresh, all), []State{Cold, Cold, Ready, Ready, Cold}; !slices.Equal(got, want) {
		t.Errorf("got states %v, want the two hottest: %v", got, want)
	}

	// To be prefetched is no use either, so nothing stays hot by that alone.
	if uses := fresh.Warm.takeUses(); len(uses) > 0 {
		t.Errorf("got uses %v, want none", uses)
	}

	other := testConfig(t)
	other.Service = "another"
	stranger, f := openSharing(t, other, blob, kv)
	stranger.hot.prefetch(t.Context())
	if got := f.opened.Load(); got != 0 {
		t.Errorf("another service loaded %d models that are not hot there", got)
	}
}

func TestACallersLoadGoesFirst(t *testing.T) {
	blob, kv := newMem(), newKV(t)
	old, _ := openSharing(t, testConfig(t), blob, kv)
	all := pushMany(t, old, 3)
	use(t, old, all[1])
	use(t, old, all[2])
	old.hot.tell(t.Context())

	r, f := openSharing(t, testConfig(t), blob, kv)
	f.gate = make(chan struct{})
	var calls sync.WaitGroup
	calls.Go(func() { use(t, r, all[0]) })
	eventually(t, func() bool { s, _ := r.Warm.State(all[0]); return s == Loading })
	calls.Go(func() { r.hot.prefetch(t.Context()) })
	time.Sleep(20 * time.Millisecond)
	if got, want := states(r, all), []State{Loading, Cold, Cold}; !slices.Equal(got, want) {
		t.Errorf("while a caller waits: got states %v, want %v", got, want)
	}
	close(f.gate)
	calls.Wait()
	if got, want := states(r, all), []State{Ready, Ready, Ready}; !slices.Equal(got, want) {
		t.Errorf("afterwards: got states %v, want %v", got, want)
	}
}

func TestUsesOfAllInstancesAddUp(t *testing.T) {
	blob, kv := newMem(), newKV(t)
	const instances, each = 6, 7
	first, _ := openSharing(t, testConfig(t), blob, kv)
	m := pushMany(t, first, 1)[0]
	var wg sync.WaitGroup
	for range instances {
		r, _ := openSharing(t, testConfig(t), blob, kv)
		wg.Go(func() {
			for range each {
				use(t, r, m)
				r.hot.tell(t.Context())
			}
			eventually(t, func() bool { r.hot.tell(t.Context()); return len(r.hot.pending) == 0 })
		})
	}
	wg.Wait()
	r, _, err := first.hot.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Models) != 1 || r.Models[0].Model != "m0" || r.Models[0].Uses < instances*each*0.99 || r.Models[0].Uses > instances*each {
		t.Errorf("got %+v, want m0 with %d uses", r.Models, instances*each)
	}
}

func TestUsesFadeAndTheRecordIsBounded(t *testing.T) {
	now := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	r := hotRecord{}.add(map[versionID]uint64{{"a", 1}: 8, {"b", 2}: 6}, now)
	r = r.add(map[versionID]uint64{{"b", 2}: 2}, now.Add(hotHalf))
	want := []hotVersion{{"b", 2, 5}, {"a", 1, 4}}
	if !slices.Equal(r.Models, want) {
		t.Errorf("after %s: got %v, want %v", hotHalf, r.Models, want)
	}
	if r = r.add(map[versionID]uint64{{"c", 1}: 1}, now.Add(100*hotHalf)); !slices.Equal(r.Models, []hotVersion{{"c", 1, 1}}) {
		t.Errorf("after very long: got %v, want only what is new", r.Models)
	}
	if r = r.add(nil, now); r.Models[0].Uses != 1 { // by a clock that goes behind
		t.Errorf("got %v, want nothing to grow", r.Models)
	}
	many := map[versionID]uint64{}
	for i := range 3 * hotMost {
		many[versionID{fmt.Sprint("m", i), 1}] = uint64(i + 1)
	}
	r = hotRecord{}.add(many, now)
	if len(r.Models) != hotMost || r.Models[0].Uses != 3*hotMost {
		t.Errorf("got %d versions, the first with %v, want %d and the hottest first", len(r.Models), r.Models[0], hotMost)
	}
}

// away is a KV that fails, or never answers.
type away struct {
	store.KV
	down, hangs atomic.Bool
}

func (a *away) Get(ctx context.Context, key string) (store.Item, error) {
	if a.hangs.Load() {
		<-ctx.Done()
		return store.Item{}, ctx.Err()
	}
	if a.down.Load() {
		return store.Item{}, fault.New(fault.Unavailable, "the KV is away")
	}
	return a.KV.Get(ctx, key)
}

func TestHotModelsAreAHintAndNoCondition(t *testing.T) {
	blob, kv := newMem(), &away{KV: newKV(t)}
	r, _ := openSharing(t, testConfig(t), blob, kv)
	all := pushMany(t, r, 1)

	kv.hangs.Store(true)
	begin := time.Now()
	ready := r.Start(t.Context())
	eventually(t, func() bool { return ready() == nil })
	use(t, r, all[0])
	if took := time.Since(begin); took >= hotTimeout {
		t.Errorf("a KV that hangs kept a caller waiting: %s", took)
	}
	kv.hangs.Store(false)

	kv.down.Store(true)
	other, _ := openSharing(t, testConfig(t), blob, kv)
	use(t, other, all[0])
	other.hot.tell(t.Context())
	if len(other.hot.pending) != 1 {
		t.Fatalf("got pending %v, want what could not be told", other.hot.pending)
	}
	kv.down.Store(false)
	other.hot.tell(t.Context())
	if got, _, err := other.hot.read(t.Context()); err != nil || len(got.Models) != 1 || len(other.hot.pending) != 0 {
		t.Errorf("got %+v, %v, want the use to be told once the KV is back", got, err)
	}

	// Damaged, or of models that are gone: begun anew, and skipped.
	for _, value := range []string{"", "nonsense", `{"models":[{"model":"gone","version":3,"uses":1},{"model":"../x","version":-1,"uses":1},{"model":"m0","version":1,"uses":1e308}]}`} {
		if _, err := kv.Put(t.Context(), "hot/predict", []byte(value), 0, store.Condition{}); err != nil {
			t.Fatal(err)
		}
		fresh, _ := openSharing(t, testConfig(t), blob, kv)
		fresh.hot.prefetch(t.Context())
		use(t, fresh, all[0])
		fresh.hot.tell(t.Context())
		if got, _, err := fresh.hot.read(t.Context()); err != nil || len(got.Models) == 0 || got.Models[0].Model != "m0" {
			t.Errorf("after %q: got %+v, %v, want m0", value, got, err)
		}
	}
}

func FuzzHotRecord(f *testing.F) {
	f.Add([]byte(`{"at":"2026-11-25T08:00:00Z","models":[{"model":"m","version":1,"uses":3.5}]}`))
	f.Add([]byte(`{"models":[{"uses":-1e308},{"uses":1e308},{"uses":1e308}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r hotRecord
		if json.Unmarshal(b, &r) != nil {
			return
		}
		next := r.add(map[versionID]uint64{{"m", 1}: 1}, time.Now())
		if len(next.Models) > hotMost {
			t.Errorf("%d versions", len(next.Models))
		}
		if _, err := json.Marshal(next); err != nil {
			t.Errorf("%q becomes a record that can't be written: %v", b, err)
		}
	})
}

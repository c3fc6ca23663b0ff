package pulse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

var silent = slog.New(slog.DiscardHandler)

func openKV(t *testing.T) store.KV {
	t.Helper()
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kv.Close() })
	return kv
}

// Each time lies in the bin whose edges are around it, and bins are narrow.
func TestBins(t *testing.T) {
	for us := uint64(0); us < 200e6; us += 1 + us/97 {
		at := binOf(time.Duration(us) * time.Microsecond)
		if low, high := edgeOf(at), edgeOf(at+1); float64(us) < low || float64(us) >= high && at < bins-1 || low >= binsOf && high/low > 1.26 {
			t.Fatalf("%d µs is in bin %d, from %g to %g", us, at, low, high)
		}
	}
	if got := binOf(-time.Second); got != 0 {
		t.Errorf("a clock that was put back: bin %d", got)
	}
	if got := binOf(1 << 62); got != bins-1 {
		t.Errorf("an age: bin %d", got)
	}
}

func TestCountingBySlots(t *testing.T) {
	b := NewBoard(nil, silent)
	v := NewView(nil, b)
	begin := time.Unix(1_800_000_000, 0)
	c := b.Counter("m", 1)
	at := begin
	for i := range Slots { // each second but one twice as many
		for range 2 * (i + 1) {
			c.Answered(at, 10*time.Millisecond)
		}
		if i%10 == 9 {
			c.Failed(at.Add(time.Second))
			c.Answered(at, time.Second)
		}
		c.Answered(at.Add(-time.Second), 10*time.Millisecond) // it ended before the slot began, and comes late
		at = at.Add(Every)
	}
	v.now = func() time.Time { return at.Add(time.Second) }
	live := v.Now(t.Context(), "", 20)
	if !live.At.Equal(at) || live.Every != 2 || len(live.Models) != 1 {
		t.Fatalf("got %+v", live)
	}
	m := live.Models[0]
	if m.Model != "m" || m.Version != 1 || len(m.Requests) != Slots || len(m.Failures) != Slots || !slices.Equal(m.Requests, live.Total.Requests) {
		t.Errorf("got %+v", m)
	}
	if m.Requests[20] != 43 || m.Failures[20] != 0 || m.Requests[29] != 63 || m.Failures[29] != 1 {
		t.Errorf("slots 20 and 29 have %d and %d requests, %d and %d failures", m.Requests[20], m.Requests[29], m.Failures[20], m.Failures[29])
	}
	if p := m.P50[29]; p < 9000 || p > 11500 {
		t.Errorf("the middle is %g µs", p)
	}
	if p := m.P99[29]; p < 900e3 || p > 1.2e6 {
		t.Errorf("the slowest are %g µs", p)
	}
	if want := float64(2*(56+57+58+59+60)+5+2) / 10; m.Rate != want {
		t.Errorf("%g a second, want %g", m.Rate, want)
	}
	// What is long ago is not told any more.
	at = at.Add(Slots * Every)
	if live := v.Now(t.Context(), "", 20); len(live.Models) != 0 || live.Total.Rate != 0 {
		t.Errorf("got %+v", live)
	}
	// A clock that is put back counts from there.
	c.Answered(begin, time.Millisecond)
	at = begin.Add(Every)
	if live := v.Now(t.Context(), "", 20); live.Total.Requests[Slots-1] == 0 {
		t.Errorf("got %+v", live)
	}
}

// Nothing is lost where many count at once, also while slots change.
func TestCountingAtOnce(t *testing.T) {
	var c Counter
	begin := time.Unix(1_800_000_000, 0)
	var all sync.WaitGroup
	const each = 20000
	for range 8 {
		all.Go(func() {
			for i := range each {
				at := begin.Add(time.Duration(i) * 3 * time.Second / each)
				c.Answered(at, time.Duration(i))
				if i%100 == 0 {
					c.Failed(at)
				}
			}
		})
	}
	all.Wait()
	answers, failures := 0, 0
	for _, p := range c.since(0) {
		failures += int(p.failures)
		for _, b := range p.bins {
			answers += int(b.n)
		}
	}
	if answers != 8*each || failures != 8*each/100 {
		t.Errorf("%d answers and %d failures, want %d and %d", answers, failures, 8*each, 8*each/100)
	}
}

// watched counts what is written, and fails when it is to.
type watched struct {
	store.KV
	puts atomic.Int64
	away atomic.Bool
}

var errAway = fault.New(fault.Unavailable, "Redis is away")

func (w *watched) Put(ctx context.Context, key string, value []byte, ttl time.Duration, c store.Condition) (string, error) {
	if w.away.Load() {
		return "", errAway
	}
	w.puts.Add(1)
	return w.KV.Put(ctx, key, value, ttl, c)
}

func (w *watched) Get(ctx context.Context, key string) (store.Item, error) {
	if w.away.Load() {
		return store.Item{}, errAway
	}
	return w.KV.Get(ctx, key)
}

// Instances tell each other, and nothing when nobody asks them for a model; one that has ended is still seen until it is too long ago.
func TestInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &watched{KV: openKV(t)}
		a, b := NewBoard(kv, silent), NewBoard(kv, silent)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { a.Run(t.Context()) })
		running.Go(func() { b.Run(ctx) })
		v, gateway := NewView(kv, a), NewView(kv, nil)
		defer v.Close()
		defer gateway.Close()
		time.Sleep(time.Minute)
		if n := kv.puts.Load(); n != 0 {
			t.Errorf("%d writes while nobody asked", n)
		}
		a.Counter("m", 1).Answered(time.Now(), time.Millisecond)
		b.Counter("m", 1).Answered(time.Now(), time.Millisecond)
		b.Counter("m", 2).Failed(time.Now())
		b.Counter("n", 7).Answered(time.Now(), time.Millisecond)
		time.Sleep(3 * Every)
		quiet := kv.puts.Load()
		for _, view := range []*View{v, gateway} {
			live := view.Now(t.Context(), "", 20)
			var got []string
			for _, m := range live.Models {
				got = append(got, fmt.Sprint(m.Model, m.Version, sum(m.Requests), sum(m.Failures)))
			}
			if want := []string{"m1 2 0", "m2 1 1", "n7 1 0"}; !slices.Equal(got, want) || sum(live.Total.Requests) != 4 || live.Away != "" {
				t.Errorf("got %v, %+v", got, live.Total)
			}
			if live := view.Now(t.Context(), "m", 1); len(live.Models) != 1 || live.Models[0].Version != 1 || sum(live.Total.Requests) != 3 {
				t.Errorf("of m alone: %+v", live)
			}
		}
		time.Sleep(time.Minute)
		if n := kv.puts.Load(); n != quiet {
			t.Errorf("%d writes since nobody asks", n-quiet)
		}
		b.Counter("n", 7).Answered(time.Now(), time.Millisecond)
		stop() // it says at its end what it has not said
		synctest.Wait()
		time.Sleep(4 * time.Second)
		if live := gateway.Now(t.Context(), "n", 20); sum(live.Total.Requests) != 2 {
			t.Errorf("after its end: %+v", live.Total)
		}
		// A KV that is away costs what others do, and comes back.
		kv.away.Store(true)
		a.Counter("m", 1).Answered(time.Now(), time.Millisecond)
		time.Sleep(4 * time.Second)
		if live := v.Now(t.Context(), "", 20); live.Away != "what other instances do can't be seen: Redis is away" || sum(live.Total.Requests[Slots-3:]) != 1 {
			t.Errorf("while the KV is away: %q %+v", live.Away, live.Total)
		}
		kv.away.Store(false)
		time.Sleep(10 * time.Second)
		if live := gateway.Now(t.Context(), "m", 20); live.Away != "" || sum(live.Total.Requests) != 4 {
			t.Errorf("when it is back: %q %+v", live.Away, live.Total)
		}
		time.Sleep(10 * time.Minute)
		if live := gateway.Now(t.Context(), "", 20); len(live.Models) != 0 {
			t.Errorf("long after: %+v", live)
		}
	})
}

// What an instance writes is bounded: the busiest are told apart, and the others together.
func TestManyVersions(t *testing.T) {
	kv := openKV(t)
	b := NewBoard(kv, silent)
	now := time.Unix(1_800_000_000, 0)
	b.now = func() time.Time { return now }
	for i := range 3 * versionsMost {
		for range i + 1 {
			b.Counter(fmt.Sprintf("m%03d", i), 1).Answered(now, time.Millisecond)
		}
	}
	b.tell(t.Context())
	v := NewView(kv, nil)
	defer v.Close()
	v.now = func() time.Time { return now.Add(10 * time.Second) }
	const n = 3 * versionsMost
	live := v.Now(t.Context(), "", n)
	if len(live.Models) != versionsMost || live.Models[0].Model != "m299" || sum(live.Total.Requests) != n*(n+1)/2 {
		t.Errorf("got %d models, the first %s, %d requests", len(live.Models), live.Models[0].Model, sum(live.Total.Requests))
	}
	// Of versions that nobody asks any more nothing is kept.
	b.Counter("m299", 1).Answered(now.Add(Slots*Every), time.Millisecond)
	now = now.Add((Slots + 1) * Every)
	b.tell(t.Context())
	for of, c := range b.counters {
		if kept := len(c.since(0)); kept > 1 || (kept == 1) != (of.model == "m299") || of.model != "m299" && c.now.Load() != nil {
			t.Fatalf("%v keeps %d slots", of, kept)
		}
	}
}

// Whatever lies in the KV, there is an answer.
func TestDamagedRecords(t *testing.T) {
	kv := openKV(t)
	put := func(key, value string) {
		t.Helper()
		if _, err := kv.Put(t.Context(), key, []byte(value), 0, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now().Unix() / 2
	put(instancesKey, `{"a":1,"b":2,"c":3,"d":4,"gone":5}`)
	put(instanceKey("a"), `no JSON`)
	put(instanceKey("b"), `{"versions":[{"model":"m","version":1,"slots":[[1],[2,3,4],[-1,0],[1,2,3,-4],[1,0,1000,1],[5000000000,0]]}]}`)
	put(instanceKey("c"), `[]`)
	put(instanceKey("d"), fmt.Sprintf(`{"versions":[{"model":"m","version":1,"slots":[[%d,0,5,7]]}]}`, at-5))
	v := NewView(kv, nil)
	defer v.Close()
	if live := v.Now(t.Context(), "", 20); len(live.Models) != 1 || sum(live.Models[0].Requests) != 7 {
		t.Errorf("got %+v", live)
	}
	put(instancesKey, `null`)
	b := NewBoard(kv, silent)
	b.Counter("n", 1).Answered(time.Now(), time.Second)
	b.tell(t.Context())
	if all, _, err := readInstances(t.Context(), kv); err != nil || len(all) != 1 {
		t.Errorf("got %v %v", all, err)
	}
}

func TestRoute(t *testing.T) {
	b := NewBoard(nil, silent)
	b.Counter("m", 1).Answered(time.Now().Add(-Every), time.Millisecond)
	b.Counter("n", 1).Answered(time.Now().Add(-Every), time.Millisecond)
	mux := http.NewServeMux()
	NewView(nil, b).Register(mux)
	for query, want := range map[string]int{"": 2, "?limit=1": 1, "?model=n": 1, "?model=none": 0, "?limit=0": -1, "?limit=201": -1, "?limit=x": -1} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/admin/v1/live"+query, nil))
		var live Live
		err := json.Unmarshal(w.Body.Bytes(), &live)
		if refused := w.Code == http.StatusBadRequest; refused != (want < 0) || !refused && (w.Code != http.StatusOK || errors.Join(err) != nil || len(live.Models) != want) {
			t.Errorf("%s: status %d, %s", query, w.Code, w.Body)
		}
	}
}

// BenchmarkAnswered is what an answer costs.
func BenchmarkAnswered(b *testing.B) {
	c := NewBoard(nil, silent).Counter("m", 1)
	now := time.Now()
	b.RunParallel(func(p *testing.PB) {
		for i := time.Duration(0); p.Next(); i++ {
			c.Answered(now.Add(i*time.Microsecond), i)
		}
	})
}

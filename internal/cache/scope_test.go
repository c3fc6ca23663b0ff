package cache

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// oracle is a model that answers with the number of its run, and takes a while.
type oracle struct {
	takes time.Duration
	same  bool // answers 1 whatever the run
	runs  atomic.Int64
}

func (m *oracle) run(ctx context.Context) ([]tensor.Tensor, error) {
	n := float32(m.runs.Add(1))
	if m.same {
		n = 1
	}
	select {
	case <-time.After(m.takes):
		return []tensor.Tensor{tensor.Of("y", []int64{1}, []float32{n})}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *oracle) compute(ctx context.Context, _ []tensor.Tensor, _ []string) ([]tensor.Tensor, error) {
	return m.run(ctx)
}

// ask sends a request and checks where its answer came from, and which it is.
func (m *oracle) ask(t *testing.T, s *Scope, x float32, control string, want Status, answer float32) Outcome {
	t.Helper()
	inputs := []tensor.Tensor{tensor.Of("x", []int64{1}, []float32{x})}
	outputs, o, err := s.Do(t.Context(), inputs, nil, ParseControl(control), m.run)
	if err != nil {
		t.Fatal(err)
	}
	if got := tensor.View[float32](outputs[0].Data)[0]; o.Status != want || got != answer {
		t.Errorf("x=%v %s: got answer %v by %s, want %v by %s", x, control, got, o.Status, answer, want)
	}
	return o
}

func openMem(t testing.TB) store.KV {
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func TestAnswersAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &oracle{}
		c := open(t, &Config{Size: 1 << 20}, nil)
		s := c.Scope(spec(m.compute))
		if o := m.ask(t, s, 1, "", Miss, 1); !o.Stored {
			t.Error("the answer is not stored")
		}
		time.Sleep(20 * time.Second)
		if o := m.ask(t, s, 1, "", Hit, 1); o.Age != 20*time.Second || o.TTL != 40*time.Second {
			t.Errorf("got age %v and %v to live, want 20s and 40s", o.Age, o.TTL)
		}
		m.ask(t, s, 2, "", Miss, 2)
		other := spec(m.compute)
		other.Identity = []string{"file", "another manifest"}
		m.ask(t, c.Scope(other), 1, "", Miss, 3)
		time.Sleep(40 * time.Second)
		m.ask(t, s, 1, "", Miss, 4)
	})
}

func TestControlIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &oracle{}
		s := open(t, &Config{Size: 1 << 20}, nil).Scope(spec(m.compute))
		m.ask(t, s, 1, "no-store", Refused, 1)
		m.ask(t, s, 1, "", Miss, 2)
		m.ask(t, s, 1, "no-store", Refused, 3)
		m.ask(t, s, 1, "", Hit, 2)
		m.ask(t, s, 1, "no-cache", Forced, 4)
		m.ask(t, s, 1, "", Hit, 4)
		time.Sleep(10 * time.Second)
		m.ask(t, s, 1, "max-age=10", Hit, 4)
		m.ask(t, s, 1, "max-age=9", Miss, 5)
		m.ask(t, s, 1, "max-age=0", Hit, 5) // of this very moment
		m.ask(t, s, 1, "max-age=1000", Hit, 5)
	})
}

func TestModelsWithoutTTLAreLeftAlone(t *testing.T) {
	m := &oracle{}
	s := open(t, &Config{Size: 1 << 20}, nil).Scope(Spec{Model: "m"})
	m.ask(t, s, 1, "", Off, 1)
	m.ask(t, s, 1, "", Off, 2)
}

func TestErrorsAreNotRemembered(t *testing.T) {
	m := &oracle{}
	s := open(t, &Config{Size: 1 << 20}, nil).Scope(spec(m.compute))
	broken := errors.New("broken")
	inputs := []tensor.Tensor{tensor.Of("x", []int64{1}, []float32{1})}
	if _, _, err := s.Do(t.Context(), inputs, nil, Control{}, func(context.Context) ([]tensor.Tensor, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the run's error", err)
	}
	m.ask(t, s, 1, "", Miss, 1)
}

func TestLargeAnswersAreNotRemembered(t *testing.T) {
	m := &oracle{}
	s := open(t, &Config{Size: 1 << 20, Value: 64}, nil).Scope(spec(m.compute))
	if o := m.ask(t, s, 1, "", Miss, 1); o.Stored {
		t.Error("the answer is stored")
	}
	m.ask(t, s, 1, "", Miss, 2)
}

func TestMemoryHasABound(t *testing.T) {
	const most = 1 << 20
	m := &oracle{}
	c := open(t, &Config{Size: most}, nil)
	s := c.Scope(spec(m.compute))
	for x := range 5000 {
		s.trials.skip.Store(0)
		if _, _, err := s.Do(t.Context(), floats("x", 1+x), nil, Control{}, m.run); err != nil {
			t.Fatal(err)
		}
	}
	c.memory.cache.CleanUp()
	if got := c.memory.bytes(); got > most || got < most/2 {
		t.Errorf("got %d bytes, want the budget of %d used and kept", got, most)
	}
}

func TestStaleWhileRevalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &oracle{takes: time.Second}
		old := spec(m.compute)
		old.Stale = 30 * time.Second
		s := open(t, &Config{Size: 1 << 20}, nil).Scope(old)
		m.ask(t, s, 1, "", Miss, 1)
		time.Sleep(61 * time.Second)
		begin := time.Now()
		if o := m.ask(t, s, 1, "", Stale, 1); o.TTL >= 0 {
			t.Errorf("got %v to live, want less than none", o.TTL)
		}
		synctest.Wait()
		m.ask(t, s, 1, "", Stale, 1) // and begins no second run
		if took := time.Since(begin); took != 0 {
			t.Errorf("stale answers took %v", took)
		}
		if got := len(s.cache.slots); got != 1 {
			t.Errorf("got %d background runs, want 1", got)
		}
		time.Sleep(2 * time.Second)
		m.ask(t, s, 1, "", Hit, 2)
		time.Sleep(62 * time.Second)
		m.ask(t, s, 1, "max-age=1000", Miss, 3) // limits mean fresh ones
		time.Sleep(91 * time.Second)
		m.ask(t, s, 1, "", Miss, 4)
	})
}

// However many stale answers are asked for, few runs are made behind them.
func TestRefreshesHaveABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &oracle{takes: time.Second, same: true}
		old := spec(m.compute)
		old.Stale = 30 * time.Second
		s := open(t, &Config{Size: 1 << 20}, nil).Scope(old)
		for x := range 20 {
			m.ask(t, s, float32(x), "", Miss, 1)
		}
		time.Sleep(60 * time.Second)
		for x := range 20 {
			m.ask(t, s, float32(x), "", Stale, 1)
		}
		time.Sleep(2 * time.Second)
		if got := m.runs.Load(); got != 20+backgroundMost {
			t.Errorf("got %d runs, want %d", got, 20+backgroundMost)
		}
	})
}

func TestModelsThatContradictThemselvesAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &Config{Size: 1 << 20, Check: 1}, nil)
		steady := &oracle{same: true}
		s := c.Scope(spec(steady.compute))
		steady.ask(t, s, 1, "", Miss, 1)
		for range 3 {
			steady.ask(t, s, 1, "", Hit, 1)
			synctest.Wait()
		}
		if got := s.checks.Load(); got != 3 || s.distrusted.Load() {
			t.Errorf("got %d checks, distrusted %v, want 3 and trust", got, s.distrusted.Load())
		}
		moody := &oracle{}
		s = c.Scope(Spec{Model: "moody", TTL: time.Minute, Compute: moody.compute})
		moody.ask(t, s, 1, "", Miss, 1)
		moody.ask(t, s, 1, "", Hit, 1)
		synctest.Wait()
		moody.ask(t, s, 1, "", Distrusted, 3)
	})
}

// What is computed behind a caller's back works on memory of its own.
func TestBackgroundRunsOwnTheirInputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &oracle{same: true}
		var seen []float32
		s := open(t, &Config{Size: 1 << 20, Check: 1}, nil).Scope(spec(
			func(ctx context.Context, inputs []tensor.Tensor, outputs []string) ([]tensor.Tensor, error) {
				time.Sleep(time.Second)
				seen = append(seen, tensor.View[float32](inputs[0].Data)...)
				if len(outputs) != 1 || outputs[0] != "y" {
					t.Errorf("got outputs %q, want y", outputs)
				}
				return m.run(ctx)
			}))
		inputs, outputs := floats("x", 2), []string{"y"}
		for range 2 {
			if _, _, err := s.Do(t.Context(), inputs, outputs, Control{}, m.run); err != nil {
				t.Fatal(err)
			}
		}
		clear(inputs[0].Data)
		outputs[0] = "z"
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(seen) != 2 || seen[1] != 1 {
			t.Errorf("got inputs %v, want [0 1]", seen)
		}
	})
}

var benefits = map[string]struct {
	share     float64 // of hits
	run, cost time.Duration
	pays      bool
}{
	"dear":                     {0, time.Millisecond, 500 * time.Nanosecond, true},
	"cheaper than a lookup":    {1, 5 * time.Microsecond, 60 * time.Microsecond, false},
	"cheap and seldom hit":     {.05, 5 * time.Microsecond, time.Microsecond, false},
	"cheap and often hit":      {.5, 5 * time.Microsecond, time.Microsecond, true},
	"nothing known of the run": {0, 0, time.Microsecond, true},
}

func TestTrials(t *testing.T) {
	for name, c := range benefits {
		t.Run(name, func(t *testing.T) {
			var trials trials
			var run average
			run.add(c.run)
			trials.cost.add(c.cost)
			for range trial {
				if !trials.wanted() {
					t.Fatal("skipped before there was a trial")
				}
				trials.ask(func() int64 { return int64(c.share * trial) }, &run)
			}
			paused := 0
			for !trials.wanted() {
				paused++
			}
			if want := trial * pause; c.pays && paused != 0 || !c.pays && paused != want {
				t.Errorf("got a pause of %d requests, want one of %d: %v", paused, want, !c.pays)
			}
		})
	}
}

func TestSample(t *testing.T) {
	in, out := Key{0}, Key{1}
	for name, c := range benefits {
		t.Run(name, func(t *testing.T) {
			var s sample
			var run average
			run.add(c.run)
			s.cost.add(c.cost)
			for range 10 * sampleLeast {
				s.saw(out, true, &run) // tells nothing
			}
			for i := range sampleLeast {
				if !s.wanted(out) {
					t.Fatal("not wanted before there was a sample")
				}
				s.saw(in, float64(i) < c.share*sampleLeast, &run)
			}
			if got := s.wanted(out); got != c.pays {
				t.Errorf("wanted: got %v, want %v", got, c.pays)
			}
			for range sampleLeast { // the model became slow, and asked for again and again
				run.add(time.Second)
				if !s.wanted(in) {
					t.Fatal("a key of the sample is left out")
				}
				s.saw(in, true, &run)
			}
			if !s.wanted(out) {
				t.Error("not wanted though it pays now")
			}
		})
	}
}

func TestAverageForgets(t *testing.T) {
	var a average
	a.add(time.Second) // a load
	for range 100 {
		a.add(time.Microsecond)
	}
	if got := a.get(); got < 1000 || got > 4000 {
		t.Errorf("got %vns, want about 1µs", got)
	}
	a.add(time.Hour) // without the CPU
	if got := a.get(); got > 6000 {
		t.Errorf("got %vns, want little more than before", got)
	}
	for range 20 { // it really is slow now
		a.add(time.Millisecond)
	}
	if got := a.get(); got < 500_000 {
		t.Errorf("got %vns, want near 1ms", got)
	}
}

// A model that is faster than its lookups is soon asked directly.
func TestSkippedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &oracle{same: true}
		s := open(t, &Config{Size: 1 << 20}, nil).Scope(spec(m.compute))
		s.trials.cost.add(time.Hour)
		s.run.add(time.Second)
		for x := range trial {
			m.ask(t, s, float32(x), "", Miss, 1)
		}
		m.ask(t, s, 0, "", Skipped, 1)
	})
}

func TestStoreIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := openMem(t)
		m := &oracle{}
		a, b := open(t, &Config{Size: 1 << 20}, kv), open(t, &Config{Size: 1 << 20}, kv)
		synctest.Wait()
		sa, sb := a.Scope(spec(m.compute)), b.Scope(spec(m.compute))
		m.ask(t, sa, 1, "", Miss, 1)
		synctest.Wait()
		time.Sleep(20 * time.Second)
		if o := m.ask(t, sb, 1, "", HitShared, 1); o.Age != 20*time.Second {
			t.Errorf("got age %v, want 20s", o.Age)
		}
		m.ask(t, sb, 1, "", Hit, 1)
		time.Sleep(40 * time.Second)
		m.ask(t, sb, 1, "", Miss, 2)
	})
}

// An answer lives no longer for having passed through the store.
func TestStoreKeepsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := openMem(t)
		m := &oracle{}
		old := spec(m.compute)
		old.Stale = 30 * time.Second
		a, b := open(t, &Config{}, kv), open(t, &Config{Size: 1 << 20}, kv)
		synctest.Wait()
		m.ask(t, a.Scope(old), 1, "", Miss, 1)
		synctest.Wait()
		time.Sleep(20 * time.Second)
		sb := b.Scope(old)
		m.ask(t, sb, 1, "", HitShared, 1)
		for e := range b.memory.cache.Hottest() {
			if got, want := e.ExpiresAfter(), 70*time.Second; got != want {
				t.Errorf("got %v to live in memory, want %v", got, want)
			}
		}
		time.Sleep(50 * time.Second)
		m.ask(t, a.Scope(old), 1, "", Stale, 1)
		synctest.Wait()
		m.ask(t, a.Scope(old), 1, "", HitShared, 2)
	})
}

// One that waits for another's look into the store takes no older answer for it than it may.
func TestJoinedAnswerMayBeTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &stuck{KV: openMem(t)}
		m := &oracle{}
		c := open(t, &Config{}, kv)
		synctest.Wait()
		s := c.Scope(spec(m.compute))
		m.ask(t, s, 1, "", Miss, 1)
		synctest.Wait()
		time.Sleep(20 * time.Second)
		kv.slow.Store(true)
		var first sync.WaitGroup
		first.Go(func() { m.ask(t, s, 1, "", HitShared, 1) })
		synctest.Wait()
		m.ask(t, s, 1, "max-age=5", Miss, 2)
		first.Wait()
	})
}

// What the run and others take is not what the cache costs.
func TestCostIsTheCachesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &stuck{KV: openMem(t)}
		m := &oracle{takes: time.Second, same: true}
		c := open(t, &Config{Size: 1 << 20}, kv)
		synctest.Wait()
		kv.slow.Store(true)
		s := c.Scope(spec(m.compute))
		var all sync.WaitGroup
		for n := range 4 * timed {
			all.Go(func() {
				time.Sleep(time.Duration(n) * time.Millisecond)
				m.ask(t, s, float32(n/2), "", []Status{Miss, Joined}[n%2], 1)
			})
			if n == 2*timed-1 { // so that runs have their time taken too, not only those that join
				all.Wait()
				m.ask(t, s, 1000, "", Miss, 1)
			}
		}
		all.Wait()
		if got := s.trials.cost.get(); got != 0 {
			t.Errorf("got a cost of %v, want none in a time that stands still", time.Duration(got))
		}
		if got := time.Duration(s.sample.cost.get()); got != stuckFor {
			t.Errorf("got a cost of %v for the store, want %v", got, stuckFor)
		}
	})
}

// The one that becomes the first just after another has ended finds its answer.
func TestLateFirstLooksAgain(t *testing.T) {
	m := &oracle{}
	s := open(t, &Config{Size: 1 << 20}, nil).Scope(spec(m.compute))
	m.ask(t, s, 1, "", Miss, 1)
	r := request{Scope: s, inputs: []tensor.Tensor{tensor.Of("x", []int64{1}, []float32{1})}, keyer: s.cache.keyer.Load()}
	r.key = r.keyer.key(s.image[:], r.inputs, nil)
	if _, o, err := r.find(t.Context(), m.run); err != nil || o.Status != Hit {
		t.Errorf("got %s, %v, want a hit", o.Status, err)
	}
}

func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, &Config{Size: 1 << 20}, nil)
		c.later(func(context.Context) { time.Sleep(time.Second) }) // deaf to its context
		begin := time.Now()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("closing took %v, want to wait for 1s", took)
		}
		c.metrics = nil // for the second Close, by the test's end
	})
}

// Callers that go away, and failures now and then, take no store out of use.
func TestStoreStaysUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &stuck{KV: openMem(t)}
		c := open(t, &Config{}, kv)
		synctest.Wait()
		kv.is.Store(true)
		for range 2 * failuresMost {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			c.shared.get(ctx, c.keyer.Load(), Key{})
		}
		for range failuresMost {
			for fails := range failuresMost {
				kv.is.Store(fails > 0)
				c.shared.get(t.Context(), c.keyer.Load(), Key{})
			}
		}
		if !c.shared.up.Load() {
			t.Error("the store is out of use")
		}
	})
}

// A secret that one process has and another has not keeps them apart.
func TestSecretsKeepApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := openMem(t)
		m := &oracle{}
		for i, secret := range []string{"", "0123456789abcdef", "another secret of theirs"} {
			c := open(t, &Config{Size: 1 << 20, Secret: env.Secret(secret)}, kv)
			synctest.Wait()
			m.ask(t, c.Scope(spec(m.compute)), 1, "", Miss, float32(i+1))
			synctest.Wait()
		}
	})
}

// A store that lost the secret is given it again, and one that holds another is followed.
func TestSecretIsHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := openMem(t)
		c := open(t, &Config{Size: 1 << 20}, kv)
		synctest.Wait()
		before, err := kv.Get(t.Context(), secretKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := kv.Delete(t.Context(), secretKey, store.Condition{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(probeMost + time.Second)
		if now, err := kv.Get(t.Context(), secretKey); err != nil || string(now.Value) != string(before.Value) {
			t.Errorf("got %x, %v, want the secret %x", now.Value, err, before.Value)
		}
		keyer := c.keyer.Load()
		put(t, kv, secretKey, newSecret())
		time.Sleep(probeMost + time.Second)
		if c.keyer.Load() == keyer || !c.shared.up.Load() {
			t.Error("another secret is not followed")
		}
		put(t, kv, secretKey, []byte("foreign"))
		time.Sleep(probeMost + time.Second)
		if c.shared.up.Load() {
			t.Error("the store is used with what is no secret")
		}
	})
}

func put(t *testing.T, kv store.KV, key string, value []byte) {
	t.Helper()
	if _, err := kv.Put(t.Context(), key, value, 0, store.Condition{}); err != nil {
		t.Fatal(err)
	}
}

// Entries that are damaged, foreign or of another request are misses.
func TestForgedEntriesAreMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := openMem(t)
		m := &oracle{}
		writer := open(t, &Config{}, kv)
		synctest.Wait()
		s := writer.Scope(spec(m.compute))
		key := func(x float32) string {
			return writer.shared.name(writer.keyer.Load().key(s.image[:], []tensor.Tensor{tensor.Of("x", []int64{1}, []float32{x})}, nil))
		}
		m.ask(t, s, 1, "", Miss, 1)
		synctest.Wait()
		good, err := kv.Get(t.Context(), key(1))
		if err != nil {
			t.Fatal(err)
		}
		flip := func(at int) []byte {
			b := append([]byte(nil), good.Value...)
			b[at] ^= 1
			return b
		}
		forged := map[string][]byte{
			"empty": {}, "short": good.Value[:10], "cut": good.Value[:len(good.Value)-8],
			"signature": flip(0), "time": flip(entryStart + 8), "data": flip(len(good.Value) - 8),
		}
		runs := float32(1)
		for name, b := range forged {
			put(t, kv, key(1), b)
			runs++
			m.ask(t, s, 1, "", Miss, runs)
			synctest.Wait()
			if got, err := kv.Get(t.Context(), key(1)); err != nil || string(got.Value) == string(b) {
				t.Errorf("%s: the forged entry is still there, %v", name, err)
			}
		}
		small := open(t, &Config{Value: 8}, kv)
		synctest.Wait()
		m.ask(t, small.Scope(spec(m.compute)), 1, "", Miss, runs+1)
		if small.shared.damaged.Load() != 1 {
			t.Error("an entry above the limit is taken")
		}
		runs++
		put(t, kv, key(2), good.Value) // an answer to something else
		m.ask(t, s, 2, "", Miss, runs+1)
		if got, want := writer.shared.damaged.Load(), int64(len(forged)+1); got != want {
			t.Errorf("got %d damaged entries counted, want %d", got, want)
		}
		if !writer.shared.up.Load() {
			t.Error("damage takes the store out of use")
		}
	})
}

// stuck is a store that says nothing while it is stuck.
type stuck struct {
	store.KV
	is    atomic.Bool
	slow  atomic.Bool // takes stuckFor to read
	calls atomic.Int64
}

func (s *stuck) Get(ctx context.Context, key string) (store.Item, error) {
	s.calls.Add(1)
	if s.is.Load() {
		<-ctx.Done()
		return store.Item{}, ctx.Err()
	}
	if s.slow.Load() {
		time.Sleep(stuckFor)
	}
	return s.KV.Get(ctx, key)
}

const stuckFor = 10 * time.Millisecond

func (s *stuck) Put(ctx context.Context, key string, value []byte, ttl time.Duration, c store.Condition) (string, error) {
	if s.is.Load() {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return s.KV.Put(ctx, key, value, ttl, c)
}

func TestStuckStoreCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &stuck{KV: openMem(t)}
		m := &oracle{takes: 10 * time.Millisecond, same: true}
		c := open(t, &Config{Size: 1 << 20}, kv)
		synctest.Wait()
		s := c.Scope(spec(m.compute))
		ask := func(x float32, deadline, want time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			begin := time.Now()
			_, _, err := s.Do(ctx, []tensor.Tensor{tensor.Of("x", []int64{1}, []float32{x})}, nil, Control{}, m.run)
			if took := time.Since(begin); err != nil || took != want {
				t.Errorf("x=%v: got %v after %v, want an answer after %v", x, err, took, want)
			}
			synctest.Wait() // for the write of the one before, which may fail at this very moment
		}
		kv.is.Store(true)
		ask(1, time.Second, 30*time.Millisecond)
		ask(2, 40*time.Millisecond, 20*time.Millisecond) // a quarter of the time is 10ms
		for x := float32(3); c.shared.up.Load(); x++ {
			ask(x, time.Second, 30*time.Millisecond)
			if x > 2*failuresMost {
				t.Fatal("the store is still in use")
			}
		}
		calls := kv.calls.Load()
		for x := range 50 {
			ask(float32(100+x), time.Second, 10*time.Millisecond)
		}
		if got := kv.calls.Load() - calls; got > 2 {
			t.Errorf("got %d calls while the store is away, want the probe's only", got)
		}
		kv.is.Store(false)
		time.Sleep(probeMost + time.Second)
		if !c.shared.up.Load() {
			t.Error("the store is not used again")
		}
	})
}

// Writes that can't be done wait within a bound.
func TestWritesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &stuck{KV: openMem(t)}
		c := open(t, &Config{Timeout: time.Hour}, kv)
		synctest.Wait()
		kv.is.Store(true)
		for range 2 * queueMost {
			c.shared.put(write{raw: make([]byte, 8), ttl: time.Minute})
		}
		if got := c.shared.dropped.Load(); got < queueMost-writers || got > queueMost {
			t.Errorf("got %d dropped, want %d but for those under way", got, queueMost)
		}
		if got := len(c.shared.writes); got > queueMost {
			t.Errorf("%d entries wait", got)
		}
		kv.is.Store(false) // those under way stay stuck
		large := open(t, &Config{Timeout: time.Second}, kv)
		synctest.Wait()
		kv.is.Store(true)
		for range 100 {
			large.shared.put(write{raw: make([]byte, 1<<20), ttl: time.Minute})
		}
		if got := large.shared.pending.Load(); got > pendingMost || got < pendingMost-writers<<20 {
			t.Errorf("%d bytes wait, want %d at most", got, pendingMost)
		}
		time.Sleep(time.Minute)
		if got := large.shared.pending.Load(); got != 0 {
			t.Errorf("%d bytes wait in an empty queue", got)
		}
	})
}

// Many callers at once get right answers, and nothing stays behind.
func TestConcurrentRequests(t *testing.T) {
	before := runtime.NumGoroutine()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(&Config{Size: 1 << 20, Value: 1 << 20, Timeout: time.Second, Check: 10}, openMem(t), tel)
	if err != nil {
		t.Fatal(err)
	}
	double := func(_ context.Context, inputs []tensor.Tensor, _ []string) ([]tensor.Tensor, error) {
		x := tensor.View[float32](inputs[0].Data)[0]
		return []tensor.Tensor{tensor.Of("y", []int64{1}, []float32{2 * x})}, nil
	}
	short := spec(double)
	short.TTL, short.Stale = 2*time.Millisecond, 2*time.Millisecond
	s := c.Scope(short)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			data := []float32{0} // reused, as a server's buffers are
			inputs := []tensor.Tensor{tensor.Of("x", []int64{1}, data)}
			for n := range 2000 {
				data[0] = float32(n * (g + 1) % 50)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if n%7 == 0 {
					cancel()
				}
				outputs, o, err := s.Do(ctx, inputs, nil, Control{}, func(ctx context.Context) ([]tensor.Tensor, error) {
					return double(ctx, inputs, nil)
				})
				cancel()
				if err != nil {
					if n%7 != 0 {
						t.Error(err)
					}
				} else if got := tensor.View[float32](outputs[0].Data)[0]; got != 2*data[0] {
					t.Errorf("got %v of %v by %s", got, data[0], o.Status)
				}
			}
		})
	}
	all.Wait()
	if s.distrusted.Load() {
		t.Error("a check failed")
	}
	if err := errors.Join(c.Close(), tel.Shutdown(context.Background())); err != nil {
		t.Error(err)
	}
	await(t, func() bool { return runtime.NumGoroutine() <= before })
}

func TestMetrics(t *testing.T) {
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(&Config{Size: 1 << 20, Value: 1 << 20, Timeout: time.Second, Check: 1}, openMem(t), tel)
	if err != nil {
		t.Fatal(err)
	}
	awaitUp(t, c)
	m := &oracle{same: true}
	one, two := c.Scope(spec(m.compute)), spec(m.compute)
	two.Identity = nil
	m.ask(t, one, 1, "", Miss, 1)
	m.ask(t, one, 1, "", Hit, 1)
	m.ask(t, c.Scope(two), 1, "", Miss, 1)
	await(t, func() bool { return one.checks.Load() == 1 })
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{
		`pilotlight_cache_requests_total{model="m",result="hit"} 1`,
		`pilotlight_cache_requests_total{model="m",result="miss"} 2`,
		`pilotlight_cache_checks_total{model="m"} 1`,
		`pilotlight_cache_distrusted{model="m"} 0`,
		`pilotlight_cache_shared_up 1`,
		`pilotlight_cache_shared_failures_total{what="dropped"} 0`,
		`pilotlight_cache_memory_bytes `,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if err := errors.Join(c.Close(), tel.Shutdown(context.Background())); err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Size: 0, Value: 1, Timeout: 1, Check: 0}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for variable, spoil := range map[string]func(*Config){
		"CACHE_SIZE":        func(c *Config) { c.Size = -1 },
		"CACHE_VALUE_SIZE":  func(c *Config) { c.Value = 0 },
		"CACHE_L2_TIMEOUT":  func(c *Config) { c.Timeout = 0 },
		"CACHE_CHECK":       func(c *Config) { c.Check = -1 },
		"CACHE_SECRET_FILE": func(c *Config) { c.Secret = "short" },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Validate(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), variable) {
			t.Errorf("%s: got %v, want invalid", variable, err)
		}
	}
}

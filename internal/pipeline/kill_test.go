package pipeline

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// essence is what has to be the same of a run, whoever was killed meanwhile.
func essence(t testing.TB, r *Run) string {
	t.Helper()
	steps := []any{}
	for _, s := range r.Steps {
		outputs := map[string]string{}
		for name, a := range s.Outputs {
			outputs[name] = a.SHA256 + string(a.Value)
		}
		steps = append(steps, []any{s.Name, s.State, outputs})
	}
	b, err := json.Marshal([]any{r.State, r.Reason, steps})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// kills runs chain by an event in instances that are killed at their write number n, each in turn until one lives
// long enough, and gives the only run that there may be, and how many instances it took.
func kills(t *testing.T, b store.Blob, l *lab, n int) (*Run, int) {
	t.Helper()
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	first := l.manager(t, b)
	first.now = clock
	apply(t, first, chain)
	for lives := 1; ; lives++ {
		mortal := storetest.NewMortal(b, n)
		if n == 0 {
			mortal = storetest.NewMortal(b, 1<<30)
		}
		m := l.manager(t, mortal)
		m.now = clock
		err := m.hear(t.Context(), raised("a", "flights")) // the broker brings it until somebody lives to say that he has it
		if err == nil {
			_, err = m.Work(t.Context(), "chain")
		}
		if err == nil {
			runs, err := first.Runs(t.Context(), "chain", 10)
			if err != nil || len(runs) != 1 {
				t.Fatalf("killed at write %d: got %d runs, %v", n, len(runs), err)
			}
			run, err := first.Get(t.Context(), "chain", runs[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			h, err := first.head(t.Context(), "chain")
			if err != nil || h.Active != nil || h.Pending != nil || len(h.Causes) != 1 {
				t.Errorf("killed at write %d: got %+v, %v", n, h, err)
			}
			return run, lives
		}
		if !strings.Contains(err.Error(), storetest.ErrKilled.Error()) {
			t.Fatalf("killed at write %d: got %v", n, err)
		}
		if lives > 100 {
			t.Fatalf("killed at write %d each time, it never ends", n)
		}
		mu.Lock()
		now = now.Add(time.Minute) // the lease of the dead is over
		mu.Unlock()
	}
}

// TestKilledAtEachWrite kills an instance at each write in turn, and the next one at the same of its own, and so on:
// the run is then as one that nobody disturbed, and each step's effect was done once.
func TestKilledAtEachWrite(t *testing.T) {
	want, _ := kills(t, bucket(t), newLab(), 0)
	if want.State != Succeeded {
		t.Fatalf("got %+v", want)
	}
	// With four writes a life nobody ever gets through the first step: it must not be tried for ever.
	if poison, _ := kills(t, bucket(t), newLab(), 4); poison.State != Failed || poison.Reason != "step one: the process that ran it went away, for the time number 6" {
		t.Errorf("got %+v", poison)
	}
	writes := 0
	for n := 5; ; n++ {
		l := newLab()
		got, lives := kills(t, bucket(t), l, n)
		if essence(t, got) != essence(t, want) {
			t.Errorf("killed at write %d, %d lives: got %s, want %s", n, lives, essence(t, got), essence(t, want))
		}
		if len(l.effects) != 3 {
			t.Errorf("killed at write %d: got effects %v", n, l.effects)
		}
		if lives == 1 {
			writes = n
			break
		}
	}
	if writes < 15 {
		t.Errorf("it took %d writes: the test proves little", writes)
	}
	t.Logf("killed at each of %d writes", writes-1)
}

// TestTwoInstancesAreKilledAtRandom has two instances work side by side on disk, which are killed at random and begin anew.
func TestTwoInstancesAreKilledAtRandom(t *testing.T) {
	want, _ := kills(t, bucket(t), newLab(), 0)
	for round := range 10 {
		b, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		l := newLab()
		calm := l.manager(t, b)
		apply(t, calm, chain)
		var working sync.WaitGroup
		for i := range 2 {
			random := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			working.Go(func() {
				for life := range 40 {
					m := l.manager(t, storetest.NewMortal(b, 4+random.IntN(20)))
					m.lease = 100 * time.Millisecond
					e := raised([]string{"a", "b"}[random.IntN(2)], "flights")
					if m.hear(t.Context(), e) == nil {
						_, _ = m.Work(t.Context(), "chain") // killed or not
					}
					if life > 20 {
						time.Sleep(10 * time.Millisecond)
					}
				}
			})
		}
		working.Wait()
		for _, id := range []string{"a", "b", "a"} {
			if err := calm.hear(t.Context(), raised(id, "flights")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(110 * time.Millisecond) // the leases of the dead are over
		work(t, calm, "chain")
		runs, err := calm.Runs(t.Context(), "chain", 10)
		if err != nil || len(runs) != 2 {
			t.Fatalf("round %d: got %d runs, %v, want one of each event", round, len(runs), err)
		}
		for _, brief := range runs {
			run, err := calm.Get(t.Context(), "chain", brief.ID)
			if err != nil || essence(t, run) != essence(t, want) && run.State != Failed {
				t.Errorf("round %d: got %s, %v, want %s", round, essence(t, run), err, essence(t, want))
			}
			if run.State == Failed && !strings.Contains(run.Reason, "for the time number") {
				t.Errorf("round %d: got %s", round, run.Reason)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestEventsTwiceAndOutOfOrder shuffles all that is heard and sent, each of it twice, between two instances.
func TestEventsTwiceAndOutOfOrder(t *testing.T) {
	const more = "pipeline: second\non: [{event: dev.pilotlight.pipeline.ended.v1, where: {pipeline: chain, state: succeeded}}]\nsteps: [{name: s, use: do}]\n"
	for round := range 20 {
		random := rand.New(rand.NewPCG(uint64(round), 1))
		l := newLab()
		b := bucket(t)
		instances := []*Manager{l.manager(t, b), l.manager(t, b)}
		var muxes []*event.Mux
		for _, m := range instances {
			mux, err := event.NewMux(mute(t))
			if err != nil {
				t.Fatal(err)
			}
			m.Hear(mux)
			muxes = append(muxes, mux)
		}
		apply(t, instances[0], chain+"---\n"+more)
		waiting := []event.Event{*raised("a", "flights"), *raised("a", "flights"), *raised("b", "flights"), *raised("b", "flights")}
		for len(waiting) > 0 {
			random.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
			e := waiting[0]
			waiting = waiting[1:]
			if err := muxes[random.IntN(2)].Handle(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			for _, e := range l.sent {
				waiting = append(waiting, e, e)
			}
			l.sent = nil
			l.mu.Unlock()
		}
		for name, want := range map[string]int{"chain": 2, "second": 2} {
			runs, err := instances[1].Runs(t.Context(), name, 10)
			if err != nil || len(runs) != want || slices.ContainsFunc(runs, func(b *Brief) bool { return b.State != Succeeded }) {
				t.Errorf("round %d: %s: got %d runs %+v, %v, want %d", round, name, len(runs), runs, err, want)
			}
		}
		for step, n := range l.tries {
			if n != 2 {
				t.Errorf("round %d: step %s was tried %d times in two runs", round, step, n)
			}
		}
	}
}

// away is a sink whose broker is away until it is told.
type away struct {
	*lab
	here bool
}

func (a *away) Send(ctx context.Context, events ...event.Event) error {
	if !a.here {
		return fault.New(fault.Unavailable, "the broker is away")
	}
	return a.lab.Send(ctx, events...)
}

// A broker that is away blocks nothing, and hears later how runs ended.
func TestTheBrokerIsAway(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	sink := &away{lab: l}
	m.sink = sink
	apply(t, m, chain)
	for range 2 {
		run := begin(t, m, "chain")
		work(t, m, "chain")
		if run = get(t, m, run); run.State != Succeeded {
			t.Errorf("got %+v", run)
		}
	}
	sink.here = true
	work(t, m, "chain")
	work(t, m, "chain")
	if got, want := l.types(), []string{"pipeline.ended.v1", "pipeline.ended.v1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOnS3 runs pipelines on a real S3 server.
func TestOnS3(t *testing.T) {
	u, err := url.Parse(storetest.S3URL(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s3store.OpenBlob(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l := newLab()
	m := l.manager(t, b)
	apply(t, m, chain)
	run := begin(t, m, "chain")
	work(t, m, "chain")
	if run = get(t, m, run); run.State != Succeeded || strings.ReplaceAll(value(run, "three"), `\u003e`, ">") != done {
		t.Errorf("got %+v", run)
	}
}

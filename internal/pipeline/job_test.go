package pipeline

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// jobs is what Knative's JobSink is: each event makes a job, which runs a step, and one that has come before makes none.
type jobs struct {
	t    *testing.T
	l    *lab
	blob store.Blob

	mu    sync.Mutex
	made  []string // ids of events
	down  bool
	kills map[string]bool // ids whose job goes away without a word
	work  sync.WaitGroup
}

func (j *jobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events, err := event.Read(w, r)
	if err != nil || len(events) != 1 {
		j.t.Errorf("got %v, %v", events, err)
		return
	}
	e := events[0]
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.down {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	for _, id := range j.made {
		if id == e.ID() {
			return
		}
	}
	j.made = append(j.made, e.ID())
	if !j.kills[e.ID()] {
		j.work.Go(func() {
			if err := j.l.manager(j.t, j.blob).RunStep(context.WithoutCancel(j.t.Context()), &e); err != nil {
				j.t.Errorf("%s: %v", e.ID(), err)
			}
		})
	}
}

const heavyChain = `
pipeline: chain
steps:
  - {name: one, use: do, with: {text: "!"}}
  - {name: two, use: heavy, in: {value: one.value, file: one.file}}
  - {name: three, use: do, in: {value: two.value, file: one.file}}
`

// A heavy step is a job that nobody waits for; each event that asks for one makes it once. A job that dies without a word is missed, and made again under another number.
func TestHeavyStepsAreJobs(t *testing.T) {
	l := newLab()
	b := bucket(t)
	j := &jobs{t: t, l: l, blob: b, kills: map[string]bool{}}
	server := httptest.NewServer(j)
	defer server.Close()
	defer j.work.Wait()
	sink, err := event.NewHTTP(&event.Config{Sink: server.URL, Timeout: 5 * time.Second}, mute(t))
	if err != nil {
		t.Fatal(err)
	}
	m := l.manager(t, b)
	now := time.Now()
	m.now = func() time.Time { return now }
	m.place = NewJobs(sink, 5*time.Minute)
	apply(t, m, heavyChain)
	run := begin(t, m, "chain")
	j.kills[fmt.Sprintf("chain:%s:two:1", run.ID)] = true
	work(t, m, "chain")
	run = get(t, m, run)
	if s := run.step("two"); s.State != Running || s.Place != "job" || run.State != Waiting || run.Lease != nil || len(j.made) != 1 {
		t.Fatalf("got %+v, %q", run, j.made)
	}
	for range 2 { // it is not missed yet, and the same event makes no other job
		if err := m.place.Start(t.Context(), event.StepRequested.New(*run.step("two").try(run))); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Minute)
		work(t, m, "chain")
	}
	if len(j.made) != 1 {
		t.Errorf("got jobs %q", j.made)
	}
	now = now.Add(2 * time.Minute)
	work(t, m, "chain")
	j.work.Wait()
	work(t, m, "chain") // as the job's event has it done
	run = get(t, m, run)
	if got := strings.ReplaceAll(value(run, "three"), `\u003e`, ">"); run.State != Succeeded || got != done || run.step("two").Attempt != 2 || run.step("two").Lost != 1 || len(j.made) != 2 {
		t.Errorf("got %q of %+v, jobs %q", got, run, j.made)
	}
	if j.made[0] != fmt.Sprintf("chain:%s:two:1", run.ID) || j.made[1] != fmt.Sprintf("chain:%s:two:2", run.ID) {
		t.Errorf("got jobs %q", j.made)
	}
	told := 0
	for _, e := range l.sent {
		if e.Type() == event.StepFinished.Name {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the job told of its end %d times", told)
	}

	j.down = true
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // less than it would try
	defer cancel()
	if err := m.place.Start(ctx, event.StepRequested.New(event.Try{Pipeline: "chain", Run: run.ID, Step: "two", Attempt: 9, At: now})); !fault.Is(err, fault.Deadline) || len(j.made) != 2 {
		t.Errorf("nobody makes jobs: got %v, jobs %q", err, j.made)
	}
}

// A job that was heard of once is missed when a lease is over, however long it might have taken to start.
func TestAJobFallsSilent(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	now := time.Now()
	m.now = func() time.Time { return now }
	m.place = NewJobs(&lab{}, time.Hour) // its jobs never run
	apply(t, m, heavyChain)
	run := begin(t, m, "chain")
	work(t, m, "chain")
	log, err := m.journal(t.Context(), "chain", run.ID, "two", 1)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(10 * time.Second)
	log.add(now, "INFO", "it runs")
	log.write(t.Context())
	for _, c := range []struct {
		after    time.Duration
		attempts int
	}{{25 * time.Second, 1}, {20 * time.Second, 2}} {
		now = now.Add(c.after)
		work(t, m, "chain")
		if s := get(t, m, run).step("two"); s.Attempt != c.attempts {
			t.Errorf("%s later: got %+v", c.after, s)
		}
	}
}

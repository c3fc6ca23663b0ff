package pipeline

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// notes is a Place that only takes note: the test runs what was asked for when it likes.
type notes struct {
	mu    sync.Mutex
	asked []event.Event
	err   error
}

func (*notes) Name() string                          { return "job" }
func (*notes) Patience() time.Duration               { return 10 * time.Minute }
func (*notes) Wait(context.Context, *event.Try) bool { return false }
func (j *notes) Start(_ context.Context, e event.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.asked = append(j.asked, e)
	}
	return j.err
}

// heavy is chain with a step in the middle that runs elsewhere.
var heavy = strings.Replace(chain, "two, use: do", "two, use: heavy", 1)

// elsewhere makes an instance whose heavy steps are jobs, and one that is such a job.
func elsewhere(t *testing.T) (l *lab, m, job *Manager, j *notes, now *time.Time) {
	t.Helper()
	l, j = newLab(), &notes{}
	b := bucket(t)
	m, job = l.manager(t, b), l.manager(t, b)
	m.place = j
	at := time.Now()
	now = &at
	m.now = func() time.Time { return *now }
	job.now = m.now
	apply(t, m, heavy)
	return l, m, job, j, now
}

func TestAStepRunsElsewhere(t *testing.T) {
	l, m, job, j, now := elsewhere(t)
	run := begin(t, m, "chain")
	again, err := m.Work(t.Context(), "chain")
	if err != nil || again.Sub(*now) != m.lease { // it may fall silent by then
		t.Fatalf("got %v, %v", again, err)
	}
	run = get(t, m, run)
	if run.State != Waiting || run.Lease != nil || run.Reason != "step two runs elsewhere: job" || run.step("two").Place != "job" || len(j.asked) != 1 || l.tried("two") != 0 {
		t.Fatalf("got %+v", run)
	}
	if event.Cause(&j.asked[0]) != "chain:"+run.ID {
		t.Errorf("got %v", j.asked[0])
	}
	// By the file, as jobs and processes are asked.
	b, err := event.Marshal(&j.asked[0])
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "event")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(StepVariable, path)
	if !Asked() {
		t.Error("it is asked")
	}
	if err := job.RunAsked(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := job.RunAsked(t.Context()); err != nil { // the pod was started twice
		t.Fatal(err)
	}
	if got := l.sent[len(l.sent)-1]; got.Type() != event.StepFinished.Name {
		t.Errorf("got %v", got)
	}
	work(t, m, "chain")
	run = get(t, m, run)
	if got := strings.ReplaceAll(value(run, "three"), `\u003e`, ">"); run.State != Succeeded || got != done || run.step("two").Attempt != 1 {
		t.Errorf("got %q of %+v", got, run)
	}
	if err := job.RunAsked(t.Context()); err != nil || l.tried("two") != 2 { // nobody waits for it any more
		t.Errorf("got %v after %d tries", err, l.tried("two"))
	}
}

// A job that is not heard of is tried again, and what it says later counts no more.
func TestAJobThatIsLost(t *testing.T) {
	l, m, job, j, now := elsewhere(t)
	run := begin(t, m, "chain")
	work(t, m, "chain")
	*now = now.Add(10 * time.Minute)
	work(t, m, "chain")
	if run = get(t, m, run); len(j.asked) != 2 || run.step("two").Attempt != 2 || run.step("two").Lost != 1 {
		t.Fatalf("got %+v", run)
	}
	l.on("two", func(_ context.Context, task *Task) error {
		if task.Attempt == 1 {
			return fault.New(fault.Invalid, "what nobody wants to hear")
		}
		return nil
	})
	late, err := event.StepRequested.Decode(&j.asked[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := job.leave(t.Context(), &late, &Result{State: Failed, Why: "what nobody wants to hear"}); err != nil {
		t.Fatal(err)
	}
	if err := job.RunStep(t.Context(), &j.asked[0]); err != nil || l.tried("two") != 0 {
		t.Errorf("got %v after %d tries", err, l.tried("two"))
	}
	// One that is heard of is waited for, however long it takes.
	log, err := job.journal(t.Context(), "chain", run.ID, "two", 2)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		*now = now.Add(9 * time.Minute)
		log.write(t.Context())
		if again, err := m.Work(t.Context(), "chain"); err != nil || !again.After(*now) || len(j.asked) != 2 {
			t.Errorf("got %v, %v and %d jobs", again.Sub(*now), err, len(j.asked))
		}
	}
	if err := job.RunStep(t.Context(), &j.asked[1]); err != nil {
		t.Fatal(err)
	}
	work(t, m, "chain")
	if run = get(t, m, run); run.State != Succeeded || run.step("two").Attempt != 2 {
		t.Errorf("got %+v", run)
	}
}

func TestJobsThatCantBeStarted(t *testing.T) {
	_, m, _, j, _ := elsewhere(t)
	m.now = time.Now
	j.err = fault.New(fault.Unavailable, "there is no cluster")
	run := begin(t, m, "chain")
	work(t, m, "chain")
	if run = get(t, m, run); run.State != Failed || run.Reason != "step two: it can't be started as a job: there is no cluster" || run.step("two").Failures != 2 {
		t.Errorf("got %+v", run)
	}
}

// A job ends soon after its run was canceled, and that of one that waits may be said over and over.
func TestAJobOfACanceledRun(t *testing.T) {
	l, m, job, j, _ := elsewhere(t)
	m.now, job.now, job.lease = time.Now, time.Now, 100*time.Millisecond
	run := begin(t, m, "chain")
	work(t, m, "chain")
	running := make(chan struct{})
	l.on("two", func(ctx context.Context, _ *Task) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	})
	ended := make(chan error, 1)
	go func() { ended <- job.RunStep(t.Context(), &j.asked[0]) }()
	<-running
	run, err := m.Cancel(t.Context(), "chain", run.ID, "x")
	if err != nil || run.State != Canceled {
		t.Errorf("got %+v, %v", run, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Later and Refused come from elsewhere as from here.
func TestWhatStepsElsewhereSay(t *testing.T) {
	l, m, job, j, _ := elsewhere(t)
	m.now, job.now = time.Now, time.Now
	l.on("two", func(_ context.Context, task *Task) error {
		switch task.Attempt {
		case 1:
			return Later(time.Millisecond, "there is no traffic")
		case 2:
			return fault.New(fault.Unavailable, "the store is away")
		}
		return Refused("it is no better")
	})
	run := begin(t, m, "chain")
	for i := range 3 {
		work(t, m, "chain")
		if len(j.asked) != i+1 {
			t.Fatalf("got %d jobs, want %d", len(j.asked), i+1)
		}
		if err := job.RunStep(t.Context(), &j.asked[i]); err != nil {
			t.Fatal(err)
		}
	}
	work(t, m, "chain")
	if run = get(t, m, run); run.State != TurnedDown || run.Reason != "step two: it is no better" || run.step("two").Failures != 1 {
		t.Errorf("got %+v", run)
	}
}

func TestJunkForAStep(t *testing.T) {
	_, m, job, j, _ := elsewhere(t)
	begin(t, m, "chain")
	work(t, m, "chain")
	dir := t.TempDir()
	ask := func(text string) error {
		path := filepath.Join(dir, "event")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(StepVariable, path)
		return job.RunAsked(t.Context())
	}
	good, err := event.Marshal(&j.asked[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		text string
		kind fault.Kind
	}{
		{"", fault.Invalid},
		{"{}", fault.Invalid},
		{strings.Replace(string(good), `"attempt":1`, `"attempt":"x"`, 1), fault.Invalid},
		{strings.Replace(string(good), `"run":"2`, `"run":"3`, 1), fault.NotFound},
		{strings.Replace(string(good), `"run":"`, `"run":"../`, 1), fault.Invalid},
	} {
		if err := ask(test.text); !fault.Is(err, test.kind) {
			t.Errorf("%s: got %v", test.text, err)
		}
	}
	t.Setenv(StepVariable, filepath.Join(dir, "none"))
	if err := job.RunAsked(t.Context()); err == nil {
		t.Error("there is no such file")
	}
}

// Steps elsewhere get along with being told twice, and in whatever order.
func TestTheOrderOfSteps(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	var mu sync.Mutex
	var order []string
	for _, step := range []string{"a", "b", "c", "d"} {
		l.on(step, func(context.Context, *Task) error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, step)
			return nil
		})
	}
	apply(t, m, "pipeline: p\nsteps:\n  - {name: a, use: do, after: [d]}\n  - {name: b, use: do}\n  - {name: c, use: do, in: {value: b.value, more: a.extra}}\n  - {name: d, use: do}\n")
	run := begin(t, m, "p")
	work(t, m, "p")
	if run = get(t, m, run); run.State != Succeeded || !slices.Equal(order, []string{"b", "d", "a", "c"}) {
		t.Errorf("got %q of %+v", order, run)
	}
}

package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// value gives an output of a step.
func value(r *Run, step string) string {
	return strings.Trim(string(r.step(step).Outputs["value"].Value), `"`)
}

func TestARun(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	apply(t, m, chain)
	l.on("two", func(_ context.Context, task *Task) error {
		if task.Cause != task.Pipeline+":"+task.Run || task.ID() != "chain/"+task.Run+"/two" || task.Attempt != 1 {
			t.Errorf("got %+v", task)
		}
		return nil
	})
	run := begin(t, m, "chain")
	if run.State != Queued || run.Version != 1 || run.By != "tester" {
		t.Fatalf("got %+v", run)
	}
	work(t, m, "chain")
	run = get(t, m, run)
	if got := strings.ReplaceAll(value(run, "three"), `\u003e`, ">"); run.State != Succeeded || got != done || run.Lease != nil || run.Ended.IsZero() {
		t.Errorf("got %q of %+v", got, run)
	}
	if got, want := l.types(), []string{"pipeline.started.v1", "pipeline.ended.v1"}; !slices.Equal(got, want) {
		t.Errorf("got events %q, want %q", got, want)
	}
	if l.sent[0].ID() != "chain:"+run.ID || event.Cause(&l.sent[1]) != "chain:"+run.ID {
		t.Errorf("got %v", l.sent)
	}
	var audit []string
	for _, e := range run.Audit {
		audit = append(audit, e.What)
	}
	if want := []string{"started", "step one succeeded", "step two succeeded", "step three succeeded", "ended: succeeded"}; !slices.Equal(audit, want) {
		t.Errorf("got %q, want %q", audit, want)
	}
	logs, err := m.Logs(t.Context(), "chain", run.ID)
	if err != nil || len(logs) != 3 || logs[0].Lines[0].Text != `did it  text=one!` || logs[0].Progress.Done != 1 || logs[0].Progress.Unit != "rows" {
		t.Errorf("got %+v, %v", logs[0], err)
	}
	// The next one may begin.
	second := begin(t, m, "chain")
	work(t, m, "chain")
	if second = get(t, m, second); second.State != Succeeded || second.ID <= run.ID {
		t.Errorf("got %+v", second)
	}
}

func TestOneRunAtATime(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	apply(t, m, chain)
	run := begin(t, m, "chain")
	_, err := m.Start(t.Context(), "chain", "", "")
	isKind(t, err, fault.Conflict, "the run "+run.ID+" of the pipeline chain is under way; wait for its end, or cancel it")
	for _, id := range []string{"a", "b", "a", "b"} {
		if err := m.hear(t.Context(), raised(id, "flights")); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.hear(t.Context(), raised("c", "other")); err != nil {
		t.Fatal(err)
	}
	work(t, m, "chain")
	runs, err := m.Runs(t.Context(), "chain", 10)
	if err != nil || len(runs) != 2 || runs[1].ID != run.ID || runs[0].Cause == nil || runs[0].Cause.ID != "a" || runs[0].State != Succeeded {
		t.Fatalf("got %+v, %v", runs, err)
	}
	h, err := m.head(t.Context(), "chain")
	if err != nil || h.Joined != 1 || h.Pending != nil || h.Active != nil {
		t.Errorf("got %+v, %v", h, err)
	}
	begun := l.sent[slices.IndexFunc(l.sent, func(e event.Event) bool { return e.ID() == "chain:"+runs[0].ID })]
	if event.Cause(&begun) != "a" {
		t.Errorf("got %v", begun)
	}
}

func TestPauseAndEvery(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	now := time.Now()
	m.now = func() time.Time { return now }
	apply(t, m, strings.Replace(chain, "on:", "pause: 1h\non:\n  - {every: 1d}", 1))
	hear := func(id string) {
		t.Helper()
		if err := m.hear(t.Context(), raised(id, "flights")); err != nil {
			t.Fatal(err)
		}
		work(t, m, "chain")
	}
	runs := func() int {
		t.Helper()
		all, err := m.Runs(t.Context(), "chain", 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	work(t, m, "chain")
	if n := runs(); n != 0 {
		t.Errorf("got %d runs", n)
	}
	hear("a")
	hear("b")
	hear("c")
	if n := runs(); n != 1 {
		t.Errorf("got %d runs, want 1: the others come within the pause", n)
	}
	now = now.Add(time.Hour)
	hear("c")
	if n := runs(); n != 1 {
		t.Errorf("got %d runs, want 1: that event was heard before", n)
	}
	hear("d")
	if n := runs(); n != 2 {
		t.Errorf("got %d runs, want 2", n)
	}
	again, err := m.Work(t.Context(), "chain")
	if want := now.Add(24 * time.Hour); err != nil || again.Sub(want).Abs() > time.Millisecond {
		t.Errorf("got %v, %v, want %v", again, err, want)
	}
	now = now.Add(24 * time.Hour)
	work(t, m, "chain")
	work(t, m, "chain")
	if n := runs(); n != 3 {
		t.Errorf("got %d runs, want 3: a day is over", n)
	}
	all, err := m.Runs(t.Context(), "chain", 1)
	if err != nil || all[0].Cause.Type != "every" {
		t.Errorf("got %+v, %v", all, err)
	}
}

// A run's trace is kept, so what it stands below is, too; looking whether one is due is nothing to keep.
func TestWhatBeginsARunIsKept(t *testing.T) {
	m := newLab().manager(t, bucket(t))
	defer m.tel.TakeSpans(func([]telemetry.Span) {})()
	apply(t, m, strings.Replace(chain, "on:", "on:\n  - {every: 1d}", 1))
	clock := time.Now()
	m.now = func() time.Time { return clock }
	kept := func(f func(ctx context.Context) error) bool {
		t.Helper()
		ctx, span := m.tel.Tracer.Start(t.Context(), "asking", trace.WithNewRoot())
		defer span.End()
		if err := f(ctx); err != nil {
			t.Fatal(err)
		}
		return span.SpanContext().IsSampled()
	}
	due := func(want bool) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			if began, _, err := m.due(ctx, "chain"); err != nil || began != want {
				return fmt.Errorf("a run began: %t, %w", began, err)
			}
			return nil
		}
	}
	if kept(due(false)) {
		t.Error("a look is kept that came to nothing")
	}
	clock = clock.Add(25 * time.Hour)
	if !kept(due(true)) {
		t.Error("what began a run by the time is not kept")
	}
	start := func(ctx context.Context) error {
		_, err := m.Start(ctx, "chain", "tester", "")
		return err
	}
	work(t, m, "chain")
	if !kept(start) {
		t.Error("what began a run by hand is not kept")
	}
	if kept(func(ctx context.Context) error {
		if err := start(ctx); !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("got %w, want a conflict", err)
		}
		return nil
	}) {
		t.Error("what began no run is kept")
	}
}

func TestHowStepsEnd(t *testing.T) {
	for _, test := range []struct {
		name   string
		text   string
		two    func(ctx context.Context, task *Task) error
		state  State
		reason string
		tries  int
	}{
		{"invalid", "", func(context.Context, *Task) error { return fault.New(fault.Invalid, "there is no model x") }, Failed, "step two: there is no model x", 1},
		{"invalid, with a cause", "", func(context.Context, *Task) error {
			return fault.Wrap(fault.Invalid, io.ErrUnexpectedEOF, "the file x can't be read: %s", io.ErrUnexpectedEOF)
		}, Failed, "step two: the file x can't be read: unexpected EOF", 1},
		{"refused", "", func(_ context.Context, task *Task) error {
			return errors.Join(task.Tell("value", "the verdict"), Refused("no better than %s", "that"))
		}, TurnedDown, "step two: no better than that", 1},
		{"panic", "", func(context.Context, *Task) error { panic("oh") }, Failed, "step two: panic: oh", 1},
		{"away", "retries: 3", func(context.Context, *Task) error { return fault.New(fault.Unavailable, "the store is away") }, Failed, "step two: the store is away", 4},
		{"never again", "retries: 0", func(context.Context, *Task) error { return fault.New(fault.Unavailable, "the store is away") }, Failed, "step two: the store is away", 1},
		{"away for once", "", func(_ context.Context, task *Task) error {
			if task.Attempt == 1 {
				return fault.New(fault.Unavailable, "the store is away")
			}
			return nil
		}, Succeeded, "", 2},
		{"hangs", "timeout: 50ms, retries: 1", func(ctx context.Context, _ *Task) error { <-ctx.Done(); return ctx.Err() }, Failed, "step two: it did not end within 50ms", 2},
		{"waits", "", func(_ context.Context, task *Task) error {
			if task.Attempt < 4 {
				return Later(time.Millisecond, "there is no traffic yet")
			}
			return nil
		}, Succeeded, "", 4},
		{"gives what it has not", "", func(_ context.Context, task *Task) error { return task.Tell("nonsense", 1) }, Failed, `step two: do gave the output "nonsense", which it does not have`, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab()
			m := l.manager(t, bucket(t))
			text := chain
			if test.text != "" {
				text = strings.Replace(chain, "name: two,", "name: two, "+test.text+",", 1)
			}
			apply(t, m, text)
			l.on("two", test.two)
			run := begin(t, m, "chain")
			work(t, m, "chain")
			run = get(t, m, run)
			if reason, _, _ := strings.Cut(run.Reason, "\n"); run.State != test.state || reason != test.reason || l.tried("two") != test.tries {
				t.Errorf("got %s %q after %d tries, want %s %q after %d", run.State, reason, l.tried("two"), test.state, test.reason, test.tries)
			}
			if said := string(run.step("two").Outputs["value"].Value); test.state == TurnedDown && said != `"the verdict"` {
				t.Errorf("what tells why was not kept: %s", said)
			}
			if test.state != Succeeded {
				if run.step("one").State != Succeeded || run.step("three").State != Queued || l.tried("three") != 0 {
					t.Errorf("got %+v", run.Steps)
				}
				e := l.sent[len(l.sent)-1]
				ended, err := event.PipelineEnded.Decode(&e)
				if err != nil || ended.State != string(test.state) || ended.Step != "two" {
					t.Errorf("got %+v, %v", ended, err)
				}
			}
			// What failed blocks nothing.
			l.on("two", nil)
			run = begin(t, m, "chain")
			work(t, m, "chain")
			if run = get(t, m, run); run.State != Succeeded {
				t.Errorf("the next run: got %+v", run)
			}
		})
	}
}

// A step that waits for long needs nobody until then, and does not block a cancellation.
func TestLaterParksTheRun(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	now := time.Now()
	m.now = func() time.Time { return now }
	apply(t, m, chain)
	l.on("two", func(context.Context, *Task) error { return Later(time.Hour, "there is no traffic yet") })
	run := begin(t, m, "chain")
	again, err := m.Work(t.Context(), "chain")
	if err != nil || again.Sub(now) != time.Hour {
		t.Fatalf("got %v, %v", again, err)
	}
	run = get(t, m, run)
	if run.State != Waiting || run.Lease != nil || run.Reason != "step two: there is no traffic yet" || !run.Until.Equal(again) {
		t.Errorf("got %+v", run)
	}
	if again, err = m.Work(t.Context(), "chain"); err != nil || again.Sub(now) != time.Hour || l.tried("two") != 1 {
		t.Errorf("got %v, %v after %d tries", again, err, l.tried("two"))
	}
	now = now.Add(time.Hour)
	if _, err = m.Work(t.Context(), "chain"); err != nil || l.tried("two") != 2 {
		t.Errorf("got %v after %d tries", err, l.tried("two"))
	}
	run, err = m.Cancel(t.Context(), "chain", run.ID, "somebody else")
	if err != nil || run.State != Canceled || run.Reason != "by somebody else" || run.step("two").State != Canceled || run.step("three").State != Queued {
		t.Errorf("got %+v, %v", run, err)
	}
	_, err = m.Cancel(t.Context(), "chain", run.ID, "")
	isKind(t, err, fault.Conflict, "the run "+run.ID+" of the pipeline chain has ended already: canceled")
}

// A run is canceled by another process than the one that works on it.
func TestCancelOfARunningStep(t *testing.T) {
	l := newLab()
	b := bucket(t)
	m, other := l.manager(t, b), l.manager(t, b)
	m.lease = time.Second
	apply(t, m, chain)
	running := make(chan struct{})
	l.on("two", func(ctx context.Context, _ *Task) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	})
	run := begin(t, m, "chain")
	if err := m.hear(t.Context(), raised("a", "flights")); err != nil { // it is pending
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := m.Work(t.Context(), "chain")
		ended <- err
	}()
	<-running
	l.on("two", nil)
	if _, err := other.Cancel(t.Context(), "chain", run.ID, "x"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if run = get(t, m, run); run.State != Canceled || run.Reason != "by x" {
		t.Errorf("got %+v", run)
	}
	work(t, m, "chain")
	runs, err := m.Runs(t.Context(), "chain", 10)
	if err != nil || len(runs) != 2 || runs[0].State != Succeeded {
		t.Errorf("the pending one: got %+v, %v", runs, err)
	}
}

// What a step has begun beyond its run ends with that when somebody cancels it, or the run has not ended yet.
func TestCancelStopsWhatStepsBegan(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	apply(t, m, chain)
	l.on("two", func(context.Context, *Task) error { return Later(time.Hour, "traffic") })
	stops := func() int { return l.tried("stop two by ann") }
	for n, test := range []struct {
		err   error
		state State
		noted string
	}{
		{nil, Canceled, ""},
		{fault.New(fault.Internal, "it is damaged"), Canceled, "what step two has begun is not ended: it is damaged"},
		{fault.New(fault.Unavailable, "it is away"), Running, ""},
	} {
		l.on("stop two", func(_ context.Context, task *Task) error {
			if task.Cause != "chain:"+task.Run || !task.Has("value") {
				t.Errorf("got %+v", task)
			}
			return test.err
		})
		run := begin(t, m, "chain")
		work(t, m, "chain")
		if _, err := m.Cancel(t.Context(), "chain", run.ID, "ann"); (err != nil) != (test.state == Running) {
			t.Errorf("got %v", err)
		}
		run = get(t, m, run)
		if run.State != test.state || stops() != n+1 || l.tried("stop one by ann")+l.tried("stop three by ann") > 0 {
			t.Errorf("%v: got %d stops, %+v", test.err, stops(), run)
		}
		if test.noted != "" && !slices.ContainsFunc(run.Audit, func(e Entry) bool { return e.What == test.noted }) {
			t.Errorf("got %+v", run.Audit)
		}
	}
	l.on("stop two", nil)
	work(t, m, "chain")
	runs, err := m.Runs(t.Context(), "chain", 1)
	if err != nil || runs[0].State != Canceled || stops() != 4 {
		t.Errorf("got %+v, %v", runs, err)
	}
}

// TestWhoeverLostTheLeaseWritesNothing has a holder sleep on while another one takes its run over.
func TestWhoeverLostTheLeaseWritesNothing(t *testing.T) {
	l := newLab()
	b := bucket(t)
	m, other := l.manager(t, b), l.manager(t, b)
	now := time.Now()
	other.now = func() time.Time { return now.Add(time.Hour) } // whose clock says that the lease is over
	apply(t, m, chain)
	asleep, wake := make(chan struct{}), make(chan struct{})
	l.on("two", func(_ context.Context, task *Task) error {
		if task.Attempt == 1 {
			close(asleep)
			<-wake
			return fault.New(fault.Invalid, "what the zombie says")
		}
		return nil
	})
	run := begin(t, m, "chain")
	ended := make(chan error, 1)
	go func() {
		_, err := m.Work(t.Context(), "chain")
		ended <- err
	}()
	<-asleep
	work(t, other, "chain")
	after := get(t, m, run)
	if after.State != Succeeded || after.step("two").Attempt != 2 || after.step("two").Lost != 1 {
		t.Fatalf("got %+v", after)
	}
	close(wake)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if again := get(t, m, run); again.State != Succeeded || len(again.Audit) != len(after.Audit) {
		t.Errorf("the zombie changed it: %+v", again)
	}
}

// Many processes work on the same at once: each step runs once.
func TestManyAtOnce(t *testing.T) {
	l := newLab()
	b := bucket(t)
	first := l.manager(t, b)
	apply(t, first, chain)
	const n = 8
	errs := make(chan error, n)
	for i := range n {
		m := l.manager(t, b)
		go func() {
			e := raised("a", "flights") // all hear the same
			if i%2 == 0 {
				e = raised("b", "flights")
			}
			err := m.hear(t.Context(), e)
			if err == nil {
				_, err = m.Work(t.Context(), "chain")
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	work(t, first, "chain")
	runs, err := first.Runs(t.Context(), "chain", 10)
	if err != nil || len(runs) != 2 {
		t.Fatalf("got %d runs, %v, want one of each event", len(runs), err)
	}
	for _, step := range []string{"one", "two", "three"} {
		if got := l.tried(step); got != 2 {
			t.Errorf("step %s was tried %d times in two runs", step, got)
		}
	}
}

// A process that is told to end leaves its run to the next one, at once, and that costs the run nothing.
func TestTheProcessIsToldToEnd(t *testing.T) {
	l := newLab()
	b := bucket(t)
	m, next := l.manager(t, b), l.manager(t, b)
	apply(t, m, chain)
	running := make(chan struct{})
	l.on("two", func(ctx context.Context, task *Task) error {
		if task.Attempt > 1 {
			return nil
		}
		close(running)
		<-ctx.Done()
		return ctx.Err()
	})
	run := begin(t, m, "chain")
	ended := make(chan error, 1)
	go func() {
		_, err := m.Work(t.Context(), "chain")
		ended <- err
	}()
	<-running
	m.stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left := get(t, m, run); left.Lease != nil || left.step("two").State != Queued || left.step("two").Lost != 0 {
		t.Errorf("got %+v", left)
	}
	work(t, next, "chain")
	if run = get(t, m, run); run.State != Succeeded || run.step("two").Attempt != 2 || run.step("one").Attempt != 1 {
		t.Errorf("got %+v", run)
	}
}

// What takes longer than a turn goes on in the next one, which an event brings.
func TestTurns(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	var late atomic.Int64 // of the clock
	m.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	apply(t, m, chain)
	for _, step := range []string{"one", "two", "three"} {
		l.on(step, func(context.Context, *Task) error { late.Add(int64(m.turn/2 + time.Second)); return nil })
	}
	run := begin(t, m, "chain")
	for turn := range 4 {
		if _, err := m.Work(t.Context(), "chain"); err != nil {
			t.Fatal(err)
		}
		if got, want := len(l.types()), 2+min(turn, 2)+turn/3; turn < 3 && got != want {
			t.Errorf("turn %d: got events %q", turn, l.types())
		}
	}
	if run = get(t, m, run); run.State != Succeeded {
		t.Errorf("got %+v", run)
	}
}

// What is damaged in the bucket is told, and blocks neither other pipelines nor the next run.
func TestDamage(t *testing.T) {
	for _, test := range []struct {
		key     func(run *Run) string
		state   State // of the run
		trouble string
	}{
		{func(*Run) string { return versionKey("chain", 1) }, Failed, "damaged"},
		{func(r *Run) string { return runKey("chain", r.ID) }, "", ""},
		{func(r *Run) string { return logKey("chain", r.ID, "one") }, Succeeded, ""},
		{func(*Run) string { return headKey("chain") }, Succeeded, ""},
	} {
		l := newLab()
		b := bucket(t)
		m := l.manager(t, b)
		apply(t, m, chain+"---\npipeline: other\nsteps: [{name: s, use: do}]\n")
		run, other := begin(t, m, "chain"), begin(t, m, "other")
		key := test.key(run)
		if _, err := b.Put(t.Context(), key, strings.NewReader("junk"), 4, store.Condition{}); err != nil {
			t.Fatal(err)
		}
		m = l.manager(t, b) // which has read nothing yet
		if _, err := m.Tick(t.Context()); err != nil {
			t.Errorf("%s: got %v", key, err)
		}
		if other = get(t, m, other); other.State != Succeeded {
			t.Errorf("%s: the other: got %+v", key, other)
		}
		if test.state != "" {
			if run = get(t, m, run); run.State != test.state {
				t.Errorf("%s: got %+v", key, run)
			}
		}
		list, err := m.List(t.Context())
		if err != nil || len(list) != 2 || test.trouble != "" && !strings.Contains(list[0].Trouble, test.trouble) {
			t.Errorf("%s: got %+v, %v", key, list, err)
		}
		if _, err := m.Logs(t.Context(), "chain", run.ID); err != nil && test.state == Succeeded {
			t.Errorf("%s: got %v", key, err)
		}
		apply(t, m, strings.Replace(chain, "three things", "the same", 1)) // which a person does who repairs it
		if key != logKey("chain", run.ID, "one") {
			run := begin(t, m, "chain")
			work(t, m, "chain")
			if run = get(t, m, run); run.State != Succeeded {
				t.Errorf("the next one: got %+v", run)
			}
		}
	}
}

// A head that is damaged is made anew, and one event does not start a run twice by that; nor does one pipeline that can't hear cost the others.
func TestAHeadIsMadeAnew(t *testing.T) {
	l := newLab()
	b := bucket(t)
	m := l.manager(t, b)
	other := strings.Replace(chain, "pipeline: chain", "pipeline: other", 1)
	apply(t, m, chain+"---"+other)
	junk := func(key string) {
		t.Helper()
		if _, err := b.Put(t.Context(), key, strings.NewReader("[]"), 2, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	runs := func(name string) int {
		t.Helper()
		work(t, m, name)
		all, err := m.Runs(t.Context(), name, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	junk(headKey("chain"))
	for range 2 {
		if err := m.hear(t.Context(), raised("a", "flights")); err != nil {
			t.Fatal(err)
		}
		if a, b := runs("chain"), runs("other"); a != 1 || b != 1 {
			t.Errorf("got %d and %d runs", a, b)
		}
		junk(headKey("chain"))
	}
	m.blob = awayAt{b, headKey("chain")}
	if err := m.hear(t.Context(), raised("b", "flights")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	m.blob = b
	if a, b := runs("chain"), runs("other"); a != 1 || b != 2 {
		t.Errorf("got %d and %d runs", a, b)
	}
}

// awayAt is a bucket that does not answer about one object.
type awayAt struct {
	store.Blob
	key string
}

func (a awayAt) Get(ctx context.Context, key string, from, n int64) (io.ReadCloser, store.Object, error) {
	if key == a.key {
		return nil, store.Object{}, fault.New(fault.Unavailable, "it is away")
	}
	return a.Blob.Get(ctx, key, from, n)
}

// A clock that was far ahead once neither keeps others from a run, nor ends all runs to come.
func TestAClockThatWasAhead(t *testing.T) {
	l := newLab()
	m := l.manager(t, bucket(t))
	apply(t, m, strings.Replace(chain, "on:", "on:\n  - {every: 1d}", 1))
	now := time.Now()
	m.now = func() time.Time { return now.AddDate(20, 0, 0) }
	ahead := begin(t, m, "chain")
	if _, _, err := m.take(t.Context(), "chain", ahead.ID); err != nil {
		t.Fatal(err)
	}
	m.now = func() time.Time { return now }
	work(t, m, "chain")
	if ahead = get(t, m, ahead); ahead.State != Succeeded {
		t.Errorf("got %+v", ahead)
	}
	work(t, m, "chain")
	all, err := m.Runs(t.Context(), "chain", 10)
	if err != nil || len(all) != 2 || all[1].ID != ahead.ID || all[0].At.Sub(now).Abs() > time.Second {
		t.Errorf("got %+v, %v: want a run as of now, behind the other", all, err)
	}
}

// What lies where the result of a step is looked for, and is none, fails the step; and an end that can't be told does not keep others untold.
func TestJunkThatIsJSON(t *testing.T) {
	l, m, _, j, _ := elsewhere(t)
	run := begin(t, m, "chain")
	work(t, m, "chain")
	var try event.Try
	if err := json.Unmarshal(j.asked[0].Data(), &try); err != nil {
		t.Fatal(err)
	}
	if _, err := store.WriteJSON(t.Context(), m.blob, resultKey(&try), map[string]string{"state": "running"}, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	work(t, m, "chain")
	if run = get(t, m, run); run.State != Failed || !strings.Contains(run.Reason, "it is no result") {
		t.Errorf("got %+v", run)
	}
	if _, err := m.blob.Put(t.Context(), runKey("chain", run.ID), strings.NewReader("junk"), 4, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	next := begin(t, m, "chain")
	if _, err := m.change(t.Context(), "chain", func(h *head) (bool, error) { h.Untold = []string{run.ID, next.ID}; return true, nil }); err != nil {
		t.Fatal(err)
	}
	work(t, m, "chain")
	h, err := m.head(t.Context(), "chain")
	if err != nil || len(h.Untold) > 0 || !slices.Contains(l.types(), "pipeline.ended.v1") {
		t.Errorf("got %+v, %v", h, err)
	}
}

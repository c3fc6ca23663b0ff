package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// twice is the signature of models that take X [-1,2] and give Y [-1,2].
var twice = engine.Signature{
	Inputs:  []tensor.Spec{{Name: "X", Type: tensor.FP32, Shape: []int64{-1, 2}}},
	Outputs: []tensor.Spec{{Name: "Y", Type: tensor.FP32, Shape: []int64{-1, 2}}},
}

// fake is a session that doubles its input, or does what run says.
type fake struct {
	engine.Session
	run func(ctx context.Context, x []float32) ([]float32, error)

	mu   sync.Mutex
	rows []int64 // of each run
	most atomic.Int64
	now  atomic.Int64
}

func (f *fake) Run(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	f.most.Store(max(f.most.Load(), f.now.Add(1)))
	defer f.now.Add(-1)
	f.mu.Lock()
	f.rows = append(f.rows, in[0].Shape[0])
	f.mu.Unlock()
	x := slices.Clone(tensor.View[float32](in[0].Data))
	y, err := double(ctx, x)
	if f.run != nil {
		y, err = f.run(ctx, x)
	}
	if err != nil {
		return nil, err
	}
	width := in[0].Shape[1]
	return []tensor.Tensor{tensor.Of("Y", []int64{int64(len(y)) / width, width}, y)}, nil
}

func (f *fake) runs() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rows)
}

func double(_ context.Context, x []float32) ([]float32, error) {
	y := make([]float32, len(x))
	for i := range x {
		y[i] = 2 * x[i]
	}
	return y, nil
}

func open(t testing.TB, c Config) *Queue {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	c.Length, c.Wait = max(c.Length, 1), max(c.Wait, time.Minute)
	q, err := New(&c, tel)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func input(values ...float32) []tensor.Tensor {
	return []tensor.Tensor{tensor.Of("X", []int64{int64(len(values)) / 2, 2}, values)}
}

// cheaper has a lane believe that rows cost little in company.
func (l *Lane) cheaper() *Lane {
	for i := range l.curve.perRow {
		l.curve.perRow[i] = average{value: 1e6 / float64(int(1)<<i), n: settled}
	}
	l.trust.joined = checkFirst
	return l
}

// crowd sends requests of one row each at a lane whose queue is taken by a run of
// another until all of them wait, and gives what became of each. meanwhile is done before the
// run of the other ends.
func crowd(t *testing.T, q *Queue, ctx func(i int) context.Context, n int, send func(ctx context.Context, i int) (Run, error), meanwhile ...func()) ([]Run, []error) {
	t.Helper()
	begun, end := make(chan struct{}), make(chan struct{})
	blocker := &fake{run: func(context.Context, []float32) ([]float32, error) {
		close(begun)
		<-end
		return []float32{0, 0}, nil
	}}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = q.Lane("blocker", twice, 1).Infer(t.Context(), time.Now(), blocker, input(0, 0)) })
	<-begun
	runs, errs := make([]Run, n), make([]error, n)
	for i := range n {
		wg.Go(func() { runs[i], errs[i] = send(ctx(i), i) })
		for waits := -1; waits < i+1; runtime.Gosched() { // one after the other, so that their order is known
			q.mu.Lock()
			waits = q.waiting
			q.mu.Unlock()
		}
	}
	for _, f := range meanwhile {
		f()
	}
	close(end)
	wg.Wait()
	return runs, errs
}

func background(int) context.Context { return context.Background() }

func TestAnIdleQueueRunsAtOnceAndAlone(t *testing.T) {
	q := open(t, Config{Runs: 1})
	f := &fake{}
	r, err := q.Lane("m", twice, 0).Infer(t.Context(), time.Now(), f, input(1, 2, 3, 4))
	if err != nil || r.Rows != 2 || r.Joined != 1 || !r.First {
		t.Fatalf("got %+v %v", r, err)
	}
	if got := tensor.View[float32](r.Outputs[0].Data); !slices.Equal(got, []float32{2, 4, 6, 8}) {
		t.Errorf("got %v", got)
	}
}

func TestSpare(t *testing.T) {
	q := open(t, Config{Runs: 1, Length: 10})
	if !q.Spare() {
		t.Error("an idle queue has nothing to spare")
	}
	during := true
	session := &fake{run: func(context.Context, []float32) ([]float32, error) {
		during = q.Spare()
		return []float32{0, 0}, nil
	}}
	if _, err := q.Lane("m", twice, 0).Infer(t.Context(), time.Now(), session, input(1, 2)); err != nil {
		t.Fatal(err)
	}
	if during || !q.Spare() {
		t.Errorf("spare: got %v during the only run that there may be, %v afterwards", during, q.Spare())
	}
}

func TestWhatWaitsIsJoined(t *testing.T) {
	for _, c := range []struct {
		most int
		want []int64 // rows of the runs
	}{
		{0, []int64{20}},
		{8, []int64{8, 8, 4}},
		{3, []int64{2, 2, 2, 2, 2, 2, 2, 2, 2, 2}},
		{1, []int64{2, 2, 2, 2, 2, 2, 2, 2, 2, 2}},
	} {
		t.Run(fmt.Sprint("most ", c.most), func(t *testing.T) {
			q := open(t, Config{Runs: 1, Length: 100})
			l, f := q.Lane("m", twice, 5).cheaper(), &fake{}
			l.Bound(c.most)
			runs, errs := crowd(t, q, background, 10, func(ctx context.Context, i int) (Run, error) {
				return l.Infer(ctx, time.Now(), f, input(float32(i), 1, 2, float32(i)))
			})
			if got := f.runs(); !slices.Equal(got, c.want) {
				t.Errorf("got runs of %d rows, want %d", got, c.want)
			}
			firsts := 0
			for i, r := range runs {
				if errs[i] != nil {
					t.Fatal(errs[i])
				}
				if r.First {
					firsts++
				}
				want := []float32{2 * float32(i), 2, 4, 2 * float32(i)}
				if got := tensor.View[float32](r.Outputs[0].Data); !slices.Equal(got, want) || !slices.Equal(r.Outputs[0].Shape, []int64{2, 2}) {
					t.Errorf("request %d: got %v %v, want %v", i, r.Outputs[0].Shape, got, want)
				}
			}
			if firsts != len(c.want) {
				t.Errorf("%d requests stand for a run, want %d", firsts, len(c.want))
			}
		})
	}
}

// How long requests waited, and how many were joined, is told of their model; what ran at once waited for nothing.
func TestWaitingIsMeasured(t *testing.T) {
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	q, err := New(&Config{Runs: 1, Length: 100, Wait: time.Minute}, tel)
	if err != nil {
		t.Fatal(err)
	}
	lane, f := q.Lane("m", twice, 0).cheaper(), &fake{}
	_, errs := crowd(t, q, background, 5, func(ctx context.Context, i int) (Run, error) {
		return lane.Infer(ctx, time.Now(), f, input(float32(i), 0))
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{
		`pilotlight_queue_wait_seconds_count{model="m"} 5`, `pilotlight_queue_joined_sum{model="m"} 5`, `pilotlight_queue_joined_count{model="m"} 1`, `pilotlight_queue_waiting 0`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(w.Body.String(), `{model="blocker"`) {
		t.Error("what ran at once is said to have waited")
	}
}

// A lane whose rows were not cheaper in company looks again, now and then, and then takes company.
func TestATryTakesCompany(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that others come to wait when the first makes way
	q := open(t, Config{Runs: 1, Length: 100})
	l, f := q.Lane("m", twice, 0), &fake{}
	l.curve = *learn(func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }, 1, 2)
	l.trust.joined = checkFirst
	l.curve.asked = probe - 1
	var wg sync.WaitGroup
	ask := func() {
		if _, err := l.Infer(t.Context(), time.Now(), f, input(1, 2)); err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		wg.Go(ask)
	}
	ask()
	wg.Wait()
	if got := f.runs(); !slices.Equal(got, []int64{4}) {
		t.Errorf("got runs of %d rows, want one of 4", got)
	}
}

func TestOnlyWhatFitsIsJoined(t *testing.T) {
	sig := engine.Signature{
		Inputs:  []tensor.Spec{{Name: "X", Type: tensor.FP32, Shape: []int64{-1, -1}}},
		Outputs: []tensor.Spec{{Name: "Y", Type: tensor.FP32, Shape: []int64{-1, -1}}},
	}
	q := open(t, Config{Runs: 1, Length: 100})
	l, f := q.Lane("m", sig, 0).cheaper(), &fake{}
	_, errs := crowd(t, q, background, 6, func(ctx context.Context, i int) (Run, error) {
		in := input(1, 2, 3, 4)
		if i%2 == 1 {
			in[0].Shape = []int64{1, 4}
		}
		return l.Infer(ctx, time.Now(), f, in)
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := f.runs(); !slices.Equal(got, []int64{6, 3}) {
		t.Errorf("got runs of %d rows, want 6 and 3", got)
	}
}

// Joined inputs are copied, so there is an end to them.
func TestJoinedRunsHaveABoundInBytes(t *testing.T) {
	sig := engine.Signature{
		Inputs:  []tensor.Spec{{Name: "X", Type: tensor.FP32, Shape: []int64{-1, -1}}},
		Outputs: []tensor.Spec{{Name: "Y", Type: tensor.FP32, Shape: []int64{-1, -1}}},
	}
	q := open(t, Config{Runs: 1, Length: 100})
	l, f := q.Lane("m", sig, 0).cheaper(), &fake{}
	large := make([]float32, 7<<20/4)
	_, errs := crowd(t, q, background, 5, func(ctx context.Context, _ int) (Run, error) {
		in := input(large...)
		in[0].Shape = []int64{1, int64(len(large))}
		return l.Infer(ctx, time.Now(), f, in)
	})
	if got := f.runs(); errors.Join(errs...) != nil || !slices.Equal(got, []int64{2, 2, 1}) {
		t.Errorf("got runs of %d rows, %v, want 2, 2 and 1", got, errs)
	}
}

// Of nothing there can be any number of rows.
func TestRowsOfNothingAreNotJoined(t *testing.T) {
	in := func(rows int64) []tensor.Tensor {
		return []tensor.Tensor{tensor.Of("X", []int64{rows, 0}, []float32{})}
	}
	if got := rowsOf(in(1 << 62)); got != -1 {
		t.Errorf("got %d rows", got)
	}
	sig := engine.Signature{
		Inputs:  []tensor.Spec{{Name: "X", Type: tensor.FP32, Shape: []int64{-1, -1}}},
		Outputs: []tensor.Spec{{Name: "Y", Type: tensor.FP32, Shape: []int64{-1, -1}}},
	}
	q := open(t, Config{Runs: 1, Length: 100})
	l, f := q.Lane("m", sig, 0).cheaper(), &nothing{}
	_, errs := crowd(t, q, background, 3, func(ctx context.Context, i int) (Run, error) { return l.Infer(ctx, time.Now(), f, in(1<<(62-i))) })
	if err := errors.Join(errs...); err != nil || f.runs.Load() != 3 {
		t.Errorf("got %d runs, %v, want 3", f.runs.Load(), err)
	}
}

type nothing struct {
	engine.Session
	runs atomic.Int64
}

func (n *nothing) Run(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	n.runs.Add(1)
	return in, nil
}

// A run that panics costs its own requests and nothing else.
func TestAPanicGivesTheCPUsBack(t *testing.T) {
	q := open(t, Config{Runs: 1, Length: 100})
	l := q.Lane("m", twice, 0).cheaper()
	f := &fake{run: func(context.Context, []float32) ([]float32, error) { panic("broken") }}
	_, errs := crowd(t, q, background, 3, func(ctx context.Context, i int) (r Run, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		return l.Infer(ctx, time.Now(), f, input(1, 2))
	})
	for i, err := range errs {
		if want := []string{"panic: broken", "the model's run broke off", "the model's run broke off"}[i]; err == nil || err.Error() != want {
			t.Errorf("request %d: got %v, want %s", i, err, want)
		}
	}
	if _, err := l.Infer(t.Context(), time.Now(), &fake{}, input(1, 2)); err != nil || q.free != 1 {
		t.Errorf("got %v and %d free afterwards", err, q.free)
	}
}

func TestSignaturesThatCanBeJoined(t *testing.T) {
	spec := func(shape ...int64) []tensor.Spec { return []tensor.Spec{{Name: "a", Type: tensor.FP32, Shape: shape}} }
	for _, c := range []struct {
		s    engine.Signature
		want bool
	}{
		{engine.Signature{Inputs: spec(-1, 2), Outputs: spec(-1)}, true},
		{engine.Signature{Inputs: spec(1, 2), Outputs: spec(-1)}, false},
		{engine.Signature{Inputs: spec(-1, 2), Outputs: spec(1)}, false},
		{engine.Signature{Inputs: spec(-1, 2), Outputs: spec()}, false},
		{engine.Signature{Inputs: append(spec(-1, 2), spec()...), Outputs: spec(-1)}, false},
	} {
		if got := joinable(c.s); got != c.want {
			t.Errorf("%v: got %v", c.s, got)
		}
	}
}

// A model that looks at other rows, or gives other rows than it got, answers each
// request as if it were alone.
func TestAModelThatMixesRowsIsNotJoined(t *testing.T) {
	for name, run := range map[string]func(context.Context, []float32) ([]float32, error){
		"mean over rows": func(_ context.Context, x []float32) ([]float32, error) {
			mean := float32(0)
			for _, v := range x {
				mean += v / float32(len(x))
			}
			y := make([]float32, len(x))
			for i := range x {
				y[i] = x[i] - mean
			}
			return y, nil
		},
		"one row whatever comes": func(_ context.Context, x []float32) ([]float32, error) { return x[:2], nil },
	} {
		t.Run(name, func(t *testing.T) {
			q := open(t, Config{Runs: 1, Length: 100})
			l, f := q.Lane("m", twice, 0).cheaper(), &fake{run: run}
			l.trust.joined = 0
			for round := range 2 {
				runs, errs := crowd(t, q, background, 4, func(ctx context.Context, i int) (Run, error) {
					return l.Infer(ctx, time.Now(), f, input(float32(i), float32(3*i)))
				})
				for i, r := range runs {
					want, _ := run(t.Context(), []float32{float32(i), float32(3 * i)})
					if errs[i] != nil || !slices.Equal(tensor.View[float32](r.Outputs[0].Data), want) || r.Joined != 1 {
						t.Errorf("round %d, request %d: got %+v %v, want %v", round, i, r, errs[i], want)
					}
				}
			}
			if got, want := f.runs(), []int64{4, 1, 1, 1, 1, 1, 1, 1, 1}; !slices.Equal(got, want) {
				t.Errorf("got runs of %d rows, want %d", got, want)
			}
		})
	}
}

func TestABadRequestFailsAlone(t *testing.T) {
	bad := fault.New(fault.Invalid, "index 7 is out of range")
	q := open(t, Config{Runs: 1, Length: 100})
	l := q.Lane("m", twice, 0).cheaper()
	f := &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
		if slices.Contains(x, 7) {
			return nil, bad
		}
		return double(ctx, x)
	}}
	runs, errs := crowd(t, q, background, 5, func(ctx context.Context, i int) (Run, error) {
		return l.Infer(ctx, time.Now(), f, input(float32(i+4), 0))
	})
	for i := range runs {
		if i == 3 {
			if !errors.Is(errs[i], bad) {
				t.Errorf("the bad one: got %v", errs[i])
			}
		} else if errs[i] != nil || tensor.View[float32](runs[i].Outputs[0].Data)[0] != 2*float32(i+4) {
			t.Errorf("request %d: got %+v %v", i, runs[i], errs[i])
		}
	}
}

func TestLanesTakeTurns(t *testing.T) {
	q := open(t, Config{Runs: 1, Length: 100})
	var mu sync.Mutex
	order := ""
	model := func(name string) (*Lane, *fake) {
		return q.Lane(name, twice, 1), &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
			mu.Lock()
			defer mu.Unlock()
			order += name
			return double(ctx, x)
		}}
	}
	a, fa := model("a")
	b, fb := model("b")
	_, errs := crowd(t, q, background, 8, func(ctx context.Context, i int) (Run, error) {
		if i < 6 {
			return a.Infer(ctx, time.Now(), fa, input(1, 1))
		}
		return b.Infer(ctx, time.Now(), fb, input(1, 1))
	})
	if err := errors.Join(errs...); err != nil || order != "ababaaaa" {
		t.Errorf("got %s %v, want ababaaaa", order, err)
	}
}

func TestOnlySoManyRunsAtOnce(t *testing.T) {
	q := open(t, Config{Runs: 2, Length: 1000})
	l := q.Lane("m", twice, 1)
	f := &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
		time.Sleep(time.Millisecond)
		return double(ctx, x)
	}}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := l.Infer(t.Context(), time.Now(), f, input(1, 2)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := f.most.Load(); got != 2 {
		t.Errorf("got %d runs at once, want 2", got)
	}
	if q.free != 2 || q.waiting != 0 || q.backlog != 0 || len(q.turns) != 0 {
		t.Errorf("what is left: %d free, %d waiting, backlog %s, %d turns", q.free, q.waiting, q.backlog, len(q.turns))
	}
}

func TestWhoeverLeftIsNotRunFor(t *testing.T) {
	for _, leaves := range [][]int{{0}, {2}, {0, 1, 2}, {0, 1, 2, 3}} {
		t.Run(fmt.Sprint(leaves), func(t *testing.T) {
			q := open(t, Config{Runs: 1, Length: 100})
			l, f := q.Lane("m", twice, 0).cheaper(), &fake{}
			var cancels [4]context.CancelFunc
			var ctxs [4]context.Context
			for i := range ctxs {
				ctxs[i], cancels[i] = context.WithCancel(t.Context())
				defer cancels[i]()
			}
			_, errs := crowd(t, q, func(i int) context.Context { return ctxs[i] }, 4, func(ctx context.Context, i int) (Run, error) {
				return l.Infer(ctx, time.Now(), f, input(float32(i), 0))
			}, func() {
				for _, i := range leaves {
					cancels[i]()
				}
			})
			for _, n := range f.runs() {
				if n > int64(4-len(leaves)) {
					t.Errorf("a run of %d rows, though %d of 4 had left", n, len(leaves))
				}
			}
			for i, err := range errs {
				if left := slices.Contains(leaves, i) && errors.Is(err, context.Canceled); err != nil && !left {
					t.Errorf("request %d: got %v", i, err)
				}
			}
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.free != 1 || q.waiting != 0 || len(q.turns) != 0 || q.backlog != 0 {
				t.Errorf("what is left: %d free, %d waiting, %d turns, backlog %s", q.free, q.waiting, len(q.turns), q.backlog)
			}
		})
	}
}

// A run that takes long ends when the last of its callers has left, and not before.
func TestARunEndsWithItsLastCaller(t *testing.T) {
	q := open(t, Config{Runs: 1, Length: 100})
	l := q.Lane("m", twice, 0).cheaper()
	for i := range l.curve.perRow {
		l.curve.perRow[i].value *= 100 // far from short
	}
	running := make(chan struct{})
	f := &fake{run: func(ctx context.Context, _ []float32) ([]float32, error) {
		close(running)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	var ctxs [3]context.Context
	var cancels [3]context.CancelFunc
	for i := range ctxs {
		ctxs[i], cancels[i] = context.WithCancel(t.Context())
		defer cancels[i]()
	}
	go func() {
		<-running
		cancels[0]()
		cancels[1]()
		time.Sleep(20 * time.Millisecond)
		if f.now.Load() != 1 {
			t.Error("the run ended while a caller waited for it")
		}
		cancels[2]()
	}()
	_, errs := crowd(t, q, func(i int) context.Context { return ctxs[i] }, 3, func(ctx context.Context, i int) (Run, error) {
		return l.Infer(ctx, time.Now(), f, input(float32(i), 0))
	})
	for i, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("request %d: got %v", i, err)
		}
	}
}

func TestWhatCannotBeAnsweredInTimeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, Config{Runs: 1, Length: 40, Wait: time.Second})
		q.wait = time.Second
		l := q.Lane("m", twice, 1)
		f := &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
			time.Sleep(100 * time.Millisecond)
			return double(ctx, x)
		}}
		for range recent {
			if _, err := l.Infer(t.Context(), time.Now(), f, input(1, 2)); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for range 12 { // one runs, eleven wait, which takes a second and a bit
			wg.Go(func() {
				if _, err := l.Infer(t.Context(), time.Now(), f, input(1, 2)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		_, err := l.Infer(t.Context(), time.Now(), f, input(1, 2))
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "11 requests wait for a run here, about 1.1s of work; try again in 1s") {
			t.Errorf("one more: got %v", err)
		}
		if after := fault.RetryAfter(err); after != time.Second {
			t.Errorf("try again after %s, want 1s", after)
		}
		if err := l.Admit(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("asked before it is read: got %v", err)
		}
		time.Sleep(500 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := l.Infer(ctx, time.Now(), f, input(1, 2)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("one whose time is too short: got %v", err)
		}
		if _, err := q.Lane("other", twice, 1).Infer(t.Context(), time.Now(), &fake{}, input(1, 2)); err != nil {
			t.Errorf("one of another model: got %v", err)
		}
		wg.Wait()
		if err := l.Admit(t.Context()); err != nil {
			t.Errorf("when all is over: got %v", err)
		}
	})
}

// A model whose runs take more than half of what its callers have is tried all the
// same when it is its turn: else it could never be found to have become faster.
func TestALaneWithoutWaitersIsNotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := open(t, Config{Runs: 1, Length: 40})
		busy, slow := q.Lane("busy", twice, 1), q.Lane("slow", twice, 1)
		take := func(d time.Duration) *fake {
			return &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
				time.Sleep(d)
				return double(ctx, x)
			}}
		}
		for range recent {
			_, _ = slow.Infer(t.Context(), time.Now(), take(600*time.Millisecond), input(1, 2))
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = busy.Infer(t.Context(), time.Now(), take(100*time.Millisecond), input(1, 2)) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := slow.Infer(ctx, time.Now(), take(10*time.Millisecond), input(1, 2)); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// At twice the load that can be borne, what is answered in time stays near to
// what can be.
func TestGoodputAtTwiceTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const run, patience, seconds = 10 * time.Millisecond, 500 * time.Millisecond, 20
		q := open(t, Config{Runs: 2, Length: 10_000})
		l := q.Lane("m", twice, 1)
		f := &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
			time.Sleep(run)
			return double(ctx, x)
		}}
		var good, late, refused atomic.Int64
		var wg sync.WaitGroup
		for range 2 * 2 * seconds * int(time.Second/run) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				switch _, err := l.Infer(ctx, time.Now(), f, input(1, 2)); {
				case err == nil:
					good.Add(1)
				case fault.Is(err, fault.Unavailable):
					refused.Add(1)
				default:
					late.Add(1)
				}
			})
			time.Sleep(run / 4)
		}
		wg.Wait()
		peak := int64(2 * seconds * int(time.Second/run))
		if good.Load() < peak*9/10 {
			t.Errorf("of %d that could be answered %d were; %d were refused and %d too late", peak, good.Load(), refused.Load(), late.Load())
		}
		if late.Load() > peak/100 {
			t.Errorf("%d waited in vain", late.Load())
		}
	})
}

// Everything at once: sizes, models, callers that leave, runs that fail.
func TestEveryAnswerIsItsOwn(t *testing.T) {
	q := open(t, Config{Runs: 2, Length: 64})
	lanes := make([]*Lane, 3)
	for i := range lanes {
		lanes[i] = q.Lane(fmt.Sprint(i), twice, []int{0, 1, 7}[i]).cheaper()
		lanes[i].trust.joined = 0
	}
	f := &fake{run: func(ctx context.Context, x []float32) ([]float32, error) {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		}
		if slices.Contains(x, -1) {
			return nil, fault.New(fault.Invalid, "minus one")
		}
		return double(ctx, x)
	}}
	var answered, refused atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
				x := make([]float32, 2*(1+rand.IntN(3)))
				for i := range x {
					x[i] = rand.Float32()
				}
				bad := rand.IntN(20) == 0
				if bad {
					x[0] = -1
				}
				want, _ := double(ctx, x)
				in := input(x...)
				r, err := lanes[rand.IntN(len(lanes))].Infer(ctx, time.Now(), f, in)
				clear(x) // nobody may read it any more
				switch {
				case err == nil && (bad || !slices.Equal(tensor.View[float32](r.Outputs[0].Data), want)):
					t.Errorf("got %v, want %v", tensor.View[float32](r.Outputs[0].Data), want)
				case err == nil:
					answered.Add(1)
				case fault.Is(err, fault.Invalid) && !bad:
					t.Errorf("another's error: %v", err)
				default:
					refused.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if answered.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d answered, %d not: both are to be tried", answered.Load(), refused.Load())
	}
	if q.free != 2 || q.waiting != 0 || q.backlog != 0 || len(q.turns) != 0 {
		t.Errorf("what is left: %d free, %d waiting, backlog %s, %d turns", q.free, q.waiting, q.backlog, len(q.turns))
	}
}

func BenchmarkInferAlone(b *testing.B) {
	q := open(b, Config{Runs: 1})
	l, in := q.Lane("m", twice, 0), input(1, 2)
	out := []tensor.Tensor{tensor.Of("Y", []int64{1, 2}, []float32{2, 4})}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Infer(b.Context(), time.Now(), instant{out: out}, in); err != nil {
			b.Fatal(err)
		}
	}
}

type instant struct {
	engine.Session
	out []tensor.Tensor
}

func (i instant) Run(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) { return i.out, nil }

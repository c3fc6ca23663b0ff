// Package queue decides which of the inferences that wait runs next, and with
// which others.
//
// A process has one Queue, which shares out the CPUs: at most as many runs are
// under way as there are CPUs for. Each model has a Lane in it. A request that
// finds a CPU free runs at once, on its caller's goroutine; only what has to
// wait anyway is joined, by rows, with others of its lane that fit it. Lanes
// take turns, so that one model's flood leaves the others their share.
//
// How many rows are worth joining is learned from runs, for each lane by itself:
// a model whose rows get no cheaper in company is left alone. So is one whose
// answers change in company, which is tried before the first joined answer is
// given and now and then afterwards.
//
// What waits is bounded in number and in time. A request that could not be
// answered in time is refused when it comes, with the time after which trying
// again makes sense; one whose caller has gone, or whose time runs out while it
// waits, is never run. Where the runtime can, a run under way ends when nobody
// waits for it any more.
//
// Nothing is ever waited for in order to join it, there is no goroutine and no
// timer: whoever ends a run starts the next. All methods are safe for concurrent use.
package queue

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/cgroup"
	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Config bounds what may run and wait.
type Config struct {
	Runs   int           `env:"QUEUE_RUNS" default:"0" help:"Model runs under way at once; 0: as many as there are CPUs, by the container's quota."`
	Length int           `env:"QUEUE_LENGTH" default:"4096" help:"Requests that may wait for a run."`
	Wait   time.Duration `env:"QUEUE_WAIT" default:"2s" help:"How long a request may have to wait for a run, by what runs have taken so far; one that would have to wait longer is refused at once."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.Runs < 0 || c.Runs > 1024:
		return fault.New(fault.Invalid, "QUEUE_RUNS must be 0 to 1024")
	case c.Length < 1:
		return fault.New(fault.Invalid, "QUEUE_LENGTH must be positive")
	case c.Wait <= 0:
		return fault.New(fault.Invalid, "QUEUE_WAIT must be positive")
	}
	return nil
}

// Queue shares the CPUs among lanes.
type Queue struct {
	length int
	wait   time.Duration
	runs   int
	log    *slog.Logger
	tel    *instruments

	mu      sync.Mutex
	free    int     // CPUs that no run has; below zero while a run takes more than there were
	turns   []*Lane // those with waiters, in the order of their turns
	waiting int
	backlog time.Duration // what the waiters are going to take, as far as is known
}

// New makes a queue of its own CPUs.
func New(c *Config, tel *telemetry.Telemetry) (*Queue, error) {
	runs := c.Runs
	if runs == 0 {
		runs = cgroup.CPUs()
	}
	q := &Queue{length: c.Length, wait: c.Wait, runs: runs, free: runs, log: tel.Log}
	var err error
	if q.tel, err = newInstruments(tel, q); err != nil {
		return nil, err
	}
	return q, nil
}

// Spare tells whether a CPU is free and nobody waits for one: what nobody waits for should begin only then.
func (q *Queue) Spare() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.free > 0 && q.waiting == 0
}

// Lane is where the requests of one model wait.
type Lane struct {
	queue    *Queue
	name     string
	labels   []metric.RecordOption
	joinable bool // by its signature

	// Under queue.mu:
	most    int64 // rows that a run may have; 0: any number
	waiting []*waiter
	turn    bool // it stands in queue.turns
	backlog time.Duration
	curve   curve
	cost    average // nanoseconds of a run for each request in it
	trust   trust
	// shortMost is the most bytes of inputs that a short run has had: rows alone do
	// not tell how large a request is.
	shortMost int64
	asked     int // how often making way for others was thought of
	unmet     int // how often in a row it brought nobody
}

// Lane makes a lane. most bounds the rows of a joined run: 1 means that requests
// are never joined, 0 leaves it to what is learned.
func (q *Queue) Lane(name string, s engine.Signature, most int) *Lane {
	return &Lane{queue: q, name: name, labels: q.tel.labelsOf(name), most: int64(most), joinable: joinable(s)}
}

// Bound changes how many rows a joined run may have, as most of Queue.Lane does.
func (l *Lane) Bound(most int) {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	l.most = int64(most)
}

// Run is what became of a request.
type Run struct {
	Outputs []tensor.Tensor // in signature order; joined ones share memory with those of others
	Rows    int64           // of the whole run, of which the request may have been a part
	Joined  int             // requests in the run
	First   bool            // of the requests in the run; a run has one
	Waited  time.Duration
	Took    time.Duration
}

// waiter is a request that waits for its turn, or for the end of the run it is in.
type waiter struct {
	ctx     context.Context
	session engine.Session
	inputs  []tensor.Tensor
	rows    int64 // -1: inputs disagree, or have no elements
	bytes   int64 // of the inputs
	cost    time.Duration
	since   time.Time

	wake  chan struct{} // one send: lead the batch, or result is there
	batch *batch        // once it is out of the lane; set under queue.mu
	run   Run
	err   error
}

// Admit refuses a request that there is no hope for, before work is spent on
// reading it.
func (l *Lane) Admit(ctx context.Context) error {
	q := l.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	err := l.hopeless(ctx)
	if err != nil {
		q.tel.refused()
	}
	return err
}

// Infer runs a request, which has waited since then, on a session of the lane's
// model. The inputs stand in signature order and fit it; they are read until Infer returns.
func (l *Lane) Infer(ctx context.Context, since time.Time, s engine.Session, inputs []tensor.Tensor) (Run, error) {
	if err := ctx.Err(); err != nil {
		return Run{}, err
	}
	w := &waiter{ctx: ctx, session: s, inputs: inputs, rows: 1, bytes: bytesOf(inputs), since: since}
	if l.joinable {
		w.rows = rowsOf(inputs)
	}
	q := l.queue
	q.mu.Lock()
	if q.free <= 0 || len(l.waiting) > 0 {
		return l.queueUp(w) // unlocks
	}
	q.free -= threads(s)
	if most := l.mostFor(w.rows); most > w.rows && l.hopeful() {
		// Requests that are here already, but had no CPU to be read on, can come
		// along: where there is one CPU, nothing else would let them meet a run that
		// takes microseconds (docs/adr/0010).
		q.mu.Unlock()
		runtime.Gosched()
		q.mu.Lock()
		l.join(w, most)
		l.settle()
		l.met(len(w.batch.members) > 1)
	} else {
		w.batch = newBatch(l, w)
	}
	q.mu.Unlock()
	return w.batch.lead()
}

// lonely is how many times in a row a lane makes way for others and meets nobody,
// until it does so but one in lonely times: making way costs two microseconds.
const lonely = 8

// hopeful tells whether making way for others may bring some; the caller holds mu.
func (l *Lane) hopeful() bool {
	l.asked++
	return l.unmet < lonely || l.asked%lonely == 0
}

// met learns whether it did; the caller holds mu.
func (l *Lane) met(others bool) {
	if l.unmet++; others {
		l.unmet = 0
	}
}

// shortRun is what a run may take that is not worth being called off: being able
// to costs a microsecond or two each time.
const shortRun = time.Millisecond

// short reports whether a run of so many rows and bytes is known to be a short one.
func (l *Lane) short(rows, bytes int64) bool {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	took, known := l.curve.expect(rows)
	return known && took < shortRun && bytes <= l.shortMost
}

// done learns from a run, gives its CPUs back and starts what waits for them.
func (l *Lane) done(s engine.Session, bytes int64, r *Run, err error) {
	q := l.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		l.curve.record(r.Rows, r.Took)
		l.cost.add(float64(r.Took) / float64(r.Joined))
		if r.Took < shortRun {
			l.shortMost = max(l.shortMost, bytes)
		}
	}
	q.free += threads(s)
	q.dispatch()
}

// queueUp waits for a turn. The caller holds mu, which it gives back.
func (l *Lane) queueUp(w *waiter) (Run, error) {
	q, ctx := l.queue, w.ctx
	if err := l.hopeless(ctx); err != nil {
		q.mu.Unlock()
		q.tel.refused()
		return Run{}, err
	}
	w.cost, w.wake = time.Duration(l.cost.value), make(chan struct{}, 1)
	l.waiting = append(l.waiting, w)
	l.settle()
	q.waiting++
	q.backlog += w.cost
	l.backlog += w.cost
	q.mu.Unlock()

	select {
	case <-w.wake:
	case <-ctx.Done():
		q.mu.Lock()
		b := w.batch
		if b == nil {
			l.drop(w)
			q.mu.Unlock()
			q.tel.abandoned()
			return Run{}, ctx.Err()
		}
		q.mu.Unlock()
		if b.members[0] != w {
			b.leave()
			return Run{}, ctx.Err()
		}
		<-w.wake // it has others to run for, and starts with finding out whether they are still there
	}
	var r Run
	var err error
	if w.batch.members[0] == w {
		r, err = w.batch.lead()
	} else {
		r, err = w.run, w.err
	}
	if err == nil {
		q.tel.waited.Record(ctx, r.Waited.Seconds(), l.labels...)
	}
	return r, err
}

// hopeless refuses what can't be answered in time; the caller holds mu.
func (l *Lane) hopeless(ctx context.Context) error {
	q := l.queue
	if len(l.waiting) == 0 && q.waiting < q.length {
		return nil // its turn is among the next, whatever others have to do
	}
	own := time.Duration(l.cost.value)
	// As lanes take turns, a short one need not wait until a long one is empty.
	ahead := min(q.backlog, (l.backlog+own)*time.Duration(len(q.turns)+1)) / time.Duration(q.runs)
	limit := q.wait
	if deadline, ok := ctx.Deadline(); ok { // until when what runs now has to end, and this one too
		limit = min(limit, time.Until(deadline)-2*own)
	}
	if q.waiting < q.length && ahead <= limit {
		return nil
	}
	again := max(ahead-limit, ahead/2, time.Second)
	return fault.Again(fault.New(fault.Unavailable, "%d requests wait for a run here, about %s of work; try again in %s",
		q.waiting, ahead.Round(time.Millisecond), again.Round(time.Second)), again)
}

// drop takes a waiter out of its lane; the caller holds mu.
func (l *Lane) drop(w *waiter) {
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.account(w)
	}
	l.settle()
}

// settle has the lane stand in the row for turns if it has waiters, and only
// then; the caller holds mu.
func (l *Lane) settle() {
	q := l.queue
	switch waits := len(l.waiting) > 0; {
	case waits == l.turn:
		return
	case waits:
		q.turns = append(q.turns, l)
	default:
		i := slices.Index(q.turns, l)
		q.turns = slices.Delete(q.turns, i, i+1)
	}
	l.turn = !l.turn
}

// account takes a waiter that no longer waits out of the sums; the caller holds mu.
func (l *Lane) account(w *waiter) {
	l.queue.waiting--
	l.queue.backlog -= w.cost
	l.backlog -= w.cost
}

// dispatch starts what there are CPUs for; the caller holds mu.
func (q *Queue) dispatch() {
	for q.free > 0 && len(q.turns) > 0 {
		l := q.turns[0]
		q.turns = slices.Delete(q.turns, 0, 1)
		l.turn = false
		if first := l.next(); first != nil {
			q.free -= threads(first.session)
			l.join(first, l.mostFor(first.rows))
			first.wake <- struct{}{}
		}
		l.settle()
	}
}

// next takes the first waiter out whose caller is still there, and forgets those
// before it: they find out by themselves. The caller holds mu.
func (l *Lane) next() *waiter {
	for i, w := range l.waiting {
		l.account(w)
		if w.ctx.Err() == nil {
			l.waiting = slices.Delete(l.waiting, 0, i+1)
			return w
		}
	}
	l.waiting = slices.Delete(l.waiting, 0, len(l.waiting))
	return nil
}

// threads is how many CPUs a session's run takes.
func threads(s engine.Session) int {
	if t, ok := s.(interface{ Threads() int }); ok {
		return t.Threads()
	}
	return 1
}

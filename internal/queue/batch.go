package queue

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// joinable reports whether requests for a model can be joined by rows: all
// inputs and outputs leave their first dimension free.
func joinable(s engine.Signature) bool {
	free := func(specs []tensor.Spec) bool {
		for _, spec := range specs {
			if len(spec.Shape) == 0 || spec.Shape[0] >= 0 {
				return false
			}
		}
		return len(specs) > 0
	}
	return free(s.Inputs) && free(s.Outputs)
}

// rowsOf counts the rows of a request, which all inputs must have; -1: they have
// not, or there is nothing in them, so that rows tell nothing of the work.
func rowsOf(inputs []tensor.Tensor) int64 {
	n := inputs[0].Shape[0]
	for i := range inputs {
		if t := &inputs[i]; t.Shape[0] != n || len(t.Data)+len(t.Strings) == 0 {
			return -1
		}
	}
	return n
}

// bytesOf is how much memory inputs take.
func bytesOf(inputs []tensor.Tensor) int64 {
	n := 0
	for i := range inputs {
		n += len(inputs[i].Data)
		for _, s := range inputs[i].Strings {
			n += len(s)
		}
	}
	return int64(n)
}

// fits reports whether two requests differ in nothing but rows and values.
func fits(a, b []tensor.Tensor) bool {
	for i := range a {
		x, y := a[i].Shape[1:], b[i].Shape[1:]
		if len(x) != len(y) {
			return false
		}
		for j := range x {
			if x[j] != y[j] {
				return false
			}
		}
	}
	return true
}

// batch is the requests of one run. Its first member runs it for all.
type batch struct {
	lane    *Lane
	members []*waiter
	rows    int64
	bytes   int64

	copying sync.Mutex   // held until the inputs of all members have been read
	here    atomic.Int32 // members whose callers still wait
	cancel  context.CancelFunc
}

func newBatch(l *Lane, first *waiter) *batch {
	b := &batch{lane: l, members: []*waiter{first}, rows: first.rows, bytes: first.bytes, cancel: func() {}}
	b.here.Store(1)
	b.copying.Lock()
	return b
}

// bytesMost bounds the inputs of a joined run, which are copied for it.
const bytesMost = 16 << 20

// join makes a batch of a waiter that has its turn and those in the lane that
// are worth taking along, up to so many rows; the caller holds the queue's mu.
func (l *Lane) join(first *waiter, most int64) {
	b := newBatch(l, first)
	first.batch = b
	if most <= first.rows || len(l.waiting) == 0 || l.trust.lost {
		return
	}
	now, kept := time.Now(), l.waiting[:0]
	for _, w := range l.waiting {
		if w.rows < 1 || w.rows > most-b.rows || w.bytes > bytesMost-b.bytes || !fits(first.inputs, w.inputs) || !l.inTime(w, now, most) {
			kept = append(kept, w)
			continue
		}
		l.account(w)
		if w.ctx.Err() == nil {
			w.batch = b
			b.members, b.rows, b.bytes = append(b.members, w), b.rows+w.rows, b.bytes+w.bytes
		}
	}
	clear(l.waiting[len(kept):])
	l.waiting = kept
	b.here.Store(int32(len(b.members)))
}

// mostFor gives how many rows a run that begins with a request of so many rows
// may have; the caller holds the queue's mu.
func (l *Lane) mostFor(rows int64) int64 {
	if !l.joinable || rows < 1 || l.most == 1 || l.trust.lost {
		return rows
	}
	most := l.curve.most(rows)
	if l.most > 0 {
		most = min(most, l.most)
	}
	return max(most, rows)
}

// inTime reports whether a caller would still be there at the end of a run of so
// many rows; the caller holds the queue's mu.
func (l *Lane) inTime(w *waiter, now time.Time, rows int64) bool {
	took, known := l.curve.expect(rows)
	deadline, bounded := w.ctx.Deadline()
	return !known || !bounded || deadline.Sub(now) > took
}

// leave counts out a member whose caller has gone. Its inputs are not read afterwards.
func (b *batch) leave() {
	b.copying.Lock()
	b.copying.Unlock() //nolint:staticcheck // waits for the end of copying, nothing else
	b.left()
}

func (b *batch) left() {
	if b.here.Add(-1) == 0 {
		b.cancel()
	}
}

// lead runs the batch on its first member's goroutine, and gives that one's answer.
func (b *batch) lead() (Run, error) {
	begin, l, first := time.Now(), b.lane, b.members[0]
	r, err := Run{Rows: b.rows, Joined: len(b.members)}, errPanicked
	defer func() { // whatever happens, others have their answers and the next their turns
		for _, w := range b.members[1:] {
			w.run.Waited = begin.Sub(w.since)
			w.wake <- struct{}{}
		}
		l.done(first.session, b.bytes, &r, err)
	}()
	if len(b.members) == 1 {
		b.copying.Unlock()
		ctx := first.ctx
		if l.short(b.rows, b.bytes) {
			ctx = context.Background()
		}
		r.Outputs, err = first.session.Run(ctx, first.inputs)
		r.First, r.Waited, r.Took = true, begin.Sub(first.since), time.Since(begin)
		return r, err
	}
	for _, w := range b.members {
		w.err = errPanicked
	}
	ctx := context.Background()
	if !l.short(b.rows, b.bytes) {
		ctx, b.cancel = context.WithCancel(ctx)
		defer b.cancel()
		defer context.AfterFunc(first.ctx, b.left)()
	}
	joined := func() []tensor.Tensor {
		defer b.copying.Unlock()
		return concatenate(b.members, b.rows)
	}()
	var outputs []tensor.Tensor
	outputs, err = first.session.Run(ctx, joined)
	r.Took = time.Since(begin)
	parts, whole := split(outputs, b.members, b.rows)
	switch {
	case ctx.Err() != nil: // nobody is there any more
		for _, w := range b.members {
			w.err = ctx.Err()
		}
	case err != nil: // one of them may be what the model can't bear, and the others are not to suffer from it
		b.separately(joined)
	case !whole:
		l.distrust("its outputs have other rows than its inputs")
		b.separately(joined)
	case l.checks():
		b.separately(joined)
		b.compare(parts)
	default:
		l.queue.tel.joined.Record(ctx, int64(len(b.members)), l.labels...)
		for i, w := range b.members {
			w.run, w.err = r, nil
			w.run.Outputs, w.run.First = parts[i], i == 0
		}
	}
	first.run.Waited = begin.Sub(first.since)
	return first.run, first.err
}

var errPanicked = fault.New(fault.Internal, "the model's run broke off")

// separately runs each member by itself, on its rows of the joined inputs. The
// session is the first one's, who is going to be here until the end.
func (b *batch) separately(joined []tensor.Tensor) {
	views, _ := split(joined, b.members, b.rows)
	for i, w := range b.members {
		if w.err = w.ctx.Err(); w.err != nil {
			continue
		}
		begin := time.Now()
		w.run.Outputs, w.err = b.members[0].session.Run(w.ctx, views[i])
		w.run.Rows, w.run.Joined, w.run.First, w.run.Took = w.rows, 1, true, time.Since(begin)
	}
}

// compare tries whether members' own answers are what they got in company.
func (b *batch) compare(parts [][]tensor.Tensor) {
	for i, w := range b.members {
		if w.err == nil && !tensor.Near(w.run.Outputs, parts[i]) {
			b.lane.distrust("its answers change when requests are joined")
			return
		}
	}
}

// concatenate joins the members' inputs by rows.
func concatenate(members []*waiter, rows int64) []tensor.Tensor {
	joined := slices.Clone(members[0].inputs)
	for i := range joined {
		t := &joined[i]
		t.Shape = slices.Clone(t.Shape)
		t.Shape[0] = rows
		n := 0
		for _, w := range members {
			n += len(w.inputs[i].Data) + len(w.inputs[i].Strings)
		}
		if t.Type == tensor.Bytes {
			t.Strings = make([]string, 0, n)
		} else {
			t.Data = make([]byte, 0, max(n, 8)) // of that size memory is aligned for every type
		}
		for _, w := range members {
			t.Data = append(t.Data, w.inputs[i].Data...)
			t.Strings = append(t.Strings, w.inputs[i].Strings...)
		}
	}
	return joined
}

// split gives each member its rows of joined tensors, without a copy; ok is false
// if they have not as many rows as all members together.
func split(joined []tensor.Tensor, members []*waiter, rows int64) (parts [][]tensor.Tensor, ok bool) {
	for i := range joined {
		if len(joined[i].Shape) == 0 || joined[i].Shape[0] != rows {
			return nil, false
		}
	}
	parts = make([][]tensor.Tensor, len(members))
	all := make([]tensor.Tensor, len(members)*len(joined))
	at := int64(0)
	for m, w := range members {
		parts[m], all = all[:len(joined):len(joined)], all[len(joined):]
		for i := range joined {
			t := joined[i]
			t.Shape = slices.Clone(t.Shape)
			t.Shape[0] = w.rows
			if size := int64(len(t.Data)) / rows; size > 0 {
				t.Data = t.Data[at*size : (at+w.rows)*size : (at+w.rows)*size]
			}
			if size := int64(len(t.Strings)) / rows; size > 0 {
				t.Strings = t.Strings[at*size : (at+w.rows)*size : (at+w.rows)*size]
			}
			parts[m][i] = t
		}
		at += w.rows
	}
	return parts, true
}

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

const (
	shortWait  = 15 * time.Second // that a holder waits itself, instead of leaving the run to the next tick
	pauseUsed  = time.Second      // before the second try of a step; doubled each time
	pauseTop   = time.Minute
	sideBySide = 8 // pipelines that a tick works on at once
	sendMost   = 10 * time.Second
)

// Work goes on with a pipeline as far as it can: it begins the run that is due, runs the steps that are ready, one after
// the other, and begins the next run. Any number of processes may do so at once: the run's lease lets one of them.
// It ends when there is nothing to do now, and tells when there is (zero: when something happens); or when
// its turn is over, with an event that has it called again. What goes wrong with steps is in the run; errors are of the bucket.
func (m *Manager) Work(ctx context.Context, name string) (again time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.turn, errTurn)
	defer cancel()
	defer context.AfterFunc(m.ending, cancel)()
	began := m.now()
	for {
		h, err := m.head(ctx, name)
		if err != nil {
			return time.Time{}, err
		}
		m.tellAll(ctx, name, h.Untold)
		if h.Active == nil {
			due, next, err := m.due(ctx, name)
			if err != nil || !due {
				return next, err
			}
			continue
		}
		run, err := m.record(ctx, name, h.Active)
		if run == nil && fault.Is(err, fault.Invalid) {
			if err := m.drop(ctx, name, h.Active.ID, err); err != nil {
				return time.Time{}, err
			}
			continue
		}
		if err != nil {
			return time.Time{}, err
		}
		if !run.Ended.IsZero() {
			if err := m.finish(ctx, run); err != nil {
				return time.Time{}, err
			}
			continue
		}
		k, again, err := m.take(ctx, name, run.ID)
		if err != nil || k == nil && !again.IsZero() {
			return again, err
		}
		if k == nil { // it has ended meanwhile
			continue
		}
		if ended, again, err := k.work(ctx, began); err != nil || !ended {
			return again, err
		}
	}
}

// Tick works on all pipelines, and tells when there is something to do again. What goes wrong with one costs no other.
func (m *Manager) Tick(ctx context.Context) (again time.Time, err error) {
	names, err := m.names(ctx)
	if err != nil {
		return time.Time{}, err
	}
	next, errs := make([]time.Time, len(names)), make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(sideBySide)
	for i, name := range names {
		group.Go(func() error {
			next[i], errs[i] = m.Work(ctx, name)
			return nil
		})
	}
	_ = group.Wait() // there are none
	for _, t := range next {
		if !t.IsZero() && (again.IsZero() || t.Before(again)) {
			again = t
		}
	}
	return again, errors.Join(errs...)
}

// finish takes note of the end of a run, tells the broker, and lets the next one begin.
func (m *Manager) finish(ctx context.Context, run *Run) error {
	m.tellRun(run)
	told := m.tellEnded(ctx, run) == nil
	_, err := m.change(ctx, run.Pipeline, func(h *head) (bool, error) {
		if h.Active == nil || h.Active.ID != run.ID {
			return false, nil
		}
		h.Active = nil
		if !told {
			h.Untold = append(h.Untold, run.ID)
			h.Untold = h.Untold[max(0, len(h.Untold)-untoldMost):]
		}
		return true, nil
	})
	if err == nil {
		m.sweep(ctx, run.Pipeline, run.ID)
	}
	return err
}

// drop gives a run up whose record is damaged: it must not block the next one.
func (m *Manager) drop(ctx context.Context, name, id string, why error) error {
	m.log.ErrorContext(ctx, "a run is given up", slog.String("pipeline", name), slog.String("run", id), slog.String("error", why.Error()))
	_, err := m.change(ctx, name, func(h *head) (bool, error) {
		if h.Active == nil || h.Active.ID != id {
			return false, nil
		}
		h.Active = nil
		return true, nil
	})
	return err
}

// tellAll tells of the ends of runs that could not be told of before.
func (m *Manager) tellAll(ctx context.Context, name string, runs []string) {
	if len(runs) == 0 {
		return
	}
	told := map[string]bool{}
	for _, id := range runs {
		run, err := m.Get(ctx, name, id)
		if err == nil {
			err = m.tellEnded(ctx, run)
		}
		if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Invalid) { // nobody can tell of one that is gone or damaged
			break
		}
		told[id] = true
	}
	_, err := m.change(ctx, name, func(h *head) (bool, error) {
		var left []string
		for _, id := range h.Untold {
			if !told[id] {
				left = append(left, id)
			}
		}
		differs := len(left) != len(h.Untold)
		h.Untold = left
		return differs, nil
	})
	if err != nil {
		m.log.WarnContext(ctx, "events will be sent again", slog.String("pipeline", name), slog.String("error", err.Error()))
	}
}

func (m *Manager) tellEnded(ctx context.Context, run *Run) error {
	e := event.Ended{Pipeline: run.Pipeline, Run: run.ID, State: string(run.State), Why: run.Reason, At: run.Ended}
	for _, s := range run.Steps {
		if s.State != Succeeded && s.State != Queued {
			e.Step = s.Name
		}
	}
	return m.tell(run.within(ctx), event.PipelineEnded.New(e))
}

// tellStarted tells of a run, and has whoever hears of it go on with it.
func (m *Manager) tellStarted(ctx context.Context, run *Run) {
	b := event.Begun{Pipeline: run.Pipeline, Run: run.ID, Version: run.Version, At: run.At, By: run.By}
	if run.Cause != nil {
		b.Cause = run.Cause.ID
	}
	_ = m.tell(run.within(ctx), event.PipelineStarted.New(b)) // which has logged it: a tick finds the run, too
}

// tell sends an event.
func (m *Manager) tell(ctx context.Context, e event.Event) error {
	if m.sink == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendMost)
	defer cancel()
	err := m.sink.Send(ctx, e)
	if err != nil {
		m.log.WarnContext(ctx, "event not sent", slog.String("type", e.Type()), slog.String("id", e.ID()), slog.String("error", err.Error()))
	}
	return err
}

// planOf gives the plan that a run goes by. One that is Invalid, or NotFound, can't be run by this binary.
func (m *Manager) planOf(ctx context.Context, run *Run) (*plan, error) {
	v, err := m.version(ctx, run.Pipeline, run.Version)
	if err != nil {
		return nil, err
	}
	d, err := v.definition(run.Pipeline)
	if err != nil {
		return nil, err
	}
	return d.compile(m.kinds)
}

// work runs steps until the run ends, waits, is somebody else's, or the turn that began then is half over: what is begun has to end in it.
func (k *hold) work(ctx context.Context, began time.Time) (ended bool, again time.Time, err error) {
	k.m.metrics.active.Add(1)
	defer k.m.metrics.active.Add(-1)
	kept, end := k.keep(ctx)
	defer end()
	ended, again, err = k.steps(kept, ctx, began)
	if errors.Is(err, errLost) || errors.Is(context.Cause(kept), errLost) {
		return false, k.m.now().Add(k.m.lease), nil
	}
	if err != nil || !ended && k.seen().Lease != nil {
		err = errors.Join(err, k.release(ctx))
	}
	return ended, again, err
}

// steps does so while it holds the lease. ctx ends with that, too, and turn with the turn alone.
func (k *hold) steps(ctx, turn context.Context, began time.Time) (ended bool, again time.Time, err error) {
	m := k.m
	p, err := m.planOf(turn, k.seen())
	switch {
	case fault.Is(err, fault.Invalid), fault.Is(err, fault.NotFound):
		return true, time.Time{}, k.end(turn, Failed, fault.Message(err))
	case err != nil:
		return false, time.Time{}, err
	}
	if err := k.prepare(turn, p); err != nil {
		return false, time.Time{}, err
	}
	for {
		run := k.seen()
		if errors.Is(context.Cause(ctx), errLost) {
			return false, time.Time{}, errLost
		}
		if run.Cancel != nil {
			k.calm(turn, run)
			if err := k.stop(turn, p, run); err != nil {
				return false, time.Time{}, err
			}
			return true, time.Time{}, k.end(turn, Canceled, "by "+run.Cancel.Who)
		}
		if turn.Err() != nil || m.now().Sub(began) > m.turn/2 {
			return false, m.now(), k.handOn(turn)
		}
		i, state, why := p.next(run)
		if state != "" {
			return true, time.Time{}, k.end(turn, state, why)
		}
		s := &run.Steps[i]
		if s.State == Waiting && s.Until.After(m.now()) {
			if s.Until.Sub(m.now()) > shortWait {
				return false, s.Until, k.park(turn, s.Until, fmt.Sprintf("step %s: %s", s.Name, s.Why))
			}
			rest(ctx, s.Until.Sub(m.now()))
			continue
		}
		var result *Result
		if s.State == Running && s.Place != "" {
			again, result, err = k.elsewhere(ctx, turn, run, s)
		} else {
			again, result, err = k.try(ctx, turn, &p.steps[i], i)
		}
		switch {
		case err != nil:
			return false, time.Time{}, err
		case !again.IsZero():
			return false, again, k.park(turn, again, fmt.Sprintf("step %s runs elsewhere: %s", s.Name, s.Place))
		case result == nil: // look again
			continue
		}
		if err := k.settle(turn, &p.steps[i], i, result); err != nil {
			return false, time.Time{}, err
		}
	}
}

// rest waits, or until ctx is done.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// prepare writes down the steps of a run that has just begun.
func (k *hold) prepare(ctx context.Context, p *plan) error {
	if len(k.seen().Steps) == len(p.steps) {
		return nil
	}
	return k.update(ctx, func(r *Run) {
		r.Steps = make([]StepState, len(p.steps))
		for i, s := range p.steps {
			r.Steps[i] = StepState{Name: s.Name, Use: s.Use, State: Queued}
		}
	})
}

// next chooses the step to go on with: the first one, in the order of the definition, that waits for no other. Or it
// tells how the run has ended.
func (p *plan) next(run *Run) (i int, ended State, why string) {
	for _, s := range run.Steps {
		switch s.State {
		case Failed, TurnedDown, Canceled:
			return 0, s.State, fmt.Sprintf("step %s: %s", s.Name, s.Why)
		}
	}
	for i := range run.Steps {
		ready := run.Steps[i].State != Succeeded
		for _, j := range p.steps[i].before {
			ready = ready && run.Steps[j].State == Succeeded
		}
		if ready {
			return i, "", ""
		}
	}
	return 0, Succeeded, "" // there are no cycles
}

// try begins a try of a step, here or elsewhere; elsewhere there is no result yet.
func (k *hold) try(ctx, turn context.Context, s *planned, i int) (again time.Time, r *Result, err error) {
	m := k.m
	inputs, err := s.inputs(k.seen())
	if err != nil {
		return time.Time{}, &Result{State: Failed, Why: fault.Message(err), At: m.now().UTC()}, nil
	}
	place := ""
	if s.kind.Heavy && m.place != nil {
		place = m.place.Name()
	}
	err = k.update(turn, func(r *Run) {
		st, now := &r.Steps[i], m.now().UTC()
		st.Attempt++
		st.State, st.Place, st.Tried, st.Until, st.Why = Running, place, now, time.Time{}, ""
		if st.Began.IsZero() {
			st.Began = now
		}
	})
	if err != nil {
		return time.Time{}, nil, err
	}
	run := k.seen()
	if place == "" {
		return time.Time{}, m.try(run.inStep(ctx, &run.Steps[i]), s, run, run.Steps[i].Attempt, inputs), nil
	}
	e := event.StepRequested.New(*run.Steps[i].try(run))
	event.SetOrigin(run.inStep(turn, &run.Steps[i]), &e)
	if err := m.place.Start(turn, e); err != nil {
		return time.Time{}, &Result{State: Failed, Passing: true, Why: clip(fmt.Sprintf("it can't be started as a %s: %s", place, err), whyKept), At: m.now().UTC()}, nil
	}
	return time.Time{}, nil, nil
}

// elsewhere waits for the result of a step that runs elsewhere, if this process can tell of it; or else says when to look again.
func (k *hold) elsewhere(ctx, turn context.Context, run *Run, s *StepState) (again time.Time, r *Result, err error) {
	m, t := k.m, s.try(run)
	here := m.place != nil && m.place.Name() == s.Place
	if here {
		waited, cancel := context.WithTimeout(ctx, m.turn/8)
		here = m.place.Wait(waited, t)
		cancel()
	}
	r, err = m.result(turn, t)
	if err != nil || r != nil || here {
		return time.Time{}, r, err
	}
	l, err := m.readLog(turn, run.Pipeline, run.ID, s.Name)
	if err != nil && !fault.Is(err, fault.Internal) {
		return time.Time{}, nil, err
	}
	heard, patience := s.Tried, m.lease
	if m.place != nil {
		patience = m.place.Patience()
	}
	if l.Attempt == s.Attempt && l.At.After(heard) {
		heard, patience = l.At, m.lease
	}
	if until, now := heard.Add(patience), m.now(); until.After(now) {
		if soon := now.Add(m.lease); soon.Before(until) { // it may be heard of before, and then fall silent
			until = soon
		}
		return until, nil, nil
	}
	return time.Time{}, &Result{State: Failed, Lost: true, Why: fmt.Sprintf("the %s that ran it was last heard of at %s", s.Place, heard.UTC().Format(time.TimeOnly)), At: m.now().UTC()}, nil
}

// calm waits a little for a step that runs elsewhere and sees itself that it is not wanted any more.
func (k *hold) calm(ctx context.Context, run *Run) {
	for i := range run.Steps {
		if s := &run.Steps[i]; s.State == Running && s.Place != "" && k.m.place != nil {
			ctx, cancel := context.WithTimeout(ctx, 2*looks+stubborn)
			k.m.place.Wait(ctx, s.try(run))
			cancel()
		}
	}
}

// stop ends what steps of a canceled run have begun beyond it.
func (k *hold) stop(ctx context.Context, p *plan, run *Run) error {
	for i := range p.steps {
		s, st := &p.steps[i], &run.Steps[i]
		stopper, ok := s.step.(Stopper)
		if !ok || st.Attempt == 0 || st.State == Succeeded {
			continue
		}
		inputs, err := s.inputs(run)
		if err == nil {
			t := k.m.task(s, run, st.Attempt, inputs)
			t.Log, t.Progress = k.m.log, func(int64, int64, string) {}
			err = fault.Guard(func() error { return stopper.Stop(ctx, t, run.Cancel.Who) })()
		}
		switch kind := fault.KindOf(err); {
		case err == nil:
		case kind == fault.Unavailable, kind == fault.Overloaded, kind == fault.Deadline, ctx.Err() != nil:
			return fmt.Errorf("stop step %s: %w", s.Name, err)
		default:
			if err := k.update(ctx, func(r *Run) {
				r.note(k.m.now(), k.holder, "what step %s has begun is not ended: %s", s.Name, clip(fault.Message(err), 300))
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle writes down what a try came to.
func (k *hold) settle(ctx context.Context, s *planned, i int, result *Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendMost) // the end of a turn must not cost what was done in it
	defer cancel()
	before := k.seen()
	err := k.update(ctx, func(r *Run) {
		st := &r.Steps[i]
		st.State, st.Why, st.Ended, st.Until, st.Outputs = result.State, result.Why, result.At, time.Time{}, result.Outputs
		switch {
		case result.State == Succeeded:
			r.note(result.At, k.holder, "step %s succeeded", s.Name)
		case result.State == Waiting:
			st.Until, st.Ended = result.At.Add(result.Wait), time.Time{}
		case result.Stopped: // which is nobody's fault: it is not counted
			st.State, st.Ended, st.Place = Queued, time.Time{}, ""
			r.note(result.At, k.holder, "step %s, try %d: %s", s.Name, st.Attempt, result.Why)
		case result.Lost:
			st.lose(result.At, result.Why)
			r.note(result.At, k.holder, "step %s, try %d: %s", s.Name, st.Attempt, result.Why)
		case result.State == Failed && result.Passing && st.Failures < s.retries:
			st.Failures++
			st.State, st.Ended = Waiting, time.Time{}
			st.Until = result.At.Add(min(k.m.pause<<(st.Failures-1), pauseTop))
			r.note(result.At, k.holder, "step %s, try %d, failed and is tried again: %s", s.Name, st.Attempt, clip(result.Why, 300))
		default:
			r.note(result.At, k.holder, "step %s %s", s.Name, result.State)
		}
	})
	if err == nil {
		k.m.tellStep(before, &before.Steps[i], result)
	}
	return err
}

// end writes down how the run ended.
func (k *hold) end(ctx context.Context, state State, why string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendMost)
	defer cancel()
	err := k.update(ctx, func(r *Run) {
		now := k.m.now().UTC()
		for i := range r.Steps {
			if s := &r.Steps[i]; state == Canceled && (s.State == Running || s.State == Waiting) {
				s.State, s.Ended, s.Until = Canceled, now, time.Time{}
			}
		}
		r.State, r.Reason, r.Ended, r.Until, r.Lease = state, clip(why, whyKept), now, time.Time{}, nil
		r.note(now, k.holder, "ended: %s", state)
	})
	if err != nil {
		return err
	}
	run := k.seen()
	k.m.metrics.ended(ctx, run)
	k.m.log.InfoContext(ctx, "pipeline run ended", slog.String("pipeline", run.Pipeline), slog.String("run", run.ID), slog.String("state", string(state)), slog.String("why", run.Reason), slog.Duration("took", run.Ended.Sub(run.At)))
	return nil
}

// handOn gives the lease back, and has the broker call again.
func (k *hold) handOn(ctx context.Context) error {
	if err := k.release(ctx); err != nil {
		return err
	}
	k.m.tellStarted(ctx, k.seen())
	return nil
}

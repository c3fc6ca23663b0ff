package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Result is what a try of a step came to.
type Result struct {
	State   State               `json:"state"` // Succeeded, Waiting, TurnedDown, Failed or Canceled
	Why     string              `json:"why,omitempty"`
	Passing bool                `json:"passing,omitempty"` // of Failed: another try may succeed
	Lost    bool                `json:"lost,omitempty"`    // of Failed: its process went away without a word
	Stopped bool                `json:"stopped,omitempty"` // of Failed: its process was told to end
	Wait    time.Duration       `json:"wait,omitempty"`    // of Waiting
	Outputs map[string]Artifact `json:"outputs,omitempty"`
	At      time.Time           `json:"at"`
}

func resultKey(t *event.Try) string {
	return fmt.Sprintf("%s%s/results/%s/%s-%d", Prefix, t.Pipeline, t.Run, t.Step, t.Attempt)
}

// Why a step's context ends.
var (
	errCanceled = errors.New("it was canceled")
	errTimeout  = errors.New("its time is over")
	errTurn     = errors.New("the turn of the function is over")
)

// stubborn is how long a step may go on after its context has ended.
const stubborn = 5 * time.Second

// try runs a step once, to its end or that of its context. One that does not end then is left alone: only the
// end of a process ends it.
func (m *Manager) try(ctx context.Context, s *planned, run *Run, attempt int, inputs map[string]Artifact) *Result {
	began := m.now()
	result := m.attempt(ctx, s, run, attempt, inputs)
	result.At = m.now().UTC()
	m.metrics.tried(ctx, run.Pipeline, s.Name, result, result.At.Sub(began))
	return result
}

func (m *Manager) attempt(ctx context.Context, s *planned, run *Run, attempt int, inputs map[string]Artifact) *Result {
	j, err := m.journal(ctx, run.Pipeline, run.ID, s.Name, attempt)
	if err != nil {
		return resultOf(ctx, s, nil, err)
	}
	dir, remove, err := folder()
	if err != nil {
		return resultOf(ctx, s, nil, fault.Wrap(fault.Unavailable, err, "there is no folder for the step"))
	}
	defer remove()
	t := m.task(s, run, attempt, inputs)
	t.Dir, t.Progress = dir, j.progress
	t.Log = j.logger(m.log.Handler().WithAttrs([]slog.Attr{slog.String("pipeline", run.Pipeline), slog.String("run", run.ID), slog.String("step", s.Name)}))
	if attempt > 1 {
		j.add(m.now(), slog.LevelInfo.String(), fmt.Sprintf("try %d", attempt))
	}
	limited, cancel := context.WithTimeoutCause(ctx, s.timeout, errTimeout)
	defer cancel()
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan struct{})
	go func() {
		defer close(written)
		j.keep(writing)
	}()
	ended := make(chan error, 1)
	go func() { ended <- fault.Guard(func() error { return s.step.Run(limited, t) })() }()
	var r *Result
	select {
	case err = <-ended:
		r = resultOf(limited, s, t.Outputs, err)
	case <-limited.Done():
		select {
		case err = <-ended:
			r = resultOf(limited, s, t.Outputs, err)
		case <-time.After(stubborn):
			r = resultOf(limited, s, nil, fault.New(fault.Deadline, "it did not end when it was told to"))
		}
	}
	stop()
	<-written
	if r.State != Succeeded {
		level := slog.LevelInfo
		if r.State == Failed {
			level = slog.LevelError
		}
		j.add(m.now(), level.String(), string(r.State)+": "+r.Why)
	}
	if j.dirty {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseMost)
		j.write(last)
		cancel()
	}
	return r
}

// task makes one without what is of a single try: a folder and a log.
func (m *Manager) task(s *planned, run *Run, attempt int, inputs map[string]Artifact) *Task {
	return &Task{
		Pipeline: run.Pipeline, Run: run.ID, Step: s.Name, Attempt: attempt, Started: run.At, Cause: run.Pipeline + ":" + run.ID,
		Blob: m.blob, Inputs: inputs, Outputs: map[string]Artifact{},
	}
}

// resultOf says what a step's error means.
func resultOf(ctx context.Context, s *planned, outputs map[string]Artifact, err error) *Result {
	var l *later
	var no *refused
	if err == nil || errors.As(err, &no) {
		for name := range outputs {
			if !has(s.kind.Out, name) {
				return &Result{State: Failed, Why: fmt.Sprintf("%s gave the output %q, which it does not have", s.Use, name)}
			}
		}
	}
	switch {
	case no != nil: // what it gave tells people why
		return &Result{State: TurnedDown, Why: clip(fault.Message(err), whyKept), Outputs: outputs}
	case err == nil:
		if i := slices.IndexFunc(s.kind.Out, func(p Port) bool { _, ok := outputs[p.Name]; return !ok && !p.Optional }); i >= 0 {
			return &Result{State: Failed, Why: fmt.Sprintf("%s did not give its output %s", s.Use, s.kind.Out[i].Name)}
		}
		return &Result{State: Succeeded, Outputs: outputs}
	case errors.As(err, &l):
		return &Result{State: Waiting, Why: clip(l.why, whyKept), Wait: max(l.wait, 0)}
	}
	why, kind := err.Error(), fault.KindOf(err)
	if said := fault.Message(err); strings.HasPrefix(why, said) && (kind == fault.Invalid || kind == fault.NotFound || kind == fault.Conflict) {
		why = said // a sentence of whoever knew, with what of the cause is worth telling
	}
	why = clip(why, whyKept)
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return &Result{State: Failed, Why: why, Passing: kind == fault.Unavailable || kind == fault.Overloaded || kind == fault.Deadline}
	case errors.Is(cause, errCanceled):
		return &Result{State: Canceled, Why: "it was canceled"}
	case errors.Is(cause, errTimeout):
		return &Result{State: Failed, Passing: true, Why: fmt.Sprintf("it did not end within %s", s.timeout)}
	case errors.Is(cause, errTurn):
		return &Result{State: Failed, Passing: true, Why: "it did not end within the time that the function has for an event (PIPELINE_TURN)"}
	}
	return &Result{State: Failed, Stopped: true, Why: "the process that ran it was told to end"}
}

// inputs gathers what a step reads of what others gave.
func (s *planned) inputs(run *Run) (map[string]Artifact, error) {
	in := map[string]Artifact{}
	for _, port := range s.kind.In {
		from, ok := s.In[port.Name]
		if !ok {
			continue
		}
		step, output, _ := strings.Cut(from, ".")
		i := slices.IndexFunc(run.Steps, func(o StepState) bool { return o.Name == step })
		if i < 0 {
			return nil, fault.New(fault.Internal, "the run has no step %s", step)
		}
		a, given := run.Steps[i].Outputs[output]
		if !given && !port.Optional {
			return nil, fault.New(fault.Invalid, "its input %s is %s, which was not given this time", port.Name, from)
		}
		if given {
			in[port.Name] = a
		}
	}
	return in, nil
}

// RunStep does what an event StepRequested asks for: it runs the step, here and now, and leaves its result in the bucket, by
// which whoever goes on with the run knows it. It is for processes and jobs that exist for nothing else. A nil error says that
// the result is in the bucket, of whatever kind it is. A try that nobody waits for any more is not run.
func (m *Manager) RunStep(ctx context.Context, e *event.Event) error {
	t, err := event.StepRequested.Decode(e)
	if err != nil {
		return err
	}
	run, s, err := m.asked(ctx, &t)
	if err != nil || s == nil {
		return err
	}
	inputs, err := s.inputs(run)
	if err != nil {
		return err
	}
	if of := event.Origin(e); of.IsValid() { // the step's span
		ctx = trace.ContextWithRemoteSpanContext(ctx, of)
	}
	watched, end := m.watch(ctx, &t)
	result := m.try(watched, s, run, t.Attempt, inputs)
	end()
	return m.leave(context.WithoutCancel(ctx), &t, result)
}

// asked gives the step that a try is of, or nil where nobody waits for it.
func (m *Manager) asked(ctx context.Context, t *event.Try) (*Run, *planned, error) {
	run, err := m.Get(ctx, t.Pipeline, t.Run)
	if err != nil {
		return nil, nil, err
	}
	if !run.awaits(t) {
		m.log.WarnContext(ctx, "nobody waits for this try of a step", slog.String("pipeline", t.Pipeline), slog.String("run", t.Run), slog.String("step", t.Step), slog.Int("attempt", t.Attempt))
		return run, nil, nil
	}
	p, err := m.planOf(ctx, run)
	if err != nil {
		return nil, nil, err
	}
	for i := range p.steps {
		if p.steps[i].Name == t.Step {
			return run, &p.steps[i], nil
		}
	}
	return nil, nil, fault.New(fault.NotFound, "the pipeline %s has no step %s", t.Pipeline, t.Step)
}

// awaits tells whether somebody still wants the result of a try.
func (r *Run) awaits(t *event.Try) bool {
	return r.Ended.IsZero() && r.Cancel == nil && slices.ContainsFunc(r.Steps, func(s StepState) bool {
		return s.Name == t.Step && s.Attempt == t.Attempt && s.State == Running && s.Place != ""
	})
}

// watch ends a context once nobody waits for a try any more.
func (m *Manager) watch(ctx context.Context, t *event.Try) (watched context.Context, end func()) {
	watched, cut := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-watched.Done():
				return
			case <-time.After(min(m.lease/6, looks)):
			}
			if run, err := m.Get(watched, t.Pipeline, t.Run); err == nil && !run.awaits(t) {
				cut(errCanceled)
			}
		}
	}()
	return watched, func() {
		cut(context.Canceled)
		<-done
	}
}

// leave writes the result of a try, unless there is one already, and tells the broker.
func (m *Manager) leave(ctx context.Context, t *event.Try, r *Result) error {
	_, err := store.WriteJSON(ctx, m.blob, resultKey(t), r, store.IfAbsent())
	if err != nil && !fault.Is(err, fault.Conflict) {
		return err
	}
	finished := *t
	finished.At = r.At
	_ = m.tell(ctx, event.StepFinished.New(finished)) // which has logged it: a tick finds the result, too
	return nil
}

// result reads what a try came to; nil: nothing yet.
func (m *Manager) result(ctx context.Context, t *event.Try) (*Result, error) {
	r := &Result{}
	version, err := store.ReadJSON(ctx, m.blob, resultKey(t), runMost, r)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, nil
	case err != nil && version != "":
		return &Result{State: Failed, Why: fault.Message(err), At: m.now().UTC()}, nil
	case err == nil && !slices.Contains([]State{Succeeded, Waiting, TurnedDown, Failed, Canceled}, r.State): // none that a try comes to: it would be looked at for ever
		return &Result{State: Failed, Why: fmt.Sprintf("the bucket's %s is damaged: it is no result", resultKey(t)), At: m.now().UTC()}, nil
	}
	return r, err
}

// answered tells whether the result of a step that runs elsewhere is there.
func (m *Manager) answered(ctx context.Context, run *Run) (bool, error) {
	for i := range run.Steps {
		if s := &run.Steps[i]; s.State == Running && s.Place != "" {
			r, err := m.result(ctx, s.try(run))
			return r != nil, err
		}
	}
	return false, nil
}

func (s *StepState) try(run *Run) *event.Try {
	return &event.Try{Pipeline: run.Pipeline, Run: run.ID, Step: s.Name, Attempt: s.Attempt, At: s.Tried}
}

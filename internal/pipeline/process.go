package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// StepVariable names the environment variable by which a process knows that it is to run one step, and no server: it holds the
// path of a file with an event StepRequested in JSON.
const StepVariable = "PIPELINE_STEP"

// Asked tells whether this process is to run one step.
func Asked() bool { return os.Getenv(StepVariable) != "" }

// RunAsked runs the step that this process is to run. A nil error says that its result, of whatever kind it is, is in the bucket.
func (m *Manager) RunAsked(ctx context.Context) error {
	path := os.Getenv(StepVariable)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", StepVariable, err)
	}
	e, err := event.Unmarshal(b)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "%s: there is no event in %s", StepVariable, path)
	}
	return m.RunStep(ctx, e)
}

// Processes is a Place: each step runs in a process of its own, the same binary, which must call RunAsked when it is Asked. They
// end with this process, however that ends. Close waits for all.
type Processes struct {
	m       *Manager
	memory  env.Size
	environ []string // beside that of this process

	mu      sync.Mutex
	running map[string]chan struct{} // by the ids of tries
	work    sync.WaitGroup
	ctx     context.Context
	cut     context.CancelFunc
}

var _ Place = (*Processes)(nil)

// newProcesses makes the place of a manager.
func newProcesses(m *Manager, memory env.Size, environ []string) *Processes {
	p := &Processes{m: m, memory: memory, environ: environ, running: map[string]chan struct{}{}}
	p.ctx, p.cut = context.WithCancel(context.Background())
	return p
}

// Name implements Place.
func (p *Processes) Name() string { return "process" }

// Patience implements Place.
func (p *Processes) Patience() time.Duration { return p.m.lease }

// Start implements Place.
func (p *Processes) Start(_ context.Context, e event.Event) error {
	t, err := event.StepRequested.Decode(&e)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ctx.Err() != nil:
		return fault.New(fault.Unavailable, "the process is about to end")
	case p.running[e.ID()] != nil:
		return nil
	}
	done := make(chan struct{})
	p.running[e.ID()] = done
	p.work.Go(func() {
		p.run(&e, &t)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.running, e.ID())
		close(done)
	})
	return nil
}

// Wait implements Place.
func (p *Processes) Wait(ctx context.Context, t *event.Try) bool {
	id := event.StepRequested.New(*t)
	p.mu.Lock()
	done := p.running[id.ID()]
	p.mu.Unlock()
	if done == nil {
		return false
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return true
}

// Close ends the processes, and waits for them: their steps are tried again, wherever the run goes on.
func (p *Processes) Close() error {
	p.mu.Lock() // none is started any more
	p.cut()
	p.mu.Unlock()
	p.work.Wait()
	return nil
}

// run runs a step in a process to its end. What the process could not tell itself is told here.
func (p *Processes) run(e *event.Event, t *event.Try) {
	said := &tail{}
	err := p.spawn(e, t, said)
	if err == nil {
		return // its result is in the bucket
	}
	r := &Result{State: Failed, Why: clip(fault.Message(err), whyKept), Stopped: p.ctx.Err() != nil, At: p.m.now().UTC()}
	if text := said.String(); text != "" && !r.Stopped {
		r.Why = clip(r.Why+"; it said last: "+text, whyKept)
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseMost)
	defer cancel()
	if err := p.m.leave(ctx, t, r); err != nil {
		p.m.log.WarnContext(ctx, "the result of a step is not written", slog.String("pipeline", t.Pipeline), slog.String("run", t.Run), slog.String("step", t.Step), slog.String("error", err.Error()))
	}
}

// spawn has a process run a step, and gives the error that it ended with, or was ended for.
func (p *Processes) spawn(e *event.Event, t *event.Try, said *tail) error {
	dir, remove, err := folder()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "there is no folder for the step: %s", err)
	}
	defer remove()
	b, err := event.Marshal(e)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "event")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fault.Wrap(fault.Internal, err, "the step can't be asked for: %s", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "nobody knows where the binary is: %s", err)
	}
	ctx, cut := context.WithCancelCause(p.ctx)
	defer cut(nil)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(append(os.Environ(), p.environ...), StepVariable+"="+path, "TMPDIR="+dir)
	if p.memory > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", p.memory*9/10))
	}
	cmd.Stderr = io.MultiWriter(said, os.Stderr)
	cmd.WaitDelay = stubborn
	end, err := start(cmd)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "its process can't be started: %s", err)
	}
	defer end()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.guard(ctx, cmd.Process.Pid, cut)
	}()
	err = cmd.Wait()
	tooMuch := context.Cause(ctx)
	cut(nil)
	<-watched
	switch {
	case err == nil:
		return nil
	case p.ctx.Err() != nil:
		return fault.New(fault.Unavailable, "the process that ran it was told to end")
	case tooMuch != nil:
		return tooMuch
	}
	return fault.New(fault.Internal, "its process ended by itself: %s%s", err, hint(cmd.ProcessState))
}

// guard ends a process that takes more memory than it may.
func (p *Processes) guard(ctx context.Context, pid int, cut context.CancelCauseFunc) {
	if p.memory <= 0 {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
		if took := memoryOf(pid); took > int64(p.memory) {
			cut(fault.New(fault.Internal, "it took %s of memory, more than the %s that a step may take (PIPELINE_MEMORY)", env.Size(took), p.memory))
			return
		}
	}
}

// tail keeps the end of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const (
	tailMost = 8 << 10
	saidMost = 400
)

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b); n > tailMost {
		t.b = append(t.b[:0], t.b[n-tailMost:]...)
	}
	return len(b), nil
}

// String gives the last of it or, where a Go program crashed, the beginning of what it says of that.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := bytes.TrimSpace(t.b)
	for _, crash := range []string{"panic: ", "fatal error: "} {
		if at := bytes.LastIndex(b, []byte(crash)); at >= 0 {
			b = b[at:]
			return string(bytes.ToValidUTF8(b[:min(len(b), saidMost)], nil))
		}
	}
	return string(bytes.ToValidUTF8(b[max(0, len(b)-saidMost):], nil))
}

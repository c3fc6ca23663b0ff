// Package command runs a trainer that is a program: a folder in, a folder out, and an exit status. It may run in another container: then a
// Host there is asked through a socket.
//
// The program runs in a process group of its own, which is killed as a whole when it has ended, takes too long, or
// writes too much; it sees of the environment only what a program needs to start, and no secrets. The package
// needs neither C nor anything else of this module but package fault, so that a static binary can bring it into
// any image.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Command is a program to run.
type Command struct {
	Name    string   // as errors call it
	Words   []string // the program and its arguments, or the Socket of a Host
	Dataset string   // folder that it reads, as DATASET in its environment
	Output  string   // folder that it writes into, as OUTPUT
	Scratch string   // folder for what it needs meanwhile: its working directory, HOME and TMPDIR
	Most    int64    // bytes that Output and Scratch may have
	Log     *slog.Logger

	Grace time.Duration // between SIGTERM and SIGKILL; 0: 5 s
}

// The bounds of what a program may tell.
const (
	LinesMost = 10_000
	LineMost  = 2 << 10 // bytes
)

// passed are the variables that a program sees as they are: all others, such as keys and tokens, it does not.
var passed = [...]string{"PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "OMP_NUM_THREADS"}

// errMost is the cause of ending what writes too much.
var errMost = errors.New("too much was written")

// Run runs the program to its end. What it did wrong is Invalid, and one that was killed for no reason of ours is Overloaded: by the
// kernel, if memory is short. When ctx ends, so does it, within Grace.
func (c *Command) Run(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(c.Output, 0o700), os.MkdirAll(c.Scratch, 0o700)); err != nil {
		return err
	}
	if socket, ok := strings.CutPrefix(c.Words[0], Socket); ok {
		return c.remote(ctx, socket)
	}
	grace := c.Grace
	if grace == 0 {
		grace = 5 * time.Second
	}
	runtime.LockOSThread() // the kernel ends the program when the thread ends that started it, see attributes
	defer runtime.UnlockOSThread()
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	cmd := exec.CommandContext(within, c.Words[0], c.Words[1:]...) //nolint:gosec // the operator has named it
	cmd.Dir = c.Scratch
	cmd.Env = c.environ()
	cmd.SysProcAttr = attributes()
	cmd.Cancel = func() error { return signal(cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	out := &lines{log: c.Log, ctx: ctx}
	cmd.Stdout, cmd.Stderr = out, out // one writer: one line at a time
	if err := cmd.Start(); err != nil {
		return fault.Wrap(fault.Invalid, err, "trainer %s can't be started: %s", c.Name, err)
	}
	pid := cmd.Process.Pid
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { c.watch(within, ended, stop) })
	watch.Go(func() {
		select {
		case <-ended:
			return
		case <-within.Done():
		}
		select {
		case <-ended:
		case <-time.After(grace):
			_ = signal(pid, syscall.SIGKILL) // all of them: exec kills the first alone
		}
	})
	err := cmd.Wait()
	_ = signal(pid, syscall.SIGKILL) // what it left behind
	close(ended)
	watch.Wait()
	out.end()
	return c.ended(ctx, within, err, out)
}

// ended says how the program ended.
func (c *Command) ended(ctx, within context.Context, err error, out *lines) error {
	size, failed := c.size()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("trainer %s was ended: %w", c.Name, context.Cause(ctx))
	case errors.Is(context.Cause(within), errMost) || failed == nil && size > c.Most:
		return fault.New(fault.Invalid, "trainer %s wrote more than the %d bytes that it may", c.Name, c.Most)
	case failed != nil:
		return failed
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // then somebody else held its output open
		return nil
	}
	told := ""
	if last := out.last(); last != "" {
		told = "; the last that it said: " + last
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("run trainer %s: %w", c.Name, err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		if status.Signal() == syscall.SIGKILL {
			return fault.Wrap(fault.Overloaded, err, "trainer %s was killed, most likely because memory ran out%s", c.Name, told)
		}
		return fault.Wrap(fault.Invalid, err, "trainer %s was ended by the signal %s%s", c.Name, status.Signal(), told)
	}
	return fault.Wrap(fault.Invalid, err, "trainer %s ended with status %d%s", c.Name, exit.ExitCode(), told)
}

func (c *Command) environ() []string {
	env := []string{"DATASET=" + c.Dataset, "OUTPUT=" + c.Output, "HOME=" + c.Scratch, "TMPDIR=" + c.Scratch}
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// watch ends the program when it has written too much.
func (c *Command) watch(ctx context.Context, ended <-chan struct{}, stop context.CancelCauseFunc) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if size, err := c.size(); err == nil && size > c.Most {
				stop(errMost)
				return
			}
		}
	}
}

// size is how many bytes lie in the folders that the program writes to.
func (c *Command) size() (total int64, err error) {
	for _, dir := range [...]string{c.Output, c.Scratch} {
		err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return ignoreGone(err)
			}
			info, err := e.Info()
			if err == nil && info.Mode().IsRegular() {
				total += info.Size()
			}
			return ignoreGone(err)
		})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lines makes log lines of what a program writes: so many, and each so long.
type lines struct {
	log *slog.Logger
	ctx context.Context //nolint:containedctx // of the run that it is a part of

	mu      sync.Mutex
	line    []byte
	cut     bool
	told    int
	dropped int
	newest  string
}

var _ io.Writer = (*lines)(nil)

// Write takes any part of the output.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		at := bytes.IndexAny(p, "\n\r") // a bar of progress ends with \r
		part := p
		if at >= 0 {
			part = p[:at]
		}
		room := min(len(part), LineMost-len(l.line))
		l.line = append(l.line, part[:room]...)
		l.cut = l.cut || room < len(part)
		if at < 0 {
			break
		}
		l.flush()
		p = p[at+1:]
	}
	return n, nil
}

func (l *lines) flush() {
	text := strings.TrimSpace(strings.ToValidUTF8(string(l.line), "\uFFFD"))
	if l.cut {
		text += "..."
	}
	l.line, l.cut = l.line[:0], false
	if text == "" {
		return
	}
	l.newest = text
	if l.told++; l.told > LinesMost {
		l.dropped++
		return
	}
	l.log.InfoContext(l.ctx, text)
}

// end tells what is left.
func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	if l.dropped > 0 {
		l.log.WarnContext(l.ctx, "more lines were left out", "lines", l.dropped)
	}
}

// last is the last line, shortened.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.newest) > 300 {
		return l.newest[:300] + "..."
	}
	return l.newest
}

package pipeline

import (
	"context"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Kind is something that steps can do.
type Kind struct {
	Name  string
	About string // one sentence for people
	In    []Port // what it reads
	Out   []Port // what it gives
	// Heavy ones take minutes or gigabytes: they run in a process, or a job of the cluster, of their own.
	Heavy   bool
	Timeout time.Duration // of one try, where the definition says nothing
	// New reads what a definition says of one step. It does no I/O; errors are Invalid and say where.
	New func(with yamlwire.Node) (Step, error)
}

// Port is an input or output of a Kind: a file, or a small JSON value.
type Port struct {
	Name     string
	About    string
	Optional bool
}

// Step is one step of a definition, ready to run.
type Step interface {
	// Run does it. It may be killed anywhere, and is then run again with the same run and
	// name; what it does beyond its task's outputs must be known again by these, and be done once. Errors
	// that may pass (Unavailable, Overloaded, Deadline) are tried again, others end the run. One made by Later
	// is none: nothing failed, and it is to be run again then.
	Run(ctx context.Context, t *Task) error
}

// Stopper is what a Step may be, too, that begins something which goes on without it, as a rollout does.
type Stopper interface {
	// Stop ends that, since somebody has canceled the run. It may be called more than once, and where there is nothing to end. After an error that may pass the run
	// has not ended yet, and Stop is called again; any other is noted.
	Stop(ctx context.Context, t *Task, by string) error
}

// later is what Later makes.
type later struct {
	why  string
	wait time.Duration
}

func (l *later) Error() string { return l.why }

// Later tells that a step waits for something beyond it (traffic, time), why, and in about what
// time to look again: no process is needed until then.
func Later(wait time.Duration, why string) error { return &later{why, wait} }

// Refused tells that a step has found a good reason not to go on: a candidate that is no better. The run ends there as
// decided, which is no failure, and has the outputs that the step gave before: they say why.
func Refused(format string, args ...any) error {
	return &refused{fault.New(fault.Conflict, format, args...)}
}

type refused struct{ error }

func (r *refused) Unwrap() error { return r.error }

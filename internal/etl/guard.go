package etl

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

const (
	guardEvery = 20 * time.Millisecond
	guardWait  = 5 * time.Second // for DuckDB to hear that it is to end
	guardSpare = 256 << 20       // bytes that a process may take beside
)

var errMemory = errors.New("the process takes too much memory")

// bound says how much memory the process may take, by what it takes now.
func (j *loading) bound() { j.most = resident() + int64(j.conf.Memory)*3/2 + guardSpare }

// guard runs f, and ends it when its time is over or the process takes far more memory than ETL_MEMORY: single values are not
// counted by DuckDB, nor does it look up while it makes them. Then f is left alone, and goes on until
// the process ends, which is the step's own.
func (j *loading) guard(ctx context.Context, f func(context.Context) error) error {
	if j.stuck {
		return fault.New(fault.Internal, "an earlier statement still goes on")
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- fault.Guard(func() error { return f(inner) })() }()
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return j.ended(inner, err)
		case <-tick.C:
			if resident() <= j.most {
				continue
			}
			cancel(errMemory)
		case <-ctx.Done():
		}
		select {
		case err := <-done:
			return j.ended(inner, err)
		case <-time.After(guardWait):
			j.stuck = true
			return j.ended(inner, nil)
		}
	}
}

// ended says why f ended.
func (j *loading) ended(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errMemory):
		return fault.Wrap(fault.Invalid, cause, "the SQL takes far more memory than ETL_MEMORY (%s), by single values or lists that are too large", j.conf.Memory)
	case errors.Is(cause, context.DeadlineExceeded):
		return fault.Wrap(fault.Deadline, cause, "the SQL did not end within the time of the step")
	case cause != nil:
		return cause
	}
	return err
}

// resident is how much memory the process takes, in bytes; 0 where nobody tells.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// Package fault names the kinds of error that cross package borders, so that
// whoever answers a caller can choose a status without knowing what went wrong
// underneath.
//
// A fault carries two texts. Its message is one sentence for the caller: what
// was wrong, where, and what was expected. Everything wrapped around or below
// it is for the logs. All functions are safe for concurrent use.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// Kind says what sort of failure an error is, and so who can do something about it.
type Kind uint8

// The kinds. Anything that nobody classified is Internal.
const (
	Internal        Kind = iota // a defect or an impossible state: 500
	Invalid                     // the request can never succeed as it is: 400
	NotFound                    // what was asked for does not exist: 404
	Conflict                    // the state moved on, or is taken: 409
	Denied                      // the caller may not do this: 403
	Overloaded                  // too much at once, try again later: 429
	Deadline                    // time ran out: 504
	Unavailable                 // a part that is needed is away, try again: 503
	Unauthenticated             // nobody knows who the caller is: 401
)

var names = [...]string{"internal", "invalid", "not_found", "conflict", "denied", "overloaded", "deadline", "unavailable", "unauthenticated"}

// String gives the kind's name as it stands in logs and metrics.
func (k Kind) String() string { return names[k] }

// Error is an error with a kind and a message for the caller.
type Error struct {
	Kind    Kind
	Message string // one sentence, fit for strangers
	Err     error  // the cause, for logs only; may be nil
}

// Error gives the message and the cause: the text for logs.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of the given kind.
func New(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Wrap gives err a kind and a message for the caller; err itself stays for the logs.
func Wrap(k Kind, err error, format string, args ...any) error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...), Err: err}
}

// KindOf finds the kind of err: that of the outermost fault in its chain, else
// Deadline for a context that ended or a body that came too slowly, else Internal.
func KindOf(err error) Kind {
	var f *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f.Kind
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Deadline
	case errors.As(err, &tooLarge):
		return Invalid
	}
	return Internal
}

// Is reports whether err is of kind k; a nil error is of no kind.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Message gives the sentence of err that a stranger may read.
func Message(err error) string {
	var f *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f.Message
	case errors.As(err, &tooLarge):
		return fmt.Sprintf("the body is larger than the limit of %d bytes", tooLarge.Limit)
	case errors.Is(err, context.DeadlineExceeded):
		return "the request's time ran out"
	case errors.Is(err, context.Canceled):
		return "the caller went away"
	}
	return "internal error"
}

// Guard gives an f whose panic is an Internal error, with the stack in its text: for goroutines,
// where a panic would end the process and not just what was asked for.
func Guard(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		return f()
	}
}

// again is an error with a time after which trying again makes sense.
type again struct {
	error
	after time.Duration
}

func (a *again) Unwrap() error { return a.error }

// Again says of err how long to wait before trying again, where that is known.
func Again(err error, after time.Duration) error { return &again{err, after} }

// RetryAfter gives what was said by Again, or a second, which is as good a guess as any.
func RetryAfter(err error) time.Duration {
	var a *again
	if errors.As(err, &a) {
		return a.after
	}
	return time.Second
}

// RetryHeader gives RetryAfter as HTTP's header Retry-After has it: in whole seconds.
func RetryHeader(err error) string {
	return strconv.Itoa(int(math.Ceil(RetryAfter(err).Seconds())))
}

// StatusClientClosed is what logs and metrics show for a caller that went away
// before its answer; no caller ever sees it.
const StatusClientClosed = 499

var statuses = [...]int{
	Internal: http.StatusInternalServerError, Invalid: http.StatusBadRequest, NotFound: http.StatusNotFound,
	Conflict: http.StatusConflict, Denied: http.StatusForbidden, Overloaded: http.StatusTooManyRequests,
	Deadline: http.StatusGatewayTimeout, Unavailable: http.StatusServiceUnavailable, Unauthenticated: http.StatusUnauthorized,
}

// HTTPStatus gives the HTTP status that answers err.
func HTTPStatus(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, context.Canceled):
		return StatusClientClosed
	}
	return statuses[KindOf(err)]
}

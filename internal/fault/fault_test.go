package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	cause := errors.New("dial tcp 10.0.0.1:6379: refused")
	for _, test := range []struct {
		name    string
		err     error
		kind    Kind
		status  int
		message string // for strangers
		text    string // for logs
	}{
		{"plain", cause, Internal, 500, "internal error", "dial tcp 10.0.0.1:6379: refused"},
		{"invalid", New(Invalid, "input %q is missing", "x"), Invalid, 400, `input "x" is missing`, `input "x" is missing`},
		{
			"wrapped", fmt.Errorf("read view: %w", Wrap(Unavailable, cause, "the store is away")), Unavailable, 503,
			"the store is away", "read view: the store is away: dial tcp 10.0.0.1:6379: refused",
		},
		{"outermost counts", Wrap(Conflict, New(NotFound, "inner"), "outer"), Conflict, 409, "outer", "outer: inner"},
		{"not found", New(NotFound, "no"), NotFound, 404, "no", "no"},
		{"denied", New(Denied, "no"), Denied, 403, "no", "no"},
		{"unauthenticated", New(Unauthenticated, "who?"), Unauthenticated, 401, "who?", "who?"},
		{"overloaded", New(Overloaded, "no"), Overloaded, 429, "no", "no"},
		{"deadline", fmt.Errorf("run: %w", context.DeadlineExceeded), Deadline, 504, "the request's time ran out", "run: context deadline exceeded"},
		{"gone", fmt.Errorf("run: %w", context.Canceled), Deadline, StatusClientClosed, "the caller went away", "run: context canceled"},
		{"too large", fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 7}), Invalid, 413, "the body is larger than the limit of 7 bytes", "read: http: request body too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := KindOf(test.err); got != test.kind || !Is(test.err, test.kind) {
				t.Errorf("kind: got %s, want %s", got, test.kind)
			}
			if got := HTTPStatus(test.err); got != test.status {
				t.Errorf("status: got %d, want %d", got, test.status)
			}
			if got := Message(test.err); got != test.message {
				t.Errorf("message: got %q, want %q", got, test.message)
			}
			if got := test.err.Error(); got != test.text {
				t.Errorf("text: got %q, want %q", got, test.text)
			}
		})
	}
	if Is(nil, Internal) {
		t.Error("a nil error is of kind internal")
	}
}

func TestGuard(t *testing.T) {
	err := Guard(func() error { panic("broken") })()
	if !Is(err, Internal) || Message(err) != "internal error" || !strings.HasPrefix(err.Error(), "panic: broken\n") || !strings.Contains(err.Error(), "fault_test.go") {
		t.Errorf("got %v, want an internal error with the panic and its stack", err)
	}
	want := New(NotFound, "no model")
	if got := Guard(func() error { return want })(); !errors.Is(got, want) {
		t.Errorf("without a panic: got %v, want %v", got, want)
	}
}

func TestWhenToTryAgain(t *testing.T) {
	busy := New(Unavailable, "busy")
	for _, c := range []struct {
		err  error
		want string
	}{
		{busy, "1"},
		{Again(busy, 2500*time.Millisecond), "3"},
		{fmt.Errorf("on the way: %w", Again(busy, time.Minute)), "60"},
	} {
		if got := RetryHeader(c.err); got != c.want || KindOf(c.err) != Unavailable || Message(c.err) != "busy" {
			t.Errorf("%v: got %s, want %s", c.err, got, c.want)
		}
	}
}

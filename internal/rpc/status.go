package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// code is a status of gRPC.
type code int

// The codes that are given.
const (
	canceled          code = 1
	invalidArgument   code = 3
	deadlineExceeded  code = 4
	notFound          code = 5
	permissionDenied  code = 7
	resourceExhausted code = 8
	aborted           code = 10
	notImplemented    code = 12
	internal          code = 13
	unavailable       code = 14
	unauthenticated   code = 16
)

var codesOf = [...]code{
	fault.Internal: internal, fault.Invalid: invalidArgument, fault.NotFound: notFound, fault.Conflict: aborted,
	fault.Denied: permissionDenied, fault.Overloaded: unavailable, fault.Deadline: deadlineExceeded, fault.Unavailable: unavailable, fault.Unauthenticated: unauthenticated,
}

// codeOf gives the code that answers err.
func codeOf(err error) code {
	var missing *missing
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &missing):
		return notImplemented
	case errors.As(err, &tooLarge):
		return resourceExhausted
	case errors.Is(err, context.Canceled):
		return canceled
	}
	return codesOf[fault.KindOf(err)]
}

// missing is the cause of a fault about what this server doesn't have, which
// gRPC tells from other faults of callers.
type missing struct{}

func (*missing) Error() string { return "not implemented" }

func unimplemented(format string, args ...any) error {
	return fault.Wrap(fault.Invalid, &missing{}, format, args...)
}

// Refuse ends a call with the status of an error, for those who stand before the methods; see serve.ErrorsBy.
func Refuse(w http.ResponseWriter, begun bool, err error) { finish(w, begun, err) }

// finish ends a call with the status of its error, or OK for none: in the trailers
// if the answer has begun, else in the header of an answer that has nothing else.
func finish(w http.ResponseWriter, begun bool, err error) {
	prefix := ""
	if begun {
		prefix = http.TrailerPrefix
	}
	h := w.Header()
	if err == nil {
		h[prefix+"Grpc-Status"] = okValue
	} else {
		c := codeOf(err)
		h[prefix+"Grpc-Status"] = []string{strconv.Itoa(int(c))}
		h[prefix+"Grpc-Message"] = []string{escape(fault.Message(err))}
		if c == unavailable { // what Retry-After says elsewhere
			h[prefix+"Grpc-Retry-Pushback-Ms"] = []string{strconv.FormatInt(fault.RetryAfter(err).Milliseconds(), 10)}
		}
	}
	if !begun {
		h["Content-Type"] = contentType
		w.WriteHeader(http.StatusOK)
	}
}

// Header values that never change are shared.
var (
	okValue     = []string{"0"}
	contentType = []string{"application/grpc"}
)

// escape writes a message as the header grpc-message has it: what is not
// printable ASCII, and the percent sign, as the numbers of its bytes.
func escape(message string) string {
	plain := func(c byte) bool { return c >= ' ' && c <= '~' && c != '%' }
	var b strings.Builder
	for i := range len(message) {
		if c := message[i]; plain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

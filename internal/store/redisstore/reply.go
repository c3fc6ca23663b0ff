package redisstore

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// reply is what is still to be read of an answer as Redis sent it (RESP 2 or 3).
// What is taken from it lies in its memory: so an answer of many values costs
// one allocation and not two for each, as with the client's own reading.
type reply []byte

// errReply is that of an answer which is not what the command gives.
var errReply = fault.New(fault.Internal, "Redis gave an answer that makes no sense")

// serverError is an error that Redis itself answered with.
type serverError string

func (e serverError) Error() string { return string(e) }

// array takes the head of an array that must have n elements.
func (r *reply) array(n int) error {
	kind, text, err := r.line()
	if err != nil {
		return err
	}
	if got, err := strconv.Atoi(string(text)); kind != '*' || err != nil || got != n {
		return errReply
	}
	return nil
}

// bulk takes a string, which is nil for none and else not, and whose capacity
// ends with it.
func (r *reply) bulk() ([]byte, error) {
	kind, text, err := r.line()
	if err != nil {
		return nil, err
	}
	if kind == '_' {
		return nil, nil
	}
	n, err := strconv.Atoi(string(text))
	if kind == '$' && err == nil && n == -1 {
		return nil, nil
	}
	if kind != '$' || err != nil || n < 0 || n > len(*r) || !bytes.HasPrefix((*r)[n:], crlf) {
		return nil, errReply
	}
	value := (*r)[:n:n]
	*r = (*r)[n+2:]
	return value, nil
}

var crlf = []byte("\r\n")

// line takes a line, which begins with what kind it is.
func (r *reply) line() (kind byte, text []byte, err error) {
	line, rest, ok := bytes.Cut(*r, crlf)
	if !ok || len(line) == 0 {
		return 0, nil, errReply
	}
	*r = rest
	if line[0] == '-' {
		return 0, nil, fault.Wrap(fault.Unavailable, serverError(line[1:]), "Redis cannot be used")
	}
	return line[0], line[1:], nil
}

// wrongType tells whether err is Redis's answer to a command for another type of key.
func wrongType(err error) bool {
	var e serverError
	return errors.As(err, &e) && strings.HasPrefix(string(e), "WRONGTYPE ")
}

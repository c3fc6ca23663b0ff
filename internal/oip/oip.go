// Package oip speaks the Open Inference Protocol V2: inference requests and
// responses as JSON and with the binary tensor extension, and the plain answers
// around them (metadata, index, statistics, configuration).
//
// It owns the wire form alone. It does not know which models there are, so it
// checks that a request is whole and agrees with itself, never that it fits a
// model. Bytes come from strangers: JSON is read strictly by RFC 8259, every
// size is checked against the bytes that are there before memory is taken for
// it, and whatever is wrong ends in one fault of kind Invalid that names the
// field. Memory taken is bounded by a small multiple of the body's size.
//
// Values are plain data: a Request or Response serves one goroutine at a time.
package oip

import "github.com/pilotlight-ml/pilotlight/internal/fault"

// HeaderLength is the HTTP header that tells how many bytes of a body are JSON,
// when binary tensors follow them.
const HeaderLength = "Inference-Header-Content-Length"

// Parameters are the free-form settings of a request, an output or a response:
// string, bool, int64, float64, and uint64 for integers above the int64s.
type Parameters map[string]any

// invalid is the only kind of failure here: bytes that break the protocol.
func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...)
}

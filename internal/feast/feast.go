// Package feast speaks the protocol of Feast, the feature store: its HTTP and gRPC
// requests and answers, its values, what it writes into Redis, and its registry.
//
// It owns the wire forms alone and knows no definitions: values that stand in JSON
// are kept as they came until somebody tells their types. Bytes come from
// strangers: JSON is read strictly by RFC 8259, and whatever is wrong ends in one
// fault of kind Invalid that names the field. Memory taken is bounded by a small
// multiple of what is read.
//
// Values are plain data: a Request or Response serves one goroutine at a time.
package feast

import (
	_ "embed" // for Descriptor

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Service is the name of the protocol's service in gRPC.
const Service = "feast.serving.ServingService"

// Descriptor is serving.proto, compiled.
//
//go:embed serving.binpb
var Descriptor []byte

// Status says how a value was come by.
type Status uint8

// The statuses, by their numbers in gRPC.
const (
	Invalid Status = iota
	Present
	NullValue
	NotFound
	OutsideMaxAge
)

var statusNames = [...]string{"INVALID", "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"}

// String is the status's name in JSON.
func (s Status) String() string { return statusNames[min(int(s), len(statusNames)-1)] }

func invalid(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }

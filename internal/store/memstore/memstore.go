// Package memstore keeps items and objects in the memory of the process: for
// tests, for trying things out, and for a single process that may forget all
// of it when it ends.
//
// Each Open gives an empty store of its own. All methods are safe for
// concurrent use and linearizable; nothing is durable.
package memstore

import (
	"strconv"
	"sync/atomic"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// versions counts through all stores of the process, so that a version of one
// store never holds in another.
var versions atomic.Uint64

func newVersion() string { return strconv.FormatUint(versions.Add(1), 36) }

func missing(key string) error {
	return fault.New(fault.NotFound, "key %q does not exist", key)
}

func conflict(key string) error {
	return fault.New(fault.Conflict, "key %q is not in the state that was asked for", key)
}

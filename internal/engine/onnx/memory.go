package onnx

import (
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
)

// released counts the bytes, by estimate, that opening and closing sessions has
// freed since the last trim.
var released atomic.Int64

// release notes that so many bytes were freed. Trimming takes some milliseconds,
// so it is done when it has become worth it.
func release(bytes int64) {
	if n := released.Add(bytes); n >= large && released.CompareAndSwap(n, 0) {
		trim()
	}
}

var _ engine.Heap = (*Format)(nil)

// ground is what the library and the process took before the first session.
var ground struct{ inUse, resident atomic.Int64 }

// InUse is what malloc has given out since the library was loaded. Go has no part
// in it.
func (*Format) InUse() int64 { return max(0, mallocated()-ground.inUse.Load()) }

// Resident is the process's memory that lies in no file, less that of Go.
func (*Format) Resident() int64 { return max(0, native()-ground.resident.Load()) }

// Trim gives back what malloc holds and nobody uses.
func (*Format) Trim() {
	released.Store(0)
	trim()
}

// native is the memory that lies in no file and is not Go's; 0 where nobody tells.
func native() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b)) // all, resident, of files; in pages
	if len(f) < 3 {
		return 0
	}
	resident, err := strconv.ParseInt(f[1], 10, 64)
	files, err2 := strconv.ParseInt(f[2], 10, 64)
	if err != nil || err2 != nil {
		return 0
	}
	ours := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(ours)
	return (resident-files)*int64(os.Getpagesize()) - int64(ours[0].Value.Uint64()) + int64(ours[1].Value.Uint64())
}

package onnx

import "sync/atomic"

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

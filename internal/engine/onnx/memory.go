package onnx

import "sync/atomic"

// released counts the bytes of artifacts that were opened or closed since the
// last trim. Opening frees about as much as closing does: the parsed file.
var released atomic.Int64

// release notes that an artifact of so many bytes was opened or closed. Trimming
// takes some milliseconds, so it is done when it has become worth it.
func release(bytes int) {
	if n := released.Add(int64(bytes)); n >= large && released.CompareAndSwap(n, 0) {
		trim()
	}
}

package onnx

// #include <malloc.h>
//
// static void trim(void) {
// #ifdef __GLIBC__
// 	malloc_trim(0);
// #endif
// }
import "C"

const fileName = "libonnxruntime.so"

// trim gives memory that was freed back to the system. glibc keeps most of what
// a large model took, also after it was closed: of 192 MB all 192.
func trim() { C.trim() }

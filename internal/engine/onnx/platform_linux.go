package onnx

// #include <malloc.h>
//
// static void trim(void) {
// #ifdef __GLIBC__
// 	malloc_trim(0);
// #endif
// }
//
// static void arenas(int most) {
// #ifdef __GLIBC__
// 	mallopt(M_ARENA_MAX, most);
// #endif
// }
//
// static size_t mallocated(void) {
// #if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
// 	struct mallinfo2 m = mallinfo2();
// 	return m.uordblks + m.hblkhd;
// #else
// 	return 0;
// #endif
// }
import "C"

const fileName = "libonnxruntime.so"

// trim gives memory that was freed back to the system. glibc keeps most of what
// a large model took, also after it was closed: of 192 MB all 192.
func trim() { C.trim() }

// mallocated is what malloc has given out and not got back, of all threads; 0
// where it does not tell.
func mallocated() int64 { return int64(C.mallocated()) }

// arenas bounds how many heaps malloc spreads allocations over. By default that is
// eight for each CPU, and whichever thread made a session, its pieces keep pages of
// one of them from being given back: with thousands made and closed, on two CPUs,
// twice (with huge pages four times) as much was lost as with one for each.
func arenas(most int) { C.arenas(C.int(most)) }

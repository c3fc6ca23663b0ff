package onnx

// #include <malloc.h>
//
// static void trim(void) {
// #ifdef __GLIBC__
// 	malloc_trim(0);
// #endif
// }
//
// static void tune(int arenas) {
// #ifdef __GLIBC__
// 	mallopt(M_ARENA_MAX, arenas);
// 	mallopt(M_MMAP_THRESHOLD, 32 << 20);
// 	mallopt(M_TRIM_THRESHOLD, 16 << 20);
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

// tune has malloc keep less of what is freed.
//
// By default it spreads allocations over eight arenas for each CPU. Whichever
// thread made a session, its pieces keep pages of one of them from being given
// back: with thousands made and closed on two CPUs twice as much was lost as with
// one arena for each, with huge pages four times.
//
// The end of an arena is not trimmed, only given back when it is freed and has grown
// beyond a threshold, which malloc raises to 64 MiB as it sees large blocks come and
// go. Half of a model of 64 MiB stayed that way. 16 MiB are enough for runs to find
// again what the one before freed. Blocks from 32 MiB on are mapped one by one,
// as malloc would come to do too: smaller ones, as runs take them, would be slower.
func tune(arenas int) { C.tune(C.int(arenas)) }

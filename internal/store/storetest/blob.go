package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Blob checks a backend of store.Blob. Open gives an empty store and registers
// whatever must be cleaned up.
func Blob(t *testing.T, open func(t *testing.T) store.Blob) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b store.Blob)
	}{
		{"missing", blobMissing},
		{"round trip", blobRoundTrip},
		{"large", blobLarge},
		{"ranges", blobRanges},
		{"conditions", blobConditions},
		{"replace while reading", blobReplaceWhileReading},
		{"replace and read", blobReplaceAndRead},
		{"bad bodies", blobBadBodies},
		{"delete", blobDelete},
		{"folders", blobFolders},
		{"list", blobList},
		{"list many", blobListMany},
		{"keys", blobKeys},
		{"cancelled", blobCancelled},
		{"races", func(t *testing.T, b store.Blob) { blobRaces(t, b) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// SharedBlob checks that two handles on one backend are one store. Open gives
// both, opened separately.
func SharedBlob(t *testing.T, open func(t *testing.T) (a, b store.Blob)) {
	t.Run("two handles", func(t *testing.T) {
		a, b := open(t)
		version := upload(t, a, "k/1", []byte("from a"))
		got, o := download(t, b, "k/1")
		if string(got) != "from a" || o.Version != version {
			t.Errorf("got %q in version %q through the other handle, want %q in %q", got, o.Version, "from a", version)
		}
		if got, want := list(t, b, "", ""), []string{"k/1"}; !slices.Equal(got, want) {
			t.Errorf("List: got %q through the other handle, want %q", got, want)
		}
		blobRaces(t, a, b)
	})
}

func blobMissing(t *testing.T, b store.Blob) {
	_, _, err := b.Get(t.Context(), "no/thing", 0, -1)
	wantKind(t, "Get", err, fault.NotFound)
	_, _, err = b.Get(t.Context(), "no/thing", 0, 0)
	wantKind(t, "Get of no bytes", err, fault.NotFound)
	_, _, err = b.Get(t.Context(), "no/thing", 100, 10)
	wantKind(t, "Get of a range", err, fault.NotFound)
	if err := b.Delete(t.Context(), "no/thing"); err != nil {
		t.Errorf("Delete: got %v, want no error", err)
	}
	if got := list(t, b, "", ""); len(got) != 0 {
		t.Errorf("List: got %q, want nothing", got)
	}
}

func blobRoundTrip(t *testing.T, b store.Blob) {
	for _, size := range []int{0, 1, 1000, 64<<10 + 1, 3 << 20} {
		key, data := fmt.Sprintf("size/%d", size), pattern(size)
		body := bytes.NewReader(data)
		if _, err := body.Seek(int64(size/2), io.SeekStart); err != nil { // Put begins at the start all the same
			t.Fatal(err)
		}
		version, err := b.Put(t.Context(), key, body, int64(size), store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		got, o := download(t, b, key)
		if !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes that differ from the %d that were put", key, len(got), size)
		}
		if o.Key != key || o.Size != int64(size) || o.Version != version || version == "" || time.Since(o.Modified).Abs() > time.Minute {
			t.Errorf("got %+v, want size %d, version %q, modified now", o, size, version)
		}
		for listed, err := range b.List(t.Context(), key, "") {
			if err != nil {
				t.Fatal(err)
			}
			if listed.Key != o.Key || listed.Size != o.Size || listed.Version != o.Version || listed.Modified.Sub(o.Modified).Abs() > time.Second {
				t.Errorf("List: got %+v, want what Get says: %+v", listed, o)
			}
		}
		if again := upload(t, b, key, pattern(size+1)); again == version {
			t.Errorf("%s: got version %q for other content too, want a new one", key, again)
		}
	}
}

// Large objects take a path of their own in some backends.
func blobLarge(t *testing.T, b store.Blob) {
	size := 70<<20 + 1
	if testing.Short() {
		size = 1 << 20
	}
	data := pattern(size)
	put := func(key string, c store.Condition) (string, error) {
		return b.Put(t.Context(), key, struct{ io.ReadSeeker }{bytes.NewReader(data)}, int64(size), c)
	}
	version, err := put("large", store.IfAbsent())
	if err != nil {
		t.Fatal(err)
	}
	got, o := download(t, b, "large")
	if !bytes.Equal(got, data) || o.Size != int64(size) || o.Version != version {
		t.Errorf("got %d bytes in version %q, want the %d of version %q", len(got), o.Version, size, version)
	}
	_, err = put("large", store.IfAbsent())
	wantKind(t, "Put of a present key if-absent", err, fault.Conflict)
	_, err = put("large", store.IfVersion("none"))
	wantKind(t, "Put if-version of another version", err, fault.Conflict)
	data[0]++
	again, err := put("large", store.IfVersion(version))
	if err != nil || again == version {
		t.Errorf("got version %q, %v, want a new one", again, err)
	}
	_, err = b.Put(t.Context(), "short", bytes.NewReader(data), int64(size+1), store.Condition{})
	wantKind(t, "Put of a body that is too short", err, fault.Invalid)
	if got, want := list(t, b, "", ""), []string{"large"}; !slices.Equal(got, want) {
		t.Errorf("List: got %q, want %q", got, want)
	}
}

func blobRanges(t *testing.T, b store.Blob) {
	for _, data := range []string{"", "0", "0123456789"} {
		upload(t, b, "k", []byte(data))
		size := int64(len(data))
		for _, offset := range []int64{0, 1, 3, 9, 10, 11, 1 << 40, math.MaxInt64} {
			for _, length := range []int64{-1, 0, 1, 2, 7, 10, 11, 1 << 40, math.MaxInt64} {
				want := data[min(offset, size):]
				if length >= 0 {
					want = want[:min(length, int64(len(want)))]
				}
				r, o, err := b.Get(t.Context(), "k", offset, length)
				if err != nil {
					t.Fatalf("Get(%d, %d) of %d bytes: %v", offset, length, size, err)
				}
				got, err := io.ReadAll(r)
				if err != nil || string(got) != want {
					t.Errorf("Get(%d, %d) of %d bytes: got %q, %v, want %q", offset, length, size, got, err, want)
				}
				if o.Key != "k" || o.Size != size || o.Version == "" || o.Modified.IsZero() {
					t.Errorf("Get(%d, %d) of %d bytes: got %+v, want the description of the whole", offset, length, size, o)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	_, _, err := b.Get(t.Context(), "k", -1, 1)
	wantKind(t, "Get at a negative offset", err, fault.Invalid)
}

func blobConditions(t *testing.T, b store.Blob) {
	put := func(value string, c store.Condition) (string, error) {
		return b.Put(t.Context(), "k/1", strings.NewReader(value), int64(len(value)), c)
	}
	_, err := put("x", store.IfVersion("none"))
	wantKind(t, "Put of a missing key if-version", err, fault.Conflict)
	if got := list(t, b, "", ""); len(got) != 0 {
		t.Errorf("List: got %q after a refused Put, want nothing", got)
	}
	first, err := put("1", store.IfAbsent())
	if err != nil {
		t.Fatal(err)
	}
	_, err = put("x", store.IfAbsent())
	wantKind(t, "Put of a present key if-absent", err, fault.Conflict)
	if got, o := download(t, b, "k/1"); string(got) != "1" || o.Version != first {
		t.Errorf("got %q in version %q after a refused Put, want %q in %q", got, o.Version, "1", first)
	}
	second, err := put("2", store.IfVersion(first))
	if err != nil {
		t.Fatal(err)
	}
	_, err = put("x", store.IfVersion(first))
	wantKind(t, "Put if-version of an old version", err, fault.Conflict)
	if got, o := download(t, b, "k/1"); string(got) != "2" || o.Version != second {
		t.Errorf("got %q in version %q, want %q in %q", got, o.Version, "2", second)
	}
}

func blobReplaceWhileReading(t *testing.T, b store.Blob) {
	const size = 4 << 20
	upload(t, b, "k", bytes.Repeat([]byte("a"), size))
	r, _, err := b.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	upload(t, b, "k", bytes.Repeat([]byte("b"), size/2))
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || len(rest) != size-1 || bytes.Count(rest, first) != len(rest) {
		t.Errorf("got %d bytes, %v, want the %d others of the old content", len(rest), err, size-1)
	}
}

func blobReplaceAndRead(t *testing.T, b store.Blob) {
	const size = 256 << 10
	upload(t, b, "k", bytes.Repeat([]byte{0}, size))
	done := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := w; ; i += 2 {
				select {
				case <-done:
					return
				default:
				}
				if _, err := b.Put(t.Context(), "k", bytes.NewReader(bytes.Repeat([]byte{byte(i)}, size)), size, store.Condition{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		got, _ := download(t, b, "k")
		if len(got) != size || bytes.Count(got, got[:1]) != size {
			t.Errorf("got a mix of contents, want one of them whole")
			break
		}
		// The S3 server of the tests shows its temporary files too, for a moment.
		if got := list(t, b, "", ""); !slices.Contains(got, "k") {
			t.Errorf("List: got %q, want k in it: the object was never away", got)
			break
		}
	}
	close(done)
	writers.Wait()
}

// broken is a body that fails, or does something else, on its way.
type broken struct {
	*bytes.Reader
	after func() error
}

func (b *broken) Read(p []byte) (int, error) {
	if b.Len() < int(b.Size())/2 {
		if err := b.after(); err != nil {
			return 0, err
		}
	}
	return b.Reader.Read(p[:min(len(p), 64<<10)])
}

func blobBadBodies(t *testing.T, b store.Blob) {
	const size = 2 << 20
	upload(t, b, "old", []byte("old"))
	failure := errors.New("the body fails")
	for _, key := range []string{"old", "new/key"} {
		for _, announced := range []int64{0, size / 2, size - 1, size + 1, 2 * size} {
			_, err := b.Put(t.Context(), key, bytes.NewReader(pattern(size)), announced, store.Condition{})
			wantKind(t, fmt.Sprintf("Put of %d bytes announced as %d", size, announced), err, fault.Invalid)
		}
		_, err := b.Put(t.Context(), key, bytes.NewReader(nil), -1, store.Condition{})
		wantKind(t, "Put of a negative size", err, fault.Invalid)
		body := &broken{bytes.NewReader(pattern(size)), func() error { return failure }}
		if _, err := b.Put(t.Context(), key, body, size, store.Condition{}); !errors.Is(err, failure) {
			t.Errorf("Put of a body that fails: got %v, want its error", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		body = &broken{bytes.NewReader(pattern(size)), func() error { cancel(); return nil }}
		_, err = b.Put(ctx, key, body, size, store.Condition{})
		wantKind(t, "Put cancelled on its way", err, fault.Deadline)
	}
	if got, _ := download(t, b, "old"); string(got) != "old" {
		t.Errorf("got %d other bytes, want the old content", len(got))
	}
	if got, want := list(t, b, "", ""), []string{"old"}; !slices.Equal(got, want) {
		t.Errorf("List: got %q, want %q", got, want)
	}
}

func blobDelete(t *testing.T, b store.Blob) {
	upload(t, b, "a/b/c", nil)
	upload(t, b, "a/d", nil)
	for _, key := range []string{"a/b/c", "a/b/c", "a/b", "a"} { // the last two are folders, not objects
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q): %v", key, err)
		}
	}
	_, _, err := b.Get(t.Context(), "a/b/c", 0, -1)
	wantKind(t, "Get after Delete", err, fault.NotFound)
	if got, want := list(t, b, "", ""), []string{"a/d"}; !slices.Equal(got, want) {
		t.Errorf("List: got %q, want %q", got, want)
	}
	if _, err := b.Put(t.Context(), "a/d", strings.NewReader(""), 0, store.IfVersion("none")); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	upload(t, b, "a/b", []byte("now an object")) // nothing is left of the folder
	if got, _ := download(t, b, "a/b"); string(got) != "now an object" {
		t.Errorf("got %q", got)
	}
}

// A key that is also the folder of another may be refused, but harms neither.
func blobFolders(t *testing.T, b store.Blob) {
	upload(t, b, "a/b", []byte("inner"))
	upload(t, b, "c", []byte("outer"))
	_, _, err := b.Get(t.Context(), "a", 0, -1)
	wantKind(t, "Get of a folder", err, fault.NotFound)
	_, _, err = b.Get(t.Context(), "c/d", 0, -1)
	wantKind(t, "Get below an object", err, fault.NotFound)
	if err := b.Delete(t.Context(), "c/d"); err != nil {
		t.Errorf("Delete below an object: %v", err)
	}
	want := []string{"a/b", "c"}
	for _, key := range []string{"a", "c/d", "c/d/e"} {
		for _, c := range []store.Condition{{}, store.IfAbsent()} {
			_, err := b.Put(t.Context(), key, strings.NewReader("x"), 1, c)
			if err != nil {
				wantKind(t, "Put of "+key, err, fault.Conflict)
			} else if !slices.Contains(want, key) {
				want = append(want, key)
			}
		}
	}
	slices.Sort(want)
	if got := list(t, b, "", ""); !slices.Equal(got, want) {
		t.Errorf("List: got %q, want %q", got, want)
	}
	inner, _ := download(t, b, "a/b")
	outer, _ := download(t, b, "c")
	if string(inner) != "inner" || string(outer) != "outer" {
		t.Errorf("got %q and %q, want inner and outer", inner, outer)
	}
}

func blobList(t *testing.T, b store.Blob) {
	keys := []string{ // in byte order, which is not the order of folders' names
		"+", "0", "A", "a", "a+/x", "a-b/1", "a-b/2", "a.b", "a0/b", "aa/b/c", "aa/b0", "aa/c/1/2/3", "aa/c/1/2/4", "aaa",
		"b-", "b.c/d", "b/1", "b/10", "b/2", "b/2-/3", "b/2.", "b=1/c", "bb", "z/z/z",
	}
	for _, k := range slices.Backward(keys) {
		upload(t, b, k, []byte(k))
	}
	if !slices.IsSorted(keys) {
		t.Fatal("the keys of the test are not in order")
	}
	prefixes := []string{"", "a", "a/", "a-", "a-b/", "a-b/1", "a-b/11", "aa", "aa/", "aa/c/1/2", "aa/c/1/2/", "b", "b/", "b/1", "b.", "z/z/z", "zz", "/", "//", "..", "../", "b//", "b/../", "%", "b/1\x00", "é"}
	for _, prefix := range prefixes {
		for _, after := range append([]string{"", "a+", "a-b", "a-b/0", "a-b0", "aa/b", "aa/c", "aa/c/1/2/3/4", "b", "b/1z", "b0", "zz"}, keys...) {
			var want []string
			for _, k := range keys {
				if strings.HasPrefix(k, prefix) && k > after {
					want = append(want, k)
				}
			}
			if got := list(t, b, prefix, after); !slices.Equal(got, want) {
				t.Errorf("List(%q, %q):\ngot  %q\nwant %q", prefix, after, got, want)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var err error
	n := 0
	for _, err = range b.List(ctx, "", "") {
		n++
		cancel()
	}
	if err == nil && n < len(keys) { // a backend may have the whole page already
		t.Errorf("got no error from a List cancelled on its way, and %d of %d objects", n, len(keys))
	}
}

func blobListMany(t *testing.T, b store.Blob) {
	const many, callers = 2100, 16 // S3 gives a thousand at a time
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for i := c; i < many; i += callers {
				if _, err := b.Put(t.Context(), fmt.Sprintf("many/%04d", i), strings.NewReader("x"), 1, store.Condition{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	upload(t, b, "many.other", nil)
	for _, after := range []int{-1, 0, 999, 1000, 1001, 1099, 2098, 2099} {
		var last string
		if after >= 0 {
			last = fmt.Sprintf("many/%04d", after)
		}
		want := after + 1
		for o, err := range b.List(t.Context(), "many/", last) {
			if err != nil {
				t.Fatal(err)
			}
			if key := fmt.Sprintf("many/%04d", want); o.Key != key || o.Size != 1 {
				t.Fatalf("got %+v, want %s", o, key)
			}
			want++
		}
		if want != many {
			t.Errorf("List after %q: got an end before %d, want one at %d", last, want, many)
		}
	}
	n := 0
	for _, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1500 {
			break
		}
	}
}

func blobKeys(t *testing.T, b store.Blob) {
	for _, key := range goodKeys {
		upload(t, b, key, []byte(key))
		if got, _ := download(t, b, key); string(got) != key {
			t.Errorf("got %q, want %q", got, key)
		}
		if got, want := list(t, b, "", ""), []string{key}; !slices.Equal(got, want) {
			t.Errorf("List: got %q, want %q", got, want)
		}
		if err := b.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	for _, key := range badKeys {
		_, _, err := b.Get(t.Context(), key, 0, -1)
		wantKind(t, fmt.Sprintf("Get of %q", key), err, fault.Invalid)
		_, err = b.Put(t.Context(), key, strings.NewReader(""), 0, store.Condition{})
		wantKind(t, fmt.Sprintf("Put of %q", key), err, fault.Invalid)
		wantKind(t, fmt.Sprintf("Delete of %q", key), b.Delete(t.Context(), key), fault.Invalid)
	}
}

func blobCancelled(t *testing.T, b store.Blob) {
	upload(t, b, "k", []byte("1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := b.Get(ctx, "k", 0, -1)
	wantKind(t, "Get", err, fault.Deadline)
	_, err = b.Put(ctx, "k", strings.NewReader("2"), 1, store.Condition{})
	wantKind(t, "Put", err, fault.Deadline)
	wantKind(t, "Delete", b.Delete(ctx, "k"), fault.Deadline)
	err = nil
	for _, err = range b.List(ctx, "", "") {
	}
	wantKind(t, "List", err, fault.Deadline)
	if got, _ := download(t, b, "k"); string(got) != "1" {
		t.Errorf("got %q, want 1: a cancelled call changed something", got)
	}
}

// blobRaces lets many callers, spread over the handles, fight for the same keys.
func blobRaces(t *testing.T, handles ...store.Blob) {
	const callers, rounds = 16, 5
	var group sync.WaitGroup
	for round := range rounds {
		key := fmt.Sprintf("race/%d/k", round)
		var won atomic.Int64
		var winner atomic.Value
		for i := range callers {
			group.Go(func() {
				value := strconv.Itoa(i)
				_, err := handles[i%len(handles)].Put(t.Context(), key, strings.NewReader(value), int64(len(value)), store.IfAbsent())
				switch {
				case err == nil:
					won.Add(1)
					winner.Store(value)
				case !fault.Is(err, fault.Conflict):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := won.Load(); got != 1 {
			t.Fatalf("got %d winners of a Put if-absent, want 1", got)
		}
		if got, _ := download(t, handles[0], key); string(got) != winner.Load() {
			t.Errorf("got the value of caller %s, want that of the winner %s", got, winner.Load())
		}
	}

	const each = 5
	upload(t, handles[0], "count", []byte("0"))
	for i := range callers {
		h := handles[i%len(handles)]
		group.Go(func() {
			for done := 0; done < each; {
				data, o, err := read(t.Context(), h, "count")
				if err != nil {
					t.Error(err)
					return
				}
				n, err := strconv.Atoi(string(data))
				if err != nil {
					t.Error(err)
					return
				}
				next := strconv.Itoa(n + 1)
				_, err = h.Put(t.Context(), "count", strings.NewReader(next), int64(len(next)), store.IfVersion(o.Version))
				if err != nil && !fault.Is(err, fault.Conflict) {
					t.Error(err)
					return
				}
				if err == nil {
					done++
				}
			}
		})
	}
	group.Wait()
	for _, h := range handles {
		if got, _ := download(t, h, "count"); string(got) != strconv.Itoa(callers*each) {
			t.Errorf("got a count of %s, want %d: increments were lost", got, callers*each)
		}
	}
}

func upload(t *testing.T, b store.Blob, key string, data []byte) (version string) {
	t.Helper()
	version, err := b.Put(t.Context(), key, bytes.NewReader(data), int64(len(data)), store.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func download(t *testing.T, b store.Blob, key string) ([]byte, store.Object) {
	t.Helper()
	data, o, err := read(t.Context(), b, key)
	if err != nil {
		t.Fatal(err)
	}
	return data, o
}

func read(ctx context.Context, b store.Blob, key string) ([]byte, store.Object, error) {
	r, o, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, o, err
	}
	data, err := io.ReadAll(r)
	return data, o, errors.Join(err, r.Close())
}

func list(t *testing.T, b store.Blob, prefix, after string) (keys []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// Package storetest holds the contract that every backend of package store
// passes, and starts the servers that the shared backends are tested against.
//
// A backend's test calls KV or Blob with a function that opens an empty store,
// and SharedKV or SharedBlob where several processes may open the same one.
// Nothing in here knows a backend.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// KV checks a backend of store.KV. Open gives an empty store and registers
// whatever must be cleaned up.
func KV(t *testing.T, open func(t *testing.T) store.KV) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, k store.KV)
	}{
		{"missing", kvMissing},
		{"round trip", kvRoundTrip},
		{"values are copies", kvCopies},
		{"conditions", kvConditions},
		{"delete", kvDelete},
		{"expiry", kvExpiry},
		{"scan", kvScan},
		{"scan while writing", kvScanWhileWriting},
		{"keys", kvKeys},
		{"cancelled", kvCancelled},
		{"races", func(t *testing.T, k store.KV) { kvRaces(t, k) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// SharedKV checks that two handles on one backend are one store. Open gives
// both, opened separately.
func SharedKV(t *testing.T, open func(t *testing.T) (a, b store.KV)) {
	t.Run("two handles", func(t *testing.T) {
		a, b := open(t)
		version := put(t, a, "k", "from a", 0)
		if got := get(t, b, "k"); string(got.Value) != "from a" || got.Version != version {
			t.Errorf("got %q in version %q through the other handle, want %q in %q", got.Value, got.Version, "from a", version)
		}
		kvRaces(t, a, b)
	})
}

func kvMissing(t *testing.T, k store.KV) {
	_, err := k.Get(t.Context(), "nothing")
	wantKind(t, "Get", err, fault.NotFound)
	if err := k.Delete(t.Context(), "nothing", store.Condition{}); err != nil {
		t.Errorf("Delete: got %v, want no error", err)
	}
	for i, err := range k.Scan(t.Context(), "") {
		t.Errorf("Scan: got %v, %v, want nothing", i, err)
	}
}

func kvRoundTrip(t *testing.T, k store.KV) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, value := range map[string][]byte{
		"nil": nil, "empty": {}, "text": []byte("hello"), "binary": all, "large": pattern(1 << 20),
	} {
		version, err := k.Put(t.Context(), name, value, 0, store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		got := get(t, k, name)
		if got.Key != name || got.Version != version || version == "" {
			t.Errorf("got key %q in version %q, want %q in %q", got.Key, got.Version, name, version)
		}
		if !bytes.Equal(got.Value, value) {
			t.Errorf("%s: got %d bytes that differ from the %d that were put", name, len(got.Value), len(value))
		}
		again := put(t, k, name, string(value), 0)
		if again == version {
			t.Errorf("%s: got version %q after a second Put of the same value, want a new one", name, again)
		}
	}
}

func kvCopies(t *testing.T, k store.KV) {
	value := []byte("before")
	if _, err := k.Put(t.Context(), "k", value, 0, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	clear(value)
	clear(get(t, k, "k").Value)
	for i, err := range k.Scan(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		clear(i.Value)
	}
	if got, want := string(get(t, k, "k").Value), "before"; got != want {
		t.Errorf("got %q, want %q: a stored value changed with somebody's buffer", got, want)
	}
}

func kvConditions(t *testing.T, k store.KV) {
	ctx := t.Context()
	_, err := k.Put(ctx, "k", []byte("x"), 0, store.IfVersion("none"))
	wantKind(t, "Put of a missing key if-version", err, fault.Conflict)
	_, err = k.Get(ctx, "k")
	wantKind(t, "Get after that", err, fault.NotFound)

	first, err := k.Put(ctx, "k", []byte("1"), 0, store.IfAbsent())
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Put(ctx, "k", []byte("x"), 0, store.IfAbsent())
	wantKind(t, "Put of a present key if-absent", err, fault.Conflict)
	if got := get(t, k, "k"); got.Version != first || string(got.Value) != "1" {
		t.Errorf("got %q in version %q after a refused Put, want %q in %q", got.Value, got.Version, "1", first)
	}

	second, err := k.Put(ctx, "k", []byte("2"), 0, store.IfVersion(first))
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Put(ctx, "k", []byte("x"), 0, store.IfVersion(first))
	wantKind(t, "Put if-version of an old version", err, fault.Conflict)
	if got := get(t, k, "k"); got.Version != second || string(got.Value) != "2" {
		t.Errorf("got %q in version %q, want %q in %q", got.Value, got.Version, "2", second)
	}
}

func kvDelete(t *testing.T, k store.KV) {
	ctx := t.Context()
	old := put(t, k, "k", "1", 0)
	version := put(t, k, "k", "2", 0)
	wantKind(t, "Delete of an old version", k.Delete(ctx, "k", store.IfVersion(old)), fault.Conflict)
	wantKind(t, "Delete of a present key if-absent", k.Delete(ctx, "k", store.IfAbsent()), fault.Conflict)
	get(t, k, "k")
	if err := k.Delete(ctx, "k", store.IfVersion(version)); err != nil {
		t.Errorf("Delete of the current version: got %v, want no error", err)
	}
	_, err := k.Get(ctx, "k")
	wantKind(t, "Get after Delete", err, fault.NotFound)
	wantKind(t, "Delete of a missing key if-version", k.Delete(ctx, "k", store.IfVersion(version)), fault.Conflict)
	if err := k.Delete(ctx, "k", store.IfAbsent()); err != nil {
		t.Errorf("Delete of a missing key if-absent: got %v, want no error", err)
	}
	put(t, k, "k", "3", 0)
	if err := k.Delete(ctx, "k", store.Condition{}); err != nil {
		t.Errorf("Delete: got %v, want no error", err)
	}
	_, err = k.Get(ctx, "k")
	wantKind(t, "Get after Delete", err, fault.NotFound)
}

func kvExpiry(t *testing.T, k store.KV) {
	ctx := t.Context()
	const ttl = 100 * time.Millisecond
	put(t, k, "kept", "short", ttl)
	put(t, k, "kept", "for ever", 0) // takes the ttl away
	put(t, k, "long", "x", time.Hour)
	start := time.Now()
	version := put(t, k, "short", "x", ttl)
	put(t, k, "shorter", "x", time.Nanosecond) // no backend may round that to "for ever"

	for {
		_, err := k.Get(ctx, "short")
		took := time.Since(start)
		if fault.Is(err, fault.NotFound) && took < ttl {
			t.Fatalf("the item was gone after %v, want it kept for %v", took, ttl)
		}
		if fault.Is(err, fault.NotFound) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if took > ttl+5*time.Second {
			t.Fatalf("the item is still there after %v, want it gone after %v", took, ttl)
		}
		time.Sleep(5 * time.Millisecond)
	}
	got := map[string]bool{}
	for i, err := range k.Scan(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		got[i.Key] = true
	}
	if len(got) != 2 || !got["kept"] || !got["long"] {
		t.Errorf("Scan: got %v, want kept and long", got)
	}

	_, err := k.Put(ctx, "short", nil, 0, store.IfVersion(version))
	wantKind(t, "Put over an expired item if-version", err, fault.Conflict)
	wantKind(t, "Delete of an expired item if-version", k.Delete(ctx, "short", store.IfVersion(version)), fault.Conflict)
	if _, err = k.Put(ctx, "short", nil, time.Hour, store.IfAbsent()); err != nil {
		t.Errorf("Put over an expired item if-absent: got %v, want no error", err)
	}
	_, err = k.Put(ctx, "short", nil, -time.Second, store.Condition{})
	wantKind(t, "Put with a negative ttl", err, fault.Invalid)

	cas, err := k.Put(ctx, "long", nil, time.Millisecond, store.IfVersion(get(t, k, "long").Version))
	if err != nil || cas == "" {
		t.Fatal(cas, err)
	}
	time.Sleep(20 * time.Millisecond)
	_, err = k.Get(ctx, "long")
	wantKind(t, "Get after a conditional Put with a short ttl", err, fault.NotFound)
}

func kvScan(t *testing.T, k store.KV) {
	const many = 2500 // more than any backend takes in one step
	versions := map[string]string{}
	for i := range many {
		key := fmt.Sprintf("many/%d", i)
		versions[key] = put(t, k, key, key, 0)
	}
	for _, key := range []string{"a", "a/b", "a.b", "ab", "b"} {
		versions[key] = put(t, k, key, key, 0)
	}
	for _, prefix := range []string{"", "a", "a/", "a.", "b", "many/", "many/7", "nothing", "*", "?", "[ab]", "a\\", "../", "b\x00", "\xff"} {
		want := 0
		for key := range versions {
			if strings.HasPrefix(key, prefix) {
				want++
			}
		}
		seen := map[string]bool{}
		for i, err := range k.Scan(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(i.Key, prefix) || string(i.Value) != i.Key || i.Version != versions[i.Key] {
				t.Fatalf("Scan(%q): got %q = %q in version %q", prefix, i.Key, i.Value, i.Version)
			}
			if seen[i.Key] {
				t.Errorf("Scan(%q): got %q twice", prefix, i.Key)
			}
			seen[i.Key] = true
		}
		if got := len(seen); got != want {
			t.Errorf("Scan(%q): got %d items, want %d", prefix, got, want)
		}
	}
	for _, err := range k.Scan(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var err error
	for _, err = range k.Scan(ctx, "") {
		cancel()
	}
	wantKind(t, "Scan cancelled on its way", err, fault.Deadline)
}

// A loop over Scan may use the store, sees no item twice though others write,
// and misses none that nobody writes.
func kvScanWhileWriting(t *testing.T, k store.KV) {
	const n = 600
	for i := range n {
		put(t, k, fmt.Sprintf("k/%d", i), "00000000", 0)
	}
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i += 2 {
			select {
			case <-done:
				return
			default:
			}
			if _, err := k.Put(t.Context(), fmt.Sprintf("k/%d", i%n), bytes.Repeat([]byte{byte('0' + i%10)}, 8), 0, store.Condition{}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[string]bool{}
	for i, err := range k.Scan(t.Context(), "k/") {
		if err != nil {
			t.Error(err)
			break
		}
		if seen[i.Key] {
			t.Errorf("got %q twice", i.Key)
		}
		seen[i.Key] = true
		if len(i.Value) != 8 || bytes.Count(i.Value, i.Value[:1]) != 8 {
			t.Errorf("got the torn value %q", i.Value)
		}
		if len(seen)%100 == 0 { // from inside of the loop too
			put(t, k, "other/"+i.Key, "x", 0)
			if err := k.Delete(t.Context(), "other/"+i.Key, store.Condition{}); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	writer.Wait()
	for i := 1; i < n; i += 2 {
		if key := fmt.Sprintf("k/%d", i); !seen[key] {
			t.Errorf("missed %q", key)
		}
	}
}

func kvKeys(t *testing.T, k store.KV) {
	for _, key := range goodKeys {
		version := put(t, k, key, key, 0)
		if got := get(t, k, key); string(got.Value) != key || got.Version != version {
			t.Errorf("got %q in version %q, want %q in %q", got.Value, got.Version, key, version)
		}
		if err := k.Delete(t.Context(), key, store.IfVersion(version)); err != nil {
			t.Error(err)
		}
	}
	for _, key := range badKeys {
		_, err := k.Get(t.Context(), key)
		wantKind(t, fmt.Sprintf("Get of %q", key), err, fault.Invalid)
		_, err = k.Put(t.Context(), key, nil, 0, store.Condition{})
		wantKind(t, fmt.Sprintf("Put of %q", key), err, fault.Invalid)
		wantKind(t, fmt.Sprintf("Delete of %q", key), k.Delete(t.Context(), key, store.Condition{}), fault.Invalid)
	}
}

func kvCancelled(t *testing.T, k store.KV) {
	put(t, k, "k", "1", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.Get(ctx, "k")
	wantKind(t, "Get", err, fault.Deadline)
	_, err = k.Put(ctx, "k", nil, 0, store.Condition{})
	wantKind(t, "Put", err, fault.Deadline)
	wantKind(t, "Delete", k.Delete(ctx, "k", store.Condition{}), fault.Deadline)
	err = nil
	for _, err = range k.Scan(ctx, "") {
	}
	wantKind(t, "Scan", err, fault.Deadline)
	if got, want := string(get(t, k, "k").Value), "1"; got != want {
		t.Errorf("got %q, want %q: a cancelled call changed something", got, want)
	}
}

// kvRaces lets many callers, spread over the handles, fight for the same keys.
func kvRaces(t *testing.T, handles ...store.KV) {
	const callers, rounds = 16, 5
	var group sync.WaitGroup
	for round := range rounds {
		key := fmt.Sprintf("race/%d", round)
		var won atomic.Int64
		var winner atomic.Value
		for i := range callers {
			group.Go(func() {
				_, err := handles[i%len(handles)].Put(t.Context(), key, []byte(strconv.Itoa(i)), 0, store.IfAbsent())
				switch {
				case err == nil:
					won.Add(1)
					winner.Store(strconv.Itoa(i))
				case !fault.Is(err, fault.Conflict):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := won.Load(); got != 1 {
			t.Fatalf("got %d winners of a Put if-absent, want 1", got)
		}
		if got, want := string(get(t, handles[0], key).Value), winner.Load(); got != want {
			t.Errorf("got the value of caller %s, want that of the winner %s", got, want)
		}
	}

	const each = 10
	put(t, handles[0], "count", "0", 0)
	for i := range callers {
		group.Go(func() {
			for done := 0; done < each; {
				err := increment(t.Context(), handles[i%len(handles)], "count")
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
		if got, want := string(get(t, h, "count").Value), strconv.Itoa(callers*each); got != want {
			t.Errorf("got a count of %s, want %s: increments were lost", got, want)
		}
	}

	// Of those who delete the same version, one succeeds.
	version := put(t, handles[0], "once", "x", 0)
	var deleted atomic.Int64
	for i := range callers {
		group.Go(func() {
			err := handles[i%len(handles)].Delete(t.Context(), "once", store.IfVersion(version))
			if err == nil {
				deleted.Add(1)
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := deleted.Load(); got != 1 {
		t.Errorf("got %d successful deletes of one version, want 1", got)
	}
}

func increment(ctx context.Context, k store.KV, key string) error {
	i, err := k.Get(ctx, key)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(i.Value))
	if err != nil {
		return err
	}
	_, err = k.Put(ctx, key, []byte(strconv.Itoa(n+1)), 0, store.IfVersion(i.Version))
	return err
}

// goodKeys reach every limit that store.CheckKey sets, badKeys pass one each.
var (
	goodKeys = []string{
		"a", "...", ".a", "a.", "-", "+", "@", ":", "=", "_", "A/b.c/0-9_+@:=", "date=2026-01-02/part:0+1@x.parquet",
		strings.Repeat("a", 200), strings.Repeat("b/", 255) + "bc",
	}
	badKeys = []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/..", "a b", "a\x00", "a\\b", "a%b", "a~b", "a*", "é", "a\n",
		strings.Repeat("a", 201), strings.Repeat("b/", 256) + "b",
	}
)

func put(t *testing.T, k store.KV, key, value string, ttl time.Duration) (version string) {
	t.Helper()
	version, err := k.Put(t.Context(), key, []byte(value), ttl, store.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func get(t *testing.T, k store.KV, key string) store.Item {
	t.Helper()
	i, err := k.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func wantKind(t *testing.T, what string, err error, want fault.Kind) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: got no error, want %v", what, want)
	} else if got := fault.KindOf(err); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

// pattern gives n bytes in which no two regions look alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint64(n) + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

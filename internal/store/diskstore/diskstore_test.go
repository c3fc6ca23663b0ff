package diskstore_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("DISKSTORE_TEST_VICTIM"); dir != "" {
		victim(dir)
	}
	if dir := os.Getenv("DISKSTORE_TEST_ROWS"); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func TestKV(t *testing.T) {
	storetest.KV(t, func(t *testing.T) store.KV { return openKV(t, t.TempDir()) })
}

func TestBlob(t *testing.T) {
	storetest.Blob(t, func(t *testing.T) store.Blob { return openBlob(t, t.TempDir()) })
	storetest.SharedBlob(t, func(t *testing.T) (a, b store.Blob) {
		dir := t.TempDir()
		return openBlob(t, dir), openBlob(t, dir)
	})
}

func fileURL(dir string) *url.URL { return &url.URL{Scheme: "file", Path: dir} }

func openKV(t testing.TB, dir string) store.KV {
	k, err := diskstore.OpenKV(t.Context(), fileURL(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() }) // some tests close it themselves
	return k
}

func openBlob(t testing.TB, dir string) store.Blob {
	b, err := diskstore.OpenBlob(t.Context(), fileURL(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestItemsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	k := openKV(t, dir)
	version, err := k.Put(t.Context(), "k", []byte("v"), time.Hour, store.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k = openKV(t, dir)
	got, err := k.Get(t.Context(), "k")
	if err != nil || string(got.Value) != "v" || got.Version != version {
		t.Errorf("got %q in version %q, %v, want %q in %q", got.Value, got.Version, err, "v", version)
	}
	again, err := k.Put(t.Context(), "k", []byte("v"), 0, store.Condition{})
	if err != nil || again == version {
		t.Errorf("got version %q, %v after reopening, want a new one", again, err)
	}
}

func TestItemsBelongToOneProcess(t *testing.T) {
	dir := t.TempDir()
	openKV(t, dir)
	start := time.Now()
	_, err := diskstore.OpenKV(t.Context(), fileURL(dir))
	if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took > 3*time.Second {
		t.Errorf("got %v after %v, want unavailable within moments", err, took)
	}
}

func TestExpiredItemsAreDropped(t *testing.T) {
	k := openKV(t, t.TempDir())
	for i := range 500 {
		if _, err := k.Put(t.Context(), fmt.Sprintf("gone/%d", i), nil, time.Nanosecond, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 150 {
		if _, err := k.Put(t.Context(), "k", nil, 0, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if got, limit := diskstore.Len(k), 10; got > limit {
		t.Errorf("got %d items kept, want at most %d", got, limit)
	}
}

// Both ports may be given the same folder, and neither sees the other.
func TestOneFolderForBoth(t *testing.T) {
	dir := t.TempDir()
	openKV(t, dir)
	b := openBlob(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0); err != nil {
		t.Fatal(err)
	}
	for o, err := range b.List(t.Context(), "", "") {
		t.Errorf("List: got %+v, %v, want nothing", o, err)
	}
	if _, err := b.Put(t.Context(), "kv.db", strings.NewReader("x"), 1, store.Condition{}); err != nil {
		t.Error(err)
	}
}

func TestOpenRefusesOtherURLs(t *testing.T) {
	for _, raw := range []string{"file:data", "file://data", "file://host/data", "file:///data?sync=no", "file:"} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := diskstore.OpenBlob(t.Context(), u); !fault.Is(err, fault.Invalid) {
			t.Errorf("OpenBlob(%q): got %v, want invalid", raw, err)
		}
		if _, err := diskstore.OpenKV(t.Context(), u); !fault.Is(err, fault.Invalid) {
			t.Errorf("OpenKV(%q): got %v, want invalid", raw, err)
		}
	}
}

// The same bytes again are another version, though the file system may well
// give the new file the number of the old one.
func TestEveryPutIsAnotherVersion(t *testing.T) {
	b := openBlob(t, t.TempDir())
	seen := map[string]bool{}
	for range 200 {
		version, err := b.Put(t.Context(), "k", strings.NewReader("same"), 4, store.Condition{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[version] {
			t.Fatalf("got version %q twice", version)
		}
		seen[version] = true
	}
}

func TestObjectsAreFiles(t *testing.T) {
	dir := t.TempDir()
	b := openBlob(t, dir)
	if _, err := b.Put(t.Context(), "rows/date=2026-01-02/part.parquet", strings.NewReader("rows"), 4, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "rows", "date=2026-01-02", "part.parquet"))
	if err != nil || string(got) != "rows" {
		t.Errorf("got %q, %v, want rows", got, err)
	}
	if err := b.Delete(t.Context(), "rows/date=2026-01-02/part.parquet"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "rows")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the empty folders gone", err)
	}
}

// Folders come with their first object while they go with their last.
func TestFoldersComeAndGo(t *testing.T) {
	dir := t.TempDir()
	handles := []store.Blob{openBlob(t, dir), openBlob(t, dir)}
	var group sync.WaitGroup
	for w := range 4 {
		b := handles[w%2]
		group.Go(func() {
			for i := range 25 {
				key := fmt.Sprintf("x/y/%d-%d", w, i)
				if _, err := b.Put(t.Context(), key, strings.NewReader("z"), 1, store.IfAbsent()); err != nil {
					t.Error(err)
					return
				}
				if r, _, err := b.Get(t.Context(), key, 0, 0); err != nil || r.Close() != nil {
					t.Errorf("%s: %v", key, err)
				}
				if err := b.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for o, err := range handles[0].List(t.Context(), "x", "") {
		t.Errorf("List: got %+v, %v, want nothing", o, err)
	}
}

func TestAbandonedFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	openBlob(t, dir)
	temp := filepath.Join(dir, ".%tmp")
	for name, age := range map[string]time.Duration{"old": 2 * time.Hour, "new": time.Minute} {
		if err := os.WriteFile(filepath.Join(temp, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(temp, name), time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	openBlob(t, dir)
	left, err := os.ReadDir(temp)
	if err != nil || len(left) != 1 || left[0].Name() != "new" {
		t.Errorf("got %v, %v, want the new one only", left, err)
	}
}

// A writer that is killed at any moment leaves each object whole or absent, and
// all of those that it had acknowledged.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	acknowledged := map[string]byte{} // the last fill of each key
	for round := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "DISKSTORE_TEST_VICTIM="+dir, fmt.Sprintf("DISKSTORE_TEST_ROUND=%d", round))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var kill *time.Timer
		for lines.Scan() {
			if kill == nil { // from the first acknowledgement on
				kill = time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
			var key string
			var fill byte
			if _, err := fmt.Sscanf(lines.Text(), "%s %d", &key, &fill); err != nil {
				break // killed in the middle of the line
			}
			acknowledged[key] = fill
		}
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("got %v, want the writer killed", err)
		}
		cancel()
	}
	if len(acknowledged) == 0 {
		t.Fatal("nothing was acknowledged before the kills")
	}

	b := openBlob(t, dir)
	found := 0
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		found++
		r, _, err := b.Get(t.Context(), o.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || len(data) != victimSize || bytes.Count(data, data[:1]) != victimSize {
			t.Errorf("%s: got %d bytes, %v, want %d equal ones", o.Key, len(data), err, victimSize)
		}
		// The fill only grows, so a replacement that nobody heard of may be there too.
		if want, ok := acknowledged[o.Key]; ok && data[0] < want {
			t.Errorf("%s: got fill %d, want the acknowledged %d", o.Key, data[0], want)
		}
		delete(acknowledged, o.Key)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	for key := range acknowledged {
		t.Errorf("%s was acknowledged and is gone", key)
	}
	t.Logf("%d objects are there and whole", found)
}

const victimSize = 100 << 10

// victim puts objects, new ones and replacements, and says so, until it is killed.
func victim(dir string) {
	ctx := context.Background()
	b, err := diskstore.OpenBlob(ctx, fileURL(dir))
	if err != nil {
		panic(err)
	}
	round := os.Getenv("DISKSTORE_TEST_ROUND")
	for fill := byte(0); ; fill++ {
		for i := range 7 {
			key := fmt.Sprintf("round-%s/%d/k", round, i)
			body := bytes.NewReader(bytes.Repeat([]byte{fill}, victimSize))
			if _, err := b.Put(ctx, key, body, victimSize, store.Condition{}); err != nil {
				panic(err)
			}
			fmt.Println(key, fill)
		}
	}
}

// No key, good or bad, and no prefix reaches a file outside of the folder.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{"a/b", "../secret", "a/../../secret", "/secret", ".%lock", ".%tmp/x", "a\\..\\b", "", ".", "a/./b", "…"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		outside := t.TempDir()
		root := filepath.Join(outside, "root")
		b := openBlob(t, root)
		if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := b.Put(t.Context(), key, strings.NewReader("x"), 1, store.Condition{})
		valid := store.CheckKey(key) == nil
		if valid != (err == nil) || !valid && !fault.Is(err, fault.Invalid) {
			t.Errorf("Put(%q): got %v for a key of which CheckKey says %v", key, err, store.CheckKey(key))
		}
		found := 0
		for o, err := range b.List(t.Context(), key, "") {
			if err != nil || o.Key != key {
				t.Errorf("List(%q): got %+v, %v", key, o, err)
			}
			found++
		}
		if valid != (found == 1) {
			t.Errorf("List(%q): got %d objects, valid is %v", key, found, valid)
		}
		if err := b.Delete(t.Context(), key); valid != (err == nil) {
			t.Errorf("Delete(%q): got %v", key, err)
		}
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 2 {
			t.Errorf("%q: got %v, %v beside the folder, want root and secret", key, entries, err)
		}
		entries, err = os.ReadDir(root)
		if err != nil || len(entries) != 2 {
			t.Errorf("%q: got %v, %v in the folder, want our two", key, entries, err)
		}
	})
}

func BenchmarkKVPut(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			k := openKV(b, b.TempDir())
			b.SetParallelism(callers)
			value := make([]byte, 200)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := k.Put(b.Context(), fmt.Sprintf("k/%d", rand.IntN(10_000)), value, 0, store.Condition{}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkBlobPut(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 20} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			blob := openBlob(b, b.TempDir())
			body := bytes.NewReader(make([]byte, size))
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := blob.Put(b.Context(), "models/m/1/model.onnx", body, int64(size), store.Condition{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

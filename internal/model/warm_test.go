package model

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func newMem() store.Blob {
	b, err := memstore.OpenBlob(context.Background(), &url.URL{Scheme: "mem"})
	if err != nil {
		panic(err)
	}
	return b
}

func openS3(t *testing.T, raw string) store.Blob {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s3store.OpenBlob(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// quiet is telemetry that tells nobody.
func quiet(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// toy is a runtime whose models are text files that begin with "ok". It counts
// what is open, so that tests see what Warm does with sessions.
type toy struct {
	opened atomic.Int64
	open   atomic.Int64
	gate   chan struct{} // when not nil, Open waits for it
}

func (f *toy) Name() string     { return "toy" }
func (f *toy) Platform() string { return "toy_text" }
func (f *toy) Version() string  { return "1" }

func (f *toy) Open(ctx context.Context, b []byte, o engine.Options) (engine.Session, error) {
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !bytes.HasPrefix(b, []byte("ok")) {
		return nil, fault.New(fault.Invalid, "the file does not begin with ok")
	}
	f.opened.Add(1)
	f.open.Add(1)
	return &toySession{format: f, size: int64(len(b))}, nil
}

type toySession struct {
	format *toy
	size   int64
	closed atomic.Bool
	runs   atomic.Int64
}

func (s *toySession) Signature() engine.Signature { return manifest("").Signature }

func (s *toySession) Memory() engine.Memory {
	return engine.Memory{Session: 2*s.size + 1<<20, Loading: 4*s.size + 1<<20}
}

func (s *toySession) Run(_ context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error) {
	if s.closed.Load() {
		panic("run of a closed session")
	}
	s.runs.Add(1)
	x := tensor.View[float32](inputs[0].Data)
	y := make([]float32, inputs[0].Shape[0])
	for i := range y {
		y[i] = x[2*i] + x[2*i+1]
	}
	return []tensor.Tensor{tensor.Of("y", []int64{int64(len(y))}, y)}, nil
}

func (s *toySession) Close() error {
	if s.closed.Swap(true) {
		panic("session closed twice")
	}
	s.format.open.Add(-1)
	return nil
}

func testConfig(t *testing.T) *Config {
	return &Config{CacheDir: t.TempDir(), CacheSize: 1 << 30, Memory: 1 << 30, Refresh: time.Hour, Fetch: 4, Load: time.Minute}
}

func openTestRegistry(t *testing.T, blob store.Blob, c *Config) *Registry {
	r, _ := openToy(t, blob, c)
	return r
}

func openToy(t *testing.T, blob store.Blob, c *Config) (*Registry, *toy) {
	t.Helper()
	f := &toy{}
	r, err := Open(c, blob, nil, []engine.Format{f}, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d sessions are still open after Close", n)
		}
	})
	return r, f
}

func pushText(t *testing.T, r *Registry, name, text string) *Manifest {
	t.Helper()
	m, err := r.Push(t.Context(), Push{Name: name}, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// use runs a model once and checks its answer.
func use(t *testing.T, r *Registry, m *Manifest) {
	t.Helper()
	l, err := r.Warm.Acquire(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	out, err := l.Run(t.Context(), []tensor.Tensor{tensor.Of("x", []int64{1, 2}, []float32{1, 2})})
	if err != nil {
		t.Fatal(err)
	}
	if got := tensor.View[float32](out[0].Data); len(got) != 1 || got[0] != 3 {
		t.Fatalf("got %v, want [3]", got)
	}
}

func TestAThousandCallersLoadOnce(t *testing.T) {
	blob := &flaky{Blob: newMem()}
	m := pushText(t, openTestRegistry(t, blob, testConfig(t)), "m", "ok "+strings.Repeat("weights ", 4<<20))
	r, f := openToy(t, blob, testConfig(t)) // another machine: its disk is empty
	f.gate = make(chan struct{})
	blob.ops = 0
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() { use(t, r, m) })
	}
	time.Sleep(20 * time.Millisecond)
	close(f.gate)
	wg.Wait()
	if got := f.opened.Load(); got != 1 {
		t.Errorf("sessions opened: got %d, want 1", got)
	}
	parts := int((m.Size + partSize - 1) / partSize)
	if parts < 4 || blob.ops != parts {
		t.Errorf("ranged reads: got %d, want %d of %d bytes", blob.ops, parts, m.Size)
	}
}

func TestACallerMayLeaveWhileTheLoadGoesOn(t *testing.T) {
	blob := newMem()
	m := pushText(t, openTestRegistry(t, blob, testConfig(t)), "m", "ok")
	r, f := openToy(t, blob, testConfig(t))
	f.gate = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := r.Warm.Acquire(ctx, m)
	if !fault.Is(err, fault.Deadline) || !strings.Contains(err.Error(), "still being loaded") {
		t.Fatalf("got %v, want Deadline: still being loaded", err)
	}
	close(f.gate)
	use(t, r, m)
	if got := f.opened.Load(); got != 1 {
		t.Errorf("sessions opened: got %d, want 1", got)
	}
}

func TestMemoryBudget(t *testing.T) {
	c := testConfig(t)
	c.Memory = 3 * (1<<20 + 100) // three small sessions
	blob := newMem()
	r, f := openToy(t, blob, c)
	var all []*Manifest
	for i := range 5 {
		all = append(all, pushText(t, r, fmt.Sprint("m", i), fmt.Sprint("ok ", i)))
	}
	for _, m := range all[:3] {
		use(t, r, m)
	}
	use(t, r, all[0]) // now m1 is the one unused for longest
	use(t, r, all[3])
	for i, want := range []State{Ready, Cold, Ready, Ready, Cold} {
		if got, _ := r.Warm.State(all[i]); got != want {
			t.Errorf("m%d: got state %d, want %d", i, got, want)
		}
	}

	// Sessions in use are never closed: a fourth has to wait for one of them.
	var leases []Lease
	for _, i := range []int{0, 2, 3} {
		l, err := r.Warm.Acquire(t.Context(), all[i])
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, l)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Warm.Acquire(short, all[4]); !fault.Is(err, fault.Deadline) {
		t.Errorf("with all in use: got %v, want Deadline", err)
	}
	done := make(chan struct{})
	go func() { defer close(done); use(t, r, all[4]) }()
	leases[1].Release()
	<-done
	if got, _ := r.Warm.State(all[2]); got != Cold {
		t.Errorf("m2 was released and should have made room, got state %d", got)
	}
	leases[0].Release()
	leases[2].Release()
	if got := f.open.Load(); got > 3 {
		t.Errorf("open sessions: got %d, want 3 at most", got)
	}

	// What can never fit is refused with the numbers.
	text := "ok " + strings.Repeat("x", 3<<20)
	_, err := r.Push(t.Context(), Push{Name: "big"}, strings.NewReader(text))
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), `loading model "big" takes about 12 MiB of memory, more than the 3.0 MiB`) {
		t.Errorf("push: got %v, want the refusal of 12 MiB in 3.0 MiB", err)
	}
	big := pushText(t, openTestRegistry(t, blob, testConfig(t)), "big", text) // where there is room
	_, err = r.Warm.Acquire(t.Context(), big)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), `loading model "big", version 1 takes about 13 MiB of memory, more than the 3.0 MiB`) {
		t.Errorf("got %v, want the refusal of 13 MiB in 3.0 MiB", err)
	}
}

func TestPinnedModelsStayAndFollowTheirAlias(t *testing.T) {
	c := testConfig(t)
	c.Memory = 2 * (1<<20 + 100)
	c.Pinned = []string{"m"}
	c.Refresh = time.Microsecond
	blob := newMem()
	r, _ := openToy(t, blob, c)
	if err := r.follow(t.Context()); !fault.Is(err, fault.NotFound) {
		t.Fatalf("got %v, want NotFound while nobody pushed it", err)
	}
	one := pushText(t, r, "m", "ok 1")
	two := pushText(t, r, "m", "ok 2")
	other := []*Manifest{pushText(t, r, "a", "ok a"), pushText(t, r, "b", "ok b")}
	if err := r.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		use(t, r, other[0])
		use(t, r, other[1])
		if got, _ := r.Warm.State(one); got != Ready {
			t.Fatalf("the pinned version was closed: state %d", got)
		}
	}
	if _, err := r.Move(t.Context(), "m", Champion, Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	if err := r.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	use(t, r, other[0])
	if got, _ := r.Warm.State(two); got != Ready {
		t.Errorf("the alias moved to version 2, got state %d", got)
	}
	if got, _ := r.Warm.State(one); got != Cold {
		t.Errorf("version 1 is pinned no more and should have made room, got state %d", got)
	}
}

// A revision of a pinned service's canary answers the alias with its own version; one that stands beside it never lets the canary answer.
func TestAnAliasMayMeanAnotherVersionHere(t *testing.T) {
	blob := newMem()
	c := testConfig(t)
	c.Pinned, c.Elsewhere = []string{"m:champion=2"}, true
	canary, _ := openToy(t, blob, c)
	c = testConfig(t)
	c.Pinned, c.Elsewhere = []string{"m"}, true
	standing, _ := openToy(t, blob, c)
	for _, text := range []string{"ok 1", "ok 2", "ok 3"} {
		pushText(t, standing, "m", text)
	}
	if _, err := standing.Shadow(t.Context(), "m", Champion, Change{To: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := standing.Canary(t.Context(), "m", Champion, .5, Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	if err := canary.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []Ref{{Name: "m"}, {Name: "m", Version: Champion}} {
		m, split, err := canary.Route(t.Context(), ref)
		if err != nil || m.Version != 2 || split != nil {
			t.Errorf("%s where it means version 2: got %+v, %+v, %v", ref, m, split, err)
		}
		if state, _ := canary.Warm.State(m); state != Ready {
			t.Errorf("it is not pinned: %d", state)
		}
		m, split, err = standing.Route(t.Context(), ref)
		if err != nil || m.Version != 1 || split.canaries() != 0 || split.Shadow != 3 {
			t.Errorf("%s beside the canary: got %+v, %+v, %v", ref, m, split, err)
		}
	}
	if m, err := canary.Resolve(t.Context(), Ref{Name: "m", Version: "1"}); err != nil || m.Version != 1 {
		t.Errorf("a number: got %+v, %v", m, err)
	}
	for _, bad := range []string{"m=2", "m:2=2", "m:champion=", "m:champion=02", "m:champion=other", ":champion=2", "m:champion=2=3"} {
		c.Pinned = []string{bad}
		if err := c.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

// unlisted is a bucket that can't be listed while it is down.
type unlisted struct{ *flaky }

func (u unlisted) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	if err := u.check(); err != nil {
		return func(yield func(store.Object, error) bool) { yield(store.Object{}, err) }
	}
	return u.Blob.List(ctx, prefix, after)
}

func TestReadyOnceTheBucketAnswered(t *testing.T) {
	blob := unlisted{&flaky{Blob: newMem(), down: true}}
	c := testConfig(t)
	c.Refresh = time.Millisecond
	r, _ := openToy(t, blob, c)
	ready := r.Start(t.Context())
	eventually(t, func() bool {
		err := ready()
		return err != nil && fault.Message(err) == "the bucket is away"
	})
	blob.set(false)
	eventually(t, func() bool { return ready() == nil })
	blob.set(true)
	time.Sleep(20 * time.Millisecond) // many times the refresh
	if err := ready(); err != nil {
		t.Errorf("got %v, want ready: what is warm is answered without the bucket", err)
	}
}

func TestUnloadWaitsForCallsUnderWay(t *testing.T) {
	r, f := openToy(t, newMem(), testConfig(t))
	m := pushText(t, r, "m", "ok")
	l, err := r.Warm.Acquire(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := r.Warm.Unload(t.Context(), m); done <- err }()
	eventually(t, func() bool { s, _ := r.Warm.State(m); return s == Cold })
	use(t, r, m) // a newcomer gets a session of its own
	if got := f.open.Load(); got != 2 {
		t.Errorf("open sessions: got %d, want the old one in use and the new one", got)
	}
	l.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := f.open.Load(); got != 1 {
		t.Errorf("open sessions: got %d, want 1", got)
	}
}

// damaged changes what a bucket gives for artifacts.
type damaged struct {
	store.Blob
	change func([]byte) []byte
}

func (d *damaged) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, store.Object, error) {
	r, o, err := d.Blob.Get(ctx, key, off, n)
	if err != nil || !strings.HasPrefix(key, "artifacts/") {
		return r, o, err
	}
	b, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(d.change(b))), o, err
}

func TestDamagedArtifactsAreRefused(t *testing.T) {
	content := make([]byte, 2*partSize+77)
	rand.Read(content)
	copy(content, "ok")
	for _, test := range []struct {
		name   string
		change func([]byte) []byte
		err    string
	}{
		{"one bit", func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }, "was refused: its content in the bucket has the digest sha256:"},
		{"truncated", func(b []byte) []byte { return b[:len(b)-1] }, "truncated"},
		{"empty", func([]byte) []byte { return nil }, "truncated"},
	} {
		t.Run(test.name, func(t *testing.T) {
			blob := newMem()
			m, err := openTestRegistry(t, blob, testConfig(t)).Push(t.Context(), Push{Name: "m"}, bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			c := testConfig(t)
			r := openTestRegistry(t, &damaged{blob, test.change}, c)
			_, err = r.Warm.Acquire(t.Context(), m)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("got %v, want %q", err, test.err)
			}
			if state, _ := r.Warm.State(m); state != Failed {
				t.Errorf("got state %d, want Failed", state)
			}
			noFiles(t, c.CacheDir)
		})
	}
}

// noFiles checks that neither a cached nor a temporary file was left in a cache.
func noFiles(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFileDamagedOnDiskIsFetchedAgain(t *testing.T) {
	blob, c := newMem(), testConfig(t)
	r := openTestRegistry(t, blob, c)
	m := pushText(t, r, "m", "ok, a model")
	path := filepath.Join(c.CacheDir, "sha256-"+m.Digest.Hex())
	for _, damage := range []string{"ok, a m0del", "ok", ""} {
		if err := os.WriteFile(path, []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		next := openTestRegistry(t, blob, c) // another process on the same folder
		use(t, next, m)
		next.artifacts.writes.Wait()
		if b, err := os.ReadFile(path); err != nil || string(b) != "ok, a model" {
			t.Errorf("after %q: the cache holds %q, %v", damage, b, err)
		}
	}
	// Removed under a running process, as another one on a shared folder may do.
	if _, err := r.Warm.Unload(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	use(t, r, m)
}

func openFolder(t *testing.T, dir string) store.Blob {
	t.Helper()
	b, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestABucketOnTheSameDiskIsNotCopied(t *testing.T) {
	dir, c := t.TempDir(), testConfig(t)
	blob := openFolder(t, dir)
	r := openTestRegistry(t, blob, c)
	content := "ok " + strings.Repeat("a model ", 10_000)
	m := pushText(t, r, "m", content)
	use(t, r, m)
	noFiles(t, c.CacheDir)

	data, release, err := r.artifacts.Open(t.Context(), m.Digest, m.Size)
	if err != nil {
		t.Fatal(err)
	}
	// A loader goes on, whatever becomes of the object meanwhile.
	for _, test := range []struct{ name, content, err string }{
		{"one letter", strings.Replace(content, "a model", "a m0del", 1), "was refused: its content in the bucket has the digest sha256:"},
		{"truncated", content[:len(content)-1], "truncated"},
		{"empty", "", "truncated"},
		{"deleted", "", "missing in the bucket"},
	} {
		if test.name == "deleted" {
			err = blob.Delete(t.Context(), m.Digest.key())
		} else {
			_, err = blob.Put(t.Context(), m.Digest.key(), strings.NewReader(test.content), int64(len(test.content)), store.Condition{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if string(data) != content {
			t.Fatalf("%s: the loader of before sees it", test.name)
		}
		if _, _, err := openTestRegistry(t, blob, testConfig(t)).artifacts.Open(t.Context(), m.Digest, m.Size); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.err)
		}
	}
	release()
}

func TestABucketOnAnotherDiskIsCopied(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "pilotlight-model-")
	if err != nil {
		t.Skip("SKIPPED: there is no second disk here: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := testConfig(t)
	if sameDisk(dir, c.CacheDir) {
		t.Skip("SKIPPED: there is no second disk here")
	}
	r := openTestRegistry(t, openFolder(t, dir), c)
	m := pushText(t, r, "m", "ok, a model")
	if b, err := os.ReadFile(r.artifacts.path(m.Digest)); err != nil || string(b) != "ok, a model" {
		t.Errorf("after the push the cache holds %q, %v", b, err)
	}
	fresh := testConfig(t)
	r = openTestRegistry(t, openFolder(t, dir), fresh)
	use(t, r, m)
	r.artifacts.writes.Wait()
	if b, err := os.ReadFile(r.artifacts.path(m.Digest)); err != nil || string(b) != "ok, a model" {
		t.Errorf("after a load the cache holds %q, %v", b, err)
	}
}

func TestDiskBudget(t *testing.T) {
	c := testConfig(t)
	c.CacheSize = 250
	blob := newMem()
	r := openTestRegistry(t, blob, c)
	text := func(i int) string { return fmt.Sprintf("ok %d %s", i, strings.Repeat(".", 95)) } // 100 bytes each
	var all []*Manifest
	for i := range 4 {
		all = append(all, pushText(t, r, fmt.Sprint("m", i), text(i)))
	}
	for round := range 2 {
		for _, m := range all {
			if _, err := r.Warm.Unload(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			use(t, r, m)
			r.artifacts.writes.Wait()
			entries, err := filepath.Glob(filepath.Join(c.CacheDir, "sha256-*"))
			if err != nil || len(entries) > 2 {
				t.Fatalf("round %d: %d files in the cache, %v, want 2 at most", round, len(entries), err)
			}
		}
	}
	// What the cache can't hold is served all the same.
	big := pushText(t, r, "big", "ok "+strings.Repeat("x", 300))
	use(t, r, big)
}

func TestAFailedLoadIsNotRepeatedByEveryCaller(t *testing.T) {
	blob := &flaky{Blob: newMem()}
	m := pushText(t, openTestRegistry(t, blob, testConfig(t)), "m", "ok")
	r := openTestRegistry(t, blob, testConfig(t))
	blob.set(true)
	for range 50 {
		if _, err := r.Warm.Acquire(t.Context(), m); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("got %v, want Unavailable", err)
		}
	}
	blob.mu.Lock()
	ops := blob.ops
	blob.mu.Unlock()
	if ops > 5 {
		t.Errorf("the bucket was asked %d times by 50 callers", ops)
	}
	blob.set(false)
	eventually(t, func() bool {
		l, err := r.Warm.Acquire(t.Context(), m)
		if err == nil {
			l.Release()
		}
		return err == nil
	})
}

func TestPushRefusals(t *testing.T) {
	r, f := openToy(t, newMem(), testConfig(t))
	for _, test := range []struct {
		name string
		push Push
		file io.Reader
		kind fault.Kind
		err  string
	}{
		{"bad name", Push{Name: "a/b"}, strings.NewReader("ok"), fault.Invalid, `model name "a/b"`},
		{"not a model", Push{Name: "m"}, strings.NewReader("no"), fault.Invalid, "does not begin with ok"},
		{"empty", Push{Name: "m"}, strings.NewReader(""), fault.Invalid, "file is empty"},
		{"unknown runtime", Push{Name: "m", Runtime: "tf"}, strings.NewReader("ok"), fault.Invalid, `runtime "tf" is not one of ["toy"]`},
		{"bad settings", Push{Name: "m", Settings: Settings{Threads: -1}}, strings.NewReader("ok"), fault.Invalid, "threads is -1"},
		{"bad sample", Push{Name: "m", Settings: Settings{Warmup: Warmup{Sample: []byte(`{"inputs":[{"name":"z","shape":[1,2],"datatype":"FP32","data":[1,2]}]}`)}}}, strings.NewReader("ok"), fault.Invalid, `input "x" is missing`},
		{"sender breaks off", Push{Name: "m"}, io.MultiReader(strings.NewReader("ok"), broken{}), fault.Internal, "broken pipe of a test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := r.Push(t.Context(), test.push, test.file)
			if err == nil || fault.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("got %v, want %s: %s", err, test.kind, test.err)
			}
		})
	}
	if names, err := r.Models(t.Context()); err != nil || len(names) > 0 {
		t.Errorf("models: got %v, %v, want none", names, err)
	}
	if n := f.open.Load(); n > 0 {
		t.Errorf("%d sessions were left open", n)
	}
	noFiles(t, r.artifacts.dir)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken pipe of a test") }

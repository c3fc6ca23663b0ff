package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func manifest(name string) Manifest {
	return Manifest{
		Name: name, Runtime: "toy", Size: 3, Memory: engine.Memory{Session: 1, Loading: 1}, Digest: newDigest(make([]byte, 32)),
		Signature: engine.Signature{
			Inputs:  []tensor.Spec{{Name: "x", Type: tensor.FP32, Shape: []int64{-1, 2}}},
			Outputs: []tensor.Spec{{Name: "y", Type: tensor.FP32, Shape: []int64{-1}}},
		},
	}
}

// newCatalog makes a catalog whose knowledge never grows old by itself.
func newCatalog(blob store.Blob) *Catalog { return NewCatalog(blob, time.Hour, nil) }

func publish(t *testing.T, c *Catalog, name string) *Manifest {
	t.Helper()
	m, err := c.Publish(t.Context(), manifest(name))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPublishNumbersVersions(t *testing.T) {
	c := newCatalog(newMem())
	for want := 1; want <= 12; want++ {
		if got := publish(t, c, "m").Version; got != want {
			t.Fatalf("version: got %d, want %d", got, want)
		}
	}
	publish(t, c, "m-other") // a name that begins like the first is another model
	got, err := c.Versions(t.Context(), "m")
	if want := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}; err != nil || !slices.Equal(got, want) {
		t.Errorf("versions: got %v, %v, want %v", got, err, want)
	}
	names, err := c.Models(t.Context())
	if want := []string{"m", "m-other"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("models: got %v, %v, want %v", names, err, want)
	}
}

func TestRacingPublishersGetDifferentVersions(t *testing.T) {
	forEachBucket(t, func(t *testing.T, open func() store.Blob) {
		const publishers, each = 8, 5
		var mu sync.Mutex
		seen := map[int]bool{}
		var wg sync.WaitGroup
		for range publishers {
			c := newCatalog(open())
			wg.Go(func() {
				for range each {
					m, err := c.Publish(t.Context(), manifest("m"))
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if seen[m.Version] {
						t.Errorf("version %d was given twice", m.Version)
					}
					seen[m.Version] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for v := 1; v <= publishers*each; v++ {
			if !seen[v] {
				t.Errorf("version %d was given to nobody", v)
			}
		}
	})
}

func TestRacingMovesLeaveOneHistory(t *testing.T) {
	forEachBucket(t, func(t *testing.T, open func() store.Blob) {
		first := newCatalog(open())
		const versions = 6
		for range versions {
			publish(t, first, "m")
		}
		const movers, each = 6, 8
		var wg sync.WaitGroup
		for i := range movers {
			c := newCatalog(open())
			wg.Go(func() {
				for j := range each {
					if _, err := c.Move(t.Context(), "m", "champion", Change{To: 1 + (i+j)%versions, By: fmt.Sprint(i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		a, err := first.Aliases(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		now := 0
		for i, m := range a.History {
			if m.Seq != i+1 || m.From != now || m.From == m.To {
				t.Fatalf("move %d does not follow from the one before: got %+v after version %d", i+1, m, now)
			}
			now = m.To
		}
		if got := a.Current["champion"]; got != now {
			t.Errorf("champion: got %d, want %d, where the history ends", got, now)
		}
	})
}

// forEachBucket runs a test on memory and on a real S3 server.
func forEachBucket(t *testing.T, test func(t *testing.T, open func() store.Blob)) {
	t.Run("mem", func(t *testing.T) {
		b := newMem()
		test(t, func() store.Blob { return b })
	})
	t.Run("s3", func(t *testing.T) {
		url := storetest.S3URL(t)
		test(t, func() store.Blob { return openS3(t, url) })
	})
}

func TestMove(t *testing.T) {
	c := newCatalog(newMem())
	for range 3 {
		publish(t, c, "m")
	}
	ptr := func(v int) *int { return &v }
	for _, step := range []struct {
		do   string
		to   int
		when *int
		want int // champion afterwards
		kind fault.Kind
		err  string
	}{
		{do: "move", to: 1, want: 1},
		{do: "move", to: 2, when: ptr(1), want: 2},
		{do: "move", to: 3, when: ptr(1), want: 2, kind: fault.Conflict, err: "names version 2, not 1"},
		{do: "move", to: 9, want: 2, kind: fault.NotFound, err: `model "m" has no version 9`},
		{do: "move", to: 2, want: 2},
		{do: "move", to: 3, want: 3},
		{do: "rollback", want: 2},
		{do: "rollback", want: 1},
		{do: "rollback", want: 1, kind: fault.Conflict, err: "no earlier version"},
		{do: "move", to: 3, want: 3},
		{do: "rollback", want: 1},
		{do: "move", to: 0, want: 0},
		{do: "rollback", want: 1},
	} {
		var err error
		if step.do == "move" {
			_, err = c.Move(t.Context(), "m", "champion", Change{To: step.to, Expect: step.when})
		} else {
			_, err = c.Rollback(t.Context(), "m", "champion", Change{By: "me"})
		}
		if (err != nil) != (step.err != "") || err != nil && (fault.KindOf(err) != step.kind || !strings.Contains(err.Error(), step.err)) {
			t.Fatalf("%s to %d: got error %v, want %q", step.do, step.to, err, step.err)
		}
		a, err := c.Aliases(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Current["champion"]; got != step.want {
			t.Fatalf("after %s to %d: got champion %d, want %d", step.do, step.to, got, step.want)
		}
	}
}

func TestResolve(t *testing.T) {
	c := newCatalog(newMem())
	publish(t, c, "m")
	publish(t, c, "m")
	resolve := func(ref string) (int, error) {
		r, err := ParseRef(ref)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Resolve(t.Context(), r)
		if err != nil {
			return 0, err
		}
		return m.Version, nil
	}
	if got, err := resolve("m"); err != nil || got != 2 {
		t.Errorf("without a champion: got %d, %v, want the newest, 2", got, err)
	}
	if _, err := c.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Move(t.Context(), "m", "shadow", Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		ref  string
		want int
		err  string
	}{
		{"m", 1, ""},
		{"m:champion", 1, ""},
		{"m:shadow", 2, ""},
		{"m:2", 2, ""},
		{"m:3", 0, `model "m" has no version 3`},
		{"m:0", 0, `model "m" has no version or alias "0"`},
		{"m:-1", 0, `no version or alias "-1"`},
		{"m:01", 0, `no version or alias "01"`},
		{"m:+1", 0, `no version or alias "+1"`},
		{"m:other", 0, `no version or alias "other"`},
		{"unknown", 0, `model "unknown" does not exist`},
		{"unknown:1", 0, `model "unknown" does not exist`},
	} {
		got, err := resolve(test.ref)
		if got != test.want || (err != nil) != (test.err != "") || err != nil && (fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: got %d, %v, want %d, %q", test.ref, got, err, test.want, test.err)
		}
	}
}

func TestChangesByOthersAreSeen(t *testing.T) {
	blob := newMem()
	here, there := NewCatalog(blob, time.Millisecond, nil), NewCatalog(blob, time.Millisecond, nil)
	publish(t, there, "m")
	if _, err := there.Move(t.Context(), "m", Champion, Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	if m, err := here.Resolve(t.Context(), Ref{Name: "m"}); err != nil || m.Version != 1 {
		t.Fatalf("got %v, %v, want version 1", m, err)
	}
	if _, err := here.Resolve(t.Context(), Ref{Name: "late"}); !fault.Is(err, fault.NotFound) {
		t.Fatalf("got %v, want NotFound", err)
	}
	publish(t, there, "m")
	publish(t, there, "late")
	if _, err := there.Move(t.Context(), "m", Champion, Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		m, err := here.Resolve(t.Context(), Ref{Name: "m"})
		return err == nil && m.Version == 2
	})
	eventually(t, func() bool {
		_, err := here.Resolve(t.Context(), Ref{Name: "late"})
		return err == nil
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not come to pass within 10 s")
		}
	}
}

// flaky is a bucket that fails while down is set.
type flaky struct {
	store.Blob
	mu   sync.Mutex
	down bool
	ops  int
}

func (f *flaky) set(down bool) {
	f.mu.Lock()
	f.down = down
	f.mu.Unlock()
}

func (f *flaky) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops++
	if f.down {
		return fault.New(fault.Unavailable, "the bucket is away")
	}
	return nil
}

func (f *flaky) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, store.Object, error) {
	if err := f.check(); err != nil {
		return nil, store.Object{}, err
	}
	return f.Blob.Get(ctx, key, off, n)
}

func TestKnownModelsAnswerWhileTheBucketIsAway(t *testing.T) {
	blob := &flaky{Blob: newMem()}
	c := NewCatalog(blob, time.Microsecond, nil)
	publish(t, c, "m")
	if _, err := c.Resolve(t.Context(), Ref{Name: "m"}); err != nil {
		t.Fatal(err)
	}
	blob.set(true)
	for range 100 {
		if _, err := c.Resolve(t.Context(), Ref{Name: "m"}); err != nil {
			t.Fatalf("got %v, want the state that was known", err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// crash is a bucket whose process dies at the n-th write, before or after the
// bucket has taken it.
type crash struct {
	store.Blob
	left  int
	after bool
}

var errCrash = errors.New("crashed")

func (c *crash) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, cond store.Condition) (string, error) {
	c.left--
	switch {
	case c.left < 0, c.left == 0 && !c.after:
		return "", errCrash
	case c.left == 0:
		if _, err := c.Blob.Put(ctx, key, body, size, cond); err != nil {
			return "", err
		}
		return "", errCrash
	}
	return c.Blob.Put(ctx, key, body, size, cond)
}

func TestACrashBetweenWritesLeavesNothingHalfVisible(t *testing.T) {
	for writes := 1; writes <= 3; writes++ { // artifact, manifest, alias
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, after=%v", writes, after), func(t *testing.T) {
				blob := newMem()
				r := openTestRegistry(t, &crash{Blob: blob, left: writes, after: after}, testConfig(t))
				_, err := r.Push(t.Context(), Push{Name: "m"}, strings.NewReader("ok model"))
				if !errors.Is(err, errCrash) {
					t.Fatalf("got %v, want a crash", err)
				}
				// Another process: the model is not there, or answers.
				r = openTestRegistry(t, blob, testConfig(t))
				names, err := r.Models(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				visible := len(names) > 0
				if want := writes > 2 || writes == 2 && after; visible != want {
					t.Fatalf("visible: got %v, want %v", visible, want)
				}
				m, err := r.Resolve(t.Context(), Ref{Name: "m"})
				if !visible {
					if !fault.Is(err, fault.NotFound) {
						t.Fatalf("got %v, want NotFound", err)
					}
				} else {
					use(t, r, m)
				}
				// And pushing again goes on from there.
				again, err := r.Push(t.Context(), Push{Name: "m"}, strings.NewReader("ok model"))
				if err != nil {
					t.Fatal(err)
				}
				use(t, r, again)
			})
		}
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		name         string
		model, alias bool
	}{
		{"m", true, true},
		{"flights-2013_v1.5", true, true},
		{"7", true, false},
		{"", false, false},
		{".hidden", false, false},
		{"a/b", false, false},
		{"..", false, false},
		{"ü", false, false},
		{"a b", false, false},
		{strings.Repeat("a", 100), true, true},
		{strings.Repeat("a", 101), false, false},
	} {
		if got := CheckName(test.name) == nil; got != test.model {
			t.Errorf("model name %q accepted: got %v, want %v", test.name, got, test.model)
		}
		if got := CheckAlias(test.name) == nil; got != test.alias {
			t.Errorf("alias %q accepted: got %v, want %v", test.name, got, test.alias)
		}
	}
}

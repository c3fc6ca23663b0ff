package model

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// smith is a toy that can optimize. Sessions of originals take a while.
type smith struct {
	toy
	kind            string
	original, other time.Duration // that Open takes
	err             error         // of Optimize
	wrong           bool          // sessions of optimized files answer something else
	optimizations   atomic.Int64
	reforged        atomic.Int64 // sessions of optimized files
}

const reforged = "ok, optimized: "

func (f *smith) Kind() (string, error) { return f.kind, nil }

func (f *smith) Optimize(_ context.Context, artifact []byte, path string, _ engine.Options) error {
	f.optimizations.Add(1)
	if f.err != nil {
		return f.err
	}
	return os.WriteFile(path, append([]byte(reforged), artifact...), 0o600)
}

func (f *smith) Open(ctx context.Context, b []byte, o engine.Options) (engine.Session, error) {
	if o.Optimized != bytes.HasPrefix(b, []byte(reforged)) {
		return nil, fault.New(fault.Internal, "the file is not what was told")
	}
	s, err := f.toy.Open(ctx, b, o)
	if err != nil || !o.Optimized {
		time.Sleep(f.original)
		return s, err
	}
	time.Sleep(f.other)
	f.reforged.Add(1)
	if f.wrong {
		return wrong{s}, nil
	}
	return s, nil
}

type wrong struct{ engine.Session }

func (w wrong) Run(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	out, err := w.Session.Run(ctx, in)
	out[0].Data[0] ^= 1
	return out, err
}

// openSmith makes an instance that optimizes whatever it loads.
func openSmith(t *testing.T, blob store.Blob, c *Config, f *smith) *Registry {
	t.Helper()
	r, err := Open(c, blob, nil, []engine.Format{f}, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	r.Warm.optimizer.from = 0
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d sessions are still open", n)
		}
	})
	r.Start(t.Context())
	return r
}

// load loads a model as a caller does.
func load(t *testing.T, r *Registry, name string) {
	t.Helper()
	m, err := r.Resolve(t.Context(), Ref{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	use(t, r, m)
}

// tried lists the keys of attempts.
func tried(t *testing.T, blob store.Blob) (keys []string) {
	t.Helper()
	for o, err := range blob.List(t.Context(), optimizedPrefix("m"), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func newSmith() *smith { return &smith{kind: "k1", original: 30 * time.Millisecond} }

func TestAnOptimizedFileIsUsedWhereItIsLoadedFaster(t *testing.T) {
	blob := newMem()
	m := pushText(t, openTestRegistry(t, blob, testConfig(t)), "m", "ok")
	first := newSmith()
	r := openSmith(t, blob, testConfig(t), first)
	load(t, r, "m")
	eventually(t, func() bool { return len(tried(t, blob)) == 1 })
	if key := tried(t, blob)[0]; !strings.HasPrefix(key, "models/m/optimized/"+m.Digest.Hex()+"@k1@") || strings.HasSuffix(key, "none") {
		t.Fatalf("got %s, want a file for k1", key)
	}
	if names, err := r.Models(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("models: got %v, %v, want m", names, err)
	}

	c := testConfig(t)
	for range 2 { // from the bucket, and from the disk
		next := newSmith()
		load(t, openSmith(t, blob, c, next), "m")
		if next.reforged.Load() != 1 || next.opened.Load() != 1 {
			t.Errorf("another instance: %d of %d sessions are of the optimized file, want the one", next.reforged.Load(), next.opened.Load())
		}
	}

	other := newSmith()
	other.kind = "k2"
	load(t, openSmith(t, blob, testConfig(t), other), "m")
	eventually(t, func() bool { return len(tried(t, blob)) == 2 })
	if first.optimizations.Load() != 1 || other.optimizations.Load() != 1 {
		t.Errorf("optimized %d and %d times, want once for each kind", first.optimizations.Load(), other.optimizations.Load())
	}
}

func TestWhatDoesNotPayIsTriedOnce(t *testing.T) {
	for name, spoil := range map[string]func(*smith){
		"no faster":      func(f *smith) { f.other = 2 * f.original },
		"another answer": func(f *smith) { f.wrong = true },
		"can't optimize": func(f *smith) { f.err = fault.New(fault.Invalid, "not this one") },
	} {
		t.Run(name, func(t *testing.T) {
			blob := newMem()
			pushText(t, openTestRegistry(t, blob, testConfig(t)), "m", "ok")
			f := newSmith()
			spoil(f)
			load(t, openSmith(t, blob, testConfig(t), f), "m")
			eventually(t, func() bool { return len(tried(t, blob)) == 1 })
			if key := tried(t, blob)[0]; !strings.HasSuffix(key, "@k1@none") {
				t.Errorf("got %s, want that it did not pay", key)
			}
			next := newSmith()
			spoil(next)
			r := openSmith(t, blob, testConfig(t), next)
			load(t, r, "m")
			eventually(t, func() bool { return len(r.Warm.optimizer.queue) == 0 })
			time.Sleep(10 * time.Millisecond)
			if next.optimizations.Load() != 0 || next.opened.Load() != 1 {
				t.Errorf("another instance: optimized %d times, opened %d sessions, want 0 and 1", next.optimizations.Load(), next.opened.Load())
			}
		})
	}
}

func TestWhateverIsWrongWithAnOptimizedFileTheOriginalAnswers(t *testing.T) {
	put := func(t *testing.T, blob store.Blob, key, content string) {
		t.Helper()
		if _, err := blob.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, blob store.Blob, key string) {
		t.Helper()
		if err := blob.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(t *testing.T, blob store.Blob, m *Manifest, key, hex string){
		"changed": func(t *testing.T, blob store.Blob, _ *Manifest, _, hex string) {
			put(t, blob, "artifacts/sha256/"+hex, reforged+"ko")
		},
		"truncated": func(t *testing.T, blob store.Blob, _ *Manifest, _, hex string) {
			put(t, blob, "artifacts/sha256/"+hex, "o")
		},
		"gone": func(t *testing.T, blob store.Blob, _ *Manifest, _, hex string) {
			remove(t, blob, "artifacts/sha256/"+hex)
		},
		"no model": func(t *testing.T, blob store.Blob, m *Manifest, key, _ string) {
			remove(t, blob, key)
			other := pushText(t, openTestRegistry(t, blob, testConfig(t)), "other", "ok, but no optimized one")
			put(t, blob, optimized{other.Digest, other.Size}.key("m", attempt{m.Digest, "k1"}), "{}")
		},
		"broken keys": func(t *testing.T, blob store.Blob, m *Manifest, key, hex string) {
			remove(t, blob, key)
			for _, k := range []string{"x", "@@", m.Digest.Hex() + "@k1@", m.Digest.Hex() + "@k1@-1", m.Digest.Hex() + "@k1@" + hex + "-", m.Digest.Hex() + "@k1@" + hex + "--5", "@k1@none"} {
				put(t, blob, optimizedPrefix("m")+k, "{}")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			blob := newMem()
			m := pushText(t, openTestRegistry(t, blob, testConfig(t)), "m", "ok")
			load(t, openSmith(t, blob, testConfig(t), newSmith()), "m")
			eventually(t, func() bool { return len(tried(t, blob)) == 1 })
			key := tried(t, blob)[0]
			hex, _, _ := strings.Cut(key[strings.LastIndex(key, "@")+1:], "-")
			damage(t, blob, m, key, hex)
			f := newSmith()
			r := openSmith(t, blob, testConfig(t), f)
			r.Warm.optimizer.from = time.Hour // what it opens is what the caller runs
			load(t, r, "m")
			if f.opened.Load() == 0 || f.opened.Load() == f.reforged.Load() {
				t.Errorf("%d of %d sessions are of the optimized file, want the original to answer", f.reforged.Load(), f.opened.Load())
			}
		})
	}
}

func TestOptimizingTakesNoRoomFromModels(t *testing.T) {
	for _, test := range []struct {
		memory int64
		want   bool
	}{
		{4 * (1 << 20), false}, // two models, and less than what two sessions take in the making
		{4*(1<<20) + 1<<12, true},
	} {
		c := testConfig(t)
		c.Memory = env.Size(test.memory)
		r := openTestRegistry(t, newMem(), c)
		all := pushMany(t, r, 2)
		use(t, r, all[0])
		use(t, r, all[1])
		release, ok, err := r.Warm.spare(t.Context(), all[0])
		if err != nil || ok != test.want {
			t.Fatalf("of %d bytes: got %v, %v, want %v", test.memory, ok, err, test.want)
		}
		if ok {
			release()
		}
		if got := len(r.Warm.Loaded()); got != 2 {
			t.Errorf("of %d bytes: got %d models, want both to stay", test.memory, got)
		}
		if r.Warm.making != 0 || r.Warm.busy != 0 {
			t.Errorf("%d bytes are still reserved", r.Warm.making)
		}
	}
}

func FuzzParseOptimized(f *testing.F) {
	hex := strings.Repeat("0", 64)
	f.Add(hex + "@ort1.30.0-amd64@" + hex + "-12")
	f.Add(hex + "@k@none")
	f.Fuzz(func(t *testing.T, rest string) {
		a, o, ok := parseOptimized(rest)
		if !ok {
			return
		}
		key := o.key("m", a)
		again, o2, ok := parseOptimized(strings.TrimPrefix(key, optimizedPrefix("m")))
		if !ok || a != again || o != o2 {
			t.Errorf("%q is written as %q, which reads as %v %v %v", rest, key, again, o2, ok)
		}
	})
}

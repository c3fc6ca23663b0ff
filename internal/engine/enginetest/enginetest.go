// Package enginetest is the contract that every model runtime passes. A
// runtime's tests call Run, and its benchmarks Benchmark, with a model of its
// own kind whose answers can be computed in Go.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Models are what a runtime is tried with.
type Models struct {
	// Model is the file of a model that takes any number of rows.
	Model []byte
	// Inputs makes inputs of so many rows for it; different seeds, different numbers.
	Inputs func(rows, seed int) []tensor.Tensor
	// Answer computes what the model gives for inputs, to the bit.
	Answer func(inputs []tensor.Tensor) []tensor.Tensor

	// Slow is the file of a model that runs for seconds on SlowInputs. Empty for
	// runtimes whose models never do.
	Slow       []byte
	SlowInputs []tensor.Tensor
}

// Run checks everything that engine.Format and engine.Session promise.
func Run(t *testing.T, f engine.Format, m Models) {
	open := func(t *testing.T, artifact []byte, o engine.Options) engine.Session {
		t.Helper()
		s, err := f.Open(t.Context(), artifact, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// try runs the model on rows and compares with the answer.
	try := func(t *testing.T, s engine.Session, rows, seed int) {
		t.Helper()
		in := m.Inputs(rows, seed)
		got, err := s.Run(t.Context(), in)
		if err != nil {
			t.Errorf("%d rows: %v", rows, err)
			return
		}
		equal(t, got, m.Answer(in))
	}

	t.Run("tells what it is", func(t *testing.T) {
		for what, text := range map[string]string{"name": f.Name(), "platform": f.Platform(), "version": f.Version()} {
			if text == "" {
				t.Errorf("got no %s, want one", what)
			}
		}
	})

	t.Run("signature", func(t *testing.T) {
		s := open(t, m.Model, engine.Options{})
		if got := s.Memory(); got.Session <= 0 || got.Loading < got.Session {
			t.Errorf("memory: got %+v, want something for the session and no less while loading", got)
		}
		defer closed(t, s)
		in := m.Inputs(3, 1)
		want := m.Answer(in)
		sig := s.Signature()
		if len(sig.Inputs) != len(in) || len(sig.Outputs) != len(want) {
			t.Fatalf("got %d inputs and %d outputs, want %d and %d", len(sig.Inputs), len(sig.Outputs), len(in), len(want))
		}
		for i := range in {
			if sig.Inputs[i].Name != in[i].Name {
				t.Errorf("got input %q, want %q", sig.Inputs[i].Name, in[i].Name)
			}
			if err := sig.Inputs[i].Accepts(&in[i]); err != nil {
				t.Error(err)
			}
		}
		for i := range want {
			if sig.Outputs[i].Name != want[i].Name {
				t.Errorf("got output %q, want %q", sig.Outputs[i].Name, want[i].Name)
			}
			if err := sig.Outputs[i].Accepts(&want[i]); err != nil {
				t.Error(err)
			}
		}
		try(t, s, 3, 1)
		sig = s.Signature() // now complete
		again := open(t, m.Model, engine.Options{Signature: &sig})
		defer closed(t, again)
		if got := again.Signature(); !reflect.DeepEqual(got, sig) {
			t.Errorf("opened with its own signature: got %+v, want %+v", got, sig)
		}
		try(t, again, 3, 2)
	})

	t.Run("any number of rows", func(t *testing.T) {
		s := open(t, m.Model, engine.Options{})
		defer closed(t, s)
		for _, rows := range []int{1, 2, 7, 64, 1, 0, 1000, 0, 7} {
			try(t, s, rows, rows)
		}
	})

	t.Run("concurrent runs", func(t *testing.T) {
		s := open(t, m.Model, engine.Options{})
		defer closed(t, s)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 100 {
					try(t, s, 1+(g+i)%5, 100*g+i)
				}
			})
		}
		wg.Wait()
	})

	t.Run("any number of threads", func(t *testing.T) {
		for _, threads := range []int{1, 2} {
			s := open(t, m.Model, engine.Options{Threads: threads})
			try(t, s, 50, 1)
			closed(t, s)
		}
	})

	t.Run("inputs stay as they are", func(t *testing.T) {
		s := open(t, m.Model, engine.Options{})
		defer closed(t, s)
		in := m.Inputs(4, 1)
		before := clone(in)
		out, err := s.Run(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, in, before)
		want := clone(out)
		scribble(in)
		equal(t, out, want)
	})

	t.Run("outputs stay after another run and Close", func(t *testing.T) {
		s := open(t, m.Model, engine.Options{})
		in := m.Inputs(4, 1)
		out, err := s.Run(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		try(t, s, 4, 2)
		closed(t, s)
		equal(t, out, m.Answer(in))
		scribble(out) // they are the caller's to change
	})

	t.Run("the artifact may go away", func(t *testing.T) {
		artifact := bytes.Clone(m.Model)
		s := open(t, artifact, engine.Options{})
		defer closed(t, s)
		if !bytes.Equal(artifact, m.Model) {
			t.Error("Open changed the artifact")
		}
		clear(artifact)
		try(t, s, 2, 1)
	})

	t.Run("a context that ended", func(t *testing.T) {
		s := open(t, m.Model, engine.Options{})
		defer closed(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Run(ctx, m.Inputs(1, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		try(t, s, 1, 1)
	})

	t.Run("a context that ends during a run", func(t *testing.T) {
		if m.Slow == nil {
			t.Skip("this runtime has no slow models")
		}
		s := open(t, m.Slow, engine.Options{})
		defer closed(t, s)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			start := time.Now()
			_, err := s.Run(ctx, m.SlowInputs)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || !fault.Is(err, fault.Deadline) {
				t.Errorf("got %v, want %v of kind deadline", err, context.DeadlineExceeded)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("the run ended after %v, want soon after 50ms", d)
			}
		}
	})

	t.Run("no model", func(t *testing.T) {
		for name, content := range map[string][]byte{
			"empty":    {},
			"text":     []byte("This is not a model, it is a sentence.\n"),
			"zeros":    make([]byte, 4096),
			"cut":      m.Model[:len(m.Model)/2],
			"cut once": m.Model[:len(m.Model)-1],
		} {
			s, err := f.Open(t.Context(), content, engine.Options{})
			if err == nil {
				closed(t, s)
			}
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: got %v, want it refused as invalid", name, err)
			}
		}
	})
}

// Benchmark measures runs of one row and of many.
func Benchmark(b *testing.B, f engine.Format, m Models) {
	for _, rows := range []int{1, 64} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			s, err := f.Open(b.Context(), m.Model, engine.Options{})
			if err != nil {
				b.Fatal(err)
			}
			in := m.Inputs(rows, 1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Run(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func closed(t *testing.T, s engine.Session) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func equal(t *testing.T, got, want []tensor.Tensor) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d tensors, want %d", len(got), len(want))
		return
	}
	for i := range want {
		g, w := got[i], want[i]
		if g.Name != w.Name || g.Type != w.Type || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Data, w.Data) || !slices.Equal(g.Strings, w.Strings) {
			t.Errorf("got %+v, want %+v", g, w)
		}
	}
}

func clone(tensors []tensor.Tensor) []tensor.Tensor {
	c := slices.Clone(tensors)
	for i := range c {
		c[i].Shape, c[i].Data, c[i].Strings = slices.Clone(c[i].Shape), slices.Clone(c[i].Data), slices.Clone(c[i].Strings)
	}
	return c
}

func scribble(tensors []tensor.Tensor) {
	for i := range tensors {
		for j := range tensors[i].Data {
			tensors[i].Data[j] ^= 0x55
		}
		for j := range tensors[i].Strings {
			tensors[i].Strings[j] = "scribble"
		}
	}
}

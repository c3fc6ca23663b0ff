package onnx_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// layers are n of a net: what it does to a matrix is six operations, of which
// the library makes fewer.
func layers(n int, width int64) []byte {
	m := onnxwire.Model{Graph: onnxwire.Graph{
		Inputs:  []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1, width)},
		Outputs: []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1, width)},
	}}
	last := "X"
	for i := range n {
		name := func(s string) string { return fmt.Sprint(s, i) }
		out := name("out")
		if i == n-1 {
			out = "Y"
		}
		m.Weights = append(m.Weights, tensor.Spec{Name: name("W"), Shape: []int64{width, width}}, tensor.Spec{Name: name("B"), Shape: []int64{width}})
		m.Nodes = append(m.Nodes, []onnxwire.Node{
			{Op: "MatMul", In: []string{last, name("W")}, Out: []string{name("a")}},
			{Op: "Add", In: []string{name("a"), name("B")}, Out: []string{name("b")}},
			{Op: "Identity", In: []string{name("b")}, Out: []string{name("c")}},
			{Op: "Sigmoid", In: []string{name("c")}, Out: []string{name("d")}},
			{Op: "Mul", In: []string{name("c"), name("d")}, Out: []string{name("e")}},
			{Op: "Add", In: []string{name("e"), last}, Out: []string{out}},
		}...)
		last = out
	}
	return m.Bytes()
}

func optimize(t testing.TB, artifact []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "optimized")
	if err := onnxtest.Format(t).(engine.Optimizer).Optimize(t.Context(), artifact, path, engine.Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOptimizedModelsAnswerTheSameToTheBit(t *testing.T) {
	f := onnxtest.Format(t)
	x := make([]float32, 8*64)
	for i := range x {
		x[i] = float32(i%17)/7 - 1
	}
	image := make([]float32, 3*224*224)
	for i := range image {
		image[i] = float32(i%251)/125 - 1
	}
	for name, test := range map[string]struct {
		artifact []byte
		in       []tensor.Tensor
	}{
		"layers":      {layers(10, 64), []tensor.Tensor{tensor.Of("X", []int64{8, 64}, x)}},
		"dense":       {onnxtest.Dense(3, 64).Bytes(), []tensor.Tensor{tensor.Of("X", []int64{8, 64}, x)}},
		"convolution": {onnxtest.Convolution().Bytes(), []tensor.Tensor{tensor.Of("X", []int64{1, 3, 224, 224}, image)}},
		"classifier":  {onnxtest.Classifier([]string{"a", "b"}).Bytes(), []tensor.Tensor{tensor.Of("X", []int64{4, 2}, x[:8])}},
		"simple":      {onnxtest.Simple(-1).Bytes(), []tensor.Tensor{tensor.Of("INPUT0", []int64{1, 16}, make([]int32, 16)), tensor.Of("INPUT1", []int64{1, 16}, make([]int32, 16))}},
	} {
		t.Run(name, func(t *testing.T) {
			original, err := f.Open(t.Context(), test.artifact, engine.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer original.Close()
			want, err := original.Run(t.Context(), test.in)
			if err != nil {
				t.Fatal(err)
			}
			signature := original.Signature()
			s, err := f.Open(t.Context(), optimize(t, test.artifact), engine.Options{Signature: &signature, Optimized: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			got, err := s.Run(t.Context(), test.in)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Error("the answers differ")
			}
			if !reflect.DeepEqual(s.Signature(), signature) {
				t.Errorf("got signature %+v, want %+v", s.Signature(), signature)
			}
		})
	}
}

func TestOptimizeRefusesWhatOpenDoes(t *testing.T) {
	f := onnxtest.Format(t)
	for _, artifact := range [][]byte{nil, []byte("no model"), bytes.Repeat([]byte{0xff}, 100), onnxtest.Elsewhere("file").Bytes()} {
		path := filepath.Join(t.TempDir(), "optimized")
		if err := f.(engine.Optimizer).Optimize(t.Context(), artifact, path, engine.Options{}); err == nil {
			t.Errorf("%.20q: got no error", artifact)
		}
	}
	if err := f.(engine.Optimizer).Optimize(t.Context(), onnxtest.Simple(1).Bytes(), "/dev/null/x", engine.Options{}); err == nil {
		t.Error("into no folder: got no error")
	}
}

func TestKindFitsIntoAKey(t *testing.T) {
	kind, err := onnxtest.Format(t).(engine.Optimizer).Kind()
	if err != nil {
		t.Fatal(err)
	}
	allowed := strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
	if len(kind) < 8 || len(kind) > 60 || !allowed {
		t.Errorf("got %q, want up to 60 letters, digits, '-' and '.'", kind)
	}
	t.Log(kind)
}

// BenchmarkOptimized is what a session takes to be made, of an artifact and of what
// Optimize made of it.
func BenchmarkOptimized(b *testing.B) {
	f := onnxtest.Format(b)
	flights, err := os.ReadFile("../../../examples/flights/flights.onnx")
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range []struct {
		name     string
		artifact []byte
	}{
		{"flights", flights}, {"60 layers of 64", layers(60, 64)}, {"200 layers of 64", layers(200, 64)}, {"12 of 2048", onnxtest.Dense(12, 2048).Bytes()},
	} {
		for _, optimized := range []bool{false, true} {
			file := m.artifact
			if optimized {
				file = optimize(b, file)
			}
			b.Run(fmt.Sprintf("%s/optimized=%t", m.name, optimized), func(b *testing.B) {
				for b.Loop() {
					s, err := f.Open(b.Context(), file, engine.Options{Optimized: optimized})
					if err != nil {
						b.Fatal(err)
					}
					if err := s.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

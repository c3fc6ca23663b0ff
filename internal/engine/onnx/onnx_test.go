package onnx_test

import (
	"slices"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func TestSimple(t *testing.T) {
	s, err := onnxtest.Format(t).Open(t.Context(), onnxtest.Simple(-1).Write(t), engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, b := make([]int32, 32), make([]int32, 32)
	for i := range a {
		a[i], b[i] = int32(i), 1
	}
	out, err := s.Run(t.Context(), []tensor.Tensor{
		tensor.Of("INPUT0", []int64{2, 16}, a), tensor.Of("INPUT1", []int64{2, 16}, b),
	})
	if err != nil {
		t.Fatal(err)
	}
	sum, difference := tensor.View[int32](out[0].Data), tensor.View[int32](out[1].Data)
	for i := range a {
		if sum[i] != a[i]+b[i] || difference[i] != a[i]-b[i] {
			t.Fatalf("element %d: got %d and %d, want %d and %d", i, sum[i], difference[i], a[i]+b[i], a[i]-b[i])
		}
	}
	if !slices.Equal(out[0].Shape, []int64{2, 16}) {
		t.Errorf("got shape %v, want [2,16]", out[0].Shape)
	}
}

package onnx_test

import (
	"context"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// FuzzOpen opens foreign bytes and, if they are a model, runs it. Most of what
// reads them is ONNX Runtime's; a crash found here is one to report there.
func FuzzOpen(f *testing.F) {
	for _, m := range []onnxwire.Model{
		onnxtest.Simple(-1), onnxtest.Classifier([]int64{1, 2}), onnxtest.Classifier([]string{"a", "b"}), onnxtest.NonZero(),
		onnxtest.Cast(tensor.FP32, tensor.FP16, -1), onnxtest.Elsewhere("w"), onnxtest.Identity(tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1}}),
	} {
		f.Add(m.Bytes())
	}
	format := onnxtest.Format(f)
	f.Fuzz(func(t *testing.T, artifact []byte) {
		s, err := format.Open(t.Context(), artifact, engine.Options{})
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v, want it refused as invalid", err)
			}
			return
		}
		var in []tensor.Tensor
		for _, spec := range s.Signature().Inputs {
			shape := []int64{}
			for _, d := range spec.Shape {
				if d < 0 || d > 8 {
					d = 2
				}
				shape = append(shape, d)
			}
			if n, err := tensor.Elements(shape); err == nil && n < 1<<20 {
				in = append(in, filled(spec.Name, spec.Type, shape...))
			}
		}
		if len(in) == len(s.Signature().Inputs) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, _ = s.Run(ctx, in) // whatever comes of it
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

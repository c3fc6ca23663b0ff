package onnx_test

import (
	"testing"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// BenchmarkBinding is what the binding alone takes for the work of BenchmarkRun/simple.
func BenchmarkBinding(b *testing.B) {
	onnxtest.Format(b).Version() // loads the library
	m := onnxtest.Simple(1).Bytes()
	o, err := ort.NewSessionOptions()
	if err != nil {
		b.Fatal(err)
	}
	if err := o.SetIntraOpNumThreads(1); err != nil {
		b.Fatal(err)
	}
	s, err := ort.NewDynamicAdvancedSessionWithONNXData(m, []string{"INPUT0", "INPUT1"}, []string{"OUTPUT0", "OUTPUT1"}, o)
	if err != nil {
		b.Fatal(err)
	}
	shape := ort.NewShape(1, 16)
	x := make([]int32, 16)
	b.ReportAllocs()
	for b.Loop() {
		values := make([]ort.Value, 4)
		for i := range values {
			if values[i], err = ort.NewTensor(shape, x); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Run(values[:2], values[2:]); err != nil {
			b.Fatal(err)
		}
		for _, v := range values {
			if err := v.Destroy(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkRun(b *testing.B) {
	simple := []tensor.Tensor{tensor.Of("INPUT0", []int64{1, 16}, make([]int32, 16)), tensor.Of("INPUT1", []int64{1, 16}, make([]int32, 16))}
	image := []int64{1, 3, 224, 224}
	pixels := tensor.Of("X", image, make([]float32, 3*224*224))
	tests := []struct {
		name   string
		model  onnxwire.Model
		inputs []tensor.Tensor
	}{
		{"simple", onnxtest.Simple(1), simple},
		{"dynamic", onnxtest.Simple(-1), simple},
		{"image", onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: image}), []tensor.Tensor{pixels}},
		{"image,dynamic", onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 3, 224, 224}}), []tensor.Tensor{pixels}},
		{"convolution", onnxtest.Convolution(), []tensor.Tensor{pixels}},
		{"halves", onnxtest.Cast(tensor.FP32, tensor.FP16, -1, -1), []tensor.Tensor{tensor.Of("X", []int64{1, 16}, make([]float32, 16))}},
		{"strings", onnxtest.Identity(tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1}}), []tensor.Tensor{tensor.OfStrings("X", []int64{16}, make([]string, 16))}},
		{"classifier", onnxtest.Classifier([]int64{0, 1, 2}), []tensor.Tensor{tensor.Of("X", []int64{1, 3}, make([]float32, 3))}},
		{"classifier,rows=64", onnxtest.Classifier([]int64{0, 1, 2}), []tensor.Tensor{tensor.Of("X", []int64{64, 3}, make([]float32, 3*64))}},
	}
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			s := open(b, tt.model, engine.Options{})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Run(b.Context(), tt.inputs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens and closes.
func BenchmarkOpen(b *testing.B) {
	for _, tt := range []struct {
		name  string
		model onnxwire.Model
	}{
		{"simple", onnxtest.Simple(-1)},
		{"192MB", onnxtest.Dense(12, 2048)},
	} {
		b.Run(tt.name, func(b *testing.B) {
			f, artifact := onnxtest.Format(b), tt.model.Bytes()
			for b.Loop() {
				s, err := f.Open(b.Context(), artifact, engine.Options{})
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

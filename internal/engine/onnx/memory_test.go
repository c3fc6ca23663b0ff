package onnx_test

import (
	"context"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// anonymous is the memory of the process that lies in RAM and in no file, in kB.
func anonymous(t testing.TB) int {
	debug.FreeOSMemory()
	onnx.Trim()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("memory is measured on Linux only")
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssAnon in /proc/self/status")
	return 0
}

// Whatever is done over and over must not take more memory each time.
func TestMemoryStaysFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	f := onnxtest.Format(t)
	openRun := func(artifact []byte, in ...tensor.Tensor) func() {
		return func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			s, err := f.Open(t.Context(), artifact, engine.Options{})
			if err != nil {
				return
			}
			_, _ = s.Run(ctx, in) // also of runs that fail
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	// Each step passes, or has in its model, about a megabyte.
	floats := make([]float32, 1<<18)
	x := tensor.Of("X", []int64{1 << 18}, floats)
	square := tensor.Of("X", []int64{512, 512}, floats)
	opset99 := onnxtest.Dense(1, 512)
	opset99.Opset = 99
	elsewhere := onnxtest.Elsewhere("file")
	elsewhere.Weights = onnxtest.Dense(1, 512).Weights
	gather := onnxtest.Apply("Gather", []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1), onnxwire.Tensor("I", tensor.Int64, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)})
	text := onnxtest.Identity(tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1}})
	long := tensor.OfStrings("INPUT0", []int64{10}, slices.Repeat([]string{strings.Repeat("x", 100_000)}, 10))
	classes := make([]int64, 20_000)
	for i := range classes {
		classes[i] = int64(i)
	}
	slow := onnxtest.Slow().Bytes()
	steps := map[string]func(){
		"dense":      openRun(onnxtest.Dense(1, 512).Bytes(), square),
		"classifier": openRun(onnxtest.Classifier(classes).Bytes(), tensor.Of("X", []int64{1, 20_000}, floats[:20_000])),
		"strings":    openRun(text.Bytes(), long),
		"halves":     openRun(onnxtest.Cast(tensor.FP32, tensor.FP16, -1, -1).Bytes(), square),
		"data":       openRun(onnxtest.NonZero().Bytes(), x),
		"bad model":  openRun(opset99.Bytes()),
		"elsewhere":  openRun(elsewhere.Bytes(), x),
		"bad inputs": openRun(gather.Bytes(), x, tensor.Of("I", []int64{1}, []int64{1 << 20})),
		"time out":   openRun(slow, tensor.Of("X", []int64{256, 256}, floats[:256*256]), tensor.Of("TIMES", []int64{}, []int64{1e9})),
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				step()
			}
			before := anonymous(t)
			const times = 50
			for range times {
				step()
			}
			// Malloc may keep some for later, but not a good part of what passed through.
			if grown := anonymous(t) - before; grown > 500*times {
				t.Errorf("%d times took %d kB, want next to none", times, grown)
			}
		})
	}
}

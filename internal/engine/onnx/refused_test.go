package onnx_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// refused checks that a model is not opened, and why.
func refused(t *testing.T, m onnxwire.Model, want string) {
	t.Helper()
	s, err := onnxtest.Format(t).Open(t.Context(), m.Bytes(), engine.Options{})
	if err == nil {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), want) {
		t.Errorf("got %v, want it refused as invalid: %s", err, want)
	}
}

func TestRefusedModels(t *testing.T) {
	x, y := onnxwire.Tensor("X", tensor.FP32, 4), onnxwire.Tensor("Y", tensor.FP32, 4)
	in, out := []onnxwire.Value{x}, []onnxwire.Value{y}
	opset99 := onnxtest.Apply("Relu", in, out)
	opset99.Opset = 99
	foreign := onnxtest.Apply("Frobnicate", in, out)
	foreign.Nodes[0].Domain = "com.acme"
	dangling := onnxtest.Apply("Add", in, out)
	dangling.Nodes[0].In = []string{"X", "Z"}
	cycle := onnxtest.Apply("Add", in, out)
	cycle.Nodes[0].In = []string{"X", "Y"}
	short := onnxtest.Apply("Add", in, out)
	short.Nodes[0].In = []string{"X", "W"}
	short.Constants = []tensor.Tensor{{Name: "W", Type: tensor.FP32, Shape: []int64{4}, Data: []byte{1, 2, 3}}}
	sequenceOut := onnxtest.Apply("SequenceConstruct", in, []onnxwire.Value{onnxwire.Sequence("Y", tensor.FP32, 4)})

	tests := []struct {
		name  string
		model onnxwire.Model
		want  string
	}{
		{"opset of the future", opset99, "the model is written for opset 99 of ai.onnx, ONNX Runtime knows them up to 26"},
		{"unknown operation", onnxtest.Apply("Frobnicate", in, out), "ONNX Runtime cannot open the model: Frobnicate: No Op registered for Frobnicate with domain_version of 18"},
		{"unknown domain", foreign, "ONNX Runtime cannot open the model: Frobnicate: No opset import for domain 'com.acme'"},
		{"dangling input", dangling, "Node input 'Z' is not a graph input, initializer, or output of a previous node"},
		{"cycle", cycle, "graph is not acyclic"},
		{"weights that are too short", short, "raw_data size (3 bytes) does not match expected size from shape and data type (16 bytes)"},
		{"wrong type", onnxtest.Apply("Relu", in, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP64, 4)}), "does not match expected type"},
		{"no inputs", onnxtest.Apply("Relu", nil, out), "the model has 0 inputs and 1 outputs"},
		{"no outputs", onnxtest.Apply("Relu", in, nil), "the model has 1 inputs and 0 outputs"},
		{"sequence in", onnxtest.Apply("SequenceAt", []onnxwire.Value{onnxwire.Sequence("X", tensor.FP32)}, out), `input "X" is a sequence; only tensors can be served`},
		{"maps in", onnxtest.Apply("DictVectorizer", []onnxwire.Value{onnxwire.Maps("X", tensor.Int64)}, out), `input "X" is a sequence`},
		{"sequence out", sequenceOut, `output "Y" is a sequence`},
		{"optional", onnxtest.Apply("OptionalGetElement", []onnxwire.Value{onnxwire.Optional("X", tensor.FP32, 4)}, out), `input "X" is optional`},
		{"complex", onnxtest.Apply("Identity", []onnxwire.Value{onnxwire.TensorOf("X", onnxwire.Complex64, 4)}, out), `input "X" has elements of type COMPLEX64`},
		{"eight bits", onnxtest.Apply("Identity", in, []onnxwire.Value{onnxwire.TensorOf("Y", onnxwire.Float8E4M3, 4)}), `output "Y" has elements of type FLOAT8E4M3FN`},
		{"unknown rank", onnxtest.Apply("Relu", []onnxwire.Value{onnxwire.Unranked("X", tensor.FP32)}, out), `input "X" does not tell how many dimensions it has`},
		{"scalar FP16", onnxtest.Apply("Identity", in, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP16)}), `output "Y" is a scalar of type FP16`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { refused(t, tt.model, tt.want) })
	}
}

// A model must not read files, neither its neighbours nor others.
func TestWeightsInOtherFiles(t *testing.T) {
	const inMemory = "*/_ORT_MEM_ADDR_/*" // by which ONNX Runtime refers to its own memory
	f := onnxtest.Format(t)
	dir := t.TempDir()
	t.Chdir(dir) // where ONNX Runtime would look for them
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, make([]byte, 16), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, location := range []string{"secret", "./secret", "none", secret, "../" + filepath.Base(dir) + "/secret", "/dev/zero", "", inMemory} {
		want := "the model keeps weights in other files"
		if location == inMemory {
			want = "references an ORT in-memory address marker, which is not allowed in a model"
		}
		s, err := f.Open(t.Context(), onnxtest.Elsewhere(location).Bytes(), engine.Options{})
		if err == nil {
			t.Errorf("%q: got a session, want it refused", location)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if got := fault.Message(err); !fault.Is(err, fault.Invalid) || !strings.Contains(got, want) {
			t.Errorf("%q: got %v, want %s", location, err, want)
		}
	}
}

func TestWeightsOfLoopsInOtherFiles(t *testing.T) {
	m := onnxtest.Slow()
	loop := &m.Nodes[0]
	body := loop.Attributes[0].Value.(onnxwire.Graph)
	m.Weights, body.External = nil, []onnxwire.External{{Name: "W", Shape: []int64{256, 256}, Location: "model.onnx"}}
	loop.Attributes[0].Value = body
	refused(t, m, "the model keeps weights in other files")
}

func TestRefusedInputs(t *testing.T) {
	f32 := func(name string, shape ...int64) tensor.Tensor {
		n, _ := tensor.Elements(shape)
		return tensor.Of(name, shape, make([]float32, n))
	}
	i64 := func(name string, v ...int64) tensor.Tensor { return tensor.Of(name, []int64{int64(len(v))}, v) }
	x := onnxwire.Tensor("X", tensor.FP32, -1)
	gather := onnxtest.Apply("Gather", []onnxwire.Value{x, onnxwire.Tensor("I", tensor.Int64, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)})
	add := onnxtest.Apply("Add", []onnxwire.Value{x, onnxwire.Tensor("Z", tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)})
	reshape := onnxtest.Apply("Reshape", []onnxwire.Value{x, onnxwire.Tensor("S", tensor.Int64, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)})
	fill := onnxtest.Apply("ConstantOfShape", []onnxwire.Value{onnxwire.Tensor("S", tensor.Int64, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)})
	divide := onnxtest.Apply("Div", []onnxwire.Value{onnxwire.Tensor("A", tensor.Int64, -1), onnxwire.Tensor("B", tensor.Int64, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.Int64, -1)})
	const because = "the model cannot be run on these inputs: "
	tests := []struct {
		name   string
		model  onnxwire.Model
		inputs []tensor.Tensor
		want   string
	}{
		{"index", gather, []tensor.Tensor{f32("X", 4), i64("I", 9)}, because + "Gather: indices element out of data bounds, idx=9 must be within the inclusive range [-4,3]"},
		{"broadcast", add, []tensor.Tensor{f32("X", 4), f32("Z", 3)}, because + "Add: Attempting to broadcast an axis by a dimension other than 1. 3 by 4"},
		{"reshape", reshape, []tensor.Tensor{f32("X", 4), i64("S", 3)}, because + "Reshape: The input tensor cannot be reshaped to the requested shape. Input shape:{4}, requested shape:{3}"},
		// 1<<46 floats are more than an address has bits for: a kernel that overcommits
		// would give less than that, and the test would fill the machine.
		{"too large", fill, []tensor.Tensor{i64("S", 1<<46)}, because + "ConstantOfShape: it needs more memory than there is"},
		{"beyond numbers", fill, []tensor.Tensor{i64("S", 1<<62)}, because + "ConstantOfShape: Calculation for Tensor storage size overflowed"},
		{"division by zero", divide, []tensor.Tensor{i64("A", 1), i64("B", 0)}, because + "Div: Integer division by zero"},
		{"rank", add, []tensor.Tensor{f32("X", 1, 4), f32("Z", 3)}, because + "Invalid rank for input: X Got: 2 Expected: 1"},
		{"type", add, []tensor.Tensor{i64("X", 4), f32("Z", 3)}, because + "Unexpected input data type. Actual: (tensor(int64)) , expected: (tensor(float))"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, tt.model, engine.Options{})
			for range 2 {
				_, err := s.Run(t.Context(), tt.inputs)
				if !fault.Is(err, fault.Invalid) || fault.Message(err) != tt.want {
					t.Errorf("got  %v\nwant %s", err, tt.want)
				}
			}
		})
	}
}

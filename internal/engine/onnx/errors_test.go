package onnx

import (
	"errors"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// The texts are those of ONNX Runtime 1.30.
func TestSentence(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", ""},
		{
			"Error running network: Non-zero status code returned while running Gather node. Name:'' Status Message: indices element out of data bounds, idx=9 must be within the inclusive range [-4,3]",
			"Gather: indices element out of data bounds, idx=9 must be within the inclusive range [-4,3]",
		},
		{
			"Error running network: Non-zero status code returned while running Add node. Name:'sum' Status Message: /onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:563 void onnxruntime::BroadcastIterator::Init(ptrdiff_t, ptrdiff_t) axis == 1 || axis == largest was false. Attempting to broadcast an axis by a dimension other than 1. 3 by 4\n",
			`Add "sum": Attempting to broadcast an axis by a dimension other than 1. 3 by 4`,
		},
		{
			"Non-zero status code returned while running MatMul node. Name:'' Status Message: matmul_helper.h:59 Compute MatMul dimension mismatch",
			"MatMul: MatMul dimension mismatch",
		},
		{
			"Got invalid dimensions for input: X for the following indices\n index: 0 Got: 5 Expected: 4\n Please fix either the inputs/outputs or the model.",
			"Got invalid dimensions for input: X for the following indices index: 0 Got: 5 Expected: 4",
		},
		{
			"Exception during initialization: /onnxruntime_src/onnxruntime/core/optimizer/initializer.cc:51 onnxruntime::Initializer::Initializer(const onnx::TensorProto&, const std::filesystem::__cxx11::path&) [ONNXRuntimeError] : 1 : FAIL : tensorprotoutils.cc:1469 ValidateEmbeddedTensorProtoDataSizeAndShape Initializer 'W': raw_data size (3 bytes) does not match expected size from shape and data type (16 bytes)\n",
			"Initializer 'W': raw_data size (3 bytes) does not match expected size from shape and data type (16 bytes)",
		},
		{
			`Error creating C session: This is an invalid model. In Node, ("n1", Frobnicate, "", -1) : ("X": tensor(float),"X": tensor(float),) -> ("Y": tensor(float),) , Error No Op registered for Frobnicate with domain_version of 18`,
			`Frobnicate "n1": No Op registered for Frobnicate with domain_version of 18`,
		},
		{
			"/a/b/c.cc:7 virtual int onnxruntime::(anonymous namespace)::F<void(int)>::G(std::function<void(int)>&) const [with T = int] said so",
			"said so",
		},
		{"/a/b.cc:7 a signature that never ends(", "a signature that never ends("},
	}
	for _, tt := range tests {
		if got := sentence(tt.text); got != tt.want {
			t.Errorf("%q:\ngot  %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

func TestRunErrorKinds(t *testing.T) {
	tests := []struct {
		text string
		want fault.Kind
	}{
		{"Error running network: Non-zero status code returned while running Add node. Name:'' Status Message: no", fault.Invalid},
		{"Error running network: Invalid rank for input: X Got: 2 Expected: 1", fault.Invalid},
		{"Error running network: the library is confused", fault.Internal},
	}
	for _, tt := range tests {
		if got := fault.KindOf(runError(errors.New(tt.text))); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.want)
		}
	}
}

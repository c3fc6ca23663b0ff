// Package tfserving speaks the REST protocol of TensorFlow Serving, which
// KServe calls V1: predict requests in row form ("instances") and in column form
// ("inputs"), their answers, and what a model tells of itself.
//
// It owns the wire form alone and knows of a model its signature, which gives
// the types; shapes come from how the arrays nest. Bytes come from strangers:
// JSON is read strictly by RFC 8259, memory is taken as elements come, and
// whatever is wrong ends in one fault of kind Invalid that names the place, as
// instances[3].amount[2]. Values are plain data: a Request serves one goroutine
// at a time.
package tfserving

import (
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// DefaultSignature is the name of the one signature that a model has here.
const DefaultSignature = "serving_default"

// invalid is the only kind of failure here: bytes that break the protocol.
func invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...)
}

// ModelList answers GET /v1/models, which is KServe's.
type ModelList struct {
	Models []string `json:"models"`
}

// Alive answers GET /, by which clients of KServe V1 see that a server lives.
type Alive struct {
	Status string `json:"status"` // alive
}

// ModelStatus answers GET /v1/models/{model}: to clients of TensorFlow Serving
// by the state of the version, to those of KServe by name and ready.
type ModelStatus struct {
	Name     string          `json:"name"`
	Ready    bool            `json:"ready"`
	Versions []VersionStatus `json:"model_version_status"`
}

// VersionStatus is the state of one version.
type VersionStatus struct {
	Version string `json:"version"`
	State   State  `json:"state"`
	Status  Status `json:"status"`
}

// State is what a version is doing.
type State string

// The states that are told: a version answers, or it does not any more.
const (
	StateAvailable State = "AVAILABLE"
	StateEnd       State = "END"
)

// Status says why a version is in its state.
type Status struct {
	Code    string `json:"error_code"` // OK, UNAVAILABLE
	Message string `json:"error_message"`
}

// Metadata answers GET /v1/models/{model}/metadata.
type Metadata struct {
	Spec     ModelSpec `json:"model_spec"`
	Metadata struct {
		Signatures struct {
			Signatures map[string]Signature `json:"signature_def"`
		} `json:"signature_def"`
	} `json:"metadata"`
}

// ModelSpec names a version of a model.
type ModelSpec struct {
	Name      string `json:"name"`
	Signature string `json:"signature_name"` // always empty
	Version   string `json:"version"`
}

// Signature describes what a model takes and gives.
type Signature struct {
	Inputs  map[string]TensorInfo `json:"inputs"`
	Outputs map[string]TensorInfo `json:"outputs"`
	Method  string                `json:"method_name"`
}

// TensorInfo describes an input or output.
type TensorInfo struct {
	Name  string      `json:"name"`
	Type  string      `json:"dtype"`
	Shape TensorShape `json:"tensor_shape"`
}

// TensorShape is a shape in the form of TensorFlow's JSON, where 64 bits are text.
type TensorShape struct {
	Dims        []Dim `json:"dim"`
	UnknownRank bool  `json:"unknown_rank"`
}

// Dim is one dimension; -1 is any size.
type Dim struct {
	Size int64  `json:"size,string"`
	Name string `json:"name"`
}

// Describe gives the metadata of a version with these inputs and outputs.
func Describe(name, version string, inputs, outputs []tensor.Spec) Metadata {
	m := Metadata{Spec: ModelSpec{Name: name, Version: version}}
	m.Metadata.Signatures.Signatures = map[string]Signature{
		DefaultSignature: {Inputs: infos(inputs), Outputs: infos(outputs), Method: "tensorflow/serving/predict"},
	}
	return m
}

func infos(specs []tensor.Spec) map[string]TensorInfo {
	all := make(map[string]TensorInfo, len(specs))
	for _, s := range specs {
		dims := make([]Dim, len(s.Shape))
		for i, d := range s.Shape {
			dims[i].Size = d
		}
		all[s.Name] = TensorInfo{Name: s.Name, Type: types[s.Type], Shape: TensorShape{Dims: dims}}
	}
	return all
}

// types are TensorFlow's names of the element types.
var types = [...]string{
	tensor.Bool:  "DT_BOOL",
	tensor.Uint8: "DT_UINT8", tensor.Uint16: "DT_UINT16", tensor.Uint32: "DT_UINT32", tensor.Uint64: "DT_UINT64",
	tensor.Int8: "DT_INT8", tensor.Int16: "DT_INT16", tensor.Int32: "DT_INT32", tensor.Int64: "DT_INT64",
	tensor.FP16: "DT_HALF", tensor.BF16: "DT_BFLOAT16", tensor.FP32: "DT_FLOAT", tensor.FP64: "DT_DOUBLE",
	tensor.Bytes: "DT_STRING",
}

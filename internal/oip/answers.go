package oip

import "github.com/pilotlight-ml/pilotlight/internal/tensor"

// The answers of the calls around inference, in the form of their JSON. None of
// them is on a hot path: encoding/json writes them.

// Live answers GET /v2/health/live.
type Live struct {
	Live bool `json:"live"`
}

// Ready answers GET /v2/health/ready.
type Ready struct {
	Ready bool `json:"ready"`
}

// ServerMetadata answers GET /v2.
type ServerMetadata struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Extensions []string `json:"extensions"`
}

// ModelMetadata answers GET /v2/models/{model}.
type ModelMetadata struct {
	Name     string           `json:"name"`
	Versions []string         `json:"versions,omitempty"`
	Platform string           `json:"platform"`
	Inputs   []TensorMetadata `json:"inputs"`
	Outputs  []TensorMetadata `json:"outputs"`
}

// TensorMetadata describes an input or output; -1 in a shape is any size.
type TensorMetadata struct {
	Name  string      `json:"name"`
	Type  tensor.Type `json:"datatype"`
	Shape []int64     `json:"shape"`
}

// Describe gives the metadata of specs.
func Describe(specs []tensor.Spec) []TensorMetadata {
	list := make([]TensorMetadata, len(specs))
	for i, s := range specs {
		list[i] = TensorMetadata{Name: s.Name, Type: s.Type, Shape: append([]int64{}, s.Shape...)}
	}
	return list
}

// ModelReady answers GET /v2/models/{model}/ready.
type ModelReady struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
}

// ModelList answers GET /v2/models.
type ModelList struct {
	Models []string `json:"models"`
}

// IndexRequest is the body of POST /v2/repository/index.
type IndexRequest struct {
	Ready bool `json:"ready"` // only models that are ready
}

// IndexEntry is one model in the answer of POST /v2/repository/index, which is
// an array of them.
type IndexEntry struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	State   State  `json:"state"`
	Reason  string `json:"reason"`
}

// State is what a model of the repository is doing.
type State string

// The states.
const (
	StateReady       State = "READY"
	StateUnavailable State = "UNAVAILABLE"
	StateLoading     State = "LOADING"
	StateUnloading   State = "UNLOADING"
	StateUnknown     State = "UNKNOWN"
)

// Statistics answers GET /v2/models/stats and its forms for one model.
type Statistics struct {
	Models []ModelStatistics `json:"model_stats"`
}

// ModelStatistics are the counts of one version of a model since it was loaded.
type ModelStatistics struct {
	Name           string              `json:"name"`
	Version        string              `json:"version"`
	LastInference  int64               `json:"last_inference"`  // milliseconds since 1970
	InferenceCount uint64              `json:"inference_count"` // elements of batches, without those from the cache
	ExecutionCount uint64              `json:"execution_count"` // runs of the model
	Inference      InferenceStatistics `json:"inference_stats"`
	Response       map[string]struct{} `json:"response_stats"`
	Batches        []BatchStatistics   `json:"batch_stats"`
	Memory         []MemoryUsage       `json:"memory_usage"`
}

// NewModelStatistics makes statistics of a model that nobody has asked yet, with
// the empty lists and objects that clients look for.
func NewModelStatistics(name, version string) ModelStatistics {
	return ModelStatistics{
		Name: name, Version: version,
		Response: map[string]struct{}{}, Batches: []BatchStatistics{}, Memory: []MemoryUsage{},
	}
}

// InferenceStatistics tell where the time of requests went. Success counts
// answers from the cache too.
type InferenceStatistics struct {
	Success       Duration `json:"success"`
	Fail          Duration `json:"fail"`
	Queue         Duration `json:"queue"`
	ComputeInput  Duration `json:"compute_input"`
	ComputeInfer  Duration `json:"compute_infer"`
	ComputeOutput Duration `json:"compute_output"`
	CacheHit      Duration `json:"cache_hit"`
	CacheMiss     Duration `json:"cache_miss"`
}

// Duration is how often something was done and how long that took in all.
type Duration struct {
	Count       uint64 `json:"count"`
	Nanoseconds uint64 `json:"ns"`
}

// BatchStatistics are the runs with one size of batch.
type BatchStatistics struct {
	Size          uint64   `json:"batch_size"`
	ComputeInput  Duration `json:"compute_input"`
	ComputeInfer  Duration `json:"compute_infer"`
	ComputeOutput Duration `json:"compute_output"`
}

// MemoryUsage is the memory that a model takes of one kind.
type MemoryUsage struct {
	Type string `json:"type"`
	ID   int64  `json:"id"`
	Size uint64 `json:"byte_size"`
}

// ModelConfig answers GET /v2/models/{model}/config.
type ModelConfig struct {
	Name         string         `json:"name"`
	Platform     string         `json:"platform"`
	Backend      string         `json:"backend"`
	MaxBatchSize int64          `json:"max_batch_size"`
	Inputs       []ConfigTensor `json:"input"`
	Outputs      []ConfigTensor `json:"output"`
}

// ConfigTensor is an input or output in a model's configuration.
type ConfigTensor struct {
	Name string  `json:"name"`
	Type string  `json:"data_type"` // such as TYPE_FP32; BYTES is TYPE_STRING
	Dims []int64 `json:"dims"`      // without the batch, when there is a maximum to it
}

// Configure makes the inputs and outputs of a configuration from a model's
// specs. When maxBatch is positive, the first dimension is the batch, which
// dims leave out.
func (c *ModelConfig) Configure(maxBatch int64, inputs, outputs []tensor.Spec) {
	c.MaxBatchSize = maxBatch
	c.Inputs = configTensors(maxBatch > 0, inputs)
	c.Outputs = configTensors(maxBatch > 0, outputs)
}

func configTensors(batched bool, specs []tensor.Spec) []ConfigTensor {
	list := make([]ConfigTensor, len(specs))
	for i, s := range specs {
		dims := s.Shape
		if batched && len(dims) > 0 {
			dims = dims[1:]
		}
		name := s.Type.String()
		if s.Type == tensor.Bytes {
			name = "STRING"
		}
		list[i] = ConfigTensor{Name: s.Name, Type: "TYPE_" + name, Dims: append([]int64{}, dims...)}
	}
	return list
}

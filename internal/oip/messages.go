package oip

import (
	_ "embed" // for Descriptor
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Service is the name of the protocol's service in gRPC.
const Service = "inference.GRPCInferenceService"

// Descriptor is inference.proto, compiled.
//
//go:embed inference.binpb
var Descriptor []byte

// ModelAsk is what the messages that ask about a model say: those of ModelReady,
// ModelMetadata, ModelConfig, ModelStatistics, RepositoryModelLoad and RepositoryModelUnload.
type ModelAsk struct {
	Name, Version string
	Parameters    Parameters // of a load or an unload
}

// DecodeProto reads one of the messages that begin with the name of a model.
func (a *ModelAsk) DecodeProto(message []byte) error { return a.decode(message, 1, 2, 0) }

// DecodeRepository reads a RepositoryModelLoadRequest or RepositoryModelUnloadRequest.
func (a *ModelAsk) DecodeRepository(message []byte) error { return a.decode(message, 2, 0, 3) }

func (a *ModelAsk) decode(b []byte, name, version, parameters protowire.Number) error {
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = nextField(b); err != nil {
			return err
		}
		switch {
		case f.is(name, protowire.BytesType):
			a.Name = string(f.bytes)
		case f.is(version, protowire.BytesType):
			a.Version = string(f.bytes)
		case f.is(parameters, protowire.BytesType):
			key, value, err := readEntry(f.bytes)
			if err != nil {
				return err
			}
			if a.Parameters == nil {
				a.Parameters = Parameters{}
			}
			a.Parameters[key] = value
		}
	}
	if !utf8.ValidString(a.Name) || !utf8.ValidString(a.Version) {
		return invalid("the name of a model or of its version is not valid UTF-8")
	}
	return nil
}

// DecodeProto reads a RepositoryIndexRequest.
func (r *IndexRequest) DecodeProto(b []byte) error {
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = nextField(b); err != nil {
			return err
		}
		if f.is(2, protowire.VarintType) {
			r.Ready = f.word != 0
		}
	}
	return nil
}

// The AppendProto of each answer adds it to dst as the message of its name in
// inference.proto.

// AppendProto adds a ServerLiveResponse.
func (l Live) AppendProto(dst []byte) []byte { return appendFlag(dst, 1, l.Live) }

// AppendProto adds a ServerReadyResponse.
func (r Ready) AppendProto(dst []byte) []byte { return appendFlag(dst, 1, r.Ready) }

// AppendProto adds a ModelReadyResponse.
func (r ModelReady) AppendProto(dst []byte) []byte { return appendFlag(dst, 1, r.Ready) }

// AppendProto adds a ServerMetadataResponse.
func (m ServerMetadata) AppendProto(dst []byte) []byte {
	dst = appendText(appendText(dst, 1, m.Name), 2, m.Version)
	return appendTexts(dst, 3, m.Extensions)
}

// AppendProto adds a ModelMetadataResponse.
func (m ModelMetadata) AppendProto(dst []byte) []byte {
	dst = appendTexts(appendText(dst, 1, m.Name), 2, m.Versions)
	dst = appendText(dst, 3, m.Platform)
	for i, list := range [][]TensorMetadata{m.Inputs, m.Outputs} {
		for _, t := range list {
			dst = appendMessage(dst, protowire.Number(4+i), appendDims(appendText(appendText(nil, 1, t.Name), 2, t.Type.String()), 3, t.Shape))
		}
	}
	return dst
}

// configTypes are the values of the enum DataType.
var configTypes = map[string]uint64{
	"TYPE_BOOL": 1, "TYPE_UINT8": 2, "TYPE_UINT16": 3, "TYPE_UINT32": 4, "TYPE_UINT64": 5,
	"TYPE_INT8": 6, "TYPE_INT16": 7, "TYPE_INT32": 8, "TYPE_INT64": 9,
	"TYPE_FP16": 10, "TYPE_FP32": 11, "TYPE_FP64": 12, "TYPE_STRING": 13, "TYPE_BF16": 14,
}

// AppendProto adds a ModelConfigResponse.
func (c ModelConfig) AppendProto(dst []byte) []byte {
	b := appendText(appendText(nil, 1, c.Name), 2, c.Platform)
	b = appendWord(b, 4, uint64(c.MaxBatchSize))
	for i, list := range [][]ConfigTensor{c.Inputs, c.Outputs} {
		for _, t := range list {
			b = appendMessage(b, protowire.Number(5+i), appendDims(appendWord(appendText(nil, 1, t.Name), 2, configTypes[t.Type]), protowire.Number(4-i), t.Dims))
		}
	}
	return appendMessage(dst, 1, appendText(b, 17, c.Backend))
}

// AppendProto adds a ModelStatisticsResponse.
func (s Statistics) AppendProto(dst []byte) []byte {
	for i := range s.Models {
		m := &s.Models[i]
		b := appendText(appendText(nil, 1, m.Name), 2, m.Version)
		b = appendWord(b, 3, uint64(m.LastInference))
		b = appendWord(appendWord(b, 4, m.InferenceCount), 5, m.ExecutionCount)
		n := &m.Inference
		b = appendMessage(b, 6, appendDurations(nil, 1, n.Success, n.Fail, n.Queue, n.ComputeInput, n.ComputeInfer, n.ComputeOutput, n.CacheHit, n.CacheMiss))
		for _, size := range m.Batches {
			b = appendMessage(b, 7, appendDurations(appendWord(nil, 1, size.Size), 2, size.ComputeInput, size.ComputeInfer, size.ComputeOutput))
		}
		dst = appendMessage(dst, 1, b)
	}
	return dst
}

// appendDurations writes StatisticDurations into fields from first on.
func appendDurations(dst []byte, first protowire.Number, all ...Duration) []byte {
	for i, d := range all {
		dst = appendMessage(dst, first+protowire.Number(i), appendWord(appendWord(nil, 1, d.Count), 2, d.Nanoseconds))
	}
	return dst
}

// Index is what a repository holds.
type Index []IndexEntry

// AppendProto adds a RepositoryIndexResponse.
func (x Index) AppendProto(dst []byte) []byte {
	for _, e := range x {
		b := appendText(appendText(nil, 1, e.Name), 2, e.Version)
		dst = appendMessage(dst, 1, appendText(appendText(b, 3, string(e.State)), 4, e.Reason))
	}
	return dst
}

// Done answers what has nothing to tell: RepositoryModelLoad and RepositoryModelUnload.
type Done struct{}

// AppendProto adds an empty message.
func (Done) AppendProto(dst []byte) []byte { return dst }

// AppendStream adds the ModelStreamInferResponse that holds a ModelInferResponse.
func AppendStream(dst, response []byte) []byte { return appendMessage(dst, 2, response) }

// AppendParameter adds a parameter that is a text to a ModelInferResponse, which dst ends with.
func AppendParameter(dst []byte, name, value string) []byte {
	return appendMessage(dst, protoParameters, appendMessage(appendText(nil, 1, name), 2, appendText(nil, 3, value)))
}

// AppendStreamError adds the ModelStreamInferResponse of a request that failed.
// r tells which one it was.
func AppendStreamError(dst []byte, r *Request, message string) []byte {
	dst = appendText(dst, 1, message)
	return appendMessage(dst, 2, appendText(appendText(appendText(nil, protoModelName, r.Model), protoModelVersion, r.Version), protoID, r.ID))
}

func appendFlag(dst []byte, number protowire.Number, v bool) []byte {
	return appendWord(dst, number, protowire.EncodeBool(v))
}

func appendMessage(dst []byte, number protowire.Number, message []byte) []byte {
	return append(appendSized(dst, number, len(message)), message...)
}

func appendTexts(dst []byte, number protowire.Number, texts []string) []byte {
	for _, text := range texts {
		dst = append(appendSized(dst, number, len(text)), text...)
	}
	return dst
}

func appendDims(dst []byte, number protowire.Number, dims []int64) []byte {
	if len(dims) == 0 {
		return dst
	}
	var packed []byte
	for _, d := range dims {
		packed = protowire.AppendVarint(packed, uint64(d))
	}
	return appendMessage(dst, number, packed)
}

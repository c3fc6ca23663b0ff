package onnx

import (
	"errors"
	"slices"
	"strings"

	ort "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// graph is what a file says of its inputs and outputs. Reading it here spares
// the second session that the library needs to tell it, and it says what the
// binding leaves out: whether a shape is known at all, and what is in a
// sequence. Only this much of the format is read; the rest is the library's.
type graph struct {
	inputs, outputs []value
	weights         int64 // bytes of the file that are constants
	nodes           int64 // operations, without those of loops and branches
}

// value is an input or output.
type value struct {
	tensor.Spec
	ranked bool // the number of dimensions is known
	maps   bool // a sequence of maps from classes to FP32
}

// read finds the graph of an artifact. The numbers here and below are those of
// the fields in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
func read(artifact []byte) (graph, error) {
	var inputs, outputs [][]byte
	constants := map[string]bool{}
	var weights, nodes int64
	found := false
	err := each(artifact, func(field protowire.Number, _ uint64, b []byte) error {
		if field != 7 {
			return nil
		}
		found = true
		return each(b, func(field protowire.Number, _ uint64, b []byte) error {
			switch field {
			case 1:
				nodes++
			case 5:
				weights += int64(len(b))
				return each(b, func(field protowire.Number, _ uint64, b []byte) error {
					if field == 8 {
						constants[string(b)] = true
					}
					return nil
				})
			case 11:
				inputs = append(inputs, b)
			case 12:
				outputs = append(outputs, b)
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return graph{}, fault.Wrap(fault.Invalid, err, "the file is not an ONNX model, or its end is missing")
	case !found:
		return graph{}, fault.New(fault.Invalid, "the file is not an ONNX model")
	}
	g := graph{weights: weights, nodes: nodes}
	for _, b := range inputs {
		v, err := readValue("input", b)
		if constants[v.Name] {
			continue // old files list constants among the inputs
		}
		if err != nil {
			return graph{}, err
		}
		g.inputs = append(g.inputs, v)
	}
	for _, b := range outputs {
		v, err := readValue("output", b)
		if err != nil {
			return graph{}, err
		}
		g.outputs = append(g.outputs, v)
	}
	if len(g.inputs) == 0 || len(g.outputs) == 0 {
		return graph{}, fault.New(fault.Invalid, "the model has %d inputs and %d outputs, at least one of each is needed", len(g.inputs), len(g.outputs))
	}
	return g, nil
}

// The fields of TypeProto, one of which is set, and what its value is called.
const (
	tensorType   = 1
	sequenceType = 4
	mapType      = 5
)

var typeNames = map[protowire.Number]string{
	tensorType: "a tensor", sequenceType: "a sequence", mapType: "a map", 7: "opaque", 8: "a sparse tensor", 9: "optional",
}

// readValue reads a ValueInfoProto. Its name is told even with an error.
func readValue(direction string, b []byte) (v value, err error) {
	var kind protowire.Number
	var content []byte
	err = each(b, func(field protowire.Number, _ uint64, b []byte) error {
		switch field {
		case 1:
			v.Name = string(b)
		case 2:
			return each(b, func(field protowire.Number, _ uint64, b []byte) error {
				if typeNames[field] != "" {
					kind, content = field, b
				}
				return nil
			})
		}
		return nil
	})
	name := tensor.Clip(v.Name)
	switch {
	case err != nil:
		return v, fault.Wrap(fault.Invalid, err, "%s %q cannot be read", direction, name)
	case kind == sequenceType && direction == "output" && isMaps(content):
		v.maps, v.Type, v.Shape = true, tensor.FP32, []int64{-1, -1}
		return v, nil
	case kind == 0:
		return v, fault.New(fault.Invalid, "%s %q does not tell its type", direction, name)
	case kind != tensorType:
		return v, fault.New(fault.Invalid, "%s %q is %s; only tensors can be served, and as outputs the sequences of maps with class probabilities", direction, name, typeNames[kind])
	}
	elem, err := v.readTensor(content)
	if err != nil {
		return v, fault.Wrap(fault.Invalid, err, "%s %q cannot be read", direction, name)
	}
	known := false
	if v.Type, known = typeOf(elem); !known {
		return v, fault.New(fault.Invalid, "%s %q has elements of type %s, which the inference protocols do not know", direction, name, strings.TrimPrefix(elem.String(), "ONNX_TENSOR_ELEMENT_DATA_TYPE_"))
	}
	switch {
	case !v.ranked && direction == "input":
		return v, fault.New(fault.Invalid, "input %q does not tell how many dimensions it has; export the model with the shapes of its inputs", name)
	case v.ranked && len(v.Shape) == 0 && (half(v.Type) || v.Type == tensor.Bytes && direction == "input"):
		return v, unsupportedScalar(direction, name, v.Type)
	}
	return v, nil
}

// readTensor reads a TypeProto.Tensor: the element type, and the shape if it is told.
func (v *value) readTensor(b []byte) (elem ort.TensorElementDataType, err error) {
	v.Shape = []int64{}
	return elem, each(b, func(field protowire.Number, n uint64, b []byte) error {
		switch field {
		case 1:
			elem = ort.TensorElementDataType(n)
		case 2:
			v.ranked = true
			return each(b, func(field protowire.Number, _ uint64, b []byte) error {
				if field != 1 {
					return nil
				}
				size := int64(-1) // named, or not told
				err := each(b, func(field protowire.Number, n uint64, _ []byte) error {
					if field == 1 && int64(n) >= 0 {
						size = int64(n)
					}
					return nil
				})
				v.Shape = append(v.Shape, size)
				return err
			})
		}
		return nil
	})
}

// isMaps reports whether a TypeProto.Sequence is one of maps from INT64 or
// strings to FP32.
func isMaps(b []byte) bool {
	var key, elem ort.TensorElementDataType
	within(b, []protowire.Number{1, mapType, 1}, func(n uint64) { key = ort.TensorElementDataType(n) })
	within(b, []protowire.Number{1, mapType, 2, tensorType, 1}, func(n uint64) { elem = ort.TensorElementDataType(n) })
	return (key == ort.TensorElementDataTypeInt64 || key == ort.TensorElementDataTypeString) && elem == ort.TensorElementDataTypeFloat
}

// within finds the number that lies in message b under a path of fields.
func within(b []byte, path []protowire.Number, found func(uint64)) {
	_ = each(b, func(field protowire.Number, n uint64, b []byte) error { // broken ones just have none
		switch {
		case field != path[0]:
		case len(path) == 1:
			found(n)
		default:
			within(b, path[1:], found)
		}
		return nil
	})
}

// adopt takes over what a recorded signature knows better: shapes and labels. It
// must be one of this model.
func (g *graph) adopt(s engine.Signature) error {
	return errors.Join(adopt("inputs", g.inputs, s.Inputs), adopt("outputs", g.outputs, s.Outputs))
}

func adopt(direction string, values []value, specs []tensor.Spec) error {
	same := slices.EqualFunc(values, specs, func(v value, s tensor.Spec) bool { return v.Name == s.Name && v.Type == s.Type })
	if !same {
		return fault.New(fault.Invalid, "the recorded signature has other %s than the model", direction)
	}
	for i, s := range specs {
		if values[i].ranked && len(s.Shape) == len(values[i].Shape) {
			values[i].Shape = s.Shape
		}
		values[i].Labels = s.Labels
	}
	return nil
}

// each visits the fields of a protobuf message: a number or, of fields that have
// a length, their bytes.
func each(message []byte, visit func(field protowire.Number, number uint64, content []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var number uint64
		var content []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(field, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(field, number, content); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

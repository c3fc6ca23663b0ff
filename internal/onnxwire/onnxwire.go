// Package onnxwire writes ONNX files, without a protobuf compiler.
//
// It writes what a Model says and checks nothing: that is up to the runtime that opens the file, and
// tests also write models that a runtime must refuse.
package onnxwire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Model is an ONNX file to be written.
type Model struct {
	Graph
	Opset int64 // 0: 18
}

// Graph is a model's graph, or one that stands in an attribute (the body of a Loop).
type Graph struct {
	Inputs, Outputs []Value
	Nodes           []Node
	Constants       []tensor.Tensor
	// Weights are constants of type FP32 that are made up while they are written,
	// so that a large file needs no large memory: small numbers of both signs,
	// the same in every file.
	Weights []tensor.Spec
	// External are constants of type FP32 whose bytes lie in other files.
	External []External
}

// Value is an input or an output.
type Value struct {
	Name string
	kind []byte // TypeProto
}

// Node is one operation.
type Node struct {
	Op, Domain string
	In, Out    []string
	Attributes []Attribute
}

// Attribute is a setting of a node. Its value is an int64, float32, string,
// []int64, []float32, []string, Graph or tensor.Tensor.
type Attribute struct {
	Name  string
	Value any
}

// External says where the bytes of a constant lie.
type External struct {
	Name     string
	Shape    []int64
	Location string // a path, from the model's folder
}

// Elem is the number that stands for an element type in ONNX files.
type Elem int

// Elements that ONNX knows and the protocols do not.
const (
	Complex64  Elem = 14
	Float8E4M3 Elem = 17
)

var elems = [...]Elem{
	tensor.FP32: 1, tensor.Uint8: 2, tensor.Int8: 3, tensor.Uint16: 4, tensor.Int16: 5, tensor.Int32: 6, tensor.Int64: 7,
	tensor.Bytes: 8, tensor.Bool: 9, tensor.FP16: 10, tensor.FP64: 11, tensor.Uint32: 12, tensor.Uint64: 13, tensor.BF16: 16,
}

// ElemOf gives the number of a type.
func ElemOf(t tensor.Type) Elem { return elems[t] }

// Tensor is a tensor of the given name, type and shape; -1 stands for any size.
func Tensor(name string, t tensor.Type, shape ...int64) Value {
	return TensorOf(name, ElemOf(t), shape...)
}

// TensorOf is Tensor for element types that the protocols do not know.
func TensorOf(name string, e Elem, shape ...int64) Value {
	return Value{name, message(nil, 1, tensorType(name, e, shape, true))}
}

// Unranked is a tensor of which not even the number of dimensions is told.
func Unranked(name string, t tensor.Type) Value {
	return Value{name, message(nil, 1, tensorType(name, ElemOf(t), nil, false))}
}

// Sequence is a sequence of tensors.
func Sequence(name string, t tensor.Type, shape ...int64) Value {
	return Value{name, message(nil, 4, message(nil, 1, Tensor(name, t, shape...).kind))}
}

// Optional is a tensor that may be missing.
func Optional(name string, t tensor.Type, shape ...int64) Value {
	return Value{name, message(nil, 9, message(nil, 1, Tensor(name, t, shape...).kind))}
}

// Maps is a sequence of maps from keys of the given type to FP32, which is how
// many classifiers give their probabilities.
func Maps(name string, keys tensor.Type) Value {
	m := varint(nil, 1, uint64(ElemOf(keys)))
	m = message(m, 2, Tensor("", tensor.FP32).kind)
	return Value{name, message(nil, 4, message(nil, 1, message(nil, 5, m)))}
}

// Bytes gives the file's content.
func (m Model) Bytes() []byte {
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		panic(err) // a bytes.Buffer has no errors of its own
	}
	return b.Bytes()
}

// WriteTo writes the file's content.
func (m Model) WriteTo(w io.Writer) (int64, error) {
	opset := m.Opset
	if opset == 0 {
		opset = 18
	}
	head := varint(nil, 1, 8) // IR version
	head = text(head, 2, "pilotlight")
	head = message(head, 8, varint(text(nil, 1, ""), 2, uint64(opset)))
	head = message(head, 8, varint(text(nil, 1, "ai.onnx.ml"), 2, 3))

	graph := m.encode()
	var weights [][]byte // all of each weight but its numbers
	size := uint64(len(graph))
	for _, s := range m.Weights {
		raw, _ := tensor.Elements(s.Shape)
		raw *= 4
		t := tensorHead(s.Name, ElemOf(tensor.FP32), s.Shape)
		t = protowire.AppendTag(t, 9, protowire.BytesType)
		t = protowire.AppendVarint(t, uint64(raw))
		field := protowire.AppendTag(nil, 5, protowire.BytesType)
		field = protowire.AppendVarint(field, uint64(len(t))+uint64(raw))
		field = append(field, t...)
		weights = append(weights, field)
		size += uint64(len(field)) + uint64(raw)
	}
	head = protowire.AppendTag(head, 7, protowire.BytesType)
	head = protowire.AppendVarint(head, size)

	parts := []io.Reader{bytes.NewReader(head), bytes.NewReader(graph)}
	for i, field := range weights {
		n, _ := tensor.Elements(m.Weights[i].Shape)
		parts = append(parts, bytes.NewReader(field), io.LimitReader(&noise{rand: rand.NewPCG(1, uint64(i))}, n*4))
	}
	return io.Copy(w, io.MultiReader(parts...))
}

func (g Graph) encode() []byte {
	var b []byte
	for _, n := range g.Nodes {
		b = message(b, 1, n.encode())
	}
	b = text(b, 2, "graph")
	for _, c := range g.Constants {
		b = message(b, 5, constant(c))
	}
	for _, e := range g.External {
		t := tensorHead(e.Name, ElemOf(tensor.FP32), e.Shape)
		t = message(t, 13, text(text(nil, 1, "location"), 2, e.Location))
		b = message(b, 5, varint(t, 14, 1))
	}
	for _, v := range g.Inputs {
		b = message(b, 11, message(text(nil, 1, v.Name), 2, v.kind))
	}
	for _, v := range g.Outputs {
		b = message(b, 12, message(text(nil, 1, v.Name), 2, v.kind))
	}
	return b
}

func (n Node) encode() []byte {
	var b []byte
	for _, s := range n.In {
		b = text(b, 1, s)
	}
	for _, s := range n.Out {
		b = text(b, 2, s)
	}
	b = text(b, 4, n.Op)
	for _, a := range n.Attributes {
		b = message(b, 5, a.encode())
	}
	return text(b, 7, n.Domain)
}

func (a Attribute) encode() []byte {
	b := text(nil, 1, a.Name)
	kind := func(k uint64) []byte { return varint(b, 20, k) }
	switch v := a.Value.(type) {
	case float32:
		b = protowire.AppendTag(kind(1), 2, protowire.Fixed32Type)
		b = protowire.AppendFixed32(b, math.Float32bits(v))
	case int64:
		b = varint(kind(2), 3, uint64(v))
	case string:
		b = text(kind(3), 4, v)
	case tensor.Tensor:
		b = message(kind(4), 5, constant(v))
	case Graph:
		b = message(kind(5), 6, v.encode())
	case []float32:
		b = kind(6)
		for _, f := range v {
			b = protowire.AppendFixed32(protowire.AppendTag(b, 7, protowire.Fixed32Type), math.Float32bits(f))
		}
	case []int64:
		b = kind(7)
		for _, i := range v {
			b = varint(b, 8, uint64(i))
		}
	case []string:
		b = kind(8)
		for _, s := range v {
			b = text(b, 9, s)
		}
	default:
		panic(fmt.Sprintf("onnxwire: attribute %s has a value of type %T", a.Name, a.Value))
	}
	return b
}

func constant(t tensor.Tensor) []byte {
	b := tensorHead(t.Name, ElemOf(t.Type), t.Shape)
	if t.Type == tensor.Bytes {
		for _, s := range t.Strings {
			b = text(b, 6, s)
		}
		return b
	}
	return message(b, 9, t.Data)
}

func tensorHead(name string, e Elem, shape []int64) []byte {
	var b []byte
	for _, d := range shape {
		b = varint(b, 1, uint64(d))
	}
	return text(varint(b, 2, uint64(e)), 8, name)
}

func tensorType(name string, e Elem, shape []int64, ranked bool) []byte {
	b := varint(nil, 1, uint64(e))
	if !ranked {
		return b
	}
	var s []byte
	for i, d := range shape {
		if d < 0 {
			s = message(s, 1, text(nil, 2, fmt.Sprintf("%s_%d", name, i)))
		} else {
			s = message(s, 1, varint(nil, 1, uint64(d)))
		}
	}
	return message(b, 2, s)
}

func message(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

func text(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func varint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// noise reads as endless float32 between 2^-7 and 2^-6, of either sign.
type noise struct{ rand *rand.PCG }

func (n *noise) Read(p []byte) (int, error) {
	if len(p) < 4 {
		// io.Copy reads in powers of two and the sizes are whole numbers, so this
		// is only the answer to a caller that splits them.
		return 0, io.ErrShortBuffer
	}
	p = p[:len(p)/4*4]
	for i := 0; i < len(p); i += 4 {
		binary.LittleEndian.PutUint32(p[i:], uint32(n.rand.Uint64())&0x807fffff|0x3c000000)
	}
	return len(p), nil
}

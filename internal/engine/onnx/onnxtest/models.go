package onnxtest

import (
	"fmt"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Identity gives back its inputs INPUT0, INPUT1... as OUTPUT0, OUTPUT1... The
// names of the specs are not used.
func Identity(inputs ...tensor.Spec) Model {
	var g Graph
	for i, s := range inputs {
		in, out := fmt.Sprint("INPUT", i), fmt.Sprint("OUTPUT", i)
		g.Inputs = append(g.Inputs, Tensor(in, s.Type, s.Shape...))
		g.Outputs = append(g.Outputs, Tensor(out, s.Type, s.Shape...))
		g.Nodes = append(g.Nodes, Node{Op: "Identity", In: []string{in}, Out: []string{out}})
	}
	return Model{Graph: g}
}

// Simple is the model "simple" of the tritonclient examples: the sum and the
// difference of two INT32 [batch,16]. batch may be -1.
func Simple(batch int64) Model {
	v := func(name string) Value { return Tensor(name, tensor.Int32, batch, 16) }
	in := []string{"INPUT0", "INPUT1"}
	return Model{Graph: Graph{
		Inputs:  []Value{v("INPUT0"), v("INPUT1")},
		Outputs: []Value{v("OUTPUT0"), v("OUTPUT1")},
		Nodes: []Node{
			{Op: "Add", In: in, Out: []string{"OUTPUT0"}},
			{Op: "Sub", In: in, Out: []string{"OUTPUT1"}},
		},
	}}
}

// Apply is a model of one operation.
func Apply(op string, inputs, outputs []Value, attributes ...Attribute) Model {
	n := Node{Op: op, Attributes: attributes}
	for _, v := range inputs {
		n.In = append(n.In, v.Name)
	}
	for _, v := range outputs {
		n.Out = append(n.Out, v.Name)
	}
	return Model{Graph: Graph{Inputs: inputs, Outputs: outputs, Nodes: []Node{n}}}
}

// NonZero gives the places where X, FP32 [-1], is not zero: INT64 [1,-1], whose
// shape depends on the data.
func NonZero() Model {
	return Apply("NonZero", []Value{Tensor("X", tensor.FP32, -1)}, []Value{Tensor("Y", tensor.Int64, 1, -1)})
}

// Cast turns X of one type into Y of another, both of the given shape.
func Cast(from, to tensor.Type, shape ...int64) Model {
	return Apply("Cast", []Value{Tensor("X", from, shape...)}, []Value{Tensor("Y", to, shape...)},
		Attribute{"to", int64(ElemOf(to))})
}

// Classifier is what sklearn's converters write: it gives the scores X, FP32
// [-1,len(classes)], back as a sequence of maps from class to score, and as
// "label" the class of the highest. classes is a []int64 or a []string.
func Classifier[T int64 | string](classes []T) Model {
	keys, name := tensor.Int64, "classlabels_int64s"
	var all tensor.Tensor
	n := int64(len(classes))
	switch c := any(classes).(type) {
	case []int64:
		all = tensor.Of("classes", []int64{n}, c)
	case []string:
		keys, name = tensor.Bytes, "classlabels_strings"
		all = tensor.OfStrings("classes", []int64{n}, c)
	}
	return Model{Graph: Graph{
		Inputs:    []Value{Tensor("X", tensor.FP32, -1, n)},
		Outputs:   []Value{Tensor("label", keys, -1), Maps("probabilities", keys)},
		Constants: []tensor.Tensor{all},
		Nodes: []Node{
			{Op: "ArgMax", In: []string{"X"}, Out: []string{"best"}, Attributes: []Attribute{{"axis", int64(1)}, {"keepdims", int64(0)}}},
			{Op: "Gather", In: []string{"classes", "best"}, Out: []string{"label"}},
			{Op: "ZipMap", Domain: "ai.onnx.ml", In: []string{"X"}, Out: []string{"probabilities"}, Attributes: []Attribute{{name, classes}}},
		},
	}}
}

// Dense multiplies X, FP32 [-1,width], with layers weights of [width,width]: an
// artifact of 4*layers*width² bytes.
func Dense(layers int, width int64) Model {
	m := Model{Graph: Graph{
		Inputs:  []Value{Tensor("X", tensor.FP32, -1, width)},
		Outputs: []Value{Tensor("Y", tensor.FP32, -1, width)},
	}}
	last := "X"
	for i := range layers {
		w, next := fmt.Sprint("W", i), fmt.Sprint("X", i)
		if i == layers-1 {
			next = "Y"
		}
		m.Weights = append(m.Weights, tensor.Spec{Name: w, Shape: []int64{width, width}})
		m.Nodes = append(m.Nodes, Node{Op: "MatMul", In: []string{last, w}, Out: []string{next}})
		last = next
	}
	return m
}

// Slow multiplies X, FP32 [256,256], with a matrix as many times as the scalar
// INT64 TIMES says: some milliseconds for ten.
func Slow() Model {
	body := Graph{
		Inputs:  []Value{Tensor("i", tensor.Int64), Tensor("more", tensor.Bool), Tensor("x", tensor.FP32, 256, 256)},
		Outputs: []Value{Tensor("more_", tensor.Bool), Tensor("x_", tensor.FP32, 256, 256)},
		Nodes: []Node{
			{Op: "Identity", In: []string{"more"}, Out: []string{"more_"}},
			{Op: "MatMul", In: []string{"x", "W"}, Out: []string{"x_"}},
		},
	}
	return Model{Graph: Graph{
		Inputs:  []Value{Tensor("X", tensor.FP32, 256, 256), Tensor("TIMES", tensor.Int64)},
		Outputs: []Value{Tensor("Y", tensor.FP32, 256, 256)},
		Weights: []tensor.Spec{{Name: "W", Shape: []int64{256, 256}}},
		Nodes:   []Node{{Op: "Loop", In: []string{"TIMES", "", "X"}, Out: []string{"Y"}, Attributes: []Attribute{{"body", body}}}},
	}}
}

// Convolution is the first layer of a ResNet: X, FP32 [-1,3,224,224], to Y,
// FP32 [-1,64,112,112].
func Convolution() Model {
	m := Apply("Conv", []Value{Tensor("X", tensor.FP32, -1, 3, 224, 224)}, []Value{Tensor("Y", tensor.FP32, -1, 64, 112, 112)},
		Attribute{"strides", []int64{2, 2}}, Attribute{"pads", []int64{3, 3, 3, 3}})
	m.Nodes[0].In = append(m.Nodes[0].In, "W")
	m.Weights = []tensor.Spec{{Name: "W", Shape: []int64{64, 3, 7, 7}}}
	return m
}

// Elsewhere adds to X, FP32 [4], a constant that lies in the file at location.
func Elsewhere(location string) Model {
	m := Apply("Add", []Value{Tensor("X", tensor.FP32, 4)}, []Value{Tensor("Y", tensor.FP32, 4)})
	m.Nodes[0].In = append(m.Nodes[0].In, "W")
	m.External = []External{{Name: "W", Shape: []int64{4}, Location: location}}
	return m
}

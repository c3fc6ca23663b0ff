package onnxtest

import (
	"fmt"

	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Identity gives back its inputs INPUT0, INPUT1... as OUTPUT0, OUTPUT1... The
// names of the specs are not used.
func Identity(inputs ...tensor.Spec) onnxwire.Model {
	var g onnxwire.Graph
	for i, s := range inputs {
		in, out := fmt.Sprint("INPUT", i), fmt.Sprint("OUTPUT", i)
		g.Inputs = append(g.Inputs, onnxwire.Tensor(in, s.Type, s.Shape...))
		g.Outputs = append(g.Outputs, onnxwire.Tensor(out, s.Type, s.Shape...))
		g.Nodes = append(g.Nodes, onnxwire.Node{Op: "Identity", In: []string{in}, Out: []string{out}})
	}
	return onnxwire.Model{Graph: g}
}

// Simple is the model "simple" of the tritonclient examples: the sum and the
// difference of two INT32 [batch,16]. batch may be -1.
func Simple(batch int64) onnxwire.Model {
	v := func(name string) onnxwire.Value { return onnxwire.Tensor(name, tensor.Int32, batch, 16) }
	in := []string{"INPUT0", "INPUT1"}
	return onnxwire.Model{Graph: onnxwire.Graph{
		Inputs:  []onnxwire.Value{v("INPUT0"), v("INPUT1")},
		Outputs: []onnxwire.Value{v("OUTPUT0"), v("OUTPUT1")},
		Nodes: []onnxwire.Node{
			{Op: "Add", In: in, Out: []string{"OUTPUT0"}},
			{Op: "Sub", In: in, Out: []string{"OUTPUT1"}},
		},
	}}
}

// Apply is a model of one operation.
func Apply(op string, inputs, outputs []onnxwire.Value, attributes ...onnxwire.Attribute) onnxwire.Model {
	n := onnxwire.Node{Op: op, Attributes: attributes}
	for _, v := range inputs {
		n.In = append(n.In, v.Name)
	}
	for _, v := range outputs {
		n.Out = append(n.Out, v.Name)
	}
	return onnxwire.Model{Graph: onnxwire.Graph{Inputs: inputs, Outputs: outputs, Nodes: []onnxwire.Node{n}}}
}

// NonZero gives the places where X, FP32 [-1], is not zero: INT64 [1,-1], whose
// shape depends on the data.
func NonZero() onnxwire.Model {
	return Apply("NonZero", []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.Int64, 1, -1)})
}

// Cast turns X of one type into Y of another, both of the given shape.
func Cast(from, to tensor.Type, shape ...int64) onnxwire.Model {
	return Apply("Cast", []onnxwire.Value{onnxwire.Tensor("X", from, shape...)}, []onnxwire.Value{onnxwire.Tensor("Y", to, shape...)},
		onnxwire.Attribute{Name: "to", Value: int64(onnxwire.ElemOf(to))})
}

// Classifier is what sklearn's converters write: it gives the scores X, FP32
// [-1,len(classes)], back as a sequence of maps from class to score, and as
// "label" the class of the highest. classes is a []int64 or a []string.
func Classifier[T int64 | string](classes []T) onnxwire.Model {
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
	return onnxwire.Model{Graph: onnxwire.Graph{
		Inputs:    []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1, n)},
		Outputs:   []onnxwire.Value{onnxwire.Tensor("label", keys, -1), onnxwire.Maps("probabilities", keys)},
		Constants: []tensor.Tensor{all},
		Nodes: []onnxwire.Node{
			{Op: "ArgMax", In: []string{"X"}, Out: []string{"best"}, Attributes: []onnxwire.Attribute{{Name: "axis", Value: int64(1)}, {Name: "keepdims", Value: int64(0)}}},
			{Op: "Gather", In: []string{"classes", "best"}, Out: []string{"label"}},
			{Op: "ZipMap", Domain: "ai.onnx.ml", In: []string{"X"}, Out: []string{"probabilities"}, Attributes: []onnxwire.Attribute{{Name: name, Value: classes}}},
		},
	}}
}

// Dense multiplies X, FP32 [-1,width], with layers weights of [width,width]: an
// artifact of 4*layers*width² bytes.
func Dense(layers int, width int64) onnxwire.Model {
	m := onnxwire.Model{Graph: onnxwire.Graph{
		Inputs:  []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1, width)},
		Outputs: []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1, width)},
	}}
	last := "X"
	for i := range layers {
		w, next := fmt.Sprint("W", i), fmt.Sprint("X", i)
		if i == layers-1 {
			next = "Y"
		}
		m.Weights = append(m.Weights, tensor.Spec{Name: w, Shape: []int64{width, width}})
		m.Nodes = append(m.Nodes, onnxwire.Node{Op: "MatMul", In: []string{last, w}, Out: []string{next}})
		last = next
	}
	return m
}

// Slow multiplies X, FP32 [256,256], with a matrix as many times as the scalar
// INT64 TIMES says: some milliseconds for ten.
func Slow() onnxwire.Model {
	body := onnxwire.Graph{
		Inputs:  []onnxwire.Value{onnxwire.Tensor("i", tensor.Int64), onnxwire.Tensor("more", tensor.Bool), onnxwire.Tensor("x", tensor.FP32, 256, 256)},
		Outputs: []onnxwire.Value{onnxwire.Tensor("more_", tensor.Bool), onnxwire.Tensor("x_", tensor.FP32, 256, 256)},
		Nodes: []onnxwire.Node{
			{Op: "Identity", In: []string{"more"}, Out: []string{"more_"}},
			{Op: "MatMul", In: []string{"x", "W"}, Out: []string{"x_"}},
		},
	}
	return onnxwire.Model{Graph: onnxwire.Graph{
		Inputs:  []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, 256, 256), onnxwire.Tensor("TIMES", tensor.Int64)},
		Outputs: []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, 256, 256)},
		Weights: []tensor.Spec{{Name: "W", Shape: []int64{256, 256}}},
		Nodes:   []onnxwire.Node{{Op: "Loop", In: []string{"TIMES", "", "X"}, Out: []string{"Y"}, Attributes: []onnxwire.Attribute{{Name: "body", Value: body}}}},
	}}
}

// Convolution is the first layer of a ResNet: X, FP32 [-1,3,224,224], to Y,
// FP32 [-1,64,112,112].
func Convolution() onnxwire.Model {
	m := Apply("Conv", []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1, 3, 224, 224)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1, 64, 112, 112)},
		onnxwire.Attribute{Name: "strides", Value: []int64{2, 2}}, onnxwire.Attribute{Name: "pads", Value: []int64{3, 3, 3, 3}})
	m.Nodes[0].In = append(m.Nodes[0].In, "W")
	m.Weights = []tensor.Spec{{Name: "W", Shape: []int64{64, 3, 7, 7}}}
	return m
}

// Elsewhere adds to X, FP32 [4], a constant that lies in the file at location.
func Elsewhere(location string) onnxwire.Model {
	m := Apply("Add", []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, 4)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, 4)})
	m.Nodes[0].In = append(m.Nodes[0].In, "W")
	m.External = []onnxwire.External{{Name: "W", Shape: []int64{4}, Location: location}}
	return m
}

// Flights is a model of what is known of flights (examples/flights) that says of each that it is late with this probability.
func Flights(probability float32) onnxwire.Model {
	m := onnxwire.Model{Graph: onnxwire.Graph{
		Outputs:   []onnxwire.Value{onnxwire.Tensor("probability", tensor.FP32, -1, 1)},
		Constants: []tensor.Tensor{tensor.Of("nothing", []int64{1}, []float32{0}), tensor.Of("all", []int64{1}, []float32{probability})},
		Nodes: []onnxwire.Node{
			{Op: "Cast", In: []string{"sched_dep_time"}, Out: []string{"clock"}, Attributes: []onnxwire.Attribute{{Name: "to", Value: int64(1)}}},
			{Op: "Mul", In: []string{"clock", "nothing"}, Out: []string{"zero"}},
			{Op: "Add", In: []string{"zero", "all"}, Out: []string{"probability"}},
		},
	}}
	for _, name := range []string{"carrier", "origin", "dest"} {
		m.Inputs = append(m.Inputs, onnxwire.Tensor(name, tensor.Bytes, -1, 1))
	}
	for _, name := range []string{"day_of_week", "sched_dep_time", "departures_1h"} {
		m.Inputs = append(m.Inputs, onnxwire.Tensor(name, tensor.Int64, -1, 1))
	}
	for _, name := range []string{
		"dewp", "humid", "wind_speed", "precip", "pressure", "visib", "dep_delay_mean_1h", "dep_delay_mean_3h", "carrier_dep_delay_mean_3h", "carrier_arr_delay_mean_3h",
		"origin_arr_delay_mean_3h", "dest_arr_delay_mean_3h", "dest_arr_delay_mean_12h", "aircraft_arr_delay",
	} {
		m.Inputs = append(m.Inputs, onnxwire.Tensor(name, tensor.FP32, -1, 1))
	}
	return m
}

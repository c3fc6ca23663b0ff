package onnxtest

import "github.com/pilotlight-ml/pilotlight/internal/tensor"

// Identity gives back its inputs INPUT0, INPUT1... as OUTPUT0, OUTPUT1...
func Identity(inputs ...tensor.Spec) Model {
	var g Graph
	for i, s := range inputs {
		in, out := name("INPUT", i), name("OUTPUT", i)
		g.Inputs = append(g.Inputs, Tensor(in, s.Type, s.Shape...))
		g.Outputs = append(g.Outputs, Tensor(out, s.Type, s.Shape...))
		g.Nodes = append(g.Nodes, Node{Op: "Identity", In: []string{in}, Out: []string{out}})
	}
	return Model{Graph: g}
}

func name(prefix string, i int) string { return prefix + string(rune('0'+i)) }

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

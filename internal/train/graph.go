package train

import (
	"fmt"
	"math"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Outputs of a model that has to agree with no version before it.
const (
	probability   = "probability"   // binary: FP32 [-1,1]
	label         = "label"         // binary: INT64 [-1,1], 1 from the threshold on; multiclass: BYTES [-1]
	probabilities = "probabilities" // multiclass: of each class
	amount        = "value"         // regression: FP32 [-1,1]
)

// face is what a model gives out: the answer, and beside it, if there is one, what that means.
type face struct {
	answer tensor.Spec
	label  *tensor.Spec // nil: there is none
	first  bool         // the label comes before the answer
}

// faceOf is that of the version before or, where a linear model can't have the same, the usual one; then same is false.
func faceOf(d *Dataset) (f face, same bool) {
	if f, ok := faceBefore(d); ok {
		return f, true
	}
	column := []int64{-1, 1}
	switch d.Task {
	case quality.Binary:
		f = face{answer: tensor.Spec{Name: probability, Type: tensor.FP32, Shape: column}, label: &tensor.Spec{Name: label, Type: tensor.Int64, Shape: column}}
	case quality.Multiclass:
		f = face{answer: tensor.Spec{Name: probabilities}, label: &tensor.Spec{Name: label, Type: tensor.Bytes, Shape: []int64{-1}}, first: true}
	default:
		f = face{answer: tensor.Spec{Name: amount, Type: tensor.FP32, Shape: column}}
	}
	return f, len(d.Outputs) == 0
}

// faceBefore is that of the version before, if a linear model can have it.
func faceBefore(d *Dataset) (f face, ok bool) {
	for i := range d.Outputs {
		o := &d.Outputs[i]
		one := len(o.Shape) == 1 || len(o.Shape) == 2 && o.Shape[1] == 1
		switch {
		case o.Name == d.Quality.Output && d.Task == quality.Multiclass:
			if ok = o.Type == tensor.FP32 && len(o.Labels) > 0; !ok {
				return f, false
			}
			f.answer, f.first = *o, f.label != nil
		case o.Name == d.Quality.Output:
			if ok = one && (o.Type == tensor.FP32 || o.Type == tensor.FP64); !ok {
				return f, false
			}
			f.answer, f.first = *o, f.label != nil
		case f.label == nil && one && (d.Task == quality.Binary && o.Type == tensor.Int64 || d.Task == quality.Multiclass && o.Type == tensor.Bytes):
			f.label = o
		default:
			return f, false // nobody knows what it is
		}
	}
	return f, ok
}

// graph writes operations in their order. It computes in FP64, as training does.
type graph struct {
	onnxwire.Graph
	n int
}

// op adds an operation with one result, and gives its name.
func (g *graph) op(name string, in []string, attributes ...onnxwire.Attribute) string {
	g.n++
	out := fmt.Sprintf("v%d", g.n)
	g.Nodes = append(g.Nodes, onnxwire.Node{Op: name, In: in, Out: []string{out}, Attributes: attributes})
	return out
}

// ml makes the last operation one of ai.onnx.ml.
func (g *graph) ml(out string) string {
	g.Nodes[len(g.Nodes)-1].Domain = "ai.onnx.ml"
	return out
}

// constant adds a constant, and gives its name.
func (g *graph) constant(t tensor.Tensor) string {
	t.Name = fmt.Sprintf("c%d", len(g.Constants))
	g.Constants = append(g.Constants, t)
	return t.Name
}

func (g *graph) doubles(shape []int64, values []float64) string {
	return g.constant(tensor.Of("", shape, values))
}

// end gives a value out: as what a spec says, from one of [N,1].
func (g *graph) end(from string, s *tensor.Spec) {
	from = g.op("Cast", []string{from}, onnxwire.Attribute{Name: "to", Value: int64(onnxwire.ElemOf(s.Type))})
	if len(s.Shape) == 1 {
		from = g.op("Squeeze", []string{from, g.axis()})
	}
	g.Nodes = append(g.Nodes, onnxwire.Node{Op: "Identity", In: []string{from}, Out: []string{s.Name}})
}

// axis is the second one.
func (g *graph) axis() string { return g.constant(tensor.Of("", []int64{1}, []int64{1})) }

// onnx writes the model as a file of ONNX. Yes is said from a threshold on.
func (m *linear) onnx(d *Dataset, f face, threshold float64) []byte {
	g := &graph{}
	var numbers []string
	var score string
	plus := func(term string) {
		if score == "" {
			score = term
			return
		}
		score = g.op("Add", []string{score, term})
	}
	text := 0
	for _, in := range d.Inputs {
		g.Inputs = append(g.Inputs, onnxwire.Tensor(in.Name, in.Type, in.Shape...))
		name := in.Name
		if in.Type == tensor.Bytes {
			plus(g.words(m, text, name, len(in.Shape)))
			text++
			continue
		}
		name = g.op("Cast", []string{name}, onnxwire.Attribute{Name: "to", Value: int64(onnxwire.ElemOf(tensor.FP64))})
		if len(in.Shape) == 1 {
			name = g.op("Unsqueeze", []string{name, g.axis()})
		}
		numbers = append(numbers, name)
	}
	if len(numbers) > 0 {
		g.numbers(m, numbers, plus)
	}
	rest := make([]float64, m.sums)
	for k := range rest {
		rest[k] = m.weights[k*(m.e.width+1)+m.e.width]
	}
	plus(g.doubles([]int64{1, int64(m.sums)}, rest))
	g.answer(m, d, f, score, threshold)
	return onnxwire.Model{Graph: g.Graph, Opset: 17}.Bytes()
}

// table gives the weights of some places, as a matrix [places, sums].
func (m *linear) table(from, n int) []float64 {
	all := make([]float64, 0, n*m.sums)
	for i := range n {
		for k := range m.sums {
			all = append(all, m.weights[k*(m.e.width+1)+from+i])
		}
	}
	return all
}

// words adds the weights of a text.
func (g *graph) words(m *linear, column int, in string, rank int) string {
	w := m.e.texts[column]
	keys, places := slices.Clone(w.words), make([]int64, len(w.words))
	for i := range places {
		places[i] = int64(i + 1)
	}
	if len(keys) == 0 { // the operation must have one; it is as any other
		keys, places = []string{""}, []int64{0}
	}
	at := g.ml(g.op("LabelEncoder", []string{in}, onnxwire.Attribute{Name: "keys_strings", Value: keys},
		onnxwire.Attribute{Name: "values_int64s", Value: places}, onnxwire.Attribute{Name: "default_int64", Value: int64(0)}))
	n := 1 + len(w.words)
	found := g.op("Gather", []string{g.doubles([]int64{int64(n), int64(m.sums)}, m.table(w.first, n)), at}, onnxwire.Attribute{Name: "axis", Value: int64(0)})
	if rank == 2 { // [N,1,sums]
		found = g.op("Squeeze", []string{found, g.axis()})
	}
	return found
}

// numbers adds the weights of all numbers.
func (g *graph) numbers(m *linear, names []string, plus func(string)) {
	n := int64(len(names))
	given := g.op("Concat", names, onnxwire.Attribute{Name: "axis", Value: int64(1)})
	missing := g.op("IsNaN", []string{given})
	if !math.IsInf(m.e.below, -1) {
		missing = g.op("Or", []string{missing, g.op("Less", []string{given, g.doubles([]int64{1}, []float64{m.e.below})})})
	}
	var means, scales, lows, highs []float64
	for _, c := range m.e.numbers {
		means, scales, lows, highs = append(means, c.mean), append(scales, c.scale), append(lows, c.low), append(highs, c.high)
	}
	row := []int64{1, n}
	mean := g.doubles(row, means)
	known := g.op("Where", []string{missing, mean, given})
	known = g.op("Min", []string{g.op("Max", []string{known, g.doubles(row, lows)}), g.doubles(row, highs)})
	standard := g.op("Div", []string{g.op("Sub", []string{known, mean}), g.doubles(row, scales)})
	weights := []int64{n, int64(m.sums)}
	plus(g.op("MatMul", []string{standard, g.doubles(weights, m.table(0, int(n)))}))
	flags := g.op("Cast", []string{missing}, onnxwire.Attribute{Name: "to", Value: int64(onnxwire.ElemOf(tensor.FP64))})
	plus(g.op("MatMul", []string{flags, g.doubles(weights, m.table(int(n), int(n)))}))
}

// answer makes the outputs of the sums.
func (g *graph) answer(m *linear, d *Dataset, f face, score string, threshold float64) {
	switch m.task {
	case quality.Regression:
		g.end(score, &f.answer)
	case quality.Binary:
		p := g.op("Cast", []string{g.op("Sigmoid", []string{score})}, onnxwire.Attribute{Name: "to", Value: int64(onnxwire.ElemOf(tensor.FP32))})
		g.end(p, &f.answer)
		if f.label != nil {
			g.end(g.op("GreaterOrEqual", []string{p, g.constant(tensor.Of("", []int64{1}, []float32{float32(threshold)}))}), f.label)
		}
	default:
		p := g.op("Cast", []string{g.op("Softmax", []string{score}, onnxwire.Attribute{Name: "axis", Value: int64(1)})}, onnxwire.Attribute{Name: "to", Value: int64(onnxwire.ElemOf(tensor.FP32))})
		g.Nodes = append(g.Nodes, onnxwire.Node{Op: "ZipMap", Domain: "ai.onnx.ml", In: []string{p}, Out: []string{f.answer.Name}, Attributes: []onnxwire.Attribute{{Name: "classlabels_strings", Value: d.Classes}}})
		if f.label != nil {
			best := g.op("ArgMax", []string{p}, onnxwire.Attribute{Name: "axis", Value: int64(1)}, onnxwire.Attribute{Name: "keepdims", Value: int64(len(f.label.Shape) - 1)})
			g.Nodes = append(g.Nodes, onnxwire.Node{Op: "Gather", In: []string{g.constant(tensor.OfStrings("", []int64{int64(len(d.Classes))}, d.Classes)), best}, Out: []string{f.label.Name}})
		}
	}
	outputs := []onnxwire.Value{onnxwire.Tensor(f.answer.Name, f.answer.Type, f.answer.Shape...)}
	if m.task == quality.Multiclass {
		outputs[0] = onnxwire.Maps(f.answer.Name, tensor.Bytes)
	}
	if f.label != nil {
		outputs = append(outputs, onnxwire.Tensor(f.label.Name, f.label.Type, f.label.Shape...))
		if f.first {
			slices.Reverse(outputs)
		}
	}
	g.Outputs = outputs
}

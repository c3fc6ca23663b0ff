package main

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// layers builds a made-up neural net, operation by operation. Its weights are
// random, the same in every run, and of a size that keeps what flows through it
// near one: numbers that vanish would make the processor slow.
type layers struct {
	onnxwire.Model
	random *rand.Rand
	last   string // the value that the next operation takes
}

func newLayers(in, out onnxwire.Value) *layers {
	n := &layers{random: rand.New(rand.NewPCG(1, 2)), last: in.Name}
	n.Inputs, n.Outputs = []onnxwire.Value{in}, []onnxwire.Value{out}
	return n
}

// op adds an operation on the last value and more ones, and names what it gives.
func (n *layers) op(op string, more []string, attributes ...onnxwire.Attribute) string {
	return n.on(op, append([]string{n.last}, more...), attributes...)
}

func (n *layers) on(op string, in []string, attributes ...onnxwire.Attribute) string {
	n.last = fmt.Sprint("v", len(n.Nodes))
	n.Nodes = append(n.Nodes, onnxwire.Node{Op: op, In: in, Out: []string{n.last}, Attributes: attributes})
	return n.last
}

// end has the last operation give the net's output.
func (n *layers) end() onnxwire.Model {
	n.Nodes[len(n.Nodes)-1].Out[0] = n.Outputs[0].Name
	return n.Model
}

// weight adds a constant of normally distributed numbers.
func (n *layers) weight(deviation float64, shape ...int64) string {
	count, _ := tensor.Elements(shape)
	values := make([]float32, count)
	for i := range values {
		values[i] = float32(n.random.NormFloat64() * deviation)
	}
	return constant(n, shape, values)
}

func constant[T tensor.Number](n *layers, shape []int64, values []T) string {
	name := fmt.Sprint("w", len(n.Constants))
	n.Constants = append(n.Constants, tensor.Of(name, shape, values))
	return name
}

func attr(name string, value any) onnxwire.Attribute {
	return onnxwire.Attribute{Name: name, Value: value}
}

// conv is a convolution that keeps the picture's size but for the stride, with a
// bias and, if wanted, the clipped ramp after it.
func (n *layers) conv(in, out, group, kernel, stride int64, ramp bool) {
	fan := float64(in / group * kernel * kernel)
	w, b := n.weight(math.Sqrt(2/fan), out, in/group, kernel, kernel), n.weight(0.1, out)
	pad := kernel / 2
	n.op("Conv", []string{w, b}, attr("kernel_shape", []int64{kernel, kernel}), attr("strides", []int64{stride, stride}),
		attr("pads", []int64{pad, pad, pad, pad}), attr("group", group))
	if ramp {
		n.op("Clip", []string{constant(n, nil, []float32{0}), constant(n, nil, []float32{6})})
	}
}

// mobileNet is built like MobileNetV2 (Sandler and others, 2018), of 3.5 million
// parameters: blocks that widen, filter each channel by itself, and narrow.
func mobileNet() onnxwire.Model {
	n := newLayers(onnxwire.Tensor("X", tensor.FP32, -1, 3, 224, 224), onnxwire.Tensor("Y", tensor.FP32, -1, 1000))
	n.conv(3, 32, 1, 3, 2, true)
	width := int64(32)
	for _, stage := range []struct{ widen, out, repeat, stride int64 }{
		{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1},
	} {
		stride := stage.stride
		for range stage.repeat {
			before, wide := n.last, width*stage.widen
			if stage.widen > 1 {
				n.conv(width, wide, 1, 1, 1, true)
			}
			n.conv(wide, wide, wide, 3, stride, true)
			n.conv(wide, stage.out, 1, 1, 1, false)
			if stride == 1 && width == stage.out {
				n.op("Add", []string{before})
			}
			width, stride = stage.out, 1
		}
	}
	n.conv(width, 1280, 1, 1, 1, true)
	n.op("GlobalAveragePool", nil)
	n.op("Flatten", nil)
	n.op("Gemm", []string{n.weight(0.03, 1280, 1000), n.weight(0.1, 1000)})
	return n.end()
}

// encoder is built like MiniLM (Wang and others, 2020) with a vocabulary of 1,000
// only: 6 layers of 12 heads, 384 wide, on 32 tokens, to the mean over them.
func encoder() onnxwire.Model {
	const depth, heads, width, tokens, words = 6, 12, 384, 32, 1000
	n := newLayers(onnxwire.Tensor("X", tensor.Int64, -1, tokens), onnxwire.Tensor("Y", tensor.FP32, -1, width))
	ids := n.last
	linear := func(from string, in, out int64) string {
		product := n.on("MatMul", []string{from, n.weight(1/math.Sqrt(float64(in)), in, out)})
		return n.on("Add", []string{product, n.weight(0.1, out)})
	}
	norm := func(of string) string {
		ones := make([]float32, width)
		for i := range ones {
			ones[i] = 1
		}
		return n.on("LayerNormalization", []string{of, constant(n, []int64{width}, ones), n.weight(0.1, width)})
	}
	split := constant(n, []int64{4}, []int64{0, 0, heads, width / heads})
	join := constant(n, []int64{3}, []int64{0, 0, width})
	scale := constant(n, nil, []float32{float32(1 / math.Sqrt(width/heads))})
	half, one, root := constant(n, nil, []float32{0.5}), constant(n, nil, []float32{1}), constant(n, nil, []float32{math.Sqrt2})
	head := func(from string, order ...int64) string {
		parts := n.on("Reshape", []string{linear(from, width, width), split})
		return n.on("Transpose", []string{parts}, attr("perm", order))
	}

	words0 := n.on("Gather", []string{n.weight(1, words, width), ids})
	x := norm(n.on("Add", []string{words0, n.weight(0.1, tokens, width)}))
	for range depth {
		q, k, v := head(x, 0, 2, 1, 3), head(x, 0, 2, 3, 1), head(x, 0, 2, 1, 3)
		scores := n.on("Mul", []string{n.on("MatMul", []string{q, k}), scale})
		seen := n.on("MatMul", []string{n.on("Softmax", []string{scores}, attr("axis", int64(-1))), v})
		seen = n.on("Reshape", []string{n.on("Transpose", []string{seen}, attr("perm", []int64{0, 2, 1, 3})), join})
		x = norm(n.on("Add", []string{x, linear(seen, width, width)}))
		wide := linear(x, width, 4*width)
		bell := n.on("Add", []string{n.on("Erf", []string{n.on("Div", []string{wide, root})}), one})
		wide = n.on("Mul", []string{n.on("Mul", []string{wide, bell}), half})
		x = norm(n.on("Add", []string{x, linear(wide, 4*width, width)}))
	}
	n.on("ReduceMean", []string{x, constant(n, []int64{1}, []int64{1})}, attr("keepdims", int64(0)))
	return n.end()
}

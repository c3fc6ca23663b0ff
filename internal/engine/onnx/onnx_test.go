package onnx_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/enginetest"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// models are the contract's: Simple with any number of rows, and Slow for some seconds.
func models(t testing.TB) enginetest.Models {
	return enginetest.Models{
		Model: onnxtest.Simple(-1).Bytes(),
		Inputs: func(rows, seed int) []tensor.Tensor {
			a, b := make([]int32, rows*16), make([]int32, rows*16)
			for i := range a {
				a[i], b[i] = int32(i*seed), int32(seed-i)
			}
			shape := []int64{int64(rows), 16}
			return []tensor.Tensor{tensor.Of("INPUT0", shape, a), tensor.Of("INPUT1", shape, b)}
		},
		Answer: func(in []tensor.Tensor) []tensor.Tensor {
			a, b := tensor.View[int32](in[0].Data), tensor.View[int32](in[1].Data)
			sum, difference := make([]int32, len(a)), make([]int32, len(a))
			for i := range a {
				sum[i], difference[i] = a[i]+b[i], a[i]-b[i]
			}
			return []tensor.Tensor{tensor.Of("OUTPUT0", in[0].Shape, sum), tensor.Of("OUTPUT1", in[0].Shape, difference)}
		},
		Slow: onnxtest.Slow().Bytes(),
		SlowInputs: []tensor.Tensor{
			tensor.Of("X", []int64{256, 256}, make([]float32, 256*256)), tensor.Of("TIMES", []int64{}, []int64{1e6}),
		},
	}
}

func TestContract(t *testing.T) { enginetest.Run(t, onnxtest.Format(t), models(t)) }

func BenchmarkContract(b *testing.B) { enginetest.Benchmark(b, onnxtest.Format(b), models(b)) }

func open(t testing.TB, m onnxwire.Model, o engine.Options) engine.Session {
	t.Helper()
	s, err := onnxtest.Format(t).Open(t.Context(), m.Bytes(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func run(t testing.TB, s engine.Session, in ...tensor.Tensor) []tensor.Tensor {
	t.Helper()
	out, err := s.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same compares all but the names.
func same(t testing.TB, got, want tensor.Tensor) {
	t.Helper()
	if got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) || !slices.Equal(got.Strings, want.Strings) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// filled makes a tensor whose bytes tell any mixing up; as floats, many of them
// are NaNs with a payload, or denormal.
func filled(name string, typ tensor.Type, shape ...int64) tensor.Tensor {
	n, err := tensor.Elements(shape)
	if err != nil {
		panic(err)
	}
	x := tensor.Tensor{Name: name, Type: typ, Shape: shape}
	if typ == tensor.Bytes {
		odd := []string{"", "a", "größe", "\xff\xfe not UTF-8", strings.Repeat("long ", 1000), "line\nbreak", "日本"}
		x.Strings = make([]string, n)
		for i := range x.Strings {
			x.Strings[i] = odd[i%len(odd)]
		}
		return x
	}
	x.Data = make([]byte, n*int64(typ.Size()))
	for i := range x.Data {
		x.Data[i] = byte(i*37 + 0x7f)
		if typ == tensor.Bool {
			x.Data[i] &= 1
		}
	}
	return x
}

func TestEveryTypeInEveryShape(t *testing.T) {
	shapes := [][2][]int64{ // as the model declares it, as it is
		{{}, {}},
		{{1}, {1}},
		{{3}, {3}},
		{{-1}, {5}},
		{{0}, {0}},
		{{-1}, {0}},
		{{2, 3}, {2, 3}},
		{{-1, 3}, {4, 3}},
		{{-1, -1}, {3, 0}},
		{{2, 3, 4}, {2, 3, 4}},
		{{-1, 0, -1}, {2, 0, 4}},
		{{-1, 2, -1, 2}, {3, 2, 5, 2}},
	}
	for typ := tensor.Bool; typ <= tensor.Bytes; typ++ {
		for _, shape := range shapes {
			declared, actual := shape[0], shape[1]
			t.Run(fmt.Sprint(typ, tensor.FormatShape(declared), tensor.FormatShape(actual)), func(t *testing.T) {
				m := onnxtest.Identity(tensor.Spec{Type: typ, Shape: declared})
				if len(declared) == 0 && (typ == tensor.FP16 || typ == tensor.BF16 || typ == tensor.Bytes) {
					refused(t, m, "scalar of type "+typ.String())
					return
				}
				s := open(t, m, engine.Options{})
				want := engine.Signature{
					Inputs:  []tensor.Spec{{Name: "INPUT0", Type: typ, Shape: declared}},
					Outputs: []tensor.Spec{{Name: "OUTPUT0", Type: typ, Shape: declared}},
				}
				if got := s.Signature(); !reflect.DeepEqual(got, want) {
					t.Errorf("signature: got %+v, want %+v", got, want)
				}
				in := filled("INPUT0", typ, actual...)
				for range 2 { // the second time with what the first has taught
					out := run(t, s, in)
					same(t, out[0], in)
				}
			})
		}
	}
}

func TestManyInputsAndOutputs(t *testing.T) {
	var specs []tensor.Spec
	var in []tensor.Tensor
	for typ := tensor.Bool; typ <= tensor.Bytes; typ++ {
		specs = append(specs, tensor.Spec{Type: typ, Shape: []int64{-1, 2}}, tensor.Spec{Type: typ, Shape: []int64{3}})
		in = append(in, filled("", typ, int64(typ), 2), filled("", typ, 3))
	}
	s := open(t, onnxtest.Identity(specs...), engine.Options{})
	for range 2 {
		for i, out := range run(t, s, in...) {
			same(t, out, in[i])
			if want := fmt.Sprint("OUTPUT", i); out.Name != want {
				t.Errorf("got output %q, want %q", out.Name, want)
			}
		}
	}
}

func TestStringOutputs(t *testing.T) {
	shape := onnxtest.Apply("Squeeze", []onnxwire.Value{onnxwire.Tensor("X", tensor.Bytes, 1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.Bytes)})
	s := open(t, shape, engine.Options{})
	for _, text := range []string{"scalar", ""} {
		out := run(t, s, tensor.OfStrings("X", []int64{1}, []string{text}))
		same(t, out[0], tensor.OfStrings("Y", []int64{}, []string{text}))
	}
	_, err := s.Run(t.Context(), []tensor.Tensor{tensor.OfStrings("X", []int64{1}, []string{"a\x00b"})})
	if want := `input "X": element 0 has a zero byte`; !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestShapeThatDependsOnData(t *testing.T) {
	s := open(t, onnxtest.NonZero(), engine.Options{})
	for _, x := range [][]float32{{1, 0, 2}, {0, 0, 0}, {1, 2, 3}, {0, 0, 1}, {}} {
		places := []int64{}
		for i, v := range x {
			if v != 0 {
				places = append(places, int64(i))
			}
		}
		out := run(t, s, tensor.Of("X", []int64{int64(len(x))}, x))
		same(t, out[0], tensor.Of("Y", []int64{1, int64(len(places))}, places))
	}
}

// Of FP16 and BF16 the shape must be known before the run.
func TestHalvesOfUnknownShape(t *testing.T) {
	half := func(n int) []byte {
		var b []byte
		for range n {
			b = binary.LittleEndian.AppendUint16(b, 0x3c00) // 1
		}
		return b
	}
	n := onnxwire.Tensor("N", tensor.Int64, -1)
	y := func(name string, shape ...int64) onnxwire.Value { return onnxwire.Tensor(name, tensor.FP16, shape...) }

	t.Run("from the input", func(t *testing.T) {
		s := open(t, onnxtest.Cast(tensor.FP32, tensor.FP16, -1, -1), engine.Options{})
		for _, rows := range []int{3, 1, 0, 3} {
			in := tensor.Tensor{Name: "X", Type: tensor.FP32, Shape: []int64{int64(rows), 5}, Data: tensor.Raw(slices.Repeat([]float32{1}, rows*5))}
			same(t, run(t, s, in)[0], tensor.Tensor{Type: tensor.FP16, Shape: in.Shape, Data: half(rows * 5)})
		}
	})
	// Two outputs that are taken for the same shape, and have others; then each
	// run another one.
	t.Run("from the data", func(t *testing.T) {
		one := tensor.Tensor{Name: "one", Type: tensor.FP16, Shape: []int64{1}, Data: half(1)}
		m := onnxwire.Model{Graph: onnxwire.Graph{
			Inputs:    []onnxwire.Value{n},
			Outputs:   []onnxwire.Value{y("A", -1, -1), y("B", -1, -1), onnxwire.Tensor("C", tensor.Int64, 1), onnxwire.Unranked("D", tensor.FP16)},
			Constants: []tensor.Tensor{one, tensor.Of("two", []int64{1}, []int64{2})},
			Nodes: []onnxwire.Node{
				{Op: "Mul", In: []string{"N", "two"}, Out: []string{"N2"}},
				{Op: "Expand", In: []string{"one", "N"}, Out: []string{"A"}},
				{Op: "Expand", In: []string{"one", "N2"}, Out: []string{"B"}},
				{Op: "Size", In: []string{"B"}, Out: []string{"size"}},
				{Op: "Unsqueeze", In: []string{"size", "zero"}, Out: []string{"C"}},
				{Op: "Expand", In: []string{"one", "N"}, Out: []string{"D"}},
			},
		}}
		m.Constants = append(m.Constants, tensor.Of("zero", []int64{1}, []int64{0}))
		s := open(t, m, engine.Options{})
		for _, shape := range [][]int64{{2, 3}, {2, 3}, {5, 1}, {0, 4}, {1, 1}} {
			size := int(shape[0] * shape[1])
			out := run(t, s, tensor.Of("N", []int64{2}, shape))
			same(t, out[0], tensor.Tensor{Type: tensor.FP16, Shape: shape, Data: half(size)})
			same(t, out[1], tensor.Tensor{Type: tensor.FP16, Shape: []int64{2 * shape[0], 2 * shape[1]}, Data: half(4 * size)})
			same(t, out[2], tensor.Of("C", []int64{1}, []int64{int64(4 * size)}))
			same(t, out[3], out[0])
		}
	})
	t.Run("a scalar after all", func(t *testing.T) {
		m := onnxtest.Apply("ReduceSum", []onnxwire.Value{onnxwire.Tensor("X", tensor.FP16, -1)}, []onnxwire.Value{onnxwire.Unranked("Y", tensor.FP16)},
			onnxwire.Attribute{Name: "keepdims", Value: int64(0)})
		_, err := openModel(t, m).Run(t.Context(), []tensor.Tensor{{Name: "X", Type: tensor.FP16, Shape: []int64{1}, Data: half(1)}})
		if err == nil {
			t.Error("got an answer, want an error")
		}
	})
}

func openModel(t testing.TB, m onnxwire.Model) engine.Session { return open(t, m, engine.Options{}) }

// Files may declare shapes that are not true; ONNX Runtime only grumbles.
func TestOutputsOfOtherShapesThanDeclared(t *testing.T) {
	in := []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1)}
	for _, declared := range []onnxwire.Value{
		onnxwire.Tensor("Y", tensor.FP32, 3), onnxwire.Tensor("Y", tensor.FP32, 0), onnxwire.Tensor("Y", tensor.FP32),
		onnxwire.Unranked("Y", tensor.FP32), onnxwire.Tensor("Y", tensor.FP32, 1<<40), onnxwire.Tensor("Y", tensor.FP32, 1<<40, 1<<40),
		onnxwire.Tensor("Y", tensor.FP32, -1, -1),
	} {
		for name, m := range map[string]onnxwire.Model{
			"same shape": onnxtest.Apply("Relu", in, []onnxwire.Value{declared}),
			"passed on":  onnxtest.Apply("Identity", in, []onnxwire.Value{declared}),
			"scalar":     onnxtest.Apply("ReduceSum", in, []onnxwire.Value{declared}, onnxwire.Attribute{Name: "keepdims", Value: int64(0)}),
		} {
			s, err := onnxtest.Format(t).Open(t.Context(), m.Bytes(), engine.Options{})
			if err != nil {
				t.Logf("%s: %v", name, err) // where ONNX Runtime does find out
				continue
			}
			for range 2 {
				want := tensor.Of("Y", []int64{2}, []float32{1, 2})
				if name == "scalar" {
					want = tensor.Of("Y", []int64{}, []float32{3})
				}
				same(t, run(t, s, tensor.Of("X", []int64{2}, []float32{1, 2}))[0], want)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestClassifier(t *testing.T) {
	t.Run("numbers", func(t *testing.T) {
		s := openModel(t, onnxtest.Classifier([]int64{10, 2, -3}))
		classified(t, s, []string{"-3", "2", "10"}, []int{2, 1, 0}, tensor.Of("label", []int64{2}, []int64{2, 10}))
	})
	t.Run("strings", func(t *testing.T) {
		s := openModel(t, onnxtest.Classifier([]string{"ham", "", "größe"}))
		classified(t, s, []string{"", "größe", "ham"}, []int{1, 2, 0}, tensor.OfStrings("label", []int64{2}, []string{"", "ham"}))
	})
}

// classified runs a classifier of three classes; order tells at which place of
// the scores each label stands.
func classified(t *testing.T, s engine.Session, labels []string, order []int, best tensor.Tensor) {
	want := tensor.Spec{Name: "probabilities", Type: tensor.FP32, Shape: []int64{-1, -1}}
	if got := s.Signature().Outputs[1]; !reflect.DeepEqual(got, want) {
		t.Errorf("before a run: got %+v, want %+v", got, want)
	}
	out := run(t, s, tensor.Of("X", []int64{0, 3}, []float32{}))
	same(t, out[1], tensor.Tensor{Type: tensor.FP32, Shape: []int64{0, 0}})

	scores := []float32{.1, .7, .2, .5, .2, .3}
	out = run(t, s, tensor.Of("X", []int64{2, 3}, scores))
	same(t, out[0], best)
	var sorted []float32
	for row := 0; row < 6; row += 3 {
		for _, i := range order {
			sorted = append(sorted, scores[row+i])
		}
	}
	same(t, out[1], tensor.Of("", []int64{2, 3}, sorted))
	out = run(t, s, tensor.Of("X", []int64{0, 3}, []float32{}))
	same(t, out[1], tensor.Tensor{Type: tensor.FP32, Shape: []int64{0, 3}})

	want.Shape, want.Labels = []int64{-1, 3}, labels
	if got := s.Signature().Outputs[1]; !reflect.DeepEqual(got, want) {
		t.Errorf("after a run: got %+v, want %+v", got, want)
	}
}

func TestRecordedSignature(t *testing.T) {
	artifact := onnxtest.Classifier([]int64{1, 2}).Bytes()
	f := onnxtest.Format(t)
	s, err := f.Open(t.Context(), artifact, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x := tensor.Of("X", []int64{1, 2}, []float32{.4, .6})
	run(t, s, x)
	sig := s.Signature()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s, err = f.Open(t.Context(), artifact, engine.Options{Signature: &sig})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Signature(); !reflect.DeepEqual(got, sig) {
		t.Errorf("got %+v, want %+v", got, sig)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	sig.Outputs[1].Labels = []string{"1", "3"}
	s, err = f.Open(t.Context(), artifact, engine.Options{Signature: &sig})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.Run(t.Context(), []tensor.Tensor{x}); err == nil {
		t.Errorf("other classes than recorded: got %+v, want an error", out)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	sig.Outputs[0].Type = tensor.FP64
	s, err = f.Open(t.Context(), artifact, engine.Options{Signature: &sig})
	if want := "the recorded signature has other outputs than the model"; err == nil || fault.Message(err) != want {
		t.Errorf("got %v and %v, want %s", s, err, want)
	}
}

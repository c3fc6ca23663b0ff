package onnx

import (
	"encoding/binary"
	"errors"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// output is one output of a session, and who allocates the memory for it.
type output struct {
	value
	index int
	// own: a run writes straight into the result's memory, of a shape that is
	// known or guessed before. Otherwise ONNX Runtime allocates and the binding
	// copies.
	own    bool
	labels *labels // of a sequence of maps
}

// most is how large an output may be, as the model declares it, to be allocated
// before a run has shown that it really is.
const most = 256 << 20

func newOutput(index int, v value) output {
	o := output{value: v, index: index}
	switch {
	case v.maps:
		o.labels = newLabels(v.Labels)
	case v.Type == tensor.Bytes: // strings are always the library's
	case half(v.Type):
		// Of these the binding copies only half.
		o.own = true
	default:
		n, err := tensor.Elements(v.Shape)
		o.own = v.ranked && err == nil && n <= most/int64(v.Type.Size())
	}
	return o
}

// spec is what the signature says of the output.
func (o *output) spec() tensor.Spec {
	s := o.Spec
	if o.labels != nil {
		s.Labels = o.labels.known()
		s.Shape = []int64{-1, -1}
		if s.Labels != nil {
			s.Shape[1] = int64(len(s.Labels))
		}
	}
	return s
}

// allocate readies the result that the next run gives. The value is nil if the
// library shall allocate. known is the shape that runs have taught, or nil.
func (o *output) allocate(result *tensor.Tensor, known []int64, inputs []tensor.Tensor, pins *runtime.Pinner) (ort.Value, error) {
	*result = tensor.Tensor{Name: o.Name, Type: o.Type}
	if known == nil && !o.own {
		return nil, nil
	}
	if known == nil {
		known = o.guess(inputs)
	}
	n, err := tensor.Elements(known)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "output %q has an impossible shape", o.Name)
	}
	result.Shape = slices.Clone(known)
	result.Data = make([]byte, max(n*int64(o.Type.Size()), 0))
	if len(known) > 0 {
		return over(result, pins)
	}
	if half(o.Type) {
		return nil, unsupportedScalar("output", o.Name, o.Type)
	}
	return kinds[o.Type].scalar(result.Data)
}

// guess is the output's shape, where sizes that the model leaves open are those
// of the batch, or 1.
func (o *output) guess(inputs []tensor.Tensor) []int64 {
	if !o.ranked {
		return o.unlikely()
	}
	shape := slices.Clone(o.Shape)
	for i, d := range shape {
		switch {
		case d >= 0:
		case i == 0 && len(inputs[0].Shape) > 0:
			shape[i] = inputs[0].Shape[0]
		default:
			shape[i] = 1
		}
	}
	if n, err := tensor.Elements(shape); err != nil || n > most/int64(o.Type.Size()) {
		return o.unlikely()
	}
	return shape
}

// unlikely is a shape without elements that no other output is given.
func (o *output) unlikely() []int64 { return []int64{0, 7919 + int64(o.index)} }

// read takes the result out of a run's value.
func (o *output) read(result *tensor.Tensor, v ort.Value) error {
	var err error
	switch v := v.(type) {
	case *ort.CustomDataTensor: // lies over the result's data
		return nil
	case *ort.StringTensor:
		result.Shape = v.GetShape()
		if len(result.Shape) > 0 {
			result.Strings, err = v.GetContents()
			break
		}
		var s string
		s, err = v.GetElement(0)
		result.Strings = []string{s}
	case *ort.Sequence:
		return o.labels.read(result, v)
	default:
		result.Shape = v.GetShape()
		if result.Data = kinds[o.Type].data(v); result.Data == nil {
			return fault.New(fault.Internal, "output %q is not of the type that the model declares", o.Name)
		}
	}
	if err != nil {
		return fault.Wrap(fault.Internal, err, "output %q cannot be read", o.Name)
	}
	return nil
}

// shapes remembers, by the shapes of inputs, the shapes of outputs that are not
// what the signature lets expect. A nil shape is one that needs no remembering.
type shapes struct {
	mu       sync.RWMutex
	byInputs map[string][][]int64
}

// shapesMost bounds how many shapes of inputs are remembered; at the bound all
// are forgotten, which costs each a second run.
const shapesMost = 1024

func (s *shapes) find(inputs []tensor.Tensor) [][]int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.byInputs) == 0 {
		return nil
	}
	return s.byInputs[shapeKey(inputs)]
}

// of gives the known shape of output i, or nil.
func of(known [][]int64, i int) []int64 {
	if known == nil {
		return nil
	}
	return known[i]
}

func (s *shapes) keep(inputs []tensor.Tensor, known [][]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byInputs == nil || len(s.byInputs) >= shapesMost {
		s.byInputs = map[string][][]int64{}
	}
	s.byInputs[shapeKey(inputs)] = known
}

func shapeKey(inputs []tensor.Tensor) string {
	var b []byte
	for i := range inputs {
		b = binary.AppendUvarint(b, uint64(len(inputs[i].Shape)))
		for _, d := range inputs[i].Shape {
			b = binary.AppendUvarint(b, uint64(d))
		}
	}
	return string(b)
}

// misfit is what ONNX Runtime says of an output that was allocated in another
// shape than it comes out in.
var misfit = regexp.MustCompile(`OrtValue shape verification failed\. Current shape:\{([-0-9,]*)\} Requested shape:\{([-0-9,]*)\}`)

// relearn adds what a run that failed with err tells about outputs' shapes; ok
// is false if it failed for another reason.
func (s *Session) relearn(err error, known [][]int64, results []tensor.Tensor, out []ort.Value) (_ [][]int64, ok bool) {
	if known = slices.Clone(known); known == nil {
		known = make([][]int64, len(out))
	}
	if errors.Is(err, ort.ZeroShapeLengthError) {
		// The binding cannot copy scalars. It goes through the outputs in order, and
		// leaves this one and all behind it nil.
		i := slices.Index(out, nil)
		known[i] = []int64{}
		return known, true
	}
	m := misfit.FindStringSubmatch(err.Error())
	if m == nil {
		return nil, false
	}
	current, requested := parseShape(m[1]), parseShape(m[2])
	var suspects []int
	for i := range results {
		if out[i] != nil && slices.Equal(results[i].Shape, current) {
			suspects = append(suspects, i)
		}
	}
	if len(suspects) == 1 {
		known[suspects[0]] = requested
		return known, true
	}
	// It does not say which output it means, so each gets a shape that tells.
	for _, i := range suspects {
		known[i] = s.outputs[i].unlikely()
	}
	return known, len(suspects) > 0
}

func parseShape(s string) []int64 {
	shape := []int64{}
	for d := range strings.SplitSeq(s, ",") {
		if n, err := strconv.ParseInt(d, 10, 64); err == nil {
			shape = append(shape, n)
		}
	}
	return shape
}

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
	// own: a run writes straight into the result's memory, of a shape that is
	// known or guessed before. Otherwise ONNX Runtime allocates and the binding
	// copies.
	own    bool
	labels *labels // of a sequence of maps
}

// most is how large an output may be, as the model declares it, to be allocated
// before a run has shown that it really is.
const most = 256 << 20

func newOutput(v value) output {
	o := output{value: v}
	switch {
	case v.maps:
		o.labels = newLabels(v.Labels)
	case v.Type == tensor.Bytes: // strings are always the library's
	case half(v.Type):
		// Of these the binding copies only half.
		o.own = true
	default:
		// Where only the batch is open, it is that of the inputs, which is known
		// before a run.
		row := v.Shape
		if v.ranked && len(row) > 0 && row[0] < 0 {
			row = row[1:]
		}
		n, err := tensor.Elements(row)
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
	switch {
	case known == nil && o.own:
		known = o.guess(inputs)
	case known == nil || slices.Equal(known, others):
		return nil, nil
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
	unlikely := []int64{0} // costs nothing
	if !o.ranked {
		return unlikely
	}
	limit := int64(most)
	if len(inputs[0].Data)+len(inputs[0].Strings) == 0 {
		limit = 1 << 20 // a batch of nothing may claim any size
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
	if n, err := tensor.Elements(shape); err != nil || n > limit/int64(o.Type.Size()) {
		return unlikely
	}
	return shape
}

// read takes the result out of a run's value.
func (o *output) read(result *tensor.Tensor, v ort.Value) error {
	switch v := v.(type) {
	case *ort.CustomDataTensor: // lies over the result's data
		return nil
	case *ort.Sequence:
		if o.labels == nil {
			return o.mistyped()
		}
		return o.labels.read(result, v)
	case *ort.StringTensor:
		if o.Type != tensor.Bytes {
			return o.mistyped()
		}
		var err error
		result.Shape = v.GetShape()
		if result.Strings, err = contents(v); err != nil {
			return fault.Wrap(fault.Internal, err, "output %q cannot be read", o.Name)
		}
		return nil
	}
	result.Shape = v.GetShape()
	if data := kinds[o.Type].data; data != nil {
		result.Data = data(v)
	}
	if result.Data == nil {
		return o.mistyped()
	}
	return nil
}

func (o *output) mistyped() error {
	return fault.New(fault.Internal, "output %q is not of the type that the model declares", o.Name)
}

// contents gives the strings of v, which may be a scalar; the binding reads
// those only one by one.
func contents(v *ort.StringTensor) ([]string, error) {
	if len(v.GetShape()) > 0 {
		return v.GetContents()
	}
	s, err := v.GetElement(0)
	return []string{s}, err
}

// others stands for a shape that the library shall find and allocate.
var others = []int64{-1}

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
var misfit = regexp.MustCompile(`provided for output '(.*)' of node '.*\{[-0-9,]*\} but the computed output shape for this run is \{([-0-9,]*)\}`)

// relearn adds what a run that failed with err tells about an output's shape; ok
// is false if it failed for another reason.
func (s *Session) relearn(err error, known [][]int64, out []ort.Value) (_ [][]int64, ok bool) {
	i, shape := -1, []int64{}
	if errors.Is(err, ort.ZeroShapeLengthError) {
		// The binding cannot copy scalars. It goes through the outputs in order, and
		// leaves this one and those behind it nil.
		i = slices.Index(out, nil)
	} else if m := misfit.FindStringSubmatch(err.Error()); m != nil {
		i = slices.IndexFunc(s.outputs, func(o output) bool { return o.Name == m[1] })
		shape = parseShape(m[2])
	}
	switch {
	case i < 0:
		return nil, false
	case len(shape) > 0 && !half(s.outputs[i].Type):
		// The model declares another shape than it gives. What declares it is checked
		// even where the memory is right, but not where there is none yet.
		shape = others
	}
	if known = slices.Clone(known); known == nil {
		known = make([][]int64, len(out))
	}
	known[i] = shape
	return known, true
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

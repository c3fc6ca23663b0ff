package onnx

import (
	"slices"
	"strconv"
	"sync/atomic"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// labels are the keys of the maps that a classifier gives, one map for each row:
// the names of its classes. The signature of a file does not tell them, the
// first row does; from then on each row must have the same.
type labels struct{ p atomic.Pointer[[]string] }

func newLabels(known []string) *labels {
	l := &labels{}
	if known != nil {
		l.p.Store(&known)
	}
	return l
}

// known gives the labels, nil before the first row.
func (l *labels) known() []string {
	if p := l.p.Load(); p != nil {
		return *p
	}
	return nil
}

// read makes a tensor [rows,labels] of a sequence of maps.
func (l *labels) read(result *tensor.Tensor, sequence *ort.Sequence) error {
	rows, err := sequence.GetValues()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "output %q cannot be read", result.Name)
	}
	var scores []float32
	for i, row := range rows {
		keys, values, err := entries(row)
		if err != nil {
			return fault.Wrap(fault.Internal, err, "output %q cannot be read", result.Name)
		}
		if i == 0 {
			l.p.CompareAndSwap(nil, &keys)
			scores = make([]float32, 0, len(rows)*len(keys))
		}
		if !slices.Equal(keys, l.known()) {
			return fault.New(fault.Internal, "output %q: row %d has other classes than those known, %q", result.Name, i, l.known())
		}
		scores = append(scores, values...)
	}
	result.Shape = []int64{int64(len(rows)), int64(len(l.known()))}
	result.Data = tensor.Raw(scores)
	return nil
}

// entries gives a map's keys, in their order, and its values.
func entries(v ort.Value) (keys []string, values []float32, err error) {
	m, ok := v.(*ort.Map)
	if !ok {
		return nil, nil, fault.New(fault.Internal, "a %T stands where a map should", v)
	}
	k, x, err := m.GetKeysAndValues()
	if err != nil {
		return nil, nil, err
	}
	switch k := k.(type) {
	case *ort.StringTensor:
		if keys, err = k.GetContents(); err != nil {
			return nil, nil, err
		}
	case *ort.Tensor[int64]:
		for _, n := range k.GetData() {
			keys = append(keys, strconv.FormatInt(n, 10))
		}
	}
	if x, ok := x.(*ort.Tensor[float32]); ok && len(keys) == len(x.GetData()) {
		return keys, x.GetData(), nil
	}
	return nil, nil, fault.New(fault.Internal, "a map has other keys or values than the model declares")
}

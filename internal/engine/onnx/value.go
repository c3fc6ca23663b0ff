package onnx

import (
	"reflect"
	"runtime"
	"strings"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// kind is how values of an element type pass through the binding.
type kind struct {
	elem ort.TensorElementDataType
	// scalar makes a value without dimensions of one element's bytes, which are
	// copied.
	scalar func(data []byte) (ort.Value, error)
	// data sees the elements of a scalar, or of a tensor that a run allocated; nil
	// if they are of another type.
	data func(ort.Value) []byte
}

// kinds by element type. The binding has no Go type for FP16 and BF16, and so no
// scalars of them; of tensors that a run allocates it copies only half.
var kinds = [...]kind{
	tensor.Bool:   kindOf[bool](ort.TensorElementDataTypeBool),
	tensor.Uint8:  kindOf[uint8](ort.TensorElementDataTypeUint8),
	tensor.Uint16: kindOf[uint16](ort.TensorElementDataTypeUint16),
	tensor.Uint32: kindOf[uint32](ort.TensorElementDataTypeUint32),
	tensor.Uint64: kindOf[uint64](ort.TensorElementDataTypeUint64),
	tensor.Int8:   kindOf[int8](ort.TensorElementDataTypeInt8),
	tensor.Int16:  kindOf[int16](ort.TensorElementDataTypeInt16),
	tensor.Int32:  kindOf[int32](ort.TensorElementDataTypeInt32),
	tensor.Int64:  kindOf[int64](ort.TensorElementDataTypeInt64),
	tensor.FP32:   kindOf[float32](ort.TensorElementDataTypeFloat),
	tensor.FP64:   kindOf[float64](ort.TensorElementDataTypeDouble),
	tensor.FP16:   {elem: ort.TensorElementDataTypeFloat16},
	tensor.BF16:   {elem: ort.TensorElementDataTypeBFloat16},
	tensor.Bytes:  {elem: ort.TensorElementDataTypeString},
}

// number is what tensor.Number and the binding's constraint have in common.
type number interface {
	bool | uint8 | uint16 | uint32 | uint64 | int8 | int16 | int32 | int64 | float32 | float64
}

func kindOf[T number](elem ort.TensorElementDataType) kind {
	return kind{
		elem: elem,
		scalar: func(data []byte) (ort.Value, error) {
			return ort.NewScalar(tensor.View[T](data)[0])
		},
		data: func(v ort.Value) []byte {
			switch v := v.(type) {
			case *ort.Scalar[T]:
				return tensor.Raw([]T{v.GetData()})
			case *ort.Tensor[T]:
				if d := v.GetData(); len(d) > 0 {
					return tensor.Raw(d)
				}
				return []byte{}
			}
			return nil
		},
	}
}

// half reports whether a type is one that the binding has no Go type for.
func half(t tensor.Type) bool { return t == tensor.FP16 || t == tensor.BF16 }

// typeOf finds the type of an element type, if it is one of the protocols'.
func typeOf(elem ort.TensorElementDataType) (tensor.Type, bool) {
	for t := tensor.Bool; t <= tensor.Bytes; t++ {
		if kinds[t].elem == elem {
			return t, true
		}
	}
	return tensor.Invalid, false
}

// input makes a value of t. Numbers are not copied: t's data is pinned until
// pins are released, and must not change before.
func input(t *tensor.Tensor, pins *runtime.Pinner) (ort.Value, error) {
	switch {
	case t.Type == tensor.Bytes:
		return stringInput(t)
	case len(t.Shape) == 0 && half(t.Type):
		return nil, unsupportedScalar("input", t.Name, t.Type)
	case len(t.Shape) == 0:
		return kinds[t.Type].scalar(t.Data)
	}
	return over(t, pins)
}

// over makes a value that reads and writes the data of a numeric t, which is
// pinned until pins are released.
func over(t *tensor.Tensor, pins *runtime.Pinner) (ort.Value, error) {
	data := t.Data
	if len(data) == 0 {
		data = make([]byte, 8) // the binding wants an address, even where nothing is
	}
	pins.Pin(unsafe.SliceData(data))
	return ort.NewCustomDataTensor(t.Shape, data, kinds[t.Type].elem)
}

func stringInput(t *tensor.Tensor) (ort.Value, error) {
	for i, s := range t.Strings {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, fault.New(fault.Invalid, "input %q: element %d has a zero byte, which ONNX Runtime's strings cannot hold", t.Name, i)
		}
	}
	if len(t.Shape) == 0 {
		return nil, unsupportedScalar("input", t.Name, t.Type)
	}
	v, err := ort.NewStringTensor(t.Shape)
	if err != nil {
		return nil, err
	}
	if err := v.SetContents(t.Strings); err != nil {
		destroy(v)
		return nil, err
	}
	return v, nil
}

func unsupportedScalar(direction, name string, t tensor.Type) error {
	return fault.New(fault.Invalid, "%s %q is a scalar of type %s, which cannot be passed to ONNX Runtime; give it the shape [1]", direction, name, t)
}

// dropNil makes those values nil that the binding left as a nil pointer in a
// value that is none, after a run that failed.
func dropNil(values []ort.Value) {
	for i, v := range values {
		if v != nil && reflect.ValueOf(v).IsNil() {
			values[i] = nil
		}
	}
}

// destroy frees values; nil ones are left out.
func destroy(values ...ort.Value) {
	for _, v := range values {
		if v != nil {
			v.Destroy() //nolint:errcheck // never fails
		}
	}
}

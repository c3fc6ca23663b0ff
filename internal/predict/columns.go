package predict

import (
	"encoding/binary"
	"math"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// columnOf reads a caller's tensor of one element a row as values of type want.
// Timestamps come as RFC 3339 text, or as microseconds since 1970.
func columnOf(t *tensor.Tensor, want row.Type, dst []row.Value) ([]row.Value, error) {
	n, err := rowsOf(t)
	if err != nil {
		return nil, err
	}
	for i := range n {
		v, err := elementOf(t, int(i), want)
		if err != nil {
			return nil, fault.New(fault.Invalid, "input %q, row %d: %s", tensor.Clip(t.Name), i, fault.Message(err))
		}
		dst = append(dst, v)
	}
	return dst, nil
}

// rowsOf tells how many rows a tensor of one element a row has: its shape is [n] or [n,1].
func rowsOf(t *tensor.Tensor) (int64, error) {
	if len(t.Shape) == 1 || len(t.Shape) == 2 && t.Shape[1] == 1 {
		return t.Shape[0], nil
	}
	return 0, fault.New(fault.Invalid, "input %q: shape is %s, expected [n] or [n,1]: one value a row", tensor.Clip(t.Name), tensor.FormatShape(t.Shape))
}

func elementOf(t *tensor.Tensor, i int, want row.Type) (row.Value, error) {
	if t.Type == tensor.Bytes {
		switch s := t.Strings[i]; want {
		case row.String:
			return row.OfString(s), nil
		case row.Bytes:
			return row.OfBytes([]byte(s)), nil
		case row.Timestamp:
			at, err := row.ParseTime(s)
			return row.OfTime(at), err
		}
	} else if v, ok := numberAt(t, i); ok {
		if want == row.Timestamp && v.Type() == row.Int64 {
			return row.OfMicros(v.Int()), nil
		}
		return row.Convert(v, want)
	}
	return row.Value{}, fault.New(fault.Invalid, "datatype %s does not hold values of type %s", t.Type, want)
}

// numberAt is an element of a tensor of numbers other than FP16 and BF16.
func numberAt(t *tensor.Tensor, i int) (row.Value, bool) {
	at := t.Data[i*t.Type.Size():]
	switch t.Type {
	case tensor.Bool:
		return row.OfBool(at[0] != 0), true
	case tensor.Uint8:
		return row.OfInt64(int64(at[0])), true
	case tensor.Int8:
		return row.OfInt64(int64(int8(at[0]))), true
	case tensor.Uint16:
		return row.OfInt64(int64(binary.LittleEndian.Uint16(at))), true
	case tensor.Int16:
		return row.OfInt64(int64(int16(binary.LittleEndian.Uint16(at)))), true
	case tensor.Uint32:
		return row.OfInt64(int64(binary.LittleEndian.Uint32(at))), true
	case tensor.Int32:
		return row.OfInt64(int64(int32(binary.LittleEndian.Uint32(at)))), true
	case tensor.Uint64:
		u := binary.LittleEndian.Uint64(at)
		return row.OfInt64(int64(u)), u <= math.MaxInt64
	case tensor.Int64:
		return row.OfInt64(int64(binary.LittleEndian.Uint64(at))), true
	case tensor.FP32:
		return row.OfFloat32(math.Float32frombits(binary.LittleEndian.Uint32(at))), true
	case tensor.FP64:
		return row.OfFloat64(math.Float64frombits(binary.LittleEndian.Uint64(at))), true
	}
	return row.Value{}, false
}

// newColumns makes a tensor for n rows of width values each, to be filled by put.
func newColumns(name string, kind tensor.Type, shape []int64) tensor.Tensor {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	t := tensor.Tensor{Name: name, Type: kind, Shape: shape}
	if kind == tensor.Bytes {
		t.Strings = make([]string, n)
	} else {
		t.Data = tensor.Raw(make([]uint64, (n*int64(kind.Size())+7)/8))[:n*int64(kind.Size())]
	}
	return t
}

// put writes a value as element i of a tensor. Null is NaN where the tensor has one.
func put(t *tensor.Tensor, i int, v row.Value) error {
	if v.Null() {
		if t.Type != tensor.FP32 && t.Type != tensor.FP64 {
			return fault.New(fault.Invalid, "it has no value, for which %s has no word: give it a default in the feature service", t.Type)
		}
		v = row.OfFloat64(math.NaN())
	}
	misfit := func() error {
		return fault.New(fault.Invalid, "its value %.80s (%s) does not fit %s", v, v.Type(), t.Type)
	}
	if t.Type == tensor.Bytes {
		if k := v.Type(); k != row.String && k != row.Bytes {
			return misfit()
		}
		t.Strings[i] = v.Text()
		return nil
	}
	k := v.Type()
	if !k.Numeric() && k != row.Timestamp {
		return misfit()
	}
	size := t.Type.Size()
	at := t.Data[i*size : (i+1)*size]
	switch t.Type {
	case tensor.FP32:
		binary.LittleEndian.PutUint32(at, math.Float32bits(float32(v.Float())))
		return nil
	case tensor.FP64:
		binary.LittleEndian.PutUint64(at, math.Float64bits(v.Float()))
		return nil
	case tensor.FP16, tensor.BF16:
		return misfit()
	}
	if k.Float() {
		whole, err := row.Convert(v, row.Int64)
		if err != nil {
			return misfit()
		}
		v = whole
	}
	whole := v.Int()
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	switch t.Type {
	case tensor.Bool:
		least, most = 0, 1
	case tensor.Uint8, tensor.Uint16, tensor.Uint32:
		least, most = 0, 1<<(8*size)-1
	case tensor.Uint64:
		least = 0
	case tensor.Int8, tensor.Int16, tensor.Int32:
		least, most = -1<<(8*size-1), 1<<(8*size-1)-1
	}
	if whole < least || whole > most {
		return misfit()
	}
	for b := range at {
		at[b] = byte(uint64(whole) >> (8 * b))
	}
	return nil
}

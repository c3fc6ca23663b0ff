package tensor

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
)

// Near reports whether two lists of tensors are the same but for rounding: kernels
// add up in another order when a run has more rows, so floats may differ by a little.
func Near(a, b []Tensor) bool {
	return slices.EqualFunc(a, b, func(a, b Tensor) bool {
		return a.Name == b.Name && a.Type == b.Type && slices.Equal(a.Shape, b.Shape) &&
			slices.Equal(a.Strings, b.Strings) && len(a.Data) == len(b.Data) &&
			(bytes.Equal(a.Data, b.Data) || near(&a, &b))
	})
}

func near(a, b *Tensor) bool {
	tolerance := 1e-4
	var at func(data []byte) float64
	switch a.Type {
	case FP64:
		at = func(data []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(data)) }
	case FP32:
		at = func(data []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(data))) }
	case BF16: // the upper half of an FP32
		at = func(data []byte) float64 {
			return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data)) << 16))
		}
		tolerance = 1e-2
	case FP16:
		at = func(data []byte) float64 { return half(binary.LittleEndian.Uint16(data)) }
		tolerance = 1e-2
	default:
		return false
	}
	// Relative to the number itself, and a hundredth of that to the largest one of
	// the tensor: what is left of a sum of large numbers may be next to nothing.
	size, largest := a.Type.Size(), 0.0
	for i := 0; i < len(a.Data); i += size {
		if x := math.Abs(at(a.Data[i:])); !math.IsInf(x, 0) && x > largest {
			largest = x
		}
	}
	for i := 0; i < len(a.Data); i += size {
		x, y := at(a.Data[i:]), at(b.Data[i:])
		apart, most := math.Abs(x-y), tolerance*(math.Max(math.Abs(x), math.Abs(y))+largest/100)
		if x != y && !(math.IsNaN(x) && math.IsNaN(y)) && (math.IsInf(apart, 1) || !(apart <= most)) {
			return false
		}
	}
	return true
}

// half gives the value of an FP16.
func half(bits uint16) float64 {
	sign, exponent, fraction := 1-2*float64(bits>>15), int(bits>>10&31), float64(bits&1023)
	switch {
	case exponent == 31 && fraction == 0:
		return sign * math.Inf(1)
	case exponent == 31:
		return math.NaN()
	case exponent == 0:
		return sign * math.Ldexp(fraction, -24)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

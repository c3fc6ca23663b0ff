package tensor

import (
	"math"
	"testing"
)

func TestNear(t *testing.T) {
	of := func(values ...float32) []Tensor {
		return []Tensor{Of("y", []int64{int64(len(values))}, values)}
	}
	nan := float32(math.NaN())
	ints := func(n int32) []Tensor { return []Tensor{Of("y", []int64{1}, []int32{n})} }
	wide := func(x float64) []Tensor { return []Tensor{Of("y", []int64{1}, []float64{x})} }
	halves := func(kind Type, bits uint16) []Tensor {
		return []Tensor{{Name: "y", Type: kind, Shape: []int64{1}, Data: []byte{byte(bits), byte(bits >> 8)}}}
	}
	texts := func(s string) []Tensor {
		return []Tensor{OfStrings("y", []int64{1}, []string{s})}
	}
	for name, c := range map[string]struct {
		a, b []Tensor
		want bool
	}{
		"equal":              {of(1, 2), of(1, 2), true},
		"rounded":            {of(1, 2), of(1.00001, 2), true},
		"different":          {of(1, 2), of(1.01, 2), false},
		"next to nothing":    {of(1000, 1e-5), of(1000, -1e-5), true},
		"a small column":     {of(1000, 1), of(1000, 2), false},
		"NaN":                {of(nan), []Tensor{Of("y", []int64{1}, []float32{math.Float32frombits(0x7fc00001)})}, true},
		"NaN and a number":   {of(nan), of(1), false},
		"a number and NaN":   {of(1), of(nan), false},
		"infinite":           {of(float32(math.Inf(1)), 1), of(float32(math.Inf(-1)), 1), false},
		"-0":                 {of(0), of(float32(math.Copysign(0, -1))), true},
		"integers":           {ints(100000), ints(100001), false},
		"doubles":            {wide(1), wide(1.00001), true},
		"doubles apart":      {wide(1), wide(1.001), false},
		"halves":             {halves(FP16, 0x3c00), halves(FP16, 0x3c01), true},
		"halves apart":       {halves(FP16, 0x3c00), halves(FP16, 0x3d00), false},
		"brain floats":       {halves(BF16, 0x3f80), halves(BF16, 0x3f81), true},
		"brain floats apart": {halves(BF16, 0x3f80), halves(BF16, 0x3f90), false},
		"another number of":  {of(1), of(1, 1), false},
		"another output":     {of(1), append(of(1), of(1)...), false},
		"texts":              {texts("a"), texts("a"), true},
		"other texts":        {texts("a"), texts("b"), false},
		"another type":       {ints(1), of(math.Float32frombits(1)), false},
	} {
		if got := Near(c.a, c.b); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestHalf(t *testing.T) {
	for bits, want := range map[uint16]float64{
		0: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 1: math.Ldexp(1, -24), 0x03ff: math.Ldexp(1023, -24), 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1),
	} {
		if got := half(bits); got != want {
			t.Errorf("half(%#x): got %v, want %v", bits, got, want)
		}
	}
	if got := half(0x7e00); !math.IsNaN(got) {
		t.Errorf("half(0x7e00): got %v, want NaN", got)
	}
}

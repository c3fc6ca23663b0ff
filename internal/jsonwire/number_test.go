package jsonwire

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// checkFloat compares what both float types make of a literal with what strconv
// makes of it, once by the fast way and once by the complete one, which texts
// take that end soon. JSON's number literals are a part of strconv's.
func checkFloat(t *testing.T, literal string) {
	t.Helper()
	for _, kind := range []tensor.Type{tensor.FP32, tensor.FP64} {
		size := 8 * kind.Size()
		want, err := strconv.ParseFloat(literal, size)
		for _, tail := range []string{"", "                        "} {
			s := Scanner{Text: []byte(literal + tail + "]")}
			x := tensor.Tensor{Type: kind, Data: tensor.Raw([]uint64{0})}
			misfit := ""
			_, broken := s.Run(&x, 0, 1, func(x *tensor.Tensor, i int) (err error) {
				misfit, err = s.Value(x, i)
				return err
			})
			if broken != nil || (misfit == "") != (err == nil) {
				t.Fatalf("%s %s: got %v %q, strconv says %v", kind, literal, broken, misfit, err)
			}
			if err != nil {
				continue
			}
			var got float64
			if kind == tensor.FP32 {
				got = float64(tensor.View[float32](x.Data)[0])
			} else {
				got = tensor.View[float64](x.Data)[0]
			}
			if math.Float64bits(got) != math.Float64bits(want) {
				t.Fatalf("%s %s: got %v, want %v", kind, literal, got, want)
			}
		}
	}
}

func TestFloats(t *testing.T) {
	for _, literal := range []string{
		"0", "-0", "0.0", "-0.0e5", "0e-999", "1", "-1", "10", "12345678", "123456789", "1234567890123456789", "12345678901234567890",
		"0.1", "0.12345678", "0.123456789", "0.1234567890123456789", "0.12345678901234567890", "0.00000000000000000001234",
		"1e1", "1e+1", "1E-1", "1e22", "1e23", "1e-22", "1e-23", "1e38", "1e39", "1e308", "1e309", "1e-45", "1e-46", "5e-324", "2e-324", "1e-400", "1e0000000000000000001",
		"9007199254740992", "9007199254740993", "9007199254740993.0", "9007199254740993.00000000000000001", "9007199254740995", "1.5e300",
		// Halfway between two float32s, a hair above, and a hair below.
		"16777217", "16777217.000000001", "16777216.999999999", "16777219", "1.00000005960464477539", "1.000000059604644775390625", "1.0000000596046447753906251",
		"33554434.0", "0.50000002980232238769531250", "8388608.5", "8388609.5", "8388608.500000001",
		// Halfway between two float64s.
		"1.00000000000000011102230246251565", "1.000000000000000111022302462515654042363166809082031250", "4503599627370496.5", "4503599627370497.5", "4503599627370497.500001",
		// The borders of both types.
		"3.4028234663852886e38", "3.4028235677973366e38", "3.4028235677973365e38", "1.1754943508222875e-38", "1.1754942807573643e-38", "7.006492321624085e-46", "7.006492321624086e-46",
		"1.7976931348623157e308", "1.7976931348623159e308", "2.2250738585072014e-308", "2.2250738585072011e-308",
		"18446744073709551615", "18446744073709551616", "9999999999999999999", "9999999999999999999e19", "1e-19", "9999999999999999999e-19",
	} {
		checkFloat(t, literal)
	}
}

// Random numbers in the forms in which programs write them.
func TestFloatsAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 5_000 {
		f32 := math.Float32frombits(random.Uint32())
		f64 := math.Float64frombits(random.Uint64())
		for _, f := range []float64{float64(f32), f64, random.NormFloat64(), random.Float64(), random.ExpFloat64() * 1e6} {
			if math.IsNaN(f) || math.IsInf(f, 0) {
				continue
			}
			checkFloat(t, strconv.FormatFloat(f, 'g', -1, 64))
			checkFloat(t, strconv.FormatFloat(f, 'e', random.IntN(20), 64))
			if a := math.Abs(f); a < 1e18 && a > 1e-18 {
				checkFloat(t, strconv.FormatFloat(f, 'f', random.IntN(20), 64))
			}
			if g := float32(f); !math.IsInf(float64(g), 0) {
				checkFloat(t, strconv.FormatFloat(float64(g), 'g', -1, 32))
			}
		}
		// The number halfway between two float32s.
		if half := (float64(f32) + float64(math.Nextafter32(f32, 0))) / 2; !math.IsNaN(half) && math.Abs(half) > 1e-30 {
			checkFloat(t, strconv.FormatFloat(half, 'f', -1, 64))
		}
	}
}

func TestIntegersAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 100_000 {
		n := int64(random.Uint64()) >> random.IntN(64)
		literal := strconv.FormatInt(n, 10)
		got, negative, end := integerAt([]byte(literal+",       "), 0)
		if negative {
			got = -got
		}
		if int64(got) != n || end != len(literal) {
			t.Fatalf("%s: got %d, end %d", literal, int64(got), end)
		}
	}
}

// What is written reads back as the same float.
func TestAppendFloat(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 100_000 {
		f32 := math.Float32frombits(random.Uint32())
		if !math.IsNaN(float64(f32)) && !math.IsInf(float64(f32), 0) {
			text := string(AppendFloat(nil, float64(f32), 32))
			if got, err := strconv.ParseFloat(text, 32); err != nil || math.Float32bits(float32(got)) != math.Float32bits(f32) || len(text) >= widest[tensor.FP32] {
				t.Fatalf("%v is written as %s, %v", f32, text, err)
			}
		}
		f64 := math.Float64frombits(random.Uint64())
		if !math.IsNaN(f64) && !math.IsInf(f64, 0) {
			text := string(AppendFloat(nil, f64, 64))
			if got, err := strconv.ParseFloat(text, 64); err != nil || math.Float64bits(got) != math.Float64bits(f64) || len(text) >= widest[tensor.FP64] {
				t.Fatalf("%v is written as %s, %v", f64, text, err)
			}
		}
	}
}

// The own way to write float32s gives what strconv gives, to the letter. Only
// powers of two that lie halfway between two decimals strconv rounds up.
func TestAppendFraction(t *testing.T) {
	check := func(f float32) {
		if f < 1e-4 || f >= 1<<24 || f == float32(int64(f)) {
			return
		}
		got, want := string(appendFraction(nil, f)), strconv.FormatFloat(float64(f), 'f', -1, 32)
		back, err := strconv.ParseFloat(got, 32)
		halfway := math.Float32bits(f)<<9 == 0 && len(got) == len(want) && err == nil && float32(back) == f
		if got != want && !halfway {
			t.Fatalf("%x: got %s, want %s", math.Float32bits(f), got, want)
		}
	}
	for power := float32(1. / 16384); power < 1<<24; power *= 2 { // both ends of every exponent
		for i := range uint32(1000) {
			check(math.Float32frombits(math.Float32bits(power) + i))
			check(math.Float32frombits(math.Float32bits(power) - i))
		}
	}
	from, to := math.Float32bits(1e-4), math.Float32bits(1<<24)
	for b := from; b < to; b += 997 {
		check(math.Float32frombits(b))
	}
	for i := range 100_000 {
		check(float32(i) / 1000)
	}
}

// FuzzFloat compares the reading of numbers with strconv's.
func FuzzFloat(f *testing.F) {
	f.Fuzz(func(t *testing.T, literal string) {
		s := Scanner{Text: []byte(literal)}
		if _, _, err := s.Number(); err != nil || s.Pos != len(literal) {
			return
		}
		checkFloat(t, literal)
	})
}

package tensor

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

func TestTypesAreNamedAsInTheProtocol(t *testing.T) {
	sizes := map[string]int{
		"BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
		"FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "BYTES": 0,
	}
	for name, size := range sizes {
		typ, err := ParseType(name)
		if err != nil || typ.String() != name || typ.Size() != size {
			t.Errorf("%s: got %s of %d bytes, %v, want %d bytes", name, typ, typ.Size(), err, size)
		}
	}
	for _, name := range []string{"", "INVALID", "fp32", "FP128", strings.Repeat("x", 1000)} {
		if _, err := ParseType(name); !fault.Is(err, fault.Invalid) || len(err.Error()) > 300 {
			t.Errorf("%.20q: got %v, want one short Invalid sentence", name, err)
		}
	}
}

func TestElements(t *testing.T) {
	for _, test := range []struct {
		shape []int64
		want  int64
		err   string
	}{
		{nil, 1, ""},
		{[]int64{7}, 7, ""},
		{[]int64{1, 3, 224, 224}, 150528, ""},
		{[]int64{math.MaxInt64, 0, math.MaxInt64}, 0, ""},
		{[]int64{math.MaxInt64}, math.MaxInt64, ""},
		{[]int64{1 << 32, 1 << 31}, 0, "more elements than 64 bits can count"},
		{[]int64{math.MaxInt64, 2}, 0, "more elements than 64 bits can count"},
		{[]int64{3037000500, 3037000500}, 0, "more elements than 64 bits can count"},
		{[]int64{0, -1}, 0, "shape [0,-1] has a negative dimension"},
		{make([]int64, MaxRank), 0, ""},
		{make([]int64, MaxRank+1), 0, "shape has 33 dimensions, the limit is 32"},
	} {
		got, err := Elements(test.shape)
		if got != test.want || (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%v: got %d, %v, want %d, %q", test.shape, got, err, test.want, test.err)
		}
	}
}

func TestViewsShareMemory(t *testing.T) {
	values := []float32{1, 2, 3}
	x := Of("x", []int64{3}, values)
	if x.Type != FP32 || len(x.Data) != 12 || !Aligned(x.Data, FP32) {
		t.Fatalf("got %s of %d bytes", x.Type, len(x.Data))
	}
	View[float32](x.Data)[1] = 7
	if want := []float32{1, 7, 3}; !slices.Equal(values, want) {
		t.Errorf("got %v, want %v", values, want)
	}
	if got := View[uint64](make([]byte, 17)); len(got) != 2 {
		t.Errorf("17 bytes hold %d whole elements of 8, want 2", len(got))
	}
	if Raw[int64](nil) != nil || View[int64](nil) != nil {
		t.Error("nothing became something")
	}
	if Aligned(Raw(make([]uint64, 2))[1:], Int64) {
		t.Error("an odd address passed for aligned")
	}
}

func TestOfKnowsEachType(t *testing.T) {
	for _, test := range []struct {
		got  Tensor
		want Type
	}{
		{Of("", nil, []bool{true}), Bool},
		{Of("", nil, []uint8{1}), Uint8},
		{Of("", nil, []uint16{1}), Uint16},
		{Of("", nil, []uint32{1}), Uint32},
		{Of("", nil, []uint64{1}), Uint64},
		{Of("", nil, []int8{1}), Int8},
		{Of("", nil, []int16{1}), Int16},
		{Of("", nil, []int32{1}), Int32},
		{Of("", nil, []int64{1}), Int64},
		{Of("", nil, []float32{1}), FP32},
		{Of("", nil, []float64{1}), FP64},
		{OfStrings("", nil, []string{"a"}), Bytes},
	} {
		if test.got.Type != test.want || len(test.got.Data) != test.want.Size() {
			t.Errorf("got %s of %d bytes, want %s", test.got.Type, len(test.got.Data), test.want)
		}
	}
}

func TestSpecAccepts(t *testing.T) {
	spec := Spec{Name: "x", Type: FP32, Shape: []int64{-1, 2}}
	for _, test := range []struct {
		tensor Tensor
		err    string
	}{
		{Tensor{Type: FP32, Shape: []int64{5, 2}}, ""},
		{Tensor{Type: FP32, Shape: []int64{0, 2}}, ""},
		{Tensor{Type: FP64, Shape: []int64{5, 2}}, `input "x": datatype is FP64, the model expects FP32`},
		{Tensor{Type: FP32, Shape: []int64{5, 3}}, `input "x": shape is [5,3], the model expects [-1,2]`},
		{Tensor{Type: FP32, Shape: []int64{2}}, `input "x": shape is [2], the model expects [-1,2]`},
		{Tensor{Type: FP32}, `input "x": shape is [], the model expects [-1,2]`},
	} {
		err := spec.Accepts(&test.tensor)
		if (err != nil) != (test.err != "") || err != nil && err.Error() != test.err {
			t.Errorf("%s %v: got %v, want %q", test.tensor.Type, test.tensor.Shape, err, test.err)
		}
	}
}

func TestClipKeepsMessagesShort(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("a", 64), strings.Repeat("a", 64)},
		{strings.Repeat("a", 65), strings.Repeat("a", 64) + "…"},
		{strings.Repeat("a", 63) + "é", strings.Repeat("a", 63) + "…"}, // not half a letter
	} {
		if got := Clip(test.in); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

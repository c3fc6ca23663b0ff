package oip

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func TestAppend(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		name     string
		response Response
		want     string
		tail     string // the binary part
	}{
		{"least", Response{ModelName: "m"}, `{"model_name":"m","outputs":[]}`, ""},
		{
			"all members",
			Response{ModelName: "m", ModelVersion: "2", ID: "i<d>&\"\\\n\x01é\u2028", Parameters: Parameters{"b": true, "a": "x", "c": int64(-1), "d": uint64(math.MaxUint64), "e": 0.25}},
			`{"model_name":"m","model_version":"2","id":"i<d>&\"\\\n\u0001é` + "\u2028" + `","parameters":{"a":"x","b":true,"c":-1,"d":18446744073709551615,"e":0.25},"outputs":[]}`, "",
		},
		{"name that is not UTF-8", Response{ModelName: "m\xff"}, `{"model_name":"m` + "\uFFFD" + `","outputs":[]}`, ""},
		{
			"floats",
			Response{Outputs: []tensor.Tensor{tensor.Of("f", []int64{2, 6}, []float32{0, float32(math.Copysign(0, -1)), 1, -16777216, 0.1, 2e-4, 9.9e-5, 3.4028235e38, 1e-45, float32(inf), float32(-inf), float32(math.NaN())})}},
			`{"model_name":"","outputs":[{"name":"f","datatype":"FP32","shape":[2,6],"data":[0,-0,1,-16777216,0.1,0.0002,9.9e-05,3.4028235e+38,1e-45,null,null,null]}]}`, "",
		},
		{
			"doubles",
			Response{Outputs: []tensor.Tensor{tensor.Of("d", []int64{6}, []float64{1. / 3, 1e15, 1e16, 1e-4, -5e-324, math.MaxFloat64})}},
			`{"model_name":"","outputs":[{"name":"d","datatype":"FP64","shape":[6],"data":[0.3333333333333333,1000000000000000,1e+16,0.0001,-5e-324,1.7976931348623157e+308]}]}`, "",
		},
		{
			"integers",
			Response{Outputs: []tensor.Tensor{
				tensor.Of("a", []int64{2}, []int8{-128, 127}), tensor.Of("b", []int64{1}, []uint64{math.MaxUint64}), tensor.Of("c", []int64{1}, []int64{math.MinInt64}),
			}},
			`{"model_name":"","outputs":[{"name":"a","datatype":"INT8","shape":[2],"data":[-128,127]},{"name":"b","datatype":"UINT64","shape":[1],"data":[18446744073709551615]},{"name":"c","datatype":"INT64","shape":[1],"data":[-9223372036854775808]}]}`, "",
		},
		{
			"bools",
			Response{Outputs: []tensor.Tensor{tensor.Of("b", []int64{2}, []bool{true, false})}},
			`{"model_name":"","outputs":[{"name":"b","datatype":"BOOL","shape":[2],"data":[true,false]}]}`, "",
		},
		{
			"strings",
			Response{Outputs: []tensor.Tensor{tensor.OfStrings("s", []int64{3}, []string{"", "<é>", "\t\r\"\\\x7f\x1f"})}},
			`{"model_name":"","outputs":[{"name":"s","datatype":"BYTES","shape":[3],"data":["","<é>","\t\r\"\\` + "\x7f" + `\u001f"]}]}`, "",
		},
		{
			"scalar and nothing",
			Response{Outputs: []tensor.Tensor{tensor.Of("x", nil, []uint8{1}), tensor.Of("y", []int64{2, 0}, []uint8{})}},
			`{"model_name":"","outputs":[{"name":"x","datatype":"UINT8","shape":[],"data":[1]},{"name":"y","datatype":"UINT8","shape":[2,0],"data":[]}]}`, "",
		},
		{
			"binary and not",
			Response{Binary: []bool{true, false, true}, Outputs: []tensor.Tensor{
				tensor.Of("a", []int64{2}, []uint16{1, 258}), tensor.Of("b", []int64{1}, []uint8{7}), tensor.OfStrings("c", []int64{2}, []string{"xyz", "\xff"}),
			}},
			`{"model_name":"","outputs":[{"name":"a","datatype":"UINT16","shape":[2],"parameters":{"binary_data_size":4}},{"name":"b","datatype":"UINT8","shape":[1],"data":[7]},{"name":"c","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":12}}]}`,
			"\x01\x00\x02\x01" + "\x03\x00\x00\x00xyz\x01\x00\x00\x00\xff",
		},
		{
			"binary nothing",
			Response{Binary: []bool{true}, Outputs: []tensor.Tensor{tensor.Of("a", []int64{0}, []uint16{})}},
			`{"model_name":"","outputs":[{"name":"a","datatype":"UINT16","shape":[0],"parameters":{"binary_data_size":0}}]}`, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			const before = "before"
			got, header, err := c.response.Append([]byte(before))
			if err != nil {
				t.Fatal(err)
			}
			if want := before + c.want + c.tail; string(got) != want {
				t.Errorf("body:\n got %q\nwant %q", got, want)
			}
			want := -1
			if c.response.Binary != nil {
				want = len(c.want)
			}
			if header != want {
				t.Errorf("header: got %d, want %d", header, want)
			}
			if !json.Valid([]byte(c.want)) {
				t.Errorf("not JSON: %s", c.want)
			}
		})
	}
}

func TestAppendRefuses(t *testing.T) {
	for _, c := range []struct {
		output tensor.Tensor
		want   string
	}{
		{tensor.Tensor{Name: "y", Type: tensor.FP16, Shape: []int64{1}, Data: []byte{0, 0}}, `output "y": JSON can't carry FP16, ask for it with binary_data`},
		{tensor.Tensor{Name: "y", Type: tensor.BF16, Shape: []int64{1}, Data: []byte{0, 0}}, `output "y": JSON can't carry BF16, ask for it with binary_data`},
		{tensor.OfStrings("y", []int64{2}, []string{"a", "\xff"}), `output "y": element 1 is not valid UTF-8, ask for it with binary_data`},
	} {
		r := Response{Outputs: []tensor.Tensor{c.output}}
		_, _, err := r.Append(nil)
		if err == nil || fault.Message(err) != c.want || fault.KindOf(err) != fault.Invalid {
			t.Errorf("got %v, want %s", err, c.want)
		}
		r.Binary = []bool{true}
		if _, _, err := r.Append(nil); err != nil {
			t.Errorf("%s as binary: %v", c.output.Type, err)
		}
	}
}

// The room made ahead is enough for the widest elements of every type, so that
// Append grows once.
func TestRoom(t *testing.T) {
	const n = 10_000
	fill := func(kind tensor.Type, pattern ...byte) tensor.Tensor {
		return tensor.Tensor{Name: "x", Type: kind, Shape: []int64{n}, Data: []byte(strings.Repeat(string(pattern), n))}
	}
	fp32 := func(f float32) tensor.Tensor { return fill(tensor.FP32, tensor.Raw([]float32{f})...) }
	fp64 := func(f float64) tensor.Tensor { return fill(tensor.FP64, tensor.Raw([]float64{f})...) }
	for _, x := range []tensor.Tensor{
		fill(tensor.Bool, 0), fill(tensor.Uint8, 255), fill(tensor.Uint16, 255, 255), fill(tensor.Int8, 128), fill(tensor.Int16, 0, 128),
		fill(tensor.Uint32, 255, 255, 255, 255), fill(tensor.Int32, 0, 0, 0, 128),
		fill(tensor.Uint64, 255, 255, 255, 255, 255, 255, 255, 255), fill(tensor.Int64, 0, 0, 0, 0, 0, 0, 0, 128),
		fp32(-1.17549435e-38), fp32(-0.000123456789), fp32(-9999999000000000), fp32(-16777.217),
		fp64(-2.2250738585072014e-308), fp64(-0.00012345678901234567), fp64(-9999999999999998), fp64(-1.2345678901234567),
		tensor.OfStrings("x", []int64{n}, make([]string, n)),
	} {
		r := Response{ModelName: "m", Outputs: []tensor.Tensor{x}}
		body, _, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, most := len(body), r.room(); got > most {
			t.Errorf("%s %x: got %d bytes, more than the %d made ahead", x.Type, x.Data[:min(8, len(x.Data))], got, most)
		}
	}
}

// asRequest turns a response's body into the request whose inputs are its
// outputs: they are written alike.
func asRequest(body []byte) []byte {
	return []byte(strings.Replace(string(body), `,"outputs":[`, `,"inputs" :[`, 1))
}

func TestRoundTrip(t *testing.T) {
	all := []tensor.Tensor{
		tensor.Of("bool", []int64{2, 2}, []bool{true, false, false, true}),
		tensor.Of("uint8", []int64{2}, []uint8{0, 255}),
		tensor.Of("uint16", []int64{2}, []uint16{0, 65535}),
		tensor.Of("uint32", []int64{2}, []uint32{0, math.MaxUint32}),
		tensor.Of("uint64", []int64{2}, []uint64{0, math.MaxUint64}),
		tensor.Of("int8", []int64{2}, []int8{-128, 127}),
		tensor.Of("int16", []int64{2}, []int16{-32768, 32767}),
		tensor.Of("int32", []int64{2}, []int32{math.MinInt32, math.MaxInt32}),
		tensor.Of("int64", []int64{2}, []int64{math.MinInt64, math.MaxInt64}),
		tensor.Of("fp32", []int64{6}, []float32{float32(math.Copysign(0, -1)), 0.1, -16777217.5, 1e-45, math.MaxFloat32, 1.1754944e-38}),
		tensor.Of("fp64", []int64{6}, []float64{math.Copysign(0, -1), 0.1, -1e22, 5e-324, math.MaxFloat64, 2.2250738585072014e-308}),
		tensor.OfStrings("bytes", []int64{3}, []string{"", "é\u2028\x00\"", "plain"}),
		tensor.Of("scalar", []int64{}, []int32{5}),
		tensor.Of("nothing", []int64{3, 0}, []int32{}),
		// From here on for binary only.
		{Name: "fp16", Type: tensor.FP16, Shape: []int64{1}, Data: []byte{1, 2}},
		{Name: "bf16", Type: tensor.BF16, Shape: []int64{1}, Data: []byte{3, 4}},
		tensor.Of("nan", []int64{2}, []float32{float32(math.NaN()), float32(math.Inf(-1))}),
		tensor.OfStrings("any", []int64{1}, []string{"\xff\xfe"}),
	}
	const plain = 14
	for _, c := range []struct {
		name   string
		binary func(i int) bool
		n      int
	}{
		{"JSON", func(int) bool { return false }, plain},
		{"binary", func(int) bool { return true }, len(all)},
		{"mixed", func(i int) bool { return i%2 == 0 || i >= plain }, len(all)},
	} {
		t.Run(c.name, func(t *testing.T) {
			response := Response{ModelName: "m", Outputs: all[:c.n], Binary: make([]bool, c.n)}
			for i := range response.Binary {
				response.Binary[i] = c.binary(i)
			}
			body, header, err := response.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			var r Request
			if err := r.Decode(asRequest(body), header); err != nil {
				t.Fatal(err)
			}
			if len(r.Inputs) != c.n {
				t.Fatalf("got %d tensors, want %d", len(r.Inputs), c.n)
			}
			for i, got := range r.Inputs {
				if !equal(got, all[i]) {
					t.Errorf("got %v, want %v", got, all[i])
				}
			}
		})
	}
}

func TestAppendError(t *testing.T) {
	got := string(AppendError(nil, `input "x": <shape>`))
	if want := `{"error":"input \"x\": <shape>"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

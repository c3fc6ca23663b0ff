package oip

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// one wraps the members of a single input into a request.
func one(members string) string { return `{"inputs":[{` + members + `}]}` }

// x is a request with one input "x".
func x(datatype, shape, data string) string {
	return one(fmt.Sprintf(`"name":"x","shape":%s,"datatype":%q,"data":%s`, shape, datatype, data))
}

// equal compares tensors, in which nil and empty are the same.
func equal(a, b tensor.Tensor) bool {
	return a.Name == b.Name && a.Type == b.Type && fmt.Sprint(a.Shape) == fmt.Sprint(b.Shape) &&
		string(a.Data) == string(b.Data) && fmt.Sprintf("%q", a.Strings) == fmt.Sprintf("%q", b.Strings)
}

func TestDecodeInputs(t *testing.T) {
	negativeZero := float32(math.Copysign(0, -1))
	for _, c := range []struct {
		name string
		body string
		want tensor.Tensor
	}{
		{"bool", x("BOOL", "[3]", "[true,false,true]"), tensor.Of("x", []int64{3}, []bool{true, false, true})},
		{"uint8", x("UINT8", "[3]", "[0,255,-0]"), tensor.Of("x", []int64{3}, []uint8{0, 255, 0})},
		{"uint16", x("UINT16", "[2]", "[0,65535]"), tensor.Of("x", []int64{2}, []uint16{0, 65535})},
		{"uint32", x("UINT32", "[2]", "[0,4294967295]"), tensor.Of("x", []int64{2}, []uint32{0, math.MaxUint32})},
		{"uint64", x("UINT64", "[2]", "[9,18446744073709551615]"), tensor.Of("x", []int64{2}, []uint64{9, math.MaxUint64})},
		{"int8", x("INT8", "[2]", "[-128,127]"), tensor.Of("x", []int64{2}, []int8{-128, 127})},
		{"int16", x("INT16", "[2]", "[-32768,32767]"), tensor.Of("x", []int64{2}, []int16{-32768, 32767})},
		{"int32", x("INT32", "[2]", "[-2147483648,2147483647]"), tensor.Of("x", []int64{2}, []int32{math.MinInt32, math.MaxInt32})},
		{"int64", x("INT64", "[2]", "[-9223372036854775808,9223372036854775807]"), tensor.Of("x", []int64{2}, []int64{math.MinInt64, math.MaxInt64})},
		{"fp32", x("FP32", "[5]", "[1,-0.0,1.5e2,0.1,3.4028235E+38]"), tensor.Of("x", []int64{5}, []float32{1, negativeZero, 150, 0.1, math.MaxFloat32})},
		{"fp64", x("FP64", "[4]", "[-7,0.1,5e-324,1.7976931348623157e308]"), tensor.Of("x", []int64{4}, []float64{-7, 0.1, 5e-324, math.MaxFloat64})},
		{"bytes", x("BYTES", "[3]", `["","a\"\\\/\b\f\n\r\t","é€𝄞 \u00e9\u20AC\ud834\udd1e \u0000"]`), tensor.OfStrings("x", []int64{3}, []string{"", "a\"\\/\b\f\n\r\t", "é€𝄞 é€𝄞 \x00"})},
		{"scalar", x("INT32", "[]", "5"), tensor.Of("x", []int64{}, []int32{5})},
		{"scalar in an array", x("INT32", "[]", "[5]"), tensor.Of("x", []int64{}, []int32{5})},
		{"scalar string", x("BYTES", "[]", `"s"`), tensor.OfStrings("x", []int64{}, []string{"s"})},
		{"flat", x("INT8", "[2,3]", "[1,2,3,4,5,6]"), tensor.Of("x", []int64{2, 3}, []int8{1, 2, 3, 4, 5, 6})},
		{"nested", x("INT8", "[2,3]", "[[1,2,3],[4,5,6]]"), tensor.Of("x", []int64{2, 3}, []int8{1, 2, 3, 4, 5, 6})},
		{"nested deep", x("INT8", "[2,1,2]", "[[[1,2]],[[3,4]]]"), tensor.Of("x", []int64{2, 1, 2}, []int8{1, 2, 3, 4})},
		{"nested strings", x("BYTES", "[2,1]", `[["a"],["b"]]`), tensor.OfStrings("x", []int64{2, 1}, []string{"a", "b"})},
		{"spaces", " \t\r\n{ \"inputs\" : [ { \"name\" : \"x\" , \"shape\" : [ 2 , 1 ] , \"datatype\" : \"FP32\" , \"data\" : [ [ 1.5 ] , [ 2 ] ] } ] } \n", tensor.Of("x", []int64{2, 1}, []float32{1.5, 2})},
		{"nothing", x("FP32", "[0]", "[]"), tensor.Of("x", []int64{0}, []float32{})},
		{"nothing, flat", x("FP32", "[2,0]", "[ ]"), tensor.Of("x", []int64{2, 0}, []float32{})},
		{"nothing, nested", x("FP32", "[2,0]", "[[],[]]"), tensor.Of("x", []int64{2, 0}, []float32{})},
		{"nothing, no rows", x("FP32", "[0,9223372036854775807]", "[]"), tensor.Of("x", []int64{0, math.MaxInt64}, []float32{})},
		{"data first", one(`"data":[[1],[2]],"datatype":"INT64","name":"x","shape":[2,1]`), tensor.Of("x", []int64{2, 1}, []int64{1, 2})},
		{"data before shape", one(`"name":"x","datatype":"BYTES","data":["a","b"],"shape":[2]`), tensor.OfStrings("x", []int64{2}, []string{"a", "b"})},
		{"name last", one(`"shape":[1],"datatype":"UINT8","data":[7],"name":"x"`), tensor.Of("x", []int64{1}, []uint8{7})},
		{"escaped keys", `{"\u0069nputs":[{"n\u0061me":"\u0078","shape":[1],"datatype":"UINT\u0038","data":[7]}]}`, tensor.Of("x", []int64{1}, []uint8{7})},
		{"unknown members", `{"model_name":null,"a":{"b":[[],{},[{"c":"\n"}],-1.5e+3,true]},"a":1,"inputs":[{"x":[1,{}],"name":"x","shape":[1],"datatype":"UINT8","data":[7],"y":false}]}`, tensor.Of("x", []int64{1}, []uint8{7})},
		{"null for what may be left out", `{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[7],"parameters":null}]}`, tensor.Of("x", []int64{1}, []uint8{7})},
		{"parameters of the input", one(`"name":"x","shape":[1],"datatype":"UINT8","data":[7],"parameters":{"content_type":"np"}`), tensor.Of("x", []int64{1}, []uint8{7})},
		{"long strings", x("BYTES", "[2]", `["`+strings.Repeat("é", 5000)+`","`+strings.Repeat("a", 77)+`"]`), tensor.OfStrings("x", []int64{2}, []string{strings.Repeat("é", 5000), strings.Repeat("a", 77)})},
		{"long number", x("FP32", "[1]", "[0."+strings.Repeat("3", 500)+"]"), tensor.Of("x", []int64{1}, []float32{1. / 3})},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Request
			for range 2 { // the second one in used memory
				if err := r.Decode([]byte(c.body), -1); err != nil {
					t.Fatalf("Decode(%s): %v", c.body, err)
				}
				if len(r.Inputs) != 1 || !equal(r.Inputs[0], c.want) {
					t.Fatalf("Decode(%s):\n got %+v\nwant %+v", c.body, r.Inputs, c.want)
				}
			}
		})
	}
}

func TestDecodeWhole(t *testing.T) {
	body := `{"id":"a\u0062c","parameters":{"sequence_id":18446744073709551615,"binary_data_output":true,"priority":-3,"temperature":0.5,"mode":"fast","on":false,"none":null},
		"outputs":[{"name":"p"},{"name":"q","parameters":{"binary_data":false,"classification":3}},{"name":"r","parameters":{"binary_data":true},"more":1}],
		"inputs":[{"name":"a","shape":[1],"datatype":"BYTES","data":["s"]},{"name":"b","shape":[1],"datatype":"FP64","data":[2.5]}]}`
	var r Request
	if err := r.Decode([]byte(body), -1); err != nil {
		t.Fatal(err)
	}
	if got, want := r.ID, "abc"; got != want {
		t.Errorf("ID: got %q, want %q", got, want)
	}
	if want := (Parameters{"sequence_id": uint64(math.MaxUint64), "priority": int64(-3), "temperature": 0.5, "mode": "fast", "on": false}); !reflect.DeepEqual(r.Parameters, want) {
		t.Errorf("Parameters: got %v, want %v", r.Parameters, want)
	}
	if !r.BinaryOutput {
		t.Error("BinaryOutput: got false, want true")
	}
	if want := []Output{{"p", true, nil}, {"q", false, Parameters{"classification": int64(3)}}, {"r", true, nil}}; !reflect.DeepEqual(r.Outputs, want) {
		t.Errorf("Outputs: got %v, want %v", r.Outputs, want)
	}
	want := []tensor.Tensor{tensor.OfStrings("a", []int64{1}, []string{"s"}), tensor.Of("b", []int64{1}, []float64{2.5})}
	if len(r.Inputs) != 2 || !equal(r.Inputs[0], want[0]) || !equal(r.Inputs[1], want[1]) {
		t.Errorf("Inputs: got %v, want %v", r.Inputs, want)
	}

	// Nothing of it is left when the Request is used again.
	if err := r.Decode([]byte(x("UINT8", "[1]", "[1]")), -1); err != nil {
		t.Fatal(err)
	}
	if r.ID != "" || r.Parameters != nil || r.BinaryOutput || len(r.Outputs) != 0 || len(r.Inputs) != 1 {
		t.Errorf("second Decode: got %+v", r)
	}
}

func TestDecodeRefuses(t *testing.T) {
	const (
		broken = "the body is not valid JSON at byte "
		start  = `{"inputs":[{"name":"x","shape":`
	)
	good := x("UINT8", "[1]", "[1]")
	for _, c := range []struct{ name, body, want string }{
		// Not JSON.
		{"empty", "", "the body must be a JSON object"},
		{"array", "[]", "the body must be a JSON object"},
		{"byte order mark", "\ufeff{}", "the body must be a JSON object"},
		{"cut short", `{"id":"a"`, broken + "9: it ends where a comma or } is expected"},
		{"trailing garbage", good + "x", broken + "67: 'x' stands where the end of the request is expected"},
		{"trailing NUL", good + "\x00", broken + "67: byte 0x00 stands where the end of the request is expected"},
		{"trailing comma", `{"id":"a",}`, broken + "10: '}' stands where a key in quotes is expected"},
		{"trailing comma in data", x("UINT8", "[2]", "[1,]"), broken + "64: ']' stands where a value is expected"},
		{"no comma", `{"id":"a" "x":1}`, broken + "10: '\"' stands where a comma or } is expected"},
		{"no colon", `{"id" "a"}`, broken + "6: '\"' stands where a colon is expected"},
		{"single quotes", `{'id':1}`, broken + "1: '\\'' stands where a key in quotes is expected"},
		{"open string", `{"id":"a`, broken + "8: it ends where a closing quote is expected"},
		{"open escape", `{"id":"a\`, broken + "9: it ends where a closing quote is expected"},
		{"unknown escape", `{"id":"a\x"}`, broken + "8: an unknown escape in a string"},
		{"control character", "{\"id\":\"a\n\"}", broken + "8: a control character in a string must be escaped"},
		{"not UTF-8", "{\"id\":\"a\xff\"}", broken + "7: a string is not valid UTF-8"},
		{"UTF-8 of a surrogate", "{\"id\":\"\xed\xa0\x80\"}", broken + "7: a string is not valid UTF-8"},
		{"lone high surrogate", `{"id":"\ud834"}`, broken + "7: an escape does not name a character"},
		{"high surrogate and another character", `{"id":"\ud834\u0041"}`, broken + "7: an escape does not name a character"},
		{"lone low surrogate", `{"id":"\udd1e"}`, broken + "7: an escape does not name a character"},
		{"bad hex", `{"id":"\u12g4"}`, broken + "7: an escape does not name a character"},
		{"short hex", `{"id":"\u12"}`, broken + "7: an escape does not name a character"},
		{"word", `{"x":nul}`, broken + "5: 'n' stands where a value is expected"},
		{"leading zero", x("UINT8", "[1]", "[01]"), broken + "63: '1' stands where a comma or ] is expected"},
		{"leading zero of a float", x("FP32", "[1]", "[-00.5]"), broken + "63: '0' stands where a comma or ] is expected"},
		{"plus", x("FP32", "[1]", "[+1]"), broken + "61: '+' stands where a value is expected"},
		{"minus alone", x("FP32", "[1]", "[-]"), broken + "62: ']' stands where a digit is expected"},
		{"point first", x("FP32", "[1]", "[.5]"), broken + "61: '.' stands where a value is expected"},
		{"point last", x("FP32", "[1]", "[5.]"), broken + "63: ']' stands where a digit is expected"},
		{"no exponent", x("FP32", "[1]", "[5e+]"), broken + "64: ']' stands where a digit is expected"},
		{"NaN for an integer", x("INT32", "[1]", "[NaN]"), broken + "62: 'N' stands where a value is expected"},
		{"hexadecimal", x("FP32", "[1]", "[0x1]"), broken + "62: 'x' stands where a comma or ] is expected"},
		{"open array", start + `[1],"datatype":"UINT8","data":[1`, broken + "63: it ends where a comma or ] is expected"},
		{"wrong bracket", x("UINT8", "[1]", "[1}"), broken + "63: '}' stands where a comma or ] is expected"},
		{"broken unknown member", `{"x":{"y":[1,2,}]}}`, broken + "15: '}' stands where a value is expected"},
		{"deep", `{"x":` + strings.Repeat("[", 65) + `}`, broken + "69: values nest deeper than 64"},

		// Not a request.
		{"no inputs", `{}`, "inputs is missing or empty, at least one input is required"},
		{"empty inputs", `{"inputs":[]}`, "inputs is missing or empty, at least one input is required"},
		{"inputs null", `{"inputs":null}`, "inputs must be an array of objects"},
		{"inputs object", `{"inputs":{}}`, "inputs must be an array of objects"},
		{"input number", `{"inputs":[1]}`, "inputs[0] must be an object"},
		{"inputs twice", `{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}],"inputs":[]}`, "request: inputs is given twice"},
		{"id number", `{"id":1}`, "id must be a string"},
		{"no name", one(`"shape":[1],"datatype":"UINT8","data":[1]`), "inputs[0]: name is missing"},
		{"empty name", one(`"name":""`), "inputs[0]: name must be a string that is not empty"},
		{"name null", one(`"name":null`), "inputs[0]: name must be a string that is not empty"},
		{"name twice", one(`"name":"x","n\u0061me":"y"`), `input "x": name is given twice`},
		{"no datatype", one(`"name":"x","shape":[1],"data":[1]`), `input "x": datatype is missing`},
		{"no shape", one(`"name":"x","datatype":"UINT8","data":[1]`), `input "x": shape is missing`},
		{"no data", one(`"name":"x","datatype":"UINT8","shape":[1]`), `input "x": data is missing`},
		{"no data and no name yet", one(`"datatype":"UINT8","shape":[1],"data":["a"],"name":"x"`), `inputs[0]: data[0] is a string, but UINT8 takes an integer`},
		{"same name", `{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[1]},{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}]}`, `input "x" is given twice`},
		{"unknown datatype", one(`"name":"x","datatype":"FLOAT"`), `input "x": datatype "FLOAT" is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES`},
		{"datatype number", one(`"name":"x","datatype":1`), `input "x": datatype must be a string such as FP32`},
		{"shape string", one(`"name":"x","shape":"1"`), `input "x": shape must be an array of integers`},
		{"shape fraction", one(`"name":"x","shape":[2,1.0]`), `input "x": shape[1] must be an integer from 0 to 2^63-1`},
		{"shape negative", one(`"name":"x","shape":[-1]`), `input "x": shape[0] must be an integer from 0 to 2^63-1`},
		{"shape huge", one(`"name":"x","shape":[9223372036854775808]`), `input "x": shape[0] must be an integer from 0 to 2^63-1`},
		{"shape nested", one(`"name":"x","shape":[[1]]`), `input "x": shape[0] must be an integer from 0 to 2^63-1`},
		{"rank", one(`"name":"x","shape":[1` + strings.Repeat(",1", 32) + `]`), `input "x": shape has more than 32 dimensions`},
		{"product", x("UINT8", "[4294967296,4294967296]", "[1]"), `input "x": shape [4294967296,4294967296] has more elements than 64 bits can count`},
		{"shared memory", one(`"name":"x","parameters":{"shared_memory_region":"r"}`), `input "x": shared_memory_region is not supported, send the data with the request`},
		{"long name", one(`"name":"` + strings.Repeat("n", 99) + `"`), `input "` + strings.Repeat("n", 64) + `…": datatype is missing`},

		// Data.
		{"null data", x("FP32", "[1]", "null"), `input "x": data is null, but must be an array`},
		{"NaN", x("FP32", "[1]", "[NaN]"), `input "x": data[0] is NaN, which JSON can't carry, send the tensor as binary data`},
		{"Infinity", x("FP64", "[2]", "[1,-Infinity]"), `input "x": data[1] is -Infinity, which JSON can't carry, send the tensor as binary data`},
		{"null element", x("FP32", "[2]", "[1,null]"), `input "x": data[1] is null, but every element of a tensor must have a value`},
		{"data string", x("FP32", "[1]", `"1"`), `input "x": data must be an array`},
		{"data number", x("FP32", "[1]", `1`), `input "x": data must be an array`},
		{"FP16", x("FP16", "[1]", "[1]"), `input "x": JSON can't carry FP16, send the tensor as binary data`},
		{"BF16", x("BF16", "[1]", "[1]"), `input "x": JSON can't carry BF16, send the tensor as binary data`},
		{"too few", x("FP32", "[2,2]", "[1,2,3]"), `input "x": data has 3 elements, shape [2,2] takes 4`},
		{"too many", x("FP32", "[2,2]", "[1,2,3,4,5,6]"), `input "x": data has 6 elements, shape [2,2] takes 4`},
		{"none", x("FP32", "[1]", "[]"), `input "x": data has 0 elements, shape [1] takes 1`},
		{"some for nothing", x("FP32", "[0]", "[1,2]"), `input "x": data has 2 elements, shape [0] takes 0`},
		{"far too few", x("FP32", "[1000000000000]", "[1,2]"), `input "x": data has 2 elements, shape [1000000000000] takes 1000000000000`},
		{"far too few, nested", x("FP32", "[1000000000000,2]", "[[1,2]]"), `input "x": data is too short for shape [1000000000000,2]`},
		{"too few in a row", x("FP32", "[2,2]", "[[1,2],[3]]"), `input "x": data is nested otherwise than shape [2,2]: there is a row of 1 elements in place of 2`},
		{"too many in a row", x("FP32", "[2,2]", "[[1,2],[3,4,5]]"), `input "x": data is nested otherwise than shape [2,2]: there is a row of 3 elements in place of 2`},
		{"too few rows", x("FP32", "[2,2]", "[[1,2]]"), `input "x": data is nested otherwise than shape [2,2]: there is a row of 1 elements in place of 2`},
		{"too many rows", x("FP32", "[2,2]", "[[1,2],[3,4],[5,6]]"), `input "x": data is nested otherwise than shape [2,2]: there is a row of 3 elements in place of 2`},
		{"row missing", x("FP32", "[2,2]", "[[1,2],3,4]"), `input "x": data is nested otherwise than shape [2,2]: an array is missing at data[2]`},
		{"nested too deep", x("FP32", "[1,2]", "[[[1],[2]]]"), `input "x": data[0] is an array: data must be flat, or nested to shape [1,2]`},
		{"nested for one dimension", x("FP32", "[1]", "[[1]]"), `input "x": data[0] is an array: data must be flat, or nested to shape [1]`},
		{"flat, then nested", x("FP32", "[2,1]", "[1,[2]]"), `input "x": data[1] is an array: data must be flat, or nested to shape [2,1]`},
		{"scalar string for a number", x("FP32", "[]", `"a"`), `input "x": data[0] is a string, but FP32 takes a number`},
		{"scalar and more", x("FP32", "[]", `[1,2]`), `input "x": data has 2 elements, shape [] takes 1`},
		{"uint8 too large", x("UINT8", "[4]", "[1,2,3,300]"), `input "x": data[3] is 300, which does not fit UINT8`},
		{"uint8 too small", x("UINT8", "[1]", "[-1]"), `input "x": data[0] is -1, which does not fit UINT8`},
		{"int8 too small", x("INT8", "[1]", "[-129]"), `input "x": data[0] is -129, which does not fit INT8`},
		{"int8 too large", x("INT8", "[1]", "[128]"), `input "x": data[0] is 128, which does not fit INT8`},
		{"int64 too large", x("INT64", "[1]", "[9223372036854775808]"), `input "x": data[0] is 9223372036854775808, which does not fit INT64`},
		{"int64 too small", x("INT64", "[1]", "[-9223372036854775809]"), `input "x": data[0] is -9223372036854775809, which does not fit INT64`},
		{"uint64 too large", x("UINT64", "[1]", "[18446744073709551616]"), `input "x": data[0] is 18446744073709551616, which does not fit UINT64`},
		{"huge literal", x("INT64", "[1]", "["+strings.Repeat("9", 999)+"]"), `input "x": data[0] is ` + strings.Repeat("9", 64) + `…, which does not fit INT64`},
		{"fraction", x("INT32", "[2]", "[1,1.5]"), `input "x": data[1] is 1.5, but INT32 takes an integer without fraction and exponent`},
		{"exponent", x("INT32", "[2]", "[1e2,2]"), `input "x": data[0] is 1e2, but INT32 takes an integer without fraction and exponent`},
		{"fp32 too large", x("FP32", "[1]", "[3.5e38]"), `input "x": data[0] is 3.5e38, which does not fit FP32`},
		{"fp64 too large", x("FP64", "[1]", "[-1e309]"), `input "x": data[0] is -1e309, which does not fit FP64`},
		{"string for a number", x("FP32", "[1]", `["1"]`), `input "x": data[0] is a string, but FP32 takes a number`},
		{"bool for an integer", x("INT8", "[1]", `[true]`), `input "x": data[0] is a boolean, but INT8 takes an integer`},
		{"number for a bool", x("BOOL", "[1]", `[1]`), `input "x": data[0] is a number, but BOOL takes true or false`},
		{"number for a string", x("BYTES", "[1]", `[1]`), `input "x": data[0] is a number, but BYTES takes a string`},
		{"object for a string", x("BYTES", "[1]", `[{}]`), `input "x": data[0] is an object, but BYTES takes a string`},

		// Outputs and parameters.
		{"outputs object", `{"outputs":{}}`, "outputs must be an array of objects"},
		{"output string", `{"outputs":["y"]}`, "outputs[0] must be an object"},
		{"output without name", `{"outputs":[{}]}`, "outputs[0]: name is missing"},
		{"output with empty name", `{"outputs":[{"name":""}]}`, "outputs[0]: name must be a string that is not empty"},
		{"output twice", `{"outputs":[{"name":"y"},{"name":"y"}],` + good[1:], `output "y" is asked for twice`},
		{"binary_data number", `{"outputs":[{"name":"y","parameters":{"binary_data":1}}]}`, `output "y": binary_data must be true or false`},
		{"binary_data_output string", `{"parameters":{"binary_data_output":"true"}}`, `request: binary_data_output must be true or false`},
		{"parameters array", `{"parameters":[]}`, `request: parameters must be an object`},
		{"parameter object", `{"parameters":{"a":{}}}`, `request: parameter "a": it must be a string, a number or a boolean`},
		{"parameter too large", `{"parameters":{"a":18446744073709551616}}`, `request: parameter "a": 18446744073709551616 does not fit 64 bits`},
		{"parameter float too large", `{"parameters":{"a":1e999}}`, `request: parameter "a": 1e999 does not fit 64 bits`},
		{"parameter twice", `{"parameters":{"a":1,"a":2}}`, `request: parameter "a" is given twice`},
		{"binary_data_output twice", `{"parameters":{"binary_data_output":true,"binary_data_output":true}}`, `request: parameter "binary_data_output" is given twice`},
		{"binary_data twice", `{"outputs":[{"name":"y","parameters":{"binary_data":true,"binary_data":false}}]}`, `output "y": parameter "binary_data" is given twice`},
		{"size twice", one(`"name":"x","parameters":{"binary_data_size":1,"binary_data_size":1}`), `input "x": parameter "binary_data_size" is given twice`},
		{"size without header", one(`"name":"x","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":1}`), `input "x": binary_data_size needs the HTTP header Inference-Header-Content-Length`},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, []byte(c.body), -1, c.want)
		})
	}
}

func refused(t *testing.T, body []byte, header int, want string) {
	t.Helper()
	var r Request
	err := r.Decode(body, header)
	if err == nil {
		t.Fatalf("Decode(%q): got %+v, want the error %q", body, r.Inputs, want)
	}
	if got := fault.Message(err); got != want || fault.KindOf(err) != fault.Invalid {
		t.Errorf("Decode(%q):\n got %v: %s\nwant %v: %s", body, fault.KindOf(err), got, fault.Invalid, want)
	}
}

// counted puts each string behind its length, as binary BYTES tensors do.
func counted(elements ...string) string {
	var b []byte
	for _, e := range elements {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e)))
		b = append(b, e...)
	}
	return string(b)
}

// sized is an input whose data is binary.
func sized(name, datatype, shape string, size int) string {
	return fmt.Sprintf(`{"name":%q,"shape":%s,"datatype":%q,"parameters":{"binary_data_size":%d}}`, name, shape, datatype, size)
}

func TestDecodeBinary(t *testing.T) {
	header := `{"inputs":[` + strings.Join([]string{
		sized("f", "FP32", "[2]", 8),
		`{"name":"j","shape":[1],"datatype":"INT8","data":[-5]}`,
		sized("s", "BYTES", "[2,2]", 4*4+9),
		sized("h", "FP16", "[1]", 2),
		sized("b", "BOOL", "[2]", 2),
		sized("n", "FP64", "[0]", 0),
		sized("d", "FP64", "[1]", 8),
	}, ",") + `]}`
	tail := string(tensor.Raw([]float32{1.5, float32(math.Inf(1))})) + counted("", "abc", "\xff\x00", "wxyz") + "\x00\x3c" + "\x01\x00" + string(tensor.Raw([]float64{2.5}))
	want := []tensor.Tensor{
		tensor.Of("f", []int64{2}, []float32{1.5, float32(math.Inf(1))}),
		tensor.Of("j", []int64{1}, []int8{-5}),
		tensor.OfStrings("s", []int64{2, 2}, []string{"", "abc", "\xff\x00", "wxyz"}),
		{Name: "h", Type: tensor.FP16, Shape: []int64{1}, Data: []byte("\x00\x3c")},
		tensor.Of("b", []int64{2}, []bool{true, false}),
		tensor.Of("n", []int64{0}, []float64{}),
		tensor.Of("d", []int64{1}, []float64{2.5}),
	}
	var r Request
	for pad := range 8 { // every alignment
		head := header + strings.Repeat(" ", pad)
		if err := r.Decode([]byte(head+tail), len(head)); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if !equal(r.Inputs[i], want[i]) {
				t.Errorf("got %v, want %v", r.Inputs[i], want[i])
			}
			if !tensor.Aligned(r.Inputs[i].Data, r.Inputs[i].Type) {
				t.Errorf("input %q is not aligned", r.Inputs[i].Name)
			}
		}
	}
}

func TestDecodeBinarySharesMemory(t *testing.T) {
	head := `{"inputs":[` + sized("x", "FP64", "[1]", 8) + `]}`
	head += strings.Repeat(" ", (8-len(head)%8)%8)
	body := append([]byte(head), make([]byte, 8)...)
	var r Request
	if err := r.Decode(body, len(head)); err != nil {
		t.Fatal(err)
	}
	body[len(head)] = 1
	if r.Inputs[0].Data[0] != 1 {
		t.Error("an aligned tensor was copied")
	}
}

func TestDecodeRefusesBinary(t *testing.T) {
	for _, c := range []struct{ name, head, tail, want string }{
		{"size beyond the body", sized("x", "UINT8", "[3]", 3), "ab", `input "x": binary_data_size is 3, but only 2 bytes are left in the body`},
		{"huge size", sized("x", "UINT8", "[9223372036854775807]", math.MaxInt), "ab", `input "x": binary_data_size is 9223372036854775807, but only 2 bytes are left in the body`},
		{"negative size", sized("x", "UINT8", "[1]", -1), "a", `input "x": binary_data_size must be an integer from 0 to 2^63-1`},
		{"size string", `{"name":"x","parameters":{"binary_data_size":"1"}}`, "a", `input "x": binary_data_size must be an integer from 0 to 2^63-1`},
		{"shape beyond the size", sized("x", "INT32", "[2]", 4), "abcd", `input "x": binary_data_size is 4, but shape [2] of INT32 takes 2 elements of 4 bytes`},
		{"size no multiple", sized("x", "INT32", "[1]", 5), "abcde", `input "x": binary_data_size is 5, but shape [1] of INT32 takes 1 elements of 4 bytes`},
		{"shape that wraps", sized("x", "INT64", "[2305843009213693952]", 0), "", `input "x": binary_data_size is 0, but shape [2305843009213693952] of INT64 takes 2305843009213693952 elements of 8 bytes`},
		{"shape too large", sized("x", "INT64", "[4294967296,4294967296]", 0), "", `input "x": shape [4294967296,4294967296] has more elements than 64 bits can count`},
		{"bytes left", sized("x", "UINT8", "[1]", 1), "abc", `the body has 2 bytes more than its binary_data_size parameters tell`},
		{"bytes and no binary tensor", `{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}`, "a", `the body has 1 bytes more than its binary_data_size parameters tell`},
		{"data and size", `{"name":"x","shape":[1],"datatype":"UINT8","data":[1],"parameters":{"binary_data_size":1}}`, "a", `input "x": data and binary_data_size exclude each other`},
		{"no bool", sized("x", "BOOL", "[2]", 2), "\x01\x02", `input "x": element 1 is byte 2, but BOOL takes 0 or 1`},
		{"strings too few bytes", sized("x", "BYTES", "[2]", 4), counted(""), `input "x": binary_data_size is 4, too few for the 2 strings of shape [2] and their lengths of 4 bytes`},
		{"string without length", sized("x", "BYTES", "[2]", 10), counted("abcd") + "ab", `input "x": binary data ends before the length of element 1`},
		{"string beyond the end", sized("x", "BYTES", "[1]", 5), "\xff\xff\xff\xffa", `input "x": element 0 has a length of 4294967295, but only 1 bytes are left of its binary data`},
		{"strings left", sized("x", "BYTES", "[1]", 9), counted("a", ""), `input "x": binary data has 4 bytes more than the 1 strings of shape [1]`},
		{"second input names itself", sized("x", "UINT8", "[1]", 1) + "," + sized("y", "UINT8", "[2]", 2), "ab", `input "y": binary_data_size is 2, but only 1 bytes are left in the body`},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := `{"inputs":[` + c.head + `]}`
			refused(t, []byte(head+c.tail), len(head), c.want)
		})
	}
	body := []byte(x("UINT8", "[1]", "[1]"))
	refused(t, body, len(body)+1, "Inference-Header-Content-Length is 68, which does not fit a body of 67 bytes")
	refused(t, body, -2, "Inference-Header-Content-Length is -2, which does not fit a body of 67 bytes")
	refused(t, body, 0, "the body must be a JSON object")
	refused(t, body, 20, "the body is not valid JSON at byte 20: it ends where a closing quote is expected")
}

func TestRawInput(t *testing.T) {
	floats := string(tensor.Raw([]float32{1, 2, 3, 4, 5, 6}))
	for _, c := range []struct {
		spec  tensor.Spec
		body  string
		shape []int64
		err   string
	}{
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{2, 3}}, floats, []int64{2, 3}, ""},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 3}}, floats, []int64{2, 3}, ""},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, -1}}, floats, []int64{1, 6}, ""},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 2, -1}}, floats, []int64{1, 2, 3}, ""},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{}}, floats[:4], []int64{}, ""},
		{tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1, 1}}, "any\x00", []int64{1, 1}, ""},
		{tensor.Spec{Type: tensor.Bytes, Shape: []int64{2}}, "any", nil, `input "x": a raw body is one element, the model expects shape [2]`},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{2, 2}}, floats, nil, `input "x": the raw body has 24 bytes, which does not fit shape [2,2] of FP32`},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 4}}, floats, nil, `input "x": the raw body has 24 bytes, which does not fit shape [-1,4] of FP32`},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 0}}, floats, nil, `input "x": the raw body has 24 bytes, which does not fit shape [-1,0] of FP32`},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1}}, floats[:23], nil, `input "x": the raw body has 23 bytes, which does not fit shape [-1] of FP32`},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{3, -1, -1}}, floats, nil, `input "x": a raw body can't tell the variable dimensions of shape [3,-1,-1]`},
		{tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, -1, -1}}, floats, nil, `input "x": a raw body can't tell the variable dimensions of shape [-1,-1,-1]`},
		{tensor.Spec{Type: tensor.Bool, Shape: []int64{-1}}, "\x01\x07", nil, `input "x": element 1 is byte 7, but BOOL takes 0 or 1`},
	} {
		c.spec.Name = "x"
		before := fmt.Sprint(c.spec.Shape)
		for lead := range 2 { // aligned, and not
			got, err := RawInput(c.spec, append(make([]byte, lead), c.body...)[lead:])
			switch {
			case c.err != "":
				if err == nil || fault.Message(err) != c.err || fault.KindOf(err) != fault.Invalid {
					t.Errorf("%v: got %v, want the error %s", c.spec, err, c.err)
				}
				continue
			case err != nil:
				t.Errorf("%v: %v", c.spec, err)
				continue
			}
			want := tensor.Tensor{Name: "x", Type: c.spec.Type, Shape: c.shape, Data: []byte(c.body)}
			if c.spec.Type == tensor.Bytes {
				want.Data, want.Strings = nil, []string{c.body}
			}
			if !equal(got, want) || !tensor.Aligned(got.Data, got.Type) {
				t.Errorf("%v: got %v, want %v", c.spec, got, want)
			}
		}
		if after := fmt.Sprint(c.spec.Shape); after != before {
			t.Errorf("the spec was changed from %s to %s", before, after)
		}
	}
}

func TestDecodeManyInputs(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"inputs":[`)
	for i := range 300 {
		fmt.Fprintf(&b, `{"name":"n%d","shape":[1],"datatype":"INT32","data":[%d]},`, i, i)
	}
	var r Request
	if err := r.Decode([]byte(strings.TrimSuffix(b.String(), ",")+"]}"), -1); err != nil {
		t.Fatal(err)
	}
	for i, in := range r.Inputs {
		if want := tensor.Of(fmt.Sprintf("n%d", i), []int64{1}, []int32{int32(i)}); !equal(in, want) {
			t.Errorf("got %v, want %v", in, want)
		}
	}
	refused(t, []byte(b.String()+`{"name":"n7","shape":[1],"datatype":"INT32","data":[1]}]}`), -1, `input "n7" is given twice`)
}

// Strings stay what they are when the Request is used again, and requests of
// one kind stop taking memory.
func TestDecodeReuse(t *testing.T) {
	var r Request
	var kept []string
	for i := range 500 {
		body := x("BYTES", "[2]", fmt.Sprintf(`["value %d","%s"]`, i, strings.Repeat("z", i)))
		if err := r.Decode([]byte(body), -1); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, r.Inputs[0].Strings...)
	}
	for i := range 500 {
		if got, want := kept[2*i], fmt.Sprintf("value %d", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		if got, want := kept[2*i+1], strings.Repeat("z", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	body := []byte(x("FP32", "[100]", "["+strings.Repeat("1.5,", 99)+"1.5]"))
	if allocations := testing.AllocsPerRun(100, func() {
		if err := r.Decode(body, -1); err != nil {
			t.Fatal(err)
		}
	}); allocations != 0 {
		t.Errorf("a request like the last one: got %v allocations, want 0", allocations)
	}
}

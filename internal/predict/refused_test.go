package predict_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// startRefusing runs a server with the models that the table of refusals names.
func startRefusing(t testing.TB, environ map[string]string) *predicttest.Server {
	t.Helper()
	s := predicttest.Start(t, nil, environ)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	s.Push(t, "fixed", onnxtest.Identity(spec(tensor.FP32, 2, 3)).Bytes(), model.Settings{})
	s.Push(t, "flags", onnxtest.Identity(spec(tensor.Bool, -1)).Bytes(), model.Settings{})
	s.Push(t, "text", onnxtest.Identity(spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	s.Push(t, "bytes", onnxtest.Identity(spec(tensor.Uint8, -1)).Bytes(), model.Settings{})
	s.Push(t, "pick", onnxtest.Apply("Gather",
		[]onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1), onnxwire.Tensor("I", tensor.Int64, -1)},
		[]onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)}).Bytes(), model.Settings{Warmup: model.Warmup{
		Sample: []byte(`{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":[0]},{"name":"I","shape":[1],"datatype":"INT64","data":[0]}]}`),
	}})
	return s
}

// input0 is a request for a model made by Identity.
func input0(shape, datatype, data string) string {
	return `{"inputs":[{"name":"INPUT0","shape":` + shape + `,"datatype":"` + datatype + `","data":` + data + `}]}`
}

// refusals are requests that must not be answered, with status and sentence.
var refusals = []struct {
	name, path, body string
	headers          []string
	status           int
	sentence         string
}{
	// Not JSON.
	{"empty", "x", ``, nil, 400, `the body must be a JSON object`},
	{"space", "x", " \n", nil, 400, `the body must be a JSON object`},
	{"array", "x", `[]`, nil, 400, `the body must be a JSON object`},
	{"null", "x", `null`, nil, 400, `the body must be a JSON object`},
	{"string", "x", `"x"`, nil, 400, `the body must be a JSON object`},
	{"a form", "x", `inputs=1`, nil, 400, `the body must be a JSON object`},
	{"byte order mark", "x", "\ufeff{}", nil, 400, `the body must be a JSON object`},
	{"cut off", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[1`, nil, 400, `the body is not valid JSON at byte 67: it ends where a comma or ] is expected`},
	{"two values", "x", floats("1") + "{}", nil, 400, `the body is not valid JSON at byte 66: '{' stands where the end of the request is expected`},
	{"comma at the end", "x", `{"inputs":[],}`, nil, 400, `the body is not valid JSON at byte 13: '}' stands where a key in quotes is expected`},
	{"a comment", "x", `{/**/"inputs":[]}`, nil, 400, `the body is not valid JSON at byte 1: '/' stands where a key in quotes is expected`},
	{"single quotes", "x", `{'inputs':[]}`, nil, 400, `the body is not valid JSON at byte 1: '\'' stands where a key in quotes is expected`},
	{"a control character", "x", "{\"id\":\"a\nb\"}", nil, 400, `the body is not valid JSON at byte 8: a control character in a string must be escaped`},
	{"not UTF-8", "x", "{\"id\":\"\xff\"}", nil, 400, `the body is not valid JSON at byte 7: a string is not valid UTF-8`},
	{"half a surrogate", "x", `{"id":"\ud800"}`, nil, 400, `the body is not valid JSON at byte 7: an escape does not name a character`},
	{"deep nesting", "x", `{"extra":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, nil, 400, `the body is not valid JSON at byte 73: values nest deeper than 64`},
	{"deep objects", "x", `{"extra":` + strings.Repeat(`{"a":`, 100000) + `1`, nil, 400, `the body is not valid JSON at byte 329: values nest deeper than 64`},
	{"deep data", "x", input0(`[1]`, "FP32", strings.Repeat("[", 100000)), nil, 400, `input "INPUT0": data[0] is an array: data must be flat, or nested to shape [1]`},
	{"deep shape", "x", `{"inputs":[{"name":"INPUT0","shape":` + strings.Repeat("[", 100000) + `}]}`, nil, 400, `input "INPUT0": shape[0] must be an integer from 0 to 2^63-1`},

	// Not a request.
	{"no inputs", "x", `{}`, nil, 400, `inputs is missing or empty, at least one input is required`},
	{"empty inputs", "x", `{"inputs":[]}`, nil, 400, `inputs is missing or empty, at least one input is required`},
	{"inputs are an object", "x", `{"inputs":{}}`, nil, 400, `inputs must be an array of objects`},
	{"an input is a number", "x", `{"inputs":[1]}`, nil, 400, `inputs[0] must be an object`},
	{"id is a number", "x", `{"id":7}`, nil, 400, `id must be a string`},
	{"inputs twice", "x", `{"inputs":[],"inputs":[]}`, nil, 400, `request: inputs is given twice`},
	{"no name", "x", `{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}`, nil, 400, `inputs[0]: name is missing`},
	{"empty name", "x", `{"inputs":[{"name":"","shape":[1],"datatype":"FP32","data":[1]}]}`, nil, 400, `inputs[0]: name must be a string that is not empty`},
	{"no shape", "x", `{"inputs":[{"name":"INPUT0","datatype":"FP32","data":[1]}]}`, nil, 400, `input "INPUT0": shape is missing`},
	{"no datatype", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"data":[1]}]}`, nil, 400, `input "INPUT0": datatype is missing`},
	{"no data", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32"}]}`, nil, 400, `input "INPUT0": data is missing`},
	{"data twice", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[1],"data":[1]}]}`, nil, 400, `input "INPUT0": data is given twice`},
	{"null data", "x", input0(`[1]`, "FP32", `null`), nil, 400, `input "INPUT0": data is null, but must be an array`},
	{"parameters are a list", "x", `{"parameters":[]}`, nil, 400, `request: parameters must be an object`},
	{"a parameter is an object", "x", `{"parameters":{"a":{}}}`, nil, 400, `request: parameter "a": it must be a string, a number or a boolean`},
	{"a parameter is huge", "x", `{"parameters":{"a":1e999}}`, nil, 400, `request: parameter "a": 1e999 does not fit 64 bits`},
	{"binary_data_output is a number", "x", `{"parameters":{"binary_data_output":1}}`, nil, 400, `request: binary_data_output must be true or false`},

	// Shapes.
	{"shape is a number", "x", input0(`1`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape must be an array of integers`},
	{"negative shape", "x", input0(`[-1]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape[0] must be an integer from 0 to 2^63-1`},
	{"fraction in a shape", "x", input0(`[1.5]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape[0] must be an integer from 0 to 2^63-1`},
	{"string in a shape", "x", input0(`["1"]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape[0] must be an integer from 0 to 2^63-1`},
	{"shape beyond 64 bits", "x", input0(`[99999999999999999999]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape[0] must be an integer from 0 to 2^63-1`},
	{"product beyond 64 bits", "x", input0(`[4294967296,4294967296]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape [4294967296,4294967296] has more elements than 64 bits can count`},
	{"product that wraps", "x", input0(`[3,6148914691236517205]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape [3,6148914691236517205] has more elements than 64 bits can count`},
	{"overflow hidden by a zero", "x", input0(`[0,4294967296,4294967296]`, "FP32", `[]`), nil, 400, `input "INPUT0": shape is [0,4294967296,4294967296], the model expects [-1]`},
	{"more than there is", "x", input0(`[4611686018427387904]`, "FP32", `[1]`), nil, 400, `input "INPUT0": data has 1 elements, shape [4611686018427387904] takes 4611686018427387904`},
	{"33 dimensions", "x", input0(`[`+strings.Repeat("1,", 32)+`1]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape has more than 32 dimensions`},
	{"shape against data", "x", input0(`[2]`, "FP32", `[1,2,3]`), nil, 400, `input "INPUT0": data has 3 elements, shape [2] takes 2`},
	{"data against shape", "x", input0(`[3]`, "FP32", `[1,2]`), nil, 400, `input "INPUT0": data has 2 elements, shape [3] takes 3`},
	{"no data at all", "x", input0(`[3]`, "FP32", `[]`), nil, 400, `input "INPUT0": data has 0 elements, shape [3] takes 3`},
	{"data for no shape", "x", input0(`[0]`, "FP32", `[1]`), nil, 400, `input "INPUT0": data has 1 elements, shape [0] takes 0`},
	{"ragged rows", "fixed", input0(`[2,3]`, "FP32", `[[1,2,3],[4,5]]`), nil, 400, `input "INPUT0": data is nested otherwise than shape [2,3]: there is a row of 2 elements in place of 3`},
	{"too few rows", "fixed", input0(`[2,3]`, "FP32", `[[1,2,3]]`), nil, 400, `input "INPUT0": data is too short for shape [2,3]`},
	{"rows turned round", "fixed", input0(`[2,3]`, "FP32", `[[1,2],[3,4],[5,6]]`), nil, 400, `input "INPUT0": data is nested otherwise than shape [2,3]: there is a row of 2 elements in place of 3`},
	{"too deep", "fixed", input0(`[2,3]`, "FP32", `[[[1,2,3],[4,5,6]]]`), nil, 400, `input "INPUT0": data[0] is an array: data must be flat, or nested to shape [2,3]`},
	{"half nested", "fixed", input0(`[2,3]`, "FP32", `[[1,2,3],4,5,6]`), nil, 400, `input "INPUT0": data is nested otherwise than shape [2,3]: an array is missing at data[3]`},

	// Elements.
	{"unknown datatype", "x", input0(`[1]`, "FLOAT", `[1]`), nil, 400, `input "INPUT0": datatype "FLOAT" is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES`},
	{"datatype in small letters", "x", input0(`[1]`, "fp32", `[1]`), nil, 400, `input "INPUT0": datatype "fp32" is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES`},
	{"NaN", "x", input0(`[2]`, "FP32", `[1,NaN]`), nil, 400, `input "INPUT0": data[1] is NaN, which JSON can't carry, send the tensor as binary data`},
	{"-Infinity", "x", input0(`[2]`, "FP32", `[1,-Infinity]`), nil, 400, `input "INPUT0": data[1] is -Infinity, which JSON can't carry, send the tensor as binary data`},
	{"null element", "x", input0(`[2]`, "FP32", `[1,null]`), nil, 400, `input "INPUT0": data[1] is null, but every element of a tensor must have a value`},
	{"a string among numbers", "x", input0(`[2]`, "FP32", `[1,"2"]`), nil, 400, `input "INPUT0": data[1] is a string, but FP32 takes a number`},
	{"beyond FP32", "x", input0(`[1]`, "FP32", `[1e39]`), nil, 400, `input "INPUT0": data[0] is 1e39, which does not fit FP32`},
	{"an endless number", "x", input0(`[1]`, "FP32", `[1e`+strings.Repeat("9", 10000)+`]`), nil, 400, `input "INPUT0": data[0] is 1e99999999999999999999999999999999999999999999999999999999999999…, which does not fit FP32`},
	{"zero before digits", "x", input0(`[1]`, "FP32", `[01]`), nil, 400, `the body is not valid JSON at byte 67: '1' stands where a comma or ] is expected`},
	{"hexadecimal", "x", input0(`[1]`, "FP32", `[0x1]`), nil, 400, `the body is not valid JSON at byte 67: 'x' stands where a comma or ] is expected`},
	{"bare fraction", "x", input0(`[1]`, "FP32", `[.5]`), nil, 400, `the body is not valid JSON at byte 66: '.' stands where a value is expected`},
	{"plus", "x", input0(`[1]`, "FP32", `[+5]`), nil, 400, `the body is not valid JSON at byte 66: '+' stands where a value is expected`},
	{"beyond UINT8", "bytes", input0(`[2]`, "UINT8", `[255,256]`), nil, 400, `input "INPUT0": data[1] is 256, which does not fit UINT8`},
	{"below UINT8", "bytes", input0(`[1]`, "UINT8", `[-1]`), nil, 400, `input "INPUT0": data[0] is -1, which does not fit UINT8`},
	{"fraction in an integer", "bytes", input0(`[1]`, "UINT8", `[1.5]`), nil, 400, `input "INPUT0": data[0] is 1.5, but UINT8 takes an integer without fraction and exponent`},
	{"exponent in an integer", "bytes", input0(`[1]`, "UINT8", `[1e2]`), nil, 400, `input "INPUT0": data[0] is 1e2, but UINT8 takes an integer without fraction and exponent`},
	{"number in a BOOL", "flags", input0(`[1]`, "BOOL", `[1]`), nil, 400, `input "INPUT0": data[0] is a number, but BOOL takes true or false`},
	{"number in BYTES", "text", input0(`[1]`, "BYTES", `[1]`), nil, 400, `input "INPUT0": data[0] is a number, but BYTES takes a string`},
	{"zero byte in BYTES", "text", input0(`[1]`, "BYTES", `["a\u0000b"]`), nil, 400, `input "INPUT0": element 0 has a zero byte, which ONNX Runtime's strings cannot hold`},

	// Against the model.
	{"wrong datatype", "x", input0(`[1]`, "FP64", `[1]`), nil, 400, `input "INPUT0": datatype is FP64, the model expects FP32`},
	{"wrong rank", "x", input0(`[1,1]`, "FP32", `[1]`), nil, 400, `input "INPUT0": shape is [1,1], the model expects [-1]`},
	{"wrong shape", "fixed", input0(`[3,2]`, "FP32", `[1,2,3,4,5,6]`), nil, 400, `input "INPUT0": shape is [3,2], the model expects [2,3]`},
	{"missing input", "simple", input0(`[1,16]`, "INT32", `[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]`), nil, 400, `input "INPUT1" is missing; model "simple" expects "INPUT0", "INPUT1"`},
	{"unknown input", "x", strings.ReplaceAll(input0(`[1]`, "FP32", `[1]`), "INPUT0", "Y"), nil, 400, `input "INPUT0" is missing; model "x" expects "INPUT0"`},
	{"one too many", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[1]},{"name":"more","shape":[1],"datatype":"FP32","data":[1]}]}`, nil, 400, `input "more" is not one that model "x" knows; it expects "INPUT0"`},
	{"input twice", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[1]},{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[2]}]}`, nil, 400, `input "INPUT0" is given twice`},
	{"a long name", "x", strings.ReplaceAll(input0(`[1]`, "FP32", `[1]`), "INPUT0", strings.Repeat("ü", 1000)), nil, 400, `input "INPUT0" is missing; model "x" expects "INPUT0"`},
	{"unknown output", "x", strings.Replace(input0(`[1]`, "FP32", `[1]`), "{", `{"outputs":[{"name":"Y"}],`, 1), nil, 400, `output "Y" is not one that model "x" gives; it gives ["OUTPUT0"]`},
	{"output twice", "x", strings.Replace(input0(`[1]`, "FP32", `[1]`), "{", `{"outputs":[{"name":"OUTPUT0"},{"name":"OUTPUT0"}],`, 1), nil, 400, `output "OUTPUT0" is asked for twice`},
	{"outputs are names", "x", strings.Replace(input0(`[1]`, "FP32", `[1]`), "{", `{"outputs":["OUTPUT0"],`, 1), nil, 400, `outputs[0] must be an object`},
	{"output without a name", "x", strings.Replace(input0(`[1]`, "FP32", `[1]`), "{", `{"outputs":[{}],`, 1), nil, 400, `outputs[0]: name is missing`},
	{"binary_data is a string", "x", strings.Replace(input0(`[1]`, "FP32", `[1]`), "{", `{"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":"true"}}],`, 1), nil, 400, `output "OUTPUT0": binary_data must be true or false`},
	{"classification", "x", strings.Replace(input0(`[1]`, "FP32", `[1]`), "{", `{"outputs":[{"name":"OUTPUT0","parameters":{"classification":3}}],`, 1), nil, 400, `output "OUTPUT0": the parameter classification is not supported`},
	{"shared memory", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}`, nil, 400, `input "INPUT0": shared_memory_region is not supported, send the data with the request`},
	{"the model can't", "pick", `{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":[0]},{"name":"I","shape":[1],"datatype":"INT64","data":[9]}]}`, nil, 400, `the model cannot be run on these inputs: Gather: indices element out of data bounds, idx=9 must be within the inclusive range [-1,0]`},
	{"unknown model", "none", floats("1"), nil, 404, `model "none" does not exist`},
	{"unknown version", "x/versions/2", floats("1"), nil, 404, `model "x" has no version 2`},
	{"unknown alias", "x/versions/shadow", floats("1"), nil, 404, `model "x" has no version or alias "shadow"`},
	{"version 0", "x/versions/0", floats("1"), nil, 404, `model "x" has no version or alias "0"`},
	{"negative version", "x/versions/-1", floats("1"), nil, 404, `model "x" has no version or alias "-1"`},
	{"version with a plus", "x/versions/+1", floats("1"), nil, 404, `model "x" has no version or alias "+1"`},
	{"version with a zero before it", "x/versions/01", floats("1"), nil, 404, `model "x" has no version or alias "01"`},
	{"huge version", "x/versions/99999999999999999999", floats("1"), nil, 404, `model "x" has no version or alias "99999999999999999999"`},
	{"versions 1 of an unknown model", "none/versions/1", floats("1"), nil, 404, `model "none" does not exist`},
	{"slash in a name", "a%2Fb", floats("1"), nil, 404, `model "a/b" does not exist`},
	{"dots in a name", "..%2F..%2Fetc", floats("1"), nil, 404, `model "../../etc" does not exist`},
	{"space in a name", "a%20b", floats("1"), nil, 404, `model "a b" does not exist`},
	{"zero byte in a name", "a%00b", floats("1"), nil, 404, `model "a\x00b" does not exist`},
	{"newline in a name", "a%0Ab", floats("1"), nil, 404, `model "a\nb" does not exist`},
	{"not UTF-8 in a name", "a%FFb", floats("1"), nil, 404, `model "a\xffb" does not exist`},
	{"emoji for a name", "%F0%9F%98%80", floats("1"), nil, 404, `model "😀" does not exist`},
	{"a colon in a name", "x:1", floats("1"), nil, 404, `model "x:1" does not exist`},
	{"a very long name", strings.Repeat("a", 10000), floats("1"), nil, 404, `model "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" does not exist`},
	{"a very long alias", "x/versions/" + strings.Repeat("a", 10000), floats("1"), nil, 404, `model "x" has no version or alias "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"`},
	{"slash in a version", "x/versions/..%2F1", floats("1"), nil, 404, `model "x" has no version or alias "../1"`},

	// Binary parts.
	{"size without a header", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}`, nil, 400, `input "INPUT0": binary_data_size needs the HTTP header Inference-Header-Content-Length`},
	{"size that lies", "x", bin("FP32", `[1]`, 8, "1234"), binHead("FP32", `[1]`, 8), 400, `input "INPUT0": binary_data_size is 8, but only 4 bytes are left in the body`},
	{"size against the shape", "x", bin("FP32", `[2]`, 4, "1234"), binHead("FP32", `[2]`, 4), 400, `input "INPUT0": binary_data_size is 4, but shape [2] of FP32 takes 2 elements of 4 bytes`},
	{"size of no whole elements", "x", bin("FP32", `[1]`, 5, "12345"), binHead("FP32", `[1]`, 5), 400, `input "INPUT0": binary_data_size is 5, but shape [1] of FP32 takes 1 elements of 4 bytes`},
	{"bytes left over", "x", bin("FP32", `[1]`, 4, "12345"), binHead("FP32", `[1]`, 4), 400, `the body has 1 bytes more than its binary_data_size parameters tell`},
	{"huge size", "x", bin("FP32", `[1]`, 1<<62, "1234"), binHead("FP32", `[1]`, 1<<62), 400, `input "INPUT0": binary_data_size is 4611686018427387904, but only 4 bytes are left in the body`},
	{"negative size", "x", bin("FP32", `[1]`, -4, "1234"), binHead("FP32", `[1]`, -4), 400, `input "INPUT0": binary_data_size must be an integer from 0 to 2^63-1`},
	{"size of a product beyond 64 bits", "x", bin("FP32", `[4294967296,4294967296]`, 4, "1234"), binHead("FP32", `[4294967296,4294967296]`, 4), 400, `input "INPUT0": shape [4294967296,4294967296] has more elements than 64 bits can count`},
	{"size of a product that wraps", "x", bin("FP32", `[2,2305843009213693953]`, 8, "12345678"), binHead("FP32", `[2,2305843009213693953]`, 8), 400, `input "INPUT0": binary_data_size is 8, but shape [2,2305843009213693953] of FP32 takes 4611686018427387906 elements of 4 bytes`},
	{"BOOL of 2", "flags", bin("BOOL", `[2]`, 2, "\x01\x02"), binHead("BOOL", `[2]`, 2), 400, `input "INPUT0": element 1 is byte 2, but BOOL takes 0 or 1`},
	{"string longer than its part", "text", bin("BYTES", `[1]`, 5, "\x02\x00\x00\x00a"), binHead("BYTES", `[1]`, 5), 400, `input "INPUT0": element 0 has a length of 2, but only 1 bytes are left of its binary data`},
	{"string of 4 GiB", "text", bin("BYTES", `[1]`, 5, "\xff\xff\xff\xffa"), binHead("BYTES", `[1]`, 5), 400, `input "INPUT0": element 0 has a length of 4294967295, but only 1 bytes are left of its binary data`},
	{"strings without lengths", "text", bin("BYTES", `[2]`, 5, "\x01\x00\x00\x00a"), binHead("BYTES", `[2]`, 5), 400, `input "INPUT0": binary_data_size is 5, too few for the 2 strings of shape [2] and their lengths of 4 bytes`},
	{"half a length", "text", bin("BYTES", `[2]`, 8, "\x02\x00\x00\x00abcd"), binHead("BYTES", `[2]`, 8), 400, `input "INPUT0": binary data ends before the length of element 1`},
	{"bytes behind the strings", "text", bin("BYTES", `[1]`, 6, "\x01\x00\x00\x00ab"), binHead("BYTES", `[1]`, 6), 400, `input "INPUT0": binary data has 1 bytes more than the 1 strings of shape [1]`},
	{"strings beyond memory", "text", bin("BYTES", `[4611686018427387904]`, 4, "\x00\x00\x00\x00"), binHead("BYTES", `[4611686018427387904]`, 4), 400, `input "INPUT0": binary_data_size is 4, too few for the 4611686018427387904 strings of shape [4611686018427387904] and their lengths of 4 bytes`},
	{"data and size", "x", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}}]}`, []string{headerLength(107)}, 400, `input "INPUT0": data and binary_data_size exclude each other`},

	// The header.
	{"header is no number", "x", floats("1"), []string{"Inference-Header-Content-Length: abc"}, 400, `header Inference-Header-Content-Length is "abc", expected the length of the JSON part in bytes`},
	{"negative header", "x", floats("1"), []string{"Inference-Header-Content-Length: -5"}, 400, `header Inference-Header-Content-Length is "-5", expected the length of the JSON part in bytes`},
	{"header with a fraction", "x", floats("1"), []string{"Inference-Header-Content-Length: 1.5"}, 400, `header Inference-Header-Content-Length is "1.5", expected the length of the JSON part in bytes`},
	{"header beyond 64 bits", "x", floats("1"), []string{"Inference-Header-Content-Length: 99999999999999999999999"}, 400, `header Inference-Header-Content-Length is "99999999999999999999999", expected the length of the JSON part in bytes`},
	{"header beyond the body", "x", floats("1"), []string{headerLength(1000)}, 400, `Inference-Header-Content-Length is 1000, which does not fit a body of 66 bytes`},
	{"header at the most", "x", floats("1"), []string{"Inference-Header-Content-Length: 9223372036854775807"}, 400, `Inference-Header-Content-Length is 9223372036854775807, which does not fit a body of 66 bytes`},
	{"header that cuts the JSON", "x", floats("1"), []string{headerLength(10)}, 400, `inputs must be an array of objects`},
	{"header that ends early", "x", floats("1") + "    ", []string{headerLength(len(floats("1")))}, 400, `the body has 4 bytes more than its binary_data_size parameters tell`},
	{"a very long header", "x", floats("1"), []string{"Inference-Header-Content-Length: " + strings.Repeat("9", 5000)}, 400, `header Inference-Header-Content-Length is "9999999999999999999999999999999999999999999999999999999999999999…", expected the length of the JSON part in bytes`},
	{"raw for two inputs", "simple", "1234", []string{headerLength(0)}, 400, `a raw request (Inference-Header-Content-Length: 0) needs a model with one input; model "simple" has 2`},
	{"raw of no whole elements", "x", "12345", []string{headerLength(0)}, 400, `input "INPUT0": the raw body has 5 bytes, which does not fit shape [-1] of FP32`},
	{"raw against the shape", "fixed", "1234", []string{headerLength(0)}, 400, `input "INPUT0": the raw body has 4 bytes, which does not fit shape [2,3] of FP32`},
	{"raw for an unknown model", "none", "1234", []string{headerLength(0)}, 404, `model "none" does not exist`},

	// The encoding.
	{"unknown encoding", "x", floats("1"), []string{"Content-Encoding: br"}, 400, `Content-Encoding "br" is not one of gzip, deflate, identity`},
	{"two encodings", "x", floats("1"), []string{"Content-Encoding: gzip, gzip"}, 400, `Content-Encoding "gzip, gzip" is not one of gzip, deflate, identity`},
	{"a very long encoding", "x", floats("1"), []string{"Content-Encoding: " + strings.Repeat("z", 5000)}, 400, `Content-Encoding "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz…" is not one of gzip, deflate, identity`},
	{"not gzip", "x", floats("1"), []string{"Content-Encoding: gzip"}, 400, `the body is not valid gzip, as its Content-Encoding says`},
	{"not zlib", "x", floats("1"), []string{"Content-Encoding: deflate"}, 400, `the body is not valid deflate, as its Content-Encoding says`},
	{"nothing, as gzip", "x", "", []string{"Content-Encoding: gzip"}, 400, `the body is not valid gzip, as its Content-Encoding says`},
}

// bin is a request with one binary input, and binHead the header for it.
func bin(datatype, shape string, size int, raw string) string {
	return fmt.Sprintf(`{"inputs":[{"name":"INPUT0","shape":%s,"datatype":"%s","parameters":{"binary_data_size":%d}}]}`, shape, datatype, size) + raw
}

func binHead(datatype, shape string, size int) []string {
	return []string{headerLength(len(bin(datatype, shape, size, "")))}
}

func TestRefusedRequests(t *testing.T) {
	s := startRefusing(t, nil)
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, s.Do(t, "POST", "/v2/models/"+test.path+"/infer", test.body, test.headers...), test.status, test.sentence)
		})
	}
	want(t, s.Do(t, "POST", "/v2/models/x/infer", input0(`[1]`, "FP32", `[0.5]`)), 200,
		`{"model_name":"x","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[1],"data":[0.5]}]}`)
}

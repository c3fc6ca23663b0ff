package predict_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

const octets = "Content-Type: application/octet-stream"

// Every type comes back as it went, by JSON and by bytes in all combinations.
func TestEveryDatatype(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	for _, test := range []struct {
		kind  tensor.Type
		shape []int64
		json  string // flat, as answers have it; "": JSON can't carry the type
		raw   string
	}{
		{tensor.Bool, []int64{2}, "true,false", le([]bool{true, false})},
		{tensor.Uint8, []int64{2}, "0,255", le([]uint8{0, 255})},
		{tensor.Uint16, []int64{2}, "0,65535", le([]uint16{0, 65535})},
		{tensor.Uint32, []int64{2}, "0,4294967295", le([]uint32{0, math.MaxUint32})},
		{tensor.Uint64, []int64{2}, "0,18446744073709551615", le([]uint64{0, math.MaxUint64})},
		{tensor.Int8, []int64{2}, "-128,127", le([]int8{-128, 127})},
		{tensor.Int16, []int64{2}, "-32768,32767", le([]int16{-32768, 32767})},
		{tensor.Int32, []int64{2}, "-2147483648,2147483647", le([]int32{math.MinInt32, math.MaxInt32})},
		{tensor.Int64, []int64{2}, "-9223372036854775808,9223372036854775807", le([]int64{math.MinInt64, math.MaxInt64})},
		{tensor.FP16, []int64{2}, "", le([]uint16{0x3c00, 0xfe01})}, // 1 and a NaN of its own
		{tensor.BF16, []int64{2}, "", le([]uint16{0x3f80, 0xff81})},
		{tensor.FP32, []int64{3}, "0.1,-1e+30,16777218", le([]float32{0.1, -1e30, 16777218})},
		{tensor.FP64, []int64{3}, "0.1,-1e+300,5e-324", le([]float64{0.1, -1e300, 5e-324})},
		{tensor.Bytes, []int64{3}, `"","ab","ü\"\n"`, lengths("", "ab", "ü\"\n")},
		{tensor.Int32, []int64{2, 3}, "1,2,3,4,5,6", le([]int32{1, 2, 3, 4, 5, 6})},
		// No elements.
		{tensor.FP32, []int64{0}, "", ""},
		{tensor.FP32, []int64{2, 0, 3}, "", ""},
		{tensor.Bytes, []int64{0}, "", ""},
		// Scalars.
		{tensor.Bool, nil, "true", "\x01"},
		{tensor.Uint8, nil, "255", "\xff"},
		{tensor.Uint16, nil, "65535", "\xff\xff"},
		{tensor.Uint32, nil, "4294967295", le(uint32(math.MaxUint32))},
		{tensor.Uint64, nil, "18446744073709551615", le(uint64(math.MaxUint64))},
		{tensor.Int8, nil, "-128", "\x80"},
		{tensor.Int16, nil, "-32768", le(int16(-32768))},
		{tensor.Int32, nil, "-2147483648", le(int32(math.MinInt32))},
		{tensor.Int64, nil, "-9223372036854775808", le(int64(math.MinInt64))},
		{tensor.FP32, nil, "0.1", le(float32(0.1))},
		{tensor.FP64, nil, "0.1", le(float64(0.1))},
	} {
		name := strings.ToLower(test.kind.String()) + strings.NewReplacer("[", "-", "]", "", ",", "-").Replace(tensor.FormatShape(test.shape))
		t.Run(name, func(t *testing.T) {
			declared := make([]int64, len(test.shape)) // one that takes any size
			for i := range declared {
				declared[i] = -1
			}
			s.Push(t, name, onnxtest.Identity(spec(test.kind, declared...)).Bytes(), model.Settings{})
			path := "/v2/models/" + name + "/infer"
			shape := tensor.FormatShape(test.shape)
			answered := fmt.Sprintf(`{"model_name":%q,"model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"%s","shape":%s,`, name, test.kind, shape)
			asJSON := answered + `"data":[` + test.json + `]}]}`
			asBytes := answered + fmt.Sprintf(`"parameters":{"binary_data_size":%d}}]}`, len(test.raw))

			input := fmt.Sprintf(`"inputs":[{"name":"INPUT0","shape":%s,"datatype":"%s",`, shape, test.kind)
			inBytes := input + fmt.Sprintf(`"parameters":{"binary_data_size":%d}}]`, len(test.raw))
			const outBytes = `{"parameters":{"binary_data_output":true},`

			half := test.kind.Size() == 2 && test.json == ""
			a := s.Do(t, "POST", path, "{"+inBytes+"}"+test.raw, octets, headerLength(len(inBytes)+2))
			if half {
				wantError(t, a, 400, fmt.Sprintf(`output "OUTPUT0": JSON can't carry %s, ask for it with binary_data`, test.kind))
			} else {
				want(t, a, 200, asJSON)
			}
			check := func(a predicttest.Answer) {
				t.Helper()
				head, raw := split(t, a)
				if a.Status != 200 || head != asBytes || raw != test.raw {
					t.Errorf("got  %d %s %q\nwant 200 %s %q", a.Status, head, raw, asBytes, test.raw)
				}
			}
			check(s.Do(t, "POST", path, outBytes+inBytes+"}"+test.raw, octets, headerLength(len(outBytes)+len(inBytes)+1)))
			if half {
				a := s.Do(t, "POST", path, "{"+input+`"data":[1,2]}]}`)
				wantError(t, a, 400, fmt.Sprintf(`input "INPUT0": JSON can't carry %s, send the tensor as binary data`, test.kind))
			} else {
				want(t, s.Do(t, "POST", path, "{"+input+`"data":[`+test.json+`]}]}`), 200, asJSON)
				check(s.Do(t, "POST", path, outBytes+input+`"data":[`+test.json+`]}]}`))
			}
			if test.kind != tensor.Bytes && len(test.shape) < 2 { // raw: nothing but the elements
				check(s.Do(t, "POST", path, test.raw, octets, headerLength(0)))
			}
		})
	}
}

func TestRawRequests(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "text", onnxtest.Identity(spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	s.Push(t, "rows", onnxtest.Identity(spec(tensor.FP32, -1, 2)).Bytes(), model.Settings{})
	s.Push(t, "sized", onnxtest.Identity(spec(tensor.FP32, -1, -1, 2)).Bytes(), model.Settings{})
	for _, test := range []struct{ model, body, head, raw string }{
		{"text", "any \xff\x00", "", ""}, // refused below: a zero byte
		{"text", "any \xff", `{"name":"OUTPUT0","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":9}}`, lengths("any \xff")},
		{"text", "", `{"name":"OUTPUT0","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":4}}`, lengths("")},
		{"rows", le([]float32{1, 2, 3, 4}), `{"name":"OUTPUT0","datatype":"FP32","shape":[2,2],"parameters":{"binary_data_size":16}}`, le([]float32{1, 2, 3, 4})},
		{"rows", "", `{"name":"OUTPUT0","datatype":"FP32","shape":[0,2],"parameters":{"binary_data_size":0}}`, ""},
		{"sized", le([]float32{1, 2, 3, 4}), `{"name":"OUTPUT0","datatype":"FP32","shape":[1,2,2],"parameters":{"binary_data_size":16}}`, le([]float32{1, 2, 3, 4})},
	} {
		a := s.Do(t, "POST", "/v2/models/"+test.model+"/infer", test.body, octets, headerLength(0))
		if test.head == "" {
			if text := refusal(t, a); a.Status != 400 || !strings.Contains(text, "zero byte") {
				t.Errorf("%q: got %d %s, want a word about the zero byte", test.body, a.Status, text)
			}
			continue
		}
		head, raw := split(t, a)
		if got := `{"model_name":"` + test.model + `","model_version":"1","outputs":[` + test.head + `]}`; a.Status != 200 || head != got || raw != test.raw {
			t.Errorf("%s %q: got %d %s %q\nwant %s %q", test.model, test.body, a.Status, head, raw, got, test.raw)
		}
	}
}

// Which outputs, in which order, and how each is sent.
func TestOutputs(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.Int32, -1), spec(tensor.Bytes, -1), spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	const inputs = `"inputs":[` +
		`{"name":"INPUT2","shape":[1],"datatype":"FP32","data":[0.5]},` + // in any order
		`{"name":"INPUT0","shape":[2],"datatype":"INT32","data":[1,-2]},` +
		`{"name":"INPUT1","shape":[2],"datatype":"BYTES","data":["a","bc"]}]`
	json0 := `{"name":"OUTPUT0","datatype":"INT32","shape":[2],"data":[1,-2]}`
	json1 := `{"name":"OUTPUT1","datatype":"BYTES","shape":[2],"data":["a","bc"]}`
	json2 := `{"name":"OUTPUT2","datatype":"FP32","shape":[1],"data":[0.5]}`
	raw0, raw1, raw2 := le([]int32{1, -2}), lengths("a", "bc"), le([]float32{0.5})
	bin := func(json string, n int) string {
		return json[:strings.Index(json, `"data"`)] + fmt.Sprintf(`"parameters":{"binary_data_size":%d}}`, n)
	}
	bin0, bin1, bin2 := bin(json0, 8), bin(json1, 11), bin(json2, 4)
	for _, test := range []struct{ name, request, head, raw string }{
		{"all", ``, json0 + "," + json1 + "," + json2, ""},
		{"none named", `"outputs":[],`, json0 + "," + json1 + "," + json2, ""},
		{"null", `"outputs":null,`, json0 + "," + json1 + "," + json2, ""},
		{"one", `"outputs":[{"name":"OUTPUT1"}],`, json1, ""},
		{"turned round", `"outputs":[{"name":"OUTPUT2"},{"name":"OUTPUT1"},{"name":"OUTPUT0"}],`, json2 + "," + json1 + "," + json0, ""},
		{"all binary", `"parameters":{"binary_data_output":true},`, bin0 + "," + bin1 + "," + bin2, raw0 + raw1 + raw2},
		{"one binary", `"outputs":[{"name":"OUTPUT1","parameters":{"binary_data":true}},{"name":"OUTPUT0"}],`, bin1 + "," + json0, raw1},
		{
			"the output's own word wins", `"parameters":{"binary_data_output":true},"outputs":[{"name":"OUTPUT2"},{"name":"OUTPUT0","parameters":{"binary_data":false}},{"name":"OUTPUT1"}],`,
			bin2 + "," + json0 + "," + bin1, raw2 + raw1,
		},
		{
			"by word and by default", `"parameters":{"binary_data_output":false},"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}},{"name":"OUTPUT2","parameters":{"binary_data":true}}],`,
			bin0 + "," + bin2, raw0 + raw2,
		},
		{"other parameters", `"parameters":{"priority":3,"timeout":1.5,"who":"me","b":true},"outputs":[{"name":"OUTPUT2","parameters":{"colour":"red"}}],`, json2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := s.Do(t, "POST", "/v2/models/m/infer", `{`+test.request+inputs+`}`)
			head, raw := split(t, a)
			if want := `{"model_name":"m","model_version":"1","outputs":[` + test.head + `]}`; a.Status != 200 || head != want || raw != test.raw {
				t.Errorf("got  %d %s %q\nwant 200 %s %q", a.Status, head, raw, want, test.raw)
			}
		})
	}
}

// Inputs of both forms in one request, and a JSON part of any length before the bytes.
func TestMixedInputs(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.FP64, -1), spec(tensor.Int32, -1), spec(tensor.Uint16, -1)).Bytes(), model.Settings{})
	for pad := range 9 { // whatever the alignment
		head := `{"id":"` + strings.Repeat("x", pad+1) + `","inputs":[{"name":"INPUT2","shape":[3],"datatype":"UINT16","parameters":{"binary_data_size":6}},` +
			`{"name":"INPUT1","shape":[2],"datatype":"INT32","data":[7,8]},{"name":"INPUT0","shape":[2],"datatype":"FP64","parameters":{"binary_data_size":16}}]}`
		a := s.Do(t, "POST", "/v2/models/m/infer", head+le([]uint16{1, 2, 3})+le([]float64{0.25, -1}), octets, headerLength(len(head)))
		want(t, a, 200, `{"model_name":"m","model_version":"1","id":"`+strings.Repeat("x", pad+1)+`","outputs":[`+
			`{"name":"OUTPUT0","datatype":"FP64","shape":[2],"data":[0.25,-1]},{"name":"OUTPUT1","datatype":"INT32","shape":[2],"data":[7,8]},`+
			`{"name":"OUTPUT2","datatype":"UINT16","shape":[3],"data":[1,2,3]}]}`)
	}
}

func TestIDsComeBack(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.NonZero().Bytes(), model.Settings{})
	for _, test := range []struct{ request, id string }{
		{``, ``},
		{`"id":null,`, ``},
		{`"id":"",`, ``},
		{`"id":"42",`, `"id":"42",`},
		{`"id":"ü \"quoted\" \u00e9\n\u0000 \ud83d\ude00",`, `"id":"ü \"quoted\" é\n\u0000 😀",`},
		{`"id":"` + strings.Repeat("long", 10000) + `",`, `"id":"` + strings.Repeat("long", 10000) + `",`},
	} {
		a := s.Do(t, "POST", "/v2/models/m/infer", strings.Replace(floats("0,3"), "{", "{"+test.request, 1))
		want(t, a, 200, `{"model_name":"m","model_version":"1",`+test.id+`"outputs":[{"name":"Y","datatype":"INT64","shape":[1,1],"data":[1]}]}`)
	}
}

// Outputs whose shape depends on the data, down to nothing.
func TestShapesThatDependOnData(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.NonZero().Bytes(), model.Settings{})
	for _, test := range []struct{ in, shape, out string }{
		{"0,1,0,1", "[1,2]", "1,3"}, {"0,0", "[1,0]", ""}, {"1,1,1", "[1,3]", "0,1,2"}, {"0", "[1,0]", ""},
	} {
		want(t, s.Do(t, "POST", "/v2/models/m/infer", floats(test.in)), 200,
			`{"model_name":"m","model_version":"1","outputs":[{"name":"Y","datatype":"INT64","shape":`+test.shape+`,"data":[`+test.out+`]}]}`)
	}
	want(t, s.Do(t, "POST", "/v2/models/m/infer", `{"inputs":[{"name":"X","shape":[0],"datatype":"FP32","data":[]}]}`), 200,
		`{"model_name":"m","model_version":"1","outputs":[{"name":"Y","datatype":"INT64","shape":[1,0],"data":[]}]}`)
}

// JSON has no NaN and no infinities: null there, but exact in bytes.
func TestNumbersThatJSONLacks(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	x, y := onnxwire.Tensor("X", tensor.FP32, -1), onnxwire.Tensor("Y", tensor.FP32, -1)
	s.Push(t, "log", onnxtest.Apply("Log", []onnxwire.Value{x}, []onnxwire.Value{y}).Bytes(), model.Settings{})
	want(t, s.Do(t, "POST", "/v2/models/log/infer", floats("0,1,-1")), 200,
		`{"model_name":"log","model_version":"1","outputs":[{"name":"Y","datatype":"FP32","shape":[3],"data":[null,0,null]}]}`)

	s.Push(t, "same", onnxtest.Identity(spec(tensor.FP64, -1)).Bytes(), model.Settings{})
	bits := []uint64{math.Float64bits(math.Inf(1)), math.Float64bits(math.Inf(-1)), 0x7ff8dead0000beef, 1 << 63}
	raw := le(bits)
	head := `{"inputs":[{"name":"INPUT0","shape":[4],"datatype":"FP64","parameters":{"binary_data_size":32}}]}`
	want(t, s.Do(t, "POST", "/v2/models/same/infer", head+raw, octets, headerLength(len(head))), 200,
		`{"model_name":"same","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"FP64","shape":[4],"data":[null,null,null,-0]}]}`)
	head = strings.Replace(head, "{", `{"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}}],`, 1)
	_, got := split(t, s.Do(t, "POST", "/v2/models/same/infer", head+raw, octets, headerLength(len(head))))
	if got != raw {
		t.Errorf("got %x, want %x", got, raw)
	}
}

func TestStringsThatAreNotUTF8(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	raw := lengths("\xff\xfe", "", "ok")
	head := `{"inputs":[{"name":"INPUT0","shape":[3],"datatype":"BYTES","parameters":{"binary_data_size":` + fmt.Sprint(len(raw)) + `}}]}`
	wantError(t, s.Do(t, "POST", "/v2/models/m/infer", head+raw, octets, headerLength(len(head))), 400,
		`output "OUTPUT0": element 0 is not valid UTF-8, ask for it with binary_data`)
	head = strings.Replace(head, "{", `{"parameters":{"binary_data_output":true},`, 1)
	_, got := split(t, s.Do(t, "POST", "/v2/models/m/infer", head+raw, octets, headerLength(len(head))))
	if got != raw {
		t.Errorf("got %q, want %q", got, raw)
	}
}

// Classifiers give maps from class to score: a tensor with the classes as labels.
func TestClassifiers(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "numbers", onnxtest.Classifier([]int64{7, 8, 9}).Bytes(), model.Settings{})
	s.Push(t, "words", onnxtest.Classifier([]string{"cat", "dog"}).Bytes(), model.Settings{})
	for _, test := range []struct{ model, shape, data, answer, labels string }{
		{
			"numbers", "[2,3]", "0.25,0.5,0.25,1,0,0",
			`{"name":"label","datatype":"INT64","shape":[2],"data":[8,7]},{"name":"probabilities","datatype":"FP32","shape":[2,3],"data":[0.25,0.5,0.25,1,0,0]}`,
			`["7","8","9"]`,
		},
		{
			"words", "[1,2]", "0.25,0.75",
			`{"name":"label","datatype":"BYTES","shape":[1],"data":["dog"]},{"name":"probabilities","datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}`,
			`["cat","dog"]`,
		},
	} {
		a := s.Do(t, "POST", "/v2/models/"+test.model+"/infer", `{"inputs":[{"name":"X","shape":`+test.shape+`,"datatype":"FP32","data":[`+test.data+`]}]}`)
		want(t, a, 200, `{"model_name":"`+test.model+`","model_version":"1","outputs":[`+test.answer+`]}`)
		var manifest struct {
			Signature struct {
				Outputs []struct {
					Name   string
					Labels json.RawMessage
				}
			}
		}
		a = s.Do(t, "GET", "/admin/v1/models/"+test.model+"/versions/1", "")
		if err := json.Unmarshal([]byte(a.Body), &manifest); err != nil {
			t.Fatal(err)
		}
		outputs := manifest.Signature.Outputs
		if len(outputs) != 2 || len(outputs[0].Labels) > 0 || outputs[1].Name != "probabilities" || string(outputs[1].Labels) != test.labels {
			t.Errorf("%s: got %s, want the labels %s", test.model, a.Body, test.labels)
		}
	}
}

func TestPathsToAVersion(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	x, y := []onnxwire.Value{onnxwire.Tensor("X", tensor.FP32, -1)}, []onnxwire.Value{onnxwire.Tensor("Y", tensor.FP32, -1)}
	s.Push(t, "a.b-C_1", onnxtest.Apply("Identity", x, y).Bytes(), model.Settings{})
	s.Push(t, "a.b-C_1", onnxtest.Apply("Neg", x, y).Bytes(), model.Settings{})
	if _, err := s.Registry.Move(t.Context(), "a.b-C_1", "canary", model.Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, version, y string }{
		{"a.b-C_1", "1", "3"},
		{"a.b-C_1/versions/1", "1", "3"},
		{"a.b-C_1/versions/2", "2", "-3"},
		{"a.b-C_1/versions/canary", "2", "-3"},
		{"a.b-C_1/versions/champion", "1", "3"},
		{"a%2Eb%2dC_1/versions/%32", "2", "-3"}, // percent-encoding of what needs none
	} {
		want(t, s.Do(t, "POST", "/v2/models/"+test.path+"/infer", floats("3")), 200,
			`{"model_name":"a.b-C_1","model_version":"`+test.version+`","outputs":[{"name":"Y","datatype":"FP32","shape":[1],"data":[`+test.y+`]}]}`)
	}
}

// Bodies may be compressed; the length of the JSON counts what they unpack to.
func TestCompressedRequests(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.Int64, -1)).Bytes(), model.Settings{})
	raw := le(make([]int64, 1000))
	head := `{"inputs":[{"name":"INPUT0","shape":[1000],"datatype":"INT64","parameters":{"binary_data_size":8000}}],"parameters":{"binary_data_output":true}}`
	const text = `{"inputs":[{"name":"INPUT0","shape":[2],"datatype":"INT64","data":[5,6]}]}`
	const answer = `{"model_name":"m","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"INT64","shape":[2],"data":[5,6]}]}`
	for _, coding := range []string{"gzip", "deflate", "GZIP", "identity"} {
		squeeze := func(body string) string {
			if coding == "identity" {
				return body
			}
			return pack(t, strings.ToLower(coding), body)
		}
		want(t, s.Do(t, "POST", "/v2/models/m/infer", squeeze(text), "Content-Encoding: "+coding), 200, answer)
		a := s.Do(t, "POST", "/v2/models/m/infer", squeeze(head+raw), "Content-Encoding: "+coding, octets, headerLength(len(head)))
		if _, got := split(t, a); a.Status != 200 || got != raw {
			t.Errorf("%s: got %d and %d bytes, want 200 and %d", coding, a.Status, len(got), len(raw))
		}
		a = s.Do(t, "POST", "/v2/models/m/infer", squeeze(raw), "Content-Encoding: "+coding, octets, headerLength(0))
		if _, got := split(t, a); a.Status != 200 || got != raw {
			t.Errorf("%s, raw: got %d and %d bytes, want 200 and %d", coding, a.Status, len(got), len(raw))
		}
	}
	// gzip may come in several members.
	want(t, s.Do(t, "POST", "/v2/models/m/infer", pack(t, "gzip", text[:20])+pack(t, "gzip", text[20:]), "Content-Encoding: gzip"), 200, answer)
}

func TestCompressedAnswers(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.Int64, -1)).Bytes(), model.Settings{})
	zeros := strings.TrimSuffix(strings.Repeat("0,", 1000), ",")
	request := `{"inputs":[{"name":"INPUT0","shape":[1000],"datatype":"INT64","data":[` + zeros + `]}]`
	answer := `{"model_name":"m","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"INT64","shape":[1000],"data":[` + zeros + `]}]}`
	for _, test := range []struct{ accept, coding string }{
		{"", ""},
		{"gzip", "gzip"},
		{"deflate", "deflate"},
		{"deflate, gzip", "gzip"},
		{"GZip", "gzip"},
		{"br, zstd, gzip;q=0.5", "gzip"},
		{"gzip;q=0", ""},
		{"gzip; q=0.000, deflate", "deflate"},
		{"gzip;q=0, deflate;q=0", ""},
		{"gzip;q=0.001", "gzip"},
		{"gzip;Q=0", ""},
		{"gzip;q=0.", ""},
		{"identity", ""},
		{"br", ""},
		{"gzipped", ""},
		{",,;;q=,=", ""},
	} {
		a := s.Do(t, "POST", "/v2/models/m/infer", request+"}", "Accept-Encoding: "+test.accept)
		coding := a.Header.Get("Content-Encoding")
		if coding != test.coding {
			t.Errorf("%q: got %q, want %q", test.accept, coding, test.coding)
		}
		if coding != "" {
			if len(a.Body) > 200 {
				t.Errorf("%q: %d bytes are not compressed", test.accept, len(a.Body))
			}
			a.Body = unpack(t, coding, a.Body)
		}
		if vary := a.Header.Get("Vary"); vary != "Accept-Encoding" {
			t.Errorf("Vary is %q", vary)
		}
		want(t, a, 200, answer)

		a = s.Do(t, "POST", "/v2/models/m/infer", request+`,"parameters":{"binary_data_output":true}}`, "Accept-Encoding: "+test.accept)
		if test.coding != "" { // the length of the JSON counts what comes out
			a.Body = unpack(t, test.coding, a.Body)
		}
		if _, raw := split(t, a); raw != le(make([]int64, 1000)) {
			t.Errorf("%q: got %d bytes behind the JSON", test.accept, len(raw))
		}
	}
	// What fits one packet goes as it is.
	small := s.Do(t, "POST", "/v2/models/m/infer", `{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"INT64","data":[0]}]}`, "Accept-Encoding: gzip")
	if got := small.Header.Get("Content-Encoding"); got != "" {
		t.Errorf("a small answer came as %s", got)
	}
}

// HTTP/2 without TLS, by prior knowledge: what Knative's queue-proxy may speak.
func TestHTTP2(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	defer client.CloseIdleConnections()
	do := func(body string) predicttest.Answer {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v2/models/simple/infer", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != 2 {
			t.Errorf("got %s, want HTTP/2", resp.Proto)
		}
		return predicttest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}
	}
	for _, rows := range []int{1, 5000} { // the larger one needs many frames each way
		a := do(simple(rows))
		var out struct{ Outputs []struct{ Data []int32 } }
		if err := json.Unmarshal([]byte(a.Body), &out); err != nil || a.Status != 200 || len(out.Outputs) != 2 {
			t.Fatalf("got %d %v", a.Status, err)
		}
		if sum := out.Outputs[0].Data; len(sum) != 16*rows || sum[0] != 2 || sum[len(sum)-1] != 2 {
			t.Errorf("got %d sums", len(sum))
		}
	}
	wantError(t, do("{"), 400, "the body is not valid JSON at byte 1: it ends where a key in quotes is expected")
}

// Requests use the memory of earlier ones, and nothing of what those said.
func TestRequestsShareNothing(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	s.Push(t, "two", onnxtest.Identity(spec(tensor.FP32, -1), spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	const inputs = `"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":[2]},{"name":"INPUT1","shape":[1],"datatype":"BYTES","data":["b"]}]}`
	for range 50 {
		a := s.Do(t, "POST", "/v2/models/two/infer", `{"id":"mine","parameters":{"binary_data_output":true},"outputs":[{"name":"OUTPUT1"},{"name":"OUTPUT0"}],`+inputs)
		if head, raw := split(t, a); !strings.Contains(head, `"id":"mine"`) || raw != lengths("b")+le(float32(2)) {
			t.Fatalf("got %s %q", head, raw)
		}
		a = s.Do(t, "POST", "/v2/models/x/infer", le([]float32{1, 2}), headerLength(0))
		head, raw := split(t, a)
		if want := `{"model_name":"x","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}`; head != want || raw != le([]float32{1, 2}) {
			t.Fatalf("got %s %q, want %s", head, raw, want)
		}
		want(t, s.Do(t, "POST", "/v2/models/two/infer", "{"+inputs), 200, `{"model_name":"two","model_version":"1","outputs":[`+
			`{"name":"OUTPUT0","datatype":"FP32","shape":[1],"data":[2]},{"name":"OUTPUT1","datatype":"BYTES","shape":[1],"data":["b"]}]}`)
		if a := s.Do(t, "POST", "/v2/models/two/infer", `{"id":"yours","outputs":[{"name":"OUTPUT1"}],`+inputs[:60]); a.Status != 400 {
			t.Fatalf("got %d %s", a.Status, a.Body)
		}
	}
}

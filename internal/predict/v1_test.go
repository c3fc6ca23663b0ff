package predict_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

func TestV1ServerAndModelsTellOfThemselves(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	want(t, s.Do(t, "GET", "/", ""), 200, `{"status":"alive"}`)
	want(t, s.Do(t, "GET", "/v1/models", ""), 200, `{"models":[]}`)
	s.Push(t, "m", onnxtest.Identity(spec(tensor.Bytes, -1, 2), spec(tensor.Int64)).Bytes(), model.Settings{})
	s.Push(t, "m", onnxtest.NonZero().Bytes(), model.Settings{})
	want(t, s.Do(t, "GET", "/v1/models", ""), 200, `{"models":["m"]}`)
	const (
		status   = `{"name":"m","ready":true,"model_version_status":[{"version":"1","state":"AVAILABLE","status":{"error_code":"OK","error_message":""}}]}`
		row      = `{"name":"%s0","dtype":"DT_STRING","tensor_shape":{"dim":[{"size":"-1","name":""},{"size":"2","name":""}],"unknown_rank":false}}`
		scalar   = `{"name":"%s1","dtype":"DT_INT64","tensor_shape":{"dim":[],"unknown_rank":false}}`
		metadata = `{"model_spec":{"name":"m","signature_name":"","version":"1"},"metadata":{"signature_def":{"signature_def":{"serving_default":` +
			`{"inputs":{"INPUT0":` + row + `,"INPUT1":` + scalar + `},"outputs":{"OUTPUT0":` + row + `,"OUTPUT1":` + scalar + `},"method_name":"tensorflow/serving/predict"}}}}}`
	)
	for _, path := range []string{"/v1/models/m", "/v1/models/m/versions/1", "/v1/models/m/labels/champion"} {
		want(t, s.Do(t, "GET", path, ""), 200, status)
		want(t, s.Do(t, "GET", path+"/metadata", ""), 200, fmt.Sprintf(metadata, "INPUT", "INPUT", "OUTPUT", "OUTPUT"))
	}
	want(t, s.Do(t, "GET", "/v1/models/m/versions/2", ""), 200, strings.Replace(status, `"version":"1"`, `"version":"2"`, 1))

	want(t, s.Do(t, "POST", "/v2/repository/models/m/unload", ""), 200, `{}`)
	want(t, s.Do(t, "GET", "/v1/models/m", ""), 503, `{"name":"m","ready":false,"model_version_status":[{"version":"1","state":"END","status":{"error_code":"UNAVAILABLE","error_message":"unloaded"}}]}`)
	for _, what := range []string{"", "/metadata"} {
		wantError(t, s.Do(t, "GET", "/v1/models/none"+what, ""), 404, `model "none" does not exist`)
		wantError(t, s.Do(t, "GET", "/v1/models/m/versions/3"+what, ""), 404, `model "m" has no version 3`)
		wantError(t, s.Do(t, "GET", "/v1/models/m/labels/x"+what, ""), 404, `model "m" has no version or alias "x"`)
	}
}

// pairs is a model with several inputs and outputs of several types.
func pairs() []byte {
	return onnxtest.Identity(spec(tensor.FP32, -1, 2), spec(tensor.Bytes, -1), spec(tensor.Bool, -1, 1)).Bytes()
}

func TestV1Predict(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	s.Push(t, "rows", onnxtest.Identity(spec(tensor.FP64, -1, 2)).Bytes(), model.Settings{})
	s.Push(t, "text", onnxtest.Identity(spec(tensor.Bytes, -1)).Bytes(), model.Settings{})
	s.Push(t, "one", onnxtest.Identity(spec(tensor.Int64)).Bytes(), model.Settings{})
	s.Push(t, "pairs", pairs(), model.Settings{})
	for _, test := range []struct{ model, body, answer string }{
		{"x", `{"instances":[1,2.5]}`, `{"predictions":[1,2.5]}`},
		{"x", `{"signature_name":"serving_default","instances":[{"INPUT0":1},{"INPUT0":2}]}`, `{"predictions":[1,2]}`},
		{"x", `{"inputs":[1,2]}`, `{"outputs":[1,2]}`},
		{"x", `{"inputs":{"INPUT0":[]}}`, `{"outputs":[]}`},
		{"x/versions/1", `{"instances":[1]}`, `{"predictions":[1]}`},
		{"x/labels/champion", `{"instances":[1]}`, `{"predictions":[1]}`},
		{"rows", `{"instances":[[1,2],[3,4]]}`, `{"predictions":[[1,2],[3,4]]}`},
		{"text", `{"instances":["a",{"b64":"YQ=="}]}`, `{"predictions":["a","a"]}`},
		{"text", `{"instances":[{"b64":"/w=="}]}`, `{"predictions":[{"b64":"/w=="}]}`},
		{"one", `{"inputs":7}`, `{"outputs":7}`},
		{
			"pairs", `{"instances":[{"INPUT0":[1,2],"INPUT1":"a","INPUT2":[true]},{"INPUT2":[false],"INPUT1":"b","INPUT0":[3,4]}]}`,
			`{"predictions":[{"OUTPUT0":[1,2],"OUTPUT1":"a","OUTPUT2":[true]},{"OUTPUT0":[3,4],"OUTPUT1":"b","OUTPUT2":[false]}]}`,
		},
		{
			"pairs", `{"inputs":{"INPUT0":[[1,2],[3,4]],"INPUT1":["a","b"],"INPUT2":[[true],[false]]}}`,
			`{"outputs":{"OUTPUT0":[[1,2],[3,4]],"OUTPUT1":["a","b"],"OUTPUT2":[[true],[false]]}}`,
		},
	} {
		a := s.Do(t, "POST", "/v1/models/"+test.model+":predict", test.body)
		want(t, a, 200, test.answer)
		if kind := a.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("Content-Type is %q", kind)
		}
	}
}

func TestV1Compression(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	numbers := strings.TrimSuffix(strings.Repeat("1.5,", 1000), ",")
	for _, coding := range []string{"gzip", "deflate"} {
		a := s.Do(t, "POST", "/v1/models/x:predict", pack(t, coding, `{"instances":[`+numbers+`]}`), "Content-Encoding: "+coding, "Accept-Encoding: "+coding)
		if a.Header.Get("Content-Encoding") != coding || unpack(t, coding, a.Body) != `{"predictions":[`+numbers+`]}` {
			t.Errorf("%s: got %d %q", coding, a.Status, a.Body)
		}
	}
}

func TestV1Refusals(t *testing.T) {
	s := startRefusing(t, map[string]string{"MAX_BODY": "64KiB"})
	s.Push(t, "half", onnxtest.Identity(spec(tensor.FP16, -1)).Bytes(), model.Settings{})
	for _, test := range []struct {
		name, path, body string
		headers          []string
		status           int
		sentence         string
	}{
		{"wrong type", "x:predict", `{"instances":[1,"a"]}`, nil, 400, `instances[1] is a string, but FP32 takes a number`},
		{"wrong depth", "fixed:predict", `{"instances":[1,2]}`, nil, 400, `instances[0] must be an array: input "INPUT0" has shape [2,3]`},
		{"ragged", "fixed:predict", `{"instances":[[1,2,3],[1,2]]}`, nil, 400, `instances[1] has 2 elements: input "INPUT0" has shape [2,3]`},
		{"rows of a fixed number", "fixed:predict", `{"instances":[[1,2,3]]}`, nil, 400, `input "INPUT0": shape is [1,3], the model expects [2,3]`},
		{"not a row for each instance", "pick:predict", `{"instances":[{"X":1,"I":0},{"X":2,"I":9}]}`, nil, 400, `the model cannot be run on these inputs: Gather: indices element out of data bounds, idx=9 must be within the inclusive range [-2,1]`},
		{"missing input", "simple:predict", `{"inputs":{"INPUT0":[[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]]}}`, nil, 400, `inputs.INPUT1 is missing: the model expects "INPUT0", "INPUT1"`},
		{"half floats", "half:predict", `{"instances":[1]}`, nil, 400, `input "INPUT0": JSON can't carry FP16, send the tensor as binary data, by the V2 protocol`},
		{"zero byte", "text:predict", `{"instances":[{"b64":"AA=="}]}`, nil, 400, `input "INPUT0": element 0 has a zero byte, which ONNX Runtime's strings cannot hold`},
		{"a V2 request", "x:predict", floats("1"), nil, 400, `inputs[0] is an object, but FP32 takes a number`},
		{"too large", "x:predict", `{"instances":[` + strings.Repeat("1,", 40_000) + `1]}`, nil, 413, `the body is larger than the limit of 65536 bytes`},
		{"too large once unpacked", "x:predict", pack(t, "gzip", `{"instances":[`+strings.Repeat("1,", 40_000)+`1]}`), []string{"Content-Encoding: gzip"}, 413, `the body is larger than the limit of 65536 bytes`},
		{"not gzip", "x:predict", `{"instances":[1]}`, []string{"Content-Encoding: gzip"}, 400, `the body is not valid gzip, as its Content-Encoding says`},
		{"unknown model", "none:predict", `{"instances":[1]}`, nil, 404, `model "none" does not exist`},
		{"unknown version", "x/versions/2:predict", `{"instances":[1]}`, nil, 404, `model "x" has no version 2`},
		{"unknown label", "x/labels/shadow:predict", `{"instances":[1]}`, nil, 404, `model "x" has no version or alias "shadow"`},
		{"no model", ":predict", `{"instances":[1]}`, nil, 404, `the name of a model is missing before ":predict"`},
		{"no version", "x/versions/:predict", `{"instances":[1]}`, nil, 404, `the name of a version is missing before ":predict"`},
		{"two colons", "x:1:predict", `{"instances":[1]}`, nil, 404, `model "x:1" does not exist`},
		{"no verb", "x", `{"instances":[1]}`, nil, 404, `there is nothing to post to at /v1/models/x, but there is at /v1/models/x:predict`},
		{"no verb behind a version", "x/versions/1", `{"instances":[1]}`, nil, 404, `there is nothing to post to at /v1/models/x/versions/1, but there is at /v1/models/x/versions/1:predict`},
		{"classify", "x:classify", `{"examples":[{"INPUT0":1}]}`, nil, 400, `:classify is not supported: a model here takes and gives tensors, by :predict`},
		{"regress", "x/versions/1:regress", `{"examples":[{"INPUT0":1}]}`, nil, 400, `:regress is not supported: a model here takes and gives tensors, by :predict`},
		{"explain", "x:explain", `{"instances":[1]}`, nil, 400, `:explain is not supported: a model here takes and gives tensors, by :predict`},
		{"unknown verb", "x:Predict", `{"instances":[1]}`, nil, 404, `":Predict" is not something that a model does, :predict is`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, s.Do(t, "POST", "/v1/models/"+test.path, test.body, test.headers...), test.status, test.sentence)
		})
	}
	wantError(t, s.Do(t, "GET", "/v1/models/x:predict", ""), 404, `model "x:predict" does not exist`)
	wantError(t, s.Do(t, "PUT", "/v1/models/x:predict", ""), 405, `PUT is not a method of /v1/models/x:predict`)
}

func TestV1OutputWithoutRows(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "nonzero", onnxtest.NonZero().Bytes(), model.Settings{})
	wantError(t, s.Do(t, "POST", "/v1/models/nonzero:predict", `{"instances":[1,0,1]}`), 400,
		`output "Y" has shape [1,2] and not a row for each of the 3 instances: send inputs in place of instances`)
	want(t, s.Do(t, "POST", "/v1/models/nonzero:predict", `{"inputs":[1,0,1]}`), 200, `{"outputs":[[0,2]]}`)
}

package predict_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// startHandler gives a whole server's handler, to be called without a network.
func startHandler(t testing.TB) (http.Handler, *model.Registry) {
	t.Helper()
	var pc predict.Config
	var registry *model.Registry
	f := &serve.Function{Name: "test", Configs: pc.Parts(), Wire: func(ctx context.Context, p *serve.Process) (err error) {
		registry, err = predict.Open(ctx, p, &pc, predict.Deps{Blob: newBlob(t), Formats: []engine.Format{onnxtest.Format(t)}})
		return err
	}}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := f.Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "MODEL_CACHE_DIR": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return p.Server(), registry
}

var fuzzed = []struct {
	name string
	file onnxwire.Model
}{
	{"simple", onnxtest.Simple(-1)},
	{"x", onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{-1}})},
	{"fixed", onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{2, 3}})},
	{"text", onnxtest.Identity(tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1}})},
	{"flags", onnxtest.Identity(tensor.Spec{Type: tensor.Bool, Shape: []int64{-1}})},
	{"mixed", onnxtest.Identity(tensor.Spec{Type: tensor.FP16, Shape: []int64{-1, 2}}, tensor.Spec{Type: tensor.Int64}, tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1, -1}})},
}

// startFuzzed runs a server with the models that are fuzzed, and gives their numbers.
func startFuzzed(f *testing.F) (http.Handler, map[string]uint8) {
	handler, registry := startHandler(f)
	numbers := map[string]uint8{}
	for i, m := range fuzzed {
		numbers[m.name] = uint8(i)
		if _, err := registry.Push(f.Context(), model.Push{Name: m.name}, strings.NewReader(string(m.file.Bytes()))); err != nil {
			f.Fatal(err)
		}
	}
	return handler, numbers
}

// FuzzInfer sends any body with any headers to a whole server. It must not fail
// or panic, and whatever it says must be JSON, or JSON and as many bytes as that tells.
func FuzzInfer(f *testing.F) {
	handler, numbers := startFuzzed(f)
	for _, test := range refusals {
		if n, ok := numbers[test.path]; ok && len(test.body) < 10_000 {
			header, coding := "", ""
			for _, h := range test.headers {
				name, value, _ := strings.Cut(h, ": ")
				if name == oip.HeaderLength {
					header = value
				} else {
					coding = value
				}
			}
			f.Add(n, []byte(test.body), header, coding, false)
		}
	}
	f.Add(numbers["simple"], []byte(simple(2)), "", "gzip", true)
	f.Add(numbers["simple"], []byte(strings.Replace(simple(1), "{", `{"id":"7","parameters":{"binary_data_output":true},"outputs":[{"name":"OUTPUT1"}],`, 1)), "", "deflate", true)
	f.Add(numbers["x"], []byte(le([]float32{1, 2})), "0", "gzip", true)
	f.Add(numbers["text"], []byte("any\xff"), "0", "", false)
	mixed := `{"inputs":[{"name":"INPUT0","shape":[1,2],"datatype":"FP16","parameters":{"binary_data_size":4}},{"name":"INPUT1","shape":[],"datatype":"INT64","data":[5]},` +
		`{"name":"INPUT2","shape":[1,1],"datatype":"BYTES","parameters":{"binary_data_size":6}}],"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}},{"name":"OUTPUT2"}]}`
	f.Add(numbers["mixed"], []byte(mixed+"abcd"+lengths("hi")), strconv.Itoa(len(mixed)), "", false)
	f.Add(numbers["mixed"], []byte(mixed+"abcd"+lengths("hi")), strconv.Itoa(len(mixed)), "gzip", true)

	// packed tells that the body is to be packed as the coding says, since no
	// fuzzer writes the checksums of gzip.
	f.Fuzz(func(t *testing.T, which uint8, body []byte, header, coding string, packed bool) {
		if packed && (coding == "gzip" || coding == "deflate") {
			body = []byte(pack(t, coding, string(body)))
		}
		name := fuzzed[int(which)%len(fuzzed)].name
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v2/models/"+name+"/infer", strings.NewReader(string(body)))
		if header != "" {
			r.Header.Set(oip.HeaderLength, header)
		}
		if coding != "" {
			r.Header.Set("Content-Encoding", coding)
			r.Header.Set("Accept-Encoding", coding)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)

		text := w.Body.String()
		if n := w.Header().Get("Content-Length"); n != strconv.Itoa(len(text)) {
			t.Errorf("Content-Length is %q for %d bytes", n, len(text))
		}
		if sent := w.Header().Get("Content-Encoding"); sent != "" {
			text = unpack(t, sent, text)
		}
		switch w.Code {
		case 200:
		case 400, 413:
			isRefusal(t, []byte(text))
			return
		default:
			t.Fatalf("got %d %s", w.Code, text)
		}
		head, raw := text, ""
		if text := w.Header().Get(oip.HeaderLength); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || n > len(head) {
				t.Fatalf("%s is %q for a body of %d bytes", oip.HeaderLength, text, len(head))
			}
			head, raw = head[:n], head[n:]
		}
		var answer struct {
			Model   string `json:"model_name"`
			Version string `json:"model_version"`
			Outputs []struct {
				Name       string
				Datatype   tensor.Type
				Shape      []int64
				Data       *[]any
				Parameters struct {
					Size *int `json:"binary_data_size"`
				}
			}
		}
		if err := json.Unmarshal([]byte(head), &answer); err != nil || answer.Model != name || answer.Version != "1" || len(answer.Outputs) == 0 {
			t.Fatalf("got %q: %v", head, err)
		}
		for _, o := range answer.Outputs {
			n, err := tensor.Elements(o.Shape)
			if err != nil {
				t.Fatalf("output %s: %v", o.Name, err)
			}
			size := o.Parameters.Size
			switch {
			case (o.Data == nil) == (size == nil):
				t.Fatalf("output %s has data and a size, or neither", o.Name)
			case size == nil && int64(len(*o.Data)) != n:
				t.Errorf("output %s has %d elements for shape %v", o.Name, len(*o.Data), o.Shape)
			case size == nil:
			case *size < 0 || *size > len(raw) || o.Datatype != tensor.Bytes && int64(*size) != n*int64(o.Datatype.Size()):
				t.Fatalf("output %s of %v has %d bytes, and %d are left", o.Name, o.Shape, *size, len(raw))
			default:
				raw = raw[*size:]
			}
		}
		if len(raw) > 0 {
			t.Errorf("%d bytes are left over", len(raw))
		}
	})
}

// FuzzPredictV1 sends any V1 body to a whole server. It must not fail or
// panic; what it answers is JSON in and out.
func FuzzPredictV1(f *testing.F) {
	handler, _ := startFuzzed(f)
	for i := range fuzzed {
		for _, body := range []string{
			`{"instances":[1,2.5]}`, `{"instances":[[1,2,3],[4,5,6]]}`, `{"instances":["a",{"b64":"/w=="}]}`, `{"instances":[true]}`, `{"instances":[{"INPUT0":1},{"INPUT0":2}]}`,
			`{"inputs":[]}`, `{"inputs":{"INPUT0":[[1,2,3],[4,5,6]]}}`, `{"signature_name":"","inputs":[1e300,-0]}`, `{"instances":[{"INPUT0":[1],"INPUT1":[2]}]}`,
			`{"instances":[[1],[]]}`, `{"instances":[{"b64":"*"}]}`, `{"instances":[{}]}`, `{"instances":[],"inputs":1}`, `{"inputs":{"INPUT0":[[]]}}`,
		} {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		name := fuzzed[int(which)%len(fuzzed)].name
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/models/"+name+":predict", bytes.NewReader(body))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == 400 {
			isRefusal(t, w.Body.Bytes())
			return
		}
		var answer struct{ Predictions, Outputs any }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 || (answer.Predictions == nil) == (answer.Outputs == nil) {
			t.Fatalf("%s: got %d %s: %v", body, w.Code, w.Body, err)
		}
		if !json.Valid(body) {
			t.Fatalf("answered %q, which is not JSON", body)
		}
	})
}

// FuzzRespond sends anything as an event, in each mode, to a whole server.
func FuzzRespond(f *testing.F) {
	handler, _ := startFuzzed(f)
	const request = `{"instances":[1,2.5]}`
	f.Add(uint8(1), "application/json", "1", "/s", "t", "", []byte(request))
	f.Add(uint8(1), "application/cloudevents+json", "", "", "", "", []byte(envelope("1", `"data":`+request)))
	f.Add(uint8(1), "application/cloudevents+json", "", "", "", "", []byte(envelope("1", `"data_base64":"eyJpbnN0YW5jZXMiOlsxXX0=","traceparent":"x"`)))
	f.Add(uint8(1), "application/cloudevents-batch+json", "", "", "", "", []byte("["+envelope("1", `"data":`+request)+","+envelope("2", `"data":7`)+"]"))
	f.Add(uint8(0), "application/octet-stream", "%C3%A4", "/%", "", "5", []byte(`{"inp`))
	f.Add(uint8(3), "text/plain", "1", ":", "t", "0", []byte("a"))
	f.Fuzz(func(t *testing.T, which uint8, kind, id, source, typ, header string, body []byte) {
		name := fuzzed[int(which)%len(fuzzed)].name
		for _, path := range []string{"/v1/models/" + name + ":predict", "/v2/models/" + name + "/infer"} {
			r := httptest.NewRequestWithContext(t.Context(), "POST", path, bytes.NewReader(body))
			for name, value := range map[string]string{"Content-Type": kind, "Ce-Specversion": "1.0", "Ce-Id": id, "Ce-Source": source, "Ce-Type": typ, oip.HeaderLength: header} {
				if value != "" {
					r.Header.Set(name, value)
				}
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			switch w.Code {
			case 200:
				got := &http.Response{StatusCode: 200, Header: w.Header(), Body: io.NopCloser(w.Body)}
				if strings.HasPrefix(kind, "application/cloudevents-batch+json") {
					var events []event.Event
					if err := json.Unmarshal(w.Body.Bytes(), &events); err != nil {
						t.Errorf("%s: got %s: %v", body, w.Body, err)
					}
				} else if e, err := event.ReadResponse(got); err != nil || e == nil || e.Type() != event.PredictionMade.Name {
					t.Errorf("%s: got %v %s: %v", body, w.Header(), w.Body, err)
				}
			case 400, 413, 422:
				isRefusal(t, w.Body.Bytes())
			default:
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
		}
	})
}

// isRefusal checks the body of an error.
func isRefusal(t *testing.T, body []byte) {
	t.Helper()
	var refused map[string]string
	if err := json.Unmarshal(body, &refused); err != nil || len(refused) != 1 || refused["error"] == "" || len(refused["error"]) > 2000 {
		t.Errorf("got %q: %v", body, err)
	}
}

package predict_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// logged waits until the payload log of a bucket has n rows, and gives them in the order of their answers.
func logged(t *testing.T, b store.Blob, n int) []payload.Row {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var rows []payload.Row
		for o, err := range b.List(t.Context(), payload.Inbox, "") {
			if err != nil {
				t.Fatal(err)
			}
			if err := payload.Load(t.Context(), b, o.Key, func(some []payload.Row) error { rows = append(rows, some...); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if len(rows) >= n {
			slices.SortStableFunc(rows, func(a, b payload.Row) int { return int(a.Answered - b.Answered) })
			if len(rows) > n {
				t.Fatalf("got %d rows, want %d: %+v", len(rows), n, rows)
			}
			return rows
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d rows, want %d", len(rows), n)
		}
	}
}

func memBlob(t *testing.T) store.Blob {
	t.Helper()
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever protocol a request comes by, the log has it, under the id that its caller knows.
func TestPredictionsAreLogged(t *testing.T) {
	b := memBlob(t)
	s := predicttest.Start(t, b, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms"})
	m := s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{Cache: model.Cache{TTL: model.Duration(time.Hour)}})
	body := strings.Replace(floats("1,2.5"), `"X"`, `"INPUT0"`, 1)
	named := strings.Replace(body, "{", `{"id":"order-7",`, 1)

	plain := s.Do(t, "POST", "/v2/models/x/infer", body)
	answered(t, plain, 200)
	mine := s.Do(t, "POST", "/v2/models/x/infer", named, "X-Forwarded-For: 10.1.2.3, 10.0.0.1")
	answered(t, mine, 200)
	v1 := s.Do(t, "POST", "/v1/models/x:predict", `{"instances":[4]}`)
	answered(t, v1, 200)
	e := s.Do(t, "POST", "/v1/models/x:predict", `{"instances":[5]}`, ce("1")...)
	answered(t, e, 200)
	strange := s.Do(t, "POST", "/v2/models/x/infer", strings.Replace(body, "{", `{"id":"a\r\nSet-Cookie: x",`, 1))
	answered(t, strange, 200)
	if h := strange.Header; h.Get("Prediction-Id") != "" || h.Get("Set-Cookie") != "" {
		t.Errorf("got %v", h)
	}
	wrong := s.Do(t, "POST", "/v2/models/x/infer", `{"inputs":[{"name":"INPUT0","datatype":"BOOL","shape":[1],"data":[true]}]}`)
	if wrong.Status != 400 {
		t.Fatalf("got %d", wrong.Status)
	}
	answered(t, s.Do(t, "POST", "/v2/models/none/infer", body), 404) // no version's prediction

	rows := logged(t, b, 9)
	for i, w := range []struct{ id, inputs, outputs, cache, kind, protocol string }{
		{plain.Header.Get("Prediction-Id"), `{"INPUT0":1}`, `{"OUTPUT0":1}`, "miss", "", "v2_json"},
		{plain.Header.Get("Prediction-Id"), `{"INPUT0":2.5}`, `{"OUTPUT0":2.5}`, "miss", "", "v2_json"},
		{"order-7", `{"INPUT0":1}`, `{"OUTPUT0":1}`, "hit", "", "v2_json"},
		{"order-7", `{"INPUT0":2.5}`, `{"OUTPUT0":2.5}`, "hit", "", "v2_json"},
		{v1.Header.Get("Prediction-Id"), `{"INPUT0":4}`, `{"OUTPUT0":4}`, "miss", "", "v1"},
		{e.Header.Get("Ce-Id"), `{"INPUT0":5}`, `{"OUTPUT0":5}`, "miss", "", "event"},
		{"a\r\nSet-Cookie: x", `{"INPUT0":1}`, `{"OUTPUT0":1}`, "hit", "", "v2_json"},
		{"a\r\nSet-Cookie: x", `{"INPUT0":2.5}`, `{"OUTPUT0":2.5}`, "hit", "", "v2_json"},
	} {
		r := rows[i]
		if w.id == "" || r.ID != w.id || r.Inputs != w.inputs || r.Outputs != w.outputs || r.Cache != w.cache || r.Kind != w.kind || r.Protocol != w.protocol ||
			r.Model != "x" || r.Version != 1 || r.Digest != string(m.Digest) || r.Weight != 1 || r.Latency < 0 || r.Caller == "" {
			t.Errorf("row %d: got %+v, want %+v", i, r, w)
		}
	}
	if r := rows[8]; r.Kind != "invalid" || r.Error == "" || r.Inputs != `{"INPUT0":true}` || r.Outputs != "" {
		t.Errorf("got %+v", r)
	}
	if mine.Header.Get("Prediction-Id") != "order-7" || rows[2].Caller != "10.1.2.3" {
		t.Errorf("got %v, %+v", mine.Header, rows[2])
	}
}

// Events that come together are predictions of their own: each is measured, and each is found by the trace that it comes from.
func TestEventsOfABatchAreLoggedUnderTheirTraces(t *testing.T) {
	b := memBlob(t)
	s := predicttest.Start(t, b, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms"})
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	var want, events []string
	for i := range 3 { // the last of which is asked to be kept
		id := fmt.Sprintf("0af7651916cd43dd8448eb211c8031%02d", i)
		want = append(want, id)
		events = append(events, envelope(fmt.Sprint(i), fmt.Sprintf(`"traceparent":"00-%s-b7ad6b7169203331-0%d","data":{"instances":[%d]}`, id, i/2, i)))
	}
	answered(t, s.Do(t, "POST", "/v1/models/x:predict", "["+strings.Join(events, ",")+"]", "Content-Type: application/cloudevents-batch+json"), 200)
	var got []string
	for _, r := range logged(t, b, 3) {
		got = append(got, r.Trace)
		if r.Sampled != (r.Trace == want[2]) {
			t.Errorf("that the trace %s is kept: got %t", r.Trace, r.Sampled)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got traces %v, want %v", got, want)
	}
	if text := s.Do(t, "GET", "/metrics", "").Body; !strings.Contains(text, `pilotlight_inference_duration_seconds_count{model="x",version="1"} 3`) {
		t.Errorf("want 3 runs measured, got\n%s", text)
	}
}

// gRPC has the log as V2 does. What a stream tells has no header, so it stands in the answer.
func TestGRPCPredictionsAreLogged(t *testing.T) {
	b := memBlob(t)
	s, _ := featuredOn(t, b, nil)
	m := s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	s.Push(t, "off", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{Log: model.Log{Off: true}})
	c := dial(t, s)
	ask := func(model, id, values string) string {
		return fmt.Sprintf(`{"model_name":%q,"id":%q,"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[%d],"contents":{"fp32_contents":[%s]}}]}`,
			model, id, 1+strings.Count(values, ","), values)
	}
	featured := fmt.Sprintf(`{"model_name":"numbers","parameters":{"feature_time":{"string_param":%q}},"inputs":[
		{"name":"driver","datatype":"BYTES","shape":[1],"contents":{"bytes_contents":["ZDc="]}},
		{"name":"hour","datatype":"INT64","shape":[1,1],"contents":{"int64_contents":["19"]}}]}`, featureTime.Add(time.Minute).Format(time.RFC3339Nano))

	// unary gives the id that the metadata tell.
	unary := func(text string, via ...string) string {
		t.Helper()
		var head metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), via...)
		if _, err := c.call(ctx, t, "ModelInfer", text, grpc.Header(&head)); err != nil {
			t.Fatal(err)
		}
		return strings.Join(head.Get("prediction-id"), " ")
	}
	// streamed gives the id and the parameter of an answer.
	stream := openStream(t.Context(), t, c)
	streamed := func(text string) (id, parameter string) {
		t.Helper()
		stream.send(text)
		var got struct {
			Message  string `json:"error_message"`
			Response struct {
				ID         string
				Outputs    []json.RawMessage
				Parameters map[string]struct {
					Text string `json:"string_param"`
				}
			} `json:"infer_response"`
		}
		text = stream.receive()
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if (got.Message == "") != (len(got.Response.Outputs) == 1) || len(got.Response.Parameters) > 1 {
			t.Errorf("got %s", text)
		}
		return got.Response.ID, got.Response.Parameters["prediction_id"].Text
	}

	long := strings.Repeat("x", 201)
	var ids []string
	ids = append(ids, unary(ask("x", "", "1,2.5"), "x-forwarded-for", "10.1.2.3"), unary(ask("x", "order-7", "3")), unary(featured))
	if ids[1] != "order-7" {
		t.Errorf("got %q", ids)
	}
	for _, w := range []struct {
		ask, id string
		new     bool
	}{
		{ask("x", "", "4"), "", true},
		{ask("x", "größer", "5"), "größer", false},
		{ask("x", long, "6"), long, true},
		{featured, "", true},
		{ask("off", "", "7"), "", false},
		{ask("numbers", "bad", "1"), "bad", false},
	} {
		id, parameter := streamed(w.ask)
		if id != w.id || (parameter != "") != w.new {
			t.Errorf("got the id %q and the parameter %q, want %q and a new one: %t", id, parameter, w.id, w.new)
		}
		ids = append(ids, cmp.Or(parameter, id))
	}
	stream.end()
	if unary(ask("off", "", "1")) != "" {
		t.Error("an id is told of what is not kept")
	}

	features := fmt.Sprintf(`{"trips":%d,"rating":%[1]d}`, featureTime.UnixMicro())
	rows := logged(t, b, 9)
	for i, w := range []struct{ id, caller, inputs, features, times, outputs string }{
		{ids[0], "10.1.2.3", `{"INPUT0":1}`, "", "", `{"OUTPUT0":1}`},
		{ids[0], "10.1.2.3", `{"INPUT0":2.5}`, "", "", `{"OUTPUT0":2.5}`},
		{ids[1], "127.0.0.1", `{"INPUT0":3}`, "", "", `{"OUTPUT0":3}`},
		{ids[2], "127.0.0.1", `{"driver":"d7","hour":19}`, `{"trips":42,"rating":null,"evening":true}`, features, `{"OUTPUT0":[42,3.5,1]}`},
		{ids[3], "127.0.0.1", `{"INPUT0":4}`, "", "", `{"OUTPUT0":4}`},
		{"größer", "127.0.0.1", `{"INPUT0":5}`, "", "", `{"OUTPUT0":5}`},
		{ids[5], "127.0.0.1", `{"INPUT0":6}`, "", "", `{"OUTPUT0":6}`},
		{ids[6], "127.0.0.1", `{"driver":"d7","hour":19}`, `{"trips":42,"rating":null,"evening":true}`, features, `{"OUTPUT0":[42,3.5,1]}`},
	} {
		r := rows[i]
		if w.id == "" || r.ID != w.id || r.Caller != w.caller || r.Inputs != w.inputs || r.Features != w.features || r.FeatureTimes != w.times || r.Outputs != w.outputs ||
			r.Kind != "" || r.Version != 1 || r.Weight != 1 || r.Latency < 0 || (r.Model == "x") != (r.Digest == string(m.Digest)) {
			t.Errorf("row %d: got %+v, want %+v", i, r, w)
		}
	}
	if r := rows[8]; r.ID != "bad" || r.Kind != "invalid" || r.Error == "" || r.Outputs != "" {
		t.Errorf("got %+v", r)
	}
}

// What failed is written with its error, also where nothing else is.
func TestWhatOfPredictionsIsLogged(t *testing.T) {
	b := memBlob(t)
	s := predicttest.Start(t, b, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms"})
	identity := onnxtest.Identity(spec(tensor.FP32, -1)).Bytes()
	s.Push(t, "off", identity, model.Settings{Log: model.Log{Off: true}})
	s.Push(t, "rare", identity, model.Settings{Log: model.Log{Sample: 1e-9}})
	s.Push(t, "secret", identity, model.Settings{Log: model.Log{Redact: []string{"INPUT0", "caller"}}})
	body := strings.Replace(floats("1"), `"X"`, `"INPUT0"`, 1)
	const wrong = `{"inputs":[]}`
	for _, name := range []string{"off", "rare", "secret"} {
		a := s.Do(t, "POST", "/v2/models/"+name+"/infer", body)
		answered(t, a, 200)
		if told := a.Header.Get("Prediction-Id") != ""; told != (name == "secret") {
			t.Errorf("%s: got %v", name, a.Header)
		}
		if a := s.Do(t, "POST", "/v2/models/"+name+"/infer", wrong); a.Status != 400 {
			t.Errorf("got %d", a.Status)
		}
	}
	rows := logged(t, b, 3)
	if r := rows[0]; r.Model != "rare" || r.Kind != "invalid" || !strings.Contains(r.Error, "inputs") || r.Weight != 1 || r.ID == "" {
		t.Errorf("got %+v", r)
	}
	if r := rows[1]; r.Model != "secret" || r.Inputs != "{}" || r.Caller != "" || r.Outputs != `{"OUTPUT0":1}` {
		t.Errorf("got %+v", r)
	}
	for _, settings := range []string{`{"log":{"sample":2}}`, `{"log":{"sample":-1}}`, `{"log":{"off":true,"sample":0.5}}`} {
		var set model.Settings
		if err := json.Unmarshal([]byte(settings), &set); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Registry.Push(t.Context(), model.Push{Name: "bad", Settings: set}, strings.NewReader(string(identity))); err == nil {
			t.Errorf("%s is taken", settings)
		}
	}
}

// The features that a model was given are written with their times, and the caller's keys beside them.
func TestFeaturesAreLogged(t *testing.T) {
	b := memBlob(t)
	s, _ := featuredOn(t, b, nil)
	soon := featureTime.Add(time.Minute)
	answered(t, s.Do(t, "POST", "/v2/models/numbers/infer", infer(soon, in("driver", "BYTES", "[2]", `["d7","d8"]`), in("hour", "INT64", "[2,1]", "[19,5]"))), 200)
	rows := logged(t, b, 2)
	for i, w := range []struct{ inputs, features, times, outputs string }{
		{`{"driver":"d7","hour":19}`, `{"trips":42,"rating":null,"evening":true}`, fmt.Sprintf(`{"trips":%d,"rating":%[1]d}`, featureTime.UnixMicro()), `{"OUTPUT0":[42,3.5,1]}`},
		{`{"driver":"d8","hour":5}`, `{"trips":null,"rating":null,"evening":false}`, `{}`, `{"OUTPUT0":[null,3.5,0]}`},
	} {
		r := rows[i]
		if r.Inputs != w.inputs || r.Features != w.features || r.FeatureTimes != w.times || r.Outputs != w.outputs || r.At != soon.UnixMicro() || int(r.Row) != i {
			t.Errorf("row %d: got %+v, want %+v", i, r, w)
		}
	}
}

// The end of a process writes what waits.
func TestLogIsFlushedAtTheEnd(t *testing.T) {
	b := memBlob(t)
	t.Run("server", func(t *testing.T) {
		s := predicttest.Start(t, b, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "1h"})
		s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
		for range 20 {
			answered(t, s.Do(t, "POST", "/v1/models/x:predict", `{"instances":[4]}`), 200)
		}
	})
	logged(t, b, 20)
}

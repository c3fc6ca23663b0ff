package predict_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// kserve is the type of KServe's events that hold requests.
const kserve = "org.kubeflow.serving.inference.request"

// startEvents runs a server with a model x, and gives a request for it and the answer.
func startEvents(t *testing.T, environ map[string]string) (s *predicttest.Server, request, answer string) {
	t.Helper()
	s = predicttest.Start(t, nil, environ)
	s.Push(t, "x", onnxtest.Identity(spec(tensor.FP32, -1)).Bytes(), model.Settings{})
	return s, `{"instances":[1,2.5]}`, `{"predictions":[1,2.5]}`
}

// TestCloudEventsClient has the SDK's own client ask, as a sender that waits for the reply.
func TestCloudEventsClient(t *testing.T) {
	s, body, answer := startEvents(t, nil)
	client, err := cloudevents.NewClientHTTP()
	if err != nil {
		t.Fatal(err)
	}
	ask := cloudevents.NewEvent()
	ask.SetID("order 7/ä")
	ask.SetSource("/shop")
	ask.SetType(kserve)
	ask.SetExtension("correlationid", "basket-1")
	ask.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if err := ask.SetData(cloudevents.ApplicationJSON, json.RawMessage(body)); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for range 2 {
		for _, path := range []string{"/v1/models/x:predict", "/v2/models/x/infer"} {
			request, want := body, answer
			if strings.HasPrefix(path, "/v2") {
				request = floats("1,2.5")
				request = strings.Replace(request, `"X"`, `"INPUT0"`, 1)
				want = `{"model_name":"x","model_version":"1","outputs":[{"name":"OUTPUT0","datatype":"FP32","shape":[2],"data":[1,2.5]}]}`
			}
			ask.DataEncoded = []byte(request)
			for mode, ctx := range map[string]func() (*cloudevents.Event, error){
				"binary": func() (*cloudevents.Event, error) {
					return client.Request(cloudevents.ContextWithTarget(cloudevents.WithEncodingBinary(t.Context()), s.URL+path), ask)
				},
				"structured": func() (*cloudevents.Event, error) {
					return client.Request(cloudevents.ContextWithTarget(cloudevents.WithEncodingStructured(t.Context()), s.URL+path), ask)
				},
			} {
				got, err := ctx()
				if !cloudevents.IsACK(err) || got == nil {
					t.Fatalf("%s %s: got %v %v", mode, path, got, err)
				}
				if err := got.Validate(); err != nil {
					t.Errorf("%s %s: %v", mode, path, err)
				}
				ids[got.ID()] = true
				if got.Type() != event.PredictionMade.Name || got.Source() != "/pilotlight/predictions" || got.Subject() != "x:1" || got.DataContentType() != "application/json" ||
					got.Extensions()["causationid"] != ask.ID() || got.Extensions()["correlationid"] != "basket-1" || got.Extensions()["traceparent"] != ask.Extensions()["traceparent"] || string(got.Data()) != want {
					t.Errorf("%s %s: got %s", mode, path, got)
				}
			}
		}
	}
	if len(ids) != 1 {
		t.Errorf("an event that is sent again is answered by the ids %v", ids)
	}
}

// ce are headers of an event in binary mode.
func ce(id string, more ...string) []string {
	return append([]string{"Ce-Specversion: 1.0", "Ce-Id: " + id, "Ce-Source: /shop", "Ce-Type: " + kserve, "Content-Type: application/json"}, more...)
}

// envelope is an event in structured mode.
func envelope(id, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"datacontenttype":"application/json",%s}`, id, kserve, data)
}

func TestEventsAreAnsweredInTheirMode(t *testing.T) {
	s, body, answer := startEvents(t, nil)
	const url = "/v1/models/x:predict"
	binary := s.Do(t, "POST", url, body, ce("1")...)
	want(t, binary, 200, answer)
	if h := binary.Header; h.Get("Ce-Type") != event.PredictionMade.Name || h.Get("Ce-Specversion") != "1.0" || h.Get("Ce-Subject") != "x:1" || h.Get("Ce-Causationid") != "1" || h.Get("Content-Type") != "application/json" {
		t.Errorf("got %v", h)
	}
	packed := s.Do(t, "POST", url, pack(t, "gzip", body), ce("1", "Content-Encoding: gzip")...)
	want(t, packed, 200, answer)

	structured := s.Do(t, "POST", url, envelope("1", `"data":`+body), "Content-Type: application/cloudevents+json; charset=utf-8")
	var e map[string]any
	if err := json.Unmarshal([]byte(structured.Body), &e); err != nil || structured.Header.Get("Content-Type") != "application/cloudevents+json" || structured.Header.Get("Ce-Id") != "" {
		t.Fatalf("got %v %s: %v", structured.Header, structured.Body, err)
	}
	if data, _ := json.Marshal(e["data"]); string(data) != answer || e["id"] != binary.Header.Get("Ce-Id") || e["subject"] != "x:1" {
		t.Errorf("got %s", structured.Body)
	}
	coded := s.Do(t, "POST", url, envelope("1", `"data_base64":"eyJpbnN0YW5jZXMiOlsxLDIuNV19"`), "Content-Type: application/cloudevents+json")
	if coded.Status != 200 || !strings.Contains(coded.Body, `"data":`+answer) {
		t.Errorf("got %d %s", coded.Status, coded.Body)
	}

	// Another version, or another name of it, is another answer.
	other := s.Do(t, "POST", "/v1/models/x/versions/1:predict", body, ce("1")...)
	if other.Header.Get("Ce-Id") == binary.Header.Get("Ce-Id") || other.Header.Get("Ce-Subject") != "x:1" {
		t.Errorf("got %v", other.Header)
	}
	// An answer is no request: a trigger without a filter makes no loop.
	wantError(t, s.Do(t, "POST", url, answer, ce("2")...), 400, `the body has neither instances (one for each row) nor inputs (one for each input of the model)`)
}

func TestBatchesOfEvents(t *testing.T) {
	s, body, answer := startEvents(t, nil)
	kind := "Content-Type: application/cloudevents-batch+json"
	a := s.Do(t, "POST", "/v1/models/x:predict", "["+envelope("1", `"data":`+body)+","+envelope("2", `"data":{"instances":["a"]}`)+","+envelope("3", `"data":`+body)+"]", kind)
	var events []event.Event
	if err := json.Unmarshal([]byte(a.Body), &events); err != nil || a.Status != 200 || a.Header.Get("Content-Type") != "application/cloudevents-batch+json" || len(events) != 3 {
		t.Fatalf("got %d %v %s: %v", a.Status, a.Header, a.Body, err)
	}
	for i, want := range []struct{ kind, subject, data string }{
		{event.PredictionMade.Name, "x:1", answer},
		{event.PredictionFailed.Name, "x", `{"error":"instances[0] is a string, but FP32 takes a number","status":400}`},
		{event.PredictionMade.Name, "x:1", answer},
	} {
		e := events[i]
		if err := e.Validate(); err != nil || e.Type() != want.kind || e.Subject() != want.subject || string(e.Data()) != want.data || e.Extensions()["causationid"] != fmt.Sprint(i+1) {
			t.Errorf("event %d: got %s %v", i, e, err)
		}
	}
	if events[0].ID() == events[2].ID() {
		t.Errorf("two requests are answered by the same id %s", events[0].ID())
	}
	want(t, s.Do(t, "POST", "/v1/models/x:predict", "[]", kind), 200, `[]`)
	missing := s.Do(t, "POST", "/v1/models/none:predict", "["+envelope("1", `"data":`+body)+"]", kind)
	if missing.Status != 200 || !strings.Contains(missing.Body, `"data":{"error":"model \"none\" does not exist","status":422}`) {
		t.Errorf("got %d %s", missing.Status, missing.Body)
	}
	wantError(t, s.Do(t, "POST", "/v1/models/x:predict", "["+strings.TrimSuffix(strings.Repeat(envelope("1", `"data":1`)+",", 1001), ",")+"]", kind), 400,
		`the batch has 1001 events, and at most 1000 are answered at once`)
}

func TestEventsWithBinaryTensors(t *testing.T) {
	s, _, _ := startEvents(t, nil)
	head := `{"inputs":[{"name":"INPUT0","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}],"parameters":{"binary_data_output":true}}`
	raw := le([]float32{1, 2.5})
	a := s.Do(t, "POST", "/v2/models/x/infer", head+raw, append(ce("1"), headerLength(len(head)), "Content-Type: application/octet-stream")...)
	answer, got := split(t, a)
	if a.Status != 200 || got != raw || a.Header.Get("Ce-Type") != event.PredictionMade.Name || !strings.Contains(answer, `"binary_data_size":8`) {
		t.Errorf("got %d %v %q", a.Status, a.Header, a.Body)
	}
	wantError(t, s.Do(t, "POST", "/v2/models/x/infer", head+raw, append(ce("1"), headerLength(1000))...), 400,
		oip.HeaderLength+fmt.Sprintf(` is 1000, which does not fit a body of %d bytes`, len(head)+len(raw)))
}

// The statuses tell a broker what to do: 400, 413 and 422 never succeed.
func TestRefusedEvents(t *testing.T) {
	s, body, _ := startEvents(t, map[string]string{"MAX_BODY": "4KiB"})
	structured := []string{"Content-Type: application/cloudevents+json"}
	for _, test := range []struct {
		name, path, body string
		headers          []string
		status           int
		sentence         string
	}{
		{"not a request", "/v1/models/x:predict", `{}`, ce("1"), 400, `the body has neither instances (one for each row) nor inputs (one for each input of the model)`},
		{"no data", "/v1/models/x:predict", ``, ce("1"), 400, `the body must be a JSON object`},
		{"unknown model", "/v1/models/none:predict", body, ce("1"), 422, `model "none" does not exist`},
		{"unknown model by V2", "/v2/models/none/infer", body, ce("1"), 422, `model "none" does not exist`},
		{"too large", "/v1/models/x:predict", strings.Repeat(" ", 5000) + body, ce("1"), 413, `the body is larger than the limit of 4096 bytes`},
		{"no id", "/v1/models/x:predict", body, ce(""), 400, `the event is broken: id is required to be a non-empty string`},
		{"unknown version of CloudEvents", "/v1/models/x:predict", body, append(ce("1"), "Ce-Specversion: 7"), 400, `the event's specversion or content type is not one of CloudEvents`},
		{"structured, not JSON", "/v1/models/x:predict", `{"specversion"`, structured, 400, `the event is broken: unexpected end of JSON input`},
		{"structured, nothing", "/v1/models/x:predict", ``, structured, 400, `the event is broken: unexpected end of JSON input`},
		{"structured, no event", "/v1/models/x:predict", `{}`, structured, 400, `the event is broken: specversion: no specversion`},
		{"a batch that is none", "/v1/models/x:predict", `{}`, []string{"Content-Type: application/cloudevents-batch+json"}, 400, `the event is broken: json: cannot unmarshal object into Go value of type []event.Event`},
		{"a batch with a broken one", "/v1/models/x:predict", `[{"specversion":"1.0"}]`, []string{"Content-Type: application/cloudevents-batch+json"}, 400, `the event is broken: id: MUST be a non-empty string; source: REQUIRED; type: MUST be a non-empty string`},
		{"an unknown form", "/v1/models/x:predict", `<event/>`, []string{"Content-Type: application/cloudevents+xml"}, 400, `the event's specversion or content type is not one of CloudEvents`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, s.Do(t, "POST", test.path, test.body, test.headers...), test.status, test.sentence)
		})
	}
	// Plain requests speak HTTP as before.
	wantError(t, s.Do(t, "POST", "/v1/models/none:predict", body, "Ce-Id: 1"), 404, `model "none" does not exist`)
}

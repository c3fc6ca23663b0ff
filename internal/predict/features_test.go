package predict_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

const definitions = `
entities:
  - {name: driver, keys: [{name: driver, type: string}]}
sources:
  - name: stats
    time: at
    fields:
      - {name: driver, type: string}
      - {name: at, type: timestamp}
      - {name: trips, type: int64}
      - {name: rating, type: float64}
      - {name: city, type: string}
views:
  - {name: driver_stats, entities: [driver], source: stats, ttl: 1h}
expressions:
  - name: trip
    inputs: [{name: hour, type: int64}]
    features: [{name: evening, type: bool, value: hour >= 18}]
services:
  - {name: numbers, features: ["driver_stats:trips", {feature: "driver_stats:rating", default: 3.5}, "trip:evening"]}
  - {name: named, features: [{feature: "driver_stats:trips", as: INPUT0}, {feature: "driver_stats:city", as: INPUT1}]}
  - {name: half, features: [{feature: "driver_stats:rating", as: INPUT1}]}
`

var featureTime = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// featured is a server with definitions and one row online: driver 7 at 12:00.
func featured(t *testing.T) (*predicttest.Server, *feature.Catalog) {
	t.Helper()
	return featuredFor(t, nil)
}

// featuredFor has it send its events to a sink, and write down all that models are given.
func featuredFor(t *testing.T, sink event.Sink) (*predicttest.Server, *feature.Catalog) {
	t.Helper()
	return featuredOn(t, memBlob(t), sink)
}

// featuredOn has it use a bucket.
func featuredOn(t *testing.T, blob store.Blob, sink event.Sink) (*predicttest.Server, *feature.Catalog) {
	t.Helper()
	ctx := t.Context()
	online, err := memstore.OpenOnline(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	catalog := feature.NewCatalog(&feature.Config{Refresh: time.Millisecond}, blob, nil, nil)
	define(t, catalog, definitions)
	compiled, err := catalog.Current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	view, err := compiled.View("driver_stats")
	if err != nil {
		t.Fatal(err)
	}
	state := view.NewState()
	state.Apply(feature.Row{
		Values: []row.Value{row.OfString("d7"), row.OfTime(featureTime), row.OfInt64(42), {}, row.OfString("Wien")},
		Event:  featureTime.UnixMicro(), Created: featureTime.UnixMicro(), ID: 1,
	})
	_, err = online.Write(ctx, []store.OnlineRow{{Key: view.Key(row.OfString("d7")), Stamp: state.Stamp(), Value: state.Append(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	s := predicttest.StartOn(t, predict.Deps{Blob: blob, Features: feature.NewTable(online, catalog.Current), Sink: sink}, map[string]string{"FEATURE_SAMPLE": "1", "PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "20ms"})
	s.Push(t, "numbers", onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{-1, 3}}).Bytes(), model.Settings{Features: "numbers"})
	s.Push(t, "named", onnxtest.Identity(tensor.Spec{Type: tensor.Int64, Shape: []int64{-1, 1}}, tensor.Spec{Type: tensor.Bytes, Shape: []int64{-1}}).Bytes(), model.Settings{Features: "named"})
	s.Push(t, "half", onnxtest.Identity(tensor.Spec{Type: tensor.Int32, Shape: []int64{-1, 2}}, tensor.Spec{Type: tensor.FP64, Shape: []int64{-1, 1}}).Bytes(),
		model.Settings{Features: "half", Cache: model.Cache{TTL: model.Duration(time.Hour)}})
	s.Push(t, "lost", onnxtest.Simple(-1).Bytes(), model.Settings{Features: "none"})
	s.Push(t, "misfit", onnxtest.Simple(-1).Bytes(), model.Settings{Features: "numbers"})
	return s, catalog
}

func define(t *testing.T, c *feature.Catalog, yaml string) {
	t.Helper()
	set, err := feature.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Apply(context.WithoutCancel(t.Context()), set, nil, "test", false); err != nil {
		t.Fatal(err)
	}
}

// in writes a tensor of a V2 request.
func in(name, datatype, shape, data string) string {
	return fmt.Sprintf(`{"name":%q,"datatype":%q,"shape":%s,"data":%s}`, name, datatype, shape, data)
}

func infer(at time.Time, inputs ...string) string {
	parameters := ""
	if !at.IsZero() {
		parameters = fmt.Sprintf(`"parameters":{"feature_time":%q},`, at.Format(time.RFC3339))
	}
	return "{" + parameters + `"inputs":[` + strings.Join(inputs, ",") + "]}"
}

func TestFeaturesAreFetched(t *testing.T) {
	s, _ := featured(t)
	soon := featureTime.Add(time.Minute)
	for _, c := range []struct {
		name, path, body string
		status           int
		want             string
	}{
		{
			"a matrix", "/v2/models/numbers/infer",
			infer(soon, in("driver", "BYTES", "[2]", `["d7","d8"]`), in("hour", "INT64", "[2,1]", "[19,5]")),
			200, `"shape":[2,3],"data":[42,3.5,1,null,3.5,0]`,
		},
		{
			"named", "/v2/models/named/infer", infer(soon, in("driver", "BYTES", "[1]", `["d7"]`)),
			200, `"data":[42]},{"name":"OUTPUT1","datatype":"BYTES","shape":[1],"data":["Wien"]}`,
		},
		{
			"inputs of the caller's beside", "/v2/models/half/infer",
			infer(soon, in("INPUT0", "INT32", "[1,2]", "[5,6]"), in("driver", "BYTES", "[1,1]", `["d7"]`)),
			200, `"data":[5,6]},{"name":"OUTPUT1","datatype":"FP64","shape":[1,1],"data":[null]}`,
		},
		{
			"a feature that the caller brings", "/v2/models/half/infer",
			infer(soon, in("INPUT0", "INT32", "[1,2]", "[5,6]"), in("INPUT1", "FP64", "[1,1]", "[1.5]")),
			200, `"data":[1.5]`,
		},
		{
			"V1 by rows", "/v1/models/half:predict", `{"instances":[{"INPUT0":[1,2],"driver":["d8"]}]}`,
			200, `{"predictions":[{"OUTPUT0":[1,2],"OUTPUT1":[null]}]}`,
		},
		{
			"null without a word for it", "/v2/models/named/infer", infer(soon, in("driver", "BYTES", "[1]", `["d8"]`)),
			400, `feature driver_stats:trips for input \"INPUT0\", row 0: it has no value, for which INT64 has no word: give it a default in the feature service`,
		},
		{
			"too old", "/v2/models/named/infer", infer(soon.Add(time.Hour), in("driver", "BYTES", "[1]", `["d7"]`)),
			400, `it has no value`,
		},
		{"no key", "/v2/models/named/infer", infer(soon), 400, `inputs`},
		{
			"an unknown input", "/v2/models/named/infer", infer(soon, in("driver", "BYTES", "[1]", `["d7"]`), in("rider", "BYTES", "[1]", `["x"]`)),
			400, `input \"rider\" is not one that model \"named\" knows; with the features of service \"named\" it expects \"driver\"`,
		},
		{
			"a key missing", "/v2/models/numbers/infer", infer(soon, in("hour", "INT64", "[1]", "[3]")),
			400, `input \"driver\" is missing; with the features of service \"numbers\" model \"numbers\" expects \"driver\", \"hour\"`,
		},
		{
			"a key of another type", "/v2/models/numbers/infer", infer(soon, in("driver", "INT64", "[1]", "[7]"), in("hour", "INT64", "[1]", "[3]")),
			400, `input \"driver\", row 0: 7 (int64) is not a value of type string`,
		},
		{
			"a fraction for an integer", "/v2/models/numbers/infer", infer(soon, in("driver", "BYTES", "[1]", `["d7"]`), in("hour", "FP64", "[1]", "[3.5]")),
			400, `input \"hour\", row 0: 3.5 (float64) is not a value of type int64`,
		},
		{
			"columns of other lengths", "/v2/models/numbers/infer", infer(soon, in("driver", "BYTES", "[2]", `["a","b"]`), in("hour", "INT64", "[1]", "[3]")),
			400, `input \"hour\" has 1 rows, others have 2`,
		},
		{
			"a key with more than a value a row", "/v2/models/numbers/infer", infer(soon, in("driver", "BYTES", "[1,2]", `["a","b"]`), in("hour", "INT64", "[1]", "[3]")),
			400, `input \"driver\": shape is [1,2], expected [n] or [n,1]: one value a row`,
		},
		{
			"no time", "/v2/models/numbers/infer", `{"parameters":{"feature_time":"soon"},"inputs":[` + in("driver", "BYTES", "[1]", `["d7"]`) + `]}`,
			400, `parameter feature_time: \"soon\" is not a time such as 2026-11-25T09:30:00Z`,
		},
		{"an unknown service", "/v2/models/lost/infer", infer(soon, in("driver", "BYTES", "[1]", `["d7"]`)), 400, `model \"lost\" takes the features of service \"none\"`},
		{"nowhere to put them", "/v2/models/misfit/infer", infer(soon, in("driver", "BYTES", "[1]", `["d7"]`)), 400, `model \"misfit\" has no input that takes a feature of service \"numbers\"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.Do(t, "POST", c.path, c.body)
			if a.Status != c.status || !strings.Contains(strings.ReplaceAll(a.Body, "\n", ""), c.want) {
				t.Errorf("got %d %s, want %d with %s", a.Status, a.Body, c.status, c.want)
			}
		})
	}
}

// What a caller has to bring is what the server says of a model.
func TestFeaturesInMetadata(t *testing.T) {
	s, _ := featured(t)
	for path, want := range map[string]string{
		"/v2/models/numbers":       `"inputs":[{"name":"driver","datatype":"BYTES","shape":[-1,1]},{"name":"hour","datatype":"INT64","shape":[-1,1]}]`,
		"/v2/models/half":          `"inputs":[{"name":"driver","datatype":"BYTES","shape":[-1,1]},{"name":"INPUT0","datatype":"INT32","shape":[-1,2]}]`,
		"/v1/models/half/metadata": `driver`,
		"/v2/models/half/config":   `driver`,
		"/admin/v1/models/half":    `"features":"half"`,
		"/v2/models/lost":          `takes the features of service`,
	} {
		if a := s.Do(t, "GET", path, ""); !strings.Contains(a.Body, want) {
			t.Errorf("%s: got %s, want it with %s", path, a.Body, want)
		}
	}
}

// Remembered answers are those of the features, not of the keys.
func TestFeaturesAreInTheCacheKey(t *testing.T) {
	s, _ := featured(t)
	ask := func(driver string, at time.Time) string {
		a := s.Do(t, "POST", "/v2/models/half/infer", infer(at, in("INPUT0", "INT32", "[1,2]", "[5,6]"), in("driver", "BYTES", "[1,1]", `["`+driver+`"]`)))
		return a.Header.Get("Cache-Status")
	}
	if got := ask("d7", featureTime); !strings.Contains(got, "fwd=") {
		t.Errorf("the first: got %q", got)
	}
	if got := ask("d9", featureTime); !strings.Contains(got, "hit") {
		t.Errorf("another driver with the same features: got %q, want a hit", got)
	}
}

// Definitions may change while requests are answered.
func TestFeaturesFollowTheirDefinitions(t *testing.T) {
	s, catalog := featured(t)
	body := infer(featureTime, in("driver", "BYTES", "[1]", `["d9"]`), in("hour", "INT64", "[1]", "[19]"))
	if a := s.Do(t, "POST", "/v2/models/numbers/infer", body); !strings.Contains(a.Body, "[null,3.5,1]") {
		t.Fatalf("got %s", a.Body)
	}
	define(t, catalog, `services: [{name: numbers, features: [{feature: "driver_stats:trips", default: 9}, {feature: "driver_stats:rating", default: 8}, "trip:evening"]}]`)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		a := s.Do(t, "POST", "/v2/models/numbers/infer", body)
		if strings.Contains(a.Body, "[9,8,1]") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %s", a.Body)
		}
	}
}

// What a model is given is written down as it was read, and nothing of a request that brings all itself.
func TestServedFeaturesAreWrittenDown(t *testing.T) {
	h := make(heard, 100)
	s, _ := featuredFor(t, h)
	soon := featureTime.Add(time.Minute)
	for _, body := range []string{
		infer(soon, in("driver", "BYTES", "[2]", `["d7","d8"]`), in("hour", "INT64", "[2,1]", "[20,7]")),
		infer(time.Time{}, in("INPUT0", "FP32", "[1,3]", "[1,2,3]")),
	} {
		if a := s.Do(t, http.MethodPost, "/v2/models/numbers/infer", body); a.Status != http.StatusOK {
			t.Fatalf("got %d %s", a.Status, a.Body)
		}
	}
	late := time.After(20 * time.Second)
	var data []byte
	for data == nil {
		select {
		case e := <-h:
			if e.Type() == event.FeaturesServed.Name {
				data = e.Data()
			}
		case <-late:
			t.Fatal("nothing was written down")
		}
	}
	var served event.Served
	if err := json.Unmarshal(data, &served); err != nil {
		t.Fatal(err)
	}
	if len(served.Vectors) != 2 {
		t.Fatalf("got %d vectors, want one for each row of the first request", len(served.Vectors))
	}
	for i, want := range []string{
		`{"given":{"driver":"d7","hour":20},"features":{"driver_stats:rating":{"value":null,"status":2,"event":"2026-11-25T12:00:00Z","version":1},"driver_stats:trips":{"value":42,"status":1,"event":"2026-11-25T12:00:00Z","version":1},"trip:evening":{"value":true,"status":1,"version":1}}}`,
		`{"given":{"driver":"d8","hour":7},"features":{"driver_stats:rating":{"value":null,"status":3,"version":1},"driver_stats:trips":{"value":null,"status":3,"version":1},"trip:evening":{"value":false,"status":1,"version":1}}}`,
	} {
		v := served.Vectors[i]
		got, err := json.Marshal(struct {
			Given    any `json:"given"`
			Features any `json:"features"`
		}{v.Given, v.Features})
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("vector %d is\n%s, want\n%s", i, got, want)
		}
		if v.Model != "numbers" || v.Version != 1 || v.Service != "numbers" || v.Definitions != 1 || !v.At.Equal(soon) || time.Since(v.Known) > time.Minute {
			t.Errorf("vector %d is of %+v", i, v)
		}
	}
}

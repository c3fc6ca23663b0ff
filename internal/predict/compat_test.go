package predict_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

func TestCompatWithTriton(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"COMPAT": "triton"})
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	if a := s.Do(t, "GET", "/v2", ""); !strings.HasPrefix(a.Body, `{"name":"triton",`) {
		t.Errorf("got %d %s", a.Status, a.Body)
	}
	wantError(t, s.Do(t, "GET", "/v2/models/none", ""), 404, `Request for unknown model: "none" is not found: model "none" does not exist`)
	wantError(t, s.Do(t, "GET", "/v2/models/simple/versions/9", ""), 404, `Request for unknown model: "simple" is not found: model "simple" has no version 9`)
	wantError(t, s.Do(t, "POST", "/v2/models/none/infer", simple(1)), 404, `Request for unknown model: "none" is not found: model "none" does not exist`)
	wantError(t, s.Do(t, "POST", "/v2/repository/models/none/load", ""), 404, `failed to load "none", model "none" does not exist`)
	wantError(t, s.Do(t, "POST", "/v2/repository/models/simple/load", `{"parameters":{"a":1}}`), 400,
		`failed to load "simple", parameter "a" can't be given to a load: models and their settings come from the registry (POST /admin/v1/models/{model}/versions)`)
	load := func(config string) predicttest.Answer {
		t.Helper()
		body, err := json.Marshal(map[string]any{"parameters": map[string]string{"config": config}})
		if err != nil {
			t.Fatal(err)
		}
		return s.Do(t, "POST", "/v2/repository/models/simple/load", string(body))
	}
	for config, most := range map[string]string{`{"max_batch_size":16}`: "16", `{"max_batch_size":"8"}`: "8", `{}`: "0"} {
		want(t, load(config), 200, `{}`)
		if a := s.Do(t, "GET", "/v2/models/simple/config", ""); !strings.Contains(a.Body, `"max_batch_size":`+most+`,`) {
			t.Errorf("after a load with %s: got %s", config, a.Body)
		}
	}
	wantError(t, load(`{"max_batch_size":-1}`), 400, `failed to load "simple", max_batch_size is -1, expected a whole number of 0 or more`)
	wantError(t, load(`{"backend":"python"}`), 400,
		`failed to load "simple", the parameter config sets "backend", and a load can change max_batch_size alone: other settings come from the registry (POST /admin/v1/models/{model}/versions)`)
	wantError(t, load(`"parameters": {"config": {{"max_batch_size": "16"}}}`), 400,
		`failed to load "simple", the parameter config is no JSON object: invalid character ':' after top-level value`)
	wantError(t, s.Do(t, "POST", "/v2/models/simple/infer", `{}`), 400, `inputs is missing or empty, at least one input is required`)
	wantError(t, s.Do(t, "GET", "/v2/none", ""), 404, `there is nothing at /v2/none`)
	want(t, s.Do(t, "POST", "/v2/models/simple/infer", simple(1)), 200, answerOfSimple("simple", "1", 1))
}

func TestCompatWithStrangers(t *testing.T) {
	var c predict.Config
	_, err := env.Load(map[string]string{"COMPAT": "mlserver"}, c.Parts()...)
	if err == nil || !strings.Contains(err.Error(), `COMPAT is "mlserver", expected 'triton' or nothing`) {
		t.Errorf("got %v", err)
	}
}

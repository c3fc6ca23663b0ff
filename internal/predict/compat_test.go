package predict_test

import (
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

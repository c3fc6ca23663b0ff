package flights_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// outputs are those of an answer, and what Python's onnxruntime gave.
type outputs []struct {
	Name  string    `json:"name"`
	Type  string    `json:"datatype"`
	Shape []int64   `json:"shape"`
	Data  []float64 `json:"data"`
}

func TestAnswersEqualThoseOfPython(t *testing.T) {
	b, err := os.ReadFile("reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var reference struct {
		Tolerance float64 `json:"tolerance"`
		Requests  []struct {
			Name    string          `json:"name"`
			Body    json.RawMessage `json:"body"`
			Outputs outputs         `json:"outputs"`
		} `json:"requests"`
	}
	if err := json.Unmarshal(b, &reference); err != nil {
		t.Fatal(err)
	}
	if len(reference.Requests) < 20 || reference.Tolerance > 1e-5 {
		t.Fatalf("the reference has %d requests and a tolerance of %g", len(reference.Requests), reference.Tolerance)
	}
	s := predicttest.Start(t, nil, nil)
	s.PushFile(t, "flights", "flights.onnx")
	for _, r := range reference.Requests {
		t.Run(r.Name, func(t *testing.T) {
			a := s.Do(t, "POST", "/v2/models/flights/infer", string(r.Body))
			var got struct {
				Outputs outputs `json:"outputs"`
			}
			if err := json.Unmarshal([]byte(a.Body), &got); a.Status != 200 || err != nil || len(got.Outputs) != len(r.Outputs) {
				t.Fatalf("status %d, %v: %s", a.Status, err, a.Body)
			}
			for i, want := range r.Outputs {
				got := got.Outputs[i]
				if got.Name != want.Name || got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) || len(got.Data) != len(want.Data) {
					t.Fatalf("got %s %s %v, want %s %s %v", got.Name, got.Type, got.Shape, want.Name, want.Type, want.Shape)
				}
				for j := range want.Data {
					if d := math.Abs(got.Data[j] - want.Data[j]); d > reference.Tolerance || want.Type == "INT64" && d != 0 {
						t.Errorf("%s[%d]: got %v, want %v", want.Name, j, got.Data[j], want.Data[j])
					}
				}
			}
		})
	}
}

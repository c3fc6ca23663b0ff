package tfserving_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/tfserving"
)

// FuzzDecode reads any body for any of the models. What is taken is JSON, holds
// together, has the numbers that encoding/json finds, and is the same once
// written and read again; what is not taken is Invalid.
func FuzzDecode(f *testing.F) {
	names := slices.Sorted(maps.Keys(models))
	for i := range names {
		for _, test := range refusals {
			if test.model == names[i] && len(test.body) < 10_000 {
				f.Add(uint8(i), []byte(test.body))
			}
		}
		for _, body := range []string{
			`{"instances":[1,2.5,-3e2]}`, `{"inputs":[[1,2,3]]}`, `{"instances":[[[1,2],[3,4]]]}`, `{"instances":["a",{"b64":"/w=="}]}`,
			`{"instances":[{"amount":[1,2],"n":1},{"n":2,"amount":[3,4]}]}`, `{"inputs":{"t":[["a"],["b"]],"k":3}}`, `{"inputs":{"x":[]}}`, `{"instances":[true]}`,
		} {
			f.Add(uint8(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		specs := models[names[int(which)%len(names)]]
		var r tfserving.Request
		if err := r.Decode(body, specs); err != nil {
			if fault.KindOf(err) != fault.Invalid || len(fault.Message(err)) > 2000 {
				t.Fatalf("%s: %v", body, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("took %q, which is not JSON", body)
		}
		if len(r.Inputs) != len(specs) {
			t.Fatalf("%s: %d inputs for %d specs", body, len(r.Inputs), len(specs))
		}
		for i := range r.Inputs {
			x := &r.Inputs[i]
			n, err := tensor.Elements(x.Shape)
			if err != nil || x.Type == tensor.Bytes && int64(len(x.Strings)) != n || x.Type != tensor.Bytes && int64(len(x.Data)) != n*int64(x.Type.Size()) {
				t.Fatalf("%s: %s has %d bytes and %d strings: %v", body, show(x), len(x.Data), len(x.Strings), err)
			}
			if len(x.Shape) != len(specs[i].Shape) || r.Rows > 0 && x.Shape[0] != int64(r.Rows) {
				t.Fatalf("%s: %s for %d rows", body, show(x), r.Rows)
			}
		}
		if len(specs) == 1 && specs[0].Type == tensor.FP64 {
			sameNumbers(t, body, tensor.View[float64](r.Inputs[0].Data))
		}
		for _, rows := range []int{0, r.Rows} {
			text, err := tfserving.Append(nil, rows, r.Inputs)
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			var back map[string]json.RawMessage
			if err := json.Unmarshal(text, &back); err != nil || len(back) != 1 {
				t.Fatalf("%s is written as %s: %v", body, text, err)
			}
			name := "inputs"
			value := back["outputs"]
			if rows > 0 {
				name, value = "instances", back["predictions"]
			}
			var again tfserving.Request
			if err := again.Decode([]byte(`{"`+name+`":`+string(value)+`}`), specs); err != nil {
				t.Fatalf("%s is written as %s: %v", body, text, err)
			}
			for i := range specs {
				// Of an array without elements only the outer sizes are seen.
				if got, want := show(&again.Inputs[i]), show(&r.Inputs[i]); got != want && len(r.Inputs[i].Data)+len(r.Inputs[i].Strings) > 0 {
					t.Fatalf("%s: got %s, want %s", body, got, want)
				}
			}
		}
	})
}

// sameNumbers compares with what encoding/json finds in the body.
func sameNumbers(t *testing.T, body []byte, got []float64) {
	t.Helper()
	var std map[string]any
	if err := json.Unmarshal(body, &std); err != nil {
		return // numbers that don't fit, in members that nobody reads
	}
	var want []float64
	var flatten func(v any)
	flatten = func(v any) {
		switch v := v.(type) {
		case float64:
			want = append(want, v)
		case []any:
			for _, e := range v {
				flatten(e)
			}
		case map[string]any:
			flatten(v["x"])
		}
	}
	flatten(std["instances"])
	flatten(std["inputs"])
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, encoding/json says %v", body, got, want)
	}
}

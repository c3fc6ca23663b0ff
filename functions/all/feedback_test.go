package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// TestFromPredictionsToQuality asks a model, tells what came true, and asks how right the model was: all by
// what callers have. Outcomes come before the log has the predictions, and outlive a kill.
func TestFromPredictionsToQuality(t *testing.T) {
	data := t.TempDir()
	url, kill := spawn(t, data, "PAYLOAD_EVERY=50ms")
	// A model that says what it is given: so probabilities are chosen here.
	uploadAs(t, url, "echo", onnxtest.Identity(tensor.Spec{Type: tensor.FP64, Shape: []int64{-1}}).Bytes(), `{"quality":{"task":"binary"}}`)
	const n = 200
	post := func(path, body string, want int) {
		t.Helper()
		if status, answer := call(t, "POST", url+path, strings.NewReader(body)); status != want {
			t.Fatalf("%s: got %d %s", path, status, answer)
		}
	}
	for i := range n {
		p := float64(i%10)/10 + .05
		post("/feedback", fmt.Sprintf(`{"prediction":"order-%d","value":%t}`, i, i%7 < 3), http.StatusAccepted)
		post("/v2/models/echo/infer", fmt.Sprintf(`{"id":"order-%d","inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[%g]}]}`, i, p), http.StatusOK)
	}
	ask := func() (j feedback.Judgement) {
		status, b := call(t, "GET", url+"/admin/v1/quality/echo", nil)
		if status != http.StatusOK {
			t.Fatalf("got %d %s", status, b)
		}
		if err := json.Unmarshal([]byte(b), &j); err != nil {
			t.Fatal(err)
		}
		return j
	}
	right, brier := 0, 0.0
	for i := range n {
		p, yes := float64(i%10)/10+.05, i%7 < 3
		if yes == (p >= .5) {
			right++
		}
		if yes {
			brier += (1 - p) * (1 - p)
		} else {
			brier += p * p
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ask().Outcomes.Joined < n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v", ask().Outcomes)
		}
	}
	kill()
	url, _ = spawn(t, data)
	j := ask()
	if j.By != feedback.ByWindows || len(j.Versions) != 1 || j.Outcomes.Joined != n || j.Waiting != 0 {
		t.Fatalf("got %+v", j)
	}
	r := j.Versions[0].Report
	if a := r.Metrics["accuracy"].Value; math.Abs(a-float64(right)/n) > 1e-9 {
		t.Errorf("got accuracy %g, want %g", a, float64(right)/n)
	}
	if b := r.Metrics["brier"].Value; math.Abs(b-brier/n) > 1e-6 {
		t.Errorf("got a Brier score of %g, want %g", b, brier/n)
	}
}

// uploadAs pushes a model with settings.
func uploadAs(t *testing.T, url, name string, file []byte, settings string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	err := form.WriteField("settings", settings)
	part, err2 := form.CreateFormFile("model", name+".onnx")
	if err2 == nil {
		_, err2 = part.Write(file)
	}
	if err = errors.Join(err, err2, form.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/admin/v1/models/"+name+"/versions", &body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", form.FormDataContentType())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusCreated {
		t.Fatalf("got %d %s", resp.StatusCode, b)
	}
}

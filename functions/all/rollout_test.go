package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// TestABadVersionIsTakenBack brings a version out that says the opposite: it gets half of the callers, and is taken back by the first tick that knows what
// came true. All by what callers have.
func TestABadVersionIsTakenBack(t *testing.T) {
	url, _ := start(t, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "100ms", "LOG_LEVEL": "ERROR"})
	in, out := []onnxwire.Value{onnxwire.Tensor("INPUT0", tensor.FP64, -1)}, []onnxwire.Value{onnxwire.Tensor("OUTPUT0", tensor.FP64, -1)}
	for _, file := range [][]byte{onnxtest.Apply("Identity", in, out).Bytes(), onnxtest.Apply("Neg", in, out).Bytes()} {
		upload(t, url, "echo", file)
	}
	post := func(method, path, body string, want int) string {
		t.Helper()
		status, answer := call(t, method, url+path, strings.NewReader(body))
		if status != want {
			t.Fatalf("%s: got %d %s", path, status, answer)
		}
		return answer
	}
	post("PUT", "/admin/v1/rollouts/echo/champion", `{"version": 2} {"shares": [0.5]}`, http.StatusBadRequest)
	post("PUT", "/admin/v1/rollouts/echo/champion", `{"version": 2, "shares": [0.5]}`, http.StatusCreated)
	said := map[string]int{}
	const n = 400
	var outcomes []string
	for i := range n {
		answer := post("POST", "/v2/models/echo/infer", fmt.Sprintf(`{"id":"order-%d","inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[%d]}]}`, i, 1+i%7), http.StatusOK)
		var got struct {
			Version string `json:"model_version"`
		}
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			t.Fatal(err)
		}
		said[got.Version]++
		outcomes = append(outcomes, fmt.Sprintf(`{"prediction":"order-%d","value":%d}`, i, 1+i%7))
	}
	if said["1"] < n/3 || said["2"] < n/3 {
		t.Fatalf("got answers of %v, want half of each", said)
	}
	post("POST", "/feedback", "["+strings.Join(outcomes, ",")+"]", http.StatusAccepted)
	var r rollout.Rollout
	for deadline := time.Now().Add(30 * time.Second); r.End == ""; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v", r.Latest)
		}
		tick(t, url, "alerts")
		if err := json.Unmarshal([]byte(post("GET", "/admin/v1/rollouts/echo/champion", "", http.StatusOK)), &r); err != nil {
			t.Fatal(err)
		}
	}
	if r.End != rollout.TakenBack || !strings.HasPrefix(r.Why, "mae is ") {
		t.Errorf("got %s: %s", r.End, r.Why)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		others := 0
		for i := range 20 {
			if answer := post("POST", "/v2/models/echo/infer", fmt.Sprintf(`{"id":"order-%d","inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[1]}]}`, i), http.StatusOK); !strings.Contains(answer, `"model_version":"1"`) {
				others++
			}
		}
		if others == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of 20 are still answered by the version that was taken back", others)
		}
	}
}

// TestAShadowBeforeACanary has a version asked behind the answers first. It says the same but for large numbers, which the rollout tells, and gets its share afterwards;
// one command takes it back.
func TestAShadowBeforeACanary(t *testing.T) {
	url, _ := start(t, map[string]string{"PAYLOAD_LOG": "on", "PAYLOAD_EVERY": "100ms", "LOG_LEVEL": "ERROR"})
	in, out := []onnxwire.Value{onnxwire.Tensor("INPUT0", tensor.FP64, -1)}, []onnxwire.Value{onnxwire.Tensor("OUTPUT0", tensor.FP64, -1)}
	for _, file := range [][]byte{onnxtest.Apply("Abs", in, out).Bytes(), onnxtest.Apply("Relu", in, out).Bytes()} {
		upload(t, url, "echo", file)
	}
	ask := func(method, path, body string, want int) string {
		t.Helper()
		status, answer := call(t, method, url+path, strings.NewReader(body))
		if status != want {
			t.Fatalf("%s: got %d %s", path, status, answer)
		}
		return answer
	}
	ask("PUT", "/admin/v1/rollouts/echo/champion", `{"version": 2, "shadow": "1s", "shares": [0.5], "hold": "1h", "least": 50, "guards": [{"metric": "error_rate", "worse": 0.5}], "cause": "flights:7"}`, http.StatusCreated)
	var r rollout.Rollout
	answered := false // by the new version
	for deadline := time.Now().Add(60 * time.Second); len(r.Steps) == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v", r.Latest)
		}
		for i := range 40 {
			answer := ask("POST", "/v2/models/echo/infer", fmt.Sprintf(`{"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[%d]}]}`, []int{1, 2, 3, -4}[i%4]), http.StatusOK)
			answered = answered || !strings.Contains(answer, `"model_version":"1"`)
		}
		time.Sleep(200 * time.Millisecond) // until it is written
		tick(t, url, "alerts")
		if err := json.Unmarshal([]byte(ask("GET", "/admin/v1/rollouts/echo/champion", "", http.StatusOK)), &r); err != nil {
			t.Fatal(err)
		}
		if answered && len(r.Steps) == 0 { // a tick may come between
			t.Fatal("the shadow has answered")
		}
	}
	s := r.Steps[0].Shadow
	if s == nil || s.Answers < 50 || s.Differ < .2 || s.Differ > .3 || s.Difference < .8 || s.Difference > 1.2 || s.Latency[1] <= 0 {
		t.Errorf("got %+v", s)
	}
	moved := ask("POST", "/admin/v1/models/echo/aliases/champion/rollback", `{}`, http.StatusOK)
	if !strings.Contains(moved, `"to":1`) || strings.Contains(moved, `"after"`) {
		t.Errorf("got %s", moved)
	}
	for deadline := time.Now().Add(30 * time.Second); r.End == "" && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		tick(t, url, "alerts")
		if err := json.Unmarshal([]byte(ask("GET", "/admin/v1/rollouts/echo/champion", "", http.StatusOK)), &r); err != nil {
			t.Fatal(err)
		}
	}
	if r.End != rollout.TakenBack || r.Cause != "flights:7" {
		t.Errorf("got %+v", r)
	}
}

// tick tells functions that it is time for something, as a PingSource does.
func tick(t *testing.T, url, name string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/events", strings.NewReader(`{"job":"evaluate-alerts"}`))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"Id": time.Now().String(), "Source": "/test", "Type": "dev.knative.sources.ping", "Specversion": "1.0", "Tick": name} {
		r.Header.Set("Ce-"+k, v)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("got %d", resp.StatusCode)
	}
}

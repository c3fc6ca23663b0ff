package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/serve"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

const root = "../.."

// start runs the function as main does until the test ends, or stop is called.
func start(t testing.TB, environ map[string]string) (url string, stop func()) {
	t.Helper()
	env := map[string]string{"PORT": "0", "LOG_LEVEL": "WARN", "ORT_LIB": onnxtest.Library(t), "MODEL_CACHE_DIR": t.TempDir()}
	for k, v := range environ {
		env[k] = v
	}
	ctx, cancel := context.WithCancel(context.Background())
	var register serve.Register // once per process is enough: functions/predict tries it
	p, err := function(register).Start(ctx, env)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the process ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return "http://" + p.Server().Addr().String(), stop
}

func call(t testing.TB, method, url string, body io.Reader) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func upload(t *testing.T, url, name string, file []byte) {
	t.Helper()
	if status, body := call(t, "POST", url+"/admin/v1/models/"+name+"/versions", bytes.NewReader(file)); status != http.StatusCreated {
		t.Fatalf("push %s: got %d %s", name, status, body)
	}
}

func TestTheFirstStartSeedsAndTheSecondFindsIt(t *testing.T) {
	data := t.TempDir()
	environ := map[string]string{"DATA_DIR": data, "SEED": filepath.Join(root, "examples/flights")}
	for range 2 {
		url, stop := start(t, environ)
		request, err := os.Open(filepath.Join(root, "examples/flights/request.json"))
		if err != nil {
			t.Fatal(err)
		}
		status, body := call(t, "POST", url+"/v2/models/flights/infer", request)
		if status != 200 || !strings.Contains(body, `"model_version":"1"`) || !strings.Contains(body, `{"name":"probability","datatype":"FP32","shape":[1,1],"data":[0.5`) {
			t.Fatalf("got %d %s", status, body)
		}
		if _, body := call(t, "GET", url+"/admin/v1/models/flights/versions/1", nil); !strings.Contains(body, `"slices":["carrier","origin"]`) {
			t.Errorf("settings.json: got %s", body)
		}
		stop()
	}
}

func TestSettingsThatCantWork(t *testing.T) {
	for _, test := range []struct {
		name    string
		environ map[string]string
		err     string
	}{
		{"no library", map[string]string{"ORT_LIB": "/nowhere/libonnxruntime.so"}, `ORT_LIB names "/nowhere/libonnxruntime.so", which cannot be read`},
		{"unknown store", map[string]string{"BLOB_URL": "ftp://x"}, `the scheme must be one of file: mem: s3:`},
		{"public without auth", map[string]string{"HOST": "0.0.0.0"}, "AUTH=off"},
		{"bad number", map[string]string{"PORT": "http"}, `PORT is "http"`},
		{"bad pin", map[string]string{"MODEL_PINNED": "a/b"}, `model name "a/b"`},
		{"bad seed", map[string]string{"SEED": "/nowhere"}, `SEED is "/nowhere", expected a folder with one .onnx file`},
	} {
		t.Run(test.name, func(t *testing.T) {
			environ := map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "ORT_LIB": onnxtest.Library(t), "MODEL_CACHE_DIR": t.TempDir()}
			for k, v := range test.environ {
				environ[k] = v
			}
			_, err := function(nil).Start(t.Context(), environ)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
}

// TestPythonClients runs clients that others wrote, unchanged, against the function.
func TestPythonClients(t *testing.T) {
	python := filepath.Join(root, ".venv/bin/python")
	if _, err := os.Stat(python); err != nil {
		const how = "no Python environment with tritonclient: run `make venv`"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	kserve := filepath.Join(root, ".venv-kserve/bin/python")
	if _, err := os.Stat(kserve); err != nil {
		kserve = python // the script makes the calls by itself
	}
	flights, err := os.ReadFile(filepath.Join(root, "examples/flights/flights.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	spec := func(d tensor.Type) tensor.Spec { return tensor.Spec{Name: "INPUT0", Type: d, Shape: []int64{-1}} }
	for _, c := range []struct{ name, python, script, compat string }{
		{"tritonclient", python, "triton_http.py", ""},
		{"tritonclient over gRPC", python, "triton_grpc.py", ""},
		{"as Triton's examples", python, "triton_examples.py", "triton"},
		{"kserve", kserve, "kserve_rest.py", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _ := start(t, map[string]string{"COMPAT": c.compat, "PAYLOAD_LOG": "on"}) // as on S3
			upload(t, url, "flights", flights)
			upload(t, url, "simple", onnxtest.Simple(-1).Bytes())
			upload(t, url, "identity_bytes", onnxtest.Identity(spec(tensor.Bytes)).Bytes())
			upload(t, url, "identity_fp16", onnxtest.Identity(spec(tensor.FP16)).Bytes())
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, c.python, filepath.Join(root, "test/conformance", c.script), strings.TrimPrefix(url, "http://")).CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

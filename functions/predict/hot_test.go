package main

import (
	"net/http"
	"os"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
)

// What callers of one process used is loaded by the next one before anybody asks.
func TestTheNextProcessLoadsWhatWasUsed(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"BLOB_URL=file://" + dir + "/bucket", "KV_URL=file://" + dir + "/kv"}
	first := spawn(t, "main", "listening", environ...)
	eventually(t, first.url+"/readyz", http.StatusOK, `{"ready":true}`)
	for name, m := range map[string]onnxwire.Model{"m": onnxtest.NonZero(), "unused": onnxtest.Simple(1)} {
		if status, body := call(t, "POST", first.url+"/admin/v1/models/"+name+"/versions", m.Bytes()); status != http.StatusCreated {
			t.Fatalf("push: got %d %s", status, body)
		}
	}
	if status, body := call(t, "POST", first.url+"/v2/models/m/infer", []byte(request)); status != http.StatusOK || body != answer {
		t.Fatalf("infer: got %d %s", status, body)
	}
	if err := first.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := first.wait(); err != nil {
		t.Fatalf("%v: %s", err, first.lines())
	}

	next := spawn(t, "main", "listening", environ...)
	eventually(t, next.url+"/metrics", http.StatusOK, `pilotlight_model_load_duration_seconds_count{outcome="loaded"} 1`)
	eventually(t, next.url+"/v2/models/m/ready", http.StatusOK, "")
}

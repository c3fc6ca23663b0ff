package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// childVariable makes the test binary the server itself, so that it can be killed.
const childVariable = "PILOTLIGHT_TEST_SERVER"

func TestMain(m *testing.M) {
	if pipeline.Asked() {
		alone().Main()
		return
	}
	if os.Getenv(childVariable) != "" {
		function(nil).Main()
		return
	}
	os.Exit(m.Run())
}

// spawn starts the server as a process of its own on a folder, and waits until it listens.
func spawn(t *testing.T, data string, environ ...string) (url string, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), environ...), childVariable+"=1", "PORT=0", "DATA_DIR="+data, "TMPDIR="+t.TempDir(), "MODEL_CACHE_DIR="+data+"/cache", "ORT_LIB="+onnxtest.Library(t))
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "killed" is what it should say
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var line struct{ Msg, Addr string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			go func() { _, _ = io.Copy(io.Discard, log) }() // so that its log never blocks it
			return "http://" + line.Addr, kill
		}
	}
	t.Fatal("the server ended before it listened")
	return "", nil
}

// TestNothingAcknowledgedIsLostWhenKilled kills the server with SIGKILL again and
// again while models are pushed and an alias moves.
func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	data := t.TempDir()
	acknowledged := map[int]bool{}                                              // versions
	moved := 0                                                                  // the alias's last acknowledged version
	for round := 0; round < 6 || len(acknowledged) < 6 && round < 60; round++ { // more where the machine is busy
		url, kill := spawn(t, data)
		check(t, url, acknowledged, moved)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(50+rand.IntN(250))*time.Millisecond, func() { kill(); cancel() })
		for i := 0; ; i++ {
			// Each version adds dimensions of its own, so that each is another file.
			model := onnxtest.Identity(tensor.Spec{Type: tensor.FP32, Shape: []int64{int64(round + 1), int64(i + 1)}})
			var m struct{ Version int }
			if !ask(ctx, "POST", url+"/admin/v1/models/m/versions", model.Bytes(), &m) {
				break
			}
			acknowledged[m.Version] = true
			if !ask(ctx, "PUT", url+"/admin/v1/models/m/aliases/live", fmt.Appendf(nil, `{"version":%d}`, m.Version), nil) {
				break
			}
			moved = m.Version
		}
		kill()
		cancel()
	}
	if len(acknowledged) < 6 {
		t.Fatalf("only %d pushes were acknowledged in all: the test proves little", len(acknowledged))
	}
	url, _ := spawn(t, data)
	check(t, url, acknowledged, moved)
	t.Logf("%d pushes acknowledged, the alias at version %d", len(acknowledged), moved)
}

// check looks for everything that was acknowledged, and that each version runs.
func check(t *testing.T, url string, acknowledged map[int]bool, moved int) {
	t.Helper()
	if len(acknowledged) == 0 {
		return
	}
	var d predict.ModelDetail
	if !ask(t.Context(), "GET", url+"/admin/v1/models/m", nil, &d) {
		t.Fatal("the model can't be shown")
	}
	seen := map[int]bool{}
	for _, m := range d.Versions {
		seen[m.Version] = true
		shape := m.Signature.Inputs[0].Shape
		zeros := strings.TrimSuffix(strings.Repeat("0,", int(shape[0]*shape[1])), ",")
		body := fmt.Sprintf(`{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[%d,%d],"data":[%s]}]}`, shape[0], shape[1], zeros)
		if !ask(t.Context(), "POST", fmt.Sprintf("%s/v2/models/m/versions/%d/infer", url, m.Version), []byte(body), nil) {
			t.Errorf("version %d is listed and does not answer", m.Version)
		}
	}
	for v := range acknowledged {
		if !seen[v] {
			t.Errorf("version %d was acknowledged and is lost", v)
		}
	}
	// The move after the last acknowledged one may have been written, but not answered.
	if live := d.Current["live"]; live < moved {
		t.Errorf("the alias was acknowledged at version %d and is at %d", moved, live)
	}
	for i, m := range d.History {
		if m.Seq != i+1 {
			t.Errorf("move %d of the history has the number %d", i+1, m.Seq)
		}
	}
}

// ask reports whether the server answered with a success.
func ask(ctx context.Context, method, url string, body []byte, answer any) bool {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		return false
	}
	return answer == nil || json.Unmarshal(b, answer) == nil
}

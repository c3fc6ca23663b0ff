package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
)

// childVariable makes the test binary a server: functions are registered once
// per process and the framework's server can't be stopped, so those that register
// are processes of their own.
const childVariable = "PILOTLIGHT_TEST_SERVER"

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "main":
		main()
	case "framework":
		if err := serveFramework(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// process is a server that is a process of its own.
type process struct {
	url  string
	cmd  *exec.Cmd
	wait func() error

	mu  sync.Mutex
	log strings.Builder
}

// spawn starts a process and waits for the address that it logs with msg.
func spawn(t *testing.T, mode, msg string, environ ...string) *process {
	t.Helper()
	return spawnAs(t, exec.CommandContext(t.Context(), os.Args[0]), mode, msg, environ...)
}

// spawnAs is spawn by a command that ends up as this test's binary.
func spawnAs(t *testing.T, cmd *exec.Cmd, mode, msg string, environ ...string) *process {
	t.Helper()
	p := &process{cmd: cmd}
	p.cmd.Env = append(os.Environ(), append(environ, childVariable+"="+mode, "PORT=0", "MODEL_CACHE_DIR="+t.TempDir(), "ORT_LIB="+onnxtest.Library(t))...)
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	p.wait = sync.OnceValue(func() error {
		<-read
		return p.cmd.Wait()
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.wait() // "killed" is what it should say, or what the test saw already
	})
	addr := make(chan string, 1)
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			if p.log.Len() > 4<<20 { // of a long run, the end
				p.log.Reset()
			}
			p.log.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
			var line struct{ Msg, Addr string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == msg {
				addr <- line.Addr
			}
		}
	}()
	select {
	case a := <-addr:
		p.url = "http://" + a
	case <-read:
		t.Fatalf("the process ended: %s", p.lines())
	}
	return p
}

func (p *process) lines() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func call(t *testing.T, method, url string, body []byte, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
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
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// eventually waits for an answer, or gives up with the last one.
func eventually(t *testing.T, url string, status int, body string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		gotStatus, got := call(t, "GET", url, nil)
		if gotStatus == status && strings.Contains(got, body) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: got %d %s, want %d %s", url, gotStatus, got, status, body)
		}
	}
}

const (
	request = `{"inputs":[{"name":"X","shape":[4],"datatype":"FP32","data":[0,1,0,2]}]}`
	answer  = `{"model_name":"m","model_version":"1","outputs":[{"name":"Y","datatype":"INT64","shape":[1,2],"data":[1,3]}]}`
)

// serves pushes a model and asks it.
func serves(t *testing.T, url string) {
	t.Helper()
	eventually(t, url+"/readyz", 200, `{"ready":true}`) // it listens before it is ready
	if status, body := call(t, "POST", url+"/admin/v1/models/m/versions", onnxtest.NonZero().Bytes()); status != 201 {
		t.Fatalf("push: got %d %s", status, body)
	}
	if status, body := call(t, "POST", url+"/v2/models/m/infer", []byte(request)); status != 200 || body != answer {
		t.Errorf("got %d %s, want 200 %s", status, body, answer)
	}
	if status, body := call(t, "GET", url+"/nothing/here", nil); status != 404 || body != `{"error":"there is nothing at /nothing/here"}` {
		t.Errorf("got %d %s, want 404", status, body)
	}
}

func TestMainServesAndEndsWhenTold(t *testing.T) {
	p := spawn(t, "main", "listening")
	serves(t, p.url)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(); err != nil {
		t.Errorf("the process ended with %v: %s", err, p.lines())
	}
}

func TestPinnedModelsAreAwaited(t *testing.T) {
	environ := map[string]string{
		"PORT": "0", "LOG_LEVEL": "ERROR", "ORT_LIB": onnxtest.Library(t), "MODEL_CACHE_DIR": t.TempDir(),
		"MODEL_PINNED": "m", "MODEL_REFRESH": "20ms",
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := function(nil).Start(ctx, environ)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the process ended with %v", err)
		}
	})
	url := "http://" + p.Server().Addr().String()
	eventually(t, url+"/readyz", 503, `{"ready":false,"reasons":["model \"m\" does not exist"]}`)
	if status, body := call(t, "GET", url+"/v2/health/ready", nil); status != 503 || body != `{"ready":false}` {
		t.Errorf("got %d %s", status, body)
	}
	if status, body := call(t, "GET", url+"/v2/health/live", nil); status != 200 || body != `{"live":true}` {
		t.Errorf("got %d %s", status, body)
	}
	if status, body := call(t, "POST", url+"/admin/v1/models/m/versions", onnxtest.NonZero().Bytes()); status != 201 {
		t.Fatalf("push: got %d %s", status, body)
	}
	eventually(t, url+"/readyz", 200, `{"ready":true}`)
	eventually(t, url+"/v2/health/ready", 200, `{"ready":true}`)
	// Ready means loaded, not only found.
	if status, body := call(t, "POST", url+"/v2/repository/index", []byte(`{"ready":true}`)); status != 200 || !strings.Contains(body, `"name":"m","version":"1","state":"READY"`) {
		t.Errorf("got %d %s", status, body)
	}
}

// Told to end, the process lets the request under way finish and takes no other.
func TestSIGTERMDrains(t *testing.T) {
	p := spawn(t, "main", "listening")
	if status, body := call(t, "POST", p.url+"/admin/v1/models/slow/versions", onnxtest.Slow().Bytes()); status != 201 {
		t.Fatalf("push: got %d %s", status, body)
	}
	const times = 2000 // some seconds
	head := fmt.Sprintf(`{"inputs":[{"name":"X","shape":[256,256],"datatype":"FP32","parameters":{"binary_data_size":262144}},`+
		`{"name":"TIMES","shape":[],"datatype":"INT64","data":[%d]}],"parameters":{"binary_data_output":true}}`, times)
	type result struct {
		status int
		length int
	}
	got := make(chan result, 1)
	go func() {
		status, body := call(t, "POST", p.url+"/v2/models/slow/infer", []byte(head+strings.Repeat("\x00", 4*256*256)), fmt.Sprintf("Inference-Header-Content-Length: %d", len(head)))
		got <- result{status, len(body)}
	}()
	eventually(t, p.url+"/metrics", 200, `http_server_active_requests{url_scheme="http"} 1`)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.status != 200 || r.length < 4*256*256 {
		t.Errorf("got %d and %d bytes", r.status, r.length)
	}
	if err := p.wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
	if !strings.Contains(p.lines(), `"msg":"draining","requests":1`) {
		t.Errorf("the request was not under way any more: %s", p.lines())
	}
	if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.url, "http://")); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

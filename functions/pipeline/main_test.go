package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

type nothing struct{}

func (nothing) Run(context.Context, *pipeline.Task) error { return nil }

func init() {
	n := func(yamlwire.Node) (pipeline.Step, error) { return nothing{}, nil }
	extra = []pipeline.Kind{{Name: "nothing", New: n}, {Name: "much", Heavy: true, New: n}}
}

func TestMain(m *testing.M) {
	if pipeline.Asked() {
		main()
		return
	}
	os.Exit(m.Run())
}

// broker is the end of K_SINK: it brings all events back.
type broker struct {
	mu   sync.Mutex
	seen []string
	to   string
}

func (b *broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, r.Header.Get("Ce-Type"))
	header := r.Header.Clone()
	go func() {
		again, err := http.NewRequestWithContext(context.Background(), http.MethodPost, b.to, strings.NewReader(string(body)))
		if err != nil {
			return
		}
		again.Header = header
		if resp, err := http.DefaultClient.Do(again); err == nil {
			resp.Body.Close()
		}
	}()
	w.WriteHeader(http.StatusAccepted)
}

// TestItRunsPipelines boots the function as main does, with a broker that brings it what it sends; the second step runs in
// a process of its own.
func TestItRunsPipelines(t *testing.T) {
	b := &broker{}
	sink := httptest.NewServer(b)
	t.Cleanup(sink.Close)
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	t.Setenv("BLOB_URL", "file://"+dir) // which the process of a step has, too
	p, err := function(nil, false).Start(ctx, map[string]string{"PORT": "0", "LOG_LEVEL": "ERROR", "BLOB_URL": "file://" + dir, "K_SINK": sink.URL})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	url := "http://" + p.Server().Addr().String()
	b.mu.Lock()
	b.to = url + "/events"
	b.mu.Unlock()
	call := func(method, path, body string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		said, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode >= 300 {
			t.Fatalf("%s %s: got %d %s", method, path, resp.StatusCode, said)
		}
		return string(said)
	}
	call("PUT", "/admin/v1/pipelines/p", "pipeline: p\nsteps:\n  - {name: a, use: nothing}\n  - {name: b, use: much, after: [a]}\n")
	call("POST", "/admin/v1/pipelines/p/runs", "")
	said := ""
	for end := time.Now().Add(time.Minute); !strings.Contains(said, `"what":"ended: `) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		said = call("GET", "/admin/v1/pipelines/p/runs/latest", "")
	}
	if !strings.Contains(said, `"state":"succeeded"`) || !strings.Contains(said, `"place":"process"`) {
		t.Errorf("got %s", said)
	}
}

// TestAProcessForOneStep runs the binary as a job of the cluster does. What nobody can make sense of ends it with an error.
func TestAProcessForOneStep(t *testing.T) {
	e := event.StepRequested.New(event.Try{Pipeline: "none", Run: "20261126T093000.000-0123abcd", Step: "s", Attempt: 1, At: time.Now()})
	b, err := event.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "event")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), pipeline.StepVariable+"="+path, "BLOB_URL=file://"+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the pipeline none has no run 20261126T093000.000-0123abcd") {
		t.Errorf("got %v: %s", err, out)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// probe is a kind of steps that tell which process ran them, and do what they are told.
type probe struct {
	Do     string `yaml:"do"`
	Folder string `yaml:"folder"`
	held   [][]byte
}

func init() {
	kind := pipeline.Kind{
		Name: "probe", In: []pipeline.Port{{Name: "pid", Optional: true}}, Out: []pipeline.Port{{Name: "pid"}},
		New: func(with yamlwire.Node) (pipeline.Step, error) {
			var of struct {
				Do     string `yaml:"do"`
				Folder string `yaml:"folder"`
			}
			err := with.Into(&of, "with")
			return &probe{Do: of.Do, Folder: of.Folder}, err
		},
	}
	heavy := kind
	heavy.Name, heavy.Heavy = "probe-heavy", true
	extra = []pipeline.Kind{kind, heavy}
}

func (p *probe) Run(ctx context.Context, t *pipeline.Task) error {
	switch p.Do {
	case "crash":
		go func() { panic("as it must") }()
		<-ctx.Done()
	case "exit":
		os.Exit(3)
	case "die":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "eat":
		for ctx.Err() == nil {
			b := make([]byte, 8<<20)
			for i := range b {
				b[i] = 1
			}
			p.held = append(p.held, b)
		}
	case "hang":
		select {}
	case "sleep":
		if err := os.WriteFile(filepath.Join(p.Folder, fmt.Sprintf("try-%d", t.Attempt)), fmt.Append(nil, os.Getpid()), 0o600); err != nil {
			return err
		}
		if t.Attempt == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	return t.Tell("pid", os.Getpid())
}

// runPipeline applies a pipeline and starts it, and gives the run once it has ended.
func runPipeline(t testing.TB, url, name, text string) *pipeline.Run {
	t.Helper()
	startPipeline(t, url, name, text)
	return awaitRun(t, url, name)
}

func startPipeline(t testing.TB, url, name, text string) {
	t.Helper()
	if status, body := call(t, "PUT", url+"/admin/v1/pipelines/"+name, strings.NewReader(text)); status != http.StatusOK {
		t.Fatalf("got %d %s", status, body)
	}
	if status, body := call(t, "POST", url+"/admin/v1/pipelines/"+name+"/runs", nil); status != http.StatusCreated {
		t.Fatalf("got %d %s", status, body)
	}
}

func awaitRun(t testing.TB, url, name string) *pipeline.Run {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		status, body := call(t, "GET", url+"/admin/v1/pipelines/"+name+"/runs/latest", nil)
		run := &pipeline.Run{}
		if err := json.Unmarshal([]byte(body), run); err != nil || status != 200 {
			t.Fatalf("got %d %s", status, body)
		}
		if !run.Ended.IsZero() {
			return run
		}
	}
	t.Fatal("the run does not end")
	return nil
}

func TestHeavyStepsRunInProcessesOfTheirOwn(t *testing.T) {
	url, _ := start(t, map[string]string{"DATA_DIR": t.TempDir(), "PIPELINE_MEMORY": "300MiB"})
	run := runPipeline(t, url, "p", "pipeline: p\nsteps:\n  - {name: a, use: probe}\n  - {name: b, use: probe-heavy, in: {pid: a.pid}}\n")
	here := fmt.Sprint(os.Getpid())
	if run.State != pipeline.Succeeded || string(run.Steps[0].Outputs["pid"].Value) != here || string(run.Steps[1].Outputs["pid"].Value) == here {
		t.Errorf("got %+v", run)
	}
	for _, test := range []struct{ do, timeout, reason string }{
		{"crash", "1m", "its process ended by itself: exit status 2; it said last: panic: as it must"},
		{"exit", "1m", "its process ended by itself: exit status 3"},
		{"die", "1m", "its process ended by itself: signal: killed, most likely since the machine or the container had no memory left"},
		{"eat", "1m", "more than the 300MiB that a step may take (PIPELINE_MEMORY)"},
		{"hang", "1s", "step a: it did not end within 1s"},
	} {
		run := runPipeline(t, url, test.do, fmt.Sprintf("pipeline: %s\nsteps:\n  - {name: a, use: probe-heavy, with: {do: %[1]s}, timeout: %s, retries: 0}\n", test.do, test.timeout))
		if run.State != pipeline.Failed || !strings.Contains(run.Reason, test.reason) {
			t.Errorf("%s: got %s %q, want %q", test.do, run.State, run.Reason, test.reason)
		}
	}
}

// TestAKilledRunGoesOn kills the server while a step runs, in it and in a process of its own: the next one goes on with the run.
func TestAKilledRunGoesOn(t *testing.T) {
	for _, use := range []string{"probe", "probe-heavy"} {
		data, folder := t.TempDir(), t.TempDir()
		environ := []string{"PIPELINE_LEASE=2s"}
		url, kill := spawn(t, data, environ...)
		startPipeline(t, url, "p", fmt.Sprintf("pipeline: p\nsteps:\n  - {name: a, use: probe}\n  - {name: b, use: %s, in: {pid: a.pid}, with: {do: sleep, folder: %q}}\n", use, folder))
		var pid []byte
		for ; len(pid) == 0; time.Sleep(10 * time.Millisecond) {
			pid, _ = os.ReadFile(filepath.Join(folder, "try-1")) // until it is there
		}
		kill()
		killed := time.Now()
		for ; lives(string(pid)); time.Sleep(10 * time.Millisecond) {
			if time.Since(killed) > 30*time.Second {
				t.Fatalf("%s: the process of the step outlived the server", use)
			}
		}
		url, _ = spawn(t, data, environ...)
		run := awaitRun(t, url, "p")
		if b := run.Steps[1]; run.State != pipeline.Succeeded || run.Steps[0].Attempt != 1 || b.Attempt < 2 || b.Lost < 1 { // more where the machine is so busy that a lease ends
			t.Errorf("%s: got %+v", use, run)
		}
		t.Logf("%s: it ended %s after the kill, with a lease of 2s", use, run.Ended.Sub(killed).Round(time.Millisecond))
	}
}

// lives tells whether a process runs, and is no zombie that nobody has waited for.
func lives(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// BenchmarkRun is what a run of five steps that do nothing takes, from the request that starts it to its end: in the function,
// and each in a process of its own.
func BenchmarkRun(b *testing.B) {
	for _, use := range []string{"probe", "probe-heavy"} {
		b.Run(use, func(b *testing.B) {
			url, _ := start(b, map[string]string{"DATA_DIR": b.TempDir()})
			text := "pipeline: p\nsteps:\n"
			for i := range 5 {
				text += fmt.Sprintf("  - {name: s%d, use: %s}\n", i, use)
			}
			for b.Loop() {
				if run := runPipeline(b, url, "p", text); run.State != pipeline.Succeeded {
					b.Fatalf("got %+v", run)
				}
			}
		})
	}
}

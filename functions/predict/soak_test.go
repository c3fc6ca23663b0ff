package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// soak is what TestThousandsOfModelsInLittleMemory does.
type soak struct {
	models, requests, callers int
	limit                     string // of the control group
	slack                     int    // bytes that memory may differ between two halves
	memory                    string // MODEL_MEMORY
}

// Many models are asked for by a few callers, some often and most rarely, in a
// process that can't hold them all. With SOAK=1 there are 2,000 of them in
// 512 MiB, and as many requests as ten a second are in an hour.
func TestThousandsOfModelsInLittleMemory(t *testing.T) {
	// What is warm changes by whole models within seconds; 2,000 loads that leaked would take several times the slack.
	s := soak{models: 240, requests: 3000, callers: 8, limit: "256MiB", memory: "40MiB", slack: 24 << 20}
	if os.Getenv("SOAK") != "" {
		s = soak{models: 2000, requests: 36_000, callers: 8, limit: "512MiB", slack: 4 << 20}
	} else if testing.Short() {
		t.Skip("takes seconds")
	}
	group := newGroup(t, s.limit)
	bucket := t.TempDir()
	s.push(t, bucket)

	sh := exec.CommandContext(t.Context(), "sh", "-c", `echo $$ > "$0" && exec "$1"`, filepath.Join(group, "cgroup.procs"), os.Args[0])
	p := spawnAs(t, sh, "main", "listening", "BLOB_URL=file://"+bucket, "MODEL_MEMORY="+s.memory)
	eventually(t, p.url+"/readyz", 200, `{"ready":true}`)

	watch := watch(t, p.cmd.Process.Pid)
	took := s.ask(t, p)
	samples := watch()
	if t.Failed() {
		t.Logf("the process said: %s", p.lines())
		return
	}

	if killed := oomKills(t, group); killed > 0 {
		t.Errorf("%d processes were killed for want of memory", killed)
	}
	// From a third of the way on, all that is ever made has been made: halves of the rest are alike.
	if len(samples) < 12 {
		t.Fatalf("only %d samples", len(samples))
	}
	rest := samples[len(samples)/3:]
	before, after := median(rest[:len(rest)/2]), median(rest[len(rest)/2:])
	if after.anonymous > before.anonymous+before.anonymous/10+s.slack {
		t.Errorf("memory grows: %s, then %s", before, after)
	}
	if after.files > before.files+20 || after.threads > before.threads+10 {
		t.Errorf("files or threads grow: %s, then %s", before, after)
	}
	most := slices.MaxFunc(samples, func(a, b sample) int { return a.anonymous - b.anonymous })
	status, metrics := call(t, "GET", p.url+"/metrics", nil)
	if status != http.StatusOK {
		t.Fatalf("metrics: got %d", status)
	}
	evictions, sessions := 0.0, ""
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, "pilotlight_model_sessions "); ok {
			sessions = strings.TrimSpace(rest)
		}
		if rest, ok := strings.CutPrefix(line, "pilotlight_model_evictions_total{"); ok {
			f := strings.Fields(rest)
			n, err := strconv.ParseFloat(f[len(f)-1], 64)
			if err != nil {
				t.Fatal(err)
			}
			evictions += n
		}
	}
	if evictions == 0 {
		t.Error("nothing was ever evicted: the models would have fitted in")
	}
	t.Logf("%d models, %d requests by %d callers in %s: %.0f per s, %.0f evictions, %s warm at the end; %s, then %s, at most %s; the group: at most %s of %s, %d times at its limit",
		s.models, s.requests, s.callers, took.Round(100*time.Millisecond), float64(s.requests)/took.Seconds(), evictions, sessions, before, after, most,
		mib(number(t, group, "memory.max_usage_in_bytes", "memory.peak")), s.limit, number(t, group, "memory.failcnt", ""))
}

// width of a model's only matrix: most are tiny, some take 256 KB, few 4 MB.
func (soak) width(i int) int64 {
	switch {
	case i%50 == 7:
		return 1024
	case i%4 == 1:
		return 256
	}
	return 32
}

func (soak) name(i int) string { return fmt.Sprint("m", i) }

// model is X·W + i.
func (s soak) model(i int) []byte {
	w := s.width(i)
	m := onnxtest.Dense(1, w)
	m.Nodes[0].Out = []string{"XW"}
	m.Constants = []tensor.Tensor{tensor.Of("C", []int64{1}, []float32{float32(i)})}
	m.Nodes = append(m.Nodes, onnxwire.Node{Op: "Add", In: []string{"XW", "C"}, Out: []string{"Y"}})
	return m.Bytes()
}

// push fills the bucket.
func (s soak) push(t *testing.T, bucket string) {
	t.Helper()
	blob, err := diskstore.OpenBlob(t.Context(), &url.URL{Scheme: "file", Path: bucket})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Level: slog.LevelError, Output: io.Discard}, "soak")
	if err != nil {
		t.Fatal(err)
	}
	c := &model.Config{CacheDir: t.TempDir(), CacheSize: 1 << 20, Memory: 1 << 30, Refresh: time.Hour, Fetch: 1, Load: time.Minute}
	registry, err := model.Open(c, blob, nil, []engine.Format{onnxtest.Format(t)}, nil, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(2 * runtime.NumCPU())
	for i := range s.models {
		group.Go(func() error {
			_, err := registry.Push(ctx, model.Push{Name: s.name(i)}, bytes.NewReader(s.model(i)))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// ask sends the requests, and checks each answer.
func (s soak) ask(t *testing.T, p *process) time.Duration {
	t.Helper()
	begin := time.Now()
	var left atomic.Int64
	left.Store(int64(s.requests))
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: s.callers}}
	defer client.CloseIdleConnections()
	group, ctx := errgroup.WithContext(t.Context())
	for c := range s.callers {
		random := rand.New(rand.NewPCG(1, uint64(c)))
		zipf := rand.NewZipf(random, 1.1, 10, uint64(s.models-1))
		order := rand.New(rand.NewPCG(2, 2)).Perm(s.models) // large ones are not hotter than others
		group.Go(func() error {
			for left.Add(-1) >= 0 {
				if err := s.request(ctx, client, p.url, order[zipf.Uint64()]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	return time.Since(begin)
}

func (s soak) request(ctx context.Context, client *http.Client, url string, i int) error {
	w := s.width(i)
	body := fmt.Sprintf(`{"inputs":[{"name":"X","shape":[1,%d],"datatype":"FP32","data":[0%s]}]}`, w, strings.Repeat(",0", int(w-1)))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v2/models/"+s.name(i)+"/infer", strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Name    string `json:"model_name"`
		Outputs []struct{ Data []float32 }
	}
	if err := json.Unmarshal(b, &answer); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("model %d: got %d %.300s", i, resp.StatusCode, b)
	}
	if answer.Name != s.name(i) || len(answer.Outputs) != 1 || !slices.Equal(answer.Outputs[0].Data, slices.Repeat([]float32{float32(i)}, int(w))) {
		return fmt.Errorf("model %d: got %.300s, want %d times %d", i, b, w, i)
	}
	return nil
}

// sample is what a process holds at a moment.
type sample struct{ anonymous, resident, files, threads int }

func (s sample) String() string {
	return fmt.Sprintf("%s resident (%s without files), %d open files, %d threads", mib(s.resident), mib(s.anonymous), s.files, s.threads)
}

func mib(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func median(all []sample) sample {
	of := func(get func(sample) int) int {
		n := make([]int, len(all))
		for i := range all {
			n[i] = get(all[i])
		}
		slices.Sort(n)
		return n[len(n)/2]
	}
	return sample{
		of(func(s sample) int { return s.anonymous }), of(func(s sample) int { return s.resident }),
		of(func(s sample) int { return s.files }), of(func(s sample) int { return s.threads }),
	}
}

func sampleOf(pid int) (s sample, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return s, err
	}
	s.files = len(files)
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		switch name {
		case "RssAnon":
			s.anonymous = n << 10
		case "VmRSS":
			s.resident = n << 10
		case "Threads":
			s.threads = n
		}
	}
	return s, nil
}

// watch looks at a process over and over until the function it gives is called.
func watch(t *testing.T, pid int) func() []sample {
	t.Helper()
	var samples []sample
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for ticker := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-ticker.C:
				s, err := sampleOf(pid)
				if err != nil {
					return // it ended, which its callers notice
				}
				samples = append(samples, s)
			}
		}
	})
	return func() []sample {
		close(stop)
		done.Wait()
		return samples
	}
}

// newGroup makes a control group with a limit of memory, and removes it at the end.
func newGroup(t *testing.T, limit string) string {
	t.Helper()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("SKIPPED: there is no shell")
	}
	var parent, file string
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("SKIPPED: control groups are a thing of Linux")
	}
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) != 3:
		case slices.Contains(strings.Split(f[1], ","), "memory"):
			parent, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case f[0] == "0" && parent == "":
			parent, file = filepath.Join("/sys/fs/cgroup", f[2]), "memory.max"
		}
	}
	group, err := os.MkdirTemp(parent, "pilotlight-test-")
	if err != nil {
		t.Skipf("SKIPPED: no control group can be made here: %v", err)
	}
	t.Cleanup(func() {
		var err error
		for range 50 { // the process may still be ending
			if err = os.Remove(group); err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Error(err)
	})
	n, ok := strings.CutSuffix(limit, "MiB")
	if !ok {
		t.Fatalf("%q is not in MiB", limit)
	}
	if err := os.WriteFile(filepath.Join(group, file), []byte(n+"M"), 0o600); err != nil {
		t.Skipf("SKIPPED: no control group can be limited here: %v", err)
	}
	return group
}

// oomKills is how many processes of the group the kernel has killed.
func oomKills(t *testing.T, group string) int {
	t.Helper()
	for _, file := range []string{"memory.oom_control", "memory.events"} {
		b, err := os.ReadFile(filepath.Join(group, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
				n, err := strconv.Atoi(f[1])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	t.Fatal("nobody tells how many processes were killed")
	return 0
}

// number reads a file of the group by its name in version 1 or 2; 0 if there is none.
func number(t *testing.T, group string, names ...string) int {
	t.Helper()
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(group, name)); err == nil && name != "" {
			n, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// A model that nobody uses any more gives its memory back to the system.
func TestIdleModelsGiveTheirMemoryBack(t *testing.T) {
	p := spawn(t, "main", "listening", "MODEL_IDLE=1s", "BLOB_URL=file://"+t.TempDir())
	eventually(t, p.url+"/readyz", http.StatusOK, `{"ready":true}`)
	now := func() int {
		s, err := sampleOf(p.cmd.Process.Pid)
		if err != nil {
			t.Skip("SKIPPED: memory is measured on Linux only")
		}
		return s.anonymous
	}
	const width, size = 2048, 4 * 4 * 2048 * 2048
	const kept = 40 << 20 // 16 MiB at the end of each of two arenas, and what the process itself came to take
	if status, body := call(t, "POST", p.url+"/admin/v1/models/big/versions", onnxtest.Dense(4, width).Bytes()); status != http.StatusCreated {
		t.Fatalf("push: got %d %s", status, body)
	}
	before := now()
	ask := fmt.Sprintf(`{"inputs":[{"name":"X","shape":[1,%d],"datatype":"FP32","data":[0%s]}]}`, width, strings.Repeat(",0", width-1))
	for range 3 {
		if status, body := call(t, "POST", p.url+"/v2/models/big/infer", []byte(ask)); status != http.StatusOK {
			t.Fatalf("got %d %.300s", status, body)
		}
		if during := now(); during < before+size/2 { // it may lie in what the push left behind
			t.Fatalf("%s while it is warm, after %s: the measure is wrong", mib(during), mib(before))
		}
		after := 0
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if after = now(); after < before+kept {
				break
			}
		}
		if after >= before+kept {
			t.Fatalf("%s long after it was used, %s before: a model of %s was not given back", mib(after), mib(before), mib(size))
		}
	}
}

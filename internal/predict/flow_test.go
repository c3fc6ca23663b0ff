package predict_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/predict"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/pulse"
	"github.com/pilotlight-ml/pilotlight/internal/queue"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// eventually waits for what must come about soon.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}

// Flow alone, without a protocol.
func TestFlowNeedsNoProtocol(t *testing.T) {
	s := predicttest.Start(t, nil, nil)
	s.Push(t, "simple", onnxtest.Simple(-1).Bytes(), model.Settings{})
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	lanes, err := queue.New(&queue.Config{Length: 10, Wait: time.Second}, tel)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cache.Open(&cache.Config{}, nil, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Close()
	flow, err := predict.New(s.Registry, lanes, answers, nil, nil, nil, pulse.NewBoard(nil, tel.Log), tel)
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	one, two := make([]int32, 16), make([]int32, 16)
	for i := range one {
		one[i], two[i] = 1, 2
	}
	r := &predict.Request{
		Ref:     model.Ref{Name: "simple"},
		Inputs:  []tensor.Tensor{tensor.Of("INPUT1", []int64{1, 16}, two), tensor.Of("INPUT0", []int64{1, 16}, one)},
		Outputs: []string{"OUTPUT1"},
	}
	a, err := flow.Infer(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got := tensor.View[int32](a.Outputs[0].Data); a.Manifest.Version != 1 || len(a.Outputs) != 1 || len(got) != 16 || got[0] != -1 {
		t.Errorf("got %v, want one output of -1", a.Outputs)
	}
	for _, test := range []struct {
		change func(r *predict.Request)
		want   string
	}{
		{func(r *predict.Request) { r.Outputs = []string{"OUTPUT1", "OUTPUT1"} }, `output "OUTPUT1" is asked for twice`},
		{func(r *predict.Request) { r.Outputs = []string{"Y"} }, `output "Y" is not one that model "simple" gives; it gives ["OUTPUT0" "OUTPUT1"]`},
		{func(r *predict.Request) { r.Inputs = nil }, `input "INPUT0" is missing; model "simple" expects "INPUT0", "INPUT1"`},
		{func(r *predict.Request) { r.Ref.Version = "2" }, `model "simple" has no version 2`},
	} {
		bad := *r
		test.change(&bad)
		if _, err := flow.Infer(t.Context(), &bad); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// gate is a bucket whose artifacts can't be read while it is shut: a slow store.
type gate struct {
	store.Blob
	mu   sync.Mutex
	open chan struct{} // nil: open
}

func (g *gate) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan struct{})
	g.open = c
	return sync.OnceFunc(func() { close(c) })
}

func (g *gate) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if open != nil && strings.HasPrefix(key, "artifacts/") {
		select {
		case <-open:
		case <-ctx.Done():
			return nil, store.Object{}, ctx.Err()
		}
	}
	return g.Blob.Get(ctx, key, offset, length)
}

// whoAnswers tells which version of m answers, after a look at what it says.
func whoAnswers(ctx context.Context, c *http.Client, url string) (version string, err error) {
	r, err := http.NewRequestWithContext(ctx, "POST", url+"/v2/models/m/infer", strings.NewReader(floats("1")))
	if err != nil {
		return "", err
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var a struct {
		Version string `json:"model_version"`
		Outputs []struct{ Data []float64 }
	}
	if err := json.Unmarshal(b, &a); err != nil || resp.StatusCode != 200 || len(a.Outputs) != 1 || len(a.Outputs[0].Data) != 1 {
		return "", fmt.Errorf("got %d %s", resp.StatusCode, b)
	}
	if y := a.Outputs[0].Data[0]; a.Version == "1" && y != 1 || a.Version == "2" && y != -1 {
		return "", fmt.Errorf("version %s says %v", a.Version, y)
	}
	return a.Version, nil
}

// An alias moves while clients ask without a pause: the old version goes on
// until the new one has loaded, and nobody sees an error.
func TestAliasMovesUnderLoad(t *testing.T) {
	blob := newBlob(t)
	slow := &gate{Blob: blob}
	publisher := predicttest.Start(t, blob, nil)
	s := predicttest.Start(t, slow, map[string]string{"MODEL_REFRESH": "10ms"}) // another process, whose cache is empty
	publisher.Push(t, "m", same.Bytes(), model.Settings{})
	publisher.Push(t, "m", neg.Bytes(), model.Settings{})
	answers(t, s, 1)

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	var stop atomic.Bool
	var count [3]atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				version, err := whoAnswers(t.Context(), client, s.URL)
				if err != nil {
					t.Error(err)
					return
				}
				count[version[0]-'0'].Add(1)
			}
		})
	}
	expect := func(version int) {
		t.Helper()
		for range 20 {
			answers(t, s, version)
		}
	}
	ref := model.Ref{Name: "m"}
	expect(1)

	// By another process, while the bucket is slow.
	open := slow.shut()
	defer open()
	want(t, publisher.Do(t, "PUT", "/admin/v1/models/nothing/aliases/champion", `{"version":2}`), 404, `{"error":"model \"nothing\" has no version 2"}`)
	if a := publisher.Do(t, "PUT", "/admin/v1/models/m/aliases/champion", `{"version":2}`); a.Status != 200 {
		t.Fatalf("got %d %s", a.Status, a.Body)
	}
	eventually(t, "the move is seen and version 2 is loading", func() bool {
		m, err := s.Registry.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		state, _ := s.Registry.Warm.State(m)
		return m.Version == 2 && state == model.Loading
	})
	expect(1)
	before := count[1].Load()
	eventually(t, "all clients are answered by version 1 meanwhile", func() bool { return count[1].Load() > before+8 })
	if n := count[2].Load(); n > 0 {
		t.Errorf("version 2 answered %d times before it was there", n)
	}
	open()
	eventually(t, "version 2 answers", func() bool {
		version, err := whoAnswers(t.Context(), client, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		return version == "2"
	})
	expect(2)
	seen := count[2].Load()
	eventually(t, "clients are answered by version 2", func() bool { return count[2].Load() > seen+8 })

	// Back, by this process: both are warm, so it shows at once.
	if a := s.Do(t, "POST", "/admin/v1/models/m/aliases/champion/rollback", ""); a.Status != 200 {
		t.Fatalf("got %d %s", a.Status, a.Body)
	}
	expect(1)
	for i := range 20 { // and to and fro
		if a := s.Do(t, "PUT", "/admin/v1/models/m/aliases/champion", fmt.Sprintf(`{"version":%d}`, 2-i%2)); a.Status != 200 {
			t.Fatalf("got %d %s", a.Status, a.Body)
		}
		answers(t, s, 2-i%2)
	}
	stop.Store(true)
	wg.Wait()
	if count[1].Load() == 0 || count[2].Load() == 0 {
		t.Errorf("got %d answers of version 1 and %d of version 2", count[1].Load(), count[2].Load())
	}
}

// A version that can't be loaded never takes over.
func TestABrokenVersionNeverTakesOver(t *testing.T) {
	blob := newBlob(t)
	publisher := predicttest.Start(t, blob, nil)
	s := predicttest.Start(t, blob, map[string]string{"MODEL_REFRESH": "10ms"})
	publisher.Push(t, "m", same.Bytes(), model.Settings{})
	answers(t, s, 1)
	broken := publisher.Push(t, "m", neg.Bytes(), model.Settings{})
	key := "artifacts/sha256/" + broken.Digest.Hex()
	junk := strings.Repeat("x", int(broken.Size))
	if _, err := blob.Put(t.Context(), key, strings.NewReader(junk), broken.Size, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := publisher.Registry.Move(t.Context(), "m", "champion", model.Change{To: 2}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "version 2 was tried", func() bool {
		answers(t, s, 1)
		m, err := s.Registry.Resolve(t.Context(), model.Ref{Name: "m"})
		if err != nil {
			t.Fatal(err)
		}
		state, _ := s.Registry.Warm.State(m)
		return state == model.Failed
	})
	answers(t, s, 1)
	want(t, s.Do(t, "GET", "/v2/models/m/ready", ""), 200, `{"name":"m","ready":true}`)
	a := s.Do(t, "POST", "/v2/models/m/versions/2/infer", floats("1"))
	if text := refusal(t, a); a.Status != 500 || !strings.HasPrefix(text, "artifact "+string(broken.Digest)+" was refused: its content in the bucket has the digest sha256:") {
		t.Errorf("got %d %s", a.Status, text)
	}
	want(t, s.Do(t, "GET", "/v2/models/m/versions/2/ready", ""), 503, `{"name":"m","ready":false}`)

	// Pushed again, the file is whole: its bytes are the same artifact.
	publisher.Push(t, "m", neg.Bytes(), model.Settings{})
	eventually(t, "version 2 answers", func() bool {
		version, err := whoAnswers(t.Context(), http.DefaultClient, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		return version == "2"
	})
}

// A caller that waits for a model is told so when its time is up, and the load
// goes on for those that come after.
func TestDeadlineWhileAModelLoads(t *testing.T) {
	blob := newBlob(t)
	slow := &gate{Blob: blob}
	predicttest.Start(t, blob, nil).Push(t, "m", same.Bytes(), model.Settings{})
	s := predicttest.Start(t, slow, map[string]string{"REQUEST_TIMEOUT": "2s"})
	open := slow.shut()
	defer open()
	wantError(t, s.Do(t, "POST", "/v2/models/m/infer", floats("1")), 504, `model "m", version 1 is still being loaded; try again`)
	if got := index(t, s, ""); len(got) != 1 || got[0].State != oip.StateLoading {
		t.Errorf("got %v, want one model that is loading", got)
	}
	open()
	answers(t, s, 1)
}

// loop is a request for onnxtest.Slow.
func loop(times int64) (body string, header string) {
	head := fmt.Sprintf(`{"inputs":[{"name":"X","shape":[256,256],"datatype":"FP32","parameters":{"binary_data_size":262144}},`+
		`{"name":"TIMES","shape":[],"datatype":"INT64","data":[%d]}],"parameters":{"binary_data_output":true}}`, times)
	return head + strings.Repeat("\x00", 256*256*4), headerLength(len(head))
}

const forever = 1 << 40 // times, which takes years

// A request whose time is up while the model runs ends the run; the session survives.
func TestDeadlineWhileAModelRuns(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"REQUEST_TIMEOUT": "3s"})
	s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{})
	short, shortHead := loop(1)
	long, longHead := loop(forever)
	ok := func() {
		t.Helper()
		if _, raw := split(t, s.Do(t, "POST", "/v2/models/slow/infer", short, shortHead)); len(raw) != 256*256*4 {
			t.Errorf("got %d bytes of output", len(raw))
		}
	}
	ok()
	session := s.Registry.Warm.Loaded()
	wantError(t, s.Do(t, "POST", "/v2/models/slow/infer", long, longHead), 504, "the request's time ran out")
	ok()
	if again := s.Registry.Warm.Loaded(); len(session) != 1 || len(again) != 1 || session[0] != again[0] {
		t.Errorf("got sessions %v, then %v", session, again)
	}
	if got := stats(t, s, "/v2/models/slow/stats")[0]; got.ExecutionCount != 2 || got.Inference.Fail.Count != 1 {
		t.Errorf("got %d runs and %d failures, want 2 and 1", got.ExecutionCount, got.Inference.Fail.Count)
	}
}

// A caller that goes away takes its run with it.
func TestACallerGoesAway(t *testing.T) {
	s := predicttest.Start(t, nil, map[string]string{"REQUEST_TIMEOUT": "10m"})
	s.Push(t, "slow", onnxtest.Slow().Bytes(), model.Settings{})
	short, shortHead := loop(1)
	if a := s.Do(t, "POST", "/v2/models/slow/infer", short, shortHead); a.Status != 200 {
		t.Fatalf("got %d %s", a.Status, a.Body)
	}
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	for i, transport := range []*http.Transport{{}, {Protocols: h2}} {
		ctx, leave := context.WithCancel(t.Context())
		body, head := loop(forever)
		r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/v2/models/slow/infer", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(head, ": ")
		r.Header.Set(name, value)
		gone := make(chan error, 1)
		go func() {
			resp, err := transport.RoundTrip(r)
			if err == nil {
				err = resp.Body.Close()
			}
			gone <- err
		}()
		eventually(t, "the model runs", running)
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the request canceled", err)
		}
		eventually(t, "the run has ended", func() bool { return !running() })
		eventually(t, "the failure is counted", func() bool {
			return stats(t, s, "/v2/models/slow/stats")[0].Inference.Fail.Count == uint64(i+1)
		})
		// Nobody holds the session any more, or this would wait.
		want(t, s.Do(t, "POST", "/v2/repository/models/slow/unload", ""), 200, `{}`)
		if a := s.Do(t, "POST", "/v2/models/slow/infer", short, shortHead); a.Status != 200 {
			t.Errorf("got %d %s", a.Status, a.Body)
		}
		transport.CloseIdleConnections()
	}
}

// running tells whether a model runs for a request in this process.
func running() bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("queue.(*batch).lead("))
}

// activeRequests reads the server's metric.
func activeRequests(t *testing.T, s *predicttest.Server) (n int) {
	t.Helper()
	for line := range strings.Lines(s.Do(t, "GET", "/metrics", "").Body) {
		if strings.HasPrefix(line, "http_server_active_requests{") {
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// mixed is what TestMixedLoad drives: one process, its Redis, and callers of every protocol.
type mixed struct {
	t      *testing.T
	p      *process
	client *http.Client
	rpc    *grpc.ClientConn
	port   string // of Redis

	answered, vanished, refused, changes atomic.Int64
}

// Callers of all protocols ask models that are remembered and that are not, while
// models are loaded, unloaded, published anew and moved, callers vanish, others
// send what is no request, and Redis hangs, dies and comes back. Every request
// gets the right answer, and nothing grows. SOAK_FOR says for how long.
func TestMixedLoad(t *testing.T) {
	length, slack := 8*time.Second, 32<<20 // within seconds, a large model more or less is no growth
	if s := os.Getenv("SOAK_FOR"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
		slack = 8 << 20
	} else if testing.Short() {
		t.Skip("takes seconds")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no redis-server")
		}
		t.Skip("SKIPPED: there is no redis-server")
	}
	m := &mixed{t: t, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	defer m.client.CloseIdleConnections()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, m.port, err = net.SplitHostPort(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	l.Close()
	redis := m.redis()
	m.p = spawn(t, "main", "listening", "BLOB_URL=file://"+t.TempDir(), "KV_URL=redis://127.0.0.1:"+m.port, "MODEL_MEMORY=96MiB", "MODEL_IDLE=2s", "CACHE_SIZE=4MiB")
	eventually(t, m.p.url+"/readyz", 200, `{"ready":true}`)
	if m.rpc, err = grpc.NewClient(strings.TrimPrefix(m.p.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	defer m.rpc.Close()
	for i := range kinds {
		m.push(i)
	}

	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var work sync.WaitGroup
	for i, ask := range []func(context.Context, int, [2]int32) (int32, error){m.v2, m.v2, m.binary, m.binary, m.v1, m.grpc, m.grpc, m.event} {
		work.Go(func() { m.call(ctx, uint64(i), ask) })
	}
	work.Go(func() { m.disturb(ctx) })
	work.Go(func() { m.misbehave(ctx) })
	work.Go(func() { m.outages(ctx, redis) })
	samples := m.sample(ctx)
	work.Wait()
	if t.Failed() {
		t.Logf("the process said: %s", m.p.lines())
		return
	}
	if m.answered.Load() == 0 || m.vanished.Load() == 0 || m.refused.Load() == 0 || m.changes.Load() == 0 {
		t.Errorf("%d answered, %d vanished, %d refused, %d changes: all of that is to be tried", m.answered.Load(), m.vanished.Load(), m.refused.Load(), m.changes.Load())
	}
	rest := samples[len(samples)/2:] // the first half is for what is made once
	before, after := median(rest[:len(rest)/2]), median(rest[len(rest)/2:])
	if after.anonymous > before.anonymous+before.anonymous/10+slack || after.files > before.files+30 || after.threads > before.threads+10 {
		t.Errorf("something grows: %s, then %s", before, after)
	}
	t.Logf("%s: %d answers, all of them right, %d callers that vanished, %d requests that were refused as they had to be, %d changes of models; %s, then %s",
		length, m.answered.Load(), m.vanished.Load(), m.refused.Load(), m.changes.Load(), before, after)
}

// kinds are the models: each gives the sum and the difference of its inputs. Some
// carry so many megabytes of weights beside that they don't fit into memory together.
var kinds = []struct {
	name, settings string
	weight         int64
}{
	{"plain", `{}`, 0},
	{"alone", `{"batching":{"max_rows":1}}`, 0},
	{"remembered", `{"cache":{"ttl":"1s","stale":"1s"}}`, 0},
	{"long", `{"cache":{"ttl":"1h"}}`, 1},
	{"heavy", `{}`, 6},
	{"heavier", `{}`, 8},
}

func (m *mixed) push(i int) {
	k := kinds[i]
	model := onnxtest.Simple(-1)
	if width := k.weight << 20 / 4 / 17; width > 0 {
		model.Weights = []tensor.Spec{{Name: "W1", Shape: []int64{16, width}}, {Name: "W2", Shape: []int64{width, 1}}}
		model.Nodes = append(model.Nodes,
			onnxwire.Node{Op: "Cast", In: []string{"INPUT0"}, Out: []string{"X"}, Attributes: []onnxwire.Attribute{{Name: "to", Value: int64(onnxwire.ElemOf(tensor.FP32))}}},
			onnxwire.Node{Op: "MatMul", In: []string{"X", "W1"}, Out: []string{"Y"}},
			onnxwire.Node{Op: "MatMul", In: []string{"Y", "W2"}, Out: []string{"WEIGHED"}})
		model.Outputs = append(model.Outputs, onnxwire.Tensor("WEIGHED", tensor.FP32, -1, 1))
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, part := range [][2]string{{"settings", k.settings}, {"model", string(model.Bytes())}} {
		w, err := form.CreateFormField(part[0])
		if err == nil {
			_, err = io.WriteString(w, part[1])
		}
		if err != nil {
			m.t.Error(err)
		}
	}
	form.Close()
	status, said, err := m.send(context.Background(), http.MethodPost, "/admin/v1/models/"+k.name+"/versions", body.String(), "Content-Type: "+form.FormDataContentType())
	if err != nil || status != http.StatusCreated {
		m.t.Errorf("push %s: got %d %s %v", k.name, status, said, err)
	}
	m.changes.Add(1)
}

// send sends a request over one of many connections.
func (m *mixed) send(ctx context.Context, method, path, body string, headers ...string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, m.p.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := m.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// call asks over and over, and checks each answer.
func (m *mixed) call(ctx context.Context, seed uint64, ask func(context.Context, int, [2]int32) (int32, error)) {
	random := rand.New(rand.NewPCG(seed, 1))
	for ctx.Err() == nil {
		// Few numbers, so that many requests are alike.
		x := [2]int32{random.Int32N(40), random.Int32N(40)}
		model := random.IntN(len(kinds))
		got, err := ask(context.Background(), model, x)
		if err != nil || got != x[0]+x[1] {
			m.t.Errorf("%s: %d + %d: got %d %v", kinds[model].name, x[0], x[1], got, err)
			return
		}
		m.answered.Add(1)
		time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond)
	}
}

func row(x int32) string { return strings.Repeat(strconv.Itoa(int(x))+",", 15) + strconv.Itoa(int(x)) }

func bytesOf(x int32) []byte { return tensor.Raw(slices.Repeat([]int32{x}, 16)) }

// sum finds the first number in a JSON answer.
func sum(status int, body string, path ...string) (int32, error) {
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("got %d %.300s", status, body)
	}
	for _, step := range path {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			v = at[0]
		}
	}
	for {
		all, ok := v.([]any)
		if !ok || len(all) == 0 {
			break
		}
		v = all[0]
	}
	f, ok := v.(float64)
	if !ok {
		return 0, fmt.Errorf("got %.300s", body)
	}
	return int32(f), nil
}

func v2(x [2]int32) string {
	return fmt.Sprintf(`{"inputs":[{"name":"INPUT0","shape":[1,16],"datatype":"INT32","data":[%s]},{"name":"INPUT1","shape":[1,16],"datatype":"INT32","data":[%s]}],"outputs":[{"name":"OUTPUT0"}]}`, row(x[0]), row(x[1]))
}

func (m *mixed) v2(ctx context.Context, model int, x [2]int32) (int32, error) {
	status, body, err := m.send(ctx, http.MethodPost, "/v2/models/"+kinds[model].name+"/infer", v2(x))
	if err != nil {
		return 0, err
	}
	return sum(status, body, "outputs", "", "data")
}

func (m *mixed) binary(ctx context.Context, model int, x [2]int32) (int32, error) {
	const head = `{"inputs":[{"name":"INPUT1","shape":[1,16],"datatype":"INT32","parameters":{"binary_data_size":64}},{"name":"INPUT0","shape":[1,16],"datatype":"INT32","parameters":{"binary_data_size":64}}],"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}}]}`
	status, body, err := m.send(ctx, http.MethodPost, "/v2/models/"+kinds[model].name+"/infer", head+string(bytesOf(x[1]))+string(bytesOf(x[0])), fmt.Sprintf("%s: %d", oip.HeaderLength, len(head)))
	if err != nil || status != http.StatusOK || len(body) < 64 {
		return 0, fmt.Errorf("got %d %.300s %w", status, body, err)
	}
	return int32(binary.LittleEndian.Uint32([]byte(body[len(body)-64:]))), nil
}

func (m *mixed) v1(ctx context.Context, model int, x [2]int32) (int32, error) {
	status, body, err := m.send(ctx, http.MethodPost, "/v1/models/"+kinds[model].name+":predict", fmt.Sprintf(`{"instances":[{"INPUT0":[%s],"INPUT1":[%s]}]}`, row(x[0]), row(x[1])))
	if err != nil {
		return 0, err
	}
	return sum(status, body, "predictions", "", "OUTPUT0")
}

func (m *mixed) event(ctx context.Context, model int, x [2]int32) (int32, error) {
	status, body, err := m.send(ctx, http.MethodPost, "/v2/models/"+kinds[model].name+"/infer", v2(x),
		"Content-Type: application/json", "Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Source: /soak", "Ce-Type: ask")
	if err != nil {
		return 0, err
	}
	return sum(status, body, "outputs", "", "data")
}

func (m *mixed) grpc(ctx context.Context, model int, x [2]int32) (int32, error) {
	return predicttest.Sum(ctx, m.rpc, kinds[model].name, x[0], x[1])
}

// disturb changes the models while they are asked.
func (m *mixed) disturb(ctx context.Context) {
	for ctx.Err() == nil {
		i := rand.IntN(len(kinds))
		name := kinds[i].name
		var status int
		var said string
		var err error
		switch rand.IntN(8) {
		case 0:
			m.push(i)
			continue
		case 1, 2:
			status, said, err = m.send(context.Background(), http.MethodPost, "/v2/repository/models/"+name+"/load", "")
		case 3, 4:
			status, said, err = m.send(context.Background(), http.MethodPost, "/v2/repository/models/"+name+"/unload", "")
		case 5:
			status, said, err = m.send(context.Background(), http.MethodPut, "/admin/v1/models/"+name+"/aliases/champion", `{"version":1}`, "Content-Type: application/json")
		default:
			status, said, err = m.send(context.Background(), http.MethodGet, "/v2/models/"+name+"/stats", "")
		}
		if err != nil || status != http.StatusOK {
			m.t.Errorf("%s: got %d %s %v", name, status, said, err)
			return
		}
		m.changes.Add(1)
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
	}
}

// misbehave leaves before the answer, and sends what is no request.
func (m *mixed) misbehave(ctx context.Context) {
	for ctx.Err() == nil {
		model := rand.IntN(len(kinds))
		limited, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
		ask := m.v2
		if rand.IntN(2) == 0 {
			ask = m.grpc
		}
		if _, err := ask(limited, model, [2]int32{rand.Int32N(1000), 1}); err != nil {
			m.vanished.Add(1)
		}
		cancel()
		bad := v2([2]int32{1, 2})
		bad = bad[:rand.IntN(len(bad))]
		status, said, err := m.send(context.Background(), http.MethodPost, "/v2/models/"+kinds[model].name+"/infer", bad)
		if err != nil || status != http.StatusBadRequest {
			m.t.Errorf("%q: got %d %s %v", bad, status, said, err)
			return
		}
		m.refused.Add(1)
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
	}
}

func (m *mixed) redis() *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), "redis-server", "--port", m.port, "--bind", "127.0.0.1", "--appendonly", "no", "--dir", m.t.TempDir(), "--save", "", "--maxmemory", "32mb", "--maxmemory-policy", "allkeys-lru")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		m.t.Error(err)
	}
	return cmd
}

// outages has Redis hang, die and come back.
func (m *mixed) outages(ctx context.Context, redis *exec.Cmd) {
	end := func() {
		_ = redis.Process.Kill()
		_ = redis.Wait() // "killed" is what it should say
	}
	pause := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	for n := 0; pause(2 * time.Second); n++ {
		if n%2 == 0 {
			err := redis.Process.Signal(syscall.SIGSTOP)
			pause(time.Second)
			if err = errors.Join(err, redis.Process.Signal(syscall.SIGCONT)); err != nil {
				m.t.Error(err)
			}
			continue
		}
		end()
		pause(time.Second)
		redis = m.redis()
	}
	end()
}

// sample looks at the process until ctx ends.
func (m *mixed) sample(ctx context.Context) []sample {
	stop := watch(m.t, m.p.cmd.Process.Pid)
	<-ctx.Done()
	return stop()
}

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// withComponents deploys components on top of what is there, until the test ends.
func withComponents(t *testing.T, names string) {
	t.Helper()
	t.Cleanup(func() {
		kubectl(t, nil, "delete", "--ignore-not-found", "trigger/flights-to-feedback", "ksvc/predict-flights", "rolebinding/pinned-traffic", "role/pinned-traffic")
		if out, err := target("deploy", "OVERLAY=dev", "COMPONENTS="); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	if out, err := target("deploy", "OVERLAY=dev", "COMPONENTS="+names); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// echoes asks the pinned flights, which is a model that says what it is told or the opposite, without a pause.
type echoes struct {
	s      *service
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	said     map[string]int // answers by version, since the last count began
	answers  int
	lost     []string
	outcomes []string // of what was asked since the last look
	keep     bool
}

func askEchoes(t *testing.T, s *service, clients int) *echoes {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	e := &echoes{s: s, cancel: cancel, said: map[string]int{}}
	for range clients {
		c := client(t, false)
		e.wg.Go(func() {
			for ctx.Err() == nil {
				e.one(context.WithoutCancel(ctx), c)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	t.Cleanup(e.stop)
	return e
}

func (e *echoes) one(ctx context.Context, c *http.Client) {
	id, x := fmt.Sprintf("order-%d", rand.Int64()), 1+rand.IntN(7)
	begin := time.Now()
	status, b, err := e.s.call(ctx, c, http.MethodPost, "/v2/models/flights/infer", fmt.Appendf(nil, `{"id":%q,"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[%d]}]}`, id, x))
	var got struct {
		Version string `json:"model_version"`
		Outputs []struct{ Data []float64 }
	}
	if err == nil && status == http.StatusOK {
		err = json.Unmarshal(b, &got)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil || status != http.StatusOK || len(got.Outputs) != 1 || len(got.Outputs[0].Data) != 1 || got.Outputs[0].Data[0] != float64(x) && got.Outputs[0].Data[0] != -float64(x) {
		e.lost = append(e.lost, fmt.Sprintf("%s, after %s: %d %.300s %v", begin.Format("15:04:05.000"), time.Since(begin).Round(time.Millisecond), status, b, err))
		return
	}
	e.said[got.Version]++
	e.answers++
	if e.keep {
		e.outcomes = append(e.outcomes, fmt.Sprintf(`{"prediction":%q,"value":%d}`, id, x))
	}
}

func (e *echoes) stop() {
	e.cancel()
	e.wg.Wait()
}

// share is what a version has of the next n answers.
func (e *echoes) share(t *testing.T, version string, n int) float64 {
	t.Helper()
	e.mu.Lock()
	e.said = map[string]int{}
	e.mu.Unlock()
	all := 0
	within(t, time.Minute, "answers", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		all = 0
		for _, n := range e.said {
			all += n
		}
		return all >= n || len(e.lost) > 0
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.lost) > 0 {
		t.Fatalf("%d requests were lost: %s", len(e.lost), e.lost[0])
	}
	return float64(e.said[version]) / float64(all)
}

// settles waits until a version has its share of the answers, and tells it by many.
func (e *echoes) settles(t *testing.T, version string, want float64) {
	t.Helper()
	took := within(t, time.Minute, fmt.Sprintf("version %s has %g of the traffic", version, want), func() bool {
		got := e.share(t, version, 50)
		return got > want-.15 && got < want+.15 && (want > 0 || got == 0) && (want < 1 || got == 1)
	})
	got := e.share(t, version, 400)
	t.Logf("version %s: %.1f %% of 400 answers, %.0f %% meant, after %.1f s", version, 100*got, 100*want, took.Seconds())
	if got < want-.08 || got > want+.08 { // 0.08 is more than three standard deviations
		t.Errorf("version %s has %g of the traffic, want %g", version, got, want)
	}
}

// TestPinnedTraffic brings versions of a pinned model out by splits of its service's traffic, by the manifests' own rights: a good one gets
// 20 %, 50 % and everything, and is undone by one command; a bad one is taken back. No request fails meanwhile.
func TestPinnedTraffic(t *testing.T) {
	withComponents(t, "pinned")
	// predict-flights is for callers inside of the cluster: here it is opened. Its pods ask for less, so that three revisions have room for one each.
	pinned := update(t, "predict-flights", func(s *servingv1.Service) {
		delete(s.Labels, "networking.knative.dev/visibility")
		s.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	})
	p, feedback := predict(t), update(t, "feedback", func(s *servingv1.Service) { annotate(s, "min-scale", "1", "max-scale", "1") }) // so that its log stays
	t.Cleanup(func() {
		if log, err := tryKubectl(t, nil, "logs", "-l", "serving.knative.dev/service=feedback", "-c", "feedback", "--tail=-1"); t.Failed() && err == nil {
			t.Logf("feedback says:\n%s", log)
		}
	})
	admin := client(t, false)
	in, out := []onnxwire.Value{onnxwire.Tensor("INPUT0", tensor.FP64, -1)}, []onnxwire.Value{onnxwire.Tensor("OUTPUT0", tensor.FP64, -1)}
	first := 0
	for i, op := range []string{"Identity", "Identity", "Neg"} {
		var m struct{ Version int }
		if err := json.Unmarshal(p.must(t, admin, http.MethodPost, "/admin/v1/models/flights/versions", onnxtest.Apply(op, in, out).Bytes()), &m); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = m.Version
		}
	}
	old, good, bad := fmt.Sprint(first), fmt.Sprint(first+1), fmt.Sprint(first+2)
	t.Cleanup(func() {
		status, b, err := p.call(context.WithoutCancel(t.Context()), admin, http.MethodPut, "/admin/v1/models/flights/aliases/champion", []byte(`{"version":1}`))
		if err != nil || status != http.StatusOK {
			t.Errorf("bring flights back: %d %s %v", status, b, err)
		}
	})
	p.must(t, admin, http.MethodPut, "/admin/v1/models/flights/aliases/champion", fmt.Appendf(nil, `{"version":%s}`, old))
	within(t, time.Minute, "the pinned pods answer with the champion", func() bool {
		status, b, err := pinned.call(t.Context(), admin, http.MethodPost, "/v2/models/flights/infer", []byte(`{"inputs":[{"name":"INPUT0","datatype":"FP64","shape":[1],"data":[1]}]}`))
		return err == nil && status == 200 && strings.Contains(string(b), `"model_version":"`+old+`"`)
	})
	canI(t)

	direct := waitReady(t, "feedback", time.Minute) // the gateway takes no events
	tick := func() *rollout.Rollout {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+direct.host+"/events", strings.NewReader(`{"job":"evaluate-alerts"}`))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{"Id": time.Now().String(), "Source": "/e2e", "Type": "dev.knative.sources.ping", "Specversion": "1.0", "Tick": "alerts"} {
			r.Header.Set("Ce-"+k, v)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := admin.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Fatalf("tick: got %d", resp.StatusCode)
		}
		var got rollout.Rollout
		if err := json.Unmarshal(feedback.must(t, admin, http.MethodGet, "/admin/v1/rollouts/flights/champion", nil), &got); err != nil {
			t.Fatal(err)
		}
		return &got
	}
	until := func(what string, ok func(r *rollout.Rollout) bool) {
		t.Helper()
		var r *rollout.Rollout
		within(t, 2*time.Minute, what, func() bool {
			r = tick()
			if !ok(r) {
				time.Sleep(2 * time.Second)
				return false
			}
			return true
		})
		if r.Latest != nil {
			t.Logf("%s: %s", what, r.Latest.Why)
		}
	}
	atRest := func() {
		t.Helper()
		within(t, 2*time.Minute, "the service is at rest", func() bool {
			tr := get[servingv1.Service](t, "ksvc", "predict-flights").Spec.Traffic
			return len(tr) == 1 && tr[0].LatestRevision != nil && *tr[0].LatestRevision
		})
	}

	load := askEchoes(t, pinned, 4)
	begin := time.Now()
	feedback.must(t, admin, http.MethodPut, "/admin/v1/rollouts/flights/champion", fmt.Appendf(nil, `{"version":%s,"shares":[0.2,0.5],"hold":"25s","least":20,"guards":[{"metric":"error_rate","worse":0.05}]}`, good))
	load.settles(t, good, .2)
	t.Logf("from the start of the rollout to the measured share: %.1f s", time.Since(begin).Seconds())
	until("half of the traffic", func(r *rollout.Rollout) bool { return len(r.Steps) > 0 })
	load.settles(t, good, .5)
	until("promoted", func(r *rollout.Rollout) bool { return r.End == rollout.Promoted })
	load.settles(t, good, 1)
	atRest()
	load.settles(t, good, 1)
	begin = time.Now()
	p.must(t, admin, http.MethodPost, "/admin/v1/models/flights/aliases/champion/rollback", []byte(`{}`))
	load.settles(t, old, 1)
	t.Logf("undone after %.1f s", time.Since(begin).Seconds())
	atRest()

	load.mu.Lock()
	load.keep = true
	load.mu.Unlock()
	feedback.must(t, admin, http.MethodPut, "/admin/v1/rollouts/flights/champion", fmt.Appendf(nil, `{"version":%s,"shares":[0.2,0.5],"hold":"1h","patience":"2h","guards":[{"metric":"mae","worse":0.05}]}`, bad))
	load.settles(t, bad, .2)
	until("taken back", func(r *rollout.Rollout) bool {
		load.mu.Lock()
		outcomes := load.outcomes
		load.outcomes = nil
		load.mu.Unlock()
		if len(outcomes) > 0 {
			feedback.must(t, admin, http.MethodPost, "/feedback", []byte("["+strings.Join(outcomes[max(0, len(outcomes)-2000):], ",")+"]"))
		}
		return r.End == rollout.TakenBack
	})
	load.settles(t, bad, 0)
	atRest()
	load.stop()
	if len(load.lost) > 0 {
		t.Errorf("%d requests were lost: %s", len(load.lost), load.lost[0])
	}
	moves := strings.Count(string(kubectl(t, nil, "logs", "-l", "serving.knative.dev/service=feedback", "-c", "feedback", "--tail=-1")), "changed a service")
	t.Logf("%d right answers, while the service was changed %d times", load.answers, moves)
}

// canI asks the cluster what service accounts may.
func canI(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		account, verb, what string
		want                bool
	}{
		{"feedback", "get", "services.serving.knative.dev/predict-flights", true},
		{"feedback", "update", "services.serving.knative.dev/predict-flights", true},
		{"feedback", "patch", "services.serving.knative.dev/predict-flights", false},
		{"feedback", "delete", "services.serving.knative.dev/predict-flights", false},
		{"feedback", "update", "services.serving.knative.dev/predict", false},
		{"feedback", "get", "services.serving.knative.dev/predict", false},
		{"feedback", "list", "services.serving.knative.dev", false},
		{"feedback", "create", "services.serving.knative.dev", false},
		{"feedback", "update", "services.serving.knative.dev/predict-flights/status", false},
		{"feedback", "get", "secrets", false},
		{"feedback", "get", "pods", false},
		{"feedback", "create", "pods", false},
		{"predict", "get", "services.serving.knative.dev/predict-flights", false},
		{"features", "update", "services.serving.knative.dev/predict-flights", false},
		{"gateway", "update", "services.serving.knative.dev/predict-flights", false},
		{"deadletter", "update", "services.serving.knative.dev/predict-flights", false},
	} {
		out, _ := exec.CommandContext(t.Context(), "kubectl", "-n", namespace, "auth", "can-i", c.verb, c.what, "--as=system:serviceaccount:"+namespace+":"+c.account).Output()
		if got := strings.TrimSpace(string(out)); (got == "yes") != c.want || got != "yes" && got != "no" {
			t.Errorf("may %s %s %s: %q, want %t", c.account, c.verb, c.what, got, c.want)
		}
	}
}

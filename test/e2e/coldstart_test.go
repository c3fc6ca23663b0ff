//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

// stages of a start from zero, in the order in which they end.
var stages = []string{"pod", "scheduled", "process", "listening", "reached", "answered", "returned"}

var explained = map[string]string{
	"pod":       "activator, autoscaler and controllers: request sent to pod made",
	"scheduled": "scheduler",
	"process":   "kubelet: volumes, network, containers, to the function's first lines",
	"listening": "OURS: first lines to listening",
	"reached":   "queue-proxy's start and probe, endpoints, activator's probe: to the request's arrival",
	"answered":  "OURS: model fetched, session, first run, answer",
	"returned":  "the answer on its way back",
}

// TestColdStart takes the time from a request at zero to its answer apart, from what the API server shows of the pod,
// and what the function logs and measures. It takes for granted that this machine's clock and the node's agree, but
// for the stages that are ours, which it holds.
func TestColdStart(t *testing.T) {
	took := predict(t).coldStarts(t, 3)
	// The least: others at work on the machine can only add, as queue-proxy, kubelet and the container runtime do here.
	// From exec to ready 50 ms are meant, of which 10 are for what comes before the first lines.
	for stage, limit := range map[string]time.Duration{"listening": 40 * time.Millisecond, "answered": 150 * time.Millisecond} {
		if least := slices.Min(took[stage]); least > limit {
			t.Errorf("%s takes %s, %s at most are meant", stage, least, limit)
		}
	}
}

// TestWhatShortensColdStarts measures variants of predict, E2E_COLD_STARTS times each. docs/cold-start.md has results.
func TestWhatShortensColdStarts(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("E2E_COLD_STARTS"))
	if err != nil {
		t.Skip("E2E_COLD_STARTS says how many starts to measure of each variant: half a minute each")
	}
	container := func(s *servingv1.Service) *corev1.Container { return &s.Spec.Template.Spec.Containers[0] }
	for _, variant := range []struct {
		name   string
		change func(*servingv1.Service)
	}{
		{"as it is", nil},
		{"kubelet probes each second", func(s *servingv1.Service) { container(s).ReadinessProbe.PeriodSeconds = 1 }},
		{"TCP probe", func(s *servingv1.Service) { container(s).ReadinessProbe = nil }},
		{"no hugetlb tunable", func(s *servingv1.Service) { setenv(s, "GLIBC_TUNABLES", "") }},
		{"variables as values", func(s *servingv1.Service) {
			c := container(s)
			for k, v := range get[corev1.ConfigMap](t, "configmap", c.EnvFrom[0].ConfigMapRef.Name).Data {
				setenv(s, k, v)
			}
			for k, v := range get[corev1.Secret](t, "secret", "pilotlight-s3").Data {
				setenv(s, k, string(v))
			}
			c.EnvFrom = nil
		}},
		{"pinned model", func(s *servingv1.Service) { setenv(s, "MODEL_PINNED", "flights") }},
		{"initial-scale 2", func(s *servingv1.Service) { s.Spec.Template.Annotations["autoscaling.knative.dev/initial-scale"] = "2" }},
		{"activation-scale 2", func(s *servingv1.Service) {
			s.Spec.Template.Annotations["autoscaling.knative.dev/activation-scale"] = "2"
		}},
		{"a CPU for queue-proxy", func(s *servingv1.Service) {
			s.Spec.Template.Annotations["queue.sidecar.serving.knative.dev/cpu-resource-request"] = "500m"
			container(s).Resources.Requests[corev1.ResourceCPU] = resource.MustParse("500m")
		}},
	} {
		t.Run(variant.name, func(t *testing.T) {
			copyOf(t, "cold", variant.change).coldStarts(t, n)
			kubectl(t, nil, "delete", "ksvc", "cold", "--wait=true")
		})
	}
}

// coldStarts has the service start from zero n times, prints how long the stages took, and gives them in order.
func (s *service) coldStarts(t *testing.T, n int) map[string][]time.Duration {
	t.Helper()
	took := map[string][]time.Duration{}
	for range n {
		s.toZero(t)
		for stage, d := range s.coldStart(t) {
			took[stage] = append(took[stage], d)
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, stage := range append(slices.Clone(stages), "whole", "fetch", "session", "warmup") {
		d := took[stage]
		slices.Sort(d)
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t ms  %s\n", stage, d[0].Milliseconds(), d[len(d)/2].Milliseconds(), d[len(d)-1].Milliseconds(), explained[stage])
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d starts from zero: least, median, most\n%s", n, table.String())
	return took
}

// coldStart sends the first request and says how long each stage took.
func (s *service) coldStart(t *testing.T) map[string]time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	seen := s.watch(ctx, t)
	defer func() { cancel(); seen.wait() }()
	old := seen.names()

	c := client(t, false)
	begin := time.Now()
	if err := s.ask(t.Context(), c, 1); err != nil {
		t.Fatal(err)
	}
	at := map[string]time.Time{"returned": time.Now()}
	time.Sleep(500 * time.Millisecond) // for what is shown late
	pod, ok := seen.first(old)
	if !ok {
		t.Fatal("no new pod was seen")
	}
	at["pod"], at["scheduled"] = pod.made, pod.scheduled

	m := metrics(t, pod.name)
	for line := range strings.Lines(string(kubectl(t, nil, "logs", pod.name, "-c", "predict"))) {
		var l struct {
			Time     time.Time
			Msg      string
			Status   int
			Route    string
			Duration int64 `json:"duration_us"`
			Running  int64 `json:"running_us"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case l.Msg == "listening":
			at["listening"] = l.Time
			at["process"] = l.Time.Add(-time.Duration(l.Running) * time.Microsecond)
		case l.Msg == "request" && strings.HasSuffix(l.Route, "/infer") && at["answered"].IsZero():
			at["answered"] = l.Time
			at["reached"] = l.Time.Add(-time.Duration(l.Duration) * time.Microsecond)
		}
	}
	took := map[string]time.Duration{"whole": at["returned"].Sub(begin)}
	last := begin
	for _, stage := range stages {
		if at[stage].IsZero() {
			t.Fatalf("nothing tells when stage %q ended", stage)
		}
		took[stage] = at[stage].Sub(last)
		last = at[stage]
	}
	for _, part := range []string{"fetch", "session", "warmup"} {
		took[part] = time.Duration(m[`pilotlight_cold_start_duration_seconds_sum{stage="`+part+`"}`] * float64(time.Second))
	}
	return took
}

// watched is what a watch at the API server showed of pods, and when.
type watched struct {
	done sync.WaitGroup
	mu   sync.Mutex
	pods []watchedPod
}

type watchedPod struct {
	name            string
	made, scheduled time.Time
}

func (s *service) watch(ctx context.Context, t *testing.T) *watched {
	t.Helper()
	path := "/api/v1/namespaces/" + namespace + "/pods?watch=1&labelSelector=serving.knative.dev/service=" + s.name
	c := exec.CommandContext(ctx, "kubectl", "get", "--raw", path)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := new(watched)
	w.done.Go(func() {
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				_ = c.Wait() // the test ended it
				return
			}
			var e struct{ Object corev1.Pod }
			if json.Unmarshal(line, &e) == nil {
				w.note(&e.Object)
			}
		}
	})
	time.Sleep(time.Second) // until it watches
	return w
}

func (w *watched) wait() { w.done.Wait() }

func (w *watched) note(p *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.pods, func(o watchedPod) bool { return o.name == p.Name })
	if i < 0 {
		i = len(w.pods)
		w.pods = append(w.pods, watchedPod{name: p.Name, made: time.Now()})
	}
	scheduled := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue
	})
	if scheduled && w.pods[i].scheduled.IsZero() {
		w.pods[i].scheduled = time.Now()
	}
}

func (w *watched) names() (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		names = append(names, p.name)
	}
	return names
}

// first gives the first pod that is not an old one.
func (w *watched) first(old []string) (watchedPod, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		if !slices.Contains(old, p.name) {
			return p, true
		}
	}
	return watchedPod{}, false
}

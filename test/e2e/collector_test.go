//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

// TestCollector deploys what overlays/collector adds, and has a function that comes from zero and goes back answer a request: its line in the log, its
// trace and its metrics are at the collector when its pod is gone, and a secret in a line is not.
func TestCollector(t *testing.T) {
	deployCollector(t)
	s := copyOf(t, "told", func(s *servingv1.Service) {
		setenv(s, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
		setenv(s, "OTEL_TRACES_SAMPLER", "always_on")
	})
	s.toZero(t)
	c := client(t, false)
	const traceID, careless = "4bf92f3577b34da6a3ce929d0e0e4736", "pl_abcdefghijkl_ABCDEFGHIJKLMNOPQRSTUVWXYZ" //nolint:gosec // of nobody
	ask := func(id string) {
		t.Helper()
		r, err := s.request(t.Context(), http.MethodPost, "/v2/models/flights/infer", bytes.NewReader(flights(1)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
		r.Header.Set("X-Request-Id", id)
		w, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Body.Close()
		if w.StatusCode != http.StatusOK {
			t.Fatalf("got %d, want an answer", w.StatusCode)
		}
	}
	ask("the-first")
	pods := s.pods(t)
	if len(pods) != 1 {
		t.Fatalf("%d pods answered", len(pods))
	}
	ask(careless)
	s.toZero(t)
	kubectl(t, nil, "wait", "--for=delete", "pod/"+pods[0].Name, "--timeout=2m")

	collector := collectorPod(t)
	told := func() string { return string(kubectl(t, nil, "logs", collector, "--tail=-1")) }
	const told1, told2 = "-> model: Str(flights)", "-> request_id: Str("
	took := within(t, time.Minute, "both requests' lines arrive", func() bool {
		output := told()
		return section(output, told1, told2+"the-first)") != "" && section(output, told1, told2+"****)") != ""
	})
	t.Logf("both lines were there %.1f s after the pod was gone", took.Seconds())
	output := told()
	line := section(output, told1, told2+"the-first)")
	for _, want := range []string{"Body: Str(request)", "SeverityNumber: Info(9)", "Trace ID: " + traceID, "-> version: Str(", "-> route: Str(/v2/models/{model}/infer)"} {
		if !strings.Contains(line, want) {
			t.Errorf("want %q in the record\n%s", want, line)
		}
	}
	of := output[:strings.Index(output, line)] // the last heading before it says where it comes from
	of = of[strings.LastIndex(of, "Resource attributes:"):]
	for _, want := range []string{"-> service.name: Str(told)", "-> k8s.pod.name: Str(" + pods[0].Name + ")", "-> k8s.namespace.name: Str(" + namespace + ")"} {
		if !strings.Contains(of, want) {
			t.Errorf("want %q of where the record comes from, got\n%.1000s", want, of)
		}
	}
	if strings.Contains(output, careless[16:]) {
		t.Error("the key that a caller gave as its request's id is not masked")
	}
	if span := section(output, ": POST /v2/models/{model}/infer", traceID); !regexp.MustCompile(`Trace ID +: ` + traceID).MatchString(span) {
		t.Errorf("want a span of the request; got %q", span)
	}
	counted := 0.0
	for series, v := range parseMetrics(t, kubectl(t, nil, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+collector+":8889/proxy/metrics")) {
		if strings.HasPrefix(series, "http_server_request_duration_seconds_count{") && strings.Contains(series, `job="told"`) &&
			strings.Contains(series, `instance="`+pods[0].Name+`"`) && strings.Contains(series, `http_route="/v2/models/{model}/infer"`) {
			counted += v
		}
	}
	if counted != 2 {
		t.Errorf("the collector counts %v requests of the pod that is gone, want 2", counted)
	}
}

// record splits the collector's output into records and spans.
var record = regexp.MustCompile(`(?m)^(LogRecord|Span|ResourceLog|ResourceSpans|Metric|ResourceMetrics) #`)

// section gives the record or span of the collector's output that has both texts; empty: there is none.
func section(output, one, another string) string {
	begin := 0
	for _, at := range append(record.FindAllStringIndex(output, -1), []int{len(output)}) {
		if s := output[begin:at[0]]; strings.Contains(s, one) && strings.Contains(s, another) {
			return s
		}
		begin = at[0]
	}
	return ""
}

func collectorPod(t *testing.T) string {
	t.Helper()
	l := get[corev1.PodList](t, "pods", "-l", "app=collector")
	l.Items = slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !isReady(&p) })
	if len(l.Items) != 1 {
		t.Fatalf("there are %d collectors, want one", len(l.Items))
	}
	return l.Items[0].Name
}

// deployCollector applies what `make deploy COMPONENTS=collector` adds, and has the collector print all that it gets.
func deployCollector(t *testing.T) {
	t.Helper()
	image := os.Getenv("COLLECTOR_IMAGE")
	if image == "" {
		c := exec.CommandContext(t.Context(), "make", "-C", root, "--no-print-directory", "collector-image")
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("make collector-image: %v\n%s", err, stderr.String())
		}
		image = strings.TrimSpace(string(out))
	}
	c := exec.CommandContext(t.Context(), root+"/knative/deploy.sh", "render")
	c.Env = append(os.Environ(), "OVERLAY=dev", "COMPONENTS=collector", "NAMESPACE="+namespace, "COLLECTOR_IMAGE="+image, "POD_LOGS="+podLogs(t))
	all, err := c.Output()
	if err != nil {
		t.Fatalf("render: %v", err)
	}
	const label = "app.kubernetes.io/component=collector"
	t.Cleanup(func() {
		for _, kind := range []string{"daemonset", "deployment", "service", "configmap", "networkpolicy", "serviceaccount"} {
			if _, err := tryKubectl(t, nil, "delete", kind, "-l", label, "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	var mine []string
	for doc := range strings.SplitSeq(string(all), "\n---\n") {
		if strings.Contains(doc, "app.kubernetes.io/component: collector") {
			mine = append(mine, doc)
		}
	}
	kubectl(t, []byte(strings.Join(mine, "\n---\n")), "apply", "-f", "-")
	kubectl(t, nil, "set", "env", "deployment/collector", "DEBUG_VERBOSITY=detailed")
	kubectl(t, nil, "rollout", "status", "deployment/collector", "daemonset/collector-logs", "--timeout=2m")
}

// podLogs asks the first node where it keeps the logs of its pods.
func podLogs(t *testing.T) string {
	t.Helper()
	node := strings.Fields(string(kubectl(t, nil, "get", "nodes", "-o", "name")))[0]
	var config struct {
		Kubelet struct {
			PodLogsDir string `json:"podLogsDir"`
		} `json:"kubeletconfig"`
	}
	if err := json.Unmarshal(kubectl(t, nil, "get", "--raw", fmt.Sprintf("/api/v1/nodes/%s/proxy/configz", strings.TrimPrefix(node, "node/"))), &config); err != nil {
		t.Fatal(err)
	}
	return cmp.Or(config.Kubelet.PodLogsDir, "/var/log/pods")
}

//go:build e2e

// Package e2e deploys Pilotlight from nothing onto the cluster that KUBECONFIG names, into a namespace of its own, and
// tries there what only a cluster can show. `make e2e` runs it; what it needs is what `make deploy` needs.
//
// Claims about requests are made by clients at the ingress that check every answer. They show a key and are let in by the gateway,
// as everybody's requests are.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

const (
	root   = "../.."
	prefix = "pilotlight-e2e-" // of the namespaces of runs
)

// namespace is a new one for each run, unless E2E_NAMESPACE names one that is kept.
var (
	namespace = prefix + strings.ToLower(rand.Text()[:6])
	deployed  []byte // what make deploy printed
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	keep := false
	if n := os.Getenv("E2E_NAMESPACE"); n != "" {
		namespace, keep = n, true
	}
	if out, err := exec.CommandContext(context.Background(), "kubectl", "get", "namespaces", "-o", "name").Output(); err == nil {
		for n := range strings.FieldsSeq(string(out)) {
			if n = strings.TrimPrefix(n, "namespace/"); n != namespace && strings.HasPrefix(n, prefix) {
				fmt.Printf("namespace %s of another run holds a part of the processors: delete it, unless that run goes on\n", n)
			}
		}
	}
	begin := time.Now()
	out, err := target("deploy", "OVERLAY=dev", "COMPONENTS=")
	if !keep {
		defer func() {
			if out, err := target("undeploy", "OVERLAY=dev", "COMPONENTS="); err != nil {
				fmt.Fprintf(os.Stderr, "undeploy: %v\n%s", err, out)
			}
		}()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "make deploy: %v\n%s", err, out)
		return 1
	}
	fmt.Printf("deployed into namespace %s in %.0f s\n", namespace, time.Since(begin).Seconds())
	deployed = out
	return m.Run()
}

// target runs a target of make.
func target(name string, variables ...string) ([]byte, error) {
	c := exec.CommandContext(context.Background(), "make", append([]string{"-C", root, "--no-print-directory", name, "NAMESPACE=" + namespace}, variables...)...)
	return c.CombinedOutput()
}

// kubectl runs kubectl in the namespace; the test fails where kubectl does.
func kubectl(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	out, err := tryKubectl(t, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryKubectl(t *testing.T, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute) // also for cleanups
	defer cancel()
	c := exec.CommandContext(ctx, "kubectl", append([]string{"-n", namespace}, args...)...)
	c.Stdin = bytes.NewReader(stdin)
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// get reads an object of the cluster.
func get[T any](t *testing.T, args ...string) *T {
	t.Helper()
	o := new(T)
	if err := json.Unmarshal(kubectl(t, nil, append([]string{"get", "-o", "json"}, args...)...), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// within polls until ok, and fails the test when that takes longer than the limit.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return time.Since(begin)
}

// tellWhatTheySay tells, of a test that failed, how the pods of services stand and what they have said last.
func tellWhatTheySay(t *testing.T, services ...string) {
	if !t.Failed() {
		return
	}
	commands := [][]string{{"get", "pods,revisions.serving.knative.dev", "-o", "wide"}}
	for _, s := range services {
		commands = append(commands, []string{"logs", "-l", "serving.knative.dev/service=" + s, "-c", s, "--prefix", "--tail=40"})
	}
	for _, args := range commands {
		out, err := tryKubectl(t, nil, args...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// service is a Knative service.
type service struct {
	name string
	host string // where it is asked: by its own name or, with a key, by the gateway's
	key  string
}

// copyOf applies predict under another name with changes, and waits until it is ready. It goes when the test ends.
func copyOf(t *testing.T, name string, change func(*servingv1.Service)) *service {
	t.Helper()
	t.Cleanup(func() {
		if _, err := tryKubectl(t, nil, "delete", "ksvc", name, "--ignore-not-found", "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	applyCopy(t, name, change)
	return waitReady(t, name, time.Minute).behind(t)
}

func applyCopy(t *testing.T, name string, change func(*servingv1.Service)) {
	t.Helper()
	s := get[servingv1.Service](t, "ksvc", "predict")
	s.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: s.Labels}
	s.Status = servingv1.ServiceStatus{}
	s.Spec.Traffic = nil
	if change != nil {
		change(s)
	}
	apply(t, s)
}

func apply(t *testing.T, o any) {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, b, "apply", "-f", "-")
}

// update changes a service and waits until the change is ready.
func update(t *testing.T, name string, change func(*servingv1.Service)) *service {
	t.Helper()
	submit(t, name, change)
	return waitReady(t, name, time.Minute).behind(t)
}

// submit changes a service.
func submit(t *testing.T, name string, change func(*servingv1.Service)) {
	t.Helper()
	s := get[servingv1.Service](t, "ksvc", name)
	s.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: s.Labels}
	s.Status = servingv1.ServiceStatus{}
	change(s)
	apply(t, s)
}

func waitReady(t *testing.T, name string, limit time.Duration) *service {
	t.Helper()
	var s *servingv1.Service
	begin := time.Now()
	for {
		s = get[servingv1.Service](t, "ksvc", name)
		ready := s.Status.GetCondition(servingv1.ServiceConditionReady)
		if s.Generation == s.Status.ObservedGeneration && ready.IsTrue() {
			return &service{name: name, host: s.Status.URL.Host}
		}
		if time.Since(begin) > limit {
			t.Fatalf("service %s is not ready within %s: %+v\n%s", name, limit, ready, kubectl(t, nil, "get", "pods", "-o", "wide"))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// annotate sets annotations of the template.
func annotate(s *servingv1.Service, pairs ...string) {
	a := s.Spec.Template.Annotations
	for i := 0; i < len(pairs); i += 2 {
		a["autoscaling.knative.dev/"+pairs[i]] = pairs[i+1]
	}
}

// setenv sets a variable of the container.
func setenv(s *servingv1.Service, name, value string) {
	c := &s.Spec.Template.Spec.Containers[0]
	c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name })
	c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
}

// pods lists the pods that are not on their way out.
func (s *service) pods(t *testing.T) []corev1.Pod {
	t.Helper()
	l := get[corev1.PodList](t, "pods", "-l", "serving.knative.dev/service="+s.name)
	return slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// ready lists those of them that get requests.
func (s *service) ready(t *testing.T) []corev1.Pod {
	t.Helper()
	return slices.DeleteFunc(s.pods(t), func(p corev1.Pod) bool { return !isReady(&p) })
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// toZero waits until the service has no pods, not even those that end, so that nothing of the last start is left.
func (s *service) toZero(t *testing.T) time.Duration {
	t.Helper()
	return within(t, 3*time.Minute, s.name+" scales to zero", func() bool { return len(s.pods(t)) == 0 })
}

// metrics reads the metrics of one pod, through the API server.
func metrics(t *testing.T, pod string) map[string]float64 {
	t.Helper()
	return parseMetrics(t, kubectl(t, nil, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+pod+":8080/proxy/metrics"))
}

func parseMetrics(t *testing.T, text []byte) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		name, value, ok := cutLast(sc.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = v
		}
	}
	return values
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// client is one at the ingress, with connections of its own.
func client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 64}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	if door := os.Getenv("KNATIVE_INGRESS_URL"); door != "" {
		u, err := url.Parse(door)
		if err != nil {
			t.Fatal(err)
		}
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, u.Host)
		}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 2 * time.Minute}
}

// request makes a request to a service.
func (s *service) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.host+path, body)
	if err == nil && s.key != "" {
		r.Header.Set("Authorization", "Bearer "+s.key)
	}
	return r, err
}

// call sends a request to a service.
func (s *service) call(ctx context.Context, c *http.Client, method, path string, body []byte) (int, []byte, error) {
	r, err := s.request(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// must is call where anything but 200 ends the test.
func (s *service) must(t *testing.T, c *http.Client, method, path string, body []byte) []byte {
	t.Helper()
	status, b, err := s.call(t.Context(), c, method, path, body)
	if err != nil || status/100 != 2 {
		t.Fatalf("%s %s of %s: %d %s %v", method, path, s.name, status, b, err)
	}
	return b
}

// ask has the flights model answer one request for rows flights, and checks each.
func (s *service) ask(ctx context.Context, c *http.Client, rows int) error {
	status, b, err := s.call(ctx, c, http.MethodPost, "/v2/models/flights/infer", flights(rows))
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal{status, string(b)}
	}
	return right(b, rows)
}

// refusal is an answer that is none.
type refusal struct {
	status int
	body   string
}

func (r refusal) Error() string { return fmt.Sprintf("%d %.300s", r.status, r.body) }

// example is the request of examples/flights; probability is the answer to it.
var example = func() []byte {
	b, err := os.ReadFile(filepath.Join(root, "examples/flights/complete.json"))
	if err != nil {
		panic(err)
	}
	return b
}()

const probability = 0.50797373

// flights is the example's request for rows flights, all the same.
func flights(rows int) []byte {
	if rows == 1 {
		return example
	}
	return repeated.ReplaceAllFunc(example, func(m []byte) []byte {
		value := repeated.FindSubmatch(m)
		all := bytes.Repeat(append(slices.Clone(value[2]), ','), rows)
		return fmt.Appendf(nil, `"shape": [%d, 1]%s"data": [%s]`, rows, value[1], all[:len(all)-1])
	})
}

var repeated = regexp.MustCompile(`"shape": \[1, 1\](.*?)"data": \[(.*?)\]`)

// right tells whether an answer is the one to flights.
func right(b []byte, rows int) error {
	var a struct {
		Outputs []struct {
			Name string
			Data []float64
		}
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return err
	}
	if len(a.Outputs) != 2 || len(a.Outputs[0].Data) != rows {
		return fmt.Errorf("wrong answer: %.200s", b)
	}
	for _, p := range a.Outputs[0].Data {
		if p < probability-1e-6 || p > probability+1e-6 {
			return fmt.Errorf("wrong answer: %v, want %v", p, probability)
		}
	}
	return nil
}

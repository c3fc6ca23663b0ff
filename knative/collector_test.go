package knative

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "go.opentelemetry.io/proto/otlp/logs/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry/telemetrytest"
)

// variable is one of a configuration of the collector, without a default.
var variable = regexp.MustCompile(`\$\{env:([A-Z_]+)\}`)

// TestCollectorManifests holds the manifests, what the collectors read, and the program of the tests together.
func TestCollectorManifests(t *testing.T) {
	m, err := parse(render(t, "dev", "collector"))
	if err != nil {
		t.Fatal(err)
	}
	modules, err := os.ReadFile("../test/collector/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, o := range m.objects {
		var spec *corev1.PodSpec
		switch o := o.(type) {
		case *appsv1.Deployment:
			spec = &o.Spec.Template.Spec
			if o.Name == "collector" && o.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
				t.Errorf("%s: while a new one comes two would tell the same counters", o.Name)
			}
		case *appsv1.DaemonSet:
			spec = &o.Spec.Template.Spec
		}
		if spec == nil || o.GetLabels()["app.kubernetes.io/component"] != "collector" {
			continue
		}
		seen++
		c := &spec.Containers[0]
		_, version, _ := strings.Cut(c.Image, ":")
		if !strings.Contains(string(modules), "/receiver/filelogreceiver v"+version+"\n") {
			t.Errorf("%s: the image is %s, and test/collector is another version", o.GetName(), c.Image)
		}
		config := m.configs[spec.Volumes[0].ConfigMap.Name]
		if config == nil {
			t.Fatalf("%s: there is no ConfigMap %s", o.GetName(), spec.Volumes[0].ConfigMap.Name)
		}
		text := config.Data[filepath.Base(strings.TrimPrefix(c.Args[0], "--config="))]
		if text == "" {
			t.Fatalf("%s: its configuration %s is not in its ConfigMap", o.GetName(), c.Args[0])
		}
		for _, v := range variable.FindAllStringSubmatch(text, -1) {
			if !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == v[1] }) {
				t.Errorf("%s: nothing sets %s", o.GetName(), v[1])
			}
		}
		for _, e := range c.Env {
			if !strings.Contains(text, "${env:"+e.Name) && e.Name != "GOMEMLIMIT" {
				t.Errorf("%s: its configuration has no %s", o.GetName(), e.Name)
			}
		}
		if sc := c.SecurityContext; !*sc.ReadOnlyRootFilesystem || *sc.AllowPrivilegeEscalation || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || *spec.AutomountServiceAccountToken {
			t.Errorf("%s: it may more than it needs", o.GetName())
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: it must ask for CPU and memory, and limit its memory", o.GetName())
		}
	}
	if seen != 2 {
		t.Errorf("got %d collectors, want that of the namespace and that of the nodes", seen)
	}
	for name, s := range m.services {
		if got := m.environ(s)["OTEL_EXPORTER_OTLP_ENDPOINT"]; got != "http://collector:4318" {
			t.Errorf("service %s sends to %q", name, got)
		}
		if got := m.environ(s)["OTEL_METRIC_EXPORT_INTERVAL"]; got != "15000" {
			t.Errorf("service %s tells its metrics each %q ms, and a rate within a minute needs two values", name, got)
		}
		if s.Spec.Template.Annotations["prometheus.io/scrape"] != "false" {
			t.Errorf("service %s: Prometheus would count what it tells twice", name)
		}
	}
}

// collected is a namespace's collector and that of a node, and where they send to.
type collected struct {
	*telemetrytest.Collector
	logs          string // the folder of the node's logs
	state         string
	otlp, metrics string // addresses
	gateway       *child
	node          *child
}

// child is a process that a test runs.
type child struct {
	cmd *exec.Cmd
	out *bytes.Buffer // to be read when it has ended
}

func startChild(t *testing.T, program string, args []string, environ ...string) *child {
	t.Helper()
	c := &child{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), program, args...), out: new(bytes.Buffer)}
	c.cmd.Env = append(os.Environ(), environ...)
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait() // "killed" is what it should say
		}
		if t.Failed() {
			t.Logf("%s %v:\n%s", program, args, c.out)
		}
	})
	return c
}

// stop ends the process as Kubernetes does.
func (c *child) stop(t *testing.T) {
	t.Helper()
	if err := errors.Join(c.cmd.Process.Signal(syscall.SIGTERM), c.cmd.Wait()); err != nil {
		t.Errorf("%s: %v", c.cmd.Path, err)
	}
}

// freeAddress gives an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// openCollected starts both collectors with the configurations that are deployed.
func openCollected(t *testing.T) *collected {
	t.Helper()
	x := &collected{Collector: telemetrytest.NewCollector(t), logs: t.TempDir(), state: t.TempDir(), otlp: freeAddress(t), metrics: freeAddress(t)}
	x.startGateway(t)
	x.startNode(t)
	return x
}

func collectorProgram(t *testing.T) string {
	t.Helper()
	program, err := filepath.Abs("../.tools/collector")
	if err == nil {
		_, err = os.Stat(program)
	}
	switch {
	case err != nil && os.Getenv("CI") == "":
		t.Skip("NOT TESTED: there is no .tools/collector: make collector")
	case err != nil:
		t.Fatal(err)
	}
	return program
}

func (x *collected) startGateway(t *testing.T) {
	t.Helper()
	x.gateway = startChild(t, collectorProgram(t), []string{"--config=monitoring/collector.yaml"},
		"OTLP_LISTEN="+x.otlp, "PROMETHEUS_LISTEN="+x.metrics, "SELF_HOST=127.0.0.1", "SELF_PORT="+port(freeAddress(t)),
		"EXPORTERS=[otlp_http]", "OTLP_URL="+x.URL, "OTLP_HEADERS=")
	x.wait(t, "the collector listens", func() bool {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", x.otlp)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (x *collected) startNode(t *testing.T) {
	t.Helper()
	x.node = startChild(t, collectorProgram(t), []string{"--config=monitoring/collector-logs.yaml"},
		"POD_LOGS="+x.logs, "STATE_DIR="+x.state, "NAMESPACE="+namespace, "COLLECTOR_URL=http://"+x.otlp,
		"SELF_HOST=127.0.0.1", "SELF_PORT="+port(freeAddress(t)))
}

// wait polls until ok.
func (x *collected) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s; there are %d records", what, len(x.Records()))
		}
	}
}

// of gives the records of a pod.
func (x *collected) of(pod string) []telemetrytest.Record {
	return slices.DeleteFunc(x.Records(), func(r telemetrytest.Record) bool { return r.Resource["k8s.pod.name"] != pod })
}

// container is what a container of a pod writes, as containerd keeps it.
type container struct {
	t    *testing.T
	file *os.File
}

func (x *collected) container(t *testing.T, pod, name string) *container {
	t.Helper()
	dir := filepath.Join(x.logs, namespace+"_"+pod+"_7e3c2f0a-1111-4222-8333-444455556666", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "0.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &container{t, file}
}

// write writes a line, a long one in parts.
func (c *container) write(line string) {
	const most = 300 // it is 16 KiB
	var b bytes.Buffer
	for tag := "P"; tag == "P"; {
		part := line
		if tag = "F"; len(line) > most {
			part, tag = line[:most], "P"
		}
		line = line[len(part):]
		fmt.Fprintf(&b, "%s stderr %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), tag, part)
	}
	if _, err := c.file.Write(b.Bytes()); err != nil {
		c.t.Error(err)
	}
}

const (
	leakedKey = "pl_abcdefghijkl_ABCDEFGHIJKLMNOPQRSTUVWXYZ" //nolint:gosec // of nobody
	leakedJWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
)

// TestCollectorRedacts has lines with secrets in them collected, and lines with what only looks like that.
func TestCollectorRedacts(t *testing.T) {
	x := openCollected(t)
	c := x.container(t, "predict-00001-deployment-5d9c-x7x2k", "predict")
	tests := []struct{ in, want string }{
		{"/v2/models/" + leakedKey + "/infer", "/v2/models/****/infer"},
		{"/v2/models/" + leakedKey[:25], "/v2/models/****"},
		{"key=" + leakedKey + "&x=1", "key=****&x=1"},
		{"Authorization: Bearer abcdef0123456789, and so on", "Authorization: ****, and so on"},
		{"got bearer abcdef0123456789.x", "got ****"},
		{`the header {"Authorization":"Basic YWxpY2U6c2VjcmV0"}`, `the header {"****"}`},
		{"token " + leakedJWT + " is expired", "token **** is expired"},
		{"AKIAABCDEFGHIJKLMNOP was refused", "**** was refused"},
		{"GET http://s3/x?X-Amz-Signature=0123abc&X-Amz-Date=1", "GET http://s3/x?****&X-Amz-Date=1"},
		{"dial redis://:hunter2@redis:6379", "dial redis****redis:6379"},
		{"dial https://alice:hunter2@example.com/x", "dial https****example.com/x"},
		{"/login?user=a&password=hunter2&x=1", "/login?user=a&****&x=1"},
		{`body {"password": "hunter2", "x": 1}`, `body {****", "x": 1}`},
		{`quoted "{\"api_key\":\"hunter2\"}"`, `quoted "{****\"}"`},
		{"-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----", "****"},
		{"alice.b+c@mail.example.com asked", "**** asked"},
		{"/users/alice%40example.com", "/users/****"},
		// Not secret.
		{"/v2/models/pl_flights/infer", "/v2/models/pl_flights/infer"},
		{"pl_abcdefghijkl is no key that is here", "pl_abcdefghijkl is no key that is here"},
		{"the token has expired", "the token has expired"},
		{"basic configuration of bearers", "basic configuration of bearers"},
		{"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
		{"dial tcp 10.0.0.1:6379: connection refused", "dial tcp 10.0.0.1:6379: connection refused"},
		{"read view \"clicks@3\": s3://pilotlight?endpoint=http://s3:7070", "read view \"clicks@3\": s3://pilotlight?endpoint=http://s3:7070"},
	}
	for i, test := range tests {
		line, err := json.Marshal(map[string]any{
			"time": time.Now(), "level": "INFO", "msg": test.in, "error": test.in, "number": i, "http.request.header.authorization": "hunter2", "session.token": "hunter2", "tokens": "3",
		})
		if err != nil {
			t.Fatal(err)
		}
		c.write(string(line))
	}
	x.wait(t, "all lines arrive", func() bool { return len(x.Records()) >= len(tests) })
	for _, r := range x.Records() {
		var i int
		if _, err := fmt.Sscan(r.Attributes["number"], &i); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		if r.Body != tests[i].want || r.Attributes["error"] != tests[i].want {
			t.Errorf("%q became %q and %q, want %q", tests[i].in, r.Body, r.Attributes["error"], tests[i].want)
		}
		if got := r.Attributes["http.request.header.authorization"]; got != "****" {
			t.Errorf("an attribute that is named authorization is %q", got)
		}
		if got := r.Attributes["session.token"]; got != "****" || r.Attributes["tokens"] != "3" {
			t.Errorf("an attribute that is named token is %q, and one of how many %q", got, r.Attributes["tokens"])
		}
		if (r.Attributes["redaction.body.masked.count"] != "") != (tests[i].in != tests[i].want) {
			t.Errorf("%q: it is told that %q attributes were masked", tests[i].in, r.Attributes["redaction.body.masked.count"])
		}
	}
}

// TestCollectorReadsLines has lines of all kinds collected, while both collectors are ended and started again.
func TestCollectorReadsLines(t *testing.T) {
	x := openCollected(t)
	const pod = "predict-flights-00012-deployment-5d9c-x7x2k"
	function, proxy, redis := x.container(t, pod, "predict"), x.container(t, pod, "queue-proxy"), x.container(t, "redis-5d9c-x7x2k", "redis")
	x.container(t, "collector-5d9c-x7x2k", "collector").write("what it says of itself")
	function.write(`{"time":"2026-11-26T10:00:00.123456789Z","level":"WARN","msg":"request","status":503,"us":{"run":12},"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7"}`)
	function.write("panic: out of luck")
	function.write(`{"neither": one thing nor another`)
	proxy.write(`{"severity":"ERROR","timestamp":"2026-11-26T10:00:00Z","logger":"queueproxy","message":"it is late"}`)
	redis.write("1:C 26 Nov 2026 10:00:00.000 * Ready")
	x.wait(t, "the first lines arrive", func() bool { return len(x.Records()) == 5 })

	// What is written while nobody takes it waits on the node, also while that is started again.
	x.gateway.stop(t)
	function.write(`{"time":"2026-11-26T10:00:01Z","level":"INFO","msg":"while it was away"}`)
	x.node.stop(t)
	function.write(`{"time":"2026-11-26T10:00:02Z","level":"DEBUG","msg":"while both were away"}`)
	x.startNode(t)
	x.startGateway(t)
	x.wait(t, "the other lines arrive", func() bool { return len(x.Records()) >= 7 })

	flights := map[string]string{
		"service.name": "predict-flights", "faas.version": "predict-flights-00012", "service.instance.id": pod, "k8s.pod.name": pod,
		"k8s.namespace.name": namespace, "k8s.container.name": "predict",
	}
	for _, want := range []telemetrytest.Record{
		{
			Time: time.Date(2026, 11, 26, 10, 0, 0, 123456789, time.UTC), Severity: v1.SeverityNumber_SEVERITY_NUMBER_WARN, Body: "request",
			Trace: "4bf92f3577b34da6a3ce929d0e0e4736", Span: "00f067aa0ba902b7",
			Attributes: map[string]string{"status": "503", "us.run": "12", "log.iostream": "stderr"}, Resource: flights,
		},
		{Body: "panic: out of luck", Attributes: map[string]string{"log.iostream": "stderr"}, Resource: flights},
		{Body: `{"neither": one thing nor another`, Attributes: map[string]string{"log.iostream": "stderr"}, Resource: flights},
		{
			Severity: v1.SeverityNumber_SEVERITY_NUMBER_ERROR, Body: "it is late",
			Attributes: map[string]string{"logger": "queueproxy"}, Resource: map[string]string{"service.name": "predict-flights", "k8s.container.name": "queue-proxy"},
		},
		{Body: "1:C 26 Nov 2026 10:00:00.000 * Ready", Resource: map[string]string{"service.name": "redis"}},
		{Time: time.Date(2026, 11, 26, 10, 0, 1, 0, time.UTC), Severity: v1.SeverityNumber_SEVERITY_NUMBER_INFO, Body: "while it was away", Resource: flights},
		{Time: time.Date(2026, 11, 26, 10, 0, 2, 0, time.UTC), Severity: v1.SeverityNumber_SEVERITY_NUMBER_DEBUG, Body: "while both were away", Resource: flights},
	} {
		found := slices.DeleteFunc(x.Records(), func(r telemetrytest.Record) bool { return r.Body != want.Body })
		if len(found) != 1 {
			t.Errorf("%q: got %d records, want one", want.Body, len(found))
			continue
		}
		got := found[0]
		if !want.Time.IsZero() && !got.Time.Equal(want.Time) || got.Severity != want.Severity || got.Trace != want.Trace || got.Span != want.Span {
			t.Errorf("%q: got %+v, want %+v", want.Body, got, want)
		}
		for _, pair := range [][2]map[string]string{{got.Attributes, want.Attributes}, {got.Resource, want.Resource}} {
			for k, v := range pair[1] {
				if pair[0][k] != v {
					t.Errorf("%q: %s is %q, want %q", want.Body, k, pair[0][k], v)
				}
			}
		}
		for _, gone := range []string{"time", "level", "msg", "trace_id", "span_id", "logtag", "log.file.name", "log.file.path"} {
			if v, ok := got.Attributes[gone]; ok {
				t.Errorf("%q: %s=%s is told twice", want.Body, gone, v)
			}
		}
	}
}

// TestCollectorGathersAFunction runs predict as Knative does, has careless callers ask it, and ends it at once: all that it told in its log, in
// traces and in metrics has arrived, and no secret has.
func TestCollectorGathersAFunction(t *testing.T) {
	x := openCollected(t)
	program, err := program(t, "functions/predict")
	if err != nil {
		t.Fatal(err)
	}
	const pod = "predict-00007-deployment-5d9c-x7x2k"
	file := x.container(t, pod, "predict")
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program)
	cmd.Env = append(os.Environ(), "PORT=0", "ORT_LIB="+onnxtest.Library(t), "BLOB_URL=mem:", "KV_URL=mem:", "ONLINE_URL=mem:", "MODEL_CACHE_DIR="+t.TempDir(),
		"K_SERVICE=predict", "K_REVISION=predict-00007", "HOSTNAME="+pod, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+x.otlp, "OTEL_TRACES_SAMPLER=always_on")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string // until read is closed its goroutine's
	addr, read := make(chan string, 1), make(chan struct{})
	end := sync.OnceValue(func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-read
		return cmd.Wait()
	})
	t.Cleanup(func() { _ = end() })
	go func() {
		defer close(read)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				lines = append(lines, line)
				file.write(line)
			}
			if err != nil {
				return
			}
			var started struct{ Msg, Addr string }
			if json.Unmarshal([]byte(line), &started) == nil && started.Msg == "listening" {
				addr <- started.Addr
			}
		}
	}()
	var url string
	select {
	case a := <-addr:
		url = "http://" + a
	case <-read:
		t.Fatalf("predict ended: %q", lines)
	}

	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("model", "sums.onnx")
	if err == nil {
		_, err = part.Write(onnxtest.Simple(-1).Bytes())
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if status, body := ask(t, http.MethodPost, url+"/admin/v1/models/sums/versions", form.Bytes(), "Content-Type", w.FormDataContentType()); status != http.StatusCreated {
		t.Fatalf("publish the model: %d %s", status, body)
	}
	// A pod is older than the 200 ms between two looks by the time it is ready.
	x.wait(t, "the file is found", func() bool { return len(x.of(pod)) > 0 })
	row := "1" + strings.Repeat(",1", 15)
	request := []byte(`{"inputs":[{"name":"INPUT0","shape":[1,16],"datatype":"INT32","data":[` + row + `]},{"name":"INPUT1","shape":[1,16],"datatype":"INT32","data":[` + row + `]}]}`)
	infer := func(path string, want int, headers ...string) {
		t.Helper()
		if status, body := ask(t, http.MethodPost, url+path, request, headers...); status != want {
			t.Errorf("%s: got %d %s, want %d", path, status, body, want)
		}
	}
	infer("/v2/models/"+leakedKey+"/infer", 404)
	infer("/v2/models/alice@example.com/infer", 404)
	infer("/nowhere/"+leakedKey, 404)
	infer("/nowhere/token="+leakedJWT, 404)
	infer("/v2/models/sums/infer", 200, "X-Request-Id", leakedKey)
	_, text := ask(t, http.MethodGet, url+"/metrics", nil)
	own := families(t, text)
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	infer("/v2/models/sums/infer", 200, "Traceparent", "00-"+traceID+"-00f067aa0ba902b7-01", "X-Request-Id", "the-last")
	if err := end(); err != nil {
		t.Fatal(err)
	}
	// As kubelet does once the pod is gone.
	if err := os.RemoveAll(filepath.Dir(filepath.Dir(file.file.Name()))); err != nil {
		t.Fatal(err)
	}

	x.wait(t, fmt.Sprintf("all %d lines arrive", len(lines)), func() bool { return len(x.of(pod)) >= len(lines) })
	records := x.of(pod)
	if len(records) != len(lines) {
		t.Errorf("got %d records of %d lines", len(records), len(lines))
	}
	for i, r := range records {
		if all := fmt.Sprint(r); strings.Contains(all, leakedKey[16:]) || strings.Contains(all, leakedJWT[:10]) || strings.Contains(all, "alice@") {
			t.Errorf("a secret came through: %s", all)
		}
		var line struct {
			Time  time.Time
			Level string
			Msg   string
			Trace string `json:"trace_id"`
			Span  string `json:"span_id"`
			Route string
		}
		if err := json.Unmarshal([]byte(lines[i]), &line); err != nil {
			t.Fatalf("%v in %s", err, lines[i])
		}
		if r.Body != line.Msg || !r.Time.Equal(line.Time) || r.Severity.String() != "SEVERITY_NUMBER_"+line.Level || r.Trace != line.Trace || r.Span != line.Span ||
			r.Attributes["route"] != line.Route || r.Resource["service.name"] != "predict" {
			t.Errorf("line %s became %+v", lines[i], r)
		}
	}
	last := slices.IndexFunc(records, func(r telemetrytest.Record) bool { return r.Attributes["request_id"] == "the-last" })
	if last < 0 || records[last].Trace != traceID || records[last].Attributes["model"] != "sums" || records[last].Attributes["version"] != "1" || records[last].Attributes["duration_us"] == "" {
		t.Errorf("no record of the last request says trace, model, version and duration: %+v", records)
	}

	const span = "POST /v2/models/{model}/infer"
	x.wait(t, "the last request's span arrives", func() bool {
		s := x.Span(span)
		return s != nil && fmt.Sprintf("%x", s.TraceId) == traceID
	})
	if all := fmt.Sprint(x.Spans()); strings.Contains(all, leakedKey[16:]) || strings.Contains(all, leakedJWT[:10]) || strings.Contains(all, "alice@") {
		t.Errorf("a secret came through in spans: %s", all)
	}
	if got := x.Resource("service.name"); got != "predict" {
		t.Errorf("spans are of %q", got)
	}

	var sent map[string]*dto.MetricFamily
	x.wait(t, "the metrics arrive", func() bool {
		_, text := ask(t, http.MethodGet, "http://"+x.metrics+"/metrics", nil)
		sent = families(t, text)
		return sent["http_server_request_duration_seconds"] != nil
	})
	answered := 0
	for _, m := range sent["http_server_request_duration_seconds"].GetMetric() {
		l := labelsOf(m)
		if l["job"] != "predict" || l["instance"] != pod {
			t.Errorf("labels are %v, want job and instance to name the function and the pod", l)
		}
		if l["http_route"] == "/v2/models/{model}/infer" && l["http_response_status_code"] == "200" {
			answered = int(m.GetHistogram().GetSampleCount())
		}
	}
	if answered != 2 {
		t.Errorf("%d requests were counted that were answered, want both", answered)
	}
	for name, f := range own {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_") || name == "target_info" {
			continue // which come of Prometheus' library, and are not sent
		}
		if sent[name] == nil {
			if f.GetType() != dto.MetricType_GAUGE { // of something that was closed before the last report
				t.Errorf("%s, a %s, did not arrive", name, f.GetType())
			}
			continue
		}
		if sent[name].GetType() != f.GetType() {
			t.Errorf("%s is a %s in the collector, want a %s", name, sent[name].GetType(), f.GetType())
		}
		want := labelNames(f)
		got := slices.DeleteFunc(labelNames(sent[name]), func(l string) bool { return l == "job" || l == "instance" })
		if !slices.Equal(got, want) {
			t.Errorf("%s has the labels %q in the collector, want %q", name, got, want)
		}
	}
	if len(own) < 20 {
		t.Errorf("compared only %d metrics", len(own))
	}
}

func labelsOf(m *dto.Metric) map[string]string {
	all := map[string]string{}
	for _, l := range m.GetLabel() {
		all[l.GetName()] = l.GetValue()
	}
	return all
}

// labelNames lists the labels that any series of a metric has.
func labelNames(f *dto.MetricFamily) []string {
	all := map[string]string{}
	for _, m := range f.GetMetric() {
		maps.Copy(all, labelsOf(m))
	}
	return slices.Sorted(maps.Keys(all))
}

func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	f, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return f
}

func ask(t *testing.T, method, url string, body []byte, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
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
	return resp.StatusCode, string(b)
}

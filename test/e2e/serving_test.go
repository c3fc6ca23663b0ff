//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// predict is the service that make deploy made.
func predict(t *testing.T) *service {
	t.Helper()
	return waitReady(t, "predict", 2*time.Minute).behind(t)
}

// push gives the registry a model, unless another test did.
func (s *service) push(t *testing.T, name string, file []byte) {
	t.Helper()
	s.pushWith(t, name, file, nil)
}

// pushWith is push of a model with a sample to try it with.
func (s *service) pushWith(t *testing.T, name string, file, sample []byte) {
	t.Helper()
	c := client(t, false)
	known := func() bool {
		status, _, err := s.call(t.Context(), c, http.MethodGet, "/v2/models/"+name, nil)
		return err == nil && status == http.StatusOK
	}
	if known() {
		return
	}
	settings := "{}"
	if sample != nil {
		settings = fmt.Sprintf(`{"warmup":{"sample":%s}}`, sample)
	}
	s.publish(t, name, file, settings)
	within(t, 10*time.Second, s.name+" knows "+name, known) // versions are published by the pool, whoever answers
}

// publish gives the registry a version of a model, with settings, and tells its number.
func (s *service) publish(t *testing.T, name string, file []byte, settings string) (version int) {
	t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	err := w.WriteField("settings", settings)
	part, err2 := w.CreateFormFile("model", name+".onnx")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	_, err = part.Write(file)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := s.request(t.Context(), http.MethodPost, "/admin/v1/models/"+name+"/versions", &form)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", w.FormDataContentType())
	resp, err := client(t, false).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("push %s: %d %s %v", name, resp.StatusCode, b, err)
	}
	var m struct{ Version int }
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m.Version
}

func TestDeployGivesAPrediction(t *testing.T) {
	i := bytes.LastIndex(deployed, []byte(`{"model_name":"flights"`))
	if i < 0 {
		t.Fatalf("make deploy printed no prediction:\n%s", deployed)
	}
	if err := right(bytes.TrimSpace(deployed[i:]), 1); err != nil {
		t.Error(err)
	}
	if !bytes.Contains(deployed, []byte("curl -s")) {
		t.Errorf("make deploy printed no curl:\n%s", deployed)
	}
}

func TestFirstRequestAtZeroIsAnswered(t *testing.T) {
	s := predict(t)
	for _, http2 := range []bool{false, true} {
		after := s.toZero(t)
		begin := time.Now()
		if err := s.ask(t.Context(), client(t, http2), 1); err != nil {
			t.Fatal(err)
		}
		t.Logf("HTTP/2: %t; at zero after %.1f s; request to answer %d ms", http2, after.Seconds(), time.Since(begin).Milliseconds())
	}
}

// TestProtocols asks as the protocols' clients do, by both versions of HTTP.
func TestProtocols(t *testing.T) {
	s := copyOf(t, "protocols", func(s *servingv1.Service) { annotate(s, "min-scale", "1", "max-scale", "1") })
	s.push(t, "simple", onnxtest.Simple(-1).Bytes())
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(version, func(t *testing.T) {
			c := client(t, version == "HTTP/2")
			if err := s.ask(t.Context(), c, 1); err != nil {
				t.Error(err)
			}
			if b := s.must(t, c, "GET", "/v2/models/simple", nil); !bytes.Contains(b, []byte(`"onnxruntime_onnx"`)) {
				t.Errorf("metadata: got %s", b)
			}
			status, b, err := s.call(t.Context(), c, "POST", "/v2/models/nobody/infer", example)
			if err != nil || status != 404 || !bytes.Contains(b, []byte(`model \"nobody\" does not exist`)) {
				t.Errorf("unknown model: got %d %s %v", status, b, err)
			}
			binaryTensors(t, s, c)
		})
	}
}

// binaryTensors sends numbers as bytes behind the JSON and asks for them back in the same way.
func binaryTensors(t *testing.T, s *service, c *http.Client) {
	t.Helper()
	const input = `{"name":"%s","datatype":"INT32","shape":[1,16],"parameters":{"binary_data_size":64}}`
	header := fmt.Sprintf(`{"inputs":[`+input+`,`+input+`],"outputs":[{"name":"OUTPUT0","parameters":{"binary_data":true}}]}`, "INPUT0", "INPUT1")
	body := []byte(header)
	for range 2 {
		for i := range 16 {
			body = binary.LittleEndian.AppendUint32(body, uint32(i))
		}
	}
	r, err := s.request(t.Context(), http.MethodPost, "/v2/models/simple/infer", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Inference-Header-Content-Length", fmt.Sprint(len(header)))
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || got.Len() < 64 {
		t.Fatalf("got %d %s", resp.StatusCode, got.Bytes())
	}
	for i, tail := 0, got.Bytes()[got.Len()-64:]; i < 16; i++ {
		if sum := binary.LittleEndian.Uint32(tail[4*i:]); sum != uint32(2*i) {
			t.Errorf("sum %d: got %d, want %d", i, sum, 2*i)
		}
	}
}

// proxy asks a service on behalf of clients that can't be told another Host than the one they dial, or a key.
func (s *service) proxy(t *testing.T) *httputil.ReverseProxy {
	t.Helper()
	return &httputil.ReverseProxy{
		Transport: client(t, false).Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", s.host, s.host
			r.Out.Header.Set("Authorization", "Bearer "+s.key)
		},
	}
}

// TestTritonClient runs the unchanged client of Triton through the ingress, by a proxy on loopback.
func TestTritonClient(t *testing.T) {
	python, err := filepath.Abs(filepath.Join(root, ".venv/bin/python"))
	if err == nil {
		_, err = os.Stat(python)
	}
	if err != nil {
		t.Skip("no Python environment with tritonclient: run `make venv`")
	}
	s := copyOf(t, "triton", func(s *servingv1.Service) { annotate(s, "min-scale", "1", "max-scale", "1") })
	spec := func(d tensor.Type) tensor.Spec { return tensor.Spec{Name: "INPUT0", Type: d, Shape: []int64{-1}} }
	s.push(t, "simple", onnxtest.Simple(-1).Bytes())
	s.push(t, "identity_bytes", onnxtest.Identity(spec(tensor.Bytes)).Bytes())
	s.push(t, "identity_fp16", onnxtest.Identity(spec(tensor.FP16)).Bytes())

	proxy := httptest.NewServer(s.proxy(t))
	defer proxy.Close()
	c := exec.CommandContext(t.Context(), python, filepath.Join(root, "test/conformance/triton_http.py"), strings.TrimPrefix(proxy.URL, "http://"))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}

// TestScale has a service go from one pod to as many as it may, and back to none.
func TestScale(t *testing.T) {
	const most = 4
	s := copyOf(t, "scale", func(s *servingv1.Service) {
		annotate(s, "max-scale", fmt.Sprint(most), "target", "1")
		s.Spec.Template.Spec.ContainerConcurrency = new(int64(2))
	})
	l := s.run(t, 24, 1000, false) // a fifth of the time they are in predict, the rest on the way
	up := within(t, 90*time.Second, fmt.Sprintf("%d pods", most), func() bool { return len(s.ready(t)) == most })
	time.Sleep(3 * time.Second) // at full size
	l.nothingLost(t, fmt.Sprintf("from 1 to %d pods in %.0f s", most, up.Seconds()))
	t.Logf("back to zero in %.0f s", s.toZero(t).Seconds())
}

// TestNothingIsLost asks all the time while pods come and go. What is promised: whoever ends a pod by the book
// loses nobody a request. Where a process dies at once, the requests in it die with it, as a broken connection or a
// 502 or 503 of the proxies, until it is up again; clients that repeat those get all answers.
func TestNothingIsLost(t *testing.T) {
	s := copyOf(t, "steady", func(s *servingv1.Service) {
		annotate(s, "min-scale", "2", "max-scale", "4", "target", "2")
		s.Spec.Template.Spec.ContainerConcurrency = new(int64(8))
	})
	within(t, time.Minute, "two pods", func() bool { return len(s.ready(t)) == 2 })

	t.Run("scale down", func(t *testing.T) {
		l := s.run(t, 2, 1, false)
		more := s.run(t, 24, 1000, false) // a fifth of the time they are in predict, the rest on the way
		within(t, time.Minute, "more than two pods", func() bool { return len(s.ready(t)) > 2 })
		more.nothingLost(t, "scaling up")
		within(t, 2*time.Minute, "two pods again", func() bool { return len(s.pods(t)) == 2 })
		time.Sleep(3 * time.Second)
		l.nothingLost(t, "scaling up and down")
	})
	t.Run("a new revision", func(t *testing.T) {
		old := s.pods(t)[0].Labels["serving.knative.dev/revision"]
		l := s.run(t, 4, 1, false)
		update(t, s.name, func(s *servingv1.Service) { setenv(s, "LOG_LEVEL", "WARN") })
		within(t, 2*time.Minute, "the old revision's pods are told to end", func() bool {
			return !slices.ContainsFunc(s.pods(t), func(p corev1.Pod) bool { return p.Labels["serving.knative.dev/revision"] == old })
		})
		time.Sleep(3 * time.Second)
		l.nothingLost(t, "rolling a revision")
	})
	t.Run("SIGTERM", func(t *testing.T) {
		victim := s.ready(t)[0].Name
		l := s.run(t, 4, 1, false)
		time.Sleep(time.Second)
		kubectl(t, nil, "delete", "pod", victim) // waits until it is gone
		within(t, time.Minute, "two pods again", func() bool { return len(s.ready(t)) == 2 })
		l.nothingLost(t, "deleting a pod")
	})
	t.Run("sudden death", func(t *testing.T) {
		if runtime.GOARCH != "amd64" {
			t.Skip("needs a model that kills its process, which is known for amd64 only")
		}
		// As SIGKILL would: the CPU's trap for INT_MIN / -1 ends the process at once, whatever is under way in it.
		in := []onnxwire.Value{onnxwire.Tensor("X", tensor.Int32, -1), onnxwire.Tensor("Y", tensor.Int32, -1)}
		s.pushWith(t, "trap", onnxtest.Apply("Div", in, []onnxwire.Value{onnxwire.Tensor("Z", tensor.Int32, -1)}).Bytes(), divide(1))
		s.everywhere(t, "trap")
		restarts := func() (n int32) {
			for _, p := range s.pods(t) {
				for _, c := range p.Status.ContainerStatuses {
					n += c.RestartCount
				}
			}
			return n
		}
		before := restarts()
		l := s.run(t, 4, 1, true)
		time.Sleep(time.Second)
		status, b, err := s.call(t.Context(), client(t, false), "POST", "/v2/models/trap/infer", divide(math.MinInt32))
		t.Logf("who killed it got %d %s %v", status, b, err)
		within(t, time.Minute, "the container is started again", func() bool { return restarts() > before })
		within(t, time.Minute, "two pods again", func() bool { return len(s.ready(t)) == 2 })
		time.Sleep(3 * time.Second)
		l.nothingLost(t, "a process that dies at once")
	})
}

// everywhere waits until all pods know a model: one that was asked for it before it was pushed
// says for MODEL_REFRESH that it does not exist.
func (s *service) everywhere(t *testing.T, name string) {
	t.Helper()
	c, known := client(t, false), 0
	within(t, time.Minute, "all pods know "+name, func() bool {
		known++
		if status, _, err := s.call(t.Context(), c, "GET", "/v2/models/"+name, nil); err != nil || status != http.StatusOK {
			known = 0
		}
		return known == 15 // 3 s
	})
}

// divide asks for x / -1.
func divide(x int32) []byte {
	return fmt.Appendf(nil, `{"inputs":[{"name":"X","datatype":"INT32","shape":[1],"data":[%d]},{"name":"Y","datatype":"INT32","shape":[1],"data":[-1]}]}`, x)
}

// TestSplitAndRollback divides the traffic between two revisions and takes the division back.
func TestSplitAndRollback(t *testing.T) {
	s := copyOf(t, "split", func(s *servingv1.Service) { annotate(s, "min-scale", "1") })
	one := get[servingv1.Service](t, "ksvc", s.name).Status.LatestReadyRevisionName
	// The second revision is told apart by what it refuses.
	to := func(revision string, percent int64) servingv1.TrafficTarget {
		return servingv1.TrafficTarget{RevisionName: revision, Percent: new(percent), LatestRevision: new(false)}
	}
	update(t, s.name, func(s *servingv1.Service) {
		setenv(s, "MAX_BODY", "64KiB")
		s.Spec.Traffic = []servingv1.TrafficTarget{to(one, 100)}
	})
	two := get[servingv1.Service](t, "ksvc", s.name).Status.LatestReadyRevisionName
	if one == two {
		t.Fatalf("still %s", one)
	}
	big := bytes.Repeat([]byte(" "), 100<<10)
	count := func() (ones, twos int) {
		c := client(t, false)
		for range 60 {
			switch status, b, err := s.call(t.Context(), c, "POST", "/v2/models/flights/infer", append(slices.Clone(example), big...)); {
			case err == nil && status == 200 && right(b, 1) == nil:
				ones++
			case err == nil && status == http.StatusRequestEntityTooLarge:
				twos++
			default:
				t.Fatalf("got %d %s %v", status, b, err)
			}
		}
		return ones, twos
	}
	if ones, twos := count(); twos > 0 {
		t.Errorf("before the split: %d to the old revision, %d to the new", ones, twos)
	}
	l := s.run(t, 2, 1, false)
	update(t, s.name, func(s *servingv1.Service) { s.Spec.Traffic = []servingv1.TrafficTarget{to(one, 50), to(two, 50)} })
	within(t, 20*time.Second, "both get requests", func() bool { ones, twos := count(); return ones > 0 && twos > 0 })
	ones, twos := count()
	t.Logf("at 50:50, %d to the old revision, %d to the new", ones, twos)
	if ones < 10 || twos < 10 {
		t.Errorf("at 50:50, %d to the old revision, %d to the new", ones, twos)
	}
	update(t, s.name, func(s *servingv1.Service) { s.Spec.Traffic = []servingv1.TrafficTarget{to(one, 100)} })
	within(t, 20*time.Second, "all go to the old revision again", func() bool { _, twos := count(); return twos == 0 })
	l.nothingLost(t, "splitting and rolling back")
}

// TestS3Outage takes the bucket away and brings it back.
func TestS3Outage(t *testing.T) {
	predict(t).push(t, "cold", onnxtest.Simple(1).Bytes()) // unlike "simple", or a pod may have it by its digest
	s := copyOf(t, "outage", func(s *servingv1.Service) { annotate(s, "min-scale", "1", "max-scale", "1") })
	c := client(t, false)
	if err := s.ask(t.Context(), c, 1); err != nil {
		t.Fatal(err)
	}
	l := s.run(t, 2, 1, false)
	scale := func(n string) {
		kubectl(t, nil, "scale", "deployment/s3", "--replicas="+n)
		kubectl(t, nil, "rollout", "status", "deployment/s3", "--timeout=60s")
	}
	t.Cleanup(func() { scale("1") })
	scale("0")
	within(t, time.Minute, "S3 is gone", func() bool {
		return len(get[corev1.PodList](t, "pods", "-l", "app=s3").Items) == 0
	})
	values := strings.Repeat("1,", 15) + "1"
	ask := fmt.Appendf(nil, `{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,16],"data":[%s]},{"name":"INPUT1","datatype":"INT32","shape":[1,16],"data":[%s]}]}`, values, values)
	begin := time.Now()
	status, b, err := s.call(t.Context(), c, "POST", "/v2/models/cold/infer", ask)
	if err != nil || status != http.StatusServiceUnavailable || !bytes.Contains(b, []byte("object store")) {
		t.Errorf("a cold model while S3 is gone: got %d %s %v, want 503", status, b, err)
	}
	t.Logf("a cold model got 503 after %d ms: %s", time.Since(begin).Milliseconds(), bytes.TrimSpace(b))

	// What starts now has never seen the bucket: it must not take over.
	submit(t, s.name, func(s *servingv1.Service) { setenv(s, "LOG_LEVEL", "WARN") })
	within(t, 30*time.Second, "a pod of the new revision runs", func() bool { return len(s.pods(t)) == 2 })
	time.Sleep(10 * time.Second) // several times MODEL_REFRESH
	if n := len(s.ready(t)); n != 1 {
		t.Errorf("while S3 is gone: %d pods are ready, want the one from before", n)
	}
	scale("1")
	after := within(t, time.Minute, "the cold model answers", func() bool {
		status, _, err := s.call(t.Context(), c, "POST", "/v2/models/cold/infer", ask)
		return err == nil && status == 200
	})
	waitReady(t, s.name, time.Minute)
	l.nothingLost(t, "S3 gone and back")
	t.Logf("the cold model answers %.1f s after S3 is ready", after.Seconds())
}

// TestWrongConfiguration shows where kubectl tells the reason, and that the revision before goes on.
func TestWrongConfiguration(t *testing.T) {
	s := copyOf(t, "wrong", func(s *servingv1.Service) { annotate(s, "min-scale", "1") })
	good := get[servingv1.Service](t, "ksvc", s.name).Status.LatestReadyRevisionName
	l := s.run(t, 1, 1, false)
	for _, test := range []struct{ name, variable, value, reason string }{
		{"no such scheme", "BLOB_URL", "ftp://x", `store URL "ftp://x": the scheme must be one of`},
		{"not a duration", "REQUEST_TIMEOUT", "soon", `REQUEST_TIMEOUT is "soon": expected a duration`},
		{"no such bucket", "BLOB_URL", "s3://nobody?endpoint=http://s3:7070", "NoSuchBucket"},
		{"no such model", "MODEL_PINNED", "nobody", `model \"nobody\" does not exist`},
	} {
		t.Run(test.name, func(t *testing.T) {
			submit(t, s.name, func(s *servingv1.Service) {
				c := &s.Spec.Template.Spec.Containers[0]
				c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool {
					return slices.Contains([]string{"BLOB_URL", "REQUEST_TIMEOUT", "MODEL_PINNED"}, e.Name)
				})
				setenv(s, test.variable, test.value)
			})
			within(t, time.Minute, "kubectl tells the reason", func() bool {
				revision := get[servingv1.Service](t, "ksvc", s.name).Status.LatestCreatedRevisionName
				for _, p := range s.pods(t) {
					if p.Labels["serving.knative.dev/revision"] != revision || revision == good {
						continue
					}
					if isReady(&p) {
						t.Fatal("the pod is ready")
					}
					described, err := tryKubectl(t, nil, "describe", "pod", p.Name) // of a container that ended
					logs, err2 := tryKubectl(t, nil, "logs", p.Name, "-c", "predict")
					if err == nil && strings.Contains(string(described), test.reason) || err2 == nil && strings.Contains(string(logs), test.reason) {
						return true
					}
				}
				return false
			})
			within(t, time.Minute, "deploy.sh why tells it too", func() bool {
				why := exec.CommandContext(t.Context(), root+"/knative/deploy.sh", "why")
				why.Env = append(os.Environ(), "NAMESPACE="+namespace)
				out, err := why.Output()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				said := strings.ReplaceAll(string(out), `\"`, `"`) // in a log it is JSON
				return strings.Contains(said, "Pod "+s.name+"-") && strings.Contains(said, strings.ReplaceAll(test.reason, `\"`, `"`))
			})
		})
	}
	if n := get[servingv1.Service](t, "ksvc", s.name).Status.LatestReadyRevisionName; n != good {
		t.Errorf("the latest ready revision is %s, want %s", n, good)
	}
	l.nothingLost(t, "wrong revisions beside a right one")
}

// TestPinnedAndSharedCache deploys both components on top of what is there.
func TestPinnedAndSharedCache(t *testing.T) {
	features := get[corev1.ConfigMap](t, "-n", "knative-serving", "configmap", "config-features").Data
	for _, f := range []string{"kubernetes.podspec-persistent-volume-claim", "kubernetes.podspec-persistent-volume-write", "kubernetes.podspec-securitycontext"} {
		if features[f] != "enabled" {
			t.Skipf("this cluster has %s %q, and the overlay needs it", f, features[f])
		}
	}
	withComponents(t, "pinned pvc")
	pinned := waitReady(t, "predict-flights", time.Minute)
	for _, p := range pinned.ready(t) {
		m := metrics(t, p.Name)
		if m["pilotlight_model_sessions"] < 1 { // more, where other versions were asked before
			t.Error("pinned: there is no warm session before any request")
		}
	}
	s := update(t, "predict", func(s *servingv1.Service) { annotate(s, "min-scale", "2") })
	within(t, time.Minute, "two pods", func() bool { return len(s.ready(t)) == 2 })
	info, err := os.Stat(filepath.Join(root, "examples/flights/flights.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.ready(t) {
		// Nobody asked these pods yet; the pods before them fetched the model.
		m := metrics(t, p.Name)
		if got := m["pilotlight_model_cache_bytes"]; got < float64(info.Size()) {
			t.Errorf("pod %s finds %v bytes on the claim, want the flights model's %d", p.Name, got, info.Size())
		}
	}
	s.run(t, 4, 1, false).nothingLostFor(t, 3*time.Second, "two pods on one claim")
	for _, p := range s.ready(t) {
		if m := metrics(t, p.Name); m["pilotlight_model_sessions"] < 1 {
			t.Errorf("pod %s answered nothing", p.Name)
		}
	}
}

func (l *load) nothingLostFor(t *testing.T, d time.Duration, while string) {
	t.Helper()
	time.Sleep(d)
	l.nothingLost(t, while)
}

// TestRevisionsKeepTheirConfiguration changes a value of the ConfigMap as an operator does.
func TestConfigMapIsNamedByItsContent(t *testing.T) {
	s := get[servingv1.Service](t, "ksvc", "predict")
	name := s.Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name
	c := get[corev1.ConfigMap](t, "configmap", name)
	if !strings.HasPrefix(name, "pilotlight-config-") || c.Data["BLOB_URL"] == "" {
		b, _ := json.Marshal(c.Data)
		t.Errorf("predict reads %s: %s", name, b)
	}
}

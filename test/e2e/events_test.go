//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/test/e2e/eventsuite"
)

// receiver is a service whose pod records events, beside the functions and bound to the broker as they are.
const receiver = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: receiver
  labels: {app.kubernetes.io/part-of: pilotlight}
spec:
  template:
    metadata:
      annotations: {autoscaling.knative.dev/min-scale: "1", autoscaling.knative.dev/max-scale: "1"}
    spec:
      containers:
        - image: ko://github.com/pilotlight-ml/pilotlight/test/receiver
          resources: {requests: {cpu: 10m, memory: 16Mi}}
`

// deployReceiver has the receiver run, with triggers that bring it events, until the test ends.
func deployReceiver(t *testing.T, triggers string) *service {
	t.Helper()
	c := exec.CommandContext(t.Context(), "ko", "apply", "--base-import-paths", "-f", "-", "--", "-n", namespace)
	c.Dir, c.Stdin = root, strings.NewReader(receiver)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("ko apply: %v\n%s", err, out)
	}
	triggers = strings.ReplaceAll(triggers, "SUBSCRIBER", "{ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: receiver}, uri: /events}")
	kubectl(t, []byte(triggers), "apply", "-f", "-")
	t.Cleanup(func() {
		for _, name := range strings.Fields(string(kubectl(t, []byte(triggers), "get", "-f", "-", "-o", "name"))) {
			deleteTrigger(t, name[strings.LastIndexByte(name, '/')+1:])
		}
		kubectl(t, nil, "delete", "ksvc", "receiver", "--ignore-not-found", "--wait=false")
	})
	within(t, 2*time.Minute, "the receiver knows its sink", func() bool {
		sink := kubectl(t, nil, "get", "ksvc", "receiver", "-o", `jsonpath={.spec.template.spec.containers[0].env[?(@.name=="K_SINK")].value}`)
		return len(sink) > 0
	})
	r := waitReady(t, "receiver", 2*time.Minute)
	within(t, time.Minute, "one receiver alone", func() bool { return len(r.pods(t)) == 1 }) // what was recorded is in its memory
	kubectl(t, nil, "wait", "--for=condition=Ready", "triggers", "--all", "--timeout=2m")
	return r
}

// deleteTrigger waits until the broker has forgotten the trigger, too: of several that are deleted at once a broker made of channels may keep one,
// which then holds up each event for minutes.
func deleteTrigger(t *testing.T, name string) {
	t.Helper()
	kubectl(t, nil, "delete", "trigger", name, "--ignore-not-found")
	within(t, time.Minute, "the broker forgets the trigger "+name, func() bool {
		uris, err := tryKubectl(t, nil, "get", "inmemorychannels", "-o", "jsonpath={..subscriberUri}")
		return err != nil || !strings.Contains(string(uris), "/"+name+"/") // a broker of another class has none
	})
}

// TestEvents runs the tests of embedded mode on the cluster's broker.
func TestEvents(t *testing.T) {
	r := deployReceiver(t, eventsuite.Triggers)
	feedback := waitReady(t, "feedback", 2*time.Minute).behind(t)
	t.Logf("feedback is at zero after %.1f s", feedback.toZero(t).Seconds()) // the suite's outcomes wake it
	eventsuite.Run(t, &eventsuite.System{
		Receiver:    r.door(t),
		DeadLetters: waitReady(t, "deadletter", 2*time.Minute).behind(t).door(t),
		Predict:     predict(t).door(t),
		Features:    waitReady(t, "features", 2*time.Minute).behind(t).door(t),
		Feedback:    feedback.door(t),
		Model:       onnxtest.Simple(-1).Bytes(),
		Echo:        onnxtest.Identity(tensor.Spec{Type: tensor.FP64, Shape: []int64{-1}}).Bytes(),
	})
}

// door is the service as clients at the ingress see it.
func (s *service) door(t *testing.T) eventsuite.Door {
	c := client(t, false)
	return func(ctx context.Context, method, path string, header http.Header, body []byte) (int, []byte, error) {
		r, err := s.request(ctx, method, path, bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		for k, v := range header {
			r.Header[k] = v
		}
		resp, err := c.Do(r)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, b, err
	}
}

// TestRedisRestart kills Redis under load: predict goes on, and what Redis held is there again.
func TestRedisRestart(t *testing.T) {
	s := copyOf(t, "redisless", nil)
	redis := func(args ...string) (string, error) {
		pods := get[corev1.PodList](t, "pods", "-l", "app=redis").Items
		if len(pods) != 1 {
			return "", nil
		}
		out, err := tryKubectl(t, nil, append([]string{"exec", pods[0].Name, "--", "redis-cli"}, args...)...)
		return strings.TrimSpace(string(out)), err
	}
	if out, err := redis("SET", "e2e", "kept"); err != nil || out != "OK" {
		t.Fatalf("SET: %q %v", out, err)
	}
	time.Sleep(1500 * time.Millisecond) // it appends to its file each second
	l := s.run(t, 2, 1, false)
	pod := get[corev1.PodList](t, "pods", "-l", "app=redis").Items[0].Name
	kubectl(t, nil, "delete", "pod", pod, "--grace-period=0", "--force")
	within(t, time.Minute, "Redis is back with what it held", func() bool {
		out, err := redis("GET", "e2e")
		return err == nil && out == "kept"
	})
	l.nothingLost(t, "Redis restarted")
}

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/event/eventtest"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
)

const counting = `
pipeline: counting
about: counts here, in a job, and here again
on:
  - {event: dev.pilotlight.alert.raised.v1, where: {model: counting}}
steps:
  - {name: one, use: light}
  - {name: two, use: heavy, in: {value: one.value, file: one.file}, with: {seconds: 15, dies: 8}}
  - {name: three, use: light, in: {value: two.value, file: two.file}}
`

// withSteps has the function pipeline and its jobs know the kinds of test/steps, until the test ends.
func withSteps(t *testing.T) *service {
	t.Helper()
	c := exec.CommandContext(t.Context(), "ko", "build", "--base-import-paths", "./test/steps")
	c.Dir = root
	out, err := c.Output()
	if err != nil {
		t.Fatalf("ko build: %v", err)
	}
	image := strings.TrimSpace(string(out))
	before := kubectl(t, nil, "get", "jobsink", "steps", "-o", "jsonpath={.spec.job.spec.template.spec.containers[0].image}")
	use := func(image string) {
		kubectl(t, nil, "patch", "jobsink", "steps", "--type=json", "-p", fmt.Sprintf(`[{"op":"replace","path":"/spec/job/spec/template/spec/containers/0/image","value":%q}]`, image))
		update(t, "pipeline", func(s *servingv1.Service) { s.Spec.Template.Spec.Containers[0].Image = image })
	}
	t.Cleanup(func() { use(string(before)) })
	use(image)
	return waitReady(t, "pipeline", time.Minute).behind(t)
}

// twice has each event come twice to the function pipeline, by a second trigger beside each.
func twice(t *testing.T) {
	t.Helper()
	n := 0
	for _, trigger := range get[eventingv1.TriggerList](t, "triggers").Items {
		if trigger.Spec.Subscriber.Ref == nil || trigger.Spec.Subscriber.Ref.Name != "pipeline" {
			continue
		}
		n++
		again := eventingv1.Trigger{TypeMeta: metav1.TypeMeta{APIVersion: "eventing.knative.dev/v1", Kind: "Trigger"}, ObjectMeta: metav1.ObjectMeta{Name: trigger.Name + "-again", Namespace: namespace}, Spec: trigger.Spec}
		apply(t, &again)
		t.Cleanup(func() { deleteTrigger(t, again.Name) })
	}
	if n < 3 {
		t.Fatalf("%d triggers lead to pipeline", n)
	}
	kubectl(t, nil, "wait", "--for=condition=Ready", "triggers", "--all", "--timeout=2m")
}

// TestPipelineJobs runs a pipeline with a light step, a heavy one, and a light one again. It is started by an event through the broker, and every event comes twice. The
// job of the heavy step dies without a word, and the pod of the next one is deleted: each time the step is tried again, and the run ends as if
// nothing had been.
func TestPipelineJobs(t *testing.T) {
	p := withSteps(t)
	r := deployReceiver(t, `
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: pipelines-to-receiver}
spec:
  broker: pilotlight
  filters: [{prefix: {type: dev.pilotlight.pipeline.}}]
  subscriber: SUBSCRIBER
`)
	twice(t)
	c := client(t, false)
	p.must(t, c, http.MethodPut, "/admin/v1/pipelines/counting", []byte(counting))

	alert := event.AlertRaised.New(event.Raised{ID: fmt.Sprintf("e2e-%d", time.Now().UnixNano()), Rule: "r", Model: "counting", Severity: "ticket", At: time.Now()})
	send := func(e *event.Event) {
		t.Helper()
		request, err := event.Request(t.Context(), "http://broker", e)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(request.Body)
		if err != nil {
			t.Fatal(err)
		}
		if status, answer, err := r.door(t)(t.Context(), http.MethodPost, "/send", request.Header, b); err != nil || status != http.StatusAccepted {
			t.Fatalf("send: %d %s %v", status, answer, err)
		}
	}
	begin := time.Now()
	send(&alert)
	send(&alert)

	runs := func() []pipeline.Run {
		t.Helper()
		var got struct{ Runs []pipeline.Run }
		if err := json.Unmarshal(p.must(t, c, http.MethodGet, "/admin/v1/pipelines/counting/runs", nil), &got); err != nil {
			t.Fatal(err)
		}
		return got.Runs
	}
	// run is the newest one.
	run := func() *pipeline.Run {
		t.Helper()
		got := &pipeline.Run{Steps: make([]pipeline.StepState, 3)}
		if all := runs(); len(all) > 0 {
			if err := json.Unmarshal(p.must(t, c, http.MethodGet, "/admin/v1/pipelines/counting/runs/"+all[0].ID, nil), got); err != nil {
				t.Fatal(err)
			}
		}
		return got
	}
	// counts waits until a try of the heavy step runs in a pod of its own.
	counts := func(attempt int) string {
		t.Helper()
		pod := ""
		within(t, 3*time.Minute, fmt.Sprintf("try %d counts in a pod", attempt), func() bool {
			r := run()
			if len(r.Steps) != 3 || r.Cause == nil || r.Cause.ID != alert.ID() || r.Steps[1].Attempt != attempt || r.Steps[1].Place != "job" {
				return false
			}
			for _, o := range get[corev1.PodList](t, "pods", "-l", "app.kubernetes.io/component=step").Items {
				log, err := tryKubectl(t, nil, "logs", o.Name)
				if err == nil && o.DeletionTimestamp == nil && o.Status.Phase == corev1.PodRunning && strings.Contains(string(log), "second 3") {
					pod = o.Name
				}
			}
			return pod != ""
		})
		return pod
	}
	pod := counts(1)
	t.Logf("from the alert to the fourth second of the job: %.1f s", time.Since(begin).Seconds())
	if r := run(); r.Lease != nil || r.State != pipeline.Waiting {
		t.Errorf("while the job runs nobody waits for it in a request: got %s, %+v", r.State, r.Lease)
	}
	within(t, time.Minute, "the job dies", func() bool {
		return get[corev1.Pod](t, "pod", pod).Status.Phase == corev1.PodFailed
	})
	at := time.Now()
	pod = counts(2)
	t.Logf("it died without a word; the next try counted after %.1f s", time.Since(at).Seconds())
	at = time.Now()
	kubectl(t, nil, "delete", "pod", pod, "--wait=false")
	counts(3)
	t.Logf("told to end; the next try counted after %.1f s", time.Since(at).Seconds())
	within(t, 3*time.Minute, "the run ends", func() bool { return !run().Ended.IsZero() })
	ended, mine := run(), 0
	for _, r := range runs() {
		if r.Cause != nil && r.Cause.ID == alert.ID() {
			mine++
		}
	}
	var value string
	if err := json.Unmarshal(ended.Steps[2].Outputs["value"].Value, &value); err != nil {
		t.Fatal(err)
	}
	if want := "one>two(one)>three(one>two(one))"; ended.State != pipeline.Succeeded || value != want || mine != 1 || ended.Steps[1].Attempt != 3 || ended.Steps[1].Lost != 1 || // an end that was asked for is no death
		ended.Steps[0].Attempt != 1 || ended.Steps[2].Attempt != 1 {
		t.Errorf("got %d runs, %q, want %q; %+v", mine, value, want, ended)
	}
	t.Logf("the run took %.1f s", ended.Ended.Sub(ended.At).Seconds())
	jobs := slices.DeleteFunc(get[batchv1.JobList](t, "jobs", "-l", "app.kubernetes.io/component=step").Items, func(j batchv1.Job) bool { return j.CreationTimestamp.Time.Before(begin.Add(-time.Second)) })
	if len(jobs) != 3 {
		t.Errorf("three tries made %d jobs", len(jobs))
	}
	// The chain of causes: alert, run, end.
	for id, want := range map[string]string{"counting:" + ended.ID: alert.ID(), "counting:" + ended.ID + ":ended": "counting:" + ended.ID} {
		if got := caused(t, r, id); got != want {
			t.Errorf("%s was caused by %q, want %q", id, got, want)
		}
	}
}

// caused waits until the receiver has an event, and gives the id of the one that caused it.
func caused(t *testing.T, receiver *service, id string) string {
	t.Helper()
	c := client(t, false)
	var attempts []eventtest.Attempt
	within(t, time.Minute, "the event "+id, func() bool {
		status, b, err := receiver.call(t.Context(), c, http.MethodGet, "/received?id="+url.QueryEscape(id), nil)
		return err == nil && status == http.StatusOK && json.Unmarshal(b, &attempts) == nil && len(attempts) > 0
	})
	e, err := event.Unmarshal(attempts[0].Event)
	if err != nil {
		t.Fatal(err)
	}
	return event.Cause(e)
}

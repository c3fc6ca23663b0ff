//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/engine/onnx/onnxtest"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
)

// delays is the model that the loop tends; "flights" is what the other tests ask.
const delays = "delays"

const delaysRules = `rules: [{name: no-better-than-chance, model: delays, version: champion, metric: auc, window: 5d, below: 0.55, confident: true, min: 1500}]`

const delaysPipeline = `
pipeline: delays
about: learns anew what makes flights late
on:
  - {event: dev.pilotlight.alert.raised.v1, where: {model: delays}}
pause: 1d
steps:
  - {name: data, use: training-set, with: {model: delays, holdout: 1d}}
  - {name: fit, use: train, in: {data: data.dataset, rows: data.train, holdout: data.holdout}, with: {trainer: logistic}}
  - name: judge
    use: evaluate
    in: {data: data.dataset, train: data.train, holdout: data.holdout, model: fit.model, predictions: fit.predictions, settings: fit.settings}
    with: {block: 1h}
  - {name: publish, use: publish, in: {data: data.dataset, model: fit.model, verdict: judge.verdict, card: judge.card, reference: judge.reference}}
  - name: rollout
    use: rollout
    in: {version: publish.version}
    with: {alias: champion, shares: [0.5], hold: 5s, patience: 1h, least: 50, guards: {error_rate: 0.1, log_loss: 0.5}}
`

// TestLoop replays days of flights through the gateway, with nobody's hands on the model that is asked about them, which knows nothing: that is
// found out, an event by the broker starts the pipeline, whose jobs learn a better one and judge it, and that is published, brought out as a
// canary by a split of the traffic of the model's own service, and promoted. Each of these changes leads back to the alert. Then somebody brings out a bad one by hand, past the gate: it is taken back.
func TestLoop(t *testing.T) {
	withComponents(t, "pinned")
	t.Cleanup(func() { tellWhatTheySay(t, "feedback", "pipeline", "predict") })
	p, c := predict(t), client(t, false)
	r := deployReceiver(t, `
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: loop-to-receiver}
spec:
  broker: pilotlight
  filters: [{cesql: "type IN ('dev.pilotlight.alert.raised.v1', 'dev.pilotlight.pipeline.started.v1', 'dev.pilotlight.pipeline.ended.v1', 'dev.pilotlight.model.published.v1', 'dev.pilotlight.alias.moved.v1')"}]
  subscriber: SUBSCRIBER
`)
	for _, name := range []string{"predict", "features", "feedback"} {
		awake(t, name)
	}
	replay := newReplay(t, p)
	features, err := os.ReadFile(filepath.Join(root, "examples/flights/features.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p.must(t, c, http.MethodPost, "/admin/v1/features", features)
	weather := replay.weather(t, "2013-01-01T00:00:00Z", "2013-01-07T12:00:00Z")
	p.must(t, c, http.MethodPut, "/landing/weather/january.parquet", weather)
	if v := p.publish(t, delays, onnxtest.Flights(.5).Bytes(), `{"features":"flights"}`); v != 1 {
		t.Fatalf("version %d of %s: it needs a namespace where it was not yet", v, delays)
	}
	pin(t, p, c)
	t.Cleanup(func() { // nobody is to be alarmed by what other tests ask
		status, b, err := p.call(context.WithoutCancel(t.Context()), c, http.MethodPut, "/admin/v1/alerts/rules", []byte(`rules: []`))
		if err != nil || status/100 != 2 {
			t.Errorf("end the alerts: %d %s %v", status, b, err)
		}
	})
	p.must(t, c, http.MethodPut, "/admin/v1/alerts/rules", []byte(delaysRules))
	p.must(t, c, http.MethodPut, "/admin/v1/pipelines/"+delays, []byte(delaysPipeline))

	replay.run(t, "2013-01-02T00:00:00Z", "2013-01-05T05:00:00Z")
	begin := time.Now()
	ticks := tick(t, r, time.Date(2013, 1, 5, 5, 0, 0, 0, time.UTC))
	var raised alert.Alert
	within(t, 2*time.Minute, "the alert is raised", func() bool {
		var s alert.Status
		read(t, p, c, "/admin/v1/alerts", &s)
		for _, a := range append(s.Active, s.Resolved...) {
			if a.Model == delays {
				raised = a
			}
		}
		return raised.ID != ""
	})
	t.Logf("after %.1f s: %s", time.Since(begin).Seconds(), raised.Summary)
	run := func() (run pipeline.Run) {
		t.Helper()
		if status, _, err := p.call(t.Context(), c, http.MethodGet, "/admin/v1/pipelines/"+delays+"/runs/latest", nil); err == nil && status == http.StatusOK {
			read(t, p, c, "/admin/v1/pipelines/"+delays+"/runs/latest", &run)
		}
		return run
	}
	within(t, 5*time.Minute, "the canary is there", func() bool {
		now := run()
		if !now.Ended.IsZero() {
			t.Fatalf("the run is %s: %s", now.State, now.Reason)
		}
		return len(now.Steps) == 5 && now.Steps[4].State == pipeline.Waiting
	})
	within(t, 2*time.Minute, "half of the traffic is split off", func() bool { return shareOf(t, 50) })
	for _, s := range run().Steps[:4] {
		t.Logf("%s: %.1f s%s", s.Name, s.Ended.Sub(s.Began).Seconds(), map[bool]string{true: ", as a job"}[s.Place == "job"])
		if job := s.Name != "publish"; job != (s.Place == "job") {
			t.Errorf("step %s ran in %q", s.Name, s.Place)
		}
	}
	state := func() (s model.Aliases) {
		t.Helper()
		read(t, p, c, "/admin/v1/models/"+delays, &s)
		return s
	}
	replay.run(t, "2013-01-05T05:00:00Z", "2013-01-06T05:00:00Z")
	within(t, 3*time.Minute, "the run ends", func() bool { return !run().Ended.IsZero() })
	within(t, 2*time.Minute, "all of the traffic is the promoted version's", func() bool { return shareOf(t, 100) })
	ended, now := run(), state()
	if ended.State != pipeline.Succeeded || now.Current[model.Champion] != 2 {
		t.Fatalf("the run %s, and the champion is version %d: %s", ended.State, now.Current[model.Champion], ended.Reason)
	}
	t.Logf("promoted %.1f s after the last of the flights that the alert is about", time.Since(begin).Seconds())

	// The chain of causes.
	cause := delays + ":" + ended.ID
	links := map[string]string{raised.ID: "", cause: raised.ID, cause + ":ended": cause, delays + ":2": cause}
	moves := 0
	for _, m := range now.History {
		if m.Alias == model.Champion && m.Seq > 1 {
			moves++
			links[fmt.Sprintf("%s:%s:%d", delays, m.Alias, m.Seq)] = cause
		}
	}
	if moves != 2 {
		t.Errorf("%d moves brought it out, want two: to the canary, and to champion", moves)
	}
	for id, want := range links {
		if got := caused(t, r, id); got != want {
			t.Errorf("%s was caused by %q, want %q", id, got, want)
		}
	}

	// A bad one.
	bad := p.publish(t, delays, onnxtest.Flights(.99).Bytes(), `{"features":"flights"}`)
	p.must(t, c, http.MethodPut, "/admin/v1/rollouts/"+delays+"/champion", fmt.Appendf(nil, `{"version":%d,"shares":[0.3,0.6],"hold":"1h","patience":"2h","guards":[{"metric":"log_loss","worse":0.05}]}`, bad))
	within(t, 2*time.Minute, "a third of the traffic is split off", func() bool { return shareOf(t, 30) })
	begin = time.Now()
	replay.run(t, "2013-01-06T05:00:00Z", "2013-01-07T01:00:00Z")
	var r2 rollout.Rollout
	within(t, 2*time.Minute, "the bad one is taken back", func() bool {
		read(t, p, c, "/admin/v1/rollouts/"+delays+"/champion", &r2)
		return r2.End != ""
	})
	ticks()
	if now := state(); r2.Version != bad || r2.End != rollout.TakenBack || now.Current[model.Champion] != 2 || now.Splits[model.Champion] != nil {
		t.Errorf("version %d was %s: %s; the champion is %d, beside %+v", r2.Version, r2.End, r2.Why, now.Current[model.Champion], now.Splits[model.Champion])
	}
	t.Logf("taken back after %.1f s: %s", time.Since(begin).Seconds(), r2.Why)
	trainElsewhere(t, p, c)
}

const elsewhere = `
pipeline: elsewhere
steps:
  - {name: data, use: training-set, with: {model: delays, holdout: 1d}}
  - {name: fit, use: train, in: {data: data.dataset, rows: data.train, holdout: data.holdout}, with: {trainer: mine}}
`

// trainElsewhere has a trainer learn in a container of another image, which shares no keys with the step beside it.
func trainElsewhere(t *testing.T, p *service, c *http.Client) {
	t.Helper()
	withComponents(t, "trainer")
	b := exec.CommandContext(t.Context(), "ko", "build", "--base-import-paths", "./test/trainer")
	b.Dir = root
	image, err := b.Output()
	if err != nil {
		t.Fatalf("ko build: %v", err)
	}
	const container = "/spec/job/spec/template/spec/initContainers/1"
	kubectl(t, nil, "patch", "jobsink", "steps", "--type=json", "-p", fmt.Sprintf(`[{"op":"replace","path":"%s/image","value":%q},{"op":"replace","path":"%[1]s/args","value":["/ko-app/trainer"]}]`, container, strings.TrimSpace(string(image))))
	waitReady(t, "pipeline", time.Minute)
	p.must(t, c, http.MethodPut, "/admin/v1/pipelines/elsewhere", []byte(elsewhere))
	p.must(t, c, http.MethodPost, "/admin/v1/pipelines/elsewhere/runs", []byte(`{}`))
	var run pipeline.Run
	within(t, 5*time.Minute, "the run ends", func() bool {
		read(t, p, c, "/admin/v1/pipelines/elsewhere/runs/latest", &run)
		return !run.Ended.IsZero()
	})
	said := string(p.must(t, c, http.MethodGet, "/admin/v1/pipelines/elsewhere/runs/latest/logs", nil))
	if run.State != pipeline.Succeeded || run.Steps[1].Place != "job" || !strings.Contains(said, "learns in an image of its own from") {
		t.Fatalf("the run %s, fit as a %s: %s\n%s", run.State, run.Steps[1].Place, run.Reason, said)
	}
	for _, secret := range []string{"AWS_", "KV_URL", "BLOB_URL"} {
		if strings.Contains(said, secret) {
			t.Errorf("the trainer sees %s: %s", secret, said)
		}
	}
	t.Logf("trained in another image in %.1f s", run.Steps[1].Ended.Sub(run.Steps[1].Began).Seconds())
}

// pin has the model answered by a service of its own: that of the manifests for flights, with another name of the model.
func pin(t *testing.T, p *service, c *http.Client) {
	t.Helper()
	submit(t, "predict-flights", func(s *servingv1.Service) {
		setenv(s, "MODEL_PINNED", delays)
		// Less than the manifests ask for, so that three revisions have room for one pod each.
		s.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	})
	submit(t, "feedback", func(s *servingv1.Service) { setenv(s, "PINNED_SERVICES", delays+"=predict-flights") })
	waitReady(t, "predict-flights", time.Minute)
	waitReady(t, "feedback", time.Minute)
	p.must(t, c, http.MethodPut, "/admin/v1/routes", fmt.Appendf(nil, `{"models":{%q:"http://predict-flights.%s.svc.cluster.local"}}`, delays, namespace))
	t.Cleanup(func() {
		if status, b, err := p.call(context.WithoutCancel(t.Context()), c, http.MethodPut, "/admin/v1/routes", []byte(`{}`)); err != nil || status/100 != 2 {
			t.Errorf("take the route away: %d %s %v", status, b, err)
		}
	})
}

// shareOf tells whether one revision of the model's service gets a share of its traffic, in percent.
func shareOf(t *testing.T, percent int64) bool {
	t.Helper()
	for _, to := range get[servingv1.Service](t, "ksvc", "predict-flights").Status.Traffic {
		if to.Percent != nil && *to.Percent == percent {
			return true
		}
	}
	return false
}

// awake has one pod of a service there until the test ends, between requests too, which come in turns.
func awake(t *testing.T, name string) {
	t.Helper()
	before := map[string]string{}
	scale := func(s *servingv1.Service, values map[string]string) {
		for k, v := range values {
			before[k] = s.Spec.Template.Annotations["autoscaling.knative.dev/"+k]
			annotate(s, k, v)
		}
	}
	t.Cleanup(func() { submit(t, name, func(s *servingv1.Service) { scale(s, maps.Clone(before)) }) })
	submit(t, name, func(s *servingv1.Service) { scale(s, map[string]string{"min-scale": "1", "max-scale": "1"}) })
	waitReady(t, name, time.Minute)
}

// read reads what a service says at a path.
func read(t *testing.T, s *service, c *http.Client, path string, v any) {
	t.Helper()
	if err := json.Unmarshal(s.must(t, c, http.MethodGet, path, nil), v); err != nil {
		t.Fatal(err)
	}
}

// tick has the broker told every three seconds that it is time for what pipelines and alerts do, as of a moment and, as time goes by, of
// later ones. It gives what ends that.
func tick(t *testing.T, r *service, at time.Time) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	send := r.door(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			for _, job := range [...]struct{ tick, name string }{{"alerts", "evaluate-alerts"}, {"pipelines", "tend-pipelines"}} {
				body, err := json.Marshal(map[string]any{"job": job.name, "at": at.Add(time.Duration(n) * time.Minute)})
				if err != nil {
					t.Error(err)
					return
				}
				header := http.Header{"Content-Type": {"application/json"}}
				for k, v := range map[string]string{"Id": fmt.Sprint(job.tick, n), "Source": "/e2e/" + t.Name(), "Type": "dev.knative.sources.ping", "Specversion": "1.0", "Tick": job.tick} {
					header.Set("Ce-"+k, v)
				}
				if status, b, err := send(context.WithoutCancel(ctx), http.MethodPost, "/send", header, body); err != nil || status != http.StatusAccepted {
					t.Errorf("tick: %d %s %v", status, b, err)
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Second):
			}
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// replayer is examples/flights/replay, which asks the gateway.
type replayer struct {
	program string
	url     string
}

// newReplay builds it. It knows of no keys: a proxy on loopback does.
func newReplay(t *testing.T, s *service) *replayer {
	t.Helper()
	program := filepath.Join(t.TempDir(), "replay")
	c := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./examples/flights/replay")
	c.Dir = root
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build replay: %v\n%s", err, out)
	}
	proxy := httptest.NewServer(s.proxy(t))
	t.Cleanup(proxy.Close)
	return &replayer{program, proxy.URL}
}

func (r *replayer) run(t *testing.T, from, until string) {
	t.Helper()
	begin := time.Now()
	out := r.with(t, "-ask", r.url, "-model", delays, "-from", from, "-until", until)
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	t.Logf("in %.1f s: %s", time.Since(begin).Seconds(), lines[len(lines)-1])
}

// weather gives the weather of some time, as a file.
func (r *replayer) weather(t *testing.T, from, until string) []byte {
	t.Helper()
	dir := t.TempDir()
	r.with(t, "-write", dir, "-from", from, "-until", until)
	b, err := os.ReadFile(filepath.Join(dir, "weather.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *replayer) with(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, r.program, args...)
	c.Dir = root
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("replay %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

package rollout

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/rollout/knativetest"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

const pinned = "predict-m"

// newPinned is a world in which the model has a service of its own.
func newPinned(t *testing.T) (*world, *knativetest.Cluster) {
	t.Helper()
	w, c := newWorld(t), knativetest.New(t)
	c.Add(pinned, "m")
	var err error
	w.traffic, err = OpenTraffic(&Config{Services: []string{"m=" + pinned}, Kubernetes: c.URL, Account: c.Folder}, model.NewCatalog(w.blob, time.Minute, nil), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.manager = w.another(w.blob)
	return w, c
}

// shares checks the percents of the service by what its revisions pin.
func shares(t *testing.T, c *knativetest.Cluster, want map[string]int64) {
	t.Helper()
	if got := c.Shares(pinned); !maps.Equal(got, want) {
		t.Errorf("traffic: got %v, want %v", got, want)
	}
}

func good() counted {
	return counted{answers: 500, pairs: map[string]Compared{ErrorRate: rates(100_000, .01, 100_000, .01)}}
}

// The candidate gets a revision of its own and, once that is ready, a share of the service's traffic; promoted, it gets all of it until
// the service is at rest again.
func TestAPinnedModelIsRolledOutByTraffic(t *testing.T) {
	w, c := newPinned(t)
	w.counted = good()
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2, Shares: []float64{.2, .5}}); err != nil {
		t.Fatal(err)
	}
	shares(t, c, map[string]int64{"m": 100}) // its revision is on its way
	w.at = w.at.Add(time.Hour)
	w.tick()
	if l := w.rollout().Latest; l.Verdict != Hold || !strings.Contains(l.Why, "on its way") {
		t.Errorf("while the revision starts: got %+v", l)
	}
	c.Start()
	w.counted.answers = 0
	w.tick()
	shares(t, c, map[string]int64{"m": 80, "m:champion=2": 20})
	// Somebody deploys in the middle: the template is another, the traffic is not.
	c.Deploy(pinned, func(s *servingv1.Service) {
		s.Spec.Template.Spec.Containers[0].Env[1].Value, s.Spec.Template.Spec.Containers[0].Image = "m", "newer"
	})
	c.Start()
	w.counted = good()
	w.tick()
	shares(t, c, map[string]int64{"m": 50, "m:champion=2": 50})
	w.at = w.at.Add(time.Hour)
	w.tick()
	if r := w.rollout(); r.End != Promoted {
		t.Errorf("got %+v", r.Latest)
	}
	if share, current := w.share(2); share != 0 || current != 2 {
		t.Errorf("alias: got %g, %d", share, current)
	}
	w.tick()
	c.Start()
	w.tick()
	shares(t, c, map[string]int64{"m": 100})
	s := c.Get(pinned)
	if tr := s.Spec.Traffic; len(tr) != 1 || tr[0].LatestRevision == nil || !*tr[0].LatestRevision || s.Spec.Template.Spec.Containers[0].Image != "newer" {
		t.Errorf("at rest: got %+v", tr)
	}
	if used := c.Used(); len(used) != 2 || used[0] != "get services.serving.knative.dev "+pinned || used[1] != "update services.serving.knative.dev "+pinned {
		t.Errorf("it used %q", used)
	}
}

// Promoted, the candidate's revision has everything while the one at rest starts; one command takes all of it back.
func TestAPinnedModelIsUndone(t *testing.T) {
	w, c := newPinned(t)
	follow := func(want map[string]int64) {
		t.Helper()
		if err := w.traffic.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		shares(t, c, want)
	}
	change := func(move model.Move, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	change(w.catalog.Canary(t.Context(), "m", "champion", .3, model.Change{To: 2}))
	follow(map[string]int64{"m": 100})
	c.Start()
	follow(map[string]int64{"m": 70, "m:champion=2": 30})
	change(w.catalog.Canary(t.Context(), "m", "champion", .1, model.Change{To: 3}))
	follow(map[string]int64{"m": 70, "m:champion=2": 30})
	c.Start()
	follow(map[string]int64{"m": 60, "m:champion=2": 30, "m:champion=3": 10})
	change(w.catalog.Promote(t.Context(), "m", "champion", model.Change{To: 3}))
	follow(map[string]int64{"m:champion=3": 100})
	change(w.catalog.Rollback(t.Context(), "m", "champion", model.Change{})) // before the service is at rest
	follow(map[string]int64{"m": 100})
	c.Start()
	follow(map[string]int64{"m": 100})
	generation := c.Get(pinned).Generation
	follow(map[string]int64{"m": 100})
	if c.Get(pinned).Generation != generation {
		t.Error("at rest it changes the service")
	}
}

// A version that does not start in the cluster is taken back, and gets no request.
func TestAPinnedVersionThatDoesNotStart(t *testing.T) {
	w, c := newPinned(t)
	w.counted = good()
	c.Break("m:champion=2")
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2, Shares: []float64{.2}}); err != nil {
		t.Fatal(err)
	}
	c.Start()
	w.tick()
	if r := w.rollout(); r.End != "" || !strings.Contains(r.Latest.Why, "exit 1") {
		t.Errorf("at once: got %+v", r)
	}
	w.at = w.at.Add(time.Hour)
	w.tick()
	if r := w.rollout(); r.End != TakenBack || !strings.Contains(r.Why, "version 2: Revision") || !strings.Contains(r.Why, "exit 1") {
		t.Errorf("got %+v", r)
	}
	shares(t, c, map[string]int64{"m": 100})
	c.Start()
	w.tick()
	if tr := c.Get(pinned).Spec.Traffic; len(tr) != 1 || !*tr[0].LatestRevision {
		t.Errorf("got %+v", tr)
	}
}

// Who divides the traffic by hand is in charge, until the alias is moved anew.
func TestPeopleDivideTheTraffic(t *testing.T) {
	w, c := newPinned(t)
	w.counted = good()
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2, Shares: []float64{.2, .5}}); err != nil {
		t.Fatal(err)
	}
	c.Start()
	w.tick()
	shares(t, c, map[string]int64{"m": 80, "m:champion=2": 20})
	c.Deploy(pinned, func(s *servingv1.Service) { *s.Spec.Traffic[0].Percent, *s.Spec.Traffic[1].Percent = 1, 99 })
	w.at = w.at.Add(time.Hour)
	w.tick()
	w.tick()
	if r := w.rollout(); r.End != TakenOver || !strings.Contains(r.Why, "somebody else divides the traffic") {
		t.Errorf("got %+v", r)
	}
	shares(t, c, map[string]int64{"m": 1, "m:champion=2": 99})
	if _, err := w.catalog.Rollback(t.Context(), "m", "champion", model.Change{}); err != nil {
		t.Fatal(err)
	}
	if err := w.traffic.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	shares(t, c, map[string]int64{"m": 100})
	c.Start()
	if err := w.traffic.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A canary of code, without any alias.
	c.Deploy(pinned, func(s *servingv1.Service) {
		s.Spec.Traffic = []servingv1.TrafficTarget{{RevisionName: pinned + "-00001", Percent: new(int64(100))}}
	})
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 3, Shares: []float64{.005}}); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "whole percents") {
		t.Errorf("half a percent: got %v", err)
	}
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 3, Shares: []float64{.05}}); !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Message(err), "somebody else divides") {
		t.Errorf("divided by others: got %v", err)
	}
	shares(t, c, map[string]int64{"m": 100})
}

// Killed at any write to the bucket or to Kubernetes, with answers lost and others deploying in between, it goes each step once and in order, and ends at rest.
func TestPinnedAndKilledAtAnyWrite(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 3))
	for round := range 30 {
		w, c := newPinned(t)
		w.counted = good()
		for {
			_, err := w.another(storetest.NewMortal(w.blob, random.IntN(4))).Start(t.Context(), Plan{Model: "m", Version: 2, Shares: []float64{.1, .5}})
			if err == nil || fault.Is(err, fault.Conflict) {
				break
			}
			if !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
		}
		course := []string{"map[m:100]"}
		for i := range 80 {
			switch random.IntN(6) {
			case 0:
				w.at = w.at.Add(20 * time.Minute)
			case 1:
				c.Start()
			case 2:
				c.Lose(1)
			case 3:
				if random.IntN(3) == 0 { // as `make deploy` of another image does
					c.Deploy(pinned, func(s *servingv1.Service) {
						container := &s.Spec.Template.Spec.Containers[0]
						container.Image, container.Env[1] = fmt.Sprint("image-", i), corev1.EnvVar{Name: "MODEL_PINNED", Value: "m"}
					})
				}
			}
			err := w.another(storetest.NewMortal(w.blob, random.IntN(5))).Tick(t.Context(), &w.counted)
			if err != nil && !errors.Is(err, storetest.ErrKilled) && !fault.Is(err, fault.Unavailable) {
				t.Fatal(err)
			}
			if now := fmt.Sprint(c.Shares(pinned)); course[len(course)-1] != now {
				course = append(course, now)
			}
		}
		c.Lose(0)
		for range 20 {
			w.at = w.at.Add(20 * time.Minute)
			w.tick()
			c.Start()
			if now := fmt.Sprint(c.Shares(pinned)); course[len(course)-1] != now {
				course = append(course, now)
			}
		}
		if course[3] == "map[m:100]" { // a revision at rest was there already, by a deployment
			course = slices.Insert(course, 3, "map[m:champion=2:100]")
		}
		want := "map[m:100] map[m:90 m:champion=2:10] map[m:50 m:champion=2:50] map[m:champion=2:100] map[m:100]"
		if got := strings.Join(course, " "); got != want || w.rollout().End != Promoted {
			t.Fatalf("round %d: got %s, %+v", round, got, w.rollout())
		}
	}
}

// What Kubernetes refuses is told, and the alias is not moved on.
func TestKubernetesRefuses(t *testing.T) {
	w, c := newPinned(t)
	c.Allow = func(verb, _, _ string) bool { return verb == "get" }
	_, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2, Shares: []float64{.2, .5}})
	if err != nil { // the alias has its canary; what is in the way is logged, and tried at each tick
		t.Fatal(err)
	}
	w.counted = good()
	w.at = w.at.Add(time.Hour)
	if err := w.manager.Tick(t.Context(), &w.counted); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "the service account has no such role") {
		t.Errorf("got %v", err)
	}
	if share, _ := w.share(2); share != .2 {
		t.Errorf("the alias went on to %g", share)
	}
	c.Allow = nil
	if err := os.WriteFile(filepath.Join(c.Folder, "token"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.traffic.Tick(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("with an old token: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.Folder, "token"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.traffic.Tick(t.Context()); err != nil {
		t.Errorf("with a new token: got %v", err)
	}
	w.traffic.services["m"] = "nobody"
	if err := w.traffic.Tick(t.Context()); !fault.Is(err, fault.NotFound) {
		t.Errorf("no such service: got %v", err)
	}
	for _, bad := range []string{"m", "m=", "=s", "m=s,m=t"} {
		if err := (&Config{Services: strings.Split(bad, ",")}).Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	for _, answer := range []string{"", "{", "[]", `{"metadata":{"name":"a"}}`, `{"metadata":{"name":"a","generation":"x"},"spec":{"template":{"spec":{"containers":[{}]}}}}`} {
		if _, err := readService([]byte(answer)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%q: got %v", answer, err)
		}
	}
}

package rollout

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/sequential"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// world is a bucket with a model of three versions, and a clock.
type world struct {
	t       *testing.T
	blob    store.Blob
	catalog *model.Catalog
	manager *Manager
	at      time.Time
	traffic *Traffic // nil: the model has no service of its own
	counted counted
}

// counted is a source that says what it is told.
type counted struct {
	answers int64
	pairs   map[string]Compared
	asked   *Query
	err     error
}

func (c *counted) Evidence(_ context.Context, q *Query) (*Evidence, error) {
	c.asked = q
	return &Evidence{Answers: c.answers, Metrics: c.pairs}, c.err
}

func newWorld(t *testing.T) *world {
	t.Helper()
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, blob: blob, catalog: model.NewCatalog(blob, time.Minute, nil), at: time.Now()}
	for range 3 {
		if _, err := w.catalog.Publish(t.Context(), model.Manifest{Name: "m", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.catalog.Move(t.Context(), "m", "champion", model.Change{To: 1}); err != nil {
		t.Fatal(err)
	}
	w.manager = w.another(blob)
	return w
}

func (w *world) another(blob store.Blob) *Manager {
	m := New(blob, model.NewCatalog(blob, time.Minute, nil), w.traffic, func(*model.Manifest) string { return "log_loss" }, slog.New(slog.DiscardHandler))
	m.now = func() time.Time { return w.at }
	return m
}

// share is what the candidate has, and the version that has the rest.
func (w *world) share(version int) (share float64, current int) {
	w.t.Helper()
	a, err := w.catalog.Aliases(w.t.Context(), "m")
	if err != nil {
		w.t.Fatal(err)
	}
	if s := a.Splits["champion"]; s != nil {
		for _, c := range s.Canaries {
			if c.Version == version {
				share = c.Share
			}
		}
	}
	return share, a.Current["champion"]
}

func (w *world) tick() {
	w.t.Helper()
	if err := w.manager.Tick(w.t.Context(), &w.counted); err != nil {
		w.t.Fatal(err)
	}
}

// rates is a share of so many answers of each.
func rates(n int64, p float64, m int64, q float64) Compared {
	return Compared{Counts: []sequential.CountPair{{A: sequential.Counts{N: n, Yes: int64(float64(n) * p)}, B: sequential.Counts{N: m, Yes: int64(float64(m) * q)}}}}
}

// losses is a mean of so many outcomes of each.
func losses(n int64, a float64, m int64, b float64) Compared {
	return Compared{Means: []sequential.Pair{{A: sequential.Sums{N: n, Mean: a, Variance: .2}, B: sequential.Sums{N: m, Mean: b, Variance: .2}}}}
}

func (w *world) rollout() *Rollout {
	w.t.Helper()
	r, err := w.manager.Get(w.t.Context(), "m", "champion")
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// A candidate that is as good as the version there is gets each share in turn, and then everything.
func TestAGoodVersionIsPromoted(t *testing.T) {
	w := newWorld(t)
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2}); err != nil {
		t.Fatal(err)
	}
	var shares []float64
	for i := range 12 {
		share, current := w.share(2)
		if len(shares) == 0 || shares[len(shares)-1] != share {
			shares = append(shares, share)
		}
		if current == 2 {
			break
		}
		w.at = w.at.Add(20 * time.Minute)
		n := int64(30_000 * (i + 1))
		w.counted = counted{answers: 500, pairs: map[string]Compared{
			ErrorRate: rates(n, .01, n/2, .01), SlowRate: rates(n, .05, n/2, .05), "log_loss": losses(n, .5, n/2, .5),
		}}
		w.tick()
	}
	if share, current := w.share(2); current != 2 || share != 0 || len(shares) < 4 || shares[0] != .01 || shares[1] != .05 || shares[3] != .5 {
		t.Errorf("got shares %v, version %d; %+v", shares, current, w.rollout().Latest)
	}
	r := w.rollout()
	if r.End != Promoted || len(r.Steps) != 4 || r.Steps[3].Verdict != Promote || len(r.Guards) != 3 || w.counted.asked.Version != 1 || w.counted.asked.Candidate != 2 {
		t.Errorf("got %+v", r)
	}
	w.tick() // there is nothing left to do
	if _, err := w.catalog.Rollback(t.Context(), "m", "champion", model.Change{}); err != nil {
		t.Error(err)
	}
	if _, current := w.share(2); current != 1 {
		t.Errorf("a rollback went to %d", current)
	}
}

// A candidate that is worse is taken back at the first tick that sees it, whatever share it has.
func TestABadVersionIsTakenBack(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  map[string]Compared
		want string
	}{
		{"fails", map[string]Compared{ErrorRate: rates(20_000, .01, 2000, .1)}, "error_rate is 0.1, and 0.01"},
		{"is slow", map[string]Compared{SlowRate: rates(20_000, .05, 2000, .5)}, "slow_rate is 0.5"},
		{"is wrong", map[string]Compared{"log_loss": losses(20_000, .5, 2000, .7)}, "log_loss is 0.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2}); err != nil {
				t.Fatal(err)
			}
			w.at = w.at.Add(time.Minute)
			w.counted = counted{answers: 2000, pairs: c.bad}
			w.tick()
			r := w.rollout()
			if share, current := w.share(2); share != 0 || current != 1 || r.End != TakenBack || !strings.Contains(r.Why, c.want) {
				t.Errorf("got %g, %d, %+v", share, current, r)
			}
			a, err := w.catalog.Aliases(t.Context(), "m")
			if err != nil {
				t.Fatal(err)
			}
			if m := a.History[len(a.History)-1]; m.By != by || !strings.Contains(m.Why, c.want) {
				t.Errorf("the history says %+v", m)
			}
		})
	}
	better := &Plan{Guards: []Guard{{"accuracy", .05}}}
	if f := better.find(better.Guards[0], rates(5000, .9, 5000, .7)); f.State != Worse || f.Difference < .19 || f.Low < 0 {
		t.Errorf("less accuracy is worse: got %+v", f)
	}
	if f := better.find(better.Guards[0], rates(5000, .7, 5000, .9)); f.State != Fine {
		t.Errorf("more accuracy is fine: got %+v", f)
	}
}

// What is not decided is held, and taken back when patience ends.
func TestPatience(t *testing.T) {
	w := newWorld(t)
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2, Shares: []float64{.1}}); err != nil {
		t.Fatal(err)
	}
	w.counted = counted{answers: 200, pairs: map[string]Compared{ErrorRate: rates(500, .01, 250, .012)}}
	for _, c := range []struct {
		after time.Duration
		end   End
		want  string
	}{{time.Minute, "", "it has had this share for"}, {2 * time.Hour, "", "error_rate is 0.012"}, {80 * time.Hour, TakenBack, "it was not decided within 72h0m0s: error_rate"}} {
		w.at = w.at.Add(c.after)
		w.tick()
		r := w.rollout()
		if r.End != c.end || !strings.Contains(r.Latest.Why, c.want) {
			t.Errorf("after %s: got %q, %+v", c.after, r.End, r.Latest)
		}
	}
}

// People come first: what they do with the alias ends the rollout, or is left alone.
func TestPeopleComeFirst(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(w *world) error
		end  End
	}{
		{"they promote", func(w *world) error {
			_, err := w.catalog.Promote(w.t.Context(), "m", "champion", model.Change{})
			return err
		}, Promoted},
		{"they take it back", func(w *world) error {
			_, err := w.catalog.Rollback(w.t.Context(), "m", "champion", model.Change{})
			return err
		}, TakenBack},
		{"they give it another share", func(w *world) error {
			_, err := w.catalog.Canary(w.t.Context(), "m", "champion", .33, model.Change{To: 2})
			return err
		}, TakenOver},
		{"they cancel", func(w *world) error {
			_, err := w.manager.Cancel(w.t.Context(), "m", "champion", "me")
			return err
		}, Cancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2}); err != nil {
				t.Fatal(err)
			}
			if err := c.do(w); err != nil {
				t.Fatal(err)
			}
			share, current := w.share(2)
			w.tick()
			w.tick()
			if again, still := w.share(2); again != share || still != current || w.rollout().End != c.end {
				t.Errorf("got %g and %d, was %g and %d; %+v", again, still, share, current, w.rollout())
			}
			if _, err := w.manager.Cancel(t.Context(), "m", "champion", "me"); !fault.Is(err, fault.Conflict) {
				t.Errorf("it has ended: got %v", err)
			}
		})
	}
}

// Killed at any write, by whichever instance it is carried on, a rollout goes each step once and in order.
func TestKilledAtAnyWrite(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 3))
	for i := range 60 {
		w := newWorld(t)
		plan := Plan{Model: "m", Version: 2, Shares: []float64{.1, .5}}
		if i >= 30 {
			plan.Shadow = yamlwire.Duration(time.Hour)
		}
		for {
			_, err := w.another(storetest.NewMortal(w.blob, random.IntN(4))).Start(t.Context(), plan)
			if err == nil || fault.Is(err, fault.Conflict) {
				break
			}
			if !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
		}
		n := int64(100_000)
		w.counted = counted{answers: 500, pairs: map[string]Compared{ErrorRate: rates(n, .01, n, .01)}}
		for range 60 {
			if random.IntN(2) == 0 {
				w.at = w.at.Add(20 * time.Minute)
			}
			if err := w.another(storetest.NewMortal(w.blob, random.IntN(5))).Tick(t.Context(), &w.counted); err != nil && !errors.Is(err, storetest.ErrKilled) {
				t.Fatal(err)
			}
		}
		w.tick()
		a, err := w.catalog.Aliases(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		var course []float64
		for _, m := range a.History[1:] {
			if m.After == nil {
				course = append(course, float64(m.To))
				continue
			}
			if m.After.Shadow == 2 {
				course = append(course, -1)
				continue
			}
			course = append(course, m.After.Share(2))
		}
		if plan.Shadow > 0 && len(course) > 0 && course[0] == -1 {
			course = course[1:]
		}
		if len(course) != 3 || course[0] != .1 || course[1] != .5 || course[2] != 2 || w.rollout().End != Promoted {
			t.Fatalf("got %v, %+v", course, w.rollout())
		}
	}
}

// What can't be is refused in a sentence, and changes nothing.
func TestStartRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		plan Plan
		kind fault.Kind
		want string
	}{
		{Plan{Model: "m", Version: 9}, fault.NotFound, `model "m" has no version 9`},
		{Plan{Model: "m", Version: 1}, fault.Conflict, `alias "champion" of model "m" names version 1 already`},
		{Plan{Model: "m", Version: 2, Alias: "nobody"}, fault.NotFound, `model "m" has no alias "nobody"`},
		{Plan{Model: "m"}, fault.Invalid, "version is 0"},
		{Plan{Model: "m", Version: 2, Shares: []float64{.5, .1}}, fault.Invalid, "shares are 0.5, 0.1"},
		{Plan{Model: "m", Version: 2, Guards: []Guard{{"auc", .1}}}, fault.Invalid, `there is no guard "auc"`},
		{Plan{Model: "m", Version: 2, Guards: []Guard{{ErrorRate, 2}}}, fault.Invalid, "the guard error_rate allows 2"},
		{Plan{Model: "m", Version: 2, Guards: []Guard{{ErrorRate, .1}, {ErrorRate, .1}}}, fault.Invalid, "is there twice"},
		{Plan{Model: "m", Version: 2, Least: -1}, fault.Invalid, "least is -1"},
	} {
		if _, err := w.manager.Start(t.Context(), c.plan); !fault.Is(err, c.kind) || !strings.Contains(fault.Message(err), c.want) {
			t.Errorf("%+v: got %v, want %s", c.plan, err, c.want)
		}
	}
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.manager.Start(t.Context(), Plan{Model: "m", Version: 3}); !fault.Is(err, fault.Conflict) {
		t.Errorf("two at once: got %v", err)
	}
	w.counted = counted{err: fault.New(fault.Unavailable, "away")}
	if err := w.manager.Tick(t.Context(), &w.counted); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	if share, _ := w.share(2); share != .01 {
		t.Errorf("without evidence the share is %g", share)
	}
}

// With a shadow stage nobody is answered by the candidate at first, and the looks tell how its answers differ; then it goes the usual way.
func TestShadowFirst(t *testing.T) {
	n := int64(100_000)
	good := map[string]Compared{ErrorRate: rates(n, .01, n, .01)}
	plan := Plan{Model: "m", Version: 2, Shadow: yamlwire.Duration(time.Hour), Shares: []float64{.5}, Guards: []Guard{{ErrorRate, .01}}, Cause: "flights:7"}
	begin := func(t *testing.T) *world {
		t.Helper()
		w := newWorld(t)
		w.counted = counted{answers: 500, pairs: good}
		if _, err := w.manager.Start(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		w.at = w.at.Add(20 * time.Minute)
		w.tick()
		if share, current := w.share(2); share != 0 || current != 1 || w.shadow() != 2 || !w.counted.asked.Shadow || w.rollout().Latest.Verdict != Hold {
			t.Fatalf("got share %g, version %d, shadow %d, %+v", share, current, w.shadow(), w.rollout().Latest)
		}
		return w
	}
	t.Run("promoted", func(t *testing.T) {
		w := begin(t)
		for range 2 {
			w.at = w.at.Add(time.Hour)
			w.tick()
		}
		r := w.rollout()
		if _, current := w.share(2); current != 2 || w.shadow() != 0 || r.End != Promoted || len(r.Steps) != 2 {
			t.Errorf("got %+v", r)
		}
		if m, err := w.catalog.Rollback(t.Context(), "m", "champion", model.Change{}); err != nil || m.To != 1 || m.After != nil {
			t.Errorf("one command takes it back: got %+v, %v", m, err)
		}
		a, err := w.catalog.Aliases(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.History[1 : len(a.History)-1] {
			if m.Cause != plan.Cause {
				t.Errorf("the move %+v does not say its cause", m)
			}
		}
	})
	t.Run("worse as a shadow", func(t *testing.T) {
		w := begin(t)
		w.counted.pairs = map[string]Compared{ErrorRate: rates(n, .01, n, .2)}
		w.tick()
		if r := w.rollout(); w.shadow() != 0 || r.End != TakenBack || !strings.Contains(r.Why, "error_rate is 0.2") {
			t.Errorf("got shadow %d, %+v", w.shadow(), r)
		}
	})
	for name, do := range map[string]func(w *world) error{
		"they take it back": func(w *world) error {
			_, err := w.catalog.Rollback(w.t.Context(), "m", "champion", model.Change{})
			return err
		},
		"they end the shadow": func(w *world) error {
			_, err := w.catalog.Shadow(w.t.Context(), "m", "champion", model.Change{})
			return err
		},
		"they cancel": func(w *world) error {
			_, err := w.manager.Cancel(w.t.Context(), "m", "champion", "me")
			return err
		},
	} {
		for _, shared := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := begin(t)
				if shared { // it is a canary already
					w.at = w.at.Add(time.Hour)
					w.tick()
				}
				if err := do(w); err != nil {
					t.Fatal(err)
				}
				if shared && name == "they end the shadow" { // of which there is none any more
					return
				}
				w.at = w.at.Add(time.Hour)
				w.tick()
				w.tick()
				if share, current := w.share(2); share != 0 || current != 1 || w.shadow() != 0 || w.rollout().End != map[bool]End{true: Cancelled, false: TakenBack}[name == "they cancel"] {
					t.Errorf("got share %g, version %d, shadow %d, %+v", share, current, w.shadow(), w.rollout())
				}
			})
		}
	}
	w := newWorld(t)
	if _, err := w.catalog.Shadow(t.Context(), "m", "champion", model.Change{To: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.manager.Start(t.Context(), plan); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "has a shadow, version 3") {
		t.Errorf("somebody's shadow is not replaced: got %v", err)
	}
}

func (w *world) shadow() int {
	w.t.Helper()
	a, err := w.catalog.Aliases(w.t.Context(), "m")
	if err != nil {
		w.t.Fatal(err)
	}
	if s := a.Splits["champion"]; s != nil {
		return s.Shadow
	}
	return 0
}

package feedback

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// From what was predicted and came true to who answers: a version that is as right as the one there is gets everything, and one that is
// not, fails or dawdles is taken back.
func TestRolloutsByWindows(t *testing.T) {
	for _, c := range []struct {
		name       string
		noise      float64       // of the candidate's probabilities
		fails      int           // one in so many
		latency    time.Duration // of the candidate
		end        rollout.End
		why        string
		candidates int
	}{
		{"as good", 0, 0, time.Millisecond, rollout.Promoted, "no guard is beyond what is allowed", 6000},
		{"less right", .4, 0, time.Millisecond, rollout.TakenBack, "log_loss is ", 3000},
		{"fails", 0, 8, time.Millisecond, rollout.TakenBack, "error_rate is ", 3000},
		{"slow", 0, 0, 5 * time.Millisecond, rollout.TakenBack, "slow_rate is ", 3000},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 11)
			catalog := model.NewCatalog(w.blob, time.Minute, nil)
			if _, err := catalog.Move(t.Context(), "m", "champion", model.Change{To: 1}); err != nil {
				t.Fatal(err)
			}
			m := rollout.New(w.blob, catalog, nil, primary, slog.New(slog.DiscardHandler))
			plan := rollout.Plan{Model: "m", Version: 2, Shares: []float64{.3}, Hold: yamlwire.Duration(time.Nanosecond), Guards: []rollout.Guard{{Metric: rollout.ErrorRate, Worse: .05}, {Metric: rollout.SlowRate, Worse: .1}, {Metric: "log_loss", Worse: .2}}}
			if _, err := m.Start(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			w.answer(1, 6000, 0, 0, time.Millisecond)
			w.answer(2, c.candidates, c.noise, c.fails, c.latency)
			j := w.later(0)
			w.catchUp(j)
			if err := m.Tick(t.Context(), j); err != nil {
				t.Fatal(err)
			}
			r, err := m.Get(t.Context(), "m", "champion")
			if err != nil {
				t.Fatal(err)
			}
			if r.End != c.end || !strings.Contains(r.Why, c.why) {
				t.Errorf("got %s: %s\n%+v", r.End, r.Why, r.Latest)
			}
		})
	}
}

// answer logs predictions of a version, and what came true: a probability is right but for noise.
func (w *world) answer(version, n int, noise float64, fails int, latency time.Duration) {
	w.t.Helper()
	log, err := payload.Open(&payload.Config{On: "on", Memory: 32 << 20, Every: time.Hour}, w.blob, nil, w.tel)
	if err != nil {
		w.t.Fatal(err)
	}
	var outcomes []string
	for i := range n {
		chance := w.random.Float64()
		p := min(max(chance+noise*(2*w.random.Float64()-1), .01), .99)
		prediction := &payload.Prediction{
			ID: fmt.Sprintf("v%d-%d", version, i), Asked: time.Now(), At: monday.Add(time.Duration(i) * time.Second), Rows: 1, Latency: latency,
			Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{p}), tensor.Of("label", []int64{1}, []int64{1})},
		}
		if fails > 0 && i%fails == 0 {
			prediction.Err = fault.New(fault.Internal, "it fails")
		} else {
			outcomes = append(outcomes, fmt.Sprintf(`{"prediction":%q,"value":%t}`, prediction.ID, w.random.Float64() < chance))
		}
		log.Add(&payload.Origin{Model: "m", Version: version, Sample: 1}, prediction)
	}
	if err := log.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.send(outcomes...)
}

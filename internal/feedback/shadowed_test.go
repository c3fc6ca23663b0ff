package feedback

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// What a shadow says is held against what was answered to the same request, and against nothing else.
func TestShadowedAnswers(t *testing.T) {
	w := newWorld(t, 3)
	begun := time.Now().Add(-time.Minute)
	say := func(version, from, n int, latency time.Duration, p func(i int) float64) {
		log, err := payload.Open(&payload.Config{On: "on", Memory: 32 << 20, Every: time.Hour}, w.blob, nil, w.tel)
		if err != nil {
			t.Fatal(err)
		}
		for i := from; i < from+n; i++ {
			log.Add(&payload.Origin{Model: "m", Version: version, Sample: 1}, &payload.Prediction{
				ID: fmt.Sprint(i), Asked: time.Now(), At: monday, Rows: 1, Latency: latency,
				Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{p(i)}), tensor.Of("label", []int64{1}, []int64{1})},
			})
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	say(1, 0, 1000, time.Millisecond, func(int) float64 { return .5 })
	say(2, 500, 1000, 3*time.Millisecond, func(i int) float64 { // half of them were asked of both
		switch i % 4 {
		case 0:
			return .7
		case 1:
			return .5 + 1e-7 // which is nothing
		}
		return .5
	})
	q := &rollout.Query{Model: "m", Version: 1, Candidate: 2, Stages: []time.Time{begun}, Until: time.Now(), Metrics: []string{rollout.ErrorRate}, Shadow: true}
	j := w.later(0)
	w.catchUp(j)
	e, err := j.Evidence(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	s := e.Shadow
	if s == nil || s.Answers != 500 || s.Differ != .25 || math.Abs(s.Difference-.05) > 1e-6 || s.Latency != [2]float64{.001, .003} || e.Answers != 1000 {
		t.Errorf("got %+v of %d answers", s, e.Answers)
	}
	q.Stages[0] = time.Now().Add(time.Hour) // of what was said before it began nothing counts
	if e, err := j.Evidence(t.Context(), q); err != nil || e.Shadow.Answers != 0 {
		t.Errorf("got %+v, %v", e.Shadow, err)
	}
}

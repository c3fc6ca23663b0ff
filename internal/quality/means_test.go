package quality

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Moments are those of the outcomes' own values.
func TestMoments(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 9))
	for _, task := range []Task{Binary, Multiclass, Regression} {
		s, err := NewState(Spec{Task: task, Quantile: map[Task]float64{Regression: .9}[task]})
		if err != nil {
			t.Fatal(err)
		}
		values := map[string][]float64{}
		for range 2000 {
			var a Answer
			var truth Truth
			put := func(metric string, v float64) { values[metric] = append(values[metric], v) }
			p := random.Float64()
			switch task {
			case Binary:
				a.Number, truth.Yes = p, random.Float64() < p
				y := 0.
				if truth.Yes {
					y = 1
				}
				put("accuracy", map[bool]float64{true: 1}[truth.Yes == (p >= .5)])
				put("brier", (p-y)*(p-y))
				put("log_loss", -math.Log(1-math.Abs(p-y)))
			case Multiclass:
				a.Class, truth.Class = "a", []string{"a", "b"}[random.IntN(2)]
				put("accuracy", map[bool]float64{true: 1}[truth.Class == "a"])
			case Regression:
				a.Number, truth.Number = random.NormFloat64(), 10+random.NormFloat64()
				e := a.Number - truth.Number
				put("mae", math.Abs(e))
				put("mape", math.Abs(e/truth.Number))
				put("quantile_loss", map[bool]float64{true: .1 * e, false: .9 * -e}[e > 0])
			}
			if err := s.Add(a, truth, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		for _, metric := range means {
			got, own := s.Moments(metric), values[metric]
			want := Moments{N: int64(len(own))}
			for _, v := range own {
				want.Mean += v / float64(len(own))
			}
			for _, v := range own {
				want.Variance += (v - want.Mean) * (v - want.Mean) / float64(len(own)-1)
			}
			if got.N != want.N || math.Abs(got.Mean-want.Mean) > 1e-9 || math.Abs(got.Variance-want.Variance) > 1e-3*want.Variance {
				t.Errorf("%s, %s: got %+v, want %+v", task, metric, got, want)
			}
		}
		if got := s.Moments("auc"); got != (Moments{}) || IsMean("auc") || !IsMean("mae") {
			t.Errorf("got %+v of auc", got)
		}
	}
	if !HigherIsBetter("accuracy") || HigherIsBetter("log_loss") || HigherIsBetter("bias") {
		t.Error("which way is better is told wrong")
	}
}

// The loss of an answer is the mean that a state tells of it alone.
func TestLoss(t *testing.T) {
	for _, c := range []struct {
		task   Task
		answer Answer
		truth  Truth
		metric string
	}{
		{Binary, Answer{Number: .8}, Truth{Yes: true}, "log_loss"},
		{Binary, Answer{Number: .8}, Truth{}, "log_loss"},
		{Binary, Answer{Number: 1}, Truth{}, "log_loss"},
		{Binary, Answer{Number: -slack / 2}, Truth{Yes: true}, "log_loss"},
		{Multiclass, Answer{Class: "a", Probabilities: []Probability{{"a", .7}, {"b", .3}}}, Truth{Class: "b"}, "log_loss"},
		{Multiclass, Answer{Class: "a", Probabilities: []Probability{{"a", .7}, {"b", .3}}}, Truth{Class: "c"}, "log_loss"},
		{Regression, Answer{Number: 3}, Truth{Number: -1}, "mae"},
	} {
		s, err := NewState(Spec{Task: c.task})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Predicted(c.answer); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(c.answer, c.truth, 0); err != nil {
			t.Fatal(err)
		}
		if got, want := s.Spec().Loss(c.answer, c.truth), s.Moments(c.metric).Mean; math.Abs(got-want) > 1e-12 || want == 0 {
			t.Errorf("%+v when %+v came true: got %g, want %g", c.answer, c.truth, got, want)
		}
	}
	bare := Spec{Task: Multiclass}
	if right, wrong := bare.Loss(Answer{Class: "a"}, Truth{Class: "a"}), bare.Loss(Answer{Class: "a"}, Truth{Class: "b"}); right != 0 || wrong != 1 {
		t.Errorf("classes without probabilities: got %g and %g, want 0 and 1", right, wrong)
	}
}

package evaluation

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// weather makes a holdout of days that each favour one model or the other: the chance of yes is told to both, moved for the whole
// day by as much as byDay says, for each model by itself, and by noise of a row. Neither is better.
func weather(random *rand.Rand, days, rows int, byDay, byRow float64) *comparison {
	c := &comparison{spec: quality.Spec{Task: quality.Binary}, blocks: days}
	logistic := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	for day := range days {
		moved := [2]float64{byDay * random.NormFloat64(), byDay * random.NormFloat64()}
		for range rows {
			truth := 1.5 * random.NormFloat64()
			c.truths = append(c.truths, quality.Truth{Yes: random.Float64() < logistic(truth)})
			c.candidate = append(c.candidate, quality.Answer{Number: logistic(truth + moved[0] + byRow*random.NormFloat64())})
			c.champion = append(c.champion, quality.Answer{Number: logistic(truth + moved[1] + byRow*random.NormFloat64())})
			c.block = append(c.block, day)
		}
	}
	return c
}

func every(n int) []int {
	rows := make([]int, n)
	for i := range rows {
		rows[i] = i
	}
	return rows
}

func measure(t *testing.T, c *comparison) map[string]modelcard.Measured {
	t.Helper()
	all, _, err := c.measure(every(len(c.truths)), "", side)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]modelcard.Measured{}
	for _, m := range all {
		of[m.Metric] = m
	}
	return of
}

// TestIntervalsHold counts how often intervals of 95 % hold what they are of, where rows of a day are alike and where they are not, and how often
// two models that are equally good are told apart.
func TestIntervalsHold(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of holdouts")
	}
	const times = 400
	for _, test := range []struct {
		days, rows   int
		byDay, byRow float64
	}{
		{14, 60, .6, .3}, // rows of a day share its weather
		{14, 60, 0, .6},  // they do not
		{7, 100, .6, .3},
		{60, 20, .6, .3},
	} {
		much := weather(rand.New(rand.NewPCG(9, 9)), 4000, 20, test.byDay, test.byRow)
		for i := range much.block {
			much.block[i] = 0
		}
		much.blocks = 1
		truth := measure(t, much)
		held, differences, naive, accepted := map[string]int{}, map[string]int{}, 0, 0
		for i := range times {
			c := weather(rand.New(rand.NewPCG(uint64(i), 5)), test.days, test.rows, test.byDay, test.byRow)
			got := measure(t, c)
			for _, metric := range []string{"log_loss", "brier", "auc", "accuracy", "f1"} {
				m, want := got[metric], truth[metric].Candidate.Value
				if i := m.Candidate.Interval; i != nil && i.Low <= want && want <= i.High {
					held[metric]++
				}
				if i := m.Worse.Interval; i != nil && i.Low <= 0 && 0 <= i.High {
					differences[metric]++
				}
			}
			if w := got["log_loss"].Worse; w.Value < 0 && w.Interval.High <= 0 {
				accepted++
			}
			s, err := quality.NewState(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.truths {
				if err := s.Add(c.candidate[i], c.truths[i], 0); err != nil {
					t.Fatal(err)
				}
			}
			if i, want := s.Report().Metrics["log_loss"].Interval, truth["log_loss"].Candidate.Value; i.Low <= want && want <= i.High {
				naive++
			}
		}
		percent := func(n int) string { return fmt.Sprintf("%.1f", 100*float64(n)/times) }
		line := ""
		for _, metric := range []string{"log_loss", "brier", "auc", "accuracy", "f1"} {
			line += fmt.Sprintf(" %s %s/%s", metric, percent(held[metric]), percent(differences[metric]))
			// Four standard errors of 400 trials below 95 %.
			if least := times * 906 / 1000; held[metric] < least || differences[metric] < least {
				t.Errorf("%+v: intervals of %s hold the truth in %d and the difference in %d of %d", test, metric, held[metric], differences[metric], times)
			}
		}
		t.Logf("%d days of %d rows, day %g, row %g: held (metric/difference)%s; log_loss as if rows were independent %s; equal ones accepted %s %%", test.days, test.rows, test.byDay, test.byRow, line, percent(naive), percent(accepted))
		if accepted > times*56/1000 { // four standard errors above 2.5 %
			t.Errorf("%+v: of %d candidates that are no better %d were found better", test, times, accepted)
		}
	}
}

// TestJackknifeOfAMean is what the formula for the mean of clusters of one size says.
func TestJackknifeOfAMean(t *testing.T) {
	means := []float64{1, 2, 4, 4, 9}
	n := float64(len(means))
	sum := 0.0
	for _, m := range means {
		sum += m
	}
	spread := 0.0
	for _, m := range means {
		spread += (m - sum/n) * (m - sum/n)
	}
	want := 2.776445 * math.Sqrt(spread/(n-1)/n) // Student's t, 4 degrees of freedom
	got := jackknife(sum/n, len(means), side, func(i int) (float64, bool) { return (sum - means[i]) / (n - 1), true })
	if got == nil || math.Abs((got.High-got.Low)/2-want) > .002*want {
		t.Errorf("got %+v, want a half of %g", got, want)
	}
	if jackknife(1, 4, side, func(int) (float64, bool) { return 1, true }) != nil || jackknife(1, 6, side, func(i int) (float64, bool) { return 1, i != 3 }) != nil {
		t.Error("of four blocks, or where a block's absence leaves nothing, nothing can be told")
	}
}

func TestStudent(t *testing.T) {
	for _, c := range []struct{ chance, freedom, want float64 }{ // from tables
		{.025, 4, 2.776445}, {.025, 13, 2.160369}, {.025, 59, 2.000995}, {.005, 4, 4.604095}, {.005, 9, 3.249836}, {.001, 4, 7.173182}, {.001, 13, 3.851982}, {.0005, 30, 3.645959},
	} {
		if got := student(c.chance, c.freedom); math.Abs(got-c.want) > .02*c.want {
			t.Errorf("t of %g with %g degrees: got %g, want %g", c.chance, c.freedom, got, c.want)
		}
	}
}

func TestBlocks(t *testing.T) {
	day := int64(24 * time.Hour / time.Microsecond)
	block, n, width := blocksOf([]int64{-1, 0, 5, day, day - 1, 3 * day}, 24*time.Hour)
	if want := []int{0, 1, 1, 2, 1, 3}; fmt.Sprint(block) != fmt.Sprint(want) || n != 4 || width != 24*time.Hour {
		t.Errorf("got %v, %d, %s", block, n, width)
	}
	var long []int64
	for i := range int64(365) {
		long = append(long, i*day)
	}
	if _, n, width := blocksOf(long, 24*time.Hour); n > blocksMost || width != 8*24*time.Hour {
		t.Errorf("a year: got %d blocks of %s", n, width)
	}
}

// BenchmarkMeasure compares 98,000 rows of 14 days by all metrics.
func BenchmarkMeasure(b *testing.B) {
	c := weather(rand.New(rand.NewPCG(1, 1)), 14, 7000, .6, .3)
	rows := every(len(c.truths))
	for b.Loop() {
		if _, _, err := c.measure(rows, "", side); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(rows))*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

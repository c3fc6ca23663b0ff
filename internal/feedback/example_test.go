package feedback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// However predictions are spread over windows, and in whatever order these are merged, the same ones are named.
func TestExamplesMerge(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	for range 200 {
		var all []example
		traced := 1 + random.IntN(20) // each such one is
		for n := range 1 + random.IntN(40) {
			all = append(all, example{fmt.Sprint("p", n/2), int32(n % 2), float64(random.IntN(8)), n/2%traced == 0}) // of two rows each, many of them as bad as others
		}
		var want examples
		for _, e := range all {
			want.add(e)
		}
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		var got examples
		for some := range slices.Chunk(all, 1+random.IntN(10)) {
			var window examples
			for _, e := range some {
				window.add(e)
			}
			got.merge(window)
		}
		told := got.told()
		if !slices.Equal(got, want) || len(told) != min(len(got), examplesMost) || told[0].Prediction != want[0].ID {
			t.Fatalf("got %v, want %v", got, want)
		}
		named := func(e example) bool {
			return e.Traced && slices.ContainsFunc(told, func(x event.Example) bool { return x.Prediction == e.ID })
		}
		if slices.ContainsFunc(all, isTraced) && !slices.ContainsFunc(all, named) {
			t.Fatalf("none of %v is traced", got)
		}
	}
}

// Alerts name the predictions that show what they are about: the most wrong, the oddest, the slowest, and those that failed last.
func TestExamplesOfAlerts(t *testing.T) {
	w := newWorld(t, 1)
	putReferenceOf(t, w, 1) // distances from 500 to 599
	at := time.Now().Add(-30 * time.Minute)
	begun := at
	for part := range 4 { // each a segment, and a commit
		log, err := payload.Open(&payload.Config{On: "on", Memory: 8 << 20, Every: time.Hour}, w.blob, nil, w.tel)
		if err != nil {
			t.Fatal(err)
		}
		var outcomes []string
		for n := range 50 {
			at = at.Add(time.Second)
			id := fmt.Sprintf("p%d-%02d", part, n)
			probability, distance, took := .5, float64(540+n%10), time.Duration(n)*time.Millisecond
			switch n {
			case 7: // certain, and wrong: by part more so
				probability = .90 + float64(part)/50
			case 8: // farther than training ever saw
				distance = float64(800 + 100*part)
			case 9:
				took = time.Duration(1+part) * time.Second
			}
			p := &payload.Prediction{
				ID: id, Asked: at, At: at, Latency: took, Rows: 1,
				Given:   []tensor.Tensor{tensor.OfStrings("carrier", []int64{1}, []string{carriers[n%4]}), tensor.Of("distance", []int64{1}, []float64{distance})},
				Outputs: []tensor.Tensor{tensor.Of("probability", []int64{1, 1}, []float64{probability}), tensor.Of("label", []int64{1}, []int64{0})},
			}
			if n == 10 {
				p.Err = errors.New("failed")
			}
			log.Add(&payload.Origin{Model: "m", Version: 1, Sample: 1}, p)
			outcomes = append(outcomes, fmt.Sprintf(`{"prediction":%q,"value":false}`, id))
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		w.send(outcomes...)
		w.catchUp(w.later(0))
	}
	source := &watcher{w.later(0), map[[2]int64]*window{}}
	for _, c := range []struct {
		metric, column, slice string
		first                 []string
	}{
		{metric: "log_loss", first: []string{"p3-07", "p2-07", "p1-07", "p0-07"}},
		{metric: "accuracy", first: []string{"p3-07", "p2-07", "p1-07", "p0-07"}},
		{metric: "log_loss", slice: "UA", first: []string{"p3-07", "p2-07", "p1-07", "p0-07"}},
		{metric: "log_loss", slice: "AA"}, // all as wrong as each other
		{metric: "estimated_log_loss"},
		{metric: alert.ErrorRate, first: []string{"p3-10", "p2-10", "p1-10", "p0-10"}},
		{metric: "latency_p99", first: []string{"p3-09", "p2-09", "p1-09", "p0-09"}},
		{metric: "psi", column: "distance", first: []string{"p3-08", "p2-08", "p1-08", "p0-08"}},
		{metric: "drift", first: []string{"p3-08", "p2-08", "p1-08", "p0-08"}},
		{metric: "drift_share", first: []string{"p3-08"}},
		{metric: "freshness_prediction"},
	} {
		t.Run(c.metric+c.slice, func(t *testing.T) {
			q := &alert.Query{Model: "m", Metric: c.metric, Column: c.column, From: begun.Add(-time.Hour), Until: time.Now().Add(time.Hour)}
			if c.slice != "" {
				q.Slice = map[string]string{"carrier": c.slice}
			}
			samples, err := source.Samples(t.Context(), q)
			if err != nil || len(samples) > 1 || len(samples) == 0 && c.first != nil {
				t.Fatalf("got %+v, %v", samples, err)
			}
			if len(samples) == 0 {
				return
			}
			var got []string
			for _, e := range samples[0].Examples {
				got = append(got, e.String())
			}
			if len(got) > alert.ExamplesMost || !slices.Equal(got[:min(len(c.first), len(got))], c.first) || c.metric == "freshness_prediction" && got != nil {
				t.Errorf("got %v, want %v first", got, c.first)
			}
		})
	}
	// They are told beside the numbers, too, and of those numbers alone.
	q := &Question{Model: "m", From: begun.Add(-time.Hour), Until: time.Now().Add(time.Hour), Slice: "carrier"}
	judged, err := source.Judge(t.Context(), q)
	if err != nil || len(judged.Versions) != 5 || judged.Versions[0].Examples[0].Prediction != "p3-07" {
		t.Errorf("got %+v, %v", judged, err)
	}
}

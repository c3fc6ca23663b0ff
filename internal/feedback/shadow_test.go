package feedback

import (
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// An outcome counts for all versions that were asked by its prediction's id, the one that answered and its shadow, also where their
// predictions were taken in by different commits: in windows as by the log, and by an entity, too.
func TestOutcomesCountForShadows(t *testing.T) {
	l := newLoop(t)
	catalog := model.NewCatalog(l.blob, time.Minute, nil)
	for range 2 {
		_, err := catalog.Publish(t.Context(), model.Manifest{
			Name: "m", Runtime: "onnx", Digest: model.Digest("sha256:" + strings.Repeat("0", 64)), Size: 1, Memory: engine.Memory{Session: 1, Loading: 1},
			Signature: engine.Signature{Outputs: []tensor.Spec{{Name: "probability", Type: tensor.FP64, Shape: []int64{-1, 1}}, {Name: "label", Type: tensor.Int64, Shape: []int64{-1}}}},
			Settings:  model.Settings{Quality: model.Quality{Entity: []string{"gate"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	l.journal.now = func() time.Time { return monday.Add(time.Hour) } // or it would not wait for segments so old
	l.predict(1, 0, .9, .2, .8, .4, .3)
	if _, err := l.journal.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.predict(2, 0, .9, .8, .8, .6, .9) // what the shadow says of the same
	l.send(outcomeOf(0, "true"), outcomeOf(1, "false"), outcomeOf(2, "true"), outcomeOf(3, "false"))
	l.send(`{"model":"m","entity":{"gate":4},"at":"` + monday.Add(time.Hour).Format(time.RFC3339) + `","value":false}`)
	for _, test := range []struct {
		query, by string
		outcomes  int64
		now       time.Time
	}{
		{"", ByWindows, 4, monday.Add(time.Hour)},
		{"task=binary", ByLog, 5, monday.Add(time.Hour)},
		{"", ByWindows, 5, time.Now().Add(2 * time.Hour)}, // an outcome of an entity waits for all predictions
	} {
		l.journal.now = func() time.Time { return test.now }
		j := l.judge(test.query)
		if len(j.Versions) != 2 || j.By != test.by || j.Versions[0].Report == nil || j.Versions[1].Report == nil {
			t.Fatalf("%q: got %+v", test.query, j)
		}
		one, two := j.Versions[0].Report, j.Versions[1].Report
		right := map[int64]float64{4: .5, 5: .4}[test.outcomes] // of the shadow's
		if one.Outcomes != test.outcomes || two.Outcomes != test.outcomes || one.Metrics["accuracy"].Value != 1 || two.Metrics["accuracy"].Value != right {
			t.Errorf("%q: got %+v and %+v", test.query, one, two)
		}
	}
}

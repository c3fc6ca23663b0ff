package train

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// The trainer in docs/training.md is one.
func TestTrainerOfTheDocumentation(t *testing.T) {
	python, err := filepath.Abs("../../.venv-flights/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("SKIPPED, because there is no Python for trainers: run `make flights-venv`")
	}
	b, err := os.ReadFile("../../docs/training.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, found := strings.Cut(string(b), "```python\n")
	code, _, ended := strings.Cut(code, "```")
	if !found || !ended {
		t.Fatal("docs/training.md has no trainer in Python")
	}
	path := filepath.Join(t.TempDir(), "mine.py")
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{quality.Binary, rand.New(rand.NewPCG(1, 2))}
	d := w.dataset(500, 200)
	d.Inputs = []tensor.Spec{{Name: "carrier", Type: tensor.Bytes, Shape: []int64{-1, 1}}, {Name: "x", Type: tensor.FP32, Shape: []int64{-1, 1}}, {Name: "n", Type: tensor.Int64, Shape: []int64{-1, 1}}}
	draw := func(n int) (all [][]row.Value) {
		for range n {
			x, label := w.rand.NormFloat64(), 0.0
			if x+w.rand.NormFloat64() > 0 {
				label = 1
			}
			all = append(all, []row.Value{row.OfString("AA"), row.OfFloat32(float32(x)), row.OfInt64(w.rand.Int64N(9)), row.OfFloat64(label)})
		}
		all[0][1] = row.Value{}
		return all
	}
	task, log, err := trained(t, t.Context(), deps(t, "mine="+python+" "+path), "{trainer: mine, options: {c: 0.5}}", d, write(t, &d, "train", draw(500)), write(t, &d, "holdout", draw(200)))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	var metrics map[string]float64
	if err := json.Unmarshal(task.Outputs["metrics"].Value, &metrics); err != nil || !(metrics["log_loss"] < math.Ln2) {
		t.Errorf("got %v, %v", metrics, err)
	}
	if !strings.Contains(log.String(), "learnt from 500 rows") || task.Outputs["predictions"].Key == "" {
		t.Errorf("got %v\n%s", task.Outputs, log)
	}
}

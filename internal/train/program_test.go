package train

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/onnxwire"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// small inputs, so that a program of sh can write a model for them.
var pair = []tensor.Spec{{Name: "x", Type: tensor.FP32, Shape: []int64{-1, 1}}, {Name: "y", Type: tensor.FP32, Shape: []int64{-1, 1}}}

// sum is a model that adds its inputs, and calls that by a name.
func sum(inputs []tensor.Spec, output string) []byte {
	var g onnxwire.Graph
	var names []string
	for _, in := range inputs {
		g.Inputs = append(g.Inputs, onnxwire.Tensor(in.Name, in.Type, in.Shape...))
		names = append(names, in.Name)
	}
	g.Outputs = []onnxwire.Value{onnxwire.Tensor(output, tensor.FP32, -1, 1)}
	g.Nodes = []onnxwire.Node{{Op: "Sum", In: names, Out: []string{output}}}
	return onnxwire.Model{Graph: g}.Bytes()
}

// program makes a trainer of a script of sh.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trainer.sh")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return "mine=/bin/sh " + path
}

// writes is a script that writes a model.
func writes(model []byte, more string) string {
	return fmt.Sprintf("base64 -d > \"$OUTPUT/model.onnx\" <<'END'\n%s\nEND\n%s\n", base64.StdEncoding.EncodeToString(model), more)
}

func TestPrograms(t *testing.T) {
	w := &world{quality.Regression, rand.New(rand.NewPCG(1, 1))}
	d := w.dataset(10, 5)
	rows, held := write(t, &d, "train", w.rows(10)), write(t, &d, "holdout", w.rows(5))
	d.Inputs = pair
	good := sum(pair, "value")
	const metrics = `echo '{"mae": 1.5, "rows": 10}' > "$OUTPUT/metrics.json"`
	for name, test := range map[string]struct{ script, want string }{
		"good":             {writes(good, metrics+`; test -s "$DATASET/train.parquet" && test -s "$DATASET/holdout.parquet" && grep -q '"options":{"deep":7,"list":\["a"\]}' "$DATASET/dataset.json"`), ""},
		"no model":         {metrics, "wrote no model.onnx"},
		"nothing":          {"", "wrote no model.onnx"},
		"no metrics":       {writes(good, ""), "wrote no metrics.json"},
		"NaN":              {writes(good, `echo '{"mae": NaN}' > "$OUTPUT/metrics.json"`), "is not one object of numbers"},
		"null":             {writes(good, `echo '{"mae": null}' > "$OUTPUT/metrics.json"`), "is not one object of numbers"},
		"nested metrics":   {writes(good, `echo '{"mae": {"a": 1}}' > "$OUTPUT/metrics.json"`), "is not one object of numbers"},
		"no metrics in it": {writes(good, `echo null > "$OUTPUT/metrics.json"`), "is not one object of numbers"},
		"huge metrics":     {writes(good, `head -c 70000 /dev/zero > "$OUTPUT/metrics.json"`), "metrics.json has 70000 bytes, more than 65536"},
		"no ONNX":          {"echo hello > \"$OUTPUT/model.onnx\";" + metrics, "open the model of trainer mine: the file is not an ONNX model"},
		"empty":            {": > \"$OUTPUT/model.onnx\";" + metrics, "the model's file is empty"},
		"truncated":        {writes(good[:len(good)-20], metrics), "open the model of trainer mine"},
		"a link":           {"ln -s /etc/passwd \"$OUTPUT/model.onnx\";" + metrics, "the trainer's model.onnx is no regular file"},
		"a pipe":           {"mkfifo \"$OUTPUT/model.onnx\";" + metrics, "the trainer's model.onnx is no regular file"},
		"a folder":         {"mkdir \"$OUTPUT/model.onnx\";" + metrics, "the trainer's model.onnx is no regular file"},
		"linked metrics":   {writes(good, "ln -s /etc/passwd \"$OUTPUT/metrics.json\""), "the trainer's metrics.json is no regular file"},
		"an input less":    {writes(sum(pair[:1], "value"), metrics), `can't take the place of m: it has no input "y"`},
		"an input more":    {writes(sum(append(pair[:2:2], tensor.Spec{Name: "z", Type: tensor.FP32, Shape: []int64{-1, 1}}), "value"), metrics), `it has an input "z", which is no column`},
		"another shape":    {writes(sum([]tensor.Spec{pair[0], {Name: "y", Type: tensor.FP32, Shape: []int64{1, 1}}}, "value"), metrics), `its input "y" is FP32 [1,1], expected FP32 [-1,1]`},
		"another output":   {writes(sum(pair, "amount"), metrics), `it has no output "value"`},
		"said by settings": {writes(sum(pair, "amount"), metrics+`; echo '{"quality": {"task": "regression", "output": "amount"}}' > "$OUTPUT/settings.json"`), ""},
		"strange settings": {writes(good, metrics+`; echo '{"qualities": {}}' > "$OUTPUT/settings.json"`), "settings.json of trainer mine is not settings of a version"},
		"two settings":     {writes(good, metrics+`; echo '{} {}' > "$OUTPUT/settings.json"`), "more than one object"},
		"crash":            {writes(good, metrics+"; echo oh no; exit 2"), "ended with status 2; the last that it said: oh no"},
		"gigabytes":        {"yes > \"$OUTPUT/model.onnx\"", "wrote more than the"},
		"fails when it runs": {writes(onnxwire.Model{Graph: onnxwire.Graph{
			Inputs:  []onnxwire.Value{onnxwire.Tensor("x", tensor.FP32, -1, 1), onnxwire.Tensor("y", tensor.FP32, -1, 1)},
			Outputs: []onnxwire.Value{onnxwire.Tensor("value", tensor.FP32, -1, 1)}, Constants: []tensor.Tensor{tensor.Of("shape", []int64{2}, []int64{7, 7})},
			Nodes: []onnxwire.Node{{Op: "Add", In: []string{"x", "y"}, Out: []string{"s"}}, {Op: "Reshape", In: []string{"s", "shape"}, Out: []string{"value"}}},
		}}.Bytes(), metrics), "the model of trainer mine"},
	} {
		task, log, err := trained(t, t.Context(), deps(t, program(t, test.script)), "{trainer: mine, options: {deep: 7, list: [a]}}", d, rows, held)
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, log)
				continue
			}
			var got map[string]float64
			if err := json.Unmarshal(task.Outputs["metrics"].Value, &got); err != nil || got["mae"] != 1.5 || task.Outputs["model"].Key == "" {
				t.Errorf("%s: got %v, %v", name, got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(fault.Message(err)+err.Error(), test.want) || len(task.Outputs) > 0 && task.Outputs["model"].Key != "" {
			t.Errorf("%s: got %v and %v, want %s", name, err, task.Outputs, test.want)
		}
		if !fault.Is(err, fault.Invalid) && name != "fails when it runs" {
			t.Errorf("%s: got %v", name, fault.KindOf(err))
		}
	}
}

// A program that hangs ends with the step's time.
func TestProgramThatHangs(t *testing.T) {
	w := &world{quality.Regression, rand.New(rand.NewPCG(1, 1))}
	d := w.dataset(10, 5)
	rows := write(t, &d, "train", w.rows(10))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, _, err := trained(t, ctx, deps(t, program(t, "sleep 600")), "{trainer: mine}", d, rows, rows)
	if !errors.Is(err, context.DeadlineExceeded) || fault.KindOf(err) != fault.Deadline {
		t.Errorf("got %v, of kind %v", err, fault.KindOf(err))
	}
}

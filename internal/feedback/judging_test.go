package feedback

import (
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/engine"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// How answers are judged is told by the manifest or else by what the model puts out.
func TestHowAnswersAreJudged(t *testing.T) {
	probability := tensor.Spec{Name: "probability", Type: tensor.FP32, Shape: []int64{-1, 1}}
	label := tensor.Spec{Name: "label", Type: tensor.Int64, Shape: []int64{-1}}
	classes := tensor.Spec{Name: "probabilities", Type: tensor.FP32, Shape: []int64{-1, 3}, Labels: []string{"cat", "dog", "owl"}}
	pair := tensor.Spec{Name: "probabilities", Type: tensor.FP32, Shape: []int64{-1, 2}}
	for _, c := range []struct {
		name    string
		outputs []tensor.Spec
		quality model.Quality
		row     string
		want    quality.Answer
		task    quality.Task
		wrong   string
	}{
		{name: "a probability", outputs: []tensor.Spec{label, probability}, row: `{"probability":0.25,"label":1}`, want: quality.Answer{Number: .25}, task: quality.Binary},
		{name: "two", outputs: []tensor.Spec{pair}, row: `{"probabilities":[0.75,0.25]}`, want: quality.Answer{Number: .25}, task: quality.Binary},
		{name: "a label", outputs: []tensor.Spec{label}, row: `{"label":3}`, want: quality.Answer{Class: "3"}, task: quality.Multiclass},
		{name: "a word", outputs: []tensor.Spec{{Name: "x", Type: tensor.Bytes, Shape: []int64{-1}}}, row: `{"x":"a\"b"}`, want: quality.Answer{Class: `a"b`}, task: quality.Multiclass},
		{name: "yes or no", outputs: []tensor.Spec{{Name: "x", Type: tensor.Bool, Shape: []int64{-1}}}, row: `{"x":true}`, want: quality.Answer{Number: 1}, task: quality.Binary},
		{name: "an amount", outputs: []tensor.Spec{{Name: "x", Type: tensor.FP64, Shape: []int64{-1}}}, row: `{"x":-1e3}`, want: quality.Answer{Number: -1000}, task: quality.Regression},
		{name: "said", outputs: []tensor.Spec{label, probability}, quality: model.Quality{Spec: quality.Spec{Task: quality.Multiclass}, Output: "label"}, row: `{"probability":0.25,"label":1}`, want: quality.Answer{Class: "1"}, task: quality.Multiclass},
		{
			name: "classes", outputs: []tensor.Spec{classes}, row: `{"probabilities":[0.25,0.625,0.125]}`, task: quality.Multiclass,
			want: quality.Answer{Class: "dog", Probabilities: []quality.Probability{{Class: "cat", P: .25}, {Class: "dog", P: .625}, {Class: "owl", P: .125}}},
		},
		{name: "none says it", outputs: []tensor.Spec{label, {Name: "x"}}, wrong: "the model has 2 outputs, and quality.output does not say which is the answer"},
		{name: "no such output", outputs: []tensor.Spec{label}, quality: model.Quality{Output: "x"}, wrong: `quality.output is "x", and the model has no such output`},
		{name: "no such task", outputs: []tensor.Spec{label}, quality: model.Quality{Spec: quality.Spec{Task: "guess"}}, wrong: `the task is "guess", expected binary, multiclass or regression`},
		{name: "redacted", outputs: []tensor.Spec{probability}, row: ``, wrong: "its outputs are not in the log"},
		{name: "slim", outputs: []tensor.Spec{probability}, row: `{"probability":{"datatype":"FP32","shape":[1]}}`, wrong: `the output "probability" is {"datatype":"FP32","shape":[1]}, expected a number`},
		{name: "too much", outputs: []tensor.Spec{probability}, row: `{"probability":12}`, wrong: "the answer is 12, expected a probability from 0 to 1"},
		{name: "three for two", outputs: []tensor.Spec{pair}, row: `{"probabilities":[0.25,0.5,0.25]}`, wrong: `the output "probabilities" is [0.25,0.5,0.25], which says no answer that is binary`},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, err := judgingOf(&model.Manifest{Signature: engine.Signature{Outputs: c.outputs}, Settings: model.Settings{Quality: c.quality}})
			var got quality.Answer
			if err == nil {
				var p parsed
				if err := p.read(&payload.Row{Outputs: c.row}); err != nil {
					t.Fatal(err)
				}
				got, err = j.answer(p.outputs)
			}
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("got %v, want %s", err, c.wrong)
				}
				return
			}
			if err != nil || asJSON(t, got) != asJSON(t, c.want) || j.spec.Task != c.task {
				t.Errorf("got %+v %s, %v, want %+v %s", got, j.spec.Task, err, c.want, c.task)
			}
		})
	}
}

// FuzzRow reads any text as the values of a row.
func FuzzRow(f *testing.F) {
	f.Add(`{"a":1,"b":"x\ty","c":[1,2],"d":null,"e":{"f":true}}`, `{"a":1700000000000000}`)
	f.Add(`{`, `[]`)
	f.Fuzz(func(_ *testing.T, text, times string) {
		var p parsed
		p.newest(times)
		if p.read(&payload.Row{Inputs: text, Features: times, Outputs: text}) != nil {
			return
		}
		for _, m := range p.inputs {
			m.value.text()
			m.value.number()
		}
		entityOf(p.inputs, []string{"a", "b"})
		for _, task := range []quality.Task{quality.Binary, quality.Multiclass, quality.Regression} {
			_, _ = (&judging{spec: quality.Spec{Task: task}}).answer(p.outputs)
		}
	})
}

package feedback

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// judging is how the answers of a version are judged.
type judging struct {
	spec   quality.Spec
	output string   // that is the answer; "": the only one, or the one of the name usual
	labels []string // of an output of probabilities: its classes
	entity []string // inputs by which outcomes may name predictions
	slices []string // columns by which answers are told apart
}

// usual is the name of the output that is taken for the answer where nothing is said and there are several.
const usual = "probability"

// judgingOf is told by the manifest: by what its publisher said or, where that is nothing, by what it puts out. The probability
// of something is binary, texts and whole numbers are classes, and other numbers are amounts. An error says why there can't be one.
func judgingOf(m *model.Manifest) (*judging, error) {
	j := &judging{spec: m.Quality.Spec, output: m.Quality.Output, entity: m.Quality.Entity, slices: slices.Clone(m.Quality.Slices)}
	outputs := m.Signature.Outputs
	at := slices.IndexFunc(outputs, func(o tensor.Spec) bool { return o.Name == j.output })
	switch {
	case j.output != "" && at < 0:
		return nil, fault.New(fault.Invalid, "quality.output is %q, and the model has no such output", j.output)
	case j.output != "":
	case len(outputs) == 1:
		at = 0
	default:
		at = slices.IndexFunc(outputs, func(o tensor.Spec) bool { return o.Name == usual })
	}
	if at < 0 {
		return nil, fault.New(fault.Invalid, "the model has %d outputs, and quality.output does not say which is the answer", len(outputs))
	}
	o := &outputs[at]
	j.output, j.labels = o.Name, o.Labels
	slices.Sort(j.slices)
	j.slices = slices.Compact(j.slices) // or answers would count twice
	if j.spec.Task != "" {
		return j, j.spec.Validate()
	}
	values := int64(1) // of a row; -1: not known
	for _, n := range o.Shape[min(1, len(o.Shape)):] {
		values = max(values*n, -1)
	}
	switch {
	case strings.HasPrefix(o.Name, "probabilit") && (values > 2 || o.Type == tensor.Bytes):
		j.spec.Task = quality.Multiclass
	case strings.HasPrefix(o.Name, "probabilit"), o.Type == tensor.Bool:
		j.spec.Task = quality.Binary
	case o.Type == tensor.FP16, o.Type == tensor.BF16, o.Type == tensor.FP32, o.Type == tensor.FP64:
		j.spec.Task = quality.Regression
	default:
		j.spec.Task = quality.Multiclass
	}
	return j, j.spec.Validate()
}

// answer reads what was predicted out of the outputs of a row: a number, a text or, of probabilities, one for each class. Classes
// without labels are called 0, 1 and so on; of two, a binary answer is the second.
func (j *judging) answer(outputs members) (a quality.Answer, err error) {
	name := j.output
	if name == "" {
		name = usual
		if len(outputs) == 1 {
			name = string(outputs[0].name)
		}
	}
	v, ok := outputs.get(name)
	switch {
	case len(outputs) == 0:
		return a, fault.New(fault.Invalid, "its outputs are not in the log")
	case !ok:
		var names []string
		for _, m := range outputs {
			names = append(names, string(m.name))
		}
		slices.Sort(names)
		return a, fault.New(fault.Invalid, "which output is the answer? expected one of %s, not %q", strings.Join(names, ", "), name)
	}
	if v[0] == '[' {
		return j.among(name, v)
	}
	if j.spec.Task == quality.Multiclass {
		a.Class = v.text()
		return a, j.spec.Check(a)
	}
	if a.Number, ok = v.number(); !ok {
		return a, fault.New(fault.Invalid, "the output %q is %.40s, expected a number", name, v)
	}
	return a, j.spec.Check(a)
}

// among reads an array of probabilities.
func (j *judging) among(name string, v value) (a quality.Answer, err error) {
	var p []float64
	if json.Unmarshal(v, &p) != nil || j.spec.Task == quality.Regression || j.spec.Task == quality.Binary && len(p) != 2 || len(p) == 0 {
		return a, fault.New(fault.Invalid, "the output %q is %.40s, which says no answer that is %s", name, v, j.spec.Task)
	}
	if j.spec.Task == quality.Binary {
		a.Number = p[1]
		return a, j.spec.Check(a)
	}
	most := 0
	for i := range p {
		if p[i] > p[most] {
			most = i
		}
		a.Probabilities = append(a.Probabilities, quality.Probability{Class: j.class(i), P: p[i]})
	}
	a.Class = j.class(most)
	return a, j.spec.Check(a)
}

func (j *judging) class(i int) string {
	if i < len(j.labels) {
		return j.labels[i]
	}
	return strconv.Itoa(i)
}

// entityOf writes what a row was about as Entity does; "" where it does not say.
func entityOf(inputs members, keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	object := []byte{'{'}
	for i, k := range keys {
		v, ok := inputs.get(k)
		if !ok {
			return ""
		}
		if i > 0 {
			object = append(object, ',')
		}
		object = append(append(jsonwire.AppendString(object, k), ':'), v...)
	}
	text, err := Entity(append(object, '}'))
	if err != nil {
		return ""
	}
	return text
}

// value is a JSON value.
type value []byte

// text is that of a string, or the value as it is written.
func (v value) text() string {
	if v[0] != '"' {
		return string(v)
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1])
	}
	var s string
	if json.Unmarshal(v, &s) != nil {
		return string(v)
	}
	return s
}

// number is that of a number or a boolean.
func (v value) number() (f float64, ok bool) {
	if len(v) == 0 {
		return 0, false
	}
	switch v[0] {
	case 't':
		return 1, true
	case 'f':
		return 0, true
	case '"', '[', '{', 'n':
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	return f, err == nil
}

// members are those of a JSON object.
type members []member

type member struct {
	name  []byte
	value value
}

func (m members) get(name string) (value, bool) {
	for i := range m {
		if string(m[i].name) == name {
			return m[i].value, true
		}
	}
	return nil, false
}

// parsed is the values of a row of a prediction. They are valid until the next one is read.
type parsed struct {
	inputs, features, outputs members
	scan                      jsonwire.Scanner
	text                      []byte
}

// read reads a row.
func (p *parsed) read(r *payload.Row) error {
	size := len(r.Inputs) + len(r.Features) + len(r.Outputs)
	p.text = slices.Grow(p.text[:0], size)
	for _, part := range [...]struct {
		text string
		to   *members
	}{{r.Inputs, &p.inputs}, {r.Features, &p.features}, {r.Outputs, &p.outputs}} {
		start := len(p.text)
		p.text = append(p.text, part.text...)
		var err error
		if *part.to, err = p.object((*part.to)[:0], p.text[start:]); err != nil {
			return fault.Wrap(fault.Invalid, err, "its values are not a JSON object")
		}
	}
	return nil
}

func (p *parsed) object(to members, text []byte) (members, error) {
	if len(text) == 0 {
		return to, nil
	}
	p.scan.Text, p.scan.Pos, p.scan.What = text, 0, "the row"
	if !p.scan.Take('{') {
		return to, p.scan.Expected("{")
	}
	for i := 0; ; i++ {
		from := p.scan.Pos
		name, err := p.scan.Member(i)
		if err != nil {
			return to, err
		}
		if name == nil {
			return to, nil
		}
		if bytes.IndexByte(text[from:p.scan.Pos], '\\') >= 0 { // it is the scanner's, until the next one
			name = bytes.Clone(name)
		}
		p.scan.Peek()
		from = p.scan.Pos
		if err := p.scan.Skip(); err != nil {
			return to, err
		}
		to = append(to, member{name, text[from:p.scan.Pos]})
	}
}

// column is the value of a column: the feature of its name, else the input or the output.
func (p *parsed) column(name string) (value, bool) {
	for _, of := range [...]members{p.features, p.inputs, p.outputs} {
		if v, ok := of.get(name); ok {
			return v, true
		}
	}
	return nil, false
}

// newest is the latest of the times that features are of; 0: there is none.
func (p *parsed) newest(times string) (latest int64) {
	all, err := p.object(nil, []byte(times))
	if err != nil {
		return 0
	}
	for _, m := range all {
		if t, err := strconv.ParseInt(string(m.value), 10, 64); err == nil {
			latest = max(latest, t)
		}
	}
	return latest
}

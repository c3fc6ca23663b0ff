package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// tryPage asks a model: a form that is made of what it takes, the request as it is sent, and what came of it.
type tryPage struct {
	Model   string
	Version string // that is asked; "": the one that answers
	Inputs  []tryInput
	Service string // whose features are fetched for it; "": it takes none
	Time    string // as of when
	Request string // JSON
	Curl    string
	Answer  *tryAnswer
	Failed  string // why there is no answer
}

// tryInput is a field of the form.
type tryInput struct {
	spec
	Field  string // its name in the form
	Value  string
	Scalar bool   // one value
	Kind   string // of the field, in HTML
	Hint   string // where the value is from; "": nowhere
}

// tryAnswer is what came.
type tryAnswer struct {
	Model      string      `json:"model_name"`
	Version    string      `json:"model_version"`
	Outputs    []tryOutput `json:"outputs"`
	Took       time.Duration
	Prediction string
	Cache      string
	JSON       string
}

type tryOutput struct {
	spec
	Data json.RawMessage `json:"data"`
}

// Text is what it holds, as far as it is shown.
func (o *tryOutput) Text() string { return clipped(string(o.Data), 2000) }

const rows = 1 // that a form asks for

// elements is how many values a spec has for one row; tensorsMost stands for more than that, too.
func (s *spec) elements() (n int64) {
	n = rows
	for _, d := range s.Shape {
		if d > 1 {
			n = min(n*min(d, tensorsMost), tensorsMost)
		}
	}
	return n
}

// shape is that of one row.
func (s *spec) shape() []int64 {
	shape := make([]int64, len(s.Shape))
	for i, d := range s.Shape {
		if shape[i] = d; d < 0 {
			shape[i] = rows
		}
	}
	return shape
}

// request is an inference request of the V2 protocol.
type request struct {
	Parameters map[string]any `json:"parameters,omitempty"`
	Inputs     []requestInput `json:"inputs"`
}

type requestInput struct {
	Name  string          `json:"name"`
	Shape []int64         `json:"shape"`
	Type  string          `json:"datatype"`
	Data  json.RawMessage `json:"data"`
}

// tensorsMost is how many values of a tensor a form is filled with.
const tensorsMost = 10_000

// try shows the form.
func (c *Console) try(q *Query) (*View, error) {
	p, err := q.tryForm()
	if err != nil {
		return nil, err
	}
	if id := q.FormValue("prediction"); id != "" {
		if err := q.repeat(p, id); err != nil {
			return nil, err
		}
	}
	if err := p.write(q, false); err != nil {
		return nil, err
	}
	return p.view(), nil
}

func (p *tryPage) view() *View {
	return &View{Title: "Try " + p.Model, Nav: "/console/models", Data: p}
}

// tried sends what was filled in.
func (c *Console) tried(q *Query) (*View, error) {
	p, err := q.tryForm()
	if err != nil {
		return nil, err
	}
	for i := range p.Inputs {
		p.Inputs[i].Value, p.Inputs[i].Hint = q.PostFormValue(p.Inputs[i].Field), ""
	}
	p.Time = strings.TrimSpace(q.PostFormValue("time"))
	err = p.write(q, true)
	if raw := q.PostFormValue("raw"); raw != "" { // it is written by hand
		p.Request, err = raw, nil
		p.Curl = q.curl(p.path(), raw)
	}
	if err == nil {
		err = p.send(q)
	}
	if fault.Is(err, fault.Unauthenticated) {
		return nil, err
	}
	if err != nil {
		p.Failed = fault.Message(err)
	}
	return p.view(), nil
}

func (p *tryPage) path() string {
	path := at("/v2/models", p.Model)
	if p.Version != "" {
		path = at(path+"/versions", p.Version)
	}
	return path
}

// tryForm makes the form of what the model says that callers bring.
func (q *Query) tryForm() (*tryPage, error) {
	p := &tryPage{Model: q.PathValue("model"), Version: strings.TrimSpace(q.FormValue("version"))}
	var meta struct {
		Inputs []spec `json:"inputs"`
	}
	if err := q.get(p.path(), &meta); err != nil {
		return nil, err
	}
	sample, typical := q.sample(p)
	for i, s := range meta.Inputs {
		in := tryInput{spec: s, Field: "input-" + strconv.Itoa(i), Scalar: s.elements() == 1, Kind: "text"}
		data, given := sample[s.Name]
		if in.Hint = "sample"; !given {
			in.Hint = "typical"
			if data, given = typical[s.Name]; !given || !in.Scalar {
				in.Hint, data = "", plain(&s)
			}
		}
		in.Value = string(data)
		if in.Scalar {
			in.Value = scalarText(data)
			if s.Type != "BYTES" && s.Type != "BOOL" {
				in.Kind = "number"
			}
		}
		p.Inputs = append(p.Inputs, in)
	}
	return p, nil
}

// sample gives values by input, of one row: those of the publisher's sample request, and what is typical of the data that the version was
// trained on, as far as its card tells. Nothing: there are none, or they can't be had: who may ask a model need not be one who may look at it.
func (q *Query) sample(p *tryPage) (sample, typical map[string]json.RawMessage) {
	version := p.Version
	if version == "" {
		version = "champion"
	}
	var m struct {
		Features string `json:"features"`
		Warmup   struct {
			Sample struct {
				Inputs []requestInput `json:"inputs"`
			} `json:"sample"`
		} `json:"warmup"`
	}
	of := at("/admin/v1/models", p.Model, "versions", version)
	if q.get(of, &m) != nil {
		return nil, nil
	}
	p.Service = m.Features
	sample, typical = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for _, in := range m.Warmup.Sample.Inputs {
		if len(in.Shape) == 0 || in.Shape[0] == rows {
			sample[in.Name] = in.Data
		}
	}
	var told card
	if q.get(of+"/card", &told) != nil {
		return sample, typical
	}
	for _, c := range told.Reference.Columns {
		var value any
		switch {
		case len(c.Most) > 0:
			value = c.Most[0]
		case c.Middle != nil:
			value = math.Round(*c.Middle) // which suits whole numbers, too
		default:
			continue
		}
		if b, err := json.Marshal(value); err == nil {
			typical[c.Name] = b
		}
	}
	return sample, typical
}

// plain is one row of a tensor about which nothing is known.
func plain(s *spec) json.RawMessage {
	word := map[string]string{"BYTES": `""`, "BOOL": "false"}[s.Type]
	if word == "" {
		word = "0"
	}
	return json.RawMessage("[" + strings.TrimSuffix(strings.Repeat(word+", ", int(s.elements())), ", ") + "]")
}

// scalarText is the one value of an array, as it is typed into a field.
func scalarText(data json.RawMessage) string {
	for {
		var inner []json.RawMessage
		if json.Unmarshal(data, &inner) != nil || len(inner) == 0 {
			break
		}
		data = inner[0]
	}
	var text string
	if json.Unmarshal(data, &text) == nil {
		return text
	}
	return string(data)
}

// write puts the form's values into a request. A form that is only shown may have what can't be sent.
func (p *tryPage) write(q *Query, strict bool) error {
	r := request{}
	for i := range p.Inputs {
		in := &p.Inputs[i]
		data, err := in.data()
		if err != nil && strict {
			return err
		}
		r.Inputs = append(r.Inputs, requestInput{in.Name, in.shape(), in.Type, data})
	}
	if p.Time != "" {
		r.Parameters = map[string]any{"feature_time": p.Time}
	}
	p.Request = requestText(&r)
	p.Curl = q.curl(p.path(), p.Request)
	return nil
}

// data reads the field's value.
func (in *tryInput) data() (json.RawMessage, error) {
	text := strings.TrimSpace(in.Value)
	switch {
	case in.Scalar && in.Type == "BYTES":
		b, err := json.Marshal([]string{in.Value})
		return b, err
	case in.Scalar && !json.Valid([]byte(text)):
		return json.RawMessage("[]"), fault.New(fault.Invalid, "%.100s is %.40q, expected one %s", in.Name, text, in.Type)
	case in.Scalar:
		return json.RawMessage("[" + text + "]"), nil
	case !json.Valid([]byte(text)) || !strings.HasPrefix(text, "["):
		return json.RawMessage("[]"), fault.New(fault.Invalid, "%.100s is no JSON array such as [1, 2]", in.Name)
	}
	return json.RawMessage(text), nil
}

// requestText writes a request with a line for each input.
func requestText(r *request) string {
	var b bytes.Buffer
	b.WriteString("{")
	if len(r.Parameters) > 0 {
		p, err := json.Marshal(r.Parameters)
		if err != nil {
			return ""
		}
		fmt.Fprintf(&b, "\"parameters\": %s,\n ", p)
	}
	b.WriteString("\"inputs\": [")
	for i := range r.Inputs {
		line, err := json.Marshal(&r.Inputs[i])
		if err != nil {
			return ""
		}
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n  ")
		b.Write(line)
	}
	b.WriteString("\n]}")
	return b.String()
}

// curl is the request as it is sent from a shell.
func (q *Query) curl(path, body string) string {
	scheme := "http"
	if q.TLS != nil || q.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	quoted := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	key := ""
	if q.key != "" {
		key = ` -H "Authorization: Bearer $PILOTLIGHT_KEY"`
	}
	return "curl -s " + quoted(scheme+"://"+q.Host+path+"/infer") + key + " -H 'Content-Type: application/json' -d " + quoted(body)
}

// send asks the model.
func (p *tryPage) send(q *Query) error {
	r, err := http.NewRequestWithContext(q.ctx, http.MethodPost, "http://self"+p.path()+"/infer", strings.NewReader(p.Request))
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "%.200q is no model", p.Model)
	}
	r.Header.Set("Content-Type", "application/json")
	begin := time.Now()
	answer, err := q.send(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, answerMost))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	took := time.Since(begin)
	if answer.StatusCode >= http.StatusBadRequest {
		return refusal(answer.StatusCode, b)
	}
	p.Answer = &tryAnswer{Took: took, Prediction: answer.Header.Get("Prediction-Id"), Cache: answer.Header.Get("Cache-Status")}
	if err := json.Unmarshal(b, p.Answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	var indented bytes.Buffer
	if json.Indent(&indented, b, "", "  ") == nil {
		b = indented.Bytes()
	}
	p.Answer.JSON = clipped(string(b), 20_000)
	return nil
}

// Micros is how long it took.
func (a *tryAnswer) Micros() float64 { return float64(a.Took.Microseconds()) }

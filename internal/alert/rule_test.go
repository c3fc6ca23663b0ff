package alert

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

const rulesYAML = `rules:
  - name: flights-auc
    model: flights
    version: champion
    metric: auc
    slice: {carrier: B6, hour: 7}
    window: 7d
    below: 0.70
    min: 500
    confident: true
    for: 2
    severity: page
    description: |
      Ask the team.
      Or wait.
  - {name: psi, model: "*", metric: psi, column: delay, window: 1d12h, above: 0.25}
---
rules:
  - {name: burn, model: "*", metric: budget_burn, objective: 0.999, window: 1h, above: 14.4}
  - {name: guess, model: flights, version: 3, metric: estimated_accuracy, window: 1h, below: 0}
`

// quality is what tests take for metrics of quality.
func quality(metric string) bool { return metric == "auc" || metric == "accuracy" || metric == "mae" }

func parse(t *testing.T, text string) []Rule {
	t.Helper()
	rules, err := Parse("rules.yaml", []byte(text), quality)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func TestParse(t *testing.T) {
	got := parse(t, rulesYAML)
	want := []Rule{
		{
			Name: "flights-auc", Model: "flights", Version: "champion", Metric: "auc", Slice: map[string]string{"carrier": "B6", "hour": "7"},
			Window: yamlwire.Duration(7 * 24 * time.Hour), Below: new(.7), Min: 500, Confident: true, For: 2, Severity: Page, Description: "Ask the team.\nOr wait.\n",
		},
		{Name: "psi", Model: "*", Metric: "psi", Column: "delay", Window: yamlwire.Duration(36 * time.Hour), Above: new(.25)},
		{Name: "burn", Model: "*", Metric: Burn, Objective: .999, Window: yamlwire.Duration(time.Hour), Above: new(14.4)},
		{Name: "guess", Model: "flights", Version: "3", Metric: "estimated_accuracy", Window: yamlwire.Duration(time.Hour), Below: new(0.)},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got, want := got[2].short(), 5*time.Minute; got != want {
		t.Errorf("the short window: got %s, want %s", got, want)
	}
}

// What is written down, as YAML for people and as JSON for the bucket, is read as the same.
func TestParseReadsWhatIsWritten(t *testing.T) {
	rules := &Rules{Rules: parse(t, rulesYAML)}
	y, err := rules.YAML()
	if err != nil {
		t.Fatal(err)
	}
	for kind, b := range map[string][]byte{"yaml": y, "json": encode(map[string]any{"rules": rules.Rules})} {
		if got, err := Parse("written", b, quality); err != nil || !reflect.DeepEqual(got, rules.Rules) {
			t.Errorf("%s: got %+v, %v, want %+v from\n%s", kind, got, err, rules.Rules, b)
		}
	}
	back := &Rules{}
	if err := json.Unmarshal(encode(rules), back); err != nil || !reflect.DeepEqual(back, rules) {
		t.Errorf("the bucket: got %+v, %v, want %+v", back, err, rules)
	}
}

func TestParseRefuses(t *testing.T) {
	const good = "name: a, model: m, metric: auc, window: 1h, below: 1"
	for text, want := range map[string]string{
		"rules: [{nam: a}]":                                                                       `f.yaml:1:10: an element of rules has no field "nam"`,
		"rules: [{name: a, window: 7w}]":                                                          `f.yaml:1:27: window: "7w" is not a duration`,
		"rules: [{name: a, min: many}]":                                                           `f.yaml:1:24: min is not a whole number`,
		"rules: [{name: a, slice: B6}]":                                                           `f.yaml:1:26: slice is not a mapping`,
		"rules: [{name: a, below: .nan}]":                                                         `below is not a number`,
		"rules: [{" + good + ", below: 2}]":                                                       `already defined`,
		"rules: [{" + good + "}, {" + good + "}]":                                                 `f.yaml: rule "a": there are two rules of that name`,
		"rules: [{model: m}]":                                                                     `f.yaml: rule 1: name is missing`,
		"rules: [{name: a b}]":                                                                    `rule "a b": name has 1 to 100 letters`,
		"rules: [{name: a}]":                                                                      `rule "a": model is missing`,
		"rules: [{name: a, model: m}]":                                                            `metric is missing`,
		"rules: [{name: a, model: m, metric: acu}]":                                               `metric "acu" is neither one of quality nor one of budget_burn, coverage, drift`,
		"rules: [{name: a, model: m, metric: estimated_}]":                                        `metric "estimated_" is neither`,
		"rules: [{name: a, model: m, metric: estimated_psi}]":                                     `metric "estimated_psi" is neither`,
		"rules: [{name: a, model: '*', version: 3, metric: auc}]":                                 `a version by its number is one of a model`,
		"rules: [{name: a, model: m, metric: ks}]":                                                `ks is of one column`,
		"rules: [{name: a, model: m, metric: auc, column: c}]":                                    `auc is not of one column`,
		"rules: [{name: a, model: m, metric: auc}]":                                               `window is missing`,
		"rules: [{name: a, model: m, metric: auc, window: 400d}]":                                 `window is longer than 366d`,
		"rules: [{name: a, model: m, metric: auc, window: 1h}]":                                   `neither below nor above`,
		"rules: [{" + good + ", above: 2}]":                                                       `both below and above`,
		"rules: [{" + good + ", min: -1}]":                                                        `min is negative`,
		"rules: [{" + good + ", for: -1}]":                                                        `for is -1`,
		"rules: [{" + good + ", severity: panic}]":                                                `severity is "panic", expected page or ticket`,
		"rules: [{" + good + ", slice: {'': b}}]":                                                 `slice: a name is empty`,
		"rules: [{" + good + ", slice: {a: 1, b: 1, c: 1, d: 1, e: 1, f: 1}}]":                    `slice has 6 columns`,
		"rules: [{" + good + ", model: \"a\\nb\"}]":                                               `already defined`,
		"rules: [{name: a, model: \"a\\nb\"}]":                                                    `control characters`,
		"rules: [{" + good + ", objective: 0.9}]":                                                 `objective and short belong to budget_burn`,
		"rules: [{name: a, model: m, metric: budget_burn, window: 1h, above: 1}]":                 `objective is the share`,
		"rules: [{name: a, model: m, metric: budget_burn, window: 1h, below: 1, objective: 0.9}]": `a matter of above`,
		"rules: [{name: a, model: m, metric: budget_burn, window: 1h, above: 1, objective: 0.9, short: 1h}]": `short is a duration shorter`,
		"rules: [" + strings.Repeat("{"+good+"},", 501) + "]":                                                `501 rules, more than 500`,
	} {
		got, err := Parse("f.yaml", []byte(text), quality)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%.100q: got %+v, %v, want Invalid with %s", text, got, err, want)
		}
	}
}

// Foreign rules are refused in words, or can be evaluated and written down.
func FuzzParse(f *testing.F) {
	f.Add([]byte(rulesYAML))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		rules, err := Parse("f", b, nil)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v, want Invalid", err)
			}
			return
		}
		y, err := (&Rules{Rules: rules}).YAML()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse("yaml", y, nil)
		if err != nil || string(encode(back)) != string(encode(rules)) {
			t.Fatalf("got %+v, %v, want %+v\n%s", back, err, rules, y)
		}
		readings := map[string]Reading{}
		for _, r := range rules {
			readings[r.Name] = Reading{Samples: []Sample{{Model: r.Model, Version: "1", Value: 1, Low: 1, High: 1, Count: 1 << 40}}}
		}
		s, _ := Evaluate(rules, readings, &State{}, time.Unix(1, 0))
		encode(s)
	})
}

func TestDiff(t *testing.T) {
	from := parse(t, rulesYAML)
	to := parse(t, strings.NewReplacer("below: 0.70", "below: 0.71", "name: guess", "name: hunch").Replace(rulesYAML))
	want := []Difference{{"changed", "flights-auc"}, {"removed", "guess"}, {"added", "hunch"}}
	if got := diff(from, to); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The rules that the documentation shows are rules.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "```yaml\n")
	text, _, _ = strings.Cut(text, "```")
	if rules := parse(t, text); len(rules) != 6 {
		t.Errorf("got %d rules, want 6", len(rules))
	}
	for name := range metrics {
		if !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("docs/alerts.md does not tell of the metric %s", name)
		}
	}
}

package feature

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

const flightYAML = `# one of everything
entities:
  - name: carrier
    keys: [{name: carrier, type: string}]
sources:
  - name: arrivals
    created: created
    fresh: 1d12h
    fields:
      - {name: carrier, type: string, required: true, one_of: ["AA", "UA"]}
      - {name: event_timestamp, type: timestamp}
      - {name: created, type: timestamp}
      - {name: delay, type: float32, min: -120, max: 1.5e3}
---
views:
  - name: delays
    entities: [carrier]
    source: arrivals
    lateness: 90m
    windows:
      - {name: mean_1h, aggregate: mean, of: delay, size: 1h, slide: 1m}
      - name: n
        aggregate: count
        size: 1d
expressions:
  - name: worse
    inputs: [{name: limit, type: float64}]
    features:
      - name: is
        type: bool
        value: |
          delays.mean_1h > limit &&
            limit < 1000.0
services:
  - name: model
    features:
      - delays:*
      - {feature: "worse:is", as: worse, default: true}
      - {feature: "delays:n", as: m, default: 9007199254740993}
`

func TestParse(t *testing.T) {
	s, err := Parse("flights.yaml", []byte(flightYAML))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(s); err != nil {
		t.Fatal(err)
	}
	if got, want := s.Sources[0].Fresh.String(), "1d12h"; got != want {
		t.Errorf("fresh: got %s, want %s", got, want)
	}
	f := s.Sources[0].Fields[3]
	if *f.Min != -120 || *f.Max != 1500 || !s.Sources[0].Fields[0].Required {
		t.Errorf("fields: got %+v", s.Sources[0].Fields)
	}
	if got, want := s.Expressions[0].Features[0].Value, "delays.mean_1h > limit &&\n  limit < 1000.0\n"; got != want {
		t.Errorf("value: got %q, want %q", got, want)
	}
	want := []Choice{{Feature: "delays:*"}, {Feature: "worse:is", As: "worse", Default: true}, {Feature: "delays:n", As: "m", Default: json.Number("9007199254740993")}}
	if got := s.Services[0].Features; !reflect.DeepEqual(got, want) {
		t.Errorf("choices: got %+v, want %+v", got, want)
	}
}

// What is written down, as YAML for people and as JSON for the bucket, is read as the same.
func TestParseReadsWhatIsWritten(t *testing.T) {
	for name, s := range map[string]*Set{"go": flightSet(), "yaml": parsed(t, flightYAML), "empty": {}} {
		y, err := s.YAML()
		if err != nil {
			t.Fatal(err)
		}
		j, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		for kind, b := range map[string][]byte{"yaml": y, "json": j} {
			back, err := Parse("written", b)
			if err != nil {
				t.Errorf("%s as %s: %v\n%s", name, kind, err, b)
			} else if !reflect.DeepEqual(back, s) {
				t.Errorf("%s as %s: got\n%+v\nwant\n%+v\nfrom\n%s", name, kind, back, s, b)
			}
		}
	}
}

func parsed(t *testing.T, text string) *Set {
	t.Helper()
	s, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseTakesNothing(t *testing.T) {
	for _, text := range []string{"", "---\n---\n", "# nothing\n", "{}", "entities:\n", "null"} {
		if s, err := Parse("x", []byte(text)); err != nil || !reflect.DeepEqual(s, &Set{}) {
			t.Errorf("%q: got %+v, %v, want the empty set", text, s, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"views:\n  - name: a\n    ttll: 7d\n":                            `f.yaml:3:5: an element of views has no field "ttll"`,
		"views:\n  - name: a\n    ttl: 7w\n":                             `f.yaml:3:10: ttl: "7w" is not a duration`,
		"views:\n  - name: a\n    name: b\n":                             `f.yaml:3:5: mapping key "name" already defined`,
		"viewz: []\n":                                                    `f.yaml:1:1: the document has no field "viewz"`,
		"version: 3\n":                                                   `the document has no field "version"`,
		"entities: [{name: a, keys: [{name: k, type: int63}]}]":          `f.yaml:1:45: type: type "int63" is not one of`,
		"entities: [{name: a, keys: {name: k}}]":                         `f.yaml:1:28: keys is not a list`,
		"entities: [{name: 7}]":                                          `f.yaml:1:19: name is not a string`,
		"entities: [~]":                                                  `an element of entities is missing`,
		"entities: [a]":                                                  `an element of entities is not a mapping`,
		"- a":                                                            `f.yaml:1:1: the document is not a mapping`,
		"sources: [{name: a, fields: [{name: a, min: x}]}]":              `min is not a number`,
		"sources: [{name: a, fields: [{name: a, required: 1}]}]":         `required is not true or false`,
		"sources: [{name: a, fields: [{name: a, type: [int64]}]}]":       `type is not a single value`,
		"services: [{name: a, features: [{feature: a, default: {}}]}]":   `default is not a value`,
		"services: [{name: a, features: [{feature: a, default: .nan}]}]": `default is not a value`,
		"a: &x 1\nb: *x\n":                                               `f.yaml:1:4: anchors and aliases`,
		"a: !!binary x\n":                                                `tags`,
		"views:\n\t- name: a":                                            `f.yaml:2:1: `,
		"views: [":                                                       `f.yaml:1:8: `,
		strings.Repeat("[", 100_000):                                     `f.yaml:1:51: this is nested deeper`,
		strings.Repeat("- ", 100_000):                                    `nested deeper`,
		strings.Repeat("#", yamlwire.Most+1):                             `more than 1048576`,
		`"` + strings.Repeat("x", jsonMost) + `"`:                        `more than 4194304`,
		`{"views": [{"name": "a", "ttll": "7d"}]}`:                       `f.yaml: unknown field "ttll"`,
		`{"views": [{"name": "a", "ttl": "7w"}]}`:                        `"7w" is not a duration`,
		`{"views": {"name": "a"}}`:                                       `views must be`,
		`{"services": [{"name": "a", "features": [{"feat": "a:b"}]}]}`:   `unknown field "feat"`,
		`{"services": [{"name": "a", "features": [7]}]}`:                 `f.yaml: `,
	} {
		s, err := Parse("f.yaml", []byte(text))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%.80q: got %+v, %v, want Invalid with %s", text, s, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(flightYAML))
	y, err := flightSet().YAML()
	if err != nil {
		f.Fatal(err)
	}
	j, err := json.Marshal(flightSet())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(y)
	f.Add(j)
	f.Add([]byte("views: [{name: \"\\u00e9\", ids: {}}]\n...\n---\n? a\n: |2-\n  b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<14 {
			return
		}
		s, err := Parse("f", b)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v, want Invalid", err)
			}
			return
		}
		if _, err := Compile(s); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("compile: got %v, want Invalid", err)
			}
			return
		}
		// What is good is good wherever it is written down.
		j, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse("json", j)
		if err != nil || !reflect.DeepEqual(back, s) {
			t.Fatalf("by JSON: got %+v, %v, want %+v", back, err, s)
		}
		y, err := s.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if back, err = Parse("yaml", y); err != nil || !reflect.DeepEqual(back, s) {
			t.Fatalf("by YAML: got %+v, %v, want %+v\n%s", back, err, s, y)
		}
	})
}

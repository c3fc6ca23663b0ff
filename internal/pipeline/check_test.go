package pipeline

import (
	"strings"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// compiled reads one definition and checks it against the kinds of a lab.
func compiled(text string) (*plan, error) {
	kinds := map[string]*Kind{}
	l := newLab()
	for i := range l.kinds {
		kinds[l.kinds[i].Name] = &l.kinds[i]
	}
	all, err := Parse("p.yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fault.New(fault.Invalid, "%d definitions", len(all))
	}
	return all[0].compile(kinds)
}

func TestBadDefinitions(t *testing.T) {
	if _, err := compiled(chain); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, text, err string }{
		{"no name", "pipeline: chain", "about: x", `p.yaml:3:1: `},
		{"bad name", "pipeline: chain", "pipeline: a/b", `p.yaml: the pipeline's name "a/b" is not 1 to 63 lower-case letters`},
		{"unknown field", "about:", "abuot:", `p.yaml:3:1: `},
		{"no YAML", "steps:", "steps: [", "p.yaml:"},
		{"no steps", chain[strings.Index(chain, "steps:"):], "", "p.yaml: pipeline chain has no steps"},
		{"bad step name", "name: one", "name: One", `the step's name "One" is not`},
		{"two of a name", "name: two", "name: one", "there are two steps one"},
		{"no use", "use: do, with", "with", "step one: use is missing"},
		{"unknown kind", "use: do, with", "use: dont, with", `step one: there is no kind of steps "dont", but do, heavy, needs`},
		{"unknown setting", "text:", "txt:", "with"},
		{"no output of a step", "value: one.value,", "value: one,", `step two: the input value is "one", expected the output of a step, as step.output`},
		{"unknown step", "value: one.value,", "value: zero.value,", `step two: the input value is "zero.value", expected the output of a step`},
		{"unknown output", "value: one.value,", "value: one.values,", `step two: the input value is "one.values", and do gives no "values", but file, value, extra`},
		{"unknown input", "{value: one.value,", "{valu: one.value,", `step two: do has no input "valu", but file, value, more`},
		{"missing input", "use: do, with: {text: \"!\"}", "use: needs", `step one: the input value of needs is missing`},
		{"unknown step before", "use: do, with", "use: do, after: [zero], with", `step one: after: there is no step "zero"`},
		{"itself", "use: do, with", "use: do, after: [one], with", `the steps one -> one wait for each other`},
		{"cycle", "use: do, with", "use: do, after: [three], with", `wait for each other`},
		{"retries", "use: do, with", "use: do, retries: 100, with", "step one: retries is 100, expected 0 to 20"},
		{"timeout", "use: do, with", "use: do, timeout: 30d, with", "step one: timeout is 30d, expected up to 7d"},
		{"no timeout", "use: do, with", "use: do, timeout: soon, with", `"soon" is not a duration`},
		{"negative pause", "on:", "pause: -1h\non:", "pause is -1h"},
		{"unknown event", "alert.raised", "alert.risen", `on, element 1: pipelines are not started by events "dev.pilotlight.alert.risen.v1", but by dev.pilotlight.alert.raised.v1, `},
		{"event that is not brought", "alert.raised", "features.observed", `pipelines are not started by events "dev.pilotlight.features.observed.v1"`},
		{"unknown field of an event", "{model: flights", "{mudel: flights", `where: the event dev.pilotlight.alert.raised.v1 has no field "mudel", but subject and id, rule, model`},
		{"neither event nor time", "event: dev.pilotlight.alert.raised.v1, ", "", "on, element 1: expected either an event or every"},
		{"both", "{event:", "{every: 1d, event:", "on, element 1: expected either an event or every"},
		{"too often", "{event: dev.pilotlight.alert.raised.v1, where: {model: flights, severity: ticket}}", "{every: 1s}", "every is 1s, expected 1m to 366d"},
		{"where without event", "{event: dev.pilotlight.alert.raised.v1,", "{every: 1d,", "where is said of events, not of every"},
		{"nothing", chain, "", "0 definitions"},
		{"twice", "pipeline: chain", "pipeline: chain\nsteps: [{name: a, use: do}]\n---\npipeline: chain", "p.yaml: the pipeline chain is defined twice"},
	} {
		if !strings.Contains(chain, test.old) {
			t.Errorf("%s: there is no %q", test.name, test.old)
		}
		_, err := compiled(strings.Replace(chain, test.old, test.text, 1))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), test.err) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.err)
		}
	}
	many := "pipeline: many\nsteps:\n" + strings.Repeat("  - {name: a, use: do}\n", stepsMost+1)
	if _, err := compiled(many); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("p.yaml", []byte(strings.Repeat("---\n", yamlwire.Most/4))); !fault.Is(err, fault.Invalid) { // else it takes hours
		t.Errorf("got %v", err)
	}
}

// Texts are kept as they are, and places are those in the whole file.
func TestParseManyDocuments(t *testing.T) {
	first, second := "# what it is\npipeline: a\nsteps:\n  - {name: s, use: do}\n", "pipeline: b\nsteps:\n  - {name: s, use: do}\n"
	for _, text := range []string{first + "---\n" + second, "---\n" + first + "--- # b\n\n" + second + "---\n", first + "---\n# nothing\n---\n" + second} {
		all, err := Parse("p.yaml", []byte(text))
		if err != nil || len(all) != 2 || all[0].Text != first || all[1].Name != "b" || !strings.HasSuffix(all[1].Text, second) {
			t.Errorf("got %+v, %v", all, err)
		}
		for _, d := range all {
			again, err := Parse("again", []byte(d.Text))
			if err != nil || len(again) != 1 || again[0].Text != d.Text || again[0].Name != d.Name {
				t.Errorf("%q: got %+v, %v", d.Text, again, err)
			}
		}
	}
	_, err := Parse("p.yaml", []byte(first+"---\n"+second+"nonsense: 1\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "p.yaml:9:1: ") {
		t.Errorf("got %v", err)
	}
}

func TestApply(t *testing.T) {
	l := newLab()
	b := bucket(t)
	m, other := l.manager(t, b), l.manager(t, b)
	all, err := Parse("test", []byte(chain))
	if err != nil {
		t.Fatal(err)
	}
	d := &all[0]
	for _, step := range []struct {
		m    *Manager
		text string
		dry  bool
		want Applied
	}{
		{m, d.Text, true, Applied{1, true, true}},
		{m, d.Text, false, Applied{1, true, false}},
		{m, d.Text, false, Applied{1, false, false}},
		{other, d.Text + "# more\n", false, Applied{2, true, false}},
		{m, d.Text + "# more\n", true, Applied{2, false, true}},
		{m, d.Text, false, Applied{3, true, false}},
	} {
		d := *d
		d.Text = step.text
		got, err := step.m.Apply(t.Context(), &d, "tester", step.dry)
		if err != nil || *got != step.want {
			t.Errorf("got %+v, %v, want %+v", got, err, step.want)
		}
	}
	names, err := m.names(t.Context())
	if err != nil || len(names) != 1 {
		t.Errorf("got %q, %v", names, err)
	}
	for _, name := range []string{"chain-2", "chain0", "a"} {
		apply(t, m, strings.Replace(chain, "pipeline: chain", "pipeline: "+name, 1))
	}
	list, err := m.List(t.Context())
	if err != nil || len(list) != 4 || list[0].Name != "a" || list[1].Name != "chain-2" || list[2].Name != "chain" || list[2].Version != 3 || list[3].Name != "chain0" {
		t.Errorf("got %+v, %v", list, err)
	}
	_, err = m.Show(t.Context(), "none")
	isKind(t, err, fault.NotFound, "there is no pipeline none")
	_, err = m.Start(t.Context(), "none", "", "")
	isKind(t, err, fault.NotFound, "there is no pipeline none")
}

// A run ends in words if this binary does not know what its definition asks for, and blocks nothing.
func TestADefinitionThatIsNotKnownAnyMore(t *testing.T) {
	l := newLab()
	b := bucket(t)
	m := l.manager(t, b)
	apply(t, m, chain)
	run := begin(t, m, "chain")
	l.kinds = l.kinds[1:]
	older := l.manager(t, b)
	work(t, older, "chain")
	if run = get(t, older, run); run.State != Failed || run.Reason != `step one: there is no kind of steps "do", but heavy, needs` {
		t.Errorf("got %+v", run)
	}
	list, err := older.List(t.Context())
	if err != nil || list[0].Trouble == "" {
		t.Errorf("got %+v, %v", list, err)
	}
	run = begin(t, m, "chain")
	work(t, m, "chain")
	if run = get(t, m, run); run.State != Succeeded {
		t.Errorf("got %+v", run)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(chain)
	f.Add("---\npipeline: a\nsteps: [{name: s, use: do, after: [s]}]\n---\n")
	f.Add("pipeline: a\non: [{every: 1d}]\npause: 1h\nsteps: [{name: s, use: do, in: {value: s.value}, retries: 1, timeout: 1m}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Parse("fuzz", []byte(text))
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v", err)
			}
			return
		}
		for _, d := range all { // what was read is read again, by itself
			again, err := Parse("again", []byte(d.Text))
			if err != nil || len(again) != 1 || again[0].Name != d.Name || again[0].Text != d.Text {
				t.Errorf("%q: got %+v, %v", d.Text, again, err)
			}
		}
	})
}

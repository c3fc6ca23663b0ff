package alert

import (
	"context"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

var nan = math.NaN()

// story evaluates one rule again and again, a minute apart.
type story struct {
	t     *testing.T
	rules []Rule
	state *State
	now   time.Time
}

func tell(t *testing.T, rules string) *story {
	return &story{t: t, rules: parse(t, "rules: ["+rules+"]"), state: &State{}, now: noon}
}

// then takes a step with samples for the first rule, and says what it changed.
func (s *story) then(want string, samples ...Sample) {
	s.t.Helper()
	s.read(want, Reading{Samples: samples})
}

func (s *story) read(want string, r Reading) {
	s.t.Helper()
	readings := map[string]Reading{}
	if len(s.rules) > 0 {
		readings[s.rules[0].Name] = r
	}
	var changes []Change
	before := string(encode(s.state))
	was := s.state
	s.state, changes = Evaluate(s.rules, readings, s.state, s.now)
	if after := string(encode(was)); after != before {
		s.t.Errorf("at %s: the state before was changed: got %s, want %s", s.now, after, before)
	}
	s.now = s.now.Add(time.Minute)
	var said []string
	for _, c := range changes {
		word := "raised "
		if !c.Resolved.IsZero() {
			word = string(c.Why) + " "
		}
		said = append(said, word+c.Model+c.Version)
	}
	if got := strings.Join(said, ", "); got != want {
		s.t.Errorf("at %s: got %q, want %q", s.now.Add(-time.Minute), got, want)
	}
}

func sample(version string, value float64) Sample {
	return Sample{Model: "m", Version: version, Value: value, Low: value - .05, High: value + .05, Count: 1000}
}

const auc = "{name: auc, model: m, metric: auc, window: 1h, below: 0.7, min: 100"

func TestAnAlertIsRaisedOnceAndResolved(t *testing.T) {
	s := tell(t, auc+"}")
	s.then("", sample("1", .7), sample("2", .9))
	s.then("raised m1", sample("1", .69), sample("2", .9))
	s.then("", sample("1", .5), sample("2", .9))
	s.then("raised m2", sample("1", .6), sample("2", .6))
	s.then("recovered m1", sample("1", .7), sample("2", .6))
	first := s.state.Resolved[0]
	s.then("raised m1", sample("1", .6), sample("2", .6))
	second := s.state.Alerts[0]
	if first.ID == second.ID || first.Since != noon.Add(time.Minute) || second.Since != noon.Add(5*time.Minute) {
		t.Errorf("got %+v\nand then %+v, want two times of being raised", first, second)
	}
	if got, want := first.Summary, "auc of m version 1 is 0.7 (0.65 to 0.75) over 1h, no longer below 0.7"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := second.Summary, "auc of m version 1 is 0.6 (0.55 to 0.65) over 1h, below 0.7"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := len(s.state.Unsent), 4; got != want {
		t.Errorf("waiting to be sent: got %d, want %d", got, want)
	}
}

// The predictions that show an alert are those of the last time that it was found, some of them at most.
func TestExamples(t *testing.T) {
	s := tell(t, auc+"}")
	with := func(value float64, ids ...string) Sample {
		shown := sample("1", value)
		for _, id := range ids {
			shown.Examples = append(shown.Examples, event.Example{Prediction: id})
		}
		return shown
	}
	many := strings.Split(strings.Repeat("x,", 2*ExamplesMost), ",")
	s.then("raised m1", with(.5, many...))
	if got := s.state.Alerts[0].Examples; len(got) != ExamplesMost {
		t.Errorf("got %d of them", len(got))
	}
	s.then("", with(.4, "a", "b"))
	s.then("recovered m1", with(.9, "c"))
	c := s.state.Unsent[len(s.state.Unsent)-1]
	if !slices.Equal(c.Examples, []event.Example{{Prediction: "a"}, {Prediction: "b"}}) {
		t.Errorf("it was shown by %v", c.Examples)
	}
	if got := messageOf(&c).Alerts[0].Annotations["predictions"]; got != "a b" {
		t.Errorf("the webhook is told %q", got)
	}
	c.Resolved = time.Time{}
	e := c.event()
	var told event.Raised
	if err := e.DataAs(&told); err != nil || !slices.Equal(told.Examples, c.Examples) {
		t.Errorf("the event tells %v, %v", told.Examples, err)
	}
}

func TestForAsksForEvaluationsInARow(t *testing.T) {
	s := tell(t, auc+", for: 3}")
	s.then("", sample("1", .6))
	s.then("", sample("1", .6))
	s.then("", sample("1", .8))
	s.then("", sample("1", .6))
	s.then("", sample("1", .6))
	s.then("raised m1", sample("1", .6))
	if a := s.state.Alerts[0]; a.Since != noon.Add(3*time.Minute) || a.Raised != noon.Add(5*time.Minute) {
		t.Errorf("got since %s, raised %s", a.Since, a.Raised)
	}
}

func TestWhatIsNoVerdict(t *testing.T) {
	few := sample("1", .1)
	few.Count = 99
	s := tell(t, auc+"}")
	s.then("", few)
	s.then("", sample("1", nan))
	s.then("raised m1", sample("1", .6))
	s.then("", few)
	s.then("")
	s.read("", Reading{Trouble: "the bucket is away"})
	if got, want := s.state.Troubles["auc"], "the bucket is away"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.now = s.now.Add(24 * time.Hour)
	s.read("", Reading{Trouble: "the bucket is away"}) // nobody knows
	s.now = s.now.Add(58 * time.Minute)
	s.then("", sample("2", .9))
	s.then("no_data m1", sample("2", .9))
	if got, want := s.state.Resolved[0].Summary, "auc of m version 1 is not known any more: there was no data for 1h"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(s.state.Troubles) != 0 {
		t.Errorf("got %v, want no troubles", s.state.Troubles)
	}
}

func TestConfident(t *testing.T) {
	s := tell(t, auc+", confident: true}")
	s.then("", sample("1", .66)) // up to .71
	s.then("raised m1", sample("1", .64))
	s.then("recovered m1", sample("1", .66))
	s.then("", Sample{Model: "m", Version: "1", Value: .1, Low: nan, High: nan, Count: 1000})
	if got := s.state.Troubles["auc"]; !strings.Contains(got, "auc comes without an interval") {
		t.Errorf("got %q", got)
	}
	s = tell(t, "{name: mae, model: m, metric: mae, window: 1h, above: 10, confident: true}")
	s.then("", sample("1", 10.04))
	s.then("raised m1", sample("1", 10.06))
}

func TestWhatRulesBecome(t *testing.T) {
	s := tell(t, auc+"}")
	s.then("raised m1", sample("1", .6))
	s.rules[0].Below = new(.65)
	s.then("", sample("1", .6)) // the same alert by another threshold
	if got := s.state.Alerts[0].Threshold; got != .65 {
		t.Errorf("got %g, want the threshold of now", got)
	}
	s.rules[0].Metric = "accuracy"
	s.then("rule_changed m1, raised m1", sample("1", .6))
	s.rules[0].Slice = map[string]string{"carrier": "B6", "a": "b"}
	s.then("rule_changed m1, raised m1", sample("1", .6))
	if got, want := s.state.Alerts[0].Summary, "accuracy of m version 1 where a is b and carrier is B6 is 0.6 (0.55 to 0.65) over 1h, below 0.65"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.rules = nil
	s.then("rule_removed m1")
	if len(s.state.Alerts) != 0 || len(s.state.Resolved) != 3 {
		t.Errorf("got %+v", s.state)
	}
}

func TestNumbersThatJSONHasNot(t *testing.T) {
	s := tell(t, "{name: loss, model: m, metric: mae, window: 1h, above: 1}")
	s.then("raised m1", Sample{Model: "m", Version: "1", Value: math.Inf(1), Low: math.Inf(-1), High: nan, Count: 1})
	if a := s.state.Alerts[0]; a.Value != math.MaxFloat64 || a.Low != nil {
		t.Errorf("got %+v", a)
	}
}

func TestStateIsBounded(t *testing.T) {
	s := tell(t, auc+"}")
	for i := range 2000 {
		s.state, _ = Evaluate(s.rules, map[string]Reading{"auc": {Samples: []Sample{sample("1", .6+.2*float64(i%2))}}}, s.state, s.now)
		s.now = s.now.Add(time.Minute)
	}
	if len(s.state.Unsent) != unsentMost || s.state.Lost != 2000-unsentMost || len(s.state.Resolved) != resolvedMost {
		t.Errorf("got %d unsent, %d lost, %d resolved", len(s.state.Unsent), s.state.Lost, len(s.state.Resolved))
	}
	if last := s.state.Unsent[unsentMost-1]; last.Resolved.IsZero() {
		t.Errorf("got %+v, want the newest to be kept", last)
	}
	many := make([]Sample, alertsMost+1)
	for i := range many {
		many[i] = sample(yamlwire.Duration(i).String(), .1)
	}
	next, changes := Evaluate(s.rules, map[string]Reading{"auc": {Samples: many}}, &State{}, noon)
	if len(changes) != alertsMost || !strings.Contains(next.Troubles["auc"], "5000 alerts already") {
		t.Errorf("got %d changes, %v", len(changes), next.Troubles)
	}
}

// answers is a source that answers by a function.
type answers func(q *Query) ([]Sample, error)

func (f answers) Samples(_ context.Context, q *Query) ([]Sample, error) { return f(q) }

func TestRead(t *testing.T) {
	r := parse(t, rulesYAML)[0]
	var asked Query
	got := Read(t.Context(), answers(func(q *Query) ([]Sample, error) {
		asked = *q
		return []Sample{sample("1", .5)}, nil
	}), &r, noon)
	want := Query{Model: "flights", Version: "champion", Metric: "auc", Slice: map[string]string{"carrier": "B6", "hour": "7"}, From: noon.Add(-7 * 24 * time.Hour), Until: noon}
	if !reflect.DeepEqual(asked, want) || len(got.Samples) != 1 || got.Trouble != "" {
		t.Errorf("asked %+v, got %+v, want %+v", asked, got, want)
	}
	for _, test := range []struct {
		err     error
		trouble string
	}{
		{fault.New(fault.NotFound, "no such model"), ""},
		{fault.New(fault.Invalid, "auc is not a metric of regressions"), "auc is not a metric of regressions"},
		{errors.New("secret"), "internal error"},
	} {
		got := Read(t.Context(), answers(func(*Query) ([]Sample, error) { return nil, test.err }), &r, noon)
		if got.Trouble != test.trouble || got.Samples != nil {
			t.Errorf("%v: got %+v, want %q", test.err, got, test.trouble)
		}
	}
}

func TestBurnIsOfBothWindows(t *testing.T) {
	r := parse(t, rulesYAML)[2] // 14.4 times 0.1% over an hour and its last five minutes
	for _, test := range []struct {
		name        string
		long, short []Sample
		want        float64
		raised      bool
	}{
		{"both", []Sample{{Value: .02, Low: .01, High: .03, Count: 100}}, []Sample{{Value: .05, Low: .02, High: .08, Count: 10}}, 20, true},
		{"it is over", []Sample{{Value: .02}}, []Sample{{Value: .001}}, 1, false},
		{"a spike", []Sample{{Value: .001}}, []Sample{{Value: .5}}, 1, false},
		{"nobody asked lately", []Sample{{Value: .5}}, nil, 0, false},
	} {
		got := Read(t.Context(), answers(func(q *Query) ([]Sample, error) {
			if q.Metric != ErrorRate {
				t.Errorf("asked for %s", q.Metric)
			}
			if q.Until.Sub(q.From) == 5*time.Minute {
				return test.short, nil
			}
			return test.long, nil
		}), &r, noon)
		_, changes := Evaluate([]Rule{r}, map[string]Reading{r.Name: got}, &State{}, noon)
		if v := got.Samples[0].Value; math.Abs(v-test.want) > 1e-9 || len(changes) == 1 != test.raised {
			t.Errorf("%s: got %g, %v, want %g, raised %t", test.name, v, changes, test.want, test.raised)
		}
	}
}

func TestSummaries(t *testing.T) {
	for want, a := range map[string]Alert{
		"latency_p99 of m version 3 is 1.23s over 5m, above 500ms":         {Model: "m", Version: "3", Metric: "latency_p99", Value: 1.23, Side: "above", Threshold: .5, Window: yamlwire.Duration(5 * time.Minute)},
		"freshness_outcome of m is 1d2h over 7d, above 1d":                 {Model: "m", Metric: "freshness_outcome", Value: 26 * 3600, Side: "above", Threshold: 86400, Window: yamlwire.Duration(7 * 24 * time.Hour)},
		"psi of delay of m version 3 is 0.3333 over 1d, above 0.25":        {Model: "m", Version: "3", Metric: "psi", Column: "delay", Value: 1. / 3, Side: "above", Threshold: .25, Window: yamlwire.Duration(24 * time.Hour)},
		"coverage of all models is not watched any more: the rule is gone": {Metric: "coverage", Why: Removed},
		"coverage of m is not known any more: there was no data for 10m":   {Model: "m", Metric: "coverage", Why: NoData, Window: yamlwire.Duration(time.Minute)},
		"budget_burn of m version 3 is 20 over 1h, above 14.4":             {Model: "m", Version: "3", Metric: Burn, Value: 20, Side: "above", Threshold: 14.4, Window: yamlwire.Duration(time.Hour)},
		"freshness_feature of m is 1.798e+308 over 1h, above 1m":           {Model: "m", Metric: "freshness_feature", Value: math.MaxFloat64, Side: "above", Threshold: 60, Window: yamlwire.Duration(time.Hour)},
	} {
		if got := a.summary(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

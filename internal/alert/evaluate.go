package alert

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Alert is a rule that finds a version of a model, or a slice of it, beyond its
// threshold. What is measured is as of the last verdict.
type Alert struct {
	// ID names this one time of being raised: it is made of rule, model, version, slice and Since.
	ID          string            `json:"id"`
	Rule        string            `json:"rule"`
	Model       string            `json:"model"`
	Version     string            `json:"version,omitempty"`
	Slice       map[string]string `json:"slice,omitempty"`
	Metric      string            `json:"metric"`
	Column      string            `json:"column,omitempty"`
	Value       float64           `json:"value"`
	Low         *float64          `json:"low,omitempty"` // the bounds of its interval, where it has one
	High        *float64          `json:"high,omitempty"`
	Count       int64             `json:"count"`
	Examples    []event.Example   `json:"examples,omitempty"` // predictions that show it, that which shows it best first
	Side        string            `json:"side"`               // of the threshold: below or above
	Threshold   float64           `json:"threshold"`
	Window      yamlwire.Duration `json:"window"`
	Severity    Severity          `json:"severity"`
	Description string            `json:"description,omitempty"`
	Beyond      int               `json:"beyond"`            // evaluations in a row that found it so
	Since       time.Time         `json:"since"`             // the first of them
	Seen        time.Time         `json:"seen"`              // the last verdict
	Raised      time.Time         `json:"raised,omitzero"`   // absent: For is not reached yet
	Resolved    time.Time         `json:"resolved,omitzero"` // absent: it is active
	Why         Why               `json:"why,omitempty"`     // it was resolved
	Summary     string            `json:"summary,omitempty"` // a sentence for people
}

// Why says why an alert was resolved.
type Why string

// The reasons.
const (
	Recovered Why = "recovered"    // the value is back on the right side
	Removed   Why = "rule_removed" // there is no such rule any more
	Altered   Why = "rule_changed" // the rule is now about something else
	NoData    Why = "no_data"      // for as long as patience there was no verdict
)

// Change is what an evaluation did to an alert: it was raised or, if Resolved is set, resolved.
type Change struct {
	Alert
	// Where it still has to go.
	Event   bool `json:"event,omitempty"`
	Webhook bool `json:"webhook,omitempty"`
}

// State is all that is remembered from one evaluation to the next. Nobody changes a State.
type State struct {
	At       time.Time         `json:"at"`                 // of the last evaluation
	Rules    int               `json:"rules"`              // the version of the rules that it went by
	Alerts   []Alert           `json:"alerts"`             // that are active, and those that are not raised yet
	Resolved []Alert           `json:"resolved,omitempty"` // recently, the newest first
	Troubles map[string]string `json:"troubles,omitempty"` // by rule: why nothing can be concluded
	Unsent   []Change          `json:"unsent,omitempty"`   // the oldest first
	Lost     int               `json:"lost,omitempty"`     // changes that were never sent, since too many waited
}

// ExamplesMost is how many predictions an alert names.
const ExamplesMost = 5

const (
	alertsMost   = 5000
	resolvedMost = 100
	resolvedKept = 7 * 24 * time.Hour
	unsentMost   = 1000
)

// patience is how long an alert lasts without a verdict: as long as the rule looks
// back, within reason.
func patience(window yamlwire.Duration) time.Duration {
	return min(max(time.Duration(window), 10*time.Minute), 24*time.Hour)
}

// verdict is what a rule says of a sample.
type verdict int

const (
	none verdict = iota
	fine
	beyond
)

// judge compares a sample with the threshold. Trouble says why a rule can't judge at all.
func (r *Rule) judge(s *Sample) (v verdict, trouble string) {
	side, at := r.threshold()
	value := s.Value // the one that has to be beyond
	if r.Confident {
		if value = s.Low; side == "below" {
			value = s.High
		}
	}
	switch {
	case math.IsNaN(s.Value) || s.Count < int64(r.Min):
		return none, ""
	case math.IsNaN(value):
		return none, "the rule asks for confidence, and " + r.Metric + " comes without an interval"
	case side == "below" && value < at, side == "above" && value > at:
		return beyond, ""
	}
	return fine, ""
}

// key identifies an alert, whenever it is raised.
func key(rule, model, version string, slice map[string]string) string {
	if len(slice) == 0 {
		slice = nil
	}
	return string(encode([]any{rule, model, version, slice}))
}

func (a *Alert) key() string { return key(a.Rule, a.Model, a.Version, a.Slice) }

// of tells whether the alert is about what the rule is about.
func (a *Alert) of(r *Rule) bool {
	side, _ := r.threshold()
	return r.Name == a.Rule && maps.Equal(r.Slice, a.Slice) && r.Metric == a.Metric && r.Column == a.Column && side == a.Side
}

// measure takes over what a rule and a sample say.
func (a *Alert) measure(r *Rule, s *Sample, now time.Time) {
	a.Value, a.Low, a.High, a.Count, a.Seen = bounded(s.Value), nil, nil, s.Count, now
	a.Examples = s.Examples[:min(len(s.Examples), ExamplesMost)]
	if !math.IsNaN(s.Low) && !math.IsNaN(s.High) {
		a.Low, a.High = new(bounded(s.Low)), new(bounded(s.High))
	}
	_, a.Threshold = r.threshold()
	a.Window, a.Severity, a.Description = r.Window, r.severity(), r.Description
}

// Evaluate takes one step: from what was known and what the rules read now to what is
// known next, and the changes on the way, which also wait in the new state to be sent.
// A rule whose reading has Trouble, or none, leaves its alerts as they are. It changes
// nothing that it is given.
func Evaluate(rules []Rule, readings map[string]Reading, previous *State, now time.Time) (*State, []Change) {
	e := evaluation{now: now, next: &State{At: now, Rules: previous.Rules, Lost: previous.Lost, Alerts: []Alert{}, Troubles: map[string]string{}}, open: map[string]Alert{}}
	byName := map[string]*Rule{}
	for i := range rules {
		byName[rules[i].Name] = &rules[i]
	}
	for _, a := range previous.Alerts {
		switch r := byName[a.Rule]; {
		case r == nil:
			e.resolve(a, Removed)
		case !a.of(r):
			e.resolve(a, Altered)
		default:
			e.open[a.key()] = a
		}
	}
	for i := range rules {
		reading, asked := readings[rules[i].Name]
		if !asked {
			reading.Trouble = "time ran out before it was asked"
		}
		e.apply(&rules[i], reading)
	}
	for _, k := range slices.Sorted(maps.Keys(e.open)) { // no verdict
		a := e.open[k]
		if _, trouble := e.next.Troubles[a.Rule]; trouble {
			a.Seen = now // nobody knows; that is no sign that there is no data
		}
		if now.Sub(a.Seen) >= patience(byName[a.Rule].Window) {
			e.resolve(a, NoData)
		} else {
			e.next.Alerts = append(e.next.Alerts, a)
		}
	}
	return e.finish(previous)
}

// evaluation is one under way.
type evaluation struct {
	now     time.Time
	next    *State
	open    map[string]Alert // of the state before, by key, that nothing was found about yet
	changes []Change
}

// apply takes what one rule reads.
func (e *evaluation) apply(r *Rule, reading Reading) {
	if reading.Trouble != "" {
		e.next.Troubles[r.Name] = reading.Trouble
		return
	}
	side, _ := r.threshold()
	for i := range reading.Samples {
		s := &reading.Samples[i]
		found, trouble := r.judge(s)
		if trouble != "" {
			e.next.Troubles[r.Name] = trouble
		}
		k := key(r.Name, s.Model, s.Version, r.Slice)
		a, known := e.open[k]
		switch {
		case found == none, found == fine && !known:
			continue
		case found == beyond && !known && len(e.next.Alerts)+len(e.open) >= alertsMost:
			e.next.Troubles[r.Name] = fmt.Sprintf("there are %d alerts already, and no more are raised", alertsMost)
			continue
		case !known:
			a = Alert{Rule: r.Name, Model: s.Model, Version: s.Version, Slice: r.Slice, Metric: r.Metric, Column: r.Column, Side: side, Since: e.now}
			a.ID = idOf(k, a.Since)
		}
		delete(e.open, k)
		before := a.Examples
		a.measure(r, s, e.now)
		if found == fine {
			a.Examples = before // the others show that it is
			e.resolve(a, Recovered)
			continue
		}
		a.Beyond++
		a.Summary = a.summary()
		if a.Raised.IsZero() && a.Beyond >= r.For {
			a.Raised = e.now
			e.changes = append(e.changes, Change{Alert: a, Event: true, Webhook: true})
		}
		e.next.Alerts = append(e.next.Alerts, a)
	}
}

// resolve ends an alert; one that was never raised is forgotten.
func (e *evaluation) resolve(a Alert, why Why) {
	if a.Raised.IsZero() {
		return
	}
	a.Resolved, a.Why = e.now, why
	a.Summary = a.summary()
	e.next.Resolved = append(e.next.Resolved, a)
	e.changes = append(e.changes, Change{Alert: a, Event: true, Webhook: true})
}

// finish puts together what is kept of the state before and what is new.
func (e *evaluation) finish(previous *State) (*State, []Change) {
	n := e.next
	slices.SortFunc(n.Alerts, func(a, b Alert) int { return strings.Compare(a.key(), b.key()) })
	for _, a := range previous.Resolved {
		if e.now.Sub(a.Resolved) < resolvedKept {
			n.Resolved = append(n.Resolved, a)
		}
	}
	n.Resolved = n.Resolved[:min(len(n.Resolved), resolvedMost)]
	n.Unsent = slices.Concat(previous.Unsent, e.changes)
	if over := len(n.Unsent) - unsentMost; over > 0 {
		n.Unsent, n.Lost = n.Unsent[over:], n.Lost+over
	}
	return n, e.changes
}

// idOf names an alert that began at a time.
func idOf(key string, since time.Time) string {
	sum := sha256.Sum256([]byte(key + strconv.FormatInt(since.UnixNano(), 10)))
	return hex.EncodeToString(sum[:16])
}

// summary says in a sentence what is the matter, or what was.
func (a *Alert) summary() string {
	var b strings.Builder
	b.WriteString(a.Metric)
	if a.Column != "" {
		b.WriteString(" of " + a.Column)
	}
	b.WriteString(" of " + cmp.Or(a.Model, "all models"))
	if a.Version != "" {
		b.WriteString(" version " + a.Version)
	}
	for i, name := range slices.Sorted(maps.Keys(a.Slice)) {
		b.WriteString([]string{" where ", " and "}[min(i, 1)] + name + " is " + a.Slice[name])
	}
	switch a.Why {
	case "", Recovered:
		b.WriteString(" is " + a.amount(a.Value))
		if a.Low != nil {
			b.WriteString(" (" + a.amount(*a.Low) + " to " + a.amount(*a.High) + ")")
		}
		b.WriteString(" over " + a.Window.String())
		if a.Why == Recovered {
			b.WriteString(", no longer")
		} else {
			b.WriteString(",")
		}
		b.WriteString(" " + a.Side + " " + a.amount(a.Threshold))
	case NoData:
		b.WriteString(" is not known any more: there was no data for " + yamlwire.Duration(patience(a.Window)).String())
	default:
		b.WriteString(" is not watched any more: the rule " + map[Why]string{Removed: "is gone", Altered: "was changed"}[a.Why])
	}
	return b.String()
}

// amount writes a value of the alert's metric.
func (a *Alert) amount(v float64) string {
	if seconds(a.Metric) && math.Abs(v) < 1e9 {
		d := time.Duration(v * 1e9)
		if d >= time.Minute {
			return yamlwire.Duration(d.Round(time.Second)).String()
		}
		return d.Round(10 * time.Microsecond).String()
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// encode writes as JSON what always can be.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Errorf("alert: %w", err)) // all that is kept is plain data
	}
	return bytes.TrimSpace(b.Bytes())
}

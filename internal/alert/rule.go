// Package alert knows the rules by which people want to be told that a model has
// stopped being right, and which alerts are raised by them now.
//
// A Manager keeps rules and state in the bucket. At each tick it asks a Source what the
// rules are about, takes one step (Evaluate, which is pure), writes the new state
// together with what is to be told about it, and then tells it: as events and to a
// webhook. A process that is killed anywhere in between loses nothing: what was
// decided is told at least once, each time with the same id. Any number of
// instances may tick at once; one of them takes the step. All exported types are
// safe for concurrent use unless they say otherwise. The package knows metrics by name only.
package alert

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Severity says whom an alert is for.
type Severity string

// The severities: somebody is woken, or it is looked at in working hours.
const (
	Page   Severity = "page"
	Ticket Severity = "ticket"
)

// Burn is the metric that alert itself makes of ErrorRate: how many times faster than
// the objective allows its error budget is spent.
const Burn = "budget_burn"

// ErrorRate is the share of requests that failed, from 0 to 1.
const ErrorRate = "error_rate"

// metrics are those that a Source answers beside the ones of quality. true: of one column.
var metrics = map[string]bool{
	"drift": false, "drift_share": false, "psi": true, "js": true, "ks": true,
	ErrorRate: false, Burn: false, "coverage": false,
	"latency_p50": false, "latency_p95": false, "latency_p99": false,
	"freshness_prediction": false, "freshness_outcome": false, "freshness_feature": false,
}

// seconds tells whether a metric is a time.
func seconds(metric string) bool {
	return strings.HasPrefix(metric, "latency_") || strings.HasPrefix(metric, "freshness_")
}

// Rule says when somebody is to be told.
type Rule struct {
	Name  string `json:"name" yaml:"name"`
	Model string `json:"model" yaml:"model"` // "*": every one
	// Version is a number or an alias; "": those that were asked in the window, each by itself.
	Version Version           `json:"version,omitempty" yaml:"version,omitempty"`
	Metric  string            `json:"metric" yaml:"metric"`
	Column  string            `json:"column,omitempty" yaml:"column,omitempty"` // that psi, js and ks are of
	Slice   map[string]string `json:"slice,omitempty" yaml:"slice,omitempty"`
	Window  yamlwire.Duration `json:"window" yaml:"window"` // how far back it looks

	Below *float64 `json:"below,omitempty" yaml:"below,omitempty"` // one of both is set
	Above *float64 `json:"above,omitempty" yaml:"above,omitempty"`
	// Objective is the share of requests that are to succeed, and Short the shorter of the
	// two windows in which the budget has to burn: of budget_burn alone.
	Objective float64           `json:"objective,omitempty" yaml:"objective,omitempty"`
	Short     yamlwire.Duration `json:"short,omitempty" yaml:"short,omitempty"` // 0: a twelfth of Window

	Min         int      `json:"min,omitempty" yaml:"min,omitempty"`             // fewer rows: no verdict
	Confident   bool     `json:"confident,omitempty" yaml:"confident,omitempty"` // the interval as a whole has to be beyond
	For         int      `json:"for,omitempty" yaml:"for,omitempty"`             // evaluations in a row; 0: 1
	Severity    Severity `json:"severity,omitempty" yaml:"severity,omitempty"`   // "": Ticket
	Description string   `json:"description,omitempty" yaml:"description,omitempty"`
}

// Version is a number or an alias; in YAML it needs no quotes.
type Version string

// UnmarshalText takes any text.
func (v *Version) UnmarshalText(b []byte) error {
	*v = Version(b)
	return nil
}

// Rules is a version of all rules. Nobody changes a Rules.
type Rules struct {
	Version int       `json:"version" yaml:"-"` // 0: none were ever made
	At      time.Time `json:"at,omitzero" yaml:"-"`
	By      string    `json:"by,omitempty" yaml:"-"`
	Rules   []Rule    `json:"rules" yaml:"rules"`
}

// Limits of rules. Each is asked about at every tick.
const (
	rulesMost       = 500
	nameMost        = 100
	textMost        = 200
	descriptionMost = 2000
	sliceMost       = 5
	forMost         = 1000
	windowMost      = 366 * 24 * time.Hour
)

// Parse reads rules from YAML (or JSON, which YAML contains), of one or more documents.
// Quality tells which metrics of quality there are; nil: any name may be one. Errors are
// Invalid and one sentence: the place in the file of name, or the rule.
func Parse(name string, b []byte, quality func(metric string) bool) ([]Rule, error) {
	docs, err := yamlwire.Read[struct {
		Rules []Rule `yaml:"rules"`
	}](name, b)
	if err != nil {
		return nil, err
	}
	all, none := []Rule{}, true
	for _, d := range docs {
		if d.Rules != nil {
			all = append(all, d.Rules...)
			none = false
		}
	}
	if none {
		return nil, fault.New(fault.Invalid, "%s has no rules; where there are to be none it says so: rules: []", name)
	}
	if len(all) > rulesMost {
		return nil, fault.New(fault.Invalid, "%s has %d rules, more than %d", name, len(all), rulesMost)
	}
	seen := map[string]bool{}
	for i := range all {
		r := &all[i]
		problem := r.problem(quality)
		if seen[r.Name] {
			problem = "there are two rules of that name"
		}
		switch seen[r.Name] = true; {
		case problem == "":
		case r.Name == "":
			return nil, fault.New(fault.Invalid, "%s: rule %d: %s", name, i+1, problem)
		default:
			return nil, fault.New(fault.Invalid, "%s: rule %.100q: %s", name, r.Name, problem)
		}
	}
	return all, nil
}

// problem says in words what a rule has wrong, or nothing.
func (r *Rule) problem(quality func(string) bool) string {
	column, known := metrics[r.Metric]
	bare := strings.TrimPrefix(r.Metric, "estimated_")
	threshold := cmp.Or(r.Below, r.Above)
	switch {
	case r.Name == "":
		return "name is missing"
	case len(r.Name) > nameMost || strings.ContainsFunc(r.Name, notName):
		return fmt.Sprintf("name has 1 to %d letters, digits and -_.", nameMost)
	case r.Model == "":
		return `model is missing; "*" is every model`
	case !plain(r.Model):
		return fmt.Sprintf("model is longer than %d bytes, or has control characters", textMost)
	case !plain(string(r.Version)):
		return fmt.Sprintf("version is longer than %d bytes, or has control characters", textMost)
	case r.Model == "*" && r.Version != "" && !strings.ContainsFunc(string(r.Version), func(c rune) bool { return c < '0' || c > '9' }):
		return "a version by its number is one of a model, not of every one"
	case r.Metric == "":
		return "metric is missing"
	case !known && (!plain(r.Metric) || bare == "" || quality != nil && !quality(bare)):
		return fmt.Sprintf("metric %.50q is neither one of quality nor one of %s", r.Metric, strings.Join(slices.Sorted(maps.Keys(metrics)), ", "))
	case column && r.Column == "":
		return fmt.Sprintf("%s is of one column: name it by column", r.Metric)
	case !column && r.Column != "":
		return fmt.Sprintf("%s is not of one column: leave column out", r.Metric)
	case !plain(r.Column):
		return fmt.Sprintf("column is longer than %d bytes, or has control characters", textMost)
	case len(r.Slice) > sliceMost:
		return fmt.Sprintf("slice has %d columns, more than %d", len(r.Slice), sliceMost)
	case r.Window <= 0:
		return `window is missing or not positive; it is a duration such as "1h" or "7d"`
	case time.Duration(r.Window) > windowMost:
		return "window is longer than 366d"
	case r.Below != nil && r.Above != nil:
		return "both below and above are there, expected one of them"
	case threshold == nil:
		return "neither below nor above is there, expected one of them"
	case math.IsNaN(*threshold) || math.IsInf(*threshold, 0):
		return "the threshold is not a finite number"
	case r.Min < 0:
		return "min is negative"
	case r.For < 0 || r.For > forMost:
		return fmt.Sprintf("for is %d, expected 1 to %d evaluations", r.For, forMost)
	case r.Severity != "" && r.Severity != Page && r.Severity != Ticket:
		return fmt.Sprintf("severity is %.50q, expected page or ticket", string(r.Severity))
	case len(r.Description) > descriptionMost:
		return fmt.Sprintf("description is longer than %d bytes", descriptionMost)
	}
	for name, value := range r.Slice {
		if name == "" || !plain(name) || !plain(value) {
			return fmt.Sprintf("slice: a name is empty, or something is longer than %d bytes or has control characters", textMost)
		}
	}
	switch {
	case r.Metric != Burn && (r.Objective != 0 || r.Short != 0):
		return "objective and short belong to " + Burn + " alone"
	case r.Metric != Burn:
		return ""
	case r.Objective <= 0 || r.Objective >= 1:
		return "objective is the share of requests that are to succeed, between 0 and 1, such as 0.999"
	case r.Above == nil:
		return Burn + " is a matter of above, not below"
	case r.Short < 0 || r.Short >= r.Window:
		return "short is a duration shorter than window"
	}
	return ""
}

func notName(c rune) bool {
	return !strings.ContainsRune("-_.", c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
}

// plain tells whether a text is fit for a line of a log or a terminal.
func plain(s string) bool {
	return len(s) <= textMost && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == '\ufffd' })
}

// threshold gives the rule's threshold, and on which side of it is trouble.
func (r *Rule) threshold() (side string, at float64) {
	if r.Below != nil {
		return "below", *r.Below
	}
	return "above", *r.Above
}

// short is the shorter window of a rule about a budget.
func (r *Rule) short() time.Duration {
	return time.Duration(cmp.Or(r.Short, r.Window/12))
}

func (r *Rule) severity() Severity { return cmp.Or(r.Severity, Ticket) }

// YAML writes the rules as Parse reads them.
func (r *Rules) YAML() ([]byte, error) {
	return yaml.MarshalWithOptions(r, yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
}

// Difference is what became of a rule from one version to the next.
type Difference struct {
	Change string `json:"change"` // added, changed or removed
	Rule   string `json:"rule"`
}

// String is the rule's name behind a sign: + added, ~ changed, - removed.
func (d Difference) String() string {
	return map[string]string{"added": "+", "changed": "~", "removed": "-"}[d.Change] + " " + d.Rule
}

// diff compares two sets of rules, by their names.
func diff(from, to []Rule) []Difference {
	all := []Difference{}
	old := map[string]*Rule{}
	for i := range from {
		old[from[i].Name] = &from[i]
	}
	for i := range to {
		name := to[i].Name
		was, there := old[name]
		delete(old, name)
		switch {
		case !there:
			all = append(all, Difference{"added", name})
		case !bytes.Equal(encode(was), encode(&to[i])):
			all = append(all, Difference{"changed", name})
		}
	}
	for name := range old {
		all = append(all, Difference{"removed", name})
	}
	slices.SortFunc(all, func(a, b Difference) int {
		return cmp.Or(strings.Compare(a.Rule, b.Rule), strings.Compare(a.Change, b.Change))
	})
	return all
}

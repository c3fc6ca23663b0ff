package console

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/course"
)

// alarm is an alert in a list.
type alarm struct {
	ID          string            `json:"id"`
	Rule        string            `json:"rule"`
	Model       string            `json:"model"`
	Version     string            `json:"version"`
	Slice       map[string]string `json:"slice"`
	Metric      string            `json:"metric"`
	Column      string            `json:"column"`
	Value       float64           `json:"value"`
	Low         *float64          `json:"low"`
	High        *float64          `json:"high"`
	Count       int64             `json:"count"`
	Examples    []course.Example  `json:"examples"` // predictions that show it
	Side        string            `json:"side"`
	Threshold   float64           `json:"threshold"`
	Window      string            `json:"window"`
	Severity    string            `json:"severity"`
	Description string            `json:"description"`
	Since       time.Time         `json:"since"`
	Seen        time.Time         `json:"seen"` // when it was measured last
	Raised      time.Time         `json:"raised"`
	Resolved    time.Time         `json:"resolved"`
	Why         string            `json:"why"`
	Summary     string            `json:"summary"`

	Run string `json:"-"` // where the run is that it started
}

// Of says what the alert is about.
func (a *alarm) Of() string { return of(a.Version, a.Slice) }

func of(version string, slice map[string]string) string {
	var parts []string
	if version != "" {
		parts = append(parts, "version "+version)
	}
	for _, column := range slices.Sorted(maps.Keys(slice)) {
		parts = append(parts, column+"="+slice[column])
	}
	return strings.Join(parts, ", ")
}

// Path is its page.
func (a *alarm) Path() string { return alertPath(a.ID) }

// Says is the value, and its interval if it has one.
func (a *alarm) Says() string {
	if a.Low == nil || a.High == nil {
		return number(a.Value)
	}
	return fmt.Sprintf("%s (%s to %s)", number(a.Value), number(*a.Low), number(*a.High))
}

// Because says why it is resolved.
func (a *alarm) Because() string {
	if words, known := map[string]string{
		"recovered": "the value is back", "rule_removed": "the rule is gone", "rule_changed": "the rule is about something else now", "no_data": "there was no data for long",
	}[a.Why]; known {
		return words
	}
	return a.Why
}

// alertsNow is what there is to know about alerts.
type alertsNow struct {
	At       time.Time         `json:"at"`
	Active   []alarm           `json:"active"`
	Pending  []alarm           `json:"pending"`
	Resolved []alarm           `json:"resolved"`
	Troubles map[string]string `json:"troubles"`
	Unsent   int               `json:"unsent"`
	Lost     int               `json:"lost"`
}

// rule says when somebody is to be told.
type rule struct {
	Name        string            `json:"name"`
	Model       string            `json:"model"`
	Version     string            `json:"version"`
	Metric      string            `json:"metric"`
	Column      string            `json:"column"`
	Slice       map[string]string `json:"slice"`
	Window      string            `json:"window"`
	Below       *float64          `json:"below"`
	Above       *float64          `json:"above"`
	Objective   float64           `json:"objective"`
	Min         int               `json:"min"`
	Confident   bool              `json:"confident"`
	For         int               `json:"for"`
	Severity    string            `json:"severity"`
	Description string            `json:"description"`

	Trouble string `json:"-"`
	Raised  int    `json:"-"`
}

// Of says what the rule is about.
func (r *rule) Of() string { return of(r.Version, r.Slice) }

// Says is its threshold.
func (r *rule) Says() string {
	switch {
	case r.Below != nil:
		return "below " + number(*r.Below)
	case r.Above != nil:
		return "above " + number(*r.Above)
	}
	return ""
}

// Only says what else has to hold.
func (r *rule) Only() string {
	var parts []string
	if r.Objective > 0 {
		parts = append(parts, "objective "+number(100*r.Objective)+" %")
	}
	if r.Min > 0 {
		parts = append(parts, fmt.Sprintf("%d rows or more", r.Min))
	}
	if r.Confident {
		parts = append(parts, "the whole interval")
	}
	if r.For > 1 {
		parts = append(parts, fmt.Sprintf("%d times in a row", r.For))
	}
	return strings.Join(parts, ", ")
}

type alertsPage struct {
	alertsNow
	Version int
	Rules   []rule
	Cut     int    // alerts that are not shown
	Away    string // why the runs are not told that alerts started; "": they are
}

// alertsMost is how many alerts of a kind are shown.
const alertsMost = 200

func (c *Console) alerts(q *Query) (*View, error) {
	p := &alertsPage{}
	if err := q.get("/admin/v1/alerts", &p.alertsNow); err != nil {
		return nil, err
	}
	var rules struct {
		Version int    `json:"version"`
		Rules   []rule `json:"rules"`
	}
	if err := q.get("/admin/v1/alerts/rules", &rules); err != nil && !missing(err) {
		return nil, err
	}
	p.Version, p.Rules = rules.Version, rules.Rules
	raised := map[string]int{}
	for i := range p.Active {
		raised[p.Active[i].Rule]++
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		r.Trouble, r.Raised = p.Troubles[r.Name], raised[r.Name]
	}
	slices.SortStableFunc(p.Active, func(a, b alarm) int { return b.Raised.Compare(a.Raised) })
	for _, list := range []*[]alarm{&p.Active, &p.Pending, &p.Resolved} {
		p.Cut += max(0, len(*list)-alertsMost)
		*list = (*list)[:min(len(*list), alertsMost)]
	}
	away, err := q.parts(p.runs)
	if err != nil {
		return nil, err
	}
	p.Away = away[0]
	return &View{Title: "Alerts", Nav: "/console/alerts", Every: 5 * time.Second, Data: p}, nil
}

// pipelinesAsked is how many pipelines are asked for their newest runs.
const pipelinesAsked = 10

// runs finds those that alerts started, among the newest.
func (p *alertsPage) runs(q *Query) error {
	var ids []string
	for _, list := range [][]alarm{p.Active, p.Resolved} {
		for i := range list {
			ids = append(ids, list[i].ID)
		}
	}
	started, err := q.started(ids)
	for _, list := range [][]alarm{p.Active, p.Resolved} {
		for i := range list {
			if s := started[list[i].ID]; s != nil {
				list[i].Run = s.page()
			}
		}
	}
	return err
}

// startedRun is a run of a pipeline that an alert has started.
type startedRun struct{ pipeline, run string }

func (s *startedRun) path() string { return at("/pipelines", s.pipeline) + at("/runs", s.run) }

func (s *startedRun) page() string { return "/console" + s.path() }

// started finds the runs that alerts have started, among the newest, by the alerts' ids.
func (q *Query) started(ids []string) (map[string]*startedRun, error) {
	found := map[string]*startedRun{}
	if len(ids) == 0 {
		return found, nil
	}
	var list struct {
		Pipelines []pipelineLine `json:"pipelines"`
	}
	if err := q.get("/admin/v1/pipelines", &list); err != nil {
		return found, unless(missing, err)
	}
	asked := 0
	for _, line := range list.Pipelines {
		if asked == pipelinesAsked || !slices.ContainsFunc(line.On, func(s starter) bool { return s.Event == alertRaised }) {
			continue
		}
		asked++
		var page struct {
			Runs []runEntry `json:"runs"`
		}
		if err := q.get(at("/admin/v1/pipelines", line.Name)+"/runs", &page); err != nil {
			return found, err
		}
		for _, r := range page.Runs {
			if r.Cause != nil && r.Cause.Type == alertRaised && slices.Contains(ids, r.Cause.ID) {
				found[r.Cause.ID] = &startedRun{line.Name, r.ID}
			}
		}
	}
	return found, nil
}

package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stepState is how a step of a run stands.
type stepState struct {
	Name     string              `json:"name"`
	Use      string              `json:"use"`
	State    string              `json:"state"`
	Attempt  int                 `json:"attempt"`
	Failures int                 `json:"failures"`
	Lost     int                 `json:"lost"`
	Place    string              `json:"place"`
	Began    time.Time           `json:"began"`
	Ended    time.Time           `json:"ended"`
	Until    time.Time           `json:"until"`
	Why      string              `json:"why"`
	Outputs  map[string]artifact `json:"outputs"`

	From, Width float64      `json:"-"` // of its bar, from 0 to 100
	Took        string       `json:"-"`
	Gave        []gave       `json:"-"`
	Log         string       `json:"-"` // where its log is; "": it has none
	Progress    *progressBar `json:"-"`
}

// artifact is what a step gave: a file, or a value.
type artifact struct {
	Key    string          `json:"key"`
	Size   int64           `json:"size"`
	SHA256 string          `json:"sha256"`
	Value  json.RawMessage `json:"value"`
}

// gave is an artifact for people.
type gave struct {
	Name  string
	File  string // its key; "": it is a value
	Size  int64
	Value string
}

type progressBar struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Unit  string `json:"unit"`
}

// auditEntry says who did what with a run.
type auditEntry struct {
	At   time.Time `json:"at"`
	Who  string    `json:"who"`
	What string    `json:"what"`
}

// happened is a link of a chain of causes.
type happened struct {
	At   time.Time
	What string
	More string // a sentence
	Link string
	Mood string
}

type runPage struct {
	Pipeline string       `json:"pipeline"`
	ID       string       `json:"id"`
	At       time.Time    `json:"at"`
	Version  int          `json:"version"`
	Cause    *cause       `json:"cause"`
	By       string       `json:"by"`
	Why      string       `json:"why"`
	State    string       `json:"state"`
	Began    time.Time    `json:"began"`
	Ended    time.Time    `json:"ended"`
	Reason   string       `json:"reason"`
	Until    time.Time    `json:"until"`
	Steps    []stepState  `json:"steps"`
	Cancel   *auditEntry  `json:"cancel"`
	Audit    []auditEntry `json:"audit"`
	Progress *progressBar `json:"progress"`

	Took      string       `json:"-"`
	Verdict   *verdict     `json:"-"`
	Published *published   `json:"-"`
	Rollout   *rolloutLine `json:"-"`
	Chain     []happened   `json:"-"`
	Away      []string     `json:"-"` // why not all is told that came of the version
}

// verdict is what the evaluation of a candidate came to.
type verdict struct {
	Passed   bool     `json:"passed"`
	Why      string   `json:"why"`
	Against  int      `json:"against"`
	Deciding measured `json:"deciding"`
	Checks   []struct {
		Name   string `json:"name"`
		Passed bool   `json:"passed"`
		Why    string `json:"why"`
	} `json:"checks"`
	Metrics []measured `json:"-"`
}

// Bars are both values and their intervals, on a scale from 0 to 100.
func (m *measured) Bars() (bars []intervalBar) {
	low, high := m.Candidate.bounds()
	if m.Champion != nil {
		l, h := m.Champion.bounds()
		low, high = min(low, l), max(high, h)
	}
	wide := high - low
	if wide <= 0 {
		return nil
	}
	place := func(f float64) float64 { return 2 + 96*(f-low)/wide }
	add := func(v *metric, y int) {
		l, h := v.bounds()
		bars = append(bars, intervalBar{From: place(l), Width: max(place(h)-place(l), 1), At: place(v.Value), Y: y})
	}
	add(&m.Candidate, 2)
	if m.Champion != nil {
		add(m.Champion, 8)
	}
	return bars
}

// intervalBar is an interval in a drawing.
type intervalBar struct {
	From, Width, At float64
	Y               int
}

func (v *metric) bounds() (low, high float64) {
	if v.Interval == nil {
		return v.Value, v.Value
	}
	return min(v.Interval.Low, v.Value), max(v.Interval.High, v.Value)
}

// published is the version that a run made.
type published struct {
	Model   string `json:"model"`
	Version int    `json:"version"`
}

// Page is where the version is shown.
func (p *published) Page() string {
	return at("/console/models", p.Model, "versions", strconv.Itoa(p.Version))
}

// over tells whether a state is an end.
func over(state string) bool {
	return slices.Contains([]string{"succeeded", "failed", "canceled", "refused"}, state)
}

// Over tells whether the run has ended.
func (p *runPage) Over() bool { return over(p.State) }

func (c *Console) run(q *Query) (*View, error) {
	name, id := q.PathValue("pipeline"), q.PathValue("run")
	p := &runPage{}
	if err := q.get(at("/admin/v1/pipelines", name)+at("/runs", id), p); err != nil {
		return nil, err
	}
	p.place(time.Now())
	if err := p.read(q); err != nil {
		return nil, err
	}
	v := &View{Title: p.Pipeline + " " + p.ID, Nav: "/console/pipelines", Data: p}
	if !p.Over() {
		v.Every = 2 * time.Second
	}
	return v, nil
}

// place says where on the run's bar each step lies, and how long it took.
func (p *runPage) place(now time.Time) {
	until := p.Ended
	if until.IsZero() {
		until = now
	}
	whole := max(until.Sub(p.At), time.Millisecond)
	p.Took = lasted(whole)
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Attempt > 0 {
			s.Log = at("/console/pipelines", p.Pipeline) + at("/runs", p.ID) + at("/logs", s.Name)
		}
		if !s.Began.IsZero() {
			end := s.Ended
			if end.IsZero() {
				end = until
			}
			s.From = 100 * float64(s.Began.Sub(p.At)) / float64(whole)
			s.Width = max(.6, 100*float64(end.Sub(s.Began))/float64(whole))
			s.From = max(0, min(s.From, 100-s.Width))
			s.Took = lasted(end.Sub(s.Began))
		}
		if s.State == "running" {
			s.Progress = p.Progress
		}
		for _, name := range slices.Sorted(maps.Keys(s.Outputs)) {
			a := s.Outputs[name]
			g := gave{Name: name, File: a.Key, Size: a.Size}
			if a.Key == "" {
				g.Value = pretty(a.Value)
			}
			s.Gave = append(s.Gave, g)
		}
	}
}

// lasted writes how long something took.
func lasted(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// valueMost is how much of a value is shown.
const valueMost = 6000

// pretty writes JSON for people; what is none, as it is.
func pretty(raw json.RawMessage) string {
	var v any
	if err := json.Unmarshal(raw, &v); err == nil {
		if b, err := json.MarshalIndent(v, "", "  "); err == nil {
			raw = b
		}
	}
	return clipped(string(raw), valueMost)
}

// output gives a value that a step of a kind told.
func (p *runPage) output(use, name string, into any) (step *stepState) {
	for i := range p.Steps {
		s := &p.Steps[i]
		if a, there := s.Outputs[name]; there && s.Use == use && json.Unmarshal(a.Value, into) == nil {
			return s
		}
	}
	return nil
}

// read adds what the run came to, and what came of it.
func (p *runPage) read(q *Query) error {
	var judged verdict
	if p.output("evaluate", "verdict", &judged) != nil {
		p.Verdict = &judged
		p.Verdict.Metrics = []measured{judged.Deciding}
	}
	begun, err := p.begun(q)
	if err != nil {
		return err
	}
	p.Chain = begun
	for _, s := range p.Steps {
		if !s.Ended.IsZero() {
			p.Chain = append(p.Chain, happened{At: s.Ended, What: "step " + s.Name + " " + s.State, More: s.Why, Mood: mood(s.State), Link: s.Log})
		}
	}
	var made published
	if p.output("publish", "version", &made) != nil && made.Model != "" {
		p.Published = &made
		led, err := p.led(q)
		if err != nil {
			return err
		}
		p.Chain = append(p.Chain, led...)
	}
	if !p.Ended.IsZero() {
		p.Chain = append(p.Chain, happened{At: p.Ended, What: "run " + p.State, More: p.Reason, Mood: mood(p.State)})
	}
	// What started the run comes first, also where its clock is another one, as in a replay.
	rest := p.Chain[len(begun):]
	slices.SortStableFunc(rest, func(a, b happened) int { return a.At.Compare(b.At) })
	return nil
}

// begun is how the run came to be.
func (p *runPage) begun(q *Query) (chain []happened, err error) {
	switch {
	case p.Cause == nil:
		who := p.By
		if who == "" {
			who = "somebody"
		}
		return []happened{{At: p.At, What: "run started by hand", More: strings.TrimSuffix(who+": "+p.Why, ": ")}}, nil
	case p.Cause.Type == byTime:
		return []happened{{At: p.At, What: "run started by time", More: "due at " + p.Cause.ID}}, nil
	case p.Cause.Type == alertRaised:
		var status alertsNow
		away, err := q.parts(func(q *Query) error { return unless(missing, q.get("/admin/v1/alerts", &status)) })
		if err != nil {
			return nil, err
		}
		first := happened{What: "alert " + p.Cause.Subject, More: "it was resolved long ago", Link: "/console/alerts", Mood: "bad"}
		if away[0] != "" {
			first.More = away[0]
		}
		for _, a := range slices.Concat(status.Active, status.Resolved) {
			if a.ID == p.Cause.ID {
				first = happened{At: a.Raised, What: "alert " + a.Rule, More: a.Summary, Link: alertPath(a.ID), Mood: mood(a.Severity)}
			}
		}
		chain = append(chain, first)
	default:
		chain = append(chain, happened{What: brief(p.Cause.Type) + " " + p.Cause.Subject, More: "event " + p.Cause.ID + " of " + p.Cause.Source, Link: p.Cause.Link()})
	}
	return append(chain, happened{At: p.At, What: runStarted}), nil
}

const runStarted = "run started"

// led is what came of the version that the run published: by what says that the run is its cause.
func (p *runPage) led(q *Query) (chain []happened, err error) {
	me := p.Pipeline + ":" + p.ID
	page := at("/console/models", p.Published.Model)
	path := at("/admin/v1/models", p.Published.Model)
	version := fmt.Sprintf("%s/versions/%d", path, p.Published.Version)
	var made struct {
		CreatedAt time.Time `json:"created_at"`
		Cause     string    `json:"cause"`
	}
	var card struct {
		Metrics []measured `json:"metrics"`
	}
	var model struct {
		History []moveLine `json:"history"`
	}
	var rollouts []rolloutLine
	p.Away, err = q.parts(
		func(q *Query) error { return unless(missing, q.get(version, &made)) },
		func(q *Query) error { return unless(missing, q.get(version+"/card", &card)) },
		func(q *Query) error { return unless(missing, q.get(path+"?limit=1", &model)) },
		func(q *Query) (err error) { rollouts, err = q.rollouts(); return err },
	)
	if err != nil {
		return nil, err
	}
	slices.Sort(p.Away)
	p.Away = slices.DeleteFunc(slices.Compact(p.Away), func(s string) bool { return s == "" })
	if made.Cause == me {
		chain = append(chain, happened{At: made.CreatedAt, What: fmt.Sprintf("version %d of %s published", p.Published.Version, p.Published.Model), Link: p.Published.Page(), Mood: "good"})
	}
	if p.Verdict != nil && len(card.Metrics) > 0 {
		p.Verdict.Metrics = card.Metrics
	}
	for _, m := range model.History {
		if m.Cause != me {
			continue
		}
		what := fmt.Sprintf("alias %s names version %d", m.Alias, m.To)
		if m.After != nil {
			for _, c := range m.After.Canaries {
				what = fmt.Sprintf("alias %s gives %s %% to version %d", m.Alias, number(100*c.Share), c.Version)
			}
			if m.After.Shadow > 0 {
				what = fmt.Sprintf("alias %s has version %d as its shadow", m.Alias, m.After.Shadow)
			}
		}
		chain = append(chain, happened{At: m.At, What: what, More: m.Why, Link: page})
	}
	for i, r := range rollouts {
		if r.Cause != me {
			continue
		}
		p.Rollout = &rollouts[i]
		if !r.Ended.IsZero() {
			chain = append(chain, happened{At: r.Ended, What: "rollout " + r.End, More: r.Why, Mood: mood(r.End), Link: "#rollout"})
		}
	}
	return chain, nil
}

type logPage struct {
	Pipeline, Run, Step string
	Log                 *stepLog
	Older               bool // lines are left out
}

// stepLog is what a step told.
type stepLog struct {
	Step    string    `json:"step"`
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Last    int       `json:"last"`
	Lines   []struct {
		Number  int       `json:"number"`
		Attempt int       `json:"attempt"`
		At      time.Time `json:"at"`
		Level   string    `json:"level"`
		Text    string    `json:"text"`
	} `json:"lines"`
}

// stepLogs shows the log of one step of a run.
func (c *Console) stepLog(q *Query) (*View, error) {
	p := &logPage{Pipeline: q.PathValue("pipeline"), Run: q.PathValue("run"), Step: q.PathValue("step")}
	path := at("/admin/v1/pipelines", p.Pipeline) + at("/runs", p.Run)
	var run struct {
		State string `json:"state"`
	}
	if err := q.get(path, &run); err != nil {
		return nil, err
	}
	var all struct {
		Logs []stepLog `json:"logs"`
	}
	if err := q.get(path+"/logs", &all); err != nil {
		return nil, err
	}
	for i := range all.Logs {
		if all.Logs[i].Step == p.Step {
			p.Log = &all.Logs[i]
			p.Older = p.Log.Last > len(p.Log.Lines)
		}
	}
	v := &View{Title: "Log of " + p.Step, Nav: "/console/pipelines", Data: p}
	if !over(run.State) {
		v.Every = 2 * time.Second
	}
	return v, nil
}

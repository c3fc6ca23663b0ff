package console

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// cause is what started a run.
type cause struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Source  string `json:"source"`
	Subject string `json:"subject"`
}

// The types of events that pages make links of.
const (
	alertRaised   = "dev.pilotlight.alert.raised.v1"
	pipelineEnded = "dev.pilotlight.pipeline.ended.v1"
	byTime        = "every"
)

// Words says what it was.
func (c *cause) Words() string {
	switch {
	case c == nil:
		return "by hand"
	case c.Type == byTime:
		return "by time"
	case c.Subject == "":
		return brief(c.Type)
	}
	return brief(c.Type) + " " + c.Subject
}

// Link leads to it, where there is a page.
func (c *cause) Link() string {
	if c == nil {
		return ""
	}
	switch c.Type {
	case alertRaised:
		return "/console/alerts"
	case pipelineEnded: // pipeline:run:ended
		if parts := strings.Split(c.ID, ":"); len(parts) == 3 {
			return at("/console/pipelines", parts[0]) + at("/runs", parts[1])
		}
	}
	return ""
}

// brief is a type of event without what all of ours have in common.
func brief(kind string) string {
	short, ours := strings.CutPrefix(kind, "dev.pilotlight.")
	if last := strings.LastIndex(short, ".v"); ours && last > 0 {
		return short[:last]
	}
	return short
}

// runEntry is a run in a list.
type runEntry struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	Version int       `json:"version"`
	Cause   *cause    `json:"cause"`
	By      string    `json:"by"`
	Why     string    `json:"why"`
	State   string    `json:"state"`
	Took    string    `json:"took"`
	Reason  string    `json:"reason"`
}

// mood is the class of a state.
func mood(state string) string {
	switch state {
	case "succeeded", "promoted", "fine":
		return "good"
	case "failed", "page", "worse":
		return "bad"
	case "refused", "canceled", "cancelled", "taken back", "taken over", "ticket":
		return "warn"
	}
	return ""
}

// starter is what starts runs of a pipeline.
type starter struct {
	Event string            `json:"event"`
	Where map[string]string `json:"where"`
	Every string            `json:"every"`
}

// Words says what it is.
func (s starter) Words() string {
	if s.Every != "" {
		return "every " + s.Every
	}
	words := brief(s.Event)
	for _, field := range slices.Sorted(maps.Keys(s.Where)) {
		words += fmt.Sprintf(" %s=%s", field, s.Where[field])
	}
	return words
}

// wired is a step of a definition.
type wired struct {
	Name  string            `json:"name"`
	Use   string            `json:"use"`
	In    map[string]string `json:"in"`
	After []string          `json:"after"`
}

// Feeds tells what its inputs are, by name.
func (w wired) Feeds() (feeds []string) {
	for _, name := range slices.Sorted(maps.Keys(w.In)) {
		feeds = append(feeds, name+" ← "+w.In[name])
	}
	return feeds
}

// pipelineLine is a line of the list of pipelines.
type pipelineLine struct {
	Name    string    `json:"name"`
	About   string    `json:"about"`
	Version int       `json:"version"`
	Trouble string    `json:"trouble"`
	Active  string    `json:"active"`
	Run     *runEntry `json:"run"`
	On      []starter `json:"on"`
}

type pipelinesPage struct {
	Pipelines []pipelineLine
	Rollouts  []rolloutLine
	Away      string // why there are no rollouts; "": they are there
}

func (c *Console) pipelines(q *Query) (*View, error) {
	var list struct {
		Pipelines []pipelineLine `json:"pipelines"`
	}
	if err := q.get("/admin/v1/pipelines", &list); err != nil {
		return nil, err
	}
	p := &pipelinesPage{Pipelines: list.Pipelines}
	away, err := q.parts(func(q *Query) (err error) { p.Rollouts, err = q.rollouts(); return err })
	if err != nil {
		return nil, err
	}
	p.Away = away[0]
	return &View{Title: "Pipelines", Nav: "/console/pipelines", Every: 5 * time.Second, Data: p}, nil
}

// rolloutLine is how a version is brought, or was, to those who ask an alias.
type rolloutLine struct {
	Model   string        `json:"model"`
	Alias   string        `json:"alias"`
	Version int           `json:"version"`
	Shares  []float64     `json:"shares"`
	By      string        `json:"by"`
	Cause   string        `json:"cause"`
	Created time.Time     `json:"created"`
	Ended   time.Time     `json:"ended"`
	End     string        `json:"end"`
	Why     string        `json:"why"`
	Latest  *rolloutLook  `json:"latest"`
	Steps   []rolloutLook `json:"steps"`
}

// rolloutLook is what was seen of a rollout at one time.
type rolloutLook struct {
	At       time.Time      `json:"at"`
	Share    float64        `json:"share"`
	Answers  int64          `json:"answers"`
	Verdict  string         `json:"verdict"`
	Why      string         `json:"why"`
	Findings []guardFinding `json:"findings"`
}

// guardFinding is what a guard of a rollout found.
type guardFinding struct {
	Metric     string   `json:"metric"`
	Version    float64  `json:"version"`
	Candidate  float64  `json:"candidate"`
	Answers    [2]int64 `json:"answers"`
	Difference float64  `json:"difference"`
	Known      bool     `json:"known"`
	Low        float64  `json:"low"`
	High       float64  `json:"high"`
	Allowed    float64  `json:"allowed"`
	State      string   `json:"state"`
}

// Run is where the run is that it is for; "": it is for none.
func (r *rolloutLine) Run() string { return runOf(r.Cause) }

// rollouts gives those under way first, and then the newest.
func (q *Query) rollouts() ([]rolloutLine, error) {
	var list struct {
		Rollouts []rolloutLine `json:"rollouts"`
	}
	if err := q.get("/admin/v1/rollouts", &list); err != nil && !missing(err) {
		return nil, err
	}
	slices.SortStableFunc(list.Rollouts, func(a, b rolloutLine) int {
		if (a.End == "") != (b.End == "") {
			return cmp.Compare(min(len(a.End), 1), min(len(b.End), 1))
		}
		return b.Created.Compare(a.Created)
	})
	return list.Rollouts[:min(len(list.Rollouts), onePage)], nil
}

type pipelinePage struct {
	Name    string    `json:"name"`
	About   string    `json:"about"`
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Text    string    `json:"text"`
	Trouble string    `json:"trouble"`
	Active  string    `json:"active"`
	Pending *cause    `json:"pending"`
	Joined  int       `json:"joined"`
	Paused  int       `json:"paused"`
	On      []starter `json:"on"`
	Pause   string    `json:"pause"`
	Steps   []wired   `json:"steps"`

	runsPart

	Graph    *graph    `json:"-"`
	Shown    definedAs `json:"-"` // of the definition
	Versions []int     `json:"-"` // the newest, newest first
	More     string    `json:"-"`
}

// runsPart is a part of a pipeline's runs, newest first.
type runsPart struct {
	Runs []runEntry `json:"runs"`
	Next string     `json:"next"` // where the next part begins; "": there is none
}

// definedAs is a definition as it was applied.
type definedAs struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Text    string    `json:"text"`
}

// definitionsShown is how many versions a page names.
const definitionsShown = 20

func (c *Console) pipeline(q *Query) (*View, error) {
	p := &pipelinePage{}
	path := at("/admin/v1/pipelines", q.PathValue("pipeline"))
	if err := q.get(path, p); err != nil {
		return nil, err
	}
	if after := q.FormValue("after"); after != "" {
		p.runsPart = runsPart{}
		if err := q.get(withQuery(path+"/runs", "after", after), &p.runsPart); err != nil {
			return nil, err
		}
	}
	if p.Next != "" {
		p.More = at("/console/pipelines", p.Name) + "?after=" + escape(p.Next)
	}
	p.Shown = definedAs{p.Version, p.At, p.By, p.Text}
	if older := q.FormValue("version"); older != "" {
		if err := q.get(path+at("/versions", older), &p.Shown); err != nil {
			return nil, err
		}
	}
	for v := p.Version; v > 0 && len(p.Versions) < definitionsShown; v-- {
		p.Versions = append(p.Versions, v)
	}
	p.Graph = draw(p.Steps)
	v := &View{Title: p.Name, Nav: "/console/pipelines", Data: p}
	if q.URL.RawQuery == "" {
		v.Every = 5 * time.Second
	}
	return v, nil
}

func (c *Console) startRun(q *Query) (said, next string, err error) {
	name := q.PathValue("pipeline")
	next = at("/console/pipelines", name)
	var run struct {
		ID string `json:"id"`
	}
	ask := map[string]string{"by": "console", "why": q.PostFormValue("why")}
	if err := q.ask("POST", at("/admin/v1/pipelines", name)+"/runs", ask, &run); err != nil {
		return "", next, err
	}
	return "The run has begun.", next + at("/runs", run.ID), nil
}

func (c *Console) cancelRun(q *Query) (said, next string, err error) {
	name, run := q.PathValue("pipeline"), q.PathValue("run")
	next = at("/console/pipelines", name) + at("/runs", run)
	if err := q.ask("DELETE", at("/admin/v1/pipelines", name)+at("/runs", run)+"?by=console", nil, nil); err != nil {
		return "", next, err
	}
	return "Asked to cancel it: whoever works on it notices within seconds.", next, nil
}

// graph is a drawing of the steps of a definition, from left to right.
type graph struct {
	Width, Height int
	Boxes         []graphBox
	Lines         []string // paths
	About         string   // in words
}

// graphBox is a step in a graph.
type graphBox struct {
	X, Y      int
	Name, Use string
}

// The measures of a graph, in pixels.
const (
	boxWide, boxHigh = 132, 44
	gapWide, gapHigh = 44, 16
)

// draw puts each step behind all that it waits for; nil: there is nothing to draw.
func draw(steps []wired) *graph {
	if len(steps) == 0 {
		return nil
	}
	place := map[string]int{} // the column
	before := func(s wired) (names []string) {
		for _, from := range s.In {
			name, _, _ := strings.Cut(from, ".")
			names = append(names, name)
		}
		names = append(names, s.After...)
		slices.Sort(names)
		return slices.Compact(names)
	}
	for range steps { // as often as the longest way is long, at most
		changed := false
		for _, s := range steps {
			column := 0
			for _, name := range before(s) {
				if from, known := place[name]; known {
					column = max(column, from+1)
				}
			}
			if old, known := place[s.Name]; !known || old < column && column < len(steps) {
				place[s.Name], changed = column, true
			}
		}
		if !changed {
			break
		}
	}
	g := &graph{}
	rows, at := map[int]int{}, map[string]graphBox{}
	for _, s := range steps {
		column := place[s.Name]
		b := graphBox{X: column*(boxWide+gapWide) + 1, Y: rows[column]*(boxHigh+gapHigh) + 1, Name: clipped(s.Name, 16), Use: clipped(s.Use, 18)}
		rows[column]++
		at[s.Name] = b
		g.Boxes = append(g.Boxes, b)
		g.Width, g.Height = max(g.Width, b.X+boxWide+1), max(g.Height, b.Y+boxHigh+1)
	}
	var words []string
	for _, s := range steps {
		to := at[s.Name]
		for _, name := range before(s) {
			from, known := at[name]
			if !known {
				continue
			}
			x1, y1, x2, y2 := from.X+boxWide, from.Y+boxHigh/2, to.X, to.Y+boxHigh/2
			middle := x2 - gapWide/2
			g.Lines = append(g.Lines, fmt.Sprintf("M%d %d C%d %d %d %d %d %d", x1, y1, middle, y1, middle, y2, x2, y2))
		}
		words = append(words, s.Name+" ("+s.Use+")")
	}
	g.About = "Steps in their order: " + strings.Join(words, ", ")
	return g
}

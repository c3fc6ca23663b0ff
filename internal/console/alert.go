package console

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/course"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// alertPage is one alert: what shows it, what had moved by then, and what it led to.
type alertPage struct {
	alarm
	Picture, Picturing string // of the time about it; "": none tells of its metric
	OverTime           string // the page of that
	Predictions        []exhibit
	List               string // the page of the predictions of its model
	Moved              []movedColumn
	Unmoved            string // why there are none
	Chain              []happened
	Away               map[string]string // why parts are not there
}

// alertPath is the page of an alert.
func alertPath(id string) string { return at("/console/alerts", id) }

// exhibit is a row of a prediction that shows something.
type exhibit struct {
	ID, Path, Brief, Said string
	Number                int    // of the row
	Trace                 string // the page of its trace; "": it has none
	Gone                  string // why there is no more of it than its id
	*answer
	Row *answerRow
}

// movedColumn is a column that had drifted.
type movedColumn struct {
	Name, Sentence string
	PSI            float64
	View           string // the page of the view that it is of; "": it is of none
	Examples       []exhibit
}

// cited links to predictions, the first few of which say enough.
func cited(examples []course.Example) (all []exhibit) {
	for _, e := range examples[:min(len(examples), 3)] {
		all = append(all, exhibitOf(e))
	}
	return all
}

func exhibitOf(e course.Example) exhibit {
	x := exhibit{ID: e.Prediction, Number: e.Row, Path: predictionPath(e.Prediction)}
	if e.Row > 0 {
		x.Path = withQuery(x.Path, "row", strconv.Itoa(e.Row))
	}
	return x
}

func (c *Console) alert(q *Query) (*View, error) {
	p := &alertPage{Away: map[string]string{}}
	if err := q.get(at("/admin/v1/alerts", q.PathValue("alert")), &p.alarm); err != nil {
		return nil, err
	}
	v := &View{Title: "Alert " + p.Rule, Nav: "/console/alerts", Data: p}
	if p.Resolved.IsZero() {
		v.Every = 30 * time.Second // as often as rules are evaluated; each look reads the windows that the rule looks back at
	}
	p.picture()
	p.List = withQuery("/console/predictions", "model", p.Model, "version", p.Version)
	away, err := q.parts(p.examples, p.moved, p.led)
	if err != nil {
		return nil, err
	}
	for i, part := range []string{"Predictions", "Moved", "Chain"} {
		p.Away[part] = away[i]
	}
	return v, nil
}

// last is until when the alert was measured while it was raised.
func (a *alarm) last() time.Time {
	if a.Resolved.IsZero() {
		return a.Seen
	}
	return a.Resolved
}

// window is the time that it was raised for or, as long as it was not, in which it was first found beyond the threshold.
func (a *alarm) window() (from, until time.Time) {
	if until = a.Raised; until.IsZero() {
		until = a.Since
	}
	looksBack, err := yamlwire.ParseDuration(a.Window)
	if err != nil {
		return until.Add(-day), until
	}
	return until.Add(-time.Duration(looksBack)), until
}

// picture finds the one that shows the metric, up to a week after the alert was raised.
func (p *alertPage) picture() {
	what := ""
	switch {
	case p.Model == "" || p.Version == "":
		return
	case slices.Contains([]string{"drift", "drift_share", "psi", "js", "ks"}, p.Metric):
		what = drift
	case slices.Contains([]string{"error_rate", "budget_burn", "coverage"}, p.Metric), strings.HasPrefix(p.Metric, "latency_"), strings.HasPrefix(p.Metric, "freshness_"):
		return
	default:
		what = quality
	}
	_, until := p.window()
	until = until.Add(7 * day)
	if last := p.last(); last.Before(until) {
		until = last
	}
	asked := []string{"span", "30d", "until", until.UTC().Format(time.DateOnly)}
	page := at("/console/models", p.Model)
	p.Picture, p.Picturing, p.OverTime = withQuery(page+"/"+what+".svg", asked...), what, withQuery(page+"/over-time", asked...)
}

// examples finds out about the predictions that the alert names.
func (p *alertPage) examples(q *Query) (err error) {
	p.Predictions, err = q.exhibits(p.Examples, p.Model, p.Version)
	return err
}

// exhibits finds out about predictions: what the version of a model said to them.
func (q *Query) exhibits(examples []course.Example, model, version string) ([]exhibit, error) {
	all := make([]exhibit, len(examples))
	asks := make([]func(*Query) error, len(examples))
	for i := range examples {
		all[i] = exhibitOf(examples[i])
		e := &all[i]
		asks[i] = func(q *Query) error {
			found, err := q.predictionOf(e.ID)
			if err != nil {
				e.Gone = fault.Message(err)
				return unless(missing, err)
			}
			at := slices.IndexFunc(found.Answers, func(a answer) bool { return a.Model == model && strconv.Itoa(a.Version) == version })
			if at < 0 {
				e.Gone = "this version's answer to it is not in the log any more"
				return nil
			}
			e.show(&found.Answers[at])
			return nil
		}
	}
	away, err := q.parts(asks...)
	for i, why := range away {
		if why != "" {
			all[i].Gone = why
		}
	}
	return all, err
}

// show takes over what was said.
func (e *exhibit) show(a *answer) {
	e.answer = a
	for i := range a.Rows {
		if r := &a.Rows[i]; r.Row == e.Number {
			r.show(nil)
			e.Row, e.Brief, e.Said = r, short(r.Inputs), short(r.Outputs)
		}
	}
	if e.Row == nil {
		e.Gone = "of its many rows this one is not shown"
	}
	if a.Trace != "" && (a.Traced || a.Kind != "") { // it is kept
		e.Trace = tracePath(a.Trace, a.Time)
	}
}

// moved finds the columns that had drifted in the window of the alert.
func (p *alertPage) moved(q *Query) error {
	if p.Model == "" || p.Version == "" {
		p.Unmoved = "The alert is not about a version."
		return nil
	}
	from, until := p.window()
	number, _ := strconv.Atoi(p.Version) // it is a version's
	drifted, err := q.drifted(p.Model, number, from, until)
	switch {
	case err != nil:
		return err
	case drifted == nil:
		p.Unmoved = "Nothing is known of that time."
		return nil
	case drifted.Report == nil:
		p.Unmoved = drifted.Missing
		return nil
	}
	views := q.viewsOf(p.Model, number)
	p.Unmoved = "No column had drifted then."
	for _, c := range drifted.Strongest() {
		column := movedColumn{Name: c.Name, PSI: c.PSI, Sentence: course.Moves(c), Examples: cited(drifted.Examples[c.Name])}
		if of, known := views[c.Name]; known {
			column.View = of.path(nil)
		}
		p.Moved = append(p.Moved, column)
	}
	return nil
}

// drifted tells how far the data of a version had moved in some time; nil: nothing is known.
func (q *Query) drifted(model string, version int, from, until time.Time) (*course.Drifted, error) {
	var d course.Drift
	err := q.get(withQuery(at("/admin/v1/drift", model), "version", strconv.Itoa(version), "from", from.UTC().Format(time.RFC3339), "until", until.UTC().Format(time.RFC3339)), &d)
	if err != nil || len(d.Versions) == 0 {
		return nil, unless(missing, err)
	}
	return &d.Versions[0], nil
}

// led tells of the run that the alert started, up to who answers now.
func (p *alertPage) led(q *Query) error {
	_, begun := p.window()
	p.Chain = []happened{{At: begun, What: "alert " + p.Rule, More: p.Summary, Mood: mood(p.Severity)}}
	started, err := q.started([]string{p.ID})
	if err != nil || started[p.ID] == nil {
		return err
	}
	s := started[p.ID]
	p.Run = s.page()
	run := &runPage{}
	if err := q.get("/admin/v1"+s.path(), run); err != nil {
		return unless(missing, err)
	}
	run.place(time.Now())
	if err := run.read(q); err != nil {
		return err
	}
	p.Chain = run.Chain
	for i := range p.Chain {
		if link := &p.Chain[i].Link; *link == alertPath(p.ID) {
			*link = ""
		} else if *link == "#rollout" {
			*link = s.page() + *link
		}
		if p.Chain[i].What == runStarted {
			p.Chain[i].Link = s.page()
		}
	}
	return nil
}

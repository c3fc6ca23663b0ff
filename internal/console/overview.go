package console

import (
	"cmp"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// overviewPage is what somebody looks at first: what is asked now, what is wrong, and what is under way. Each part stands for itself:
// where there is none, its sentence in Away says why.
type overviewPage struct {
	Pulse  *pulse
	Busy   []busyLine
	Models string // how many there are
	Alerts alertStatus
	Rolls  []rolloutLine // under way
	Runs   []latestRun   // the newest of each pipeline, the newest first
	Active int           // runs under way
	Dead   string        // letters that wait
	Moves  []moveLine    // the newest first
	Movers []string      // the models that these are looked for of
	Away   struct{ Pulse, Models, Alerts, Rolls, Runs, Dead, Moves string }
}

type busyLine struct {
	Model   string
	Version int
	*slots
}

type alertStatus struct {
	At     time.Time   `json:"at"`
	Active []alertLine `json:"active"`
}

type alertLine struct {
	ID       string    `json:"id"`
	Rule     string    `json:"rule"`
	Model    string    `json:"model"`
	Version  string    `json:"version"`
	Severity string    `json:"severity"`
	Summary  string    `json:"summary"`
	Raised   time.Time `json:"raised"`
}

// latestRun is the newest run of a pipeline.
type latestRun struct {
	Pipeline string
	*runEntry
}

// Path is its page.
func (r *latestRun) Path() string { return at("/console/pipelines", r.Pipeline, "runs", r.ID) }

// moveLine is a move of an alias.
type moveLine struct {
	Model  string
	Seq    int       `json:"seq"`
	Alias  string    `json:"alias"`
	From   int       `json:"from"`
	To     int       `json:"to"`
	Before *split    `json:"before"`
	After  *split    `json:"after"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Why    string    `json:"why"`
	Cause  string    `json:"cause"`
	Undoes int       `json:"undoes"`
}

// What says what it did, in words.
func (m *moveLine) What() string {
	switch {
	case m.Undoes > 0:
		return fmt.Sprintf("back to %d (takes back move %d)", m.To, m.Undoes)
	case m.To == 0:
		return fmt.Sprintf("removed; it named %d", m.From)
	case m.From == 0:
		return fmt.Sprintf("names %d", m.To)
	case m.From != m.To:
		return fmt.Sprintf("from %d to %d", m.From, m.To)
	}
	shares := map[int]float64{}
	if m.Before != nil {
		for _, c := range m.Before.Canaries {
			shares[c.Version] = c.Share
		}
	}
	if m.After != nil {
		for _, c := range m.After.Canaries {
			if before := shares[c.Version]; before != c.Share {
				return fmt.Sprintf("canary %d: %s %%", c.Version, number(100*c.Share))
			}
			delete(shares, c.Version)
		}
	}
	for version := range shares {
		return fmt.Sprintf("canary %d ends", version)
	}
	var before, after int
	if m.Before != nil {
		before = m.Before.Shadow
	}
	if m.After != nil {
		after = m.After.Shadow
	}
	switch {
	case after > 0 && after != before:
		return fmt.Sprintf("shadow %d", after)
	case before > 0 && after == 0:
		return fmt.Sprintf("shadow %d ends", before)
	}
	return "as it was"
}

// Run is the page of the run that it was for, if it was one: by the id of a run of a pipeline that is named as the run's cause. "": it was none.
func (m *moveLine) Run() string { return runOf(m.Cause) }

// Things of the overview, at most.
const (
	busiest   = 8
	alertMost = 6
	moveMost  = 8
	moversOf  = 12 // models whose moves are looked for
	deadMost  = 20
)

func (c *Console) overview(q *Query) (*View, error) {
	p := &overviewPage{}
	var list struct {
		Models []modelLine `json:"models"`
		Next   string      `json:"next"`
	}
	var rolls struct {
		Rollouts []rolloutLine `json:"rollouts"`
	}
	var pipelines struct {
		Pipelines []pipelineLine `json:"pipelines"`
	}
	var dead struct {
		Letters []struct{} `json:"deadletters"`
		Cursor  string     `json:"cursor"`
	}
	away, err := q.parts(
		func(q *Query) (err error) { p.Pulse, err = q.pulse("", busiest); return err },
		func(q *Query) error {
			return q.lately("/admin/v1/models?limit="+strconv.Itoa(onePage), &list)
		},
		func(q *Query) error { return q.lately("/admin/v1/alerts", &p.Alerts) },
		func(q *Query) error { return q.lately("/admin/v1/rollouts", &rolls) },
		func(q *Query) error { return q.lately("/admin/v1/pipelines", &pipelines) },
		func(q *Query) error {
			return q.lately("/admin/v1/deadletters?limit="+strconv.Itoa(deadMost), &dead)
		},
	)
	if err != nil {
		return nil, err
	}
	for i, to := range []*string{&p.Away.Pulse, &p.Away.Models, &p.Away.Alerts, &p.Away.Rolls, &p.Away.Runs, &p.Away.Dead} {
		*to = away[i]
	}
	if p.Away.Pulse == "" {
		p.Away.Pulse = p.Pulse.Away
		for i := range p.Pulse.Models {
			p.Busy = append(p.Busy, busyLine{p.Pulse.Models[i].Model, p.Pulse.Models[i].Version, &p.Pulse.Models[i].slots})
		}
	} else {
		p.Pulse = nil
	}
	p.Models, p.Dead = atLeast(len(list.Models), list.Next != ""), atLeast(len(dead.Letters), dead.Cursor != "")
	for _, r := range rolls.Rollouts {
		if r.End == "" {
			p.Rolls = append(p.Rolls, r)
		}
	}
	for _, l := range pipelines.Pipelines {
		if r := l.Run; r != nil {
			if p.Runs = append(p.Runs, latestRun{l.Name, r}); !over(r.State) {
				p.Active++
			}
		}
	}
	slices.SortFunc(p.Runs, func(a, b latestRun) int { return b.At.Compare(a.At) })
	p.Runs = p.Runs[:min(len(p.Runs), moveMost)]
	if p.Away.Moves = p.Away.Models; p.Away.Moves == "" && !q.streams() {
		p.Movers = p.movers(list.Models)
		if p.Moves, err = q.newestMoves(p.Movers); err != nil {
			return nil, err
		}
	}
	return &View{Title: "Overview", Nav: "/console", Every: 2 * time.Second, Data: p}, nil
}

func atLeast(n int, more bool) string {
	if more {
		return count(n) + "+"
	}
	return count(n)
}

// Raised are the alerts that are shown, the newest first.
func (p *overviewPage) Raised() []alertLine {
	all := slices.Clone(p.Alerts.Active)
	slices.SortStableFunc(all, func(a, b alertLine) int { return b.Raised.Compare(a.Raised) })
	return all[:min(len(all), alertMost)]
}

// movers are models whose moves may be news: those that are asked, those that are brought out, and the first of the list.
func (p *overviewPage) movers(list []modelLine) (names []string) {
	add := func(name string) {
		if len(names) < moversOf && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range p.Rolls {
		add(r.Model)
	}
	for _, b := range p.Busy {
		add(b.Model)
	}
	for _, m := range list {
		add(m.Name)
	}
	return names
}

// newestMoves gives the newest moves of models.
func (q *Query) newestMoves(names []string) ([]moveLine, error) {
	found := make([][]moveLine, len(names))
	asks := make([]func(*Query) error, len(names))
	for i, name := range names {
		asks[i] = func(q *Query) error {
			var d struct {
				History []moveLine `json:"history"`
			}
			err := q.get(at("/admin/v1/models", name)+"?limit=1&moves="+strconv.Itoa(moveMost), &d)
			for j := range d.History {
				d.History[j].Model = name
			}
			found[i] = d.History
			return err
		}
	}
	if _, err := q.parts(asks...); err != nil {
		return nil, err
	}
	all := slices.Concat(found...)
	slices.SortStableFunc(all, func(a, b moveLine) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Seq, a.Seq)) })
	return all[:min(len(all), moveMost)], nil
}

// Throughput draws how many requests there are a second.
func (p *overviewPage) Throughput() template.HTML {
	t := &p.Pulse.Total
	most := highest(t.Requests)
	words := fmt.Sprintf("%s requests a second now, and at most %s in the last two minutes; %s failed", number(t.Rate), number(most/p.Pulse.Every), count(t.Fails()))
	return spark(words, 600, 120, most, line{t.Requests, "h0", true}, line{t.Failures, "bad", true})
}

// Latency draws how long answers take.
func (p *overviewPage) Latency() template.HTML {
	t := &p.Pulse.Total
	words := "no answers in the last two minutes"
	if most := highest(t.P99); most > 0 {
		words = fmt.Sprintf("the slowest hundredth of answers takes %s now, and took at most %s in the last two minutes", micros(t.Slow()), micros(most))
	}
	return spark(words, 600, 120, highest(t.P99), line{t.P99, "h1", false}, line{t.P50, "h0", false})
}

// Top is the height of Throughput in requests a second, and Longest that of Latency in microseconds.
func (p *overviewPage) Top() float64 { return highest(p.Pulse.Total.Requests) / p.Pulse.Every }

// Longest is the height of Latency.
func (p *overviewPage) Longest() float64 { return highest(p.Pulse.Total.P99) }

// runOf finds the page of a run of a pipeline by the id of its event; "": it is none's.
func runOf(cause string) string {
	pipeline, run, _ := strings.Cut(cause, ":")
	if !runForm.MatchString(run) {
		return ""
	}
	return at("/console/pipelines", pipeline, "runs", run)
}

// runForm is how ids of runs look.
var runForm = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{3}-[0-9a-f]{8}$`)

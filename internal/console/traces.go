package console

import (
	"encoding/hex"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// traceLine is a line of the list of traces.
type traceLine struct {
	Trace    string    `json:"trace"`
	Name     string    `json:"name"`
	Service  string    `json:"service"`
	Start    time.Time `json:"start"`
	Duration float64   `json:"duration_us"`
	Spans    int       `json:"spans"`
	Error    string    `json:"error"`
	Model    string    `json:"model"`

	Width float64 // of its bar, of barWidth: as long as the longest of the page
	Path  string
}

// tracePath is the page of a trace, and says about when it was.
func tracePath(trace string, when time.Time) string {
	path := at("/console/traces", trace)
	if !when.IsZero() {
		path += "?at=" + escape(when.UTC().Format(time.RFC3339))
	}
	return path
}

type tracesPage struct {
	Service, Model, Slow, From, To string
	Errors                         bool
	Traces                         []traceLine
	newest
}

func (c *Console) traces(q *Query) (*View, error) {
	f := q.URL.Query()
	p := &tracesPage{Service: f.Get("service"), Model: f.Get("model"), Slow: f.Get("slow"), From: f.Get("from"), To: f.Get("to"), Errors: f.Get("errors") == "true"}
	v := &View{Title: "Traces", Nav: "/console/traces", Data: p}
	var list struct {
		Traces []traceLine `json:"traces"`
		Next   string      `json:"next"`
	}
	filters := map[string]string{"service": p.Service, "model": p.Model, "from": moment(p.From), "to": moment(p.To)}
	if p.Errors {
		filters["errors"] = "true"
	}
	if p.Slow != "" {
		filters["slow"] = p.Slow + "ms"
	}
	err := p.ask(q, v, "/admin/v1/traces", filters, &list)
	if missing(err) {
		p.Problem, v.Every, err = "This server keeps no traces.", 0, nil
	}
	if err != nil || p.Problem != "" {
		return v, err
	}
	p.Traces = list.Traces
	longest := 1.0
	for i := range p.Traces {
		longest = max(longest, p.Traces[i].Duration)
	}
	for i := range p.Traces {
		p.Traces[i].Path = tracePath(p.Traces[i].Trace, p.Traces[i].Start)
		p.Traces[i].Width = max(barWidth*p.Traces[i].Duration/longest, 3)
	}
	p.turn(q, v.Nav, list.Next)
	return v, nil
}

type tracePage struct {
	Trace     string
	Waterfall *waterfall
}

func (c *Console) trace(q *Query) (*View, error) {
	id := q.PathValue("trace")
	if b, err := hex.DecodeString(id); err != nil || len(b) != 16 {
		return nil, fault.New(fault.Invalid, "a trace is named by 32 hexadecimal digits, not %.80q", id)
	}
	when, err := time.Parse(time.RFC3339, q.FormValue("at"))
	if err != nil {
		when = time.Time{}
	}
	w, err := q.waterfall(id, when)
	if err != nil {
		return nil, err
	}
	v := &View{Title: "Trace " + id[:8], Nav: "/console/traces", Data: &tracePage{Trace: id, Waterfall: w}}
	if w != nil && w.Name != "" {
		v.Title = w.Name
	}
	if w == nil || time.Since(w.Start) < time.Minute { // more of it may come
		v.Every = 3 * time.Second
	}
	return v, nil
}

// moment makes a time of what a form says, which has no zone: the console's times are UTC. What it can't read it leaves to the API to refuse.
func moment(s string) string {
	for _, layout := range [...]string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Format(time.RFC3339)
		}
	}
	return s
}

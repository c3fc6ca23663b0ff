package console

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/course"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// predictionLine is a line of the list of predictions.
type predictionLine struct {
	ID       string          `json:"id"`
	Time     time.Time       `json:"time"`
	AsOf     time.Time       `json:"as_of"`
	Model    string          `json:"model"`
	Version  int             `json:"version"`
	Rows     int             `json:"rows"`
	Duration float64         `json:"duration_us"`
	Cache    string          `json:"cache"`
	Kind     string          `json:"kind"`
	Error    string          `json:"error"`
	Inputs   json.RawMessage `json:"inputs"`
	Outputs  json.RawMessage `json:"outputs"`

	Path        string
	Asked, Said string
}

type predictionsPage struct {
	Model, Version, Entity, From, To string
	Failed                           bool
	Predictions                      []predictionLine
	Back                             time.Time // until when the log was looked through
	Damaged                          int
	newest
}

func (c *Console) predictions(q *Query) (*View, error) {
	f := q.URL.Query()
	p := &predictionsPage{
		Model: f.Get("model"), Version: f.Get("version"), Entity: f.Get("entity"), From: f.Get("from"), To: f.Get("to"), Failed: f.Get("failed") == "true",
	}
	v := &View{Title: "Predictions", Nav: "/console/predictions", Data: p}
	var list struct {
		Predictions []predictionLine `json:"predictions"`
		Next        string           `json:"next"`
		Back        time.Time        `json:"back"`
		Damaged     []string         `json:"damaged"`
	}
	filters := map[string]string{"model": p.Model, "version": p.Version, "entity": p.Entity, "from": moment(p.From), "to": moment(p.To)}
	if p.Failed {
		filters["failed"] = "true"
	}
	if err := p.ask(q, v, "/admin/v1/predictions", filters, &list); err != nil || p.Problem != "" {
		return v, err
	}
	p.Predictions, p.Back, p.Damaged = list.Predictions, list.Back, len(list.Damaged)
	for i := range p.Predictions {
		l := &p.Predictions[i]
		l.Path, l.Asked, l.Said = predictionPath(l.ID), short(l.Inputs), short(l.Outputs)
	}
	p.turn(q, v.Nav, list.Next)
	if list.Next != "" && !p.Back.IsZero() {
		v.Every = 0 // it read much, and would again
	}
	return v, nil
}

// finds is the way to a prediction whose id somebody has typed.
const finds = "find"

func (c *Console) findPrediction(w http.ResponseWriter, r *http.Request) {
	next := "/console/predictions"
	if id := strings.TrimSpace(r.FormValue("id")); id != "" {
		next = predictionPath(id)
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// predictionPath is the page of a prediction.
func predictionPath(id string) string { return at("/console/predictions", idInPath(id)) }

// idInPath writes an id as the API has it in paths: as it is, or as ~ and its base64url where it has what no path may have.
func idInPath(id string) string {
	plain := id != "" && id != "." && id != ".." && id != finds && id[0] != '~' && !strings.ContainsFunc(id, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`/\%?#`, r)
	})
	if plain {
		return id
	}
	return "~" + base64.RawURLEncoding.EncodeToString([]byte(id))
}

// plainID is the id that a path means.
func plainID(s string) string {
	coded, is := strings.CutPrefix(s, "~")
	if !is {
		return s
	}
	b, err := base64.RawURLEncoding.DecodeString(coded)
	if err != nil {
		return s
	}
	return string(b)
}

type predictionPage struct {
	ID               string
	Waits            bool // it is not in the log
	Reason           string
	Answers          []answer
	More             bool // there are older answers
	Partial          bool // not all outcomes were looked through that are new
	Trace, TracePath string
	Trail            *waterfall
	Lost             bool    // there is a trace's name and no trace
	Away             string  // why it is not known whether there is
	Alerts           []alarm // that name it
	Unnamed          string  // why it is not known which do
	Unmarked         string  // why it is not known which of its features had drifted
}

// answer is one answer to a prediction.
type answer struct {
	Time     time.Time   `json:"time"`
	AsOf     time.Time   `json:"as_of"`
	Model    string      `json:"model"`
	Version  int         `json:"version"`
	Digest   string      `json:"digest"`
	Caller   string      `json:"caller"`
	Protocol string      `json:"protocol"`
	Cache    string      `json:"cache"`
	Duration float64     `json:"duration_us"`
	Kind     string      `json:"kind"`
	Error    string      `json:"error"`
	Weight   float64     `json:"weight"`
	Trace    string      `json:"trace"`
	Traced   bool        `json:"traced"`
	Rows     []answerRow `json:"rows"`
	More     bool        `json:"more"`

	Aliases []string // that named the version then
	Past    bool     // it is as of another time than that at which it was answered
	Again   string   // the page that asks the same
}

type answerRow struct {
	Row      int             `json:"row"`
	Inputs   json.RawMessage `json:"inputs"`
	Features []fetched       `json:"features"`
	Outputs  json.RawMessage `json:"outputs"`
	Outcomes []struct {
		Value  json.RawMessage `json:"value"`
		Time   time.Time       `json:"time"`
		Taken  time.Time       `json:"taken"`
		Counts bool            `json:"counts"`
		Joined bool            `json:"joined"`

		Said member
	} `json:"outcomes"`
	Verdict *struct {
		Task    string   `json:"task"`
		Correct *bool    `json:"correct"`
		LogLoss *float64 `json:"log_loss"`
		Error   *float64 `json:"error"`
	} `json:"verdict"`

	Asked, Answered []member
	Brief           string
	Odd             int // features that are null or old
	Right, Wrong    bool
	Open            bool // it is what was asked for
}

// fetched is a feature as a model was given it.
type fetched struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
	Time  time.Time       `json:"time"`
	Age   *float64        `json:"age_s"`

	Said  member
	View  string // that it is of; empty: not known
	Path  string // of that, looked up by what the caller brought
	TTL   string
	Old   bool    // older than the view lets it be
	PSI   float64 // how far the feature had drifted in the week about then
	Drift string  // the page that shows it; "": it had not
}

// answersMost is how many answers to an id are shown: the newest, where callers give one again and again.
const answersMost = 20

func (c *Console) prediction(q *Query) (*View, error) {
	id := plainID(q.PathValue("id"))
	p := &predictionPage{ID: id}
	v := &View{Title: "Prediction " + id, Nav: "/console/predictions", Data: p}
	found, err := q.predictionOf(id)
	if missing(err) {
		p.Waits, p.Reason, v.Every = true, fault.Message(err), 15*time.Second // a miss reads much of the log
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	older := max(0, len(found.Answers)-answersMost)
	p.Answers, p.More, p.Partial = found.Answers[older:], found.More || older > 0, found.Partial
	moved, views := map[string][]moveLine{}, map[[2]string]map[string]viewOf{}
	settled, when := true, time.Time{}
	for i := range p.Answers {
		a := &p.Answers[i]
		a.Past, a.Again = a.past(), at("/console/models", a.Model, "try")+"?prediction="+escape(id)
		if _, asked := moved[a.Model]; !asked {
			moved[a.Model] = q.movesOf(a.Model)
		}
		a.Aliases = aliasesOf(moved[a.Model], a.Version, a.Time)
		version := [2]string{a.Model, fmt.Sprint(a.Version)}
		if _, asked := views[version]; !asked {
			views[version] = q.viewsOf(a.Model, a.Version)
		}
		for j := range a.Rows {
			a.Rows[j].show(views[version])
			a.Rows[j].Open = strconv.Itoa(a.Rows[j].Row) == q.FormValue("row")
			settled = settled && (a.Kind != "" || len(a.Rows[j].Outcomes) > 0)
		}
		if p.Trace == "" && a.Trace != "" {
			p.Trace, p.TracePath, when = a.Trace, tracePath(a.Trace, a.Time), a.Time
		}
	}
	away, err := q.parts(
		func(q *Query) (err error) {
			if p.Trace != "" {
				p.Trail, err = q.waterfall(p.Trace, when)
			}
			return err
		}, p.named, p.drifted)
	if err != nil {
		return nil, err
	}
	p.Away, p.Unnamed, p.Unmarked = away[0], away[1], away[2]
	p.Lost = p.Trace != "" && p.Trail == nil
	if !settled {
		v.Every = 15 * time.Second // its outcome may come; each look reads a week's windows
	}
	return v, nil
}

// named finds the alerts that name the prediction.
func (p *predictionPage) named(q *Query) error {
	var status alertsNow
	err := unless(missing, q.get("/admin/v1/alerts", &status))
	for _, a := range slices.Concat(status.Active, status.Resolved) {
		if slices.ContainsFunc(a.Examples, func(e course.Example) bool { return e.Prediction == p.ID }) {
			p.Alerts = append(p.Alerts, a)
		}
	}
	return err
}

// drifted marks the features that had drifted in the week about the first answer.
func (p *predictionPage) drifted(q *Query) error {
	if len(p.Answers) == 0 {
		return nil
	}
	a := &p.Answers[0]
	d, err := q.drifted(a.Model, a.Version, a.AsOf.Add(-4*day), a.AsOf.Add(3*day))
	if err != nil || d == nil || d.Report == nil {
		return err
	}
	page := withQuery(at("/console/models", a.Model, "over-time"), "span", "7d", "until", a.AsOf.Add(3*day).UTC().Format(time.DateOnly)) + "#drift"
	for _, c := range d.Strongest() {
		for i := range a.Rows {
			for j := range a.Rows[i].Features {
				if f := &a.Rows[i].Features[j]; f.Name == c.Name {
					f.PSI, f.Drift = c.PSI, page
				}
			}
		}
	}
	return nil
}

// predictionFound is what the API knows of an id.
type predictionFound struct {
	Answers []answer `json:"answers"`
	More    bool     `json:"more"`
	Partial bool     `json:"partial"`
}

func (q *Query) predictionOf(id string) (*predictionFound, error) {
	found := &predictionFound{}
	return found, q.get(at("/admin/v1/predictions", idInPath(id)), found)
}

// repeat fills a form with what a prediction was asked: its first row.
func (q *Query) repeat(p *tryPage, id string) error {
	found, err := q.predictionOf(id)
	if err != nil {
		return err
	}
	for i := range found.Answers {
		a := &found.Answers[i]
		var values map[string]json.RawMessage
		if a.Model != p.Model || len(a.Rows) == 0 || json.Unmarshal(a.Rows[0].Inputs, &values) != nil {
			continue
		}
		for n := range p.Inputs {
			in := &p.Inputs[n]
			v, asked := values[in.Name]
			if !asked || string(v) == "null" || v[0] == '{' { // an object tells of what was too large to be kept
				continue
			}
			in.Hint, in.Value = "", string(v)
			if in.Scalar {
				in.Value = scalarText(v)
			}
		}
		if a.past() {
			p.Time = a.AsOf.UTC().Format(time.RFC3339Nano)
		}
		return nil
	}
	return fault.New(fault.NotFound, "no prediction %.200q of %s has inputs in the log", id, p.Model)
}

// past tells whether an answer is as of another time than that at which it was given.
func (a *answer) past() bool { return a.Time.Sub(a.AsOf).Abs() > time.Minute }

// show makes texts of values.
func (r *answerRow) show(views map[string]viewOf) {
	if v := r.Verdict; v != nil && v.Correct != nil {
		r.Right, r.Wrong = *v.Correct, !*v.Correct
	}
	r.Asked, r.Answered, r.Brief = membersOf(r.Inputs), membersOf(r.Outputs), short(r.Outputs)
	for i := range r.Outcomes {
		r.Outcomes[i].Said = memberOf("", r.Outcomes[i].Value)
	}
	for i := range r.Features {
		f := &r.Features[i]
		f.Said = memberOf(f.Name, f.Value)
		if of, known := views[f.Name]; known {
			f.View, f.Path = of.name, of.path(r.Asked)
			if of.ttl > 0 {
				f.TTL, f.Old = of.said, f.Age != nil && *f.Age > of.ttl.Seconds()
			}
		}
		if f.Old || f.Said.Null {
			r.Odd++
		}
	}
}

// viewOf is the view that a feature is of.
type viewOf struct {
	name, said string
	ttl        time.Duration
	keys       []fieldDefined
}

// path is the page of the view, with its keys as a caller brought them.
func (v *viewOf) path(brought []member) string {
	f := url.Values{}
	for _, k := range v.keys {
		for _, m := range brought {
			if m.Name == k.Name && !m.Null && !m.Long {
				f.Set("key."+k.Name, m.Value)
			}
		}
	}
	path := at("/console/features/views", v.name)
	if len(f) > 0 {
		path += "?" + f.Encode()
	}
	return path
}

// viewsOf tells of which views the features of a version are, by the definitions of today. Nothing is known where they can't be read.
func (q *Query) viewsOf(model string, version int) map[string]viewOf {
	var m struct {
		Features string `json:"features"`
	}
	var set definitions
	if q.get(at("/admin/v1/models", model, "versions", fmt.Sprint(version)), &m) != nil || m.Features == "" || q.get("/admin/v1/features", &set) != nil {
		return nil
	}
	views := map[string]viewOf{}
	for _, s := range set.Services {
		if s.Name != m.Features {
			continue
		}
		for _, f := range s.Features {
			view, feature, _ := strings.Cut(f.Feature, ":")
			at := slices.IndexFunc(set.Views, func(v viewDefined) bool { return v.Name == view })
			if at < 0 {
				continue
			}
			of := viewOf{view, set.Views[at].TTL, durationOf(set.Views[at].TTL), set.keysOf(&set.Views[at])}
			names := []string{feature}
			switch {
			case f.As != "":
				names = []string{f.As}
			case feature == "*":
				names = set.featuresOf(&set.Views[at])
			}
			for _, n := range names {
				views[n] = of
			}
		}
	}
	return views
}

// movesOf gives the moves of a model's aliases, the oldest first. Nothing is known where they can't be read.
func (q *Query) movesOf(model string) []moveLine {
	var m struct {
		History []moveLine `json:"history"`
	}
	if q.get(withQuery(at("/admin/v1/models", model), "limit", "1"), &m) != nil {
		return nil
	}
	return m.History
}

// aliasesOf tells which aliases sent requests to a version at a moment.
func aliasesOf(moves []moveLine, version int, when time.Time) (names []string) {
	named := map[string]string{}
	for _, move := range moves {
		if move.At.After(when) {
			break
		}
		delete(named, move.Alias)
		switch after := move.After; {
		case move.To == version:
			named[move.Alias] = move.Alias
		case after != nil && after.Shadow == version:
			named[move.Alias] = move.Alias + " (shadow)"
		case after != nil:
			for _, c := range after.Canaries {
				if c.Version == version {
					named[move.Alias] = move.Alias + " (canary)"
				}
			}
		}
	}
	for _, n := range named {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

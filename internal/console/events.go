package console

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// letterLine is an event that could not be delivered, in a list.
type letterLine struct {
	ID          string    `json:"id"`
	At          time.Time `json:"at"`
	Destination string    `json:"destination"`
	Code        int       `json:"code"`
	Reason      string    `json:"reason"`
	EventID     string    `json:"event_id"`
	Type        string    `json:"type"`
	Source      string    `json:"source"`
	Subject     string    `json:"subject"`
}

// Brief is the type without what all of ours have in common.
func (l *letterLine) Brief() string { return brief(l.Type) }

// Answer is what the destination said, as a number or in words.
func (l *letterLine) Answer() string {
	if l.Code <= 0 {
		return "none"
	}
	return strconv.Itoa(l.Code)
}

// Tries says how often the broker tried, by what it does with such an answer.
func (l *letterLine) Tries() string {
	switch {
	case l.Code == 429 || l.Code >= 500 || l.Code <= 0 || l.Code == 404 || l.Code == 408 || l.Code == 409:
		return "as often as the broker's rules say (triggers/100-broker.yaml: nine times more, within four minutes): such an answer may pass"
	}
	return "once: such an answer can never become another"
}

// eventType is a type of events, and who takes them.
type eventType struct {
	Type     string `json:"type"`
	Summary  string `json:"summary"`
	Source   string `json:"source"`
	Subject  string `json:"subject"`
	Outbound bool   `json:"outbound"`
	Takers   []struct {
		Trigger    string `json:"trigger"`
		Subscriber string `json:"subscriber"`
		Filter     string `json:"filter"`
	} `json:"takers"`
	Seen int64     `json:"seen"`
	Last time.Time `json:"last"`
}

// Brief is its name without what all of ours have in common.
func (t *eventType) Brief() string { return brief(t.Type) }

type eventsPage struct {
	Type    string // that letters are of; "": any
	Letters []letterLine
	More    string
	Paged   bool // they are not the newest
	Types   []eventType
	Counted bool
	Since   time.Time
	Choices []string // types to choose from
}

// choiceMost is how long a type may be that can be chosen: strangers name theirs as they like.
const choiceMost = 300

// lettersShown is how many letters a page lists: each is a read.
const lettersShown = 50

func (c *Console) events(q *Query) (*View, error) {
	p := &eventsPage{Type: q.FormValue("type"), Paged: q.FormValue("after") != ""}
	var list struct {
		Letters []letterLine `json:"deadletters"`
		Cursor  string       `json:"cursor"`
	}
	if err := q.get(fmt.Sprintf("/admin/v1/deadletters?limit=%d&type=%s&cursor=%s", lettersShown, escape(p.Type), escape(q.FormValue("after"))), &list); err != nil {
		return nil, err
	}
	p.Letters = list.Letters
	if list.Cursor != "" {
		p.More = "/console/events?type=" + escape(p.Type) + "&after=" + escape(list.Cursor)
	}
	var types struct {
		Since time.Time   `json:"since"`
		Types []eventType `json:"types"`
	}
	if err := q.get("/admin/v1/events", &types); err != nil {
		return nil, err
	}
	p.Types, p.Since, p.Counted = types.Types, types.Since, !types.Since.IsZero()
	choices := map[string]bool{}
	for _, t := range p.Types {
		choices[t.Type] = len(t.Type) <= choiceMost
	}
	for _, l := range p.Letters {
		choices[l.Type] = len(l.Type) <= choiceMost
	}
	choices[p.Type] = len(p.Type) <= choiceMost
	maps.DeleteFunc(choices, func(name string, may bool) bool { return name == "" || !may })
	p.Choices = slices.Sorted(maps.Keys(choices))
	v := &View{Title: "Events", Nav: "/console/events", Data: p}
	if !p.Paged && p.Type == "" { // those of one type are looked for among many
		v.Every = 5 * time.Second
	}
	return v, nil
}

// eventAttribute of an event.
type eventAttribute struct{ Name, Value string }

type letterPage struct {
	letterLine
	Attributes []eventAttribute
	Data       string
	Size       int
	Form       string // what the data is
	Known      *eventType
}

// dataMost is how much of an event's data is shown.
const dataMost = 20_000

func (c *Console) letter(q *Query) (*View, error) {
	var l struct {
		letterLine
		Event map[string]json.RawMessage `json:"event"`
	}
	if err := q.get(at("/admin/v1/deadletters", q.PathValue("letter")), &l); err != nil {
		return nil, err
	}
	p := &letterPage{letterLine: l.letterLine}
	for _, name := range slices.Sorted(maps.Keys(l.Event)) {
		switch name {
		case "data":
			p.Size, p.Form, p.Data = len(l.Event[name]), "JSON", indented(l.Event[name])
			var text string
			if json.Unmarshal(l.Event[name], &text) == nil {
				p.Size, p.Form, p.Data = len(text), "text", clipped(text, dataMost)
			}
		case "data_base64":
			var encoded string
			b, err := []byte(nil), json.Unmarshal(l.Event[name], &encoded)
			if err == nil {
				b, err = base64.StdEncoding.DecodeString(encoded)
			}
			p.Size, p.Form, p.Data = len(b), "bytes, in base64", clipped(encoded, dataMost)
			if err == nil && utf8.Valid(b) {
				p.Form, p.Data = "bytes that are text", clipped(string(b), dataMost)
			}
		default:
			p.Attributes = append(p.Attributes, eventAttribute{name, unquoted(l.Event[name])})
		}
	}
	var types struct {
		Types []eventType `json:"types"`
	}
	if err := q.get("/admin/v1/events", &types); err != nil && !missing(err) {
		return nil, err
	}
	for i := range types.Types {
		if types.Types[i].Type == p.Type {
			p.Known = &types.Types[i]
		}
	}
	return &View{Title: "Dead letter " + p.EventID, Nav: "/console/events", Data: p}, nil
}

// indented writes JSON as it came, but for its spaces: numbers and the order of fields stay.
func indented(raw json.RawMessage) string {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return clipped(string(raw), dataMost)
	}
	return clipped(out.String(), dataMost)
}

// unquoted is a text without its quotes; other values are as they are in JSON.
func unquoted(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

func (c *Console) replay(q *Query) (said, next string, err error) {
	path := at("/admin/v1/deadletters", q.PathValue("letter"))
	if err := q.ask("POST", path+"/replay", nil, nil); err != nil {
		return "", at("/console/events", q.PathValue("letter")), err
	}
	return "The event is with the broker again, and its letter is gone.", "/console/events", nil
}

func (c *Console) deleteLetter(q *Query) (said, next string, err error) {
	if err := q.ask("DELETE", at("/admin/v1/deadletters", q.PathValue("letter")), nil, nil); err != nil {
		return "", at("/console/events", q.PathValue("letter")), err
	}
	return "The letter is deleted.", "/console/events", nil
}

// replayAll puts back all letters of a type, or all.
func (c *Console) replayAll(q *Query) (said, next string, err error) {
	kind := q.PostFormValue("type")
	next = "/console/events"
	if kind != "" {
		next += "?type=" + escape(kind)
	}
	if q.PostFormValue("sure") == "" {
		return "", next, fault.New(fault.Invalid, "tick the box to say that you mean it")
	}
	ask := map[string]any{"all": true}
	if kind != "" {
		ask = map[string]any{"type": kind}
	}
	var done struct {
		Replayed int `json:"replayed"`
		Failed   []struct {
			ID    string `json:"id"`
			Error string `json:"error"`
		} `json:"failed"`
	}
	if err := q.ask("POST", "/admin/v1/deadletters/replay", ask, &done); err != nil {
		return "", next, err
	}
	if len(done.Failed) > 0 {
		first := done.Failed[0]
		return "", next, fault.New(fault.Unavailable, "%d events are with the broker again, and %d are not, such as %s: %s", done.Replayed, len(done.Failed), first.ID, first.Error)
	}
	return fmt.Sprintf("%d events are with the broker again.", done.Replayed), next, nil
}

package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// spanLine is a span as the API gives it, and how a waterfall shows it.
type spanLine struct {
	Span       string                     `json:"span"`
	Parent     string                     `json:"parent"`
	Name       string                     `json:"name"`
	Service    string                     `json:"service"`
	Kind       string                     `json:"kind"`
	Start      time.Time                  `json:"start"`
	Duration   float64                    `json:"duration_us"`
	Error      string                     `json:"error"`
	Attributes map[string]json.RawMessage `json:"attributes"`
	Links      []struct {
		Trace string `json:"trace"`
		Span  string `json:"span"`
	} `json:"links"`

	Depth    int     // how far it is set in
	Hue      int     // of its service
	At       float64 // microseconds behind the beginning of the trace
	From     float64 // where its bar begins, and how wide it is, of barWidth
	Width    float64
	Said     []member // its attributes
	Detached bool     // its parent is not there
}

// waterfall is a trace on one axis of time.
type waterfall struct {
	Trace    string
	Name     string
	Start    time.Time
	Duration float64 // microseconds
	Errors   int
	Spans    []*spanLine
	Left     int // spans that are not shown
	Services []service
	Ticks    []float64 // microseconds, evenly spread
}

type service struct {
	Name  string
	Hue   int
	Spans int
}

const (
	barWidth  = 1000.0
	hues      = 8 // classes h0 to h7
	depthMost = 12
	spansMost = 1000 // that a page shows
	textMost  = 2000 // characters of a value

	durationMost = 1e15 // microseconds
)

// waterfallOf brings spans into the order of a tree, children behind their parents and by when they began.
func waterfallOf(trace string, spans []*spanLine) *waterfall {
	w := &waterfall{Trace: trace}
	if len(spans) == 0 {
		return w
	}
	known := map[string]*spanLine{}
	for _, s := range spans {
		known[s.Span] = s
		s.Duration = min(max(s.Duration, 0), durationMost)
	}
	children := map[string][]*spanLine{}
	var roots []*spanLine
	end := time.Time{}
	w.Start = spans[0].Start
	for _, s := range spans {
		if s.Start.Before(w.Start) {
			w.Start = s.Start
		}
		if until := s.Start.Add(time.Duration(s.Duration * 1e3)); until.After(end) {
			end = until
		}
		if known[s.Parent] == nil || s.Parent == s.Span {
			s.Detached = s.Parent != "" && s.Parent != s.Span
			roots = append(roots, s)
			continue
		}
		children[s.Parent] = append(children[s.Parent], s)
	}
	w.Duration = max(float64(end.Sub(w.Start))/1e3, 1)
	w.Name = spans[0].Name
	hue := map[string]int{}
	seen := map[*spanLine]bool{}
	var walk func(of []*spanLine, depth int)
	walk = func(of []*spanLine, depth int) {
		slices.SortStableFunc(of, func(a, b *spanLine) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Span, b.Span)) })
		for _, s := range of {
			if seen[s] {
				continue
			}
			seen[s] = true
			s.place(w, hue, depth)
			walk(children[s.Span], depth+1)
		}
	}
	walk(roots, 0)
	for _, s := range spans { // of circles, which no tracer makes
		walk([]*spanLine{s}, 0)
	}
	if len(roots) > 0 {
		w.Name = roots[0].Name
	}
	w.Services = make([]service, len(hue))
	for name, h := range hue {
		w.Services[h] = service{Name: name, Hue: h % hues}
	}
	for _, s := range w.Spans {
		w.Services[hue[s.Service]].Spans++
		if s.Error != "" {
			w.Errors++
		}
	}
	if w.Left = max(len(w.Spans)-spansMost, 0); w.Left > 0 {
		w.Spans = w.Spans[:spansMost]
	}
	for i := range 5 {
		w.Ticks = append(w.Ticks, w.Duration*float64(i)/4)
	}
	return w
}

// place puts a span behind those that are there.
func (s *spanLine) place(w *waterfall, hue map[string]int, depth int) {
	if _, known := hue[s.Service]; !known {
		hue[s.Service] = len(hue)
	}
	s.Hue, s.Depth = hue[s.Service]%hues, min(depth, depthMost)
	s.At = float64(s.Start.Sub(w.Start)) / 1e3
	const least = 3.0 // so that it is seen
	s.From = min(barWidth*s.At/w.Duration, barWidth-least)
	s.Width = min(max(barWidth*s.Duration/w.Duration, least), barWidth-s.From)
	for _, name := range slices.Sorted(maps.Keys(s.Attributes)) {
		s.Said = append(s.Said, memberOf(name, s.Attributes[name]))
	}
	w.Spans = append(w.Spans, s)
}

// waterfall asks for a trace; nil: it is not kept. When is about when it was, which finds it sooner; zero: it is not known.
func (q *Query) waterfall(trace string, when time.Time) (*waterfall, error) {
	var found struct {
		Spans []*spanLine `json:"spans"`
	}
	path := at("/admin/v1/traces", trace)
	if !when.IsZero() {
		path += "?at=" + escape(when.UTC().Format(time.RFC3339))
	}
	err := q.get(path, &found)
	if missing(err) {
		return nil, nil //nolint:nilnil // most traces are not kept
	}
	if err != nil {
		return nil, err
	}
	return waterfallOf(trace, slices.DeleteFunc(found.Spans, func(s *spanLine) bool { return s == nil })), nil
}

// member is a named value, as text.
type member struct {
	Name, Value string
	Null        bool
	Long        bool // it was cut
	Fraction    bool // it is a number that is no whole one
}

// membersOf takes a JSON object apart, in its order. What is none is one value without a name.
func membersOf(object json.RawMessage) (all []member) {
	if len(object) == 0 {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(object)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return []member{memberOf("", object)}
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return all
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return all
		}
		all = append(all, memberOf(fmt.Sprint(name), v))
	}
	return all
}

func memberOf(name string, v json.RawMessage) member {
	m := member{Name: name, Value: strings.TrimSpace(string(v)), Null: string(v) == "null" || len(v) == 0}
	var s string
	if len(v) > 0 && v[0] == '"' && json.Unmarshal(v, &s) == nil && strings.TrimSpace(s) != "" {
		m.Value = s
	}
	m.Fraction = len(v) > 0 && (v[0] == '-' || '0' <= v[0] && v[0] <= '9') && strings.Contains(m.Value, ".")
	if m.Null {
		m.Value = "null"
	}
	short := clipped(m.Value, textMost)
	m.Value, m.Long = short, len(short) < len(m.Value)
	return m
}

// short tells an object in few words.
func short(object json.RawMessage) string {
	const most = 6
	var b strings.Builder
	for i, m := range membersOf(object) {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == most {
			b.WriteString("…")
			break
		}
		if m.Name != "" {
			b.WriteString(clipped(m.Name, 40) + "=")
		}
		if f, err := strconv.ParseFloat(m.Value, 64); err == nil && m.Fraction {
			m.Value = strconv.FormatFloat(f, 'g', 4, 64)
		}
		b.WriteString(clipped(m.Value, 40))
	}
	return b.String()
}

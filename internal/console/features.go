package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// definitions are those of features, as far as pages show them.
type definitions struct {
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	By       string    `json:"by"`
	Entities []struct {
		Name string         `json:"name"`
		Keys []fieldDefined `json:"keys"`
	} `json:"entities"`
	Sources     []sourceDefined `json:"sources"`
	Views       []viewDefined   `json:"views"`
	Expressions []struct {
		Name     string         `json:"name"`
		Inputs   []fieldDefined `json:"inputs"`
		Features []struct {
			Name  string `json:"name"`
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"features"`
	} `json:"expressions"`
	Services []serviceDefined `json:"services"`
}

type fieldDefined struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

type sourceDefined struct {
	Name   string         `json:"name"`
	Fields []fieldDefined `json:"fields"`
	Time   string         `json:"time"`
	Path   string         `json:"path"`

	Fresh freshness
	Views []string
}

type viewDefined struct {
	Name     string   `json:"name"`
	Entities []string `json:"entities"`
	Source   string   `json:"source"`
	TTL      string   `json:"ttl"`
	Features []string `json:"features"`
	Windows  []struct {
		Name      string `json:"name"`
		Aggregate string `json:"aggregate"`
		Of        string `json:"of"`
		Size      string `json:"size"`
		Slide     string `json:"slide"`
	} `json:"windows"`
	Lateness string `json:"lateness"`

	Shown        []string // the features that it answers
	Keys         []fieldDefined
	Services     []string // that use it
	Fresh        freshness
	Materialized time.Time
	Worst        *skewed // of its features that were served otherwise than history has them
}

type serviceDefined struct {
	Name     string   `json:"name"`
	Features []choice `json:"features"`

	Models []modelUse
}

// choice is what a service takes of a view or an expression: "view:feature", or "view:*".
type choice struct {
	Feature string `json:"feature"`
	As      string `json:"as"`
}

// modelUse is a version that answers by an alias and takes the features of a service.
type modelUse struct {
	Model, Alias string
	Version      int
}

// freshness is how new a source is.
type freshness struct {
	Newest  time.Time `json:"newest"`
	Known   time.Time `json:"known"`
	Written time.Time `json:"written"`
}

// skewed is a feature that was served otherwise than history has it.
type skewed struct {
	Feature    string         `json:"feature"`
	Compared   int            `json:"compared"`
	Mismatched int            `json:"mismatched"`
	Rate       float64        `json:"rate"`
	Kinds      map[string]int `json:"kinds"`
}

type skewReport struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	At       time.Time `json:"at"`
	Vectors  int       `json:"vectors"`
	Features []skewed  `json:"features"`
	Alarm    []string  `json:"alarm"`
}

// featuresOf names the features that a view answers.
func (d *definitions) featuresOf(v *viewDefined) (names []string) {
	if len(v.Windows) > 0 {
		for _, w := range v.Windows {
			names = append(names, w.Name)
		}
		return names
	}
	if len(v.Features) > 0 {
		return v.Features
	}
	at := slices.IndexFunc(d.Sources, func(s sourceDefined) bool { return s.Name == v.Source })
	if at < 0 {
		return nil
	}
	keys := d.keysOf(v)
	s := &d.Sources[at]
	for _, f := range s.Fields {
		if f.Type != "timestamp" && !slices.ContainsFunc(keys, func(k fieldDefined) bool { return k.Name == f.Name }) {
			names = append(names, f.Name)
		}
	}
	return names
}

// keysOf gives the join keys of a view.
func (d *definitions) keysOf(v *viewDefined) (keys []fieldDefined) {
	for _, e := range d.Entities {
		if slices.Contains(v.Entities, e.Name) {
			keys = append(keys, e.Keys...)
		}
	}
	return keys
}

// durationOf reads a duration as definitions write it: "90m", "7d"; 0: it is none.
func durationOf(s string) (d time.Duration) {
	if days, rest, some := strings.Cut(s, "d"); some {
		n, err := strconv.Atoi(days)
		if err != nil {
			return 0
		}
		d, s = time.Duration(n)*24*time.Hour, rest
	}
	if s == "" {
		return d
	}
	rest, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d + rest
}

type featuresPage struct {
	definitions
	Skew *skewReport
	Some bool   // not all models were looked through for who uses a service
	Away string // why some could not be
}

func (c *Console) features(q *Query) (*View, error) {
	p := &featuresPage{}
	if err := q.define(&p.definitions); err != nil {
		return nil, err
	}
	var err error
	if p.Skew, err = q.skew(); err != nil {
		return nil, err
	}
	for i := range p.Views {
		p.Views[i].Worst = p.Skew.of(p.Views[i].Name)
	}
	var uses map[string][]modelUse
	away, err := q.parts(func(q *Query) (err error) { uses, p.Some, err = q.modelsByService(); return err })
	if err != nil {
		return nil, err
	}
	p.Away = away[0]
	for i := range p.Services {
		p.Services[i].Models = uses[p.Services[i].Name]
	}
	return &View{Title: "Features", Nav: "/console/features", Data: p}, nil
}

// define asks for the definitions, and how new what is behind them is.
func (q *Query) define(d *definitions) error {
	if err := q.get("/admin/v1/features", d); err != nil {
		return err
	}
	var fresh struct {
		Sources []struct {
			Name string `json:"name"`
			freshness
		} `json:"sources"`
		Views []struct {
			Name         string    `json:"name"`
			Materialized time.Time `json:"materialized"`
		} `json:"views"`
	}
	if err := q.get("/admin/v1/features/freshness", &fresh); err != nil && !missing(err) {
		return err
	}
	for i := range d.Sources {
		for _, f := range fresh.Sources {
			if f.Name == d.Sources[i].Name {
				d.Sources[i].Fresh = f.freshness
			}
		}
	}
	for i := range d.Views {
		v := &d.Views[i]
		v.Keys, v.Shown = d.keysOf(v), d.featuresOf(v)
		for s := range d.Sources {
			if d.Sources[s].Name == v.Source {
				v.Fresh = d.Sources[s].Fresh
				d.Sources[s].Views = append(d.Sources[s].Views, v.Name)
			}
		}
		for _, f := range fresh.Views {
			if f.Name == v.Name {
				v.Materialized = f.Materialized
			}
		}
		for _, s := range d.Services {
			if slices.ContainsFunc(s.Features, func(f choice) bool { return strings.HasPrefix(f.Feature, v.Name+":") }) {
				v.Services = append(v.Services, s.Name)
			}
		}
	}
	return nil
}

// skew asks for the last check; nil: there was none.
func (q *Query) skew() (*skewReport, error) {
	r := &skewReport{}
	err := q.get("/admin/v1/features/skew", r)
	if missing(err) {
		return nil, nil //nolint:nilnil // none was made yet
	}
	return r, err
}

// of gives what differs most of a view's features; nil: nothing does.
func (r *skewReport) of(view string) *skewed {
	if r == nil {
		return nil
	}
	for i := range r.Features { // the worst first
		if f := &r.Features[i]; strings.HasPrefix(f.Feature, view+":") && f.Mismatched > 0 {
			return f
		}
	}
	return nil
}

const (
	modelsAsked  = 100 // that are looked through for who uses a service
	asksAtOnce   = 8
	versionsMost = 400
)

// modelsByService finds who uses the features of which service, among the first models; some: there are more. With an error there are those that
// could be asked.
func (q *Query) modelsByService() (uses map[string][]modelUse, some bool, err error) {
	var list struct {
		Models []struct {
			Name    string         `json:"name"`
			Aliases map[string]int `json:"aliases"`
		} `json:"models"`
		Next string `json:"next"`
	}
	if err := q.get(fmt.Sprintf("/admin/v1/models?limit=%d", modelsAsked), &list); err != nil {
		return nil, false, err
	}
	some = list.Next != "" || len(list.Models) > modelsAsked
	var all []modelUse
	for _, m := range list.Models[:min(len(list.Models), modelsAsked)] {
		for _, alias := range slices.Sorted(maps.Keys(m.Aliases)) {
			all = append(all, modelUse{m.Name, alias, m.Aliases[alias]})
		}
	}
	if some = some || len(all) > versionsMost; len(all) > versionsMost {
		all = all[:versionsMost]
	}
	services, errs := make([]string, len(all)), make([]error, len(all))
	var work sync.WaitGroup
	next := make(chan int)
	for range asksAtOnce {
		work.Go(func() {
			for i := range next {
				var m struct {
					Features string `json:"features"`
				}
				errs[i] = unless(missing, q.get(at("/admin/v1/models", all[i].Model, "versions", fmt.Sprint(all[i].Version)), &m))
				services[i] = m.Features
			}
		})
	}
	for i := range all {
		next <- i
	}
	close(next)
	work.Wait()
	uses = map[string][]modelUse{}
	for i, s := range services {
		if s != "" {
			uses[s] = append(uses[s], all[i])
		}
	}
	for _, err := range errs {
		if err != nil {
			return uses, some, err
		}
	}
	return uses, some, nil
}

type viewPage struct {
	View   viewDefined
	Source sourceDefined
	YAML   string
	Skew   []skewed
	At     time.Time // of the skew check
	Asked  bool      // a key was
	Given  []given
	Denied string // why there is no answer
	Found  []found
}

// given is a key of the form.
type given struct {
	Name, Type, Value string
}

// found is a feature as it is online.
type found struct {
	Name, Status string
	Value        member
	Time         time.Time
	Age          time.Duration
	Old          bool
}

func (c *Console) featureView(q *Query) (*View, error) {
	name := q.PathValue("view")
	var d definitions
	if err := q.define(&d); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(d.Views, func(v viewDefined) bool { return v.Name == name })
	if i < 0 {
		return nil, fault.New(fault.NotFound, "there is no view %.100q", name)
	}
	p := &viewPage{View: d.Views[i]}
	if s := slices.IndexFunc(d.Sources, func(s sourceDefined) bool { return s.Name == p.View.Source }); s >= 0 {
		p.Source = d.Sources[s]
	}
	p.YAML = q.yamlOf(name)
	skew, err := q.skew()
	if err != nil {
		return nil, err
	}
	if skew != nil {
		p.At = skew.At
		for _, f := range skew.Features {
			if strings.HasPrefix(f.Feature, name+":") {
				p.Skew = append(p.Skew, f)
			}
		}
	}
	if err := p.lookUp(q); err != nil {
		return nil, err
	}
	return &View{Title: name, Nav: "/console/features", Data: p}, nil
}

// yamlOf writes the definition of a view as it is applied.
func (q *Query) yamlOf(name string) string {
	var set struct {
		Views []json.RawMessage `json:"views"`
	}
	if q.get("/admin/v1/features", &set) != nil {
		return ""
	}
	for _, raw := range set.Views {
		var v map[string]json.RawMessage
		if json.Unmarshal(raw, &v) != nil || string(v["name"]) != string(quoted(name)) {
			continue
		}
		b, err := yaml.JSONToYAML(withoutMembers(raw, "version", "ids"))
		if err != nil {
			return ""
		}
		return string(b)
	}
	return ""
}

func quoted(s string) []byte {
	b, _ := json.Marshal(s) // strings always do
	return b
}

// withoutMembers leaves members out of an object, in its order.
func withoutMembers(object []byte, names ...string) []byte {
	d := json.NewDecoder(strings.NewReader(string(object)))
	if _, err := d.Token(); err != nil {
		return object
	}
	out := []byte{'{'}
	for d.More() {
		name, err := d.Token()
		var v json.RawMessage
		if err != nil || d.Decode(&v) != nil {
			return object
		}
		if slices.Contains(names, fmt.Sprint(name)) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, quoted(fmt.Sprint(name))...), ':'), v...)
	}
	return append(out, '}')
}

// lookUp asks for the features of the keys that the form says.
func (p *viewPage) lookUp(q *Query) error {
	f := q.URL.Query()
	entities := map[string][]json.RawMessage{}
	for _, k := range p.View.Keys {
		v := f.Get("key." + k.Name)
		p.Given = append(p.Given, given{k.Name, k.Type, v})
		if v != "" {
			p.Asked = true
		}
		entities[k.Name] = []json.RawMessage{keyOf(k.Type, v)}
	}
	if !p.Asked {
		return nil
	}
	var names []string
	for _, n := range p.View.Shown {
		names = append(names, p.View.Name+":"+n)
	}
	var answer struct {
		Metadata struct {
			Names []string `json:"feature_names"`
		} `json:"metadata"`
		Results []struct {
			Values   []json.RawMessage `json:"values"`
			Statuses []string          `json:"statuses"`
			Times    []time.Time       `json:"event_timestamps"`
		} `json:"results"`
	}
	err := q.ask("POST", "/get-online-features", map[string]any{"features": names, "entities": entities}, &answer)
	switch {
	case fault.Is(err, fault.Denied):
		p.Denied = "Your key may not read features: " + fault.Message(err) + ". It needs the scope features:read."
		return nil
	case fault.Is(err, fault.Unauthenticated):
		return err
	case err != nil:
		p.Denied = fault.Message(err)
		return nil
	}
	ttl := durationOf(p.View.TTL)
	for i, r := range answer.Results {
		if i >= len(answer.Metadata.Names) || len(r.Values) == 0 {
			break
		}
		name := answer.Metadata.Names[i]
		if !slices.Contains(p.View.Shown, name) {
			continue // it is a key
		}
		one := found{Name: name, Value: memberOf(name, r.Values[0])}
		if len(r.Statuses) > 0 {
			one.Status = r.Statuses[0]
		}
		if len(r.Times) > 0 && r.Times[0].Unix() > 0 {
			one.Time, one.Age = r.Times[0], time.Since(r.Times[0])
			one.Old = ttl > 0 && one.Age > ttl
		}
		p.Found = append(p.Found, one)
	}
	return nil
}

// keyOf makes a key's value of what was typed.
func keyOf(kind, typed string) json.RawMessage {
	switch {
	case typed == "":
		return json.RawMessage("null")
	case kind == "int32" || kind == "int64":
		if n, err := strconv.ParseInt(strings.TrimSpace(typed), 10, 64); err == nil {
			return json.RawMessage(strconv.FormatInt(n, 10))
		}
	case kind == "bool":
		if b, err := strconv.ParseBool(strings.TrimSpace(typed)); err == nil {
			return json.RawMessage(strconv.FormatBool(b))
		}
	}
	return quoted(typed)
}

package console

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// split is what an alias names beside its version.
type split struct {
	Canaries []struct {
		Version int     `json:"version"`
		Share   float64 `json:"share"`
	} `json:"canaries"`
	Shadow int `json:"shadow"`
}

// named is an alias with all that answers for it.
type named struct {
	Alias   string
	Version int
	Split   []string // in words
	Parts   []part   // the version itself first
	Shadow  int
}

// part is a version's share of an alias's traffic, and where it lies from 0 to 100.
type part struct {
	Version            int
	Share, From, Width float64
}

// namedBy puts aliases together with their splits, champion first.
func namedBy(aliases map[string]int, splits map[string]*split) []named {
	var all []named
	for _, alias := range slices.SortedFunc(maps.Keys(aliases), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	}) {
		n := named{Alias: alias, Version: aliases[alias]}
		rest := part{Version: n.Version, Share: 1}
		if s := splits[alias]; s != nil {
			for _, c := range s.Canaries {
				rest.Share -= c.Share
				n.Parts = append(n.Parts, part{Version: c.Version, Share: c.Share})
				n.Split = append(n.Split, fmt.Sprintf("%s %% of %d", number(100*c.Share), c.Version))
			}
			if n.Shadow = s.Shadow; s.Shadow > 0 {
				n.Split = append(n.Split, fmt.Sprintf("shadow %d", s.Shadow))
			}
		}
		n.Parts = append([]part{rest}, n.Parts...)
		from := 0.0
		for i := range n.Parts {
			n.Parts[i].From, n.Parts[i].Width = from, 100*n.Parts[i].Share
			from += n.Parts[i].Width
		}
		all = append(all, n)
	}
	return all
}

func rank(alias string) int {
	if alias == "champion" {
		return 0
	}
	return 1
}

// modelLine is a line of the list of models.
type modelLine struct {
	Name     string            `json:"name"`
	Versions int               `json:"versions"`
	Aliases  map[string]int    `json:"aliases"`
	Splits   map[string]*split `json:"splits"`
	Named    []named           `json:"-"`
	Rate     float64           `json:"-"` // requests a second, of all versions
}

type modelsPage struct {
	Prefix string
	Models []modelLine
	More   string
}

const (
	onePage    = 100 // lines of a list
	livingMost = 200 // versions whose rates a list may show
)

func (c *Console) models(q *Query) (*View, error) {
	prefix := q.FormValue("prefix")
	var list struct {
		Models []modelLine `json:"models"`
		Next   string      `json:"next"`
	}
	if err := q.get(fmt.Sprintf("/admin/v1/models?limit=%d&prefix=%s&after=%s", onePage, escape(prefix), escape(q.FormValue("after"))), &list); err != nil {
		return nil, err
	}
	p := &modelsPage{Prefix: prefix, Models: list.Models}
	var now *pulse
	if _, err := q.parts(func(q *Query) (err error) { now, err = q.pulse("", livingMost); return err }); err != nil {
		return nil, err
	}
	rates := map[string]float64{}
	for _, b := range now.Models {
		rates[b.Model] += b.Rate
	}
	for i := range p.Models {
		m := &p.Models[i]
		m.Named, m.Rate = namedBy(m.Aliases, m.Splits), rates[m.Name]
	}
	if list.Next != "" {
		p.More = "/console/models?prefix=" + escape(prefix) + "&after=" + escape(list.Next)
	}
	return &View{Title: "Models", Nav: "/console/models", Data: p}, nil
}

// manifest is a version, in short.
type manifest struct {
	Version   int       `json:"version"`
	Runtime   string    `json:"runtime"`
	Size      int64     `json:"size"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	Cause     string    `json:"cause"`
	Features  string    `json:"features"`
	Signature signature `json:"signature"`
}

// Run is the page of the run that made it; "": none did.
func (m *manifest) Run() string { return runOf(m.Cause) }

type modelPage struct {
	Name     string
	All      int        `json:"all"`
	Versions []manifest `json:"versions"`
	History  []moveLine `json:"history"`
	Aliases  map[string]int
	Splits   map[string]*split

	Answers []named
	Pulse   *pulse
	Rolls   []rolloutLine // of its aliases
	Older   string        // the page of versions before those
	Span    *spanForm
	Away    struct{ Pulse, Rolls string }
}

// Names lists the aliases of a version.
func (p *modelPage) Names(version int) (names []string) {
	for _, a := range p.Answers {
		switch {
		case a.Version == version:
			names = append(names, a.Alias)
		case a.Shadow == version:
			names = append(names, "shadow of "+a.Alias)
		case slices.ContainsFunc(a.Parts, func(c part) bool { return c.Version == version }):
			names = append(names, "canary of "+a.Alias)
		}
	}
	return names
}

// Newest is the number of the newest move; 0: none was made.
func (p *modelPage) Newest() int {
	if len(p.History) == 0 {
		return 0
	}
	return p.History[0].Seq
}

// Versions and moves of a model's page.
const (
	versionsShown = 20
	movesShown    = 30
)

func (c *Console) model(q *Query) (*View, error) {
	name := q.PathValue("model")
	p := &modelPage{}
	if err := q.lately(withQuery(at("/admin/v1/models", name), "limit", strconv.Itoa(versionsShown), "moves", strconv.Itoa(movesShown), "below", q.FormValue("below")), p); err != nil {
		return nil, err
	}
	var rolls struct {
		Rollouts []rolloutLine `json:"rollouts"`
	}
	away, err := q.parts(
		func(q *Query) (err error) { p.Pulse, err = q.pulse(name, busiest); return err },
		func(q *Query) error { return q.lately("/admin/v1/rollouts", &rolls) },
	)
	if err != nil {
		return nil, err
	}
	p.Away.Pulse, p.Away.Rolls = away[0], away[1]
	if away[0] != "" {
		p.Pulse = nil
	} else if p.Pulse.Away != "" {
		p.Away.Pulse = p.Pulse.Away
	}
	for _, r := range rolls.Rollouts {
		if r.Model == name {
			p.Rolls = append(p.Rolls, r)
		}
	}
	p.Answers = namedBy(p.Aliases, p.Splits)
	if n := len(p.Versions); n > 0 && p.Versions[0].Version > 1 && n < p.All {
		p.Older = withQuery(at("/console/models", name), "below", strconv.Itoa(p.Versions[0].Version)) + "#versions"
	}
	slices.Reverse(p.Versions)
	slices.Reverse(p.History)
	if p.Span, err = spanOf(q); err != nil {
		return nil, err
	}
	return &View{Title: p.Name, Nav: "/console/models", Every: 2 * time.Second, Data: p}, nil
}

package console

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
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
}

type modelsPage struct {
	Prefix string
	Models []modelLine
	More   string
}

// onePage is how many lines a page of a list has.
const onePage = 100

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
	for i := range p.Models {
		m := &p.Models[i]
		m.Named = namedBy(m.Aliases, m.Splits)
	}
	if list.Next != "" {
		p.More = "/console/models?prefix=" + escape(prefix) + "&after=" + escape(list.Next)
	}
	return &View{Title: "Models", Nav: "/console/models", Data: p}, nil
}

type modelPage struct {
	Name     string
	Answers  []named
	Versions []struct {
		Version   int       `json:"version"`
		Runtime   string    `json:"runtime"`
		Size      int64     `json:"size"`
		CreatedAt time.Time `json:"created_at"`
		CreatedBy string    `json:"created_by"`
	} `json:"versions"`
	Aliases map[string]int    `json:"aliases"`
	Splits  map[string]*split `json:"splits"`
}

func (c *Console) model(q *Query) (*View, error) {
	p := &modelPage{}
	if err := q.get(at("/admin/v1/models", q.PathValue("model")), p); err != nil {
		return nil, err
	}
	p.Answers = namedBy(p.Aliases, p.Splits)
	slices.Reverse(p.Versions)
	return &View{Title: p.Name, Nav: "/console/models", Every: 2 * time.Second, Data: p}, nil
}

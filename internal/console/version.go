package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// signature is what a model takes and gives.
type signature struct {
	Inputs  []spec `json:"inputs"`
	Outputs []spec `json:"outputs"`
}

// spec is one tensor of it.
type spec struct {
	Name   string   `json:"name"`
	Type   string   `json:"datatype"`
	Shape  []int64  `json:"shape"`
	Labels []string `json:"labels"`
}

// Size writes the shape; what is free is a star.
func (s *spec) Size() string {
	words := make([]string, len(s.Shape))
	for i, d := range s.Shape {
		if words[i] = strconv.FormatInt(d, 10); d < 0 {
			words[i] = "*"
		}
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// card is how a version came to be.
type card struct {
	Pipeline string    `json:"pipeline"`
	Run      string    `json:"run"`
	At       time.Time `json:"at"`
	Data     struct {
		From     time.Time      `json:"from"`
		Cut      time.Time      `json:"cut"`
		Until    time.Time      `json:"until"`
		Train    int64          `json:"train"`
		Holdout  int64          `json:"holdout"`
		LeftOut  int64          `json:"left_out"`
		Labels   string         `json:"labels"`
		Service  string         `json:"service"`
		Features int            `json:"features"`
		Views    map[string]int `json:"views"`
	} `json:"data"`
	Trainer map[string]float64 `json:"trainer"`
	Verdict struct {
		Passed  bool   `json:"passed"`
		Why     string `json:"why"`
		Against int    `json:"against"`
		Checks  []struct {
			Name   string `json:"name"`
			Passed bool   `json:"passed"`
			Why    string `json:"why"`
		} `json:"checks"`
	} `json:"verdict"`
	Metrics []measured `json:"metrics"`
	Slices  []struct {
		Column string   `json:"column"`
		Value  string   `json:"value"`
		Rows   int64    `json:"rows"`
		Metric measured `json:"metric"`
		Behind bool     `json:"behind"`
	} `json:"slices"`
	Latency struct {
		Candidate times  `json:"candidate"`
		Champion  *times `json:"champion"`
	} `json:"latency"`
	Parity *struct {
		Rows    int64   `json:"rows"`
		Beyond  int64   `json:"beyond"`
		Largest float64 `json:"largest"`
	} `json:"parity"`
	Reference struct {
		Columns []struct {
			Name    string   `json:"name"`
			Kind    string   `json:"kind"`
			Missing float64  `json:"missing"`
			Low     *float64 `json:"low"`
			Middle  *float64 `json:"middle"`
			High    *float64 `json:"high"`
			Most    []string `json:"most"`
		} `json:"columns"`
	} `json:"reference"`
}

type times struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// measured is a metric of the version and of what it was compared with.
type measured struct {
	Metric    string  `json:"metric"`
	Better    string  `json:"better"`
	Candidate metric  `json:"candidate"`
	Champion  *metric `json:"champion"`
	Worse     *metric `json:"worse"`
}

type metric struct {
	Value    float64 `json:"value"`
	N        int64   `json:"n"`
	Interval *struct {
		Low  float64 `json:"low"`
		High float64 `json:"high"`
	} `json:"interval"`
}

// String writes it with its interval.
func (m *metric) String() string {
	switch {
	case m == nil:
		return "–"
	case m.Interval == nil:
		return number(m.Value)
	}
	return fmt.Sprintf("%s (%s to %s)", number(m.Value), number(m.Interval.Low), number(m.Interval.High))
}

// Judged says whether the version is better or worse, beyond doubt by the interval of the difference; "": nobody can tell.
func (m *measured) Judged() string {
	switch w := m.Worse; {
	case w == nil || w.Interval == nil:
	case w.Interval.High < 0:
		return "good"
	case w.Interval.Low > 0:
		return "bad"
	}
	return ""
}

// RunPath is the page of the run that made the version.
func (c *card) RunPath() string { return runOf(c.Pipeline + ":" + c.Run) }

// ViewNames lists the views that features come of, with their versions.
func (c *card) ViewNames() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Data.Views)) {
		names = append(names, fmt.Sprintf("%s (version %d)", name, c.Data.Views[name]))
	}
	return names
}

// versionPage is one version.
type versionPage struct {
	Model string
	manifest
	Digest string `json:"digest"`
	Memory struct {
		Loading int64 `json:"loading"`
		Session int64 `json:"session"`
	} `json:"memory"`
	Labels map[string]string `json:"labels"`

	Settings  string // as JSON
	Card      *card
	Reference *reference
	Away      struct{ Card, Reference string }
}

// reference is what live data is compared with.
type reference struct {
	Rows    int64      `json:"rows"`
	Columns []struct{} `json:"columns"`
}

// settingNames are the fields of a manifest that its publisher decides.
var settingNames = []string{"threads", "batching", "cache", "features", "warmup", "log", "quality"}

func (c *Console) version(q *Query) (*View, error) {
	name, version := q.PathValue("model"), q.PathValue("version")
	p := &versionPage{Model: name}
	var raw json.RawMessage
	if err := q.get(at("/admin/v1/models", name, "versions", version), &raw); err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(raw, p), json.Unmarshal(raw, &fields)); err != nil {
		return nil, err
	}
	p.Settings = settingsOf(fields)
	number := strconv.Itoa(p.Version)
	away, err := q.parts(
		func(q *Query) error { return q.get(at("/admin/v1/models", name, "versions", number, "card"), &p.Card) },
		func(q *Query) error { return q.get(at("/admin/v1/drift", name, number, "reference"), &p.Reference) },
	)
	if err != nil {
		return nil, err
	}
	p.Away.Card, p.Away.Reference = away[0], away[1]
	return &View{Title: fmt.Sprintf("%s, version %d", name, p.Version), Nav: "/console/models", Data: p}, nil
}

// settingsOf writes what a publisher decided.
func settingsOf(fields map[string]json.RawMessage) string {
	var b bytes.Buffer
	for _, name := range settingNames {
		if v, ok := fields[name]; ok {
			fmt.Fprintf(&b, "%q: ", name)
			if json.Indent(&b, v, "", "  ") != nil {
				b.Write(v)
			}
			b.WriteByte('\n')
		}
	}
	return strings.TrimSpace(b.String())
}

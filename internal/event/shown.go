package event

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Taker is somebody who gets events of some types from the broker.
type Taker struct {
	Trigger    string   `json:"trigger"`    // its name
	Subscriber string   `json:"subscriber"` // a function and a path of it, or a URL
	Filter     string   `json:"filter"`     // as the trigger has it
	Types      []string `json:"-"`          // of ours that may pass
}

// Shown is a type as people are told of it.
type Shown struct {
	Type     string    `json:"type"`
	Summary  string    `json:"summary"`
	Source   string    `json:"source"`
	Subject  string    `json:"subject"`
	Outbound bool      `json:"outbound,omitempty"`
	Takers   []Taker   `json:"takers,omitempty"`
	Seen     int64     `json:"seen,omitempty"`
	Last     time.Time `json:"last,omitzero"`
}

// Types are all types.
type Types struct {
	Since time.Time `json:"since,omitzero"` // since when they are counted; zero: nobody here counts them
	Types []Shown   `json:"types"`
}

// Tally counts events by their type, of those that are declared. Its methods are safe for concurrent use.
type Tally struct {
	since time.Time
	mu    sync.Mutex
	seen  map[string]tallied
}

type tallied struct {
	n    int64
	last time.Time
}

// NewTally makes one that begins now.
func NewTally() *Tally { return &Tally{since: time.Now().UTC(), seen: map[string]tallied{}} }

// Add counts an event.
func (t *Tally) Add(e *Event) {
	if Lookup(e.Type()) == nil { // of strangers' there may be any number
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen[e.Type()] = tallied{t.seen[e.Type()].n + 1, time.Now().UTC()}
}

// Show mounts GET /admin/v1/events: the types that there are, who takes them, and how many were seen, if somebody counts them (nil: nobody does).
func Show(mux *http.ServeMux, takers []Taker, tally *Tally) {
	mux.HandleFunc("GET /admin/v1/events", func(w http.ResponseWriter, _ *http.Request) {
		var all Types
		for _, d := range Declared() {
			s := Shown{Type: d.Name, Summary: d.Summary, Source: d.Source, Subject: d.Subject, Outbound: d.Outbound}
			for _, t := range takers {
				if slices.Contains(t.Types, d.Name) {
					s.Takers = append(s.Takers, t)
				}
			}
			all.Types = append(all.Types, s)
		}
		if tally != nil {
			all.Since = tally.since
			tally.mu.Lock()
			for i := range all.Types {
				seen := tally.seen[all.Types[i].Type]
				all.Types[i].Seen, all.Types[i].Last = seen.n, seen.last
			}
			tally.mu.Unlock()
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(all) // plain data; a reader that is gone needs none
	})
}

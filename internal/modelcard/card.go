// Package modelcard is what is told of how a version of a model came to be: of which rows, by which trainer, and how it did
// beside the version before it. It is written when a candidate is evaluated, and kept with the version.
//
// It knows how a card looks, to programs (JSON) and to people (Markdown), and nothing of how it is made.
package modelcard

import (
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Card is the card of a version, or of a candidate that is none yet.
type Card struct {
	Model    string    `json:"model"`
	Version  int       `json:"version,omitempty"` // 0: it was not published
	Pipeline string    `json:"pipeline"`
	Run      string    `json:"run"`
	At       time.Time `json:"at"`     // when the run began
	Digest   string    `json:"digest"` // of the model's file
	Size     int64     `json:"size"`   // of it, in bytes

	Data    Data               `json:"data"`
	Trainer map[string]float64 `json:"trainer,omitempty"` // the trainer's own numbers, as it told them
	// Settings are those that the version is published with.
	Settings model.Settings `json:"settings"`

	Verdict   Verdict    `json:"verdict"`
	Metrics   []Measured `json:"metrics"`          // the one that decides first
	Slices    []Slice    `json:"slices,omitempty"` // by the metric that decides, those that fall behind most first
	Latency   Latency    `json:"latency"`
	Parity    *Parity    `json:"parity,omitempty"` // nil: the trainer told no predictions of its own
	Reference Reference  `json:"reference"`
}

// Data is what the candidate was trained and evaluated on.
type Data struct {
	From    time.Time `json:"from"`
	Cut     time.Time `json:"cut"` // rows before it are for training, those from it on were held out
	Until   time.Time `json:"until"`
	Train   int64     `json:"train"`   // rows
	Holdout int64     `json:"holdout"` // rows
	LeftOut int64     `json:"left_out,omitempty"`
	// Learnt is how many rows of the holdout the version that the candidate was compared with has learnt from, by its own card.
	Learnt   int64          `json:"learnt,omitempty"`
	Blocks   int            `json:"blocks"` // spans of time that the rows of the holdout are of, which are taken as independent of each other
	Block    string         `json:"block"`  // how long they are
	Labels   string         `json:"labels"` // where they are from
	Service  string         `json:"service,omitempty"`
	Features int            `json:"features,omitempty"` // the version of the definitions
	Views    map[string]int `json:"views,omitempty"`    // their versions
	Inputs   []tensor.Spec  `json:"inputs"`
}

// Verdict is what an evaluation came to.
type Verdict struct {
	Passed bool   `json:"passed"`
	Why    string `json:"why"` // one sentence
	// Against is what the candidate was compared with: a version's number; 0: a constant, because there is none.
	Against  int      `json:"against"`
	Deciding Measured `json:"deciding"`
	Checks   []Check  `json:"checks"`
}

// Check is one of the things that a candidate has to pass.
type Check struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Why    string `json:"why"`
}

// Measured is a metric of the candidate and of what it is compared with. Intervals are of 95 %, of what would be seen over endlessly many blocks of time.
type Measured struct {
	Metric    string          `json:"metric"`
	Better    quality.Better  `json:"better"`
	Candidate quality.Metric  `json:"candidate"`
	Champion  *quality.Metric `json:"champion,omitempty"` // nil: it has no meaning there
	// Worse is by how much the candidate is worse, by the same rows; below 0: it is better. nil: one of them has none, or the metric is none that is better up or down.
	Worse *quality.Metric `json:"worse,omitempty"`
}

// Slice is a part of the holdout.
type Slice struct {
	Column  string   `json:"column"`
	Value   string   `json:"value"`
	Rows    int64    `json:"rows"`
	Metric  Measured `json:"metric"`
	Allowed float64  `json:"allowed"` // by how much the candidate may be worse
	Behind  bool     `json:"behind,omitempty"`
}

// Latency is how long one row takes, both models asked in turns.
type Latency struct {
	Rows      int    `json:"rows"`
	Candidate Times  `json:"candidate"`
	Champion  *Times `json:"champion,omitempty"`
}

// Times are in microseconds.
type Times struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// Parity compares the answers of the model's file with those of the trainer.
type Parity struct {
	Rows      int64   `json:"rows"`
	Tolerance float64 `json:"tolerance"`
	Beyond    int64   `json:"beyond"`  // rows that differ by more
	Largest   float64 `json:"largest"` // difference, of numbers
}

// Reference is the training reference that live data is compared with, in short.
type Reference struct {
	Digest  string   `json:"digest"` // of the drift.Profile
	Columns []Column `json:"columns"`
}

// Column is what a column was like.
type Column struct {
	Name    string     `json:"name"`
	Kind    drift.Kind `json:"kind"`
	Missing float64    `json:"missing"` // a share
	// Low, Middle and High are the 5th, 50th and 95th percentile, of numbers, as near as bins tell.
	Low    *float64 `json:"low,omitempty"`
	Middle *float64 `json:"middle,omitempty"`
	High   *float64 `json:"high,omitempty"`
	Most   []string `json:"most,omitempty"` // the most frequent texts
}

// mostShown is how many of the most frequent texts a card shows.
const mostShown = 5

// Refer puts a profile in short.
func Refer(p *drift.Profile) Reference {
	r := Reference{Digest: p.Digest()}
	for i := range p.Columns() {
		from := &p.Columns()[i]
		to := Column{Name: from.Name, Kind: from.Kind, Missing: from.MissingShare(p.Rows())}
		if from.Kind == drift.Categorical {
			to.Most = from.Categories[:min(len(from.Categories), mostShown)]
		} else if len(from.Edges) > 0 {
			to.Low, to.Middle, to.High = edge(from, .05), edge(from, .5), edge(from, .95)
		}
		r.Columns = append(r.Columns, to)
	}
	return r
}

// edge is the upper end of the bin that a quantile lies in.
func edge(c *drift.Column, q float64) *float64 {
	have := 0.0
	for i, n := range c.Counts {
		if have += float64(n); have >= q*float64(c.Sampled()) {
			return &c.Edges[i]
		}
	}
	return &c.Edges[len(c.Edges)-1]
}

package course

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
)

// Drift is how far a model's data has moved from its training, as the API tells it.
type Drift struct {
	Model     string          `json:"model"`
	From      time.Time       `json:"from"`
	Until     time.Time       `json:"until"`
	Versions  []Drifted       `json:"versions"`
	Windows   []DriftedWindow `json:"windows"`   // those with predictions, in their order
	Elsewhere *Elsewhere      `json:"elsewhere"` // as of Quality
}

// Drifted is one version.
type Drifted struct {
	Version int           `json:"version"`
	Missing string        `json:"missing"` // why there is no report
	Report  *drift.Report `json:"report"`
	// Examples are predictions with values that training had least of, by the columns that have drifted.
	Examples map[string][]Example `json:"examples"`
}

// Strongest are the columns that have drifted, those that moved furthest first; none without a report.
func (d *Drifted) Strongest() (all []*drift.ColumnReport) {
	if d.Report == nil {
		return nil
	}
	for i := range d.Report.Columns {
		if c := &d.Report.Columns[i]; c.Verdict == drift.Drifted {
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b *drift.ColumnReport) int { return cmp.Compare(strengthOf(b), strengthOf(a)) })
	return all
}

// DriftedWindow is how far it had moved in some of the time.
type DriftedWindow struct {
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Versions []Drifted `json:"versions"`
}

// Moved is a version's drift, window by window, its strongest columns first.
type Moved struct {
	Version int
	Windows []chart.Span
	Columns []Column
}

// Column is one column of all windows.
type Column struct {
	Name    string
	Reports []*drift.ColumnReport // by window; nil: it has none
}

// Of gives the drift of a version.
func (d *Drift) Of(version int) *Moved {
	m := &Moved{Version: version}
	at := map[string]int{}
	for _, w := range d.Windows {
		for _, v := range w.Versions {
			if v.Version != version || v.Report == nil {
				continue
			}
			m.Windows = append(m.Windows, chart.Span{From: w.From, Until: w.Until})
			for i := range v.Report.Columns {
				c := &v.Report.Columns[i]
				n, known := at[c.Name]
				if !known {
					n = len(m.Columns)
					at[c.Name] = n
					m.Columns = append(m.Columns, Column{Name: c.Name})
				}
				reports := m.Columns[n].Reports
				reports = append(reports, make([]*drift.ColumnReport, len(m.Windows)-len(reports))...)
				reports[len(m.Windows)-1] = c
				m.Columns[n].Reports = reports
			}
		}
	}
	for i := range m.Columns {
		c := &m.Columns[i]
		c.Reports = append(c.Reports, make([]*drift.ColumnReport, len(m.Windows)-len(c.Reports))...)
	}
	slices.SortStableFunc(m.Columns, func(a, b Column) int {
		_, x := a.Strongest()
		_, y := b.Strongest()
		return cmp.Or(cmp.Compare(min(len(b.Drifted()), 1), min(len(a.Drifted()), 1)), cmp.Compare(y, x))
	})
	return m
}

// Drifted gives the numbers of the windows in which it had.
func (c *Column) Drifted() (at []int) {
	for i, r := range c.Reports {
		if r != nil && r.Verdict == drift.Drifted {
			at = append(at, i)
		}
	}
	return at
}

// Strongest gives the window in which it had moved most, of those in which it had drifted, if there are any.
func (c *Column) Strongest() (at int, strength float64) {
	at = -1
	any := len(c.Drifted()) > 0
	for i, r := range c.Reports {
		if r == nil || r.Verdict == drift.TooFew || any && r.Verdict != drift.Drifted {
			continue
		}
		if s := strengthOf(r); at < 0 || s > strength {
			at, strength = i, s
		}
	}
	return at, strength
}

// strengthOf is the PSI or, where that is larger, the share that is missing, unseen or out of range when it should not be.
func strengthOf(r *drift.ColumnReport) float64 {
	s := r.PSI
	for _, t := range r.Tests {
		if t.Alarm && t.Name != drift.KS && t.Name != drift.ChiSquare {
			s = max(s, t.Effect)
		}
	}
	return s
}

const columnsMost = 40 // that are shown, and more only of those that have drifted

// Shown are the columns that are told of: all that have drifted and, as far as there is room, others.
func (m *Moved) Shown() []Column {
	n := 0
	for n < len(m.Columns) && (n < columnsMost || len(m.Columns[n].Drifted()) > 0) {
		n++
	}
	return m.Columns[:n]
}

// Sentence tells when a column drifted, when it was strongest, and how; empty: it did not.
func (m *Moved) Sentence(c *Column) string {
	in := c.Drifted()
	if len(in) == 0 {
		return ""
	}
	first, last := in[0], in[len(in)-1]
	began, ended := Date(m.Windows[first].From), Date(m.Windows[last].Until)
	var when string
	switch {
	case len(in) == len(m.Windows):
		when = fmt.Sprintf("in all %d windows", len(in))
	case len(in) == 1:
		when = fmt.Sprintf("in one of %d windows, from %s until %s", len(m.Windows), began, ended)
	case len(in) == last-first+1:
		when = fmt.Sprintf("in %d of %d windows, from %s until %s", len(in), len(m.Windows), began, ended)
	default:
		when = fmt.Sprintf("in %d of %d windows, first from %s, last until %s", len(in), len(m.Windows), began, ended)
	}
	at, _ := c.Strongest()
	r := c.Reports[at]
	if len(in) > 1 {
		when += "; most in that from " + Date(m.Windows[at].From)
	}
	return fmt.Sprintf("%s drifted %s (PSI %.2f): %s.", clipped(c.Name, 60), when, r.PSI, Moves(r))
}

// Moves says how a column was other than in training.
func Moves(r *drift.ColumnReport) string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch r.Cause {
	case drift.MissingShare:
		say("%.3g %% were missing, instead of %.3g %%", 100*r.Missing.Current, 100*r.Missing.Reference)
	case drift.UnseenShare:
		example := ""
		if len(r.Names) > 0 {
			example = fmt.Sprintf(", such as %q", clipped(r.Names[0].Name, 40))
		}
		say("%.3g %% were values that training did not have%s", 100*r.Unseen.Current, example)
	case drift.OutOfRange:
		say("%.3g %% were out of the range of training", 100*(r.Below+r.Above))
	}
	if r.Reference != nil && r.Current != nil && r.Reference.P50 != r.Current.P50 {
		say("its median went from %.4g to %.4g", r.Reference.P50, r.Current.P50)
	} else if len(r.Moves) > 0 {
		say("the share of %s went from %.3g %% to %.3g %%", clipped(r.Moves[0].Of, 40), 100*r.Moves[0].Reference, 100*r.Moves[0].Current)
	}
	if len(parts) == 0 {
		return "no value is left to compare"
	}
	return strings.Join(parts, "; ")
}

// SVG makes a picture of all versions that have windows.
func (d *Drift) SVG() []byte {
	h := &chart.Heat{
		Title: d.Model + ": drift over time", Under: fmt.Sprintf("from %s until %s (UTC), compared with training", Date(d.From), Date(d.Until)),
		Measure: "PSI", Steps: []float64{.1, .25, .5, 1}, Marked: "has drifted", Blank: "too few rows to tell",
	}
	var all []*Moved
	for _, v := range d.Versions {
		if m := d.Of(v.Version); len(m.Windows) > 0 {
			all = append(all, m)
		} else if v.Report == nil {
			h.Under += fmt.Sprintf("; version %d has no training reference", v.Version)
		}
	}
	switch len(all) {
	case 0:
		h.Description = "There is nothing to compare."
	case 1:
		h.Under = fmt.Sprintf("version %d, ", all[0].Version) + h.Under
	}
	for _, m := range all {
		b := chart.Block{Spans: m.Windows}
		if len(all) > 1 {
			b.Title = fmt.Sprintf("version %d", m.Version)
		}
		for _, c := range m.Shown() {
			row := chart.Row{Name: c.Name}
			for i, r := range c.Reports {
				cell := chart.Cell{Blank: true}
				if r != nil {
					cell = chart.Cell{Value: r.PSI, Marked: r.Verdict == drift.Drifted, Blank: r.Verdict == drift.TooFew, Tip: fmt.Sprintf("%s, from %s: PSI %.2f", c.Name, Date(m.Windows[i].From), r.PSI)}
				}
				row.Cells = append(row.Cells, cell)
			}
			b.Rows = append(b.Rows, row)
			if s := m.Sentence(&c); s != "" {
				h.Description += s + " "
			}
		}
		h.Blocks = append(h.Blocks, b)
	}
	if h.Description == "" {
		h.Description = "No column has drifted."
	}
	return h.SVG()
}

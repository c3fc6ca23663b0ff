package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
)

// moved is a version's drift, window by window, its strongest columns first.
type moved struct {
	version int
	windows []movedWindow
	columns []movedColumn
}

type movedWindow struct{ from, until time.Time }

// movedColumn is one column of all windows.
type movedColumn struct {
	name    string
	reports []*drift.ColumnReport // by window; nil: it has none
}

func movedOf(d *feedback.Drift, version int) *moved {
	m := &moved{version: version}
	at := map[string]int{}
	for _, w := range d.Windows {
		for _, v := range w.Versions {
			if v.Version != version || v.Report == nil {
				continue
			}
			m.windows = append(m.windows, movedWindow{w.From, w.Until})
			for i := range v.Report.Columns {
				c := &v.Report.Columns[i]
				n, known := at[c.Name]
				if !known {
					n = len(m.columns)
					at[c.Name] = n
					m.columns = append(m.columns, movedColumn{name: c.Name})
				}
				reports := m.columns[n].reports
				reports = append(reports, make([]*drift.ColumnReport, len(m.windows)-len(reports))...)
				reports[len(m.windows)-1] = c
				m.columns[n].reports = reports
			}
		}
	}
	for i := range m.columns {
		c := &m.columns[i]
		c.reports = append(c.reports, make([]*drift.ColumnReport, len(m.windows)-len(c.reports))...)
	}
	slices.SortStableFunc(m.columns, func(a, b movedColumn) int {
		_, x := a.strongest()
		_, y := b.strongest()
		return cmp.Or(cmp.Compare(min(len(b.drifted()), 1), min(len(a.drifted()), 1)), cmp.Compare(y, x))
	})
	return m
}

// drifted gives the numbers of the windows in which it had.
func (c *movedColumn) drifted() (at []int) {
	for i, r := range c.reports {
		if r != nil && r.Verdict == drift.Drifted {
			at = append(at, i)
		}
	}
	return at
}

// strongest gives the window in which it had moved most, of those in which it had drifted, if there are any.
func (c *movedColumn) strongest() (at int, strength float64) {
	at = -1
	any := len(c.drifted()) > 0
	for i, r := range c.reports {
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

// Windows that have their numbers printed, and those of a strip, beside each other.
const (
	numbersMost = 12
	stripMost   = 60
	columnsMost = 40 // that are shown
)

// showMoved prints columns by windows, and a sentence for each column that has drifted.
func (c *client) showMoved(m *moved) error {
	columns := m.shown()
	most := stripMost
	if len(m.windows) <= numbersMost {
		most = numbersMost
	}
	for from := 0; from < len(m.windows); from += most {
		to := min(from+most, len(m.windows))
		fmt.Fprintln(c.out)
		rows := m.strips(columns, from, to)
		if most == numbersMost {
			rows = m.numbers(columns)
		}
		if err := c.table(rows); err != nil {
			return err
		}
	}
	if most == numbersMost {
		fmt.Fprintln(c.out, "PSI by window; * has drifted, - too few rows to tell")
	} else {
		fmt.Fprintln(c.out, "░ has drifted, ▒ with a PSI from 0.25, ▓ from 0.5, █ from 1; · steady, - too few rows to tell")
	}
	if more := len(m.columns) - len(columns); more > 0 {
		fmt.Fprintf(c.out, "%d columns more have moved less\n", more)
	}
	fmt.Fprintln(c.out)
	for i := range m.columns {
		if s := m.sentence(&m.columns[i]); s != "" {
			fmt.Fprintln(c.out, s)
		}
	}
	return nil
}

// shown are the columns that are: all that have drifted and, as far as there is room, others.
func (m *moved) shown() []movedColumn {
	n := 0
	for n < len(m.columns) && (n < columnsMost || len(m.columns[n].drifted()) > 0) {
		n++
	}
	return m.columns[:n]
}

func (m *moved) numbers(columns []movedColumn) [][]string {
	head := []string{"COLUMN"}
	for _, w := range m.windows {
		head = append(head, dayOf(w.from))
	}
	rows := [][]string{head}
	for _, col := range columns {
		row := []string{shown(col.name, 40)}
		for _, r := range col.reports {
			switch {
			case r == nil:
				row = append(row, "")
			case r.Verdict == drift.TooFew:
				row = append(row, "-")
			case r.Verdict == drift.Drifted:
				row = append(row, fmt.Sprintf("%.2f*", r.PSI))
			default:
				row = append(row, fmt.Sprintf("%.2f", r.PSI))
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func dayOf(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format("Jan 02")
	}
	return t.Format("02 15:04")
}

func (m *moved) strips(columns []movedColumn, from, to int) [][]string {
	left, right := dateOf(m.windows[from].from), dateOf(m.windows[to-1].until)
	rows := [][]string{{"COLUMN", left + strings.Repeat(" ", max(to-from-len(left)-len(right), 1)) + right}}
	if from == 0 {
		rows[0] = append(rows[0], "DRIFTED", "STRONGEST", "PSI")
	}
	for _, col := range columns {
		strip := make([]rune, to-from)
		for i, r := range col.reports[from:to] {
			strip[i] = shade(r)
		}
		row := []string{shown(col.name, 40), string(strip)}
		if at, _ := col.strongest(); at >= 0 && from == 0 {
			row = append(row, fmt.Sprintf("%d of %d", len(col.drifted()), len(m.windows)), dateOf(m.windows[at].from), fmt.Sprintf("%.2f", col.reports[at].PSI))
		}
		rows = append(rows, row)
	}
	return rows
}

func shade(r *drift.ColumnReport) rune {
	switch {
	case r == nil:
		return ' '
	case r.Verdict == drift.TooFew:
		return '-'
	case r.Verdict != drift.Drifted:
		return '·'
	case r.PSI >= 1:
		return '█'
	case r.PSI >= .5:
		return '▓'
	case r.PSI >= .25:
		return '▒'
	}
	return '░'
}

// sentence tells when a column drifted, when it was strongest, and how; empty: it did not.
func (m *moved) sentence(c *movedColumn) string {
	in := c.drifted()
	if len(in) == 0 {
		return ""
	}
	first, last := in[0], in[len(in)-1]
	began, ended := dateOf(m.windows[first].from), dateOf(m.windows[last].until)
	var when string
	switch {
	case len(in) == len(m.windows):
		when = fmt.Sprintf("in all %d windows", len(in))
	case len(in) == 1:
		when = fmt.Sprintf("in one of %d windows, from %s until %s", len(m.windows), began, ended)
	case len(in) == last-first+1:
		when = fmt.Sprintf("in %d of %d windows, from %s until %s", len(in), len(m.windows), began, ended)
	default:
		when = fmt.Sprintf("in %d of %d windows, first from %s, last until %s", len(in), len(m.windows), began, ended)
	}
	at, _ := c.strongest()
	r := c.reports[at]
	if len(in) > 1 {
		when += "; most in that from " + dateOf(m.windows[at].from)
	}
	return fmt.Sprintf("%s drifted %s (PSI %.2f): %s.", shown(c.name, 60), when, r.PSI, whatMoved(r))
}

// whatMoved says how a column was other than in training.
func whatMoved(r *drift.ColumnReport) string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch r.Cause {
	case drift.MissingShare:
		say("%.3g %% were missing, instead of %.3g %%", 100*r.Missing.Current, 100*r.Missing.Reference)
	case drift.UnseenShare:
		example := ""
		if len(r.Names) > 0 {
			example = fmt.Sprintf(", such as %q", shown(r.Names[0].Name, 40))
		}
		say("%.3g %% were values that training did not have%s", 100*r.Unseen.Current, example)
	case drift.OutOfRange:
		say("%.3g %% were out of the range of training", 100*(r.Below+r.Above))
	}
	if r.Reference != nil && r.Current != nil && r.Reference.P50 != r.Current.P50 {
		say("its median went from %.4g to %.4g", r.Reference.P50, r.Current.P50)
	} else if len(r.Moves) > 0 {
		say("the share of %s went from %.3g %% to %.3g %%", shown(r.Moves[0].Of, 40), 100*r.Moves[0].Reference, 100*r.Moves[0].Current)
	}
	if len(parts) == 0 {
		return "no value is left to compare"
	}
	return strings.Join(parts, "; ")
}

// drawDrift makes a picture of all versions that have windows.
func drawDrift(d *feedback.Drift) []byte {
	h := &chart.Heat{
		Title: d.Model + ": drift over time", Under: fmt.Sprintf("from %s until %s (UTC), compared with training", dateOf(d.From), dateOf(d.Until)),
		Measure: "PSI", Steps: []float64{.1, .25, .5, 1}, Marked: "has drifted", Blank: "too few rows to tell",
	}
	var all []*moved
	for _, v := range d.Versions {
		if m := movedOf(d, v.Version); len(m.windows) > 0 {
			all = append(all, m)
		} else if v.Report == nil {
			h.Under += fmt.Sprintf("; version %d has no training reference", v.Version)
		}
	}
	if len(all) == 0 {
		h.Description = "There is nothing to compare."
	}
	for _, m := range all {
		b := chart.Block{}
		if len(all) > 1 {
			b.Title = fmt.Sprintf("version %d", m.version)
		}
		for _, w := range m.windows {
			b.Spans = append(b.Spans, chart.Span{From: w.from, Until: w.until})
		}
		for _, c := range m.shown() {
			row := chart.Row{Name: c.name}
			for i, r := range c.reports {
				cell := chart.Cell{Blank: true}
				if r != nil {
					cell = chart.Cell{Value: r.PSI, Marked: r.Verdict == drift.Drifted, Blank: r.Verdict == drift.TooFew, Tip: fmt.Sprintf("%s, from %s: PSI %.2f", c.name, dateOf(m.windows[i].from), r.PSI)}
				}
				row.Cells = append(row.Cells, cell)
			}
			b.Rows = append(b.Rows, row)
			if s := m.sentence(&c); s != "" {
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

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/course"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
)

// Windows that have their numbers printed, and those of a strip, beside each other.
const (
	numbersMost = 12
	stripMost   = 60
)

// showMoved prints columns by windows, and a sentence for each column that has drifted.
func (c *client) showMoved(m *course.Moved) error {
	columns := m.Shown()
	most := stripMost
	if len(m.Windows) <= numbersMost {
		most = numbersMost
	}
	for from := 0; from < len(m.Windows); from += most {
		to := min(from+most, len(m.Windows))
		fmt.Fprintln(c.out)
		rows := strips(m, columns, from, to)
		if most == numbersMost {
			rows = numbers(m, columns)
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
	if more := len(m.Columns) - len(columns); more > 0 {
		fmt.Fprintf(c.out, "%d columns more have moved less\n", more)
	}
	fmt.Fprintln(c.out)
	for i := range m.Columns {
		if s := m.Sentence(&m.Columns[i]); s != "" {
			fmt.Fprintln(c.out, shown(s, 1000))
		}
	}
	return nil
}

func numbers(m *course.Moved, columns []course.Column) [][]string {
	head := []string{"COLUMN"}
	for _, w := range m.Windows {
		head = append(head, dayOf(w.From))
	}
	rows := [][]string{head}
	for _, col := range columns {
		row := []string{shown(col.Name, 40)}
		for _, r := range col.Reports {
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

func strips(m *course.Moved, columns []course.Column, from, to int) [][]string {
	left, right := course.Date(m.Windows[from].From), course.Date(m.Windows[to-1].Until)
	rows := [][]string{{"COLUMN", left + strings.Repeat(" ", max(to-from-len(left)-len(right), 1)) + right}}
	if from == 0 {
		rows[0] = append(rows[0], "DRIFTED", "STRONGEST", "PSI")
	}
	for _, col := range columns {
		strip := make([]rune, to-from)
		for i, r := range col.Reports[from:to] {
			strip[i] = shade(r)
		}
		row := []string{shown(col.Name, 40), string(strip)}
		if at, _ := col.Strongest(); at >= 0 && from == 0 {
			row = append(row, fmt.Sprintf("%d of %d", len(col.Drifted()), len(m.Windows)), course.Date(m.Windows[at].From), fmt.Sprintf("%.2f", col.Reports[at].PSI))
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

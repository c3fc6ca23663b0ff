package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/course"
)

// courseWidth is how many columns of the terminal the drawn metric has.
const courseWidth = 36

// showCourse prints a line for each window.
func (c *client) showCourse(s *course.Course) error {
	first := s.Metrics[0]
	low, high := endsOf(s)
	head := []string{"FROM", "PREDICTIONS", "OUTCOMES"}
	for _, name := range s.Metrics {
		head = append(head, strings.ToUpper(name))
	}
	left, right := fmt.Sprintf("%.4g", low), fmt.Sprintf("%.4g", high)
	head = append(head, left+strings.Repeat(" ", max(courseWidth-len(left)-len(right), 1))+right)
	rows := [][]string{head}
	guessed := false
	for i := range s.Windows {
		w := &s.Windows[i]
		row := []string{course.Date(w.From), fmt.Sprint(w.Report.Predicted), fmt.Sprint(w.Report.Outcomes)}
		for _, name := range s.Metrics {
			cell := ""
			if m, told := w.Measured(name); told {
				cell = fmt.Sprintf("%.4g", m.Value)
			} else if m, told := w.Estimated(name); told {
				cell = fmt.Sprintf("~%.4g", m.Value)
			}
			row = append(row, cell)
		}
		_, has := w.Estimated(first)
		guessed = guessed || has
		rows = append(rows, append(row, plot(w, first, low, high)))
	}
	fmt.Fprintln(c.out)
	if err := c.table(rows); err != nil {
		return err
	}
	note := "● " + first + ", ─ its 95 % interval"
	if guessed {
		note += ", ○ and ~ estimated from the scores"
	}
	fmt.Fprintln(c.out, note)
	return nil
}

// endsOf gives the least and the greatest of what is drawn.
func endsOf(s *course.Course) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for i := range s.Windows {
		w := &s.Windows[i]
		if m, told := w.Measured(s.Metrics[0]); told {
			low, high = min(low, m.Value), max(high, m.Value)
			if m.Interval != nil {
				low, high = min(low, m.Interval.Low), max(high, m.Interval.High)
			}
		}
		if m, told := w.Estimated(s.Metrics[0]); told {
			low, high = min(low, m.Value), max(high, m.Value)
		}
	}
	if low > high {
		return 0, 1
	}
	if low == high {
		return low - 1, high + 1
	}
	return low, high
}

// plot draws a metric of one window.
func plot(w *course.Window, metric string, low, high float64) string {
	line := []rune(strings.Repeat(" ", courseWidth))
	place := func(v float64) int {
		return int(math.Round(min(max((v-low)/(high-low), 0), 1) * (courseWidth - 1)))
	}
	m, told := w.Measured(metric)
	if told && m.Interval != nil {
		for i := place(m.Interval.Low); i <= place(m.Interval.High); i++ {
			line[i] = '─'
		}
	}
	if e, has := w.Estimated(metric); has {
		line[place(e.Value)] = '○'
	}
	if told {
		line[place(m.Value)] = '●'
	}
	return strings.TrimRight(string(line), " ")
}

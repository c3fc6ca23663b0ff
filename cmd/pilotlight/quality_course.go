package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// telling are the metrics that windows are shown by, the first of them drawn. The mean of answers is base_rate and bias together.
var telling = map[quality.Task][]string{
	quality.Binary:     {"auc", "log_loss", "base_rate", "bias"},
	quality.Multiclass: {"accuracy", "macro_f1", "log_loss"},
	quality.Regression: {"mae", "rmse", "bias"},
}

// metricsFor gives the names of the metrics that windows are shown by; pick, unless it is empty, comes first.
func metricsFor(task quality.Task, pick string) ([]string, error) {
	names := telling[task]
	if pick == "" || slices.Contains(names, pick) && names[0] == pick {
		return names, nil
	}
	all := quality.Metrics(task)
	if !slices.ContainsFunc(all, func(a quality.About) bool { return a.Name == pick }) {
		var have []string
		for _, a := range all {
			have = append(have, a.Name)
		}
		return nil, fmt.Errorf("--metric is %.40q, expected one of %s", pick, strings.Join(have, ", "))
	}
	return append([]string{pick}, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == pick })...), nil
}

// course is a version, or a slice of one, window by window.
type course struct {
	of      *feedback.Judged
	metrics []string
	windows []courseWindow
}

type courseWindow struct {
	from, until time.Time
	*feedback.Judged
}

// coursesOf gives those of all versions and slices that can be judged.
func coursesOf(j *feedback.Judgement, pick string) (all []course, err error) {
	for i := range j.Versions {
		c := course{of: &j.Versions[i]}
		if c.of.Report == nil {
			continue
		}
		if c.metrics, err = metricsFor(c.of.Report.Task, pick); err != nil {
			return nil, err
		}
		for _, w := range j.Windows {
			at := slices.IndexFunc(w.Versions, func(v feedback.Judged) bool {
				return v.Version == c.of.Version && v.Slice == c.of.Slice && v.Report != nil
			})
			if at >= 0 {
				c.windows = append(c.windows, courseWindow{w.From, w.Until, &w.Versions[at]})
			}
		}
		all = append(all, c)
	}
	return all, nil
}

func (w *courseWindow) metric(name string) (m quality.Metric, told bool) {
	m, told = w.Report.Metrics[name]
	return m, told
}

func (w *courseWindow) estimate(name string) (m quality.Metric, told bool) {
	if w.Estimate != nil {
		m, told = w.Estimate.Metrics[name]
	}
	return m, told
}

// courseWidth is how many columns of the terminal the drawn metric has.
const courseWidth = 36

// showCourse prints a line for each window.
func (c *client) showCourse(s *course) error {
	first := s.metrics[0]
	low, high := s.ends()
	head := []string{"FROM", "PREDICTIONS", "OUTCOMES"}
	for _, name := range s.metrics {
		head = append(head, strings.ToUpper(name))
	}
	left, right := fmt.Sprintf("%.4g", low), fmt.Sprintf("%.4g", high)
	head = append(head, left+strings.Repeat(" ", max(courseWidth-len(left)-len(right), 1))+right)
	rows := [][]string{head}
	guessed := false
	for i := range s.windows {
		w := &s.windows[i]
		row := []string{dateOf(w.from), fmt.Sprint(w.Report.Predicted), fmt.Sprint(w.Report.Outcomes)}
		for _, name := range s.metrics {
			cell := ""
			if m, told := w.metric(name); told {
				cell = fmt.Sprintf("%.4g", m.Value)
			} else if m, told := w.estimate(name); told {
				cell = fmt.Sprintf("~%.4g", m.Value)
			}
			row = append(row, cell)
		}
		_, has := w.estimate(first)
		guessed = guessed || has
		rows = append(rows, append(row, s.plot(w, low, high)))
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

// ends gives the least and the greatest of what is drawn.
func (s *course) ends() (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for i := range s.windows {
		w := &s.windows[i]
		if m, told := w.metric(s.metrics[0]); told {
			low, high = min(low, m.Value), max(high, m.Value)
			if m.Interval != nil {
				low, high = min(low, m.Interval.Low), max(high, m.Interval.High)
			}
		}
		if m, told := w.estimate(s.metrics[0]); told {
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

// plot draws one window.
func (s *course) plot(w *courseWindow, low, high float64) string {
	line := []rune(strings.Repeat(" ", courseWidth))
	place := func(v float64) int {
		return int(math.Round(min(max((v-low)/(high-low), 0), 1) * (courseWidth - 1)))
	}
	m, told := w.metric(s.metrics[0])
	if told && m.Interval != nil {
		for i := place(m.Interval.Low); i <= place(m.Interval.High); i++ {
			line[i] = '─'
		}
	}
	if e, has := w.estimate(s.metrics[0]); has {
		line[place(e.Value)] = '○'
	}
	if told {
		line[place(m.Value)] = '●'
	}
	return strings.TrimRight(string(line), " ")
}

// coursesMost is how many courses are drawn in one picture: more can't be told apart.
const coursesMost = 8

// drawQuality makes a picture of courses and, beside them, of calibration.
func drawQuality(j *feedback.Judgement, all []course) []byte {
	f := &chart.Figure{Under: fmt.Sprintf("from %s until %s (UTC)", dateOf(j.From), dateOf(j.Until))}
	// Wholes come before slices, and larger slices before smaller ones.
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b course) int {
		if (a.of.Slice == "") != (b.of.Slice == "") {
			return map[bool]int{true: -1, false: 1}[a.of.Slice == ""]
		}
		if a.of.Slice == "" {
			return 0
		}
		return int(b.of.Report.Predicted - a.of.Report.Predicted)
	})
	if len(all) > coursesMost {
		f.Under += fmt.Sprintf("; the first %d of %d versions and slices", coursesMost, len(all))
		all = all[:coursesMost]
	}
	if len(all) > 1 {
		f.Under += "; bands are 95 % intervals"
	}
	metric := "quality"
	over := chart.Plot{Width: 1, X: chart.Axis{Time: true, From: float64(j.From.Unix()), To: float64(j.Until.Unix())}}
	calibration := chart.Plot{Title: "calibration of the whole", Width: .5, X: chart.Axis{Label: "predicted", To: 1}, Y: chart.Axis{Label: "came true", To: 1}}
	for i := range all {
		s := &all[i]
		name, estimated := "measured, with its 95 % interval", "estimated from the scores"
		if len(all) > 1 {
			name = fmt.Sprintf("version %d", s.of.Version)
			if s.of.Slice != "" {
				name += ", " + s.of.Slice
			}
			estimated = name + ", estimated"
		}
		metric = s.metrics[0]
		over.Series = append(over.Series, s.series(name, i, false))
		if guess := s.series(estimated, i, true); slices.ContainsFunc(guess.Points, func(p chart.Point) bool { return !math.IsNaN(p.Y) }) {
			over.Series = append(over.Series, guess)
		}
		f.Description += s.words(j.Model)
		if bins := s.of.Report.Calibration; len(bins) > 0 && s.of.Slice == "" {
			bars := chart.Series{Name: name, Hue: i, Bars: true}
			for _, b := range bins {
				bars.Points = append(bars.Points, pointOf(b.Predicted, b.Actual))
			}
			calibration.Series = append(calibration.Series, bars)
		}
	}
	if f.Description == "" {
		f.Description = "There is nothing to judge."
	}
	f.Title = fmt.Sprintf("%s: %s over time", j.Model, metric)
	over.Title, over.Y.Label = metric, meansOf(all, metric)
	if n := len(j.Windows); n > 0 {
		over.X.From, over.X.To = float64(j.Windows[0].From.Unix()), float64(j.Windows[n-1].Until.Unix())
	}
	f.Plots = []chart.Plot{over}
	if len(calibration.Series) > 0 {
		same := chart.Series{Plain: true, Dashed: true, Points: []chart.Point{{}, {X: 1, Y: 1, Low: 1, High: 1}}}
		calibration.Series = append([]chart.Series{same}, calibration.Series...)
		f.Plots = append(f.Plots, calibration)
	}
	return f.SVG()
}

// meansOf says what a metric is.
func meansOf(all []course, metric string) string {
	for i := range all {
		for _, a := range quality.Metrics(all[i].of.Report.Task) {
			if a.Name == metric {
				return a.Means
			}
		}
	}
	return ""
}

// series gives the first metric of a course, as it was measured or as it is estimated.
func (s *course) series(name string, hue int, estimated bool) chart.Series {
	of := chart.Series{Name: name, Hue: hue, Dashed: estimated}
	for i := range s.windows {
		w := &s.windows[i]
		m, told := w.metric(s.metrics[0])
		if estimated {
			if m, told = w.estimate(s.metrics[0]); told {
				m.Interval = nil
			}
		}
		x := float64(w.from.Unix()+w.until.Unix()) / 2
		if i > 0 && !s.windows[i-1].until.Equal(w.from) || !told {
			of.Points = append(of.Points, chart.Point{X: x, Y: math.NaN()})
		}
		if told {
			of.Points = append(of.Points, pointOf(x, m))
		}
	}
	return of
}

func pointOf(x float64, m quality.Metric) chart.Point {
	if m.Interval == nil {
		return chart.Point{X: x, Y: m.Value, Low: m.Value, High: m.Value}
	}
	return chart.Point{X: x, Y: m.Value, Low: m.Interval.Low, High: m.Interval.High}
}

// words says what the course was, to those who don't see it.
func (s *course) words(model string) string {
	low, high, last, n := math.Inf(1), math.Inf(-1), 0.0, 0
	for i := range s.windows {
		if m, told := s.windows[i].metric(s.metrics[0]); told {
			low, high, last = min(low, m.Value), max(high, m.Value), m.Value
			n++
		}
	}
	what := fmt.Sprintf("%s:%d", model, s.of.Version)
	if s.of.Slice != "" {
		what += ", " + s.of.Slice
	}
	if n == 0 {
		return fmt.Sprintf("%s: no %s in any window. ", what, s.metrics[0])
	}
	return fmt.Sprintf("%s: %s from %.4g to %.4g in %d windows, %.4g in the last. ", what, s.metrics[0], low, high, n, last)
}

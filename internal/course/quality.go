package course

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// Quality is how right a model was, as the API tells it.
type Quality struct {
	Model     string         `json:"model"`
	From      time.Time      `json:"from"`
	Until     time.Time      `json:"until"`
	Versions  []Judged       `json:"versions"`
	Windows   []JudgedWindow `json:"windows"`   // those with predictions, in their order
	Elsewhere *Elsewhere     `json:"elsewhere"` // where there are predictions if there are none in the time that was asked about; or nil
}

// Judged is one version, or one slice of it.
type Judged struct {
	Version  int               `json:"version"`
	Slice    string            `json:"slice"`    // column=value; empty: all rows
	Report   *quality.Report   `json:"report"`   // nil: it can't be judged
	Estimate *quality.Estimate `json:"estimate"` // of all its answers, with or without outcomes; of binary ones
	Unjudged int64             `json:"unjudged"` // answers that can't be judged
	Why      string            `json:"why"`      // one of them can't be
	Examples []Example         `json:"examples"` // the answers that were furthest from what came true, the worst first
}

// Example is a row of a prediction.
type Example struct {
	Prediction string `json:"prediction"`
	Row        int    `json:"row"`
}

// JudgedWindow is how right it was for some of the time.
type JudgedWindow struct {
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Versions []Judged  `json:"versions"`
}

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
		return nil, fault.New(fault.Invalid, "metric is %.40q, expected one of %s", pick, strings.Join(have, ", "))
	}
	return append([]string{pick}, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == pick })...), nil
}

// Course is a version, or a slice of one, window by window.
type Course struct {
	Of      *Judged
	Metrics []string // that it is told by, the first of them drawn
	Windows []Window
}

// Window is one of its windows. What it has of the version can be judged.
type Window struct {
	From, Until time.Time
	*Judged
}

// Courses gives those of all versions and slices that can be judged, by the metrics that tell most; pick, unless it is empty, comes first.
func (q *Quality) Courses(pick string) (all []Course, err error) {
	for i := range q.Versions {
		c := Course{Of: &q.Versions[i]}
		if c.Of.Report == nil {
			continue
		}
		if c.Metrics, err = metricsFor(c.Of.Report.Task, pick); err != nil {
			return nil, err
		}
		for _, w := range q.Windows {
			at := slices.IndexFunc(w.Versions, func(v Judged) bool {
				return v.Version == c.Of.Version && v.Slice == c.Of.Slice && v.Report != nil
			})
			if at >= 0 {
				c.Windows = append(c.Windows, Window{w.From, w.Until, &w.Versions[at]})
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// Measured gives a metric of the window, if it is told.
func (w *Window) Measured(name string) (m quality.Metric, told bool) {
	m, told = w.Report.Metrics[name]
	return m, told
}

// Estimated gives a metric as the scores of all answers let one expect it.
func (w *Window) Estimated(name string) (m quality.Metric, told bool) {
	if w.Estimate != nil {
		m, told = w.Estimate.Metrics[name]
	}
	return m, told
}

// coursesMost is how many courses are drawn in one picture: more can't be told apart.
const coursesMost = 8

// SVG makes a picture of courses and, beside them, of calibration.
func (q *Quality) SVG(all []Course) []byte {
	f := &chart.Figure{Under: fmt.Sprintf("from %s until %s (UTC)", Date(q.From), Date(q.Until))}
	// Wholes come before slices, and larger slices before smaller ones.
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b Course) int {
		if (a.Of.Slice == "") != (b.Of.Slice == "") {
			return map[bool]int{true: -1, false: 1}[a.Of.Slice == ""]
		}
		if a.Of.Slice == "" {
			return 0
		}
		return int(b.Of.Report.Predicted - a.Of.Report.Predicted)
	})
	if len(all) > coursesMost {
		f.Under += fmt.Sprintf("; the first %d of %d versions and slices", coursesMost, len(all))
		all = all[:coursesMost]
	}
	if len(all) > 1 {
		f.Under += "; bands are 95 % intervals"
	}
	metric := "quality"
	over := chart.Plot{Width: 1, X: chart.Axis{Time: true, From: float64(q.From.Unix()), To: float64(q.Until.Unix())}}
	calibration := chart.Plot{Title: "calibration of the whole", Width: .5, X: chart.Axis{Label: "predicted", To: 1}, Y: chart.Axis{Label: "came true", To: 1}}
	for i := range all {
		s := &all[i]
		name, estimated := "measured, with its 95 % interval", "estimated from the scores"
		if len(all) > 1 {
			name = fmt.Sprintf("version %d", s.Of.Version)
			if s.Of.Slice != "" {
				name += ", " + s.Of.Slice
			}
			estimated = name + ", estimated"
		}
		metric = s.Metrics[0]
		over.Series = append(over.Series, s.series(name, i, false))
		if guess := s.series(estimated, i, true); slices.ContainsFunc(guess.Points, func(p chart.Point) bool { return !math.IsNaN(p.Y) }) {
			over.Series = append(over.Series, guess)
		}
		f.Description += s.words(q.Model)
		if bins := s.Of.Report.Calibration; len(bins) > 0 && s.Of.Slice == "" {
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
	f.Title = fmt.Sprintf("%s: %s over time", q.Model, metric)
	over.Title, over.Y.Label = metric, meansOf(all, metric)
	if n := len(q.Windows); n > 0 {
		over.X.From, over.X.To = float64(q.Windows[0].From.Unix()), float64(q.Windows[n-1].Until.Unix())
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
func meansOf(all []Course, metric string) string {
	for i := range all {
		for _, a := range quality.Metrics(all[i].Of.Report.Task) {
			if a.Name == metric {
				return a.Means
			}
		}
	}
	return ""
}

// series gives the first metric of a course, as it was measured or as it is estimated.
func (s *Course) series(name string, hue int, estimated bool) chart.Series {
	of := chart.Series{Name: name, Hue: hue, Dashed: estimated}
	for i := range s.Windows {
		w := &s.Windows[i]
		m, told := w.Measured(s.Metrics[0])
		if estimated {
			if m, told = w.Estimated(s.Metrics[0]); told {
				m.Interval = nil
			}
		}
		x := float64(w.From.Unix()+w.Until.Unix()) / 2
		if i > 0 && !s.Windows[i-1].Until.Equal(w.From) || !told {
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
func (s *Course) words(model string) string {
	low, high, last, n := math.Inf(1), math.Inf(-1), 0.0, 0
	for i := range s.Windows {
		if m, told := s.Windows[i].Measured(s.Metrics[0]); told {
			low, high, last = min(low, m.Value), max(high, m.Value), m.Value
			n++
		}
	}
	what := fmt.Sprintf("%s:%d", model, s.Of.Version)
	if s.Of.Slice != "" {
		what += ", " + s.Of.Slice
	}
	if n == 0 {
		return fmt.Sprintf("%s: no %s in any window. ", what, s.Metrics[0])
	}
	return fmt.Sprintf("%s: %s from %.4g to %.4g in %d windows, %.4g in the last. ", what, s.Metrics[0], low, high, n, last)
}

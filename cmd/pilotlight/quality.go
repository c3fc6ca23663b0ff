package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/course"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

func qualityCommand(c *client) *cobra.Command {
	var ask struct{ version, from, until, task, output, threshold, quantile, slice, metric string }
	var windows windowed
	cmd := &cobra.Command{
		Use: "quality MODEL", Short: "Tell how right a model was",
		Long: `Tell how right a model was: what it predicted is joined with what came true
(pilotlight feedback send), as far as both are in the bucket now. Each metric has
its 95 % confidence interval; of binary answers it is also estimated from the
scores of all, with or without an outcome. On Knative it is the service feedback
that answers here: name it with --server.

With --every it is told window by window as well: how many predictions and outcomes
each has, and the metrics that say most. Where no outcomes have come yet, the
estimate stands in their place.`,
		Example: `  pilotlight quality flights --slice carrier
  pilotlight quality flights --from 2013-01-01T00:00:00Z --until 2014-01-01T00:00:00Z --every 7d --svg quality.svg
  pilotlight quality flights --version 3 --from 2013-11-01T00:00:00Z --until 2014-01-01T00:00:00Z`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			for name, value := range map[string]string{
				"version": ask.version, "from": ask.from, "until": ask.until, "task": ask.task, "output": ask.output,
				"threshold": ask.threshold, "quantile": ask.quantile, "slice": ask.slice,
			} {
				if value != "" {
					q.Set(name, value)
				}
			}
			if err := windows.query(q); err != nil {
				return err
			}
			if ask.metric != "" && !q.Has("every") {
				return errors.New("--metric is of windows; --every says of which")
			}
			var j judgement
			printed, err := c.ask(cmd.Context(), http.MethodGet, "/admin/v1/quality/"+url.PathEscape(args[0])+"?"+q.Encode(), nil, &j)
			if err != nil {
				return err
			}
			courses, err := j.Courses(ask.metric)
			if err != nil {
				return fmt.Errorf("--%w", err)
			}
			if !printed {
				if err := c.showQuality(&j, courses); err != nil {
					return err
				}
			}
			if windows.svg == "" {
				return nil
			}
			return windows.draw(c, j.SVG(courses))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&ask.version, "version", "", "`number` of a version (default: each by itself)")
	flags.StringVar(&ask.from, "from", "", "`time` of the first predictions (RFC 3339; default: midnight, UTC, a week before --until)")
	flags.StringVar(&ask.until, "until", "", "`time` before which the last ones are (default: now)")
	flags.StringVar(&ask.task, "task", "", "binary, multiclass or regression (default: told by the outcomes)")
	flags.StringVar(&ask.output, "answer", "", "`name` of the output that is the answer (default: the only one, or probability)")
	flags.StringVar(&ask.threshold, "threshold", "", "least `probability` that says yes (default 0.5)")
	flags.StringVar(&ask.quantile, "quantile", "", "`share` that a regression foretells (default 0.5)")
	flags.StringVar(&ask.slice, "slice", "", "`name` of an input or feature by whose values answers are told apart as well")
	flags.StringVar(&ask.metric, "metric", "", "`name` of the metric that windows are drawn by (default: auc, accuracy or mae)")
	windows.flags(flags)
	return cmd
}

// judgement is what the server says, in the words of feedback.Judgement.
type judgement struct {
	course.Quality
	By       string
	Outcomes feedback.Settlement
	Waiting  int
	Damaged  []string
}

// showNone says that there are no predictions, and where there are some.
func (c *client) showNone(model string, from, until time.Time, elsewhere *course.Elsewhere) {
	const minute = "2006-01-02 15:04"
	fmt.Fprintf(c.out, "%s made no predictions from %s until %s\n", model, from.Format(minute), until.Format(minute))
	if elsewhere != nil {
		fmt.Fprintf(c.out, "it made some that are as of %s until %s: see --from and --until\n", elsewhere.From.Format(minute), elsewhere.Until.Format(minute))
	}
}

func (c *client) showQuality(j *judgement, courses []course.Course) error {
	if len(j.Versions) == 0 {
		c.showNone(j.Model, j.From, j.Until, j.Elsewhere)
	}
	for i := range j.Versions {
		v := &j.Versions[i]
		title := fmt.Sprintf("%s:%d", j.Model, v.Version)
		if v.Slice != "" {
			title += "  " + shown(v.Slice, 60)
		}
		if v.Report == nil {
			fmt.Fprintf(c.out, "%s  %d answers can't be judged: %s\n\n", title, v.Unjudged, shown(v.Why, 300))
			continue
		}
		fmt.Fprintf(c.out, "%s  %d predictions, %d outcomes (%s)\n", title, v.Report.Predicted, v.Report.Outcomes, v.Report.Spec)
		rows := [][]string{{"METRIC", "VALUE", "95 %", "OF", "ESTIMATED", "BETTER"}}
		for _, about := range quality.Metrics(v.Report.Task) {
			m, told := v.Report.Metrics[about.Name]
			row := []string{about.Name, "", "", "", "", string(about.Better)}
			if told {
				row[1], row[2], row[3] = amount(about.Name, m.Value), interval(about.Name, m), fmt.Sprint(m.N)
			}
			guessed := false
			if v.Estimate != nil {
				var e quality.Metric
				if e, guessed = v.Estimate.Metrics[about.Name]; guessed {
					row[4] = strings.TrimSpace(fmt.Sprintf("%.4g  %s", e.Value, interval(about.Name, e)))
				}
			}
			if told || guessed {
				rows = append(rows, row)
			}
		}
		if err := c.table(rows); err != nil {
			return err
		}
		c.plotCalibration(v.Report.Calibration)
		if at := slices.IndexFunc(courses, func(s course.Course) bool { return s.Of == v && len(s.Windows) > 0 }); at >= 0 {
			if err := c.showCourse(&courses[at]); err != nil {
				return err
			}
		}
		if v.Unjudged > 0 {
			fmt.Fprintf(c.out, "%d answers more can't be judged: %s\n", v.Unjudged, shown(v.Why, 300))
		}
		fmt.Fprintln(c.out)
	}
	o := &j.Outcomes
	waits := "wait for their predictions"
	if j.By == feedback.ByLog {
		waits = "have no prediction of it in this time"
	}
	fmt.Fprintf(c.out, "outcomes: %d joined, %d repeated, %d corrected, %d unsuited; %d more %s\n", o.Joined, o.Repeated, o.Corrected, o.Unsuited, j.Waiting, waits)
	if o.Reason != "" {
		fmt.Fprintf(c.out, "unsuited: %s\n", o.Reason)
	}
	for _, key := range j.Damaged {
		fmt.Fprintf(c.out, "damaged, and left out: %s\n", key)
	}
	return nil
}

// amount writes the value of a metric.
func amount(metric string, v float64) string {
	if !strings.HasPrefix(metric, "label_delay") {
		return fmt.Sprintf("%.4g", v)
	}
	d := time.Duration(min(v, 1e9) * float64(time.Second))
	switch {
	case d >= 10*time.Hour:
		d = d.Round(time.Minute)
	case d >= time.Minute:
		d = d.Round(time.Second)
	default:
		d = d.Round(time.Millisecond)
	}
	return d.String()
}

func interval(metric string, m quality.Metric) string {
	if m.Interval == nil {
		return ""
	}
	return amount(metric, m.Interval.Low) + " to " + amount(metric, m.Interval.High)
}

// plotWidth is how many columns of the terminal stand for probabilities from 0 to 1.
const plotWidth = 50

// plotCalibration draws what came true of what was predicted: both are at the same place where probabilities are right.
func (c *client) plotCalibration(bins []quality.Calibration) {
	if len(bins) == 0 {
		return
	}
	fmt.Fprintln(c.out, "\ncalibration: | predicted, * came true")
	place := func(p float64) int { return int(min(max(p, 0), 1) * (plotWidth - 1)) }
	for _, b := range bins {
		line := []byte(strings.Repeat(".", plotWidth))
		line[place(b.Predicted)] = '|'
		line[place(b.Actual.Value)] = '*'
		fmt.Fprintf(c.out, "  %.2f to %.2f  %s  %.3f, %.3f of %d\n", b.From, b.To, line, b.Predicted, b.Actual.Value, b.Actual.N)
	}
}

package modelcard

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// Markdown writes the card for people.
func (c *Card) Markdown() string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	name := c.Model
	if c.Version > 0 {
		name = fmt.Sprintf("%s:%d", c.Model, c.Version)
	}
	say("# %s\n\n", name)
	say("Made by run %s of the pipeline %s, begun %s. %s, %s.\n\n", c.Run, c.Pipeline, c.At.UTC().Format(time.RFC3339), humanize.IBytes(uint64(max(c.Size, 0))), c.Digest)
	word := "Passed"
	if !c.Verdict.Passed {
		word = "Not passed"
	}
	say("**%s**: %s.\n\n", word, c.Verdict.Why)

	say("## Data\n\n")
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
	say("- %d rows to learn from, of %s to %s; labels from %s\n", c.Data.Train, day(c.Data.From), day(c.Data.Cut), c.Data.Labels)
	say("- %d rows held out, of %s to %s: %d blocks of %s", c.Data.Holdout, day(c.Data.Cut), day(c.Data.Until), c.Data.Blocks, c.Data.Block)
	if c.Data.LeftOut > 0 {
		say("; %d of them left out, which nobody could have asked: a value is missing", c.Data.LeftOut)
	}
	if c.Data.Learnt > 0 {
		say("; from %d of them version %d has learnt, and looks better by them than it is", c.Data.Learnt, c.Verdict.Against)
	}
	say("\n")
	if c.Data.Service != "" {
		say("- features by the service %s of definitions %d:", c.Data.Service, c.Data.Features)
		for _, v := range slices.Sorted(maps.Keys(c.Data.Views)) {
			say(" %s@%d", v, c.Data.Views[v])
		}
		say("\n")
	}
	var inputs []string
	for _, i := range c.Data.Inputs {
		inputs = append(inputs, i.Name)
	}
	say("- inputs: %s\n", strings.Join(inputs, ", "))
	for _, k := range slices.Sorted(maps.Keys(c.Settings.Labels)) {
		say("- %s: %s\n", k, c.Settings.Labels[k])
	}

	against := fmt.Sprintf("version %d", c.Verdict.Against)
	if c.Verdict.Against == 0 {
		against = "a constant"
	}
	say("\n## On the rows held out\n\n| metric | candidate | %s | worse by |\n|---|---:|---:|---:|\n", against)
	for i := range c.Metrics {
		m := &c.Metrics[i]
		say("| %s | %s | %s | %s |\n", m.Metric, shown(&m.Candidate), shown(m.Champion), shown(m.Worse))
	}
	if len(c.Slices) > 0 {
		say("\n## Slices, by %s\n\n| slice | rows | candidate | %s | worse by | allowed | |\n|---|---:|---:|---:|---:|---:|---|\n", c.Verdict.Deciding.Metric, against)
		for i := range c.Slices {
			s := &c.Slices[i]
			word := ""
			if s.Behind {
				word = "behind"
			}
			say("| %s=%s | %d | %s | %s | %s | %.3g | %s |\n", cell(s.Column), cell(s.Value), s.Rows, shown(&s.Metric.Candidate), shown(s.Metric.Champion), shown(s.Metric.Worse), s.Allowed, word)
		}
	}
	say("\n## Checks\n\n")
	for _, k := range c.Verdict.Checks {
		mark := "x"
		if !k.Passed {
			mark = " "
		}
		say("- [%s] %s: %s\n", mark, k.Name, k.Why)
	}
	say("\nOne row takes %.0f µs (99 %%: %.0f)", c.Latency.Candidate.P50, c.Latency.Candidate.P99)
	if t := c.Latency.Champion; t != nil {
		say("; %s %.0f (%.0f)", against, t.P50, t.P99)
	}
	say(".\n")
	if len(c.Trainer) > 0 {
		say("\n## What the trainer says\n\n")
		for _, k := range slices.Sorted(maps.Keys(c.Trainer)) {
			say("- %s: %.6g\n", k, c.Trainer[k])
		}
	}
	say("\n## Reference\n\nWhat live data is compared with (`%.12s`):\n\n| column | kind | missing | 5 %% | half | 95 %% |\n|---|---|---:|---:|---:|---:|\n", c.Reference.Digest)
	for _, col := range c.Reference.Columns {
		if col.Low == nil {
			say("| %s | %s | %.3g | %s | | |\n", cell(col.Name), col.Kind, col.Missing, cell(strings.Join(col.Most, ", ")))
			continue
		}
		say("| %s | %s | %.3g | %.5g | %.5g | %.5g |\n", cell(col.Name), col.Kind, col.Missing, *col.Low, *col.Middle, *col.High)
	}
	return b.String()
}

// shown writes a number with its interval.
func shown(m *quality.Metric) string {
	switch {
	case m == nil:
		return ""
	case m.Interval == nil:
		return fmt.Sprintf("%.4g", m.Value)
	}
	return fmt.Sprintf("%.4g (%.4g to %.4g)", m.Value, m.Interval.Low, m.Interval.High)
}

// cell keeps what data says from breaking a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ").Replace(s)
}

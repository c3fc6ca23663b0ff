package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
)

func pipelineCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "pipeline", Short: "Define pipelines, run them and see how far they are",
		Long: `Define what has to be done with data and models from time to time, run it and see
how far it is. A run goes on whatever process is killed, and RUN, where it is left
out, is the newest. On Knative it is the service pipeline that answers here: name it
with --server.`,
	}
	cmd.AddCommand(applyPipelineCommand(c), listPipelinesCommand(c), showPipelineCommand(c), runPipelineCommand(c), pipelineLogsCommand(c), cancelPipelineCommand(c))
	return cmd
}

func pipelinePath(name string, parts ...string) string {
	path := "/admin/v1/pipelines/" + url.PathEscape(name)
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}

// runArg gives the run that a command is about.
func runArg(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return "latest"
}

func applyPipelineCommand(c *client) *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Define pipelines, or define them anew",
		Long: `Define the pipelines of files, one in each document of YAML (docs/pipelines.md). Those
that the files do not have stay as they are, and runs that are under way keep to the
version that they began with.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := readFiles(files, cmd.InOrStdin(), pipeline.Parse) // the server knows the kinds of steps
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return errors.New("there are no pipelines in what was given")
			}
			for i := range all {
				if err := c.applyPipeline(cmd.Context(), &all[i], dry); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`file` of YAML, or - for the standard input; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only check them")
	_ = cmd.MarkFlagRequired("filename") // which exists
	return cmd
}

func (c *client) applyPipeline(ctx context.Context, d *pipeline.Definition, dry bool) error {
	q := url.Values{"by": {whoami()}}
	if dry {
		q.Set("dry", "true")
	}
	b, err := c.call(ctx, http.MethodPut, pipelinePath(d.Name)+"?"+q.Encode(), "application/yaml", strings.NewReader(d.Text), int64(len(d.Text)))
	if err != nil {
		return fmt.Errorf("pipeline %s: %w", d.Name, err)
	}
	var a pipeline.Applied
	if printed, err := c.show(b, &a); printed || err != nil {
		return err
	}
	says := "pipeline %s: this is version %d\n"
	switch {
	case !a.Changed:
		says = "pipeline %s: nothing differs from version %d\n"
	case a.Dry:
		says = "pipeline %s: this would become version %d\n"
	}
	_, err = fmt.Fprintf(c.out, says, d.Name, a.Version)
	return err
}

func listPipelinesCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the pipelines, and the newest run of each", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var all struct{ Pipelines []pipeline.Summary }
		if printed, err := c.ask(cmd.Context(), http.MethodGet, "/admin/v1/pipelines", nil, &all); printed || err != nil {
			return err
		}
		rows := [][]string{{"PIPELINE", "VERSION", "RUN", "STATE", "TOOK", "WHAT"}}
		for _, p := range all.Pipelines {
			row := []string{p.Name, strconv.Itoa(p.Version), "", "", "", shown(p.About, 80)}
			if p.Run != nil {
				row[2], row[3], row[4] = p.Run.ID, string(p.Run.State), p.Run.Took
				if p.Run.Reason != "" {
					row[5] = shown(p.Run.Reason, 120)
				}
			}
			if p.Trouble != "" {
				row[3], row[5] = "broken", shown(p.Trouble, 120)
			}
			rows = append(rows, row)
		}
		return c.table(rows)
	}}
}

func showPipelineCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME [RUN]", Short: "Show a pipeline, or one of its runs", Args: cobra.RangeArgs(1, 2),
		Example: `  pilotlight pipeline show flights
  pilotlight pipeline show flights latest`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				var r pipeline.Shown
				if printed, err := c.ask(cmd.Context(), http.MethodGet, pipelinePath(args[0], "runs", args[1]), nil, &r); printed || err != nil {
					return err
				}
				return c.showRun(&r)
			}
			var d pipeline.Detail
			if printed, err := c.ask(cmd.Context(), http.MethodGet, pipelinePath(args[0]), nil, &d); printed || err != nil {
				return err
			}
			return c.showPipeline(&d)
		},
	}
}

func (c *client) showPipeline(d *pipeline.Detail) error {
	fmt.Fprintf(c.out, "# version %d, applied %s", d.Version, d.At.Local().Format(time.DateTime))
	if d.By != "" {
		fmt.Fprintf(c.out, " by %s", shown(d.By, 100))
	}
	fmt.Fprintf(c.out, "\n%s\n", strings.TrimSpace(d.Text))
	if len(d.Runs) > 0 {
		fmt.Fprintln(c.out)
		rows := [][]string{{"RUN", "STATE", "TOOK", "STARTED BY", "WHY"}}
		for _, r := range d.Runs {
			rows = append(rows, []string{r.ID, string(r.State), r.Took, startedBy(&r.Beginning), shown(r.Reason, 120)})
		}
		if err := c.table(rows); err != nil {
			return err
		}
	}
	if d.Pending != nil {
		fmt.Fprintf(c.out, "the next run is started by %s %s\n", shown(d.Pending.Type, 100), shown(d.Pending.ID, 100))
	}
	if d.Joined+d.Paused > 0 {
		fmt.Fprintf(c.out, "%d events came while one was waiting, and %d within the pause\n", d.Joined, d.Paused)
	}
	return nil
}

// startedBy says who or what started a run.
func startedBy(b *pipeline.Beginning) string {
	if b.Cause != nil {
		return shown(b.Cause.Type+" "+b.Cause.ID, 100)
	}
	return shown(b.By, 100)
}

func (c *client) showRun(r *pipeline.Shown) error {
	fmt.Fprintf(c.out, "run %s of %s, version %d: %s", r.ID, r.Pipeline, r.Version, r.State)
	if !r.Ended.IsZero() {
		fmt.Fprintf(c.out, " after %s", r.Ended.Sub(r.At).Round(time.Millisecond))
	}
	fmt.Fprintln(c.out)
	if r.Reason != "" {
		fmt.Fprintln(c.out, shown(r.Reason, 2000))
	}
	rows := [][]string{{"STEP", "USE", "STATE", "TRIES", "TOOK", "WHY"}}
	for i := range r.Steps {
		s := &r.Steps[i]
		row := []string{s.Name, shown(s.Use, 40), string(s.State), strconv.Itoa(s.Attempt), "", shown(s.Why, 120)}
		if !s.Ended.IsZero() {
			row[4] = s.Ended.Sub(s.Began).Round(time.Millisecond).String()
		}
		if s.State == pipeline.Running && r.Progress != nil {
			row[5] = progress(r.Progress)
		}
		rows = append(rows, row)
	}
	if err := c.table(rows); err != nil {
		return err
	}
	for _, e := range r.Audit {
		fmt.Fprintf(c.out, "%s  %s  %s\n", e.At.Local().Format(time.DateTime), shown(e.Who, 100), shown(e.What, 400))
	}
	return nil
}

func progress(p *pipeline.Progress) string {
	text := fmt.Sprint(p.Done)
	if p.Total > 0 {
		text = fmt.Sprintf("%d of %d", p.Done, p.Total)
	}
	return strings.TrimSpace(text + " " + shown(p.Unit, 30))
}

func runPipelineCommand(c *client) *cobra.Command {
	var detach bool
	var why string
	cmd := &cobra.Command{
		Use: "run NAME", Short: "Start a run, and follow it to its end",
		Long: `Start a run, and follow it to its end. It goes on without this command: what ends
the following ends nothing else. The exit status is 1 where the run failed or was canceled.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asked := map[string]string{"by": whoami(), "why": why}
			body, err := json.Marshal(asked)
			if err != nil {
				return err
			}
			b, err := c.call(cmd.Context(), http.MethodPost, pipelinePath(args[0], "runs"), "application/json", bytes.NewReader(body), int64(len(body)))
			if err != nil {
				return err
			}
			var r pipeline.Shown
			if err := json.Unmarshal(b, &r); err != nil {
				return err
			}
			if detach {
				if printed, err := c.show(b, &r); printed || err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.out, "run %s of %s has begun\n", r.ID, r.Pipeline)
				return err
			}
			return c.followRun(cmd.Context(), &r)
		},
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for its end")
	cmd.Flags().StringVar(&why, "why", "", "the `reason`, for who looks at it later")
	return cmd
}

// pollEvery is how often a run is looked at.
const pollEvery = 500 * time.Millisecond

// followRun tells what changes of a run until its end.
func (c *client) followRun(ctx context.Context, r *pipeline.Shown) error {
	path := pipelinePath(r.Pipeline, "runs", r.ID)
	if c.format != "json" {
		fmt.Fprintf(c.out, "run %s of %s has begun\n", r.ID, r.Pipeline)
	}
	said := map[string]string{}
	for {
		b, err := c.call(ctx, http.MethodGet, path, "", nil, 0)
		if err != nil {
			return err
		}
		var r pipeline.Shown
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		if c.format != "json" {
			c.tellSteps(&r, said)
		}
		if r.Ended.IsZero() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pollEvery):
			}
			continue
		}
		if printed, err := c.show(b, &r); err != nil {
			return err
		} else if !printed {
			fmt.Fprintf(c.out, "%s after %s\n", r.State, r.Ended.Sub(r.At).Round(time.Millisecond))
		}
		switch {
		case r.State == pipeline.Failed, r.State == pipeline.Canceled:
			return fmt.Errorf("the run of %s is %s: %s", r.Pipeline, r.State, shown(r.Reason, 2000))
		case r.Reason != "" && c.format != "json":
			fmt.Fprintln(c.out, shown(r.Reason, 2000))
		}
		return nil
	}
}

// tellSteps writes a line for each step that does something else than said.
func (c *client) tellSteps(r *pipeline.Shown, said map[string]string) {
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.State == pipeline.Queued && s.Attempt == 0 {
			continue
		}
		text := string(s.State)
		switch {
		case s.State == pipeline.Succeeded:
			text += " after " + s.Ended.Sub(s.Began).Round(time.Millisecond).String()
		case s.State == pipeline.Running && s.Attempt > 1:
			text += fmt.Sprintf(", try %d", s.Attempt)
		case s.Why != "":
			text += ": " + shown(s.Why, 300)
		}
		if s.State == pipeline.Running && r.Progress != nil {
			text += ": " + progress(r.Progress)
		}
		if said[s.Name] != text {
			said[s.Name] = text
			fmt.Fprintf(c.out, "  %s: %s\n", s.Name, text)
		}
	}
}

func pipelineLogsCommand(c *client) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs NAME [RUN]", Short: "Show what the steps of a run tell", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.pipelineLogs(cmd.Context(), args[0], runArg(args), follow)
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on until the run ends")
	return cmd
}

func (c *client) pipelineLogs(ctx context.Context, name, id string, follow bool) error {
	told := map[string]int{} // the last line of each step
	for {
		var r pipeline.Shown // before the lines, so that none is missed
		b, err := c.call(ctx, http.MethodGet, pipelinePath(name, "runs", id), "", nil, 0)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		id = r.ID
		var all struct{ Logs []pipeline.Log }
		if b, err = c.call(ctx, http.MethodGet, pipelinePath(name, "runs", id, "logs"), "", nil, 0); err != nil {
			return err
		}
		if err := json.Unmarshal(b, &all); err != nil {
			return err
		}
		if c.format == "json" && !follow {
			_, err := c.show(b, &all)
			return err
		}
		for _, l := range all.Logs {
			if err := c.tellLines(&l, told); err != nil {
				return err
			}
		}
		if !follow || !r.Ended.IsZero() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// tellLines writes the lines of a log that were not told yet: with -o json, each as an object.
func (c *client) tellLines(l *pipeline.Log, told map[string]int) error {
	for _, line := range l.Lines {
		if line.Number <= told[l.Step] {
			continue
		}
		if left := line.Number - told[l.Step] - 1; left > 0 && c.format != "json" {
			fmt.Fprintf(c.out, "%s  ... %d lines are not kept any more\n", l.Step, left)
		}
		told[l.Step] = line.Number
		if c.format == "json" {
			if err := json.NewEncoder(c.out).Encode(struct {
				Step string `json:"step"`
				pipeline.Line
			}{l.Step, line}); err != nil {
				return err
			}
			continue
		}
		level := ""
		if line.Level != "INFO" {
			level = shown(line.Level, 10) + " "
		}
		if _, err := fmt.Fprintf(c.out, "%s  %s  %s%s\n", line.At.Local().Format(time.TimeOnly), l.Step, level, shown(line.Text, 4096)); err != nil {
			return err
		}
	}
	return nil
}

func cancelPipelineCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "cancel NAME [RUN]", Short: "End a run", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r pipeline.Shown
			if printed, err := c.ask(cmd.Context(), http.MethodDelete, pipelinePath(args[0], "runs", runArg(args))+"?by="+url.QueryEscape(whoami()), nil, &r); printed || err != nil {
				return err
			}
			says := "run %s of %s is canceled\n"
			if r.Ended.IsZero() {
				says = "run %s of %s ends within seconds\n"
			}
			_, err := fmt.Fprintf(c.out, says, r.ID, r.Pipeline)
			return err
		},
	}
}

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/rollout"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

func rolloutCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rollout", Short: "Bring a new version to its callers without hands",
		Long: `Bring a new version to the callers of an alias: it answers a growing share of them,
always the same ones, and is promoted, or taken back as soon as it fails more often,
answers slower or less rightly than the version there is. What it is compared by is
what feedback counts; the test stays valid however often it looks. A tick every five
minutes makes the moves. On Knative it is the service feedback that answers here:
name it with --server. A model with a Knative service of its own gets its shares by
that service's traffic, in percent and by chance, not by whose a request is.`,
	}
	var alias string
	cmd.PersistentFlags().StringVar(&alias, "alias", "champion", "the `alias`")
	path := func(name string) string {
		return "/admin/v1/rollouts/" + url.PathEscape(name) + "/" + url.PathEscape(alias)
	}
	one := func(method, query string) func(cmd *cobra.Command, args []string) error {
		return func(cmd *cobra.Command, args []string) error {
			var r rollout.Rollout
			if printed, err := c.ask(cmd.Context(), method, path(args[0])+query, nil, &r); printed || err != nil {
				return err
			}
			return c.showRollout(&r)
		}
	}
	cmd.AddCommand(
		startCommand(c, path),
		&cobra.Command{Use: "list", Short: "List the newest rollout of each alias", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			var all struct{ Rollouts []rollout.Rollout }
			if printed, err := c.ask(cmd.Context(), http.MethodGet, "/admin/v1/rollouts", nil, &all); printed || err != nil {
				return err
			}
			rows := [][]string{{"MODEL", "ALIAS", "VERSION", "STATE", "SINCE", "WHY"}}
			for i := range all.Rollouts {
				r := &all.Rollouts[i]
				state, since, why := told(r)
				rows = append(rows, []string{r.Model, r.Alias, strconv.Itoa(r.Version), state, since.Format(time.DateTime), why})
			}
			return c.table(rows)
		}},
		&cobra.Command{Use: "show MODEL", Short: "Show a rollout, and what is found of it", Args: cobra.ExactArgs(1), RunE: one(http.MethodGet, "")},
		&cobra.Command{Use: "cancel MODEL", Short: "Take the new version back", Args: cobra.ExactArgs(1), RunE: one(http.MethodDelete, "?by="+url.QueryEscape(whoami()))},
	)
	return cmd
}

func startCommand(c *client, path func(name string) string) *cobra.Command {
	var shares []string
	var guards map[string]string
	var hold, patience, shadow string
	var least int64
	cmd := &cobra.Command{
		Use: "start MODEL VERSION", Short: "Begin to bring out a version",
		Example: `  pilotlight rollout start flights 3
  pilotlight rollout start flights 3 --shares 5%,25%,50% --hold 2h --guard error_rate=0.005 --guard log_loss=0.02`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := rollout.Plan{Least: least, By: whoami()}
			var err error
			if p.Version, err = parseVersion(args[1]); err != nil {
				return err
			}
			for _, s := range shares {
				share, err := parseShare(s)
				if err != nil {
					return err
				}
				p.Shares = append(p.Shares, share)
			}
			for metric, worse := range guards {
				g := rollout.Guard{Metric: metric}
				if g.Worse, err = strconv.ParseFloat(worse, 64); err != nil {
					return fmt.Errorf("the guard %s is %q, expected a number such as 0.01", metric, worse)
				}
				p.Guards = append(p.Guards, g)
			}
			for _, d := range []struct {
				text string
				to   *yamlwire.Duration
			}{{hold, &p.Hold}, {patience, &p.Patience}, {shadow, &p.Shadow}} {
				if d.text == "" {
					continue
				}
				if *d.to, err = yamlwire.ParseDuration(d.text); err != nil {
					return err
				}
			}
			var r rollout.Rollout
			if printed, err := c.ask(cmd.Context(), http.MethodPut, path(args[0]), p, &r); printed || err != nil {
				return err
			}
			return c.showRollout(&r)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&shares, "shares", nil, "`shares` of the callers, one after the other (default 1%,5%,25%,50%; then all)")
	flags.StringVar(&shadow, "shadow", "", "how `long` it is asked the same at first, behind the answers (default: not at all)")
	flags.StringVar(&hold, "hold", "", "how `long` it has each share at least (default 30m)")
	flags.StringVar(&patience, "patience", "", "how `long` it may have a share without a decision, before it is taken back (default 3d)")
	flags.Int64Var(&least, "least", 0, "how many answers it gives with each share at least (default 100)")
	flags.StringToStringVar(&guards, "guard", nil, "`metric=worse`: what may not fall behind, and by how much it may (default error_rate=0.01, slow_rate=0.05 and the task's mean, such as log_loss=0.05)")
	return cmd
}

// told says how a rollout stands.
func told(r *rollout.Rollout) (state string, since time.Time, why string) {
	switch {
	case r.End != "":
		return string(r.End), r.Ended, r.Why
	case r.Latest != nil:
		return stage(r.Latest), r.Latest.At, r.Latest.Why
	case r.Shadow > 0:
		return "shadow", r.Created, "it has begun"
	}
	return fmt.Sprintf("%.4g %%", 100*r.Shares[0]), r.Created, "it has begun"
}

// stage says which part of the traffic it had.
func stage(l *rollout.Look) string {
	if l.Shadow != nil {
		return "shadow"
	}
	return fmt.Sprintf("%.4g %%", 100*l.Share)
}

func (c *client) showRollout(r *rollout.Rollout) error {
	state, since, why := told(r)
	fmt.Fprintf(c.out, "%s:%d for alias %s: %s since %s\n%s\n", r.Model, r.Version, r.Alias, state, since.Format(time.DateTime), why)
	for i := range r.Steps {
		s := &r.Steps[i]
		fmt.Fprintf(c.out, "  %s  %s, %d answers: %s: %s\n", s.At.Format(time.DateTime), stage(s), s.Answers, s.Verdict, s.Why)
		c.showShadowed(s.Shadow)
	}
	if r.Latest != nil && len(r.Steps) == 0 {
		c.showShadowed(r.Latest.Shadow)
	}
	if r.Latest == nil || len(r.Latest.Findings) == 0 {
		return nil
	}
	rows := [][]string{{"GUARD", "CANDIDATE", "OF", "VERSION", "OF", "WORSE BY", "AT LEAST", "AT MOST", "ALLOWED", ""}}
	for _, f := range r.Latest.Findings {
		row := []string{f.Metric, fmt.Sprintf("%.4g", f.Candidate), fmt.Sprint(f.Answers[1]), fmt.Sprintf("%.4g", f.Version), fmt.Sprint(f.Answers[0]), fmt.Sprintf("%.3g", f.Difference), "", "", fmt.Sprintf("%.3g", f.Allowed), string(f.State)}
		if f.Known {
			row[6], row[7] = fmt.Sprintf("%.3g", f.Low), fmt.Sprintf("%.3g", f.High)
		}
		rows = append(rows, row)
	}
	return c.table(rows)
}

// showShadowed tells how the answers of a shadow differ.
func (c *client) showShadowed(s *rollout.Shadowed) {
	if s == nil || s.Answers == 0 {
		return
	}
	fmt.Fprintf(c.out, "    as the shadow: of %d answers to the same requests %.3g %% differ, by %.3g in the mean; it takes %s, and the version there is %s\n",
		s.Answers, 100*s.Differ, s.Difference, took(s.Latency[1]), took(s.Latency[0]))
}

func took(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond)
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/deadletter"
)

const lettersPath = "/admin/v1/deadletters"

func letterPath(id string) string { return lettersPath + "/" + url.PathEscape(id) }

func eventsCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "events", Short: "Look at events that could not be delivered, and put them back",
		Long: `Look at events that could not be delivered, and put them back.

What a broker can't deliver, however often it tries, is kept as a dead letter
with the reason. On Knative it is the service deadletter that answers here:
name it with --server.`,
	}
	cmd.AddCommand(lettersCommand(c), letterCommand(c), replayCommand(c), dropCommand(c))
	return cmd
}

func lettersCommand(c *client) *cobra.Command {
	var kind string
	var since time.Duration
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, newest first",
		Example: `  pilotlight events list
  pilotlight events list --type dev.pilotlight.alias.moved.v1 --since 24h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			if kind != "" {
				q.Set("type", kind)
			}
			if since > 0 {
				q.Set("since", time.Now().Add(-since).UTC().Format(time.RFC3339))
			}
			var list deadletter.List
			if printed, err := c.ask(cmd.Context(), http.MethodGet, lettersPath+"?"+q.Encode(), nil, &list); printed || err != nil {
				return err
			}
			for len(list.Letters) < limit && list.Cursor != "" { // of a type an answer may have few
				q.Set("cursor", list.Cursor)
				var next deadletter.List
				if _, err := c.ask(cmd.Context(), http.MethodGet, lettersPath+"?"+q.Encode(), nil, &next); err != nil {
					return err
				}
				list.Letters, list.Cursor = append(list.Letters, next.Letters...), next.Cursor
			}
			if list.Letters = list.Letters[:min(len(list.Letters), limit)]; len(list.Letters) == 0 {
				_, err := fmt.Fprintln(c.out, "no dead letters")
				return err
			}
			rows := [][]string{{"AT", "TYPE", "EVENT", "DESTINATION", "CODE", "REASON", "ID"}}
			for _, l := range list.Letters {
				rows = append(rows, []string{l.At.Format(time.DateTime), shown(l.Type, 40), shown(l.EventID, 40), shown(l.Destination, 40), strconv.Itoa(l.Code), shown(l.Reason, 60), l.ID})
			}
			if err := c.table(rows); err != nil || list.Cursor == "" {
				return err
			}
			_, err := fmt.Fprintf(c.out, "there are more: --limit shows up to 1000\n")
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kind, "type", "", "only events of this `type`")
	flags.DurationVar(&since, "since", 0, "only those of the last `duration`, such as 24h")
	flags.IntVar(&limit, "limit", 50, "how `many`")
	return cmd
}

// shown makes a stranger's text fit for a column of a terminal.
func shown(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }), " ")
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most-1]) + "…"
	}
	return s
}

func letterCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a dead letter and its event", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var l deadletter.Letter
			if printed, err := c.ask(cmd.Context(), http.MethodGet, letterPath(args[0]), nil, &l); printed || err != nil {
				return err
			}
			code := strconv.Itoa(l.Code)
			if l.Code <= 0 {
				code = "no answer"
			}
			b, err := json.Marshal(l.Event)
			if err != nil {
				return err
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, b, "", "  "); err != nil {
				return err
			}
			if err := c.table([][]string{
				{"at", l.At.Format(time.RFC3339Nano)}, {"destination", shown(l.Destination, 500)}, {"code", code}, {"reason", shown(l.Reason, 2000)},
			}); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.out, indented.String())
			return err
		},
	}
}

func replayCommand(c *client) *cobra.Command {
	var all bool
	var kind string
	cmd := &cobra.Command{
		Use: "replay [ID...]", Short: "Put dead letters back to the broker",
		Long: `Put dead letters back to the broker, which delivers each event to all that want
it, and drop the letters it has accepted. An event that fails again becomes a
dead letter again.`,
		Example: `  pilotlight events replay 20261124T093000.000Z-0f…
  pilotlight events replay --type dev.pilotlight.alias.moved.v1
  pilotlight events replay --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch some := all || kind != ""; {
			case some && len(args) > 0:
				return errors.New("name either letters or --all and --type")
			case some:
				return replayMany(cmd, c, kind)
			case len(args) == 0:
				return errors.New("name the letters to replay, or say --all")
			}
			return each(cmd, c, "replayed", args, http.MethodPost, "/replay")
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all letters")
	cmd.Flags().StringVar(&kind, "type", "", "all letters with events of this `type`")
	return cmd
}

func replayMany(cmd *cobra.Command, c *client, kind string) error {
	ask := map[string]any{"all": true}
	if kind != "" {
		ask = map[string]any{"type": kind}
	}
	var done deadletter.Replayed
	printed, err := c.ask(cmd.Context(), http.MethodPost, lettersPath+"/replay", ask, &done)
	if err != nil {
		return err
	}
	if !printed {
		if _, err := fmt.Fprintf(c.out, "replayed %d\n", done.Replayed); err != nil {
			return err
		}
	}
	var errs []error
	for _, f := range done.Failed {
		errs = append(errs, fmt.Errorf("%s: %s", f.ID, f.Error))
	}
	return errors.Join(errs...)
}

func dropCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID...", Short: "Drop dead letters for good", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(cmd, c, "deleted", args, http.MethodDelete, "")
		},
	}
}

// each does the same to some letters, and tells at the end which of them it failed for.
func each(cmd *cobra.Command, c *client, done string, ids []string, method, action string) error {
	bar := progressbar.NewOptions(len(ids), progressbar.OptionSetDescription(done), progressbar.OptionSetWriter(cmd.ErrOrStderr()),
		progressbar.OptionSetVisibility(len(ids) > 1 && c.format != "json" && isTerminal(os.Stderr)), progressbar.OptionClearOnFinish())
	var errs []error
	for _, id := range ids {
		if _, err := c.call(cmd.Context(), method, letterPath(id)+action, "", nil, 0); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
		_ = bar.Add(1) // what it shows is not worth an error
	}
	_ = bar.Finish()
	n := len(ids) - len(errs)
	if c.format == "json" {
		if err := json.NewEncoder(c.out).Encode(map[string]int{done: n}); err != nil {
			return err
		}
		return errors.Join(errs...)
	}
	_, err := fmt.Fprintf(c.out, "%s %d\n", done, n)
	return errors.Join(slices.Concat(errs, []error{err})...)
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

const (
	alertsPath = "/admin/v1/alerts"
	rulesPath  = alertsPath + "/rules"
)

func alertsCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "alerts", Short: "List alerts, and say when there is to be one",
		Long: `List the alerts that are active and those that were lately resolved.

Rules say when an alert is raised: apply writes them, rules shows them. On Knative
it is the service feedback that answers here: name it with --server.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s alert.Status
			if printed, err := c.ask(cmd.Context(), http.MethodGet, alertsPath, nil, &s); printed || err != nil {
				return err
			}
			return c.showAlerts(&s)
		},
	}
	cmd.AddCommand(applyRulesCommand(c), rulesCommand(c))
	return cmd
}

func (c *client) showAlerts(s *alert.Status) error {
	rows := [][]string{{"STATE", "SEVERITY", "SINCE", "RULE", "WHAT"}}
	add := func(state string, alerts []alert.Alert) {
		for _, a := range alerts {
			rows = append(rows, []string{state, shown(string(a.Severity), 10), a.Since.Local().Format(time.DateTime), shown(a.Rule, 40), shown(a.Summary, 200)})
		}
	}
	add("active", s.Active)
	add("pending", s.Pending)
	add("resolved", s.Resolved)
	var err error
	switch {
	case s.At.IsZero():
		_, err = fmt.Fprintln(c.out, "no rules were evaluated yet")
	case len(rows) == 1:
		_, err = fmt.Fprintf(c.out, "no alerts by version %d of the rules, as of %s\n", s.Rules, s.At.Local().Format(time.DateTime))
	default:
		err = c.table(rows)
	}
	for i := range s.Active {
		var named []string
		for _, e := range s.Active[i].Examples {
			named = append(named, e.String())
		}
		if named != nil {
			fmt.Fprintf(c.out, "%s is shown by the predictions %s\n", shown(s.Active[i].Rule, 40), shown(strings.Join(named, ", "), 300))
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(s.Troubles)) {
		fmt.Fprintf(c.out, "rule %s finds nothing out: %s\n", shown(rule, 100), shown(s.Troubles[rule], 300))
	}
	if s.Unsent > 0 {
		fmt.Fprintf(c.out, "%d changes wait to be sent\n", s.Unsent)
	}
	if s.Lost > 0 {
		fmt.Fprintf(c.out, "%d changes were never sent\n", s.Lost)
	}
	return err
}

func applyRulesCommand(c *client) *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Put rules in place of those that there are",
		Long: `Put the rules of files in place of all that there are, as one new version, and
show what differs. A rule that the files do not have is removed, and its alerts
are resolved.`,
		Example: `  pilotlight alerts apply -f rules.yaml --dry-run
  pilotlight alerts apply -f rules.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules, err := readFiles(files, cmd.InOrStdin(), func(name string, b []byte) ([]alert.Rule, error) {
				return alert.Parse(name, b, nil) // the server knows the metrics
			})
			if err != nil {
				return err
			}
			body, err := (&alert.Rules{Rules: rules}).YAML()
			if err != nil {
				return err
			}
			q := url.Values{"by": {whoami()}}
			if dry {
				q.Set("dry-run", "true")
			}
			b, err := c.call(cmd.Context(), http.MethodPut, rulesPath+"?"+q.Encode(), "application/yaml", bytes.NewReader(body), int64(len(body)))
			if err != nil {
				return err
			}
			var applied alert.Applied
			if printed, err := c.show(b, &applied); printed || err != nil {
				return err
			}
			return c.showApplied(&applied)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`file` of YAML, or - for the standard input; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would differ")
	_ = cmd.MarkFlagRequired("filename") // which exists
	return cmd
}

// readFiles reads files, or - for in, so that mistakes are told with their names.
func readFiles[T any](files []string, in io.Reader, parse func(name string, b []byte) ([]T, error)) ([]T, error) {
	all := []T{}
	for _, name := range files {
		var b []byte
		var err error
		if name == "-" {
			name = "standard input"
			b, err = io.ReadAll(in)
		} else {
			b, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, err
		}
		read, err := parse(name, b)
		if err != nil {
			return nil, errors.New(fault.Message(err))
		}
		all = append(all, read...)
	}
	return all, nil
}

func (c *client) showApplied(applied *alert.Applied) error {
	for _, change := range applied.Changes {
		fmt.Fprintln(c.out, change)
	}
	says := "this is version %d\n"
	switch {
	case len(applied.Changes) == 0:
		says = "nothing differs from version %d\n"
	case applied.Dry:
		says = "this would become version %d\n"
	}
	_, err := fmt.Fprintf(c.out, says, applied.Version)
	return err
}

func rulesCommand(c *client) *cobra.Command {
	version := 0
	cmd := &cobra.Command{
		Use: "rules", Short: "Show rules as apply takes them",
		Example: `  pilotlight alerts rules > rules.yaml
  pilotlight alerts rules --version 3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := rulesPath
			if version != 0 {
				path += "?version=" + strconv.Itoa(version)
			}
			b, err := c.call(cmd.Context(), http.MethodGet, path, "", nil, 0)
			if err != nil {
				return err
			}
			rules := &alert.Rules{}
			if err := json.Unmarshal(b, rules); err != nil {
				return err
			}
			if c.format == "json" {
				return c.writeJSON(rules)
			}
			y, err := rules.YAML()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.out, "%s\n", bytes.TrimSpace(y))
			return err
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "`number` of a version (0: the newest)")
	return cmd
}

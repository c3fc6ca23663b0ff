package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/course"
	"github.com/pilotlight-ml/pilotlight/internal/drift"
)

func driftCommand(c *client) *cobra.Command {
	var version, from, until string
	var windows windowed
	cmd := &cobra.Command{
		Use: "drift MODEL", Short: "Tell how far a model's data has moved from its training",
		Long: `Tell how far what a model was asked, given and answered has moved from what it was
trained on: which features, by what test, how far and where to. Each version is
compared with its own reference, which "drift reference" makes of a Parquet file.
On Knative it is the service feedback that answers here: name it with --server.

With --every it is told window by window: which columns had moved, when and how
strongly, those that moved most first.`,
		Example: `  pilotlight drift reference flights 1 training.parquet
  pilotlight drift flights --from 2013-01-01T00:00:00Z --until 2014-01-01T00:00:00Z --every 30d --svg drift.svg
  pilotlight drift flights --from 2013-07-01T00:00:00Z --until 2013-08-01T00:00:00Z`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			for name, value := range map[string]string{"version": version, "from": from, "until": until} {
				if value != "" {
					q.Set(name, value)
				}
			}
			if err := windows.query(q); err != nil {
				return err
			}
			var d drifting
			printed, err := c.ask(cmd.Context(), http.MethodGet, "/admin/v1/drift/"+url.PathEscape(args[0])+"?"+q.Encode(), nil, &d)
			if err != nil {
				return err
			}
			if !printed {
				if err := c.showDrift(&d); err != nil {
					return err
				}
			}
			if windows.svg == "" {
				return nil
			}
			return windows.draw(c, d.SVG())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&version, "version", "", "`number` of a version (default: each by itself)")
	flags.StringVar(&from, "from", "", "`time` of the first predictions (RFC 3339; default: midnight, UTC, a week before --until)")
	flags.StringVar(&until, "until", "", "`time` before which the last ones are (default: now)")
	windows.flags(flags)
	cmd.AddCommand(referenceCommand(c))
	return cmd
}

// drifting is what the server says, in the words of feedback.Drift.
type drifting struct {
	course.Drift
	Damaged []string
}

func (c *client) showDrift(d *drifting) error {
	if len(d.Versions) == 0 {
		c.showNone(d.Model, d.From, d.Until, d.Elsewhere)
	}
	for _, v := range d.Versions {
		if v.Report == nil {
			fmt.Fprintf(c.out, "%s:%d  %s\n", d.Model, v.Version, v.Missing)
			continue
		}
		fmt.Fprintf(c.out, "%s:%d  %s, of %d rows\n", d.Model, v.Version, v.Report.Verdict, v.Report.Rows)
		if m := d.Of(v.Version); len(m.Windows) > 0 {
			if err := c.showMoved(m); err != nil {
				return err
			}
			continue
		}
		for _, column := range v.Report.Columns {
			fmt.Fprintf(c.out, "  %s\n", shown(column.String(), 1000))
		}
	}
	for _, key := range d.Damaged {
		fmt.Fprintf(c.out, "damaged, and left out: %s\n", key)
	}
	return nil
}

func referenceCommand(c *client) *cobra.Command {
	var columns []string
	cmd := &cobra.Command{
		Use: "reference MODEL VERSION FILE.parquet", Short: "Make the training reference of a version",
		Long: `Make the training reference of a version of the Parquet file that it was trained
on. Columns are compared with the features, inputs or outputs of their names. Only
counts leave this machine.`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[2])
			if err != nil {
				return err
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			p, err := drift.FromParquet(f, info.Size(), columns)
			if err != nil {
				return fmt.Errorf("%s: %w", args[2], err)
			}
			b, err := json.Marshal(p)
			if err != nil {
				return err
			}
			path := "/admin/v1/drift/" + url.PathEscape(args[0]) + "/" + url.PathEscape(args[1]) + "/reference"
			answer, err := c.call(cmd.Context(), http.MethodPut, path, "application/json", bytes.NewReader(b), int64(len(b)))
			if err != nil {
				return err
			}
			var made struct {
				Digest  string
				Rows    uint64
				Columns int
			}
			if printed, err := c.show(answer, &made); printed || err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s:%s is compared with %d columns of %d rows\n", args[0], args[1], made.Columns, made.Rows)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&columns, "columns", nil, "`names` of columns to compare (default: all that are numbers, booleans and texts)")
	return cmd
}

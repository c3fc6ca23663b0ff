package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// rowFormats says by a file's extension how rows are written.
var rowFormats = map[string]string{
	".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json",
}

func trainingSetCommand(c *client) *cobra.Command {
	var service, rows, out string
	var features []string
	cmd := &cobra.Command{
		Use: "training-set --service NAME --entities FILE --to FILE", Short: "Join rows with the features that each would have got at its moment",
		Long: `Join rows with the features that each would have got at its moment. The file of
rows has the join keys and inputs that the features need, a column
event_timestamp with the moment, and whatever else is to be passed on, such as the
label. It is Parquet, CSV with a line of names, or JSON with an object a line. What
comes back is Parquet: the columns of the rows, then the features, in the rows' order.`,
		Example: `  pilotlight features training-set --service delays --entities flights.parquet --to train.parquet
  pilotlight features training-set --feature by_carrier:mean --entities flights.csv --to train.parquet`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format := rowFormats[filepath.Ext(rows)]
			if format == "" {
				return fmt.Errorf("%s is neither .parquet, .csv nor .jsonl", rows)
			}
			file, err := os.Open(rows)
			if err != nil {
				return err
			}
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				return err
			}
			q := url.Values{"format": {format}, "feature": features}
			if service != "" {
				q.Set("service", service)
			}
			return c.download(cmd, featuresPath+"/training-set?"+q.Encode(), file, info.Size(), out)
		},
	}
	cmd.Flags().StringVar(&service, "service", "", "`name` of the service whose features are joined")
	cmd.Flags().StringArrayVar(&features, "feature", nil, "`view:feature` instead of a service; may be repeated")
	cmd.Flags().StringVar(&rows, "entities", "", "`file` of rows")
	cmd.Flags().StringVar(&out, "to", "", "`file` that is written")
	_ = cmd.MarkFlagRequired("entities") // which exist
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// download posts a file and writes the answer to another, which appears whole or not at all.
func (c *client) download(cmd *cobra.Command, path string, body io.Reader, size int64, out string) (err error) {
	part, err := os.CreateTemp(filepath.Dir(out), ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part.Name())
		}
	}()
	resp, err := c.send(cmd.Context(), http.MethodPost, path, "application/octet-stream", body, size)
	if err != nil {
		return errors.Join(err, part.Close())
	}
	n, err := io.Copy(part, resp.Body)
	if err := errors.Join(err, resp.Body.Close(), part.Close()); err != nil {
		return fmt.Errorf("read answer of %s: %w", c.server, err)
	}
	if err := os.Chmod(part.Name(), 0o644); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), out); err != nil {
		return err
	}
	if c.format == "json" {
		return c.writeJSON(map[string]any{"file": out, "bytes": n})
	}
	_, err = fmt.Fprintf(c.out, "%s  %s\n", out, humanize.IBytes(uint64(n)))
	return err
}

// materialized is what a server tells of its runs.
type materialized struct {
	Runs []struct {
		View  string    `json:"view"`
		Files int       `json:"files"`
		Of    int       `json:"of"`
		Rows  int64     `json:"rows"`
		Ended time.Time `json:"ended"`
		Error string    `json:"error"`
	} `json:"runs"`
}

func materializeCommand(c *client) *cobra.Command {
	var views []string
	var from, to string
	var incremental bool
	cmd := &cobra.Command{
		Use: "materialize", Short: "Bring the history of views online",
		Long: `Bring the history of views online: of all views, or of those that are named. What
was done is remembered, so that a run that was broken off goes on where it was, and an
incremental one reads new files alone. Times bound the rows of views without windows.`,
		Example: `  pilotlight features materialize
  pilotlight features materialize --view weather --from 2013-01-01 --to 2014-01-01
  pilotlight features materialize --incremental`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "/materialize"
			ask := map[string]any{"feature_views": views}
			if incremental {
				path += "-incremental"
			}
			if from != "" {
				ask["start_ts"] = from
			}
			if to != "" {
				ask["end_ts"] = to
			}
			return c.materialize(cmd, path, ask, views)
		},
	}
	cmd.Flags().StringArrayVar(&views, "view", nil, "`name` of a view; may be repeated (default all)")
	cmd.Flags().StringVar(&from, "from", "", "`time` of the first rows, such as 2013-01-01T00:00:00Z")
	cmd.Flags().StringVar(&to, "to", "", "`time` that all rows are before")
	cmd.Flags().BoolVar(&incremental, "incremental", false, "read only files that were not done before")
	return cmd
}

// materialize starts a run and shows how far it is until it has ended.
func (c *client) materialize(cmd *cobra.Command, path string, ask any, views []string) error {
	if len(views) == 0 {
		set, err := c.featureSet(cmd, 0)
		if err != nil {
			return err
		}
		for _, v := range set.Views {
			views = append(views, v.Name)
		}
	}
	b, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	shown := map[string]bool{}
	var last []byte
	answer, err := c.call(cmd.Context(), http.MethodPost, path+"?async=true", "application/json", bytes.NewReader(b), int64(len(b)))
	for ; err == nil; answer, err = c.call(cmd.Context(), http.MethodGet, featuresPath+"/materialize?"+url.Values{"view": views}.Encode(), "", nil, 0) {
		last = answer
		var now materialized
		if err := json.Unmarshal(answer, &now); err != nil {
			return err
		}
		for _, r := range now.Runs {
			switch {
			case r.Error != "":
				return fmt.Errorf("view %s: %s", r.View, r.Error)
			case r.Ended.IsZero():
				if isTerminal(os.Stderr) {
					fmt.Fprintf(cmd.ErrOrStderr(), "\r%s: %d of %d files, %s rows\x1b[K", r.View, r.Files, r.Of, humanize.Comma(r.Rows))
				}
			case !shown[r.View]:
				shown[r.View] = true
				if c.format != "json" {
					fmt.Fprintf(c.out, "%s: %d files, %s rows\n", r.View, r.Of, humanize.Comma(r.Rows))
				}
			}
		}
		if !slices.ContainsFunc(views, func(v string) bool { return !shown[v] }) {
			break
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	if err == nil && c.format == "json" {
		_, err = c.out.Write(last)
	}
	return err
}

// skew is what a server reports of what was served.
type skew struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Vectors  int       `json:"vectors"`
	Unread   int       `json:"unread"`
	Features []struct {
		Feature    string         `json:"feature"`
		Compared   int            `json:"compared"`
		Mismatched int            `json:"mismatched"`
		Rate       float64        `json:"rate"`
		Kinds      map[string]int `json:"kinds"`
		Example    *struct {
			Kind   string                     `json:"kind"`
			Given  map[string]json.RawMessage `json:"given"`
			At     time.Time                  `json:"at"`
			Served json.RawMessage            `json:"served"`
			Past   json.RawMessage            `json:"past"`
		} `json:"example"`
	} `json:"features"`
	Alarm []string `json:"alarm"`
}

func skewCommand(c *client) *cobra.Command {
	var from, to string
	var check bool
	cmd := &cobra.Command{
		Use: "skew", Short: "Show whether models are given what history says",
		Long: `Show how often features that models were given differ from what a training set
would have of the same moments, by feature and by kind: late (an older row than the
newest), missing, expired (by the view's TTL), ahead (of a row that was not there
yet), version (of old definitions), real (the same row, another value). A share of all
requests is written down for it (FEATURE_SAMPLE). The server checks once an hour; --check
does it now. Where a feature differs more often than SKEW_ALARM, the exit code is 1.`,
		Example: `  pilotlight features skew
  pilotlight features skew --check --from 2026-11-25T00:00:00Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			method, body := http.MethodGet, []byte(nil)
			if check {
				ask := map[string]string{"to": cmp.Or(to, time.Now().UTC().Format(time.RFC3339))}
				if from != "" {
					ask["from"] = from
				}
				var err error
				if body, err = json.Marshal(ask); err != nil {
					return err
				}
				method = http.MethodPost
			} else if from != "" || to != "" {
				return errors.New("--from and --to are for --check; without it the last report is shown")
			}
			answer, err := c.call(cmd.Context(), method, featuresPath+"/skew", "application/json", bytes.NewReader(body), int64(len(body)))
			if err != nil {
				return err
			}
			return c.showSkew(answer)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "compare what was served since the last report, or in a span, now")
	cmd.Flags().StringVar(&from, "from", "", "`time` of the first vectors, such as 2026-11-25 or 2026-11-25T10:00:00Z (default: where the last report ended)")
	cmd.Flags().StringVar(&to, "to", "", "`time` that all vectors are before (default now)")
	return cmd
}

func (c *client) showSkew(answer []byte) error {
	var s skew
	printed, err := c.show(answer, &s)
	if err != nil {
		return err
	}
	if !printed {
		fmt.Fprintf(c.out, "%s vectors served from %s to %s", humanize.Comma(int64(s.Vectors)), s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
		if s.Unread > 0 {
			fmt.Fprintf(c.out, "; %s more can't be compared: their service or definitions are gone", humanize.Comma(int64(s.Unread)))
		}
		fmt.Fprintln(c.out)
		rows := [][]string{{"FEATURE", "COMPARED", "DIFFER", "RATE", "KINDS", "EXAMPLE"}}
		for _, f := range s.Features {
			var kinds []string
			for _, kind := range slices.Sorted(maps.Keys(f.Kinds)) {
				kinds = append(kinds, fmt.Sprintf("%s %d", kind, f.Kinds[kind]))
			}
			example := ""
			if e := f.Example; e != nil {
				given, err := json.Marshal(e.Given)
				if err != nil {
					return err
				}
				example = fmt.Sprintf("%s at %s: served %s, history has %s (%s)", given, e.At.Format(time.RFC3339), e.Served, e.Past, e.Kind)
			}
			rows = append(rows, []string{f.Feature, humanize.Comma(int64(f.Compared)), humanize.Comma(int64(f.Mismatched)), fmt.Sprintf("%.2f %%", 100*f.Rate), strings.Join(kinds, ", "), example})
		}
		if err := c.table(rows); err != nil {
			return err
		}
	}
	if len(s.Alarm) > 0 {
		return fmt.Errorf("%d features differ from history too often: %s", len(s.Alarm), strings.Join(s.Alarm, ", "))
	}
	return nil
}

package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// How many rows an event brings, and about how many bytes of them.
const (
	pushRows  = 500
	pushBytes = event.Most / 4
)

func pushFeaturesCommand(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "push SOURCE FILE...", Short: "Send rows of files to a source",
		Long: `Send rows of files to a source, some hundred in an event. A .csv file names its
columns in the first line, and an empty cell is null; a .json file is one array
of objects or one object after the other. Rows that are not as the source
demands are kept in the bucket with the reason (features/rejected/). The same
file again changes nothing.`,
		Example: `  pilotlight features push departures departures.csv`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := c.featureSet(cmd, 0)
			if err != nil {
				return err
			}
			at := slices.IndexFunc(set.Sources, func(s feature.Source) bool { return s.Name == args[0] })
			if at < 0 {
				return fmt.Errorf("source %s does not exist", args[0])
			}
			for _, path := range args[1:] {
				sent, err := c.push(cmd, &set.Sources[at], path)
				if err != nil {
					return fmt.Errorf("%s: after %d rows were sent: %w", path, sent, err)
				}
				fmt.Fprintf(c.out, "%s: %d rows sent\n", path, sent)
			}
			return nil
		},
	}
}

// push sends the rows of a file, and tells how many of them were taken.
func (c *client) push(cmd *cobra.Command, s *feature.Source, path string) (sent int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	read := readJSON
	switch filepath.Ext(path) {
	case ".csv":
		read = readCSV
	case ".json", ".jsonl", ".ndjson":
	default:
		return 0, errors.New("the file's name ends neither in .csv nor in .json")
	}
	var rows []map[string]json.RawMessage
	size := 0
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		e := event.FeaturesObserved.New(event.Rows{Source: s.Name, Rows: rows})
		b, err := event.Marshal(&e)
		if err == nil {
			_, err = c.call(cmd.Context(), http.MethodPost, "/events", "application/cloudevents+json", bytes.NewReader(b), int64(len(b)))
		}
		if err == nil {
			sent, rows, size = sent+len(rows), rows[:0], 0
		}
		return err
	}
	for r, err := range read(bufio.NewReader(f), s) {
		if err != nil {
			return sent, err
		}
		for name, value := range r {
			if !slices.ContainsFunc(s.Fields, func(f feature.Field) bool { return f.Name == name }) {
				return sent, fmt.Errorf("source %s has no column %q", s.Name, name)
			}
			size += len(name) + len(value)
		}
		rows = append(rows, r)
		if len(rows) == pushRows || size > pushBytes {
			if err := flush(); err != nil {
				return sent, err
			}
		}
	}
	return sent, flush()
}

type fileRows = iter.Seq2[map[string]json.RawMessage, error]

func readJSON(in *bufio.Reader, _ *feature.Source) fileRows {
	return func(yield func(map[string]json.RawMessage, error) bool) {
		d := json.NewDecoder(in)
		inside := false // an array
		if b, err := in.Peek(1); err == nil && b[0] == '[' {
			inside = true
			_, _ = d.Token() // is the bracket
		}
		for !inside || d.More() {
			var r map[string]json.RawMessage
			err := d.Decode(&r)
			if errors.Is(err, io.EOF) && !inside || !yield(r, err) || err != nil {
				return
			}
		}
		if _, err := d.Token(); err != nil {
			yield(nil, fmt.Errorf("the array has no end: %w", err))
		}
	}
}

func readCSV(in *bufio.Reader, s *feature.Source) fileRows {
	return func(yield func(map[string]json.RawMessage, error) bool) {
		lines := csv.NewReader(in)
		lines.ReuseRecord = true
		names, err := lines.Read()
		names = slices.Clone(names)
		types := make([]row.Type, len(names))
		for i, name := range names {
			if at := slices.IndexFunc(s.Fields, func(f feature.Field) bool { return f.Name == name }); at >= 0 {
				types[i] = s.Fields[at].Type
			} else if err == nil {
				err = fmt.Errorf("source %s has no column %q", s.Name, name)
			}
		}
		for err == nil {
			var cells []string
			if cells, err = lines.Read(); err != nil {
				break
			}
			r := make(map[string]json.RawMessage, len(cells))
			for i, cell := range cells {
				if cell == "" {
					continue
				}
				if r[names[i]], err = cellJSON(types[i], cell); err != nil {
					line, _ := lines.FieldPos(i)
					err = fmt.Errorf("line %d, column %q: %s", line, names[i], fault.Message(err))
					break
				}
			}
			if err == nil && !yield(r, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

// cellJSON gives a cell as the JSON of a type.
func cellJSON(t row.Type, cell string) (json.RawMessage, error) {
	raw := json.RawMessage(strings.TrimSpace(cell))
	switch t {
	case row.String, row.Bytes, row.Timestamp:
		b, err := json.Marshal(cell)
		if err != nil {
			return nil, err
		}
		raw = b
	case row.Bool:
		raw = bytes.ToLower(raw)
	}
	_, err := row.ParseJSON(t, raw)
	return raw, err
}

package main

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/duckdb/duckdb-go/v2" // the driver
)

//go:embed rows.sql
var rows string

// year is the data as rows of sources.
type year struct{ db *sql.DB }

// happening is all of one kind that becomes known, is asked or comes true in a minute.
type happening struct {
	at     time.Time
	source string          // departures, arrivals or weather; asks; outcomes
	n      int             // flights or observations
	rows   json.RawMessage // see the views in rows.sql
}

// view is a table of happenings in rows.sql.
type view string

const (
	events view = "events" // departures and arrivals
	course view = "course" // these, the weather, what is asked and what came true
)

// open reads the data in a folder.
func open(ctx context.Context, data string) (*year, error) {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // variables and settings are a connection's
	if _, err := db.ExecContext(ctx, "SET TimeZone = 'UTC'; SET VARIABLE data = "+quote(data)+";"+rows); err != nil {
		return nil, errors.Join(fmt.Errorf("read the data in %s: %w", data, err), db.Close())
	}
	return &year{db}, nil
}

func (y *year) close() { _ = y.db.Close() }

// report tells what became of the flights: which of them there are rows of.
func (y *year) report(ctx context.Context, out io.Writer) error {
	var all, cancelled, diverted, misplaced int
	err := y.db.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (fate = 'cancelled'), count(*) FILTER (fate = 'diverted'),
		count(*) FILTER (fate = 'misplaced') FROM flights`).Scan(&all, &cancelled, &diverted, &misplaced)
	fmt.Fprintf(out, "%d flights; %d were cancelled (no rows), %d diverted (no arrival), the arrivals of %d make no sense and are left out\n", all, cancelled, diverted, misplaced)
	return err
}

// count tells how many rows of departures and arrivals there are of a span of time, and how many flights are asked about.
func (y *year) count(ctx context.Context, from, until time.Time) (events, asks int64, err error) {
	err = y.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM departures WHERE departed_at >= $1 AND departed_at < $2)
		+ (SELECT count(*) FROM arrivals WHERE arrived_at >= $1 AND arrived_at < $2),
		(SELECT count(*) FROM flights WHERE asked_at >= $1 AND asked_at < $2)`, from, until).Scan(&events, &asks)
	return events, asks, err
}

// happenings gives what a view has of a span of time, in its order. It reads a week at once.
func (y *year) happenings(ctx context.Context, v view, from, until time.Time) iter.Seq2[happening, error] {
	return func(yield func(happening, error) bool) {
		for from.Before(until) {
			end := from.Add(7 * 24 * time.Hour)
			if end.After(until) {
				end = until
			}
			week, err := y.read(ctx, v, from, end)
			if err != nil {
				yield(happening{}, fmt.Errorf("read the flights: %w", err))
				return
			}
			for _, h := range week {
				if !yield(h, nil) {
					return
				}
			}
			from = end
		}
	}
}

func (y *year) read(ctx context.Context, v view, from, until time.Time) (all []happening, err error) {
	order := "moment, source"
	if v == course {
		order = "moment, place, source"
	}
	found, err := y.db.QueryContext(ctx, fmt.Sprintf("SELECT moment, source, n, rows::VARCHAR FROM %s WHERE moment >= ? AND moment < ? ORDER BY %s", v, order), from, until)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var h happening
		var rows string
		if err := found.Scan(&h.at, &h.source, &h.n, &rows); err != nil {
			return nil, err
		}
		h.at, h.rows = h.at.UTC(), json.RawMessage(rows)
		all = append(all, h)
	}
	return all, found.Err()
}

// write makes a Parquet file of each source, with the rows that became known in a span of time, and one of the flights
// that were asked about in it and arrived.
func (y *year) write(ctx context.Context, dir string, from, until time.Time) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for name, known := range map[string]string{"departures": "departed_at", "arrivals": "arrived_at", "weather": "known_at", "asked": "event_timestamp"} {
		path := filepath.Join(dir, name+".parquet")
		_, err := y.db.ExecContext(ctx, fmt.Sprintf("COPY (SELECT * FROM %[1]s WHERE %[2]s >= %[3]s AND %[2]s < %[4]s ORDER BY ALL) TO %[5]s (FORMAT parquet, COMPRESSION zstd)",
			name, known, quote(from.Format(time.RFC3339)), quote(until.Format(time.RFC3339)), quote(path)))
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// quote writes a text as SQL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

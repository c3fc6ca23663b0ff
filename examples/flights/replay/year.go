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

// count tells how many rows there are of a span of time.
func (y *year) count(ctx context.Context, from, until time.Time) (n int64, err error) {
	err = y.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM departures WHERE departed_at >= $1 AND departed_at < $2)
		+ (SELECT count(*) FROM arrivals WHERE arrived_at >= $1 AND arrived_at < $2)`, from, until).Scan(&n)
	return n, err
}

// events gives a span of time as events, in the order of time. It reads a day at once.
func (y *year) events(ctx context.Context, from, until time.Time) iter.Seq2[observed, error] {
	return func(yield func(observed, error) bool) {
		for from.Before(until) {
			end := from.Add(24 * time.Hour)
			if end.After(until) {
				end = until
			}
			day, err := y.day(ctx, from, end)
			if err != nil {
				yield(observed{}, err)
				return
			}
			for _, e := range day {
				if !yield(e, nil) {
					return
				}
			}
			from = end
		}
	}
}

func (y *year) day(ctx context.Context, from, until time.Time) (day []observed, err error) {
	found, err := y.db.QueryContext(ctx, "SELECT moment, source, n, rows::VARCHAR FROM events WHERE moment >= ? AND moment < ? ORDER BY moment, source", from, until)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var at time.Time
		var source, rows string
		var n int
		if err := found.Scan(&at, &source, &n, &rows); err != nil {
			return nil, err
		}
		day = append(day, newObserved(at, source, n, json.RawMessage(rows)))
	}
	return day, found.Err()
}

// write makes a Parquet file of each source, with the rows that became known in a span of time.
func (y *year) write(ctx context.Context, dir string, from, until time.Time) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for source, known := range map[string]string{"departures": "departed_at", "arrivals": "arrived_at", "weather": "known_at"} {
		path := filepath.Join(dir, source+".parquet")
		_, err := y.db.ExecContext(ctx, fmt.Sprintf("COPY (SELECT * FROM %[1]s WHERE %[2]s >= %[3]s AND %[2]s < %[4]s ORDER BY ALL) TO %[5]s (FORMAT parquet, COMPRESSION zstd)",
			source, known, quote(from.Format(time.RFC3339)), quote(until.Format(time.RFC3339)), quote(path)))
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// quote writes a text as SQL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const folder = "../data"

// christmas makes a folder with the data of 23 December, so that tests are quick.
func christmas(t *testing.T) string { return part(t, "month = 12 AND day = 23") }

// part makes a folder with the data of some days.
func part(t *testing.T, days string) string {
	t.Helper()
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	dir := t.TempDir()
	for name, where := range map[string]string{"flights": days, "weather": days, "airports": "true"} {
		file := name + ".parquet"
		if _, err := db.ExecContext(t.Context(), fmt.Sprintf("COPY (SELECT * FROM %s WHERE %s) TO %s", quote(filepath.Join(folder, file)), where, quote(filepath.Join(dir, file)))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func openYear(t *testing.T, folder string) *year {
	t.Helper()
	y, err := open(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(y.close)
	return y
}

func TestEveryFlightIsPlaced(t *testing.T) {
	y := openYear(t, folder)
	var out bytes.Buffer
	if err := y.report(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	want := "336776 flights; 8255 were cancelled (no rows), 1175 diverted (no arrival), the arrivals of 0 make no sense and are left out\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	// A model that is asked 45 minutes before a flight is to leave must not know of its leaving.
	var early, clocks int
	err := y.db.QueryRowContext(t.Context(), "SELECT count(*) FILTER (departed_at <= scheduled - INTERVAL 45 MINUTE), count(*) FILTER (arrived_at <= departed_at) FROM flights").Scan(&early, &clocks)
	if err != nil || early != 0 || clocks != 0 {
		t.Errorf("%d flights left 45 minutes early and %d arrived before they left, %v", early, clocks, err)
	}
}

// By hand: the departure in New York, and the clock at the destination.
func TestArrivalsAreOfTheClockAtTheDestination(t *testing.T) {
	y := openYear(t, folder)
	for _, test := range []struct{ flight, left, arrived string }{
		// 8:57 in New York to 15:16 in Honolulu, five hours behind
		{"HA 51 JFK 2013-01-01 14:00", "2013-01-01 13:57", "2013-01-02 01:16"},
		// 23:45 to 4:06 in San Juan, an hour ahead, which has no summer time; that of New York begins in this night
		{"B6 707 JFK 2013-03-10 04:15", "2013-03-10 04:45", "2013-03-10 08:06"},
		// 21:39 to 0:43 in Los Angeles, three hours behind, in the night when summer time ends
		{"AA 185 JFK 2013-11-03 01:40", "2013-11-03 01:39", "2013-11-03 07:43"},
		// 22:17, five hours late, to 1:14 of that night: what the clock shows an hour later again
		{"VX 413 JFK 2013-11-02 20:55", "2013-11-03 02:17", "2013-11-03 08:14"},
	} {
		f := strings.Fields(test.flight)
		var left, arrived time.Time
		err := y.db.QueryRowContext(t.Context(), "SELECT departed_at, arrived_at FROM flights WHERE carrier = ? AND flight = ?::BIGINT AND origin = ? AND scheduled = ?::TIMESTAMPTZ",
			f[0], f[1], f[2], f[3]+" "+f[4]+":00+00").Scan(&left, &arrived)
		if err != nil {
			t.Errorf("%s: %v", test.flight, err)
			continue
		}
		const layout = "2006-01-02 15:04"
		if got := left.UTC().Format(layout) + ", " + arrived.UTC().Format(layout); got != test.left+", "+test.arrived {
			t.Errorf("%s: got %s, want %s, %s", test.flight, got, test.left, test.arrived)
		}
	}
}

// receiver answers with the statuses in turn, then accepts.
type receiver struct {
	mu       sync.Mutex
	statuses []int
	bodies   [][]observed
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []observed
	if err := json.NewDecoder(q.Body).Decode(&events); err != nil || q.Header.Get("Content-Type") != "application/cloudevents-batch+json" {
		http.Error(w, "no batch", http.StatusBadRequest)
		return
	}
	if len(r.statuses) > 0 {
		status := r.statuses[0]
		r.statuses = r.statuses[1:]
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, "not now", status)
		return
	}
	r.bodies = append(r.bodies, events)
	w.WriteHeader(http.StatusAccepted)
}

func TestReplay(t *testing.T) {
	folder := christmas(t)
	once := func(statuses []int, from, until string) []observed {
		r := &receiver{statuses: statuses}
		s := httptest.NewServer(r)
		defer s.Close()
		if err := run(t.Context(), []string{"-data", folder, "-to", s.URL, "-from", from, "-until", until, "-batch", "7"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, b := range r.bodies {
			if len(b) > 7 {
				t.Errorf("there are %d events in a batch", len(b))
			}
		}
		return slices.Concat(r.bodies...)
	}
	all := once(nil, "2013-12-23T20:00:00Z", "2013-12-23T22:00:00Z")
	if !slices.IsSortedFunc(all, func(a, b observed) int { return a.Time.Compare(b.Time) }) {
		t.Error("events are not in the order of time")
	}
	rows, ids := 0, map[string]bool{}
	for _, e := range all {
		var list []map[string]any
		if err := json.Unmarshal(e.Data.Rows, &list); err != nil {
			t.Fatal(err)
		}
		for _, row := range list {
			if at := row[map[string]string{"departures": "departed_at", "arrivals": "arrived_at"}[e.Data.Source]]; at != e.Time.Format(time.RFC3339) {
				t.Errorf("a row of %v is in the event of %v", at, e.Time)
			}
		}
		rows += len(list)
		ids[e.ID] = true
	}
	if rows != 217 || len(ids) != len(all) {
		t.Errorf("got %d rows, and %d ids for %d events", rows, len(ids), len(all))
	}
	// The same ids and the same data, whatever was refused, and wherever it begins.
	later := once([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, "2013-12-23T21:07:00Z", "2013-12-23T22:00:00Z")
	at := slices.IndexFunc(all, func(e observed) bool { return e.ID == later[0].ID })
	if at <= 0 || fmt.Sprint(all[at:]) != fmt.Sprint(later) {
		t.Errorf("a replay from 21:07 on sent other events")
	}
}

func TestReplayEndsWhereItIsRefusedForGood(t *testing.T) {
	folder := christmas(t)
	s := httptest.NewServer(&receiver{statuses: []int{http.StatusUnprocessableEntity}})
	defer s.Close()
	err := run(t.Context(), []string{"-data", folder, "-to", s.URL, "-from", "2013-12-23T20:00:00Z", "-until", "2013-12-23T20:10:00Z"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "422") || !strings.Contains(err.Error(), "-from 2013-12-23T20:00:00Z") {
		t.Errorf("got %v", err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{{"-speed", "-1"}, {"-batch", "-1"}, {"extra"}, {"-from", "yesterday"}, {"-data", "nowhere"}, {"-ask", "8080"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

// clocked notes how many happenings were flushed, and when.
type clocked struct {
	begin   time.Time
	kept    int
	flushed []string
}

func (c *clocked) take(context.Context, happening) error {
	c.kept++
	return nil
}

func (c *clocked) flush(context.Context) error {
	c.flushed = append(c.flushed, fmt.Sprintf("%d at %v", c.kept, time.Since(c.begin)))
	c.kept = 0
	return nil
}

func TestSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC)
		var all iter.Seq2[happening, error] = func(yield func(happening, error) bool) {
			for _, minutes := range []int{0, 0, 60, 61, 180} {
				if !yield(happening{at: start.Add(time.Duration(minutes) * time.Minute)}, nil) {
					return
				}
			}
		}
		got := &clocked{begin: time.Now()}
		err := replay(t.Context(), all, 60, got)
		// A minute a second.
		if want := []string{"2 at 0s", "1 at 1m0s", "1 at 1m1s", "1 at 3m0s"}; err != nil || !slices.Equal(got.flushed, want) {
			t.Errorf("got %v, %v, want %v", got.flushed, err, want)
		}
	})
}

func TestWrite(t *testing.T) {
	folder, dir := christmas(t), t.TempDir()
	if err := run(t.Context(), []string{"-data", folder, "-write", dir, "-from", "2013-12-23T20:00:00Z", "-until", "2013-12-23T22:00:00Z"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	y := openYear(t, folder)
	for source, want := range map[string]int{"departures": 0, "arrivals": 0, "weather": 6} {
		if source != "weather" {
			if err := y.db.QueryRowContext(t.Context(), "SELECT sum(n)::BIGINT FROM events WHERE source = ? AND moment >= '2013-12-23 20:00:00Z' AND moment < '2013-12-23 22:00:00Z'", source).Scan(&want); err != nil {
				t.Fatal(err)
			}
		}
		var got int
		if err := y.db.QueryRowContext(t.Context(), "SELECT count(*) FROM read_parquet(?)", filepath.Join(dir, source+".parquet")).Scan(&got); err != nil || got != want || got == 0 {
			t.Errorf("%s: got %d rows, %v, want %d", source, got, err, want)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/etl"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// The flights of a year with the weather where they start and what their aircraft are.
const (
	etlRows   = 336_776
	etlMemory = 512 << 20
	etlLimit  = 1 << 30 // that a load may take
	etlSQL    = `SELECT f.time_hour + to_minutes(f.minute) AS scheduled, f.carrier, f.flight, f.origin, f.dest, f.tailnum, f.dep_delay, f.arr_delay, f.air_time, f.distance,
    w.temp, w.dewp, w.humid, w.wind_speed, w.precip, w.pressure, w.visib, p.year AS built, p.manufacturer, p.model, p.seats, p.engine
FROM flights f LEFT JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour LEFT JOIN planes p ON p.tailnum = f.tailnum`
	etlFields = `{name: scheduled, type: timestamp, required: true}, {name: carrier, type: string, required: true}, {name: flight, type: int64}, {name: origin, type: string, one_of: [EWR, JFK, LGA]},
  {name: dest, type: string}, {name: tailnum, type: string}, {name: dep_delay, type: float64, min: -120, max: 3000}, {name: arr_delay, type: float64}, {name: air_time, type: float64}, {name: distance, type: float64, min: 0},
  {name: temp, type: float32}, {name: dewp, type: float32}, {name: humid, type: float32}, {name: wind_speed, type: float32}, {name: precip, type: float32}, {name: pressure, type: float32},
  {name: visib, type: float32}, {name: built, type: int64}, {name: manufacturer, type: string}, {name: model, type: string}, {name: seats, type: int64}, {name: engine, type: string}`
)

// etlCase is a way in which flights land and where their rows go.
type etlCase struct {
	title, format, into string
	rounds              []etlRun
}

// etlRun is what a child measures of itself.
type etlRun struct {
	Seconds float64
	CPU     float64 // seconds
	Peak    int64   // bytes of resident memory
	Rows    int64
	Objects int
}

// etl measures load steps, each in a process of its own, beside DuckDB alone.
func (b *bench) etl(ctx context.Context) error {
	cases := []*etlCase{
		{title: "12 CSV files, into a log", format: "csv", into: "flown"},
		{title: "12 Parquet files, into a log", format: "parquet", into: "flown"},
		{title: "12 Parquet files, into files", format: "parquet", into: "flown_files"},
		{title: "DuckDB alone, the same COPY of 12 CSV files", format: "csv"},
		{title: "DuckDB alone, the same COPY of 12 Parquet files", format: "parquet"},
	}
	for round := range b.rounds {
		for i, c := range cases {
			progress("etl: round %d of %d, %s", round+1, b.rounds, c.title)
			dir := filepath.Join(b.dir, fmt.Sprintf("etl-%d-%d", round, i))
			if _, err := b.once(ctx, launch{args: []string{b.self, "child", "land", b.root, dir, c.format}, core: anyCore}); err != nil {
				return err
			}
			role := "load"
			if c.into == "" {
				role = "copy"
			}
			out, err := b.once(ctx, launch{args: []string{b.self, "child", role, dir, c.format, c.into}, core: anyCore})
			if err != nil {
				return err
			}
			var r etlRun
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				return err
			}
			if r.Rows != etlRows {
				return fmt.Errorf("%s gave %d rows, want %d", c.title, r.Rows, etlRows)
			}
			if c.into != "" && r.Peak > etlLimit {
				return fmt.Errorf("%s took %d bytes of memory, more than %d", c.title, r.Peak, etlLimit)
			}
			c.rounds = append(c.rounds, r)
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	b.report.section("Flights with weather and planes, from landed files to the offline store")
	b.report.add("A `load` step of %d flights beside the weather at their hour and what is known of their aircraft: %d columns, three expectations. The bucket is a folder; ETL_MEMORY is %d MiB, and a load may take %d MiB. "+
		"Times are from the step's begin to its end, memory is the process's peak (VmHWM). The last lines are what the query itself costs: DuckDB with the same limits reads the same files and writes one Parquet file, sorted by time; "+
		"it takes no copies, checks no rows, and remembers nothing. Medians (least to most).\n\n", etlRows, strings.Count(etlFields, "name:"), etlMemory>>20, etlLimit>>20)
	var rows [][]string
	for _, c := range cases {
		rows = append(rows, []string{
			c.title,
			spread(of(c.rounds, func(r etlRun) float64 { return r.Seconds }), "%.2f"),
			spread(of(c.rounds, func(r etlRun) float64 { return r.CPU }), "%.2f"),
			spread(of(c.rounds, func(r etlRun) float64 { return float64(r.Peak) / (1 << 20) }), "%.0f"),
			fmt.Sprint(c.rounds[0].Objects),
		})
	}
	b.report.table([]string{"", "seconds", "CPU seconds", "MiB at most", "objects"}, rows)
	return nil
}

// land puts a year of flights into a bucket: a file a month.
func land(ctx context.Context, args []string) error {
	root, dir, format := args[0], args[1], args[2]
	db, err := duck.Open(ctx, duck.Config{Memory: etlMemory, Spill: filepath.Join(dir, "spill")})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	data := filepath.Join(root, "examples", "flights", "data")
	for month := 1; month <= 12; month++ {
		if err := os.MkdirAll(filepath.Join(dir, "made"), 0o700); err != nil {
			return err
		}
		if _, err := db.ExecContext(ctx, fmt.Sprintf("COPY (SELECT * FROM read_parquet(%s) WHERE month = %d) TO %s",
			duck.Quote(filepath.Join(data, "flights.parquet")), month, duck.Quote(filepath.Join(dir, "made", fmt.Sprintf("%02d.%s", month, format))))); err != nil {
			return err
		}
	}
	blob, err := diskstore.OpenBlob(ctx, &url.URL{Scheme: "file", Path: filepath.Join(dir, "bucket")})
	if err != nil {
		return err
	}
	defer func() { _ = blob.Close() }()
	files := map[string]string{}
	for _, name := range []string{"weather", "planes"} {
		files["landing/"+name+"/1.parquet"] = filepath.Join(data, name+".parquet")
		if err := os.Symlink(filepath.Join(data, name+".parquet"), filepath.Join(dir, "made", name+".parquet")); err != nil {
			return err
		}
	}
	for month := 1; month <= 12; month++ {
		name := fmt.Sprintf("%02d.%s", month, format)
		files["landing/flights/"+name] = filepath.Join(dir, "made", name)
	}
	for key, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := blob.Put(ctx, key, bytes.NewReader(data), int64(len(data)), store.Condition{}); err != nil {
			return err
		}
	}
	return nil
}

// timed prints what work took, and the memory of the process at its peak.
func timed(work func() (rows int64, objects int, err error)) error {
	var r etlRun
	begin, spent := time.Now(), cpuSpent()
	var err error
	if r.Rows, r.Objects, err = work(); err != nil {
		return err
	}
	r.Seconds, r.CPU = time.Since(begin).Seconds(), (cpuSpent() - spent).Seconds()
	if r.Peak, err = kibibytes("/proc/self/status", "VmHWM"); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(&r)
}

// cpuSpent is how much CPU time this process has taken.
func cpuSpent() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadFlights runs a load step, and prints what it took.
func loadFlights(ctx context.Context, args []string) error {
	dir, into := args[0], args[2]
	blob, err := diskstore.OpenBlob(ctx, &url.URL{Scheme: "file", Path: filepath.Join(dir, "bucket")})
	if err != nil {
		return err
	}
	defer func() { _ = blob.Close() }()
	kv, err := memstore.OpenKV(ctx, nil)
	if err != nil {
		return err
	}
	online, err := memstore.OpenOnline(ctx, nil)
	if err != nil {
		return err
	}
	catalog := feature.NewCatalog(&feature.Config{}, blob, nil, slog.New(slog.DiscardHandler))
	set, err := feature.Parse("bench", []byte("sources:\n- {name: flown, time: scheduled, fields: ["+etlFields+"]}\n- {name: flown_files, path: flown/, time: scheduled, fields: ["+etlFields+"]}\n"))
	if err == nil {
		_, _, err = catalog.Apply(ctx, set, nil, "bench", false)
	}
	if err != nil {
		return err
	}
	history, err := offline.Open(ctx, &offline.Config{Memory: 128 << 20, Dir: filepath.Join(dir, "offline"), Cache: 1 << 30}, offline.Deps{Blob: blob, KV: kv, Online: online})
	if err != nil {
		return err
	}
	defer func() { _ = history.Close() }()
	definition := `
steps:
- name: load
  use: load
  with:
    from: [{name: flights, files: landing/flights/}, {name: weather, files: landing/weather/, all: true}, {name: planes, files: landing/planes/, all: true}]
    sql: |
      ` + strings.ReplaceAll(etlSQL, "\n", "\n      ") + `
    expect:
    - {check: not_null, columns: [origin, dest]}
    - {check: unique, columns: [scheduled, carrier, flight, origin]}
    - {check: range, columns: [distance], min: 1, max: 10000}
    into: ` + into
	definitions, err := yamlwire.Read[pipeline.Definition]("bench", []byte(definition))
	if err != nil {
		return err
	}
	kind := etl.Kinds(&etl.Config{Memory: env.Size(etlMemory), Disk: env.Size(8 << 30)}, etl.Deps{Offline: history, Catalog: catalog})[0]
	step, err := kind.New(definitions[0].Steps[0].With)
	if err != nil {
		return err
	}
	task := &pipeline.Task{
		Pipeline: "bench", Run: "1", Step: "load", Started: time.Now(), Dir: filepath.Join(dir, "task"), Log: slog.New(slog.DiscardHandler), Blob: blob,
		Outputs: map[string]pipeline.Artifact{}, Progress: func(int64, int64, string) {},
	}
	if err := os.MkdirAll(task.Dir, 0o700); err != nil {
		return err
	}
	return timed(func() (n int64, objects int, err error) {
		if err := step.Run(ctx, task); err != nil {
			return 0, 0, err
		}
		var report etl.Report
		if err := json.Unmarshal(task.Outputs["report"].Value, &report); err != nil {
			return 0, 0, err
		}
		for _, prefix := range []string{"features/log/", "flown/"} {
			for _, err := range blob.List(ctx, prefix, "") {
				if err != nil {
					return 0, 0, err
				}
				objects++
			}
		}
		return report.Rows, objects, nil
	})
}

// copyFlights has DuckDB alone do it.
func copyFlights(ctx context.Context, args []string) error {
	dir, format := args[0], args[1]
	db, err := duck.Open(ctx, duck.Config{Memory: etlMemory, Spill: filepath.Join(dir, "spill")})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for name, files := range map[string]string{"flights": "made/[0-9]*." + format, "weather": "made/weather.parquet", "planes": "made/planes.parquet"} {
		read := "read_parquet("
		if strings.HasSuffix(files, "csv") {
			read = "read_csv("
		}
		if _, err := db.ExecContext(ctx, "CREATE VIEW "+name+" AS SELECT * FROM "+read+duck.Quote(filepath.Join(dir, files))+")"); err != nil {
			return err
		}
	}
	return timed(func() (n int64, objects int, err error) {
		r, err := db.ExecContext(ctx, "COPY (SELECT * FROM ("+etlSQL+") ORDER BY scheduled) TO "+duck.Quote(filepath.Join(dir, "copy.parquet"))+" (FORMAT parquet, COMPRESSION zstd)")
		if err != nil {
			return 0, 0, err
		}
		n, err = r.RowsAffected()
		return n, 1, err
	})
}

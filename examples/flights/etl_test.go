package flights_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/etl"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Hourly files through pipelines/etl.yaml become what replay/rows.sql says that the source weather is.
func TestWeatherPipeline(t *testing.T) {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	query := func(format string, args ...any) (n int) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), fmt.Sprintf(format, args...)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	ctx := t.Context()
	blob, _ := memstore.OpenBlob(ctx, nil)
	kv, _ := memstore.OpenKV(ctx, nil)
	online, _ := memstore.OpenOnline(ctx, nil)
	put := func(key string, b []byte) {
		t.Helper()
		if _, err := blob.Put(ctx, key, bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	catalog := feature.NewCatalog(&feature.Config{}, blob, nil, slog.New(slog.DiscardHandler))
	b, err := os.ReadFile("features.yaml")
	if err != nil {
		t.Fatal(err)
	}
	set, err := feature.Parse("features.yaml", b)
	if err == nil {
		_, _, err = catalog.Apply(ctx, set, nil, "test", false)
	}
	if err != nil {
		t.Fatal(err)
	}
	history, err := offline.Open(ctx, &offline.Config{Memory: env.Size(128 << 20), Dir: t.TempDir(), Cache: env.Size(64 << 20)}, offline.Deps{Blob: blob, KV: kv, Online: online})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = history.Close() }()
	kinds := map[string]pipeline.Kind{}
	for _, k := range etl.Kinds(&etl.Config{Memory: env.Size(256 << 20), Disk: env.Size(1 << 30)}, etl.Deps{Offline: history, Catalog: catalog}) {
		kinds[k.Name] = k
	}
	if b, err = os.ReadFile("pipelines/etl.yaml"); err != nil {
		t.Fatal(err)
	}
	definitions, err := yamlwire.Read[pipeline.Definition]("etl.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	run := func(id string, at time.Time) (reports []string) {
		t.Helper()
		for _, s := range definitions[0].Steps {
			step, err := kinds[s.Use].New(s.With)
			if err != nil {
				t.Fatal(err)
			}
			task := &pipeline.Task{
				Pipeline: definitions[0].Name, Run: id, Step: s.Name, Started: at, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Blob: blob,
				Outputs: map[string]pipeline.Artifact{}, Progress: func(int64, int64, string) {},
			}
			if err := step.Run(ctx, task); err != nil {
				t.Fatal(err)
			}
			reports = append(reports, string(task.Outputs["report"].Value))
		}
		return reports
	}

	dir := t.TempDir()
	day := time.Date(2013, 12, 24, 0, 0, 0, 0, time.UTC)
	for hour := range 24 {
		at := day.Add(time.Duration(hour) * time.Hour)
		path := filepath.Join(dir, at.Format("2006-01-02T15")+".csv")
		if _, err := db.ExecContext(ctx, fmt.Sprintf("COPY (SELECT * FROM 'data/weather.parquet' WHERE time_hour = '%s') TO '%s' (HEADER)", at.Format(time.RFC3339), path)); err != nil {
			t.Fatal(err)
		}
		if b, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		put("landing/weather-hours/"+filepath.Base(path), b)
		if hour == 20 {
			put("landing/weather-hours/broken.csv", b[:len(b)/2])
		}
		if hour%8 == 7 {
			run(at.Format("15"), at.Add(time.Hour))
		}
	}
	defs, err := catalog.Current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	src, err := defs.Source("weather")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "history.parquet")
	var out bytes.Buffer
	if err := history.History(ctx, src, time.Time{}, &out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	const want = `(SELECT time_hour + INTERVAL 51 MINUTE AS observed_at, time_hour + INTERVAL 1 HOUR AS known_at, origin, CAST(dewp AS FLOAT) AS dewp, CAST(humid AS FLOAT) AS humid,
		CAST(wind_speed AS FLOAT) AS wind_speed, CAST(precip AS FLOAT) AS precip, CAST(pressure AS FLOAT) AS pressure, CAST(visib AS FLOAT) AS visib
		FROM 'data/weather.parquet' WHERE time_hour >= '2013-12-24T00:00:00Z' AND time_hour < '2013-12-25T00:00:00Z')`
	got := "(SELECT observed_at, known_at, origin, dewp, humid, wind_speed, precip, pressure, visib FROM '" + path + "')"
	if n := query("SELECT count(*) FROM %s", got); n != 72 {
		t.Errorf("got %d rows, want 72", n)
	}
	if n := query("SELECT count(*) FROM (%s EXCEPT ALL %s)", got, want); n != 0 {
		t.Errorf("%d rows are not as in the data", n)
	}
	v, err := defs.View("weather")
	if err != nil {
		t.Fatal(err)
	}
	last, err := online.Read(ctx, []string{v.Key(row.OfString("JFK"))}, nil)
	if err != nil || last[0].Stamp.Event != day.Add(23*time.Hour+51*time.Minute).UnixMicro() {
		t.Errorf("online: got %+v, %v", last, err)
	}
}

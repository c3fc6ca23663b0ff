package etl

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
)

// outcome is one as internal/feedback keeps it.
type outcome struct {
	Prediction string `parquet:"prediction,optional"`
	Row        int32  `parquet:"row,optional"`
	Model      string `parquet:"model,optional"`
	Entity     string `parquet:"entity,optional"`
	At         int64  `parquet:"at,optional,timestamp(microsecond)"`
	Value      string `parquet:"value,optional"`
	Source     string `parquet:"source,optional"`
	Event      int64  `parquet:"_event,timestamp(microsecond)"`
	Created    int64  `parquet:"_created,timestamp(microsecond)"`
	ID         uint64 `parquet:"_id"`
}

// keep puts a segment where its owner would.
func keep[T any](w *world, prefix string, at time.Time, rows ...T) {
	w.t.Helper()
	data := parquetOf(w.t, rows...)
	sum := sha256.Sum256([]byte(data))
	w.put(prefix+segment.Name(at.UnixMicro(), sum[:]), data)
}

// What was predicted and what came true of it are tables, apart and together, as is the history of a source.
func TestTables(t *testing.T) {
	w := newWorld(t, memBlob(t))
	old, now := started.Add(-48*time.Hour), started.Add(-time.Hour)
	one := func(id, model string, at time.Time) payload.Row {
		return payload.Row{At: at.UnixMicro(), Answered: at.UnixMicro(), ID: id, Model: model, Version: 1, Inputs: `{"shop": "x"}`, Outputs: `{"price": 2.5}`}
	}
	keep(w, payload.Inbox, now, one("a", "flights", old), one("b", "flights", now), one("c", "other", now))
	keep(w, payload.Inbox, old, one("older", "flights", old))
	w.put(payload.Inbox+segment.Name(now.UnixMicro(), make([]byte, 32)), "damaged")
	told := func(prediction, value string, at time.Time, n uint64) outcome {
		return outcome{Prediction: prediction, Value: value, Event: at.UnixMicro(), Created: at.UnixMicro(), ID: n}
	}
	keep(w, feedback.LogPrefix, now, told("a", "1", old, 1), told("b", "2", now, 2), told("b", "3", now.Add(time.Minute), 3), told("unknown", "4", now, 4))
	keep(w, feedback.InboxPrefix, now, told("b", "2", now, 2), outcome{Model: "other", Entity: `{"shop":"x"}`, Value: "9", Event: now.UnixMicro(), Created: now.UnixMicro(), ID: 5})

	with := func(table, sql string) string {
		return "\n  from: [{name: t, " + table + "}]\n  sql: " + sql + "\n  into: sales\n"
	}
	for name, c := range map[string]struct{ with, want string }{
		"predictions": {with("predictions: flights, last: 1d", `SELECT made AS "at", inputs->>'shop' AS shop, version AS n, CAST(outputs->>'price' AS DOUBLE) AS price FROM t`), "[11-26T05:00 x 1 2.5]"},
		"all":         {with("predictions: flights", `SELECT made AS "at", id AS shop FROM t`), "[11-24T06:00 a 11-24T06:00 older 11-26T05:00 b]"},
		"outcomes":    {with("outcomes: flights", `SELECT came_true AS "at", prediction AS shop, CAST(label AS BIGINT) AS n FROM t`), "[11-24T06:00 a 1 11-26T05:00 b 2 11-26T05:00 unknown 4 11-26T05:01 b 3]"},
		"labelled":    {with("labelled: flights", `SELECT made AS "at", id AS shop, CAST(label AS BIGINT) AS n FROM t`), "[11-24T06:00 a 1 11-26T05:00 b 3]"},
	} {
		t.Run(name, func(t *testing.T) {
			w.load(name, c.with)
			equal(t, name, w.rows("sales"), c.want)
			for _, key := range w.objects("features/log/") {
				if err := w.blob.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		})
	}

	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n2026-11-26T05:00:00Z,x,2,2.5\n")
	w.load("sales", simple)
	w.load("history", strings.Replace(with("source: sales, last: 1d", `SELECT * REPLACE (n + 1 AS n) FROM t`), "into: sales", "into: prices", 1))
	equal(t, "of history", w.rows("prices"), "[11-26T05:00 x 3 2.5]")
}

// A table may be a file that an earlier step gave.
func TestInput(t *testing.T) {
	w := newWorld(t, memBlob(t))
	n := int64(1)
	data := parquetOf(t, sale{started, "x", &n, nil})
	w.put("pipelines/shop/files/1/before/rows.parquet", data)
	s, err := w.step("load", "  from: [{name: t, input: rows}]\n  sql: FROM t\n  into: sales")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(data))
	task := w.task("1")
	task.Inputs = map[string]pipeline.Artifact{"rows": {Key: "pipelines/shop/files/1/before/rows.parquet", Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}}
	if err := s.Run(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	equal(t, "rows", w.rows("sales"), "[11-26T06:00 x 1]")
}

// What was loaded is what training sets and the online store see.
func TestMaterialize(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n2026-01-02T10:00:00Z,x,2,3.5\n2026-01-02T10:00:00Z,y,7,1\n")
	w.load("1", simple)
	s, err := w.step("materialize", "  views: [sold]")
	if err != nil {
		t.Fatal(err)
	}
	task := w.task("1")
	if err := s.Run(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	equal(t, "report", string(task.Outputs["report"].Value), `[{"view":"sold","files":2,"of":2,"rows":3,"done":true}]`)
	defs, err := w.deps.Catalog.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := defs.View("sold")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.online.Read(t.Context(), []string{v.Key(row.OfString("x")), v.Key(row.OfString("y")), v.Key(row.OfString("z"))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "online", []any{rows[0].Stamp.Event, rows[1].Stamp.Event, rows[2].Stamp.Event}, []any{time.Date(2026, 1, 2, 10, 0, 0, 0, time.UTC).UnixMicro(), time.Date(2026, 1, 2, 10, 0, 0, 0, time.UTC).UnixMicro(), 0})
	for with, want := range map[string]string{"  views: [nope]": "nope", "  source: nope": "nope"} {
		if _, err := w.run(t.Context(), "1", "materialize", with, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", with, err)
		}
	}
}

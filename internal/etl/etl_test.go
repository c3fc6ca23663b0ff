package etl

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// definitions has a source of each sort: one with a log, and one that is files.
const definitions = `
entities:
- {name: shop, keys: [{name: shop, type: string}]}
sources:
- name: sales
  time: at
  fields: [{name: at, type: timestamp, required: true}, {name: shop, type: string, required: true}, {name: n, type: int64}, {name: price, type: float64, min: 0}]
- name: prices
  time: at
  path: prices/
  fields: [{name: at, type: timestamp, required: true}, {name: shop, type: string, required: true}, {name: n, type: int64}, {name: price, type: float64, min: 0}]
views:
- {name: sold, entities: [shop], source: sales}
- {name: priced, entities: [shop], source: prices}
`

// world is a bucket with definitions, and who works on it.
type world struct {
	t      *testing.T
	blob   store.Blob
	online store.Online
	deps   Deps
	conf   Config
	last   bytes.Buffer // of a run's log
}

func newWorld(t *testing.T, blob store.Blob) *world {
	w := &world{t: t, blob: blob, conf: Config{Memory: env.Size(256 << 20), Disk: env.Size(4 << 30)}}
	var err error
	if w.online, err = memstore.OpenOnline(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	w.deps = w.open(blob)
	set, err := feature.Parse("definitions", []byte(definitions))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.deps.Catalog.Apply(t.Context(), set, nil, "test", false); err != nil {
		t.Fatal(err)
	}
	return w
}

// open makes what steps use on a bucket.
func (w *world) open(blob store.Blob) Deps {
	w.t.Helper()
	kv, err := memstore.OpenKV(w.t.Context(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := offline.Open(w.t.Context(), &offline.Config{Memory: env.Size(128 << 20), Dir: w.t.TempDir(), Cache: env.Size(1 << 30)}, offline.Deps{Blob: blob, KV: kv, Online: w.online})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return Deps{Offline: s, Catalog: feature.NewCatalog(&feature.Config{}, blob, nil, slog.New(slog.DiscardHandler))}
}

func memBlob(t *testing.T) store.Blob {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func (w *world) put(key, content string) {
	w.t.Helper()
	if _, err := w.blob.Put(w.t.Context(), key, strings.NewReader(content), int64(len(content)), store.Condition{}); err != nil {
		w.t.Fatal(err)
	}
}

// step reads a step of a kind.
func (w *world) step(kind, with string) (pipeline.Step, error) {
	type document struct {
		With yamlwire.Node `yaml:"with"`
	}
	docs, err := yamlwire.Read[document]("step", []byte("with:\n"+with))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, k := range Kinds(&w.conf, w.deps) {
		if k.Name == kind {
			return k.New(docs[0].With)
		}
	}
	w.t.Fatalf("there is no kind %s", kind)
	return nil, nil
}

var started = time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)

// run runs a step with a bucket that may be another than the world's.
func (w *world) run(ctx context.Context, run, kind, with string, blob store.Blob) (*Report, error) {
	w.t.Helper()
	s, err := w.step(kind, with)
	if err != nil {
		return nil, err
	}
	w.last.Reset()
	task := w.task(run)
	task.Blob = cmp.Or(blob, w.blob)
	if err := s.Run(ctx, task); err != nil {
		return nil, err
	}
	var r Report
	if kind == "load" {
		err = json.Unmarshal(task.Outputs["report"].Value, &r)
	}
	return &r, err
}

// task is a try of the step of a run.
func (w *world) task(run string) *pipeline.Task {
	return &pipeline.Task{
		Pipeline: "shop", Run: run, Step: "data", Started: started, Dir: w.t.TempDir(), Blob: w.blob,
		Log: slog.New(slog.NewTextHandler(&w.last, nil)), Outputs: map[string]pipeline.Artifact{}, Progress: func(done, total int64, unit string) {},
	}
}

func (w *world) load(run, with string) *Report {
	w.t.Helper()
	r, err := w.run(w.t.Context(), run, "load", with, nil)
	if err != nil {
		w.t.Fatalf("run %s: %v\n%s", run, err, w.last.String())
	}
	return r
}

// sale is a row of either source.
type sale struct {
	At    time.Time `parquet:"at,timestamp(microsecond)"`
	Shop  string    `parquet:"shop"`
	N     *int64    `parquet:"n,optional"`
	Price *float64  `parquet:"price,optional"`
}

// rows gives what the offline store has of a source, sorted: of a row that is there twice, both.
func (w *world) rows(source string) (all []string) {
	w.t.Helper()
	defs, err := w.deps.Catalog.Current(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	src, err := defs.Source(source)
	if err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := w.deps.Offline.History(w.t.Context(), src, time.Time{}, &b); err != nil {
		w.t.Fatal(err)
	}
	read, err := parquet.Read[sale](bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range read {
		text := r.At.UTC().Format("01-02T15:04") + " " + r.Shop
		if r.N != nil {
			text += fmt.Sprintf(" %d", *r.N)
		}
		if r.Price != nil {
			text += fmt.Sprintf(" %g", *r.Price)
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// objects gives the keys below a prefix.
func (w *world) objects(prefix string) (keys []string) {
	w.t.Helper()
	for o, err := range w.blob.List(w.t.Context(), prefix, "") {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	g, w := fmt.Sprint(got), fmt.Sprint(want)
	if g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

const simple = `
  from: [{name: landed, files: landing/sales/}]
  sql: SELECT * FROM landed
  into: sales
`

// Files of all formats become rows, each file once; and a file that has changed is taken as a new one.
func TestLoadFiles(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n2026-01-02T10:00:00Z,\"y, z\",2,\n")
	w.put("landing/sales/b.jsonl", `{"at": "2026-01-01T11:00:00Z", "shop": "x", "n": 3, "price": 1}`+"\n"+`{"at": "2026-01-01T12:00:00Z", "shop": "x", "n": 4, "price": 7.25}`+"\n")
	w.put("landing/sales/c.csv.gz", zipped("at,shop,n,price\n2026-01-03T10:00:00Z,x,5,1\n"))
	n, price := int64(6), 9.5
	w.put("landing/sales/d.parquet", parquetOf(t, sale{time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC), "p", &n, &price}))
	const with = `
  from: [{name: landed, files: landing/sales/, columns: {at: TIMESTAMPTZ, shop: VARCHAR, n: BIGINT, price: DOUBLE}}]
  sql: SELECT * FROM landed
  into: sales
`
	r := w.load("1", with)
	want := []string{"01-01T10:00 x 1 2.5", "01-01T11:00 x 3 1", "01-01T12:00 x 4 7.25", "01-02T10:00 y, z 2", "01-03T10:00 x 5 1", "01-04T00:00 p 6 9.5"}
	equal(t, "rows", w.rows("sales"), want)
	equal(t, "report", []any{r.Files, r.Tables["landed"], r.Result, r.Rows, r.From, r.To}, []any{4, 6, 6, 6, time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC), time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC)})
	if staged := w.objects("pipelines/shop/staged/"); staged != nil {
		t.Errorf("left behind: %q", staged)
	}

	if r := w.load("2", with); r.Files != 0 || r.Result != 0 {
		t.Errorf("again: got %+v", r)
	}
	w.put("landing/sales/e.csv", "price,shop,at,n,more\n8,new,2026-01-05T10:00:00Z,7,?\n")
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n2026-01-02T10:00:00Z,changed,2,\n")
	r = w.load("3", with)
	equal(t, "report", []any{r.Files, r.Rows, r.Changed}, []any{2, 3, "[landing/sales/a.csv]"})
	equal(t, "rows", w.rows("sales"), append([]string{want[0], want[1], want[2], "01-02T10:00 changed 2"}, append(want[3:], "01-05T10:00 new 7 8")...))
	if r := w.load("3", with); r.Files != 2 {
		t.Errorf("the same run again tells %+v", r)
	}
}

// CSV as people's programs write it: with a mark at the beginning, ends of lines of two characters, lines within values, none at the end.
func TestCSV(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	for i, content := range []string{
		"\xef\xbb\xbfn,shop,at,price\r\n1,\"a\r\nb\",2026-01-01T10:00:00Z,1\r\n2,c,2026-01-01T10:00:00Z,1.5\r\n",
		"price,at,n,\"shop\"\r\n1,2026-01-02 10:00:00+00,3,\"say \"\"d\"\"\"\r\n,2026-01-02 11:00:00+01:00,4,e",
		"shop,n,at,price\nf,5,2026-01-03,\n",
	} {
		w.put(fmt.Sprintf("landing/sales/b%d.csv", i), content)
		w.load(fmt.Sprint(i), simple)
	}
	equal(t, "rows", fmt.Sprintf("%q", w.rows("sales")), `["01-01T10:00 a\r\nb 1 1" "01-01T10:00 c 2 1.5" "01-01T10:00 x 1 2.5" "01-02T10:00 e 4" "01-02T10:00 say \"d\" 3 1" "01-03T00:00 f 5"]`)
}

// A source that is files gets a file for each run.
func TestLoadIntoFiles(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	with := strings.Replace(simple, "into: sales", "into: prices", 1)
	w.load("1", with)
	equal(t, "rows", w.rows("prices"), "[01-01T10:00 x 1 2.5]")
	equal(t, "files", w.objects("prices/"), "[prices/shop.data.1.parquet]")
	if _, err := w.run(t.Context(), "1", "materialize", "  source: prices", nil); err != nil {
		t.Fatal(err)
	}
	_, err := w.run(t.Context(), "2", "load", strings.Replace(with, "landing/sales/", "prices/raw/", 1), nil)
	wantError(t, err, fault.Invalid, "would read what it writes")
}

func wantError(t *testing.T, err error, kind fault.Kind, parts ...string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("got %v of kind %v, want kind %v", err, fault.KindOf(err), kind)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q in it", err, part)
		}
	}
}

// Rows that are not what is expected are kept aside, with all that is wrong with them.
func TestExpectations(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/shops/all.csv", "shop\nx\ny\n")
	var b strings.Builder
	b.WriteString("at,shop,n,price\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "2026-01-01T%02d:%02d:00Z,x,%d,1\n", i/60, i%60, i)
	}
	b.WriteString("2026-02-01T00:00:00Z,x,,1\n")     // no n
	b.WriteString("2026-02-01T00:01:00Z,x,5,1\n")    // n is there
	b.WriteString("2026-02-01T00:02:00Z,q,2000,1\n") // no such shop, twice
	b.WriteString("2026-02-01T00:03:00Z,y,2001,NaN\n")
	b.WriteString("2026-02-01T00:04:00Z,y,2002,-1\n") // by the source too
	b.WriteString("2036-02-01T00:00:00Z,y,2003,1\n")  // ahead, by the source alone
	w.put("landing/sales/a.csv", b.String())
	const with = `
  from: [{name: landed, files: landing/sales/}, {name: shops, files: landing/shops/, all: true}]
  sql: SELECT * FROM landed
  into: sales
  expect:
  - {check: not_null, columns: [n, shop]}
  - {check: unique, columns: [n]}
  - {check: one_of, columns: [shop], values: [x, y]}
  - {check: reference, columns: [shop], in: shops.shop}
  - {check: range, columns: [price], min: 0}
  - {check: rows, min: 5}
`
	r := w.load("1", with)
	equal(t, "counts", []any{r.Result, r.Rows, r.SetAside}, []any{1006, 1000, 6})
	want := map[string]int64{"not_null(n)": 1, "unique(n)": 1, "one_of(shop)": 1, "reference(shop)": 1, "range(price)": 2, "source: ahead": 1}
	equal(t, "reasons", r.Reasons, want)
	data, _, err := store.ReadAll(t.Context(), w.blob, r.Aside)
	if err != nil {
		t.Fatal(err)
	}
	type aside struct {
		Reason string `parquet:"_reason"`
		Shop   string `parquet:"shop"`
	}
	kept, err := parquet.Read[aside](bytes.NewReader(data), int64(len(data)))
	if err != nil || len(kept) != 7 {
		t.Fatalf("aside: got %d rows, %v", len(kept), err)
	}
	var why []string
	for _, a := range kept {
		if a.Shop == "q" {
			why = append(why, a.Reason)
		}
	}
	slices.Sort(why)
	equal(t, "aside", why, "[one_of(shop) reference(shop)]")

	for name, c := range map[string]struct{ with, want string }{
		"too many":        {with + "  most: 0.1%\n", "6 of 1006 rows are not what is expected of them, more than 0.1%: 2 range(price)"},
		"fail":            {strings.Replace(with, "columns: [price], min: 0}", "columns: [price], min: 0, on_fail: fail}", 1), "expectation range(price): 2 of 1006 rows are not so: expected at least 0"},
		"rows":            {strings.Replace(with, "min: 5}", "min: 5000}", 1), "the SQL gives 1006 rows, expected at least 5000"},
		"no column":       {strings.Replace(with, "[n, shop]", "[m]", 1), `the SQL gives no column "m", but at, shop, n, price`},
		"not number":      {strings.Replace(with, "{check: range, columns: [price], min: 0}", "{check: range, columns: [shop], min: 0}", 1), "expectation range(shop): Conversion Error"},
		"no table column": {strings.Replace(with, "shops.shop", "shops.name", 1), "expectation reference(shop): Binder Error"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, memBlob(t))
			w.put("landing/shops/all.csv", "shop\nx\ny\n")
			w.put("landing/sales/a.csv", b.String())
			_, err := w.run(t.Context(), "1", "load", c.with, nil)
			wantError(t, err, fault.Invalid, c.want)
			if keys := w.objects("features/log/"); keys != nil {
				t.Errorf("published all the same: %q", keys)
			}
			if r := w.load("2", with); r.Rows != 1000 {
				t.Errorf("the next run: got %+v", r)
			}
		})
	}
	w.put("landing/sales/b.csv", "at,shop,n,price\n2026-03-01T00:00:00Z,x,3000,1\n")
	_, err = w.run(t.Context(), "2", "load", strings.Replace(with, "{check: rows, min: 5}", "{check: change, min: 0.5, max: 2}", 1), nil)
	wantError(t, err, fault.Invalid, "the SQL gives 1 rows and gave 1006 in the run before, expected 0.5 to 2 as many")
}

// A file that can't be read fails the run, by its name and the reason, and stands in the way of no later one; or is left out at once.
func TestBadFiles(t *testing.T) {
	const good = "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n"
	n := int64(6)
	whole := parquetOf(t, sale{started, "p", &n, nil})
	for name, c := range map[string]struct{ file, content, want string }{
		"bad line":          {"b.csv", good + "2026-01-01T10:00:00Z,x\n", "Line: 3"},
		"not a number":      {"b.csv", good + "2026-01-01T10:00:00Z,x,one,1\n", `Could not convert string "one" to 'BIGINT'`},
		"quote":             {"b.csv", good + "2026-01-01T10:00:00Z,\"x,1,1\n", "Line: 3"},
		"lost":              {"b.csv", "at,shop,price\n2026-01-01T10:00:00Z,x,1\n", "its columns have changed: there is no n; it has at, shop, price"},
		"twice":             {"b.csv", "at,shop,n,price,N\n", `the name "N" twice`},
		"lost in JSON":      {"b.jsonl", `{"at": "2026-01-01T10:00:00Z", "shop": "x", "n": 1}`, "there is no price"},
		"JSON":              {"b.jsonl", `{"at": "2026-01-01T10:00:00Z", "shop": "x", "n": 1, "price": 2}` + "\n" + `{"at": "20`, "the file"},
		"JSON array":        {"b.json", `[1, 2]`, ""},
		"truncated Parquet": {"b.parquet", whole[:len(whole)-20], "No magic bytes"},
		"no Parquet":        {"b.parquet", "hello, world", "No magic bytes"},
		"changed type": {"b.parquet", parquetOf(t, struct {
			At    time.Time `parquet:"at,timestamp(microsecond)"`
			Shop  string    `parquet:"shop"`
			N     float64   `parquet:"n"`
			Price float64   `parquet:"price"`
		}{started, "x", 1, 2}), "n is DOUBLE, expected BIGINT"},
		"no gzip":        {"b.csv.gz", "hello, world", "gzip"},
		"truncated gzip": {"b.csv.gz", zipped(good)[:30], ""},
		"empty":          {"b.csv", "", "it is empty"},
		"other":          {"b.xlsx", "PK", "no format that is read"},
		"binary":         {"b.csv", "at,shop,n,price\n\x00\xff\xfe,\x00,\x00,\x00\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, memBlob(t))
			w.put("landing/sales/a.csv", good)
			w.load("1", simple)
			w.put("landing/sales/"+c.file, c.content)
			w.put("landing/sales/c.csv", "at,shop,n,price\n2026-01-01T11:00:00Z,y,1,2.5\n")
			for range 2 { // the run is the same, killed behind its last write
				_, err := w.run(t.Context(), "2", "load", simple, nil)
				wantError(t, err, fault.Invalid, `the file "landing/sales/`+c.file+`" can't be read: `, c.want)
				if err != nil && strings.Contains(err.Error(), os.TempDir()) {
					t.Errorf("it says where files are here: %v", err)
				}
			}
			equal(t, "rows of the run that failed", w.rows("sales"), "[01-01T10:00 x 1 2.5]")
			if r := w.load("3", simple); r.LeftOut != 1 || r.Files != 1 {
				t.Errorf("the next run: got %+v", r)
			}
			equal(t, "rows", w.rows("sales"), "[01-01T10:00 x 1 2.5 01-01T11:00 y 1 2.5]")
			w.put("landing/sales/"+c.file, good+"\n") // mended; not what it is by its name, but for some
			if _, err := w.run(t.Context(), "4", "load", simple, nil); strings.HasSuffix(c.file, ".csv") && err != nil {
				t.Error(err)
			}

			w = newWorld(t, memBlob(t))
			w.put("landing/sales/a.csv", good)
			w.put("landing/sales/"+c.file, c.content)
			r := w.load("1", simple+"  bad_files: quarantine\n")
			equal(t, "left out", []any{r.Files, r.BadFiles, r.Bad[0].Key}, []any{1, 1, "landing/sales/" + c.file})
		})
	}
}

// A file that grows beyond all room is a bad one.
func TestBomb(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.conf.Memory, w.conf.Disk = env.Size(128<<20), env.Size(16<<20)
	w.put("landing/sales/a.csv.gz", zipped("at,shop,n,price\n"+strings.Repeat("2026-01-01T10:00:00Z,a shop with a name that takes some room,1,2.5\n", 3_000_000)))
	w.put("landing/sales/b.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	r := w.load("1", simple+"  bad_files: quarantine\n")
	equal(t, "report", []any{r.Files, r.Rows, r.Bad[0].Reason}, []any{1, 1, "it does not fit into ETL_MEMORY (128MiB) and ETL_DISK (16MiB)"})
}

// A file to learn the columns from that can't be read teaches nothing.
func TestBadFirst(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "when,where\n1,2\n\"3,4\n")
	w.put("landing/sales/b.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	w.put("landing/sales/c.parquet", "PAR1 nothing PAR1")
	r := w.load("1", simple+"  bad_files: quarantine\n")
	equal(t, "left out", []any{r.Files, r.BadFiles}, []any{1, 2})
}

func TestDefinitions(t *testing.T) {
	w := newWorld(t, memBlob(t))
	for with, want := range map[string]string{
		"  sql: SELECT 1\n  into: sales":                                                "from says no table",
		"  from: [{name: a, files: b/}]\n  into: sales":                                 "sql is missing",
		"  from: [{name: a, files: b/}]\n  sql: SELECT 1":                               "into says no source",
		simple + "  most: 101%":                                                         "is no share",
		simple + "  bad_files: burn":                                                    "bad_files",
		simple + "  nope: 1":                                                            `no field "nope"`,
		simple + "  expect: [{check: nope}]":                                            "there is no such check",
		simple + "  expect: [{check: range, columns: [n]}]":                             "it takes columns and min or max",
		simple + "  expect: [{check: range, columns: [n], min: 2, max: 1}]":             "min is more than max",
		simple + "  expect: [{check: rows, min: 2, on_fail: quarantine}]":               "about no single rows",
		simple + "  expect: [{check: reference, columns: [n], in: nope.n}]":             "expected a table of from",
		strings.Replace(simple, "name: landed", "name: 'a; DROP'", 1):                   "a name has lower case",
		strings.Replace(simple, "landing/sales/", "../x/", 1):                           "expected a folder",
		strings.Replace(simple, "landing/sales/", "landing", 1):                         "expected a folder",
		strings.Replace(simple, "sales/}", "sales/, source: x}", 1):                     "expected one of files",
		strings.Replace(simple, "sales/}", "sales/, last: 7d}", 1):                      "last is not of files",
		strings.Replace(simple, "sales/}", "sales/, columns: {a: 'INT) --'}}", 1):       "is no type",
		strings.Replace(simple, "}]", "}, {name: landed, source: sales}]", 1):           "is there twice",
		strings.Replace(simple, "files: landing/sales/", "source: sales, all: true", 1): "are of files",
	} {
		_, err := w.step("load", with)
		wantError(t, err, fault.Invalid, want, "step:")
	}
	if _, err := w.step("materialize", "  {source: a, views: [b]}"); err == nil {
		t.Error("materialize took both")
	}
}

// What is wrong with the SQL is told with its place; and it reaches nothing but its tables.
func TestBadSQL(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	secret := t.TempDir() + "/secret.csv"
	if err := os.WriteFile(secret, []byte("a\n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]string{
		"SELECT shop,\n nope FROM landed":                                     `sql, line 2 at "nope FROM landed": Binder Error: Referenced column "nope" not found`,
		"SELECT n\nFROM landed WHERE WHERE":                                   `sql, line 2: syntax error`,
		"SELECT * FROM nope":                                                  "sql, line 1",
		"SELECT * FROM landed; DROP TABLE landed":                             "sql is not one SELECT",
		"DROP TABLE landed":                                                   "sql is not one SELECT",
		"COPY landed TO '" + secret + "'":                                     "sql is not one SELECT",
		"SET memory_limit = '1TB'":                                            "sql is not one SELECT",
		"-- nothing":                                                          "sql is not one SELECT",
		"SELECT * FROM read_csv('" + secret + "')":                            "disabled by configuration",
		"SELECT * FROM '" + secret + "'":                                      "sql",
		"SELECT content FROM read_text('/etc/hostname')":                      "disabled by configuration",
		"SELECT * FROM read_csv('https://localhost/x.csv')":                   "sql",
		"SELECT * FROM glob('/etc/*')":                                        "disabled by configuration",
		"SELECT CAST(shop AS INTEGER) AS n, \"at\", shop FROM landed":         `Could not convert string 'x' to INT32`,
		"SELECT \"at\", shop, 1.5 AS n FROM landed":                           "not of the types that source sales has",
		"SELECT \"at\", shop, n, 1 AS extra FROM landed":                      `a column "extra", which source sales does not have`,
		"SELECT \"at\", n FROM landed":                                        `no column "shop", which source sales requires`,
		"SELECT \"at\", shop, CAST(error('stop') AS BIGINT) AS n FROM landed": "stop",
	} {
		_, err := w.run(t.Context(), "1", "load", strings.Replace(simple, "SELECT * FROM landed", "|\n    "+strings.ReplaceAll(sql, "\n", "\n    "), 1), nil)
		wantError(t, err, fault.Invalid, want)
	}
	if r := w.load("2", strings.Replace(simple, "SELECT * FROM landed", "FROM landed SELECT *; -- all of it", 1)); r.Rows != 1 {
		t.Errorf("got %+v", r)
	}
}

// SQL that never ends is ended with its time, and what eats memory is refused; the process stays as it was.
func TestEndlessSQL(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.conf.Memory = env.Size(128 << 20)
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	for sql, kind := range map[string]fault.Kind{
		"SELECT max(landed.at) AS \"at\", 'x' AS shop, (SELECT count(*) FROM range(1000000000000) r(i) WHERE i % 7 = 3) AS n FROM landed":    fault.Deadline,
		"WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT \"at\", shop, i AS n FROM landed, t":                         fault.Deadline,
		"SELECT \"at\", shop, len(list(i)) AS n FROM landed, range(100000000000) r(i) GROUP BY ALL":                                          fault.Invalid,
		"SELECT \"at\", string_agg(CAST(i AS VARCHAR)) AS shop, 1 AS n FROM landed, range(100000000000) r(i) GROUP BY ALL":                   fault.Invalid,
		"SELECT \"at\", shop, CAST(sum(len(repeat(CAST(i AS VARCHAR), 100000000))) AS BIGINT) AS n FROM landed, range(10) r(i) GROUP BY ALL": fault.Invalid,
	} {
		most := time.Minute
		if kind == fault.Deadline {
			most = 2 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), most)
		_, err := w.run(ctx, "1", "load", strings.Replace(simple, "SELECT * FROM landed", sql, 1), nil)
		cancel()
		if kind == fault.Invalid {
			wantError(t, err, kind, "ETL_MEMORY")
		} else {
			wantError(t, err, kind, "did not end within the time of the step")
		}
	}
	if r := w.load("2", simple); r.Rows != 1 {
		t.Errorf("got %+v", r)
	}
}

// What does not fit into memory goes to disk, and a million bad rows are kept aside.
func TestManyRows(t *testing.T) {
	w := newWorld(t, memBlob(t))
	w.conf.Memory = env.Size(256 << 20)
	w.put("landing/sales/a.csv", "at,shop,n,price\n2026-01-01T10:00:00Z,x,1,2.5\n")
	const many = "SELECT landed.at + to_microseconds(i) AS \"at\", shop || i AS shop, i AS n, CASE WHEN i < 1000000 THEN -1 ELSE i END AS price FROM landed, range(1200000) r(i)"
	with := strings.Replace(simple, "SELECT * FROM landed", many, 1) + "  expect: [{check: unique, columns: [shop]}]\n"
	_, err := w.run(t.Context(), "1", "load", with, nil)
	wantError(t, err, fault.Invalid, "1000000 of 1200000 rows", "1000000 source: range")
	equal(t, "kept", w.objects("pipelines/shop/quarantine/"), "[pipelines/shop/quarantine/1/data.parquet]")
	r := w.load("2", with+"  most: 100%\n")
	equal(t, "counts", []any{r.Rows, r.SetAside}, []any{200_000, 1_000_000})
}

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

func parquetOf[T any](t *testing.T, rows ...T) string {
	t.Helper()
	var b bytes.Buffer
	if err := parquet.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

package offline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// What a training set says is what an oracle says that knows nothing of states, sorting
// and files: for each asked row it looks at all rows that were known by then.
func TestTrainingSetOracle(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { checkOracle(t, seed) })
	}
}

const hour = int64(time.Hour / time.Microsecond)

// world is random definitions with random rows.
type world struct {
	r    *rand.Rand
	defs *feature.Compiled
	rows map[string][]feature.Row // by source
	blob store.Blob

	expression bool
	again      int64 // how often rows were added
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 7)), rows: map[string][]feature.Row{}}
	w.blob = memBlob(t)
	var b strings.Builder
	fmt.Fprint(&b, `
entities:
- {name: shop, keys: [{name: shop, type: string}]}
- {name: pair, keys: [{name: shop, type: string}, {name: item, type: int64}]}
sources:
- {name: pushed, time: at, fields: [{name: shop, type: string}, {name: item, type: int64}, {name: at, type: timestamp}, {name: price, type: float64},
   {name: n, type: int32}, {name: ok, type: bool}, {name: word, type: string}, {name: tags, type: list(string)}, {name: when, type: timestamp}, {name: raw, type: bytes}]}
- {name: filed, time: at, created: made, path: landing/filed/, fields: [{name: shop, type: string}, {name: item, type: int64}, {name: at, type: timestamp}, {name: price, type: float32},
   {name: n, type: int64}, {name: ok, type: bool}, {name: word, type: string}, {name: tags, type: list(int64)}, {name: made, type: timestamp}, {name: day, type: string}, {name: absent, type: float64}]}
views:
`)
	var choices []string
	choose := func(view int, column string) {
		choice := fmt.Sprintf(`{feature: "v%d:%s", as: v%d__%s`, view, column, view, column)
		if column == "price" {
			choice += ", default: -77"
		}
		choices = append(choices, choice+"}")
	}
	choose(0, "count")
	fmt.Fprint(&b, "- {name: v0, entities: [shop], source: pushed, windows: [{name: count, aggregate: count, of: n, size: 10h, slide: 1h}]}\n")
	views := 2 + w.r.IntN(4)
	for i := 1; i < views; i++ {
		source := []string{"pushed", "filed"}[w.r.IntN(2)]
		fmt.Fprintf(&b, "- {name: v%d, entities: [%s], source: %s", i, []string{"shop", "pair"}[w.r.IntN(2)], source)
		if w.r.IntN(2) == 0 {
			if w.r.IntN(2) == 0 {
				fmt.Fprintf(&b, ", ttl: %dm", 1+w.r.IntN(600))
			}
			columns := []string{"price", "n", "ok", "word", "tags"}
			w.r.Shuffle(len(columns), func(i, j int) { columns[i], columns[j] = columns[j], columns[i] })
			columns = columns[:1+w.r.IntN(len(columns))]
			columns = append(columns, map[string][]string{"pushed": {"when", "raw"}, "filed": {"day", "absent"}}[source]...)
			fmt.Fprintf(&b, ", features: [%s]}\n", strings.Join(columns, ", "))
			for _, c := range columns {
				choose(i, c)
			}
			continue
		}
		fmt.Fprintf(&b, ", lateness: %dm, windows: [", w.r.IntN(200))
		for k := range 1 + w.r.IntN(4) {
			kind := []string{"count", "sum", "mean", "min", "max", "distinct", "last"}[w.r.IntN(7)]
			of := []string{"price", "n"}[w.r.IntN(2)]
			if kind == "distinct" || kind == "last" || kind == "count" {
				of = []string{"price", "n", "word"}[w.r.IntN(3)]
			}
			choose(i, fmt.Sprintf("w%d", k))
			slide, times := 10*(1+w.r.IntN(6)), 1+w.r.IntN(10)
			fmt.Fprintf(&b, "{name: w%d, aggregate: %s, of: %s, size: %dm", k, kind, of, slide*times)
			if w.r.IntN(3) > 0 {
				fmt.Fprintf(&b, ", slide: %dm", slide)
			}
			fmt.Fprint(&b, "}, ")
		}
		fmt.Fprint(&b, "]}\n")
	}
	if w.r.IntN(2) == 0 {
		w.expression = true
		fmt.Fprint(&b, `expressions: [{name: on, inputs: [{name: bonus, type: float64}], features: [{name: half, type: float64, value: "bonus / 2.0"}, {name: n, type: int64, value: "v0.count + int(bonus)"}]}]`+"\n")
		choices = append(choices, `"on:half"`, `{feature: "on:n", as: on__n, default: -5}`)
	}
	fmt.Fprintf(&b, "services:\n- {name: all, features: [%s]}\n", strings.Join(choices, ", "))
	set, err := feature.Parse("world.yaml", []byte(b.String()))
	if err == nil {
		w.defs, err = feature.Compile(set)
	}
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	w.fill(t)
	return w
}

const epoch = int64(1_372_900_000_000_000)

// fill makes rows and writes them: pushed ones into the log, some of them again with a
// later created time, and filed ones as files.
func (w *world) fill(t *testing.T) {
	for name := range map[string]bool{"pushed": true, "filed": true} {
		src, err := w.defs.Source(name)
		if err != nil {
			t.Fatal(err)
		}
		n := w.r.IntN(300)
		for i := range int64(n) {
			event := epoch + w.r.Int64N(30)*hour + w.r.Int64N(50)*60e6
			if name == "filed" {
				event += i + 1000*w.again // no two times are the same, for the id that decides then is not known here
			}
			created := event
			if w.r.IntN(3) == 0 {
				created += w.r.Int64N(4 * hour)
			}
			if name == "pushed" && w.again > 0 {
				created = epoch + 40*hour + i
			}
			values := make([]row.Value, len(src.Fields))
			for i, f := range src.Fields {
				values[i] = w.value(f, event, created)
			}
			w.rows[name] = append(w.rows[name], feature.Row{Values: values, Event: event, Created: created, ID: w.r.Uint64()})
		}
	}
	src, _ := w.defs.Source("pushed")
	log, err := segment.NewLog(w.blob, "pushed", src.Columns)
	if err != nil {
		t.Fatal(err)
	}
	rows := w.rows["pushed"]
	for len(rows) > 0 {
		n := 1 + w.r.IntN(len(rows))
		again := slices.Clone(rows[:n])
		for _, x := range rows[:n] {
			if w.r.IntN(5) == 0 {
				x.Created += w.r.Int64N(2) * w.r.Int64N(3*hour)
				again = append(again, x)
			}
		}
		w.r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if _, err := log.Append(t.Context(), func(yield func(segment.Row) bool) {
			for _, x := range again {
				if !yield(segment.Row(x)) {
					return
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		rows = rows[n:]
	}
	// Files are partitioned by the column day, which is not in them, as is absent.
	src, _ = w.defs.Source("filed")
	days := map[string][]segment.Row{}
	for i := range w.rows["filed"] {
		x := &w.rows["filed"][i]
		day := segment.Day(x.Event)
		x.Values[src.At["day"]] = row.OfString(day)
		x.Values[src.At["absent"]] = row.Value{}
		days[day] = append(days[day], segment.Row{Values: x.Values[:src.At["day"]]})
	}
	shape, err := segment.NewShape(src.Columns[:src.At["day"]])
	if err != nil {
		t.Fatal(err)
	}
	for day, rows := range days {
		var b bytes.Buffer
		f := shape.Writer(&b)
		if err := errors.Join(f.Write(rows), f.Close()); err != nil {
			t.Fatal(err)
		}
		put(t, w.blob, "landing/filed/day="+day+fmt.Sprintf("/a%d.parquet", w.again), b.Bytes())
		if w.r.IntN(4) == 0 {
			put(t, w.blob, "landing/filed/day="+day+fmt.Sprintf("/b%d.parquet", w.again), b.Bytes())
		}
	}
	put(t, w.blob, "landing/filed/_SUCCESS", nil)
}

func put(t *testing.T, blob store.Blob, key string, b []byte) {
	t.Helper()
	if _, err := blob.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
		t.Fatal(err)
	}
}

// value is a random one; floats are such that sums are exact in any order.
func (w *world) value(f feature.Field, event, created int64) row.Value {
	switch f.Name {
	case "at":
		return row.OfMicros(event)
	case "made":
		if created == event && w.r.IntN(2) == 0 {
			return row.Value{}
		}
		return row.OfMicros(created)
	case "shop":
		return row.OfString(fmt.Sprintf("00%d", w.r.IntN(5)))
	case "item":
		return row.OfInt64(w.r.Int64N(3))
	}
	if w.r.IntN(6) == 0 {
		return row.Value{}
	}
	n := w.r.Int64N(20) - 10
	switch f.Type {
	case row.Bool:
		return row.OfBool(n > 0)
	case row.Int32:
		return row.OfInt32(int32(n))
	case row.Int64:
		return row.OfInt64(n)
	case row.Float32:
		return row.OfFloat32(float32(n) / 4)
	case row.Float64:
		return row.OfFloat64(float64(n) / 4)
	case row.Bytes:
		return row.OfBytes([]byte{byte(n), 0})
	case row.Timestamp:
		return row.OfMicros(epoch + n)
	case row.ListOf(row.Int64):
		return row.OfList(row.Int64, slices.Repeat([]row.Value{row.OfInt64(n)}, int(max(n, 0)))...)
	case row.ListOf(row.String):
		return row.OfList(row.String, slices.Repeat([]row.Value{row.OfString("é")}, int(max(n, 0)))...)
	}
	return row.OfString(fmt.Sprint("word ", n))
}

// asked is one row that is asked for.
type asked struct {
	shop, item row.Value
	at         int64
	label      string
	bonus      row.Value
}

func (w *world) ask(n int) []asked {
	rows := make([]asked, n)
	for i := range rows {
		rows[i] = asked{row.OfString(fmt.Sprintf("00%d", w.r.IntN(6))), row.OfInt64(w.r.Int64N(4)), epoch + w.r.Int64N(40)*hour + w.r.Int64N(50)*60e6, fmt.Sprint("label ", i), row.OfFloat64(float64(w.r.IntN(100)))}
		if w.r.IntN(10) == 0 {
			rows[i].shop = row.Value{}
		}
		if w.r.IntN(10) == 0 {
			rows[i].item = row.Value{}
		}
		if w.r.IntN(10) == 0 {
			rows[i].bonus = row.Value{}
		}
	}
	return rows
}

func encodeAsked(t *testing.T, rows []asked, format Format) []byte {
	var b bytes.Buffer
	switch format {
	case Parquet:
		shape, err := segment.NewShape([]row.Field{{Name: "shop", Type: row.String}, {Name: "label", Type: row.String}, {Name: Moment, Type: row.Timestamp}, {Name: "item", Type: row.Int64}, {Name: "bonus", Type: row.Float64}})
		if err != nil {
			t.Fatal(err)
		}
		f := shape.Writer(&b)
		for _, x := range rows {
			if err := f.Write([]segment.Row{{Values: []row.Value{x.shop, row.OfString(x.label), row.OfMicros(x.at), x.item, x.bonus}}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	case CSV:
		f := csv.NewWriter(&b)
		text := func(v row.Value) string {
			if v.Null() {
				return ""
			}
			return strings.Trim(v.String(), `"`)
		}
		_ = f.Write([]string{"shop", "label", Moment, "item", "bonus"})
		for _, x := range rows {
			_ = f.Write([]string{text(x.shop), x.label, time.UnixMicro(x.at).In(time.FixedZone("", 3600)).Format(time.RFC3339Nano), text(x.item), text(x.bonus)})
		}
		f.Flush()
	case JSON:
		for _, x := range rows {
			line, err := json.Marshal(map[string]any{"shop": x.shop, "item": x.item, "label": x.label, "bonus": x.bonus, Moment: row.OfMicros(x.at)})
			if err != nil {
				t.Fatal(err)
			}
			b.Write(append(line, '\n'))
		}
	}
	return b.Bytes()
}

func checkOracle(t *testing.T, seed uint64) {
	w := newWorld(t, seed)
	s := open(t, w.blob)
	if seed%2 == 0 {
		s.files.from = 1
	}
	plan := w.plan(t)
	rows := w.ask(1 + w.r.IntN(300))
	format := []Format{Parquet, CSV, JSON}[seed%3]
	got := w.train(t, s, plan, encodeAsked(t, rows, format), format)
	if len(got) != len(rows) {
		t.Fatalf("got %d rows, want %d", len(got), len(rows))
	}
	for i, x := range rows {
		if got[i][0].Text() != x.label {
			t.Fatalf("row %d has the label %s, want %q", i, got[i][0], x.label)
		}
		for c, column := range plan.Columns {
			want := w.oracle(t, column, x)
			if want.Null() {
				want = column.Default
			}
			if g := got[i][1+c]; !g.Equal(want) {
				t.Fatalf("row %d %v: %s is %s %s, want %s %s", i, x, column.Name, g.Type(), g, want.Type(), want)
			}
		}
	}
}

// plan has all features, and expressions in half of the worlds.
func (w *world) plan(t *testing.T) *feature.Plan {
	t.Helper()
	plan, err := w.defs.Service("all")
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// train gives the labels and the plan's columns.
func (w *world) train(t *testing.T, s *Store, plan *feature.Plan, rows []byte, format Format) [][]row.Value {
	t.Helper()
	path := filepath.Join(t.TempDir(), "set.parquet")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.TrainingSet(t.Context(), plan, bytes.NewReader(rows), format, f), f.Close()); err != nil {
		t.Fatal(err)
	}
	fields := []row.Field{{Name: "label", Type: row.String}}
	for _, c := range plan.Columns {
		fields = append(fields, row.Field{Name: c.Name, Type: c.Type})
	}
	from, err := duck.OpenScan(path, fields)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	var all [][]row.Value
	for {
		values := make([]row.Value, len(fields))
		if err := from.Next(values); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, values)
	}
}

// oracle says a column's value of an asked row, by the definition.
func (w *world) oracle(t *testing.T, c feature.Column, x asked) row.Value {
	if c.View == "on" {
		if x.bonus.Null() {
			return row.Value{}
		}
		if c.Feature == "half" {
			return row.OfFloat64(x.bonus.Float() / 2)
		}
		n := w.oracle(t, feature.Column{View: "v0", Feature: "count", Type: row.Int64}, x)
		if n.Null() {
			return n
		}
		return row.OfInt64(n.Int() + int64(x.bonus.Float()))
	}
	view, err := w.defs.View(c.View)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range view.Keys {
		if (map[string]row.Value{"shop": x.shop, "item": x.item}[k.Name]).Null() {
			return row.Value{} // of no entity
		}
	}
	var known []feature.Row
	for _, r := range w.rows[view.Source] {
		same := r.Created <= x.at
		for i, k := range view.Keys {
			key := map[string]row.Value{"shop": x.shop, "item": x.item}[k.Name]
			same = same && r.Values[view.KeyAt[i]].Equal(key)
		}
		if same {
			known = append(known, r)
		}
	}
	of := func(name string) func(feature.Row) row.Value {
		return func(r feature.Row) row.Value { return r.Values[view.From.At[name]] }
	}
	byEvent := func(a, b feature.Row) int {
		return cmp.Or(cmp.Compare(a.Event, b.Event), cmp.Compare(a.Created, b.Created))
	}
	at := view.At[c.Feature]
	if len(view.Windows) == 0 {
		if len(known) == 0 {
			return row.Value{}
		}
		newest := slices.MaxFunc(known, func(a, b feature.Row) int {
			if order := byEvent(a, b); order != 0 {
				return order
			}
			// The whole row decides, as it is written down.
			values := func(r feature.Row) (v []row.Value) {
				for _, at := range view.FromAt {
					v = append(v, r.Values[at])
				}
				return v
			}
			return bytes.Compare(row.Append(nil, view.Columns, values(a)), row.Append(nil, view.Columns, values(b)))
		})
		if view.TTL > 0 && x.at-newest.Event > time.Duration(view.TTL).Microseconds() {
			return row.Value{}
		}
		return of(c.Feature)(newest)
	}
	// Late rows: those behind what was known before them.
	slices.SortStableFunc(known, func(a, b feature.Row) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Event, b.Event))
	})
	win := view.Windows[at]
	size, slide := time.Duration(win.Size).Microseconds(), time.Duration(win.Slide).Microseconds()
	end := x.at / size * size
	if slide > 0 {
		end = (x.at/slide + 1) * slide
	}
	var inside []feature.Row
	newest := int64(0)
	for _, r := range known {
		late := r.Event < newest-time.Duration(view.Lateness).Microseconds()
		newest = max(newest, r.Event)
		if !late && r.Event >= end-size && r.Event < end && !of(win.Of)(r).Null() {
			inside = append(inside, r)
		}
	}
	sum, seen := 0.0, map[string]bool{}
	var least, most row.Value
	for _, r := range inside {
		v := of(win.Of)(r)
		sum += v.Float()
		seen[v.String()] = true
		if least.Null() || v.Float() < least.Float() {
			least = v
		}
		if most.Null() || v.Float() > most.Float() {
			most = v
		}
	}
	n := len(inside)
	switch {
	case win.Aggregate == "count":
		return row.OfInt64(int64(n))
	case win.Aggregate == "distinct":
		return row.OfInt64(int64(len(seen)))
	case n == 0:
		return row.Value{}
	case win.Aggregate == "sum" && c.Type == row.Int64:
		return row.OfInt64(int64(sum))
	case win.Aggregate == "sum":
		return row.OfFloat64(sum)
	case win.Aggregate == "mean":
		return row.OfFloat64(sum / float64(n))
	case win.Aggregate == "min":
		return least
	case win.Aggregate == "max":
		return most
	}
	return of(win.Of)(slices.MaxFunc(inside, func(a, b feature.Row) int { return cmp.Or(byEvent(a, b), cmp.Compare(a.ID, b.ID)) }))
}

func memBlob(t *testing.T) store.Blob {
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func open(t *testing.T, blob store.Blob) *Store {
	t.Helper()
	kv, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), &Config{Memory: env.Size(128 << 20), Dir: t.TempDir(), Cache: env.Size(64 << 20), Vectors: 10_000, Keep: time.Hour}, Deps{Blob: blob, KV: kv, Online: online})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestTrainingSetRefuses(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	plan := w.plan(t)
	for _, c := range []struct {
		name   string
		format Format
		rows   string
		want   string
	}{
		{"no key", CSV, "shop,event_timestamp\nx,2013-07-04", `no column "item"`},
		{"no moment", CSV, "shop,item\nx,1", `no column "event_timestamp"`},
		{"a moment that is none", CSV, "shop,item,event_timestamp\nx,1,2013-07-04\nx,1,", "row 2 has no event_timestamp"},
		{"a moment in words", CSV, "shop,item,event_timestamp\nx,1,noon", "noon"},
		{"a key of another type", CSV, "shop,item,event_timestamp\nx,y,2013-07-04", "'y'"},
		{"a key that is no integer", JSON, `{"shop":"x","item":1.5,"event_timestamp":"2013-07-04T00:00:00Z"}`, "1.5"},
		{"a feature's name", CSV, "shop,item,event_timestamp,bonus,V0__count\nx,1,2013-07-04,3,3", `also the name of a feature`},
		{"no JSON", JSON, "hello", "can't be read as json"},
		{"no Parquet", Parquet, "hello", "can't be read as parquet"},
		{"nothing", Parquet, "", "can't be read as parquet"},
		{"another format", "xml", "<x/>", "xml"},
	} {
		var b bytes.Buffer
		err := s.TrainingSet(t.Context(), plan, strings.NewReader(c.rows), c.format, &b)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), c.want) || strings.Contains(fault.Message(err), s.dir) || b.Len() > 0 {
			t.Errorf("%s: got %v, want an invalid fault that says %s, and not where files lie", c.name, err, c.want)
		}
	}
	if n := jobs(t, s); n > 0 {
		t.Errorf("%d folders of jobs are left", n)
	}
}

// jobs counts what jobs have left behind.
func jobs(t *testing.T, s *Store) int {
	left, err := filepath.Glob(filepath.Join(s.dir, "job-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(left)
}

// fullWorld is one where each source has views and several files.
func fullWorld(t *testing.T) *world {
	for seed := uint64(0); ; seed++ {
		w := newWorld(t, seed)
		full := true
		for name := range w.rows {
			src, _ := w.defs.Source(name)
			n := 0
			for _, err := range w.blob.List(t.Context(), prefixOf(src), "") {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			full = full && len(src.Views) > 1 && n > 3
		}
		if full {
			return w
		}
	}
}

// A damaged file fails the whole set, and is named.
func TestDamagedFile(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	rows := encodeAsked(t, w.ask(10), CSV)
	for source, kind := range map[string]fault.Kind{"pushed": fault.Internal, "filed": fault.Invalid} {
		src, err := w.defs.Source(source)
		if err != nil {
			t.Fatal(err)
		}
		var refs []string
		for _, v := range src.Views {
			refs = append(refs, v.Name+":"+v.Columns[0].Name)
		}
		plan, err := w.defs.Features(refs, true)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := s.list(t.Context(), src)
		if err != nil || len(objects) < 2 {
			t.Fatalf("got %d objects, %v", len(objects), err)
		}
		hurt := objects[len(objects)/2].Key
		whole := get(t, w.blob, hurt)
		for name, b := range map[string][]byte{
			"cut":     whole[:len(whole)/2],
			"empty":   {},
			"text":    []byte("this is no parquet file"),
			"pages":   slices.Concat(whole[:4], bytes.Repeat([]byte{0xa5}, len(whole)/3), whole[4+len(whole)/3:]),
			"its end": slices.Concat(whole[:len(whole)-40], bytes.Repeat([]byte{0xff}, 40)),
		} {
			put(t, w.blob, hurt, b)
			var out bytes.Buffer
			err := s.TrainingSet(t.Context(), plan, bytes.NewReader(rows), CSV, &out)
			if !fault.Is(err, kind) || !strings.Contains(fault.Message(err), hurt) || out.Len() > 0 {
				t.Errorf("%s, %s: got %v with %d bytes, want a fault of kind %s that names %s", source, name, err, out.Len(), kind, hurt)
			}
		}
		put(t, w.blob, hurt, whole)
		if err := s.TrainingSet(t.Context(), plan, bytes.NewReader(rows), CSV, io.Discard); err != nil {
			t.Errorf("%s: once it is whole again: %v", source, err)
		}
	}
}

func get(t *testing.T, blob store.Blob, key string) []byte {
	t.Helper()
	r, _, err := blob.Get(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// Copies of the bucket's files make room for others; what does not fit is refused.
func TestCacheIsBounded(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := s.list(t.Context(), src)
	if err != nil || len(objects) < 3 {
		t.Fatalf("got %d objects, %v", len(objects), err)
	}
	size := func(objects []store.Object) (n int64) {
		for _, o := range objects {
			n += o.Size
		}
		return n
	}
	s.files.most = size(objects) - 1
	for range 2 {
		for _, some := range [][]store.Object{objects[1:], objects[:2], objects[1:]} {
			s.files.begin()
			copies, err := s.files.get(t.Context(), some, false)
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range copies {
				if b, err := os.ReadFile(f.paths[0]); err != nil || !bytes.Equal(b, get(t, w.blob, some[i].Key)) {
					t.Fatalf("the copy of %s is another: %v", some[i].Key, err)
				}
			}
			if s.files.size > s.files.most {
				t.Fatalf("copies take %d bytes, want at most %d", s.files.size, s.files.most)
			}
		}
		s.files.begin()
		if _, err := s.files.get(t.Context(), objects, false); !fault.Is(err, fault.Overloaded) || !strings.Contains(fault.Message(err), "OFFLINE_CACHE") {
			t.Fatalf("got %v, want it to be too much", err)
		}
	}
	s.files.begin()
	if err := w.blob.Delete(t.Context(), objects[0].Key); err != nil {
		t.Fatal(err)
	}
	s.files = newFiles(w.blob, t.TempDir(), 1<<30)
	if _, err := s.files.get(t.Context(), objects, false); !errors.Is(err, errGone) {
		t.Errorf("got %v, want that an object is gone", err)
	}
	if left, err := os.ReadDir(s.files.dir); err != nil || len(left) > 0 {
		t.Errorf("%d copies are left of a call that failed, %v", len(left), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []Config{{Memory: 1, Cache: 1 << 30}, {Memory: 1 << 30}} {
		if err := c.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: got %v, want an invalid fault", c, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), &Config{Memory: 128 << 20, Dir: file, Cache: 1}, Deps{}); err == nil {
		t.Errorf("a folder that is a file gives %v", s)
	}
}

func TestSetsWaitForEachOther(t *testing.T) {
	s := open(t, newWorld(t, 1).blob)
	j, err := s.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.begin(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a second job beside one: got %v", err)
	}
	j.end()
	if j, err = s.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	j.end()
}

// A row that was written again later is of when it was first known: the one that came
// between the two stays the newest of their time.
func TestRowWrittenAgain(t *testing.T) {
	w := fullWorld(t)
	w.blob = memBlob(t)
	set, err := feature.Parse("defs.yaml", []byte(`
entities: [{name: shop, keys: [{name: shop, type: string}]}]
sources: [{name: pushed, time: at, fields: [{name: shop, type: string}, {name: at, type: timestamp}, {name: word, type: string}]}]
views: [{name: v, entities: [shop], source: pushed, features: [word]}]
services: [{name: all, features: ["v:word"]}]
`))
	if err == nil {
		w.defs, err = feature.Compile(set)
	}
	if err != nil {
		t.Fatal(err)
	}
	src, err := w.defs.Source("pushed")
	if err != nil {
		t.Fatal(err)
	}
	log, err := segment.NewLog(w.blob, "pushed", src.Columns)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, w.blob)
	write := func(word string, id uint64, created int64) {
		if _, err := log.Append(t.Context(), func(yield func(segment.Row) bool) {
			yield(segment.Row{Values: []row.Value{row.OfString("a"), row.OfMicros(epoch), row.OfString(word)}, Event: epoch, Created: epoch + created, ID: id})
		}); err != nil {
			t.Fatal(err)
		}
	}
	ask := func() string {
		rows := encodeAsked(t, []asked{{shop: row.OfString("a"), at: epoch + 10, label: "x"}}, Parquet)
		return w.train(t, s, w.plan(t), rows, Parquet)[0][1].Text()
	}
	write("first", 1, 1)
	write("second", 2, 2)
	write("first", 1, 3)
	write("late", 3, 11)
	if got := ask(); got != "second" {
		t.Errorf("got %q, want second", got)
	}
	if c, err := s.Compact(t.Context(), src); err != nil || c.Joined != 4 {
		t.Fatalf("joined %+v, %v", c, err)
	}
	if got := ask(); got != "second" {
		t.Errorf("after files were joined: got %q, want second", got)
	}
}

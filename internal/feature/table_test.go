package feature

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

const tableYAML = `
entities:
  - {name: carrier, keys: [{name: carrier, type: string}]}
  - {name: route, keys: [{name: origin, type: string}, {name: dest, type: string}]}
  - {name: plane, keys: [{name: carrier, type: string}, {name: number, type: int32}]}
  - {name: numbered, keys: [{name: number, type: int64}]}
sources:
  - name: rows
    fields:
      - {name: carrier, type: string}
      - {name: origin, type: string}
      - {name: dest, type: string}
      - {name: number, type: int32}
      - {name: event_timestamp, type: timestamp}
      - {name: delay, type: float64}
      - {name: seats, type: int32}
      - {name: codes, type: list(int64)}
  - name: others
    fields:
      - {name: number, type: int64}
      - {name: event_timestamp, type: timestamp}
      - {name: weight, type: float32}
views:
  - {name: carriers, entities: [carrier], source: rows, ttl: 1h, features: [delay, seats, codes]}
  - {name: routes, entities: [route], source: rows, features: [delay]}
  - {name: planes, entities: [plane], source: rows, features: [seats]}
  - {name: numbers, entities: [numbered], source: others}
  - name: recent
    entities: [carrier]
    source: rows
    windows:
      - {name: n, aggregate: count, size: 1h, slide: 1m}
      - {name: mean, aggregate: mean, of: delay, size: 1h, slide: 1m}
expressions:
  - name: worse
    inputs: [{name: limit, type: float64, required: true, max: 1000}, {name: bonus, type: int64}, {name: carrier, type: string}]
    features:
      - {name: than, type: bool, value: "carriers.delay > limit"}
      - {name: by, type: float64, value: "carriers.delay - limit"}
      - {name: twice, type: int32, value: "worse.by * 2.0"}
      - {name: plus, type: int64, value: "carriers.seats + bonus"}
      - {name: who, type: string, value: "carrier + '!'"}
      - {name: first, type: int64, value: "carriers.codes[0]"}
      - {name: busy, type: bool, value: "recent.n > 1"}
  - name: other
    inputs: [{name: limit, type: int64}]
    features: [{name: least, type: int64, value: limit}]
services:
  - name: model
    features:
      - {feature: "worse:than", as: is_worse, default: false}
      - {feature: "routes:delay", default: 1.5}
      - carriers:seats
`

func tableSet(t testing.TB) *Compiled {
	t.Helper()
	s, err := Parse("table.yaml", []byte(tableYAML))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// noon is when the tests of tables read.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) int64 { return noon.Add(-d).UnixMicro() }

// keep applies rows of a view's source to what the store has of their entity.
func putRow(t testing.TB, o store.Online, v *CompiledView, rows ...map[string]row.Value) {
	t.Helper()
	s := v.NewState()
	var keys []row.Value
	for i, r := range rows {
		values := make([]row.Value, len(v.From.Fields))
		for at, f := range v.From.Fields {
			values[at] = r[f.Name]
		}
		if keys = keys[:0]; true {
			for _, at := range v.KeyAt {
				keys = append(keys, values[at])
			}
		}
		at := r["event_timestamp"].Int()
		if s.Apply(Row{Values: values, Event: at, Created: at, ID: uint64(i + 1)}) != Applied {
			t.Fatalf("row %d of view %s was not applied", i, v.Name)
		}
	}
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: v.Key(keys...), Stamp: s.Stamp(), Value: s.Append(nil)}}); err != nil {
		t.Fatal(err)
	}
}

// fill stores what the tests of reads find.
func fill(t testing.TB, o store.Online, c *Compiled) {
	t.Helper()
	text := row.OfString
	for _, r := range []map[string]row.Value{
		{"carrier": text("AA"), "event_timestamp": row.OfMicros(ago(time.Minute)), "delay": row.OfFloat64(10), "seats": row.OfInt32(100), "codes": row.OfList(row.Int64, row.OfInt64(5))},
		{"carrier": text("UA"), "event_timestamp": row.OfMicros(ago(2 * time.Hour)), "delay": row.OfFloat64(20), "seats": row.OfInt32(200)},
		{"carrier": text("DL"), "event_timestamp": row.OfMicros(ago(time.Hour)), "delay": row.OfFloat64(math.MaxFloat64), "codes": row.OfList(row.Int64)},
	} {
		putRow(t, o, c.views["carriers"], r)
	}
	putRow(t, o, c.views["routes"], map[string]row.Value{"origin": text("EWR"), "dest": text("LAX"), "event_timestamp": row.OfMicros(ago(48 * time.Hour)), "delay": row.OfFloat64(7)})
	putRow(t, o, c.views["planes"], map[string]row.Value{"carrier": text("AA"), "number": row.OfInt32(3), "event_timestamp": row.OfMicros(ago(0)), "seats": row.OfInt32(9)})
	putRow(t, o, c.views["recent"],
		map[string]row.Value{"carrier": text("AA"), "event_timestamp": row.OfMicros(ago(3 * time.Minute)), "delay": row.OfFloat64(1)},
		map[string]row.Value{"carrier": text("AA"), "event_timestamp": row.OfMicros(ago(2 * time.Minute)), "delay": row.OfFloat64(3)})
}

func newTable(o store.Online, c *Compiled) *Table {
	return NewTable(o, func(context.Context) (*Compiled, error) { return c, nil })
}

func openMem(t testing.TB) store.Online {
	t.Helper()
	o, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func openRedis(t testing.TB) store.Online {
	t.Helper()
	u, err := url.Parse(storetest.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	o, err := redisstore.OpenOnline(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// openNear gives a Redis near which rows are kept by now.
func openNear(t testing.TB) store.Online {
	t.Helper()
	n := store.NewNear(openRedis(t).(store.Telling), keyRoot, 1<<20, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = n.Stop() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, had, err := n.ReadNear(t.Context(), []string{keyRoot}, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case had == 1:
			return n
		case time.Now().After(end):
			t.Fatal("nothing is kept near Redis")
		}
	}
}

func texts(s ...string) []row.Value {
	values := make([]row.Value, len(s))
	for i, v := range s {
		if v != "" {
			values[i] = row.OfString(v)
		}
	}
	return values
}

// shown is an answer for people: value, status, and how long before noon it was.
func shown(a *Answer) string {
	s := fmt.Sprintf("%s %d", a.Value, a.Status)
	if a.Event != 0 {
		s += " " + noon.Sub(time.UnixMicro(a.Event)).String()
	}
	return s
}

func TestRead(t *testing.T) {
	c := tableSet(t)
	given := Given{
		"carrier": texts("AA", "UA", "DL", "XX", "", "AA"),
		"origin":  texts("EWR", "EWR", "EWR", "", "EWR", "EWR"),
		"dest":    texts("LAX", "SFO", "LAX", "LAX", "", "LAX"),
		"number":  {row.OfInt32(3), row.OfInt32(4), row.OfInt32(3), row.OfInt32(3), row.OfInt32(3), {}},
		"limit":   {row.OfFloat64(5), row.OfFloat64(5), row.OfFloat64(-math.MaxFloat64), row.OfFloat64(5), row.OfFloat64(5), row.OfFloat64(10)},
		"bonus":   {row.OfInt64(1), row.OfInt64(1), row.OfInt64(1), row.OfInt64(1), row.OfInt64(1), {}},
		"ignored": nil,
	}
	want := map[string][]string{
		"carriers:delay": {"10 1 1m0s", "null 4 2h0m0s", "1.7976931348623157e+308 1 1h0m0s", "null 3", "null 3", "10 1 1m0s"},
		"carriers:seats": {"100 1 1m0s", "null 4 2h0m0s", "null 2 1h0m0s", "null 3", "null 3", "100 1 1m0s"},
		"carriers:codes": {"[5] 1 1m0s", "null 4 2h0m0s", "[] 1 1h0m0s", "null 3", "null 3", "[5] 1 1m0s"},
		"routes:delay":   {"7 1 48h0m0s", "null 3", "7 1 48h0m0s", "null 3", "null 3", "7 1 48h0m0s"},
		"planes:seats":   {"9 1 0s", "null 3", "null 3", "null 3", "null 3", "null 3"},
		"recent:n":       {"2 1 2m0s", "0 1", "0 1", "0 1", "null 3", "2 1 2m0s"},
		"recent:mean":    {"2 1 2m0s", "null 2", "null 2", "null 2", "null 3", "2 1 2m0s"},
		"worse:than":     {"true 1", "null 2", "true 1", "null 2", "null 2", "false 1"},
		"worse:by":       {"5 1", "null 2", "null 1", "null 2", "null 2", "0 1"}, // the third is infinite, which JSON does not show
		"worse:twice":    {"10 1", "null 2", "null 0", "null 2", "null 2", "0 1"},
		"worse:plus":     {"101 1", "null 2", "null 2", "null 2", "null 2", "null 2"},
		"worse:who":      {`"AA!" 1`, `"UA!" 1`, `"DL!" 1`, `"XX!" 1`, "null 2", `"AA!" 1`},
		"worse:first":    {"5 1", "null 2", "null 0", "null 2", "null 2", "5 1"},
		"worse:busy":     {"true 1", "false 1", "false 1", "false 1", "null 2", "true 1"},
	}
	all := make([]string, 0, len(want))
	for ref := range want {
		all = append(all, ref)
	}
	slices.Sort(all)
	for name, open := range map[string]func(testing.TB) store.Online{"mem": openMem, "redis": openRedis, "near": openNear} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			fill(t, o, c)
			table := newTable(o, c)
			var answers Answers
			check := func(refs []string) {
				t.Helper()
				p, err := c.Features(refs, true)
				if err != nil {
					t.Fatal(err)
				}
				if err := table.Read(t.Context(), p, given, 6, noon, &answers); err != nil {
					t.Fatal(err)
				}
				for i, k := range p.Columns {
					if k.Name != strings.Replace(refs[i], ":", "__", 1) {
						t.Errorf("column %d: got %q for %s", i, k.Name, refs[i])
					}
					for e := range answers.Rows() {
						if got, want := shown(answers.At(i, e)), want[refs[i]][e]; got != want {
							t.Errorf("%s, entity row %d: got %s, want %s", refs[i], e, got, want)
						}
					}
				}
			}
			check(all)
			for _, ref := range all {
				check([]string{ref}) // what it needs is read without being asked for
			}
		})
	}
}

func TestPlans(t *testing.T) {
	c := tableSet(t)
	p, err := c.Service("model")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range p.Keys {
		got = append(got, fmt.Sprintf("key %s %s %d", k.Name, k.Type, k.ID))
	}
	for _, f := range p.Inputs {
		got = append(got, fmt.Sprintf("input %s %s", f.Name, f.Type))
	}
	for _, k := range p.Columns {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", k.Name, k.View, k.Feature, k.Type, k.Default))
	}
	want := []string{
		"key carrier string 1", "key origin string 2", "key dest string 3", "input limit float64",
		"is_worse worse than bool false", "delay routes delay float64 1.5", "seats carriers seats int32 null",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if again, _ := c.Service("model"); again != p {
		t.Error("a service was planned twice")
	}
	if features, _ := c.Features([]string{"model"}, false); features != nil {
		t.Error("a service was taken for a feature")
	}
	// carrier is an input of worse, and a key too where a view has it.
	if p, err = c.Features([]string{"worse:who"}, false); err != nil || len(p.Keys) != 0 || len(p.Inputs) != 1 || p.Inputs[0].Name != "carrier" {
		t.Errorf("worse:who: got %+v, %v", p, err)
	}
	if p, err = c.Features([]string{"worse:who", "recent:n"}, false); err != nil || len(p.Keys) != 1 || len(p.Inputs) != 0 {
		t.Errorf("worse:who and recent:n: got %+v, %v", p, err)
	}
}

func TestPlansAreBounded(t *testing.T) {
	c := tableSet(t)
	refs := make([]string, 0, 8)
	for i := range 1 << 15 {
		refs = refs[:0]
		for bit, ref := range []string{"carriers:delay", "carriers:seats", "carriers:codes", "recent:n", "recent:mean", "planes:seats", "routes:delay"} {
			if i>>bit&1 == 1 || bit == 0 {
				refs = append(refs, ref)
			}
		}
		refs = append(refs[i%len(refs):], refs[:i%len(refs)]...)
		if _, err := c.Features(refs, true); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		if _, err := c.Features([]string{fmt.Sprint("carriers:x", i)}, true); !fault.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
	}
	size := 0
	for _, k := range c.plans.known {
		size += len(k.plan.Columns) + k.plan.width
	}
	if size != c.plans.columns || size > plannedMost {
		t.Errorf("plans of %d columns are kept and %d were counted, want no more than %d", size, c.plans.columns, plannedMost)
	}
}

func TestPlansThatAreRefused(t *testing.T) {
	c := tableSet(t)
	for _, k := range []struct {
		refs []string
		kind fault.Kind
		want string
	}{
		{nil, fault.Invalid, "0 features are asked for"},
		{make([]string, columnsMost+1), fault.Invalid, "10001 features are asked for"},
		{[]string{"delay"}, fault.Invalid, `feature "delay" is not named "view:feature"`},
		{
			[]string{"carriers:delay", "carrier:x", "carriers:late", "carrier:y", "worse:x"},
			fault.NotFound,
			`Feature view carrier does not exist; "carriers" has no feature "late"; "worse" has no feature "x"`,
		},
		{[]string{"carriers:delay", "carriers:delay"}, fault.Invalid, `feature "carriers:delay" is asked for twice`},
		{[]string{"carriers:delay", "routes:delay"}, fault.Invalid, `features "carriers:delay" and "routes:delay" are both called "delay"; ask for full feature names`},
		{[]string{"planes:seats", "numbers:weight"}, fault.Invalid, `view planes takes "number" as a int32 and view numbers takes it as a int64; they can't be asked for together`},
		{[]string{"worse:by", "other:least"}, fault.Invalid, `expression worse takes "limit" as a float64 and expression other takes it as a int64; they can't be asked for together`},
	} {
		if _, err := c.Features(k.refs, false); !fault.Is(err, k.kind) || !strings.HasPrefix(fault.Message(err), k.want) {
			t.Errorf("%.200q: got %v, want %s", k.refs, err, k.want)
		}
	}
	if _, err := c.Service("none"); !fault.Is(err, fault.NotFound) || fault.Message(err) != "Feature service none does not exist" {
		t.Errorf("service none: got %v", err)
	}
}

func TestReadsThatAreRefused(t *testing.T) {
	c := tableSet(t)
	table := newTable(openMem(t), c)
	p, err := c.Features([]string{"worse:plus", "worse:by"}, false)
	if err != nil {
		t.Fatal(err)
	}
	sound := func() Given {
		return Given{"carrier": texts("AA", "UA"), "bonus": {row.OfInt64(1), {}}, "limit": {row.OfFloat64(1), row.OfFloat64(2)}}
	}
	for _, k := range []struct {
		change func(Given)
		want   string
	}{
		{func(g Given) { delete(g, "carrier") }, `join key "carrier" is missing`},
		{func(g Given) { delete(g, "limit") }, `input "limit" is missing`},
		{func(g Given) { g["carrier"] = texts("AA") }, `join key "carrier" has 1 values for 2 entity rows`},
		{func(g Given) { g["bonus"] = append(g["bonus"], row.Value{}) }, `input "bonus" has 3 values for 2 entity rows`},
		{func(g Given) { g["carrier"][1] = row.OfInt64(1) }, `join key "carrier", entity row 1: 1 is a int64, expected string`},
		{func(g Given) { g["bonus"][0] = row.OfFloat64(1.5) }, `entity row 0: input "bonus" is a float64, expected int64`},
		{func(g Given) { g["limit"][1] = row.Value{} }, `entity row 1: input "limit" is null and is required`},
		{func(g Given) { g["limit"][1] = row.OfFloat64(1e9) }, `entity row 1: input "limit" is 1000000000, more than 1000`},
		{func(g Given) { g["carrier"][1] = row.OfString(strings.Repeat("x", 1020)) }, `join key "carrier", entity row 1: with it the key of view "carriers" has more than 1024 bytes`},
	} {
		g := sound()
		k.change(g)
		if err := table.Read(t.Context(), p, g, 2, noon, &Answers{}); !fault.Is(err, fault.Invalid) || fault.Message(err) != k.want {
			t.Errorf("got %v, want %s", err, k.want)
		}
	}
	var answers Answers
	if err := table.Read(t.Context(), p, Given{"carrier": nil, "bonus": nil, "limit": nil}, 0, noon, &answers); err != nil || answers.Rows() != 0 || len(answers.Column(1)) != 0 {
		t.Errorf("no entity rows: got %d, %v", answers.Rows(), err)
	}
	if err := table.Read(t.Context(), p, nil, -1, noon, &answers); !fault.Is(err, fault.Invalid) {
		t.Errorf("-1 entity rows: got %v", err)
	}
}

// counting notes which keys are read, and at how many times.
type counting struct {
	store.Online
	reads int
	keys  []string
}

func (c *counting) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	c.reads++
	c.keys = append(c.keys, keys...)
	return c.Online.Read(ctx, keys, dst)
}

func TestReadIsOneBatch(t *testing.T) {
	c := tableSet(t)
	o := &counting{Online: openMem(t)}
	p, err := c.Features([]string{"carriers:delay", "recent:n", "carriers:seats"}, false)
	if err != nil {
		t.Fatal(err)
	}
	given := Given{"carrier": texts("AA", "UA", "AA", "", "UA", "AA")}
	if err := newTable(o, c).Read(t.Context(), p, given, 6, noon, &Answers{}); err != nil {
		t.Fatal(err)
	}
	if o.reads != 1 || len(o.keys) != 4 {
		t.Errorf("got %d reads of %q, want one of 2 carriers in 2 views", o.reads, o.keys)
	}
	given = Given{"carrier": texts("")}
	if err := newTable(o, c).Read(t.Context(), p, given, 1, noon, &Answers{}); err != nil || o.reads != 1 {
		t.Errorf("an entity without a key: got %d reads, %v", o.reads-1, err)
	}
}

// A plan serves many at once, its expressions too, and no two see each other's memory.
func TestReadsAtOnce(t *testing.T) {
	c := tableSet(t)
	o := openMem(t)
	fill(t, o, c)
	table := newTable(o, c)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			var answers Answers
			for i := range 200 {
				p, err := c.Features([]string{"worse:by", "recent:n", "worse:who"}, false)
				if err != nil {
					t.Error(err)
					return
				}
				n := 1 + (worker+i)%5
				given := Given{"carrier": make([]row.Value, n), "limit": make([]row.Value, n)}
				for e := range n {
					given["carrier"][e] = row.OfString([]string{"AA", "XX"}[e%2])
					given["limit"][e] = row.OfFloat64(float64(worker))
				}
				if err := table.Read(t.Context(), p, given, n, noon, &answers); err != nil {
					t.Error(err)
					return
				}
				last := []string{"null 2", fmt.Sprint(10-worker, " 1")}[n%2]
				if got := shown(answers.At(0, n-1)); got != last {
					t.Errorf("got %s, want %s", got, last)
				}
			}
		})
	}
	all.Wait()
}

func TestReadOfWhatIsDamaged(t *testing.T) {
	c := tableSet(t)
	o := openMem(t)
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: c.views["carriers"].Key(row.OfString("AA")), Stamp: store.Stamp{Event: ago(0)}, Value: []byte{0xff}}}); err != nil {
		t.Fatal(err)
	}
	p, err := c.Features([]string{"carriers:delay"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := newTable(o, c).Read(t.Context(), p, Given{"carrier": texts("AA")}, 1, noon, &Answers{}); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want Internal", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err = c.Features([]string{"other:least"}, false); err != nil {
		t.Fatal(err)
	}
	if err := newTable(o, c).Read(ctx, p, Given{"limit": {row.OfInt64(1)}}, 1, noon, &Answers{}); !fault.Is(err, fault.Deadline) {
		t.Errorf("cancelled: got %v, want Deadline", err)
	}
}

// benchSet is a view of ten floats by an int64 key, as in Feast's benchmarks.
func benchSet(b *testing.B) *Compiled {
	b.Helper()
	src := Source{Name: "rows", Fields: []Field{{Name: "driver_id", Type: row.Int64}, {Name: "event_timestamp", Type: row.Timestamp}}}
	for i := range 10 {
		src.Fields = append(src.Fields, Field{Name: fmt.Sprint("f", i), Type: row.Float64})
	}
	c, err := Compile(&Set{
		Entities:    []Entity{{Name: "driver", Keys: []Field{{Name: "driver_id", Type: row.Int64}}}},
		Sources:     []Source{src},
		Views:       []View{{Name: "drivers", Entities: []string{"driver"}, Source: "rows"}},
		Expressions: []Expression{{Name: "sum", Features: []Expressed{{Name: "s", Type: row.Float64, Value: "drivers.f0 + drivers.f1 > 1 ? drivers.f2 : 0.0"}}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkRead(b *testing.B) {
	c := benchSet(b)
	refs := make([]string, 10)
	for i := range refs {
		refs[i] = fmt.Sprint("drivers:f", i)
	}
	for name, open := range map[string]func(testing.TB) store.Online{"mem": openMem, "redis": openRedis, "near": openNear} {
		o := open(b)
		for id := range 1000 {
			r := map[string]row.Value{"driver_id": row.OfInt64(int64(id)), "event_timestamp": row.OfMicros(ago(0))}
			for i := range 10 {
				r[fmt.Sprint("f", i)] = row.OfFloat64(float64(id + i))
			}
			putRow(b, o, c.views["drivers"], r)
		}
		table := newTable(o, c)
		for _, n := range []int{1, 50} {
			for _, with := range []string{"", "+expression"} {
				b.Run(fmt.Sprintf("%s/%dx10%s", name, n, with), func(b *testing.B) {
					given := Given{"driver_id": make([]row.Value, n)}
					for i := range n {
						given["driver_id"][i] = row.OfInt64(int64(i * 17 % 1000))
					}
					ask := refs
					if with != "" {
						ask = append(slices.Clip(refs), "sum:s")
					}
					var answers Answers
					b.ReportAllocs()
					for b.Loop() {
						p, err := c.Features(ask, false)
						if err != nil {
							b.Fatal(err)
						}
						if err := table.Read(b.Context(), p, given, n, noon, &answers); err != nil {
							b.Fatal(err)
						}
					}
					if got, want := answers.At(9, n-1).Value.Float(), float64((n-1)*17%1000+9); got != want {
						b.Errorf("got %v, want %v", got, want)
					}
				})
			}
		}
	}
}

// BenchmarkBare is what the same reads cost without all that: hashes of ten fields as Feast has them, by pipelined HMGET,
// and one value for each entity by MGET.
func BenchmarkBare(b *testing.B) {
	u, err := url.Parse(storetest.RedisURL(b))
	if err != nil {
		b.Fatal(err)
	}
	password, _ := u.User.Password()
	client := redis.NewClient(&redis.Options{Addr: u.Host, Username: u.User.Username(), Password: password})
	defer client.Close()
	fields := make([]string, 10)
	for i := range fields {
		fields[i] = fmt.Sprintf("%04d", i)
	}
	for id := range 1000 {
		hash := map[string]any{}
		for _, f := range fields {
			hash[f] = "12345678"
		}
		if err := client.HSet(b.Context(), fmt.Sprint("h", id), hash).Err(); err != nil {
			b.Fatal(err)
		}
		if err := client.Set(b.Context(), fmt.Sprint("s", id), strings.Repeat("123456789", 10), 0).Err(); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprintf("hmget/%dx10", n), func(b *testing.B) {
			for b.Loop() {
				replies, err := client.Pipelined(b.Context(), func(p redis.Pipeliner) error {
					for i := range n {
						p.HMGet(b.Context(), fmt.Sprint("h", i*17%1000), fields...)
					}
					return nil
				})
				if err != nil || len(replies[n-1].(*redis.SliceCmd).Val()) != 10 {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("mget/%dx10", n), func(b *testing.B) {
			keys := make([]string, n)
			for b.Loop() {
				for i := range n {
					keys[i] = fmt.Sprint("s", i*17%1000)
				}
				if got, err := client.MGet(b.Context(), keys...).Result(); err != nil || got[n-1] == nil {
					b.Fatal(err)
				}
			}
		})
	}
}

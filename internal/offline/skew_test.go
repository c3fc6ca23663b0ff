package offline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// served is an online store that is served from, with a recorder behind it.
type served struct {
	online  store.Online
	states  map[string]*feature.State
	defs    *feature.Compiled
	vectors []event.Vector
}

func newServed(t *testing.T, defs *feature.Compiled) *served {
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &served{online: online, states: map[string]*feature.State{}, defs: defs}
}

// apply brings a row of a source online.
func (s *served) apply(t *testing.T, src *feature.CompiledSource, r feature.Row) {
	t.Helper()
	for _, v := range src.Views {
		keys := make([]row.Value, len(v.KeyAt))
		for i, at := range v.KeyAt {
			keys[i] = r.Values[at]
		}
		if slices.ContainsFunc(keys, row.Value.Null) {
			continue
		}
		key := v.Key(keys...)
		state := s.states[key]
		if state == nil {
			state = v.NewState()
			s.states[key] = state
		}
		if state.Apply(r) == feature.Applied {
			s.write(t, store.OnlineRow{Key: key, Stamp: state.Stamp(), Value: state.Append(nil)})
		}
	}
}

func (s *served) write(t *testing.T, r store.OnlineRow) {
	t.Helper()
	if done, err := s.online.Write(t.Context(), []store.OnlineRow{r}); err != nil || !done[0] {
		t.Fatalf("written %v, %v", done, err)
	}
}

// serve reads a service's features for one row, and writes down what a model is given.
func (s *served) serve(t *testing.T, service string, given feature.Given, known, at time.Time) {
	t.Helper()
	plan, err := s.defs.Service(service)
	if err != nil {
		t.Fatal(err)
	}
	sink := &caught{}
	outbox, err := event.NewOutbox(sink, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	r := feature.NewRecorder(&feature.RecordConfig{Sample: 1}, outbox)
	if !r.Wants() {
		t.Fatal("a recorder that takes all does not want one")
	}
	traced, answers := plan.Traced(), &feature.Answers{}
	table := feature.NewTable(s.online, func(context.Context) (*feature.Compiled, error) { return s.defs, nil })
	if err := table.Read(t.Context(), traced, given, 1, at, answers); err != nil {
		t.Fatal(err)
	}
	r.Record(&feature.Reading{
		Model: "m", Version: 1, Service: service, Definitions: s.defs.Version,
		Plan: plan, Traced: traced, Known: known, At: at, Given: given, Answers: answers,
	})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := outbox.Close(); err != nil {
		t.Fatal(err)
	}
	for _, e := range sink.events {
		var data event.Served
		if err := json.Unmarshal(e.Data(), &data); err != nil {
			t.Fatal(err)
		}
		s.vectors = append(s.vectors, data.Vectors...)
	}
}

// log writes the vectors to the log of what was served, each of them twice.
func (s *served) log(t *testing.T, blob store.Blob) {
	t.Helper()
	log, err := segment.NewLog(blob, feature.ServedLog.Name, feature.ServedLog.Columns)
	if err != nil {
		t.Fatal(err)
	}
	for created := range int64(2) {
		if _, err := log.Append(t.Context(), func(yield func(segment.Row) bool) {
			for i, v := range s.vectors {
				body, err := json.Marshal(v)
				if err != nil {
					t.Error(err)
				}
				if !yield(segment.Row{ID: uint64(i + 1), Event: v.Known.UnixMicro(), Created: v.Known.UnixMicro() + created, Values: []row.Value{row.OfTime(v.Known), row.OfString(string(body))}}) {
					return
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func quiet(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

type caught struct{ events []event.Event }

func (c *caught) Send(_ context.Context, events ...event.Event) error {
	c.events = append(c.events, events...)
	return nil
}

func (w *world) catalog(t *testing.T, set *feature.Set) *feature.Catalog {
	t.Helper()
	c := feature.NewCatalog(&feature.Config{Refresh: time.Minute}, w.blob, nil, slog.New(slog.DiscardHandler))
	if _, _, err := c.Apply(t.Context(), set, nil, "test", false); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.defs, err = c.Current(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// What is served from a store that rows reach a while before or after the log says so is no skew.
func TestNoSkew(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			catalog := w.catalog(t, w.defs.Set)
			s := open(t, w.blob)
			s.conf.Slack = 20 * time.Minute
			type moment struct {
				at   int64
				src  *feature.CompiledSource
				row  feature.Row
				asks *asked
			}
			var moments []moment
			slack := s.conf.Slack.Microseconds()
			delay := w.r.Int64N(2*slack) - slack
			for name, rows := range w.rows {
				src, err := w.defs.Source(name)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rows {
					moments = append(moments, moment{at: r.Created + delay, src: src, row: r})
				}
			}
			const n = 200
			for _, x := range w.ask(n) {
				moments = append(moments, moment{at: x.at, asks: &x})
			}
			slices.SortStableFunc(moments, func(a, b moment) int {
				return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.row.Event, b.row.Event), cmp.Compare(a.row.ID, b.row.ID))
			})
			online := newServed(t, w.defs)
			for _, m := range moments {
				if m.asks == nil {
					online.apply(t, m.src, m.row)
					continue
				}
				at := time.UnixMicro(m.at)
				online.serve(t, "all", feature.Given{"shop": {m.asks.shop}, "item": {m.asks.item}, "bonus": {m.asks.bonus}}, at, at)
			}
			online.log(t, w.blob)
			report, err := s.CheckSkew(t.Context(), catalog, Span{From: time.UnixMicro(epoch), To: time.UnixMicro(epoch + 100*hour)})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range report.Features {
				if f.Mismatched > 0 {
					t.Errorf("%s: %d of %d differ (%v), such as %+v", f.Feature, f.Mismatched, f.Compared, f.Kinds, f.Example)
				}
			}
			if report.Vectors != n || report.Unread != 0 || len(report.Features) < len(w.plan(t).Reads()) {
				t.Errorf("compared %d vectors of %d and %d features, %d unread", report.Vectors, n, len(report.Features), report.Unread)
			}
		})
	}
}

const skewed = `
entities: [{name: shop, keys: [{name: shop, type: string}]}]
sources:
- {name: sales, time: at, fields: [{name: shop, type: string}, {name: at, type: timestamp}, {name: price, type: float64}]}
- {name: stock, time: at, fields: [{name: shop, type: string}, {name: at, type: timestamp}, {name: left, type: int64}]}
views:
- {name: last, entities: [shop], source: stock, ttl: %s}
- {name: day, entities: [shop], source: sales, windows: [{name: n, aggregate: count, size: 1h, slide: 1m}, {name: sum, aggregate: sum, of: price, size: 1h, slide: 1m}]}
expressions: [{name: ask, inputs: [{name: want, type: int64}], features: [{name: enough, type: bool, value: "want <= last.left %s"}]}]
services: [{name: all, features: ["day:sum", "day:n", "last:left", "ask:enough"]}]
`

func parse(t *testing.T, yaml string) *feature.Set {
	t.Helper()
	set, err := feature.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// Each way to serve something else than history has is found where it was, and named.
func TestSkewIsNamed(t *testing.T) {
	right := parse(t, fmt.Sprintf(skewed, "2h", ""))
	const each = time.Minute
	type fault func(t *testing.T, s *served, v *feature.CompiledView, shop row.Value, now time.Time)
	for _, c := range []struct {
		name   string
		kind   Kind
		wrong  []string // features
		before fault    // what goes wrong before a vector is served
		skip   bool     // its newest rows are not brought online
	}{
		{name: "nothing"},
		{name: "rows are late", kind: LateRow, wrong: []string{"last:left", "day:sum", "day:n"}, skip: true},
		{name: "an entity is missing", kind: Missing, wrong: []string{"last:left"}, before: func(t *testing.T, s *served, v *feature.CompiledView, shop row.Value, _ time.Time) {
			other, err := memstore.OpenOnline(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for key, state := range s.states {
				if key != v.Key(shop) {
					if _, err := other.Write(t.Context(), []store.OnlineRow{{Key: key, Stamp: state.Stamp(), Value: state.Append(nil)}}); err != nil {
						t.Fatal(err)
					}
				}
			}
			s.online = other
		}},
		{name: "a row is from the future", kind: Ahead, wrong: []string{"last:left"}, before: func(t *testing.T, s *served, v *feature.CompiledView, shop row.Value, now time.Time) {
			s.apply(t, v.From, feature.Row{Values: []row.Value{shop, row.OfTime(now), row.OfInt64(-1)}, Event: now.UnixMicro(), Created: now.UnixMicro(), ID: 77})
		}},
		{name: "another TTL", kind: Expired, wrong: []string{"last:left"}, before: func(t *testing.T, s *served, _ *feature.CompiledView, _ row.Value, _ time.Time) {
			set := *s.defs.Set
			set.Views = slices.Clone(set.Views)
			set.Views[slices.IndexFunc(set.Views, func(v feature.View) bool { return v.Name == "last" })].TTL = feature.Duration(time.Second)
			var err error
			if s.defs, err = feature.Compile(&set); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "another value", kind: Real, wrong: []string{"last:left"}, before: func(t *testing.T, s *served, v *feature.CompiledView, shop row.Value, _ time.Time) {
			was := s.states[v.Key(shop)]
			state := v.NewState()
			if err := state.Load(was.Append(nil), was.Stamp()); err != nil {
				t.Fatal(err)
			}
			at := was.Stamp()
			state.Apply(feature.Row{Values: []row.Value{shop, row.OfMicros(at.Event), row.OfInt64(math.MaxInt64)}, Event: at.Event, Created: at.Created, ID: 78})
			value := state.Append(nil)
			if bytes.Compare(value, was.Append(nil)) <= 0 {
				t.Fatal("the store would not take it")
			}
			s.write(t, store.OnlineRow{Key: v.Key(shop), Stamp: at, Value: value})
		}},
		{name: "an expression is another", kind: Real, wrong: []string{"ask:enough"}, before: func(t *testing.T, s *served, _ *feature.CompiledView, _ row.Value, _ time.Time) {
			set := *s.defs.Set
			set.Expressions = parse(t, fmt.Sprintf(skewed, "2h", "- 1000000")).Expressions
			var err error
			if s.defs, err = feature.Compile(&set); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "definitions are old", kind: OldVersion, wrong: []string{"last:left", "ask:enough"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{blob: memBlob(t)}
			catalog := w.catalog(t, right)
			s := open(t, w.blob)
			s.conf.Slack, s.conf.Alarm = 2*time.Second, 0.5
			online := newServed(t, w.defs)
			if c.kind == OldVersion {
				w.catalog(t, parse(t, fmt.Sprintf(skewed, "3h", "+ 0")))
				if err := catalog.Reread(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			// From the hour after the next on, when everybody knows the definitions, however soon the next one is.
			begin := time.Now().Add(2 * time.Hour).Truncate(time.Hour).UTC()
			rows := map[string][]segment.Row{}
			const vectors, wrong = 40, 7
			for i := range vectors {
				shop, now := row.OfString(fmt.Sprint("shop ", i%5)), begin.Add(time.Duration(i)*each)
				bad := i > 10 && i%5 == 3 || i == vectors-1
				for _, name := range []string{"sales", "stock"} {
					src, err := w.defs.Source(name)
					if err != nil {
						t.Fatal(err)
					}
					at := now.Add(-30 * time.Second)
					value := row.OfFloat64(float64(i))
					if name == "stock" {
						value = row.OfInt64(int64(i))
					}
					r := feature.Row{Values: []row.Value{shop, row.OfTime(at), value}, Event: at.UnixMicro(), Created: at.UnixMicro(), ID: uint64(100 + i)}
					rows[name] = append(rows[name], segment.Row(r))
					if !c.skip || !bad {
						online.apply(t, src, r)
					}
				}
				view, err := w.defs.View("last")
				if err != nil {
					t.Fatal(err)
				}
				one := *online
				if bad && c.before != nil {
					one.states = maps.Clone(online.states)
					c.before(t, &one, view, shop, now)
				}
				one.serve(t, "all", feature.Given{"shop": {shop}, "want": {row.OfInt64(int64(i))}}, now, now)
				online.vectors = one.vectors
				if bad && c.before != nil { // and then all is well again
					again := newServed(t, online.defs)
					for key, state := range online.states {
						if key != view.Key(shop) || c.kind != Ahead {
							again.write(t, store.OnlineRow{Key: key, Stamp: state.Stamp(), Value: state.Append(nil)})
						}
					}
					online.online = again.online
				}
			}
			for name, of := range rows {
				src, _ := w.defs.Source(name)
				log, err := segment.NewLog(w.blob, name, src.Columns)
				if err == nil {
					_, err = log.Append(t.Context(), slices.Values(of))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			online.log(t, w.blob)
			report, err := s.CheckSkew(t.Context(), catalog, Span{From: begin, To: begin.Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			if report.Vectors != vectors || report.Unread != 0 || len(report.Features) != 4 {
				t.Fatalf("compared %d vectors, %d unread, %d features", report.Vectors, report.Unread, len(report.Features))
			}
			for _, f := range report.Features {
				want := map[Kind]int(nil)
				switch {
				case !slices.Contains(c.wrong, f.Feature):
				case c.kind == OldVersion:
					want = map[Kind]int{OldVersion: vectors}
				default:
					want = map[Kind]int{c.kind: wrong}
				}
				if f.Compared != vectors || !maps.Equal(f.Kinds, want) || f.Mismatched != want[c.kind] {
					t.Errorf("%s: %d of %d differ, %v, want %v; such as %+v", f.Feature, f.Mismatched, f.Compared, f.Kinds, want, f.Example)
				}
				if alarm := slices.Contains(report.Alarm, f.Feature); alarm != (want != nil && c.kind == OldVersion) {
					t.Errorf("%s: alarm is %t", f.Feature, alarm)
				}
			}
			last, err := s.LastSkew(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if a, b := asJSON(t, last), asJSON(t, report); a != b {
				t.Errorf("the report that is kept is\n%s, want\n%s", a, b)
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What can't be compared is counted; what is old is forgotten; nothing at all is no report.
func TestSkewOfNothing(t *testing.T) {
	w := &world{blob: memBlob(t)}
	catalog := w.catalog(t, parse(t, fmt.Sprintf(skewed, "2h", "")))
	s := open(t, w.blob)
	s.conf.Keep = 48 * time.Hour
	if _, err := s.LastSkew(t.Context()); !fault.Is(err, fault.NotFound) {
		t.Errorf("without a report: got %v, want not found", err)
	}
	report, err := s.CheckSkew(t.Context(), catalog, Span{})
	if err != nil || report.Vectors != 0 || report.Unread != 0 {
		t.Errorf("of nothing: got %+v, %v", report, err)
	}
	now := time.Now().UTC()
	online := newServed(t, w.defs)
	good := event.Vector{
		Service: "all", Definitions: 1, Known: now.Add(-time.Hour), At: now.Add(-time.Hour), Given: map[string]json.RawMessage{"shop": json.RawMessage(`"a"`), "want": json.RawMessage("1")},
		Features: map[string]event.Cell{"day:n": {Value: json.RawMessage("0"), Status: 1}, "last:left": {Value: json.RawMessage(`"no number"`), Status: 1}},
	}
	for _, change := range []func(*event.Vector){
		func(*event.Vector) {},
		func(v *event.Vector) { v.Service = "gone" },
		func(v *event.Vector) { v.Definitions = 7 },
		func(v *event.Vector) { v.Given = nil },
		func(v *event.Vector) { v.Known = now.Add(-100 * time.Hour) },
	} {
		v := good
		change(&v)
		online.vectors = append(online.vectors, v)
	}
	online.log(t, w.blob)
	report, err = s.CheckSkew(t.Context(), catalog, Span{})
	if err != nil || report.Vectors != 1 || report.Unread != 3 || len(report.Features) != 1 || report.Features[0].Feature != "day:n" || report.Features[0].Mismatched != 0 {
		t.Errorf("got %+v, %v", report, err)
	}
	report, err = s.CheckSkew(t.Context(), catalog, Span{})
	if err != nil || report.Vectors != 0 {
		t.Errorf("once more, which begins where the last ended: got %+v, %v", report, err)
	}
	if n, err := s.ForgetServed(t.Context()); n != 2 || err != nil {
		t.Errorf("forgot %d files, %v, want the 2 of the old vector", n, err)
	}
	report, err = s.CheckSkew(t.Context(), catalog, Span{From: now.Add(-200 * time.Hour)})
	if err != nil || report.Vectors != 1 {
		t.Errorf("all that is left: got %+v, %v", report, err)
	}
}

func TestSkewOverHTTP(t *testing.T) {
	w := &world{blob: memBlob(t)}
	catalog := w.catalog(t, parse(t, fmt.Sprintf(skewed, "2h", "")))
	s := open(t, w.blob)
	sink := &caught{}
	server := NewServer(s, catalog, sink, slog.New(slog.DiscardHandler))
	url := serveOn(t, server)
	if status, body := call(t, http.MethodGet, url+"/admin/v1/features/skew", "", nil); status != http.StatusNotFound {
		t.Errorf("without a report: got %d %s", status, body)
	}
	online := newServed(t, w.defs)
	at := time.Now().Add(-time.Hour)
	online.apply(t, mustSource(t, w.defs, "stock"), feature.Row{Values: []row.Value{row.OfString("a"), row.OfTime(at), row.OfInt64(3)}, Event: at.UnixMicro(), Created: at.UnixMicro(), ID: 1})
	online.serve(t, "all", feature.Given{"shop": {row.OfString("a")}, "want": {row.OfInt64(1)}}, at, at) // of a row that no log has
	online.log(t, w.blob)
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"from": 7}`, 400, "JSON"},
		{`{"from": "2013-01-02T00:00:00Z", "to": "2013-01-01T00:00:00Z"}`, 400, "to is before from"},
		{"", 200, `"alarm":["last:left"]`},
	} {
		if status, body := call(t, http.MethodPost, url+"/admin/v1/features/skew", "application/json", []byte(c.body)); status != c.status || !bytes.Contains(body, []byte(c.want)) {
			t.Errorf("%s: got %d %s, want %d %s", c.body, status, body, c.status, c.want)
		}
	}
	if status, body := call(t, http.MethodGet, url+"/admin/v1/features/skew", "", nil); status != http.StatusOK || !bytes.Contains(body, []byte(`"kinds":{"ahead":1}`)) {
		t.Errorf("the report: got %d %s", status, body)
	}
	if len(sink.events) != 1 || sink.events[0].Type() != event.FeaturesSkewed.Name {
		t.Fatalf("sent %v, want one alarm", sink.events)
	}
}

func mustSource(t *testing.T, defs *feature.Compiled, name string) *feature.CompiledSource {
	t.Helper()
	src, err := defs.Source(name)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

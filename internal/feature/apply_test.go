package feature

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// clicksYAML has views of two entities, by rows and by windows, over one source.
const clicksYAML = `
entities:
  - {name: user, keys: [{name: user, type: string}]}
  - {name: page, keys: [{name: page, type: int64}]}
sources:
  - name: clicks
    time: at
    created: made
    fields:
      - {name: user, type: string}
      - {name: page, type: int64}
      - {name: at, type: timestamp}
      - {name: made, type: timestamp}
      - {name: cents, type: int64}
views:
  - {name: newest, entities: [user], source: clicks, features: [page, cents]}
  - name: spent
    entities: [user]
    source: clicks
    lateness: 2h
    windows:
      - {name: n, aggregate: count, size: 1h, slide: 10m}
      - {name: sum, aggregate: sum, of: cents, size: 2h, slide: 30m}
      - {name: mean, aggregate: mean, of: cents, size: 1h}
      - {name: most, aggregate: max, of: cents, size: 1h, slide: 1h}
  - name: visits
    entities: [page]
    source: clicks
    lateness: 2h
    windows:
      - {name: n, aggregate: count, size: 2h, slide: 1h}
      - {name: users, aggregate: distinct, of: user, size: 2h, slide: 10m}
      - {name: least, aggregate: min, of: cents, size: 2h, slide: 10m}
      - {name: last, aggregate: last, of: cents, size: 2h, slide: 10m}
`

func clicksSource(t testing.TB) *CompiledSource {
	t.Helper()
	set, err := Parse("clicks.yaml", []byte(clicksYAML))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(set)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Source("clicks")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	users = 5
	pages = 7
)

// click makes the i-th row. All are of the last two hours and so not too late in whatever order they come.
func click(i int, r *rand.Rand) Row {
	at := now.Add(-time.Duration(r.Int64N(int64(2*time.Hour)/1000)) * 1000)
	return Row{ID: uint64(i + 1), Values: []row.Value{
		row.OfString(fmt.Sprint("u", r.IntN(users))), row.OfInt64(r.Int64N(pages)),
		row.OfTime(at), row.OfTime(at.Add(time.Duration(r.IntN(3)) * time.Second)), row.OfInt64(r.Int64N(1000)),
	}}
}

// value is one that was brute-forced: of a number, a text, or null.
type said struct{ entity, feature, value string }

// oracle computes all values of all views at the clock's time from rows that have no duplicates.
func oracle(s *CompiledSource, rows []Row) (all []said) {
	text := func(v any) string { return fmt.Sprint(v) }
	for _, v := range s.Views {
		of := map[string][]Row{}
		for _, r := range rows {
			key := r.Values[v.KeyAt[0]].String()
			of[key] = append(of[key], r)
		}
		for key, rows := range of {
			slices.SortFunc(rows, func(a, b Row) int {
				return cmp.Or(cmp.Compare(a.Values[2].Int(), b.Values[2].Int()), cmp.Compare(a.Values[3].Int(), b.Values[3].Int()), cmp.Compare(a.ID, b.ID))
			})
			entity := v.Name + "/" + key
			if len(v.Windows) == 0 {
				newest := rows[len(rows)-1]
				all = append(all, said{entity, "page", text(newest.Values[1])}, said{entity, "cents", text(newest.Values[4])})
				continue
			}
			for _, w := range v.Windows {
				size, slide := time.Duration(w.Size).Microseconds(), time.Duration(w.Slide).Microseconds()
				end := now.UnixMicro() / size * size
				if slide > 0 {
					end = now.UnixMicro()/slide*slide + slide
				}
				n, sum, least, most, last, names := 0, int64(0), int64(1<<60), int64(-1), int64(0), map[string]bool{}
				for _, r := range rows {
					if at := r.Values[2].Int(); at < end-size || at >= end {
						continue
					}
					cents := r.Values[4].Int()
					n, sum, least, most, last = n+1, sum+cents, min(least, cents), max(most, cents), cents
					names[r.Values[0].Text()] = true
				}
				value := "null"
				switch {
				case w.Aggregate == "count":
					value = text(n)
				case w.Aggregate == "distinct":
					value = text(len(names))
				case n == 0:
				default:
					value = map[string]string{
						"sum": text(sum), "min": text(least), "max": text(most), "last": text(last),
						"mean": row.OfFloat64(float64(sum) / float64(n)).String(),
					}[w.Aggregate]
				}
				all = append(all, said{entity, w.Name, value})
			}
		}
	}
	return all
}

// compare holds what is stored online against the oracle.
func compare(t *testing.T, online store.Online, s *CompiledSource, rows []Row) {
	t.Helper()
	views := map[string]*CompiledView{}
	for _, v := range s.Views {
		views[v.Name] = v
	}
	wrong := 0
	want := oracle(s, rows)
	for _, w := range want {
		view, entity, _ := strings.Cut(w.entity, "/")
		v := views[view]
		key, err := row.ParseJSON(v.Keys[0].Type, []byte(entity))
		if err != nil {
			t.Fatal(err)
		}
		there, err := online.Read(t.Context(), []string{v.Key(key)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		answers := make([]Answer, len(v.Columns))
		if err := v.Values(there[0].Value, there[0].Stamp, now.UnixMicro(), answers); err != nil {
			t.Fatal(err)
		}
		if got := answers[v.At[w.feature]].Value.String(); got != w.value {
			wrong++
			t.Errorf("%s %s: got %s, want %s", w.entity, w.feature, got, w.value)
		}
		if wrong > 10 {
			t.Fatal("and more")
		}
	}
	t.Logf("%d values of %d rows are as brute force has them", len(want)-wrong, len(rows))
}

// loggedIDs reads the ids of all rows in a source's log.
func loggedIDs(t *testing.T, blob store.Blob, source string) map[uint64]bool {
	t.Helper()
	type line struct {
		ID uint64 `parquet:"_id"`
	}
	ids := map[uint64]bool{}
	for o, err := range blob.List(t.Context(), segment.Prefix(source), "") {
		if err != nil {
			t.Fatal(err)
		}
		b := read(t, blob, o.Key)
		lines, err := parquet.Read[line](strings.NewReader(string(b)), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			ids[l.ID] = true
		}
	}
	return ids
}

func redisOnline(t testing.TB, raw string) store.Online {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	o, err := redisstore.OpenOnline(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// TestSeveralInstancesCountEachRowOnce sends rows to two instances on one Redis from
// many goroutines, each row once or more often, to one of them or to both, in any order.
func TestSeveralInstancesCountEachRowOnce(t *testing.T) {
	s, blob, server := clicksSource(t), bucket(t), storetest.RedisURL(t)
	conf := roomy
	conf.Rows = 100_000
	var instances []*Ingest
	for range 2 {
		instances = append(instances, ingest(t, conf, IngestDeps{Online: redisOnline(t, server), Blob: blob}))
	}
	random := rand.New(rand.NewPCG(1, 2))
	var rows []Row
	for i := range 6000 {
		rows = append(rows, click(i, random))
	}
	type delivery struct {
		to   *Ingest
		rows []Row
	}
	var all []delivery
	for range 2 { // on average each row comes about twice
		random.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		for from := 0; from < len(rows); {
			n := min(1+random.IntN(60), len(rows)-from)
			part := slices.Clone(rows[from : from+n])
			from += n
			all = append(all, delivery{instances[random.IntN(2)], part})
			if random.IntN(4) == 0 {
				all = append(all, delivery{instances[random.IntN(2)], part})
			}
		}
	}
	work := make(chan delivery)
	var senders sync.WaitGroup
	var mu sync.Mutex
	var total Result
	for range 16 {
		senders.Go(func() {
			for d := range work {
				got, err := d.to.Accept(t.Context(), s, d.rows, Everywhere)
				if err != nil || got.Accepted != len(d.rows) || got.Late+got.Refused+got.Rejected > 0 {
					t.Errorf("got %+v %v, want all accepted", got, err)
				}
				mu.Lock()
				total.Accepted, total.Duplicates = total.Accepted+got.Accepted, total.Duplicates+got.Duplicates
				mu.Unlock()
			}
		})
	}
	for _, d := range all {
		work <- d
	}
	close(work)
	senders.Wait()
	// Of two that take in the same row at once each may find that the other was first, in some view.
	if total.Accepted-total.Duplicates > len(rows) {
		t.Errorf("%d rows came, of which %d were duplicates; want no more than %d that were not", total.Accepted, total.Duplicates, len(rows))
	}
	compare(t, redisOnline(t, server), s, rows)
	if got := len(loggedIDs(t, blob, s.Name)); got != len(rows) {
		t.Errorf("the log has %d rows, want %d", got, len(rows))
	}
}

func TestWhatBecomesOfRowsOnline(t *testing.T) {
	s := clicksSource(t)
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	in := ingest(t, roomy, IngestDeps{Online: online, Blob: bucket(t)})
	of := func(id uint64, user string, ago time.Duration, cents int64) Row {
		at := row.OfTime(now.Add(-ago))
		r := Row{ID: id, Values: []row.Value{row.OfString(user), row.OfInt64(1), at, at, row.OfInt64(cents)}}
		if user == "" {
			r.Values[0] = row.Value{}
		}
		return r
	}
	for _, test := range []struct {
		name string
		rows []Row
		want Result
	}{
		{"first", []Row{of(1, "a", time.Hour, 1)}, Result{Accepted: 1}},
		{"again", []Row{of(1, "a", time.Hour, 1)}, Result{Accepted: 1, Duplicates: 1}},
		{"newer, twice", []Row{of(2, "a", 0, 2), of(2, "a", 0, 2)}, Result{Accepted: 2, Duplicates: 1}},
		{"older than the newest, but not too late", []Row{of(3, "a", time.Minute, 3)}, Result{Accepted: 1, Older: 1}},
		{"too late", []Row{of(4, "a", 3*time.Hour, 4)}, Result{Accepted: 1, Late: 1}},
		{"too late for the page, and of no user", []Row{of(5, "", 3*time.Hour, 5)}, Result{Accepted: 1, Late: 1}},
		{"in one call, as they were made", []Row{of(7, "b", 0, 7), of(6, "b", 90*time.Minute, 6)}, Result{Accepted: 2}},
	} {
		if got, err := in.Accept(t.Context(), s, test.rows, Everywhere); err != nil || fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %+v %v, want %+v", test.name, got, err, test.want)
		}
	}
	if got, err := in.Accept(t.Context(), s, []Row{of(8, "c", 0, 8)}, LogOnly); err != nil || got.Accepted != 1 {
		t.Errorf("to the log alone: got %+v %v", got, err)
	}
	if got, err := in.Accept(t.Context(), s, []Row{of(9, "d", 0, 9)}, OnlineOnly); err != nil || got.Accepted != 1 {
		t.Errorf("online alone: got %+v %v", got, err)
	}
	if ids := loggedIDs(t, in.deps.Blob, s.Name); !ids[8] || ids[9] || len(ids) != 8 {
		t.Errorf("the log has the rows %v, want 1 to 8", ids)
	}
	there, err := online.Read(t.Context(), []string{s.Views[0].Key(row.OfString("c")), s.Views[0].Key(row.OfString("d"))}, nil)
	if err != nil || there[0].Value != nil || there[1].Value == nil {
		t.Errorf("got %+v %v online, want d alone", there, err)
	}
}

// meddled is an online store in which others change what is to be replaced, so many times.
type meddled struct {
	store.Online
	times int
}

func (m *meddled) Replace(ctx context.Context, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	if m.times > 0 {
		m.times--
		return make([]bool, len(rows)), nil
	}
	return m.Online.Replace(ctx, rows, was)
}

func TestRacesAreRunAgain(t *testing.T) {
	s := clicksSource(t)
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &meddled{Online: online, times: 3}
	in := ingest(t, roomy, IngestDeps{Online: m, Blob: bucket(t)})
	rows := []Row{click(1, rand.New(rand.NewPCG(3, 4)))}
	if _, err := in.Accept(t.Context(), s, rows, Everywhere); err != nil {
		t.Errorf("after a few lost races: %v", err)
	}
	compare(t, online, s, rows)
	m.times = 1000
	more := append(rows, click(2, rand.New(rand.NewPCG(5, 6))))
	if _, err := in.Accept(t.Context(), s, more, Everywhere); !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "others change the same entities too often") {
		t.Errorf("got %v, want Unavailable", err)
	}
	m.times = 0
	if _, err := in.Accept(t.Context(), s, more, Everywhere); err != nil {
		t.Error(err)
	}
	compare(t, online, s, more)
}

func TestADamagedStateIsBegunAnew(t *testing.T) {
	s := clicksSource(t)
	online, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := []Row{click(1, rand.New(rand.NewPCG(3, 4)))}
	for _, v := range s.Views {
		damaged := store.OnlineRow{Key: v.Key(rows[0].Values[v.KeyAt[0]]), Stamp: store.Stamp{Event: 1}, Value: []byte("\xff\xff\xff")}
		if _, err := online.Write(t.Context(), []store.OnlineRow{damaged}); err != nil {
			t.Fatal(err)
		}
	}
	in := ingest(t, roomy, IngestDeps{Online: online, Blob: bucket(t)})
	if _, err := in.Accept(t.Context(), s, rows, Everywhere); err != nil {
		t.Fatal(err)
	}
	compare(t, online, s, rows)
}

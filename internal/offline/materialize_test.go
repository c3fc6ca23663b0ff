package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// What is materialized is what the oracle says that all rows come to; running again
// changes nothing, and an incremental run takes what has come since.
func TestMaterializeOracle(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			s := open(t, w.blob)
			w.materialize(t, s, Span{})
			w.checkOnline(t, s)
			before := w.online(t, s)
			for _, span := range []Span{{}, {Incremental: true}} {
				w.materialize(t, s, span)
				if after := w.online(t, s); !slices.Equal(before, after) {
					t.Fatalf("materializing again, incremental: %t, changes what is online", span.Incremental)
				}
			}
			w.fillAgain(t)
			w.materialize(t, s, Span{Incremental: true})
			w.checkOnline(t, s)
		})
	}
}

// A run that fails anywhere goes on where it was.
func TestMaterializeResumes(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	broken := &breaking{Online: s.online, r: rand.New(rand.NewPCG(1, 2))}
	s.online = broken
	failures := 0
	for _, v := range w.defs.Views {
		view, err := w.defs.View(v.Name)
		if err != nil {
			t.Fatal(err)
		}
		for {
			err := s.Materialize(t.Context(), view, Span{}, func(Progress) {})
			if err == nil {
				break
			}
			if !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
			failures++
		}
	}
	if failures < 3 {
		t.Fatalf("the store failed %d times, which shows nothing", failures)
	}
	w.checkOnline(t, s)
	if n := jobs(t, s); n > 0 {
		t.Errorf("%d folders of jobs are left", n)
	}
}

var errBroken = errors.New("the store is broken")

// breaking is a store that does only half of some batches.
type breaking struct {
	store.Online
	r *rand.Rand
}

func (b *breaking) Write(ctx context.Context, rows []store.OnlineRow) ([]bool, error) {
	if b.r.IntN(2) == 0 {
		_, err := b.Online.Write(ctx, rows[:len(rows)/2])
		return nil, errors.Join(err, errBroken)
	}
	return b.Online.Write(ctx, rows)
}

func (b *breaking) Replace(ctx context.Context, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	if b.r.IntN(2) == 0 {
		_, err := b.Online.Replace(ctx, rows[:len(rows)/2], was[:len(rows)/2])
		return nil, errors.Join(err, errBroken)
	}
	return b.Online.Replace(ctx, rows, was)
}

// Rows that come in while windows are made anew are neither lost nor counted twice.
func TestMaterializeWhileRowsComeIn(t *testing.T) {
	set, err := feature.Parse("defs.yaml", []byte(`
entities: [{name: shop, keys: [{name: shop, type: string}]}]
sources: [{name: pushed, time: at, fields: [{name: shop, type: string}, {name: at, type: timestamp}, {name: price, type: float64}]}]
views: [{name: v, entities: [shop], source: pushed, lateness: 100h, windows: [{name: n, aggregate: count, size: 100h, slide: 1h}, {name: sum, aggregate: sum, of: price, size: 100h, slide: 1h}]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{r: rand.New(rand.NewPCG(9, 9)), rows: map[string][]feature.Row{}}
	if w.defs, err = feature.Compile(set); err != nil {
		t.Fatal(err)
	}
	w.blob = memBlob(t)
	s := open(t, w.blob)
	view, err := w.defs.View("v")
	if err != nil {
		t.Fatal(err)
	}
	log, err := segment.NewLog(w.blob, "pushed", view.From.Columns)
	if err != nil {
		t.Fatal(err)
	}
	const shops = 40
	total := 0
	some := func(n int) []feature.Row {
		rows := make([]feature.Row, n)
		for i := range rows {
			total++
			at := epoch + int64(total)*1e6
			rows[i] = feature.Row{Values: []row.Value{row.OfString(fmt.Sprint(total % shops)), row.OfMicros(at), row.OfFloat64(1)}, Event: at, Created: at, ID: uint64(total)}
		}
		return rows
	}
	live := &materializing{Store: s, view: view, tell: func(Progress) {}}
	take := func(rows []feature.Row, online bool) {
		if _, err := log.Append(t.Context(), func(yield func(segment.Row) bool) {
			for _, r := range rows {
				if !yield(segment.Row(r)) {
					return
				}
			}
		}); err != nil {
			t.Error(err)
		}
		if online {
			var batch []*entity
			for _, r := range rows {
				batch = append(batch, &entity{key: view.Key(r.Values[0]), rows: []feature.Row{r}})
			}
			for _, e := range batch { // one shop may be there twice
				if err := live.put(t.Context(), []*entity{e}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	take(some(5000), false) // from before the view was defined
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			take(some(20), true)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	for range 3 {
		if err := s.Materialize(t.Context(), view, Span{}, func(Progress) {}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	running.Wait()
	var n int64
	sum := 0.0
	for shop := range shops {
		there, err := s.online.Read(t.Context(), []string{view.Key(row.OfString(fmt.Sprint(shop)))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		answers := make([]feature.Answer, 2)
		if err := view.Values(there[0].Value, there[0].Stamp, epoch+int64(total)*1e6, answers); err != nil {
			t.Fatal(err)
		}
		n += answers[0].Value.Int()
		sum += answers[1].Value.Float()
	}
	if n != int64(total) || sum != float64(total) {
		t.Errorf("windows have %d rows and the sum %v, want %d", n, sum, total)
	}
}

func TestMaterializeSpan(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	for _, v := range w.defs.Views {
		if len(v.Windows) > 0 {
			continue
		}
		view, err := w.defs.View(v.Name)
		if err != nil {
			t.Fatal(err)
		}
		mid := epoch + 15*hour
		all := slices.Clone(w.rows[v.Source])
		w.rows[v.Source] = slices.DeleteFunc(slices.Clone(all), func(r feature.Row) bool { return r.Event >= mid })
		if err := s.Materialize(t.Context(), view, Span{To: row.OfMicros(mid).Time()}, func(Progress) {}); err != nil {
			t.Fatal(err)
		}
		w.checkView(t, s, view)
		// Files that have rows after the span's end are not done.
		w.rows[v.Source] = all
		if err := s.Materialize(t.Context(), view, Span{Incremental: true}, func(Progress) {}); err != nil {
			t.Fatal(err)
		}
		w.checkView(t, s, view)
	}
}

func TestMaterializeOnce(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	view, err := w.defs.View(w.defs.Views[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	var last Progress
	var second error
	if err := s.Materialize(t.Context(), view, Span{}, func(p Progress) {
		if second == nil {
			second = s.Materialize(t.Context(), view, Span{}, func(Progress) {})
		}
		last = p
	}); err != nil {
		t.Fatal(err)
	}
	if !fault.Is(second, fault.Conflict) {
		t.Errorf("a second run at the same time: got %v, want a conflict", second)
	}
	if !last.Done || last.View != view.Name || last.Files != last.Of || last.Of == 0 || last.Rows == 0 {
		t.Errorf("the progress at the end is %+v", last)
	}
	if err := s.Materialize(t.Context(), view, Span{Incremental: true}, func(p Progress) { last = p }); err != nil {
		t.Errorf("once the first has ended: %v", err)
	}
	if !last.Done || last.Rows != 0 {
		t.Errorf("an incremental run without new files ends with %+v, want no rows", last)
	}
}

func TestMaterializeDamagedFile(t *testing.T) {
	w := fullWorld(t)
	s := open(t, w.blob)
	src, err := w.defs.Source("filed")
	if err != nil {
		t.Fatal(err)
	}
	put(t, w.blob, "landing/filed/day=2013-07-09/bad.parquet", []byte("PAR1 is not enough PAR1"))
	for _, view := range src.Views {
		err := s.Materialize(t.Context(), view, Span{}, func(Progress) {})
		if !fault.Is(err, fault.Invalid) || !bytes.Contains([]byte(fault.Message(err)), []byte("day=2013-07-09/bad.parquet")) {
			t.Errorf("got %v, want an invalid fault that names the file", err)
		}
	}
	for _, got := range w.online(t, s) {
		if got != "" {
			t.Fatalf("something is online: %q", got)
		}
	}
}

func (w *world) materialize(t *testing.T, s *Store, span Span) {
	t.Helper()
	for _, v := range w.defs.Views {
		view, err := w.defs.View(v.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Materialize(t.Context(), view, span, func(Progress) {}); err != nil {
			t.Fatal(err)
		}
	}
}

// entities are all that there could be.
func (w *world) entities(view *feature.CompiledView) (keys []string, of []asked) {
	for shop := range 5 {
		for item := range int64(3) {
			x := asked{shop: row.OfString(fmt.Sprintf("00%d", shop)), item: row.OfInt64(item), at: epoch + 50*hour}
			values := []row.Value{x.shop, x.item}[:len(view.Keys)]
			if len(values) == 2 || item == 0 {
				keys, of = append(keys, view.Key(values...)), append(of, x)
			}
		}
	}
	return keys, of
}

// online is everything that is there.
func (w *world) online(t *testing.T, s *Store) (all []string) {
	t.Helper()
	for _, v := range w.defs.Views {
		view, err := w.defs.View(v.Name)
		if err != nil {
			t.Fatal(err)
		}
		keys, _ := w.entities(view)
		rows, err := s.online.Read(t.Context(), keys, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Stamp == (store.Stamp{}) {
				all = append(all, "")
			} else {
				all = append(all, fmt.Sprintf("%q %v %x", r.Key, r.Stamp, r.Value))
			}
		}
	}
	return all
}

func (w *world) checkOnline(t *testing.T, s *Store) {
	t.Helper()
	for _, v := range w.defs.Views {
		view, err := w.defs.View(v.Name)
		if err != nil {
			t.Fatal(err)
		}
		w.checkView(t, s, view)
	}
}

func (w *world) checkView(t *testing.T, s *Store, view *feature.CompiledView) {
	t.Helper()
	keys, of := w.entities(view)
	rows, err := s.online.Read(t.Context(), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]feature.Answer, len(view.Columns))
	for i, x := range of {
		for _, back := range []int64{0, 10 * hour, 25 * hour} {
			x.at = epoch + 50*hour - back
			if back > 0 && len(view.Windows) == 0 {
				continue // online has the newest row alone
			}
			if err := view.Values(rows[i].Value, rows[i].Stamp, x.at, answers); err != nil {
				t.Fatal(err)
			}
			for at, f := range view.Columns {
				want := w.oracle(t, feature.Column{View: view.Name, Feature: f.Name, Type: f.Type}, asked{shop: x.shop, item: x.item, at: x.at})
				if back > 0 && w.after(view, x) {
					continue
				}
				if got := answers[at].Value; !got.Equal(want) {
					t.Fatalf("view %s of %s: %s of %v is %s, want %s", view.Name, view.Source, f.Name, x, got, want)
				}
			}
		}
	}
}

// after tells whether an entity has rows that were known after the moment.
func (w *world) after(view *feature.CompiledView, x asked) bool {
	return slices.ContainsFunc(w.rows[view.Source], func(r feature.Row) bool { return r.Created > x.at })
}

// fillAgain adds rows: to the log such that were taken in after the others, and files of any time.
func (w *world) fillAgain(t *testing.T) {
	first := w.rows
	w.rows = map[string][]feature.Row{}
	w.again++
	w.fill(t)
	for name, rows := range first {
		w.rows[name] = slices.Concat(rows, w.rows[name])
	}
}

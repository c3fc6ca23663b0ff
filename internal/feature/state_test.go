package feature

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// flights is a source with two fields that no view has, so that places differ.
var flights = &CompiledSource{Source: &Source{Name: "flights", Fields: []Field{
	{Name: "event_timestamp", Type: row.Timestamp}, {Name: "delay", Type: row.Float64}, {Name: "carrier", Type: row.String}, {Name: "dest", Type: row.String},
}}}

// newestView is a row view.
func newestView(ttl time.Duration) *CompiledView {
	return &CompiledView{
		View: &View{Name: "newest", TTL: Duration(ttl)}, From: flights,
		Columns: []row.Field{{Name: "dest", Type: row.String, ID: 7}, {Name: "delay", Type: row.Float64, ID: 2}},
		FromAt:  []int{3, 1},
	}
}

// windowView is a view of windows.
func windowView(lateness time.Duration) *CompiledView {
	v := &CompiledView{View: &View{Name: "windows", Lateness: Duration(lateness)}, From: flights}
	add := func(aggregate, of string, at int, t row.Type, size, slide time.Duration) {
		name := fmt.Sprint(aggregate, len(v.Windows))
		v.Windows = append(v.Windows, Window{Name: name, Aggregate: aggregate, Of: of, Size: Duration(size), Slide: Duration(slide)})
		v.Columns = append(v.Columns, row.Field{Name: name, Type: t, ID: uint32(len(v.Windows))})
		v.FromAt = append(v.FromAt, at)
	}
	add("count", "", -1, row.Int64, time.Hour, 5*time.Minute)
	add("mean", "delay", 1, row.Float64, time.Hour, 5*time.Minute)
	add("max", "delay", 1, row.Float64, 30*time.Minute, 0)
	add("distinct", "dest", 3, row.Int64, time.Hour, 0)
	add("last", "dest", 3, row.String, 20*time.Minute, 10*time.Minute)
	return v
}

const start = int64(1_357_000_000_000_000)

func randomRows(r *rand.Rand, n int, span time.Duration) []Row {
	rows := make([]Row, n)
	for i := range rows {
		event := start + r.Int64N(span.Microseconds())
		rows[i] = Row{Event: event, Created: event + r.Int64N(3), ID: r.Uint64(), Values: []row.Value{
			row.OfMicros(event), row.OfFloat64(math.Round(1000*r.NormFloat64()) / 10), row.OfString("UA"), row.OfString(string(rune('A' + r.IntN(9)))),
		}}
		for _, at := range []int{1, 3} {
			if r.IntN(8) == 0 {
				rows[i].Values[at] = row.Value{}
			}
		}
	}
	return rows
}

func answers(s *State, at int64) []Answer {
	dst := make([]Answer, len(s.view.Columns))
	s.Values(at, dst)
	return dst
}

func sameAnswers(a, b []Answer) bool {
	return slices.EqualFunc(a, b, func(a, b Answer) bool {
		return a.Value.Equal(b.Value) && a.Status == b.Status && a.Event == b.Event
	})
}

// One state that lives on, and one that is stored and loaded after each row, of
// the same rows in another order with repetitions, hold and say the same.
func TestOnlineIsOffline(t *testing.T) {
	for name, v := range map[string]*CompiledView{"row": newestView(40 * time.Minute), "windows": windowView(3 * time.Hour)} {
		for seed := range uint64(50) {
			r := rand.New(rand.NewPCG(seed, 1))
			rows := randomRows(r, 1+r.IntN(100), 3*time.Hour)
			if len(rows) > 2 {
				rows[1].Event, rows[1].Created = rows[0].Event, rows[0].Created // equal times
			}
			offline := v.NewState()
			for _, x := range rows {
				offline.Apply(x)
			}
			online := v.NewState()
			var data []byte
			var stamp store.Stamp
			again := slices.Concat(rows, rows[:len(rows)/2])
			r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
			for _, x := range again {
				if err := online.Load(data, stamp); err != nil {
					t.Fatal(err)
				}
				outcome := online.Apply(x)
				now := online.Append(nil)
				if changed := online.Stamp() != stamp || !bytes.Equal(now, data); outcome != Applied && changed && data != nil {
					t.Fatalf("%s, seed %d: outcome %d has changed the state", name, seed, outcome)
				} else if outcome == Applied && !changed {
					t.Fatalf("%s, seed %d: a row was applied and changed nothing", name, seed)
				}
				data, stamp = now, online.Stamp()
			}
			if want := offline.Append(nil); !bytes.Equal(data, want) || stamp != offline.Stamp() {
				t.Fatalf("%s, seed %d: got state\n%x %v, want\n%x %v", name, seed, data, stamp, want, offline.Stamp())
			}
			for range 20 {
				at := start + r.Int64N(5*time.Hour.Microseconds())
				want := answers(offline, at)
				if got := answers(online, at); !sameAnswers(got, want) {
					t.Fatalf("%s, seed %d: the state says %v, want %v", name, seed, got, want)
				}
				got := make([]Answer, len(v.Columns))
				if err := v.Values(data, stamp, at, got); err != nil || !sameAnswers(got, want) {
					t.Fatalf("%s, seed %d: read: %v %v, want %v", name, seed, got, err, want)
				}
			}
			offline.Reset()
			if got, want := answers(offline, start), answers(v.NewState(), start); !sameAnswers(got, want) || offline.Stamp() != (store.Stamp{}) {
				t.Fatalf("%s: after Reset it says %v, want %v", name, got, want)
			}
		}
	}
}

func TestRowView(t *testing.T) {
	v := newestView(time.Hour)
	s := v.NewState()
	at := func(event, created int64, delay row.Value, dest string) Row {
		return Row{Event: start + event, Created: start + created, Values: []row.Value{{}, delay, {}, row.OfString(dest)}}
	}
	for i, c := range []struct {
		row  Row
		want Outcome
	}{
		{at(10, 10, row.OfFloat64(1), "B"), Applied},
		{at(10, 10, row.OfFloat64(1), "B"), Duplicate},
		{at(9, 20, row.OfFloat64(2), "X"), Older},
		{at(10, 9, row.OfFloat64(2), "X"), Older},
		{at(10, 10, row.OfFloat64(1), "A"), Older},
		{at(10, 10, row.OfFloat64(1), "C"), Applied},
		{at(10, 11, row.OfFloat64(1), "A"), Applied},
		{at(12, 1, row.Value{}, "D"), Applied},
		{at(-start, -start, row.Value{}, "X"), Refused}, // they would be no stamp
		{at(1<<53-start, 0, row.Value{}, "X"), Refused},
		{at(13, -1<<53-start, row.Value{}, "X"), Refused},
	} {
		if got := s.Apply(c.row); got != c.want {
			t.Errorf("row %d: outcome %d, want %d", i, got, c.want)
		}
	}
	if got, want := s.Stamp(), (store.Stamp{Event: start + 12, Created: start + 1}); got != want {
		t.Errorf("got stamp %v, want %v", got, want)
	}
	data, hour, none := s.Append(nil), time.Hour.Microseconds(), row.Value{}
	for _, c := range []struct {
		at            int64
		dest          row.Value
		status, delay Status
	}{
		{start + 12, row.OfString("D"), Present, NullValue},
		{start, row.OfString("D"), Present, NullValue}, // known before its time
		{math.MinInt64, row.OfString("D"), Present, NullValue},
		{start + 12 + hour, row.OfString("D"), Present, NullValue},
		{start + 13 + hour, none, OutsideMaxAge, OutsideMaxAge},
		{math.MaxInt64, none, OutsideMaxAge, OutsideMaxAge},
	} {
		want := []Answer{{c.dest, c.status, start + 12}, {none, c.delay, start + 12}}
		if got := answers(s, c.at); !sameAnswers(got, want) {
			t.Errorf("at %d: got %v, want %v", c.at-start, got, want)
		}
		got := make([]Answer, 2)
		if err := v.Values(data, s.Stamp(), c.at, got); err != nil || !sameAnswers(got, want) {
			t.Errorf("at %d: read %v %v, want %v", c.at-start, got, err, want)
		}
	}
	missing, want := make([]Answer, 2), []Answer{{Status: NotFound}, {Status: NotFound}}
	if err := v.Values(nil, store.Stamp{}, start, missing); err != nil || !sameAnswers(missing, want) {
		t.Errorf("nothing stored: got %v %v, want %v", missing, err, want)
	}
	// A row that is all null takes no bytes, and is found.
	if err := v.Values(nil, store.Stamp{Event: start}, start, missing); err != nil || missing[0].Status != NullValue {
		t.Errorf("a row of nulls: got %v %v", missing, err)
	}
}

func TestLoadDamaged(t *testing.T) {
	for _, v := range []*CompiledView{newestView(0), windowView(time.Hour)} {
		s := v.NewState()
		for _, x := range randomRows(rand.New(rand.NewPCG(1, 2)), 20, time.Hour) {
			s.Apply(x)
		}
		stamp := s.Stamp()
		data := s.Append(nil)
		data = data[:len(data)-1]
		if err := s.Load(data, stamp); !fault.Is(err, fault.Internal) || s.Stamp() != stamp {
			t.Errorf("view %s: error %v, stamp %v", v.Name, err, s.Stamp())
		}
		if err := v.Values(data, stamp, start, make([]Answer, len(v.Columns))); !fault.Is(err, fault.Internal) {
			t.Errorf("view %s: read: error %v", v.Name, err)
		}
		if got, want := answers(s, start), answers(v.NewState(), start); !slices.EqualFunc(got, want, func(a, b Answer) bool { return a.Value.Equal(b.Value) }) {
			t.Errorf("view %s: damaged, it says %v, want %v", v.Name, got, want)
		}
	}
}

// What lies there of earlier windows counts as nothing, and is replaced under a greater stamp.
func TestChangedWindowsStartAnew(t *testing.T) {
	old := windowView(time.Hour).NewState()
	rows := randomRows(rand.New(rand.NewPCG(1, 3)), 20, time.Hour)
	for _, x := range rows {
		old.Apply(x)
	}
	v := windowView(time.Hour)
	v.Windows[1].Aggregate = "sum"
	v.Windows[0].Slide = Duration(time.Minute)
	s := v.NewState()
	if err := s.Load(old.Append(nil), old.Stamp()); err != nil {
		t.Fatal(err)
	}
	if got, want := answers(s, start), answers(v.NewState(), start); !sameAnswers(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if s.Apply(rows[0]) != Applied || s.Stamp().Event <= old.Stamp().Event {
		t.Errorf("got stamp %v, want one behind %v", s.Stamp(), old.Stamp())
	}
}

// A state that is forgotten when Keep has passed since it was stored says the same
// as one that never is, though late rows come to both.
func TestExpiryChangesNoValue(t *testing.T) {
	for name, v := range map[string]*CompiledView{"row": newestView(40 * time.Minute), "windows": windowView(30 * time.Minute)} {
		r := rand.New(rand.NewPCG(1, 4))
		kept, expiring := v.NewState(), v.NewState()
		now, stored, expired := start, start, 0
		for range 5000 {
			switch r.IntN(20) {
			case 0:
				now += 2 * r.Int64N(v.Keep().Microseconds())
			case 1:
				now = max(now, stored+v.Keep().Microseconds()+1)
			}
			if now-stored > v.Keep().Microseconds() {
				expiring.Reset()
				expired++
			}
			x := randomRows(r, 1, time.Hour)[0]
			x.Event, x.Created = now-r.Int64N(3*time.Hour.Microseconds()), now
			switch r.IntN(8) {
			case 0:
				x.Event = now - r.Int64N(5*v.Keep().Microseconds())
			case 1:
				x.Event = now + r.Int64N(slack.Microseconds())
			case 2:
				x.Event = now + slack.Microseconds() // the row that reaches furthest
			}
			for range 1 + r.IntN(2) {
				kept.Apply(x)
				if expiring.Apply(x) == Applied {
					stored = now
				}
			}
			if r.IntN(2) == 0 {
				now += r.Int64N(20 * time.Minute.Microseconds())
			}
			got, want := answers(expiring, now), answers(kept, now)
			if !slices.EqualFunc(got, want, func(a, b Answer) bool { return a.Value.Equal(b.Value) }) {
				t.Fatalf("%s: after %d expiries: got %v, want %v", name, expired, got, want)
			}
		}
		if expired < 10 {
			t.Errorf("%s: %d expiries show little", name, expired)
		}
	}
	if got := newestView(0).Keep(); got != 0 {
		t.Errorf("without a TTL: kept for %v, want for ever", got)
	}
}

func TestReadTakesNoMemory(t *testing.T) {
	v := newestView(time.Hour)
	v.Columns, v.FromAt = v.Columns[1:], v.FromAt[1:] // texts take some
	s := v.NewState()
	s.Apply(randomRows(rand.New(rand.NewPCG(2, 5)), 1, time.Hour)[0])
	data, stamp, dst := s.Append(nil), s.Stamp(), make([]Answer, 1)
	if got := testing.AllocsPerRun(100, func() {
		if v.Values(data, stamp, stamp.Event, dst) != nil || dst[0].Status != Present {
			t.Fatal(dst)
		}
	}); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func BenchmarkReadRow(b *testing.B) {
	v := newestView(time.Hour)
	s := v.NewState()
	s.Apply(randomRows(rand.New(rand.NewPCG(2, 5)), 1, time.Hour)[0])
	data, stamp, dst := s.Append(nil), s.Stamp(), make([]Answer, 2)
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Values(data, stamp, stamp.Event, dst); err != nil {
			b.Fatal(err)
		}
	}
}

// benchWindows is the flights example: mean and count of 3 h in steps of 5 min, 10 events a minute.
func benchWindows() (v *CompiledView, data []byte, stamp store.Stamp, at int64) {
	v = windowView(10 * time.Minute)
	v.Windows, v.Columns, v.FromAt = v.Windows[:2], v.Columns[:2], v.FromAt[:2]
	for i := range v.Windows {
		v.Windows[i].Size = Duration(3 * time.Hour)
	}
	s := v.NewState()
	for i, x := range randomRows(rand.New(rand.NewPCG(2, 5)), 3000, time.Hour) {
		x.Event = start + int64(i)*6e6
		s.Apply(x)
		at = x.Event
	}
	return v, s.Append(nil), s.Stamp(), at
}

func BenchmarkReadWindows(b *testing.B) {
	v, data, stamp, at := benchWindows()
	dst := make([]Answer, len(v.Columns))
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Values(data, stamp, at, dst); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadApplyAppend(b *testing.B) {
	v, data, stamp, at := benchWindows()
	s := v.NewState()
	x := randomRows(rand.New(rand.NewPCG(2, 6)), 1, time.Hour)[0]
	x.Event = at + 1
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Load(data, stamp); err != nil {
			b.Fatal(err)
		}
		if s.Apply(x) != Applied {
			b.Fatal("not applied")
		}
		out = s.Append(out[:0])
	}
	b.ReportMetric(float64(len(out)), "bytes/state")
}

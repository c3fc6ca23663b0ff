package window

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

const (
	second = int64(1e6)
	minute = 60 * second
	hour   = 60 * minute
)

// The columns of the tests' rows.
const (
	atFloat = iota
	atInt
	atText
	atList
)

var types = []row.Type{row.Float64, row.Int64, row.String, row.ListOf(row.Float32)}

type event struct {
	event, created int64
	id             uint64
	values         []row.Value
}

// every has all aggregates over every kind of column, of sliding and tumbling windows.
func every(lateness int64) Spec {
	s := Spec{Lateness: lateness, Windows: []One{{Aggregate: Count, At: -1, Size: 30 * minute, Slide: 10 * minute}}}
	add := func(size, slide int64, at int, aggregates ...Aggregate) {
		for _, a := range aggregates {
			s.Windows = append(s.Windows, One{Aggregate: a, Of: fmt.Sprint("column ", at), At: at, Type: types[at], Size: size, Slide: slide})
		}
	}
	for _, span := range [][2]int64{{30 * minute, 10 * minute}, {15 * minute, 0}, {15 * minute, 15 * minute}, {20 * second, 0}} {
		add(span[0], span[1], atFloat, Count, Sum, Mean, Min, Max, Distinct, Last)
		add(span[0], span[1], atInt, Count, Sum, Mean, Min, Max, Distinct, Last)
		add(span[0], span[1], atText, Count, Distinct, Last)
		add(span[0], span[1], atList, Count, Last)
	}
	return s
}

func random(r *rand.Rand, n int, span int64) []event {
	events := make([]event, n)
	start := (r.Int64N(100) - 50) * hour
	for i := range events {
		at := start + r.Int64N(span)
		if r.IntN(4) == 0 {
			at = floor(at, minute) * minute // on the edges
		}
		events[i] = event{event: at, created: at + r.Int64N(3), id: r.Uint64(), values: []row.Value{
			row.OfFloat64(randomFloat(r)), row.OfInt64(randomInt(r)), row.OfString(fmt.Sprint("text ", r.IntN(20))),
			row.OfList(row.Float32, row.OfFloat32(r.Float32()), row.OfFloat32(2)),
		}}
		for j := range events[i].values {
			if r.IntN(6) == 0 {
				events[i].values[j] = row.Value{}
			}
		}
	}
	return events
}

func randomFloat(r *rand.Rand) float64 {
	switch r.IntN(40) {
	case 0:
		return math.Copysign(0, -1)
	case 1:
		return 0
	case 2:
		return math.NaN()
	case 3:
		return math.Inf(r.IntN(2)*2 - 1)
	case 4, 5:
		return math.Float64frombits(r.Uint64())
	case 6:
		return math.MaxFloat64 * float64(r.IntN(3)-1)
	case 7:
		return math.SmallestNonzeroFloat64 * float64(r.IntN(30)-15)
	}
	return r.NormFloat64() * math.Exp(20*r.NormFloat64())
}

func randomInt(r *rand.Rand) int64 {
	switch r.IntN(20) {
	case 0:
		return math.MinInt64
	case 1:
		return math.MaxInt64
	case 2:
		return int64(r.Uint64())
	}
	return r.Int64N(200) - 100
}

// disorder gives the events in an order in which none is more than lateness behind
// one in front of it, some of them repeatedly.
func disorder(r *rand.Rand, events []event, lateness int64) []event {
	type keyed struct {
		key int64
		event
	}
	var all []keyed
	for _, e := range events {
		for again := true; again; again = r.IntN(4) == 0 {
			all = append(all, keyed{e.event + r.Int64N(lateness+1), e})
		}
	}
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Or(cmp.Compare(a.key, b.key), r.IntN(3)-1) })
	order := make([]event, len(all))
	for i, k := range all {
		order[i] = k.event
	}
	return order
}

// oracle says what a window says, from all rows and by the book.
func oracle(w One, rows []event, t int64) Result {
	from, to := floor(t, max(w.Slide, 1))*w.Slide-w.Size+w.Slide, floor(t, max(w.Slide, 1))*w.Slide+w.Slide
	if w.Slide == 0 {
		from, to = floor(t, w.Size)*w.Size-w.Size, floor(t, w.Size)*w.Size
	}
	var r Result
	var values []event // with a value
	n := int64(0)
	for _, e := range rows {
		if e.event < from || e.event >= to {
			continue
		}
		if n++; n == 1 || e.event > r.Event {
			r.Event = e.event
		}
		if w.At < 0 || e.values[w.At].Null() || e.values[w.At].Type() == row.Float64 && math.IsNaN(e.values[w.At].Float()) {
			continue
		}
		values = append(values, e)
	}
	if w.At >= 0 {
		n = int64(len(values))
	}
	unlike := map[string]bool{}
	total := new(big.Float).SetPrec(4000)
	plus, minus := false, false
	for i, e := range values {
		v := e.values[w.At]
		switch w.Aggregate {
		case Min, Max:
			if v.Type() == row.Float64 && v.Float() == 0 {
				v = row.OfFloat64(0)
			}
			smaller := v.Type() == row.Float64 && v.Float() < r.Value.Float() || v.Type() == row.Int64 && v.Int() < r.Value.Int()
			if i == 0 || smaller == (w.Aggregate == Min) {
				r.Value = v
			}
		case Distinct:
			if v.Type() == row.Float64 && v.Float() == 0 {
				v = row.OfFloat64(0)
			}
			unlike[v.String()+fmt.Sprint(v.Float())] = true
		case Last:
			last := values[0]
			for _, e := range values {
				if cmp.Or(cmp.Compare(e.event, last.event), cmp.Compare(e.created, last.created), cmp.Compare(e.id, last.id)) > 0 {
					last = e
				}
			}
			r.Value = last.values[w.At]
		case Sum, Mean:
			if v.Type() == row.Int64 {
				total.Add(total, new(big.Float).SetInt64(v.Int()))
			} else if math.IsInf(v.Float(), 0) {
				plus, minus = plus || v.Float() > 0, minus || v.Float() < 0
			} else {
				total.Add(total, big.NewFloat(v.Float()))
			}
		}
	}
	sum, _ := total.Float64()
	switch {
	case plus && minus:
		sum = math.NaN()
	case plus || minus:
		sum = math.Inf(map[bool]int{true: 1, false: -1}[plus])
	}
	switch {
	case w.Aggregate == Count:
		r.Value = row.OfInt64(n)
	case w.Aggregate == Distinct:
		r.Value = row.OfInt64(int64(len(unlike)))
	case n == 0:
	case w.Aggregate == Mean:
		r.Value = row.OfFloat64(sum / float64(n))
	case w.Aggregate == Sum && w.Type == row.Int64:
		whole, _ := total.Int64() // the nearest
		r.Value = row.OfInt64(whole)
	case w.Aggregate == Sum:
		r.Value = row.OfFloat64(sum + 0)
	}
	return r
}

func mustPlan(t testing.TB, s Spec) *Plan {
	t.Helper()
	p, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reload writes and reads a state.
func reload(t testing.TB, s *State) {
	t.Helper()
	data := s.Append(nil)
	if err := s.Decode(data); err != nil {
		t.Fatal(err)
	}
	if again := s.Append(nil); !bytes.Equal(again, data) {
		t.Fatalf("read and written again:\ngot  %x\nwant %x", again, data)
	}
}

func values(s *State, n int, t int64) []Result {
	dst := make([]Result, n)
	s.Values(t, dst)
	return dst
}

func same(a, b Result) bool { return a.Value.Equal(b.Value) && a.Event == b.Event }

// Whatever the order, the duplicates and the restarts: states are equal to the byte,
// and say what all rows together say.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		lateness := []int64{second, 7 * minute, 3 * hour}[r.IntN(3)]
		spec := every(lateness)
		p := mustPlan(t, spec)
		rows := random(r, 1+r.IntN(300), 1+r.Int64N(4*hour))
		newest := slices.MaxFunc(rows, func(a, b event) int { return cmp.Compare(a.event, b.event) }).event

		var first *State
		for range 3 {
			s := p.NewState()
			applied := 0
			for _, e := range disorder(r, rows, lateness) {
				if s.Apply(e.event, e.created, e.id, e.values) == Applied {
					applied++
				}
				if r.IntN(20) == 0 {
					reload(t, s)
				}
			}
			if applied != len(rows) {
				t.Fatalf("seed %d: %d rows applied, want %d", seed, applied, len(rows))
			}
			if first == nil {
				first = s
			}
			if got, want := s.Append(nil), first.Append(nil); !bytes.Equal(got, want) {
				t.Fatalf("seed %d: another order gives\n%x, not\n%x", seed, got, want)
			}
		}
		for range 20 {
			at := newest - lateness + r.Int64N(lateness+hour)
			if r.IntN(3) == 0 {
				at = max(floor(at, 5*minute)*5*minute, newest-lateness)
			}
			for i, got := range values(first, len(spec.Windows), at) {
				if want := oracle(spec.Windows[i], rows, at); !same(got, want) {
					t.Fatalf("seed %d: at %d window %+v says %v, want %v", seed, at, spec.Windows[i], got, want)
				}
			}
		}
	}
}

// Rows in any order, also late ones: each outcome, and what is said after each row.
func TestLateRows(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		lateness := []int64{0, 10 * second, 12 * minute, hour}[r.IntN(4)]
		spec := every(lateness)
		s := mustPlan(t, spec).NewState()
		rows := disorder(r, random(r, 100, 3*hour), lateness+30*minute)
		var counted []event
		known := map[uint64]bool{}
		newest := int64(math.MinInt64)
		seen := map[Outcome]int{}
		for _, e := range rows {
			want := Applied
			switch {
			case len(counted) > 0 && e.event < newest-lateness:
				want = Late
			case known[e.id]:
				want = Duplicate
			default:
				known[e.id], newest = true, max(newest, e.event)
				counted = append(counted, e)
			}
			before := s.Append(nil)
			if got := s.Apply(e.event, e.created, e.id, e.values); got != want {
				t.Fatalf("seed %d: outcome %d, want %d", seed, got, want)
			}
			if want != Applied && !bytes.Equal(before, s.Append(nil)) {
				t.Fatalf("seed %d: outcome %d changed the state", seed, want)
			}
			seen[want]++
			if r.IntN(10) == 0 {
				reload(t, s)
			}
			at := newest - lateness + r.Int64N(lateness+hour)
			for i, got := range values(s, len(spec.Windows), at) {
				if want := oracle(spec.Windows[i], counted, at); !same(got, want) {
					t.Fatalf("seed %d: at %d window %+v says %v, want %v", seed, at, spec.Windows[i], got, want)
				}
			}
		}
		if seen[Late] == 0 || seen[Applied] == 0 {
			t.Fatalf("seed %d has outcomes %v: nothing was shown", seed, seen)
		}
	}
}

// Old panes go, whatever comes: a state of a long stream is no larger than one of its end.
func TestOldPanesGo(t *testing.T) {
	spec := every(5 * minute)
	p := mustPlan(t, spec)
	r := rand.New(rand.NewPCG(3, 3))
	rows := random(r, 4000, 100*hour)
	slices.SortFunc(rows, func(a, b event) int { return cmp.Compare(a.event, b.event) })
	long, short := p.NewState(), p.NewState()
	for i, e := range rows {
		long.Apply(e.event, e.created, e.id, e.values)
		if i >= 2000 {
			short.Apply(e.event, e.created, e.id, e.values)
		}
	}
	if got, want := long.Append(nil), short.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

func TestEmpty(t *testing.T) {
	spec := every(hour)
	p := mustPlan(t, spec)
	expired := p.NewState()
	for _, e := range random(rand.New(rand.NewPCG(4, 4)), 50, hour) {
		expired.Apply(e.event, e.created, e.id, e.values)
	}
	now := expired.newest + 2*hour
	read := p.NewState()
	if err := read.Decode(p.NewState().Append(nil)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*State{"new": p.NewState(), "read": read, "expired": expired} {
		for i, got := range values(s, len(spec.Windows), now) {
			want := Result{}
			if a := spec.Windows[i].Aggregate; a == Count || a == Distinct {
				want.Value = row.OfInt64(0)
			}
			if !same(got, want) {
				t.Errorf("%s: window %+v says %v, want %v", name, spec.Windows[i], got, want)
			}
		}
	}
}

func TestDistinctOfMany(t *testing.T) {
	p := mustPlan(t, Spec{Lateness: 0, Windows: []One{{Aggregate: Distinct, Of: "x", Type: row.Int64, Size: hour, Slide: minute}}})
	for _, c := range []struct {
		perPane int64
		within  float64 // 3 standard errors
	}{{MaxHashes - 1, 0}, {MaxHashes, 0.14}, {5000, 0.14}} {
		s := p.NewState()
		n := int64(0)
		for i := range int64(60) {
			for range c.perPane {
				n++
				s.Apply(i*minute, 0, uint64(n), []row.Value{row.OfInt64(n)})
			}
			s.Apply(i*minute+1, 0, uint64(n)<<32, []row.Value{row.OfInt64(n)}) // one that was there
		}
		got := float64(values(s, 1, 59*minute)[0].Value.Int())
		if math.Abs(got-float64(n)) > c.within*float64(n) {
			t.Errorf("%d different values: got %v, want it within %v %%", n, got, 100*c.within)
		}
	}
}

func TestMaxRows(t *testing.T) {
	p := mustPlan(t, Spec{Lateness: hour, Windows: []One{{Aggregate: Count, At: -1, Size: hour, Slide: minute}}})
	s := p.NewState()
	for i := range int64(MaxRows) {
		if got := s.Apply(i%(30*minute), 0, uint64(i), nil); got != Applied {
			t.Fatalf("row %d: outcome %d", i, got)
		}
	}
	before := s.Append(nil)
	for _, c := range []struct {
		event int64
		id    uint64
		want  Outcome
	}{
		{100, 1 << 40, Refused},
		{40 * minute, 1 << 40, Refused}, // nothing is settled by that
		{5, 5, Duplicate},
		{maxTime + 1, 1 << 40, Refused},
		{math.MinInt64, 1 << 40, Refused},
	} {
		if got := s.Apply(c.event, 0, c.id, nil); got != c.want {
			t.Errorf("row %+v: outcome %d", c, got)
		}
	}
	if !bytes.Equal(before, s.Append(nil)) {
		t.Error("refused rows have changed the state")
	}
	if got := s.Apply(2*hour, 0, 1<<40, nil); got != Applied {
		t.Errorf("a row that settles the others: outcome %d", got)
	}
	if got := s.rows; got != 1 {
		t.Errorf("%d ids remembered, want 1", got)
	}
}

func TestChangedWindows(t *testing.T) {
	count := func(size, slide, lateness int64) Spec {
		return Spec{Lateness: lateness, Windows: []One{{Aggregate: Count, Of: "x", Type: row.Int64, Size: size, Slide: slide}}}
	}
	one := []row.Value{row.OfInt64(1)}
	old := mustPlan(t, count(hour, minute, minute)).NewState()
	for i := range int64(60) {
		old.Apply(i*minute, 0, uint64(i), one)
	}
	data := old.Append(nil)

	longer := mustPlan(t, count(hour, minute, hour)).NewState()
	if err := longer.Decode(data); err != nil {
		t.Fatal(err)
	}
	if got := longer.Apply(30*minute, 0, 30, one); got != Late {
		t.Errorf("a row whose id was forgotten: outcome %d, want Late", got)
	}
	shorter := mustPlan(t, count(10*minute, minute, minute)).NewState()
	if err := shorter.Decode(data); err != nil {
		t.Fatal(err)
	}
	if got := values(shorter, 1, 59*minute)[0].Value.Int(); got != 10 {
		t.Errorf("10 of 60 minutes count %d", got)
	}
	for name, s := range map[string]Spec{
		"step":      count(hour, 2*minute, minute),
		"aggregate": {Windows: []One{{Aggregate: Sum, Of: "x", Type: row.Int64, Size: hour, Slide: minute}}},
		"column":    {Windows: []One{{Aggregate: Count, Of: "y", Type: row.Int64, Size: hour, Slide: minute}}},
		"type":      {Windows: []One{{Aggregate: Count, Of: "x", Type: row.Float64, Size: hour, Slide: minute}}},
	} {
		st := mustPlan(t, s).NewState()
		if err := st.Decode(data); !errors.Is(err, ErrOther) || !st.Empty() {
			t.Errorf("another %s: error %v", name, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, s := range map[string]Spec{
		"no windows":      {},
		"no size":         {Windows: []One{{Aggregate: Count, At: -1}}},
		"slide":           {Windows: []One{{Aggregate: Count, At: -1, Size: hour, Slide: 7 * minute}}},
		"lateness":        {Lateness: -1, Windows: []One{{Aggregate: Count, At: -1, Size: hour}}},
		"long lateness":   {Lateness: 10_000 * hour, Windows: []One{{Aggregate: Count, At: -1, Size: hour}}},
		"many panes":      {Windows: []One{{Aggregate: Count, At: -1, Size: hour, Slide: second / 10}}},
		"odd steps":       {Windows: []One{{Aggregate: Count, At: -1, Size: 100 * hour}, {Aggregate: Count, At: -1, Size: 7 * second}}},
		"aggregate":       {Windows: []One{{Aggregate: "median", Type: row.Int64, Size: hour}}},
		"sum of nothing":  {Windows: []One{{Aggregate: Sum, At: -1, Size: hour}}},
		"sum of texts":    {Windows: []One{{Aggregate: Sum, Type: row.String, Size: hour}}},
		"unlike lists":    {Windows: []One{{Aggregate: Distinct, Type: row.ListOf(row.Int64), Size: hour}}},
		"endless windows": {Windows: []One{{Aggregate: Count, At: -1, Size: math.MaxInt64}}},
	} {
		if _, err := New(s); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: error %v, want Invalid", name, err)
		}
	}
}

// The sum of any floats is that of exact arithmetic, rounded once.
func FuzzSum(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 20 {
		var data []byte
		for range r.IntN(30) {
			b := math.Float64bits(randomFloat(r))
			for range 8 {
				data = append(data, byte(b))
				b >>= 8
			}
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sum
		want := new(big.Float).SetPrec(4000)
		for ; len(data) >= 8; data = data[8:] {
			b := uint64(0)
			for i := range 8 {
				b |= uint64(data[i]) << (8 * i)
			}
			v := math.Float64frombits(b)
			if math.IsNaN(v) || math.IsInf(v, 0) {
				continue
			}
			s.addFloat(v)
			want.Add(want, big.NewFloat(v))
		}
		w, _ := want.Float64()
		if got := s.float(); got != w {
			t.Fatalf("got %v, want %v", got, w)
		}
		r := reader{data: s.append(nil)}
		var again sum
		if again.decode(&r); r.bad || len(r.data) > 0 || again.float() != w {
			t.Fatalf("read again: %v, want %v", again.float(), w)
		}
	})
}

func FuzzDecode(f *testing.F) {
	spec := every(10 * minute)
	p := mustPlan(f, spec)
	r := rand.New(rand.NewPCG(6, 6))
	s := p.NewState()
	f.Add(s.Append(nil))
	rows := random(r, 30, hour)
	for _, e := range disorder(r, rows, 10*minute) {
		s.Apply(e.event, e.created, e.id, e.values)
		f.Add(s.Append(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := p.NewState()
		if err := s.Decode(data); err != nil {
			if !s.Empty() {
				t.Fatal("damaged, and not empty")
			}
			return
		}
		values(s, len(spec.Windows), s.newest)
		once := s.Append(nil)
		reload(t, s)
		if !bytes.Equal(s.Append(nil), once) {
			t.Fatal("what was read changes when it is read again")
		}
		for _, e := range rows {
			s.Apply(s.newest+e.event%hour, e.created, e.id, e.values)
		}
		values(s, len(spec.Windows), s.newest)
		reload(t, s)
	})
}

// carriers is the flights example: 3 h windows in steps of 5 min, 10 events a minute.
func carriers(b *testing.B) (*Plan, []event) {
	p := mustPlan(b, Spec{Lateness: 10 * minute, Windows: []One{
		{Aggregate: Mean, Of: "delay", Type: row.Float64, Size: 3 * hour, Slide: 5 * minute},
		{Aggregate: Count, At: -1, Size: 3 * hour, Slide: 5 * minute},
	}})
	r := rand.New(rand.NewPCG(7, 7))
	events := make([]event, 1<<16)
	for i := range events {
		events[i] = event{event: int64(i) * 6 * second, id: r.Uint64(), values: []row.Value{row.OfFloat64(float64(r.IntN(200)-20) + 0.5)}}
	}
	return p, events
}

func BenchmarkApply(b *testing.B) {
	p, events := carriers(b)
	states := make([]*State, 16)
	for i := range states {
		states[i] = p.NewState()
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i == 16*len(events) {
			i = 0
			for _, s := range states {
				s.Reset()
			}
		}
		e := &events[i/16]
		if got := states[i%16].Apply(e.event, e.event, e.id, e.values); got != Applied {
			b.Fatal(got)
		}
		i++
	}
}

func full(b *testing.B) (*State, int64) {
	p, events := carriers(b)
	s := p.NewState()
	for _, e := range events[:4000] {
		s.Apply(e.event, e.event, e.id, e.values)
	}
	return s, s.newest
}

func BenchmarkValues(b *testing.B) {
	s, at := full(b)
	dst := make([]Result, 2)
	b.ReportAllocs()
	for b.Loop() {
		s.Values(at, dst)
	}
}

func BenchmarkAppend(b *testing.B) {
	s, _ := full(b)
	var data []byte
	b.ReportAllocs()
	for b.Loop() {
		data = s.Append(data[:0])
	}
	b.ReportMetric(float64(len(data)), "bytes/state")
}

func BenchmarkDecode(b *testing.B) {
	s, _ := full(b)
	data := s.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}

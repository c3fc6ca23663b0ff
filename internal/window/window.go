// Package window makes aggregates over time of the rows of one entity: what a
// view with windows holds, says and writes down.
//
// A State is panes: spans of equal length, aligned to 1970 in UTC, as long as the
// greatest common divisor of all steps of the view's windows. A window is merged of
// the panes that it covers. Everything in a pane is the same in whatever order its
// rows came: sums are exact until they are read, the last row is the one with the
// greatest (event, created, id), distinct values are the smallest hashes. So states
// that took the same rows are equal to the byte, and what they say is too, as
// long as no row came too late.
//
// A row is known by its id. Each pane remembers the ids of its rows while it can
// still change: until it ends more than the lateness before the newest row. A row
// further behind than the lateness is Late and changes nothing.
//
// The memory of a State is bounded: by MaxRows remembered ids, MaxPanes panes, and
// MaxHashes hashes for each distinct in each of them. It knows nothing of views,
// keys and stores. A Plan is safe for concurrent use, a State is not.
package window

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"slices"
	"sort"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Aggregate is what a window makes of its rows.
type Aggregate string

// The aggregates. Nulls and NaNs are not aggregated.
const (
	Count    Aggregate = "count"    // rows or, of a column, those that have a value: int64
	Sum      Aggregate = "sum"      // int64 of integers and bools (the nearest that fits), float64 of floats
	Mean     Aggregate = "mean"     // float64
	Min      Aggregate = "min"      // of the column's type
	Max      Aggregate = "max"      // of the column's type
	Distinct Aggregate = "distinct" // int64; exact while each pane has less than MaxHashes, else within some 4.4 % (one standard error)
	Last     Aggregate = "last"     // of the column's type: of the row with the greatest (event, created, id) that has a value
)

// The bounds of one State.
const (
	MaxRows   = 1 << 16 // ids that it remembers, 8 bytes each
	MaxPanes  = 1 << 12
	MaxHashes = 512 // of a distinct in a pane, 8 bytes each

	// maxTime keeps sums of times from overflowing: microseconds, some 36,000 years.
	maxTime = 1 << 60
)

// One is one window. With Slide, it covers at a moment t the steps of Slide that lie
// within Size, up to and with the one that t is in: also what the state has of
// that step's future, which is nothing unless clocks differ. Without, it is the
// last whole span of Size, which ends at t or before.
type One struct {
	Aggregate   Aggregate
	Of          string   // the column's name; a state made of another one is not read
	At          int      // where the column lies in the values of a row; -1: none is needed (count)
	Type        row.Type // of the column
	Size, Slide int64    // in microseconds; Slide divides Size, or is 0: tumbling
}

// Spec is the windows of one view.
type Spec struct {
	Windows  []One
	Lateness int64 // how far behind the newest row of the entity a row may be, in microseconds
}

// Plan is a Spec that was looked through.
type Plan struct {
	windows  []planned
	columns  []column
	lateness int64
	step     int64  // the length of a pane
	mark     uint32 // of what encoded panes hold
}

type planned struct {
	One
	column int // among the plan's columns; -1: none
}

// column is what panes hold of one column.
type column struct {
	of    string
	at    int
	typ   row.Type
	field []row.Field // to encode a value of it
	// What is needed besides the number of values.
	sum, min, max, distinct, last bool
}

// New looks a Spec through. It refuses, as Invalid, windows that can't be or that
// would take more than MaxPanes panes.
func New(s Spec) (*Plan, error) {
	p := &Plan{lateness: s.Lateness}
	if len(s.Windows) == 0 {
		return nil, fault.New(fault.Invalid, "there are no windows")
	}
	if s.Lateness < 0 || s.Lateness > maxTime/8 {
		return nil, fault.New(fault.Invalid, "the lateness is negative or too long")
	}
	var reach int64
	for _, w := range s.Windows {
		if w.Size <= 0 || w.Size > maxTime/8 || w.Slide < 0 || w.Slide > 0 && w.Size%w.Slide != 0 {
			return nil, fault.New(fault.Invalid, "a window's slide must divide its size, and its size be positive")
		}
		step := w.Slide
		if step == 0 {
			step = w.Size
		}
		p.step = gcd(step, p.step)
		reach = max(reach, w.Size+step)
		i, err := p.column(w)
		if err != nil {
			return nil, err
		}
		p.windows = append(p.windows, planned{One: w, column: i})
	}
	if panes := (reach + s.Lateness) / p.step; panes > MaxPanes {
		return nil, fault.New(fault.Invalid, "the windows and the lateness take %d steps of %d ms, more than %d", panes, p.step/1000, MaxPanes)
	}
	// What is the same for two plans with equal marks: how long panes are, and what is in them.
	var b []byte
	b = binary.AppendVarint(b, p.step)
	for _, c := range p.columns {
		b = binary.AppendUvarint(b, uint64(len(c.of)))
		b = append(append(b, c.of...), byte(c.typ))
		for _, has := range []bool{c.sum, c.min, c.max, c.distinct, c.last} {
			b = row.OfBool(has).AppendJSON(b)
		}
	}
	h := fnv.New32a()
	_, _ = h.Write(b)
	p.mark = h.Sum32()
	return p, nil
}

func (p *Plan) column(w One) (int, error) {
	if w.At < 0 {
		if w.Aggregate != Count {
			return 0, fault.New(fault.Invalid, "a %s is of a column, and none is named", w.Aggregate)
		}
		return -1, nil
	}
	i := slices.IndexFunc(p.columns, func(c column) bool { return c.at == w.At })
	if i < 0 {
		i = len(p.columns)
		p.columns = append(p.columns, column{of: w.Of, at: w.At, typ: w.Type, field: []row.Field{{Type: w.Type, ID: 1}}})
	}
	c := &p.columns[i]
	switch w.Aggregate {
	case Count:
	case Sum, Mean:
		c.sum = true
	case Min:
		c.min = true
	case Max:
		c.max = true
	case Distinct:
		c.distinct = true
	case Last:
		c.last = true
	default:
		return 0, fault.New(fault.Invalid, "aggregate %.50q is not one of count, sum, mean, min, max, distinct, last", string(w.Aggregate))
	}
	if (c.sum || c.min || c.max) && !w.Type.Numeric() || c.distinct && w.Type.IsList() {
		return 0, fault.New(fault.Invalid, "a %s can't be made of a column of type %s", w.Aggregate, w.Type)
	}
	return i, nil
}

// span gives the panes that a window covers at t: from the first up to, without, the end.
func (p *Plan) span(w *planned, t int64) (first, end int64) {
	if w.Slide > 0 {
		now := floor(t, w.Slide) + 1
		return (now*w.Slide - w.Size) / p.step, now * w.Slide / p.step
	}
	now := floor(t, w.Size)
	return (now - 1) * (w.Size / p.step), now * (w.Size / p.step)
}

// Outcome is what became of a row.
type Outcome uint8

// The outcomes. Only Applied has changed the state.
const (
	Applied   Outcome = iota
	Duplicate         // the state has a row of this id
	Late              // the row is further behind the newest than the lateness
	Refused           // the state remembers MaxRows rows already, or the row's time is beyond reckoning
)

// State is what the windows of one entity hold.
type State struct {
	p       *Plan
	newest  int64  // event of a row; of no meaning without panes
	settled int64  // panes before this one have forgotten their ids and never change again
	rows    int    // ids in all panes
	panes   []pane // in order; those up to the capacity lend their memory

	sum    sum
	hashes []uint64
	key    []byte
}

type pane struct {
	at     int64 // the pane begins at at × step
	newest int64 // event of a row
	rows   uint64
	ids    []uint64 // in order
	cells  []cell   // one for each of the plan's columns
}

// cell is what a pane holds of a column.
type cell struct {
	n        uint64 // values
	sum      sum
	min, max row.Value
	hashes   []uint64 // the smallest ones of values, in order
	last     last
}

type last struct {
	event, created int64
	id             uint64
	value          row.Value
}

// NewState makes a state without rows.
func (p *Plan) NewState() *State { return &State{p: p, settled: math.MinInt64} }

// Reset forgets all rows; the memory is used again.
func (s *State) Reset() { s.newest, s.settled, s.rows, s.panes = 0, math.MinInt64, 0, s.panes[:0] }

// Empty tells whether no row was applied.
func (s *State) Empty() bool { return len(s.panes) == 0 }

// Apply takes a row in. Its times are in microseconds, its id stays the same however
// often it comes, and values has at least the plan's columns, of their types or null.
func (s *State) Apply(event, created int64, id uint64, values []row.Value) Outcome {
	if event > maxTime || event < -maxTime {
		return Refused
	}
	at := floor(event, s.p.step)
	advance := s.Empty() || event > s.newest
	if !s.Empty() && (event < s.newest-s.p.lateness || at < s.settled) {
		return Late
	}
	i := s.find(at)
	found := i < len(s.panes) && s.panes[i].at == at
	if found && has(s.panes[i].ids, id) {
		return Duplicate
	}
	if s.rows >= MaxRows && (!advance || !s.frees(event)) {
		return Refused
	}
	if !found {
		s.insert(i, at, event)
	}
	p := &s.panes[i]
	p.rows++
	p.newest = max(p.newest, event)
	p.ids, _ = put(p.ids, id)
	s.rows++
	for j := range s.p.columns {
		c := &s.p.columns[j]
		if v := values[c.at]; !v.Null() && !(c.typ.Float() && math.IsNaN(v.Float())) {
			s.key = p.cells[j].add(c, v, last{event, created, id, v}, s.key[:0])
		}
	}
	if advance {
		s.newest = event
		if settled := floor(event-s.p.lateness, s.p.step); settled > s.settled {
			s.settle(settled)
		}
	}
	return Applied
}

// find gives the place of the pane, or where it belongs. Most rows belong to the last.
func (s *State) find(at int64) int {
	if n := len(s.panes); n == 0 || s.panes[n-1].at < at {
		return n
	}
	return sort.Search(len(s.panes), func(i int) bool { return s.panes[i].at >= at })
}

// insert makes room for a pane at place i.
func (s *State) insert(i int, at, newest int64) {
	n := len(s.panes)
	if n < cap(s.panes) {
		s.panes = s.panes[:n+1]
	} else {
		s.panes = append(s.panes, pane{})
	}
	p := s.panes[n]
	copy(s.panes[i+1:], s.panes[i:n])
	p.at, p.newest, p.rows, p.ids = at, newest, 0, p.ids[:0]
	if p.cells == nil {
		p.cells = make([]cell, len(s.p.columns))
	}
	for j := range p.cells {
		c := &p.cells[j]
		*c = cell{sum: sum{words: c.sum.words[:0]}, hashes: c.hashes[:0]}
	}
	s.panes[i] = p
}

// frees tells whether ids will be forgotten once there is a row of that time.
func (s *State) frees(event int64) bool {
	settled := floor(event-s.p.lateness, s.p.step)
	for i := range s.panes {
		if len(s.panes[i].ids) > 0 {
			return s.panes[i].at < settled
		}
	}
	return false
}

// settle forgets the ids of the panes before settled, which can't change any more, and
// the panes that no window needs at newest - lateness or later.
func (s *State) settle(settled int64) {
	s.settled = settled
	oldest := settled
	for i := range s.p.windows {
		first, _ := s.p.span(&s.p.windows[i], s.newest-s.p.lateness)
		oldest = min(oldest, first)
	}
	drop := 0
	for i := range s.panes {
		p := &s.panes[i]
		if p.at < oldest {
			drop = i + 1
		}
		if p.at >= settled {
			break
		}
		s.rows -= len(p.ids)
		p.ids = p.ids[:0]
	}
	if drop > 0 {
		// Swapped to the back, they lend their memory.
		for i := drop; i < len(s.panes); i++ {
			s.panes[i-drop], s.panes[i] = s.panes[i], s.panes[i-drop]
		}
		s.panes = s.panes[:len(s.panes)-drop]
	}
}

// add takes a value in that is not null. The key is a buffer.
func (c *cell) add(k *column, v row.Value, l last, key []byte) []byte {
	c.n++
	if k.last && (c.n == 1 || l.after(&c.last)) {
		c.last = l
	}
	if k.typ.Float() && v.Float() == 0 {
		// -0 and 0 are equal, and which of them came first must not show.
		v = row.OfFloat64(0)
		if k.typ == row.Float32 {
			v = row.OfFloat32(0)
		}
	}
	if k.sum && k.typ.Float() {
		c.sum.addFloat(v.Float())
	} else if k.sum {
		c.sum.addInt(v.Int())
	}
	if k.min && (c.n == 1 || less(k.typ, v, c.min)) {
		c.min = v
	}
	if k.max && (c.n == 1 || less(k.typ, c.max, v)) {
		c.max = v
	}
	if k.distinct {
		key = row.AppendKey(key, v)
		h := hash(key)
		if full := len(c.hashes) == MaxHashes; !full || h < c.hashes[MaxHashes-1] {
			c.hashes, _ = put(c.hashes, h)
			c.hashes = c.hashes[:min(len(c.hashes), MaxHashes)]
		}
	}
	return key
}

func (l *last) after(o *last) bool {
	if l.event != o.event {
		return l.event > o.event
	}
	if l.created != o.created {
		return l.created > o.created
	}
	return l.id > o.id
}

// Result is what a window says.
type Result struct {
	Value row.Value // null where nothing was aggregated, but for counts and distinct, which are 0
	Event int64     // of the newest row that the window covers, in microseconds; 0: there is none
}

// Values gives what each window says at t, in microseconds, in their order. It
// is exact for t from newest - lateness on: what lies further back may be gone.
func (s *State) Values(t int64, dst []Result) {
	t = min(max(t, -maxTime), maxTime)
	for i := range s.p.windows {
		w := &s.p.windows[i]
		first, end := s.p.span(w, t)
		from := s.find(first)
		to := from
		for to < len(s.panes) && s.panes[to].at < end {
			to++
		}
		dst[i] = s.merge(w, s.panes[from:to])
	}
}

func (s *State) merge(w *planned, panes []pane) Result {
	var r Result
	var rows, n uint64
	s.sum.reset()
	s.hashes = s.hashes[:0]
	limit := uint64(math.MaxUint64) // hashes below it are all there
	full := false
	var newest *last
	for i := range panes {
		p := &panes[i]
		if rows += p.rows; i == 0 || p.newest > r.Event {
			r.Event = p.newest
		}
		if w.column < 0 || p.cells[w.column].n == 0 {
			continue
		}
		c := &p.cells[w.column]
		typ := s.p.columns[w.column].typ
		switch w.Aggregate {
		case Sum, Mean:
			s.sum.merge(&c.sum)
		case Min:
			if n == 0 || less(typ, c.min, r.Value) {
				r.Value = c.min
			}
		case Max:
			if n == 0 || less(typ, r.Value, c.max) {
				r.Value = c.max
			}
		case Distinct:
			s.hashes = append(s.hashes, c.hashes...)
			if len(c.hashes) == MaxHashes {
				full, limit = true, min(limit, c.hashes[MaxHashes-1])
			}
		case Last:
			if newest == nil || c.last.after(newest) {
				newest, r.Value = &c.last, c.last.value
			}
		}
		n += c.n
	}
	switch {
	case w.Aggregate == Count && w.column < 0:
		r.Value = row.OfInt64(int64(rows))
	case w.Aggregate == Count:
		r.Value = row.OfInt64(int64(n))
	case w.Aggregate == Distinct:
		r.Value = row.OfInt64(estimate(s.hashes, full, limit))
	case n == 0:
	case w.Aggregate == Mean:
		r.Value = row.OfFloat64(s.sum.float() / float64(n))
	case w.Aggregate == Sum && s.p.columns[w.column].typ.Float():
		r.Value = row.OfFloat64(s.sum.float())
	case w.Aggregate == Sum:
		r.Value = row.OfInt64(s.sum.int())
	}
	return r
}

// estimate counts different hashes. Where a pane was full only those below the limit
// are known; they are as dense as the others.
func estimate(hashes []uint64, full bool, limit uint64) int64 {
	slices.Sort(hashes)
	hashes = slices.Compact(hashes)
	if !full {
		return int64(len(hashes))
	}
	below, _ := slices.BinarySearch(hashes, limit)
	return int64(math.Round(float64(below) / (float64(limit) / (1 << 64))))
}

// hash spreads a key evenly over 64 bits; states keep it, so it never changes.
func hash(key []byte) uint64 {
	h := uint64(14695981039346656037) // FNV-1a, and then the last mixing of MurmurHash3
	for _, b := range key {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

func less(t row.Type, a, b row.Value) bool {
	if t.Float() {
		return a.Float() < b.Float()
	}
	return a.Int() < b.Int()
}

func has(set []uint64, v uint64) bool {
	_, ok := slices.BinarySearch(set, v)
	return ok
}

// put adds v to an ordered set; false: it was there.
func put(set []uint64, v uint64) ([]uint64, bool) {
	i, ok := slices.BinarySearch(set, v)
	if ok {
		return set, false
	}
	return slices.Insert(set, i, v), true
}

// floor is a / b, rounded down.
func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

package feature

import (
	"bytes"
	"errors"
	"math"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/window"
)

// Status says how a value was come by; the names and numbers are Feast's.
type Status uint8

// The statuses.
const (
	Invalid       Status = 0
	Present       Status = 1
	NullValue     Status = 2
	NotFound      Status = 3
	OutsideMaxAge Status = 4
)

// Outcome is what became of a row that was applied to a state.
type Outcome uint8

// The outcomes. Only Applied has changed the state.
const (
	Applied   Outcome = iota // the state has changed
	Older                    // the state has a newer row
	Duplicate                // the state has this row
	Late                     // the row is further behind than the view's lateness
	Refused                  // the state remembers window.MaxRows rows that may come again, or the row's times can't be stored
)

// Row is one row of a source, as every part of the system takes it.
type Row struct {
	Values  []row.Value // one for each of Source.Fields
	Event   int64       // the time that it is of, in microseconds since 1970
	Created int64       // when it was made or taken in
	ID      uint64      // hash of where it came from: (source, id) of its event, or of its content
}

// State is what a view holds of one entity. Online it is loaded, rows are applied,
// and it is stored where nobody else did meanwhile; offline one State goes from
// entity to entity. It is not for concurrent use.
//
// A row view holds the newest row by (event, created); of two that are equal in both,
// the one whose encoding is greater, so that the order of their coming does not matter. What
// windows hold is told by package window.
type State struct {
	view    *CompiledView
	stamp   store.Stamp
	found   bool        // a row view has a row
	values  []row.Value // of a row view, one for each of Columns
	windows *window.State
	results []window.Result
	data    [2][]byte // buffers to compare rows in
}

// NewState makes an empty state. It panics where Compile would not have let the
// view's windows pass (windowPlan).
func (v *CompiledView) NewState() *State {
	s := &State{view: v}
	if len(v.Windows) == 0 {
		s.values = make([]row.Value, len(v.Columns))
		return s
	}
	p, err := v.windowPlan()
	if err != nil {
		panic("feature: a view was not compiled: " + err.Error())
	}
	s.windows = p.NewState()
	s.results = make([]window.Result, len(v.Columns))
	return s
}

// windowPlan looks a view's windows through. Its error is Invalid and for the definition's author.
func (v *CompiledView) windowPlan() (*window.Plan, error) {
	spec := window.Spec{Lateness: time.Duration(v.Lateness).Microseconds()}
	for i, w := range v.Windows {
		one := window.One{
			Aggregate: window.Aggregate(w.Aggregate), Of: w.Of, At: v.FromAt[i],
			Size: time.Duration(w.Size).Microseconds(), Slide: time.Duration(w.Slide).Microseconds(),
		}
		if one.At >= 0 {
			one.Type = v.From.Fields[one.At].Type
		}
		spec.Windows = append(spec.Windows, one)
	}
	p, err := window.New(spec)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "view %q: %s", v.Name, fault.Message(err))
	}
	return p, nil
}

// Reset makes the state empty again; it keeps its memory.
func (s *State) Reset() {
	s.stamp, s.found = store.Stamp{}, false
	clear(s.values)
	if s.windows != nil {
		s.windows.Reset()
	}
}

// Load makes the state the one that Append wrote; with the zero stamp, which stands
// for no row, it is empty. So it is where the view's windows have changed since: what they held is
// of no use, and is made anew of the log. Damaged data is Internal. In both cases the
// stamp is kept, so that the state can be replaced. Data may be used again.
func (s *State) Load(data []byte, stamp store.Stamp) error {
	s.Reset()
	s.stamp = stamp
	if stamp == (store.Stamp{}) {
		return nil
	}
	if s.windows != nil {
		if err := s.windows.Decode(data); err != nil && !errors.Is(err, window.ErrOther) {
			return s.view.damaged(err)
		}
		return nil
	}
	if err := row.Decode(data, s.view.Columns, s.values); err != nil {
		clear(s.values)
		return s.view.damaged(err)
	}
	s.found = true
	return nil
}

func (v *CompiledView) damaged(err error) error {
	return fault.Wrap(fault.Internal, err, "what is stored of view %q can't be read", v.Name)
}

// Apply takes a row of the view's source in. It keeps its values. Online and offline
// alike it refuses times that a store.Stamp can't have.
func (s *State) Apply(r Row) Outcome {
	const most = 1<<53 - 1
	if max(r.Event, r.Created) > most || min(r.Event, r.Created) < -most || r.Event == 0 && r.Created == 0 {
		return Refused
	}
	if s.windows == nil {
		return s.applyRow(r)
	}
	switch s.windows.Apply(r.Event, r.Created, r.ID, r.Values) {
	case window.Duplicate:
		return Duplicate
	case window.Late:
		return Late
	case window.Refused:
		return Refused
	}
	s.stamp.Event++
	return Applied
}

func (s *State) applyRow(r Row) Outcome {
	stamp := store.Stamp{Event: r.Event, Created: r.Created}
	if s.found && stamp != s.stamp {
		if stamp.Event < s.stamp.Event || stamp.Event == s.stamp.Event && stamp.Created < s.stamp.Created {
			return Older
		}
	} else if s.found {
		old := s.Append(s.data[0][:0])
		now := s.data[1][:0]
		for i := range s.view.Columns {
			now = row.Append(now, s.view.Columns[i:i+1], r.Values[s.view.FromAt[i]:][:1])
		}
		s.data = [2][]byte{old, now}
		switch bytes.Compare(now, old) {
		case -1:
			return Older
		case 0:
			return Duplicate
		}
	}
	for i, at := range s.view.FromAt {
		s.values[i] = r.Values[at]
	}
	s.stamp, s.found = stamp, true
	return Applied
}

// Append writes down what the state holds, for Load and for CompiledView.Values.
func (s *State) Append(dst []byte) []byte {
	if s.windows != nil {
		return s.windows.Append(dst)
	}
	return row.Append(dst, s.view.Columns, s.values)
}

// Stamp is what the state is stored under: of a row view the newest row's times; of
// windows, in Event, how often it was changed, which only ever grows, so that
// store.Online.Replace notices each change. It is zero while nothing was applied.
func (s *State) Stamp() store.Stamp { return s.stamp }

// Values answers all of the view's Columns at a moment, in microseconds since 1970.
//
// A row is answered until it is older than the view's TTL (OutsideMaxAge, null). One
// of a time after that moment is answered too: it is known, and the online store
// can't go back to what it replaced. Windows are always found: over no rows counts
// are 0 and all else is null, whether the entity was never seen, its rows are long
// ago or their state has expired. Their Event is that of the newest row they cover.
func (s *State) Values(at int64, dst []Answer) {
	if s.windows == nil {
		status := s.view.status(s.found, s.stamp.Event, at)
		for i := range s.values {
			dst[i] = answerOf(status, s.values[i], s.stamp.Event)
		}
		return
	}
	s.windows.Values(at, s.results)
	for i, r := range s.results {
		dst[i] = answerOf(Present, r.Value, r.Event)
	}
}

// status tells how the values of a row are come by.
func (v *CompiledView) status(found bool, event, at int64) Status {
	ttl := time.Duration(v.TTL).Microseconds()
	switch {
	case !found:
		return NotFound
	case ttl > 0 && event < max(at, math.MinInt64+ttl)-ttl:
		return OutsideMaxAge
	}
	return Present
}

func answerOf(s Status, v row.Value, event int64) Answer {
	switch {
	case s == NotFound:
		return Answer{Status: s}
	case s == OutsideMaxAge:
		return Answer{Status: s, Event: event}
	case v.Null():
		return Answer{Status: NullValue, Event: event}
	}
	return Answer{Value: v, Status: s, Event: event}
}

// Values is Load and State.Values in one, for reads. For a row view of up to 32
// columns it takes no memory but that of texts and lists. It is safe for concurrent use.
func (v *CompiledView) Values(data []byte, stamp store.Stamp, at int64, dst []Answer) error {
	if len(v.Windows) > 0 {
		s := v.state()
		defer v.states.Put(s)
		if err := s.Load(data, stamp); err != nil {
			return err
		}
		s.Values(at, dst)
		return nil
	}
	var few [32]row.Value
	values := few[:]
	if len(v.Columns) > len(few) {
		values = make([]row.Value, len(v.Columns))
	}
	values = values[:len(v.Columns)]
	status := v.status(stamp != store.Stamp{}, stamp.Event, at)
	if status == Present {
		if err := row.Decode(data, v.Columns, values); err != nil {
			return v.damaged(err)
		}
	}
	for i, value := range values {
		dst[i] = answerOf(status, value, stamp.Event)
	}
	return nil
}

// state gives a state for a while; it goes back to states.
func (v *CompiledView) state() *State {
	if s, ok := v.states.Get().(*State); ok {
		return s
	}
	return v.NewState()
}

// slack is how far clocks, and times in rows, may be ahead of the clock by which values expire.
const slack = 24 * time.Hour

// Keep is how long after its last change a stored state of the view is worth keeping;
// 0: for ever. That it expires changes no value, as long as values are asked for by the
// clock and rows are not more than a day ahead of it: a row is outside its TTL by then (its
// status becomes NotFound), and no window reaches back to rows that it could have held.
func (v *CompiledView) Keep() time.Duration {
	if len(v.Windows) == 0 {
		if v.TTL == 0 {
			return 0
		}
		return time.Duration(v.TTL) + slack
	}
	reach := time.Duration(0)
	for _, w := range v.Windows {
		reach = max(reach, time.Duration(w.Size))
		if w.Slide == 0 {
			reach = max(reach, 2*time.Duration(w.Size))
		}
	}
	return reach + slack
}

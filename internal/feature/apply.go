package feature

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

const (
	// statesMost is how many states go through a round trip together.
	statesMost = 500
	// tripsMost is how many such round trips are under way for a group.
	tripsMost = 4
	// racesMost is how often in a row other instances may change a state between our reading and replacing it.
	racesMost = 100
)

// touched is the state of an entity in a view, and the rows that it has to take.
type touched struct {
	view     *CompiledView
	key      string
	rows     []int32   // their places, in the order in which they are applied
	outcomes []Outcome // of each, as of the last time that they were
}

// apply has every view of a source take rows. It returns once all states that
// changed are stored; outcomes then tell of each row the worst that became of it in a view.
func (in *Ingest) apply(ctx context.Context, s *CompiledSource, rows []Row, outcomes []*Outcome) error {
	all := touch(s, rows)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tripsMost)
	for part := range slices.Chunk(all, statesMost) {
		group.Go(fault.Guard(func() error { return in.applyTo(ctx, part, rows) }))
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, t := range all {
		for i, at := range t.rows {
			*outcomes[at] = max(*outcomes[at], t.outcomes[i])
		}
	}
	return nil
}

// touch finds the states that rows are to change. Rows are applied in the order in
// which they were made, as offline.
func touch(s *CompiledSource, rows []Row) []touched {
	order := make([]int32, len(rows))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		x, y := &rows[a], &rows[b]
		return cmp.Or(cmp.Compare(x.Created, y.Created), cmp.Compare(x.Event, y.Event), cmp.Compare(x.ID, y.ID), cmp.Compare(a, b))
	})
	var all []touched
	var key []byte
	for _, v := range s.Views {
		at := map[string]int{}
		for _, i := range order {
			var ok bool
			if key, ok = v.appendKeyOf(key[:0], rows[i].Values); !ok {
				continue
			}
			n, ok := at[string(key)]
			if !ok {
				n = len(all)
				all = append(all, touched{view: v, key: string(key)})
				at[all[n].key] = n
			}
			all[n].rows, all[n].outcomes = append(all[n].rows, i), append(all[n].outcomes, Applied)
		}
	}
	return all
}

// applyTo has states take their rows: first, of row views, without a look at what is there.
func (in *Ingest) applyTo(ctx context.Context, all []touched, rows []Row) error {
	left, err := in.putNewest(ctx, all, rows)
	for races := 0; err == nil && len(left) > 0; races++ {
		if races > 0 {
			in.tel.lost.Add(ctx, int64(len(left)))
			if races > racesMost {
				return fault.New(fault.Unavailable, "view %q: others change the same entities too often; try again", left[0].view.Name)
			}
			pause := time.NewTimer(rand.N(time.Millisecond << min(races, 5)))
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return ctx.Err()
			}
		}
		left, err = in.replace(ctx, left, rows)
	}
	return err
}

// putNewest puts the newest row into states of row views, and gives the states that
// are left to be looked at: those of windows, and those that have a newer row or the same.
func (in *Ingest) putNewest(ctx context.Context, all []touched, rows []Row) (left []*touched, err error) {
	var newest []store.OnlineRow
	var of []*touched
	for i := range all {
		t := &all[i]
		if len(t.view.Windows) > 0 {
			left = append(left, t)
			continue
		}
		s := t.view.state()
		s.Reset()
		t.take(s, rows)
		newest, of = append(newest, t.stored(s)), append(of, t)
		t.view.states.Put(s)
	}
	if len(newest) == 0 {
		return left, nil
	}
	stored, err := in.deps.Online.Write(ctx, newest)
	if err != nil {
		return nil, err
	}
	for i, ok := range stored {
		if !ok {
			left = append(left, of[i])
		}
	}
	return left, nil
}

// replace reads states, applies their rows and stores those that changed; it gives
// those that somebody else changed meanwhile.
func (in *Ingest) replace(ctx context.Context, all []*touched, rows []Row) (lost []*touched, err error) {
	keys := make([]string, len(all))
	for i, t := range all {
		keys[i] = t.key
	}
	there, err := in.deps.Online.Read(ctx, keys, make([]store.OnlineRow, 0, len(keys)))
	if err != nil {
		return nil, err
	}
	var changed []store.OnlineRow
	var was []store.Stamp
	var of []*touched
	for i, t := range all {
		s := t.view.state()
		if err := s.Load(there[i].Value, there[i].Stamp); err != nil {
			// Nobody can use it any more. Rows are not to wait for its repair, which is to make it anew of the log.
			in.log.ErrorContext(ctx, "a damaged state is begun anew", "view", t.view.Name, "key", t.key, "error", err)
		}
		if t.take(s, rows) {
			changed, was, of = append(changed, t.stored(s)), append(was, there[i].Stamp), append(of, t)
		}
		t.view.states.Put(s)
	}
	if len(changed) == 0 {
		return nil, nil
	}
	stored, err := in.deps.Online.Replace(ctx, changed, was)
	if err != nil {
		return nil, err
	}
	for i, ok := range stored {
		if !ok {
			lost = append(lost, of[i])
		}
	}
	return lost, nil
}

// take applies the rows to a state, and tells whether it changed.
func (t *touched) take(s *State, rows []Row) (changed bool) {
	for i, at := range t.rows {
		t.outcomes[i] = s.Apply(rows[at])
		changed = changed || t.outcomes[i] == Applied
	}
	return changed
}

// stored is a state as it is stored.
func (t *touched) stored(s *State) store.OnlineRow {
	return store.OnlineRow{Key: t.key, Stamp: s.Stamp(), Value: s.Append(nil), TTL: t.view.Keep()}
}

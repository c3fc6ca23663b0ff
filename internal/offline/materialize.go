package offline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Span is the rows that are brought online: those of a time in it. A zero time is no bound.
type Span struct {
	From, To time.Time // with From, without To
	// Incremental leaves out files that were done before.
	Incremental bool
}

// Progress is how far a view is.
type Progress struct {
	View  string `json:"view"`
	Files int    `json:"files"` // done
	Of    int    `json:"of"`    // that are to do
	Rows  int64  `json:"rows"`  // read
	Done  bool   `json:"done"`
}

// Materialize brings the history of a view online.
//
// A row view gets the newest row of each entity; in whatever order files are done,
// an older row never replaces a newer one. Windows are made anew of all rows, whatever
// the span is, for windows over some of them would be wrong numbers; rows that come in
// meanwhile are in them too. When they were made once, an incremental run has them
// take the rows of new files, if these are not behind what they have taken.
//
// What is done is kept in the bucket: after an error or a crash the same call goes on
// there, and when it runs again it changes nothing. One call at a time works on a
// view; another is a Conflict. Memory does not grow with the rows.
func (s *Store) Materialize(ctx context.Context, v *feature.CompiledView, span Span, tell func(Progress)) error {
	ctx, release, err := s.lease(ctx, "features/materialize/"+v.Name, fmt.Sprintf("view %q is being materialized already", v.Name))
	if err != nil {
		return err
	}
	defer release()
	m := &materializing{Store: s, view: v, span: span, from: math.MinInt64, to: math.MaxInt64, tell: tell}
	if !span.From.IsZero() {
		m.from = span.From.UnixMicro()
	}
	if !span.To.IsZero() {
		m.to = span.To.UnixMicro()
	}
	if err := m.load(ctx); err != nil {
		return err
	}
	// Compaction may take files away that were listed.
	for try := 0; ; try++ {
		err := m.run(ctx)
		if !errors.Is(err, errGone) || try == 10 {
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		}
	}
}

// materializing is a run over one view.
type materializing struct {
	*Store
	view     *feature.CompiledView
	span     Span
	from, to int64
	tell     func(Progress)
	state    checkpoint
	progress Progress
}

// checkpoint is what is kept of the runs of a view.
type checkpoint struct {
	Version int               `json:"version"`          // of the view
	Done    map[string]string `json:"done"`             // files whose rows are all online, and their versions
	Newest  int64             `json:"newest,omitempty"` // created time of a row of those
	Full    *full             `json:"full,omitempty"`   // a full run that has not ended
}

// full is a full run: of a row view the files that are done, of windows the parts
// of the entities.
type full struct {
	From  int64             `json:"from"`
	To    int64             `json:"to"`
	Done  map[string]string `json:"done,omitempty"`
	Parts int               `json:"parts,omitempty"`
	Next  int               `json:"next,omitempty"` // the first part that is not done
	Files map[string]string `json:"files,omitempty"`
}

const materializedPrefix = "features/materialized/"

func (m *materializing) key() string { return materializedPrefix + m.view.Name }

func (m *materializing) load(ctx context.Context) error {
	m.state = checkpoint{Version: m.view.Version}
	r, _, err := m.blob.Get(ctx, m.key(), 0, -1)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what was materialized of view %q: %w", m.view.Name, err)
	}
	defer func() { _ = r.Close() }()
	var had checkpoint
	if err := json.NewDecoder(r).Decode(&had); err != nil {
		return fmt.Errorf("read what was materialized of view %q: %w", m.view.Name, err)
	}
	if had.Version == m.view.Version { // else its columns were others
		m.state = had
	}
	return nil
}

func (m *materializing) save(ctx context.Context) error {
	b, err := json.Marshal(&m.state)
	if err != nil {
		return err
	}
	if _, err := m.blob.Put(ctx, m.key(), bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
		return fmt.Errorf("keep what was materialized of view %q: %w", m.view.Name, err)
	}
	return nil
}

// chunkBytes is how much of the files is sorted at once: what is done again after a crash.
const chunkBytes = 256 << 20

func (m *materializing) run(ctx context.Context) error {
	objects, err := m.list(ctx, m.view.From)
	if err != nil {
		return err
	}
	windows := len(m.view.Windows) > 0
	switch {
	case m.span.Incremental && !windows:
		m.state.Full = nil
	case m.span.Incremental && m.state.Done != nil:
	default: // windows are made of all rows first
		if f := m.state.Full; f == nil || f.From != m.from || f.To != m.to {
			m.state.Full = &full{From: m.from, To: m.to, Done: map[string]string{}}
		}
	}
	if m.state.Full != nil && windows {
		return m.rebuild(ctx, objects)
	}
	done := m.state.Done
	if m.state.Full != nil {
		done = m.state.Full.Done
	}
	var todo []store.Object
	for _, o := range objects {
		if done[o.Key] != o.Version {
			todo = append(todo, o)
		}
	}
	// What is no more is not remembered.
	kept := map[string]string{}
	for _, o := range objects {
		if m.state.Done[o.Key] == o.Version {
			kept[o.Key] = o.Version
		}
	}
	m.state.Done = kept
	m.progress = Progress{View: m.view.Name, Files: len(objects) - len(todo), Of: len(objects)}
	m.tell(m.progress)
	for len(todo) > 0 {
		n, size := 1, todo[0].Size
		// The rows of batch files say themselves when they were known, and windows take them in that order.
		all := windows && m.view.From.Path != ""
		for n < len(todo) && (all || size+todo[n].Size <= chunkBytes) {
			size += todo[n].Size
			n++
		}
		behind, err := m.chunk(ctx, todo[:n])
		if err != nil {
			return err
		}
		if behind {
			m.state.Full = &full{From: m.from, To: m.to}
			return m.rebuild(ctx, objects)
		}
		todo = todo[n:]
		m.progress.Files += n
		m.tell(m.progress)
	}
	m.state.Full = nil
	if err := m.save(ctx); err != nil {
		return err
	}
	m.progress.Done = true
	m.tell(m.progress)
	return nil
}

// chunk brings the rows of some files online. Behind tells that it did not, for windows
// have taken rows that were known later.
func (m *materializing) chunk(ctx context.Context, objects []store.Object) (behind bool, err error) {
	j, err := m.begin(ctx)
	if err != nil {
		return false, err
	}
	defer j.end()
	in, err := j.input(ctx, m.view.From, objects)
	if err != nil {
		return false, err
	}
	var least, newest, outside int64
	if err := j.conn.QueryRowContext(ctx, fmt.Sprintf("SELECT coalesce(min(c), %d), coalesce(max(c), %d), count(*) FILTER (e < %d OR e >= %d) FROM (%s)", math.MaxInt64, math.MinInt64, m.from, m.to, in.sql)).Scan(&least, &newest, &outside); err != nil {
		return false, j.explain(ctx, in, err)
	}
	if len(m.view.Windows) > 0 && m.view.From.Path != "" && least < m.state.Newest {
		return true, nil
	}
	rows, err := m.sorted(ctx, j, in, fmt.Sprintf("e >= %d AND e < %d", m.from, m.to))
	if err != nil {
		return false, err
	}
	defer rows.close()
	if err := m.apply(ctx, rows); err != nil {
		return false, err
	}
	for _, o := range objects {
		if outside == 0 {
			m.state.Done[o.Key] = o.Version
		}
		if m.state.Full != nil {
			m.state.Full.Done[o.Key] = o.Version
		}
	}
	if outside == 0 {
		m.state.Newest = max(m.state.Newest, newest)
	}
	return false, m.save(ctx)
}

// entityRows reads a file of a view's source rows, sorted by entity and created time.
type entityRows struct {
	from   *duck.Scan
	view   *feature.CompiledView
	fields []int
	values []row.Value
	key    string
}

// sorted sorts the rows of a source that meet a condition, for a view.
func (m *materializing) sorted(ctx context.Context, j *job, in *input, where string) (*entityRows, error) {
	r := &entityRows{view: m.view, fields: (&group{views: []*feature.CompiledView{m.view}}).reads()}
	columns := []row.Field{{Name: "e", Type: row.Int64}, {Name: "c", Type: row.Int64}, {Name: "id", Type: row.Int64}}
	var keys, names []string
	for _, at := range m.view.KeyAt {
		keys = append(keys, fmt.Sprintf("c%d", at))
		where += fmt.Sprintf(" AND c%d IS NOT NULL", at)
		if !slices.Contains(r.fields, at) {
			r.fields = append(r.fields, at)
		}
	}
	for _, f := range r.fields {
		name := fmt.Sprintf("c%d", f)
		names = append(names, name)
		columns = append(columns, row.Field{Name: name, Type: m.view.From.Fields[f].Type})
	}
	rows, err := j.unique(ctx, in)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(j.dir, fmt.Sprintf("sorted%d", rand.Uint32()))
	order := strings.Join(append(keys, "c", "e", "id"), ", ")
	if err := j.exec(ctx, "COPY (SELECT e, c, id, ", strings.Join(names, ", "), " FROM (", rows, ") WHERE ", where, " ORDER BY ", order, ") TO ", duck.Quote(path), duck.Temporary); err != nil {
		return nil, j.explain(ctx, in, err)
	}
	r.values = make([]row.Value, len(columns))
	if r.from, err = duck.OpenScan(path, columns); err != nil {
		return nil, err
	}
	return r, os.Remove(path) // it stays while it is open
}

func (r *entityRows) close() { r.from.Close() }

// next gives the next row, with values of its own, and whether its entity is another.
func (r *entityRows) next() (one feature.Row, other bool, err error) {
	if err := r.from.Next(r.values); err != nil {
		return feature.Row{}, false, err
	}
	one = feature.Row{Values: make([]row.Value, len(r.view.From.Fields)), Event: r.values[0].Int(), Created: r.values[1].Int(), ID: uint64(r.values[2].Int())}
	for i, f := range r.fields {
		one.Values[f] = r.values[3+i]
	}
	keys := make([]row.Value, len(r.view.KeyAt))
	for i, at := range r.view.KeyAt {
		keys[i] = one.Values[at]
	}
	key := r.view.Key(keys...)
	other = key != r.key
	r.key = key
	return one, other, nil
}

// entity is one entity of a batch.
type entity struct {
	key   string
	rows  []feature.Row // that its state has to take
	state []byte        // or what replaces it
}

const (
	batchRows  = 20_000 // rows that are applied together
	batchBytes = 16 << 20
	batchMost  = 2000 // entities in a round trip
	racesMost  = 50   // how often in a row others may change a state
)

// apply has states take rows.
func (m *materializing) apply(ctx context.Context, rows *entityRows) error {
	var batch []*entity
	n := 0
	newest := m.view.NewState()
	flush := func() error {
		defer func() { batch, n = nil, 0 }()
		m.tell(m.progress)
		return m.put(ctx, batch)
	}
	for {
		one, other, err := rows.next()
		if errors.Is(err, io.EOF) {
			return flush()
		}
		if err != nil {
			return err
		}
		m.progress.Rows++
		if other || len(batch) == 0 {
			if len(batch) >= batchMost || n >= batchRows {
				if err := flush(); err != nil {
					return err
				}
			}
			batch = append(batch, &entity{key: rows.key})
			newest.Reset()
		}
		last := batch[len(batch)-1]
		if len(m.view.Windows) == 0 {
			// The newest is enough.
			if newest.Apply(one) == feature.Applied {
				last.rows = append(last.rows[:0], one)
			}
			continue
		}
		last.rows = append(last.rows, one)
		if n++; n >= batchRows { // one entity may have any number of rows
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// put has states take their rows: first, of row views, without a look at what is there.
func (m *materializing) put(ctx context.Context, batch []*entity) error {
	s := m.view.NewState()
	batch = slices.DeleteFunc(batch, func(e *entity) bool { return len(e.rows) == 0 })
	if len(m.view.Windows) == 0 && len(batch) > 0 {
		newest := make([]store.OnlineRow, len(batch))
		for i, e := range batch {
			s.Reset()
			s.Apply(e.rows[0])
			newest[i] = store.OnlineRow{Key: e.key, Stamp: s.Stamp(), Value: s.Append(nil), TTL: m.view.Keep()}
		}
		stored, err := m.online.Write(ctx, newest)
		if err != nil {
			return err
		}
		left := batch[:0]
		for i, ok := range stored {
			if !ok { // there is a newer one, or one as new
				left = append(left, batch[i])
			}
		}
		batch = left
	}
	return m.replace(ctx, batch, func() error { return nil }, func(e *entity, there store.OnlineRow) (store.OnlineRow, bool, error) {
		if err := s.Load(there.Value, there.Stamp); err != nil {
			return store.OnlineRow{}, false, err
		}
		changed := false
		for _, r := range e.rows {
			changed = s.Apply(r) == feature.Applied || changed
		}
		return store.OnlineRow{Key: e.key, Stamp: s.Stamp(), Value: s.Append(nil), TTL: m.view.Keep()}, changed, nil
	})
}

// replace reads what is there of entities and puts what becomes of it, until nobody
// else has changed it meanwhile. Before is called when what is there was read.
func (m *materializing) replace(ctx context.Context, batch []*entity, before func() error, become func(*entity, store.OnlineRow) (store.OnlineRow, bool, error)) error {
	for races := 0; len(batch) > 0; races++ {
		if races > racesMost {
			return fault.New(fault.Unavailable, "view %q: others change the same entities too often; try again", m.view.Name)
		}
		if races > 0 {
			select {
			case <-time.After(rand.N(time.Millisecond << min(races, 7))):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		keys := make([]string, len(batch))
		for i, e := range batch {
			keys[i] = e.key
		}
		there, err := m.online.Read(ctx, keys, nil)
		if err != nil {
			return err
		}
		if err := before(); err != nil {
			return err
		}
		var rows []store.OnlineRow
		var was []store.Stamp
		var of []*entity
		for i, e := range batch {
			r, changed, err := become(e, there[i])
			if err != nil {
				return err
			}
			if changed {
				rows, was, of = append(rows, r), append(was, there[i].Stamp), append(of, e)
			}
		}
		if len(rows) == 0 {
			return nil
		}
		stored, err := m.online.Replace(ctx, rows, was)
		if err != nil {
			return err
		}
		batch = nil
		for i, ok := range stored {
			if !ok {
				batch = append(batch, of[i])
			}
		}
	}
	return nil
}

// rebuild makes the states of windows anew of all rows, one part of the entities after another.
func (m *materializing) rebuild(ctx context.Context, objects []store.Object) error {
	f := m.state.Full
	if f.Parts == 0 {
		var size int64
		for _, o := range objects {
			size += o.Size
		}
		f.Parts = 1 + int(size/chunkBytes)
		f.Files = map[string]string{}
		for _, o := range objects {
			f.Files[o.Key] = o.Version
		}
	}
	m.progress = Progress{View: m.view.Name, Of: len(objects)}
	for f.Next < f.Parts {
		m.progress.Files = len(objects) * f.Next / f.Parts
		m.tell(m.progress)
		if err := m.part(ctx, f.Next, f.Parts, objects); err != nil {
			return err
		}
		f.Next++
		if err := m.save(ctx); err != nil {
			return err
		}
	}
	m.state.Done, m.state.Full = f.Files, nil
	if err := m.save(ctx); err != nil {
		return err
	}
	m.progress.Files, m.progress.Done = len(objects), true
	m.tell(m.progress)
	return nil
}

// part makes the states of one part of the entities.
func (m *materializing) part(ctx context.Context, part, parts int, objects []store.Object) error {
	if len(objects) == 0 {
		return nil
	}
	j, err := m.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	in, err := j.input(ctx, m.view.From, objects)
	if err != nil {
		return err
	}
	keys := []string{"0"}
	for _, at := range m.view.KeyAt {
		keys = append(keys, fmt.Sprintf("c%d", at))
	}
	where := fmt.Sprintf("hash(%s) %% %d = %d", strings.Join(keys, ", "), parts, part)
	rows, err := m.sorted(ctx, j, in, where)
	if err != nil {
		return err
	}
	defer rows.close()
	late := &fresh{m: m, job: j, where: where, known: map[string]string{}}
	for _, o := range objects {
		late.known[o.Key] = o.Version
	}
	var batch []*entity
	size := 0
	state := m.view.NewState()
	flush := func() error {
		m.tell(m.progress)
		err := m.renew(ctx, batch, late)
		batch, size = nil, 0
		return err
	}
	finish := func() {
		if len(batch) > 0 {
			last := batch[len(batch)-1]
			last.state = state.Append(nil)
			size += len(last.state) + len(last.key)
		}
	}
	for {
		one, other, err := rows.next()
		if errors.Is(err, io.EOF) {
			finish()
			return flush()
		}
		if err != nil {
			return err
		}
		m.progress.Rows++
		m.state.Newest = max(m.state.Newest, one.Created)
		if other || len(batch) == 0 {
			if finish(); len(batch) >= batchMost || size >= batchBytes {
				if err := flush(); err != nil {
					return err
				}
			}
			batch = append(batch, &entity{key: rows.key})
			state.Reset()
		}
		state.Apply(one)
	}
}

// fresh finds rows that came into a log after its files were listed.
type fresh struct {
	m     *materializing
	job   *job
	where string
	known map[string]string
}

// objects gives those that are neither known nor taken.
func (f *fresh) objects(ctx context.Context, taken map[string]string) ([]store.Object, error) {
	all, err := f.m.list(ctx, f.m.view.From)
	return slices.DeleteFunc(all, func(o store.Object) bool { return f.known[o.Key] == o.Version || taken[o.Key] == o.Version }), err
}

// renew puts states in place of what is there. A row is in the log before it is online, so
// what was there when it was read is in the files that are listed after that.
func (m *materializing) renew(ctx context.Context, batch []*entity, late *fresh) error {
	at := map[string]*entity{}
	for _, e := range batch {
		at[e.key] = e
	}
	taken := map[string]string{}
	state := m.view.NewState()
	take := func() error {
		objects, err := late.objects(ctx, taken)
		if err != nil || len(objects) == 0 {
			return err
		}
		in, err := late.job.input(ctx, m.view.From, objects)
		if err != nil {
			return err
		}
		rows, err := m.sorted(ctx, late.job, in, late.where)
		if err != nil {
			return err
		}
		defer rows.close()
		var of *entity
		finish := func() {
			if of != nil {
				of.state = state.Append(nil)
			}
		}
		for first := true; ; first = false {
			one, other, err := rows.next()
			if errors.Is(err, io.EOF) {
				finish()
				break
			}
			if err != nil {
				return err
			}
			if other || first {
				finish()
				if of = at[rows.key]; of != nil {
					if err := state.Load(of.state, store.Stamp{Event: 1}); err != nil {
						return err
					}
				}
			}
			if of != nil {
				state.Apply(one)
			}
		}
		for _, o := range objects {
			taken[o.Key] = o.Version
		}
		return nil
	}
	catchUp := func() error {
		if m.view.From.Path != "" {
			return nil // nobody else writes them
		}
		err := take()
		for try := 0; errors.Is(err, errGone) && try < 10; try++ {
			err = take()
		}
		return err
	}
	return m.replace(ctx, batch, catchUp, func(e *entity, there store.OnlineRow) (store.OnlineRow, bool, error) {
		return store.OnlineRow{Key: e.key, Stamp: store.Stamp{Event: there.Stamp.Event + 1}, Value: e.state, TTL: m.view.Keep()}, !bytes.Equal(e.state, there.Value), nil
	})
}

const (
	leaseTTL   = time.Minute
	leaseRenew = 15 * time.Second
)

// lease sees to it that one process at a time does something; a second one gets a Conflict. The
// context ends when the lease is lost.
func (s *Store) lease(ctx context.Context, name, taken string) (_ context.Context, release func(), err error) {
	key := "lease/" + name
	owner := []byte(time.Now().UTC().Format(time.RFC3339Nano))
	version, err := s.kv.Put(ctx, key, owner, leaseTTL, store.IfAbsent())
	if fault.Is(err, fault.Conflict) {
		return nil, nil, fault.Wrap(fault.Conflict, err, "%s", taken)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("take the lease %s: %w", name, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(leaseRenew)
		defer tick.Stop()
		for until := time.Now().Add(leaseTTL); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now, err := s.kv.Put(ctx, key, owner, leaseTTL, store.IfVersion(version))
			switch {
			case err == nil:
				version, until = now, time.Now().Add(leaseTTL)
			case fault.Is(err, fault.Conflict) || time.Now().Add(leaseRenew).After(until):
				cancel(fault.Wrap(fault.Unavailable, err, "the lease %s was lost", name))
				return
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
		// An error leaves the lease to expire by itself.
		_ = s.kv.Delete(context.WithoutCancel(ctx), key, store.IfVersion(version))
	}, nil
}

package feedback

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// The bounds of what one commit takes, about: it ends with a whole segment or object.
const (
	stepRows     = 20_000 // of predictions
	stepOutcomes = 20_000
	stepStates   = 5_000    // of quality, a few KB each
	stepBytes    = 64 << 20 // of records
	valuesMost   = 100      // of a column that answers are told apart by
)

// catchUp is for how long a segment may come later than others that were answered after it.
const catchUp = 24 * time.Hour

const (
	segments  = payload.Inbox
	otherName = "(other)"
)

// step prepares a commit.
type step struct {
	j      *Journal
	old    *commit
	next   *commit
	number int64
	now    time.Time
	did    Progress
	all    bool  // the segments that there are were taken, to the last one
	place  int64 // of the segment that is being taken

	versions    map[versionID]*known
	parsed      parsed
	predictions map[ledger.Key][]*prediction // that this step takes in
	abouts      map[ledger.Key][]about       // likewise
	entries     []ledger.Entry
	traffic     map[span]*window
	hours       map[string]map[int64]map[int]*counting
	states      int
	size        int // of the entries' data, in bytes
}

// span is that of a window.
type span struct {
	width time.Duration
	start int64 // in microseconds since 1970
}

// known is what a step knows of a version.
type known struct {
	judging   *judging
	why       string         // there is no judging
	reference *drift.Profile // nil: there is none
}

// counting is what a step adds to an hour of a version.
type counting struct {
	tally
	states map[string]*quality.State
	drift  gathered // no state: there is no reference
}

func newStep(j *Journal, old *commit, number int64, now time.Time) *step {
	return &step{
		j: j, old: old, number: number, now: now,
		next:     &commit{Runs: slices.Clone(old.Runs), Slices: old.Slices, Traffic: map[string]*window{}},
		traffic:  map[span]*window{},
		versions: map[versionID]*known{}, predictions: map[ledger.Key][]*prediction{}, abouts: map[ledger.Key][]about{},
		hours: map[string]map[int64]map[int]*counting{},
	}
}

// prepare makes the next commit; nil: there is nothing to take.
func (s *step) prepare(ctx context.Context) (*commit, error) {
	err := s.takeSegments(ctx)
	if err != nil {
		return nil, err
	}
	var fresh []Outcome
	var objects []string
	if s.all { // else outcomes would wait for predictions that are there
		if fresh, objects, err = s.takeOutcomes(ctx); err != nil {
			return nil, err
		}
	}
	s.did.Waiting = s.old.waiting()
	over := s.ripe()
	if s.did.Segments == 0 && len(objects) == 0 && len(over) == 0 {
		return nil, nil //nolint:nilnil // there is no next commit
	}
	unknown, err := s.join(ctx, fresh, over)
	if err != nil {
		return nil, err
	}
	if err := s.keepOutcomes(ctx, fresh, unknown); err != nil {
		return nil, err
	}
	s.next.Delete = append(s.next.Delete, objects...)
	if err := s.keepRuns(ctx); err != nil {
		return nil, err
	}
	for k, w := range s.traffic {
		s.next.Traffic[windowKey(k.width, k.start)] = w
	}
	return s.next, s.writeHours()
}

// takeSegments takes segments of the payload log that were not taken yet.
func (s *step) takeSegments(ctx context.Context) error {
	taken := map[string]bool{} // and not listed yet
	for _, id := range s.old.Segments {
		taken[id] = true
	}
	s.all = true
	type listed struct {
		id    string
		until int64
	}
	var there []listed
	newest := int64(0)
	after := ""
	if s.old.Since > 0 {
		after = segments + micros(s.old.Since)
	}
	for o, err := range s.j.blob.List(ctx, segments, after) {
		if err != nil {
			return fmt.Errorf("list segments of predictions: %w", err)
		}
		id, until, ok := segmentID(o.Key)
		if !ok {
			continue
		}
		if taken[id] {
			delete(taken, id)
			there, newest = append(there, listed{id, until}), until
			continue
		}
		if s.did.Predictions >= stepRows || s.states >= stepStates || s.size >= stepBytes {
			s.all = false // it is for the next commit, and whatever is behind it
			for id := range taken {
				there = append(there, listed{id, math.MaxInt64})
			}
			break
		}
		s.place = until
		err := payload.Load(ctx, s.j.blob, o.Key, func(rows []payload.Row) error {
			for i := range rows {
				if err := s.takeRow(ctx, &rows[i]); err != nil {
					return &blameless{fmt.Errorf("prediction %q: %w", rows[i].ID, err)}
				}
			}
			return nil
		})
		innocent := (*blameless)(nil)
		switch {
		case errors.As(err, &innocent):
			return innocent.error
		case fault.Is(err, fault.NotFound): // it was swept meanwhile
		case fault.Is(err, fault.Invalid):
			s.did.Damaged = append(s.did.Damaged, o.Key)
		case err != nil:
			return err
		}
		s.did.Segments++
		there, newest = append(there, listed{id, until}), until
	}
	// No clock that is ahead, here or where segments are written, makes those of others too late.
	s.next.Since = max(s.old.Since, min(s.now.UnixMicro(), newest)-catchUp.Microseconds())
	for _, l := range there {
		if l.until >= s.next.Since {
			s.next.Segments = append(s.next.Segments, l.id)
		}
	}
	slices.Sort(s.next.Segments)
	return nil
}

// takeRow counts a row of a prediction.
func (s *step) takeRow(ctx context.Context, r *payload.Row) error {
	if model.CheckName(r.Model) != nil || r.Version < 1 || !(r.Weight >= 0 && r.Weight <= math.MaxInt64) {
		return nil // no predict wrote it
	}
	name, number := strings.Clone(r.Model), int(r.Version)
	if s.parsed.read(r) != nil {
		s.parsed = parsed{} // its values are not known
	}
	if r.Row == 0 { // a prediction is one, however many rows it has
		newest := s.parsed.newest(r.FeatureTimes)
		for _, width := range [...]time.Duration{narrow, wide} {
			k := span{width, startOf(r.Answered, width)}
			if s.traffic[k] == nil {
				s.traffic[k] = &window{}
			}
			s.traffic[k].of(name, strconv.Itoa(number)).add(r, newest)
		}
	}
	key := predictionKey(r.ID, r.Row)
	if r.Kind != "" {
		data := failed(s.place)
		s.entries, s.size = append(s.entries, ledger.Entry{Key: key, Data: data}), s.size+len(data)
		return nil
	}
	s.did.Predictions++
	v, err := s.version(ctx, name, number)
	if err != nil {
		return err
	}
	at := s.hour(name, number, r.At, v)
	at.Rows++
	if at.drift.state != nil {
		at.drift.observe(r, &s.parsed)
	}
	p := &prediction{commit: s.number, model: name, version: number, at: r.At, why: v.why, place: s.place, id: strings.Clone(r.ID), row: r.Row, traced: r.Sampled}
	if v.judging != nil {
		p.spec = v.judging.spec
		if p.answer, err = v.judging.answer(s.parsed.outputs); err != nil {
			p.why = fault.Message(err)
		}
	}
	if p.why != "" {
		at.Unjudged++
		at.Why = p.why
	} else {
		p.slices = s.slicesOf(name, number, v.judging)
		for _, slice := range append([]string{""}, p.slices...) {
			state, err := s.state(at, slice, &p.spec)
			if err != nil {
				return err
			}
			if err := state.Predicted(p.answer); err != nil {
				return err
			}
		}
	}
	s.predictions[key] = append(s.predictions[key], p)
	data := p.append(nil)
	s.entries, s.size = append(s.entries, ledger.Entry{Key: key, Data: data}), s.size+len(data)
	if v.judging == nil {
		return nil
	}
	if entity := entityOf(s.parsed.inputs, v.judging.entity); entity != "" {
		a := about{r.At, key}
		k := entityKey(name, entity)
		s.abouts[k] = append(s.abouts[k], a)
		s.entries = append(s.entries, ledger.Entry{Key: k, Data: a.append(nil)})
	}
	return nil
}

func predictionKey(id string, row int32) ledger.Key {
	return ledger.KeyOf("prediction", id, strconv.Itoa(int(row)))
}

func entityKey(model, entity string) ledger.Key { return ledger.KeyOf("entity", model, entity) }

// version finds out how answers of a version are judged, and what its data is compared with.
func (s *step) version(ctx context.Context, name string, number int) (*known, error) {
	id := versionID{name, number}
	if v := s.versions[id]; v != nil {
		return v, nil
	}
	v := &known{}
	m, err := s.j.catalog.Manifest(ctx, name, number)
	if err == nil {
		v.judging, err = judgingOf(m)
	}
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid), fault.Is(err, fault.Internal): // it is gone, says nothing, or is damaged
		v.why = fault.Message(err)
	case err != nil:
		return nil, err
	}
	if v.reference, err = findReference(ctx, s.j.blob, name, number); err != nil {
		return nil, err
	}
	s.versions[id] = v
	return v, nil
}

// slicesOf names the slices that a row counts in. The first values of a column that there are get slices of their own. All commits agree on which
// they are, so that a correction comes to where the outcome went.
func (s *step) slicesOf(name string, number int, j *judging) (names []string) {
	for _, column := range j.slices {
		text := "(none)"
		if v, ok := s.parsed.column(column); ok {
			text = v.text()
			text = strings.ToValidUTF8(text[:min(len(text), wordMost)], "") // as JSON will have it
		}
		id := versionID{name, number}.String()
		values := s.next.Slices[id][column]
		if at, known := slices.BinarySearch(values, text); !known {
			if len(values) >= valuesMost {
				text = otherName
			} else {
				all := maps.Clone(s.next.Slices) // the old commit keeps its own
				if all == nil {
					all = map[string]map[string][]string{}
				}
				own := maps.Clone(all[id])
				if own == nil {
					own = map[string][]string{}
				}
				own[column] = slices.Insert(slices.Clone(values), at, text)
				all[id] = own
				s.next.Slices = all
			}
		}
		names = append(names, column+"="+text)
	}
	return names
}

// latest is the last time, in microseconds since 1970, that has its place in the order of keys; callers may say any.
const latest = 1e16 - 1

// hour is what the step adds to an hour of a version.
func (s *step) hour(name string, number int, at int64, v *known) *counting {
	start := startOf(min(max(at, 0), latest), wide)
	hours := s.hours[name]
	if hours == nil {
		hours = map[int64]map[int]*counting{}
		s.hours[name] = hours
	}
	if hours[start] == nil {
		hours[start] = map[int]*counting{}
	}
	c := hours[start][number]
	if c == nil {
		c = &counting{states: map[string]*quality.State{}}
		hours[start][number] = c
	}
	if c.drift.state == nil && v != nil && v.reference != nil {
		c.drift.state = drift.NewState(v.reference)
		s.states++
	}
	return c
}

func (s *step) state(at *counting, slice string, spec *quality.Spec) (*quality.State, error) {
	state := at.states[slice]
	if state == nil {
		var err error
		if state, err = quality.NewState(*spec); err != nil {
			return nil, err
		}
		at.states[slice] = state
		at.Spec = *spec
		s.states++
	}
	return state, nil
}

// takeOutcomes takes objects of the inbox.
func (s *step) takeOutcomes(ctx context.Context) (all []Outcome, objects []string, err error) {
	for o, err := range s.j.blob.List(ctx, InboxPrefix, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list outcomes: %w", err)
		}
		if len(all) >= stepOutcomes {
			break
		}
		b, _, err := store.ReadAll(ctx, s.j.blob, o.Key)
		if fault.Is(err, fault.NotFound) {
			continue // somebody was quicker, who then has made a commit
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read %q: %w", o.Key, err)
		}
		own, err := readOutcomes(o.Key, b)
		if err != nil {
			s.did.Damaged = append(s.did.Damaged, o.Key)
			if err := segment.Keep(ctx, s.j.blob, DamagedPrefix+strings.TrimPrefix(o.Key, InboxPrefix), b); err != nil {
				return nil, nil, err
			}
		}
		all, objects = append(all, own...), append(objects, o.Key)
	}
	s.did.Outcomes = len(all)
	return all, objects, nil
}

// ripe gives the runs of outcomes that have waited long enough, some at a time.
func (s *step) ripe() (over []ledger.Run) {
	n := 0
	for _, r := range s.old.Waits {
		if s.all && n < stepOutcomes && r.Until+s.j.conf.Wait.Microseconds() <= s.now.UnixMicro() {
			over = append(over, r)
			n += r.Entries
		}
	}
	return over
}

// join finds the predictions of outcomes and counts them there, and gives the outcomes that need not wait any longer.
//
// An outcome that names a prediction is looked for among all when it comes, and later among those that come. One that names an entity is looked for
// once it has waited, as then all predictions must have come.
func (s *step) join(ctx context.Context, fresh []Outcome, over []ledger.Run) (unknown []Outcome, err error) {
	met, err := s.early(ctx)
	if err != nil {
		return nil, err
	}
	var last []Outcome // that have waited
	for i := range over {
		err := over[i].Read(ctx, s.j.blob, func(e ledger.Entry) error {
			o, err := readWaiting(e.Data)
			last = append(last, o)
			return err
		})
		if err != nil {
			return nil, anew(err)
		}
	}
	meant, err := s.entities(ctx, last)
	if err != nil {
		return nil, err
	}
	var keys []ledger.Key
	for _, all := range [...][]Outcome{fresh, met, last} {
		for i := range all {
			if all[i].Prediction != "" {
				keys = append(keys, predictionKey(all[i].Prediction, all[i].Row))
			}
		}
	}
	for _, key := range meant {
		keys = append(keys, key)
	}
	known, outcomes, err := s.find(ctx, keys)
	if err != nil {
		return nil, err
	}
	s.next.Waiting = maps.Clone(s.old.Waiting)
	if s.next.Waiting == nil {
		s.next.Waiting = map[string]int{}
	}
	news := map[ledger.Key][]told{}
	joined := func(key ledger.Key, o *Outcome) bool { // by an earlier commit
		return slices.ContainsFunc(outcomes[key], func(t told) bool { return t.id == o.ID && t.created == o.Created && t.value == o.Value })
	}
	take := func(key ledger.Key, o *Outcome) {
		news[key] = append(news[key], told{id: o.ID, created: o.Created, time: o.Time, value: o.Value, model: o.Model, commit: s.number})
	}
	var waits []ledger.Entry
	until := int64(0)
	for i := range fresh {
		o := &fresh[i]
		key := s.keyOf(o)
		of := func(p *prediction) bool { return o.Model == "" || o.Model == p.model }
		if o.Prediction != "" && (slices.ContainsFunc(known[key], of) || slices.ContainsFunc(s.predictions[key], of)) {
			take(key, o)
			continue
		}
		waits = append(waits, ledger.Entry{Key: key, Data: o.waits(nil)})
		until = max(until, o.Created)
		s.next.Waiting[o.Model]++
	}
	for i := range met {
		o := &met[i]
		key := s.keyOf(o)
		take(key, o)
		if !joined(key, o) {
			s.next.Waiting[o.Model]--
		}
	}
	for i := range last {
		o := &last[i]
		key, found := meant[i]
		of := func(p *prediction) bool { return o.Model == p.model }
		switch {
		case found && (slices.ContainsFunc(known[key], of) || slices.ContainsFunc(s.predictions[key], of)):
			take(key, o)
		case o.Prediction != "" && (joined(s.keyOf(o), o) || slices.ContainsFunc(news[s.keyOf(o)], func(t told) bool { return t.id == o.ID && t.created == o.Created && t.value == o.Value })):
			continue // it does not wait any more
		default:
			unknown = append(unknown, *o)
		}
		s.next.Waiting[o.Model]--
	}
	maps.DeleteFunc(s.next.Waiting, func(_ string, n int) bool { return n <= 0 })
	for key, own := range news {
		for _, p := range slices.Concat(known[key], s.predictions[key]) {
			if err := s.settle(ctx, p, outcomes[key], own); err != nil {
				return nil, err
			}
		}
		for i := range own {
			s.entries = append(s.entries, ledger.Entry{Key: key, Data: own[i].append(nil)})
		}
		s.did.Joined += len(own)
	}
	s.did.Unknown, s.did.Waiting = len(unknown), s.next.waiting()
	return unknown, s.keepWaits(ctx, waits, over, until)
}

// keyOf is what an outcome is looked for by: its prediction or, if it has waited, its entity.
func (s *step) keyOf(o *Outcome) ledger.Key {
	if o.Prediction == "" {
		return entityKey(o.Model, o.Entity)
	}
	return predictionKey(o.Prediction, o.Row)
}

// early finds the outcomes that wait for predictions which have come now.
func (s *step) early(ctx context.Context) (met []Outcome, err error) {
	err = ledger.Find(ctx, s.j.blob, s.old.Waits, slices.Collect(maps.Keys(s.predictions)), func(key ledger.Key, data []byte) error {
		o, err := readWaiting(data)
		if err == nil && slices.ContainsFunc(s.predictions[key], func(p *prediction) bool { return o.Model == "" || o.Model == p.model }) {
			met = append(met, o)
		}
		return err
	})
	return met, anew(err)
}

// keepWaits writes the outcomes that begin to wait, lets go of the runs of those that have, and makes few runs of many. What is written has the commit's
// number in its name: the same outcomes may have waited before, and who is late may still be deleting that.
func (s *step) keepWaits(ctx context.Context, waits []ledger.Entry, over []ledger.Run, until int64) error {
	s.next.Waits = slices.Clone(s.old.Waits)
	drop := func(gone []ledger.Run) {
		for _, r := range gone {
			s.next.Delete = append(s.next.Delete, r.Object)
			s.next.Waits = slices.DeleteFunc(s.next.Waits, func(o ledger.Run) bool { return o.Object == r.Object })
		}
	}
	drop(over)
	prefix := WaitingPrefix + micros(s.number) + "-"
	for some := range ledger.Split(waits) {
		own, err := ledger.Write(ctx, s.j.blob, prefix, some, until)
		if err != nil {
			return err
		}
		s.next.Waits = append(s.next.Waits, own)
	}
	if few := ledger.Mergeable(s.next.Waits); few != nil {
		one, err := ledger.Merge(ctx, s.j.blob, prefix, few, func([]byte) bool { return true })
		if err != nil {
			return anew(err)
		}
		drop(few)
		s.next.Waits = append(s.next.Waits, one)
	}
	return nil
}

// entities finds the predictions that outcomes about entities mean, which have waited: the last ones at or before a time. It gives their keys by the places of the outcomes.
func (s *step) entities(ctx context.Context, all []Outcome) (map[int]ledger.Key, error) {
	wanted := map[ledger.Key][]int{}
	for i := range all {
		if o := &all[i]; o.Prediction == "" {
			k := entityKey(o.Model, o.Entity)
			wanted[k] = append(wanted[k], i)
		}
	}
	// A prediction is tried for the first outcome at or after it. Those behind are then of it as well, unless there is a later one.
	best := map[int]about{}
	better := func(i int, a about) {
		if last, met := best[i]; !met || cmp.Or(cmp.Compare(a.at, last.at), a.key.Compare(last.key)) > 0 {
			best[i] = a
		}
	}
	meet := func(k ledger.Key, a about) {
		own := wanted[k]
		if at, _ := slices.BinarySearchFunc(own, a.at, func(i int, at int64) int { return cmp.Compare(all[i].At, at) }); at < len(own) {
			better(own[at], a)
		}
	}
	for k, own := range wanted {
		slices.SortFunc(own, func(a, b int) int { return cmp.Compare(all[a].At, all[b].At) })
		for _, a := range s.abouts[k] {
			meet(k, a)
		}
	}
	err := ledger.Find(ctx, s.j.blob, s.old.Runs, slices.Collect(maps.Keys(wanted)), func(k ledger.Key, data []byte) error {
		if data[0] != ofEntity {
			return nil
		}
		a, err := readAbout(data)
		if err == nil {
			meet(k, a)
		}
		return err
	})
	meant := map[int]ledger.Key{}
	for _, own := range wanted {
		for n, i := range own {
			if n > 0 {
				if a, met := best[own[n-1]]; met {
					better(i, a)
				}
			}
			if a, met := best[i]; met {
				meant[i] = a.key
			}
		}
	}
	return meant, anew(err)
}

// horizon is the first commit whose predictions still count. Numbers of commits are times that never go back.
func (s *step) horizon() int64 { return s.number - s.j.conf.Join.Microseconds() }

// find reads what earlier commits know of predictions. What is as old as runs that are dropped is not known any more, wherever it lies: its
// outcomes may be gone.
func (s *step) find(ctx context.Context, keys []ledger.Key) (known map[ledger.Key][]*prediction, outcomes map[ledger.Key][]told, err error) {
	known, outcomes = map[ledger.Key][]*prediction{}, map[ledger.Key][]told{}
	err = ledger.Find(ctx, s.j.blob, s.old.Runs, keys, func(k ledger.Key, data []byte) error {
		switch data[0] {
		case ofPrediction:
			p, err := readPrediction(data)
			if err != nil {
				return err
			}
			if p.commit >= s.horizon() {
				known[k] = append(known[k], p)
			}
		case ofOutcome:
			o, err := readTold(data)
			if err != nil {
				return err
			}
			outcomes[k] = append(outcomes[k], o)
		}
		return nil
	})
	return known, outcomes, anew(err)
}

// settle takes back what counted for a prediction and counts what does with the outcomes that came.
func (s *step) settle(ctx context.Context, p *prediction, before, news []told) error {
	mine := func(all []told) (own []told) {
		for _, o := range all {
			if (o.model == "" || o.model == p.model) && o.commit >= p.commit {
				own = append(own, o)
			}
		}
		return own
	}
	old := mine(before)
	now := append(slices.Clone(old), mine(news)...)
	at := s.hour(p.model, p.version, p.at, nil)
	v, err := s.version(ctx, p.model, p.version)
	if err != nil {
		return err
	}
	if v.judging != nil && v.judging.spec != p.spec || len(at.states) > 0 && at.Spec != p.spec {
		return nil // answers are judged otherwise by now, and the windows of before are not added to
	}
	if p.why != "" {
		at.Settlement.add(&Settlement{Unsuited: int64(len(now) - len(old)), Reason: p.why}, 1)
		return nil
	}
	truthBefore, countedBefore, was := settle(&p.spec, old)
	truth, counted, is := settle(&p.spec, now)
	at.Settlement.add(&was, -1)
	at.Settlement.add(&is, 1)
	if countedBefore != nil && counted != nil && *countedBefore == *counted {
		return nil
	}
	for _, slice := range append([]string{""}, p.slices...) {
		state, err := s.state(at, slice, &p.spec)
		if err != nil {
			return err
		}
		if countedBefore != nil {
			if err := state.Remove(p.answer, truthBefore, time.Duration(countedBefore.time-p.at)*time.Microsecond); err != nil {
				return err
			}
		}
		if counted != nil {
			if err := state.Add(p.answer, truth, time.Duration(counted.time-p.at)*time.Microsecond); err != nil {
				return err
			}
			if loss := p.spec.Loss(p.answer, truth); loss > 0 {
				at.Wrong.add(slice, example{p.id, p.row, loss, p.traced})
			}
		}
	}
	return nil
}

// Unknown is the reason of outcomes whose predictions did not come.
const Unknown Reason = "unknown"

// keepOutcomes writes outcomes to where they belong now: all that came to the log, and those that need not wait any longer to the rejected ones.
func (s *step) keepOutcomes(ctx context.Context, fresh, unknown []Outcome) error {
	key, data, err := encode([]*batch{{good: fresh}})
	if err == nil && data != nil {
		err = segment.Keep(ctx, s.j.blob, LogPrefix+strings.TrimPrefix(key, InboxPrefix), data)
	}
	if err != nil {
		return err
	}
	if len(unknown) == 0 {
		return nil
	}
	b := &batch{}
	for i := range unknown {
		o := &unknown[i]
		detail := fmt.Sprintf("no prediction %q, row %d, was logged within %s", o.Prediction, o.Row, s.j.conf.Wait)
		if o.Prediction == "" {
			detail = fmt.Sprintf("no prediction of %s was about the entity then, or quality.entity of the model names other keys", o.Model)
		}
		b.line(o.json(), Unknown, detail, o.Source)
	}
	sum := sha256.Sum256(b.lines.Bytes())
	return segment.Keep(ctx, s.j.blob, RejectedPrefix+s.now.UTC().Format(time.DateOnly)+"/"+hex.EncodeToString(sum[:16]), b.lines.Bytes())
}

// json writes an outcome as it can be sent again.
func (o *Outcome) json() []byte {
	var v struct {
		Prediction string          `json:"prediction,omitempty"`
		Row        int32           `json:"row,omitempty"`
		Model      string          `json:"model,omitempty"`
		Entity     json.RawMessage `json:"entity,omitempty"`
		At         *time.Time      `json:"at,omitempty"`
		Value      json.RawMessage `json:"value"`
		Time       time.Time       `json:"time"`
	}
	v.Prediction, v.Row, v.Model, v.Value, v.Time = o.Prediction, o.Row, o.Model, json.RawMessage(o.Value), time.UnixMicro(o.Time).UTC()
	if o.Entity != "" {
		v.Entity = json.RawMessage(o.Entity)
	}
	if o.At != 0 {
		v.At = new(time.UnixMicro(o.At).UTC())
	}
	b, _ := json.Marshal(&v) // value and entity are JSON, as was checked when they came
	return b
}

// keepRuns writes what was learnt to the ledger, lets go of what is too old, and makes few runs of many.
func (s *step) keepRuns(ctx context.Context) error {
	for some := range ledger.Split(s.entries) {
		own, err := ledger.Write(ctx, s.j.blob, LedgerPrefix, some, s.number)
		if err != nil {
			return err
		}
		s.next.Runs = append(s.next.Runs, own)
	}
	drop := func(gone []ledger.Run) {
		for _, r := range gone {
			s.next.Delete = append(s.next.Delete, r.Object)
			s.next.Runs = slices.DeleteFunc(s.next.Runs, func(o ledger.Run) bool { return o.Object == r.Object })
		}
	}
	horizon := s.horizon()
	var old []ledger.Run
	for _, r := range s.next.Runs {
		if r.Until < horizon {
			old = append(old, r)
		}
	}
	drop(old)
	if few := ledger.Mergeable(s.next.Runs); few != nil {
		one, err := ledger.Merge(ctx, s.j.blob, LedgerPrefix, few, func([]byte) bool { return true })
		if err != nil {
			return anew(err)
		}
		drop(few)
		s.next.Runs = append(s.next.Runs, one)
	}
	s.next.Delete = slices.DeleteFunc(s.next.Delete, func(key string) bool { // what is written again is the same object
		return slices.ContainsFunc(s.next.Runs, func(r ledger.Run) bool { return r.Object == key })
	})
	return nil
}

// writeHours writes the states down.
func (s *step) writeHours() error {
	s.next.Hours = map[string]map[int64]*hour{}
	for name, hours := range s.hours {
		s.next.Hours[name] = map[int64]*hour{}
		for start, versions := range hours {
			h := &hour{Versions: map[int]*tally{}}
			for number, c := range versions {
				t := &c.tally
				if len(c.states) > 0 {
					t.Quality = map[string][]byte{}
				}
				for slice, state := range c.states {
					t.Quality[slice] = state.Append(nil)
				}
				if of := c.drift.state; of != nil {
					var err error
					t.Reference, t.Odd = of.Profile().Digest(), c.drift.odd
					if t.Drift, err = of.AppendBinary(nil); err != nil {
						return err
					}
				}
				h.Versions[number] = t
			}
			s.next.Hours[name][start] = h
		}
	}
	return nil
}

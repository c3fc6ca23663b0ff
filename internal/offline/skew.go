package offline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Kind is the way in which a served value differs from what history has.
type Kind string

// The kinds, in the order in which they are looked for.
const (
	OldVersion Kind = "version" // it was served by a definition that was no longer in force
	Missing    Kind = "missing" // nothing was served, and history has something
	Ahead      Kind = "ahead"   // it is of a row that history did not have yet, or has not at all
	LateRow    Kind = "late"    // it is of an older row than the newest that history had
	Expired    Kind = "expired" // one of the two is outside the view's TTL
	Real       Kind = "real"    // it is of the same row, or made of the same values, and still another
)

// Skew is a report: how often models were given other features than a training set would
// have of the same moments.
type Skew struct {
	From     time.Time     `json:"from"` // vectors were served from then
	To       time.Time     `json:"to"`   // until then
	At       time.Time     `json:"at"`   // the check ended
	Vectors  int           `json:"vectors"`
	Unread   int           `json:"unread"`   // vectors that could not be compared, for their service or definitions are gone
	Features []FeatureSkew `json:"features"` // all that were compared, the worst first
	Alarm    []string      `json:"alarm"`    // those that differ more often than SKEW_ALARM allows
}

// FeatureSkew is how often one feature, "view:feature", differed.
type FeatureSkew struct {
	Feature    string       `json:"feature"`
	Compared   int          `json:"compared"`
	Mismatched int          `json:"mismatched"`
	Rate       float64      `json:"rate"`
	Kinds      map[Kind]int `json:"kinds,omitempty"`
	Example    *Mismatch    `json:"example,omitempty"` // the first that was found
}

// Mismatch is one value that differed.
type Mismatch struct {
	Kind        Kind                       `json:"kind"`
	Model       string                     `json:"model"`
	Given       map[string]json.RawMessage `json:"given"` // join keys and inputs
	At          time.Time                  `json:"at"`
	Served      json.RawMessage            `json:"served"`
	ServedEvent time.Time                  `json:"served_event,omitzero"`
	Past        json.RawMessage            `json:"past"` // what history has
	PastEvent   time.Time                  `json:"past_event,omitzero"`
}

const (
	skewPrefix   = "features/skew/"
	versionGrace = 30 * time.Second // after which everybody should know of new definitions
	futureMost   = time.Minute      // before now that a check ends, so that what it needs has arrived
	backMost     = 24 * time.Hour   // that a check goes back where there was none before
)

// CheckSkew computes anew, by the code of training sets, a sample of the features that were
// served in a span, and reports what differs. Rows that were on their way when a
// vector was read, which may take SKEW_SLACK, may be in it or not. Without a span it
// looks at what was served since the last report, within a day. The report is kept where it
// compared something. One check runs at a time; another is a Conflict.
func (s *Store) CheckSkew(ctx context.Context, definitions *feature.Catalog, span Span) (*Skew, error) {
	ctx, release, err := s.lease(ctx, "features/skew", "the features that were served are being checked already")
	if err != nil {
		return nil, err
	}
	defer release()
	now := time.Now().UTC()
	if span.To.IsZero() {
		span.To = now.Add(-futureMost)
	}
	if span.From.IsZero() {
		last, err := s.LastSkew(ctx)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		span.From = span.To.Add(-backMost)
		if last != nil && last.To.After(span.From) {
			span.From = last.To
		}
	}
	k := &skewCheck{
		Store: s, definitions: definitions, tallies: map[string]*FeatureSkew{}, versions: map[int]map[string]int{},
		report: Skew{From: span.From.UTC(), To: span.To.UTC(), Features: []FeatureSkew{}, Alarm: []string{}},
	}
	if err := k.run(ctx); err != nil {
		return nil, err
	}
	k.sum()
	k.report.At = time.Now().UTC()
	if k.report.Vectors == 0 {
		return &k.report, nil
	}
	b, err := json.Marshal(&k.report)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%s%016d", skewPrefix, max(0, span.To.UnixMicro()))
	if _, err := s.blob.Put(ctx, key, bytes.NewReader(b), int64(len(b)), store.Condition{}); err != nil {
		return nil, fmt.Errorf("keep the report of skew: %w", err)
	}
	return &k.report, nil
}

// LastSkew gives the report of the latest time; where there is none it is NotFound.
func (s *Store) LastSkew(ctx context.Context) (*Skew, error) {
	key := ""
	for o, err := range s.blob.List(ctx, skewPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list reports of skew: %w", err)
		}
		key = o.Key
	}
	if key == "" {
		return nil, fault.New(fault.NotFound, "no served features were checked yet")
	}
	r, _, err := s.blob.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read the report of skew: %w", err)
	}
	defer func() { _ = r.Close() }()
	report := &Skew{}
	if err := json.NewDecoder(r).Decode(report); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the report of skew %q is damaged", key)
	}
	return report, nil
}

// ForgetServed deletes what was served, and reports of it, longer ago than SKEW_KEEP.
func (s *Store) ForgetServed(ctx context.Context) (deleted int, err error) {
	before := time.Now().Add(-s.conf.Keep)
	day, micros := before.UTC().Format(time.DateOnly), fmt.Sprintf("%s%016d", skewPrefix, before.UnixMicro())
	for prefix, old := range map[string]func(key string) bool{
		segment.Prefix(feature.ServedLog.Name): func(key string) bool { return dayOf(key) < day },
		skewPrefix:                             func(key string) bool { return key < micros },
	} {
		for o, err := range s.blob.List(ctx, prefix, "") {
			if err != nil {
				return deleted, fmt.Errorf("list what was served: %w", err)
			}
			if !old(o.Key) {
				break // what follows is younger
			}
			if err := s.blob.Delete(ctx, o.Key); err != nil {
				return deleted, fmt.Errorf("delete %q: %w", o.Key, err)
			}
			deleted++
		}
	}
	return deleted, nil
}

// skewCheck is one check.
type skewCheck struct {
	*Store
	definitions *feature.Catalog
	report      Skew
	tallies     map[string]*FeatureSkew
	sets        []*feature.Compiled    // all versions from the oldest that served on, in order
	versions    map[int]map[string]int // of views and expressions, by the version of the set
}

// vector is one that was served.
type vector struct {
	event.Vector
	given []row.Value // of the plan's keys, then of its inputs
	cells []cell      // one for each of the plan's Reads
	force *feature.Compiled
}

// cell is a value that was served, and the one of history that comes closest.
type cell struct {
	known        bool // it was served
	served, past feature.Answer
}

func (k *skewCheck) run(ctx context.Context) error {
	j, err := k.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	vectors, err := k.sample(ctx, j)
	if err != nil || len(vectors) == 0 {
		return err
	}
	if err := k.history(ctx, vectors); err != nil {
		return err
	}
	type read struct {
		definitions int
		service     string
	}
	by := map[read][]*vector{}
	for _, v := range vectors {
		r := read{v.Definitions, v.Service}
		by[r] = append(by[r], v)
	}
	order := slices.SortedFunc(maps.Keys(by), func(a, b read) int {
		return cmp.Or(cmp.Compare(a.definitions, b.definitions), cmp.Compare(a.service, b.service))
	})
	for _, r := range order {
		if err := k.service(ctx, j, r.definitions, r.service, by[r]); err != nil {
			return err
		}
	}
	return nil
}

// sample reads vectors of the span: all of them, or as many as are looked at.
func (k *skewCheck) sample(ctx context.Context, j *job) (vectors []*vector, err error) {
	from, to := k.report.From.UnixMicro(), k.report.To.UnixMicro()
	in, err := j.since(ctx, feature.ServedLog, from)
	if err != nil || in.sql == "" {
		return nil, err
	}
	rows, err := j.conn.QueryContext(ctx, fmt.Sprintf("SELECT any_value(c1) FROM (%s) WHERE e >= %d AND e < %d GROUP BY id ORDER BY hash(id), id LIMIT %d", in.sql, from, to, k.conf.Vectors))
	if err != nil {
		return nil, j.explain(ctx, in, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		v := &vector{}
		if err := json.Unmarshal([]byte(body), &v.Vector); err != nil {
			k.report.Unread++
			continue
		}
		vectors = append(vectors, v)
	}
	if err := rows.Err(); err != nil {
		return nil, j.explain(ctx, in, err)
	}
	return vectors, nil
}

// history finds the definitions that were in force when each vector was read.
func (k *skewCheck) history(ctx context.Context, vectors []*vector) error {
	now, err := k.definitions.Current(ctx)
	if err != nil {
		return err
	}
	oldest := slices.MinFunc(vectors, func(a, b *vector) int { return cmp.Compare(a.Definitions, b.Definitions) }).Definitions
	for version := max(1, oldest); version <= now.Version; version++ {
		set, err := k.definitions.Get(ctx, version)
		if err != nil {
			return err
		}
		k.sets = append(k.sets, set)
	}
	for _, v := range vectors {
		for _, set := range k.sets {
			if !set.At.Add(versionGrace).After(v.Known) {
				v.force = set
			}
		}
	}
	return nil
}

// outdated tells whether a view or expression was served in a version that was no longer in force.
func (k *skewCheck) outdated(v *vector, name string, version int) bool {
	if v.force == nil || v.force.Version <= v.Definitions {
		return false
	}
	known := k.versions[v.force.Version]
	if known == nil {
		known = map[string]int{}
		for i := range v.force.Views {
			known[v.force.Views[i].Name] = v.force.Views[i].Version
		}
		for i := range v.force.Expressions {
			known[v.force.Expressions[i].Name] = v.force.Expressions[i].Version
		}
		k.versions[v.force.Version] = known
	}
	return known[name] != version
}

// service compares vectors that were read for one service by one version of the definitions.
func (k *skewCheck) service(ctx context.Context, j *job, definitions int, service string, vectors []*vector) error {
	var plan *feature.Plan
	set, err := k.definitions.Get(ctx, definitions)
	if err == nil {
		plan, err = set.Service(service)
	}
	if fault.Is(err, fault.NotFound) {
		k.report.Unread += len(vectors)
		return nil
	}
	if err != nil {
		return err
	}
	reads := plan.Reads()
	good := vectors[:0]
	for _, v := range vectors {
		if v.parse(plan, reads) {
			good = append(good, v)
		} else {
			k.report.Unread++
		}
	}
	if vectors = good; len(vectors) == 0 {
		return nil
	}
	t := &training{job: j, plan: plan}
	if err := k.ask(ctx, t, vectors); err != nil {
		return err
	}
	var groups []*group
	for i, read := range reads {
		groups = t.want(groups, i, read, row.Value{})
	}
	for _, g := range groups {
		if err := k.past(ctx, t, g, vectors); err != nil {
			return err
		}
	}
	k.report.Vectors += len(vectors)
	for _, v := range vectors {
		for i, c := range v.cells {
			view := reads[i].View
			if c.known {
				kind := Kind("")
				switch {
				case k.outdated(v, view.Name, view.Version):
					kind = OldVersion
				case !same(&c.served, &c.past):
					kind = kindOf(&c.served, &c.past)
				}
				k.tally(v, view.Name+":"+view.Columns[reads[i].At].Name, kind, &c.served, &c.past)
			}
		}
	}
	return k.computed(ctx, plan, vectors)
}

// parse reads a vector's values by the plan that they were served by.
func (v *vector) parse(plan *feature.Plan, reads []feature.Read) bool {
	give := func(name string, t row.Type) bool {
		value, err := row.ParseJSON(t, v.Given[name])
		v.given = append(v.given, value)
		return err == nil
	}
	for _, key := range plan.Keys {
		if !give(key.Name, key.Type) {
			return false
		}
	}
	for _, in := range plan.Inputs {
		if !give(in.Name, in.Type) {
			return false
		}
	}
	v.cells = make([]cell, len(reads))
	for i, r := range reads {
		column := r.View.Columns[r.At]
		v.cells[i].served, v.cells[i].known = v.cell(r.View.Name+":"+column.Name, column.Type)
	}
	return true
}

func (v *vector) cell(name string, t row.Type) (feature.Answer, bool) {
	c, ok := v.Features[name]
	if !ok {
		return feature.Answer{}, false
	}
	value, err := row.ParseJSON(t, c.Value)
	a := feature.Answer{Value: value, Status: feature.Status(c.Status)}
	if !c.Event.IsZero() {
		a.Event = c.Event.UnixMicro()
	}
	return a, err == nil
}

// ask makes the table of asked rows: their number n, the plan's keys k0, k1..., and when each
// begins to be compared: by when it was read (w) and by the moment that it was asked for (t).
func (k *skewCheck) ask(ctx context.Context, t *training, vectors []*vector) error {
	fields := []row.Field{{Name: "w", Type: row.Int64}, {Name: "t", Type: row.Int64}}
	columns := []string{`CAST("` + segment.ID + `" AS BIGINT) AS n`, "w", "t"}
	for i, key := range t.plan.Keys {
		name := fmt.Sprintf("k%d", i)
		fields = append(fields, row.Field{Name: name, Type: key.Type})
		if key.Type == row.Timestamp {
			name = duck.Cast(name, "TIMESTAMPTZ", key.Type) + " AS " + name
		}
		columns = append(columns, name)
	}
	path := filepath.Join(t.dir, "served")
	w, err := create(path, fields)
	if err != nil {
		return err
	}
	for i, v := range vectors {
		out := w.row(uint64(i))
		out[0] = row.OfInt64(v.Known.UnixMicro() - k.conf.Slack.Microseconds())
		out[1] = row.OfInt64(v.At.UnixMicro() - k.conf.Slack.Microseconds())
		copy(out[2:], v.given[:len(t.plan.Keys)])
		if err := w.flush(1024); err != nil {
			return errors.Join(err, w.close())
		}
	}
	if err := w.close(); err != nil {
		return err
	}
	if err := t.exec(ctx, "CREATE OR REPLACE TEMP TABLE asked AS SELECT ", strings.Join(columns, ", "), " FROM read_parquet(", duck.Quote(path), ", hive_partitioning = false)"); err != nil {
		return t.failed(err)
	}
	return nil
}

// asking is a vector that is being compared with what was known about when it was read.
type asking struct {
	*vector
	until int64 // created time of the last row that it may know of
	least []int // for each view of the group: how many cells differed, at best
	at    int64 // the moment that it was asked for
	open  int   // views that differ
	none  bool  // it has no key
}

// past finds what history says of a group's columns: of all that the views said from slack before
// a vector was read to slack after it, what comes closest.
func (k *skewCheck) past(ctx context.Context, t *training, g *group, vectors []*vector) (err error) {
	first := slices.MinFunc(vectors, func(a, b *vector) int { return a.At.Compare(b.At) }).At
	in, err := t.since(ctx, g.src, g.reach(first.UnixMicro()))
	if err != nil {
		return err
	}
	span := 2 * k.conf.Slack.Microseconds()
	by := asks{at: "w", ahead: span}
	if g.src.Path != "" || g.src.Made >= 0 {
		by.at = "t" // the rows themselves say when they were known
	}
	fields := g.reads()
	sorted := filepath.Join(t.dir, "sorted")
	if err := t.sort(ctx, g, in, fields, by, sorted); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(sorted)) }()
	from, err := openMerged(g.src, fields, sorted)
	if err != nil {
		return err
	}
	defer from.Close()
	states, answers := g.states()
	look := func(a *asking) {
		for i, s := range states {
			if a.least[i] == 0 {
				continue
			}
			if s.Values(a.at, answers[i]); a.none {
				for c := range answers[i] {
					answers[i][c] = feature.Answer{Status: feature.NotFound}
				}
			}
			a.compare(g, i, answers[i])
		}
	}
	var open []*asking
	for {
		if err := from.next(ctx); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if from.other {
			open = open[:0]
			for _, s := range states {
				s.Reset()
			}
		}
		if from.asked >= 0 {
			v := vectors[from.asked]
			a := &asking{vector: v, until: from.at + span, least: make([]int, len(states)), at: v.At.UnixMicro(), open: len(states), none: from.entity == 0}
			for i := range a.least {
				a.least[i] = len(v.cells) + 1
			}
			if look(a); a.open > 0 && !a.none {
				open = append(open, a)
			}
			continue
		}
		open = slices.DeleteFunc(open, func(a *asking) bool { return a.open == 0 || a.until < from.row.Created })
		for _, s := range states {
			s.Apply(from.row)
		}
		for _, a := range open {
			look(a)
		}
	}
}

// compare holds the cells of a view against what it said at some time, and keeps that if it is closer
// than all before.
func (a *asking) compare(g *group, view int, said []feature.Answer) {
	differ := 0
	for _, w := range g.want {
		if c := &a.cells[w.column]; w.view == view && c.known && !same(&c.served, &said[w.at]) {
			differ++
		}
	}
	if differ >= a.least[view] {
		return
	}
	a.least[view] = differ
	for _, w := range g.want {
		if w.view == view {
			a.cells[w.column].past = said[w.at]
		}
	}
	if differ == 0 {
		a.open--
	}
}

// same tells whether a model is given the same by both. Numbers that JSON has no word for
// were served as null.
func same(served, past *feature.Answer) bool {
	return served.Value.Equal(plain(past.Value))
}

func plain(v row.Value) row.Value {
	if t := v.Type(); (t == row.Float32 || t == row.Float64) && (math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0)) {
		return row.Value{}
	}
	return v
}

// kindOf tells in which way two answers differ.
func kindOf(served, past *feature.Answer) Kind {
	switch {
	case served.Event == 0:
		return Missing
	case past.Event == 0 || served.Event > past.Event:
		return Ahead
	case served.Event < past.Event:
		return LateRow
	case served.Status == feature.OutsideMaxAge || past.Status == feature.OutsideMaxAge:
		return Expired
	}
	return Real
}

// computed holds expressions against what their definitions make of what was served.
func (k *skewCheck) computed(ctx context.Context, plan *feature.Plan, vectors []*vector) error {
	if !plan.Computes() {
		return nil
	}
	views := map[string]bool{}
	for _, r := range plan.Reads() {
		views[r.View.Name] = true
	}
	e := plan.Evaluator()
	read, made := make([]row.Value, len(plan.Reads())), make([]row.Value, len(plan.Columns))
next:
	for _, v := range vectors {
		for i, c := range v.cells {
			if !c.known {
				continue next
			}
			read[i] = c.served.Value
		}
		if err := e.Answer(ctx, v.given, read, made); err != nil {
			return err
		}
		for i, c := range plan.Columns {
			name := c.View + ":" + c.Feature
			served, ok := v.cell(name, c.Type)
			if !ok || views[c.View] {
				continue
			}
			kind, past := Kind(""), feature.Answer{Value: made[i]}
			switch {
			case k.outdated(v, c.View, c.Version):
				kind = OldVersion
			case !same(&served, &past):
				kind = Real
			}
			k.tally(v, name, kind, &served, &past)
		}
	}
	return nil
}

// tally counts one value; without a kind it is as it should be.
func (k *skewCheck) tally(v *vector, name string, kind Kind, served, past *feature.Answer) {
	f := k.tallies[name]
	if f == nil {
		f = &FeatureSkew{Feature: name}
		k.tallies[name] = f
	}
	f.Compared++
	if kind == "" {
		return
	}
	if f.Kinds == nil {
		f.Kinds = map[Kind]int{}
		f.Example = &Mismatch{Kind: kind, Model: v.Model, Given: v.Given, At: v.At, Served: served.Value.AppendJSON(nil), Past: past.Value.AppendJSON(nil), ServedEvent: moment(served.Event), PastEvent: moment(past.Event)}
	}
	f.Mismatched++
	f.Kinds[kind]++
}

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// sum completes the report.
func (k *skewCheck) sum() {
	for _, f := range k.tallies {
		f.Rate = float64(f.Mismatched) / float64(f.Compared)
		k.report.Features = append(k.report.Features, *f)
	}
	slices.SortFunc(k.report.Features, func(a, b FeatureSkew) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(a.Feature, b.Feature))
	})
	for _, f := range k.report.Features {
		if f.Rate > k.conf.Alarm {
			k.report.Alarm = append(k.report.Alarm, f.Feature)
		}
	}
}

// event is the report's alarm.
func (r *Skew) event() event.Event {
	e := event.Skewed{From: r.From, To: r.To, Vectors: r.Vectors}
	for _, f := range r.Features {
		if !slices.Contains(r.Alarm, f.Feature) {
			continue
		}
		kinds := map[string]int{}
		for kind, n := range f.Kinds {
			kinds[string(kind)] = n
		}
		e.Features = append(e.Features, event.Skew{Feature: f.Feature, Compared: f.Compared, Mismatched: f.Mismatched, Kinds: kinds})
	}
	return event.FeaturesSkewed.New(e)
}

package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
)

// Format is how rows that somebody asks for are written.
type Format string

// The formats. The first line of CSV has the names.
const (
	Parquet Format = "parquet"
	CSV     Format = "csv"
	JSON    Format = "json" // an object a line
)

// Moment is the column of asked rows that says when each of them is asked for.
const Moment = "event_timestamp"

// TrainingSet joins rows with features: what the online store would have answered for
// each at its moment. Rows have the plan's join keys and inputs as columns, Moment, and
// whatever else is to be passed on. It writes Parquet: the columns of rows, then
// those of the plan, in the order of rows. Rows without a key get what an entity gets
// that was never seen.
//
// Nothing is written to w before all is computed; the way there needs disk for a few
// times the rows and the sources' rows, and memory for none of both. What is wrong with
// the rows or with a source's files is Invalid.
func (s *Store) TrainingSet(ctx context.Context, plan *feature.Plan, rows io.Reader, format Format, w io.Writer) error {
	j, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	t := &training{job: j, plan: plan}
	if err := t.take(ctx, rows, format); err != nil {
		return err
	}
	if err := t.fill(ctx); err != nil {
		return err
	}
	return t.write(ctx, w)
}

// fill joins the asked rows with features.
func (t *training) fill(ctx context.Context) error {
	for _, g := range t.groups() {
		if err := t.join(ctx, g); err != nil {
			return err
		}
	}
	if t.plan.Computes() {
		return t.compute(ctx)
	}
	return nil
}

// training is a set in the making. The table "asked" has its rows: their number n, their
// moment t, the plan's keys k0, k1... and inputs i0, i1..., and what is passed on
// as p0, p1...
type training struct {
	*job
	plan   *feature.Plan
	passed []string // names of what is passed on
	joined []joined
}

// joined is a file with some columns by the rows' numbers, named c0, c1... as they
// are counted: among the plan's Reads where it computes something, else its Columns.
type joined struct {
	path    string
	columns []int
}

// take reads the asked rows into a table.
func (t *training) take(ctx context.Context, rows io.Reader, format Format) error {
	path := filepath.Join(t.dir, "asked")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, rows)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("take the rows: %w", err)
	}
	var from string
	switch format {
	case Parquet:
		from = fmt.Sprintf("read_parquet(%s, hive_partitioning = false)", duck.Quote(path))
	case CSV:
		from = fmt.Sprintf("read_csv(%s, header = true, hive_partitioning = false)", duck.Quote(path))
	case JSON:
		from = fmt.Sprintf("read_json(%s, format = 'newline_delimited', maximum_object_size = 1048576, hive_partitioning = false)", duck.Quote(path))
	default:
		return fault.New(fault.Invalid, "rows come as %s, %s or %s, not %.20q", Parquet, CSV, JSON, string(format))
	}
	refuse := func(err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case duck.TooMuch(err):
			return t.failed(err)
		}
		return fault.Wrap(fault.Invalid, err, "the rows can't be read as %s: %s", format, t.reason(err))
	}
	names, types, err := duck.Columns(ctx, t.conn, from)
	if err != nil {
		return refuse(err)
	}
	t.passed = names
	var columns, texts []string
	find := func(name string, typ row.Type, as, what string) error {
		at := slices.Index(names, name)
		if at < 0 {
			return fault.New(fault.Invalid, "the rows have no column %q, which is %s", name, what)
		}
		have := types[at]
		if format == CSV {
			have = "VARCHAR"
			texts = append(texts, duck.Quote(name)+": 'VARCHAR'") // "007" is no number where a text is meant
		}
		columns = append(columns, duck.Cast(duck.Ident(name), have, typ)+" AS "+as)
		return nil
	}
	if err := find(Moment, row.Timestamp, "t", "the moment that each is asked for"); err != nil {
		return err
	}
	for i, k := range t.plan.Keys {
		if err := find(k.Name, k.Type, fmt.Sprintf("k%d", i), "a join key"); err != nil {
			return err
		}
	}
	for i, in := range t.plan.Inputs {
		if err := find(in.Name, in.Type, fmt.Sprintf("i%d", i), "an input"); err != nil {
			return err
		}
	}
	for _, c := range t.plan.Columns {
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, c.Name) }) {
			return fault.New(fault.Invalid, `the rows have a column %q, which is also the name of a feature; "as" in a service gives it another`, c.Name)
		}
	}
	for i, name := range names {
		columns = append(columns, fmt.Sprintf("%s AS p%d", duck.Ident(name), i))
	}
	if format == CSV {
		from = strings.TrimSuffix(from, ")") + ", types = {" + strings.Join(texts, ", ") + "})"
	}
	if err := t.exec(ctx, "CREATE TEMP TABLE asked AS SELECT row_number() OVER () - 1 AS n, ", strings.Join(columns, ", "), " FROM ", from); err != nil {
		return refuse(err)
	}
	if n, err := t.number(ctx, "SELECT min(n) + 1 FROM asked WHERE t IS NULL"); err != nil || n > 0 {
		return errors.Join(err, fault.New(fault.Invalid, "row %d has no %s", n, Moment))
	}
	return nil
}

// group is views over one source and with the same keys: one pass makes them all.
type group struct {
	src   *feature.CompiledSource
	keys  []int // where they lie in the plan's keys
	keyAt []int // and in the source's fields
	views []*feature.CompiledView
	want  []wanted
}

// wanted is a column to be joined.
type wanted struct {
	column   int // as it is counted in joined
	typ      row.Type
	instead  row.Value // of null
	view, at int       // of the group, and of the view's columns
}

// groups sorts out what is to be read.
func (t *training) groups() (groups []*group) {
	reads := t.plan.Reads()
	if t.plan.Computes() {
		for i, read := range reads {
			groups = t.want(groups, i, read, row.Value{})
		}
		return groups
	}
	for i, c := range t.plan.Columns {
		read := reads[slices.IndexFunc(reads, func(r feature.Read) bool { return r.View.Name == c.View && r.View.Columns[r.At].Name == c.Feature })]
		groups = t.want(groups, i, read, c.Default)
	}
	return groups
}

// want adds a column to the group that it is of.
func (t *training) want(groups []*group, column int, read feature.Read, instead row.Value) []*group {
	v := read.View
	at := slices.IndexFunc(groups, func(g *group) bool { return g.src == v.From && slices.Equal(g.keyAt, v.KeyAt) })
	if at < 0 {
		at = len(groups)
		g := &group{src: v.From, keyAt: v.KeyAt}
		for _, k := range v.Keys {
			g.keys = append(g.keys, slices.IndexFunc(t.plan.Keys, func(p row.Field) bool { return p.Name == k.Name }))
		}
		groups = append(groups, g)
	}
	g := groups[at]
	view := slices.Index(g.views, v)
	if view < 0 {
		view = len(g.views)
		g.views = append(g.views, v)
	}
	g.want = append(g.want, wanted{column, v.Columns[read.At].Type, instead, view, read.At})
	return groups
}

// reach gives the time, in microseconds, before which no row changes what the group's views say from a moment on.
func (g *group) reach(at int64) int64 {
	longest := time.Duration(0)
	for _, v := range g.views {
		if v.Keep() == 0 {
			return earliest
		}
		longest = max(longest, v.Keep())
	}
	return max(earliest, at-longest.Microseconds())
}

// states gives an empty state of each view, and room for what it says.
func (g *group) states() ([]*feature.State, [][]feature.Answer) {
	states, answers := make([]*feature.State, len(g.views)), make([][]feature.Answer, len(g.views))
	for i, v := range g.views {
		states[i], answers[i] = v.NewState(), make([]feature.Answer, len(v.Columns))
	}
	return states, answers
}

// earliest is before the time of any row, as a store.Stamp has it.
const earliest = -1 << 53

// reads gives the source's fields that a group's views are made of.
func (g *group) reads() []int {
	var fields []int
	for _, v := range g.views {
		for _, at := range v.FromAt {
			if at >= 0 {
				fields = append(fields, at)
			}
		}
	}
	slices.Sort(fields)
	return slices.Compact(fields)
}

// join makes the columns of a group.
func (t *training) join(ctx context.Context, g *group) error {
	first, err := t.number(ctx, "SELECT min(t) FROM asked")
	if err != nil {
		return err
	}
	in, err := t.since(ctx, g.src, g.reach(first))
	if err != nil {
		return err
	}
	sorted := filepath.Join(t.dir, fmt.Sprintf("sorted%d", len(t.joined)))
	fields := g.reads()
	if err := t.sort(ctx, g, in, fields, asks{at: "t"}, sorted); err != nil {
		return err
	}
	out := joined{path: filepath.Join(t.dir, fmt.Sprintf("joined%d", len(t.joined)))}
	for _, w := range g.want {
		out.columns = append(out.columns, w.column)
	}
	t.joined = append(t.joined, out)
	if err := t.merge(ctx, g, fields, sorted, out.path); err != nil {
		return fmt.Errorf("merge source %q with the rows: %w", g.src.Name, err)
	}
	return os.Remove(sorted)
}

// asks says how asked rows are sorted in between a source's.
type asks struct {
	at    string // column of the moment from which on a source's rows are behind an asked one
	ahead int64  // microseconds by which those behind the last of them still count
}

// sort writes a file of asked rows and of those source rows that are of the same entities,
// one entity (number g) after another and by time: t is the moment of an asked
// row, whose number is n, and the created time of a source's row, whose n is -1.
func (t *training) sort(ctx context.Context, g *group, in *input, fields []int, by asks, path string) error {
	var keys, present, same, nulls, values []string
	for i, k := range g.keys {
		keys = append(keys, fmt.Sprintf("k%d", k))
		present = append(present, fmt.Sprintf("k%d IS NOT NULL", k))
		same = append(same, fmt.Sprintf("s.c%d = e.k%d", g.keyAt[i], k))
	}
	for _, f := range fields {
		nulls = append(nulls, fmt.Sprintf("CAST(NULL AS %s) AS c%d", duck.Type(g.src.Fields[f].Type), f))
		values = append(values, fmt.Sprintf("s.c%d", f))
	}
	list := func(of []string) string { return strings.Join(append([]string{""}, of...), ", ") }
	entities := fmt.Sprintf("entities%d", len(t.joined))
	if len(keys) == 0 {
		keys, present, same = []string{"0 AS z"}, []string{"true"}, []string{"true"}
	}
	if err := t.exec(ctx, "CREATE OR REPLACE TEMP TABLE ", entities, " AS SELECT row_number() OVER () AS g, * FROM (SELECT DISTINCT ", strings.Join(keys, ", "),
		" FROM asked WHERE ", strings.Join(present, " AND "), ")"); err != nil {
		return t.failed(err)
	}
	using := "USING (" + strings.Join(keys, ", ") + ")"
	if len(g.keys) == 0 {
		using = "ON true"
	}
	query := fmt.Sprintf("SELECT coalesce(g, 0) AS g, %s AS t, n, CAST(NULL AS BIGINT) AS e, CAST(NULL AS UBIGINT) AS id%s FROM asked LEFT JOIN %s %s", by.at, list(nulls), entities, using)
	if in.sql != "" {
		rows, err := t.unique(ctx, in)
		if err != nil {
			return err
		}
		query += fmt.Sprintf(" UNION ALL SELECT g, s.c, -1, s.e, s.id%s FROM (%s) s JOIN %s e ON %s WHERE s.c <= (SELECT max(%s) FROM asked) + %d",
			list(values), rows, entities, strings.Join(same, " AND "), by.at, by.ahead)
	}
	if err := t.exec(ctx, "COPY (SELECT * FROM (", query, ") ORDER BY g, t, n, e, id) TO ", duck.Quote(path), duck.Temporary); err != nil {
		return t.explain(ctx, in, err)
	}
	return nil
}

// unique gives the query of a source's rows without those that were written again later, by
// which the same row has several created times: the first one counts.
func (j *job) unique(ctx context.Context, in *input) (string, error) {
	if in.src.Path != "" {
		return in.sql, nil // what is the same has the same times, so that it will lie side by side
	}
	if err := j.exec(ctx, "CREATE OR REPLACE TEMP TABLE again AS SELECT id, min(c) AS c FROM (", in.sql, ") GROUP BY id HAVING min(c) < max(c)"); err != nil {
		return "", j.explain(ctx, in, err)
	}
	if n, err := j.number(ctx, "SELECT count(*) FROM again"); n == 0 {
		return in.sql, err
	}
	return fmt.Sprintf("SELECT s.* FROM (%s) s ANTI JOIN again ON s.id = again.id AND s.c > again.c", in.sql), nil
}

// merge goes through sorted rows and writes what the views say at each asked moment.
func (t *training) merge(ctx context.Context, g *group, fields []int, sorted, path string) (err error) {
	from, err := openMerged(g.src, fields, sorted)
	if err != nil {
		return err
	}
	defer from.Close()
	var made []row.Field
	for _, w := range g.want {
		made = append(made, row.Field{Name: fmt.Sprintf("c%d", w.column), Type: w.typ})
	}
	to, err := create(path, made)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()

	states, answers := g.states()
	for {
		if err := from.next(ctx); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if from.other {
			for _, s := range states {
				s.Reset()
			}
		}
		if from.asked < 0 {
			for _, s := range states {
				s.Apply(from.row)
			}
			continue
		}
		for i, s := range states {
			s.Values(from.at, answers[i])
		}
		out := to.row(uint64(from.asked))
		for i, w := range g.want {
			out[i] = answers[w.view][w.at].Value
			if from.entity == 0 { // it has no key
				out[i] = row.Value{}
			}
			if out[i].Null() {
				out[i] = w.instead
			}
		}
		if err := to.flush(1024); err != nil {
			return err
		}
	}
}

// merged goes through what sort wrote: rows of a source and asked rows in between, one entity
// after another.
type merged struct {
	*duck.Scan
	fields []int
	values []row.Value
	n      int

	entity int64       // 0: the asked row has no key
	other  bool        // than the entity before
	asked  int64       // number of the asked row; -1: it is the source's
	at     int64       // the asked row's moment
	row    feature.Row // the source's, whose values are there until the next
}

func openMerged(src *feature.CompiledSource, fields []int, path string) (*merged, error) {
	columns := []row.Field{{Name: "g", Type: row.Int64}, {Name: "t", Type: row.Int64}, {Name: "n", Type: row.Int64}, {Name: "e", Type: row.Int64}, {Name: "id", Type: row.Int64}}
	for _, f := range fields {
		columns = append(columns, row.Field{Name: fmt.Sprintf("c%d", f), Type: src.Fields[f].Type})
	}
	from, err := duck.OpenScan(path, columns)
	if err != nil {
		return nil, err
	}
	return &merged{Scan: from, fields: fields, values: make([]row.Value, len(columns)), entity: -1, row: feature.Row{Values: make([]row.Value, len(src.Fields))}}, nil
}

// next goes to the next row. After the last it is io.EOF.
func (m *merged) next(ctx context.Context) error {
	m.other = false
	for fresh := m.asked >= 0; ; {
		if m.n++; m.n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := m.Next(m.values); err != nil {
			return err
		}
		if of := m.values[0].Int(); of != m.entity {
			m.entity, m.other, fresh = of, true, true
		}
		at, n := m.values[1].Int(), m.values[2].Int()
		if m.asked = n; n >= 0 {
			m.at = at
			return nil
		}
		one := feature.Row{Values: m.row.Values, Event: m.values[3].Int(), Created: at, ID: uint64(m.values[4].Int())}
		if !fresh && one.Event == m.row.Event && one.Created == m.row.Created && one.ID == m.row.ID {
			continue // it lies in two files
		}
		m.row = one
		for i, f := range m.fields {
			m.row.Values[f] = m.values[5+i]
		}
		return nil
	}
}

// results writes some of the plan's columns for rows by their numbers.
type results struct {
	file *os.File
	w    *segment.Writer
	rows []segment.Row
}

func create(path string, fields []row.Field) (*results, error) {
	shape, err := segment.NewShape(fields)
	if err != nil {
		return nil, err
	}
	r := &results{rows: make([]segment.Row, 0, 1024)}
	if r.file, err = os.Create(path); err != nil {
		return nil, err
	}
	r.w = shape.Writer(r.file)
	for i := range r.rows[:cap(r.rows)] {
		r.rows[:cap(r.rows)][i].Values = make([]row.Value, len(fields))
	}
	return r, nil
}

// row gives the values of the next row, to be filled.
func (r *results) row(n uint64) []row.Value {
	r.rows = r.rows[:len(r.rows)+1]
	last := &r.rows[len(r.rows)-1]
	last.ID = n
	return last.Values
}

// flush writes the rows if there are that many.
func (r *results) flush(many int) error {
	if len(r.rows) < many {
		return nil
	}
	err := r.w.Write(r.rows)
	r.rows = r.rows[:0]
	return err
}

func (r *results) close() error {
	return errors.Join(r.flush(1), r.w.Close(), r.file.Close())
}

// compute has the plan's expressions see what was joined. What it makes is all of the
// plan's columns, in place of what was joined.
func (t *training) compute(ctx context.Context) (err error) {
	names, fields := []string{"a.n AS n"}, []row.Field{{Name: "n", Type: row.Int64}}
	add := func(from, as string, typ row.Type) {
		names, fields = append(names, from+" AS "+as), append(fields, row.Field{Name: as, Type: typ})
	}
	for i, k := range t.plan.Keys {
		add(fmt.Sprintf("a.k%d", i), fmt.Sprintf("k%d", i), k.Type)
	}
	for i, in := range t.plan.Inputs {
		add(fmt.Sprintf("a.i%d", i), fmt.Sprintf("i%d", i), in.Type)
	}
	given := len(fields) - 1
	reads := t.plan.Reads()
	read := make([]string, len(reads))
	for i, j := range t.joined {
		for _, c := range j.columns {
			read[c] = fmt.Sprintf("j%d.c%d", i, c)
			if reads[c].View.Columns[reads[c].At].Type.Elem() == row.Timestamp {
				read[c] = duck.Cast(read[c], "TIMESTAMPTZ", reads[c].View.Columns[reads[c].At].Type)
			}
		}
	}
	for i, r := range reads {
		add(read[i], fmt.Sprintf("c%d", i), r.View.Columns[r.At].Type)
	}
	path := filepath.Join(t.dir, "read")
	if err := t.exec(ctx, "COPY (SELECT ", strings.Join(names, ", "), " FROM ", t.side(), ") TO ", duck.Quote(path), duck.Temporary); err != nil {
		return t.failed(err)
	}
	from, err := duck.OpenScan(path, fields)
	if err != nil {
		return err
	}
	defer from.Close()
	var answers []row.Field
	out := joined{path: filepath.Join(t.dir, "computed")}
	for i, c := range t.plan.Columns {
		answers = append(answers, row.Field{Name: fmt.Sprintf("c%d", i), Type: c.Type})
		out.columns = append(out.columns, i)
	}
	to, err := create(out.path, answers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()
	t.joined = []joined{out}
	e := t.plan.Evaluator()
	values := make([]row.Value, len(fields))
	for {
		if err := from.Next(values); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		dst := to.row(uint64(values[0].Int()))
		if err := e.Answer(ctx, values[1:1+given], values[1+given:], dst); err != nil {
			return err
		}
		for i := range dst {
			if dst[i].Null() {
				dst[i] = t.plan.Columns[i].Default
			}
		}
		if err := to.flush(1024); err != nil {
			return err
		}
	}
}

// side is the asked rows, a, with what was joined beside them.
func (t *training) side() string {
	from := "asked a"
	for i, j := range t.joined {
		from += fmt.Sprintf(" LEFT JOIN read_parquet(%s, hive_partitioning = false) j%d ON j%d.%s = a.n", duck.Quote(j.path), i, i, duck.Ident(segment.ID))
	}
	return from
}

// write puts all columns side by side and gives them to w.
func (t *training) write(ctx context.Context, w io.Writer) error {
	columns := make([]string, len(t.passed)+len(t.plan.Columns))
	for i, name := range t.passed {
		columns[i] = fmt.Sprintf("a.p%d AS %s", i, duck.Ident(name))
	}
	for i, j := range t.joined {
		for _, c := range j.columns {
			columns[len(t.passed)+c] = fmt.Sprintf("j%d.c%d AS %s", i, c, duck.Ident(t.plan.Columns[c].Name))
		}
	}
	path := filepath.Join(t.dir, "set")
	if err := t.exec(ctx, "COPY (SELECT ", strings.Join(columns, ", "), " FROM ", t.side(), " ORDER BY a.n) TO ", duck.Quote(path), " (FORMAT parquet, COMPRESSION zstd)"); err != nil {
		return t.failed(err)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

package offline

import (
	"context"
	"database/sql"
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
)

// Division says which of the rows that somebody asks for make a training set, what is written of them, and
// which are held out: the newest.
type Division struct {
	// Columns are written: of the asked rows or of the plan, each as its type or, where it has none, as the nearest one that models mostly
	// take, which of all floats is Float32; and behind them LabelColumn and Moment.
	Columns []row.Field
	// Label is the asked rows' column of what came true, which is written as LabelColumn. Rows in which it is null are left out.
	Label row.Field
	From  time.Time // rows from before it are left out; zero: none
	Until time.Time // rows from it on are left out; zero: none
	// Last leaves out rows that are older than that, counted back from the newest that is left. 0: none.
	Last time.Duration
	// Holdout is how long before the newest row the rows begin that are held out. 0: a fifth of the rows' time.
	Holdout time.Duration
	// Sample is how many rows there are at most: those with the least digests of the columns ID, so that these
	// are the same ones each time. 0: all.
	Sample int64
	ID     []string
}

// Divided is what a Division came to. Rows are from From on and before Until, those from Cut on are held out.
type Divided struct {
	From, Until, Cut time.Time
	Train, Holdout   int64
	Unlabelled       int64       // rows without a label, which are left out
	Labels           []Label     // of the rows to learn from: the most frequent ones
	Columns          []row.Field // as they were written: those without a type have that which is nearest
}

// Label is a value of the column of labels, as text, and how many rows have it.
type Label struct {
	Value string
	Rows  int64
}

// LabelColumn is the name of the column of what came true.
const LabelColumn = "label"

// LabelsMost is how many labels a Divided tells.
const LabelsMost = 1000

// Divide makes a training set, see TrainingSet, in two files of Parquet: what is to be learnt from goes to train, what
// is held out to holdout, each in the order of Moment. Where no row is left nothing is written.
func (s *Store) Divide(ctx context.Context, plan *feature.Plan, rows io.Reader, format Format, d *Division, train, holdout io.Writer) (*Divided, error) {
	j, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer j.end()
	t := &training{job: j, plan: plan}
	if err := t.take(ctx, rows, format); err != nil {
		return nil, err
	}
	told, err := t.choose(ctx, d)
	if err != nil || told.Train+told.Holdout == 0 {
		return told, err
	}
	if err := t.fill(ctx); err != nil {
		return nil, err
	}
	columns, err := t.typed(ctx, d, told)
	if err != nil {
		return nil, err
	}
	cut := told.Cut.UnixMicro()
	for _, part := range []struct {
		where string
		to    io.Writer
	}{{fmt.Sprintf("a.t < %d", cut), train}, {fmt.Sprintf("a.t >= %d", cut), holdout}} {
		path := filepath.Join(t.dir, "set")
		if err := t.exec(ctx, "COPY (SELECT ", columns, " FROM ", t.side(), " WHERE ", part.where, " ORDER BY a.t, a.digest, a.n) TO ", duck.Quote(path), " (FORMAT parquet, COMPRESSION zstd)"); err != nil {
			return nil, t.unfit(ctx, err)
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(part.to, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return told, nil
}

// unfit is an error of values that are not what they are to be.
func (t *training) unfit(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case duck.TooMuch(err):
		return t.failed(err)
	}
	return fault.Wrap(fault.Invalid, err, "the rows are not what they should be: %s", t.reason(err))
}

// passedAs gives where a column of the asked rows is.
func (t *training) passedAs(name string) (string, bool) {
	at := slices.Index(t.passed, name)
	return fmt.Sprintf("p%d", at), at >= 0
}

// choose leaves the rows that a division has, with their digests and labels.
func (t *training) choose(ctx context.Context, d *Division) (*Divided, error) {
	label, ok := t.passedAs(d.Label.Name)
	if !ok {
		return nil, fault.New(fault.Invalid, "the rows have no column %q, which is what came true", d.Label.Name)
	}
	var id []string
	for _, name := range d.ID {
		column, ok := t.passedAs(name)
		if !ok {
			return nil, fault.New(fault.Invalid, "the rows have no column %q, which tells them apart", name)
		}
		id = append(id, fmt.Sprintf("coalesce(CAST(%s AS VARCHAR), '')", column))
	}
	if len(id) == 0 {
		id = []string{"CAST(t AS VARCHAR)"}
	}
	types, err := t.types(ctx)
	if err != nil {
		return nil, err
	}
	value := fmt.Sprintf("CAST(%s AS %s)", label, duck.Type(d.Label.Type))
	if have := types[label]; d.Label.Type == row.String && (have == "FLOAT" || have == "DOUBLE") { // 1.0 is the class 1
		value = fmt.Sprintf("CASE WHEN %[1]s = trunc(%[1]s) THEN CAST(CAST(%[1]s AS BIGINT) AS VARCHAR) ELSE CAST(%[1]s AS VARCHAR) END", label)
	} else if d.Label.Type.Float() { // a NaN is no label
		value = fmt.Sprintf("CASE WHEN isfinite(%[1]s) THEN %[1]s END", value)
	}
	told := &Divided{}
	if told.Unlabelled, err = t.number(ctx, fmt.Sprintf("SELECT count(*) FROM asked WHERE %s IS NULL", value)); err != nil {
		return nil, t.unfit(ctx, err)
	}
	where := []string{value + " IS NOT NULL"}
	if !d.From.IsZero() {
		where = append(where, fmt.Sprintf("t >= %d", d.From.UnixMicro()))
	}
	if !d.Until.IsZero() {
		where = append(where, fmt.Sprintf("t < %d", d.Until.UnixMicro()))
	}
	if err := t.keep(ctx, fmt.Sprintf("*, md5(concat_ws(chr(31), %s)) AS digest, %s AS label", strings.Join(id, ", "), value), strings.Join(where, " AND ")); err != nil {
		return nil, err
	}
	if d.Last > 0 {
		if err := t.keep(ctx, "*", fmt.Sprintf("t > (SELECT max(t) FROM asked) - %d", d.Last.Microseconds())); err != nil {
			return nil, err
		}
	}
	if d.Sample > 0 {
		if err := t.keep(ctx, "*", fmt.Sprintf("n IN (SELECT n FROM asked ORDER BY digest, n LIMIT %d)", d.Sample)); err != nil {
			return nil, err
		}
	}
	return told, t.cut(ctx, d, told)
}

// keep makes the asked rows those of a condition.
func (t *training) keep(ctx context.Context, columns, where string) error {
	if err := t.exec(ctx, "CREATE TEMP TABLE kept AS SELECT ", columns, " FROM asked WHERE ", where); err != nil {
		return t.unfit(ctx, err)
	}
	if err := t.exec(ctx, "DROP TABLE asked"); err != nil {
		return err
	}
	return t.exec(ctx, "ALTER TABLE kept RENAME TO asked")
}

// cut finds where the holdout begins, and what each part has.
func (t *training) cut(ctx context.Context, d *Division, told *Divided) error {
	var oldest, newest sql.NullInt64
	if err := t.conn.QueryRowContext(ctx, "SELECT min(t), max(t) FROM asked").Scan(&oldest, &newest); err != nil || !oldest.Valid {
		return err
	}
	until := newest.Int64 + 1
	holdout := d.Holdout.Microseconds()
	if holdout == 0 {
		holdout = max(1, (until-oldest.Int64)/5)
	}
	cut := until - holdout
	told.From, told.Until, told.Cut = time.UnixMicro(oldest.Int64).UTC(), time.UnixMicro(until).UTC(), time.UnixMicro(cut).UTC()
	if err := t.conn.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FILTER (t < %[1]d), count(*) FILTER (t >= %[1]d) FROM asked", cut)).Scan(&told.Train, &told.Holdout); err != nil {
		return err
	}
	found, err := t.conn.QueryContext(ctx, fmt.Sprintf("SELECT CAST(label AS VARCHAR), count(*) FROM asked WHERE t < %d GROUP BY label ORDER BY count(*) DESC, label LIMIT %d", cut, LabelsMost))
	if err != nil {
		return t.failed(err)
	}
	defer func() { _ = found.Close() }()
	for found.Next() {
		var l Label
		if err := found.Scan(&l.Value, &l.Rows); err != nil {
			return err
		}
		told.Labels = append(told.Labels, l)
	}
	return found.Err()
}

// types gives the types of the table of asked rows.
func (t *training) types(ctx context.Context) (map[string]string, error) {
	names, types, err := duck.Columns(ctx, t.conn, "asked")
	of := map[string]string{}
	for i, name := range names {
		of[name] = types[i]
	}
	return of, err
}

// typed lists what is written, each as its type.
func (t *training) typed(ctx context.Context, d *Division, told *Divided) (string, error) {
	types, err := t.types(ctx)
	if err != nil {
		return "", err
	}
	var columns []string
	for n, c := range d.Columns {
		expression, have := "", ""
		if at, ok := t.passedAs(c.Name); ok {
			expression, have = "a."+at, types[at]
			if c.Type == 0 {
				c.Type = typeOf(have)
			}
		} else {
			for i, j := range t.joined {
				for _, k := range j.columns {
					if of := &t.plan.Columns[k]; of.Name == c.Name {
						expression = fmt.Sprintf("j%d.c%d", i, k)
						if c.Type == 0 {
							c.Type = of.Type
						}
						if of.Type == row.Timestamp { // microseconds
							expression = duck.Cast(expression, "TIMESTAMPTZ", row.Timestamp)
							if c.Type == row.Timestamp {
								c.Type = row.Int64
							}
						}
					}
				}
			}
		}
		if expression == "" {
			return "", fault.New(fault.Invalid, "there is no column %q, neither among the rows nor among the features", c.Name)
		}
		if d.Columns[n].Type == 0 && c.Type == row.Float64 {
			c.Type = row.Float32
		}
		told.Columns = append(told.Columns, c)
		columns = append(columns, duck.Cast(expression, have, c.Type)+" AS "+duck.Ident(c.Name))
	}
	columns = append(columns, "a.label AS "+duck.Ident(LabelColumn), "make_timestamptz(a.t) AS "+duck.Ident(Moment))
	return strings.Join(columns, ", "), nil
}

// typeOf is the type of ours that is nearest to one of DuckDB's.
func typeOf(have string) row.Type {
	switch {
	case have == "BOOLEAN":
		return row.Bool
	case have == "TINYINT", have == "SMALLINT", have == "INTEGER", have == "UTINYINT", have == "USMALLINT", have == "UINTEGER", have == "BIGINT":
		return row.Int64
	case have == "FLOAT":
		return row.Float32
	case have == "DOUBLE", have == "HUGEINT", have == "UBIGINT", strings.HasPrefix(have, "DECIMAL"):
		return row.Float64
	}
	return row.String
}

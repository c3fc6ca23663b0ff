package etl

import (
	"cmp"
	"context"
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
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// expect holds the result against the step's expectations. Rows that fail one are in the table etl.bad afterwards, with the reason.
func (j *loading) expect(ctx context.Context) error {
	if err := j.exec(ctx, "CREATE TABLE etl.bad (n BIGINT, reason VARCHAR, detail VARCHAR)"); err != nil {
		return err
	}
	names, _, err := j.names(ctx)
	if err != nil {
		return err
	}
	for i := range j.Expect {
		e := &j.Expect[i]
		for _, c := range e.Columns {
			if find(names, c) < 0 {
				return invalid("expectation %d (%s): the SQL gives no column %.100q, but %s", i+1, e.Check, c, strings.Join(names, ", "))
			}
		}
		least, most := e.bounds()
		switch e.Check {
		case "rows":
			if n := float64(j.report.Result); n < least || n > most {
				return invalid("the SQL gives %d rows, expected %s", j.report.Result, span(e))
			}
			continue
		case "change":
			if was := float64(j.state.Rows); was > 0 && (float64(j.report.Result) < least*was || float64(j.report.Result) > most*was) {
				return invalid("the SQL gives %d rows and gave %d in the run before, expected %s as many", j.report.Result, j.state.Rows, span(e))
			}
			continue
		case "unique":
			if err := j.fail(ctx, e, "unique("+strings.Join(e.Columns, ", ")+")", "the same is there already", duplicates(e.Columns)); err != nil {
				return err
			}
			continue
		}
		for _, c := range e.Columns {
			if err := j.fail(ctx, e, e.Check+"("+c+")", e.detail(), e.rows(duck.Ident(c), least, most)); err != nil {
				return err
			}
		}
	}
	return nil
}

// span is limits in words.
func span(e *Expectation) string {
	switch {
	case e.Max == nil:
		return fmt.Sprintf("at least %v", *e.Min)
	case e.Min == nil:
		return fmt.Sprintf("at most %v", *e.Max)
	}
	return fmt.Sprintf("%v to %v", *e.Min, *e.Max)
}

// duplicates is a query for the numbers of rows in which columns are as in an earlier one; of nulls nothing is the same.
func duplicates(columns []string) string {
	var by, there []string
	for _, c := range columns {
		by, there = append(by, duck.Ident(c)), append(there, duck.Ident(c)+" IS NOT NULL")
	}
	return fmt.Sprintf("SELECT rowid FROM etl.result WHERE %s QUALIFY row_number() OVER (PARTITION BY %s ORDER BY rowid) > 1", strings.Join(there, " AND "), strings.Join(by, ", "))
}

// rows is a query for the numbers of rows that fail, by one column. Nulls fail nothing but not_null.
func (e *Expectation) rows(column string, least, most float64) string {
	where := ""
	switch e.Check {
	case "not_null":
		where = column + " IS NULL"
	case "range": // NaN, to DuckDB more than all else, is not in any
		where = fmt.Sprintf("NOT (CAST(%s AS DOUBLE) BETWEEN %s AND %s)", column, number(least), number(most))
	case "one_of":
		values := make([]string, len(e.Values))
		for i, v := range e.Values {
			values[i] = duck.Quote(v)
		}
		where = fmt.Sprintf("CAST(%s AS VARCHAR) NOT IN (%s)", column, strings.Join(values, ", "))
	case "reference":
		table, other, _ := strings.Cut(e.In, ".")
		where = fmt.Sprintf("%[1]s IS NOT NULL AND NOT EXISTS (SELECT 1 FROM main.%[2]s o WHERE o.%[3]s = r.%[1]s)", column, duck.Ident(table), duck.Ident(other))
	}
	return "SELECT rowid FROM etl.result r WHERE " + where
}

func number(f float64) string {
	if math.IsInf(f, 0) {
		return fmt.Sprintf("CAST('%v' AS DOUBLE)", f)
	}
	return fmt.Sprintf("CAST(%v AS DOUBLE)", f)
}

// detail says what is expected.
func (e *Expectation) detail() string {
	switch e.Check {
	case "range":
		return "expected " + span(e)
	case "one_of":
		return fmt.Sprintf("expected one of %.200s", strings.Join(e.Values, ", "))
	case "reference":
		return "it is not in " + e.In
	}
	return "it is null"
}

// fail sets rows aside or, where the expectation says so, ends the step.
func (j *loading) fail(ctx context.Context, e *Expectation, reason, detail, query string) error {
	n, err := j.count(ctx, "INSERT INTO etl.bad SELECT *, ", duck.Quote(reason), ", ", duck.Quote(detail), " FROM (", query, ")")
	if err != nil {
		if text := duck.Message(err); text != "" && !duck.TooMuch(err) && fault.KindOf(err) == fault.Internal {
			return fault.Wrap(fault.Invalid, err, "expectation %s: %s", reason, tidy(text))
		}
		return j.sqlError(err, 0)
	}
	if n == 0 {
		return nil
	}
	j.report.Reasons[reason] += n
	if e.OnFail == "fail" {
		return errors.Join(invalid("expectation %s: %d of %d rows are not so: %s", reason, n, j.report.Result, detail), j.keepAside(ctx))
	}
	return nil
}

// ahead is how far in the future a row may be of, as of the start of the run.
const ahead = time.Hour

// rows writes what is left of the result as rows of the source, in the order of their times, each once. It is the source's own code that
// says whether they are such, and what they are known by.
func (j *loading) rows(ctx context.Context, path string) (err error) {
	names, types, err := j.names(ctx)
	if err != nil {
		return err
	}
	columns := []row.Field{{Name: "n", Type: row.Int64}}
	selected, order := []string{"rowid AS n"}, []string{fmt.Sprintf("c%d", j.src.TimeAt)}
	for i, f := range j.src.Fields {
		c, value := fmt.Sprintf("c%d", i), "CAST(NULL AS "+duck.Type(f.Type)+")"
		at := find(names, f.Name)
		switch {
		case at >= 0:
			value = duck.Cast(duck.Ident(names[at]), types[at], f.Type)
		case f.Required || i == j.src.TimeAt || i == j.src.Made:
			return invalid("the SQL gives no column %q, which source %s requires; it gives %s", f.Name, j.Into, strings.Join(names, ", "))
		}
		selected, order = append(selected, value+" AS "+c), append(order, c)
		columns = append(columns, row.Field{Name: c, Type: f.Type})
	}
	for _, name := range names {
		if find(fieldNames(j.src), name) < 0 {
			return invalid("the SQL gives a column %q, which source %s does not have", name, j.Into)
		}
	}
	sorted := filepath.Join(j.out, "sorted.parquet")
	if err := j.exec(ctx, "COPY (SELECT * FROM (SELECT ", strings.Join(selected, ", "), " FROM etl.result r WHERE NOT EXISTS (SELECT 1 FROM etl.bad b WHERE b.n = r.rowid)) ORDER BY ",
		strings.Join(order, ", "), ") TO ", duck.Quote(sorted), duck.Temporary); err != nil {
		if text := duck.Message(err); text != "" && !duck.TooMuch(err) && fault.KindOf(err) == fault.Internal {
			return fault.Wrap(fault.Invalid, err, "the columns that the SQL gives are not of the types that source %s has: %s", j.Into, tidy(text))
		}
		return j.sqlError(err, 0)
	}
	from, err := duck.OpenScan(sorted, columns)
	if err != nil {
		return err
	}
	defer from.Close()
	good, err := create(path, j.src.Columns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, good.close()) }()
	bad, err := create(filepath.Join(j.out, "unfit.parquet"), []row.Field{{Name: "n", Type: row.Int64}, {Name: "reason", Type: row.String}, {Name: "detail", Type: row.String}})
	if err != nil {
		return err
	}
	unfit := int64(0)
	last := segment.Row{}
	values := make([]row.Value, len(columns))
	for n := int64(0); ; n++ {
		if n%10_000 == 0 {
			if err := ctx.Err(); err != nil {
				return errors.Join(err, bad.close())
			}
			j.t.Progress(n, j.report.Result, "rows")
		}
		if err := from.Next(values); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return errors.Join(err, bad.close())
		}
		r := feature.Row{Values: values[1:]}
		if reason, detail := j.src.Check(&r, j.t.Started, j.t.Started.Add(ahead)); reason != "" {
			unfit++
			j.report.Reasons["source: "+string(reason)]++
			if err := bad.add(segment.Row{Values: []row.Value{values[0], row.OfString("source: " + string(reason)), row.OfString(detail)}}); err != nil {
				return errors.Join(err, bad.close())
			}
			continue
		}
		if r.ID == last.ID && r.Event == last.Event && r.Created == last.Created && j.report.Rows > 0 {
			j.report.Repeated++
			continue
		}
		last = segment.Row(r)
		if j.report.Rows == 0 {
			j.report.From = time.UnixMicro(r.Event).UTC()
		}
		j.report.To = time.UnixMicro(r.Event).UTC()
		j.report.Rows++
		if err := good.add(last); err != nil {
			return errors.Join(err, bad.close())
		}
	}
	if err := bad.close(); err != nil || unfit == 0 {
		return err
	}
	return j.exec(ctx, "INSERT INTO etl.bad SELECT n, reason, detail FROM read_parquet(", duck.Quote(bad.file.Name()), ")")
}

func fieldNames(src *feature.CompiledSource) []string {
	names := make([]string, len(src.Fields))
	for i, f := range src.Fields {
		names[i] = f.Name
	}
	return names
}

// writer writes rows to a file, many at a time.
type writer struct {
	file   *os.File
	w      *segment.Writer
	rows   []segment.Row
	values []row.Value // of rows
}

// writerRows is how many rows a writer has in memory.
const writerRows = 1024

func create(path string, fields []row.Field) (*writer, error) {
	shape, err := segment.NewShape(fields)
	if err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &writer{file: f, w: shape.Writer(f), values: make([]row.Value, 0, writerRows*len(fields))}, nil
}

// add writes a row; its values are copied.
func (w *writer) add(r segment.Row) error {
	if len(w.rows) == writerRows {
		if err := w.flush(); err != nil {
			return err
		}
	}
	at := len(w.values)
	w.values = append(w.values, r.Values...)
	r.Values = w.values[at:]
	w.rows = append(w.rows, r)
	return nil
}

func (w *writer) flush() error {
	err := w.w.Write(w.rows)
	w.rows, w.values = w.rows[:0], w.values[:0]
	return err
}

func (w *writer) close() error { return errors.Join(w.flush(), w.w.Close(), w.file.Close()) }

// setAside keeps bad rows with what is wrong with them, and ends the step if they are too many.
func (j *loading) setAside(ctx context.Context) (err error) {
	if j.report.SetAside, err = j.number(ctx, "SELECT count(DISTINCT n) FROM etl.bad"); err != nil || j.report.SetAside == 0 {
		return err
	}
	if err := j.keepAside(ctx); err != nil {
		return err
	}
	if float64(j.report.SetAside) > float64(j.Most)*float64(j.report.Result) {
		return invalid("%d of %d rows are not what is expected of them, more than %v%%: %s; they are kept in %s",
			j.report.SetAside, j.report.Result, float64(j.Most)*100, reasons(j.report.Reasons), j.report.Aside)
	}
	return nil
}

// keepAside writes the bad rows to the bucket, each as often as it fails something.
func (j *loading) keepAside(ctx context.Context) (err error) {
	path := filepath.Join(j.out, "aside.parquet")
	if err := j.exec(ctx, "COPY (SELECT b.reason AS _reason, b.detail AS _detail, r.* FROM etl.bad b JOIN etl.result r ON r.rowid = b.n) TO ",
		duck.Quote(path), " (FORMAT parquet, COMPRESSION zstd)"); err != nil {
		return j.sqlError(err, 0)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	j.report.Aside = fmt.Sprintf("%s%s/quarantine/%s/%s.parquet", pipeline.Prefix, j.t.Pipeline, j.t.Run, j.t.Step)
	if _, err := j.t.Blob.Put(ctx, j.report.Aside, f, info.Size(), store.Condition{}); err != nil {
		return fmt.Errorf("keep rows aside: %w", err)
	}
	j.t.Log.WarnContext(ctx, "rows are set aside", "rows", j.report.SetAside, "reasons", reasons(j.report.Reasons), "in", j.report.Aside)
	return nil
}

// reasons is counts in words, the most frequent first.
func reasons(counts map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b)) })
	var words []string
	for _, name := range names[:min(len(names), 5)] {
		words = append(words, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(words, ", ")
}

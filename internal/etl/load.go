package etl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
)

// load is a step of that kind.
type load struct {
	*Load
	conf Config
	deps Deps
}

func newLoad(with node, c *Config, d Deps) (pipeline.Step, error) {
	l, err := readLoad(with)
	if err != nil {
		return nil, err
	}
	return &load{l, *c, d}, nil
}

// loading is one try of it.
type loading struct {
	*load
	t       *pipeline.Task
	state   State
	version string // of the state
	db      *sql.DB
	most    int64  // bytes of memory that the process may take
	stuck   bool   // in DuckDB something goes on that can't be ended
	out     string // the only folder that the SQL could read
	src     *feature.CompiledSource
	report  Report
	fresh   int // files that were taken now

	taken   map[string]Taken // becomes the state's
	columns map[string][]column
}

// Run implements pipeline.Step.
func (l *load) Run(ctx context.Context, t *pipeline.Task) error {
	j := &loading{load: l, t: t, out: filepath.Join(t.Dir, "out"), report: Report{Source: l.Into, Tables: map[string]int64{}, Reasons: map[string]int64{}}}
	if err := j.open(ctx); err != nil {
		return err
	}
	if s := j.state.Staged; s != nil {
		t.Log.InfoContext(ctx, "rows that were decided are published now", "run", s.Run, "source", s.Into)
		if err := j.publish(ctx); err != nil {
			return err
		}
	}
	if j.state.Run == t.Run && j.state.Report != nil {
		return t.Tell(reportPort, j.state.Report) // it was killed behind its last write
	}
	if err := j.work(ctx); err != nil {
		return err
	}
	return t.Tell(reportPort, &j.report)
}

// work makes rows, decides and publishes them.
func (j *loading) work(ctx context.Context) (err error) {
	defs, err := j.deps.Catalog.Current(ctx)
	if err != nil {
		return err
	}
	if j.src, err = defs.Source(j.Into); err != nil {
		return err
	}
	for _, t := range j.From {
		if j.src.Path != "" && t.Files != "" && (strings.HasPrefix(t.Files, j.src.Path) || strings.HasPrefix(j.src.Path, t.Files)) {
			return invalid("it would read what it writes: table %s has the files in %s, and source %s is those in %s", t.Name, t.Files, j.Into, j.src.Path)
		}
	}
	j.bound()
	if err := os.MkdirAll(j.out, 0o700); err != nil {
		return err
	}
	if j.db, err = duck.Open(ctx, duck.Config{Memory: int64(j.conf.Memory), Disk: int64(j.conf.Disk), Spill: filepath.Join(j.t.Dir, "spill")}); err != nil {
		return err
	}
	defer func() {
		if !j.stuck {
			err = errors.Join(err, j.db.Close())
		}
	}()
	// Rows of a table have no order of their own, and keeping one takes memory.
	if err := j.exec(ctx, "SET preserve_insertion_order = false; CREATE SCHEMA etl"); err != nil {
		return err
	}
	if some, err := j.tables(ctx, defs); err != nil || !some {
		if err == nil {
			j.t.Log.InfoContext(ctx, "no file is new")
		}
		return err
	}
	if err := j.query(ctx); err != nil {
		return err
	}
	if err := j.expect(ctx); err != nil {
		return err
	}
	staged := &Staged{Run: j.t.Run, Into: j.Into}
	for key, f := range j.taken {
		if j.state.Taken[key] != f {
			staged.Files = append(staged.Files, key)
		}
	}
	path := filepath.Join(j.out, "good.parquet")
	if err := j.rows(ctx, path); err != nil {
		return err
	}
	if err := j.setAside(ctx); err != nil {
		return err
	}
	if j.report.Rows > 0 {
		if j.src.Path != "" {
			staged.Object = fmt.Sprintf("%s%s.%s.%s.parquet", j.src.Path, j.t.Pipeline, j.t.Step, j.t.Run)
		} else {
			for _, f := range j.src.Fields {
				staged.Fields = append(staged.Fields, field{f.Name, f.Type})
			}
		}
		if err := j.stage(ctx, staged, path); err != nil {
			return err
		}
	}
	// From here on it is so.
	j.state.Run, j.state.Report, j.state.Staged = j.t.Run, &j.report, staged
	j.state.Taken, j.state.Columns, j.state.Rows = j.taken, j.columns, j.report.Result
	if err := j.save(ctx); err != nil {
		return err
	}
	j.t.Log.InfoContext(ctx, "decided", "files", j.report.Files, "rows", j.report.Rows, "set aside", j.report.SetAside, "repeated", j.report.Repeated)
	return j.publish(ctx)
}

// exec runs a statement of ours.
func (j *loading) exec(ctx context.Context, parts ...string) error {
	_, err := j.count(ctx, parts...)
	return err
}

// count runs a statement of ours, and gives how many rows it touched.
func (j *loading) count(ctx context.Context, parts ...string) (n int64, err error) {
	err = j.guard(ctx, func(ctx context.Context) error {
		r, err := j.db.ExecContext(ctx, strings.Join(parts, ""))
		if err == nil {
			n, err = r.RowsAffected()
		}
		return err
	})
	return n, err
}

// number gives the one number that a query answers.
func (j *loading) number(ctx context.Context, query string) (n int64, err error) {
	err = j.guard(ctx, func(ctx context.Context) error { return j.db.QueryRowContext(ctx, query).Scan(&n) })
	return n, err
}

// query has the step's SQL make the table etl.result. It sees the tables, and nothing else.
func (j *loading) query(ctx context.Context) error {
	var wrong, position sql.NullString
	var statements int
	if err := j.db.QueryRowContext(ctx, "SELECT s->>'error_message', s->>'position', coalesce(json_array_length(s, '$.statements'), 0) FROM (SELECT json_serialize_sql(CAST(? AS VARCHAR)) AS s)", j.SQL).
		Scan(&wrong, &position, &statements); err != nil {
		return j.sqlError(err, 0)
	}
	switch at, err := strconv.Atoi(position.String); {
	case err == nil:
		return invalid("sql, line %d: %s", 1+strings.Count(j.SQL[:min(at, len(j.SQL))], "\n"), tidy(wrong.String))
	case wrong.Valid || statements != 1:
		return invalid("sql is not one SELECT")
	}
	if err := duck.Seal(ctx, j.db, j.out); err != nil {
		return err
	}
	begin := time.Now()
	if err := j.exec(ctx, "CREATE TABLE etl.result AS\n", j.SQL); err != nil {
		return j.sqlError(err, 1)
	}
	n, err := j.number(ctx, "SELECT count(*) FROM etl.result")
	if err != nil {
		return err
	}
	j.report.Result = n
	j.t.Log.InfoContext(ctx, "the SQL is done", "rows", n, "seconds", time.Since(begin).Seconds())
	return nil
}

var place = regexp.MustCompile(`\s+LINE (\d+): `)

// sqlError says what is wrong with the step's SQL, and in which of its lines: skip others stand before them.
func (j *loading) sqlError(err error, skip int) error {
	message := duck.Message(err)
	if message == "" || fault.KindOf(err) != fault.Internal { // it was told already
		return err
	}
	if duck.TooMuch(err) {
		return fault.Wrap(fault.Invalid, err, "the SQL takes more than ETL_MEMORY (%s) or ETL_DISK (%s)", j.conf.Memory, j.conf.Disk)
	}
	where := ""
	if at := place.FindStringSubmatchIndex(message); at != nil {
		line, _ := strconv.Atoi(message[at[2]:at[3]])
		where = fmt.Sprintf(", line %d", max(1, line-skip))
		text, caret, _ := strings.Cut(message[at[1]:], "\n")
		if n := strings.IndexByte(caret, '^') - (at[1] - at[2] + len("LINE ")); n > 0 && n < len(text) {
			where += fmt.Sprintf(" at %.40q", text[n:])
		}
		message = message[:at[0]]
	}
	return fault.Wrap(fault.Invalid, err, "sql%s: %s", where, tidy(message))
}

// tidy makes a sentence of DuckDB's words.
func tidy(message string) string {
	message, _, _ = strings.Cut(message, "\n\n")
	message = strings.Join(strings.Fields(message), " ")
	if len(message) > 400 {
		message = message[:400]
	}
	return strings.ToValidUTF8(message, "?")
}

// names gives the result's columns and their types.
func (j *loading) names(ctx context.Context) (names, types []string, err error) {
	err = j.guard(ctx, func(ctx context.Context) (err error) {
		names, types, err = duck.Columns(ctx, j.db, "etl.result")
		return err
	})
	return names, types, err
}

// find gives the place of a column among names, as SQL knows them: whatever its case.
func find(names []string, name string) int {
	return slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

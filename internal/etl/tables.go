package etl

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/feedback"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// column is a column of a table, with DuckDB's type.
type column struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	optional bool
}

// tables makes the tables that the SQL sees. Some tells whether there is something to do: where files are waited for, a new one.
func (j *loading) tables(ctx context.Context, defs *feature.Compiled) (some bool, err error) {
	j.taken, j.columns = maps.Clone(j.state.Taken), maps.Clone(j.state.Columns)
	there := map[string]bool{} // files
	waits := false
	for i := range j.From {
		t := &j.From[i]
		if t.Files != "" {
			waits = waits || !t.All
			if err := j.files(ctx, t, there); err != nil {
				return false, j.about(t, err)
			}
		}
	}
	maps.DeleteFunc(j.taken, func(key string, _ Taken) bool { return !there[key] })
	maps.DeleteFunc(j.state.Bad, func(key string, _ BadFile) bool { return !there[key] })
	if waits && j.fresh == 0 {
		if j.report.BadFiles == 0 && maps.Equal(j.taken, j.state.Taken) {
			return false, nil
		}
		j.state.Taken = j.taken
		return false, j.save(ctx) // so that they are not looked at again
	}
	for i := range j.From {
		t := &j.From[i]
		switch {
		case t.Files != "":
			err = j.empty(ctx, t)
		case t.Input != "":
			err = j.input(ctx, t)
		case t.Source != "":
			err = j.history(ctx, t, defs)
		default:
			err = j.logged(ctx, t)
		}
		if err != nil {
			return false, j.about(t, err)
		}
		if j.report.Tables[t.Name], err = j.number(ctx, "SELECT count(*) FROM main."+duck.Ident(t.Name)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// about says which table an error is about.
func (j *loading) about(t *Table, err error) error {
	if kind := fault.KindOf(err); kind == fault.Invalid || kind == fault.NotFound {
		return fault.Wrap(kind, err, "table %s: %s", t.Name, fault.Message(err))
	}
	return fmt.Errorf("table %s: %w", t.Name, err)
}

// since is the time that a table begins with.
func (j *loading) since(t *Table) time.Time {
	if t.Last == 0 {
		return time.Time{}
	}
	return j.t.Started.Add(-time.Duration(t.Last))
}

// wants gives the columns of a table of files: those that it says, or else those of files that came before; or none.
func (j *loading) wants(t *Table) []column {
	if t.Columns == nil {
		return j.columns[t.Name]
	}
	var all []column
	for _, name := range slices.Sorted(maps.Keys(t.Columns)) {
		typ, optional := strings.CutSuffix(t.Columns[name], "?")
		all = append(all, column{name, typ, optional})
	}
	return all
}

// empty makes a table of files that has none yet.
func (j *loading) empty(ctx context.Context, t *Table) error {
	wants := j.wants(t)
	if len(wants) == 0 {
		return invalid("no file has come to %s yet, and columns says nothing of what they have", t.Files)
	}
	var columns []string
	for _, c := range wants {
		columns = append(columns, duck.Ident(c.Name)+" "+c.Type)
	}
	if err := j.exec(ctx, "CREATE TABLE IF NOT EXISTS main.", duck.Ident(t.Name), " (", strings.Join(columns, ", "), ")"); err != nil {
		return j.refused(err, "")
	}
	return nil
}

// refused tells of something that DuckDB does not take. What is not about it comes back as it is.
func (j *loading) refused(err error, local string) error {
	text := duck.Message(err)
	if text == "" || duck.TooMuch(err) || fault.KindOf(err) != fault.Internal {
		return j.sqlError(err, 0)
	}
	if local != "" {
		text = strings.ReplaceAll(text, local, "the file")
	}
	return fault.Wrap(fault.Invalid, err, "%s", tidy(text))
}

// files takes the files of a table, one after another, each whole or not at all.
func (j *loading) files(ctx context.Context, t *Table, there map[string]bool) error {
	var todo []store.Object
	for o, err := range j.t.Blob.List(ctx, t.Files, "") {
		if err != nil {
			return fmt.Errorf("list %s: %w", t.Files, err)
		}
		there[o.Key] = true
		if bad, ok := j.state.Bad[o.Key]; ok && bad.Version == o.Version {
			if bad.Run != j.t.Run {
				j.report.LeftOut++
				continue
			}
			if err := j.bad(ctx, bad); err != nil { // it was killed behind its finding
				return err
			}
			continue
		}
		if t.All || j.taken[o.Key].Version != o.Version {
			todo = append(todo, o)
		}
	}
	for i, o := range todo {
		j.t.Progress(int64(i), int64(len(todo)), "files of "+t.Name)
		if err := j.file(ctx, t, o.Key); err != nil {
			return err
		}
	}
	return nil
}

// file takes one file.
func (j *loading) file(ctx context.Context, t *Table, key string) error {
	format := formatOf(key)
	local := filepath.Join(j.out, "landed"+format.suffix) // not by its own name: that is a stranger's
	sum, o, err := fetch(ctx, j.t.Blob, key, local)
	if fault.Is(err, fault.NotFound) {
		return nil // it was deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("fetch %q: %w", key, err)
	}
	defer func() { _ = os.Remove(local) }()
	if !t.All {
		before, known := j.taken[key]
		if known && before.SHA256 == sum {
			j.taken[key] = Taken{o.Version, sum} // the same was put again
			return nil
		}
		if known {
			j.t.Log.WarnContext(ctx, "a file has changed since it was taken, and is taken as a new one", "file", key)
			if len(j.report.Changed) < listMost {
				j.report.Changed = append(j.report.Changed, key)
			}
		}
	}
	if err := j.insert(ctx, t, format, key, local); err != nil {
		switch tooMuch := errors.Is(err, errMemory) || duck.TooMuch(err); {
		case tooMuch && j.fresh == 0 && !j.stuck: // by itself, as what grows when it is unpacked
			err = invalid("it does not fit into ETL_MEMORY (%s) and ETL_DISK (%s)", j.conf.Memory, j.conf.Disk)
		case tooMuch || !fault.Is(err, fault.Invalid):
			return err
		}
		return j.bad(ctx, BadFile{Key: key, Reason: fault.Message(err), Version: o.Version, Run: j.t.Run})
	}
	delete(j.state.Bad, key)
	if !t.All {
		j.taken[key] = Taken{o.Version, sum}
		j.fresh++
		j.report.Files++
		j.report.Bytes += o.Size
	}
	return nil
}

// bad leaves a file out. Where it fails the run it is remembered at once, so that it stands in the way of this run alone.
func (j *loading) bad(ctx context.Context, f BadFile) error {
	j.state.Bad[f.Key] = f
	j.report.BadFiles++
	if len(j.report.Bad) < listMost {
		j.report.Bad = append(j.report.Bad, f)
	}
	j.t.Log.WarnContext(ctx, "a file can't be read, and is left out until it is another", "file", f.Key, "reason", f.Reason)
	if j.BadFiles == "quarantine" {
		return nil
	}
	return errors.Join(invalid("the file %q can't be read: %s; later runs leave it out", f.Key, f.Reason), j.save(ctx))
}

// format is how a file is written.
type format struct {
	suffix string // that a local copy has, by which DuckDB knows whether it is compressed
	zipped bool
}

// formatOf tells by a file's name; the zero format is none.
func formatOf(key string) format {
	name, zipped := strings.CutSuffix(strings.ToLower(path.Base(key)), ".gz")
	suffix := path.Ext(name)
	switch suffix {
	case ".parquet":
		if zipped {
			return format{}
		}
	case ".json", ".jsonl", ".ndjson":
		suffix = ".json"
	case ".csv":
	default:
		return format{}
	}
	if zipped {
		suffix += ".gz"
	}
	return format{suffix, zipped}
}

// What DuckDB is told of files, beside their path.
const (
	csvOptions  = "header = true, delim = ',', quote = '\"', escape = '\"', hive_partitioning = false"
	jsonOptions = "format = 'newline_delimited', maximum_object_size = 1048576, hive_partitioning = false"
)

// insert adds the rows of a file to its table. What is wrong with the file is Invalid.
func (j *loading) insert(ctx context.Context, t *Table, format format, key, local string) (err error) {
	if format.suffix == "" {
		return invalid("its name ends like that of no format that is read: .csv, .jsonl, .json, .ndjson, each also with .gz, and .parquet")
	}
	if info, err := os.Stat(local); err != nil || info.Size() == 0 {
		return errors.Join(err, invalid("it is empty"))
	}
	var from string
	csv := strings.HasPrefix(format.suffix, ".csv")
	switch {
	case csv:
		from = "read_csv(" + duck.Quote(local) + ", sample_size = -1, " + csvOptions + ")"
	case format.suffix == ".parquet":
		from = "read_parquet(" + duck.Quote(local) + ", hive_partitioning = false)"
	default:
		from = "read_json(" + duck.Quote(local) + ", sample_size = -1, " + jsonOptions + ")"
	}
	wants := j.wants(t)
	var names, types []string
	if csv && len(wants) > 0 { // what they are is known, and a bad line must not have DuckDB guess otherwise
		names, err = header(local, format.zipped)
	} else {
		err = j.guard(ctx, func(ctx context.Context) (err error) {
			names, types, err = duck.Columns(ctx, j.db, from)
			return err
		})
	}
	if err != nil {
		return j.refused(err, local)
	}
	if len(wants) == 0 {
		for i, name := range names {
			wants = append(wants, column{Name: name, Type: types[i]})
		}
		j.columns[t.Name] = wants
		defer func() {
			if err != nil {
				delete(j.columns, t.Name) // it was no file to learn from
				err = errors.Join(err, j.exec(ctx, "DROP TABLE IF EXISTS main.", duck.Ident(t.Name)))
			}
		}()
	}
	var selected, lost, changed []string
	known := map[string]string{} // types by the file's names
	for _, c := range wants {
		at := find(names, c.Name)
		switch {
		case at < 0 && c.optional:
			selected = append(selected, "CAST(NULL AS "+c.Type+")")
			continue
		case at < 0:
			lost = append(lost, c.Name)
			continue
		case format.suffix == ".parquet" && !widens(types[at], c.Type):
			changed = append(changed, fmt.Sprintf("%s is %s, expected %s", c.Name, types[at], c.Type))
		}
		known[names[at]] = c.Type
		selected = append(selected, fmt.Sprintf("CAST(%s AS %s)", duck.Ident(names[at]), c.Type))
	}
	if len(lost) > 0 {
		changed = append(changed, "there is no "+strings.Join(lost, ", no "))
	}
	if len(changed) > 0 {
		err = invalid("its columns have changed: %s; it has %.300s", strings.Join(changed, "; "), strings.Join(names, ", "))
		return err
	}
	if format.suffix != ".parquet" {
		var columns []string
		for _, name := range names {
			typ, wanted := known[name]
			if !wanted {
				if !csv {
					continue
				}
				typ = "VARCHAR"
			}
			columns = append(columns, duck.Quote(name)+": "+duck.Quote(typ))
		}
		list := "columns = {" + strings.Join(columns, ", ") + "}"
		if csv {
			from = "read_csv(" + duck.Quote(local) + ", auto_detect = false, " + list + ", " + csvOptions + ")"
		} else {
			from = "read_json(" + duck.Quote(local) + ", " + list + ", " + jsonOptions + ")"
		}
	}
	if err = j.empty(ctx, t); err != nil {
		return err
	}
	n, err := j.count(ctx, "INSERT INTO main.", duck.Ident(t.Name), " SELECT ", strings.Join(selected, ", "), " FROM ", from)
	if err != nil {
		return j.refused(err, local)
	}
	j.t.Log.InfoContext(ctx, "a file was read", "file", key, "rows", n)
	return nil
}

// widens tells whether each value of a type is one of another type too.
func widens(have, want string) bool {
	want = strings.ToUpper(strings.Join(strings.Fields(want), " "))
	if have == want {
		return true
	}
	wider := map[string]string{
		"TINYINT": "SMALLINT INTEGER INT BIGINT FLOAT DOUBLE", "SMALLINT": "INTEGER INT BIGINT FLOAT DOUBLE", "INTEGER": "INT BIGINT DOUBLE", "BIGINT": "",
		"UTINYINT": "SMALLINT INTEGER INT BIGINT FLOAT DOUBLE", "USMALLINT": "INTEGER INT BIGINT FLOAT DOUBLE", "UINTEGER": "BIGINT DOUBLE", "FLOAT": "DOUBLE",
		"DATE": "TIMESTAMP TIMESTAMPTZ", "TIMESTAMP": "TIMESTAMPTZ", "TIMESTAMP_S": "TIMESTAMP TIMESTAMPTZ", "TIMESTAMP_MS": "TIMESTAMP TIMESTAMPTZ",
		"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ", "VARCHAR": "TEXT STRING JSON",
	}
	return slices.Contains(strings.Fields(wider[have]), want)
}

// headerMost is how many bytes the first line of a CSV may have.
const headerMost = 1 << 20

// header reads the names in the first line of a CSV.
func header(local string, zipped bool) (names []string, err error) {
	f, err := os.Open(local)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = f
	if zipped {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, invalid("it is no gzip: %s", err)
		}
	}
	buffered := bufio.NewReader(io.LimitReader(r, headerMost))
	if mark, _ := buffered.Peek(3); string(mark) == "\xef\xbb\xbf" {
		_, _ = buffered.Discard(3)
	}
	names, err = csv.NewReader(buffered).Read()
	if err != nil {
		return nil, invalid("its first line has no names: %s", err)
	}
	seen := map[string]bool{}
	for _, name := range names {
		if lower := strings.ToLower(name); seen[lower] {
			return nil, invalid("its first line has the name %.100q twice", name)
		} else {
			seen[lower] = true
		}
	}
	return names, nil
}

// input makes a table of a file that an earlier step gave.
func (j *loading) input(ctx context.Context, t *Table) error {
	local, err := j.t.Fetch(ctx, t.Input)
	if err != nil {
		return err
	}
	if err := j.exec(ctx, "CREATE TABLE main.", duck.Ident(t.Name), " AS SELECT * FROM read_parquet(", duck.Quote(local), ", hive_partitioning = false)"); err != nil {
		return j.refused(err, local)
	}
	return nil
}

// history makes a table of the rows of a source.
func (j *loading) history(ctx context.Context, t *Table, defs *feature.Compiled) error {
	src, err := defs.Source(t.Source)
	if err != nil {
		return err
	}
	local := filepath.Join(j.out, "history.parquet")
	f, err := os.Create(local)
	if err != nil {
		return err
	}
	err = j.deps.Offline.History(ctx, src, j.since(t), f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	defer func() { _ = os.Remove(local) }()
	return j.exec(ctx, "CREATE TABLE main.", duck.Ident(t.Name), " AS SELECT * FROM read_parquet(", duck.Quote(local), ", hive_partitioning = false)")
}

// The columns of what was logged: of predictions, and of outcomes.
const (
	predictionsTable = "id VARCHAR, nth INTEGER, made TIMESTAMPTZ, answered TIMESTAMPTZ, version INTEGER, latency BIGINT, kind VARCHAR, weight DOUBLE, inputs JSON, features JSON, outputs JSON"
	predictionsFrom  = `id, coalesce("row", 0), _event, _created, version, latency, kind, weight, inputs, features, outputs`
	outcomesTable    = "prediction VARCHAR, nth INTEGER, entity VARCHAR, made TIMESTAMPTZ, label JSON, came_true TIMESTAMPTZ, known TIMESTAMPTZ, outcome UBIGINT"
	outcomesFrom     = `prediction, coalesce("row", 0), entity, "at", value, _event, _created, _id`
)

// logged makes a table of predictions, outcomes or both, of a model.
func (j *loading) logged(ctx context.Context, t *Table) error {
	name := "main." + duck.Ident(t.Name)
	switch {
	case t.Predictions != "":
		return j.segments(ctx, t, name, predictionsTable, predictionsFrom, "model = "+duck.Quote(t.Predictions), payload.Inbox)
	case t.Outcomes != "":
		if err := j.segments(ctx, t, "etl.outcomes", outcomesTable, outcomesFrom, "coalesce(model, "+duck.Quote(t.Outcomes)+") = "+duck.Quote(t.Outcomes), feedback.InboxPrefix, feedback.LogPrefix); err != nil {
			return err
		}
		return j.exec(ctx, "CREATE TABLE ", name, " AS SELECT DISTINCT ON (outcome) * EXCLUDE (outcome) FROM etl.outcomes; DROP TABLE etl.outcomes")
	}
	if err := j.segments(ctx, t, "etl.predictions", predictionsTable, predictionsFrom, "model = "+duck.Quote(t.Labelled), payload.Inbox); err != nil {
		return err
	}
	if err := j.segments(ctx, t, "etl.outcomes", outcomesTable, outcomesFrom, "prediction IS NOT NULL", feedback.InboxPrefix, feedback.LogPrefix); err != nil {
		return err
	}
	return j.exec(ctx, "CREATE TABLE ", name, ` AS SELECT p.*, o.label, o.came_true, o.known FROM etl.predictions p
		JOIN (SELECT DISTINCT ON (prediction, nth) * FROM etl.outcomes ORDER BY prediction, nth, known DESC, outcome) o ON o.prediction = p.id AND o.nth = p.nth;
		DROP TABLE etl.predictions; DROP TABLE etl.outcomes`)
}

// segments makes a table of the rows that meet a condition in objects below some prefixes, whose names begin with a time.
func (j *loading) segments(ctx context.Context, t *Table, table, columns, selected, where string, prefixes ...string) error {
	if err := j.exec(ctx, "CREATE TABLE ", table, " (", columns, ")"); err != nil {
		return err
	}
	since := j.since(t)
	local := filepath.Join(j.out, "segment.parquet")
	defer func() { _ = os.Remove(local) }()
	for _, prefix := range prefixes {
		after := ""
		if !since.IsZero() {
			where := fmt.Sprintf("%016d", max(since.UnixMicro(), 0))
			after = prefix + where
		}
		for o, err := range j.t.Blob.List(ctx, prefix, after) {
			if err != nil {
				return fmt.Errorf("list %s: %w", prefix, err)
			}
			data, _, err := store.ReadAll(ctx, j.t.Blob, o.Key)
			if fault.Is(err, fault.NotFound) {
				continue // it was too old, or lies in the next prefix by now
			}
			if err != nil {
				return fmt.Errorf("read %q: %w", o.Key, err)
			}
			if !segment.Intact(o.Key, data) {
				j.t.Log.WarnContext(ctx, "a segment is damaged, and is left out", "object", o.Key)
				continue
			}
			if err := os.WriteFile(local, data, 0o600); err != nil {
				return err
			}
			if err := j.exec(ctx, "INSERT INTO ", table, " SELECT ", selected, " FROM read_parquet(", duck.Quote(local), ", hive_partitioning = false) WHERE ", where,
				fmt.Sprintf(" AND epoch_us(_created) >= %d", max(since.UnixMicro(), 0))); err != nil {
				return err
			}
		}
	}
	return nil
}

package offline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// prefixOf is where the rows of a source lie.
func prefixOf(src *feature.CompiledSource) string {
	if src.Path != "" {
		return src.Path
	}
	return segment.Prefix(src.Name)
}

// list gives the Parquet objects of a source, in the order of their keys.
func (s *Store) list(ctx context.Context, src *feature.CompiledSource) ([]store.Object, error) {
	var found []store.Object
	for o, err := range s.blob.List(ctx, prefixOf(src), "") {
		if err != nil {
			return nil, fmt.Errorf("list the files of source %q: %w", src.Name, err)
		}
		if strings.HasSuffix(o.Key, ".parquet") {
			found = append(found, o)
		}
	}
	return found, nil
}

// input is some files of a source, as a table of DuckDB with the columns e and c
// (event and created time in microseconds), id, and c0, c1... for the source's fields.
type input struct {
	src   *feature.CompiledSource
	files []*file
	from  string // the files as they are
	sql   string // a query; empty: there are no rows
}

// since makes readable what a source's log has of a time, in microseconds since 1970, and later, and all files of
// a source with a path.
func (j *job) since(ctx context.Context, src *feature.CompiledSource, micros int64) (*input, error) {
	// Compaction replaces objects by one that holds the same rows: what was listed
	// may be gone, but then its replacement is there already.
	for range 10 {
		objects, err := j.list(ctx, src)
		if err != nil {
			return nil, err
		}
		if src.Path == "" {
			day := segment.Day(micros)
			objects = slices.DeleteFunc(objects, func(o store.Object) bool { return dayOf(o.Key) < day })
		}
		in, err := j.input(ctx, src, objects)
		if !errors.Is(err, errGone) {
			return in, err
		}
	}
	return nil, fault.New(fault.Unavailable, "files of source %q change while they are read", src.Name)
}

// input makes objects of a source readable. If one of them has changed since it was listed, the
// error is errGone.
func (j *job) input(ctx context.Context, src *feature.CompiledSource, objects []store.Object) (*input, error) {
	in := &input{src: src}
	hive := src.Path != ""
	var err error
	if in.files, err = j.files.get(ctx, objects, !hive); err != nil {
		if hurt := (*damaged)(nil); errors.As(err, &hurt) {
			err = unreadable(fault.Internal, err, hurt.key, src)
		}
		return nil, err
	}
	if len(in.files) == 0 {
		return in, nil
	}
	var paths []string
	for _, f := range in.files {
		for _, path := range f.paths {
			paths = append(paths, duck.Quote(path))
		}
	}
	in.from = fmt.Sprintf("read_parquet([%s], union_by_name = true, hive_partitioning = %t)", strings.Join(paths, ", "), hive)
	types, err := j.columns(ctx, in.from)
	if err != nil {
		return nil, j.explain(ctx, in, err)
	}
	// A column of this source may have been given to it after the file was written.
	field := func(name string, t row.Type) string {
		have, ok := types[strings.ToLower(name)]
		if !ok {
			return "CAST(NULL AS " + duck.Type(t) + ")"
		}
		return duck.Cast(duck.Ident(name), have, t)
	}
	event, created, id := `epoch_us("`+segment.Event+`")`, `epoch_us("`+segment.Created+`")`, `"`+segment.ID+`"`
	if hive {
		event = field(src.Fields[src.TimeAt].Name, row.Timestamp)
		if created = event; src.Made >= 0 {
			created = fmt.Sprintf("coalesce(%s, %s)", field(src.Fields[src.Made].Name, row.Timestamp), event)
		}
	}
	var columns, hashed []string
	for i, f := range src.Fields {
		columns = append(columns, fmt.Sprintf("%s AS c%d", field(f.Name, f.Type), i))
		hashed = append(hashed, fmt.Sprintf("c%d", i))
	}
	in.sql = fmt.Sprintf("SELECT %s AS e, %s AS c, %s FROM %s", event, created, strings.Join(columns, ", "), in.from)
	if hive {
		// Rows of no time are of nothing. A row's id is what it holds: twice the same row is one.
		in.sql = fmt.Sprintf("SELECT *, hash(%s) AS id FROM (%s) WHERE e IS NOT NULL", strings.Join(hashed, ", "), in.sql)
	} else {
		in.sql = strings.Replace(in.sql, " AS c,", " AS c, "+id+" AS id,", 1)
	}
	return in, nil
}

// columns gives the types of a table's columns by their names in lower case, for so
// DuckDB finds them.
func (j *job) columns(ctx context.Context, from string) (map[string]string, error) {
	names, types, err := duck.Columns(ctx, j.conn, from)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for i, name := range names {
		found[strings.ToLower(name)] = types[i]
	}
	return found, nil
}

// explain says which object it was that DuckDB could not read. It looks at each by
// itself, for DuckDB does not always say.
func (j *job) explain(ctx context.Context, in *input, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if duck.TooMuch(err) {
		return j.failed(err)
	}
	kind := fault.Invalid
	if in.src.Path == "" {
		kind = fault.Internal // nobody but the system writes logs
	}
	for _, f := range in.files {
		if len(f.objects) != 1 {
			continue // it was joined here
		}
		if _, hurt := j.number(ctx, "SELECT count(hash(t)) FROM read_parquet("+duck.Quote(f.paths[0])+", hive_partitioning = false) t"); hurt != nil {
			return unreadable(kind, hurt, f.objects[0].Key, in.src)
		}
	}
	return fault.Wrap(kind, err, "the files of source %q are not what its definition says: %s", in.src.Name, j.reason(err))
}

func unreadable(kind fault.Kind, err error, key string, src *feature.CompiledSource) error {
	return fault.Wrap(kind, err, "the file %q of source %q can't be read as Parquet", key, src.Name)
}

// failed is an error of a statement that no file is to blame for.
func (j *job) failed(err error) error {
	if duck.TooMuch(err) {
		return fault.Wrap(fault.Overloaded, err, "the work does not fit into OFFLINE_MEMORY or onto the disk of OFFLINE_DIR")
	}
	return err
}

// reason is DuckDB's first sentence of an error.
func (j *job) reason(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	s = strings.NewReplacer(j.dir+"/", "", j.Store.dir+"/", "").Replace(s) // where files lie here is nobody's business
	if len(s) > 300 {
		s = s[:300]
	}
	return s
}

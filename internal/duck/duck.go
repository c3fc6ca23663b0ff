// Package duck runs SQL in the process, by DuckDB, within limits: of memory, beyond which it spills, of
// disk, and of what it may see. It knows how our types are written in SQL, and reads the files that DuckDB writes.
package duck

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Config bounds a database.
type Config struct {
	Memory int64  // bytes of data before it spills
	Spill  string // the folder for that
	Disk   int64  // bytes that lie there at most; 0: what there is
}

// Open makes a database in memory, whose clock is UTC and which fetches no extensions. Close it.
func Open(ctx context.Context, c Config) (*sql.DB, error) {
	connector, err := duckdb.NewConnector("", nil)
	if err != nil {
		return nil, fmt.Errorf("start DuckDB: %w", err)
	}
	db := sql.OpenDB(connector)
	set := []string{
		fmt.Sprintf("SET memory_limit = '%dB'", c.Memory),
		"SET temp_directory = " + Quote(c.Spill),
		fmt.Sprintf("SET threads = %d", runtime.GOMAXPROCS(0)),
		"SET GLOBAL TimeZone = 'UTC'",
		"SET autoinstall_known_extensions = false",
		"SET autoload_known_extensions = false",
	}
	if c.Disk > 0 {
		set = append(set, fmt.Sprintf("SET max_temp_directory_size = '%dB'", c.Disk))
	}
	return db, configure(ctx, db, set...)
}

// configure sets what a database goes by, and closes it if it can't.
func configure(ctx context.Context, db *sql.DB, set ...string) error {
	for _, s := range set {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return errors.Join(fmt.Errorf("start DuckDB: %s: %w", s, err), db.Close())
		}
	}
	return nil
}

// Lock has no statement change any setting from now on.
func Lock(ctx context.Context, db *sql.DB) error {
	return configure(ctx, db, "SET lock_configuration = true")
}

// Seal is Lock for SQL of strangers: it sees no file but those in one folder, and no network.
func Seal(ctx context.Context, db *sql.DB, folder string) error {
	return configure(ctx, db, "SET allowed_directories = ["+Quote(folder+"/")+"]", "SET enable_external_access = false", "SET lock_configuration = true")
}

// Quote writes a text as SQL.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Ident writes a name as SQL.
func Ident(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// Temporary are the options of COPY for files that are read again at once. (No lz4_raw: parquet-go 0.32 reads large
// pages of it wrong.)
const Temporary = " (FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 40960)"

// Message is DuckDB's own text of an error of its; of others it is empty.
func Message(err error) string {
	var d *duckdb.Error
	if !errors.As(err, &d) {
		return ""
	}
	return d.Msg
}

// TooMuch tells that a statement needs more memory or disk than there is.
func TooMuch(err error) bool {
	var d *duckdb.Error
	return errors.As(err, &d) && (d.Type == duckdb.ErrorTypeOutOfMemory || strings.Contains(d.Msg, "No space left"))
}

// Columns gives the names and types of a table's or a query's columns, in order. From is what stands behind FROM.
func Columns(ctx context.Context, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, from string,
) (names, types []string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM "+from+")")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			return nil, nil, err
		}
		names, types = append(names, name), append(types, typ)
	}
	return names, types, rows.Err()
}

var types = map[row.Type]string{
	row.Bool: "BOOLEAN", row.Int32: "INTEGER", row.Int64: "BIGINT", row.Float32: "FLOAT", row.Float64: "DOUBLE",
	row.String: "VARCHAR", row.Bytes: "BLOB", row.Timestamp: "BIGINT",
}

// Type is the type in DuckDB that a row.Type has here: timestamps are microseconds.
func Type(t row.Type) string {
	if t.IsList() {
		return types[t.Elem()] + "[]"
	}
	return types[t]
}

// Cast reads a column of DuckDB's type have as a type of ours.
func Cast(column, have string, t row.Type) string {
	switch {
	case t == row.ListOf(row.Timestamp):
		return fmt.Sprintf("list_transform(CAST(%s AS TIMESTAMPTZ[]), lambda x: epoch_us(x))", column)
	case t.Integer() && (have == "FLOAT" || have == "DOUBLE" || strings.HasPrefix(have, "DECIMAL")):
		return fmt.Sprintf("CASE WHEN isnan(%[1]s) THEN NULL WHEN %[1]s = trunc(%[1]s) OR %[1]s IS NULL THEN CAST(%[1]s AS %[2]s) ELSE error('%[3]s is asked for, and there is ' || %[1]s) END", column, Type(t), t)
	case t != row.Timestamp:
		return fmt.Sprintf("CAST(%s AS %s)", column, Type(t))
	}
	switch have {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE":
		return fmt.Sprintf("CAST(round(%s * 1e6) AS BIGINT)", column) // seconds, as row.ParseJSON has it
	}
	return fmt.Sprintf("epoch_us(CAST(%s AS TIMESTAMPTZ))", column)
}

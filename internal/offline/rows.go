package offline

import (
	"errors"
	"io"
	"iter"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Rows reads columns of a Parquet file as DuckDB writes them: the values of a row, one for each column, of its type or null, which are
// valid until the next one. A page of each column is in memory. A file that is none, or has other columns, is Invalid.
func Rows(path string, columns []row.Field) iter.Seq2[[]row.Value, error] {
	return func(yield func([]row.Value, error) bool) {
		var s *duck.Scan
		values := make([]row.Value, len(columns))
		// parquet-go panics at what it does not expect.
		open := fault.Guard(func() (err error) { s, err = duck.OpenScan(path, columns); return err })
		next := fault.Guard(func() error { return s.Next(values) })
		err := open()
		if err == nil {
			defer s.Close()
		}
		for err == nil {
			if err = next(); err == nil && !yield(values, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, fault.Wrap(fault.Invalid, err, "the rows can't be read as Parquet"))
		}
	}
}

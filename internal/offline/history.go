package offline

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// History writes the rows of a source that are of a moment and later (zero: all), each once, as Parquet: columns are the source's fields,
// under their names. Memory does not grow with the rows.
func (s *Store) History(ctx context.Context, src *feature.CompiledSource, from time.Time, w io.Writer) error {
	least := int64(math.MinInt64)
	if !from.IsZero() {
		least = from.UnixMicro()
	}
	j, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	in, err := j.since(ctx, src, max(least, earliest))
	if err != nil {
		return err
	}
	var named, none []string
	for i, f := range src.Fields {
		column := fmt.Sprintf("c%d", i)
		none = append(none, fmt.Sprintf("CAST(NULL AS %s) AS %s", duck.Type(f.Type), column))
		switch f.Type {
		case row.Timestamp:
			column = "CAST(make_timestamp(" + column + ") AS TIMESTAMPTZ)"
		case row.ListOf(row.Timestamp):
			column = "list_transform(" + column + ", lambda x: CAST(make_timestamp(x) AS TIMESTAMPTZ))"
		}
		named = append(named, column+" AS "+duck.Ident(f.Name))
	}
	rows := "SELECT 0 AS e, 0 AS c, 0 AS id, " + strings.Join(none, ", ") + " WHERE false"
	if in.sql != "" {
		if rows, err = j.unique(ctx, in); err != nil {
			return err
		}
		rows = "SELECT DISTINCT ON (e, c, id) * FROM (" + rows + ")" // the same row may lie in two files
	}
	path := filepath.Join(j.dir, "history")
	if err := j.exec(ctx, "COPY (SELECT ", strings.Join(named, ", "), " FROM (", rows, ") WHERE e >= ", fmt.Sprint(least), ") TO ", duck.Quote(path), duck.Temporary); err != nil {
		return j.explain(ctx, in, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

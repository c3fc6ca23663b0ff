package offline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/snappy"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// joint joins Parquet files that are small enough for memory: those with the same columns
// become one, in any order of their rows. It is safe for concurrent use.
type joint struct {
	folder string
	mu     sync.Mutex
	made   []*made
}

// made is one file that a joint makes.
type made struct {
	schema *parquet.Schema
	file   *os.File
	w      *parquet.GenericWriter[any]
	rows   int64 // of the row group
}

// damaged is of an object that is not what was written.
type damaged struct {
	key string
	err error
}

func (d *damaged) Error() string { return fmt.Sprintf("%q is damaged: %s", d.key, d.err) }
func (d *damaged) Unwrap() error { return d.err }

// groupRows is how many rows a row group has at least, unless it is the last.
const groupRows = 40960

// add takes the rows of a file, which is known to be what a writer of ours wrote: at others parquet-go may
// take any memory. After an error the joint is of no use.
func (j *joint) add(data []byte) error {
	return fault.Guard(func() error { return j.take(data) })() // parquet-go panics at what it does not expect
}

func (j *joint) take(data []byte) error {
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	to, err := j.of(f.Schema())
	if err != nil {
		return err
	}
	out := to.w.ColumnWriters()
	for _, group := range f.RowGroups() {
		for i, chunk := range group.ColumnChunks() {
			n, err := copyColumn(out[i], chunk)
			if err == nil && n != group.NumRows() {
				err = fmt.Errorf("column %d has %d rows of %d", i, n, group.NumRows())
			}
			if err != nil {
				return err
			}
		}
		if to.rows += group.NumRows(); to.rows >= groupRows {
			to.rows = 0
			if err := to.w.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyColumn copies the values of a column, and tells of how many rows they are.
func copyColumn(to *parquet.ColumnWriter, from parquet.ColumnChunk) (rows int64, err error) {
	pages := from.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		values := make([]parquet.Value, page.NumValues())
		n, err := page.Values().ReadValues(values)
		if err == nil || errors.Is(err, io.EOF) {
			var more int
			more, err = to.WriteRowValues(values[:n])
			rows += int64(more)
		}
		parquet.Release(page)
		if err != nil {
			return rows, err
		}
	}
}

// of gives the file that rows of a schema go into; the caller holds mu.
func (j *joint) of(schema *parquet.Schema) (*made, error) {
	for _, m := range j.made {
		if parquet.EqualNodes(m.schema, schema) {
			return m, nil
		}
	}
	file, err := os.Create(filepath.Join(j.folder, fmt.Sprintf("%d.parquet", len(j.made))))
	if err != nil {
		return nil, err
	}
	m := &made{schema: schema, file: file, w: parquet.NewGenericWriter[any](file, schema, parquet.Compression(&snappy.Codec{}), parquet.DataPageStatistics(false))}
	j.made = append(j.made, m)
	return m, nil
}

// close ends the files, and gives where they lie and what they take on the disk.
func (j *joint) close() (paths []string, size int64, err error) {
	for _, m := range j.made {
		if err := m.w.Close(); err != nil {
			return nil, 0, err
		}
		info, err := m.file.Stat()
		if err != nil {
			return nil, 0, err
		}
		paths, size = append(paths, m.file.Name()), size+info.Size()
	}
	for _, m := range j.made {
		if err := m.file.Close(); err != nil {
			return nil, 0, err
		}
	}
	return paths, size, nil
}

// abort lets go of the files; they are the caller's to remove.
func (j *joint) abort() {
	for _, m := range j.made {
		_ = m.file.Close()
	}
}

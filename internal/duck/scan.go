package duck

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/parquet-go/parquet-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Scan reads rows of a Parquet file that DuckDB wrote, one after another, with
// a page of each column in memory. It is for one goroutine.
type Scan struct {
	file   *os.File
	groups []parquet.RowGroup
	left   int64 // rows of the group
	at     []int // where the columns lie in a group
	cols   []cursor
}

// OpenScan opens a file for the columns that are named, each of a type.
func OpenScan(path string, columns []row.Field) (_ *Scan, err error) {
	s := &Scan{}
	if s.file, err = os.Open(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.file.Close()
		}
	}()
	info, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	f, err := parquet.OpenFile(s.file, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.SkipMagicBytes(true))
	if err != nil {
		return nil, err
	}
	s.groups = f.RowGroups()
	for _, c := range columns {
		top := f.Root().Column(c.Name)
		if top == nil {
			return nil, fmt.Errorf("there is no column %q", c.Name)
		}
		for !top.Leaf() {
			top = top.Columns()[0]
		}
		if have, want := top.Type().Kind(), kinds[c.Type.Elem()]; have != want {
			return nil, fmt.Errorf("the column %q is of %s, not %s", c.Name, have, want)
		}
		s.at = append(s.at, top.Index())
		s.cols = append(s.cols, cursor{typ: c.Type, full: top.MaxDefinitionLevel(), texts: map[string]string{}})
	}
	return s, nil
}

// kinds are how values lie in Parquet.
var kinds = map[row.Type]parquet.Kind{
	row.Bool: parquet.Boolean, row.Int32: parquet.Int32, row.Int64: parquet.Int64, row.Float32: parquet.Float, row.Float64: parquet.Double,
	row.String: parquet.ByteArray, row.Bytes: parquet.ByteArray, row.Timestamp: parquet.Int64,
}

// Next reads a row into values: one for each column. After the last it is io.EOF.
func (s *Scan) Next(values []row.Value) error {
	for s.left == 0 {
		s.closePages()
		if len(s.groups) == 0 {
			return io.EOF
		}
		chunks := s.groups[0].ColumnChunks()
		s.left = s.groups[0].NumRows()
		s.groups = s.groups[1:]
		for i := range s.cols {
			s.cols[i].pages = chunks[s.at[i]].Pages()
		}
	}
	s.left--
	for i := range s.cols {
		var err error
		if values[i], err = s.cols[i].next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (s *Scan) closePages() {
	for i := range s.cols {
		s.cols[i].close()
	}
}

// Close lets go of the file.
func (s *Scan) Close() {
	s.closePages()
	_ = s.file.Close()
}

// cursor stands in a column.
type cursor struct {
	typ   row.Type
	full  int // definition level of a value that is there
	pages parquet.Pages
	page  parquet.Page
	from  parquet.ValueReader
	buf   [256]parquet.Value
	have  []parquet.Value   // of buf
	texts map[string]string // so that many equal ones are one
}

func (c *cursor) close() {
	if c.page != nil {
		parquet.Release(c.page)
		c.page = nil
	}
	if c.pages != nil {
		_ = c.pages.Close()
		c.pages = nil
	}
	c.have = nil
}

// peek gives the next value of the column, whichever row it is of.
func (c *cursor) peek() (*parquet.Value, error) {
	for len(c.have) == 0 {
		if c.page == nil {
			page, err := c.pages.ReadPage()
			if err != nil {
				return nil, err
			}
			c.page, c.from = page, page.Values()
		}
		n, err := c.from.ReadValues(c.buf[:])
		c.have = c.buf[:n]
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case n == 0:
			parquet.Release(c.page)
			c.page = nil
		}
	}
	return &c.have[0], nil
}

func (c *cursor) next() (row.Value, error) {
	v, err := c.peek()
	if err != nil {
		return row.Value{}, err
	}
	if !c.typ.IsList() {
		c.have = c.have[1:]
		if v.IsNull() {
			return row.Value{}, nil
		}
		return c.value(v), nil
	}
	c.have = c.have[1:]
	switch v.DefinitionLevel() {
	case 0:
		return row.Value{}, nil
	case 1:
		return row.OfList(c.typ.Elem(), []row.Value{}...), nil
	}
	list := []row.Value{}
	for {
		if v.DefinitionLevel() < c.full {
			return row.Value{}, fault.New(fault.Invalid, "a list has a null among its elements")
		}
		list = append(list, c.value(v))
		if v, err = c.peek(); errors.Is(err, io.EOF) {
			break // of the row group
		} else if err != nil {
			return row.Value{}, err
		}
		if v.RepetitionLevel() == 0 {
			break
		}
		c.have = c.have[1:]
	}
	return row.OfList(c.typ.Elem(), list...), nil
}

func (c *cursor) value(v *parquet.Value) row.Value {
	switch c.typ.Elem() {
	case row.Bool:
		return row.OfBool(v.Boolean())
	case row.Int32:
		return row.OfInt32(v.Int32())
	case row.Float32:
		return row.OfFloat32(v.Float())
	case row.Float64:
		return row.OfFloat64(v.Double())
	case row.String:
		return row.OfString(c.text(v.ByteArray()))
	case row.Bytes:
		return row.OfBytes(v.ByteArray())
	case row.Timestamp:
		return row.OfMicros(v.Int64())
	}
	return row.OfInt64(v.Int64())
}

// text copies b, unless it was seen of late.
func (c *cursor) text(b []byte) string {
	if s, ok := c.texts[string(b)]; ok {
		return s
	}
	if len(c.texts) >= 1024 {
		clear(c.texts)
	}
	s := string(b)
	c.texts[s] = s
	return s
}

// Package segment writes the offline log of a source: Parquet objects in the
// bucket, each of the rows that came together and are of one day.
//
// A log lies under Prefix(source) as
//
//	date=2013-07-04/<created>-<hash>.parquet
//
// where date is the day of the rows' event times in UTC, created the earliest of their
// created times in microseconds, and hash that of the object's bytes: the same rows
// written twice are one object. An object has the source's fields as columns,
// and Event, Created and ID. Reading, and joining small objects, is
// internal/offline's; this package is pure Go and small, so that every function
// can write.
package segment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// The columns that each object has beside the source's fields.
const (
	Event   = "_event"   // timestamp: the time that the row is of
	Created = "_created" // timestamp: when it was known
	ID      = "_id"      // unsigned: equal for the same row
)

const root = "features/log/"

// Prefix is where the log of a source lies in the bucket.
func Prefix(source string) string { return root + source + "/" }

// Day is the partition of a row: the day in UTC that its event time, in
// microseconds since 1970, lies in.
func Day(event int64) string { return time.UnixMicro(event).UTC().Format(time.DateOnly) }

// Key is where an object with those bytes lies.
func Key(source, day string, created int64, hash []byte) string {
	return Prefix(source) + "date=" + day + "/" + Name(created, hash)
}

// Name is the last part of Key: when the object's rows were known, and what it holds.
func Name(created int64, hash []byte) string {
	return fmt.Sprintf("%016d-%s.parquet", max(created, 0), hex.EncodeToString(hash[:16]))
}

// Intact tells whether an object's bytes are those that its Key was made of.
func Intact(key string, data []byte) bool {
	sum := sha256.Sum256(data)
	return strings.HasSuffix(key, "-"+hex.EncodeToString(sum[:16])+".parquet")
}

// Row is one row of a source; feature.Row converts to it.
type Row struct {
	Values  []row.Value // one for each field, of its type or null
	Event   int64       // in microseconds since 1970
	Created int64       // in microseconds since 1970
	ID      uint64
}

// Log writes the rows of one source. It is safe for concurrent use.
type Log struct {
	blob   store.Blob
	source string
	shape  *Shape
}

// Shape is how rows of some fields lie in a file. It is safe for concurrent use.
type Shape struct {
	fields  int
	columns []column
	schema  *parquet.Schema
}

// column is one column of an object, in the order that Parquet has them in.
type column struct {
	name  string
	field int // where it lies in Row.Values, or one of the following
	typ   row.Type
}

const (
	ofEvent = -1 - iota
	ofCreated
	ofID
)

// NewLog gives the log of a source. Fields are those of the source in the order of
// Row.Values; names that this package gives its own columns are Invalid.
func NewLog(blob store.Blob, source string, fields []row.Field) (*Log, error) {
	if err := store.CheckKey(Prefix(source) + "x"); err != nil || strings.Contains(source, "/") {
		return nil, fault.New(fault.Invalid, "the source's name %.80q can't be part of a key", source)
	}
	shape, err := NewShape(fields)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", source, err)
	}
	return &Log{blob, source, shape}, nil
}

// NewShape gives the shape of rows with those fields as their values, in order. Names
// that stand twice, or are those of this package's own columns, are Invalid.
func NewShape(fields []row.Field) (*Shape, error) {
	s := &Shape{fields: len(fields), columns: []column{{Event, ofEvent, row.Timestamp}, {Created, ofCreated, row.Timestamp}, {ID, ofID, 0}}}
	for i, f := range fields {
		s.columns = append(s.columns, column{f.Name, i, f.Type})
	}
	slices.SortFunc(s.columns, func(a, b column) int { return strings.Compare(a.name, b.name) }) // as Group has it
	group := parquet.Group{}
	for i, c := range s.columns {
		if i > 0 && c.name == s.columns[i-1].name {
			return nil, fault.New(fault.Invalid, "the field %q is there twice or has the name of a column that each log has", c.name)
		}
		group[c.name] = c.node()
	}
	s.schema = parquet.NewSchema("row", group)
	return s, nil
}

func (c column) node() parquet.Node {
	switch c.field {
	case ofEvent, ofCreated:
		return parquet.Timestamp(parquet.Microsecond)
	case ofID:
		return parquet.Uint(64)
	}
	n := leaf(c.typ.Elem())
	if c.typ.IsList() {
		n = parquet.List(n)
	}
	return parquet.Optional(n)
}

func leaf(t row.Type) parquet.Node {
	switch t {
	case row.Bool:
		return parquet.Leaf(parquet.BooleanType)
	case row.Int32:
		return parquet.Int(32)
	case row.Int64:
		return parquet.Int(64)
	case row.Float32:
		return parquet.Leaf(parquet.FloatType)
	case row.Float64:
		return parquet.Leaf(parquet.DoubleType)
	case row.String:
		return parquet.String()
	case row.Timestamp:
		return parquet.Timestamp(parquet.Microsecond)
	}
	return parquet.Leaf(parquet.ByteArrayType)
}

// Append writes rows, and gives the keys of the objects that hold them: one for each
// day. When it returns without an error all of them are durable; with one, some
// may be, and Append of the same rows is the way on. Values are read until it returns.
func (l *Log) Append(ctx context.Context, rows iter.Seq[Row]) (keys []string, err error) {
	const day = 24 * 60 * 60 * 1e6
	days := map[int64][]Row{}
	for r := range rows {
		d := r.Event / day
		if r.Event%day < 0 {
			d--
		}
		days[d] = append(days[d], r)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for _, of := range days {
		var data bytes.Buffer
		w := l.shape.Writer(&data)
		err := w.Write(of)
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			_ = group.Wait()
			return nil, fmt.Errorf("write a segment of %q: %w", l.source, err)
		}
		created := slices.MinFunc(of, func(a, b Row) int { return int(max(min(a.Created-b.Created, 1), -1)) }).Created
		sum := sha256.Sum256(data.Bytes())
		key := Key(l.source, Day(of[0].Event), created, sum[:])
		keys = append(keys, key)
		group.Go(fault.Guard(func() error {
			return Keep(ctx, l.blob, key, data.Bytes())
		}))
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(keys)
	return keys, nil
}

// Keep writes an object whose key says what it holds: that it is there already is as well.
func Keep(ctx context.Context, blob store.Blob, key string, data []byte) error {
	_, err := blob.Put(ctx, key, bytes.NewReader(data), int64(len(data)), store.IfAbsent())
	if err != nil && !fault.Is(err, fault.Conflict) {
		return fmt.Errorf("write %q: %w", key, err)
	}
	return nil
}

// groupRows is how many rows a row group has: what DuckDB reads in parallel.
const groupRows = 122880

// codec keeps its encoders for reuse.
var codec = &zstd.Codec{Level: zstd.SpeedFastest}

// Writer writes one file. It is for one goroutine.
type Writer struct {
	shape  *Shape
	w      *parquet.GenericWriter[any]
	values []parquet.Value
	rows   int // of the row group
}

// Writer begins a file. (One for many files would be nice; but after Reset,
// parquet-go 0.32 writes columns without their names.)
func (s *Shape) Writer(to io.Writer) *Writer {
	return &Writer{shape: s, w: parquet.NewGenericWriter[any](to, s.schema, parquet.Compression(codec), parquet.DataPageStatistics(false), parquet.WriteBufferSize(0))}
}

// Write adds rows. Their values are copied.
func (w *Writer) Write(rows []Row) error {
	for i := range rows {
		if n := len(rows[i].Values); n != w.shape.fields {
			return fault.New(fault.Internal, "a row has %d values for %d fields", n, w.shape.fields)
		}
	}
	for part := range slices.Chunk(rows, 1024) {
		if w.values == nil {
			w.values = make([]parquet.Value, 0, len(part))
		}
		for i, out := range w.w.ColumnWriters() {
			var err error
			if w.values, err = w.shape.columns[i].take(w.values[:0], part, i); err != nil {
				return err
			}
			if _, err = out.WriteRowValues(w.values); err != nil {
				return err
			}
		}
		if w.rows += len(part); w.rows >= groupRows {
			w.rows = 0
			if err := w.w.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close writes what is left and the end of the file. It does not close what is written to.
func (w *Writer) Close() error { return w.w.Close() }

// take appends one column's values of rows to dst. An optional value has definition level 1, an
// element of a list 2; the second and later ones of a list repeat at level 1.
func (c column) take(dst []parquet.Value, rows []Row, at int) ([]parquet.Value, error) {
	switch c.field {
	case ofEvent:
		for i := range rows {
			dst = append(dst, parquet.Int64Value(rows[i].Event).Level(0, 0, at))
		}
		return dst, nil
	case ofCreated:
		for i := range rows {
			dst = append(dst, parquet.Int64Value(rows[i].Created).Level(0, 0, at))
		}
		return dst, nil
	case ofID:
		for i := range rows {
			dst = append(dst, parquet.Int64Value(int64(rows[i].ID)).Level(0, 0, at))
		}
		return dst, nil
	}
	for i := range rows {
		v := rows[i].Values[c.field]
		switch {
		case v.Null():
			dst = append(dst, parquet.NullValue().Level(0, 0, at))
		case v.Type() != c.typ:
			return nil, fault.New(fault.Internal, "field %q: a value is of type %s, not %s", c.name, v.Type(), c.typ)
		case !c.typ.IsList():
			dst = append(dst, value(v).Level(0, 1, at))
		case len(v.List()) == 0:
			dst = append(dst, parquet.NullValue().Level(0, 1, at))
		default:
			for j, e := range v.List() {
				dst = append(dst, value(e).Level(min(j, 1), 2, at))
			}
		}
	}
	return dst, nil
}

func value(v row.Value) parquet.Value {
	switch v.Type() {
	case row.Bool:
		return parquet.BooleanValue(v.Bool())
	case row.Int32:
		return parquet.Int32Value(int32(v.Int()))
	case row.Float32:
		return parquet.FloatValue(float32(v.Float()))
	case row.Float64:
		return parquet.DoubleValue(v.Float())
	case row.String, row.Bytes:
		s := v.Text()
		return parquet.ByteArrayValue(unsafe.Slice(unsafe.StringData(s), len(s))) // nobody writes to it
	}
	return parquet.Int64Value(v.Int())
}

// Read gives the rows of a file that NewShape's Writer wrote, as T has their columns by its parquet tags, in batches that are the
// caller's until the next one. What is no such file is Invalid; see Intact first, for of a damaged one the reader may take any memory.
func Read[T any](data []byte, each func([]T) error) error {
	return fault.Guard(func() (err error) { // parquet-go panics at what it does not expect
		f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
		if err != nil {
			return fault.Wrap(fault.Invalid, err, "the segment is not Parquet")
		}
		r := parquet.NewGenericReader[T](f)
		defer func() { err = errors.Join(err, r.Close()) }()
		rows := make([]T, max(1, min(1024, f.NumRows()))) // the reader makes room for as many values as it is asked for
		for {
			n, err := r.Read(rows)
			if n > 0 {
				if err := each(rows[:n]); err != nil {
					return err
				}
				clear(rows[:n])
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fault.Wrap(fault.Invalid, err, "the segment can't be read")
			}
		}
	})()
}

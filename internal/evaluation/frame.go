package evaluation

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// frame is a Parquet file in memory.
type frame struct {
	what    string // for messages
	rows    int
	columns map[string]*column
}

// column is the values of a column, of whichever sort.
type column struct {
	texts   []string
	whole   []int64 // booleans, too; of times, microseconds
	numbers []float64
	single  bool // the numbers are of single precision
	null    []bool
}

// rowsMost is how many rows a frame may have.
const rowsMost = 10 << 20

// readFrame reads the named columns of a file; nil: all.
func readFrame(what, path string, names []string) (f *frame, err error) {
	err = fault.Guard(func() error { // parquet-go panics at what it does not expect
		f, err = read(what, path, names)
		return err
	})()
	if err != nil && !fault.Is(err, fault.Invalid) {
		return nil, fault.Wrap(fault.Invalid, err, "the file %s can't be read as Parquet", what)
	}
	return f, err
}

func read(what, path string, names []string) (*frame, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	p, err := parquet.OpenFile(file, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, err
	}
	if p.NumRows() > rowsMost {
		return nil, fault.New(fault.Invalid, "the file %s has %d rows, expected %d at most", what, p.NumRows(), rowsMost)
	}
	if names == nil {
		for _, c := range p.Root().Columns() {
			names = append(names, c.Name())
		}
	}
	f := &frame{what: what, rows: int(p.NumRows()), columns: map[string]*column{}}
	for _, name := range names {
		from := p.Root().Column(name)
		switch {
		case from == nil:
			return nil, fault.New(fault.Invalid, "the file %s has no column %q", what, name)
		case !from.Leaf() || from.Repeated():
			return nil, fault.New(fault.Invalid, "the column %q of the file %s is a list or a group, expected one value a row", name, what)
		}
		c := newColumn(from, f.rows)
		for _, group := range p.RowGroups() {
			if err := c.read(from, group.ColumnChunks()[from.Index()]); err != nil {
				return nil, fmt.Errorf("column %q: %w", name, err)
			}
		}
		if len(c.null) != f.rows {
			return nil, fault.New(fault.Invalid, "the column %q of the file %s has %d values in %d rows", name, what, len(c.null), f.rows)
		}
		f.columns[name] = c
	}
	return f, nil
}

func newColumn(from *parquet.Column, rows int) *column {
	rows = min(rows, 1<<16) // what the file says there are may not be there
	c := &column{null: make([]bool, 0, rows)}
	switch from.Type().Kind() {
	case parquet.ByteArray, parquet.FixedLenByteArray:
		c.texts = make([]string, 0, rows)
	case parquet.Float, parquet.Double:
		c.numbers = make([]float64, 0, rows)
		c.single = from.Type().Kind() == parquet.Float
	default:
		c.whole = make([]int64, 0, rows)
	}
	return c
}

// read adds the values of a chunk.
func (c *column) read(from *parquet.Column, chunk parquet.ColumnChunk) error {
	pages := chunk.Pages()
	defer pages.Close()
	per := microsecondsOf(from)
	known := map[string]string{} // one of each text is kept
	var buffer [256]parquet.Value
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		values := page.Values()
		for {
			n, err := values.ReadValues(buffer[:])
			for i := range n {
				c.add(&buffer[i], per, known)
			}
			if errors.Is(err, io.EOF) || err == nil && n == 0 {
				break
			}
			if err != nil {
				parquet.Release(page)
				return err
			}
		}
		parquet.Release(page)
	}
}

func (c *column) add(v *parquet.Value, per func(int64) int64, known map[string]string) {
	c.null = append(c.null, v.IsNull())
	switch {
	case c.texts != nil:
		text, found := known[string(v.ByteArray())]
		if !found {
			text = string(v.ByteArray())
			known[text] = text
		}
		c.texts = append(c.texts, text)
	case c.numbers != nil && v.IsNull():
		c.numbers = append(c.numbers, math.NaN())
	case c.numbers != nil && v.Kind() == parquet.Float:
		c.numbers = append(c.numbers, float64(v.Float()))
	case c.numbers != nil:
		c.numbers = append(c.numbers, v.Double())
	case v.Kind() == parquet.Boolean:
		n := int64(0)
		if v.Boolean() {
			n = 1
		}
		c.whole = append(c.whole, n)
	case v.Kind() == parquet.Int32:
		c.whole = append(c.whole, per(int64(v.Int32())))
	default:
		c.whole = append(c.whole, per(v.Int64()))
	}
}

// microsecondsOf is how numbers of a column of times are made microseconds; of others they stay.
func microsecondsOf(c *parquet.Column) func(int64) int64 {
	if l := c.Type().LogicalType(); l != nil {
		if t, ok := l.Value.(*format.TimestampType); ok && t.Unit.Value != nil {
			unit := t.Unit.Value.Duration()
			return func(n int64) int64 {
				if unit >= time.Microsecond {
					return n * int64(unit/time.Microsecond)
				}
				return n / int64(time.Microsecond/unit)
			}
		}
	}
	return func(n int64) int64 { return n }
}

// get gives a column that has to be there.
func (f *frame) get(name, why string) (*column, error) {
	c := f.columns[name]
	if c == nil {
		return nil, fault.New(fault.Invalid, "the file %s has no column %q, %s", f.what, name, why)
	}
	return c, nil
}

// text is a value as a slice shows it.
func (c *column) text(i int) string {
	switch {
	case c.null[i]:
		return "(none)"
	case c.texts != nil:
		return c.texts[i]
	case c.single:
		return strconv.FormatFloat(c.numbers[i], 'g', -1, 32)
	case c.numbers != nil:
		return strconv.FormatFloat(c.numbers[i], 'g', -1, 64)
	}
	return strconv.FormatInt(c.whole[i], 10)
}

// number is a value as a number; false: it is none.
func (c *column) number(i int) (float64, bool) {
	switch {
	case c.null[i] || c.texts != nil:
		return 0, false
	case c.numbers != nil:
		return c.numbers[i], true
	}
	return float64(c.whole[i]), true
}

// hasNaN tells whether a missing value can be said to an input of a type: by NaN.
func hasNaN(t tensor.Type) bool { return t == tensor.FP32 || t == tensor.FP64 }

// tensor makes an input of rows, all of which have a value or a word for none.
func (c *column) tensor(spec tensor.Spec, rows []int) (tensor.Tensor, error) {
	shape := []int64{int64(len(rows))}
	for _, d := range spec.Shape[min(1, len(spec.Shape)):] {
		if d != 1 && d != -1 {
			return tensor.Tensor{}, fault.New(fault.Invalid, "the input %q takes %s, expected one value a row", spec.Name, tensor.FormatShape(spec.Shape))
		}
		shape = append(shape, 1)
	}
	if spec.Type == tensor.Bytes {
		texts := make([]string, len(rows))
		for i, r := range rows {
			if c.texts == nil {
				return tensor.Tensor{}, c.unfit(spec)
			}
			texts[i] = c.texts[r]
		}
		return tensor.OfStrings(spec.Name, shape, texts), nil
	}
	if c.texts != nil {
		return tensor.Tensor{}, c.unfit(spec)
	}
	switch spec.Type {
	case tensor.Bool:
		bits := make([]bool, len(rows))
		for i, r := range rows {
			n, _ := c.number(r)
			bits[i] = n != 0
		}
		return tensor.Of(spec.Name, shape, bits), nil
	case tensor.FP32:
		return fill[float32](c, spec, shape, rows)
	case tensor.FP64:
		return fill[float64](c, spec, shape, rows)
	case tensor.Int64:
		return fill[int64](c, spec, shape, rows)
	case tensor.Int32:
		return fill[int32](c, spec, shape, rows)
	case tensor.Int16:
		return fill[int16](c, spec, shape, rows)
	case tensor.Int8:
		return fill[int8](c, spec, shape, rows)
	case tensor.Uint64:
		return fill[uint64](c, spec, shape, rows)
	case tensor.Uint32:
		return fill[uint32](c, spec, shape, rows)
	case tensor.Uint16:
		return fill[uint16](c, spec, shape, rows)
	case tensor.Uint8:
		return fill[uint8](c, spec, shape, rows)
	}
	return tensor.Tensor{}, c.unfit(spec)
}

func (c *column) unfit(spec tensor.Spec) error {
	return fault.New(fault.Invalid, "the column of the input %q does not hold what %s takes", spec.Name, spec.Type)
}

func fill[T float32 | float64 | int64 | int32 | int16 | int8 | uint64 | uint32 | uint16 | uint8](c *column, spec tensor.Spec, shape []int64, rows []int) (tensor.Tensor, error) {
	values := make([]T, len(rows))
	for i, r := range rows {
		if c.whole != nil {
			values[i] = T(c.whole[r])
			if back := int64(values[i]); back != c.whole[r] && !hasNaN(spec.Type) && !c.null[r] {
				return tensor.Tensor{}, c.unfit(spec)
			}
			if c.null[r] && hasNaN(spec.Type) {
				nan := math.NaN()
				values[i] = T(nan)
			}
			continue
		}
		values[i] = T(c.numbers[r])
		if !hasNaN(spec.Type) && float64(values[i]) != c.numbers[r] {
			return tensor.Tensor{}, c.unfit(spec)
		}
	}
	return tensor.Of(spec.Name, shape, values), nil
}

package drift

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"unique"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// SampleRows is how many rows of the training data a Profile's counts are of at most. Of more
// rows it is a uniform sample, the same one each time.
const SampleRows = 100_000

// Field is a column that a Builder takes: of texts, or of numbers.
type Field struct {
	Name string
	Text bool
}

// Value is a value of a row: Number, Text, or the zero Value where it is missing.
type Value struct {
	number float64
	text   string
	is     uint8
}

const (
	isNumber = 1 + iota
	isText
)

// Number gives a number; one that is not finite is missing.
func Number(f float64) Value { return Value{number: f, is: isNumber} }

// Text gives a text.
func Text(s string) Value { return Value{text: s, is: isText} }

// Builder makes a Profile in one pass over rows. It holds a sample of SampleRows rows (Vitter,
// "Random sampling with a reservoir", 1985, algorithm R), and knows of all of them how many
// values were missing, and the range.
type Builder struct {
	rows    uint64
	random  *rand.Rand
	columns []building
}

type building struct {
	field    Field
	missing  uint64
	min, max float64
	numbers  []float64               // of the sample; NaN: missing
	texts    []unique.Handle[string] // of the sample; zero: missing
}

// NewBuilder begins a profile of those columns. Names are checked by Profile.
func NewBuilder(fields []Field) *Builder {
	b := &Builder{random: rand.New(rand.NewPCG(1985, 11))}
	for _, f := range fields {
		b.columns = append(b.columns, building{field: f, min: math.Inf(1), max: math.Inf(-1)})
	}
	return b
}

// Add takes a row: a value for each column. A value of the other sort than its column is
// missing. Another number of values is Invalid.
func (b *Builder) Add(row []Value) error {
	if len(row) != len(b.columns) {
		return fault.New(fault.Invalid, "a row has %d values for %d columns", len(row), len(b.columns))
	}
	at := b.slot()
	for i, v := range row {
		switch c := &b.columns[i]; {
		case v.is == isText && c.field.Text:
			c.addText(at, v.text)
		case v.is == isNumber && !c.field.Text:
			c.addNumber(at, v.number)
		default:
			c.addMissing(at)
		}
	}
	return nil
}

// slot counts a row, and says where it goes in the sample; -1: nowhere.
func (b *Builder) slot() int {
	b.rows++
	if b.rows <= SampleRows {
		return int(b.rows - 1)
	}
	if at := b.random.Uint64N(b.rows); at < SampleRows {
		return int(at)
	}
	return -1
}

func (c *building) addNumber(at int, f float64) {
	if f-f != 0 {
		c.addMissing(at)
		return
	}
	f += 0 // there is one zero
	c.min, c.max = min(c.min, f), max(c.max, f)
	c.numbers = put(c.numbers, at, f)
}

func (c *building) addText(at int, s string) {
	if at >= 0 {
		c.texts = put(c.texts, at, unique.Make(string(appendName(nil, s))))
	}
}

func (c *building) addMissing(at int) {
	c.missing++
	if c.field.Text {
		c.texts = put(c.texts, at, unique.Handle[string]{})
	} else {
		c.numbers = put(c.numbers, at, math.NaN())
	}
}

func put[T any](sample []T, at int, v T) []T {
	switch {
	case at < 0:
	case at == len(sample):
		sample = append(sample, v)
	default:
		sample[at] = v
	}
	return sample
}

// Profile gives the profile of the rows so far. What is wrong with the columns' names is
// Invalid. The builder can take more rows afterwards.
func (b *Builder) Profile() (*Profile, error) {
	columns := make([]Column, len(b.columns))
	for i := range b.columns {
		c := &b.columns[i]
		if columns[i] = (Column{Name: c.field.Name, Missing: c.missing}); c.field.Text {
			c.categories(&columns[i], b.rows)
		} else {
			c.bins(&columns[i], b.rows)
		}
	}
	return newProfile(b.rows, columns)
}

// bins says how the numbers of the sample lie.
func (c *building) bins(to *Column, rows uint64) {
	to.Kind = Numeric
	sorted := slices.DeleteFunc(slices.Clone(c.numbers), math.IsNaN)
	if len(sorted) == 0 {
		// Where the sample has no value, the few that others have say nothing.
		to.Missing = rows
		return
	}
	slices.Sort(sorted)
	values, counts := runs(sorted)
	switch {
	case len(values) <= MaxDiscrete:
		to.Kind, to.Min, to.Edges, to.Counts = Discrete, values[0], values, counts
		for _, n := range counts {
			if n == 1 {
				to.Single++
			}
		}
		return
	case len(values) <= MaxBins:
		to.Edges, to.Counts = values, counts
	default:
		for bins := MaxBins; ; bins /= 2 {
			if to.Edges, to.Counts = quantiles(values, counts, float64(len(sorted))/float64(bins)); len(to.Edges) <= MaxBins {
				break
			}
		}
	}
	to.Min = c.min
	to.Edges[len(to.Edges)-1] = c.max
}

// runs gives the values that differ, and how many there are of each.
func runs(sorted []float64) (values []float64, counts []uint64) {
	for _, f := range sorted {
		if n := len(values); n == 0 || values[n-1] != f {
			values, counts = append(values, f), append(counts, 0)
		}
		counts[len(counts)-1]++
	}
	return values, counts
}

// quantiles joins values to bins of about size. A value that fills a bin alone has one of
// its own, so that shares of zeros, defaults and caps are not blurred. There are less than
// twice as many bins as are of that size: each of the smaller ones comes before a full one.
func quantiles(values []float64, of []uint64, size float64) (edges []float64, counts []uint64) {
	var have uint64
	for i, n := range of {
		if have > 0 && float64(n) >= size {
			edges, counts, have = append(edges, values[i-1]), append(counts, have), 0
		}
		have += n
		if float64(have) >= size || i == len(of)-1 {
			edges, counts, have = append(edges, values[i]), append(counts, have), 0
		}
	}
	return edges, counts
}

// categories counts the texts of the sample. Where there are too many to list, those that
// are listed are chosen by one half of the sample and counted in the other: chosen and
// counted in the same, rare ones would seem more frequent than they are, and each window
// would seem to have drifted.
func (c *building) categories(to *Column, rows uint64) {
	to.Kind = Categorical
	all, half := map[unique.Handle[string]]uint64{}, map[unique.Handle[string]]uint64{}
	coin := rand.New(rand.NewPCG(uint64(len(c.texts)), 2))
	for _, t := range c.texts {
		heads := coin.Uint64()&1 == 0
		if t == (unique.Handle[string]{}) {
			continue
		}
		all[t]++
		if heads {
			half[t]++
		}
	}
	if len(all) == 0 {
		to.Missing = rows
		return
	}
	by := all
	if len(all) > MaxCategories {
		by = half
	}
	listed := slices.SortedFunc(maps.Keys(all), func(a, b unique.Handle[string]) int {
		return cmp.Or(cmp.Compare(by[b], by[a]), cmp.Compare(a.Value(), b.Value()))
	})
	for i, t := range listed {
		n := all[t]
		if len(all) > MaxCategories {
			n -= half[t]
		} else if n == 1 {
			to.Single++
		}
		if i < MaxCategories {
			to.Categories, to.Counts = append(to.Categories, t.Value()), append(to.Counts, n)
		} else {
			to.Other += n
		}
	}
	if len(all) > MaxCategories {
		to.Other = max(to.Other, 1) // there are others, even if that half has none of them
	}
}

// FromParquet makes a Profile of a file's columns of bools, numbers and strings: of those that
// are named, or of all of them. Bools are the numbers 0 and 1. Other columns, such as times and
// lists, are passed over; to name one is Invalid, as is a column that is not there, and a file
// that can't be read. The file should be of a writer that is trusted: at others, reading
// Parquet may take any memory.
func FromParquet(file io.ReaderAt, size int64, columns []string) (p *Profile, err error) {
	guarded := fault.Guard(func() error { // parquet-go panics at what it does not expect
		p, err = fromParquet(file, size, columns)
		return err
	})
	if err := guarded(); err != nil {
		if fault.Is(err, fault.Invalid) {
			return nil, err
		}
		return nil, fault.Wrap(fault.Invalid, err, "the file can't be read as Parquet")
	}
	return p, nil
}

func fromParquet(file io.ReaderAt, size int64, columns []string) (*Profile, error) {
	f, err := parquet.OpenFile(file, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, err
	}
	named := len(columns) > 0
	if !named {
		for _, c := range f.Root().Columns() {
			columns = append(columns, c.Name())
		}
	}
	var fields []Field
	var cursors []cursor
	for _, name := range columns {
		c := f.Root().Column(name)
		if c == nil {
			return nil, fault.New(fault.Invalid, "the file has no column %q", name)
		}
		kind, ok := readable(c)
		if ok {
			fields = append(fields, Field{name, kind == parquet.ByteArray})
			cursors = append(cursors, cursor{at: c.Index(), kind: kind, unsigned: unsigned(c)})
		} else if named {
			return nil, fault.New(fault.Invalid, "column %q of the file has no bools, numbers or strings", name)
		}
	}
	b := NewBuilder(fields)
	var slots [1024]int
	for _, group := range f.RowGroups() {
		chunks := group.ColumnChunks()
		for i := range cursors {
			cursors[i].pages = chunks[cursors[i].at].Pages()
		}
		for left := group.NumRows(); left > 0 && err == nil; left -= int64(len(slots)) {
			part := slots[:min(left, int64(len(slots)))]
			for i := range part {
				part[i] = b.slot()
			}
			for i := range cursors {
				if err = cursors[i].read(part, &b.columns[i]); err != nil {
					break
				}
			}
		}
		for i := range cursors {
			cursors[i].close()
		}
		if err != nil {
			return nil, err
		}
	}
	return b.Profile()
}

// readable tells how a column's values lie, if they are flat and of a type that is profiled.
func readable(c *parquet.Column) (parquet.Kind, bool) {
	if !c.Leaf() || c.Repeated() {
		return 0, false
	}
	kind := c.Type().Kind()
	var logical format.LogicalTypeValue
	if l := c.Type().LogicalType(); l != nil {
		logical = l.Value
	}
	switch logical.(type) {
	case nil, *format.StringType, *format.EnumType, *format.IntType:
	default:
		return 0, false
	}
	return kind, kind != parquet.Int96 && kind != parquet.FixedLenByteArray
}

func unsigned(c *parquet.Column) bool {
	l := c.Type().LogicalType()
	if l == nil {
		return false
	}
	t, ok := l.Value.(*format.IntType)
	return ok && !t.IsSigned
}

// cursor stands in a column of a file.
type cursor struct {
	at       int
	kind     parquet.Kind
	unsigned bool
	pages    parquet.Pages
	page     parquet.Page
	from     parquet.ValueReader
	buffer   [256]parquet.Value
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
}

// read takes a value for each slot.
func (c *cursor) read(slots []int, to *building) error {
	for len(slots) > 0 {
		if c.page == nil {
			page, err := c.pages.ReadPage()
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			} else if err != nil {
				return err
			}
			c.page, c.from = page, page.Values()
		}
		n, err := c.from.ReadValues(c.buffer[:min(len(slots), len(c.buffer))])
		for i := range n {
			c.take(&c.buffer[i], slots[i], to)
		}
		slots = slots[n:]
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case err != nil || n == 0:
			parquet.Release(c.page)
			c.page = nil
		}
	}
	return nil
}

func (c *cursor) take(v *parquet.Value, slot int, to *building) {
	switch {
	case v.IsNull():
		to.addMissing(slot)
	case c.kind == parquet.ByteArray:
		if slot >= 0 {
			to.addText(slot, string(v.ByteArray()))
		}
	case c.kind == parquet.Boolean:
		f := 0.0
		if v.Boolean() {
			f = 1
		}
		to.addNumber(slot, f)
	case c.kind == parquet.Float:
		// As texts write it, 9.20624 and not 9.206239700317383: else it lies on another side of a bin's edge than the same value in JSON.
		f, _ := strconv.ParseFloat(strconv.FormatFloat(float64(v.Float()), 'g', -1, 32), 64) // what was written can be read
		to.addNumber(slot, f)
	case c.kind == parquet.Double:
		to.addNumber(slot, v.Double())
	case c.unsigned && c.kind == parquet.Int32:
		to.addNumber(slot, float64(v.Uint32()))
	case c.unsigned:
		to.addNumber(slot, float64(v.Uint64()))
	case c.kind == parquet.Int32:
		to.addNumber(slot, float64(v.Int32()))
	default:
		to.addNumber(slot, float64(v.Int64()))
	}
}

package train

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// table is labelled rows in memory, by columns.
type table struct {
	numbers [][]float64 // NaN where it is missing
	texts   []texts
	labels  []float64 // of classes their places; -1: of one that is not among them
	n       int
}

// texts is a column of texts.
type texts struct {
	at    []int32 // where each is among words; -1 where it is missing
	words []string
}

// tableMost is how many values a table may have: of 8 bytes, mostly.
const tableMost = 200_000_000

// read brings a file of a dataset, with so many rows, into memory.
func read(ctx context.Context, d *Dataset, path string, rows int64) (*table, error) {
	t := &table{}
	var fields []row.Field
	var index []map[string]int32
	for _, in := range d.Inputs {
		fields = append(fields, row.Field{Name: in.Name, Type: types[in.Type]})
		if in.Type == tensor.Bytes {
			t.texts, index = append(t.texts, texts{}), append(index, map[string]int32{})
		} else {
			t.numbers = append(t.numbers, make([]float64, 0, rows))
		}
	}
	label := row.Field{Name: d.Label, Type: row.Float64}
	if d.Task == quality.Multiclass {
		label.Type = row.String
	}
	fields = append(fields, label)
	if most := int64(tableMost / len(fields)); rows > most {
		return nil, fault.New(fault.Invalid, "%d rows of %d inputs are more than a built-in trainer takes into memory; with.sample: %d of the training set makes them fewer", rows, len(d.Inputs), most)
	}
	for values, err := range offline.Rows(path, fields) {
		if err != nil {
			return nil, err
		}
		if t.n++; t.n%8192 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		number, text := 0, 0
		for i, v := range values[:len(d.Inputs)] {
			switch {
			case fields[i].Type == row.String:
				t.texts[text].add(index[text], v)
				text++
				continue
			case v.Null():
				t.numbers[number] = append(t.numbers[number], math.NaN())
			default:
				t.numbers[number] = append(t.numbers[number], v.Float())
			}
			number++
		}
		v := values[len(d.Inputs)]
		if v.Null() {
			return nil, fault.New(fault.Invalid, "row %d has no label", t.n)
		}
		if label.Type == row.String {
			at, ok := slices.BinarySearch(d.Classes, v.Text())
			if !ok {
				at = -1
			}
			t.labels = append(t.labels, float64(at))
			continue
		}
		t.labels = append(t.labels, v.Float())
	}
	return t, nil
}

func (t *texts) add(index map[string]int32, v row.Value) {
	if v.Null() {
		t.at = append(t.at, -1)
		return
	}
	at, ok := index[v.Text()]
	if !ok {
		at = int32(len(t.words))
		index[v.Text()] = at
		t.words = append(t.words, v.Text())
	}
	t.at = append(t.at, at)
}

// encoding is how inputs become what weights are multiplied with: of each number what it is, standardised, and whether it is missing;
// of each text which of the words it is.
type encoding struct {
	below   float64 // numbers below it are missing; -Inf: none
	numbers []number
	texts   []words
	width   int // how many weights there are, without that of all rows
}

// number is how a column of numbers is encoded: missing ones are the mean, and others are no further out than any that was learnt from.
type number struct{ mean, scale, low, high float64 }

// words is how a column of texts is encoded: the place behind first of a word that is among them, or first itself.
type words struct {
	first int
	words []string
}

// wordsMost is how many words of a column are told apart: the most frequent ones.
const wordsMost = 1000

// learn makes an encoding of a table. Words that are there less often than least are as good as unknown.
func (t *table) learn(below float64, least int) *encoding {
	e := &encoding{below: below, width: 2 * len(t.numbers)}
	for _, column := range t.numbers {
		e.numbers = append(e.numbers, measure(column, below))
	}
	for _, column := range t.texts {
		counts := make([]int, len(column.words))
		for _, at := range column.at {
			if at >= 0 {
				counts[at]++
			}
		}
		var places []int
		for at, count := range counts {
			if count >= least {
				places = append(places, at)
			}
		}
		slices.SortFunc(places, func(a, b int) int {
			return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(column.words[a], column.words[b]))
		})
		w := words{first: e.width}
		for _, at := range places[:min(len(places), wordsMost)] {
			w.words = append(w.words, column.words[at])
		}
		slices.Sort(w.words)
		e.texts = append(e.texts, w)
		e.width += 1 + len(w.words)
	}
	return e
}

// missing tells whether a number says nothing.
func (e *encoding) missing(x float64) bool { return math.IsNaN(x) || x < e.below }

// measure finds the mean and the standard deviation of a column. One that can't be reckoned with counts for nothing.
func measure(column []float64, below float64) number {
	low, high, n := math.Inf(1), math.Inf(-1), 0.0
	for _, x := range column {
		if !math.IsNaN(x) && !math.IsInf(x, 0) && x >= below {
			low, high = min(low, x), max(high, x)
			n++
		}
	}
	if n == 0 || math.Abs(low) > 1e100 || math.Abs(high) > 1e100 {
		return number{scale: 1}
	}
	sum, square := 0.0, 0.0
	for _, x := range column {
		if !math.IsNaN(x) && !math.IsInf(x, 0) && x >= below {
			sum += x - low
		}
	}
	mean := min(low+sum/n, high)
	for _, x := range column {
		if !math.IsNaN(x) && !math.IsInf(x, 0) && x >= below {
			square += (x - mean) * (x - mean)
		}
	}
	scale := math.Sqrt(square / n)
	if !(scale > 1e-12*max(1e-200, math.Abs(mean))) { // it is the same everywhere
		scale = 1
	}
	return number{mean, scale, low, high}
}

// encoded is a table in numbers.
type encoded struct {
	e       *encoding
	numbers []float64 // by rows: standardised, NaN where it is missing
	places  []int32   // by rows: of each text that of its weight
	labels  []float64
	n       int
}

// encode gives all rows as the encoding has them.
func (e *encoding) encode(t *table) *encoded {
	out := &encoded{e: e, labels: t.labels, n: t.n, numbers: make([]float64, t.n*len(t.numbers)), places: make([]int32, t.n*len(t.texts))}
	for j, column := range t.numbers {
		c := e.numbers[j]
		for i, x := range column {
			z := math.NaN()
			if !e.missing(x) {
				z = (min(max(x, c.low), c.high) - c.mean) / c.scale
			}
			out.numbers[i*len(t.numbers)+j] = z
		}
	}
	for j, column := range t.texts {
		c := e.texts[j]
		of := make([]int32, len(column.words))
		for k, word := range column.words {
			of[k] = int32(c.first)
			if at, ok := slices.BinarySearch(c.words, word); ok {
				of[k] = int32(c.first + 1 + at)
			}
		}
		for i, at := range column.at {
			place := int32(c.first)
			if at >= 0 {
				place = of[at]
			}
			out.places[i*len(t.texts)+j] = place
		}
	}
	return out
}

// part gives the rows from one on and before another.
func (d *encoded) part(from, until int) *encoded {
	p := *d
	w, v := len(d.e.numbers), len(d.e.texts)
	p.numbers, p.places, p.labels, p.n = d.numbers[from*w:until*w], d.places[from*v:until*v], d.labels[from:until], until-from
	return &p
}

// some gives at most so many rows, spread evenly.
func (d *encoded) some(most int) *encoded {
	if d.n <= most {
		return d
	}
	p := &encoded{e: d.e, n: most}
	w, v := len(d.e.numbers), len(d.e.texts)
	for k := range most {
		i := int(int64(k) * int64(d.n) / int64(most))
		p.numbers, p.places, p.labels = append(p.numbers, d.numbers[i*w:(i+1)*w]...), append(p.places, d.places[i*v:(i+1)*v]...), append(p.labels, d.labels[i])
	}
	return p
}

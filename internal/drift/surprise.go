package drift

import (
	"math"
	"sort"
	"strconv"
)

// Surprise tells how little training knew a value of a column: the negative logarithm of the share of its values that were
// the same or, of a numeric column, as far out on either side (interpolated within bins); beyond the range of training it goes on growing with the distance,
// in ranges. What there is none of counts as if one more row had had it. Values of different columns are not to be compared.
func (p *Profile) Surprise(column int, v Value) float64 {
	c := &p.columns[column]
	switch number := v.is == isNumber && v.number-v.number == 0; {
	case number && c.Kind == Numeric && len(c.Edges) > 0:
		return c.tail(v.number)
	case number && c.Kind == Discrete:
		if at := sort.SearchFloat64s(c.Edges, v.number); at < len(c.Edges) && c.Edges[at] == v.number {
			return rarity(float64(c.Counts[at]), c.present)
		}
		return rarity(0, c.present)
	case number && c.Kind == Categorical:
		var buffer [32]byte
		return c.rarityOf(strconv.AppendFloat(buffer[:0], v.number+0, 'g', -1, 64))
	case v.is == isText && c.Kind == Categorical:
		var buffer [MaxName]byte
		return c.rarityOf(appendName(buffer[:0], v.text))
	}
	return rarity(float64(c.Missing), c.of(p.rows))
}

// rarity is the surprise of what so many of all rows had.
func rarity(of float64, all uint64) float64 {
	return -math.Log(min((of+1)/(float64(all)+1), 1))
}

func (c *Column) rarityOf(name []byte) float64 {
	if at, known := c.lookup[string(name)]; known {
		return rarity(float64(c.Counts[at]), c.present)
	}
	return rarity(0, c.present)
}

// tail is the surprise of a number in a numeric column with bins.
func (c *Column) tail(f float64) float64 {
	low, high := c.Min, c.Max()
	out := max(low-f, f-high)
	if out > 0 {
		return rarity(0, c.present) + math.Log1p(out/max(high-low, math.SmallestNonzeroFloat64))
	}
	at := min(sort.SearchFloat64s(c.Edges, f), len(c.Edges)-1) // the bin that has it
	if at > 0 {
		low = c.Edges[at-1]
	}
	below := float64(sum(c.Counts[:at]))
	if width := c.Edges[at] - low; width > 0 {
		below += float64(c.Counts[at]) * (f - low) / width
	}
	return rarity(2*min(below, float64(c.present)-below), c.present)
}

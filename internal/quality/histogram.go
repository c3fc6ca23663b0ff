package quality

import (
	"math"
	"slices"
)

// histogram counts values by bin. Only bins that were used are kept, in order;
// counts may be negative, in a state that takes back what another has.
type histogram []bin

type bin struct {
	at uint16
	n  int64
}

func (h *histogram) add(at uint16, n int64) {
	i, found := slices.BinarySearchFunc(*h, at, func(b bin, at uint16) int { return int(b.at) - int(at) })
	if !found {
		*h = slices.Insert(*h, i, bin{at: at})
	}
	(*h)[i].n += n
}

func (h *histogram) merge(o histogram) {
	i := 0
	for _, b := range o {
		for i < len(*h) && (*h)[i].at < b.at {
			i++
		}
		if i == len(*h) || (*h)[i].at > b.at {
			*h = slices.Insert(*h, i, bin{at: b.at})
		}
		(*h)[i].n += b.n
	}
}

func (h histogram) total() (n int64) {
	for _, b := range h {
		n += b.n
	}
	return n
}

// quantile gives the value that q of the values do not exceed, taking those of a bin
// as evenly spread over it. There is one value at least.
func (h histogram) quantile(q float64) float64 {
	rank := q * float64(h.total())
	last := 0.0
	for _, b := range h {
		if b.n <= 0 {
			continue
		}
		low, high := logEdges(b.at)
		if rank <= float64(b.n) {
			return low + (high-low)*max(rank, 0)/float64(b.n)
		}
		rank -= float64(b.n)
		last = high
	}
	return last
}

// The bins of values that may be of any size: 32 in each power of two, so that what a
// quantile says is within some 3 % (Masson, Rim and Lee 2019, DDSketch, have the idea;
// even bins within a power of two are those of HdrHistogram).
const (
	octave  = 32
	lowest  = -64 // what is below 2^-64 is 0
	highest = 64  // what is above 2^64 is in the last bin
	logBins = 1 + (highest-lowest)*octave
)

func logBin(v float64) uint16 {
	f, e := math.Frexp(v) // v = f·2^e, f in [0.5, 1)
	switch e--; {
	case v <= 0 || e < lowest:
		return 0
	case e >= highest:
		return logBins - 1
	}
	return uint16(1 + (e-lowest)*octave + int((2*f-1)*octave))
}

func logEdges(at uint16) (low, high float64) {
	if at == 0 {
		return 0, 0
	}
	e, i := int(at-1)/octave, int(at-1)%octave
	return math.Ldexp(1+float64(i)/octave, e+lowest), math.Ldexp(1+float64(i+1)/octave, e+lowest)
}

// The bins of scores: as wide as 1/1024 where scores are between 1/32 and 31/32, and
// 32 in each power of two outside, down to 2^-20 from either end. So the many scores
// near 0 of what is rare, or near 1 of what is sure, are told apart as well.
const (
	sideBins  = 1 + 15*octave + 480
	scoreBins = 2 * sideBins
)

func scoreBin(p float64) uint16 {
	if p >= 0.5 {
		return scoreBins - 1 - sideBin(1-p)
	}
	return sideBin(p)
}

func sideBin(p float64) uint16 {
	switch {
	case p >= 1.0/32:
		return uint16(min(15*octave+1+int(p*1024)-32, sideBins-1))
	case p < 1.0/(1<<20):
		return 0
	}
	f, e := math.Frexp(p)
	return uint16(1 + (e-1+20)*octave + int((2*f-1)*octave))
}

// scoreMiddle is the score in the middle of a bin.
func scoreMiddle(at int) float64 {
	if at >= sideBins {
		return 1 - scoreMiddle(scoreBins-1-at)
	}
	switch i := at - 1; {
	case at == 0:
		return 1.0 / (1 << 21)
	case i < 15*octave:
		return math.Ldexp(1+(float64(i%octave)+0.5)/octave, i/octave-20)
	default:
		return (float64(i-15*octave) + 32.5) / 1024
	}
}

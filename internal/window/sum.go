package window

import (
	"math"
	"math/bits"
	"slices"
)

// sum adds numbers exactly, so that it doesn't matter in what order they come. It is
// a fixed point number that could hold any float64, of which only the words between
// the lowest and the highest that are used are kept.
//
// words[i] counts multiples of 2^(32·(low+i-unit)), and may be of any sign. Adding a
// number changes a word by less than 2^32. A pane adds at most MaxRows = 2^16 numbers,
// and a window merges at most some MaxPanes = 2^12 panes: words stay below 2^61, and
// nothing is carried before the sum is read.
type sum struct {
	low         int
	words       []int64
	plus, minus bool // an infinity was added
}

const (
	unit     = 34 // the word of whole numbers; 2^-1074, the smallest float64, is in word 0
	maxWords = 70 // 2^1023 is in word 65; carries go above
)

func (s *sum) reset() { *s = sum{words: s.words[:0]} }

func (s *sum) addFloat(f float64) {
	if math.IsInf(f, 0) {
		s.plus, s.minus = s.plus || f > 0, s.minus || f < 0
		return
	}
	b := math.Float64bits(f)
	exponent, m := int(b>>52&0x7ff), b&(1<<52-1)
	if exponent == 0 {
		exponent = 1 // subnormal
	} else {
		m |= 1 << 52
	}
	position := exponent - 1075 + 32*unit // of m's lowest bit
	i, shift := position/32, position%32
	s.add(i, m<<shift, m>>(64-shift), f < 0)
}

func (s *sum) addInt(n int64) {
	m := uint64(n)
	if n < 0 {
		m = -m
	}
	s.add(unit, m, 0, n < 0)
}

func (s *sum) add(i int, low, high uint64, negative bool) {
	for _, part := range [3]int64{int64(low & math.MaxUint32), int64(low >> 32), int64(high)} {
		if part != 0 {
			if negative {
				part = -part
			}
			*s.word(i) += part
		}
		i++
	}
}

// word gives word i, which is made where there is none.
func (s *sum) word(i int) *int64 {
	if len(s.words) == 0 {
		s.low = i
	}
	for i < s.low {
		s.words = slices.Insert(s.words, 0, 0)
		s.low--
	}
	for i >= s.low+len(s.words) {
		s.words = append(s.words, 0)
	}
	return &s.words[i-s.low]
}

func (s *sum) merge(o *sum) {
	s.plus, s.minus = s.plus || o.plus, s.minus || o.minus
	for i, w := range o.words {
		if w != 0 {
			*s.word(o.low + i) += w
		}
	}
}

// magnitude is the sum in the one form that each number has: a sign, and words
// that are neither negative nor too large, the first and last of them not 0.
func (s *sum) magnitude(buffer *[maxWords]uint32) (negative bool, low int, words []uint32) {
	words = buffer[:0]
	carry := int64(0)
	for _, w := range s.words {
		w += carry
		words = append(words, uint32(w))
		carry = w >> 32
	}
	for ; carry != 0 && carry != -1; carry >>= 32 {
		words = append(words, uint32(carry))
	}
	if negative = carry < 0; negative {
		words = append(words, math.MaxUint32)
		borrow := uint32(1)
		for i, w := range words {
			words[i], borrow = bits.Add32(^w, 0, borrow)
		}
	}
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	for low = s.low; len(words) > 0 && words[0] == 0; low++ {
		words = words[1:]
	}
	if len(words) == 0 {
		low = 0
	}
	return negative, low, words
}

// float is the float64 that is nearest to the sum; of two, the even one.
func (s *sum) float() float64 {
	switch {
	case s.plus && s.minus:
		return math.NaN()
	case s.plus:
		return math.Inf(1)
	case s.minus:
		return math.Inf(-1)
	}
	var buffer [maxWords]uint32
	negative, low, words := s.magnitude(&buffer)
	n := len(words)
	if n == 0 {
		return 0
	}
	// The highest 64 bits, of which the last also stands for all below: the conversion
	// then rounds as if it saw them. What is too small for 53 bits (subnormal) has fewer
	// and is not rounded, as sums of float64s are multiples of 2^-1074.
	at := func(i int) uint64 {
		if i < 0 {
			return 0
		}
		return uint64(words[i])
	}
	top := at(n-1)<<32 | at(n-2)
	z := bits.LeadingZeros64(top)
	below := at(n-3) << z
	top = top<<z | below>>32
	if uint32(below) != 0 || n > 3 {
		top |= 1
	}
	f := math.Ldexp(float64(top), 32*(low+n-2-unit)-z)
	if negative {
		return -f
	}
	return f
}

// int is the int64 that is nearest to the sum, which is one of integers.
func (s *sum) int() int64 {
	var buffer [maxWords]uint32
	negative, low, words := s.magnitude(&buffer)
	m := uint64(0)
	for i, w := range words {
		if low+i > unit+1 {
			m = math.MaxUint64
			break
		}
		m |= uint64(w) << (32 * (low + i - unit))
	}
	switch {
	case negative && m > 1<<63:
		return math.MinInt64
	case negative:
		return -int64(m)
	}
	return int64(min(m, math.MaxInt64))
}

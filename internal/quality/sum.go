package quality

import (
	"math"
	"math/big"
	"slices"
)

// sum adds numbers exactly, so that what is taken away again leaves nothing behind,
// however large it was, and so that it doesn't matter in what order states merge.
// It is a fixed point number that could hold any float64, of which only the words
// between the lowest and the highest that are used are kept.
//
// words[i] counts multiples of 2^(32·(low+i-unit)), and may be of any sign. Adding a
// number changes a word by less than 2^32, so carries can wait for maxAdds of them.
type sum struct {
	low   int
	words []int64
	adds  uint32 // since the last carry
}

const (
	unit     = 34 // the word of whole numbers; 2^-1074, the smallest float64, is in word 0
	maxWords = 70 // 2^1023 is in word 65; carries go above
	maxAdds  = 1 << 29
)

// add adds f, which is finite.
func (s *sum) add(f float64) {
	b := math.Float64bits(f)
	exponent, m := int(b>>52&0x7ff), b&(1<<52-1)
	if exponent == 0 {
		exponent = 1 // subnormal
	} else {
		m |= 1 << 52
	}
	position := exponent - 1075 + 32*unit // of m's lowest bit
	i, shift := position/32, position%32
	low, high := m<<shift, m>>(64-shift)
	for _, part := range [3]int64{int64(low & math.MaxUint32), int64(low >> 32), int64(high)} {
		if part != 0 {
			if f < 0 {
				part = -part
			}
			*s.word(i) += part
		}
		i++
	}
	if s.adds++; s.adds == maxAdds {
		s.carry()
	}
}

// addTwo adds a number that is told by two.
func (s *sum) addTwo(t two) {
	s.add(t.high)
	s.add(t.low)
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
	if s.adds+o.adds >= maxAdds {
		s.carry()
	}
	for i, w := range o.words {
		if w != 0 {
			*s.word(o.low + i) += w
		}
	}
	s.adds += o.adds + 1 // o's words were below 2^32 after its last carry, as one number's are
	if s.adds >= maxAdds {
		s.carry()
	}
}

// carry brings the sum into the one form that each number has: all words of one
// sign and of less than 2^32, the first and the last of them not 0.
func (s *sum) carry() {
	s.adds = 0
	carry := int64(0)
	for i, w := range s.words {
		w += carry
		s.words[i], carry = w&math.MaxUint32, w>>32
	}
	for ; carry != 0 && carry != -1; carry >>= 32 {
		s.words = append(s.words, carry&math.MaxUint32)
	}
	if carry == -1 { // what is there is too much by one of the word above
		borrow := int64(1)
		for i, w := range s.words {
			w = w ^ math.MaxUint32 + borrow
			s.words[i], borrow = -(w & math.MaxUint32), w>>32
		}
		if borrow != 0 {
			s.words = append(s.words, -borrow)
		}
	}
	for n := len(s.words); n > 0 && s.words[n-1] == 0; n-- {
		s.words = s.words[:n-1]
	}
	zeros := 0
	for zeros < len(s.words) && s.words[zeros] == 0 {
		zeros++
	}
	s.words = slices.Delete(s.words, 0, zeros)
	if s.low += zeros; len(s.words) == 0 {
		s.low = 0
	}
}

// float is the sum to within a unit in the last place.
func (s *sum) float() float64 {
	s.carry()
	f := 0.0
	for i := len(s.words) - 1; i >= max(0, len(s.words)-3); i-- {
		f += math.Ldexp(float64(s.words[i]), 32*(s.low+i-unit))
	}
	return f
}

// number is the sum as a number of as many digits as it takes to subtract sums
// of fourth powers that are nearly equal.
func (s *sum) number() *big.Float {
	s.carry()
	n := wide(0)
	for i, w := range s.words {
		term := wide(float64(w))
		n.Add(n, term.SetMantExp(term, 32*(s.low+i-unit)))
	}
	return n
}

func wide(f float64) *big.Float { return new(big.Float).SetPrec(512).SetFloat64(f) }

// two is a number told by two floats, the second of them what the first lacks.
type two struct{ high, low float64 }

// times multiplies to within some 2^-104 of the product (Dekker 1971, with the fused
// multiply-add that gives what rounding took).
func (t two) times(o two) two {
	high := t.high * o.high
	return two{high, math.FMA(t.high, o.high, -high) + (t.high*o.low + t.low*o.high)}
}

package jsonwire

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// The readers in this file take the numbers that occur in practice, quickly and
// exactly. For anything else (odd, long, malformed, or within a few bytes of the
// text's end) they give a negative end, and the caller takes the complete and
// slower way, which also words the errors.

// tens holds the powers of ten that fit 64 bits.
var tens = [20]uint64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
	1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
}

// exactTens holds the powers of ten that a float64 holds exactly.
var exactTens = [23]float64{
	1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// maxDigits is how many decimal digits always fit 64 bits.
const maxDigits = 19

// eightDigits gives the value and the number of the digits that the eight bytes
// w (little-endian: first byte lowest) start with. It has no branches: digits of
// varying number are what would make a loop slow.
func eightDigits(w uint64) (value uint64, n int) {
	w ^= '0' * eachByte
	n = bits.TrailingZeros64((w+(0x80-10)*eachByte|w)&eachHigh) / 8
	w <<= uint(64-8*n) & 127 // leading zeroes for those that are missing
	w = (w*10 + w>>8) & 0x00ff00ff00ff00ff
	w = (w*100 + w>>16) & 0x0000ffff0000ffff
	w = (w*10000 + w>>32) & 0xffffffff
	return w, n
}

// integerAt reads the integer at b[p:]. What follows it, the caller checks.
func integerAt(b []byte, p int) (magnitude uint64, negative bool, end int) {
	if p < len(b) && b[p] == '-' {
		negative = true
		p++
	}
	start := p
	for {
		if p+8 > len(b) {
			return 0, false, -1
		}
		v, n := eightDigits(binary.LittleEndian.Uint64(b[p:]))
		p += n
		if p-start > maxDigits {
			return 0, false, -1
		}
		magnitude = magnitude*tens[n] + v
		if n < 8 {
			break
		}
	}
	if n := p - start; n != 1 && (n == 0 || b[start] == '0') {
		return 0, false, -1
	}
	return magnitude, negative, p
}

// decimalAt reads the number at b[p:] as mantissa times ten to the exponent;
// sign is 1 for a negative one.
func decimalAt(b []byte, p int) (mantissa uint64, exponent int, sign uint64, end int) {
	if p+8 > len(b) {
		return 0, 0, 0, -1
	}
	if b[p] == '-' {
		sign = 1
	}
	p += int(sign)
	start := p
	mantissa = uint64(b[p] - '0')
	if mantissa > 9 {
		return 0, 0, 0, -1
	}
	p++
	if b[p]-'0' <= 9 {
		if mantissa == 0 {
			return 0, 0, 0, -1
		}
		for p < len(b) && b[p]-'0' <= 9 && p-start < maxDigits {
			mantissa = mantissa*10 + uint64(b[p]-'0')
			p++
		}
	}
	if p < len(b) && b[p] == '.' {
		p++
		point := p
		for {
			if p+8 > len(b) {
				return 0, 0, 0, -1
			}
			v, n := eightDigits(binary.LittleEndian.Uint64(b[p:]))
			p += n
			if mantissa >= tens[maxDigits-n] {
				return 0, 0, 0, -1
			}
			mantissa = mantissa*tens[n] + v
			if n < 8 {
				break
			}
		}
		if p == point {
			return 0, 0, 0, -1
		}
		exponent = point - p
	}
	if p < len(b) && b[p]|' ' == 'e' {
		p++
		if p+5 > len(b) {
			return 0, 0, 0, -1
		}
		negative := b[p] == '-'
		if negative || b[p] == '+' {
			p++
		}
		from, e := p, 0
		for p < from+3 && b[p]-'0' <= 9 {
			e = e*10 + int(b[p]-'0')
			p++
		}
		if p == from {
			return 0, 0, 0, -1
		}
		if negative {
			e = -e
		}
		exponent += e
	}
	if p >= len(b) || b[p]-'0' <= 9 {
		return 0, 0, 0, -1 // digits left over: too many for the fast way
	}
	return mantissa, exponent, sign, p
}

// float64At reads the number at b[p:] as the bits of the nearest float64.
func float64At(b []byte, p int) (value uint64, end int) {
	m, e, sign, end := decimalAt(b, p)
	if end < 0 {
		return 0, end
	}
	if m <= 1<<53 && -22 <= e && e <= 22 {
		// Both sides are exact, so this rounds once.
		return math.Float64bits(scale(m, e)) | sign<<63, end
	}
	value, ok := nearest(m, e, 52, 1023)
	if !ok {
		return 0, -1
	}
	return value | sign<<63, end
}

// float32At reads the number at b[p:] as the bits of the nearest float32.
func float32At(b []byte, p int) (value uint32, end int) {
	m, e, sign, end := decimalAt(b, p)
	if end < 0 {
		return 0, end
	}
	if m <= 1<<53 && -22 <= e && e <= 22 {
		// The float64 is rounded once, and rounding never moves a number across a
		// float64. The borders where a float32 rounds up or down are float64s, so
		// unless f lies on one, f rounds to the same float32 as the number itself.
		// These exponents keep f where float32s are normal.
		f := scale(m, e)
		if math.Float64bits(f)&(1<<29-1) != 1<<28 {
			return math.Float32bits(float32(f)) | uint32(sign)<<31, end
		}
	}
	wide, ok := nearest(m, e, 23, 127)
	if !ok {
		return 0, -1
	}
	return uint32(wide) | uint32(sign)<<31, end
}

// scale computes m * 10^e for m up to 2^53 and e within ±22, rounded once.
func scale(m uint64, e int) float64 {
	f := float64(int64(m))
	if e < 0 {
		return f / exactTens[-e]
	}
	return f * exactTens[e]
}

// nearest gives the bits of the float nearest to m * 10^e, for a format with
// the given width of fraction and bias of exponent. It computes the first 64
// bits of the result exactly, as a 128 bit product or quotient, knows whether
// anything is left beyond them, and rounds once, half to even. Powers of ten
// that don't fit 64 bits it leaves to others (ok is false).
func nearest(m uint64, e int, fraction, bias uint) (value uint64, ok bool) {
	if e < -maxDigits || e > maxDigits {
		return 0, false
	}
	if m == 0 {
		return 0, true
	}
	// The value is top * 2^exp with the highest bit of top set, and a little more
	// if rest is set.
	var top uint64
	var rest bool
	var exp int
	if e >= 0 {
		hi, lo := bits.Mul64(m, tens[e])
		if hi == 0 {
			hi, lo, exp = lo, 0, -64
		}
		shift := bits.LeadingZeros64(hi)
		top = hi<<shift | lo>>(64-shift)
		rest = lo<<shift != 0
		exp += 64 - shift
	} else {
		d := tens[-e]
		shiftM, shiftD := bits.LeadingZeros64(m), bits.LeadingZeros64(d)
		m, d = m<<shiftM, d<<shiftD
		exp = shiftD - shiftM - 64
		var lo, remainder uint64
		if m >= d { // halve, so that the quotient fits
			m, lo = m>>1, m<<63
			exp++
		}
		top, remainder = bits.Div64(m, lo, d)
		rest = remainder != 0
	}
	drop := 63 - fraction
	half := uint64(1) << (drop - 1)
	value, left := top>>drop, top&(half<<1-1)
	if left > half || left == half && (rest || value&1 == 1) {
		value++
	}
	// The leading one of value adds one to the exponent; so does a carry into it.
	return value + uint64(exp+63+int(bias)-1)<<fraction, true
}

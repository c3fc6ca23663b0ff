package quality

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// format is the first byte of an encoded State. Counts and sums follow as varints,
// each list with its length before it, and of bins the distance from the last.
const format = 1

var errDamaged = fault.New(fault.Invalid, "the encoded quality is damaged")

// The first byte of an encoded answer or outcome says what follows.
const (
	hasFloat32 = 1 << iota
	hasFloat64
	hasClass
	hasProbabilities
	_ // two bits: an answer's decision, or whether an outcome is yes
)

const decisionShift = 4

// Append writes the answer down: 5 bytes for a binary one whose probability is a float32.
func (a Answer) Append(dst []byte) []byte {
	head := len(dst)
	dst = append(dst, byte(a.Decision)<<decisionShift)
	dst = appendNumberAndClass(dst, head, a.Number, a.Class)
	if len(a.Probabilities) > 0 {
		dst[head] |= hasProbabilities
		dst = binary.AppendUvarint(dst, uint64(len(a.Probabilities)))
		for _, p := range a.Probabilities {
			at := len(dst)
			dst = append(dst, 0)
			dst = appendNumberAndClass(dst, at, p.P, p.Class)
		}
	}
	return dst
}

// DecodeAnswer reads what Append wrote, and gives what follows it. It doesn't Check.
func DecodeAnswer(data []byte) (a Answer, rest []byte, err error) {
	r := reader{data: data}
	head := r.byte()
	a.Decision = Decision(head >> decisionShift)
	a.Number, a.Class = r.numberAndClass(head)
	if head&hasProbabilities != 0 {
		n := r.length(MaxProbabilities)
		if n == 0 {
			r.failed = true
		}
		for ; n > 0 && !r.failed; n-- {
			head := r.byte()
			p, class := r.numberAndClass(head)
			a.Probabilities = append(a.Probabilities, Probability{class, p})
			r.failed = r.failed || head>>3 != 0
		}
	}
	if r.failed || a.Decision > Yes {
		return Answer{}, nil, errDamaged
	}
	return a, r.data, nil
}

// Append writes the outcome down: in 1 byte for a binary one.
func (t Truth) Append(dst []byte) []byte {
	head := len(dst)
	dst = append(dst, 0)
	if t.Yes {
		dst[head] = 1 << decisionShift
	}
	return appendNumberAndClass(dst, head, t.Number, t.Class)
}

// DecodeTruth reads what Append wrote, and gives what follows it.
func DecodeTruth(data []byte) (t Truth, rest []byte, err error) {
	r := reader{data: data}
	head := r.byte()
	t.Yes = head>>decisionShift == 1
	t.Number, t.Class = r.numberAndClass(head)
	if r.failed || head&hasProbabilities != 0 || head>>decisionShift > 1 {
		return Truth{}, nil, errDamaged
	}
	return t, r.data, nil
}

// appendNumberAndClass writes what is there of the two, and says so in the byte at head.
func appendNumberAndClass(dst []byte, head int, n float64, class string) []byte {
	switch narrow := float32(n); {
	case n == 0:
	case float64(narrow) == n:
		dst[head] |= hasFloat32
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(narrow))
	default:
		dst[head] |= hasFloat64
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(n))
	}
	if class != "" {
		dst[head] |= hasClass
		dst = appendText(dst, class)
	}
	return dst
}

func appendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// Append writes the state down. States that took the same are written in the same bytes.
func (s *State) Append(dst []byte) []byte {
	dst = append(dst, format)
	dst = appendText(dst, string(s.spec.Task))
	dst = appendSmall(dst, s.spec.Threshold)
	dst = appendSmall(dst, s.spec.Quantile)
	for _, n := range s.counts() {
		dst = binary.AppendVarint(dst, *n)
	}
	for _, h := range s.histograms() {
		dst = h.append(dst)
	}
	for _, x := range s.allSums() {
		dst = x.append(dst)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.classes)))
	for _, class := range s.classes {
		dst = appendText(dst, class)
	}
	pairs := s.pairs()
	dst = binary.AppendUvarint(dst, uint64(len(pairs)))
	index := map[string]uint64{} // "" is 0
	for i, class := range s.classes {
		index[class] = uint64(i) + 1
	}
	for _, key := range pairs {
		dst = binary.AppendUvarint(dst, index[key.truth])
		dst = binary.AppendUvarint(dst, index[key.said])
		dst = binary.AppendVarint(dst, s.confusion[key])
	}
	return dst
}

// Decode reads what Append wrote, all of it. What is damaged is Invalid.
func Decode(data []byte) (*State, error) {
	r := reader{data: data}
	if version := r.byte(); version != format && !r.failed {
		return nil, fault.New(fault.Invalid, "the encoded quality is of version %d, expected %d", version, format)
	}
	s := &State{spec: Spec{Task: Task(r.text(MaxClassName))}}
	s.spec.Threshold, s.spec.Quantile = r.small(), r.small()
	if err := s.spec.Validate(); r.failed || err != nil || s.spec != s.spec.whole() {
		return nil, errors.Join(errDamaged, err)
	}
	for _, n := range s.counts() {
		*n = r.varint()
	}
	for _, h := range s.histograms() {
		bins := logBins
		if h != &s.delays && h != &s.errors {
			bins = scoreBins
		}
		*h = r.histogram(bins)
	}
	for _, x := range s.allSums() {
		*x = r.sum()
	}
	for n := r.length(MaxClasses); n > 0 && !r.failed; n-- {
		class := r.text(MaxClassName)
		if class == "" || len(s.classes) > 0 && class <= s.classes[len(s.classes)-1] {
			r.failed = true
		}
		s.classes = append(s.classes, class)
	}
	if len(s.classes) > 0 {
		s.confusion = map[pair]int64{}
	}
	names := append([]string{""}, s.classes...)
	for n := r.length(len(names) * len(names)); n > 0 && !r.failed; n-- {
		truth, said := r.length(len(s.classes)), r.length(len(s.classes))
		key := pair{names[truth], names[said]}
		if s.confusion[key] != 0 || len(s.classes) == 0 {
			return nil, errDamaged
		}
		s.confusion[key] = r.varint()
		if s.confusion[key] == 0 {
			r.failed = true
		}
	}
	if r.failed || len(r.data) > 0 {
		return nil, errDamaged
	}
	return s, nil
}

// counts, histograms and allSums are what is written, in order.
func (s *State) counts() []*int64 {
	all := []*int64{&s.made, &s.n, &s.right, &s.full, &s.nonzero}
	if s.spec.Task != Regression {
		for i := range s.calibration {
			all = append(all, &s.calibration[i].n, &s.calibration[i].hits)
		}
	}
	return all
}

func (s *State) histograms() []*histogram {
	all := []*histogram{&s.delays, &s.errors}
	for said := range s.scores {
		for i := range s.scores[said] {
			all = append(all, &s.scores[said][i])
		}
	}
	return all
}

func (s *State) allSums() []*sum {
	used := sumCount
	if s.spec.Task != Regression {
		used = difference + 1
	}
	var all []*sum
	for i := range s.sums[:used] {
		all = append(all, &s.sums[i])
	}
	if s.spec.Task != Regression {
		for i := range s.calibration {
			all = append(all, &s.calibration[i].p)
		}
	}
	return all
}

// appendSmall writes a float of few digits, as 0.5 is, in few bytes.
func appendSmall(dst []byte, f float64) []byte {
	return binary.AppendUvarint(dst, bits.ReverseBytes64(math.Float64bits(f)))
}

func (h histogram) append(dst []byte) []byte {
	used := 0
	for _, b := range h {
		if b.n != 0 {
			used++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(used))
	last := uint16(0)
	for _, b := range h {
		if b.n != 0 {
			dst = binary.AppendUvarint(dst, uint64(b.at-last))
			dst = binary.AppendVarint(dst, b.n)
			last = b.at
		}
	}
	return dst
}

// A sum is written as how many words it has and their sign, the lowest, and the words.
func (s *sum) append(dst []byte) []byte {
	s.carry()
	if len(s.words) == 0 {
		return append(dst, 0)
	}
	sign := uint64(0)
	if s.words[len(s.words)-1] < 0 {
		sign = 1
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.words))<<1|sign)
	dst = binary.AppendUvarint(dst, uint64(s.low))
	for _, w := range s.words {
		dst = binary.AppendUvarint(dst, uint64(max(w, -w)))
	}
	return dst
}

// reader reads from data until something is wrong with it, and then gives zeros.
type reader struct {
	data   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.data) {
		r.failed, r.data = true, nil
		return make([]byte, min(n, 8))
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) byte() byte { return r.take(1)[0] }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.failed, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.failed, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

// length reads a number that is limit at most.
func (r *reader) length(limit int) int {
	v := r.uvarint()
	if v > uint64(limit) {
		r.failed, r.data = true, nil
		return 0
	}
	return int(v)
}

func (r *reader) text(limit int) string {
	n := r.length(limit)
	if taken := r.take(n); !r.failed {
		return string(taken)
	}
	return ""
}

func (r *reader) small() float64 {
	return math.Float64frombits(bits.ReverseBytes64(r.uvarint()))
}

func (r *reader) numberAndClass(head byte) (n float64, class string) {
	switch head & (hasFloat32 | hasFloat64) {
	case hasFloat32:
		n = float64(math.Float32frombits(binary.LittleEndian.Uint32(r.take(4))))
	case hasFloat64:
		n = math.Float64frombits(binary.LittleEndian.Uint64(r.take(8)))
	case hasFloat32 | hasFloat64:
		r.failed = true
	}
	if head&hasClass != 0 {
		class = r.text(MaxClassName)
	}
	return n, class
}

func (r *reader) histogram(bins int) (h histogram) {
	at, n := 0, r.length(bins)
	h = make(histogram, 0, min(n, len(r.data)/2)) // a bin takes 2 bytes at least
	for ; n > 0 && !r.failed; n-- {
		step := r.length(bins)
		b := bin{n: r.varint()}
		if at += step; at >= bins || step == 0 && len(h) > 0 || b.n == 0 {
			r.failed = true
		}
		b.at = uint16(at)
		h = append(h, b)
	}
	return h
}

func (r *reader) sum() (s sum) {
	head := r.length(maxWords<<1 | 1)
	if head == 0 {
		return s
	}
	s.low = r.length(maxWords)
	n := head >> 1
	if n == 0 || s.low+n > maxWords {
		r.failed = true
	}
	s.words = make([]int64, 0, n)
	for ; n > 0 && !r.failed; n-- {
		w := int64(r.length(math.MaxUint32))
		if head&1 != 0 {
			w = -w
		}
		s.words = append(s.words, w)
	}
	if !r.failed && (s.words[0] == 0 || s.words[len(s.words)-1] == 0) {
		r.failed = true
	}
	return s
}

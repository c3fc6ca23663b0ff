package drift

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/bits"
	"slices"
	"sort"
	"strconv"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// MaxUnseen is how many names of unseen values a State keeps of a column.
const MaxUnseen = 32

// State counts what a window of rows had, in the bins of one profile. All it holds is
// counts, extremes, and unseen names in an order of their own: states that took the same
// rows are equal to the byte, however the rows were split and merged.
type State struct {
	p       *Profile
	columns []tally
}

// tally is a State's of one column.
type tally struct {
	missing uint64
	// cells are, of a numeric column, what lies below the range, the bins, and what lies
	// above; of others what is listed, and then what is not.
	cells    []uint64
	min, max float64 // of numbers; min > max: there is none
	unseen   []unseen
}

// unseen is a value that training did not have. Kept are those with the least hashes: a
// sample of the different ones ("bottom-k": Cohen and Kaplan, 2007). Who is among the least
// of all was so from its first row on, in whichever state that was, so its count is exact;
// summaries of the most frequent ones have counts that depend on the order of merging.
type unseen struct {
	hash uint64
	name []byte
	rows uint64
}

// NewState begins a window.
func NewState(p *Profile) *State {
	s := &State{p: p, columns: make([]tally, len(p.columns))}
	size := func(c *Column) int {
		if c.Kind == Numeric {
			return len(c.bounds) + 1
		}
		return len(c.Counts) + 1
	}
	all := 0
	for i := range p.columns {
		all += size(&p.columns[i])
	}
	cells := make([]uint64, all)
	for i := range p.columns {
		n := size(&p.columns[i])
		s.columns[i].cells, cells = cells[:n:n], cells[n:]
	}
	s.Reset()
	return s
}

// Reset empties the state.
func (s *State) Reset() {
	for i := range s.columns {
		t := &s.columns[i]
		clear(t.cells)
		t.missing, t.min, t.max, t.unseen = 0, math.Inf(1), math.Inf(-1), t.unseen[:0]
	}
}

// Profile gives the profile that the state counts in the bins of.
func (s *State) Profile() *Profile { return s.p }

// Rows tells how many rows were counted: values of the column that has most.
func (s *State) Rows() uint64 {
	var rows uint64
	for i := range s.columns {
		rows = max(rows, s.columns[i].missing+s.columns[i].present())
	}
	return rows
}

func (t *tally) present() uint64 { return sum(t.cells) }

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// Add counts a value of a column of the profile.
func (s *State) Add(column int, v Value) {
	switch v.is {
	case isNumber:
		s.AddNumber(column, v.number)
	case isText:
		s.AddText(column, v.text)
	default:
		s.AddMissing(column)
	}
}

// AddMissing counts a row that has no value in a column of the profile.
func (s *State) AddMissing(column int) { s.columns[column].missing++ }

// AddNumber counts a number in a column of the profile. A column of texts takes it as
// strconv writes it, the shortest way; a number that is not finite is missing.
func (s *State) AddNumber(column int, f float64) {
	t, c := &s.columns[column], &s.p.columns[column]
	if f-f != 0 {
		t.missing++
		return
	}
	f += 0 // there is one zero
	if c.Kind == Categorical {
		var buffer [32]byte
		addText(t, c, strconv.AppendFloat(buffer[:0], f, 'g', -1, 64))
		return
	}
	t.min, t.max = min(t.min, f), max(t.max, f)
	i := search(c.bounds, f)
	if c.Kind == Discrete {
		// Bounds have one more at the start, and what is listed is a bound itself.
		if i--; i < 0 || i >= len(c.Edges) || c.Edges[i] != f {
			i = len(c.Edges)
			var buffer [32]byte
			t.addUnseen(strconv.AppendFloat(buffer[:0], f, 'g', -1, 64), 1)
		}
	}
	t.cells[i]++
}

// search tells how many of the ascending bounds are below f. Its steps are arithmetic, as
// a branch on what a comparison says would be mispredicted every other time.
func search(bounds []uint64, f float64) int {
	key, at, n := order(f), 0, len(bounds)
	for n > 0 {
		half := (n + 1) / 2
		_, below := bits.Sub64(bounds[at+half-1], key, 0)
		at += half & -int(below)
		n -= half
	}
	return at
}

// order maps numbers to integers that have their order.
func order(f float64) uint64 {
	b := math.Float64bits(f)
	return b ^ (uint64(int64(b)>>63) | 1<<63)
}

// AddText counts a text in a column of the profile. A column of numbers takes it as missing.
func (s *State) AddText(column int, text string) {
	t, c := &s.columns[column], &s.p.columns[column]
	if c.Kind != Categorical {
		t.missing++
		return
	}
	if i, ok := c.lookup[text]; ok {
		t.cells[i]++
		return
	}
	var buffer [MaxName]byte
	addText(t, c, appendName(buffer[:0], text))
}

func addText(t *tally, c *Column, name []byte) {
	if i, ok := c.lookup[string(name)]; ok {
		t.cells[i]++
		return
	}
	t.cells[len(c.Counts)]++
	if c.Other == 0 {
		t.addUnseen(name, 1)
	}
}

func (t *tally) addUnseen(name []byte, rows uint64) {
	h, at := hash(name), len(t.unseen)
	for at > 0 && t.unseen[at-1].compare(h, name) > 0 {
		at--
	}
	if at > 0 && t.unseen[at-1].compare(h, name) == 0 {
		t.unseen[at-1].rows += rows
		return
	}
	switch n := len(t.unseen); {
	case at == MaxUnseen:
		return
	case n < cap(t.unseen) && n < MaxUnseen:
		t.unseen = t.unseen[:n+1] // its name's memory is used again
	case n < MaxUnseen:
		t.unseen = append(t.unseen, unseen{})
	}
	last := len(t.unseen) - 1
	kept := append(t.unseen[last].name[:0], name...)
	copy(t.unseen[at+1:], t.unseen[at:last])
	t.unseen[at] = unseen{h, kept, rows}
}

func (u *unseen) compare(hash uint64, name []byte) int {
	return cmp.Or(cmp.Compare(u.hash, hash), bytes.Compare(u.name, name))
}

// hash is FNV-1a with its bits mixed as MurmurHash3 does in the end; states depend on it.
func hash[T string | []byte](name T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// appendName gives the name of a category as profiles and states have it. It takes no
// memory but dst, which needs MaxName bytes.
func appendName(dst []byte, s string) []byte {
	if len(s) <= MaxName && utf8.ValidString(s) {
		return append(dst, s...)
	}
	const hashed = 1 + 16 // a tilde and hex digits
	valid := 0
	for valid < len(s) {
		r, n := utf8.DecodeRuneInString(s[valid:])
		if r == utf8.RuneError && n == 1 || valid+n > MaxName-hashed {
			break
		}
		valid += n
	}
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], hash(s))
	return hex.AppendEncode(append(append(dst, s[:valid]...), '~'), sum[:])
}

// Merge adds what another state of the same profile counted; it stays as it is. A state of
// another profile is a Conflict.
func (s *State) Merge(o *State) error {
	if s.p != o.p && s.p.digest != o.p.digest {
		return errOther
	}
	for i := range s.columns {
		t, from := &s.columns[i], &o.columns[i]
		t.missing += from.missing
		for j, n := range from.cells {
			t.cells[j] += n
		}
		t.min, t.max = min(t.min, from.min), max(t.max, from.max)
		for _, u := range from.unseen {
			t.addUnseen(u.name, u.rows)
		}
	}
	return nil
}

var (
	errOther   = fault.New(fault.Conflict, "the state is of another profile")
	errDamaged = fault.New(fault.Invalid, "the encoded state is damaged")
)

// stateFormat is the first byte of an encoded state. The profile's mark follows, then the
// columns: missing values, cells, the extremes of numbers, unseen names. Counts are
// varints, and a count of 0 is followed by how many more of them follow.
const stateFormat = 1

// AppendBinary writes the state down. It never fails; the error is for encoding.BinaryAppender.
func (s *State) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, stateFormat)
	dst = append(dst, s.p.mark[:]...)
	for i := range s.columns {
		t := &s.columns[i]
		dst = binary.AppendUvarint(dst, t.missing)
		for j := 0; j < len(t.cells); j++ {
			dst = binary.AppendUvarint(dst, t.cells[j])
			if t.cells[j] == 0 {
				start := j
				for j+1 < len(t.cells) && t.cells[j+1] == 0 {
					j++
				}
				dst = binary.AppendUvarint(dst, uint64(j-start))
			}
		}
		if s.p.columns[i].Kind != Categorical && t.present() > 0 {
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(t.min))
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(t.max))
		}
		if s.p.columns[i].named() {
			dst = binary.AppendUvarint(dst, uint64(len(t.unseen)))
			for _, u := range t.unseen {
				dst = binary.AppendUvarint(dst, uint64(len(u.name)))
				dst = append(dst, u.name...)
				dst = binary.AppendUvarint(dst, u.rows)
			}
		}
	}
	return dst, nil
}

// named tells whether states know values of the column that were never seen.
func (c *Column) named() bool { return c.Kind != Numeric && c.Other == 0 }

// Decode replaces the state by one that AppendBinary wrote; it shares no memory with data.
// A state of another profile is a Conflict, anything else that is none is Invalid, and
// then the state is empty.
func (s *State) Decode(data []byte) error {
	s.Reset()
	if len(data) < 9 || data[0] != stateFormat {
		return errDamaged
	}
	if !bytes.Equal(data[1:9], s.p.mark[:]) {
		return errOther
	}
	r := reader{data: data[9:]}
	for i := range s.columns {
		s.columns[i].decode(&r, &s.p.columns[i])
	}
	if r.check(len(r.data) == 0); r.bad {
		s.Reset()
		return errDamaged
	}
	return nil
}

func (t *tally) decode(r *reader, c *Column) {
	left := uint64(maxCount) // that a column may count, so that sums don't overflow
	t.missing = r.count(&left)
	for i := 0; i < len(t.cells); i++ {
		if t.cells[i] = r.count(&left); t.cells[i] == 0 {
			i += int(r.uvarint(uint64(len(t.cells) - 1 - i)))
		}
	}
	present := t.present()
	if c.Kind != Categorical && present > 0 {
		t.min, t.max = r.float(), r.float()
		r.check(t.min <= t.max && t.min-t.min == 0 && t.max-t.max == 0)
	}
	if r.bad || !c.named() {
		return
	}
	n := int(r.uvarint(MaxUnseen))
	named := t.cells[len(c.Counts)]
	for i := range n {
		name := r.bytes(int(r.uvarint(MaxName)))
		_, known := c.lookup[string(name)]
		if r.check(utf8.Valid(name) && !known); r.bad {
			return
		}
		rows := r.count(&named)
		t.addUnseen(name, rows)
		// Written in order, each is the last of those so far.
		r.check(rows > 0 && len(t.unseen) == i+1 && bytes.Equal(t.unseen[i].name, name))
	}
	r.check(n == MaxUnseen || named == 0)
}

// reader takes values off encoded bytes. Once something is wrong it is bad, and gives zeros.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) check(ok bool) {
	if !ok {
		r.bad, r.data = true, nil
	}
}

func (r *reader) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(r.data)
	if r.check(n > 0 && v <= most); r.bad {
		return 0
	}
	r.data = r.data[n:]
	return v
}

// count reads a count of what is left to count.
func (r *reader) count(left *uint64) uint64 {
	n := r.uvarint(*left)
	*left -= n
	return n
}

func (r *reader) bytes(n int) []byte {
	if r.check(n <= len(r.data)); r.bad {
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) float() float64 {
	b := r.bytes(8)
	if r.bad {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// frequent gives the unseen names that are known, the most frequent ones first.
func (t *tally) frequent() []unseen {
	u := slices.Clone(t.unseen)
	sort.SliceStable(u, func(i, j int) bool { return u[i].rows > u[j].rows })
	return u
}

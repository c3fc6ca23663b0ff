package window

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// format is the first byte of an encoded state. The plan's mark follows, then the
// panes without their ids, then the ids. Numbers are varints, times are told from
// the start of their pane, and ids and hashes take 8 bytes.
const format = 1

// ErrOther tells that a state was made by a plan whose panes are of another length or
// hold something else: the view's windows have changed since.
var ErrOther = errors.New("the state is of other windows")

var errDamaged = errors.New("the encoded state is damaged")

// Append writes the state down. States that took the same rows, none of them late,
// are written in the same bytes.
func (s *State) Append(dst []byte) []byte {
	dst = append(dst, format)
	dst = binary.LittleEndian.AppendUint32(dst, s.p.mark)
	dst = binary.AppendUvarint(dst, uint64(len(s.panes)))
	if s.Empty() {
		return dst
	}
	at := s.panes[0].at
	dst = binary.AppendVarint(dst, at)
	dst = binary.AppendUvarint(dst, uint64(s.panes[len(s.panes)-1].at-s.settled))
	for i := range s.panes {
		p := &s.panes[i]
		if i > 0 {
			dst = binary.AppendUvarint(dst, uint64(p.at-at))
			at = p.at
		}
		dst = binary.AppendUvarint(dst, uint64(p.newest-p.at*s.p.step))
		dst = binary.AppendUvarint(dst, p.rows)
		for j := range p.cells {
			dst = p.cells[j].append(dst, &s.p.columns[j], p.at*s.p.step)
		}
	}
	for i := range s.panes {
		if p := &s.panes[i]; p.at >= s.settled {
			dst = appendSet(dst, p.ids)
		}
	}
	return dst
}

func (c *cell) append(dst []byte, k *column, start int64) []byte {
	dst = binary.AppendUvarint(dst, c.n)
	if c.n == 0 {
		return dst
	}
	if k.sum {
		dst = c.sum.append(dst)
	}
	if k.min {
		dst = appendValue(dst, k, c.min)
	}
	if k.max {
		dst = appendValue(dst, k, c.max)
	}
	if k.distinct {
		dst = appendSet(dst, c.hashes)
	}
	if k.last {
		dst = binary.AppendUvarint(dst, uint64(c.last.event-start))
		dst = binary.AppendVarint(dst, c.last.created)
		dst = binary.LittleEndian.AppendUint64(dst, c.last.id)
		dst = appendValue(dst, k, c.last.value)
	}
	return dst
}

func (s *sum) append(dst []byte) []byte {
	var buffer [maxWords]uint32
	negative, low, words := s.magnitude(&buffer)
	head := uint64(len(words)) << 3
	for i, flag := range []bool{negative, s.plus, s.minus} {
		if flag {
			head |= 1 << i
		}
	}
	dst = binary.AppendUvarint(dst, head)
	if len(words) > 0 {
		dst = binary.AppendUvarint(dst, uint64(low))
	}
	for _, w := range words {
		dst = binary.AppendUvarint(dst, uint64(w))
	}
	return dst
}

func appendValue(dst []byte, k *column, v row.Value) []byte {
	start := len(dst)
	dst = row.Append(dst, k.field, []row.Value{v})
	var n [binary.MaxVarintLen64]byte
	length := n[:binary.PutUvarint(n[:], uint64(len(dst)-start))]
	dst = append(dst, length...)
	copy(dst[start+len(length):], dst[start:])
	copy(dst[start:], length)
	return dst
}

func appendSet(dst []byte, set []uint64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(set)))
	for _, v := range set {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	return dst
}

// Decode reads a state that Append has written. Its memory is not shared with data.
// After an error, which is ErrOther or tells that data is damaged, the state is empty.
func (s *State) Decode(data []byte) error {
	s.Reset()
	if len(data) < 5 || data[0] != format {
		return errDamaged
	}
	if binary.LittleEndian.Uint32(data[1:]) != s.p.mark {
		return ErrOther
	}
	r := reader{data: data[5:]}
	if s.decode(&r); r.bad || len(r.data) > 0 {
		s.Reset()
		return errDamaged
	}
	return nil
}

func (s *State) decode(r *reader) {
	n := r.uvarint(MaxPanes + 2)
	if n == 0 {
		return
	}
	most := maxTime / s.p.step
	at := r.varint()
	r.check(at >= -most-1 && at <= most)
	settled := int64(r.uvarint(1 << 62))
	for i := range int(n) {
		if i > 0 {
			by := int64(r.uvarint(uint64(2*most + 2)))
			at += by
			r.check(by > 0 && at <= most)
		}
		if r.bad {
			return
		}
		start := at * s.p.step
		s.insert(i, at, start+int64(r.uvarint(uint64(s.p.step-1))))
		p := &s.panes[i]
		p.rows = r.uvarint(math.MaxInt64)
		r.check(p.rows > 0)
		for j := range p.cells {
			p.cells[j].decode(r, &s.p.columns[j], start)
		}
		s.newest = p.newest
	}
	s.settled = at - settled
	for i := range s.panes {
		if p := &s.panes[i]; p.at >= s.settled {
			p.ids = r.set(p.ids, MaxRows-s.rows)
			s.rows += len(p.ids)
		}
	}
	// The lateness or the windows may have become shorter.
	s.settle(max(s.settled, floor(s.newest-s.p.lateness, s.p.step)))
}

func (c *cell) decode(r *reader, k *column, start int64) {
	if c.n = r.uvarint(math.MaxInt64); c.n == 0 {
		return
	}
	if k.sum {
		if c.sum.decode(r); !k.typ.Float() {
			r.check(len(c.sum.words) == 0 || c.sum.low >= unit)
		}
	}
	if k.min {
		c.min = r.value(k)
	}
	if k.max {
		c.max = r.value(k)
	}
	if k.distinct {
		c.hashes = r.set(c.hashes, MaxHashes)
		r.check(len(c.hashes) > 0)
	}
	if k.last {
		c.last.event = start + int64(r.uvarint(maxTime))
		c.last.created = r.varint()
		c.last.id = r.uint64()
		c.last.value = r.value(k)
	}
}

func (s *sum) decode(r *reader) {
	head := r.uvarint(maxWords<<3 | 7)
	negative := head&1 != 0
	s.plus, s.minus = head&2 != 0, head&4 != 0
	n := int(head >> 3)
	if n == 0 {
		r.check(!negative)
		return
	}
	s.low = int(r.uvarint(maxWords - 4))
	r.check(s.low+n <= maxWords-3) // with what carries may add
	for range n {
		if r.bad {
			return
		}
		w := int64(r.uvarint(math.MaxUint32))
		if negative {
			w = -w
		}
		s.words = append(s.words, w)
	}
	r.check(s.words[0] != 0 && s.words[n-1] != 0)
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

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	if r.check(n > 0); r.bad {
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) uint64() uint64 {
	if r.check(len(r.data) >= 8); r.bad {
		return 0
	}
	v := binary.LittleEndian.Uint64(r.data)
	r.data = r.data[8:]
	return v
}

func (r *reader) value(k *column) row.Value {
	n := r.uvarint(math.MaxInt32)
	if r.check(n <= uint64(len(r.data))); r.bad {
		return row.Value{}
	}
	var v [1]row.Value
	r.check(row.Decode(r.data[:n], k.field, v[:]) == nil && !v[0].Null())
	if !r.bad {
		r.data = r.data[n:]
	}
	return v[0]
}

// set reads an ordered set of at most that many.
func (r *reader) set(dst []uint64, most int) []uint64 {
	n := r.uvarint(uint64(most))
	if r.check(n <= uint64(len(r.data)/8)); r.bad {
		return dst
	}
	for i := range int(n) {
		v := r.uint64()
		r.check(i == 0 || v > dst[i-1])
		if r.bad {
			return dst
		}
		dst = append(dst, v)
	}
	return dst
}

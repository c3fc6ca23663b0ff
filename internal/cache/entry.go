package cache

import (
	"encoding/binary"
	"time"
	"unsafe"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// entry is a remembered answer. It owns its memory and is never written again.
type entry struct {
	outputs []tensor.Tensor // data lies in raw
	raw     []byte          // the encoding, as other processes get it
	made    int64           // Unix time in nanoseconds
	life    time.Duration   // that is left of it, fresh or stale, when it is put into memory
}

// weight is the memory that an entry takes, with what is kept beside it.
func (e *entry) weight() uint32 {
	const overhead = 300 // entry, key, and the cache's own
	n := overhead + cap(e.raw) + len(e.outputs)*int(unsafe.Sizeof(tensor.Tensor{}))
	for i := range e.outputs {
		t := &e.outputs[i]
		n += len(t.Name) + 8*len(t.Shape) + len(t.Strings)*int(unsafe.Sizeof(""))
		for _, s := range t.Strings {
			n += len(s)
		}
	}
	return uint32(min(n, 1<<31))
}

// The encoding of an entry, all numbers little-endian and each part padded to
// eight bytes, so that elements lie as tensors want them:
//
//	16  signature over the rest and the key
//	8   format: a change of it, or of the numbers of tensor.Type, takes another
//	8   when the answer was made, Unix nanoseconds
//	8   number of outputs
//
// and for each output four numbers of 8 bytes (type, rank, length of the name,
// length of the data), the dimensions, the name, and the data, which for
// strings is each one's length and bytes.
const (
	format     = 1
	entryStart = len(Key{})
	headerSize = entryStart + 3*8
)

// encode writes outputs; the signature stays zero. It gives nil if the encoding
// would exceed most bytes.
func encode(outputs []tensor.Tensor, made int64, most int) []byte {
	size := headerSize
	for i := range outputs {
		t := &outputs[i]
		size += 4*8 + 8*len(t.Shape) + pad(len(t.Name)) + pad(dataSize(t))
	}
	if size > most {
		return nil
	}
	b := make([]byte, entryStart, size)
	b = number(b, format)
	b = number(b, made)
	b = number(b, int64(len(outputs)))
	for i := range outputs {
		t := &outputs[i]
		b = number(b, int64(t.Type))
		b = number(b, int64(len(t.Shape)))
		b = number(b, int64(len(t.Name)))
		b = number(b, int64(dataSize(t)))
		for _, d := range t.Shape {
			b = number(b, d)
		}
		b = append(b, t.Name...)
		b = b[:pad(len(b))]
		b = append(b, t.Data...)
		for _, s := range t.Strings {
			b = number(b, int64(len(s)))
			b = append(b, s...)
		}
		b = b[:pad(len(b))] // zeros: the memory is new
	}
	return b
}

func pad(n int) int { return (n + 7) &^ 7 }

func number(b []byte, n int64) []byte { return binary.LittleEndian.AppendUint64(b, uint64(n)) }

func dataSize(t *tensor.Tensor) int {
	n := len(t.Data)
	for _, s := range t.Strings {
		n += 8 + len(s)
	}
	return n
}

// decode reads an encoding, but for its signature. The outputs are views of raw
// where its memory is aligned. It gives nil for what encode did not write.
func decode(raw []byte) *entry {
	r := reader{b: raw, at: entryStart}
	if r.number() != format {
		return nil
	}
	e := &entry{raw: raw, made: r.number()}
	count := r.number()
	if count < 0 || count > int64(len(raw))/(4*8) {
		return nil
	}
	e.outputs = make([]tensor.Tensor, count)
	for i := range e.outputs {
		if !r.tensor(&e.outputs[i]) {
			return nil
		}
	}
	if r.bad || r.at != len(raw) {
		return nil
	}
	return e
}

// reader walks through an encoding; bad says that something did not fit.
type reader struct {
	b   []byte
	at  int
	bad bool
}

// take gives the next n bytes, and nothing once the reader is bad.
func (r *reader) take(n int64) []byte {
	if r.bad || n < 0 || n > int64(len(r.b)-r.at) {
		r.bad = true
		return nil
	}
	part := r.b[r.at : r.at+int(n) : r.at+int(n)]
	r.at += int(n)
	return part
}

func (r *reader) number() int64 {
	b := r.take(8)
	if r.bad {
		return -1
	}
	return int64(binary.LittleEndian.Uint64(b))
}

func (r *reader) align() { r.take(int64(pad(r.at) - r.at)) }

func (r *reader) tensor(t *tensor.Tensor) bool {
	kind, rank, name, size := r.number(), r.number(), r.number(), r.number()
	if kind <= int64(tensor.Invalid) || kind > int64(tensor.Bytes) || rank < 0 || rank > tensor.MaxRank {
		return false
	}
	t.Type = tensor.Type(kind)
	t.Shape = make([]int64, rank)
	for i := range t.Shape {
		t.Shape[i] = r.number()
	}
	t.Name = string(r.take(name))
	r.align()
	data := r.take(size)
	r.align()
	n, err := tensor.Elements(t.Shape)
	if r.bad || err != nil {
		return false
	}
	if t.Type == tensor.Bytes {
		return readStrings(t, data, n)
	}
	width := int64(t.Type.Size())
	if size%width != 0 || size/width != n {
		return false
	}
	if !tensor.Aligned(data, t.Type) { // a backend may hand out memory as it likes
		data = append(make([]byte, 0, size), data...)
	}
	t.Data = data
	return true
}

func readStrings(t *tensor.Tensor, data []byte, n int64) bool {
	if n > int64(len(data))/8 {
		return false
	}
	all := string(data) // one piece of memory for all of them
	r := reader{b: data}
	t.Strings = make([]string, n)
	for i := range t.Strings {
		size := r.number()
		begin := r.at
		r.take(size)
		t.Strings[i] = all[begin:r.at]
	}
	return !r.bad && r.at == len(data)
}

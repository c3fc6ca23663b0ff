package payload

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// A prediction lies in the ring as one run of bytes, which only this file reads and
// writes: what is fast to write, as that is on the way of an answer. How it is
// written for others is done behind it, in segment.go.

// AppendFeatures writes the features of one row: values of fields, and the times that they are of
// (in microseconds since 1970, 0: none).
func AppendFeatures(dst []byte, fields []row.Field, values []row.Value, times []int64) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0) // the length goes in front, and is known behind
	dst = row.Append(dst, fields, values)
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	for _, t := range times {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(t))
	}
	return dst
}

// Bounds of what one prediction may take.
const (
	textMost   = 256      // bytes of an id, a caller or an error
	fixed      = 128      // bytes that each takes beside its texts, tensors and features
	tensorMost = 64 << 10 // bytes of a tensor's row: of a larger one only the shape is kept
	slimMost   = 4 << 10  // the same, where the prediction would not fit a chunk otherwise
)

// held is how many bytes of a tensor are kept, if what is above most is not.
func held(t *tensor.Tensor, most int) (n int, whole bool) {
	n = len(t.Data)
	for _, s := range t.Strings {
		n += len(s) + 4
	}
	if n > most {
		return 0, false
	}
	return n, true
}

// size is how many bytes append writes at most.
func (p *Prediction) size(most int) int {
	n := fixed + 4*textMost + len(p.Features)
	for _, tensors := range [...][]tensor.Tensor{p.Given, p.Outputs} {
		for i := range tensors {
			held, _ := held(&tensors[i], most)
			n += 16 + len(tensors[i].Name) + 8*len(tensors[i].Shape) + held
		}
	}
	return n
}

// part is the rows of a prediction from first on, n of them.
func (p *Prediction) part(first, n int) *Prediction {
	q := *p
	q.First, q.Rows, q.more = p.First+first, n, p.more || first+n < p.Rows
	for range first {
		_, q.Features = cutFeatures(q.Features, len(p.Fields))
	}
	rest := q.Features
	for range n {
		_, rest = cutFeatures(rest, len(p.Fields))
	}
	q.Features = q.Features[:len(q.Features)-len(rest)]
	q.Given, q.Outputs = rowsOf(p.Given, p.Rows, first, n), rowsOf(p.Outputs, p.Rows, first, n)
	return &q
}

func rowsOf(tensors []tensor.Tensor, rows, first, n int) []tensor.Tensor {
	cut := make([]tensor.Tensor, len(tensors))
	for i, t := range tensors {
		if byRow(t.Shape, rows) {
			t.Shape = append([]int64{int64(n)}, t.Shape[1:]...)
			data, strings := len(t.Data)/rows, len(t.Strings)/rows
			t.Data, t.Strings = t.Data[first*data:(first+n)*data], t.Strings[first*strings:(first+n)*strings]
		}
		cut[i] = t
	}
	return cut
}

// byRow tells whether a tensor has something for each of a prediction's rows; where there are none, nothing has.
func byRow(shape []int64, rows int) bool {
	return rows > 0 && len(shape) > 0 && shape[0] == int64(rows)
}

// cutFeatures takes the features of a row off.
func cutFeatures(b []byte, fields int) (one, rest []byte) {
	if len(b) == 0 {
		return nil, nil
	}
	n := 4 + int(binary.LittleEndian.Uint32(b)) + 8*fields
	return b[:n], b[n:]
}

// append writes the prediction, of tensors larger than most only what they are.
func (p *Prediction) append(dst []byte, o *Origin, most int) []byte {
	dst = appendText(dst, p.ID)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Asked.UnixMicro()))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.At.UnixMicro()))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Latency))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(p.First))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(p.Rows))
	weight := 1 / max(o.Sample, 1e-9)
	if p.Err != nil {
		weight = 1
		dst = appendText(dst, fault.KindOf(p.Err).String())
		dst = appendText(dst, fault.Message(p.Err))
	} else {
		dst = appendText(dst, "")
	}
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(weight))
	dst = appendText(dst, p.Caller)
	dst = appendText(dst, p.Cache)
	dst = append(dst, p.Trace[:]...)
	sampled := byte(0)
	if p.Sampled {
		sampled = 1
	}
	dst = appendText(append(dst, sampled), p.Protocol)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(p.Features)))
	dst = append(dst, p.Features...)
	dst = appendTensors(dst, p.Given, most)
	return appendTensors(dst, p.Outputs, most)
}

func appendText(dst []byte, s string) []byte {
	s = s[:min(len(s), textMost)]
	return append(binary.LittleEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func appendTensors(dst []byte, tensors []tensor.Tensor, most int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(tensors)))
	for i := range tensors {
		t := &tensors[i]
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(t.Name)))
		dst = append(dst, t.Name...)
		dst = append(dst, byte(t.Type), byte(len(t.Shape)))
		for _, d := range t.Shape {
			dst = binary.LittleEndian.AppendUint64(dst, uint64(d))
		}
		_, whole := held(t, most)
		switch {
		case !whole:
			dst = append(dst, 0)
		case t.Type == tensor.Bytes:
			dst = append(dst, 1)
			for _, s := range t.Strings {
				dst = append(binary.LittleEndian.AppendUint32(dst, uint32(len(s))), s...)
			}
		default:
			dst = append(dst, 1)
			dst = append(binary.LittleEndian.AppendUint32(dst, uint32(len(t.Data))), t.Data...)
		}
	}
	return dst
}

// record is a prediction as it lies in the ring.
type record struct {
	id             string
	asked, at      int64 // microseconds since 1970
	latency        time.Duration
	first, rows    int
	kind, err      string
	weight         float64
	caller, cache  string
	trace          [16]byte
	sampled        bool
	protocol       string
	features       []byte
	given, outputs []part
}

// part is a tensor, or what is known of one that was too large.
type part struct {
	tensor.Tensor
	slim bool
}

// cursor reads what append wrote.
type cursor []byte

func (c *cursor) cut(n int) []byte {
	b := (*c)[:n]
	*c = (*c)[n:]
	return b
}

func (c *cursor) u16() int     { return int(binary.LittleEndian.Uint16(c.cut(2))) }
func (c *cursor) u32() int     { return int(binary.LittleEndian.Uint32(c.cut(4))) }
func (c *cursor) u64() uint64  { return binary.LittleEndian.Uint64(c.cut(8)) }
func (c *cursor) text() string { return string(c.cut(c.u16())) }

func (r *record) read(b []byte) {
	c := (*cursor)(&b)
	r.id = c.text()
	r.asked, r.at, r.latency = int64(c.u64()), int64(c.u64()), time.Duration(c.u64())
	r.first, r.rows = c.u32(), c.u32()
	r.kind, r.err = c.text(), ""
	if r.kind != "" {
		r.err = c.text()
	}
	r.weight = math.Float64frombits(c.u64())
	r.caller, r.cache = c.text(), c.text()
	r.trace, r.sampled, r.protocol = [16]byte(c.cut(16)), c.cut(1)[0] != 0, c.text()
	r.features = c.cut(c.u32())
	r.given = c.tensors(r.given[:0])
	r.outputs = c.tensors(r.outputs[:0])
}

func (c *cursor) tensors(dst []part) []part {
	for range c.u16() {
		var t part
		t.Name = string(c.cut(c.u16()))
		t.Type = tensor.Type(c.cut(1)[0])
		t.Shape = make([]int64, c.cut(1)[0])
		n := int64(1)
		for i := range t.Shape {
			t.Shape[i] = int64(c.u64())
			n *= t.Shape[i]
		}
		t.slim = c.cut(1)[0] == 0
		switch {
		case t.slim:
		case t.Type == tensor.Bytes:
			t.Strings = make([]string, n)
			for i := range t.Strings {
				t.Strings[i] = string(c.cut(c.u32()))
			}
		default:
			// A copy, as it lies where nothing is aligned.
			t.Data = append([]byte(nil), c.cut(c.u32())...)
		}
		dst = append(dst, t)
	}
	return dst
}

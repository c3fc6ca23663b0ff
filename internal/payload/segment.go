package payload

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"strconv"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Row is one row of a prediction, as it lies in a segment. Times are in microseconds since 1970.
type Row struct {
	At       int64  `parquet:"_event,timestamp(microsecond)"`   // as of when it is
	Answered int64  `parquet:"_created,timestamp(microsecond)"` // when it was answered
	Hash     uint64 `parquet:"_id"`                             // of ID and Row

	ID       string  `parquet:"id,optional"`
	Row      int32   `parquet:"row,optional"`
	Model    string  `parquet:"model,optional"`
	Version  int32   `parquet:"version,optional"`
	Digest   string  `parquet:"digest,optional"`
	Caller   string  `parquet:"caller,optional"`
	Cache    string  `parquet:"cache,optional"`
	Latency  int64   `parquet:"latency,optional"` // of the whole prediction, in microseconds
	Kind     string  `parquet:"kind,optional"`    // of the error that it ended with; empty: it was answered
	Error    string  `parquet:"error,optional"`
	Weight   float64 `parquet:"weight,optional"`  // how many it stands for: 1 / the share that is kept
	Trace    string  `parquet:"trace,optional"`   // id of the request's trace, 32 hexadecimal digits; empty: it is not known, as in older segments
	Sampled  bool    `parquet:"sampled,optional"` // the trace is kept whatever became of the request; those that failed or were slow are kept as well
	Protocol string  `parquet:"protocol,optional"`

	// JSON objects by name. Of a tensor it is what belongs to the row: a number, text or
	// boolean, or an array of its elements, row-major; of one that was too large to be kept its shape. FeatureTimes
	// are in microseconds since 1970, of features that are of a time.
	Inputs       string `parquet:"inputs,optional"`
	Features     string `parquet:"features,optional"`
	FeatureTimes string `parquet:"feature_times,optional"`
	Outputs      string `parquet:"outputs,optional"`
}

// columns are those of Row behind the three that each segment has, in the order of writer.add.
var columns = []row.Field{
	{Name: "id", Type: row.String},
	{Name: "row", Type: row.Int32},
	{Name: "model", Type: row.String},
	{Name: "version", Type: row.Int32},
	{Name: "digest", Type: row.String},
	{Name: "caller", Type: row.String},
	{Name: "cache", Type: row.String},
	{Name: "latency", Type: row.Int64},
	{Name: "kind", Type: row.String},
	{Name: "error", Type: row.String},
	{Name: "weight", Type: row.Float64},
	{Name: "inputs", Type: row.String},
	{Name: "features", Type: row.String},
	{Name: "feature_times", Type: row.String},
	{Name: "outputs", Type: row.String},
	{Name: "trace", Type: row.String},
	{Name: "sampled", Type: row.Bool},
	{Name: "protocol", Type: row.String},
}

var shape = func() *segment.Shape {
	s, err := segment.NewShape(columns)
	if err != nil {
		panic(err) // the columns above are good ones
	}
	return s
}()

// Hash names a row of a prediction.
func Hash(id string, n int) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, id) // a hash takes all
	_, _ = h.Write(binary.LittleEndian.AppendUint32(nil, uint32(n)))
	return h.Sum64()
}

// writer writes a segment.
type writer struct {
	out         *segment.Writer
	breathe     func() // is called between batches
	batch       []segment.Row
	values      []row.Value // of batch
	buf, digits []byte
	record      record
	features    []row.Value
	of          *Origin     // whose features quoted are
	named       []row.Field // what they are
	quoted      []string    // their names as they stand in an object; empty: redacted
	rows        int
	from, until int64 // when the first and the last were answered, in microseconds since 1970
}

// batchRows is how many rows are written at once: half a millisecond's work, in which nothing else may run on one CPU.
const batchRows = 64

func newWriter(to io.Writer, breathe func()) *writer {
	return &writer{
		out: shape.Writer(to), breathe: breathe, from: math.MaxInt64,
		batch: make([]segment.Row, 0, batchRows), values: make([]row.Value, 0, batchRows*len(columns)),
	}
}

// add writes the rows of a prediction.
func (w *writer) add(h *head, encoded []byte) error {
	r := &w.record
	r.read(encoded)
	answered := r.asked + r.latency.Microseconds()
	w.from, w.until = min(w.from, answered), max(w.until, answered)
	caller := r.caller
	if h.origin.Redact["caller"] {
		caller = ""
	}
	text := func(s string) row.Value {
		if s == "" {
			return row.Value{}
		}
		return row.OfString(s)
	}
	var trace, sampled row.Value
	if r.trace != ([16]byte{}) {
		trace, sampled = row.OfString(hex.EncodeToString(r.trace[:])), row.OfBool(r.sampled)
	}
	features := r.features
	for i := range max(r.rows, 1) {
		n := r.first + i
		var own []byte
		own, features = cutFeatures(features, len(h.fields))
		names, times, err := w.describe(h, own)
		if err != nil {
			return err
		}
		w.values = append(w.values,
			text(r.id), row.OfInt32(int32(n)), row.OfString(h.origin.Model), row.OfInt32(int32(h.origin.Version)),
			text(h.origin.Digest), text(caller), text(r.cache), row.OfInt64(r.latency.Microseconds()),
			text(r.kind), text(r.err), row.OfFloat64(r.weight),
			w.tensors(h.origin, r.given, r.rows, i), names, times, w.tensors(h.origin, r.outputs, r.rows, i), trace, sampled, text(r.protocol))
		w.batch = append(w.batch, segment.Row{Event: r.at, Created: answered, ID: Hash(r.id, n)})
		w.rows++
		if len(w.batch) == batchRows {
			if err := w.flush(); err != nil {
				return err
			}
			w.breathe()
		}
	}
	return nil
}

func (w *writer) flush() error {
	for i := range w.batch {
		w.batch[i].Values = w.values[i*len(columns) : (i+1)*len(columns)]
	}
	err := w.out.Write(w.batch)
	w.batch, w.values = w.batch[:0], w.values[:0]
	return err
}

func (w *writer) close() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.out.Close()
}

// describe writes the features of a row, and their times.
func (w *writer) describe(h *head, b []byte) (values, times row.Value, err error) {
	if len(b) == 0 {
		return values, times, nil
	}
	n := 4 + int(binary.LittleEndian.Uint32(b))
	if w.of != h.origin || len(w.named) != len(h.fields) || &w.named[0] != &h.fields[0] {
		w.know(h)
	}
	clear(w.features)
	if err := row.Decode(b[4:n], h.fields, w.features); err != nil {
		return values, times, err
	}
	w.buf = append(w.buf[:0], '{')
	for i, name := range w.quoted {
		if name != "" {
			w.buf = w.features[i].AppendJSON(w.member(name))
		}
	}
	values = row.OfString(string(append(w.buf, '}')))
	w.buf = append(w.buf[:0], '{')
	last := int64(0) // features of a view are of one time
	for i, name := range w.quoted {
		if t := int64(binary.LittleEndian.Uint64(b[n+8*i:])); t != 0 && name != "" {
			if t != last {
				last, w.digits = t, strconv.AppendInt(w.digits[:0], t, 10)
			}
			w.buf = append(w.member(name), w.digits...)
		}
	}
	return values, row.OfString(string(append(w.buf, '}'))), nil
}

// know makes ready for features of a version.
func (w *writer) know(h *head) {
	w.of, w.named = h.origin, h.fields
	w.features, w.quoted = make([]row.Value, len(h.fields)), make([]string, len(h.fields))
	for i, f := range h.fields {
		if !h.origin.Redact[f.Name] {
			w.quoted[i] = string(append(jsonwire.AppendString(nil, f.Name), ':'))
		}
	}
}

// member begins a member of the object in buf, whose name is quoted.
func (w *writer) member(quoted string) []byte {
	if len(w.buf) > 1 {
		w.buf = append(w.buf, ',')
	}
	return append(w.buf, quoted...)
}

// name is member for any name.
func (w *writer) name(name string) {
	w.buf = append(jsonwire.AppendString(w.member(""), name), ':')
}

// tensors writes what belongs to a row.
func (w *writer) tensors(o *Origin, parts []part, rows, at int) row.Value {
	if len(parts) == 0 {
		return row.Value{}
	}
	w.buf = append(w.buf[:0], '{')
	for i := range parts {
		p := &parts[i]
		if o.Redact[p.Name] {
			continue
		}
		w.name(p.Name)
		if p.slim {
			w.buf = append(w.buf, `{"datatype":"`+p.Type.String()+`","shape":`...)
			w.buf = append(append(w.buf, tensor.FormatShape(p.Shape)...), '}')
			continue
		}
		w.elements(&p.Tensor, rows, at)
	}
	return row.OfString(string(append(w.buf, '}')))
}

func (w *writer) elements(t *tensor.Tensor, rows, at int) {
	data, texts := t.Data, t.Strings
	if byRow(t.Shape, rows) {
		n, m := len(data)/rows, len(texts)/rows
		data, texts = data[at*n:(at+1)*n], texts[at*m:(at+1)*m]
	}
	count := len(texts)
	if t.Type != tensor.Bytes {
		count = len(data) / t.Type.Size()
	}
	if count != 1 {
		w.buf = append(w.buf, '[')
	}
	start := len(w.buf)
	switch t.Type {
	case tensor.Bytes:
		for _, s := range texts {
			w.buf = append(jsonwire.AppendString(w.buf, s), ',')
		}
	case tensor.FP16, tensor.BF16:
		for i := range count {
			w.buf = append(jsonwire.AppendFloat(w.buf, float64(half(t.Type, binary.LittleEndian.Uint16(data[2*i:]))), 32), ',')
		}
	default:
		w.buf = jsonwire.AppendElements(w.buf, t.Type, data)
	}
	if len(w.buf) > start {
		w.buf = w.buf[:len(w.buf)-1] // the last comma
	}
	if count != 1 {
		w.buf = append(w.buf, ']')
	}
}

// half reads a float of 16 bits.
func half(t tensor.Type, bits uint16) float32 {
	if t == tensor.BF16 {
		return math.Float32frombits(uint32(bits) << 16)
	}
	sign, exponent, fraction := uint32(bits>>15)<<31, uint32(bits>>10&0x1f), uint32(bits&0x3ff)
	switch exponent {
	case 0: // zero and subnormals: fraction * 2^-24
		f := float32(fraction) / (1 << 24)
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

// Load reads a segment of the bucket, and gives its rows in batches that are the caller's until the next one. One that is damaged is
// Invalid, unless the error is that of each.
func Load(ctx context.Context, blob store.Blob, key string, each func([]Row) error) error {
	data, _, err := store.ReadAll(ctx, blob, key)
	if err != nil {
		return fmt.Errorf("read the segment %q: %w", key, err)
	}
	if !segment.Intact(key, data) {
		return fault.New(fault.Invalid, "the segment %q is damaged", key)
	}
	return segment.Read(data, each)
}

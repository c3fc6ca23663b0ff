package feedback

import (
	"encoding/binary"
	"math"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// The kinds of records that the ledger has: what was predicted and what came true, both by the key of a prediction's row, and
// where the predictions about an entity are, by that of the entity. Outcomes that wait have runs of their own, by the key of what they are looked for by.
const (
	ofPrediction byte = 'p'
	ofOutcome    byte = 'o'
	ofEntity     byte = 'e'
	ofWaiting    byte = 'w'
	ofFailed     byte = 'f' // where a prediction is that ended with an error, by its key
)

// prediction is what a join needs to know of a row of a prediction.
type prediction struct {
	commit  int64 // by which it was taken in
	model   string
	version int
	at      int64 // as of when it is, in microseconds since 1970
	spec    quality.Spec
	slices  []string // that it counts in, besides all
	answer  quality.Answer
	why     string // it has no answer; "": it has
	place   int64  // when the last prediction of its segment was answered, by which that is found; 0: not known
	id      string // of the prediction; "": not known
	row     int32
	traced  bool // its trace is kept
}

// about is a prediction about an entity.
type about struct {
	at  int64
	key ledger.Key // of the prediction
}

// tasks are written as their places here.
var tasks = [...]quality.Task{"", quality.Binary, quality.Multiclass, quality.Regression}

func (p *prediction) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, ofPrediction), uint64(p.commit))
	b = appendText(b, p.model)
	b = binary.AppendUvarint(b, uint64(p.version))
	b = binary.AppendVarint(b, p.at)
	task := byte(0)
	for i, t := range tasks {
		if t == p.spec.Task {
			task = byte(i)
		}
	}
	b = append(b, task)
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p.spec.Threshold))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p.spec.Quantile))
	b = binary.AppendUvarint(b, uint64(len(p.slices)))
	for _, s := range p.slices {
		b = appendText(b, s)
	}
	b = appendText(b, p.why)
	if p.why == "" {
		b = p.answer.Append(b)
	}
	b = appendText(binary.AppendUvarint(b, uint64(p.place)), p.id)
	b = binary.AppendUvarint(b, uint64(p.row))
	if p.traced {
		return append(b, 1)
	}
	return append(b, 0)
}

// failed notes where a prediction is that ended with an error.
func failed(place int64) []byte { return binary.AppendUvarint([]byte{ofFailed}, uint64(place)) }

func (o *told) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, ofOutcome), uint64(o.commit))
	b = binary.LittleEndian.AppendUint64(b, o.id)
	b = binary.AppendVarint(b, o.created)
	b = binary.AppendVarint(b, o.time)
	return appendText(appendText(b, o.value), o.model)
}

func (a *about) append(b []byte) []byte {
	return append(binary.AppendVarint(append(b, ofEntity), a.at), a.key[:]...)
}

// waits writes down all of an outcome that waits.
func (o *Outcome) waits(b []byte) []byte {
	b = appendText(append(b, ofWaiting), o.Prediction)
	b = binary.AppendVarint(b, int64(o.Row))
	for _, text := range [...]string{o.Model, o.Entity, o.Value, o.Source} {
		b = appendText(b, text)
	}
	for _, t := range [...]int64{o.At, o.Time, o.Created} {
		b = binary.AppendVarint(b, t)
	}
	return binary.LittleEndian.AppendUint64(b, o.ID)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader reads a record. When it fails it gives zeros.
type reader struct {
	b   []byte
	bad bool
}

var errRecord = fault.New(fault.Internal, "a record of the ledger is damaged")

func (r *reader) take(n int) []byte {
	if r.bad = r.bad || n < 0 || n > len(r.b); r.bad {
		r.b = nil
		return make([]byte, min(max(n, 0), 16))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uvarint() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > math.MaxInt64 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func (r *reader) text() string {
	n := r.uvarint()
	if n > int64(len(r.b)) {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}

func readPrediction(b []byte) (*prediction, error) {
	r := reader{b: b[1:]}
	p := &prediction{commit: r.uvarint(), model: r.text(), version: int(r.uvarint()), at: r.varint()}
	task := r.take(1)[0]
	if int(task) >= len(tasks) {
		return nil, errRecord
	}
	p.spec = quality.Spec{Task: tasks[task], Threshold: math.Float64frombits(r.uint64()), Quantile: math.Float64frombits(r.uint64())}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		p.slices = append(p.slices, r.text())
	}
	if p.why = r.text(); r.bad {
		return nil, errRecord
	}
	if p.why == "" {
		var err error
		if p.answer, r.b, err = quality.DecodeAnswer(r.b); err != nil {
			return nil, errRecord
		}
	}
	if len(r.b) > 0 { // else it was written before there were places
		p.place = r.uvarint()
	}
	if len(r.b) > 0 { // or ids
		p.id, p.row, p.traced = r.text(), int32(r.uvarint()), r.take(1)[0] == 1
	}
	if r.bad {
		return nil, errRecord
	}
	return p, nil
}

func readFailed(b []byte) (place int64, err error) {
	r := reader{b: b[1:]}
	if place = r.uvarint(); r.bad {
		return 0, errRecord
	}
	return place, nil
}

func readTold(b []byte) (told, error) {
	r := reader{b: b[1:]}
	o := told{commit: r.uvarint(), id: r.uint64(), created: r.varint(), time: r.varint(), value: r.text(), model: r.text()}
	if r.bad {
		return told{}, errRecord
	}
	return o, nil
}

func readAbout(b []byte) (about, error) {
	r := reader{b: b[1:]}
	a := about{at: r.varint()}
	copy(a.key[:], r.take(len(a.key)))
	if r.bad {
		return about{}, errRecord
	}
	return a, nil
}

func readWaiting(b []byte) (Outcome, error) {
	r := reader{b: b[1:]}
	o := Outcome{Prediction: r.text(), Row: int32(r.varint()), Model: r.text(), Entity: r.text(), Value: r.text(), Source: r.text(), At: r.varint(), Time: r.varint(), Created: r.varint(), ID: r.uint64()}
	if r.bad {
		return Outcome{}, errRecord
	}
	return o, nil
}

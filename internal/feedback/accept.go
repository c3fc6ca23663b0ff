package feedback

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/jsonwire"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// IntakeConfig bounds what is taken in.
type IntakeConfig struct {
	Rows    int           `env:"FEEDBACK_GROUP_ROWS" default:"100000" help:"Outcomes that may wait while others are written; more are refused."`
	Bytes   env.Size      `env:"FEEDBACK_GROUP_SIZE" default:"64MiB" help:"Memory that such outcomes may take."`
	Write   time.Duration `env:"FEEDBACK_WRITE_TIMEOUT" default:"20s" help:"How long outcomes may take to be written to the bucket, whether their callers still wait or not."`
	Ahead   time.Duration `env:"FEEDBACK_AHEAD" default:"1h" help:"How far in the future a time of an outcome may be, by the clock here; outcomes further ahead are rejected."`
	Request int           `env:"FEEDBACK_REQUEST_ROWS" default:"100000" help:"Outcomes that one request, or event, may bring."`
}

// Validate refuses what can't work.
func (c *IntakeConfig) Validate() error {
	switch {
	case c.Rows < 1:
		return fault.New(fault.Invalid, "FEEDBACK_GROUP_ROWS must be positive")
	case c.Bytes < 1:
		return fault.New(fault.Invalid, "FEEDBACK_GROUP_SIZE must be positive")
	case c.Write <= 0:
		return fault.New(fault.Invalid, "FEEDBACK_WRITE_TIMEOUT must be positive")
	case c.Ahead < 0:
		return fault.New(fault.Invalid, "FEEDBACK_AHEAD must not be negative")
	case c.Request < 1:
		return fault.New(fault.Invalid, "FEEDBACK_REQUEST_ROWS must be positive")
	}
	return nil
}

// Intake takes outcomes in. They are acknowledged once they are in the bucket, those
// that come meanwhile as the next group. An outcome is known by its source and the id that
// it has there, or else by what it holds, or by the event that brought it: a caller that
// got an error, or no answer, repeats, and what is there twice then has the same ID. Any
// number of processes may take in. It is safe for concurrent use.
type Intake struct {
	blob   store.Blob
	conf   IntakeConfig
	now    func() time.Time
	tel    *instruments
	groups *segment.Committer[*batch]
}

// NewIntake makes an Intake that writes to the bucket.
func NewIntake(c *IntakeConfig, blob store.Blob, tel *telemetry.Telemetry) (*Intake, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	in := &Intake{blob: blob, conf: *c, now: time.Now}
	in.groups = segment.NewCommitter("outcomes", segment.Limits{Rows: c.Rows, Bytes: int64(c.Bytes), Write: c.Write}, in.write, nil)
	var err error
	in.tel, err = newInstruments(tel)
	return in, err
}

// Close waits for what is being written. No requests and events may follow.
func (in *Intake) Close() error {
	in.groups.Close()
	return nil
}

// Result is what became of the outcomes of one request.
type Result struct {
	Accepted   int         `json:"accepted"` // are durable
	Rejected   int         `json:"rejected"` // are kept with the reason
	Rejections []Rejection `json:"rejections,omitempty"`
}

// Rejection is an outcome that was not taken, and why.
type Rejection struct {
	Index  int    `json:"index"`  // of the outcome in its request
	Reason Reason `json:"reason"` // for counting
	Detail string `json:"detail"` // for people
}

// rejectionsMost is how many rejections a Result tells.
const rejectionsMost = 10

// batch is the outcomes of one call, as far as they were read.
type batch struct {
	decoder
	most     int // outcomes of one request
	good     []Outcome
	bytes    int64 // of memory that they take, about
	rejected int
	reasons  map[Reason]int
	first    []Rejection
	lines    bytes.Buffer // what was rejected
}

func (in *Intake) batch() *batch {
	return &batch{decoder: decoder{now: in.now().UnixMicro(), far: in.conf.Ahead}, most: in.conf.Request, reasons: map[Reason]int{}}
}

func (b *batch) size() int { return len(b.good) + b.rejected }

// add reads the outcome with an index in its request, or says that there are too many; source and known as in decode.
func (b *batch) add(index int, raw []byte, source string, known uint64) error {
	if index >= b.most {
		return fault.Wrap(fault.Invalid, &http.MaxBytesError{}, "there are more than %d outcomes; send them in several requests", b.most) // which is a 413
	}
	var o Outcome
	err := reject(BadSize, "the outcome has more than %d bytes", outcomeMost)
	if len(raw) <= outcomeMost {
		o, err = b.decode(raw, source, known)
	}
	if err == nil {
		b.good = append(b.good, o)
		b.bytes += int64(unsafe.Sizeof(o)) + int64(len(o.Prediction)+len(o.Model)+len(o.Entity)+len(o.Value))
		return nil
	}
	reason, detail := reasonOf(err)
	b.rejected++
	b.reasons[reason]++
	if len(b.first) < rejectionsMost {
		b.first = append(b.first, Rejection{index, reason, detail})
	}
	before := b.lines.Len()
	b.line(raw, reason, detail, source)
	b.bytes += int64(b.lines.Len() - before)
	return nil
}

// line writes what was rejected as a line of JSON. What is no JSON becomes a string or, where that would
// be much longer, base64.
func (b *batch) line(raw []byte, reason Reason, detail, source string) {
	line := jsonwire.AppendString([]byte(`{"reason":`), string(reason))
	line = jsonwire.AppendString(append(line, `,"detail":`...), detail)
	if source != "" {
		line = jsonwire.AppendString(append(line, `,"source":`...), source)
	}
	b.lines.Write(line)
	text := utf8.Valid(raw)
	switch {
	case text && json.Valid(raw):
		b.lines.WriteString(`,"outcome":`)
		_ = json.Compact(&b.lines, raw) // it is valid
	case text && bytes.IndexFunc(raw, func(r rune) bool { return r < ' ' }) < 0:
		b.lines.WriteString(`,"text":`)
		b.lines.Write(jsonwire.AppendString(nil, string(raw)))
	default:
		b.lines.WriteString(`,"bytes":`)
		quoted, _ := json.Marshal(raw) // bytes always do
		b.lines.Write(quoted)
	}
	b.lines.WriteString("}\n")
}

// take makes a batch durable. An error means that it is to be sent again, though it may have been taken.
func (in *Intake) take(ctx context.Context, b *batch) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	if err := in.groups.Commit(ctx, b, b.size(), b.bytes); err != nil {
		return Result{}, err
	}
	in.tel.count(ctx, b)
	return Result{Accepted: len(b.good), Rejected: b.rejected, Rejections: b.first}, nil
}

// write makes a group durable: one object of what is good and one of what is not.
func (in *Intake) write(ctx context.Context, group []*batch) error {
	begin, outcomes := time.Now(), 0
	for _, b := range group {
		outcomes += b.size()
	}
	both, writing := errgroup.WithContext(ctx)
	both.Go(fault.Guard(func() error { return in.writeGood(writing, group) }))
	both.Go(fault.Guard(func() error { return in.writeRejected(writing, group) }))
	err := both.Wait()
	in.tel.group(ctx, outcomes, time.Since(begin), err)
	return err
}

func (in *Intake) writeGood(ctx context.Context, group []*batch) error {
	key, data, err := encode(group)
	if err != nil || data == nil {
		return err
	}
	return in.keep(ctx, key, data)
}

// RejectedPrefix is where outcomes that were not taken are kept: below the day (in UTC, by
// the clock), one object for those that came together, named by what it holds: a JSON object
// a line with the reason, and what came as "outcome", or "text" or "bytes" if it is no JSON.
const RejectedPrefix = "outcomes/rejected/"

func (in *Intake) writeRejected(ctx context.Context, group []*batch) error {
	var lines bytes.Buffer
	for _, b := range group {
		lines.Write(b.lines.Bytes())
	}
	if lines.Len() == 0 {
		return nil
	}
	sum := sha256.Sum256(lines.Bytes())
	return in.keep(ctx, RejectedPrefix+in.now().UTC().Format(time.DateOnly)+"/"+hex.EncodeToString(sum[:16]), lines.Bytes())
}

// keep writes an object. Whatever is wrong with the bucket, its callers are to come again.
func (in *Intake) keep(ctx context.Context, key string, data []byte) error {
	if err := segment.Keep(ctx, in.blob, key, data); err != nil {
		return fault.Wrap(fault.Unavailable, fmt.Errorf("keep outcomes: %w", err), "outcomes can't be kept at the moment; send them again")
	}
	return nil
}

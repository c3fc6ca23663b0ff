// Package payload keeps what models were asked and what they answered: the
// payload log.
//
// Log takes predictions on the way of their answers. It copies each into a ring of
// bounded memory and never waits: where the ring is full, because the bucket is slow
// or away, predictions are dropped and counted. Behind it one goroutine makes
// Parquet objects of what lies there (segments) and puts them under Inbox, each
// told by an event; Read reads one. A killed process loses what was not yet
// written, at most Config.Every of it: this is a log of what happened, and no promise.
// The package knows no protocol and no model.
package payload

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Config bounds the log.
type Config struct {
	On     string        `env:"PAYLOAD_LOG" default:"auto" help:"Whether predictions are written to the bucket: on, off, or auto: unless the bucket is memory. A model's manifest can say less."`
	Memory env.Size      `env:"PAYLOAD_MEMORY" default:"16MiB" help:"What predictions may take while they wait to be written; beyond it they are dropped, and counted."`
	Every  time.Duration `env:"PAYLOAD_EVERY" default:"10s" help:"How long predictions wait for others, so that they make one object in the bucket."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.On != "auto" && c.On != "on" && c.On != "off":
		return fault.New(fault.Invalid, "PAYLOAD_LOG is %.20q, expected on, off or auto", c.On)
	case c.Memory < 2*chunkSize:
		return fault.New(fault.Invalid, "PAYLOAD_MEMORY must be at least %dKiB", 2*chunkSize>>10)
	case c.Every <= 0:
		return fault.New(fault.Invalid, "PAYLOAD_EVERY must be positive")
	}
	return nil
}

// Origin is a version of a model, and the rules by which its predictions are kept.
type Origin struct {
	Model   string
	Version int
	Digest  string
	Sample  float64         // share of predictions that is kept; failed ones always are
	Redact  map[string]bool // names of inputs, features and outputs, and "caller", whose values are left out
}

// Prediction is one answered request, of one row or more.
type Prediction struct {
	ID       string // by which outcomes find it
	Asked    time.Time
	At       time.Time     // as of when it is: mostly Asked
	Latency  time.Duration // from when its body was read until it was encoded
	Caller   string        // an address, or what a gateway says
	Cache    string        // how it met the cache, empty: not at all
	Trace    [16]byte      // id of the trace of the request; zero: it has none
	Sampled  bool          // the trace is kept, whatever became of the request
	Protocol string        // that it came by
	Rows     int
	First    int             // the number of its first row, where it is a part of one
	more     bool            // other parts follow
	Given    []tensor.Tensor // what the caller brought
	Outputs  []tensor.Tensor
	// Features are those that were fetched, by AppendFeatures one row after the other; Fields are what they are.
	Features []byte
	Fields   []row.Field
	Err      error // what became of it instead
}

// The ring is made of chunks of chunkSize bytes, for bufSize bytes of at most headsMost predictions; segments are made of
// chunks with segmentSize bytes of predictions.
const (
	bufSize     = 256 << 10
	headsMost   = 1024
	headSize    = 48 // of a head in memory
	chunkSize   = bufSize + headsMost*headSize
	segmentSize = 4 << 20
)

// Log is the payload log of a process. A nil Log keeps nothing. It is safe for concurrent use.
type Log struct {
	conf   Config
	blob   store.Blob
	outbox *event.Outbox
	log    *slog.Logger

	prefix string // of ids
	serial atomic.Uint64
	counts counts

	mu      sync.Mutex
	current *chunk
	made    int      // chunks that there are
	spare   []*chunk // of them, those that hold nothing
	closed  bool

	full   chan *chunk // holds all that there may be
	quit   chan struct{}
	done   sync.WaitGroup
	cancel context.CancelFunc
}

// chunk is predictions in their encoded form, one behind the other.
type chunk struct {
	buf   []byte
	heads []head
}

// head is what a prediction shares with others, and where it lies.
type head struct {
	origin *Origin
	fields []row.Field
	start  int
	more   bool // other parts of the same prediction follow
}

// Open starts the log of a bucket. Its segments are told by an outbox, which must be closed after it.
func Open(c *Config, blob store.Blob, outbox *event.Outbox, tel *telemetry.Telemetry) (*Log, error) {
	if volatile, ok := blob.(store.Volatile); c.On == "off" || c.On == "auto" && ok && volatile.Volatile() {
		return nil, nil //nolint:nilnil // a nil log keeps nothing
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Log{
		conf: *c, blob: blob, outbox: outbox, log: tel.Log, prefix: strings.ToLower(rand.Text()[:12]) + "-",
		full: make(chan *chunk, int(c.Memory)/chunkSize), quit: make(chan struct{}), cancel: cancel,
	}
	if err := l.measure(tel); err != nil {
		cancel()
		return nil, err
	}
	l.done.Go(func() { l.run(ctx) })
	return l, nil
}

// Wants tells whether a prediction of a version is to be kept, if it does not fail.
func (l *Log) Wants(o *Origin) bool {
	return l != nil && (o.Sample >= 1 || mathrand.Float64() < o.Sample)
}

// NewID makes an id that no other prediction has.
func (l *Log) NewID() string {
	b := make([]byte, 0, 32)
	return string(strconv.AppendUint(append(b, l.prefix...), l.serial.Add(1), 36))
}

// Skip counts a prediction that was not wanted.
func (l *Log) Skip() {
	if l != nil {
		l.counts.skipped.Add(1)
	}
}

// Add takes a prediction; it reads what p holds until it returns. It does not wait.
func (l *Log) Add(o *Origin, p *Prediction) {
	if l == nil {
		return
	}
	l.counts.made.Add(1)
	if !l.add(o, p) {
		l.counts.dropped.Add(1)
	}
}

// add puts a prediction into the ring, one of many rows in parts.
func (l *Log) add(o *Origin, p *Prediction) bool {
	most := tensorMost * max(p.Rows, 1)
	size := p.size(most)
	if size > bufSize && p.Rows > 1 {
		half := p.Rows / 2
		return l.add(o, p.part(0, half)) && l.add(o, p.part(half, p.Rows-half))
	}
	if size > bufSize {
		most = slimMost
		size = p.size(most)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.room(size)
	if c == nil {
		return false
	}
	c.heads = append(c.heads, head{o, p.Fields, len(c.buf), p.more})
	c.buf = p.append(c.buf, o, most)
	return true
}

// room gives a chunk that can take a prediction of a size, or nil; the caller holds mu.
func (l *Log) room(size int) *chunk {
	if l.closed || size > bufSize {
		return nil
	}
	if c := l.current; c != nil {
		if len(c.buf)+size <= bufSize && len(c.heads) < headsMost {
			return c
		}
		l.full <- c // which holds all
		l.current = nil
	}
	switch n := len(l.spare); {
	case n > 0:
		l.current, l.spare = l.spare[n-1], l.spare[:n-1]
	case l.made < cap(l.full):
		l.made++
		l.current = &chunk{buf: make([]byte, 0, bufSize), heads: make([]head, 0, headsMost)}
	}
	return l.current
}

// sparesMost is how many chunks are kept when they hold nothing.
const sparesMost = 4

// release takes chunks back.
func (l *Log) release(chunks []*chunk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range chunks {
		clear(c.heads)
		c.buf, c.heads = c.buf[:0], c.heads[:0]
		if len(l.spare) < sparesMost {
			l.spare = append(l.spare, c)
		} else {
			l.made--
		}
	}
}

// take gives the chunk that is being filled, or nil.
func (l *Log) take() *chunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.current
	l.current = nil
	return c
}

// run writes segments until the log closes.
func (l *Log) run(ctx context.Context) {
	ticker := time.NewTicker(l.conf.Every)
	defer ticker.Stop()
	var chunks []*chunk
	for open := true; open; {
		due := false
		select {
		case c := <-l.full:
			chunks = append(chunks, c)
		case <-ticker.C:
			due = true
		case <-l.quit:
			open, due = false, true
		}
		if due {
			for more := true; more; { // what is full came before what is not
				select {
				case c := <-l.full:
					chunks = append(chunks, c)
				default:
					more = false
				}
			}
			if c := l.take(); c != nil {
				chunks = append(chunks, c)
			}
		}
		for n := segmentSize / bufSize; len(chunks) >= n || due && len(chunks) > 0; {
			n := min(n, len(chunks))
			l.write(ctx, chunks[:n:n])
			chunks = append(chunks[:0], chunks[n:]...)
		}
	}
}

// write makes a segment of chunks and lets go of them.
func (l *Log) write(ctx context.Context, chunks []*chunk) {
	var told event.Logged
	data, kept, lost, err := encode(chunks, &told, l.breathe)
	l.release(chunks)
	if err == nil && kept > 0 {
		told.Segment = keyOf(told.Until.UnixMicro(), data)
		err = l.put(ctx, told.Segment, data)
	}
	if err != nil {
		lost, kept = lost+kept, 0
	}
	if lost > 0 {
		l.counts.dropped.Add(int64(lost))
		l.log.WarnContext(ctx, "predictions dropped", "predictions", lost, "error", err)
	}
	if kept == 0 {
		return
	}
	l.counts.written.Add(int64(kept))
	l.counts.segments.Add(1)
	l.counts.bytes.Add(int64(len(data)))
	e := event.PredictionsLogged.New(told)
	e.SetExtension("dataref", told.Segment) // the claim check: a key of the bucket
	l.outbox.Give(ctx, e)
}

// breath is how long the making of a segment stops again and again.
const breath = 100 * time.Microsecond

// breathe lets requests have their turn, unless the ring is nearly full or the log closes. On one CPU they would wait for
// ten milliseconds otherwise: as long as something can run, Go looks no more often for what has come from the network.
func (l *Log) breathe() {
	if len(l.full) > cap(l.full)*3/4 {
		return
	}
	select {
	case <-l.quit:
	case <-time.After(breath):
	}
}

// encode makes the bytes of a segment, and tells how many predictions it has. One that can't be written is lost, and costs no other.
func encode(chunks []*chunk, told *event.Logged, breathe func()) (data []byte, kept, lost int, err error) {
	var out bytes.Buffer
	w := newWriter(&out, breathe)
	for _, c := range chunks {
		for i := range c.heads {
			h, end := &c.heads[i], len(c.buf)
			if i+1 < len(c.heads) {
				end = c.heads[i+1].start
			}
			one := fault.Guard(func() error { return w.add(h, c.buf[h.start:end]) })()
			switch {
			case one != nil:
				lost++
			case !h.more:
				kept++
			}
		}
	}
	err = fault.Guard(w.close)()
	told.Rows, told.Bytes, told.From, told.Until = w.rows, out.Len(), time.UnixMicro(w.from).UTC(), time.UnixMicro(w.until).UTC()
	return out.Bytes(), kept, lost, err
}

// put stores a segment, however long the bucket is away, until the log closes.
func (l *Log) put(ctx context.Context, key string, data []byte) error {
	return store.Persist(ctx, func(ctx context.Context) error { return segment.Keep(ctx, l.blob, key, data) }, func() { l.counts.retries.Add(1) })
}

// closeMost is how long the end of a process may wait for a bucket.
const closeMost = 10 * time.Second

// Close writes what waits, which may take closeMost; nothing is taken any more.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	stop := time.AfterFunc(closeMost, l.cancel)
	defer stop.Stop()
	close(l.quit)
	l.done.Wait()
	l.cancel()
	return nil
}

// Inbox is where segments lie until feedback has taken them.
const Inbox = "predictions/inbox/"

// Sweep deletes the segments whose last answer lies before a moment, and tells how many they were.
func Sweep(ctx context.Context, blob store.Blob, before time.Time) (deleted int, err error) {
	for o, err := range blob.List(ctx, Inbox, "") {
		if err != nil {
			return deleted, fmt.Errorf("list segments of predictions: %w", err)
		}
		if o.Key >= fmt.Sprintf("%s%016d", Inbox, max(before.UnixMicro(), 0)) {
			break // keys are in the order of time
		}
		if err := blob.Delete(ctx, o.Key); err != nil {
			return deleted, fmt.Errorf("delete the segment %q: %w", o.Key, err)
		}
		deleted++
	}
	return deleted, nil
}

// keyOf is where a segment lies: by the time of its last answer, in microseconds since 1970, and what it holds.
func keyOf(until int64, data []byte) string {
	sum := sha256.Sum256(data)
	return Inbox + segment.Name(until, sum[:])
}

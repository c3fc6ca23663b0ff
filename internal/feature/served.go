package feature

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// ServedLog is the source of what models were given, one row a vector. It is none of
// the definitions: its name can't be one of theirs. Its log lies beside theirs, and is
// joined like theirs. Body is an event.Vector in JSON.
var ServedLog = func() *CompiledSource {
	s := &Source{Name: "_served", Fields: []Field{{Name: defaultTime, Type: row.Timestamp}, {Name: "body", Type: row.String}}}
	c := &CompiledSource{Source: s, At: map[string]int{}, Made: -1}
	for i, f := range s.Fields {
		c.At[f.Name] = i
		c.Columns = append(c.Columns, row.Field{Name: f.Name, Type: f.Type, ID: uint32(i + 1)})
	}
	return c
}()

// served writes vectors to their log.
func (in *Ingest) served(ctx context.Context, events []event.Received[event.Served]) []error {
	errs := make([]error, len(events))
	var rows []Row
	for i, e := range events {
		for j := range e.Data.Vectors {
			body, err := json.Marshal(&e.Data.Vectors[j])
			if err != nil {
				errs[i] = fault.Wrap(fault.Invalid, err, "vector %d can't be written", j)
				break
			}
			rows = append(rows, Row{
				ID:     hash(e.Source(), e.ID(), j),
				Values: []row.Value{row.OfTime(e.Data.Vectors[j].Known), row.OfString(string(body))},
			})
		}
	}
	result, err := in.accept(ctx, ServedLog, rows, nil, LogOnly)
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	telemetry.LineFrom(ctx).Set(slog.Int("vectors", result.Accepted))
	return errs
}

// RecordConfig says how much of what models are given is written down.
type RecordConfig struct {
	Sample float64 `env:"FEATURE_SAMPLE" default:"0.01" help:"Share of requests whose features are written down, for the skew check; 0: none. Of a busy instance it is less: 100 vectors a second."`
}

// Validate refuses what can't work.
func (c *RecordConfig) Validate() error {
	if !(c.Sample >= 0 && c.Sample <= 1) {
		return fault.New(fault.Invalid, "FEATURE_SAMPLE must be from 0 to 1")
	}
	return nil
}

const (
	recordEvery = 5 * time.Second // vectors wait for others, so that they make one file in the log
	recordMost  = 500             // vectors that may wait
	recordEvent = 250             // vectors in an event
	recordRows  = 10              // of one request
)

// Recorder sends a sample of what models are given as events, a few seconds later: nobody waits
// for it, and what would be too much is left out. A nil Recorder wants nothing.
type Recorder struct {
	share    float64
	outbox   *event.Outbox
	instance string

	mu      sync.Mutex
	vectors []event.Vector
	timer   *time.Timer // set while vectors wait
	closed  bool
}

// NewRecorder makes a recorder that gives its events to an outbox. Close sends what waits.
func NewRecorder(c *RecordConfig, outbox *event.Outbox) *Recorder {
	return &Recorder{share: c.Sample, outbox: outbox, instance: rand.Text()}
}

// Wants tells whether a request is one of the sample. Its features are then read by a
// Plan.Traced, and given to Record.
func (r *Recorder) Wants() bool {
	if r == nil || r.share == 0 || mathrand.Float64() >= r.share {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed && len(r.vectors) < recordMost
}

// Reading is one read of features for a model.
type Reading struct {
	Model       string
	Version     int
	Service     string
	Definitions int
	Plan        *Plan     // of Service
	Traced      *Plan     // its Traced
	Known       time.Time // when it was read
	At          time.Time // as of when
	Given       Given
	Answers     *Answers // of Traced
}

// Record takes the first rows of a reading. It keeps nothing of it.
func (r *Recorder) Record(of *Reading) {
	vectors := make([]event.Vector, min(of.Answers.Rows(), recordRows))
	for e := range vectors {
		vectors[e] = of.vector(e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.vectors = append(r.vectors, vectors...)
	if r.timer == nil {
		r.timer = time.AfterFunc(recordEvery, r.send)
	}
}

func (of *Reading) vector(e int) event.Vector {
	v := event.Vector{
		Model: of.Model, Version: of.Version, Service: of.Service, Definitions: of.Definitions, Known: of.Known.UTC(), At: of.At.UTC(),
		Given: map[string]json.RawMessage{}, Features: map[string]event.Cell{},
	}
	for _, k := range of.Plan.Keys {
		v.Given[k.Name] = of.Given[k.Name][e].AppendJSON(nil)
	}
	for _, in := range of.Plan.Inputs {
		v.Given[in.Name] = of.Given[in.Name][e].AppendJSON(nil)
	}
	for i, c := range of.Traced.Columns {
		name := c.Name
		if i < len(of.Plan.Columns) {
			if of.Plan.from[i].kind != stepPlace {
				continue // it comes again, under its own name
			}
			name = c.View + ":" + c.Feature
		}
		a := of.Answers.At(i, e)
		cell := event.Cell{Value: a.Value.AppendJSON(nil), Status: int(a.Status), Version: c.Version}
		if a.Event != 0 {
			cell.Event = time.UnixMicro(a.Event).UTC()
		}
		v.Features[name] = cell
	}
	return v
}

// send gives the outbox what waits.
func (r *Recorder) send() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.vectors) > 0 {
		n := min(len(r.vectors), recordEvent)
		r.outbox.Give(context.Background(), event.FeaturesServed.New(event.Served{Instance: r.instance, At: time.Now().UTC(), Vectors: r.vectors[:n:n]}))
		r.vectors = r.vectors[n:]
	}
	r.vectors, r.timer = nil, nil
}

// Close sends what waits; nothing is taken any more.
func (r *Recorder) Close() error {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.send()
	return nil
}

// Package predict answers inference requests: it finds the version that a
// request means, has it loaded where it is not warm, checks the inputs against
// its signature, runs it, and encodes what it says.
//
// Flow is that path for typed tensors and knows no protocol; Handler is its
// HTTP edge, the Open Inference Protocol V2 and the registry's administration.
// Both are safe for concurrent use. Nothing here lasts: truth is the registry's.
package predict

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/queue"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Flow answers inference requests.
type Flow struct {
	registry *model.Registry
	queue    *queue.Queue
	tel      *instruments

	// last holds, for each ref without a number, the version that answered it last
	// (model.Ref -> *model.Manifest): it goes on answering while a new one loads.
	last sync.Map
	// served holds what is kept of each version (*model.Manifest -> *served).
	served sync.Map
}

// New makes the flow of a registry, whose models share the CPUs of a queue.
func New(registry *model.Registry, q *queue.Queue, tel *telemetry.Telemetry) (*Flow, error) {
	instruments, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	return &Flow{registry: registry, queue: q, tel: instruments}, nil
}

// served is what the flow keeps of one version.
type served struct {
	version  string                   // its number as text
	labels   metric.MeasurementOption // of its metrics
	lane     *queue.Lane
	unloaded atomic.Bool // by a caller's wish, and not used since
	stats    stats
}

func (f *Flow) of(m *model.Manifest) *served {
	if v, ok := f.served.Load(m); ok {
		return v.(*served)
	}
	v, _ := f.served.LoadOrStore(m, &served{
		version: strconv.Itoa(m.Version), labels: labelsOf(m),
		lane: f.queue.Lane(m.Name, m.Signature, m.Batching.MaxRows),
	})
	return v.(*served)
}

// Request is one inference, whatever protocol it came by.
type Request struct {
	Ref     model.Ref
	ID      string // the caller's own name for it, for the log
	Inputs  []tensor.Tensor
	Outputs []string // wanted, in this order; empty: all
}

// Answer is what a model said.
type Answer struct {
	Manifest *model.Manifest
	Outputs  []tensor.Tensor
}

// Infer runs one request. The inputs are read until it returns; the outputs
// are the caller's.
func (f *Flow) Infer(ctx context.Context, r *Request) (*Answer, error) {
	m, err := f.Pick(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return f.InferWith(ctx, m, r)
}

// InferWith is Infer for a version that was picked before.
func (f *Flow) InferWith(ctx context.Context, m *model.Manifest, r *Request) (*Answer, error) {
	begin := time.Now()
	s := f.of(m)
	t := timings{rows: rows(m, r.Inputs)}
	outputs, err := f.run(ctx, m, s, r, &t)
	s.stats.record(begin, &t, err)
	f.tel.inference(ctx, s.labels, &t, err)
	if err != nil {
		return nil, err
	}
	s.unloaded.Store(false)
	return &Answer{Manifest: m, Outputs: outputs}, nil
}

func (f *Flow) run(ctx context.Context, m *model.Manifest, s *served, r *Request, t *timings) ([]tensor.Tensor, error) {
	inputs, err := m.Arrange(r.Inputs)
	if err != nil {
		return nil, err
	}
	if err := knownOutputs(m, r.Outputs); err != nil {
		return nil, err
	}
	begin := time.Now()
	lease, err := f.registry.Warm.Acquire(ctx, m)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	acquired := time.Now()
	done, err := s.lane.Infer(ctx, lease.Session, inputs)
	t.queue, t.run, t.first, t.batch = acquired.Sub(begin)+done.Waited, done.Took, done.First, done.Rows
	if err != nil {
		return nil, err
	}
	return choose(done.Outputs, r.Outputs), nil
}

// Pick finds the version that answers a ref now. Where the ref has come to mean
// a version that is not warm here, the one that answered before goes on until
// the new one has loaded: an alias moves without a pause, and a version that
// fails to load never takes over.
func (f *Flow) Pick(ctx context.Context, ref model.Ref) (*model.Manifest, error) {
	m, err := f.registry.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	v, ok := f.last.Load(ref)
	if ok && v.(*model.Manifest) == m {
		return m, nil
	}
	if ok {
		before := v.(*model.Manifest)
		now, _ := f.registry.Warm.State(m)
		then, _ := f.registry.Warm.State(before)
		if now != model.Ready && then == model.Ready {
			f.registry.Warm.Prefetch(ctx, m)
			return before, nil
		}
	}
	f.last.Store(ref, m)
	return m, nil
}

func knownOutputs(m *model.Manifest, names []string) error {
next:
	for i, name := range names {
		for _, other := range names[:i] {
			if other == name {
				return fault.New(fault.Invalid, "output %q is asked for twice", tensor.Clip(name))
			}
		}
		for _, spec := range m.Signature.Outputs {
			if spec.Name == name {
				continue next
			}
		}
		known := make([]string, len(m.Signature.Outputs))
		for i, spec := range m.Signature.Outputs {
			known[i] = spec.Name
		}
		return fault.New(fault.Invalid, "output %q is not one that model %q gives; it gives %q", tensor.Clip(name), m.Name, known)
	}
	return nil
}

// choose picks the named outputs, in the order of the names.
func choose(outputs []tensor.Tensor, names []string) []tensor.Tensor {
	if len(names) == 0 {
		return outputs
	}
	chosen := make([]tensor.Tensor, len(names))
	for i, name := range names {
		for j := range outputs {
			if outputs[j].Name == name {
				chosen[i] = outputs[j]
			}
		}
	}
	return chosen
}

// rows counts the entries of a request: the size of the first dimension where the
// model leaves it free, else 1.
func rows(m *model.Manifest, inputs []tensor.Tensor) int64 {
	if len(m.Signature.Inputs) == 0 || len(inputs) == 0 {
		return 1
	}
	spec := m.Signature.Inputs[0]
	if len(spec.Shape) == 0 || spec.Shape[0] >= 0 {
		return 1
	}
	for i := range inputs {
		if inputs[i].Name == spec.Name && len(inputs[i].Shape) > 0 {
			return inputs[i].Shape[0]
		}
	}
	return 1
}

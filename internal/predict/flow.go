// Package predict answers inference requests: it finds the version that a
// request means, checks the inputs against its signature, remembers the answer or
// has the model loaded and run, and encodes what it says.
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

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/pulse"
	"github.com/pilotlight-ml/pilotlight/internal/queue"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Flow answers inference requests.
type Flow struct {
	registry *model.Registry
	queue    *queue.Queue
	cache    *cache.Cache
	features *feature.Table
	recorder *feature.Recorder
	log      *payload.Log
	board    *pulse.Board
	tel      *instruments

	// last holds, for each ref without a number, the version that answered it last
	// (model.Ref -> *model.Manifest): it goes on answering while a new one loads.
	last    sync.Map
	shadows *shadows
	// served holds what is kept of each version (*model.Manifest -> *served).
	served  sync.Map
	serving sync.Mutex // held while something is put there
}

// New makes the flow of a registry, whose models share the CPUs of a queue, and
// whose answers a cache remembers where their publishers allow it. Features come
// of a table (nil: models that take some can't be asked), and a recorder (nil: none) gets a sample of them.
// What was asked and answered goes to a log (nil: none), and is counted on a board. It must be closed before them.
func New(registry *model.Registry, q *queue.Queue, c *cache.Cache, features *feature.Table, recorder *feature.Recorder, log *payload.Log, board *pulse.Board, tel *telemetry.Telemetry) (*Flow, error) {
	f := &Flow{registry: registry, queue: q, cache: c, features: features, recorder: recorder, log: log, board: board}
	var err error
	if f.tel, err = newInstruments(f, tel); err != nil {
		return nil, err
	}
	f.shadows = newShadows(f, tel.Log)
	return f, nil
}

// Close ends what is done behind the answers. Nobody may ask any more.
func (f *Flow) Close() error { return f.shadows.close() }

// served is what the flow keeps of one version.
type served struct {
	version  string  // its number as text
	labels   *labels // of its metrics
	pulse    *pulse.Counter
	lane     *queue.Lane
	answers  *cache.Scope         // nil: they are not remembered
	origin   *payload.Origin      // nil: nothing is written of its predictions
	join     atomic.Pointer[join] // of a version that takes features
	unloaded atomic.Bool          // by a caller's wish, and not used since
	most     atomic.Int64         // rows that a joined run may have
	stats    stats
	pace     telemetry.Pace // of whole requests
}

func (s *served) bound(most int) {
	s.most.Store(int64(most))
	s.lane.Bound(most)
}

func (f *Flow) of(m *model.Manifest) *served {
	v, ok := f.served.Load(m)
	if !ok {
		v = f.serve(m)
	}
	return v.(*served)
}

func (f *Flow) serve(m *model.Manifest) any {
	f.serving.Lock()
	defer f.serving.Unlock()
	if v, ok := f.served.Load(m); ok {
		return v
	}
	s := &served{
		version: strconv.Itoa(m.Version), labels: f.tel.labelsOf(m), pulse: f.board.Counter(m.Name, m.Version),
		lane: f.queue.Lane(m.Name, m.Signature, m.Batching.MaxRows),
	}
	s.most.Store(int64(m.Batching.MaxRows))
	if f.log != nil && !m.Log.Off {
		s.origin = originOf(m)
	}
	if m.Cache.TTL > 0 {
		s.answers = f.cache.Scope(cache.Spec{
			Model: m.Name, Identity: []string{string(m.Digest), m.Identity()},
			TTL: time.Duration(m.Cache.TTL), Stale: time.Duration(m.Cache.Stale),
			Compute: func(ctx context.Context, inputs []tensor.Tensor, outputs []string) ([]tensor.Tensor, error) {
				return f.compute(ctx, m, s, inputs, outputs, &timings{})
			},
		})
	}
	f.served.Store(m, s)
	return s
}

// Request is one inference, whatever protocol it came by.
type Request struct {
	Ref     model.Ref
	ID      string // the caller's own name for it, for the log
	Inputs  []tensor.Tensor
	Outputs []string      // wanted, in this order; empty: all
	Cache   cache.Control // what the caller says of remembered answers
	// FeatureTime is as of when features are read; zero: now.
	FeatureTime time.Time

	keep *keeping // takes what features were fetched; nil: nobody wants to know
}

// Answer is what a model said. Others may have been given the same outputs:
// nobody writes to them.
type Answer struct {
	Manifest *model.Manifest
	Outputs  []tensor.Tensor
	Cache    cache.Outcome
}

// infer answers a request that began then, and says when it was done. The line may be nil.
func (f *Flow) infer(ctx context.Context, m *model.Manifest, s *served, r *Request, line *telemetry.Line, begin time.Time) (*Answer, time.Time, error) {
	t := timings{rows: rows(m, r.Inputs)}
	outputs, err := f.run(ctx, m, s, r, &t)
	end := time.Now()
	s.stats.record(begin, end, &t, err)
	f.tel.inference(ctx, s.labels, line, &t, err)
	t.tell(line, begin, end)
	if err != nil {
		return nil, end, err
	}
	s.unloaded.Store(false)
	return &Answer{Manifest: m, Outputs: outputs, Cache: t.cache}, end, nil
}

func (f *Flow) run(ctx context.Context, m *model.Manifest, s *served, r *Request, t *timings) ([]tensor.Tensor, error) {
	if m.Features != "" {
		if err := f.join(ctx, m, s, r, t); err != nil {
			return nil, err
		}
	}
	inputs, err := m.Arrange(r.Inputs)
	if err != nil {
		return nil, err
	}
	if err := knownOutputs(m, r.Outputs); err != nil {
		return nil, err
	}
	if s.answers == nil {
		return f.compute(ctx, m, s, inputs, r.Outputs, t)
	}
	var outputs []tensor.Tensor
	outputs, t.cache, err = s.answers.Do(ctx, inputs, r.Outputs, r.Cache, func(ctx context.Context) ([]tensor.Tensor, error) {
		return f.compute(ctx, m, s, inputs, r.Outputs, t)
	})
	return outputs, err
}

// compute has the model run.
func (f *Flow) compute(ctx context.Context, m *model.Manifest, s *served, inputs []tensor.Tensor, outputs []string, t *timings) ([]tensor.Tensor, error) {
	begin := time.Now()
	lease, err := f.registry.Warm.Acquire(ctx, m)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	done, err := s.lane.Infer(ctx, begin, lease.Session, inputs)
	if err != nil {
		return nil, err
	}
	t.ran, t.began, t.queue, t.run, t.first, t.batch = true, begin, done.Waited, done.Took, done.First, done.Rows
	return choose(done.Outputs, outputs), nil
}

// Pick finds the version that answers a ref now. Where the ref has come to mean
// a version that is not warm here, the one that answered before goes on until
// the new one has loaded: an alias moves without a pause, and a version that
// fails to load never takes over.
// Canaries have no say here.
func (f *Flow) Pick(ctx context.Context, ref model.Ref) (*model.Manifest, error) {
	m, _, err := f.route(ctx, ref)
	return m, err
}

// route is Pick, and tells what else the alias names; nil: nothing else.
func (f *Flow) route(ctx context.Context, ref model.Ref) (*model.Manifest, *model.Split, error) {
	if err := auth.CheckModel(ctx, auth.Predict, ref.Name); err != nil { // whatever protocol it was named by
		return nil, nil, err
	}
	return f.resolve(ctx, ref)
}

// resolve is route for those who need not be allowed to ask the model.
func (f *Flow) resolve(ctx context.Context, ref model.Ref) (*model.Manifest, *model.Split, error) {
	m, split, err := f.registry.Route(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	v, ok := f.last.Load(ref)
	if ok && v.(*model.Manifest) == m {
		return m, split, nil
	}
	if ok {
		before := v.(*model.Manifest)
		now, _ := f.registry.Warm.State(m)
		then, _ := f.registry.Warm.State(before)
		if now != model.Ready && then == model.Ready {
			f.registry.Warm.Prefetch(ctx, m)
			return before, split, nil
		}
	}
	f.last.Store(ref, m)
	return m, split, nil
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

package predict

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
)

// What waits to be asked of shadows, at most.
const (
	shadowsMost     = 256      // requests
	shadowBytesMost = 16 << 20 // of them, in all
)

const (
	shadowTimeout  = 10 * time.Second // that a shadow may take for one request
	shadowPatience = time.Second      // for which one waits that a CPU is left over
)

// shadows asks versions what others have answered, and writes what they say to the
// payload log under the same id. It does so with one request at a time, and begins when a CPU is left over by
// answers. Nobody waits for it: where too many requests wait already they are dropped, and counted.
type shadows struct {
	flow  *Flow
	log   *slog.Logger
	queue chan shadowing
	bytes atomic.Int64 // of requests in the queue
	quit  chan struct{}
	done  sync.WaitGroup
}

// shadowing is a request that waits.
type shadowing struct {
	version *model.Manifest
	edge    edge
	size    int64
	ask     asking
	sample  float64
}

func newShadows(f *Flow, log *slog.Logger) *shadows {
	s := &shadows{flow: f, log: log, queue: make(chan shadowing, shadowsMost), quit: make(chan struct{})}
	s.done.Go(s.run)
	return s
}

// close drops what waits.
func (s *shadows) close() error {
	close(s.quit)
	s.done.Wait()
	for {
		select {
		case j := <-s.queue:
			s.count(j.version, "dropped")
		default:
			return nil
		}
	}
}

// ask has a shadow asked what was answered, kept as a sample of that many, by the request e. Nothing of them is used once it returns.
func (s *shadows) ask(ctx context.Context, name string, version int, answered *keeping, sample float64, e edge) {
	m := s.flow.registry.Known(name, version)
	if m == nil || s.flow.of(m).origin == nil { // there is none, or nothing of it is written
		return
	}
	if state, _ := s.flow.registry.Warm.State(m); state != model.Ready {
		s.flow.registry.Warm.Prefetch(ctx, m)
		s.count(m, "dropped")
		return
	}
	j := shadowing{version: m, size: int64(e.size()), sample: sample}
	full := len(s.queue) == cap(s.queue) || s.bytes.Load()+j.size > shadowBytesMost // before a copy is made for nothing
	if !full {
		var err error
		if j.edge, err = e.copied(); err != nil {
			return // it could not have been answered either
		}
		j.ask = asking{id: strings.Clone(answered.ID), caller: strings.Clone(answered.Caller), at: answered.At}
		s.bytes.Add(j.size)
		select {
		case s.queue <- j:
		default:
			s.bytes.Add(-j.size)
			full = true
		}
	}
	if full {
		s.count(m, "dropped")
	}
}

func (s *shadows) run() {
	for {
		select {
		case <-s.quit:
			return
		case j := <-s.queue:
			s.bytes.Add(-j.size)
			result := "asked"
			if !s.spare() || !s.put(&j) {
				result = "dropped"
			}
			s.count(j.version, result)
		}
	}
}

// spare waits until answers leave a CPU over, and tells whether they did.
func (s *shadows) spare() bool {
	for end := time.Now().Add(shadowPatience); !s.flow.queue.Spare(); {
		select {
		case <-s.quit:
			return false
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// put asks one and tells whether the shadow is to blame for what came of it.
func (s *shadows) put(j *shadowing) (asked bool) {
	ctx, cancel := context.WithTimeout(context.Background(), shadowTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil { // as the server does with that of an answer
			s.log.ErrorContext(ctx, "asking a shadow panicked", "model", j.version.Name, "version", j.version.Version, "error", fmt.Sprint(v))
		}
	}()
	f, own := s.flow, s.flow.of(j.version)
	keep := f.keep(own)
	defer keep.free()
	keep.wanted = true // as the answer's is
	j.ask.begin = time.Now()
	_, err := f.answer(ctx, &j.ask, j.version, own, nil, keep, nil, j.edge)
	switch fault.KindOf(err) {
	case fault.Overloaded, fault.Unavailable, fault.Deadline:
		return false
	}
	keep.At = j.ask.at
	keep.add(f.log, sampled(own.origin, j.sample), &j.ask, err)
	return true
}

// sampled is an origin of which so large a share is kept.
func sampled(o *payload.Origin, share float64) *payload.Origin {
	if o.Sample == share {
		return o
	}
	same := *o
	same.Sample = share
	return &same
}

func (s *shadows) count(m *model.Manifest, result string) {
	s.flow.tel.shadows.Add(context.Background(), 1, s.flow.of(m).labels.all, metric.WithAttributes(attribute.String("result", result)))
}

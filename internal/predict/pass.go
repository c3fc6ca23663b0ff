package predict

import (
	"context"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// edge is one request as its protocol knows it. Every protocol's requests take
// the same way: Flow.pass.
type edge interface {
	// decode reads the request, given the version that is going to answer it and
	// what callers bring for it. What it gives must stay as it is until encode has
	// been called.
	decode(m *model.Manifest, asks []tensor.Spec) (*Request, error)
	// encode writes the answer into memory; version is the number of the one that gave it.
	encode(a *Answer, version string) error
}

// pass takes a request through the flow, and tells its log line and the
// statistics of the version what each step took. begin is when the request's
// body began to be read, control what its caller says of remembered answers.
func (f *Flow) pass(ctx context.Context, ref model.Ref, begin time.Time, control cache.Control, e edge) (cache.Outcome, error) {
	m, err := f.Pick(ctx, ref)
	if err != nil {
		return cache.Outcome{}, err
	}
	s := f.of(m)
	line := telemetry.LineFrom(ctx)
	line.SetModel(m.Name, s.version)

	if s.answers == nil { // else it may need no run
		if err := s.lane.Admit(ctx); err != nil {
			return cache.Outcome{}, err
		}
	}
	asks, err := f.asks(ctx, m)
	if err != nil {
		return cache.Outcome{}, err
	}
	r, err := e.decode(m, asks)
	if err != nil {
		return cache.Outcome{}, err
	}
	r.Cache = control
	if r.ID != "" {
		line.SetID(r.ID)
	}
	decoded := time.Now()
	a, inferred, err := f.infer(ctx, m, s, r, decoded)
	if err != nil {
		return cache.Outcome{}, err
	}
	if err := e.encode(a, s.version); err != nil {
		return cache.Outcome{}, err
	}
	encoded := time.Now()
	s.stats.recordEdge(rows(m, r.Inputs), decoded.Sub(begin), encoded.Sub(inferred))
	line.Timing("decode", decoded.Sub(begin))
	line.Timing("infer", inferred.Sub(decoded))
	line.Timing("encode", encoded.Sub(inferred))
	return a.Cache, nil
}

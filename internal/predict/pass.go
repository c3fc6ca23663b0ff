package predict

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/limit"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
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
	// size is how many bytes the request has, and copied another edge with a copy of it.
	size() int
	copied() (edge, error)
	protocol() protocol
}

// asking is what is known of a request before it is read.
type asking struct {
	ref     model.Ref
	begin   time.Time     // when its body began to be read
	control cache.Control // what its caller says of remembered answers
	from    *http.Request // whose caller it is; nil: caller says
	caller  string
	id      string    // of the prediction, if it has one already
	key     string    // whose it is, if that is known
	at      time.Time // as of when it is, unless it says so itself; zero: begin
}

// told is what a caller is told beside the answer.
type told struct {
	cache cache.Outcome
	id    string // of the prediction; empty: it is not kept
	rows  int64
	at    time.Time // when the answer was written
}

// predictionID is the header with the id by which outcomes find a prediction.
const predictionID = "Prediction-Id"

func (t *told) tell(head http.Header) {
	tellCache(head, t.cache)
	if t.id != "" && visible(t.id) {
		head[predictionID] = []string{t.id}
	}
	if t.rows > 0 {
		head[limit.RowsHeader] = rowsValue(t.rows)
	}
}

// oneRow is shared: most predictions are for one.
var oneRow = []string{"1"}

func rowsValue(n int64) []string {
	if n == 1 {
		return oneRow
	}
	return []string{strconv.FormatInt(n, 10)}
}

// visible tells whether an id can stand in a header as it is. One that can't is its caller's own.
func visible(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// pass takes a request through the flow, tells its log line and the
// statistics of the version what each step took, and writes it to the payload log.
func (f *Flow) pass(ctx context.Context, ask *asking, e edge) (told, error) {
	m, split, err := f.route(ctx, ask.ref)
	if err != nil {
		return told{}, err
	}
	var r *Request
	if split != nil {
		m, r = f.choose(ctx, ask, m, split, e)
	}
	s := f.of(m)
	line := telemetry.LineFrom(ctx)
	line.SetModel(m.Name, s.version)
	line.SetPace(&s.pace)
	keep := f.keep(s)
	defer keep.free()
	about, err := f.answer(ctx, ask, m, s, r, keep, line, e)
	end := about.at
	if err != nil {
		end = time.Now()
		s.pulse.Failed(end)
	} else {
		s.pulse.Answered(end, end.Sub(ask.begin))
	}
	f.tel.request(ctx, s.labels, e.protocol(), end.Sub(ask.begin), err)
	switch {
	case keep != nil && (err != nil || keep.wanted):
		keep.Trace, keep.Sampled, keep.Protocol = line.Trace(), line.Sampled(), protocolNames[e.protocol()]
		keep.add(f.log, s.origin, ask, err)
		about.id = keep.ID
		if split != nil && err == nil {
			f.shadows.ask(ctx, m.Name, split.Shadow, keep, s.origin.Sample, e)
		}
	case keep != nil:
		f.log.Skip()
	}
	return about, err
}

// read reads a request for a version, unless there is no hope that it would run.
func (f *Flow) read(ctx context.Context, m *model.Manifest, s *served, e edge) (*Request, error) {
	if s.answers == nil { // else it may need no run
		if err := s.lane.Admit(ctx); err != nil {
			return nil, err
		}
	}
	asks, err := f.asks(ctx, m)
	if err != nil {
		return nil, err
	}
	return e.decode(m, asks)
}

// answer answers a request by a version; r is what was read for it already, or nil.
func (f *Flow) answer(ctx context.Context, ask *asking, m *model.Manifest, s *served, r *Request, keep *keeping, line *telemetry.Line, e edge) (told, error) {
	if r == nil {
		var err error
		if r, err = f.read(ctx, m, s, e); err != nil {
			return told{}, err
		}
	}
	if r.FeatureTime.IsZero() {
		r.FeatureTime = ask.at
	}
	r.Cache = ask.control
	if r.ID != "" {
		line.SetID(r.ID)
	}
	if keep != nil {
		keep.ID, keep.At, keep.Given = r.ID, r.FeatureTime, r.Inputs
		if keep.wanted {
			r.keep = keep
		}
	}
	decoded := time.Now()
	line.Step(telemetry.StepDecode, ask.begin, decoded.Sub(ask.begin))
	a, inferred, err := f.infer(ctx, m, s, r, line, decoded)
	if err != nil {
		return told{}, err
	}
	if err := e.encode(a, s.version); err != nil {
		return told{}, err
	}
	encoded := time.Now()
	n := rows(m, r.Inputs)
	if keep != nil {
		keep.Outputs, keep.Rows, keep.Latency = a.Outputs, int(n), encoded.Sub(ask.begin)
		if a.Cache.Status != cache.Off {
			keep.Cache = a.Cache.Status.String()
		}
	}
	s.stats.recordEdge(n, decoded.Sub(ask.begin), encoded.Sub(inferred))
	line.Step(telemetry.StepEncode, inferred, encoded.Sub(inferred))
	line.Timing("decode", decoded.Sub(ask.begin))
	line.Timing("infer", inferred.Sub(decoded))
	line.Timing("encode", encoded.Sub(inferred))
	return told{cache: a.Cache, rows: n, at: encoded}, nil
}

// originOf is a version as the payload log knows it.
func originOf(m *model.Manifest) *payload.Origin {
	o := &payload.Origin{Model: m.Name, Version: m.Version, Digest: string(m.Digest), Sample: m.Log.Sample, Redact: map[string]bool{}}
	if o.Sample == 0 {
		o.Sample = 1
	}
	for _, name := range m.Log.Redact {
		o.Redact[name] = true
	}
	return o
}

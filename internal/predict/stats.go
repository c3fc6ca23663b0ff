package predict

import (
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/cache"
	"github.com/pilotlight-ml/pilotlight/internal/oip"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// timings are how one request spent its time. Decode and encode belong to the
// protocol's edge and are added by it.
type timings struct {
	rows     int64
	features time.Duration // fetching them
	asked    time.Time     // of that: when the online store was
	online   time.Duration // and how long it took
	cache    cache.Outcome
	ran      bool          // the model ran for it: else what follows is nothing
	began    time.Time     // when a session was asked for
	queue    time.Duration // waiting for a session and for a turn
	run      time.Duration // of the run that it was in
	first    bool          // it stands for that run, in which there may have been others
	batch    int64         // rows of that run
}

// tell notes on a request's line what it spent its time on, as far as it came: from begin, when it had been read, to end.
func (t *timings) tell(line *telemetry.Line, begin, end time.Time) {
	if t.features > 0 {
		line.Step(telemetry.StepFeatures, begin, t.features)
		if t.online > 0 {
			line.Step(telemetry.StepOnline, t.asked, t.online)
		}
	}
	if t.cache.Status != cache.Off {
		from := begin.Add(t.features)
		if t.ran {
			end = t.began
		}
		line.Step(telemetry.StepCache, from, end.Sub(from))
	}
	if t.ran {
		line.Step(telemetry.StepQueue, t.began, t.queue)
		line.Step(telemetry.StepRun, t.began.Add(t.queue), t.run)
	}
}

// stats are what the statistics extension tells of one version, since this
// process began to serve it.
type stats struct {
	mu         sync.Mutex
	last       time.Time
	answered   uint64 // rows, of which rows were run
	rows, runs uint64
	success    sum
	fail       sum
	queue      sum
	input      sum
	infer      sum
	output     sum
	hit, miss  sum
	batches    map[int64]*batch
}

// batch is the sum of all runs of one size.
type batch struct{ input, infer, output sum }

// sum is a count and the time of all that it counts.
type sum struct {
	n uint64
	d time.Duration
}

func (s *sum) add(d time.Duration) {
	s.n++
	s.d += d
}

func (s *sum) stat() oip.Duration {
	return oip.Duration{Count: s.n, Nanoseconds: uint64(s.d)}
}

// batchesMost bounds how many batch sizes are told apart.
const batchesMost = 64

func (s *stats) record(begin, end time.Time, t *timings, err error) {
	total := end.Sub(begin)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.fail.add(total)
		return
	}
	s.last = begin
	s.success.add(total)
	s.answered += uint64(t.rows)
	switch t.cache.Status {
	case cache.Off:
	case cache.Hit, cache.HitShared, cache.Stale, cache.Joined:
		s.hit.add(total)
	default:
		s.miss.add(total - t.queue - t.run)
	}
	if !t.ran {
		return
	}
	s.rows += uint64(t.rows)
	s.queue.add(t.queue)
	s.infer.add(t.run)
	if t.first {
		s.runs++
		if b := s.batch(t.batch); b != nil {
			b.infer.add(t.run)
		}
	}
}

// recordEdge adds what decoding and encoding one answered request took.
func (s *stats) recordEdge(rows int64, decode, encode time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input.add(decode)
	s.output.add(encode)
	if b := s.batch(rows); b != nil {
		b.input.add(decode)
		b.output.add(encode)
	}
}

func (s *stats) batch(rows int64) *batch {
	if s.batches == nil {
		s.batches = map[int64]*batch{}
	}
	b := s.batches[rows]
	if b == nil && len(s.batches) < batchesMost {
		b = &batch{}
		s.batches[rows] = b
	}
	return b
}

package cache

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/tensor"
)

// Spec describes one version of a model to the cache.
type Spec struct {
	Model string // its name, for logs and metrics
	// Identity is all that answers depend on beside the request: the digests of the
	// file and of the manifest.
	Identity []string
	// TTL is how long an answer is fresh; 0: answers are never remembered.
	TTL time.Duration
	// Stale is how long after that an answer may still be given while a new one is made.
	Stale time.Duration
	// Compute answers a request again, behind the callers' backs.
	Compute func(ctx context.Context, inputs []tensor.Tensor, outputs []string) ([]tensor.Tensor, error)
}

// Scope is the cache of one version of a model, and what was learned about
// whether remembering its answers pays.
type Scope struct {
	cache *Cache
	spec  Spec
	image [sha256.Size]byte // what keys begin with

	run        average // what an answer costs without the cache
	trials     trials  // of the cache as a whole
	sample     sample  // of the store
	distrusted atomic.Bool
	results    [statuses]atomic.Int64
	checks     atomic.Int64
}

// Scope prepares the cache of a version. It lives as long as the cache.
func (c *Cache) Scope(spec Spec) *Scope {
	var image scratch
	image.appendLength(len(spec.Identity))
	for _, part := range spec.Identity {
		image.appendString(part)
	}
	s := &Scope{cache: c, spec: spec, image: sha256.Sum256(image.image)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scopes = append(c.scopes, s)
	return s
}

// Do answers a request: from memory, from the store, by waiting for a request
// that is the same, or by run. The inputs stand in signature order, with features
// resolved. They and what run works on are used on the caller's goroutine and
// until Do returns, not after; run's context outlives the caller's when others
// wait for the same answer. The outputs are shared: nobody may write to them.
func (s *Scope) Do(ctx context.Context, inputs []tensor.Tensor, outputs []string, control Control,
	run func(ctx context.Context) ([]tensor.Tensor, error),
) ([]tensor.Tensor, Outcome, error) {
	r := request{Scope: s, control: control, inputs: inputs, outputs: outputs}
	answer, o, err := r.do(ctx, run)
	s.results[o.Status].Add(1)
	return answer, o, err
}

// request is one that the cache is asked about.
type request struct {
	*Scope
	control Control
	inputs  []tensor.Tensor
	outputs []string
	keyer   *keyer
	key     Key
	away    time.Duration // spent on the run and on the store
	waited  bool          // for another request that was the same
}

type run func(ctx context.Context) ([]tensor.Tensor, error)

func (r *request) do(ctx context.Context, run run) ([]tensor.Tensor, Outcome, error) {
	if without := r.without(); without != Miss {
		answer, err := r.compute(ctx, run)
		return answer, Outcome{Status: without}, err
	}
	if n := r.trials.ask(r.hits, &r.run); n%timed == 0 {
		begin := time.Now()
		answer, o, err := r.through(ctx, run)
		if !r.waited {
			r.trials.cost.add(time.Since(begin) - r.away)
		}
		return answer, o, err
	}
	return r.through(ctx, run)
}

// timed is of how many requests one has the time taken that the cache costs.
const timed = 16

// through takes the request through the cache.
func (r *request) through(ctx context.Context, run run) ([]tensor.Tensor, Outcome, error) {
	r.keyer = r.cache.keyer.Load()
	r.key = r.keyer.key(r.image[:], r.inputs, r.outputs)
	e := r.cache.memory.get(r.key)
	if o := r.judge(e, time.Now(), Hit); o.Status != Miss {
		r.after(e.outputs, o)
		return e.outputs, o, nil
	}
	if r.control.NoCache {
		return r.fill(ctx, run, Forced)
	}
	answer, o, joined, err := r.cache.flight.do(ctx, r.key, func(ctx context.Context) ([]tensor.Tensor, Outcome, error) {
		return r.find(ctx, run)
	})
	r.waited = joined
	switch {
	case !joined || err != nil:
	case !o.Status.Cached():
		o = Outcome{Status: Joined}
	case !r.control.takes(o.Age, r.spec.TTL): // the other took an older answer than this one may
		return r.fill(ctx, run, Miss)
	}
	if err == nil {
		r.after(answer, o)
	}
	return answer, o, err
}

// without tells why a request does not meet the cache; Miss: it does.
func (r *request) without() Status {
	switch {
	case r.spec.TTL <= 0:
		return Off
	case r.distrusted.Load():
		return Distrusted
	case r.control.NoStore:
		return Refused
	case !r.trials.wanted():
		return Skipped
	}
	return Miss
}

// judge tells what an entry that was found is good for; Miss: nothing.
func (r *request) judge(e *entry, now time.Time, fresh Status) Outcome {
	if e == nil {
		return Outcome{Status: Miss}
	}
	age := max(0, time.Duration(now.UnixNano()-e.made)) // clocks differ between processes
	o := Outcome{Status: fresh, Age: age, TTL: r.spec.TTL - age}
	switch {
	case !r.control.takes(age, r.spec.TTL), o.TTL+r.spec.Stale <= 0:
		return Outcome{Status: Miss}
	case o.TTL <= 0:
		o.Status = Stale
	}
	return o
}

// find looks into the store, and runs the model if nothing is there.
func (r *request) find(ctx context.Context, run run) ([]tensor.Tensor, Outcome, error) {
	// Another request may have put it there just before this one became the first.
	e := r.cache.memory.get(r.key)
	if o := r.judge(e, time.Now(), Hit); o.Status != Miss {
		return e.outputs, o, nil
	}
	if s := r.store(); s != nil {
		begin := time.Now()
		e, answered := s.get(ctx, r.keyer, r.key)
		now := time.Now()
		r.away += now.Sub(begin)
		o := r.judge(e, now, HitShared)
		if answered || s.up.Load() { // an outage tells nothing of better days
			r.sample.cost.add(now.Sub(begin))
			r.sample.saw(r.key, o.Status != Miss, &r.run)
		}
		if o.Status != Miss {
			e.life = o.TTL + r.spec.Stale
			r.cache.memory.put(r.key, e)
			return e.outputs, o, nil
		}
	}
	return r.fill(ctx, run, Miss)
}

// store is the store that the request may use, or nil.
func (r *request) store() *shared {
	if s := r.cache.shared; s != nil && s.up.Load() && r.sample.wanted(r.key) {
		return s
	}
	return nil
}

// fill runs the model and remembers its answer.
func (r *request) fill(ctx context.Context, run run, status Status) ([]tensor.Tensor, Outcome, error) {
	answer, err := r.compute(ctx, run)
	if err != nil {
		return nil, Outcome{Status: status}, err
	}
	return answer, Outcome{Status: status, Stored: r.remember(answer)}, nil
}

func (r *request) compute(ctx context.Context, run run) ([]tensor.Tensor, error) {
	begin := time.Now()
	answer, err := run(ctx)
	spent := time.Since(begin)
	if r.away += spent; err == nil {
		r.run.add(spent)
	}
	return answer, err
}

func (r *request) remember(answer []tensor.Tensor) bool {
	raw := encode(answer, time.Now().UnixNano(), int(r.cache.config.Value))
	if raw == nil {
		return false
	}
	e := decode(raw)
	if e == nil {
		return false // no tensors: the engine's fault, and not for this place to tell
	}
	e.life = r.spec.TTL + r.spec.Stale
	if s := r.store(); s != nil {
		signature := r.keyer.sign(r.key, raw[entryStart:])
		copy(raw, signature[:])
		s.put(write{r.key, raw, e.life})
	}
	r.cache.memory.put(r.key, e)
	return true
}

// after does what a cached answer asks for once it has been found: a new one for
// a stale one, a check of some of the others.
func (r *request) after(answer []tensor.Tensor, o Outcome) {
	switch {
	case o.Status == Stale:
		r.refresh()
	case o.Status.Cached() && r.cache.config.Check > 0 && rand.IntN(r.cache.config.Check) == 0:
		r.check(answer)
	}
}

// own is the request in memory of its own, for what outlives the caller's.
func (r *request) own() *request {
	return &request{Scope: r.Scope, inputs: clone(r.inputs), outputs: cloneStrings(r.outputs), keyer: r.keyer, key: r.key}
}

func (r *request) again(ctx context.Context) ([]tensor.Tensor, error) {
	return r.spec.Compute(ctx, r.inputs, r.outputs)
}

func (r *request) refresh() {
	if r.cache.flight.busy(r.key) {
		return
	}
	own := r.own()
	r.cache.later(func(ctx context.Context) {
		// An error is for the caller to hear who comes when nothing is left.
		_, _, _, _ = own.cache.flight.do(ctx, own.key, func(ctx context.Context) ([]tensor.Tensor, Outcome, error) {
			return own.fill(ctx, own.again, Miss)
		})
	})
}

func (r *request) check(before []tensor.Tensor) {
	own := r.own()
	r.cache.later(func(ctx context.Context) {
		now, err := own.again(ctx)
		if err != nil {
			return
		}
		own.checks.Add(1)
		if !tensor.Near(before, now) && !own.distrusted.Swap(true) {
			own.cache.log.WarnContext(ctx, "cache: the model answers the same request differently, so this process remembers its answers no more", "model", own.spec.Model)
		}
	})
}

// hits counts the requests that had no run of their own.
func (s *Scope) hits() int64 {
	return s.results[Hit].Load() + s.results[HitShared].Load() + s.results[Stale].Load() + s.results[Joined].Load()
}

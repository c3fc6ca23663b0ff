// Package cache remembers what models answered, in the memory of the process
// and in a store that processes share.
//
// An answer is found by a keyed hash over all that it depends on: the version,
// the inputs bit by bit, the wanted outputs. Requests that are the same at the
// same time share one run. Nothing here ever fails a request: a store that is
// slow or gone, and an entry that is damaged, cost at most a short budget, and
// the model runs. Lookups that would cost more than they save are left out, and
// a sample of hits is computed again: a model that then answers differently is
// remembered no more.
//
// All of it is safe for concurrent use. Answers are shared: nobody may write to
// them. The package knows no protocol but the words of HTTP's Cache-Control and
// Cache-Status.
package cache

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says how much is remembered and how much may be spent on it.
type Config struct {
	Size    env.Size      `env:"CACHE_SIZE" default:"64MiB" help:"How much memory of the process remembered answers may take; 0: none are kept there."`
	Value   env.Size      `env:"CACHE_VALUE_SIZE" default:"1MiB" help:"The largest answer that is remembered."`
	Timeout time.Duration `env:"CACHE_L2_TIMEOUT" default:"20ms" help:"How long a request may wait for the shared cache; a quarter of its remaining time at most."`
	Check   int           `env:"CACHE_CHECK" default:"1000" help:"Of so many hits one is computed again and compared; 0: none is."`
	Secret  env.Secret    `env:"CACHE_SECRET_FILE,file" help:"File with the secret that answers are hashed and signed under, the same for all instances; without one it lies in the shared cache, and whoever can write there can forge answers."`
}

// secretLeast is the shortest secret that is one.
const secretLeast = 16

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.Size < 0:
		return fault.New(fault.Invalid, "CACHE_SIZE must not be negative")
	case c.Value <= 0 || c.Value > 1<<30:
		return fault.New(fault.Invalid, "CACHE_VALUE_SIZE must be positive and at most 1GiB")
	case c.Timeout <= 0:
		return fault.New(fault.Invalid, "CACHE_L2_TIMEOUT must be positive")
	case c.Check < 0:
		return fault.New(fault.Invalid, "CACHE_CHECK must not be negative")
	case c.Secret != "" && len(c.Secret) < secretLeast:
		return fault.New(fault.Invalid, "CACHE_SECRET_FILE holds less than %d bytes", secretLeast)
	}
	return nil
}

// Cache remembers answers of any number of models.
type Cache struct {
	config Config
	log    *slog.Logger
	keyer  atomic.Pointer[keyer]
	memory memory
	shared *shared // nil: there is none
	flight flights

	background sync.WaitGroup
	slots      chan struct{} // one for each answer that is computed in the background
	ctx        context.Context
	stop       context.CancelFunc
	metrics    metric.Registration

	mu     sync.Mutex
	scopes []*Scope
}

// backgroundMost is how many answers are computed at once that nobody waits for.
const backgroundMost = 2

// Open makes a cache. kv is shared with other processes and has a bound of its
// own (Redis with maxmemory); nil: answers stay in this process. Open does not
// wait for it.
func Open(c *Config, kv store.KV, tel *telemetry.Telemetry) (*Cache, error) {
	a := &Cache{config: *c, log: tel.Log, memory: newMemory(int64(c.Size)), slots: make(chan struct{}, backgroundMost)}
	a.flight.of = map[Key]*flight{}
	a.ctx, a.stop = context.WithCancel(context.Background())
	secret := []byte(c.Secret)
	if c.Secret == "" {
		secret = newSecret()
	}
	a.keyer.Store(newKeyer(secret))
	if kv != nil {
		a.shared = &shared{
			kv: kv, budget: c.Timeout, most: int(c.Value), agreed: c.Secret != "",
			down: make(chan struct{}, 1), writes: make(chan write, queueMost),
		}
	}
	if err := a.measure(tel); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if kv != nil {
		a.background.Go(func() {
			a.shared.probe(a.ctx, secret, func(secret []byte) { a.keyer.Store(newKeyer(secret)) })
		})
		for range writers {
			a.background.Go(func() { a.shared.write(a.ctx) })
		}
	}
	return a, nil
}

// Close ends what runs in the background. No request may be under way or follow.
// What waits to be written to the store is dropped.
func (c *Cache) Close() error {
	c.stop()
	c.background.Wait()
	c.memory.close()
	if c.metrics == nil {
		return nil
	}
	return c.metrics.Unregister()
}

// later runs f in the background, unless enough is running there.
func (c *Cache) later(f func(ctx context.Context)) {
	select {
	case c.slots <- struct{}{}:
		c.background.Go(func() {
			defer func() { <-c.slots }()
			ctx, cancel := context.WithTimeout(c.ctx, backgroundTime)
			defer cancel()
			f(ctx)
		})
	default:
	}
}

// backgroundTime bounds a run that nobody waits for.
const backgroundTime = time.Minute

// memory is the part of the cache in this process.
type memory struct{ cache *otter.Cache[Key, *entry] }

func newMemory(most int64) memory {
	if most == 0 {
		return memory{}
	}
	return memory{otter.Must(&otter.Options[Key, *entry]{ // the options are right
		MaximumWeight:    uint64(most),
		Weigher:          func(_ Key, e *entry) uint32 { return e.weight() },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, *entry]) time.Duration { return e.Value.life }),
	})}
}

func (m memory) get(key Key) *entry {
	if m.cache == nil {
		return nil
	}
	e, _ := m.cache.GetIfPresent(key)
	return e
}

func (m memory) put(key Key, e *entry) {
	if m.cache != nil {
		m.cache.Set(key, e)
	}
}

func (m memory) bytes() int64 {
	if m.cache == nil {
		return 0
	}
	return int64(m.cache.WeightedSize())
}

func (m memory) close() {
	if m.cache != nil {
		m.cache.StopAllGoroutines()
	}
}

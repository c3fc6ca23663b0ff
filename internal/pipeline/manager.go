package pipeline

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/event"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says how pipelines are run.
type Config struct {
	Steps  string        `env:"PIPELINE_STEPS" default:"process" help:"Where steps run that take minutes or gigabytes: process, each in a process of its own; function, in the function itself, within PIPELINE_TURN."`
	Jobs   string        `env:"PIPELINE_JOBS" help:"Where such steps are asked for as jobs of a cluster: the URL of a Knative JobSink. Empty: they run where PIPELINE_STEPS says."`
	Await  time.Duration `env:"PIPELINE_JOB_PATIENCE" default:"10m" help:"How long a job may take until it is heard of for the first time: a node and an image have to be there."`
	Memory env.Size      `env:"PIPELINE_MEMORY" default:"0" help:"How much memory the process of a step may take with what it starts; beyond that it is ended. 0: as much as there is."`
	Lease  time.Duration `env:"PIPELINE_LEASE" default:"30s" help:"How long a run stays with a process that is not heard of any more; then another goes on with it."`
	Turn   time.Duration `env:"PIPELINE_TURN" default:"8m" help:"How long the function works on runs for one event; then it has another one sent. Less than its trigger and its service wait for it."`
	Keep   time.Duration `env:"PIPELINE_KEEP" default:"2160h" help:"How long runs, their logs and their files are kept."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.Steps != "process" && c.Steps != "function":
		return fault.New(fault.Invalid, "PIPELINE_STEPS is %q, expected process or function", c.Steps)
	case c.Lease < time.Second || c.Turn < 2*c.Lease:
		return fault.New(fault.Invalid, "PIPELINE_LEASE is %s and PIPELINE_TURN %s, expected at least 1s, and a turn of two leases", c.Lease, c.Turn)
	case c.Jobs != "" && c.Await < c.Lease:
		return fault.New(fault.Invalid, "PIPELINE_JOB_PATIENCE is %s, expected PIPELINE_LEASE (%s) or more", c.Await, c.Lease)
	case c.Memory < 0 || c.Keep <= 0:
		return fault.New(fault.Invalid, "PIPELINE_MEMORY must not be negative, and PIPELINE_KEEP be positive")
	}
	return nil
}

// Deps are what pipelines work with.
type Deps struct {
	Blob  store.Blob
	Sink  event.Sink // hears of runs, and has them gone on with; nil: ticks alone do
	Kinds []Kind
	Place Place // of heavy steps; nil: the function itself
}

// Manager keeps the pipelines of a bucket, and their runs. It is safe for concurrent use, by any number of processes.
type Manager struct {
	blob    store.Blob
	sink    event.Sink
	kinds   map[string]*Kind
	place   Place
	lease   time.Duration
	turn    time.Duration
	kept    time.Duration
	pause   time.Duration // before a step is tried again for the first time
	log     *slog.Logger
	tel     *telemetry.Telemetry
	metrics *instruments
	now     func() time.Time
	process string // names this process in leases
	ending  context.Context
	stop    context.CancelFunc

	mu     sync.Mutex
	cached map[string]*Version // the newest that was read
}

// New makes a manager. It does nothing until its methods are called.
func New(c *Config, d Deps, tel *telemetry.Telemetry) (*Manager, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	metrics, err := newInstruments(tel)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "somewhere"
	}
	m := &Manager{
		blob: d.Blob, sink: d.Sink, kinds: map[string]*Kind{}, place: d.Place, lease: c.Lease, turn: c.Turn, kept: c.Keep, pause: pauseUsed,
		log: tel.Log, tel: tel, metrics: metrics, now: time.Now, process: fmt.Sprintf("%s/%d", host, os.Getpid()), cached: map[string]*Version{},
	}
	m.ending, m.stop = context.WithCancel(context.Background())
	for i := range d.Kinds {
		k := &d.Kinds[i]
		if m.kinds[k.Name] != nil {
			return nil, fmt.Errorf("there are two kinds of steps %q", k.Name)
		}
		m.kinds[k.Name] = k
	}
	return m, nil
}

// holder names somebody who works on a run: never the same twice, so that a process can't take what it has lost for its own.
func (m *Manager) holder() string { return m.process + "/" + strings.ToLower(rand.Text()[:8]) }

// sweep deletes runs of a pipeline before its newest that began long ago, with what they left.
func (m *Manager) sweep(ctx context.Context, name, newest string) {
	err := func() error {
		before := m.now().Add(-m.kept).UTC().Format(idLayout)
		for o, err := range m.blob.List(ctx, Prefix+name+"/runs/", "") {
			if err != nil {
				return err
			}
			id := strings.TrimPrefix(o.Key, Prefix+name+"/runs/")
			if id >= min(before, newest) {
				return nil
			}
			for _, of := range []string{"files/", "logs/", "results/", "quarantine/"} {
				for o, err := range m.blob.List(ctx, Prefix+name+"/"+of+id+"/", "") {
					if err == nil {
						err = m.blob.Delete(ctx, o.Key)
					}
					if err != nil {
						return err
					}
				}
			}
			if err := m.blob.Delete(ctx, o.Key); err != nil { // last, so that the rest is found again
				return err
			}
		}
		return nil
	}()
	if err != nil {
		m.log.WarnContext(ctx, "old runs are left", slog.String("pipeline", name), slog.String("error", err.Error()))
	}
}

package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Function is what a main runs.
type Function struct {
	Name string
	// Configs are pointers to the structs that the environment fills, besides
	// those of telemetry and of the server.
	Configs []any
	// Wire opens what the function is made of and mounts it on the process.
	Wire func(ctx context.Context, p *Process) error
	// Do is what the process is for, where it is to do one thing and end instead of serving; mostly nil.
	Do func(ctx context.Context, p *Process) error
	// Register hands the finished handler to a host of functions; may be nil.
	Register Register
}

// Register takes a handler by name, as the functions framework does.
type Register func(name string, handler func(http.ResponseWriter, *http.Request))

// Process is a function on its way up: Wire uses the methods, before the
// server listens.
type Process struct {
	Tel *telemetry.Telemetry
	Mux *http.ServeMux

	server *Server
	guard  func(http.Handler) http.Handler
	opened []func(*Server)
	ready  []func() error
	closes []func() error
	ctx    context.Context // of work
	stop   context.CancelFunc
	work   sync.WaitGroup
}

// Guard puts a handler before all others, which lets those through who may. The last that was put is the first that is asked.
func (p *Process) Guard(wrap func(http.Handler) http.Handler) {
	inner := p.guard
	p.guard = func(h http.Handler) http.Handler {
		if inner != nil {
			h = inner(h)
		}
		return wrap(h)
	}
}

// Ready adds a condition for readiness; its errors are for strangers.
func (p *Process) Ready(f func() error) { p.ready = append(p.ready, f) }

// Defer has f called at the end, in reverse order.
func (p *Process) Defer(f func() error) { p.closes = append(p.closes, f) }

// Listening has f called once the server listens.
func (p *Process) Listening(f func(*Server)) { p.opened = append(p.opened, f) }

// Go has f done beside the start. The process does not end before it: its
// context ends once the server has drained.
func (p *Process) Go(f func(context.Context)) { p.work.Go(func() { f(p.ctx) }) }

// Await has try done beside the start, again each second until it succeeds, and the process not ready before that. doing
// says in the log what is tried, missing says to strangers what there is not yet.
func (p *Process) Await(doing, missing string, try func(context.Context) error) (ready func() error) {
	var done atomic.Bool
	p.Go(func(ctx context.Context) {
		for ctx.Err() == nil {
			err := try(ctx)
			if err == nil {
				done.Store(true)
				return
			}
			p.Tel.Log.WarnContext(ctx, doing, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	ready = func() error {
		if !done.Load() {
			return fault.New(fault.Unavailable, "%s", missing)
		}
		return nil
	}
	p.Ready(ready)
	return ready
}

// Server gives the server, once it listens.
func (p *Process) Server() *Server { return p.server }

// Main runs the function until the process is told to end. With -config it
// prints the configuration instead.
func (f *Function) Main() {
	if err := f.main(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", f.Name, err)
		os.Exit(1)
	}
}

func (f *Function) main(ctx context.Context) (err error) {
	config := ""
	flag.BoolFunc("config", "print the configuration that is in force and end; -config=markdown: as docs/config.md", func(s string) error {
		if config = s; s == "true" {
			config = "table"
		}
		return nil
	})
	flag.Parse()
	if config != "" {
		table, err := env.Load(env.Environ(), f.configs(&telemetry.Config{}, &Config{})...)
		if err != nil {
			return err
		}
		return table.Write(os.Stdout, config)
	}
	if f.Do != nil {
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		p, _, err := f.begin(ctx, env.Environ())
		if err != nil {
			return err
		}
		return errors.Join(f.Do(ctx, p), p.close())
	}
	p, err := f.Start(ctx, env.Environ())
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

func (f *Function) configs(tel *telemetry.Config, server *Config) []any {
	return append([]any{tel, server}, f.Configs...)
}

// Start brings the function up from its environment to where it listens. Run
// must follow.
func (f *Function) Start(ctx context.Context, environ map[string]string) (_ *Process, err error) {
	p, sc, err := f.begin(ctx, environ)
	if err != nil {
		return nil, err
	}
	if err := f.Wire(ctx, p); err != nil {
		return nil, errors.Join(err, p.close())
	}
	var handler http.Handler = p.Mux
	switch {
	case p.guard != nil:
		handler = p.guard(handler)
	case sc.Auth == "on":
		return nil, errors.Join(fault.New(fault.Invalid, "AUTH=on, and this function has nobody who would check callers"), p.close())
	}
	if p.server, err = Open(ctx, sc, p.Tel, handler, p.ready...); err != nil {
		return nil, errors.Join(err, p.close())
	}
	for _, f := range p.opened {
		f(p.server)
	}
	if f.Register != nil {
		f.Register(f.Name, p.server.ServeHTTP)
	}
	return p, nil
}

// begin reads the configuration and begins to tell what happens.
func (f *Function) begin(ctx context.Context, environ map[string]string) (*Process, *Config, error) {
	var tc telemetry.Config
	var sc Config
	if _, err := env.Load(environ, f.configs(&tc, &sc)...); err != nil {
		return nil, nil, err
	}
	tel, err := telemetry.Start(ctx, &tc, f.Name)
	if err != nil {
		return nil, nil, err
	}
	p := &Process{Tel: tel, Mux: http.NewServeMux()}
	p.ctx, p.stop = context.WithCancel(ctx)
	p.Defer(func() error { return tel.Shutdown(context.WithoutCancel(ctx)) })
	return p, &sc, nil
}

// Run serves until ctx ends or the process is told to end, then closes what was
// opened, in reverse.
func (p *Process) Run(ctx context.Context) error {
	return errors.Join(p.server.Run(ctx), p.close())
}

func (p *Process) close() error {
	p.stop()
	p.work.Wait()
	p.Tel.ColdStart.End() // while who takes spans is still open
	var errs []error
	for _, c := range slices.Backward(p.closes) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

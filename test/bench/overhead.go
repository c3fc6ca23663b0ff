package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// many is how many callers there are when there is more than one.
const many = 8

// variant is one server with one kind of request, or the engine alone.
type variant struct {
	name    string
	server  *process
	request request
	engine  string // name of the sample that the engine runs alone
	rounds  []measured
}

// measured is one variant in one round.
type measured struct {
	cpu     time.Duration // of one request with many callers, or of one run
	alone   load          // with one caller
	crowded load          // with many
}

func (m measured) perCore() float64 { return float64(time.Second) / float64(m.cpu) }

// overhead compares requests to functions/predict with the least that Go's
// server does for as many bytes, and with the engine alone.
func (b *bench) overhead(ctx context.Context) (err error) {
	var started []*process
	defer func() {
		for _, p := range started {
			err = errors.Join(err, p.stop())
		}
	}()
	start := func(l launch) (*process, error) {
		l.core = 0
		p, err := b.start(ctx, l)
		if err == nil {
			started = append(started, p)
		}
		return p, err
	}

	ours, err := start(launch{args: []string{b.predict}, env: []string{"MODEL_CACHE_DIR=" + b.dir + "/overhead"}, ready: "/readyz"})
	if err != nil {
		return err
	}
	plain, err := start(launch{args: []string{b.self, "child", "hello"}, ready: "/"})
	if err != nil {
		return err
	}
	hello := newRequest("GET", "/", nil, nil)
	hello.want = []byte("hello")
	all := []*variant{{name: "Go net/http hello (GET, 5 bytes)", server: plain, request: hello}}
	for _, name := range []string{"flights", "identity", "convolution"} {
		s, err := samples[name](b.root, b.dir)
		if err != nil {
			return err
		}
		r, err := b.push(ctx, ours, &s)
		if err != nil {
			return err
		}
		like, err := start(launch{args: []string{b.self, "child", "echo", fmt.Sprint(len(r.want))}, ready: "/"})
		if err != nil {
			return err
		}
		echo := newRequest("POST", "/", nil, s.body)
		echo.want = make([]byte, len(r.want))
		sizes := fmt.Sprintf("%s in, %s out", size(len(s.body)), size(len(r.want)))
		all = append(all,
			&variant{name: fmt.Sprintf("Go net/http, %s", sizes), server: like, request: echo},
			&variant{name: fmt.Sprintf("engine alone, %s", name), engine: name},
			&variant{name: fmt.Sprintf("**predict, %s** (%s)", name, sizes), server: ours, request: r},
		)
	}

	unpin, err := b.pin(ctx)
	if err != nil {
		return err
	}
	defer unpin()
	for round := range b.rounds {
		progress("overhead: round %d of %d", round+1, b.rounds)
		for _, v := range all {
			m, err := b.measure(ctx, v)
			if err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			v.rounds = append(v.rounds, m)
		}
	}
	b.tellOverhead(all)
	return nil
}

func (b *bench) measure(ctx context.Context, v *variant) (m measured, err error) {
	if v.engine != "" {
		r, err := b.loop(ctx, v.engine)
		if err != nil {
			return m, err
		}
		m.cpu = r.CPU / time.Duration(r.Count)
		return m, nil
	}
	if m.alone, err = v.server.run(ctx, v.request, 1, b.seconds); err != nil {
		return m, err
	}
	if m.crowded, err = v.server.run(ctx, v.request, many, b.seconds); err != nil {
		return m, err
	}
	m.cpu = m.crowded.cpu / time.Duration(m.crowded.answers)
	return m, nil
}

// loop runs a sample in the engine alone, on the servers' core.
func (b *bench) loop(ctx context.Context, sample string) (r loop, err error) {
	text, err := b.once(ctx, launch{args: []string{b.self, "child", "engine", b.root, b.dir, sample, fmt.Sprint(b.seconds.Milliseconds())}})
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(text), &r)
}

func (b *bench) tellOverhead(all []*variant) {
	b.report.section("One request over HTTP, on one core")
	var rows [][]string
	for _, v := range all {
		row := []string{v.name, micros(median(of(v.rounds, func(m measured) time.Duration { return m.cpu }))), count(median(of(v.rounds, measured.perCore)))}
		if v.engine != "" {
			rows = append(rows, append(row, "", "", "", "", "", ""))
			continue
		}
		for _, pick := range []func(measured) load{func(m measured) load { return m.alone }, func(m measured) load { return m.crowded }} {
			row = append(row,
				count(median(of(v.rounds, func(m measured) float64 { return pick(m).perSecond() }))),
				micros(median(of(v.rounds, func(m measured) time.Duration { return quantile(pick(m).times, 0.5) }))),
				micros(median(of(v.rounds, func(m measured) time.Duration { return quantile(pick(m).times, 0.99) }))))
		}
		rows = append(rows, row)
	}
	b.report.table([]string{"", "CPU each", "per s and core", "1 caller: per s", "p50", "p99", fmt.Sprintf("%d callers: per s", many), "p50", "p99"}, rows)

	b.report.add("How near that is to the limits, by the server's CPU time within each round: median (least to most).\n\n")
	rows = nil
	for i := 1; i < len(all); i += 3 {
		like, engine, ours := all[i], all[i+1], all[i+2]
		ratio := func(f func(hello, like, engine, ours float64) float64) []float64 {
			var out []float64
			for n := range ours.rounds {
				out = append(out, f(float64(all[0].rounds[n].cpu), float64(like.rounds[n].cpu), float64(engine.rounds[n].cpu), float64(ours.rounds[n].cpu)))
			}
			return out
		}
		rows = append(rows, []string{
			engine.engine,
			spread(ratio(func(_, _, e, o float64) float64 { return (o - e) / 1e3 }), "%.1f"),
			spread(ratio(func(_, l, e, o float64) float64 { return (o - e - l) / 1e3 }), "%.1f"),
			spread(ratio(func(h, _, _, o float64) float64 { return 100 * h / o }), "%.0f %%"),
			spread(ratio(func(_, _, e, o float64) float64 { return 100 * e / o }), "%.0f %%"),
			spread(ratio(func(_, l, e, o float64) float64 { return 100 * (l + e) / o }), "%.0f %%"),
		})
	}
	b.report.table([]string{"", "over the engine, µs", "over engine and net/http of that size, µs", "of hello's per core", "of the engine's per core", "of both together's"}, rows)
}

// insideProcess compares engine, handler and connection within one process.
func (b *bench) insideProcess(ctx context.Context) error {
	var rows [][]string
	for _, name := range []string{"flights", "identity", "convolution"} {
		progress("inside one process: %s", name)
		text, err := b.once(ctx, launch{
			args: []string{b.self, "child", "inside", b.root, b.dir, name, fmt.Sprint(b.rounds)},
			env:  []string{"MODEL_CACHE_DIR=" + b.dir + "/inside"}, core: anyCore,
		})
		if err != nil {
			return err
		}
		var ns [][]float64 // engine, handler, connection; a round each
		if err := json.Unmarshal([]byte(text), &ns); err != nil {
			return err
		}
		minus := func(x, y []float64) (d []float64) {
			for i := range x {
				d = append(d, x[i]-y[i])
			}
			return d
		}
		rows = append(rows, []string{
			name, micros(median(ns[0])), micros(median(ns[1])), micros(median(ns[2])),
			micros(median(minus(ns[1], ns[0]))), micros(median(minus(ns[2], ns[0]))),
		})
	}
	b.report.section("One request within one process")
	b.report.table([]string{"", "engine alone", "through the handler", "over a connection", "handler − engine", "connection − engine"}, rows)
	return nil
}

func size(n int) string {
	if n < 10_000 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d kB", n/1000)
}

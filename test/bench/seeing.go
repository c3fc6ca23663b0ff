package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// seen is a variant that somebody may look at.
type seen struct {
	variant
	watched bool // its metrics are scraped and the console's numbers asked for
}

// seeing compares functions/predict as it is seen in production with one that nobody can see.
func (b *bench) seeing(ctx context.Context) (err error) {
	s, err := samples["flights"](b.root, b.dir)
	if err != nil {
		return err
	}
	collector, err := b.start(ctx, launch{args: []string{b.self, "child", "collector"}, core: anyCore, ready: "/"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, collector.stop()) }()
	silent := []string{"TRACES=off", "LOG_LEVEL=WARN"}
	all := []*seen{
		{variant: variant{name: "no traces, no lines in the log"}},
		{variant: variant{name: "the same again"}},
		{variant: variant{name: "traces kept in the bucket"}},
		{variant: variant{name: "traces, and a line in the log for each request"}},
		{variant: variant{name: "**all of it**: and both sent by OTLP with the metrics, these scraped, the console's numbers read"}, watched: true},
	}
	environ := [][]string{
		silent, silent,
		{"LOG_LEVEL=WARN"},
		nil,
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collector.addr},
	}
	for i, v := range all {
		place := fmt.Sprintf("seeing-%d", i)
		p, err := b.start(ctx, launch{args: []string{b.predict}, ready: "/readyz", env: append([]string{
			"MODEL_CACHE_DIR=" + filepath.Join(b.dir, place), "BLOB_URL=file://" + filepath.Join(b.dir, place, "bucket"), "PAYLOAD_LOG=off",
		}, environ[i]...)})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		v.server = p
		if v.request, err = b.push(ctx, p, &s); err != nil {
			return err
		}
	}
	unpin, err := b.pin(ctx)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		progress("seeing: round %d of %d", round+1, b.rounds)
		for i := range all {
			v := all[(i+round)%len(all)] // so that none is always behind the same one
			stop := v.watch(ctx, round%scrapedIn == 0)
			m, err := b.measure(ctx, &v.variant)
			if err = errors.Join(err, stop()); err != nil {
				unpin()
				return fmt.Errorf("%s: %w", v.name, err)
			}
			v.rounds = append(v.rounds, m)
		}
	}
	unpin()
	b.tellSeeing(all)
	return nil
}

// scrapedIn is of how many rounds one has a scrape: a round of two seconds, and Prometheus comes every fifteen.
const scrapedIn = 7

// watch reads what an open console reads every two seconds, and what a Prometheus does, until it is stopped.
func (v *seen) watch(ctx context.Context, scrape bool) (stop func() error) {
	if !v.watched {
		return func() error { return nil }
	}
	paths := []string{"/admin/v1/live"}
	if scrape {
		paths = append(paths, "/metrics")
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for {
			for _, path := range paths {
				if _, err := call(ctx, http.DefaultClient, http.MethodGet, "http://"+v.server.addr+path, nil, http.StatusOK); err != nil {
					if ctx.Err() != nil {
						err = nil
					}
					done <- err
					return
				}
			}
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-time.After(2 * time.Second):
			}
		}
	}()
	return func() error {
		cancel()
		return <-done
	}
}

func (b *bench) tellSeeing(all []*seen) {
	b.report.section("What seeing costs a request, on one core")
	b.report.add("The flights model by HTTP and JSON, its features given by the caller, which is the least that a request takes; in each the metrics are counted. Share: of the requests a second of the first row, within each round.\n\n")
	var rows [][]string
	for i, v := range all {
		var share, cost []float64
		for n := range v.rounds {
			share = append(share, 100*v.rounds[n].crowded.perSecond()/all[0].rounds[n].crowded.perSecond())
			cost = append(cost, micro(v.rounds[n].cpu-all[0].rounds[n].cpu))
		}
		row := []string{
			v.name,
			count(median(of(v.rounds, func(m measured) float64 { return m.crowded.perSecond() }))),
			spread(share, "%.1f %%"),
			micros(median(of(v.rounds, func(m measured) time.Duration { return m.cpu }))),
			spread(cost, "%.2f"),
			micros(median(of(v.rounds, func(m measured) time.Duration { return quantile(m.alone.times, 0.5) }))),
		}
		if i == 0 {
			row[2], row[4] = "", ""
		}
		rows = append(rows, row)
	}
	b.report.table([]string{"", fmt.Sprintf("%d callers: per s", many), "share", "CPU each", "µs more", "1 caller: p50"}, rows)
}

// watching measures what the whole system takes on a laptop more when its console is open and its metrics are read.
func (b *bench) watching(ctx context.Context) (err error) {
	binary := filepath.Join(b.dir, "all")
	if err := b.build(ctx, binary, "./functions/all"); err != nil {
		return err
	}
	const readers = 8
	var grown, watched [2][]int64 // at its most, and a second later
	for round := range 2 * b.rounds {
		progress("watching: %d of %d", round+1, 2*b.rounds)
		place := filepath.Join(b.dir, fmt.Sprintf("memory-%d", round))
		p, err := b.start(ctx, launch{args: []string{binary}, core: anyCore, ready: "/readyz", env: []string{
			"DATA_DIR=" + place, "MODEL_CACHE_DIR=" + filepath.Join(place, "cache"), "SEED=" + filepath.Join(b.root, "examples/flights"), "LOG_LEVEL=WARN", "PAYLOAD_EVERY=200ms",
		}})
		if err != nil {
			return err
		}
		most, last, err := b.look(ctx, p, readers*(round%2))
		if err = errors.Join(err, p.stop()); err != nil {
			return err
		}
		to := &grown
		if round%2 == 1 {
			to = &watched
		}
		to[0], to[1] = append(to[0], most), append(to[1], last)
	}
	b.report.section("What it takes of memory")
	b.report.add("functions/all with the flights model and a thousand predictions, then 20 seconds of %d readers who open page after page of the console, four of them live, and metrics scraped every two seconds; and the same without them. Resident memory, the median of %d.\n\n", readers, b.rounds)
	b.report.table([]string{"", "nobody looks", "looked at", "more"}, [][]string{
		{"at its most", megabytes(median(grown[0])), megabytes(median(watched[0])), megabytes(median(watched[0]) - median(grown[0]))},
		{"in the end", megabytes(median(grown[1])), megabytes(median(watched[1])), megabytes(median(watched[1]) - median(grown[1]))},
	})
	return nil
}

// consolePages are those that a reader opens, one after the other.
var consolePages = []string{
	"", "/models", "/models/flights", "/models/flights/versions/1", "/models/flights/try", "/models/flights/over-time", "/models/flights/quality.svg", "/models/flights/drift.svg",
	"/predictions", "/predictions/seen-1", "/features", "/pipelines", "/alerts", "/traces", "/events",
}

// look has predictions made and so many readers look, and gives the memory at its most and a second after the end.
func (b *bench) look(ctx context.Context, p *process, readers int) (most, last int64, err error) {
	s, err := samples["flights"](b.root, b.dir)
	if err != nil {
		return 0, 0, err
	}
	for n := range 1000 {
		body := strings.Replace(string(s.body), "{", fmt.Sprintf(`{"id": "seen-%d", `, n), 1)
		if _, err := call(ctx, http.DefaultClient, http.MethodPost, "http://"+p.addr+"/v2/models/flights/infer", strings.NewReader(body), http.StatusOK); err != nil {
			return 0, 0, err
		}
	}
	time.Sleep(time.Second) // so that they are in the log
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	errs := make(chan error, readers+2)
	for reader := range readers {
		all.Go(func() { errs <- read(ctx, p, reader) })
	}
	if readers > 0 {
		v := seen{variant: variant{server: p}, watched: true}
		stop := v.watch(ctx, true)
		all.Go(func() {
			<-ctx.Done()
			errs <- stop()
		})
	}
	all.Wait()
	<-ctx.Done()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	time.Sleep(time.Second)
	most, err1 := p.memory("VmHWM")
	last, err2 := p.memory("VmRSS")
	return most, last, errors.Join(err, err1, err2)
}

// read opens page after page; every second reader stays at one that is live.
func read(ctx context.Context, p *process, reader int) error {
	if reader%2 == 1 {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/console"+consolePages[reader%5], nil)
		if err != nil {
			return err
		}
		r.Header.Set("Accept", "text/event-stream")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		n, _ := io.Copy(io.Discard, answer.Body) // until the time is over
		if n == 0 {
			return fmt.Errorf("%s tells nothing: %s", r.URL, answer.Status)
		}
		return nil
	}
	for n := reader; ctx.Err() == nil; n++ {
		path := consolePages[n%len(consolePages)]
		if _, err := call(ctx, http.DefaultClient, http.MethodGet, "http://"+p.addr+"/console"+path, nil, http.StatusOK); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// takeAll is a collector that takes all it is sent.
func takeAll(ctx context.Context, _ []string) error {
	return listen(ctx, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// feedback measures what the payload log costs an answer, how fast outcomes are taken in, and what quality and drift cost a row.
func (b *bench) feedback(ctx context.Context) (err error) {
	sample, err := samples["flights"](b.root, b.dir)
	if err != nil {
		return err
	}
	var all []*variant
	for _, log := range []string{"off", "on"} {
		p, err := b.start(ctx, launch{args: []string{b.predict}, env: []string{
			"BLOB_URL=file://" + filepath.Join(b.dir, "log-"+log), "MODEL_CACHE_DIR=" + filepath.Join(b.dir, "cache-"+log), "PAYLOAD_LOG=" + log, "LOG_LEVEL=ERROR",
		}, ready: "/readyz"})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		r, err := b.push(ctx, p, &sample)
		if err != nil {
			return err
		}
		all = append(all, &variant{name: "PAYLOAD_LOG=" + log, server: p, request: r})
	}
	unpin, err := b.pin(ctx)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		progress("payload log: round %d of %d", round+1, b.rounds)
		for _, v := range all {
			m, err := b.measure(ctx, v)
			if err != nil {
				unpin()
				return fmt.Errorf("%s: %w", v.name, err)
			}
			v.rounds = append(v.rounds, m)
		}
	}
	unpin()
	b.tellLog(all[0], all[1])

	b.report.section("Outcomes, quality, drift")
	b.report.add("Benchmarks of the packages on all cores, the median of %d. Outcomes are posted over the loopback until they are durable, by a client on the same cores.\n\n", b.rounds)
	var rows [][]string
	for _, g := range []struct{ pkg, name string }{
		{"feedback", "^Benchmark(Post|CatchUp)$"}, {"ledger", "^BenchmarkFind$"}, {"payload", "^BenchmarkAdd$"}, {"drift", "^BenchmarkAdd"}, {"quality", "^Benchmark(Add|Predicted)$"},
	} {
		progress("go test -bench %s ./internal/%s", g.name, g.pkg)
		found, err := b.goBench(ctx, "internal/"+g.pkg, g.name)
		if err != nil {
			return err
		}
		rows = append(rows, found...)
	}
	b.report.table([]string{"", "each", "outcomes/s"}, rows)
	return nil
}

func (b *bench) tellLog(off, on *variant) {
	b.report.section("What the payload log costs, on one core")
	b.report.add("`functions/predict` on a folder, flights with all its inputs, with and without the log; the CPU time has what is done behind the answer too.\n\n")
	var rows [][]string
	for _, v := range []*variant{off, on} {
		rows = append(rows, []string{
			v.name,
			micros(median(of(v.rounds, func(m measured) time.Duration { return m.cpu }))),
			count(median(of(v.rounds, func(m measured) float64 { return m.crowded.perSecond() }))),
			micros(median(of(v.rounds, func(m measured) time.Duration { return quantile(m.alone.times, 0.5) }))),
			micros(median(of(v.rounds, func(m measured) time.Duration { return quantile(m.alone.times, 0.99) }))),
		})
	}
	b.report.table([]string{"", "CPU each", fmt.Sprintf("%d callers: per s", many), "1 caller: p50", "p99"}, rows)
	var more, later []float64
	for i := range on.rounds {
		more = append(more, micro(on.rounds[i].cpu-off.rounds[i].cpu))
		later = append(later, micro(quantile(on.rounds[i].alone.times, 0.5)-quantile(off.rounds[i].alone.times, 0.5)))
	}
	b.report.add("The log's, within a round, median (least to most): %s µs of CPU, %s µs later for one caller.\n", spread(more, "%.1f"), spread(later, "%.1f"))
}

// benchLine is a line of go test -bench: name, time, and outcomes/s where they are told.
var benchLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op(.*)`)

// goBench runs benchmarks of a package, and gives a row for each.
func (b *bench) goBench(ctx context.Context, pkg, name string) (rows [][]string, err error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", name, "-count", strconv.Itoa(b.rounds), "-benchtime", b.seconds.String(), "./"+pkg)
	cmd.Dir = b.root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test ./%s: %w\n%s", pkg, err, out)
	}
	times, rates := map[string][]time.Duration{}, map[string][]float64{}
	var names []string
	for line := range strings.Lines(string(out)) {
		m := benchLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		ns, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, err
		}
		if times[m[1]] == nil {
			names = append(names, m[1])
		}
		times[m[1]] = append(times[m[1]], time.Duration(ns*1000)) // in picoseconds, as some take a few nanoseconds
		fields := strings.Fields(m[3])
		for i := 1; i < len(fields); i++ {
			if fields[i] == "outcomes/s" {
				rate, err := strconv.ParseFloat(fields[i-1], 64)
				if err != nil {
					return nil, err
				}
				rates[m[1]] = append(rates[m[1]], rate)
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("go test ./%s ran no benchmark of %s", pkg, name)
	}
	for _, n := range names {
		row := []string{"`" + path.Base(pkg) + "` " + strings.TrimPrefix(n, "Benchmark"), fmt.Sprintf("%.4g ns", float64(median(times[n]))/1000), ""}
		if took := median(times[n]) / 1000; took >= time.Millisecond {
			row[1] = took.Round(took / 1000).Round(100 * time.Microsecond).String()
		}
		if len(rates[n]) > 0 {
			row[1], row[2] = "", count(median(rates[n]))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

const (
	stallTime = 3 * time.Minute
	stallRate = 2000 // requests a second: the ring of the log is full in a few of them
)

// phase is slices of load before, during or after a stall.
type phase struct {
	name       string
	slices     int
	p50s, p99s []time.Duration
	owns       []time.Duration // p99 in CPU time of the server
	resident   []int64         // at the end of each slice
	end        logCounts
}

// stall measures what callers notice when the bucket hangs for minutes that the payload log is written to.
func (b *bench) stall(ctx context.Context) (err error) {
	sample, err := samples["flights"](b.root, b.dir)
	if err != nil {
		return err
	}
	if err := b.needS3(ctx); err != nil {
		return err
	}
	p, err := b.start(ctx, launch{args: []string{b.predict}, env: append(b.s3.environ("stall"), "MODEL_CACHE_DIR="+b.dir+"/stall", "LOG_LEVEL=ERROR"), ready: "/readyz"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	request, err := b.push(ctx, p, &sample)
	if err != nil {
		return err
	}
	unpin, err := b.pin(ctx)
	if err != nil {
		return err
	}
	defer unpin()

	answers := int64(1) // that of push
	measure := func(ph *phase) error {
		for i := range ph.slices {
			progress("%s: %d of %d", ph.name, i+1, ph.slices)
			l, err := p.drive(ctx, request, pace{callers: 1, rate: stallRate, time: b.seconds, own: true})
			if err != nil {
				return err
			}
			rss, err := p.memory("VmRSS")
			if err != nil {
				return err
			}
			answers += int64(l.answers)
			ph.p50s, ph.p99s = append(ph.p50s, quantile(l.times, 0.5)), append(ph.p99s, quantile(l.times, 0.99))
			ph.owns = append(ph.owns, quantile(owned(l.own), 0.99))
			ph.resident = append(ph.resident, rss)
		}
		ph.end, err = p.logCounts(ctx)
		return err
	}
	warm := phase{name: "warm up", slices: 1}
	phases := []phase{
		{name: "before", slices: b.rounds},
		{name: "while the bucket hangs", slices: int((stallTime + b.seconds - 1) / b.seconds)},
		{name: "after", slices: b.rounds},
	}
	before, during, after := &phases[0], &phases[1], &phases[2]
	for _, ph := range []*phase{&warm, before} {
		if err := measure(ph); err != nil {
			return err
		}
	}
	s3 := b.s3.cmd.Process
	if err := s3.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err = measure(during)
	if err := errors.Join(err, s3.Signal(syscall.SIGCONT)); err != nil {
		return err
	}
	again := time.Now()
	if _, err := p.awaitLog(ctx, func(c logCounts) bool { return c.written > during.end.written }); err != nil {
		return fmt.Errorf("the log does not write again: %w", err)
	}
	resumed := time.Since(again)
	if err := measure(after); err != nil {
		return err
	}
	end, err := p.awaitLog(ctx, func(c logCounts) bool { return c.made == c.written+c.dropped })
	if err != nil {
		return fmt.Errorf("predictions are missing: %w", err)
	}
	if end.made != answers || end.skipped != 0 {
		return fmt.Errorf("%d requests were answered, and the log says %+v", answers, end)
	}
	b.tellStall(phases, end, resumed)
	return nil
}

// owned adds the requests that would have come while the server was busy with the one before, and waited for the rest.
func owned(own []time.Duration) (all []time.Duration) {
	for _, d := range own {
		for ; d > 0; d -= time.Second / stallRate {
			all = append(all, d)
		}
	}
	return all
}

func (b *bench) tellStall(phases []phase, end logCounts, resumed time.Duration) {
	b.report.section(fmt.Sprintf("The bucket of the payload log hangs for %s", stallTime))
	b.report.add("`functions/predict` on one core, flights with all its inputs, %d requests a second at random moments over one connection; its bucket is versitygw, stopped by SIGSTOP. Medians of slices of %s (least to most). Own is the CPU time that the server spends from a request to its answer, which other work on the machine makes no longer.\n\n", stallRate, b.seconds)
	var rows [][]string
	inMicros := func(all []time.Duration) string { return spread(of(all, micro), "%.0f") + " µs" }
	inMegabytes := func(n int64) float64 { return float64(n) / 1e6 }
	for i := range phases {
		ph := &phases[i]
		rows = append(rows, []string{
			ph.name, fmt.Sprint(ph.slices), inMicros(ph.p50s), inMicros(ph.p99s), inMicros(ph.owns), spread(of(ph.resident, inMegabytes), "%.1f") + " MB",
			fmt.Sprint(ph.end.made), fmt.Sprint(ph.end.written), fmt.Sprint(ph.end.dropped), fmt.Sprint(ph.end.made - ph.end.written - ph.end.dropped),
		})
	}
	rows = append(rows, []string{"at the end", "", "", "", "", "", fmt.Sprint(end.made), fmt.Sprint(end.written), fmt.Sprint(end.dropped), "0"})
	b.report.table([]string{"", "slices", "p50", "p99", "own p99", "resident", "made", "written", "dropped", "wait"}, rows)
	before, during := phases[0], phases[1]
	half := len(during.resident) / 2
	b.report.add("During over before: p50 %.2f, p99 %.2f, own p99 %.2f, resident %.2f; resident in the second half of the stall over the first %.3f. ",
		over(median(during.p50s), median(before.p50s)), over(median(during.p99s), median(before.p99s)), over(median(during.owns), median(before.owns)), over(median(during.resident), median(before.resident)),
		over(median(during.resident[half:]), median(during.resident[:half])))
	b.report.add("The first segment was in the bucket %s after the stall. Made is what was answered, by the bench's own count, and all of it was written or dropped.\n", resumed.Round(time.Millisecond))
}

func over[T ~int64](a, b T) float64 { return float64(a) / float64(b) }

// logCounts are what became of predictions, as the metrics of a server tell.
type logCounts struct{ made, written, dropped, skipped int64 }

// logLine is a line of the metrics.
var logLine = regexp.MustCompile(`(?m)^pilotlight_payload_predictions_total\{[^}]*result="(\w+)"[^}]*\} (\S+)$`)

func (p *process) logCounts(ctx context.Context) (c logCounts, err error) {
	text, err := p.metrics(ctx)
	if err != nil {
		return c, err
	}
	counts := map[string]*int64{"made": &c.made, "written": &c.written, "dropped": &c.dropped, "skipped": &c.skipped}
	for _, m := range logLine.FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return c, err
		}
		if to := counts[m[1]]; to != nil {
			*to = int64(n)
			delete(counts, m[1])
		}
	}
	if len(counts) > 0 {
		return c, errors.New("the metrics do not tell of the payload log")
	}
	return c, nil
}

// awaitLog waits until the counts are as they should be.
func (p *process) awaitLog(ctx context.Context, enough func(logCounts) bool) (logCounts, error) {
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := p.logCounts(ctx)
		if err != nil || enough(c) {
			return c, err
		}
		if time.Now().After(deadline) {
			return c, fmt.Errorf("the log says %+v", c)
		}
	}
}

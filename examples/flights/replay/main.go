// Command replay makes the flights of 2013 happen again: it sends each departure and
// each arrival, in the order of time, as rows of the sources in features.yaml to a
// running Pilotlight, or writes them as Parquet files. It can also ask a model about each flight, at the moment when it
// would have been asked, and tell what came true when the flight has arrived.
//
// What is sent again, by a retry or by another replay, counts once.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
}

// run does what the arguments say and tells about it on out.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	flags.SetOutput(out)
	data := flags.String("data", "examples/flights/data", "`folder` of the data")
	to := flags.String("to", "http://127.0.0.1:8080/events", "`URL` that takes events")
	ask := flags.String("ask", "", "base `URL` of a server instead, without SEED: push rows there, the weather too, ask a model before each flight, and give feedback")
	name := flags.String("model", "flights", "with -ask, `name` of the model that is asked; with -loop it is flights")
	speed := flags.Float64("speed", 0, "how many `times` faster than then: 3600 is an hour a second; 0: as fast as they are taken")
	batch := flags.Int("batch", 0, "at most how many events a `request` (default 100); with -ask, rows or outcomes (default 1000)")
	write := flags.String("write", "", "write departures.parquet, arrivals.parquet, weather.parquet, and asked.parquet with the flights that were asked about and arrived, into this `folder` instead")
	every := flags.Duration("loop", 0, "with -ask, be the clock of the server (TICKS=off), which is told the time and waited for so `often`; ask the model "+frozen+" the same, and compare")
	var errands []errand
	flags.Func("do", "with -loop, `time=command` that the shell does then, while time stands still; may be repeated, in the order of time", func(text string) error {
		e, err := errandOf(text)
		errands = append(errands, e)
		return err
	})
	svg := flags.String("svg", "", "`file` for the curves of -loop")
	var from, until, since time.Time
	flags.TextVar(&from, "from", time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC), "`time` that it begins at")
	flags.TextVar(&until, "until", time.Date(2014, 1, 3, 0, 0, 0, 0, time.UTC), "`time` that it ends before")
	flags.TextVar(&since, "since", time.Date(2013, 2, 1, 5, 0, 0, 0, time.UTC), "`time` from which on flights count in the comparison of -loop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *speed < 0 || *batch < 0 {
		return fmt.Errorf("see -help: there are arguments beside the flags, or -speed or -batch is too small")
	}
	if *ask != "" {
		if err := checkURL(*ask); err != nil {
			return err
		}
	}

	y, err := open(ctx, *data)
	if err != nil {
		return err
	}
	defer y.close()
	if err := y.report(ctx, out); err != nil {
		return err
	}
	if *write != "" {
		return y.write(ctx, *write, from, until)
	}
	if *every > 0 && *ask != "" {
		l := newLoop(*ask, out, *every, since)
		l.errands = errands
		return l.run(ctx, y.happenings(ctx, course, from, until), *speed, until, *svg)
	}
	rows, flights, err := y.count(ctx, from, until)
	if err != nil {
		return err
	}
	total, unit := rows, "rows"
	if *ask != "" {
		total, unit = flights, "flights"
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(out), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionSetItsString(unit), progressbar.OptionThrottle(time.Second), progressbar.OptionSetPredictTime(*speed == 0))
	next := from // where another replay would go on
	told := func(at time.Time, n int) {
		next = at
		bar.Describe(at.Format("2006-01-02 15:04"))
		_ = bar.Add(n) // it only shows
	}
	if *ask == "" {
		b := &broker{to: *to, most: *batch, told: told}
		if b.most == 0 {
			b.most = 100
		}
		err = replay(ctx, y.happenings(ctx, events, from, until), *speed, b)
	} else {
		s := newServer(*ask, *batch, told)
		s.model = *name
		if s.most == 0 {
			s.most = 1000
		}
		if err = replay(ctx, y.happenings(ctx, course, from, until), *speed, s); err != nil {
			s.leave(ctx)
			if len(s.outcomes) > 0 && s.since.Before(next) {
				next = s.since
			}
			next = next.Truncate(time.Hour) // when the weather comes, which shows whether the server had it before
		}
		defer s.report(out)
	}
	fmt.Fprintln(out)
	if err != nil {
		return fmt.Errorf("%w; -from %s goes on from there", err, next.Format(time.RFC3339))
	}
	return nil
}

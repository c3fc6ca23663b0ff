// Command replay makes the flights of 2013 happen again: it sends each departure and
// each arrival, in the order of time, as rows of the sources in features.yaml to a
// running Pilotlight, or writes them as Parquet files.
//
// Events have ids of their minute and source, so that what is sent again, by a retry or by
// another replay, counts once.
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
	speed := flags.Float64("speed", 0, "how many `times` faster than then: 3600 is an hour a second; 0: as fast as they are taken")
	batch := flags.Int("batch", 100, "at most how many events a `request`")
	write := flags.String("write", "", "write departures.parquet, arrivals.parquet and weather.parquet into this `folder` instead")
	var from, until time.Time
	flags.TextVar(&from, "from", time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC), "`time` that it begins at")
	flags.TextVar(&until, "until", time.Date(2014, 1, 3, 0, 0, 0, 0, time.UTC), "`time` that it ends before")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *speed < 0 || *batch < 1 {
		return fmt.Errorf("see -help: there are arguments beside the flags, or -speed or -batch is too small")
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
	total, err := y.count(ctx, from, until)
	if err != nil {
		return err
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(out), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("rows"), progressbar.OptionThrottle(time.Second), progressbar.OptionSetPredictTime(*speed == 0))
	next := from // where another replay would go on
	err = replay(ctx, y.events(ctx, from, until), *speed, *batch, func(ctx context.Context, events []observed) error {
		bar.Describe(events[0].Time.Format("2006-01-02 15:04"))
		if err := post(ctx, *to, events); err != nil {
			return err
		}
		rows := 0
		for _, e := range events {
			rows += e.rows
		}
		next = events[len(events)-1].Time
		return bar.Add(rows)
	})
	fmt.Fprintln(out)
	if err != nil {
		return fmt.Errorf("%w; -from %s goes on from there", err, next.Format(time.RFC3339))
	}
	return nil
}

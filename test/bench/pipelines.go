package main

import "context"

// pipelines measures what a run takes beside its steps.
func (b *bench) pipelines(ctx context.Context) error {
	progress("go test -bench BenchmarkRun ./functions/all")
	rows, err := b.goBench(ctx, "functions/all", "BenchmarkRun")
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i] = rows[i][:2]
	}
	b.report.section("A run of five steps that do nothing")
	b.report.add("`functions/all` on a folder: from the request that applies the definition and the one that starts the run until somebody who looks every 20 ms sees its end. Probe: in the function; probe-heavy: each step in a process of its own.\n\n")
	b.report.table([]string{"", "each"}, rows)
	return nil
}

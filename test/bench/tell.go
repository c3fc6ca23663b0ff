package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// crowd is the largest number of callers, with which most ratios are told.
const crowd = 32

func (e *entrant) label() string {
	if e.format == "" {
		return e.title
	}
	return e.title + ", " + e.format
}

func (e *entrant) ours() bool { return e.peer != nil && e.peer.name == pilotlight }

// rates are requests a second with so many callers, a round each; the engine
// alone has none, and runs one after the other.
func (e *entrant) rates(callers int) []float64 {
	if e.engine != "" {
		return of(e.loops, func(l loop) float64 { return float64(l.Count) / l.Took.Seconds() })
	}
	return of(e.loads[callers], load.perSecond)
}

// costs are seconds of processor time for 1,000 requests with many callers.
func (e *entrant) costs() []float64 {
	if e.engine != "" {
		return of(e.loops, func(l loop) float64 { return 1000 * l.CPU.Seconds() / float64(l.Count) })
	}
	return of(e.loads[crowd], func(l load) float64 { return 1000 * l.cpu.Seconds() / float64(l.answers) })
}

// waits are the times within which that share was answered.
func (e *entrant) waits(callers int, share float64) []time.Duration {
	return of(e.loads[callers], func(l load) time.Duration { return quantile(l.times, share) })
}

// ratio is the median of the ratios within each round.
func ratio(a, b []float64) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	var all []float64
	for i := range min(len(a), len(b)) {
		all = append(all, a[i]/b[i])
	}
	return median(all)
}

func (c *contest) find(peer, format string) *entrant {
	for _, e := range c.all {
		if e.peer != nil && e.peer.name == peer && e.format == format {
			return e
		}
	}
	return &entrant{skipped: "not among the peers of this run"}
}

func (c *contest) hello() *entrant  { return c.all[0] }
func (c *contest) engine() *entrant { return c.all[1] }

func (b *bench) tellPeers(contests []*contest) {
	b.report.section("The servers")
	var rows [][]string
	for _, p := range b.chosen {
		state := "measured"
		if why := p.missing(b); why != "" {
			state = "not measured: " + why
		}
		rows = append(rows, []string{p.title, p.versions(b), state})
	}
	b.report.table([]string{"", "versions", ""}, rows)
	for _, c := range contests {
		b.tellContest(c)
	}
}

func (b *bench) tellContest(c *contest) {
	b.report.section(strings.ToUpper(c.title[:1]) + c.title[1:])
	plot := "peers-" + c.sample + ".svg"
	b.report.add("![requests a second with %d callers](%s)\n\n", crowd, plot)
	var rows [][]string
	var drawn []bar
	for _, e := range c.all {
		label := e.label()
		if e.ours() {
			label = "**" + label + "**"
		}
		if e.skipped != "" {
			rows = append(rows, append([]string{label, "not measured: " + e.skipped}, make([]string, 3*len(crowds)+2)...))
			continue
		}
		row := []string{label, fmt.Sprintf("%.3f", median(e.costs()))}
		for _, n := range crowds {
			if e.engine != "" {
				row = append(row, count(median(e.rates(n))), "", "")
				continue
			}
			row = append(row, count(median(e.rates(n))), short(median(e.waits(n, 0.5))), short(median(e.waits(n, 0.99))))
		}
		row = append(row, percent(ratio(e.rates(crowd), c.hello().rates(crowd))), percent(ratio(e.rates(crowd), c.engine().rates(crowd))))
		rows = append(rows, row)
		d := bar{label: e.label(), value: median(e.rates(crowd)), text: count(median(e.rates(crowd)))}
		switch {
		case e.ours():
			d.class = "ours"
		case e.peer == nil:
			d.class = "limit"
		}
		// The limits would make all else of a fast model's plot, or of a slow one's, too small to see.
		if e.peer != nil || e.engine != "" && median(e.rates(crowd)) < 10_000 || e.engine == "" && c.model == "trees" {
			drawn = append(drawn, d)
		}
	}
	head := []string{"", "CPU s per 1,000"}
	for _, n := range crowds {
		head = append(head, fmt.Sprintf("%d: per s", n), "p50", "p99")
	}
	b.report.table(append(head, "of hello", "of the engine"), rows)
	slices.SortStableFunc(drawn, func(x, y bar) int { return int(y.value - x.value) })
	b.report.files[plot] = bars("Requests a second, "+c.title+fmt.Sprintf(", %d callers, one core", crowd), drawn)
}

func (b *bench) tellStarts(all []*start, bare []time.Duration) {
	b.report.section("Start and memory")
	b.report.add("![start to first answer](peers-start.svg) ![memory](peers-memory.svg)\n\n")
	rows := [][]string{{"a session and nothing else", "", millis(median(bare)), ""}}
	var times, sizes []bar
	for _, s := range all {
		if s.skipped != "" {
			rows = append(rows, []string{s.peer.title, "not measured: " + s.skipped, "", ""})
			continue
		}
		rows = append(rows, []string{s.peer.title, millis(median(s.small)), millis(median(s.large)), megabytes(median(s.pss))})
		class := ""
		if s.peer.name == pilotlight {
			class = "ours"
		}
		times = append(times, bar{s.peer.title, float64(median(s.small)), millis(median(s.small)), class})
		sizes = append(sizes, bar{s.peer.title, float64(median(s.pss)), megabytes(median(s.pss)), class})
	}
	b.report.table([]string{"", "start to first answer, trees", "150 MB", "PSS with the trees"}, rows)
	b.report.files["peers-start.svg"] = bars("Start of the process to its first answer, tree ensemble", times)
	b.report.files["peers-memory.svg"] = bars("Memory (PSS) with the tree ensemble loaded", sizes)
}

func (b *bench) tellOverloads(o *overload) {
	b.report.section("Requests at moments of their own, tree ensemble, batch 1")
	var rows [][]string
	for _, k := range o.cases {
		if len(k.loads) == 0 {
			rows = append(rows, []string{k.e.label(), k.title, count(k.pace.rate), "not measured", "", "", ""})
			continue
		}
		share := func(f func(load) int) string {
			return percent(median(of(k.loads, func(l load) float64 { return float64(f(l)) / float64(l.answers+l.refused+l.lost) })))
		}
		rows = append(rows, []string{
			k.e.label(), k.title, count(k.pace.rate), count(median(of(k.loads, load.perSecond))),
			short(k.wait(0.5)), short(k.wait(0.99)),
			share(func(l load) int { return l.refused }), share(func(l load) int { return l.lost }),
		})
	}
	b.report.table([]string{"", "load", "due per s", "answered per s", "p50", "p99", "refused", "not sent or not answered"}, rows)
}

func (k *overloadCase) wait(share float64) time.Duration {
	return median(of(k.loads, func(l load) time.Duration { return quantile(l.times, share) }))
}

// short is a time as people say it.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return d.Round(time.Second).String()
}

func percent(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }

package main

import (
	"fmt"
	"time"
)

// tellTargets compares the run with what the project wants of itself.
func (b *bench) tellTargets(contests []*contest, o *overload, starts []*start, bare []time.Duration) {
	by := map[string]*contest{}
	for _, c := range contests {
		by[c.sample] = c
	}
	t := targets{}
	trees := by["trees"]
	json, binary, grpc := trees.find(pilotlight, v2JSON.name), trees.find(pilotlight, v2Binary.name), trees.find(pilotlight, v2GRPC.name)

	const busy = "trees, JSON, 32 callers: requests a second over "
	for _, p := range []struct {
		peer, format string
		times        float64
	}{{"mlserver", v2JSON.name, 15}, {"kserve", v2JSON.name, 15}, {"triton", v2JSON.name, 2.5}, {"mosec", mosecJSON.name, 2}} {
		t.atLeast(busy+p.peer+"'s", json, trees.find(p.peer, p.format), p.times)
	}
	t.atLeast(busy+"net/http hello's", json, trees.hello(), 0.5)
	t.atLeast("trees, binary: over Triton's", binary, trees.find("triton", v2Binary.name), 2.5)
	t.atLeast("trees, gRPC: over Triton's", grpc, trees.find("triton", v2GRPC.name), 2)

	// Each is compared in its first format, which is JSON.
	one := func(e *entrant) float64 { return micro(median(e.waits(1, 0.5))) }
	t.below("trees, JSON, 1 caller: p50, µs; hello's + 60", one(json), one(trees.hello())+60)
	t.lowest("trees, JSON, 1 caller: p50, µs; the best peer's", trees, one)
	t.lowest("trees, JSON: CPU s per 1,000; the best peer's", trees, func(e *entrant) float64 { return median(e.costs()) })
	t.lowest("trees, batch 32, JSON: CPU s per 1,000; the best peer's", by["trees32"], func(e *entrant) float64 { return median(e.costs()) })

	limit := map[string]*overloadCase{}
	for _, k := range o.cases {
		if k.e.peer == nil && len(k.loads) > 0 {
			limit[k.title] = k
		}
	}
	wait := func(peer, title string) (float64, bool) {
		for _, k := range o.cases {
			if k.e.named(peer) && k.title == title && len(k.loads) > 0 {
				return micro(k.wait(0.99)), true
			}
		}
		return 0, false
	}
	if ours, ok := wait(pilotlight, halfTriton); ok {
		theirs, _ := wait("triton", halfTriton)
		t.below("p99 at half of Triton's peak, µs; Triton's", ours, theirs)
	}
	if ours, ok := wait(pilotlight, half); ok {
		t.below(fmt.Sprintf("p99 at half of our own peak, µs (hello's, at half of its own: %.3g)", micro(limit[half].wait(0.99))), ours, 1000)
	}
	for _, k := range o.cases {
		if k.e.ours() && k.title == twice && len(k.loads) > 0 {
			hello := limit[twice]
			t.above(fmt.Sprintf("answers at twice the saturating load, of the peak (hello's: %.2g)", median(of(hello.loads, load.perSecond))/o.peaks[hello.e]), median(of(k.loads, load.perSecond))/o.peaks[k.e], 0.9)
		}
	}

	for _, sample := range []string{"vision", "encoder"} {
		c := by[sample]
		t.atLeast(sample+", binary: of the engine alone", c.find(pilotlight, v2Binary.name), c.engine(), 0.97)
	}
	vision, best := by["vision"], (*entrant)(nil)
	for _, e := range vision.all {
		if e.peer != nil && !e.ours() && e.skipped == "" && e.format == e.peer.formats[0].name &&
			(best == nil || median(e.rates(crowd)) > median(best.rates(crowd))) {
			best = e
		}
	}
	if best != nil {
		t.atLeast("vision, JSON: over the best peer's, "+best.title, vision.find(pilotlight, v2JSON.name), best, 2)
	}

	for _, s := range starts {
		if s.peer.name == pilotlight {
			t.below("PSS with the trees, MB", float64(median(s.pss))/1e6, 60)
			t.below("start to first answer, trees, ms", millisOf(median(s.small)), 100)
			t.below("start to first answer, 150 MB, ms; a session alone + 15 %", millisOf(median(s.large)), 1.15*millisOf(median(bare)))
		}
	}
	t.atLeast("answers from the cache in the process: of hello's", trees.find(pilotlight, fromCache), trees.hello(), 0.8)
	b.report.section("Targets")
	b.report.table([]string{"", "got", "by CPU time", "wanted", ""}, t.rows)
}

// targets grows by a row for each comparison.
type targets struct{ rows [][]string }

func (t *targets) row(what string, got, want float64, word string, met bool) {
	verdict := "**not met**"
	if met {
		verdict = "met"
	}
	t.rows = append(t.rows, []string{what, fmt.Sprintf("%.3g", got), "", fmt.Sprintf("%s %.3g", word, want), verdict})
}

func (t *targets) below(what string, got, most float64) { t.row(what, got, most, "≤", got <= most) }

func (t *targets) above(what string, got, least float64) {
	t.row(what, got, least, "≥", got >= least)
}

// atLeast compares requests a second within each round.
func (t *targets) atLeast(what string, ours, theirs *entrant, times float64) {
	for _, e := range []*entrant{ours, theirs} {
		if e.skipped != "" {
			t.rows = append(t.rows, []string{what, "", "", fmt.Sprintf("≥ %.3g", times), "not measured: " + e.skipped})
			return
		}
	}
	t.above(what, ratio(ours.rates(crowd), theirs.rates(crowd)), times)
	t.rows[len(t.rows)-1][2] = fmt.Sprintf("%.3g", ratio(theirs.costs(), ours.costs()))
}

// lowest compares us with the best of the peers, all in their first format.
func (t *targets) lowest(what string, c *contest, of func(*entrant) float64) {
	best, who := 0.0, ""
	for _, e := range c.all {
		if e.peer != nil && !e.ours() && e.skipped == "" && e.format == e.peer.formats[0].name {
			if v := of(e); who == "" || v < best {
				best, who = v, e.title
			}
		}
	}
	if who != "" {
		t.below(what+", "+who, of(c.find(pilotlight, v2JSON.name)), best)
	}
}

func micro(d time.Duration) float64    { return float64(d) / 1e3 }
func millisOf(d time.Duration) float64 { return float64(d) / 1e6 }

package evaluation

import (
	"context"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/modelcard"
)

// How latency is measured: one row at a time, both models in turns, so that what else the machine does falls on both.
const (
	latencyRows = 300
	latencyWarm = 20
	latencyMost = 20 * time.Second
)

// latency compares how long one row takes. What decides is the middle of all: the slowest ones tell of the machine.
func (e *evaluation) latency(ctx context.Context, rows []int) error {
	players := []*player{e.candidate}
	if e.champion != nil {
		players = append(players, e.champion)
	}
	took := make([][]float64, len(players))
	begun := time.Now()
	asked := 0
	for i := range latencyWarm + latencyRows {
		if time.Since(begun) > latencyMost && asked > latencyWarm {
			break
		}
		row := rows[i*len(rows)/(latencyWarm+latencyRows)]
		for k := range players {
			which := (i + k) % len(players) // who comes first has the caches of the other
			in, err := players[which].inputs([]int{row})
			if err != nil {
				return err
			}
			start := time.Now()
			if _, err := players[which].session.Run(ctx, in); err != nil {
				return err
			}
			if i >= latencyWarm {
				took[which] = append(took[which], float64(time.Since(start).Nanoseconds())/1e3)
			}
		}
		asked++
	}
	times := func(of []float64) modelcard.Times {
		slices.Sort(of)
		return modelcard.Times{P50: of[len(of)/2], P99: of[len(of)*99/100]}
	}
	l := &e.card.Latency
	l.Rows, l.Candidate = len(took[0]), times(took[0])
	if e.champion == nil {
		return nil
	}
	t := times(took[1])
	l.Champion = &t
	if e.Slower > 0 {
		ratio := l.Candidate.P50 / t.P50
		e.check("latency", ratio <= e.Slower || l.Candidate.P50*1e3 < float64(e.SlowFrom), "one row takes %.0f µs, and %.0f of %s: %.3g times, of %g at most from %s on", l.Candidate.P50, t.P50, e.champion.what, ratio, e.Slower, time.Duration(e.SlowFrom))
	}
	return nil
}

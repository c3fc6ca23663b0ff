package feedback

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/payload"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/rollout"
)

// The bounds of what is compared of a shadow: of the newest segments.
const (
	shadowSegments = 8
	shadowAnswers  = 20_000
	shadowSame     = 1e-5 // by how much numbers may differ, as a share where they are above 1: runtimes add up in other orders
)

// shadowed compares what a version and its shadow have said to the same requests, as far as the log has both.
func (j *Journal) shadowed(ctx context.Context, q *rollout.Query) (*rollout.Shadowed, error) {
	how := map[int]*judging{}
	for _, version := range []int{q.Version, q.Candidate} {
		m, err := j.catalog.Manifest(ctx, q.Model, version)
		if err != nil {
			return nil, err
		}
		if how[version], err = judgingOf(m); err != nil {
			return &rollout.Shadowed{}, nil //nolint:nilerr // what it says can't be read, and nothing is compared
		}
	}
	var keys []string
	first := payload.Inbox + micros(q.Stages[len(q.Stages)-1].UnixMicro()) // keys are in the order of time
	for o, err := range j.blob.List(ctx, payload.Inbox, first) {
		if err != nil {
			return nil, fmt.Errorf("list segments of predictions: %w", err)
		}
		keys = append(keys, o.Key)
	}
	type said struct {
		answer  quality.Answer
		latency float64
	}
	type key struct {
		id  string
		row int32
	}
	of := map[int]map[key]said{q.Version: {}, q.Candidate: {}}
	var p parsed
	s := &rollout.Shadowed{}
	differ, numbers := 0, 0
	var latency [2][]float64
	for _, k := range slices.Backward(keys[max(0, len(keys)-shadowSegments):]) {
		err := payload.Load(ctx, j.blob, k, func(rows []payload.Row) error {
			for i := range rows {
				r := &rows[i]
				one := how[int(r.Version)]
				if one == nil || r.Model != q.Model || r.Kind != "" || len(of[q.Candidate]) >= shadowAnswers && int(r.Version) == q.Candidate || p.read(r) != nil {
					continue
				}
				answer, err := one.answer(p.outputs)
				if err != nil {
					continue // it can't be read
				}
				of[int(r.Version)][key{r.ID, r.Row}] = said{answer, float64(r.Latency) / 1e6}
			}
			return nil
		})
		if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Invalid) { // swept, or damaged
			return nil, err
		}
		if len(of[q.Candidate]) >= shadowAnswers {
			break
		}
	}
	for k, b := range of[q.Candidate] {
		a, ok := of[q.Version][k]
		if !ok {
			continue
		}
		s.Answers++
		latency[0], latency[1] = append(latency[0], a.latency), append(latency[1], b.latency)
		d := math.Abs(a.answer.Number - b.answer.Number)
		if a.answer.Class != b.answer.Class || d > shadowSame*max(1, math.Abs(a.answer.Number)) {
			differ++
		}
		if a.answer.Class == "" && b.answer.Class == "" {
			numbers++
			s.Difference += d
		}
	}
	if s.Answers > 0 {
		s.Differ = float64(differ) / float64(s.Answers)
		s.Difference /= float64(max(numbers, 1))
		for i := range latency {
			slices.Sort(latency[i])
			s.Latency[i] = latency[i][len(latency[i])/2]
		}
	}
	return s, nil
}

package feedback

import (
	"cmp"
	"slices"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
)

// told is an outcome of a prediction, as far as it matters for what counts. Times are in microseconds since 1970.
type told struct {
	id      uint64
	created int64
	time    int64
	value   string
	model   string // "": not said
	commit  int64  // by which it was joined
}

// Settlement counts what became of outcomes.
type Settlement struct {
	Joined    int64 `json:"joined"`    // that count: one for each prediction that has any
	Repeated  int64 `json:"repeated"`  // that came again
	Corrected int64 `json:"corrected"` // in whose place another of the same prediction counts, taken in later
	Unsuited  int64 `json:"unsuited"`  // that can't be judged by the spec
	// Reason is that of one that is unsuited.
	Reason string `json:"reason,omitempty"`
}

// add adds another count, or takes it back.
func (s *Settlement) add(o *Settlement, by int64) {
	s.Joined += by * o.Joined
	s.Repeated += by * o.Repeated
	s.Corrected += by * o.Corrected
	s.Unsuited += by * o.Unsuited
	if by > 0 && o.Reason != "" {
		s.Reason = o.Reason
	}
}

// settle finds which of the outcomes of a prediction counts: of those that the spec can judge the one that was taken in last. So a correction
// that can't be judged takes nothing away. The same outcome again, by its id and value, is nothing new. It brings all into order.
func settle(spec *quality.Spec, all []told) (truth quality.Truth, counts *told, s Settlement) {
	if len(all) > 1 {
		slices.SortFunc(all, func(a, b told) int {
			return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.id, b.id), cmp.Compare(a.value, b.value))
		})
	}
	for i := range all {
		o := &all[i]
		if i > 0 && all[i-1].created == o.created && all[i-1].id == o.id && all[i-1].value == o.value {
			continue // it is in the bucket twice
		}
		if slices.ContainsFunc(all[:i], func(p told) bool { return p.id == o.id && p.value == o.value }) {
			s.Repeated++
			continue
		}
		t, err := spec.ParseTruth([]byte(o.value))
		switch {
		case err != nil:
			s.Unsuited++
			s.Reason = fault.Message(err)
			continue
		case counts != nil:
			s.Corrected++
		}
		truth, counts = t, o
	}
	if counts != nil {
		s.Joined = 1
	}
	return truth, counts, s
}

// Package rollout brings a new version to a model's callers without hands: as the canary of an alias, over growing shares of
// traffic, until it is promoted or taken back.
//
// At each tick a Manager looks at what there is (the aliases, and what was counted of both versions), decides, and makes at most one
// move of the alias. It remembers nothing that it could read there: so a tick that was killed, repeated or overtaken by another instance, or by a
// person, leaves nothing half-done. What decides is a test that stays valid however often it is looked at (internal/sequential).
package rollout

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/quality"
	"github.com/pilotlight-ml/pilotlight/internal/sequential"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Plan says how a version is brought to an alias. What is absent, or 0, has its default.
type Plan struct {
	Model   string `json:"model"`
	Alias   string `json:"alias"`   // champion
	Version int    `json:"version"` // the candidate
	// Shadow is how long it is asked the same as the alias's version at first, behind the answers; 0: it is not. It gets no share
	// before it has given Least answers so, and none if a guard finds it worse.
	Shadow yamlwire.Duration `json:"shadow,omitempty"`
	// Shares of traffic that the candidate gets one after the other; 1 %, 5 %, 25 %, 50 %. Then it gets all.
	Shares []float64 `json:"shares"`
	// Hold is how long it has each share at least; half an hour.
	Hold yamlwire.Duration `json:"hold"`
	// Patience is how long it may have a share without a decision, before it is taken back; three days.
	Patience yamlwire.Duration `json:"patience"`
	// Least is how many answers it gives with each share at least; 100.
	Least int64 `json:"least"`
	// Guards say what may not fall behind: failures by one in a hundred, slow answers by five, and the mean that tells most of the task's quality by 5 %.
	Guards []Guard `json:"guards"`
	By     string  `json:"by,omitempty"`
	// Cause is the id of the event that it is for, such as that of a pipeline's run.
	Cause string `json:"cause,omitempty"`
}

// Guard bounds by how much the candidate may be worse than the alias's version.
type Guard struct {
	// Metric is ErrorRate, SlowRate or a mean that quality knows, such as accuracy, log_loss, brier or mae.
	Metric string `json:"metric"`
	// Worse is by how much: of rates a share of answers, of others a share of the version's own value.
	Worse float64 `json:"worse"`
}

// What a guard may watch beside quality.
const (
	ErrorRate = "error_rate" // the share of requests that failed
	SlowRate  = "slow_rate"  // the share of answers that took longer than 95 % of the version's
)

// The bounds of a plan.
const (
	sharesMost = 20
	guardsMost = 10
)

// whole is the plan with its defaults.
func (p Plan) whole() Plan {
	if p.Alias == "" {
		p.Alias = model.Champion
	}
	if len(p.Shares) == 0 {
		p.Shares = []float64{.01, .05, .25, .5}
	}
	if p.Hold == 0 {
		p.Hold = yamlwire.Duration(30 * time.Minute)
	}
	if p.Patience == 0 {
		p.Patience = yamlwire.Duration(3 * 24 * time.Hour)
	}
	if p.Least == 0 {
		p.Least = 100
	}
	if len(p.Guards) == 0 {
		p.Guards = []Guard{{ErrorRate, .01}, {SlowRate, .05}}
	}
	return p
}

// Check tells what is wrong with a plan of which it is not known yet what it brings out.
func (p Plan) Check() error {
	p = p.whole()
	p.Model, p.Version = "m", 1
	if err := model.CheckAlias(p.Alias); err != nil {
		return err
	}
	return p.validate()
}

// validate tells what is wrong with a whole plan.
func (p *Plan) validate() error {
	if err := model.CheckName(p.Model); err != nil {
		return err
	}
	switch {
	case p.Version < 1:
		return fault.New(fault.Invalid, "version is %d, expected the number of the version to bring out", p.Version)
	case len(p.Shares) > sharesMost:
		return fault.New(fault.Invalid, "there are %d shares, expected %d at most", len(p.Shares), sharesMost)
	case p.Shadow < 0 || p.Patience < p.Shadow:
		return fault.New(fault.Invalid, "shadow is %s and patience %s, expected neither to be negative and patience to be the longer one", time.Duration(p.Shadow), time.Duration(p.Patience))
	case p.Hold < 0 || p.Patience < p.Hold:
		return fault.New(fault.Invalid, "hold is %s and patience %s, expected neither to be negative and patience to be the longer one", time.Duration(p.Hold), time.Duration(p.Patience))
	case p.Least < 1:
		return fault.New(fault.Invalid, "least is %d, expected a positive number", p.Least)
	case len(p.Guards) > guardsMost:
		return fault.New(fault.Invalid, "there are %d guards, expected %d at most", len(p.Guards), guardsMost)
	}
	for i, s := range p.Shares {
		if !(s > 0 && s < 1) || i > 0 && s <= p.Shares[i-1] {
			return fault.New(fault.Invalid, "shares are %s, expected numbers between 0 and 1 that grow", shown(p.Shares))
		}
	}
	for i, g := range p.Guards {
		switch {
		case g.Metric != ErrorRate && g.Metric != SlowRate && !quality.IsMean(g.Metric):
			return fault.New(fault.Invalid, "there is no guard %.60q; there are %s, %s and the means of quality: accuracy, log_loss, brier, mae, mape, quantile_loss", g.Metric, ErrorRate, SlowRate)
		case !(g.Worse >= 0 && g.Worse <= 1):
			return fault.New(fault.Invalid, "the guard %s allows %g, expected a share from 0 to 1", g.Metric, g.Worse)
		case slices.ContainsFunc(p.Guards[:i], func(o Guard) bool { return o.Metric == g.Metric }):
			return fault.New(fault.Invalid, "the guard %s is there twice", g.Metric)
		}
	}
	return nil
}

func shown(shares []float64) string {
	var all []string
	for _, s := range shares {
		all = append(all, fmt.Sprint(s))
	}
	return strings.Join(all, ", ")
}

// Compared is what was counted of a metric for the alias's version (A) and for the candidate (B): of a rate how many answers had it, of others their
// means. Each pair is of a time in which both had the same shares of traffic, so that like is compared with like.
type Compared struct {
	Counts []sequential.CountPair
	Means  []sequential.Pair
}

// pooled gives both arms over all pairs.
func (c *Compared) pooled() (version, candidate sequential.Sums) {
	add := func(to *sequential.Sums, n int64, mean float64) {
		if n > 0 {
			to.Mean += (mean - to.Mean) * float64(n) / float64(to.N+n)
			to.N += n
		}
	}
	for _, p := range c.Counts {
		add(&version, p.A.N, float64(p.A.Yes)/float64(max(p.A.N, 1)))
		add(&candidate, p.B.N, float64(p.B.Yes)/float64(max(p.B.N, 1)))
	}
	for _, p := range c.Means {
		add(&version, p.A.N, p.A.Mean)
		add(&candidate, p.B.N, p.B.Mean)
	}
	return version, candidate
}

// Finding is what a guard found.
type Finding struct {
	Guard
	Version   float64  `json:"version"` // the mean
	Candidate float64  `json:"candidate"`
	Answers   [2]int64 `json:"answers"` // that the two are of
	// Difference is by how much the candidate is worse; less than 0: it is better.
	Difference float64 `json:"difference"`
	// Low and High bound it, at 95 % for all looks and all guards together, if that is Known.
	Known   bool    `json:"known"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Allowed float64 `json:"allowed"`
	State   State   `json:"state"`
}

// State is what a finding comes to.
type State string

// The states.
const (
	Open  State = "open"  // there is not enough to tell
	Fine  State = "fine"  // it is not worse than allowed
	Worse State = "worse" // it is
	None  State = "none"  // neither version has any
)

// alpha is the chance that any guard is wrong at any look, of a rollout.
const alpha = .05

// find judges a guard of a plan.
func (p *Plan) find(g Guard, compared Compared) Finding {
	v, c := compared.pooled()
	f := Finding{Guard: g, Version: v.Mean, Candidate: c.Mean, Answers: [2]int64{v.N, c.N}, Difference: c.Mean - v.Mean, Allowed: g.Worse, State: Open}
	if g.Metric != ErrorRate && g.Metric != SlowRate {
		f.Allowed = g.Worse * math.Abs(v.Mean)
	}
	if v.N == 0 && c.N == 0 {
		f.State = None
		return f
	}
	chance := alpha / float64(len(p.Guards))
	i := sequential.Compare(chance, compared.Means...)
	if len(compared.Counts) > 0 {
		i = sequential.CompareShares(chance, compared.Counts...)
	}
	f.Known = v.N > 0 && c.N > 0 && !math.IsInf(i.Low, 0) && !math.IsInf(i.High, 0)
	if f.Known {
		f.Low, f.High = i.Low, i.High
	}
	if quality.HigherIsBetter(g.Metric) {
		f.Difference, f.Low, f.High = -f.Difference, -f.High, -f.Low
	}
	switch {
	case !f.Known:
	case f.Low > f.Allowed:
		f.State = Worse
	case f.High <= f.Allowed:
		f.State = Fine
	}
	return f
}

func (f *Finding) String() string {
	between := "nobody knows yet"
	if f.Known {
		between = fmt.Sprintf("between %.3g and %.3g", f.Low, f.High)
	}
	return fmt.Sprintf("%s is %.4g, and %.4g of the version there is; it is worse by %s, and by %.3g it may be", f.Metric, f.Candidate, f.Version, between, f.Allowed)
}

// Verdict is what is to be done.
type Verdict string

// The verdicts.
const (
	Hold    Verdict = "hold"
	Advance Verdict = "advance" // to the next share
	Promote Verdict = "promote"
	Back    Verdict = "back"
)

// decide says what is to be done with a candidate that has had the share of a stage for some time and answered so often with it.
//
// It goes back as soon as a guard is surely beyond what is allowed. A larger share it gets when it has had this one for long enough and
// no guard looks worse than allowed by its mean. All traffic it gets when each guard that there is anything of
// is surely within what is allowed.
// Stage -1 is that of the shadow.
func (p *Plan) decide(stage int, had time.Duration, answers int64, findings []Finding) (v Verdict, why string) {
	undecided := ""
	for i := range findings {
		f := &findings[i]
		if f.State == Worse {
			return Back, f.String()
		}
		last := stage == len(p.Shares)-1
		looks := f.Answers[0] > 0 && f.Answers[1] > 0 && f.Difference > f.Allowed // worse, by its mean
		if f.State == Open && (last || looks) {
			undecided = f.String()
		}
	}
	switch {
	case had >= time.Duration(p.Patience) && undecided != "":
		return Back, fmt.Sprintf("it was not decided within %s: %s", time.Duration(p.Patience), undecided)
	case had >= time.Duration(p.Patience) && answers < p.Least:
		return Back, fmt.Sprintf("it had %d answers within %s, and %d are the least", answers, time.Duration(p.Patience), p.Least)
	case stage < 0 && had < time.Duration(p.Shadow):
		return Hold, fmt.Sprintf("it has been the shadow for %s of %s", had.Round(time.Second), time.Duration(p.Shadow))
	case stage >= 0 && had < time.Duration(p.Hold):
		return Hold, fmt.Sprintf("it has had this share for %s of %s", had.Round(time.Second), time.Duration(p.Hold))
	case answers < p.Least:
		return Hold, fmt.Sprintf("it has given %d answers of %d", answers, p.Least)
	case undecided != "":
		return Hold, undecided
	case stage == len(p.Shares)-1:
		return Promote, "no guard is beyond what is allowed"
	}
	return Advance, "no guard is beyond what is allowed"
}

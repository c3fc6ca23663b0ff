package drift

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Options say when a window has drifted. An alarm needs both: a change that chance does not
// explain, by Alpha, and one that is large enough to matter, by Effect or Share: in a
// large window any change at all is significant, and in a small one chance makes large ones.
type Options struct {
	// Alpha is the greatest chance that a window without drift raises any alarm, over all
	// columns and tests, for any Effect and Share.
	Alpha float64
	// Windows is how many windows Alpha is for together, each of them getting an equal part
	// (Bonferroni). With 1, of windows without drift a share of Alpha raises an alarm.
	Windows int
	// Effect is the least PSI or Jensen–Shannon distance that matters; 0: any.
	Effect float64
	// Share is the least change that matters of the share of values that are missing, unseen
	// or out of range; 0: any.
	Share float64
	// MinRows is of how many values a column's distribution is judged. A window with fewer
	// rows is not judged.
	MinRows uint64
}

// Default has the usual thresholds.
var Default = Options{Alpha: 0.05, Windows: 1, Effect: 0.1, Share: 0.02, MinRows: 100}

// Verdict is what a comparison comes to.
type Verdict string

// The verdicts.
const (
	Steady  Verdict = "steady"  // nothing moved, by what is known
	Drifted Verdict = "drifted" // something moved, significantly and far enough
	TooFew  Verdict = "too few" // there is not enough data to tell
)

// Report is how a window differs from its profile.
type Report struct {
	Profile string         `json:"profile"` // digest
	Rows    uint64         `json:"rows"`    // of the window
	Verdict Verdict        `json:"verdict"`
	Level   float64        `json:"level"` // that adjusted p-values are compared with
	Columns []ColumnReport `json:"columns"`
}

// ColumnReport is how a column of a window differs from its profile. All shares are of 1.
type ColumnReport struct {
	Name    string  `json:"name"`
	Kind    Kind    `json:"kind"`
	Verdict Verdict `json:"verdict"`
	// Cause is the test that raised the alarm, the surest where there are several.
	Cause TestName `json:"cause,omitempty"`
	// PSI and JS, the Jensen–Shannon distance, are over deciles of the reference for numeric
	// columns (what is out of range is in the outermost), else over all that is listed,
	// with one cell for the rest.
	PSI   float64 `json:"psi"`
	JS    float64 `json:"js"`
	Tests []Test  `json:"tests"`

	Values    uint64   `json:"values"` // that are not missing
	Missing   Change   `json:"missing"`
	Unseen    Change   `json:"unseen"` // its reference is what is to be expected
	Below     float64  `json:"below"`  // the least number of the reference
	Above     float64  `json:"above"`  // the greatest number of the reference
	Reference *Spread  `json:"reference,omitempty"`
	Current   *Spread  `json:"current,omitempty"`
	Names     []Named  `json:"names,omitempty"` // of unseen values
	Moves     []Change `json:"moves,omitempty"` // where shares changed most, the greatest change first
}

// Change is a share in the reference and in the window.
type Change struct {
	// Of is a range of numbers, such as "(41, 52]", or a value. It is empty for Missing and Unseen.
	Of        string  `json:"of,omitempty"`
	Reference float64 `json:"reference"`
	Current   float64 `json:"current"`
}

// Named is an unseen value and how many rows had it.
type Named struct {
	Name string `json:"name"`
	Rows uint64 `json:"rows"`
}

// Spread is quantiles, as near as bins tell.
type Spread struct {
	P5  float64 `json:"p5"`
	P25 float64 `json:"p25"`
	P50 float64 `json:"p50"`
	P75 float64 `json:"p75"`
	P95 float64 `json:"p95"`
}

// TestName names a test.
type TestName string

// The tests. Each column has three of them.
const (
	KS           TestName = "ks"        // numeric: of Kolmogorov and Smirnov
	ChiSquare    TestName = "chisquare" // others: of homogeneity
	MissingShare TestName = "missing"   // whether more or fewer values are missing: exact
	UnseenShare  TestName = "unseen"    // others: whether more are unseen than is to be expected
	OutOfRange   TestName = "range"     // numeric: whether more are out of range than is to be expected: exact
)

// Test is what a test says.
type Test struct {
	Name      TestName `json:"name"`
	Statistic float64  `json:"statistic"` // of missing, unseen and range the share in the window
	P         float64  `json:"p"`
	Adjusted  float64  `json:"adjusted"` // P, for that there are many tests
	Effect    float64  `json:"effect"`   // what is compared with Options.Effect or Share
	Alarm     bool     `json:"alarm"`
}

// Compare tells how the rows of a state differ from its profile. Options that can't be are Invalid.
//
// The chance of a false alarm is kept by Holm's adjustment over all tests of all columns,
// which needs nothing of how they depend on each other; of procedures for the false discovery
// rate (Benjamini and Hochberg, 1995) the same could be said only where they do not. Each
// test takes its counts of both sides as random: a reference of few rows
// is known less well, and tells less.
func Compare(s *State, o Options) (*Report, error) {
	if !(o.Alpha > 0 && o.Alpha < 1) || o.Windows < 1 || !(o.Effect >= 0) || !(o.Share >= 0) {
		return nil, fault.New(fault.Invalid, "alpha must be between 0 and 1, windows at least 1, effect and share not negative")
	}
	r := &Report{Profile: s.p.digest, Rows: s.Rows(), Verdict: Steady, Level: o.Alpha / float64(o.Windows), Columns: make([]ColumnReport, len(s.columns))}
	var p []float64
	for i := range s.columns {
		r.Columns[i] = compareColumn(&s.p.columns[i], &s.columns[i], s.p.columns[i].of(s.p.rows), o)
		for _, t := range r.Columns[i].Tests {
			p = append(p, t.P)
		}
	}
	p = holm(p)
	if r.Rows < o.MinRows {
		r.Verdict = TooFew
	}
	for i := range r.Columns {
		c := &r.Columns[i]
		least := 2.0
		for j := range c.Tests {
			t := &c.Tests[j]
			t.Adjusted, p = p[0], p[1:]
			need := o.Share
			if t.Name == KS || t.Name == ChiSquare {
				need = o.Effect
			}
			t.Alarm = r.Verdict != TooFew && t.Adjusted <= r.Level && t.Effect >= need
			if t.Alarm && t.P < least {
				least, c.Cause, c.Verdict = t.P, t.Name, Drifted
			}
		}
		if c.Verdict == Drifted {
			r.Verdict = Drifted
		}
	}
	return r, nil
}

func compareColumn(c *Column, t *tally, rows uint64, o Options) ColumnReport {
	present := t.present()
	all := present + t.missing
	r := ColumnReport{Name: c.Name, Kind: c.Kind, Verdict: Steady, Values: present}
	r.Missing = Change{Reference: share(c.Missing, rows), Current: share(t.missing, all)}
	if all < o.MinRows {
		r.Verdict = TooFew
	}
	shape := Test{Name: ChiSquare, P: 1}
	last := Test{Name: UnseenShare, P: 1}
	if c.Kind == Numeric {
		shape.Name, last.Name = KS, OutOfRange
	}
	if present > 0 && c.present > 0 {
		cells := c.pair(t)
		reference, current := cells.counts()
		r.PSI, r.JS = psi(reference, current), js(reference, current)
		r.Moves = cells.moves()
		shape.Effect = max(r.PSI, r.JS)
		if present < o.MinRows {
			r.Verdict = TooFew
		}
		n, m := float64(c.present), float64(present)
		if c.Kind == Numeric {
			reference, current := c.aligned(t)
			shape.Statistic = ks(reference, current)
			shape.P = kolmogorov(shape.Statistic, n, m)
		} else {
			shape.Statistic, shape.P = chiSquare(reference, current)
		}
		if present < o.MinRows {
			shape.P = 1
		}
		c.outside(t, rows, &r, &last)
		if c.Kind != Categorical {
			r.Reference, r.Current = c.spreads(t)
		}
	}
	missing := Test{Name: MissingShare, Statistic: r.Missing.Current, Effect: math.Abs(r.Missing.Current - r.Missing.Reference), P: 1}
	if all > 0 && rows > 0 {
		missing.P = fisherEither(c.Missing, rows, t.missing, all)
	}
	r.Tests = []Test{shape, missing, last}
	return r
}

func share(of, all uint64) float64 {
	if all == 0 {
		return 0
	}
	return float64(of) / float64(all)
}

// outside says what training did not have.
//
// That numbers lie beyond all of the reference has, whatever their distribution, the chance
// that the greatest of both together are all among the window's: Fisher's, with none in the
// reference. How many values are unseen that should be is told by those that the reference
// has once (Good, "The population frequencies of species and the estimation of population
// parameters", 1953); that estimate varies more than a count does, up to about twice, so
// it weighs like one of half as many rows.
func (c *Column) outside(t *tally, rows uint64, r *ColumnReport, test *Test) {
	present := r.Values
	if c.Kind == Numeric {
		below, above := t.cells[0], t.cells[len(t.cells)-1]
		r.Below, r.Above = share(below, present), share(above, present)
		test.Statistic = r.Below + r.Above
		test.Effect = test.Statistic
		n := rows - c.Missing
		test.P = min(1, 2*min(fisher(0, n, below, present), fisher(0, n, above, present)))
		return
	}
	if c.Other > 0 {
		return // what is not listed may be one of the others
	}
	unlisted := t.cells[len(c.Counts)]
	r.Unseen = Change{Reference: share(c.Single, c.present), Current: share(unlisted, present)}
	test.Statistic = r.Unseen.Current
	test.Effect = max(r.Unseen.Current-r.Unseen.Reference, 0)
	test.P = fisher((c.Single+1)/2, (c.present+1)/2, unlisted, present)
	for _, u := range t.frequent() {
		if len(r.Names) == maxMoves {
			break
		}
		r.Names = append(r.Names, Named{string(u.name), u.rows})
	}
}

// aligned gives the counts of a numeric column's cells in the reference and in the window.
func (c *Column) aligned(t *tally) (reference, current []uint64) {
	reference = make([]uint64, len(t.cells)) // none is below, none above
	copy(reference[1:], c.Counts)
	return reference, t.cells
}

// cells are what PSI and the Jensen–Shannon distance are taken over.
type cells []paired

type paired struct {
	of                 string
	reference, current uint64
}

func (s cells) counts() (reference, current []uint64) {
	for _, c := range s {
		reference, current = append(reference, c.reference), append(current, c.current)
	}
	return reference, current
}

// pair lays the reference and the window side by side, in deciles or by value.
func (c *Column) pair(t *tally) (s cells) {
	if c.Kind == Numeric {
		return c.deciles(t)
	}
	for i, n := range c.Counts {
		name := ""
		if c.Kind == Discrete {
			name = number(c.Edges[i])
		} else {
			name = c.Categories[i]
		}
		s = append(s, paired{name, n, t.cells[i]})
	}
	rest := "(unseen)"
	if c.Other > 0 {
		rest = "(other)"
	}
	return append(s, paired{rest, c.Other, t.cells[len(c.Counts)]})
}

func (c *Column) deciles(t *tally) (s cells) {
	var have uint64
	next := uint64(1)
	now := paired{current: t.cells[0]}
	from := "(-inf"
	for i, n := range c.Counts {
		have += n
		now.reference, now.current = now.reference+n, now.current+t.cells[i+1]
		if i == len(c.Counts)-1 {
			now.of, now.current = from+", inf)", now.current+t.cells[i+2]
		} else if have*10 < next*c.present {
			continue
		} else {
			now.of = from + ", " + number(c.Edges[i]) + "]"
		}
		next = have*10/c.present + 1 // one bin may have several deciles
		s, now, from = append(s, now), paired{}, "("+number(c.Edges[i])
	}
	return s
}

func number(f float64) string { return fmt.Sprintf("%.5g", f) }

const maxMoves = 5

func (s cells) moves() (moves []Change) {
	reference, current := s.counts()
	n, m := sum(reference), sum(current)
	for _, c := range s {
		if c.reference > 0 || c.current > 0 {
			moves = append(moves, Change{c.of, share(c.reference, n), share(c.current, m)})
		}
	}
	slices.SortStableFunc(moves, func(a, b Change) int {
		return cmp.Compare(math.Abs(b.Current-b.Reference), math.Abs(a.Current-a.Reference))
	})
	return moves[:min(len(moves), maxMoves)]
}

// spreads gives quantiles of the reference and of the window.
func (c *Column) spreads(t *tally) (reference, current *Spread) {
	if c.Kind == Discrete {
		if t.present() > t.cells[len(c.Counts)] { // what is not listed lies nobody knows where
			current = spread(t.cells[:len(c.Counts)], c.Edges, c.Edges)
		}
		return spread(c.Counts, c.Edges, c.Edges), current
	}
	counts, cells := c.aligned(t)
	ends := append(append([]float64{c.Min}, c.Edges...), max(c.Max(), t.max))
	starts := append([]float64{min(c.Min, t.min), c.Min}, c.Edges...)
	return spread(counts, starts, ends), spread(cells, starts, ends)
}

// spread finds quantiles in cells, in each of which numbers lie evenly.
func spread(counts []uint64, starts, ends []float64) *Spread {
	all := float64(sum(counts))
	at := func(q float64) float64 {
		var have float64
		for i, n := range counts {
			if n := float64(n); n > 0 && have+n >= q*all {
				f := (q*all - have) / n
				return starts[i]*(1-f) + ends[i]*f
			} else {
				have += n
			}
		}
		return ends[len(ends)-1]
	}
	return &Spread{at(.05), at(.25), at(.5), at(.75), at(.95)}
}

// String says in a line what changed, such as
//
//	dewp: drifted (ks); median 41 -> 63; 2.1 % above the reference's range; PSI 0.85, JS 0.31, ks p < 1e-12
func (r ColumnReport) String() string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	head := r.Name + ": " + string(r.Verdict)
	if r.Cause != "" {
		head += " (" + string(r.Cause) + ")"
	}
	parts = append(parts, head)
	if r.Reference != nil && r.Current != nil && r.Reference.P50 != r.Current.P50 {
		say("median %s -> %s", number(r.Reference.P50), number(r.Current.P50))
	} else if len(r.Moves) > 0 {
		say("%s %s -> %s", r.Moves[0].Of, percent(r.Moves[0].Reference), percent(r.Moves[0].Current))
	}
	if r.Below > 0 {
		say("%s below the reference's range", percent(r.Below))
	}
	if r.Above > 0 {
		say("%s above the reference's range", percent(r.Above))
	}
	if r.Unseen.Current > 0 {
		say("%s unseen", percent(r.Unseen.Current))
		if len(r.Names) > 0 {
			say("such as %q", r.Names[0].Name)
		}
	}
	if r.Missing.Current != r.Missing.Reference {
		say("missing %s -> %s", percent(r.Missing.Reference), percent(r.Missing.Current))
	}
	if len(r.Tests) > 0 {
		say("PSI %.3f, JS %.3f, %s p %s", r.PSI, r.JS, r.Tests[0].Name, chance(r.Tests[0].P))
	}
	return strings.Join(parts, "; ")
}

func percent(f float64) string { return fmt.Sprintf("%.3g %%", 100*f) }

func chance(p float64) string {
	if p < 1e-12 {
		return "< 1e-12"
	}
	return fmt.Sprintf("%.2g", p)
}

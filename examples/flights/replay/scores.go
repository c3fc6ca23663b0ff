package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/chart"
)

// scores is what was said of each flight, by the model that the loop tends and by one that nobody tends, and what came true. Both are asked
// the same, as of the same moment. Only flights that arrived count, and those that were asked about from since on.
type scores struct {
	since   time.Time
	open    map[string]*minute // what was said, by the id of the request
	flights []flightScore      // in the order in which they arrived
}

// minute is what was said of the flights of a request.
type minute struct {
	at          time.Time
	said, still []float64
}

// flightScore is one flight that has arrived.
type flightScore struct {
	at          time.Time // as of when it was asked about
	said, still float64   // the probabilities
	late        bool
}

func newScores(since time.Time) *scores { return &scores{since: since, open: map[string]*minute{}} }

func (s *scores) asked(at time.Time, said, still []float64) {
	if !at.Before(s.since) {
		s.open[at.Format(time.RFC3339)] = &minute{at, said, still}
	}
}

func (s *scores) cameTrue(h happening) error {
	var all []struct {
		Prediction string
		Row        int
		Value      bool
	}
	if err := json.Unmarshal(h.rows, &all); err != nil {
		return err
	}
	for _, o := range all {
		if m := s.open[o.Prediction]; m != nil && o.Row < len(m.said) {
			s.flights = append(s.flights, flightScore{m.at, m.said[o.Row], m.still[o.Row], o.Value})
		}
	}
	return nil
}

// loss is the log loss of a probability.
func loss(p float64, late bool) float64 {
	if !late {
		p = 1 - p
	}
	return -math.Log(max(p, 1e-7))
}

// comparison is what some flights came to.
type comparison struct {
	from, until         time.Time
	n                   int
	late                float64 // the share of them
	with, without       float64 // log loss
	aucWith, aucWithout float64
	gain, low, high     float64 // by how much log loss is less with the loop, and its 95 % interval
}

// draws is how many times days are drawn for an interval.
const draws = 1000

// compare tells of the flights of a span of time. The interval draws whole days: flights of a day share its weather and its jams.
func (s *scores) compare(from, until time.Time) comparison {
	c := comparison{from: from, until: until}
	type day struct{ n, with, without float64 }
	days := map[int64]*day{}
	var some []flightScore
	for _, f := range s.flights {
		if f.at.Before(from) || !f.at.Before(until) {
			continue
		}
		some = append(some, f)
		d := days[f.at.Unix()/86400]
		if d == nil {
			d = &day{}
			days[f.at.Unix()/86400] = d
		}
		d.n++
		d.with += loss(f.said, f.late)
		d.without += loss(f.still, f.late)
		if f.late {
			c.late++
		}
	}
	if c.n = len(some); c.n == 0 {
		return c
	}
	list := make([]day, 0, len(days))
	for _, d := range days {
		list = append(list, *d)
		c.with += d.with
		c.without += d.without
	}
	slices.SortFunc(list, func(a, b day) int {
		return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.with, b.with), cmp.Compare(a.without, b.without))
	})
	n := float64(c.n)
	c.late, c.with, c.without = c.late/n, c.with/n, c.without/n
	c.gain = c.without - c.with
	random, gains := rand.New(rand.NewPCG(2013, 0)), make([]float64, draws)
	for i := range gains {
		n, gain := 0.0, 0.0
		for range list {
			d := &list[random.IntN(len(list))]
			n, gain = n+d.n, gain+d.without-d.with
		}
		gains[i] = gain / n
	}
	slices.Sort(gains)
	c.low, c.high = gains[draws*25/1000], gains[draws*975/1000-1]
	c.aucWith = auc(some, func(f *flightScore) float64 { return f.said })
	c.aucWithout = auc(some, func(f *flightScore) float64 { return f.still })
	return c
}

// auc is the chance that a late flight was given a higher probability than one in time.
func auc(flights []flightScore, of func(*flightScore) float64) float64 {
	slices.SortFunc(flights, func(a, b flightScore) int { return cmp.Compare(of(&a), of(&b)) })
	var late, ranks float64
	for i := 0; i < len(flights); {
		j := i
		for j < len(flights) && of(&flights[j]) == of(&flights[i]) {
			j++
		}
		for k := i; k < j; k++ {
			if flights[k].late {
				late++
				ranks += float64(i+j+1) / 2
			}
		}
		i = j
	}
	return (ranks - late*(late+1)/2) / (late * (float64(len(flights)) - late))
}

// months compares month by month, of New York.
func (s *scores) months(until time.Time) (all []comparison) {
	for from := s.since; from.Before(until); {
		next := from.AddDate(0, 1, 0)
		if next.After(until) {
			next = until
		}
		if c := s.compare(from, next); c.n > 0 {
			all = append(all, c)
		}
		from = next
	}
	return all
}

// table writes the months, and all of them, in Markdown.
func (s *scores) table(out io.Writer, until time.Time) {
	fmt.Fprintln(out, "| month | flights | late | log loss without the loop | with it | gain (95 % interval) | AUC without | with |\n|---|---|---|---|---|---|---|---|")
	row := func(name string, c comparison) {
		fmt.Fprintf(out, "| %s | %d | %.1f%% | %.4f | %.4f | %.4f (%.4f to %.4f) | %.3f | %.3f |\n", name, c.n, 100*c.late, c.without, c.with, c.gain, c.low, c.high, c.aucWithout, c.aucWith)
	}
	for _, c := range s.months(until) {
		row(c.from.Format("January"), c)
	}
	if c := s.compare(s.since, until); c.n > 0 {
		row("all", c)
	}
}

// curveDays is of how many days a point of the curves is.
const curveDays = 14

// svg draws both curves, and their difference.
func (s *scores) svg(until time.Time, under string) []byte {
	without := chart.Series{Name: "without the loop"}
	with := chart.Series{Name: "with the loop", Hue: 2}
	gain := chart.Series{Name: "log loss less, with 95 % interval", Hue: 2}
	for from := s.since; from.Before(until); from = from.AddDate(0, 0, curveDays) {
		c := s.compare(from, from.AddDate(0, 0, curveDays))
		if c.n == 0 {
			continue
		}
		x := float64(from.AddDate(0, 0, curveDays/2).Unix())
		without.Points = append(without.Points, chart.Point{X: x, Y: c.without, Low: c.without, High: c.without})
		with.Points = append(with.Points, chart.Point{X: x, Y: c.with, Low: c.with, High: c.with})
		gain.Points = append(gain.Points, chart.Point{X: x, Y: c.gain, Low: c.low, High: c.high})
	}
	axis := chart.Axis{Time: true, From: float64(s.since.Unix()), To: float64(until.Unix())}
	nothing := chart.Series{Plain: true, Dashed: true, Points: []chart.Point{{X: axis.From}, {X: axis.To}}}
	c := s.compare(s.since, until)
	f := chart.Figure{
		Title: "Will it arrive late? Log loss of each fortnight, with the loop and without", Under: under,
		Description: fmt.Sprintf("Over all %d flights the log loss is %.4f without the loop and %.4f with it.", c.n, c.without, c.with),
		Plots: []chart.Plot{
			{Title: "log loss", Width: 1, X: axis, Series: []chart.Series{without, with}},
			{Title: "how much less with the loop", Width: 1, X: axis, Series: []chart.Series{nothing, gain}},
		},
	}
	return f.SVG()
}

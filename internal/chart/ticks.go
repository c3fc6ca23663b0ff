package chart

import (
	"math"
	"strconv"
	"time"
)

// tick is a place on an axis.
type tick struct {
	at    float64
	label string
	under string // a second line, such as the year; empty where it is as before
}

// numberTicks gives multiples of 1, 2 or 5 times a power of ten from lo to hi: as many as there can be, but at most some, which are at least two.
func numberTicks(lo, hi float64, most int) []tick {
	span := hi - lo
	if !(span > math.Abs(hi)*1e-9) || math.IsInf(span, 0) {
		return nil
	}
	exponent := int(math.Floor(math.Log10(span/float64(most)))) - 1
	for ; ; exponent++ {
		for _, digit := range [...]float64{1, 2, 5} {
			step := digit * math.Pow10(exponent)
			first, last := math.Ceil(lo/step-1e-9), math.Floor(hi/step+1e-9)
			if !(last-first < float64(most)) {
				continue
			}
			var ticks []tick
			for i := first; i <= last; i++ {
				at := i*step + 0 // not -0
				label := strconv.FormatFloat(at, 'f', max(-exponent, 0), 64)
				if len(label) > 8 {
					label = strconv.FormatFloat(at, 'g', 4, 64)
				}
				ticks = append(ticks, tick{at: at, label: label})
			}
			return ticks
		}
	}
}

// timeSteps are the distances that ticks of time may have: those that people count in.
var timeSteps = []struct {
	months int
	time.Duration
}{
	{0, time.Minute},
	{0, 5 * time.Minute},
	{0, 15 * time.Minute},
	{0, time.Hour},
	{0, 3 * time.Hour},
	{0, 6 * time.Hour},
	{0, 12 * time.Hour},
	{0, day},
	{0, 2 * day},
	{0, 7 * day},
	{0, 14 * day},
	{1, 0},
	{2, 0},
	{3, 0},
	{6, 0},
	{12, 0},
	{24, 0},
	{60, 0},
	{120, 0},
	{600, 0},
	{1200, 0},
}

const day = 24 * time.Hour

// timeTicks gives round times, of UTC, of an axis in seconds since 1970, at most some.
func timeTicks(from, until float64, most int) []tick {
	if !(until > from) || math.Abs(from) > 1e11 || math.Abs(until) > 1e11 {
		return nil
	}
	end := time.Unix(int64(math.Floor(until)), 0).UTC()
	for _, step := range timeSteps {
		if step.months == 0 && (until-from)/step.Seconds() > float64(most) {
			continue
		}
		var times []time.Time
		for t := roundUp(time.Unix(int64(math.Ceil(from)), 0).UTC(), step.months, step.Duration); !t.After(end) && len(times) <= most; t = t.AddDate(0, step.months, 0).Add(step.Duration) {
			times = append(times, t)
		}
		if len(times) > most {
			continue
		}
		main, under := formats(step.months, step.Duration)
		return labelled(times, main, under)
	}
	return nil
}

func formats(months int, step time.Duration) (main, under string) {
	switch {
	case months >= 12:
		return "2006", ""
	case months > 0:
		return "Jan", "2006"
	case step >= day:
		return "2 Jan", "2006"
	}
	return "15:04", "2 Jan 2006"
}

// labelled gives ticks with a second line where that differs from the one before.
func labelled(times []time.Time, main, under string) (ticks []tick) {
	before := ""
	for _, t := range times {
		k := tick{at: float64(t.Unix()), label: t.Format(main)}
		if u := t.Format(under); u != before {
			k.under, before = u, u
		}
		ticks = append(ticks, k)
	}
	return ticks
}

// roundUp gives the first multiple of a step from a time on: weeks begin on Monday, half-years in January.
func roundUp(t time.Time, months int, step time.Duration) time.Time {
	if months == 0 {
		round := t.Truncate(step) // counts from a Monday
		if round.Before(t) {
			round = round.Add(step)
		}
		return round
	}
	n := t.Year()*12 + int(t.Month()) - 1
	n -= n % months
	for {
		if round := time.Date(0, time.Month(n+1), 1, 0, 0, 0, 0, time.UTC); !round.Before(t) {
			return round
		}
		n += months
	}
}

package console

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// functions are what templates may call.
var functions = template.FuncMap{
	"at":      at,
	"link":    link,
	"clip":    func(most int, s string) string { return clipped(s, most) },
	"count":   func(n any) string { return count(n) },
	"number":  number,
	"percent": func(f float64) string { return number(100*f) + " %" },
	"bytes":   func(n int64) string { return humanize.IBytes(uint64(max(n, 0))) },
	"micros":  micros,
	"seconds": func(s float64) string { return lag(time.Duration(s * 1e9)) },
	"lag":     lag,
	"idPath":  predictionPath,
	"when":    when,
	"ago":     ago,
	"join":    strings.Join,
	"mood":    mood,
	"sum":     func(a, b float64) float64 { return a + b },
	"escape":  escape,
	"svg":     func(b []byte) template.HTML { return template.HTML(b) }, //nolint:gosec // made by the package chart, which escapes
}

func escape(s string) string { return url.QueryEscape(s) }

// count writes a whole number with separators.
func count(n any) string {
	switch n := n.(type) {
	case int:
		return humanize.Comma(int64(n))
	case int64:
		return humanize.Comma(n)
	case uint64:
		return humanize.Comma(int64(n)) //nolint:gosec // none is that large
	case float64:
		return humanize.Comma(int64(math.Round(n)))
	}
	return fmt.Sprint(n)
}

// number writes a number with four digits that count.
func number(f float64) string {
	switch a := math.Abs(f); {
	case math.IsNaN(f):
		return "–"
	case a >= 1000 || f == math.Trunc(f) && a < 1e15:
		return humanize.Commaf(math.Round(f))
	default:
		return fmt.Sprintf("%.4g", f)
	}
}

// micros writes a time in microseconds in the unit that suits it.
func micros(us float64) string {
	switch {
	case us < 1000:
		return number(us) + " µs"
	case us < 1e6:
		return fmt.Sprintf("%.3g ms", us/1e3)
	}
	return (time.Duration(us) * time.Microsecond).Round(10 * time.Millisecond).String()
}

// lag tells a time that may be long, in at most two units: "3h 12m", "45 days".
func lag(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "−", -d
	}
	switch {
	case d < time.Minute:
		return sign + micros(float64(d.Microseconds()))
	case d < time.Hour:
		return fmt.Sprintf("%s%dm %ds", sign, int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%s%dh %dm", sign, int(d.Hours()), int(d.Minutes())%60)
	}
	return sign + count(int(d.Hours()/24)) + " days"
}

// when is a time for people, in UTC, with the exact one for machines.
func when(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s</time>`, t.Format(time.RFC3339Nano), t.Format("2006-01-02 15:04:05"))) //nolint:gosec // digits
}

// ago is how long ago something was.
func ago(t time.Time) template.HTML {
	if t.IsZero() {
		return "–"
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%[1]s">%s</time>`, t.UTC().Format(time.RFC3339), humanize.Time(t))) //nolint:gosec // digits and words
}

// linked is a link of the navigation.
type linked struct {
	Path, Name string
	Here       bool
}

func link(here, path, name string) linked { return linked{path, name, here == path} }

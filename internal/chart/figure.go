package chart

import (
	"math"
	"slices"
	"strings"
)

// Figure is plots beside each other, with one legend.
type Figure struct {
	Title       string
	Under       string // a line below the title
	Description string // of what can be seen, for those who can't
	Plots       []Plot
}

// Plot is series in a frame with two axes.
type Plot struct {
	Title  string
	Width  float64 // its share of the figure's width, relative to those of the other plots
	X, Y   Axis
	Series []Series
}

// Axis is what one direction of a plot means.
type Axis struct {
	Label    string
	From, To float64 // the ends; equal: as far as the points go
	Time     bool    // numbers are seconds since 1970
}

// Series is points of one colour. In a figure, those of one name are told once in the legend.
type Series struct {
	Name   string // empty: not in the legend
	Hue    int    // from 0 on: what is of the same thing has the same
	Dashed bool   // without marks: what is not measured, but thought
	Bars   bool   // intervals are bars through the points, not a band around the line
	Plain  bool   // neither a mark nor a colour: something to compare with
	Points []Point
}

// Point is a place in a plot, and an interval of its Y; Low and High are Y where there is none. A line has a gap where Y is NaN.
type Point struct{ X, Y, Low, High float64 }

func (p Point) known() bool { return !math.IsNaN(p.Y) }

const (
	plotHeight = 300.0
	marksMost  = 70 // points of a series; more are no longer told apart
)

// SVG draws the figure.
func (f *Figure) SVG() []byte {
	c := &canvas{}
	top := c.heading(f.Title, f.Under)
	top = c.legend(f.Plots, top)
	total := 0.0
	for i := range f.Plots {
		total += f.Plots[i].Width
	}
	x := margin
	for i := range f.Plots {
		p := &f.Plots[i]
		w := (width - 2*margin) * p.Width / total
		p.draw(c, x, top, w)
		x += w
	}
	height := margin
	if len(f.Plots) > 0 {
		height += plotHeight
	}
	return c.picture(f.Title, f.Description, top+height)
}

// legend tells the names of series, and gives where the plots begin.
func (c *canvas) legend(plots []Plot, y float64) float64 {
	const swatch, gap = 30.0, 22.0
	x := margin
	var told []string
	for i := range plots {
		for j := range plots[i].Series {
			s := &plots[i].Series[j]
			if s.Name == "" || slices.Contains(told, s.Name) {
				continue
			}
			told = append(told, s.Name)
			name := clipped(s.Name, 60)
			if x > margin && x+swatch+wide(name) > width-margin {
				x, y = margin, y+line
			}
			c.printf(`<g%s fill="currentColor" stroke="currentColor">`, coloured(s.colour()))
			if !s.Dashed && !s.Plain && !s.Bars {
				c.printf(`<rect x="%s" y="%s" width="24" height="11" stroke="none" fill-opacity=".18"/>`, x, y-letter+2)
			}
			c.printf(`<path d="M%s %sh24" fill="none" stroke-width="2"%s/>`, x, y-letter/2+1.5, dashes(s.Dashed))
			if !s.Dashed && !s.Plain {
				c.mark(s.Hue, x+12, y-letter/2+1.5)
			}
			c.printf(`</g>`)
			c.text(x+swatch, y, "start", ink, name)
			x += swatch + wide(name) + gap
		}
	}
	if len(told) == 0 {
		return y
	}
	return y + line
}

func (s *Series) colour() int {
	if s.Plain {
		return soft
	}
	return s.Hue % hues
}

func dashes(dashed bool) string {
	if dashed {
		return ` stroke-dasharray="6 4"`
	}
	return ""
}

// mark draws a point, of a shape of its hue's: colours are not all that tells series apart.
func (c *canvas) mark(hue int, x, y float64) {
	switch hue % 4 {
	case 0:
		c.printf(`<circle cx="%s" cy="%s" r="3" stroke="none"/>`, x, y)
	case 1:
		c.printf(`<path d="M%s %sh6v6h-6z" stroke="none"/>`, x-3, y-3)
	case 2:
		c.printf(`<path d="M%s %sl4 7h-8z" stroke="none"/>`, x, y-4)
	case 3:
		c.printf(`<path d="M%s %sl4 4-4 4-4-4z" stroke="none"/>`, x, y-4)
	}
}

// frame is where a plot lies, and what its ends mean.
type frame struct{ left, top, right, bottom, x0, x1, y0, y1 float64 }

func (f *frame) x(v float64) float64 { return f.left + (v-f.x0)/(f.x1-f.x0)*(f.right-f.left) }

// y is within the frame: an interval that is wider ends at its edge.
func (f *frame) y(v float64) float64 {
	return f.bottom - (min(max(v, f.y0), f.y1)-f.y0)/(f.y1-f.y0)*(f.bottom-f.top)
}

func (p *Plot) draw(c *canvas, x, y, w float64) {
	f := frame{left: x + 46, top: y + 14, right: x + w - 12, bottom: y + plotHeight - 48}
	f.x0, f.x1, f.y0, f.y1 = p.ends()
	if p.Title != "" {
		f.top += line
		c.printf(`<text x="%s" y="%s" font-weight="600" fill="currentColor"%s>%s</text>`, f.left, y+letter, coloured(ink), escaped(clipped(p.Title, (f.right-f.left)/advance)))
	}
	var rules strings.Builder
	for _, t := range numberTicks(f.y0, f.y1, 7) {
		rules.WriteString("M" + number(f.left) + " " + number(f.y(t.at)) + "H" + number(f.right))
		c.text(f.left-7, f.y(t.at)+4, "end", soft, t.label)
	}
	ticks, apart := numberTicks, 40.0
	if p.X.Time {
		ticks, apart = timeTicks, 52
	}
	for _, t := range ticks(f.x0, f.x1, max(int((f.right-f.left)/apart), 2)) {
		rules.WriteString("M" + number(f.x(t.at)) + " " + number(f.bottom) + "v4")
		c.text(f.x(t.at), f.bottom+18, "middle", soft, t.label)
		if t.under != "" {
			c.text(f.x(t.at), f.bottom+33, "middle", soft, t.under)
		}
	}
	c.printf(`<path d="%s" fill="none" stroke="currentColor"%s/>`, rules.String(), coloured(rule))
	c.printf(`<path d="M%s %sH%s" fill="none" stroke="currentColor"%s/>`, f.left, f.bottom, f.right, coloured(soft))
	if p.X.Label != "" {
		c.text((f.left+f.right)/2, f.bottom+36, "middle", soft, p.X.Label)
	}
	if p.Y.Label != "" {
		c.text(f.left, f.top-6, "start", soft, p.Y.Label)
	}
	for i := range p.Series { // bands are under all lines
		p.Series[i].drawIntervals(c, &f)
	}
	for i := range p.Series {
		p.Series[i].drawLine(c, &f)
	}
}

// ends gives what the axes begin and end with. Of intervals the widest twentieth does not count, lest one window with few points make all others small.
func (p *Plot) ends() (x0, x1, y0, y1 float64) {
	x0, x1, y0, y1 = math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	var lows, highs []float64
	for i := range p.Series {
		for _, q := range p.Series[i].Points {
			x0, x1 = min(x0, q.X), max(x1, q.X)
			if q.known() {
				y0, y1 = min(y0, q.Y), max(y1, q.Y)
				lows, highs = append(lows, q.Low), append(highs, q.High)
			}
		}
	}
	if n := len(lows); n > 0 {
		slices.Sort(lows)
		slices.Sort(highs)
		y0, y1 = min(y0, lows[n/20]), max(y1, highs[n-1-n/20])
		y0, y1 = y0-(y1-y0)*.06, y1+(y1-y0)*.06
	}
	x0, x1 = p.X.widened(x0, x1)
	y0, y1 = p.Y.widened(y0, y1)
	return x0, x1, y0, y1
}

// widened takes the ends that an axis is to have, and leaves none without a middle.
func (a *Axis) widened(from, to float64) (float64, float64) {
	if a.From != a.To {
		return a.From, a.To
	}
	switch {
	case from > to: // there is nothing
		return 0, 1
	case !(to-from > math.Abs(to)*1e-6): // all is the same
		by := max(math.Abs(to)*.1, 1e-3)
		return from - by, to + by
	}
	return from, to
}

// runs gives the stretches of points that are as they are to be.
func (s *Series) runs(good func(Point) bool) (runs [][]Point) {
	rest := s.Points
	for len(rest) > 0 {
		n := slices.IndexFunc(rest, func(p Point) bool { return !good(p) })
		if n < 0 {
			n = len(rest)
		}
		if n > 0 {
			runs = append(runs, rest[:n])
		}
		rest = rest[min(n+1, len(rest)):]
	}
	return runs
}

func (s *Series) drawIntervals(c *canvas, f *frame) {
	var d strings.Builder
	to := func(command string, x, y float64) {
		d.WriteString(command + number(f.x(x)) + " " + number(f.y(y)))
	}
	bars := s.Bars
	// The band has a gap where there is no interval, which looks like an exact value otherwise.
	for _, run := range s.runs(func(p Point) bool { return p.known() && p.Low < p.High }) {
		if s.Bars || len(run) == 1 {
			bars = true
			for _, p := range run {
				to("M", p.X, p.Low)
				to("L", p.X, p.High)
			}
			continue
		}
		for i, p := range run {
			to(map[bool]string{true: "M", false: "L"}[i == 0], p.X, p.High)
		}
		for _, p := range slices.Backward(run) {
			to("L", p.X, p.Low)
		}
		d.WriteString("Z")
	}
	if d.Len() == 0 {
		return
	}
	stroke := ""
	if bars {
		stroke = ` stroke="currentColor" stroke-opacity=".5"`
	}
	c.printf(`<path d="%s" fill="currentColor" fill-opacity=".18"%s%s/>`, d.String(), stroke, coloured(s.colour()))
}

func (s *Series) drawLine(c *canvas, f *frame) {
	c.printf(`<g%s fill="currentColor" stroke="currentColor">`, coloured(s.colour()))
	defer c.printf(`</g>`)
	dense := len(s.Points) > marksMost
	marks, thick := !s.Plain && !s.Dashed && !dense, 2.0
	if dense {
		thick = 1.3
	}
	for _, run := range s.runs(Point.known) {
		var d strings.Builder
		for _, p := range run {
			d.WriteString(map[bool]string{true: "M", false: "L"}[d.Len() == 0] + number(f.x(p.X)) + " " + number(f.y(p.Y)))
		}
		switch {
		case len(run) > 1:
			c.printf(`<path d="%s" fill="none" stroke-width="%s" stroke-linejoin="round"%s/>`, d.String(), thick, dashes(s.Dashed))
		case s.Dashed:
			c.printf(`<circle cx="%s" cy="%s" r="3" fill="none" stroke-width="1.5"/>`, f.x(run[0].X), f.y(run[0].Y))
		case !marks:
			c.mark(s.Hue, f.x(run[0].X), f.y(run[0].Y))
		}
		if marks {
			for _, p := range run {
				c.mark(s.Hue, f.x(p.X), f.y(p.Y))
			}
		}
	}
}

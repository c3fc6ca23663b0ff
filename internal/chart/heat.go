package chart

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Heat is a map of how strong things are at what time.
type Heat struct {
	Title       string
	Under       string    // a line below the title
	Description string    // of what can be seen, for those who can't
	Measure     string    // what values are, such as PSI
	Steps       []float64 // ascending: from each of them on a cell has a stronger colour
	Marked      string    // what it means that a cell is underlined
	Blank       string    // what it means that a cell has no colour, but a point
	Blocks      []Block
}

// Block is rows of the same spans of time.
type Block struct {
	Title string
	Spans []Span
	Rows  []Row
}

// Span is some of the time.
type Span struct{ From, Until time.Time }

// Row has one cell for each of the block's spans.
type Row struct {
	Name  string
	Cells []Cell
}

// Cell is how strong a row is in a span.
type Cell struct {
	Value  float64
	Marked bool
	Blank  bool   // there is no value
	Tip    string // is shown where the pointer rests
}

const (
	cellHeight = 24.0
	namesMost  = 190.0 // width
	roomy      = 38.0  // spans of that width have their dates below them
	figured    = 28.0  // cells of that width have their numbers in them
)

// SVG draws the map.
func (h *Heat) SVG() []byte {
	c := &canvas{}
	y := c.heading(h.Title, h.Under)
	y = h.legend(c, y)
	left, first, last := margin, time.Time{}, time.Time{}
	for i := range h.Blocks {
		b := &h.Blocks[i]
		for _, r := range b.Rows {
			left = max(left, margin+min(wide(r.Name)+10, namesMost))
		}
		for _, s := range b.Spans {
			if first.IsZero() || s.From.Before(first) {
				first = s.From
			}
			if s.Until.After(last) {
				last = s.Until
			}
		}
	}
	f := frame{left: left, right: width - margin, x0: float64(first.Unix()), x1: float64(last.Unix())}
	f.x0, f.x1 = (&Axis{}).widened(f.x0, f.x1)
	for i := range h.Blocks {
		y = h.block(c, &f, &h.Blocks[i], y) + line
	}
	return c.picture(h.Title, h.Description, y)
}

// legend tells what cells mean, and gives where the blocks begin.
func (h *Heat) legend(c *canvas, y float64) float64 {
	const side = 14.0
	x := margin
	c.text(x, y, "start", ink, h.Measure)
	x += wide(h.Measure) + 12
	entry := func(cell Cell, name string) {
		if x > margin && x+side+wide(name) > width-margin {
			x, y = margin, y+line
		}
		h.cells(c, []Cell{cell}, [][2]float64{{x, x + side}}, y-letter+1, side)
		c.text(x+side+6, y, "start", ink, name)
		x += side + wide(name) + 20
	}
	for i, step := range h.Steps {
		if i == 0 {
			entry(Cell{Value: step - 1}, "below "+short(step))
		}
		if i == len(h.Steps)-1 {
			entry(Cell{Value: step}, "from "+short(step))
		} else {
			entry(Cell{Value: step}, short(step)+" to "+short(h.Steps[i+1]))
		}
	}
	x += 10
	entry(Cell{Value: h.Steps[len(h.Steps)/2], Marked: true}, "underlined: "+h.Marked)
	if h.hasBlank() {
		entry(Cell{Blank: true}, h.Blank)
	}
	return y + line
}

func (h *Heat) hasBlank() bool {
	return slices.ContainsFunc(h.Blocks, func(b Block) bool {
		return slices.ContainsFunc(b.Rows, func(r Row) bool {
			return slices.ContainsFunc(r.Cells, func(c Cell) bool { return c.Blank })
		})
	})
}

// block draws rows and, below them, the time, and gives where it ends.
func (h *Heat) block(c *canvas, f *frame, b *Block, y float64) float64 {
	if b.Title != "" {
		c.printf(`<text x="%s" y="%s" font-weight="600" fill="currentColor"%s>%s</text>`, margin, y+6, coloured(ink), escaped(clipped(b.Title, (width-2*margin)/advance)))
		y += line
	}
	ends := make([][2]float64, len(b.Spans))
	narrowest := width
	for i, s := range b.Spans {
		ends[i] = [2]float64{f.x(float64(s.From.Unix())), f.x(float64(s.Until.Unix()))}
		if i < len(b.Spans)-1 || len(b.Spans) == 1 { // the last one may be cut short
			narrowest = min(narrowest, ends[i][1]-ends[i][0])
		}
	}
	for i := range ends {
		if narrowest > 6 { // so that they are seen apart
			ends[i][1]--
		}
		ends[i][1] = max(ends[i][1], ends[i][0]+.5)
	}
	names := f.left - 8 // of rows, up to where their cells begin
	if len(ends) > 0 {
		names = ends[0][0] - 8
	}
	for _, r := range b.Rows {
		name := clipped(r.Name, namesMost/advance)
		c.printf(`<text x="%s" y="%s" text-anchor="end" fill="currentColor"%s><title>%s</title>%s</text>`, names, y+cellHeight/2+4, coloured(ink), escaped(r.Name), escaped(name))
		cells := r.Cells[:min(len(r.Cells), len(ends))]
		h.cells(c, cells, ends, y, cellHeight-2)
		for i, cell := range cells {
			if narrowest >= roomy && ends[i][1]-ends[i][0] >= figured && !cell.Blank {
				h.figure(c, cell, (ends[i][0]+ends[i][1])/2, y+cellHeight/2+3)
			}
		}
		y += cellHeight
	}
	const apart = 48 // dates that don't run into each other
	before := 0.0
	for i, t := range h.times(f, b, narrowest) {
		x := f.x(t.at)
		if narrowest < roomy {
			c.printf(`<path d="M%s %sv5" stroke="currentColor"%s/>`, x, y, coloured(soft))
		} else if x = (ends[i][0] + ends[i][1]) / 2; x-before < apart {
			continue
		}
		before = x
		c.text(x, y+18, "middle", soft, t.label)
		if t.under != "" {
			c.text(x, y+33, "middle", soft, t.under)
		}
	}
	return y + 36
}

// times has a label for each span, of its beginning, where there is room, else round times.
func (h *Heat) times(f *frame, b *Block, narrowest float64) []tick {
	if narrowest < roomy {
		return timeTicks(f.x0, f.x1, int((f.right-f.left)/52))
	}
	times := make([]time.Time, len(b.Spans))
	daily := true
	for i, s := range b.Spans {
		times[i] = s.From.UTC()
		daily = daily && times[i].Equal(times[i].Truncate(day))
	}
	if daily {
		return labelled(times, "2 Jan", "2006")
	}
	return labelled(times, "15:04", "2 Jan")
}

// cells draws some beside each other, from and to these places; their colours are the stronger the more steps their values have reached.
func (h *Heat) cells(c *canvas, cells []Cell, places [][2]float64, y, height float64) {
	var lines, points strings.Builder
	c.printf(`<g fill="currentColor"%s>`, coloured(heat))
	for i, cell := range cells {
		from, to := places[i][0], places[i][1]
		strength := strconv.FormatFloat(h.strength(cell.Value), 'f', 2, 64)
		if cell.Blank {
			strength = "0"
			points.WriteString("M" + number((from+to)/2) + " " + number(y+height/2) + "h.1")
		} else if cell.Marked {
			lines.WriteString("M" + number(from) + " " + number(y+height-1.5) + "H" + number(to))
		}
		end := "/>"
		if cell.Tip != "" {
			end = "><title>" + escaped(cell.Tip) + "</title></rect>"
		}
		c.printf(`<rect x="%s" y="%s" width="%s" height="%s" fill-opacity="%s"%s`, from, y, to-from, height, strength, end)
	}
	c.printf(`</g>`)
	if lines.Len() > 0 {
		c.printf(`<path d="%s" stroke="currentColor" stroke-width="3"%s/>`, lines.String(), coloured(ink))
	}
	if points.Len() > 0 {
		c.printf(`<path d="%s" stroke="currentColor" stroke-width="%s" stroke-linecap="round"%s/>`, points.String(), min(3, places[0][1]-places[0][0]), coloured(soft))
	}
}

// figure writes a cell's value into it.
func (h *Heat) figure(c *canvas, cell Cell, x, y float64) {
	colour, weight := ink, ""
	if h.strength(cell.Value) > .6 {
		colour = above
	}
	if cell.Marked {
		y--
		weight = ` font-weight="600"`
	}
	c.printf(`<text x="%s" y="%s" text-anchor="middle" font-size="11"%s fill="currentColor"%s>%s</text>`, x, y, weight, coloured(colour), escaped(fmt.Sprintf("%.2f", cell.Value)))
}

// strength is from .05, below the first step, to .95.
func (h *Heat) strength(v float64) float64 {
	n, _ := slices.BinarySearch(h.Steps, v)
	if n < len(h.Steps) && h.Steps[n] == v {
		n++
	}
	return .05 + .9*float64(n)/float64(max(len(h.Steps), 1))
}

func short(f float64) string { return strconv.FormatFloat(f, 'g', 3, 64) }

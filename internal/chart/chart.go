// Package chart draws pictures in SVG: courses over time, and heat maps. A picture stands on its own, as a file or within HTML: it has no
// scripts and no fonts, scales with all of its text, is told in words to those who don't see it, and follows a reader's dark or light
// background. Names in it are strangers' texts and stay text.
//
// The package knows nothing of models. All of it is safe for concurrent use.
package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// The measures of a picture, in its own units; a browser scales them.
const (
	width   = 960.0
	margin  = 20.0
	letter  = 12.0 // height of letters
	advance = 6.7  // that a letter takes of a line, about: fonts differ
	titled  = 17.0
	line    = 18.0 // from one line of text to the next
)

// hues is how many colours there are; what has more begins again.
const hues = 8

// Colours on light and on dark: after Okabe and Ito, whose colours people tell apart who see fewer. As attributes they are those of
// light; the style puts those of dark in their place.
var colours = []struct{ class, light, dark string }{
	{"pl-0", "#0072b2", "#56b4e9"},
	{"pl-1", "#d55e00", "#f0883e"},
	{"pl-2", "#009e73", "#2dc795"},
	{"pl-3", "#b0578c", "#e39ac5"},
	{"pl-4", "#9c7500", "#e6b422"},
	{"pl-5", "#5b4fc4", "#a49bf5"},
	{"pl-6", "#8c4a2f", "#d39a80"},
	{"pl-7", "#4d6a79", "#a3bac6"},
	{"pl-paper", "#ffffff", "#0d1117"},
	{"pl-ink", "#1f2328", "#e6edf3"},
	{"pl-soft", "#59636e", "#9198a1"},
	{"pl-rule", "#d8dee4", "#2f363d"},
	{"pl-heat", "#a3321a", "#ff9b6b"},
	{"pl-above", "#ffffff", "#0d1117"}, // text on what is dark on light
}

// The roles that colours have beside those of series.
const (
	paper = hues + iota
	ink
	soft
	rule
	heat
	above
)

// Style is what stands in the style element of each picture, for pages whose policy must name it.
func Style() string { return dark }

// dark is the part of a picture that follows the reader's background.
var dark = func() string {
	var b strings.Builder
	b.WriteString("@media (prefers-color-scheme:dark){")
	for _, c := range colours {
		fmt.Fprintf(&b, ".%s{color:%s}", c.class, c.dark)
	}
	b.WriteString("}")
	return b.String()
}()

// canvas is a picture in the making.
type canvas struct{ bytes.Buffer }

// picture puts what is on the canvas into a frame of a height.
func (c *canvas) picture(title, description string, height float64) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" role="img" width="%s" height="%s" viewBox="0 0 %[1]s %[2]s" font-family="system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif" font-size="%s">`+"\n",
		number(width), number(height), number(letter))
	fmt.Fprintf(&out, "<title>%s</title>\n<desc>%s</desc>\n%s", escaped(title), escaped(description), "<style>"+dark+"</style>\n")
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" rx="6" fill="currentColor"%s/>`+"\n", coloured(paper))
	out.Write(c.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// heading draws a title and what stands under it, and gives where the rest begins.
func (c *canvas) heading(title, under string) (y float64) {
	y = margin + titled*.8
	c.printf(`<text x="%s" y="%s" font-size="%s" font-weight="600" fill="currentColor"%s>%s</text>`, margin, y, titled, coloured(ink), escaped(clipped(title, (width-2*margin)/advance/1.5)))
	if under != "" {
		y += line
		c.text(margin, y, "start", soft, clipped(under, (width-2*margin)/advance))
	}
	return y + line
}

// printf writes a line; numbers are written short.
func (c *canvas) printf(format string, args ...any) {
	for i, a := range args {
		if f, ok := a.(float64); ok {
			args[i] = number(f)
		}
	}
	fmt.Fprintf(c, format+"\n", args...)
}

// text draws a line of text from x on ("start"), around it ("middle") or up to it ("end").
func (c *canvas) text(x, y float64, anchor string, colour int, s string) {
	c.printf(`<text x="%s" y="%s" text-anchor="%s" fill="currentColor"%s>%s</text>`, x, y, anchor, coloured(colour), escaped(s))
}

func coloured(colour int) string {
	return fmt.Sprintf(` color="%s" class="%s"`, colours[colour].light, colours[colour].class)
}

// number writes a coordinate; there is none that is not finite.
func number(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "0"
	}
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64)
}

// escaped makes a stranger's text fit for XML, and for standing among others: what turns the direction of writing around does not.
func escaped(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Bidi_Control, r) || unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}

// clipped shortens a text to a number of letters.
func clipped(s string, most float64) string {
	if r := []rune(s); len(r) > int(most) {
		return string(r[:max(int(most)-1, 0)]) + "…"
	}
	return s
}

// wide is about how wide a text is.
func wide(s string) float64 { return float64(len([]rune(s))) * advance }

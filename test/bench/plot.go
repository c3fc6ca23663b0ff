package main

import (
	"bytes"
	"fmt"
	"html"
)

// bar is one line of a plot.
type bar struct {
	label string
	value float64
	text  string // of the value
	class string // "ours", "limit", or none
}

// bars draws a plot as SVG, readable on light and dark pages.
func bars(title string, all []bar) []byte {
	const width, left, right, top, line = 780, 250, 90, 40, 22
	most := 0.0
	for _, r := range all {
		most = max(most, r.value)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<style>
text { fill: #57606a } .title { font-weight: bold } rect { fill: #8c959f } .ours { fill: #0a7d4f } .limit { fill: #d0d7de }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } rect { fill: #768390 } .ours { fill: #3fb984 } .limit { fill: #444c56 } }
</style>
<text class="title" x="8" y="22">%s</text>
`, width, top+line*len(all)+8, html.EscapeString(title))
	for i, r := range all {
		y := top + i*line
		long := 0.0
		if most > 0 {
			long = r.value / most * (width - left - right)
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/><text x="%.1f" y="%d">%s</text>`+"\n",
			left-8, y+15, html.EscapeString(r.label), r.class, left, y+3, long, line-6, left+long+6, y+15, html.EscapeString(r.text))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

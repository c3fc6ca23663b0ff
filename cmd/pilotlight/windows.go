package main

import (
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// windowed is how quality and drift are told over time.
type windowed struct{ every, svg string }

func (w *windowed) flags(flags *pflag.FlagSet) {
	flags.StringVar(&w.every, "every", "", "tell windows of that `length` as well, such as 24h or 7d (with --svg 24h if nothing is said)")
	flags.StringVar(&w.svg, "svg", "", "draw the windows into this `file` as well")
}

// query asks for windows, if there are to be any.
func (w *windowed) query(q url.Values) error {
	every := w.every
	if every == "" && w.svg != "" {
		every = "24h"
	}
	if every == "" {
		return nil
	}
	d, err := yamlwire.ParseDuration(every)
	if err != nil {
		return fmt.Errorf("--every is %.40q, expected a length such as 24h or 7d", every)
	}
	q.Set("every", time.Duration(d).String())
	return nil
}

// draw writes a picture.
func (w *windowed) draw(c *client, picture []byte) error {
	if err := os.WriteFile(w.svg, picture, 0o644); err != nil {
		return err
	}
	if c.format == "table" {
		fmt.Fprintf(c.out, "drawn: %s\n", w.svg)
	}
	return nil
}

package console

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// pulse is what models do right now.
type pulse struct {
	At     time.Time `json:"at"`
	Every  float64   `json:"every_s"`
	Models []beat    `json:"models"`
	Total  slots     `json:"total"`
	Away   string    `json:"away"`
}

// beat is what a version does.
type beat struct {
	Model   string `json:"model"`
	Version int    `json:"version"`
	slots
}

// slots are counts of spans of time, the oldest first.
type slots struct {
	Requests []float64 `json:"requests"`
	Failures []float64 `json:"failures"`
	P50      []float64 `json:"p50_us"`
	P99      []float64 `json:"p99_us"`
	Rate     float64   `json:"rate"`
}

// pulse asks for it: of a model ("": of all), limit of the busiest versions.
func (q *Query) pulse(model string, limit int) (*pulse, error) {
	p := &pulse{}
	return p, q.get("/admin/v1/live?limit="+strconv.Itoa(limit)+"&model="+escape(model), p)
}

// recentSlots are those that stand for now.
const recentSlots = 5

func last(all []float64) []float64 { return all[max(len(all)-recentSlots, 0):] }

// Slow is the slowest hundredth right now, in microseconds; 0: there were no answers.
func (s *slots) Slow() float64 { return slices.Max(append([]float64{0}, last(s.P99)...)) }

// Failed is the share of the requests of all slots that failed, and Fails how many did.
func (s *slots) Failed() float64 {
	all := total(s.Requests)
	if all == 0 {
		return 0
	}
	return s.Fails() / all
}

// Fails is how many requests failed.
func (s *slots) Fails() float64 { return total(s.Failures) }

func total(all []float64) (n float64) {
	for _, v := range all {
		n += v
	}
	return n
}

// Sparks draws how often it is asked.
func (s *slots) Sparks() template.HTML {
	return spark(fmt.Sprintf("%s requests a second now; at most %s in the last two minutes", number(s.Rate), number(highest(s.Requests)/2)), 120, 24, highest(s.Requests), line{s.Requests, "h0", true})
}

func highest(all ...[]float64) (most float64) {
	for _, a := range all {
		for _, v := range a {
			most = max(most, v)
		}
	}
	return most
}

// line is a line of a small picture.
type line struct {
	values []float64
	hue    string // its class
	filled bool   // down to zero
}

// spark is a small picture of courses from zero to a height, without axes; its size is given by the page's style. What is not finite or,
// of lines that are not filled, zero leaves a gap.
func spark(words string, w, h, most float64, lines ...line) template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="spark" viewBox="0 0 %g %g" preserveAspectRatio="none" role="img" aria-label="%s">`, w, h, template.HTMLEscapeString(words))
	for _, l := range lines {
		if highest(l.values) == 0 {
			continue
		}
		n := max(len(l.values)-1, 1)
		path, pen := "", "M"
		for i, v := range l.values {
			if math.IsNaN(v) || math.IsInf(v, 0) || v == 0 && !l.filled {
				pen = "M"
				continue
			}
			y := h
			if most > 0 {
				y = h - v/most*(h-2)
			}
			at := strconv.FormatFloat(float64(i)*w/float64(n), 'f', 1, 64) + " " + strconv.FormatFloat(y, 'f', 1, 64)
			path += pen + at
			if pen = "L"; !l.filled && (i == len(l.values)-1 || l.values[i+1] == 0) {
				path += "h.1" // one alone is seen as a point
			}
		}
		if l.filled {
			fmt.Fprintf(&b, `<path class="area %s" d="%sL%g %gL0 %[4]gZ"/>`, l.hue, path, w, h)
		}
		fmt.Fprintf(&b, `<path class="line %s" d="%s" vector-effect="non-scaling-stroke"/>`, l.hue, path)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // numbers, our own classes, and words that are escaped
}

// streams tells whether the page is asked for what is live in it.
func (q *Query) streams() bool { return q.Header.Get("Accept") == "text/event-stream" }

// memory remembers for some seconds what the API said, so that pages which keep themselves up to date don't ask for it whenever they do.
type memory struct {
	mu   sync.Mutex
	said map[[sha256.Size]byte]remembered
}

type remembered struct {
	at   time.Time
	body json.RawMessage
}

const (
	rememberFor  = 10 * time.Second
	rememberMost = 64      // answers
	rememberSize = 1 << 18 // of one of them
)

// keep remembers an answer, and forgets those whose time is over; where there are too many still, all of them. The caller holds mu.
func (m *memory) keep(key [sha256.Size]byte, body json.RawMessage, now time.Time) {
	maps.DeleteFunc(m.said, func(_ [sha256.Size]byte, r remembered) bool { return now.Sub(r.at) >= rememberFor })
	if m.said == nil || len(m.said) >= rememberMost {
		m.said = map[[sha256.Size]byte]remembered{}
	}
	m.said[key] = remembered{now, body}
}

// lately is get where an answer of the last seconds does: in what is live, of what does not change with each request.
// Who opens the page is told anew. It is remembered for the reader's key alone.
func (q *Query) lately(path string, into any) error {
	m, key := &q.console.memory, sha256.Sum256([]byte(q.key+"\x00"+path))
	if q.streams() {
		m.mu.Lock()
		r, ok := m.said[key]
		m.mu.Unlock()
		if ok && time.Since(r.at) < rememberFor {
			return json.Unmarshal(r.body, into)
		}
	}
	var body json.RawMessage
	if err := q.get(path, &body); err != nil {
		return err
	}
	if len(body) <= rememberSize {
		m.mu.Lock()
		m.keep(key, body, time.Now())
		m.mu.Unlock()
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// patience is how long a part of a page is awaited that stands for itself.
const patience = 3 * time.Second

// parts asks for several things at once, each of which stands for itself: what can't be had has a sentence in its place ("": it is there).
// Who has no key at all sees no page.
func (q *Query) parts(asks ...func(q *Query) error) (away []string, err error) {
	ctx, cancel := context.WithTimeout(q.ctx, patience)
	defer cancel()
	patient := *q
	patient.ctx = ctx
	errs := make([]error, len(asks))
	var all sync.WaitGroup
	for i, ask := range asks {
		all.Go(func() { errs[i] = ask(&patient) })
	}
	all.Wait()
	away = make([]string, len(asks))
	for i, err := range errs {
		switch {
		case err == nil:
		case fault.Is(err, fault.Unauthenticated):
			return nil, err
		case errors.Is(err, context.DeadlineExceeded) && q.ctx.Err() == nil:
			away[i] = "this takes longer than usual; it is tried again"
		default:
			away[i] = fault.Message(err)
		}
	}
	return away, nil
}

// withQuery puts a query behind a path, without what is empty.
func withQuery(path string, pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}

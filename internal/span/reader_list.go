package span

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Query asks for traces, those that ended last first.
type Query struct {
	Service, Model string        // "": any
	From, To       time.Time     // that began then; zero: any time
	Errors         bool          // in which something failed
	Slow           time.Duration // that took so long at least
	Limit          int
	After          string // what a page before said is next
}

// Summary is what lists tell of a trace. One whose parts lie far apart, over a minute and in different objects, may be listed for each.
type Summary struct {
	Trace    string    `json:"trace"`
	Name     string    `json:"name"`
	Service  string    `json:"service"`
	Start    time.Time `json:"start"`
	Duration int64     `json:"duration_us"`
	Spans    int       `json:"spans"`
	Error    string    `json:"error,omitempty"`
	Model    string    `json:"model,omitempty"`

	services []string
	root     bool
	from     int64
	until    int64
}

// Page is a part of a list.
type Page struct {
	Traces []Summary `json:"traces"`         // as many as asked for, or fewer if many that did not suit had to be read
	Next   string    `json:"next,omitempty"` // what After must be for the next; empty: there are no more
}

const (
	apart    = int64(time.Minute / time.Microsecond) // parts of a trace that end so near to each other are told as one
	hour     = int64(time.Hour / time.Microsecond)
	day      = 24 * hour
	readMost = 20_000 // parts that are read for a page; less than what is remembered, so that whoever asks again finds them there
	openCost = 10     // parts that could be read in the time that opening an object takes
)

// place is one in the list, where a page ended: what ended later was told, and of what ended then, what is not below the trace.
type place struct {
	until int64  // microseconds since 1970
	trace string // empty: nothing that ended then was told
	read  int64  // no object of which a span ended later holds anything that is behind
}

func (p *place) String() string { return fmt.Sprintf("%d-%s-%d", p.until, p.trace, p.read) }

func placeOf(s string) (p place, err error) {
	until, rest, _ := strings.Cut(s, "-")
	trace, read, _ := strings.Cut(rest, "-")
	n, err1 := strconv.ParseInt(until, 10, 64)
	m, err2 := strconv.ParseInt(read, 10, 64)
	if err1 != nil || err2 != nil || trace != "" && !isTrace(trace) || n < 0 || m < 0 {
		return p, fault.New(fault.Invalid, "after is %.100q, expected what a page before said is next", s)
	}
	return place{n, trace, m}, nil
}

func (p *place) before(s *Summary) bool {
	return s.until < p.until || s.until == p.until && (p.trace == "" || s.Trace < p.trace)
}

// List lists traces. It reads objects backwards, in the order of their ends, and only as many as a page needs.
func (r *Reader) List(ctx context.Context, q *Query) (*Page, error) {
	latest := r.now().Add(time.Hour).UnixMicro()
	l := list{query: q, at: place{until: latest, read: latest}, to: latest, found: map[string]*Summary{}}
	if !q.To.IsZero() {
		l.to = min(latest, q.To.UnixMicro())
	}
	if !q.From.IsZero() {
		l.from = max(0, q.From.UnixMicro())
	}
	if q.After != "" {
		at, err := placeOf(q.After)
		if err != nil {
			return nil, err
		}
		l.at = place{min(at.until, latest), at.trace, min(at.read, latest)}
	}
	oldest := ""
	for o, err := range r.blob.List(ctx, Prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list traces: %w", err)
		}
		oldest, _, _ = strings.Cut(strings.TrimPrefix(o.Key, Prefix), "/")
		break
	}
	if oldest == "" {
		return &Page{Traces: []Summary{}}, nil
	}
	oldest = max(oldest, dayOf(l.from))
	// Whole hours, as objects are joined with those of the same hour while somebody pages.
	end := (max(l.at.read, l.at.until+apart)/hour + 1) * hour
	for width := hour; end > l.from && dayOf(end-1) >= oldest; width = min(2*width, day) { // few requests for long times in which nothing was
		begin := max(end-width, (end-1)/day*day)
		keys, err := r.ended(ctx, begin, end, min(l.to, l.at.until+apart))
		if err != nil {
			return nil, err
		}
		for len(keys) > 0 {
			n := max(0, len(keys)-sideBySide)
			if err := r.readHeads(ctx, &l, keys[n:]); err != nil {
				return nil, err
			}
			keys = keys[:n]
			unread := begin - 1
			if n > 0 {
				_, unread, _ = spanOf(keys[n-1])
			}
			if page := l.page(unread); page != nil {
				return page, nil
			}
		}
		end = begin
	}
	return l.page(-1 - apart), nil
}

func (q *Query) wants(s *Summary) bool {
	return (q.Service == "" || slices.Contains(s.services, q.Service)) && (q.Model == "" || s.Model == q.Model) &&
		(!q.Errors || s.Error != "") && s.until-s.from >= q.Slow.Microseconds()
}

// ended lists the objects that ended in a span of time within a day, the newest last, of which a part began until a moment.
func (r *Reader) ended(ctx context.Context, begin, end, began int64) (keys []string, err error) {
	prefix := Prefix + dayOf(begin) + "/"
	for o, err := range r.blob.List(ctx, prefix, fmt.Sprintf("%s%016d", prefix, begin)) {
		if err != nil {
			return nil, fmt.Errorf("list traces: %w", err)
		}
		from, until, ok := spanOf(o.Key)
		if ok && until >= end {
			break
		}
		if ok && until >= begin && from <= began {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// list is a page in the making.
type list struct {
	query    *Query
	at       place // that it begins behind
	from, to int64 // when traces began
	found    map[string]*Summary
	objects  []reach
	read     int // parts
}

// reach is when an object ended, and its part that ended first.
type reach struct{ first, last int64 }

// readHeads adds what objects tell of traces.
func (r *Reader) readHeads(ctx context.Context, l *list, keys []string) error {
	all := make([][]head, len(keys))
	var group errgroup.Group
	for i, key := range keys {
		group.Go(func() (err error) {
			all[i], err = r.heads(ctx, key)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, heads := range all {
		l.read += openCost + len(heads)
		if len(heads) == 0 {
			continue
		}
		_, last, _ := spanOf(keys[i])
		object := reach{last, last}
		for k := range heads {
			h := &heads[k]
			s, ok := l.found[h.Trace]
			if !ok {
				s = &Summary{Trace: h.Trace, from: h.From, until: h.Until}
				l.found[h.Trace] = s
			}
			s.add(h, !ok)
			object.first = min(object.first, h.Until)
		}
		l.objects = append(l.objects, object)
	}
	return nil
}

// page makes a page once it is full, once enough was read for it, or if there is no more; nil: more has to be read. Unread
// is when the newest object ended that was not read yet; negative: there is none.
func (l *list) page(unread int64) *Page {
	certain := unread + apart // nothing that is unread belongs to what ended later, or comes before it
	last := certain < 0
	enough := last || l.read >= readMost && certain < l.at.until
	if !enough && len(l.found) <= l.query.Limit {
		return nil
	}
	var suit []*Summary
	for _, s := range l.found {
		if s.until > certain && l.at.before(s) && s.from >= l.from && s.from < l.to && l.query.wants(s) {
			suit = append(suit, s)
		}
	}
	if !enough && len(suit) <= l.query.Limit {
		return nil
	}
	slices.SortFunc(suit, func(a, b *Summary) int {
		return cmp.Or(cmp.Compare(b.until, a.until), strings.Compare(b.Trace, a.Trace))
	})
	page := &Page{Traces: []Summary{}}
	var next *place
	switch {
	case len(suit) > l.query.Limit:
		suit = suit[:l.query.Limit]
		s := suit[len(suit)-1]
		next = &place{until: s.until, trace: s.Trace}
	case !last:
		next = &place{until: certain}
	}
	for _, s := range suit {
		s.Start, s.Duration = time.UnixMicro(s.from).UTC(), s.until-s.from
		page.Traces = append(page.Traces, *s)
	}
	if next != nil {
		for _, o := range l.objects {
			if o.first <= next.until {
				next.read = max(next.read, o.last)
			}
		}
		page.Next = next.String()
	}
	return page
}

// add adds a part to the summary of its trace, which is named after the first part or the one that nothing stands above.
func (s *Summary) add(h *head, first bool) {
	if first || h.Root && !s.root || h.Root == s.root && h.From < s.from {
		s.Name, s.Service, s.root = h.Name, h.Service, h.Root
	}
	s.from, s.until = min(s.from, h.From), max(s.until, h.Until)
	s.Spans += h.Spans
	s.Error, s.Model = cmp.Or(s.Error, h.Error), cmp.Or(s.Model, h.Model)
	if !slices.Contains(s.services, h.Service) {
		s.services = append(s.services, h.Service)
	}
}

package segment

import (
	"context"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Limits bound a Committer.
type Limits struct {
	Rows  int           // that may wait while others are written
	Bytes int64         // of memory that those may take
	Write time.Duration // how long a group may take to be written
}

// Committer is a group commit that never waits: a part that comes while nothing is
// written is written at once, those that come meanwhile are the next group. Parts
// are what callers bring; groups are written one after the other, in the order in which
// they began. What is too much for the limits is refused, unless nothing waits. It is
// safe for concurrent use.
type Committer[T any] struct {
	what   string
	limits Limits
	suits  func(last, next T) bool
	write  func(ctx context.Context, parts []T) error

	mu      sync.Mutex
	writing *group[T]
	waiting []*group[T] // mostly one or none; another where parts don't suit each other
	rows    int         // that wait
	bytes   int64
	perRow  float64 // nanoseconds that a row has taken, lately
	work    sync.WaitGroup
}

// group is parts that are written together.
type group[T any] struct {
	parts []T
	rows  int
	bytes int64

	done chan struct{} // closed once err is there
	err  error
}

// NewCommitter makes a Committer of what people are told is what: "rows of source
// clicks". Write makes a group durable, in a context that ends by the limits and not with any
// caller's; its error, or panic, is that of all whose parts are in the group. Suits
// tells whether next may be in one group with last; nil: all may.
func NewCommitter[T any](what string, l Limits, write func(ctx context.Context, parts []T) error, suits func(last, next T) bool) *Committer[T] {
	return &Committer[T]{what: what, limits: l, suits: suits, write: write}
}

// Commit has a part of so many rows written, which take about so many bytes of memory,
// and waits for that as long as ctx lasts: when ctx ends before, the part may be
// written nevertheless. Too much is Overloaded, with the time after which to come again.
func (c *Committer[T]) Commit(ctx context.Context, part T, rows int, bytes int64) error {
	g, err := c.join(part, rows, bytes)
	if err != nil {
		return err
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err() // what was begun for it goes on, for the others
	}
}

// Waiting tells how many rows wait behind those that are being written.
func (c *Committer[T]) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rows
}

// Close waits for what is being written, and what waits behind it. No call of Commit may follow.
func (c *Committer[T]) Close() { c.work.Wait() }

// join puts a part into a group, and has that written if nothing else is.
func (c *Committer[T]) join(part T, rows int, bytes int64) (*group[T], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) > 0 && (c.rows+rows > c.limits.Rows || c.bytes+bytes > c.limits.Bytes) {
		return nil, c.overloaded()
	}
	var g *group[T]
	if n := len(c.waiting); n > 0 && (c.suits == nil || c.suits(c.waiting[n-1].parts[0], part)) {
		g = c.waiting[n-1]
	} else {
		g = &group[T]{done: make(chan struct{})}
		c.waiting = append(c.waiting, g)
	}
	g.parts = append(g.parts, part)
	g.rows, g.bytes = g.rows+rows, g.bytes+bytes
	c.rows, c.bytes = c.rows+rows, c.bytes+bytes
	if c.writing == nil {
		c.writing = c.next()
		c.work.Go(c.run)
	}
	return g, nil
}

// next takes a group out of those that wait, or nil; the caller holds mu.
func (c *Committer[T]) next() *group[T] {
	if len(c.waiting) == 0 {
		c.waiting = nil
		return nil
	}
	g := c.waiting[0]
	c.waiting = c.waiting[1:]
	c.rows, c.bytes = c.rows-g.rows, c.bytes-g.bytes
	return g
}

// overloaded refuses a part, and tells when what is ahead of it will be written; the caller holds mu.
func (c *Committer[T]) overloaded() error {
	ahead := time.Duration(c.perRow * float64(c.rows+c.writing.rows))
	again := max(ahead, time.Second)
	return fault.Again(fault.New(fault.Overloaded, "%d %s wait to be written; try again in %s", c.rows, c.what, again.Round(time.Second)), again)
}

// run writes groups until none waits.
func (c *Committer[T]) run() {
	for g := c.writing; g != nil; {
		begin := time.Now()
		g.err = fault.Guard(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), c.limits.Write)
			defer cancel()
			return c.write(ctx, g.parts)
		})()
		took := time.Since(begin)
		close(g.done)
		c.mu.Lock()
		const recent = 8 // groups that the average is about
		c.perRow += (float64(took)/float64(max(g.rows, 1)) - c.perRow) / recent
		g = c.next()
		c.writing = g
		c.mu.Unlock()
	}
}

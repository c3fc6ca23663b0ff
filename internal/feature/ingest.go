package feature

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// IngestConfig bounds what is taken in.
type IngestConfig struct {
	Rows  int           `env:"FEATURE_GROUP_ROWS" default:"50000" help:"Rows of a source that may wait while others of it are written; more are refused."`
	Bytes env.Size      `env:"FEATURE_GROUP_SIZE" default:"64MiB" help:"Memory that such rows may take."`
	Write time.Duration `env:"FEATURE_WRITE_TIMEOUT" default:"20s" help:"How long rows may take to be written to the log and to the online store, whether their callers still wait or not."`
	Ahead time.Duration `env:"FEATURE_AHEAD" default:"1h" help:"How far in the future the time of a row may be, by the clock here; rows further ahead are rejected."`
}

// Validate refuses what can't work.
func (c *IngestConfig) Validate() error {
	switch {
	case c.Rows < 1:
		return fault.New(fault.Invalid, "FEATURE_GROUP_ROWS must be positive")
	case c.Bytes < 1:
		return fault.New(fault.Invalid, "FEATURE_GROUP_SIZE must be positive")
	case c.Write <= 0:
		return fault.New(fault.Invalid, "FEATURE_WRITE_TIMEOUT must be positive")
	case c.Ahead < 0:
		return fault.New(fault.Invalid, "FEATURE_AHEAD must not be negative")
	}
	return nil
}

// To says where rows go.
type To uint8

// Where rows go.
const (
	Everywhere To = iota // to the log and to the online store
	OnlineOnly           // what is materialised, or is to be served and not trained on
	LogOnly
)

// Result is what became of the rows of one call. Duplicates, Late, Older and
// Refused are accepted rows for which some view of the source did not change.
type Result struct {
	Accepted   int         `json:"accepted"` // are where they were to go
	Rejected   int         `json:"rejected"` // are kept with the reason
	Duplicates int         `json:"duplicates"`
	Late       int         `json:"late"`
	Older      int         `json:"older"`
	Refused    int         `json:"refused"`              // see Outcome
	Rejections []Rejection `json:"rejections,omitempty"` // the first few
}

// rejectionsMost is how many rejections a Result tells.
const rejectionsMost = 10

// IngestDeps are what an Ingest is made of.
type IngestDeps struct {
	Catalog *Catalog // for events, which name their sources
	Online  store.Online
	Blob    store.Blob // the bucket, with the logs and what was rejected
}

// Ingest takes rows in. Each source has a segment.Committer of its own. Rows are
// acknowledged once they are in the log and online, and applying them again changes
// nothing, so a caller that got an error, or no answer, repeats. A panic while rows are
// written is an error of those that wait for them. Any number of processes may take in
// rows of one source.
type Ingest struct {
	deps IngestDeps
	conf IngestConfig
	now  func() time.Time
	log  *slog.Logger
	tel  *intake

	mu    sync.Mutex
	lanes map[string]*lane
}

// NewIngest makes an Ingest.
func NewIngest(c *IngestConfig, d IngestDeps, tel *telemetry.Telemetry) (*Ingest, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	in := &Ingest{deps: d, conf: *c, now: time.Now, log: tel.Log, lanes: map[string]*lane{}}
	var err error
	in.tel, err = newIntake(tel)
	return in, err
}

// Close waits for what is being written. No call of Accept may follow.
func (in *Ingest) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, l := range in.lanes {
		l.Close()
	}
	return nil
}

// Accept takes rows of a source that have nothing but their values, in the order
// of its fields; it completes and keeps them. A row without an ID is known by
// what it holds. Rows that are not as the source demands are rejected, by
// themselves. An error means that the good ones are to be sent again, though some
// of them may have been taken: Overloaded where too much waits, Unavailable where a
// store can't be reached. Nobody may change the values afterwards: rows are
// written even if ctx ends before.
func (in *Ingest) Accept(ctx context.Context, s *CompiledSource, rows []Row, to To) (Result, error) {
	return in.accept(ctx, s, rows, nil, to)
}

// accept is Accept for rows some of which were rejected already, and are not among rows.
func (in *Ingest) accept(ctx context.Context, s *CompiledSource, rows []Row, rejected []Rejection, to To) (Result, error) {
	if s.Path != "" && to != OnlineOnly {
		return Result{}, fault.New(fault.Invalid, "source %q is made of the files in %s: its rows can't be pushed", s.Name, s.Path)
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	now := in.now()
	c := inspector{source: s, now: now.UnixMicro(), latest: now.Add(in.conf.Ahead).UnixMicro()}
	good := make([]Row, 0, len(rows))
	for i := range rows {
		r := rows[i]
		if reason, detail := c.fill(&r); reason != "" {
			rejected = append(rejected, Rejection{Index: i, Reason: reason, Detail: detail, row: appendRow(nil, s, r.Values)})
			continue
		}
		good = append(good, r)
	}
	result := Result{Accepted: len(good), Rejected: len(rejected), Rejections: rejected[:min(len(rejected), rejectionsMost)]}
	outcomes := make([]Outcome, len(good))
	group, writing := errgroup.WithContext(ctx)
	if len(rejected) > 0 {
		group.Go(fault.Guard(func() error { return keepRejected(writing, in.deps.Blob, s.Name, now, rejected) }))
	}
	if len(good) > 0 {
		group.Go(fault.Guard(func() error {
			return in.lane(s.Name).write(writing, &part{source: s, rows: good, outcomes: outcomes, to: to})
		}))
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	in.tel.count(ctx, s.Name, now, good, outcomes, rejected)
	for _, o := range outcomes {
		switch o {
		case Applied:
		case Duplicate:
			result.Duplicates++
		case Late:
			result.Late++
		case Older:
			result.Older++
		case Refused:
			result.Refused++
		}
	}
	return result, nil
}

func (in *Ingest) lane(source string) *lane {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.lanes[source]
	if l == nil {
		l = &lane{in: in, source: source}
		limits := segment.Limits{Rows: in.conf.Rows, Bytes: int64(in.conf.Bytes), Write: in.conf.Write}
		l.Committer = segment.NewCommitter("rows of source "+source, limits, l.put, sameSource)
		in.lanes[source] = l
	}
	return l
}

// lane is where the rows of one source meet.
type lane struct {
	*segment.Committer[*part]
	in     *Ingest
	source string

	// Of whoever writes:
	log   *segment.Log
	logOf *CompiledSource
}

// part is the rows of one call.
type part struct {
	source   *CompiledSource
	rows     []Row
	outcomes []Outcome // of each row, once the part is written
	to       To
}

// sameSource keeps rows apart where the definition has changed.
func sameSource(a, b *part) bool { return a.source == b.source }

// write has a part written, and waits for that as long as ctx lasts.
func (l *lane) write(ctx context.Context, p *part) error {
	bytes := int64(0)
	for i := range p.rows {
		bytes += p.rows[i].size()
	}
	return l.Commit(ctx, p, len(p.rows), bytes)
}

// put brings parts of one source to the log and online.
func (l *lane) put(ctx context.Context, parts []*part) error {
	in, source := l.in, parts[0].source
	begin := time.Now()
	var logged, online []Row
	var outcomes []*Outcome
	rows := 0
	for _, p := range parts {
		rows += len(p.rows)
		if p.to != OnlineOnly {
			logged = append(logged, p.rows...)
		}
		if p.to == LogOnly {
			continue
		}
		online = append(online, p.rows...)
		for i := range p.outcomes {
			outcomes = append(outcomes, &p.outcomes[i])
		}
	}
	// Neither is acknowledged without the other, so the two need not wait for each
	// other. Nor does the one end when the other fails: repeating a whole write is cheaper
	// than finding out how much of it was done.
	var both errgroup.Group
	if len(logged) > 0 {
		both.Go(fault.Guard(func() error {
			if err := l.append(ctx, source, logged); err != nil {
				return unavailable(err, "append %d rows to the log of source %s", len(logged), l.source)
			}
			return nil
		}))
	}
	if len(online) > 0 {
		both.Go(fault.Guard(func() error {
			if err := in.apply(ctx, source, online, outcomes); err != nil {
				return unavailable(err, "apply %d rows of source %s", len(online), l.source)
			}
			return nil
		}))
	}
	err := both.Wait()
	in.tel.group(ctx, l.source, rows, time.Since(begin), err)
	return err
}

// append writes rows to the log of the source.
func (l *lane) append(ctx context.Context, s *CompiledSource, rows []Row) error {
	if l.logOf != s {
		log, err := segment.NewLog(l.in.deps.Blob, s.Name, s.Columns)
		if err != nil {
			return err
		}
		l.log, l.logOf = log, s
	}
	_, err := l.log.Append(ctx, func(yield func(segment.Row) bool) {
		for _, r := range rows {
			if !yield(segment.Row(r)) {
				return
			}
		}
	})
	return err
}

// unavailable says what was being done when it went wrong. That time ran out here
// is no matter of the caller's own time.
func unavailable(err error, format string, args ...any) error {
	err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	if fault.Is(err, fault.Deadline) {
		return fault.Wrap(fault.Unavailable, err, "the stores of features took too long; try again")
	}
	return err
}

// size is about how much memory the row takes.
func (r *Row) size() int64 {
	const ofRow, ofValue = 64, 64
	n := int64(ofRow)
	for _, v := range r.Values {
		n += ofValue + int64(len(v.Text()))
		for _, e := range v.List() {
			n += ofValue + int64(len(e.Text()))
		}
	}
	return n
}

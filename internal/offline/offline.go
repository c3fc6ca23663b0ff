// Package offline reads the history of features: the logs and the batch files of
// sources in the bucket. It joins them with rows that somebody asks for
// (training sets), brings them online (materialise) and joins small files (compact).
//
// DuckDB reads, sorts and spills; it computes no feature. Sorted rows come back
// as a file, one entity after another, and go through feature.State in one pass,
// with one state at a time in memory. So what a training set says of a moment is what
// the online store said then, and memory does not grow with the rows. Methods are
// safe for concurrent use; heavy work is done one piece at a time.
package offline

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/duck"
	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// Config says what reading history may cost, how long some of it is kept, and when what was served differs from it.
type Config struct {
	Memory env.Size `env:"OFFLINE_MEMORY" default:"512MiB" help:"What DuckDB may use before it writes to OFFLINE_DIR."`
	Dir    string   `env:"OFFLINE_DIR" help:"Folder for copies of the bucket's files and for what does not fit into memory; its subfolder pilotlight-offline is emptied at start. Default: a new one among the system's temporary files."`
	Cache  env.Size `env:"OFFLINE_CACHE" default:"4GiB" help:"How much of the bucket is kept in OFFLINE_DIR; the files that are read at once must fit."`

	Rejected time.Duration `env:"REJECTED_KEEP" default:"168h" help:"How long rows that a source rejected are kept, with the reason."`

	Slack   time.Duration `env:"SKEW_SLACK" default:"2s" help:"How long a row may take from the clock's time in the log to the online store; within that, features served without it are no skew."`
	Vectors int           `env:"SKEW_VECTORS" default:"10000" help:"How many of the served vectors a skew check compares at most."`
	Alarm   float64       `env:"SKEW_ALARM" default:"0.01" help:"Share of a feature's values that may differ from history before there is an alarm."`
	Keep    time.Duration `env:"SKEW_KEEP" default:"168h" help:"How long served vectors and reports of their checks are kept."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.Memory < 128<<20:
		return fault.New(fault.Invalid, "OFFLINE_MEMORY must be at least 128MiB")
	case c.Cache <= 0:
		return fault.New(fault.Invalid, "OFFLINE_CACHE must be positive")
	case c.Rejected <= 0:
		return fault.New(fault.Invalid, "REJECTED_KEEP must be positive")
	case c.Slack < 0:
		return fault.New(fault.Invalid, "SKEW_SLACK must not be negative")
	case c.Vectors < 1:
		return fault.New(fault.Invalid, "SKEW_VECTORS must be positive")
	case !(c.Alarm >= 0 && c.Alarm <= 1):
		return fault.New(fault.Invalid, "SKEW_ALARM must be from 0 to 1")
	case c.Keep <= 0:
		return fault.New(fault.Invalid, "SKEW_KEEP must be positive")
	}
	return nil
}

// Deps are what a Store is made of.
type Deps struct {
	Blob   store.Blob   // the bucket
	KV     store.KV     // for leases
	Online store.Online // where history is brought
}

// Store reads the history in a bucket.
type Store struct {
	conf   Config
	blob   store.Blob
	kv     store.KV
	online store.Online
	dir    string
	files  *files
	db     *sql.DB
	heavy  chan struct{} // holds one while something heavy runs
}

// Open starts DuckDB in the process. Close stops it and removes its files.
func Open(ctx context.Context, c *Config, d Deps) (_ *Store, err error) {
	s := &Store{conf: *c, blob: d.Blob, kv: d.KV, online: d.Online, heavy: make(chan struct{}, 1)}
	if c.Dir == "" {
		s.dir, err = os.MkdirTemp("", "pilotlight-offline-")
	} else {
		s.dir = filepath.Join(c.Dir, "pilotlight-offline")
		if err = os.RemoveAll(s.dir); err == nil {
			err = os.MkdirAll(s.dir, 0o700)
		}
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "there is no folder for copies of the bucket's files")
	}
	s.files = newFiles(d.Blob, filepath.Join(s.dir, "objects"), int64(c.Cache))
	if s.db, err = duck.Open(ctx, duck.Config{Memory: int64(c.Memory), Spill: filepath.Join(s.dir, "spill")}); err == nil {
		err = duck.Lock(ctx, s.db)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

// Close stops DuckDB. No call may be under way or follow.
func (s *Store) Close() error { return errors.Join(s.db.Close(), os.RemoveAll(s.dir)) }

// job is something heavy: a connection with tables of its own, and a folder.
type job struct {
	*Store
	conn *sql.Conn
	dir  string
	held []func() // let go of at the end
}

// begin waits until nothing else is heavy. The caller ends the job.
func (s *Store) begin(ctx context.Context) (_ *job, err error) {
	select {
	case s.heavy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.files.begin()
	j := &job{Store: s, held: []func(){func() { <-s.heavy }}}
	defer func() {
		if err != nil {
			j.end()
		}
	}()
	if j.dir, err = os.MkdirTemp(s.dir, "job-"); err != nil {
		return nil, err
	}
	j.held = append(j.held, func() { _ = os.RemoveAll(j.dir) })
	// A connection of its own, so that its temporary tables go with it.
	if j.conn, err = s.db.Conn(ctx); err != nil {
		return nil, err
	}
	j.held = append(j.held, func() {
		_ = j.conn.Raw(func(any) error { return driver.ErrBadConn }) // not back into the pool
		_ = j.conn.Close()
	})
	return j, nil
}

func (j *job) end() {
	for i := len(j.held) - 1; i >= 0; i-- {
		j.held[i]()
	}
}

// exec runs a statement.
func (j *job) exec(ctx context.Context, parts ...string) error {
	_, err := j.conn.ExecContext(ctx, strings.Join(parts, ""))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// number runs a query that answers one number; of NULL it is 0.
func (j *job) number(ctx context.Context, query string) (int64, error) {
	var n sql.NullInt64
	err := j.conn.QueryRowContext(ctx, query).Scan(&n)
	return n.Int64, err
}

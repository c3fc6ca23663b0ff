// Package etl brings data in: the kinds of pipeline steps that make rows of a source of features out of files that landed in
// the bucket, of the payload log, of feedback and of other sources (load), and that bring them online (materialize).
//
// What load promises: each file is taken once, however often a step is killed, repeated or run again, and the rows made of it are in the
// offline store once; rows that are not what is expected of them are kept aside with the reason; and of a step that
// fails nothing is published. To that end a step first makes all rows, keeps them, and then decides by one
// write of its State that these files are taken and these rows are what they gave; publishing follows, and is done to its end by whoever comes next.
package etl

import (
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/env"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/feature"
	"github.com/pilotlight-ml/pilotlight/internal/offline"
	"github.com/pilotlight-ml/pilotlight/internal/pipeline"
)

// Config says what a load may cost.
type Config struct {
	Memory env.Size `env:"ETL_MEMORY" default:"512MiB" help:"What the SQL of a load step may use before it writes to disk; what takes half as much again, beyond what it may write, is ended."`
	Disk   env.Size `env:"ETL_DISK" default:"16GiB" help:"What it may write."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	switch {
	case c.Memory < 128<<20:
		return fault.New(fault.Invalid, "ETL_MEMORY must be at least 128MiB")
	case c.Disk <= 0:
		return fault.New(fault.Invalid, "ETL_DISK must be positive")
	}
	return nil
}

// Deps are what the steps use.
type Deps struct {
	Offline *offline.Store
	Catalog *feature.Catalog
}

// Kinds gives what the package can do in pipelines.
func Kinds(c *Config, d Deps) []pipeline.Kind {
	return []pipeline.Kind{
		{
			Name: "load", About: "Makes rows of a source of features out of files and tables, by SQL.", Heavy: true, Timeout: 15 * time.Minute,
			In:  []pipeline.Port{{Name: rowsPort, About: "a Parquet file, for a table that says input: rows", Optional: true}},
			Out: []pipeline.Port{{Name: reportPort, About: "which files were taken, and what became of their rows"}},
			New: func(with node) (pipeline.Step, error) { return newLoad(with, c, d) },
		},
		{
			Name: "materialize", About: "Brings what is new of views of features online.", Timeout: time.Hour,
			Out: []pipeline.Port{{Name: reportPort, About: "files and rows of each view"}},
			New: func(with node) (pipeline.Step, error) { return newMaterialize(with, d) },
		},
	}
}

const (
	rowsPort   = "rows"
	reportPort = "report"
)

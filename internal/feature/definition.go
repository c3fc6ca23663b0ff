// Package feature knows what features are: their definitions, the newest
// values online, and how a row of a source changes them. The same code answers
// at request time, takes events in, and computes training sets (internal/offline),
// so that the numbers are the same everywhere.
//
// Definitions are immutable versions of one set, kept in the bucket (Catalog).
// Values lie in a store.Online, one row for each entity and view (Table). What a
// view makes of a source's rows is in State. All exported types are safe for
// concurrent use unless they say otherwise.
package feature

import (
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/row"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

// Set is everything that is defined, in one version. Nobody changes a Set.
type Set struct {
	Version     int          `json:"version" yaml:"-"`
	At          time.Time    `json:"at" yaml:"-"`
	By          string       `json:"by,omitempty" yaml:"-"`
	Entities    []Entity     `json:"entities,omitempty" yaml:"entities,omitempty"`
	Sources     []Source     `json:"sources,omitempty" yaml:"sources,omitempty"`
	Views       []View       `json:"views,omitempty" yaml:"views,omitempty"`
	Expressions []Expression `json:"expressions,omitempty" yaml:"expressions,omitempty"`
	Services    []Service    `json:"services,omitempty" yaml:"services,omitempty"`
	// Retired has the highest number of a column of views that are gone: a view that comes
	// under the name of one starts behind it, so that it takes none of its rows for its own.
	Retired map[string]uint32 `json:"retired,omitempty" yaml:"-"`
}

// Entity is what features are about: a carrier, a customer.
type Entity struct {
	Name string  `json:"name" yaml:"name"`
	Keys []Field `json:"keys" yaml:"keys"` // that tell one from another; scalar types other than floats
}

// Field is a named value of a type, with what is demanded of it.
type Field struct {
	Name     string   `json:"name" yaml:"name"`
	Type     row.Type `json:"type" yaml:"type"`
	Required bool     `json:"required,omitempty" yaml:"required,omitempty"` // null is refused
	Min      *float64 `json:"min,omitempty" yaml:"min,omitempty"`           // of numbers, inclusive
	Max      *float64 `json:"max,omitempty" yaml:"max,omitempty"`
	OneOf    []string `json:"one_of,omitempty" yaml:"one_of,omitempty"` // of strings
}

// Source is where rows come from: events and pushes or, with a path, files of
// the bucket. Each row is of one time and, if it says so, was made at another.
type Source struct {
	Name   string  `json:"name" yaml:"name"`
	Fields []Field `json:"fields" yaml:"fields"`
	// Time names the timestamp that a row is of; empty: "event_timestamp".
	Time string `json:"time,omitempty" yaml:"time,omitempty"`
	// Created names the timestamp when a row came to be known; empty: when it was taken in or, of files, the row's time.
	Created string `json:"created,omitempty" yaml:"created,omitempty"`
	// Fresh refuses rows that are older when they are taken in; 0: any age.
	Fresh Duration `json:"fresh,omitempty" yaml:"fresh,omitempty"`
	// Path is a folder of Parquet files in the bucket, such as "landing/weather/" (batch source); empty: rows come by push and by event.
	Path string `json:"path,omitempty" yaml:"path,omitempty"`
}

// View is features of one combination of entities, made of a source's rows: the
// newest row's columns or, where Windows are, aggregates over the newest ones.
type View struct {
	Name     string   `json:"name" yaml:"name"`
	Entities []string `json:"entities" yaml:"entities"`
	Source   string   `json:"source" yaml:"source"`
	// TTL is how old a row may be to still be answered (OUTSIDE_MAX_AGE); 0: any age. Windows have none.
	TTL Duration `json:"ttl,omitempty" yaml:"ttl,omitempty"`
	// Features are columns of the source; empty: all but keys and times. Windows have none.
	Features []string `json:"features,omitempty" yaml:"features,omitempty"`
	Windows  []Window `json:"windows,omitempty" yaml:"windows,omitempty"`
	// Lateness is how far behind the newest row of its entity a row may be to still be counted. Only windows have one.
	Lateness Duration `json:"lateness,omitempty" yaml:"lateness,omitempty"`

	Version int `json:"version,omitempty" yaml:"-"` // of the set that last changed the view
	// IDs are the numbers of columns in encoded rows; they are given once and never to another column.
	// Those that left keep theirs, so that they can come back; "name@version" was another column than name is now.
	IDs map[string]uint32 `json:"ids,omitempty" yaml:"-"`
}

// Window is one aggregate. With Slide it moves in steps of that: at time t it
// covers the steps that lie within Size, up to and with the one that t is in.
// Without, it tumbles: at time t it covers the last whole span of Size.
type Window struct {
	Name      string   `json:"name" yaml:"name"`
	Aggregate string   `json:"aggregate" yaml:"aggregate"`       // count, sum, mean, min, max, distinct, last
	Of        string   `json:"of,omitempty" yaml:"of,omitempty"` // column; count may do without
	Size      Duration `json:"size" yaml:"size"`
	Slide     Duration `json:"slide,omitempty" yaml:"slide,omitempty"` // divides Size; 0: tumbling
}

// Expression is features that are computed when they are asked for, of values
// that the caller brings and of other features.
type Expression struct {
	Name     string      `json:"name" yaml:"name"`
	Inputs   []Field     `json:"inputs,omitempty" yaml:"inputs,omitempty"` // that the caller brings
	Features []Expressed `json:"features" yaml:"features"`
	Version  int         `json:"version,omitempty" yaml:"-"`
}

// Expressed is one computed feature. Value is CEL; it sees inputs by their
// names and features as view.feature, and has abs, asin, ceil, cos, exp, floor, log, round,
// sin and sqrt of doubles. Where one of those that it touches is null it is null.
type Expressed struct {
	Name  string   `json:"name" yaml:"name"`
	Type  row.Type `json:"type" yaml:"type"`
	Value string   `json:"value" yaml:"value"`
}

// Service is the list of features that a model uses, in its order.
type Service struct {
	Name     string   `json:"name" yaml:"name"`
	Features []Choice `json:"features" yaml:"features"`
}

// Choice is one feature of a service. In YAML it may be just "view:feature", and
// "view:*" stands for all of a view's.
type Choice struct {
	Feature string `json:"feature" yaml:"feature"`                     // "view:feature"
	As      string `json:"as,omitempty" yaml:"as,omitempty"`           // the model's input or column; empty: the feature's name
	Default any    `json:"default,omitempty" yaml:"default,omitempty"` // instead of null
}

// Duration is a time.Duration that is written like "90m" or "36h", and may say days: "7d", "1d12h".
type Duration = yamlwire.Duration

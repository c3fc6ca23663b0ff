// Package drift tells how far live data has moved from what a model was trained on.
//
// A Profile is the training reference: what each column was like, in bins. A State counts
// what a window of live rows had, in the same bins; states of one profile merge, in any
// order and however their rows were split, to the same state. Compare says which columns
// have moved, by which test, how far and where to, and keeps the chance that a window
// without drift raises an alarm below a level that is chosen.
//
// Numbers that are not finite are missing values, in the reference as in the window.
// Profiles and reports are safe for concurrent use, builders and states are not. All
// take memory that the number of rows has no say in. The package knows nothing of
// models, of where states are kept, and of time.
package drift

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Kind is what sort of values a column has.
type Kind string

// The kinds.
const (
	Numeric     Kind = "numeric"     // numbers with an order, in bins
	Discrete    Kind = "discrete"    // a few different numbers, each a category
	Categorical Kind = "categorical" // texts
)

// The bounds of a Profile.
const (
	MaxColumns    = 4096
	MaxBins       = 256 // of a numeric column
	MaxDiscrete   = 20  // numbers of a discrete column
	MaxCategories = 200 // of a categorical column; what is rarer is Other
	MaxName       = 64  // bytes of a category's name; see Column.Categories
	maxColumnName = 256
	maxCount      = 1 << 53 // what JSON's readers keep exactly
	maxProfile    = 64 << 20
)

// Column is what a column was like in training. Counts are of a sample: of all rows where
// these were no more than SampleRows.
type Column struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Rows is how many rows it is of, where these are not those of the profile; 0: they are.
	Rows    uint64 `json:"rows,omitempty"`
	Missing uint64 `json:"missing"` // of all rows

	// Min is the least number of all rows. The greatest is the last of Edges.
	Min float64 `json:"min,omitempty"`
	// Edges are where bins end: a bin has the numbers above the edge before, up to and with
	// its own. Of a discrete column they are its numbers.
	Edges []float64 `json:"edges,omitempty"`
	// Categories are the most frequent ones, first. A name that is longer than MaxName or no
	// UTF-8 stands as its beginning and a hash.
	Categories []string `json:"categories,omitempty"`
	// Counts has a count for each of Edges or Categories.
	Counts []uint64 `json:"counts,omitempty"`
	// Other counts values of all other categories; 0 where all are listed.
	Other uint64 `json:"other,omitempty"`
	// Single is how many categories, or numbers of a discrete column, stood in one row only:
	// by Good and Turing, as many rows of another such sample have one that was never seen.
	Single uint64 `json:"single,omitempty"`

	present uint64            // values in the sample
	lookup  map[string]uint32 // of Categories
	bounds  []uint64          // of numbers, by order: the greatest below Min, then Edges
}

// Max gives the greatest number of all rows; 0 where there is none.
func (c *Column) Max() float64 {
	if len(c.Edges) == 0 {
		return 0
	}
	return c.Edges[len(c.Edges)-1]
}

// Sampled tells how many values Counts and Other are of.
func (c *Column) Sampled() uint64 { return c.present }

// MissingShare is the share of values that are missing, in a profile of so many rows.
func (c *Column) MissingShare(rows uint64) float64 { return share(c.Missing, c.of(rows)) }

// of is how many rows the column is of, in a profile of so many.
func (c *Column) of(rows uint64) uint64 {
	if c.Rows > 0 {
		return c.Rows
	}
	return rows
}

// Profile is the training reference of a model: an unchangeable description of its columns.
type Profile struct {
	rows    uint64
	columns []Column
	digest  string
	mark    [8]byte // of the digest, in states
	at      map[string]int
}

// Rows tells how many rows the profile was made of.
func (p *Profile) Rows() uint64 { return p.rows }

// With gives a profile of the columns of both, such as what a model was trained on and what it then said of other rows. Columns of
// the same name are Invalid.
func (p *Profile) With(o *Profile) (*Profile, error) {
	columns := slices.Concat(p.columns, o.columns)
	for i := range columns {
		from := o
		if i < len(p.columns) {
			from = p
		}
		if columns[i].Rows = columns[i].of(from.rows); columns[i].Rows == p.rows {
			columns[i].Rows = 0
		}
		columns[i].present = 0
	}
	return newProfile(p.rows, columns)
}

// Columns gives the columns, in order. They are not to be changed.
func (p *Profile) Columns() []Column { return p.columns }

// Column tells where a column lies among Columns.
func (p *Profile) Column(name string) (int, bool) {
	i, ok := p.at[name]
	return i, ok
}

// Digest identifies the profile by what it says: 64 hex digits.
func (p *Profile) Digest() string { return p.digest }

// version is that of the encoding.
const version = 1

type encoded struct {
	Version int      `json:"version"`
	Rows    uint64   `json:"rows"`
	Columns []Column `json:"columns"`
}

// MarshalJSON writes the profile as JSON that Parse reads: the same bytes for equal profiles.
func (p *Profile) MarshalJSON() ([]byte, error) {
	return json.Marshal(encoded{version, p.rows, p.columns})
}

// Parse reads a profile that MarshalJSON wrote. Anything else is Invalid.
func Parse(data []byte) (*Profile, error) {
	if len(data) > maxProfile {
		return nil, fault.New(fault.Invalid, "the profile has %d bytes, more than %d", len(data), maxProfile)
	}
	var e encoded
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the profile is no JSON of a profile")
	}
	if len(bytes.TrimSpace(data[d.InputOffset():])) > 0 {
		return nil, fault.New(fault.Invalid, "something follows the profile's JSON")
	}
	if e.Version != version {
		return nil, fault.New(fault.Invalid, "the profile is of version %d; known is %d", e.Version, version)
	}
	return newProfile(e.Rows, e.Columns)
}

// newProfile looks columns through, and makes what is needed to count in them.
func newProfile(rows uint64, columns []Column) (*Profile, error) {
	if rows > maxCount {
		return nil, fault.New(fault.Invalid, "the profile tells of more rows than there can be")
	}
	if n := len(columns); n == 0 || n > MaxColumns {
		return nil, fault.New(fault.Invalid, "the profile has %d columns: it needs 1 to %d", n, MaxColumns)
	}
	p := &Profile{rows: rows, columns: columns, at: make(map[string]int, len(columns))}
	for i := range columns {
		c := &columns[i]
		if c.Name == "" || len(c.Name) > maxColumnName || !utf8.ValidString(c.Name) {
			return nil, fault.New(fault.Invalid, "column %d of the profile has no name of 1 to %d bytes of UTF-8", i, maxColumnName)
		}
		if _, twice := p.at[c.Name]; twice {
			return nil, fault.New(fault.Invalid, "the profile has the column %q twice", c.Name)
		}
		p.at[c.Name] = i
		if why := c.prepare(rows); why != "" {
			return nil, fault.New(fault.Invalid, "column %q of the profile: %s", c.Name, why)
		}
	}
	data, err := p.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode the profile: %w", err)
	}
	sum := sha256.Sum256(data)
	p.digest = hex.EncodeToString(sum[:])
	copy(p.mark[:], sum[:])
	return p, nil
}

// prepare checks the column and indexes it; it tells what is wrong.
func (c *Column) prepare(rows uint64) string {
	if rows = c.of(rows); rows > maxCount {
		return "it tells of more rows than there can be"
	}
	size, most := len(c.Edges), MaxBins
	switch c.Kind {
	case Numeric:
	case Discrete:
		most = MaxDiscrete
	case Categorical:
		size, most = len(c.Categories), MaxCategories
	default:
		return fmt.Sprintf("there is no kind %.40q", c.Kind)
	}
	number := c.Kind != Categorical
	switch {
	case number && c.Categories != nil || !number && (c.Edges != nil || c.Min != 0):
		return "it has numbers and categories"
	case size > most || len(c.Counts) != size:
		return fmt.Sprintf("it has %d counts for %d values, of which there may be %d", len(c.Counts), size, most)
	case c.Other > 0 && (number || size < MaxCategories):
		return "it has other values while there is room for more"
	case c.Missing > rows:
		return "more values are missing than there are rows"
	case size == 0 && c.Missing != rows:
		return "it has no values, and they are not missing"
	}
	left := rows - c.Missing // what sums may come to
	for i, n := range append([]uint64{c.Other}, c.Counts...) {
		if n > left || n == 0 && i > 0 && c.Other == 0 {
			return "its counts are not those of its rows"
		}
		left -= n
		c.present += n
	}
	if c.Single > c.present || c.Single > 0 && c.Kind == Numeric {
		return "more values stand alone than there are"
	}
	if size > 0 && c.present == 0 {
		return "its counts are all 0"
	}
	if number {
		return c.prepareEdges()
	}
	c.lookup = make(map[string]uint32, size)
	for i, name := range c.Categories {
		if len(name) > MaxName || !utf8.ValidString(name) {
			return fmt.Sprintf("category %d has no name of at most %d bytes of UTF-8", i, MaxName)
		}
		if _, twice := c.lookup[name]; twice {
			return fmt.Sprintf("it has the category %q twice", name)
		}
		c.lookup[name] = uint32(i)
	}
	return ""
}

func (c *Column) prepareEdges() string {
	if len(c.Edges) == 0 {
		if c.Min != 0 {
			return "it has a least number and no bins"
		}
		return ""
	}
	before := math.Nextafter(c.Min, math.Inf(-1))
	if math.IsInf(before, 0) {
		return "its least number is too small"
	}
	c.bounds = append(make([]uint64, 0, len(c.Edges)+1), order(before))
	for _, e := range c.Edges {
		if !(e > before) || math.IsInf(e, 0) {
			return "its edges don't ascend from the least number"
		}
		c.bounds, before = append(c.bounds, order(e)), e
	}
	if c.Kind == Discrete && c.Min != c.Edges[0] {
		return "the least of its numbers is not the least number"
	}
	return ""
}

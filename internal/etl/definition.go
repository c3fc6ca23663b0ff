package etl

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/yamlwire"
)

type node = yamlwire.Node

// Load is what a step of the kind load says of itself.
type Load struct {
	From []Table `yaml:"from"`
	SQL  string  `yaml:"sql"`  // one SELECT over the tables, whose columns are fields of Into
	Into string  `yaml:"into"` // a source of features

	Expect []Expectation `yaml:"expect"`
	// Most is the share of rows that may be set aside; more of them fail the step. Nothing: 1%.
	Most Share `yaml:"most"`
	// BadFiles says what a file that can't be read does: "fail" the run (""), or "quarantine". It is left out of later ones either way.
	BadFiles string `yaml:"bad_files"`
}

// Table is a table that the SQL sees. One of Files, Source, Predictions, Outcomes, Labelled and Input says of what.
type Table struct {
	Name  string `yaml:"name"`
	Files string `yaml:"files"` // a folder of the bucket: those of its files that no run has taken
	All   bool   `yaml:"all"`   // all of its files, in each run
	// Columns are names and DuckDB's types of what is used of Files; those with "?" behind the type may be missing. Nothing: those of the first file that ever came.
	Columns map[string]string `yaml:"columns"`

	Source      string            `yaml:"source"`      // the history of a source
	Predictions string            `yaml:"predictions"` // of a model, as they were logged
	Outcomes    string            `yaml:"outcomes"`    // of a model
	Labelled    string            `yaml:"labelled"`    // predictions of a model beside what came true of them
	Last        yamlwire.Duration `yaml:"last"`        // of these, what is no older, as of the start of the run; 0: all

	Input string `yaml:"input"` // a file that an earlier step gave: the step's input of that name
}

// Expectation is something that is demanded of the rows that the SQL gives.
type Expectation struct {
	Check   string   `yaml:"check"`   // not_null, range, one_of, unique, reference; of all of them together: rows, change
	Columns []string `yaml:"columns"` // each of them; of unique: together
	Min     *float64 `yaml:"min"`     // of range, of rows, and of change: to the rows of the run before
	Max     *float64 `yaml:"max"`
	Values  []string `yaml:"values"` // of one_of
	In      string   `yaml:"in"`     // of reference: a column of a table, "table.column"
	// OnFail says what happens to a row that is not so: "quarantine" (""), or "fail" the step.
	OnFail string `yaml:"on_fail"`
}

// Share is a part of a whole, written as "1%" or "0.01".
type Share float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Share) UnmarshalText(b []byte) error {
	text, percent := strings.CutSuffix(string(b), "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return fault.New(fault.Invalid, `%.50q is no share such as "1%%" or "0.01"`, b)
	}
	*s = Share(f)
	return nil
}

var (
	tableName  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
	columnType = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_ ]*(\([0-9]+(, ?[0-9]+)?\))?(\[\])*\??$`)
)

// readLoad reads and checks what a definition says, as far as no data is needed for it.
func readLoad(with node) (*Load, error) {
	l := &Load{Most: 0.01}
	if err := with.Into(l, "with"); err != nil {
		return nil, err
	}
	switch {
	case len(l.From) == 0:
		return nil, with.Fail("from says no table")
	case strings.TrimSpace(l.SQL) == "":
		return nil, with.Fail("sql is missing")
	case l.Into == "":
		return nil, with.Fail("into says no source")
	case !slices.Contains([]string{"", "fail", "quarantine"}, l.BadFiles):
		return nil, with.Fail("bad_files is %.50q, expected fail or quarantine", l.BadFiles)
	}
	names := map[string]bool{}
	for i := range l.From {
		t := &l.From[i]
		if err := t.check(); err != nil {
			return nil, with.Fail("table %.63q: %s", t.Name, fault.Message(err))
		}
		if names[t.Name] {
			return nil, with.Fail("table %q is there twice", t.Name)
		}
		names[t.Name] = true
	}
	for i := range l.Expect {
		e := &l.Expect[i]
		if err := e.check(names); err != nil {
			return nil, with.Fail("expectation %d (%.20s): %s", i+1, e.Check, fault.Message(err))
		}
	}
	return l, nil
}

func invalid(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }

func (t *Table) check() error {
	kinds := 0
	for _, of := range []string{t.Files, t.Source, t.Predictions, t.Outcomes, t.Labelled, t.Input} {
		if of != "" {
			kinds++
		}
	}
	switch {
	case !tableName.MatchString(t.Name):
		return invalid("a name has lower case letters, digits and _ alone, and begins with a letter")
	case kinds != 1:
		return invalid("expected one of files, source, predictions, outcomes, labelled and input")
	case t.Files == "" && (t.All || t.Columns != nil):
		return invalid("all and columns are of files")
	case t.Last != 0 && (t.Files != "" || t.Input != ""):
		return invalid("last is not of files")
	case t.Last < 0:
		return invalid("last is negative")
	case t.Input != "" && t.Input != rowsPort:
		return invalid("the step has no input %.50q, but %s", t.Input, rowsPort)
	}
	if t.Files != "" {
		if err := store.CheckKey(t.Files + "x"); err != nil || !strings.HasSuffix(t.Files, "/") {
			return invalid("files is %.100q, expected a folder of the bucket such as landing/weather/", t.Files)
		}
	}
	for name, typ := range t.Columns {
		if name == "" || !columnType.MatchString(typ) {
			return invalid("column %.100q: %.50q is no type", name, typ)
		}
	}
	return nil
}

func (e *Expectation) check(tables map[string]bool) error {
	of := map[string]bool{"columns": len(e.Columns) > 0, "min or max": e.Min != nil || e.Max != nil, "values": len(e.Values) > 0, "in": e.In != ""}
	needs := map[string][]string{
		"not_null": {"columns"}, "unique": {"columns"}, "range": {"columns", "min or max"}, "one_of": {"columns", "values"},
		"reference": {"columns", "in"}, "rows": {"min or max"}, "change": {"min or max"},
	}
	need, ok := needs[e.Check]
	if !ok {
		return invalid("there is no such check; expected one of not_null, range, one_of, unique, reference, rows, change")
	}
	for what, there := range of {
		if there != slices.Contains(need, what) {
			return invalid("it takes %s", strings.Join(need, " and "))
		}
	}
	switch {
	case e.Min != nil && e.Max != nil && *e.Min > *e.Max:
		return invalid("min is more than max")
	case !slices.Contains([]string{"", "fail", "quarantine"}, e.OnFail):
		return invalid("on_fail is %.50q, expected fail or quarantine", e.OnFail)
	case e.OnFail == "quarantine" && (e.Check == "rows" || e.Check == "change"):
		return invalid("it is about no single rows, and fails the step")
	}
	if table, column, ok := strings.Cut(e.In, "."); e.In != "" && (!ok || column == "" || !tables[table]) {
		return invalid("in is %.100q, expected a table of from and its column, as in planes.tailnum", e.In)
	}
	return nil
}

// bounds gives the limits, infinite where there are none.
func (e *Expectation) bounds() (least, most float64) {
	least, most = math.Inf(-1), math.Inf(1)
	if e.Min != nil {
		least = *e.Min
	}
	if e.Max != nil {
		most = *e.Max
	}
	return least, most
}

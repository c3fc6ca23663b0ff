package feature

import "github.com/pilotlight-ml/pilotlight/internal/row"

// Plan is how a list of features is answered: what the caller brings, what is
// read, what is computed. Plans are made by Compiled.Service and
// Compiled.Features, and are kept for reuse.
type Plan struct {
	Keys    []row.Field // join keys that the caller gives, each once
	Inputs  []Field     // values that the caller gives for expressions, each once
	Columns []Column    // what is answered, in order
}

// Column is one feature of a plan.
type Column struct {
	Name    string // as the service or the caller calls it
	View    string // or the expression
	Feature string
	Type    row.Type
	Default row.Value // instead of null; null: none
	Version int       // of the view or expression
}

// Answer is one feature of one entity.
type Answer struct {
	Value  row.Value
	Status Status
	Event  int64 // the time that the value is of, in microseconds since 1970; 0 where there is none
}

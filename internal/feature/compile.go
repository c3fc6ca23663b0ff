package feature

import (
	"sync"

	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Compiled is a Set that was checked, with everything looked up that its parts
// say of each other.
type Compiled struct {
	*Set
	views   map[string]*CompiledView
	sources map[string]*CompiledSource
}

// CompiledSource is a source with what its rows look like.
type CompiledSource struct {
	*Source
	Columns []row.Field     // one for each of Fields, numbered from 1 in their order: the shape of Row.Values
	TimeAt  int             // where its event time lies in Fields
	Made    int             // where its created time lies in Fields; -1: nowhere
	Views   []*CompiledView // that are made of it
}

// CompiledView is a view with where it finds what it needs.
type CompiledView struct {
	*View
	From    *CompiledSource
	Keys    []row.Field // its entities' join keys, in order
	KeyAt   []int       // where each lies in the source's fields
	Columns []row.Field // what it answers, in order
	FromAt  []int       // where each is made of lies in the source's fields; -1: of nothing (count)

	states sync.Pool // of *State, that Values uses
}

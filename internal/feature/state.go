package feature

import (
	"github.com/pilotlight-ml/pilotlight/internal/row"
)

// Status says how a value was come by; the names and numbers are Feast's.
type Status uint8

// The statuses.
const (
	Invalid       Status = 0
	Present       Status = 1
	NullValue     Status = 2
	NotFound      Status = 3
	OutsideMaxAge Status = 4
)

// Outcome is what became of a row that was applied to a state.
type Outcome uint8

// The outcomes.
const (
	Applied   Outcome = iota // the state has changed
	Older                    // the state has a newer row
	Duplicate                // the state has this row
	Late                     // the row is further behind than the view's lateness
)

// Row is one row of a source, as every part of the system takes it.
type Row struct {
	Values  []row.Value // one for each of Source.Fields
	Event   int64       // the time that it is of, in microseconds since 1970
	Created int64       // when it was made or taken in
	ID      uint64      // hash of where it came from: (source, id) of its event, or of its content
}

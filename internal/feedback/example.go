package feedback

import (
	"cmp"
	"slices"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/alert"
	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// example is a row of a prediction that shows what a window counts: one that was very wrong, odd, slow, or failed.
type example struct {
	ID     string  `json:"id"`
	Row    int32   `json:"row,omitempty"`
	Score  float64 `json:"score"`            // how well it shows it
	Traced bool    `json:"traced,omitempty"` // its trace is kept
}

// examples are those that show it best, the best first: so many and, if none of them is traced, the best that is. What is corrected later
// stays an example of the outcome that it had.
type examples []example

// examplesMost is how many a window keeps of each kind, beside one that is traced: as many as an alert names.
const examplesMost = alert.ExamplesMost

// add takes one in if it is among the best. A prediction of several rows is one, by its best.
func (e *examples) add(o example) {
	if o.ID == "" || o.Score-o.Score != 0 {
		return
	}
	if n := len(*e); n >= examplesMost && o.Score < (*e)[examplesMost-1].Score && (!o.Traced || slices.ContainsFunc((*e)[:n-1], isTraced)) {
		return
	}
	if at := slices.IndexFunc(*e, func(own example) bool { return own.ID == o.ID }); at >= 0 {
		if own := (*e)[at]; own.Score > o.Score || own.Score == o.Score && own.Row < o.Row {
			o.Score, o.Row = own.Score, own.Row
		}
		*e = slices.Delete(*e, at, at+1)
	} else {
		o.ID = strings.Clone(o.ID)
	}
	at, _ := slices.BinarySearchFunc(*e, o, func(a, b example) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), strings.Compare(a.ID, b.ID)) // an order that all merges agree on
	})
	*e = slices.Insert(*e, at, o)
	if len(*e) > examplesMost {
		if at := slices.IndexFunc(*e, isTraced); at >= examplesMost {
			(*e)[examplesMost] = (*e)[at]
			*e = (*e)[:examplesMost+1]
		} else {
			*e = (*e)[:examplesMost]
		}
	}
}

func isTraced(e example) bool { return e.Traced }

func (e *examples) merge(o examples) {
	for i := range o {
		e.add(o[i])
	}
}

// told are the best, the last of which gives way to one that is traced.
func (e examples) told() (all []event.Example) {
	for i := range e {
		all = append(all, event.Example{Prediction: e[i].ID, Row: e[i].Row})
	}
	if len(all) > examplesMost {
		all = slices.Delete(all, examplesMost-1, examplesMost)
	}
	return all
}

// shown are examples by what they are of: a slice, or a column.
type shown map[string]examples

func (s *shown) add(of string, o example) {
	if *s == nil {
		*s = shown{}
	}
	all := (*s)[of]
	all.add(o)
	(*s)[of] = all
}

func (s *shown) merge(o shown) {
	for of, all := range o {
		for i := range all {
			s.add(of, all[i])
		}
	}
}

package course

import (
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
)

func TestWhatMoved(t *testing.T) {
	for want, r := range map[string]drift.ColumnReport{
		`12 % were values that training did not have, such as "X\x1bX"; the share of B6 went from 10 % to 5 %`: {
			Cause: drift.UnseenShare, Unseen: drift.Change{Current: .12}, Names: []drift.Named{{Name: "X\x1bX"}}, Moves: []drift.Change{{Of: "B6", Reference: .1, Current: .05}},
		},
		"30 % were out of the range of training; its median went from 1 to 2": {
			Cause: drift.OutOfRange, Below: .1, Above: .2, Reference: &drift.Spread{P50: 1}, Current: &drift.Spread{P50: 2},
		},
		"no value is left to compare": {},
	} {
		if got := Moves(&r); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

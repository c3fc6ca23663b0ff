package triggers

import (
	"slices"
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/event"
)

// Each type is taken by somebody, or is for whoever watches.
func TestTakers(t *testing.T) {
	all, err := Takers(Files)
	if err != nil {
		t.Fatal(err)
	}
	of := func(name string) (takers []string) {
		for _, taker := range all {
			if slices.Contains(taker.Types, name) {
				takers = append(takers, taker.Trigger+" "+taker.Subscriber)
			}
		}
		slices.Sort(takers)
		return takers
	}
	for name, want := range map[string][]string{
		event.ModelPublished.Name: {"models-to-predict predict/events"},
		event.AliasMoved.Name:     {"aliases-to-predict predict/events"},
		event.ModelLoaded.Name:    nil,
	} {
		if got := of(name); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if ticks := of(event.Tick.Name); len(ticks) < 5 {
		t.Errorf("ticks are taken by %q, want those of all functions that have jobs", ticks)
	}
}

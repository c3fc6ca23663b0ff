package memstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func TestMeter(t *testing.T) {
	storetest.Meter(t, func(*testing.T) store.Meter { return NewMeter() })
}

func TestAMeterForgets(t *testing.T) {
	m := NewMeter()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	m.clock = func() time.Time { return now }
	for i := range 50 * minSweep {
		if _, err := m.Take(t.Context(), now, []store.Limit{{Key: fmt.Sprint(i), Every: time.Second, Burst: 1}}, 0); err != nil {
			t.Fatal(err)
		}
		now = now.Add(10 * time.Millisecond)
	}
	if got := len(m.taken); got > 2*minSweep {
		t.Errorf("it remembers %d, of whom 100 have a reason", got)
	}
}

package memstore_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func openOnline(t testing.TB) store.Online {
	o, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOnline(t *testing.T) {
	storetest.Online(t, func(t *testing.T) store.Online { return openOnline(t) })
}

// The store must not grow with the number of keys it has ever seen.
func TestExpiredRowsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := openOnline(t)
		for i := range 100_000 {
			row := store.OnlineRow{Key: fmt.Sprintf("k/%d", i), Stamp: store.Stamp{Event: 1}, TTL: time.Second}
			if _, err := o.Write(t.Context(), []store.OnlineRow{row}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // so about 1000 live at any time
		}
		if got, limit := memstore.Rows(o), 4000; got > limit {
			t.Errorf("got %d rows kept, want at most %d", got, limit)
		}
	})
}

func BenchmarkOnline(b *testing.B) { storetest.BenchOnline(b, openOnline(b)) }

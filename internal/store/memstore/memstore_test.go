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

func TestKV(t *testing.T)   { storetest.KV(t, openKV) }
func TestBlob(t *testing.T) { storetest.Blob(t, openBlob) }

func openKV(t *testing.T) store.KV {
	k, err := memstore.OpenKV(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func openBlob(t *testing.T) store.Blob {
	b, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// A KV that serves as a cache must not grow with the number of keys it has ever seen.
func TestExpiredItemsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := openKV(t)
		for i := range 100_000 {
			if _, err := k.Put(t.Context(), fmt.Sprintf("k/%d", i), nil, time.Second, store.Condition{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) // so about 100 live at any time
		}
		if got, limit := memstore.Len(k), 2048; got > limit {
			t.Errorf("got %d items kept, want at most %d", got, limit)
		}
	})
}

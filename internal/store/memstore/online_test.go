package memstore_test

import (
	"testing"

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

func BenchmarkOnline(b *testing.B) { storetest.BenchOnline(b, openOnline(b)) }

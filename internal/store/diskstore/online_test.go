package diskstore_test

import (
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/diskstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func openOnline(t testing.TB, dir string) store.Online {
	o, err := diskstore.OpenOnline(t.Context(), fileURL(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() }) // some tests close it themselves
	return o
}

func TestOnline(t *testing.T) {
	storetest.Online(t, func(t *testing.T) store.Online { return openOnline(t, t.TempDir()) })
}

func TestOnlineOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	o := openOnline(t, dir)
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: 1}, Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := diskstore.OpenOnline(t.Context(), fileURL(dir)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a second process: got %v, want Unavailable", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	rows, err := openOnline(t, dir).Read(t.Context(), []string{"k"}, nil)
	if err != nil || string(rows[0].Value) != "v" {
		t.Errorf("got %q, %v", rows[0].Value, err)
	}
}

func BenchmarkOnline(b *testing.B) { storetest.BenchOnline(b, openOnline(b, b.TempDir())) }

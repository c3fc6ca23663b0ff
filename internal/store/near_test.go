package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// teller is a store in memory that says what it is told to say.
type teller struct {
	store.Online
	left  time.Duration // of each row
	reads int
	hold  func() // between the reading of a row and the answer

	mu      sync.Mutex
	watches int
	changed func([]string)
	failed  chan error
}

func newTeller(t *testing.T) *teller {
	o, err := memstore.OpenOnline(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &teller{Online: o, hold: func() {}, failed: make(chan error)}
}

func (m *teller) ReadTTL(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	m.reads++
	rows, err := m.Read(ctx, keys, dst)
	for i := range rows {
		rows[i].TTL = m.left
	}
	m.hold()
	return rows, err
}

func (m *teller) Watch(ctx context.Context, prefix string, begun func(), changed func([]string)) error {
	if prefix != "feature/" {
		return fmt.Errorf("got prefix %q", prefix)
	}
	m.mu.Lock()
	m.watches++
	m.changed = changed
	m.mu.Unlock()
	begun()
	select {
	case err := <-m.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func nearRead(t *testing.T, n *store.Near, key string) (at int64, had int) {
	t.Helper()
	rows, had, err := n.ReadNear(t.Context(), []string{"feature/other", key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rows[1].Stamp.Event, had
}

func TestNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTeller(t)
		n := store.NewNear(m, "feature/", 1<<20, slog.New(slog.DiscardHandler))
		put := func(o store.Online, at int64) {
			t.Helper()
			if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: "feature/k", Stamp: store.Stamp{Event: at}}}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(what string, at int64, had int) {
			t.Helper()
			synctest.Wait()
			if gotAt, gotHad := nearRead(t, n, "feature/k"); gotAt != at || gotHad != had {
				t.Errorf("%s: got row %d, %d from memory, want %d, %d", what, gotAt, gotHad, at, had)
			}
		}
		put(m, 1)
		expect("before anybody listens", 1, 0)
		expect("the first time", 1, 0)
		expect("kept, and that there is none", 1, 2)
		put(m, 2)
		expect("changed, and not told yet", 1, 2)
		m.changed([]string{"feature/k"})
		expect("told", 2, 1)
		put(n, 3)
		expect("written by itself", 3, 1)

		time.Sleep(29 * time.Second)
		expect("for half a minute", 3, 2)
		time.Sleep(time.Second)
		expect("and no longer", 3, 0)
		m.left = 10 * time.Second
		put(n, 4)
		expect("of a row that ends", 4, 1)
		time.Sleep(m.left)
		if err := m.Delete(t.Context(), []string{"feature/k"}); err != nil { // as its time was over
			t.Fatal(err)
		}
		expect("after its end, of which nothing is told", 0, 1)
		m.left = 0

		// Read, then changed before it could be kept.
		put(n, 5)
		m.hold = func() {
			m.hold = func() {}
			put(m, 6)
			m.changed([]string{"feature/k"})
		}
		expect("overtaken", 5, 1)
		expect("not kept", 6, 1)

		m.failed <- errors.New("gone")
		synctest.Wait()
		put(m, 7)
		expect("nothing is told", 7, 0)
		time.Sleep(time.Second)
		expect("told again", 7, 0)
		expect("and kept", 7, 2)

		watches := m.watches
		time.Sleep(11 * time.Minute) // idle for ten of them at least
		put(m, 8)
		if _, _, err := n.ReadNear(t.Context(), []string{"feature/k"}, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if m.watches != watches+1 {
			t.Errorf("it was listened %d times after a long time in which nobody read, want once", m.watches-watches)
		}
		expect("woken", 8, 0)
		expect("and kept", 8, 2)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// However many rows are read, no more memory is taken than is allowed.
func TestNearIsBounded(t *testing.T) {
	m := newTeller(t)
	const most = 100 << 10
	n := store.NewNear(m, "feature/", most, slog.New(slog.DiscardHandler))
	defer n.Close()
	value := make([]byte, 1<<10)
	had := 0
	for i := range 2000 {
		key := fmt.Sprint("feature/", i%1000)
		if i < 1000 {
			if _, err := n.Write(t.Context(), []store.OnlineRow{{Key: key, Stamp: store.Stamp{Event: 1}, Value: value}}); err != nil {
				t.Fatal(err)
			}
		}
		_, got, err := n.ReadNear(t.Context(), []string{key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if i >= 1000 {
			had += got
		}
	}
	if had > most/len(value)*3/2 { // what is over is let go of behind the reads
		t.Errorf("%d of a thousand rows of %d bytes were in memory, of which %d are allowed", had, len(value), most)
	}
}

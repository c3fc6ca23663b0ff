package redisstore_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

// openNear opens a store near which rows are kept, and waits until they are.
func openNear(t testing.TB, raw string) *store.Near {
	t.Helper()
	telling, ok := openOnline(t, raw).(store.Telling)
	if !ok {
		t.Fatal("Redis tells nothing")
	}
	n := store.NewNear(unclosed{telling}, "", 1<<20, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "rows are kept", func() bool { return had(t, n, "is there") == 1 })
	return n
}

// unclosed is closed by who opened it.
type unclosed struct{ store.Telling }

func (unclosed) Close() error { return nil }

// nearReads is a store whose reads are near.
type nearReads struct{ *store.Near }

func (n nearReads) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	rows, _, err := n.ReadNear(ctx, keys, dst)
	for i := range rows[len(dst):] { // the caller's, to do with as it likes
		r := &rows[len(dst)+i]
		r.Value = append([]byte(nil), r.Value...)
	}
	return rows, err
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// had tells how many of the keys were in memory.
func had(t testing.TB, n *store.Near, keys ...string) int {
	t.Helper()
	_, had, err := n.ReadNear(t.Context(), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return had
}

func near(t testing.TB, n *store.Near, key string) store.OnlineRow {
	t.Helper()
	rows, _, err := n.ReadNear(t.Context(), []string{key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rows[0]
}

func put(t testing.TB, o store.Online, key string, at int64, ttl time.Duration) {
	t.Helper()
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: key, Stamp: store.Stamp{Event: at}, Value: fmt.Append(nil, at), TTL: ttl}}); err != nil {
		t.Fatal(err)
	}
}

// To who writes by it, a Near whose reads are near is a store like any other.
func TestNear(t *testing.T) {
	storetest.Online(t, func(t *testing.T) store.Online { return nearReads{openNear(t, storetest.RedisURL(t))} })
}

func TestNearHearsOfOthers(t *testing.T) {
	raw := storetest.RedisURL(t)
	n, other := openNear(t, raw), openOnline(t, raw)
	client, prefix := bare(t, raw)

	put(t, other, "k", 1, 0)
	eventually(t, "a row that was not there is read", func() bool { return near(t, n, "k").Stamp.Event == 1 })
	eventually(t, "it is kept", func() bool { return had(t, n, "k") == 1 })
	if got := near(t, n, "k"); string(got.Value) != "1" || got.TTL != 0 || got.Key != "k" {
		t.Errorf("got %+v from memory, want the row as it was written", got)
	}
	put(t, other, "k", 2, 0)
	eventually(t, "another's row is read", func() bool { return near(t, n, "k").Stamp.Event == 2 })

	for what, lose := range map[string]func() error{
		"deleted": func() error { return other.Delete(t.Context(), []string{"k"}) },
		"flushed": func() error { return client.Do(t.Context(), "unlink", prefix+"k").Err() },
	} {
		put(t, other, "k", 9, 0)
		eventually(t, "it is kept", func() bool { near(t, n, "k"); return had(t, n, "k") == 1 })
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is "+what, func() bool { return near(t, n, "k").Stamp == store.Stamp{} })
	}
	if rows, _, err := n.ReadNear(t.Context(), []string{""}, nil); err == nil {
		t.Errorf("got %v for no key, want an error", rows)
	}
}

// With writers elsewhere, reads never go back in time, and end with the last.
func TestNearUnderWrites(t *testing.T) {
	raw := storetest.RedisURL(t)
	n, other := openNear(t, raw), openOnline(t, raw)
	const keys, writes = 8, 1000
	name := func(i int) string { return fmt.Sprint("key ", i) }
	var last [keys]atomic.Int64
	var running sync.WaitGroup
	done := make(chan struct{})
	var hits atomic.Int64
	for range 4 {
		running.Go(func() {
			var seen [keys]int64
			for {
				select {
				case <-done:
					return
				default:
				}
				i := rand.IntN(keys)
				rows, had, err := n.ReadNear(t.Context(), []string{name(i)}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				hits.Add(int64(had))
				at := rows[0].Stamp.Event
				if at < seen[i] {
					t.Errorf("%s: got row %d after %d", name(i), at, seen[i])
					return
				}
				seen[i] = at
			}
		})
	}
	for at := int64(1); at <= writes; at++ {
		i := rand.IntN(keys)
		by := other
		if at%5 == 0 {
			by = n
		}
		put(t, by, name(i), at, 0)
		last[i].Store(at)
		if by == store.Online(n) {
			if got := near(t, n, name(i)).Stamp.Event; got != at {
				t.Fatalf("%s: got row %d just after its writer wrote %d", name(i), got, at)
			}
		}
	}
	for i := range keys {
		eventually(t, "the last row is read", func() bool { return near(t, n, name(i)).Stamp.Event == last[i].Load() })
	}
	close(done)
	running.Wait()
	if hits.Load() == 0 {
		t.Error("nothing was read from memory")
	}
}

// Where nothing more is told, be it that the connection breaks or that it goes silent, nothing more is given from memory.
func TestNearForgetsWhatItCannotHear(t *testing.T) {
	raw := storetest.RedisURL(t)
	other := openOnline(t, raw)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t, u.Host)
	u.Host = w.addr
	n := openNear(t, u.String())
	at := int64(0)
	for what, broken := range map[string]func(){"cut": w.cut, "silent": w.silence} {
		at++
		put(t, other, "k", at, 0)
		eventually(t, "it is kept", func() bool { return near(t, n, "k").Stamp.Event == at && had(t, n, "k") == 1 })
		broken()
		at++
		put(t, other, "k", at, 0)
		begin := time.Now()
		eventually(t, what+": the new row is read", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			rows, _, err := n.ReadNear(ctx, []string{"k"}, nil)
			if err != nil {
				w.heal()
				return false
			}
			return rows[0].Stamp.Event == at
		})
		t.Logf("%s: %v", what, time.Since(begin))
		eventually(t, "rows are kept again", func() bool { return had(t, n, "k") == 1 })
	}
}

// A Redis that may not tell (no right to CLIENT) is read as ever.
func TestNearWithoutTelling(t *testing.T) {
	raw := storetest.RedisURL(t)
	client, _ := bare(t, raw)
	user := "near-" + fmt.Sprint(rand.Uint32())
	if err := client.Do(t.Context(), "acl", "setuser", user, "on", ">secret", "~*", "&*", "+@all", "-client").Err(); err != nil {
		t.Fatal(err)
	}
	defer client.Do(context.WithoutCancel(t.Context()), "acl", "deluser", user)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "secret")
	var log lines
	n := store.NewNear(openOnline(t, u.String()).(store.Telling), "", 1<<20, slog.New(slog.NewTextHandler(&log, nil)))
	put(t, n, "k", 1, 0)
	eventually(t, "it is said once", func() bool {
		if got := near(t, n, "k").Stamp.Event; got != 1 {
			t.Fatalf("got row %d, want 1", got)
		}
		return log.count("are not told") == 1
	})
	time.Sleep(500 * time.Millisecond)
	if had(t, n, "k") != 0 || log.count("are not told") != 1 {
		t.Errorf("kept what nobody tells of, or said so more than once:\n%s", &log)
	}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(what string) int { return strings.Count(l.String(), what) }

// wire is a way to a server that can be cut, or go silent: what was sent is on its way for ever, though the connection stands.
type wire struct {
	addr   string
	silent atomic.Bool
	mu     sync.Mutex
	conns  []net.Conn
}

func newWire(t *testing.T, server string) *wire {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", server)
			if err != nil {
				t.Error(err)
				_ = from.Close()
				return
			}
			w.mu.Lock()
			w.conns = append(w.conns, from, to)
			w.mu.Unlock()
			running.Go(func() { w.copy(to, from) })
			running.Go(func() { w.copy(from, to) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.cut()
		running.Wait()
	})
	return w
}

func (w *wire) copy(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 4<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !w.silent.Load() {
			_, _ = to.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

func (w *wire) silence() { w.silent.Store(true) }
func (w *wire) heal()    { w.silent.Store(false) }

// What a read costs whose row is in memory, and one that asks Redis.
func BenchmarkNear(b *testing.B) {
	raw := storetest.RedisURL(b)
	n := openNear(b, raw)
	value := make([]byte, 100)
	binary.LittleEndian.PutUint64(value, 1)
	if _, err := n.Write(b.Context(), []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: 1}, Value: value}}); err != nil {
		b.Fatal(err)
	}
	rows := make([]store.OnlineRow, 0, 1)
	b.Run("memory", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := n.ReadNear(b.Context(), []string{"k"}, rows); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Redis", func(b *testing.B) {
		for b.Loop() {
			if _, err := n.Read(b.Context(), []string{"k"}, rows); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package redisstore_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func TestKV(t *testing.T) {
	storetest.KV(t, func(t *testing.T) store.KV { return openKV(t, storetest.RedisURL(t)) })
	storetest.SharedKV(t, func(t *testing.T) (a, b store.KV) {
		raw := storetest.RedisURL(t)
		return openKV(t, raw), openKV(t, raw)
	})
}

func openKV(t testing.TB, raw string) store.KV {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	k, err := redisstore.OpenKV(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// A prefix is taken as it is, and nothing outside of it is seen.
func TestPrefix(t *testing.T) {
	raw := storetest.RedisURL(t)
	outer := openKV(t, raw)
	star := openKV(t, raw+url.QueryEscape("*[a-z]?\\"))
	for name, k := range map[string]store.KV{"outer": outer, "star": star} {
		if _, err := k.Put(t.Context(), name, []byte(name), 0, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	for i, err := range star.Scan(t.Context(), "") {
		if err != nil || i.Key != "star" {
			t.Errorf("got %q, %v, want star only", i.Key, err)
		}
	}
}

func TestOpenRefusesOtherURLs(t *testing.T) {
	for _, raw := range []string{"redis://h:1/not-a-number", "redis://h:1/?colour=red", "http://h:1"} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := redisstore.OpenKV(t.Context(), u); !fault.Is(err, fault.Invalid) {
			t.Errorf("OpenKV(%q): got %v, want invalid", raw, err)
		}
	}
}

// With no server there, opening is quick and calls fail soon and clearly.
func TestRedisAway(t *testing.T) {
	l := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	k := openKV(t, "redis://"+l.Addr().String())
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("opening took %v", took)
	}
	start = time.Now()
	_, err := k.Get(t.Context(), "k")
	if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took > 3*time.Second {
		t.Errorf("Get: got %v after %v, want unavailable soon", err, took)
	}
	for range 2 * 10 { // a client may try less hard after so many
		_, err = k.Put(t.Context(), "k", nil, 0, store.IfAbsent())
		if !fault.Is(err, fault.Unavailable) {
			t.Fatalf("Put: got %v, want unavailable", err)
		}
	}
}

// A server that says nothing holds nobody up beyond the caller's deadline.
func TestRedisSilent(t *testing.T) {
	l := listen(t)
	defer l.Close()
	k := openKV(t, "redis://"+l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := k.Get(ctx, "k")
	if took := time.Since(start); !fault.Is(err, fault.Deadline) || took > time.Second {
		t.Errorf("got %v after %v, want deadline after 100ms", err, took)
	}
}

// When the connection breaks after the server did its work and before it said
// so, the client asks again, and must not take its own item for another's.
func TestAnswerLost(t *testing.T) {
	raw := storetest.RedisURL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	direct := openKV(t, raw)
	proxy, cut := storetest.Cutting(t, u.Host)
	u.Host = proxy
	k := openKV(t, u.String())
	if _, err := k.Get(t.Context(), "k"); !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}

	cut()
	first, err := k.Put(t.Context(), "k", []byte("1"), 0, store.IfAbsent())
	if err != nil {
		t.Fatalf("Put if-absent: %v", err)
	}
	cut()
	second, err := k.Put(t.Context(), "k", []byte("2"), 0, store.IfVersion(first))
	if err != nil {
		t.Fatalf("Put if-version: %v", err)
	}
	if got, err := direct.Get(t.Context(), "k"); err != nil || got.Version != second || string(got.Value) != "2" {
		t.Errorf("got %q in version %q, %v, want 2 in %q", got.Value, got.Version, err, second)
	}
	cut()
	if err := k.Delete(t.Context(), "k", store.IfVersion(second)); err != nil && !fault.Is(err, fault.Unavailable) {
		t.Errorf("Delete: got %v, want no error or unavailable", err)
	}
}

func listen(t *testing.T) net.Listener {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func BenchmarkGet(b *testing.B) {
	k := openKV(b, storetest.RedisURL(b))
	if _, err := k.Put(b.Context(), "k", []byte(strings.Repeat("v", 500)), 0, store.Condition{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := k.Get(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	k := openKV(b, storetest.RedisURL(b))
	value := []byte(strings.Repeat("v", 500))
	for name, c := range map[string]store.Condition{"always": {}, "absent": store.IfAbsent()} {
		b.Run(name, func(b *testing.B) {
			for n := 0; b.Loop(); n++ {
				if _, err := k.Put(b.Context(), fmt.Sprintf("%s/%d/%d", name, b.N, n), value, time.Minute, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

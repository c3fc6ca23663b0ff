package redisstore_test

import (
	"fmt"
	"net/url"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func openOnline(t testing.TB, raw string) store.Online {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	o, err := redisstore.OpenOnline(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// bare is a client of the same server, and what keys there begin with.
func bare(t testing.TB, raw string) (c *redis.Client, prefix string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	prefix = u.Query().Get("prefix")
	u.RawQuery = ""
	o, err := redis.ParseURL(u.String())
	if err != nil {
		t.Fatal(err)
	}
	c = redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c, prefix
}

func TestOnline(t *testing.T) {
	storetest.Online(t, func(t *testing.T) store.Online { return openOnline(t, storetest.RedisURL(t)) })
	storetest.SharedOnline(t, func(t *testing.T) (a, b store.Online) {
		raw := storetest.RedisURL(t)
		return openOnline(t, raw), openOnline(t, raw)
	})
}

// What is no row of ours is told, and not taken for one.
func TestOnlineRefusesForeignValues(t *testing.T) {
	raw := storetest.RedisURL(t)
	o := openOnline(t, raw)
	client, prefix := bare(t, raw)
	if err := client.Set(t.Context(), prefix+"short", "tiny", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Read(t.Context(), []string{"short"}, nil); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want Internal", err)
	}
}

// An attempt whose answer was lost is repeated by the client, and was successful.
func TestOnlineReplaceKnowsItsOwn(t *testing.T) {
	o := openOnline(t, storetest.RedisURL(t))
	row := []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: 5}, Value: []byte("v")}}
	for range 2 {
		stored, err := o.Replace(t.Context(), row, make([]store.Stamp, 1))
		if err != nil || !stored[0] {
			t.Errorf("got %v, %v, want it stored", stored, err)
		}
	}
	row[0].Value = []byte("w")
	if stored, err := o.Replace(t.Context(), row, make([]store.Stamp, 1)); err != nil || stored[0] {
		t.Errorf("got %v, %v for another value, want it refused", stored, err)
	}
}

func TestOnlineIsUnavailableWithoutItsServer(t *testing.T) {
	o := openOnline(t, "redis://127.0.0.1:1")
	if _, err := o.Read(t.Context(), []string{"k"}, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("read: got %v, want Unavailable", err)
	}
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: 1}}}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("write: got %v, want Unavailable", err)
	}
}

func BenchmarkOnline(b *testing.B) { storetest.BenchOnline(b, openOnline(b, storetest.RedisURL(b))) }

// BenchmarkBareMGet is the limit of a read.
func BenchmarkBareMGet(b *testing.B) {
	raw := storetest.RedisURL(b)
	client, prefix := bare(b, raw)
	keys := make([]string, 50)
	for i := range keys {
		keys[i] = prefix + strconv.Itoa(i)
		if err := client.Set(b.Context(), keys[i], make([]byte, 106), 0).Err(); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprint("read ", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.MGet(b.Context(), keys[:n]...).Result(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

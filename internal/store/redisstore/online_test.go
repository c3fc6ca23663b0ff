package redisstore_test

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
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

// What is no row of ours is told, neither taken for one nor written over, and
// the rest of its batch is put.
func TestOnlineRefusesForeignValues(t *testing.T) {
	raw := storetest.RedisURL(t)
	o := openOnline(t, raw)
	client, prefix := bare(t, raw)
	text := "a text that is longer than the head of a row"
	for key, value := range map[string]string{"short": "tiny", "long": text, "no stamp": string(make([]byte, 30))} {
		if err := client.Set(t.Context(), prefix+key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.HSet(t.Context(), prefix+"hash", "field", "value").Err(); err != nil {
		t.Fatal(err)
	}
	for i, key := range []string{"short", "long", "hash"} {
		beside := "beside " + key
		rows := []store.OnlineRow{{Key: key, Stamp: store.Stamp{Event: 1}}, {Key: beside, Stamp: store.Stamp{Event: 1}}}
		if _, err := o.Write(t.Context(), rows); !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), strconv.Quote(key)) {
			t.Errorf("write over %s: got %v, want Internal that names it", key, err)
		}
		if got, err := o.Read(t.Context(), []string{beside}, nil); err != nil || got[0].Stamp != rows[1].Stamp {
			t.Errorf("beside %s: got %v, %v, want it put", key, got, err)
		}
		stored, err := o.Replace(t.Context(), rows[:1], make([]store.Stamp, 1))
		if i == 1 { // it has a stamp, if a strange one, so it is just not the one that was asked for
			if err != nil || stored[0] {
				t.Errorf("replace of %s: got %v, %v, want it refused", key, stored, err)
			}
		} else if !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), strconv.Quote(key)) {
			t.Errorf("replace of %s: got %v, want Internal that names it", key, err)
		}
	}
	for _, key := range []string{"short", "long", "no stamp"} {
		kept := make([]store.OnlineRow, 1)
		got, err := o.Read(t.Context(), []string{"none", key}, kept)
		if !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), strconv.Quote(key)) || len(got) != 1 {
			t.Errorf("read of %s: got %d rows, %v, want dst and Internal that names it", key, len(got), err)
		}
	}
	if got, err := client.Get(t.Context(), prefix+"long").Result(); err != nil || got != text {
		t.Errorf("got %q, %v, want it as it was", got, err)
	}
}

// When the connection breaks after Redis did its work and before it said so, the
// client asks again: what it put itself counts as put, what a rival put in equal
// bytes does not.
func TestOnlineAnswerLost(t *testing.T) {
	raw := storetest.RedisURL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	rival := openOnline(t, raw)
	proxy, cut := storetest.Cutting(t, u.Host)
	u.Host = proxy
	o := openOnline(t, u.String())
	row := func(event int64) []store.OnlineRow {
		return []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: event}, Value: []byte("v")}}
	}
	if _, err := o.Write(t.Context(), row(1)); err != nil { // so that there is a connection, and Redis knows the script
		t.Fatal(err)
	}
	if _, err := o.Replace(t.Context(), row(2), []store.Stamp{{Event: 1}}); err != nil {
		t.Fatal(err)
	}
	cut()
	if stored, err := o.Write(t.Context(), row(3)); err != nil || !stored[0] {
		t.Errorf("write: got %v, %v, want it put", stored, err)
	}
	cut()
	if stored, err := o.Replace(t.Context(), row(4), []store.Stamp{{Event: 3}}); err != nil || !stored[0] {
		t.Errorf("replace: got %v, %v, want it put", stored, err)
	}
	cut()
	if stored, err := rival.Replace(t.Context(), row(4), []store.Stamp{{Event: 3}}); err != nil || stored[0] {
		t.Errorf("replace by an equal rival: got %v, %v, want it refused", stored, err)
	}
	if got, err := o.Read(t.Context(), []string{"k"}, nil); err != nil || got[0].Stamp.Event != 4 {
		t.Errorf("read: got %v, %v, want the fourth", got, err)
	}
}

// Redis forgets its scripts when it starts anew, and is told them again.
func TestOnlineScriptsForgotten(t *testing.T) {
	raw := storetest.RedisURL(t)
	o := openOnline(t, raw)
	client, _ := bare(t, raw)
	for event := range int64(2) {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		row := []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: event + 1}}}
		if stored, err := o.Write(t.Context(), row); err != nil || !stored[0] {
			t.Errorf("got %v, %v, want it put", stored, err)
		}
	}
}

// Big rows go in several commands, none of them bigger than it must be.
func TestOnlineBigRows(t *testing.T) {
	o := openOnline(t, storetest.RedisURL(t))
	rows := make([]store.OnlineRow, 12)
	keys := make([]string, len(rows))
	for i := range rows {
		keys[i] = strconv.Itoa(i)
		rows[i] = store.OnlineRow{Key: keys[i], Stamp: store.Stamp{Event: 1}, Value: make([]byte, i%3*(800<<10)+i)}
	}
	stored, err := o.Write(t.Context(), rows)
	if err != nil || len(stored) != len(rows) || slices.Contains(stored, false) {
		t.Fatalf("got %v, %v, want all put", stored, err)
	}
	got, err := o.Read(t.Context(), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if len(got[i].Value) != len(rows[i].Value) {
			t.Errorf("row %d: got %d bytes, want %d", i, len(got[i].Value), len(rows[i].Value))
		}
	}
}

// Both versions of Redis's protocol say in their own way that a row is missing.
func TestOnlineProtocol3(t *testing.T) {
	raw := storetest.RedisURL(t)
	o := openOnline(t, raw+"&protocol=3")
	if _, err := o.Write(t.Context(), []store.OnlineRow{{Key: "k", Stamp: store.Stamp{Event: 1}, Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	got, err := o.Read(t.Context(), []string{"none", "k"}, nil)
	if err != nil || got[0].Value != nil || string(got[1].Value) != "v" {
		t.Errorf("got %v, %v, want nothing and v", got, err)
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

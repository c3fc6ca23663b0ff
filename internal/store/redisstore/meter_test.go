package redisstore_test

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func openMeter(t testing.TB, raw string) store.Meter {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	m, err := redisstore.OpenMeter(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMeter(t *testing.T) {
	storetest.Meter(t, func(t *testing.T) store.Meter { return openMeter(t, storetest.RedisURL(t)) })
}

func TestMetersShareWhatTheyCount(t *testing.T) {
	raw := storetest.RedisURL(t)
	a, b := openMeter(t, raw), openMeter(t, raw)
	l := []store.Limit{{Key: "k", Every: time.Hour, Burst: 4}}
	granted := 0
	for range 5 {
		for _, m := range []store.Meter{a, b} {
			v, err := m.Take(t.Context(), time.Now(), l, 0)
			if err != nil {
				t.Fatal(err)
			}
			if v.Why == store.Granted {
				granted++
			}
		}
	}
	if granted != 4 {
		t.Errorf("two gateways granted %d, want 4", granted)
	}
}

func TestAMeterThatIsAway(t *testing.T) {
	m := openMeter(t, "redis://127.0.0.1:1")
	if _, err := m.Take(t.Context(), time.Now(), []store.Limit{{Key: "k", Day: store.Amount{Requests: 1}}}, 0); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
}

// TestAnAnswerThatIsLostIsNotTakenTwice: nobody knows whether the request was taken, and it is not tried again.
func TestAnAnswerThatIsLostIsNotTakenTwice(t *testing.T) {
	u, err := url.Parse(storetest.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	straight := openMeter(t, u.String())
	proxy, cut := storetest.Cutting(t, u.Host)
	u.Host = proxy
	m := openMeter(t, u.String())
	l := []store.Limit{{Key: "k", Every: time.Hour, Burst: 10}}
	for range 2 { // the first loads the script
		if _, err := m.Take(t.Context(), time.Now(), l, 0); err != nil {
			t.Fatal(err)
		}
	}
	cut()
	if _, err := m.Take(t.Context(), time.Now(), l, 0); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want that Redis is unavailable", err)
	}
	v, err := straight.Take(t.Context(), time.Now(), l, 0)
	if err != nil || v.Used[0].Left != 6 {
		t.Errorf("got %+v %v, want that four were taken in all", v, err)
	}
}

// TestAMillionLimitsFit measures what a key with a rate and quotas takes in Redis.
func TestAMillionLimitsFit(t *testing.T) {
	raw := storetest.RedisURL(t)
	m := openMeter(t, raw)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = ""
	o, err := redis.ParseURL(u.String())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o)
	defer client.Close()
	memory := func() int {
		info, err := client.Info(t.Context(), "memory").Result()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(regexp.MustCompile(`used_memory:(\d+)`).FindStringSubmatch(info)[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const keys = 20_000
	before := memory()
	for i := 0; i < keys; i += 4 {
		var limits []store.Limit
		for j := range 4 {
			limits = append(limits, store.Limit{Key: fmt.Sprintf("key:%012d", i+j), Every: time.Hour, Burst: 100, Day: store.Amount{Requests: 1e6, Rows: 1e6}, Month: store.Amount{Requests: 1e7, Rows: 1e7}})
		}
		if _, err := m.Take(t.Context(), time.Now(), limits, 0); err != nil {
			t.Fatal(err)
		}
	}
	each := float64(memory()-before) / keys
	t.Logf("%.0f bytes a key", each)
	if each*1e6 > 500<<20 {
		t.Errorf("a million keys would take %.0f MiB, want at most 500", each*1e6/(1<<20))
	}
}

func BenchmarkMeter(b *testing.B) {
	m := openMeter(b, storetest.RedisURL(b))
	day := store.Amount{Requests: 1 << 40, Rows: 1 << 40}
	l := []store.Limit{{Key: "key:x", Every: time.Microsecond, Burst: 1e6, Day: day, Month: day}, {Key: "tenant:y", Every: time.Microsecond, Burst: 1e6}, {Key: "model:z", Every: time.Microsecond, Burst: 1e6}}
	for b.Loop() {
		if v, err := m.Take(b.Context(), time.Now(), l, 0); err != nil || v.Why != store.Granted {
			b.Fatal(v, err)
		}
	}
}

package limit

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// A busy caller waits for the store once in a while only, and is told the same as one who always does.
func TestBusyCallersAreGrantedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &moody{Meter: memstore.NewMeter()}
		l, _ := limiter(t, Config{}, nil, shared)
		who := caller("a", "", auth.Limits{Rate: 1e-3, Burst: 100_000, Daily: auth.Quota{Requests: 50_000}})
		for n := range 1000 {
			refused, h := taken(t, l, who, "m")
			if want := `"caller-day";r=` + strconv.Itoa(50_000-1-n); refused != "" || !strings.HasPrefix(h.Get("RateLimit"), want) {
				t.Fatalf("request %d: got %q, %q, want %q", n, refused, h.Get("RateLimit"), want)
			}
			time.Sleep(time.Millisecond)
		}
		if got := shared.tried.Load(); got > 30 {
			t.Errorf("the store was asked %d times for 1000 requests", got)
		}
		// What is left of the last one goes back.
		time.Sleep(aheadFor + 2*owedEvery)
		if v, err := shared.Meter.Take(t.Context(), time.Now(), []store.Limit{{Key: "caller:key:a", Day: store.Amount{Requests: 50_000}}}, 0); err != nil || v.Used[0].Day.Requests != 1001 {
			t.Errorf("got %+v, %v, want that 1001 were used", v, err)
		}
		// Who asks now and then takes nothing ahead.
		before := shared.tried.Load()
		for range 10 {
			time.Sleep(2 * aheadFor)
			taken(t, l, who, "m")
		}
		if got := shared.tried.Load() - before; got != 10 {
			t.Errorf("the store was asked %d times for 10 requests", got)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Whoever takes ahead, and however much, no more is granted than there is, and in the end all of it.
func TestNoMoreIsGrantedAhead(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits auth.Limits
		most   int64
		all    bool // what is not needed is given back
	}{
		{"quota", auth.Limits{Daily: auth.Quota{Requests: 5000}}, 5000, true},
		{"burst", auth.Limits{Rate: 1e-6, Burst: 5000}, 5000, false},
		{"both", auth.Limits{Rate: 1e-6, Burst: 6000, Monthly: auth.Quota{Requests: 5000}}, 5000, true},
		{"rows", auth.Limits{Daily: auth.Quota{Requests: 500, Rows: 1000}}, 500, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := &moody{Meter: memstore.NewMeter()}
				who := caller("a", "", c.limits)
				var granted atomic.Int64
				var gateways []*Limiter
				for range 3 {
					l, _ := limiter(t, Config{}, nil, shared)
					gateways = append(gateways, l)
				}
				for range 20 { // until nothing is left, also of what comes back
					var all sync.WaitGroup
					for _, l := range gateways {
						for range 4 {
							all.Go(func() {
								for refused := 0; refused < 3; {
									if _, err := l.Take(t.Context(), who, "m"); err == nil {
										granted.Add(1)
									} else {
										refused++
									}
									time.Sleep(rand.N(3 * time.Millisecond))
								}
							})
						}
					}
					all.Wait()
					time.Sleep(time.Second)
				}
				got, least := granted.Load(), c.most-int64(len(gateways))*2*aheadMost
				if c.all {
					least = c.most
				}
				if got > c.most || got < least {
					t.Errorf("%d were granted, want %d to %d", got, least, c.most)
				}
				if c.name == "rows" && shared.tried.Load() < got {
					t.Errorf("the store was asked %d times for %d requests whose rows nobody knows", shared.tried.Load(), got)
				}
				for _, l := range gateways {
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

// Limits that change are in force at once.
func TestChangedLimitsAreNotTakenAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &moody{Meter: memstore.NewMeter()}
		l, _ := limiter(t, Config{}, nil, shared)
		for range 200 {
			taken(t, l, caller("a", "", auth.Limits{Daily: auth.Quota{Requests: 50_000}}), "m")
		}
		for range 3 {
			if refused, _ := taken(t, l, caller("a", "", auth.Limits{Daily: auth.Quota{Requests: 100}}), "m"); refused == "" {
				t.Error("a request was granted that the quota as it is now does not allow")
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

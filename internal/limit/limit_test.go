package limit

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/redisstore"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// moody is a meter that can be away.
type moody struct {
	store.Meter
	away  atomic.Bool
	tried atomic.Int64
}

func (m *moody) Take(ctx context.Context, now time.Time, l []store.Limit, ahead int) (store.Verdict, error) {
	m.tried.Add(1)
	if m.away.Load() {
		return store.Verdict{}, fault.New(fault.Unavailable, "away")
	}
	return m.Meter.Take(ctx, now, l, ahead)
}

func (m *moody) Add(ctx context.Context, now time.Time, c []store.Charge) error {
	if m.away.Load() {
		return fault.New(fault.Unavailable, "away")
	}
	return m.Meter.Add(ctx, now, c)
}

func own() store.Meter { return memstore.NewMeter() }

func limiter(t testing.TB, c Config, policy *Policy, shared store.Meter) (*Limiter, *telemetry.Telemetry) {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), &telemetry.Config{Output: io.Discard}, "test")
	if err != nil {
		t.Fatal(err)
	}
	blob, err := memstore.OpenBlob(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	policies := NewPolicies(blob)
	if policy != nil {
		if err := policies.Write(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	c.Instances = max(1, c.Instances)
	l, err := New(&c, policies, shared, own, tel)
	if err != nil {
		t.Fatal(err)
	}
	return l, tel
}

func caller(name, tenant string, l auth.Limits) *auth.Principal {
	return &auth.Principal{ID: "key:" + name, Name: name, Tenant: tenant, Limits: l}
}

// taken takes a request and gives the refusal, and the header of the answer.
func taken(t testing.TB, l *Limiter, who *auth.Principal, model string) (string, http.Header) {
	t.Helper()
	one, err := l.Take(t.Context(), who, model)
	h := http.Header{}
	one.Tell(h)
	if err == nil {
		return "", h
	}
	if !fault.Is(err, fault.Overloaded) {
		t.Fatal(err)
	}
	return fault.Message(err) + "; again in " + fault.RetryHeader(err), h
}

func TestWhoseLimitsRefuse(t *testing.T) {
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	slow := auth.Limits{Rate: 0.001, Burst: 1}
	for _, test := range []struct {
		name   string
		policy *Policy
		who    *auth.Principal
		model  string
		refuse string // of the second request
		told   string // of the first, then of the second
	}{
		{"nobody's", nil, caller("a", "", auth.Limits{}), "m", "", ""},
		{
			"the caller's own", &Policy{Callers: &auth.Limits{Rate: 1000}}, caller("a", "", slow), "m", `the caller "a" is limited to 0.001 requests a second; again in 1000`,
			`"caller";q=1;w=1000 "caller";r=0;t=1000, "caller";q=1;w=1000 "caller";r=0;t=1000`,
		},
		{"of callers that have none", &Policy{Callers: &slow}, caller("a", "", auth.Limits{}), "m", `the caller "a" is limited to 0.001 requests a second; again in 1000`, ""},
		{
			"a day's", nil, caller("a", "", auth.Limits{Daily: auth.Quota{Requests: 1, Rows: 9}}), "m", `the caller "a" has used up its quota of 1 requests or 9 rows a day; again in 43200`,
			`"caller-day";q=1;w=86400, "caller-day-rows";q=9;w=86400;qu="rows" "caller-day";r=0;t=43200, "caller-day";q=1;w=86400, "caller-day-rows";q=9;w=86400;qu="rows" "caller-day";r=0;t=43200`,
		},
		{"a month's", nil, caller("a", "", auth.Limits{Monthly: auth.Quota{Requests: 1}}), "m", `the caller "a" has used up its quota of 1 requests a month; again in 43200`, ""},
		{"the tenant's", &Policy{Tenants: map[string]auth.Limits{"acme": slow}}, caller("a", "acme", auth.Limits{Rate: 10}), "m", `the tenant "acme" is limited to 0.001 requests a second; again in 1000`, ""},
		{"each tenant's", &Policy{Tenants: map[string]auth.Limits{"*": slow, "a": {Rate: 1000}}}, caller("a", "acme", auth.Limits{}), "", `the tenant "acme" is limited to 0.001 requests a second; again in 1000`, ""},
		{"another tenant's", &Policy{Tenants: map[string]auth.Limits{"else": slow}}, caller("a", "acme", auth.Limits{}), "", "", ""},
		{"the model's", &Policy{Models: map[string]auth.Limits{"m*": {Rate: 1000}, "m-*": slow}}, nil, "m-1", `the model "m-1" is limited to 0.001 requests a second; again in 1000`, ""},
		{"another model's", &Policy{Models: map[string]auth.Limits{"m-*": slow}}, nil, "m", "", ""},
		{"no model", &Policy{Models: map[string]auth.Limits{"*": slow}}, nil, "", "", ""},
	} {
		l, _ := limiter(t, Config{}, test.policy, memstore.NewMeter())
		l.now = func() time.Time { return noon }
		first, h1 := taken(t, l, test.who, test.model)
		second, h2 := taken(t, l, test.who, test.model)
		if first != "" || second != test.refuse {
			t.Errorf("%s: got %q and %q, want %q at the second", test.name, first, second, test.refuse)
		}
		told := strings.Trim(h1.Get("RateLimit-Policy")+" "+h1.Get("RateLimit")+", "+h2.Get("RateLimit-Policy")+" "+h2.Get("RateLimit"), " ,")
		if test.told != "" && told != test.told {
			t.Errorf("%s: told\n%s, want\n%s", test.name, told, test.told)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRowsAreChargedBehindTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := memstore.NewMeter()
		l, _ := limiter(t, Config{}, &Policy{Tenants: map[string]auth.Limits{"acme": {Monthly: auth.Quota{Rows: 150}}}}, shared)
		who := caller("a", "acme", auth.Limits{Daily: auth.Quota{Rows: 100}})
		for i, rows := range []int64{60, 0, 40} {
			one, err := l.Take(t.Context(), who, "m")
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			one.Rows(rows)
			time.Sleep(2 * owedEvery)
		}
		if got, _ := taken(t, l, who, "m"); !strings.HasPrefix(got, `the caller "a" has used up its quota of 100 rows a day`) {
			t.Errorf("got %q", got)
		}
		one, err := l.Take(t.Context(), caller("b", "acme", auth.Limits{}), "m")
		if err != nil {
			t.Fatal(err)
		}
		one.Rows(50)
		if err := l.Close(); err != nil { // charges what is owed
			t.Fatal(err)
		}
		v, err := shared.Take(t.Context(), time.Now(), []store.Limit{{Key: "tenant:acme", Month: store.Amount{Rows: 150}}}, 0)
		if err != nil || v.Why != store.MonthUsed || v.Used[0].Month.Rows != 150 {
			t.Errorf("got %+v %v", v, err)
		}
		synctest.Wait()
	})
}

// TestWithoutTheSharedMeter: of n gateways that each grant an nth, all grant no more than the limit says.
func TestWithoutTheSharedMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gateways = 4
		shared := &moody{Meter: memstore.NewMeter()}
		who := caller("a", "", auth.Limits{Rate: 100, Burst: 100, Daily: auth.Quota{Requests: 1000}})
		var all []*Limiter
		for range gateways {
			l, _ := limiter(t, Config{Instances: gateways}, nil, shared)
			all = append(all, l)
		}
		for i := range 100 { // of the quota, 900 are left
			if got, _ := taken(t, all[i%gateways], who, ""); got != "" {
				t.Fatal(got)
			}
			time.Sleep(20 * time.Millisecond)
		}
		shared.away.Store(true)
		granted, seconds := 0, 0
		for range 3 {
			for range 200 {
				for _, l := range all {
					got, h := taken(t, l, who, "")
					if h.Get("Pilotlight-Limits") != "local" {
						t.Fatal("no header says that limits are local")
					}
					if got == "" {
						granted++
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			seconds++
		}
		if most, least := 100+100*seconds+gateways, 100*seconds; granted > most || granted < least {
			t.Errorf("%d gateways granted %d in %d s, want %d to %d", gateways, granted, seconds, least, most)
		}
		for range 10_000 { // until the quota is used up
			for _, l := range all {
				if got, _ := taken(t, l, who, ""); got == "" {
					granted++
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		if granted > 900+gateways || granted < 850 {
			t.Errorf("%d gateways granted %d of the quota, want the 900 that were left", gateways, granted)
		}
		if n := shared.tried.Load(); n > 100+gateways*110 {
			t.Errorf("a meter that is away was tried %d times in 103 s", n)
		}
		shared.away.Store(false)
		time.Sleep(tryAgain)
		for _, l := range all { // who finds that it is back, and tells it what was used
			taken(t, l, who, "")
		}
		time.Sleep(2 * owedEvery)
		got, h := taken(t, all[0], who, "")
		if !strings.HasPrefix(got, `the caller "a" has used up its quota of 1000 requests a day`) || h.Get("Pilotlight-Limits") != "" {
			t.Errorf("got %q, %q: want that what was used meanwhile counts", got, h)
		}
		for _, l := range all {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
	})
}

func TestItIsVisibleThatLimitsAreLocal(t *testing.T) {
	shared := &moody{Meter: memstore.NewMeter()}
	l, tel := limiter(t, Config{}, nil, shared)
	metrics := func() string {
		w := httptest.NewRecorder()
		tel.Metrics().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		return w.Body.String()
	}
	who := caller("a", "", auth.Limits{Rate: 0.01, Burst: 2})
	taken(t, l, who, "")
	if !strings.Contains(metrics(), "pilotlight_limit_local 0") {
		t.Error("the metric says that it is local, or is missing")
	}
	shared.away.Store(true)
	for range 3 {
		taken(t, l, who, "")
	}
	got := metrics()
	for _, want := range []string{"pilotlight_limit_local 1", `pilotlight_limit_decisions_total{outcome="granted"} 3`, `pilotlight_limit_decisions_total{outcome="caller"} 1`} {
		if !strings.Contains(got, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestGatewaysShareLimitsByRedis(t *testing.T) {
	u, err := url.Parse(storetest.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	var all []*Limiter
	for range 3 {
		m, err := redisstore.OpenMeter(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		l, _ := limiter(t, Config{}, &Policy{Models: map[string]auth.Limits{"m": {Rate: 0.001, Burst: 30}}}, m)
		all = append(all, l)
	}
	granted := 0
	for i := range 90 {
		if got, h := taken(t, all[i%3], caller(fmt.Sprint("c", i), "", auth.Limits{Daily: auth.Quota{Requests: 5}}), "m"); got == "" {
			granted++
			if want := fmt.Sprintf(`"model";r=%d;t=%d`, 30-granted, granted*1000); granted > 20 && h.Get("RateLimit") != want {
				t.Errorf("got %s, want %s", h.Get("RateLimit"), want)
			}
		}
	}
	if granted != 30 {
		t.Errorf("three gateways granted %d, want 30", granted)
	}
	for _, l := range all {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPolicyByHTTP(t *testing.T) {
	l, _ := limiter(t, Config{}, nil, memstore.NewMeter())
	mux := http.NewServeMux()
	l.policies.Register(mux)
	say := func(method, body string, status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/admin/v1/limits", strings.NewReader(body)))
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s: got %d %s, want %d %s", method, body, w.Code, w.Body, status, want)
		}
	}
	say("GET", "", 200, "{}")
	say("PUT", `{"callers":{"rate":10},"tenants":{"acme":{"monthly":{"rows":7}}},"models":{"big-*":{"rate":1,"burst":5}}}`, 200, "")
	say("GET", "", 200, `{"callers":{"rate":10},"tenants":{"acme":{"monthly":{"rows":7}}},"models":{"big-*":{"rate":1,"burst":5}}}`)
	if got := l.policies.Current(t.Context()).Tenants["acme"].Monthly.Rows; got != 7 {
		t.Errorf("got %d", got)
	}
	for body, want := range map[string]string{
		`{"callers":{"rate":-1}}`:       "callers: rate is -1",
		`{"models":{"[a":{"rate":1}}}`:  `models: \"[a\" is no name or pattern`,
		`{"models":{"":{"rate":1}}}`:    `is no name or pattern`,
		`{"models":{"a/b":{"rate":1}}}`: `is no name or pattern`,
		`{"tenant":{}}`:                 "unknown field",
		`{`:                             "not the JSON",
		``:                              "there are no limits in the body",
		`null`:                          "there are no limits in the body",
	} {
		say("PUT", body, 400, want)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkTake(b *testing.B) {
	l, _ := limiter(b, Config{}, &Policy{Models: map[string]auth.Limits{"m*": {Rate: 1e6, Burst: 1e6}}}, memstore.NewMeter())
	who := caller("a", "acme", auth.Limits{Rate: 1e6, Burst: 1e6, Daily: auth.Quota{Requests: math.MaxInt32}})
	for b.Loop() {
		one, err := l.Take(b.Context(), who, "m")
		if err != nil {
			b.Fatal(err)
		}
		one.Tell(http.Header{})
	}
}

// Package limit keeps callers, tenants and models within how much may be asked for.
//
// What is taken lies in a store.Meter that all gateways share, and is taken in one round trip for all limits
// of a request, or of several of a busy caller's. When it does not answer, each gateway goes on with a meter of its own, which begins
// where the shared one was last seen and grants an nth part of what is left, n being LIMIT_INSTANCES. If so many gateways run, all of them
// together then grant no more than the limits say, but for one request each; if they are m, at most m/n times that. What was used meanwhile is told the
// shared meter once it is back. Answers say so in the header Pilotlight-Limits, and a metric does.
package limit

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pilotlight-ml/pilotlight/internal/auth"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Config says what happens when limits can't be looked up.
type Config struct {
	Timeout   time.Duration `env:"LIMIT_TIMEOUT" default:"50ms" help:"How long the store of limits may take to answer; then a gateway counts for itself."`
	Instances int           `env:"LIMIT_INSTANCES" default:"1" help:"Gateways among which limits are divided while their store is away."`
	Names     bool          `env:"METRICS_TENANTS" default:"false" help:"Tell by the names of tenants how much of their quotas is used, in /metrics, which anybody may read."`
}

// Validate refuses what can't work.
func (c *Config) Validate() error {
	if c.Timeout <= 0 || c.Instances < 1 {
		return fault.New(fault.Invalid, "LIMIT_TIMEOUT and LIMIT_INSTANCES must be positive")
	}
	return nil
}

const (
	tryAgain  = time.Second            // after which a shared meter that was away is tried again
	owedEvery = 200 * time.Millisecond // rows are charged in batches
	owedMost  = 10_000                 // who owes at the same time; those beyond are not charged
	seenMost  = 100_000
	chargeFor = 5 * time.Second
)

// Limiter takes requests from limits. It is safe for concurrent use.
type Limiter struct {
	policies *Policies
	shared   store.Meter
	makeOwn  func() store.Meter
	timeout  time.Duration
	share    int64
	names    bool // of tenants are told
	now      func() time.Time
	tel      *telemetry.Telemetry

	away  atomic.Int64 // when the shared meter was last found away, in ns; 0: it answers
	mu    sync.Mutex
	own   store.Meter // of this time of being away; nil: the shared one answers
	seen  *otter.Cache[string, use]
	owed  map[string]store.Amount
	ahead ahead
	timer *time.Timer
	flush sync.WaitGroup
	over  bool

	decisions metric.Int64Counter
	dropped   metric.Int64Counter
}

// New makes a limiter. Own gives an empty meter in memory, for when the shared one is away.
func New(c *Config, policies *Policies, shared store.Meter, own func() store.Meter, tel *telemetry.Telemetry) (*Limiter, error) {
	l := &Limiter{
		policies: policies, shared: shared, makeOwn: own, timeout: c.Timeout, share: int64(c.Instances), names: c.Names, now: time.Now, tel: tel,
		owed: map[string]store.Amount{}, ahead: ahead{all: map[who]*advance{}}, seen: otter.Must(&otter.Options[string, use]{MaximumSize: seenMost}), // the options are right
	}
	var err error
	if l.decisions, err = tel.Meter.Int64Counter("pilotlight.limit.decisions", metric.WithDescription("Requests by whether limits granted them: granted, or whose limit refused.")); err != nil {
		return nil, err
	}
	if l.dropped, err = tel.Meter.Int64Counter("pilotlight.limit.uncharged", metric.WithDescription("Charges that were given up, so that quotas allow more than they should.")); err != nil {
		return nil, err
	}
	_, err = tel.Meter.Int64ObservableGauge("pilotlight.limit.local", metric.WithDescription("1 while the store of limits is away and this gateway counts for itself."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			local := int64(0)
			if l.away.Load() != 0 {
				local = 1
			}
			o.Observe(local)
			return nil
		}))
	if err != nil {
		return nil, err
	}
	return l, l.measureUse(tel)
}

// Close charges what is owed.
func (l *Limiter) Close() error {
	l.ahead.close(l.giveBack)
	l.mu.Lock()
	l.over = true
	if l.timer != nil && l.timer.Stop() {
		l.flush.Done()
	}
	l.mu.Unlock()
	l.flush.Wait()
	l.charge()
	return l.policies.Close()
}

// OfModels tells whether any model has limits.
func (l *Limiter) OfModels(ctx context.Context) bool { return len(l.policies.Current(ctx).Models) > 0 }

// Taken is a request that limits granted or refused.
type Taken struct {
	limiter *Limiter
	bounds  []bound
	verdict store.Verdict
	local   bool
}

// Take takes a request of somebody (nil: nobody knows who) to a model ("": to none). Its error is Overloaded and says when to come
// again; Taken is there either way.
func (l *Limiter) Take(ctx context.Context, who *auth.Principal, model string) (*Taken, error) {
	t := &Taken{limiter: l, bounds: l.policies.Current(ctx).bounds(who, model)}
	if len(t.bounds) == 0 {
		return t, nil
	}
	limits := make([]store.Limit, len(t.bounds))
	for i := range t.bounds {
		limits[i] = t.bounds[i].limit
	}
	if err := l.take(ctx, t, limits); err != nil {
		return t, err
	}
	if t.verdict.Why == store.Granted {
		l.decisions.Add(ctx, 1, granted)
		return t, nil
	}
	b := &t.bounds[t.verdict.Refused]
	l.decisions.Add(ctx, 1, refusedBy[b.scope])
	return t, fault.Again(fault.New(fault.Overloaded, "%s", b.refusal(t.verdict.Why)), max(t.verdict.After, time.Millisecond))
}

var granted = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "granted")))

var refusedBy = map[string]metric.AddOption{
	"caller": metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "caller"))),
	"tenant": metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "tenant"))),
	"model":  metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "model"))),
}

// take asks the shared meter or, when that is away, the own one.
func (l *Limiter) take(ctx context.Context, t *Taken, limits []store.Limit) (err error) {
	now := l.now()
	verdict, granted, want := l.ahead.take(limits, now)
	if granted {
		t.verdict = verdict
		return nil
	}
	if away := l.away.Load(); away == 0 || now.UnixNano()-away >= int64(tryAgain) && l.away.CompareAndSwap(away, now.UnixNano()) {
		limited, cancel := context.WithTimeout(ctx, l.timeout)
		t.verdict, err = l.shared.Take(limited, now, limits, want)
		cancel()
		if err == nil {
			l.answered(now, limits, t.verdict)
			if t.verdict.Why == store.Granted {
				l.ahead.put(limits, &t.verdict, now, l.giveBack)
				t.verdict.Used = lessOf(t.verdict.Used, limits, t.verdict.Ahead)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.gone(ctx, now, err)
	}
	t.local = true
	l.mu.Lock()
	own := l.own
	l.mu.Unlock()
	if own == nil { // the shared one came back this moment
		own = l.makeOwn()
	}
	t.verdict, err = own.Take(ctx, now, l.shares(limits), 0)
	if err == nil && t.verdict.Why == store.Granted {
		for i := range limits {
			if limits[i].Day != (store.Amount{}) || limits[i].Month != (store.Amount{}) {
				l.owe(limits[i].Key, store.Amount{Requests: 1})
			}
		}
	}
	return err
}

// answered notes what the shared meter says, for when it is away.
func (l *Limiter) answered(now time.Time, limits []store.Limit, v store.Verdict) {
	if l.away.Load() != 0 {
		l.away.Store(0)
		l.mu.Lock()
		l.own = nil
		l.mu.Unlock()
		l.tel.Log.Info("the store of limits answers again")
	}
	for i := range limits {
		if limits[i].Day != (store.Amount{}) || limits[i].Month != (store.Amount{}) {
			l.seen.Set(limits[i].Key, use{v.Used[i], limits[i], now})
		}
	}
}

func (l *Limiter) gone(ctx context.Context, now time.Time, err error) {
	if l.away.Swap(now.UnixNano()) == 0 {
		l.mu.Lock()
		l.own = l.makeOwn()
		l.mu.Unlock()
		l.tel.Log.WarnContext(ctx, "the store of limits is away: this gateway counts for itself", "error", err)
	}
}

// giveBack tells the shared meter that requests which were taken ahead were not needed.
func (l *Limiter) giveBack(limits []store.Limit, n int) {
	for i := range limits {
		if limits[i].Day != (store.Amount{}) || limits[i].Month != (store.Amount{}) {
			l.owe(limits[i].Key, store.Amount{Requests: -int64(n)})
		}
	}
}

// shares gives this gateway's part of limits.
func (l *Limiter) shares(limits []store.Limit) []store.Limit {
	parts := make([]store.Limit, len(limits))
	for i, of := range limits {
		seen, _ := l.seen.GetIfPresent(of.Key)
		part := func(quota, used int64) int64 {
			if quota == 0 {
				return 0
			}
			return max(1, (quota-used)/l.share) // 0 would be any
		}
		parts[i] = store.Limit{
			Key: of.Key, Every: of.Every * time.Duration(l.share), Burst: max(1, of.Burst/int(l.share)),
			Day:   store.Amount{Requests: part(of.Day.Requests, seen.Day.Requests), Rows: part(of.Day.Rows, seen.Day.Rows)},
			Month: store.Amount{Requests: part(of.Month.Requests, seen.Month.Requests), Rows: part(of.Month.Rows, seen.Month.Rows)},
		}
	}
	return parts
}

// RowsHeader tells how many rows an answer was made for: in its header or, of a stream, in its trailer.
const RowsHeader = "Prediction-Rows"

// Rows charges rows that a prediction was made for, behind the answer. So many are under way at most as were asked for at the
// same time: by that much a quota of rows may be exceeded.
func (t *Taken) Rows(n int64) {
	if n <= 0 {
		return
	}
	for i := range t.bounds {
		b := &t.bounds[i]
		if b.limit.Day.Rows == 0 && b.limit.Month.Rows == 0 {
			continue
		}
		if t.local {
			t.limiter.mu.Lock()
			own := t.limiter.own
			t.limiter.mu.Unlock()
			if own != nil {
				_ = own.Add(context.Background(), t.limiter.now(), []store.Charge{{Key: b.limit.Key, Amount: store.Amount{Rows: n}}}) // memory always takes it
			}
		}
		t.limiter.owe(b.limit.Key, store.Amount{Rows: n})
	}
}

// owe has an amount be charged soon.
func (l *Limiter) owe(key string, a store.Amount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	had, ok := l.owed[key]
	if !ok && len(l.owed) >= owedMost {
		l.dropped.Add(context.Background(), 1)
		return
	}
	l.owed[key] = store.Amount{Requests: had.Requests + a.Requests, Rows: had.Rows + a.Rows}
	l.later()
}

// later has what is owed be charged; the caller holds mu.
func (l *Limiter) later() {
	if l.timer != nil || l.over || len(l.owed) == 0 {
		return
	}
	l.flush.Add(1)
	l.timer = time.AfterFunc(owedEvery, func() {
		defer l.flush.Done()
		l.charge()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.timer = nil
		l.later()
	})
}

// charge tells the shared meter what is owed; what it does not take stays owed.
func (l *Limiter) charge() {
	if l.away.Load() != 0 {
		return // Take finds out when it is back
	}
	l.mu.Lock()
	owed := l.owed
	l.owed = map[string]store.Amount{}
	l.mu.Unlock()
	charges := make([]store.Charge, 0, len(owed))
	for key, a := range owed {
		charges = append(charges, store.Charge{Key: key, Amount: a})
	}
	ctx, cancel := context.WithTimeout(context.Background(), chargeFor)
	defer cancel()
	for len(charges) > 0 {
		n := min(len(charges), 100) // Redis does nothing else meanwhile
		if err := l.shared.Add(ctx, l.now(), charges[:n]); err != nil {
			l.gone(ctx, l.now(), err)
			l.mu.Lock()
			for _, c := range charges {
				had := l.owed[c.Key]
				l.owed[c.Key] = store.Amount{Requests: had.Requests + c.Requests, Rows: had.Rows + c.Rows}
			}
			l.mu.Unlock()
			return
		}
		charges = charges[n:]
	}
}

// limitOf writes limits as meters take them.
func limitOf(key string, l *auth.Limits) store.Limit {
	m := store.Limit{
		Key: key, Day: store.Amount{Requests: l.Daily.Requests, Rows: l.Daily.Rows},
		Month: store.Amount{Requests: l.Monthly.Requests, Rows: l.Monthly.Rows},
	}
	if l.Rate > 0 {
		m.Every, m.Burst = max(time.Microsecond, time.Duration(float64(time.Second)/l.Rate)), l.Size()
	}
	return m
}

// refusal says why a request is refused.
func (b *bound) refusal(why store.Why) string {
	whose := "the " + b.scope + " " + strconv.Quote(b.name)
	span, q := "a day", b.limits.Daily
	switch why {
	case store.TooFast:
		return whose + " is limited to " + strconv.FormatFloat(b.limits.Rate, 'g', -1, 64) + " requests a second"
	case store.MonthUsed:
		span, q = "a month", b.limits.Monthly
	}
	var parts []string
	if q.Requests > 0 {
		parts = append(parts, strconv.FormatInt(q.Requests, 10)+" requests")
	}
	if q.Rows > 0 {
		parts = append(parts, strconv.FormatInt(q.Rows, 10)+" rows")
	}
	return whose + " has used up its quota of " + strings.Join(parts, " or ") + " " + span
}

// Tell writes the limits and what is left of them into an answer's header, as draft-ietf-httpapi-ratelimit-headers has it: all policies,
// and of what is left the least.
func (t *Taken) Tell(h http.Header) {
	if len(t.bounds) == 0 {
		return
	}
	if t.local {
		h["Pilotlight-Limits"] = localHeader
	}
	if len(t.verdict.Used) != len(t.bounds) {
		return
	}
	now := t.limiter.now()
	_, _, day, month := store.Days(now)
	policies, least, share := make([]byte, 0, 128), "", 2.0
	tell := func(name, suffix string, quota, used, window, reset int64, unit string) {
		if quota == 0 {
			return
		}
		if len(policies) > 0 {
			policies = append(policies, ", "...)
		}
		left := max(0, quota-used)
		policies = append(append(append(append(policies, '"'), name...), suffix...), `";q=`...)
		policies = strconv.AppendInt(policies, quota, 10)
		policies = strconv.AppendInt(append(policies, ";w="...), window, 10)
		if unit != "" {
			policies = append(append(append(policies, `;qu="`...), unit...), '"')
		}
		if part := float64(left) / float64(quota); part < share {
			share = part
			least = `"` + name + suffix + `";r=` + strconv.FormatInt(left, 10) + ";t=" + strconv.FormatInt(reset, 10)
		}
	}
	for i := range t.bounds {
		b, u := &t.bounds[i], &t.verdict.Used[i]
		l := &b.limit
		if l.Every > 0 {
			burst := int64(l.Burst)
			tell(b.scope, "", burst, burst-int64(u.Left), seconds(l.Every*time.Duration(burst)), seconds(u.Full), "")
		}
		tell(b.scope, "-day", l.Day.Requests, u.Day.Requests, 86400, seconds(day.Sub(now)), "")
		tell(b.scope, "-day-rows", l.Day.Rows, u.Day.Rows, 86400, seconds(day.Sub(now)), "rows")
		tell(b.scope, "-month", l.Month.Requests, u.Month.Requests, 30*86400, seconds(month.Sub(now)), "")
		tell(b.scope, "-month-rows", l.Month.Rows, u.Month.Rows, 30*86400, seconds(month.Sub(now)), "rows")
	}
	h["Ratelimit-Policy"] = []string{string(policies)}
	h["Ratelimit"] = []string{least}
}

var localHeader = []string{"local"}

// seconds rounds up: who comes then must not be early.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

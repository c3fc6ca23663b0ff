package redisstore

import (
	"context"
	"net/url"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Meter = (*Meter)(nil)

// Meter is a store.Meter in Redis: one small string for each key, which goes by itself once it has nothing left to remember, and one
// script for each call. Rates are metered by the generic cell rate algorithm, of which all that is kept is when a whole burst may come again.
type Meter struct {
	client *redis.Client
	prefix string
}

// OpenMeter prepares a client, as OpenKV does. A command is sent once: a request that was taken and not answered for
// must not be taken twice.
func OpenMeter(_ context.Context, u *url.URL) (store.Meter, error) {
	once := *u
	q := once.Query()
	q.Set("max_retries", "-1")
	once.RawQuery = q.Encode()
	client, prefix, err := open(&once)
	if err != nil {
		return nil, err
	}
	return &Meter{client: client, prefix: prefix + "limit/"}, nil
}

// take has for each key six arguments, behind the numbers of the day and the month, the milliseconds until they end, and how many requests are wanted ahead: µs between requests,
// burst, and the quotas. Its answer has why, which and how long, how many were taken ahead, and for each key what is left and used.
var take = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local day, month, dayEnds, monthEnds = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local ahead, of = tonumber(ARGV[5]), tonumber(ARGV[6])
local why, refused, after = 0, 0, 0
local states, n = {}, 7
for i, key in ipairs(KEYS) do
	local every, burst = tonumber(ARGV[n]), tonumber(ARGV[n+1])
	local dayq, dayr, monthq, monthr = tonumber(ARGV[n+2]), tonumber(ARGV[n+3]), tonumber(ARGV[n+4]), tonumber(ARGV[n+5])
	n = n + 6
	local full, d, dq, dr, m, mq, mr = 0, 0, 0, 0, 0, 0, 0
	local had = redis.call('GET', key)
	if had then full, d, dq, dr, m, mq, mr = cmsgpack.unpack(had) end
	if full < now then full = now end
	if d < day then d, dq, dr = day, 0, 0 end
	if m < month then m, mq, mr = month, 0, 0 end
	if why == 0 then
		local late = full + every - now - burst * every
		if every > 0 and late > 0 then
			why, after = 1, late
		elseif dayq > 0 and dq >= dayq or dayr > 0 and dr >= dayr then
			why, after = 2, dayEnds * 1000
		elseif monthq > 0 and mq >= monthq or monthr > 0 and mr >= monthr then
			why, after = 3, monthEnds * 1000
		end
		if why > 0 then refused = i - 1 end
		if ahead > 0 then
			if every > 0 then ahead = math.min(ahead, math.floor(-late / every / of)) end
			if dayq > 0 then ahead = math.min(ahead, math.floor((dayq - dq - 1) / of)) end
			if monthq > 0 then ahead = math.min(ahead, math.floor((monthq - mq - 1) / of)) end
			if ahead < 0 then ahead = 0 end
		end
	end
	local life = 0
	if dayq + dayr > 0 then life = dayEnds end
	if monthq + monthr > 0 then life = monthEnds end
	states[i] = {every, burst, life, full, d, dq, dr, m, mq, mr}
end
if why > 0 then ahead = 0 end
local out = {why, refused, after, ahead}
for i, key in ipairs(KEYS) do
	local every, burst, life, full, d, dq, dr, m, mq, mr = unpack(states[i])
	if why == 0 then
		full = full + every * (1 + ahead)
		if life > 0 then dq, mq = dq + 1 + ahead, mq + 1 + ahead end
		life = math.max(life, math.ceil((full - now) / 1000))
		if life > 0 then redis.call('SET', key, cmsgpack.pack(full, d, dq, dr, m, mq, mr), 'PX', life) end
	end
	local left = 0
	full = full - now
	if every > 0 then left = math.max(0, math.floor((burst * every - full) / every)) end
	for _, v in ipairs({left, full, dq, dr, mq, mr}) do out[#out+1] = v end
end
return out`)

// Take takes requests.
func (m *Meter) Take(ctx context.Context, now time.Time, limits []store.Limit, ahead int) (store.Verdict, error) {
	if err := ctx.Err(); err != nil {
		return store.Verdict{}, err
	}
	if len(limits) == 0 {
		return store.Verdict{}, nil
	}
	keys, args := make([]string, len(limits)), make([]any, 0, 6+6*len(limits))
	args = append(appendDays(args, now), max(ahead, 0), store.AheadOf)
	for i := range limits {
		l := &limits[i]
		keys[i] = m.prefix + l.Key
		args = append(args, l.Every.Microseconds(), l.Burst, l.Day.Requests, l.Day.Rows, l.Month.Requests, l.Month.Rows)
	}
	got, err := take.Run(ctx, m.client, keys, args...).Int64Slice()
	if err != nil {
		return store.Verdict{}, redisFault(ctx, err)
	}
	if len(got) != 4+6*len(limits) {
		return store.Verdict{}, fault.New(fault.Internal, "Redis answered with %d numbers for %d limits", len(got), len(limits))
	}
	v := store.Verdict{Why: store.Why(got[0]), Refused: int(got[1]), After: time.Duration(got[2]) * time.Microsecond, Used: make([]store.Used, len(limits)), Ahead: int(got[3])}
	for i := range limits {
		u := got[4+6*i:]
		v.Used[i] = store.Used{
			Left: int(u[0]), Full: time.Duration(u[1]) * time.Microsecond,
			Day: store.Amount{Requests: u[2], Rows: u[3]}, Month: store.Amount{Requests: u[4], Rows: u[5]},
		}
	}
	return v, nil
}

func appendDays(args []any, now time.Time) []any {
	day, month, dayEnds, monthEnds := store.Days(now)
	return append(args, day, month, dayEnds.Sub(now).Milliseconds()+1, monthEnds.Sub(now).Milliseconds()+1)
}

// add has for each key two arguments behind those of the time: requests and rows.
var add = redis.NewScript(`
local day, month, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
for i, key in ipairs(KEYS) do
	local requests, rows = tonumber(ARGV[3 + 2*i]), tonumber(ARGV[4 + 2*i])
	local full, d, dq, dr, m, mq, mr = 0, 0, 0, 0, 0, 0, 0
	local had = redis.call('GET', key)
	if had then full, d, dq, dr, m, mq, mr = cmsgpack.unpack(had) end
	if d < day then d, dq, dr = day, 0, 0 end
	if m < month then m, mq, mr = month, 0, 0 end
	redis.call('SET', key, cmsgpack.pack(full, d, math.max(0, dq + requests), dr + rows, m, math.max(0, mq + requests), mr + rows), 'PX', life)
end
return #KEYS`)

// Add adds to what was used.
func (m *Meter) Add(ctx context.Context, now time.Time, charges []store.Charge) error {
	if err := ctx.Err(); err != nil || len(charges) == 0 {
		return err
	}
	keys, args := make([]string, len(charges)), make([]any, 0, 4+2*len(charges))
	args = appendDays(args, now)
	for i, c := range charges {
		keys[i] = m.prefix + c.Key
		args = append(args, c.Requests, c.Rows)
	}
	if err := add.Run(ctx, m.client, keys, args...).Err(); err != nil {
		return redisFault(ctx, err)
	}
	return nil
}

// Close closes the connections.
func (m *Meter) Close() error { return m.client.Close() }

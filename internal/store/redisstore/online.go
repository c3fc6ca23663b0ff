package redisstore

import (
	"context"
	"encoding/binary"
	"net/url"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Online = (*Online)(nil)

// Online is a store.Online in Redis: a string for each row, 16 bytes of its
// stamp (event, created, big-endian) before its value. A read is one MGET; a
// write one script for up to chunk rows, since Redis does nothing else meanwhile.
// It is for one server or its replicas: on Redis Cluster keys of one batch lie on several.
type Online struct {
	client *redis.Client
	prefix string
}

const (
	stampLen = 16
	chunk    = 500
)

// OpenOnline prepares a client, as OpenKV does.
func OpenOnline(_ context.Context, u *url.URL) (store.Online, error) {
	client, prefix, err := open(u)
	if err != nil {
		return nil, err
	}
	return &Online{client: client, prefix: prefix}, nil
}

// Read gives rows.
func (o *Online) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return dst, err
	}
	full := keys
	if o.prefix != "" {
		full = make([]string, len(keys))
		for i, key := range keys {
			full[i] = o.prefix + key
		}
	}
	values, err := o.client.MGet(ctx, full...).Result()
	if err != nil {
		return dst, redisFault(ctx, err)
	}
	for i, v := range values {
		r := store.OnlineRow{Key: keys[i]}
		if raw, ok := v.(string); ok { // nil for what is gone or no string
			if len(raw) < stampLen {
				return dst, fault.New(fault.Internal, "key %.100q holds what is not a row", full[i])
			}
			r.Stamp, r.Value = readStamp(raw), []byte(raw[stampLen:])
		}
		dst = append(dst, r)
	}
	return dst, nil
}

func readStamp(raw string) store.Stamp {
	b := []byte(raw[:stampLen])
	return store.Stamp{Event: int64(binary.BigEndian.Uint64(b)), Created: int64(binary.BigEndian.Uint64(b[8:]))}
}

func appendStamp(dst []byte, s store.Stamp) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Event))
	return binary.BigEndian.AppendUint64(dst, uint64(s.Created))
}

// Both scripts take, for each key, a row and its time to live in milliseconds (0:
// for ever), the second one also the stamp that must be there (empty: no row).
// They answer with a string of 1 for each row that was put and 0 for each that was not.
var (
	writeRows = redis.NewScript(`
local out = {}
for i, key in ipairs(KEYS) do
	local row, ttl = ARGV[2*i-1], ARGV[2*i]
	local there = redis.call('GETRANGE', key, 0, 15)
	local put = #there < 16
	if not put then
		local e1, c1 = struct.unpack('>i8i8', row)
		local e2, c2 = struct.unpack('>i8i8', there)
		put = e1 > e2 or e1 == e2 and c1 > c2
	end
	if put then
		if ttl == '0' then redis.call('SET', key, row) else redis.call('SET', key, row, 'PX', ttl) end
	end
	out[i] = put and '1' or '0'
end
return table.concat(out)`)

	replaceRows = redis.NewScript(`
local out = {}
for i, key in ipairs(KEYS) do
	local row, ttl, was = ARGV[3*i-2], ARGV[3*i-1], ARGV[3*i]
	local there = redis.call('GETRANGE', key, 0, 15)
	local put = there == was
	if put then
		if ttl == '0' then redis.call('SET', key, row) else redis.call('SET', key, row, 'PX', ttl) end
	elseif there == string.sub(row, 1, 16) then
		put = redis.call('GET', key) == row
	end
	out[i] = put and '1' or '0'
end
return table.concat(out)`)
)

// Write puts rows that are newer.
func (o *Online) Write(ctx context.Context, rows []store.OnlineRow) ([]bool, error) {
	return o.put(ctx, writeRows, rows, nil)
}

// Replace puts rows in the place of known ones.
func (o *Online) Replace(ctx context.Context, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	return o.put(ctx, replaceRows, rows, was)
}

func (o *Online) put(ctx context.Context, script *redis.Script, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i := range rows {
		if err := rows[i].Check(); err != nil {
			return nil, err
		}
	}
	stored := make([]bool, 0, len(rows))
	for len(rows) > 0 {
		n := min(chunk, len(rows))
		keys, args := make([]string, n), make([]any, 0, 3*n)
		for i := range rows[:n] {
			r := &rows[i]
			keys[i] = o.prefix + r.Key
			raw := append(appendStamp(make([]byte, 0, stampLen+len(r.Value)), r.Stamp), r.Value...)
			ttl := int64(0)
			if r.TTL > 0 {
				ttl = max(r.TTL, time.Millisecond).Milliseconds()
			}
			args = append(args, raw, ttl)
			if was != nil {
				var there []byte
				if was[i] != (store.Stamp{}) {
					there = appendStamp(nil, was[i])
				}
				args = append(args, there)
			}
		}
		out, err := script.Run(ctx, o.client, keys, args...).Text()
		if err != nil {
			return nil, redisFault(ctx, err)
		}
		if len(out) != n {
			return nil, fault.New(fault.Internal, "a script of %d rows answered with %d", n, len(out))
		}
		for i := range out {
			stored = append(stored, out[i] == '1')
		}
		rows = rows[n:]
		if was != nil {
			was = was[n:]
		}
	}
	return stored, nil
}

// Delete removes rows.
func (o *Online) Delete(ctx context.Context, keys []string) error {
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return err
	}
	full := make([]string, len(keys))
	for i, key := range keys {
		full[i] = o.prefix + key
	}
	if err := o.client.Unlink(ctx, full...).Err(); err != nil {
		return redisFault(ctx, err)
	}
	return nil
}

// Close closes the connections.
func (o *Online) Close() error { return o.client.Close() }

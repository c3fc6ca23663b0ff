package redisstore

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Online = (*Online)(nil)

// Online is a store.Online in Redis: a string for each row, which is its stamp
// (event, created), a mark and its value. The mark is random and made anew for
// each row of a Write or Replace: by it a command that the client repeats after
// a broken connection knows what it has done already, and equal rows of rivals
// are told apart.
//
// A read is one MGET; a write is one script for each chunk of its rows, as Redis
// does nothing else meanwhile. It is for one server and its replicas: on Redis
// Cluster the keys of a batch would lie on several.
//
// What is no row makes Write, Replace and Read fail as Internal, but for one
// thing that costs nothing to overlook: to Read a key of another type is missing.
type Online struct {
	client *redis.Client
	prefix string
	url    url.URL
}

const (
	markAt  = 16 // behind the stamp
	valueAt = 24 // behind the mark
)

// The most that one command takes: about a millisecond of Redis's time.
const (
	readKeys   = 4096
	writeRows  = 500
	writeBytes = 1 << 20
)

// OpenOnline prepares a client, as OpenKV does.
func OpenOnline(_ context.Context, u *url.URL) (store.Online, error) {
	client, prefix, err := open(u)
	if err != nil {
		return nil, err
	}
	return &Online{client: client, prefix: prefix, url: *u}, nil
}

// Read gives rows.
func (o *Online) Read(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	return o.readBy(ctx, o.read, keys, dst)
}

// ReadTTL gives rows and how long they live.
func (o *Online) ReadTTL(ctx context.Context, keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	return o.readBy(ctx, o.readTTL, keys, dst)
}

func (o *Online) readBy(ctx context.Context, read func(context.Context, []string, []store.OnlineRow) ([]store.OnlineRow, error), keys []string, dst []store.OnlineRow) ([]store.OnlineRow, error) {
	if err := ctx.Err(); err != nil {
		return dst, err
	}
	if err := store.CheckOnlineKeys(keys); err != nil {
		return dst, err
	}
	rows := slices.Grow(dst, len(keys))
	for some := range slices.Chunk(keys, readKeys) {
		var err error
		if rows, err = read(ctx, some, rows); err != nil {
			return dst, err
		}
	}
	return rows, nil
}

func (o *Online) read(ctx context.Context, keys []string, rows []store.OnlineRow) ([]store.OnlineRow, error) {
	cmd := mget(ctx, prefixed(o.prefix, keys))
	if err := o.client.Process(ctx, cmd); err != nil {
		return nil, redisFault(ctx, err)
	}
	return appendRows(rows, keys, cmd.Val())
}

func mget(ctx context.Context, keys []string) *redis.SliceCmd {
	return redis.NewSliceCmd(ctx, appendPointers(append(make([]any, 0, 1+len(keys)), "mget"), keys)...)
}

// appendRows adds the rows of keys that were found.
func appendRows(rows []store.OnlineRow, keys []string, found []any) ([]store.OnlineRow, error) {
	if len(found) != len(keys) {
		return nil, fault.New(fault.Internal, "Redis answered for %d keys, not for the %d that were read", len(found), len(keys))
	}
	values := make([]byte, 0, size(found)) // one piece of memory for all
	for i, key := range keys {
		row := store.OnlineRow{Key: key}
		if raw, ok := found[i].(string); ok { // nil for what is missing or no string
			if len(raw) < valueAt {
				return nil, foreign(key)
			}
			row.Stamp = store.Stamp{Event: int64At(raw, 0), Created: int64At(raw, 8)}
			if row.Check() != nil {
				return nil, foreign(key)
			}
			values, row.Value = appendValue(values, raw[valueAt:])
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func int64At(raw string, at int) (n int64) {
	for i := range 8 {
		n = n<<8 | int64(raw[at+i])
	}
	return n
}

// size is that of all strings in an answer.
func size(answer []any) (n int) {
	for _, v := range answer {
		s, _ := v.(string)
		n += len(s)
	}
	return n
}

// appendValue appends value to those that lie in all, and gives it there.
func appendValue(all []byte, value string) (_, there []byte) {
	start := len(all)
	all = append(all, value...)
	return all, all[start:len(all):len(all)]
}

// prefixed gives the keys as Redis knows them, in two allocations at most.
func prefixed(prefix string, keys []string) []string {
	if prefix == "" {
		return keys
	}
	size := len(prefix) * len(keys)
	for _, key := range keys {
		size += len(key)
	}
	c := cutter{pieces: make([]string, 0, len(keys))}
	c.text.Grow(size)
	for _, key := range keys {
		c.text.WriteString(prefix)
		c.text.WriteString(key)
		c.cut()
	}
	return c.pieces
}

// cutter makes many strings out of one piece of memory.
type cutter struct {
	text   strings.Builder
	start  int
	pieces []string
}

// cut makes a piece of what was written to text since the last one.
func (c *cutter) cut() {
	c.pieces = append(c.pieces, c.text.String()[c.start:])
	c.start = c.text.Len()
}

// appendPointers appends pointers to texts: the client writes what they point
// to, and unlike a string a pointer becomes an argument without an allocation.
func appendPointers(args []any, texts []string) []any {
	for i := range texts {
		args = append(args, &texts[i])
	}
	return args
}

// script is one in Redis's Lua, and the name that Redis gives it.
type script struct{ text, hash string }

func newScript(text string) script { return script{text, redis.NewScript(text).Hash()} }

// Both scripts take for each key a row, its time to live in milliseconds (0: for
// ever) and the stamp that must be there (empty: no row), which only replacing
// looks at. They answer with a letter for each row: 1 if it was put, 0 if not,
// x if what is there is no row.
var (
	writing   = newScript(putting + `return put(after)`)
	replacing = newScript(putting + `return put(function(row, is, was) return string.sub(is, 1, 16) == was end)`)
)

const putting = `
local limit = 2^53
local function greater(a, b) -- by bytes, which Lua's > is not
	if a == b then return false end
	for i = 1, math.min(#a, #b) do
		local x, y = string.byte(a, i), string.byte(b, i)
		if x ~= y then return x > y end
	end
	return #a > #b
end
local function after(row, is, _, key)
	if is == '' then return true end
	local e, c = struct.unpack('>i8i8', is)
	if e >= limit or e <= -limit or c >= limit or c <= -limit then return nil end
	local event, created = struct.unpack('>i8i8', row)
	if event ~= e then return event > e end
	if created ~= c then return created > c end
	return greater(string.sub(row, 25), redis.call('GETRANGE', key, 24, -1))
end
local function put(may)
	local out = {}
	for i, key in ipairs(KEYS) do
		local row, ttl, was = ARGV[3*i-2], ARGV[3*i-1], ARGV[3*i]
		local is = redis.pcall('GETRANGE', key, 0, 23)
		local done
		if type(is) == 'string' and (is == '' or #is == 24) then done = may(row, is, was, key) end
		if done then
			if ttl == '0' then redis.call('SET', key, row) else redis.call('SET', key, row, 'PX', ttl) end
		elseif done == false then
			done = is == string.sub(row, 1, 24)
		end
		out[i] = done and '1' or done == false and '0' or 'x'
	end
	return table.concat(out)
end
`

// Write puts rows that are newer.
func (o *Online) Write(ctx context.Context, rows []store.OnlineRow) ([]bool, error) {
	if err := store.CheckWrite(rows); err != nil {
		return nil, err
	}
	return o.put(ctx, writing, rows, nil)
}

// Replace puts rows in the place of known ones.
func (o *Online) Replace(ctx context.Context, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	if err := store.CheckReplace(rows, was); err != nil {
		return nil, err
	}
	return o.put(ctx, replacing, rows, was)
}

// put runs a script over rows; was is nil for one that does not look at it.
func (o *Online) put(ctx context.Context, s script, rows []store.OnlineRow, was []store.Stamp) ([]bool, error) {
	stored := make([]bool, 0, len(rows))
	bad := -1 // the first row whose key holds what is none
	for len(stored) < len(rows) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		first := len(stored)
		n := o.chunk(rows[first:])
		var replaced []store.Stamp
		if was != nil {
			replaced = was[first : first+n]
		}
		out, err := o.run(ctx, s, o.arguments(rows[first:first+n], replaced))
		if err != nil {
			return nil, redisFault(ctx, err)
		}
		if len(out) != n {
			return nil, fault.New(fault.Internal, "Redis answered for %d rows, not for the %d that were written", len(out), n)
		}
		for i := range out {
			stored = append(stored, out[i] == '1')
			if out[i] == 'x' && bad < 0 {
				bad = first + i
			}
		}
	}
	if bad >= 0 {
		return nil, foreign(rows[bad].Key)
	}
	return stored, nil
}

// chunk is how many of rows go into the next command.
func (o *Online) chunk(rows []store.OnlineRow) int {
	size := 0
	for i := range rows {
		if size += len(rows[i].Value); i == writeRows || i > 0 && size > writeBytes {
			return i
		}
	}
	return len(rows)
}

// arguments gives those of EVAL for rows, the first two of which run sets.
func (o *Online) arguments(rows []store.OnlineRow, was []store.Stamp) []any {
	const each = 4 // key, row, time to live, stamp that was
	size := 0
	for i := range rows {
		size += len(o.prefix) + len(rows[i].Key) + valueAt + len(rows[i].Value) + 20 + markAt
	}
	c := cutter{pieces: make([]string, 0, each*len(rows))}
	c.text.Grow(size)
	var head [valueAt]byte
	mark := rand.Uint64()
	for i := range rows {
		r := &rows[i]
		c.text.WriteString(o.prefix)
		c.text.WriteString(r.Key)
		c.cut()
		c.text.Write(binary.BigEndian.AppendUint64(appendStamp(head[:0], r.Stamp), mark+uint64(i)))
		c.text.Write(r.Value)
		c.cut()
		ttl := r.TTL.Milliseconds()
		if r.TTL > 0 {
			ttl = max(ttl, 1) // less would mean for ever
		}
		c.text.Write(strconv.AppendInt(head[:0], ttl, 10))
		c.cut()
		if was != nil && was[i] != (store.Stamp{}) {
			c.text.Write(appendStamp(head[:0], was[i]))
		}
		c.cut()
	}
	args := append(make([]any, 0, 3+len(c.pieces)), nil, nil, len(rows))
	for i := range rows {
		args = append(args, &c.pieces[each*i])
	}
	for i := range rows {
		args = appendPointers(args, c.pieces[each*i+1:each*(i+1)])
	}
	return args
}

// run runs a script by its name, and sends its text where Redis does not know it (any more).
func (o *Online) run(ctx context.Context, s script, args []any) (string, error) {
	args[0], args[1] = "evalsha", s.hash
	out, err := o.do(ctx, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		args[0], args[1] = "eval", s.text
		out, err = o.do(ctx, args)
	}
	return out, err
}

func (o *Online) do(ctx context.Context, args []any) (string, error) {
	cmd := redis.NewCmd(ctx, args...)
	if err := o.client.Process(ctx, cmd); err != nil {
		return "", err
	}
	return cmd.Text()
}

func appendStamp(dst []byte, s store.Stamp) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Event))
	return binary.BigEndian.AppendUint64(dst, uint64(s.Created))
}

// Delete removes rows.
func (o *Online) Delete(ctx context.Context, keys []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckOnlineKeys(keys); err != nil {
		return err
	}
	for some := range slices.Chunk(keys, readKeys) {
		if err := o.client.Unlink(ctx, prefixed(o.prefix, some)...).Err(); err != nil {
			return redisFault(ctx, err)
		}
	}
	return nil
}

// Close closes the connections.
func (o *Online) Close() error { return o.client.Close() }

func foreign(key string) error {
	return fault.New(fault.Internal, "key %.100q holds what is not a row", key)
}

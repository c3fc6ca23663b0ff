// Package redisstore keeps items in Redis (6 or later), or in anything that
// speaks its protocol.
//
// An item is one string: 16 random bytes that are its version, then the value.
// So a plain Get is one GET and a plain Put one SET; conditions are checked in
// scripts that touch one key each. Whoever makes a version knows it again, so a
// command that the client repeats after a broken connection is never taken for
// somebody else's. Items are as durable as the server is set up to be; this
// package promises no more than that the server has acknowledged them.
//
// Redis itself need not be there when a store is opened, and may go and come
// back: calls in between are Unavailable, soon.
package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"iter"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.KV = (*KV)(nil)

// KV is a store.KV in Redis.
type KV struct {
	client *redis.Client
	prefix string
}

const versionLen = 16

// scanStep is how many keys one round of Scan asks for.
const scanStep = 500

// OpenKV prepares a client; it does not connect. Beside what redis.ParseURL
// knows (redis://user:password@host:port/db?pool_size=50, rediss:// for TLS), the
// URL's query may hold prefix=, which all keys in Redis then begin with.
func OpenKV(_ context.Context, u *url.URL) (store.KV, error) {
	client, prefix, err := open(u)
	if err != nil {
		return nil, err
	}
	return &KV{client: client, prefix: prefix}, nil
}

func open(u *url.URL) (client *redis.Client, prefix string, err error) {
	o, prefix, err := options(u)
	if err != nil {
		return nil, "", err
	}
	return redis.NewClient(o), prefix, nil
}

func options(u *url.URL) (o *redis.Options, prefix string, err error) {
	q := u.Query()
	prefix = q.Get("prefix")
	q.Del("prefix")
	plain := *u
	plain.RawQuery = q.Encode()
	o, err = redis.ParseURL(plain.String())
	if err != nil {
		return nil, "", fault.Wrap(fault.Invalid, err, "store URL %q is not one for Redis", u.Redacted())
	}
	// A cache that is away must cost its callers little, so these are shorter than
	// the client's own. What the URL says comes first.
	setDefault(&o.DialTimeout, time.Second)
	setDefault(&o.ReadTimeout, 2*time.Second)
	setDefault(&o.MaxRetries, 2)
	setDefault(&o.MaxRetryBackoff, 100*time.Millisecond)
	setDefault(&o.Protocol, 2) // nothing here needs 3, which costs a look for pushed messages with each command
	o.DialerRetries = 1
	o.ContextTimeoutEnabled = true
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	logging.Disable() // it would write to stderr what every caller is told anyway
	return o, prefix, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var _ store.Shared = (*KV)(nil)

// Shared is true: all that reach the Redis share it, and its maxmemory is its bound.
func (k *KV) Shared() bool { return true }

// Get reads one item.
func (k *KV) Get(ctx context.Context, key string) (store.Item, error) {
	if err := check(ctx, key); err != nil {
		return store.Item{}, err
	}
	raw, err := k.client.Get(ctx, k.prefix+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return store.Item{}, fault.New(fault.NotFound, "key %q does not exist", key)
	}
	if err != nil {
		return store.Item{}, redisFault(ctx, err)
	}
	i, ok := decode(key, raw)
	if !ok {
		return store.Item{}, fault.New(fault.Internal, "key %q holds what is not an item", key)
	}
	return i, nil
}

// putIf puts ARGV[2] with a ttl of ARGV[3] milliseconds, if the key has version
// ARGV[1], or does not exist where that is empty. It finds what it wanted also
// when it comes a second time.
var putIf = redis.NewScript(`
local version = redis.call('GETRANGE', KEYS[1], 0, 15)
if version == string.sub(ARGV[2], 1, 16) then return 1 end
if version ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
	redis.call('SET', KEYS[1], ARGV[2])
else
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1`)

// Put writes one item.
func (k *KV) Put(ctx context.Context, key string, value []byte, ttl time.Duration, c store.Condition) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	if ttl < 0 {
		return "", fault.New(fault.Invalid, "key %q: a time to live is not negative", key)
	}
	if ttl > 0 {
		ttl = max(ttl, time.Millisecond) // less would mean for ever
	}
	raw := make([]byte, versionLen, versionLen+len(value))
	_, _ = rand.Read(raw) // never fails
	version := hex.EncodeToString(raw)
	raw = append(raw, value...)

	if c.Always() {
		if err := k.client.Set(ctx, k.prefix+key, raw, ttl).Err(); err != nil {
			return "", redisFault(ctx, err)
		}
		return version, nil
	}
	held, err := putIf.Run(ctx, k.client, []string{k.prefix + key}, rawVersion(c), raw, ttl.Milliseconds()).Bool()
	if err != nil {
		return "", redisFault(ctx, err)
	}
	if !held {
		return "", conflict(key)
	}
	return version, nil
}

// deleteIf deletes the key if it has version ARGV[1].
const deleteIf = `
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1`

// Delete removes one item.
func (k *KV) Delete(ctx context.Context, key string, c store.Condition) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	if c.Always() {
		if err := k.client.Unlink(ctx, k.prefix+key).Err(); err != nil {
			return redisFault(ctx, err)
		}
		return nil
	}
	cmd := once{redis.NewCmd(ctx, "EVAL", deleteIf, 1, k.prefix+key, rawVersion(c))}
	if err := k.client.Process(ctx, cmd); err != nil {
		return redisFault(ctx, err)
	}
	if held, err := cmd.Bool(); err != nil || !held {
		return conflict(key)
	}
	return nil
}

// once is a command that the client must not repeat by itself: a delete that
// was done leaves nothing by which a second one could know it.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

// Scan visits the items. It remembers the keys that it has seen, for Redis may
// show one more than once.
func (k *KV) Scan(ctx context.Context, prefix string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		seen := map[string]bool{}
		pattern := globEscape.Replace(k.prefix+prefix) + "*"
		for cursor := uint64(0); ; {
			if err := ctx.Err(); err != nil {
				yield(store.Item{}, err)
				return
			}
			keys, next, err := k.client.Scan(ctx, cursor, pattern, scanStep).Result()
			if err != nil {
				yield(store.Item{}, redisFault(ctx, err))
				return
			}
			keys = unseen(keys, seen)
			page, err := k.read(ctx, keys)
			if err != nil {
				yield(store.Item{}, err)
				return
			}
			for _, i := range page {
				if err := ctx.Err(); err != nil {
					yield(store.Item{}, err)
					return
				}
				if !yield(i, nil) {
					return
				}
			}
			if cursor = next; cursor == 0 {
				return
			}
		}
	}
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// unseen gives those keys that are new, and marks them as seen.
func unseen(keys []string, seen map[string]bool) []string {
	fresh := keys[:0]
	for _, key := range keys {
		if !seen[key] {
			seen[key] = true
			fresh = append(fresh, key)
		}
	}
	return fresh
}

// read gives the items under those keys of Redis that still are some.
func (k *KV) read(ctx context.Context, keys []string) ([]store.Item, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	values, err := k.client.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, redisFault(ctx, err)
	}
	found := make([]store.Item, 0, len(values))
	for n, v := range values {
		raw, _ := v.(string) // nil for what is gone or no string
		if i, ok := decode(strings.TrimPrefix(keys[n], k.prefix), []byte(raw)); ok {
			found = append(found, i)
		}
	}
	return found, nil
}

// Close closes the connections.
func (k *KV) Close() error { return k.client.Close() }

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return store.CheckKey(key)
}

func decode(key string, raw []byte) (store.Item, bool) {
	if len(raw) < versionLen {
		return store.Item{}, false
	}
	return store.Item{Key: key, Value: raw[versionLen:], Version: hex.EncodeToString(raw[:versionLen])}, true
}

// rawVersion is what the first bytes of a key must be for c to hold. A version
// that is none of ours gives what is never there.
func rawVersion(c store.Condition) []byte {
	if c.Absent() {
		return nil
	}
	raw, err := hex.DecodeString(c.Version())
	if err != nil || len(raw) != versionLen {
		return []byte("no such version")
	}
	return raw
}

func conflict(key string) error {
	return fault.New(fault.Conflict, "key %q is not in the state that was asked for", key)
}

// redisFault gives a kind to what the client says. Whether the server can't be
// reached, or answers that it can't serve now, is the same to callers.
func redisFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Wrap(fault.Unavailable, err, "Redis cannot be used")
}

package redisstore

import (
	"context"
	"net/url"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Hashes = (*Hashes)(nil)

// Hashes is a store.Hashes in Redis: one HMGET for each key, all of them sent
// before the first answer is waited for. Unlike rows, the hashes of a call are
// not all read at one moment.
type Hashes struct {
	client *redis.Client
	prefix string
}

// OpenHashes prepares a client, as OpenKV does.
func OpenHashes(_ context.Context, u *url.URL) (store.Hashes, error) {
	client, prefix, err := open(u)
	if err != nil {
		return nil, err
	}
	return &Hashes{client: client, prefix: prefix}, nil
}

// Read gives fields of hashes.
func (h *Hashes) Read(ctx context.Context, keys []string, fields [][]string) ([][][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(fields) != len(keys) {
		return nil, fault.New(fault.Invalid, "%d keys come with the fields of %d", len(keys), len(fields))
	}
	total := 0
	for _, f := range fields {
		total += len(f)
	}
	args := make([]any, 0, 2*len(keys)+total)
	cmds := make([]*redis.RawCmd, len(keys))
	pipe := h.client.Pipeline()
	full := prefixed(h.prefix, keys)
	for i := range keys {
		if len(fields[i]) == 0 {
			continue // HMGET wants one at least
		}
		first := len(args)
		args = appendPointers(append(args, "hmget", &full[i]), fields[i])
		cmds[i] = redis.NewRawCmd(ctx, args[first:]...)
		_ = pipe.Process(ctx, cmds[i]) // only queues it
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisFault(ctx, err)
	}
	values, flat := make([][][]byte, len(keys)), make([][]byte, total)
	for i := range keys {
		values[i], flat = flat[:len(fields[i]):len(fields[i])], flat[len(fields[i]):]
		if cmds[i] == nil {
			continue
		}
		if err := readHash(cmds[i].Val(), values[i]); wrongType(err) {
			return nil, fault.Wrap(fault.Internal, err, "key %.100q holds what is not a hash", keys[i])
		} else if err != nil {
			return nil, err
		}
	}
	return values, nil
}

func readHash(r reply, values [][]byte) error {
	if err := r.array(len(values)); err != nil {
		return err
	}
	for j := range values {
		var err error
		if values[j], err = r.bulk(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the connections.
func (h *Hashes) Close() error { return h.client.Close() }

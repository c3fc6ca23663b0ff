package redisstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Telling = (*Online)(nil)

const (
	// invalidations is the channel by which Redis tells of changed keys.
	invalidations = "__redis__:invalidate"
	// beat is how often Redis is asked for a sign of life while it tells of changes, and silent for how long it may give none.
	beat   = 500 * time.Millisecond
	silent = 2 * time.Second
)

// Watch has Redis tell of changes: client-side caching in broadcasting mode
// (https://redis.io/docs/latest/develop/reference/client-side-caching/), for which Redis keeps no list of
// what was read. One connection asks to be told and is told, so that the end of it is the end of both.
func (o *Online) Watch(ctx context.Context, prefix string, begun func(), changed func([]string)) error {
	opts, base, err := options(&o.url)
	if err != nil {
		return err
	}
	prefix = base + prefix
	opts.Protocol, opts.PoolSize, opts.MaxRetries = 2, 1, -1
	opts.OnConnect = func(ctx context.Context, c *redis.Conn) error {
		id, err := c.ClientID(ctx).Result()
		if err != nil {
			return err
		}
		return c.Process(ctx, redis.NewStatusCmd(ctx, "client", "tracking", "on", "redirect", id, "bcast", "prefix", prefix))
	}
	client := redis.NewClient(opts)
	defer client.Close()
	told := client.Subscribe(ctx, invalidations)
	defer told.Close()
	defer context.AfterFunc(ctx, func() { _ = told.Close() })() // it may be waiting

	var heard atomic.Int64 // when, in nanoseconds since began
	began := time.Now()
	over := make(chan struct{})
	defer close(over)
	go func() {
		beats := time.NewTicker(beat)
		defer beats.Stop()
		for {
			select {
			case <-over:
				return
			case <-beats.C:
				if time.Since(began)-time.Duration(heard.Load()) > silent {
					_ = told.Close() // nothing came of it, and who waits for it is told
					return
				}
				_ = told.Ping(ctx) // if it can't be sent, no answer comes
			}
		}
	}()

	for first := true; ; first = false {
		message, err := told.Receive(ctx)
		if err != nil {
			return redisFault(ctx, err)
		}
		heard.Store(int64(time.Since(began)))
		switch m := message.(type) {
		case *redis.Subscription:
			if !first { // the client has connected anew by itself
				return fault.Wrap(fault.Unavailable, errors.New("the connection broke"), "Redis cannot be used")
			}
			begun()
		case *redis.Message:
			for i, key := range m.PayloadSlice {
				m.PayloadSlice[i] = strings.TrimPrefix(key, base)
			}
			changed(m.PayloadSlice)
		}
	}
}

// readTTL is read, with one command more for each key.
func (o *Online) readTTL(ctx context.Context, keys []string, rows []store.OnlineRow) ([]store.OnlineRow, error) {
	full := prefixed(o.prefix, keys)
	found := mget(ctx, full)
	pipe := o.client.Pipeline()
	_ = pipe.Process(ctx, found) // only queues it
	left := make([]*redis.Cmd, len(keys))
	for i := range full {
		left[i] = redis.NewCmd(ctx, "pttl", &full[i])
		_ = pipe.Process(ctx, left[i])
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisFault(ctx, err)
	}
	first := len(rows)
	rows, err := appendRows(rows, keys, found.Val())
	if err != nil {
		return nil, err
	}
	for i, cmd := range left {
		ms, err := cmd.Int64()
		switch r := &rows[first+i]; {
		case err != nil:
			return nil, redisFault(ctx, err)
		case r.Stamp != store.Stamp{} && ms != -1: // it ends; or, with -2, has ended since it was read
			r.TTL = max(time.Duration(ms)*time.Millisecond, 1)
		}
	}
	return rows, nil
}

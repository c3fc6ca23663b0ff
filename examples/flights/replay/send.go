package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// taker has happenings happen. It may keep some, to send them together with later ones.
type taker interface {
	take(ctx context.Context, h happening) error
	flush(ctx context.Context) error // sends what was kept
}

// replay gives happenings to a taker. With a speed, each waits for its time: the
// first has come when it begins, and the clock goes that many times faster.
func replay(ctx context.Context, all iter.Seq2[happening, error], speed float64, to taker) error {
	var begin time.Time // of the replay
	var first time.Time // of what happens
	for h, err := range all {
		if err != nil {
			return err
		}
		if begin.IsZero() {
			begin, first = time.Now(), h.at
		}
		if speed > 0 {
			due := begin.Add(time.Duration(float64(h.at.Sub(first)) / speed))
			if wait := time.Until(due); wait > 0 {
				// What is due goes before the wait, not after it.
				if err := to.flush(ctx); err != nil {
					return err
				}
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		if err := to.take(ctx, h); err != nil {
			return err
		}
	}
	return to.flush(ctx)
}

// patience is how long a server may refuse a request or not answer.
const patience = 5 * time.Minute

// client keeps a connection for each request that may be under way.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}

// post sends a body until it is accepted, and gives the answer. It tries again what is refused for now, after the pause
// that the server asks for; again tells that it did.
func post(ctx context.Context, to, kind string, body []byte) (answer []byte, again bool, err error) {
	return request(ctx, http.MethodPost, to, kind, body)
}

// request is like post, by any method.
func request(ctx context.Context, method, to, kind string, body []byte) (answer []byte, again bool, err error) {
	attempts := 0
	answer, err = backoff.Retry(ctx, func() ([]byte, error) {
		attempts++
		return attempt(ctx, method, to, kind, body)
	}, backoff.WithBackOff(backoff.NewExponentialBackOff()), backoff.WithMaxElapsedTime(patience))
	return answer, attempts > 1, err
}

// attempt sends a body once. Its error tells backoff.Retry what to do.
func attempt(ctx context.Context, method, to, kind string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, backoff.Permanent(err)
	}
	r.Header.Set("Content-Type", kind)
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	said := bytes.TrimSpace(answer[:min(len(answer), 1<<10)]) // it is only shown
	switch {
	case resp.StatusCode/100 == 2:
		return answer, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, backoff.Permanent(fault.New(fault.NotFound, "%s refuses it with %s: %s", to, resp.Status, said))
	case resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError:
		return nil, backoff.Permanent(fmt.Errorf("%s refuses it with %s: %s", to, resp.Status, said))
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		return nil, backoff.RetryAfter(seconds)
	}
	return nil, fmt.Errorf("%s answers %s: %s", to, resp.Status, said)
}

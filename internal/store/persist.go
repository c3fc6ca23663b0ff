package store

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// An attempt to write that nobody answers any more, as its connection was lost in between, must not hold things up when the backend is
// there again; nor may the pause behind a failed one.
const (
	attemptMost = 30 * time.Second
	pauseMost   = 10 * time.Second
)

// Persist calls put, however long the backend is away, until it succeeds or ctx ends. What can never be taken (Invalid, Denied) is not
// tried again. Before each further attempt failed is called.
func Persist(ctx context.Context, put func(context.Context) error, failed func()) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.MaxInterval = pauseMost
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		attempt, cancel := context.WithTimeout(ctx, attemptMost)
		defer cancel()
		err := put(attempt)
		switch {
		case err == nil:
			return struct{}{}, nil
		case fault.Is(err, fault.Invalid) || fault.Is(err, fault.Denied):
			return struct{}{}, backoff.Permanent(err)
		}
		failed()
		return struct{}{}, err
	}, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(0))
	return err
}

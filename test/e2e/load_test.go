//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// load is a number of clients that ask without a pause and check what they get.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	answers int
	retried int
	lost    []string
}

// run starts clients. With retry they ask once more, after a moment, when the connection broke or a proxy says
// that nothing answered behind it: what is asked has no side effects.
func (s *service) run(t *testing.T, clients, rows int, retry bool) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel}
	for range clients {
		c := client(t, false)
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.one(ctx, s, c, rows, retry)
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) one(ctx context.Context, s *service, c *http.Client, rows int, retry bool) {
	begin := time.Now()
	// Not ctx: what was asked is waited for, also when no more is to be asked.
	whole := context.WithoutCancel(ctx)
	err := s.ask(whole, c, rows)
	retried := 0
	for ; retry && retried < 5 && repeatable(err); retried++ {
		time.Sleep(200 * time.Millisecond << retried)
		err = s.ask(whole, c, rows)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retried += retried
	if err == nil {
		l.answers++
		return
	}
	l.lost = append(l.lost, fmt.Sprintf("%s, after %s: %v", begin.Format("15:04:05.000"), time.Since(begin).Round(time.Millisecond), err))
	if len(l.lost) > 100 {
		l.cancel() // nothing is proved by more
	}
}

// repeatable tells of an error that a client may meet with another try.
func repeatable(err error) bool {
	var r refusal
	if errors.As(err, &r) {
		return r.status == http.StatusBadGateway || r.status == http.StatusServiceUnavailable
	}
	return err != nil
}

// stop ends the clients.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

// nothingLost stops the clients and fails the test if any of them got no answer or a wrong one.
func (l *load) nothingLost(t *testing.T, while string) {
	t.Helper()
	l.stop()
	if l.answers == 0 {
		t.Errorf("%s: nothing was asked", while)
	}
	if len(l.lost) > 0 {
		t.Errorf("%s: %d of %d requests were lost:", while, len(l.lost), l.answers+len(l.lost))
		for _, e := range l.lost[:min(len(l.lost), 5)] {
			t.Error("  " + e)
		}
	}
	t.Logf("%s: %d right answers, %d tried again", while, l.answers, l.retried)
}

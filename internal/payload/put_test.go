package payload

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/memstore"
)

// lossy is a bucket that answers no request that was sent before a moment, not even after it.
type lossy struct {
	store.Blob
	until time.Time
}

func (b *lossy) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if time.Now().Before(b.until) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return b.Blob.Put(ctx, key, body, size, c)
}

// What is never answered is sent again, and soon after the bucket is there again. The whole log can't be tried in a
// bubble, as the encoders of zstd are shared by all tests.
func TestRequestsThatAreNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := memstore.OpenBlob(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		const stall = 5 * time.Minute
		begin := time.Now()
		l := &Log{blob: &lossy{b, begin.Add(stall)}}
		if err := l.put(t.Context(), "key", []byte("data")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < stall || took > stall+time.Minute {
			t.Errorf("got it after %s, want it at most a minute after %s", took, stall)
		}
		if data, _, err := store.ReadAll(t.Context(), b, "key"); err != nil || string(data) != "data" {
			t.Errorf("got %q, %v", data, err)
		}
		if l.counts.retries.Load() < 8 {
			t.Errorf("got %d retries", l.counts.retries.Load())
		}
	})
}

// The end of a process does not wait for such a request.
func TestTheEndWaitsForNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		l := &Log{blob: &lossy{nil, begin.Add(time.Hour)}}
		ctx, cancel := context.WithTimeout(t.Context(), closeMost)
		defer cancel()
		if err := l.put(ctx, "key", []byte("data")); err == nil || time.Since(begin) != closeMost {
			t.Errorf("got %v after %s", err, time.Since(begin))
		}
	})
}

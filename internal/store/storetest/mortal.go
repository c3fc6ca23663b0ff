package storetest

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/pilotlight-ml/pilotlight/internal/store"
)

// ErrKilled is what a Mortal says once it is dead.
var ErrKilled = errors.New("killed")

// Mortal is the bucket of an instance that is killed: so many writes are let through, the last one is made and its answer lost, and
// none works afterwards.
type Mortal struct {
	store.Blob
	left atomic.Int64
}

// NewMortal kills whoever uses a bucket at that write, counted from 1; 0: before the first one.
func NewMortal(b store.Blob, write int) *Mortal {
	m := &Mortal{Blob: b}
	m.left.Store(int64(write))
	return m
}

// Put implements store.Blob.
func (m *Mortal) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	left := m.left.Add(-1)
	if left < 0 {
		return "", ErrKilled
	}
	version, err := m.Blob.Put(ctx, key, body, size, c)
	if left == 0 {
		return "", ErrKilled
	}
	return version, err
}

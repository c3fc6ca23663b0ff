package memstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Blob = (*Blob)(nil)

// Blob is a store.Blob in memory.
type Blob struct {
	mu      sync.Mutex
	objects map[string]object
}

// object is one object; its data is never written to again, only replaced, so
// readers need no lock.
type object struct {
	data     []byte
	version  string
	modified time.Time
}

func (o object) describe(key string) store.Object {
	return store.Object{Key: key, Size: int64(len(o.data)), Version: o.version, Modified: o.modified}
}

// OpenBlob gives a new, empty Blob; of the URL only the scheme (mem:) means something.
func OpenBlob(context.Context, *url.URL) (store.Blob, error) {
	return &Blob{objects: map[string]object{}}, nil
}

// Get opens a range of an object.
func (b *Blob) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	if err := check(ctx, key); err != nil {
		return nil, store.Object{}, err
	}
	if offset < 0 {
		return nil, store.Object{}, fault.New(fault.Invalid, "key %q: an offset is not negative", key)
	}
	b.mu.Lock()
	o, ok := b.objects[key]
	b.mu.Unlock()
	if !ok {
		return nil, store.Object{}, missing(key)
	}
	part := o.data[min(offset, int64(len(o.data))):]
	if length >= 0 {
		part = part[:min(length, int64(len(part)))]
	}
	return io.NopCloser(bytes.NewReader(part)), o.describe(key), nil
}

// Put stores an object.
func (b *Blob) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	end, err := body.Seek(0, io.SeekEnd)
	if err == nil && end == size {
		_, err = body.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", fmt.Errorf("read the body of %q: %w", key, err)
	}
	if end != size {
		return "", fault.New(fault.Invalid, "key %q: the body has %d bytes, not the %d that were announced", key, end, size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(body, data); err != nil {
		return "", fmt.Errorf("read the body of %q: %w", key, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if !c.Holds(b.objects[key].version) {
		return "", conflict(key)
	}
	o := object{data: data, version: newVersion(), modified: time.Now()}
	b.objects[key] = o
	return o.version, nil
}

// List visits the objects as they were when it began.
func (b *Blob) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		var found []store.Object
		b.mu.Lock()
		for key, o := range b.objects {
			if strings.HasPrefix(key, prefix) && key > after {
				found = append(found, o.describe(key))
			}
		}
		b.mu.Unlock()
		slices.SortFunc(found, func(x, y store.Object) int { return strings.Compare(x.Key, y.Key) })
		for _, o := range found {
			if err := ctx.Err(); err != nil {
				yield(store.Object{}, err)
				return
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

// Delete removes an object.
func (b *Blob) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, key)
	return nil
}

// Close forgets everything.
func (b *Blob) Close() error {
	b.objects = nil
	return nil
}

var _ store.Volatile = (*Blob)(nil)

// Volatile tells that it is memory.
func (b *Blob) Volatile() bool { return true }

package s3store_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
	"github.com/pilotlight-ml/pilotlight/internal/store/storetest"
)

func TestBlob(t *testing.T) {
	storetest.Blob(t, func(t *testing.T) store.Blob { return openBlob(t, storetest.S3URL(t)) })
	storetest.SharedBlob(t, func(t *testing.T) (a, b store.Blob) {
		raw := storetest.S3URL(t)
		return openBlob(t, raw), openBlob(t, raw)
	})
}

func openBlob(t testing.TB, raw string) store.Blob {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s3store.OpenBlob(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestOpenRefusesOtherURLs(t *testing.T) {
	for _, raw := range []string{"s3:", "s3:///prefix", "s3://b/../x", "s3://b/a//b", "s3://b?colour=red", "s3://b?path_style=maybe"} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s3store.OpenBlob(t.Context(), u); !fault.Is(err, fault.Invalid) {
			t.Errorf("OpenBlob(%q): got %v, want invalid", raw, err)
		}
	}
}

// With no server there, and no credentials, opening works and is quick.
func TestS3Away(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} {
		t.Setenv(name, "")
	}
	start := time.Now()
	openBlob(t, "s3://bucket?endpoint=http://127.0.0.1:1")
	if took := time.Since(start); took > 200*time.Millisecond {
		t.Errorf("opening took %v", took)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	b := openBlob(t, "s3://bucket?endpoint=http://127.0.0.1:1")
	start = time.Now()
	_, _, err := b.Get(t.Context(), "k", 0, -1)
	if took := time.Since(start); !fault.Is(err, fault.Unavailable) || took > 10*time.Second {
		t.Errorf("Get: got %v after %v, want unavailable soon", err, took)
	}
}

// What lies beside the prefix, or below it under names that are no keys, is not seen.
func TestPrefix(t *testing.T) {
	raw := storetest.S3URL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	outer := openBlob(t, raw)
	inner := openBlob(t, strings.Replace(raw, u.Path, u.Path+"/in/ner/", 1))
	for _, key := range []string{"in/ner-x", "in/ner/k", "other"} {
		if _, err := outer.Put(t.Context(), key, strings.NewReader(key), int64(len(key)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for o, err := range inner.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, o.Key)
	}
	if len(got) != 1 || got[0] != "k" {
		t.Errorf("got %q, want k only", got)
	}
}

// twice is a body of which the second reading, the one that goes over the
// wire, does something on its way.
type twice struct {
	*bytes.Reader
	onTheWire func()
	passes    int
}

func (b *twice) Seek(offset int64, whence int) (int64, error) {
	if offset == 0 && whence == io.SeekStart && b.Len() == 0 {
		b.passes++
	}
	return b.Reader.Seek(offset, whence)
}

func (b *twice) Read(p []byte) (int, error) {
	if b.passes > 1 && b.Len() < int(b.Size())/2 {
		b.onTheWire()
	}
	return b.Reader.Read(p)
}

// Half of an upload leaves nothing, though the server has it.
func TestCutOffUpload(t *testing.T) {
	b := openBlob(t, storetest.S3URL(t))
	ctx, cancel := context.WithCancel(t.Context())
	reached := false
	body := &twice{Reader: bytes.NewReader(make([]byte, 8<<20)), onTheWire: func() { reached = true; cancel() }}
	_, err := b.Put(ctx, "k", body, body.Size(), store.Condition{})
	if !fault.Is(err, fault.Deadline) || !reached {
		t.Fatalf("got %v, reached the wire: %v; want deadline", err, reached)
	}
	time.Sleep(100 * time.Millisecond) // for the server to see the end
	if r, o, err := b.Get(t.Context(), "k", 0, -1); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, %v, want nothing there", o, err)
		_ = r.Close()
	}
}

// When the connection breaks after the server did its work and before it said
// so, the SDK asks again, and the refusal of that must not be taken for another's.
func TestAnswerLost(t *testing.T) {
	raw := storetest.S3URL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	server, err := url.Parse(q.Get("endpoint"))
	if err != nil || server.Host == "" {
		t.Skip("needs a server of its own")
	}
	proxy, cut := storetest.Cutting(t, server.Host)
	q.Set("endpoint", "http://"+proxy)
	u.RawQuery = q.Encode()
	b := openBlob(t, u.String())

	put := func(value string, c store.Condition) string {
		t.Helper()
		cut()
		version, err := b.Put(t.Context(), "k", strings.NewReader(value), int64(len(value)), c)
		if err != nil {
			t.Fatalf("Put: %v", err)
		}
		return version
	}
	first := put("1", store.IfAbsent())
	second := put("2", store.IfVersion(first))
	r, o, err := b.Get(t.Context(), "k", 0, -1)
	if err != nil || o.Version != second {
		t.Fatalf("got %+v, %v, want version %q", o, err, second)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Put(t.Context(), "k", strings.NewReader("3"), 1, store.IfVersion(first)); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}

// A server that accepts and says nothing holds nobody up beyond the caller's deadline.
func TestS3Silent(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	b := openBlob(t, "s3://bucket?endpoint=http://"+l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err = b.Get(ctx, "k", 0, -1)
	if took := time.Since(start); !fault.Is(err, fault.Deadline) || took > time.Second {
		t.Errorf("got %v after %v, want deadline after 100ms", err, took)
	}
}

func BenchmarkOpenBlob(b *testing.B) {
	u := &url.URL{Scheme: "s3", Host: "bucket", RawQuery: "endpoint=http://127.0.0.1:1"}
	for b.Loop() {
		blob, err := s3store.OpenBlob(b.Context(), u)
		if err != nil {
			b.Fatal(err)
		}
		if err := blob.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

const benchSize = 200 << 20

// BenchmarkGet loads one object of 200 MiB in ranges of 8 MiB, so many at a time.
func BenchmarkGet(b *testing.B) {
	blob := openBlob(b, storetest.S3URL(b))
	if _, err := blob.Put(b.Context(), "model", bytes.NewReader(make([]byte, benchSize)), benchSize, store.Condition{}); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, benchSize)
	for _, callers := range []int64{1, 4, 8} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				const part = 8 << 20
				var group sync.WaitGroup
				for c := range callers {
					group.Go(func() {
						for offset := c * part; offset < benchSize; offset += callers * part {
							r, _, err := blob.Get(b.Context(), "model", offset, part)
							if err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(r, buf[offset:min(offset+part, benchSize)]); err != nil {
								b.Error(err)
							}
							if err := r.Close(); err != nil {
								b.Error(err)
							}
						}
					})
				}
				group.Wait()
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	blob := openBlob(b, storetest.S3URL(b))
	for _, size := range []int64{1 << 10, 32 << 20, benchSize} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			body := bytes.NewReader(make([]byte, size))
			b.SetBytes(size)
			for b.Loop() {
				if _, err := blob.Put(b.Context(), "model", body, size, store.Condition{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
